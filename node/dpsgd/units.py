"""Layers of which nothing is known: each record's gradient by computing the layer again, for one record at a time.

What `node.dpsgd.layers` does not list - recurrent layers, attention, parameters of a module's own - is taken whole,
with all that is inside it, as one unit. A hook has seen what went into it, and autograd says what the losses' gradients
are at its outputs; the gradient of one record's share is then that of the unit computed again on this record alone.
Where `torch.func.vmap` can, all records are done at once; where it cannot, as for recurrent layers, one after the
other. That is right for any unit that treats records one by one and always alike, at the price of a pass over the unit
for each record and of its records' gradients in memory. So units are best kept small: parameters of its own in a module
around a whole model make the whole model a unit.

What cannot be computed again is refused: dropout within the unit, arguments that are not by record. The check of a
training's first batch (`node.dpsgd.clipping`) holds here as for every layer: the sum has to be autograd's own.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call, vjp, vmap
from torch.nn.modules.dropout import _DropoutNd

from node.dpsgd.layers import Gradients
from swarm.errors import UsageError


class _Bare(nn.Module):
    """A module without the hooks on it: what is computed again is not to be noted again."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module

    def forward(self, *args: object, **kwargs: object) -> object:
        return self.inner.forward(*args, **kwargs)


def tensors(value: object) -> Iterator[Tensor]:
    """Return the tensors in outputs or arguments, in order."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, Mapping):
        for one in value.values():
            yield from tensors(one)
    elif isinstance(value, (tuple, list)):
        for one in value:
            yield from tensors(one)


def check_unit(name: str, module: nn.Module) -> None:
    """Raise `UsageError` where computing the unit again would come to something else."""
    for inner, one in module.named_modules():
        chance = one.p if isinstance(one, _DropoutNd) else getattr(one, "dropout", 0.0)
        if one.training and isinstance(chance, float) and chance > 0:
            whole = ".".join(part for part in (name, inner) if part)
            raise UsageError(
                f"couldn't train privately: {whole} ({type(one).__name__}) drops at random within a layer that has"
                " to be computed again for each record",
                hint="set its dropout to 0, and put an nn.Dropout between layers where one is wanted",
            )


def check_arguments(name: str, args: Sequence[object], kwargs: Mapping[str, object]) -> None:
    """Raise `UsageError` where arguments are neither by record nor the same for all records."""
    for one in (*args, *kwargs.values()):
        if not isinstance(one, Tensor) and next(tensors(one), None) is not None:
            raise UsageError(
                f"couldn't train privately: {name} was given tensors within a {type(one).__name__}",
                hint="give it tensors whose first dimension is records, each as an argument of its own",
            )
        if not isinstance(one, (Tensor, int, float, str, tuple, list, Mapping, type(None))):
            raise UsageError(
                f"couldn't train privately: {name} was given a {type(one).__name__}, which is not by record",
                hint="give it tensors whose first dimension is records",
            )


def each(
    module: nn.Module,
    args: Sequence[object],
    kwargs: Mapping[str, object],
    gradients: Sequence[Tensor | None],
    records: int,
) -> Gradients:
    """Return records' gradients, shape (records, *parameter), by the parameter's name within the unit.

    Args:
        module: the unit.
        args: what it was given, tensors by record.
        kwargs: likewise.
        gradients: of the losses at each tensor of its output, None where they do not depend on it.
        records: how many there are.
    """
    bare = _Bare(module)
    values = {f"inner.{name}": one.detach() for name, one in module.named_parameters() if one.requires_grad}
    found = None
    if len(gradients) == 1 and gradients[0] is not None and not kwargs:
        found = _at_once(bare, values, args, gradients[0])
    if found is None:
        parts = [_one(bare, values, args, kwargs, gradients, place) for place in range(records)]
        found = {name: torch.stack([part[name] for part in parts]) for name in values}
    return {name.removeprefix("inner."): one.detach() for name, one in found.items()}


def _at_once(bare: _Bare, values: Mapping[str, Tensor], args: Sequence[object], g: Tensor) -> Gradients | None:
    """Return records' gradients by one vectorised pass; None where some operation has no vectorised form."""
    by_record = [one for one in args if isinstance(one, Tensor)]
    if g.shape[0] != by_record[0].shape[0]:
        return None

    def one(parts: Sequence[Tensor], g_one: Tensor) -> Gradients:
        fed = iter(parts)
        mine = [next(fed)[None] if isinstance(arg, Tensor) else arg for arg in args]
        pull: Any = vjp(lambda held: functional_call(bare, held, tuple(mine)), dict(values))[1]
        found: Gradients = pull(g_one[None])[0]
        return found

    made: Callable[..., Gradients] = vmap(one, in_dims=(0, 0), randomness="error")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # PyTorch warns of operations that it would go through one by one.
            return made(by_record, g)
    except (RuntimeError, NotImplementedError, UserWarning):
        return None  # Said of an operation, not of the data: the loop over records is right for any.


def _one(
    bare: _Bare,
    values: Mapping[str, Tensor],
    args: Sequence[object],
    kwargs: Mapping[str, object],
    gradients: Sequence[Tensor | None],
    place: int,
) -> Gradients:
    """Return the gradients of one record."""
    held = {name: one.clone().requires_grad_() for name, one in values.items()}
    with torch.enable_grad():
        outputs = [*tensors(_again(bare, held, args, kwargs, place))]
    pairs = [
        (out, _share(g, out, place))
        for out, g in zip(outputs, gradients, strict=True)
        if g is not None and out.requires_grad
    ]
    if not pairs:
        return {name: torch.zeros_like(one) for name, one in values.items()}
    found: Sequence[Tensor | None] = torch.autograd.grad(
        [out for out, _ in pairs], [*held.values()], [g for _, g in pairs], allow_unused=True
    )
    return {name: torch.zeros_like(one) if g is None else g for (name, one), g in zip(held.items(), found, strict=True)}


def _again(
    bare: _Bare, held: Mapping[str, Tensor], args: Sequence[object], kwargs: Mapping[str, object], place: int
) -> Any:
    def mine(one: object) -> object:
        return one[place : place + 1] if isinstance(one, Tensor) else one

    mine_too = {name: mine(one) for name, one in kwargs.items()}
    return functional_call(bare, dict(held), tuple(map(mine, args)), mine_too)


def places(
    module: nn.Module, args: Sequence[object], kwargs: Mapping[str, object], gradients: Sequence[Tensor | None]
) -> list[int]:
    """Return which dimension is records in each output: last states of recurrent layers have it second."""
    with torch.no_grad():
        single = [*tensors(_again(_Bare(module), {}, args, kwargs, 0))]
    return [0 if g is None else _dimension(g, out) for out, g in zip(single, gradients, strict=True)]


def _dimension(g: Tensor, single: Tensor) -> int:
    """Return the one dimension in which what all records have differs from what one has; the first if none does."""
    if g.dim() != single.dim():
        return 0
    return next((at for at, (many, one) in enumerate(zip(g.shape, single.shape, strict=True)) if many != one), 0)


def _share(g: Tensor, single: Tensor, place: int) -> Tensor:
    """Return one record's part of a gradient, in the shape that its output has."""
    if g.shape == single.shape:
        return g
    return g.narrow(_dimension(g, single), place, 1)
