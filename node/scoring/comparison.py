"""Is one model better than another on the same held-out cases? A verdict in one sentence, with the number behind it.

Both models have seen every case, so cases are compared and not averages: two intervals that overlap may hide a clear
difference, and two accuracies that differ may be chance. Accuracy has McNemar's exact test, the area under the curve
DeLong's paired one, the c-index the same by its jackknife, everything else a paired bootstrap. "No difference" is never
said, only that so many cases can show none: with 45 of them a gain of five points goes unseen more often than not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np

from node.scoring import measures
from node.scoring.cases import Cases, Classified, Integers, Predicted, Survived
from node.scoring.intervals import (
    LEVEL,
    RESAMPLES,
    RESAMPLES_MIN,
    Interval,
    Z,
    bootstrap,
    clopper_pearson,
    mcnemar,
    normal_p,
    paired_areas,
    paired_difference,
    percentiles,
)


class Outcome(Enum):
    """What the cases show of the first model against the second; the value is the word for it."""

    BETTER = "better"
    WORSE = "worse"
    UNDECIDED = "undecided"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """One metric of two models on the same `cases`. `difference` is the first less the second, with its interval.

    `p` is that of an exact or normal test, None of a bootstrap. `detail` is what the test counted, in words. Where
    nothing could be compared `why` says why not, and numbers are 0.
    """

    metric: str
    cases: int
    outcome: Outcome
    first: float = 0.0
    second: float = 0.0
    difference: float = 0.0
    interval: Interval | None = None
    p: float | None = None
    detail: str = ""
    why: str = ""

    def sentence(self, first: str, second: str) -> str:
        """Say what it shows, in one sentence; `first` and `second` name the models."""
        if self.outcome is Outcome.NONE:
            return f"no verdict: {self.why}"
        assert self.interval is not None, "what was compared has an interval"
        span = f"{self.interval.low:+.3f} to {self.interval.high:+.3f}"
        test = self.interval.method if self.p is None else f"p = {_p_words(self.p)}"
        counted = f"; {self.detail}" if self.detail else ""
        number = f"{self.metric} {self.difference:+.3f} ({span}, {test}{counted})"
        if self.outcome is Outcome.UNDECIDED:
            return f"no difference that {self.cases} cases can show between {first} and {second}: {number}"
        return f"{first} is {self.outcome.value} than {second} on the {self.cases} cases: {number}"


_CLASSIFIED: Mapping[str, Callable[[Classified], float]] = {
    "accuracy": lambda cases: float((cases.predicted() == cases.labels).mean()),
    "auc": measures.mean_area,
    "balanced_accuracy": lambda cases: _balanced(cases),
    "macro_f1": lambda cases: measures.macro_f1(measures.confusion(cases.labels, cases.predicted(), cases.classes)),
    "brier": lambda cases: float(measures.squared_errors(cases).mean()),
    "ece": measures.calibration_error,
}
_PREDICTED: Mapping[str, Callable[[Predicted], float]] = {
    "mae": lambda cases: float(np.abs(cases.predictions - cases.targets).mean()),
    "r2": measures.r2,
}
_SURVIVED: Mapping[str, Callable[[Survived], float]] = {"c_index": measures.concordance_index}

LESS_IS_BETTER = frozenset({"brier", "ece", "mae"})

NAMES = (*_CLASSIFIED, *_PREDICTED, *_SURVIVED)
"""Metrics by which two models can be compared; the first of its kind decides if nobody names one."""


def deciding(cases: Cases, asked: Sequence[str]) -> str:
    """Return the metric that decides: the first of those `asked` for that these cases have, else their first."""
    known = _measures(cases)
    return next((name for name in asked if name in known), next(iter(known)))


def compare(first: Cases, second: Cases, metric: str) -> Comparison:
    """Return what the cases show of the first model against the second by one metric."""
    if not _same_truth(first, second):
        return _none(metric, first.n, "the two models were scored on different cases")
    if why := _unranked(first, metric) or _unranked(second, metric):
        return _none(metric, first.n, f"{metric}: {why}")
    if metric == "accuracy" and isinstance(first, Classified) and isinstance(second, Classified):
        return _mcnemar(first, second)
    if metric == "auc" and isinstance(first, Classified) and isinstance(second, Classified) and first.classes == 2:
        return _delong(first, second)
    if isinstance(first, Survived) and isinstance(second, Survived):
        return _jackknifed(first, second)
    return _resampled(first, second, metric)


def _mcnemar(first: Classified, second: Classified) -> Comparison:
    """Only cases on which one is right and the other wrong tell anything; a fair coin would share them out evenly."""
    right, other_right = first.predicted() == first.labels, second.predicted() == second.labels
    gained, lost = int((right & ~other_right).sum()), int((other_right & ~right).sum())
    n, p = first.n, mcnemar(gained, lost)
    span = _mcnemar_span(int((right & other_right).sum()), gained, lost, n)
    return Comparison(
        metric="accuracy",
        cases=n,
        outcome=_outcome(p < 1 - LEVEL, (gained - lost) / n),
        first=float(right.mean()),
        second=float(other_right.mean()),
        difference=(gained - lost) / n,
        interval=span,
        p=p,
        detail=f"right on {gained} that the other gets wrong, wrong on {lost} that it gets right",
    )


def _mcnemar_span(both: int, gained: int, lost: int, n: int) -> Interval:
    """Return an interval of the difference that excludes 0 just where the exact test does.

    Its end nearer to 0 is that of the test: the exact limits of the share of cases won, among those that one wins. They
    take the number of these as given, which tells too little of the other end, and where there are none nothing at all;
    so the interval reaches as far as Newcombe's, and as far as so many cases without a difference leave open.
    """
    tosses = gained + lost
    share = clopper_pearson(gained, tosses) if tosses else Interval(0.0, 1.0, "")
    low, high = ((2 * at - 1) * tosses / n for at in (share.low, share.high))
    wide = paired_difference(both, gained, lost, n - both - tosses)
    unseen = 1 - ((1 - LEVEL) / 2) ** (1 / n) if not tosses else 0.0
    # Where the test has decided, its end is the one between 0 and the difference.
    low = low if low > 0 else min(low, wide.low, -unseen)
    high = high if high < 0 else max(high, wide.high, unseen)
    return Interval(low, high, "exact McNemar")


def _delong(first: Classified, second: Classified) -> Comparison:
    ill = first.labels == 1
    one, two = (cases.score_of(1) for cases in (first, second))
    difference, variance = paired_areas((one[ill], one[~ill]), (two[ill], two[~ill]))
    values = measures.mean_area(first), measures.mean_area(second)
    return _normal("auc", first.n, values, difference, variance, "DeLong")


def _jackknifed(first: Survived, second: Survived) -> Comparison:
    """Two c-indices have the same pairs, so a case's influence on their difference is the difference of influences."""
    (won, compared), (other_won, _) = measures.concordance(first), measures.concordance(second)
    total = float(compared.sum())
    values = float(won.sum()) / total, float(other_won.sum()) / total
    difference = values[0] - values[1]
    influence = 2 * (won - other_won - difference * compared) / total
    variance = float(np.square(influence).sum())
    return _normal("c_index", first.n, values, difference, variance, "infinitesimal jackknife")


