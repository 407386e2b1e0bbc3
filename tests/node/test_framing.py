"""Messages in a stream come out as they went in, however the stream cuts them, and half a message is none."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import msgpack
import pytest

from node.framing import HEAD, framed, receive

MESSAGE = {"do": "train", "round": 3, "update": b"\x00\xff", "metrics": {"loss": 0.5}}
FRAME = framed(msgpack.packb(MESSAGE))


@pytest.fixture
def link() -> Iterator[tuple[socket.socket, socket.socket]]:
    near, far = socket.socketpair()
    with near, far:
        yield near, far


def test_a_frame_is_its_length_in_four_bytes_and_the_message() -> None:
    assert framed(b"\xc0") == b"\x00\x00\x00\x01\xc0"


def test_messages_come_out_one_by_one(link: tuple[socket.socket, socket.socket]) -> None:
    near, far = link
    near.sendall(FRAME + FRAME)
    near.close()
    assert [receive(far), receive(far), receive(far)] == [MESSAGE, MESSAGE, None]


@pytest.mark.parametrize("length", [1, HEAD.size - 1, HEAD.size, len(FRAME) - 1])
def test_of_a_message_that_breaks_off_there_is_none(link: tuple[socket.socket, socket.socket], length: int) -> None:
    near, far = link
    near.sendall(FRAME[:length])
    near.close()
    assert receive(far) is None


def test_who_hears_from_a_link_that_is_closed_here_hears_nothing(link: tuple[socket.socket, socket.socket]) -> None:
    _, far = link
    far.close()
    assert receive(far) is None
