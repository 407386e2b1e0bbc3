"""Which updates of a round are unlike the others: evidence for people to look at, never a reason to leave anybody out.

Two numbers an update: its norm, and its cosine to the sum of the others. A norm is judged by the modified z-score of
Iglewicz & Hoaglin ("How to detect and handle outliers", 1993), 0.6745 (x - median) / MAD, which a few extreme values do
not move, and beyond 3.5 of which they call a value an outlier. A cosine well below 0 says that a site pulls where the
others together do not.

Both have innocent causes. A site with other patients, other scanners or far more data has another norm and another
direction; near the end of a run honest updates are short and point anywhere. And both miss what is made to be missed:
whoever knows the others' updates sends one that is unlike in neither. So it is said in words, with the numbers, and
people ask the site.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence

LEAST = 4
"""Fewest updates among which one can be unlike the others: of three, the median is one of them and its distance 0."""

SCORE_MAX = 3.5

SPREAD_MIN = 0.1
"""Least spread of norms that is taken for real, in parts of their median: where nearly all are clipped to one bound,
the median distance from it is nothing but rounding. Then a norm is unlike from 1.52 times the median on."""

COSINE_MIN = -0.1
"""Below this an update points against the others. Not 0: of two directions that have nothing to do with each other,
every second pair has a cosine below it, if only just."""


def unlike(likeness: Sequence[tuple[float, float]]) -> tuple[str, ...]:
    """Say, of each (norm, cosine to the sum of the others), in words what is unlike the others; "" if nothing is."""
    if len(likeness) < LEAST:
        return ("",) * len(likeness)
    norms = [norm for norm, _ in likeness]
    middle = statistics.median(norms)
    spread = max(statistics.median(abs(norm - middle) for norm in norms), SPREAD_MIN * middle)
    return tuple("; ".join([*_length(norm, middle, spread), *_direction(cosine)]) for norm, cosine in likeness)


def _length(norm: float, middle: float, spread: float) -> list[str]:
    if spread == 0.0:
        return [f"its norm is {norm:.3g}, and most sites' is 0"] if norm else []
    score = 0.6745 * (norm - middle) / spread
    if abs(score) <= SCORE_MAX:
        return []
    times = f", {norm / middle:.3g} times the median" if middle else ""
    return [f"its norm is {norm:.3g}{times} (score {score:+.1f})"]


def _direction(cosine: float) -> list[str]:
    return [f"it points against the others (cosine {cosine:+.2f})"] if cosine < COSINE_MIN else []
