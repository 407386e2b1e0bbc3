"""What ten sites learn of MNIST when two of them attack, under each rule of averaging.

Every attack of the catalogue that is for exact mixing, against the plain mean, the default (mean by samples, norms
clipped, no site above a fifth) and the rules. Each figure is the accuracy of the common model after the last round,
less that of the same sites with nobody attacking under the default, in points, as mean and worst of the seeds: a seed
draws the examples, who holds them, the model to start from and the order of training. Of the back-door a last line says
how often a test picture with the trigger in it is taken for the attackers' label.

One core, in about eight minutes: `python scripts/attack_table.py ../shared/data/mnist/mnist.npz`.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.simulation import datasets
from node.simulation.learner import tensors
from node.simulation.learning import LocalTraining
from node.simulation.run import Exact, Experiment, Simulation
from swarm.mixing.average import PPM
from swarm.mixing.rules import parse as parse_rule
from topologies import partitions
from topologies.world.attacks import BACK_DOOR, TARGET, Attack, triggered
from topologies.world.attacks import parse as parse_attack

SITES, ATTACKERS = 10, (8, 9)
EXAMPLES, TESTED = 2_000, 2_000
SIDE, HIDDEN = 14, 32
ROUNDS, RATE, BATCH, EPOCHS = 25, 0.1, 20, 2
CLIP = 1.5
"""About twice the norm of an honest update in the first rounds: what a pilot run without attackers shows."""

CAP_PPM = 200_000

ATTACKS = (
    "label-flip",
    "sign-flip",
    "sign-flip:5",
    "scaling",
    "alie",
    "alie:1.5",
    "ipm",
    "ipm:10",
    "back-door",
    "free-zero",
    "free-noise",
    "free-replay",
)
RULES = ("median", "trimmed:2", "geomedian", "multikrum:2", "nnm:2+trimmed:2", "nnm:2+geomedian")
PLAIN, DEFAULT = "mean", "default"
WAYS = (PLAIN, DEFAULT, *RULES)
DATA = {"alike": "iid", "uneven": "dirichlet:0.5"}
NOBODY = "nobody"


@dataclass(frozen=True, slots=True)
class Outcome:
    """Accuracy of the last common model, and how often the trigger works; both 0 to 1."""

    accuracy: float
    opened: float


def main() -> None:
    """Print the tables."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("mnist", type=Path)
    arguments.add_argument("--seeds", type=int, default=3)
    arguments.add_argument("--rounds", type=int, default=ROUNDS)
    arguments.add_argument("--ways", default=",".join(WAYS))
    arguments.add_argument("--attacks", default=",".join(ATTACKS))
    chosen = arguments.parse_args()
    torch.set_num_threads(1)
    whole = datasets.load(f"mnist:{chosen.mnist}", "")
    ways, attacks = tuple(chosen.ways.split(",")), tuple(chosen.attacks.split(","))
    for name, partition in DATA.items():
        found: dict[tuple[str, str], list[Outcome]] = {}
        clean: list[float] = []
        for seed in range(1, chosen.seeds + 1):
            clean.append(run(whole, partition, seed, DEFAULT, None, chosen.rounds).accuracy)
            for attack in (NOBODY, *attacks):
                for way in ways:
                    which = None if attack == NOBODY else parse_attack(attack)
                    outcome = run(whole, partition, seed, way, which, chosen.rounds)
                    found.setdefault((attack, way), []).append(outcome)
                print(f"  {name}, seed {seed}, {attack}", file=sys.stderr, flush=True)
        print("\n".join(table(name, partition, ways, attacks, found, clean)), flush=True)


