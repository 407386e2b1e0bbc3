import dataclasses
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from topologies.families import complete, path, ring
from topologies.mixing import Mixing, Promise, joined
from topologies.schedules import build as build_schedule
from topologies.schedules import ceca, names, one_peer_exponential, static

HALF = Fraction(1, 2)


def test_a_mixing_of_three_by_hand() -> None:
    mixing = Mixing(3, [[(0, 0.5), (1, 0.5)], [(0, 0.5), (1, 0.25), (2, 0.25)], [(1, 0.25), (2, 0.75)]])
    np.testing.assert_array_equal(mixing.dense(), [[0.5, 0.5, 0], [0.5, 0.25, 0.25], [0, 0.25, 0.75]])
    np.testing.assert_allclose(mixing.apply(np.array([4.0, 0.0, 8.0])), [2.0, 4.0, 6.0])
    assert mixing.row(2) == ((1, 0.25), (2, 0.75))
    assert mixing.edges == ((0, 1), (1, 0), (1, 2), (2, 1))
    assert mixing.pairs == ((0, 1), (1, 2))
    assert mixing.is_symmetric
    assert mixing.is_doubly_stochastic


def test_a_weight_of_zero_carries_nothing() -> None:
    assert Mixing(2, [[(0, 1.0), (1, 0.0)], [(0, 0.5), (1, 0.5)]]).edges == ((0, 1),)


def test_rows_alone_or_columns_alone_are_told_apart() -> None:
    rows = Mixing(2, [[(0, 1.0)], [(0, 0.5), (1, 0.5)]])
    assert (rows.is_row_stochastic, rows.is_column_stochastic, rows.is_symmetric) == (True, False, False)
    columns = Mixing.from_dense(rows.dense().T)
    assert (columns.is_row_stochastic, columns.is_column_stochastic) == (False, True)
    assert not columns.is_doubly_stochastic
    assert columns.edges == ((1, 0),)


def test_weights_that_sum_to_one_but_go_below_zero_are_not_stochastic() -> None:
    mixing = Mixing(2, [[(0, 1.5), (1, -0.5)], [(0, -0.5), (1, 1.5)]])
    assert mixing.is_symmetric
    assert not mixing.is_row_stochastic
    assert not mixing.is_column_stochastic


