"""SHELL. What is added to the steps of user code, from outside it: PyTorch's hooks around every optimizer step.

`swarm.mixing.local` says what is added, and why. Here it is done, to whichever parameters of the model an optimizer
steps, however many optimizers there are and whatever they do: before a step something is added to gradients, after it
something to parameters. User code sees nothing of it, and cannot take part by halves: what these hooks cannot do is
refused in words, also where user code goes on after an exception.

An optimizer that is given a closure computes its gradients within the step; then the closure is followed by what else
would come before. `torch.optim.LBFGS` calls it many times along a line and judges by the loss it returns, to which
nothing was added: it is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from swarm.errors import UsageError
from swarm.mixing.diffusion import carry_into, each_step
from swarm.vector import Layout, Vector

NO_STEP = "it took no step of a PyTorch optimizer on the model it was given"


@dataclass(slots=True)
class Steering:
    """What is done around steps from `begin` to `end`; before and after that they are only counted.

    `steps` says, by a parameter's name, how often it was stepped with a gradient since `begin`.
    """

    steps: dict[str, int] = field(default_factory=dict)
    _names: dict[int, str] = field(default_factory=dict)
    _what: str = ""
    _pull: Mapping[str, torch.Tensor] = field(default_factory=dict)
    _strength: float = 0.0
    _push: Mapping[str, torch.Tensor] = field(default_factory=dict)
    _pinned: Mapping[str, torch.Tensor] = field(default_factory=dict)
    _refused: str = ""

    def begin(
        self,
        model: torch.nn.Module,
        *,
        what: str = "",
        pull: Mapping[str, torch.Tensor] | None = None,
        strength: float = 0.0,
        push: Mapping[str, torch.Tensor] | None = None,
        pinned: Mapping[str, torch.Tensor] | None = None,
    ) -> None:
        """Steer the parameters of `model` from now on.

        Args:
            model: the one that user code is given.
            what: the algorithm's name, for refusals; "" if steps are only counted.
            pull: by name, what `strength` times the distance from is added to the gradient.
            strength: 0 for no pull.
            push: by name, what is added to a parameter after each step.
            pinned: by name, what a parameter is set to after each step, so that it stays where it is.
        """
        self.steps, self._refused = {}, ""
        self._names = {id(parameter): name for name, parameter in model.named_parameters()}
        self._what, self._strength = what, strength
        self._pull, self._push, self._pinned = pull or {}, push or {}, pinned or {}

    def end(self) -> None:
        """Steer no more.

        Raises:
            UsageError: what was to be done could not be.
        """
        refused, what, stepped = self._refused, self._what, bool(self.steps)
        self._names, self._what, self._refused = {}, "", ""
        self._pull, self._push, self._pinned, self._strength = {}, {}, {}, 0.0
        if refused:
            raise UsageError(refused)
        if what and not stepped:
            raise UsageError(
                f"couldn't train by the charter's local = {what}: {NO_STEP}",
                hint="make the optimizer from model.parameters() and call its step()",
            )

    def before(self, optimizer: torch.optim.Optimizer, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Torch's hook before a step: add to gradients, or see to it that a closure does."""
        if not self._what or not any(id(one) in self._names for one in _stepped(optimizer)):
            return None
        if isinstance(optimizer, torch.optim.LBFGS):
            self._refuse(f"{type(optimizer).__name__} searches along lines of a loss to which nothing can be added")
        if not self._strength:
            return None
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if closure is None:
            self._pull_gradients(optimizer)
            return None
        followed = self._followed(closure, optimizer)
        if len(args) > 1:
            return (args[0], followed, *args[2:]), kwargs
        return args, {**kwargs, "closure": followed}

    def after(self, optimizer: torch.optim.Optimizer) -> None:
        """Torch's hook after a step: count it, and move what it has stepped."""
        with torch.no_grad():
            for parameter in _stepped(optimizer):
                name = self._names.get(id(parameter))
                if name is None or parameter.grad is None:
                    continue
                self.steps[name] = self.steps.get(name, 0) + 1
                if name in self._push:
                    parameter.add_(self._push[name])
                if name in self._pinned:
                    parameter.copy_(self._pinned[name])

    def _followed(self, closure: Callable[[], object], optimizer: torch.optim.Optimizer) -> Callable[[], object]:
        def computed() -> object:
            loss = closure()
            self._pull_gradients(optimizer)
            return loss

        return computed

    def _pull_gradients(self, optimizer: torch.optim.Optimizer) -> None:
        # A fused optimizer under torch.amp divides gradients by this within the step.
        scale = getattr(optimizer, "grad_scale", None)
        with torch.no_grad():
            for parameter in _stepped(optimizer):
                target = self._pull.get(self._names.get(id(parameter), ""))
                if target is None or parameter.grad is None:
                    continue
                if parameter.grad.is_sparse:
                    self._refuse("a sparse gradient has no room for a pull on all elements")
                pull = (parameter - target).to(parameter.grad.dtype) * self._strength
                parameter.grad.add_(pull if scale is None else pull * scale)

    def _refuse(self, why: str) -> None:
        self._refused = f"couldn't train by the charter's local = {self._what}: {why}"
        raise UsageError(self._refused, hint="take SGD or Adam, or agree on a charter without it")


@dataclass(frozen=True, slots=True, eq=False)
class Bend:
    """How a round's steps take a correction c of `swarm.mixing.diffusion`: c / K with each of as many as there will be.

    How many that is nobody knows before. It is taken to be what it was in the round before, parameter by parameter, and
    what steps have had too much or too little of is settled at the end, so that all of c is always in the update.
    `push` is what each step adds, by a parameter's name; `spans` has all parameters that are trained, stepped or not.
    """

    correction: Vector
    spans: Mapping[str, tuple[int, int]]
    steps: Mapping[str, int]
    push: Mapping[str, torch.Tensor]

    @classmethod
    def of(cls, correction: Vector, layout: Layout, model: torch.nn.Module, steps_before: Mapping[str, object]) -> Bend:
        """Spread a correction, shape (elements,), over the steps of a round of `model`."""
        trained = {name: one for name, one in model.named_parameters() if one.requires_grad}
        spans = {name: span for name, span in layout.offsets().items() if name in trained}
        known = {name: steps for name in spans if isinstance(steps := steps_before.get(name), int) and steps > 0}
        push = {}
        for name, steps in known.items():
            start, end = spans[name]
            each = torch.from_numpy(each_step(correction[start:end], steps))
            push[name] = each.reshape(trained[name].shape).to(trained[name])
        return cls(correction, spans, known, push)

    def settle(self, update: Vector, taken: Mapping[str, int]) -> None:
        """Add what an update lacks of the correction, whose steps were `taken`, or take off what is too much."""
        for name, (start, end) in self.spans.items():
            planned, had = self.steps.get(name, 0), taken.get(name, 0)
            if planned and planned == had:
                continue
            rest = np.array(self.correction[start:end])
            if planned:
                rest -= each_step(self.correction[start:end], planned) * np.float32(had)
            carry_into(update[start:end], rest)


def _stepped(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [parameter for group in optimizer.param_groups for parameter in group["params"]]
