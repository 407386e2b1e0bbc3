"""The main suite: the real node under loss, duplication, partitions, crashes and liars, one seed after another.

`run(seed, ...)` is one story; everything in it follows from its arguments. With an odd seed late work counts. As a program it searches seeds until its
time is up and prints, for each one that fails, the one command that replays it.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.charter import BUFFERED
from swarm.staleness import STALENESS_DEFAULT
from tests.builders import Swarm, make_swarm
from topologies.families import complete
from topologies.world.checkers import PersistBeforeSend, Violation
from topologies.world.clock import EPOCH_S
from topologies.world.faults import FaultOptions, FaultPlan, generate
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.place import Place
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

HEAL_S = 40.0
"""Faults end here."""

END_S = 400.0
"""By then every honest member must be done: ten times the time of the faults."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What became of a run."""

    seed: int
    virtual_s: float
    events: int
    height: int
    accused: tuple[int, ...]
    convicted: tuple[int, ...]
    digest: str


def run(seed: int, *, members: int = 4, twins: int = 1, rounds: int = 2, calm: bool = False) -> Story:
    """Run one seed. Raises `Violation` when a truth does not hold or an honest member is not done in time."""
    world = play(seed, members=members, twins=twins, rounds=rounds, calm=calm)
    machines = [place.machine for place in world.places if place.member < members - twins and place.machine]
    index = {card.node: i for i, card in enumerate(machines[0].replica.head.signed.charter.members)}
    return Story(
        seed=seed,
        virtual_s=world.now,
        events=world.stats.events,
        height=max(machine.replica.head.height for machine in machines),
        accused=tuple(sorted({found.culprit for machine in machines for found in machine.consensus.evidence})),
        convicted=tuple(sorted({index[node] for machine in machines for node, _ in machine.replica.head.accused})),
        digest=world.trace_digest(),
    )


def play(seed: int, *, members: int = 4, twins: int = 1, rounds: int = 2, calm: bool = False) -> World:
    """Return the world at the end of a seed. Raises `Violation` as `run` does."""
    swarm = make_swarm(
        members,
        rounds=rounds,
        deadline_ms=60_000,
        staleness=STALENESS_DEFAULT if seed % 2 else 0,
        asynchronous=BUFFERED if seed % 4 == 3 else "",
    )
    liars = tuple(range(members - twins, members))
    options = FaultOptions(heal_s=HEAL_S, partition_every_s=8.0, crash_every_s=10.0)
    plan = FaultPlan() if calm else generate(seed, members=members, twins=liars, options=options)
    profile = NetworkProfile() if calm else NetworkProfile(loss=0.05, duplication=0.05)
    world = World(
        seed=seed,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=seed * 1000 + incarnation),
        topology=complete(members),
        plan=plan,
        network=profile,
        learner=QuadraticTask(seed=seed, samples=tuple(100 * (i + 1) for i in range(members)), bound=100.0),
        ids=[who.node for who in swarm.identities],
        twins=liars,
        blobs=[swarm.initial],
        checkers=[Agreement(liars), HonestOnTheWire(liars), PersistBeforeSend()],
        ledger_id=swarm.signed.ledger_id,
    )
    honest = [place for place in world.places if place.member not in liars]
    done = world.run(lambda _: all(place.finished for place in honest), end_s=END_S)
    _check_accusations(world, swarm, honest, liars)
    if not done:
        stuck = [f"{p.name} at round {p.machine.replica.head.round}" for p in honest if p.machine and not p.finished]
        world.fail(f"not done by {END_S} s: {', '.join(stuck)}")
    world.end()
    return world


def caught() -> World:
    """Return the world at the end of the first seed by which one of four lies and is on record for it.

    Most are; which is the first changes with every message that is added to the protocol.
    """
    for seed in range(1, 20):
        world = play(seed)
        machine = world.place(0).machine
        if machine is not None and machine.replica.head.accused:
            return world
    raise AssertionError("no seed of the first twenty catches its liar")


def _check_accusations(world: World, swarm: Swarm, honest: Sequence[Place], liars: Sequence[int]) -> None:
    """Nobody honest is suspected by an honest node or convicted by the ledger."""
    guilty = {swarm.identities[i].node for i in liars}
    for place in honest:
        if place.machine is not None:
            noticed = sorted({found.culprit for found in place.machine.consensus.evidence} - {*liars})
            if noticed:
                world.fail(f"honest members were accused: {noticed}")
            if any(node not in guilty for node, _ in place.machine.replica.head.accused):
                world.fail(f"the ledger of {place.name} accuses honest members")


def main() -> int:
    """Search seeds; return 1 when one fails."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--members", type=int, default=4)
    options.add_argument("--twins", type=int, default=1, help="members that run as two contradictory processes")
    options.add_argument("--rounds", type=int, default=2)
    options.add_argument("--first", type=int, default=1, help="first seed")
    options.add_argument("--seeds", type=int, default=200)
    options.add_argument("--time", type=float, default=600.0, help="stop after this many seconds")
    chosen = options.parse_args()
    begun = time.monotonic()
    events = tried = failed = accused = convicted = 0
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        if time.monotonic() - begun > chosen.time:
            break
        tried += 1
        try:
            story = run(seed, members=chosen.members, twins=chosen.twins, rounds=chosen.rounds)
            events += story.events
            accused += bool(story.accused)
            convicted += bool(story.convicted)
        except Violation as violation:
            failed += 1
            print(f"seed {seed}: {str(violation).splitlines()[0]}")
            print(
                f"  replay: python -m tests.simulation.campaign --members {chosen.members} --twins {chosen.twins} "
                f"--rounds {chosen.rounds} --first {seed} --seeds 1"
            )
    spent = time.monotonic() - begun
    print(
        f"{tried} seeds, n={chosen.members} with {chosen.twins} twins: {tried - failed} safe and live, {failed} not; "
        f"liars caught in {accused}, on record in {convicted}; {events} events in {spent:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
