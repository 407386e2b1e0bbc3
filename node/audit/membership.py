"""Membership inference: from what a training has released, was this record in it?

**By a fair coin of its own** each of some records is trained on or left out. The attacker knows all records, the task,
the charter and even the coins of other trainings, but not those of the one that is attacked. How sure its last model is
of a record is compared with how sure models of other trainings are: half of these have seen the record, half have not.
What is left when a record's own difficulty is taken out is the score.

That is LiRA (Carlini et al. 2022) with as much estimated as a few reference trainings carry. Its likelihood ratio needs
four numbers a record; with one variance for all, as it advises where references are few (section VI-C), and one shift
for all, it grows with exactly this difference (which is also the calibration of Watson et al. 2022, "On the importance
of difficulty calibration in membership inference attacks"). What that gives away is power against single records that
move unlike the others: so "found nothing" is said of this attack alone.

**Canaries** are records with wrong labels, put in by coins of their own, because nothing in the data supports them and
a model that fits them must have seen them: the strongest probe that needs no knowledge of the task. They take the place
of records that sit this audit out. Guesses about them bound epsilon from below (`swarm.privacy.one_run`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from node.audit.reading import Reading, read, right_guesses
from node.audit.records import Pair, Scoring, confidence, scoring
from node.audit.training import Release, Trainee
from swarm.errors import UsageError
from swarm.privacy.accounting import Stretch
from swarm.privacy.one_run import Guesses, best

CANDIDATES_MAX = 1000
"""Records that are trained on or left out: enough for one false alarm in a hundred, and few against a large site."""

RECORDS_MIN = 16
"""With fewer no interval says anything."""

GUESSED = (1.0, 0.25)
"""Parts of the canaries that are guessed at, settled beforehand: all, and those that the attacker is surest of."""


@dataclass(frozen=True, slots=True)
class Draw:
    """Who is trained on, of a site's records.

    Attributes:
        always: places of records that every training has.
        candidates: places of those that have coins.
        canaries: records with wrong labels, which have coins too; None for none.
        coins: shape (trainings, candidates + canaries); the first training is the one that is attacked. References come
            in pairs that are opposite, so that each record is in exactly half of them.
    """

    always: np.ndarray
    candidates: np.ndarray
    canaries: Pair | None
    coins: np.ndarray

    def records(self, all_: Pair, training: int) -> Pair:
        """Return what a training is given, shuffled alike for all."""
        coins = self.coins[training]
        drawn = all_.at(np.sort(np.concatenate([self.always, self.candidates[coins[: len(self.candidates)]]])))
        put_in = coins[len(self.candidates) :]
        return drawn.and_(self.canaries.at(np.flatnonzero(put_in))) if self.canaries is not None else drawn

    def members(self, training: int) -> np.ndarray:
        """Return which candidates it was given, shape (candidates,)."""
        found: np.ndarray = self.coins[training, : len(self.candidates)]
        return found


def draw(records: Pair, how: Scoring, *, references: int, canaries: int, seed: int) -> Draw:
    """Toss the coins.

    Raises:
        UsageError: there are too few records, or no wrong labels to give.
    """
    n = len(records)
    if n < RECORDS_MIN:
        raise UsageError(f"couldn't audit {n} records: no interval would say anything", hint=f"take {RECORDS_MIN}")
    if references < 2 or references % 2:
        raise UsageError(
            f"couldn't compare with {references} reference trainings", hint="an even number: half have each record"
        )
    candidates = min(CANDIDATES_MAX, n // 2)
    if not 0 <= canaries <= (n - candidates) // 2:
        raise UsageError(
            f"couldn't put {canaries} canaries among {n} records",
            hint=f"up to {(n - candidates) // 2}: more would be half of what is trained on",
        )
    if canaries and not how.classes:
        raise UsageError(
            "couldn't make canaries: these labels are numbers, of which none is plainly wrong",
            hint="leave --canaries out: the records themselves bound epsilon too",
        )
    random = np.random.Generator(np.random.PCG64(seed))
    order = random.permutation(n)
    made = None
    if canaries:
        some = records.at(order[candidates : candidates + canaries])
        labels = some.y.reshape(-1).long().numpy()
        wrong = (labels + random.integers(1, how.classes, size=canaries)) % how.classes
        shaped = some.y.new_tensor(wrong).reshape(some.y.shape)
        made = Pair(some.x, shaped)
    half = random.integers(0, 2, size=(1 + references // 2, candidates + canaries)) > 0
    coins = np.concatenate([half[:1], half[1:], ~half[1:]])
    return Draw(order[candidates + canaries :], order[:candidates], made, coins)


@dataclass(frozen=True, slots=True)
class Found:
    """What came of it.

    Attributes:
        reading: of the records.
        canaries: of the canaries; None without.
        epsilon: what the guesses rule out: no less was spent, with 95 % confidence.
        guesses: by which.
        spent: what the training that was attacked cost by the account; empty where it was not private.
    """

    reading: Reading
    canaries: Reading | None
    epsilon: float
    guesses: Guesses
    spent: list[Stretch]


def attack(
    trainee: Trainee,
    drawn: Draw,
    how: Scoring,
    *,
    rounds: int,
    delta: float,
    tell: Callable[[int], None],
    keep: Callable[[int, Release], None] = lambda *_: None,
) -> Found:
    """Train as often as there are coins, and read what the first training tells.

    Args:
        trainee: the site.
        drawn: who is trained on.
        how: records are scored.
        rounds: of each training.
        delta: at which epsilon is bounded.
        tell: is told how many trainings are done.
        keep: is given every training's release.
    """
    all_ = trainee.records.trained
    scored = all_.at(drawn.candidates)
    if drawn.canaries is not None:
        scored = scored.and_(drawn.canaries)
    sure = np.empty((len(drawn.coins), len(scored)))
    spent: list[Stretch] = []
    first: Release | None = None
    for number in range(len(drawn.coins)):
        release, cost = trainee.train(drawn.records(all_, number), rounds)
        sure[number] = confidence(trainee.show(release.last), how, scored, trainee.setting.device)
        keep(number, release)
        if first is None:
            first, spent = release, cost
        elif number == 1:
            trainee.check(first, release)
        tell(number + 1)
    scores = sure[0] - sure[1:].mean(0)
    if not np.isfinite(scores).all():
        raise UsageError(
            "couldn't audit this task: a model's output is not finite", hint="lower the learning rate, or --rounds"
        )
    coins, many = drawn.coins[0], len(drawn.candidates)
    sides = [(scores[:many][coins[:many]], scores[:many][~coins[:many]])]
    if drawn.canaries is not None:
        sides.append((scores[many:][coins[many:]], scores[many:][~coins[many:]]))
    for members, others in sides:
        if not len(members) or not len(others):
            raise UsageError("couldn't audit so few: all coins fell alike", hint="take more records, or --canaries 20")
    readings = [read(*side) for side in sides]
    probes = sides[-1]
    m = len(probes[0]) + len(probes[1])
    tries = [int(m * part) for part in GUESSED]
    bound, which = best([Guesses(m, made, right_guesses(*probes, made)) for made in tries if made], delta)
    return Found(readings[0], readings[1] if len(readings) > 1 else None, bound, which, spent)


def scored_as(trainee: Trainee) -> Scoring:
    """Return how this site's records are scored."""
    return scoring(trainee.show(trainee.initial()), trainee.records.trained, trainee.setting.device)
