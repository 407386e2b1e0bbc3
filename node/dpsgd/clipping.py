"""The sum of all records' gradients, each clipped to one norm, from one backward pass and with no change to the model.

Hooks note what goes into each layer and where its output stands in the graph. The gradient of the summed losses is
asked for at those places only, so that PyTorch computes no weight's gradient; from inputs and those gradients
`node.dpsgd.layers` has each record's norm and then the sum with factors min(1, C / norm). Layers of which nothing is
known are computed again for each record (`node.dpsgd.units`).

What hooks cannot see would be neither clipped nor noised, so on a training's first batch it is looked for: the sum must
be autograd's, and the loss of one record must not depend on another's. A model that does not pass is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from node.dpsgd import units
from node.dpsgd.layers import LAYERS, Gradients
from swarm.errors import UsageError

SLACK = 1e-4
"""Norms are made smaller than the bound by so much: sums in float32 may come out a little longer than they are."""

AGREES = 1e-3
"""How far the sum may be from autograd's, relative to its length."""


@dataclass(slots=True)
class _Call:
    """One use of a layer in a forward pass.

    `versions` tell whether what went in was changed in place since; `edges` are where its outputs stand in the graph,
    None where one has no gradient.
    `each` has records' gradients once they had to be computed, of layers of which nothing is known.
    """

    module: nn.Module
    name: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    versions: tuple[int, ...]
    edges: tuple[GradientEdge | None, ...]
    records: tuple[int, ...]
    each: Gradients | None = None

    @property
    def seen(self) -> Tensor:
        """What went into a layer that takes one tensor."""
        found: Tensor = self.args[0]
        return found

    @property
    def changed(self) -> bool:
        """Whether something that went in is not what it was."""
        now = tuple(one._version for one in units.tensors([self.args, self.kwargs]))  # noqa: SLF001 - no other way
        return now != self.versions


_Used = tuple[_Call, Sequence[Tensor | None]]
"""A use of a layer, and the losses' gradients at its outputs."""


