"""A site's training as in the swarm, on records of the audit's choosing: the worker itself, with other data in hand.

What it makes of a round is what the node would offer: the charter's clipping norm is applied, and where there is a
budget the task has to train privately, with the noise that the budget asks for over all of the charter's rounds. The
account is kept in a file of this audit's own, so that nothing is spent: nothing leaves.
"""

from __future__ import annotations

import socket
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import nn
from typing_extensions import override

from node.audit.records import Pair, Records
from node.dpsgd.allowance import Allowance
from node.private import PrivateFolder
from node.spending import Spending, stretches
from node.task import SiteInfo
from node.worker import Worker
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget, Stretch
from swarm.privacy.clipping import clip_in_place
from swarm.vector import Vector

ROUNDS_MAX = 1 << 30
"""Later than any round."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """How the site trains: what `node.trainer.TrainerSettings` has, and the charter's bound on an update's norm."""

    task: Path
    data: Path
    site: str
    seed: int
    loader: Path | None = None
    device: str = "cpu"
    local: str = ""
    rounds: int = 1
    clip: float = 0.0
    budget: Budget | None = None


@dataclass(frozen=True, slots=True)
class Release:
    """What a training has let others see: the models that its rounds began with and its updates, in order."""

    bases: Sequence[Vector]
    updates: Sequence[Vector]

    @property
    def last(self) -> Vector:
        """The model that the last update leads to."""
        made: Vector = self.bases[-1] + self.updates[-1]
        return made


class Trainee(Worker):
    """One site's worker, without its node. One of them in a process."""

    def __init__(self, setting: Setting) -> None:
        self._ends = socket.socketpair()
        self.setting = setting
        self._folder = tempfile.TemporaryDirectory(prefix="swarm-audit-")
        site = SiteInfo(setting.site, setting.data, setting.seed, setting.device)
        super().__init__(
            self._ends[0],
            task=setting.task,
            loader=setting.loader,
            site=site,
            local=setting.local,
            rounds=setting.rounds,
        )
        self.records = Records(self._get_data())
        self._trainings = 0
        self._checked = False

    @property
    def model(self) -> nn.Module:
        """The task's model, as whatever came last has left it."""
        return self._built().model

    @property
    def names(self) -> dict[str, tuple[int, int]]:
        """Where in an update each tensor is: start and end, by name."""
        return dict(self._built().layout.offsets())

    def close(self) -> None:
        """Let go of files and links."""
        self._folder.cleanup()
        for end in self._ends:
            end.close()

    def initial(self) -> Vector:
        """Return the model that the charter begins with."""
        self._parts = None
        found: Vector = np.array(self._built().read(), "<f4")
        return found

    def show(self, vector: Vector) -> nn.Module:
        """Let the model be this one. What of it stays at the site is as the last training has left it."""
        return self._restore(vector, self._own.before(ROUNDS_MAX)).model

    def train(self, records: Pair, rounds: int) -> tuple[Release, list[Stretch]]:
        """Train from the beginning on these records; return what is released, and what it cost of privacy.

        Raises:
            UsageError: the task does not train on what was taken for its records.
            SwarmError: what a site's training is refused for.
            Exception: what user code raises.
        """
        self._trainings += 1
        folder = Path(self._folder.name)
        spending = Spending(folder / f"spent-{self._trainings}")
        self._allowance = Allowance(self.setting.budget, spending, "")
        self._own = PrivateFolder(None)
        self._data = self.records.with_(records)
        model, update = folder / "model.f32", folder / "update.f32"
        base = self.initial()
        bases, updates = [], []
        for round_ in range(1, rounds + 1):
            base.astype("<f4").tofile(model)
            update.unlink(missing_ok=True)
            self._train(round_, model, update)
            made: Vector = np.fromfile(update, "<f4")
            clip_in_place(made, self.setting.clip)
            bases.append(base)
            updates.append(made)
            base = base + made
        charges = spending.charges()
        if any(charge.records != len(records) for charge in charges):
            raise UsageError(
                f"couldn't audit this task: it was given {len(records)} records and trained on {charges[0].records}",
                hint="the first inputs and labels in what load_data() returns must be what train() trains on",
            )
        return Release(bases, updates), stretches(charges)

    def check(self, first: Release, second: Release) -> None:
        """Raise `UsageError` if trainings on different records ended alike: those records are not trained on."""
        if all(np.array_equal(one, two) for one, two in zip(first.updates, second.updates, strict=True)):
            raise UsageError(
                "couldn't audit this task: on other records it trained the same model",
                hint="the first inputs and labels in what load_data() returns must be what train() trains on",
            )

    @override
    def _tell_step(self) -> None:
        """There is nobody to tell."""
