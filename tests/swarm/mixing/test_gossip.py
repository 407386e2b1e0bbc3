"""One gossip step by hand, the mean it must not move, and FedAvg as the case where everyone hears everyone."""

from __future__ import annotations

import random
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS, weighted_mean_into
from swarm.mixing.gossip import (
    Ratio,
    Row,
    check_row,
    mix,
    mix_into,
    mix_ratios,
    ratio,
    settled,
    step_into,
    without,
)
from swarm.vector import Vector
from topologies.families import random_regular, star
from topologies.graph import Topology
from topologies.weights import metropolis_hastings


def rows_of(topology: Topology) -> list[Row]:
    weights = metropolis_hastings(topology)
    return [
        tuple((j, float(weights[i, j])) for j in range(topology.n) if weights[i, j] > 0 or i == j)
        for i in range(topology.n)
    ]


def dense(rows: list[Row]) -> np.ndarray:
    matrix = np.zeros((len(rows), len(rows)))
    for i, row in enumerate(rows):
        for j, weight in row:
            matrix[i, j] = weight
    return matrix


def models(n: int, elements: int, seed: int = 0) -> dict[int, Vector]:
    return dict(enumerate(np.random.default_rng(seed).normal(size=(n, elements)).astype(np.float32)))


# --- one step -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("base", "update", "model", "place"),
    [
        ([1.0, 2.0], [0.5, -0.5], [1.5, 1.5], None),
        ([1024.0, -1024.0], [0.0, 0.0], [1024.0, -1024.0], None),
        ([0.0, 1000.0, -1.0], [0.0, 25.0, -2000.0], [0.0, 1024.0, -1024.0], 1),
        ([0.0, -np.inf], [0.0, 0.0], [0.0, -1024.0], 1),
    ],
)
def test_a_step_is_kept_within_what_may_be_averaged_and_says_where_it_was_not(
    base: list[float], update: list[float], model: list[float], place: int | None
) -> None:
    stepped = np.array(update, np.float32)
    assert step_into(stepped, np.array(base, np.float32)) == place
    assert stepped.tolist() == model


def test_one_step_by_hand() -> None:
    # A path of three, Metropolis-Hastings: ends keep 2/3, the middle keeps 1/3.
    x = {0: np.float32([3, 0]), 1: np.float32([6, -3]), 2: np.float32([9, 9])}
    third = 1 / 3
    assert mix(((0, 1 - third), (1, third)), x).tolist() == [4, -1]
    assert mix(((0, third), (1, third), (2, third)), x).tolist() == [6, 2]


def test_the_sum_is_rounded_once() -> None:
    # 2**24 + 1 is no float32. Adding in float32 would lose the 1 twice; the sum of all three is one that is.
    big = np.float32([2.0**24])
    assert mix(((0, 1.0), (1, 0.0)), {0: big, 1: big}).tolist() == [2.0**24]
    out = np.empty(1, np.float32)
    mix_into(out, [big, np.float32([1]), np.float32([1])], [1.0, 1.0, 1.0])
    assert out.tolist() == [2.0**24 + 2]


def test_the_result_may_be_written_over_a_model() -> None:
    n = BLOCK_ELEMENTS + 7
    x, y = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    expected = x / 2 + y / 2
    mix_into(y, [x, y], [0.5, 0.5])
    assert np.array_equal(y, expected)


@pytest.mark.parametrize("elements", [0, 1, BLOCK_ELEMENTS, 2 * BLOCK_ELEMENTS + 1])
def test_every_element_is_mixed_whatever_the_length(elements: int) -> None:
    x = np.arange(elements, dtype=np.float32)
    assert np.array_equal(mix(((0, 0.25), (1, 0.75)), {0: 4 * x, 1: np.zeros_like(x)}), x)


