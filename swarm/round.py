"""One learning round after another: train, offer, close, mix, attest, commit.

The machine is *level-triggered*: `advance` looks at the final state of the ledger, at what this peer has already said
and at which blobs it holds, and returns whatever should be under way and is not. There is no step to remember across a
crash: what was durable decides what comes next, so a peer killed at any instruction resumes by starting again.

It knows nothing of links, votes or disks. Bulk work (training, reading updates, averaging) is asked for by effects and
comes back as events.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeAlias

import msgspec

from swarm import disclosure
from swarm.charter import Charter
from swarm.ledger import entry as e
from swarm.ledger.state import Closed, State, attested, best_of, outcome
from swarm.machine import (
    BlobRead,
    Digest,
    Effect,
    Evaluate,
    Evaluated,
    Finished,
    Masked,
    Mix,
    Mixed,
    NodeId,
    Parted,
    Report,
    Train,
    Trained,
)

TRAIN_ATTEMPTS_MAX = 3
"""Tries at one round before a site whose training fails sits it out. The next round starts afresh."""

FAILED_ROUNDS_MAX = 3
"""Rounds in a row without a training that went well before a site's run has failed. It goes on trying all the same."""

RETRY_S = 5.0
"""Pause before training is tried again after a failure, so that a broken task does not spin."""

METRIC_LIMIT = 2**52
"""Largest metric in millionths that is exact as a double on both sides."""


class Phase(IntEnum):
    """What a peer is doing, as told in heartbeats. Numbers are on the wire."""

    WAITING = 0
    FETCHING = 1
    TRAINING = 2
    OFFERED = 3
    MIXING = 4
    ATTESTED = 5
    DONE = 6
    PAUSED = 7


def phase_name(number: int) -> str:
    """Return the word for a phase a peer told; a newer peer may know phases this one does not."""
    return Phase(number).name.lower() if number in Phase.__members__.values() else "unknown"


@dataclass(frozen=True, slots=True)
class Say:
    """Append an entry to my feed."""

    kind: int
    body: msgspec.Struct


@dataclass(frozen=True, slots=True)
class Fetch:
    """Get this blob from whoever has it, perhaps these."""

    digest: Digest
    size: int
    hints: tuple[NodeId, ...]


Action: TypeAlias = Effect | Say | Fetch


@dataclass(frozen=True, slots=True)
class Model:
    """The outcome of a round, as a blob."""

    digest: Digest
    size: int


