"""More liars than the swarm tolerates: a fork is noticed on contact, proved from its own blocks, and has its names."""

from __future__ import annotations

from dataclasses import replace

import pytest

from node.core import Node
from swarm import codec
from swarm.ledger.block import Block, FinalBlock, Header, entries_hash, justify_hash
from swarm.ledger.evidence import judge
from swarm.ledger.forks import charges, find_fork
from swarm.ledger.state import genesis
from swarm.machine import RECORD_BLOCK, Publish
from tests.builders import certify, make_swarm
from topologies.families import complete
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.faults import FaultPlan, Partition
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

END_S = 200.0
LIARS = (2, 3)


class Files(Checker):
    """What each process made durable of the ledger, and what it published."""

    def __init__(self) -> None:
        self.blocks: dict[int, list[FinalBlock]] = {}
        self.published: dict[int, dict[str, bytes]] = {}

    def on_persist(self, world: World, node: int, twin: int, records: object) -> None:
        assert isinstance(records, tuple)
        found = [codec.decode(r.payload, FinalBlock, limit=1 << 21) for r in records if r.kind == RECORD_BLOCK]
        if node not in LIARS:
            self.blocks.setdefault(node, []).extend(found)

    def on_event(self, world: World, node: int, twin: int, event: object, effects: object) -> None:
        assert isinstance(effects, list | tuple)
        for effect in effects:
            if isinstance(effect, Publish):
                self.published.setdefault(node, {})[effect.name] = effect.data


def forked(seed: int = 1) -> tuple[World, Files]:
    """Two of four members run as two processes each, one on either side of a wall: both sides have a quorum."""
    swarm, files = make_swarm(4, rounds=8, patience_ms=4_000), Files()
    world = World(
        seed=seed,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=seed * 1000 + incarnation),
        topology=complete(4),
        # Slots 4 and 5 are the second processes of members 2 and 3.
        plan=FaultPlan(faults=(Partition(at_s=0.0, groups=((0, 2, 3), (1, 4, 5)), duration_s=20.0),)),
        learner=QuadraticTask(seed=seed, samples=(100, 200, 300, 400), bound=100.0),
        ids=[who.node for who in swarm.identities],
        twins=LIARS,
        twin_split=False,
        blobs=[swarm.initial],
        checkers=[files],
        ledger_id=swarm.signed.ledger_id,
    )
    return world, files


def machine(world: World, member: int) -> Node:
    found = world.place(member).machine
    assert isinstance(found, Node)
    return found


@pytest.fixture(scope="module")
def scene() -> tuple[World, Files]:
    world, files = forked()
    assert world.run(lambda w: w.now > 19.0, end_s=END_S)
    a, b = (files.blocks[member] for member in (0, 1))
    assert {f.block.header for f in a} != {f.block.header for f in b}, "both sides went their own way"
    world.run(lambda w: all(machine(w, member).status(0.0)["halted"] for member in (0, 1)), end_s=60.0)
    world.run(lambda w: w.now > 70.0, end_s=END_S)
    return world, files


def test_honest_members_of_both_sides_raise_the_alarm_when_they_meet(scene: tuple[World, Files]) -> None:
    world, _ = scene
    for member in (0, 1):
        assert "fork" in [report.event for _, report in world.place(member).reports]
        assert "two blocks" in str(machine(world, member).status(0.0)["halted"])


def test_after_the_alarm_nobody_votes_and_nothing_becomes_final(scene: tuple[World, Files]) -> None:
    world, files = scene
    heights = {member: len(files.blocks[member]) for member in (0, 1)}
    world.run(lambda w: w.now > 100.0, end_s=END_S)
    assert {member: len(files.blocks[member]) for member in (0, 1)} == heights


def test_the_proof_is_written_and_convicts_the_liars_and_nobody_else(scene: tuple[World, Files]) -> None:
    world, files = scene
    guilty = {world.ids[member] for member in LIARS}
    for member in (0, 1):
        head = machine(world, member).replica.head
        (name,) = [name for name in files.published[member] if name.startswith("fork-")]
        theirs = codec.decode(files.published[member][name], tuple[FinalBlock, ...], limit=1 << 24)
        height = int(name.removeprefix("fork-"))
        ours = [f for f in files.blocks[member] if Header.decode(f.block.header).height >= height]
        found = charges([ours, theirs], head.terms_of)
        assert {body.culprit for body in found} == guilty
        for body in found:
            judge(body, head.ledger_id, (head.terms, *head.past))


def test_blocks_that_no_quorum_signed_prove_nothing(scene: tuple[World, Files]) -> None:
    world, files = scene
    head = machine(world, 0).replica.head
    headers = [Header.decode(final.block.header) for final in files.blocks[0]]
    finals = {header.height: (header.hash, header.epoch) for header in headers}
    theirs = files.blocks[1]
    known = {"ledger_id": head.ledger_id, "terms_of": head.terms_of}
    assert find_fork(theirs, finals.get, **known) is not None
    bare = [FinalBlock(f.block, ()) for f in theirs]
    assert find_fork(bare, finals.get, **known) is None
    assert find_fork(files.blocks[0], finals.get, **known) is None


def test_an_empty_block_that_ended_an_epoch_is_no_history_of_its_own() -> None:
    """A quorum certifies such blocks to make the one below them final; they are no part of the ledger."""
    swarm = make_swarm(4)
    head = genesis(swarm.signed)
    empty = Header(0, 6, 2, b"\1" * 32, 5, 9, 5, 0, 5, bytes(32), entries_hash(()), bytes(32), justify_hash(()))
    full = replace(empty, count=1, entries_hash=entries_hash((b"leaf",)))
    for header, leaves, proves in ((empty, (), False), (full, (b"leaf",), True)):
        final = FinalBlock(Block(header.encode(), leaves, (), 0, b""), (certify(swarm, header),))
        for epoch, fork in ((1, proves), (0, True)):
            found = find_fork([final], {2: (b"\2" * 32, epoch)}.get, ledger_id=head.ledger_id, terms_of=head.terms_of)
            assert (found is not None) == fork
