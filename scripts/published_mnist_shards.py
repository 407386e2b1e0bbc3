"""MNIST by two digits a client: what averaging, gossip and models of one's own are worth, beside the published figures.

    PYTHONPATH=. python scripts/published_mnist_shards.py MNIST.npz [--seeds 1 2 3] [--rounds 30] [--quick]

McMahan et al. 2017, section 3, "pathological non-IID": digits sorted by label, cut into 200 shards of 300, two of them
to each of 100 clients. Their table 1 asks for rounds until one common model knows 97 % of all ten digits: 664 where a
tenth of the clients trains each round, 380 where all do (perceptron with two hidden layers of 200, E = 1, B = 10).
`published_mcmahan.py` repeats that. Here the question is what a client has of it early on: how well models do on *its
own* digits, the test examples of labels that are a tenth of its share or more.

    alone         each client by itself, as many passes as it makes in the swarm on average
    swarm         the exact mean; a tenth of the clients is drawn and trains in a round
    fine-tuned    the swarm's last model, trained on at each client for a pass
    FedPer, FedRep, Ditto    a head, or a whole model, that stays at the client (scripts/stacked_personal.py)
    gossip + qg   all train and exchange with the 14 others that they have on an exponential graph, with quasi-global
                  momentum (`--correction qg`); each client's own model
    pooled        all 60,000 digits in one place, as many passes as alone

In gossip no client sits out: in as many rounds it goes through ten times the examples (`--gossip-rounds` gives it as
many as go through the same). In the others a few of a hundred clients are never drawn in 30 rounds: they have the head,
or the whole personal model, that everybody began with, as a site has that was away, and are the worst sites of FedPer,
FedRep and Ditto. The model has one hidden layer of 32, so that the table takes minutes; `--hidden 200 200 --rounds 664
--gossip-rounds 66` is theirs. One learning rate for everything, 0.1, and no search for a better one, so that nobody's
rate is chosen on what it is scored on.
"""

from __future__ import annotations

import argparse
import itertools
import pathlib
import statistics
import sys
from collections.abc import Iterator, Sequence
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn

from node.simulation.datasets import load
from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact, Gossip
from scripts import stacked_personal as stacked
from scripts.many_sites import Sites, say
from scripts.side_by_side import Cell, Published, Row, Score, Table
from swarm.errors import UsageError
from swarm.mixing.momentum import parse as parse_correction
from swarm.vector import Vector
from topologies import partitions, schedules

SHARDS = 2
OF_A_SHARE = 0.1
"""A label is a client's own if it is this part of its share: where the digits change within a shard, a few are not."""

ALL_TEN = "all ten digits"
ALONE, SWARM, TUNED, GOSSIP, POOLED = "alone", "swarm", "fine-tuned", "gossip + qg", "pooled"
PERSONAL = {"FedPer": stacked.FEDPER, "FedRep": stacked.FEDREP, "Ditto": stacked.DITTO}
COLUMNS = (ALONE, SWARM, TUNED, *PERSONAL, GOSSIP, POOLED)

SAMPLED = 10
"""Of models that differ from client to client every tenth is asked for all ten digits as well."""

QUICK = {"clients": 10, "examples": 1_000, "tests": 500, "rounds": 3, "hidden": [16]}
"""A cut that takes seconds and shows that everything works, and nothing else."""


