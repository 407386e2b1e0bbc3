"""Eight sites of whom three are planted: one whose labels are noise, one that is another's copy, one that does nothing.

They learn scikit-learn's digits (1,797 of 64 pixels) by softmax regression, each from about 150 examples of its own and
judging on about 37 more that it holds out; 297 are kept from all of them. Training is PyTorch's, as it is at a site, so
that what it costs can be set against what judging costs. The simulated world has no speed of its own: how long training
lasts in it is measured first, in evaluations, so that the charter's share buys as many as it would.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from node.contributions import accounts
from swarm.ledger.audit import audit
from swarm.machine import RECORD_BLOCK
from swarm.mixing.average import coalition_model
from swarm.privacy.clipping import clip_in_place
from tests.builders import make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from topologies.world.blobs import BLOB_S
from topologies.world.learner import Lesson, Vector

PIXELS, CLASSES = 64, 10
ELEMENTS = PIXELS * CLASSES + CLASSES
TRAIN, HELD_OUT, TEST = 150, 37, 297
BATCH, RATE, BOUND = 10, 0.05, 100.0

GOOD, NOISY, COPY, IDLE, RANDOM = "good", "noisy labels", "copy of site-0", "free rider", "sends noise"
EIGHT = (GOOD, GOOD, GOOD, GOOD, GOOD, NOISY, COPY, IDLE)

NOISE = 0.8
"""Share of the noisy site's labels that are drawn anew, to train on and to judge by."""

Rows = NDArray[np.float32]


@dataclass(frozen=True, slots=True, eq=False)
class Data:
    """What a site has: features of shape (rows, 64), labels (rows,)."""

    x: Rows
    y: NDArray[np.int64]
    x_held: Rows
    y_held: NDArray[np.int64]


