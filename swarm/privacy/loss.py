"""What a run of noisy steps has given away, tightly: the distribution of its privacy loss, composed by FFT.

The privacy loss of an output o is L = log(P(o) / Q(o)); for epsilon at a delta nothing else matters:

    delta(epsilon) = P(L = inf) + E_P[(1 - e^(epsilon - L))+]

and losses of independent steps add up, so that their distributions convolve (Sommer, Meiser & Mohammadi 2019; Koskela,
Jälkö & Honkela 2020). Of the Poisson-subsampled Gaussian mechanism with rate q and noise s

    P = (1-q) N(0, s^2) + q N(1, s^2),   Q = N(0, s^2)

is the worst pair when a record is taken away, (Q, P) when one is added, for one step and for any number of them (Zhu,
Dong & Wang 2022, theorem 11), so each is composed by itself and the larger delta counts.

**Never too little.** L is put on a grid of spacing h. What lies between two points is divided among both so that its
mass under P and under Q stays what it is ("connect the dots", Doroshenko, Ghazi, Kamath, Kumar & Manurangsi 2022,
theorem 3.3): of all distributions on that grid that say no less than the truth this one says least. Mass beyond the
grid becomes an infinite loss above, and the lowest loss below. The FFT is circular; what a window can miss is bounded
by Chernoff's inequality for the very masses that are convolved, and added to delta. Each step then adds at most h^2 / 4
to the variance of the sum, and h is chosen so that this is 1/1600 of what is there: epsilon comes out less than a
thousandth too large. What is left on the side that would be too small is rounding in float64, about 1e-13 of delta,
hence `DELTA_MIN`.

Each site computes this for itself, before it trains and for its people to read: peers need not agree on its bytes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Doubles = NDArray[np.float64]
Steps = Sequence[tuple[float, float, int]]
"""Stretches of equal steps: rate, noise multiplier, how many."""

DELTA_MIN = 1e-10
"""Rounding in the transforms would show below."""

NOISE_MIN = 0.1
"""Less noise than this counts as none: one step of it is worth an epsilon of 50 and more."""

TAIL = 1e-15
"""Mass of one step beyond its grid, on either side, and of the sum beyond its window; it counts as given away."""

SPACING = 0.05
"""Distance of grid points, in standard deviations of one step's loss."""

POINTS_MAX = 1 << 20
"""Longest transform: 16 MiB. Rather than a longer one a coarser grid is taken; it says more, and is a bound still."""

_NARROW = 0.25
_GAUSS = np.polynomial.legendre.leggauss(7)
"""So many points are exact to the last digit of a float64 on an interval of a quarter of a standard deviation."""

_TILTS = (*(2.0 ** (power / 2) for power in range(-12, 26)),)
"""Exponents that Chernoff's inequality is tried with."""


@dataclass(frozen=True, slots=True)
class Step:
    """Losses of one step on the grid: `masses[i]` is that of (first + i) h; `infinite` that of no bound at all."""

    first: int
    masses: Doubles
    infinite: float


def delta_curve(steps: Steps) -> Callable[[float], float]:
    """Return delta as a function of epsilon, for all steps together.

    Steps with less noise than `NOISE_MIN` give everything away: delta is 1. No steps give nothing.
    """
    live = [(rate, noise, many) for rate, noise, many in steps if many and rate]
    if not live:
        return lambda _: 0.0
    if any(noise < NOISE_MIN for _, noise, _ in live):
        return lambda _: 1.0
    spacing = _spacing(live)
    while True:
        both = [_compose(live, spacing, taken=taken) for taken in (True, False)]
        if None not in both:
            break
        spacing *= 2
    curves = [_Curve(*one) for one in both if one is not None]
    return lambda epsilon: min(1.0, max(curve.delta(epsilon) for curve in curves))


def epsilon_at(curve: Callable[[float], float], delta: float) -> float:
    """Return the smallest epsilon >= 0 at which the curve is at most `delta`, to 1e-9 and never below; may be inf."""
    low, high = 0.0, 1.0
    if curve(low) <= delta:
        return low
    while curve(high) > delta:
        low, high = high, 2 * high
        if high > 1e6:
            return math.inf
    while high - low > 1e-9 * max(1.0, high):
        middle = (low + high) / 2
        low, high = (middle, high) if curve(middle) > delta else (low, middle)
    return high


