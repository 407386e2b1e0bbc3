"""Every site's trees come out of the mean as they went in, whatever they were scaled by on the way."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.ensemble import ExtraTreesRegressor, RandomForestClassifier
from sklearn.metrics import roc_auc_score
from sklearn.tree import DecisionTreeClassifier

from node.tables import forests
from node.tables.forests import HEADER, Forest, State
from swarm.errors import Reject, UsageError
from tests.node.tables.swarm import learn

CREDIT = Path(__file__).parents[3].parent / "shared" / "data" / "default_credit" / "default_credit_homo.npz"

Write = Callable[[State, np.ndarray, np.ndarray], object]


def writes(contents: dict[int, bytes]) -> Write:
    """A site's work: rows are full of its index, which is all that it needs to know."""

    def work(state: State, x: np.ndarray, y: np.ndarray) -> None:
        forests.write(state, int(x[0, 0]), contents[int(x[0, 0])])

    return work


def site(index: int, rows: int) -> tuple[np.ndarray, np.ndarray]:
    return np.full((rows, 1), float(index)), np.zeros(rows)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.binary(max_size=60), min_size=2, max_size=5),
    st.lists(st.integers(1, 300_000), min_size=5, max_size=5),
)
def test_bytes_survive_the_mean_with_any_weights(contents: list[bytes], weights: list[int]) -> None:
    parts = [site(index, 1) for index in range(len(contents))]
    work = writes(dict(enumerate(contents)))
    state = learn(forests.slots(len(contents), 60), work, parts, 2, weights[: len(contents)])
    assert forests.read(state) == (dict(enumerate(contents)), ())


def test_a_site_that_is_away_has_an_empty_slot_and_fills_it_when_it_is_back() -> None:
    contents = {0: b"first", 1: b"second"}
    state = learn(forests.slots(2, 10), writes(contents), [site(0, 5)], 1)
    assert forests.read(state)[0] == {0: b"first"}
    state = learn(state, writes(contents), [site(0, 5), site(1, 2)], 1)
    assert forests.read(state)[0] == contents


def test_clipped_late_and_doubled_work_still_reads() -> None:
    state = forests.slots(2, 10)
    forests.write(state, 0, b"data")
    for scale in (0.001, 0.37, 1.0, 1.9):
        assert forests.read({"slots": state["slots"] * np.float32(scale)})[0] == {0: b"data"}


def test_a_slot_that_two_different_contents_went_into_is_damaged_and_said() -> None:
    one, two = forests.slots(1, 10), forests.slots(1, 10)
    forests.write(one, 0, b"data")
    forests.write(two, 0, b"atad")
    assert forests.read({"slots": (one["slots"] + two["slots"]) / 2}) == ({}, (0,))
    for broken in (np.nan, -1.0, np.inf):
        slots = one["slots"].copy()
        slots[0, HEADER] = broken
        assert forests.read({"slots": slots}) == ({}, (0,))


def test_what_does_not_fit_is_refused_in_words() -> None:
    state = forests.slots(2, 10)
    with pytest.raises(UsageError, match="into a slot of 10"):
        forests.write(state, 0, b"x" * 11)
    with pytest.raises(UsageError, match="there are 2"):
        forests.write(state, 2, b"x")
    with pytest.raises(UsageError, match="couldn't make"):
        forests.slots(0, 10)
    with pytest.raises(UsageError, match="no site's trees are there yet"):
        forests.predict(state, np.zeros((1, 2)))


def rows(seed: int, n: int = 200) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n, 4))
    return x, (x[:, 0] + x[:, 1] ** 2 > 1).astype(int) + (x[:, 2] > 1)


@pytest.mark.parametrize(
    "model", [RandomForestClassifier(7, random_state=0), DecisionTreeClassifier(random_state=0)], ids=["forest", "tree"]
)
def test_a_classifier_predicts_what_scikit_learn_predicts(model: RandomForestClassifier) -> None:
    x, y = rows(1)
    model.fit(x, y)
    there = Forest.decode(Forest.of(model, classes=3).encode())
    fresh = rows(2)[0]
    np.testing.assert_allclose(there.predict(fresh), model.predict_proba(fresh), atol=1e-6)


