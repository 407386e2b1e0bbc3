"""Bytes a peer sends until the peers' own models know 97 % of MNIST: ring gossip beside the exact mean, compressed.

    PYTHONPATH=. python scripts/bytes_to_accuracy.py MNIST.npz [--alpha 10] [--seeds 1 2 3] [--methods ...]

16 peers of 3,750 digits each, labels by Dirichlet(alpha) (Hsu, Qi & Brown 2019: equal sizes; alpha 0 means IID), a
perceptron of one hidden layer (784-64-10), one epoch of plain SGD a round. Everybody begins with the same model and, by
seed, with the same shares in every method. After its epoch a peer exchanges:

- *ring f32*: D-PSGD, one exchange a round, models as they are, Metropolis-Hastings weights (three thirds): two copies;
- *exact f32*, *exact bf16*, *exact int8*: updates along a whole period of Base-2 (`topologies.finite.base`), after
  which everybody holds the mean: four exchanges of one message each. What is sent is encoded by `swarm.mixing.compress`
  with a memory for each of the four (`residual`): what a codec leaves out is added to the next round's message of the
  same exchange. A peer mixes its own message too, as the others decode it, so partners hold the same bytes after every
  exchange, and after the last one all peers do;
- *sharded bf16*, *sharded int8*: the route of a node (`swarm.routes`): two peers average each sixteenth of all updates,
  encoded with a memory, and tell the others the average, encoded without: two exchanges, 2.75 messages in all;
- *base2 f32*, *base2 bf16*: the same schedule, one exchange of models a round, bf16 without memory, as a node does.

Counted are the bytes of messages as they are encoded, headers included, sent by a peer. Accuracy is the mean of the
peers' *own* models on the 10,000 test digits, which is what a peer has in hand; that of the average model, which in
gossip nobody holds, is printed too. Curves are made monotone and crossings interpolated linearly, as in McMahan et al.
Each method has, with each seed, the best of --rates. A run is stopped when a peer has sent --limit times what the first
method of the list needed with that seed: then the ratio is more than that.
"""

import argparse
import itertools
import math
import multiprocessing
import pathlib
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.simulation.choice import choose_steps
from node.simulation.flat import TEST_ROWS, FlatModel
from node.simulation.learning import CROSS_ENTROPY, Dataset, LocalTraining
from node.simulation.steps import Trainee
from node.task import round_seed
from swarm.mixing.compress import residual
from swarm.mixing.compress.forms import decode, encode, parse
from swarm.routes import owners
from topologies import families, partitions, schedules
from topologies.mixing import Mixing

PEERS = 16
STACKED = 8
"""Peers trained at a time: half of them fit into the cache."""

TARGET = 0.97
RING = "ring f32"
METHODS = ("exact int8", "exact bf16", "exact f32", "sharded int8", "sharded bf16", "base2 bf16", "base2 f32", RING)

Models = NDArray[np.float32]
Exchange = Callable[[Models, Models], float]
"""(models, shape (peers, elements), changed in place; those before local training) -> bytes sent by a peer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reached:
    """Where a run got to the target, or was stopped: rounds and bytes a peer; `best` is its best accuracy."""

    rate: float
    rounds: float
    bytes: float
    best: float

    @property
    def reached(self) -> bool:
        """Whether it got to the target."""
        return self.best >= TARGET

    def better_than(self, other: "Reached") -> bool:
        """Whether it got there with fewer bytes; of those that did not, whether it came closer."""
        if self.reached and other.reached:
            return self.bytes < other.bytes
        return self.reached or (not other.reached and self.best > other.best)

    def said(self, number: str) -> str:
        """Return a number of this run, as a lower bound where it was stopped."""
        return number if self.reached else f">{number}"


def main() -> None:
    """Run the methods and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mnist", type=pathlib.Path)
    options.add_argument("--alpha", type=float, default=10.0, help="0 for IID shares")
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument(
        "--methods", nargs="+", choices=METHODS, default=["exact int8", "exact bf16", "sharded int8", RING]
    )
    options.add_argument("--rates", type=float, nargs="+", default=[0.1, 0.215])
    options.add_argument("--batch", type=int, default=10)
    options.add_argument("--limit", type=float, default=12.0)
    options.add_argument("--rounds-max", type=int, default=200)
    options.add_argument("--workers", type=int, default=2, help="seeds at a time, a process each")
    chosen = options.parse_args()
    if not chosen.mnist.is_file():
        sys.exit(f"error: couldn't read {chosen.mnist}: there is no such file\nhint: give mnist.npz as Keras has it")
    with multiprocessing.get_context("spawn").Pool(chosen.workers) as pool:
        found = pool.map(partial(methods, chosen), chosen.seeds, chunksize=1)
    report(dict(zip(chosen.seeds, found, strict=True)), chosen.alpha)


