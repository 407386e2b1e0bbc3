"""A model as one flat vector, and its name.

A model or an update is one little-endian float32 array; what its elements mean is said once, by a `Layout` that all
peers share. The bytes of that array are the blob that travels, is stored and is named by its digest: a BLAKE3 tree over
1 MiB leaves in the shape of RFC 6962, so that each leaf proves itself as it arrives.

This module knows no framework and no file. Arrays may be memory-mapped; nothing here copies a whole model.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Collection, Mapping, Sequence

import msgspec
import numpy as np
from blake3 import blake3
from numpy.typing import NDArray

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.machine import Buffer, Digest

LEAF_BYTES = 1 << 20
"""Size of a leaf: large enough that hashes are 32 millionths of the data, small enough to check as it arrives."""

TENSORS_MAX = 100_000
"""Most tensors of a layout: the largest public models have a few thousand."""

TENSOR_NAME_CHARACTERS_MAX = 512
RANK_MAX = 8
ELEMENTS_MAX = 2**33
LAYOUT_BYTES_MAX = 1 << 26

_LAYOUT_DOMAIN = b"swarm-ledger/layout/v1\0"
_BLOB_DOMAIN = b"swarm-ledger/blob/v1\0"

Vector = NDArray[np.float32]


class TensorSpec(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One tensor: its name, shape, and the dtype it has in the model (it always travels as float32)."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    @property
    def elements(self) -> int:
        """Number of elements; 1 for a scalar."""
        return math.prod(self.shape)


class Layout(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Which tensors a vector holds, in ascending order of name, one after the other."""

    tensors: tuple[TensorSpec, ...]

    @property
    def elements(self) -> int:
        """Length of the vector."""
        return sum(tensor.elements for tensor in self.tensors)

    @property
    def nbytes(self) -> int:
        """Size of the blob in bytes."""
        return 4 * self.elements

    def check(self) -> None:
        """Raise `Reject` unless names are unique and sorted and everything is within bounds."""
        names = [tensor.name for tensor in self.tensors]
        if sorted({*names}) != names or len(names) > TENSORS_MAX:
            raise Reject("couldn't accept a layout: its tensors are not sorted by unique name")
        for tensor in self.tensors:
            bounded = len(tensor.name) <= TENSOR_NAME_CHARACTERS_MAX and len(tensor.shape) <= RANK_MAX
            if not bounded or any(size < 0 for size in tensor.shape):
                raise Reject(f"couldn't accept a layout: tensor {tensor.name[:60]!r} is out of bounds")
        if self.elements > ELEMENTS_MAX:
            raise Reject(f"couldn't accept a layout: {self.elements} elements, at most {ELEMENTS_MAX}")

    def encode(self) -> bytes:
        """Return the canonical bytes."""
        return codec.encode(self)

    @classmethod
    def decode(cls, data: bytes) -> Layout:
        """Return the checked layout. Raises `Reject`."""
        layout = codec.decode(data, cls, limit=LAYOUT_BYTES_MAX)
        layout.check()
        return layout

    def digest(self) -> Digest:
        """SHA-256 of the encoded layout: what the charter names."""
        return Digest(hashlib.sha256(_LAYOUT_DOMAIN + self.encode()).digest())

    def offsets(self) -> dict[str, tuple[int, int]]:
        """Return, per tensor, the range [start, end) of its elements."""
        found, start = {}, 0
        for tensor in self.tensors:
            found[tensor.name] = (start, start + tensor.elements)
            start += tensor.elements
        return found

    def name_at(self, place: int) -> str:
        """Return the name of the tensor that an element of the vector is of; `place` is within `elements`."""
        return next(name for name, (start, end) in self.offsets().items() if start <= place < end)

    def stretches(self, names: Collection[str]) -> tuple[tuple[int, int], ...]:
        """Return the ranges [start, end) that these tensors take up, ascending; adjoining ones are one."""
        found: list[tuple[int, int]] = []
        for name, (start, end) in self.offsets().items():
            if name in names and found and found[-1][1] == start:
                found[-1] = (found[-1][0], end)
            elif name in names:
                found.append((start, end))
        return tuple(found)


