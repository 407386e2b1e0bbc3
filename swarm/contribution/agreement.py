"""What members agree on of their scores: the median of what others say.

Each member judges on data of its own, and one may lie: make much of itself, little of another. What a member says of
itself does not count, and of what the others say the median does. With m values of which t < m / 2 are lies, the median
is never below the smallest nor above the largest honest value, whatever the lies are; and one lie in the place of an
honest value moves the one or two values in the middle no further than to their next neighbours in the order. Where the
honest say the same in the middle, a liar moves nothing.

With f the number of liars that a swarm of n members bears, a median of fewer than 2f + 1 values could be a liar's own,
so there is none then, but a gap.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Agreed:
    """The agreed score of one contribution, in millionths, and how far apart those are who said so.

    `spread` is the median distance from the median; `scorers` is how many values there are.
    """

    score: int
    spread: int
    scorers: int


def median(values: Sequence[int]) -> int:
    """Return the middle of some integers, of two the mean, rounded down."""
    ordered = sorted(values)
    assert ordered, "there is a middle"
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) // 2


def agree(values: Sequence[int], liars: int) -> Agreed | None:
    """Return what follows from the values of all scorers but the one that is scored; None if they are too few."""
    if len(values) < 2 * liars + 1:
        return None
    score = median(values)
    return Agreed(score, median([abs(value - score) for value in values]), len(values))
