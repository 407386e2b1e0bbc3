"""SHELL. A whole swarm on one machine around objects of one process: for a notebook, a first try, a comparison.

The peers are real: n node processes with keys, a charter that all have signed, encrypted links and ledgers that
`swarm ledger verify` checks. Only their trainers are here, one loop each (`node.loop.peer`), so that model, data and
training function may be whatever this process has at hand; nothing is pickled. Trainers take turns: they share the
machine anyway, and so each may be seeded, and a run repeats.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from node.changes import changes_into
from node.data import SiteData
from node.evaluation import Evaluation, read_result
from node.local import LocalPeer, found, stop_all
from node.loop.declarations import check_asked
from node.loop.parameters import Parameters, is_module, parameters_of
from node.loop.peer import Peer, plain, say
from node.scoring.cases import holds_cases
from node.task import checked_result, where_in
from swarm.contribution.policy import complete, parse
from swarm.errors import SwarmError, UsageError
from swarm.vector import Vector, unflatten

Model = TypeVar("Model")
Data = TypeVar("Data")

SCRIPT = '''\
"""The model of a swarm that one process holds together (node.loop.local): its parameters are in initial.npz."""

import sys
from pathlib import Path

import numpy as np

import swarm

with np.load(Path(__file__).with_name("initial.npz"), allow_pickle=False) as arrays:
    swarm.join(sys.argv[1], dict(arrays))
'''

PATIENCE_S = 60.0
"""The most a charter allows: trainers share this machine."""

TURN_S = 0.5
"""Between words of a trainer that waits for its turn: it is not stuck."""


@dataclass(frozen=True, slots=True)
class Result(Generic[Model]):
    """What is known after a round. `metrics` are by site, then by name; `model` is the common one, a copy."""

    round: int
    metrics: Mapping[str, Mapping[str, float]]
    model: Model

    def mean(self, name: str) -> float:
        """Return a metric's mean over the sites that have it, each counting the same."""
        values = [metrics[name] for metrics in self.metrics.values() if name in metrics]
        return sum(values) / len(values) if values else float("nan")


@dataclass(slots=True)
class _Run(Generic[Model, Data]):
    """One learning run: what its loops share."""

    train: Callable[[Model, Data], Mapping[str, Any]]
    evaluate: Callable[[Model, Data], Mapping[str, Any]]
    seed: Callable[[int], None]
    turn: threading.Lock = field(default_factory=threading.Lock)
    said: queue.SimpleQueue[tuple[str, int, Any]] = field(default_factory=queue.SimpleQueue)
    stopping: threading.Event = field(default_factory=threading.Event)


