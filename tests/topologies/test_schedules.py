import numpy as np
import pytest

from swarm.errors import UsageError
from topologies import weights
from topologies.families import path, random_regular, ring, star
from topologies.mixing import Mixing, Promise
from topologies.schedules import (
    build,
    d_equistatic,
    directed,
    moshpit,
    names,
    periodic,
    static,
    static_exponential,
    u_equistatic,
)


def test_a_static_schedule_is_one_topology_for_ever() -> None:
    schedule = static(ring(5))
    assert (schedule.period, schedule.promise, schedule.symmetric) == (1, Promise.DOUBLY, True)
    assert schedule.links == ring(5)
    assert schedule.targets(17, 0) == (1, 4)
    np.testing.assert_array_equal(schedule.mixing(99).dense(), weights.metropolis_hastings(ring(5)))


def test_a_static_schedule_takes_symmetric_weights_on_its_links_only() -> None:
    with pytest.raises(UsageError, match="not symmetric with rows that sum to 1") as caught:
        static(star(4), weights.uniform(star(4)))
    assert "regular graphs only" in caught.value.hint
    with pytest.raises(UsageError, match="0 and 2 have a weight but no link"):
        static(path(3), np.full((3, 3), 1 / 3))
    with pytest.raises(UsageError, match="the matrix has shape"):
        static(path(3), np.eye(2))


def test_negative_weights_keep_the_mean_and_are_not_called_stochastic() -> None:
    schedule = static(star(9), weights.best_constant(star(9)))
    assert schedule.promise is Promise.MEAN
    schedule.check()
    assert not schedule.mixing(0).is_doubly_stochastic
    x = np.arange(9.0)
    assert schedule.mixing(0).apply(x).mean() == pytest.approx(4.0)


def test_ones_own_rounds_promise_what_they_keep() -> None:
    swap = Mixing(3, [[(0, 0.5), (1, 0.5)], [(0, 0.5), (1, 0.5)], [(2, 1.0)]])
    push = Mixing(3, [[(0, 1.0), (2, 0.5)], [(1, 1.0)], [(2, 0.5)]])
    both = periodic([swap, push], name="mine")
    assert (both.period, both.promise, both.symmetric) == (2, Promise.COLUMN, False)
    both.check()
    assert periodic([swap, Mixing(3, [[(0, 0.5), (2, 0.5)], [(1, 1.0)], [(0, 0.5), (2, 0.5)]])]).symmetric
    with pytest.raises(UsageError, match="member 2 cannot be reached"):
        periodic([swap])
    with pytest.raises(UsageError, match="columns of round 1 do not sum to 1"):
        periodic([swap, Mixing(3, [[(0, 1.0)], [(0, 0.5), (1, 0.5)], [(2, 1.0)]])])
    with pytest.raises(UsageError, match="at least one round"):
        periodic([])


def test_one_way_links_need_a_way_back() -> None:
    schedule = directed(3, [(0, 1), (1, 2), (2, 0), (0, 2)])
    assert schedule.promise is Promise.COLUMN
    assert schedule.targets(0, 0) == (1, 2)
    assert schedule.row(0, 2) == ((0, pytest.approx(1 / 3)), (1, 0.5), (2, 0.5))
    schedule.check()
    with pytest.raises(UsageError, match="member 2 cannot reach member 0"):
        directed(3, [(0, 1), (1, 0), (0, 2)])
    with pytest.raises(UsageError, match="member 2 cannot be reached from member 0"):
        directed(3, [(0, 1), (1, 0), (2, 0)])
    with pytest.raises(UsageError, match="0->3 is no link"):
        directed(3, [(0, 3)])
    with pytest.raises(UsageError, match="1->1 is no link"):
        directed(3, [(1, 1)])


