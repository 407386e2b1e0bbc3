"""Frames: every message comes back the same, and no bytes whatever raise anything but `Reject`."""

import random
import string
from typing import get_args

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gossip import messages as m
from gossip import wire
from gossip.protocol import PROTOCOL
from swarm import codec
from swarm.errors import Reject
from swarm.ledger.block import NOTARIZE, Block, Certificate, FinalBlock, Header, Vote
from swarm.ledger.consensus import Status
from swarm.ledger.cosign import Cosignature
from tests.builders import make_swarm

H = bytes(range(32))
VOTE = Vote(0, 5, NOTARIZE, H, 3, bytes(64))
CERTIFICATE = Certificate(0, 5, NOTARIZE, H, (0, 1, 2), (bytes(64),) * 3)
HEADER = Header(0, 5, 4, H, 4, 1_000, 9, 1, 10, H, H, H, H)
BLOCK = Block(HEADER.encode(), (b"leaf",), (CERTIFICATE,), 2, bytes(64))

EXAMPLES: tuple[m.Message, ...] = (
    m.Hello((1, 0), "swarm 1.0", ("relay",), H, H, H, H, True),
    m.Refuse("another charter"),
    m.Heartbeat(1_000, 4, H, 1 << 40, (m.Progress(H, 1, 2, 3, 4, 5, 6),)),
    m.EntryMessage(b"leaf"),
    m.FeedHeads(((H, 7), (H[::-1], 0))),
    m.Propose(BLOCK),
    m.CastVote(VOTE),
    m.Certify(CERTIFICATE),
    m.Standing(Status(0, 4, 5, 6, ())),
    m.GetBlocks(3, 5),
    m.BlockRange(3),
    m.Blocks((FinalBlock(BLOCK, (CERTIFICATE,)), FinalBlock(BLOCK, ()))),
    m.Have(H, 3 << 20, b"\x05"),
    m.GetLeaves(H),
    m.Leaves(H, 2 << 20, H + H),
    m.Want(H, 1 << 20, 1 << 18),
    m.ChunkHeader(H, 1 << 20),
    m.Missing(H),
    m.Cosign(Cosignature(41, H, 1_700_000_000, H, bytes(64))),
    m.Knock(make_swarm(1).charter.members[0]),
    m.Remind(7),
    m.Reminder(0, (VOTE,), (CERTIFICATE,), b"leaf"),
    m.KnockAnswer("voting", "2 of 3 members needed have said yes, 0 no"),
)

# The largest frame of each kind in bytes, without the two bytes that say version and kind: written down once more here,
# so that a limit is not raised by accident.
LIMITS = {
    m.Hello: 4_096,
    m.Refuse: 8_192,
    m.Heartbeat: 131_072,
    m.EntryMessage: 131_072,
    m.FeedHeads: 131_072,
    m.Propose: 1_048_576,
    m.CastVote: 1_024,
    m.Certify: 131_072,
    m.Standing: 131_072,
    m.GetBlocks: 1_024,
    m.BlockRange: 1_024,
    m.Blocks: 1_048_576,
    m.Have: 8_192,
    m.GetLeaves: 1_024,
    m.Leaves: 1_048_576,
    m.Want: 1_024,
    m.ChunkHeader: 1_024,
    m.Missing: 1_024,
    m.Cosign: 1_024,
    m.Knock: 8_192,
    m.KnockAnswer: 8_192,
    m.Remind: 1_024,
    m.Reminder: 262_144,
}


def name(message: m.Message) -> str:
    return type(message).__name__


def test_there_is_an_example_of_every_message() -> None:
    assert {type(example) for example in EXAMPLES} == {*get_args(m.Message)} == set(LIMITS)


@pytest.mark.parametrize("message", EXAMPLES, ids=name)
def test_every_message_comes_back_the_same(message: m.Message) -> None:
    frame = wire.encode(message)
    assert wire.decode(frame) == message
    assert wire.kind(frame) is type(message)
    assert wire.encode(wire.decode(frame)) == frame


def test_a_frame_by_hand() -> None:
    # Version 1, kind 10; an array of two (0x92) small integers.
    assert wire.encode(m.GetBlocks(3, 5)) == b"\x01\x0a\x92\x03\x05"


def test_kind_numbers_are_frozen() -> None:
    order = "Hello Refuse Heartbeat EntryMessage FeedHeads Propose CastVote Certify Standing GetBlocks Blocks Have"
    numbers = {
        kind: number
        for number, kind in enumerate(
            f"{order} GetLeaves Leaves Want ChunkHeader Missing Cosign Knock KnockAnswer BlockRange Remind Reminder".split(),
            1,
        )
    }
    assert {name(example): wire.encode(example)[1] for example in EXAMPLES} == numbers


@pytest.mark.parametrize("message", EXAMPLES, ids=name)
def test_a_frame_over_its_kinds_limit_is_refused_unread(message: m.Message) -> None:
    limit = LIMITS[type(message)]
    head = wire.encode(message)[:2]
    with pytest.raises(Reject, match=f"{limit + 1} bytes, at most {limit} are allowed"):
        wire.decode(head + bytes(limit + 1))
    # At the limit it is read, and refused for what it says.
    with pytest.raises(Reject) as caught:
        wire.decode(head + bytes(limit))
    assert "at most" not in caught.value.message


def test_a_message_may_fill_its_kinds_limit() -> None:
    fits = m.EntryMessage(bytes(131_072 - 6))  # An array head of one byte and a bin32 head of five.
    assert wire.decode(wire.encode(fits)) == fits
    with pytest.raises(Reject, match="131073 bytes"):
        wire.decode(wire.encode(m.EntryMessage(bytes(131_072 - 5))))


