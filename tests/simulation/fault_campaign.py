"""Every fault of the ledger's list at once, drawn with its rates from a seed: what `make faults` searches.

A seed draws a swarm (three to seven members, a way to mix, terms) and what happens to it: network, processes, disks and
clocks, each a *misfortune* of one fault or of a few that belong together. After `heal_s` nothing new goes wrong, and
then everybody must finish. What must hold, whatever was drawn:

- no two members ever hold different final blocks at one height, and no honest one signs two contradictory things;
- every ledger holds every block that was final anywhere, and an audit accepts it;
- nobody is stuck, no machine raises, and what a machine keeps stays within a bound.

Where four or more found the swarm, one member may have what no ledger can survive alone: an old backup put back, an
emptied or lying disk, flipped bits, a clock that is wrong by an hour or ten years, a liar with its keys. It counts as
one of the f that may fail in any way: it may contradict itself and then be found out, and everything else holds for it
too, once people have emptied a ledger that it refuses to open.

As a program it searches seeds until its time is up, and prints, for each that fails, the one command that replays it.
`--shrink SEED` looks for the smallest part of a story that fails in the same way. Rates, durations and the mix are here;
`fault_list.md` says where else each fault is exercised, and what none of this can promise.
"""

from __future__ import annotations

import argparse
import gc
import math
import multiprocessing
import random
import re
import sys
import time
import types
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from gossip import messages as m
from gossip import wire
from node.core import Node
from swarm.charter import BUFFERED
from swarm.ledger.audit import audit
from swarm.ledger.block import NO_HASH, SKIP, Vote, vote_message
from swarm.ledger.journal import BLOCKS, Placed, scan
from swarm.machine import NodeId
from swarm.staleness import STALENESS_DEFAULT
from tests.builders import Swarm, make_swarm, verify_once
from topologies.families import complete
from topologies.world.checkers import PersistBeforeSend, Violation
from topologies.world.faults import (
    Backup,
    BadDisk,
    ClockDrift,
    ClockJump,
    Crash,
    DiskFault,
    Fault,
    FaultPlan,
    FlipBit,
    Freeze,
    FullDisk,
    Garble,
    Mute,
    OneWayCut,
    Partition,
    Replay,
    SlowLink,
    Weather,
    flapping,
    isolate,
)
from topologies.world.learner import QuadraticTask
from topologies.world.place import Place
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

AFTER_S = 900.0
"""Within this after the last fault everybody must be done: ten times what the slowest usual story takes."""

EVENTS_MAX = 600_000
"""Steps of one story, ten times what the longest takes: a storm of messages is a finding, too."""

KEPT_MAX = 150_000
"""Objects that one machine may hold on to: about three times the most that was seen, under floods or not."""

REPAIR_S = 20.0
"""People empty a ledger that its process has refused to open for so long after the heal."""

FAILURES_MAX = 10
"""A search ends after so many: more would say nothing new."""

FROZEN_S_MAX = 600.0
"""The longest that a process stands still."""

HOUR_S, TEN_YEARS_S = 3600.0, 10 * 365.25 * 86400.0

KINDS = ("exact", "exact", "async", "paced", "sharded", "fold", "ring", "base2", "random_matching", "int8")
"""How a swarm mixes: by the plain mean (twice as often), for nobody's sake waiting, waiting by pace, by a route, by a
gossip schedule, compressed."""

