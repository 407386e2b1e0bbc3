"""Exact diffusion with local steps: one vector a round, and yet the optimum of the whole; and what breaks it."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.mixing import diffusion
from swarm.vector import Vector
from tests.swarm.mixing import ring
from topologies.schedules import build

Wide = NDArray[np.float64]

RATE, STEPS = 0.1, 5
SCHEDULES = ("ring", "base2", "random_matching", "random_regular")
WEIGHTS = np.repeat(1.0 + np.arange(ring.SITES) % 4, ring.ELEMENTS).reshape(ring.SITES, ring.ELEMENTS)


class Sites:
    """The sixteen sites of `ring` with minima of their own for each seed; models and corrections by row."""

    def __init__(self, seed: int, rate: float = RATE) -> None:
        self.rate = np.float32(rate)
        chance = np.random.default_rng(seed)
        self.curvature = chance.uniform(0.5, 2.0, (ring.SITES, ring.ELEMENTS))
        self.minimum = chance.normal(0.0, 1.0, (ring.SITES, ring.ELEMENTS))
        self.optimum: Wide = (self.curvature * self.minimum).sum(axis=0) / self.curvature.sum(axis=0)
        self.models = np.zeros((ring.SITES, ring.ELEMENTS), np.float32)
        self.corrections = np.zeros((ring.SITES, ring.ELEMENTS), np.float32)

    def trained(self, *, bent: bool = True, corrected: bool = True) -> NDArray[np.float32]:
        """Every site's model after its local steps, each of them bent, or corrected in the end."""
        models = self.models.copy()
        added = diffusion.each_step(self.corrections.reshape(-1), STEPS).reshape(models.shape)
        for _ in range(STEPS):
            models = models - self.rate * (self.curvature * (models - self.minimum)).astype(np.float32)
            models += added if bent and corrected else np.float32(0)
        if corrected and not bent:
            update = (models - self.models).reshape(-1)
            diffusion.carry_into(update, self.corrections.reshape(-1))
            models = self.models + update.reshape(models.shape)
        return models

    def round(
        self, matrix: Wide, *, gain: float = diffusion.GAIN_MOST, bent: bool = True, corrected: bool = True
    ) -> None:
        offered = self.trained(bent=bent, corrected=corrected)
        mixed = (matrix @ offered.astype(np.float64)).astype(np.float32)
        if corrected:
            diffusion.learn_into(self.corrections.reshape(-1), offered.reshape(-1), mixed.reshape(-1), gain)
        self.models = mixed

    def error(self, target: Wide | None = None) -> float:
        """The worst site's distance from the target, as a part of how far it was at the start."""
        wanted = self.optimum if target is None else target
        apart = np.linalg.norm(self.models - wanted, axis=1)
        return float(apart.max() / np.linalg.norm(wanted))


def matrices(name: str, rounds: int, *, loss: float = 0.0, seed: int = 1) -> Iterator[Wide]:
    """The matrix of each round; a pair that is lost is lost to both, as it is in the ledger."""
    schedule, chance = build(name, ring.SITES, degree=4, seed=seed), np.random.default_rng(seed)
    for number in range(rounds):
        matrix = schedule.mixing(number).dense().copy()
        for a, b in zip(*np.nonzero(np.triu(matrix, 1)), strict=True):
            if chance.random() < loss:
                matrix[a, a] += matrix[a, b]
                matrix[b, b] += matrix[b, a]
                matrix[a, b] = matrix[b, a] = 0.0
        yield matrix


def test_one_round_by_hand() -> None:
    # Two sites that mix half and half have offered -1 and 3, of which the mean is 1: each learns half its way to it.
    correction = np.float32([0.5, -0.5])
    diffusion.learn_into(correction, np.float32([-1, 3]), np.float32([1, 1]), 0.5)
    assert correction.tolist() == [1.5, -1.5]
    assert diffusion.each_step(correction, 3).tolist() == [0.5, -0.5]
    update = np.float32([1, 1])
    diffusion.carry_into(update, correction)
    assert update.tolist() == [2.5, -0.5]


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("name", SCHEDULES)
def test_it_reaches_the_optimum_of_the_whole_where_plain_gossip_stalls(name: str, seed: int) -> None:
    plain, exact, lossy = Sites(seed), Sites(seed), Sites(seed)
    for matrix in matrices(name, 400, seed=seed):
        plain.round(matrix, corrected=False)
        exact.round(matrix)
    for matrix in matrices(name, 400, loss=0.2, seed=seed):
        lossy.round(matrix)
    assert plain.error() > 0.1
    assert exact.error() < 1e-4
    assert lossy.error() < 1e-4, "one pair in five is lost, each to both its sites"


