"""SHELL. One look for all who watch: made at most once a second, in a thread of its own, while anybody asks.

A look reads files and asks the node, which may take a while; whoever waits for one waits without holding up others. The
ledger's parts are read in the same thread, since what follows a ledger serves one caller at a time.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from node.dashboard import documents
from node.watch.look import Look, Watch
from node.watch.server import FRESH_S, Latest
from swarm.ledger.audit import Audit

T = TypeVar("T")


class Totals:
    """What all rounds come to, added up as seldom as people can bear.

    That takes the longer the more rounds there are. Where blocks come at every look it would in a long run be most of
    what watching costs, so it is then done at intervals that grow with rounds and sites: its share of the processor
    stays as it is. Once a look finds nothing new the totals are made those of all rounds: no run ends with old ones.
    """

    def __init__(self) -> None:
        self._of: tuple[Audit, int, int] | None = None
        self._at_s, self._blocks = 0.0, 0
        self._sums: documents.Sums | None = None

    def of(self, look: Look) -> documents.Sums:
        """Return the totals as of a look, or as of one not long before it."""
        audit = look.audit
        quiet, self._blocks = audit.blocks == self._blocks, audit.blocks
        # An audit that was begun anew, and members that the last totals do not know, are never waited for.
        as_of = audit, len(audit.epochs), audit.blocks
        old = self._of is None or self._of[0] is not audit or self._of[1] != as_of[1]
        apart_s = min(len(audit.rounds) * len(audit.state.terms.members) * APART_S, APART_S_MAX)
        due = quiet or not 0 <= look.at_s - self._at_s < apart_s
        if self._sums is None or old or (due and self._of != as_of):
            self._of, self._at_s, self._sums = as_of, look.at_s, documents.sums(audit)
        return self._sums


class Feed:
    """What a site is like, for as many as ask. To be used in one event loop, and closed."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._latest = watch, Latest(watch.look)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._told: tuple[Look | None, str] = None, ""
        self._totals = Totals()

    async def within(self, work: Callable[[Watch], T]) -> T:
        """Return what `work` makes of the watch, in the thread in which it is looked through."""
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, self._watch)

    async def ledger(self, work: Callable[[Watch], T]) -> T:
        """Return what `work` makes of the watch, once it has read the ledger as far as it goes now."""
        await self.look()
        return await self.within(work)

    async def look(self) -> Look:
        """Return a look that is fresh; of several who ask at once the first has it made.

        Raises:
            SwarmError: there is nothing to look at any more.
        """
        return await self.within(lambda _: self._latest.get())

    async def update(self, since: int) -> str:
        """Return as JSON how the site stands, and the rounds that are new to who knows all up to `since`."""
        look = await self.look()
        return await self.within(lambda _: told(self._state_of(look), look, since))

    def _state_of(self, look: Look) -> str:
        """Return as JSON how a site stands, made once a look."""
        if self._told[0] is not look:
            self._told = look, json.dumps(documents.state(look, self._totals.of(look)), separators=(",", ":"))
        return self._told[1]

    async def stream(self, since: int) -> AsyncIterator[str]:
        """Yield updates, each as soon as it says anything new; an empty text when nothing has been new for a while."""
        said, idle = "", 0
        while True:
            update = await self.update(since)
            timeless = update.partition(",")[2]  # The time of the look comes first, and is always new.
            if timeless != said:
                said, idle = timeless, 0
                yield update
                look = await self.look()
                since = max(since, look.audit.state.committed.round)
            else:
                idle += 1
                if idle % PING_LOOKS == 0:
                    yield ""
            await asyncio.sleep(FRESH_S)

    def close(self) -> None:
        """Let the thread end, and go of the files."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        self._watch.close()


APART_S, APART_S_MAX = 0.001, 60.0
"""For each round and site, between two additions of all rounds while blocks keep coming, and at most. What one site did
in one round takes about 3 us to add (`scripts/page_cost.py`): a third of one percent of a core."""

PING_LOOKS = 10
"""After so many looks in which nothing is new a stream says that it is alive: proxies cut what is silent."""


def told(state: str, look: Look, since: int) -> str:
    """Return a site as it stands, JSON already, and its rounds from `since` on, the time of the look first."""
    rounds = json.dumps(documents.rounds(look.audit, since), separators=(",", ":"))
    return f'{{"at_s":{look.at_s},"state":{state},"rounds":{rounds}}}'
