"""A member that speaks the previous minor version of the protocol, 1.0, and nothing else.

It is today's node behind a wall that knows only what was recorded of 1.0 (`vectors/protocol-1.0.json`): what comes in is
read by the recording, and what it does not know is refused and counted, as the node of that version did; greetings of
others lose what that version would not have looked at; and what goes out says 1.0, or does not go out. `PreviousNode` is
for the simulator. For a real process there is

    python -m tests.previous start FOLDER --set ...

which is `swarm start` with that node in it, and nothing a user can turn on. `tests.previous.start(peer)` starts a peer of
`node.local` that way.
"""

from __future__ import annotations

import functools
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgpack
import msgspec

from gossip import messages as m
from gossip import wire
from node.core import Node
from node.local import LocalPeer
from swarm import codec
from swarm.machine import Effect, Event, Received, Send

RECORDING = Path(__file__).parent / "vectors" / "protocol-1.0.json"
PREVIOUS = (1, 0)
SOFTWARE = "swarm-node/0.1"
CAPABILITIES = ("exact", "fold", "gossip", "sharded", "spread")


class Unknown(Exception):
    """A frame that protocol 1.0 does not have: its node charged the sender with a fault."""


@functools.cache
def recording() -> dict[str, Any]:
    """Return what was recorded of protocol 1.0."""
    return json.loads(RECORDING.read_text())


def read(frame: bytes) -> tuple[str, tuple[Any, ...]]:
    """Return the name of a frame's kind and its fields, by the recording alone. Raises `Unknown`."""
    if len(frame) < 2 or frame[0] != recording()["wire version"]:
        raise Unknown("another wire version")
    kind = recording()["kinds"].get(str(frame[1]))
    if kind is None:
        raise Unknown(f"kind {frame[1]}")
    body = frame[2:]
    if len(body) > kind["bytes_max"]:
        raise Unknown(f"{kind['name']} of {len(body)} bytes")
    try:
        fields = msgpack.unpackb(body, use_list=False, raw=False, max_map_len=0, max_ext_len=0)
    except ValueError as error:
        raise Unknown(f"{kind['name']}: {error}") from None
    if msgpack.packb(fields) != body or not _fits(fields, kind["shape"]):
        raise Unknown(f"{kind['name']} of another shape")
    return kind["name"], fields


def _fits(value: object, shape: Any) -> bool:
    match shape:
        case ["many", item]:
            return isinstance(value, tuple) and all(_fits(one, item) for one in value)
        case ["each", *items]:
            return isinstance(value, tuple) and len(value) == len(items) and all(map(_fits, value, items))
        case _:
            return type(value) is {"int": int, "bytes": bytes, "str": str, "bool": bool}[shape]


class PreviousNode(Node):
    """A node of protocol 1.0. `refused` are frames that it could not read, `kept` those that it must not send."""

    def __init__(self, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.refused: list[str] = []
        self.kept: list[str] = []

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Advance by one event, hearing and saying only what 1.0 had."""
        if isinstance(event, Received):
            try:
                name, _ = read(event.frame)
            except Unknown as error:
                self.refused.append(str(error))
                return []
            if name == "Hello":
                event = Received(event.sender, _as_before(event.frame))
        said = []
        for effect in super().handle(event, now):
            if isinstance(effect, Send):
                frame = effect.frame if wire.kind(effect.frame) is not m.Hello else _as_before(effect.frame)
                try:
                    read(frame)
                except Unknown as error:
                    self.kept.append(str(error))
                    continue
                effect = Send(effect.to, frame)
            said.append(effect)
        return said


def _as_before(frame: bytes) -> bytes:
    """Return a greeting as 1.0 would have said it, or have understood it."""
    hello = wire.decode(frame)
    assert isinstance(hello, m.Hello)
    can = tuple(one for one in hello.capabilities if one in CAPABILITIES)
    before = msgspec.structs.replace(hello, protocol=(hello.protocol[0], 0), capabilities=can)
    return frame[:2] + codec.encode(before)


def start(peer: LocalPeer, *overrides: str) -> None:
    """Start a peer of a local swarm as a process of the previous version."""
    peer.program = (sys.executable, "-m", "tests.previous")
    peer.start(*overrides)


def main() -> None:
    """Be the `swarm` command of a site that has not been updated."""
    from node.cli import main as outermost
    from node.cli import start

    start.Node = PreviousNode  # type: ignore[misc]
    sys.exit(outermost.main())


if __name__ == "__main__":
    main()
