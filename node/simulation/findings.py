"""A result in the terms of its report: for each topology its curves over seeds, its last scores, its structure.

The spread that is drawn is over peers *and* seeds: the line is the mean over seeds of the mean over peers, the band
runs from the worst peer of any seed to the best of any. A mean alone would hide the hospital that learns nothing. What
is drawn and how is left to `node.simulation.report` and `node.simulation.plots`, which therefore show the same numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from node.simulation.charts import LOG_FROM, Axis, Series
from node.simulation.results import Loss, Recommendation, Result, Round, Run
from node.simulation.structure import PAIRS_NODES_MAX, Structure, structure
from swarm.errors import UsageError
from topologies import resilience, schedules, spectrum, weights
from topologies.graph import Edge, Topology
from topologies.mixing import Mixing, Schedule
from topologies.resilience import Resilience

MEASURES = ("rounds", "seconds", "bytes")
"""What learning is drawn against."""

BRIDGES_MAX = 32
"""Bridges of a large swarm whose loss is worked out; of more, only the number is said."""

SITES_LISTED_MAX = 200
"""Sites whose settings are listed; result.json has them all."""

_SPEEDS = {
    "learning": "peers trained together, times by the cost model",
    "protocol": "the real node, in a simulated world",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Numbers after each tested round, with their spread; all of one length."""

    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """When a swarm first had the accuracy that was asked for: the mean over the seeds, all of which had it."""

    rounds: float
    seconds: float
    bytes: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One topology as it did.

    Attributes:
        name: As the command line says it; with the speed, where there were both.
        seeds: Of its runs, ascending.
        rounds: The numbers of the tested rounds, ascending.
        seconds: Virtual seconds until then, mean over seeds.
        bytes: Sent per site until then, mean over sites and seeds.
        bytes_busiest: Sent until then by the site that sent most, mean over seeds.
        accuracy: Of the peers' own models, 0 to 1.
        distance: Consensus distance; the spread is over seeds alone. It may end before the other numbers do, as in the
            last round of gossip all models become one, which says nothing of the topology. Empty if not measured.
        average: Accuracy of the mean of all models after each of the tested rounds, mean over seeds.
        peers: (site, accuracy), mean over seeds, after `peers_round`.
        peers_round: The last tested round in which models still differed, or the last of all.
        reached: The first tested round at the target; None without one, or where a seed never came to it.
        structure: What is known of it beforehand; None where that is another candidate's, or nothing.
        remark: Why it is not the one recommended; empty for the one that is.
    """

    name: str
    seeds: tuple[int, ...]
    rounds: tuple[int, ...]
    seconds: tuple[float, ...]
    bytes: tuple[float, ...]
    bytes_busiest: tuple[float, ...]
    accuracy: Spread
    distance: Spread
    average: tuple[float, ...]
    peers: tuple[tuple[str, float], ...]
    peers_round: int
    reached: Reached | None
    structure: Structure | None
    remark: str = ""

    @property
    def merges(self) -> bool:
        """Whether the last round makes all models one."""
        return self.peers_round < self.rounds[-1]

    @property
    def before(self) -> tuple[float, float]:
        """The worst and the best accuracy of a site while models still differed, over all seeds."""
        place = self.rounds.index(self.peers_round)
        return self.accuracy.low[place], self.accuracy.high[place]

    def along(self, measure: str) -> tuple[float, ...]:
        """Return what has been spent after each tested round, by one of `MEASURES`."""
        spent = {"rounds": tuple(map(float, self.rounds)), "seconds": self.seconds, "bytes": self.bytes}
        return spent[measure]

    def series(self, measure: str, spread: Spread) -> Series:
        """Return numbers with their spread against what has been spent, as far as they go."""
        x = self.along(measure)[: len(spread.mean)]
        return Series(name=self.name, x=x, mean=spread.mean, low=spread.low, high=spread.high)


@dataclass(frozen=True, slots=True, kw_only=True)
class Holdings:
    """Who holds what: counts of shape (peers, labels)."""

    counts: NDArray[np.int64]
    labels: tuple[str, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """All that a report shows.

    Attributes:
        title: What was simulated, in a line.
        about: The same in the words of whoever wrote the scenario; may be empty.
        sites: Their names, in member order.
        target: Accuracy asked for, or None.
        chosen: The name of the recommended candidate, or empty.
        reasons: Why, in sentences; the first says what to do.
        candidates: In the order of the report: the recommended one first, the others in order of preference.
        holdings: Who holds what; None where the result does not say.
        mixing: "gossip" or "exact".
        settings: What was set, as (what, value).
        tables: Settings that come in rows, such as the sites: (caption, heads, rows).
        command: What makes it again, or empty.
        notes: What is not as it should be: runs that were cut short, topologies that could not be run.
    """

    title: str
    about: str
    sites: tuple[str, ...]
    target: float | None
    chosen: str
    reasons: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    holdings: Holdings | None
    mixing: str
    settings: tuple[tuple[str, str], ...]
    tables: tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...]
    command: str
    notes: tuple[str, ...]


def findings(result: Result) -> Findings:
    """Put a result in the terms of its report. Topologies without a tested round are left out, and named."""
    advice = result.recommendation
    # The speed whose numbers were compared keeps the plain names; beside it, the other says what it is.
    first = advice.speed if advice is not None else next(iter(result.speeds), "learning")
    candidates, notes = [], list(result.notes)
    for speed in sorted(result.speeds, key=lambda speed: speed != first):
        for topology in _in_order(result, advice):
            runs = [run for run in result.select(topology, speed) if run.tested]
            name = topology if speed == first else f"{topology} ({speed})"
            if runs:
                # The links are the same at both speeds: they are shown once.
                shape = _structure(runs, result) if speed == first else None
                candidates.append(_candidate(name, runs, result, shape))
            elif result.select(topology, speed):
                notes.append(f"{name}: no round was finished and tested.")
    if result.partial:
        notes.insert(0, "The simulation was interrupted: what is shown is what was finished by then.")
    remarks = {} if advice is None else {row.topology: row.remark for row in advice.table}
    settings, tables = _settings(result)
    return Findings(
        title=_title(result),
        about=str(result.scenario.get("summary") or ""),
        sites=result.names,
        target=None if advice is None else advice.target,
        chosen="" if advice is None else advice.topology,
        reasons=("Nothing was finished that could be compared.",)
        if advice is None
        else (advice.sentence, *advice.reasons),
        candidates=tuple(replace(one, remark=remarks.get(one.name, "")) for one in candidates),
        holdings=_holdings(result),
        mixing=str(_within(result.scenario, "learning", "mixing") or "gossip"),
        settings=settings,
        tables=tables,
        command=result.command,
        notes=tuple(notes),
    )


def _in_order(result: Result, advice: Recommendation | None) -> list[str]:
    """The recommended first, the others in order of preference, then those that were not compared."""
    ranked = [row.topology for row in advice.table] if advice is not None else []
    return [*ranked, *(topology for topology in result.topologies if topology not in ranked)]


def _candidate(name: str, runs: Sequence[Run], result: Result, shape: Structure | None) -> Candidate:
    n = len(result.names)
    # Runs of one topology are tested in the same rounds; one that was interrupted ends them all.
    tested = [list(run.tested) for run in runs]
    length = min(map(len, tested))
    tested = [rounds[:length] for rounds in tested]
    numbers = tuple(one.number for one in tested[0])
    accuracies = [[[score.accuracy for score in one.peers] for one in rounds] for rounds in tested]
    distances = [[one.consensus_distance for one in rounds] for rounds in tested]
    apart = _apart(tested)
    last = [rounds[apart] for rounds in tested]
    target = result.recommendation.target if result.recommendation is not None else None
    return Candidate(
        name=name,
        seeds=tuple(run.seed for run in runs),
        rounds=numbers,
        seconds=_mean_of(tested, lambda one: one.virtual_s),
        bytes=_mean_of(tested, lambda one: one.bytes_total / n),
        bytes_busiest=_mean_of(tested, lambda one: float(one.bytes_busiest)),
        accuracy=Spread(
            mean=tuple(_mean(_mean(peers) for peers in column) for column in zip(*accuracies, strict=True)),
            low=tuple(min(min(peers) for peers in column) for column in zip(*accuracies, strict=True)),
            high=tuple(max(max(peers) for peers in column) for column in zip(*accuracies, strict=True)),
        ),
        distance=_distances(distances, apart + 1),
        average=_averages(tested),
        peers=_peers(last, result.names),
        peers_round=last[0].number,
        reached=None if target is None else _reached(runs, target, n),
        structure=shape,
    )


def _apart(tested: Sequence[Sequence[Round]]) -> int:
    """Return the place of the last tested round after which models still differed in some run; the last if none."""
    for place in range(len(tested[0]) - 1, -1, -1):
        if any(rounds[place].consensus_distance for rounds in tested):
            return place
    return len(tested[0]) - 1


def _distances(distances: Sequence[Sequence[float | None]], length: int) -> Spread:
    columns = list(zip(*(row[:length] for row in distances), strict=True))
    known = [[value for value in column if value is not None] for column in columns]
    if not all(known):
        return Spread(mean=(), low=(), high=())
    return Spread(mean=tuple(map(_mean, known)), low=tuple(map(min, known)), high=tuple(map(max, known)))


def _averages(tested: Sequence[Sequence[Round]]) -> tuple[float, ...]:
    columns = zip(*([one.average_accuracy for one in rounds] for rounds in tested), strict=True)
    known = [[value for value in column if value is not None] for column in columns]
    return tuple(map(_mean, known)) if all(known) else ()


def _peers(last: Sequence[Round], names: Sequence[str]) -> tuple[tuple[str, float], ...]:
    scores: dict[int, list[float]] = {}
    for one in last:
        for score in one.peers:
            scores.setdefault(score.peer, []).append(score.accuracy)
    return tuple((names[peer], _mean(found)) for peer, found in sorted(scores.items()))


def _reached(runs: Sequence[Run], target: float, n: int) -> Reached | None:
    found = [run.first_at(target) for run in runs]
    there = [one for one in found if one is not None]
    if len(there) < len(found):
        return None
    return Reached(
        rounds=_mean(one.number for one in there),
        seconds=_mean(one.virtual_s for one in there),
        bytes=_mean(one.bytes_total / n for one in there),
    )


def _structure(runs: Sequence[Run], result: Result) -> Structure | None:
    run = runs[0]
    try:
        schedule = _schedule(run, result)
    except UsageError:
        return None  # a family that has changed since: the runs are shown without it
    rounds = max((one.number for one in run.rounds), default=0)
    carried = {(load.low, load.high): load.bytes / rounds for load in run.links} if rounds else {}
    losses = _losses(run, schedule) if schedule.n > PAIRS_NODES_MAX else None
    return structure(schedule, result.names, copy_bytes=run.facts.model_bytes, carried=carried, known=losses)


def _losses(run: Run, schedule: Schedule) -> Resilience:
    """Return what a result says of losses in the terms of `topologies.resilience`."""
    found = run.resilience
    mixing = Mixing.from_dense(weights.metropolis_hastings(schedule.links))

    def told(loss: Loss) -> resilience.Loss:
        parts = 2 if loss.cut_off else 1  # into how many is not recorded
        return resilience.Loss(members=loss.members, link=None, parts=parts, cut_off=loss.cut_off, gap=loss.gap)

    return Resilience(
        gap=1.0 - spectrum.slem(mixing),
        articulation=found.single_points,
        bridges=found.bridges,
        one=tuple(map(told, found.one)),
        two=() if found.worst_two is None else (told(found.worst_two),),
        links=resilience.losing_link(schedule.links, found.bridges) if len(found.bridges) <= BRIDGES_MAX else (),
    )


def _schedule(run: Run, result: Result) -> Schedule:
    """Make the schedule of a run again; of one's own graph from its links."""
    name, _, degree = run.topology.partition(":")
    n = len(result.names)
    if name in schedules.names() or name.startswith("base"):
        return schedules.build(name, n, degree=int(degree) if degree else 3, seed=run.schedule_seed)
    if arcs := _own_links(result, "arcs"):
        return schedules.directed(n, arcs, name=name)
    return schedules.static(
        Topology.from_edges(n, _own_links(result, "graph") or [(x.low, x.high) for x in run.links]), name=name
    )


