"""Sums of updates of which nobody sees a single one: secure aggregation with the ledger in the server's place."""