def test_equal_weights_on_a_complete_graph_are_fedavg_and_the_same_bytes_everywhere() -> None:
    n, x = 10, models(10, 1000)
    row = tuple((j, 1 / n) for j in range(n))
    mixed = [mix(row, x) for _ in range(n)]
    base, exact = np.zeros(1000, np.float32), np.empty(1000, np.float32)
    weighted_mean_into(exact, base, [x[j] for j in range(n)], [1] * n)
    assert len({model.tobytes() for model in mixed}) == 1
    # Fixed point keeps 32 places behind the point, so the two may differ in the last place of a float32 at most.
    assert np.abs(mixed[0] - exact).max() <= 2.0**-24


@given(st.lists(st.tuples(st.floats(-1e3, 1e3, width=32), st.integers(0, 8)), min_size=1, max_size=6))
@settings(max_examples=100, deadline=None)
def test_a_step_is_within_one_rounding_of_the_true_sum(terms: list[tuple[float, int]]) -> None:
    values = {i: np.float32([value]) for i, (value, _) in enumerate(terms)}
    row = tuple((i, eighths / 8) for i, (_, eighths) in enumerate(terms))
    out = np.empty(1, np.float32)
    mix_into(out, [values[i] for i, _ in row], [weight for _, weight in row])
    true = sum((Fraction(value) * Fraction(eighths, 8) for value, eighths in terms), Fraction(0))
    assert out[0] == np.float32(float(true))


@pytest.mark.parametrize(
    "row",
    [
        ((1, 1.0),),
        ((0, 0.5), (0, 0.5)),
        ((1, 0.5), (0, 0.5)),
        ((0, 1.5), (1, -0.5)),
        ((0, 0.5), (1, 0.4)),
        ((0, float("nan")),),
    ],
    ids=["not itself", "twice", "unsorted", "negative", "too little", "nan"],
)
def test_a_row_that_is_none_is_refused(row: Row) -> None:
    with pytest.raises(UsageError, match="couldn't mix"):
        check_row(row, 0)


# --- lost exchanges -----------------------------------------------------------------------------------------------


def test_a_skipped_pair_gives_its_weight_to_both_of_its_sides() -> None:
    row = ((0, 0.25), (1, 0.5), (2, 0.25))
    assert without(row, 1, {0}) == ((0, 0.25), (1, 0.75))
    assert without(row, 1, set()) == ((1, 1.0),)
    assert without(row, 1, {0, 2, 9}) == row


@given(st.integers(0, 2**32), st.floats(0, 1))
@settings(max_examples=50, deadline=None)
def test_what_is_left_after_skips_is_symmetric_and_doubly_stochastic(seed: int, loss: float) -> None:
    chance = random.Random(seed)
    topology = random_regular(12, 3, 1)
    kept = {edge for edge in sorted(topology.edges) if chance.random() >= loss}
    rows = [
        without(row, i, {j for j, _ in row if (min(i, j), max(i, j)) in kept})
        for i, row in enumerate(rows_of(topology))
    ]
    matrix = dense(rows)
    assert np.array_equal(matrix, matrix.T)
    assert np.abs(matrix.sum(axis=0) - 1).max() < 1e-15


def gossip_under_loss(*, symmetric: bool) -> tuple[float, float]:
    """60 rounds on 32 members, 5 % of pairs (or of messages) lost: bias and disagreement, in initial spreads."""
    chance = random.Random(5)
    topology = random_regular(32, 4, 2)
    rows, x = rows_of(topology), np.random.default_rng(1).normal(size=(32, 50))
    mean, spread = x.mean(axis=0), x.std()
    for _ in range(60):
        kept = {edge for edge in sorted(topology.edges) if chance.random() >= 0.05}
        heard = [
            {j for j, _ in row if ((min(i, j), max(i, j)) in kept if symmetric else chance.random() >= 0.05)}
            for i, row in enumerate(rows)
        ]
        x = dense([without(row, i, heard[i]) for i, row in enumerate(rows)]) @ x
    return float(np.abs(x.mean(axis=0) - mean).max() / spread), float(x.std(axis=0).max() / spread)


def test_symmetric_skips_keep_the_mean_where_one_sided_ones_move_it() -> None:
    bias, disagreement = gossip_under_loss(symmetric=True)
    assert bias < 1e-15
    assert disagreement < 1e-3
    assert gossip_under_loss(symmetric=False)[0] > 1e-3


