"""Codecs that keep a few elements and leave the rest out: the largest ones (top-k), or some by chance (random-k).

Without error feedback neither ever gets a swarm to agree; with it both do (Stich et al. 2018, "Sparsified SGD with
Memory"). k is `permille` thousandths of the elements, rounded up, so it needs no place in the message.

Which elements are the k largest is decided exactly and alike everywhere: by magnitude, and among equal ones by index.
The k-th magnitude is found by counting, digit by digit from the top, each among those that share the digits before it;
so nothing of the size of the model is allocated, and no sort's idea of a tie matters. Three passes count, a fourth
collects.

The indices of top-k travel as a bit mask or as the gaps between them (index - previous - 1, in LEB128: 7 bits a byte,
lowest first, the top bit set on all but the last), whichever is smaller, the mask if equal.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.mixing.compress.dense import (
    Bytes,
    check,
    check_received,
    from_bfloat16,
    spans,
    to_bfloat16,
)
from swarm.mixing.compress.noise import KEY_BYTES, Noise
from swarm.vector import Vector

Indices = NDArray[np.int64]

MAGNITUDE_BITS = np.uint32(0x7FFF_FFFF)
DIGIT_BITS = 11
DIGIT_SHIFTS = (22, 11, 0)
"""A magnitude's 31 bits as three digits, the upper first: counters for one digit fit the first-level cache."""

GAP_BYTES_MAX = 5
"""35 bits: more than `swarm.vector.ELEMENTS_MAX` needs."""


