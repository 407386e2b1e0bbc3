"""Quasi-global momentum: the equations by hand, against the form of the paper, and what it is for."""

from __future__ import annotations

import numpy as np
import pytest

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS, VALUE_LIMIT
from swarm.mixing.momentum import BETA, carry_into, follow_into, parse
from swarm.vector import Vector
from tests.swarm.mixing import ring

RATE = 0.002
PAPERS = 0.9


def f(*values: float) -> Vector:
    return np.array(values, np.float32)


def quasi_global(rounds: int, steps: int = 1) -> Vector:
    models, moved = ring.start(), ring.start()
    for _ in range(rounds):
        update = ring.trained(models, steps, RATE) - models
        carry_into(update, moved, PAPERS)
        mixed = ring.exchange(models + update)
        follow_into(moved, moved, models, mixed, PAPERS)
        models = mixed
    return models


def the_papers(rounds: int, steps: int = 1) -> Vector:
    """Algorithm 1: the buffer is a gradient, and enters every local step."""
    models, buffer = ring.start(), ring.start()
    for _ in range(rounds):
        mixed = ring.exchange(ring.trained(models, steps, RATE, np.float32(PAPERS) * buffer))
        buffer = np.float32(PAPERS) * buffer + np.float32(1 - PAPERS) * (models - mixed) / np.float32(steps * RATE)
        models = mixed
    return models


def own_momentum(rounds: int, beta: float) -> Vector:
    models, buffer = ring.start(), ring.start()
    for _ in range(rounds):
        buffer = np.float32(beta) * buffer + ring.gradient(models)
        models = ring.exchange(models - np.float32(RATE) * buffer)
    return models


def test_one_round_by_hand() -> None:
    # s = 2, beta = 1/2: an update of 3 becomes 4; the model goes from 5 to 8, so s = 2/2 + 3/2.
    update, moved = f(3), f(2)
    carry_into(update, moved, 0.5)
    assert update.tolist() == [4]
    follow_into(moved, moved, f(5), f(8), 0.5)
    assert moved.tolist() == [2.5]


def test_for_a_single_local_step_it_is_the_papers_algorithm() -> None:
    assert quasi_global(200) == pytest.approx(the_papers(200), abs=2e-5)
    assert np.abs(quasi_global(200) - own_momentum(200, PAPERS)).max() > 0.01, "and not just any momentum"


def test_for_several_local_steps_it_ends_where_the_papers_does() -> None:
    assert ring.error(quasi_global(800, steps=4)) == pytest.approx(ring.error(the_papers(800, steps=4)), rel=0.02)


def test_a_constant_update_settles_at_what_ordinary_momentum_makes_of_it() -> None:
    moved, model = f(0), f(0)
    for _ in range(2000):
        update = f(-0.75)
        carry_into(update, moved, BETA)
        follow_into(moved, moved, model, model + update, BETA)
    assert update == pytest.approx([-0.75 / (1 - BETA)], rel=1e-3)


def test_it_is_better_than_a_sites_own_momentum_where_data_differ() -> None:
    # Own momentum multiplies what pulls a site away from the others by 1 / (1 - beta); this one leaves it as it is.
    own, qg = ring.error(own_momentum(2500, PAPERS)), ring.error(quasi_global(2500))
    assert qg < 0.2 * own
    assert qg == pytest.approx(ring.error(own_momentum(8000, 0.0)), rel=0.02)  # the floor of no momentum at all


def test_it_is_faster_than_no_momentum() -> None:
    assert ring.error(quasi_global(500)) < 0.5 * ring.error(own_momentum(500, 0.0))


def test_only_the_stretches_that_are_trained_are_carried_on() -> None:
    update = f(1, 1, 1, 1, 1)
    carry_into(update, f(2, 2, 2, 2, 2), 0.5, ((0, 2), (4, 5)))
    assert update.tolist() == [2, 2, 1, 1, 2]
    carry_into(update, f(2, 2, 2, 2, 2), 0.5, ())
    assert update.tolist() == [2, 2, 1, 1, 2]


def test_what_is_carried_on_stays_within_what_may_be_averaged() -> None:
    update = f(1000, -1000)
    carry_into(update, f(1000, -1000), 0.5)
    assert update.tolist() == [VALUE_LIMIT, -VALUE_LIMIT]


def test_long_vectors_are_handled_to_the_last_element() -> None:
    n = 2 * BLOCK_ELEMENTS + 3
    before, after = np.zeros(n, np.float32), np.arange(n, dtype=np.float32) / 1024
    moved = np.empty(n, np.float32)
    follow_into(moved, np.full(n, 2.0, np.float32), before, after, 0.5)
    assert np.array_equal(moved, 1 + after / 2)
    update = np.ones(n, np.float32)
    carry_into(update, moved, 0.5)
    assert np.array_equal(update, 1 + moved / 2)


def test_a_correction_is_known_by_its_name() -> None:
    assert (parse("qg"), parse("qg:500"), parse("qg:1")) == (BETA, 0.5, 0.001)
    for text in ("", "QG", "qg:", "qg:0", "qg:05", "qg:1000", "qg:0.5", "tracking"):
        with pytest.raises(UsageError, match="couldn't choose a correction"):
            parse(text)
