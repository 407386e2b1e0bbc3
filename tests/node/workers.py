"""A worker without its process: requests are answered in this one, and what it tells on the way is thrown away."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.optim.optimizer as hooks
from numpy.typing import NDArray

from node.dpsgd.allowance import Allowance
from node.task import Budget, SiteInfo
from node.worker import Worker
from swarm.vector import Layout, unflatten

MNIST = Path(__file__).parents[3] / "shared" / "data" / "mnist" / "mnist.npz"

torch.set_num_threads(1)  # Tests run side by side: threads that wait for one another would wait for all of them.


class Bench:
    """One site's worker, its task file and the model that it is given."""

    def __init__(
        self,
        folder: Path,
        task: str,
        *,
        site: str = "rural",
        local: str = "",
        private: Path | None = None,
        seed: int = 5,
        budget: Budget | None = None,
        rounds: int = 0,
        allowance: Allowance | None = None,
        tracks: bool = False,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.model, self.update = folder, folder / "model.f32", folder / "update.f32"
        (folder / "task.py").write_text(task)
        self._near, self._far = socket.socketpair()
        self._near.setblocking(False)
        self.worker = Worker(
            self._far,
            task=folder / "task.py",
            loader=None,
            site=SiteInfo(site, folder, seed, "cpu"),
            budget=budget or Budget(),
            private=private,
            local=local,
            tracks=tracks,
            rounds=rounds,
            allowance=allowance,
        )
        self.warnings: list[str] = []

    def ask(self, **request: str | int) -> Mapping[str, object]:
        """Return the answer to a request, which may be an error."""
        answer = self.worker.answer(request)
        try:
            while self._near.recv(1 << 16):
                pass
        except BlockingIOError:
            pass
        return answer

    def told(self, **request: str | int) -> Mapping[str, object]:
        """Return the answer to a request that goes well."""
        answer = self.ask(**request)
        assert "error" not in answer, answer["error"]
        return answer

    def refused(self, **request: str | int) -> str:
        """Return how a request fails."""
        return str(self.ask(**request)["error"])

    def describe(self) -> Layout:
        """Build the model, and return what of it travels."""
        answer = self.told(do="describe", path=str(self.model))
        self.warnings = list(answer["warnings"])  # type: ignore[call-overload]
        return Layout.decode(bytes(answer["layout"]))  # type: ignore[call-overload]

    def training(self, round_: int, rounds: int = 0) -> dict[str, str | int]:
        """Return the request to train a round."""
        return {"do": "train", "round": round_, "rounds": rounds, "model": str(self.model), "update": str(self.update)}

    def train(self, round_: int, rounds: int = 0, correction: NDArray[np.float32] | None = None) -> NDArray[np.float32]:
        """Train a round, with a correction in its steps if there is one, and return its update."""
        self.update.unlink(missing_ok=True)
        asked = self.training(round_, rounds)
        if correction is not None:
            path = self.folder / "correction.f32"
            correction.astype("<f4").tofile(path)
            asked["correction"] = str(path)
        self.told(**asked)
        return np.fromfile(self.update, "<f4")

    def evaluate(self, round_: int, which: str = "swarm") -> dict[str, float]:
        """Return what evaluate() says of the model."""
        answer = self.told(do="evaluate", round=round_, model=str(self.model), which=which)
        return dict(answer["metrics"])  # type: ignore[call-overload]

    def put(self, vector: NDArray[np.float32]) -> None:
        """Let this be the model of the swarm."""
        vector.astype("<f4").tofile(self.model)

    def vector(self) -> NDArray[np.float32]:
        """Return the model of the swarm."""
        return np.fromfile(self.model, "<f4")

    def named(self, vector: NDArray[np.float32], layout: Layout) -> dict[str, NDArray[np.float32]]:
        """Return a vector's tensors by name."""
        return unflatten(vector, layout)

    def close(self) -> None:
        """Let go of the sockets."""
        self._near.close()
        self._far.close()


@contextmanager
def benches() -> Iterator[list[Bench]]:
    """Yield a list of which each worker is closed at the end; none of their hooks around steps outlives them.

    In production a worker is a process of its own and its hooks end with it.
    """
    before = [{**table} for table in _tables()]
    made: list[Bench] = []
    try:
        yield made
    finally:
        for table, was in zip(_tables(), before, strict=True):
            for number in [*table]:
                if number not in was:
                    del table[number]
        for bench in made:
            bench.close()


def _tables() -> tuple[dict[int, object], dict[int, object]]:
    return hooks._global_optimizer_pre_hooks, hooks._global_optimizer_post_hooks  # type: ignore[return-value]


def write_digits(folder: Path) -> None:
    """Write a site's data as the examples read them, 600 digits and 200 others to test on; skip without MNIST."""
    if not MNIST.is_file():
        pytest.skip(f"there is no {MNIST}: MNIST is not part of this repository")
    with np.load(MNIST, allow_pickle=False) as file:
        for name, start, count in (("train", 0, 600), ("test", 2000, 200)):
            x, y = file["x_train"][start : start + count], file["y_train"][start : start + count]
            np.savez(folder / f"{name}.npz", x=x, y=y.astype(np.int64))
