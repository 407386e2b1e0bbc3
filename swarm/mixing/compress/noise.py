"""Reproducible chance: the same key gives the same numbers on every platform and in every version.

The numbers come from Philox4x64-10 (Salmon et al. 2011, "Parallel Random Numbers: As Easy as 1, 2, 3"), a published
function of a key and a counter; numpy has it, and a test holds numpy's to the authors' known answer. Only its raw
64-bit words are used: how numpy's *distributions* turn such words into numbers may change from one version to the next,
so that is done here, with integers. A peer that starts again and encodes again gets the same bytes, and anyone who
knows the key can check a rounding.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

KEY_BYTES = 16

_DOMAIN = b"swarm-learning/noise/v1\0"


def noise_key(seed: bytes, *context: int) -> bytes:
    """Return a key of `KEY_BYTES` from a seed (the charter's) and what the numbers are for, as integers below 2**64.

    Name at least the round and the member, so that no two roundings share their chance.
    """
    body = len(seed).to_bytes(8, "little") + seed + b"".join(number.to_bytes(8, "little") for number in context)
    return hashlib.sha256(_DOMAIN + body).digest()[:KEY_BYTES]


class Noise:
    """A stream of independent uniform numbers. It has a position, so it belongs to one caller."""

    def __init__(self, key: bytes) -> None:
        assert len(key) == KEY_BYTES, "a key comes from noise_key"
        self._philox = np.random.Philox(key=int.from_bytes(key, "little"))

    def words(self, count: int) -> NDArray[np.uint64]:
        """Return the next `count` words, uniform over 0..2**64-1."""
        return np.asarray(self._philox.random_raw(count), np.uint64)

    def fractions(self, count: int, out: NDArray[np.float32]) -> NDArray[np.float32]:
        """Set the first `count` of `out`, a multiple of 4, to uniform numbers (k + 1/2) / 2**16, exact in float32."""
        quarters = self.words(count // 4).astype("<u8", copy=False).view("<u2")
        part = out[:count]
        np.add(quarters, np.float32(0.5), out=part, dtype=np.float32)
        np.multiply(part, np.float32(2.0**-16), out=part)
        return part
