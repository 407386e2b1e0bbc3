"""The records in what a task's `load_data()` returned: which are trained on, and how to train on others instead.

Nothing says where in a task's data the records are, so a form is looked for that nearly all tasks have: inputs and
labels side by side, as two arrays of one length or a `TensorDataset`. The first such pair, going from the front, is
taken to be what is trained on, the second what is held out. That is a guess, and `node.audit.training` checks it: a
training on other records of the first pair must end otherwise.

An attacker knows the task's code, so how a record is scored is no secret: the loss that follows from the shapes of
labels and outputs, cross-entropy for classes and squared error for numbers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from swarm.errors import UsageError

AT_ONCE = 512
"""Records that losses are computed of at a time."""

GUIDE = "docs/guides/privacy.md says which data can be audited"


@dataclass(frozen=True, slots=True)
class Pair:
    """Records: inputs, shape (n, ...), and labels, shape (n,) or (n, 1)."""

    x: Tensor
    y: Tensor

    def __len__(self) -> int:
        return len(self.x)

    def at(self, rows: np.ndarray | Tensor) -> Pair:
        """Return the records at these places."""
        where = torch.as_tensor(rows)
        return Pair(self.x[where], self.y[where])

    def and_(self, other: Pair) -> Pair:
        """Return these records, then others."""
        return Pair(torch.cat([self.x, other.x]), torch.cat([self.y, other.y]))


class Records:
    """What a task has loaded.

    Attributes:
        trained: the records of the first pair.
        held_out: those of the second, None where there is none.

    Raises:
        UsageError: there is no pair in it.
    """

    def __init__(self, data: object) -> None:
        self._data = data
        pairs = _pairs(data)
        first = next(pairs, None)
        if first is None:
            raise UsageError(
                f"couldn't find records in what load_data() returned ({type(data).__name__})",
                hint=f"let its first part be inputs and labels, as arrays of one length or a TensorDataset; {GUIDE}",
            )
        self.trained, self.held_out = first, next(pairs, None)

    def with_(self, records: Pair) -> object:
        """Return the task's data with these records to train on, and all else as it was."""
        done = False

        def replace(part: object) -> object:
            nonlocal done
            if done:
                return part
            if _is_pair(part):
                done = True
                return _like(part, records)
            if isinstance(part, Mapping):
                return {key: replace(one) for key, one in part.items()}
            if isinstance(part, list):
                return [replace(one) for one in part]
            if isinstance(part, tuple):
                return _tuple_like(part, [replace(one) for one in part])
            return part

        return replace(self._data)


def _is_pair(part: object) -> bool:
    if isinstance(part, TensorDataset):
        return len(part.tensors) == 2 and _match(*part.tensors)
    if not isinstance(part, (tuple, list)) or len(part) != 2:
        return False
    return all(isinstance(one, (Tensor, np.ndarray)) and len(one.shape) for one in part) and _match(*part)


def _match(x: Tensor | np.ndarray, y: Tensor | np.ndarray) -> bool:
    """Whether these are inputs with a label each: as many, and of labels one a record."""
    return len(x) == len(y) > 0 and (len(y.shape) == 1 or tuple(y.shape[1:]) == (1,))


def _pairs(part: object) -> Iterator[Pair]:
    if _is_pair(part):
        both: Any = part.tensors if isinstance(part, TensorDataset) else part
        yield Pair(torch.as_tensor(both[0]), torch.as_tensor(both[1]))
    elif isinstance(part, Mapping):
        for one in part.values():
            yield from _pairs(one)
    elif isinstance(part, (tuple, list)):
        for one in part:
            yield from _pairs(one)


def _like(part: object, records: Pair) -> object:
    """Return records in the form that this pair has."""
    if isinstance(part, TensorDataset):
        return TensorDataset(records.x, records.y)
    assert isinstance(part, (tuple, list)), "it is a pair"
    made = [
        new.to(old.device) if isinstance(old, Tensor) else new.cpu().numpy().astype(old.dtype)
        for old, new in zip(part, (records.x, records.y), strict=True)
    ]
    return made if isinstance(part, list) else _tuple_like(part, made)


