"""Sums of numbers that stay encrypted: Paillier's scheme, keys in shares, and what a round would ask of both."""
