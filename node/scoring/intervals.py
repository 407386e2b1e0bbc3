"""95 % intervals and exact tests, from formulas in print, in plain numpy.

Each is chosen for how it behaves with few cases and at the ends of the scale, where hospitals are: a site with 16
patients, all classified rightly, has not shown an accuracy of 1 without doubt. So proportions have Wilson's interval,
never Wald's, and an area under the curve of 1 has Newcombe's, as DeLong's variance is 0 there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from node.scoring.cases import Floats, Integers

LEVEL = 0.95
Z = 1.959963984540054
"""The 97.5 % quantile of the standard normal distribution."""

BISECTIONS = 60
"""Halvings of [0, 1] until the bounds of a float64 are reached."""


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`; `method` is how it was made."""

    low: float
    high: float
    method: str


def wilson(hits: float, n: int) -> Interval:
    """Return Wilson's score interval of a proportion, `hits` of `n` (Wilson 1927; Brown, Cai & DasGupta 2001)."""
    share, part = hits / n, Z * Z / n
    centre = (share + part / 2) / (1 + part)
    half = Z * math.sqrt(share * (1 - share) / n + part / (4 * n)) / (1 + part)
    return Interval(max(0.0, centre - half), min(1.0, centre + half), "Wilson")


def mean_of_proportions(parts: Sequence[tuple[float, int]]) -> Interval:
    """Return the interval of the plain mean of independent proportions, each (hits, n).

    Limits are recovered from those of the parts (MOVER: Zou & Donner 2008, "Construction of confidence limits about
    effect measures", eq. 4), so that it is honest where every part is 1.
    """
    mean = sum(hits / n for hits, n in parts) / len(parts)
    below = above = 0.0
    for hits, n in parts:
        own = wilson(hits, n)
        below += (hits / n - own.low) ** 2
        above += (own.high - hits / n) ** 2
    low, high = mean - math.sqrt(below) / len(parts), mean + math.sqrt(above) / len(parts)
    return Interval(max(0.0, low), min(1.0, high), "MOVER of Wilson's")


# --- the area under the curve -----------------------------------------------------------------------------------


def placements(positive: Floats, negative: Floats) -> tuple[Floats, Floats]:
    """Return, for each positive case, the share of negatives below it, and for each negative that of positives above.

    A tie counts half. From midranks, in n log n (Sun & Xu 2014, "Fast implementation of DeLong's algorithm").
    """
    low, high = np.sort(negative), np.sort(positive)
    under = (np.searchsorted(low, positive, "left") + np.searchsorted(low, positive, "right")) / (2 * len(low))
    over = (np.searchsorted(high, negative, "left") + np.searchsorted(high, negative, "right")) / (2 * len(high))
    return under.astype(np.float64), (1.0 - over).astype(np.float64)


def area(positive: Floats, negative: Floats) -> float:
    """Return the area under the ROC curve: the Mann-Whitney statistic as a share, ties counting half."""
    return float(placements(positive, negative)[0].mean())


def delong(positive: Floats, negative: Floats) -> tuple[float, Interval]:
    """Return the area under the curve and its interval.

    The variance is DeLong, DeLong & Clarke-Pearson's (1988, eq. 5), the interval on the logit scale, which keeps it
    within 0 and 1 and covers better near them. Where the variance is 0 it is Newcombe's.
    """
    above, below = placements(positive, negative)
    value = float(above.mean())
    variance = _variance(above) / len(above) + _variance(below) / len(below)
    if variance <= 1e-15 or not 0.0 < value < 1.0:
        return value, newcombe(value, len(above), len(below))
    logit, spread = math.log(value / (1 - value)), Z * math.sqrt(variance) / (value * (1 - value))
    return value, Interval(_expit(logit - spread), _expit(logit + spread), "DeLong")


def newcombe(value: float, positives: int, negatives: int) -> Interval:
    """Return the interval of an area under the curve from the value and the two counts alone.

    Newcombe 2006, "Confidence intervals for an effect size measure based on the Mann-Whitney statistic", part 2, method
    5: Hanley & McNeil's variance (1982) at the limits themselves and not at the estimate, and so never of width 0.
    """
    many = (positives + negatives) / 2 - 1

    def variance(at: float) -> float:
        spread = 1 + many * (1 - at) / (2 - at) + many * at / (1 + at)
        return at * (1 - at) / (positives * negatives) * spread

    def apart(at: float) -> bool:
        return (value - at) ** 2 > Z * Z * variance(at)

    low = _bisected(0.0, value, lambda at: not apart(at)) if value > 0 else 0.0
    high = _bisected(value, 1.0, apart) if value < 1 else 1.0
    return Interval(low, high, "Newcombe")


def paired_areas(first: tuple[Floats, Floats], second: tuple[Floats, Floats]) -> tuple[float, float]:
    """Return the difference of two areas on the same cases, and its variance (DeLong et al. 1988, eq. 6 and 7).

    Each is (scores of the positive cases, scores of the negative ones), in the same order.
    """
    (above, below), (other_above, other_below) = placements(*first), placements(*second)
    difference = float(above.mean() - other_above.mean())
    variance = _variance(above - other_above) / len(above) + _variance(below - other_below) / len(below)
    return difference, variance