@pytest.mark.parametrize("frame", [b"", b"\x01", b"\x00\x0a\x91\x03", b"\x02\x0a\x91\x03", b"\xff\xff"])
def test_another_wire_version_is_refused(frame: bytes) -> None:
    with pytest.raises(Reject, match="not wire version 1"):
        wire.decode(frame)


@pytest.mark.parametrize("number", [0, 99, 255])
def test_an_unknown_kind_is_refused(number: int) -> None:
    frame = bytes((1, number)) + b"\x91\x03"
    assert wire.kind(frame) is None
    with pytest.raises(Reject, match=f"message kind {number} is unknown"):
        wire.decode(frame)


@pytest.mark.parametrize("frame", [b"", b"\x01"])
def test_a_frame_too_short_to_have_a_kind_has_none(frame: bytes) -> None:
    assert wire.kind(frame) is None


def test_a_message_with_a_field_more_or_less_is_refused() -> None:
    for message in EXAMPLES:
        frame = wire.encode(message)
        fields = tuple(msgspec.structs.astuple(message))
        for other in (fields[:-1], (*fields, 0)):
            # A greeting of a version that is not later than ours has no more fields than ours.
            with pytest.raises(Reject):
                wire.decode(frame[:2] + codec.encode(other))


def test_fields_that_a_later_version_adds_to_a_greeting_are_passed_over() -> None:
    hello = m.Hello((1, PROTOCOL[1] + 1), "swarm 9.0", ("relay",), H, H, H, H, True)
    fields = tuple(msgspec.structs.astuple(hello))
    for more in ((0,), ("zstd", (1, (2, b"x"))), (True,) * 40):
        assert wire.decode(b"\x01\x01" + codec.encode((*fields, *more))) == hello
    for body in (
        codec.encode(fields[:-1]),
        codec.encode((*fields[:-1], 1)),
        codec.encode((*fields, 1)) + b"\x00",
        codec.encode(fields).replace(b"\x98", b"\x99") + b"\xcd\x00\x03",  # Three, in two bytes more than it needs.
        codec.encode(fields).replace(b"\x98", b"\x99") + b"\xc0",
    ):
        with pytest.raises(Reject):
            wire.decode(b"\x01\x01" + body)


def test_the_body_of_one_kind_is_not_taken_for_another_by_its_length() -> None:
    body = wire.encode(m.Leaves(H, 1, bytes(4_096)))[2:]
    with pytest.raises(Reject, match="at most 1024"):
        wire.decode(bytes((1, 15)) + body)


def test_bytes_after_a_message_are_refused() -> None:
    for message in EXAMPLES:
        with pytest.raises(Reject):
            wire.decode(wire.encode(message) + b"\x00")


@pytest.mark.parametrize("message", EXAMPLES, ids=name)
def test_every_cut_of_a_frame_is_refused(message: m.Message) -> None:
    frame = wire.encode(message)
    for end in range(len(frame)):
        with pytest.raises(Reject):
            wire.decode(frame[:end])


def read(frame: bytes) -> None:
    """Read a frame as a receiver would: it is refused, or it is the one form of its message.

    Of a greeting of a later version, what is known of it.
    """
    try:
        message = wire.decode(frame)
    except Reject:
        return
    if isinstance(message, m.Hello) and message.protocol > PROTOCOL:
        return
    assert wire.encode(message) == frame


@pytest.mark.parametrize("message", EXAMPLES, ids=name)
def test_mutated_frames_raise_nothing_but_reject(message: m.Message) -> None:
    rng = random.Random(name(message))
    frame = wire.encode(message)
    for _ in range(1_500):
        mutated = bytearray(frame)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at = rng.randrange(len(mutated))
            match rng.randrange(5):
                case 0:
                    mutated[at] ^= 1 << rng.randrange(8)
                case 1:
                    mutated[at] = rng.choice((0x90, 0xC0, 0xC1, 0xC4, 0xC6, 0xC7, 0xCA, 0xCF, 0xDB, 0xDD, 0xDF, 0xFF))
                case 2:
                    mutated.insert(at, rng.randrange(256))
                case 3 if len(mutated) > 1:
                    del mutated[at]
                case _:
                    mutated[at : at + 4] = rng.randbytes(4)
        read(bytes(mutated))


@pytest.mark.parametrize(
    "body",
    [
        b"\x91" * 100_000 + b"\x00",  # Nested deeper than any interpreter's stack.
        b"\xdd\xff\xff\xff\xff",  # Four thousand million elements, none of them sent.
        b"\xdf\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc9\xff\xff\xff\xff\x01",
        b"\x91\xc0",
        b"\x91\xcb" + bytes(8),
        b"\x91\xa1\xff",
        b"\x91\xd6\xff" + bytes(4),  # A timestamp extension.
        b"\x91\xcf" + b"\xff" * 8,
        b"\x91\xd3" + b"\x80" + bytes(7),
        b"\x91\xcd\x00\x03",  # Three, in two bytes more than it needs.
    ],
)
def test_hostile_bodies_raise_nothing_but_reject(body: bytes) -> None:
    for number in range(1, 18):
        read(bytes((1, number)) + body)


@settings(max_examples=300, deadline=None)
@given(number=st.integers(1, 17), body=st.binary(max_size=200))
def test_any_bytes_raise_nothing_but_reject(number: int, body: bytes) -> None:
    read(bytes((1, number)) + body)


values = st.recursive(
    st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=40)
    | st.booleans()
    | st.text(string.ascii_letters, max_size=9),
    lambda inner: st.lists(inner, max_size=8).map(tuple),
    max_leaves=12,
)


@settings(max_examples=400, deadline=None)
@given(number=st.integers(1, 17), value=values)
def test_well_formed_values_of_another_shape_raise_nothing_but_reject(number: int, value: object) -> None:
    read(bytes((1, number)) + codec.encode(value))