@dataclass(frozen=True, slots=True)
class TopK:
    """The k largest elements, as bf16 or (wide) float32, and where they are."""

    permille: int
    wide: bool

    def kept(self, elements: int) -> int:
        """Return k."""
        return kept(elements, self.permille)

    def value_bytes(self, elements: int) -> int:
        """Exact size of the values, which come after the indices."""
        return self.kept(elements) * (4 if self.wide else 2)

    def body_bytes(self, elements: int) -> int:
        """An upper bound: the mask's size, or the most that k gaps can take, as one of j + 1 bytes spans 128**j."""
        k = self.kept(elements)
        gaps = k + sum(min(k, (elements - k) >> 7 * j) for j in range(1, GAP_BYTES_MAX))
        return min(-(-elements // 8), gaps) + self.value_bytes(elements)

    def contraction(self, elements: int) -> float:
        """The share k / d, less what bf16 rounds away; worst where all magnitudes are equal."""
        share = self.kept(elements) / max(1, elements)
        return share if self.wide else share * (1 - 2.0**-16)

    def write(self, vector: Vector, key: bytes | None) -> bytes:  # noqa: ARG002 - one signature for both
        """Encode."""
        indices, values = self._largest(vector)
        gaps = np.diff(indices, prepend=-1) - 1
        sizes = _gap_sizes(gaps)
        mask_bytes = -(-vector.size // 8)
        where = _mask(indices, vector.size) if mask_bytes <= sizes.sum() else _write_gaps(gaps, sizes)
        return where.tobytes() + (values.astype("<f4") if self.wide else to_bfloat16(values).astype("<u2")).tobytes()

    def _largest(self, vector: Vector) -> tuple[Indices, Vector]:
        """Return the indices of the k largest elements, ascending, and the elements."""
        least, ties = _threshold(vector, self.kept(vector.size))
        indices, values = [], []
        for span in spans(vector.size):
            bits = _magnitudes(vector[span])
            take = bits > least
            equal = np.flatnonzero(bits == least)[:ties]
            take[equal] = True
            ties -= equal.size
            found = np.flatnonzero(take)
            indices.append(found + span.start)
            values.append(vector[span][found])
        return np.concatenate(indices), np.concatenate(values)

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        values = body[body.size - self.value_bytes(out.size) :]
        where = body[: body.size - values.size]
        k, mask_bytes = self.kept(out.size), -(-out.size // 8)
        indices = _read_mask(where, k, out.size) if where.size == mask_bytes else _read_gaps(where, k, out.size)
        sizes = int(_gap_sizes(np.diff(indices, prepend=-1) - 1).sum())
        if (where.size == mask_bytes) != (mask_bytes <= sizes):
            raise Reject("couldn't decode a compressed vector: its indices are not in their shorter form")
        chosen = values.view("<f4").astype(np.float32) if self.wide else from_bfloat16(values.view("<u2"))
        check_received(chosen)
        out.fill(0)
        out[indices] = chosen


@dataclass(frozen=True, slots=True)
class RandomK:
    """One element by chance from each of k runs of equal length, as bf16; the key that chose them travels, not indices.

    Dividing the vector into k runs instead of drawing k elements of all makes the indices distinct and sorted at once,
    and every element still has the same chance, to one in the length of a run.
    """

    permille: int

    def kept(self, elements: int) -> int:
        """Return k."""
        return kept(elements, self.permille)

    def body_bytes(self, elements: int) -> int:
        """Exact: the key and the values."""
        return KEY_BYTES + 2 * self.kept(elements)

    def contraction(self, elements: int) -> float:
        """1 / ceil(d / k), in expectation over keys, less what bf16 rounds away."""
        return (1 - 2.0**-16) / -(-elements // self.kept(elements)) if elements else 1.0

    def write(self, vector: Vector, key: bytes | None) -> bytes:
        """Encode. Raises `UsageError` without a key."""
        if key is None:
            raise UsageError("couldn't compress by random-k: there is no key", hint="make one with noise_key")
        for span in spans(vector.size):
            check(vector[span], span.start)
        values = vector[_chosen(key, vector.size, self.kept(vector.size))]
        return key + to_bfloat16(values).astype("<u2").tobytes()

    def read(self, body: Bytes, out: Vector) -> None:
        """Decode."""
        chosen = from_bfloat16(body[KEY_BYTES:].view("<u2"))
        check_received(chosen)
        out.fill(0)
        out[_chosen(body[:KEY_BYTES].tobytes(), out.size, self.kept(out.size))] = chosen


def kept(elements: int, permille: int) -> int:
    """Return how many elements are kept of so many: rounded up, so at least one of any."""
    return -(-elements * permille // 1000)


def _chosen(key: bytes, elements: int, k: int) -> Indices:
    """Return one index from each of k equal runs, ascending."""
    edges = np.arange(k + 1, dtype=np.int64) * elements // k
    starts, lengths = edges[:-1], np.diff(edges).astype(np.uint64)
    # The upper 32 bits of a word times the length, over 2**32: uniform to one part in 2**32 / length.
    high = Noise(key).words(k) >> np.uint64(32)
    return starts + ((high * lengths) >> np.uint64(32)).astype(np.int64)


def _magnitudes(block: Vector) -> NDArray[np.uint32]:
    """Return the bit patterns without sign: as integers they have the order of the magnitudes."""
    return block.view(np.uint32) & MAGNITUDE_BITS


def _threshold(vector: Vector, k: int) -> tuple[int, int]:
    """Return the bit pattern of the k-th largest magnitude, and how many elements with exactly it are among the k."""
    found = 0
    for digit, shift in enumerate(DIGIT_SHIFTS):
        counts = np.zeros(1 << DIGIT_BITS, np.int64)
        for span in spans(vector.size):
            bits = _magnitudes(vector[span])
            if digit == 0:
                check(vector[span], span.start)
            else:
                bits = bits[bits >> np.uint32(shift + DIGIT_BITS) == found]
            counts += np.bincount(bits >> np.uint32(shift) & np.uint32(counts.size - 1), minlength=counts.size)
        place, k = _kth(counts, k)
        found = found << DIGIT_BITS | place
    return found, k


def _kth(counts: NDArray[np.int64], k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest, and which of that bin's elements it is, counting from 1."""
    from_above = np.cumsum(counts[::-1])
    place = int(np.searchsorted(from_above, k))
    return counts.size - 1 - place, k - int(from_above[place - 1] if place else 0)


def _gap_sizes(gaps: Indices) -> NDArray[np.uint8]:
    sizes = np.ones(gaps.size, np.uint8)
    for j in range(1, GAP_BYTES_MAX):
        sizes += gaps >= 1 << 7 * j
    return sizes


def _mask(indices: Indices, elements: int) -> Bytes:
    mask = np.zeros(-(-elements // 8), np.uint8)
    # The last of equal bytes would win a plain assignment, so each bit position is set on its own.
    for bit in range(8):
        mask[indices[indices % 8 == bit] // 8] |= np.uint8(1 << bit)
    return mask


def _read_mask(where: Bytes, k: int, elements: int) -> Indices:
    count = sum(int(np.bitwise_count(where[span]).sum(dtype=np.int64)) for span in spans(where.size))
    if count != k or (elements % 8 and int(where[-1]) >> (elements % 8)):
        raise Reject(f"couldn't decode a compressed vector: its mask does not name {k} of {elements} elements")
    found = [
        np.flatnonzero(np.unpackbits(where[span], bitorder="little")) + 8 * span.start for span in spans(where.size)
    ]
    return np.concatenate(found)


def _write_gaps(gaps: Indices, sizes: NDArray[np.uint8]) -> Bytes:
    ends = np.cumsum(sizes, dtype=np.int64)
    starts = ends - sizes
    out = np.zeros(int(ends[-1]), np.uint8)
    for j in range(GAP_BYTES_MAX):
        long = sizes > j
        digits = ((gaps[long] >> (7 * j)) & 0x7F).astype(np.uint8)
        out[starts[long] + j] = digits | ((sizes[long] > j + 1).astype(np.uint8) << np.uint8(7))
    return out


def _read_gaps(where: Bytes, k: int, elements: int) -> Indices:
    """Return the indices of k gaps, refusing any that are not LEB128's shortest or lead out of the vector."""
    ends = np.flatnonzero(where < 0x80) if where.size <= k * GAP_BYTES_MAX else np.zeros(0, np.int64)
    if ends.size != k or int(ends[-1]) != where.size - 1:
        raise Reject(f"couldn't decode a compressed vector: its indices are not {k} whole numbers")
    sizes = np.diff(ends, prepend=-1)
    starts = ends - sizes + 1
    if int(sizes.max()) > GAP_BYTES_MAX or np.any((sizes > 1) & (where[ends] == 0)):
        raise Reject("couldn't decode a compressed vector: an index is not in its shortest form")
    gaps = np.zeros(k, np.int64)
    for j in range(GAP_BYTES_MAX):
        long = sizes > j
        gaps[long] |= (where[starts[long] + j] & np.uint8(0x7F)).astype(np.int64) << (7 * j)
    # Five bytes hold 2**35, and 2**33 of those would overflow int64: each is bounded before they are added up, in
    # float64 first, which is exact enough to tell a sum near `elements` from one that wraps around.
    if int(gaps.max()) >= elements or float(gaps.sum(dtype=np.float64)) + k > 2 * elements:
        raise Reject("couldn't decode a compressed vector: an index leads out of it")
    indices = np.cumsum(gaps + 1) - 1
    if int(indices[-1]) >= elements:
        raise Reject("couldn't decode a compressed vector: an index leads out of it")
    return indices
