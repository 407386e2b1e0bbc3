"""What must be true after a run, asked of the ledgers alone wherever they can tell; the same in either world."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from swarm.ledger.audit import Audit, RoundView
from tests.chaos.plan import Trouble, gone_throughout, touched, troubles
from tests.chaos.stage import Ended
from topologies.scenario import Scenario

STRAGGLER = 5.0
"""A site is a straggler whose steps take this many times as long as they should: rounds do not wait for it."""

POINT = 0.01
"""What misfortune may cost in accuracy: one point, as a share."""


class Failed(AssertionError):
    """A claim does not hold. The text says which, of whom and when."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Told:
    """What the ledger says of a run, in figures; `absences` are of one site in one round each.

    Attributes:
        rounds: How many were committed.
        named: Absences on record.
        injected: Absences that faults made certain, all of them on record or made up for by late work.
        late: Late work that is in a mean: (site, round it was for, round it is in).
        accuracy: Of the final model.
        undisturbed: Of the run without misfortunes.
    """

    rounds: int
    named: int
    injected: int
    late: tuple[tuple[str, int, int], ...]
    accuracy: float
    undisturbed: float

    def words(self) -> str:
        """Return it in a line."""
        return (
            f"{self.rounds} rounds, {self.named} absences on record, of which faults made {self.injected} certain; "
            f"{len(self.late)} times late work is in; accuracy {self.accuracy:.4f}, undisturbed {self.undisturbed:.4f}"
        )


def judge(scenario: Scenario, seed: int, ended: Ended, *, undisturbed: float, lag_s: float, grace_s: float) -> Told:
    """Return what the ledgers say.

    Args:
        scenario: What was played.
        seed: With which chance.
        ended: What is left.
        undisturbed: The accuracy of the same seed on a day on which nothing goes wrong.
        lag_s: By how much what was seen of rounds may be late.
        grace_s: How long a site may need to be back after what befell it.

    Raises:
        Failed: Something is not as it must be.
    """
    names = scenario.names
    for name, found in zip(names, ended.audits, strict=True):
        _check_whole(name, found)
    models = {found.state.committed.model for found in ended.audits}
    _claim(len(models) == 1, "the sites ended with different models")
    befell = troubles(scenario, scenario.plan(seed))
    view = ended.audits[0]
    windows = _windows(ended)
    excused = (*befell, *ended.starting)
    injected = sum(_check_absences(scenario, excused, view, windows, lag_s=lag_s, grace_s=grace_s))
    late = tuple(_late(scenario, view))
    _check_stragglers(scenario, view)
    _check_stale(scenario, view, ended, windows)
    last = max((one.until_s if one.until_s < 1e9 else one.from_s for one in befell), default=0.0)
    end = max(ended.over.values())
    _claim(last <= end, f"the last round was over after {end:.0f} s, the misfortunes last {last:.0f} s")
    _claim(
        ended.accuracy >= undisturbed - POINT,
        f"accuracy is {ended.accuracy:.4f}, more than a point below the {undisturbed:.4f} of the undisturbed run",
    )
    return Told(
        rounds=view.state.committed.round,
        named=sum(len(_missing(one)) for one in view.rounds.values()),
        injected=injected,
        late=late,
        accuracy=ended.accuracy,
        undisturbed=undisturbed,
    )


def _check_whole(name: str, found: Audit) -> None:
    _claim(found.failure is None, f"the ledger of {name} does not hold: {found.failure}")
    done = found.state.committed.round
    _claim(found.state.complete, f"the ledger of {name} ends at round {done}")
    members = {seat.node for seat in found.state.terms.members}
    for number, view in sorted(found.rounds.items()):
        if view.closed is None:
            continue
        body = view.closed.body
        there = [placed.author for placed in view.closed.terms]
        told = len(there) + len(body.missing) + len(body.rejected)
        _claim(told == len(members), f"round {number} of {name} accounts for {told} of {len(members)} sites")
        _claim(not {*there} & {*body.missing}, f"round {number} of {name} has a site both in and missing")


