"""SHELL. An optimizer's state as tensors and numbers, so that a site can keep it from round to round.

What an optimizer has seen, moments and step counts, is a site's own: it is never sent, and kept like private parts
(`node.private`). What it is told, rates and the like, comes anew from the task's build_optimizer(), so that a schedule
by `run.round` is the only place where they change. Nothing is pickled: a state that holds anything but tensors and
numbers is refused in words.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from node.parts import numbers
from node.private import Own
from swarm.errors import UsageError


def keep_optimizer_state(
    optimizer: torch.optim.Optimizer,
    part: str,
    arrays: dict[str, NDArray[np.generic]],
    words: dict[str, str | int | float | bool | None],
) -> None:
    """Add an optimizer's state to what is kept, under `part/PLACE/NAME`, places by order of its parameters.

    Raises:
        UsageError: it holds something else.
    """
    for place, values in optimizer.state_dict()["state"].items():
        for name, value in values.items():
            key = f"{part}/{place}/{name}"
            if isinstance(value, torch.Tensor):
                arrays[key] = numbers(value)
            elif value is None or isinstance(value, bool | int | float):
                words[key] = value
            else:
                raise UsageError(
                    f"couldn't keep the state of {type(optimizer).__name__}: its {name} is {type(value).__name__}",
                    hint='take another optimizer, or write optimizer_state = "fresh"',
                )


def optimizer_state(own: Own, part: str) -> dict[int, dict[str, object]]:
    """Return what was kept of an optimizer, as its `load_state_dict` wants it; empty if nothing was."""
    found: dict[int, dict[str, object]] = {}
    tensors = {name: torch.from_numpy(np.array(array)) for name, array in own.under(part).items()}
    values = {name.removeprefix(f"{part}/"): value for name, value in own.words.items() if name.startswith(f"{part}/")}
    for key, value in (*tensors.items(), *values.items()):
        place, _, name = key.partition("/")
        found.setdefault(int(place), {})[name] = value
    return found
