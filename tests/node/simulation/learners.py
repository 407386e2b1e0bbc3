"""Models, data and the plain training loop that simulated learning is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from node.simulation.flat import FlatModel
from node.simulation.learning import Dataset, LocalTraining, Objective
from node.task import round_seed


def digits() -> tuple[Dataset, Dataset]:
    """Scikit-learn's 1,797 handwritten digits of 8 x 8, every fifth held out."""
    from sklearn.datasets import load_digits

    source = load_digits()
    x = torch.from_numpy((source.data / 16).astype(np.float32))
    y = torch.from_numpy(source.target.astype(np.int64))
    held_out = torch.arange(len(x)) % 5 == 0
    return Dataset(x[~held_out].contiguous(), y[~held_out]), Dataset(x[held_out].contiguous(), y[held_out])


def noise(examples: int = 120, features: int = 12, classes: int = 4, *, pixels: bool = False) -> Dataset:
    source = torch.Generator().manual_seed(5)
    y = torch.randint(0, classes, (examples,), generator=source)
    if pixels:
        return Dataset(torch.randint(0, 256, (examples, features), generator=source, dtype=torch.uint8), y)
    return Dataset(torch.randn(examples, features, generator=source), y)


def perceptron(inputs: int = 12, classes: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(inputs, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, classes))


def unequal(sizes: Sequence[int], examples: int = 120, seed: int = 3) -> list[NDArray[np.int64]]:
    """Shares of these sizes; they may overlap, which training does not mind."""
    rng = np.random.default_rng(seed)
    return [rng.choice(examples, size, replace=False).astype(np.int64) for size in sizes]


def plainly_trained(
    model: FlatModel,
    vector: torch.Tensor,
    data: Dataset,
    share: NDArray[np.int64],
    training: LocalTraining,
    objective: Objective,
    *,
    seed: int,
    rounds: Sequence[int],
    name: str = "site-0",
) -> torch.Tensor:
    """What somebody would write who trains one peer for some rounds with `torch.optim.SGD`, and nothing else."""
    module = model.copy_module()
    model.load(vector, module)
    module.train()
    x = data.x.float() / 255 if data.x.dtype == torch.uint8 else data.x

    def sgd() -> torch.optim.SGD:
        return torch.optim.SGD(
            module.parameters(),
            lr=training.learning_rate,
            momentum=training.momentum,
            weight_decay=training.weight_decay,
        )

    optimizer = sgd()
    for round_ in rounds:
        if not training.keep_momentum:
            optimizer = sgd()
        torch.manual_seed(round_seed(seed, name, round_))
        for _ in range(training.epochs):
            order = torch.randperm(len(share))
            for which in order.split(training.batch or len(share)):
                rows = torch.from_numpy(share)[which]
                optimizer.zero_grad()
                objective.loss(module(x[rows]), data.y[rows]).backward()
                optimizer.step()
    trained = torch.empty_like(vector)
    model.save(module, trained)
    return trained
