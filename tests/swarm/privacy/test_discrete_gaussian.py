"""The numbers have the distribution of the definition: pmf by chi-square, moments, and how many the algorithm keeps.

Sources of random numbers are seeded, so each test passes always or never; had a seed been unlucky, it would have failed
with the chance that the test names.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest

from swarm.privacy.discrete_gaussian import ACCEPTED, DEVIATION_MAX, DiscreteGaussian

COUNT = 60_000


def seeded(seed: int) -> Callable[[int], bytes]:
    return np.random.default_rng(seed).bytes


def pmf(deviation: int) -> dict[int, float]:
    """The definition, for all numbers within 12 deviations: what is beyond has less than 2^-100."""
    weights = {x: math.exp(-x * x / (2 * deviation**2)) for x in range(-12 * deviation, 12 * deviation + 1)}
    total = math.fsum(weights.values())
    return {x: weight / total for x, weight in weights.items()}


@pytest.mark.parametrize("deviation", [1, 2, 3, 7, 40])
def test_numbers_are_distributed_as_the_definition_says(deviation: int) -> None:
    found = DiscreteGaussian(deviation, seeded(deviation)).take(COUNT)
    expected = {x: COUNT * p for x, p in pmf(deviation).items() if COUNT * p >= 10}
    seen = {x: int((found == x).sum()) for x in expected}
    rest, left = COUNT - sum(expected.values()), COUNT - sum(seen.values())
    chi = sum((seen[x] - expected[x]) ** 2 / expected[x] for x in expected)
    chi += (left - rest) ** 2 / rest if rest >= 10 else 0.0
    degrees = len(expected)  # One for the rest, less one for the total.
    # Wilson and Hilferty: its cube root is normal. Five deviations are one false alarm in 3.5 million.
    assert ((chi / degrees) ** (1 / 3) - (1 - 2 / (9 * degrees))) / math.sqrt(2 / (9 * degrees)) < 5


@pytest.mark.parametrize("deviation", [1000, 2**31 + 11, DEVIATION_MAX])
def test_large_deviations_are_normal_in_quantiles_variance_and_last_bits(deviation: int) -> None:
    found = DiscreteGaussian(deviation, seeded(5)).take(COUNT)
    scaled = found / deviation
    assert abs(scaled.mean()) < 5 / math.sqrt(COUNT)
    assert abs(scaled.var() - 1) < 5 * math.sqrt(2 / COUNT)
    assert abs((scaled**4).mean() - 3) < 5 * math.sqrt(96 / COUNT)
    for quantile in (-2.5, -1.0, -0.3, 0.0, 0.6, 1.4, 2.9):
        share = 0.5 * math.erfc(-quantile / math.sqrt(2))
        assert abs((scaled <= quantile).mean() - share) < 5 * math.sqrt(share * (1 - share) / COUNT)
    for bit in range(5):  # Rounded floating point numbers would show here.
        assert abs(((found >> bit) & 1).mean() - 0.5) < 5 * 0.5 / math.sqrt(COUNT) + 1 / deviation


@pytest.mark.parametrize("deviation", [2, 9, 5_000])
def test_as_many_laplace_numbers_are_kept_as_the_paper_has_it(deviation: int) -> None:
    """Of algorithm 3: the sum over y of P(Y = y) exp(-(|y| - s)^2 / (2 s^2)), which tends to sqrt(pi / 2) exp(-1/2)."""
    source = DiscreteGaussian(deviation, seeded(1))
    source.take(COUNT)
    ratio = math.exp(-1 / deviation)
    expected = sum(
        (1 - ratio) / (1 + ratio) * ratio ** abs(y) * math.exp(-((abs(y) - deviation) ** 2) / (2 * deviation**2))
        for y in range(-40 * deviation, 40 * deviation + 1)
    )
    assert abs(source.kept / source.tried - expected) < 5 * math.sqrt(expected * (1 - expected) / source.tried)
    if deviation >= 10:
        assert math.isclose(expected, ACCEPTED, rel_tol=1e-4)
        assert math.isclose(ACCEPTED, math.sqrt(math.pi / 2) * math.exp(-0.5), rel_tol=1e-12)


def test_the_same_random_bytes_make_the_same_numbers_and_one_at_a_time_is_no_other_distribution() -> None:
    first, again = (DiscreteGaussian(50, seeded(3)).take(1000) for _ in range(2))
    assert np.array_equal(first, again)
    single = DiscreteGaussian(50, seeded(4))
    found = np.concatenate([single.take(1) for _ in range(400)])
    assert abs(found.mean()) < 5 * 50 / 20
    assert abs(found.std() / 50 - 1) < 5 / math.sqrt(800)
    assert single.take(0).shape == (0,)


def test_uniform_numbers_are_drawn_again_where_a_remainder_would_be_likelier() -> None:
    """Of 2^64 words the last 2^64 mod (3 * 2^62) would fall on small remainders alone."""
    bound = 3 << 61
    found = DiscreteGaussian(1, seeded(2))._below(bound, COUNT)
    assert found.max() < bound
    share = (found < 1 << 62).mean()  # Two thirds; of remainders of any word, three quarters.
    assert abs(share - 2 / 3) < 5 * math.sqrt(2 / 9 / COUNT)
