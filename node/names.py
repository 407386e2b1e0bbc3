"""SHELL. Host names looked up beside the loop.

libzmq looks a name up on the one thread that serves every link: with a name server that does not answer, all of them
stand still for ten seconds at a time (decision 0025). So names are looked up here, each on a thread of its own, and
libzmq is given numbers.
"""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Sequence

LOOKUPS_MAX = 64
"""Threads at a time; further names wait. A look-up that hangs ends by itself, after what the system allows it."""


class Names:
    """Looks names up. `ask` and `take` are for one thread.

    Args:
        ipv6: whether IPv6 addresses count; then they come in the system's order of preference.
    """

    def __init__(self, *, ipv6: bool = False) -> None:
        self._family = socket.AF_UNSPEC if ipv6 else socket.AF_INET
        self._asked: set[str] = set()
        self._waiting: dict[str, None] = {}
        self._found: queue.SimpleQueue[tuple[str, tuple[str, ...]]] = queue.SimpleQueue()

    def ask(self, host: str) -> None:
        """Begin to look a name up, unless that is under way. `take` has the answer."""
        if host not in self._asked:
            self._waiting[host] = None
            self._begin()

    def take(self) -> Sequence[tuple[str, tuple[str, ...]]]:
        """Return the answers since the last call: a name, and its addresses; none if it could not be looked up."""
        answers = []
        with contextlib.suppress(queue.Empty):
            while True:
                answers.append(self._found.get_nowait())
                self._asked.discard(answers[-1][0])
        self._begin()
        return answers

    def _begin(self) -> None:
        while self._waiting and len(self._asked) < LOOKUPS_MAX:
            host = next(iter(self._waiting))
            del self._waiting[host]
            self._asked.add(host)
            threading.Thread(target=self._look_up, args=(host,), name="name", daemon=True).start()

    def _look_up(self, host: str) -> None:
        addresses: tuple[str, ...] = ()
        try:
            found = socket.getaddrinfo(host, None, self._family, socket.SOCK_STREAM)
            addresses = tuple(dict.fromkeys(str(address[0]) for *_, address in found))
        except (OSError, UnicodeError):
            pass  # No such name, or nobody to ask; whoever asked says so and asks again.
        self._found.put((host, addresses))
