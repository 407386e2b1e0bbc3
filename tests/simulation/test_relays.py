"""Sites that only dial out, in the simulated world: the very machines and passages that ship, over links that do not."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import pytest

from gossip import relay as r
from gossip import wire
from gossip.noise import KeyPair
from gossip.relay import Out, Passages
from node.governance import ALL
from swarm.machine import Buffer, Effect, Event, NodeId, Received
from swarm.terms import remove
from tests.builders import Swarm, make_swarm
from tests.simulation.stories import done, told
from tests.simulation.test_membership import committed, finished, in_epoch, propose
from topologies.graph import Topology
from topologies.world.checkers import Checker, PersistBeforeSend
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, Fault, FaultPlan
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

HIDDEN = (2, 3, 4)
ELEMENTS = 2048


@functools.cache
def hidden_swarm(rounds: int = 3, **more: object) -> Swarm:
    """Return five sites of which the last three only dial out."""
    return make_swarm(5, rounds=rounds, hidden=HIDDEN, relay="sealed", elements=ELEMENTS, patience_ms=3_000, **more)  # type: ignore[arg-type]


def hiding(
    swarm: Swarm,
    *,
    kind: type[Passages] = Passages,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
    unwilling: Sequence[int] = (),
) -> World:
    """Return a world in which no frame between two of the hidden arrives but through a relay, which is of this kind."""

    def seal(member: int, draw: Callable[[], bytes]) -> Passages:
        who = swarm.identities[member]
        keys = KeyPair(who.curve_public, who.curve_secret)
        made = Passages if member in HIDDEN else kind
        return made(me=who.node, keys=keys, ledger_id=swarm.signed.ledger_id, draw=draw)

    world = World(
        seed=1,
        make=lambda member, incarnation: swarm.node(
            member, now=EPOCH_S + world.now, seed=100 + incarnation, relays=member not in unwilling, approve=ALL
        ),
        topology=Topology(n=5, edges=[(a, b) for a, b in combinations(range(5), 2) if not {a, b} <= {*HIDDEN}]),
        plan=FaultPlan(faults=tuple(faults)),
        network=network,
        passages=seal,
        learner=QuadraticTask(seed=5, samples=(100, 300, 50, 100, 500), elements=ELEMENTS, bound=100.0),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        checkers=[Agreement(), HonestOnTheWire(), PersistBeforeSend(), *checkers],
        codec=swarm.charter.codec,
        cuts=swarm.charter.cuts,
        ledger_id=swarm.signed.ledger_id,
    )
    return world


class Spy(Passages):
    """A relay that keeps all it is given to forward: what each is, and all of it but who is the other end."""

    seen: list[tuple[int, bytes]]

    def receive(self, sender: NodeId, frame: bytes, payload: Buffer | None, now: float) -> list[r.Item]:
        type(self).seen.append((frame[3], frame[36:] + bytes(payload or b"")))
        return super().receive(sender, frame, payload, now)


class Words(Checker):
    """Keeps what members that only dial out say to one another, before it is sealed, and what relays' machines hear."""

    def __init__(self, swarm: Swarm) -> None:
        self._hidden = {swarm.identities[i].node for i in HIDDEN}
        self.said: list[bytes] = []
        self.heard_by_relays: list[bytes] = []

    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if node in HIDDEN and to in self._hidden:
            self.said.append(frame)

    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if node not in HIDDEN and isinstance(event, Received):
            self.heard_by_relays.append(event.frame)


def windows(text: bytes, width: int = 16) -> Iterator[bytes]:
    yield from (text[i : i + width] for i in range(0, max(1, len(text) - width + 1), width))


@pytest.mark.parametrize("more", [{}, {"route": "sharded"}, {"schedule": "ring"}], ids=["spread", "sharded", "gossip"])
def test_all_finish_though_three_of_five_only_dial_out(more: dict[str, str]) -> None:
    swarm = hidden_swarm(**more)
    world = hiding(swarm)
    assert world.run(done, end_s=900.0)
    world.end()
    links = [text for text in told(world, 2, "link_up") if "through site-" in text]
    assert {text.split()[2] for text in links} == {"site-3", "site-4"}
    assert all("cannot read along" in text for text in links)