def run(whole: datasets.Examples, partition: str, seed: int, way: str, attack: Attack | None, rounds: int) -> Outcome:
    """Learn once."""
    examples = smaller(whole, seed)
    shares = divided(partition, examples.y, seed)
    x, attackers = np.asarray(examples.x), ATTACKERS if attack is not None else ()
    if attack is not None and attack.on_data:
        examples, shares, x = datasets.spoil(examples, shares, x, attack, attackers)
    train, test = tensors(examples, x)
    exact = Exact(
        cap_ppm=CAP_PPM if way == DEFAULT else PPM,
        rule=None if way in (PLAIN, DEFAULT) else parse_rule(way),
        attack=attack,
        attackers=attackers,
        bound=0.0 if way == PLAIN else CLIP,
        gather=True,
    )
    experiment = Experiment(
        build=lambda: nn.Sequential(nn.Linear(SIDE * SIDE, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 10)),
        train=train,
        test=test,
        shares=shares,
        local=LocalTraining(learning_rate=RATE, batch=BATCH, epochs=EPOCHS),
        exchange=exact,
        rounds=rounds,
        seed=seed,
        tested=0,
        test_every=rounds,
        workers=1,
    )
    with Simulation(experiment) as simulation:
        for _ in range(rounds):
            last = simulation.next_round()
        assert last.average is not None, "the last round is always tested"
        opened = trigger_works(simulation.average_model(), examples) if attack and attack.name == BACK_DOOR else 0.0
        return Outcome(last.average.accuracy, opened)


def smaller(whole: datasets.Examples, seed: int) -> datasets.Examples:
    """Return a seed's draw of the pictures, each square of four pixels made one."""
    rng = np.random.default_rng(seed)
    train = rng.choice(len(whole.y), EXAMPLES, replace=False)
    test = rng.choice(len(whole.y_test), TESTED, replace=False)
    return replace(
        whole,
        x=halved(np.asarray(whole.x)[train]),
        y=whole.y[train],
        x_test=halved(np.asarray(whole.x_test)[test]),
        y_test=whole.y_test[test],
    )


def halved(x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return pictures of half the side, shape (examples, SIDE * SIDE)."""
    small = x.reshape(-1, SIDE, 2, SIDE, 2).mean(axis=(2, 4))
    return np.ascontiguousarray(small.reshape(len(x), -1), dtype=np.float32)


def divided(partition: str, y: NDArray[np.int64], seed: int) -> partitions.Partition:
    """Return who holds what."""
    if partition == "iid":
        return partitions.iid(y, SITES, seed)
    return partitions.dirichlet(y, SITES, seed, alpha=float(partition.partition(":")[2]))


def trigger_works(model: NDArray[np.float32], examples: datasets.Examples) -> float:
    """Return the share of test pictures of other digits that are taken for the target with the trigger in them."""
    others = examples.y_test != TARGET
    x = torch.from_numpy(triggered(np.asarray(examples.x_test)[others]))
    sizes = ((HIDDEN, SIDE * SIDE), (HIDDEN,), (10, HIDDEN), (10,))
    parts, at = [], 0
    for size in sizes:
        count = int(np.prod(size))
        parts.append(torch.from_numpy(model[at : at + count]).view(size))
        at += count
    answers = torch.relu(x @ parts[0].T + parts[1]) @ parts[2].T + parts[3]
    return float((answers.argmax(1) == TARGET).float().mean())


def table(
    name: str,
    partition: str,
    ways: Sequence[str],
    attacks: Sequence[str],
    found: dict[tuple[str, str], list[Outcome]],
    clean: Sequence[float],
) -> Iterator[str]:
    """Yield the lines for one way of dividing the data."""
    yield ""
    yield (
        f"Sites {name} ({partition}); nobody attacks, default: {100 * statistics.mean(clean):.1f} %. Points from there,"
        f" mean (worst) of {len(clean)} seeds; {len(ATTACKERS)} of {SITES} attack"
    )
    yield f"| attack | {' | '.join(ways)} |"
    yield "|---|" + "---|" * len(ways)
    rows: list[tuple[str, str, Callable[[Outcome, float], float]]] = [
        (attack, attack, lambda outcome, usual: 100 * (outcome.accuracy - usual)) for attack in (NOBODY, *attacks)
    ]
    if BACK_DOOR in attacks:
        rows.append(("the trigger works, %", BACK_DOOR, lambda outcome, _: 100 * outcome.opened))
    for words, attack, figure in rows:
        cells = []
        for way in ways:
            values = [figure(outcome, usual) for outcome, usual in zip(found[attack, way], clean, strict=True)]
            worst = max(values) if words != attack else min(values)
            sign = "" if words != attack else "+"
            cells.append(f"{statistics.mean(values):{sign}.1f} ({worst:{sign}.1f})")
        yield f"| {words} | {' | '.join(cells)} |"


if __name__ == "__main__":
    main()