def _own_links(result: Result, key: str) -> list[Edge]:
    listed = result.scenario.get(key)
    if not isinstance(listed, Sequence) or isinstance(listed, str):
        return []
    return [(int(pair[0]), int(pair[1])) for pair in listed if isinstance(pair, Sequence) and len(pair) == 2]


def _holdings(result: Result) -> Holdings | None:
    counts = np.array(result.holdings.counts, dtype=np.int64)
    shape = (len(result.names), len(result.holdings.labels))
    if counts.shape != shape or not counts.size:
        return None
    return Holdings(counts=counts, labels=result.holdings.labels)


def _title(result: Result) -> str:
    sites, compared = len(result.names), len(result.topologies)
    return f"{sites:,} {'site' if sites == 1 else 'sites'}, {compared} {'topology' if compared == 1 else 'topologies'}"


def _settings(
    result: Result,
) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, tuple[str, ...], tuple[tuple[str, ...], ...]], ...]]:
    """All settings: single values as (what, value), lists of mappings as tables."""
    single = [("simulated", "; ".join(_SPEEDS[speed] for speed in result.speeds))]
    single.append(("parameters of a model", f"{result.parameters:,}"))
    tables = []
    for path, value in _leaves(result.scenario, ()):
        if isinstance(value, Sequence) and value and all(isinstance(row, Mapping) for row in value):
            heads = tuple(dict.fromkeys(str(key) for row in value for key in row))
            rows = _alike([tuple(_value_words(row.get(head, "")) for head in heads) for row in value])
            more = f", the first {SITES_LISTED_MAX} of {len(rows):,}" if len(rows) > SITES_LISTED_MAX else ""
            tables.append((f"{path}{more}", heads, rows[:SITES_LISTED_MAX]))
        elif path not in ("graph", "arcs", "summary") and value not in (None, "", [], ()):
            single.append((path, _value_words(value)))
    return tuple(single), tuple(tables)


