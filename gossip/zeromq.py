"""SHELL. Links between peers over ZeroMQ, and the only file that imports zmq.

One TCP connection carries both directions of one edge. The side that dials holds a DEALER per neighbour, the side that
listens holds one ROUTER, so a site whose firewall lets nothing in takes part by dialling only. One thread, the node's
loop, owns everything here; there is no lock and no other thread of ours, and `wake` is the one call others may make.

Who speaks is decided by CURVE and never by what is claimed. Each message from the ROUTER carries the key that its
connection proved (the User-Id our own ZAP handler set) and is looked up in the *current* allow-list, because libzmq
checks a key once, at the handshake, and never again. A DEALER hears nobody but the server key it pinned. Routing ids
are left to libzmq and only say where an answer goes: a chosen id could be claimed by another member.

It refuses to know what frames mean, when to give up on a peer, and whether anything arrived. libzmq accepting a message
promises nothing: a link that dies loses what was in it, and its heartbeats are answered by an I/O thread that runs on
while Python hangs. Acknowledgements, credits and the detection of silence belong to the machine above.

The ROUTER's handshakes wait for `poll`, which serves ZAP; a loop that does not poll lets nobody in, though its own
dials succeed. Measured facts about libzmq 4.3.5 stand beside the lines that depend on them.
"""

from __future__ import annotations

import contextlib
import errno
import math
import os
import random
import re
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import zmq

from gossip.wire import CARRIED_ROOM_BYTES, CONTROL_FRAME_BYTES_MAX
from gossip.zap import ZAP_DOMAIN, ZAP_ENDPOINT, AllowList, Verdict, zap_reply
from swarm.errors import UsageError
from swarm.machine import Buffer, LinkChanged, NodeId, Received

CHUNK_BYTES_MAX = 1 << 20
"""Largest payload of a chunk message. Above 1 MiB frames get slower, not faster (a 40 MiB frame by 2.5 times), and a
frame that takes longer than the heartbeat timeout on a slow link never arrives at all."""

HEAD_BYTES_MAX = CONTROL_FRAME_BYTES_MAX + CARRIED_ROOM_BYTES
PAYLOAD_BYTES_MAX = CHUNK_BYTES_MAX + CARRIED_ROOM_BYTES
"""Both with what sealing for a relay adds. Whoever opens or decodes them has bounds of its own."""

FRAME_BYTES_MAX = max(CONTROL_FRAME_BYTES_MAX, CHUNK_BYTES_MAX) + (64 << 10)
"""MAXMSGSIZE. CURVE adds 33 bytes to a frame; the rest is slack, so that a frame slightly too long is reported here, in
words, and only a wild one costs the connection. libzmq applies it per frame, not per message."""

CONTROL_QUEUE_MAX = 4096
"""Control frames queued for one peer: minutes of consensus traffic. A peer further behind needs catching up."""

CONTROL_QUEUE_BYTES_MAX = 64 << 20
"""Bytes of the same queue, so that 4096 proposals of a megabyte cannot be."""

BULK_QUEUE_BYTES_MAX = 8 << 20
"""Chunk bytes queued for one peer: one credit window. More would only be memory, the link is not faster for it."""

HIGH_WATER_MESSAGES = 16
"""SNDHWM and RCVHWM. They count messages, not bytes, and the default of 1000 would be a gigabyte of chunks per peer."""

POLL_S_MAX = 3600.0
"""Longest wait of one `poll`; libzmq counts it in 32-bit milliseconds."""

POLL_MESSAGES_MAX = 256
POLL_BYTES_MAX = 8 << 20
"""What one `poll` returns at most, so that the loop gets to its timers and its disk between."""

EVENTS_PER_TURN = 128
"""Monitor events and ZAP requests handled per socket and `poll`: a flood of strangers cannot hold the loop."""

ROUTES_RETIRED_MAX = 8
"""Replaced routing ids remembered per peer, so that what is left in an old connection does not pass for a new one."""

ROUTER_RETRY_S = 0.02
"""Longest wait before a full incoming link is tried again, see `_await_room`."""

RECONNECT_WATCH_S = 2.0
"""After a lost link, how long libzmq has to say that it will redial before we do. It says so within milliseconds, or
never: a DEALER that *received* an oversized frame ends its session for good."""

CONNECT_TIMEOUT_S = 10.0
"""For a firewall that drops packets; the system's own patience is two minutes."""

LOOKUP_S = 5.0
"""Between two look-ups of a name that leads nowhere."""

LOOKUP_POLL_S = 0.05
"""Longest wait of a `poll` while a name is looked up."""

PROXIED_HANDSHAKES = 3
"""Through a proxy a handshake may take so many times as long: the proxy's own connection is made within that time."""

KEEPALIVE_IDLE_S = 60
"""TCP keep-alive, below the idle limit of the stateful firewalls in hospitals."""