def _normal(
    metric: str, n: int, values: tuple[float, float], difference: float, variance: float, method: str
) -> Comparison:
    if variance <= 1e-15 and difference != 0:
        return _none(metric, n, f"{metric}: every case agrees on the difference, which has no variance to test")
    spread = math.sqrt(max(variance, 0.0))
    p = 1.0 if difference == 0 or spread == 0 else normal_p(difference / spread)
    return Comparison(
        metric=metric,
        cases=n,
        outcome=_outcome(p < 1 - LEVEL, difference),
        first=values[0],
        second=values[1],
        difference=difference,
        interval=Interval(difference - Z * spread, difference + Z * spread, method),
        p=p,
    )


def _resampled(first: Cases, second: Cases, metric: str) -> Comparison:
    """Resample cases, the same for both models; it decides if 95 % of the differences lie on one side of 0."""
    measure: Callable[[Cases], float] = _measures(first)[metric]

    def difference(chosen: Integers) -> float:
        return measure(first.take(chosen)) - measure(second.take(chosen))

    value, other = measure(first), measure(second)
    gaps = bootstrap(first.n, difference, resamples=2 * RESAMPLES)
    if len(gaps) < RESAMPLES_MIN:
        return _none(metric, first.n, f"{metric}: it cannot be resampled on these {first.n} cases")
    interval = percentiles(gaps)
    if interval is None:
        if value != other:
            return _none(metric, first.n, f"{metric}: resampling these cases tells nothing")
        interval = Interval(0.0, 0.0, "the same on every resample")
    clear = interval.low > 0 or interval.high < 0
    sign = -1 if metric in LESS_IS_BETTER else 1
    return Comparison(
        metric=metric,
        cases=first.n,
        outcome=_outcome(clear, sign * (value - other)),
        first=value,
        second=other,
        difference=value - other,
        interval=interval,
    )


def _outcome(clear: bool, gain: float) -> Outcome:
    if not clear or gain == 0:
        return Outcome.UNDECIDED
    return Outcome.BETTER if gain > 0 else Outcome.WORSE


def _unranked(cases: Cases, metric: str) -> str:
    """Say why a model cannot be ranked by a metric on these cases; empty if it can."""
    if metric not in _measures(cases):
        return "these cases do not have it"
    if cases.n < measures.RANK_MIN:
        return measures.too_few(cases.n)
    if isinstance(cases, Classified) and metric == "accuracy" and not cases.probable and cases.scores.ndim == 1:
        return "scores are not probabilities"
    found = measures.score(cases, intervals=False).find(metric)
    return "scores are not probabilities" if found is None else found.why


def _measures(cases: Cases) -> Mapping[str, Callable[..., float]]:
    match cases:
        case Classified():
            return _CLASSIFIED
        case Predicted():
            return _PREDICTED
        case Survived():
            return _SURVIVED


def _same_truth(first: Cases, second: Cases) -> bool:
    match first, second:
        case Classified(), Classified():
            return first.classes == second.classes and np.array_equal(first.labels, second.labels)
        case Predicted(), Predicted():
            return np.array_equal(first.targets, second.targets)
        case Survived(), Survived():
            return np.array_equal(first.times, second.times) and np.array_equal(first.events, second.events)
        case _:
            return False


def _balanced(cases: Classified) -> float:
    table = measures.confusion(cases.labels, cases.predicted(), cases.classes)
    rows = table.sum(axis=1)
    return float(np.mean(np.diag(table)[rows > 0] / rows[rows > 0]))


def _none(metric: str, n: int, why: str) -> Comparison:
    return Comparison(metric=metric, cases=n, outcome=Outcome.NONE, why=why)


def _p_words(p: float) -> str:
    return f"{p:.3f}" if p >= 0.001 else "less than 0.001"
