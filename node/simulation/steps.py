"""Local training of several peers at once: the interface, and which of its three forms suits a model.

- *batched* (`mlp`): the backward pass of a multilayer perceptron written by hand, peers stacked in batched matrix
  products. The fastest by far, for the models people compare methods on.
- *vmap* (`vmapped`): `torch.func` differentiates any module that its `vmap` can stack.
- *loop* (`loop`): one peer after the other, for everything else: batch normalisation, dropout, recurrent networks.

All three do the same steps on the same batches in the same order, so they differ by rounding only.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

STACK_BYTES = 6 << 20
"""Parameters and velocities of the peers stacked together: what second- and third-level caches keep between steps."""

STACK_MAX = 64
"""Most peers stacked. Beyond, small models gain nothing more and work cannot be dealt out evenly."""


@dataclass(frozen=True, slots=True, eq=False)
class Trainee:
    """One peer in one round: the positions of its examples, int64, and the seed of its draws."""

    share: Tensor
    seed: int


class LocalSteps(Protocol):
    """Local training of peers whose parameters are rows of one matrix."""

    @property
    def name(self) -> str:
        """Which form it is: "batched", "vmap" or "loop"."""

    @property
    def stacked(self) -> int:
        """How many peers to hand over at once, at most."""

    def count(self, examples: int) -> int:
        """Return how many steps a peer with so many examples takes in a round."""

    def train(
        self,
        models: Tensor,
        velocities: Tensor | None,
        peers: Sequence[Trainee],
        start: Tensor | None = None,
        push: Tensor | None = None,
    ) -> None:
        """Train row k of `models`, shape (k, elements), in place as `peers[k]`, on every epoch of one round.

        With `start`, shape (elements,), all begin there and what the rows hold does not count. `velocities`, of the
        shape of `models`, go on from the round before and are updated too; None starts from zero. Peers come in
        descending order of their number of examples. Of `push`, of the same shape, a row is added after each step of
        its peer.
        """


def stack_size(elements: int) -> int:
    """Return how many peers of a model with that many parameters to stack."""
    return max(1, min(STACK_MAX, round(STACK_BYTES / (8 * elements))))


def shuffles(peers: Sequence[Trainee]) -> list[torch.Generator]:
    """Return each peer's own source of shuffles (see `node.task.round_seed`)."""
    return [torch.Generator().manual_seed(peer.seed) for peer in peers]


def lockstep(sizes: Sequence[int], batch: int) -> list[tuple[int, list[int]]]:
    """Return the steps of one epoch: (first position, batch lengths of the peers still at work).

    Peers of descending sizes, so those at work are the first so many, and their lengths descend too: a peer with fewer
    examples takes fewer steps and drops out.
    """
    starts = range(0, max(sizes, default=0), batch)
    return [(start, [min(batch, size - start) for size in sizes if size > start]) for start in starts]
