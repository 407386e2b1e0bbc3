"""Rounds of averaging until a swarm agrees, beside the table of the Moshpit authors' notebook.

    PYTHONPATH=. python scripts/published_moshpit.py [--nodes 512 768 900] [--restarts 10] [--placements 20]

Ryabinin, Gorbunov, Plokhotnyuk & Pekhimenko, "Moshpit SGD: communication-efficient decentralized training on
heterogeneous unreliable devices" (NeurIPS 2021); the figures are the printed output of `plot_results.ipynb` in
github.com/yandex-research/moshpit-sgd, folder averaging_experiments. Each of n nodes begins with a number drawn from
N(0, 1). In every round each node fails with probability p, on its own: it neither gives nor takes. A run ends when
the variance over the nodes, failed ones included, is below 1e-9 (in brackets: 1e-4), or after 50 rounds, which count as
50. Means over 10 restarts.

First table, the notebook's methods in its own settings. Its restarts draw from NumPy's legacy generator seeded with 0
to 9, so the same values and the same failures can be drawn here, and wherever the method is known the means must agree
to the digit printed:

- *all-reduce*: the mean of all, in rounds in which nobody fails;
- *gossip*: a ring, 1/3 for oneself and each neighbour;
- *SGP*: 1/3 for oneself and two nodes ahead by powers of two that change from round to round, beginning with 2 and 4;
  no push-sum weights. Its matrices are made by rolling a flattened diagonal, so where the ring closes a share lands one
  row too low: rows no longer have three shares each, and columns do not sum to 1. *circulant* is what was meant;
- *random groups*: the nodes that are up, shuffled, in groups of 32 whose mean all members take;
- *Moshpit*: a grid of 32 x 32, nodes on places drawn at random, means along one axis and then the other. The places
  were drawn before the seed was set and cannot be known: here `--placements` drawings, their mean and range.

Under failures the notebook divides every row by what is left of it.

Second table, the product's schedules under the same values and failures, a failed pair skipped on both sides. Beside
each of them, as in the first table, how far the mean has moved when a run ends, in deviations of the beginning (root
mean square over restarts): the variance, which is measured about the present mean, does not show it.
"""

import argparse
import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from topologies import families, schedules
from topologies.mixing import Mixing, Schedule

ROUNDS_MAX = 50
FINE, COARSE = 1e-9, 1e-4
SIDE = 32

METHODS = ("all-reduce", "gossip", "SGP", "random groups", "Moshpit")
PUBLISHED: dict[tuple[int, float], str] = {
    (512, 0): "1.0 (1.0) 50.0 (50.0) 47.6 (15.6) 6.1 (3.0) 8.2 (3.6)",
    (512, 0.001): "1.6 (1.6) 50.0 (50.0) 47.6 (15.6) 6.3 (3.0) 8.5 (3.3)",
    (512, 0.005): "10.9 (10.9) 50.0 (50.0) 47.8 (15.6) 6.3 (3.0) 8.8 (3.9)",
    (512, 0.01): "41.7 (41.7) 50.0 (50.0) 47.8 (15.6) 6.6 (3.0) 8.8 (3.9)",
    (768, 0): "1.0 (1.0) 50.0 (50.0) 43.2 (13.8) 6.2 (3.0) 6.0 (3.0)",
    (768, 0.001): "1.8 (1.8) 50.0 (50.0) 43.2 (13.8) 6.5 (3.0) 6.0 (3.0)",
    (768, 0.005): "28.7 (28.7) 50.0 (50.0) 43.2 (14.1) 6.6 (3.0) 6.6 (3.0)",
    (768, 0.01): "50.0 (50.0) 50.0 (50.0) 43.9 (14.2) 7.0 (3.0) 6.9 (3.0)",
    (900, 0): "1.0 (1.0) 50.0 (50.0) 45.0 (14.7) 6.4 (3.0) 5.0 (2.9)",
    (900, 0.001): "1.8 (1.8) 50.0 (50.0) 45.0 (14.7) 6.3 (3.0) 5.1 (2.9)",
    (900, 0.005): "50.0 (50.0) 50.0 (50.0) 45.2 (14.7) 6.7 (3.0) 5.9 (3.1)",
    (900, 0.01): "50.0 (50.0) 50.0 (50.0) 45.6 (14.9) 7.0 (3.1) 6.5 (3.0)",
}
"""(nodes, p) -> for each method, mean rounds to 1e-9 and, in brackets, to 1e-4."""

