"""SHELL in the worker. Training whose updates are differentially private with respect to a site's records: DP-SGD."""
