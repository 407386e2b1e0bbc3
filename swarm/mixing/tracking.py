"""Gradient tracking: each site learns by how much its gradients differ from the swarm's, and corrects for it.

With unlike data, D-PSGD stops at a floor: local gradients do not vanish at the common optimum, so each exchange is
undone by the next local steps. K-GT (Liu, Lin, Koloskova & Stich 2023, "Decentralized gradient tracking with local
steps", arXiv 2301.01313, algorithm 1) keeps a correction c_i per site, adds it to every local gradient, and learns it
from the updates themselves. For K local steps with learning rate eta, and rate = K eta:

    x   <- x - eta (g_i(x) + c_i)                    K times, from x_i
    z_i  = (x_i - x) / rate                          the mean corrected gradient of the round
    c_i <- c_i - z_i + sum_j W_ij z_j
    x_i <- sum_j W_ij (x_j - rate z_j)               mixing of what the trainer returned

The corrections sum to zero over the swarm, always (W's columns sum to 1); at rest all z are equal, so they are zero,
so the gradients sum to zero: the optimum of the whole. A round exchanges two vectors, the model and z, over the same
rows; pair-skip must drop a pair from both. The paper starts c_i at the difference of first gradients; zero, as here,
needs no exchange before the first round and sums to zero too.

*Seen from the node* a round is an update, trained minus base, so z = -update / rate. How the correction enters depends
on what the trainer offers:

- `shift`: it adds c_i to each gradient. This is K-GT. With momentum inside the trainer the fixed point is the same, but
  a shift then moves the model by rate / (1 - beta): give that as the rate.
- `corrected`: only the update is visible, so rate * c_i is taken off it afterwards. For one local step (K = 1) this is
  the same as K-GT, and with heavy-ball momentum in the trainer it is Momentum Tracking (Takezawa et al. 2023, arXiv
  2209.15505, algorithm 1, with c of opposite sign). For K > 1 local steps do not see the correction: gradients are
  taken along uncorrected paths, and the swarm comes to rest where the *updates* sum to zero, FedAvg's fixed point
  rather than the optimum. Neither depends on the graph; the second still depends on K eta.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Tracking:
    """`correction` is c_i, shape (elements,), in units of a gradient."""

    correction: Vector


def init(elements: int) -> Tracking:
    """Return the state before the first round: no correction."""
    return Tracking(np.zeros(elements, np.float32))


def shift(state: Tracking) -> Vector:
    """Return what the trainer adds to every gradient of the round, shape (elements,). Not to be written to."""
    return state.correction


def direction(update: Vector, rate: float) -> Vector:
    """Return z = -update / rate, shape (elements,): the mean corrected gradient, which travels beside the model.

    `update` is trained minus base with the correction in it, whichever way it entered. `rate` > 0 is the sum of the
    learning rates of the round's steps; sites may differ in it.

    Raises:
        UsageError: the rate is not a positive number.
    """
    _check_rate(rate)
    out = np.empty(update.shape, np.float32)
    return np.divide(update, np.float32(-rate), out=out)


def corrected(state: Tracking, update: Vector, rate: float) -> Vector:
    """Return update - rate * c, shape (elements,): for trainers that show their update only. See the module's text.

    Raises:
        UsageError: the rate is not a positive number.
    """
    _check_rate(rate)
    out = np.multiply(state.correction, np.float32(-rate), dtype=np.float32)
    return np.add(update, out, out=out)


def apply(state: Tracking, own: Vector, mixed: Vector) -> Tracking:
    """Return the next state: c - z + sum_j W_ij z_j, from the own direction z and the mixed one, shapes (elements,)."""
    out = np.empty_like(state.correction)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, start + BLOCK_ELEMENTS)
        np.subtract(mixed[span], own[span], out=out[span])
        np.add(state.correction[span], out[span], out=out[span])
    return Tracking(out)


def _check_rate(rate: float) -> None:
    if not 0.0 < rate < float("inf"):
        raise UsageError(f"couldn't correct an update: its rate is {rate}", hint="report the sum of the learning rates")
