"""Disks that are older than what their owner has said: restored backups, clones, lost vote logs and lost feeds.

A site that starts asks the others what it is known to have said, and says nothing before a quorum has answered. So it
contradicts nothing that reached them; and no answer, however false, makes it contradict itself or keeps it silent.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from node.core import Node
from swarm.ledger.block import FINALIZE, SKIP, Certificate, Vote
from swarm.ledger.journal import BLOCKS, FEED, WAL, Journal, cut
from swarm.machine import RECORD_BLOCK, RECORD_ENTRY, Effect, NodeId, Record, Send
from tests.builders import Swarm, make_swarm
from topologies.families import complete, path, ring
from topologies.graph import Topology
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.disk import SimulatedDisk
from topologies.world.faults import Crash, FaultPlan
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import SEGMENT_BYTES, World

END_S = 120.0
MEMBER = 1
"""Whose disk is tampered with."""


class Nobody(Checker):
    """Nobody is seen to contradict itself, in any form, by anybody."""

    def __init__(self, liars: Sequence[int] = ()) -> None:
        self._liars = frozenset(liars)

    @override
    def on_event(self, world: World, node: int, twin: int, event: object, effects: Sequence[Effect]) -> None:
        machine = world.place(node, twin).machine
        if node in self._liars or not isinstance(machine, Node):
            return
        if machine.consensus.evidence or machine.replica.forks or machine.replica.head.accused:
            world.fail(f"member {node} holds somebody guilty: {machine.consensus.evidence} {machine.replica.forks}")


class Disk(Checker):
    """Replaces the disk of one member whenever it has stopped: `change` makes the new one of the one it left."""

    def __init__(self, change: Callable[[World, SimulatedDisk], SimulatedDisk], members: Sequence[int] = (MEMBER,)):
        self._change, self._members = change, members
        self.changed = 0

    @override
    def on_crash(self, world: World, node: int, twin: int) -> None:
        if node in self._members and not twin:
            place = world.place(node)
            place.disk, place.snapshot = self._change(world, place.disk), None
            self.changed += 1


def a_world(
    swarm: Swarm,
    topology: Topology,
    *,
    seed: int = 1,
    plan: FaultPlan | None = None,
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
    liars: dict[int, type[Node]] | None = None,
    twins: Sequence[int] = (),
) -> World:
    """Return a world of honest members, but for those that `liars` gives another machine."""
    kinds = liars or {}

    def make(member: int, incarnation: int) -> Node:
        node = swarm.node(member, now=EPOCH_S + world.now, seed=seed * 1000 + incarnation)
        if member in kinds:
            node.__class__ = kinds[member]
        return node

    n = topology.n
    world = World(
        seed=seed,
        make=make,
        topology=topology,
        plan=plan,
        network=network,
        learner=QuadraticTask(seed=seed, samples=tuple(100 * (i + 1) for i in range(n)), bound=100.0),
        ids=[who.node for who in swarm.identities],
        twins=twins,
        twin_split=False,
        blobs=[swarm.initial],
        checkers=[Agreement([*kinds, *twins]), HonestOnTheWire([*kinds, *twins]), *checkers],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def all_done(*members: int) -> Callable[[World], bool]:
    return lambda world: all(world.place(i).finished is not None for i in members)


def records_of(disk: SimulatedDisk, swarm: Swarm) -> tuple[Record, ...]:
    journal = Journal(copy.deepcopy(disk), ledger_id=swarm.signed.ledger_id, segment_bytes=SEGMENT_BYTES)
    return journal.open().records


def rewritten(swarm: Swarm, keep: Callable[[Record], bool]) -> Callable[[World, SimulatedDisk], SimulatedDisk]:
    """Return what makes a disk with only some of the records of another."""

    def change(world: World, disk: SimulatedDisk) -> SimulatedDisk:
        fresh = SimulatedDisk()
        journal = Journal(fresh, ledger_id=swarm.signed.ledger_id, segment_bytes=SEGMENT_BYTES)
        journal.open()
        kept = tuple(record for record in records_of(disk, swarm) if keep(record))
        if kept:
            journal.append(kept)
        return fresh

    return change


def wiped_votes(record: Record) -> bool:
    return record.kind in (RECORD_BLOCK, RECORD_ENTRY)


def wiped_feed(record: Record) -> bool:
    return record.kind != RECORD_ENTRY


def wiped(record: Record) -> bool:
    return False


SWARM = make_swarm(4, rounds=3)
MOMENTS = [0.6 + 0.31 * i for i in range(16)]


@pytest.mark.parametrize("keep", [wiped_votes, wiped_feed, wiped])
@pytest.mark.parametrize("at_s", MOMENTS[::4])
def test_a_lost_log_makes_nobody_contradict_itself(keep: Callable[[Record], bool], at_s: float) -> None:
    disk = Disk(rewritten(SWARM, keep))
    plan = FaultPlan(faults=(Crash(at_s=at_s, slot=MEMBER, down_s=0.3),))
    world = a_world(SWARM, complete(4), plan=plan, checkers=[disk, Nobody()])
    assert world.run(all_done(0, 1, 2, 3), end_s=END_S)
    assert disk.changed


class Backup(Checker):
    """Copies a member's disk at one moment and puts the copy back when it next stops."""

    def __init__(self, at_s: float, members: Sequence[int] = (MEMBER,)) -> None:
        self._at_s, self._members = at_s, members
        self.copies: dict[int, tuple[SimulatedDisk, tuple[int, bytes] | None]] = {}
        self.restored = 0

    @override
    def on_event(self, world: World, node: int, twin: int, event: object, effects: Sequence[Effect]) -> None:
        place = world.place(node)
        if node in self._members and node not in self.copies and world.now >= self._at_s and not place.disk.pending:
            self.copies[node] = copy.deepcopy(place.disk), place.snapshot

    @override
    def on_crash(self, world: World, node: int, twin: int) -> None:
        if node in self.copies:
            place = world.place(node)
            old, place.snapshot = self.copies[node]
            place.disk = copy.deepcopy(old)
            self.restored += 1


