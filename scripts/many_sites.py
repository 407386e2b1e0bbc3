"""A swarm of many sites at learning speed, and what stands beside it: sites alone, its model trained on, pooled data.

Not a program: `published_shakespeare.py` and `published_mnist_shards.py` are made of it. Everything is trained by the
simulator that `swarm simulate` runs (`node.simulation.run`), so that columns of a table differ in who averages with
whom and in nothing else. *Apart* is a swarm whose members never exchange. *Tuned* is the same, begun with the model of
a swarm in place of a random one. *Pooled* is a swarm of one.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.simulation.flat import TEST_ROWS, FlatModel
from node.simulation.learning import Dataset, LocalTraining, as_floats
from node.simulation.mixing import Rows
from node.simulation.run import Exact, Experiment, Gossip, Simulation
from swarm.vector import Vector

Build = Callable[[], nn.Module]


@dataclass(frozen=True, slots=True)
class Apart:
    """An exchange in which nobody gets anything from anybody."""

    n: int

    @property
    def rows(self) -> Rows:
        """Each member's own model and no other."""
        return [[(member, 1.0)] for member in range(self.n)]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Sites:
    """Data divided over sites, and how they train.

    Attributes:
        build: Returns the model, called under `seed`.
        train: All training examples.
        shares: Per site, positions in `train`.
        local: One site's training between two exchanges.
        seed: What everything random comes from.
        form: Which form of local training (`node.simulation.steps`).
        workers: Processes; None is one a core.
    """

    build: Build
    train: Dataset
    shares: Sequence[NDArray[np.int64]]
    local: LocalTraining
    seed: int
    form: str = "auto"
    workers: int | None = None

    def together(
        self,
        exchange: Exact | Gossip,
        rounds: int,
        *,
        correction: float = 0.0,
        on_round: Callable[[int, Simulation], object] = lambda _number, _simulation: None,
    ) -> list[Vector]:
        """Return every site's model after so many rounds; with an exact mean the one that all have, once."""
        experiment = Experiment(
            build=self.build,
            train=self.train,
            # Scores are taken of the models that come out, site by site; the simulator's own test is not asked.
            test=Dataset(self.train.x[:1], self.train.y[:1]),
            shares=self.shares,
            local=self.local,
            exchange=exchange,
            rounds=rounds,
            seed=self.seed,
            correction=correction,
            tested=0,
            test_every=rounds,
            form=self.form,  # type: ignore[arg-type]
            workers=self.workers,
        )
        with Simulation(experiment) as simulation:
            for number in range(1, rounds + 1):
                simulation.next_round()
                on_round(number, simulation)
            return [simulation.model(site) for site in range(1 if isinstance(exchange, Exact) else len(self.shares))]

    def apart(self, passes: int) -> list[Vector]:
        """Return what each site makes of its own examples alone, in so many passes."""
        alone = Apart(len(self.shares))
        once = replace(self, local=replace(self.local, epochs=1))
        return once.together(Gossip(mixing=lambda _t: alone), passes)

    def tuned(self, model: Vector, passes: int, rate: float) -> list[Vector]:
        """Return what each site makes of a model by training it on, on its own examples, at a rate of its own."""
        flat = self.model()
        begun = flat.copy_module()
        flat.load(torch.from_numpy(model), begun)
        local = replace(self.local, learning_rate=rate)
        return replace(self, build=lambda: begun, local=local).apart(passes)

    def pooled(self, passes: int) -> Vector:
        """Return what one site with everybody's examples makes of them in so many passes."""
        every = np.sort(np.concatenate(list(self.shares)))
        return replace(self, shares=[every]).apart(passes)[0]

    def model(self) -> FlatModel:
        """Return the model that all begin with."""
        return FlatModel(self.build, self.seed)


def right(model: FlatModel, vector: Vector, data: Dataset) -> NDArray[np.int64]:
    """Return how many answers are right, by example; of one that asks several questions they are counted one by one."""
    module = model.copy_module().eval()
    model.load(torch.from_numpy(np.array(vector, np.float32)), module)
    found = []
    with torch.inference_mode():
        for start in range(0, len(data), TEST_ROWS):
            x, y = as_floats(data.x[start : start + TEST_ROWS]), data.y[start : start + TEST_ROWS]
            found.append((module(x).argmax(1) == y).reshape(len(x), -1).sum(1).numpy())
    return np.concatenate(found).astype(np.int64)


def say(what: str) -> None:
    """Tell whoever waits how far it is, and what it has cost."""
    print(f"{time.process_time():7.0f} s of this processor  {what}", file=sys.stderr, flush=True)