MASKED = "masked"
"""Where updates travel masked: one plain mean in three."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Forgery:
    """A liar casts `votes` votes for views that nobody has reached, from `ahead` views ahead on."""

    at_s: float
    slot: int
    votes: int
    ahead: int


Happening = tuple[Fault | Forgery, ...]
"""Faults that belong together, such as a clock that jumps and the process that starts again by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What a seed draws. `doubtful` is the member that may fail in any way, -1 for nobody."""

    seed: int
    members: int
    rounds: int
    kind: str
    late: bool
    fewest: int
    heal_s: float
    doubtful: int
    happenings: tuple[Happening, ...]
    kept: tuple[int, ...]
    """Which of them happen: numbers in `happenings`."""

    @property
    def faults(self) -> tuple[Fault | Forgery, ...]:
        """What happens, without what would happen to members that there are not."""
        every = (fault for number in self.kept for fault in self.happenings[number])
        return tuple(sorted((f for f in every if _within(f, self.members)), key=lambda f: f.at_s))

    def command(self) -> str:
        """Return the one command that replays it."""
        drawn = draw(self.seed)
        flags = [f"--first {self.seed} --seeds 1"]
        flags += [f"--members {self.members}"] if self.members != drawn.members else []
        flags += [f"--rounds {self.rounds}"] if self.rounds != drawn.rounds else []
        flags += [f"--kind {self.kind}"] if self.kind != drawn.kind else []
        flags += [f"--keep {','.join(map(str, self.kept)) or 'none'}"] if self.kept != drawn.kept else []
        return f"python -m tests.simulation.fault_campaign {' '.join(flags)}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Story:
    """What became of a trial. `kept` is the most objects that a machine held on to."""

    trial: Trial
    virtual_s: float
    events: int
    height: int
    kept: int
    crashes: int
    digest: str


# --- drawing ----------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Dice:
    """What misfortunes are drawn with: `n` members, all faults between `begin_s` and `heal_s`."""

    rng: random.Random
    n: int
    heal_s: float
    busy: list[tuple[float, float]] = field(default_factory=list)
    """When somebody is down: two at a time could take the only copies of what was just learnt."""

    def when(self) -> float:
        return self.rng.uniform(0.5, self.heal_s * 0.9)

    def span(self, at_s: float, mean_s: float) -> float:
        return min(self.rng.expovariate(1 / mean_s), self.heal_s - at_s)

    def who(self) -> int:
        return self.rng.randrange(self.n)

    def some(self) -> tuple[int, ...]:
        return tuple(sorted(self.rng.sample(range(self.n), self.rng.randint(1, self.n - 1))))

    def alone(self, down_s: float) -> float | None:
        """Return a time at which a process may go down for so long with all others up, if there is one."""
        for _ in range(20):
            at_s = self.when()
            begin, end = at_s - 3.0, at_s + down_s + 6.0
            if all(end < other_begin or begin > other_end for other_begin, other_end in self.busy):
                self.busy.append((begin, end))
                return at_s
        return None


def _weather(d: _Dice) -> Happening:
    at_s, loss = d.when(), d.rng.choice((0.05, 0.2, 0.6))
    worst = Weather(at_s=at_s, duration_s=d.span(at_s, 10.0), loss=loss, duplication=d.rng.choice((0.0, 0.1, 0.5)))
    return (replace(worst, tail=d.rng.choice((0.0, 0.1, 0.3))),)


def _partition(d: _Dice) -> Happening:
    at_s = d.when()
    return (Partition(at_s=at_s, groups=(d.some(),), duration_s=d.span(at_s, 6.0)),)


def _one_way(d: _Dice) -> Happening:
    at_s, sources = d.when(), d.some()
    targets = tuple(slot for slot in range(d.n) if slot not in sources)
    return (OneWayCut(at_s=at_s, sources=sources, targets=targets, duration_s=d.span(at_s, 6.0)),)


def _flapping(d: _Dice) -> Happening:
    at_s = d.when()
    return flapping((d.some(),), at_s=at_s, duration_s=d.span(at_s, 8.0), period_s=d.rng.uniform(0.2, 2.0))


def _isolation(d: _Dice) -> Happening:
    at_s = d.when()
    return (isolate(d.who(), at_s=at_s, duration_s=d.span(at_s, 15.0)),)


def _slow_peer(d: _Dice) -> Happening:
    at_s, slot = d.when(), d.who()
    duration_s = d.span(at_s, 15.0)
    return tuple(
        SlowLink(at_s=at_s, a=slot, b=other, bandwidth_bytes_s=1000.0, duration_s=duration_s)
        for other in range(d.n)
        if other != slot
    )


def _mute(d: _Dice) -> Happening:
    at_s = d.when()
    return (Mute(at_s=at_s, slot=d.who(), duration_s=d.span(at_s, 12.0)),)


def _garble(d: _Dice) -> Happening:
    at_s = d.when()
    return (Garble(at_s=at_s, slot=d.who(), duration_s=d.span(at_s, 8.0), share=d.rng.choice((0.02, 0.2, 1.0))),)


def _replay(d: _Dice) -> Happening:
    return (Replay(at_s=d.when(), slot=d.who(), frames=d.rng.choice((100, 1000, 5000))),)


def _crash(d: _Dice) -> Happening:
    down_s = d.rng.expovariate(1 / 3.0)
    nested = d.rng.choice((0, 0, 0, 1, 2, 3))
    at_s = d.alone(down_s + 2.0 * nested)
    if at_s is None:
        return ()
    after = d.rng.choice((0, d.rng.randint(1, 12)))
    power = d.rng.random() < 0.3
    return (Crash(at_s=at_s, slot=d.who(), down_s=down_s, after_effects=after, power=power, recovery_crashes=nested),)


def _freeze(d: _Dice) -> Happening:
    return (Freeze(at_s=d.when(), slot=d.who(), duration_s=FROZEN_S_MAX ** d.rng.random()),)


def _bad_disk(d: _Dice) -> Happening:
    fault = d.rng.choice((DiskFault.ERROR_ONCE, DiskFault.ERROR, DiskFault.READ_ONLY, DiskFault.SLOW))
    duration_s = d.rng.uniform(0.0, 8.0)
    at_s = d.alone(duration_s + 2.0)
    return () if at_s is None else (BadDisk(at_s=at_s, slot=d.who(), fault=fault, duration_s=duration_s),)


def _full_disk(d: _Dice) -> Happening:
    at_s = d.when()
    return (FullDisk(at_s=at_s, slot=d.who(), duration_s=d.span(at_s, 6.0)),)


def _drift(d: _Dice) -> Happening:
    return (ClockDrift(at_s=d.when(), slot=d.who(), rate=d.rng.choice((-0.05, 0.05))),)


def _small_jump(d: _Dice) -> Happening:
    return _restarted_at(d, d.who(), d.rng.choice((-60.0, -5.0, 5.0, 60.0)))


MISFORTUNES: tuple[Callable[[_Dice], Happening], ...] = (
    _weather,
    _partition,
    _one_way,
    _flapping,
    _isolation,
    _slow_peer,
    _mute,
    _garble,
    _replay,
    _crash,
    _freeze,
    _bad_disk,
    _full_disk,
    _drift,
    _small_jump,
)
RATES = (0, 0, 1, 1, 2, 4)
"""How many of a kind befall a swarm, each as likely: so that most stories lack some kinds, and some are full of one."""


def _restarted_at(d: _Dice, slot: int, offset_s: float) -> Happening:
    """A clock is set, and the process started again: a running one follows the monotonic clock and notices nothing."""
    down_s = d.rng.uniform(0.5, 3.0)
    at_s = d.alone(down_s)
    if at_s is None:
        return ()
    return (ClockJump(at_s=at_s, slot=slot, offset_s=offset_s), Crash(at_s=at_s, slot=slot, down_s=down_s))


def _old_backup(d: _Dice, slot: int) -> Happening:
    down_s = d.rng.uniform(0.5, 3.0)
    at_s = d.alone(down_s)
    if at_s is None:
        return ()
    taken = Backup(at_s=d.rng.uniform(0.0, at_s), slot=slot)
    return (taken, Crash(at_s=at_s, slot=slot, down_s=down_s, restored=True))


def _emptied(d: _Dice, slot: int) -> Happening:
    down_s = d.rng.uniform(0.5, 3.0)
    at_s = d.alone(down_s)
    return () if at_s is None else (Crash(at_s=at_s, slot=slot, down_s=down_s, anew=True),)


def _flipped(d: _Dice, slot: int) -> Happening:
    down_s = d.rng.uniform(0.5, 3.0)
    at_s = d.alone(down_s)
    if at_s is None:
        return ()
    flips = [FlipBit(at_s=at_s, slot=slot, spot=d.rng.random()) for _ in range(d.rng.choice((1, 1, 8)))]
    return (*flips, Crash(at_s=at_s, slot=slot, down_s=down_s))


def _lying_disk(d: _Dice, slot: int) -> Happening:
    down_s = d.rng.uniform(0.5, 3.0)
    at_s = d.alone(down_s)
    if at_s is None:
        return ()
    before_s = d.rng.uniform(0.0, at_s)
    lies = BadDisk(at_s=before_s, slot=slot, fault=DiskFault.LIES, duration_s=at_s - before_s + 1.0)
    return (lies, Crash(at_s=at_s, slot=slot, down_s=down_s, power=True))


def _wrong_clock(d: _Dice, slot: int) -> Happening:
    return _restarted_at(d, slot, d.rng.choice((-TEN_YEARS_S, -HOUR_S, HOUR_S, TEN_YEARS_S)))


def _forgery(d: _Dice, slot: int) -> Happening:
    votes = d.rng.choice((100, 1000, 10_000))
    return (Forgery(at_s=d.when(), slot=slot, votes=votes, ahead=d.rng.choice((1, 40, 1000, 10**9))),)


DOUBTS: tuple[Callable[[_Dice, int], Happening], ...] = (
    _old_backup,
    _emptied,
    _flipped,
    _lying_disk,
    _wrong_clock,
    _forgery,
)
"""What can befall the one member that counts as one of the f."""


def draw(seed: int) -> Trial:
    """Return what a seed stands for."""
    rng = random.Random(f"trial/{seed}")
    n = rng.choice((3, 3, 4, 4, 4, 5, 5, 6, 7))
    kind = rng.choice(KINDS)
    if kind == "exact" and random.Random(f"masked/{seed}").random() < 1 / 3:
        kind = MASKED
    dice = _Dice(rng, n, heal_s=rng.uniform(20.0, 60.0))
    # Who is doubtful first: its misfortunes find a time at which all others are up.
    doubtful = rng.randrange(n) if n > 3 and rng.random() < 0.6 else -1
    drawn: list[Happening] = []
    if doubtful >= 0:
        doubt = rng.choice(DOUBTS)
        drawn += [doubt(dice, doubtful) for _ in range(rng.choice((1, 1, 2)))]
    for misfortune in MISFORTUNES:
        drawn += [misfortune(dice) for _ in range(rng.choice(RATES))]
    happenings = tuple(sorted((one for one in drawn if one), key=lambda one: one[0].at_s))
    return Trial(
        seed=seed,
        members=n,
        rounds=rng.choice((2, 3, 3, 5)),
        kind=kind,
        late=rng.random() < 0.5,
        fewest=rng.choice((1, n // 2 + 1)),
        heal_s=dice.heal_s,
        doubtful=doubtful,
        happenings=happenings,
        kept=tuple(range(len(happenings))),
    )


def _within(fault: Fault | Forgery, members: int) -> bool:
    """Whether a fault befalls only members that there are."""
    match fault:
        case Partition(groups=groups):
            return any(0 < sum(slot < members for slot in group) < members for group in groups)
        case OneWayCut(sources=sources, targets=targets):
            return any(slot < members for slot in sources) and all(slot < members for slot in (*sources, *targets))
        case SlowLink(a=a, b=b):
            return max(a, b) < members
        case Weather():
            return True
        case _:
            return bool(getattr(fault, "slot", members) < members)


def _trimmed(fault: Fault, members: int) -> Fault:
    if isinstance(fault, Partition):
        groups = tuple(tuple(slot for slot in group if slot < members) for group in fault.groups)
        return replace(fault, groups=groups)
    return fault


# --- playing ----------------------------------------------------------------------------------------------------------


def swarm_of(trial: Trial) -> Swarm:
    """Found a trial's swarm."""
    kind = trial.kind
    gossip = kind in ("ring", "base2", "random_matching")
    late = (trial.late or kind in ("async", "paced")) and not gossip
    salts = not gossip and kind not in ("sharded", MASKED) and trial.fewest > 1
    salted = salts and random.Random(f"salted/{trial.seed}").random() < 1 / 3
    return make_swarm(
        trial.members,
        rounds=trial.rounds,
        elements=512 if kind in ("sharded", "fold", "int8") else 32,
        deadline_ms=60_000,
        min_contributions=max(3, trial.fewest) if kind == MASKED else trial.fewest,
        masks=("pairwise", "pairwise:64", "pairwise:32")[trial.seed % 3] if kind == MASKED else "",
        schedule=kind if gossip else "",
        route=kind if kind in ("sharded", "fold") else "",
        codec="int8" if kind == "int8" else "",
        staleness=STALENESS_DEFAULT if late else 0,
        asynchronous=BUFFERED if kind == "async" else "",
        pace=3 if kind == "paced" else 0,
        salt="32" if salted else "",
    )


