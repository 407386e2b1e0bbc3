"""Quasi-global momentum: let the momentum follow the swarm, not the site.

A site's own momentum adds up its own gradients and, where data differ, pulls it away from the others faster than
exchanges bring it back. QG-DSGDm (Lin, Karimireddy, Stich & Jaggi 2021, "Quasi-Global Momentum", arXiv 2102.04761,
algorithm 1) builds the buffer from the difference of *mixed* models instead, which holds the neighbours' steps too, and
sends nothing more than D-PSGD does:

    m   = beta m_hat + g            a local step, with the buffer as it was at the start of the round
    x   = x_i - eta m
    x_i' = sum_j W_ij x_j           gossip
    d    = (x_i - x_i') / eta       what the swarm made of the step
    m_hat <- beta m_hat + (1 - beta) d

*The form used here knows neither gradients nor learning rates.* With K local steps of rate eta a round, m_hat enters a
round as a displacement of the model, s = -K eta m_hat, and for that the same equations read

    x    = x_i + u + beta s         u is what the user's training did to x_i
    x_i' = sum_j W_ij x_j
    s   <- beta s + (1 - beta) (x_i' - x_i)

in which neither K nor eta appears. So any task can have it, whatever its optimiser is and does, and nothing has to be
reported that could be reported wrongly. Where K eta stays the same and K = 1 it is the algorithm above; for K > 1 the
gradients of a round are taken along a path that the momentum has not bent yet. That costs next to nothing: on digits,
16 sites on a ring, Dirichlet(0.1), a dozen steps a round and beta = 0.9, the sites' own models come to 86.5 and 89.4 %
at rates 0.1 and 0.3; adding beta m_hat to every gradient makes it 86.6 and 89.9 %, no momentum 63.7 and 75.7 %. Where
a task lowers its rate, the model goes on a little faster than the new rate says, for about 1 / (1 - beta) rounds.

By the sum over a swarm whose rows keep sum n_i x_i, the weighted mean X of all models takes the steps of heavy ball:
X' = X + U + beta S, S' = beta S + (1 - beta)(X' - X), whatever the graph is and whatever was lost. A constant update u
settles at u / (1 - beta) a round.

Only parameters have momentum. Buffers that travel too, such as the running variance of a batch normalisation, are
measured and not learned: carried on in the direction they moved in, a variance would become negative.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TypeAlias

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS, VALUE_LIMIT
from swarm.vector import Vector

BETA = 0.7
"""The momentum if none is said. The paper's 0.9 enters every step, and its rates are chosen for it; this one comes on
top of whatever a task does, once a round. On the digits above, unchanged tasks with and without a momentum of their own
do best with 0.7 among 0.5, 0.7 and 0.9, or nearly, on a ring, an exponential graph and its one-peer schedule."""

Stretches: TypeAlias = Sequence[tuple[int, int]]
"""Parts [start, end) of a vector."""

_FORM = re.compile(r"qg(?::([1-9][0-9]{0,2}))?")


def parse(text: str) -> float:
    """Return beta, above 0 and below 1, of a correction as charters name it: "qg" is 0.7, "qg:500" is 0.5.

    Raises:
        UsageError: there is no such correction.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"couldn't choose a correction: {text!r} is not one",
            hint="choose qg (quasi-global momentum, 0.7) or qg:500 (another momentum, in thousandths)",
        )
    return int(found[1]) / 1000 if found[1] else BETA


def carry_into(update: Vector, momentum: Vector, beta: float, parameters: Stretches | None = None) -> None:
    """Set update = update + beta * momentum, both of shape (elements,), in these stretches; None is all of it.

    Two float32 operations an element, the same bytes everywhere; kept within what may be averaged.
    """
    step = np.empty(min(BLOCK_ELEMENTS, update.size), np.float32)
    for first, end in ((0, update.size),) if parameters is None else parameters:
        for start in range(first, end, BLOCK_ELEMENTS):
            part = update[start : min(start + BLOCK_ELEMENTS, end)]
            n = part.size
            np.multiply(momentum[start : start + n], np.float32(beta), out=step[:n])
            np.add(part, step[:n], out=part)
            np.clip(part, -VALUE_LIMIT, VALUE_LIMIT, out=part)


def follow_into(out: Vector, momentum: Vector, before: Vector, after: Vector, beta: float) -> None:
    """Set out = beta * momentum + (1 - beta)(after - before), all of shape (elements,); `out` may be `momentum`.

    `before` is the model that a round began with, `after` the mixed one that it ended with.
    """
    moved = np.empty(min(BLOCK_ELEMENTS, out.size), np.float32)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, start + BLOCK_ELEMENTS)
        block = out[span]
        n = block.size
        np.subtract(after[span], before[span], out=moved[:n])
        np.multiply(moved[:n], np.float32(1.0 - beta), out=moved[:n])
        np.multiply(momentum[span], np.float32(beta), out=block)
        np.add(block, moved[:n], out=block)
