"""A site that its people have paused: it trains nothing, votes and serves all the same, and nobody waits for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from typing_extensions import override

from gossip import messages as m
from gossip.peers import Peers
from node.core import Node
from swarm.machine import Effect, Evaluate, Resting, Train
from swarm.round import Phase
from tests.builders import Swarm, make_swarm
from topologies.families import complete
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, FaultPlan
from topologies.world.learner import QuadraticTask
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

PATIENCE_S = 60.0
"""Far longer than any round here takes: whoever waits for it is found out by the time."""

PAUSED = 2


class Work(Checker):
    """Notes when a member is asked to train or to score."""

    def __init__(self) -> None:
        self.asked: list[tuple[float, int]] = []

    @override
    def on_event(self, world: World, node: int, twin: int, event: object, effects: Sequence[Effect]) -> None:
        self.asked += [(world.now, node) for effect in effects if isinstance(effect, Train | Evaluate)]


def a_world(swarm: Swarm, work: Checker, *, plan: FaultPlan | None = None, paused: bool = False) -> World:
    """Return a world of honest members. With `paused` that one begins so, as its shell remembers."""
    members = len(swarm.identities)

    def make(member: int, incarnation: int) -> Node:
        node = swarm.node(member, now=EPOCH_S + world.now, seed=incarnation)
        if paused and member == PAUSED:
            assert node.handle(Resting("not today"), EPOCH_S + world.now) == []
        return node

    world = World(
        seed=1,
        make=make,
        topology=complete(members),
        plan=plan,
        learner=QuadraticTask(seed=1, samples=(100,) * members, bound=100.0),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        checkers=[Agreement(), HonestOnTheWire(), work],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def round_of(world: World, member: int) -> int:
    machine = world.place(member).machine
    return machine.replica.head.committed.round if isinstance(machine, Node) else 0


def committed(round_: int, *members: int) -> Callable[[World], bool]:
    return lambda world: all(round_of(world, member) >= round_ for member in members)


def test_the_others_close_rounds_without_a_paused_site_and_do_not_wait_for_it() -> None:
    swarm, work = make_swarm(4, rounds=6, patience_ms=int(PATIENCE_S * 1000)), Work()
    world = a_world(swarm, work)
    assert world.run(committed(1, 0, 1, 3), end_s=30.0)
    world.rest(PAUSED, "its people want the machine")
    begun = world.now
    assert world.run(committed(5, 0, 1, 2, 3), end_s=begun + PATIENCE_S / 2)
    # It follows the ledger as far as the others, and by its votes: it trains and scores nothing meanwhile.
    assert not [at for at, node in work.asked if node == PAUSED and at > begun + 0.5]
    world.rest(PAUSED, "")
    assert world.run(lambda w: all(place.finished for place in w.places), end_s=world.now + PATIENCE_S)
    assert [node for at, node in work.asked if node == PAUSED and at > begun + 1.0], "it trains again"


def test_a_paused_site_is_needed_for_the_quorum_and_votes() -> None:
    """Of four, three agree: with one member gone for good, the paused one is the third."""
    swarm, work = make_swarm(4, rounds=4, patience_ms=int(PATIENCE_S * 1000)), Work()
    plan = FaultPlan(faults=(Crash(at_s=3.0, slot=3, down_s=1e6),))
    world = a_world(swarm, work, plan=plan, paused=True)
    assert world.run(committed(4, 0, 1, 2), end_s=PATIENCE_S)
    assert not [node for _, node in work.asked if node == PAUSED]


def test_a_site_that_begins_paused_never_trains_and_says_so() -> None:
    swarm, work = make_swarm(3, rounds=2, patience_ms=int(PATIENCE_S * 1000)), Work()
    world = a_world(swarm, work, paused=True)
    assert world.run(committed(2, 0, 1, 2), end_s=PATIENCE_S)
    assert not [node for _, node in work.asked if node == PAUSED]
    machine = world.place(PAUSED).machine
    assert isinstance(machine, Node)
    status = machine.status(EPOCH_S + world.now)
    assert (status["phase"], status["resting"]) == ("paused", "not today")
    peer = world.place(0).machine
    assert isinstance(peer, Node)
    assert peer.peers.members[world.ids[PAUSED]].phase == Phase.PAUSED


def test_only_a_site_itself_can_say_that_it_is_paused() -> None:
    """A neighbour that tells it of another would have that one left out of every round."""
    swarm = make_swarm(3)
    me, teller, other = (who.node for who in swarm.identities)
    node = swarm.node(0)
    peers: Peers = node.peers
    now = EPOCH_S + 1.0
    row = m.Progress(other, 1, Phase.PAUSED, 0, 0, 0, 0)
    peers.on_heartbeat(teller, m.Heartbeat(int(now * 1000), 0, b"", 0, (row,)), now)
    assert not peers.silent(other, now)
    peers.on_heartbeat(other, m.Heartbeat(int(now * 1000), 0, b"", 0, (row,)), now)
    assert peers.silent(other, now)
    again = m.Progress(other, 1, Phase.TRAINING, 0, 0, 0, 0)
    peers.on_heartbeat(other, m.Heartbeat(int(now * 1000), 0, b"", 0, (again,)), now)
    assert not peers.silent(other, now)
    assert not peers.silent(me, now)