@dataclass(slots=True)
class Spent:
    """Processor seconds of training, and of one evaluation: making the model of all, and judging it."""

    trainings: int = 0
    training_s: float = 0.0
    evaluation_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """A learner of the simulated world (`topologies.world.learner.Learner`).

    Training lasts as long as so many evaluations, or, without `lasts`, as many as it is measured to take.
    """

    seed: int
    kinds: tuple[str, ...] = EIGHT
    epochs: int = 20
    bound: float = BOUND
    lasts: float | None = None
    spent: Spent = field(default_factory=Spent)
    _sites: list[Data] = field(init=False, repr=False, default_factory=list)
    _test: list[NDArray[np.generic]] = field(init=False, repr=False, default_factory=list)

    def __post_init__(self) -> None:
        torch.set_num_threads(1)
        digits = load_digits()
        rng = np.random.default_rng(self.seed)
        order = rng.permutation(len(digits.target))
        x, y = (digits.data[order] / 16).astype(np.float32), digits.target[order].astype(np.int64)
        self._test.extend((x[:TEST], y[:TEST]))
        begin = TEST
        for kind in self.kinds:
            if kind == COPY:
                self._sites.append(self._sites[0])
                continue
            middle, end = begin + TRAIN, begin + TRAIN + HELD_OUT
            labels = y[begin:end].copy()
            if kind == NOISY:
                wrong = rng.random(labels.size) < NOISE
                labels[wrong] = rng.integers(0, CLASSES, int(wrong.sum()))
            self._sites.append(Data(x[begin:middle], labels[:TRAIN], x[middle:end], labels[TRAIN:]))
            begin = end
        self.spent.evaluation_s = self._time_of_one()

    @property
    def elements(self) -> int:
        """Length of a model."""
        return ELEMENTS

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        """Minibatch SGD; a free rider spends the time all the same, or says so."""
        begun = time.process_time()
        update = self._learn(member, number, model)
        took = time.process_time() - begun
        self.spent.trainings += 1
        self.spent.training_s += took
        kind = self.kinds[member]
        if kind == IDLE:
            update = np.zeros_like(update)
        elif kind == RANDOM:
            noise = np.random.default_rng([self.seed, number]).normal(size=update.size)
            update = (noise * np.linalg.norm(update) / np.linalg.norm(noise)).astype(np.float32)
        clip_in_place(update, self.bound)
        lasts = took / self.spent.evaluation_s if self.lasts is None else self.lasts
        return Lesson(update=update, samples=TRAIN, steps=self.epochs * TRAIN // BATCH, duration_s=BLOB_S * lasts)

    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        """Accuracy and loss on what the site holds out."""
        return self._judge(model, self._sites[member].x_held, self._sites[member].y_held)

    def accuracy(self, model: Vector) -> float:
        """Accuracy on the examples that no site has."""
        x, y = self._test
        return self._judge(model, np.asarray(x, np.float32), np.asarray(y, np.int64))[1]["accuracy"]

    def _learn(self, member: int, number: int, model: Vector) -> Vector:
        data = self._sites[member]
        # A copy is one in everything, the order of its examples too.
        torch.manual_seed(self.seed * 1000 + number * 10 + (0 if self.kinds[member] == COPY else member))
        x, y = torch.from_numpy(data.x), torch.from_numpy(data.y)
        layer = torch.nn.Linear(PIXELS, CLASSES)
        _load(layer, model)
        optimizer = torch.optim.SGD(layer.parameters(), lr=RATE)
        for _ in range(self.epochs):
            order = torch.randperm(len(x))
            for begin in range(0, len(x), BATCH):
                chosen = order[begin : begin + BATCH]
                optimizer.zero_grad()
                torch.nn.functional.cross_entropy(layer(x[chosen]), y[chosen]).backward()
                optimizer.step()
        trained = torch.cat([parameter.detach().flatten() for parameter in layer.parameters()]).numpy()
        return np.subtract(trained, model)

    def _judge(self, model: Vector, x: Rows, y: NDArray[np.int64]) -> tuple[int, Mapping[str, float]]:
        layer = torch.nn.Linear(PIXELS, CLASSES)
        _load(layer, model)
        with torch.no_grad():
            logits, labels = layer(torch.from_numpy(x)), torch.from_numpy(y)
            loss = float(torch.nn.functional.cross_entropy(logits, labels))
            right = float((logits.argmax(1) == labels).double().mean())
        return len(y), {"accuracy": right, "loss": loss}

    def _time_of_one(self) -> float:
        """Return the processor seconds of making a model of everybody's updates and judging it, the median of some."""
        rng = np.random.default_rng(0)
        base = np.zeros(ELEMENTS, np.float32)
        updates: Sequence[Vector] = [rng.normal(size=ELEMENTS).astype(np.float32) for _ in self.kinds]
        took = []
        for _ in range(25):
            begun = time.process_time()
            self.evaluate(0, coalition_model(base, updates, [TRAIN] * len(updates)))
            took.append(time.process_time() - begun)
        return sorted(took)[len(took) // 2]


def _load(layer: torch.nn.Linear, model: Vector) -> None:
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(np.array(model[: PIXELS * CLASSES])).reshape(CLASSES, PIXELS))
        layer.bias.copy_(torch.from_numpy(np.array(model[PIXELS * CLASSES :])))
    assert math.prod(layer.weight.shape) + CLASSES == ELEMENTS, "a model is one layer"


@dataclass(frozen=True, slots=True)
class Run:
    """One run: shares by site in percent, the accuracy of its model, the cost, and gaps among all scores."""

    shares: tuple[float, ...]
    accuracy: float
    cost: float
    judged: int
    gaps: int


def play(
    measure: str,
    seed: int,
    *,
    kinds: tuple[str, ...] = EIGHT,
    rounds: int = 8,
    epochs: int = 20,
    lasts: float | None = None,
) -> Run:
    """Run a swarm to its end and read its ledger. Training `lasts` so many evaluations, or as many as are measured."""
    swarm = make_swarm(len(kinds), rounds=rounds, elements=ELEMENTS, metrics=("accuracy", "loss"), contribution=measure)
    learner = Planted(seed=seed, kinds=kinds, epochs=epochs, lasts=lasts)
    world = gossiping(swarm, learner, seed=seed)  # type: ignore[arg-type]
    if not world.run(all_done):
        raise AssertionError(f"the run of {measure} with seed {seed} does not end")
    accuracy = learner.accuracy(merged(world, 0).astype("float32"))
    journal = world.place(0).journal
    assert journal is not None, "it ran"
    *_, result = audit([r.payload for r in journal.open().records if r.kind == RECORD_BLOCK], swarm.signed)
    found = accounts(result)
    told = [head(world, member).status(world.now)["appraisal"] for member in range(len(kinds))]
    judged = sum(int(one["evaluations"]) for one in told if isinstance(one, dict))
    return Run(
        shares=tuple((one.share_ppm or 0) / 1e4 for one in found),
        accuracy=accuracy,
        cost=judged * learner.spent.evaluation_s / learner.spent.training_s,
        judged=judged,
        gaps=sum(len(one.gaps) for one in found),
    )


def ranked(shares: Sequence[float], kinds: Sequence[str] = EIGHT) -> bool:
    """Whether who harms and who does nothing have less than everybody else."""
    bad = [share for share, kind in zip(shares, kinds, strict=True) if kind in (NOISY, IDLE)]
    rest = [share for share, kind in zip(shares, kinds, strict=True) if kind not in (NOISY, IDLE)]
    return max(bad) < min(rest)
