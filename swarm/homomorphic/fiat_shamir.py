"""Challenges that nobody chose: hashes of all that was said before (Fiat & Shamir 1986).

Each proof here is a conversation in which the prover commits itself, is challenged by a random number and answers. With
a hash in the verifier's place it is a string of bytes that anybody can check. Whatever the answer is to depend on has
to be hashed, the purpose and the occasion first: a proof made for one thing must prove nothing about another.

Numbers that weigh many statements into one come from here too: whoever makes the statements cannot know the weights
before all of them are fixed (Bellare, Garay & Rabin 1998, the small-exponents test).
"""

from __future__ import annotations

import hashlib

from swarm import codec

CHALLENGE_BYTES = 16
"""A false proof is accepted with 2**-128 for each that is tried, in groups whose orders have no smaller factor."""

_DOMAIN = "swarm-homomorphic/v1"


def digest(purpose: str, *said: bytes | int) -> bytes:
    """Return the SHA-256 of what was said for a purpose. Byte strings carry their lengths, so nothing runs together."""
    return hashlib.sha256(codec.encode((_DOMAIN, purpose, *said))).digest()


def challenge(purpose: str, *said: bytes | int) -> int:
    """Return the number that answers what was said, below 2**128."""
    return int.from_bytes(digest(purpose, *said)[:CHALLENGE_BYTES], "big")


def weights(purpose: str, seed: bytes, count: int) -> list[int]:
    """Return so many numbers below 2**128 that follow from a digest: SHAKE-256, 16 bytes of it each."""
    stream = hashlib.shake_256(codec.encode((_DOMAIN, purpose, seed))).digest(CHALLENGE_BYTES * count)
    return [int.from_bytes(stream[at : at + CHALLENGE_BYTES], "big") for at in range(0, len(stream), CHALLENGE_BYTES)]
