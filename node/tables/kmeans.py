"""Lloyd's k-means over sites, exactly: the mean of counts and sums by cluster is the swarm's.

A step of Lloyd's algorithm (Lloyd 1982) moves each centre to the mean of the rows that are nearest to it: sums over
rows divided by counts. Sums and counts over a site's n_i rows, divided by n_i and weighted by n_i in the swarm's mean,
are the pooled ones divided by N, and their quotient is the pooled centre. So this makes, round for round, the steps
that one machine with all the rows would make. What is not exact is averaging centres: a site where a cluster is rare
would pull it as hard as one where it is common.

**The state**, float32, for k centres of F features: `centres` (k, F), from which rows are assigned; `sums` (k, F) and
`counts` (k,), the means of the last round. A round first turns the last one's sums into centres, which every site does
alike, and then writes its own. Rows should be of about unit size, as for any clustering: a charter bounds an update's
norm, and a site whose sums are over it says so and sends nothing (`node.tables.whole`). It wants exact mixing and no
late work (`--staleness 0`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from node.tables.whole import Whole, check_share
from swarm.errors import UsageError

State: TypeAlias = dict[str, NDArray[np.float32]]
Rows: TypeAlias = NDArray[np.floating]

COUNT_LEAST = 1e-9
"""A share of all rows below which a cluster is empty, and its centre stays: rounding is a thousand times smaller."""


def initial(centres: Rows) -> State:
    """Return the state to start from, with centres of shape (k, F) that all sites agree on: no site's own rows.

    Raises:
        UsageError: they are no table, or not finite.
    """
    if centres.ndim != 2 or not centres.size or not np.isfinite(centres).all():
        raise UsageError(
            f"couldn't begin with centres of shape {centres.shape}", hint="give k rows of as many finite features"
        )
    start = centres.astype(np.float32)
    state = Whole(centres=start, sums=np.zeros_like(start), counts=np.zeros(len(start), np.float32))
    return state.with_remedy(
        "divide all columns by one constant that all sites agree on, which leaves groups as they are"
    )


def centres(state: Mapping[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """Return where the centres are now, shape (k, F): those of the last round's sums. Element-wise, so alike at all.

    Raises:
        UsageError: the counts are no shares of all rows: an update was shortened.
    """
    counts = state["counts"][:, None]
    if counts.any():  # None before the first round.
        check_share(float(counts.sum(dtype=np.float64)), "the counts")
    filled = counts > COUNT_LEAST
    moved: NDArray[np.float32] = np.where(filled, state["sums"] / np.where(filled, counts, 1.0), state["centres"])
    return moved.astype(np.float32)


def work(state: State, x: Rows) -> float:
    """Do a site's part of a round, in place, and return its mean squared distance to the nearest centre.

    Raises:
        UsageError: the rows, shape (n, F), do not fit the centres or are not finite.
    """
    k, features = state["centres"].shape
    nearest, distance = assign(state, x)
    state["centres"][...] = centres(state)
    state["counts"][...] = np.bincount(nearest, minlength=k) / len(x)
    for feature in range(features):
        state["sums"][:, feature] = np.bincount(nearest, weights=x[:, feature], minlength=k) / len(x)
    return float(distance.mean())


def assign(state: Mapping[str, NDArray[np.float32]], x: Rows) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return each row's nearest centre and the squared distance to it, shapes (n,); the first of equally near ones.

    Raises:
        UsageError: as `work`.
    """
    at = centres(state).astype(np.float64)
    if x.ndim != 2 or x.shape[1] != at.shape[1] or not len(x) or not np.isfinite(x).all():
        raise UsageError(
            f"couldn't use rows of shape {x.shape}: the centres have {at.shape[1]} features, and all must be finite",
            hint="every site needs the same columns in the same order",
        )
    distances = np.stack([((x - one) ** 2).sum(axis=1) for one in at], axis=1)
    nearest = distances.argmin(axis=1)
    return nearest, np.take_along_axis(distances, nearest[:, None], 1)[:, 0]