class Round:
    """One member's part in the rounds."""

    def __init__(self, charter: Charter, me: NodeId, *, code_digest: bytes, data_digest: bytes) -> None:
        self.phase = Phase.WAITING
        self.round = 1
        self._charter = charter
        self._me = me
        self._code_digest = code_digest
        self._data_digest = data_digest
        self._mixed: dict[int, Model] = {}
        self._training: tuple[int, Model] | None = None
        self._mixing: int | None = None
        self._failures: dict[int, int] = {}
        self._refused = 0  # the last round that this site will not train at all
        self._retry_at = self._mix_at = 0.0
        self._evaluating: dict[int, Digest] = {}
        self._evaluated = 0  # the last round that this site has evaluated
        self._attempts: dict[int, int] = {}
        self._large: set[str] = set()  # Metrics that were said to be too large for the ledger.
        self._finished = self._failed = False
        self._failing: list[int] = []  # rounds for which training has failed since it last went well
        self._error = ""
        self._fail_at = 0.0
        self._in_mean: dict[int, Digest] = {}
        self._resting = False
        self.judging = False  # Whether this site has yet to score the work in its rounds: a run does not end before.
        self._min_cell = charter.min_cell

    # --- what should be going on --------------------------------------------------------------------------------

    def advance(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        """Return what to start. `state` is final; `mine` are my entries that are not; `holds` tells complete blobs."""
        self._learn_models(state, mine)
        self._note_close(state)
        actions: list[Action] = []
        actions += self._gather(state, holds)
        actions += self._mix(state, mine, holds) if now >= self._mix_at else ()
        actions += self._train(state, mine, holds, now)
        actions += self._evaluate(state, mine, holds)
        actions += self._fail(state, now)
        actions += self._finish(state, mine, holds)
        return actions

    def watch(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> list[Action]:
        """Return what `advance` would, while nothing that it is given has changed but the time."""
        del state, mine, holds, now
        return []

    def next_wake(self, now: float) -> float | None:
        """Return when something that failed may be tried again."""
        return min((at for at in (self._retry_at, self._mix_at, self._fail_at) if at > now), default=None)

    def keep(self, state: State) -> set[Digest]:
        """Return the blobs that a peer one round behind, or this one after a crash, may still ask for."""
        kept = {model.digest for model in self._mixed.values()}
        kept.add(Digest(state.committed.model))
        kept.update(self._evaluating.values())
        if state.stopping is not None:
            # The best round's model is asked for when the run is over, and any that is not settled may be that.
            watched = (state.stopping.best, *state.stopping.heard)
            kept.update(Digest(one.model) for one in watched if one is not None and one.model_bytes)
        if self._training is not None:
            kept.add(self._training[1].digest)
        # What a close names is needed until the commit, although its author may have left in between.
        for placed in (*state.contributions.values(), *(state.close.terms if state.close else ())):
            kept.update(digest for digest, _ in placed.body.blobs)
        return kept

    def rest(self, resting: bool) -> None:
        """Train and score nothing from now on, and forget what was under way; or begin again.

        Averaging and attesting go on: others wait for those, and they take a moment.
        """
        self._resting = resting
        if resting:
            self._training = None
            self._evaluating.clear()

    def free(self, *, complete: bool) -> bool:
        """Whether the trainer has nothing to do for a round, and will not before others move or the run is complete."""
        idle = self._training is None and not self._evaluating and not self._resting
        return idle and (complete or self.phase in (Phase.OFFERED, Phase.MIXING, Phase.ATTESTED))

    def withhold_below(self, cases: int) -> None:
        """Tell no scores of fewer cases than this, if the charter does not ask for more anyway."""
        self._min_cell = max(cases, self._charter.min_cell)

    def said(self, body: msgspec.Struct) -> None:
        """Note an entry of mine that is final, so that a restart does not repeat what is on record."""
        if isinstance(body, e.Evaluation):
            self._evaluated = max(self._evaluated, body.round)
        if isinstance(body, e.Contribution):
            # The log forgets it when this site leaves: back in the same round, the same attempt would contradict it.
            self._attempts[body.round] = max(body.attempt, self._attempts.get(body.round, 0))

    def pieces(self, author: NodeId, body: e.Contribution, state: State) -> tuple[tuple[Digest, int], ...]:
        """Return digest and size of what this peer needs of a member's contribution."""
        # Nothing is fetched for what could not be averaged: an entry may name hundreds of blobs that are nowhere.
        return body.blobs if state.destined(author, body) is not None and self._charter.carries(body) else ()

    def stuck(self) -> bool:
        """Whether the charter's route does not seem to lead the closed round to a mean. Here there is one route."""
        return False

    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        """Whether a member's deal of shares has been read and is one. Here nobody masks, and nobody deals."""
        del node, digest
        return None

    def resume(self, guarded: bytes) -> list[Action]:
        """Take back the secret that an earlier process had kept. Here there is none."""
        del guarded
        return []

    # --- what happened ------------------------------------------------------------------------------------------

    def trained(self, event: Trained, state: State, mine: Sequence[msgspec.Struct], now: float) -> list[Action]:
        """Offer what local training produced, or say why there is nothing to offer."""
        training = self._training
        if training is None or training[0] != event.round:
            return []  # Answers a request from before a restart: its base is not known for sure.
        self._training = None
        if event.round > state.last:
            return []  # The run has been stopped meanwhile.
        if event.update is None and event.refused:
            # No failure: the site means it. It votes, averages and evaluates as before.
            self._failures[event.round], self._refused = TRAIN_ATTEMPTS_MAX, event.round
            text = f"round {event.round} is not trained here: {event.error}"
            return [Report("training_refused", text, {"round": event.round}, level="warning")]
        if event.update is None:
            tries = self._failures[event.round] = self._failures.get(event.round, 0) + 1
            self._retry_at = now + RETRY_S
            rest = "sitting this round out" if tries >= TRAIN_ATTEMPTS_MAX else f"trying again in {RETRY_S:.0f} s"
            text = f"training for round {event.round} failed: {event.error} ({rest})"
            self._note_failure(event, state, now)
            return [Report("training_failed", text, {"round": event.round}, level="error")]
        self._failures.pop(event.round, None)
        self._failing.clear()
        self._failed = False
        told = self._charter.tells_training(event.samples, self._min_cell)
        body = e.Contribution(
            round=event.round,
            attempt=self._last_attempt(event.round, state, mine) + 1,
            base_height=state.height,
            base_digest=training[1].digest,
            update_digest=event.update,
            update_bytes=event.size,
            samples=event.samples,
            metrics=self._millionths(event.metrics) if told else (),
            privacy=(*event.privacy, state.terms.round.clip_norm_milli),
            code_digest=self._code_digest,
            data_digest=self._data_digest,
            slices=event.slices,
        )
        values: dict[str, str | int | float | bool] = {**event.metrics, "round": event.round, "samples": event.samples}
        text = f"trained round {event.round} on {event.samples} samples"
        large = self._too_large(event.metrics, event.round) if told else []
        return [Say(e.CONTRIBUTION, body), Report("trained", text, values), *large]

    def _note_failure(self, event: Trained, state: State, now: float) -> None:
        """Note for which rounds training fails, and when it is the end if nobody else closes the round at hand.

        That is the charter's deadline after the last try: when the round opened only blocks say, by others' clocks.
        """
        self._error = event.error
        if event.round not in self._failing:
            self._failing.append(event.round)
        if self._failures[event.round] >= TRAIN_ATTEMPTS_MAX:
            self._fail_at = now + state.terms.round.deadline_ms / 1000

    def mixed(self, event: Mixed, state: State, now: float) -> list[Action]:
        """Attest the model this peer ended a round with."""
        self._mixing = None
        if event.model is None:
            self._mix_at = now + RETRY_S
            return [Report("mix_failed", f"couldn't average round {event.round}: {event.error}", level="error")]
        self._mixed[event.round] = Model(event.model, event.size)
        if state.close is None or state.close.body.round != event.round:
            return []
        values: dict[str, str | int | float | bool] = {"round": event.round, "model": event.model.hex()}
        used = tuple(
            (placed.author, placed.body.update_digest, weight)
            for placed, weight in zip(state.close.terms, event.weights, strict=False)
        )
        body = e.Attest(event.round, state.close.index, event.model, event.size, used, b"")
        return [Say(e.ATTEST, body), Report("mixed", f"averaged round {event.round}", values)]

    def parted(self, event: Parted, state: State) -> list[Action]:
        """Say what part of the mean this peer has computed for the others. Here each computes it whole."""
        del event, state
        return []

    def masked(self, event: Masked, state: State, now: float) -> list[Action]:
        """Offer an update that has been masked. Here none is."""
        del event, state, now
        return []

    def blob_read(self, event: BlobRead, now: float) -> list[Action]:
        """Take in what has been dealt. Here there are no deals."""
        del event, now
        return []

    def evaluated(self, event: Evaluated) -> list[Action]:
        """Put the model's score on this site's held-out data on record."""
        self._evaluating.pop(event.round, None)
        self._evaluated = max(self._evaluated, event.round)
        if event.unscored:
            text = f"nothing scores the model of round {event.round} here: {event.error}"
            return [Report("unscored", text, {"round": event.round}, level="debug")]
        if event.error:
            text = f"evaluating round {event.round} failed: {event.error}"
            return [Report("evaluation_failed", text, {"round": event.round}, level="error")]
        cell = event.samples if event.cell is None else min(event.cell, event.samples)
        kept = disclosure.withheld(cell, self._min_cell)
        # That it was evaluated is told in any case: the run is not done before, and a gap is not silence.
        samples, metrics = (0, ()) if kept else (event.samples, self._millionths(event.metrics))
        shown = event.metrics
        if len(shown) > e.METRICS_MAX:
            shown = {name: value for name, value in shown.items() if name in self._charter.metrics}
        values: dict[str, str | int | float | bool] = {**shown, "round": event.round, "samples": event.samples}
        text = f"evaluated the model of round {event.round}{f'; {kept}' if kept else ''}"
        return [
            Say(e.EVALUATION, e.Evaluation(event.round, event.model, samples, metrics)),
            Report("evaluated", text, values),
            *([] if kept else self._too_large(event.metrics, event.round)),
        ]

    # --- parts --------------------------------------------------------------------------------------------------

    def _learn_models(self, state: State, mine: Sequence[msgspec.Struct]) -> None:
        """The ledger's word on a model replaces this peer's own."""
        del mine
        done = state.committed
        self._mixed[done.round] = Model(Digest(done.model), done.model_bytes)
        self._forget_before(state)

    def _note_close(self, state: State) -> None:
        """Remember which update of this site is in the mean of a round: the log forgets it with the commit."""
        if state.close is not None:
            self._in_mean.pop(state.round, None)
            own = (Digest(placed.body.update_digest) for placed in state.close.terms if placed.author == self._me)
            self._in_mean.update((state.round, digest) for digest in own)
        for old in [r for r in self._in_mean if r < state.committed.round]:
            del self._in_mean[old]

    def _forget_before(self, state: State) -> None:
        done = state.committed
        for old in [r for r in self._mixed if r < done.round - 1]:
            del self._mixed[old]
        for old in [r for r in self._failures if r <= done.round]:
            del self._failures[old]
        at_work = None if self._training is None else self._training[0]  # Late as it is, it will need its attempt.
        for old in [r for r in self._attempts if r <= done.round and r != at_work]:
            del self._attempts[old]

    def _model_of(self, round_: int) -> Model | None:
        return self._mixed.get(round_)

    def _gather(self, state: State, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """Get every update of the open round: a vote for its close needs them all, and so does its mean."""
        closed = {(placed.body.round, placed.author): placed for placed in (state.close.terms if state.close else ())}
        for (round_, author), placed in sorted({**state.contributions, **closed}.items()):
            for digest, size in self.pieces(author, placed.body, state):
                if round_ <= state.last and not holds(digest):
                    yield Fetch(digest, size, (author,))

    def _mix(self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """Bring a closed round to its end, once the model before it is here. A void one ends with that model."""
        close = state.close
        if close is None or (self._mixing is not None and not state.void):
            return
        round_ = close.body.round
        base = self._model_of(round_ - 1)
        if state.void and base is not None:
            self._mixed[round_] = base  # Also where this member has had a mean that others could not have.
        if self._attested(state, close, mine):
            self._recall(round_, state, mine)
            return
        if base is None:
            return
        if not holds(base.digest):
            yield Fetch(base.digest, base.size, ())
        elif state.void:
            yield Say(e.ATTEST, e.Attest(round_, close.index, base.digest, base.size, (), b""))
        else:
            yield from self._average(state, close, base, holds)

    def _average(self, state: State, close: Closed, base: Model, holds: Callable[[Digest], bool]) -> Iterator[Action]:
        """Average what the close names, once it is here. `base` is."""
        del state
        weights = [weight for _, weight in close.body.included]
        terms = tuple((Digest(p.body.update_digest), w) for p, w in zip(close.terms, weights, strict=True))
        if all(holds(digest) for digest, _ in terms):
            self._mixing = close.body.round
            self.phase = Phase.MIXING
            yield Mix(close.body.round, base.digest, terms, close.rest)

    def _attested(self, state: State, close: Closed, mine: Sequence[msgspec.Struct]) -> bool:
        """Whether it has attested already, perhaps before a crash: what it said is what it holds, if that survived."""
        return self._me in state.attests or any(isinstance(b, e.Attest) and b.close_index == close.index for b in mine)

    def _recall(self, round_: int, state: State, mine: Sequence[msgspec.Struct]) -> None:
        if round_ in self._mixed:
            return
        said = state.attests.get(self._me)
        for body in mine:
            if isinstance(body, e.Attest) and body.round == round_:
                said = (body.model_digest, body.model_bytes)
        if said is not None:
            self._mixed[round_] = Model(Digest(attested(said[0])), said[1])

    def _train(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool], now: float
    ) -> Iterator[Action]:
        """Train for the open round; for the next as soon as the mean of a closed one is known (finality may trail)."""
        target = state.round + (1 if state.close is not None else 0)
        self.round = min(target, state.last)
        if self._training is not None and self._training[0] > state.last:
            self._training = None  # The run has been stopped: nobody waits for this any more.
        if self._training is not None:
            # It may be an earlier round's, whose work will be late, while later ones are closed and averaged.
            self.round, self.phase = self._training[0], Phase.TRAINING
            return
        if target > state.last:
            if state.round in self._mixed and not state.complete:
                self.phase = Phase.ATTESTED
            return
        base = self._model_of(target - 1)
        if base is None:
            return
        offered = self._offered(target, state, mine)
        # If it starts from this site's own mean, and the ledger has committed another, it is made again.
        well = offered is not None and (offered.round < target or offered.base_digest == base.digest)
        if offered is not None and well and self._stands(offered, state, holds):
            self.phase = Phase.ATTESTED if state.close is not None else Phase.OFFERED
            return
        if self._failures.get(target, 0) >= TRAIN_ATTEMPTS_MAX or now < self._retry_at:
            # Others need not wait for whoever says that it rests.
            self.phase = Phase.PAUSED if target == self._refused else Phase.WAITING
            return
        if not holds(base.digest):
            self.phase = Phase.FETCHING
            yield Fetch(base.digest, base.size, ())
            return
        if self._resting:
            self.phase = Phase.WAITING
            return
        self._training = (target, base)
        self.phase = Phase.TRAINING
        yield Train(target, base.digest, counted=self._in_mean.get(target - 1))

    def _stands(self, offered: e.Contribution, state: State, holds: Callable[[Digest], bool]) -> bool:
        """Whether what this member has offered to a round is still here, in a form that the round can use."""
        del state
        return all(holds(digest) for digest, _ in offered.blobs)

    def _evaluate(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]
    ) -> Iterator[Action]:
        """Score each committed model once; what is committed while the trainer is busy waits its turn."""
        done = state.committed.round
        model = self._model_of(done)
        # A restart finds its last words in its own feed, before they are final.
        said = (body.round for body in mine if isinstance(body, e.Evaluation))
        self._evaluated = max(self._evaluated, *said, 0)
        if done < 1 or model is None or done <= self._evaluated or done in self._evaluating:
            return
        if not holds(model.digest):
            yield Fetch(model.digest, model.size, ())
            return
        if self._resting:
            return
        self._evaluating[done] = model.digest
        yield Evaluate(done, model.digest)

    def _fail(self, state: State, now: float) -> Iterator[Action]:
        """This site's run fails when it gets nothing out of round after round, or when a round cannot do without it.

        It goes on voting, averaging and trying all the same.
        """
        if self._failed or state.complete or not self._failing:
            return
        last = self._failing[-1]
        given_up = last == state.round and self._failures.get(last, 0) >= TRAIN_ATTEMPTS_MAX
        stuck = given_up and state.close is None and now >= self._fail_at
        if stuck or len(self._failing) >= FAILED_ROUNDS_MAX:
            self._failed = True
            where = f"{len(self._failing)} rounds in a row"
            if stuck:
                where = f"round {last}, which is past its deadline and cannot close without this site"
            why = f"training failed in {where}: {self._error}"
            yield Report("failed", why, {"round": last}, level="error")
            yield Finished("FAILED", why)

    def _finish(
        self, state: State, mine: Sequence[msgspec.Struct], holds: Callable[[Digest], bool]
    ) -> Iterator[Action]:
        """A run is done when its last round is committed and this site has scored the result, and holds it.

        A site that was restored from a backup may have scored a model in its former life that it does not have now.
        """
        done = state.committed
        if not state.complete:
            self._finished = False  # The members may agree on more rounds when all are done: it ends once more.
        # Of its words on others' work, in the log or on their way there, `judging` says whether they are waited for.
        waiting = self.judging or not all(isinstance(body, e.Score) for body in mine)
        if not state.complete or self._finished or done.round > self._evaluated or waiting:
            return
        best = best_of(state)
        wanted = [(Digest(one.model), one.model_bytes) for one in (done, best) if one is not None and one.model_bytes]
        lacking = [(digest, size) for digest, size in wanted if not holds(digest)]
        for digest, size in lacking:
            yield Fetch(digest, size, ())
        if lacking:
            return
        self._finished = True
        self.phase = Phase.DONE
        why = outcome(state)
        told: dict[str, str | int | float | bool] = {"model": done.model.hex(), "round": done.round}
        if best is not None:
            told["best"] = best.round
        yield Report("done", why, told)
        yield Finished("DONE", why)

    def _offered(self, round_: int, state: State, mine: Sequence[msgspec.Struct]) -> e.Contribution | None:
        """Return what stands for me in a round, or will: my newest contribution to it, final or not, or late work."""
        placed = state.contributions.get((round_, self._me))
        offers = [] if placed is None else [placed.body]
        said = (body for body in mine if isinstance(body, e.Contribution))
        offers += [body for body in said if round_ in (body.round, state.destined(self._me, body))]
        return max(offers, key=lambda body: (body.round, body.attempt), default=None)

    def _last_attempt(self, round_: int, state: State, mine: Sequence[msgspec.Struct]) -> int:
        offered = self._offered(round_, state, mine)
        return max(self._attempts.get(round_, 0), 0 if offered is None or offered.round != round_ else offered.attempt)

    def _millionths(self, metrics: Mapping[str, float]) -> tuple[tuple[int, int], ...]:
        """Return the charter's metrics among these, as integers in millionths. Others stay at the site."""
        found = []
        for index, name in enumerate(self._charter.metrics):
            value = metrics.get(name)
            if value is not None and math.isfinite(value) and abs(value) * e.METRIC_SCALE < METRIC_LIMIT:
                found.append((index, round(value * e.METRIC_SCALE)))
        return tuple(found)

    def _too_large(self, metrics: Mapping[str, float], round_: int) -> list[Action]:
        """Say, once a metric, that it does not go on record: a loss that has left all bounds, most likely."""
        said: list[Action] = []
        for name in self._charter.metrics:
            value = metrics.get(name, 0.0)
            if math.isfinite(value) and abs(value) * e.METRIC_SCALE >= METRIC_LIMIT and name not in self._large:
                self._large.add(name)
                limit = METRIC_LIMIT / e.METRIC_SCALE
                text = f"metric {name!r} of round {round_} is {value:.3g}: the ledger holds less than {limit:.3g}"
                said.append(Report("metric_left_out", f"{text}, and it stays here", {"round": round_}, level="warning"))
        return said
