"""Gradient tracking on a ring of sites that disagree: where plain gossip stalls and where each form comes to rest."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import UsageError
from swarm.mixing import tracking
from swarm.vector import Vector
from tests.swarm.mixing import ring

RATE, STEPS = 0.02, 5


def plain(rounds: int) -> Vector:
    models = ring.start()
    for _ in range(rounds):
        models = ring.exchange(ring.trained(models, STEPS, RATE))
    return models


def tracked(rounds: int, *, by_shift: bool, steps: int = STEPS) -> tuple[Vector, tracking.Tracking]:
    models, state, rate = ring.start(), tracking.init(ring.ALL), RATE * steps
    for _ in range(rounds):
        if by_shift:
            update = ring.trained(models, steps, RATE, tracking.shift(state)) - models
        else:
            update = tracking.corrected(state, ring.trained(models, steps, RATE) - models, rate)
        direction = tracking.direction(update, rate)
        state = tracking.apply(state, direction, ring.exchange(direction))
        models = ring.exchange(models + update)
    return models, state


def test_one_round_by_hand() -> None:
    # Two sites that mix half and half, rate 1/2: updates -1 and 3 are directions 2 and -6, of which the mean is -2.
    state = tracking.Tracking(np.float32([0.5, -0.5]))
    direction = tracking.direction(np.float32([-1, 3]), 0.5)
    assert direction.tolist() == [2, -6]
    after = tracking.apply(state, direction, np.float32([-2, -2]))
    assert after.correction.tolist() == [-3.5, 3.5]
    assert tracking.corrected(after, np.float32([1, 1]), 0.5).tolist() == [2.75, -0.75]
    assert tracking.shift(after).tolist() == [-3.5, 3.5]


def test_plain_gossip_stalls_at_a_floor() -> None:
    early, late = ring.error(plain(500)), ring.error(plain(1000))
    assert late == pytest.approx(early, rel=1e-4)
    assert late > 0.5


def test_tracking_reaches_the_optimum_of_the_whole() -> None:
    models, state = tracked(1000, by_shift=True)
    assert ring.error(models) < 2e-5
    # Each correction has become what its site's gradient differs by from the swarm's, which is zero there.
    at_optimum = np.tile(ring.OPTIMUM, ring.SITES).astype(np.float32)
    assert state.correction == pytest.approx(-ring.gradient(at_optimum), abs=1e-4)


def test_the_corrections_sum_to_zero() -> None:
    _, state = tracked(300, by_shift=True)
    assert np.abs(state.correction).max() > 0.5
    assert np.abs(state.correction.reshape(ring.SITES, ring.ELEMENTS).sum(axis=0)).max() < 1e-5


def test_with_one_local_step_taking_the_correction_off_the_update_is_the_same_algorithm() -> None:
    by_shift, _ = tracked(300, by_shift=True, steps=1)
    by_update, _ = tracked(300, by_shift=False, steps=1)
    assert by_update == pytest.approx(by_shift, abs=1e-5)
    assert ring.error(tracked(2000, by_shift=False, steps=1)[0]) < 2e-5


def test_with_more_local_steps_it_rests_where_the_updates_sum_to_zero_and_not_at_the_optimum() -> None:
    # From a common x, site i's update is -(1 - (1 - eta a)^K)(x - b): a quadratic's own pull, so the point is known.
    pull = 1 - (1 - RATE * ring.CURVATURE) ** STEPS
    rest = (pull * ring.MINIMUM).sum(axis=0) / pull.sum(axis=0)
    models, _ = tracked(1000, by_shift=False)
    assert ring.error(models, rest) < 2e-5
    assert ring.error(models) > 1e-2


def heavy_ball(rounds: int, *, tracks: bool) -> Vector:
    models, buffer, state = ring.start(), ring.start(), tracking.init(ring.ALL)
    for _ in range(rounds):
        buffer = np.float32(0.8) * buffer + ring.gradient(models)
        update = np.float32(-RATE) * buffer
        if tracks:
            update = tracking.corrected(state, update, RATE)
            direction = tracking.direction(update, RATE)
            state = tracking.apply(state, direction, ring.exchange(direction))
        models = ring.exchange(models + update)
    return models


def test_momentum_tracking_reaches_the_optimum_where_momentum_alone_stalls() -> None:
    assert ring.error(heavy_ball(1500, tracks=False)) > 0.5
    assert ring.error(heavy_ball(1500, tracks=True)) < 2e-5


def test_sites_may_do_different_numbers_of_steps() -> None:
    counts = np.repeat(2 + np.arange(ring.SITES) % 4, ring.ELEMENTS)
    models, state = ring.start(), tracking.init(ring.ALL)
    for _ in range(2000):
        after = models
        for step in range(5):
            moved = ring.trained(after, 1, RATE, tracking.shift(state))
            after = np.where(step < counts, moved, after)
        update = after - models
        direction = np.empty_like(update)
        for count in range(2, 6):
            direction[counts == count] = tracking.direction(update[counts == count], RATE * count)
        state = tracking.apply(state, direction, ring.exchange(direction))
        models = ring.exchange(models + update)
    assert ring.error(models) < 2e-5


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan"), float("inf")])
def test_a_rate_that_is_no_positive_number_is_refused(rate: float) -> None:
    with pytest.raises(UsageError, match="its rate is"):
        tracking.direction(np.zeros(1, np.float32), rate)
    with pytest.raises(UsageError, match="its rate is"):
        tracking.corrected(tracking.init(1), np.zeros(1, np.float32), rate)


def test_long_vectors_are_handled_to_the_last_element() -> None:
    n = 2 * 2**15 + 3
    own, mixed = np.arange(n, dtype=np.float32), np.ones(n, np.float32)
    state = tracking.apply(tracking.Tracking(np.full(n, 2, np.float32)), own, mixed)
    assert np.array_equal(state.correction, 3 - own)
