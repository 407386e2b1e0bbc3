"""Swarms that change while everything goes wrong: joins, leaves, new keys, returns and other policies, seed after seed.

`run(seed, ...)` is one story; everything in it follows from its arguments. With an odd seed late work counts. Sites propose changes at random moments,
under loss, duplication, partitions and crashes at random effects, with or without a liar, and everybody says yes. What
must hold: one history, never two terms for one epoch, nobody honest contradicts itself or is accused, and once the
faults are over all members of the last epoch finish, with equal ledgers that an audit accepts. As a program it searches
seeds until its time is up and prints, for each one that fails, the one command that replays it.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec
from typing_extensions import override

from node import governance
from node.core import Node
from swarm import codec
from swarm import terms as t
from swarm.charter import BUFFERED, make_card
from swarm.ledger.audit import audit
from swarm.ledger.journal import BLOCKS, Placed, scan
from swarm.ledger.state import State
from swarm.machine import Contact, Effect, Event, NodeId
from swarm.staleness import STALENESS_DEFAULT
from tests.builders import Swarm, identity, make_swarm
from topologies.families import complete
from topologies.world.checkers import Checker, PersistBeforeSend, Violation
from topologies.world.clock import EPOCH_S
from topologies.world.faults import FaultOptions, generate
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.place import Place
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

HEAL_S = 40.0
"""Faults end here, and so do proposals soon after."""

END_S = 500.0
"""By then every honest member must be done: ten times the time of the faults."""

EVENTS_MAX = 300_000
"""Steps of one story, about ten times what the longest takes: a storm of messages is a finding, too."""

FAILURES_MAX = 20
"""A search ends after so many: more would say nothing new."""

PROPOSE_EVERY_S = 4.0
"""Mean time between proposals in the whole swarm: about ten a story, often several open at once."""

SUCCESSORS = 100
"""`identity(SUCCESSORS + i)` are the next keys of site i."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What became of a run. `changes` counts what took effect, by kind; `members` are those of the last epoch."""

    seed: int
    virtual_s: float
    events: int
    height: int
    epoch: int
    changes: Counter[str]
    members: tuple[str, ...]
    convicted: int
    crashes: int
    digest: str


class OneTermsPerEpoch(Checker):
    """No two honest processes ever hold different terms for one epoch, and nobody honest is suspected by them."""

    def __init__(self, liars: Collection[int] = ()) -> None:
        self._liars = frozenset(liars)
        self._guilty = {identity(liar).node for liar in liars}
        self.terms: dict[int, bytes] = {}

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if node in self._liars:
            return
        machine = machine_of(world.place(node, twin))
        if machine is None:
            return
        head = machine.replica.head
        for terms in (head.terms, *((head.coming,) if head.coming else ())):
            if self.terms.setdefault(terms.epoch, terms.digest) != terms.digest:
                world.fail(f"member {node} holds other terms for epoch {terms.epoch}")
        noticed = [head.terms.members[found.culprit].node for found in machine.consensus.evidence]
        for culprit in (*noticed, *machine.replica.forks, *(culprit for culprit, _ in head.accused)):
            if culprit not in self._guilty:
                world.fail(f"member {node} holds {head.terms.name(culprit)}, who is honest, guilty")


