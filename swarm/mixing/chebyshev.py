"""Chebyshev acceleration: the same exchanges, the square root of their number.

Plain gossip applies W^k to the models. Any polynomial of W with p(1) = 1 keeps the mean, and of those of degree k the
one with the least maximum on [-bound, bound] is T_k(W / bound) / T_k(1 / bound), T_k being Chebyshev's (Golub & Varga
1961, the semi-iterative method; for gossip: Arioli & Scott 2014, Scaman et al. 2017 algorithm 2). Its three-term
recursion needs one more vector and one number that everybody computes alike:

    x_{k+1} = omega_{k+1} W x_k + (1 - omega_{k+1}) x_{k-1}
    omega_1 = 1,  omega_2 = 2 / (2 - bound^2),  omega_{k+1} = 1 / (1 - bound^2 omega_k / 4)

On a ring of 50 that is 137 exchanges where plain gossip needs 2,319 (relative error 1e-6). It is for a fixed graph and
synchronous exchanges: a skipped pair leaves the mean alone but the recursion no longer fits the matrix, so begin again
with `init` after one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.gossip import mix_into
from swarm.vector import Vector


@dataclass(frozen=True, slots=True, eq=False)
class Chebyshev:
    """Where one member is in the recursion. `previous` is x_{k-1}, None before the first exchange; `omega` is omega_k.

    `bound` is max(|lambda_2|, |lambda_n|) of W, within [0, 1): one minus the spectral gap. An estimate that is too
    large costs speed; one that is too small lets the slowest mode shrink more slowly, but nothing grows.
    """

    bound: float
    omega: float = 1.0
    previous: Vector | None = None


def init(bound: float) -> Chebyshev:
    """Return the state before the first exchange.

    Raises:
        UsageError: the bound is not within [0, 1).
    """
    if not 0.0 <= bound < 1.0:
        raise UsageError(f"couldn't accelerate gossip: the bound {bound} on the eigenvalues is not within [0, 1)")
    return Chebyshev(bound)


def apply(state: Chebyshev, current: Vector, mixed: Vector) -> tuple[Chebyshev, Vector]:
    """Return the next state and x_{k+1}, shape (elements,), from x_k and W x_k (`swarm.mixing.gossip.mix`).

    The state keeps `current` itself, not a copy: do not write to it afterwards.
    """
    if state.previous is None:
        return Chebyshev(state.bound, 1.0, current), mixed
    square = state.bound * state.bound
    # T_1 = x T_0, but T_{k+1} = 2 x T_k - T_{k-1}: the first step has a 2 where the others have a 4.
    omega = 1.0 / (1.0 - square * state.omega / (2.0 if state.omega == 1.0 else 4.0))
    following = np.empty_like(current)
    mix_into(following, [mixed, state.previous], [omega, 1.0 - omega])
    return Chebyshev(state.bound, omega, current), following
