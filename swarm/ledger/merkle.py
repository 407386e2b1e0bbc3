"""The Merkle tree of RFC 6962 section 2.1 (again in RFC 9162 section 2.1), SHA-256: roots, compact ranges and proofs.

A log keeps only its *frontier*, the roots of the perfect subtrees that make up its size, and can still tell the root
after every append. Whoever makes proofs holds all leaf hashes in a `Tree`, which remembers every perfect subtree; a
proof is checked by anybody, with nothing but the proof and the two roots it connects.

This module refuses to know what a leaf says or who signed a root. Everything in it is 32-byte hashes, and every length
is checked where a proof enters: SHA-256(0x01 ‖ left ‖ right) does not say where left ends, so without the check a byte
could move from one hash to the next and a second, different proof of the same thing would pass.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import msgspec

from swarm.errors import LedgerError, Reject

HASH_BYTES = 32

SIZE_MAX = 2**63 - 1
"""Most leaves of a tree: what a signed 64-bit integer counts, as in the header fields, and so at most 63 hashes."""

EMPTY_ROOT = hashlib.sha256(b"").digest()

_SIZE_BYTES = 8
_ASK_AGAIN = "Ask another member for the proof; if theirs fails too, keep both: they are evidence."


def leaf_hash(leaf: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ leaf). The prefix keeps a leaf from passing for a node (RFC 6962 section 2.1)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right) of two 32-byte hashes."""
    return hashlib.sha256(b"\x01" + left + right).digest()


class Frontier(msgspec.Struct, frozen=True, array_like=True):
    """A tree of `size` leaves as the roots of its perfect subtrees, largest first: one per set bit of `size`.

    Raises `ValueError` when made with another number of hashes than that.
    """

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        if not 0 <= self.size <= SIZE_MAX or len(self.hashes) != self.size.bit_count():
            raise ValueError(f"{len(self.hashes)} hashes are no frontier of a tree of {self.size} leaves")

    def append(self, leaf: bytes) -> Frontier:
        """Return the tree with one more leaf, given its hash."""
        keep, carry = len(self.hashes), self.size
        while carry & 1:  # the carry of a binary counter
            keep -= 1
            leaf = hashlib.sha256(b"\x01" + self.hashes[keep] + leaf).digest()  # `node_hash`, without the call
            carry >>= 1
        return Frontier(self.size + 1, (*self.hashes[:keep], leaf))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the tree with more leaves, given their hashes. k leaves cost about k node hashes."""
        size, hashes = self.size, list(self.hashes)
        for root in leaves:
            carry = size
            while carry & 1:  # the carry of a binary counter
                root = hashlib.sha256(b"\x01" + hashes.pop() + root).digest()  # `node_hash`, without the call
                carry >>= 1
            hashes.append(root)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """Return the tree's root; that of the empty tree is SHA-256 of nothing."""
        return _join(self.hashes) if self.hashes else EMPTY_ROOT

    def encode(self) -> bytes:
        """Return the size as 8 bytes, big-endian, followed by the hashes. The size tells their number."""
        return self.size.to_bytes(_SIZE_BYTES, "big") + b"".join(self.hashes)

    @classmethod
    def decode(cls, data: bytes) -> Frontier:
        """Return the frontier that `encode` wrote. Raises `Reject` for anything it cannot have written."""
        size, rest = int.from_bytes(data[:_SIZE_BYTES], "big"), len(data) - _SIZE_BYTES
        if rest != HASH_BYTES * size.bit_count() or size > SIZE_MAX:
            raise Reject(f"couldn't read a frontier: {len(data)} bytes do not describe a tree of {size} leaves")
        return cls(size, tuple(data[i : i + HASH_BYTES] for i in range(_SIZE_BYTES, len(data), HASH_BYTES)))


class Tree:
    """An append-only list of leaf hashes that remembers the root of every perfect subtree.

    It holds twice the leaves' bytes, 64 a leaf, and then makes any root or proof in O(log n) hashes.
    """

    def __init__(self, leaves: Iterable[bytes] = ()) -> None:
        # Level k holds the roots of the perfect subtrees of 2**k leaves, left to right; the last one may be empty.
        self._levels: list[list[bytes]] = [[]]
        self.extend(leaves)

    def __len__(self) -> int:
        return len(self._levels[0])

    def append(self, leaf: bytes) -> None:
        """Add one leaf, given its hash."""
        self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> None:
        """Add leaves, given their hashes."""
        fresh, height = list(leaves), 0
        while fresh:
            self._levels[height].extend(fresh)
            height += 1
            if height == len(self._levels):
                self._levels.append([])
            paired = 2 * len(self._levels[height])
            fresh = _parents(self._levels[height - 1][paired:])

    def frontier(self, size: int | None = None) -> Frontier:
        """Return the frontier of the first `size` leaves, or of all. Raises `ValueError` beyond them."""
        size = self._sized(size)
        return Frontier(size, tuple(self._perfect(0, size)))

    def root(self, size: int | None = None) -> bytes:
        """Return the root over the first `size` leaves, or over all. Raises `ValueError` beyond them."""
        return self.frontier(size).root()

    def inclusion_proof(self, index: int, size: int | None = None) -> tuple[bytes, ...]:
        """Return the audit path of leaf `index` in the tree of the first `size` leaves (RFC 6962 section 2.1.1).

        The hashes run from the leaf's sibling to the root's child. Raises `ValueError` if there is no such leaf.
        """
        ranges = inclusion_ranges(index, self._sized(size))
        return tuple(self._range(start, end) for start, end in ranges)

    def consistency_proof(self, old: int, new: int | None = None) -> tuple[bytes, ...]:
        """Return the proof that the first `old` leaves are a prefix of the first `new` (RFC 6962 section 2.1.2).

        Raises `ValueError` for sizes the tree never had, and for an empty old tree, of which there is no proof.
        """
        ranges = consistency_ranges(old, self._sized(new))
        return tuple(self._range(start, end) for start, end in ranges)

    def _sized(self, size: int | None) -> int:
        if size is None:
            return len(self)
        if not 0 <= size <= len(self):
            raise ValueError(f"the tree has {len(self)} leaves, not {size}")
        return size

    def _range(self, start: int, end: int) -> bytes:
        return _join(self._perfect(start, end))

    def _perfect(self, start: int, end: int) -> list[bytes]:
        """Return the perfect subtrees of a range, largest first. `start` is a multiple of the largest one's size."""
        roots: list[bytes] = []
        while start < end:
            height = (end - start).bit_length() - 1
            roots.append(self._levels[height][start >> height])
            start += 1 << height
        return roots


