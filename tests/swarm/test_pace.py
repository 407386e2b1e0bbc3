"""How long a round waits for who is slow."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.pace import FACTOR_MAX, FACTOR_MIN, allowance, given_up, left_s, parse, worth

TIMES = st.floats(0.001, 1e5)
MANY = st.lists(TIMES, min_size=1, max_size=40)


def test_the_straggler_of_the_issue_by_hand() -> None:
    """Seven sites need about 10 s, one needs 200: the median is 10, and the spread is the others' 1.5 s."""
    usual = [7.0, 8.0, 9.0, 10.0, 10.0, 11.0, 12.0, 200.0]
    until = allowance(usual, 10.0, worth=1.0, factor=4, floor_s=15.0)
    assert until == 40.0
    assert not given_up(39.9, until, 15.0, None)
    assert given_up(40.0, until, 15.0, None)
    assert given_up(15.0, until, 15.0, 180.0), "its steps say that it cannot make it"
    assert not given_up(14.9, until, 15.0, 180.0), "who moves is not given up before who is not heard of"
    assert not given_up(15.0, until, 15.0, 25.0), "it can make it just in time"


def test_the_largest_of_sites_whose_data_spread_94_fold_is_waited_for() -> None:
    """Equal machines, times as the samples: it needs nine times the median and brings nearly half of all there is."""
    samples = [round(94 ** (i / 7) * 100) for i in range(8)]
    usual = [number / 100 for number in samples]
    largest = worth(samples, samples[-1], 1_000_000)
    assert 3.8 < largest < 4.0
    assert allowance(usual, usual[4], worth=largest, factor=4, floor_s=3.0) > usual[-1]
    twenty_times = 20 * usual[0]
    assert allowance(usual, usual[4], worth=1.0, factor=4, floor_s=3.0) > twenty_times, "the smallest may"


@given(MANY, TIMES, st.floats(0.0, 100.0), st.integers(FACTOR_MIN, FACTOR_MAX), TIMES)
def test_the_wait_is_never_shorter_than_the_floor_and_than_the_factor_says(
    usual: list[float], half_s: float, share: float, factor: int, floor_s: float
) -> None:
    until = allowance(usual, half_s, worth=share, factor=factor, floor_s=floor_s)
    assert until >= floor_s
    assert until >= factor * half_s
    assert until >= factor * sorted(usual)[(len(usual) - 1) // 2]


@given(MANY, TIMES, st.floats(0.0, 10.0), st.floats(0.0, 10.0))
def test_who_brings_more_is_waited_for_longer(usual: list[float], half_s: float, less: float, more: float) -> None:
    less, more = sorted((less, more))
    one, other = (allowance(usual, half_s, worth=w, factor=4, floor_s=3.0) for w in (less, more))
    assert one <= other


@given(st.lists(TIMES, min_size=3, max_size=31), st.data())
def test_fewer_than_half_of_the_members_cannot_move_it_past_what_the_others_need(
    honest: list[float], data: st.DataObject
) -> None:
    """However slow they are, or say that they are: with a majority near each other, the wait stays near it too."""
    liars = data.draw(st.lists(st.floats(0.0, 1e9), max_size=len(honest) - 1))
    until = allowance([*honest, *liars], max(honest), worth=1.0, factor=4, floor_s=0.0)
    slowest, fastest = max(honest), min(honest)
    assert until <= max(4 * slowest, slowest + 4 * 1.4826 * max(slowest - fastest, slowest))


@given(MANY, TIMES, st.floats(0.1, 100.0))
def test_it_scales_with_time(usual: list[float], half_s: float, by: float) -> None:
    """If all are so many times slower, the wait is so many times longer: nobody is left out for it."""
    until = allowance(usual, half_s, worth=1.0, factor=4, floor_s=3.0)
    scaled = allowance([by * one for one in usual], by * half_s, worth=1.0, factor=4, floor_s=by * 3.0)
    assert math.isclose(scaled, by * until, rel_tol=1e-9)


@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(1e-3, 1e6))
def test_what_is_left_is_never_overestimated_for_who_keeps_its_rate(done: int, to_do: int, step_s: float) -> None:
    """Watched at any instant within a step."""
    for within in (0.0, 0.5, 0.999):
        watched = (done + within) * step_s
        found = left_s(done, done + to_do, 0, watched)
        if found is not None:
            assert found <= (to_do - within) * step_s * (1 + 1e-9)


def test_nothing_is_said_of_what_is_left_where_the_steps_say_nothing() -> None:
    assert left_s(5, 0, 0, 10.0) is None, "it is not known how many there are"
    assert left_s(9, 8, 0, 10.0) is None, "there are more than it thought"
    assert left_s(5, 8, 0, 0.0) is None
    assert left_s(5, 8, 6, 1.0) is None
    assert left_s(3, 20, 3, 32.0) == 16 * 32.0, "not one step since"


def test_worth_is_the_share_in_units_of_the_average() -> None:
    assert worth([100, 100, 200], 200, 1_000_000) == 1.5
    assert worth([100, 100, 200], 200, 300_000) == pytest.approx(0.9), "as far as the charter lets it weigh"
    assert worth([], 0, 1_000_000) == 1.0


@pytest.mark.parametrize("text", ["0", "1", "1001", "4.5", "-3", "", "four", "04"])
def test_a_pace_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="for the pace"):
        parse(text)
    assert parse("4") == 4
