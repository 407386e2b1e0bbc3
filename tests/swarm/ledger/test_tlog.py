"""Checkpoints, proofs, policies and tiles: the published examples, known trees, and everything that is changed."""

from __future__ import annotations

import functools
import hashlib
import math
import random
from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import LedgerError, Reject
from swarm.ledger import note as n
from swarm.ledger import tiles, tlog
from swarm.ledger.block import quorum
from swarm.ledger.merkle import EMPTY_ROOT, Tree, leaf_hash, root, verify_consistency, verify_inclusion
from tests.builders import identity

LOG = "oncology/7f3a9c0d1e2b4a5f"

# c2sp.org/tlog-checkpoint, the example's text.
SOFA = "example.com/behind-the-sofa\n20852163\nCsUYapGGPo4dkMgIAUqom/Xajj7h2fB2MPA3j2jxq2I=\n"

# transparency-dev/formats, witness/witness_policy_test.go: keys of real witnesses.
SIGSUM = "sigsum.org+e4ade967+AZuUY6B08pW3QVHu8uvsrxWPcAv9nykap2Nb4oxCee+r"
EXAMPLE = "example.com+3753d3de+AebBhMcghIUoavZpjuDofa4sW6fYHyVn7gvwDBfvkvuM"
REMORA = "remora.n621.de+da77ade7+BOvN63jn/bLvkieywe8R6UYAtVtNbZpXh34x7onlmtw2"


def members(count: int) -> list[tuple[str, bytes]]:
    return [(f"site-{i}", identity(i).cosign_key.public) for i in range(count)]


def signed(text: str, *, logs: Sequence[int] = (0,), cosigners: Sequence[int] = (), log: str = LOG) -> bytes:
    """Return a text with log lines and cosignatures of members, the i-th of them made in second 100 + i."""
    lines = [n.sign(tlog.log_key(log, identity(i).cosign_key.public), text, identity(i).cosign_key.sign) for i in logs]
    for i in cosigners:
        secret = identity(i).cosign_key
        key = tlog.cosigner_key(log, f"site-{i}", secret.public)
        lines.append(n.cosign(key, text, 100 + i, secret.sign))
    return n.Note(text, tuple(lines)).encode()


@functools.cache
def leaves(count: int) -> tuple[bytes, ...]:
    return tuple(b"entry %d" % i for i in range(count))


@functools.cache
def tree(count: int) -> Tree:
    return Tree(leaf_hash(leaf) for leaf in leaves(count))


def head(size: int) -> tlog.Checkpoint:
    return tlog.Checkpoint(LOG, size, tree(size).root())


# --- checkpoints ------------------------------------------------------------------------------------------------


def test_the_published_checkpoint_is_read_and_written_back() -> None:
    found = tlog.Checkpoint.decode(SOFA)
    assert (found.origin, found.size, found.root.hex()[:8]) == ("example.com/behind-the-sofa", 20852163, "0ac5186a")
    assert found.encode() == SOFA
    extended = f"{SOFA}more\n"
    assert tlog.Checkpoint.decode(extended).extensions == ("more",)
    assert tlog.Checkpoint.decode(extended).encode() == extended


def test_the_origin_is_a_url_without_a_scheme_that_ends_with_the_ledgers_id() -> None:
    assert tlog.origin("oncology", bytes.fromhex("7f3a9c0d1e2b4a5f") + bytes(24)) == LOG
    assert tlog.cosigner_key(LOG, "charite", identity(0).cosign_key.public).name == f"{LOG}/charite"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n\n",
        "a\n1\n",
        SOFA[:-1],
        SOFA + "\n",
        SOFA.replace("example.com/behind-the-sofa", ""),
        SOFA.replace("20852163", "020852163"),
        SOFA.replace("20852163", "-1"),
        SOFA.replace("20852163", "+1"),
        SOFA.replace("20852163", " 1"),
        SOFA.replace("20852163", str(2**63)),
        SOFA.replace("q2I=", "q2I"),
        SOFA.replace("q2I=", "q2J="),
        SOFA.replace("CsUY", ""),
        SOFA.replace("\nCsUY", "\n\nCsUY"),
    ],
)
def test_what_is_no_checkpoint_is_refused(text: str) -> None:
    with pytest.raises(Reject, match="couldn't read"):
        tlog.Checkpoint.decode(text)


# --- proofs -----------------------------------------------------------------------------------------------------


