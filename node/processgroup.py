"""SHELL. Several processes that train one model, to the node as one: begun together, ended with the first that ends.

Each has the variables that PyTorch's `torchrun` gives its processes, and a session of its own, so that what it starts
itself, such as the workers of a data loader, ends with it. The first is linked to the node, and each other to the first
(`node.ranks`). A collective operation in which one process is missing waits for it, and nothing can interrupt that: so
whichever ends, the others are killed, and who ended, and how, is what the node's people are told.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
from collections.abc import Mapping, Sequence
from typing import BinaryIO

LOST = 75
"""Exit code of a process that ends because another of its group has: the other is the one to speak of."""


class ProcessGroup:
    """Processes of one command. Has those parts of `subprocess.Popen` that `node.trainer` uses.

    Args:
        command: what all run; which is which they are told by arguments behind it.
        processes: how many, at least 2.
        link: the first one's to the node.
        environment: theirs, but for the variables of a group.
        processors: how many they share.
    """

    def __init__(
        self,
        command: Sequence[str],
        processes: int,
        link: socket.socket,
        environment: Mapping[str, str],
        *,
        processors: int,
    ) -> None:
        reader, writer = os.pipe()
        self.stdout: BinaryIO = os.fdopen(reader, "rb", buffering=0)
        self.returncode: int | None = None
        self.who = ""
        """Which process ended first, in words."""
        self._members: list[subprocess.Popen[bytes]] = []
        pairs = [socket.socketpair() for _ in range(processes - 1)]
        links = [link, *(far for _, far in pairs)]
        try:
            for rank, own in enumerate(links):
                others = [near.fileno() for near, _ in pairs] if rank == 0 else []
                told = ["--fd", str(own.fileno()), "--rank", str(rank), "--processes", str(processes)]
                member = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                    [*command, *told, "--others", ",".join(map(str, others))],
                    pass_fds=(own.fileno(), *others),
                    stdin=subprocess.DEVNULL,
                    stdout=writer,
                    stderr=subprocess.STDOUT,
                    env={**environment, **variables(rank, processes, processors, environment)},
                    start_new_session=True,
                )
                self._members.append(member)
        except BaseException:
            self.kill()
            self.stdout.close()
            raise
        finally:
            os.close(writer)
            for pair in pairs:
                for end in pair:
                    end.close()

    def poll(self) -> int | None:
        """Return the exit code of the first that ended, negative for a signal; None while all run."""
        if self.returncode is None:
            ended = [(rank, code) for rank, one in enumerate(self._members) if (code := one.poll()) is not None]
            if ended:
                rank, code = first_ended(ended)
                self.who = f"process {rank} of the {len(self._members)} that train together"
                self.returncode = code
                self.kill()
        return self.returncode

    def kill(self) -> None:
        """Kill all of them, and what they have started."""
        for member in self._members:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(member.pid, signal.SIGKILL)
        for member in self._members:
            member.wait()

    def wait(self) -> int:
        """Wait until one has ended, and with it all have; return as `poll`."""
        if self.returncode is None:
            self._members[0].wait()
        code = self.poll()
        assert code is not None, "one has ended"
        return code


def first_ended(ended: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """Return which of those that have ended did so by itself: rank and exit code."""
    return next((one for one in ended if one[1] != LOST), ended[0])


def variables(rank: int, processes: int, processors: int, environment: Mapping[str, str]) -> dict[str, str]:
    """Return what a process of a group finds in its environment, but for where they meet: it is told that later.

    Threads are divided between them. They meet on this machine alone: whatever network it has, no library is to listen
    on that for processes that are all here.
    """
    places = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": 0, "WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes}
    found = {name: str(value) for name, value in places.items()}
    found["OMP_NUM_THREADS"] = str(max(1, processors // processes))
    here = next((name for _, name in socket.if_nameindex() if name.startswith("lo")), "")
    return found | {
        name: here for name in ("GLOO_SOCKET_IFNAME", "NCCL_SOCKET_IFNAME") if here and name not in environment
    }


def processors() -> int:
    """Return how many processors this process may use, where the system tells; else how many there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
