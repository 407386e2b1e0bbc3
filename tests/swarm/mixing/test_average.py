"""The weighted mean against Python's integers and fractions, bit for bit.

`by_hand` is the definition: whole fixed-point steps, summed as integers of any length, then one conversion, one
division, one rounding to float32 and one float32 addition. The module must give those very bytes whatever the order of
the updates, the blocks they fall into, and the arithmetic a block is added up in.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.mixing.average import (
    BLOCK_ELEMENTS,
    EXACT_IN_FLOAT64,
    FRACTION_BITS,
    PPM,
    VALUE_LIMIT,
    WEIGHT_TOTAL_MAX,
    integer_weights,
    weighted_mean_into,
)
from swarm.vector import Vector

STEP = 2.0**-FRACTION_BITS
LARGE_WEIGHT = 2**12
"""With it one element of 1024 in a block takes the block's sum past 2**53."""


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def mean(base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
    out = np.full(base.size, np.nan, np.float32)
    weighted_mean_into(out, base, updates, weights)
    return out


def by_hand(base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """The definition, element by element. `round` of a fraction goes to the even neighbour, as IEEE 754 does."""
    out = np.empty_like(base)
    divisor = float(sum(weights) << FRACTION_BITS)
    for i in range(base.size):
        steps = [round(Fraction(float(update[i])) * 2**FRACTION_BITS) for update in updates]
        total = sum(weight * step for weight, step in zip(weights, steps, strict=True))
        out[i] = base[i] + np.float32(float(total) / divisor)
    return out


def test_the_rest_counts_as_if_its_updates_were_zero() -> None:
    rng = np.random.default_rng(3)
    base, *updates = rng.normal(size=(4, 1000)).astype(np.float32)
    out, zeros = np.empty_like(base), np.zeros_like(base)
    weighted_mean_into(out, base, updates, [5, 600, 70], rest=1234)
    assert out.tobytes() == mean(base, [*updates, zeros], [5, 600, 70, 1234]).tobytes()


def by_columns(base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """The definition in int64 alone, for vectors too long for `by_hand`."""
    sums = np.zeros(base.size, np.int64)
    for update, weight in zip(updates, weights, strict=True):
        sums += weight * np.rint(update.astype(np.float64) * 2**FRACTION_BITS).astype(np.int64)
    return base + (sums.astype(np.float64) / float(sum(weights) << FRACTION_BITS)).astype(np.float32)


VALUES = st.one_of(
    st.floats(-VALUE_LIMIT, VALUE_LIMIT, width=32),
    st.floats(-(2.0**-20), 2.0**-20, width=32),
    st.sampled_from([0.0, STEP, STEP / 2, 3 * STEP / 2, -STEP / 2, 2.0, -2.0, VALUE_LIMIT, -VALUE_LIMIT]),
)


@st.composite
def averages(draw: st.DrawFn) -> tuple[Vector, list[Vector], list[int]]:
    """A base, its updates and their weights, often at a limit."""
    elements, count = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    most = WEIGHT_TOTAL_MAX // count
    weights = draw(st.lists(st.one_of(st.integers(1, most), st.just(most)), min_size=count, max_size=count))
    column = st.lists(VALUES, min_size=elements, max_size=elements)
    base = vector(*draw(column)) + np.float32(0)  # the sum turns -0.0 into 0.0
    return base, [vector(*draw(column)) for _ in range(count)], weights


# --- the mean -----------------------------------------------------------------------------------------------------


def test_the_mean_is_weighted_and_added_to_the_base() -> None:
    # (10 * 1 + 30 * 5) / 40 = 4 and (10 * -2 + 30 * 2) / 40 = 1
    assert mean(vector(0.5, 100), [vector(1, -2), vector(5, 2)], [10, 30]).tolist() == [4.5, 101]


def test_a_mean_that_is_no_binary_fraction_is_rounded_to_the_nearest_float32() -> None:
    assert mean(vector(0), [vector(1), vector(0)], [1, 2]).tolist() == [np.float32(1 / 3)]


@pytest.mark.parametrize("total", range(3, 64, 2))
def test_a_mean_halfway_between_two_float32_goes_to_the_even_one(total: int) -> None:
    # total * (2 - k * 2**-24) over total: the division must come out exact, which a product with 1 / total need not.
    for k, expected in ((1, 2.0), (3, 2 - 2.0**-22)):
        updates, weights = [vector(2 * total), vector(-total * k * 2.0**-24), vector(0)], [1, 1, total - 2]
        assert mean(vector(0), updates, weights).tolist() == [expected]


@given(averages())
@settings(max_examples=200, deadline=None)
def test_the_mean_has_the_bytes_of_exact_integer_arithmetic(case: tuple[Vector, list[Vector], list[int]]) -> None:
    assert mean(*case).tobytes() == by_hand(*case).tobytes()


@given(averages())
@settings(max_examples=100, deadline=None)
def test_the_mean_is_within_half_a_step_and_one_rounding_of_the_true_one(
    case: tuple[Vector, list[Vector], list[int]],
) -> None:
    base, updates, weights = case
    found = mean(np.zeros_like(base), updates, weights)
    for i in range(base.size):
        products = [weight * Fraction(float(update[i])) for update, weight in zip(updates, weights, strict=True)]
        true = sum(products, Fraction(0)) / sum(weights)
        allowed = Fraction(STEP / 2) + Fraction(float(np.spacing(abs(found[i]))))
        assert abs(Fraction(float(found[i])) - true) <= allowed


@given(st.data(), averages())
@settings(max_examples=100, deadline=None)
def test_the_order_of_the_updates_does_not_change_a_bit(
    data: st.DataObject, case: tuple[Vector, list[Vector], list[int]]
) -> None:
    base, updates, weights = case
    order = data.draw(st.permutations(range(len(updates))))
    shuffled = mean(base, [updates[i] for i in order], [weights[i] for i in order])
    assert shuffled.tobytes() == mean(base, updates, weights).tobytes()


def test_a_single_step_survives_between_the_largest_values_in_every_order() -> None:
    # In float64 2**60 + 1 - 2**60 is 0 or 1, as the order has it; the mean is one step over the total weight.
    terms = [(vector(VALUE_LIMIT), 2**18), (vector(STEP), 1), (vector(-VALUE_LIMIT), 2**18)]
    for order in itertools.permutations(terms):
        found = mean(vector(0), [update for update, _ in order], [weight for _, weight in order])
        assert found.tolist() == [np.float32(STEP / (2**19 + 1))]


def test_half_a_step_is_rounded_to_the_even_one() -> None:
    halves = vector(0.5, 1.5, 2.5, -0.5, -1.5) * np.float32(STEP)
    assert (mean(np.zeros(5, np.float32), [halves], [1]) / STEP).tolist() == [0, 2, 2, 0, -2]


def test_each_update_is_rounded_on_its_own_before_the_sum() -> None:
    # Two halves of a step are one step together, but each is rounded to none first, as a masked share would be.
    half = vector(STEP / 2)
    assert mean(vector(0), [half, half], [1, 1]).tolist() == [0]


def test_weights_in_the_same_proportion_give_the_same_bytes() -> None:
    base, updates = vector(0.1, 7, -3), [vector(0.3, 1000, STEP), vector(-0.7, -999.25, 1e-5)]
    small, large = mean(base, updates, [1, 3]), mean(base, updates, [2**18, 3 * 2**18])
    assert small.tobytes() == large.tobytes()


def test_an_update_of_no_weight_leaves_no_trace() -> None:
    base, update = vector(1, 2), vector(0.25, -8)
    assert mean(base, [update, vector(1024, -1024)], [3, 0]).tobytes() == mean(base, [update], [3]).tobytes()


# --- the limits ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", [VALUE_LIMIT, -VALUE_LIMIT])
@pytest.mark.parametrize("weights", [[WEIGHT_TOTAL_MAX], [1] * 64, [WEIGHT_TOTAL_MAX // 64] * 64])
def test_the_largest_values_at_the_largest_weights_do_not_overflow(value: float, weights: list[int]) -> None:
    updates = [vector(value)] * len(weights)
    assert mean(vector(0), updates, weights).tolist() == [value]


@pytest.mark.parametrize("value", [2.0, float(np.nextafter(np.float32(2), np.float32(0)))])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_sums_are_exact_on_both_sides_of_two_to_the_53(value: float, sign: float) -> None:
    # 2**20 times 2.0 is 2**53 steps, where float64 ends; the float32 below 2.0 stays within it.
    steps = WEIGHT_TOTAL_MAX * value / STEP
    assert (steps >= EXACT_IN_FLOAT64) == (value == 2.0)
    weights, updates = [WEIGHT_TOTAL_MAX - 1, 1], [vector(sign * value, STEP), vector(sign * value, -STEP)]
    base = vector(0, 0)
    assert mean(base, updates, weights).tobytes() == by_hand(base, updates, weights).tobytes()


@pytest.mark.parametrize(("odd_steps", "expected"), [(1, 3), (3, 3 + 2.0**-22)])
def test_past_two_to_the_53_a_sum_is_rounded_once_and_not_at_every_addition(odd_steps: int, expected: float) -> None:
    # The terms 6 and 1/8 make 3 + 2**-23, halfway between two float32; as float64 their sum of steps is even. One more
    # step is a tie that is dropped, and the half goes down to 3. Three more become four, and it goes up. Added one by
    # one in float64, three are dropped too.
    updates = [vector(6), vector(0), vector(1 / 8), *[vector(STEP)] * odd_steps]
    weights = [2**19, 2**19 - 1 - odd_steps, 1, *[1] * odd_steps]
    assert sum(weights) == WEIGHT_TOTAL_MAX
    for shift in range(len(updates)):
        rotated = mean(vector(0), updates[shift:] + updates[:shift], weights[shift:] + weights[:shift])
        assert rotated.tolist() == [expected]


@given(averages(), st.sampled_from([VALUE_LIMIT, -VALUE_LIMIT]))
@settings(max_examples=150, deadline=None)
def test_adding_in_int64_gives_the_bytes_of_adding_in_float64(
    case: tuple[Vector, list[Vector], list[int]], large: float
) -> None:
    """One large element makes its whole block take the slower way; its neighbours must not notice."""
    base, updates, weights = case
    updates = [update / np.float32(1024) for update in updates]
    weights = [min(weight, LARGE_WEIGHT) for weight in weights[:-1]] + [LARGE_WEIGHT]
    assert sum(weights) < EXACT_IN_FLOAT64 * STEP <= LARGE_WEIGHT * VALUE_LIMIT
    beside = [np.append(update, np.float32(0)) for update in updates[:-1]] + [np.append(updates[-1], np.float32(large))]
    alone, together = mean(base, updates, weights), mean(np.append(base, np.float32(0)), beside, weights)
    assert together[:-1].tobytes() == alone.tobytes()


@pytest.mark.parametrize("weights", [[0, 0], [WEIGHT_TOTAL_MAX, 1], [1]], ids=["none", "too much", "one too few"])
def test_weights_that_break_the_bound_are_a_programmers_mistake(weights: list[int]) -> None:
    with pytest.raises(AssertionError):
        mean(vector(0), [vector(1), vector(1)], weights)


# --- blocks -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("elements", [0, 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS, BLOCK_ELEMENTS + 1])
def test_every_element_is_averaged_whatever_the_length(elements: int) -> None:
    base, rising = np.zeros(elements, np.float32), np.arange(elements, dtype=np.float32) / np.float32(64)
    assert np.array_equal(mean(base, [rising, 3 * rising], [1, 1]), 2 * rising)


def long_case() -> tuple[Vector, list[Vector], list[int]]:
    """Two blocks and a piece; the middle block is added in int64, the others in float64."""
    rng = np.random.default_rng(7)
    elements = 2 * BLOCK_ELEMENTS + 77
    updates = [rng.normal(0, 1e-3, elements).astype(np.float32) for _ in range(3)]
    updates[1][BLOCK_ELEMENTS : 2 * BLOCK_ELEMENTS] *= np.float32(1e5)
    return rng.normal(0, 1, elements).astype(np.float32), updates, [2**17, 2**18 + 1, 3]


def test_blocks_of_large_and_small_values_follow_each_other() -> None:
    case = long_case()
    assert mean(*case).tobytes() == by_columns(*case).tobytes()


@pytest.mark.parametrize("piece", [1000, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 1, 2 * BLOCK_ELEMENTS])
def test_a_model_averaged_piece_by_piece_has_the_bytes_of_one_averaged_whole(piece: int) -> None:
    base, updates, weights = long_case()
    pieces = [
        mean(base[start : start + piece], [update[start : start + piece] for update in updates], weights).tobytes()
        for start in range(0, base.size, piece)
    ]
    assert b"".join(pieces) == mean(base, updates, weights).tobytes()


def test_the_mean_may_be_written_over_the_base() -> None:
    base, updates, weights = long_case()
    expected = mean(base, updates, weights)
    weighted_mean_into(base, base, updates, weights)
    assert base.tobytes() == expected.tobytes()


def test_neither_base_nor_updates_are_changed() -> None:
    base, updates, weights = long_case()
    for array in (base, *updates):
        array.flags.writeable = False  # as a memory-mapped blob: a write would raise
    before = [array.tobytes() for array in (base, *updates)]
    mean(base, updates, weights)
    assert [array.tobytes() for array in (base, *updates)] == before


# --- weights ------------------------------------------------------------------------------------------------------


def water_filling(samples: Sequence[int], cap: Fraction) -> list[Fraction]:
    """The shares that sum to 1, proportional below the cap: cap whoever is over it, share out again, until nobody is."""
    shares = [Fraction(count, sum(samples)) for count in samples]
    while any(share > cap for share in shares):
        capped = [share >= cap for share in shares]
        free = sum(count for count, full in zip(samples, capped, strict=True) if not full)
        room = 1 - cap * sum(capped)
        shares = [cap if full else count * room / free for count, full in zip(samples, capped, strict=True)]
    return shares


SAMPLES = st.lists(
    st.one_of(st.integers(0, 9), st.integers(0, 5000), st.integers(0, 2**40)), min_size=1, max_size=12
).filter(any)


def test_sample_counts_are_weights_as_they_are() -> None:
    assert integer_weights([10, 0, 30]) == (10, 0, 30)


def test_counts_that_sum_to_the_limit_are_kept_and_larger_ones_scaled() -> None:
    assert integer_weights([WEIGHT_TOTAL_MAX - 1, 1]) == (WEIGHT_TOTAL_MAX - 1, 1)
    # One more: 2**20 - 2 shared 2**20 : 1, rounded down, and the small site keeps its 1.
    assert integer_weights([WEIGHT_TOTAL_MAX, 1]) == (WEIGHT_TOTAL_MAX - 3, 1)


def test_a_site_too_small_for_the_scale_keeps_a_weight_of_one() -> None:
    assert integer_weights([2**40, 1, 1, 0]) == (2**20 - 5, 1, 1, 0)


def test_a_sites_share_is_capped_and_the_rest_spread_in_proportion() -> None:
    # Of 2**20 - 3 = 1048573: 40 % is 419429; the 629144 that are left go 10 : 5 : 5.
    assert integer_weights([80, 10, 5, 5], cap_ppm=400_000) == (419428, 314572, 157286, 157286)
    assert integer_weights([70, 20, 10], cap_ppm=400_000) == (419429, 419429, 209714)


def test_a_site_pushed_over_the_cap_by_anothers_excess_is_capped_too() -> None:
    # 15 of 100 is far below 40 %, but of the 60 % that 80 leaves behind it would get 45 %.
    assert integer_weights([80, 15, 5], cap_ppm=400_000) == (419429, 419429, 209715)


def test_without_a_cap_whoever_claims_enough_samples_is_the_mean() -> None:
    honest, liar = [900, 500, 40], 2**39
    weights = integer_weights([*honest, liar])
    assert weights[-1] / sum(weights) > 0.99999
    capped = integer_weights([*honest, liar], cap_ppm=300_000)
    assert capped[-1] / sum(capped) <= 0.3


def test_shares_at_the_cap_are_not_touched() -> None:
    assert integer_weights([40, 40, 20], cap_ppm=400_000) == (40, 40, 20)


@pytest.mark.parametrize("cap_ppm", [0, 1, 250_000])
def test_a_cap_that_leaves_no_choice_means_equal_weights(cap_ppm: int) -> None:
    assert integer_weights([80, 0, 10, 6, 4], cap_ppm=cap_ppm) == (1, 0, 1, 1, 1)


def test_the_only_site_with_samples_is_not_capped_away() -> None:
    assert integer_weights([0, 500, 0], cap_ppm=200_000) == (0, 1, 0)


@pytest.mark.parametrize("samples", [[], [0], [0, 0], [5, -1]])
def test_sites_without_samples_or_with_negative_ones_cannot_be_weighted(samples: list[int]) -> None:
    with pytest.raises(UsageError, match="couldn't weight the sites"):
        integer_weights(samples)


@given(SAMPLES, st.integers(0, PPM))
@settings(max_examples=200, deadline=None)
def test_weights_fit_the_limit_and_every_site_with_samples_counts(samples: list[int], cap_ppm: int) -> None:
    weights = integer_weights(samples, cap_ppm=cap_ppm)
    assert 0 < sum(weights) <= WEIGHT_TOTAL_MAX
    assert [weight > 0 for weight in weights] == [count > 0 for count in samples]


@given(SAMPLES, st.integers(0, PPM))
@settings(max_examples=200, deadline=None)
def test_shares_are_those_of_water_filling_to_a_few_millionths(samples: list[int], cap_ppm: int) -> None:
    present, cap = sum(count > 0 for count in samples), Fraction(cap_ppm, PPM)
    exact = water_filling(samples, cap if cap * present > 1 else Fraction(1))
    weights = integer_weights(samples, cap_ppm=cap_ppm)
    if cap * present <= 1:
        exact = [Fraction(count > 0, present) for count in samples]
    # Each site is rounded by at most one part in 2**20, and all of them together move the total.
    allowed = Fraction(2 * len(samples) + 1, WEIGHT_TOTAL_MAX)
    for weight, share in zip(weights, exact, strict=True):
        assert abs(Fraction(weight, sum(weights)) - share) <= allowed


@given(st.data(), SAMPLES, st.integers(0, PPM))
@settings(max_examples=100, deadline=None)
def test_a_weight_depends_on_the_count_and_not_on_the_place(
    data: st.DataObject, samples: list[int], cap_ppm: int
) -> None:
    order = data.draw(st.permutations(range(len(samples))))
    weights = integer_weights(samples, cap_ppm=cap_ppm)
    assert integer_weights([samples[i] for i in order], cap_ppm=cap_ppm) == tuple(weights[i] for i in order)


@given(SAMPLES, st.integers(0, PPM))
@settings(max_examples=100, deadline=None)
def test_more_samples_never_weigh_less(samples: list[int], cap_ppm: int) -> None:
    pairs = sorted(zip(samples, integer_weights(samples, cap_ppm=cap_ppm), strict=True))
    assert all(low <= high for (_, low), (_, high) in itertools.pairwise(pairs))


def test_minus_zeros_become_the_one_zero_of_integers_whatever_else_is_in_the_block() -> None:
    base = np.array([-0.0, 0.0], np.float32)
    signs = []
    for other in (0.0, 1024.0):
        out = np.empty(2, np.float32)
        weighted_mean_into(out, base, [np.array([-0.0, other], np.float32)], [2**20])
        signs.append(bool(np.signbit(out[0])))
    assert signs == [False, False]