def _windows(ended: Ended) -> dict[int, tuple[float, float]]:
    """Round -> the time in which it was open: from the end of the one before."""
    return {number: (ended.over.get(number - 1, 0.0), at_s) for number, at_s in ended.over.items()}


def _check_absences(
    scenario: Scenario,
    befell: Sequence[Trouble],
    view: Audit,
    windows: dict[int, tuple[float, float]],
    *,
    lag_s: float,
    grace_s: float,
) -> Iterator[int]:
    """Yield per round how many absences were certain. Every one is named, and nobody is missed without a reason."""
    nodes = [seat.node for seat in view.state.terms.members]
    slow = {slot for slot, site in enumerate(scenario.sites) if site.slowdown >= STRAGGLER}
    for number, (from_s, until_s) in sorted(windows.items()):
        closed = view.rounds[number].closed
        assert closed is not None, "a committed round was closed"
        there = {nodes.index(placed.author): placed.body.round for placed in closed.terms}
        certain = {slot for slot in range(scenario.n) if gone_throughout(befell, slot, from_s - lag_s, until_s)}
        for slot in sorted(certain):
            fresh = there.get(slot) == number
            where = f"round {number}, {from_s:.0f} to {until_s:.0f} s"
            _claim(not fresh, f"{scenario.names[slot]} is in the mean of {where}, and was out of reach")
        for node in closed.body.missing:
            slot = nodes.index(node)
            if slot not in slow:
                known = touched(befell, slot, from_s - lag_s, until_s, grace_s=grace_s)
                name = scenario.names[slot]
                _claim(known, f"{name} is missing from round {number}, {from_s:.0f} to {until_s:.0f} s, for no reason")
        yield len(certain)


def _check_stragglers(scenario: Scenario, view: Audit) -> None:
    nodes = [seat.node for seat in view.state.terms.members]
    for slot, site in enumerate(scenario.sites):
        if site.slowdown >= STRAGGLER:
            counted = [number for number, one in view.rounds.items() if nodes[slot] in _there(one)]
            least = max(1, len(view.rounds) // 10)
            _claim(len(counted) >= least, f"the work of {site.name} is in {len(counted)} means, fewer than {least}")


def _check_stale(scenario: Scenario, view: Audit, ended: Ended, windows: dict[int, tuple[float, float]]) -> None:
    """Whoever has old terms says so, is in no mean while it has, and in some after."""
    nodes = [seat.node for seat in view.state.terms.members]
    for slot, site in enumerate(scenario.sites):
        if not site.stale_charter_s:
            continue
        told = [text for text in ended.said[site.name] if "charter" in text]
        _claim(bool(told), f"{site.name} had a stale charter and did not say so")
        counted = [number for number, one in view.rounds.items() if nodes[slot] in _there(one)]
        early = [number for number in counted if windows[number][1] < site.stale_charter_s]
        _claim(not early, f"{site.name} is in rounds {early} with a charter that was not theirs")
        _claim(bool(counted), f"{site.name} got today's charter and took part in no round after")


def _late(scenario: Scenario, view: Audit) -> Iterator[tuple[str, int, int]]:
    nodes = [seat.node for seat in view.state.terms.members]
    for number, one in sorted(view.rounds.items()):
        for placed in one.closed.terms if one.closed else ():
            if placed.body.round < number:
                yield scenario.names[nodes.index(placed.author)], placed.body.round, number


def _there(one: RoundView) -> list[bytes]:
    return [placed.author for placed in one.closed.terms] if one.closed else []


def _missing(one: RoundView) -> tuple[bytes, ...]:
    return one.closed.body.missing if one.closed else ()


def _claim(true: bool, otherwise: str) -> None:
    if not true:
        raise Failed(otherwise)
