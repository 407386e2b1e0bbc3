"""Shapley's value: what each site adds, on average over all orders in which the sites could have come.

It is the one way to divide v(everyone) - v(nobody) that leaves nothing over (efficiency), gives the same to players who
bring the same (symmetry), nothing to who never adds anything (null player), and the sum for the sum of two games
(additivity): Shapley 1953, "A value for n-person games". Exactly it takes 2^n values. What is done here, and written
anew from the paper, is *Guided Truncation Gradient Shapley* (Liu, Chen, Yu, Liu & Cui 2022, "GTG-Shapley",
algorithm 1), for one round at a time:

- models of coalitions are made from the updates that are there, nobody trains again (its section 4.1);
- *between rounds*: a round that moved the model's value by `between` at most is worth nothing to anybody;
- *guided sampling*: who comes first adds most, and an order that favours some there misleads. In the paper each player
  comes first as often as any other. Here, to the same end and with less variance, all n are asked for alone to begin
  with, so that what each adds in the first place is known and only the places after that are sampled;
- *within a round*: once a coalition comes within `within` of everyone's value, whoever comes later adds nothing;
- it has *converged* when the means have moved by less than `settled` of themselves, averaged over players, since each
  of the last `window` orders, and no fewer than `orders_min` are there.

With a_i for the mean of what player i adds in sampled orders that it does not begin, which is unbiased for the places
2 to n, the estimate is phi_i = (v(i) - v(nobody)) / n + a_i (n - 1) / n.

Besides, a coalition is asked for once, and where all 2^n values have come together the answer is exact. Orders that
were cut short do not count. Standard errors are those of the mean of independent orders; they say nothing of the bias
that truncation adds, at most `within` a player.
"""

from __future__ import annotations

import math
import random
from collections.abc import Generator, Mapping

from swarm.contribution.game import Book, Coalition, Questions, Worth

EXACT_PLAYERS_MAX = 12
"""4,096 values: a reference for tests and studies, never for a node."""

ORDERS_MIN = 30
ORDERS_MAX = 1000
"""Bounds on what one round may take where values cost nothing."""

WINDOW = 10
SETTLED = 0.05
TRUNCATION = 0.001
"""Of the metric's unit: a tenth of a percentage point of accuracy."""

ORDERS_TOLD_MIN = 3
"""Of fewer there is no standard error for a player who begins one of them, and nothing is said."""


def exact(values: Mapping[Coalition, float], players: int) -> list[float]:
    """Return Shapley's values of a game of which every coalition's value is known.

    phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)).
    """
    assert len(values) == 1 << players, "every coalition's value is known"
    shares = [1.0 / (players * math.comb(players - 1, size)) for size in range(players)]
    found = []
    for player in range(players):
        bit = 1 << player
        without = (one for one in range(1 << players) if not one & bit)
        found.append(math.fsum(shares[one.bit_count()] * (values[one | bit] - values[one]) for one in without))
    return found


class ExactShapley:
    """A scorer that asks for everything. For `EXACT_PLAYERS_MAX` players at most."""

    def __init__(self, players: int) -> None:
        assert players <= EXACT_PLAYERS_MAX, "the number of values doubles with every player"
        self._book = Book(players)

    @property
    def evaluations(self) -> int:
        """Values told so far."""
        return len(self._book.values)

    def questions(self) -> Questions:
        """Ask for every coalition."""
        for coalition in range(1 << self._book.players):
            yield from self._book.value(coalition)

    def estimate(self) -> dict[int, Worth]:
        """Return the values once all is known."""
        if not self._book.full:
            return {}
        return {player: Worth(value, 0.0) for player, value in enumerate(exact(self._book.values, self._book.players))}


class GuidedShapley:
    """A scorer that samples orders, guided and truncated. See the module."""

    def __init__(
        self,
        players: int,
        rng: random.Random,
        *,
        between: float = TRUNCATION,
        within: float = TRUNCATION,
        settled: float = SETTLED,
        window: int = WINDOW,
        orders_min: int = ORDERS_MIN,
        orders_max: int = ORDERS_MAX,
    ) -> None:
        self._book = Book(players)
        self._rng = rng
        self._turns = [*range(players)]
        rng.shuffle(self._turns)
        self._between, self._within = between, within
        self._settled, self._window = settled, window
        self._orders_min, self._orders_max = max(orders_min, window + 1), orders_max
        self._idle = False  # the round moved nothing
        self._sums = [0.0] * players  # of what each adds in orders that it does not begin
        self._squares = [0.0] * players
        self._counts = [0] * players
        self._means: list[list[float]] = []  # the estimate after each order

    @property
    def evaluations(self) -> int:
        """Values told so far."""
        return len(self._book.values)

    @property
    def orders(self) -> int:
        """Orders that count so far."""
        return len(self._means)

    def questions(self) -> Questions:
        """Ask until it has converged, all is known, or the round turns out to be worth nothing."""
        book = self._book
        nobody = yield from book.value(0)
        everyone = yield from book.value(book.everyone)
        self._idle = abs(everyone - nobody) <= self._between
        if self._idle:
            return
        for player in range(book.players):
            yield from book.value(1 << player)
        while not book.full and self.orders < self._orders_max and not self._converged():
            yield from self._walk(everyone)

    def estimate(self) -> dict[int, Worth]:
        """Return what follows from the orders so far, or what is known exactly."""
        book = self._book
        if self._idle:
            return {player: Worth(0.0, 0.0) for player in range(book.players)}
        if book.full:
            return {player: Worth(value, 0.0) for player, value in enumerate(exact(book.values, book.players))}
        if self.orders < ORDERS_TOLD_MIN:
            return {}
        found = {}
        for player, value in enumerate(self._means[-1]):
            count = self._counts[player]
            mean = self._sums[player] / count
            variance = max(0.0, self._squares[player] - count * mean * mean) / (count - 1)
            found[player] = Worth(value, math.sqrt(variance / count) * (book.players - 1) / book.players)
        return found

    def _walk(self, everyone: float) -> Generator[Coalition, float, None]:
        """Note what each player adds in one order. They begin in turns drawn by lot, so that no few do each time."""
        book = self._book
        first = self._turns[self.orders % book.players]
        rest = [player for player in range(book.players) if player != first]
        self._rng.shuffle(rest)
        coalition, before = 1 << first, book.values[1 << first]
        adds: list[tuple[int, float]] = []
        for player in rest:
            coalition |= 1 << player
            value = before
            if abs(everyone - before) > self._within:
                value = yield from book.value(coalition)
            adds.append((player, value - before))
            before = value
        for player, added in adds:
            self._sums[player] += added
            self._squares[player] += added * added
            self._counts[player] += 1
        self._means.append([self._mean(player) for player in range(book.players)])

    def _mean(self, player: int) -> float:
        n, count = self._book.players, self._counts[player]
        first = self._book.values[1 << player] - self._book.values[0]
        return (first + (n - 1) * self._sums[player] / count) / n if count else first / n

    def _converged(self) -> bool:
        if self.orders < self._orders_min:
            return False
        last = self._means[-1]
        for earlier in self._means[-1 - self._window : -1]:
            moved = sum(abs(a - b) / (abs(b) + 1e-12) for a, b in zip(earlier, last, strict=True))
            if moved > self._settled * self._book.players:
                return False
        return True
