"""SHELL in a process of its own. What a site's updates tell of its records, tried out: attacks, and honest readings."""
