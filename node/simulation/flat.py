"""A model as one flat vector, for PyTorch: what of a module travels, in which order, and how to look at it again.

Order and contents are those of the networked node (`swarm.vector.Layout`, `node.worker`): floating-point parameters and
buffers by ascending name, tied ones once, so that a vector here and a blob there can be compared element by element.
"""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from node.simulation.learning import Dataset, Objective, as_floats
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec

TEST_ROWS = 1_000
"""Test examples evaluated at a time. A constant: sums of losses must not depend on how work is divided."""


class FlatModel:
    """One module and the layout of its vector. `initial`, shape (elements,), is what it was built with.

    Raises:
        UsageError: `build` did not return a module, or it has nothing to train.
    """

    def __init__(self, build: Callable[[], object], seed: int) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)  # as the node's trainer does before it builds a model
            module = build()
        if not isinstance(module, nn.Module):
            raise UsageError(f"build_model() returned {type(module).__name__}, not a torch.nn.Module")
        tensors = travelling(module)
        if not any(tensor.requires_grad for tensor in tensors.values()):
            raise UsageError("couldn't simulate that model: it has no parameter to train")
        self.module = module
        self.layout = Layout(
            tuple(
                TensorSpec(name, tuple(tensors[name].shape), str(tensors[name].dtype).removeprefix("torch."))
                for name in sorted(tensors)
            )
        )
        self._spans = [(spec.name, spec.shape, *self.layout.offsets()[spec.name]) for spec in self.layout.tensors]
        self._counters = {
            name: value.clone() for name, value in module.state_dict().items() if not value.is_floating_point()
        }
        self._judge: nn.Module | None = None
        self.initial = torch.empty(self.elements)
        self.save(module, self.initial)

    @property
    def elements(self) -> int:
        """Length of the vector."""
        return self.layout.elements

    def parameters(self, module: nn.Module) -> tuple[tuple[int, int], ...]:
        """Return the stretches [start, end) of the vector that are trained: no buffers, and nothing frozen."""
        return self.layout.stretches([name for name, tensor in travelling(module).items() if tensor.requires_grad])

    def view(self, vectors: Tensor) -> dict[str, Tensor]:
        """Return the tensors of one vector, shape (elements,), or of several, shape (k, elements), as views."""
        lead = vectors.shape[:-1]
        return {name: vectors[..., a:b].view(*lead, *shape) for name, shape, a, b in self._spans}

    def load(self, vector: Tensor, module: nn.Module) -> None:
        """Copy a vector into a module. What does not travel (counters) is set back to what it was when built."""
        views = self.view(vector)
        with torch.no_grad():
            for name, tensor in module.state_dict(keep_vars=True).items():
                if name in views:
                    tensor.copy_(views[name])
                elif name in self._counters:
                    tensor.copy_(self._counters[name])

    def save(self, module: nn.Module, vector: Tensor) -> None:
        """Copy a module's tensors into a vector."""
        tensors = travelling(module)
        with torch.no_grad():
            for name, view in self.view(vector).items():
                view.copy_(tensors[name])

    def copy_module(self) -> nn.Module:
        """Return a module of one's own, to train."""
        return copy.deepcopy(self.module)

    def evaluate(self, vector: Tensor, data: Dataset, objective: Objective, start: int) -> tuple[int, float]:
        """Return (right answers, sum of losses) on `TEST_ROWS` examples from `start`; the module is in eval mode.

        The sum is the mean loss of these rows times their number, so sums over all starts add up to the data set's.
        """
        x, y = as_floats(data.x[start : start + TEST_ROWS]), data.y[start : start + TEST_ROWS]
        if self._judge is None:
            self._judge = self.copy_module().eval()
        self.load(vector, self._judge)
        with torch.no_grad():
            output = self._judge(x)
            loss = float(objective.loss(output, y)) * len(x)
            return int(objective.hits(output, y)), loss


def travelling(module: nn.Module) -> dict[str, Tensor]:
    """Return the floating-point parameters and buffers of a module, by name; of tied ones the first name."""
    found: dict[str, Tensor] = {}
    seen: set[int] = set()
    for name, tensor in module.state_dict(keep_vars=True).items():
        if isinstance(tensor, Tensor) and tensor.is_floating_point() and id(tensor) not in seen:
            seen.add(id(tensor))
            found[name] = tensor
    return found
