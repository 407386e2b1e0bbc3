"""The product's grid, put into the setting of the Moshpit authors' notebook, takes the rounds that they printed.

32 x 32 places, nodes on places drawn at random, values from N(0, 1), a node fails in a round with probability p and then
neither gives nor takes; until the variance over the nodes is below 1e-9 (yandex-research/moshpit-sgd,
averaging_experiments/plot_results.ipynb). `scripts/published_moshpit.py` has the whole table, with its own draws.
"""

import statistics

import numpy as np
import pytest

from topologies import schedules

SIDE = 32
GRID = list(schedules.moshpit(SIDE * SIDE, SIDE).mixings(2))
RUNS = 24


def rounds_to_agree(n: int, p: float, seed: int) -> int:
    """An empty place is one whose node always fails; what is left of a row is divided by its sum."""
    dice = np.random.default_rng(seed)
    places = dice.choice(SIDE * SIDE, n, replace=False)
    x, present = np.zeros(SIDE * SIDE), np.zeros(SIDE * SIDE, dtype=bool)
    x[places] = dice.standard_normal(n)
    for t in range(50):
        if x[places].var() < 1e-9:
            return t
        present[places] = dice.uniform(size=n) >= p
        w = GRID[t % 2]
        kept = np.where((present[w.owners] & present[w.sources]) | (w.owners == w.sources), w.weights, 0)
        kept /= np.add.reduceat(kept, w.starts[:-1])[w.owners]
        x = np.add.reduceat(kept * x[w.sources], w.starts[:-1])
    return 50


@pytest.mark.parametrize(
    ("n", "p", "published"), [(512, 0, 8.2), (768, 0, 6.0), (900, 0, 5.0), (512, 0.01, 8.8), (768, 0.01, 6.9)]
)
def test_a_random_place_in_the_grid_takes_the_rounds_that_moshpit_printed(n: int, p: float, published: float) -> None:
    """Their places are one drawing, unknown; over 24 others, one a run, the mean lies within 0.5 of theirs."""
    assert statistics.fmean(rounds_to_agree(n, p, seed) for seed in range(RUNS)) == pytest.approx(published, abs=0.5)


@pytest.mark.parametrize("n", [512, 768])
def test_places_filled_in_order_make_the_grid_exact_in_two_rounds_where_its_lines_are_full(n: int) -> None:
    """16 or 24 whole lines of 32: what takes 8 and 6 rounds on places drawn at random takes 2."""
    x = np.random.default_rng(0).standard_normal(n)
    for mixing in schedules.moshpit(n, SIDE).mixings(2):
        x = mixing.apply(x)
    assert x.var() < 1e-30
