"""SHELL. A user's model as one flat vector, and back: a torch module, or plain arrays by name.

A module's floating-point parameters and buffers travel, tied ones once; counters stay at the site, as in `node.worker`.
Arrays are for what is no neural network: the coefficients of a linear model, centroids, histograms. They are written in
place, so that whoever holds them sees the model of the round. PyTorch is imported only if the model needs it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from node.storage import mapped_anew
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec, Vector, flatten, unflatten

DTYPES = ("float16", "float32", "float64")
"""What arrays may hold. Whatever it is, float32 travels."""


class Parameters(Protocol):
    """A model's state, wherever it lives."""

    @property
    def layout(self) -> Layout:
        """Which tensors there are, sorted by name."""
        ...

    def read(self) -> Vector:
        """Return a copy of the state, shape (layout.elements,)."""
        ...

    def write(self, vector: Vector) -> None:
        """Overwrite the state with a vector of that shape."""
        ...

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches [start, end) of the vector that are trained: no running statistics, nothing frozen."""
        ...


def parameters_of(model: object) -> Parameters:
    """Return the state of a model.

    Raises:
        UsageError: it is neither a `torch.nn.Module` nor a mapping of names to floating-point arrays, or has no state.
    """
    found: Parameters
    if isinstance(model, Mapping):
        found = ArrayParameters(model)
    elif callable(getattr(model, "state_dict", None)) and callable(getattr(model, "named_parameters", None)):
        found = ModuleParameters(model)
    else:
        raise UsageError(
            f"couldn't read the parameters of a {type(model).__name__}",
            hint="pass a torch.nn.Module, or a dict of names and NumPy arrays of floating-point numbers",
        )
    if not found.layout.elements:
        raise UsageError("couldn't join: the model has no parameters", hint="build its layers before join()")
    return found


def difference(layout: Layout, expected: Layout) -> str:
    """Say in words how one layout differs from another; empty if it does not."""
    if layout == expected:
        return ""
    ours, theirs = ({spec.name: spec for spec in one.tensors} for one in (layout, expected))
    if odd := sorted(set(ours) ^ set(theirs)):
        return f"tensor {odd[0]!r} is {'not in the charter' if odd[0] in ours else 'missing'}"
    name = next(name for name in ours if ours[name] != theirs[name])
    mine, other = ours[name], theirs[name]
    if mine.shape != other.shape:
        return f"tensor {name!r} has shape {mine.shape}, not {other.shape}"
    return f"tensor {name!r} is {mine.dtype}, not {other.dtype}"


class ModuleParameters:
    """The state of a torch module."""

    def __init__(self, module: Any) -> None:
        self._module = module
        specs = [
            TensorSpec(name, tuple(tensor.shape), str(tensor.dtype).removeprefix("torch."))
            for name, tensor in self._tensors()
        ]
        self.layout = Layout(tuple(sorted(specs, key=lambda spec: spec.name)))
        self.layout.check()

    def read(self) -> Vector:
        """Return a copy of the state."""
        arrays = {name: tensor.detach().float().cpu().numpy() for name, tensor in self._tensors()}
        return flatten(arrays, self.layout)

    def write(self, vector: Vector) -> None:
        """Overwrite the state, and clear gradients: a loop that steps first must not step along those of before."""
        import torch

        self._module.zero_grad(set_to_none=True)
        tensors = dict(self._tensors())
        with torch.no_grad():
            for name, values in unflatten(vector, self.layout).items():
                tensors[name].copy_(torch.from_numpy(np.array(values)))

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches that carry gradients."""
        return self.layout.stretches([name for name, tensor in self._tensors() if tensor.requires_grad])

    def _tensors(self) -> Iterator[tuple[str, Any]]:
        seen: set[int] = set()
        for name, tensor in self._module.state_dict(keep_vars=True).items():
            if callable(getattr(tensor, "is_floating_point", None)) and tensor.is_floating_point():
                if id(tensor) not in seen:
                    yield name, tensor
                seen.add(id(tensor))


class ArrayParameters:
    """Arrays by name, in place."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        for name, array in arrays.items():
            if not isinstance(array, np.ndarray) or array.dtype.name not in DTYPES:
                what = array.dtype.name if isinstance(array, np.ndarray) else type(array).__name__
                raise UsageError(
                    f"couldn't use {name!r} as parameters: it is {what}, not an array of {', '.join(DTYPES)}",
                    hint="convert it, as with np.asarray(x, np.float32)",
                )
        self._arrays = arrays
        specs = [TensorSpec(name, array.shape, array.dtype.name) for name, array in arrays.items()]
        self.layout = Layout(tuple(sorted(specs, key=lambda spec: spec.name)))
        self.layout.check()

    def read(self) -> Vector:
        """Return a copy of the arrays."""
        return flatten(self._arrays, self.layout)

    def write(self, vector: Vector) -> None:
        """Overwrite the arrays."""
        for name, values in unflatten(vector, self.layout).items():
            self._arrays[name][...] = values

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return all of it."""
        return ((0, self.layout.elements),)


def write_update(trained: Vector, base: Vector, path: Path) -> None:
    """Write trained minus base into a new file, float32, its room on the disk reserved before.

    Raises:
        StoreError: there is no room, or the disk fails.
    """
    update = mapped_anew(path, trained.size, what="make room for the update")
    np.subtract(trained, base, out=update)
