"""Averages that a few liars cannot move far, to the same bytes everywhere.

Each of these ends as a mean with integer weights, so that `swarm.mixing.average` does the adding, and nothing else has
to be trusted with agreement:

- *median* and *trimmed mean* (Yin et al., "Byzantine-robust distributed learning", 2018) sort each element's n values
  and average the middle ones, weight 1 each;
- *Krum* and *multi-Krum* (Blanchard et al., "Machine learning with adversaries", 2017) sum, for each update, the
  squared distances to its n - f - 2 nearest, and average the updates with the least sums, one or n - f of them;
- the *geometric median* (Pillutla, Kakade & Harchaoui, "Robust aggregation for federated learning", 2022) is the point
  with the least sum of distances. By the smoothed Weiszfeld algorithm it is a weighted mean of the updates, with
  weights 1 / max(nu, distance), found by iteration;
- *nearest-neighbour mixing* (Allouah et al., "Fixing by mixing", 2023, algorithm 2) replaces each update by the mean of
  the n - f updates nearest to it, itself among them, before any of these.

All but the first two, which go element by element, need the matrix of inner products alone (`swarm.mixing.products`):
distances between updates, and between means of updates, follow from it. What is computed from that is n^2 numbers in
float64, each sum rounded once (`math.fsum`), so the weights are the same on every processor and in whichever order
updates are named; equals are put in that order.

Two defects of a well-known implementation are avoided: distances are squared once, and what is selected is averaged,
not added.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS, VALUE_LIMIT, WEIGHT_TOTAL_MAX, weighted_mean_into
from swarm.mixing.products import Gram, Read, gram
from swarm.mixing.rules import GEOMEDIAN, KRUM, MEDIAN, Rule
from swarm.vector import Vector

ROUNDS_MAX = 64
"""Weiszfeld steps. It ends earlier where weights move by less than they are rounded by, mostly after 10 to 20."""

SMOOTHING = 1e-6
"""Nu, in parts of the median distance from the update that the iteration starts from. Pillutla et al. use 1e-6; being
relative, it does not depend on how large a task's updates are."""

Near: TypeAlias = tuple[tuple[int, ...], ...]
"""By update, of which ones the mean takes its place: its own number alone without nearest-neighbour mixing."""


class RobustMean:
    """The mean of one round under a rule. Made from readers of its updates, in member order.

    Raises:
        UsageError: there are fewer updates than the rule needs, or a value is not finite.
    """

    def __init__(self, rule: Rule, readers: Sequence[Read], elements: int) -> None:
        n = len(readers)
        if n < rule.least:
            raise UsageError(f"couldn't average by {rule}: it takes {rule.least} updates, there are {n}")
        self._rule = rule
        self._near: Near = tuple((i,) for i in range(n))
        self._fixed: tuple[int, ...] | None = None
        self._kept = np.zeros(n, np.int64)
        if not rule.measures:
            return
        products = gram(readers, elements)
        if rule.near:
            self._near = nearest(products, n - rule.near)
            products = blended(products, self._near)
        if rule.elementwise:
            return
        own = geometric_median(products) if rule.name == GEOMEDIAN else _as_weights(selected(products, rule), n)
        self._fixed = spread(own, self._near)

    def into(self, out: Vector, base: Vector, updates: Sequence[Vector]) -> None:
        """Set out = base + mean for one stretch; each stretch of the model once. Shapes (count,).

        Raises:
            UsageError: what is left after the rule has cut is not finite or beyond `VALUE_LIMIT`: so many lie.
        """
        if self._fixed is not None:
            named = [(update, weight) for update, weight in zip(updates, self._fixed, strict=True) if weight]
            weighted_mean_into(out, base, [update for update, _ in named], [weight for _, weight in named])
            return
        for start in range(0, out.size, BLOCK_ELEMENTS):
            span = slice(start, min(start + BLOCK_ELEMENTS, out.size))
            self._middle(out[span], base[span], [update[span] for update in updates])

    @property
    def weights(self) -> tuple[int, ...]:
        """What each update weighs in the mean, at most 2^20 together; known once every stretch has been made.

        Of median and trimmed mean, its share of all places in the middle: in how many elements its value, or the mean
        that takes its place, lies within those that are averaged.
        """
        if self._fixed is not None:
            return self._fixed
        return spread([int(kept) for kept in self._kept], self._near)

    def _middle(self, out: Vector, base: Vector, parts: Sequence[Vector]) -> None:
        """One block of an order statistic."""
        rows = np.empty((len(parts), out.size), np.float32)
        if self._rule.near:
            # What is larger than any update may be is nobody's nearest but its own, and must not overflow there.
            held = [np.clip(part, -VALUE_LIMIT, VALUE_LIMIT) for part in parts]
            zeros = np.zeros(out.size, np.float32)
            for row, near in zip(rows, self._near, strict=True):
                weighted_mean_into(row, zeros, [held[j] for j in near], [1] * len(near))
        else:
            for row, part in zip(rows, parts, strict=True):
                row[:] = part
        # Of minus zero and zero, which are equal, the processor decides which a sort puts first; a mean has one zero.
        cut = (len(rows) - 1) // 2 if self._rule.name == MEDIAN else self._rule.liars
        ordered = np.sort(rows, axis=0)
        middle = ordered[cut : len(rows) - cut]
        low, high = middle[0], middle[-1]
        if not (bool((low >= -VALUE_LIMIT).all()) and bool((high <= VALUE_LIMIT).all())):
            raise UsageError(f"couldn't average by {self._rule}: more than it bears are not finite or too large")
        self._kept += ((rows >= low) & (rows <= high)).sum(axis=1)
        weighted_mean_into(out, base, [*middle], [1] * len(middle))


