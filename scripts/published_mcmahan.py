"""Rounds to 97 % on MNIST, beside the table that federated learning began with.

    PYTHONPATH=. python scripts/published_mcmahan.py MNIST.npz [--rows iid-b10-c0.1 ...] [--seeds 1 2 3] [--workers 2]

McMahan, Moore, Ramage, Hampson & Agüera y Arcas, "Communication-efficient learning of deep networks from decentralized
data" (2017), table 1: the 2NN (784-200-200-10, ReLU), 100 clients of 600 digits, one local epoch (E = 1), batches of B,
a fraction C of the clients drawn each round, their models averaged. IID shares are dealt from shuffled digits;
pathological ones are two of 200 shards of 300 digits sorted by label.

As in the paper (section 3): plain SGD, the same rate in every round; a run's curve is made monotone, each round holding
the best accuracy so far; the crossing of 97 % is interpolated linearly between two rounds. Rates come from a grid of
resolution 10^(1/3). For each row the first seed walks over the grid until a rate is better than both its neighbours,
and all seeds then run at that rate. A run that needs more rounds than the best before it is stopped: its number would
not be used. Every round is tested on all 10,000 test digits, except in rows of full batches (B = inf), whose curves
are smooth: there every fifth.

What the paper does not say are the scale of the digits, how weights begin, and over how many seeds a cell of its table
was taken. The scale matters most: digits from 0 to 1 (`--scale unit`) need half the rounds of the paper and fewer, from
-0.5 to 0.5, as TensorFlow's own MNIST example of that year has them, nearly as many. Shifted so, a digit is mostly
background of one value far from zero, a direction along which the loss is steep and nothing is to be learned; it keeps
rates low. Weights begin as PyTorch's do, uniform within 1/sqrt(inputs) of zero, or as in that example (`normal`).
"""

import argparse
import math
import pathlib
import statistics
import sys
import time
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact, Experiment, Round, run
from topologies import partitions

TARGET = 0.97
CLIENTS = 100
UNIT, CENTRED = "unit", "centred"
UNIFORM, NORMAL = "uniform", "normal"
SPREAD, BIAS = 0.1, 0.1
"""Deviation of weights, normal and cut off at two deviations, and biases, as in TensorFlow's examples of 2016."""

FIRST_THIRD = {10: -3, None: -1}
"""Where the walk over the grid 10^(k/3) begins, by batch: 0.1, and 0.46 for full batches."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One cell of their table. `batch` None is B = inf; `published` is in rounds."""

    iid: bool
    batch: int | None
    fraction: float
    published: float

    def __str__(self) -> str:
        division = "IID" if self.iid else "shards"
        return f"{division:<6} B={self.batch or 'inf':<3} C={self.fraction:<3}"


def _rows() -> dict[str, Row]:
    fractions = (0.0, 0.1, 0.2, 0.5, 1.0)
    published = {
        (True, 10): (316, 87, 77, 75, 70),
        (True, None): (1455, 1474, 1658),
        (False, 10): (3275, 664, 619, 443, 380),
        (False, None): (4278, 1796, 1528),
    }
    return {
        f"{'iid' if iid else 'shards'}-b{batch or 'inf'}-c{fraction}": Row(
            iid=iid, batch=batch, fraction=fraction, published=rounds
        )
        for (iid, batch), cells in published.items()
        for fraction, rounds in zip(fractions, cells, strict=False)
    }


