"""One private training within a call of `train()`: batches by chance, gradients clipped record by record, noise, steps.

As a task writes it::

    private = run.private(model, optimizer, records=len(x), batch=64)
    for rows in private:
        private.step(cross_entropy(model(x[rows]), y[rows], reduction="none"))

What leaves a site is computed from the model's parameters as these steps have left them, and from nothing else of the
data, so what is not such a step is refused: a parameter that moved in between, a batch that was passed over, a buffer
that was measured. **Parts that stay at the site are trained with noise like those that travel**: a private head that
had seen the records plainly would tell of them through every gradient of the body.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
import torch
from torch import Tensor

from node.dpsgd import randomness
from node.dpsgd.clipping import Clipper
from swarm.errors import UsageError


class Guard:
    """The floating-point tensors of a model, all of them, as the last private step has left them."""

    def __init__(self, tensors: Callable[[], Mapping[str, Tensor]]) -> None:
        self._tensors = tensors
        self._kept = {name: one.detach().clone() for name, one in self._now().items()}

    def check(self) -> None:
        """Raise `UsageError` if any of them has changed since."""
        now = self._now()
        for name, kept in self._kept.items():
            if name not in now or not torch.equal(now[name], kept):
                raise UsageError(
                    f"couldn't train privately: {name} was changed other than by private.step()",
                    hint="take every step by private.step(), and leave layers out that measure their input",
                )

    def keep(self) -> None:
        """Take them as they are now."""
        for name, one in self._now().items():
            self._kept[name].copy_(one)

    def _now(self) -> dict[str, Tensor]:
        return {name: one.detach() for name, one in self._tensors().items() if one.is_floating_point()}


class Private:
    """Iterate for batches, and call `step` for each with the losses of its records, one number each.

    Args:
        model: what is trained, as `train()` was given it.
        optimizer: of this model's parameters and no others; any that steps along `grad`.
        guard: what has to stand still between steps.
        records: how many there are; a record is what the guarantee protects, and what a loss is of.
        rate: chance of each to be in a batch.
        steps: how many there are.
        clip: norm that each record's gradient is clipped to, > 0.
        noise: deviation of the noise, in multiples of `clip`; 0 adds none.
    """

    def __init__(
        self,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        guard: Guard,
        records: int,
        rate: float,
        steps: int,
        clip: float,
        noise: float,
    ) -> None:
        self._optimizer, self._guard = optimizer, guard
        self.records, self.rate, self.steps, self.clip, self.noise = records, rate, steps, clip, noise
        self._clipper = Clipper(model)
        known = {id(one) for one in model.parameters()}
        for group in optimizer.param_groups:
            if any(id(one) not in known for one in group["params"]):
                raise UsageError(
                    "couldn't train privately: the optimizer has a parameter that is not the model's",
                    hint="make it from model.parameters()",
                )
        stepped = {id(one) for group in optimizer.param_groups for one in group["params"]}
        self._stepped = {name: one for name, one in self._clipper.parameters.items() if id(one) in stepped}
        self._due = False
        self._begun = False

    def __iter__(self) -> Iterator[Tensor]:
        """Yield the numbers of the records in each batch. A batch of nobody is stepped here, with noise alone."""
        if self._begun:
            raise UsageError(
                "couldn't train privately: these steps were taken already",
                hint="say epochs=2 for two passes: each step costs, and all are counted before the first",
            )
        self._begun = True
        device = next(iter(self._clipper.parameters.values())).device
        with self._clipper:
            for _ in range(self.steps):
                rows = randomness.drawn(self.records, self.rate)
                if not rows.size:
                    self._advance({})
                    continue
                self._due = True
                self._clipper.forget()
                yield torch.from_numpy(rows).to(device)
                if self._due:
                    raise UsageError(
                        "couldn't train privately: a batch was passed over",
                        hint="call private.step(losses) once for each batch; to pass over some tells which they were",
                    )

    def step(self, losses: Tensor) -> float:
        """Clip, add noise, and let the optimizer step. Return the mean loss, which is not private: keep it here.

        Args:
            losses: shape (records of the batch,), with a graph: what `reduction="none"` returns.

        Raises:
            UsageError: they are not, or the model is not what can be trained so.
        """
        if not self._due:
            raise UsageError("couldn't train privately: there is no batch for this step", hint="one step a batch")
        if losses.dim() != 1 or not losses.requires_grad:
            raise UsageError(
                f"couldn't train privately: losses have the shape {(*losses.shape,)}, not one number a record",
                hint='compute the loss with reduction="none"',
            )
        self._due = False
        self._guard.check()
        self._advance(self._clipper.clipped(losses, self.clip))
        return float(losses.detach().mean())

    def _advance(self, clipped: Mapping[str, Tensor]) -> None:
        """Step along the noisy sum, divided by how many records are expected: how many there were is a secret."""
        expected = self.rate * self.records
        self._optimizer.zero_grad(set_to_none=True)
        for name, parameter in self._stepped.items():
            found = clipped.get(name)
            shape = tuple(parameter.shape)
            plain = np.zeros(shape) if found is None else found.double().cpu().numpy()
            noisy = randomness.noisy(plain, self.noise * self.clip) / expected
            parameter.grad = torch.from_numpy(noisy).to(parameter)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self._guard.keep()
