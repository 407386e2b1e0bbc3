"""Divisions of a data set: nothing lost, nothing twice, as uneven as asked, and impossible wishes refused in words."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.partitions import (
    Partition,
    Scanner,
    by_column,
    column_values,
    dirichlet,
    dirichlet_equal,
    holdings,
    iid,
    power_law,
    ratios,
    recorded,
    scanners,
    shards,
)

DIVISIONS: dict[str, Callable[[NDArray[np.int64], int, int], Partition]] = {
    "iid": iid,
    "dirichlet": lambda labels, n, seed: dirichlet(labels, n, seed, alpha=0.5, least=1),
    "dirichlet_equal": lambda labels, n, seed: dirichlet_equal(labels, n, seed, alpha=0.5),
    "shards": shards,
    "power_law": lambda labels, n, seed: power_law(labels, n, seed, exponent=1.3),
    "ratios": lambda labels, n, seed: ratios(labels, n, seed, parts=range(1, n + 1)),
}


def digits(examples: int = 1000, seed: int = 0) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, 10, examples)


def sizes(partition: Partition) -> list[int]:
    return [len(share) for share in partition]


def kinds(labels: NDArray[np.int64], partition: Partition) -> list[int]:
    return [len(np.unique(labels[share])) for share in partition]


@pytest.mark.parametrize("name", DIVISIONS)
@settings(max_examples=25, deadline=None)
@given(examples=st.integers(200, 600), n=st.integers(1, 12), seed=st.integers(0, 1000))
def test_every_example_is_held_once_and_the_seed_decides(name: str, examples: int, n: int, seed: int) -> None:
    labels = digits(examples, seed)
    partition = DIVISIONS[name](labels, n, seed)
    assert len(partition) == n
    assert np.array_equal(np.sort(np.concatenate(partition)), np.arange(examples))
    assert all(np.all(np.diff(share) > 0) for share in partition)
    assert all(map(np.array_equal, partition, DIVISIONS[name](labels, n, seed)))


@pytest.mark.parametrize("name", DIVISIONS)
def test_another_seed_divides_otherwise(name: str) -> None:
    first, second = (DIVISIONS[name](digits(), 5, seed) for seed in (1, 2))
    assert not all(map(np.array_equal, first, second))


@pytest.mark.parametrize("name", DIVISIONS)
def test_more_peers_than_examples_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="couldn't") as refused:
        DIVISIONS[name](digits(7), 8, 0)
    assert refused.value.hint


def test_iid_shares_differ_by_one_at_most() -> None:
    assert sizes(iid(digits(10), 3, 0)) == [4, 3, 3]


def test_shards_by_hand() -> None:
    labels = np.array([1, 0, 1, 0, 2, 3, 2, 3])  # sorted: 1 3 | 0 2 | 4 6 | 5 7
    pieces = {(1, 3), (0, 2), (4, 6), (5, 7)}
    for share in shards(labels, 2, 0):
        halves = [piece for piece in pieces if set(piece) <= set(share.tolist())]
        assert len(share) == 4
        assert len(halves) == 2


def test_two_shards_of_mnist_size_give_most_peers_two_digits() -> None:
    labels = np.repeat(np.arange(10), 600)
    partition = shards(labels, 100, 0)
    assert set(sizes(partition)) == {60}
    assert max(kinds(labels, partition)) == 2


def test_dirichlet_goes_from_one_label_each_to_an_equal_mix() -> None:
    labels = np.repeat(np.arange(10), 500)
    assert np.mean(kinds(labels, dirichlet(labels, 10, 0, alpha=0.05, least=1))) < 6
    _, counts = holdings(labels, dirichlet(labels, 10, 0, alpha=1e5))
    assert abs(counts - 50).max() < 5


def test_dirichlet_gives_everybody_the_least_or_says_why_not() -> None:
    labels = digits(400)
    assert min(sizes(dirichlet(labels, 10, 3, alpha=0.3, least=12))) >= 12
    with pytest.raises(UsageError, match=r"in each of 1000 draws some peer had fewer than 38"):
        dirichlet(labels, 10, 3, alpha=0.1, least=38)
    with pytest.raises(UsageError, match="alpha must be positive"):
        dirichlet(labels, 10, 3, alpha=0)


def test_dirichlet_of_equal_sizes_has_equal_sizes_and_the_asked_mix() -> None:
    labels = np.repeat(np.arange(10), 500)
    for alpha in (1e-3, 0.1, 10):
        assert set(sizes(dirichlet_equal(labels, 50, 0, alpha=alpha))) == {100}
    mixes = [np.mean(kinds(labels, dirichlet_equal(labels, 50, 0, alpha=alpha))) for alpha in (1e-3, 1, 1e5)]
    assert mixes[0] < 1.5 < mixes[1] < 9 < mixes[2]


def test_dirichlet_of_equal_sizes_draws_from_the_prior() -> None:
    # A label that is nine tenths of the data is about nine tenths of what a peer draws first, for any alpha.
    labels = np.repeat([0, 1], [9000, 1000])
    first = [np.mean(labels[dirichlet_equal(labels, 20, seed, alpha=1.0)[0]] == 0) for seed in range(300)]
    assert np.mean(first) == pytest.approx(0.9, abs=0.04)


def test_ratios_by_hand() -> None:
    assert sizes(ratios(digits(10), 3, 0, parts=(8, 1, 1))) == [8, 1, 1]
    assert sizes(ratios(digits(10), 3, 0, parts=(1, 1, 1))) == [4, 3, 3]
    with pytest.raises(UsageError, match="peer 1 would get none"):
        ratios(digits(10), 2, 0, parts=(1000, 1))
    with pytest.raises(UsageError, match="3 peers need 3 positive numbers"):
        ratios(digits(10), 3, 0, parts=(1, 2))


def test_power_law_by_hand() -> None:
    # Shares 1, 1/2, 1/3 of 11/6: 6, 3 and 2 of 11.
    assert sorted(sizes(power_law(digits(11), 3, 0, exponent=1))) == [2, 3, 6]
    # Of 12, the law gives 6.5, 3.3 and 2.2; with at least 3 the first two share 9 as 2 : 1.
    assert sorted(sizes(power_law(digits(12), 3, 0, exponent=1, least=3))) == [3, 3, 6]
    assert sorted(sizes(power_law(digits(12), 3, 0, exponent=9, least=4))) == [4, 4, 4]
    assert sizes(power_law(digits(12), 3, 0, exponent=0)) == [4, 4, 4]
    with pytest.raises(UsageError, match="exponent -1"):
        power_law(digits(12), 3, 0, exponent=-1)


def test_a_column_makes_the_sites() -> None:
    column = np.array(["va", "cleveland", "va", "hungary"])
    assert column_values(column) == ("cleveland", "hungary", "va")
    assert [share.tolist() for share in by_column(column)] == [[1], [3], [0, 2]]
    for odd in (np.array([1.0, np.nan]), np.array([])):
        with pytest.raises(UsageError, match="missing values"):
            by_column(odd)


def test_shards_and_labels_of_the_wrong_shape_are_refused() -> None:
    with pytest.raises(UsageError, match="into 0 shards for each of 3 peers"):
        shards(digits(10), 3, 0, shards_per_peer=0)
    with pytest.raises(UsageError, match="not one label per example"):
        iid(np.zeros((4, 2)), 2, 0)
    with pytest.raises(UsageError, match="among 0 peers"):
        iid(digits(10), 0, 0)


def test_holdings_count_labels_by_peer() -> None:
    labels = np.array(["a", "b", "b", "a", "b"])
    names, counts = holdings(labels, (np.array([0, 1, 2]), np.array([3, 4])))
    assert names == ("a", "b")
    assert counts.tolist() == [[1, 2], [1, 1]]


def test_a_scanner_shifts_scales_and_blurs() -> None:
    x = np.array([[0.0, 1.0]], dtype=np.float32)
    assert Scanner(brightness=0.25, contrast=0.5).record(x, 0).tolist() == [[0.25, 0.75]]
    noisy = Scanner(noise=0.1).record(np.zeros((400, 100), np.float32), 3)
    assert noisy.std() == pytest.approx(0.1, rel=0.02)
    assert np.array_equal(noisy, Scanner(noise=0.1).record(np.zeros((400, 100), np.float32), 3))
    with pytest.raises(UsageError, match="Contrast must be positive|couldn't make a scanner"):
        Scanner(contrast=0)


def test_each_site_records_with_its_own_scanner() -> None:
    x = np.full((6, 4), 0.5, dtype=np.float32)
    partition = (np.array([0, 1, 2]), np.array([3, 4, 5]))
    devices = scanners(2, 1)
    seen = recorded(x, partition, devices, 0)
    assert np.all(x == 0.5)
    assert abs(seen[:3].mean() - (0.5 * devices[0].contrast + devices[0].brightness)) < 0.1
    assert np.array_equal(seen[3:], devices[1].record(x[3:], 1))  # 0 * 1_000_003 + site 1
    assert scanners(2, 1) == devices != scanners(2, 2)
    for device in scanners(200, 0, brightness=0.1, contrast=0.5, noise=0.2):
        assert abs(device.brightness) <= 0.1
        assert 1 / 1.5 <= device.contrast <= 1.5
        assert 0 <= device.noise <= 0.2
    with pytest.raises(UsageError, match="1 scanners for 2 sites"):
        recorded(x, partition, devices[:1], 0)
