"""The privacy account of a swarm whose sums carry noise: what a sum costs, and how many of them a budget pays.

The unit is *one site's whole contribution to a round*: its update is in the sum, or zeros stand in its place. Whoever
learns a sum of weighted updates learns it with noise on it, whole numbers of deviation z times the most that one site
can change the sum (Kairouz, Liu & Steinke, "The distributed discrete Gaussian mechanism for federated learning with
secure aggregation", 2021). `swarm.masking.noise` says who adds how much of it; z, the *multiplier*, stands in the
charter.

**What a sum costs.** Noise that is discrete Gaussian costs rho = 1 / (2 z^2) of zero-concentrated privacy (Canonne,
Kamath & Steinke 2020, theorem 4), and sums of it hardly more: by Kairouz, Liu & Steinke 2021, proposition 14, the
divergence of order a is at most a / (2 z^2) + tau d for n shares of deviation s in d dimensions, where

    tau = 10 * (exp(-2 pi^2 s^2 / 2) + ... + exp(-2 pi^2 s^2 (n-1) / n)) < 10 n exp(-pi^2 s^2)

Shares have a deviation of `SHARE_MIN` steps at least, so that tau d < 10 * 2^10 * 2^33 * exp(-2526) < 2^-3000. It is
counted as 2^-60. So rho of each sum is the same, whatever the model, the sites and their weights.

**What sums cost together.** Every site takes part in every round and everybody knows it, so nothing is amplified by
sampling, and rhos add up. Epsilon at a delta is by Canonne, Kamath & Steinke 2020, proposition 12: any order a gives

    epsilon(a) = a rho + log(1 - 1/a) - (log delta + log a) / (a - 1)

and the least of those of a fixed list of orders counts: a bound, at most a thousandth above the best that any order
has.

**What members must agree on** is when to stop, and that follows from a count: how many sums a budget pays. It comes
from decimal arithmetic whose logarithms are rounded correctly, to `DIGITS` digits, by a specification (IBM's General
Decimal Arithmetic); so it is the same on every processor, which logarithms in floating point are not.
"""

from __future__ import annotations

import decimal
import re
from contextlib import AbstractContextManager
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from functools import cache, cached_property
from math import ceil, floor, isqrt, log10

from swarm.errors import UsageError
from swarm.privacy import accounting
from swarm.privacy.accounting import Budget

SHARE_MIN = 16
"""Least deviation of one site's noise, in steps of the ring: see tau, above."""

MULTIPLIER_MILLI_MAX = 10_000_000
"""Ten thousand: at that a sum of a thousand sites says nothing of any, nor of all."""

SUMS_MAX = 1_000_000
"""As many as a run may have rounds (`swarm.charter.ROUNDS_MAX`)."""

DIGITS = 40

_FORM = re.compile(r"((?:0|[1-9]\d{0,4})(?:\.\d{0,2}[1-9])?):(.+)")

_EXTRA = Fraction(1, 1 << 60)


@dataclass(frozen=True)
class SiteNoise:
    """What a charter says of noise on sums: z in thousandths, and what may be spent over the run."""

    multiplier_milli: int
    budget: Budget

    def __post_init__(self) -> None:
        if not 0 < self.multiplier_milli <= MULTIPLIER_MILLI_MAX:
            raise UsageError(
                f"couldn't take {self.multiplier:g} for a noise multiplier: it must be above 0, and at most"
                f" {MULTIPLIER_MILLI_MAX // 1000}",
                hint="let it follow from a budget: `swarm charter new --site-privacy 8:1e-5`",
            )

    @property
    def multiplier(self) -> float:
        """z: the noise on a sum, in multiples of the most that one site can change it."""
        return self.multiplier_milli / 1000

    @property
    def text(self) -> str:
        """The option as a charter has it."""
        return f"{Decimal(self.multiplier_milli).scaleb(-3).normalize():f}:{_budget_text(self.budget)}"

    @cached_property
    def rho(self) -> Fraction:
        """What one sum costs."""
        return Fraction(1_000_000, 2 * self.multiplier_milli**2) + _EXTRA

    @cached_property
    def sums(self) -> int:
        """How many sums the budget pays; of all that members agree on, this decides."""
        return min(SUMS_MAX, floor(rho_of(self.budget) / self.rho))

    def epsilon(self, sums: int) -> float:
        """Return what so many sums have cost, at the budget's delta; rounded up to a thousandth, for people."""
        if sums == 0:
            return 0.0
        with _arithmetic():
            rho = _decimal(self.rho * sums)
            found = min(order * rho + left for order, left in _orders(power_of(self.budget.delta)))
            return float(max(found, Decimal(0)).quantize(Decimal("0.001"), rounding=decimal.ROUND_CEILING))


