"""One running process: the pure core and the shells around it."""
