"""Codecs that keep every element and make each one smaller: bf16, 8 and 4 bits, 1 bit.

All work in blocks that stay in the second-level cache, use only float32 and integer operations that IEEE 754 rounds in
one way, and add up in a fixed order (`_sums`): the same vector gives the same bytes on every processor. Where a scale
is shared by `per` elements, each run of `per` stands alone; the last may be shorter.

A body is what follows the header of `swarm.mixing.compress.forms`; its length is a function of the number of elements
and is checked there before anything here is called. Decoders refuse what an encoder cannot have written.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.mixing.compress.noise import Noise
from swarm.vector import Vector

Bytes = NDArray[np.uint8]

BLOCK_ELEMENTS = 1 << 16
"""Elements worked on at a time, a multiple of every `per`: 256 KiB of float32, so each pass finds them in the cache."""

MAGNITUDE_MAX = 2.0**64
"""Largest magnitude that may be sent. No model comes near it, and no product below can overflow under it."""

MAGNITUDE_MIN = 2.0**-64
"""A run whose scale would belong to smaller values is sent as zeros: processors differ in what they do with subnormal
numbers, and no update lives there."""


def check(block: Vector, start: int) -> float:
    """Return the largest magnitude of a block that begins at element `start`.

    Raises:
        UsageError: an element is not finite or over `MAGNITUDE_MAX`.
    """
    largest = max(float(block.max()), -float(block.min()))
    if not largest <= MAGNITUDE_MAX:
        raise _unsendable(block, start)
    return largest


def _unsendable(block: Vector, start: int) -> UsageError:
    fine = np.abs(block) <= MAGNITUDE_MAX
    where = start + int(np.argmin(fine))
    what = "is not a finite number" if not np.isfinite(block[where - start]) else f"is over {MAGNITUDE_MAX:g}"
    hint = "lower the learning rate, or clip gradients"
    return UsageError(f"couldn't compress the vector: element {where} {what}", hint=hint)


def spans(elements: int) -> Iterator[slice]:
    """Yield the blocks of a vector, in order."""
    for start in range(0, elements, BLOCK_ELEMENTS):
        yield slice(start, min(start + BLOCK_ELEMENTS, elements))


@dataclass(frozen=True, slots=True)
class Float32:
    """The vector as it is: 4 bytes an element."""

    def body_bytes(self, elements: int) -> int:
        """Exact."""
        return 4 * elements

    def contraction(self, elements: int) -> float:  # noqa: ARG002 - one signature for all codecs
        """Nothing is lost."""
        return 1.0

    def write(self, body: Bytes, vector: Vector, key: bytes | None) -> None:  # noqa: ARG002
        """Encode."""
        out = body.view("<f4")
        for span in spans(vector.size):
            check(vector[span], span.start)
            out[span] = vector[span]

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        values = body.view("<f4")
        for span in spans(out.size):
            out[span] = values[span]
            check_received(out[span])


@dataclass(frozen=True, slots=True)
class BFloat16:
    """The upper half of a float32, rounded to nearest even: 2 bytes an element, 8 significant binary digits."""

    def body_bytes(self, elements: int) -> int:
        """Exact."""
        return 2 * elements

    def contraction(self, elements: int) -> float:  # noqa: ARG002
        """Rounding moves an element by at most 2**-8 of itself."""
        return 1.0 - 2.0**-16

    def write(self, body: Bytes, vector: Vector, key: bytes | None) -> None:  # noqa: ARG002
        """Encode."""
        out = body.view("<u2")
        for span in spans(vector.size):
            check(vector[span], span.start)
            out[span] = to_bfloat16(vector[span])

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        halves = body.view("<u2")
        for span in spans(out.size):
            out[span] = from_bfloat16(halves[span])
            check_received(out[span])


def to_bfloat16(values: Vector) -> NDArray[np.uint16]:
    """Return the bf16 patterns of values that `check` has passed.

    On a pattern, rounding to nearest even is addition: half a step, less one where the kept part is even, and the carry
    does the rest, into the exponent if need be.
    """
    bits = values.view(np.uint32)
    rounded = bits >> np.uint32(16)
    np.bitwise_and(rounded, np.uint32(1), out=rounded)
    np.add(rounded, np.uint32(0x7FFF), out=rounded)
    np.add(rounded, bits, out=rounded)
    np.right_shift(rounded, np.uint32(16), out=rounded)
    return rounded.astype(np.uint16)


def from_bfloat16(halves: NDArray[np.uint16]) -> Vector:
    """Return the float32 values of bf16 patterns, exactly."""
    return np.left_shift(halves, np.uint32(16), dtype=np.uint32).view(np.float32)


def check_received(block: Vector) -> None:
    """Raise `Reject` unless every value is finite and at most `MAGNITUDE_MAX`."""
    largest = max(float(block.max()), -float(block.min()))
    if not largest <= MAGNITUDE_MAX:
        raise Reject("couldn't decode a compressed vector: a value is not a finite number or far too large")


@dataclass(frozen=True, slots=True)
class Quantised:
    """Whole numbers -levels..levels times a float32 scale for each run of `per` elements, scale = max |x| / levels.

    levels = 127: one byte an element. levels = 7: two elements a byte, the first in the lower half, stored plus 8.
    Without a key each element goes to the nearest level (ties to even): the least error, and right with error feedback,
    which remembers it. With a key it goes up or down by chance so that its expectation is itself, to 2**-17 of a level:
    right where nothing remembers, since errors of many rounds and peers then cancel instead of adding up.
    """

    levels: int
    per: int

    def body_bytes(self, elements: int) -> int:
        """Exact: the scales, then the codes."""
        return 4 * runs(elements, self.per) + (elements if self.levels > 7 else -(-elements // 2))

    def contraction(self, elements: int) -> float:
        """L^2 / (L^2 + (m - 1) / 4), L = levels, m = elements of a run; to nearest.

        The largest element of a run is exact and each other one is off by at most half a level and at most by itself,
        so the worst case has all others just below half a level: lost (m-1)/4 of L^2 + (m-1)/4, in squared levels.
        """
        others = max(0, min(self.per, elements) - 1)
        return self.levels**2 / (self.levels**2 + others / 4)

    def write(self, body: Bytes, vector: Vector, key: bytes | None) -> None:
        """Encode."""
        count = runs(vector.size, self.per)
        scales, codes = body[: 4 * count].view("<f4"), body[4 * count :]
        noise = None if key is None else Noise(key)
        work = np.empty(BLOCK_ELEMENTS, np.float32)
        chance = np.empty(BLOCK_ELEMENTS if noise else 0, np.float32)
        for span in spans(vector.size):
            rows = as_runs(vector[span], self.per)
            levels = work[: rows.size].reshape(rows.shape)
            np.abs(rows, out=levels)
            largest = levels.max(axis=1)
            if not largest.max() <= MAGNITUDE_MAX:
                raise _unsendable(vector[span], span.start)
            largest[largest < MAGNITUDE_MIN] = 0
            scales[span.start // self.per :][: largest.size] = largest / np.float32(self.levels)
            inverse = np.zeros(largest.size)
            np.divide(self.levels, largest, out=inverse, where=largest > 0, dtype=np.float64)
            np.multiply(rows, inverse.astype(np.float32)[:, None], out=levels)
            if noise is None:
                np.rint(levels, out=levels)
            else:
                flat = work[: rows.size]
                np.add(flat, noise.fractions(rows.size, chance), out=flat)
                np.floor(flat, out=flat)
                # A largest element a rounding error above its level may land one above that.
                np.clip(flat, -self.levels, self.levels, out=flat)
            self._store(codes, span, work)

    def _store(self, codes: Bytes, span: slice, work: Vector) -> None:
        n = span.stop - span.start
        if self.levels > 7:
            np.copyto(codes.view(np.int8)[span], work[:n], casting="unsafe")
            return
        even = n + n % 2  # an odd last element shares its byte with a zero, which is code 8
        work[n:even] = 0
        pairs = np.add(work[:even], np.float32(8)).astype(np.uint8).reshape(-1, 2)
        np.bitwise_or(pairs[:, 0], pairs[:, 1] << np.uint8(4), out=codes[span.start // 2 :][: pairs.shape[0]])

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        count = runs(out.size, self.per)
        scales = body[: 4 * count].view("<f4").astype(np.float32, copy=False)
        check_scales(scales, MAGNITUDE_MIN / self.levels)
        codes = body[4 * count :]
        work = np.empty(BLOCK_ELEMENTS, np.float32)
        for span in spans(out.size):
            n = span.stop - span.start
            self._load(codes, span, work)
            rows = pad(work, n, self.per)
            own = scales[span.start // self.per :][: rows.shape[0]]
            if not own.all() and rows[own == 0].any():
                raise Reject("couldn't decode a compressed vector: a run without a scale has values")
            np.multiply(rows, own[:, None], out=rows)
            out[span] = work[:n]

    def _load(self, codes: Bytes, span: slice, work: Vector) -> None:
        n = span.stop - span.start
        if self.levels > 7:
            part = codes.view(np.int8)[span]
            lowest = int(part.min())
            np.copyto(work[:n], part)
        else:
            packed = codes[span.start // 2 : -(-span.stop // 2)]
            even = 2 * packed.size
            np.take(_PAIRS, packed, axis=0, out=work[:even].reshape(-1, 2))
            lowest = int(work[:even].min())
            if even > n and work[n] != 0:
                raise Reject("couldn't decode a compressed vector: there is something after its last element")
        if lowest < -self.levels:
            raise Reject("couldn't decode a compressed vector: a code is below the lowest level")


_PAIRS = np.stack([np.arange(256) % 16 - 8, np.arange(256) // 16 - 8], axis=1).astype(np.float32)
"""The two elements of each byte of 4-bit codes."""


@dataclass(frozen=True, slots=True)
class Sign:
    """One bit an element, set where x < 0, and the mean magnitude of each run of `per` (bf16).

    C(x) = (|x|_1 / m) sign(x), the scaled sign of EF-signSGD (Karimireddy et al. 2019, "Error Feedback Fixes SignSGD").
    It needs error feedback: alone it does not converge (their section 3).
    """

    per: int

    def body_bytes(self, elements: int) -> int:
        """Exact: the scales, then the bits, the first element in the lowest."""
        return 2 * runs(elements, self.per) + -(-elements // 8)

    def contraction(self, elements: int) -> float:
        """1 / m, less what bf16 rounds away, m = elements of a run: one spike among zeros.

        Of a given run it is |x|_1^2 / (m |x|^2), which is 2 / pi = 0.64 on Gaussian ones.
        """
        return (1.0 - 2.0**-16) / max(1, min(self.per, elements))

    def write(self, body: Bytes, vector: Vector, key: bytes | None) -> None:  # noqa: ARG002
        """Encode."""
        count = runs(vector.size, self.per)
        scales, bits = body[: 2 * count].view("<u2"), body[2 * count :]
        for span in spans(vector.size):
            block = vector[span]
            check(block, span.start)
            rows = as_runs(block, self.per)
            sizes = np.full(rows.shape[0], self.per, np.float64)
            sizes[-1] = block.size - self.per * (rows.shape[0] - 1)
            mean = (_sums(np.abs(rows)) / sizes).astype(np.float32)
            mean[mean < MAGNITUDE_MIN] = 0
            scales[span.start // self.per :][: mean.size] = to_bfloat16(mean)
            negative = (rows < 0) & (mean != 0)[:, None]
            packed = np.packbits(negative.reshape(-1)[: block.size], bitorder="little")
            bits[span.start // 8 :][: packed.size] = packed

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        count = runs(out.size, self.per)
        scales = from_bfloat16(body[: 2 * count].view("<u2"))
        check_scales(scales, MAGNITUDE_MIN)
        bits = body[2 * count :]
        if out.size % 8 and int(bits[-1]) >> (out.size % 8):
            raise Reject("couldn't decode a compressed vector: there is something after its last element")
        work = np.empty(BLOCK_ELEMENTS, np.float32)
        for span in spans(out.size):
            n = span.stop - span.start
            negative = np.unpackbits(bits[span.start // 8 : -(-span.stop // 8)], count=n, bitorder="little")
            np.copyto(work[:n], negative)
            rows = pad(work, n, self.per)
            own = scales[span.start // self.per :][: rows.shape[0]]
            if not own.all() and rows[own == 0].any():
                raise Reject("couldn't decode a compressed vector: a run without a scale has signs")
            np.multiply(rows, np.float32(-2), out=rows)
            np.add(rows, np.float32(1), out=rows)
            np.multiply(rows, own[:, None], out=rows)
            out[span] = work[:n]


def runs(elements: int, per: int) -> int:
    """Return how many runs of `per` elements there are, the last perhaps shorter."""
    return -(-elements // per)


def as_runs(block: Vector, per: int) -> Vector:
    """Return a block as rows of `per`: itself where it divides, else a copy with zeros at the end."""
    if block.size % per == 0:
        return block.reshape(-1, per)
    padded = np.zeros(runs(block.size, per) * per, np.float32)
    padded[: block.size] = block
    return padded.reshape(-1, per)


def pad(work: Vector, elements: int, per: int) -> Vector:
    """Return the first elements of scratch as rows of `per`, with zeros after the last."""
    whole = runs(elements, per) * per
    work[elements:whole] = 0
    return work[:whole].reshape(-1, per)


def _sums(rows: Vector) -> NDArray[np.float64]:
    """Return the sum of each row in float64, halves added to halves: an order that no library can change.

    The length of a row is a power of two.
    """
    half = rows.shape[1] // 2
    sums = np.add(rows[:, :half], rows[:, half:], dtype=np.float64)
    while half > 1:
        half //= 2
        sums = sums[:, :half] + sums[:, half:]
    return sums[:, 0]


def check_scales(scales: Vector, least: float) -> None:
    """Raise `Reject` unless each scale is 0 or within [least, `MAGNITUDE_MAX`]."""
    # Just below the bound, because an encoder rounds its quotient to float32.
    fine = (scales >= least * (1 - 2.0**-20)) & (scales <= MAGNITUDE_MAX)
    zero = scales.view(np.uint32) == 0
    if not np.all(fine | zero):
        raise Reject("couldn't decode a compressed vector: a scale is not a finite number within its bounds")
