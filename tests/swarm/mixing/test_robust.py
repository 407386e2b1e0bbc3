"""Rules against hand-computed cases, and what they promise: nobody moves them far, and the same bytes everywhere."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.mixing.products import STRETCH, TILE, Likeness, Read, gram
from swarm.mixing.robust import RobustMean, blended, distances, geometric_median, nearest, selected, spread
from swarm.mixing.rounds import RoundMean
from swarm.mixing.rules import parse, standings

Vectors = Sequence[NDArray[np.float32]]

RULES = ("median", "trimmed:2", "geomedian", "multikrum:2", "nnm:2+median", "nnm:2+trimmed:2", "nnm:2+geomedian")
LIARS = 2
HONEST = 7


def vectors(*rows: Sequence[float]) -> list[NDArray[np.float32]]:
    return [np.array(row, np.float32) for row in rows]


def readers(updates: Vectors) -> list[Read]:
    def of(update: NDArray[np.float32]) -> Read:
        return lambda start, count: update[start : start + count]

    return [of(update) for update in updates]


def averaged(rule: str, updates: Vectors, *, stretch: int = STRETCH) -> tuple[NDArray[np.float32], tuple[int, ...]]:
    """The mean under a rule, and the weights."""
    elements = updates[0].size
    mean = RobustMean(parse(rule), readers(updates), elements)
    out, base = np.empty(elements, np.float32), np.zeros(elements, np.float32)
    for start in range(0, elements, stretch):
        span = slice(start, min(start + stretch, elements))
        mean.into(out[span], base[span], [update[span] for update in updates])
    return out, mean.weights


def drawn(seed: int, count: int, elements: int, spread_: float = 1.0) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(seed)
    return [rng.normal(0.5, spread_, elements).astype(np.float32) for _ in range(count)]


# --- by hand ----------------------------------------------------------------------------------------------------------


def test_the_median_is_the_middle_value_of_each_element() -> None:
    out, weights = averaged("median", vectors([1, 9], [2, -5], [7, 0]))
    assert out.tolist() == [2.0, 0.0]
    assert weights == (0, 1, 1), "the second gave one middle value, the third the other"


def test_of_an_even_number_the_median_is_the_mean_of_the_two_in_the_middle() -> None:
    out, weights = averaged("median", vectors([1], [2], [4], [100]))
    assert out.tolist() == [3.0]
    assert weights == (0, 1, 1, 0)


def test_the_trimmed_mean_leaves_out_the_extremes_of_each_element() -> None:
    out, weights = averaged("trimmed:1", vectors([0, 1], [1, 2], [2, 6], [9, -9]))
    assert out.tolist() == [1.5, 1.5]
    assert weights == (0 + 1, 1 + 1, 1 + 0, 0 + 0)


def test_krum_takes_the_one_whose_nearest_are_nearest() -> None:
    # On a line: 0, 1, 2, 2.5, 9. With f = 1 scores are over two neighbours:
    # 0: 1 + 4, 1: 1 + 1, 2: .25 + 1, 2.5: .25 + 2.25, 9: 42.25 + 49.
    products = gram(readers(vectors([0], [1], [2], [2.5], [9])), 1)
    assert selected(products, parse("krum:1")) == (2,)
    assert selected(products, parse("multikrum:1")) == (0, 1, 2, 3)
    out, weights = averaged("multikrum:1", vectors([0], [1], [2], [2.5], [9]))
    assert out.tolist() == [1.375], "the mean of the four, not their sum"
    assert weights == (1, 1, 1, 1, 0)


def test_krum_squares_distances_once() -> None:
    products = gram(readers(vectors([0], [3], [3.5], [5], [20])), 1)
    assert distances(products)[1].tolist() == [9.0, 0.0, 0.25, 4.0, 289.0]
    assert selected(products, parse("krum:1")) == (2,), "0.25 + 2.25 against 0.25 + 4 and 2.25 + 4"


def test_the_geometric_median_of_three_corners_is_where_they_look_120_degrees_apart() -> None:
    corners = vectors([0, 0], [4, 0], [2, 3])
    out, _ = averaged("geomedian", corners)
    # The Fermat point of an isosceles triangle lies on its axis, 2 / tan(60 deg) above the base.
    assert out == pytest.approx([2.0, 2 / math.sqrt(3)], abs=2e-4)


def test_more_than_half_in_one_point_are_the_geometric_median() -> None:
    out, weights = averaged("geomedian", vectors([1, 1], [1, 1], [1, 1], [50, 0], [0, -50]))
    assert out.tolist() == [1.0, 1.0]
    assert weights == (1, 1, 1, 0, 0)


def test_nearest_neighbours_are_mixed_first() -> None:
    updates = vectors([0], [1], [3], [10])
    products = gram(readers(updates), 1)
    near = nearest(products, 3)
    assert near == ((0, 1, 2), (0, 1, 2), (0, 1, 2), (1, 2, 3))
    # Their means: 4/3 three times and 14/3.
    means = [sum((0, 1, 3, 10)[j] for j in members) / 3 for members in near]
    assert np.array(blended(products, near)) == pytest.approx(np.outer(means, means))
    out, weights = averaged("nnm:1+median", updates)
    assert out == pytest.approx([4 / 3])
    assert weights == (3, 3, 3, 0)


def test_weights_of_means_are_handed_on_and_stay_within_what_can_be_added() -> None:
    assert spread((2, 1), ((0, 1), (1,))) == (2, 3)
    assert sum(spread((2**20, 2**20), ((0, 1), (0, 1)))) <= 2**20


def test_inner_products_are_those_of_the_updates() -> None:
    assert gram(readers(vectors([1, 2], [3, -4])), 2) == ((5.0, -5.0), (-5.0, 25.0))


def test_likeness_is_norm_and_cosine_to_the_others() -> None:
    likeness = Likeness(3)
    likeness.take(vectors([3, 4], [3, 4], [-4, 3]))
    (first, second, third) = likeness.told()
    assert first == second
    assert first[0] == 5.0
    assert first[1] == pytest.approx((3 * -1 + 4 * 7) / (5 * math.sqrt(50)))
    assert third == (5.0, 0.0), "at right angles to both"


def test_zeros_have_no_direction() -> None:
    likeness = Likeness(2)
    likeness.take(vectors([0, 0], [1, 0]))
    assert likeness.told() == ((0.0, 0.0), (1.0, 0.0))


# --- the same bytes ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [1, TILE - 1, TILE, 3 * TILE + 5])
def test_the_gram_matrix_does_not_depend_on_how_much_is_read_at_a_time(elements: int) -> None:
    updates = drawn(1, 4, elements)
    whole = gram(readers(updates), elements)
    assert whole == gram(readers(updates), elements, stretch=TILE)
    assert whole == gram(readers(updates), elements, stretch=64 * TILE)


def test_the_gram_matrix_is_right_to_the_last_digits() -> None:
    updates = drawn(2, 3, 2 * TILE + 100)
    exact = [[math.fsum((a.astype(np.float64) * b).tolist()) for b in updates] for a in updates]
    assert np.array(gram(readers(updates), updates[0].size)) == pytest.approx(np.array(exact), rel=1e-13, abs=1e-10)


@pytest.mark.parametrize("rule", RULES)
def test_order_does_not_matter(rule: str) -> None:
    updates = drawn(3, 9, 300)
    out, weights = averaged(rule, updates)
    for order in itertools.islice(itertools.permutations(range(9)), 1, 40_000, 7_919):
        again, others = averaged(rule, [updates[i] for i in order])
        assert again.tobytes() == out.tobytes()
        assert others == tuple(weights[i] for i in order)


@pytest.mark.parametrize("rule", RULES)
def test_stretches_do_not_matter(rule: str) -> None:
    updates = drawn(4, 9, 40_000)
    out, weights = averaged(rule, updates)
    again, others = averaged(rule, updates, stretch=TILE)
    assert (again.tobytes(), others) == (out.tobytes(), weights)


def test_a_zero_has_one_sign() -> None:
    """Which of two equal zeros a sort puts first depends on the processor."""
    out, _ = averaged("median", vectors([-0.0], [0.0], [-0.0]))
    assert not np.signbit(out).any()


def test_without_a_rule_it_is_the_weighted_mean() -> None:
    updates = vectors([1, 0], [4, 3])
    mean = RoundMean(readers(updates), 2, (2, 1))
    out = np.empty(2, np.float32)
    mean.into(out, np.zeros(2, np.float32), updates)
    assert out.tolist() == [2.0, 1.0]
    assert mean.weights == ()
    assert mean.likeness[0][0] == 1.0


# --- what they promise ------------------------------------------------------------------------------------------------


def lies(kind: str, honest: Vectors) -> list[NDArray[np.float32]]:
    size = honest[0].size
    made: dict[str, Callable[[], NDArray[np.float32]]] = {
        "huge": lambda: np.full(size, 1e15, np.float32),
        "far": lambda: np.full(size, -900.0, np.float32),
        "opposite": lambda: (-30 * np.mean(honest, axis=0)).astype(np.float32),
        "one element": lambda: np.where(np.arange(size) == 3, np.float32(1000), honest[0]).astype(np.float32),
        "copies": lambda: honest[2].copy(),
        "zeros": lambda: np.zeros(size, np.float32),
    }
    return [made[kind]() for _ in range(LIARS)]


@pytest.mark.parametrize("kind", ["huge", "far", "opposite", "one element", "copies", "zeros"])
@pytest.mark.parametrize("rule", RULES)
def test_whatever_two_send_the_outcome_stays_near_the_honest(rule: str, kind: str) -> None:
    """No further from their mean than a small multiple of how far they lie apart, whatever it is that is sent."""
    honest = drawn(5, HONEST, 400, 0.1)
    middle = np.mean(honest, axis=0)
    apart = max(float(np.linalg.norm(one - middle)) for one in honest)
    out, _ = averaged(rule, [*honest, *lies(kind, honest)])
    assert float(np.linalg.norm(out - middle)) <= 1.5 * apart


@given(st.lists(st.floats(-1000, 1000, width=32), min_size=2, max_size=2), st.integers(0, 2**31))
def test_order_statistics_stay_between_the_honest_values(said: list[float], seed: int) -> None:
    honest = drawn(seed, HONEST, 5)
    liars = [np.full(5, value, np.float32) for value in said]
    for rule in ("median", "trimmed:2"):
        out, _ = averaged(rule, [*honest, *liars])
        assert (out >= np.min(honest, axis=0) - 1e-6).all()
        assert (out <= np.max(honest, axis=0) + 1e-6).all()


def test_values_of_any_size_are_borne_by_order_statistics() -> None:
    honest = drawn(6, HONEST, 50)
    liars = [np.full(50, 1e30, np.float32), np.full(50, -3e38, np.float32)]
    out, weights = averaged("trimmed:2", [*honest, *liars])
    assert (np.abs(out) < 5).all()
    assert weights[-2:] == (0, 0)


def test_one_who_is_a_thousand_million_times_as_far_costs_the_geometric_median_no_digits() -> None:
    honest = drawn(7, HONEST, 50, 0.01)
    near = geometric_median(gram(readers(honest), 50))
    far = geometric_median(gram(readers([*honest, np.full(50, 1e9, np.float32)]), 50))
    assert far[-1] == 0
    assert max(abs(a / sum(near) - b / sum(far)) for a, b in zip(near, far, strict=False)) < 0.02


@pytest.mark.parametrize("rule", ["geomedian", "multikrum:1", "nnm:1+median"])
@pytest.mark.parametrize("value", [np.nan, np.inf, 3e38])
def test_what_is_not_finite_never_gets_here_and_would_be_refused(rule: str, value: float) -> None:
    updates = [*drawn(8, 5, 10), np.full(10, value, np.float32)]
    if value == 3e38:
        averaged(rule, updates)  # its square is finite in float64
        return
    with pytest.raises(UsageError, match="couldn't compare updates"):
        averaged(rule, updates)


def test_more_that_are_not_finite_than_a_rule_bears_are_refused() -> None:
    bad = np.full(4, np.nan, np.float32)
    averaged("trimmed:1", [*drawn(9, 4, 4), bad])
    with pytest.raises(UsageError, match="more than it bears"):
        averaged("trimmed:1", [*drawn(9, 3, 4), bad, bad])


@pytest.mark.parametrize(("rule", "least"), [("median", 3), ("trimmed:2", 5), ("multikrum:2", 7), ("nnm:3+median", 7)])
def test_with_fewer_updates_than_a_rule_takes_there_is_no_mean(rule: str, least: int) -> None:
    assert parse(rule).least == least
    averaged(rule, drawn(10, least, 3))
    with pytest.raises(UsageError, match=f"it takes {least} updates"):
        averaged(rule, drawn(10, least - 1, 3))


def test_what_a_site_weighed_is_told_in_words() -> None:
    assert standings(parse("multikrum:1"), (1, 1, 1, 0)) == ("", "", "", "left out: it lies far from the others")
    words = standings(parse("trimmed:1"), (50, 50, 10, 40))
    assert words == ("", "", "counts for less: its numbers lie outside the middle of the others'", "")
    assert standings(parse("nnm:1+median"), (3, 3, 3, 0))[3] == "left out: none that counts is near to it"


def test_rules_are_read_as_they_are_written() -> None:
    for text in (*RULES, "krum:1", "nnm:12+multikrum:12"):
        assert str(parse(text)) == text
    for text in (
        "",
        "mean",
        "trimmed",
        "trimmed:0",
        "median:1",
        "nnm:2",
        "nnm:1+nnm:1+median",
        "trimmed:1000",
        "Median",
    ):
        with pytest.raises(UsageError, match="for a rule of averaging"):
            parse(text)


@pytest.mark.parametrize(("rule", "bears"), [("median", 4), ("trimmed:2", 2), ("nnm:1+trimmed:2", 1), ("geomedian", 4)])
def test_a_rule_says_how_many_it_bears(rule: str, bears: int) -> None:
    assert parse(rule).bears(10) == bears