class Clipper:
    """Hooks on every layer of a model that has parameters in training; use it as a context.

    Raises:
        UsageError: a layer's gradients cannot be told apart by record.
    """

    def __init__(self, model: nn.Module) -> None:
        self._model = model
        self._calls: list[_Call] = []
        self._known: dict[int, str] = {}
        self._checked = False
        owners: dict[int, str] = {}
        self._hooked: list[tuple[str, nn.Module]] = []
        whole: list[str] = []
        for name, module in model.named_modules():
            _refuse_statistics(name, module)
            if any(not unit or name.startswith(f"{unit}.") for unit in whole):
                continue
            trained = {inner: one for inner, one in module.named_parameters(recurse=False) if one.requires_grad}
            if trained and type(module) not in LAYERS:
                whole.append(name)
                trained = {inner: one for inner, one in module.named_parameters() if one.requires_grad}
            for inner, one in trained.items():
                here = f"{name}.{inner}" if name else inner
                if id(one) in owners:
                    raise UsageError(
                        f"couldn't train privately: {here} and {owners[id(one)]} are one parameter",
                        hint="give each layer its own, or freeze it",
                    )
                owners[id(one)] = here
            if trained:
                _refuse_scaled(name, module)
                self._hooked.append((name, module))
        self._handles: list[Any] = []
        self.parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}

    def __enter__(self) -> Self:
        for name, module in self._hooked:
            self._handles.append(module.register_forward_hook(self._noting(name), with_kwargs=True))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._calls.clear()

    def forget(self) -> None:
        """Forget what has been seen of a forward pass."""
        self._calls.clear()

    def clipped(self, losses: Tensor, bound: float) -> Gradients:
        """Return, by parameter, the sum of gradients of `losses`, shape (records,), each of norm `bound` at most.

        Raises:
            UsageError: the model is not what can be clipped.
        """
        calls, self._calls = self._calls, []
        if not calls:
            raise UsageError("couldn't train privately: no layer of the model was used for these losses")
        for call in calls:
            other = next((rows for rows in call.records if rows != losses.shape[0]), None)
            if other is not None:
                raise UsageError(
                    f"couldn't train privately: {call.name} was given {other} rows for {losses.shape[0]} records",
                    hint="let the first dimension of all that goes through the model be records",
                )
            if call.changed:
                raise UsageError(
                    f"couldn't train privately: what went into {call.name} was changed in place afterwards",
                    hint="leave inplace=True out there",
                )
        if not self._checked:
            self._check_apart(losses, calls)
        found = _gradients(losses.sum(), calls, keep=not self._checked)
        used = [
            (call, [None if g is None else g.detach() for g in gs])
            for call, gs in zip(calls, found, strict=True)
            if any(g is not None for g in gs)
        ]
        if not self._checked:
            self._check_whole(losses, _total(used, torch.ones_like(losses.detach())))
            self._checked = losses.shape[0] > 1  # Of one record nothing shows whether it depends on others.
        norms = torch.sqrt(_norms(used))
        if not bool(torch.isfinite(norms).all()):
            raise UsageError(
                "couldn't train privately: a record's gradient is not finite",
                hint="lower the learning rate, or look for a log or a division by zero in the loss",
            )
        factors = torch.clamp(bound * (1 - SLACK) / norms.clamp(min=1e-12), max=1.0).to(losses.dtype)
        return _total(used, factors)

    def _noting(self, name: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: object) -> None:
            outputs = [*units.tensors(output)]
            if not torch.is_grad_enabled() or not any(one.requires_grad for one in outputs):
                return
            known = type(module) in LAYERS
            if not known:
                units.check_unit(name, module)
                units.check_arguments(name, args, kwargs)
            taken = (*args, *kwargs.values())[:1] if known else args
            fed = tuple(map(_detached, taken))
            named = {} if known else {key: _detached(one) for key, one in kwargs.items()}
            by_record = [*units.tensors([fed, named])]
            rows = (outputs[0].shape[0],) if known else tuple(one.shape[0] if one.dim() else 0 for one in by_record)
            versions = tuple(one._version for one in by_record)  # noqa: SLF001 - there is no other way to ask
            edges = tuple(get_gradient_edge(one) if one.requires_grad else None for one in outputs)
            self._calls.append(_Call(module, name, fed, named, versions, edges, rows))

        return note

    def _check_apart(self, losses: Tensor, calls: Sequence[_Call]) -> None:
        """Refuse a model in which the loss of the first record follows from another record too."""
        if losses.shape[0] < 2:
            return
        found = _gradients(losses[0], calls, keep=True)
        for call, gs in zip(calls, found, strict=True):
            known = type(call.module) in LAYERS
            at = [0] if known else units.places(call.module, call.args, call.kwargs, gs)
            for g, place in zip(gs, at, strict=True):
                others = None if g is None else g.narrow(place, 1, g.shape[place] - 1)
                if others is not None and bool(torch.nan_to_num(others, 0.0, 0.0, 0.0).any()):
                    raise UsageError(
                        f"couldn't train privately: through {call.name} the loss of one record depends on other"
                        " records",
                        hint="return one loss a record, and leave out whatever mixes the records of a batch",
                    )

    def _check_whole(self, losses: Tensor, ours: Gradients) -> None:
        """Refuse a model that uses a parameter where no hook has seen it."""
        names = [*self.parameters]
        true = torch.autograd.grad(losses.sum(), [self.parameters[name] for name in names], allow_unused=True)
        for name, whole in zip(names, true, strict=True):
            if whole is None:
                continue
            mine = ours.get(name, torch.zeros_like(whole))
            if float((mine - whole).norm()) > AGREES * float(whole.norm()) + 1e-6:
                raise UsageError(
                    f"couldn't train privately: the gradient of {name} does not come from its own layer alone",
                    hint="call the layer itself, and do not use its parameters elsewhere",
                )


