"""What one member knows of the views that are not final yet: bodies, votes, certificates, and what contradicts what.

This is bookkeeping under the rules of `swarm.ledger.consensus`. It decides nothing and signs nothing: it says what a
view holds, which two statements no honest member makes together, and what a peer with a given status lacks. Everything
in here was verified before it came in; nothing in here is checked again.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import TypeAlias

import msgspec

from swarm.errors import Reject
from swarm.ledger.block import FINALIZE, NOTARIZE, SKIP, VOTE_KINDS, VOTE_NAMES, Block, Certificate, Header, Vote

VIEWS_AHEAD_MAX = 50
"""Nothing is kept of views further ahead: without a quorum no view is cleared, so an honest member is never there."""

BODIES_PER_VIEW_MAX = 2
"""Block bodies kept per view. One is honest, two prove equivocation, more prove nothing further."""

STATUS_ROWS_MAX = 2 * VIEWS_AHEAD_MAX
"""Rows of a status: every view ahead, and as many unfinished ones behind. At 1,000 members a row is 400 bytes."""

PREFIX_BYTES = 8
"""Of a block's hash in a status: enough that two blocks of one view are not taken for each other by accident."""

Row: TypeAlias = tuple[int, int, bytes, bytes, bytes, bytes]
"""(view, certificates held, notarize signers, skip signers, finalize signers, blocks held): see `Status`."""


