"""The metrics of a model on held-out cases, each with its count and its 95 % interval.

A metric whose rarer kind of cases is rarer than `RANK_MIN` has no value: it says "too few (3)". One that does not
exist here, such as an area under the curve where all cases are of one class, says why. Neither is ever a zero: a zero
would be compared, and averaged.

Names are those a charter may ask for. Of classes: `auc_c`, `sensitivity_c`, `specificity_c` and `support_c`, one class
against the rest; of two classes `auc` is that of class 1. With `_recalibrated` behind it a metric is taken at the
threshold that the site chose on data of its own, not at 0.5: an area under the curve of 0.81 went with an accuracy of
0.37 where nobody did that (Warnat-Herresthal et al. 2021, "No finding", recomputed).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from node.scoring.cases import Cases, Classified, Floats, Integers, Predicted, Survived
from node.scoring.intervals import (
    RESAMPLES,
    SEED,
    Interval,
    Z,
    area,
    bootstrap,
    delong,
    mean_of_proportions,
    percentiles,
    wilson,
)

RANK_MIN = 5
"""Cases of the rarer kind below which a metric is not given: with 4, even if all are right, Wilson's interval of their
proportion is half the scale wide."""

BINS = 10
"""Of equal width, for the calibration error (Guo et al. 2017)."""

MEANS_RESAMPLED_MAX = 10_000
"""Cases beyond which a mean is as good as normal (the central limit theorem), and need not be resampled."""

CONCORDANCE_MAX = 20_000
"""Cases beyond which no c-index is computed: it looks at every pair."""

ROWS = 512
"""Cases compared with all others at once."""

_RECALIBRATED = "_recalibrated"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A metric: its value on `support` cases and the interval. Without a value, `why` says so in a few words."""

    name: str
    value: float | None
    support: int
    interval: Interval | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Scores:
    """A model's metrics on `samples` cases. `supports` is how many of each class; empty where there are no classes.

    `cell` is the fewest cases of any group that there is; what may be told follows from it (`swarm.disclosure`).
    `threshold` is the site's own, if it could choose one; `remarks` say what was left out and why.
    """

    samples: int
    cell: int
    supports: tuple[int, ...]
    estimates: tuple[Estimate, ...]
    threshold: float | None = None
    remarks: tuple[str, ...] = ()

    def values(self) -> dict[str, float]:
        """Return the metrics that have a value."""
        return {one.name: one.value for one in self.estimates if one.value is not None}

    def find(self, name: str) -> Estimate | None:
        """Return a metric by name."""
        return next((one for one in self.estimates if one.name == name), None)


def score(cases: Cases, *, intervals: bool = True) -> Scores:
    """Return every metric of these cases. Without `intervals` it is quick: resampling takes much longer."""
    match cases:
        case Classified():
            return _classification(cases, intervals=intervals)
        case Predicted():
            return Scores(cases.n, cases.cell, (), tuple(_regression(cases, intervals=intervals)))
        case Survived():
            return Scores(cases.n, cases.cell, (), tuple(_survival(cases, intervals=intervals)))


# --- classification ---------------------------------------------------------------------------------------------


def _classification(cases: Classified, *, intervals: bool) -> Scores:
    remarks: list[str] = []
    estimates: list[Estimate] = []
    decides = cases.probable or cases.scores.ndim == 2
    if decides:
        estimates += _decided(cases, cases.predicted(), "", intervals=intervals)
    else:
        remarks.append("scores are not probabilities between 0 and 1: only their order was used (torch.sigmoid?)")
    if decides and not cases.probable:
        remarks.append(
            "scores are not probabilities that add up to 1 in each case: the largest decides, and areas are of their"
            " bare order (torch.softmax?)"
        )
    estimates += _areas(cases, intervals=intervals)
    if cases.probable:
        estimates += _probabilities(cases, intervals=intervals)
    threshold = None
    if cases.own is not None:
        threshold, why = choose_threshold(cases.own)
        remarks += [why] if why else []
        if threshold is not None:
            estimates += _decided(cases, cases.predicted(threshold), _RECALIBRATED, intervals=intervals)
    estimates += [Estimate(f"support_{c}", float(n), n) for c, n in enumerate(cases.supports)]
    return Scores(cases.n, cases.cell, cases.supports, tuple(estimates), threshold, tuple(remarks))


