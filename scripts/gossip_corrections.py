"""What corrections of drift are worth in gossip where data differ: plain, qg, gt, and K-GT with its second vector.

    PYTHONPATH=. python scripts/gossip_corrections.py [--partition dirichlet:0.1] [--topologies ring exponential]
        [--rounds 60] [--rate 0.3] [--batch 16] [--seeds 1 2 3] [--data digits]

Sixteen sites at learning speed (`swarm simulate`), nothing lost. The first are what `--correction` offers; K-GT
(`swarm.mixing.tracking`) is the reference, which the product does not have because it sends two vectors a round. All
take the same steps on the same shares and blend by the same rows. Printed is the accuracy of the sites' own models on
held-out examples, the mean over sites and seeds, half way and in the round before the last, which averages; then by
seed.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from node.simulation import datasets
from node.simulation.compare import Comparison
from node.simulation.flat import FlatModel
from node.simulation.learner import score, task_source, tensors
from node.simulation.learning import CROSS_ENTROPY, LocalTraining
from node.simulation.run import choose_steps
from node.simulation.shards import one_thread
from node.simulation.steps import Trainee
from node.task import load_task, round_seed
from swarm.mixing import tracking
from topologies import schedules
from topologies.scenario import Learning, Scenario, plain

SITES = 16
OFFERED = {"none": "", "qg": "qg", "gt": "gt", "gt:500": "gt:500"}
K_GT = "K-GT, two vectors"


def own_accuracies(scenario: Scenario) -> list[list[float]]:
    """Return the mean accuracy of the sites' own models after each round, by seed."""
    with tempfile.TemporaryDirectory() as folder:
        runs = Comparison(scenario, ("learning",), Path(folder), workers=1).play()
        return [[statistics.fmean(peer.accuracy for peer in one.peers) for one in run.rounds] for run in runs]


def k_gt(scenario: Scenario, schedule: str, seed: int, told: tuple[int, ...]) -> list[float]:
    """Return the same for K-GT after the rounds that are asked for.

    A site's gradients are shifted by its correction, its update divided by the sum of its own rates, and what comes of
    that blended by the same rows as the models.
    """
    learning = scenario.learning
    examples = datasets.load(learning.data)
    shares, x = datasets.divide(examples, scenario, seed)
    train, test = tensors(examples, x)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "task.py"
        path.write_text(task_source(learning, examples), encoding="utf-8")
        model = FlatModel(load_task(path).build_model, seed)
    local = LocalTraining(learning_rate=learning.learning_rate, batch=learning.batch, epochs=learning.local_epochs)
    steps = choose_steps(model, CROSS_ENTROPY, train, local, "auto")
    models = model.initial.expand(SITES, -1).clone()
    states = [tracking.init(model.elements) for _ in range(SITES)]
    counts = np.array([len(share) for share in shares], np.float64)
    rates = [learning.learning_rate * steps.count(len(share)) for share in shares]
    order, turns, found = np.argsort(-counts, kind="stable"), schedules.build(schedule, SITES), []
    for number in range(1, max(told) + 1):
        before = models.clone()
        for site in order:
            trainee = Trainee(
                torch.from_numpy(np.ascontiguousarray(shares[site], np.int64)),
                round_seed(seed, scenario.names[site], number),
            )
            push = torch.from_numpy(-learning.learning_rate * tracking.shift(states[site])).unsqueeze(0)
            steps.train(models[site : site + 1], None, [trainee], None, push)
        mixing = np.zeros((SITES, SITES))
        for site, row in enumerate(turns.mixing(number - 1).rows):
            for other, weight in row:
                if other != site:
                    mixing[site, other] = weight * min(1.0, counts[other] / counts[site])
            mixing[site, site] = 1.0 - mixing[site].sum()
        moved = [tracking.direction((models[i] - before[i]).numpy(), rates[i]) for i in range(SITES)]
        blended = (mixing @ np.array(moved, np.float64)).astype(np.float32)
        states = [tracking.apply(states[i], moved[i], blended[i]) for i in range(SITES)]
        models = torch.from_numpy((mixing @ models.double().numpy()).astype(np.float32))
        if number in told:
            found.append(statistics.fmean(score(model, row.numpy(), test)[0] for row in models))
    return found


def main() -> None:
    """Print one table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--partition", default="dirichlet:0.1")
    options.add_argument("--topologies", nargs="+", default=["ring", "exponential"])
    options.add_argument("--rounds", type=int, default=60)
    options.add_argument("--rate", type=float, default=0.3)
    options.add_argument("--batch", type=int, default=16)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--data", default="digits")
    chosen = options.parse_args()
    learning = Learning(
        data=chosen.data,
        model="mlp:64,64",
        partition=chosen.partition,
        rounds=chosen.rounds,
        learning_rate=chosen.rate,
        batch=chosen.batch,
        seeds=tuple(chosen.seeds),
    )
    half, last = chosen.rounds // 2, chosen.rounds - 1
    print(f"{chosen.data}, {chosen.partition}, rate {chosen.rate:g}, batch {chosen.batch}, seeds {chosen.seeds}\n")
    print(f"| graph | correction | after {half} rounds | after {last} | by seed |\n|---|---|---|---|---|")
    for topology in chosen.topologies:
        for name, correction in OFFERED.items():
            scenario = replace(plain(SITES), topologies=(topology,), learning=replace(learning, correction=correction))
            curves = own_accuracies(scenario)
            _tell(topology, name, [(curve[half - 1], curve[last - 1]) for curve in curves])
        with one_thread():
            ends = [k_gt(scenario, topology, seed, (half, last)) for seed in chosen.seeds]
        _tell(topology, K_GT, [(first, second) for first, second in ends])


def _tell(topology: str, name: str, ends: list[tuple[float, float]]) -> None:
    halves, lasts = zip(*ends, strict=True)
    by_seed = " ".join(f"{one:.3f}" for one in lasts)
    print(
        f"| {topology} | {name} | {statistics.fmean(halves):.3f} | {statistics.fmean(lasts):.3f} | {by_seed} |",
        flush=True,
    )


if __name__ == "__main__":
    main()
