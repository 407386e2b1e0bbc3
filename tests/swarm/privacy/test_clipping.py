"""What one site can do to the mean is bounded: what a sender clips is accepted, and what is over a bound is refused.

Norms are compared with `math.fsum` over float64 squares, which rounds once. Vectors that reach past a block are mostly
zeros, so that one element decides everything and its place can be named.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.mixing.average import VALUE_LIMIT
from swarm.privacy.clipping import BLOCK_ELEMENTS, NORM_SLACK, ROW_ELEMENTS, clip_in_place, inspect
from swarm.vector import Vector

ELEMENTS = 2 * BLOCK_ELEMENTS + ROW_ELEMENTS + 5
"""Two blocks, one row and a rest that fills no row."""

EDGES = (
    0,
    ROW_ELEMENTS - 1,
    ROW_ELEMENTS,
    BLOCK_ELEMENTS - 1,
    BLOCK_ELEMENTS,
    2 * BLOCK_ELEMENTS - 1,
    2 * BLOCK_ELEMENTS,
    ELEMENTS - 6,
    ELEMENTS - 5,
    ELEMENTS - 1,
)
"""First and last places of blocks, of rows and of the rest."""

NORM_ERROR = 1e-5
"""What the module promises for the rounding of a norm, relative."""

OVER_LIMIT = float(np.nextafter(np.float32(VALUE_LIMIT), np.float32(np.inf)))


def vector(*values: float) -> Vector:
    return np.array(values, np.float32)


def spike(place: int, value: float, elements: int = ELEMENTS) -> Vector:
    """Zeros with one other element."""
    update = np.zeros(elements, np.float32)
    update[place] = value
    return update


def true_norm(update: Vector) -> float:
    return math.sqrt(math.fsum(value * value for value in update.tolist()))


def read_only(update: Vector) -> Vector:
    """As a memory-mapped blob: a write raises."""
    update.flags.writeable = False
    return update


def look(update: Vector, bound: float = 0.0) -> tuple[str, float]:
    return inspect(read_only(update), elements=update.size, bound=bound)


def accepted(update: Vector, bound: float = 0.0) -> float:
    """The norm of an update that may be averaged."""
    problem, norm = look(update, bound)
    assert problem == ""
    return norm


SIZABLE = st.floats(-(2.0**66), 2.0**66, width=32).filter(lambda value: value == 0 or abs(value) > 2**-50)
"""Values whose squares are not lost below the smallest float32; above 1.8e19 they overflow it."""


# --- clipping -----------------------------------------------------------------------------------------------------


def test_an_update_over_the_bound_is_scaled_to_it_and_its_old_norm_returned() -> None:
    update = vector(3, -4)
    assert clip_in_place(update, 1.0) == 5.0
    assert update.tolist() == pytest.approx([0.6, -0.8], rel=1e-6)


@pytest.mark.parametrize("bound", [5.0, 5.1, 1e9])
def test_an_update_within_the_bound_is_not_written_to(bound: float) -> None:
    assert clip_in_place(read_only(vector(3, 4)), bound) == 5.0


@pytest.mark.parametrize("bound", [0.0, -1.0])
def test_a_bound_of_zero_or_less_bounds_no_norm(bound: float) -> None:
    update = np.full(100, 1000, np.float32)
    assert clip_in_place(read_only(update), bound) == 10_000
    assert look(update, bound) == ("", 10_000)


def test_values_over_the_limit_shrink_the_whole_update_and_keep_its_direction() -> None:
    update = vector(-2048, 1024, 2)
    assert clip_in_place(update, 0.0) == pytest.approx(math.sqrt(2048**2 + 1024**2 + 4))
    assert update.tolist() == [-1024, 512, 1]


def test_no_rounding_takes_a_clipped_value_over_the_limit() -> None:
    for value in np.linspace(1025, 100_000, 300, dtype=np.float32):
        update = vector(value, -value)
        clip_in_place(update, 0.0)
        assert update.tolist() == pytest.approx([VALUE_LIMIT, -VALUE_LIMIT])
        assert float(np.abs(update).max()) <= VALUE_LIMIT


def test_the_tighter_of_norm_and_value_limit_decides() -> None:
    wide, narrow = vector(3000, 4000), vector(3000, 4000)
    assert (clip_in_place(wide, 4000.0), clip_in_place(narrow, 500.0)) == (5000, 5000)
    assert wide.tolist() == pytest.approx([768, 1024])  # 4000 / 5000 would leave 3200, so 1024 / 4000 it is
    assert narrow.tolist() == pytest.approx([300, 400])


def test_values_at_the_limit_are_left_alone() -> None:
    update = vector(VALUE_LIMIT, -VALUE_LIMIT)
    clip_in_place(read_only(update), 0.0)
    assert accepted(update) == pytest.approx(VALUE_LIMIT * math.sqrt(2))


@pytest.mark.parametrize("place", EDGES)
def test_every_element_is_scaled_wherever_it_lies(place: int) -> None:
    update = np.ones(ELEMENTS, np.float32)
    update[place] = 2048
    clip_in_place(update, 0.0)
    assert update[place] == 1024
    assert np.count_nonzero(update == 0.5) == ELEMENTS - 1


@given(st.lists(SIZABLE, min_size=1, max_size=8), st.floats(1e-3, 1e5))
@settings(max_examples=200, deadline=None)
def test_a_clipped_update_is_within_the_bound_and_points_the_same_way(values: list[float], bound: float) -> None:
    update, before = vector(*values), vector(*values)
    norm = clip_in_place(update, bound)
    factor = min(1.0, bound / norm if norm else 1.0, VALUE_LIMIT / max(1e-300, float(np.abs(before).max())))
    assert true_norm(update) <= bound * (1 + NORM_ERROR)
    assert float(np.abs(update).max()) <= VALUE_LIMIT
    np.testing.assert_allclose(update, before.astype(np.float64) * factor, rtol=1e-6, atol=1e-37)


@given(st.lists(SIZABLE, min_size=1, max_size=8), st.sampled_from([0.0, 1e-3, 0.1, 1.0, 100.0, 2000.0]))
@settings(max_examples=200, deadline=None)
def test_receivers_accept_what_a_sender_has_clipped(values: list[float], bound: float) -> None:
    update = vector(*values)
    clip_in_place(update, bound)
    assert accepted(update, bound) == pytest.approx(true_norm(update), rel=NORM_ERROR, abs=1e-18)


def test_clipping_twice_changes_nothing_that_matters() -> None:
    update = np.random.default_rng(1).normal(0, 1, ROW_ELEMENTS + 9).astype(np.float32)
    clip_in_place(update, 1.5)
    once = update.copy()
    assert clip_in_place(update, 1.5) == pytest.approx(1.5, rel=1e-6)
    np.testing.assert_allclose(update, once, rtol=1e-6)


@pytest.mark.parametrize("bound", [0.0, 1.0])
def test_an_update_of_no_elements_or_of_zeros_has_norm_zero(bound: float) -> None:
    for update in (np.empty(0, np.float32), np.zeros(5, np.float32)):
        assert clip_in_place(read_only(update), bound) == 0.0
        assert look(update, bound) == ("", 0.0)


# --- norms --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", EDGES)
def test_every_element_counts_towards_the_norm(place: int) -> None:
    assert look(spike(place, -3.0)) == ("", 3.0)


@pytest.mark.parametrize(
    "elements", [1, ROW_ELEMENTS - 1, ROW_ELEMENTS, ROW_ELEMENTS + 1, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 1]
)
def test_norms_agree_with_exact_sums(elements: int) -> None:
    update = np.random.default_rng(elements).normal(0, 0.1, elements).astype(np.float32)
    assert accepted(update) == pytest.approx(true_norm(update), rel=NORM_ERROR)


@given(st.lists(SIZABLE, max_size=40))
@settings(max_examples=150, deadline=None)
def test_norms_of_very_unequal_values_agree_with_exact_sums(values: list[float]) -> None:
    norm = clip_in_place(vector(*values), 0.0)
    assert norm == pytest.approx(true_norm(vector(*values)), rel=NORM_ERROR)


@pytest.mark.parametrize("elements", [ROW_ELEMENTS, BLOCK_ELEMENTS, ELEMENTS])
def test_small_squares_beside_a_large_one_may_be_lost_without_using_up_the_slack(elements: int) -> None:
    # A square of 2**-24 added to 1 in float32 is rounded away: the worst a row can do, and only its own row's are.
    update = np.full(elements, math.sqrt(0.99 * 2.0**-24), np.float32)
    update[0] = 1
    assert accepted(update) == pytest.approx(true_norm(update), rel=NORM_SLACK / 2)


@pytest.mark.parametrize("place", EDGES)
def test_squares_too_large_for_float32_do_not_spoil_the_norm(place: int) -> None:
    update = spike(place, 4e19)
    update[1] = -3e19
    assert clip_in_place(update, 1.0) == pytest.approx(5e19)
    assert (update[place], update[1]) == (pytest.approx(0.8), pytest.approx(-0.6))


def test_a_row_whose_sum_alone_overflows_has_its_true_norm() -> None:
    # 1.5e19 squared is 2.25e38, which float32 holds, and twice that is more than it holds.
    update = vector(1.5e19, 1.5e19)
    assert clip_in_place(update, 0.0) == pytest.approx(1.5e19 * math.sqrt(2))
    assert update.tolist() == pytest.approx([VALUE_LIMIT, VALUE_LIMIT])


def test_the_largest_floats_are_finite_and_clipped() -> None:
    largest = float(np.finfo(np.float32).max)
    update = vector(largest, -largest)
    assert clip_in_place(update, 0.0) == pytest.approx(largest * math.sqrt(2))
    assert update.tolist() == pytest.approx([VALUE_LIMIT, -VALUE_LIMIT])


# --- not finite ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", EDGES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_the_element_that_is_not_finite_is_named(place: int, value: float) -> None:
    update = spike(place, value)
    assert look(update, 1.0) == (f"element {place} is not a finite number", 0.0)
    with pytest.raises(UsageError, match=f"couldn't clip the update: element {place} is not") as refused:
        clip_in_place(update, 1.0)  # and the vector, read only by now, has not been written to
    assert refused.value.hint == "lower the learning rate, or clip gradients"


@pytest.mark.parametrize(("first", "second"), [(7, 8), (5, BLOCK_ELEMENTS), (BLOCK_ELEMENTS + 2, 2 * BLOCK_ELEMENTS)])
def test_the_first_of_several_is_named(first: int, second: int) -> None:
    update = spike(first, math.inf)
    update[second] = math.nan
    assert look(update) == (f"element {first} is not a finite number", 0.0)


def test_values_whose_squares_overflow_do_not_hide_one_that_is_not_finite() -> None:
    update = spike(0, 3e38)
    update[BLOCK_ELEMENTS] = math.nan
    assert look(update) == (f"element {BLOCK_ELEMENTS} is not a finite number", 0.0)


def test_infinities_of_both_signs_do_not_cancel() -> None:
    assert look(vector(1, math.inf, -math.inf)) == ("element 1 is not a finite number", 0.0)


# --- inspection ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0, 9, 11])
def test_an_update_of_another_length_is_refused(size: int) -> None:
    update = np.full(size, math.nan, np.float32)
    problem, norm = inspect(update, elements=10, bound=1.0)
    assert (problem, norm) == (f"it has {size} elements, the charter's model has 10", 0.0)


@pytest.mark.parametrize("place", EDGES)
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_value_over_the_limit_is_refused_wherever_it_is(place: int, sign: float) -> None:
    assert look(spike(place, sign * VALUE_LIMIT)) == ("", VALUE_LIMIT)
    problem, norm = look(spike(place, sign * OVER_LIMIT))
    assert problem == "a value in it is larger than 1024"
    assert norm == pytest.approx(OVER_LIMIT)


def test_a_value_over_the_limit_is_refused_among_others_of_the_same_sign() -> None:
    for sign in (1, -1):
        assert look(np.full(3, sign * 2000, np.float32))[0] == "a value in it is larger than 1024"


def test_a_norm_over_the_value_limit_is_fine_while_no_value_is() -> None:
    assert look(np.full(100, -600, np.float32)) == ("", 6000)


def test_inspection_allows_a_ten_thousandth_over_the_bound_and_no_more() -> None:
    assert NORM_SLACK == 1e-4
    for bound in (1.0, 250.0):
        within, beyond = vector(bound * (1 + 0.9e-4)), vector(bound * (1 + 1.1e-4))
        assert accepted(within, bound) == pytest.approx(float(within[0]))
        problem, norm = look(beyond, bound)
        assert problem == f"its norm {float(beyond[0]):.4g} is over the charter's bound {bound:g}"
        assert norm == pytest.approx(float(beyond[0]))


def test_a_sender_allows_itself_no_slack() -> None:
    update = vector(1 + NORM_SLACK / 2)
    clip_in_place(update, 1.0)
    assert float(update[0]) == pytest.approx(1.0, rel=2e-7)


@pytest.mark.parametrize(("elements", "bound"), [(1000, 0.0013), (100_000, 0.001)])
def test_what_is_clipped_from_enormous_values_is_accepted_by_receivers(elements: int, bound: float) -> None:
    update = np.full(elements, 3e38, np.float32)
    clip_in_place(update, bound)
    assert inspect(update, elements=elements, bound=bound)[0] == ""