ROWS = _rows()
USUAL = ["iid-b10-c0.1", "iid-b10-c0.2", "shards-b10-c0.1", "shards-b10-c0.2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a row came to: rounds by seed (inf where the target was not reached), at the rate 10^(third / 3)."""

    row: Row
    third: int
    rounds: tuple[float, ...]


def main() -> None:
    """Run the rows asked for and print them beside the published ones."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mnist", type=pathlib.Path)
    options.add_argument("--rows", nargs="+", choices=list(ROWS), default=USUAL, metavar="ROW", help=", ".join(ROWS))
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--workers", type=int, default=None, help="processes; by default one a core")
    options.add_argument("--rounds-max", type=int, default=5_000)
    options.add_argument("--scale", choices=[UNIT, CENTRED], default=CENTRED, help="digits from 0 to 1, or -0.5 to 0.5")
    options.add_argument(
        "--init", choices=[UNIFORM, NORMAL], default=UNIFORM, help="as PyTorch begins, or TensorFlow's"
    )
    options.add_argument("--third", type=int, help="the rate 10^(k/3), found earlier: no walk over the grid")
    chosen = options.parse_args()
    if not chosen.mnist.is_file():
        sys.exit(f"error: couldn't read {chosen.mnist}: there is no such file\nhint: give mnist.npz as Keras has it")
    with np.load(chosen.mnist, allow_pickle=False) as file:
        train = dataset(file["x_train"], file["y_train"], chosen.scale)
        test = dataset(file["x_test"], file["y_test"], chosen.scale)
    results = []
    for name in chosen.rows:
        print(f"{'row':<20}  {'rate':>6}  {'seed':>4}  {'rounds':>7}  {'seconds':>7}", flush=True)
        trial = Trial(ROWS[name], train, test, chosen)
        results.append(trial.result(chosen.seeds))
        report(results, chosen.seeds)  # all so far: whoever stops it early keeps what was paid for


def report(results: list[Result], seeds: list[int]) -> None:
    """Print the table."""
    print(f"\nRounds to {TARGET:.0%} of the test digits; ours over seeds {', '.join(map(str, seeds))}\n")
    print(
        f"{'row':<20}  {'theirs':>6}  {'ours':>6}  {'deviation':>9}  {'by seed':<22}  {'ours/theirs':>11}  {'rate':>6}"
    )
    for result in results:
        mean = statistics.fmean(result.rounds)
        deviation = statistics.stdev(result.rounds) if len(result.rounds) > 1 and math.isfinite(mean) else math.nan
        each = " ".join(f"{rounds:.1f}" for rounds in result.rounds)
        print(
            f"{result.row!s:<20}  {result.row.published:>6}  {mean:>6.1f}  {deviation:>9.1f}  {each:<22}  "
            f"{mean / result.row.published:>11.2f}  {rate_of(result.third):>6.3g}"
        )
    print(flush=True)


def rate_of(third: int) -> float:
    """Return a learning rate of the grid."""
    return 10 ** (third / 3)


class Trial:
    """The runs of one row."""

    def __init__(self, row: Row, train: Dataset, test: Dataset, chosen: argparse.Namespace) -> None:
        self._row, self._train, self._test = row, train, test
        self._build, self._third = partial(two_layers, chosen.init), chosen.third
        self._workers, self._rounds_max = chosen.workers, chosen.rounds_max

    def result(self, seeds: list[int]) -> Result:
        """Choose the rate with the first seed, if it is not given; then run the others at it."""
        if self._third is None:
            third, rounds = self._best_rate(seeds[0])
        else:
            third, rounds = self._third, self._rounds(self._third, seeds[0], math.inf)
        return Result(
            row=self._row, third=third, rounds=(rounds, *(self._rounds(third, seed, math.inf) for seed in seeds[1:]))
        )

    def _best_rate(self, seed: int) -> tuple[int, float]:
        """Walk over the grid while it gets better: up from the first rate, else down from it."""
        best = FIRST_THIRD[self._row.batch]
        rounds = self._rounds(best, seed, math.inf)
        for direction in (1, -1):
            start = best
            while (found := self._rounds(best + direction, seed, rounds)) < rounds:
                best, rounds = best + direction, found
            if best != start:
                break  # the rate before it is the neighbour on the other side
        return best, rounds

    def _rounds(self, third: int, seed: int, enough: float) -> float:
        """Return the rounds to the target, a fraction, at a rate; inf if they are more than `enough`."""
        row, begun = self._row, time.monotonic()
        labels = self._train.y.numpy()
        shares = partitions.iid(labels, CLIENTS, seed) if row.iid else partitions.shards(labels, CLIENTS, seed)
        every = 1 if row.batch else 5
        curve = Curve(enough)
        run(
            Experiment(
                build=self._build,
                train=self._train,
                test=self._test,
                shares=shares,
                local=LocalTraining(learning_rate=rate_of(third), batch=row.batch),
                exchange=Exact(fraction=row.fraction),
                rounds=self._rounds_max,
                seed=seed,
                tested=0,
                test_every=every,
                workers=self._workers,
            ),
            on_round=curve.goes_on_to,
        )
        said = f"{curve.crossing:.1f}" if math.isfinite(curve.crossing) else f"> {curve.last:.0f}"
        seconds = time.monotonic() - begun
        print(f"{row!s:<20}  {rate_of(third):>6.3g}  {seed:>4}  {said:>7}  {seconds:>7.0f}", flush=True)
        return curve.crossing


class Curve:
    """The best accuracy so far, and where it crosses the target: what the paper reads off a learning curve."""

    def __init__(self, enough: float) -> None:
        self.crossing = math.inf
        self.last = 0
        self._best, self._enough = 0.0, enough

    def goes_on_to(self, now: Round) -> bool:
        """Take in a round; return whether the run may stop."""
        if now.average is None:
            return False
        before, at = self._best, self.last
        self._best, self.last = max(before, now.average.accuracy), now.number
        if self._best >= TARGET:
            self.crossing = at + (now.number - at) * (TARGET - before) / (self._best - before)
            return True
        return now.number >= self._enough or not math.isfinite(now.average.loss)


def two_layers(init: str) -> nn.Module:
    """Return the paper's 2NN, 199,210 parameters."""
    model = nn.Sequential(nn.Linear(784, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, 10))
    for layer in model:
        if isinstance(layer, nn.Linear) and init == NORMAL:
            nn.init.trunc_normal_(layer.weight, std=SPREAD, a=-2 * SPREAD, b=2 * SPREAD)
            nn.init.constant_(layer.bias, BIAS)
    return model


def dataset(x: np.ndarray, y: np.ndarray, scale: str) -> Dataset:
    """Return digits as numbers from 0 to 1, or from -0.5 to 0.5."""
    pixels = torch.from_numpy(x.reshape(-1, 784)).float().div_(255)
    return Dataset(pixels - 0.5 if scale == CENTRED else pixels, torch.from_numpy(y.astype(np.int64)))


if __name__ == "__main__":
    main()
