"""What this site finds the others' work to be worth: its own score of each round, in the pauses of its trainer.

The charter says by which method, on which metric, and how much of a round's training time it may take. A round is
judged once its model is committed, from the updates that this site holds, whenever its own trainer has nothing to do
but wait for others: one model at a time, so that training, when it can go on, waits for one evaluation at most. What
does not fit into the time that is allowed is not asked, and the score says what could be said until then.

It remembers nothing across a crash but what is on record: a site that starts anew begins with the round again if that
is still of use, and is silent about it if not. How long its training takes is on record too, between two of its own
entries, so that a site which has nothing left to train still knows what its share is. The others go on without the word
of one that has not the updates any more, and it says so.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import msgspec

from swarm import codec, disclosure
from swarm.charter import Charter
from swarm.contribution.game import Coalition, Questions, Scorer, members
from swarm.contribution.loo import LeaveOneOut
from swarm.contribution.policy import LOO, Policy
from swarm.contribution.shapley import GuidedShapley
from swarm.ledger import entry as e
from swarm.ledger.scores import Closing, Scores
from swarm.machine import Appraise, Appraised, Digest, NodeId, Report
from swarm.round import Action, Say


@dataclass(slots=True)
class _Work:
    """The round that is being judged. `question` is the coalition whose value is wanted next; None when all is asked.

    `asked` is the number of the question that the trainer is at, and since when; None if it is at none.
    """

    closing: Closing
    scorer: Scorer
    questions: Questions
    question: Coalition | None
    asked: tuple[int, float] | None = None
    spent_s: float = 0.0
    samples: int = 0


@dataclass(slots=True)
class Cost:
    """What judging has cost this process, and what training has."""

    rounds: int = 0
    evaluations: int = 0
    seconds: float = 0.0
    training_s: float = 0.0


@dataclass(slots=True)
class _Clock:
    """How long this site's own training takes, and one evaluation; None until that is known.

    A process that has seen no training end goes by the shortest that this site's entries tell of (`read`).
    """

    training_since: float | None = None
    measured_s: float | None = None
    recorded_s: float | None = None
    evaluation_s: float | None = None
    attested: tuple[int, int] = (0, 0)  # the last round whose mean this site has signed, and when: ms, own clock
    offered_ms: int = 0  # when it offered last

    @property
    def training_s(self) -> float | None:
        """How long a training takes, in seconds."""
        return self.recorded_s if self.measured_s is None else self.measured_s

    def read(self, entry: e.Entry) -> None:
        """Learn of a training from this site's own final entries, which it has dated by the clock it measures with.

        One begins as soon as the mean before it is signed, or the offer before it made if that was later, and ends with
        its own offer. What lay between in which the site was down or rested counts, so the shortest is taken.
        """
        if entry.kind == e.ATTEST:
            attest = codec.decode(entry.body, e.Attest, limit=e.ENTRY_BYTES_MAX)
            self.attested = attest.round, entry.ts_ms
        elif entry.kind == e.CONTRIBUTION:
            offer = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
            took_s = (entry.ts_ms - max(self.attested[1], self.offered_ms)) / 1000
            if self.attested[0] == offer.round - 1 > 0 and took_s > 0:
                self.recorded_s = took_s if self.recorded_s is None else min(took_s, self.recorded_s)
            self.offered_ms = entry.ts_ms


class Appraisal:
    """One member's scores. Where the charter asks for none it does nothing."""

    def __init__(self, charter: Charter, me: NodeId, ledger_id: bytes, min_cell: int = 0) -> None:
        """`min_cell` is this site's own smallest cell; the charter's counts if it is larger."""
        policy = charter.contribution
        self._policy: Policy | None = policy if policy is not None and policy.judged else None
        self._metrics = charter.metrics
        self._min_cell = max(min_cell, charter.min_cell)
        self._me, self._ledger_id = me, ledger_id
        self._scores = Scores(charter.task.initial_model)
        self._work: _Work | None = None
        self._done: set[int] = set()  # rounds that this process is through with, whatever has come of it
        self._missed: set[int] = set()  # rounds that it has said it cannot judge
        self._numbers = 0
        self._clock = _Clock()
        self._resting = False
        self._cut = False  # a round was not scored for want of time: it will be so again
        self.cost = Cost()

    # --- what it learns -----------------------------------------------------------------------------------------

    def note(self, first: int, entries: Sequence[e.Entry]) -> None:
        """Take in the entries of the next final block, of which the first has this index in the log."""
        if self._policy is None:
            return
        self._scores.note(first, entries)
        for entry in entries:
            if entry.author == self._me:
                self._clock.read(entry)
        last = max((number for number, judged in self._scores.rounds.items() if judged.committed), default=0)
        self._scores.forget(last - e.SETTLED_AFTER)
        self._done &= self._scores.rounds.keys()
        self._missed &= self._scores.rounds.keys()

    def training(self, now: float) -> None:
        """Learn that this site's trainer has been asked to train."""
        self._clock.training_since = now

    def trained(self, now: float, *, well: bool) -> None:
        """Learn that training has ended. What failed says nothing of how long a round takes."""
        since, self._clock.training_since = self._clock.training_since, None
        if well and since is not None:
            self._clock.measured_s = now - since
            self.cost.training_s += now - since

    def rest(self, resting: bool) -> None:
        """Ask nothing from now on; what was asked is not answered. Or begin again."""
        self._resting = resting
        if resting:
            self._clock.training_since = None
            if self._work is not None:
                self._work.asked = None

    # --- what should be going on --------------------------------------------------------------------------------

    def step(
        self, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], *, free: bool, now: float
    ) -> list[Action]:
        """Return what to ask the trainer or to say. It is `free` while no round waits for it."""
        if self._policy is None or self._resting:
            return []
        work = self._work
        if work is not None and work.closing.round not in self._open(mine):
            self._work = work = None  # It came too late, or another process of this site has said it.
        if work is None:
            work = self._begin(mine, holds)
        if work is None or work.asked is not None or not free:
            return []
        if work.question is None or self._spent(work):
            return self._conclude(work)
        return [self._ask(work, now)]

    def appraised(self, event: Appraised, now: float) -> list[Action]:
        """Take in the answer to a question."""
        work = self._work
        if self._policy is None or work is None or work.asked is None or work.asked[0] != event.number:
            return []  # It was about a round that is settled, or asked before this site rested.
        took = max(0.0, now - work.asked[1])
        work.asked = None
        work.spent_s += took
        self._clock.evaluation_s = took
        self.cost.evaluations += 1
        self.cost.seconds += took
        value = event.metrics.get(self._policy.metric)
        cell = event.samples if event.cell is None else min(event.cell, event.samples)
        # A score is a difference of metrics on the held-out cases: it tells of them what those would.
        kept = "" if event.error else disclosure.withheld(cell, self._min_cell)
        if event.error or kept or value is None or not math.isfinite(value):
            why = event.error or kept or f"the task's evaluate() gave no finite {self._policy.metric}"
            self._end(work)
            text = f"judging the contributions to round {event.round} failed: {why}"
            return [Report("score_failed", text, {"round": event.round}, level="warning")]
        work.samples = event.samples
        try:
            work.question = work.questions.send(self._policy.gain(value))
        except StopIteration:
            work.question = None
        return []

    def due(self, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> bool:
        """Whether there is a round that this site can judge and has not: a run that is over waits for that."""
        at_work = self._work is not None and self._work.closing.round in self._open(mine)
        return not self._resting and (at_work or self._next(mine, holds) is not None)

    def missed(self, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], *, heard: bool) -> list[Action]:
        """Say once, when the run is over, of each round why this site's word on it does not come, if it still counts.

        `heard` is whether enough others are there for it to become final.
        """
        said: list[Action] = []
        if self._policy is None or self._resting:
            return said
        for number in [number for number in self._open(mine) if number not in self._missed]:
            gone = sum(not holds(digest) for digest in _needed(self._scores.rounds[number].closing))
            if gone:
                why = f"{gone} of the models and updates that it takes are not here"
            elif self._clock.training_s is None:
                why = "how long a training takes here, of which judging may take a share, is not on record"
            elif not heard:
                why = "too few others are there to take its word"
            else:
                continue
            self._missed.add(number)
            text = f"round {number} is not scored by this site: {why}"
            said.append(Report("score_missed", text, {"round": number}, level="warning"))
        return said

    def keep(self) -> set[Digest]:
        """Return the blobs that are needed to judge what has not been judged."""
        kept: set[Digest] = set()
        for closing in self._unjudged():
            kept.update(_needed(closing))
        return kept

    def status(self) -> dict[str, object] | None:
        """Return what this process has done of it; None where the charter asks for nothing."""
        if self._policy is None:
            return None
        return {"contribution": self._policy.text, **{name: getattr(self.cost, name) for name in Cost.__slots__}}

    # --- parts --------------------------------------------------------------------------------------------------

    def _unjudged(self) -> list[Closing]:
        """Return the rounds on which this site's word still counts and is not on record, the oldest first."""
        return [
            judged.closing
            for number, judged in sorted(self._scores.rounds.items())
            if judged.closing.base
            and not judged.settled
            and number not in self._done
            and self._me in judged.closing.members
            and self._me not in judged.scores
        ]

    def _open(self, mine: Sequence[msgspec.Struct]) -> list[int]:
        said = {body.round for body in mine if isinstance(body, e.Score)}
        rounds = self._scores.rounds
        return [one.round for one in self._unjudged() if one.round not in said and rounds[one.round].committed]

    def _next(self, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> Closing | None:
        """Return the oldest round that can be judged: all of it is here, and it is known how long that may take."""
        if self._clock.training_s is None:
            return None
        for number in self._open(mine):
            closing = self._scores.rounds[number].closing
            if all(holds(digest) for digest in _needed(closing)):
                return closing
        return None

    def _begin(self, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> _Work | None:
        closing = self._next(mine, holds)
        if closing is None or self._policy is None:
            return None
        # The same again after a crash, another for each member and round: whom a scorer begins with decides who is left
        # out when it is cut short.
        seed = self._ledger_id + self._me + closing.round.to_bytes(8, "big")
        rng = random.Random(seed)  # noqa: S311 - a draw to be repeated, not a secret
        players = len(closing.terms)
        scorer: Scorer
        if self._policy.method == LOO:
            scorer = LeaveOneOut(players, first=rng.randrange(players))
        else:
            scorer = GuidedShapley(players, rng)
        questions = scorer.questions()
        self._work = _Work(closing, scorer, questions, next(questions, None))
        return self._work

    def _ask(self, work: _Work, now: float) -> Appraise:
        assert work.question is not None, "somebody has looked"
        self._numbers += 1
        work.asked = self._numbers, now
        chosen = [work.closing.terms[player] for player in members(work.question, len(work.closing.terms))]
        terms = tuple((Digest(body.update_digest), weight) for _, _, body, weight in chosen)
        return Appraise(work.closing.round, self._numbers, Digest(work.closing.base), terms)

    def _spent(self, work: _Work) -> bool:
        """Whether one more evaluation would take longer than the charter allows."""
        assert self._policy is not None, "somebody has looked"
        budget_s = (self._clock.training_s or 0.0) * self._policy.percent / 100
        return work.spent_s + (self._clock.evaluation_s or 0.0) > budget_s

    def _end(self, work: _Work) -> None:
        self._done.add(work.closing.round)
        self._work = None

    def _conclude(self, work: _Work) -> list[Action]:
        """Say what can be said by now."""
        assert self._policy is not None, "somebody has looked"
        self._end(work)
        found, number = work.scorer.estimate(), work.closing.round
        took = f"{work.scorer.evaluations} models judged in {work.spent_s:.2g} s"
        values: dict[str, str | int | float | bool] = {"round": number, "evaluations": work.scorer.evaluations}
        if not found:
            text = f"round {number} is not scored by this site: {took}, more does not fit into the charter's"
            text += f" {self._policy.percent} % of the training time"
            level, self._cut = "info" if self._cut else "warning", True
            return [Report("score_cut", text, values, level=level)]
        self.cost.rounds += 1
        scores = sorted(
            (work.closing.terms[player][0], _millionths(worth.value), abs(_millionths(worth.error)))
            for player, worth in found.items()
        )
        index = self._metrics.index(self._policy.metric)
        body = e.Score(number, index, self._policy.code, work.scorer.evaluations, work.samples, tuple(scores))
        return [Say(e.SCORE, body), Report("scored", f"scored the contributions to round {number}: {took}", values)]


def _needed(closing: Closing) -> tuple[Digest, ...]:
    """Return the blobs that judging a round takes: the model it was added to, and each update."""
    return Digest(closing.base), *(Digest(body.update_digest) for _, _, body, _ in closing.terms)


def _millionths(value: float) -> int:
    """Return a value in millionths, held within what an entry may say."""
    bound = e.SCORE_LIMIT / e.METRIC_SCALE
    return round(max(-bound, min(bound, value)) * e.METRIC_SCALE)
