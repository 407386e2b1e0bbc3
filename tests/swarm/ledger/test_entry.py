"""Entries: what is signed, what an id covers, and everything a reader refuses before it has any context."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec, identity
from swarm.errors import Reject
from swarm.identity import Identity
from swarm.ledger import entry as e

LEDGER = hashlib.sha256(b"a ledger").digest()
WHO = Identity.from_seed(bytes(range(32)), bytes(32))
BODY = e.Evaluation(3, bytes(range(32)), 250, ((0, 912_000), (1, -5)))
FROZEN = json.loads((Path(__file__).parents[2] / "vectors" / "ledger-v1.json").read_text())


def signed(*, ledger_id: bytes = LEDGER, kind: int = e.EVALUATION, seq: int = 4, body: object = BODY) -> e.Entry:
    return e.sign_entry(
        WHO.id_key,
        ledger_id=ledger_id,
        author=WHO.node,
        kind=kind,
        seq=seq,
        prev=b"\x07" * 32,
        ts_ms=1_700_000_000_123,
        body=body,
    )


def test_a_signed_entry_reads_back_and_verifies() -> None:
    entry = signed()
    again = e.decode_entry(entry.encode())
    assert again == entry
    e.verify_entry(again, WHO.id_key.public, LEDGER)
    assert codec.decode(again.body, e.Evaluation, limit=e.ENTRY_BYTES_MAX) == BODY


def test_the_leaf_is_an_array_of_nine_with_the_signature_last() -> None:
    entry = signed()
    assert entry.encode() == b"\x99" + entry.signed_bytes()[1:] + b"\xc4\x40" + entry.signature
    assert entry.signed_bytes()[:3] == bytes([0x98, e.ENTRY_VERSION, e.EVALUATION])


def test_the_signature_covers_the_domain_the_ledger_and_every_field_but_itself() -> None:
    entry = signed()
    message = b"swarm-ledger/entry/v1\0" + LEDGER + entry.signed_bytes()
    assert identity.verify(WHO.id_key.public, message, entry.signature)
    changes: dict[str, object] = {
        "version": 2,
        "kind": e.ANNOTATION,
        "author": bytes(32),
        "seq": 5,
        "prev": bytes(32),
        "ts_ms": 1,
        "body": b"\x90",
        "signature": bytes(64),
    }
    for name, value in changes.items():
        with pytest.raises(Reject, match="signature does not verify"):
            e.verify_entry(msgspec.structs.replace(entry, **{name: value}), WHO.id_key.public, LEDGER)


def test_the_id_leaves_out_the_signature_and_nothing_else() -> None:
    entry = signed()
    assert entry.id == hashlib.sha256(entry.signed_bytes()).digest()
    assert msgspec.structs.replace(entry, signature=bytes(64)).id == entry.id
    assert signed(seq=5).id != entry.id
    assert signed(body=b"other").id != entry.id


def test_an_entry_of_another_ledger_is_refused_even_with_a_good_signature() -> None:
    other = hashlib.sha256(b"another ledger").digest()
    entry = signed(ledger_id=other)
    e.verify_entry(entry, WHO.id_key.public, other)
    with pytest.raises(Reject, match="belongs to another ledger"):
        e.verify_entry(entry, WHO.id_key.public, LEDGER)
    with pytest.raises(Reject, match="signature does not verify"):
        e.verify_entry(msgspec.structs.replace(entry, ledger_id=LEDGER), WHO.id_key.public, LEDGER)


def test_another_members_key_does_not_verify_an_entry() -> None:
    with pytest.raises(Reject, match="signature does not verify"):
        e.verify_entry(signed(), WHO.vote_key.public, LEDGER)


@pytest.mark.parametrize("kind", e.KIND_NAMES)
def test_every_named_kind_is_read(kind: int) -> None:
    assert e.decode_entry(signed(kind=kind).encode()).kind == kind


@pytest.mark.parametrize("kind", [-1, 99, 255, 2**63])
def test_an_unknown_kind_is_refused_not_skipped(kind: int) -> None:
    with pytest.raises(Reject, match=f"version 1 kind {kind} is unknown"):
        e.decode_entry(signed(kind=kind).encode())


@pytest.mark.parametrize("version", [-1, 0, 2, 2**64 - 1])
def test_an_unknown_version_is_refused(version: int) -> None:
    with pytest.raises(Reject, match=f"version {version} kind 13 is unknown"):
        e.decode_entry(msgspec.structs.replace(signed(), version=version).encode())


def test_kind_numbers_are_on_disk_for_ever() -> None:
    names = "charter contribution attest round_commit member_proposal member_vote epoch evidence block_cert snapshot"
    names += " annotation anchor round_close evaluation receipt partial push score"
    names += " mask_keys mask_roster mask_deal mask_reveal"
    assert list(e.KIND_NAMES.items()) == list(enumerate(names.split()))
    assert [e.REASONS[code] for code in (1, 2, 3)] == ["unusable", "unavailable", "started from another model"]
    assert e.REASONS[4] == "in a round of which no mean came"


@pytest.mark.parametrize("name", ["ledger_id", "author", "prev"])
@pytest.mark.parametrize("length", [0, 31, 33])
def test_a_hash_of_another_length_is_refused(name: str, length: int) -> None:
    with pytest.raises(Reject, match="not 32 bytes long"):
        e.decode_entry(msgspec.structs.replace(signed(), **{name: bytes(length)}).encode())


@pytest.mark.parametrize("name", ["seq", "ts_ms"])
@pytest.mark.parametrize("value", [-1, 2**63, 2**64 - 1])
def test_a_number_that_is_no_signed_64_bit_count_is_refused(name: str, value: int) -> None:
    with pytest.raises(Reject, match="out of range"):
        e.decode_entry(msgspec.structs.replace(signed(), **{name: value}).encode())
    largest = msgspec.structs.replace(signed(), **{name: 2**63 - 1})
    assert e.decode_entry(largest.encode()) == largest


def test_an_entry_may_have_65535_bytes_and_no_more() -> None:
    room = e.ENTRY_BYTES_MAX - len(signed(body=b"x" * 60_000).encode()) + 60_000
    largest = signed(body=b"x" * room).encode()
    assert len(largest) == 65_535
    e.verify_entry(e.decode_entry(largest), WHO.id_key.public, LEDGER)
    with pytest.raises(Reject, match="65536 bytes, at most 65535 are allowed"):
        e.decode_entry(signed(body=b"x" * (room + 1)).encode())


def test_a_leaf_with_a_field_more_or_less_is_refused() -> None:
    entry = signed()
    fields: tuple[object, ...] = msgspec.structs.astuple(entry)
    for wrong in (fields[:-1], (*fields, 0), (*fields, b""), ()):
        with pytest.raises(Reject):
            e.decode_entry(codec.encode(wrong))


def test_a_leaf_in_a_longer_spelling_is_refused() -> None:
    leaf = signed().encode()
    assert leaf[1] == e.ENTRY_VERSION
    with pytest.raises(Reject, match="not in canonical form"):
        e.decode_entry(leaf[:1] + b"\xcc" + leaf[1:])
    with pytest.raises(Reject, match="not in canonical form"):
        e.decode_entry(b"\xdc\x00\x09" + leaf[1:])


def test_a_derived_entry_has_no_author_and_is_the_same_bytes_for_everybody() -> None:
    close = e.RoundClose(1, 0, ((2, 100), (3, 250)), (), ())
    made = [e.derived_entry(ledger_id=LEDGER, kind=e.ROUND_CLOSE, index=9, ts_ms=77, body=close) for _ in range(2)]
    assert made[0].encode() == made[1].encode()
    assert (made[0].author, made[0].seq, made[0].prev) == (bytes(32), 9, bytes(32))
    assert made[0].signature == b""
    assert e.decode_entry(made[0].encode()) == made[0]


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_changed_leaf_is_refused_or_is_another_entry(data: st.DataObject) -> None:
    entry = signed()
    leaf = bytearray(entry.encode())
    at = data.draw(st.integers(0, len(leaf) - 1))
    leaf[at] ^= data.draw(st.integers(1, 255))
    try:
        other = e.decode_entry(bytes(leaf))
        assert other != entry
        assert other.encode() == leaf
        e.verify_entry(other, WHO.id_key.public, LEDGER)
    except Reject:
        return
    raise AssertionError("a changed leaf was accepted")


def test_the_bytes_of_an_entry_are_frozen() -> None:
    frozen = FROZEN["entry"]
    assert signed().encode().hex() == frozen["leaf"]
    assert signed().id.hex() == frozen["id"]
    assert e.decode_entry(bytes.fromhex(frozen["leaf"])) == signed()


def test_the_bytes_of_every_body_are_frozen() -> None:
    h = [bytes([i]) * 32 for i in range(6)]
    bodies: dict[str, msgspec.Struct] = {
        "contribution": e.Contribution(7, 1, 40, h[0], h[1], 4096, 120, ((0, -3),), (8000, 5, 1500), h[2], h[3]),
        "sliced": e.Contribution(
            7, 1, 40, h[0], h[1], 4096, 120, (), (0, 0, 0), h[2], h[3], ((h[4], 2048), (h[5], 2048))
        ),
        "partial": e.Partial(7, 60, 3, h[1], 4096, (7, 1_048_576)),
        "attest": e.Attest(7, 60, h[1], 4096, ((h[4], h[1], 12),), b"\x01\x02"),
        "round_close": e.RoundClose(7, 0, ((2, 100), (5, 300)), (h[4],), ((6, e.OTHER_BASE),)),
        "round_commit": e.RoundCommit(7, 60, h[1], 4096, 3, 400, (h[4],), (70,), 0, 0),
        "evaluation": BODY,
        "block_cert": e.BlockCert(b"header", b"certificate"),
    }
    for name, body in bodies.items():
        assert codec.encode(body).hex() == FROZEN["bodies"][name]
        assert codec.decode(codec.encode(body), type(body), limit=e.ENTRY_BYTES_MAX) == body


@settings(max_examples=60, deadline=None)
@given(seq=st.integers(0, 2**63 - 1), kind=st.sampled_from(sorted(e.KIND_NAMES)), body=st.binary(max_size=400))
def test_what_was_signed_is_read_out_of_the_leaf_as_it_would_be_written(seq: int, kind: int, body: bytes) -> None:
    entry = signed(kind=kind, seq=seq, body=body)
    read = e.decode_entry(entry.encode())
    fields = (1, kind, LEDGER, WHO.node, seq, b"\x07" * 32, 1_700_000_000_123, codec.encode(body))
    assert read.signed_bytes() == entry.signed_bytes() == codec.encode(fields)
    assert read.id == entry.id
    for other in (b"", bytes(63), bytes(65), bytes(300)):  # another length of signature: nothing is cut out of the leaf
        odd = e.decode_entry(msgspec.structs.replace(entry, signature=other).encode())
        assert odd.signed_bytes() == entry.signed_bytes()


def test_a_changed_copy_of_a_read_entry_does_not_keep_what_the_original_signed() -> None:
    read = e.decode_entry(signed().encode())
    changed = msgspec.structs.replace(read, seq=read.seq + 1)
    assert changed.signed_bytes() == signed(seq=read.seq + 1).signed_bytes() != read.signed_bytes()


def test_an_entry_is_derived_exactly_when_making_it_again_gives_its_leaf() -> None:
    def remade(entry: e.Entry, index: int, ts_ms: int) -> bool:
        body = codec.decode(entry.body, e.RoundClose, limit=1000)
        made = e.derived_entry(ledger_id=LEDGER, kind=entry.kind, index=index, ts_ms=ts_ms, body=body)
        return made.encode() == entry.encode()

    close = e.RoundClose(3, 1, ((4, 2),), (), ())
    good = e.decode_entry(e.derived_entry(ledger_id=LEDGER, kind=e.ROUND_CLOSE, index=9, ts_ms=5, body=close).encode())
    assert e.is_derived(good, LEDGER, 9, 5)
    assert remade(good, 9, 5)
    assert not e.is_derived(good, LEDGER, 8, 5)
    assert not e.is_derived(good, LEDGER, 9, 6)
    assert not e.is_derived(good, bytes(32), 9, 5)
    changes = ({"author": WHO.node}, {"prev": b"\x01" * 32}, {"signature": b"s"}, {"ledger_id": bytes(32)}, {"seq": 8})
    for change in changes:
        bad = msgspec.structs.replace(good, **change)
        assert not e.is_derived(bad, LEDGER, 9, 5)
        assert not remade(bad, 9, 5)
