"""A short fingerprint of a model from which distances between models can be told: a count sketch.

Charikar, Chen & Farach-Colton, "Finding frequent items in data streams" (2002); as a random projection it is the
sparse Johnson-Lindenstrauss transform with one entry a column (Dasgupta, Kumar & Sarlos 2010): s_b = sum over i = b
(mod 128) of sign_i x_i, with signs from a generator that all members seed alike. It is linear, so the sketch of a
difference is the difference of sketches, and E ||s||^2 = ||x||^2. For a model whose norm is spread over its elements
the squared distance it tells has a relative standard deviation of about sqrt(2 / 128) = 12.5 %, the distance of half.

Sums are float64 in a fixed order over float32 values and are rounded once, to multiples of 2^-20.
"""

from __future__ import annotations

import struct

import numpy as np

from swarm.errors import Reject, UsageError
from swarm.vector import Vector

BUCKETS = 128
SKETCH_BYTES = 8 * BUCKETS
FRACTION_BITS = 20

ROWS = 512
"""Rows of 128 elements that are signed and added at a time: 64 Ki elements, in the second-level cache."""

_FORM = struct.Struct(f">{BUCKETS}q")
_LIMIT = 2.0**62


def sketch(model: Vector, seed: int) -> bytes:
    """Return the sketch of a model of shape (elements,) with values of at most 2^10: 1,024 bytes.

    Raises:
        UsageError: a value is not finite.
    """
    signs = np.random.Philox(key=seed)
    sums = np.zeros(BUCKETS, np.float64)
    step = ROWS * BUCKETS
    part = np.empty(step, np.float64)
    for start in range(0, model.size, step):
        block = model[start : start + step]
        part[: block.size] = block
        part[block.size :] = 0.0
        # The raw words of a Philox generator are the same in every version of numpy; what is drawn from them is not.
        bits = np.unpackbits(signs.random_raw(step // 64).astype("<u8").view(np.uint8), bitorder="little")
        np.multiply(part, 1 - 2 * bits.view(np.int8), out=part)
        rows = part.reshape(ROWS, BUCKETS)
        while len(rows) > 1:  # Halves added element by element: an order that every processor keeps.
            half = len(rows) // 2
            rows = np.add(rows[:half], rows[half:], out=rows[:half])
        sums += rows[0]
    if not np.isfinite(sums).all():
        raise UsageError("couldn't sketch the model: a value in it is not finite")
    whole = np.rint(np.clip(sums * 2.0**FRACTION_BITS, -_LIMIT, _LIMIT))
    return _FORM.pack(*(int(value) for value in whole.tolist()))


def unpack(data: bytes) -> tuple[int, ...]:
    """Return the 128 sums, in multiples of 2^-20. Raises `Reject` for anything that is no sketch."""
    if len(data) != SKETCH_BYTES:
        raise Reject(f"couldn't read a sketch: it has {len(data)} bytes, not {SKETCH_BYTES}")
    return _FORM.unpack(data)
