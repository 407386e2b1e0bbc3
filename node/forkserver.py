"""SHELL. Trainers for several sites of one machine, forked from one process that has PyTorch loaded.

Importing PyTorch takes a second and a half of processor time. A hospital pays it once and does not notice; five sites
that share two cores, in a demonstration, a notebook or a test, wait for each other. Here one process imports it, then
forks a trainer for whoever asks over a Unix socket (`node.forker`), as `multiprocessing`'s fork server does, but for
processes that are not its parent. It runs no user code, and starts no thread, before a fork.

A connection stands for one trainer: the request carries its arguments and two descriptors (its link to the node, and
where it prints), the answers are its process id and its exit code. Closing the connection kills the trainer, so that
none outlives the node it works for, and the server ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from swarm.errors import UsageError

ANSWER_S = 60.0
"""Longest wait for an answer: the server may still be importing PyTorch on a busy machine."""

ANSWER = struct.Struct(">i")


class ForkServer:
    """The server as its owner sees it: a process with a socket, ended by `close` or by the owner's own end."""

    def __init__(self, path: Path) -> None:
        self.path = path
        root = str(Path(__file__).resolve().parent.parent)
        search = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH", ""))))
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            _bind(listener, path)
            self._process = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                [sys.executable, "-m", "node.forker", str(listener.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                pass_fds=(listener.fileno(),),
                env={**os.environ, "PYTHONPATH": search},
            )

    def close(self) -> None:
        """End the server and every trainer it forked."""
        assert self._process.stdin is not None, "stdin is a pipe"
        self._process.stdin.close()
        self._process.wait()
        self.path.unlink(missing_ok=True)


def _bind(listener: socket.socket, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        listener.bind(str(path))
    except OSError as error:
        raise UsageError(
            f"couldn't make the socket {path}: {error.strerror or error}", hint="use a folder with a shorter path"
        ) from None
    path.chmod(0o600)
    listener.listen(64)


class ForkedProcess:
    """A forked trainer. Has those parts of `subprocess.Popen` that `node.trainer` uses."""

    def __init__(self, server: Path, arguments: Sequence[str], link: socket.socket) -> None:
        """Ask the server at this socket for a trainer with these arguments and this link.

        Raises:
            UsageError: nobody serves there.
        """
        reader, writer = os.pipe()
        self.stdout: BinaryIO = os.fdopen(reader, "rb", buffering=0)
        self.returncode: int | None = None
        self._connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._connection.settimeout(ANSWER_S)
        try:
            self._connection.connect(str(server))
            socket.send_fds(self._connection, [json.dumps(list(arguments)).encode()], [link.fileno(), writer])
            answer = self._connection.recv(ANSWER.size)
        except OSError as error:
            answer, why = b"", error.strerror or str(error)
        else:
            why = "it ended"
        finally:
            os.close(writer)
        if len(answer) != ANSWER.size:
            self._connection.close()
            self.stdout.close()
            raise UsageError(
                f"couldn't get a trainer from the fork server at {server}: {why}",
                hint="start it again, or leave task.forkserver empty",
            )
        self.pid: int = ANSWER.unpack(answer)[0]
        self._connection.setblocking(False)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            try:
                answer = self._connection.recv(ANSWER.size)
            except BlockingIOError:
                return None
            except OSError:
                answer = b""
            self._connection.close()
            if len(answer) == ANSWER.size:
                self.returncode = ANSWER.unpack(answer)[0]
            else:
                # The server was killed. Nobody would reap or stop the trainer, so it ends as well.
                self.returncode = -signal.SIGKILL
                with contextlib.suppress(ProcessLookupError):
                    os.kill(self.pid, signal.SIGKILL)
        return self.returncode

    def kill(self) -> None:
        """Kill it."""
        if self.returncode is None:
            with contextlib.suppress(OSError):
                self._connection.shutdown(socket.SHUT_WR)

    def wait(self) -> int:
        """Wait for its end."""
        if self.returncode is None:
            self._connection.setblocking(True)
        code = self.poll()
        assert code is not None, "a blocking read returns the code or the end"
        return code