def _decided(cases: Classified, predicted: Integers, suffix: str, *, intervals: bool) -> Iterator[Estimate]:
    """Yield what follows from the class that each case is put in."""
    table = confusion(cases.labels, predicted, cases.classes)
    n, rows = cases.n, table.sum(axis=1)
    right = int(np.trace(table))
    yield Estimate(f"accuracy{suffix}", right / n, n, wilson(right, n))
    there = [c for c in range(cases.classes) if rows[c]]
    why = _unbalanced(cases)
    if why:
        yield from (Estimate(f"{name}{suffix}", None, n, why=why) for name in ("balanced_accuracy", "macro_f1"))
    else:
        shares = [(float(table[c, c]), int(rows[c])) for c in there]
        balanced = float(np.mean([hits / of for hits, of in shares]))
        yield Estimate(f"balanced_accuracy{suffix}", balanced, n, mean_of_proportions(shares))
        spread = percentiles(_resampled_f1(table)) if intervals else None
        yield Estimate(f"macro_f1{suffix}", macro_f1(table), n, spread)
    for c in range(cases.classes):
        yield _share(f"sensitivity_{c}{suffix}", int(table[c, c]), int(rows[c]))
        others = n - int(rows[c])
        yield _share(f"specificity_{c}{suffix}", others - int(table[:, c].sum() - table[c, c]), others)


def confusion(labels: Integers, predicted: Integers, classes: int) -> Integers:
    """Return how many cases of each class (row) were put in each class (column)."""
    flat = np.bincount(labels * classes + predicted, minlength=classes * classes)
    return flat.reshape(classes, classes).astype(np.int64)


def macro_f1(table: Integers) -> float:
    """Return the plain mean over classes of F1, of those classes that have a case or were predicted."""
    hits, sizes = np.diag(table), table.sum(axis=0) + table.sum(axis=1)
    there = sizes > 0
    return float(np.mean(2 * hits[there] / sizes[there]))


def _resampled_f1(table: Integers) -> Floats:
    """Resample each class by itself: its row is multinomial, which is drawing its cases with replacement."""
    rows = [(int(row.sum()), row / row.sum() if row.sum() else None) for row in table]
    # A generator of its own for each table: what is asked for before must not change an interval.
    draw = np.random.Generator(np.random.PCG64(SEED))
    drawn = [
        np.zeros((RESAMPLES, len(rows)), np.int64) if shares is None else draw.multinomial(n, shares, size=RESAMPLES)
        for n, shares in rows
    ]
    return np.array([macro_f1(np.stack([row[i] for row in drawn])) for i in range(RESAMPLES)])


def _share(name: str, hits: int, n: int) -> Estimate:
    if n < RANK_MIN:
        return Estimate(name, None, n, why=too_few(n))
    return Estimate(name, hits / n, n, wilson(hits, n))


def _areas(cases: Classified, *, intervals: bool) -> Iterator[Estimate]:
    two = cases.classes == 2
    for c in [1] if two else range(cases.classes):
        name = "auc" if two else f"auc_{c}"
        score_of, mine = cases.score_of(c), cases.labels == c
        positives, negatives = int(mine.sum()), int((~mine).sum())
        why = rare(positives, negatives, f"class {c}")
        if why:
            yield Estimate(name, None, cases.n, why=why)
        else:
            value, interval = delong(score_of[mine], score_of[~mine])
            yield Estimate(name, value, cases.n, interval)
    if not two:
        yield _mean_area(cases, intervals=intervals)


def _mean_area(cases: Classified, *, intervals: bool) -> Estimate:
    """The plain mean of the areas one class against the rest, over all classes (Hand & Till's is another one)."""
    if why := _unbalanced(cases, everyone=True):
        return Estimate("auc", None, cases.n, why=why)
    return Estimate("auc", mean_area(cases), cases.n, _resampled(cases, mean_area) if intervals else None)