def main() -> None:
    """Train everything with each seed and print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("mnist", type=pathlib.Path)
    options.add_argument("--clients", type=int, default=100)
    options.add_argument("--examples", type=int, default=60_000, help="of the training digits, the first so many")
    options.add_argument("--tests", type=int, default=10_000, help="of the test digits, likewise")
    options.add_argument("--rounds", type=int, default=30)
    options.add_argument("--gossip-rounds", type=int, default=None, help="as many as --rounds, if it is not given")
    options.add_argument("--fraction", type=float, default=0.1, help="of the clients, that train in a round")
    options.add_argument("--batch", type=int, default=10)
    options.add_argument("--rate", type=float, default=0.1)
    options.add_argument("--hidden", type=int, nargs="+", default=[32])
    options.add_argument(
        "--ditto", type=float, default=0.1, help="how strongly its models are pulled to the common one"
    )
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--workers", type=int, default=None, help="processes; by default one a core")
    options.add_argument("--quick", action="store_true", help="a few seconds, to see that it works")
    chosen = options.parse_args()
    if chosen.quick:
        vars(chosen).update(QUICK)
    chosen.gossip_rounds = chosen.gossip_rounds or chosen.rounds
    torch.set_num_threads(1)
    try:
        digits = load(f"mnist:{chosen.mnist}")  # as numbers from 0 to 1
    except UsageError as wrong:
        sys.exit(f"error: {wrong.message}\nhint: {wrong.hint}")
    train = Dataset(torch.from_numpy(digits.x[: chosen.examples]), torch.from_numpy(digits.y[: chosen.examples]))
    test = Dataset(torch.from_numpy(digits.x_test[: chosen.tests]), torch.from_numpy(digits.y_test[: chosen.tests]))
    scores: list[Score] = []
    rows: list[Row] = []
    for seed in chosen.seeds:
        trial = Trial(train, test, seed, chosen)
        scores += trial.scores()
        rows = rows or trial.rows()
        say(f"seed {seed} is done\n{report(rows, scores, chosen)}")  # whoever stops it early keeps what was paid for
    print(report(rows, scores, chosen), end="")


class Trial:
    """Everything with one seed, and so one division."""

    def __init__(self, train: Dataset, test: Dataset, seed: int, chosen: argparse.Namespace) -> None:
        self._test, self._seed, self._chosen = test, seed, chosen
        shares = partitions.shards(train.y.numpy(), chosen.clients, seed, shards_per_peer=SHARDS)
        if len({len(share) for share in shares}) > 1:
            sys.exit("error: couldn't cut the digits into equal shards\nhint: take clients that divide them")
        self._shares, self._train = shares, train
        self._sites = Sites(
            build=partial(perceptron, chosen.hidden),
            train=train,
            shares=shares,
            local=LocalTraining(learning_rate=chosen.rate, batch=chosen.batch),
            seed=seed,
            workers=chosen.workers,
        )
        labels, tests = train.y.numpy(), test.y.numpy()
        held = [np.bincount(labels[share], minlength=10) >= OF_A_SHARE * len(share) for share in shares]
        self._own = [own[tests] for own in held]

    def rows(self) -> list[Row]:
        """Return every client, and the common test. How many test examples are a client's own depends on the seed."""
        clients = [Row(_name(place), int(own.sum())) for place, own in enumerate(self._own)]
        return [*clients, Row(ALL_TEN, len(self._test), counted=False)]

    def scores(self) -> list[Score]:
        """Return what every column comes to: one model for all clients, or each client's own."""
        found = []
        for column, models in self._trained():
            each = models * len(self._own) if len(models) == 1 else models
            found += [
                Score(self._seed, column, _name(place), self._share_right(layers, torch.from_numpy(own)))
                for place, (layers, own) in enumerate(zip(each, self._own, strict=True))
            ]
            of_all = [self._share_right(layers) for layers in models[::SAMPLED]]
            found.append(Score(self._seed, column, ALL_TEN, statistics.fmean(of_all)))
            say(f"seed {self._seed}: {column}")
        return found

    def _share_right(self, layers: stacked.Layers, of_them: Tensor | None = None) -> float:
        """Return how many of the test digits, or `of_them`, a model tells rightly, as a part of 1."""
        x, y = self._test.x, self._test.y
        hits = stacked.right(layers, x, y) if of_them is None else stacked.right(layers, x[of_them], y[of_them])
        return float(hits.mean())

    def _trained(self) -> Iterator[tuple[str, list[stacked.Layers]]]:
        chosen, sites, passes = self._chosen, self._sites, passes_of(self._chosen)
        [common] = sites.together(Exact(fraction=chosen.fraction), chosen.rounds)
        yield SWARM, self._as_layers([common])
        yield TUNED, self._as_layers(sites.tuned(common, 1, chosen.rate))
        yield ALONE, self._as_layers(sites.apart(passes))
        yield POOLED, self._as_layers([sites.pooled(passes)])
        gossip = Gossip(mixing=schedules.build("exponential", chosen.clients).mixing)
        yield GOSSIP, self._as_layers(sites.together(gossip, chosen.gossip_rounds, correction=parse_correction("qg")))
        for column, method in PERSONAL.items():
            yield column, self._personal(method)

    def _as_layers(self, models: Sequence[Vector]) -> list[stacked.Layers]:
        """Return the layers of models that are vectors, as the simulator has them."""
        flat = self._sites.model()
        names = [name for name, _ in flat.module.named_parameters()]
        return [[flat.view(torch.from_numpy(model))[name] for name in names] for model in models]

    def _personal(self, method: str) -> list[stacked.Layers]:
        chosen, n = self._chosen, len(self._shares)
        swarm = stacked.Swarm(
            method,
            stacked.layers_of(self._sites.model().module),
            self._train.x,
            self._train.y,
            torch.from_numpy(np.stack(self._shares)),
            rate=chosen.rate,
            batch=chosen.batch,
            seed=self._seed,
            names=[_name(place) for place in range(n)],
            strength=chosen.ditto,
        )
        for number in range(1, chosen.rounds + 1):
            swarm.next_round(drawn(self._seed, number, n, chosen.fraction))
        return [swarm.own(place) for place in range(n)]