_LISTENER_EVENTS = (
    zmq.EVENT_ACCEPTED
    | zmq.EVENT_ACCEPT_FAILED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_DIALLER_EVENTS = (
    zmq.EVENT_CONNECT_RETRIED
    | zmq.EVENT_DISCONNECTED
    | zmq.EVENT_HANDSHAKE_SUCCEEDED
    | zmq.EVENT_HANDSHAKE_FAILED_AUTH
    | zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL
    | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
)
_NUMERIC = re.compile(r"[0-9.]+")
_MONITOR_HEAD = struct.Struct("=Hi")  # event, value: zmq_socket_monitor(3), in the machine's byte order


@dataclass(frozen=True, slots=True, kw_only=True)
class PeerAddress:
    """A member this node may talk to.

    `curve_key` is its raw public transport key, 32 bytes. `endpoint` is "tcp://host:port" when this node dials it and
    empty when it dials this node.
    """

    node: NodeId
    name: str
    curve_key: bytes
    endpoint: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incident:
    """Something people should know about a link. `event` is a stable name; `peer` is None when it is not known who."""

    peer: NodeId | None
    event: str
    text: str
    level: str = "warning"


@dataclass(frozen=True, slots=True, kw_only=True)
class Readable:
    """A watched file descriptor has something to read, or was closed at the other end."""

    fd: int


Item: TypeAlias = Received | LinkChanged | Incident | Readable


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Every interval of the transport, in seconds. The defaults are for real networks; tests hurry."""

    reconnect_s: float = 0.2
    """First wait after a refused connection, doubled each time: a restarted peer is back within a blink."""
    reconnect_s_max: float = 10.0
    handshake_s: float = 10.0
    """A stranger who connects and says nothing holds a socket this long, and a key that is not yet on the list waits
    this long for each answer. libzmq's default is 30."""
    heartbeat_s: float = 10.0
    heartbeat_timeout_s: float = 30.0
    """Counted from the last *complete* frame, so it must be far above one chunk's time on the slowest link. The TTL
    option stays unset: it overflows above 65 s."""
    denial_s: float = 1.0
    denial_s_max: float = 30.0
    """Wait after a failed handshake, doubled each time, with jitter. libzmq would try five times a second or never."""
    incident_s: float = 60.0
    """The same incident about the same peer is told once in this time, with a count."""
    linger_s: float = 0.5
    """For last words at `close`."""


class Names(Protocol):
    """Looks host names up beside the loop (`node.names`)."""

    def ask(self, host: str) -> None:
        """Begin to look a name up, unless that is under way."""
        ...

    def take(self) -> Sequence[tuple[str, tuple[str, ...]]]:
        """Return the answers since the last call, (name, addresses); without addresses it is not known."""
        ...


@dataclass(slots=True)
class _Connection:
    """One accepted TCP connection, by its descriptor: where it is from, and whether a member ever spoke over it."""

    address: str
    proven: bool = False


@dataclass(slots=True)
class _Link:
    """One peer: its way out (a DEALER we dialled, or a route through the ROUTER) and what waits to go there."""

    peer: PeerAddress
    dealer: zmq.SyncSocket | None = None
    monitor: zmq.SyncSocket | None = None
    redial_at: float = math.inf
    denials: int = 0
    numbers: tuple[str, ...] = ()
    """Addresses of the peer's host name; the first is dialled."""
    asked_at: float = -math.inf
    asking: bool = False
    route: bytes = b""
    route_key: str = ""
    fd: int = -1
    retired: deque[bytes] = field(default_factory=lambda: deque(maxlen=ROUTES_RETIRED_MAX))
    up: bool = False
    waits: bool = False
    control: deque[bytes] = field(default_factory=deque)
    control_bytes: int = 0
    bulk: deque[tuple[bytes, Buffer]] = field(default_factory=deque)
    bulk_bytes: int = 0

    def clear(self) -> None:
        """Forget what is queued: it was meant for a connection that is gone."""
        self.control.clear()
        self.bulk.clear()
        self.control_bytes = self.bulk_bytes = 0


def self_test() -> str:
    """Return a sentence about the libzmq in use.

    Raises:
        UsageError: it was built without CURVE, so it could only talk in the clear.
    """
    if not zmq.has("curve"):
        raise UsageError(
            f"couldn't use libzmq {zmq.zmq_version()}: it was built without CURVE encryption",
            hint="install pyzmq from its official wheel, which brings libsodium: pip install --force-reinstall pyzmq",
        )
    return f"libzmq {zmq.zmq_version()} with CURVE, pyzmq {zmq.pyzmq_version()}"


class Transport:
    """All links of one node. Made and used by one thread.

    Nothing happens before `open`. From then on `poll` must be called again and again: it serves handshakes, redials,
    moves what is queued, and is where everything that happened is told.

    Args:
        secret_key: raw CURVE secret key of this node, 32 bytes.
        public_key: the public key that belongs to it, 32 bytes.
        listen: "tcp://0.0.0.0:7000", "tcp://127.0.0.1:*", or None for a site that only dials.
        peers: who may talk to us; see `allow`.
        clock: returns seconds that never go backwards.
        rng: for the jitter of redials.
        timing: the intervals.
        ipv6: also resolve host names to IPv6. An address in brackets turns it on by itself.
        names: looks host names up; without it libzmq does, and every link waits for a name server that is silent.
        through: where to knock to get to an endpoint, if there is a proxy in between; called at each dial.
    """

    def __init__(
        self,
        *,
        secret_key: bytes,
        public_key: bytes,
        listen: str | None,
        peers: Sequence[PeerAddress],
        clock: Callable[[], float],
        rng: random.Random,
        timing: Timing | None = None,
        ipv6: bool = False,
        names: Names | None = None,
        through: Callable[[str], str] | None = None,
    ) -> None:
        assert len(secret_key) == len(public_key) == 32, "CURVE keys are 32 raw bytes"
        self.bound_endpoint: str | None = None
        self._secret_key, self._public_key = secret_key, public_key
        self._listen, self._ipv6, self._through = listen, ipv6, through
        self._names = names if through is None else None  # A proxy resolves them itself.
        self._clock, self._rng = clock, rng
        self._timing = timing or Timing()
        self._links: dict[NodeId, _Link] = {}
        self._allowed = AllowList()
        self._context: zmq.Context[zmq.SyncSocket] | None = None
        self._poller = zmq.Poller()
        self._handlers: dict[zmq.SyncSocket | int, Callable[[], None]] = {}
        self._watched: list[int] = []
        self._monitors = 0
        self._router: zmq.SyncSocket | None = None
        self._router_monitor: zmq.SyncSocket | None = None
        self._router_fd = -1
        self._connections: dict[int, _Connection] = {}
        self._refused = 0
        self._failure: tuple[str, str] | None = None
        self._items: list[Item] = []
        self._incidents: dict[tuple[NodeId | None, str], tuple[float, int]] = {}
        self._room_messages = self._room_bytes = self._turn = 0
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self.allow(peers)

    # --- life -----------------------------------------------------------------------------------------------------

    def open(self) -> None:
        """Bind and dial.

        Raises:
            UsageError: `listen` is not an address of this machine, its port is taken, or libzmq has no CURVE.
        """
        self_test()
        # One I/O thread encrypts up to 0.4 GB/s, and events of one connection then come in one order.
        self._context = zmq.Context(io_threads=1)
        try:
            # The order fails closed: with no ZAP handler libzmq lets anybody in, so the handler is there before a port.
            authenticator = self._context.socket(zmq.REP)
            authenticator.bind(ZAP_ENDPOINT)
            self._register(authenticator, lambda: self._authenticate(authenticator))
            self._bell = _bell()
            self._register(self._bell[0].fileno(), self._woken)
            if self._listen is not None:
                self._bind(self._listen)
        except UsageError:
            self.close()
            raise
        for link in self._links.values():
            self._dial(link)

    def close(self) -> None:
        """Close every link, giving what libzmq already has half a second to leave. Calling it again does nothing."""
        if self._context is not None:
            self._stop_monitor(self._router, self._router_monitor)
            for link in self._links.values():
                self._stop_monitor(link.dealer, link.monitor)
            for handle in self._handlers:
                if isinstance(handle, zmq.Socket):
                    handle.close()
            self._context.term()
            self._context = None
        self._poller, self._handlers = zmq.Poller(), {}
        self._router = self._router_monitor = self.bound_endpoint = None
        self._links.clear()
        for end in self._bell or ():
            end.close()

    def wake(self) -> None:
        """Make a `poll` in progress, or the next one, return at once. The only method other threads may call.

        Before `open` and after `close` it does nothing.
        """
        # A full pipe means that a wake is pending; a closed one that nobody waits any more.
        with contextlib.suppress(OSError):
            if self._bell is not None:
                self._bell[1].send(b"\0")

    def rekey(self, secret_key: bytes, public_key: bytes) -> None:
        """Take another transport key, 32 raw bytes each half: every link is cut, and made again under the new one."""
        assert len(secret_key) == len(public_key) == 32, "CURVE keys are 32 raw bytes"
        opened, peers = self._context is not None, [link.peer for link in self._links.values()]
        watched, self._watched = self._watched, []
        for link in self._links.values():
            self._down(link, "this site has taken a new transport key")
        self._listen = self.bound_endpoint or self._listen
        if opened:
            self.close()
        self._connections.clear()
        self._secret_key, self._public_key = secret_key, public_key
        self.allow(peers)
        if opened:
            self.open()
            for fd in watched:
                self.watch(fd)

    def watch(self, fd: int) -> None:
        """Let `poll` also report when this file descriptor is readable."""
        self._watched.append(fd)
        self._register(fd, lambda: self._items.append(Readable(fd=fd)))

    def unwatch(self, fd: int) -> None:
        """Stop watching. To be called before the descriptor is closed."""
        if fd in self._watched:
            self._watched.remove(fd)
        self._unregister(fd)

    # --- who may talk ---------------------------------------------------------------------------------------------

    def allow(self, peers: Sequence[PeerAddress], revoked: Sequence[bytes] = ()) -> None:
        """Replace the table of peers, at any time.

        Links of keys that are gone are cut, new endpoints are dialled. A key that was on the list before counts as
        revoked, as do those in `revoked`: its owner is told so (ZAP 400), while an unknown key is asked to try again
        later (300), because a site often starts before the others have heard of it. Two entries with one node are the
        two keys of a rotation, both valid; the first with an endpoint is dialled.
        """
        # Connections that have ended by themselves are not to be cut: their descriptors may be somebody else's by now.
        self._hear_listener()
        chosen: dict[NodeId, PeerAddress] = {}
        for peer in peers:
            known = chosen.get(peer.node)
            if known is None or (peer.endpoint and not known.endpoint):
                chosen[peer.node] = peer
        self._allowed.replace(
            {peer.curve_key.hex(): peer.node for peer in peers},
            {peer.curve_key.hex(): peer.name for peer in peers},
            [key.hex() for key in revoked],
        )
        for node in [node for node in self._links if node not in chosen]:
            link = self._links.pop(node)
            self._cut(link, "it is no longer on the list of this swarm")
        for node, peer in chosen.items():
            self._readdress(self._links.setdefault(node, _Link(peer)), peer)

    def _readdress(self, link: _Link, peer: PeerAddress) -> None:
        before, link.peer = link.peer, peer
        if link.route and self._allowed.node(link.route_key) != peer.node:
            self._cut(link, f"its key {link.route_key[:8]} was revoked")
        moved = before.endpoint != peer.endpoint or (peer.endpoint != "" and before.curve_key != peer.curve_key)
        if moved:
            self._cut(link, "its address or key has changed")
        if self._context is not None and link.dealer is None and (moved or link.redial_at == math.inf):
            self._dial(link)

    def _cut(self, link: _Link, why: str) -> None:
        """End a link from our side, whichever way it goes."""
        self._down(link, why)
        self._hang_up(link)
        if link.route:
            self._shut(link.fd)
            self._forget_route(link)

    def _shut(self, fd: int) -> None:
        """Cut one incoming connection. A ROUTER cannot (libzmq #2877), but its TCP connection can be shut down.

        libzmq then reads end-of-file and drops the pipe. The descriptor stays libzmq's to close. Should it have been
        reused in this instant for another of our connections, that one is dialled again; nothing else has our port.
        Shutting down one that is already closed is an error that changes nothing.
        """
        if self._connections.pop(fd, None) is None or self.bound_endpoint is None:
            return
        with contextlib.suppress(OSError):
            connection = socket.socket(fileno=fd)
            try:
                if connection.getsockname()[1] == int(self.bound_endpoint.rpartition(":")[2]):
                    connection.shutdown(socket.SHUT_RDWR)
            finally:
                connection.detach()

    def _authenticate(self, authenticator: zmq.SyncSocket) -> None:
        """Answer the ROUTER's questions about keys (RFC 27/ZAP)."""
        for _turn in range(EVENTS_PER_TURN):
            try:
                request = authenticator.recv_multipart(zmq.NOBLOCK)
            except zmq.Again:
                return
            authenticator.send_multipart(zap_reply(request, self._verdict))

    def _verdict(self, key: str, address: str) -> Verdict:
        verdict = self._allowed.verdict(key)
        if verdict is Verdict.REVOKED:
            name = self._allowed.name(key)
            self._tell(None, "revoked_key", f"refused {name} at {address}: its key {key[:8]} is revoked")
        elif verdict is Verdict.UNKNOWN:
            self._tell(None, "unknown_key", f"refused a peer at {address}: its key {key[:8]} is not on our list")
        return verdict

    # --- sockets --------------------------------------------------------------------------------------------------

    def _register(self, handle: zmq.SyncSocket | int, handler: Callable[[], None]) -> None:
        self._handlers[handle] = handler
        self._poller.register(handle, zmq.POLLIN)

    def _unregister(self, handle: zmq.SyncSocket | int) -> None:
        if self._handlers.pop(handle, None) is not None:
            self._poller.unregister(handle)

    def _socket(self, kind: int, endpoint: str) -> zmq.SyncSocket:
        assert self._context is not None, "opened before it is used"
        timing, made = self._timing, self._context.socket(kind)
        made.setsockopt(zmq.CURVE_SECRETKEY, self._secret_key)
        made.setsockopt(zmq.CURVE_PUBLICKEY, self._public_key)
        made.setsockopt(zmq.SNDHWM, HIGH_WATER_MESSAGES)
        made.setsockopt(zmq.RCVHWM, HIGH_WATER_MESSAGES)
        made.setsockopt(zmq.MAXMSGSIZE, FRAME_BYTES_MAX)
        made.setsockopt(zmq.LINGER, _ms(timing.linger_s))
        made.setsockopt(zmq.HANDSHAKE_IVL, _ms(timing.handshake_s))
        made.setsockopt(zmq.HEARTBEAT_IVL, _ms(timing.heartbeat_s))
        made.setsockopt(zmq.HEARTBEAT_TIMEOUT, _ms(timing.heartbeat_timeout_s))
        made.setsockopt(zmq.TCP_KEEPALIVE, 1)
        made.setsockopt(zmq.TCP_KEEPALIVE_IDLE, KEEPALIVE_IDLE_S)
        made.setsockopt(zmq.IPV6, int(self._ipv6 or "[" in endpoint))
        return made

    def _monitor(self, watched: zmq.SyncSocket, events: int) -> zmq.SyncSocket:
        """Attach a monitor. Before bind or connect, or the first events are lost."""
        assert self._context is not None, "opened before it is used"
        # pyzmq's own name for it holds a descriptor number, which is reused before the old name is free.
        self._monitors += 1
        name = f"inproc://monitor-{self._monitors}"
        watched.monitor(name, events)
        monitor = self._context.socket(zmq.PAIR)
        monitor.connect(name)
        return monitor

    @staticmethod
    def _stop_monitor(watched: zmq.SyncSocket | None, monitor: zmq.SyncSocket | None) -> None:
        """Detach a monitor, always before it is closed.

        libzmq's I/O thread *waits* when it sends an event to a monitor that nobody holds, and the whole context stands
        still with it: no handshake, no message, no error, for any peer.
        """
        if watched is not None and monitor is not None:
            watched.disable_monitor()
            monitor.close()

    def _bind(self, endpoint: str) -> None:
        router = self._socket(zmq.ROUTER, endpoint)
        self._router = router
        router.setsockopt(zmq.CURVE_SERVER, 1)
        # To libzmq a domain that nobody serves means "no authentication"; with this it means "no entry".
        router.setsockopt(zmq.ZAP_DOMAIN, ZAP_DOMAIN)
        router.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
        # Without it a message to a full or vanished peer is dropped and reported as sent.
        router.setsockopt(zmq.ROUTER_MANDATORY, 1)
        # With it an authorised peer could take over another's routing id, and its traffic.
        router.setsockopt(zmq.ROUTER_HANDOVER, 0)
        self._router_monitor = self._monitor(router, _LISTENER_EVENTS)
        self._register(self._router_monitor, lambda: self._hear_listener())
        self._register(router, lambda: self._receive(router, None))
        try:
            router.bind(endpoint)
        except zmq.ZMQError as error:
            taken = error.errno == errno.EADDRINUSE
            raise UsageError(
                f"couldn't listen on {endpoint}: {error.strerror or error}",
                hint="stop the other program on this port or choose another port in `listen`"
                if taken
                else "give `listen` an address of this machine, such as tcp://0.0.0.0:7000",
                identifier="SWARM-NET-LISTEN",
            ) from error
        self.bound_endpoint = router.getsockopt_string(zmq.LAST_ENDPOINT)
        self._router_fd = int(router.getsockopt(zmq.FD))

    def _dial(self, link: _Link) -> None:
        """Make a fresh DEALER for a peer and connect it. Its key and the way it failed before go with the old one."""
        peer = link.peer
        link.redial_at = math.inf
        if not peer.endpoint:
            return
        target = peer.endpoint if self._through is None else self._through(peer.endpoint)
        host = self._name_of(peer)
        if host:
            if not link.numbers:
                self._ask(link)
                return
            number = f"[{link.numbers[0]}]" if ":" in link.numbers[0] else link.numbers[0]
            target = f"tcp://{number}:{peer.endpoint.rpartition(':')[2]}"
        dealer = self._socket(zmq.DEALER, target)
        dealer.setsockopt(zmq.CURVE_SERVERKEY, peer.curve_key)
        # Otherwise messages queue for a peer that is not there and arrive, out of date, when it is.
        dealer.setsockopt(zmq.IMMEDIATE, 1)
        dealer.setsockopt(zmq.RECONNECT_IVL, _ms(self._timing.reconnect_s))
        dealer.setsockopt(zmq.RECONNECT_IVL_MAX, _ms(self._timing.reconnect_s_max))
        dealer.setsockopt(zmq.CONNECT_TIMEOUT, _ms(CONNECT_TIMEOUT_S))
        if self._through is not None:
            dealer.setsockopt(zmq.HANDSHAKE_IVL, _ms(PROXIED_HANDSHAKES * self._timing.handshake_s))
        link.dealer, link.monitor = dealer, self._monitor(dealer, _DIALLER_EVENTS)
        self._register(link.monitor, lambda: self._hear_dialler(link))
        self._register(dealer, lambda: self._receive(dealer, link))
        try:
            dealer.connect(target)
        except zmq.ZMQError as error:
            text = f"couldn't dial {peer.name}: {peer.endpoint!r} is not an address ({error.strerror or error})"
            self._tell(peer.node, "bad_endpoint", text, "error")
            self._hang_up(link)

    def _name_of(self, peer: PeerAddress) -> str:
        """Return the host name to look up before a peer is dialled; empty if there is none."""
        host = peer.endpoint.removeprefix("tcp://").rpartition(":")[0]
        return "" if self._names is None or host.startswith("[") or _NUMERIC.fullmatch(host) else host

    def _ask(self, link: _Link) -> None:
        """Have the peer's name looked up: before a dial, and while nothing answers, as its address may have changed."""
        host = self._name_of(link.peer)
        if self._names is not None and host and (link.dealer is None or self._clock() >= link.asked_at + LOOKUP_S):
            link.asked_at, link.asking = self._clock(), True
            self._names.ask(host)

    def _hear_names(self) -> None:
        """Dial whose name has been looked up; go to another address if nothing answers at the one that was dialled."""
        for host, numbers in () if self._names is None else self._names.take():
            for link in [link for link in self._links.values() if link.asking and self._name_of(link.peer) == host]:
                link.asking = False
                if link.up:
                    continue
                if not numbers:
                    text = f"couldn't reach {link.peer.name}: no address is found for the name {host}; trying again"
                    self._tell(link.peer.node, "unknown_name", text)
                    if link.dealer is None:
                        link.redial_at = self._clock() + LOOKUP_S
                    continue
                if link.dealer is not None:
                    dialled = link.numbers[0] if link.numbers else ""
                    if numbers == (dialled,):
                        continue
                    after = numbers.index(dialled) + 1 if dialled in numbers else 0
                    numbers = (*numbers[after:], *numbers[:after])
                    self._hang_up(link)
                link.numbers = numbers
                self._dial(link)

    def _hang_up(self, link: _Link) -> None:
        """Close a DEALER. After a denial libzmq never comes back, and connecting it again is a silent no-op."""
        if link.dealer is None or link.monitor is None:
            return
        self._unregister(link.dealer)
        self._unregister(link.monitor)
        self._stop_monitor(link.dealer, link.monitor)
        link.dealer.close(linger=0)
        link.dealer = link.monitor = None
        link.redial_at, link.numbers = math.inf, ()

    # --- what the monitors say ------------------------------------------------------------------------------------

    def _hear_dialler(self, link: _Link) -> None:
        """Supervise a dialled link: put its events into words, redial where libzmq does not."""
        for _ in range(EVENTS_PER_TURN):
            event = _next_event(link.monitor)
            if event is None:
                return
            self._dialler_event(link, *event)

    def _dialler_event(self, link: _Link, event: int, value: int) -> None:
        peer = link.peer
        if event == zmq.EVENT_HANDSHAKE_SUCCEEDED:
            link.denials, link.redial_at = 0, math.inf
            self._up(link, f"connected to {peer.endpoint}")
        elif event == zmq.EVENT_DISCONNECTED:
            link.redial_at = self._clock() + RECONNECT_WATCH_S
            self._down(link, f"the connection to {peer.endpoint} was lost")
        elif event == zmq.EVENT_CONNECT_RETRIED:
            if link.redial_at == math.inf:
                text = f"couldn't reach {peer.name}: nothing answers at {peer.endpoint}; trying again"
                self._tell(peer.node, "unreachable", text)
            link.redial_at = math.inf
            self._ask(link)
        else:
            self._denied(link, event, value)

    def _denied(self, link: _Link, event: int, value: int) -> None:
        """A handshake of ours failed: say why, hang up, and dial again later."""
        peer, ours, pinned = link.peer, self._public_key.hex()[:8], link.peer.curve_key.hex()[:8]
        if event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            name, text = "denied", f"{peer.name} refused us ({value}): our key {ours} is not on its list"
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            name = "handshake_protocol"
            text = f"{peer.endpoint} answered, but not as {peer.name} would: {_protocol_words(value)}"
        elif value == errno.EAGAIN:
            # What a peer that answers ZAP 300 looks like from here: libzmq goes quiet until the handshake times out.
            name = "handshake_timeout"
            text = f"{peer.name} did not finish the handshake: our key {ours} may not be on its list yet"
        else:
            # A listener that cannot open our greeting hangs up: it was sealed for the key we pinned.
            name = "wrong_server_key"
            who = peer.name if self._through is None else f"{peer.name}, or the proxy,"
            text = f"{who} hung up on our greeting: {peer.endpoint} may not hold the key {pinned} pinned for it"
        self._tell(peer.node, name, text)
        self._down(link, text)
        self._hang_up(link)
        timing = self._timing
        delay_s = min(timing.denial_s * 2.0 ** min(link.denials, 16), timing.denial_s_max)
        link.denials += 1
        link.redial_at = self._clock() + delay_s * self._rng.uniform(0.75, 1.25)

    def _hear_listener(self) -> None:
        for _ in range(EVENTS_PER_TURN):
            event = _next_event(self._router_monitor)
            if event is None:
                return
            self._listener_event(*event)

    def _listener_event(self, event: int, value: int) -> None:
        if event == zmq.EVENT_ACCEPTED:
            self._connections[value] = _Connection(_peer_of(value))
        elif event == zmq.EVENT_ACCEPT_FAILED:
            text = f"couldn't accept a connection: {os.strerror(value)}"
            self._tell(None, "accept_failed", text, "error")
        elif event == zmq.EVENT_HANDSHAKE_FAILED_AUTH:
            # The ZAP handler has said who and why; the connection itself goes later.
            self._refused += 1
        elif event == zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL:
            self._failure = ("handshake_protocol", _protocol_words(value))
        elif event == zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL:
            self._failure = ("handshake_timeout", "it did not finish the handshake")
        else:
            self._disconnected(value)

    def _disconnected(self, fd: int) -> None:
        """An incoming connection ended. Failures carry no descriptor, but the disconnect right after them does."""
        failure, self._failure = self._failure, None
        connection = self._connections.pop(fd, None)
        if connection is None:
            return  # we cut it ourselves, and said so
        address = connection.address
        for link in self._links.values():
            if link.fd == fd:
                self._forget_route(link)
                self._down(link, f"the connection from {address} was lost")
                return
        if failure is not None:
            self._tell(None, failure[0], f"refused a connection from {address}: {failure[1]}")
        elif self._refused and not connection.proven:
            self._refused -= 1
        elif not connection.proven:
            text = f"a connection from {address} came and went without a word that a peer would say"
            self._tell(None, "stranger", text, "info")

    @staticmethod
    def _forget_route(link: _Link) -> None:
        link.retired.append(link.route)
        link.route, link.fd = b"", -1

    def _up(self, link: _Link, why: str) -> None:
        if not link.up:
            link.up = True
            self._items.append(LinkChanged(link.peer.node, True, why))

    def _down(self, link: _Link, why: str) -> None:
        link.clear()
        self._await_room(link, False)
        if link.up:
            link.up = False
            self._items.append(LinkChanged(link.peer.node, False, why))

    def _tell(self, peer: NodeId | None, event: str, text: str, level: str = "warning") -> None:
        """Report an incident unless the same one was told lately; count those that were not."""
        now = self._clock()
        told_at, held_back = self._incidents.get((peer, event), (-math.inf, 0))
        if now - told_at < self._timing.incident_s:
            self._incidents[peer, event] = (told_at, held_back + 1)
            return
        self._incidents[peer, event] = (now, 0)
        more = f" (and {held_back} more like it since the last report)" if held_back else ""
        self._items.append(Incident(peer=peer, event=event, text=text + more, level=level))

    # --- in -------------------------------------------------------------------------------------------------------

    def poll(self, timeout_s: float) -> list[Item]:
        """Wait until something happens, at most `timeout_s` seconds, and return what did.

        It may return early with nothing: after a handshake was served, room was found for queued frames, or `wake`. At
        most `POLL_MESSAGES_MAX` messages and about `POLL_BYTES_MAX` bytes come at once; the next call has the rest.
        """
        assert self._context is not None, "opened before it is polled"
        now = self._clock()
        wait_s = timeout_s
        for link in self._links.values():
            if link.redial_at <= now:
                self._hang_up(link)
                self._dial(link)
            if link.waits and link.dealer is None:
                wait_s = min(wait_s, ROUTER_RETRY_S)
            wait_s = min(wait_s, link.redial_at - now, LOOKUP_POLL_S if link.asking else math.inf)
        ready = self._poller.poll(0 if self._items else _ms(min(max(wait_s, 0.0), POLL_S_MAX)))
        self._room_messages, self._room_bytes = POLL_MESSAGES_MAX, POLL_BYTES_MAX
        # Who comes first changes each time, so that a fast peer cannot use up the bound before a slow one is heard.
        self._turn = (self._turn + 1) % max(len(ready), 1)
        for handle, _ in ready[self._turn :] + ready[: self._turn]:
            handler = self._handlers.get(handle)
            if handler is not None:
                handler()
        self._hear_names()
        # After the wait, not before: a caller who paces itself by `backlog` has something to do once a queue is empty.
        for link in self._links.values():
            if link.waits and link.dealer is None:
                self._flush(link)
        items, self._items = self._items, []
        return items

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            if self._bell is not None:
                self._bell[0].recv(4096)

    def _receive(self, source: zmq.SyncSocket, link: _Link | None) -> None:
        """Take what is readable, within this poll's bounds. `link` is None for the ROUTER."""
        if link is not None and link.waits:
            self._flush(link)
        while self._room_messages > 0 and self._room_bytes > 0 and not source.closed:
            frames = _next_message(source)
            if not frames:
                return
            self._room_messages -= 1
            self._room_bytes -= sum(len(frame) for frame in frames)
            if link is None:
                self._accept(frames)
            else:
                if not link.up:
                    # The handshake's event is in the monitor, written before the message: tell of the link first.
                    self._hear_dialler(link)
                self._deliver(link, frames)

    def _accept(self, frames: list[zmq.Frame]) -> None:
        """Find out who sent a ROUTER message, from the key its connection proved."""
        route, last = frames[0].bytes, frames[-1]
        try:
            key = str(last.get("User-Id"))
            fd = int(last.get(zmq.SRCFD))
        except zmq.ZMQError:
            self._tell(None, "unauthenticated", "dropped a message with no proven key", "error")
            return
        node = self._allowed.node(key)
        if node is None:
            # It was let in before its key was taken off the list.
            self._tell(
                None, "revoked_key", f"dropped a message of {self._allowed.name(key)}: its key {key[:8]} is revoked"
            )
            self._hear_listener()
            self._shut(fd)
            return
        link = self._links[node]
        if route != link.route and not link.peer.endpoint and not (link.up and route in link.retired):
            self._adopt(link, route, key, fd)
        self._deliver(link, frames[1:])

    def _adopt(self, link: _Link, route: bytes, key: str, fd: int) -> None:
        """A peer speaks over a new connection: answers go there from now on."""
        # Descriptors are reused. This connection's own ACCEPTED is in the monitor by now; after reading that far, an
        # end of this descriptor that is still to come cannot be its predecessor's.
        self._hear_listener()
        connection = self._connections.get(fd)
        if connection is None:
            return
        connection.proven = True
        if link.route:
            self._forget_route(link)
            self._down(link, f"replaced by a newer connection from {connection.address}")
        link.route, link.route_key, link.fd = route, key, fd
        self._up(link, f"{link.peer.name} dialled in from {connection.address}")

    def _deliver(self, link: _Link, frames: list[zmq.Frame]) -> None:
        """Believe the shape of a message, or drop it and say so."""
        peer = link.peer
        if len(frames) > 2:
            self._tell(peer.node, "bad_message", f"dropped a message of {peer.name}: it has more than two frames")
        elif not frames or len(frames[0]) > HEAD_BYTES_MAX:
            text = f"dropped a message of {peer.name}: its first frame is missing or above {HEAD_BYTES_MAX} bytes"
            self._tell(peer.node, "bad_message", text)
        elif len(frames) == 1:
            self._items.append(Received(peer.node, frames[0].bytes))
        elif len(frames[1]) > PAYLOAD_BYTES_MAX:
            text = f"dropped a chunk of {peer.name}: {len(frames[1])} bytes, and {PAYLOAD_BYTES_MAX} are allowed"
            self._tell(peer.node, "bad_message", text)
        else:
            # The view keeps libzmq's own buffer alive: the bytes are not copied on their way to the disk.
            self._items.append(Received(peer.node, frames[0].bytes, frames[1].buffer))

    # --- out ------------------------------------------------------------------------------------------------------

    def send(self, to: NodeId, frame: bytes, payload: Buffer | None = None) -> bool:
        """Queue a message, with a payload of a chunk or without. Never waits.

        Control frames overtake chunks that are still queued here. The payload must not change afterwards: libzmq reads
        it while it sends. (Live parameters sent this way arrived half old, half new.) Mutable buffers are copied.

        Returns:
            False when there is no link to that peer or its queue is full; nothing was queued then.
        """
        link = self._links.get(to)
        if link is None or not link.up:
            return False
        assert len(frame) <= HEAD_BYTES_MAX, "control frames are bounded where they are made"
        if payload is None:
            if len(link.control) >= CONTROL_QUEUE_MAX or link.control_bytes + len(frame) > CONTROL_QUEUE_BYTES_MAX:
                return False
            link.control.append(frame)
            link.control_bytes += len(frame)
        else:
            view = memoryview(payload)
            assert view.nbytes <= PAYLOAD_BYTES_MAX, "chunks are bounded where they are made"
            if link.bulk_bytes + view.nbytes > BULK_QUEUE_BYTES_MAX:
                return False
            link.bulk.append((frame, payload if view.readonly and view.c_contiguous else bytes(view)))
            link.bulk_bytes += view.nbytes
        if not link.waits:
            self._flush(link)
        return True

    def backlog(self, to: NodeId) -> int:
        """Return the bytes queued here for a peer; what libzmq and the kernel hold is not known."""
        link = self._links.get(to)
        return 0 if link is None else link.control_bytes + link.bulk_bytes

    def _flush(self, link: _Link) -> None:
        """Give queued messages to libzmq, control first, until it has enough of them."""
        while link.control:
            frame = link.control[0]
            if not self._give(link, frame, None):
                return
            link.control.popleft()
            link.control_bytes -= len(frame)
        while link.bulk:
            frame, payload = link.bulk[0]
            if not self._give(link, frame, payload):
                return
            link.bulk.popleft()
            link.bulk_bytes -= memoryview(payload).nbytes
        self._await_room(link, False)

    def _give(self, link: _Link, frame: bytes, payload: Buffer | None) -> bool:
        """Give one message to libzmq: all of it, or none.

        Room is decided at the first frame. If a pipe dies between two frames, libzmq drops the beginning, so that
        starting again with the first frame is right.
        """
        out = link.dealer or self._router
        assert out is not None, "a link that is up has a socket"
        try:
            if link.dealer is None:
                out.send(link.route, zmq.NOBLOCK | zmq.SNDMORE)
            if payload is None:
                out.send(frame, zmq.NOBLOCK)
            else:
                out.send(frame, zmq.NOBLOCK | zmq.SNDMORE)
                out.send(payload, zmq.NOBLOCK, copy=False)
        except zmq.Again:
            self._await_room(link, True)
            return False
        except zmq.ZMQError as error:
            if error.errno != errno.EHOSTUNREACH:
                raise
            self._forget_route(link)
            self._down(link, "its connection is gone")
            return False
        return True

    def _await_room(self, link: _Link, waits: bool) -> None:
        """Have `poll` notice when a full link can take more; only while something is queued, or it would spin.

        A DEALER says so with POLLOUT. A ROUTER's POLLOUT means that *some* peer can take more, which would spin for as
        long as one is stuck. Its descriptor, however, is signalled when any pipe has moved. Such a signal can be used
        up by another call before `poll` sees it, hence `ROUTER_RETRY_S`.
        """
        if link.waits == waits:
            return
        link.waits = waits
        if link.dealer is not None:
            self._poller.register(link.dealer, zmq.POLLIN | zmq.POLLOUT if waits else zmq.POLLIN)
        elif any(other.waits and other.dealer is None for other in self._links.values()):
            self._register(self._router_fd, lambda: None)
        else:
            self._unregister(self._router_fd)


def _bell() -> tuple[socket.socket, socket.socket]:
    """Return two connected sockets, neither of which ever waits."""
    inner, outer = socket.socketpair()
    inner.setblocking(False)
    outer.setblocking(False)
    return inner, outer


def _ms(seconds: float) -> int:
    """Round up, so that a wait of half a millisecond is not a busy loop."""
    return math.ceil(seconds * 1000)


def _next_event(monitor: zmq.SyncSocket | None) -> tuple[int, int] | None:
    """Read one event and its value, or None when there is none or the monitor is gone."""
    if monitor is None or monitor.closed:
        return None
    try:
        head, _endpoint = monitor.recv_multipart(zmq.NOBLOCK)
    except zmq.Again:
        return None
    event, value = _MONITOR_HEAD.unpack(head)
    return event, value


def _next_message(source: zmq.SyncSocket) -> list[zmq.Frame]:
    """Read one message, keeping at most four frames: a route, the two that are allowed, and one that is too many.

    libzmq hands over whole messages only and bounds no number of frames, so a member can make it hold many; it is
    dropped here, and named.
    """
    frames: list[zmq.Frame] = []
    flags = zmq.NOBLOCK
    more = True
    while more:
        try:
            frame = source.recv(flags, copy=False)
        except zmq.Again:
            return []
        more = frame.more
        if len(frames) < 4:
            frames.append(frame)
    return frames


def _peer_of(fd: int) -> str:
    """Return "host:port" of the other end of a connection that libzmq owns; the descriptor stays its own."""
    try:
        connection = socket.socket(fileno=fd)
    except OSError:
        return "an unknown address"
    try:
        host, port = connection.getpeername()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    except OSError:
        return "an unknown address"
    finally:
        connection.detach()


def _protocol_words(value: int) -> str:
    if value == zmq.PROTOCOL_ERROR_ZMTP_MECHANISM_MISMATCH:
        return "it does not speak CURVE, and nothing goes in the clear here"
    if value == zmq.PROTOCOL_ERROR_ZMTP_CRYPTOGRAPHIC:
        return "its greeting was not sealed with the right key; one side has an old key of the other"
    return f"it broke the protocol (libzmq error {value:#x})"
