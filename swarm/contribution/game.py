"""A game: what would the model be worth that some of the sites had made without the others?

A *coalition* is a set of players, the bits of an integer: bit i stands for player i, 0 for nobody. A *scorer* never
plays. It is a generator that asks for the value of one coalition at a time and goes on with the answer, so that whoever
drives it decides when the next one is asked, by what means it is answered and when there have been enough: a node in
the pauses of its trainer, a simulation in virtual time, a test from a table. What has been asked once is not asked
again.

Players are numbered in the order of the round's close, 0 to n - 1. Values are in the unit of the metric, more is
better.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Protocol, TypeAlias

Coalition: TypeAlias = int

Questions: TypeAlias = Generator[Coalition, float, None]
"""Yields a coalition, is sent its value."""


@dataclass(frozen=True, slots=True)
class Worth:
    """What one player's work is worth, and the standard error of that: 0 where nothing was sampled."""

    value: float
    error: float


class Scorer(Protocol):
    """One way to tell what players are worth. `evaluations` is its cost so far: values that it has been told."""

    @property
    def evaluations(self) -> int:
        """Coalitions whose value has been asked for and told."""
        ...

    def questions(self) -> Questions:
        """Ask until there is nothing more to gain. Called once."""
        ...

    def estimate(self) -> dict[int, Worth]:
        """Return what can be said of players by now; of some or all nothing if it is too early."""
        ...


class Book:
    """The values of coalitions, each asked for once."""

    def __init__(self, players: int) -> None:
        assert players > 0, "a game has players"
        self.players = players
        self.everyone: Coalition = (1 << players) - 1
        self.values: dict[Coalition, float] = {}

    @property
    def full(self) -> bool:
        """Whether every coalition's value is known."""
        return len(self.values) == 1 << self.players

    def value(self, coalition: Coalition) -> Generator[Coalition, float, float]:
        """Return a coalition's value, asking for it if it is not known."""
        if coalition not in self.values:
            self.values[coalition] = yield coalition
        return self.values[coalition]


def play(scorer: Scorer, value: Callable[[Coalition], float], evaluations_max: int | None = None) -> dict[int, Worth]:
    """Answer a scorer from a function, `evaluations_max` times at most, and return what it makes of it."""
    questions = scorer.questions()
    try:
        asked = next(questions)
        while evaluations_max is None or scorer.evaluations < evaluations_max:
            asked = questions.send(value(asked))
    except StopIteration:
        pass
    return scorer.estimate()


def members(coalition: Coalition, players: int) -> list[int]:
    """Return the players of a coalition, ascending."""
    return [player for player in range(players) if coalition >> player & 1]
