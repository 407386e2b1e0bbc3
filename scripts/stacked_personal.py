"""FedPer, FedRep and Ditto at a hundred sites: what a site's trainer process does for one, for all that train at once.

Not a program: `published_mnist_shards.py` is made of it. In the product these are `private = [...]`, `fedrep = 1` and
`--local ditto:...` (docs/guides/your-own-training.md), done around a task's own loop in a process a site
(`node.worker`). A hundred of those are too many for one machine, so here the same steps are taken by the same shuffles
on perceptrons stacked into one batched product; `tests/scripts/test_stacked_personal.py` lets both learn the same, and
compares. The body of a model travels and is averaged, all sites having as many examples; its last layer is the head.

- *FedPer* (Arivazhagan, Aggarwal, Singh & Choudhary 2019): body and head are trained together, the head stays.
- *FedRep* (Collins, Hassani, Mokhtari & Shakkottai 2021, algorithm 1): a pass for the head while the body stands still,
  then one for the body while the head does.
- *Ditto* (Li, Hu, Beirami & Smith 2021, algorithm 1): beside the common model a personal one, v <- v - rate (gradient +
  strength (v - w)), where w is the common model that the round began with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from node.task import round_seed

Layers = list[Tensor]
"""Weights and biases in turn, first layer first: (outputs, inputs), (outputs,); of several sites (sites, ...)."""

HEAD = 2
"""The tensors of a head: the last layer's weight and bias."""

FEDAVG, FEDPER, FEDREP, DITTO = "fedavg", "fedper", "fedrep", "ditto"


@dataclass(slots=True)
class Swarm:
    """Sites with a common model and, by the `method`, a part or a whole of their own; `layers` all begin with.

    Args:
        method: `FEDAVG`, `FEDPER`, `FEDREP` or `DITTO`.
        layers: Of a perceptron with ReLU between its layers.
        x, y: All training examples.
        shares: Which are whose, shape (sites, examples), int64.
        rate, batch: SGD's, one epoch a pass.
        seed: The charter's; `names` are the sites' there.
        strength: Ditto's.
    """

    method: str
    layers: Layers
    x: Tensor
    y: Tensor
    shares: Tensor
    rate: float
    batch: int
    seed: int
    names: Sequence[str]
    strength: float = 0.1
    personal: Layers = field(init=False)
    _rounds: int = field(init=False, default=0)

    def __post_init__(self) -> None:
        """Let all sites begin alike, in what is their own too."""
        self.layers = [one.detach().clone() for one in self.layers]
        sites = len(self.shares)
        self.personal = [one.expand(sites, *one.shape).clone() for one in self.layers]

    def next_round(self, drawn: Sequence[int]) -> None:
        """Let these sites train and the common part become the mean of what they have made of it."""
        self._rounds += 1
        at = torch.as_tensor(np.asarray(drawn, np.int64))
        shuffles = [
            torch.Generator().manual_seed(round_seed(self.seed, self.names[site], self._rounds)) for site in at.tolist()
        ]
        own = self.method in (FEDPER, FEDREP)
        body = len(self.layers) - HEAD
        begun = [one.expand(len(at), *one.shape).clone() for one in self.layers]
        trained = begun if not own else begun[:body] + [one[at] for one in self.personal[body:]]
        if self.method == FEDREP:
            self._pass(trained, at, shuffles, range(body, body + HEAD))
        self._pass(trained, at, shuffles, range(body if self.method == FEDREP else len(trained)))
        if own:
            for kept, one in zip(self.personal[body:], trained[body:], strict=True):
                kept[at] = one
        if self.method == DITTO:
            mine = [one[at] for one in self.personal]
            self._pass(mine, at, shuffles, range(len(mine)), pull=self.layers)
            for kept, one in zip(self.personal, mine, strict=True):
                kept[at] = one
        for place in range(body if own else len(trained)):
            self.layers[place] = trained[place].mean(0)

    def own(self, site: int) -> Layers:
        """Return the model that a site uses."""
        if self.method == FEDAVG:
            return self.layers
        body = len(self.layers) - HEAD
        private = [one[site] for one in self.personal]
        return private if self.method == DITTO else self.layers[:body] + private[body:]

    def _pass(
        self,
        layers: Layers,
        at: Tensor,
        shuffles: Sequence[torch.Generator],
        steps: range,
        pull: Layers | None = None,
    ) -> None:
        """Go once through the examples of the sites `at`, and step these tensors of their models, in place."""
        shares = self.shares[at]
        orders = torch.stack([torch.randperm(shares.shape[1], generator=one) for one in shuffles])
        for which in torch.split(shares.gather(1, orders), self.batch, dim=1):
            stepped = [layers[place].requires_grad_() for place in steps]
            outputs = outputs_of(layers, self.x[which])
            loss = functional.cross_entropy(outputs.flatten(0, 1), self.y[which].flatten(), reduction="sum")
            gradients = torch.autograd.grad(loss / which.shape[1], stepped)
            for place, one, gradient in zip(steps, stepped, gradients, strict=True):
                one.requires_grad_(False)
                if pull is not None:
                    gradient.add_(one, alpha=self.strength).sub_(pull[place], alpha=self.strength)
                one.sub_(gradient, alpha=self.rate)


def outputs_of(layers: Layers, x: Tensor) -> Tensor:
    """Return the outputs of one model on (examples, features), or of k on (k, examples, features)."""
    for place in range(0, len(layers), 2):
        weight, bias = layers[place], layers[place + 1]
        x = x @ weight.mT + (bias.unsqueeze(-2) if bias.ndim > 1 else bias)
        if place + 2 < len(layers):
            x = x.clamp(min=0)
    return x


def layers_of(module: nn.Module) -> Layers:
    """Return the tensors of a perceptron, in the order of its layers."""
    return [
        one.detach().clone() for part in module.modules() if isinstance(part, nn.Linear) for one in part.parameters()
    ]


def right(layers: Layers, x: Tensor, y: Tensor) -> NDArray[np.int64]:
    """Return which answers are right, 1 or 0 by example."""
    with torch.inference_mode():
        return (outputs_of(layers, x).argmax(-1) == y).numpy().astype(np.int64)
