"""The tree against RFC 6962 itself, written out recursively and slowly, and against its published answers."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import LedgerError, Reject
from swarm.ledger.merkle import (
    EMPTY_ROOT,
    SIZE_MAX,
    Frontier,
    Tree,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    root,
    verify_consistency,
    verify_inclusion,
)

SIZE = 130  # past two powers of two, with ragged trees on both sides of each
LEAVES = tuple(leaf_hash(b"leaf %d" % i) for i in range(SIZE))
TREE = Tree(LEAVES)
PUBLISHED = json.loads((Path(__file__).parents[2] / "vectors" / "rfc6962-tree.json").read_text())


def largest_power_below(n: int) -> int:
    k = 1
    while 2 * k < n:
        k *= 2
    return k


@functools.cache
def mth(start: int, end: int) -> bytes:
    """MTH(D[start:end]) of RFC 6962 section 2.1, word for word."""
    n = end - start
    if n == 0:
        return hashlib.sha256(b"").digest()
    if n == 1:
        return LEAVES[start]
    k = largest_power_below(n)
    return hashlib.sha256(b"\x01" + mth(start, start + k) + mth(start + k, end)).digest()


def path(m: int, start: int, end: int) -> tuple[bytes, ...]:
    """PATH(m, D[start:end]) of section 2.1.1."""
    n = end - start
    if n == 1:
        return ()
    k = largest_power_below(n)
    if m < k:
        return (*path(m, start, start + k), mth(start + k, end))
    return (*path(m - k, start + k, end), mth(start, start + k))


def subproof(m: int, start: int, end: int, whole: bool) -> tuple[bytes, ...]:
    """SUBPROOF(m, D[start:end], b) of section 2.1.2."""
    n = end - start
    if m == n:
        return () if whole else (mth(start, end),)
    k = largest_power_below(n)
    if m <= k:
        return (*subproof(m, start, start + k, whole), mth(start + k, end))
    return (*subproof(m - k, start + k, end, False), mth(start, start + k))


def depth(index: int, size: int) -> int:
    """How many nodes leaf `index` lies below the root."""
    found = 0
    while size > 1:
        k = largest_power_below(size)
        index, size = (index, k) if index < k else (index - k, size - k)
        found += 1
    return found


def flipped(value: bytes) -> bytes:
    return bytes([value[0] ^ 0x10]) + value[1:]


def damaged(proof: Sequence[bytes]) -> Iterator[tuple[bytes, ...]]:
    """Yield every proof with one element changed, dropped or repeated, and one too many at either end."""
    for i, value in enumerate(proof):
        yield (*proof[:i], flipped(value), *proof[i + 1 :])
        yield (*proof[:i], *proof[i + 1 :])
        yield (*proof[: i + 1], *proof[i:])
    yield (*proof, bytes(32))
    yield (bytes(32), *proof)


def includes(leaf: bytes, index: int, size: int, proof: Sequence[bytes], expected: bytes) -> bool:
    try:
        verify_inclusion(leaf, index, size, proof, expected)
    except LedgerError:
        return False
    return True


def consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        verify_consistency(old, new, old_root, new_root, proof)
    except LedgerError:
        return False
    return True


def test_the_empty_root_is_sha256_of_nothing() -> None:
    assert EMPTY_ROOT.hex() == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"
    assert root(()) == Frontier().root() == Tree().root() == EMPTY_ROOT


def test_leaves_and_nodes_hash_in_separate_domains() -> None:
    assert leaf_hash(b"") == hashlib.sha256(b"\x00").digest()
    assert node_hash(b"l" * 32, b"r" * 32) == hashlib.sha256(b"\x01" + b"l" * 32 + b"r" * 32).digest()
    assert leaf_hash(b"l" * 32 + b"r" * 32) != node_hash(b"l" * 32, b"r" * 32)


def test_the_published_eight_leaf_tree_has_its_published_roots() -> None:
    leaves = [leaf_hash(bytes.fromhex(leaf)) for leaf in PUBLISHED["leaves"]]
    tree, frontier = Tree(leaves), Frontier()
    for size, expected in enumerate(PUBLISHED["roots"]):
        assert root(leaves[:size]).hex() == tree.root(size).hex() == frontier.root().hex() == expected
        if size < len(leaves):
            frontier = frontier.append(leaves[size])


def test_three_leaves_by_hand() -> None:
    a, b, c = LEAVES[:3]
    ab = node_hash(a, b)
    assert root((a, b, c)) == node_hash(ab, c)
    assert inclusion_proof((a, b, c), 0) == (b, c)
    assert inclusion_proof((a, b, c), 2) == (ab,)
    assert inclusion_proof((a, b, c), 0, 2) == (b,)
    assert consistency_proof((a, b, c), 2, 3) == (c,)
    assert consistency_proof((a, b, c), 1, 3) == (b, c)
    assert consistency_proof((a, b, c), 3, 3) == ()


def test_every_root_and_frontier_is_that_of_the_definition() -> None:
    frontier = Frontier()
    for size in range(SIZE + 1):
        assert frontier == TREE.frontier(size) == Frontier().extend(LEAVES[:size])
        assert frontier.root() == TREE.root(size) == mth(0, size)
        frontier = frontier.append(LEAVES[size % SIZE])


def test_every_inclusion_proof_is_that_of_the_definition_and_verifies() -> None:
    for size in range(1, SIZE + 1):
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            assert proof == path(index, 0, size)
            verify_inclusion(LEAVES[index], index, size, proof, mth(0, size))


def test_every_consistency_proof_is_that_of_the_definition_and_verifies() -> None:
    for new in range(1, SIZE + 1):
        for old in range(1, new + 1):
            proof = TREE.consistency_proof(old, new)
            assert proof == subproof(old, 0, new, True)
            verify_consistency(old, new, mth(0, old), mth(0, new), proof)


def test_no_damaged_inclusion_proof_verifies() -> None:
    for size in (*range(1, 20), 31, 32, 33, 64, 65, 129, 130):
        for index in range(0, size, 1 + size // 40):
            leaf, proof, top = LEAVES[index], TREE.inclusion_proof(index, size), mth(0, size)
            assert not any(includes(leaf, index, size, bad, top) for bad in damaged(proof))
            assert not includes(flipped(leaf), index, size, proof, top)
            assert not includes(leaf, index, size, proof, flipped(top))
            others = (i for i in (-1, index - 1, index + 1, index ^ 1, size, index + size) if i != index)
            assert not any(includes(leaf, i, size, proof, top) for i in others)


def test_an_inclusion_proof_holds_for_no_size_with_another_path_length() -> None:
    # An audit path does not name the size it is for: only the root does, so a wrong size of like shape may still
    # pass. What no size may do is change the number of hashes that are looked at.
    for size in range(1, 65):
        for index in range(size):
            proof = TREE.inclusion_proof(index, size)
            for other in (0, -1, index, 2 * size + 1, 4 * size, SIZE_MAX, SIZE_MAX + 1):
                if not index < other <= SIZE_MAX or depth(index, other) != len(proof):
                    assert not includes(LEAVES[index], index, other, proof, mth(0, size))


def test_no_damaged_consistency_proof_verifies() -> None:
    for new in (*range(2, 20), 31, 32, 33, 64, 65, 129, 130):
        for old in range(1, new, 1 + new // 40):
            proof, first, second = TREE.consistency_proof(old, new), mth(0, old), mth(0, new)
            assert not any(consistent(old, new, first, second, bad) for bad in damaged(proof))
            assert not consistent(old, new, flipped(first), second, proof)
            assert not consistent(old, new, first, flipped(second), proof)
            assert not consistent(old, new, second, first, proof)
            assert not consistent(new, old, second, first, proof)
            assert not consistent(old, new, first, second, ())
            assert not consistent(old - 1, new, first, second, proof)
            assert not consistent(old, 2 * new + 1, first, second, proof)


def test_a_rewritten_history_has_no_consistency_proof() -> None:
    rewritten = Tree((*LEAVES[:6], flipped(LEAVES[6]), *LEAVES[7:20]))
    for old in range(7, 20):
        assert not consistent(old, 20, mth(0, old), rewritten.root(), rewritten.consistency_proof(old))
    verify_consistency(6, 20, mth(0, 6), rewritten.root(), rewritten.consistency_proof(6))


def test_nothing_is_consistent_with_the_empty_tree() -> None:
    assert not consistent(0, 0, EMPTY_ROOT, EMPTY_ROOT, ())
    assert not consistent(0, 5, EMPTY_ROOT, mth(0, 5), ())
    assert not consistent(-1, 5, EMPTY_ROOT, mth(0, 5), ())


def test_equal_sizes_take_equal_roots_and_an_empty_proof() -> None:
    verify_consistency(5, 5, mth(0, 5), mth(0, 5), ())
    assert not consistent(5, 5, mth(0, 5), mth(0, 4), ())
    assert not consistent(5, 5, mth(0, 5), mth(0, 5), (mth(0, 5),))


def test_bytes_may_not_move_between_the_hashes_of_a_proof() -> None:
    # Both concatenations hash alike, so only the lengths tell the second proof from the first.
    left, right = LEAVES[0], LEAVES[1]
    verify_inclusion(left, 0, 2, (right,), mth(0, 2))
    assert not includes(left + right[:1], 0, 2, (right[1:],), mth(0, 2))
    assert not includes(left[-1:] + right, 1, 2, (left[:-1],), mth(0, 2))
    verify_consistency(2, 3, mth(0, 2), mth(0, 3), (LEAVES[2],))
    assert not consistent(2, 3, mth(0, 2) + LEAVES[2][:1], mth(0, 3), (LEAVES[2][1:],))


def test_a_refusal_says_what_was_verified_what_is_wrong_and_what_to_do() -> None:
    proof = TREE.inclusion_proof(2, 7)
    for wrong, why in ((proof[:-1], "too short"), ((*proof, proof[0]), "too long"), (proof[::-1], "another root")):
        with pytest.raises(LedgerError, match=f"^couldn't verify that leaf 2 is in the tree of 7: .*{why}") as caught:
            verify_inclusion(LEAVES[2], 2, 7, wrong, mth(0, 7))
        assert caught.value.hint.startswith("Ask another member")
    proof = TREE.consistency_proof(3, 7)
    for wrong, why in (
        ((), "empty"),
        (proof[:-1], "too short"),
        ((*proof, proof[0]), "too long"),
        (proof[::-1], "other roots"),
        ((proof[0], b"", *proof[2:]), "not 32 bytes long"),
    ):
        with pytest.raises(LedgerError, match=f"^couldn't verify that the tree of 3 leaves .* of 7: .*{why}"):
            verify_consistency(3, 7, mth(0, 3), mth(0, 7), wrong)


def test_a_proof_longer_than_any_tree_is_refused() -> None:
    assert not includes(LEAVES[0], 0, SIZE_MAX, (bytes(32),) * 100, mth(0, 2))
    assert not consistent(3, SIZE_MAX, mth(0, 3), mth(0, 4), (bytes(32),) * 200)
    assert not includes(LEAVES[0], 0, SIZE_MAX + 1, (bytes(32),) * 64, mth(0, 2))


@pytest.mark.parametrize(("index", "size"), [(-1, 5), (5, 5), (0, 0), (0, 131), (0, -1)])
def test_there_is_no_proof_for_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(ValueError, match=r"leaf|leaves"):
        TREE.inclusion_proof(index, size)


@pytest.mark.parametrize(("old", "new"), [(0, 0), (0, 5), (6, 5), (5, 131), (-1, 5)])
def test_there_is_no_consistency_proof_for_sizes_the_tree_never_had(old: int, new: int) -> None:
    with pytest.raises(ValueError, match="leaves"):
        TREE.consistency_proof(old, new)


def test_proofs_have_the_length_the_light_client_is_promised() -> None:
    tree = Tree(LEAVES[i % SIZE] for i in range(5000))
    assert len(tree) == 5000
    assert max(len(tree.inclusion_proof(i)) for i in range(0, 5000, 7)) == 13  # ceil(log2 5000)
    assert max(len(tree.consistency_proof(i)) for i in range(1, 5000, 7)) <= 14


def test_a_frontier_is_never_changed_by_what_is_appended_to_it() -> None:
    before = Frontier().extend(LEAVES[:7])
    hashes = before.hashes
    before.append(LEAVES[7])
    before.extend(LEAVES[7:20])
    assert before == Frontier(7, hashes)
    assert before.extend(()) == before


def test_a_frontier_of_seven_leaves_is_written_as_its_size_and_three_hashes() -> None:
    frontier = Frontier().extend(LEAVES[:7])
    assert frontier.encode() == (7).to_bytes(8, "big") + mth(0, 4) + mth(4, 6) + LEAVES[6]
    assert Frontier().encode() == bytes(8)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        bytes(9),
        (1).to_bytes(8, "big"),
        (1).to_bytes(8, "big") + bytes(31),
        (1).to_bytes(8, "big") + bytes(33),
        (2).to_bytes(8, "big") + bytes(64),
        (2**63).to_bytes(8, "big") + bytes(32),
        b"\xff" * 8 + bytes(64 * 32),
    ],
)
def test_bytes_that_are_no_frontier_are_rejected(data: bytes) -> None:
    with pytest.raises(Reject, match="couldn't read a frontier"):
        Frontier.decode(data)


@pytest.mark.parametrize(("size", "count"), [(0, 1), (1, 0), (3, 1), (-1, 1), (2**63, 1)])
def test_a_frontier_with_the_wrong_number_of_hashes_cannot_be_made(size: int, count: int) -> None:
    with pytest.raises(ValueError, match="no frontier"):
        Frontier(size, (bytes(32),) * count)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 40), max_size=12))
def test_however_leaves_arrive_the_frontier_and_tree_are_the_same(batches: list[int]) -> None:
    frontier, tree, leaves = Frontier(), Tree(), [leaf_hash(b"%d" % i) for i in range(sum(batches))]
    start = 0
    for count in batches:
        fresh = leaves[start : start + count]
        frontier = frontier.append(fresh[0]) if count == 1 else frontier.extend(iter(fresh))
        if count == 1:
            tree.append(fresh[0])
        else:
            tree.extend(iter(fresh))
        start += count
    assert frontier.size == len(tree) == start
    assert frontier == tree.frontier()
    assert frontier.root() == tree.root() == root(leaves)
    assert Frontier.decode(frontier.encode()) == frontier


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 700), data=st.data())
def test_proofs_from_larger_trees_verify(size: int, data: st.DataObject) -> None:
    leaves = [leaf_hash(b"%d" % i) for i in range(size)]
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    verify_inclusion(leaves[index], index, size, inclusion_proof(leaves, index), root(leaves))
    verify_consistency(old, size, root(leaves[:old]), root(leaves), consistency_proof(leaves, old))


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_whatever_a_frontier_is_read_from_is_what_it_is_written_as(data: bytes) -> None:
    try:
        frontier = Frontier.decode(data)
    except Reject:
        return
    assert frontier.encode() == data