def flatten(arrays: Mapping[str, NDArray[np.generic]], layout: Layout, out: Vector | None = None) -> Vector:
    """Copy tensors into one float32 vector of shape (layout.elements,), in layout order.

    Raises:
        UsageError: a tensor is missing, superfluous or of another shape.
    """
    expected = {tensor.name for tensor in layout.tensors}
    if expected != set(arrays):
        odd = min(expected ^ set(arrays))
        raise UsageError(f"couldn't flatten the model: tensor {odd!r} is {'missing' if odd in expected else 'unknown'}")
    vector = np.empty(layout.elements, dtype="<f4") if out is None else out
    for tensor, (start, end) in zip(layout.tensors, layout.offsets().values(), strict=True):
        array = arrays[tensor.name]
        if array.shape != tensor.shape:
            raise UsageError(
                f"couldn't flatten the model: tensor {tensor.name!r} has shape {array.shape}, not {tensor.shape}",
                hint="all sites must run the same task file",
            )
        vector[start:end] = array.reshape(-1)
    return vector


def unflatten(vector: Vector, layout: Layout) -> dict[str, Vector]:
    """Return the tensors of a vector as views into it. Raises `UsageError` when the length is another."""
    if vector.size != layout.elements:
        raise UsageError(f"couldn't unfold a vector of {vector.size} elements: the layout has {layout.elements}")
    shapes = {tensor.name: tensor.shape for tensor in layout.tensors}
    return {name: vector[start:end].reshape(shapes[name]) for name, (start, end) in layout.offsets().items()}


class LeafHasher:
    """The hash of one leaf, fed piece by piece."""

    def __init__(self) -> None:
        self._hasher = blake3(b"\x00")

    def update(self, data: Buffer) -> None:
        """Add the next bytes of the leaf."""
        self._hasher.update(data)

    def digest(self) -> bytes:
        """Return the 32-byte hash of what was added."""
        return self._hasher.digest()


def leaf_count(size: int) -> int:
    """Return the number of leaves of a blob of `size` bytes: at least one."""
    return max(1, -(-size // LEAF_BYTES))


def leaf_span(size: int, index: int) -> tuple[int, int]:
    """Return (offset, length) of a leaf in bytes."""
    offset = index * LEAF_BYTES
    return offset, min(LEAF_BYTES, size - offset)


def leaf_hashes(data: Buffer) -> tuple[bytes, ...]:
    """Return the hash of each leaf of a blob: BLAKE3(0x00 ‖ leaf)."""
    view = memoryview(data).cast("B")
    hashes = []
    for index in range(leaf_count(len(view))):
        offset, length = leaf_span(len(view), index)
        hasher = LeafHasher()
        hasher.update(view[offset : offset + length])
        hashes.append(hasher.digest())
    return tuple(hashes)


def blob_digest(size: int, leaves: Sequence[bytes]) -> Digest:
    """Return the name of a blob: BLAKE3(domain ‖ u64le size ‖ root), root as in RFC 6962 section 2.1 with BLAKE3."""
    if len(leaves) != leaf_count(size):
        raise ValueError(f"a blob of {size} bytes has {leaf_count(size)} leaves, not {len(leaves)}")
    return Digest(blake3(_BLOB_DOMAIN + size.to_bytes(8, "little") + _root(leaves)).digest())


def _root(level: Sequence[bytes]) -> bytes:
    """Pairing neighbours level by level and carrying an odd one up gives the RFC 6962 shape."""
    while len(level) > 1:
        paired = [blake3(b"\x01" + level[i] + level[i + 1]).digest() for i in range(0, len(level) - 1, 2)]
        level = [*paired, level[-1]] if len(level) % 2 else paired
    return level[0]