@pytest.mark.parametrize(
    ("n", "rows", "sentence"),
    [
        (2, [[(0, 1.0)], []], "a row is empty"),
        (2, [[(0, 1.0)], [(2, 1.0)]], "out of range, repeated or not ascending"),
        (2, [[(0, 1.0)], [(-1, 1.0)]], "out of range, repeated or not ascending"),
        (2, [[(1, 0.5), (0, 0.5)], [(1, 1.0)]], "out of range, repeated or not ascending"),
        (2, [[(0, 0.5), (0, 0.5)], [(1, 1.0)]], "out of range, repeated or not ascending"),
        (2, [[(0, 1.0)], [(1, float("nan"))]], "not a finite number"),
        (2, [[(0, 1.0)], [(1, 1.0)], [(2, 1.0)]], "2 members cannot share 3 rows"),
    ],
)
def test_rows_that_are_no_mixing_are_refused(n: int, rows: list[list[tuple[int, float]]], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        Mixing(n, rows)


@pytest.mark.parametrize("shape", [(2, 3), (3,), (0, 0)])
def test_a_matrix_that_is_not_square_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(UsageError, match="shape"):
        Mixing.from_dense(np.zeros(shape))


@settings(max_examples=50, deadline=None)
@given(n=st.integers(1, 12), seed=st.integers(0, 2**16), columns=st.integers(1, 4))
def test_the_sparse_form_does_what_the_matrix_does(n: int, seed: int, columns: int) -> None:
    rng = np.random.default_rng(seed)
    w = rng.standard_normal((n, n)) * (rng.random((n, n)) < 0.4)
    mixing = Mixing.from_dense(w)
    x = rng.standard_normal((n, columns))
    np.testing.assert_array_equal(mixing.dense(), w)
    np.testing.assert_allclose(mixing.apply(x), w @ x, atol=1e-12)
    np.testing.assert_allclose(mixing.apply(x[:, 0]), w @ x[:, 0], atol=1e-12)
    np.testing.assert_allclose(mixing.row_sums, w.sum(axis=1), atol=1e-12)
    np.testing.assert_allclose(mixing.column_sums, w.sum(axis=0), atol=1e-12)
    assert mixing == Mixing(n, mixing.rows)
    assert mixing.edges == tuple(sorted((j, i) for i in range(n) for j in range(n) if i != j and w[i, j]))
    assert mixing.is_symmetric == (bool(np.array_equal(w, w.T)))


def test_a_mixing_cannot_be_changed_behind_its_back() -> None:
    mixing = one_peer_exponential(4).mixing(0)
    with pytest.raises(ValueError, match="read-only"):
        mixing.weights[0] = 2.0
    assert mixing != one_peer_exponential(4).mixing(1)
    assert mixing != "a mixing"
    assert repr(mixing) == "Mixing(n=4, slots=4, entries=8)"


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("n", [4, 9, 16])
def test_every_schedule_keeps_its_promises(name: str, n: int) -> None:
    try:
        schedule = build_schedule(name, n, degree=2, seed=3)
    except UsageError as refusal:
        assert refusal.hint, "a size that does not exist is refused with what would work"
        return
    schedule.check()
    assert schedule.reference
    assert schedule.n == n
    assert schedule.links.n == n


@pytest.mark.parametrize("name", names())
@pytest.mark.parametrize("n", [9, 16])
def test_what_a_host_asks_is_what_the_whole_round_says(name: str, n: int) -> None:
    try:
        schedule = build_schedule(name, n, degree=4, seed=1)
    except UsageError as refusal:
        assert refusal.hint
        return
    for t in range(schedule.period or 5):
        mixing = schedule.mixing(t)
        for node in range(n):
            assert schedule.targets(t, node) == tuple(b for a, b in mixing.edges if a == node)
            assert schedule.sources(t, node) == tuple(a for a, b in mixing.edges if b == node)
        for slot in range(mixing.slots):
            assert schedule.row(t, slot) == mixing.row(slot)
            assert tuple((source, float(w)) for source, w in schedule.ratios(t, slot)) == mixing.row(slot)


def test_a_periodic_schedule_repeats_and_a_round_before_the_first_is_refused() -> None:
    schedule = one_peer_exponential(8)
    assert schedule.period == 3
    assert [schedule.targets(t, 0) for t in range(5)] == [(1,), (2,), (4,), (1,), (2,)]
    assert list(schedule.mixings(5))[4] == schedule.mixing(1)
    with pytest.raises(UsageError, match="rounds count from 0"):
        schedule.row(-1, 0)


def test_check_finds_a_schedule_that_lies() -> None:
    honest = one_peer_exponential(6)
    honest.check()
    lies = {
        "is not symmetric": dataclasses.replace(honest, symmetric=True, sent=None),
        "are not the exact mean": dataclasses.replace(honest, exact_after=3),
        "which is no link of it": dataclasses.replace(honest, union=lambda: path(6)),
        "cannot be reached": dataclasses.replace(honest, rule=lambda _, node: ((node, 1.0),)),
        "round 0 is not doubly stochastic": dataclasses.replace(
            honest, rule=lambda _, node: ((0, 0.5), (node, 0.5)) if node else ((0, 1.0),), union=lambda: complete(6)
        ),
        "round 0 is not column stochastic": dataclasses.replace(
            honest, promise=Promise.COLUMN, rule=lambda _, node: ((node, 0.5),)
        ),
        "round 0 is not row stochastic": dataclasses.replace(
            honest, promise=Promise.ROW, rule=lambda _, node: ((node, 0.5),)
        ),
    }
    for sentence, lie in lies.items():
        with pytest.raises(UsageError, match=sentence):
            lie.check()


def test_rounds_that_never_connect_everybody_are_refused_as_a_whole() -> None:
    apart = Mixing(4, [[(0, 0.5), (1, 0.5)], [(0, 0.5), (1, 0.5)], [(2, 0.5), (3, 0.5)], [(2, 0.5), (3, 0.5)]])
    with pytest.raises(UsageError, match="member 2 cannot be reached"):
        joined(4, [apart])


def test_a_second_state_starts_at_zero() -> None:
    lifted = ceca(3).lift(np.array([[1.0], [2.0], [3.0]]))
    np.testing.assert_array_equal(lifted, [[1], [2], [3], [0], [0], [0]])
    assert static(ring(3)).lift(np.ones((3, 1))).shape == (3, 1)