def run(trial: Trial) -> Story:
    """Play a trial. Raises `Violation` when a truth does not hold, or whatever a machine raises."""
    swarm, n = swarm_of(trial), trial.members
    faults = trial.faults
    forgeries = [fault for fault in faults if isinstance(fault, Forgery)]
    planned = tuple(_trimmed(fault, n) for fault in faults if not isinstance(fault, Forgery))
    doubtful = (trial.doubtful,) if 0 <= trial.doubtful < n else ()
    agreement = Agreement()
    world = World(
        seed=trial.seed,
        make=lambda member, incarnation: swarm.node(
            member, now=world.places[member].clock.read(world.now), seed=trial.seed * 1000 + incarnation
        ),
        topology=complete(n),
        plan=FaultPlan(faults=planned, heal_s=trial.heal_s),
        learner=QuadraticTask(
            seed=trial.seed,
            samples=tuple(100 * (i + 1) for i in range(n)),
            elements=len(swarm.initial) // 4,
            bound=swarm.charter.clip_norm,
        ),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        checkers=[agreement, HonestOnTheWire(doubtful), PersistBeforeSend()],
        codec=swarm.charter.codec,
        cuts=swarm.charter.cuts,
        averages=swarm.charter.averages,
        momentum=swarm.charter.momentum,
        follows=swarm.charter.follows,
        outer=swarm.charter.outer,
        masks=swarm.charter.masks > 0,
        salt=swarm.charter.salt,
        ledger_id=swarm.signed.ledger_id,
    )
    last_s = max([trial.heal_s, *(f.at_s + f.duration_s for f in planned if isinstance(f, Freeze))])
    most = 0
    for until_s in (trial.heal_s / 2, trial.heal_s):
        _forge(world, swarm, [fault for fault in forgeries if fault.at_s <= until_s])
        forgeries = [fault for fault in forgeries if fault.at_s > until_s]
        world.run(until_s, max_events=EVENTS_MAX)
        most = max(most, _most_kept(world))
    repair = _Repair(world, doubtful, trial.heal_s + REPAIR_S)
    if not world.run(lambda _: repair() or _over(world), end_s=last_s + AFTER_S, max_events=EVENTS_MAX):
        world.fail(f"not done by {world.now:.0f} s: {'; '.join(_where(place) for place in world.places)}")
    world.end()
    most = max(most, _most_kept(world))
    if most > KEPT_MAX:
        world.fail(f"a machine keeps {most} objects, at most {KEPT_MAX} are expected")
    _check(world, swarm, agreement, doubtful)
    return Story(
        trial=trial,
        virtual_s=world.now,
        events=world.stats.events,
        height=max(agreement.blocks),
        kept=most,
        crashes=world.stats.crashes,
        digest=world.trace_digest(),
    )