def test_a_proof_is_written_as_the_specification_says() -> None:
    # The cases of transparency-dev/formats, proof/tlog_proof_test.go, with their text.
    one, two = hashlib.sha256(b"hash1").digest(), hashlib.sha256(b"hash2").digest()
    first, second = n.to_base64(one), n.to_base64(two)
    cases = {
        f"c2sp.org/tlog-proof@v1\nindex 5\n{first}\n{second}\n\ntest checkpoint\n": tlog.Proof(
            5, (one, two), b"test checkpoint\n"
        ),
        f"c2sp.org/tlog-proof@v1\nextra ZXh0cmEgaW5mb3JtYXRpb24=\nindex 10\n{first}\n\ncheckpoint data\n": tlog.Proof(
            10, (one,), b"checkpoint data\n", b"extra information"
        ),
        "c2sp.org/tlog-proof@v1\nindex 0\n\ncheckpoint\n": tlog.Proof(0, (), b"checkpoint\n"),
    }
    for text, proof in cases.items():
        assert proof.encode() == text.encode()
        assert tlog.Proof.decode(text.encode()) == proof


HEADER = "c2sp.org/tlog-proof@v1\n"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "wrong-header\nindex 0\n\ncheckpoint\n",
        f"{HEADER}extra !!notbase64!!\nindex 0\n\ncheckpoint\n",
        f"{HEADER}extra \nindex 0\n\ncheckpoint\n",
        f"{HEADER}\n\ncheckpoint\n",
        f"{HEADER}index notanumber\n\ncheckpoint\n",
        f"{HEADER}index -5\n\ncheckpoint\n",
        f"{HEADER}index 05\n\ncheckpoint\n",
        f"{HEADER}index 0\n!!notbase64!!\n\ncheckpoint\n",
        f"{HEADER}index 0\n{n.to_base64(bytes(64))}\n\ncheckpoint\n",
        f"{HEADER}index 0\n" + "a" * 65 * 1024 + "\n",
        f"{HEADER}index 0\n{n.to_base64(bytes(32))}\ncheckpoint\n",
        f"{HEADER}index 0\nextra AAAA\n\ncheckpoint\n",
        f"{HEADER}index 0\n" + f"{n.to_base64(bytes(32))}\n" * 64 + "\ncheckpoint\n",
        f"{HEADER}index 0\r\n\r\ncheckpoint\n",
    ],
)
def test_what_is_no_proof_is_refused(text: str) -> None:
    with pytest.raises(Reject, match="couldn't read"):
        tlog.Proof.decode(text.encode())


def test_a_proof_has_as_many_hashes_as_the_tree_has_levels() -> None:
    for size in (1, 2, 3, 7, 8, 9, 255, 256, 257, 1000):
        most = max(len(tree(size).inclusion_proof(index)) for index in range(size))
        assert 32 * most == 32 * math.ceil(math.log2(size))


def test_every_change_of_a_proof_of_a_small_tree_is_noticed() -> None:
    size, index = 11, 6
    proof = tlog.Proof(index, tree(size).inclusion_proof(index), signed(head(size).encode()))
    leaf = leaf_hash(leaves(size)[index])
    proof.verify(leaf, head(size))
    for at in range(len(proof.path)):
        turned = bytes((proof.path[at][0] ^ 1,)) + proof.path[at][1:]
        wrong = [(*proof.path[:at], turned, *proof.path[at + 1 :]), proof.path[:at] + proof.path[at + 1 :]]
        wrong += [(*proof.path[:at], proof.path[at], *proof.path[at:]), proof.path[at:] + proof.path[:at]]
        for path in wrong:
            if path != proof.path:
                with pytest.raises(LedgerError):
                    replace(proof, path=path).verify(leaf, head(size))
    for other in range(size + 3):
        if other != index:
            with pytest.raises(LedgerError):
                replace(proof, index=other).verify(leaf, head(size))
    for other in range(1, 2 * size):
        if other != size:
            with pytest.raises(LedgerError):
                proof.verify(leaf, replace(head(size), root=tree(other).root(), size=other))
    with pytest.raises(LedgerError):
        proof.verify(leaf_hash(b"entry 7"), head(size))


def test_the_steps_of_a_proof_lead_to_the_root() -> None:
    for size in range(1, 40):
        for index in range(size):
            path = tree(size).inclusion_proof(index)
            way = tlog.steps(leaf_hash(leaves(size)[index]), index, size, path)
            assert [step.sibling for step in way] == list(path)
            assert (way[-1].result if way else leaf_hash(leaves(size)[index])) == tree(size).root()