def test_static_exponential_by_hand() -> None:
    schedule = static_exponential(6)
    assert schedule.targets(0, 5) == (0, 1, 3)  # +1, +2, +4
    assert schedule.row(0, 0) == ((0, 0.25), (2, 0.25), (4, 0.25), (5, 0.25))
    assert static_exponential(2).symmetric


@pytest.mark.parametrize("n", [2, 3, 17, 60])
def test_equistatic_graphs_are_what_the_paper_says(n: int) -> None:
    one_way, both = d_equistatic(n, 4, seed=1), u_equistatic(n, 4, seed=1)
    one_way.check()
    both.check()
    assert both.symmetric
    w = one_way.mixing(0).dense()
    np.testing.assert_allclose(np.diag(w), 1 / n)  # 1/n of itself from every shift
    np.testing.assert_allclose(w[1:, 1:], w[:-1, :-1])  # circulant
    np.testing.assert_allclose(both.mixing(0).dense(), (w + w.T) / 2, atol=1e-15)
    assert d_equistatic(n, 4, seed=1).mixing(0) == one_way.mixing(0)


def test_equistatic_rate_does_not_fall_with_the_number_of_members() -> None:
    def rate(n: int) -> float:
        w = d_equistatic(n, 8, seed=0).mixing(0).dense() - 1 / n
        return float(np.linalg.norm(w, ord=2))

    assert max(rate(n) for n in (50, 100, 200, 400)) < 0.95


def test_equistatic_shifts_are_drawn_until_they_connect_everybody() -> None:
    for seed in range(20):
        assert d_equistatic(4, 1, seed).targets(0, 0)[0] in (1, 3), "a shift of 2 would leave two pairs"


def test_equistatic_wants_a_shift() -> None:
    with pytest.raises(UsageError, match="with 0 shifts"):
        d_equistatic(5, 0)
    with pytest.raises(UsageError, match="of 1 members"):
        u_equistatic(1)


@pytest.mark.parametrize(("n", "side", "dimensions"), [(25, 5, 2), (27, 3, 3), (16, 2, 4), (7, 7, 1)])
def test_a_full_moshpit_grid_is_exact_after_one_round_for_each_axis(n: int, side: int, dimensions: int) -> None:
    schedule = moshpit(n, side, dimensions)
    assert schedule.exact_after == dimensions
    schedule.check()


def test_a_moshpit_grid_with_gaps_keeps_the_mean_and_converges() -> None:
    schedule = moshpit(10)
    assert (schedule.exact_after, schedule.period) == (None, 2)
    schedule.check()
    assert schedule.targets(0, 9) == (8,)  # the last row holds 8 and 9 only
    assert schedule.targets(1, 9) == (1, 5)
    with pytest.raises(UsageError, match=r"10 members in a Moshpit grid of 3\^2") as caught:
        moshpit(10, 3)
    assert "at least 4" in caught.value.hint
    with pytest.raises(UsageError, match="0 dimensions"):
        moshpit(10, dimensions=0)


def test_every_name_is_built_and_a_wrong_one_is_answered_with_all() -> None:
    built = {name: build(name, 16, degree=4) for name in names()}
    assert all(schedule.n == 16 for schedule in built.values())
    assert {"ring", "exponential", "base2", "complete"} <= set(built)
    assert build("base7", 16).name == "base7"
    assert build("random_regular", 16, degree=4, seed=2).links == random_regular(16, 4, 2)
    with pytest.raises(UsageError, match="none named 'moebius'") as caught:
        build("moebius", 16)
    assert all(name in caught.value.hint for name in names())
    for wrong in ("base1", "base0", "base", "base02"):
        with pytest.raises(UsageError, match="none named"):
            build(wrong, 16)


def test_a_name_may_come_with_a_rule() -> None:
    assert build("path", 4, rule="max_degree").row(0, 0) == ((0, pytest.approx(2 / 3)), (1, pytest.approx(1 / 3)))
    with pytest.raises(UsageError, match="no rule named 'heavy'"):
        build("path", 4, rule="heavy")