@dataclass(slots=True)
class _Repair:
    """People who empty the ledger of a doubtful member if its process will not open it."""

    world: World
    doubtful: Sequence[int]
    at_s: float

    def __call__(self) -> bool:
        if self.world.now > self.at_s and self.at_s < math.inf:
            self.at_s = math.inf
            for member in self.doubtful:
                if self.world.place(member).machine is None:
                    self.world.strike(Crash(at_s=self.world.now, slot=member, down_s=0.0, anew=True))
        return False


def _forge(world: World, swarm: Swarm, forgeries: Sequence[Forgery]) -> None:
    """Let liars cast the votes that are due in this stretch of the story, each at its time."""
    for forgery in forgeries:
        world.run(max(forgery.at_s, world.now), max_events=EVENTS_MAX)
        machine = _machine(world.place(forgery.slot))
        if machine is None:
            continue
        key, ledger_id = swarm.identities[forgery.slot].vote_key, swarm.signed.ledger_id
        first = machine.consensus.final_view + forgery.ahead
        peers = [place.id for place in world.places if place.slot != forgery.slot]
        for view in range(first, first + forgery.votes):
            signature = key.sign(vote_message(ledger_id, 0, view, SKIP, NO_HASH))
            frame = wire.encode(m.CastVote(Vote(0, view, SKIP, NO_HASH, forgery.slot, signature)))
            for peer in peers:
                world.utter(forgery.slot, peer, frame)