def parse(text: str) -> SiteNoise:
    """Read a charter's option: the multiplier, then the budget: "7.25:3:1e-5". Raises `UsageError`."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"couldn't read site_noise = {text[:40]!r}",
            hint="write multiplier, epsilon and delta, as 7.25:3:1e-5; `swarm charter new --site-privacy` works it out",
        )
    return SiteNoise(int(Decimal(found[1]) * 1000), accounting.parse(found[2]))


def planned(budget: Budget, sums: int) -> SiteNoise:
    """Return the least noise with which a budget pays so many sums. Raises `UsageError` if none is enough."""
    if not 1 <= sums <= SUMS_MAX:
        raise UsageError(f"couldn't plan noise for {sums} rounds", hint=f"plan for 1 to {SUMS_MAX}")
    each = rho_of(budget) / sums - _EXTRA
    milli = 0 if each <= 0 else isqrt(ceil(500_000 / each))
    while 0 < milli <= MULTIPLIER_MILLI_MAX and SiteNoise(milli, budget).sums < sums:
        milli += 1
    if not 0 < milli <= MULTIPLIER_MILLI_MAX:
        raise UsageError(
            f"couldn't stay within {budget}: no noise is enough for {sums} rounds",
            hint="train fewer rounds, or agree on a larger epsilon",
        )
    return SiteNoise(milli, budget)


def rho_of(budget: Budget) -> Fraction:
    """Return the most of zero-concentrated privacy that may be spent within a budget; 0 if none may."""
    with _arithmetic():
        epsilon = Decimal(repr(budget.epsilon))
        # The same orders as for epsilon, so that the two say the same; rounded down, by far more than it was up.
        best = max((epsilon - left) / order for order, left in _orders(power_of(budget.delta)))
        return max(
            Fraction(0), Fraction(*best.quantize(Decimal("1e-30"), rounding=decimal.ROUND_FLOOR).as_integer_ratio())
        )


@cache
def _orders(power: int) -> tuple[tuple[Decimal, Decimal], ...]:
    """Return orders a, and what epsilon(a) has besides a rho at delta = 10^-power.

    a - 1 is from 2^-4 to 2^24, 16 to each doubling.
    """
    found = []
    with _arithmetic():
        log_delta = -power * Decimal(10).ln()
        for doubling in range(-4, 24):
            for part in range(16):
                less = Decimal(2) ** doubling * (16 + part) / 16
                order = less + 1
                found.append((order, (less / order).ln() - (log_delta + order.ln()) / less))
    return tuple(found)


def _arithmetic() -> AbstractContextManager[decimal.Context]:
    return decimal.localcontext(decimal.Context(prec=DIGITS, rounding=decimal.ROUND_HALF_EVEN))


def power_of(delta: float) -> int:
    """Return the least k with 10^-k no larger than delta: a whole number, which is the same everywhere.

    Charters name delta so; of any other, in a plan, it is the stricter one.
    """
    return ceil(-log10(delta) - 1e-9)


def _decimal(value: Fraction) -> Decimal:
    return Decimal(value.numerator) / Decimal(value.denominator)


def _budget_text(budget: Budget) -> str:
    epsilon = Decimal(repr(budget.epsilon)).normalize()
    return f"{epsilon:f}:1e-{power_of(budget.delta)}"
