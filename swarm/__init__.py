"""What a swarm agrees on and records: identities, values, the ledger and the learning round.

Everything here is pure. No module of this package reads a clock, a file, a socket or a random source.
"""