def test_a_consistency_proof_is_the_body_of_the_witness_protocol() -> None:
    proof = tlog.Consistency(6, tree(11).consistency_proof(6), signed(head(11).encode()))
    lines = proof.encode().split(b"\n")
    assert (lines[0], lines[1 + len(proof.path)]) == (b"old 6", b"")
    assert tlog.Consistency.decode(proof.encode()) == proof
    proof.verify(tree(6).root(), head(11))
    for old_root, new in ((tree(5).root(), head(11)), (tree(6).root(), head(12))):
        with pytest.raises(LedgerError):
            proof.verify(old_root, new)
    for bad in (b"old 06\n\nx\n", b"new 6\n\nx\n", b"old 6\nAAAA\n\nx\n", b"old 6\n"):
        with pytest.raises(Reject):
            tlog.Consistency.decode(bad)


# --- policies ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 3, 4, 7, 10, 50])
def test_the_policy_of_a_swarm_asks_for_its_quorum_of_cosignatures_and_for_a_log(count: int) -> None:
    needed = quorum(count)
    policy = tlog.members_policy(LOG, members(count), needed)
    assert tlog.Policy.decode(policy.encode().encode()) == policy
    text = head(11).encode()
    good = policy.check(n.parse(signed(text, cosigners=range(needed))))
    assert (good.checkpoint, len(good.cosigners)) == (head(11), needed)
    assert good.cosigners[f"{LOG}/site-0"] == 100
    with pytest.raises(LedgerError, match=f"{needed - 1} of the policy's witnesses cosigned, {needed} of {count}"):
        policy.check(n.parse(signed(text, cosigners=range(needed - 1))))
    with pytest.raises(LedgerError, match="no log of the policy"):
        policy.check(n.parse(signed(text, logs=(), cosigners=range(needed))))


def test_the_same_cosignature_again_does_not_make_a_quorum() -> None:
    policy = tlog.members_policy(LOG, members(4), 3)
    with pytest.raises(LedgerError, match="2 of the policy's witnesses"):
        policy.check(n.parse(signed(head(11).encode(), cosigners=(0, 1, 1, 1, 0))))


def test_another_origin_another_name_or_another_key_does_not_count() -> None:
    policy = tlog.members_policy(LOG, members(4), 3)
    other = "oncology/0000000000000000"
    text = replace(head(11), origin=other).encode()
    for note in (signed(text, cosigners=(0, 1, 2)), signed(text, cosigners=(0, 1, 2), log=other)):
        with pytest.raises(LedgerError, match="no log of the policy"):
            policy.check(n.parse(note))
    strangers = signed(head(11).encode(), cosigners=(0, 1, 5, 6))
    with pytest.raises(LedgerError, match="2 of the policy's witnesses"):
        policy.check(n.parse(strangers))


def test_unknown_kinds_of_signature_and_unknown_keys_are_skipped() -> None:
    note = n.parse(signed(head(11).encode(), cosigners=(0, 1, 2)))
    extra = [n.Line("witness.example", bytes(4), bytes(2428)), n.Line(LOG, b"abcd", bytes(64))]
    policy = tlog.members_policy(LOG, members(4), 3)
    assert len(policy.check(n.Note(note.text, (*extra, *note.lines))).cosigners) == 3


def test_a_forged_line_of_a_member_voids_a_note_that_would_be_good_without_it() -> None:
    note = n.parse(signed(head(11).encode(), cosigners=(0, 1, 2, 3)))
    last = note.lines[-1]
    forged = n.Line(last.name, last.id, last.signature[:-1] + bytes((last.signature[-1] ^ 1,)))
    with pytest.raises(LedgerError, match="site-3 does not verify"):
        tlog.members_policy(LOG, members(4), 3).check(n.Note(note.text, (*note.lines[:-1], forged)))


def test_a_policy_of_others_with_comments_groups_of_groups_and_urls_is_read() -> None:
    text = f"""
# comment
witness   w1\t{SIGSUM}  https://sigsum.org/witness/
  witness w2 {EXAMPLE}

   #comment
witness w3 {REMORA}
group a any w1  w2
group b all a w3
\t quorum   b"""
    policy = tlog.Policy.decode(text.encode())
    assert [key.type for key in policy.witnesses.values()] == [1, 1, 4]
    assert policy.groups == {"a": tlog.Group(1, ("w1", "w2")), "b": tlog.Group(2, ("a", "w3"))}
    assert policy.quorum == "b"
    assert tlog.Policy.decode(policy.encode().encode()) == policy


