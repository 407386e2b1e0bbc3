"""A directory of tiles followed by its entries alone: who the members are, and whether each entry is its author's.

Tiles have no blocks. What makes their entries final is that a quorum has cosigned their tree; what the entries say can
still be checked one by one: each is canonical, continues its author's feed and is signed by a member of that time, and
an epoch begins by the votes that the log holds. Whether a derived entry follows from those before it depends on where
blocks end, and is for whoever has the blocks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from node.cli.ledger.sources import TilesFolder
from node.cli.output import INVALID, Failure
from swarm import codec
from swarm.charter import Charter
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.evidence import judge
from swarm.ledger.merkle import Frontier, leaf_hash
from swarm.ledger.motions import open_change
from swarm.ledger.state import decode_body
from swarm.machine import NodeId
from swarm.terms import Change, Terms, amended, founding

See = Callable[[int, bytes, "Tiled"], None]
"""Told the place and the bytes of each entry, and what is known after it."""


@dataclass(slots=True)
class Tiled:
    """What the entries of a directory of tiles say. `epochs` has the terms of each epoch, the newest first.

    `accused` has (culprit, rule) of all evidence on record.
    """

    epochs: list[Terms]
    frontier: Frontier = field(default_factory=Frontier)
    rounds: int = 0
    accused: set[tuple[NodeId, int]] = field(default_factory=set)

    @property
    def entries(self) -> int:
        """How many entries were followed."""
        return self.frontier.size


def follow_tiles(files: TilesFolder, *, trusting: bool, see: See = lambda *_: None) -> Tiled:
    """Follow the entries from the charter on. `trusting` leaves out the signatures of entries.

    Raises:
        LedgerError: a file is missing or malformed, or the entries are not those under the checkpoint.
        Failure: an entry is not what a member of its time could have written there.
    """
    follower = _Follower(files, trusting=trusting)
    found = follower.found
    for index, leaf in enumerate(files.leaves()):
        try:
            follower.take(index, leaf)
        except Reject as reason:
            raise Failure(
                f"{files.where}, entry {index}: {reason.message}; the tiles read well, so it was changed",
                code=INVALID,
                hint="keep this copy as evidence, and compare it with another member's",
            ) from None
        found.frontier = found.frontier.append(leaf_hash(leaf))
        see(index, leaf, found)
    return found


class _Follower:
    """The rules of `swarm.ledger.state`, as far as they can be held against entries without blocks."""

    def __init__(self, files: TilesFolder, *, trusting: bool) -> None:
        self._charter: Charter = files.signed.charter
        self._ledger_id, self._trusting = files.signed.ledger_id, trusting
        self._feeds: dict[NodeId, tuple[int, bytes]] = {}
        self._proposed: dict[int, tuple[bytes, NodeId, Change]] = {}
        self._votes: dict[bytes, dict[NodeId, bool]] = {}
        self.found = Tiled([founding(self._charter)])

    def take(self, index: int, leaf: bytes) -> None:
        """Take the entry at a place in. Raises `Reject`. The first is the charter, which was checked before."""
        if index == 0:
            return
        entry = e.decode_entry(leaf)
        if entry.author == e.NO_AUTHOR:
            self._take_derived(index, entry)
        else:
            self._take_authored(index, entry)

    def _take_authored(self, index: int, entry: e.Entry) -> None:
        terms, author = self.found.epochs[0], NodeId(entry.author)
        seat = terms.index(author)
        if seat is None:
            raise Reject(f"its author {entry.author.hex()[:8]} is not a member")
        body = decode_body(entry)
        if not self._trusting:
            e.verify_entry(entry, terms.members[seat].id_key, self._ledger_id)
        expected = self._feeds.get(author, (0, self._ledger_id))
        if (entry.seq, entry.prev) != expected:
            raise Reject(f"it is entry {entry.seq} of {terms.name(author)}, whose feed stands at {expected[0]}")
        self._feeds[author] = entry.seq + 1, entry.id
        match body:
            case e.MemberProposal():
                self._proposed[index] = entry.id, author, open_change(body)
                self._votes[entry.id] = {author: True}
            case e.MemberVote():
                if body.proposal in self._votes:
                    self._votes[body.proposal][author] = body.yes
            case e.Evidence():
                if not self._trusting:
                    judge(body, self._ledger_id, self.found.epochs)
                self.found.accused.add((NodeId(body.culprit), body.rule))
            case _:
                pass

    def _take_derived(self, index: int, entry: e.Entry) -> None:
        if not e.is_derived(entry, self._ledger_id, index, entry.ts_ms):
            raise Reject("it is signed by nobody, and is not in the form of an entry that follows from others")
        match entry.kind:
            case e.ROUND_COMMIT:
                self.found.rounds = codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX).round
            case e.EPOCH:
                self._begin(codec.decode(entry.body, e.Epoch, limit=e.ENTRY_BYTES_MAX))
            case e.ROUND_CLOSE | e.MASK_ROSTER | e.BLOCK_CERT:
                pass
            case _:
                raise Reject("it is signed by nobody, and is of a kind that members sign")

    def _begin(self, body: e.Epoch) -> None:
        """Begin an epoch by the votes in the log. Raises `Reject` where they do not carry it."""
        terms = self.found.epochs[0]
        named = f"it begins epoch {body.epoch}"
        if body.epoch != terms.epoch + 1 or body.proposal not in self._proposed:
            raise Reject(f"{named}, which nothing here leads to")
        id_, author, change = self._proposed.pop(body.proposal)
        votes = self._votes.pop(id_)
        yes = tuple(seat.node for seat in terms.members if votes.get(seat.node))
        if yes != body.yes or len(yes) < terms.quorum:
            raise Reject(f"{named} by {len(body.yes)} votes; {len(yes)} are in the log, {terms.quorum} are needed")
        after = amended(terms, change, author, self._charter)
        if after.digest != body.terms:
            raise Reject(f"{named} under other terms than the members voted for")
        self.found.epochs.insert(0, after)