class _Curve:
    """Delta of a discrete loss: sums from the far end, so that each question is one look-up."""

    def __init__(self, losses: Doubles, masses: Doubles, beyond: float) -> None:
        self._losses, self._beyond = losses, beyond
        # Masses scaled by e^-(loss - top), so that none of them overflows: the second sum is E_P[e^-L; L > epsilon].
        self._top = float(losses[-1])
        self._above = np.append(np.cumsum(masses[::-1])[::-1], 0.0)
        self._scaled = np.append(np.cumsum((masses * np.exp(np.minimum(self._top - losses, 700.0)))[::-1])[::-1], 0.0)

    def delta(self, epsilon: float) -> float:
        at = int(np.searchsorted(self._losses, epsilon, side="right"))
        if at == self._losses.size:
            return self._beyond
        # What has been scaled by more than e^700 lies far below any epsilon >= 0 that is asked for, if the window is
        # not wider than that; if it is, leaving it out only makes delta larger.
        below = float(self._scaled[at]) * math.exp(epsilon - self._top)
        return max(0.0, float(self._above[at]) - below) + self._beyond


def _spacing(steps: Steps) -> float:
    """Return h: of each step it adds h^2 / 4 to the variance at most."""
    total = sum(many for _, _, many in steps)
    variance = sum(many * _variance(rate, noise) for rate, noise, many in steps)
    return max(SPACING * math.sqrt(variance / total), 1e-9)


def _variance(rate: float, noise: float) -> float:
    """Return E_P[L^2], which is close to the variance of one step's loss, by the trapezoid rule."""
    reach = 12.0
    at = np.linspace(-reach * noise, 1 + reach * noise, 4001)
    density = (1 - rate) * np.exp(-((at / noise) ** 2) / 2) + rate * np.exp(-(((at - 1) / noise) ** 2) / 2)
    loss = _loss(at, rate, noise)
    return float(np.sum(density * loss * loss) / np.sum(density))


def _loss(at: Doubles, rate: float, noise: float) -> Doubles:
    """Return log(P / Q) at outputs, without overflow."""
    exponent = (2 * at - 1) / (2 * noise * noise)
    if rate == 1.0:
        return exponent
    found: Doubles = np.logaddexp(math.log1p(-rate), math.log(rate) + exponent)
    return found


def _output(loss: Doubles, rate: float, noise: float) -> Doubles:
    """Return where the loss log(P / Q) is this: the inverse of `_loss`; -inf where it is never so small."""
    if rate == 1.0:
        return noise * noise * loss + 0.5
    with np.errstate(invalid="ignore", divide="ignore"):
        # log((e^loss - (1 - rate)) / rate), in two forms: neither overflows, neither cancels where it is used.
        small = np.log1p(np.expm1(np.minimum(loss, 1.0)) / rate)
        large = loss + np.log1p(-(1 - rate) * np.exp(-np.maximum(loss, 1.0))) - math.log(rate)
    exponent = np.where(loss < 1.0, small, large)
    exponent[loss <= math.log1p(-rate)] = -np.inf
    return noise * noise * exponent + 0.5


def _between(bounds: Doubles) -> Doubles:
    """Return the standard normal's mass between consecutive bounds, to some 1e-15 of itself in both tails.

    By Gauss's rule where they are close, for there a difference of two tails would cancel; else by such a difference.
    """
    left, right = bounds[:-1], bounds[1:]
    masses = np.empty(left.size)
    with np.errstate(invalid="ignore"):  # Between two infinities of one sign nothing is, and nothing is narrow.
        wide = ~(right - left <= _NARROW)
    middle, half = (left[~wide] + right[~wide]) / 2, (right[~wide] - left[~wide]) / 2
    density = sum(weight * np.exp(-((middle + half * node) ** 2) / 2) for node, weight in zip(*_GAUSS, strict=True))
    masses[~wide] = density * half / math.sqrt(2 * math.pi)
    masses[wide] = [_mass(a, b) for a, b in zip(left[wide].tolist(), right[wide].tolist(), strict=True)]
    return masses


def _mass(left: float, right: float) -> float:
    if left >= 0:
        return (math.erfc(left / math.sqrt(2)) - math.erfc(right / math.sqrt(2))) / 2
    return _mass(-right, -left) if right <= 0 else 1 - (math.erfc(-left / 2**0.5) + math.erfc(right / 2**0.5)) / 2


