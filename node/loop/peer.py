"""SHELL. What a user's script holds: this site's peer, one round after another, with the script in charge.

::

    peer = swarm.join(sys.argv[1], model)
    while peer.running:
        model = peer.receive()
        ...  # train as before
        peer.send(model, samples=len(data), metrics={"loss": loss})

The node is another process: `swarm start`, found if it runs already, started and ended by the script if not. Either may
be killed at any moment. A script that comes back is asked for the round again; a node that comes back finds the script
waiting, and takes what was trained meanwhile if the round is still that one.

What a script may rely on: between `receive` and `send` nothing touches the model; evaluations run inside `running` and
`receive`, on the same thread; after the last round the model holds what the swarm has learned.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import json
import os
import re
import select
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from node.cli.control import ask
from node.cli.output import OK, SUBSET, UNAVAILABLE, Failure
from node.clock import Clock, sleep
from node.declared import Declared
from node.egress.policy import policy_of
from node.evaluation import Evaluation as Scored
from node.evaluation import read_result
from node.export import round_of
from node.framing import receive
from node.loop import describing, protocol
from node.loop.declarations import check_terms, declared_by, running
from node.loop.parameters import Parameters, check_received, core, difference, parameters_of, write_update
from node.private import Own, PrivateFolder, check_folder
from node.scoring.cases import holds_cases
from node.site import Site
from node.tables.whole import check_whole
from node.task import Budget, checked_result, round_seed, task_digest
from swarm import charter as terms
from swarm.errors import SwarmError, UsageError
from swarm.vector import Layout, Vector, flatten

if TYPE_CHECKING:
    from node.loop.together import SharedPeer

START_S = 90.0
"""A node that was started listens by then, on a busy machine too."""

CHILD_STOP_S = 20.0
"""How long a node may take to stop before it is killed."""

ENDING = (signal.SIGTERM, signal.SIGHUP)
"""What a service manager ends a script with, and a terminal that is closed. Ctrl-C is an exception in Python anyway."""

ASK_S = 1.0
"""Between questions to the node how things stand, while it wants nothing."""

PROGRESS_S = 0.2
"""Between messages of progress: steps of small models come by the thousand."""

LINKED_AGAIN_S = 0.2

UNSCORED = (
    "nobody will know how good this site's models are: the script registers no function with peer.evaluate(); rounds"
    " count all the same"
)

_TORCHRUN = re.compile(r"(LOCAL_|GROUP_|ROLE_)?(RANK|WORLD_SIZE)$|ROLE_NAME$|MASTER_(ADDR|PORT)$|TORCHELASTIC_")
"""Variables that `torchrun` sets."""

Evaluation = Callable[[Any], Mapping[str, Any]]

P = ParamSpec("P")
T = TypeVar("T")


def _with_hints(function: Callable[P, T]) -> Callable[P, T]:
    """Let an error that ends a script say what to do about it, too: a traceback shows notes."""

    @functools.wraps(function)
    def told(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return function(*args, **kwargs)
        except SwarmError as error:
            note = f"hint: {error.hint}"
            if error.hint and note not in getattr(error, "__notes__", ()):
                error.add_note(note)
            raise

    return told


@_with_hints
def join(folder: str | Path, model: object, *, evaluate: Evaluation | None = None) -> Peer | SharedPeer:
    """Return the peer of the site in `folder`, with `model` as what the swarm learns; start its node if none runs.

    `model` is a `torch.nn.Module`, or a dict of NumPy arrays that are trained in place. `evaluate` is as in
    `Peer.evaluate`. Where a charter is being drafted (`swarm charter new`), this takes note of the model and ends the
    script. Of several processes that `torchrun` has started, each has to call this; they hold the peer together.

    What the script declares of the model's parts at its top level, as `private = ["head.*"]`, holds here, too.

    Raises:
        UsageError: there is no site or no charter; this is not the charter's script; the model has another layout; the
            script declares, or the charter asks for, what no script can do.
        SwarmError: the node does not start; the sentence ends with what it said.
    """
    describing.capture(model)
    site = Site(Path(folder).resolve())
    settings = site.load_settings()
    signed = site.load_charter(settings)
    check_script(signed, site.folder / settings.task.file)
    check_terms(signed.charter, "couldn't join")
    script, names = running()
    said = Declared() if script is None else declared_by(script, names)
    parameters = parameters_of(model, said, Path() if script is None else script.parent)
    check_layout(signed, parameters.layout, site)
    if parameters.warning and os.environ.get("RANK", "0") == "0":
        say(f"warning: {parameters.warning}")
    peer = Peer(site, signed, parameters, model, said=say, declared=said)
    shared = _held_by_all(peer, parameters, model) if _several() else None
    if shared is None or shared.rank == 0:
        try:
            peer.begin()
        except BaseException:
            peer.close()  # A notebook goes on after an error, and nobody else has this peer.
            raise
    joined = shared or peer
    if evaluate is not None:
        joined.evaluate(evaluate)
    return joined


def _several() -> bool:
    """Whether this process is one of several that `torchrun` has started."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