def test_groups_of_groups_and_a_quorum_of_nobody_are_judged() -> None:
    keys = {name: tlog.cosigner_key(LOG, name, key) for name, key in members(4)}
    logs = (tlog.log_key(LOG, members(1)[0][1]),)
    groups = {
        "x": tlog.Group(2, ("site-0", "site-1")),
        "y": tlog.Group(1, ("site-2", "site-3")),
        "z": tlog.Group(2, ("x", "y")),
    }
    policy = tlog.Policy(logs, keys, groups, "z")
    text = head(11).encode()
    for cosigners, good in (((0, 1, 3), True), ((0, 2, 3), False), ((0, 1), False), ((2, 3), False)):
        note = n.parse(signed(text, cosigners=cosigners))
        if good:
            policy.check(note)
        else:
            with pytest.raises(LedgerError, match="2 of 2 needed"):
                policy.check(note)
    assert tlog.Policy(logs).check(n.parse(signed(text))).cosigners == {}
    with pytest.raises(LedgerError, match="site-1 is needed"):
        tlog.Policy(logs, keys, {}, "site-1").check(n.parse(signed(text, cosigners=(0,))))


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        ("", "no quorum"),
        (f"witness w1 {SIGSUM}", "no quorum"),
        ("quorum unknown", "'unknown'"),
        (f"witness w1 {SIGSUM}\nwitness w1 {EXAMPLE}\nquorum w1", "taken"),
        (f"witness w1 {SIGSUM}\nwitness w2 {SIGSUM}\nquorum w1", "same key twice"),
        (f"log {SIGSUM}\nlog {SIGSUM}\nquorum none", "same key twice"),
        (f"witness none {SIGSUM}\nquorum none", "taken"),
        (f"witness w1 {SIGSUM}\ngroup none 1 w1\nquorum none", "taken"),
        (f"witness w1 {SIGSUM}\ngroup g -1 w1\nquorum g", "plain decimal"),
        (f"witness w1 {SIGSUM}\ngroup g 0 w1\nquorum g", "nobody"),
        (f"witness w1 {SIGSUM}\ngroup g 2 w1\nquorum g", "in range"),
        (f"witness w1 {SIGSUM}\ngroup g 1\nquorum g", "lacks"),
        (f"witness w1 {SIGSUM}\ngroup g 1 w1 w1\nquorum g", "in a group already"),
        (f"witness w1 {SIGSUM}\ngroup g 1 w1\ngroup h 1 w1\nquorum g", "in a group already"),
        (f"group g 1 w1\nwitness w1 {SIGSUM}\nquorum g", "before it"),
        (f"witness w1 {SIGSUM}\nquorum w1\nquorum w1", "second"),
        (f"witness w1 {SIGSUM[:-1]}\nquorum w1", "line 1"),
        ("log\nquorum none", "lacks"),
        ("weight 3\nquorum none", "'weight'"),
        ("quorum none\r\n", "line 1 holds control"),
        ("#\x7f\nquorum none", "line 1 holds control"),
    ],
)
def test_a_policy_that_could_mean_two_things_or_nothing_is_refused(policy: str, why: str) -> None:
    with pytest.raises(Reject, match=why):
        tlog.Policy.decode(policy.encode())


@given(st.binary(max_size=200))
def test_no_policy_proof_or_checkpoint_raises_anything_but_what_it_says(noise: bytes) -> None:
    for data in (noise, b"quorum none\n" + noise, b"witness " + noise, HEADER.encode() + b"index 0\n" + noise):
        for read in (tlog.Policy.decode, tlog.Proof.decode, tlog.Consistency.decode):
            try:
                read(data)
            except Reject:
                continue


# --- tiles ------------------------------------------------------------------------------------------------------


def test_the_names_of_tiles_are_the_specifications() -> None:
    assert tiles.tile_name(0, 0) == "tile/0/000"
    assert tiles.tile_name(1, 1234067) == "tile/1/x001/x234/067"
    assert tiles.tile_name(0, 273, 112) == "tile/0/273.p/112"
    assert tiles.bundle_name(0, 37) == "tile/entries/000.p/37"


def test_a_tree_of_70000_has_the_tiles_the_specification_counts() -> None:
    names = [name for name, _ in tiles.write(b"%d" % i for i in range(70_000))]
    assert len(names) == len(set(names)) == 273 + 1 + 1 + 1 + 1 + 274
    assert {"tile/0/272", "tile/0/273.p/112", "tile/1/000", "tile/1/001.p/17", "tile/2/000.p/1"} <= set(names)


