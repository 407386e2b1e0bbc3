"""Games small enough to work out by hand, and what an axiom says of every game."""

import itertools
import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.contribution.game import members, play
from swarm.contribution.loo import LeaveOneOut
from swarm.contribution.shapley import ExactShapley, GuidedShapley, exact

GLOVES = {0: 0, 1: 0, 2: 0, 4: 0, 3: 0, 5: 1, 6: 1, 7: 1}
"""Players 0 and 1 have a left glove each, player 2 a right one; a pair is worth 1 (Shapley & Shubik 1969)."""

AIRPORT = {0: 0.0, 1: 1.0, 2: 2.0, 4: 3.0, 3: 2.0, 5: 3.0, 6: 3.0, 7: 3.0}
"""A runway as long as the largest of three planes needs it: costs 1, 2, 3 (Littlechild & Owen 1973)."""


def table(values: dict[int, float]) -> Callable[[int], float]:
    return lambda coalition: values[coalition]


def shapley(values: dict[int, float], players: int) -> list[float]:
    found = play(ExactShapley(players), table(values))
    return [found[player].value for player in range(players)]


def by_orders(values: dict[int, float], players: int) -> list[float]:
    """The definition: what each adds, on average over all orders."""
    sums = [0.0] * players
    orders = list(itertools.permutations(range(players)))
    for order in orders:
        coalition = 0
        for player in order:
            sums[player] += values[coalition | 1 << player] - values[coalition]
            coalition |= 1 << player
    return [one / len(orders) for one in sums]


def games(players: int) -> st.SearchStrategy[dict[int, float]]:
    numbers = st.floats(-4, 4, allow_nan=False)
    return st.lists(numbers, min_size=1 << players, max_size=1 << players).map(lambda v: dict(enumerate(v)))


def test_the_glove_game_gives_two_thirds_to_the_only_right_glove() -> None:
    assert shapley(GLOVES, 3) == pytest.approx([1 / 6, 1 / 6, 4 / 6])


def test_the_airport_game_divides_each_stretch_among_those_who_need_it() -> None:
    assert shapley(AIRPORT, 3) == pytest.approx([1 / 3, 1 / 3 + 1 / 2, 1 / 3 + 1 / 2 + 1])


@settings(max_examples=25, deadline=None)
@given(games(4))
def test_nothing_is_left_over_and_the_formula_is_the_mean_over_all_orders(values: dict[int, float]) -> None:
    found = exact(values, 4)
    assert sum(found) == pytest.approx(values[15] - values[0], abs=1e-9)
    assert found == pytest.approx(by_orders(values, 4), abs=1e-9)


@settings(max_examples=25, deadline=None)
@given(games(3), games(3))
def test_the_sum_of_two_games_gives_the_sum_of_their_values(one: dict[int, float], other: dict[int, float]) -> None:
    both = {coalition: one[coalition] + other[coalition] for coalition in one}
    assert exact(both, 3) == pytest.approx([a + b for a, b in zip(exact(one, 3), exact(other, 3), strict=True)])


@settings(max_examples=25, deadline=None)
@given(games(3))
def test_who_never_adds_anything_gets_nothing_and_copies_get_the_same(values: dict[int, float]) -> None:
    with_null = {coalition: values[coalition & 7] for coalition in range(16)}
    assert exact(with_null, 4)[3] == pytest.approx(0.0, abs=1e-9)
    # Players 0 and 3 bring the same: the game only asks whether either is there.
    copied = {c: values[(c | c >> 3) & 1 | c & 6] for c in range(16)}
    assert exact(copied, 4)[0] == pytest.approx(exact(copied, 4)[3], abs=1e-9)


def test_a_copy_halves_what_shapley_gives_and_takes_all_that_leave_one_out_gives() -> None:
    worth = {0: 0.0, 1: 6.0, 2: 2.0, 3: 8.0}  # two players of their own, 6 and 2
    copied = {c: worth[(c | c >> 2) & 1 | c & 2] for c in range(8)}  # player 2 is player 0 again
    assert shapley(copied, 3) == pytest.approx([3.0, 2.0, 3.0])
    left_out = play(LeaveOneOut(3), table(copied))
    assert [left_out[i].value for i in range(3)] == [0.0, 2.0, 0.0]


def test_a_split_site_gets_more_than_one_that_is_whole_where_returns_diminish() -> None:
    """Replication inflates: v(S) = 1 if anybody is there. Alone of two, a site gets 1/2; as two of three, 2/3."""
    whole = {c: float(c > 0) for c in range(4)}
    split = {c: float(c > 0) for c in range(8)}
    assert shapley(whole, 2)[0] == pytest.approx(1 / 2)
    assert sum(shapley(split, 3)[:2]) == pytest.approx(2 / 3)


