"""SHELL. Telling the service manager how this process is: sd_notify(3), in the thirty lines of it that are needed.

A datagram to the Unix socket that NOTIFY_SOCKET names. With WATCHDOG_USEC the manager restarts whoever says nothing for
so long; so this is told by the loop, after it has turned, and by no thread or timer beside it: a loop that hangs has to
fall silent. Where nobody asked to be told, all of this does nothing.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import MutableMapping

BEATS = 3
"""Times the watchdog is told within the time it allows: one may be late."""


class Beacon:
    """One process and its manager. It takes the variables out of the environment: no child may speak in its name."""

    def __init__(self, environment: MutableMapping[str, str] | None = None) -> None:
        environment = {} if environment is None else environment
        address = environment.pop("NOTIFY_SOCKET", "")
        allowed, owner = environment.pop("WATCHDOG_USEC", ""), environment.pop("WATCHDOG_PID", "")
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        mine = allowed.isdecimal() and owner in ("", str(os.getpid()))
        self._every_s = int(allowed) / 1e6 / BEATS if mine else None
        self._beat_at = 0.0
        self._ready, self._said = False, ""
        self._socket: socket.socket | None = None
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
            self._socket.setblocking(False)

    def turned(self, now: float, status: str) -> None:
        """The loop has turned: it is up, it is well, and this is what it is at, in one line."""
        if self._socket is None:
            return
        lines = []
        if not self._ready:
            self._ready = True
            lines.append("READY=1")
        if status != self._said:
            self._said = status
            lines.append(f"STATUS={' '.join(status.split())}")
        if self._every_s is not None and now >= self._beat_at:
            self._beat_at = now + self._every_s
            lines.append("WATCHDOG=1")
        self._tell(lines)

    def stopping(self) -> None:
        """The process is ending of its own will; say no more."""
        self._tell(["STOPPING=1"])
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _tell(self, lines: list[str]) -> None:
        if self._socket is not None and lines:
            # Whoever does not listen any more will notice that nothing comes.
            with contextlib.suppress(OSError):
                self._socket.sendto("\n".join(lines).encode(), self._address)