def methods(chosen: argparse.Namespace, seed: int) -> dict[str, Reached]:
    """Run all methods with one seed, each at every rate; return the best of each."""
    torch.set_num_threads(1)
    with np.load(chosen.mnist, allow_pickle=False) as file:
        train = dataset(file["x_train"], file["y_train"])
        test = dataset(file["x_test"], file["y_test"])
    swarm = Swarm(train, test, alpha=chosen.alpha, batch=chosen.batch, rounds_max=chosen.rounds_max)
    limit, found = math.inf, {}
    for method in chosen.methods:
        enough = limit
        for rate in chosen.rates:
            run = swarm.run(method, rate, seed, enough)
            if method not in found or run.better_than(found[method]):
                found[method] = run
            if run.reached:
                enough = min(enough, run.bytes)  # whatever needs more is not the best
        limit = min(limit, chosen.limit * found[method].bytes)
    return found


def report(found: dict[int, dict[str, Reached]], alpha: float) -> None:
    """Print the table. > says that a run was stopped before it got there, and so that the ratio is at least that."""
    shares = f"Dirichlet({alpha:g})" if alpha else "IID"
    print(f"\nTo {TARGET:.0%} of the test digits, {PEERS} peers, {shares}\n")
    print(
        f"{'seed':>4}  {'method':<12}  {'rate':>5}  {'rounds':>7}  {'MB sent':>8}  {'best':>6}  ring's bytes to these"
    )
    for seed, runs in found.items():
        ring = runs.get(RING)
        for method, run in runs.items():
            ratio = ring.said(f"{ring.bytes / run.bytes:.1f}") if ring and run.reached else "-"
            print(
                f"{seed:>4}  {method:<12}  {run.rate:>5.3g}  {run.said(f'{run.rounds:.1f}'):>7}  "
                f"{run.said(f'{run.bytes / 1e6:.1f}'):>8}  {run.best:>6.4f}  {ratio}"
            )


# --- a swarm --------------------------------------------------------------------------------------------------------


