"""SHELL. A whole swarm on one machine around objects of one process: for a notebook, a first try, a comparison.

The peers are real: n node processes with keys, a charter that all have signed, encrypted links and ledgers that
`swarm ledger verify` checks. Only their trainers are here, one loop each (`node.loop.peer`), so that model, data and
training function may be whatever this process has at hand; nothing is pickled. Trainers take turns: they share the
machine anyway, and so each may be seeded, and a run repeats.
"""

from __future__ import annotations

import copy
import os
import queue
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Self, TypeVar

import numpy as np

from node.data import SiteData
from node.evaluation import read_result
from node.local import LocalPeer, found, stop_all
from node.loop.declarations import check_asked
from node.loop.parameters import is_module, parameters_of
from node.loop.peer import Peer, plain
from node.scoring.cases import holds_cases
from swarm.contribution.policy import complete, parse
from swarm.errors import SwarmError, UsageError
from swarm.vector import unflatten

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
        try:
            peer = Peer(
                local.site,
                local.site.load_charter(),
                parameters_of(model),
                model,
                said=lambda _: None,
                thread=threading.get_ident(),
                stopping=run.stopping.is_set,
            )

            def score(common: Model) -> Mapping[str, Any]:
                with run.turn:
                    scores = dict(run.evaluate(common, data))
                run.said.put((local.name, peer.scoring, (scores, copy.deepcopy(common))))
                return scores

            peer.evaluate(score)
            peer.wait_for(local.process)
            while peer.running:
                mine = peer.receive()
                while not run.turn.acquire(timeout=TURN_S):
                    peer.step()
                try:
                    run.seed(peer.seed)
                    result = dict(run.train(mine, data))
                finally:
                    run.turn.release()
                peer.send(samples=result.pop("samples", 0), metrics=result)
            run.said.put((local.name, -1, None))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is raised where `learn` was called
            if not run.stopping.is_set():
                run.said.put((local.name, -1, error))
        finally:
            if peer is not None:
                peer.close()

    def _results(self, run: _Run[Model, Data], rounds: int) -> Iterator[Result[Model]]:
        """Yield each round once every site has scored its model, or has gone past it."""
        scores: dict[int, dict[str, tuple[Mapping[str, float], Model]]] = {}
        reached, told = dict.fromkeys(self.names, 0), 0
        while told < rounds and min(reached.values()) <= rounds:
            name, round_, said = run.said.get()
            if isinstance(said, Exception):
                raise said if isinstance(said, SwarmError) else SwarmError(f"{name}: {said}") from said
            if said is not None:
                scores.setdefault(round_, {})[name] = said
            reached[name] = round_ if round_ > 0 else rounds + 1
            while told < min(*reached.values(), rounds):
                told += 1
                if by_site := scores.pop(told, None):
                    metrics = {one: _numbers(by_site[one][0]) for one in self.names if one in by_site}
                    yield Result(told, metrics, next(iter(by_site.values()))[1])


def _numbers(scores: Mapping[Any, Any]) -> dict[str, float]:
    if holds_cases(scores):
        read = read_result(plain(scores))
        return {"samples": float(read.samples), **read.metrics}
    return {name: float(value) for name, value in scores.items()}


def _seeder(model: object) -> Callable[[int], None]:
    """Return what seeds the generators that training this kind of model draws from."""

    def seed(number: int) -> None:
        np.random.seed(number)  # noqa: NPY002, TID251 - the user's functions may draw from the global generators
        if is_module(model):
            import torch

            torch.manual_seed(number)

    return seed
