"""Intervals and exact tests: against numbers in print, against each other, and whether they cover what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from node.scoring.comparison import _mcnemar_span
from node.scoring.intervals import (
    area,
    binomial_below,
    clopper_pearson,
    delong,
    mcnemar,
    mean_of_proportions,
    newcombe,
    paired_areas,
    paired_difference,
    wilson,
)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [  # Newcombe 1998, "Two-sided confidence intervals for the single proportion", table I, method 3
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_numbers_in_print(hits: int, n: int, low: float, high: float) -> None:
    found = wilson(hits, n)
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


@pytest.mark.parametrize(
    ("hits", "n", "low", "high"),
    [(81, 263, 0.2527, 0.3676), (15, 148, 0.0578, 0.1617), (0, 20, 0.0, 0.1684), (1, 29, 0.0009, 0.1776)],
)
def test_clopper_and_pearson_gives_the_numbers_in_print(hits: int, n: int, low: float, high: float) -> None:
    found = clopper_pearson(hits, n)  # the same table, method 5
    assert [found.low, found.high] == pytest.approx([low, high], abs=5e-5)


def test_mcnemar_is_twice_the_smaller_tail_of_a_fair_coin() -> None:
    # Of ten tosses at most one head: (1 + 10) of 1024 ways.
    assert mcnemar(9, 1) == mcnemar(1, 9) == pytest.approx(22 / 1024)
    assert mcnemar(0, 0) == mcnemar(4, 4) == 1.0
    assert mcnemar(700, 600) == pytest.approx(2 * binomial_below(600, 1300, 0.5), rel=1e-9)


@given(st.integers(0, 40), st.integers(0, 40))
def test_the_exact_interval_and_the_exact_test_never_contradict_each_other(gained: int, lost: int) -> None:
    if gained + lost == 0:
        return
    found = clopper_pearson(gained, gained + lost)
    assert (mcnemar(gained, lost) < 0.05) == (found.low > 0.5 or found.high < 0.5)


def test_newcombes_paired_interval_gives_the_number_in_print() -> None:
    found = paired_difference(36, 12, 2, 0)  # Newcombe 1998, paired data, table: 0.2000, method 10
    assert [found.low, found.high] == pytest.approx([0.0569, 0.3404], abs=5e-5)


@pytest.mark.parametrize(("gain", "seed"), [(0.0, 1), (0.1, 2), (0.3, 3)])
def test_the_interval_of_a_paired_difference_covers_at_least_95_of_100(gain: float, seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    shares = [0.6, 0.1 + gain, 0.1, 0.2 - gain] if gain < 0.2 else [0.55, gain + 0.05, 0.05, 0.05]
    truth = shares[1] - shares[2]
    runs = draw.multinomial(45, shares, size=1_000)
    spans = [_mcnemar_span(int(both), int(won), int(lost), 45) for both, won, lost, _ in runs]
    assert np.mean([one.low <= truth <= one.high for one in spans]) >= 0.94


def test_the_area_counts_pairs_and_ties_count_half() -> None:
    # Pairs (ill, well): .9 beats .4 and .6; .5 beats .4, loses to .6; .6 beats .4, ties with .6: 4.5 of 6.
    assert area(np.array([0.9, 0.5, 0.6]), np.array([0.4, 0.6])) == pytest.approx(4.5 / 6)


def test_delong_by_hand() -> None:
    # Placements of the ill: 1, .5, .75, variance .0625; of the well: 1 and .5, variance .125.
    value, interval = delong(np.array([0.9, 0.5, 0.6]), np.array([0.4, 0.6]))
    deviation = math.sqrt(0.0625 / 3 + 0.125 / 2)
    logit, wide = math.log(0.75 / 0.25), 1.959964 * deviation / (0.75 * 0.25)
    assert (value, interval.method) == (0.75, "DeLong")
    assert interval.low == pytest.approx(1 / (1 + math.exp(wide - logit)), abs=1e-6)
    assert interval.high == pytest.approx(1 / (1 + math.exp(-wide - logit)), abs=1e-6)


def test_a_perfect_area_is_not_certain() -> None:
    value, interval = delong(np.arange(10, 20) / 20, np.arange(8) / 20)
    assert (value, interval.high, interval.method) == (1.0, 1.0, "Newcombe")
    assert 0.6 < interval.low < 0.9
    assert newcombe(0.0, 10, 8).high == pytest.approx(1 - interval.low)
    assert newcombe(1.0, 100, 80).low > interval.low


def test_a_model_compared_with_itself_differs_by_nothing() -> None:
    ill, well = np.array([0.9, 0.5, 0.6]), np.array([0.4, 0.6])
    assert paired_areas((ill, well), (ill, well)) == (0.0, 0.0)


def test_the_mean_of_one_proportion_is_the_proportion() -> None:
    one = mean_of_proportions([(15, 148)])
    assert [one.low, one.high] == pytest.approx([wilson(15, 148).low, wilson(15, 148).high])
    both = mean_of_proportions([(5, 5), (9, 9)])
    assert both.low < 0.85
    assert both.high == 1.0


@pytest.mark.parametrize("share", [0.5, 0.8, 0.95])
def test_wilson_covers_about_95_of_100(share: float) -> None:
    draw = np.random.Generator(np.random.PCG64(1))
    hits = draw.binomial(45, share, size=4_000)
    spans = {int(hit): wilson(int(hit), 45) for hit in np.unique(hits)}
    inside = np.mean([spans[int(hit)].low <= share <= spans[int(hit)].high for hit in hits])
    assert 0.925 <= inside <= 0.985


@pytest.mark.parametrize(("apart", "seed"), [(0.5, 1), (1.2, 2), (2.5, 3)])
def test_delong_covers_about_95_of_100(apart: float, seed: int) -> None:
    draw = np.random.Generator(np.random.PCG64(seed))
    truth = 0.5 * math.erfc(-apart / 2)  # P(X + apart > Y) of two standard normals
    runs = [delong(draw.normal(apart, 1, 30), draw.normal(0, 1, 40))[1] for _ in range(1_500)]
    inside = np.mean([one.low <= truth <= one.high for one in runs])
    assert 0.925 <= inside <= 0.985


def test_the_paired_test_of_areas_errs_in_about_5_of_100() -> None:
    draw = np.random.Generator(np.random.PCG64(4))
    wrong = 0
    for _ in range(1_000):
        base = np.concatenate([draw.normal(1, 1, 30), draw.normal(0, 1, 40)])
        one, two = (base + draw.normal(0, 0.7, 70) for _ in range(2))
        difference, variance = paired_areas((one[:30], one[30:]), (two[:30], two[30:]))
        wrong += abs(difference) > 1.96 * math.sqrt(variance)
    assert 30 <= wrong <= 75
