"""Real sockets on 127.0.0.1: who gets in, who is told what, and what overtakes what.

Every site polls in the test's own thread, so nothing here sleeps: `until` turns the loop of each until a condition
holds, and fails at a deadline.
"""

from __future__ import annotations

import contextlib
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import pytest
import zmq
from zmq.utils import z85

from gossip.zap import ZAP_DOMAIN, Verdict, zap_reply
from gossip.zeromq import (
    BULK_QUEUE_BYTES_MAX,
    CHUNK_BYTES_MAX,
    CONTROL_QUEUE_MAX,
    FRAME_BYTES_MAX,
    HEAD_BYTES_MAX,
    PAYLOAD_BYTES_MAX,
    POLL_BYTES_MAX,
    Incident,
    Item,
    PeerAddress,
    Readable,
    Timing,
    Transport,
    self_test,
)
from swarm.errors import UsageError
from swarm.machine import LinkChanged, NodeId, Received

pytestmark = pytest.mark.real

HASTE = Timing(
    reconnect_s=0.05, reconnect_s_max=0.2, handshake_s=0.5, denial_s=0.05, denial_s_max=0.2, incident_s=60.0, linger_s=0
)


class Site:
    """A member with its keys, its transport, and everything its polls returned."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.node = NodeId(name.encode().ljust(32, b"."))
        self.rotate()
        self.items: list[Item] = []
        self._running: Transport | None = None

    @property
    def transport(self) -> Transport:
        assert self._running is not None, "started"
        return self._running

    @property
    def endpoint(self) -> str:
        assert self.transport.bound_endpoint is not None, "it listens"
        return self.transport.bound_endpoint

    def rotate(self) -> None:
        """Take a new key pair."""
        public, secret = zmq.curve_keypair()
        self.public, self.secret = z85.decode(public), z85.decode(secret)

    def address(self, endpoint: str = "") -> PeerAddress:
        return PeerAddress(node=self.node, name=self.name, curve_key=self.public, endpoint=endpoint)

    def start(self, *peers: PeerAddress, listen: str | None = None, timing: Timing = HASTE) -> Transport:
        self._running = Transport(
            secret_key=self.secret,
            public_key=self.public,
            listen=listen,
            peers=peers,
            clock=time.monotonic,
            rng=random.Random(1),
            timing=timing,
        )
        self._running.open()
        return self._running

    def listen(self, *peers: PeerAddress, timing: Timing = HASTE) -> str:
        """Start as a listener on a free port and return its endpoint."""
        self.start(*peers, listen="tcp://127.0.0.1:*", timing=timing)
        return self.endpoint

    def turn(self, timeout_s: float = 0.01) -> None:
        if self._running is not None:
            self.items += self._running.poll(timeout_s)

    def stop(self) -> None:
        if self._running is not None:
            self._running.close()
            self._running = None

    def send(self, to: Site, frame: bytes, payload: bytes | None = None) -> bool:
        return self.transport.send(to.node, frame, payload)

    def frames(self) -> list[bytes]:
        return [item.frame for item in self.items if isinstance(item, Received)]

    def links(self, peer: Site) -> list[bool]:
        return [item.up for item in self.items if isinstance(item, LinkChanged) and item.peer == peer.node]

    def linked(self, peer: Site) -> bool:
        return self.links(peer)[-1:] == [True]

    def told(self, event: str) -> list[Incident]:
        return [item for item in self.items if isinstance(item, Incident) and item.event == event]


@pytest.fixture
def sites() -> Iterator[tuple[Site, Site, Site]]:
    three = Site("site-A"), Site("site-B"), Site("site-C")
    yield three
    for site in three:
        site.stop()


def until(condition: Callable[[], bool], *sites: Site, timeout_s: float = 20.0) -> None:
    """Turn the loops of these sites until the condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, [(site.name, site.items[-5:]) for site in sites]
        for site in sites:
            site.turn()


def link(listener: Site, dialler: Site) -> None:
    """Start both and greet, so that both know of the link."""
    endpoint = listener.listen(dialler.address())
    dialler.start(listener.address(endpoint))
    greet(listener, dialler)


def greet(listener: Site, dialler: Site) -> None:
    until(lambda: dialler.linked(listener), listener, dialler)
    assert dialler.send(listener, b"hello")
    until(lambda: listener.linked(dialler) and b"hello" in listener.frames(), listener, dialler)


