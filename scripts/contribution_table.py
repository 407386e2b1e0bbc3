"""What planted sites are given: noise, a copy and a free rider among five good ones, as a table in Markdown.

    PYTHONPATH=. python scripts/contribution_table.py [--seeds 1 2 3] [--rounds 8] [--epochs 20] [--measures ...]

Eight real nodes in the simulated world learn scikit-learn's digits (`tests.simulation.planted`), judge each other by
each measure within the charter's 20 % of their training time, and the ledger settles shares. For each measure:

- *share*: what the ledger settles, in percent, mean and range over the seeds; an equal share is 12.5;
- *ranked*: in how many seeds the noisy site and the free rider have the two smallest shares;
- *cost*: models judged by all sites, also where nothing came of it, times the processor time of one, over the processor
  time of all training;
- *alone*: site 0's share where the copy is left out, beside what the two have together where it is in. More for two
  than for one is what replication gains.

Nothing here is timed on the wall clock, and the two times are of the same process.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from tests.simulation.planted import COPY, EIGHT, GOOD, IDLE, NOISY, play, ranked

MEASURES = (
    "shapley:accuracy:higher:20",
    "shapley:loss:lower:20",
    "loo:accuracy:higher:20",
    "loo:loss:lower:20",
)
SHARE_EQUAL = 100 / len(EIGHT)


def spread(values: Sequence[float]) -> str:
    """Return mean and range."""
    mean = sum(values) / len(values)
    return f"{mean:.1f} ({min(values):.1f} to {max(values):.1f})"


def main() -> None:
    """Print the table."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    options.add_argument("--rounds", type=int, default=8)
    options.add_argument("--epochs", type=int, default=20)
    options.add_argument("--measures", nargs="+", default=list(MEASURES))
    chosen = options.parse_args()
    more = {"rounds": chosen.rounds, "epochs": chosen.epochs}
    print(f"seeds {chosen.seeds}, {chosen.rounds} rounds, {chosen.epochs} local epochs, equal share {SHARE_EQUAL}\n")
    print(f"| measure | good sites | site 0 | its {COPY.split()[0]} | {NOISY} | {IDLE} | ranked | cost | models | gaps"
          " | alone | two together |")  # fmt: skip
    print("|---|---|---|---|---|---|---|---|---|---|---|---|")
    for measure in chosen.measures:
        runs = [play(measure, seed, **more) for seed in chosen.seeds]
        without = [play(measure, seed, kinds=tuple(k for k in EIGHT if k != COPY), **more) for seed in chosen.seeds]
        by_kind = {kind: EIGHT.index(kind) for kind in (NOISY, COPY, IDLE)}
        good = [run.shares[i] for run in runs for i, kind in enumerate(EIGHT) if kind == GOOD and i]
        cells = [
            spread(good),
            spread([run.shares[0] for run in runs]),
            *(spread([run.shares[by_kind[kind]] for run in runs]) for kind in (COPY, NOISY, IDLE)),
            f"{sum(ranked(run.shares) for run in runs)} of {len(runs)}",
            f"{max(run.cost for run in runs):.1%} at most",
            f"{sum(run.judged for run in runs) / len(runs):.0f}",
            f"{sum(run.gaps for run in runs)}",
            spread([run.shares[0] for run in without]),
            spread([run.shares[0] + run.shares[by_kind[COPY]] for run in runs]),
        ]
        print(f"| {measure} | {' | '.join(cells)} |", flush=True)
        accuracy = [run.accuracy for run in runs]
        print(
            f"<!-- accuracy on 297 examples that no site has: {spread([100 * a for a in accuracy])} % -->", flush=True
        )


if __name__ == "__main__":
    main()
