"""Time in a simulated world: the scheduler, which makes it pass, and the wall clocks of the processes.

Virtual time is counted in seconds from the beginning of the run and jumps from one step to the next. What a process
reads is virtual time plus an offset that faults may change. The seam promises that `now` never goes backwards within
one process, whatever the administrator or NTP does to the clock, so a clock set back stands still until time has caught
up, and only a new process sees the earlier hour.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable

EPOCH_S = 1_750_000_000.0
"""Unix time at the beginning of every run. A whole number, so that converting a wake-up time to virtual time and back
is exact in float64 (Sterbenz) and no machine is woken a rounding error too early."""

ROUNDING_S = 1e-6
"""More than a float64 of today's Unix time may be rounded by."""


class Clock:
    """Converts between virtual time (seconds from the beginning of the run) and one process's Unix time."""

    def __init__(self) -> None:
        self._base = EPOCH_S
        self._last = 0.0
        self._rate = 0.0
        self._since = 0.0  # virtual time from which the clock drifts

    def read(self, virtual_s: float) -> float:
        """The process's `now`."""
        self._last = max(self._last, self._shows(virtual_s))
        return self._last

    def when(self, unix_s: float) -> float:
        """The virtual time at which this clock, if nobody touches it, shows `unix_s`."""
        if not self._rate:
            return unix_s - self._base
        virtual_s = self._since + (unix_s - self._base - self._since) / (1.0 + self._rate)
        while virtual_s < math.inf and self._shows(virtual_s) < unix_s:  # nobody is woken a rounding error too early
            virtual_s += ROUNDING_S
        return virtual_s

    def jump(self, offset_s: float) -> None:
        """Set the clock forward, or back if negative."""
        self._base += offset_s

    def drift(self, rate: float, virtual_s: float) -> None:
        """Gain `rate` seconds a second from now on, or lose them."""
        self._base = self._shows(virtual_s) - virtual_s
        self._rate, self._since = rate, virtual_s

    def _shows(self, virtual_s: float) -> float:
        return self._base + virtual_s + self._rate * (virtual_s - self._since)

    def restart(self) -> None:
        """A new process begins: it knows nothing of what the old one saw."""
        self._last = 0.0


Step = tuple[float, int, Callable[..., None], tuple[object, ...]]


class Scheduler:
    """One heap of things to do, in order of virtual time and then of when they were asked for."""

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self._heap: list[Step] = []

    def at(self, time: float, act: Callable[..., None], *arguments: object) -> None:
        """Do `act(*arguments)` at virtual `time`, which must not have passed."""
        self.steps += 1
        heapq.heappush(self._heap, (time, self.steps, act, arguments))

    def run(self, end_s: float, steps_max: int, done: Callable[[], bool] | None) -> bool:
        """Go on until `done` or, if that is None, until `end_s`, and say whether it came to that.

        It does not if `steps_max` steps were not enough, or if `end_s` is reached or nothing is left before `done`.
        """
        if done is not None and done():
            return True
        heap, pop = self._heap, heapq.heappop
        for _ in range(steps_max):
            if not heap or heap[0][0] > end_s:
                break
            self.now, _, act, arguments = pop(heap)
            act(*arguments)
            if done is not None and done():
                return True
        else:
            return False
        if end_s < math.inf:
            self.now = max(self.now, end_s)
        return done is None
