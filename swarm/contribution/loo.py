"""Leave-one-out: what the round's model loses when one site's update is taken out of it.

The cheapest measure that looks at models at all: n + 1 values for n players. It tells what a site adds to all others
together, and so gives nothing to either of two sites that bring the same, and everything but little to a site whose
work any other could have done. Shapley's value divides what copies bring between them; this does not.
"""

from __future__ import annotations

from swarm.contribution.game import Book, Questions, Worth


class LeaveOneOut:
    """A scorer. It begins with player `first`, so that scorers that are cut short leave different players out."""

    def __init__(self, players: int, *, first: int = 0) -> None:
        self._book = Book(players)
        self._order = [(first + step) % players for step in range(players)]

    @property
    def evaluations(self) -> int:
        """Values told so far."""
        return len(self._book.values)

    def questions(self) -> Questions:
        """Ask for everyone, then for everyone but each."""
        book = self._book
        yield from book.value(book.everyone)
        for player in self._order:
            yield from book.value(book.everyone & ~(1 << player))

    def estimate(self) -> dict[int, Worth]:
        """Return v(everyone) - v(everyone but i) for each i that was left out so far."""
        book = self._book
        return {
            player: Worth(book.values[book.everyone] - book.values[book.everyone & ~(1 << player)], 0.0)
            for player in range(book.players)
            if book.everyone & ~(1 << player) in book.values and book.everyone in book.values
        }