def _machine(place: Place) -> Node | None:
    assert place.machine is None or isinstance(place.machine, Node), "this world runs nodes"
    return place.machine


def _over(world: World) -> bool:
    """Whether everybody is up, has finished, and holds the same complete state."""
    machines = [_machine(place) for place in world.places]
    heads = [machine.replica.head for machine in machines if machine is not None]
    if len(heads) < len(machines) or not all(head.complete for head in heads):
        return False
    if any(place.syncing or not place.finished for place in world.places):
        return False
    return len({head.height for head in heads}) == 1


def _where(place: Place) -> str:
    machine = _machine(place)
    if machine is None:
        return f"{place.name} down"
    head = machine.replica.head
    muted = ", muted" if machine.consensus.muted else ""
    return f"{place.name} at block {head.height}, round {head.round}{muted}{'' if place.finished else ', unfinished'}"


def _check(world: World, swarm: Swarm, agreement: Agreement, doubtful: Sequence[int]) -> None:
    """What must hold at the end of every story: no block is missing, every ledger verifies, nobody honest is guilty."""
    innocent = {who.node for i, who in enumerate(swarm.identities) if i not in doubtful}
    for place in world.places:
        found = [part for part in scan(place.disk, BLOCKS, swarm.signed.ledger_id) if isinstance(part, Placed)]
        *_, last = audit([part.record.payload for part in found], swarm.signed)
        if last.failure is not None:
            world.fail(f"the ledger of {place.name} does not hold: {last.failure.text}")
        # Agreement has compared every block with every other of its height; that all are there makes them the same.
        if last.state.height < max(agreement.blocks):
            world.fail(f"{place.name} has lost blocks: {last.state.height} of {max(agreement.blocks)}")
        machine = _machine(place)
        assert machine is not None, "everybody is up"
        accused = {machine.replica.head.terms.members[found.culprit].node for found in machine.consensus.evidence}
        convicted = {NodeId(node) for node, _ in last.state.accused}
        if innocent & (accused | convicted | set(machine.replica.forks)):
            world.fail(f"{place.name} holds somebody guilty who is honest")


