import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from topologies.families import build, complete, exponential, path, random_regular, ring
from topologies.weights import metropolis_hastings, spectral_gap


def test_weights_of_a_path_of_three_by_hand() -> None:
    third = 1 / 3
    expected = [[1 - third, third, 0], [third, 1 - 2 * third, third], [0, third, 1 - third]]
    np.testing.assert_allclose(metropolis_hastings(path(3)), expected, atol=1e-15)


def test_weights_of_the_complete_graph_average_at_once() -> None:
    w = metropolis_hastings(complete(4))
    np.testing.assert_allclose(w, np.full((4, 4), 0.25), atol=1e-15)
    assert spectral_gap(w) == pytest.approx(1.0)


def test_gap_of_a_ring_by_its_formula() -> None:
    # Ring weights are 1/3, so the eigenvalues are 1/3 + 2/3 cos(2 pi k / n).
    expected = 1 - (1 / 3 + 2 / 3 * math.cos(2 * math.pi / 10))
    assert spectral_gap(metropolis_hastings(ring(10))) == pytest.approx(expected)


def test_gap_of_the_smallest_graphs() -> None:
    assert spectral_gap(metropolis_hastings(path(1))) == 1.0
    assert spectral_gap(metropolis_hastings(path(2))) == pytest.approx(1.0)


def test_an_expander_agrees_faster_than_a_ring() -> None:
    assert spectral_gap(metropolis_hastings(exponential(32))) > 10 * spectral_gap(metropolis_hastings(ring(32)))


@settings(max_examples=30, deadline=None)
@given(n=st.integers(4, 24), kind=st.sampled_from(["ring", "star", "regular"]), seed=st.integers(0, 50))
def test_weights_are_symmetric_doubly_stochastic_and_follow_the_links(n: int, kind: str, seed: int) -> None:
    topology = random_regular(n, 3 + n % 2, seed) if kind == "regular" else build(kind, n)
    w = metropolis_hastings(topology)
    np.testing.assert_array_equal(w, w.T)
    np.testing.assert_allclose(w.sum(axis=1), 1.0, atol=1e-12)
    assert (w >= 0).all()
    links = {(int(a), int(b)) for a, b in np.argwhere(w > 0) if a < b}
    assert links == set(topology.edges)
    assert 0 < spectral_gap(w) <= 1 + 1e-12
