"""Masks: words that look random to everybody who lacks 32 bytes, put on an update and taken off a sum.

A mask is the key stream of AES-256 in counter mode (NIST SP 800-38A, 6.5) under a seed that is used for nothing else,
read as little-endian words of the ring. What two members have between them one adds and the other subtracts, so that
it cancels in the sum of both (Bonawitz et al., "Practical secure aggregation for privacy-preserving machine learning",
2017, section 4); what a member has for itself is taken off by whoever learns its seed.

The generator is AES because processors have had instructions for it for a decade: ChaCha20 takes twice the time where
those are there. Never a generator made for simulation: theirs can be told from random, and run backwards.

A stream can be entered anywhere, so members that sum a slice of all updates make a slice of all masks. One block of
elements at a time, so that scratch stays in the second-level cache and memory does not grow with the model.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, cast

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from swarm.masking.ring import Ring, Words
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector

SEED_BYTES = 32

_BLOCK_BYTES = 16  # of AES

_ZEROS = bytes(8 * BLOCK_ELEMENTS + _BLOCK_BYTES)


@dataclass(frozen=True, slots=True, repr=False)
class Mask:
    """The seed of a mask, and whether it is added or taken off. Its representation does not show the seed."""

    seed: bytes
    added: bool

    def opposite(self) -> Mask:
        """Return what cancels it."""
        return Mask(self.seed, not self.added)

    def __repr__(self) -> str:
        return f"Mask({'+' if self.added else '-'})"


class Stream:
    """The words of a mask from element `start` on, in order."""

    def __init__(self, seed: bytes, ring: Ring, start: int = 0) -> None:
        assert len(seed) == SEED_BYTES, "a seed is 32 bytes"
        self._dtype = ring.dtype
        block, skipped = divmod(start * self._dtype.itemsize, _BLOCK_BYTES)
        counter = block.to_bytes(_BLOCK_BYTES, "big")
        self._cipher = Cipher(algorithms.AES256(seed), modes.CTR(counter)).encryptor()
        self._cipher.update(_ZEROS[:skipped])

    def next(self, scratch: bytearray, elements: int) -> Words:
        """Return the next words, at most `BLOCK_ELEMENTS`, in `scratch`: valid until that is used again."""
        size = elements * self._dtype.itemsize
        self._cipher.update_into(memoryview(_ZEROS)[:size], scratch)
        return cast("Words", np.frombuffer(scratch, self._dtype, elements))


def scratch_for(ring: Ring) -> bytearray:
    """Return room for a block of words of a stream."""
    return bytearray(ring.dtype.itemsize * BLOCK_ELEMENTS + _BLOCK_BYTES)


def apply(words: Words, ring: Ring, masks: Sequence[Mask], start: int = 0) -> None:
    """Put masks on words, shape (elements,), of which the first is element `start` of the model."""
    streams = [(Stream(mask.seed, ring, start), np.add if mask.added else np.subtract) for mask in masks]
    scratch = scratch_for(ring)
    for begin in range(0, words.size, BLOCK_ELEMENTS):
        block = words[begin : begin + BLOCK_ELEMENTS]
        for stream, put in streams:
            put(block, stream.next(scratch, block.size), out=block)


class Added(Protocol):
    """What goes under the masks besides an update: this site's noise (`swarm.masking.noise.Noise`)."""

    def add_to(self, words: Words) -> None:
        """Set words += what comes next, shape (elements,)."""
        ...


def masked(
    update: Vector, ring: Ring, weight: int, masks: Sequence[Mask], start: int = 0, noise: Added | None = None
) -> Words:
    """Return a weighted update, shape (elements,), under masks.

    Raises:
        UsageError: see `Ring.encode_into`.
    """
    words = ring.words(update.size)
    ring.encode_into(words, update, weight)
    if noise is not None:
        noise.add_to(words)
    apply(words, ring, masks, start)
    return words


def add(total: Words, words: Words) -> None:
    """Set total += words, both of shape (elements,)."""
    np.add(total, words, out=total)