class Campaigner:
    """Draws what sites propose, within what the swarm can bear: a liar needs three honest members beside it."""

    def __init__(self, seed: int, sites: int, liars: Sequence[int], fewest: int) -> None:
        self._rng = random.Random(f"members/{seed}")
        self._sites, self._liars, self._fewest = sites, liars, fewest
        self.rotated: set[int] = set()
        self._leaving: set[NodeId] = set()
        self._next_s = self._rng.expovariate(1 / PROPOSE_EVERY_S)

    def campaign(self, world: World) -> None:
        """Let one member propose something, when it is time."""
        if world.now < self._next_s or world.now > HEAL_S + 5.0:
            return
        self._next_s = world.now + self._rng.expovariate(1 / PROPOSE_EVERY_S)
        places = [p for p in world.places if p.member not in self._liars and p.machine is not None]
        able = [p for p in places if head_of(p).terms.index(p.id) is not None]
        if not able:
            return
        latest = max((head_of(p) for p in able), key=lambda state: state.height)
        self._leaving &= {seat.node for seat in latest.terms.members}
        place = self._rng.choice(able)
        change = self._draw(place, head_of(place), latest)
        if change is not None:
            world.ask(place.member, f"propose {codec.encode(change).hex()} - 30")

    def _draw(self, place: Place, state: State, latest: State) -> t.Change | None:
        seats = {seat.node for seat in state.terms.members}
        match self._rng.randrange(5):
            case 0 | 1:
                # A site that has taken new keys would come back as another one: its id follows from its first key.
                away = [i for i in range(self._sites) if identity(i).node not in seats and i not in self.rotated]
                return t.add(card_of(self._rng.choice(away))) if away else None
            case 2:
                staying = sorted(seat.node for seat in latest.terms.members if seat.node not in self._leaving)
                if len(staying) <= self._fewest:
                    return None
                leaver = self._rng.choice(staying)
                self._leaving.add(leaver)
                return t.remove(leaver)
            case 3:
                if place.member in self.rotated:
                    return None
                self.rotated.add(place.member)
                return t.rotate(place.id, card_of(place.member, SUCCESSORS + place.member))
            case _:
                policy = state.terms.round
                rounds = min(policy.rounds + self._rng.randrange(3), 12)
                patience = self._rng.choice((5_000, 8_000, 12_000))
                fewest = self._rng.choice((1, 1, 2))
                return t.repolicy(
                    msgspec.structs.replace(
                        policy, rounds=rounds, patience_ms=patience, min_contributions=min(fewest, len(seats))
                    )
                )


def card_of(site: int, keys: int | None = None) -> t.Card:
    """Return a site's card, with the keys of another number if told so."""
    who = identity(site if keys is None else keys)
    return make_card(who, name=f"site-{site}", endpoint=f"tcp://127.0.0.1:{17000 + site}")


def machine_of(place: Place) -> Node | None:
    """Return the node that runs there."""
    assert place.machine is None or isinstance(place.machine, Node), "this world runs nodes"
    return place.machine


def head_of(place: Place) -> State:
    """Return the final state that a running process holds."""
    machine = machine_of(place)
    assert machine is not None, "somebody has looked"
    return machine.replica.head


def run(seed: int, *, founders: int = 5, newcomers: int = 2, twins: int = 0, rounds: int = 5, fewest: int = 0) -> Story:
    """Run one seed. Raises `Violation` when a truth does not hold or a member is not done in time.

    `fewest` members are never gone below; by default one, or as many as tolerate the twins.
    """
    swarm = make_swarm(
        founders,
        rounds=rounds,
        deadline_ms=60_000,
        staleness=STALENESS_DEFAULT if seed % 2 else 0,
        asynchronous=BUFFERED if seed % 4 == 3 else "",
    )
    world = play(seed, swarm, newcomers=newcomers, twins=twins, fewest=fewest or 3 * twins + 1)
    liars = range(founders - twins, founders)
    last = max((head_of(p) for p in world.places if p.machine and p.member not in liars), key=lambda s: s.height)
    changes: Counter[str] = Counter()
    for place in world.places:
        if place.member not in liars:
            *_, found = audit(ledger_of(place, swarm), swarm.signed)
            if found.failure is not None:
                world.fail(f"the ledger of {place.name} does not hold: {found.failure.text}")
            if found.state.height == last.height:
                changes = Counter(t.CHANGES[view.change.kind] for view in found.epochs if view.change is not None)
    return Story(
        seed=seed,
        virtual_s=world.now,
        events=world.stats.events,
        height=last.height,
        epoch=last.terms.epoch,
        changes=changes,
        members=tuple(seat.name for seat in last.terms.members),
        convicted=len({node for node, _ in last.accused}),
        crashes=world.stats.crashes,
        digest=world.trace_digest(),
    )


