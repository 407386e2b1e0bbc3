"""SHELL. Trainers for several sites of one machine, forked from one process that has PyTorch loaded.

Importing PyTorch takes a second and a half of processor time. A hospital pays it once and does not notice; five sites
that share two cores, in a demonstration, a notebook or a test, wait for each other. Here one process imports it, then
forks a trainer for whoever asks over a Unix socket, as `multiprocessing`'s fork server does, but for processes that are
not its parent. It runs no user code, and starts no thread, before a fork.

A connection stands for one trainer: the request carries its arguments and two descriptors (its link to the node, and
where it prints), the answers are its process id and its exit code. Closing the connection kills the trainer, so that
none outlives the node it works for, and the server ends when its standard input does.
"""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import BinaryIO

from swarm.errors import UsageError

REQUEST_BYTES_MAX = 1 << 16
ANSWER_S = 60.0
"""Longest wait for an answer: the server may still be importing PyTorch on a busy machine."""

_ANSWER = struct.Struct(">i")


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
                [sys.executable, "-m", "node.forkserver", str(listener.fileno())],
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
            answer = self._connection.recv(_ANSWER.size)
        except OSError as error:
            answer, why = b"", error.strerror or str(error)
        else:
            why = "it ended"
        finally:
            os.close(writer)
        if len(answer) != _ANSWER.size:
            self._connection.close()
            self.stdout.close()
            raise UsageError(
                f"couldn't get a trainer from the fork server at {server}: {why}",
                hint="start it again, or leave task.forkserver empty",
            )
        self.pid: int = _ANSWER.unpack(answer)[0]
        self._connection.setblocking(False)

    def poll(self) -> int | None:
        """Return the exit code, negative for a signal, or None while it runs."""
        if self.returncode is None:
            try:
                answer = self._connection.recv(_ANSWER.size)
            except BlockingIOError:
                return None
            except OSError:
                answer = b""
            self._connection.close()
            if len(answer) == _ANSWER.size:
                self.returncode = _ANSWER.unpack(answer)[0]
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


class _Server:
    """The loop of the server process."""

    def __init__(self, listener: socket.socket) -> None:
        self._listener = listener
        self._selector = selectors.DefaultSelector()
        self._trainers: dict[int, socket.socket] = {}
        self._bell, bell = socket.socketpair()
        self._bell.setblocking(False)
        bell.setblocking(False)
        self._other_bell = bell
        signal.set_wakeup_fd(bell.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for source in (listener, self._bell, sys.stdin.fileno()):
            self._selector.register(source, selectors.EVENT_READ)

    def serve(self) -> None:
        """Fork, reap and kill until standard input ends."""
        while True:
            for key, _ in self._selector.select():
                if key.fileobj is self._listener:
                    self._accept()
                elif key.fileobj is self._bell:
                    with contextlib.suppress(BlockingIOError):
                        self._bell.recv(4096)
                elif isinstance(key.fileobj, socket.socket):
                    self._hung_up(key.fileobj)
                elif not os.read(sys.stdin.fileno(), 4096):
                    for pid in self._trainers:
                        os.kill(pid, signal.SIGKILL)
                    return
            self._reap()

    def _accept(self) -> None:
        connection, _ = self._listener.accept()
        data, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES_MAX, 2)
        if len(descriptors) == 2:
            arguments = [str(argument) for argument in json.loads(data)]
            pid = os.fork()
            if pid == 0:
                connection.close()
                self._become_trainer(arguments, *descriptors)
            self._trainers[pid] = connection
            self._selector.register(connection, selectors.EVENT_READ)
            connection.sendall(_ANSWER.pack(pid))
        else:
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_trainer(self, arguments: Sequence[str], link: int, output: int) -> None:
        """Forget everything of the server, and never return to it."""
        code = 1
        try:
            from node import worker

            os.setsid()
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            for connection in (self._listener, self._bell, self._other_bell, *self._trainers.values()):
                connection.close()
            self._selector.close()
            null = os.open(os.devnull, os.O_RDONLY)
            for source, target in ((null, 0), (output, 1), (output, 2)):
                os.dup2(source, target)
            os.close(output)
            for stream in (sys.stdout, sys.stderr):
                stream.reconfigure(line_buffering=True, write_through=True)  # type: ignore[union-attr]
            code = worker.main(["--fd", str(link), *arguments])
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        finally:
            os._exit(code)

    def _hung_up(self, connection: socket.socket) -> None:
        self._selector.unregister(connection)
        for pid, other in self._trainers.items():
            if other is connection:
                os.kill(pid, signal.SIGKILL)

    def _reap(self) -> None:
        while self._trainers:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            connection = self._trainers.pop(pid)
            with contextlib.suppress(KeyError):
                self._selector.unregister(connection)
            with contextlib.suppress(OSError):
                connection.sendall(_ANSWER.pack(os.waitstatus_to_exitcode(status)))
            connection.close()


def main() -> int:
    """Run as `python -m node.forkserver FD`, FD being the listening socket."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The owner decides when it ends.
    # What takes so long. The first optimizer of a process imports PyTorch's compiler, which takes as long again.
    import node.worker

    node.worker.warm_up()
    gc.freeze()  # Or the first collection of a trainer would copy every page it looks at.
    _Server(listener).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
