"""What gossip in fewer bytes costs: accuracy and bytes of every codec beside float32, as a table in Markdown.

    PYTHONPATH=. python scripts/compressed_gossip.py [--rounds 40] [--seeds 1 2 3] [--codecs ...] [--gammas ...]

16 sites learn the packaged digits at learning speed (`swarm simulate`), over a ring and the exponential graph, their
data IID and by Dirichlet(0.3), otherwise as `swarm simulate` does by default. Nothing is lost, so what travels is what
the node would send (`swarm.mixing.compress.choco`; bf16 without memory). For each codec, mean and range over the seeds:

- *own*: the mean accuracy of the sites' own models before the round that averages them all, which is what a site has in
  hand while gossip goes on;
- *merged*: the accuracy of the one model that the last round makes;
- *apart*: the root mean squared distance of the models from their mean before that round;
- *kB*: what a site sends in an exchange, headers included, models and messages alone, and in parts of float32.

`--gammas` repeats a codec with other steps than its own.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from node.simulation.compare import Comparison
from node.simulation.results import Run
from topologies.scenario import Learning, plain

SITES = 16
CODECS = ("", "bf16", "int8", "int4", "topk:100", "topk:50", "sign")
TOPOLOGIES = ("ring", "exponential")
PARTITIONS = ("iid", "dirichlet:0.3")


@dataclass(frozen=True, slots=True)
class Seen:
    """One run: accuracy of own models, mean over sites, and of the merged one; distance; bytes of a site's exchange."""

    own: float
    merged: float
    apart: float
    sent: float


def seen(run: Run) -> Seen:
    """Read a finished run: its last round averages all models, the one before is the last of gossip."""
    before, last = run.rounds[-2:]
    own, merged, apart = before.accuracy_mean, last.average_accuracy, before.consensus_distance
    if own is None or merged is None or apart is None:
        raise SystemExit("couldn't read a run: its last rounds were not tested")
    return Seen(own, merged, apart, before.bytes_total / (len(run.rounds) - 1) / SITES)


def play(learning: Learning) -> Iterator[Run]:
    """Run both topologies over all seeds."""
    scenario = replace(plain(SITES), topologies=TOPOLOGIES, learning=learning)
    with tempfile.TemporaryDirectory() as folder:
        yield from Comparison(scenario, ("learning",), Path(folder)).play()


def spread(values: Sequence[float], form: str) -> str:
    """Mean and range."""
    mean, low, high = (format(value, form) for value in (statistics.mean(values), min(values), max(values)))
    return mean if low == high else f"{mean} ({low} to {high})"


def main() -> None:
    """Print the table as it grows."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--rounds", type=int, default=40)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--codecs", nargs="+", default=list(CODECS))
    options.add_argument("--gammas", type=float, nargs="+", default=[0.0], help="0 is the codec's own")
    options.add_argument("--partitions", nargs="+", default=list(PARTITIONS))
    chosen = options.parse_args()
    print("| data | topology | codec | gamma | own % | merged % | apart | kB an exchange | of float32 |")
    print("|---|---|---|---|---|---|---|---|---|")
    for partition in chosen.partitions:
        whole: dict[str, float] = {}
        for codec, gamma in [(codec.strip("-"), gamma) for codec in chosen.codecs for gamma in chosen.gammas]:
            learning = Learning(
                partition=partition,
                rounds=chosen.rounds,
                seeds=tuple(chosen.seeds),
                codec=codec,
                gamma=gamma or None,
                tested=0,
            )
            found: dict[str, list[Seen]] = {}
            for run in play(learning):
                found.setdefault(run.topology, []).append(seen(run))
            for topology, runs in found.items():
                sent = statistics.mean(one.sent for one in runs) / 1e3
                whole.setdefault(topology, sent)
                cells = (
                    partition,
                    topology,
                    codec or "float32",
                    f"{learning.step:g}",
                    spread([100 * one.own for one in runs], ".1f"),
                    spread([100 * one.merged for one in runs], ".1f"),
                    spread([one.apart for one in runs], ".2g"),
                    f"{sent:.3g}",
                    f"{sent / whole[topology]:.3f}",
                )
                print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
