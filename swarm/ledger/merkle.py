"""The Merkle tree of RFC 6962 section 2.1, SHA-256: roots, compact ranges, inclusion and consistency proofs.

A log keeps only its *frontier*, the roots of the perfect subtrees that make up its size, and can still tell the root
after every append. Proofs are made from all leaf hashes, which whoever proves must hold anyway, and are checked by
anybody.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import LedgerError

EMPTY_ROOT = hashlib.sha256(b"").digest()


def leaf_hash(leaf: bytes) -> bytes:
    """Return SHA-256(0x00 ‖ leaf)."""
    return hashlib.sha256(b"\x00" + leaf).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return SHA-256(0x01 ‖ left ‖ right)."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """A tree of `size` leaves as the roots of its perfect subtrees, largest first: one per set bit of `size`."""

    size: int = 0
    hashes: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """Return the tree with one more leaf, given its hash."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the tree with more leaves, given their hashes."""
        hashes, size = list(self.hashes), self.size
        for leaf in leaves:
            ones = size
            while ones & 1:
                leaf = node_hash(hashes.pop(), leaf)  # the carry of a binary counter
                ones >>= 1
            hashes.append(leaf)
            size += 1
        return Frontier(size, tuple(hashes))

    def root(self) -> bytes:
        """Return the tree's root; that of the empty tree is SHA-256 of nothing."""
        if not self.hashes:
            return EMPTY_ROOT
        root = self.hashes[-1]
        for left in reversed(self.hashes[:-1]):
            root = node_hash(left, root)
        return root


def root(leaves: Sequence[bytes]) -> bytes:
    """Return the root over leaf hashes."""
    return Frontier().extend(leaves).root()


def inclusion_proof(leaves: Sequence[bytes], index: int, size: int | None = None) -> tuple[bytes, ...]:
    """Return the audit path of leaf `index` in the tree of the first `size` leaves (RFC 6962 section 2.1.1)."""
    size = len(leaves) if size is None else size
    if not 0 <= index < size <= len(leaves):
        raise ValueError(f"there is no leaf {index} in a tree of {size}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(root(leaves[middle:end]))
            end = middle
        else:
            path.append(root(leaves[start:middle]))
            start = middle
    return tuple(reversed(path))


def consistency_proof(leaves: Sequence[bytes], old: int, new: int) -> tuple[bytes, ...]:
    """Return the proof that the first `old` leaves are a prefix of the first `new` (RFC 6962 section 2.1.2)."""
    if not 0 < old <= new <= len(leaves):
        raise ValueError(f"there is no consistency proof from {old} to {new} in a tree of {len(leaves)}")
    proof: list[bytes] = []
    start, end, whole = 0, new, True
    while old != end:
        middle = start + _split(end - start)
        if old <= middle:
            proof.append(root(leaves[middle:end]))
            end = middle
        else:
            proof.append(root(leaves[start:middle]))
            start, whole = middle, False
    return tuple(reversed(proof)) if whole else (root(leaves[start:end]), *reversed(proof))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> None:
    """Check an audit path (RFC 9162 section 2.1.3.2). Raises `LedgerError` unless it leads to `expected`."""
    if not 0 <= index < size:
        raise LedgerError(f"couldn't verify an inclusion proof: no leaf {index} in a tree of {size}")
    position, last, computed = index, size - 1, leaf
    for sibling in proof:
        if last == 0:
            raise LedgerError("couldn't verify an inclusion proof: it is too long")
        if position & 1 or position == last:
            computed = node_hash(sibling, computed)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            computed = node_hash(computed, sibling)
        position, last = position >> 1, last >> 1
    if last or computed != expected:
        raise LedgerError(f"couldn't verify that leaf {index} is in the tree of {size}: another root results")


def verify_consistency(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Check a consistency proof (RFC 9162 section 2.1.4.2). Raises `LedgerError` unless it connects the two roots.

    A proof from the empty tree proves nothing and is refused, an empty one included.
    """
    if not 0 < old <= new:
        raise LedgerError(f"couldn't verify a consistency proof: sizes {old} and {new}")
    if old == new:
        if proof or old_root != new_root:
            raise LedgerError(f"couldn't verify that two trees of {old} leaves are the same")
        return
    path = list(proof) if old & (old - 1) else [old_root, *proof]
    if not path:
        raise LedgerError("couldn't verify a consistency proof: it is empty")
    position, last = old - 1, new - 1
    while position & 1:
        position, last = position >> 1, last >> 1
    first = second = path[0]
    for sibling in path[1:]:
        if last == 0:
            raise LedgerError("couldn't verify a consistency proof: it is too long")
        if position & 1 or position == last:
            first, second = node_hash(sibling, first), node_hash(sibling, second)
            while not position & 1 and position:
                position, last = position >> 1, last >> 1
        else:
            second = node_hash(second, sibling)
        position, last = position >> 1, last >> 1
    if last or first != old_root or second != new_root:
        raise LedgerError(f"couldn't verify that the tree of {old} leaves is a prefix of that of {new}")


def _split(n: int) -> int:
    """Return the largest power of two below n."""
    return 1 << (n - 1).bit_length() - 1
