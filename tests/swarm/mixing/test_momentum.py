"""Quasi-global momentum: the equations by hand, its three forms against each other, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import UsageError
from swarm.mixing import momentum
from swarm.vector import Vector
from tests.swarm.mixing import ring

RATE, BETA = 0.002, 0.9


def quasi_global(rounds: int) -> Vector:
    models, state = ring.start(), momentum.init(ring.ALL)
    for _ in range(rounds):
        mixed = ring.exchange(ring.trained(models, 1, RATE, momentum.shift(state, beta=BETA)))
        state = momentum.apply(state, models, mixed, RATE, mu=BETA)
        models = mixed
    return models


def own_momentum(rounds: int, beta: float) -> Vector:
    models, buffer = ring.start(), ring.start()
    for _ in range(rounds):
        buffer = np.float32(beta) * buffer + ring.gradient(models)
        models = ring.exchange(models - np.float32(RATE) * buffer)
    return models


def test_one_round_by_hand() -> None:
    # m_hat = 2, beta = mu = 1/2, rate 1/4: the models differ by 1, so d = 4 and m_hat = 2/2 + 4/2 = 3.
    state = momentum.QuasiGlobal(np.float32([2]))
    after = momentum.apply(state, np.float32([5]), np.float32([4]), 0.25, mu=0.5)
    assert after.buffer.tolist() == [3]
    assert momentum.shift(after, beta=0.5).tolist() == [1.5]


def test_the_form_on_updates_is_heavy_ball_and_nesterov_by_hand() -> None:
    # g = 8 at rate 1/4 is an update of -2. Heavy ball: m = 4/2 + 8 = 10. Nesterov: g + m/2 = 13.
    state, update = momentum.QuasiGlobal(np.float32([4])), np.float32([-2])
    assert momentum.corrected(state, update, 0.25, beta=0.5).tolist() == [-10 / 4]
    assert momentum.corrected(state, update, 0.25, beta=0.5, nesterov=True).tolist() == [-13 / 4]


def test_all_three_forms_are_one_for_a_single_local_step() -> None:
    chance = np.random.default_rng(3)
    state = momentum.QuasiGlobal(chance.normal(size=ring.ALL).astype(np.float32))
    x = chance.normal(size=ring.ALL).astype(np.float32)
    by_shift = ring.trained(x, 1, 0.1, momentum.shift(state, beta=BETA))
    buffer = np.float32(BETA) * state.buffer + ring.gradient(x)  # an optimiser that was given m_hat as its buffer
    by_buffer = x - np.float32(0.1) * buffer
    by_update = x + momentum.corrected(state, ring.trained(x, 1, 0.1) - x, 0.1, beta=BETA)
    assert np.abs(by_shift - ring.trained(x, 1, 0.1)).max() > 0.1
    assert by_buffer == pytest.approx(by_shift, abs=1e-6)
    assert by_update == pytest.approx(by_shift, abs=1e-6)


def test_a_constant_slope_settles_at_the_buffer_of_ordinary_momentum() -> None:
    state, slope, here = momentum.init(1), np.float32([3]), np.zeros(1, np.float32)
    for _ in range(2000):
        state = momentum.apply(state, here, here - np.float32(0.5) * (slope + momentum.shift(state)), 0.5)
    assert state.buffer == pytest.approx([30.0], rel=1e-3)  # g / (1 - beta)


def test_it_is_better_than_a_sites_own_momentum_where_data_differ() -> None:
    # Own momentum multiplies what pulls a site away from the others by 1 / (1 - beta); this one leaves it as it is.
    own, qg = ring.error(own_momentum(2500, BETA)), ring.error(quasi_global(2500))
    assert qg < 0.2 * own
    assert qg == pytest.approx(ring.error(own_momentum(8000, 0.0)), rel=0.02)  # the floor of no momentum at all


def test_it_is_faster_than_no_momentum() -> None:
    assert ring.error(quasi_global(500)) < 0.5 * ring.error(own_momentum(500, 0.0))


def test_local_steps_divide_the_difference_by_the_whole_rate() -> None:
    state = momentum.apply(momentum.init(1), np.float32([1]), np.float32([0]), rate=4 * 0.5, mu=0.0)
    assert state.buffer.tolist() == [0.5]


@pytest.mark.parametrize(
    ("rate", "beta"), [(0.0, 0.9), (float("nan"), 0.9), (0.1, 1.0), (0.1, -0.1), (0.1, float("nan"))]
)
def test_numbers_out_of_range_are_refused(rate: float, beta: float) -> None:
    state, x = momentum.init(1), np.zeros(1, np.float32)
    with pytest.raises(UsageError):
        momentum.apply(state, x, x, rate, mu=beta)
    with pytest.raises(UsageError):
        momentum.corrected(state, x, rate, beta=beta)


def test_long_vectors_are_handled_to_the_last_element() -> None:
    n = 2 * 2**15 + 3
    before, after = np.arange(n, dtype=np.float32), np.zeros(n, np.float32)
    state = momentum.apply(momentum.init(n), before, after, 1.0, mu=0.5)
    assert np.array_equal(state.buffer, before / 2)
    moved = momentum.corrected(state, before, 1.0, beta=0.5, nesterov=True)
    assert np.array_equal(moved, before * np.float32(1.5) - before / 8)
