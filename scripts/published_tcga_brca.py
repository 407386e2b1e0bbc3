"""How long breast cancer patients of six regions live: Cox regression, beside FLamby's published figures.

    PYTHONPATH=. python scripts/published_tcga_brca.py FOLDER [--seeds 1 2 3] [--rounds 40] [--split drawn]
    PYTHONPATH=. python scripts/published_tcga_brca.py FOLDER --choose

FOLDER holds FLamby's Fed-TCGA-BRCA (Ogier du Terrail et al. 2022): brca.csv and train_test_split.csv. 1,088 patients,
39 features; the split is theirs and the same with every seed, and a seed draws the model that all begin with. The loss
is convex, so seeds end near one another: how far they lie apart says little about how sure a c-index of two events is.
`--split drawn` therefore draws held-out patients anew with each seed, as many of each region and as many events.

Six real peers as processes (`scripts/real_peers.py`), the task `scripts/tasks/tcga_brca.py`. Its ridge and its rounds
were chosen before the test split was looked at, on folds of every region's training patients, divided three times: in
how many of all pairs within a region the order is right. Beginning at zero 0.01 and 40 rounds came first, with 0.732
of 0.725 to 0.732. `--choose` does the same with models that begin as the peers' do and are averaged like theirs: 0.723
to 0.728, no more than divisions differ. So the choice hardly matters.
"""

import argparse
import csv
import pathlib
import statistics
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import numpy as np

from node.data import SiteData
from scripts import real_peers
from scripts.side_by_side import Bar, Cell, Published, Row, Score, Table

TASK = pathlib.Path(__file__).parent / "tasks" / "tcga_brca.py"
REGIONS = ("northeast", "south", "west", "midwest", "europe", "canada")
METRIC = "concordance"
FLAMBY = "FLamby (Ogier du Terrail et al. 2022), means over 5 seeds"

# From its repository's results, by method: clients in order.
FLAMBY_C_INDEX = {
    "FedAvg": (
        (0.7447, 0.099),
        (0.6273, 0.2276),
        (0.6907, 0.1904),
        (0.675, 0.1202),
        (0.7872, 0.3734),
        (0.8667, 0.2981),
    ),
    "FedAdam": ((0.8486, 0.0245), (0.6545, 0.0493), (0.8815, 0.0411), (0.6042, 0.1188), (0.9021, 0.0323), (1.0, 0.0)),
    "pooled": ((0.7732, 0.0656), (0.5818, 0.1758), (0.7056, 0.1565), (0.6292, 0.1498), (0.766, 0.2725), (0.6, 0.2789)),
}
NOTES = (
    "A c-index of few deaths is next to noise: Canada's is of 1 death, Europe's of 2, the Midwest's of 3.",
    "Each is a sixth of the client mean all the same. `swarm evaluate` gives none for fewer than 5 deaths.",
)
GIVEN_NOTE = "The split is the same with every seed: deviations are of training, not of which patients are held out."
BARS = (Bar(real_peers.SWARM, 0.815, "FLamby's best federated, FedAdam and FedYogi"),)

GIVEN, DRAWN = "given", "drawn"
QUICK_ROUNDS, QUICK_REGIONS = 2, 3
RIDGES = (0.0, 0.001, 0.003, 0.01, 0.03, 0.1)
ROUNDS = (20, 40)
FOLDS, DIVISIONS = 5, 3


@dataclass(frozen=True, slots=True)
class Patients:
    """Rows of brca.csv, shape (n, 41): 39 features, who died, and days until then or the last visit."""

    train: np.ndarray
    test: np.ndarray

    @property
    def events(self) -> int:
        """How many of the held-out patients died."""
        return int(self.test[:, -2].sum())