@pytest.mark.parametrize("taken", range(0, 8, 2))
@pytest.mark.parametrize("later_s", [0.4, 2.1])
def test_an_old_copy_of_a_disk_makes_nobody_contradict_itself(taken: int, later_s: float) -> None:
    backup = Backup(MOMENTS[taken])
    plan = FaultPlan(faults=(Crash(at_s=MOMENTS[taken] + later_s, slot=MEMBER, down_s=0.3),))
    world = a_world(SWARM, complete(4), plan=plan, checkers=[backup, Nobody()])
    assert world.run(all_done(0, 1, 2, 3), end_s=END_S)
    assert backup.restored


class Cut(Backup):
    """As `swarm backup create` copies, while the member runs: log by log, one of them a moment after the other."""

    def __init__(self, at_s: float, between_s: float) -> None:
        super().__init__(at_s)
        self._between_s = between_s
        self._copy, self._logs = SimulatedDisk(), [WAL, FEED, BLOCKS]

    @override
    def on_event(self, world: World, node: int, twin: int, event: object, effects: Sequence[Effect]) -> None:
        if node != MEMBER or world.now < self._at_s:
            return
        place = world.place(node)
        while self._logs and world.now >= self._at_s:
            log = self._logs.pop(0)
            self._copy.make_folder(log)
            for segment, size, data in cut(place.disk, log):
                self._copy.create(segment, size)
                self._copy.write(segment, 0, data)
                self._copy.sync(segment)
            self._copy.sync_folder(log)
            self._at_s += self._between_s
        if not self._logs and node not in self.copies:
            self.copies[node] = self._copy, None


@pytest.mark.parametrize("taken", range(0, 8, 2))
@pytest.mark.parametrize("between_s", [0.0, 0.15])
def test_a_backup_made_while_the_member_runs_makes_nobody_contradict_itself(taken: int, between_s: float) -> None:
    backup = Cut(MOMENTS[taken], between_s)
    plan = FaultPlan(faults=(Crash(at_s=MOMENTS[taken] + 1.9, slot=MEMBER, down_s=0.3),))
    world = a_world(SWARM, complete(4), plan=plan, checkers=[backup, Nobody()])
    assert world.run(all_done(0, 1, 2, 3), end_s=END_S)
    assert backup.restored


def test_all_members_start_at_once_from_old_copies_and_go_on() -> None:
    """Nobody remembers more than anybody else: what is lost everywhere was never final."""
    backup = Backup(1.5, (0, 1, 2, 3))
    crashes = tuple(Crash(at_s=1.6, slot=slot, down_s=0.5) for slot in range(4))
    world = a_world(SWARM, complete(4), plan=FaultPlan(faults=crashes), checkers=[backup, Nobody()])
    assert world.run(all_done(0, 1, 2, 3), end_s=END_S)
    assert backup.restored == 4


def test_all_members_that_start_at_once_do_not_wait_for_each_other_for_ever() -> None:
    for at_s in MOMENTS[::5]:
        crashes = tuple(Crash(at_s=at_s, slot=slot, down_s=0.5, power=True) for slot in range(4))
        world = a_world(SWARM, complete(4), plan=FaultPlan(faults=crashes), checkers=[Nobody()])
        assert world.run(all_done(0, 1, 2, 3), end_s=END_S)


def test_a_member_alone_asks_nobody() -> None:
    swarm = make_swarm(1, rounds=3)
    plan = FaultPlan(faults=(Crash(at_s=1.0, slot=0, down_s=0.5), Crash(at_s=2.0, slot=0, down_s=0.5)))
    world = a_world(swarm, complete(1), plan=plan, checkers=[Nobody()])
    assert world.run(all_done(0), end_s=END_S)


