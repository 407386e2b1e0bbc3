"""Headers, votes and certificates: exact layouts, exact quorums, and every certificate that must not pass."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import struct
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec, identity
from swarm.errors import Reject
from swarm.identity import SigningKey
from swarm.ledger.block import (
    BLOCK_BYTES_MAX,
    BLOCK_LEAVES_MAX,
    FINALIZE,
    MEMBERS_MAX,
    NO_HASH,
    NOTARIZE,
    SKIP,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Vote,
    decode_block,
    entries_hash,
    faults,
    justify_hash,
    propose_message,
    quorum,
    vote_message,
)

LEDGER = hashlib.sha256(b"a ledger").digest()
BLOCK = hashlib.sha256(b"a block").digest()
KEYS = tuple(SigningKey.from_seed(hashlib.sha256(b"vote%d" % i).digest()) for i in range(7))
PUBLIC = tuple(key.public for key in KEYS)
QUORUM = 5  # of 7
FROZEN = json.loads((Path(__file__).parents[2] / "vectors" / "ledger-v1.json").read_text())

HEADER = Header(
    epoch=1,
    view=2,
    height=3,
    parent_hash=b"\xa4" * 32,
    parent_view=5,
    time_ms=6,
    first_index=7,
    count=8,
    size=9,
    root=b"\xaa" * 32,
    entries_hash=b"\xab" * 32,
    state_hash=b"\xac" * 32,
    justify_hash=b"\xad" * 32,
)

u64 = st.integers(0, 2**64 - 1)
hashes = st.binary(min_size=32, max_size=32)
headers = st.builds(
    Header,
    epoch=u64,
    view=u64,
    height=u64,
    parent_hash=hashes,
    parent_view=u64,
    time_ms=u64,
    first_index=u64,
    count=st.integers(0, 2**32 - 1),
    size=u64,
    root=hashes,
    entries_hash=hashes,
    state_hash=hashes,
    justify_hash=hashes,
)


def certificate(
    signers: Sequence[int] = (0, 2, 3, 4, 6),
    *,
    ledger: bytes = LEDGER,
    epoch: int = 0,
    view: int = 9,
    kind: int = NOTARIZE,
    block: bytes = BLOCK,
) -> Certificate:
    """A certificate whose every signature is what its fields say."""
    message = vote_message(ledger, epoch, view, kind, block)
    return Certificate(epoch, view, kind, block, tuple(signers), tuple(KEYS[i].sign(message) for i in signers))


def refused(bad: Certificate, why: str, *, ledger: bytes = LEDGER, keys: Sequence[bytes] = PUBLIC) -> None:
    with pytest.raises(Reject, match=why):
        bad.check(ledger, keys, QUORUM)


def body(leaves: tuple[bytes, ...] = (b"one", b"two"), justify: tuple[Certificate, ...] = ()) -> Block:
    header = dataclasses.replace(
        HEADER, count=len(leaves), entries_hash=entries_hash(leaves), justify_hash=justify_hash(justify)
    )
    return Block(header.encode(), leaves, justify, 3, bytes(64))


# Headers.


def test_a_header_is_220_bytes_in_declaration_order() -> None:
    def u(value: int) -> bytes:
        return value.to_bytes(8, "big")

    expected = u(1) + u(2) + u(3) + b"\xa4" * 32 + u(5) + u(6) + u(7) + (8).to_bytes(4, "big") + u(9)
    expected += b"\xaa" * 32 + b"\xab" * 32 + b"\xac" * 32 + b"\xad" * 32
    assert HEADER.encode() == expected
    assert len(expected) == 220


def test_a_block_is_named_by_the_hash_of_its_header_in_a_domain_of_its_own() -> None:
    assert HEADER.hash == hashlib.sha256(b"swarm-ledger/header/v1\0" + HEADER.encode()).digest()


@settings(max_examples=100, deadline=None)
@given(headers)
def test_every_header_reads_back(header: Header) -> None:
    assert Header.decode(header.encode()) == header


@settings(max_examples=100, deadline=None)
@given(st.binary(min_size=220, max_size=220))
def test_every_220_bytes_are_one_header(data: bytes) -> None:
    assert Header.decode(data).encode() == data


@pytest.mark.parametrize("length", [0, 1, 219, 221, 440])
def test_a_header_of_another_length_is_refused(length: int) -> None:
    with pytest.raises(Reject, match=f"{length} bytes, 220 needed"):
        Header.decode(bytes(length))


def test_every_field_of_a_header_is_in_its_hash() -> None:
    seen = {HEADER.hash}
    fields = dataclasses.asdict(HEADER)
    for name, value in fields.items():
        changed = value + 1 if isinstance(value, int) else bytes(32)
        seen.add(Header(**{**fields, name: changed}).hash)
    assert len(seen) == 14


# Votes.


def test_a_vote_signs_exactly_102_bytes() -> None:
    message = vote_message(LEDGER, 1, 2, FINALIZE, BLOCK)
    assert message == b"swarm-ledger/vote/v1\0" + LEDGER + bytes(7) + b"\1" + bytes(7) + b"\2" + b"\3" + BLOCK
    assert len(message) == 21 + 32 + 8 + 8 + 1 + 32 == 102


def test_no_two_statements_sign_the_same_bytes() -> None:
    statements = [
        (ledger, epoch, view, kind, block)
        for ledger in (LEDGER, BLOCK)
        for epoch in (0, 1, 256)
        for view in (0, 1, 256)
        for kind in (NOTARIZE, SKIP, FINALIZE)
        for block in (NO_HASH, LEDGER, BLOCK)
    ]
    assert len({vote_message(*statement) for statement in statements}) == len(statements) == 162


@pytest.mark.parametrize(
    ("epoch", "view", "kind", "block", "signer"),
    [
        (0, 1, NOTARIZE, BLOCK, 0),
        (0, 1, SKIP, NO_HASH, 0),
        (2**63 - 1, 2**63 - 1, FINALIZE, BLOCK, MEMBERS_MAX - 1),
    ],
)
def test_a_vote_in_range_passes(epoch: int, view: int, kind: int, block: bytes, signer: int) -> None:
    Vote(epoch, view, kind, block, signer, b"").check()


@pytest.mark.parametrize(
    ("epoch", "view", "kind", "block", "signer", "why"),
    [
        (-1, 1, NOTARIZE, BLOCK, 0, "out of range"),
        (2**63, 1, NOTARIZE, BLOCK, 0, "out of range"),
        (0, 0, NOTARIZE, BLOCK, 0, "out of range"),
        (0, -1, NOTARIZE, BLOCK, 0, "out of range"),
        (0, 2**63, NOTARIZE, BLOCK, 0, "out of range"),
        (0, 1, 0, BLOCK, 0, "out of range"),
        (0, 1, 4, BLOCK, 0, "out of range"),
        (0, 1, NOTARIZE, NO_HASH, 0, "names no block"),
        (0, 1, FINALIZE, NO_HASH, 0, "names no block"),
        (0, 1, SKIP, BLOCK, 0, "a skip names one"),
        (0, 1, NOTARIZE, BLOCK[:31], 0, "names no block"),
        (0, 1, NOTARIZE, BLOCK + b"\0", 0, "names no block"),
        (0, 1, SKIP, b"", 0, "names no block"),
        (0, 1, NOTARIZE, BLOCK, -1, "signer's index"),
        (0, 1, NOTARIZE, BLOCK, MEMBERS_MAX, "signer's index"),
    ],
)
def test_a_vote_out_of_range_is_refused(epoch: int, view: int, kind: int, block: bytes, signer: int, why: str) -> None:
    with pytest.raises(Reject, match=why):
        Vote(epoch, view, kind, block, signer, bytes(64)).check()


# Certificates.


@pytest.mark.parametrize("signers", [(0, 1, 2, 3, 4), (0, 2, 3, 4, 6), tuple(range(7))])
def test_a_quorum_in_ascending_order_is_a_certificate(signers: tuple[int, ...]) -> None:
    certificate(signers).check(LEDGER, PUBLIC, QUORUM)
    certificate(signers, kind=FINALIZE).check(LEDGER, PUBLIC, QUORUM)
    certificate(signers, kind=SKIP, block=NO_HASH).check(LEDGER, PUBLIC, QUORUM)


def test_too_few_signers_are_refused() -> None:
    for count in range(QUORUM):
        refused(certificate(range(count)), f"{count} signers, 5 needed")


def test_a_signer_counts_once() -> None:
    refused(certificate((0, 1, 2, 3, 3)), "not in ascending order")
    refused(certificate((0, 0, 0, 0, 0)), "not in ascending order")


def test_signers_out_of_order_are_refused() -> None:
    refused(certificate((0, 1, 3, 2, 4)), "not in ascending order")
    refused(certificate((6, 4, 3, 2, 0)), "not in ascending order")


def test_a_signer_that_is_no_member_is_refused() -> None:
    good = certificate((0, 1, 2, 3, 4))
    refused(msgspec.structs.replace(good, signers=(0, 1, 2, 3, 7)), "not a member")
    refused(msgspec.structs.replace(good, signers=(0, 1, 2, 3, 2**64 - 1)), "not a member")
    # Python would read index -1 as the last member.
    refused(msgspec.structs.replace(certificate((6, 0, 1, 2, 3)), signers=(-1, 0, 1, 2, 3)), "not a member")


def test_signers_and_signatures_are_as_many() -> None:
    good = certificate()
    refused(msgspec.structs.replace(good, signatures=good.signatures[:-1]), "signers, 5 needed")
    refused(msgspec.structs.replace(good, signatures=(*good.signatures, bytes(64))), "signers, 5 needed")


def test_one_bad_signature_spoils_a_certificate_even_above_the_quorum() -> None:
    good = certificate(tuple(range(7)))
    for i in range(7):
        for wrong in (bytes(64), b"", good.signatures[i][:63], good.signatures[(i + 1) % 7]):
            signatures = (*good.signatures[:i], wrong, *good.signatures[i + 1 :])
            bad = msgspec.structs.replace(good, signatures=signatures)
            refused(bad, f"signature of member {i} does not verify")


def test_votes_for_another_statement_make_no_certificate() -> None:
    good = certificate()
    refused(certificate(ledger=BLOCK), "does not verify")
    refused(good, "does not verify", ledger=BLOCK)
    refused(msgspec.structs.replace(good, epoch=1), "does not verify")
    refused(msgspec.structs.replace(good, view=10), "does not verify")
    refused(msgspec.structs.replace(good, kind=FINALIZE), "does not verify")
    refused(msgspec.structs.replace(good, block=LEDGER), "does not verify")
    refused(msgspec.structs.replace(good, kind=SKIP, block=NO_HASH), "does not verify")


def test_votes_under_another_epochs_keys_make_no_certificate() -> None:
    refused(certificate(), "does not verify", keys=(*PUBLIC[1:], PUBLIC[0]))
    refused(certificate((0, 1, 2, 3, 6)), "not a member", keys=PUBLIC[:6])


def test_signatures_in_another_domain_make_no_certificate() -> None:
    message = vote_message(LEDGER, 0, 9, NOTARIZE, BLOCK).replace(identity.DOMAIN_VOTE, identity.DOMAIN_ENTRY)
    good = certificate()
    signatures = tuple(KEYS[i].sign(message) for i in good.signers)
    refused(msgspec.structs.replace(good, signatures=signatures), "does not verify")


@pytest.mark.parametrize(
    ("kind", "block", "view"),
    [(0, BLOCK, 9), (4, BLOCK, 9), (SKIP, BLOCK, 9), (NOTARIZE, NO_HASH, 9), (NOTARIZE, BLOCK, 0)],
)
def test_a_certificate_for_no_possible_vote_is_refused_however_many_sign(kind: int, block: bytes, view: int) -> None:
    refused(certificate(kind=kind, block=block, view=view), "couldn't accept a vote")


@pytest.mark.parametrize("block", [b"", BLOCK[:31], BLOCK + b"\0"])
def test_a_certificate_for_a_hash_of_another_length_is_refused(block: bytes) -> None:
    refused(msgspec.structs.replace(certificate(), block=block), "names no block")


@pytest.mark.parametrize(("epoch", "view"), [(-1, 9), (2**64, 9), (0, 2**64), (0, -1)])
def test_a_certificate_with_numbers_that_fit_no_layout_is_refused(epoch: int, view: int) -> None:
    with pytest.raises(struct.error):
        vote_message(LEDGER, epoch, view, NOTARIZE, BLOCK)
    refused(msgspec.structs.replace(certificate(), epoch=epoch, view=view), "out of range")


def test_the_largest_certificate_fits_a_control_frame() -> None:
    largest = Certificate(0, 2**62, NOTARIZE, BLOCK, tuple(range(MEMBERS_MAX)), (bytes(64),) * MEMBERS_MAX)
    assert len(codec.encode(largest)) < 70_000


# Blocks.


def test_a_block_reads_back_and_opens() -> None:
    block = body(justify=(certificate(), certificate(kind=SKIP, block=NO_HASH)))
    again = decode_block(codec.encode(block))
    assert again == block
    assert again.opened() == Header.decode(block.header)


def test_a_block_whose_body_is_not_the_one_its_header_names_is_refused() -> None:
    block = body(justify=(certificate(),))
    for leaves, why in (
        ((b"one",), "does not hold the entries it counts"),
        ((b"one", b"two", b"three"), "does not hold the entries it counts"),
        ((b"two", b"one"), "its entries are not the ones"),
        ((b"onet", b"wo"), "its entries are not the ones"),
    ):
        with pytest.raises(Reject, match=why):
            msgspec.structs.replace(block, leaves=leaves).opened()
    with pytest.raises(Reject, match="its certificates are not the ones"):
        msgspec.structs.replace(block, justify=()).opened()
    with pytest.raises(Reject, match="220 needed"):
        msgspec.structs.replace(block, header=block.header[:-1]).opened()


def test_a_block_holds_4096_entries_and_no_more() -> None:
    body((b"",) * BLOCK_LEAVES_MAX).opened()
    with pytest.raises(Reject, match="does not hold the entries it counts"):
        body((b"",) * (BLOCK_LEAVES_MAX + 1)).opened()


def test_a_block_has_768_kib_and_no_more() -> None:
    overhead = len(codec.encode(body((bytes(1 << 19),)))) - (1 << 19)
    largest = body((bytes(BLOCK_BYTES_MAX - overhead),))
    assert decode_block(codec.encode(largest)) == largest
    with pytest.raises(Reject, match="at most 786432 are allowed"):
        decode_block(codec.encode(body((bytes(BLOCK_BYTES_MAX - overhead + 1),))))


def test_a_proposal_is_signed_over_domain_ledger_and_header() -> None:
    assert propose_message(LEDGER, HEADER.encode()) == b"swarm-ledger/propose/v1\0" + LEDGER + HEADER.encode()


def test_the_deepest_struct_of_the_ledger_is_within_the_codecs_depth() -> None:
    final = FinalBlock(body(justify=(certificate(),)), (certificate(kind=FINALIZE),))
    assert codec.decode(codec.encode(final), FinalBlock, limit=1 << 20) == final


# Quorums.


@pytest.mark.parametrize(
    ("n", "f", "q", "culprits"),
    [
        (1, 0, 1, 1),
        (2, 0, 2, 2),
        (3, 0, 2, 1),
        (4, 1, 3, 2),
        (5, 1, 4, 3),
        (6, 1, 4, 2),
        (7, 2, 5, 3),
        (10, 3, 7, 4),
        (20, 6, 14, 8),
        (50, 16, 34, 18),
        (100, 33, 67, 34),
        (200, 66, 134, 68),
        (500, 166, 334, 168),
    ],
)
def test_the_quorum_table_of_the_design(n: int, f: int, q: int, culprits: int) -> None:
    assert (faults(n), quorum(n), 2 * quorum(n) - n) == (f, q, culprits)


def test_the_quorum_is_the_smallest_that_is_safe_and_is_always_live() -> None:
    for n in range(1, MEMBERS_MAX + 1):
        f, q = faults(n), quorum(n)
        assert n >= 3 * f + 1
        assert n < 3 * (f + 1) + 1
        assert 2 * q - n >= f + 1  # two quorums share an honest member
        assert 2 * (q - 1) - n < f + 1  # one fewer would not
        assert q <= n - f  # the honest alone are enough


# Bytes that are signed or stored for ever.


def test_the_bytes_of_headers_votes_and_certificates_are_frozen() -> None:
    frozen = FROZEN["block"]
    vote = Vote(1, 2, FINALIZE, BLOCK, 3, bytes(range(64)))
    assert HEADER.encode().hex() == frozen["header"]
    assert HEADER.hash.hex() == frozen["header_hash"]
    assert vote_message(LEDGER, 1, 2, FINALIZE, BLOCK).hex() == frozen["vote_message"]
    assert codec.encode(vote).hex() == frozen["vote"]
    assert codec.encode(certificate((0, 1))).hex() == frozen["certificate"]
    assert codec.encode(body()).hex() == frozen["block"]
    assert (
        entries_hash(()).hex() == justify_hash(()).hex() == frozen["empty_hash"] == hashlib.sha256(b"\x90").hexdigest()
    )