class Status(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a member stands: its final block, its view, and what it holds of the views since.

    Every view below `view` is cleared here, so a row below it is there only where a block waits to become final. In a
    row, the certificates held are the sum of `1 << kind`; signers are bit masks of the votes held where there is no
    certificate, the least significant bit of the first byte for the first member; blocks are the first `PREFIX_BYTES`
    of each hash, concatenated.
    """

    epoch: int
    height: int
    final_view: int
    view: int
    held: tuple[Row, ...]

    def check(self, members: int) -> None:
        """Raise `Reject` unless the sizes are those of an honest status."""
        if len(self.held) > STATUS_ROWS_MAX:
            raise Reject(f"couldn't accept a status: {len(self.held)} rows, at most {STATUS_ROWS_MAX} are allowed")
        for _, _, *masks, blocks in self.held:
            if any(len(mask) > (members + 7) // 8 for mask in masks):
                raise Reject("couldn't accept a status: a mask is longer than there are members")
            if len(blocks) > (BODIES_PER_VIEW_MAX + 1) * PREFIX_BYTES:
                raise Reject("couldn't accept a status: it holds more blocks of a view than are kept")


@dataclass(frozen=True, slots=True)
class Contradiction:
    """Two signed messages of one member that no honest member signs both of: canonical bytes of votes or blocks."""

    rule: str
    culprit: int
    view: int
    first: bytes
    second: bytes


@dataclass(slots=True)
class Body:
    """A block as proposed. `refused` says why this member will never vote for it, if so."""

    block: Block
    header: Header
    refused: str = ""
    observed: bool = False


@dataclass(slots=True)
class View:
    """What is known about one view. Invariant: `mine` holds every statement of this member that may have got out."""

    bodies: dict[bytes, Body] = field(default_factory=dict)
    votes: dict[int, dict[int, Vote]] = field(default_factory=lambda: {kind: {} for kind in VOTE_KINDS})
    certificates: dict[int, Certificate] = field(default_factory=dict)
    mine: dict[int, bytes] = field(default_factory=dict)
    caught: dict[int, str] = field(default_factory=dict)  # members that contradicted themselves here, and how
    armed_at: float | None = None
    extensions: int = 0
    proposed: bool = False

    @property
    def cleared(self) -> bool:
        """Whether this view is over for everybody who knows what is known here."""
        return bool(self.certificates)

    @property
    def extendable(self) -> Certificate | None:
        """What says that this view's block may be extended: a quorum notarized it, or even finalized it."""
        return self.certificates.get(NOTARIZE) or self.certificates.get(FINALIZE)

    @property
    def certified(self) -> Body | None:
        """The body of the block that may be extended, if it is here."""
        certificate = self.extendable
        return None if certificate is None else self.bodies.get(certificate.block)

    def voters(self) -> int:
        """Return how many members have said anything in this view."""
        return len({signer for votes in self.votes.values() for signer in votes})

    def room_for(self, block_hash: bytes) -> bool:
        """Whether one more body may be kept. The block that a quorum vouches for always has room."""
        certificate = self.extendable
        wanted = certificate is not None and certificate.block == block_hash
        return wanted or len(self.bodies) < BODIES_PER_VIEW_MAX

    def gather(self, kind: int, block: bytes, quorum: int) -> Certificate | None:
        """Return a new certificate when a quorum has said this of this block, else None."""
        if kind in self.certificates or len(self.votes[kind]) < quorum:
            return None
        votes = [vote for _, vote in sorted(self.votes[kind].items()) if vote.block == block]
        if len(votes) < quorum:
            return None
        first = votes[0]
        signers = tuple(vote.signer for vote in votes)
        return Certificate(first.epoch, first.view, kind, block, signers, tuple(vote.signature for vote in votes))

    def contradictions(self, vote: Vote) -> Iterator[tuple[str, Vote]]:
        """Yield the rule and the known vote for each statement of the same signer that `vote` contradicts."""
        for kind in VOTE_KINDS:
            other = self.votes[kind].get(vote.signer)
            if other is not None and contradict(other.kind, other.block, vote.kind, vote.block):
                yield f"{VOTE_NAMES[kind]}+{VOTE_NAMES[vote.kind]}", other

    def rival(self, certificate: Certificate) -> Certificate | None:
        """Return a certificate of this view that cannot be true beside this one unless too many members lied."""
        for other in self.certificates.values():
            if contradict(other.kind, other.block, certificate.kind, certificate.block):
                return other
        return None

    def row(self, view: int, members: int) -> Row:
        """Return this view as a row of a status."""
        notarize, skip, finalize = (
            b"" if kind in self.certificates else mask(self.votes[kind], members) for kind in VOTE_KINDS
        )
        held = sum(1 << kind for kind in self.certificates)
        return view, held, notarize, skip, finalize, b"".join(block[:PREFIX_BYTES] for block in self.bodies)

    def lacking(self, row: Row | None, *, cleared: bool) -> Iterator[Certificate | Vote | Block]:
        """Yield what is known here that a peer with this row lacks; `cleared` when the view is over for that peer.

        In a cleared view only what makes its block final is of use: a skip is then settled or never needed.
        """
        _, held, *masks, blocks = row or (0, 0, b"", b"", b"", b"")
        for kind, theirs in zip(VOTE_KINDS, masks, strict=True):
            certificate = self.certificates.get(kind)
            if held >> kind & 1 or (cleared and (kind == SKIP or (kind == NOTARIZE and certificate is None))):
                continue
            if certificate is not None:
                yield certificate
            else:
                yield from (vote for signer, vote in sorted(self.votes[kind].items()) if not has(theirs, signer))
        prefixes = {blocks[i : i + PREFIX_BYTES] for i in range(0, len(blocks), PREFIX_BYTES)}
        certified = self.extendable
        for block_hash, body in self.bodies.items():
            of_use = not cleared if certified is None else certified.block == block_hash
            if of_use and block_hash[:PREFIX_BYTES] not in prefixes:
                yield body.block


def contradict(kind: int, block: bytes, other_kind: int, other_block: bytes) -> bool:
    """Whether no honest member says both of one view, and no two quorums do while at most f members lie.

    `ledger.md` 1.5: two blocks notarized, two finalized, one notarized and another finalized, or skip and finalize.
    """
    if SKIP in (kind, other_kind):
        return FINALIZE in (kind, other_kind)
    return block != other_block


def mask(signers: Iterable[int], members: int) -> bytes:
    """Return signers as a bit mask, least significant bit of the first byte first; empty when there are none."""
    bits = bytearray((members + 7) // 8)
    for signer in signers:
        bits[signer // 8] |= 1 << signer % 8
    return bytes(bits) if any(bits) else b""


def has(bits: bytes, signer: int) -> bool:
    """Whether a bit mask names a signer."""
    return signer // 8 < len(bits) and bool(bits[signer // 8] >> signer % 8 & 1)
