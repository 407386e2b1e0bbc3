"""A lower bound on epsilon from one training: what guesses about canaries prove, and with how much confidence.

Steinke, Nasr & Jagielski 2023, "Privacy auditing with one (1) training run". Into the data go `m` canaries, each by a
fair coin of its own. Whoever sees what the training released guesses of `r` of them whether they were in, abstains on
the others, and is right `v` times. If the training is (epsilon, delta)-differentially private when one record is added
or removed, then (their theorem 5.2)

    P[right >= v] <= P[W >= v] + 2 m delta max_{i = 1..v} P[v > W >= v - i] / i,    W ~ Binomial(r, e^eps / (e^eps + 1))

So an epsilon at which this is below 0.05 is ruled out with 95 % confidence. Guesses may follow from the release in
any way, but `r` must not: who tries several numbers of guesses pays for each (`best`).

The bound is about the worst that was tried. It may prove that a promise is broken; it never proves that one is kept.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.errors import UsageError

CONFIDENCE = 0.95

EPSILON_MAX = 50.0
"""Beyond, no number of canaries that fits into a training tells anything apart."""

_HALVINGS = 40


@dataclass(frozen=True, slots=True)
class Guesses:
    """`right` of `made` guesses about `canaries` of them."""

    canaries: int
    made: int
    right: int

    def __post_init__(self) -> None:
        if not 0 <= self.right <= self.made <= self.canaries:
            raise UsageError(
                f"couldn't use {self.right} right guesses of {self.made} about {self.canaries} canaries",
                hint="there are at most as many guesses as canaries, and as many right ones as guesses",
            )


def p_value(guesses: Guesses, epsilon: float, delta: float) -> float:
    """Return how likely so many right guesses are at most, if training is (epsilon, delta)-differentially private."""
    m, r, v = guesses.canaries, guesses.made, guesses.right
    right = 1 / (1 + math.exp(-epsilon))
    masses = _binomial(r, right)
    beyond = math.fsum(masses[v:])
    steepest = between = 0.0
    for i in range(1, v + 1):
        between += masses[v - i]
        steepest = max(steepest, between / i)
    return min(1.0, beyond + 2 * m * delta * steepest)


def lower_bound(guesses: Guesses, delta: float, *, confidence: float = CONFIDENCE) -> float:
    """Return the epsilon that these guesses rule out, and all below it; 0 where they rule out nothing.

    Raises:
        UsageError: delta or the confidence is no chance.
    """
    if not 0.0 <= delta <= 1.0 or not 0.0 < confidence < 1.0:
        raise UsageError(f"couldn't bound epsilon at delta {delta!r} with confidence {confidence!r}")
    allowed = 1 - confidence
    if p_value(guesses, 0.0, delta) >= allowed:
        return 0.0
    low, high = 0.0, EPSILON_MAX
    if p_value(guesses, high, delta) < allowed:
        return high
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if p_value(guesses, middle, delta) < allowed else (low, middle)
    return low


def best(tries: Sequence[Guesses], delta: float, *, confidence: float = CONFIDENCE) -> tuple[float, Guesses]:
    """Return the largest lower bound of several numbers of guesses, and by which: each may be wrong less often.

    How many guesses there are in each was settled before anything was seen. All bounds hold together with the
    confidence asked for (Bonferroni).

    Raises:
        UsageError: there is none, or a number cannot be.
    """
    if not tries:
        raise UsageError("couldn't bound epsilon: nothing was guessed")
    each = 1 - (1 - confidence) / len(tries)
    bounds = [lower_bound(one, delta, confidence=each) for one in tries]
    place = max(range(len(tries)), key=lambda number: (bounds[number], -number))
    return bounds[place], tries[place]


def _binomial(n: int, share: float) -> list[float]:
    """Return the chances of 0 to n hits, each with a share above 0."""
    if share >= 1.0:
        return [0.0] * n + [1.0]
    hit, miss = math.log(share), math.log1p(-share)
    whole = math.lgamma(n + 1)
    return [
        math.exp(whole - math.lgamma(k + 1) - math.lgamma(n - k + 1) + k * hit + (n - k) * miss) for k in range(n + 1)
    ]
