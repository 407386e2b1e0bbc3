"""Who talks to whom, and a simulated world to try it in."""
