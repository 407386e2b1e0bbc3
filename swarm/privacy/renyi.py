"""What a run of noisy steps has given away, by Rényi divergences: the accountant of Mironov, Talwar and Zhang.

A step of the Poisson-subsampled Gaussian mechanism with rate q and noise multiplier s tells apart two data sets, of
which one has one record more, as well as an observer tells P = (1-q) N(0, s^2) + q N(1, s^2) from Q = N(0, s^2). Their
Rényi divergence of order a is log A(a) / (a - 1), with A(a) = E_Q[(P/Q)^a], and divergences of steps add up.

A(a) of whole a > 1 is a sum of a + 1 terms, of other a two series (Mironov, Talwar & Zhang, "Rényi differential privacy
of the sampled Gaussian mechanism", 2019, section 3.3), here in logarithms throughout. Epsilon follows by Canonne,
Kamath & Steinke, "The discrete Gaussian for differential privacy", 2020, proposition 12, at the order that gives the
smallest. It is an upper bound and not tight: `swarm.privacy.loss` says less for the same run, and this is what that is
checked against, because the two have nothing in common but the mechanism.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

ORDERS = (*(1 + tenth / 10 for tenth in range(1, 100)), *range(11, 65), 80, 96, 128, 192, 256, 512)
"""The orders that are tried; those of Abadi et al.'s successors, and some for budgets far below one."""

_TERMS_MAX = 1000
"""An order whose series has not ended by then is passed over: where it is slow, others give the smallest epsilon."""
_NEGLIGIBLE = -30.0
"""A term of a series so much smaller than the sum, in logarithms, ends it."""


def divergence(rate: float, noise: float, order: float) -> float:
    """Return the Rényi divergence of one step, in nats, infinite without noise.

    Args:
        rate: chance of each record to be in a step, 0 to 1.
        noise: standard deviation of the noise, in multiples of the clipping norm, >= 0.
        order: of the divergence, > 1.
    """
    if rate == 0.0:
        return 0.0
    if noise == 0.0:
        return math.inf
    if rate == 1.0:
        return order / (2 * noise * noise)
    log_a = _whole(rate, noise, int(order)) if float(order).is_integer() else _broken(rate, noise, order)
    return max(0.0, log_a) / (order - 1)


def composed(steps: Sequence[tuple[float, float, int]], order: float) -> float:
    """Return the divergence of all steps together, given as (rate, noise, how many)."""
    return sum(many * divergence(rate, noise, order) for rate, noise, many in steps if many)


def epsilon(steps: Sequence[tuple[float, float, int]], delta: float) -> tuple[float, float]:
    """Return the epsilon that holds at `delta`, and the order it comes from; (0, first order) of no steps at all."""
    best, at = math.inf, float(ORDERS[0])
    if not any(many and rate for rate, _, many in steps):
        return 0.0, at
    for order in ORDERS:
        spent = composed(steps, order)
        found = spent + math.log1p(-1 / order) - (math.log(delta) + math.log(order)) / (order - 1)
        if found < best:
            best, at = found, float(order)
    return max(0.0, best), at


def delta(steps: Sequence[tuple[float, float, int]], epsilon: float) -> float:
    """Return the delta that holds at `epsilon`, at most 1. The same proposition, solved for delta."""
    if not any(many and rate for rate, _, many in steps):
        return 0.0
    best = 0.0
    for order in ORDERS:
        spent = composed(steps, order)
        log_delta = (order - 1) * (spent - epsilon + math.log1p(-1 / order)) - math.log(order)
        best = min(best, log_delta)
    return math.exp(best)


def _whole(rate: float, noise: float, order: int) -> float:
    """Return log A of a whole order: the binomial sum of section 3.3."""
    logs = [
        _log_binomial(order, k)
        + (k * math.log(rate) if k else 0.0)
        + (order - k) * math.log1p(-rate)
        + (k * k - k) / (2 * noise * noise)
        for k in range(order + 1)
    ]
    return _log_sum(logs)


def _broken(rate: float, noise: float, order: float) -> float:
    """Return log A of an order that is not whole: two series, cut where both densities are equal.

    Their terms alternate in sign once k > order. What is added and what is taken off are summed apart.
    """
    cut = noise * noise * math.log(1 / rate - 1) + 0.5
    variance, root = 2 * noise * noise, math.sqrt(2) * noise
    plus: list[float] = []
    minus: list[float] = []
    log_binomial, positive, most = 0.0, True, -math.inf
    for k in range(_TERMS_MAX):
        if k:
            factor = (order - k + 1) / k
            positive ^= factor < 0
            log_binomial += math.log(abs(factor))
        other = order - k
        below = k * math.log(rate) + other * math.log1p(-rate) + (k * k - k) / variance
        above = other * math.log(rate) + k * math.log1p(-rate) + (other * other - other) / variance
        first = log_binomial + below + _log_half_erfc((k - cut) / root)
        second = log_binomial + above + _log_half_erfc((cut - other) / root)
        (plus if positive else minus).extend((first, second))
        most = max(most, first, second)
        if k > order and max(first, second) < most + _NEGLIGIBLE:
            break
    else:
        return math.inf
    added, taken = _log_sum(plus), _log_sum(minus) if minus else -math.inf
    return added + math.log1p(-math.exp(taken - added)) if taken < added else 0.0


def _log_binomial(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)


def _log_sum(logs: Sequence[float]) -> float:
    most = max(logs)
    return most + math.log(math.fsum(math.exp(one - most) for one in logs))


def _log_half_erfc(x: float) -> float:
    """Return log(erfc(x) / 2), by the asymptotic series where erfc itself is too small for a float (DLMF 7.12.1)."""
    if x < 20.0:
        return math.log(math.erfc(x) / 2)
    y = 1 / (2 * x * x)
    return -x * x - math.log(2 * x * math.sqrt(math.pi)) + math.log1p(-y + 3 * y**2 - 15 * y**3 + 105 * y**4)