def _most_kept(world: World) -> int:
    return max((kept(place.machine) for place in world.places if place.machine is not None), default=0)


def kept(machine: object) -> int:
    """Return how many objects a machine holds on to."""
    return sum(1 for _ in reachable(machine))


def reachable(machine: object) -> Iterator[object]:
    """Yield a machine and all that can be reached from it, but for code and what all machines share."""
    code = (type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.CodeType, type(verify_once))
    seen = {id(machine)}
    todo = [machine]
    while todo:
        one = todo.pop()
        yield one
        for part in gc.get_referents(one):
            if id(part) not in seen and not isinstance(part, code):
                seen.add(id(part))
                todo.append(part)


# --- searching --------------------------------------------------------------------------------------------------------


def symptom(failure: BaseException) -> str:
    """Return what two failures of one kind have in common: their first words, without numbers and names."""
    text = str(failure).splitlines()[0] if str(failure) else ""
    return re.sub(r"\d+[\d.]*", "#", f"{type(failure).__name__}: {text}")[:60].split(" by ")[0]


def failure_of(trial: Trial) -> BaseException | None:
    """Play a trial and return what went wrong."""
    try:
        run(trial)
    except (Violation, Exception) as failure:  # noqa: BLE001 - whatever stops a node is a finding
        return failure
    return None