def inclusion_ranges(index: int, size: int) -> list[tuple[int, int]]:
    """Return the ranges of leaves, [start, end), whose roots make up the audit path of a leaf, its sibling first.

    Each range begins at a multiple of the largest power of two that fits it. Raises `ValueError` if there is no such
    leaf.
    """
    if not 0 <= index < size:
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    ranges: list[tuple[int, int]] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start = middle
    return ranges[::-1]


def consistency_ranges(old: int, new: int) -> list[tuple[int, int]]:
    """Return the ranges of leaves, [start, end), whose roots make up the proof that one tree is a prefix of another.

    Raises `ValueError` for sizes between which there is none: see `Tree.consistency_proof`.
    """
    if not 0 < old <= new:
        raise ValueError(f"there is no consistency proof from {old} to {new} leaves")
    ranges: list[tuple[int, int]] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            ranges.append((middle, end))
            end = middle
        else:
            ranges.append((start, middle))
            start, whole = middle, False
    if not whole:  # the verifier knows the old tree's root already, but not the root of its rightmost piece
        ranges.append((start, end))
    return ranges[::-1]


def root(leaves: Iterable[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    return Frontier().extend(leaves).root()


def inclusion_proof(leaves: Sequence[bytes], index: int, size: int | None = None) -> tuple[bytes, ...]:
    """Return one audit path from bare leaf hashes, at the price of hashing them all: see `Tree.inclusion_proof`."""
    return Tree(leaves).inclusion_proof(index, size)


def consistency_proof(leaves: Sequence[bytes], old: int, new: int | None = None) -> tuple[bytes, ...]:
    """Return one consistency proof from bare leaf hashes, at the price of hashing them: `Tree.consistency_proof`."""
    return Tree(leaves).consistency_proof(old, new)


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check that the leaf with hash `leaf` is number `index` of the `size` leaves under the root `expected`.

    RFC 9162 section 2.1.3.2. Raises `LedgerError` unless the audit path leads to that root.
    """
    what = f"that leaf {index} is in the tree of {size}"
    if not 0 <= index < size <= SIZE_MAX:
        raise _refusal(what, "no tree of that size has that leaf")
    _check_lengths(what, (leaf, expected, *proof))
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise _refusal(what, "the proof is too long")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise _refusal(what, "the proof is too short")
    if computed != expected:
        raise _refusal(what, "the proof leads to another root")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check that the `old` leaves under `old_root` are the first of the `new` leaves under `new_root`.

    RFC 9162 section 2.1.4.2. Raises `LedgerError` unless the proof connects the two roots. Between equal sizes the
    proof is empty and the roots must be equal. An old size of 0 is always refused, 0 to 0 with an empty proof included:
    every tree extends the empty one, so such a proof says nothing, and whoever compares checkpoints would take a
    forgotten old one for a verified one.
    """
    what = f"that the tree of {old} leaves is a prefix of that of {new}"
    if not 0 < old <= new <= SIZE_MAX:
        raise _refusal(what, "no proof connects these sizes")
    if old == new:
        if proof or old_root != new_root:
            raise _refusal(what, "equal sizes take equal roots and an empty proof")
        return
    _check_lengths(what, (old_root, new_root, *proof))
    # A perfect old tree is a node of the new one, so its proof need not repeat the root that the verifier has.
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise _refusal(what, "the proof is empty")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise _refusal(what, "the proof is too long")
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    if last:
        raise _refusal(what, "the proof is too short")
    if first != old_root or second != new_root:
        raise _refusal(what, "the proof leads to other roots")


def _refusal(what: str, why: str) -> LedgerError:
    return LedgerError(f"couldn't verify {what}: {why}", hint=_ASK_AGAIN)


def _check_lengths(what: str, hashes: Iterable[bytes]) -> None:
    if any(len(value) != HASH_BYTES for value in hashes):
        raise _refusal(what, f"a hash in it is not {HASH_BYTES} bytes long")


def _parents(level: Sequence[bytes]) -> list[bytes]:
    """Return the hash over each pair; an odd last one is left out. Inlined `node_hash`: this is the whole cost."""
    sha256 = hashlib.sha256
    return [sha256(b"\x01" + left + right).digest() for left, right in zip(level[::2], level[1::2], strict=False)]


def _join(roots: Sequence[bytes]) -> bytes:
    """Return the root over adjacent perfect subtrees, largest first."""
    joined = roots[-1]
    for left in reversed(roots[:-1]):
        joined = node_hash(left, joined)
    return joined


def _split(n: int) -> int:
    """Return the largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1