def mean_area(cases: Classified) -> float:
    """Return the mean over classes of the area one against the rest; of two classes that of class 1. NaN without."""
    classes = [1] if cases.classes == 2 else range(cases.classes)
    found = []
    for c in classes:
        mine, scores = cases.labels == c, cases.score_of(c)
        found.append(area(scores[mine], scores[~mine]) if 0 < mine.sum() < cases.n else math.nan)
    return float(np.mean(found))


def _probabilities(cases: Classified, *, intervals: bool) -> Iterator[Estimate]:
    losses = squared_errors(cases)
    yield Estimate("brier", float(losses.mean()), cases.n, _mean_interval(losses) if intervals else None)
    error = calibration_error(cases)
    spread = _resampled(cases, calibration_error) if intervals else None
    if spread is not None:  # Resampling doubles the bias of few cases in a bin; an interval holds its estimate.
        spread = Interval(min(spread.low, error), max(spread.high, error), spread.method)
    yield Estimate("ece", error, cases.n, spread)


def squared_errors(cases: Classified) -> Floats:
    """Return each case's Brier score (1950): of two classes that of class 1, of more the sum over classes."""
    if cases.scores.ndim == 1:
        return np.square(cases.scores - cases.labels)
    truth = np.eye(cases.classes)[cases.labels]
    losses: Floats = np.square(cases.scores - truth).sum(axis=1)
    return losses


def calibration_error(cases: Classified) -> float:
    """Return the expected calibration error over `BINS` bins (Guo et al. 2017, eq. 3).

    Of two classes the probability of class 1 against how often it is class 1 (Naeini et al. 2015); of more that of the
    predicted class against how often it is right. Biased upwards where there are few cases in a bin.
    """
    if cases.scores.ndim == 1:
        said, came = cases.scores, cases.labels.astype(np.float64)
    else:
        said = cases.scores.max(axis=1)
        came = (cases.predicted() == cases.labels).astype(np.float64)
    which = np.minimum((said * BINS).astype(np.int64), BINS - 1)
    gaps = np.bincount(which, weights=came - said, minlength=BINS)
    return float(np.abs(gaps).sum() / cases.n)


def choose_threshold(own: Classified) -> tuple[float | None, str]:
    """Return the threshold with the best balanced accuracy on a site's own cases, or None and why there is none.

    That is the largest Youden index (1950). It lies half-way between two scores; of several the one nearest 0.5.
    """
    ill, well = np.sort(own.scores[own.labels == 1]), np.sort(own.scores[own.labels == 0])
    if why := rare(len(ill), len(well), "class 1"):
        return None, f"no threshold of this site's own: {why} among the cases to choose it on"
    levels = np.unique(own.scores)
    cuts = np.concatenate(([levels[0] - 1e-9], (levels[:-1] + levels[1:]) / 2, [levels[-1] + 1e-9]))
    found = 1 - np.searchsorted(ill, cuts, "left") / len(ill) + np.searchsorted(well, cuts, "left") / len(well)
    best = cuts[found >= found.max() - 1e-12]
    return float(best[np.argmin(np.abs(best - 0.5))]), ""


# --- regression and survival ------------------------------------------------------------------------------------


def _regression(cases: Predicted, *, intervals: bool) -> Iterator[Estimate]:
    errors = np.abs(cases.predictions - cases.targets)
    n = cases.n
    if n < RANK_MIN:
        yield from (Estimate(name, None, n, why=too_few(n)) for name in ("mae", "r2"))
        return
    yield Estimate("mae", float(errors.mean()), n, _mean_interval(errors) if intervals else None)
    explained = r2(cases)
    if math.isnan(explained):
        yield Estimate("r2", None, n, why="all targets are equal")
    else:
        yield Estimate("r2", explained, n, _resampled(cases, r2) if intervals else None)


def r2(cases: Predicted) -> float:
    """Return 1 less the squared error over that of the cases' own mean; NaN where all targets are equal."""
    spread = float(np.square(cases.targets - cases.targets.mean()).sum())
    return 1 - float(np.square(cases.targets - cases.predictions).sum()) / spread if spread > 0 else math.nan


