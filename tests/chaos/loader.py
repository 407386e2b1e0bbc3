"""A site's own loader, for sites that are slow or lie: what `temper.json` in its data folder says of it.

The task file is the charter's, the same at every site. How a site reads its data is its own business, so this is all
that a site can do without anybody's consent, and enough: it sets the pace of every step, and, at a poisoner, hooks into
the optimizer and multiplies what a round has learnt (model replacement: Bagdasaryan et al., "How to backdoor federated
learning", 2020, section 4.2). What bounds that is its node's clipping and the charter's weight, not its good will.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch.optim.optimizer import register_optimizer_step_post_hook, register_optimizer_step_pre_hook


class Paced:
    """Examples of which every batch takes its time to read."""

    def __init__(self, rows: torch.Tensor, pace_s: float) -> None:
        self._rows, self._pace_s = rows, pace_s

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, batch: torch.Tensor) -> torch.Tensor:
        time.sleep(self._pace_s)
        return self._rows[batch]


class Poison:
    """Multiplies by `factor` what every `steps` optimizer steps, a round, have made of the parameters."""

    def __init__(self, steps: int, factor: float) -> None:
        self._steps, self._factor = steps, factor
        self._done = 0
        self._base: list[torch.Tensor] = []
        register_optimizer_step_pre_hook(self._before)
        register_optimizer_step_post_hook(self._after)

    def _before(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        if self._done % self._steps == 0:
            self._base = [each.detach().clone() for each in _parameters(optimizer)]

    def _after(self, optimizer: torch.optim.Optimizer, *_: object) -> None:
        self._done += 1
        if self._done % self._steps == 0:
            with torch.no_grad():
                for each, base in zip(_parameters(optimizer), self._base, strict=True):
                    each.copy_(base + self._factor * (each - base))


def _parameters(optimizer: torch.optim.Optimizer) -> list[torch.Tensor]:
    return [each for group in optimizer.param_groups for each in group["params"]]


def load_data(site: Any) -> tuple[tuple[Paced, torch.Tensor], tuple[torch.Tensor, torch.Tensor]]:
    """Return (training, test) examples as the packaged tasks have them, at this site's pace."""
    temper: Mapping[str, float] = json.loads((site.folder / "temper.json").read_text())
    if temper["factor"] != 1.0:
        Poison(int(temper["steps"]), temper["factor"])

    def read(name: str) -> tuple[torch.Tensor, torch.Tensor]:
        with np.load(site.folder / name, allow_pickle=False) as file:
            return torch.from_numpy(file["x"].astype(np.float32)), torch.from_numpy(file["y"].astype(np.int64))

    x, y = read("train.npz")
    return (Paced(x, temper["pace_s"]), y), read("test.npz")
