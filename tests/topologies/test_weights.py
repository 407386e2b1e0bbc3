import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from topologies.families import build, complete, erdos_renyi, exponential, path, random_regular, ring, star
from topologies.schedules import build as schedule_named
from topologies.weights import (
    RULES,
    best_constant,
    column_stochastic,
    fastest_mixing,
    laplacian,
    lazy,
    max_degree,
    metropolis_hastings,
    ratio_consensus,
    spectral_gap,
    uniform,
    weigh,
)


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


def test_lazy_weights_have_no_negative_eigenvalue() -> None:
    w = max_degree(path(2))
    assert np.linalg.eigvalsh(lazy(w))[0] >= -1e-15
    np.testing.assert_allclose(lazy(np.array([[0.0, 1.0], [1.0, 0.0]])), [[0.5, 0.5], [0.5, 0.5]])


def test_simple_rules_by_hand() -> None:
    third = 1 / 3
    np.testing.assert_allclose(max_degree(path(3)), metropolis_hastings(path(3)))
    np.testing.assert_allclose(max_degree(star(4))[1], [0.25, 0.75, 0, 0])
    np.testing.assert_allclose(uniform(path(3)), [[0.5, 0.5, 0], [third, third, third], [0, 0.5, 0.5]])
    np.testing.assert_array_equal(laplacian(path(3)), [[1, -1, 0], [-1, 2, -1], [0, -1, 1]])
    # L of a path of three has eigenvalues 0, 1, 3: the best constant is 2 / (1 + 3), the eigenvalues 1/2 and -1/2.
    np.testing.assert_allclose(best_constant(path(3)), [[0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    assert spectral_gap(best_constant(path(3))) == pytest.approx(0.5)
    np.testing.assert_array_equal(best_constant(path(1)), [[1.0]])
    np.testing.assert_allclose(best_constant(path(2)), [[0.5, 0.5], [0.5, 0.5]])


def test_uniform_weights_agree_on_the_wrong_value_where_degrees_differ() -> None:
    # The stationary weights of a star of 4 are (1 + d_i) / sum: 4, 2, 2, 2 of 10.
    limit = np.linalg.matrix_power(uniform(star(4)), 200)
    np.testing.assert_allclose(limit, np.tile([0.4, 0.2, 0.2, 0.2], (4, 1)), atol=1e-12)
    np.testing.assert_allclose(uniform(ring(6)), metropolis_hastings(ring(6)))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 16), seed=st.integers(0, 50))
def test_no_other_constant_is_faster_than_the_best(n: int, seed: int) -> None:
    topology = erdos_renyi(n, 0.4, seed)
    best = spectral_gap(best_constant(topology))
    for a in np.linspace(0.01, 1, 40):
        assert spectral_gap(np.eye(n) - a * laplacian(topology)) <= best + 1e-9


def test_fastest_mixing_reaches_the_known_optima() -> None:
    # On a path the fastest chain has 1/2 on every edge and modulus cos(pi / n) (Boyd, Diaconis, Sun & Xiao, 2006).
    assert 1 - spectral_gap(fastest_mixing(path(8))) == pytest.approx(math.cos(math.pi / 8), abs=1e-3)
    # On an edge-transitive graph all weights are equal, so the best constant is the optimum: ring and hypercube.
    for topology in (ring(8), build("hypercube", 8)):
        assert spectral_gap(fastest_mixing(topology)) == pytest.approx(spectral_gap(best_constant(topology)), rel=0.02)


@pytest.mark.parametrize("name", ["barbell", "clusters", "tree", "star", "grid"])
def test_fastest_mixing_is_a_chain_on_the_links_and_never_slower_than_local_weights(name: str) -> None:
    topology = build(name, 12)
    w = fastest_mixing(topology, steps=400)
    assert (w >= -1e-12).all()
    np.testing.assert_array_equal(w, w.T)
    np.testing.assert_allclose(w.sum(axis=1), 1, atol=1e-12)
    assert {(int(a), int(b)) for a, b in np.argwhere(w > 0) if a < b} <= set(topology.edges)
    assert spectral_gap(w) >= spectral_gap(metropolis_hastings(topology)) - 1e-12


def test_fastest_mixing_beats_local_weights_clearly_on_a_barbell() -> None:
    topology = build("barbell", 16)
    assert spectral_gap(fastest_mixing(topology)) > 2 * spectral_gap(metropolis_hastings(topology))


def test_fastest_mixing_is_for_small_swarms() -> None:
    np.testing.assert_allclose(fastest_mixing(path(2)), [[0.5, 0.5], [0.5, 0.5]])
    with pytest.raises(UsageError, match="weights of 129 members: it is offered up to 128"):
        fastest_mixing(ring(129))


def test_every_rule_has_a_name() -> None:
    for name in RULES:
        assert weigh(ring(6), name).shape == (6, 6)
    with pytest.raises(UsageError, match="no rule named 'x'") as caught:
        weigh(ring(6), "x")
    assert "metropolis_hastings" in caught.value.hint


def test_senders_of_one_way_links_split_themselves_equally() -> None:
    mixing = column_stochastic(3, [(0, 1), (0, 2), (1, 0), (2, 0), (0, 1)])
    np.testing.assert_allclose(mixing.dense(), [[1 / 3, 0.5, 0.5], [1 / 3, 0.5, 0], [1 / 3, 0, 0.5]])
    assert column_stochastic(1, []).row(0) == ((0, 1.0),)


SAMPLES = (50, 20000, 300, 300, 1200, 75)
X = np.random.default_rng(4).standard_normal((6, 5)) * 3
FEDAVG = (np.array(SAMPLES)[:, None] * X).sum(axis=0) / sum(SAMPLES)


@pytest.mark.parametrize("name", ["base2", "base3", "fold"])
def test_a_finite_schedule_of_pairs_is_exactly_fedavg(name: str) -> None:
    schedule = schedule_named(name, 6)
    result = ratio_consensus(schedule.mixings(schedule.exact_after or 0), X, SAMPLES)
    np.testing.assert_allclose(result, np.tile(FEDAVG, (6, 1)), rtol=1e-12)


@pytest.mark.parametrize("name", ["ring", "star", "complete", "static_exponential", "one_peer_exponential", "el_local"])
def test_gossip_of_pairs_tends_to_fedavg_on_any_graph(name: str) -> None:
    result = ratio_consensus(schedule_named(name, 6, degree=2).mixings(400), X, SAMPLES)
    np.testing.assert_allclose(result, np.tile(FEDAVG, (6, 1)), rtol=1e-9)
    one_way = ratio_consensus([column_stochastic(6, [*((i, (i + 1) % 6) for i in range(6)), (0, 3)])] * 400, X, SAMPLES)
    np.testing.assert_allclose(one_way, np.tile(FEDAVG, (6, 1)), rtol=1e-9)


def test_exact_weights_on_a_complete_graph_are_fedavg_in_one_round() -> None:
    result = ratio_consensus(schedule_named("complete", 6).mixings(1), X, SAMPLES)
    np.testing.assert_allclose(result, np.tile(FEDAVG, (6, 1)), rtol=1e-12)


def test_counts_may_be_of_any_size() -> None:
    samples = [count / 20000 * 1e307 for count in SAMPLES]  # times a parameter of 100 this is no float any more
    large = ratio_consensus(schedule_named("base2", 6).mixings(4), X * 100, samples)
    np.testing.assert_allclose(large, np.tile(FEDAVG * 100, (6, 1)), rtol=1e-12)


def test_a_member_that_has_heard_of_no_sample_knows_nothing_yet() -> None:
    result = ratio_consensus(schedule_named("path", 3).mixings(1), np.ones((3, 1)), [5, 0, 0])
    assert np.isnan(result[2, 0])
    assert result[:2, 0].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("samples", [[1, 2], [1, -1, 1], [0, 0, 0], [1, float("nan"), 1]])
def test_samples_that_are_no_counts_are_refused(samples: list[float]) -> None:
    with pytest.raises(UsageError, match="couldn't weigh 3 members by samples"):
        ratio_consensus([], np.ones((3, 1)), samples)


def test_rounds_for_other_members_are_refused() -> None:
    with pytest.raises(UsageError, match="a round is for 4"):
        ratio_consensus(schedule_named("ring", 4).mixings(1), np.ones((3, 1)), [1, 1, 1])
