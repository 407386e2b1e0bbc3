"""How much a liar can move, and how shares come of scores."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.contribution.agreement import agree, median
from swarm.contribution.shares import PPM, settle

scores = st.integers(-(2**40), 2**40)


def test_the_median_is_the_middle_value_and_of_two_the_mean_rounded_down() -> None:
    assert median([5, 1, 9]) == 5
    assert median([5, 1, 9, 6]) == 5
    assert median([-3, -4]) == -4


@given(st.lists(scores, min_size=3, max_size=9), scores, st.data())
def test_one_lie_moves_the_middle_no_further_than_to_its_neighbours(
    honest: list[int], lie: int, data: st.DataObject
) -> None:
    place = data.draw(st.integers(0, len(honest) - 1))
    told = [lie if i == place else value for i, value in enumerate(honest)]
    ordered = sorted(honest)
    low, high = (len(ordered) - 1) // 2, len(ordered) // 2
    least = (ordered[low - 1] + ordered[max(high - 1, 0)]) // 2
    most = (ordered[min(low + 1, len(ordered) - 1)] + ordered[min(high + 1, len(ordered) - 1)]) // 2
    assert least <= median(told) <= most


@given(st.lists(scores, min_size=1, max_size=9), st.data())
def test_fewer_liars_than_half_never_lead_outside_what_the_honest_say(honest: list[int], data: st.DataObject) -> None:
    lies = data.draw(st.lists(scores, max_size=len(honest) - 1))
    assert min(honest) <= median([*honest, *lies]) <= max(honest)


def test_who_wants_everything_gets_nothing_where_the_others_agree() -> None:
    agreed = agree([40, 40, 2**40, 40, 40], liars=1)
    assert agreed is not None
    assert (agreed.score, agreed.spread, agreed.scorers) == (40, 0, 5)


def test_too_few_values_to_outvote_the_liars_are_a_gap() -> None:
    assert agree([7, 7], liars=1) is None
    assert agree([], liars=0) is None
    assert agree([7], liars=0) is not None


def test_shares_are_of_what_is_not_negative_and_add_up_to_one() -> None:
    assert settle([30, -10, 10]) == (750_000, 0, 250_000)
    assert settle([1, 1, 1]) == (333_334, 333_333, 333_333)
    assert settle([0, -5]) is None


@given(st.lists(scores, min_size=1, max_size=12))
def test_shares_always_add_up(sums: list[int]) -> None:
    shares = settle(sums)
    if any(one > 0 for one in sums):
        assert shares is not None
        assert sum(shares) == PPM
        assert all(
            abs(share - max(0, one) * PPM / sum(max(0, s) for s in sums)) <= 1
            for share, one in zip(shares, sums, strict=True)
        )
    else:
        assert shares is None


@pytest.mark.parametrize("liars", [0, 1, 2])
def test_as_many_values_as_outvote_the_liars_are_enough(liars: int) -> None:
    assert agree([1] * (2 * liars + 1), liars) is not None
    assert agree([1] * (2 * liars), liars) is None
