"""The bound of one training: the paper's own numbers, and cases that a hand can work out."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.privacy.one_run import EPSILON_MAX, Guesses, best, lower_bound, p_value


@pytest.mark.parametrize(
    ("guesses", "delta", "printed"),
    [
        (Guesses(1000, 100, 75), 1e-4, 0.673),  # appendix D
        (Guesses(100_000, 1510, 1439), 1e-5, 2.675),  # section 7, figure 11; the paper cuts digits off
    ],
)
def test_the_bounds_that_the_paper_prints_come_out(guesses: Guesses, delta: float, printed: float) -> None:
    assert lower_bound(guesses, delta) == pytest.approx(printed, abs=1e-3)


def test_without_delta_it_is_the_binomial_tail_by_hand() -> None:
    """Ten of ten right: (e^eps / (1 + e^eps))^10 = 0.05."""
    share = 0.05**0.1
    assert lower_bound(Guesses(10, 10, 10), 0.0) == pytest.approx(math.log(share / (1 - share)), abs=1e-9)
    assert p_value(Guesses(10, 10, 10), 0.0, 0.0) == pytest.approx(2**-10)
    assert p_value(Guesses(4, 4, 3), 0.0, 0.0) == pytest.approx(5 / 16)


def test_what_delta_adds_is_as_the_theorem_says_by_hand() -> None:
    """m = 2, r = 2, v = 2, a fair coin: P = 1/4; i = 1 gives 1/2, i = 2 gives (1/2 + 1/4) / 2; 2 m delta / 2 = 0.02."""
    assert p_value(Guesses(2, 2, 2), 0.0, 0.01) == pytest.approx(0.25 + 2 * 2 * 0.01 * 0.5)
    assert p_value(Guesses(20, 2, 2), 0.0, 0.01) == pytest.approx(0.25 + 2 * 20 * 0.01 * 0.5)


def test_half_of_the_guesses_right_prove_nothing() -> None:
    assert lower_bound(Guesses(1000, 1000, 500), 1e-5) == 0.0
    assert lower_bound(Guesses(1000, 0, 0), 1e-5) == 0.0
    assert lower_bound(Guesses(4, 4, 4), 0.0) == 0.0  # 1/16 is more than 0.05.


@given(
    st.integers(1, 60).flatmap(lambda r: st.tuples(st.just(r), st.integers(0, r - 1))),
    st.integers(0, 100),
    st.sampled_from([0.0, 1e-5, 1e-2]),
)
def test_a_further_right_guess_never_proves_less_and_further_canaries_never_more(
    counts: tuple[int, int], more: int, delta: float
) -> None:
    made, right = counts
    here = lower_bound(Guesses(made, made, right), delta)
    assert lower_bound(Guesses(made, made, right + 1), delta) >= here
    assert lower_bound(Guesses(made + more, made, right), delta) <= here


def test_several_numbers_of_guesses_are_each_held_to_more_confidence() -> None:
    few, many = Guesses(100, 20, 20), Guesses(100, 100, 60)
    found, which = best([many, few], 1e-5)
    assert which == few
    assert found == lower_bound(few, 1e-5, confidence=0.975) < lower_bound(few, 1e-5)


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UsageError, match="3 right guesses of 2"):
        Guesses(4, 2, 3)
    with pytest.raises(UsageError, match="nothing was guessed"):
        best([], 1e-5)
    with pytest.raises(UsageError, match="delta"):
        lower_bound(Guesses(4, 2, 1), -1.0)


def test_a_bound_has_an_end() -> None:
    assert lower_bound(Guesses(3000, 3000, 3000), 0.0) <= EPSILON_MAX
