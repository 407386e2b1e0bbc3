"""Exchanges between peers, as linear algebra on the matrix of their models: one peer a row.

Everything is done block of columns by block of columns, in place: a block is copied, mixed and written back, so that a
thousand models never exist twice. Blocks are the same whoever computes them, so results do not depend on the number of
processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from swarm.errors import UsageError

BLOCK_BYTES = 4 << 20
"""A block of columns: long enough runs of each row, and small enough for a third-level cache."""

STRIPE_BYTES = 1 << 20
"""What a sparse product takes of a block at a time: its rows are read once for every link, so they must stay near.

A stripe and its product fill a second-level cache and the part of the third that other cores leave. 1 MiB takes a
quarter to a half of the time of 4 MiB; less makes the runs of each row too short for memory.
"""

DENSE_FROM = 0.25
"""Share of weights that are not zero from which a dense product beats the sparse one (measured at 1,000 rows)."""

Rows = Sequence[Sequence[tuple[int, float]]]
"""One exchange: for each peer, whose models it takes and how much of each, itself included."""


@dataclass(frozen=True, slots=True, eq=False)
class SparseRows:
    """A mixing matrix by compressed rows: row i has weights[starts[i]:starts[i+1]] at the columns `sources`."""

    starts: NDArray[np.int64]
    sources: NDArray[np.int64]
    weights: NDArray[np.float64]

    @classmethod
    def of(cls, rows: Rows) -> SparseRows:
        """Compress rows given as pairs."""
        return cls(
            starts=np.cumsum([0, *map(len, rows)], dtype=np.int64),
            sources=np.array([source for row in rows for source, _ in row], dtype=np.int64),
            weights=np.array([weight for row in rows for _, weight in row], dtype=np.float64),
        )

    def placed(self, place: NDArray[np.int64]) -> SparseRows:
        """Check rows given for peers and return them for the rows of the matrix, peer p being row `place[p]`.

        Raises:
            UsageError: there is not one row for each peer, or it names a peer that is not there or a weight that is
                not finite.
        """
        n = len(place)
        if self.n != n:
            raise UsageError(
                f"couldn't mix: the mixing matrix has {self.n} rows for {n} peers",
                hint="Take a schedule for that many peers, with one model each.",
            )
        wrong = (self.sources < 0) | (self.sources >= n) | ~np.isfinite(self.weights)
        if wrong.any():
            entry = int(wrong.argmax())
            peer = int(np.searchsorted(self.starts, entry, side="right")) - 1
            raise UsageError(
                f"couldn't mix: peer {peer} should take {self.weights[entry]} of peer {self.sources[entry]}'s model, "
                f"among {n} peers",
                hint="Sources count from 0, and weights are finite.",
            )
        order = np.argsort(place)
        counts = np.diff(self.starts)[order]
        starts = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        entries = np.repeat(self.starts[:-1][order] - starts[:-1], counts) + np.arange(starts[-1])
        return SparseRows(starts=starts, sources=place[self.sources[entries]], weights=self.weights[entries])

    def same(self, other: SparseRows) -> bool:
        """Tell whether every weight is the same."""
        return (
            np.array_equal(self.starts, other.starts)
            and np.array_equal(self.sources, other.sources)
            and np.array_equal(self.weights, other.weights)
        )

    @property
    def n(self) -> int:
        """Number of rows."""
        return len(self.starts) - 1

    @property
    def copies(self) -> int:
        """Models that travel in this exchange: weights off the diagonal that are not zero."""
        return int(self.taken.sum())

    @property
    def taken(self) -> NDArray[np.int64]:
        """By row, how many others take its model in this exchange."""
        owner = np.repeat(np.arange(self.n), np.diff(self.starts))
        others = (owner != self.sources) & (self.weights != 0)
        return np.bincount(self.sources[others], minlength=self.n).astype(np.int64)

    @property
    def dense(self) -> bool:
        """Whether so many weights are not zero that they are best multiplied as a whole matrix."""
        return len(self.weights) > DENSE_FROM * self.n**2


class Mixer:
    """One exchange, ready to be applied to any block of columns.

    It keeps the room that it copies columns to: fresh memory costs more than what is done in it.
    """

    def __init__(self, rows: SparseRows) -> None:
        self._dense: Tensor | None = None
        if rows.dense:
            dense = np.zeros((rows.n, rows.n))
            np.add.at(dense, (np.repeat(np.arange(rows.n), np.diff(rows.starts)), rows.sources), rows.weights)
            self._dense = torch.from_numpy(dense).float()
        self._sparse = Bags(rows.starts, rows.sources, rows.weights)
        self._stripe = stripe_columns(rows.n)
        self._room = torch.empty(0)

    def mix(self, models: Tensor, block: slice, copies: Tensor | None = None) -> None:
        """Replace these columns of `models`, shape (n, elements), by W times them, in place.

        With public `copies` of them, shape (n, elements), go on by W times those, less what they are:
        x + (W - I) x_hat (`swarm.mixing.compress.choco`).
        """
        if copies is not None:
            self._go_on(models, copies, block)
            return
        if self._dense is not None:
            models[:, block] = self._dense @ self._copied(models[:, block])
            return
        for start in range(block.start, block.stop, self._stripe):
            columns = models[:, start : min(start + self._stripe, block.stop)]
            columns.copy_(self._sparse.times(self._copied(columns)))

    def _go_on(self, models: Tensor, copies: Tensor, block: slice) -> None:
        for start in range(block.start, block.stop, self._stripe):
            span = slice(start, min(start + self._stripe, block.stop))
            shown = self._copied(copies[:, span])
            models[:, span].add_(self._sparse.times(shown) if self._dense is None else self._dense @ shown).sub_(shown)

    def _copied(self, columns: Tensor) -> Tensor:
        """Return a contiguous copy, good until the next."""
        if len(self._room) < columns.numel():
            self._room = torch.empty(columns.numel())
        return self._room[: columns.numel()].view(columns.shape).copy_(columns)


class Bags:
    """Compressed rows, ready to be multiplied. A row is the same sum in the same order whichever others are there."""

    def __init__(self, starts: NDArray[np.int64], sources: NDArray[np.int64], weights: NDArray[np.float64]) -> None:
        self._starts, self._sources = torch.from_numpy(starts[:-1]), torch.from_numpy(sources)
        self._weights = torch.from_numpy(weights).float()

    def times(self, columns: Tensor) -> Tensor:
        """Return these rows times `columns`, shape (sources, width), contiguous."""
        # A bag of embeddings is a sparse row times a dense matrix, and the one such product PyTorch does fast.
        return functional.embedding_bag(
            self._sources, columns, self._starts, mode="sum", per_sample_weights=self._weights
        )


def stripe_columns(rows: int) -> int:
    """Return how many columns of so many rows a sparse product takes at a time."""
    return max(64, STRIPE_BYTES // (4 * rows))


def merge(models: Tensor, block: slice, out: Tensor) -> float:
    """Write the mean of these columns of `models`, shape (n, elements), to `out[block]`.

    Returns the sum of squared distances from that mean. Summed in float64 and rounded once.
    """
    columns = models[:, block].double()
    mean = columns.mean(0)
    out[block] = mean
    return float(columns.sub_(mean).square_().sum())


def blocks(rows: int, elements: int) -> list[slice]:
    """Return the blocks of columns of a matrix of float32 with that many rows."""
    width = max(64, min(elements, BLOCK_BYTES // (4 * rows)))
    return [slice(start, min(start + width, elements)) for start in range(0, elements, width)]