def test_relays_receive_nothing_of_what_is_said_through_them() -> None:
    swarm = hidden_swarm(route="sharded")
    words = Words(swarm)
    Spy.seen = []
    world = hiding(swarm, kind=Spy, checkers=[words])
    assert world.run(done, end_s=900.0)
    carried = b"".join(data for _, data in Spy.seen)
    kinds = {wire.kind(frame) for frame in words.said}
    assert len(kinds) >= 8, "greetings, entries, votes, requests for models: all of it went through relays"
    assert sum(what == r.CHUNK for what, _ in Spy.seen) > 10, "and models"
    assert len(carried) > 100_000
    blobs = [blob for place in world.places for blob in contents(world, place.member)]
    assert blobs
    plain = {window for text in (*words.said, *blobs) for window in windows(text) if len(set(window)) > 4}
    assert len(plain) > 1_000, len(plain)
    assert [window for window in plain if window in carried] == []
    assert not any(r.is_carried(frame) for frame in words.heard_by_relays), "their machines do not even hear of it"


def contents(world: World, member: int) -> list[bytes]:
    """Return the blobs that a member's store holds at the end."""
    store = world.place(member).blobs
    return [bytes(store.read(one.digest, 0, one.size) or b"") for one in store.listing()[0]]


class Liar(Passages):
    """A relay that drops, repeats, alters, swaps and misdirects what it is to forward."""

    turn = 0

    def carry(self, backlog: object) -> list[Out]:
        told: list[Out] = []
        for out in super().carry(backlog):  # type: ignore[arg-type]
            type(self).turn += 1
            match type(self).turn % 7:
                case 0:
                    continue
                case 1:
                    told += [out, out]
                case 2:
                    told.append(Out(out.to, out.frame[:-1] + bytes((out.frame[-1] ^ 1,)), out.payload))
                case 3:
                    told.insert(0, out)
                case 4:
                    other = out.frame[4:36]
                    told.append(Out(NodeId(other), out.frame[:4] + out.to + out.frame[36:], out.payload))
                case _:
                    told.append(out)
        return told


def test_a_lying_relay_costs_time_and_nothing_else() -> None:
    swarm = hidden_swarm(route="sharded")
    world = hiding(swarm, kind=Liar)
    assert world.run(done, end_s=3600.0)
    world.end()  # Agreement and honesty on the wire are checked throughout.
    models = {world.place(i).machine.replica.head.committed.model for i in range(5)}  # type: ignore[union-attr]
    assert len(models) == 1


def test_when_a_relay_crashes_the_other_takes_over_and_when_an_end_does_it_comes_back() -> None:
    swarm = hidden_swarm(route="sharded")
    faults = (Crash(at_s=3.0, slot=0, down_s=60.0), Crash(at_s=5.0, slot=3, down_s=5.0))
    world = hiding(swarm, faults=faults)
    assert world.run(done, end_s=1800.0)
    world.end()


def test_a_relay_that_refuses_leaves_it_to_the_other() -> None:
    swarm = hidden_swarm(route="sharded")
    world = hiding(swarm, unwilling=(0,))
    assert world.run(done, end_s=900.0)
    through = {text.split("through ")[1].split(",")[0] for text in told(world, 2, "link_up") if "through" in text}
    assert through == {"site-1"}


def test_when_a_relay_leaves_the_swarm_its_pairs_go_through_another() -> None:
    swarm = hidden_swarm(rounds=8)
    world = hiding(swarm)
    assert world.run(lambda world: all(committed(world, member, 2) for member in range(5)), end_s=900.0)
    propose(world, 0, remove(swarm.identities[0].node))
    assert world.run(in_epoch(1, 1, 2, 3, 4), end_s=900.0)
    assert world.run(finished(1, 2, 3, 4), end_s=1800.0)
    world.end()
    for member in HIDDEN:
        passages = world.place(member).passages
        assert passages is not None
        assert {one.relay for one in passages._passages.values()} == {swarm.identities[1].node}
        assert len(passages._passages) == 2


def test_over_links_that_lose_repeat_and_reorder_all_finish_too() -> None:
    swarm = hidden_swarm(route="sharded")
    network = NetworkProfile(loss=0.05, duplication=0.05, tail=0.02)
    world = hiding(swarm, network=network)
    assert world.run(done, end_s=3600.0)
    world.end()


def test_the_same_seed_is_the_same_run() -> None:
    swarm = hidden_swarm(route="sharded")
    digests = []
    for _ in range(2):
        world = hiding(swarm)
        assert world.run(done, end_s=900.0)
        digests.append(world.trace_digest())
    assert digests[0] == digests[1]


def test_nothing_goes_through_a_relay_where_the_charter_does_not_say_so() -> None:
    swarm = make_swarm(5, rounds=2, hidden=HIDDEN, elements=ELEMENTS)
    world = hiding(swarm)
    assert world.run(done, end_s=900.0)
    assert not any("through" in text for member in range(5) for text in told(world, member, "link_up"))
    assert not any(place.passages.forwarded_bytes for place in world.places if place.passages is not None)
