"""SHELL. The only reader of real time.

One clock serves everything: seconds since the epoch, so that blocks can be dated, which never go backwards, so that
timers hold. It starts at the wall clock and then follows the monotonic one; a step of the wall clock (NTP, an operator,
a resumed laptop) changes neither timers nor order. The difference is visible to operators as an offset between peers.
"""

from __future__ import annotations

import time


class Clock:
    """Seconds since the Unix epoch that never go backwards."""

    def __init__(self) -> None:
        self._wall = time.time()
        self._monotonic = time.monotonic()

    def now(self) -> float:
        """Return the time."""
        return self._wall + (time.monotonic() - self._monotonic)


def sleep(seconds: float) -> None:
    """Wait. For commands that poll; the node itself never sleeps."""
    time.sleep(seconds)