def _tuple_like(part: tuple[object, ...], made: Sequence[object]) -> object:
    """Return a tuple of the same kind: named ones take their fields one by one."""
    kind: Any = type(part)
    return kind(*made) if hasattr(part, "_fields") else tuple(made)


# --- scores -----------------------------------------------------------------------------------------------------------

Loss = Callable[[Tensor, Tensor], Tensor]
"""Outputs and labels of n records to n losses, with a graph."""


@dataclass(frozen=True, slots=True)
class Scoring:
    """How records are scored. `classes` is 0 for numbers, otherwise how many classes there are."""

    loss: Loss
    classes: int


def scoring(model: nn.Module, records: Pair, device: str) -> Scoring:
    """Return how this model's outputs are scored.

    Raises:
        UsageError: that does not follow from the shapes of labels and outputs.
    """
    model.eval()
    with torch.no_grad():
        try:
            some = records.at(np.arange(min(len(records), AT_ONCE)))
            out = model(some.x.to(device))
        except Exception as error:  # noqa: BLE001 - user code may raise anything
            raise UsageError(
                f"couldn't score records: the model does not take the first array alone ({type(error).__name__})",
                hint=GUIDE,
            ) from None
    whole = not records.y.is_floating_point()
    values = torch.unique(records.y)
    if isinstance(out, Tensor) and out.is_floating_point() and len(out) == len(some):
        if (
            whole
            and out.dim() == 2
            and out.shape[1] > 1
            and int(values.min()) >= 0
            and int(values.max()) < out.shape[1]
        ):
            return Scoring(_cross_entropy, int(out.shape[1]))
        if out.numel() == len(some) and set(values.tolist()) <= {0, 1}:
            inside = bool(((out >= 0) & (out <= 1)).all())
            return Scoring(_binary_of_chances if inside else _binary, 2)
        if out.numel() == len(some) and not whole:
            return Scoring(_squared, 0)
    shape = tuple(out.shape) if isinstance(out, Tensor) else type(out).__name__
    raise UsageError(
        f"couldn't score records: of labels {tuple(records.y.shape)} and outputs {shape} no loss follows",
        hint=f"classes as whole numbers with an output each, or one number with one output; {GUIDE}",
    )


def _cross_entropy(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.cross_entropy(out, y.long().reshape(-1), reduction="none")


def _binary(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(
        out.reshape(-1), y.to(out.dtype).reshape(-1), reduction="none"
    )


def _binary_of_chances(out: Tensor, y: Tensor) -> Tensor:
    return nn.functional.binary_cross_entropy(out.reshape(-1), y.to(out.dtype).reshape(-1), reduction="none")


def _squared(out: Tensor, y: Tensor) -> Tensor:
    return (out.reshape(-1) - y.reshape(-1)).square()


@torch.no_grad()
def confidence(model: nn.Module, how: Scoring, records: Pair, device: str) -> np.ndarray:
    """Return how sure the model is of each record's label, shape (n,): on a scale on which it is nearly normal.

    For classes log(p / (1 - p)), p the chance that it gives to the label (Carlini et al. 2022, eq. 4); for numbers the
    distance from the label, negative.
    """
    model.eval()
    losses = [
        how.loss(model(records.x[start : start + AT_ONCE].to(device)), records.y[start : start + AT_ONCE].to(device))
        for start in range(0, len(records), AT_ONCE)
    ]
    found: np.ndarray = torch.cat(losses).double().cpu().numpy() if losses else np.empty(0)
    if how.classes:
        held = np.clip(found, 1e-9, 60.0)
        found = held + np.log(-np.expm1(-held))
    else:
        found = np.sqrt(found)
    return -found
