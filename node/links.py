"""SHELL. All links of a site as the loop sees them: direct ones, and those that go through relays.

It lets `gossip.relay` run over real sockets. The loop above asks for a link and gets one; the transport below knows
only connections. What a relay does for others is done here too, whatever the machine is busy with.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from gossip.noise import KeyPair
from gossip.relay import Item as PassageItem
from gossip.relay import Out, Passages, is_carried
from gossip.zeromq import Incident, Item, PeerAddress, Transport
from swarm.machine import Buffer, Contact, LinkChanged, NodeId, Received, Report


class Links:
    """A `Transport` and the passages over it. Used by the same one thread; `wake` alone may be called by others.

    `incidents` returns what else people should know, such as what a proxy says.
    """

    def __init__(
        self,
        transport: Transport,
        passages: Passages,
        clock: Callable[[], float],
        incidents: Callable[[], Sequence[Incident]] = tuple,
    ) -> None:
        self._transport, self._passages, self._clock, self._incidents = transport, passages, clock, incidents
        self._items: list[Item] = []
        self.open, self.close = transport.open, transport.close
        self.watch, self.unwatch, self.wake = transport.watch, transport.unwatch, transport.wake

    def reach(self, contacts: Sequence[Contact], carried: Sequence[NodeId]) -> None:
        """Follow a `Reach`: who may talk to this site, through whom, and for whom it forwards."""
        self._transport.allow(
            [
                PeerAddress(node=c.node, name=c.name, curve_key=c.curve_key, endpoint=c.endpoint)
                for c in contacts
                if not c.via
            ]
        )
        self._do(self._passages.reach(contacts, carried, self._clock()))

    def rekey(self, secret_key: bytes, public_key: bytes) -> None:
        """Take another transport key, 32 raw bytes each half: every link is made again under it."""
        self._transport.rekey(secret_key, public_key)
        self._do(self._passages.rekey(KeyPair(public_key, secret_key), self._clock()))

    def send(self, to: NodeId, frame: bytes, payload: Buffer | None = None) -> bool:
        """Queue a message, sealed if it goes through a relay. Never waits; see `Transport.send`."""
        if not self._passages.leads(to):
            return self._transport.send(to, frame, payload)
        out = self._passages.send(to, frame, payload, self._clock())
        return out is not None and self._transport.send(out.to, out.frame, out.payload)

    def poll(self, timeout_s: float) -> list[Item]:
        """Wait until something happens, at most `timeout_s` seconds, and return what did; see `Transport.poll`."""
        wake = self._passages.next_wake()
        if self._items:
            timeout_s = 0.0
        elif wake is not None:
            timeout_s = min(timeout_s, max(0.0, wake - self._clock()))
        for item in self._transport.poll(timeout_s):
            match item:
                case Received() if is_carried(item.frame):
                    self._do(self._passages.receive(item.sender, item.frame, item.payload, self._clock()))
                case LinkChanged():
                    self._items.append(item)
                    self._do(self._passages.link(item.peer, item.up, self._clock()))
                case _:
                    self._items.append(item)
        self._do(self._passages.step(self._clock()))
        for out in self._passages.carry(self._transport.backlog):
            self._transport.send(out.to, out.frame, out.payload)
        items, self._items = [*self._items, *self._incidents()], []
        return items

    def _do(self, items: Sequence[PassageItem]) -> None:
        for item in items:
            match item:
                case Out():
                    self._transport.send(item.to, item.frame, item.payload)
                case Report():
                    self._items.append(Incident(peer=None, event=item.event, text=item.text, level=item.level))
                case _:
                    self._items.append(item)
