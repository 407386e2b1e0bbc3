"""What somebody on the network between two sites gets, who records all that passes, and plays it again.

Real sockets with a real tap between them: the dialler reaches the listener through a forwarder that keeps every byte.
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from swarm.machine import Received
from tests.integration.ends import End, address, node, until

pytestmark = pytest.mark.real

SECRET = b"what one hospital tells another: "
KIB = 1024


class Tap:
    """Forwards one connection after the other, and keeps what passes, each way."""

    def __init__(self, port: int) -> None:
        self._to = ("127.0.0.1", port)
        self.out, self.back = bytearray(), bytearray()
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._server.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._server.accept()
                with near, socket.create_connection(self._to) as far:
                    self._pass(near, far)

    def _pass(self, near: socket.socket, far: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                for source in select.select([near, far], [], [], 60.0)[0]:
                    data = source.recv(1 << 16)
                    if not data:
                        return
                    (self.out if source is near else self.back).extend(data)
                    (far if source is near else near).sendall(data)

    def close(self) -> None:
        self._server.close()


@contextmanager
def tapped() -> Iterator[tuple[End, End, Tap]]:
    """Yield who listens, who dials, and who sits between."""
    listener = End("listener", address("dialler"), listen="tcp://127.0.0.1:*")
    listener.transport.open()
    port = int(str(listener.transport.bound_endpoint).rpartition(":")[2])
    tap = Tap(port)
    dialler = End("dialler", address("listener", f"tcp://127.0.0.1:{tap.port}"), listen=None)
    dialler.transport.open()
    try:
        until(lambda: dialler.ups() > 0, listener, dialler)
        yield listener, dialler, tap
    finally:
        dialler.transport.close()
        listener.transport.close()
        tap.close()


def tell(listener: End, dialler: End, word: bytes, payload: bytes) -> None:
    assert dialler.transport.send(node("listener"), word, payload)
    until(lambda: word in listener.frames(), listener, dialler)
    assert [item.payload for item in listener.items if isinstance(item, Received)][-1] == payload


def test_what_passes_is_not_to_be_read_and_looks_like_chance() -> None:
    with tapped() as (listener, dialler, tap):
        tell(listener, dialler, SECRET, bytes(256 * KIB))
        passed = bytes(tap.out)
    assert len(passed) > 256 * KIB
    assert SECRET[:12] not in passed
    assert bytes(12) not in passed[-256 * KIB :], "a model of zeros shows nothing of it"
    counts = Counter(passed[-128 * KIB :])
    expected = 128 * KIB / 256
    statistic = sum((counts[byte] - expected) ** 2 / expected for byte in range(256))
    assert statistic < 400, "chi-square with 255 degrees of freedom: more than that comes once in ten million"


def test_of_two_updates_of_one_size_nothing_differs_but_what_looks_like_chance() -> None:
    sizes: list[set[int]] = [set(), set()]
    with tapped() as (listener, dialler, tap):
        for number in range(6):
            update = bytes(64 * KIB) if number % 2 else random.Random(number).randbytes(64 * KIB)
            before = len(tap.out)
            tell(listener, dialler, b"update %d" % number, update)
            sizes[number % 2].add(len(tap.out) - before)
    assert min(sizes[0]) == min(sizes[1]) > 64 * KIB, "while how much it is, and when, is to be seen"


def test_who_plays_a_recording_again_is_not_heard_and_the_link_goes_on() -> None:
    with tapped() as (listener, dialler, tap):
        tell(listener, dialler, b"once", b"payload")
        recorded = bytes(tap.out)
        heard = len(listener.frames())
        port = int(str(listener.transport.bound_endpoint).rpartition(":")[2])
        for cut in (len(recorded), len(recorded) // 2):
            with socket.create_connection(("127.0.0.1", port)) as again:
                again.sendall(recorded[:cut])
                again.settimeout(0.1)
                answers = bytearray()

                def gone(again: socket.socket = again, answers: bytearray = answers) -> bool:
                    try:
                        data = again.recv(1 << 16)
                    except TimeoutError:
                        return False
                    except OSError:
                        return True
                    answers.extend(data)
                    return not data

                until(gone, listener, dialler)
                assert len(answers) < 512, "a greeting, and at most a welcome that only the key's holder can open"
        assert listener.frames().count(b"once") == 1
        tell(listener, dialler, b"twice", b"and the two go on")
        assert len(listener.frames()) == heard + 1
