"""SHELL. What `node.forkserver` starts: imports PyTorch once, forks trainers for who asks, until its owner ends."""

from __future__ import annotations

import contextlib
import gc
import json
import os
import selectors
import signal
import socket
import sys
from collections.abc import Sequence

from node import worker
from node.forkserver import ANSWER

REQUEST_BYTES_MAX = 1 << 16


class Forker:
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
        """Fork for who asks. Whoever asks may be killed in between: its trainer is then ended as it hangs up."""
        connection, _ = self._listener.accept()
        try:
            data, descriptors, _, _ = socket.recv_fds(connection, REQUEST_BYTES_MAX, 2)
        except OSError:
            connection.close()
            return
        if len(descriptors) == 2:
            arguments = [str(argument) for argument in json.loads(data)]
            pid = os.fork()
            if pid == 0:
                connection.close()
                self._become_trainer(arguments, *descriptors)
            self._trainers[pid] = connection
            self._selector.register(connection, selectors.EVENT_READ)
            with contextlib.suppress(OSError):
                connection.sendall(ANSWER.pack(pid))
        else:
            connection.close()
        for descriptor in descriptors:
            os.close(descriptor)

    def _become_trainer(self, arguments: Sequence[str], link: int, output: int) -> None:
        """Forget everything of the server, and never return to it."""
        code = 1
        try:
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
                connection.sendall(ANSWER.pack(os.waitstatus_to_exitcode(status)))
            connection.close()


def main() -> int:
    """Run as `python -m node.forker FD`, FD being the listening socket."""
    listener = socket.socket(fileno=int(sys.argv[1]))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # The owner decides when it ends.
    worker.warm_up()
    gc.freeze()  # Or the first collection of a trainer would copy every page it looks at.
    Forker(listener).serve()
    return 0


if __name__ == "__main__":
    sys.exit(main())
