"""SHELL. A site as it stands at one moment, from its folder: ledger, running node, disk, privacy budget."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from node.cli.control import ask
from node.cli.ledger.following import Following
from node.cli.ledger.sources import Files, open_folder
from node.cli.privacy import account_of
from node.clock import Clock
from node.site import Site
from swarm.errors import SwarmError
from swarm.ledger.audit import Audit

AGAIN_S = 60.0
"""After which a ledger that does not hold is read anew: somebody may have mended it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """What one look found, at Unix time `at_s`.

    `status` is what the node answers, None if it does not, and then `silence` says why. `audit` is the ledger as far as
    it holds; `trouble` says what is wrong with it. Sizes are in bytes. `epsilon` is the privacy loss so far, None where
    nothing is private, and `budget` what it may come to, None where there is no limit.
    """

    at_s: float
    name: str
    status: Mapping[str, object] | None
    silence: str
    audit: Audit
    trouble: str
    disk_free: int
    ledger_size: int
    epsilon: float | None = None
    budget: float | None = None


class Watch:
    """Looks at the site in a folder, again and again. Raises `SwarmError` when there is no site, or no ledger."""

    def __init__(self, folder: Path) -> None:
        self._site = Site(folder)
        self._files = open_folder(folder)
        whole = self._site.settings_path.exists()  # A copy of a ledger can be looked at as well.
        self._name = self._site.load_settings().site.name if whole else folder.resolve().name
        self._following = Following(self._files)
        self._trouble, self._again_at = "", 0.0
        self._clock = Clock()
        self._spent_as_of, self._spent = 0, _NOTHING

    def look(self) -> Look:
        """Return how things stand now."""
        now = self._clock.now()
        self._follow(now)  # Before the node is asked: the first time it takes a while, and an answer would grow old.
        status, silence = None, ""
        try:
            status = ask(self._site.control)
        except SwarmError as error:
            silence = error.message
        epsilon, budget = self._privacy()
        return Look(
            at_s=now,
            name=self._name,
            status=status,
            silence=silence,
            audit=self._following.result,
            trouble=self._trouble,
            disk_free=shutil.disk_usage(self._site.folder).free,
            ledger_size=self._files.size_bytes(),
            epsilon=epsilon,
            budget=budget,
        )

    @property
    def following(self) -> Following:
        """The ledger as far as it was read, to look into: another one after each `look` that finds it mended."""
        return self._following

    @property
    def files(self) -> Files:
        """Where it lies."""
        return self._files

    def close(self) -> None:
        """Let go of the files."""
        self._following.close()

    def _follow(self, now: float) -> None:
        if self._trouble:
            if now < self._again_at:
                return
            self._following.close()
            self._files = open_folder(self._site.folder)
            self._following, self._trouble = Following(self._files), ""
        try:
            self._following.catch_up()
        except SwarmError as error:
            self._trouble, self._again_at = error.message, now + AGAIN_S

    def _privacy(self) -> tuple[float | None, float | None]:
        """Return what is spent and of how much. The sum takes a while: it is made anew when something was added."""
        try:
            changed = self._site.spending_path.stat().st_mtime_ns
        except OSError:
            return _NOTHING
        if changed != self._spent_as_of:
            try:
                account = account_of(self._site)
            except SwarmError:
                return _NOTHING
            self._spent_as_of = changed
            self._spent = account.epsilon(), None if account.budget is None else account.budget.epsilon
        return self._spent


_NOTHING: tuple[float | None, float | None] = None, None