@pytest.mark.parametrize("topology", [ring(5), path(5)], ids=["ring", "path"])
@pytest.mark.parametrize("keep", [wiped_votes, wiped])
def test_with_fewer_neighbours_than_a_quorum_those_there_are_remember(
    topology: Topology, keep: Callable[[Record], bool]
) -> None:
    swarm = make_swarm(5, rounds=2, edges=tuple(sorted(topology.edges)))
    disk = Disk(rewritten(swarm, keep))
    faults = tuple(Crash(at_s=at_s, slot=MEMBER, down_s=0.3) for at_s in (1.1, 2.3, 4.1))
    world = a_world(swarm, topology, plan=FaultPlan(faults=faults), checkers=[disk, Nobody()])
    assert world.run(all_done(*range(5)), end_s=END_S)
    assert disk.changed == 3


# --- liars that are asked -----------------------------------------------------------------------------------------


class Silent(Node):
    """Never says what it remembers."""

    @override
    def _remind(self, sender: NodeId, message: m.Remind) -> list[Effect]:
        return []


class Forgetful(Node):
    """Says that it remembers nothing."""

    @override
    def _remind(self, sender: NodeId, message: m.Remind) -> list[Effect]:
        return [Send(sender, wire.encode(m.Reminder(self._terms.epoch, (), (), b"")))]


class Inventive(Node):
    """Makes things up: votes of its own, unsigned ones far ahead, somebody else's entry, certificates of nobody."""

    told = 0

    @override
    def _remind(self, sender: NodeId, message: m.Remind) -> list[Effect]:
        self.told += 1
        epoch, index = self._terms.epoch, self._terms.index(sender)
        assert index is not None
        own, _ = self.consensus.said_by(self._index or 0)
        bare = Vote(epoch, 2**40, SKIP, bytes(32), index, bytes(64))
        near = Vote(epoch, self.consensus.current_view, FINALIZE, bytes([7]) * 32, index, bytes(64))
        nobody = Certificate(epoch, 2**40, SKIP, bytes(32), (0, 1, 2), (bytes(64),) * 3)
        alien = self.replica.last_of(self._me) or b"garbage"
        lies = (
            m.Reminder(epoch, own or (bare,), (), b""),
            m.Reminder(epoch, (bare,), (), b""),
            m.Reminder(epoch, (near,), (), b""),
            m.Reminder(epoch, (), (nobody,), b""),
            m.Reminder(epoch, (), (), alien),
            m.Reminder(epoch, (), (), b"\xff" * 100),
            m.Reminder(2**62, (), (), b""),
        )
        return [Send(sender, wire.encode(lie)) for lie in lies]


@pytest.mark.parametrize("liar", [Silent, Forgetful, Inventive])
@pytest.mark.parametrize("keep", [wiped_votes, wiped])
def test_one_liar_in_four_cannot_make_a_site_that_asks_lie_or_fall_silent(
    liar: type[Node], keep: Callable[[Record], bool]
) -> None:
    disk = Disk(rewritten(SWARM, keep))
    faults = tuple(Crash(at_s=at_s, slot=MEMBER, down_s=0.3) for at_s in (1.1, 2.2, 3.3))
    world = a_world(SWARM, complete(4), plan=FaultPlan(faults=faults), checkers=[disk, Nobody([3])], liars={3: liar})
    assert world.run(all_done(0, 1, 2), end_s=END_S)
    assert disk.changed == 3


def test_a_clone_that_runs_beside_its_original_forks_nothing() -> None:
    """No question helps against two processes that speak at once: the member is a liar, and the swarm bears it."""
    world = a_world(SWARM, complete(4), twins=[3])
    assert world.run(all_done(0, 1, 2), end_s=END_S)
    for place in world.places[:3]:
        machine = place.machine
        assert isinstance(machine, Node)
        assert {node for node, _ in machine.replica.head.accused} <= {world.ids[3]}


@pytest.mark.parametrize("seed", [1, 2])
def test_lost_votes_and_lost_messages_together_never_fork_the_ledger(seed: int) -> None:
    """With loss a vote may have reached too few: its author may then contradict it, but no two quorums ever do."""
    disk = Disk(rewritten(SWARM, wiped_votes))
    faults = tuple(Crash(at_s=at_s, slot=MEMBER, down_s=0.3) for at_s in (1.1, 2.2, 3.3))
    plan = FaultPlan(faults=faults, heal_s=20.0)
    world = a_world(
        SWARM,
        complete(4),
        seed=seed,
        plan=plan,
        network=NetworkProfile(loss=0.1),
        checkers=[disk],
        liars={MEMBER: Node},
    )
    assert world.run(all_done(0, 1, 2, 3), end_s=END_S)
    assert disk.changed == 3
