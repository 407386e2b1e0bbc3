"""What is right as a whole only is never sent shortened, and is known for damaged where it was."""

from __future__ import annotations

import copy

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, Ridge

from node.tables import kmeans
from node.tables.linear import Moments
from node.tables.whole import Whole, check_share, check_whole
from swarm.errors import UsageError
from tests.node.tables.swarm import Part, learn


def hospitals(seed: int, scale: float) -> list[Part]:
    """Two sites that differ, of 300 and 60 rows, whose columns are about `scale` large."""
    rng, parts = np.random.default_rng(seed), []
    for n, shift in ((300, 0.0), (60, 3.0)):
        x = (rng.normal(size=(n, 3)) + shift) * scale
        parts.append((x, x @ np.array([1.0, -2.0, 0.5]) / scale + 3 + rng.normal(size=n)))
    return parts


def test_a_whole_update_over_the_bound_is_refused_with_its_norm_and_the_remedy() -> None:
    state = Whole(moments=np.zeros(2)).with_remedy("divide by 10")
    base, trained = np.zeros(2, np.float32), np.array([30.0, 40.0], np.float32)
    check_whole(state, trained, base, 50.0)
    check_whole(dict(state), trained, base, 1.0)  # A network's is clipped, as ever.
    with pytest.raises(UsageError, match=r"norm is 50 and may be 49 here") as refused:
        check_whole(copy.deepcopy(state), trained, base, 49.0)
    assert refused.value.hint.startswith("divide by 10, or found the swarm with a --clip-norm of at least 50")


def test_no_bound_is_the_fixed_points_and_there_is_no_clip_norm_that_would_help() -> None:
    base, trained = np.zeros(1, np.float32), np.array([1025.0], np.float32)
    with pytest.raises(UsageError, match="may be 1,024 here") as refused:
        check_whole(Whole(moments=base), trained, base, 0.0)
    assert "--clip-norm" not in refused.value.hint


@pytest.mark.parametrize(("share", "words"), [(0.0205, "mean of ones is 0.0205"), (0.0, "no round's work")])
def test_a_mean_of_ones_that_is_not_1_is_refused(share: float, words: str) -> None:
    check_share(1.0 + 5e-7, "the moments")
    with pytest.raises(UsageError, match=words):
        check_share(share, "the moments")


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_moments_that_were_clipped_are_not_solved(seed: int) -> None:
    parts = hospitals(seed, 50.0)
    moments = Moments(LinearRegression(), 3)
    for x, y in parts:
        moments.work(x, y)
    moments.state["moments"] *= 100.0 / np.linalg.norm(moments.state["moments"])
    with pytest.raises(UsageError, match=r"mean of ones is 0\.0"):
        moments.load(360)


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("make", [LinearRegression, lambda: Ridge(alpha=3.0)])
def test_units_keep_moments_small_and_the_answer_the_pooled_one(make: type[Ridge], seed: int) -> None:
    parts = hospitals(seed, 5000.0)
    moments = Moments(make(), 3, units=[5000.0, 5000.0, 4000.0], target_unit=3.0)
    for x, y in parts:
        moments.work(x, y)
        assert np.linalg.norm(moments.state["moments"]) < 100.0

    def work(state: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        moments.state = state
        moments.work(x, y)

    moments.state = learn({"moments": np.zeros((4, 5))}, work, parts, 1)
    x, y = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    found, pooled = moments.load(len(x)), make().fit(x, y)
    np.testing.assert_allclose(found.coef_ * 5000, pooled.coef_ * 5000, atol=1e-4)
    np.testing.assert_allclose(found.predict(x), pooled.predict(x), atol=1e-3)


@pytest.mark.parametrize("units", [[1.0, 2.0], [1.0, 0.0, 1.0], [1.0, float("nan"), 1.0]])
def test_units_that_are_none_are_refused(units: list[float]) -> None:
    with pytest.raises(UsageError, match="3 features need 3 finite numbers above 0"):
        Moments(LinearRegression(), 3, units=units)


def test_rows_that_do_not_fit_moments_are_refused_before_anything_is_written() -> None:
    moments = Moments(LinearRegression(), 3)
    for x, y in ((np.ones((4, 2)), np.ones(4)), (np.ones((4, 3)), np.ones((4, 1))), (np.ones((0, 3)), np.ones(0))):
        with pytest.raises(UsageError, match="features and a target a row"):
            moments.work(x, y)
    with pytest.raises(UsageError, match="not finite"):
        moments.work(np.full((4, 3), np.inf), np.ones(4))
    assert not moments.state["moments"].any()


def test_counts_that_were_clipped_move_no_centre() -> None:
    rows = np.random.default_rng(0).normal(size=(40, 2)) * 1000
    state = kmeans.initial(np.array([[-500.0, 0.0], [500.0, 0.0]]))
    kmeans.work(state, rows)
    moved = kmeans.centres(state)
    for name in ("sums", "counts"):
        state[name] *= np.float32(0.3)
    with pytest.raises(UsageError, match=r"mean of ones is 0\.3"):
        kmeans.work(state, rows)
    assert np.abs(moved).max() > 0


def test_both_states_say_that_they_are_whole_and_keep_saying_it_when_copied() -> None:
    assert isinstance(copy.deepcopy(Moments(Ridge(), 2).state), Whole)
    copied = copy.deepcopy(kmeans.initial(np.ones((2, 2))))
    assert isinstance(copied, Whole)
    assert "one constant" in copied.remedy
