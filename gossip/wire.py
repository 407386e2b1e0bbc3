"""Messages to frames and back.

A frame is one byte of wire version, one byte of message kind, and the canonical MessagePack of the message. The kind is
looked up and the length bounded before anything is decoded, each kind by its own bound, so that a heartbeat cannot
arrive a megabyte long.

A greeting may have fields that only a later version knows; they are passed over. Nothing else may.
"""

from __future__ import annotations

from collections.abc import Mapping

from gossip import messages as m
from gossip.protocol import PROTOCOL
from swarm import codec
from swarm.errors import Reject

WIRE_VERSION = 1

CONTROL_FRAME_BYTES_MAX = 1 << 20
"""Largest control frame: one proposal of the largest block (768 KiB) with room for its certificates."""

CARRIED = 64
"""The kind of frames that go through a relay. They are not messages: `gossip.relay` says what they are, and whoever
decodes one here has no passage for it."""

CARRIED_ROOM_BYTES = 2 << 10
"""What sealing adds to a frame or a payload at most: who, which session, a tag, and the header of a chunk."""

_SMALL = 1 << 10
_MEDIUM = 1 << 17

# Kind numbers are on the wire for ever: add, never renumber. Each with its largest frame in bytes.
_KINDS: dict[int, tuple[type[m.Message], int]] = {
    1: (m.Hello, 4 * _SMALL),
    2: (m.Refuse, 8 * _SMALL),
    3: (m.Heartbeat, _MEDIUM),
    4: (m.EntryMessage, _MEDIUM),
    5: (m.FeedHeads, _MEDIUM),
    6: (m.Propose, CONTROL_FRAME_BYTES_MAX),
    7: (m.CastVote, _SMALL),
    8: (m.Certify, _MEDIUM),
    9: (m.Standing, _MEDIUM),
    10: (m.GetBlocks, _SMALL),
    11: (m.Blocks, CONTROL_FRAME_BYTES_MAX),
    12: (m.Have, _SMALL * 8),
    13: (m.GetLeaves, _SMALL),
    14: (m.Leaves, CONTROL_FRAME_BYTES_MAX),
    15: (m.Want, _SMALL),
    16: (m.ChunkHeader, _SMALL),
    17: (m.Missing, _SMALL),
    18: (m.Cosign, _SMALL),
    19: (m.Knock, 8 * _SMALL),
    20: (m.KnockAnswer, 8 * _SMALL),
    21: (m.BlockRange, _SMALL),
    22: (m.Remind, _SMALL),
    23: (m.Reminder, 2 * _MEDIUM),
}
_KIND_OF = {type_: kind for kind, (type_, _) in _KINDS.items()}

NEEDS: Mapping[type[m.Message], str] = {}
"""The capability that a peer must have said it has before it is sent a kind of message that came after protocol 1.0."""


def encode(message: m.Message) -> bytes:
    """Return the frame of a message."""
    # A heartbeat has a row for every member: to look at each value of a message of plain types would take most of it.
    body = codec.again(message) if codec.plain(type(message)) else codec.encode(message)
    return bytes((WIRE_VERSION, _KIND_OF[type(message)])) + body


def kind(frame: bytes) -> type[m.Message] | None:
    """Return the message type a frame claims to be, without decoding it."""
    known = _KINDS.get(frame[1]) if len(frame) > 1 else None
    return None if known is None else known[0]


def decode(frame: bytes) -> m.Message:
    """Return the message of a frame.

    Raises:
        Reject: another wire version, an unknown kind, too long for its kind, or not the canonical form of one.
    """
    if len(frame) < 2 or frame[0] != WIRE_VERSION:
        raise Reject(f"couldn't read a frame of {len(frame)} bytes: not wire version {WIRE_VERSION}")
    known = _KINDS.get(frame[1])
    if known is None:
        raise Reject(f"couldn't read a frame: message kind {frame[1]} is unknown")
    type_, limit = known
    if type_ is not m.Hello:
        return codec.decode(frame[2:], type_, limit=limit)
    hello, more = codec.decode_open(frame[2:], m.Hello, limit=limit)
    if more and hello.protocol <= PROTOCOL:
        raise Reject(f"couldn't decode Hello: {more} fields more than its protocol {hello.protocol} has")
    return hello
