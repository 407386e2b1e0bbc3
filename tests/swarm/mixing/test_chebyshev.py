"""Chebyshev's recursion against Chebyshev's polynomials, and the exchanges it saves."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.polynomial import chebyshev as polynomial

from swarm.errors import UsageError
from swarm.mixing import chebyshev
from topologies.families import random_regular, ring
from topologies.graph import Topology
from topologies.weights import metropolis_hastings, spectral_gap


def test_three_steps_by_hand() -> None:
    # bound 1/2 and a W that halves: omega is 1, 8/7, 14/13, and x goes 1, 1/2, 8/7/4 - 1/7 = 1/7, 1/26.
    state, x = chebyshev.init(0.5), np.float32([1])
    seen, omegas = [], []
    for _ in range(3):
        state, x = chebyshev.apply(state, x, x / 2)
        seen.append(float(x[0]))
        omegas.append(state.omega)
    assert omegas == pytest.approx([1, 8 / 7, 14 / 13])
    assert seen == pytest.approx([1 / 2, 1 / 7, 1 / 26])


@pytest.mark.parametrize("bound", [0.3, 0.9, 0.99])
def test_k_steps_are_the_kth_polynomial_of_every_eigenvalue(bound: float) -> None:
    eigenvalues = np.linspace(-bound, bound, 41).astype(np.float32)
    state, x = chebyshev.init(bound), np.ones(41, np.float32)
    for k in range(1, 13):
        state, x = chebyshev.apply(state, x, eigenvalues * x)
        basis = [0.0] * k + [1.0]
        wide = eigenvalues.astype(np.float64)
        expected = polynomial.chebval(wide / bound, basis) / polynomial.chebval(1 / bound, basis)
        assert x == pytest.approx(expected, abs=1e-5)


def exchanges(topology: Topology, *, accelerated: bool, goal: float = 1e-6) -> int:
    weights = metropolis_hastings(topology)
    x = np.random.default_rng(0).normal(size=8 * topology.n).astype(np.float32)
    mean = np.tile(x.reshape(topology.n, 8).mean(axis=0, dtype=np.float64), topology.n)
    first = float(np.linalg.norm(x - mean))
    state = chebyshev.init(1 - spectral_gap(weights))
    for k in range(1, 5000):
        mixed = (weights @ x.reshape(topology.n, 8)).reshape(-1).astype(np.float32)
        state, x = chebyshev.apply(state, x, mixed) if accelerated else (state, mixed)
        if np.linalg.norm(x - mean) < goal * first:
            return k
    raise AssertionError("never agreed")


@pytest.mark.parametrize(("topology", "plain", "fast"), [(ring(50), 2319, 137), (random_regular(50, 4, 3), 75, 25)])
def test_it_needs_about_the_square_root_of_the_exchanges(topology: Topology, plain: int, fast: int) -> None:
    # The numbers of the design's table, within what another start and another random graph change.
    assert exchanges(topology, accelerated=False) == pytest.approx(plain, rel=0.2)
    assert exchanges(topology, accelerated=True) == pytest.approx(fast, rel=0.2)


def test_the_mean_stays_even_where_pairs_were_skipped() -> None:
    weights = metropolis_hastings(ring(6))
    skipped = weights.copy()
    skipped[0, 1] = skipped[1, 0] = 0
    np.fill_diagonal(skipped, 0)
    np.fill_diagonal(skipped, 1 - skipped.sum(axis=1))
    x = np.float32([6, 0, 0, 0, 0, 0])
    state = chebyshev.init(1 - spectral_gap(weights))
    for k in range(20):
        state, x = chebyshev.apply(state, x, ((skipped if k % 3 else weights) @ x).astype(np.float32))
    assert x.mean() == pytest.approx(1, abs=1e-5)


def test_with_everyone_linked_it_is_plain_gossip() -> None:
    state, x = chebyshev.apply(chebyshev.init(0.0), np.float32([4]), np.float32([1]))
    state, x = chebyshev.apply(state, x, np.float32([2]))
    assert (x.tolist(), state.omega) == ([2], 1.0)


@pytest.mark.parametrize("bound", [1.0, -0.1, float("nan")])
def test_a_bound_that_is_none_is_refused(bound: float) -> None:
    with pytest.raises(UsageError, match="bound"):
        chebyshev.init(bound)
