"""What peers say to each other: frozen message types, and nothing about how they travel.

Every message is idempotent and may be lost, repeated or late. What must be believed later carries its author's
signature inside (entries, votes, certificates, blocks); the rest (heartbeats, requests, offers) is only believed of the
authenticated link it came over.
"""

from __future__ import annotations

from typing import TypeAlias

import msgspec

from swarm.charter import Card
from swarm.ledger.block import Block, Certificate, FinalBlock, Vote
from swarm.ledger.consensus import Status
from swarm.ledger.cosign import Cosignature


class Hello(msgspec.Struct, frozen=True, array_like=True):
    """First message on a link, both ways: who speaks what, about which swarm. A mismatch is said in words by both ends.

    `protocol` is (major, minor). The digests are 32 bytes each. `answer` asks for the receiver's greeting in return; a
    greeting that is itself an answer does not ask. A later version may add fields after these, and these stay.
    """

    protocol: tuple[int, int]
    software: str
    capabilities: tuple[str, ...]
    node: bytes
    charter: bytes
    task: bytes
    layout: bytes
    answer: bool


class Refuse(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Why the sender will not work with the receiver, in words."""

    reason: str


class Progress(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What one member was last known to be doing, as far as the teller knows.

    `moved_ms` is the time since its work last progressed, `heard_ms` since it last said anything at all.
    """

    node: bytes
    round: int
    phase: int
    step: int
    steps: int
    moved_ms: int
    heard_ms: int


class Heartbeat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """I am alive, and this is how far everybody I know of has come. Says nothing that needs proof.

    `final_hash` is the hash of the sender's last final block, so that two histories are noticed; empty if it is not
    at hand.
    """

    now_ms: int
    final_height: int
    final_hash: bytes
    disk_free: int
    progress: tuple[Progress, ...]


class EntryMessage(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A signed entry, whole."""

    leaf: bytes


class FeedHeads(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How many entries of each author the sender holds: (author, next sequence number). Answered with the rest."""

    heads: tuple[tuple[bytes, int], ...]


class Propose(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A block its leader proposes."""

    block: Block


class CastVote(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A vote."""

    vote: Vote


class Certify(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A certificate the receiver lacks."""

    certificate: Certificate


class Standing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where the sender's ledger stands. Answered with what it lacks, within a byte budget."""

    status: Status


class GetBlocks(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ask for final blocks from `height` to `last`, as many as fit one answer: a `BlockRange`."""

    height: int
    last: int = 2**63 - 1


class BlockRange(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame of consecutive final blocks, from this height on; the second holds them."""

    height: int


class Blocks(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Consecutive final blocks."""

    blocks: tuple[FinalBlock, ...]


class Have(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender can serve this blob: all of it (`leaves` empty) or the leaves whose bit is set.

    Leaf i is bit i % 8 of byte i // 8.
    """

    digest: bytes
    size: int
    leaves: bytes


class GetLeaves(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Ask for a blob's leaf hashes."""

    digest: bytes


class Leaves(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A blob's leaf hashes, concatenated. They prove themselves against the digest."""

    digest: bytes
    size: int
    hashes: bytes


class Want(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Send me these bytes. A request is also the credit to send that much and no more."""

    digest: bytes
    offset: int
    length: int


class ChunkHeader(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The first frame of a chunk; the second is the raw bytes."""

    digest: bytes
    offset: int


class Missing(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender does not hold (or no longer holds) this blob."""

    digest: bytes


class Cosign(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A member's cosignature of the head of the log, for verifiers outside the swarm."""

    cosignature: Cosignature


class Remind(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The sender has just started: it asks what the receiver knows it to have said, before it says anything.

    `seq` is the next number of its feed, as far as it knows itself.
    """

    seq: int


class Reminder(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the receiver is known to have said: its votes in live views, and the last entry of its feed, if it lacks it.

    `seq` is the next number of its feed in the sender's final state: a claim, where that entry is not at hand any more.

    `certificates` holds what clears the last view that is cleared at the sender. All of it is of the epoch that the
    sender has reached.
    """

    epoch: int
    votes: tuple[Vote, ...]
    certificates: tuple[Certificate, ...]
    last: bytes
    seq: int = 0


class Knock(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A guest's card: it asks the member that invited it to move that it join, or how that stands. To be repeated."""

    card: Card


class KnockAnswer(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """How a guest's wish stands: `state` is one of `KNOCK_STATES`, `text` says it in words."""

    state: str
    text: str


KNOCK_STATES = ("voting", "member", "refused")

Message: TypeAlias = (
    Hello
    | Refuse
    | Heartbeat
    | EntryMessage
    | FeedHeads
    | Propose
    | CastVote
    | Certify
    | Standing
    | GetBlocks
    | BlockRange
    | Blocks
    | Have
    | GetLeaves
    | Leaves
    | Want
    | ChunkHeader
    | Missing
    | Cosign
    | Knock
    | KnockAnswer
    | Remind
    | Reminder
)
