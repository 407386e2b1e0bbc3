"""Exchanges as products with the matrix of models: small cases worked by hand, the sparse way against the dense one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch

from node.simulation.mixing import Mixer, Rows, SparseRows, blocks, merge
from swarm.errors import UsageError

PATH = [[(0, 0.5), (1, 0.5)], [(0, 0.5), (1, 0.25), (2, 0.25)], [(1, 0.25), (2, 0.75)]]


def placed(rows: Rows, place: Sequence[int] | None = None) -> SparseRows:
    return SparseRows.of(rows).placed(np.array(range(len(rows)) if place is None else place))


def test_three_peers_by_hand() -> None:
    models = torch.tensor([[0.0, 8.0], [4.0, 0.0], [8.0, -8.0]])
    rows = placed(PATH)
    assert rows.copies == 4
    Mixer(rows).mix(models, slice(0, 2))
    assert models.tolist() == [[2.0, 4.0], [3.0, 2.0], [7.0, -6.0]]


def test_with_public_copies_three_peers_go_on_from_their_models() -> None:
    """x + (W - I) x_hat: what the copies lack stays where it is, and the sum of the models."""
    models, copies = torch.tensor([[1.0], [2.0], [3.0]]), torch.tensor([[0.0], [4.0], [8.0]])
    rows = placed(PATH)
    assert rows.taken.tolist() == [1, 2, 1]
    Mixer(rows).mix(models, slice(0, 1), copies)
    assert models.tolist() == [[1.0 + 2.0 - 0.0], [2.0 + 3.0 - 4.0], [3.0 + 7.0 - 8.0]]
    assert copies.tolist() == [[0.0], [4.0], [8.0]]


@pytest.mark.parametrize("degree", [1, 4, 29])
def test_sparse_and_dense_products_of_copies_agree(degree: int) -> None:
    n, rng = 30, np.random.default_rng(degree)
    rows = [[(int(j), float(rng.random())) for j in rng.choice(n, degree, replace=False)] for _ in range(n)]
    w = np.zeros((n, n))
    for i, row in enumerate(rows):
        for j, weight in row:
            w[i, j] = weight
    models, copies = (torch.randn(n, 50, generator=torch.Generator().manual_seed(seed)) for seed in (1, 2))
    expected = models.double().numpy() + (w - np.eye(n)) @ copies.double().numpy()
    Mixer(placed(rows)).mix(models, slice(0, 50), copies)
    np.testing.assert_allclose(models.numpy(), expected, atol=1e-5)


def test_only_the_block_is_mixed() -> None:
    models = torch.tensor([[0.0, 8.0], [4.0, 0.0], [8.0, -8.0]])
    Mixer(placed(PATH)).mix(models, slice(1, 2))
    assert models.tolist() == [[0.0, 4.0], [4.0, 2.0], [8.0, -6.0]]


def test_rows_follow_their_peers_to_other_places() -> None:
    models = torch.tensor([[8.0], [0.0], [4.0]])  # peer 0 in row 1, peer 1 in row 2, peer 2 in row 0
    Mixer(placed(PATH, [1, 2, 0])).mix(models, slice(0, 1))
    assert models.tolist() == [[7.0], [2.0], [3.0]]


@pytest.mark.parametrize("degree", [1, 4, 29])
def test_sparse_and_dense_products_agree(degree: int) -> None:
    n, rng = 30, np.random.default_rng(degree)
    rows = [[(int(j), float(rng.random())) for j in rng.choice(n, degree, replace=False)] for _ in range(n)]
    rows[3] = []  # a peer that takes nothing, not even of its own
    w = np.zeros((n, n))
    for i, row in enumerate(rows):
        for j, weight in row:
            w[i, j] = weight
    models = torch.randn(n, 50, generator=torch.Generator().manual_seed(1))
    expected = w @ models.double().numpy()
    Mixer(placed(rows)).mix(models, slice(0, 50))
    np.testing.assert_allclose(models.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (PATH[:2], "2 rows for 3 peers"),
        ([[(0, 1.0)], [(3, 1.0)], [(2, 1.0)]], "peer 1 should take 1.0 of peer 3's model"),
        ([[(0, 1.0)], [(1, float("nan"))], [(2, 1.0)]], "take nan of"),
    ],
)
def test_rows_that_make_no_sense_are_refused(rows: list[list[tuple[int, float]]], words: str) -> None:
    with pytest.raises(UsageError, match=words):
        placed(rows, [0, 1, 2])


def test_zero_weights_and_ones_own_do_not_travel() -> None:
    assert placed([[(0, 1.0), (1, 0.0)], [(0, 0.5), (1, 0.5)]]).copies == 1


def test_the_merge_is_the_mean_and_the_distance_from_it() -> None:
    models = torch.tensor([[0.0, 3.0, 7.0], [4.0, 3.0, 7.0]])
    out = torch.zeros(3)
    assert merge(models, slice(0, 2), out) == 2.0**2 + 2.0**2
    assert out.tolist() == [2.0, 3.0, 0.0]


def test_the_merge_sums_in_double_precision() -> None:
    # In float32, 2**24 + 1 is 2**24: all the ones would be lost, and the mean be 16384.
    models = torch.cat([torch.tensor([[2.0**24]]), torch.ones(1023, 1)])
    out = torch.empty(1)
    merge(models, slice(0, 1), out)
    assert float(out) == 16385.0


@pytest.mark.parametrize(("rows", "elements"), [(1, 10), (1000, 199_210), (3, 1_000_000), (100_000, 7)])
def test_blocks_cover_every_column_once(rows: int, elements: int) -> None:
    columns = [c for block in blocks(rows, elements) for c in range(elements)[block]]
    assert columns == list(range(elements))
