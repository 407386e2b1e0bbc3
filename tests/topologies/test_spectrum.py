import math

import numpy as np
import pytest

from swarm.errors import UsageError
from topologies import weights
from topologies.families import barbell, complete, grid, hypercube, path, random_regular, ring, star, torus
from topologies.mixing import Mixing, Schedule
from topologies.schedules import (
    base,
    build,
    ceca,
    d_equistatic,
    directed,
    el_local,
    el_oracle,
    moshpit,
    od_equidyn,
    one_peer_exponential,
    periodic,
    random_matching,
    static,
    static_exponential,
)
from topologies.spectrum import (
    Chebyshev,
    distances,
    hops,
    measured_rate,
    measured_rounds,
    predicted_rounds,
    rate,
    rounds_at,
    second_eigenvalues,
    slem,
)

MILLIONTH = 1e-6


def test_second_eigenvalues_by_hand() -> None:
    # Metropolis weights of a path of three: eigenvalues 1, 2/3, 0.
    high, low = second_eigenvalues(static(path(3)).mixing(0))
    assert (high, low) == (pytest.approx(2 / 3), pytest.approx(0, abs=1e-12))
    assert second_eigenvalues(static(path(1)).mixing(0)) == (0.0, 0.0)
    assert slem(Mixing(2, [[(0, 0.1), (1, 0.9)], [(0, 0.9), (1, 0.1)]])) == pytest.approx(0.8)
    with pytest.raises(UsageError, match="the mixing is not symmetric"):
        second_eigenvalues(one_peer_exponential(6).mixing(0))


def test_gaps_are_those_of_the_published_table() -> None:
    assert [round(rate(static(ring(n))).gap, d) for n, d in ((10, 3), (25, 3), (50, 4), (100, 4))] == [
        0.127,
        0.021,
        0.0053,
        0.0013,
    ]
    assert [round(rate(static(torus(n))).gap, 3) for n in (25, 50, 100)] == [0.276, 0.076, 0.076]
    assert [round(rate(static_exponential(n)).gap, 2) for n in (10, 25, 50, 100)] == [0.40, 0.49, 0.29, 0.25]


def test_measured_rounds_are_near_the_published_table() -> None:
    # Random vectors differ, so a few per cent of the rounds do too.
    for n, rounds in ((10, 96), (25, 599), (50, 2336)):
        assert measured_rounds(static(ring(n)), MILLIONTH) == pytest.approx(rounds, rel=0.03)
    for n, rounds in ((25, 41), (50, 154), (100, 154)):
        assert measured_rounds(static(torus(n)), MILLIONTH) == pytest.approx(rounds, rel=0.05)
    for n, rounds in ((10, 25), (25, 19), (50, 35), (100, 40)):
        assert measured_rounds(static_exponential(n), MILLIONTH) == pytest.approx(rounds, abs=2)
    for n, rounds in ((10, 32), (25, 40), (50, 47), (100, 55)):
        assert measured_rounds(one_peer_exponential(n), MILLIONTH) == pytest.approx(rounds, abs=2)
    for n, rounds in ((10, 27), (25, 30), (50, 28), (100, 32)):
        assert measured_rounds(od_equidyn(n), MILLIONTH) == pytest.approx(rounds, abs=5)
    for n, rounds in ((10, 13), (25, 16), (50, 17), (100, 17)):
        assert measured_rounds(el_oracle(n, 4), MILLIONTH) == pytest.approx(rounds, abs=2)
    for n, rounds in ((25, 38), (50, 38), (100, 40)):
        assert measured_rounds(random_matching(n), MILLIONTH) == pytest.approx(rounds, abs=5)
    assert [measured_rounds(moshpit(n), MILLIONTH) for n in (25, 100)] == [2, 2]


@pytest.mark.parametrize(
    "schedule",
    [
        static(ring(12)),
        static(path(7)),
        static(star(9)),
        static(grid(12)),
        static(hypercube(16)),
        static(random_regular(20, 3, 1)),
        static(star(9), weights.best_constant(star(9))),
        static(barbell(10), weights.fastest_mixing(barbell(10), steps=200)),
        static_exponential(12),
        d_equistatic(15, 3),
        one_peer_exponential(10),
        one_peer_exponential(25),
        moshpit(11),
        build("u_equistatic", 14),
    ],
    ids=lambda schedule: f"{schedule.name}-{schedule.n}",
)
def test_the_measured_rate_is_the_spectral_prediction(schedule: object) -> None:
    assert measured_rate(schedule, rounds=2000) == pytest.approx(rate(schedule).asymptotic, rel=2e-3)  # type: ignore[arg-type]


