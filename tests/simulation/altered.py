"""A toy task whose lessons come out otherwise than they would: slower, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from topologies.world.learner import Lesson, QuadraticTask, Vector


@dataclasses.dataclass(frozen=True)
class Altered:
    """`alter` makes of a lesson, by member and round, what becomes of it."""

    inner: QuadraticTask
    alter: Callable[[int, int, Lesson], Lesson]

    @property
    def elements(self) -> int:
        return self.inner.elements

    @property
    def bound(self) -> float:
        return self.inner.bound

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        return self.alter(member, number, self.inner.train(member, number, model, correction))

    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        return self.inner.evaluate(member, model)
