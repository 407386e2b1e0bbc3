"""Quasi-global momentum: let the momentum follow the swarm, not the site.

A site's own momentum adds up its own gradients and, where data differ, pulls it away from the others faster than
exchanges bring it back. QG-DSGDm (Lin, Karimireddy, Stich & Jaggi 2021, "Quasi-Global Momentum", arXiv 2102.04761,
algorithm 1) builds the buffer from the difference of *mixed* models instead, which holds the neighbours' steps too:

    m   = beta m_hat + g            a local step, with the buffer as it was at the start of the round
    x   = x_i - eta m
    x_i' = sum_j W_ij x_j           gossip
    d    = (x_i - x_i') / eta       what the swarm made of the step
    m_hat <- mu m_hat + (1 - mu) d  (the paper sets mu = beta)

Nothing more is sent than in D-PSGD. In the "N" variant (QG-DSGDm-N) the local step is Nesterov's, as PyTorch writes it:
x = x_i - eta (g + beta m), with the same m; the buffer is updated alike. With K local steps a round, d is divided by
K eta, the round's *rate*.

*Three ways in*, by what the trainer offers:

- `shift`: it runs plain SGD and adds beta m_hat to each gradient. This is the algorithm, for any K: the paper's code
  too holds m_hat still between its updates.
- `QuasiGlobal.buffer` as the optimiser's own momentum buffer, set at the start of each round: the form for a black-box
  optimiser with heavy-ball momentum (for PyTorch's SGD, `momentum_buffer`). For K = 1 it is the algorithm; for K > 1
  the buffer goes on with local gradients inside the round and is replaced at its end. What a step of constant gradient
  settles at, g / (1 - beta), is the same in both.
- `corrected`: only the update of plain SGD is visible; the momentum is added to it afterwards. For K = 1 it is the
  algorithm; for K > 1 local gradients are taken along a path without momentum.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector

BETA = 0.9
"""The momentum of the paper's experiments, for beta and mu alike."""


@dataclass(frozen=True, slots=True, eq=False)
class QuasiGlobal:
    """`buffer` is m_hat, shape (elements,), in units of a gradient."""

    buffer: Vector


def init(elements: int) -> QuasiGlobal:
    """Return the state before the first round: no momentum."""
    return QuasiGlobal(np.zeros(elements, np.float32))


def shift(state: QuasiGlobal, *, beta: float = BETA) -> Vector:
    """Return beta m_hat, shape (elements,): what a trainer of plain SGD adds to every gradient of the round.

    Raises:
        UsageError: beta is not within [0, 1).
    """
    _check(1.0, beta)
    return np.multiply(state.buffer, np.float32(beta), dtype=np.float32)


def corrected(state: QuasiGlobal, update: Vector, rate: float, *, beta: float = BETA, nesterov: bool = False) -> Vector:
    """Return what the update, shape (elements,), of plain SGD becomes with momentum; rate is the sum of its steps'.

    Heavy ball: update - rate beta m_hat. Nesterov: (1 + beta) update - rate beta^2 m_hat, which is the same formula
    with g + beta (beta m_hat + g) for the step.

    Raises:
        UsageError: the rate is not positive or beta is not within [0, 1).
    """
    _check(rate, beta)
    out = np.multiply(state.buffer, np.float32(-rate * (beta * beta if nesterov else beta)), dtype=np.float32)
    if not nesterov:
        return np.add(update, out, out=out)
    scaled = np.empty(min(BLOCK_ELEMENTS, out.size), np.float32)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        block = out[start : start + BLOCK_ELEMENTS]
        np.multiply(update[start : start + BLOCK_ELEMENTS], np.float32(1 + beta), out=scaled[: block.size])
        np.add(scaled[: block.size], block, out=block)
    return out


def apply(state: QuasiGlobal, before: Vector, after: Vector, rate: float, *, mu: float = BETA) -> QuasiGlobal:
    """Return the next state: m_hat + (1 - mu) ((before - after) / rate - m_hat).

    `before` is the model the round began with and `after` the *mixed* one it ended with, both of shape (elements,).

    Raises:
        UsageError: the rate is not positive or mu is not within [0, 1).
    """
    _check(rate, mu)
    out = np.empty_like(state.buffer)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, start + BLOCK_ELEMENTS)
        block, buffer = out[span], state.buffer[span]
        np.subtract(before[span], after[span], out=block)
        np.divide(block, np.float32(rate), out=block)
        np.subtract(block, buffer, out=block)
        np.multiply(block, np.float32(1.0 - mu), out=block)
        np.add(buffer, block, out=block)
    return QuasiGlobal(out)


def _check(rate: float, beta: float) -> None:
    if not 0.0 < rate < float("inf"):
        raise UsageError(f"couldn't correct an update: its rate is {rate}", hint="report the sum of the learning rates")
    if not 0.0 <= beta < 1.0:
        raise UsageError(f"couldn't use a momentum of {beta}", hint="choose one from 0 to below 1; 0.9 is usual")