@pytest.mark.parametrize("schedule", [static(ring(128)), static(path(60)), static(barbell(50))], ids=lambda s: s.name)
def test_a_slow_graph_is_measured_until_it_has_settled(schedule: Schedule) -> None:
    predicted = rate(schedule).gap
    assert predicted < 0.004
    assert 1 - measured_rate(schedule) == pytest.approx(predicted, rel=1e-3)


def test_a_slow_period_is_measured_as_a_whole() -> None:
    slow = static(ring(40)).mixing(0)
    paired = Mixing(40, [[(i - i % 2, 0.5), (i - i % 2 + 1, 0.5)] for i in range(40)])
    schedule = periodic([slow, paired])
    assert measured_rate(schedule) == pytest.approx(rate(schedule).asymptotic, rel=1e-6)


def test_no_round_leaves_more_than_the_prediction_allows() -> None:
    for schedule in (static(ring(9)), static(star(6)), static(torus(9))):
        x = np.random.default_rng(3).standard_normal((schedule.n, 4))
        bound = rate(schedule).worst
        for t, left in enumerate(distances(schedule.mixings(60), x)):
            assert left <= bound**t + 1e-12
        assert measured_rounds(schedule, 1e-4) <= predicted_rounds(schedule, 1e-4)


def test_a_period_can_be_worse_than_its_long_run_but_never_the_other_way_round() -> None:
    lopsided = directed(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (0, 2)])
    size = rate(lopsided)
    assert size.asymptotic <= size.worst + 1e-12
    assert size.gap == 1 - size.asymptotic
    both = rate(static(ring(8)))
    assert both.asymptotic == both.worst


def test_schedules_that_end_have_rate_zero_and_their_own_rounds() -> None:
    for schedule in (base(11, 2), ceca(11), one_peer_exponential(8), moshpit(9)):
        assert rate(schedule).asymptotic == 0
        assert predicted_rounds(schedule, MILLIONTH) == schedule.exact_after
        assert measured_rounds(schedule, MILLIONTH) == schedule.exact_after
    assert measured_rate(base(11, 2), rounds=40) == 0.0
    assert measured_rounds(static(complete(5)), MILLIONTH) == predicted_rounds(static(complete(5)), MILLIONTH) == 1


def test_the_expected_square_of_a_random_matching_has_a_closed_form() -> None:
    for n in (4, 10, 50):
        expected = math.sqrt((n - 2) / (2 * (n - 1)))
        assert rate(random_matching(n)).asymptotic == pytest.approx(expected, rel=1e-9)
    assert measured_rate(random_matching(50), rounds=400) == pytest.approx(math.sqrt(48 / 98), rel=0.03)
    with pytest.raises(UsageError, match="not doubly stochastic"):
        rate(el_local(10, 3))


def test_thousands_of_members_by_lanczos_agree_with_the_formulas() -> None:
    # Neither LAPACK's memory nor its time: a torus (Lanczos converges) and a ring (inverse iteration finishes it).
    high, low = second_eigenvalues(static(torus(1600)).mixing(0))
    assert high == pytest.approx((3 + 2 * math.cos(2 * math.pi / 40)) / 5, abs=1e-10)
    assert low == pytest.approx(-3 / 5, abs=1e-4)
    high, low = second_eigenvalues(static(ring(1500)).mixing(0))
    assert 1 - high == pytest.approx(2 / 3 * (1 - math.cos(2 * math.pi / 1500)), rel=1e-6)
    assert low == pytest.approx(-1 / 3, abs=1e-4)
    # A hypercube has twelve different eigenvalues, so Lanczos ends of itself, with all of them.
    high, low = second_eigenvalues(static(hypercube(2048)).mixing(0))
    assert (high, low) == (pytest.approx(1 - 2 / 12, abs=1e-12), pytest.approx(-10 / 12, abs=1e-12))
    assert rate(static_exponential(2000)).asymptotic == pytest.approx(10 / 12, rel=1e-5)


