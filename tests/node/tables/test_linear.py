"""Scikit-learn's linear models come out of a swarm as they come out of pooled rows, or nearly."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression, LogisticRegression, Ridge, SGDClassifier
from sklearn.metrics import roc_auc_score

from node.tables.linear import Coefficients, Moments
from swarm.errors import UsageError
from tests.node.tables.swarm import Part, learn

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
CREDIT = SHARED / "default_credit" / "default_credit_homo.npz"
GOLUB = SHARED / "golub" / "golub_full.npz"


def average(adapter: Any, parts: Sequence[Part], rounds: int) -> None:
    """Let an adapter stand for each site in turn: it has no state but the one it is given."""

    def work(state: dict[str, np.ndarray], x: np.ndarray, y: np.ndarray) -> None:
        for name, array in state.items():
            adapter.state[name][...] = array
        adapter.work(x, y)
        for name in state:
            state[name][...] = adapter.state[name]

    for name, array in learn(adapter.state, work, parts, rounds).items():
        adapter.state[name][...] = array


def regression(seed: int) -> list[Part]:
    rng = np.random.default_rng(seed)
    parts = []
    for n in (60, 25, 8):  # The last has fewer rows than it would need alone.
        x = rng.normal(size=(n, 9)) + rng.normal()
        parts.append((x, x @ np.arange(9.0) / 5 + 2 + rng.normal(size=n)))
    return parts


@pytest.mark.parametrize("seed", [1, 2, 3])
@pytest.mark.parametrize("make", [LinearRegression, lambda: Ridge(alpha=3.0)])
def test_least_squares_is_the_pooled_answer_after_one_round(make: Any, seed: int) -> None:
    parts = regression(seed)
    x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    moments = Moments(make(), 9)
    average(moments, parts, 1)
    model, reference = moments.load(len(x)), make().fit(x, y)
    np.testing.assert_allclose(model.coef_, reference.coef_, atol=1e-4)
    np.testing.assert_allclose(model.predict(x), reference.predict(x), atol=1e-3)


def classes(seed: int) -> list[Part]:
    rng = np.random.default_rng(seed)
    parts = []
    for n, shift in ((200, 0.5), (100, -0.5), (60, 0.0)):
        x = rng.normal(size=(n, 5)) + shift
        parts.append((x, (x @ np.array([1, -1, 2, 0, 0.5]) + rng.normal(size=n) > 0).astype(np.int64)))
    return parts


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_logistic_regression_reaches_the_pooled_one(seed: int) -> None:
    parts = classes(seed)
    x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
    adapter = Coefficients(LogisticRegression(warm_start=True, max_iter=2), 5, classes=[0, 1])
    average(adapter, parts, 15)
    pooled = LogisticRegression().fit(x, y)
    assert abs(adapter.load().score(x, y) - pooled.score(x, y)) < 0.03


def test_a_site_with_one_class_takes_part_with_sgd_and_is_told_so_otherwise() -> None:
    parts = classes(1)
    parts[2] = parts[2][0], np.zeros(len(parts[2][0]), np.int64)
    with pytest.raises(UsageError, match="this site has 1 of 2 classes"):
        average(Coefficients(LogisticRegression(warm_start=True), 5, classes=[0, 1]), parts, 1)
    adapter = Coefficients(SGDClassifier(loss="log_loss", random_state=0), 5, classes=[0, 1])
    average(adapter, parts, 5)
    assert adapter.load().score(*parts[0]) > 0.7


def test_three_classes_have_a_row_each() -> None:
    adapter = Coefficients(SGDClassifier(random_state=0), 2, classes=["a", "b", "c"])
    assert adapter.state["coef"].shape == (3, 2)
    adapter.work(np.array([[0.0, 1.0], [1.0, 0.0]]), np.array(["a", "c"]))
    assert adapter.load().predict(np.zeros((1, 2)))[0] in ("a", "b", "c")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Coefficients(LogisticRegression(), 2, classes=[0, 1]), "would begin anew in each round"),
        (lambda: Coefficients(LinearRegression(), 2), "would begin anew in each round"),
        (lambda: Moments(LogisticRegression(), 2), "moments are for"),
        (lambda: Moments(Ridge(fit_intercept=False), 2), "moments are for"),
    ],
)
def test_what_does_not_fit_is_refused_in_words(make: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        make()


@pytest.mark.skipif(not CREDIT.is_file(), reason=f"needs {CREDIT.name} in ../shared/data/default_credit")
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_three_banks_train_one_sgd_classifier(seed: int) -> None:
    data = np.load(CREDIT)

    def unit(x: np.ndarray) -> np.ndarray:
        return np.arcsinh(x) / 5  # Agreed in advance: no site's means are needed.

    parts = [(unit(data[f"x_{bank}"][:2000]), data[f"y_{bank}"][:2000]) for bank in ("guest", "host_1", "host_2")]
    adapter = Coefficients(SGDClassifier(loss="log_loss", alpha=1e-3, random_state=seed), 23, classes=[0, 1])
    average(adapter, parts, 5)
    assert roc_auc_score(data["y_test"], adapter.load().decision_function(unit(data["x_test"]))) > 0.70


@pytest.mark.skipif(not GOLUB.is_file(), reason=f"needs {GOLUB.name} in ../shared/data/golub")
def test_three_clinics_tell_leukaemias_apart_from_thirteen_patients_each() -> None:
    """7,129 genes, 38 patients, of whom no clinic has more than 13; tested on 34 of other laboratories.

    Each patient's profile is brought to mean 0 and spread 0.1 by itself, which needs nothing of other patients.
    """
    data = np.load(GOLUB)

    def unit(x: np.ndarray) -> np.ndarray:
        x = np.arcsinh(x / 100.0)
        return (x - x.mean(1, keepdims=True)) / x.std(1, keepdims=True) / 10

    x, y = unit(data["x_train"]), data["y_train"]
    test = unit(data["x_test"]), data["y_test"]
    parts = [(x[site::3], y[site::3]) for site in range(3)]
    alone = [LogisticRegression(C=100.0).fit(*part).score(*test) for part in parts]
    adapter = Coefficients(LogisticRegression(warm_start=True, max_iter=5, C=100.0), x.shape[1], classes=[0, 1])
    average(adapter, parts, 5)
    assert adapter.load().score(*test) >= 0.85 > np.mean(alone)
