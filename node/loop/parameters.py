"""SHELL. A user's model as one flat vector, and back: a torch module, or plain arrays by name.

A module is in a script what it is in a task that declares nothing: `node.parts`. Arrays are for what is no neural
network: the coefficients of a linear model, centroids, histograms. They are written in place, so that whoever holds
them sees the model of the round. PyTorch is imported only if the model needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np

from node.storage import mapped_anew
from swarm.errors import UsageError
from swarm.vector import Layout, TensorSpec, Vector, flatten, unflatten

if TYPE_CHECKING:
    import torch

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
    elif is_module(model):
        from node.parts import Parts

        found = Parts(model)
    else:
        raise UsageError(
            f"couldn't read the parameters of a {type(model).__name__}",
            hint="pass a torch.nn.Module, or a dict of names and NumPy arrays of floating-point numbers",
        )
    return found


def is_module(model: object) -> TypeGuard[torch.nn.Module]:
    """Whether a model is a `torch.nn.Module`; PyTorch is not imported to find out."""
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(model, loaded.nn.Module)


def check_received(trained: Parameters, received: Parameters) -> None:
    """Raise `UsageError` unless a model that is handed in is the one that was received."""
    if odd := difference(trained.layout, received.layout):
        raise UsageError(f"couldn't send: the model is not the one received: {odd}", hint="send what was received")


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
        if not any(array.size for array in arrays.values()):
            raise UsageError("couldn't begin: the model has no parameters", hint="make its arrays first")
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