class Swarm:
    """Peers that train with the simulator's steps, their models the rows of one matrix."""

    def __init__(self, train: Dataset, test: Dataset, *, alpha: float, batch: int, rounds_max: int) -> None:
        self._train, self._test, self._alpha, self._batch, self._rounds_max = train, test, alpha, batch, rounds_max

    def run(self, method: str, rate: float, seed: int, enough: float) -> Reached:
        """Train until the target is reached, or a peer has sent `enough` bytes."""
        begun = time.monotonic()
        model = FlatModel(perceptron, seed)
        local = LocalTraining(learning_rate=rate, batch=self._batch)
        steps = choose_steps(model, CROSS_ENTROPY, self._train, local, "auto")
        shares = [torch.from_numpy(share) for share in self._shares(seed)]
        models = model.initial.expand(PEERS, -1).clone()
        rows, exchange = models.numpy(), make_exchange(method, model.elements)
        sent, at, average = 0.0, Point(0, 0.0, 0.0), 0.0
        for number in range(1, self._rounds_max + 1):
            before = rows.copy()
            for start in range(0, PEERS, STACKED):
                span = slice(start, start + STACKED)
                peers = range(PEERS)[span]
                trainees = [Trainee(shares[peer], round_seed(seed, f"site-{peer}", number)) for peer in peers]
                steps.train(models[span], None, trainees)
            sent += exchange(rows, before)
            last = sent >= enough or number == self._rounds_max or not np.isfinite(rows).all()
            alike = bool((rows == rows[0]).all())
            if not (alike or last) and number % max(1, number // 10):
                continue  # sixteen models cost more to test than to train
            own = statistics.fmean(self._accuracy(model, row) for row in (models[:1] if alike else models))
            average = self._accuracy(model, models.double().mean(0).float())
            before_it, at = at, Point(number, sent, max(at.accuracy, own))
            if at.accuracy >= TARGET:
                at = crossing(before_it, at)
            if at.accuracy >= TARGET or last:
                break
        print(
            f"{method:<11} rate {rate:<5.3g} seed {seed}: {at.rounds:>6.1f} rounds {at.bytes / 1e6:>6.1f} MB, "
            f"own {at.accuracy:.4f}, average {average:.4f}, {time.monotonic() - begun:.0f} s",
            flush=True,
        )
        return Reached(rate=rate, rounds=at.rounds, bytes=at.bytes, best=at.accuracy)

    def _shares(self, seed: int) -> partitions.Partition:
        labels = self._train.y.numpy()
        if not self._alpha:
            return partitions.iid(labels, PEERS, seed)
        return partitions.dirichlet_equal(labels, PEERS, seed, alpha=self._alpha)

    def _accuracy(self, model: FlatModel, vector: torch.Tensor) -> float:
        starts = range(0, len(self._test), TEST_ROWS)
        return sum(model.evaluate(vector, self._test, CROSS_ENTROPY, at)[0] for at in starts) / len(self._test)


@dataclass(frozen=True, slots=True)
class Point:
    """A point of a curve: rounds, bytes sent by a peer, the best accuracy so far."""

    rounds: float
    bytes: float
    accuracy: float


def crossing(before: Point, after: Point) -> Point:
    """Return where the line between two points of a curve meets the target."""
    part = (TARGET - before.accuracy) / (after.accuracy - before.accuracy)
    rounds = before.rounds + part * (after.rounds - before.rounds)
    return Point(rounds, before.bytes + part * (after.bytes - before.bytes), after.accuracy)


# --- exchanges ------------------------------------------------------------------------------------------------------


def make_exchange(method: str, elements: int) -> Exchange:
    """Return a method's exchange, with its memory if it has one."""
    kind, _, codec = method.partition(" ")
    match kind:
        case "ring":
            return Gossip([schedules.static(families.ring(PEERS)).mixing(0)], codec)
        case "base2":
            return Gossip(base2(), codec)
        case "sharded":
            return Sharded(codec, elements)
        case _:
            return ExactMean(base2(), codec, elements)


def base2() -> list[Mixing]:
    """Return the rounds of Base-2, in which everybody exchanges with one other."""
    schedule = schedules.base(PEERS, 1)
    assert schedule.exact_after == schedule.period == 4, "16 is a power of 2"
    return list(schedule.mixings(4))


class Gossip:
    """One exchange of models a round, encoded without memory; a peer's own model stays as it is."""

    def __init__(self, rounds: Sequence[Mixing], codec: str) -> None:
        self._rounds, self._spec, self._turn = rounds, parse(codec), 0

    def __call__(self, models: Models, _: Models) -> float:
        """Set x_i = W_ii x_i + sum_j W_ij C(x_j)."""
        mixing = self._rounds[self._turn % len(self._rounds)]
        self._turn += 1
        messages = [encode(model, self._spec) for model in models]
        told = np.stack([decode(message, models.shape[1]) for message in messages])
        mixed = np.empty_like(models)
        for peer, row in enumerate(mixing.rows):
            mixed[peer] = weighted((weight, models[j] if j == peer else told[j]) for j, weight in row)
        models[:] = mixed
        return mean_sent(mixing, messages)


class ExactMean:
    """A whole period of updates, encoded with a memory for every exchange of the period and every peer."""

    def __init__(self, rounds: Sequence[Mixing], codec: str, elements: int) -> None:
        self._rounds, self._spec = rounds, parse(codec)
        self._owed = [[residual.init(elements) for _ in range(PEERS)] for _ in rounds]

    def __call__(self, models: Models, before: Models) -> float:
        """Set x_i to the common model plus the mean of all updates, but for what is owed until the next round."""
        z = models - before
        sent = 0.0
        for mixing, owed in zip(self._rounds, self._owed, strict=True):
            steps = [residual.apply(state, update, self._spec) for state, update in zip(owed, z, strict=True)]
            owed[:] = [state for state, _ in steps]
            z = np.stack([weighted((weight, steps[j][1].update) for j, weight in row) for row in mixing.rows])
            sent += mean_sent(mixing, [step.message for _, step in steps])
        np.add(before, z, out=models)
        return sent


class Sharded:
    """Everybody's slice of every update to its owner, and the mean of it to everybody."""

    def __init__(self, codec: str, elements: int) -> None:
        self._spec = parse(codec)
        edges = np.linspace(0, elements, PEERS + 1).astype(int).tolist()
        self._slices = [slice(a, b) for a, b in itertools.pairwise(edges)]
        sizes = [part.stop - part.start for part in self._slices]
        self._owed = [[residual.init(size) for size in sizes] for _ in range(PEERS)]
        self._owners = [owners(number, PEERS, range(PEERS)) for number in range(PEERS)]

    def __call__(self, models: Models, before: Models) -> float:
        """Set x_i to the common model plus the mean of all updates, but for what is owed until the next round."""
        updates, mean, sent = models - before, np.empty_like(models[0]), 0
        for number, part in enumerate(self._slices):
            told, who = [], self._owners[number]
            for peer in range(PEERS):
                owed = self._owed[peer]
                owed[number], step = residual.apply(owed[number], updates[peer, part], self._spec)
                told.append(step.update)
                sent += len(step.message) * sum(owner != peer for owner in who)
            message = encode(weighted((1 / PEERS, update) for update in told), self._spec)
            mean[part] = decode(message, mean[part].size)
            sent += (PEERS - len(who)) * len(message)
        np.add(before, mean, out=models)
        return sent / PEERS


def weighted(terms: Iterator[tuple[float, NDArray[np.float32]]]) -> NDArray[np.float32]:
    """Return a weighted sum, in float64 and in the order given, rounded once."""
    total = sum(weight * vector.astype(np.float64) for weight, vector in terms)
    return np.asarray(total, dtype=np.float32)


def mean_sent(mixing: Mixing, messages: Sequence[bytes]) -> float:
    """Return the bytes of an exchange that a peer sends, on average: each message once to every one who mixes it."""
    return sum(len(messages[source]) for source, _ in mixing.edges) / PEERS


def perceptron() -> nn.Module:
    """Return the model: 50,890 parameters."""
    return nn.Sequential(nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))


def dataset(x: np.ndarray, y: np.ndarray) -> Dataset:
    """Return digits as numbers from 0 to 1."""
    return Dataset(torch.from_numpy(x.reshape(-1, 784)).float().div_(255), torch.from_numpy(y.astype(np.int64)))


if __name__ == "__main__":
    main()
