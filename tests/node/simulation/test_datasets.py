"""Data by name: what is held out, who holds what, and files that are not what they should be."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.simulation import datasets
from swarm.errors import UsageError
from topologies.scenario import Learning, Scenario, Site, plain

TABLE = "age,site,ill\n" + "".join(
    f"{20 + i},{'north' if i < 12 else 'south'},{'yes' if i % 3 else 'no'}\n" for i in range(20)
)


def asking(n: int, partition: str) -> Scenario:
    return replace(plain(n), learning=Learning(partition=partition))


def test_digits_hold_out_a_fifth_that_nobody_trains_on() -> None:
    digits = datasets.load("digits")
    assert (digits.x.shape, digits.x_test.shape) == ((1438, 64), (359, 64))
    assert (digits.x.min(), digits.x.max()) == (0.0, 1.0)
    together = {row.tobytes() for row in digits.x} & {row.tobytes() for row in digits.x_test}
    assert not together


@pytest.mark.parametrize(
    "partition",
    [
        "iid",
        "dirichlet:0.3",
        "dirichlet-equal:0.3",
        "shards:2",
        "power:1.5",
        "ratios:4,3,2,1",
        "ratios",
        "iid+scanners",
    ],
)
def test_every_way_to_divide_gives_every_example_to_one_site(partition: str) -> None:
    digits = datasets.load("digits")
    shares, x = datasets.divide(digits, asking(4, partition), 3)
    assert np.array_equal(np.sort(np.concatenate(shares)), np.arange(1438))
    assert np.array_equal(x, digits.x) == ("scanners" not in partition)
    again, _ = datasets.divide(digits, asking(4, partition), 3)
    assert all(np.array_equal(a, b) for a, b in zip(shares, again, strict=True))


def test_ratios_are_the_sites_own_samples_unless_told() -> None:
    sites = (Site(name="big", samples=3.0), Site(name="small"))
    scenario = Scenario(name="x", sites=sites, learning=Learning(partition="ratios"))
    shares, _ = datasets.divide(datasets.load("digits"), scenario, 1)
    assert [len(share) for share in shares] == [1079, 359]


@pytest.mark.parametrize(
    ("partition", "says"),
    [
        ("fairly", "couldn't divide the data by 'fairly'"),
        ("dirichlet:x", "'x' is not a number"),
        ("iid+lenses", r"iid\+lenses"),
        ("ratios:1,2", "4 peers need 4 positive numbers"),
        ("column:ward", "it has no such column"),
        ("column:", "couldn't divide the data by 'column:'"),
    ],
)
def test_a_partition_that_is_none_is_refused(partition: str, says: str) -> None:
    with pytest.raises(UsageError, match=says):
        datasets.divide(datasets.load("digits"), asking(4, partition), 1)


def test_a_column_of_a_table_divides_it_and_is_no_feature(tmp_path: Path) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(TABLE)
    cases = datasets.load(f"csv:{path}", "site")
    assert (cases.features, cases.labels) == (1, ("no", "yes"))
    shares, _ = datasets.divide(cases, asking(2, "column:site"), 1)
    assert [sorted({*cases.columns["site"][share]}) for share in shares] == [["north"], ["south"]]
    with pytest.raises(UsageError, match="it has 2 values"):
        datasets.divide(cases, asking(3, "column:site"), 1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (TABLE, "could not convert string to float"),
        ("a,b\n1\n", "line 2 has 1 fields for 2 columns"),
        ("a,b\n", "no features or no rows"),
        ("a,b\n" + "nan,1\n" * 20, "missing or not finite"),
        ("a,b\n" + "1,1\n" * 20, "of 1 kinds"),
    ],
)
def test_a_table_that_is_none_is_refused_with_its_line(tmp_path: Path, text: str, says: str) -> None:
    path = tmp_path / "cases.csv"
    path.write_text(text)
    with pytest.raises(UsageError, match=says):
        datasets.load(f"csv:{path}")


def test_arrays_of_pixels_become_rows_from_0_to_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(0, 256, (30, 2, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", x=x, y=np.arange(30) % 3, ward=np.arange(30) % 2)
    found = datasets.load(f"npz:{tmp_path / 'a.npz'}")
    assert (found.x.shape, found.x_test.shape, found.labels) == ((24, 6), (6, 6), ("0", "1", "2"))
    assert 0.9 < found.x.max() <= 1.0
    assert list(found.columns) == ["ward"]
    np.savez(tmp_path / "m.npz", x_train=x, y_train=np.arange(30) % 3, x_test=x[:4], y_test=np.arange(4) % 3)
    assert datasets.load(f"mnist:{tmp_path / 'm.npz'}").x_test.shape == (4, 6)


@pytest.mark.parametrize("name", ["cifar", "digits:x", "npz:", "npz:/nowhere.npz", "csv:/nowhere.csv"])
def test_data_that_are_not_there_are_refused(name: str) -> None:
    with pytest.raises(UsageError, match="couldn't (find|read)"):
        datasets.load(name)


def test_site_folders_hold_what_the_task_files_read(tmp_path: Path) -> None:
    digits = datasets.load("digits")
    shares, x = datasets.divide(digits, asking(3, "iid"), 1)
    sites = datasets.write_sites(tmp_path, digits, shares, x, ("a", "b", "c"))
    with np.load(tmp_path / "b" / "train.npz") as file:
        assert np.array_equal(file["x"], digits.x[shares[1]])
        assert np.array_equal(file["y"], digits.y[shares[1]])
    assert [(site.name, site.rows, site.held_out) for site in sites] == [
        ("a", 480, 359),
        ("b", 479, 359),
        ("c", 479, 359),
    ]
