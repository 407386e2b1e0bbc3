"""Sixteen sites on a ring whose data disagree: small enough to solve by hand, unkind enough to stall plain gossip.

Site i minimises f_i(x) = 1/2 sum_e a_ie (x_e - b_ie)^2. The curvatures differ as well as the minima, so the optimum of
the sum is not the mean of the minima, and local steps alone would lead to neither. What is tried here works element by
element, so the sites lie in one vector, one after the other, and only `exchange` knows which is whose.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from swarm.vector import Vector

SITES, ELEMENTS = 16, 5
ALL = SITES * ELEMENTS

_CHANCE = np.random.default_rng(16)
CURVATURE: NDArray[np.float64] = _CHANCE.uniform(0.5, 2.0, (SITES, ELEMENTS))
MINIMUM: NDArray[np.float64] = _CHANCE.normal(0.0, 1.0, (SITES, ELEMENTS))
OPTIMUM: NDArray[np.float64] = (CURVATURE * MINIMUM).sum(axis=0) / CURVATURE.sum(axis=0)


def start() -> Vector:
    return np.zeros(ALL, np.float32)


def gradient(models: Vector) -> Vector:
    own = CURVATURE * (models.reshape(SITES, ELEMENTS) - MINIMUM)
    return own.reshape(-1).astype(np.float32)


def trained(models: Vector, steps: int, rate: float, shift: Vector | float = 0.0) -> Vector:
    """Plain gradient descent; `shift` is added to every gradient."""
    for _ in range(steps):
        models = models - np.float32(rate) * (gradient(models) + np.float32(shift))
    return models


def exchange(models: Vector) -> Vector:
    """A third of its own model and of each neighbour's: Metropolis-Hastings on a ring."""
    wide = models.reshape(SITES, ELEMENTS).astype(np.float64)
    return ((np.roll(wide, 1, axis=0) + wide + np.roll(wide, -1, axis=0)) / 3).reshape(-1).astype(np.float32)


def error(models: Vector, target: NDArray[np.float64] = OPTIMUM) -> float:
    """The worst site's distance from the target, as a part of how far it was at the start."""
    apart = np.linalg.norm(models.reshape(SITES, ELEMENTS) - target, axis=1)
    return float(apart.max() / np.linalg.norm(target))