def _survival(cases: Survived, *, intervals: bool) -> Iterator[Estimate]:
    events = int(cases.events.sum())
    if cases.n > CONCORDANCE_MAX:
        yield Estimate("c_index", None, cases.n, why=f"more than {CONCORDANCE_MAX:,} cases")
    elif events < RANK_MIN:
        yield Estimate("c_index", None, events, why=f"{too_few(events)} events")
    else:
        won, compared = concordance(cases)
        total = float(compared.sum())
        if total == 0:
            yield Estimate("c_index", None, cases.n, why="no two cases can be compared")
            return
        value = float(won.sum()) / total
        yield Estimate("c_index", value, cases.n, _jackknifed(value, won, compared) if intervals else None)
    yield Estimate("support_events", float(events), events)


def concordance(cases: Survived) -> tuple[Floats, Floats]:
    """Return for each case in how many of its pairs the risks are in order, ties counting half, and how many it has.

    Harrell et al. 1982: a pair can be compared if the earlier time is an event, or of two equal times one of them. The
    c-index is the sum of the first over the sum of the second.
    """
    won, compared = np.zeros(cases.n), np.zeros(cases.n)
    for start in range(0, cases.n, ROWS):
        rows = slice(start, start + ROWS)
        at, event, risk = cases.times[rows, None], cases.events[rows, None], cases.risks[rows, None]
        first = event & ((at < cases.times) | ((at == cases.times) & ~cases.events))
        points = first * ((risk > cases.risks) + 0.5 * (risk == cases.risks))
        won[rows] += points.sum(axis=1)
        compared[rows] += first.sum(axis=1)
        won += points.sum(axis=0)
        compared += first.sum(axis=0)
    return won, compared


def concordance_index(cases: Survived) -> float:
    """Return Harrell's c-index; NaN where no two cases can be compared."""
    won, compared = concordance(cases)
    return float(won.sum() / compared.sum()) if compared.sum() else math.nan


def _jackknifed(value: float, won: Floats, compared: Floats) -> Interval | None:
    """The interval of a ratio of two U-statistics by the infinitesimal jackknife (Efron 1981), on the logit scale."""
    influence = 2 * (won - value * compared) / compared.sum()
    spread = Z * math.sqrt(float(np.square(influence).sum()))
    if spread == 0 or not 0 < value < 1:
        return None
    logit, wide = math.log(value / (1 - value)), spread / (value * (1 - value))
    return Interval(1 / (1 + math.exp(wide - logit)), 1 / (1 + math.exp(-wide - logit)), "infinitesimal jackknife")


# --- parts ------------------------------------------------------------------------------------------------------


def too_few(n: int) -> str:
    """Say that so many are too few."""
    return f"too few ({n})"


def rare(positives: int, negatives: int, of: str) -> str:
    """Say why cases of two kinds cannot be told apart here: one kind only, or too few of one. Empty if they can."""
    if not positives or not negatives:
        return f"none of {of}" if not positives else f"all of {of}"
    return too_few(min(positives, negatives)) if min(positives, negatives) < RANK_MIN else ""


def _unbalanced(cases: Classified, *, everyone: bool = False) -> str:
    """Say why classes cannot be weighed alike; with `everyone` each must be there."""
    counts = [n for n in cases.supports if n or everyone]
    if len(counts) < 2:
        return "one class only"
    if min(counts) == 0:
        return f"none of class {cases.supports.index(0)}"
    return too_few(min(counts)) if min(counts) < RANK_MIN else ""


def _mean_interval(values: Floats) -> Interval | None:
    n = len(values)
    if n > MEANS_RESAMPLED_MAX:
        mean, spread = float(values.mean()), Z * float(values.std(ddof=1)) / math.sqrt(n)
        return Interval(mean - spread, mean + spread, "normal")
    return percentiles(bootstrap(n, lambda chosen: float(values[chosen].mean())))


def _resampled(cases: Classified | Predicted, measure: Callable[..., float]) -> Interval | None:
    return percentiles(bootstrap(cases.n, lambda chosen: measure(cases.take(chosen))))