def test_the_corrections_sum_to_zero_whatever_is_lost() -> None:
    sites = Sites(1)
    for matrix in matrices("base2", 200, loss=0.3):
        sites.round(matrix)
        assert np.abs(sites.corrections.sum(axis=0)).max() < 1e-4
    assert np.abs(sites.corrections).max() > 0.1


def test_so_they_do_weighted_by_samples_in_rows_that_keep_the_weighted_mean() -> None:
    """Rows as decision 0016 makes them: A_ij = W_ij min(1, n_j / n_i), the rest is a site's own."""
    sites, counts = Sites(2), WEIGHTS[:, 0]
    for matrix in matrices("random_matching", 200):
        rows = matrix * np.minimum(1.0, counts[None, :] / counts[:, None])
        np.fill_diagonal(rows, 0.0)
        np.fill_diagonal(rows, 1.0 - rows.sum(axis=1))
        sites.round(rows)
    assert np.abs((WEIGHTS * sites.corrections).sum(axis=0)).max() < 1e-3
    weighted = (WEIGHTS * sites.curvature * sites.minimum).sum(axis=0) / (WEIGHTS * sites.curvature).sum(axis=0)
    assert sites.error(weighted) < 1e-3, "and it comes to the optimum of all samples"


@pytest.mark.parametrize("name", ["base2", "torus"])
def test_a_gain_of_a_half_holds_where_more_does_not(name: str) -> None:
    """With small steps, after which nothing but the exchange damps what the corrections do."""
    half, more = Sites(1, rate=0.005), Sites(1, rate=0.005)
    for matrix in matrices(name, 600):
        half.round(matrix)
        more.round(matrix, gain=0.75)
        more.models, more.corrections = (np.clip(one, -1e6, 1e6) for one in (more.models, more.corrections))
    assert half.error() < 1e-2
    assert more.error() > 10.0


def test_corrected_after_its_steps_it_rests_where_the_updates_sum_to_zero() -> None:
    sites = Sites(1)
    for matrix in matrices("ring", 600):
        sites.round(matrix, bent=False)
    pull = 1 - (1 - RATE * sites.curvature) ** STEPS
    fedavg = (pull * sites.minimum).sum(axis=0) / pull.sum(axis=0)
    assert sites.error(fedavg) < 1e-4
    assert sites.error() > 1e-2


def test_a_site_that_forgets_its_correction_leaves_the_others_beside_the_optimum() -> None:
    sites = Sites(1)
    for number, matrix in enumerate(matrices("base2", 600)):
        if number == 300:
            assert sites.error() < 1e-4
            sites.corrections[3] = 0
        sites.round(matrix)
    assert sites.error() > 1e-3
    sites.corrections[:] = 0  # All begin again.
    for matrix in matrices("base2", 300):
        sites.round(matrix)
    assert sites.error() < 1e-4


def test_long_vectors_are_handled_to_the_last_element() -> None:
    n = 2 * 2**15 + 3
    correction = np.full(n, 2, np.float32)
    diffusion.learn_into(correction, np.arange(n, dtype=np.float32), np.ones(n, np.float32), 0.5)
    assert np.array_equal(correction, 2 + (1 - np.arange(n, dtype=np.float32)) / 2)


@pytest.mark.parametrize("steps", [0, -1])
def test_a_round_without_a_step_has_nothing_to_be_spread_over(steps: int) -> None:
    with pytest.raises(UsageError, match=f"over {steps} steps"):
        diffusion.each_step(diffusion.init(1), steps)


def test_nothing_is_corrected_before_the_first_round() -> None:
    zeros: Vector = diffusion.init(3)
    assert zeros.tolist() == [0, 0, 0]
    assert zeros.dtype == np.float32