# --- samples ------------------------------------------------------------------------------------------------------


def test_ratio_consensus_by_hand() -> None:
    # 1 and 3 samples, so weights 1/2 and 3/2; half and half: numerators (2 + 12) / 2 = 7 over 1, FedAvg's (4 + 24) / 4.
    a, b = ratio(np.float32([4]), 1, 2.0), ratio(np.float32([8]), 3, 2.0)
    assert (a.numerator.tolist(), a.weight, b.numerator.tolist(), b.weight) == ([2], 0.5, [12], 1.5)
    mixed = mix_ratios(((0, 0.5), (1, 0.5)), {0: a, 1: b})
    assert settled(mixed).tolist() == [7]


def test_gossip_of_pairs_reaches_fedavgs_mean_on_an_irregular_graph_and_gossip_of_models_does_not() -> None:
    n, x, samples = 12, models(12, 64), [50 * 2**i for i in range(12)]
    rows = rows_of(star(n))
    fedavg = np.average([x[i].astype(np.float64) for i in range(n)], axis=0, weights=samples)
    pairs, plain = {i: ratio(x[i], samples[i], float(np.mean(samples))) for i in range(n)}, x
    for _ in range(300):
        pairs = {i: mix_ratios(rows[i], pairs) for i in range(n)}
        plain = {i: mix(rows[i], plain) for i in range(n)}
    assert max(float(np.abs(settled(pairs[i]) - fedavg).max()) for i in range(n)) < 1e-6
    assert np.abs(plain[0] - fedavg).max() > 0.1


def test_float32_numerators_drift_by_less_than_a_float32_rounding_step_in_a_thousand_rounds() -> None:
    n, elements = 8, 200
    rows, chance = rows_of(random_regular(n, 4, 1)), np.random.default_rng(1)
    x, weights = models(n, elements), np.geomspace(0.05, 20, n)
    weights = weights / weights.mean()
    pairs = {i: ratio(x[i], 1, float(1 / weights[i])) for i in range(n)}
    true = sum(pairs[i].weight * x[i].astype(np.float64) for i in range(n))
    for _ in range(1000):
        steps = 0.01 * chance.normal(size=(n, elements)).astype(np.float32)
        for i in range(n):
            moved = np.empty(elements, np.float32)
            mix_into(moved, [pairs[i].numerator, steps[i]], [1.0, float(weights[i])])
            pairs[i] = Ratio(moved, pairs[i].weight)
            true += weights[i] * steps[i].astype(np.float64)
        pairs = {i: mix_ratios(rows[i], pairs) for i in range(n)}
    found = sum(pairs[i].numerator.astype(np.float64) for i in range(n))
    assert np.sqrt(np.mean(((found - true) / n) ** 2)) < 2.0**-22
    assert sum(pair.weight for pair in pairs.values()) == pytest.approx(n, abs=1e-12)


def test_float64_numerators_stay_float64() -> None:
    pair = Ratio(np.array([1 / 3]), 1.0)
    mixed = mix_ratios(((0, 0.5), (1, 0.5)), {0: pair, 1: pair})
    assert mixed.numerator.dtype == np.float64
    assert mixed.numerator.tolist() == [1 / 3]


def test_a_site_without_samples_takes_over_what_it_hears() -> None:
    idle, busy = ratio(np.float32([99]), 0, 5.0), ratio(np.float32([4]), 10, 5.0)
    with pytest.raises(UsageError, match="weight of 0"):
        settled(idle)
    assert settled(mix_ratios(((0, 0.5), (1, 0.5)), {0: idle, 1: busy})).tolist() == [4]


@pytest.mark.parametrize(("samples", "mean"), [(-1, 1.0), (1, 0.0), (1, float("nan"))])
def test_impossible_sample_counts_are_refused(samples: int, mean: float) -> None:
    with pytest.raises(UsageError, match="couldn't weight"):
        ratio(np.zeros(1, np.float32), samples, mean)
