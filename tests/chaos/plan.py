"""What a plan of faults asks of real processes, step by step, and whom each fault keeps from taking part.

Pure: the simulated world plays a `FaultPlan` itself, event by event; here the same plan becomes a timetable for a
cluster of processes. Times stay the plan's, in seconds from the start. From it also follows what the ledger must say
afterwards: who could not take part, when, and who may have been missed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import Enum

from swarm.ledger.block import quorum
from topologies.scenario import RECHARTER_S, Scenario
from topologies.world.faults import (
    ClockJump,
    Crash,
    Fault,
    FaultPlan,
    Freeze,
    FullDisk,
    Heal,
    OneWayCut,
    Partition,
    SlowLink,
    TwinRoute,
    severed,
)


class Act(Enum):
    """What can be done to a process or to the network."""

    KILL = "kill"  # SIGKILL
    RENEW = "renew"  # while it is down: today's charter in the place of the stale one, its ledger laid aside
    START = "start"
    STOP = "stop"  # SIGSTOP
    GO_ON = "go on"  # SIGCONT
    CLOCK = "clock"  # its wall clock is set `amount` seconds forward
    CUT = "cut"
    MEND = "mend"
    SLOW = "slow"  # to `amount` bytes a second
    QUICKEN = "quicken"


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One thing to do at a time. `slots` are processes, of SLOW the two ends; `pairs` and `name` belong to cuts."""

    at_s: float
    act: Act
    slots: tuple[int, ...] = ()
    name: str = ""
    pairs: tuple[tuple[int, int], ...] = ()
    amount: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """A time in which something befell a site.

    Attributes:
        slot: Which.
        from_s: When it began.
        until_s: When it ended; the site then needs a while to be back.
        gone: Whether it was out of everybody's reach all that time, so that it can have contributed nothing.
    """

    slot: int
    from_s: float
    until_s: float
    gone: bool


def timetable(plan: FaultPlan, sites: int) -> tuple[Step, ...]:
    """Return what to do to `sites` processes, in order of time.

    Raises:
        ValueError: The plan holds something that only the simulated world can do.
    """
    steps = [step for number, fault in enumerate(plan.faults) for step in _steps(fault, f"cut-{number}", sites)]
    return tuple(sorted(steps, key=lambda step: step.at_s))


def _steps(fault: Fault, name: str, sites: int) -> Iterator[Step]:
    at_s = fault.at_s
    match fault:
        case Crash(slot=slot, down_s=down_s, anew=anew):
            yield Step(at_s=at_s, act=Act.KILL, slots=(slot,))
            if anew:
                yield Step(at_s=at_s, act=Act.RENEW, slots=(slot,))
            yield Step(at_s=at_s + down_s, act=Act.START, slots=(slot,))
        case Freeze(slot=slot, duration_s=duration_s):
            yield Step(at_s=at_s, act=Act.STOP, slots=(slot,))
            yield Step(at_s=at_s + duration_s, act=Act.GO_ON, slots=(slot,))
        case ClockJump(slot=slot, offset_s=offset_s):
            yield Step(at_s=at_s, act=Act.CLOCK, slots=(slot,), amount=offset_s)
        case Partition(groups=groups, duration_s=duration_s):
            yield from _cut(at_s, duration_s, name, severed(groups, sites))
        case OneWayCut(sources=sources, targets=targets, duration_s=duration_s):
            yield from _cut(at_s, duration_s, name, [(a, b) for a in sources for b in targets])
        case SlowLink(a=a, b=b, bandwidth_bytes_s=bytes_s, duration_s=duration_s):
            yield Step(at_s=at_s, act=Act.SLOW, slots=(a, b), amount=bytes_s)
            if duration_s < math.inf:
                yield Step(at_s=at_s + duration_s, act=Act.QUICKEN, slots=(a, b))
        case FullDisk() | Heal() | TwinRoute():
            raise ValueError(f"{fault!r} is for the simulated world: processes here share one disk and do not lie so")


def _cut(at_s: float, duration_s: float, name: str, pairs: Sequence[tuple[int, int]]) -> Iterator[Step]:
    yield Step(at_s=at_s, act=Act.CUT, name=name, pairs=tuple(pairs))
    if duration_s < math.inf:
        yield Step(at_s=at_s + duration_s, act=Act.MEND, name=name)


def troubles(scenario: Scenario, plan: FaultPlan) -> tuple[Trouble, ...]:
    """Return what keeps whom from taking part, and when; times in which no quorum is left are everybody's."""
    n = scenario.n
    found = [trouble for fault in plan.faults for trouble in _befalls(fault, n)]
    found += [
        Trouble(slot=slot, from_s=-math.inf, until_s=site.stale_charter_s + RECHARTER_S, gone=True)
        for slot, site in enumerate(scenario.sites)
        if site.stale_charter_s
    ]
    return (*found, *_standstills(found, n))


def _befalls(fault: Fault, n: int) -> Iterator[Trouble]:
    at_s = fault.at_s
    match fault:
        case Crash(slot=slot, down_s=down_s):
            yield Trouble(slot=slot, from_s=at_s, until_s=at_s + down_s, gone=True)
        case Freeze(slot=slot, duration_s=duration_s) | FullDisk(slot=slot, duration_s=duration_s):
            yield Trouble(slot=slot, from_s=at_s, until_s=at_s + duration_s, gone=isinstance(fault, Freeze))
        case ClockJump(slot=slot):
            yield Trouble(slot=slot, from_s=at_s, until_s=at_s, gone=False)
        case Partition(groups=groups, duration_s=duration_s):
            rest = tuple(slot for slot in range(n) if not any(slot in group for group in groups))
            parts = (*groups, rest)
            gone = any(len(part) >= quorum(n) for part in parts)
            for slot in (slot for part in parts if len(part) < quorum(n) for slot in part):
                yield Trouble(slot=slot, from_s=at_s, until_s=at_s + duration_s, gone=gone)
        case OneWayCut(sources=ends, targets=others, duration_s=duration_s):
            for slot in sorted({*ends, *others}):
                yield Trouble(slot=slot, from_s=at_s, until_s=at_s + duration_s, gone=False)
        case SlowLink(a=a, b=b, duration_s=duration_s):
            for slot in (a, b):
                yield Trouble(slot=slot, from_s=at_s, until_s=at_s + duration_s, gone=False)
        case Heal() | TwinRoute():
            return


def _standstills(found: Sequence[Trouble], n: int) -> Iterator[Trouble]:
    """The times in which so many are gone that the rest can decide nothing."""
    bounds = sorted({bound for trouble in found for bound in (trouble.from_s, trouble.until_s)})
    for from_s, until_s in itertools.pairwise(bounds):
        gone = {one.slot for one in found if one.gone and one.from_s <= from_s and until_s <= one.until_s}
        if n - len(gone) < quorum(n):
            for slot in range(n):
                yield Trouble(slot=slot, from_s=from_s, until_s=until_s, gone=False)


def touched(found: Iterable[Trouble], slot: int, from_s: float, until_s: float, *, grace_s: float) -> bool:
    """Whether anything befell a site in a time, or so shortly before that it may not have been back."""
    return any(one.slot == slot and one.from_s <= until_s and one.until_s + grace_s >= from_s for one in found)


def gone_throughout(found: Iterable[Trouble], slot: int, from_s: float, until_s: float) -> bool:
    """Whether one and the same trouble kept a site out of reach from before a time until after it."""
    return any(one.slot == slot and one.gone and one.from_s <= from_s and one.until_s >= until_s for one in found)
