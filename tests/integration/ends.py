"""Two ends of a real link: bare transports, without a node."""

from __future__ import annotations

import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gossip.noise import KeyPair
from gossip.zeromq import Incident, PeerAddress, Timing, Transport
from gossip.zeromq import Names as NamesLike
from node.names import Names
from swarm.machine import LinkChanged, NodeId, Received

HURRY = Timing(reconnect_s=0.05, reconnect_s_max=0.2, handshake_s=2.0, denial_s=0.1, incident_s=0.0, linger_s=0.0)
WAIT_S = 20.0


class End:
    """One end of a link."""

    def __init__(
        self,
        name: str,
        peer: PeerAddress,
        *,
        listen: str | None,
        through: Callable[[str], str] | None = None,
        names: NamesLike | None = None,
    ) -> None:
        self.name, self.keys = name, keys(name)
        self.items: list[object] = []
        self.transport = Transport(
            secret_key=self.keys.secret,
            public_key=self.keys.public,
            listen=listen,
            peers=[peer],
            clock=time.monotonic,
            rng=random.Random(1),
            timing=HURRY,
            through=through,
            names=names or Names(ipv6=True),
        )

    def frames(self) -> list[bytes]:
        return [item.frame for item in self.items if isinstance(item, Received)]

    def told(self) -> str:
        return " | ".join(item.text for item in self.items if isinstance(item, Incident))

    def ups(self) -> int:
        return sum(isinstance(item, LinkChanged) and item.up for item in self.items)


def keys(name: str) -> KeyPair:
    return KeyPair.of(random.Random(name).randbytes(32))


def node(name: str) -> NodeId:
    return NodeId(name.encode().ljust(32, b"."))


def address(name: str, endpoint: str = "") -> PeerAddress:
    return PeerAddress(node=node(name), name=name, curve_key=keys(name).public, endpoint=endpoint)


@contextmanager
def pair(
    through: Callable[[str], str] | None, *, host: str = "127.0.0.1", listen: str = "tcp://127.0.0.1:*"
) -> Iterator[tuple[End, End]]:
    """Yield who listens and who dials it, by that host name."""
    listener = End("listener", address("dialler"), listen=listen)
    listener.transport.open()
    port = str(listener.transport.bound_endpoint).rpartition(":")[2]
    dialler = End("dialler", address("listener", f"tcp://{host}:{port}"), listen=None, through=through)
    dialler.transport.open()
    try:
        yield listener, dialler
    finally:
        dialler.transport.close()
        listener.transport.close()


def until(condition: Callable[[], bool], *ends: End, wait_s: float = WAIT_S) -> None:
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, [one.told() for one in ends]
        for one in ends:
            one.items += one.transport.poll(0.02)
        if not ends:
            time.sleep(0.1)


def talk(listener: End, dialler: End) -> None:
    """Let words and a megabyte go both ways."""
    begun = dialler.ups()
    until(lambda: dialler.ups() > 0, listener, dialler)
    blob = os.urandom(1 << 20)
    word = b"hello %d" % begun
    assert dialler.transport.send(node("listener"), word)
    until(lambda: word in listener.frames(), listener, dialler)
    assert listener.transport.send(node("dialler"), word, blob)
    until(lambda: word in dialler.frames(), listener, dialler)
    got = [item.payload for item in dialler.items if isinstance(item, Received) and item.frame == word]
    assert bytes(got[-1] or b"") == blob
