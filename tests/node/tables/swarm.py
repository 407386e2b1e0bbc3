"""A swarm as small as can be: every site works on the same state, and the product's own mean makes the next."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np

from node.loop.parameters import parameters_of
from swarm.mixing.average import integer_weights, weighted_mean_into
from swarm.vector import unflatten

State: TypeAlias = dict[str, np.ndarray]
Part: TypeAlias = tuple[np.ndarray, np.ndarray]


def learn(
    state: State,
    work: Callable[[State, np.ndarray, np.ndarray], object],
    parts: Sequence[Part],
    rounds: int,
    weights: Sequence[int] | None = None,
) -> State:
    """Return the state after so many rounds of `work(state, x, y)` at each site, weighted by rows."""
    for _ in range(rounds):
        base = parameters_of(state).read()
        updates = []
        for x, y in parts:
            mine = {name: array.copy() for name, array in state.items()}
            work(mine, x, y)
            updates.append(parameters_of(mine).read() - base)
        mean = np.empty_like(base)
        weighted_mean_into(mean, base, updates, integer_weights(weights or [len(x) for x, _ in parts]))
        state = {name: array.copy() for name, array in unflatten(mean, parameters_of(state).layout).items()}
    return state
