"""Who will default on a credit card, at three unequal banks: boosted trees that all of them grow, and a linear model.

    PYTHONPATH=. python scripts/default_credit_sites.py default_credit_homo.npz [--seeds 1 2 3] [--models trees linear]

Default of credit card clients (Yeh and Lien 2009, Taiwan), 23 features. A seed shuffles 24,000 of the 30,000 customers
and deals them to banks of 12,000, 8,000 and 4,000; each holds out a fifth of its own. The other 6,000 are the same with
every seed, for all to be tested on: they stand below the banks, at *alone* and *personalised* as the mean over the
three banks' models. Banks differ in size only, so here a bank alone is not badly off.

Three real peers as processes (`scripts/real_peers.py`). Trees: `scripts/tasks/default_credit_trees.py`, the plan of
docs/guides/tables.md, 50 trees of depth 3 in 151 rounds. *Personalised* they are the swarm's and ten more, which a bank
grows on its own customers. Linear: `scripts/tasks/default_credit_linear.py`, 20 rounds. Nothing was searched for.
"""

import argparse
import pathlib
import sys
from dataclasses import dataclass

import numpy as np

from node.data import SiteData
from scripts import real_peers
from scripts.side_by_side import CLIENT_MEAN, Bar, Row, Score, Table

TASKS = pathlib.Path(__file__).parent / "tasks"
BANKS = (("national", 12_000), ("regional", 8_000), ("local", 4_000))
HELD_OUT = 0.2
OTHERS = "6,000 others"

TREES, LINEAR = "trees", "linear"
ROUNDS = {TREES: 151, LINEAR: 20}
QUICK_ROUNDS = {TREES: 1 + 3 * 2, LINEAR: 2}
QUICK_SHARE = 20

BARS = {
    TREES: tuple(
        Bar(real_peers.SWARM, 0.78, "boosting on the pooled rows comes to 0.785", row=row)
        for row in (CLIENT_MEAN, OTHERS)
    ),
    LINEAR: (),
}


@dataclass(frozen=True, slots=True)
class Customers:
    """`x` (n, 23) as they are in the file, `y` (n,) whether they defaulted."""

    x: np.ndarray
    y: np.ndarray

    def take(self, which: np.ndarray) -> "Customers":
        """Return these."""
        return Customers(self.x[which], self.y[which])


def main(arguments: list[str] | None = None) -> None:
    """Run the experiments for each seed and print a table each."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("file", type=pathlib.Path, help="default_credit_homo.npz")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--models", nargs="+", choices=[*ROUNDS], default=[*ROUNDS])
    options.add_argument("--quick", action="store_true", help="one seed, a twentieth of the customers, a few rounds")
    chosen = options.parse_args(arguments)
    seeds, rounds = (chosen.seeds[:1], QUICK_ROUNDS) if chosen.quick else (chosen.seeds, ROUNDS)
    share = QUICK_SHARE if chosen.quick else 1
    customers, others = read(chosen.file)
    sizes = [(name, count // share) for name, count in BANKS]
    for model in chosen.models:

        def trial(seed: int, folder: pathlib.Path, model: str = model) -> real_peers.Trial:
            parts = deal(customers, [count for _, count in sizes], seed)
            pooled = tuple(together([part[which] for part in parts]) for which in (0, 1))
            return real_peers.Trial(
                task=TASKS / f"default_credit_{model}.py",
                sites=[write(folder / name, *part, others) for (name, _), part in zip(sizes, parts, strict=True)],
                pooled=write(folder / "pooled", *pooled, others),
                rounds=rounds[model],
                metrics=("auc", "auc_elsewhere"),
            )

        scores: list[Score] = []
        for seed, found in real_peers.over_seeds(seeds, trial):
            scores += real_peers.site_scores(found, seed=seed, metric="auc")
            scores += real_peers.common_scores(found, seed=seed, metric="auc_elsewhere", row=OTHERS)
        print(table(model, scores, sizes, rounds[model], len(others.y)).text(), flush=True)


def read(path: pathlib.Path) -> tuple[Customers, Customers]:
    """Return the customers to be dealt, and the others. Ends in words where there are none."""
    if not path.is_file():
        sys.exit(f"error: couldn't read {path}: there is no such file\nhint: give default_credit_homo.npz")
    with np.load(path, allow_pickle=False) as file:
        parts = [Customers(file[f"x_{bank}"], file[f"y_{bank}"]) for bank in ("guest", "host_1", "host_2")]
        return together(parts), Customers(file["x_test"], file["y_test"])


def together(parts: list[Customers]) -> Customers:
    """Return everybody in one place."""
    return Customers(np.concatenate([one.x for one in parts]), np.concatenate([one.y for one in parts]))


def deal(customers: Customers, counts: list[int], seed: int) -> list[tuple[Customers, Customers]]:
    """Return each bank's customers to train on, and those that it holds out."""
    order, dealt = np.random.default_rng(seed).permutation(len(customers.y)), []
    for start, count in zip(np.cumsum([0, *counts[:-1]]), counts, strict=True):
        mine, out = order[start : start + count], round(count * HELD_OUT)
        dealt.append((customers.take(mine[out:]), customers.take(mine[:out])))
    return dealt


def write(folder: pathlib.Path, train: Customers, test: Customers, others: Customers) -> SiteData:
    """Write a bank's customers, and the others, as the tasks read them."""
    folder.mkdir(parents=True)
    parts = {"train": train, "test": test, "elsewhere": others}
    arrays = {f"{axis}_{name}": getattr(part, axis) for name, part in parts.items() for axis in ("x", "y")}
    np.savez(folder / "customers.npz", allow_pickle=False, **arrays)
    return SiteData(folder.name, folder, len(train.y), int(train.y.sum()), len(test.y))


def table(model: str, scores: list[Score], sizes: list[tuple[str, int]], rounds: int, others: int) -> Table:
    """Return all of it."""
    what = {TREES: "boosted trees", LINEAR: "logistic regression"}[model]
    return Table(
        title=f"Area under the curve, {what}, {rounds} rounds",
        rows=[
            *(Row(name, round(count * HELD_OUT)) for name, count in sizes),
            Row(OTHERS, others, counted=False),
        ],
        columns=real_peers.COLUMNS,
        scores=scores,
        bars=BARS[model],
        notes=["Of the 6,000 others, alone and personalised are means over the three banks' models."],
    )


if __name__ == "__main__":
    real_peers.in_words(main)
