"""K-means over sites makes the steps that one machine with all the rows would make."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.cluster import KMeans

from node.tables import kmeans
from swarm.errors import UsageError
from tests.node.tables.swarm import learn


def blobs(seed: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Three clouds, unequally common at three sites of unequal size."""
    rng = np.random.default_rng(seed)
    middle = np.array([[0.0, 0.0], [4.0, 0.0], [0.0, 3.0]])
    shares = ([0.8, 0.1, 0.1], [0.1, 0.8, 0.1], [0.0, 0.1, 0.9])
    sites = [
        middle[rng.choice(3, size=n, p=p)] + rng.normal(size=(n, 2))
        for n, p in zip((300, 100, 40), shares, strict=True)
    ]
    return rng.normal(size=(3, 2)), sites


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_rounds_are_lloyds_steps_on_the_pooled_rows(seed: int) -> None:
    start, sites = blobs(seed)
    parts = [(x, np.zeros(len(x))) for x in sites]
    state = learn(kmeans.initial(start), lambda s, x, _: kmeans.work(s, x), parts, 6)
    rows = np.concatenate(sites)
    expected = start.copy()
    for _ in range(6):
        nearest = ((rows[:, None] - expected) ** 2).sum(-1).argmin(1)
        expected = np.stack([rows[nearest == c].mean(0) if (nearest == c).any() else expected[c] for c in range(3)])
    np.testing.assert_allclose(kmeans.centres(state), expected, atol=1e-4)


def test_at_rest_it_is_scikit_learns_answer() -> None:
    start, sites = blobs(4)
    state = learn(kmeans.initial(start), lambda s, x, _: kmeans.work(s, x), [(x, np.zeros(len(x))) for x in sites], 40)
    reference = KMeans(3, init=start, n_init=1, algorithm="lloyd", tol=0).fit(np.concatenate(sites))
    np.testing.assert_allclose(kmeans.centres(state), reference.cluster_centers_, atol=1e-4)


def test_a_step_worked_by_hand() -> None:
    """Site one has 0 and 2, site two 10 and 12 and 14: centres 0 and 12 go to 1 and 12."""
    state = kmeans.initial(np.array([[0.0], [12.0]]))
    parts = [(np.array([[0.0], [2.0]]), np.zeros(2)), (np.array([[10.0], [12.0], [14.0]]), np.zeros(3))]
    after = learn(state, lambda s, x, _: kmeans.work(s, x), parts, 1)
    np.testing.assert_allclose(after["counts"], [0.4, 0.6], rtol=1e-6)
    np.testing.assert_allclose(kmeans.centres(after), [[1.0], [12.0]], rtol=1e-6)


def test_a_cluster_that_nobody_has_stays_where_it_is() -> None:
    state = kmeans.initial(np.array([[0.0], [1000.0]]))
    after = learn(state, lambda s, x, _: kmeans.work(s, x), [(np.array([[1.0], [3.0]]), np.zeros(2))], 3)
    assert kmeans.centres(after)[:, 0].tolist() == [2.0, 1000.0]


@pytest.mark.parametrize("x", [np.zeros((3, 2)), np.zeros((0, 1)), np.array([[np.nan]]), np.zeros(3)])
def test_rows_that_do_not_fit_are_refused(x: np.ndarray) -> None:
    with pytest.raises(UsageError, match="couldn't use rows"):
        kmeans.work(kmeans.initial(np.array([[0.0], [1.0]])), x)


def test_centres_that_are_none_are_refused() -> None:
    for centres in (np.zeros(3), np.zeros((0, 2)), np.array([[np.inf]])):
        with pytest.raises(UsageError, match="couldn't begin with centres"):
            kmeans.initial(centres)