def one_step(rate: float, noise: float, spacing: float, *, taken: bool) -> Step:
    """Return the losses of one step on the grid, those of (P, Q) where a record is taken away, else of (Q, P)."""
    reach = noise * 8.0  # Beyond, a normal has 6e-16 on each side: less than `TAIL`.
    ends = _loss(np.array([-reach, 1 + reach]), rate, noise)
    first, last = math.floor(float(ends[0]) / spacing), math.ceil(float(ends[1]) / spacing)
    grid = np.arange(first, last + 1, dtype=np.float64) * spacing
    outputs = _output(grid, rate, noise)
    bounds = np.concatenate(([-np.inf], outputs, [np.inf]))
    of_q = _between(bounds / noise)
    of_p = (1 - rate) * of_q + rate * _between((bounds - 1) / noise) if rate < 1.0 else _between((bounds - 1) / noise)
    if not taken:
        of_p, of_q, grid = of_q[::-1], of_p[::-1], -grid[::-1]
        first = -last
    masses = np.zeros(grid.size)
    # Left and right end of each interval share its mass so that both distributions keep theirs.
    inner_p, inner_q = of_p[1:-1], of_q[1:-1]
    with np.errstate(over="ignore", invalid="ignore"):
        lower = (inner_q * np.exp(grid[1:]) - inner_p) / math.expm1(spacing)
    lower = np.clip(np.nan_to_num(lower, nan=0.0, posinf=0.0), 0.0, inner_p)
    masses[:-1] += lower
    masses[1:] += inner_p - lower
    masses[0] += of_p[0]
    return Step(first, masses, float(of_p[-1]))


def _compose(steps: Steps, spacing: float, *, taken: bool) -> tuple[Doubles, Doubles, float] | None:
    """Return losses, their masses and what lies beyond; None if that would take more points than there may be."""
    ones: list[tuple[Step, int]] = []
    for rate, noise, many in steps:
        reach = float(_loss(np.array([1 + 8.0 * noise]), rate, noise)[0])
        if reach / spacing > POINTS_MAX / 2:
            return None
        ones.append((one_step(rate, noise, spacing, taken=taken), many))
    low, high = _window(ones, spacing)
    first, last = math.floor(low / spacing), math.ceil(high / spacing)
    points = 1 << max(last - first, 1).bit_length()
    if points > POINTS_MAX:
        return None
    transform, shift, finite = np.ones(points // 2 + 1, dtype=np.complex128), 0, 0.0
    for step, many in ones:
        folded = np.zeros(points)
        np.add.at(folded, np.arange(step.masses.size) % points, step.masses)
        transform *= np.fft.rfft(folded) ** many
        shift += step.first * many
        finite += many * math.log1p(-min(step.infinite, 0.5))
    masses = np.fft.irfft(transform, points)
    # The mass of loss (shift + i) h is at i modulo the length: turn it so that the window's first loss comes first.
    masses = np.maximum(np.roll(masses, (shift - first) % points), 0.0)
    losses = np.arange(first, first + points, dtype=np.float64) * spacing
    return losses, masses, -math.expm1(finite) + TAIL


def _window(ones: Sequence[tuple[Step, int]], spacing: float) -> tuple[float, float]:
    """Return losses between which all but `TAIL` of the sum lies, on either side, by Chernoff's inequality."""
    least = sum(many * step.first for step, many in ones) * spacing
    most = sum(many * (step.first + step.masses.size - 1) for step, many in ones) * spacing
    low, high = -math.inf, math.inf
    there = []
    for step, many in ones:
        at = np.flatnonzero(step.masses)
        there.append(((step.first + at) * spacing, np.log(step.masses[at]), many))
    for tilt in _TILTS:
        above = sum(many * _log_sum(logs + losses * tilt) for losses, logs, many in there)
        below = sum(many * _log_sum(logs - losses * tilt) for losses, logs, many in there)
        high = min(high, (above - math.log(TAIL)) / tilt)
        low = max(low, -(below - math.log(TAIL)) / tilt)
    return max(least, low), max(min(most, high), spacing)


def _log_sum(logs: Doubles) -> float:
    most = float(logs.max())
    return most + math.log(float(np.sum(np.exp(logs - most))))
