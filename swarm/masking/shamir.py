"""Secrets in shares, any `threshold` of which give it back and fewer of which say nothing (Shamir 1979).

A secret is the value at 0 of a polynomial of degree threshold - 1 over the integers modulo the prime 2**255 - 19, whose
other coefficients are random; a share is its value at a point of its own, 1 or more. The prime is large enough for 32
bytes less a bit, small enough for a share to be 32 bytes, and known to everybody who looks after keys.

What is not random here: the points. A holder's is its place in the round's roster, counted from 1, so nothing need be
said about them. Coefficients come in from outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from swarm.errors import Reject

PRIME = 2**255 - 19
SHARE_BYTES = 32
COEFFICIENT_BYTES = 48
"""Of randomness for each coefficient: 129 bits more than the prime has, so that no residue is noticeably likelier."""


def coefficients(randomness: bytes) -> tuple[int, ...]:
    """Return one coefficient for each `COEFFICIENT_BYTES` of randomness."""
    assert len(randomness) % COEFFICIENT_BYTES == 0, "whole coefficients"
    return tuple(
        int.from_bytes(randomness[start : start + COEFFICIENT_BYTES], "big") % PRIME
        for start in range(0, len(randomness), COEFFICIENT_BYTES)
    )


def deal(secret: int, points: Iterable[int], others: Sequence[int]) -> dict[int, int]:
    """Return the share at each of the points. The threshold is one more than there are `others`, the coefficients."""
    polynomial = (secret, *others)
    assert all(0 <= one < PRIME for one in polynomial), "residues"
    shares = {}
    for point in points:
        assert 0 < point < PRIME, "at 0 stands the secret"
        value = 0
        for coefficient in reversed(polynomial):  # Horner
            value = (value * point + coefficient) % PRIME
        shares[point] = value
    return shares


def reconstruct(shares: Mapping[int, int], threshold: int) -> int:
    """Return the secret of which these are shares, by point. What there are beyond `threshold` must agree.

    Raises:
        Reject: there are too few, one is at no point or no residue, or they are not all of one polynomial.
    """
    if len(shares) < threshold:
        raise Reject(f"couldn't put a secret together: {len(shares)} shares, it takes {threshold}")
    if not all(0 < point < PRIME and 0 <= share < PRIME for point, share in shares.items()):
        raise Reject("couldn't put a secret together: a share is out of range")
    points = sorted(shares)
    basis = {point: shares[point] for point in points[:threshold]}
    if any(_value_at(basis, point) != shares[point] for point in points[threshold:]):
        raise Reject("couldn't put a secret together: its shares contradict each other")
    return _value_at(basis, 0)


def _value_at(shares: Mapping[int, int], x: int) -> int:
    """Return the value at x of the polynomial through these points (Lagrange)."""
    total = 0
    for point, share in shares.items():
        above, below = 1, 1
        for other in shares:
            if other != point:
                above = above * (x - other) % PRIME
                below = below * (point - other) % PRIME
        total = (total + share * above * pow(below, -1, PRIME)) % PRIME
    return total


def to_bytes(share: int) -> bytes:
    """Return a residue as it travels."""
    return share.to_bytes(SHARE_BYTES, "big")


def from_bytes(data: bytes) -> int:
    """Return a residue as it was sent. Raises `Reject` if it is none: of two spellings, one is a lie."""
    value = int.from_bytes(data, "big")
    if len(data) != SHARE_BYTES or value >= PRIME:
        raise Reject("couldn't read a share: it is not a residue in 32 bytes")
    return value
