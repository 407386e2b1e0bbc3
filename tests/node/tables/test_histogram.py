"""Boosted trees over a swarm are those of the pooled data, and every site derives the same from the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score

from node.loop.parameters import parameters_of
from node.tables.histogram import GRID, STEP, Boosting, State
from swarm.errors import UsageError
from swarm.mixing.average import weighted_mean_into
from tests.node.tables.swarm import Part, learn

DATA = Path(__file__).parents[3].parent / "shared" / "data" / "default_credit" / "default_credit_homo.npz"


def toy(seed: int, rows: int = 300, features: int = 4) -> Part:
    """Rows whose label follows a rule of two features, with noise."""
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(rows, features)) * np.array([1, 10, 100, 0.5])[:features]
    y = ((x[:, 0] > 0) ^ (x[:, 1] > 5) ^ (rng.random(rows) < 0.1)).astype(np.int64)
    return x, y


def pooled(parts: Sequence[Part]) -> list[Part]:
    return [(np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts]))]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_unequal_sites_grow_the_trees_of_the_pooled_data(seed: int) -> None:
    plan = Boosting(features=4, trees=5, depth=3, bins=16)
    parts = [toy(seed, 400), toy(seed + 10, 150), toy(seed + 20, 50)]
    swarm, alone = (
        learn(plan.initial(), plan.work, parts, plan.rounds),
        learn(plan.initial(), plan.work, pooled(parts), plan.rounds),
    )
    x = toy(seed + 30, 500)[0]
    assert np.mean(swarm["feature"] == alone["feature"]) > 0.97  # Two splits may be equally good to seven digits.
    np.testing.assert_allclose(plan.score(swarm, x), plan.score(alone, x), atol=0.02)


def test_a_first_tree_of_one_split_worked_by_hand() -> None:
    """Six rows, the label is x > 0: G left = 3 x 0.5 / 6 = 0.25, H left = 3 x 0.25 / 6 = 0.125; right G = -0.25."""
    plan = Boosting(features=1, trees=1, depth=1, bins=2, rate=1.0, l2=1e-9, hessian_min=0.0)
    x, y = np.array([[-3.0], [-2.0], [-1.0], [1.0], [2.0], [3.0]]), np.array([0, 0, 0, 1, 1, 1])
    state = learn(plan.initial(), plan.work, [(x, y)], plan.rounds)
    np.testing.assert_allclose(state["sums"][0, 0], [[0.25, 0.125], [-0.25, 0.125]])
    np.testing.assert_allclose(plan.score(state, x), [-2, -2, -2, 2, 2, 2], rtol=1e-6)


def test_of_equal_splits_the_lowest_feature_and_bin_are_taken() -> None:
    plan = Boosting(features=3, trees=1, depth=1, bins=4, hessian_min=0.0)
    column = np.array([-2.0, -1.0, 1.0, 2.0])
    x, y = np.stack([column] * 3, axis=1), np.array([0, 0, 1, 1])
    state = learn(plan.initial(), plan.work, [(x, y)], plan.rounds)
    plan.work(state, x, y)  # Past the end a round only absorbs.
    assert (state["feature"] / STEP).tolist() == [[1.0]]


def test_every_site_derives_the_same_bytes_whatever_its_data() -> None:
    plan = Boosting(features=4, trees=2, depth=2, bins=8)
    parts = [toy(1), toy(2)]
    state = learn(plan.initial(), plan.work, parts, 4)
    written = []
    for x, y in parts:
        mine = {name: array.copy() for name, array in state.items()}
        plan.work(mine, x, y)
        written.append([mine[name].tobytes() for name in ("feature", "cut", "leaf", "clock", "grid")])
    assert written[0] == written[1]


def test_work_of_another_round_in_the_mean_is_found_and_said() -> None:
    plan = Boosting(features=4, trees=2, depth=2, bins=8)
    parts = [toy(1), toy(2)]
    base = learn(plan.initial(), plan.work, parts, 2)
    next_ = learn(base, plan.work, parts, 1)
    late, fresh = ({name: array.copy() for name, array in one.items()} for one in (base, next_))
    plan.work(late, *parts[0])
    plan.work(fresh, *parts[1])
    mixed: State = {}
    for name in base:
        updates = [(late[name] - base[name]).reshape(-1), (fresh[name] - next_[name]).reshape(-1)]
        mean = np.empty_like(updates[0])
        weighted_mean_into(mean, next_[name].reshape(-1), updates, [1, 9])
        mixed[name] = mean.reshape(base[name].shape)
    with pytest.raises(UsageError, match="work of different rounds"):
        plan.work(mixed, *parts[0])


def test_a_site_whose_rows_are_all_of_one_class_and_a_constant_column_do_no_harm() -> None:
    plan = Boosting(features=4, trees=3, depth=2, bins=8)
    (x, y), (other, _) = toy(1), toy(2)
    x[:, 3] = other[:, 3] = 7.0
    state = learn(plan.initial(), plan.work, [(x, y), (other, np.zeros(len(other)))], plan.rounds)
    assert np.isfinite(plan.score(state, x)).all()
    assert not (np.rint(state["feature"] / STEP) == 4).any()


def test_a_score_on_the_way_uses_the_trees_there_are() -> None:
    plan = Boosting(features=4, trees=3, depth=2, bins=8)
    part = toy(1)
    state, x = plan.initial(), part[0]
    assert not plan.score(state, x).any()
    seen = []
    for _ in range(plan.rounds):
        state = learn(state, plan.work, [part], 1)
        seen.append(float(np.mean((plan.score(state, x) > 0) == part[1])))
    assert seen[0] == seen[1]  # The grid, and the first level: no tree yet.
    assert seen[-1] > 0.75


def test_an_update_stays_within_any_charters_norm() -> None:
    plan = Boosting(features=4, trees=2, depth=3, bins=16)
    state, part = plan.initial(), toy(3)
    for _ in range(plan.rounds):
        mine = {name: array.copy() for name, array in state.items()}
        plan.work(mine, *part)
        update = parameters_of(mine).read() - parameters_of(state).read()
        assert np.sqrt(np.sum(update.astype(np.float64) ** 2)) < 10
        state = mine


@pytest.mark.parametrize(
    ("x", "y", "words"),
    [
        (np.zeros((3, 5)), np.zeros(3), "rows of 4 features"),
        (np.zeros((0, 4)), np.zeros(0), "rows of 4 features"),
        (np.full((3, 4), np.nan), np.zeros(3), "not finite"),
        (np.zeros((3, 4)), np.array([0, 1, 2]), "0 or 1"),
        (np.zeros((3, 4)), np.zeros(2), "0 or 1"),
    ],
)
def test_data_that_do_not_fit_are_refused_in_words(x: np.ndarray, y: np.ndarray, words: str) -> None:
    plan = Boosting(features=4, trees=1)
    with pytest.raises(UsageError, match=words):
        plan.work(plan.initial(), x, y)


@pytest.mark.parametrize("change", [{"features": 0}, {"bins": 1}, {"depth": 13}, {"trees": 0}, {"scales": (1.0,)}])
def test_a_plan_that_cannot_be_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="couldn't plan boosting"):
        Boosting(**{"features": 4, "trees": 1, **change})  # type: ignore[arg-type]


def test_values_of_any_size_have_a_cell() -> None:
    plan = Boosting(features=1, trees=1, scales=(0.001,))
    cells = plan._cells(np.array([[-1e30], [-1.0], [0.0], [1e-3], [1.0], [1e30]]))[:, 0]
    assert cells.tolist() == sorted(cells.tolist())
    assert (cells[0], cells[2], cells[-1]) == (0, GRID // 2, GRID - 1)


@pytest.mark.skipif(not DATA.is_file(), reason=f"needs {DATA.name} in ../shared/data/default_credit")
def test_three_banks_reach_what_pooled_boosting_reaches() -> None:
    """Credit default: every third customer of each bank, 20 trees of depth 3. Whole banks: docs/reference."""
    data = np.load(DATA)
    parts = [(data[f"x_{bank}"][::3], data[f"y_{bank}"][::3]) for bank in ("guest", "host_1", "host_2")]
    plan = Boosting(features=23, trees=20, depth=3, bins=32, rate=0.3)
    state = learn(plan.initial(), plan.work, parts, plan.rounds)
    swarm = roc_auc_score(data["y_test"], plan.score(state, data["x_test"]))
    ((x, y),) = pooled(parts)
    model = HistGradientBoostingClassifier(
        max_iter=20, max_depth=3, learning_rate=0.3, max_bins=32, early_stopping=False, random_state=0
    )
    reference = roc_auc_score(data["y_test"], model.fit(x, y).predict_proba(data["x_test"])[:, 1])
    assert swarm > 0.77
    assert abs(swarm - reference) < 0.005
