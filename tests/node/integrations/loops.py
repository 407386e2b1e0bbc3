"""A peer in the test's hand: it has so many rounds, gives a known model in each, and keeps what is sent."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from node.loop.parameters import parameters_of


@dataclass
class Site:
    """`model` is set to all `round` at the start of a round."""

    model: Any
    rounds: int
    round: int = 0
    sent: list[tuple[int, Mapping[str, Any], np.ndarray]] = field(default_factory=list)

    @property
    def running(self) -> bool:
        return self.round < self.rounds

    def receive(self) -> Any:
        self.round += 1
        parameters = parameters_of(self.model)
        parameters.write(np.full(parameters.layout.elements, self.round, np.float32))
        return self.model

    def send(self, model: object = None, *, samples: int, metrics: Mapping[str, Any] | None = None) -> bool:
        self.sent.append((samples, dict(metrics or {}), parameters_of(self.model).read()))
        return True
