"""SHELL. What the virtual peers learn from: a data set by the name a person gives it, its division, and files of it.

"digits" comes with scikit-learn and needs no file. `mnist:PATH` and `npz:PATH` are arrays, `csv:PATH` a table whose
last column is the label. A fifth is held out by a fixed draw, the same for every seed, unless the file has its own test
examples; peers' shares are drawn from the seed. No torch here: the engine and the task files make tensors of it.
"""

from __future__ import annotations

import csv
import math
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.data import SiteData
from swarm.errors import UsageError
from topologies import partitions
from topologies.scenario import Scenario
from topologies.world.attacks import Attack, spoiled

HELD_OUT = 0.2
"""Share of the examples that nobody trains on, where a file has no test examples of its own."""

HELD_OUT_SEED = 2_017
"""What is held out does not depend on the seed, so that accuracies of different seeds are of the same examples."""

FILE_BYTES_MAX = 1 << 32
"""Largest file that is read."""

CLASSES_MAX = 1_000
"""Most classes: more are a sign that the last column is not a label."""

DEFLATE_RATIO_MAX = 1_032
"""Bytes that one byte of deflate can stand for, at most (zlib's own figure)."""

Pixels: TypeAlias = NDArray[np.uint8]
Features: TypeAlias = NDArray[np.float32]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """A data set: features of shape (examples, features), float32; labels int64, 0 to `classes` - 1.

    Attributes:
        name: What to call it.
        x: To train on.
        y: Their labels.
        x_test: Held out.
        y_test: Their labels.
        labels: What the labels mean, by number.
        columns: Per column that sites may be divided by, its value for every training example.
    """

    name: str
    x: Features
    y: NDArray[np.int64]
    x_test: Features
    y_test: NDArray[np.int64]
    labels: tuple[str, ...]
    columns: Mapping[str, NDArray[np.generic]]

    @property
    def features(self) -> int:
        """Numbers per example."""
        return int(self.x.shape[1])


def load(text: str, column: str = "") -> Examples:
    """Return the data set of that name; of a table, `column` is kept out of the features, to divide by.

    Raises:
        UsageError: There is no such data set, or the file is not what it should be.
    """
    kind, _, path = text.partition(":")
    if kind == "digits" and not path:
        return _digits()
    if kind not in _FILES or not path:
        raise UsageError(
            f"couldn't find the data {text!r}", hint="use digits, mnist:PATH, npz:PATH or csv:PATH, as in csv:cases.csv"
        )
    file = Path(path)
    if not file.is_file() or file.stat().st_size > FILE_BYTES_MAX:
        wrong = "it is too large" if file.is_file() else "there is no such file"
        raise UsageError(f"couldn't read {path}: {wrong}", hint=f"give a file of at most {FILE_BYTES_MAX >> 30} GiB")
    return _FILES[kind](file, column)


