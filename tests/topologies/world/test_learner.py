import hashlib
import math

import numpy as np
import pytest

from topologies.world.learner import OVERSIZE_FACTOR, SLOW_FACTOR, Behaviour, QuadraticTask, handed_over


def test_updates_are_the_same_bytes_every_time() -> None:
    one, two = (QuadraticTask(seed=3, samples=(10, 20)).train(1, 5, np.zeros(32, np.float32)).update for _ in range(2))
    assert one is not None
    assert two is not None
    assert one.tobytes() == two.tobytes()
    other = QuadraticTask(seed=4, samples=(10, 20)).train(1, 5, np.zeros(32, np.float32)).update
    assert other is not None
    assert hashlib.sha256(one.tobytes()).digest() != hashlib.sha256(other.tobytes()).digest()


def test_training_alone_converges_to_the_members_own_optimum() -> None:
    task = QuadraticTask(seed=1, samples=(10, 20))
    model = task.initial()
    for number in range(30):
        update = task.train(1, number, model).update
        assert update is not None
        model = model + update
    np.testing.assert_allclose(model, task.optimum([1]), atol=1e-5)


def test_averaging_one_step_at_a_time_converges_to_the_pooled_optimum() -> None:
    task = QuadraticTask(seed=1, samples=(10, 20, 70), steps=1)
    model = task.initial()
    for number in range(100):
        updates = [task.train(member, number, model).update for member in range(3)]
        mean = sum(n * update for n, update in zip(task.samples, updates, strict=True) if update is not None)
        model = (model + np.asarray(mean) / 100).astype(np.float32)
    np.testing.assert_allclose(model, task.optimum(), atol=1e-5)


def test_members_without_spread_share_their_optimum() -> None:
    task = QuadraticTask(seed=1, samples=(10, 20), spread=0.0)
    np.testing.assert_allclose(task.optimum([0]), task.optimum([1]), atol=1e-12)


def test_one_step_by_hand() -> None:
    task = QuadraticTask(seed=1, samples=(1,), steps=1, rate=0.5, elements=1)
    curvature, centre = (float(value[0]) for value in task._problems[0])
    lesson = task.train(0, 0, np.array([2.0], np.float32))
    assert lesson.update is not None
    assert lesson.update[0] == np.float32(-0.5 * curvature * (2.0 - centre))
    samples, metrics = task.evaluate(0, np.array([2.0], np.float32))
    assert samples == 1
    assert metrics["loss"] == 0.5 * curvature * (2.0 - centre) ** 2


def test_honest_updates_are_clipped_and_the_model_is_left_alone() -> None:
    task = QuadraticTask(seed=1, samples=(1,), bound=0.01)
    model = task.initial()
    update = task.train(0, 0, model).update
    assert update is not None
    assert float(np.linalg.norm(update)) == pytest.approx(0.01, rel=1e-4)
    assert not model.any()


def test_each_misbehaviour_misbehaves() -> None:
    behaviours = dict(enumerate(Behaviour))
    task = QuadraticTask(seed=1, samples=(10,) * len(behaviours), bound=2.0, behaviours=behaviours)
    lessons = {behaviours[member]: task.train(member, 1, task.initial()) for member in behaviours}
    honest_s = lessons[Behaviour.HONEST].duration_s
    assert lessons[Behaviour.RAISES].update is None
    assert "round 1" in lessons[Behaviour.RAISES].error
    updates = {behaviour: lesson.update for behaviour, lesson in lessons.items() if lesson.update is not None}
    assert np.isnan(updates[Behaviour.NAN]).sum() == 1
    assert updates[Behaviour.WRONG_SHAPE].size == task.elements - 1
    assert float(np.linalg.norm(updates[Behaviour.OVERSIZE])) == pytest.approx(OVERSIZE_FACTOR * 2.0)
    assert float(np.linalg.norm(updates[Behaviour.POISONER])) == pytest.approx(2.0)
    assert lessons[Behaviour.SLOW].duration_s == SLOW_FACTOR * honest_s
    assert lessons[Behaviour.HANG].duration_s == math.inf


def test_a_poisoner_scales_what_it_learnt_a_thousandfold_and_its_node_clips_it_as_any_other() -> None:
    small = np.array([0.003, -0.004], np.float32)
    assert handed_over(small.copy(), Behaviour.POISONER, 100.0) == pytest.approx([3.0, -4.0])
    assert handed_over(small.copy(), Behaviour.POISONER, 0.5) == pytest.approx([0.3, -0.4], rel=1e-3)
