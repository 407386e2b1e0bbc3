"""SHELL. The trainer's supervisor: starts the worker process, asks it for work, and survives whatever user code does.

It never blocks the node's loop. A worker that exits, is killed, or makes no progress for `stall_s` is reported in one
sentence and replaced at the next request. Torch is imported there, not here.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgpack

from node.coalitions import terms_text
from node.export import SAFETENSORS
from node.forkserver import ForkedProcess
from node.framing import HEAD, framed
from node.loop.form import is_script
from node.passphrase import without_secrets
from node.processgroup import ProcessGroup, processors
from swarm.errors import UsageError
from swarm.mixing.momentum import Stretches
from swarm.privacy.accounting import Budget

LINE_CHARACTERS_MAX = 500
"""User output is passed on line by line, each cut here."""

MESSAGE_BYTES_MAX = 1 << 27
"""Largest message of a worker: a layout of 100,000 tensors."""


@dataclass(frozen=True, slots=True)
class Progress:
    """User code made an optimizer step."""

    round: int
    step: int
    steps: int = 0


@dataclass(frozen=True, slots=True)
class Described:
    """The model was built: `layout` is the encoded `swarm.vector.Layout`; its parameters are in the file asked for.

    `trained` as in `TrainDone`: of a model as it is built. `warnings` are sentences about what the task leaves
    undecided, `notes` about what becomes of each part of the model.
    """

    layout: bytes
    trained: Stretches | None = None
    warnings: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TrainDone:
    """Training ended well; the update is in the file asked for.

    `parameters` are the stretches [start, end) of it that are trained: all but buffers, such as running statistics, and
    what the task has frozen. None is all of it. `privacy` is the epsilon that this site has come to with it, in
    thousandths, and -log10 of its delta; zeros if it is not private. `longest` is the tensor that makes most of the
    update's norm, and which share of the squared norm, 0 to 1; ("", 0) where that is not known.
    """

    round: int
    samples: int
    metrics: Mapping[str, float]
    parameters: Stretches | None = None
    privacy: tuple[int, int] = (0, 0)
    longest: tuple[str, float] = ("", 0.0)


@dataclass(frozen=True, slots=True)
class EvaluateDone:
    """Evaluation ended well. `groups` is how many cases there are of each kind; empty if that is not known.

    `cases` is whether they are in the file asked for.
    """

    round: int
    samples: int
    metrics: Mapping[str, float]
    groups: tuple[int, ...] = ()
    cases: bool = False


@dataclass(frozen=True, slots=True)
class AppraiseDone:
    """A model of some of a round's updates has been evaluated. `groups` are as in `EvaluateDone`."""

    round: int
    samples: int
    metrics: Mapping[str, float]
    groups: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Exported:
    """A model, private parts and all, is in the file asked for."""

    round: int


@dataclass(frozen=True, slots=True)
class Tried:
    """A trial ended well. `finished` if the task came to the end of a whole round; the update is there then.

    `data` are lines about what the task's `load_data` returned: for this site's people alone.
    """

    finished: bool
    samples: int
    metrics: Mapping[str, float]
    steps: int
    load_s: float
    train_s: float
    data: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Failed:
    """A request (`kind` is describe, train, try, evaluate, appraise or export) failed; `text` is one sentence.

    `refused` is whether to ask again would not help: the site's privacy budget does not allow it. Where it is no fault
    of the task's, `hint` says what to do and `identifier` what it is called. `unscored` is an evaluation for which
    there is no function, and which nothing went wrong with.
    """

    kind: str
    round: int
    text: str
    refused: bool = False
    hint: str = ""
    identifier: str = ""
    unscored: bool = False


@dataclass(frozen=True, slots=True)
class LogLine:
    """A line user code printed, or a remark about what it returned."""

    text: str


@dataclass(frozen=True, slots=True)
class Noted:
    """A fact about the user's script that trains here in place of a worker: it came, or it went."""

    text: str