def _held_by_all(peer: Peer, parameters: Parameters, model: object) -> SharedPeer:
    from node.loop.together import SharedPeer

    if own := sorted(parameters.own()):
        raise UsageError(
            f"couldn't join in several processes: {own[0]} stays at this site, and only the first would know it",
            hint="train in one process, or write the task as a file of four functions and set task.processes",
        )
    return SharedPeer(peer, parameters, model, budgeted=peer.budgeted)


def say(line: str) -> None:
    """Tell the person who runs the script."""
    print(f"swarm: {line}", file=sys.stderr, flush=True)  # noqa: T201 - the script's own terminal


def check_script(signed: terms.SignedCharter, task: Path) -> None:
    """Raise `UsageError` unless the script that runs is the one that all sites have agreed to."""
    agreed = signed.charter.task.digest
    running = getattr(sys.modules.get("__main__"), "__file__", None)
    if running is None:
        raise UsageError(
            "couldn't join from an interactive session: the charter names the script by its digest",
            hint=f"run `python {task.name}`; to try things out in a notebook there is Swarm.local()",
        )
    if task_digest(Path(running)) != agreed:
        raise UsageError(
            f"couldn't join: {Path(running).name} is not the script that the charter was made with",
            hint=f"all sites run the same file, whose SHA-256 begins {agreed.hex()[:16]}; a changed one needs a new"
            " charter (`swarm charter new --task`)",
            identifier="SWARM-TASK-FILE",
        )


def check_layout(signed: terms.SignedCharter, layout: Layout, site: Site) -> None:
    """Raise `UsageError` unless a model has the charter's layout; say which tensor differs, if that is known."""
    task = signed.charter.task
    if layout.digest() == task.layout:
        return
    why = f"it has {layout.elements:,} parameters and the charter's {task.parameters:,}"
    known = site.run / "layout"
    if known.is_file() and (expected := Layout.decode(known.read_bytes())).digest() == task.layout:
        why = difference(layout, expected)
    elif layout.elements == task.parameters:
        why = "it has as many parameters, under other names or in other shapes"
    raise UsageError(
        f"couldn't join: the model is not the charter's: {why}",
        hint="build the model in the same way everywhere, whatever this site's data are like",
        identifier="SWARM-TASK-MODEL",
    )