def test_one_way_links_of_thousands_are_refused_with_a_way_out() -> None:
    n = 1100
    lopsided = directed(n, [*((i, (i + 1) % n) for i in range(n)), (0, 5)])
    with pytest.raises(UsageError, match="not doubly stochastic") as caught:
        rate(lopsided)
    assert "measured_rate" in caught.value.hint


@pytest.mark.parametrize(
    ("topology", "plain", "accelerated"),
    [(ring(50), 2319, 137), (torus(50), 153, 36), (star(50), 684, 72), (barbell(50), 4168, 177)],
    ids=["ring", "torus", "star", "barbell"],
)
def test_chebyshev_rounds_are_those_of_the_published_table(topology: object, plain: int, accelerated: int) -> None:
    schedule = static(topology)  # type: ignore[arg-type]
    mixing = schedule.mixing(0)
    x = np.random.default_rng(0).standard_normal((50, 8))
    start = np.linalg.norm(x - x.mean(axis=0))
    method = Chebyshev.symmetric(slem(mixing))
    bound = method.rounds(MILLIONTH)
    left = [float(np.linalg.norm(y - x.mean(axis=0)) / start) for y in method.run(mixing, x, bound)]
    assert left[-1] <= MILLIONTH, "the bound holds"
    needed = next(t for t, size in enumerate(left, 1) if size <= MILLIONTH)
    assert needed == pytest.approx(accelerated, abs=5)
    assert measured_rounds(schedule, MILLIONTH) == pytest.approx(plain, rel=0.05)
    # Knowing both ends of the spectrum is better still, and its bound holds too.
    both = Chebyshev.of(mixing)
    assert both.rounds(MILLIONTH) <= bound
    *_, last = both.run(mixing, x, both.rounds(MILLIONTH))
    assert np.linalg.norm(last - x.mean(axis=0)) <= MILLIONTH * start
    np.testing.assert_allclose(last.mean(axis=0), x.mean(axis=0), atol=1e-12)


def test_chebyshev_coefficients_by_hand() -> None:
    method = Chebyshev(low=-0.5, high=0.5)
    assert method.sigma == 0.5
    assert method.omegas(3) == (1.0, pytest.approx(1 / (1 - 1 / 8)), pytest.approx(1 / (1 - 1 / 16 * 8 / 7)))
    # 1 / T_2(2) = 1 / 7 and 1 / T_3(2) = 1 / 26.
    assert [method.rounds(d) for d in (1 / 7, 1 / 7.1, 1 / 26, 1 / 26.1)] == [2, 3, 3, 4]
    assert Chebyshev.of(static(complete(4)).mixing(0)).rounds(0.5) == 1
    for low, high in ((0.5, 0.5), (-1.1, 0.5), (0.2, 1.0)):
        with pytest.raises(UsageError, match="couldn't accelerate"):
            Chebyshev(low=low, high=high)


def test_rounds_at_a_rate_by_hand() -> None:
    assert rounds_at(0.5, 0.25) == 2
    assert rounds_at(0.5, 0.24) == 3
    assert rounds_at(0.0, 0.5) == 1
    with pytest.raises(UsageError, match="the members never agree"):
        rounds_at(1.0, 0.5)
    for distance in (0.0, 1.0, -1.0, 2.0):
        with pytest.raises(UsageError, match="couldn't count the rounds"):
            rounds_at(0.5, distance)
    with pytest.raises(UsageError, match="within 1e-06 in 10 rounds"):
        measured_rounds(static(ring(50)), MILLIONTH, rounds_max=10)


def test_hops_by_hand() -> None:
    assert (hops(path(4)).diameter, hops(path(4)).mean) == (3, pytest.approx(10 / 6))  # 3 * 1 + 2 * 2 + 1 * 3 over 6
    assert (hops(star(5)).diameter, hops(star(5)).mean) == (2, pytest.approx(1.6))
    assert (hops(complete(7)).diameter, hops(complete(7)).mean) == (1, 1.0)
    assert hops(hypercube(32)).diameter == 5
    assert (hops(path(1)).diameter, hops(path(1)).mean) == (0, 0.0)


def test_hops_agree_with_networkx() -> None:
    import networkx as nx

    topology = random_regular(40, 3, 7)
    graph = topology.to_networkx()
    found = hops(topology)
    assert (found.diameter, found.mean) == (nx.diameter(graph), pytest.approx(nx.average_shortest_path_length(graph)))
