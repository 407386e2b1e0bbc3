"""Gradient-boosted trees, one level of a tree a round, equal to boosting on the pooled data up to how they are binned.

A split of a node needs, per feature and bin, the sums of the loss's gradients and Hessians over all samples there
(XGBoost: Chen and Guestrin 2016, section 3; the histogram form: LightGBM, Ke et al. 2017). Those are sums over sites. A
site's sums over its own n_i samples, divided by n_i, and weighted by n_i in the swarm's mean, are the pooled sums over
N = sum n_i, divided by N: no rule of tree boosting notices that the data are in several places. So the update carries
the histograms, the mean of them is the swarm's, and every site derives the same splits from the same bytes.

**The state** is a dict of float32 arrays, with F features, B bins, T trees of depth D:

=========  ========================  ==============================================================================
`clock`    (2,)                      levels done, and a number that only fits this many: see `_check_clock`
`grid`     (F, GRID)                 how much of the swarm's samples lies in each cell, written in the first round
`feature`  (T, 2^D - 1)              of each inner node, (index + 1) / 4096; 0 where a node does not split
`cut`      (T, 2^D - 1)              (bin + 1) / 4096: samples up to this bin go left
`leaf`     (T, 2^D)                  what each leaf adds to the log-odds
`sums`     (2^(D-1), F, B, 2)        the last level's mean gradients and Hessians, by node, feature and bin
=========  ========================  ==============================================================================

Round 1 writes the grid; round 1 + tD + d the level d of tree t, from 0. A round first reads what the last one has
summed (`_absorb`), writes the splits, the same at every site, and then its own sums over what was there. Indices are
written in steps of 2^-12, which the mean gives back exactly: equal updates have that mean, in integers
(`swarm.mixing.average`), and small numbers keep an update's norm below any bound that a charter would have.

**Bins** are agreed without a raw value leaving a site: a grid of cells that is the same for all data, even in
asinh(value / scale), and the swarm's quantiles among its cells as edges. A cell is about 4 % of a value wide.

**What it asks of the charter**: exact mixing, everybody's work in the round it is for (`--staleness 0`), no outer
optimiser. Sums of another level would make nonsense; the clock finds them and training stops in words.

What others can learn: a node's sums are sums over a site's patients in it, of which there may be few. Nothing here
hides that; it is what clipping, and what hides single updates, are for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Whole: TypeAlias = NDArray[np.int64]
State: TypeAlias = dict[str, NDArray[np.float32]]

GRID = 1024
"""Cells of a feature's grid."""

GRID_REACH = 21.5
"""It goes from -sinh(21.5) scales to +sinh(21.5), a thousand million."""

STEP = 2.0**-12
"""Of an index as it is written."""

PHASES = 251
"""A prime: the clock's second hand repeats after so many levels."""

