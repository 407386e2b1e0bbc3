"""What sums with noise cost, and how many a budget pays: against another accountant, by hand, and the same everywhere."""

import _pydecimal
import importlib.util
import math
import sys
from fractions import Fraction
from unittest import mock

import pytest

from swarm.errors import UsageError
from swarm.privacy import renyi, site_noise
from swarm.privacy.accounting import Budget
from swarm.privacy.site_noise import MULTIPLIER_MILLI_MAX, SHARE_MIN, SUMS_MAX, SiteNoise, parse, planned, rho_of

# dp-accounting 0.6.0: RdpAccountant(1 + geomspace(2**-4, 2**24, 4000)), GaussianDpEvent(z) k times, get_epsilon(delta)
THEIRS = [
    (3050, 1, 1e-5, 1.3608978902191082),
    (13750, 20, 1e-5, 1.3489845656468429),
    (5190, 20, 1e-5, 3.9884399782274187),
    (2000, 1, 1e-6, 2.4190949615990256),
    (1000, 5, 1e-5, 12.299658060963644),
]


@pytest.mark.parametrize(("milli", "sums", "delta", "theirs"), THEIRS)
def test_epsilon_is_dp_accountings_rounded_up(milli: int, sums: int, delta: float, theirs: float) -> None:
    ours = SiteNoise(milli, Budget(100.0, delta)).epsilon(sums)
    assert theirs <= ours <= theirs * 1.0005 + 0.001
    assert ours <= renyi.epsilon([(1.0, milli / 1000, sums)], delta)[0] * 1.001 + 0.001, "which tries other orders"


def test_it_is_above_the_exact_cost_of_continuous_noise_which_is_the_least_it_can_be() -> None:
    """Balle & Wang 2018, theorem 8: delta(epsilon) of the Gaussian mechanism."""
    for milli, sums, delta, _ in THEIRS:
        z = milli / 1000 / math.sqrt(sums)
        epsilon = SiteNoise(milli, Budget(100.0, delta)).epsilon(sums)
        phi = [0.5 * math.erfc(-x / math.sqrt(2)) for x in (1 / (2 * z) - epsilon * z, -1 / (2 * z) - epsilon * z)]
        assert phi[0] - math.exp(epsilon) * phi[1] <= delta


@pytest.mark.parametrize("sums", [1, 7, 20, 1000])
@pytest.mark.parametrize("epsilon", [0.05, 1.0, 3.0, 8.0, 50.0])
def test_planned_noise_pays_the_rounds_and_a_thousandth_less_does_not(epsilon: float, sums: int) -> None:
    budget = Budget(epsilon, 1e-5)
    found = planned(budget, sums)
    assert found.sums >= sums
    assert found.epsilon(sums) <= epsilon
    assert found.epsilon(found.sums + 1) > epsilon - 0.001
    if found.multiplier_milli > 1:
        assert SiteNoise(found.multiplier_milli - 1, budget).sums < sums
    assert parse(found.text) == found


def test_what_members_agree_on_is_a_count_of_exact_numbers() -> None:
    found = parse("6.678:3:1e-5")
    assert found.rho == Fraction(10**6, 2 * 6678**2) + Fraction(1, 2**60)
    assert found.sums == 20
    assert rho_of(found.budget) >= 20 * found.rho
    assert rho_of(found.budget) < 21 * found.rho
    assert (found.epsilon(0), found.epsilon(20)) == (0.0, 3.0)


def test_what_a_budget_pays_has_the_same_thirty_decimals_on_every_processor() -> None:
    """Frozen: members of which one finds another number would end their run after different rounds."""
    found = [int(rho_of(Budget(epsilon, delta)) * 10**30) for epsilon, delta in ((1.0, 1e-5), (8.0, 1e-10))]
    assert found == [30552742902630923775839741628, 664880175533043814997758672464]


def test_another_implementation_of_decimal_arithmetic_finds_the_same() -> None:
    """Python's own, written in Python, in place of libmpdec: its logarithms are rounded correctly too."""
    found = importlib.util.spec_from_file_location("site_noise_in_python", site_noise.__file__)
    assert found is not None
    assert found.loader is not None
    other = importlib.util.module_from_spec(found)
    with mock.patch.dict(sys.modules, {"decimal": _pydecimal, found.name: other}):
        found.loader.exec_module(other)
    assert other.Decimal is not site_noise.Decimal
    for budget in (Budget(0.1, 1e-5), Budget(3.0, 1e-5)):
        assert other.rho_of(budget) == rho_of(budget)


def test_one_sum_with_hardly_any_noise_is_more_than_a_budget_and_none_is_free() -> None:
    assert parse("0.1:3:1e-5").sums == 0
    assert parse("10000:1000:1e-1").sums == SUMS_MAX
    with pytest.raises(UsageError, match="no noise is enough"):
        planned(Budget(0.001, 1e-10), SUMS_MAX)
    with pytest.raises(UsageError, match="couldn't plan noise for 0 rounds"):
        planned(Budget(1.0, 1e-5), 0)


def test_the_correction_for_sums_of_discrete_noise_is_far_below_what_is_counted_for_it() -> None:
    """Kairouz, Liu & Steinke 2021, proposition 14, in logarithms: tau d at the most sites and elements there can be."""
    terms = [-2 * math.pi**2 * SHARE_MIN**2 * k / (k + 1) for k in range(1, 1000)]
    log_tau_d = math.log(10) + max(terms) + math.log(len(terms)) + 33 * math.log(2)
    assert log_tau_d < -2000 < -60 * math.log(2)


@pytest.mark.parametrize(
    "text",
    [
        *("", "3:1e-5", "0:3:1e-5", "1.50:3:1e-5", "1.2345:3:1e-5", "01:3:1e-5", "nan:3:1e-5", "-1:3:1e-5", "1:0:1e-5"),
        *("1:3:1e-11", "1:3:0.1", "1:3", "1:3:1e-5:", "1 :3:1e-5", "99999:3:1e-5", f"{MULTIPLIER_MILLI_MAX}:3:1e-5"),
    ],
)
def test_what_is_no_such_option_is_refused_in_words(text: str) -> None:
    with pytest.raises(UsageError, match="couldn't"):
        parse(text)