def _detached(value: object) -> object:
    return value.detach() if isinstance(value, Tensor) else value


def _gradients(loss: Tensor, calls: Sequence[_Call], *, keep: bool) -> list[Sequence[Tensor | None]]:
    """Return the gradients at each call's outputs, None where the loss does not depend on one; `keep` the graph."""
    edges = [edge for call in calls for edge in call.edges if edge is not None]
    found = iter(torch.autograd.grad(loss, edges, retain_graph=keep, allow_unused=True))
    return [[None if edge is None else next(found) for edge in call.edges] for call in calls]


def _each(call: _Call, gs: Sequence[Tensor | None]) -> Gradients:
    """Return records' gradients of a layer's parameters in training, by their names within it."""
    layer = LAYERS.get(type(call.module))
    if layer is not None:
        assert gs[0] is not None, "it is used"
        found = layer.each(call.module, call.seen, gs[0])
        return {name: one for name, one in found.items() if call.module.get_parameter(name).requires_grad}
    if call.each is None:
        call.each = units.each(call.module, call.args, call.kwargs, gs, call.records[0])
    return call.each


def _norms(used: Sequence[_Used]) -> Tensor:
    """Return records' squared norms over all layers, in float64."""
    squares = []
    for calls in _by_module(used):
        module = calls[0][0].module
        layer = LAYERS.get(type(module))
        g = calls[0][1][0]
        if len(calls) == 1 and layer is not None and g is not None:
            frozen = [name for name, one in module.named_parameters(recurse=False) if not one.requires_grad]
            if not frozen:
                squares.append(layer.squares(module, calls[0][0].seen, g).double())
                continue
        # Used several times, gradients add up before their norm is taken; partly frozen, some do not count.
        each = _added([_each(call, gs) for call, gs in calls])
        squares += [one.flatten(1).double().square().sum(1) for one in each.values()]
    return torch.stack(squares).sum(0)


def _total(used: Sequence[_Used], factors: Tensor) -> Gradients:
    found: Gradients = {}
    for call, gs in used:
        layer = LAYERS.get(type(call.module))
        if layer is not None:
            assert gs[0] is not None, "it is used"
            total = layer.total(call.module, call.seen, gs[0], factors)
        else:
            total = {name: torch.tensordot(factors, one, dims=1) for name, one in _each(call, gs).items()}
        for name, one in total.items():
            if call.module.get_parameter(name).requires_grad:
                whole = f"{call.name}.{name}" if call.name else name
                found[whole] = found[whole] + one if whole in found else one
    return found


def _by_module(used: Sequence[_Used]) -> list[list[_Used]]:
    found: dict[int, list[_Used]] = {}
    for call, gs in used:
        found.setdefault(id(call.module), []).append((call, gs))
    return [*found.values()]


def _added(each: Sequence[Gradients]) -> Gradients:
    return {name: torch.stack([one[name] for one in each]).sum(0) for name in each[0]}


def _refuse_statistics(name: str, module: nn.Module) -> None:
    """Refuse what mixes the records of a batch, or keeps of them what no noise is added to."""
    mixes = isinstance(module, _BatchNorm) and module.training
    if mixes or (getattr(module, "track_running_stats", False) and module.training):
        what = f"{type(module).__name__} {name}"
        raise UsageError(
            f"couldn't train privately: {what} makes each record's gradient depend on the whole batch",
            hint="replace it in build_model(): nn.GroupNorm(min(32, channels), channels) in place of nn.BatchNorm2d("
            "channels); a frozen one may stay",
        )


def _refuse_scaled(name: str, module: nn.Module) -> None:
    if isinstance(module, nn.Embedding) and (module.sparse or module.scale_grad_by_freq or module.max_norm is not None):
        raise UsageError(
            f"couldn't train privately: the layer {name or 'that is the model itself'} (Embedding) is sparse, scales by"
            " frequency or has a largest norm",
            hint="leave sparse, scale_grad_by_freq and max_norm out",
        )