@dataclass(frozen=True, slots=True)
class _Result:
    """The model that a run has ended with: its round, and the file, which is one of this run's."""

    round: int
    path: Path

    def arrays(self) -> Mapping[str, Any]:
        """Return its tensors by name; none if they cannot be read."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        try:
            return load_file(self.path)
        except (SafetensorError, OSError, ValueError):
            return {}


class Peer:
    """One site's place in the swarm, for the length of a script. Made by `join`.

    Attributes:
        name: The site's.
        data: Its data folder or file, as its settings have it.
        rounds: How many the swarm means to learn, by its policy of today. It may stop before.
        index: This site's place among the charter's founders, from 0; -1 if it joined later.
        sites: How many founders there are.
        rank: Which of the processes that hold this peer together this one is; here 0, as it is alone.
        processes: How many there are (`node.loop.together`); here 1.
        round: The one in work, from 1.
        seed: A seed for that round, other at each site, the same when it is repeated. For the script to use, or not.
        scoring: The round whose common model was given to evaluate last.
    """

    def __init__(
        self,
        site: Site,
        signed: terms.SignedCharter,
        parameters: Parameters,
        model: object,
        *,
        said: Callable[[str], None],
        declared: Declared | None = None,
        thread: int | None = None,
        stopping: Callable[[], bool] = lambda: False,
    ) -> None:
        settings = site.load_settings()
        self.name = settings.site.name
        self.data = site.folder / settings.task.data
        self.rounds = signed.charter.round.rounds
        self.rank, self.processes = 0, 1
        self.round = 0
        self.seed = 0
        self.scoring = 0
        self._stopping = stopping
        self._seed = signed.charter.task.seed
        self._bound = policy_of(settings.egress).bound(signed.charter)
        place = signed.charter.index(site.node())
        self.index, self.sites = -1 if place is None else place, len(signed.charter.members)
        self._ledger = signed.ledger_id.hex()
        self._site, self._parameters, self._model, self._say = site, parameters, model, said
        self._declared = declared or Declared()
        self._keeps = bool(parameters.own())
        private = site.private / self._ledger[:16]
        self._private = PrivateFolder(private if self._keeps else None)
        if self._keeps:
            check_folder(private)
        self._budget = Budget(settings.task.round_steps, settings.task.round_seconds)
        self._evaluation: Evaluation | None = None
        self._clock = Clock()
        self._link: socket.socket | None = None
        self._child: subprocess.Popen[bytes] | None = None
        self._request: dict[str, Any] | None = None  # to train a round, and not begun
        self._working: dict[str, Any] | None = None  # the same, begun
        self._base: Vector | None = None
        self._unscored = False  # whether that was said
        self._metrics = signed.charter.metrics
        self._unseen: bool | None = None  # whether others see none of what this site measures; not known at first
        self._failure = ""  # how the last evaluation failed, in words
        self._over = ""  # how the run ended, in words
        self._done_at = 0.0  # when the node said first that it is
        self._open_after = 0  # the round of a model that was exported and not the last one
        self._steps, self._told_at, self._began_at = 0, 0.0, 0.0
        self._asked_at, self._state = 0.0, ""
        self._dropped: set[int] = set()  # tickets
        self._thread = thread
        self._hook = _count_steps(self._on_step)
        self._caught: list[int] = []  # signals
        atexit.register(self._leave)  # A script that forgets must not leave a node behind that waits for it for ever.

    # --- the loop -----------------------------------------------------------------------------------------------

    @property
    @_with_hints
    def running(self) -> bool:
        """Whether there is another round to train. Waits until that is known, evaluating meanwhile what is asked.

        Raises:
            SwarmError: the run failed, or the node ended and says why.
        """
        while self._request is None and not self._over:
            self._listen()
        return self._request is not None

    @_with_hints
    def receive(self) -> Any:
        """Write the parameters of the next round into the model and return it. Waits until there is a round.

        Raises:
            SwarmError: the run is over, or as `running`.
        """
        if not self.running:
            raise SwarmError(f"couldn't receive a model: {self._over}", hint="write the loop as `while peer.running:`")
        request, self._request = self._request, None
        assert request is not None, "running said so"
        self._load(str(request["model"]), after=int(request["round"]) - 1)
        self._working, self.round, self._steps = request, int(request["round"]), 0
        self.rounds = int(request.get("rounds", 0)) or self.rounds
        self.seed = round_seed(self._seed, self.name, self.round)
        self._began_at = self._clock.now()
        self._tell_step()
        return self._model

    @_with_hints
    def send(
        self,
        model: object = None,
        *,
        samples: int,
        metrics: Mapping[str, Any] | None = None,
        evaluation: Mapping[str, Any] | None = None,
    ) -> bool:
        """Hand in what was trained since `receive`. Return whether the node took it.

        It does not if it has been paused meanwhile, was away and the round went on without this site, or if a tensor is
        not finite: that is said by its name, and the round is asked for again a few times.

        Args:
            model: The one that was trained; the one that was joined with unless given.
            samples: On how many examples: the swarm weights sites by it.
            metrics: Of the training, by name. What of them others see, the charter says.
            evaluation: {"samples": ..., "accuracy": ...}, or cases as in `evaluate`, of the model as received, on
                held-out data. Leave it out where a function does it (`evaluate`).

        Raises:
            UsageError: nothing was received before, the model has another layout, a count is none, or a state that is
                right as a whole only (`node.tables.whole`) is over the norm that this site's updates may have.
            SwarmError: as `running`, or there is no room on the disk.
        """
        work, base = self._working, self._base
        if work is None or base is None:
            raise UsageError("couldn't send: nothing was received since the last time", hint="call receive() first")
        trained = self.parameters_of(model)
        count, numbers, remarks = checked_result({**plain(metrics or {}), "samples": samples}, "send")
        scores = None
        if evaluation is not None:
            read = read_result(plain(evaluation))
            scores, remarks = _scores(evaluation, read), [*remarks, *read.remarks]
            self._compare_names(scores)
        elif self._evaluation is None and not self._unscored:
            self._unscored = True
            self._say(UNSCORED)
        for remark in remarks:
            self._say(remark)
        vector = trained.read()  # A node that comes back may have the model evaluated first, which overwrites it.
        check_whole(self._model, vector, base, self._bound)
        self._working = None
        bounds = [bound for stretch in trained.trained() for bound in stretch]
        self._keep(trained)
        self._drain()
        lost = self._link is None
        while (request := self._asked_for(work, lost=lost)) is not None:
            self._request = None
            try:
                longest, share = write_update(vector, base, trained.layout, Path(str(request["update"])))
            except UsageError as error:  # The node tries a few times, as it does with a task that fails.
                self._say(error.sentence)
                ticket = int(request["ticket"])
                self._answer(protocol.Reply("train", ticket=ticket, round=self.round, error=error.sentence))
                return False
            reply = protocol.Reply(
                "train",
                ticket=int(request["ticket"]),
                round=self.round,
                samples=count,
                metrics=numbers,
                parameters=bounds,
                longest=longest,
                share=share,
                evaluation=scores,
            )
            if self._answer(reply):
                return True
            lost = True
        if not self._over:
            self._say(f"round {self.round} went on without this work: {self._state or 'the node was away'}")
        return False

    def parameters_of(self, model: object) -> Parameters:
        """Return the state of a model that was trained: the one joined with, also in a wrapper, or one built alike.

        Raises:
            UsageError: it has other tensors than the one that was received, or what is frozen was trained.
        """
        if model is None or core(model) is core(self._model):
            trained = self._parameters
        else:
            # What to begin with is behind it: reading the file again would undo the training.
            said = replace(self._declared, initial="", initial_sha256="")
            # A model that was joined with in a wrapper goes by the names that the wrapper gives its tensors.
            wrapped = core(self._model) is not self._model
            trained = parameters_of(model if wrapped else core(model), said)
        check_received(trained, self._parameters)
        trained.check_frozen()
        return trained

    def evaluate(self, function: Evaluation) -> Evaluation:
        """Let `function(model)` score each round's common model.

        It returns {"samples": ..., "accuracy": ...}, or the held-out cases themselves, {"labels": ..., "scores": ...},
        from which metrics are computed here as in a task file (`node.scoring.cases`); no case leaves this process.

        It runs inside `running` and `receive`. May be used as a decorator. A module is in evaluation mode
        meanwhile, and no gradients are recorded.
        """
        self._evaluation = function
        return function

    @property
    def budgeted(self) -> bool:
        """Whether this site limits what a round takes."""
        return self._budget != Budget()

    def enough(self) -> bool:
        """Whether this site's budget for a round is spent (`task.round_steps`, `task.round_seconds`). Not at first."""
        return self._steps > 0 and self._budget.spent(self._steps, self._clock.now() - self._began_at)

    def step(self) -> None:
        """Say that training goes on, where no torch optimizer steps: so the node tells a slow site from a stuck one."""
        self._on_step()

    # --- beginning and end --------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Find the node, or start it, and be its trainer. Raises `SwarmError`."""
        protocol.check_path(self._path)
        if self._connect():
            return
        if self._complete():
            # A node that nobody else needs would wait for the others, who need not be there any more.
            self._finish("DONE", "the run is complete")
            result = self._result()
            self._say(f"the run was complete already; the model is {'gone' if result is None else result.path}")
            return
        self._start()
        self._await_node()

    def wait_for(self, node: subprocess.Popen[bytes] | None) -> None:
        """Be the trainer of a node that somebody else has started and ends. Raises `SwarmError` if that ends first."""
        while not self._connect() and not self._stopping():
            if node is not None and node.poll() is not None:
                raise SwarmError(
                    f"the node of {self.name} ended with code {node.returncode} before it listened",
                    hint=f"read {self._site.folder / 'log.txt'}",
                )
            sleep(LINKED_AGAIN_S)

    def close(self) -> None:
        """Leave. A node that this script started is ended: when everybody has the result if the run is over, else now.

        Nothing is lost: started again, both go on where they were.
        """
        atexit.unregister(self._leave)
        self._hook()
        self._lose_link()
        child, self._child = self._child, None
        try:
            if self._over and child is not None and child.poll() is None:
                self._say("giving the result to sites that are behind; Ctrl-C ends that")
                child.wait()
        except KeyboardInterrupt:
            pass
        finally:
            if child is not None:
                _stop(child)
            for number in self._caught:
                signal.signal(number, signal.SIG_DFL)
            self._caught.clear()

    def _leave(self) -> None:
        """Leave as the script ends, with the exit code that it ends with."""
        with contextlib.suppress(SystemExit):
            self.close()

    def _catch_signals(self) -> None:
        """Let a signal that ends this script end the node that it has started, too, unless the script has its own way.

        Nobody else would: that node waits for its script, in a session of its own.
        """
        if threading.current_thread() is not threading.main_thread():
            return
        own = os.getpid()

        def end(number: int, _: object) -> None:
            if os.getpid() == own:
                raise SystemExit(128 + number)  # As shells tell it; what is to be done at the end is done.
            signal.signal(number, signal.SIG_DFL)  # A process that the script has forked, to load its data.
            signal.raise_signal(number)

        for number in ENDING:
            if signal.getsignal(number) is signal.SIG_DFL:
                signal.signal(number, end)
                self._caught.append(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- the node -----------------------------------------------------------------------------------------------

    @property
    def _path(self) -> Path:
        return protocol.socket_path(self._site.run)

    def _connect(self) -> bool:
        """Whether there is a node that takes this script. Raises `SwarmError` if there is one that refuses it."""
        link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            link.connect(str(self._path))
            hello = protocol.Reply("load", protocol=protocol.PROTOCOL, layout=self._parameters.layout.digest())
            protocol.send(link, hello)
        except OSError:
            link.close()
            return False
        self._link = link
        return True

    def _start(self) -> None:
        """Start `swarm start`, in a session of its own: Ctrl-C is for the script, which then ends it."""
        self._say(f"starting the node of {self.name}; what it says is in {self._log}")
        self._catch_signals()
        root = str(Path(__file__).resolve().parents[2])
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        self._log.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        command = [sys.executable, "-m", "node.cli.main", "start", str(self._site.folder), "--exit-when-done"]
        # To whatever the node starts, this script must not look like one of several processes that wait for it.
        kept = {name: value for name, value in os.environ.items() if not _TORCHRUN.match(name)}
        with self._log.open("ab") as log:
            self._child = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                [*command, "--set", "run.log=text", "--set", "run.log_task=true"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**kept, "PYTHONPATH": search},
                start_new_session=True,
            )

    @property
    def _log(self) -> Path:
        return self._site.run / "node.log"

    def _await_node(self) -> None:
        """Wait until a node takes this script: for a child as long as a start may take, else as long as it takes.

        Or until there is none because the run is complete.
        """
        deadline = self._clock.now() + START_S
        told = False
        while not self._connect():
            if self._stopping():
                self._finish("STOPPED", "this process ends it")
                return
            if self._child is not None:
                if self._child.poll() is not None:
                    self._child_ended(self._child)
                    if self._over:
                        return
                elif self._clock.now() > deadline:
                    raise SwarmError(
                        f"couldn't join: the node does not listen after {START_S:g} s", hint=f"read {self._log}"
                    )
            elif self._complete():
                self._finish("DONE", "the run is complete")
                return
            elif not told:
                self._say(f"no node runs for {self.name} now; waiting for `swarm start {self._site.folder}`")
                told = True
            sleep(LINKED_AGAIN_S)
        if told:
            self._say(f"the node of {self.name} is back")

    def _child_ended(self, child: subprocess.Popen[bytes]) -> None:
        """Judge how the node ended that this script started: start it again if it was killed."""
        code = child.wait()
        self._child = None
        if code in (OK, SUBSET):
            self._finish("DONE", "the run is complete")
        elif code < 0:
            self._say(f"the node was killed by {signal.Signals(-code).name}; starting it again")
            self._start()
        elif code == UNAVAILABLE and self._connect():
            self._lose_link()  # Another was quicker, and is used.
        else:
            lines = [line for line in self._log.read_text(errors="replace").splitlines() if line.strip()]
            error = next((line for line in reversed(lines) if line.startswith("error: ")), *lines[-1:])
            raise SwarmError(
                f"the node of {self.name} ended with code {code}: {str(error).removeprefix('error: ')}",
                hint=f"read {self._log}",
            )

    def _lose_link(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    # --- listening ----------------------------------------------------------------------------------------------

    def _listen(self) -> None:
        """Wait for the node a while, and do what it asks for."""
        if self._link is None:
            self._await_node()
            if self._link is None:
                return
        readable, _, _ = select.select([self._link], [], [], ASK_S / 2)
        if readable:
            message = receive(self._link)
            if message is None:
                self._lose_link()
                self._request = None
                if self._child is not None:
                    self._reap()
                return
            self._obey(message)
        elif self._clock.now() >= self._asked_at + ASK_S:
            self._asked_at = self._clock.now()
            self._look()

    def _reap(self) -> None:
        """A link that closed may be a child that ends: its last words come first."""
        assert self._child is not None, "asked for a child"
        try:
            self._child.wait(ASK_S)
        except subprocess.TimeoutExpired:
            return
        self._child_ended(self._child)

    def _obey(self, message: Mapping[str, Any]) -> None:
        match message.get("do"):
            case "train":
                self._request = dict(message)
            case "evaluate":
                self._answer(self._evaluated(message))
            case "drop":
                self._dropped.add(int(message["ticket"]))
                if self._request is not None and self._request["ticket"] in self._dropped:
                    self._request = None
                self._state = "this site rests"
            case "refuse":
                self._lose_link()
                raise SwarmError(
                    f"couldn't join: {message.get('why')}", hint="`swarm status` shows how the site stands"
                )
            case str(kind) if "ticket" in message:
                # A newer node may ask for more. Without an answer it would wait, and take this script for stuck.
                error = f"a script does not {kind}"
                ticket, round_ = int(message["ticket"]), int(message.get("round", 0))
                self._answer(protocol.Reply(kind, ticket=ticket, round=round_, error=error))
            case _:
                pass

    def _drain(self) -> None:
        """Take in what the node has said meanwhile, without waiting."""
        while self._link is not None and select.select([self._link], [], [], 0)[0]:
            message = receive(self._link)
            if message is None:
                self._lose_link()
            else:
                self._obey(message)

    def _asked_for(self, work: Mapping[str, Any], *, lost: bool) -> Mapping[str, Any] | None:
        """Return the request that this work answers now: its own, or the same asked again by a node that came back."""
        if work["ticket"] in self._dropped:
            return None
        if self._link is not None and not lost:
            return work
        while self._request is None and not self._over:
            self._listen()
        again = self._request
        if again is not None and (again["round"], again["model"]) == (work["round"], work["model"]):
            return again
        return None

    def _answer(self, reply: protocol.Reply) -> bool:
        if self._link is None:
            return False
        try:
            protocol.send(self._link, reply)
        except OSError:
            self._lose_link()
            return False
        return True

    def _look(self) -> None:
        """Ask the node how the run stands; say it once when it stands still, and end when it is over."""
        try:
            status = ask(self._site.control)
        except (Failure, UsageError):
            return  # It starts, or it ends: the link says so.
        outcome = str(status.get("outcome") or "")
        if outcome == "FAILED":
            self._fail(str(status.get("reason") or "it says no reason"))
        if outcome in ("DONE", "LEFT"):
            self._drain()  # It may want the last model evaluated.
            self._done_at = self._done_at or self._clock.now()
            if outcome == "DONE" and self._result() is None and self._clock.now() < self._done_at + START_S:
                return  # A folder that was just restored writes its model when the script's has been built.
            self._finish(outcome, str(status.get("reason") or "the run is complete"))
            return
        state = str(
            status.get("resting") or status.get("paused") or status.get("halted") or status.get("refused") or ""
        )
        if state != self._state:
            self._say(f"waiting: {state}" if state else "going on")
            self._state = state

    def _fail(self, reason: str) -> None:
        raise SwarmError(f"the run FAILED: {reason}", hint="`swarm status` and the log say more")

    def _finish(self, outcome: str, reason: str) -> None:
        """End the loop, with what the swarm has learned in the model.

        Raises:
            SwarmError: the run is done and its model is not here, or cannot be used.
        """
        self._over = f"the run is {outcome}: {reason}"
        self._request = None
        if outcome != "DONE":
            return
        result = self._result()
        arrays = {} if result is None else result.arrays()
        if result is None or not arrays:
            raise SwarmError(
                f"couldn't take the model of a run that is done: {self._site.models} has none that can be read",
                hint=f"run `swarm start {self._site.folder} --exit-when-done`, which writes it again, then this script",
            )
        self._parameters.write(flatten(arrays, self._parameters.layout), self._kept(result.round))

    def _complete(self) -> bool:
        """Whether the run is over and its model is here. It may have been over before, and have got more rounds since.

        Only the ledger knows, and it is read again no sooner than there is another model.
        """
        result = self._result()
        if result is None or result.round == self._open_after:
            return False
        from node.cli.ledger.reading import read

        try:
            state = read(self._site.folder)[1].state
        except (Failure, SwarmError):
            return False  # What is wrong with it the node says, which is started.
        if state.complete and state.committed.round == result.round:
            return True
        self._open_after = result.round
        return False

    def _result(self) -> _Result | None:
        """Return the last model that the node has exported at the end of this very run; None if there is none.

        It is of the last round there was: an earlier one than the charter's if the run has stopped before, a later one
        if members have added rounds.
        """
        rounds = [(round_, path) for path in self._exports() if (round_ := round_of(path)) is not None]
        for round_, path in sorted(rounds, reverse=True):
            if self._is_ours(path):
                return _Result(round_, path)
        return None

    def _exports(self) -> list[Path]:
        try:
            return [*self._site.models.iterdir()]
        except OSError:
            return []

    def _is_ours(self, path: Path) -> bool:
        """Whether a file is whole and was exported in this very run. Its head tells; tensors are not read for it."""
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, "np") as file:
                origin = json.loads((file.metadata() or {}).get("origin", "{}"))
                return bool(origin.get("ledger") == self._ledger and file.keys())
        except (SafetensorError, OSError, ValueError):
            return False

    # --- the model ----------------------------------------------------------------------------------------------

    def _load(self, path: str, *, after: int) -> None:
        """Let the model be the common one in a file, with what this site has kept after a round, or earlier ones."""
        # What an outer optimiser remembers follows the model.
        self._base = np.memmap(path, dtype="<f4", mode="r")[: self._parameters.layout.elements]
        self._parameters.write(self._base, self._kept(after))

    def _kept(self, round_: int) -> dict[str, NDArray[np.generic]]:
        """Return the private parts that this site ended a round with, or the last one below that it trained."""
        found = self._private.before(round_ + 1).under("private")
        for remark in self._private.remarks:
            self._say(remark)
        self._private.remarks.clear()
        return found

    def _keep(self, trained: Parameters) -> None:
        """Keep private parts durably, before the update is: no other site may hold of a round what lacks its part here.

        A round that is trained again, or whose work was not taken, begins with what was kept of an earlier one.
        """
        if self._keeps:
            arrays = {f"private/{name}": array for name, array in trained.own().items()}
            self._private.keep(Own(self.round, arrays))

    def _evaluated(self, request: Mapping[str, Any]) -> protocol.Reply:
        """Score the round's common model; whatever the user's function does is an answer, not the end of the loop."""
        ticket, round_ = int(request["ticket"]), int(request["round"])
        self.scoring = round_
        if self._working is None:
            self._load(str(request["model"]), after=round_)
        if self._evaluation is None:
            if round_ < self.rounds:
                return protocol.Reply("evaluate", ticket=ticket, round=round_, later=True)
            return protocol.Reply("evaluate", ticket=ticket, round=round_, error=protocol.UNSCORED)
        try:
            result = plain(self._score())
            scores = _scores(result, read_result(result))
            self._compare_names(scores)
        except Exception as error:  # noqa: BLE001 - user code may raise anything; all of it becomes a sentence
            text = error.sentence if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"
            if text != self._failure:  # It fails in each round in the same way, most likely.
                self._say(f"evaluating the model of round {round_} failed: {text}")
            self._failure = text
            return protocol.Reply("evaluate", ticket=ticket, round=round_, error=text)
        return protocol.Reply(
            "evaluate",
            ticket=ticket,
            round=round_,
            samples=scores.samples,
            metrics=scores.metrics,
            remarks=scores.remarks,
            groups=scores.groups,
        )

    def _compare_names(self, scores: protocol.Scores) -> None:
        """Say, once, that others will see nothing of what is measured: the ledger has the charter's names only."""
        if self._unseen is None:
            self._unseen = not {*scores.metrics} & {*self._metrics} and bool(scores.metrics)
            if self._unseen:
                self._say(
                    f"other sites will see none of {', '.join(sorted(scores.metrics))}: the charter shares"
                    f" {', '.join(self._metrics) or 'no metrics'} (`swarm charter new --metrics` names them)"
                )

    def _score(self) -> Mapping[str, Any]:
        assert self._evaluation is not None, "asked for one"
        model: Any = self._model
        if not hasattr(model, "state_dict"):
            return self._evaluation(model)
        import torch

        was = model.training
        model.eval()
        try:
            with torch.no_grad():
                return self._evaluation(model)
        finally:
            model.train(was)

    # --- progress -----------------------------------------------------------------------------------------------

    def _on_step(self, *_: object) -> None:
        """Every optimizer step is progress."""
        if self._working is None or (self._thread is not None and self._thread != threading.get_ident()):
            return
        self._steps += 1
        if self._clock.now() - self._told_at >= PROGRESS_S:
            self._tell_step()

    def _tell_step(self) -> None:
        self._told_at = self._clock.now()
        if self._link is not None and self._working is not None:
            self._answer(protocol.Reply("step", round=self.round, step=self._steps))


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End a node: politely, and for certain, whatever interrupts that."""
    if child.poll() is not None:
        return
    child.send_signal(signal.SIGTERM)
    try:
        child.wait(CHILD_STOP_S)
    except subprocess.TimeoutExpired:
        pass
    finally:
        if child.poll() is None:
            child.kill()
            child.wait()


def _scores(result: object, read: Scored) -> protocol.Scores:
    """Return what is told to the node of an evaluation: numbers, and how many cases there are of each kind."""
    told = isinstance(result, Mapping) and holds_cases(result)
    return protocol.Scores(read.samples, dict(read.metrics), [*read.remarks], [*read.groups] if told else None)


def plain(numbers: Any) -> Any:
    """Return metrics without the graphs they came from: a loss may be sent as it is. What is no dict stays as it is."""
    if not isinstance(numbers, Mapping):
        return numbers
    return {name: value.detach() if hasattr(value, "detach") else value for name, value in numbers.items()}


def _count_steps(hook: Callable[..., None]) -> Callable[[], None]:
    """Have every step of a torch optimizer counted, if there is torch; return how to stop that."""
    if "torch" not in sys.modules:
        return lambda: None
    from torch.optim.optimizer import register_optimizer_step_post_hook

    handle = register_optimizer_step_post_hook(hook)
    removed: Callable[[], None] = handle.remove
    return removed
