"""SHELL. The honest baseline: the same task, from the same initial model, for as many rounds, on one site's own data.

"The swarm's model is better" means better than what this site would have without the swarm, and that is not the model
of round 1. So a site can train on by itself once the run is over: in a worker process of its own, which is ended the
moment the swarm wants something of this site again, so that no round ever waits for it. Each round is durable when the
next begins. Whoever is killed in between goes on from there, with the same seeds, and ends with the same model.

::

    alone/
      state.json                whose it is, the round, the model's file and its digest
      round-0007.f32            the model after that round
      private/                  what of it is private, by whose it is
      result.json               what evaluate() said of the last one, with how many samples
      lock                      one process at a time
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import select
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from node.clock import Clock
from node.storage import DirectoryLock, store_error, write_file_durably
from node.trainer import Described, EvaluateDone, Failed, LogLine, TrainDone, Trainer, TrainerEvent, TrainerSettings
from swarm.errors import StoreError, SwarmError, UsageError
from swarm.machine import Report
from swarm.vector import blob_digest, leaf_hashes


@dataclass(frozen=True, slots=True, kw_only=True)
class Baseline:
    """What is to be trained: for how many `rounds`, from the outcome of the digest `initial`, which may lie in `blobs`.

    That is a model and `slots` times as much for an outer optimiser's memory (`swarm.mixing.outer`), which is zero.
    `owner` says for which ledger and task: what was trained for another is begun anew.
    """

    owner: str
    rounds: int
    initial: bytes
    blobs: Path
    slots: int = 0


@dataclass(frozen=True, slots=True)
class Kept:
    """How far a site has come alone. `samples` is how many it trained on in its last round."""

    round: int
    model: Path
    samples: int


def kept(folder: Path, owner: str) -> Kept | None:
    """Return how far the training of this owner has come; None if there is nothing, or nothing whole."""
    try:
        state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
        found = Kept(int(state["round"]), folder / Path(str(state["model"])).name, int(state["samples"]))
        whole = hashlib.sha256(found.model.read_bytes()).hexdigest() == state["sha256"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return found if whole and state.get("owner") == owner else None


def owner_of(ledger_id: bytes, task_digest: bytes) -> str:
    """Return whose baseline it is, in hex."""
    return hashlib.sha256(b"swarm/alone" + ledger_id + task_digest).hexdigest()


def by_itself(settings: TrainerSettings, folder: Path, owner: str) -> TrainerSettings:
    """Return what the trainer of a baseline needs to know.

    What a model keeps at the site (`node.private`) it keeps apart from what the swarm's model does, and nothing is
    added to its training that only means something among others.
    """
    own = folder / "private" / owner[:16]
    return replace(
        settings, private=own, local="", tracks=False, budget=None, spending=None
    )  # Nobody sees what comes of it.


class Alone:
    """The training of one site alone, driven by events as the node's own is. Nothing happens before `begin`."""

    def __init__(self, folder: Path, settings: TrainerSettings) -> None:
        self._folder, self._settings = folder, settings
        self._update, self._start = folder / "update.f32", folder / "initial.f32"
        self._trainer: Trainer | None = None
        self._lock: DirectoryLock | None = None
        self._baseline: Baseline | None = None
        self._kept: Kept | None = None

    @property
    def busy(self) -> bool:
        """Whether there is something left to do, and it is being done."""
        return self._trainer is not None

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something to say; only while it is busy."""
        assert self._trainer is not None, "who is not busy has none"
        return self._trainer.fileno()

    def begin(self, baseline: Baseline) -> list[Report]:
        """Train on from where it was left. Nothing, if it is done or under way."""
        if self.busy or self._finished(baseline):
            return []
        try:
            self._lock = _locked(self._folder)
        except (StoreError, UsageError) as error:
            return [Report("alone_failed", error.message, level="warning")]
        self._baseline, self._kept = baseline, kept(self._folder, baseline.owner)
        (self._folder / "result.json").unlink(missing_ok=True)
        self._trainer = Trainer(by_itself(self._settings, self._folder, baseline.owner))
        self._trainer.start()
        self._trainer.describe(self._start)
        done = 0 if self._kept is None else self._kept.round
        text = f"training alone, for comparison: {done} of {baseline.rounds} rounds are done"
        return [Report("alone_began", text, {"round": done})]

    def stop(self) -> None:
        """End the worker. What it was at is done again when this begins the next time."""
        if self._trainer is not None:
            self._trainer.close()
        if self._lock is not None:
            self._lock.close()
        self._trainer = self._lock = None

    def poll(self, now: float) -> list[Report]:
        """Return what happened. Never blocks for user code."""
        said: list[Report] = []
        for event in self._trainer.poll(now) if self._trainer is not None else ():
            if not self.busy:
                break  # The one before was the last.
            try:
                said += self._take(event)
            except SwarmError as error:
                said.append(self._fail(error.message))
        return said

    def _take(self, event: TrainerEvent) -> list[Report]:
        assert self._baseline is not None, "it has begun"
        assert self._trainer is not None, "it has begun"
        match event:
            case Described():
                if self._kept is None:
                    self._kept = self._keep(0, self._initial(self._baseline), samples=0)
                self._next(self._baseline, self._kept, self._trainer)
            case TrainDone():
                assert self._kept is not None, "a round begins with a model"
                model = np.fromfile(self._kept.model, "<f4") + np.fromfile(self._update, "<f4")
                self._kept = self._keep(event.round, model.astype("<f4"), samples=event.samples)
                self._next(self._baseline, self._kept, self._trainer)
                text = f"trained round {event.round} of {self._baseline.rounds} alone"
                return [Report("alone_trained", text, {"round": event.round}, level="debug")]
            case EvaluateDone():
                metrics = dict(event.metrics)
                result = {"round": event.round, "samples": event.samples, "metrics": metrics}
                write_file_durably(self._folder / "result.json", json.dumps(result, sort_keys=True).encode() + b"\n")
                self.stop()
                text = f"trained {event.round} rounds alone; `swarm evaluate` compares the swarm's model with that"
                return [Report("alone_done", text, {**metrics, "round": event.round, "samples": event.samples})]
            case Failed():
                return [self._fail(event.text)]
            case LogLine():
                return [Report("task_output", event.text, level="debug")]
            case _:
                pass
        return []

    def _next(self, baseline: Baseline, now: Kept, trainer: Trainer) -> None:
        if now.round < baseline.rounds:
            trainer.train(now.round + 1, now.model, self._update)
        else:
            trainer.evaluate(now.round, now.model)

    def _initial(self, baseline: Baseline) -> np.ndarray:
        """Return the model that the swarm started from: as it lies in the store, or as the task builds it."""
        held = baseline.blobs / baseline.initial.hex()
        for path in (held, self._start):
            with contextlib.suppress(FileNotFoundError):
                found = np.fromfile(path, "<f4")
                whole = found if path == held else np.concatenate([found, np.zeros(baseline.slots * found.size, "<f4")])
                if blob_digest(whole.nbytes, leaf_hashes(whole.data)) == baseline.initial:
                    return whole[: whole.size // (1 + baseline.slots)]
        raise UsageError("couldn't train alone: this site has not the model that the swarm started from")

    def _keep(self, round_: int, model: np.ndarray, *, samples: int) -> Kept:
        """Write a round's model, then that it is there, and only then let go of the one before."""
        assert self._baseline is not None, "it has begun"
        path, data = self._folder / f"round-{round_:04d}.f32", model.tobytes()
        write_file_durably(path, data)
        digest = hashlib.sha256(data).hexdigest()
        state = {"owner": self._baseline.owner, "round": round_, "model": path.name, "sha256": digest}
        text = json.dumps({**state, "samples": samples}, sort_keys=True)
        write_file_durably(self._folder / "state.json", text.encode() + b"\n")
        for old in self._folder.glob("round-*.f32"):
            if old != path:
                old.unlink(missing_ok=True)
        for passing in (self._update, self._start):
            passing.unlink(missing_ok=True)
        return Kept(round_, path, samples)

    def _finished(self, baseline: Baseline) -> bool:
        now = kept(self._folder, baseline.owner)
        return now is not None and now.round >= baseline.rounds and result_of(self._folder) is not None

    def _fail(self, why: str) -> Report:
        self.stop()
        return Report("alone_failed", f"training alone failed: {why}", level="warning")


def result_of(folder: Path) -> Mapping[str, object] | None:
    """Return what a finished baseline reached: its round, samples and metrics."""
    try:
        result = json.loads((folder / "result.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return result if isinstance(result, dict) else None


def train_alone(folder: Path, settings: TrainerSettings, baseline: Baseline, tell: Callable[[str], None]) -> None:
    """Train to the end, here and now, from where it was left.

    Raises:
        SwarmError: user code failed, or another process trains it.
    """
    alone, clock = Alone(folder, settings), Clock()
    said = alone.begin(baseline)
    try:
        while True:
            for report in said:
                if report.event == "alone_failed":
                    raise SwarmError(f"couldn't train alone: {report.text}", hint="mend what it names, and try again")
                tell(report.text)
            if not alone.busy:
                return
            select.select([alone.fileno()], [], [], 0.5)
            said = alone.poll(clock.now())
    finally:
        alone.stop()


def _locked(folder: Path) -> DirectoryLock:
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise store_error(f"make {folder}", error) from error
    try:
        return DirectoryLock(folder / "lock")
    except UsageError:
        raise UsageError(f"another process trains in {folder}") from None
