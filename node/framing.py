"""SHELL. How messages between the processes of one site lie in a stream: a MessagePack map behind its length.

The node and its trainer, the processes that train together, and the node and a user's script all talk so over Unix
sockets. What is in the maps, and how much of it is believed, each pair says for itself: who reads from a process that
is not its own child bounds the length and decodes strictly, as `node.loop.trainer` does.
"""

from __future__ import annotations

import socket
import struct
from typing import Any

import msgpack

HEAD = struct.Struct(">I")
"""What stands in front of a message: its length in bytes, without this."""


def framed(body: bytes) -> bytes:
    """Return a message as it goes over the link."""
    return HEAD.pack(len(body)) + body


def receive(link: socket.socket) -> dict[str, Any] | None:
    """Wait for the next message of a process that is trusted and return it; None when the other end is gone."""
    head = _exactly(link, HEAD.size)
    body = None if head is None else _exactly(link, HEAD.unpack(head)[0])
    return None if body is None else msgpack.unpackb(body, raw=False)


def _exactly(link: socket.socket, length: int) -> bytes | None:
    data = bytearray()
    while len(data) < length:
        try:
            part = link.recv(length - len(data))
        except OSError:
            return None
        if not part:
            return None
        data += part
    return bytes(data)
