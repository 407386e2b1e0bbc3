"""The account of DP-SGD: against another accountant's numbers, published ones, closed forms, and itself."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from swarm.privacy import loss, renyi
from swarm.privacy.accounting import (
    Budget,
    Stretch,
    delta,
    epsilon,
    epsilon_renyi,
    fits,
    noise_for,
)

VECTORS = json.loads((Path(__file__).parents[2] / "vectors" / "accounting.json").read_text())["rows"]


def stretch(rate: float, noise: float, steps: int) -> Stretch:
    return Stretch(rate=rate, noise=noise, steps=steps)


def phi(x: float) -> float:
    return math.erfc(-x / math.sqrt(2)) / 2


def gaussian_delta(noise: float, eps: float) -> float:
    """Delta of one Gaussian mechanism of sensitivity 1: Balle & Wang 2018, theorem 8."""
    return phi(1 / (2 * noise) - eps * noise) - math.exp(eps) * phi(-1 / (2 * noise) - eps * noise)


def sampled_delta(rate: float, noise: float, eps: float) -> float:
    """Delta of one step, both ways round, from the definition: where one density is over e^eps times the other."""
    # P over Q is e^eps at this output; P is the mixture.
    over = (math.exp(eps) - (1 - rate)) / rate
    at = noise**2 * math.log(over) + 0.5
    taken = (1 - rate) * phi(-at / noise) + rate * phi((1 - at) / noise) - math.exp(eps) * phi(-at / noise)
    under = (math.exp(-eps) - (1 - rate)) / rate
    if under <= 0:
        return taken
    at = noise**2 * math.log(under) + 0.5
    added = phi(at / noise) - math.exp(eps) * ((1 - rate) * phi(at / noise) + rate * phi((at - 1) / noise))
    return max(taken, added)


# --- against others ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("row", VECTORS, ids=str)
def test_epsilon_is_at_most_a_hundredth_above_dp_accountings_and_never_below(row: dict[str, object]) -> None:
    steps = [stretch(*one) for one in row["steps"]]  # type: ignore[attr-defined]
    ours, theirs = epsilon(steps, float(str(row["delta"]))), float(str(row["pld"]))
    assert theirs * (1 - 1e-6) <= ours <= theirs * 1.01


@pytest.mark.parametrize("row", VECTORS, ids=str)
def test_the_renyi_epsilon_is_dp_accountings_where_that_converged(row: dict[str, object]) -> None:
    steps = [stretch(*one) for one in row["steps"]]  # type: ignore[attr-defined]
    ours, theirs = epsilon_renyi(steps, float(str(row["delta"]))), float(str(row["rdp"]))
    # It leaves out orders at which its series did not end, so that it may say a little more.
    assert theirs * 0.998 <= ours <= theirs * (1 + 1e-6)


@pytest.mark.parametrize(
    ("rate", "noise", "steps", "published"),
    [
        (0.01, 4.0, 10_000, 1.26),  # Abadi et al. 2016, section 3.2: "epsilon is only 1.26"
        (256 / 60_000, 1.3, 15 * 60_000 // 256, 1.19),  # TensorFlow Privacy, tutorials/README.md, the table for MNIST
        (256 / 60_000, 1.1, 60 * 60_000 // 256, 3.01),
        (256 / 60_000, 0.7, 45 * 60_000 // 256, 7.10),
    ],
)
def test_published_epsilons_follow_from_the_divergences_by_the_conversion_of_their_day(
    rate: float, noise: float, steps: int, published: float
) -> None:
    """Mironov 2017, proposition 3; Canonne et al. 2020 say less for the same divergences."""
    delta_ = 1e-5
    of_old = min(
        renyi.composed([(rate, noise, steps)], order) + math.log(1 / delta_) / (order - 1) for order in renyi.ORDERS
    )
    assert of_old == pytest.approx(published, abs=0.006)
    assert (
        epsilon([stretch(rate, noise, steps)], delta_) < epsilon_renyi([stretch(rate, noise, steps)], delta_) < of_old
    )


# --- closed forms -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("noise", "steps"), [(0.5, 1), (1.0, 1), (5.0, 1), (10.0, 50), (30.0, 1000)])
@pytest.mark.parametrize("eps", [0.1, 1.0, 3.0])
def test_without_sampling_it_is_the_analytic_gaussian(noise: float, steps: int, eps: float) -> None:
    """T steps of noise s are one of noise s / sqrt(T)."""
    exact = gaussian_delta(noise / math.sqrt(steps), eps)
    ours = delta([stretch(1.0, noise, steps)], eps)
    assert exact - 1e-13 <= ours <= exact * 1.02 + 1e-12


@pytest.mark.parametrize(("rate", "noise"), [(0.01, 1.0), (0.2, 0.5), (0.5, 3.0), (0.9, 1.0), (1e-3, 1.5)])
@pytest.mark.parametrize("eps", [0.01, 0.3, 2.0])
def test_one_step_is_what_its_definition_says(rate: float, noise: float, eps: float) -> None:
    exact = sampled_delta(rate, noise, eps)
    ours = delta([stretch(rate, noise, 1)], eps)
    assert exact - 1e-13 <= ours <= exact * 1.02 + 1e-9 * rate + 1e-12


def test_divergence_of_an_order_that_is_not_whole_is_the_integral() -> None:
    rate, noise, order = 0.05, 0.6, 2.5
    at = np.linspace(-30 * noise, 1 + 30 * noise, 400_001)
    log_q = -((at / noise) ** 2) / 2 - math.log(noise * math.sqrt(2 * math.pi))
    ratio = np.logaddexp(math.log1p(-rate), math.log(rate) + (2 * at - 1) / (2 * noise**2))
    integral = float(np.sum(np.exp(log_q + order * ratio)) * (at[1] - at[0]))
    assert renyi.divergence(rate, noise, order) == pytest.approx(math.log(integral) / (order - 1), rel=1e-9)


def test_orders_two_and_without_sampling_can_be_worked_out_by_hand() -> None:
    # A(2) = 1 + q^2 (e^(1/s^2) - 1)
    assert renyi.divergence(0.1, 2.0, 2.0) == pytest.approx(math.log(1 + 0.01 * (math.exp(0.25) - 1)), rel=1e-12)
    assert renyi.divergence(1.0, 2.0, 3.0) == 3.0 / 8.0


# --- limits -----------------------------------------------------------------------------------------------------------


def test_nothing_costs_nothing_and_no_noise_costs_everything() -> None:
    assert epsilon([], 1e-5) == epsilon([stretch(0.1, 1.0, 0)], 1e-5) == epsilon([stretch(0.0, 0.0, 9)], 1e-5) == 0.0
    assert epsilon_renyi([], 1e-5) == delta([], 0.0) == 0.0
    assert epsilon([stretch(0.1, 1.0, 10), stretch(0.1, 0.0, 1)], 1e-5) == math.inf
    assert delta([stretch(0.1, loss.NOISE_MIN / 2, 1)], 3.0) == 1.0


def test_a_record_that_is_hardly_ever_drawn_costs_less_than_its_chance() -> None:
    """Ten steps at 1e-5: with chance 1 - 1e-4 the record is in none, so that a delta of 1e-4 buys epsilon 0."""
    assert epsilon([stretch(1e-5, 1.0, 10)], 1.1e-4) == 0.0
    assert 0.0 < delta([stretch(1e-5, 1.0, 10)], 0.0) <= 1e-4


def test_ever_more_noise_costs_ever_less() -> None:
    costs = [epsilon([stretch(0.05, noise, 200)], 1e-6) for noise in (0.5, 1.0, 4.0, 20.0, 500.0)]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < 0.02


def test_a_million_steps_and_a_hundredfold_noise_are_counted_too() -> None:
    # At so small a rate it is nearly a Gaussian of mu = q sqrt(T) / s = 0.1, whose epsilon at 1e-6 is 0.397 (a bound
    # to the eye only: GDP is nowhere used).
    assert epsilon([stretch(0.01, 100.0, 1_000_000)], 1e-6) == pytest.approx(0.397, abs=0.002)


@settings(max_examples=5, deadline=None)
@given(
    rate=st.floats(1e-3, 1.0),
    noise=st.floats(0.5, 20.0),
    steps=st.integers(1, 500),
    more=st.integers(1, 500),
    other=st.floats(0.5, 20.0),
)
def test_more_steps_never_cost_less_and_both_accountants_agree_on_which_is_the_bound(
    rate: float, noise: float, steps: int, more: int, other: float
) -> None:
    first = [stretch(rate, noise, steps)]
    both = [*first, stretch(rate, other, more)]
    assert epsilon(first, 1e-5) <= epsilon(both, 1e-5) + 1e-9
    assert epsilon(both, 1e-5) <= epsilon_renyi(both, 1e-5) + 1e-9
    assert epsilon(both, 1e-5) == pytest.approx(epsilon(both[::-1], 1e-5), rel=1e-9)
    halves = [stretch(rate, noise, steps // 2), stretch(rate, noise, steps - steps // 2)]
    assert epsilon(halves, 1e-5) == epsilon(first, 1e-5)


def test_epsilon_and_delta_are_each_others_inverse() -> None:
    run = [stretch(0.02, 1.3, 900)]
    assert delta(run, epsilon(run, 1e-5)) == pytest.approx(1e-5, rel=1e-6)


# --- planning ---------------------------------------------------------------------------------------------------------


def test_the_noise_for_a_budget_is_enough_and_little_more() -> None:
    budget = Budget(3.0, 1e-5)
    noise = noise_for(budget, 0.1, 200)
    assert fits([stretch(0.1, noise, 200)], budget)
    assert not fits([stretch(0.1, noise * 0.998, 200)], budget)


def test_what_was_spent_before_asks_for_more_noise_and_a_spent_budget_for_more_than_there_is() -> None:
    budget, before = Budget(3.0, 1e-5), [stretch(0.1, 2.0, 100)]
    assert noise_for(budget, 0.1, 100, before) > noise_for(budget, 0.1, 100)
    with pytest.raises(UsageError, match="no noise is enough for 1 more steps on what is left of it"):
        noise_for(Budget(epsilon(before, 1e-5) * 0.999, 1e-5), 0.1, 1, before)


@pytest.mark.parametrize(
    ("made", "why"),
    [
        (lambda: Budget(0.0, 1e-5), "0.0 for epsilon"),
        (lambda: Budget(math.nan, 1e-5), "nan for epsilon"),
        (lambda: Budget(1.0, 0.0), "0.0 for delta"),
        (lambda: Budget(1.0, 1.0), "1.0 for delta"),
        (lambda: stretch(1.5, 1.0, 1), "a sampling rate of 1.5"),
        (lambda: stretch(math.nan, 1.0, 1), "a sampling rate of nan"),
        (lambda: stretch(0.5, -1.0, 1), "a noise multiplier of -1.0"),
        (lambda: stretch(0.5, math.inf, 1), "a noise multiplier of inf"),
        (lambda: stretch(0.5, 1.0, -1), "-1 steps"),
        (lambda: epsilon([], 1e-12), "1e-12 for delta"),
    ],
)
def test_what_cannot_be_is_refused_in_a_sentence(made: object, why: str) -> None:
    with pytest.raises(UsageError, match=re.escape(why)):
        made()  # type: ignore[operator]


def test_of_two_budgets_the_stricter_has_the_smaller_of_each() -> None:
    assert Budget(3.0, 1e-6).stricter(Budget(1.0, 1e-5)) == Budget(1.0, 1e-6)
    assert Budget(3.0, 1e-6).stricter(None) == Budget(3.0, 1e-6)