class Swarm:
    """Several peers on this machine. `folder` keeps what they leave: ledgers, models, logs."""

    def __init__(self, names: Sequence[str], folder: Path) -> None:
        self.names, self.folder = tuple(names), folder
        self.peers: list[LocalPeer] = []
        self._keep: tempfile.TemporaryDirectory[str] | None = None

    @classmethod
    def local(cls, n: int, folder: str | Path | None = None) -> Self:
        """Return a swarm of n peers that begins with `learn`. Without a folder what they leave goes with this object.

        Raises:
            UsageError: n is less than 2, or the folder is not empty.
        """
        if n < 2:
            raise UsageError(f"couldn't make a swarm of {n}", hint="it takes two; alone, call your training function")
        names = [f"site-{index}" for index in range(n)]
        if folder is None:
            keep = tempfile.TemporaryDirectory(prefix="swarm-")
            made = cls(names, Path(keep.name))
            made._keep = keep
            return made
        path = Path(folder).resolve()
        if path.exists() and any(path.iterdir()):
            raise UsageError(f"couldn't use {path}: it is not empty", hint="name a new folder")
        return cls(names, path)

    def learn(
        self,
        model: Model,
        data: Sequence[Data],
        train: Callable[[Model, Data], Mapping[str, Any]],
        evaluate: Callable[[Model, Data], Mapping[str, Any]],
        *,
        rounds: int = 5,
        seed: int = 0,
        **charter: Any,
    ) -> Iterator[Result[Model]]:
        """Learn, and yield a result after each round. `model` is left as it was; results have copies.

        Args:
            model: A `torch.nn.Module` or a dict of arrays: what all start from.
            data: One site's each, whatever it is: it is handed to `train` and `evaluate`.
            train: `train(model, data)` trains in place and returns {"samples": how many, "loss": ...}.
            evaluate: `evaluate(model, data)` returns {"samples": how many held out, "accuracy": ...}.
            rounds: How many.
            seed: Of the generators of PyTorch and NumPy before each training.
            charter: Terms, as `node.local.found` has them: gossip="base2", route="sharded", codec="int8", ...

        Raises:
            UsageError: as many data sets as peers are needed; or this swarm has learned already.
            UserCodeError: a function raised, or returned what is no use; the sentence says where. A `UsageError`.
            SwarmError: a node ended, or the run failed.
        """
        if len(data) != len(self.names):
            raise UsageError(
                f"couldn't begin: {len(self.names)} peers and {len(data)} data sets", hint="give each peer its own"
            )
        if self.peers:
            raise UsageError("couldn't begin: this swarm has learned already", hint="make another with Swarm.local()")
        self._found(model, rounds, seed, charter)
        run = _Run(train, evaluate, _seeder(model))
        loops = [
            threading.Thread(target=self._loop, args=(run, peer, copy.deepcopy(model), part), daemon=True)
            for peer, part in zip(self.peers, data, strict=True)
        ]
        try:
            for peer in self.peers:
                peer.start()
            for loop in loops:
                loop.start()
            yield from self._results(run, rounds)
        finally:
            run.stopping.set()
            stop_all(self.peers)
            for loop in loops:
                loop.join(5.0)

    # --- parts --------------------------------------------------------------------------------------------------

    def _found(self, model: object, rounds: int, seed: int, charter: Mapping[str, Any]) -> None:
        parameters = parameters_of(model)
        metrics = charter.get("metrics", ("accuracy", "auc", "loss"))
        asked = charter.get("contribution", "")
        judged = parse(complete(asked, metrics), metrics) if asked else None
        check_asked(charter.get("local", ""), judged, "couldn't begin")
        self.folder.mkdir(parents=True, exist_ok=True)
        script = self.folder / "task.py"
        script.write_text(SCRIPT)
        arrays = unflatten(parameters.read(), parameters.layout)
        dtypes = {spec.name: spec.dtype for spec in parameters.layout.tensors}
        try:
            plain: dict[str, Any] = {name: array.astype(dtypes[name]) for name, array in arrays.items()}
        except TypeError as error:
            raise UsageError(f"couldn't begin: {error}", hint="use a model of float32 here") from None
        np.savez(self.folder / "initial.npz", allow_pickle=False, **plain)
        parts = []
        for name in self.names:
            (self.folder / "data" / name).mkdir(parents=True)
            parts.append(SiteData(name, self.folder / "data" / name, 0, 0, 0))
            (self.folder / name).mkdir()
            np.savez(self.folder / name / "initial.npz", allow_pickle=False, **plain)
        terms = {"patience_s": PATIENCE_S, **charter, "metrics": metrics}
        self.peers = found(self.folder, parts, script, rounds=rounds, seed=seed, **terms)
        root = str(Path(__file__).resolve().parents[2])
        for peer in self.peers:
            peer.environment = {"PYTHONPATH": os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))}

    def _loop(self, run: _Run[Model, Data], local: LocalPeer, model: Model, data: Data) -> None:
        """One site's script, as a thread. What it has to say goes through the queue; what fails, too."""
        peer: Peer | None = None
        site, told = local.name, set[str]()

        def tell(line: str) -> None:
            if line not in told and not run.stopping.is_set():  # Once, however many rounds there are.
                told.add(line)
                say(f"{site}: {line}")

        try:
            peer = Peer(
                local.site,
                local.site.load_charter(),
                parameters_of(model),
                model,
                said=tell,
                thread=threading.get_ident(),
                stopping=lambda: run.stopping.is_set() or local.ended,
            )

            def score(common: Model) -> Mapping[str, Any]:
                # The node would go on without scores, as it should at a hospital; who sits here wants to be told.
                try:
                    with run.turn, user_code(site, "evaluate", run.evaluate):
                        scores = plain(run.evaluate(common, data))
                        read = read_result(scores)
                except SwarmError as error:
                    run.said.put((site, -1, error))
                    raise
                for remark in read.remarks:
                    tell(remark)
                run.said.put((site, peer.scoring, (_numbers(scores, read), copy.deepcopy(common))))
                return dict(scores)

            peer.evaluate(score)
            peer.wait_for(local.process)
            while peer.running:
                mine = peer.receive()
                while not run.turn.acquire(timeout=TURN_S):
                    peer.step()
                try:
                    run.seed(peer.seed)
                    before = parameters_of(mine).read()
                    with user_code(site, "train", run.train):
                        result = plain(run.train(mine, data))
                        checked_result(result, "train")
                        check_finite(parameters_of(mine), before)
                finally:
                    run.turn.release()
                numbers = dict(result)
                with user_code(site, "train", run.train):
                    peer.send(samples=numbers.pop("samples"), metrics=numbers)
            if local.ended and not run.stopping.is_set():
                raise SwarmError(f"the node of {site} ended before the run was over")
            run.said.put((site, -1, None))
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised where `learn` was called
            if not run.stopping.is_set():
                run.said.put((site, -1, error))
        finally:
            if peer is not None:
                peer.close()

    def _results(self, run: _Run[Model, Data], rounds: int) -> Iterator[Result[Model]]:
        """Yield each round once every site has scored its model, or has gone past it."""
        scores: dict[int, dict[str, tuple[Mapping[str, float], Model]]] = {}
        reached, told = dict.fromkeys(self.names, 0), 0
        while told < rounds and min(reached.values()) <= rounds:
            name, round_, said = run.said.get()
            if isinstance(said, BaseException):
                raise self._failure(name, said)
            if said is not None:
                scores.setdefault(round_, {})[name] = said
            reached[name] = round_ if round_ > 0 else rounds + 1
            while told < min(*reached.values(), rounds):
                told += 1
                if by_site := scores.pop(told, None):
                    metrics = {one: by_site[one][0] for one in self.names if one in by_site}
                    yield Result(told, metrics, next(iter(by_site.values()))[1])

    def _failure(self, name: str, error: BaseException) -> SwarmError:
        """Return what to raise for what failed at a site, with what there is to say beside the sentence as notes."""
        if isinstance(error, UserCodeError):
            found: SwarmError = error
            notes = [error.hint]
        else:
            message = error.message if isinstance(error, SwarmError) else f"{type(error).__name__}: {error}"
            # A folder that goes with this object holds nothing that could still be read.
            hint = 'read its log.txt, which stays where the folder has a name: Swarm.local(n, folder="kept")'
            if self._keep is None:
                hint = f"read {self.folder / name / 'log.txt'}"
            found = SwarmError(message if name in message else f"couldn't learn at {name}: {message}", hint=hint)
            found.__cause__ = error
            tail = next((peer.log_tail() for peer in self.peers if peer.name == name), "")
            notes = [hint, f"the log of its node ends with\n{tail}" if tail else ""]
        for number, note in enumerate(notes):
            if note:
                found.add_note(note if number else f"hint: {note}")
        return found


