"""What must hold of a swarm's ledger whatever happens to it: checkers for the simulated world.

They look at what leaves the processes and at what becomes durable, not at anybody's variables, so they hold for any
implementation of the node. Members named as liars are exempt from what only honest members promise.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from typing_extensions import override

from gossip import messages as m
from gossip import wire
from swarm import codec
from swarm.ledger.block import FINALIZE, NOTARIZE, SKIP, FinalBlock, Header, Vote
from swarm.ledger.entry import decode_entry
from swarm.machine import RECORD_BLOCK, NodeId, Record
from topologies.world.checkers import Checker
from topologies.world.world import World

RECORD_BYTES_MAX = 1 << 21

_WATCHED = (m.CastVote, m.Propose, m.EntryMessage)
"""Only these are decoded again: a run sends a hundred thousand frames."""


class Agreement(Checker):
    """No two honest members ever hold different final blocks at one height (invariant I1), nor lose one (I2)."""

    def __init__(self, liars: Collection[int] = ()) -> None:
        self._liars = frozenset(liars)
        self.blocks: dict[int, bytes] = {}

    @override
    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        if node in self._liars:
            return
        for record in records:
            if record.kind == RECORD_BLOCK:
                header = Header.decode(codec.decode(record.payload, FinalBlock, limit=RECORD_BYTES_MAX).block.header)
                known = self.blocks.setdefault(header.height, header.hash)
                if known != header.hash:
                    world.fail(f"fork: member {node} finalised another block at height {header.height}")


class HonestOnTheWire(Checker):
    """An honest member never signs two contradictory things, across any crash (invariant I8), seen on the wire."""

    def __init__(self, liars: Collection[int] = ()) -> None:
        self._liars = frozenset(liars)
        self._votes: dict[tuple[int, int, int, int], bytes] = {}
        self._blocks: dict[tuple[int, int, int], bytes] = {}
        self._entries: dict[tuple[bytes, int], bytes] = {}

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if node in self._liars or wire.kind(frame) not in _WATCHED:
            return
        message = wire.decode(frame)
        match message:
            case m.CastVote() if _is_of(world, node, message.vote.epoch, message.vote.signer):
                self._check_vote(world, node, message.vote)
            case m.Propose():
                header = Header.decode(message.block.header)
                if not _is_of(world, node, header.epoch, message.block.proposer):
                    return
                if self._blocks.setdefault((node, header.epoch, header.view), header.hash) != header.hash:
                    world.fail(f"member {node} proposed two blocks in view {header.view}")
            case m.EntryMessage():
                entry = decode_entry(message.leaf)
                known = self._entries.setdefault((entry.author, entry.seq), entry.id)
                if entry.author == world.ids[node] and known != entry.id:
                    world.fail(f"member {node} signed two entries with number {entry.seq}")
            case _:
                pass

    def _check_vote(self, world: World, node: int, vote: Vote) -> None:
        place = (node, vote.epoch, vote.view)
        if self._votes.setdefault((*place, vote.kind), vote.block) != vote.block:
            world.fail(f"member {node} voted twice in view {vote.view}")
        if {(*place, SKIP), (*place, FINALIZE)} <= self._votes.keys():
            world.fail(f"member {node} skipped and finalised view {vote.view}")
        if vote.kind == FINALIZE and self._votes.get((*place, NOTARIZE), vote.block) != vote.block:
            world.fail(f"member {node} finalised a block of view {vote.view} that it did not notarise")


def _is_of(world: World, node: int, epoch: int, index: int) -> bool:
    """Whether a member's index in an epoch is this node's, as far as its own ledger says who the members are."""
    machine = world.place(node).machine
    replica = getattr(machine, "replica", None)
    terms = None if replica is None else replica.head.terms_of(epoch)
    return index == node if terms is None else terms.members[index].node == world.ids[node]
