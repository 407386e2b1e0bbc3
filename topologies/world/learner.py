"""A learner small enough to simulate: every member owns a private quadratic, and the best model is known exactly.

Member i holds n_i samples and the loss f_i(x) = 1/2 sum_d h_id (x_d - c_id)^2 with its own curvature h and centre c, so
the pooled optimum is the weighted mean sum n_i h_i c_i / sum n_i h_i: a run can be asked whether the model is as good
as if the data had been pooled. Curvatures are diagonal on purpose: every operation is elementwise float64, so the bytes
are the same on every IEEE machine, with no BLAS in between.

It takes the place of the trainer process, and misbehaves like one when told to. It does not know rounds, peers or time;
the duration it names is virtual.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from swarm.mixing.diffusion import each_step
from swarm.mixing.momentum import Stretches
from swarm.privacy.clipping import clip_in_place

Vector = NDArray[np.float32]


class Behaviour(Enum):
    """What one member's training does."""

    HONEST = "honest"
    RAISES = "raises"  # user code throws: no update, an error sentence
    NAN = "nan"  # one element is not a number, unclipped
    WRONG_SHAPE = "wrong shape"  # one element too few
    POISONER = "poisoner"  # what it learnt, POISON_FACTOR times over; its node clips that as any other
    OVERSIZE = "oversize"  # ten times the norm bound, unclipped: a liar that skips its own clipping
    SLOW = "slow"  # SLOW_FACTOR times the time
    HANG = "hang"  # half the steps, then silence


SLOW_FACTOR = 50
"""A slow site needs this many times as long: the largest site of MediSwarm had 94 times the data of the smallest."""

POISON_FACTOR = 1000.0
"""By how much a poisoner scales its update, to put its own model in the place of the mean."""

OVERSIZE_FACTOR = 10.0
"""By how much an oversize update exceeds the norm bound: far beyond any slack for rounding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """What one training did: the update in float32, or an error; `duration_s` is inf if it never ends.

    `parameters` are the stretches of the update that are trained, None for all of it (see `node.trainer.TrainDone`).
    """

    update: Vector | None
    samples: int
    steps: int
    duration_s: float
    metrics: Mapping[str, float] = field(default_factory=dict)
    error: str = ""
    parameters: Stretches | None = None


class Learner(Protocol):
    """What the world asks of the learning side of all its members."""

    @property
    def elements(self) -> int:
        """Length of a model, in float32 elements."""
        ...

    @property
    def bound(self) -> float:
        """The charter's bound on the L2 norm of an update; 0 means none."""
        ...

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        """Train from `model` (not modified) for round `number`, with a correction taken in its steps if there is one.

        See `swarm.mixing.diffusion`.
        """
        ...

    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        """(held-out samples, metrics) of `model` at one member."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class QuadraticTask:
    """The learner of the module docstring. `samples` gives n_i per member; step `rate` times curvature stays below 1.

    `spread` is the distance, per element, of the members' centres from each other (0: all members agree).
    """

    seed: int
    samples: tuple[int, ...]
    elements: int = 32
    bound: float = 0.0
    steps: int = 4
    rate: float = 0.3
    spread: float = 1.0
    step_s: float = 0.25
    behaviours: Mapping[int, Behaviour] = field(default_factory=dict)
    _problems: tuple[tuple[NDArray[np.float64], NDArray[np.float64]], ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        problems = tuple(self._problem(member) for member in range(len(self.samples)))
        object.__setattr__(self, "_problems", problems)

    def _problem(self, member: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """(curvature in [0.5, 1.5], centre) of one member, each of shape (elements,)."""
        shared, own = np.random.default_rng([self.seed]), np.random.default_rng([self.seed, member + 1])
        centre = shared.uniform(-1.0, 1.0, self.elements) + self.spread * own.uniform(-1.0, 1.0, self.elements)
        return own.uniform(0.5, 1.5, self.elements), centre

    def initial(self) -> Vector:
        """The model every member starts from: zeros."""
        return np.zeros(self.elements, np.float32)

    def optimum(self, members: Sequence[int] | None = None) -> NDArray[np.float64]:
        """The minimiser of the pooled loss of `members` (default: all), shape (elements,)."""
        top, bottom = np.zeros(self.elements), np.zeros(self.elements)
        for member in range(len(self.samples)) if members is None else members:
            curvature, centre = self._problems[member]
            top += self.samples[member] * curvature * centre
            bottom += self.samples[member] * curvature
        return np.asarray(top / bottom, np.float64)

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        """`steps` gradient steps on f_i from `model`; the update is clipped to `bound` unless the member misbehaves."""
        behaviour = self.behaviours.get(member, Behaviour.HONEST)
        duration_s = self.steps * self.step_s
        if behaviour is Behaviour.RAISES:
            error = f"train() raised RuntimeError in round {number}: out of memory"
            return Lesson(update=None, samples=0, steps=self.steps, duration_s=duration_s, error=error)
        curvature, centre = self._problems[member]
        base = model.astype(np.float64)
        x = base.copy()
        push = None if correction is None else each_step(correction, self.steps).astype(np.float64)
        for _ in range(self.steps):
            x -= self.rate * curvature * (x - centre)
            if push is not None:
                x += push
        update = (x - base).astype(np.float32)
        return Lesson(
            update=handed_over(update, behaviour, self.bound),
            samples=self.samples[member],
            steps=self.steps,
            duration_s={Behaviour.SLOW: SLOW_FACTOR * duration_s, Behaviour.HANG: math.inf}.get(behaviour, duration_s),
            metrics={"loss": self._loss(member, x)},
        )

    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        """One held-out sample in ten, and the member's own loss."""
        return max(1, self.samples[member] // 10), {"loss": self._loss(member, model.astype(np.float64))}

    def _loss(self, member: int, x: NDArray[np.float64]) -> float:
        curvature, centre = self._problems[member]
        # fsum rounds once, whatever the order, so the metric is the same on every machine.
        return 0.5 * math.fsum((curvature * (x - centre) ** 2).tolist())


def handed_over(update: Vector, behaviour: Behaviour, bound: float) -> Vector:
    """What a member hands over in place of an honest update, which is clipped to `bound` (0: none), in place.

    Raises:
        UsageError: An honest update is not finite.
    """
    match behaviour:
        case Behaviour.NAN:
            update[0] = np.nan
        case Behaviour.WRONG_SHAPE:
            update = update[:-1].copy()
        case Behaviour.OVERSIZE:
            update.fill(OVERSIZE_FACTOR * (bound or 1.0) / math.sqrt(update.size))
        case Behaviour.POISONER:
            update *= np.float32(POISON_FACTOR)
            clip_in_place(update, bound)
        case _:
            clip_in_place(update, bound)
    return update