def plain_dealer(endpoint: str) -> tuple[zmq.Context[zmq.SyncSocket], zmq.SyncSocket]:
    context: zmq.Context[zmq.SyncSocket] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.connect(endpoint)
    return context, dealer


def member_dealer(member: Site, listener: Site, endpoint: str) -> tuple[zmq.Context[zmq.SyncSocket], zmq.SyncSocket]:
    """Return a bare socket with a member's keys, to send what a Transport would not."""
    context: zmq.Context[zmq.SyncSocket] = zmq.Context()
    dealer = context.socket(zmq.DEALER)
    dealer.linger = 0
    dealer.setsockopt(zmq.CURVE_SERVERKEY, listener.public)
    dealer.setsockopt(zmq.CURVE_PUBLICKEY, member.public)
    dealer.setsockopt(zmq.CURVE_SECRETKEY, member.secret)
    dealer.connect(endpoint)
    return context, dealer


# --- two sites, one dials -----------------------------------------------------------------------------------------


def test_frames_travel_both_ways_over_the_one_connection_that_was_dialled(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    assert a.send(b, b"control")
    assert a.send(b, b"header", b"chunk of a")
    assert b.send(a, b"header", b"chunk of b")
    until(lambda: len(b.frames()) == 2 and len(a.frames()) == 2, a, b)
    to_b = [item for item in b.items if isinstance(item, Received)]
    to_a = [item for item in a.items if isinstance(item, Received)]
    assert [(m.sender, m.frame, m.payload and bytes(m.payload)) for m in to_b] == [
        (a.node, b"control", None),
        (a.node, b"header", b"chunk of a"),
    ]
    assert [(m.sender, m.frame, m.payload and bytes(m.payload)) for m in to_a] == [
        (b.node, b"hello", None),
        (b.node, b"header", b"chunk of b"),
    ]
    assert isinstance(to_a[1].payload, memoryview)


def test_a_link_is_reported_before_its_first_message(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    kinds = [type(item) for item in a.items if isinstance(item, LinkChanged | Received)]
    assert kinds == [LinkChanged, Received]


def test_nothing_is_sent_to_a_peer_without_a_link(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    a.listen(b.address())
    assert not a.send(b, b"frame")
    assert not a.send(c, b"frame")
    assert a.transport.backlog(b.node) == 0


def test_a_megabyte_payload_arrives_whole_and_one_byte_more_is_not_sent(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    payload = os.urandom(PAYLOAD_BYTES_MAX)
    assert b.send(a, b"chunk", payload)
    until(lambda: len(a.frames()) == 2, a, b)
    received = a.items[-1]
    assert isinstance(received, Received)
    assert received.payload == payload
    with pytest.raises(AssertionError):
        b.send(a, b"chunk", payload + b"x")


def test_a_mutable_payload_is_copied_before_send_returns(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    live = bytearray(b"1" * 200_000)
    assert b.transport.send(a.node, b"chunk", live)
    live[:] = b"2" * 200_000
    until(lambda: len(a.frames()) == 2, a, b)
    received = a.items[-1]
    assert isinstance(received, Received)
    assert received.payload == b"1" * 200_000


def test_a_dialler_finds_a_listener_that_restarts_on_the_same_port(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    endpoint = a.endpoint
    a.stop()
    until(lambda: b.links(a) == [True, False], b)
    assert not b.send(a, b"lost")
    a.items.clear()
    a.start(b.address(), listen=endpoint)
    greet(a, b)
    assert b.links(a) == [True, False, True]
    assert a.send(b, b"again")
    until(lambda: b"again" in b.frames(), a, b)


def test_a_listener_notices_that_a_dialler_left_and_takes_it_back(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    b.stop()
    until(lambda: a.links(b) == [True, False], a)
    assert not a.send(b, b"into the void")
    b.items.clear()
    b.start(a.address(a.endpoint))
    greet(a, b)
    assert a.links(b) == [True, False, True]
    assert not a.told("stranger")


def test_an_address_where_nobody_answers_is_named_and_found_later(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    endpoint = a.listen(b.address())
    a.stop()
    b.start(a.address(endpoint))
    until(lambda: bool(b.told("unreachable")), b)
    assert endpoint in b.told("unreachable")[0].text
    assert b.told("unreachable")[0].peer == a.node
    a.start(b.address(), listen=endpoint)
    greet(a, b)


# --- who gets in --------------------------------------------------------------------------------------------------


def test_an_unknown_key_is_refused_in_words_at_both_ends_and_let_in_when_allowed(
    sites: tuple[Site, Site, Site],
) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address())
    c.start(a.address(endpoint))
    until(lambda: bool(a.told("unknown_key") and c.told("handshake_timeout")), a, c)
    assert c.public.hex()[:8] in a.told("unknown_key")[0].text
    assert "127.0.0.1" in a.told("unknown_key")[0].text
    assert "site-A" in c.told("handshake_timeout")[0].text
    assert c.public.hex()[:8] in c.told("handshake_timeout")[0].text
    assert a.links(c) == c.links(a) == []
    a.transport.allow([b.address(), c.address()])
    greet(a, c)


def test_a_revoked_key_is_cut_and_told_while_others_stay(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address(), c.address())
    b.start(a.address(endpoint))
    c.start(a.address(endpoint))
    greet(a, b)
    greet(a, c)
    a.transport.allow([b.address()])
    assert not a.send(c, b"no longer for you")
    until(lambda: bool(c.told("denied")) and a.links(c) == [True, False], a, b, c)
    assert c.told("denied")[0].text.startswith("site-A refused us (400): our key " + c.public.hex()[:8])
    assert "site-C" in a.told("revoked_key")[0].text
    assert c.links(a) == [True, False]
    assert a.links(b) == b.links(a) == [True]
    assert a.send(b, b"still here")
    until(lambda: b"still here" in b.frames(), a, b)


def test_a_message_sent_before_the_revocation_was_noticed_is_not_believed(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address(), c.address())
    c.start(a.address(endpoint))
    until(lambda: c.linked(a), a, c)
    # The connection exists, but no message of c has been read: there is no route to cut when its key goes.
    assert c.send(a, b"let me in")
    a.transport.allow([b.address()])
    until(lambda: bool(c.told("denied")), a, c)
    assert a.frames() == []
    assert a.links(c) == []
    assert a.told("revoked_key")


def test_a_revoked_key_that_is_allowed_again_returns_without_a_restart(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    a.transport.allow([])
    until(lambda: bool(b.told("denied")), a, b)
    a.transport.allow([b.address()])
    greet(a, b)


def test_a_dialler_that_revokes_the_listener_hangs_up(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    b.transport.allow([])
    until(lambda: a.links(b) == [True, False], a, b)
    assert b.links(a) == [True, False]
    assert not b.send(a, b"no")


def test_both_keys_of_a_rotation_are_the_same_member(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    old = b.address()
    endpoint = a.listen(old)
    b.start(a.address(endpoint))
    greet(a, b)
    b.rotate()
    a.transport.allow([old, b.address()])
    assert a.send(b, b"over the old key")
    until(lambda: b"over the old key" in b.frames(), a, b)
    b.stop()
    b.items.clear()
    b.start(a.address(endpoint))
    greet(a, b)
    a.transport.allow([b.address()])
    assert a.linked(b), "the retired key was not in use any more"
    assert a.send(b, b"over the new key")
    until(lambda: b"over the new key" in b.frames(), a, b)


def test_a_live_link_is_cut_when_its_member_has_another_key_from_now_on(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    b.rotate()
    a.transport.allow([b.address()])
    until(lambda: bool(b.told("denied")) and a.links(b) == [True, False], a, b)
    b.stop()
    b.items.clear()
    b.start(a.address(a.endpoint))
    greet(a, b)


def test_a_new_listener_key_is_dialled_at_once_when_the_list_changes(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    endpoint = a.endpoint
    a.stop()
    a.rotate()
    a.items.clear()
    a.start(b.address(), listen=endpoint)
    until(lambda: bool(b.told("wrong_server_key")), a, b)
    b.transport.allow([a.address(endpoint)])
    greet(a, b)


def test_a_wrong_pinned_server_key_is_said_at_both_ends(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address())
    b.start(replace(a.address(endpoint), curve_key=c.public), timing=replace(HASTE, denial_s=60.0, denial_s_max=60.0))
    until(lambda: bool(b.told("wrong_server_key") and a.told("handshake_protocol")), a, b)
    assert c.public.hex()[:8] in b.told("wrong_server_key")[0].text
    assert "right key" in a.told("handshake_protocol")[0].text
    assert b.transport._links[a.node].dealer is None, "it waits, and does not knock five times a second"
    assert a.links(b) == b.links(a) == []


def test_two_processes_with_one_key_are_heard_and_the_newer_is_answered(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    twin = Site("site-B")
    twin.public, twin.secret = b.public, b.secret
    twin.start(a.address(a.endpoint))
    try:
        until(lambda: twin.linked(a), a, twin)
        assert twin.send(a, b"I am newer")
        until(lambda: a.links(b) == [True, False, True], a, b, twin)
        assert b.send(a, b"I am older")
        until(lambda: b"I am older" in a.frames(), a, b)
        assert a.links(b) == [True, False, True]
        assert a.send(b, b"to the newer")
        until(lambda: b"to the newer" in twin.frames(), a, b, twin)
        assert b.frames() == []
    finally:
        twin.stop()


def test_links_that_come_and_go_do_not_stall_the_others(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    at_a, at_c = a.address(a.listen(b.address())), c.address(c.listen(b.address()))
    b.start(at_a, at_c)
    greet(a, b)
    for _ in range(25):
        b.transport.allow([at_a, at_c])
        b.turn(0.0)
        b.transport.allow([at_a])
    assert b.send(a, b"still alive")
    until(lambda: b"still alive" in a.frames(), a, b)
    b.transport.allow([at_a, at_c])
    until(lambda: b.linked(c), a, b, c)


# --- strangers ----------------------------------------------------------------------------------------------------


def test_a_plaintext_client_costs_an_incident_and_nothing_else(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    clients = []
    for _ in range(20):
        # libzmq does not tell of every plaintext handshake it refuses; a client that keeps trying is always told of.
        context, dealer = plain_dealer(a.endpoint)
        clients.append((context, dealer))
        dealer.send(b"psst")
        with contextlib.suppress(AssertionError):
            until(lambda: bool(a.told("handshake_protocol")), a, b, timeout_s=1.0)
            break
    text = a.told("handshake_protocol")[0].text
    assert "does not speak CURVE" in text
    # The address is known only while the connection lasts, which the refusal may outlive.
    assert "127.0.0.1:" in text or "an unknown address" in text
    for context, _ in clients:
        context.destroy(linger=0)
    assert a.frames() == [b"hello"]
    assert a.send(b, b"going on")
    until(lambda: b"going on" in b.frames(), a, b)


def test_garbage_on_the_port_costs_an_incident_and_nothing_else(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    port = int(a.endpoint.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port)) as browser, socket.create_connection(("127.0.0.1", port)):
        browser.sendall(b"GET / HTTP/1.1\r\nHost: swarm\r\n\r\n" + os.urandom(200))
        until(lambda: bool(a.told("stranger") and a.told("handshake_timeout")), a, b)
    assert "127.0.0.1:" in a.told("handshake_timeout")[0].text
    assert a.links(b) == [True]
    assert a.send(b, b"going on")
    until(lambda: b"going on" in b.frames(), a, b)


def test_the_same_incident_is_told_once_a_minute() -> None:
    now = [0.0]
    site = Site("site-A")
    transport = Transport(
        secret_key=site.secret,
        public_key=site.public,
        listen=None,
        peers=[],
        clock=lambda: now[0],
        rng=random.Random(1),
    )
    transport.open()
    try:
        for _ in range(4):
            transport._tell(None, "stranger", "somebody knocked")
        now[0] = 60.0
        transport._tell(None, "stranger", "somebody knocked")
        texts = [item.text for item in transport.poll(0) if isinstance(item, Incident)]
    finally:
        transport.close()
    assert texts == ["somebody knocked", "somebody knocked (and 3 more like it since the last report)"]


def test_zap_refuses_every_request_that_is_not_curve_in_our_domain() -> None:
    good = [b"1.0", b"7", ZAP_DOMAIN, b"10.0.0.1", b"", b"CURVE", b"k" * 32]

    def everyone(key: str, address: str) -> Verdict:
        assert (key, address) == ((b"k" * 32).hex(), "10.0.0.1")
        return Verdict.ALLOWED

    assert zap_reply(good, everyone) == [b"1.0", b"7", b"200", b"welcome", (b"k" * 32).hex().encode(), b""]
    for index, wrong in ((0, b"2.0"), (2, b""), (2, b"other"), (5, b"NULL"), (5, b"PLAIN"), (6, b"k" * 31)):
        bad = [*good[:index], wrong, *good[index + 1 :]]
        assert zap_reply(bad, everyone)[1:3] == [b"7", b"500"]
    for length in range(7):
        assert zap_reply(good[:length], everyone)[2] == b"500"
    assert zap_reply([*good, b""], everyone)[2] == b"500"
    unknown = zap_reply(good, lambda _key, _address: Verdict.UNKNOWN)
    assert unknown[2] == b"300"
    assert unknown[4] == b""


# --- messages that a peer should not send -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "frames",
    [
        [b"one", b"two", b"three"],
        [b"frame"] * 40,
        [b"x" * (HEAD_BYTES_MAX + 1)],
        [b"x" * (HEAD_BYTES_MAX + 1), b"chunk"],
        [b"header", b"x" * (PAYLOAD_BYTES_MAX + 1)],
    ],
    ids=["three frames", "forty frames", "long control", "long header", "long chunk"],
)
def test_a_message_of_the_wrong_shape_is_dropped_with_the_name_of_its_sender(
    sites: tuple[Site, Site, Site], frames: list[bytes]
) -> None:
    a, b, _ = sites
    endpoint = a.listen(b.address())
    context, dealer = member_dealer(b, a, endpoint)
    try:
        dealer.send_multipart(frames)
        dealer.send(b"well formed")
        until(lambda: b"well formed" in a.frames(), a)
        assert [(i.peer, "site-B" in i.text) for i in a.told("bad_message")] == [(b.node, True)]
        assert a.frames() == [b"well formed"]
    finally:
        context.destroy(linger=0)


def test_a_wildly_oversized_frame_costs_its_sender_the_connection(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    endpoint = a.listen(b.address())
    context, dealer = member_dealer(b, a, endpoint)
    try:
        dealer.send(b"first")
        until(lambda: a.linked(b), a)
        dealer.send(b"x" * (FRAME_BYTES_MAX + 1))
        until(lambda: a.links(b) == [True, False], a)

        def arrived() -> bool:
            # Whatever is sent before the sender notices the cut goes down with the connection, so it tries again.
            with contextlib.suppress(zmq.Again):
                dealer.send(b"second", zmq.NOBLOCK)
            return b"second" in a.frames()

        until(arrived, a)
        assert a.frames()[0] == b"first"
        assert {*a.frames()[1:]} == {b"second"}
    finally:
        context.destroy(linger=0)


def test_a_dialler_returns_after_an_oversized_frame_ended_its_session_for_good(
    sites: tuple[Site, Site, Site],
) -> None:
    a, b, _ = sites
    link(a, b)
    assert a.transport._router is not None
    a.transport._router.send_multipart([a.transport._links[b.node].route, b"x" * (FRAME_BYTES_MAX + 1)])
    until(lambda: b.links(a) == [True, False, True], a, b)
    assert b.send(a, b"back")
    until(lambda: b"back" in a.frames(), a, b)


# --- queues -------------------------------------------------------------------------------------------------------


def stuff(sender: Site, to: Site) -> int:
    """Send chunks to a site that does not poll until libzmq and the kernel are full too; return how many were taken."""
    payload, count, refusals = bytes(CHUNK_BYTES_MAX), 0, 0
    while refusals < 20:
        if sender.send(to, count.to_bytes(4, "big"), payload):
            count, refusals = count + 1, 0
            assert count < 500
        else:
            sender.turn()
            refusals += 1
    return count


@pytest.mark.parametrize("from_listener", [True, False], ids=["listener sends", "dialler sends"])
def test_control_overtakes_chunks_that_are_queued(sites: tuple[Site, Site, Site], from_listener: bool) -> None:
    a, b, _ = sites
    link(a, b)
    sender, receiver = (a, b) if from_listener else (b, a)
    receiver.items.clear()
    count = stuff(sender, receiver)
    assert sender.transport.backlog(receiver.node) == BULK_QUEUE_BYTES_MAX
    assert sender.send(receiver, b"urgent")
    until(lambda: len(receiver.frames()) == count + 1, a, b)
    order = receiver.frames()
    place = order.index(b"urgent")
    assert place <= count - BULK_QUEUE_BYTES_MAX // CHUNK_BYTES_MAX, "it waited behind what was queued here"
    assert order[:place] + order[place + 1 :] == [number.to_bytes(4, "big") for number in range(count)]
    assert sender.transport.backlog(receiver.node) == 0


def heard(site: Site, number: int) -> bool:
    return len(site.frames()) > number


def test_a_peer_that_does_not_read_delays_nobody_else(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address(), c.address())
    b.start(a.address(endpoint))
    c.start(a.address(endpoint))
    greet(a, b)
    greet(a, c)
    stuff(a, b)
    began = time.monotonic()
    for number in range(60):
        assert a.send(c, number.to_bytes(4, "big"), bytes(100_000))
        until(partial(heard, c, number), a, c)
    assert time.monotonic() - began < 10
    assert a.transport.backlog(b.node) > 0
    until(lambda: a.transport.backlog(b.node) == 0, a, b)


def test_a_stuck_incoming_link_does_not_make_poll_spin(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    stuff(a, b)
    began, turns = time.monotonic(), 0
    while time.monotonic() - began < 0.5:
        a.turn(0.5)
        turns += 1
    assert turns <= 60
    assert a.transport.backlog(b.node) == BULK_QUEUE_BYTES_MAX


def test_a_queue_that_is_full_says_so_and_is_emptied_when_its_link_is_lost(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    stuff(a, b)
    sent = 0
    while a.send(b, b"tick"):
        sent += 1
    assert sent == CONTROL_QUEUE_MAX
    b.stop()
    until(lambda: a.links(b) == [True, False], a)
    assert a.transport.backlog(b.node) == 0


# --- the loop -----------------------------------------------------------------------------------------------------


def test_wake_from_another_thread_ends_a_poll(sites: tuple[Site, Site, Site]) -> None:
    a, _, _ = sites
    a.listen()
    began = time.monotonic()
    caller = threading.Timer(0.05, a.transport.wake)
    caller.start()
    assert a.transport.poll(30.0) == []
    assert time.monotonic() - began < 20
    caller.join()
    transport = a.transport
    a.stop()
    transport.wake()


def test_a_watched_descriptor_is_reported_until_it_is_unwatched(sites: tuple[Site, Site, Site]) -> None:
    a, _, _ = sites
    a.listen()
    reader, writer = os.pipe()
    try:
        a.transport.watch(reader)
        os.write(writer, b"step")
        assert a.transport.poll(5.0) == [Readable(fd=reader)]
        os.read(reader, 4)
        assert a.transport.poll(0.0) == []
        os.write(writer, b"step")
        a.transport.unwatch(reader)
        assert a.transport.poll(0.0) == []
    finally:
        os.close(reader)
        os.close(writer)


def test_one_poll_returns_a_bounded_number_of_bytes(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    link(a, b)
    a.items.clear()
    count = stuff(b, a)
    while len(a.frames()) < count:
        before = len(a.frames())
        until(partial(heard, a, before), a)
        # One poll, or the empty ones before it: at most the bound and the one message that crosses it.
        assert len(a.frames()) - before <= POLL_BYTES_MAX // CHUNK_BYTES_MAX + 1
        b.turn(0.0)
    assert a.frames() == [number.to_bytes(4, "big") for number in range(count)]


def test_a_busy_port_is_a_usage_error_with_a_hint(sites: tuple[Site, Site, Site]) -> None:
    a, b, _ = sites
    endpoint = a.listen()
    with pytest.raises(UsageError, match="couldn't listen on") as caught:
        b.start(listen=endpoint)
    assert "another port" in caught.value.hint


@pytest.mark.parametrize("listen", ["tcp://203.0.113.7:7000", "nonsense", "tcp://127.0.0.1"])
def test_an_address_that_cannot_be_bound_is_a_usage_error(sites: tuple[Site, Site, Site], listen: str) -> None:
    a, _, _ = sites
    with pytest.raises(UsageError, match="couldn't listen on"):
        a.start(listen=listen)


def test_an_endpoint_that_is_no_address_costs_that_peer_only(sites: tuple[Site, Site, Site]) -> None:
    a, b, c = sites
    endpoint = a.listen(b.address())
    b.start(a.address(endpoint), c.address("tcp:/nonsense"))
    greet(a, b)
    assert [incident.peer for incident in b.told("bad_endpoint")] == [c.node]


def test_the_wheel_has_curve() -> None:
    assert "CURVE" in self_test()