class UserCodeError(UsageError):
    """What a user's function did that ends a run: the sentence has the site, the function, the error and its line."""


@contextlib.contextmanager
def user_code(site: str, what: str, function: Callable[..., Any]) -> Iterator[None]:
    """Raise `UserCodeError` for whatever a user's function raises at a site meanwhile, `SystemExit` too."""
    try:
        yield
    except UsageError as error:
        sentence, hint = f"couldn't learn at {site}: {error.message}", error.hint
        raise UserCodeError(sentence, hint=hint, identifier=error.identifier) from error
    except SwarmError:
        raise
    except BaseException as error:
        where = " ".join(where_in(error, _file_of(function)).split())
        raise UserCodeError(f"couldn't learn at {site}: {what}() failed with {where}") from error


def _file_of(function: Any) -> Path:
    """Return the file, or the cell of a notebook, in which a user's function is written; nothing if it has none."""
    while isinstance(function, functools.partial):
        function = function.func
    function = inspect.unwrap(function)
    code = getattr(function, "__code__", None) or getattr(type(function).__call__, "__code__", None)
    return Path(code.co_filename) if code is not None else Path()


def check_finite(parameters: Parameters, before: Vector) -> None:
    """Raise `UsageError` if training has left, by the tensor's name, what cannot be averaged with others'."""
    changes_into(np.empty_like(before), parameters.read(), before, parameters.layout)


def _numbers(scores: Mapping[Any, Any], read: Evaluation) -> dict[str, float]:
    """Return what a site's scores are as numbers: those of its cases, or whatever it named that is one."""
    if holds_cases(scores):
        return {"samples": float(read.samples), **read.metrics}
    found: dict[str, float] = {}
    for name, value in scores.items():
        with contextlib.suppress(TypeError, ValueError, OverflowError, RuntimeError):  # A remark was made of it.
            found[name] = float(value)
    return found


def _seeder(model: object) -> Callable[[int], None]:
    """Return what seeds the generators that training this kind of model draws from."""

    def seed(number: int) -> None:
        np.random.seed(number)  # noqa: NPY002, TID251 - the user's functions may draw from the global generators
        if is_module(model):
            import torch

            torch.manual_seed(number)

    return seed
