"""Scores as people read them: a table with every interval, and gaps that say why they are gaps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from node.scoring.intervals import Interval, newcombe, wilson
from node.scoring.measures import Estimate, Scores

NO_INTERVAL = "no interval"


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """One model in the table. `scores` is None where a task gives bare `numbers` on `samples`, or there is no model.

    Beside scores there may be numbers, too: those of the task's own. `note` says what it is, or why there is none.
    """

    name: str
    note: str
    scores: Scores | None = None
    numbers: Mapping[str, float] | None = None
    samples: int = 0

    def cell(self, metric: str) -> str:
        """Return a metric in a few words."""
        if self.scores is not None and (found := self.scores.find(metric)) is not None:
            return estimate_words(found)
        value = (self.numbers or {}).get(metric)
        return "-" if value is None else f"{value:.3f} ({NO_INTERVAL})"

    def names(self) -> list[str]:
        """Return the metrics it has, values or reasons."""
        scored = () if self.scores is None else self.scores.estimates
        return [*(one.name for one in scored if not self._said_elsewhere(one.name)), *(self.numbers or {})]

    def _said_elsewhere(self, name: str) -> bool:
        """Counts stand above the table; of two classes what is said of the one holds for the other, turned round."""
        two = self.scores is not None and len(self.scores.supports) == 2
        return name.startswith("support_") or (two and name.startswith(("sensitivity_0", "specificity_0")))


def estimate_words(one: Estimate) -> str:
    """Return "0.812 (0.72 to 0.88)", or why there is no value."""
    if one.value is None:
        return one.why
    if one.interval is None:
        return f"{one.value:.3f} ({NO_INTERVAL})"
    return f"{one.value:.3f} ({one.interval.low:.2f} to {one.interval.high:.2f})"


def table(columns: Sequence[Column], first: Sequence[str] = ()) -> list[str]:
    """Return the lines of the table, metrics down and models across, those named `first` at the top."""
    there = list(dict.fromkeys(name for column in columns for name in column.names()))
    names = [name for name in first if name in there] + [name for name in there if name not in first]
    cells = [[name, *(column.cell(name) for column in columns)] for name in names]
    rows = [["", *(column.name for column in columns)], *cells]
    widths = [max(len(row[i]) for row in rows) for i in range(len(columns) + 1)]
    return ["  ".join(text.ljust(wide) for text, wide in zip(row, widths, strict=True)).rstrip() for row in rows]


def supports_words(supports: Sequence[int]) -> str:
    """Return "58 of class 0, 46 of class 1"; empty where there are no classes."""
    return ", ".join(f"{count} of class {c}" for c, count in enumerate(supports))


def plain(one: Estimate) -> dict[str, object]:
    """Return an estimate for programs."""
    span = one.interval
    return {
        "value": one.value,
        "low": None if span is None else span.low,
        "high": None if span is None else span.high,
        "method": None if span is None else span.method,
        "support": one.support,
        "why": one.why or None,
    }


def told_interval(name: str, value: float, samples: int, told: Mapping[str, float]) -> Interval | None:
    """Return the interval of a score that a site has told, as far as what it told beside it gives one.

    `told` has its other metrics of the same model. The number of cases gives that of an accuracy; a sensitivity needs
    the support of its class, a specificity that of all others, an area under the curve that of both classes, and that
    there are no more. Without, a reader cannot know of how many cases a score is.
    """
    bare = name.removesuffix("_recalibrated")
    kind, _, class_ = bare.rpartition("_")
    support = told.get(f"support_{class_}")
    healthy, ill = told.get("support_0"), told.get("support_1")
    if not 0 <= value <= 1 or samples < 1:
        return None
    if bare == "auc":
        two = healthy is not None and ill is not None and healthy >= 1 and ill >= 1 and healthy + ill == samples
        return newcombe(value, round(ill or 0), round(healthy or 0)) if two else None
    if bare == "accuracy":
        n: float | None = samples
    elif kind == "sensitivity":
        n = support
    elif kind == "specificity":
        n = None if support is None else samples - support
    else:
        n = None
    return None if n is None or not 1 <= n <= samples else wilson(round(value * round(n)), round(n))


def told_words(name: str, value: float, samples: int, told: Mapping[str, float]) -> str:
    """Return a score that a site has told: "0.8000 (0.66 to 0.89)", a count as one."""
    if name.startswith("support_"):
        return f"{value:g}"
    span = told_interval(name, value, samples, told)
    return f"{value:.4f}" if span is None else f"{value:.4f} ({span.low:.2f} to {span.high:.2f})"


def apart_words(spans: Mapping[str, Interval]) -> str:
    """Say which sites' intervals lie apart; empty with fewer than two. No order is told among those that overlap."""
    if len(spans) < 2:
        return ""
    apart = [(a, b) for a, one in spans.items() for b, other in spans.items() if one.low > other.high]
    if not apart:
        return "All these intervals overlap: by this score no site is shown to be above another."
    listed = "; ".join(f"{a} above {b}" for a, b in apart[:APART_LISTED_MAX])
    more = f", and {len(apart) - APART_LISTED_MAX} more pairs" if len(apart) > APART_LISTED_MAX else ""
    return f"Intervals that do not overlap: {listed}{more}. All others do. Each site has patients of its own."


APART_LISTED_MAX = 6
"""Pairs of sites named in one sentence."""
