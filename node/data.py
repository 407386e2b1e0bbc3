"""SHELL. Data for demonstrations and benchmarks: real patients and digits, divided into sites.

Each function writes one folder per site, in the form the packaged tasks read. scikit-learn and numpy are imported when
asked for; a node that brings its own data needs neither.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from zipfile import BadZipFile

from swarm.errors import UsageError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

HOSPITALS = (
    # name, patients, share of them with a malignant tumour: a cancer centre sees other patients than a screening unit
    ("university", 200, 0.30),
    ("cancer-centre", 110, 0.64),
    ("city", 85, 0.28),
    ("county", 50, 0.16),
    ("rural", 10, 0.30),
)
HELD_OUT = 0.2

HEART_SITES = ("cleveland", "hungarian", "switzerland", "va")
HEART_COLUMNS = "age,sex,pressure,cholesterol,sugar,heart_rate,angina,st,cp2,cp3,cp4,ecg1,ecg2,disease"


@dataclass(frozen=True, slots=True)
class SiteData:
    """One site's share: patients to train on, how many of them are positive, held-out patients."""

    name: str
    folder: Path
    rows: int
    positives: int
    held_out: int


def write_breast_cancer(folder: Path, seed: int) -> list[SiteData]:
    """Divide scikit-learn's breast cancer data among five unequal hospitals with different case mix.

    A fifth of the patients is held out first and is the same for all. Malignant counts as positive. Writes
    `<hospital>/train.csv` and `test.csv`, and `pooled/` with everything together.
    """
    import numpy as np
    from sklearn.datasets import load_breast_cancer

    source = load_breast_cancer()
    rows = np.column_stack([source.data, 1 - source.target])
    rng = np.random.default_rng(seed)
    rng.shuffle(rows)
    held_out, rest = rows[: int(HELD_OUT * len(rows))], rows[int(HELD_OUT * len(rows)) :]
    ill, healthy = rest[rest[:, -1] == 1], rest[rest[:, -1] == 0]
    header = ",".join(name.replace(" ", "_") for name in source.feature_names) + ",malignant"
    sites, taken_ill, taken_healthy, pooled = [], 0, 0, []
    for name, size, share in HOSPITALS:
        many = min(round(size * share), len(ill) - taken_ill)
        few = min(size - many, len(healthy) - taken_healthy)
        chosen = np.concatenate([ill[taken_ill : taken_ill + many], healthy[taken_healthy : taken_healthy + few]])
        taken_ill, taken_healthy = taken_ill + many, taken_healthy + few
        pooled.append(chosen)
        sites.append(_write(folder / name, name, chosen, held_out, header))
    _write(folder / "pooled", "pooled", np.concatenate(pooled), held_out, header)
    return sites


def write_heart_disease(source: Path, folder: Path) -> list[SiteData]:
    """Divide the four hospitals of UCI Heart Disease as FLamby does (Ogier du Terrail et al. 2022, Fed-Heart-Disease).

    Columns 10 to 12 and then rows with missing values are dropped; chest pain and resting ECG become indicators; any
    degree of disease counts as positive; 66 % of each hospital train, stratified where both classes are there.
    """
    import numpy as np
    from sklearn.model_selection import train_test_split

    sites, trains, tests = [], [], []
    for name in HEART_SITES:
        path = source / f"processed.{name}.data"
        if not path.is_file():
            raise UsageError(f"couldn't find {path}", hint="give the folder with the four processed.*.data files")
        lines = (line.split(",") for line in path.read_text(encoding="utf-8").split())
        kept = [[*line[:10], line[13]] for line in lines if "?" not in [*line[:10], line[13]]]
        rows = _heart_features(np.array(kept, dtype=np.float64))
        labels = rows[:, -1]
        both = min((labels == value).sum() for value in (0, 1)) > 2
        train, test = train_test_split(
            np.arange(len(rows)), test_size=0.34, train_size=0.66, random_state=43, stratify=labels if both else None
        )
        trains.append(rows[np.sort(train)])
        tests.append(rows[np.sort(test)])
        sites.append(_write(folder / name, name, trains[-1], tests[-1], HEART_COLUMNS))
    _write(folder / "pooled", "pooled", np.concatenate(trains), np.concatenate(tests), HEART_COLUMNS)
    return sites


