"""The append-only record of rounds and contributions, and the agreement that orders it."""