Values = NDArray[np.float64]
Up = NDArray[np.bool_]
Step = Callable[[Values, Up, int, np.random.RandomState], Values]
"""(values, who is up, round from 1, the restart's generator) -> values."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Mean rounds to `FINE` and to `COARSE`, and how far the mean moved (see the top)."""

    fine: float
    coarse: float
    moved: float

    def __str__(self) -> str:
        return f"{self.fine:.1f} ({self.coarse:.1f})"


def main() -> None:
    """Print both tables."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--nodes", type=int, nargs="+", choices=[512, 768, 900], default=[512, 768, 900])
    options.add_argument("--restarts", type=int, default=10)
    options.add_argument("--placements", type=int, default=20, help="drawings of who has which place in the grid")
    chosen = options.parse_args()
    settings = [(n, p) for n, p in PUBLISHED if n in chosen.nodes]
    notebook(settings, chosen.restarts, chosen.placements)
    product(settings, chosen.restarts)


def notebook(settings: list[tuple[int, float]], restarts: int, placements: int) -> None:
    """Print the notebook's methods, theirs above ours."""
    columns = (*METHODS, "SGP, circulant")
    print(f"{'nodes':>5}  {'p':>5}  {'':<6}  " + "  ".join(f"{name:>14}" for name in columns))
    same = cells = 0
    for n, p in settings:
        theirs = re.findall(r"\S+ \(\S+\)", PUBLISHED[n, p])
        ring = [schedules.static(families.ring(n)).mixing(0)]
        steps = (all_reduce, mixed(ring, renormalised), mixed(rolled(n, flat=True), renormalised), random_groups)
        outcomes = [rounds(step, n, p, restarts) for step in steps]
        places = [placed(n, drawing, p, restarts) for drawing in range(placements)]
        circulant = rounds(mixed(rolled(n, flat=False), renormalised), n, p, restarts)
        ours = [*map(str, outcomes), str(mean(places)), str(circulant)]
        moved = [*(outcome.moved for outcome in outcomes), mean(places).moved, circulant.moved]
        same += sum(a == b for a, b in zip(theirs[:4], ours[:4], strict=True))
        cells += 4
        spread = f"{min(one.fine for one in places):.1f} to {max(one.fine for one in places):.1f}"
        print(f"{n:>5}  {p:>5}  theirs  " + "  ".join(f"{cell:>14}" for cell in [*theirs, "-"]))
        print(f"{'':>5}  {'':>5}  ours    " + "  ".join(f"{cell:>14}" for cell in ours) + f"   Moshpit {spread}")
        print(f"{'':>5}  {'':>5}  moved   " + "  ".join(f"{one:>14.4f}" for one in moved), flush=True)
    print(f"\nEqual to the digit printed, Moshpit apart: {same} of {cells} cells.")


def product(settings: list[tuple[int, float]], restarts: int) -> None:
    """Print the product's schedules in the same settings."""
    made: dict[str, Callable[[int], Schedule]] = {
        "ring": lambda n: schedules.static(families.ring(n)),
        "matching": schedules.random_matching,
        "base2": lambda n: schedules.base(n, 1),
        "base5": lambda n: schedules.base(n, 4),
        "base32": lambda n: schedules.base(n, SIDE - 1),
        "moshpit 32": lambda n: schedules.moshpit(n, SIDE),
    }
    print(f"\n{'nodes':>5}  {'p':>5}  {'':<6}  " + "  ".join(f"{name:>11}" for name in made))
    known: dict[int, list[Step]] = {}
    for n, p in settings:
        if n not in known:
            known[n] = [mixed(from_round_one(build(n)), skipped) for build in made.values()]
        outcomes = [rounds(step, n, p, restarts) for step in known[n]]
        print(f"{n:>5}  {p:>5}  rounds  " + "  ".join(f"{one!s:>11}" for one in outcomes))
        print(f"{'':>5}  {'':>5}  moved   " + "  ".join(f"{one.moved:>11.0e}" for one in outcomes), flush=True)


def mean(outcomes: list[Outcome]) -> Outcome:
    """Return the mean of several drawings."""
    return Outcome(*(statistics.fmean(getattr(one, name) for one in outcomes) for name in ("fine", "coarse", "moved")))


# --- the experiment -------------------------------------------------------------------------------------------------


def rounds(step: Step, n: int, p: float, restarts: int) -> Outcome:
    """Average until the nodes agree, in each restart."""
    runs = [run(step, n, p, seed) for seed in range(restarts)]
    fine, coarse, moved = zip(*runs, strict=True)
    return Outcome(statistics.fmean(fine), statistics.fmean(coarse), float(np.sqrt(np.mean(np.square(moved)))))


