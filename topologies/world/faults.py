"""Fault plans: what goes wrong in a simulated run, and when.

A plan is a value. It is written by hand for one story, or drawn from a seed for a campaign; either way the world only
carries it out, so a failure is reported as a seed and replayed exactly. Times are virtual seconds from the beginning of
the run. Processes are named by *slot*: slots 0..n-1 are the members; the second halves of twins follow in member order.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias


@dataclass(frozen=True, slots=True, kw_only=True)
class Partition:
    """Slots in different groups cannot talk, for `duration_s`. Slots in no group form one further group."""

    at_s: float
    groups: tuple[tuple[int, ...], ...]
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class OneWayCut:
    """Nothing from `sources` reaches `targets`; the way back stays open."""

    at_s: float
    sources: tuple[int, ...]
    targets: tuple[int, ...]
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Heal:
    """Lift every partition and one-way cut that is in force."""

    at_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Crash:
    """Stop a process without warning and start it again `down_s` later.

    `after_effects` = 0 stops it at `at_s`, even in the middle of a sync; k > 0 stops it, from `at_s` on, once it has
    begun k more effects. A `power` cut also takes blobs that were not synced. The first `recovery_crashes` attempts to
    start again are cut short while the journal is being opened. With `anew` its disk is emptied while it is down, as by
    people who put a site together once more; if `restored`, the last `Backup` takes its place, or nothing if there is
    none.
    """

    at_s: float
    slot: int
    down_s: float
    after_effects: int = 0
    power: bool = False
    recovery_crashes: int = 0
    anew: bool = False
    restored: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Copy the disk of one process as it is, in the middle of whatever it writes. The older copy is thrown away."""

    at_s: float
    slot: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Freeze:
    """One process stands still, as under SIGSTOP or in a machine that is suspended, and goes on `duration_s` later.

    What reaches it meanwhile waits; the others take the link for lost once they have noticed.
    """

    at_s: float
    slot: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class SlowLink:
    """Limit the link between two slots, both ways, and delay it further."""

    at_s: float
    a: int
    b: int
    bandwidth_bytes_s: float = math.inf
    delay_s: float = 0.0
    duration_s: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Every link is worse for a while: chances per message of loss, a second copy, and a heavy-tailed further delay.

    Of several at a time the worst counts, and none makes a link better than its profile.
    """

    at_s: float
    duration_s: float
    loss: float = 0.0
    duplication: float = 0.0
    tail: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Mute:
    """The links of one process stand, and nothing that it sends comes through them."""

    at_s: float
    slot: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Garble:
    """What one process sends is damaged, each message with chance `share`: a bit flipped, its end missing, or too long.

    No link of the product does this, for every frame is authenticated; bad memory in front of the cipher does.
    """

    at_s: float
    slot: int
    duration_s: float
    share: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Replay:
    """One process sends `frames` of the last messages that it sent once more, to whom they were, round and round."""

    at_s: float
    slot: int
    frames: int


class DiskFault(Enum):
    """What is wrong with a disk."""

    ERROR_ONCE = "the next operation fails"
    ERROR = "every operation fails"
    READ_ONLY = "nothing can be written"
    SLOW = "a sync takes five seconds longer"
    LIES = "a sync says that it is done, and is not"


@dataclass(frozen=True, slots=True, kw_only=True)
class BadDisk:
    """The disk of one process has a fault for `duration_s`, beside the one of being full.

    What a disk that lies has acknowledged, a crash may take until the next honest sync of the same file. Its owner can
    then break any promise, and counts as one of the f that may.
    """

    at_s: float
    slot: int
    fault: DiskFault
    duration_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class FlipBit:
    """One bit of all that a disk durably holds turns over: the one at `spot`, in [0, 1), of its length."""

    at_s: float
    slot: int
    spot: float


@dataclass(frozen=True, slots=True, kw_only=True)
class FullDisk:
    """Nothing more can be reserved on the disk of one process: no journal segment and no blob."""

    at_s: float
    slot: int
    duration_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockJump:
    """The wall clock of one process is set forward or, if negative, back; its `now` then stands still meanwhile."""

    at_s: float
    slot: int
    offset_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockDrift:
    """From now on the clock of one process gains `rate` seconds a second, or loses them; 0 ends that."""

    at_s: float
    slot: int
    rate: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TwinRoute:
    """From now on the first process of a twin talks to the slots `first` only and the second to `second` only."""

    at_s: float
    member: int
    first: tuple[int, ...]
    second: tuple[int, ...]


Fault: TypeAlias = (
    Partition
    | OneWayCut
    | Heal
    | Crash
    | Backup
    | Freeze
    | SlowLink
    | Weather
    | Mute
    | Garble
    | Replay
    | BadDisk
    | FlipBit
    | FullDisk
    | ClockJump
    | ClockDrift
    | TwinRoute
)


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPlan:
    """Faults in any order. From `heal_s` on the network is whole and calm, disks work and have room, nothing new fails.

    What stands still then goes on in its own time, and clocks stay as they are.

    Twin routes outlast `heal_s`: they are a liar's choice and no accident.
    """

    faults: tuple[Fault, ...] = ()
    heal_s: float = math.inf

    def __post_init__(self) -> None:
        for fault in self.faults:
            assert fault.at_s >= 0.0, f"a fault begins at {fault.at_s} s, before the run"


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultOptions:
    """How to draw a plan: mean seconds between faults of a kind in the whole swarm (inf: never), and mean durations.

    At most `down_max` processes are down or waiting to be crashed at once, so that a campaign can keep within what the
    ledger promises to survive. Faults end by `heal_s`.
    """

    heal_s: float = 60.0
    partition_every_s: float = 10.0
    partition_s: float = 4.0
    crash_every_s: float = 12.0
    crash_s: float = 3.0
    crash_power: float = 0.3
    crash_in_recovery: float = 0.2
    down_max: int = 1
    slow_every_s: float = 30.0
    slow_s: float = 5.0
    full_every_s: float = math.inf
    full_s: float = 3.0
    twin_route_every_s: float = 5.0


AFTER_EFFECTS_MAX = 12
"""A drawn crash falls within this many effects: one event rarely has more, so every gap between two is reached."""

RECOVERY_CRASHES_MAX = 3
"""Nested crashes during recovery that a drawn plan contains (design: nested, depth 3)."""


def isolate(slot: int, *, at_s: float, duration_s: float = math.inf) -> Partition:
    """Cut one process off from all others."""
    return Partition(at_s=at_s, groups=((slot,),), duration_s=duration_s)


def severed(groups: Sequence[Sequence[int]], slots: int) -> list[tuple[int, int]]:
    """Return all directed pairs of slots in different groups; slots in no group form one more."""
    group_of = [-1] * slots
    for number, group in enumerate(groups):
        for slot in group:
            group_of[slot] = number
    return [(a, b) for a in range(slots) for b in range(slots) if group_of[a] != group_of[b]]


def flapping(
    groups: tuple[tuple[int, ...], ...], *, at_s: float, duration_s: float, period_s: float
) -> tuple[Partition, ...]:
    """The partition `groups` coming and going: in force during the first half of every period."""
    periods = int(duration_s / period_s)
    return tuple(Partition(at_s=at_s + k * period_s, groups=groups, duration_s=period_s / 2) for k in range(periods))


def generate(seed: int, *, members: int, twins: Sequence[int] = (), options: FaultOptions) -> FaultPlan:
    """Draw a plan for `members` members of which the ascending `twins` run twice. Same arguments, same plan."""
    rng = random.Random(f"faults/{seed}")  # noqa: S311 - to be repeated, not secret
    slots = members + len(twins)
    faults: list[Fault] = []
    for at_s in _arrivals(options.partition_every_s, options.heal_s, rng):
        duration_s = min(rng.expovariate(1 / options.partition_s), options.heal_s - at_s)
        faults += _cut(at_s, duration_s, slots, rng)
    faults += _crashes(slots, options, rng)
    for at_s in _arrivals(options.slow_every_s, options.heal_s, rng) if slots > 1 else ():
        a, b = rng.sample(range(slots), 2)
        bandwidth = 10.0 ** rng.uniform(3, 6)  # from the design's slow peer (1 KB/s) to an ordinary uplink
        faults.append(
            SlowLink(
                at_s=at_s, a=a, b=b, bandwidth_bytes_s=bandwidth, delay_s=rng.uniform(0, 1), duration_s=options.slow_s
            )
        )
    for at_s in _arrivals(options.full_every_s, options.heal_s, rng):
        duration_s = min(rng.expovariate(1 / options.full_s), options.heal_s - at_s)
        faults.append(FullDisk(at_s=at_s, slot=rng.randrange(slots), duration_s=duration_s))
    for index, member in enumerate(twins):
        others = [slot for slot in range(slots) if slot not in (member, members + index)]
        for at_s in _arrivals(options.twin_route_every_s, options.heal_s, rng):
            faults.append(_twin_route(at_s, member, others, rng))
    return FaultPlan(faults=tuple(sorted(faults, key=lambda fault: fault.at_s)), heal_s=options.heal_s)


def _arrivals(every_s: float, end_s: float, rng: random.Random) -> list[float]:
    """The times of a Poisson process before `end_s`."""
    times: list[float] = []
    at_s = 0.0
    while every_s != math.inf:
        at_s += rng.expovariate(1 / every_s)
        if at_s >= end_s:
            break
        times.append(at_s)
    return times


def _uniform_size(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    """Two groups, the size of the first uniform."""
    shuffled = rng.sample(range(slots), slots)
    group = tuple(sorted(shuffled[: rng.randint(1, max(1, slots - 1))]))
    return [Partition(at_s=at_s, groups=(group,), duration_s=duration_s)]


def _uniform_partition(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    """Every process joins one of two groups by the toss of a coin."""
    group = tuple(slot for slot in range(slots) if rng.random() < 0.5)
    return [Partition(at_s=at_s, groups=(group,), duration_s=duration_s)]


def _isolate_one(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    return [isolate(rng.randrange(slots), at_s=at_s, duration_s=duration_s)]


def _one_way(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    sources = tuple(slot for slot in range(slots) if rng.random() < 0.5)
    targets = tuple(slot for slot in range(slots) if slot not in sources)
    return [OneWayCut(at_s=at_s, sources=sources, targets=targets, duration_s=duration_s)]


def _flapping(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    group = tuple(slot for slot in range(slots) if rng.random() < 0.5)
    return [*flapping((group,), at_s=at_s, duration_s=duration_s, period_s=rng.uniform(0.2, 2.0))]


_CUTS: tuple[Callable[[float, float, int, random.Random], list[Fault]], ...] = (
    _uniform_size,
    _uniform_partition,
    _isolate_one,
    _one_way,
    _flapping,
)


def _cut(at_s: float, duration_s: float, slots: int, rng: random.Random) -> list[Fault]:
    return rng.choice(_CUTS)(at_s, duration_s, slots, rng)


def _crashes(slots: int, options: FaultOptions, rng: random.Random) -> list[Fault]:
    """Crashes at random, at most `down_max` of them overlapping; armed ones count from when they are armed."""
    crashes: list[Fault] = []
    busy: list[tuple[float, int]] = []  # (until when, slot)
    for at_s in _arrivals(options.crash_every_s, options.heal_s, rng):
        busy = [(until, slot) for until, slot in busy if until > at_s]
        down_s = rng.expovariate(1 / options.crash_s)
        slot, after = rng.randrange(slots), rng.choice((0, rng.randint(1, AFTER_EFFECTS_MAX)))
        power, again = rng.random() < options.crash_power, rng.random() < options.crash_in_recovery
        nested = rng.randint(1, RECOVERY_CRASHES_MAX) if again else 0
        if len(busy) >= options.down_max or any(slot == other for _, other in busy):
            continue
        # An armed crash strikes at an effect still to come; a busy member begins twelve within about two seconds.
        busy.append((at_s + down_s + (2.0 if after else 0.0) + nested, slot))
        crashes.append(
            Crash(at_s=at_s, slot=slot, down_s=down_s, after_effects=after, power=power, recovery_crashes=nested)
        )
    return crashes


def _twin_route(at_s: float, member: int, others: Sequence[int], rng: random.Random) -> TwinRoute:
    """Every other process talks to the first half, the second, or both, with equal chances."""
    sides = [rng.randrange(3) for _ in others]
    first = tuple(slot for slot, side in zip(others, sides, strict=True) if side != 1)
    second = tuple(slot for slot, side in zip(others, sides, strict=True) if side != 0)
    return TwinRoute(at_s=at_s, member=member, first=first, second=second)
