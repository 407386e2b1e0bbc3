"""Links of both kinds as one: what goes where, what is told, and when to wake."""

from __future__ import annotations

import random
from typing import cast

from gossip.noise import KeyPair
from gossip.relay import SILENCE_S, Passages
from gossip.zeromq import Incident, Item, PeerAddress, Transport
from node.links import Links
from swarm.machine import Buffer, Contact, LinkChanged, NodeId, Received


def node(name: str) -> NodeId:
    return NodeId(name.encode().ljust(32, b"."))


def keys(name: str) -> KeyPair:
    return KeyPair.of(random.Random(name).randbytes(32))


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


class Wire:
    """A transport of which a test says what arrives."""

    def __init__(self) -> None:
        self.allowed: list[PeerAddress] = []
        self.sent: list[tuple[NodeId, bytes, Buffer | None]] = []
        self.items: list[Item] = []
        self.waits: list[float] = []
        self.full = False

    def open(self) -> None: ...
    def close(self) -> None: ...
    def wake(self) -> None: ...
    def watch(self, fd: int) -> None: ...
    def unwatch(self, fd: int) -> None: ...
    def rekey(self, secret_key: bytes, public_key: bytes) -> None: ...

    def allow(self, peers: list[PeerAddress]) -> None:
        self.allowed = list(peers)

    def send(self, to: NodeId, frame: bytes, payload: Buffer | None = None) -> bool:
        self.sent.append((to, frame, payload))
        return not self.full

    def backlog(self, to: NodeId) -> int:
        return 8 << 20 if self.full else 0

    def poll(self, timeout_s: float) -> list[Item]:
        self.waits.append(timeout_s)
        items, self.items = self.items, []
        return items


class Yard:
    """ "a" and "b", which only dial out, and the relay "r", each with its links and a wire that is carried by hand."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.wires = {name: Wire() for name in "abr"}
        self.told: dict[str, list[Item]] = {name: [] for name in "abr"}
        self.links = {name: self._make(name) for name in "abr"}
        relay = Contact(node("r"), "r", keys("r").public, "tcp://r:1")
        for name, other in ("ab", "ba"):
            far = Contact(node(other), other, keys(other).public, "", (node("r"),))
            self.links[name].reach([relay, far], [])
        ends = [Contact(node(one), one, keys(one).public) for one in "ab"]
        self.links["r"].reach(ends, [node("a"), node("b")])
        for one, other in ("ar", "ra", "br", "rb"):
            self.wires[one].items.append(LinkChanged(node(other), True, "connected"))

    def _make(self, name: str) -> Links:
        draw = random.Random("draw" + name)
        passages = Passages(me=node(name), keys=keys(name), ledger_id=bytes(32), draw=lambda: draw.randbytes(32))
        incidents = [Incident(peer=None, event="proxy_failed", text="what a proxy says")]

        def tell() -> list[Incident]:
            told, incidents[:] = list(incidents), []
            return told

        return Links(cast("Transport", self.wires[name]), passages, self.clock, tell)

    def turn(self, times: int = 6) -> None:
        for _ in range(times):
            for name, links in self.links.items():
                self.told[name] += links.poll(1.0)
                sent, self.wires[name].sent = self.wires[name].sent, []
                for to, frame, payload in sent:
                    other = to.rstrip(b".").decode()
                    self.wires[other].items.append(Received(node(name), frame, payload))

    def ups(self, name: str) -> list[tuple[NodeId, bool, NodeId | None]]:
        return [(item.peer, item.up, item.via) for item in self.told[name] if isinstance(item, LinkChanged)]


def test_the_transport_hears_of_direct_links_only() -> None:
    yard = Yard()
    assert [peer.name for peer in yard.wires["a"].allowed] == ["r"]
    assert [peer.name for peer in yard.wires["r"].allowed] == ["a", "b"]


def test_a_link_through_a_relay_is_told_carries_words_and_is_sealed() -> None:
    yard = Yard()
    yard.turn()
    assert yard.ups("a") == [(node("r"), True, None), (node("b"), True, node("r"))]
    assert yard.ups("r") == [(node("a"), True, None), (node("b"), True, None)]
    assert yard.links["a"].send(node("b"), b"a word", b"a chunk")
    assert yard.links["a"].send(node("r"), b"to the relay itself")
    ((to, frame, payload), direct) = yard.wires["a"].sent
    assert to == node("r")
    assert b"a word" not in frame
    assert payload is not None
    assert b"a chunk" not in bytes(payload)
    assert direct == (node("r"), b"to the relay itself", None)
    yard.turn(3)
    heard = [item for item in yard.told["b"] if isinstance(item, Received)]
    assert [(item.sender, item.frame, bytes(item.payload or b"")) for item in heard] == [
        (node("a"), b"a word", b"a chunk")
    ]
    own = [item for item in yard.told["r"] if isinstance(item, Received)]
    assert [item.frame for item in own] == [b"to the relay itself"]


def test_without_a_session_nothing_is_sent_and_that_is_said() -> None:
    yard = Yard()
    assert not yard.links["a"].send(node("b"), b"too early")


def test_a_full_relay_holds_what_it_forwards_until_there_is_room() -> None:
    yard = Yard()
    yard.turn()
    yard.wires["r"].full = True
    yard.links["a"].send(node("b"), b"patience")
    yard.turn(3)
    assert not [item for item in yard.told["b"] if isinstance(item, Received)]
    yard.wires["r"].full = False
    yard.turn(3)
    assert [item.frame for item in yard.told["b"] if isinstance(item, Received)] == [b"patience"]


def test_it_wakes_for_its_sessions_and_tells_that_one_is_dead() -> None:
    yard = Yard()
    yard.turn()
    yard.links["a"].poll(3600.0)
    assert yard.wires["a"].waits[-1] <= SILENCE_S
    yard.wires["a"].sent.clear()
    yard.clock.now += SILENCE_S
    yard.told["a"] += yard.links["a"].poll(3600.0)
    assert yard.ups("a")[-1] == (node("b"), False, None)


def test_what_a_proxy_says_is_passed_on_once() -> None:
    yard = Yard()
    yard.turn()
    assert [item.text for item in yard.told["a"] if isinstance(item, Incident)] == ["what a proxy says"]