def run(step: Step, n: int, p: float, seed: int) -> tuple[int, int, float]:
    """Return (rounds to FINE, rounds to COARSE, shift of the mean) of one restart, with the notebook's draws."""
    dice = np.random.RandomState(seed)
    x = dice.normal(0, 1, n)
    start, deviation = x.mean(), x.std()
    coarse, spent = ROUNDS_MAX, 0
    while spent < ROUNDS_MAX and x.var() >= FINE:
        spent += 1
        up = dice.uniform(0, 1, n) >= p
        x = step(x, up, spent, dice)
        if x.var() < COARSE:
            coarse = min(coarse, spent)
    return spent, coarse, float((x.mean() - start) / deviation)


def mixed(matrices: Sequence[Mixing], rule: Callable[[Mixing, Up], Values]) -> Step:
    """Return the step x <- W(t) x, W's weights as `rule` leaves them when some nodes have failed.

    Round t has the matrix t modulo their number, so as rounds count from 1 the notebook begins with the second.
    """

    def step(x: Values, up: Up, t: int, _: np.random.RandomState) -> Values:
        w = matrices[t % len(matrices)]
        return np.add.reduceat(rule(w, up) * x[w.sources], w.starts[:-1])

    return step


def from_round_one(schedule: Schedule) -> list[Mixing]:
    """Return a schedule's rounds for `mixed`, so that round 1 has its first."""
    first, *rest = schedule.mixings(schedule.period or ROUNDS_MAX)
    return [*rest[-1:], first, *rest[:-1]] if rest else [first]


def renormalised(w: Mixing, up: Up) -> Values:
    """Divide each row by what is left of it: rows sum to 1 again, columns do not, and the mean moves."""
    kept = left(w, up)
    return kept / np.add.reduceat(kept, w.starts[:-1])[w.owners]


def skipped(w: Mixing, up: Up) -> Values:
    """Give each lost share back to the one who would have received it (`swarm.mixing.gossip.without`).

    W is symmetric, so both ends do it and columns still sum to 1.
    """
    kept = left(w, up)
    own = w.owners == w.sources
    kept[own] += 1 - np.add.reduceat(kept, w.starts[:-1])
    return kept


def left(w: Mixing, up: Up) -> Values:
    """Return the weights, 0 between different nodes of which one has failed."""
    owners = w.owners
    return np.where((up[owners] & up[w.sources]) | (owners == w.sources), w.weights, 0.0)


# --- the notebook's methods -----------------------------------------------------------------------------------------


def all_reduce(x: Values, up: Up, _: int, __: np.random.RandomState) -> Values:
    """Everybody has the mean, or, if one has failed, nobody anything new."""
    return np.full_like(x, x.mean()) if up.all() else x


def random_groups(x: Values, up: Up, _: int, dice: np.random.RandomState) -> Values:
    """Shuffle those that are up, cut off groups of SIDE, deal the rest to the groups one by one, take group means."""
    order = np.flatnonzero(up)
    dice.shuffle(order)
    whole = len(order) // SIDE
    group = np.concatenate([np.repeat(np.arange(whole), SIDE), np.arange(whole * SIDE, len(order)) % whole])
    means = np.bincount(group, x[order]) / np.bincount(group)
    result = x.copy()
    result[order] = means[group]
    return result


def placed(n: int, drawing: int, p: float, restarts: int) -> Outcome:
    """Moshpit with nodes on places drawn at random: the product's full grid, in which empty places always fail."""
    grid = list(schedules.moshpit(SIDE * SIDE, SIDE).mixings(2))
    averaged = mixed(grid, renormalised)
    where = np.random.default_rng(drawing).choice(SIDE * SIDE, n, replace=False)

    def step(x: Values, up: Up, t: int, dice: np.random.RandomState) -> Values:
        values, present = np.zeros(SIDE * SIDE), np.zeros(SIDE * SIDE, dtype=bool)
        values[where], present[where] = x, up
        return averaged(values, present, t, dice)[where]

    return rounds(step, n, p, restarts)


def rolled(n: int, *, flat: bool) -> list[Mixing]:
    """Return the notebook's SGP matrices: shares of oneself and of the nodes 2^h and 2^(h+1) ahead, h = 0, 1, ...

    `flat` rolls the diagonal of the flattened matrix, as NumPy does without an axis: whatever passes the last column
    comes out one row down. Else they are circulant.
    """
    matrices = []
    for power in range(int(np.floor(np.log2(n - 1)))):
        w = np.eye(n)
        for hop in (1 << power, 2 << power):
            w += np.roll(np.eye(n), hop, axis=None if flat else 1)
        matrices.append(Mixing.from_dense(w / w.sum(axis=1, keepdims=True)))
    return matrices


if __name__ == "__main__":
    main()