TrainerEvent: TypeAlias = (
    Progress | Described | TrainDone | Tried | EvaluateDone | AppraiseDone | Exported | Failed | LogLine | Noted
)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainerSettings:
    """What a worker needs to know. Paths are absolute. A budget of 0 steps or seconds a round is none.

    `processes` is how many train together; they share the `threads`. `coded` says that updates travel, and are kept, as
    messages of a codec, `salt` how many bytes lie behind each. `private` is where the site keeps what never leaves it;
    without, that ends with the worker. `local` is the charter's algorithm of local training (`swarm.mixing.local`), ""
    for none; `tracks` whether it has steps corrected; `rounds` how many it began with, 0 if not known. `budget` is what
    of privacy may be spent, by site and charter, `spending` where it is remembered; without that nothing leaves, and
    nothing is counted. `ledger` are the first 16 hexadecimal digits of the swarm's id.
    """

    task: Path
    data: Path
    site: str
    seed: int
    loader: Path | None = None
    device: str = "cpu"
    threads: int = 0
    processes: int = 1
    stall_s: float = 600.0
    round_steps: int = 0
    round_seconds: float = 0.0
    coded: bool = False
    salt: int = 0
    python: str = sys.executable
    forkserver: Path | None = None
    private: Path | None = None
    local: str = ""
    tracks: bool = False
    rounds: int = 0
    budget: Budget | None = None
    spending: Path | None = None
    ledger: str = ""