def passes_of(chosen: argparse.Namespace) -> int:
    """Return how often a client goes through its examples in the swarm, on average and rounded."""
    return max(1, round(float(chosen.rounds * chosen.fraction)))


def drawn(seed: int, number: int, n: int, fraction: float) -> list[int]:
    """Return who trains in a round, as the simulator draws (`node.simulation.run`): columns share their luck."""
    m = max(1, int(fraction * n + 1e-9))
    return [int(one) for one in np.random.default_rng((seed, number)).choice(n, m, replace=False)]


def _name(place: int) -> str:
    return f"site-{place}"


def perceptron(hidden: Sequence[int]) -> nn.Module:
    """Return a perceptron of 784 pixels and ten digits, with ReLU between its layers."""
    widths = [784, *hidden, 10]
    layers: list[nn.Module] = []
    for inputs, outputs in itertools.pairwise(widths):
        layers += [nn.Linear(inputs, outputs), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


def report(rows: Sequence[Row], scores: Sequence[Score], chosen: argparse.Namespace) -> str:
    """Return the table of all seeds so far."""
    own, passes = [row.cases for row in rows if row.counted], passes_of(chosen)
    return Table(
        title="Digits told rightly, of each client's own labels",
        rows=rows,
        columns=COLUMNS,
        scores=scores,
        folded=True,
        published=[Published("FedAvg", SOURCE, {ALL_TEN: Cell(0.97)})],
        notes=[
            f"{chosen.clients} clients, {chosen.rounds} rounds, rate {chosen.rate:g}, B = {chosen.batch}, E = 1.",
            f"Perceptron 784-{'-'.join(map(str, chosen.hidden))}-10, digits from 0 to 1.",
            f"Passes over the digits: swarm {chosen.rounds * chosen.fraction:g} on average, alone and pooled {passes}.",
            f"A part of {chosen.fraction:g} of the clients trains in a round, in gossip all of them.",
            f"Gossip went on for {chosen.gossip_rounds} rounds.",
            f"A client's own labels have {min(own):,} to {max(own):,} test digits with the first seed.",
            f"{ALL_TEN.capitalize()}: of models that differ from client to client the mean over every tenth of them.",
        ],
    ).text()


SOURCE = "McMahan et al. 2017, table 1: 97 % after 664 rounds, a tenth of the clients in each (2NN 200-200, B = 10)"


if __name__ == "__main__":
    main()
