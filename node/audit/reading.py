"""What an attack's scores come to: advantage, area under the curve, hits at few false alarms, each with its interval.

No torch here: numbers go in, numbers and sentences come out. An accuracy over all records hides what matters: an attack
that is right about one record in a hundred without ever being wrong is a breach for that one, and next to nothing on
average (Carlini et al. 2022, "Membership inference attacks from first principles"). So the true positive rate is told
at one false alarm in a hundred and in a thousand, as far as there are records enough to tell.

A reading says that a leak was found, or that *this attack* found none beyond chance. There is no third thing to say: an
attack that fails proves nothing about the next one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from node.scoring.cases import Floats
from node.scoring.intervals import Interval, clopper_pearson, delong, wilson

ALARM_RATES = (0.01, 0.001)
"""False positive rates at which hits are told."""

TIES_SEED = 0
"""Equal scores are told apart by a draw that is always the same: neither for the attacker nor against."""


@dataclass(frozen=True, slots=True)
class Hits:
    """The share of members that an attack finds where it is wrong about at most `rate` of the others.

    `share` and `interval` are None where there are too few others to tell.
    """

    rate: float
    share: float | None
    interval: Interval | None


@dataclass(frozen=True, slots=True)
class Reading:
    """How well scores tell members from others.

    Attributes:
        members: how many there were of either kind.
        others: likewise.
        advantage: true less false positive rate of an attacker who knows how many members there are, and names so many.
        span: its 95 % interval.
        area: under the ROC curve; a guess has 0.5.
        area_span: its 95 % interval.
        hits: at few false alarms.
    """

    members: int
    others: int
    advantage: float
    span: Interval
    area: float
    area_span: Interval
    hits: Sequence[Hits]

    @property
    def found(self) -> bool:
        """Whether there is a leak beyond chance: the advantage's interval is above 0, or that of the area above 0.5."""
        return self.span.low > 0 or self.area_span.low > 0.5

    @property
    def words(self) -> str:
        """Return what it says."""
        if self.found:
            return "a leak was found: who sees these updates tells trained records from others better than by guessing"
        return "this attack found no leak beyond chance; a better one, or more records, might"


def read(members: Floats, others: Floats) -> Reading:
    """Return the reading of scores, larger where the attacker is surer that a record was trained on.

    Both are of shape (n,), finite, and have at least one score.
    """
    assert len(members), "there are members"
    assert len(others), "there are others"
    area, area_span = delong(members, others)
    hit = _named(members, others)
    wrong = len(members) - hit
    true, false = wilson(hit, len(members)), wilson(wrong, len(others))
    advantage = hit / len(members) - wrong / len(others)
    # Newcombe 1998, "Interval estimation for the difference between independent proportions", method 10.
    below = math.hypot(hit / len(members) - true.low, false.high - wrong / len(others))
    above = math.hypot(true.high - hit / len(members), wrong / len(others) - false.low)
    span = Interval(max(-1.0, advantage - below), min(1.0, advantage + above), "Newcombe")
    hits = [_hits(members, others, rate) for rate in ALARM_RATES]
    return Reading(len(members), len(others), advantage, span, area, area_span, hits)


def right_guesses(members: Floats, others: Floats, made: int) -> int:
    """Return how many are right of `made` guesses: half "in", at the highest scores, half "out", at the lowest."""
    labels = _ordered(members, others)
    low, high = made // 2, made - made // 2
    return int(labels[len(labels) - high :].sum()) + int((~labels[:low]).sum())


def _named(members: Floats, others: Floats) -> int:
    """Return how many members are among as many records with the highest scores."""
    labels = _ordered(members, others)
    return int(labels[len(others) :].sum())


def _ordered(members: Floats, others: Floats) -> np.ndarray:
    """Return whether records are members, from the lowest score to the highest."""
    scores = np.concatenate([members, others])
    labels = np.arange(len(scores)) < len(members)
    ties = np.random.Generator(np.random.PCG64(TIES_SEED)).permutation(len(scores))
    found: np.ndarray = labels[np.lexsort((ties, scores))]
    return found


def _hits(members: Floats, others: Floats, rate: float) -> Hits:
    allowed = math.floor(rate * len(others) + 1e-9)
    if not allowed:
        return Hits(rate, None, None)
    threshold = np.sort(others)[len(others) - allowed - 1] if allowed < len(others) else -math.inf
    above = int((members > threshold).sum())
    return Hits(rate, above / len(members), clopper_pearson(above, len(members)))


# --- inversion --------------------------------------------------------------------------------------------------------

REDRAWS = 500
"""Draws of who might have been trained on, by which chance is judged."""


@dataclass(frozen=True, slots=True)
class Likeness:
    """What an attack has made of one update, beside the records that were in it by chance, and those that were not.

    Attributes:
        decibels: how like each reconstruction is to each record, shape (made, records): peak signal-to-noise ratio.
        labels: the reconstructions' labels, shape (made,).
        of: the records' labels, shape (records,).
        members: which records were trained on, shape (records,).
    """

    decibels: Floats
    labels: Floats
    of: Floats
    members: np.ndarray


@dataclass(frozen=True, slots=True)
class Nearness:
    """Whether reconstructions lie nearer to records that were trained on than to the others of their label.

    Attributes:
        made: how many reconstructions were compared.
        trained_db: median likeness to the nearest trained record, in dB.
        others_db: the same of the others.
        lead_db: mean of the differences.
        chance: where the lead is in 95 % of draws of who was trained on, if reconstructions say nothing about it.
    """

    made: int
    trained_db: float
    others_db: float
    lead_db: float
    chance: Interval

    @property
    def found(self) -> bool:
        """Whether the lead is beyond chance."""
        return self.lead_db > self.chance.high

    @property
    def words(self) -> str:
        """Return what it says."""
        if self.found:
            return "a leak was found: what is made of these updates resembles trained records more than others"
        return "this attack made nothing of these updates that resembles trained records beyond chance"


def nearness(parts: Sequence[Likeness]) -> Nearness | None:
    """Return the reading of reconstructions; None where there is no record of both kinds for any of them.

    Reconstructions of one update resemble one another, so that counting them as so many tosses would find leaks where
    there are none. Who was trained on is therefore drawn anew, within labels, with reconstructions as they are: if they
    say nothing about it, the truth is one draw of many.
    """
    random = np.random.Generator(np.random.PCG64(TIES_SEED))
    pairs = [pair for part in parts for pair in _leads(part, part.members)]
    if not pairs:
        return None
    drawn = []
    for _ in range(REDRAWS):
        leads = [near - far for part in parts for near, far in _leads(part, _redrawn(part, random))]
        drawn.append(float(np.mean(leads)))
    low, high = np.quantile(drawn, (0.025, 0.975))
    near, far = np.array(pairs).T
    chance = Interval(float(low), float(high), f"{REDRAWS} draws within labels")
    return Nearness(len(pairs), float(np.median(near)), float(np.median(far)), float(np.mean(near - far)), chance)


def _leads(part: Likeness, members: np.ndarray) -> list[tuple[float, float]]:
    found = []
    for row, label in zip(part.decibels, part.labels, strict=True):
        near, far = row[members & (part.of == label)], row[~members & (part.of == label)]
        if len(near) and len(far):
            found.append((float(near.max()), float(far.max())))
    return found


def _redrawn(part: Likeness, random: np.random.Generator) -> np.ndarray:
    """Return as many members of each label, drawn anew."""
    found = part.members.copy()
    for label in np.unique(part.of):
        places = np.flatnonzero(part.of == label)
        found[places] = found[random.permutation(places)]
    return found
