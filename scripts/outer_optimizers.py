"""What the outer optimiser is worth where data differ: accuracy and rounds of each, as a table in Markdown.

    PYTHONPATH=. python scripts/outer_optimizers.py [--data digits] [--partition shards:2] [--rounds 40]
        [--epochs 1] [--batch 8] [--seeds 1 2 3] [--tuning-seeds 11 12] [--outers ...] [--target 0.9]

16 sites average exactly, at learning speed (`swarm simulate`): everybody in every round, nothing lost, no clipping. For
each optimiser the numbers of the grid below are tried on the tuning seeds, and those with the highest mean accuracy
over all rounds, which rewards what is quick and what is good in the end, are run on the seeds of the table:

- *half way*, *at the end*: accuracy of the common model on the held-out examples, mean and range over the seeds;
- *rounds to target*: the first round that reaches it, or "-".

With --outers only those are run, as they are written, and nothing is tuned.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from node.simulation.compare import Comparison
from topologies.scenario import Learning, plain

SITES = 16

BALL = [f"{beta},{rate}" for beta, rate in itertools.product(("0.5", "0.7", "0.9"), ("0.3", "0.7", "1", "1.5"))]
ADAPTIVE = [f"{rate},{beta1}" for rate, beta1 in itertools.product(("0.01", "0.03", "0.1", "0.3"), ("0.5", "0.9"))]
AGGREGATE = [f"{rate},{beta1}" for rate, beta1 in itertools.product(("0.01", "0.03", "0.1", "0.3"), ("0", "0.9"))]

GRID = {
    "none": [""],
    "fedavgm": BALL,
    "nesterov": BALL,
    "fedadam": ADAPTIVE,
    "fedyogi": ADAPTIVE,
    "fedadagrad": AGGREGATE,
}
"""What is tried, by the charter's text: beta and rate; rate and beta1, the others as in the paper."""


def curves(learning: Learning, outer: str, seeds: Sequence[int]) -> list[list[float]]:
    """Return the accuracy after each round, by seed."""
    scenario = replace(
        plain(SITES), topologies=("complete",), learning=replace(learning, outer=outer, seeds=tuple(seeds))
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = Comparison(scenario, ("learning",), Path(folder), workers=1).play()
        return [[one.average_accuracy or 0.0 for one in run.rounds] for run in runs]


def tuned(learning: Learning, name: str, seeds: Sequence[int]) -> str:
    """Return the best of the grid by mean accuracy over all rounds and seeds, and print what was tried."""
    worth = {}
    for numbers in GRID[name]:
        text = f"{name}:{numbers}" if numbers else name
        worth[text] = statistics.mean(statistics.mean(curve) for curve in curves(learning, text, seeds))
        print(f"  tried {text}: {100 * worth[text]:.1f}", flush=True)
    return max(worth, key=lambda text: worth[text])


def spread(values: Sequence[float]) -> str:
    """Mean and range, in per cent."""
    mean, low, high = (f"{100 * value:.1f}" for value in (statistics.mean(values), min(values), max(values)))
    return f"{mean} ({low} to {high})"


def main() -> None:
    """Tune, then print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--data", default="digits")
    options.add_argument("--partition", default="shards:2")
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--epochs", type=int, default=1)
    options.add_argument("--batch", type=int, default=8)
    options.add_argument("--lr", type=float, default=0.1)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--tuning-seeds", type=int, nargs="+", default=[11, 12])
    options.add_argument("--outers", nargs="+", default=[])
    options.add_argument("--target", type=float, default=0.9)
    chosen = options.parse_args()
    learning = Learning(
        data=chosen.data,
        partition=chosen.partition,
        rounds=chosen.rounds,
        local_epochs=chosen.epochs,
        batch=chosen.batch,
        learning_rate=chosen.lr,
        mixing="exact",
        tested=1,
    )
    texts = chosen.outers or [tuned(learning, name, chosen.tuning_seeds) for name in GRID]
    print(f"| outer optimiser | half way % | at the end % | rounds to {100 * chosen.target:g} % |")
    print("|---|---|---|---|")
    for text in texts:
        found = curves(learning, text, chosen.seeds)
        first = [next((r for r, a in enumerate(curve, 1) if a >= chosen.target), None) for curve in found]
        reached = ", ".join("-" if one is None else str(one) for one in first)
        half, end = spread([curve[chosen.rounds // 2 - 1] for curve in found]), spread([curve[-1] for curve in found])
        print(f"| `{text}` | {half} | {end} | {reached} |", flush=True)


if __name__ == "__main__":
    main()
