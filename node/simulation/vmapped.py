"""Any module that `torch.func` can stack: one call differentiates all stacked peers.

Slower than the hand-written perceptron, since autograd runs and gradients are allocated, and faster than a loop where
models are small, since Python and PyTorch pay for each operation once and not once a peer.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from node.simulation.flat import FlatModel
from node.simulation.learning import Dataset, LocalTraining, Objective
from node.simulation.steps import Trainee, lockstep, shuffles, stack_size


class Stacked:
    """`LocalSteps` through `vmap(grad(loss))` over flat vectors."""

    name = "vmap"

    def __init__(self, model: FlatModel, objective: Objective, data: Dataset, training: LocalTraining) -> None:
        self._data, self._training = data, training
        self.stacked = stack_size(model.elements)
        self._sizes = [spec.elements for spec in model.layout.tensors]
        names = [(spec.name, spec.shape) for spec in model.layout.tensors]
        module = self._module = model.copy_module()

        def loss(vector: Tensor, x: Tensor, y: Tensor) -> Tensor:
            # Gradients of a split are one concatenation; those of slices would be a vector of zeros each.
            parts = torch.split(vector, self._sizes)
            state = {name: part.view(shape) for (name, shape), part in zip(names, parts, strict=True)}
            return objective.loss(functional_call(module, state, (x,)), y)

        self._gradients = vmap(grad(loss), randomness="error")

    def count(self, examples: int) -> int:
        """See `LocalSteps.count`."""
        return self._training.steps(examples)

    def train(
        self,
        models: Tensor,
        velocities: Tensor | None,
        peers: Sequence[Trainee],
        start: Tensor | None = None,
        push: Tensor | None = None,
    ) -> None:
        """Train the rows in place. See `LocalSteps.train`."""
        self._module.train()
        sizes = [len(peer.share) for peer in peers]
        if start is not None:
            models.copy_(start)
        rows = models.contiguous()
        kept = torch.zeros_like(rows) if velocities is None else velocities
        generators = shuffles(peers)
        for _ in range(self._training.epochs):
            orders = [
                peer.share[torch.randperm(len(peer.share), generator=generator)]
                for peer, generator in zip(peers, generators, strict=True)
            ]
            for first, lengths in lockstep(sizes, self._training.batch_of(sizes[0])):
                self._step(rows, kept, orders, first, lengths)
                if push is not None:
                    rows[: len(lengths)].add_(push[: len(lengths)])
        if rows is not models:
            models.copy_(rows)

    def _step(self, rows: Tensor, kept: Tensor, orders: Sequence[Tensor], start: int, lengths: Sequence[int]) -> None:
        """Take one step at the peers still at work; those with batches of one length go together."""
        training = self._training
        first = 0
        for length, group in itertools.groupby(lengths):
            last = first + len(list(group))
            which = torch.cat([order[start : start + length] for order in orders[first:last]])
            x, y = self._data.batch(which)
            k = last - first
            vectors, velocity = rows[first:last], kept[first:last]
            gradient = self._gradients(vectors, x.view(k, length, *x.shape[1:]), y.view(k, length, *y.shape[1:]))
            if training.weight_decay:
                gradient.add_(vectors, alpha=training.weight_decay)
            if training.momentum:
                gradient = velocity.mul_(training.momentum).add_(gradient)
            vectors.sub_(gradient, alpha=training.learning_rate)
            first = last