class Trainer:
    """One worker process at a time, one request at a time."""

    def __init__(self, settings: TrainerSettings) -> None:
        self._settings = settings
        self._process: subprocess.Popen[bytes] | ForkedProcess | ProcessGroup | None = None
        self._memory: tempfile.TemporaryDirectory[str] | None = None  # What a group keeps that is to be kept nowhere.
        self._link: socket.socket | None = None
        self._received = b""
        self._printed = b""
        self._requests: deque[dict[str, str | int]] = deque()
        self._current: dict[str, str | int] | None = None
        self._ready = False
        self._remarks: list[TrainerEvent] = []
        self._moved_at: float | None = None
        # The node polls one descriptor for its whole life; workers come and go behind it.
        self._selector = selectors.DefaultSelector()

    @property
    def settings(self) -> TrainerSettings:
        """What its workers are told."""
        return self._settings

    @property
    def bends(self) -> bool:
        """Whether it can take a correction in the steps of a training, and not only after the last."""
        return True

    @property
    def waiting(self) -> str:
        """What this site's people have to do before it can train, in words; empty if nothing."""
        return ""

    @property
    def unscored(self) -> str:
        """Why nobody here knows how good models are, in words; empty if that is known, or not yet asked for."""
        return ""

    def start(self) -> None:
        """Start the worker now, so that its imports overlap with the node's own start. Again, it does nothing."""
        if self._process is None:
            self._spawn()

    def fileno(self) -> int:
        """A descriptor that is readable when `poll` has something to say."""
        return self._selector.fileno()

    def describe(self, path: Path) -> None:
        """Build the model, write its initial parameters to `path`; answered by `Described`."""
        self._ask({"do": "describe", "path": str(path), "round": 0})

    def train(self, round_: int, model: Path, update: Path, *, rounds: int = 0, correction: Path | None = None) -> None:
        """Train a round from the model file; the update is written to `update`. `rounds` as of today, 0 as before.

        A `correction` is taken in the steps, if this trainer `bends`.
        """
        asked: dict[str, str | int] = {"do": "train", "round": round_, "model": str(model), "update": str(update)}
        self._ask(asked | {"rounds": rounds} | ({} if correction is None else {"correction": str(correction)}))

    def evaluate(self, round_: int, model: Path, *, which: str = "swarm", cases: Path | None = None) -> None:
        """Evaluate the model file, which a round ended with, or with `which` "personal" what this site makes of it.

        With `cases` what was true and what the model said is written there, case by case, if the task tells it.
        """
        request: dict[str, str | int] = {"do": "evaluate", "round": round_, "model": str(model), "which": which}
        self._ask(request if cases is None else {**request, "cases": str(cases)})

    def appraise(self, round_: int, model: Path, terms: Sequence[tuple[Path, int]]) -> None:
        """Evaluate what these updates alone, with their weights, make of a model; answered by `AppraiseDone`."""
        request: dict[str, str | int] = {"do": "appraise", "round": round_, "model": str(model)}
        form: dict[str, str | int] = {"coded": int(self._settings.coded), "salt": self._settings.salt}
        self._ask(request | form | {"terms": terms_text(terms)})

    def export(
        self,
        round_: int,
        model: Path,
        target: Path,
        origin: Mapping[str, str],
        *,
        which: str,
        form: str = SAFETENSORS,
    ) -> None:
        """Write the whole model that a round ended with, as for `evaluate`, to `target`; answered by `Exported`."""
        told = json.dumps(dict(origin), sort_keys=True)
        asked: dict[str, str | int] = {
            "do": "export",
            "round": round_,
            "model": str(model),
            "target": str(target),
            "origin": told,
        }
        self._ask({**asked, "which": which, "form": form})

    def try_out(self, model: Path, update: Path, seconds: float) -> None:
        """Train as in a round, but no longer than `seconds` after the first step; answered by `Tried`."""
        self._ask({"do": "try", "round": 0, "model": str(model), "update": str(update), "ms": round(1000 * seconds)})

    def abandon(self) -> None:
        """Give up what is under way or asked for, unanswered, and end the worker, which holds memory.

        The next request starts another. Describing the model goes on: the node cannot begin without it.
        """
        self._requests = deque(request for request in self._requests if request["do"] == "describe")
        if self._current is None or self._current["do"] != "describe":
            self._current = None
            self._reap(kill=True)

    def poll(self, now: float) -> list[TrainerEvent]:
        """Return what happened. Never blocks, never raises for anything user code did."""
        events: list[TrainerEvent] = [*self._remarks]
        self._remarks.clear()
        events += self._read_output()
        events += self._read_messages(now)
        if self._process is not None and self._process.poll() is not None:
            events += self._read_output()
            events += self._read_messages(now)
            events += self._died()
        if self._current is not None and self._moved_at is not None and now - self._moved_at > self._settings.stall_s:
            events += self._stalled()
        if self._current is not None and self._moved_at is None:
            self._moved_at = now
        self._next()
        return events

    def close(self) -> None:
        """End the worker."""
        self._reap(kill=True)
        self._selector.close()
        if self._memory is not None:
            self._memory.cleanup()

    # --- parts --------------------------------------------------------------------------------------------------

    def _spawn(self) -> None:
        settings = self._settings
        together = settings.processes > 1 and not is_script(settings.task)
        threads, private = settings.threads, settings.private
        if together:
            threads = max(1, (threads or processors()) // settings.processes)
            if private is None:  # Each would keep it in a memory of its own.
                self._memory = self._memory or tempfile.TemporaryDirectory(prefix="swarm-private-")
                private = Path(self._memory.name) / "own" / "kept"
        ours, theirs = socket.socketpair()
        arguments = ["--task", str(settings.task), "--data", str(settings.data), "--site", settings.site]
        arguments += ["--seed", str(settings.seed), "--device", settings.device, "--threads", str(threads)]
        arguments += ["--round-steps", str(settings.round_steps), "--round-seconds", str(settings.round_seconds)]
        if settings.loader is not None:
            arguments += ["--loader", str(settings.loader)]
        if private is not None:
            arguments += ["--private", str(private)]
        if settings.local:
            arguments += ["--local", settings.local]
        if settings.tracks:
            arguments += ["--tracks"]
        if settings.rounds:
            arguments += ["--rounds", str(settings.rounds)]
        if settings.budget is not None:
            arguments += ["--epsilon", repr(settings.budget.epsilon), "--delta", repr(settings.budget.delta)]
        if settings.spending is not None:
            arguments += ["--spending", str(settings.spending), "--ledger", settings.ledger]
        with theirs:
            if together:
                self._process = self._run_together(arguments, theirs)
            else:
                self._process = self._fork(arguments, theirs) or self._run(arguments, theirs)
        ours.setblocking(False)
        assert self._process.stdout is not None, "stdout is a pipe"
        os.set_blocking(self._process.stdout.fileno(), False)
        self._link, self._received, self._printed, self._ready = ours, b"", b"", False
        for source in (ours, self._process.stdout):
            self._selector.register(source, selectors.EVENT_READ)

    def _fork(self, arguments: Sequence[str], link: socket.socket) -> ForkedProcess | None:
        if self._settings.forkserver is None or is_script(self._settings.task):
            return None
        try:
            return ForkedProcess(self._settings.forkserver, arguments, link)
        except UsageError as error:
            self._remarks.append(LogLine(f"{error.message}; starting a process of its own"))
            return None

    def _run(self, arguments: Sequence[str], link: socket.socket) -> subprocess.Popen[bytes]:
        module = "node.loop.describing" if is_script(self._settings.task) else "node.worker"
        return subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
            [self._settings.python, "-m", module, "--fd", str(link.fileno()), *arguments],
            pass_fds=(link.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            env=_environment(),
            start_new_session=True,
        )

    def _run_together(self, arguments: Sequence[str], link: socket.socket) -> ProcessGroup:
        command = [self._settings.python, "-m", "node.worker", *arguments]
        shared = self._settings.threads or processors()
        return ProcessGroup(command, self._settings.processes, link, _environment(), processors=shared)

    def _ask(self, request: dict[str, str | int]) -> None:
        self._requests.append(request)
        self._next()

    def _next(self) -> None:
        """Hand out the next request when the worker is free; start one if there is none."""
        if self._current is None and self._requests:
            self._current = self._requests.popleft()
            self._moved_at = None
            if self._process is None:
                self._spawn()
            elif self._ready:
                self._send()

    def _send(self) -> None:
        assert self._link is not None, "a ready worker has a link"
        assert self._current is not None, "only a request is sent"
        data: bytes = msgpack.packb(self._current, use_bin_type=True)
        with contextlib.suppress(OSError):  # It may just have died; `poll` notices and says so.
            self._link.sendall(framed(data))

    def _read_messages(self, now: float) -> list[TrainerEvent]:
        if self._link is None:
            return []
        try:
            while part := self._link.recv(1 << 16):
                self._received += part
        except BlockingIOError:
            pass
        except OSError:
            return []
        events: list[TrainerEvent] = []
        while len(self._received) >= HEAD.size:
            length = HEAD.unpack_from(self._received)[0]
            if length > MESSAGE_BYTES_MAX:
                self._reap(kill=True)
                break
            if len(self._received) < HEAD.size + length:
                break
            body = self._received[HEAD.size : HEAD.size + length]
            self._received = self._received[HEAD.size + length :]
            events += self._understand(msgpack.unpackb(body, raw=False), now)
        return events

    def _understand(self, message: Mapping[str, object], now: float) -> Sequence[TrainerEvent]:
        self._moved_at = now
        did, error = message["did"], message.get("error")
        if did == "load":
            if error is not None:
                lines = self._read_output()
                self._reap(kill=True)  # It is ending by itself; the next request must not wait for this one.
                hint, identifier = str(message.get("hint", "")), str(message.get("id", ""))
                return [*lines, *self._fail(str(error), hint=hint, identifier=identifier)]
            self._ready = True
            if self._current is not None:
                self._send()
            return []
        if did == "step":
            return [Progress(int(str(message["round"])), int(str(message["step"])), int(str(message.get("steps", 0))))]
        if "ends" in message:  # Of several processes some cannot go on; the next request is for new ones.
            self._remarks += self._read_output()
            self._reap(kill=True)
        if error is not None:
            hint = str(message.get("hint", ""))
            return self._fail(str(error), refused=bool(message.get("refused")), hint=hint)
        self._current = None
        if did == "describe":
            layout: bytes = message["layout"]  # type: ignore[assignment]
            warnings: list[str] = message["warnings"]  # type: ignore[assignment]
            notes: list[str] = message["notes"]  # type: ignore[assignment]
            return [Described(layout, _stretches(message), (*warnings,), (*notes,))]
        remarks = [LogLine(str(remark)) for remark in message["remarks"]]  # type: ignore[attr-defined]
        round_, samples = int(str(message["round"])), int(str(message["samples"]))
        metrics: Mapping[str, float] = message["metrics"]  # type: ignore[assignment]
        if did == "try":
            data: list[str] = message["data"]  # type: ignore[assignment]
            steps, load_ms, train_ms = (int(str(message[name])) for name in ("steps", "load_ms", "train_ms"))
            tried = Tried(bool(message["finished"]), samples, metrics, steps, load_ms / 1000, train_ms / 1000, (*data,))
            return [*remarks, tried]
        if did == "appraise":  # What the task has to remark was said of the round's own model.
            return [AppraiseDone(round_, samples, metrics, (*message["groups"],))]  # type: ignore[misc]
        if did == "train":
            privacy: list[int] = message.get("privacy", [0, 0])  # type: ignore[assignment]
            longest = (str(message.get("longest", "")), float(str(message.get("share", 0.0))))
            spent = (privacy[0], privacy[1])
            return [*remarks, TrainDone(round_, samples, metrics, _stretches(message), spent, longest)]
        if did == "export":
            return [*remarks, Exported(round_)]
        groups: list[int] = message["groups"]  # type: ignore[assignment]
        return [*remarks, EvaluateDone(round_, samples, metrics, (*groups,), bool(message["cases"]))]

    def _fail(
        self, text: str, *, refused: bool = False, hint: str = "", identifier: str = ""
    ) -> Sequence[TrainerEvent]:
        current, self._current = self._current, None
        if current is None:
            return [LogLine(text)]
        return [Failed(str(current["do"]), int(current["round"]), text, refused, hint, identifier)]

    def _died(self) -> Sequence[TrainerEvent]:
        assert self._process is not None, "only a process dies"
        code = self._process.wait()
        who = self._process.who if isinstance(self._process, ProcessGroup) else "the training process"
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        self._reap(kill=False)
        if self._current is None:
            return []
        return self._fail(f"{who} {how}; it will be started again (its last output is in the log)")

    def _stalled(self) -> Sequence[TrainerEvent]:
        self._reap(kill=True)
        wait, count = f"{self._settings.stall_s:g} s", self._settings.processes
        waiting = f" (or one of its {count} processes waits for another)" if count > 1 else ""
        return self._fail(
            f"the task made no optimizer step for {wait}{waiting} and was stopped; raise task.stall_s if it only needs"
            " longer"
        )

    def _reap(self, *, kill: bool) -> None:
        if self._process is None:
            return
        if kill:
            self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None, "stdout is a pipe"
        for source in (self._process.stdout, self._link):
            if source is not None:
                self._selector.unregister(source)
                source.close()
        self._process = self._link = None
        self._ready = False

    def _read_output(self) -> list[TrainerEvent]:
        if self._process is None or self._process.stdout is None:
            return []
        try:
            while part := os.read(self._process.stdout.fileno(), 1 << 16):
                self._printed += part
        except BlockingIOError:
            pass
        except OSError:
            return []
        *lines, self._printed = self._printed.split(b"\n")
        self._printed = self._printed[-LINE_CHARACTERS_MAX:]
        return [LogLine(line[:LINE_CHARACTERS_MAX].decode(errors="replace")) for line in lines if line.strip()]


def _environment() -> dict[str, str]:
    root = str(Path(__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
    return {**without_secrets(os.environ), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1"}


def _stretches(message: Mapping[str, object]) -> Stretches:
    bounds: list[int] = message["parameters"]  # type: ignore[assignment]
    return tuple(zip(bounds[::2], bounds[1::2], strict=True))