def shrunk(trial: Trial, fails: Callable[[Trial], bool]) -> Trial:
    """Return a smallest trial that still fails: without any one of its misfortunes, members or rounds it does not.

    Halves, quarters and so on of the misfortunes are tried first, so that a story of forty takes some dozen runs.
    """
    while True:
        smaller = next((one for one in _smaller(trial) if fails(one)), None)
        if smaller is None:
            return trial
        trial = smaller


def _smaller(trial: Trial) -> Iterator[Trial]:
    size = len(trial.kept)
    while size > 0:
        for begin in range(0, len(trial.kept), size):
            yield replace(trial, kept=trial.kept[:begin] + trial.kept[begin + size :])
        size //= 2
    if trial.members > (3 if trial.kind == MASKED else 1):
        yield replace(trial, members=trial.members - 1, fewest=min(trial.fewest, trial.members - 1))
    if trial.rounds > 1:
        yield replace(trial, rounds=trial.rounds - 1)
    if trial.kind != "exact":
        yield replace(trial, kind="exact")


@dataclass(frozen=True, slots=True)
class Told:
    """What a search remembers of one seed."""

    seed: int
    failure: str = ""
    command: str = ""
    kinds: tuple[str, ...] = ()
    kept: int = 0
    events: int = 0


def try_seed(trial: Trial) -> Told:
    """Play a trial and say what became of it."""
    happened = tuple(type(fault).__name__ for fault in trial.faults)
    try:
        story = run(trial)
    except (Violation, Exception) as failure:  # noqa: BLE001 - whatever stops a node is a finding
        text = f"{type(failure).__name__}: {str(failure).splitlines()[0] if str(failure) else ''}"
        return Told(trial.seed, text, trial.command(), happened)
    return Told(trial.seed, "", "", happened, story.kept, story.events)


def search(trials: Iterator[Trial], *, time_s: float, cores: int) -> list[Told]:
    """Play trials on several cores until the time is up; print each failure and the command that replays it."""
    until = time.monotonic() + time_s
    told: list[Told] = []

    def due() -> Iterator[Trial]:
        for trial in trials:
            if time.monotonic() > until or sum(bool(one.failure) for one in told) >= FAILURES_MAX:
                return
            yield trial

    def note(one: Told) -> None:
        told.append(one)
        if one.failure:
            print(f"seed {one.seed}: {one.failure}\n  replay: {one.command}", flush=True)

    if cores == 1:
        for trial in due():
            note(try_seed(trial))
        return told
    with multiprocessing.Pool(cores) as pool:
        # Not imap alone: it would draw all trials at once.
        pending = []
        for trial in due():
            pending.append(pool.apply_async(try_seed, (trial,)))
            while len(pending) >= 2 * cores:
                note(pending.pop(0).get())
        for one in pending:
            note(one.get())
    return told