def main(arguments: list[str] | None = None) -> None:
    """Run the experiment for each seed and print the table, or how ridge and rounds were chosen."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("folder", type=pathlib.Path)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--split", choices=[GIVEN, DRAWN], default=GIVEN)
    options.add_argument("--choose", action="store_true", help="cross-validate in the training part, and no more")
    options.add_argument(
        "--quick", action="store_true", help=f"one seed, {QUICK_REGIONS} regions, {QUICK_ROUNDS} rounds"
    )
    chosen = options.parse_args(arguments)
    header, regions = read(chosen.folder)
    if chosen.choose:
        choose([region.train for region in regions])
        return
    seeds, rounds = (chosen.seeds[:1], QUICK_ROUNDS) if chosen.quick else (chosen.seeds, chosen.rounds)
    regions = regions[:QUICK_REGIONS] if chosen.quick else regions
    scores: list[Score] = []

    def trial(seed: int, folder: pathlib.Path) -> real_peers.Trial:
        parts = regions if chosen.split == GIVEN else [drawn(region, seed) for region in regions]
        return real_peers.Trial(
            task=TASK,
            sites=[write(folder / name, header, part) for name, part in zip(REGIONS, parts, strict=False)],
            pooled=write(folder / "pooled", header, together(parts)),
            rounds=rounds,
            metrics=("c_index", METRIC),
        )

    for seed, found in real_peers.over_seeds(seeds, trial):
        scores += real_peers.site_scores(found, seed=seed, metric=METRIC)
    print(table(regions, scores, rounds, chosen.split).text())


def table(regions: list[Patients], scores: list[Score], rounds: int, split: str) -> Table:
    """Return all of it; figures of others only beside their own split."""
    whole = len(regions) == len(REGIONS)
    given = whole and split == GIVEN
    theirs = FLAMBY_C_INDEX.items() if given else ()
    return Table(
        title=f"Harrell's c-index on each region's held-out patients ({split} split), {rounds} rounds",
        rows=[
            Row(name, len(region.test), f"{region.events} died") for name, region in zip(REGIONS, regions, strict=False)
        ],
        columns=real_peers.COLUMNS,
        scores=scores,
        published=[
            Published(method, FLAMBY, dict(zip(REGIONS, (Cell(*cell) for cell in cells), strict=True)))
            for method, cells in theirs
        ],
        bars=BARS if given else (),
        notes=[*(NOTES if whole else ()), *([GIVEN_NOTE] if split == GIVEN else ())],
    )


# --- the data -------------------------------------------------------------------------------------------------------


def read(folder: pathlib.Path) -> tuple[str, list[Patients]]:
    """Return the header and every region's patients. Ends in words where there are no such files."""
    try:
        with (folder / "brca.csv").open(encoding="utf-8", newline="") as file:
            header, *rows = csv.reader(file)
        with (folder / "train_test_split.csv").open(encoding="utf-8", newline="") as file:
            split = list(csv.reader(file))[1:]
    except OSError as error:
        sys.exit(
            f"error: couldn't read FLamby's files in {folder}: {error.strerror}\nhint: name the folder of brca.csv"
        )
    by_patient = {row[0]: np.array(row[1:], np.float64) for row in rows}
    parts = {name: np.stack([by_patient[row[0]] for row in split if row[2] == name]) for name in {r[2] for r in split}}
    names = ",".join(name.replace(",", "") for name in header[1:])
    return names, [Patients(parts[f"train_{number}"], parts[f"test_{number}"]) for number in range(len(REGIONS))]


def drawn(region: Patients, seed: int) -> Patients:
    """Return another split of a region, with as many held out of those who died and of the others."""
    rows = np.concatenate([region.train, region.test])
    dice = np.random.default_rng(seed)
    died = dice.permutation(np.flatnonzero(rows[:, -2] > 0))
    lived = dice.permutation(np.flatnonzero(rows[:, -2] == 0))
    held_out = np.concatenate([died[: region.events], lived[: len(region.test) - region.events]])
    return Patients(np.delete(rows, held_out, axis=0), rows[held_out])


def together(regions: list[Patients]) -> Patients:
    """Return everybody in one place."""
    return Patients(np.concatenate([one.train for one in regions]), np.concatenate([one.test for one in regions]))


