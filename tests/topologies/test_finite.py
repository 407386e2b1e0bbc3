import math
from fractions import Fraction

import numpy as np
import pytest

from swarm.errors import UsageError
from topologies.finite import base, ceca, fold, hyper_hypercube, one_peer_exponential, one_peer_hypercube
from topologies.mixing import Mixing, Schedule
from topologies.traffic import load

SIZES = range(2, 65)
THIRD = Fraction(1, 3)
HALF = Fraction(1, 2)


def after(schedule: Schedule, x: np.ndarray) -> np.ndarray:
    """The members' first states after the stated number of rounds, in float64."""
    state = schedule.lift(x)
    assert schedule.exact_after is not None
    for mixing in schedule.mixings(schedule.exact_after):
        state = mixing.apply(state)
    return state[: schedule.n]


def every(n: int) -> list[Schedule]:
    powers = [one_peer_exponential(n), one_peer_hypercube(n)] if n & (n - 1) == 0 else []
    bases = [base(n, k, lean=lean) for k in range(1, min(4, n - 1) + 1) for lean in (False, True)]
    return [*bases, ceca(n), fold(n), *powers]


@pytest.mark.parametrize("n", SIZES)
def test_finite_time_families_reach_the_exact_mean_in_the_stated_rounds(n: int) -> None:
    x = np.random.default_rng(n).standard_normal((n, 3)) * 100 + 7
    for schedule in every(n):
        np.testing.assert_allclose(after(schedule, x), np.tile(x.mean(axis=0), (n, 1)), rtol=1e-6)
        schedule.check()  # and in exact arithmetic, for one vector; with the symmetry and sums of every round


@pytest.mark.parametrize("n", [*SIZES, 97, 100, 300, 1000])
def test_base_graphs_keep_the_bound_of_their_theorem(n: int) -> None:
    for k in range(1, min(4, n - 1) + 1):
        schedule = base(n, k)
        assert schedule.exact_after is not None
        assert schedule.exact_after <= 2 * math.log(n, k + 1) + 2 + 1e-9
        assert max(len(schedule.row(t, node)) for t in range(schedule.exact_after) for node in range(n)) <= k + 1


def test_ceca_takes_the_fewest_rounds_and_fold_two_more_at_most() -> None:
    for n in range(2, 300):
        assert ceca(n).exact_after == math.ceil(math.log2(n))
        floor = n.bit_length() - 1
        assert fold(n).exact_after == (floor if n == 1 << floor else floor + 2)


def test_base2_of_three_by_hand() -> None:
    # 3 = 2 + 1: the pair averages, the third meets one of it (taking 2/3, the pair's part of all), the pair again.
    schedule = base(3, 1)
    pair = [((0, HALF), (1, HALF)), ((0, HALF), (1, HALF)), ((2, Fraction(1)),)]
    assert [schedule.ratios(0, node) for node in range(3)] == pair
    assert [schedule.ratios(1, node) for node in range(3)] == [
        ((0, Fraction(1)),),
        ((1, THIRD), (2, 2 * THIRD)),
        ((1, 2 * THIRD), (2, THIRD)),
    ]
    assert [schedule.ratios(2, node) for node in range(3)] == pair


def test_base2_of_six_is_two_triples_and_then_pairs_across() -> None:
    # 6 = 2 * 3 beats 6 = 4 + 2 by a round: four rounds, as in the paper's figure.
    schedule = base(6, 1)
    assert schedule.exact_after == 4
    assert schedule.mixing(3).pairs == ((0, 3), (1, 4), (2, 5))


def test_ceca_of_three_by_hand() -> None:
    # Windows grow 1, 2, 3. First P from the member before; then Q (what it has besides itself) from the member before.
    schedule = ceca(3)
    assert [schedule.ratios(0, slot) for slot in (0, 3)] == [((0, HALF), (2, HALF)), ((2, Fraction(1)),)]
    assert [schedule.ratios(1, slot) for slot in (0, 3)] == [((0, 2 * THIRD), (5, THIRD)), ((3, HALF), (5, HALF))]
    assert schedule.targets(0, 0) == schedule.targets(1, 0) == (1,)


# algorithms of exact averaging: rounds and copies sent per member, measured independently of this code.
TABLE = {
    3: (2, (3, 1.33, 2), (3, 2.0), (1, 2.0), None),
    5: (3, (4, 2.00, 3), (5, 4.0), (3, 4.0), (1, 4.0)),
    7: (3, (4, 2.00, 3), (5, 4.3), (4, 5.7), (3, 7.7)),
    10: (4, (5, 2.80, 4), (6, 5.0), (4, 5.0), (2, 5.0)),
    16: (4, (4, 4.00, 4), (4, 4.0), (4, 4.0), (2, 6.0)),
    25: (5, (6, 3.28, 5), (9, 8.6), (6, 9.7), (2, 8.0)),
    30: (5, (6, 3.07, 5), (8, 7.5), (5, 7.0), (3, 7.0)),
    33: (6, (7, 4.91, 6), (11, 10.7), (6, 10.7), (5, 12.9)),
    50: (6, (7, 3.92, 6), (10, 9.6), (7, 10.7), (3, 9.0)),
    100: (7, (8, 4.56, 7), (11, 10.6), (8, 11.7), (3, 11.0)),
    300: (9, (10, 7.12, 9), (15, 14.8), (9, 13.7), (4, 13.0)),
}