def _alike(rows: Sequence[tuple[str, ...]]) -> tuple[tuple[str, ...], ...]:
    """Return rows that differ in nothing but their names as one, and any others as they are."""
    if len(rows) > 1 and len({row[1:] for row in rows}) == 1:
        return ((f"all {len(rows):,}", *rows[0][1:]),)
    return tuple(rows)


def _leaves(values: Mapping[str, object], path: tuple[str, ...]) -> Iterable[tuple[str, object]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, (*path, str(key)))
        else:
            yield ".".join((*path, str(key))), value


def _within(values: Mapping[str, object], *path: str) -> object:
    found: object = values
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found


def _value_words(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.10g}"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return ", ".join(_value_words(one) for one in value)
    return str(value)


def _mean(values: Iterable[float]) -> float:
    listed = list(values)
    return sum(listed) / len(listed)


def _mean_of(tested: Sequence[Sequence[Round]], what: Callable[[Round], float]) -> tuple[float, ...]:
    return tuple(_mean(map(what, column)) for column in zip(*tested, strict=True))


# --- axes and words ---------------------------------------------------------------------------------------------


def time_axis(seconds: Sequence[float]) -> Axis:
    """Return an axis of virtual time in the unit that fits the longest."""
    most = max(seconds, default=0.0)
    for unit, size in (("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if most >= 2 * size:
            return Axis(label=f"predicted time, {unit}", factor=1 / size, bottom=0)
    return Axis(label="predicted time, seconds", bottom=0)


def bytes_axis(sent: Sequence[Sequence[float]]) -> Axis:
    """Return an axis of bytes sent per site in the unit that fits the most (powers of a thousand).

    It is logarithmic where one line would end before another has begun to be seen.
    """
    ends = [line[-1] for line in sent if line and line[-1] > 0]
    most = max(ends, default=0.0)
    unit, size = next(
        ((u, s) for u, s in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if most >= 2 * s), ("bytes", 1.0)
    )
    if ends and most > LOG_FROM * min(ends):
        return Axis(label=f"sent per site, {unit} (logarithmic)", scale="log", factor=1 / size)
    return Axis(label=f"sent per site, {unit}", factor=1 / size, bottom=0)


def axis_of(measure: str, candidates: Sequence[Candidate]) -> Axis:
    """Return the common axis of candidates along one of `MEASURES`."""
    spent = [candidate.along(measure) for candidate in candidates]
    match measure:
        case "seconds":
            return time_axis([line[-1] for line in spent if line])
        case "bytes":
            return bytes_axis(spent)
        case _:
            return Axis(label="round", bottom=0, whole=True)


def duration_words(seconds: float) -> str:
    """Return a length of time for people: "0.8 s", "48 s", "3.2 min", "5.1 h", "2.4 days"."""
    for unit, size in (("days", 86400.0), ("h", 3600.0), ("min", 60.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.3g} s"