def write(folder: pathlib.Path, header: str, patients: Patients) -> SiteData:
    """Write a site's two files as the task reads them."""
    folder.mkdir(parents=True)
    for name, rows in (("train.csv", patients.train), ("test.csv", patients.test)):
        np.savetxt(folder / name, rows, delimiter=",", header=header, comments="", fmt="%.6g")
    died = int(patients.train[:, -2].sum())
    return SiteData(folder.name, folder, len(patients.train), died, len(patients.test))


# --- how ridge and rounds were chosen -------------------------------------------------------------------------------


def choose(regions: list[np.ndarray]) -> None:
    """Print the c-index of every ridge and number of rounds, on folds of the training patients."""
    task = real_peers.loaded(TASK)
    print("ridge    rounds   c-index of left-out folds, mean and range over divisions")
    for ridge in RIDGES:
        task.RIDGE = ridge  # type: ignore[attr-defined]
        reached = [across_folds(task, regions, division) for division in range(DIVISIONS)]
        for rounds in ROUNDS:
            values = [by_rounds[rounds] for by_rounds in reached]
            print(
                f"{ridge:<7}  {rounds:>6}   {statistics.fmean(values):.4f} ({min(values):.4f} to {max(values):.4f})",
                flush=True,
            )


def across_folds(task: ModuleType, regions: list[np.ndarray], division: int) -> dict[int, float]:
    """Return by number of rounds in what share of pairs, all folds and regions together, the order is right."""
    import torch

    folds = [divided(rows, division * len(regions) + number) for number, rows in enumerate(regions)]
    points = {rounds: np.zeros(2) for rounds in ROUNDS}
    for fold in range(FOLDS):
        parts = [tensors(task, rows[which != fold]) for rows, which in zip(regions, folds, strict=True)]
        left_out = [tensors(task, rows[which == fold]) for rows, which in zip(regions, folds, strict=True)]
        torch.manual_seed(fold)
        model = task.build_model()
        for round_ in range(1, max(ROUNDS) + 1):
            average(task, model, parts)
            if round_ in points:
                points[round_] += sum(pairs(model, part) for part in left_out)
    return {rounds: float(right / compared) for rounds, (right, compared) in points.items()}


def divided(rows: np.ndarray, seed: int) -> np.ndarray:
    """Return each patient's fold, those who died spread evenly."""
    dice, folds = np.random.default_rng(seed), np.zeros(len(rows), np.int64)
    for died in (True, False):
        who = dice.permutation(np.flatnonzero((rows[:, -2] > 0) == died))
        folds[who] = (np.arange(len(who)) + dice.integers(FOLDS)) % FOLDS
    return folds


def tensors(task: ModuleType, rows: np.ndarray) -> Any:
    """Return patients as the task has them."""
    import torch

    whole = torch.from_numpy(rows.astype(np.float32))
    return task.prepared(whole[:, : task.FEATURES]), whole[:, task.FEATURES + 1], whole[:, task.FEATURES] > 0


def average(task: ModuleType, model: Any, parts: list[Any]) -> None:
    """Take a model through a round: each part trains a copy, and the mean weighs them by patients."""
    import torch

    start = model.weight.detach().clone()
    moved, patients = torch.zeros_like(start), sum(len(part[0]) for part in parts)
    for part in parts:
        with torch.no_grad():
            model.weight.copy_(start)
        task.train(model, (part, None), None)
        moved += (model.weight.detach() - start) * (len(part[0]) / patients)
    with torch.no_grad():
        model.weight.copy_(start + moved)


def pairs(model: Any, part: Any) -> np.ndarray:
    """Return how many pairs are in order, and how many can be compared."""
    from node.scoring.cases import Survived
    from node.scoring.measures import concordance

    x, times, events = part
    risks = model(x).detach().numpy()[:, 0].astype(np.float64)
    won, compared = concordance(Survived(times.numpy().astype(np.float64), events.numpy(), risks))
    return np.array([won.sum(), compared.sum()])


if __name__ == "__main__":
    real_peers.in_words(main)