def main() -> int:
    """Search seeds, or shrink one; return 1 when one fails."""
    options = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0] if __doc__ else None)
    options.add_argument("--first", type=int, default=1, help="first seed")
    options.add_argument("--seeds", type=int, default=10_000)
    options.add_argument("--time", type=float, default=600.0, help="begin no seed after this many seconds")
    options.add_argument("--cores", type=int, default=1)
    options.add_argument("--members", type=int, help="as many in place of those drawn; fewer leave faults out")
    options.add_argument("--rounds", type=int, help="as many in place of those drawn")
    options.add_argument("--kind", choices=sorted({*KINDS, MASKED}), help="mix so in place of the way drawn")
    options.add_argument("--keep", help="only these misfortunes, by number: 0,4,7, or none")
    options.add_argument("--show", action="store_true", help="print what is drawn for the first seed and end")
    options.add_argument("--shrink", type=int, metavar="SEED", help="look for the smallest part of it that fails")
    chosen = options.parse_args()

    def asked(seed: int) -> Trial:
        trial = draw(seed)
        if chosen.keep is not None:
            numbers = () if chosen.keep == "none" else tuple(int(number) for number in chosen.keep.split(","))
            unknown = [number for number in numbers if not 0 <= number < len(trial.happenings)]
            if unknown:
                options.error(f"seed {seed} has no misfortune {unknown[0]}: --show prints them")
            trial = replace(trial, kept=numbers)
        members = chosen.members or trial.members
        return replace(
            trial,
            members=members,
            rounds=chosen.rounds or trial.rounds,
            kind=chosen.kind or trial.kind,
            fewest=min(trial.fewest, members),
        )

    if chosen.show:
        show(asked(chosen.first))
        return 0
    if chosen.shrink is not None:
        return shrink(asked(chosen.shrink))
    begun = time.monotonic()
    trials = (asked(seed) for seed in range(chosen.first, chosen.first + chosen.seeds))
    told = search(trials, time_s=chosen.time, cores=chosen.cores)
    spent = time.monotonic() - begun
    failed = sum(bool(one.failure) for one in told)
    kinds = Counter(kind for one in told for kind in set(one.kinds))
    print(
        f"{len(told)} seeds in {spent:.0f} s ({60 * len(told) / max(spent, 1e-9):.0f} a minute): "
        f"{len(told) - failed} safe and live, {failed} not; at most {max((one.kept for one in told), default=0)} "
        f"objects in a machine; {sum(one.events for one in told)} events"
    )
    print("stories with each fault: " + ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items())))
    return 1 if failed else 0


def show(trial: Trial) -> None:
    """Print what a trial is."""
    print(
        f"seed {trial.seed}: {trial.members} members, {trial.rounds} rounds, {trial.kind}, "
        f"{'late work counts, ' if trial.late else ''}at least {trial.fewest} contributions, heals at "
        f"{trial.heal_s:.1f} s, member {trial.doubtful} doubtful"
    )
    for number in trial.kept:
        print(f"  {number:>3}  {'; '.join(map(str, trial.happenings[number]))}")


def shrink(trial: Trial) -> int:
    """Print the smallest trial that fails as this one does."""
    failure = failure_of(trial)
    if failure is None:
        print(f"seed {trial.seed} does not fail: there is nothing to shrink")
        return 0
    wanted, tried = symptom(failure), 0

    def fails(one: Trial) -> bool:
        nonlocal tried
        tried += 1
        found = failure_of(one)
        same = found is not None and symptom(found) == wanted
        print(f"  {len(one.kept):>3} misfortunes, {one.members} members, {one.rounds} rounds, {one.kind}: {same}")
        return same

    smallest = shrunk(trial, fails)
    print(f"after {tried} runs, still: {wanted}")
    show(smallest)
    print(f"  replay: {smallest.command()}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
