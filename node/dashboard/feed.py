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


class Feed:
    """What a site is like, for as many as ask. To be used in one event loop, and closed."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self._latest = watch, Latest(watch.look)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="look")
        self._told: tuple[Look | None, str] = None, ""
        self._sums: tuple[tuple[Audit, int], documents.Sums] | None = None

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
        """Return as JSON how a site stands: made once a look; its rounds are added up once a block."""
        if self._told[0] is not look:
            as_of = look.audit, look.audit.blocks
            if self._sums is None or self._sums[0][0] is not as_of[0] or self._sums[0][1] != as_of[1]:
                self._sums = as_of, documents.sums(look.audit)
            self._told = look, json.dumps(documents.state(look, self._sums[1]), separators=(",", ":"))
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


PING_LOOKS = 10
"""After so many looks in which nothing is new a stream says that it is alive: proxies cut what is silent."""


def told(state: str, look: Look, since: int) -> str:
    """Return a site as it stands, JSON already, and its rounds from `since` on, the time of the look first."""
    rounds = json.dumps(documents.rounds(look.audit, since), separators=(",", ":"))
    return f'{{"at_s":{look.at_s},"state":{state},"rounds":{rounds}}}'