@pytest.mark.parametrize("n", TABLE)
def test_rounds_and_copies_are_those_of_the_published_table(n: int) -> None:
    ceca_rounds, folded, *bases = TABLE[n]
    assert ceca(n).exact_after == ceca_rounds
    assert load(ceca(n)).mean == load(ceca(n)).worst == ceca_rounds
    cost = load(fold(n))
    assert (cost.rounds, round(cost.mean, 2), cost.worst) == folded
    for k, expected in zip((1, 2, 4), bases, strict=True):
        if expected is not None:
            cost = load(base(n, k))
            assert cost.rounds == expected[0]
            assert cost.mean == pytest.approx(expected[1], abs=0.05 + 1e-9)
            assert load(base(n, k, lean=True)).mean <= cost.mean
            assert load(base(n, k, lean=True)).rounds == cost.rounds


def test_lean_leaves_out_only_what_changes_nothing() -> None:
    x = np.random.default_rng(0).standard_normal((25, 2))
    full, lean = base(25, 1), base(25, 1, lean=True)
    a, b = x, x
    for t in range(9):
        a, b = full.mixing(t).apply(a), lean.mixing(t).apply(b)
        np.testing.assert_allclose(a, b, atol=1e-12)
    assert load(lean).total < load(full).total


@pytest.mark.parametrize("n", [1, 2, 3, 5, 7, 8, 12, 31, 50])
def test_in_integer_sums_every_weight_counts_as_one(n: int) -> None:
    # What the node does in fixed point: no fraction, no rounding, the same integers everywhere.
    values = [3**i for i in range(n)]
    held = list(values)
    schedule = fold(n)
    for t in range(schedule.exact_after or 0):
        rows = [schedule.ratios(t, node) for node in range(n)]
        held = [sum(held[source] for source, _ in row) for row in rows]
    assert held == [sum(values)] * n
    schedule = ceca(n)
    held = values + [0] * n
    for t in range(schedule.exact_after or 0):
        rows = [schedule.ratios(t, slot) for slot in range(2 * n)]
        own = list(range(2 * n))
        heard = [
            next((source for source, _ in row if source != slot), None) for slot, row in zip(own, rows, strict=True)
        ]
        held = [held[slot] + (0 if source is None else held[source]) for slot, source in zip(own, heard, strict=True)]
    assert held[:n] == [sum(values)] * n


def test_a_pair_that_skips_leaves_the_mean_and_a_lost_ceca_message_does_not() -> None:
    schedule = base(7, 2)
    x = np.random.default_rng(1).standard_normal((7, 1))
    state = x
    for t in range(2 * schedule.period if schedule.period else 0):
        w = schedule.mixing(t).dense()
        if t == 1:  # the link between 0 and its partner is down: both keep the share they would have exchanged
            partner = schedule.targets(1, 0)[0]
            for node, other in ((0, partner), (partner, 0)):
                w[node, node] += w[node, other]
                w[node, other] = 0
        state = Mixing.from_dense(w).apply(state)
    np.testing.assert_allclose(state, np.full((7, 1), x.mean()), atol=1e-12)  # the second period repairs it
    broken = ceca(7)
    state = broken.lift(x)
    for t in range(3):
        w = broken.mixing(t).dense()
        if t == 1:
            w[0] = np.eye(14)[0]
        state = Mixing.from_dense(w, 7).apply(state)
    assert abs(state[:7] - x.mean()).max() > 1e-3


def test_one_member_is_exact_at_once() -> None:
    for schedule in (base(1), ceca(1), fold(1), one_peer_exponential(1), one_peer_hypercube(1)):
        assert (schedule.exact_after, schedule.period, schedule.row(3, 0)) == (0, 1, ((0, 1.0),))
        assert schedule.targets(0, 0) == ()
        schedule.check()


def test_one_peer_exponential_is_exact_for_powers_of_two_only() -> None:
    assert [n for n in range(1, 70) if one_peer_exponential(n).exact_after is not None] == [1, 2, 4, 8, 16, 32, 64]
    x = np.eye(6)
    schedule = one_peer_exponential(6)
    for mixing in schedule.mixings(6):
        x = mixing.apply(x)
    assert abs(x - 1 / 6).max() > 0.01


def test_a_hyper_hypercube_averages_one_digit_a_round() -> None:
    schedule = hyper_hypercube(12, 3)
    assert schedule.exact_after == 2  # 4 * 3, the fewest factors up to 4
    schedule.check()
    assert hyper_hypercube(8, 1).mixing(1) == one_peer_hypercube(8).mixing(1)
    # Fewest rounds first, then fewest copies: 3 * 4 sends 5 copies where 2 * 6 would send 6.
    assert load(hyper_hypercube(12, 5)).mean == 5


@pytest.mark.parametrize(
    ("make", "sentence", "hint"),
    [
        (lambda: base(5, 0), "0 partners a round is impossible", "1 to 4"),
        (lambda: base(5, 5), "5 partners a round is impossible", "1 to 4"),
        (lambda: base(0), "of 0 members", "number of members"),
        (lambda: ceca(5000), "of 5000 members", "number of members"),
        (lambda: hyper_hypercube(14, 2), "14 has a prime factor above 3", "Use 12 or 16 members, or base3"),
        (lambda: one_peer_hypercube(12), "needs a power of two", "Use 8 or 16 members, or base2"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_would(make: object, sentence: str, hint: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        make()  # type: ignore[operator]
    assert hint in caught.value.hint