def test_a_regression_predicts_what_scikit_learn_predicts() -> None:
    x, y = rows(1)
    model = ExtraTreesRegressor(5, random_state=0).fit(x, y + x[:, 3])
    fresh = rows(2)[0]
    np.testing.assert_allclose(Forest.of(model).predict(fresh)[:, 0], model.predict(fresh), rtol=1e-5, atol=1e-6)


def test_a_site_that_has_not_seen_a_class_gives_it_no_chance() -> None:
    x, y = rows(1)
    seen = y != 1
    model = RandomForestClassifier(3, random_state=0).fit(x[seen], y[seen])
    chances = Forest.of(model, classes=3).predict(x)
    assert not chances[:, 1].any()
    np.testing.assert_allclose(chances.sum(axis=1), 1.0, rtol=1e-6)
    with pytest.raises(UsageError, match=r"couldn't use the classes \[0, 2\]"):
        Forest.of(model, classes=2)
    with pytest.raises(UsageError, match="couldn't read the trees of RandomForestClassifier"):
        Forest.of(RandomForestClassifier())


def test_trees_that_lead_nowhere_are_refused_before_they_are_walked() -> None:
    good = Forest.of(DecisionTreeClassifier(max_depth=2, random_state=0).fit(*rows(1)), classes=3)

    def broken(**changes: np.ndarray) -> bytes:
        return Forest(4, 3, [{**good.trees[0], **changes}]).encode()

    tree = good.trees[0]
    loop = tree["left"].copy()
    loop[loop > 0] = 0  # Back to the root: a row would walk for ever.
    far = tree["right"].copy()
    far[0] = 1000
    cases = [
        broken(left=loop),
        broken(right=far),
        broken(feature=np.full_like(tree["feature"], 4)),
        broken(threshold=np.full_like(tree["threshold"], np.nan)),
        broken(value=tree["value"][:-1]),
        broken(left=tree["left"][:0]),
        Forest(4, 3, []).encode(),
        b"garbage",
        b"",
    ]
    for data in cases:
        with pytest.raises(Reject, match="couldn't read a forest"):
            Forest.decode(data)
    state = forests.slots(2, 20_000)
    forests.write(state, 0, cases[0])
    forests.write(state, 1, good.encode())
    chances, left_out = forests.predict(state, rows(3)[0])
    assert left_out == (0,)
    np.testing.assert_allclose(chances, good.predict(rows(3)[0]))


@pytest.mark.skipif(not CREDIT.is_file(), reason=f"needs {CREDIT.name} in ../shared/data/default_credit")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_banks_forests_together_are_better_than_alone(seed: int) -> None:
    data = np.load(CREDIT)
    contents, parts, alone = {}, [], []
    for index, bank in enumerate(("guest", "host_1", "host_2")):
        x, y = data[f"x_{bank}"][:1500], data[f"y_{bank}"][:1500].astype(int)
        forest = Forest.of(
            RandomForestClassifier(15, max_leaf_nodes=24, random_state=seed + index).fit(x, y), classes=2
        )
        contents[index] = forest.encode()
        parts.append(site(index, len(x)))
        alone.append(roc_auc_score(data["y_test"], forest.predict(data["x_test"])[:, 1]))
    state = learn(forests.slots(3, 40_000), writes(contents), parts, 1)
    chances, left_out = forests.predict(state, data["x_test"])
    assert left_out == ()
    assert roc_auc_score(data["y_test"], chances[:, 1]) > max(alone)


def test_xgboosts_models_travel_as_json() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        xgboost = pytest.importorskip("xgboost", reason="needs xgboost: make test-integrations")
    contents, parts, expected = {}, [], []
    fresh = rows(9)[0]
    for index in range(2):
        x, y = rows(index)
        model = xgboost.train(
            {"max_depth": 2, "objective": "reg:squarederror", "nthread": 1}, xgboost.DMatrix(x, y), num_boost_round=4
        )
        contents[index] = forests.booster_bytes(model)
        expected.append(model.predict(xgboost.DMatrix(fresh)))
        parts.append(site(index, 100 + index))
    state = learn(forests.slots(3, 40_000), writes(contents), parts, 1)
    found, left_out = forests.boosters(state)
    assert left_out == ()
    for booster, wanted in zip(found, expected, strict=True):
        np.testing.assert_array_equal(booster.predict(xgboost.DMatrix(fresh)), wanted)
    forests.write(state, 2, b"not json")
    assert forests.boosters(state)[1] == (2,)