def divide(examples: Examples, scenario: Scenario, seed: int) -> tuple[partitions.Partition, Features]:
    """Return every site's share (positions among the training examples), and the features as its device sees them.

    Raises:
        UsageError: The scenario's partition is none, or these examples cannot be divided so.
    """
    text, plus, device = scenario.learning.partition.partition("+")
    if plus and device != "scanners":
        raise UsageError(f"couldn't divide the data by {text}+{device}", hint="write +scanners or leave it out")
    kind, _, argument = text.partition(":")
    y, n = examples.y, scenario.n
    match kind:
        case "iid":
            shares = partitions.iid(y, n, seed)
        case "dirichlet":
            least = min(10, max(1, len(y) // (10 * n)))
            shares = partitions.dirichlet(y, n, seed, alpha=_number(text, argument), least=least)
        case "dirichlet-equal":
            shares = partitions.dirichlet_equal(y, n, seed, alpha=_number(text, argument))
        case "shards":
            shares = partitions.shards(y, n, seed, shards_per_peer=int(_number(text, argument or "2")))
        case "power":
            shares = partitions.power_law(y, n, seed, exponent=_number(text, argument or "1"), least=2)
        case "ratios":
            shares = partitions.ratios(y, n, seed, parts=_parts(scenario, text, argument))
        case "column" if argument:
            shares = _by_column(examples, argument, n)
        case _:
            raise UsageError(
                f"couldn't divide the data by {text!r}",
                hint="use iid, dirichlet:0.1, dirichlet-equal:0.1, shards:2, power:1.5, ratios:8,1,1 or column:NAME",
            )
    x = examples.x
    if device:
        x = partitions.recorded(x, shares, partitions.scanners(n, seed), seed)
    return shares, x


def column_of(partition: str) -> str:
    """Return the column that a partition divides by, or nothing."""
    kind, _, argument = partition.partition("+")[0].partition(":")
    return argument if kind == "column" else ""


def spoil(
    examples: Examples, shares: partitions.Partition, x: Features, attack: Attack, attackers: Sequence[int]
) -> tuple[Examples, partitions.Partition, Features]:
    """Give attackers spoiled copies of their examples, behind all others; nobody else's change."""
    features, labels, divided = [x], [examples.y], list(shares)
    end = len(examples.y)
    for member in attackers:
        share = divided[member]
        worse, wrong = spoiled(attack, x[share], examples.y[share], len(examples.labels))
        features.append(worse)
        labels.append(wrong)
        divided[member] = np.arange(end, end + len(share), dtype=np.int64)
        end += len(share)
    return replace(examples, y=np.concatenate(labels)), tuple(divided), np.concatenate(features)


def write_sites(
    folder: Path, examples: Examples, shares: partitions.Partition, x: Features, names: Sequence[str]
) -> list[SiteData]:
    """Write a folder for every site, with `train.npz` and `test.npz` of `x` and `y`: what the task files read."""
    sites = []
    for name, share in zip(names, shares, strict=True):
        target = folder / name
        target.mkdir(parents=True, exist_ok=True)
        np.savez(target / "train.npz", x=x[share], y=examples.y[share])
        np.savez(target / "test.npz", x=examples.x_test, y=examples.y_test)
        sites.append(SiteData(name, target, len(share), 0, len(examples.y_test)))
    return sites


# --- where it comes from ----------------------------------------------------------------------------------------------


def _digits() -> Examples:
    """1,797 handwritten digits of 8 x 8 pixels (Alpaydin & Kaynak 1998), as scikit-learn packages them."""
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise UsageError(
            "couldn't load digits: scikit-learn is not installed", hint="pip install 'swarm-node[torch]', or use --data"
        ) from None
    source = load_digits()
    x = (source.data / 16.0).astype(np.float32)
    return _held_out("digits", x, source.target.astype(np.int64), tuple("0123456789"), {})


def _mnist(path: Path, _: str) -> Examples:
    found = _arrays(path)
    needed = ("x_train", "y_train", "x_test", "y_test")
    if missing := [name for name in needed if name not in found]:
        raise UsageError(f"couldn't read {path}: it has no array {missing[0]}", hint="give mnist.npz as Keras has it")
    train, test = (_pair(path, found[f"x_{part}"], found[f"y_{part}"]) for part in ("train", "test"))
    numbers = [y for _, y in (train, test) if y.dtype.kind in "iu" and 0 <= y.min() <= y.max() < CLASSES_MAX]
    if len(numbers) < 2:
        raise UsageError(f"couldn't read {path}: a label is no number from 0 to {CLASSES_MAX - 1}", hint=_PAIRS)
    labels = tuple(str(label) for label in range(int(numbers[0].max()) + 1))
    return Examples(
        name="mnist",
        x=train[0],
        y=train[1].astype(np.int64),
        x_test=test[0],
        y_test=test[1].astype(np.int64),
        labels=labels,
        columns=MappingProxyType({}),
    )


def _npz(path: Path, column: str) -> Examples:
    """Arrays x and y, or x_train, y_train, x_test and y_test; further ones as long as y are columns to divide by."""
    found = _arrays(path)
    if "x_train" in found:
        return _mnist(path, column)
    if "x" not in found or "y" not in found:
        raise UsageError(
            f"couldn't read {path}: it has no arrays x and y", hint="save it with numpy.savez(path, x=, y=)"
        )
    x, labels = _pair(path, found["x"], found["y"])
    names, y = np.unique(labels, return_inverse=True)
    columns = {name: values for name, values in found.items() if name not in ("x", "y") and values.shape == y.shape}
    return _held_out(path.stem, x, y, tuple(map(str, names)), columns)


def _pair(path: Path, x: NDArray[np.generic], y: NDArray[np.generic]) -> tuple[Features, NDArray[np.generic]]:
    """Return features, one row an example, and their labels. Raises `UsageError` unless they are that."""
    if x.ndim < 1 or y.shape != x.shape[:1] or not x.size or x.dtype.kind not in "biuf" or y.dtype.kind not in "biufSU":
        raise UsageError(f"couldn't read {path}: its arrays are not rows of numbers with a label each", hint=_PAIRS)
    with np.errstate(over="ignore"):
        rows = _flat(x)
    if not np.isfinite(rows).all():
        raise UsageError(f"couldn't read {path}: a feature is missing or not finite", hint="leave such rows out")
    return rows, y


_PAIRS = "x has one row of numbers for each example, y one label"


def _csv(path: Path, column: str) -> Examples:
    """A header, then numbers; the last column is the label. Features are brought to mean 0 and deviation 1."""
    with path.open(newline="", encoding="utf-8", errors="replace") as file:
        reader = csv.reader(file)
        try:
            header = [name.strip() for name in next(reader, [])]
            rows = [row for row in reader if row]
        except csv.Error as error:
            raise UsageError(f"couldn't read {path}: line {reader.line_num}: {error}", hint="is it a table?") from None
    if column and column not in header[:-1]:
        raise UsageError(f"couldn't divide {path} by {column!r}: it has no such column", hint=f"it has {header[:-1]}")
    kept = [i for i, name in enumerate(header[:-1]) if name != column]
    if not kept or not rows:
        raise UsageError(f"couldn't read {path}: it has no features or no rows", hint="write a header, then rows")
    for line, row in enumerate(rows, 2):
        if len(row) != len(header):
            raise UsageError(f"couldn't read {path}: line {line} has {len(row)} fields for {len(header)} columns")
    try:
        x = np.array([[float(row[i]) for i in kept] for row in rows], dtype=np.float64)
    except ValueError as error:
        raise UsageError(
            f"couldn't read {path}: {error}", hint="features are numbers; name a column of words with column:NAME"
        ) from None
    if not np.isfinite(x).all():
        raise UsageError(f"couldn't read {path}: a feature is missing or not finite", hint="leave such rows out")
    with np.errstate(over="ignore", invalid="ignore"):
        deviation = x.std(axis=0)
        scaled = ((x - x.mean(axis=0)) / np.where(deviation > 0, deviation, 1)).astype(np.float32)
    if not (np.isfinite(scaled).all() and np.isfinite(deviation).all()):
        raise UsageError(f"couldn't read {path}: a feature is too large to compute with", hint="leave such rows out")
    told = [row[-1].strip() for row in rows]
    names = sorted({*told})  # An array of texts would take of each as much as of the longest.
    numbers = {name: number for number, name in enumerate(names)}
    y = np.array([numbers[name] for name in told], dtype=np.int64)
    columns = {column: np.array([row[header.index(column)].strip() for row in rows])} if column else {}
    return _held_out(path.stem, scaled, y, tuple(names), columns)


_FILES: Mapping[str, Callable[[Path, str], Examples]] = MappingProxyType({"mnist": _mnist, "npz": _npz, "csv": _csv})


# --- parts ------------------------------------------------------------------------------------------------------------


def _held_out(
    name: str, x: Features, y: NDArray[np.int64], labels: tuple[str, ...], columns: Mapping[str, NDArray[np.generic]]
) -> Examples:
    if len(x) != len(y) or len(x) < 10 or not 2 <= len(labels) <= CLASSES_MAX:
        raise UsageError(
            f"couldn't use the data {name}: {len(x)} examples, {len(y)} labels of {len(labels)} kinds",
            hint=f"give one label for each of at least 10 examples, of 2 to {CLASSES_MAX} kinds",
        )
    order = np.random.default_rng(HELD_OUT_SEED).permutation(len(x))
    test, train = np.sort(order[: int(HELD_OUT * len(x))]), np.sort(order[int(HELD_OUT * len(x)) :])
    return Examples(
        name=name,
        x=np.ascontiguousarray(x[train]),
        y=y[train],
        x_test=np.ascontiguousarray(x[test]),
        y_test=y[test],
        labels=labels,
        columns=MappingProxyType({key: values[train] for key, values in columns.items()}),
    )


def _arrays(path: Path) -> dict[str, NDArray[np.generic]]:
    try:
        _check_claims(path)
        with np.load(path, allow_pickle=False) as file:
            return {name: file[name] for name in file.files}
    except _UNREADABLE as error:
        raise UsageError(f"couldn't read {path}: {error}", hint="give a file that numpy.savez wrote") from None


_UNREADABLE = (OSError, ValueError, EOFError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What an archive raises that is none, is cut off, is encrypted, or was packed as `numpy.savez` never does."""


def _check_claims(path: Path) -> None:
    """Raise `ValueError` for an array that is larger than its bytes: numpy makes room for all that it claims to be."""
    room = DEFLATE_RATIO_MAX * path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        for info in archive.infolist():
            if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) or info.file_size > room:
                raise ValueError(f"{info.filename[:60]!r} is not packed as numpy packs")
            with archive.open(info) as file:
                read = _HEADERS.get(np.lib.format.read_magic(file))
                if read is None:
                    raise ValueError(f"{info.filename[:60]!r} has a header that is not known")
                shape, _, dtype = read(file)
            if math.prod(shape) * dtype.itemsize > info.file_size:
                raise ValueError(f"{info.filename[:60]!r} claims to be larger than it is")


_HEADERS = MappingProxyType({(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0})


def _flat(x: NDArray[np.generic]) -> Features:
    """One row an example; pixels of 8 bits become 0 to 1."""
    rows = x.reshape(len(x), -1)
    wide = rows.astype(np.float32)
    return wide / np.float32(255) if x.dtype == np.uint8 else wide


def _number(text: str, argument: str) -> float:
    try:
        return float(argument)
    except ValueError:
        raise UsageError(
            f"couldn't divide the data by {text!r}: {argument!r} is not a number", hint="write dirichlet:0.1"
        ) from None


def _parts(scenario: Scenario, text: str, argument: str) -> tuple[float, ...]:
    if not argument:
        return tuple(site.samples for site in scenario.sites)
    return tuple(_number(text, part) for part in argument.split(","))


def _by_column(examples: Examples, name: str, n: int) -> partitions.Partition:
    if name not in examples.columns:
        known = ", ".join(examples.columns) or "none"
        raise UsageError(
            f"couldn't divide {examples.name} by {name!r}: it has no such column", hint=f"columns to divide by: {known}"
        )
    shares = partitions.by_column(examples.columns[name])
    if len(shares) != n:
        raise UsageError(
            f"couldn't divide {examples.name} by {name!r} among {n} sites: it has {len(shares)} values",
            hint=f"simulate {len(shares)} sites",
        )
    return shares
