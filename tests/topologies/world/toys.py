"""Small machines to drive the simulated world with. None of them knows that it is simulated."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from swarm.machine import (
    RECORD_ENTRY,
    Answer,
    Asked,
    Effect,
    Event,
    LinkChanged,
    NodeId,
    Persist,
    Received,
    Record,
    Send,
    Started,
    WakeAt,
    Woke,
)
from topologies.families import complete
from topologies.graph import Topology
from topologies.world.checkers import Checker
from topologies.world.faults import FaultOptions, FaultPlan, generate
from topologies.world.network import NetworkProfile
from topologies.world.place import member_id
from topologies.world.world import World

HARSH = NetworkProfile(loss=0.1, duplication=0.05, tail=0.05, delay_s_mean=0.05, bandwidth_bytes_s=1e5)


class Flood:
    """Every member tells one word; everybody remembers, durably, every word it hears and passes it on."""

    def __init__(self, member: int, neighbours: Sequence[NodeId], rng: random.Random) -> None:
        self.word = b"word%03d" % member
        self.neighbours = neighbours
        self.rng = rng
        self.words: dict[bytes, None] = {}
        self.up: dict[NodeId, bool] = {}

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        match event:
            case Started(records=records):
                self.words = dict.fromkeys(record.payload for record in records)
                return [*self.hear(self.word), WakeAt(now + 1.0)]
            case Received(frame=frame):
                return self.hear(frame)
            case LinkChanged(peer=peer, up=up):
                self.up[peer] = up
                return [Send(peer, word) for word in self.words] if up else []
            case Woke():
                word = self.rng.choice(list(self.words))
                return [*(Send(peer, word) for peer in self.neighbours), WakeAt(now + 1.0)]
            case Asked(ticket=ticket):
                return [Answer(ticket, {"words": len(self.words)})]
            case _:
                return []

    def hear(self, word: bytes) -> list[Effect]:
        if word in self.words:
            return []
        self.words[word] = None
        record = Record(RECORD_ENTRY, len(self.words), word)
        return [Persist((record,)), *(Send(peer, word) for peer in self.neighbours)]


class Script:
    """Answers every event by a function of it; remembers all of them with their times."""

    def __init__(self, answer: Callable[[Event, float], Sequence[Effect]]) -> None:
        self.answer = answer
        self.seen: list[tuple[float, Event]] = []

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        self.seen.append((now, event))
        return self.answer(event, now)

    def of(self, kind: type[Event]) -> list[Event]:
        return [event for _, event in self.seen if isinstance(event, kind)]


def flooding(topology: Topology, seed: int) -> Callable[[int, int], Flood]:
    """A factory of `Flood` machines."""

    def make(member: int, incarnation: int) -> Flood:
        neighbours = [member_id(other) for other in topology.neighbours(member)]
        return Flood(member, neighbours, random.Random(f"{seed}/{member}/{incarnation}"))

    return make


def silent(event: Event, now: float) -> Sequence[Effect]:
    """Does nothing."""
    return ()


def harsh_world(seed: int, *, record_trace: bool = False, checkers: Sequence[Checker] = ()) -> World:
    """Five flooding members, one of them a twin, under everything that can go wrong, healed after 20 s."""
    topology = complete(5)
    options = FaultOptions(heal_s=20.0, crash_every_s=3.0, crash_s=1.0, full_every_s=10.0, partition_every_s=4.0)
    plan: FaultPlan = generate(seed, members=5, twins=(4,), options=options)
    return World(
        seed=seed,
        make=flooding(topology, seed),
        topology=topology,
        plan=plan,
        network=HARSH,
        twins={4},
        record_trace=record_trace,
        checkers=checkers,
    )


def harsh_digest(seed: int) -> str:
    """The trace digest of 30 s of `harsh_world`."""
    world = harsh_world(seed)
    world.run(30.0)
    return world.trace_digest()