# --- exact tests ------------------------------------------------------------------------------------------------


def binomial_below(k: int, n: int, share: float) -> float:
    """Return the probability of at most `k` hits in `n` tries, each with this share, by logarithms of factorials."""
    if k < 0:
        return 0.0
    if k >= n or share <= 0.0:
        return 1.0
    if share >= 1.0:
        return 0.0
    hit, miss = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(n + 1) - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * hit + (n - i) * miss
        for i in range(k + 1)
    )
    return min(1.0, math.fsum(math.exp(term) for term in terms))


def mcnemar(gained: int, lost: int) -> float:
    """Return the two-sided p of the exact McNemar test: twice the smaller tail of a fair coin (McNemar 1947)."""
    tosses = gained + lost
    if tosses <= _EXACT_MAX:
        return min(1.0, 2 * (sum(math.comb(tosses, i) for i in range(min(gained, lost) + 1)) / (1 << tosses)))
    return min(1.0, 2 * binomial_below(min(gained, lost), tosses, 0.5))


_EXACT_MAX = 1_000
"""Tosses that are counted in whole numbers; an integer of more digits does not become a float."""


def clopper_pearson(hits: int, n: int) -> Interval:
    """Return the exact interval of a proportion (Clopper & Pearson 1934). It excludes 0.5 just where McNemar's p < .05.

    So a verdict and the interval told beside it never contradict each other.
    """
    tail = (1 - LEVEL) / 2
    low = 0.0 if hits == 0 else _bisected(0.0, 1.0, lambda at: 1 - binomial_below(hits - 1, n, at) > tail)
    high = 1.0 if hits == n else _bisected(0.0, 1.0, lambda at: binomial_below(hits, n, at) < tail)
    return Interval(low, high, "Clopper-Pearson")


def paired_difference(both: int, gained: int, lost: int, neither: int) -> Interval:
    """Return the interval of the difference of two paired proportions, (gained - lost) / n.

    Newcombe 1998, "Improved confidence intervals for the difference between binomial proportions based on paired data",
    method 10: Wilson's limits of both, combined by how far they go together.
    """
    n = both + gained + lost + neither
    first, second = both + gained, both + lost
    one, two = wilson(first, n), wilson(second, n)
    agreeing, product = both * neither - gained * lost, first * (n - first) * second * (n - second)
    corrected = max(0.0, agreeing - n / 2) if agreeing > 0 else float(agreeing)
    together = corrected / math.sqrt(product) if product else 0.0
    share, other = first / n, second / n

    def apart(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * together * x * y + y * y))

    low = share - other - apart(share - one.low, two.high - other)
    high = share - other + apart(one.high - share, other - two.low)
    return Interval(max(-1.0, low), min(1.0, high), "Newcombe, paired")


def normal_p(distance: float) -> float:
    """Return the two-sided p of a standard normal value."""
    return math.erfc(abs(distance) / math.sqrt(2))


# --- resampling -------------------------------------------------------------------------------------------------

SEED = 20_240_607
"""Of every bootstrap: the same cases give the same interval whoever asks, and whenever."""

RESAMPLES = 1_000
DRAWS_MAX = 2_000_000
"""Indices drawn at once: 16 MB."""

DRAWN_MAX = 500_000_000
"""Indices drawn in all, a few seconds: of more than half a million cases there are fewer resamples."""

RESAMPLES_MIN = 100
"""Resamples below which their percentiles are no interval: from five million cases on, for which formulas are left."""


def bootstrap(n: int, measure: Callable[[Integers], float], *, resamples: int = RESAMPLES) -> Floats:
    """Return a measure of so many resamples of `n` cases, drawn with replacement; `measure` takes indices, shape (n,).

    Resamples on which it is not defined (NaN) are left out.
    """
    draw = np.random.Generator(np.random.PCG64(SEED))
    resamples = min(resamples, DRAWN_MAX // n)
    found: list[float] = []
    at_once = max(1, DRAWS_MAX // n)
    for start in range(0, resamples, at_once):
        found += map(measure, draw.integers(0, n, size=(min(at_once, resamples - start), n)))
    values = np.array(found, dtype=np.float64)
    return values[np.isfinite(values)]


def percentiles(values: Floats) -> Interval | None:
    """Return the middle 95 % of resampled values; None where they are all the same, which says nothing, or too few."""
    if len(values) < RESAMPLES_MIN or values.min() == values.max():
        return None
    low, high = np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return Interval(float(low), float(high), f"bootstrap, seed {SEED}")


def _variance(values: Floats) -> float:
    return float(values.var(ddof=1)) if len(values) > 1 else 0.0


def _expit(value: float) -> float:
    return 1 / (1 + math.exp(-value)) if value >= 0 else math.exp(value) / (1 + math.exp(value))


def _bisected(low: float, high: float, beyond: Callable[[float], bool]) -> float:
    """Return where `beyond` turns true between two numbers."""
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        if beyond(middle):
            high = middle
        else:
            low = middle
    return (low + high) / 2
