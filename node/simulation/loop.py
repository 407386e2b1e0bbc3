"""One peer after the other, for any module: what a user's own training loop does, with nothing in between.

All chance, the shuffles and whatever the module itself draws (dropout), comes out of PyTorch's global generator, seeded
as the node's trainer seeds it.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from node.simulation.flat import FlatModel, travelling
from node.simulation.learning import Dataset, LocalTraining, Objective
from node.simulation.steps import Trainee

COPY_BYTES_MAX = 64 << 20
"""Largest share whose features are copied for a round, in bytes as float32."""


class OneByOne:
    """`LocalSteps` by `torch.optim.SGD` on a module that each peer's parameters are copied into."""

    name = "loop"
    stacked = 1

    def __init__(self, model: FlatModel, objective: Objective, data: Dataset, training: LocalTraining) -> None:
        self._model, self._objective, self._data, self._training = model, objective, data, training
        self._module: nn.Module | None = None
        # PyTorch puts off imports of two seconds until a first optimizer is made: once here, not in every process.
        torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)

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
        if self._module is None:
            self._module = self._model.copy_module()
        with torch.random.fork_rng(devices=[]):
            for k, peer in enumerate(peers):
                self._model.load(models[k] if start is None else start, self._module)
                velocity = None if velocities is None else velocities[k]
                self._train(self._module, models[k], velocity, peer, None if push is None else push[k])

    def _train(
        self, module: nn.Module, row: Tensor, velocity: Tensor | None, peer: Trainee, push: Tensor | None
    ) -> None:
        training = self._training
        module.train()
        optimizer = torch.optim.SGD(
            [p for p in module.parameters() if p.requires_grad],
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )
        if velocity is not None:
            _set_velocity(optimizer, module, self._model.view(velocity))
        views = {} if push is None else self._model.view(push)
        added = [(tensor, views[name]) for name, tensor in travelling(module).items() if name in views]
        # Pixels become numbers once a round, unless the share is so large that its copy would be felt.
        whole = self._data.bytes_of(len(peer.share)) <= COPY_BYTES_MAX
        x_share, y_share = self._data.batch(peer.share) if whole else (torch.empty(0), torch.empty(0))
        torch.manual_seed(peer.seed)
        for _ in range(training.epochs):
            order = torch.randperm(len(peer.share))
            for which in torch.split(order, training.batch_of(len(order))):
                x, y = (x_share[which], y_share[which]) if whole else self._data.batch(peer.share[which])
                optimizer.zero_grad()
                torch.autograd.backward(self._objective.loss(module(x), y))
                optimizer.step()
                with torch.no_grad():
                    for tensor, part in added:
                        if tensor.requires_grad:
                            tensor.add_(part)
        self._model.save(module, row)
        if velocity is not None:
            _get_velocity(optimizer, module, self._model.view(velocity))


def _set_velocity(optimizer: torch.optim.SGD, module: nn.Module, views: dict[str, Tensor]) -> None:
    for name, tensor in travelling(module).items():
        if tensor.requires_grad:
            optimizer.state[tensor]["momentum_buffer"] = views[name].clone()


def _get_velocity(optimizer: torch.optim.SGD, module: nn.Module, views: dict[str, Tensor]) -> None:
    for name, tensor in travelling(module).items():
        if tensor.requires_grad:
            views[name].copy_(optimizer.state[tensor]["momentum_buffer"])
