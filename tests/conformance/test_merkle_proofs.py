"""The published proofs for RFC 6962 trees: good ones are accepted, and every mutation of them refused.

The facts are of transparency-dev/merkle, by way of `tests/vectors/rfc6962-proofs.json`. What this tree does with proofs
of its own is in `tests/swarm/ledger/test_merkle.py`; here it meets those of others.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from swarm.errors import LedgerError
from swarm.ledger.merkle import EMPTY_ROOT, Tree, leaf_hash, node_hash, verify_consistency, verify_inclusion

VECTORS = Path(__file__).parents[1] / "vectors"
PROOFS = json.loads((VECTORS / "rfc6962-proofs.json").read_text())
TREE = json.loads((VECTORS / "rfc6962-tree.json").read_text())
HASHES = [bytes.fromhex(text) for text in PROOFS["hashes"]]

ZERO_TO_ZERO = "additional/sizes-are-equal-zero-and-proof-is-empty"


def names(table: str) -> list[str]:
    return [row[0] for row in PROOFS[table]]


def test_the_tables_are_whole() -> None:
    for table in ("inclusion", "consistency"):
        assert len(PROOFS[table]) == len(set(names(table))) == 98
        assert [row[-1] for row in PROOFS[table]].count(True) == 6


@pytest.mark.parametrize(
    ("name", "index", "size", "leaf", "root", "proof", "accepted"), PROOFS["inclusion"], ids=names("inclusion")
)
def test_inclusion(name: str, index: int, size: int, leaf: int, root: int, proof: list[int], accepted: bool) -> None:
    path = [HASHES[number] for number in proof]
    if accepted:
        verify_inclusion(HASHES[leaf], index, size, path, HASHES[root])
    else:
        with pytest.raises(LedgerError, match="^couldn't verify"):
            verify_inclusion(HASHES[leaf], index, size, path, HASHES[root])


@pytest.mark.parametrize(
    ("name", "old", "new", "old_root", "new_root", "proof", "accepted"),
    PROOFS["consistency"],
    ids=names("consistency"),
)
def test_consistency(
    name: str, old: int, new: int, old_root: int, new_root: int, proof: list[int], accepted: bool
) -> None:
    path = [HASHES[number] for number in proof]
    if accepted:
        verify_consistency(old, new, HASHES[old_root], HASHES[new_root], path)
    else:
        with pytest.raises(LedgerError, match="^couldn't verify"):
            verify_consistency(old, new, HASHES[old_root], HASHES[new_root], path)


def test_from_nothing_to_nothing_with_an_empty_proof_is_among_the_refused() -> None:
    # The trap of the set: sizes, roots and proof all agree, and whoever returns early on that accepts any first
    # checkpoint as verified.
    (row,) = [row for row in PROOFS["consistency"] if row[0] == ZERO_TO_ZERO]
    assert row[1:3] == [0, 0]
    assert row[-2:] == [[], False]
    with pytest.raises(LedgerError, match="no proof connects these sizes"):
        verify_consistency(0, 0, EMPTY_ROOT, EMPTY_ROOT, [])


def test_the_tree_makes_the_published_proofs() -> None:
    tree = Tree(leaf_hash(bytes.fromhex(leaf)) for leaf in TREE["leaves"])
    made = 0
    for name, index, size, leaf, root, proof, accepted in PROOFS["inclusion"]:
        if accepted and name.endswith("happy-path"):
            assert tree.inclusion_proof(index, size) == tuple(HASHES[number] for number in proof)
            assert tree.root(size) == HASHES[root]
            assert leaf_hash(bytes.fromhex(TREE["leaves"][index])) == HASHES[leaf]
            made += 1
    for name, old, new, old_root, new_root, proof, accepted in PROOFS["consistency"]:
        if accepted and name.endswith("happy-path"):
            assert tree.consistency_proof(old, new) == tuple(HASHES[number] for number in proof)
            assert (tree.root(old), tree.root(new)) == (HASHES[old_root], HASHES[new_root])
            made += 1
    assert made == 10


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        (EMPTY_ROOT, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"),
        (leaf_hash(b""), "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d"),
        (leaf_hash(b"L123456"), "395aa064aa4c29f7010acfe3f25db9485bbd4b91897b6ad7ad547639252b4d56"),
    ],
    ids=["empty root", "empty leaf", "leaf"],
)
def test_the_hash_constants(what: bytes, expected: str) -> None:
    assert what.hex() == expected


def test_the_constant_of_an_inner_node() -> None:
    # The published one hashes 4-byte children, which no proof may hold; the prefix is what it pins down.
    assert node_hash(b"N123", b"N456").hex() == "aa217fe888e47007fa15edab33c2b492a722cb106c64667fc2b044444de66bbb"