def play(seed: int, swarm: Swarm, *, newcomers: int, twins: int, fewest: int) -> World:
    """Return the world at the end of a seed. Raises `Violation` as `run` does."""
    founders = len(swarm.identities)
    sites = founders + newcomers
    liars = tuple(range(founders - twins, founders))
    options = FaultOptions(heal_s=HEAL_S, partition_every_s=8.0, crash_every_s=6.0)
    campaigner = Campaigner(seed, sites, liars, fewest)
    everybody = [
        Contact(card.node, card.name, card.curve_key, card.endpoint) for card in (card_of(i) for i in range(sites))
    ]

    def make(site: int, incarnation: int) -> Node:
        return swarm.node(
            site,
            now=EPOCH_S + world.now,
            seed=seed * 1000 + incarnation,
            approve=governance.ALL,
            successor=None if site in liars else identity(SUCCESSORS + site),
            sponsors=[contact for contact in everybody if contact.node != identity(site).node],
        )

    world = World(
        seed=seed,
        make=make,
        topology=complete(sites),
        plan=generate(seed, members=sites, twins=liars, options=options),
        network=NetworkProfile(loss=0.05, duplication=0.05),
        learner=QuadraticTask(seed=seed, samples=tuple(100 * (i + 1) for i in range(sites)), bound=100.0),
        ids=[identity(i).node for i in range(sites)],
        twins=liars,
        blobs=[swarm.initial],
        checkers=[Agreement(liars), HonestOnTheWire(liars), PersistBeforeSend(), OneTermsPerEpoch(liars)],
        ledger_id=swarm.signed.ledger_id,
    )

    def settled(world: World) -> bool:
        campaigner.campaign(world)
        return world.now > HEAL_S + 10.0 and _stuck(world, liars) == []

    if not world.run(settled, end_s=END_S, max_events=EVENTS_MAX):
        world.fail(f"not done by {world.now:.0f} s: {'; '.join(_stuck(world, liars))}")
    world.end()
    return world


def _stuck(world: World, liars: Collection[int]) -> list[str]:
    """Say of every honest member of the last epoch that is not done where it stands."""
    running = [p for p in world.places if p.machine is not None and p.member not in liars]
    last = max((head_of(p) for p in running), key=lambda state: state.height)
    members: set[NodeId] = {seat.node for seat in last.terms.members}
    found = []
    for place in world.places:
        if place.member in liars or place.id not in members:
            continue
        machine = machine_of(place)
        if machine is None or not machine.replica.head.complete or machine.replica.head.digest() != last.digest():
            where = "down" if machine is None else _where(machine, last)
            found.append(f"{place.name} {where}")
    return found


def _where(machine: Node, last: State) -> str:
    state = machine.replica.head
    said = f"at block {state.height} of {last.height}, epoch {state.terms.epoch} of {last.terms.epoch}"
    muted = ", silent" if machine.consensus.muted else ""
    return f"{said}, round {state.round}{muted}"


def ledger_of(place: Place, swarm: Swarm) -> list[bytes]:
    """Return the final blocks on a process's disk, as written."""
    found = (part for part in scan(place.disk, BLOCKS, swarm.signed.ledger_id) if isinstance(part, Placed))
    return [part.record.payload for part in found]


def main() -> int:
    """Search seeds; return 1 when one fails."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--founders", type=int, default=5)
    options.add_argument("--newcomers", type=int, default=2, help="sites that are no members at first")
    options.add_argument("--twins", type=int, default=0, help="founders that run as two contradictory processes")
    options.add_argument("--rounds", type=int, default=5)
    options.add_argument("--first", type=int, default=1, help="first seed")
    options.add_argument("--seeds", type=int, default=1000)
    options.add_argument("--time", type=float, default=300.0, help="stop after this many seconds")
    chosen = options.parse_args()
    sizes = {"founders": chosen.founders, "newcomers": chosen.newcomers, "twins": chosen.twins, "rounds": chosen.rounds}
    begun = time.monotonic()
    tried = failed = epochs = events = convicted = crashes = 0
    changes: Counter[str] = Counter()
    for seed in range(chosen.first, chosen.first + chosen.seeds):
        if time.monotonic() - begun > chosen.time or failed == FAILURES_MAX:
            break
        tried += 1
        try:
            story = run(seed, **sizes)
            epochs += story.epoch
            events += story.events
            crashes += story.crashes
            convicted += bool(story.convicted)
            changes += story.changes
        except (Violation, Exception) as failure:  # noqa: BLE001 - whatever stops a node is a finding
            failed += 1
            print(f"seed {seed}: {type(failure).__name__}: {str(failure).splitlines()[0]}", flush=True)
            flags = " ".join(f"--{name} {size}" for name, size in sizes.items())
            print(f"  replay: python -m tests.simulation.membership_campaign {flags} --first {seed} --seeds 1")
    spent = time.monotonic() - begun
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(changes.items()))
    print(
        f"{tried} seeds, {chosen.founders} founders, {chosen.newcomers} newcomers, {chosen.twins} twins: "
        f"{tried - failed} safe and live, {failed} not; {epochs} epochs ({kinds}), {crashes} crashes, "
        f"liars convicted in {convicted}; {events} events in {spent:.0f} s"
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