def write_mnist(source: Path, folder: Path, *, sites: int, seed: int) -> list[SiteData]:
    """Divide MNIST's 60,000 training digits into IID shards of equal size; the test digits are the same for all.

    Args:
        source: mnist.npz as Keras has it: images `x_train` and `x_test`, and as many labels `y_train` and `y_test`.
        folder: where a folder for each site is written.
        sites: how many, from 1 to the number of training digits.
        seed: of the division.

    Raises:
        UsageError: the file is not there, or is not so; or there are not so many digits.
    """
    import numpy as np

    x, y, x_test, y_test = _mnist_arrays(source)
    if not 1 <= sites <= len(x):
        raise UsageError(
            f"couldn't divide {len(x)} digits among {sites} sites", hint="every site needs at least one: take fewer"
        )
    order = np.random.default_rng(seed).permutation(len(x))
    made = []
    for number, shard in enumerate(np.array_split(order, sites)):
        target = folder / f"site-{number}"
        target.mkdir(parents=True, exist_ok=True)
        np.savez(target / "train.npz", x=x[shard], y=y[shard])
        np.savez(target / "test.npz", x=x_test, y=y_test)
        made.append(SiteData(target.name, target, len(shard), 0, len(y_test)))
    return made


def _mnist_arrays(source: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint8], NDArray[np.int64]]:
    """Return training images and labels, test images and labels. Raises `UsageError`."""
    import numpy as np

    hint = "give the path of mnist.npz, as Keras has it"
    if not source.is_file():
        raise UsageError(f"couldn't find {source}", hint=hint)
    names = ("x_train", "y_train", "x_test", "y_test")
    try:
        with source.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            found = {name: np.asarray(file[name]) for name in names if name in file}
    except (OSError, ValueError, EOFError, TypeError, AttributeError, BadZipFile):
        # A single array, which is no archive; text; half a download; objects, which would be code.
        raise UsageError(f"couldn't read {source}: it is no archive of arrays", hint=hint) from None
    if missing := [name for name in names if name not in found]:
        raise UsageError(f"couldn't read {source}: it has no array {missing[0]}", hint=hint)
    for part in ("train", "test"):
        x, y = found[f"x_{part}"], found[f"y_{part}"]
        if y.ndim != 1 or y.dtype.kind not in "iu" or x.shape[:1] != y.shape or not y.size:
            raise UsageError(
                f"couldn't read {source}: x_{part} has the shape {x.shape}, and y_{part} {y.shape} of {y.dtype}",
                hint="every image needs a label, a whole number",
            )
    return found["x_train"], found["y_train"].astype(np.int64), found["x_test"], found["y_test"].astype(np.int64)


def _heart_features(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Turn cleaned rows, shape (n, 11), into features and label, shape (n, 14)."""
    import numpy as np

    plain = rows[:, [0, 1, 3, 4, 5, 7, 8, 9]]
    pain = np.column_stack([rows[:, 2] == value for value in (2, 3, 4)])
    ecg = np.column_stack([rows[:, 6] == value for value in (1, 2)])
    return np.column_stack([plain, pain, ecg, rows[:, 10] > 0]).astype(np.float64)


def _write(folder: Path, name: str, train: NDArray[np.float64], test: NDArray[np.float64], header: str) -> SiteData:
    import numpy as np

    folder.mkdir(parents=True, exist_ok=True)
    parts: Sequence[tuple[str, NDArray[np.float64]]] = (("train.csv", train), ("test.csv", test))
    for part, rows in parts:
        np.savetxt(folder / part, rows, delimiter=",", header=header, comments="", fmt="%.6g")
    return SiteData(name, folder, len(train), int(train[:, -1].sum()), len(test))
