"""Dice that every peer throws alike: draws made of SHA-256, the same on any machine and in any version of anything.

Members of a swarm must agree on round r's random graph without asking each other. So the graph is a function of a
shared seed, the round and the membership, and every draw is read off a hash. `random` and numpy promise the same
stream only for the same version; SHA-256 (FIPS 180-4) promises it for good.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TypeVar

DOMAIN = b"swarm-topology/draw/v1\0"
WORD_BYTES = 8
WORDS = hashlib.sha256().digest_size // WORD_BYTES

T = TypeVar("T")


def key(label: str, seed: int, t: int, membership: bytes = b"") -> bytes:
    """The key of one draw, 32 bytes: a PRF of the shared seed, the round `t` and the membership.

    Every field is bounded by its length, so no two different draws share a key. `seed` is any integer.
    """
    fields = (label.encode(), str(seed).encode(), str(t).encode(), membership)
    return hashlib.sha256(DOMAIN + b"".join(len(part).to_bytes(8, "big") + part for part in fields)).digest()


class Draw:
    """A stream of fair draws from one key: SHA-256 in counter mode, read as 64-bit words."""

    __slots__ = ("_counter", "_key", "_words")

    def __init__(self, draw_key: bytes) -> None:
        self._key = draw_key
        self._counter = 0
        self._words: list[int] = []

    def _word(self) -> int:
        if not self._words:
            block = hashlib.sha256(self._key + self._counter.to_bytes(8, "big")).digest()
            self._counter += 1
            self._words = [
                int.from_bytes(block[i * WORD_BYTES : (i + 1) * WORD_BYTES], "big") for i in reversed(range(WORDS))
            ]
        return self._words.pop()

    def below(self, bound: int) -> int:
        """A fair integer from 0 to bound - 1. Words past the last whole multiple of `bound` are thrown again."""
        assert 1 <= bound < 1 << 32, bound
        fair = (1 << 64) - (1 << 64) % bound
        while True:
            word = self._word()
            if word < fair:
                return word % bound

    def shuffled(self, items: Sequence[T]) -> list[T]:
        """The items in a fair random order (Fisher & Yates; Durstenfeld, CACM 7(7), 1964)."""
        order = list(items)
        for i in range(len(order) - 1, 0, -1):
            j = self.below(i + 1)
            order[i], order[j] = order[j], order[i]
        return order

    def sample(self, n: int, count: int) -> list[int]:
        """`count` different integers below n, ascending: Floyd's algorithm (Bentley & Floyd, CACM 30(9), 1987)."""
        chosen: set[int] = set()
        for top in range(n - count, n):
            pick = self.below(top + 1)
            chosen.add(top if pick in chosen else pick)
        return sorted(chosen)
