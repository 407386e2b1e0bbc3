"""Whole numbers that are normally distributed, exactly: N_Z(0, s^2), with chance proportional to exp(-x^2 / (2 s^2)).

Noise that is added to integers must be integers, and noise that a proof speaks of must have the very distribution
that it speaks of: normal numbers rounded from floating point have not, and their low bits tell (Mironov 2012). This
is algorithm 3 of Canonne, Kamath & Steinke, "The discrete Gaussian for differential privacy", 2020: take a number
from a discrete Laplace distribution, keep it with the chance that makes up for the difference. Each chance is exp(-g)
of a fraction g, and whether it came true is found by comparing whole random numbers (algorithm 1); nothing is
rounded.

*Many at once, in 64 bits.* The paper takes any s^2, and the Laplace scale t = floor(s) + 1. Here s is a whole number
and t = s, which leaves the algorithm as it is and its numbers small: with |y| - s = n s + r, in absolute value and 0
<= r < s,

    exp(-(|y| - s)^2 / (2 s^2)) = exp(-1/2)^(n n) * exp(-r / s)^n * exp(-(r / s)^2 / 2)

a product of chances of which each is decided by numbers below k s, and k grows past 20 once in 10^18 times. So all of
it is element-wise integer arithmetic on arrays. Numbers are kept with chance sqrt(pi / 2) / sqrt(e) = 0.76.

How long it takes depends on what is drawn: whoever can time a site's processor to a microsecond learns a little of
its noise, as of everything else that it computes.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

Whole = NDArray[np.int64]
Yes = NDArray[np.bool_]

DEVIATION_MAX = 1 << 40
"""Largest s: comparisons are of numbers below k s, where k is how often a chance came true in a row."""

ACCEPTED = 0.7601734505331403
"""sqrt(pi / 2) exp(-1/2): what part of the Laplace numbers is kept, for s of ten and more."""

_BATCH = 1 << 16
"""Numbers at a time: scratch stays in the second-level cache."""

_CANDIDATES = 2.2
"""To begin with for each number that is wanted: 1 - 1/e of them are Laplace numbers, of which 0.76 are kept."""


class DiscreteGaussian:
    """A source of such numbers.

    Args:
        deviation: s, 1 to `DEVIATION_MAX`.
        draw: so many random bytes, each time others, that nobody can predict.
    """

    def __init__(self, deviation: int, draw: Callable[[int], bytes]) -> None:
        assert 1 <= deviation <= DEVIATION_MAX, "a deviation in range"
        self._s, self._draw = deviation, draw
        self.tried = self.kept = 0
        """Laplace numbers that there were, and how many of them have been kept."""

    def take(self, count: int) -> Whole:
        """Return the next numbers, shape (count,)."""
        found = np.empty(count, np.int64)
        have = 0
        while have < count:
            some = self._some(min(_BATCH, int((count - have) * _CANDIDATES) + 16))[: count - have]
            found[have : have + some.size] = some
            have += some.size
        return found

    def _some(self, candidates: int) -> Whole:
        laplace = self._laplace(candidates)
        apart = np.abs(np.abs(laplace) - self._s)
        times, rest = apart // self._s, apart % self._s
        kept = laplace[self._small(rest) & self._large(times, rest)]
        self.tried += laplace.size
        self.kept += kept.size
        return kept

    def _laplace(self, candidates: int) -> Whole:
        """Algorithm 2 with scale s: chance proportional to exp(-|y| / s). Returns fewer than the candidates."""
        low = self._below(self._s, candidates)
        low = low[self._exp(low)]
        size = low + self._s * self._geometric(low.size)
        minus = self._below(2, low.size) == 1
        once = ~(minus & (size == 0))  # 0 and -0 are one number.
        found: Whole = np.where(minus, -size, size)[once]
        return found

    def _geometric(self, count: int) -> Whole:
        """Return how often in a row exp(-1) came true."""
        found = np.zeros(count, np.int64)
        alive = np.arange(count)
        while alive.size:
            alive = alive[self._exp_one(alive.size)]
            found[alive] += 1
        return found

    def _large(self, times: Whole, rest: Whole) -> Yes:
        """exp(-1/2)^(n n) * exp(-r / s)^n; n is 0 for all numbers up to 2 s either way."""
        kept = np.ones(times.size, np.bool_)
        for number in range(int(times.max(initial=0))):
            # From n to n + 1 there are 2 n + 1 more of the first and one more of the second.
            alive = np.flatnonzero(kept & (times > number))
            for _ in range(2 * number + 1):
                alive = alive[self._exp_half(alive.size)]
            alive = alive[self._exp(rest[alive])]
            kept &= times <= number
            kept[alive] = True
        return kept

    # --- chances of exp(-g), 0 <= g <= 1: algorithm 1 ---------------------------------------------------------------
    # Chances of g / 1, g / 2, g / 3 ... come true in a row; it is whether the number of the first that does not is odd.

    def _exp(self, part: Whole) -> Yes:
        """exp(-p / s), 0 <= p <= s, shape (elements,)."""
        return self._odd(part.size, lambda alive, k: self._below(k * self._s, alive.size) < part[alive])

    def _small(self, part: Whole) -> Yes:
        """exp(-(p / s)^2 / 2): the chance g / k is that of three that come true together, p / s twice and 1 / 2k."""

        def chance(alive: Whole, k: int) -> Yes:
            both: Yes = self._below(self._s, alive.size) < part[alive]
            both &= self._below(self._s, alive.size) < part[alive]
            both &= self._below(2 * k, alive.size) == 0
            return both

        return self._odd(part.size, chance)

    def _exp_one(self, count: int) -> Yes:
        return self._odd(count, lambda alive, k: self._below(k, alive.size) == 0)

    def _exp_half(self, count: int) -> Yes:
        return self._odd(count, lambda alive, k: self._below(2 * k, alive.size) == 0)

    def _odd(self, count: int, chance: Callable[[Whole, int], Yes]) -> Yes:
        found = np.zeros(count, np.bool_)
        alive, k = np.arange(count), 1
        while alive.size:
            true = chance(alive, k)
            found[alive[~true]] = k % 2 == 1
            alive, k = alive[true], k + 1
        return found

    def _below(self, bound: int, count: int) -> Whole:
        """Return uniform numbers 0 to bound - 1; words past the last whole multiple of the bound are drawn again."""
        assert bound < 1 << 63, "a chance came true more often in a row than it ever will"
        if bound == 1:
            return np.zeros(count, np.int64)
        words = np.frombuffer(self._draw(8 * count), "<u8")
        spare = (1 << 64) % bound
        if spare:
            last = np.uint64((1 << 64) - spare - 1)
            while (over := np.flatnonzero(words > last)).size:
                words = words.copy()
                words[over] = np.frombuffer(self._draw(8 * over.size), "<u8")
        return (words % np.uint64(bound)).astype(np.int64)
