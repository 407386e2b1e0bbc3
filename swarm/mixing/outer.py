"""The outer optimiser: what a round does with the mean of its updates.

To the model before a round the mean is a step, and a step may be taken in more than one way (Reddi et al. 2021,
"Adaptive Federated Optimization", algorithm 1: "server optimizer"). FedAvg adds it (McMahan et al. 2017). There is no
server here: every peer takes the same step on the same bytes, so a step is made of float32 operations that IEEE 754
rounds in one way only, element by element, and gives the same model everywhere.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import numpy as np

from swarm.vector import Vector

OuterStep: TypeAlias = Callable[[Vector, Vector, Vector], None]
"""(out, base, mean): set `out` to the model after the round. All of shape (elements,); `out` may be `base`."""


def add(out: Vector, base: Vector, mean: Vector) -> None:
    """FedAvg: next = base + mean. One addition an element, correctly rounded."""
    np.add(base, mean, out=out)


OUTER_STEPS: Mapping[str, OuterStep] = {"none": add}
"""By the name the charter gives."""