def distances(products: Gram) -> NDArray[np.float64]:
    """Return the squared distances of all pairs, shape (n, n): |a|^2 + |b|^2 - 2 a b, and no less than 0."""
    n = len(products)
    return np.array(
        [
            [
                0.0 if i == j else max(0.0, math.fsum((products[i][i], products[j][j], -2 * products[i][j])))
                for j in range(n)
            ]
            for i in range(n)
        ]
    )


def nearest(products: Gram, count: int) -> Near:
    """Return, for each update, itself and those nearest to it, `count` in all, ascending."""
    table = distances(products).tolist()
    orders = (sorted(range(len(row)), key=lambda j: (j != i, row[j], j)) for i, row in enumerate(table))
    return tuple(tuple(sorted(order[:count])) for order in orders)


def blended(products: Gram, near: Near) -> Gram:
    """Return the inner products of the means that take the updates' places."""
    n = len(near)
    half = [[math.fsum(row[b] for b in members) for members in near] for row in products]
    upper = {
        (i, j): math.fsum(half[a][j] for a in near[i]) / (len(near[i]) * len(near[j]))
        for i in range(n)
        for j in range(i, n)
    }
    return tuple(tuple(upper[min(i, j), max(i, j)] for j in range(n)) for i in range(n))


def selected(products: Gram, rule: Rule) -> tuple[int, ...]:
    """Return which updates (multi-)Krum takes, ascending: those with the least scores, n - f or 1.

    An update's score is the sum of its squared distances to its n - f - 2 nearest others.
    """
    table, n = distances(products).tolist(), len(products)
    assert n >= rule.least, "the rule is checked before there is a round"
    others = ([d for j, d in enumerate(row) if j != i] for i, row in enumerate(table))
    scores = [math.fsum(sorted(row)[: n - rule.liars - 2]) for row in others]
    best = sorted(range(n), key=lambda i: (scores[i], i))
    return tuple(sorted(best[: 1 if rule.name == KRUM else n - rule.liars]))


def geometric_median(products: Gram) -> tuple[int, ...]:
    """Return integer weights, at most 2^20 together, with which the mean is the geometric median.

    It starts from the update whose distances to all others add up to least, which is among the honest ones while they
    are more than half, so that one who is very far away costs no digits.
    """
    n, table = len(products), distances(products).tolist()
    first = min(range(n), key=lambda i: (math.fsum(math.sqrt(d) for d in table[i]), i))
    away = sorted(math.sqrt(d) for d in table[first])
    floor = SMOOTHING * away[n // 2]
    if floor <= 0.0:  # More than half are one point, and that is the median.
        return _as_weights([i for i in range(n) if table[first][i] == 0.0], n)
    weights = [1.0 if i == first else 0.0 for i in range(n)]
    for _ in range(ROUNDS_MAX):
        to_mean = [math.fsum(p * w for p, w in zip(row, weights, strict=True)) for row in products]
        square = math.fsum(p * w for p, w in zip(to_mean, weights, strict=True))
        apart = (math.fsum((products[i][i], -2 * to_mean[i], square)) for i in range(n))
        inverse = [1.0 / max(floor, math.sqrt(max(0.0, d))) for d in apart]
        total = math.fsum(inverse)
        before, weights = weights, [one / total for one in inverse]
        if max(abs(a - b) for a, b in zip(before, weights, strict=True)) < 1.0 / WEIGHT_TOTAL_MAX:
            break
    return tuple(int(weight * (WEIGHT_TOTAL_MAX - n)) for weight in weights)


def spread(weights: Sequence[int], near: Near) -> tuple[int, ...]:
    """Return the weights of the updates themselves where those given are of the means that take their places.

    They are at most 2^20 together: scaled down where they would be more.
    """
    found = [0] * len(near)
    for weight, members in zip(weights, near, strict=True):
        for j in members:
            found[j] += weight
    total = sum(found)
    return tuple(found if total <= WEIGHT_TOTAL_MAX else (one * WEIGHT_TOTAL_MAX // total for one in found))


def _as_weights(chosen: Sequence[int], n: int) -> tuple[int, ...]:
    return tuple(1 if i in chosen else 0 for i in range(n))