TICK_SLACK = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Boosting:
    """A plan for boosted trees with the logistic loss. What all sites must agree on; nothing of it is learned.

    Attributes:
        features: F, at most 4095.
        trees: T.
        depth: D, of each tree.
        bins: B, 2 to 4095.
        rate: Shrinkage of each tree's leaves.
        l2: Added to a leaf's mean Hessian, as a share of all samples: 1e-4 is XGBoost's lambda = 1 for 10,000.
        hessian_min: A child has at least this mean Hessian, in the same unit.
        scales: Per feature, the size below which its values need not be told apart by their ratio; 1 for all if empty.
    """

    features: int
    trees: int
    depth: int = 3
    bins: int = 64
    rate: float = 0.2
    l2: float = 1e-4
    hessian_min: float = 1e-3
    scales: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what cannot be written or cannot be learned."""
        sizes = (
            ("features", self.features, 4095),
            ("trees", self.trees, 100_000),
            ("depth", self.depth, 12),
            ("bins", self.bins, 4095),
        )
        for name, value, most in sizes:
            least = 2 if name == "bins" else 1
            if not least <= value <= most:
                raise UsageError(f"couldn't plan boosting: {name} = {value}", hint=f"choose {least} to {most}")
        if not self.l2 > 0 or not self.rate > 0:
            raise UsageError(
                f"couldn't plan boosting: l2 = {self.l2} and rate = {self.rate}",
                hint="both must be above 0",
            )
        if self.scales and (len(self.scales) != self.features or min(self.scales) <= 0):
            raise UsageError(
                f"couldn't plan boosting: {len(self.scales)} scales for {self.features} features, or one not above 0",
                hint="give each feature its own, or none",
            )

    @property
    def rounds(self) -> int:
        """How many rounds the charter should have: one for the bins, and one a level."""
        return 1 + self.trees * self.depth

    def initial(self) -> State:
        """Return the state to start from: all zero."""
        inner, width = 2**self.depth - 1, 2 ** (self.depth - 1)
        shapes: dict[str, tuple[int, ...]] = {
            "clock": (2,),
            "grid": (self.features, GRID),
            "feature": (self.trees, inner),
            "cut": (self.trees, inner),
            "leaf": (self.trees, inner + 1),
            "sums": (width, self.features, self.bins, 2),
        }
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}

    def work(self, state: State, x: NDArray[np.floating], y: NDArray[np.number]) -> None:
        """Do a site's part of a round, in place.

        Args:
            state: What the round starts from.
            x: Shape (n, F), finite; a missing value is whatever finite number all sites write for it.
            y: Shape (n,), 0 or 1.

        Raises:
            UsageError: the data do not fit the plan, or the swarm has mixed levels.
        """
        x, y = self._checked(x, y)
        done = _check_clock(state)
        self._absorb(state, done)
        if done == 0:
            cells = self._cells(x)
            for feature in range(self.features):
                state["grid"][feature] = np.bincount(cells[:, feature], minlength=GRID) / len(x)
        elif done < self.rounds:
            self._add_sums(state, done - 1, x, y)
        if done < self.rounds:
            state["clock"][...] = (done + 1) * STEP, _tick(done + 1)

    def score(self, state: Mapping[str, NDArray[np.float32]], x: NDArray[np.floating]) -> Floats:
        """Return the log-odds of each row, shape (n,). Also of a state on the way: with the trees there are."""
        x, _ = self._checked(x, None)
        absorbed = {name: array.copy() for name, array in state.items()}
        done = _check_clock(absorbed)
        self._absorb(absorbed, done)
        if done < 2:
            return np.zeros(len(x))
        return self._scores(absorbed, self._binned(absorbed, x), (done - 1) // self.depth)

    # --- what all sites do alike ------------------------------------------------------------------------------------

    def _absorb(self, state: State, done: int) -> None:
        """Turn the sums of the level that was done last into its splits and, of a tree's last level, into leaves.

        All of it is element-wise: every processor gets the same bytes from the same bytes.
        """
        if done < 2:
            return
        tree, level = divmod(done - 2, self.depth)
        nodes = 2**level
        sums = state["sums"][:nodes].astype(np.float64)
        # Prefix sums over bins, one addition after the other; the last is the node's total, the same for any feature.
        left = sums.copy()
        for bin_ in range(1, self.bins):
            left[:, :, bin_] += left[:, :, bin_ - 1]
        total = left[:, :1, -1:]
        right = total - left
        gain = _gain(left, self.l2) + _gain(right, self.l2) - _gain(total, self.l2)
        usable = (left[..., 1] >= self.hessian_min) & (right[..., 1] >= self.hessian_min)
        gain[~usable] = 0.0
        gain[:, :, -1] = 0.0
        flat = gain.reshape(nodes, -1)
        best = flat.argmax(axis=1)  # The first of equals: the lowest feature, then the lowest bin.
        found = np.take_along_axis(flat, best[:, None], 1)[:, 0] > 0.0
        feature, cut = np.divmod(best, self.bins)
        place = slice(nodes - 1, 2 * nodes - 1)
        state["feature"][tree, place] = np.where(found, feature + 1, 0) * STEP
        state["cut"][tree, place] = np.where(found, cut + 1, 0) * STEP
        if level + 1 == self.depth:
            node = np.arange(nodes)
            sides = np.stack([left[node, feature, cut], right[node, feature, cut]], axis=1)
            sides[~found] = total[~found, 0]  # Without a split all goes left, and the right is never reached.
            values = -self.rate * sides[..., 0] / (sides[..., 1] + self.l2)
            state["leaf"][tree] = values.reshape(-1)

    def _edges(self, grid: NDArray[np.float32]) -> Whole:
        """Return per feature the B - 1 cells that end a bin, shape (F, B - 1): the swarm's quantiles."""
        below = grid.astype(np.float64)
        for cell in range(1, GRID):
            below[:, cell] += below[:, cell - 1]
        shares = np.arange(1, self.bins) / self.bins
        # The first cell up to which at least such a share lies; half a millionth for the rounding of the mean.
        return np.stack([np.searchsorted(row, shares - 5e-7) for row in below])

    # --- what a site does with its own data -------------------------------------------------------------------------

    def _checked(
        self, x: NDArray[np.floating], y: NDArray[np.number] | None
    ) -> tuple[NDArray[np.floating], NDArray[np.number]]:
        if x.ndim != 2 or x.shape[1] != self.features or not len(x):
            raise UsageError(
                f"couldn't use data of shape {x.shape}: the plan is for rows of {self.features} features",
                hint="every site needs the same columns in the same order",
            )
        if not np.isfinite(x).all():
            raise UsageError(
                "couldn't use the data: there are values that are not finite",
                hint="write the same number for a missing value at all sites, as -1",
            )
        labels = np.zeros(len(x)) if y is None else np.asarray(y)
        if labels.shape != (len(x),) or not np.isin(labels, (0, 1)).all():
            raise UsageError("couldn't use the labels: each row needs one, 0 or 1", hint="convert them")
        return x, labels

    def _cells(self, x: NDArray[np.floating]) -> Whole:
        """Return each value's cell of the grid, shape (n, F)."""
        scales = np.asarray(self.scales or (1.0,) * self.features)
        place = np.arcsinh(np.asarray(x, np.float64) / scales) / GRID_REACH
        cells: Whole = np.clip(np.floor((place + 1.0) * (GRID / 2)), 0, GRID - 1).astype(np.int64)
        return cells

    def _binned(self, state: Mapping[str, NDArray[np.float32]], x: NDArray[np.floating]) -> Whole:
        """Return each value's bin, shape (n, F)."""
        cells, edges = self._cells(x), self._edges(state["grid"])
        return np.stack([np.searchsorted(edges[f], cells[:, f], side="left") for f in range(self.features)], axis=1)

    def _node(self, state: Mapping[str, NDArray[np.float32]], bins: Whole, tree: int, levels: int) -> Whole:
        """Return in which node of a level each row is, from 0, shape (n,)."""
        place = np.zeros(len(bins), np.int64)
        rows = np.arange(len(bins))
        for level in range(levels):
            at = place + 2**level - 1
            feature = np.rint(state["feature"][tree, at] / STEP).astype(np.int64) - 1
            cut = np.rint(state["cut"][tree, at] / STEP).astype(np.int64) - 1
            right = (feature >= 0) & (bins[rows, np.maximum(feature, 0)] > cut)
            place = 2 * place + right
        return place

    def _scores(self, state: Mapping[str, NDArray[np.float32]], bins: Whole, trees: int) -> Floats:
        scores = np.zeros(len(bins))
        for tree in range(trees):
            scores += state["leaf"][tree, self._node(state, bins, tree, self.depth)]
        return scores

    def _add_sums(self, state: State, index: int, x: NDArray[np.floating], y: NDArray[np.number]) -> None:
        """Write this site's mean gradients and Hessians of level `index`, counted over all trees from 0."""
        tree, level = divmod(index, self.depth)
        bins = self._binned(state, x)
        chance = 1.0 / (1.0 + np.exp(-self._scores(state, bins, tree)))
        place = self._node(state, bins, tree, level)
        parts = (chance - y) / len(x), chance * (1.0 - chance) / len(x)
        state["sums"][...] = 0.0
        for feature in range(self.features):
            cell = place * self.bins + bins[:, feature]
            for which, part in enumerate(parts):
                counted = np.bincount(cell, weights=part, minlength=2**level * self.bins)
                state["sums"][: 2**level, feature, :, which] = counted.reshape(2**level, self.bins)


def _gain(sums: Floats, l2: float) -> Floats:
    """Return G^2 / (H + lambda), shape of all but the last axis (Chen and Guestrin 2016, equation 6)."""
    return sums[..., 0] * sums[..., 0] / (np.maximum(sums[..., 1], 0.0) + l2)


def _tick(done: int) -> float:
    """Return the clock's second hand: it advances by another amount at each level, so that no mixture of two fits."""
    return (done * done % PHASES) / 256.0


def _check_clock(state: Mapping[str, NDArray[np.float32]]) -> int:
    """Return how many rounds are done. Raises `UsageError` when work of different rounds was mixed."""
    done = round(float(state["clock"][0]) / STEP)
    if abs(float(state["clock"][0]) / STEP - done) > TICK_SLACK or abs(state["clock"][1] - _tick(done)) > TICK_SLACK:
        raise UsageError(
            "couldn't go on boosting: the mean holds work of different rounds, or of sites with another plan",
            hint="found the swarm with --staleness 0, with exact mixing and a clip norm of at least 20",
        )
    return done
