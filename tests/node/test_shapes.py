"""What is said of a site's data: kinds, shapes and counts of labels, whatever it is and however it behaves."""

from __future__ import annotations

import collections

import numpy as np
import pytest

from node.doctor.shapes import ITEMS_MAX, LINES_MAX, describe_data


class Scans:
    """A data set as frameworks have it: a length, and items of two parts."""

    def __init__(self, count: int) -> None:
        self.count, self.looked = count, 0

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, place: int) -> tuple[np.ndarray, int]:
        self.looked += 1
        return np.zeros((3, 8, 8), np.float32), place % 3


class Loader:
    def __init__(self, dataset: object, batch_size: int) -> None:
        self.dataset, self.batch_size = dataset, batch_size


def test_arrays_are_told_by_kind_and_shape_and_labels_are_counted() -> None:
    features, labels = np.zeros((5, 30), np.float32), np.array([0, 1, 1, 0, 1])
    assert describe_data((features, labels)) == [
        "data[0]: float32 5x30",
        "data[1]: int64 5; 0 2 times, 1 3 times",
    ]
    assert describe_data({"x": features, "y": labels.astype(np.float64)[:, None]}) == [
        "data['x']: float32 5x30",
        "data['y']: float64 5x1; 0 2 times, 1 3 times",
    ]


def test_measurements_are_not_taken_for_labels() -> None:
    assert describe_data(np.array([0.5, 1.0])) == ["data: float64 2"]
    assert describe_data(np.arange(50)) == ["data: int64 50"]
    assert describe_data(np.zeros((4, 4, 4))) == ["data: float64 4x4x4"]


def test_a_data_set_is_told_by_its_first_item_and_its_labels() -> None:
    assert describe_data(Scans(9)) == [
        "data: Scans of 9 items",
        "data[0][0]: float32 3x8x8",
        "data[0][1]: int",
        "data: labels: 0 3 times, 1 3 times, 2 3 times",
    ]
    assert describe_data(Loader(Scans(9), 4))[:2] == ["data: Loader, 4 items a batch", "data.dataset: Scans of 9 items"]
    assert describe_data(Scans(0)) == ["data: Scans of 0 items"]


def test_of_a_large_data_set_only_the_first_items_are_opened() -> None:
    scans = Scans(10 * ITEMS_MAX)
    assert describe_data(scans)[-1].endswith(f"(in the first {ITEMS_MAX})")
    assert scans.looked <= ITEMS_MAX + 1


def test_objects_and_pairs_with_names_are_looked_into() -> None:
    pair = collections.namedtuple("Pair", "train test")(np.zeros((3, 2)), np.zeros((1, 2)))  # noqa: PYI024
    assert describe_data(pair) == ["data[0]: float64 3x2", "data[1]: float64 1x2"]

    class Ward:
        def __init__(self) -> None:
            self.beds, self.name = np.zeros(3, np.int32), "west"

    assert describe_data(Ward()) == ["data.beds: int32 3; 0 3 times", "data.name: str"]


class Sulking:
    def __len__(self) -> int:
        raise RuntimeError("not today")

    def __getitem__(self, place: int) -> int:
        return place


@pytest.mark.parametrize("data", [None, 3.5, "text", b"bytes", [], Sulking(), [Sulking()], object(), np.float32])
def test_nothing_that_data_can_be_raises(data: object) -> None:
    assert 1 <= len(describe_data(data)) <= LINES_MAX + 1


def test_lines_are_bounded() -> None:
    deep = {f"{i}": {f"{j}": {f"{k}": np.zeros(1) for k in range(9)} for j in range(9)} for i in range(9)}
    assert len(describe_data(deep)) == LINES_MAX + 1
