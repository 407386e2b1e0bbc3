"""A site's peer as the chaos suite starts it: `swarm`, with a wall clock and a protocol that the suite can choose.

    python -m tests.chaos.peer start FOLDER ...

Two variables are read here, and nowhere in the product. `SWARM_TEST_CLOCK` names a file that holds by how many seconds
this process's wall clock is fast; it is read whenever the clock is. `SWARM_TEST_PROTOCOL` is the version of the
protocol to speak, as "1.0". A process whose suite is gone, however it went, is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from pathlib import Path

import node.cli.start
import node.clock
from node.cli.main import main
from tests.chaos.dialects import older

CLOCK, PROTOCOL = "SWARM_TEST_CLOCK", "SWARM_TEST_PROTOCOL"

PR_SET_PDEATHSIG = 1
"""prctl(2): the signal that this process gets when its parent ends."""


class SteppedTime:
    """Stands in for the module `time` in `node.clock`, the one place where the product reads the time."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.monotonic, self.sleep = time.monotonic, time.sleep

    def time(self) -> float:
        """Return the time of day, as fast as the file says."""
        return time.time() + float(self._path.read_text())


def speak(version: str) -> None:
    """Let this process speak that older version of the protocol; "" is today's. Ends the process if it cannot."""
    known = older()
    if version and version not in known:
        raise SystemExit(f"couldn't speak protocol {version}: older versions known are {', '.join(known)}")
    if version:
        node.cli.start.Node = known[version]  # type: ignore[misc]


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if CLOCK in os.environ:
        node.clock.time = SteppedTime(Path(os.environ[CLOCK]))  # type: ignore[attr-defined]
    speak(os.environ.get(PROTOCOL, ""))
    sys.exit(main())