@pytest.mark.parametrize("size", [0, 1, 2, 255, 256, 257, 511, 512, 600])
def test_tiles_hold_the_tree_and_every_proof_of_it(size: int) -> None:
    files = dict(tiles.write(leaves(size)))
    assert files == dict(tiles.write(leaves(size)))
    assert ("tile/1/000.p/1" in files, "tile/0/000.p/255" in files) == (256 <= size < 512, size == 255)
    if size == 0:
        assert (files, tree(0).root()) == ({}, EMPTY_ROOT)
        return
    found = tiles.Tiles(size, files.get)
    assert found.root() == tree(size).root()
    rng = random.Random(size)
    for index in {0, size - 1, *(rng.randrange(size) for _ in range(40))}:
        assert found.leaf(index) == leaf_hash(leaves(size)[index])
        assert found.inclusion_proof(index) == tree(size).inclusion_proof(index)
        assert found.consistency_proof(index + 1) == tree(size).consistency_proof(index + 1)
    assert list(tiles.entries(head(size), files.get)) == list(leaves(size))
    assert tiles.check(head(size), files.get) == len(files)


def test_a_proof_reads_two_tiles_a_level_at_most_and_the_topmost_once() -> None:
    """At most 2*ceil(log256 N) - 1 files: up to 65,536 leaves that is ceil(log256 N) + 1."""
    for size, most in ((1, 1), (256, 1), (257, 3), (65_536, 3), (66_000, 5)):
        files = dict(tiles.write(b"%d" % i for i in range(size)))
        levels = max(1, math.ceil(math.log(size, 256) - 1e-9))
        worst = 0
        rng = random.Random(size)
        for index in {0, size - 1, size // 2, *(rng.randrange(size) for _ in range(60))}:
            found = tiles.Tiles(size, files.get)
            path = found.inclusion_proof(index)
            worst = max(worst, found.opened)
            verify_inclusion(leaf_hash(b"%d" % index), index, size, path, tiles.Tiles(size, files.get).root())
        assert worst <= 2 * levels - 1 == most
        assert worst <= levels + 1 or size > 65_536


@settings(deadline=None, max_examples=60)
@given(st.lists(st.binary(max_size=9), min_size=1, max_size=600), st.data())
def test_proofs_from_tiles_verify(entries: list[bytes], data: st.DataObject) -> None:
    files, hashes = dict(tiles.write(entries)), [leaf_hash(entry) for entry in entries]
    size = len(entries)
    old, index = data.draw(st.integers(1, size)), data.draw(st.integers(0, size - 1))
    found = tiles.Tiles(size, files.get)
    verify_inclusion(hashes[index], index, size, found.inclusion_proof(index), root(hashes))
    verify_consistency(old, size, root(hashes[:old]), root(hashes), found.consistency_proof(old))


def test_a_partial_tile_that_is_gone_is_read_from_the_full_one() -> None:
    small, large = dict(tiles.write(leaves(100))), dict(tiles.write(leaves(300)))
    assert tiles.Tiles(100, large.get).root() == tree(100).root()
    assert tiles.check(head(100), large.get) == len(small) == 2


def test_every_bit_of_a_small_directory_counts() -> None:
    files = dict(tiles.write(leaves(20)))
    for name, data in files.items():
        for wrong in (data[:-1], data + b"\0", None, b""):
            with pytest.raises(LedgerError):
                tiles.check(head(20), {**files, name: wrong}.get)
        for at in range(len(data)):
            changed = data[:at] + bytes((data[at] ^ 1,)) + data[at + 1 :]
            with pytest.raises(LedgerError):
                tiles.check(head(20), {**files, name: changed}.get)
    with pytest.raises(LedgerError):
        tiles.check(replace(head(20), root=bytes(32)), files.get)
    with pytest.raises(LedgerError):
        tiles.check(head(21), files.get)


def test_a_bundle_that_ends_too_early_is_said_to() -> None:
    files = dict(tiles.write(leaves(20)))
    name = "tile/entries/000.p/20"
    with pytest.raises(LedgerError, match=f"couldn't use {name}: it ends within its entry 19"):
        list(tiles.entries(head(20), {**files, name: files[name][:-1]}.get))


def test_the_longest_leaf_has_65535_bytes() -> None:
    files = dict(tiles.write([b"a" * 65_535]))
    assert len(files["tile/entries/000.p/1"]) == 65_537
    with pytest.raises(ValueError, match="65536"):
        list(tiles.write([b"a" * 65_536]))
