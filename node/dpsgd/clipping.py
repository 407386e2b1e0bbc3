"""The sum of all records' gradients, each clipped to one norm, from one backward pass and with no change to the model.

Hooks note what goes into each layer and where its output stands in the graph. The gradient of the summed losses is
asked for at those places only, so that PyTorch computes no weight's gradient; from inputs and those gradients
`node.dpsgd.layers` has each record's norm and then the sum with factors min(1, C / norm).

What hooks cannot see would be neither clipped nor noised, so on a training's first batch it is looked for: the sum must
be autograd's, and the loss of one record must not depend on another's. A model that does not pass is refused by name.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.autograd.graph import GradientEdge, get_gradient_edge
from torch.nn.modules.batchnorm import _BatchNorm

from node.dpsgd.layers import LAYERS, Gradients
from swarm.errors import UsageError

SLACK = 1e-4
"""Norms are made smaller than the bound by so much: sums in float32 may come out a little longer than they are."""

AGREES = 1e-3
"""How far the sum may be from autograd's, relative to its length."""

GUIDE = "docs/guides/privacy.md lists the layers that can be trained so"


@dataclass(slots=True)
class _Call:
    """One use of a layer in a forward pass. `version` tells whether its input was changed in place since."""

    module: nn.Module
    name: str
    seen: Tensor
    version: int
    edge: GradientEdge
    records: int


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
        for name, module in model.named_modules():
            trained = {inner: one for inner, one in module.named_parameters(recurse=False) if one.requires_grad}
            _refuse_statistics(name, module)
            for inner, one in trained.items():
                here = f"{name}.{inner}" if name else inner
                if id(one) in owners:
                    raise UsageError(
                        f"couldn't train privately: {here} and {owners[id(one)]} are one parameter",
                        hint="give each layer its own, or freeze it",
                    )
                owners[id(one)] = here
            if trained:
                _refuse_unknown(name, module)
                self._hooked.append((name, module))
        self._handles: list[Any] = []
        self.parameters = {name: one for name, one in model.named_parameters() if one.requires_grad}

    def __enter__(self) -> Self:
        for name, module in self._hooked:
            self._handles.append(module.register_forward_hook(self._noting(name)))
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
            if call.records != losses.shape[0]:
                raise UsageError(
                    f"couldn't train privately: {call.name} was given {call.records} rows for {losses.shape[0]}"
                    " records",
                    hint="let the first dimension of all that goes through the model be records",
                )
            if call.seen._version != call.version:  # noqa: SLF001 - there is no other way to ask
                raise UsageError(
                    f"couldn't train privately: what went into {call.name} was changed in place afterwards",
                    hint="leave inplace=True out there",
                )
        edges = [call.edge for call in calls]
        if not self._checked:
            self._check_apart(losses, edges, calls)
        found = _gradients(losses.sum(), edges, keep=not self._checked)
        used = [(call, g.detach()) for call, g in zip(calls, found, strict=True) if g is not None]
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
        def note(module: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> None:
            if torch.is_grad_enabled() and output.requires_grad:
                seen = args[0].detach()
                edge = get_gradient_edge(output)
                self._calls.append(_Call(module, name, seen, seen._version, edge, output.shape[0]))  # noqa: SLF001

        return note

    def _check_apart(self, losses: Tensor, edges: Sequence[GradientEdge], calls: Sequence[_Call]) -> None:
        """Refuse a model in which the loss of the first record follows from another record too."""
        if losses.shape[0] < 2:
            return
        found = _gradients(losses[0], edges, keep=True)
        for call, g in zip(calls, found, strict=True):
            if g is not None and bool(torch.nan_to_num(g[1:], 0.0, 0.0, 0.0).any()):
                raise UsageError(
                    f"couldn't train privately: through {call.name} the loss of one record depends on other records",
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


def _gradients(loss: Tensor, edges: Sequence[GradientEdge], *, keep: bool) -> Sequence[Tensor | None]:
    """Return the gradients at these places, None where the loss does not depend on one; the graph stays with `keep`."""
    return torch.autograd.grad(loss, edges, retain_graph=keep, allow_unused=True)


def _norms(used: Sequence[tuple[_Call, Tensor]]) -> Tensor:
    """Return records' squared norms over all layers, in float64."""
    squares = []
    for calls in _by_module(used):
        module = calls[0][0].module
        layer = LAYERS[type(module)]
        if len(calls) == 1:
            found = layer.squares(module, calls[0][0].seen, calls[0][1])
            frozen = [name for name, one in module.named_parameters(recurse=False) if not one.requires_grad]
            if not frozen:
                squares.append(found.double())
                continue
        # Used several times, gradients add up before their norm is taken; partly frozen, some do not count.
        each = _added([layer.each(module, call.seen, g) for call, g in calls], module)
        squares += [one.flatten(1).double().square().sum(1) for one in each.values()]
    return torch.stack(squares).sum(0)


def _total(used: Sequence[tuple[_Call, Tensor]], factors: Tensor) -> Gradients:
    found: Gradients = {}
    for call, g in used:
        total = LAYERS[type(call.module)].total(call.module, call.seen, g, factors)
        for name, one in total.items():
            if getattr(call.module, name).requires_grad:
                whole = f"{call.name}.{name}" if call.name else name
                found[whole] = found[whole] + one if whole in found else one
    return found


def _by_module(used: Sequence[tuple[_Call, Tensor]]) -> list[list[tuple[_Call, Tensor]]]:
    found: dict[int, list[tuple[_Call, Tensor]]] = {}
    for call, g in used:
        found.setdefault(id(call.module), []).append((call, g))
    return [*found.values()]


def _added(each: Sequence[Gradients], module: nn.Module) -> Gradients:
    trained = [name for name in each[0] if getattr(module, name).requires_grad]
    return {name: torch.stack([one[name] for one in each]).sum(0) for name in trained}


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


def _refuse_unknown(name: str, module: nn.Module) -> None:
    what = f"the layer {name or 'that is the model itself'} ({type(module).__name__})"
    if type(module) not in LAYERS:
        known = ", ".join(sorted(kind.__name__ for kind in LAYERS))
        raise UsageError(
            f"couldn't train privately: nothing is known here of how {what} computes its gradient",
            hint=f"build it of {known}, or freeze it; {GUIDE}",
        )
    if isinstance(module, nn.Embedding) and (module.sparse or module.scale_grad_by_freq or module.max_norm is not None):
        raise UsageError(
            f"couldn't train privately: {what} is sparse, scales by frequency or has a largest norm",
            hint="leave sparse, scale_grad_by_freq and max_norm out",
        )
