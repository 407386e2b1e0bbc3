"""Ledgers of swarms that mix by gossip, made by real nodes in the simulated world: calm ones, and ones with trouble."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node import governance
from swarm import terms as t
from swarm.charter import SignedCharter
from swarm.machine import RECORD_BLOCK, Blend
from tests.builders import identity, make_swarm
from tests.epochs import FRESH
from tests.simulation.test_gossip import Blends, all_done, gossiping
from tests.simulation.test_membership import card, changing, committed, finished, in_epoch, propose
from topologies.world.faults import Crash, Fault, Partition
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.world import World

MEMBERS = 5
SAMPLES = (100, 200, 300, 400, 500)
"""Samples of each site: none has as many as another, so that no share is what it is by accident."""

DOWN = 2
"""The site that is away for some rounds in `troubled`."""


@dataclass(frozen=True, slots=True)
class Played:
    """A run: the charter, the blocks of site-0, and what each site blended in each round, by site and round."""

    signed: SignedCharter
    payloads: tuple[bytes, ...]
    blends: Mapping[tuple[int, int], Blend]


def calm(schedule: str, rounds: int = 5) -> Played:
    """Return a run of five sites in which nothing goes wrong."""
    return _played(schedule, rounds, (), 0.0)


def troubled(schedule: str = "ring") -> Played:
    """Return one in which messages are lost, one site is cut off for a moment and another is away for some rounds."""
    alone = Partition(at_s=5.0, duration_s=1.5, groups=((1,), (0, 2, 3, 4)))
    return _played(schedule, 8, (alone, Crash(at_s=12.0, slot=DOWN, down_s=40.0)), 0.02)


def compressed() -> Played:
    """Return one whose messages say how public copies move, with the same trouble."""
    alone = Partition(at_s=5.0, duration_s=1.5, groups=((1,), (0, 2, 3, 4)))
    return _played("ring", 8, (alone, Crash(at_s=7.0, slot=DOWN, down_s=8.0)), 0.02, codec="int4")


@functools.cache
def tracking() -> Played:
    """Return one whose steps are corrected, and in which one site loses its correction."""
    swarm = make_swarm(MEMBERS, rounds=6, schedule="ring", correction="gt")
    blends = Blends()
    world = gossiping(swarm, QuadraticTask(seed=3, samples=SAMPLES, bound=100.0), checkers=[blends])
    assert world.run(lambda w: committed(w, 0, 2))
    world.place(DOWN).blobs.forget_corrections()
    assert world.run(all_done)
    return Played(swarm.signed, _blocks(world), blends.seen)


def one_way() -> Played:
    """Return one whose links go one way, with the same trouble."""
    alone = Partition(at_s=5.0, duration_s=1.5, groups=((1,), (0, 2, 3, 4)))
    faults = (alone, Crash(at_s=12.0, slot=DOWN, down_s=40.0))
    return _played("one_peer_exponential", 8, faults, 0.02, "directed")


@functools.cache
def _played(
    schedule: str, rounds: int, faults: tuple[Fault, ...], loss: float, links: str = "", codec: str = ""
) -> Played:
    swarm = make_swarm(MEMBERS, rounds=rounds, schedule=schedule, patience_ms=3_000, links=links, codec=codec)
    task, blends = QuadraticTask(seed=3, samples=SAMPLES, bound=100.0), Blends()
    world = gossiping(swarm, task, faults=faults, network=NetworkProfile(loss=loss), checkers=[blends])
    assert world.run(all_done)
    return Played(swarm.signed, _blocks(world), blends.seen)


@functools.cache
def changing_gossip(schedule: str = "ring", links: str = "", codec: str = "", correction: str = "") -> Played:
    """Return one of four epochs: site-4 joins, site-2 takes new keys, site-1 leaves."""
    fresh, blends = {2: identity(FRESH)}, Blends()
    world = changing(
        4,
        newcomers=1,
        rounds=10,
        approve=governance.ALL,
        successors=fresh,
        schedule=schedule,
        links=links,
        codec_=codec,
        correction=correction,
        checkers=[blends],
    )
    changes: Sequence[tuple[int, int, t.Change, tuple[int, ...]]] = (
        (1, 0, t.add(card(4)), (0, 1, 2, 3)),
        (3, 2, t.rotate(identity(2).node, card(2, identity(FRESH))), (0, 2, 3, 4)),
        (5, 0, t.remove(identity(1).node), (0, 2, 3, 4)),
    )
    for epoch, (round_, who, change, members) in enumerate(changes, 1):
        assert world.run(lambda w, r=round_: committed(w, 0, r), end_s=300)  # type: ignore[misc]
        propose(world, who, change)
        assert world.run(in_epoch(epoch, *members), end_s=300)
    assert world.run(finished(0, 2, 3, 4), end_s=300)
    swarm = make_swarm(4, rounds=10, schedule=schedule, links=links, codec=codec, correction=correction)
    return Played(swarm.signed, _blocks(world), blends.seen)


def _blocks(world: World) -> tuple[bytes, ...]:
    journal = world.place(0).journal
    assert journal is not None
    return tuple(record.payload for record in journal.open().records if record.kind == RECORD_BLOCK)
