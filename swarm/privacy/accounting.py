"""The privacy account of one site: what steps of DP-SGD have cost, what more would, what noise a budget asks for.

DP-SGD (Abadi et al., "Deep learning with differential privacy", 2016, algorithm 1) takes each record into a step with
chance q, clips each record's gradient to norm C, adds normal noise of deviation s C to their sum, and steps. Everything
that is computed from the results of such steps, over all rounds, is (epsilon, delta)-differentially private with
respect to the records of the site, against whoever sees it: all other members together, relays, and readers of the
ledger for ever. **What that rests on**: each record is drawn by itself (Poisson sampling, not shuffled batches), which
records were drawn stays secret, and the noise cannot be predicted. q, s and the number of steps are settled before
training and not by what was seen in the data. Two data sets are neighbours if one has one record more; where the number
of records is public, as in a ledger, read it as: one record is replaced by a blank whose gradient is zero (Kairouz et
al. 2021). The account of steps with different q and s is that of all of them, in whichever order they came.

Numbers are from the composed distribution of the privacy loss (`swarm.privacy.loss`): tight, and too small by no more
than float64 rounds. The Rényi accountant (`swarm.privacy.renyi`) is there to check it and as a quick upper bound. The
Gaussian approximation of a central limit (GDP) is in neither: it says too little.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from swarm.errors import UsageError
from swarm.privacy import loss, renyi

NOISE_MAX = 1000.0
"""Most noise that is looked for: with it nothing is learned from as many records as a site could have."""

EPSILON_MAX = 1000.0
DELTA_MAX = 0.1
"""Beyond, the guarantee is none for one in ten."""

STEPS_MAX = 10**8

_TEXT = re.compile(r"(\d{1,4}(?:\.\d{1,3})?):1e-([1-9]|10)")

_PRECISION = 1e-3
"""How far above the least sufficient noise `noise_for` may end, relatively."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stretch:
    """Equal steps: each record is in one with chance `rate`, 0 to 1; `noise` is in multiples of the clipping norm."""

    rate: float
    noise: float
    steps: int

    def __post_init__(self) -> None:
        if not 0.0 <= self.rate <= 1.0:
            hint = "it is a chance: records expected in a batch, divided by the records there are"
            raise UsageError(f"couldn't account for steps with a sampling rate of {self.rate!r}", hint=hint)
        if not 0.0 <= self.noise < math.inf:
            raise UsageError(
                f"couldn't account for steps with a noise multiplier of {self.noise!r}", hint="it is 0 or more"
            )
        if not 0 <= self.steps <= STEPS_MAX:
            raise UsageError(f"couldn't account for {self.steps!r} steps", hint=f"it is 0 to {STEPS_MAX}")


@dataclass(frozen=True, slots=True)
class Budget:
    """What may be spent at most, over all rounds: (epsilon, delta)."""

    epsilon: float
    delta: float

    def __post_init__(self) -> None:
        if not 0.0 < self.epsilon <= EPSILON_MAX:
            raise UsageError(
                f"couldn't take {self.epsilon!r} for epsilon: it must be above 0, and at most {EPSILON_MAX:g}",
                hint="3 is usual; beyond 10 the guarantee says little by itself",
            )
        check_delta(self.delta)

    def __str__(self) -> str:
        return f"epsilon {self.epsilon:g} at delta {self.delta:g}"

    def stricter(self, other: Budget | None) -> Budget:
        """Return one that holds whenever both do: of each number the smaller."""
        if other is None:
            return self
        return Budget(min(self.epsilon, other.epsilon), min(self.delta, other.delta))


def check_delta(delta: float) -> None:
    """Raise `UsageError` unless delta is from `swarm.privacy.loss.DELTA_MIN` to `DELTA_MAX`."""
    if not loss.DELTA_MIN <= delta <= DELTA_MAX:
        raise UsageError(
            f"couldn't take {delta!r} for delta: it must be from {loss.DELTA_MIN:g} to {DELTA_MAX:g}",
            hint="it is a chance that the guarantee does not hold: take less than one in the number of records",
        )


def parse(text: str) -> Budget:
    """Return the budget that a charter names as "3:1e-5": epsilon, and delta as a power of ten. Raises `UsageError`."""
    found = _TEXT.fullmatch(text)
    if not found:
        raise UsageError(
            f"couldn't take {text[:20]!r} for a privacy budget",
            hint="write epsilon:delta with delta a power of ten, as 3:1e-5",
        )
    return Budget(float(found[1]), 10.0 ** -int(found[2]))


def decimals(delta: float) -> int:
    """Return the whole k of the smallest 10^-k that is no less than delta: how a ledger names it."""
    return math.floor(-math.log10(delta) + 1e-9)


def epsilon(stretches: Iterable[Stretch], delta: float) -> float:
    """Return the epsilon that all these steps together cost at `delta`; infinite where some have no noise."""
    check_delta(delta)
    return loss.epsilon_at(loss.delta_curve(_steps(stretches)), delta)


def delta(stretches: Iterable[Stretch], epsilon: float) -> float:
    """Return the delta that they cost at `epsilon` >= 0, at most 1."""
    return loss.delta_curve(_steps(stretches))(epsilon)


def epsilon_renyi(stretches: Iterable[Stretch], delta: float) -> float:
    """Return an epsilon that the Rényi accountant vouches for: larger than `epsilon`, by another way."""
    check_delta(delta)
    return renyi.epsilon(_steps(stretches), delta)[0]


def fits(stretches: Iterable[Stretch], budget: Budget) -> bool:
    """Whether all these steps together stay within a budget."""
    return delta(stretches, budget.epsilon) <= budget.delta


def noise_for(budget: Budget, rate: float, steps: int, spent: Iterable[Stretch] = ()) -> float:
    """Return the noise multiplier by which `steps` more steps stay within a budget, up to 0.1 % more than needed.

    Raises:
        UsageError: no noise up to `NOISE_MAX` is enough, as when the budget is spent already.
    """
    before = (*spent,)

    def enough(noise: float) -> bool:
        return fits((*before, Stretch(rate=rate, noise=noise, steps=steps)), budget)

    low, high = loss.NOISE_MIN, 1.0
    if enough(low):
        return low
    while not enough(high):
        low, high = high, 2 * high
        if high > NOISE_MAX:
            left = "what is left of it" if before else "it"
            raise UsageError(
                f"couldn't stay within {budget}: no noise is enough for {steps} more steps on {left}",
                hint="train fewer rounds or smaller batches, or agree on a larger epsilon before you begin",
            )
    while high > low * (1 + _PRECISION):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _steps(stretches: Iterable[Stretch]) -> Sequence[tuple[float, float, int]]:
    """Return stretches with equal ones counted together: a hundred alike rounds compose as fast as one."""
    counts: dict[tuple[float, float], int] = {}
    for one in stretches:
        counts[one.rate, one.noise] = counts.get((one.rate, one.noise), 0) + one.steps
    return [(rate, noise, steps) for (rate, noise), steps in counts.items()]