def saturating(players: int, seed: int) -> dict[int, float]:
    """A game like that of models: what each brings, with diminishing returns."""
    brings = [random.Random(seed + i).uniform(0.0, 1.0) for i in range(players)]
    return {c: 1.0 - 0.3 ** sum(brings[i] for i in members(c, players)) for c in range(1 << players)}


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_sampled_orders_come_close_to_the_exact_values_of_five_players(seed: int) -> None:
    values = saturating(5, seed)
    truth = exact(values, 5)
    guided = GuidedShapley(5, random.Random(seed), within=1e-6)
    found = play(guided, table(values), evaluations_max=26)  # 32 would be all
    assert guided.evaluations == 26
    assert guided.orders >= 3
    assert found.keys() == set(range(5))
    for player, worth in found.items():
        assert abs(worth.value - truth[player]) < max(3.5 * worth.error, 0.02)
    assert max(worth.error for worth in found.values()) > 0.0


def test_once_every_value_is_known_the_answer_is_exact_and_certain() -> None:
    values = saturating(3, 9)
    guided = GuidedShapley(3, random.Random(1), within=0.0)
    found = play(guided, table(values))
    assert guided.evaluations == 8
    assert [found[i].value for i in range(3)] == pytest.approx(exact(values, 3))
    assert {found[i].error for i in range(3)} == {0.0}


def test_a_round_that_moved_nothing_costs_two_values_and_is_worth_nothing() -> None:
    guided = GuidedShapley(6, random.Random(0), between=0.01)
    found = play(guided, lambda coalition: 0.5 + 0.001 * (coalition > 0))
    assert guided.evaluations == 2
    assert {worth.value for worth in found.values()} == {0.0}


def test_who_comes_after_the_value_is_reached_costs_nothing() -> None:
    """Anybody alone reaches everyone's value, so nothing is asked but for each alone."""
    guided = GuidedShapley(6, random.Random(0))
    found = play(guided, lambda coalition: float(coalition > 0))
    assert guided.evaluations == 2 + 6
    assert guided.orders >= 30
    assert [found[player].value for player in range(6)] == pytest.approx([1 / 6] * 6)


def test_three_orders_are_right_on_average_whoever_begins_them() -> None:
    """A game in which the first to come adds most: 200 scorers that are cut short err, and not in one direction."""
    brings = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5]
    values = {c: max((brings[i] for i in members(c, 6)), default=0.0) for c in range(64)}
    worth, sums = exact(values, 6), [0.0] * 6
    for seed in range(200):
        guided = GuidedShapley(6, random.Random(seed), orders_max=3)
        found = play(guided, table(values))
        assert guided.orders == 3
        sums = [total + found[i].value for i, total in enumerate(sums)]
    assert [total / 200 for total in sums] == pytest.approx(worth, abs=0.01)


def test_it_stops_once_the_means_stand_still_though_values_are_left() -> None:
    additive = {c: float(sum(i + 1 for i in members(c, 8))) for c in range(256)}
    guided = GuidedShapley(8, random.Random(3))
    found = play(guided, table(additive))
    assert guided.orders == 30  # no order differs from any other, so the fewest are enough
    assert guided.evaluations < 256
    assert [found[i].value for i in range(8)] == pytest.approx([1, 2, 3, 4, 5, 6, 7, 8])
    assert max(worth.error for worth in found.values()) < 1e-6


def test_an_order_that_is_cut_short_does_not_count_and_one_order_says_nothing() -> None:
    values = saturating(5, 4)
    guided = GuidedShapley(5, random.Random(0), within=0.0)
    assert play(guided, table(values), evaluations_max=10) == {}
    assert guided.orders == 1  # nobody, everyone, five alone, and three on the way of the first order


def test_leave_one_out_asks_one_more_than_there_are_players_and_begins_where_it_is_told() -> None:
    asked: list[int] = []

    def value(coalition: int) -> float:
        asked.append(coalition)
        return float(coalition.bit_count())

    scorer = LeaveOneOut(4, first=2)
    found = play(scorer, value)
    assert asked == [0b1111, 0b1011, 0b0111, 0b1110, 0b1101]
    assert scorer.evaluations == 5
    assert [found[i].value for i in range(4)] == [1.0] * 4
    assert play(LeaveOneOut(4, first=2), value, evaluations_max=3).keys() == {2, 3}


def test_a_game_of_one_is_worth_what_it_moved() -> None:
    assert play(LeaveOneOut(1), float)[0].value == 1.0
    assert play(GuidedShapley(1, random.Random(0)), float)[0].value == 1.0
