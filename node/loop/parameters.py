"""SHELL. A user's model as one flat vector, and back: a torch module, or plain arrays by name.

A module is in a script what it is in a task that declares the same: `node.parts`. Arrays are for what is no neural
network: the coefficients of a linear model, centroids, histograms. They are written in place, so that whoever holds
them sees the model of the round. PyTorch is imported only if the model needs it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, TypeGuard

import numpy as np
from numpy.typing import NDArray

from node import overview
from node.changes import changes_into, longest_of
from node.declared import Declared
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
        """Which tensors travel, sorted by name."""
        ...

    @property
    def warning(self) -> str:
        """What of the model is left undecided and should not be, in words; empty if nothing."""
        ...

    def read(self) -> Vector:
        """Return a copy of what travels, shape (layout.elements,)."""
        ...

    def write(self, vector: Vector, own: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Overwrite what travels with a vector of that shape, and what stays with `own`, or as it was at first."""
        ...

    def own(self) -> dict[str, NDArray[np.generic]]:
        """Return copies of what stays at the site, by name."""
        ...

    def check_frozen(self) -> None:
        """Raise `UsageError` if what was to stand still was trained."""
        ...

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return the stretches [start, end) of the vector that are trained: no running statistics, nothing frozen."""
        ...


def parameters_of(model: object, said: Declared | None = None, folder: Path = Path()) -> Parameters:
    """Return the state of a model, by what its script has `said` of it; `folder` is where the script lies.

    Raises:
        UsageError: it is neither a `torch.nn.Module` nor a mapping of names to floating-point arrays, has no state, or
            does not fit what is said of it.
    """
    found: Parameters
    if isinstance(model, Mapping):
        if said is not None and (name := next(iter(_of_modules(said)), "")):
            raise UsageError(
                f"couldn't use {name}: the model is a dict of arrays",
                hint="leave arrays that are to stay here, or stand still, out of the dict: what is in it travels",
            )
        found = ArrayParameters(model)
    elif is_module(model):
        from node.parts import Parts

        found = Parts(model, said, folder)
        found.check_base()
    else:
        raise UsageError(
            f"couldn't read the parameters of a {type(model).__name__}",
            hint="pass a torch.nn.Module, or a dict of names and NumPy arrays of floating-point numbers",
        )
    return found


def told_of(parameters: Parameters) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return what a model's people are told of it before anybody signs: warnings, and notes on what travels."""
    if isinstance(parameters, ArrayParameters):
        return (), (f"all {parameters.layout.elements:,} numbers of the arrays travel",)
    from node.parts import Parts

    assert isinstance(parameters, Parts), "there are these two"
    return overview.warnings(parameters), overview.notes(parameters)


def _of_modules(said: Declared) -> list[str]:
    """Return the names of declarations that only a module has a use for."""
    found = {name: getattr(said, name) for name in ("private", "frozen", "initial", "normalisation")}
    return [name for name, value in found.items() if value]


def is_module(model: object) -> TypeGuard[torch.nn.Module]:
    """Whether a model is a `torch.nn.Module`; PyTorch is not imported to find out."""
    loaded = sys.modules.get("torch")
    return loaded is not None and isinstance(model, loaded.nn.Module)


def core(model: object) -> object:
    """Return the module inside what `torch.compile`, `DataParallel` and `DistributedDataParallel` put around it."""
    while is_module(model):
        parts = dict(model.named_children())
        inner = parts.get("_orig_mod") or (parts.get("module") if type(model).__name__ in _PARALLEL else None)
        if inner is None:
            break
        model = inner
    return model


_PARALLEL = ("DataParallel", "DistributedDataParallel")


def check_received(trained: Parameters, received: Parameters) -> None:
    """Raise `UsageError` unless a model that is handed in is the one that was received, by its tensors."""
    if odd := difference(trained.layout, received.layout):
        raise UsageError(
            f"couldn't send: the model is not the one received: {odd}",
            hint="send the model that was joined with, or one built alike",
        )


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
    """Arrays by name, in place. All of them travel."""

    warning = ""

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

    def write(self, vector: Vector, own: Mapping[str, NDArray[np.generic]] | None = None) -> None:
        """Overwrite the arrays."""
        del own
        for name, values in unflatten(vector, self.layout).items():
            self._arrays[name][...] = values

    def own(self) -> dict[str, NDArray[np.generic]]:
        """Return nothing: what stays is not in the dict."""
        return {}

    def check_frozen(self) -> None:
        """Do nothing: what stands still is not in the dict."""

    def trained(self) -> tuple[tuple[int, int], ...]:
        """Return all of it."""
        return ((0, self.layout.elements),)


def write_update(trained: Vector, base: Vector, layout: Layout, path: Path) -> tuple[str, float]:
    """Write trained minus base into a new file, float32, its room on the disk reserved before.

    Return the tensor that makes most of its norm, and which share of the squared norm that is, 0 to 1.

    Raises:
        UsageError: a tensor has become what no number can be added to others' for.
        StoreError: there is no room, or the disk fails.
    """
    update = mapped_anew(path, trained.size, what="make room for the update")
    changes_into(update, trained, base, layout)
    return longest_of(update, layout)
