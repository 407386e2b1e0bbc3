"""Links between two members of whom neither can be dialled: through a third, and sealed from it.

Both ends hold a *passage* for each such link. The one with the greater id begins a session (`gossip.noise`) through the
first relay that will do, in an order that follows from the terms; when that relay goes, or nothing comes through it any
more, the next one is taken. To the machine above a passage is a link like any other: up, down, frames that may be lost.

What a relay gets is: who talks to whom, when, how much, and numbered ciphertext. It knows no key, so it can neither
read nor alter nor pose as either end; what it drops, repeats or sends astray is, at worst, a lost link. What it says
itself ("that site is not linked to me", "begin again") is believed only as far as that.

The relay's own part is here too: it forwards between members that both only dial out, both linked to it, as many bytes
at a time for each pair as the next, and holds a bounded number of them.

A function of events and times like the machine, but it handles bulk bytes, so it belongs to the shells (decision 0024):
`node.links` lets it run over real sockets, `topologies.world` in the simulated world.
"""

from __future__ import annotations

import math
import struct
from collections import deque
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from gossip.noise import KEY_BYTES, SESSION_BYTES, TAG_BYTES, KeyPair, Opening, Session, read_opening
from gossip.wire import CARRIED, CONTROL_FRAME_BYTES_MAX, WIRE_VERSION
from swarm.errors import Reject
from swarm.machine import Buffer, Contact, LinkChanged, NodeId, Received, Report

PROLOGUE = b"swarm/passage/v1\0"

ANSWER_S = 5.0
"""For the answer to a handshake, over two links of which each may be a narrow one. Then another relay is tried."""

PULSE_S = 5.0
"""A session over which nothing was sent for this long sends something, so that silence means something."""

SILENCE_S = 20.0
"""A session over which nothing came for this long is dead. Heartbeats come every second; a chunk of 1 MiB at 0.5 Mbit/s
holds them up for 17."""

AVOID_S = 30.0
"""A relay through which a session failed is not tried again for this long, or until the link to it is made anew."""

AWAY_S = 3.0
"""The same where the relay only said that the other end is not linked to it now."""

REFUSAL_S = 600.0
"""The same where it does not relay at all."""

CALL_S = 2.0
"""Between two calls by the end that does not begin; twice as long each time, up to `CALL_S_MAX`."""

CALL_S_MAX = 30.0

BEGIN_S = 0.5
"""Between two handshakes of one passage: each costs either end 0.7 ms, and a relay can repeat an old one."""

REKEY_S = 3600.0
"""A session is replaced by one with fresh keys after this long; through the relay that comes first by then."""

COMPLAINT_S = 60.0
"""Between two reports of the same trouble with a passage."""

CARRY_BYTES_MAX = 4 << 20
"""Bytes a relay holds of one member for another. A receiver asks again for what was dropped here."""

CARRY_FRAMES_MAX = 1024
"""The same, counted in messages."""

CARRY_SENDER_MAX = 16 << 20
"""Bytes a relay holds of one member for all others, so that one alone cannot use up what there is for everybody."""

CARRY_TOTAL_MAX = 64 << 20
"""Bytes a relay holds altogether."""

CARRY_BACKLOG_MAX = 2 << 20
"""A relay adds nothing to what waits for a peer beyond this: its own traffic goes first, as it must not suffer."""

# What a carried frame is. Numbers are on the wire for ever: add, never renumber.
CALL = 0  # begin a session with me
BEGIN = 1  # the first message of a handshake
ANSWER = 2  # the second
SEALED = 3  # a control frame
CHUNK = 4  # a frame with a payload, sealed together in the second frame
REFUSED = 5  # by the relay itself: I do not carry this
AWAY = 6  # by the relay itself: that member is not linked to me

TO = 0
FROM = 1

_HEAD = struct.Struct(">BBBB32s")  # wire version, message kind, TO or FROM, what it is; the other end
_NUMBER = struct.Struct(f">{SESSION_BYTES}sQ")  # session, number of the message
_LENGTH = struct.Struct(">H")  # of the first frame, in front of a sealed chunk

_SHORTEST = {
    CALL: 0,
    BEGIN: KEY_BYTES + TAG_BYTES,
    ANSWER: KEY_BYTES + TAG_BYTES,
    SEALED: _NUMBER.size + TAG_BYTES,
    CHUNK: _NUMBER.size,
}


@dataclass(frozen=True, slots=True)
class Out:
    """A frame to send over a direct link, with its payload if it has one."""

    to: NodeId
    frame: bytes
    payload: Buffer | None = None


Item: TypeAlias = Out | Received | LinkChanged | Report


def is_carried(frame: bytes) -> bool:
    """Whether a received frame is for `Passages.receive` rather than for the machine."""
    return len(frame) > 1 and frame[1] == CARRIED and frame[0] == WIRE_VERSION


@dataclass(slots=True)
class _Handshake:
    """A session that is not there yet: begun through this relay, or answered there and not yet confirmed."""

    relay: NodeId
    at: float
    opening: Opening | None = None
    session: Session | None = None
    continues: bool = False


@dataclass(slots=True)
class _Passage:
    """One link through relays, seen from one of its ends."""

    contact: Contact
    begins: bool
    prologue: bytes
    via: tuple[NodeId, ...]
    relay: NodeId | None = None
    session: Session | None = None
    before: Session | None = None
    opening: _Handshake | None = None
    answered: dict[NodeId, _Handshake] = field(default_factory=dict)
    avoided: dict[NodeId, float] = field(default_factory=dict)
    heard_at: float = 0.0
    sent_at: float = 0.0
    since: float = 0.0
    began_at: float = -math.inf
    read_at: dict[NodeId, float] = field(default_factory=dict)
    call_at: float = 0.0
    call_s: float = CALL_S
    told_at: dict[str, float] = field(default_factory=dict)

    def forget(self) -> None:
        """Be as before the first session; the next may be asked for at once."""
        self.relay = self.session = self.before = self.opening = None
        self.answered.clear()
        self.call_at, self.call_s = -math.inf, CALL_S


@dataclass(slots=True)
class _Lane:
    """What one member has given for another, in order; control frames apart, since they overtake chunks everywhere."""

    control: deque[Out] = field(default_factory=deque)
    bulk: deque[Out] = field(default_factory=deque)
    size: int = 0

    def __bool__(self) -> bool:
        return bool(self.control or self.bulk)


class Passages:
    """All links of one node that go through relays, and what it forwards for others.

    Args:
        me: this node.
        keys: its transport keys.
        ledger_id: names the swarm: no session of one is a session of another.
        draw: returns 32 fresh random bytes at each call, from a source fit for keys.
    """

    def __init__(self, *, me: NodeId, keys: KeyPair, ledger_id: bytes, draw: Callable[[], bytes]) -> None:
        self._me, self._keys, self._ledger_id, self._draw = me, keys, ledger_id, draw
        self._passages: dict[NodeId, _Passage] = {}
        self._linked: set[NodeId] = set()
        self._carried: frozenset[NodeId] = frozenset()
        self._lanes: dict[NodeId, dict[NodeId, _Lane]] = {}
        self._held = 0
        self._held_of: dict[NodeId, int] = {}
        self._due = -math.inf  # when `step` may have something to do; -inf while that is to be found out
        self.forwarded_bytes = 0
        """Carried for others so far."""

    # --- whom to talk to --------------------------------------------------------------------------------------------

    def reach(self, contacts: Sequence[Contact], carried: Collection[NodeId], now: float) -> list[Item]:
        """Follow a `Reach`: contacts with relays are linked through them, and this node forwards between `carried`.

        A passage to a member that has another key than before is begun anew under that key.
        """
        items: list[Item] = []
        wanted: dict[NodeId, Contact] = {}
        for contact in contacts:
            if contact.via:
                wanted.setdefault(contact.node, contact)
        for node in [node for node in self._passages if node not in wanted]:
            items += self._down(self._passages.pop(node), "it is not linked through a relay any more")
        for node, contact in wanted.items():
            passage = self._passages.get(node)
            if passage is None:
                begins = self._me > node
                first, second = (self._me, node) if begins else (node, self._me)
                prologue = PROLOGUE + self._ledger_id + first + second
                self._passages[node] = _Passage(contact, begins, prologue, contact.via)
                continue
            if passage.contact.curve_key != contact.curve_key:
                items += self._down(passage, "it has taken a new transport key")
                passage.avoided.clear()
            passage.contact, passage.via = contact, contact.via
            if passage.relay is not None and passage.relay not in contact.via:
                items += self._lose(passage, passage.relay, "its relay is none any more", AVOID_S, now)
        self._due = -math.inf
        self._carried = frozenset(carried)
        for to in [to for to in self._lanes if to not in self._carried]:
            self._drop_lanes(to)
        return [*items, *self.step(now)]

    def rekey(self, keys: KeyPair, now: float) -> list[Item]:
        """Take another transport key: every passage is begun anew under it."""
        self._keys, self._due = keys, -math.inf
        items: list[Item] = []
        for passage in self._passages.values():
            items += self._down(passage, "this site has taken a new transport key")
        return [*items, *self.step(now)]

    def link(self, peer: NodeId, up: bool, now: float) -> list[Item]:
        """Follow a direct link, which may be one to a relay."""
        items: list[Item] = []
        self._due = -math.inf
        if up:
            self._linked.add(peer)
            for passage in self._passages.values():
                if peer in passage.via:
                    passage.avoided.pop(peer, None)
                    passage.call_s, passage.call_at = CALL_S, now
        else:
            self._linked.discard(peer)
            self._drop_lanes(peer)
            for passage in self._passages.values():
                items += self._lose(passage, peer, "the link to its relay was lost", 0.0, now)
        return [*items, *self.step(now)]

    def leads(self, to: NodeId) -> bool:
        """Whether frames to this node go through a relay."""
        return to in self._passages

    # --- out --------------------------------------------------------------------------------------------------------

    def send(self, to: NodeId, frame: bytes, payload: Buffer | None, now: float) -> Out | None:
        """Seal a message and return what to send, or None if there is no session. `to` is one that `leads`."""
        passage = self._passages[to]
        if passage.session is None or passage.relay is None:
            return None
        return self._seal(passage, passage.session, passage.relay, frame, payload, now)

    def _seal(
        self, passage: _Passage, session: Session, relay: NodeId, frame: bytes, payload: Buffer | None, now: float
    ) -> Out:
        passage.sent_at = now
        if payload is None:
            number, sealed = session.seal(frame, _label(SEALED))
            return Out(relay, _head(TO, SEALED, passage.contact.node) + _NUMBER.pack(session.id, number) + sealed)
        number, sealed = session.seal(b"".join((_LENGTH.pack(len(frame)), frame, payload)), _label(CHUNK))
        return Out(relay, _head(TO, CHUNK, passage.contact.node) + _NUMBER.pack(session.id, number), sealed)

    # --- in ---------------------------------------------------------------------------------------------------------

    def receive(self, sender: NodeId, frame: bytes, payload: Buffer | None, now: float) -> list[Item]:
        """Take in a carried frame: for this node, or to be forwarded. What is wrong with it costs only itself."""
        if len(frame) < _HEAD.size:
            return []
        _, _, way, what, other = _HEAD.unpack_from(frame)
        if way == TO:
            return self._forward(sender, NodeId(other), what, frame, payload)
        passage = self._passages.get(NodeId(other))
        if way != FROM or passage is None or sender not in passage.via:
            return []
        body = frame[_HEAD.size :]
        if what == REFUSED:
            return self._lose(passage, sender, "its relay does not carry for it", REFUSAL_S, now, step=True)
        if what == AWAY:
            return self._lose(passage, sender, "it is not linked to the relay", AWAY_S, now, step=True)
        if len(body) < _SHORTEST.get(what, CONTROL_FRAME_BYTES_MAX * 2) or (payload is None) == (what == CHUNK):
            return []
        try:
            match what:
                case 0:
                    return self._called(passage, sender, now)
                case 1:
                    return self._read_opening(passage, sender, body, now)
                case 2:
                    return self._read_answer(passage, sender, body, now)
                case _:
                    return self._open(passage, sender, what, body, payload, now)
        except Reject as reason:
            text = f"dropped what came for {passage.contact.name} through a relay: {reason.message}"
            return self._complain(passage, "passage_rejected", text, now)

    def _called(self, passage: _Passage, relay: NodeId, now: float) -> list[Item]:
        """The other end has no session. Nobody signs a call: at worst it costs a handshake now and then."""
        if not passage.begins or passage.opening is not None or now < passage.began_at + BEGIN_S:
            return []
        return [self._begin(passage, relay, now)]

    def _begin(self, passage: _Passage, relay: NodeId, now: float) -> Out:
        """Say which session this one replaces, so that the other end knows whether this process has begun anew."""
        replaced = b"" if passage.session is None else passage.session.id
        ephemeral = KeyPair.of(self._draw())
        opening = Opening(self._keys, passage.contact.curve_key, passage.prologue, ephemeral, replaced)
        passage.opening = _Handshake(relay, now, opening=opening)
        passage.began_at, self._due = now, -math.inf
        return Out(relay, _head(TO, BEGIN, passage.contact.node) + opening.message)

    def _read_opening(self, passage: _Passage, relay: NodeId, body: bytes, now: float) -> list[Item]:
        """Answer. It may be an old message repeated, so nothing else changes before something is sealed with it."""
        if passage.begins or now < passage.read_at.get(relay, -math.inf) + BEGIN_S:
            return []
        passage.read_at[relay] = now
        reply = read_opening(self._keys, passage.contact.curve_key, passage.prologue, body)
        continues = passage.session is not None and reply.text == passage.session.id
        message, session = reply.answer(KeyPair.of(self._draw()), bytes((continues,)))
        passage.answered[relay] = _Handshake(relay, now, session=session, continues=continues)
        return [Out(relay, _head(TO, ANSWER, passage.contact.node) + message)]

    def _read_answer(self, passage: _Passage, relay: NodeId, body: bytes, now: float) -> list[Item]:
        waiting = passage.opening
        if waiting is None or waiting.opening is None or waiting.relay != relay:
            return []
        session, text = waiting.opening.finish(body)
        passage.opening = None
        items = self._stand(passage, session, relay, continues=text == b"\x01", now=now)
        # The other end speaks over it once something has come that only the holder of our key can have sealed.
        return [self._seal(passage, session, relay, b"", None, now), *items]

    def _open(
        self, passage: _Passage, relay: NodeId, what: int, body: bytes, payload: Buffer | None, now: float
    ) -> list[Item]:
        name, number = _NUMBER.unpack_from(body)
        items: list[Item] = []
        candidate = passage.answered.get(relay)
        if candidate is not None and candidate.session is not None and candidate.session.id == name:
            text = candidate.session.open(number, _sealed(what, body, payload), _label(what))
            del passage.answered[relay]
            items = self._stand(passage, candidate.session, relay, continues=candidate.continues, now=now)
        else:
            session = next((s for s in (passage.session, passage.before) if s is not None and s.id == name), None)
            if session is None:
                return self._stray(passage, relay, now)
            text = session.open(number, _sealed(what, body, payload), _label(what))
        passage.heard_at = now
        if what == SEALED:
            return [*items, Received(passage.contact.node, text)] if text else items
        end = _LENGTH.size + _LENGTH.unpack_from(text)[0] if len(text) >= _LENGTH.size else len(text) + 1
        if end > len(text):
            raise Reject("couldn't take a sealed chunk apart: it is shorter than it says")
        view = memoryview(text)
        return [*items, Received(passage.contact.node, bytes(view[_LENGTH.size : end]), view[end:])]

    def _stray(self, passage: _Passage, relay: NodeId, now: float) -> list[Item]:
        """Something sealed for a session that is not here: the other end has not noticed that this process is new."""
        if passage.session is None and not passage.begins and now >= passage.call_at:
            return [self._call(passage, relay, now)]
        return []

    # --- sessions that come and go ----------------------------------------------------------------------------------

    def _stand(self, passage: _Passage, session: Session, relay: NodeId, *, continues: bool, now: float) -> list[Item]:
        """Speak over a session from now on. Unless it `continues` the last one, the other end's process is new."""
        items: list[Item] = []
        if passage.session is not None and not continues:
            why = "the other end has begun anew"
            items.append(LinkChanged(passage.contact.node, False, why))
        if passage.session is None or not continues:
            why = f"through {relay.hex()[:8]}, sealed"
            items.append(LinkChanged(passage.contact.node, True, why, relay))
        passage.before, passage.session, passage.relay = passage.session, session, relay
        passage.heard_at = passage.since = now
        passage.call_s, self._due = CALL_S, -math.inf
        return items

    def _lose(
        self, passage: _Passage, relay: NodeId, why: str, avoid_s: float, now: float, *, step: bool = False
    ) -> list[Item]:
        """Give up whatever goes through a relay, and do not try it for a while."""
        if relay not in passage.via and relay != passage.relay:
            return []
        self._due = -math.inf
        if avoid_s:
            passage.avoided[relay] = max(passage.avoided.get(relay, 0.0), now + avoid_s)
        passage.answered.pop(relay, None)
        if passage.opening is not None and passage.opening.relay == relay:
            passage.opening = None
        items = self._down(passage, why) if passage.relay == relay else []
        return [*items, *self._tend(passage, now)] if step else items

    @staticmethod
    def _down(passage: _Passage, why: str) -> list[Item]:
        up = passage.session is not None
        passage.forget()
        return [LinkChanged(passage.contact.node, False, why)] if up else []

    def step(self, now: float) -> list[Item]:
        """Do what time has made due."""
        items: list[Item] = []
        if now < self._due:
            return items
        self._due = -math.inf
        for passage in self._passages.values():
            items += self._tend(passage, now)
        return items

    def _tend(self, passage: _Passage, now: float) -> list[Item]:
        items: list[Item] = []
        if passage.session is not None and passage.relay is not None:
            if now >= passage.heard_at + SILENCE_S:
                items += self._lose(passage, passage.relay, "nothing comes through its relay any more", AVOID_S, now)
            elif now >= passage.sent_at + PULSE_S:
                items.append(self._seal(passage, passage.session, passage.relay, b"", None, now))
        if passage.opening is not None and now >= passage.opening.at + ANSWER_S:
            relay = passage.opening.relay
            passage.opening = None
            passage.avoided[relay] = max(passage.avoided.get(relay, 0.0), now + AVOID_S)
            if passage.session is not None:
                passage.since = now - REKEY_S + AVOID_S  # The keys of today do for a while longer.
        if not self._wants(passage, now):
            return items
        chosen = self._choose(passage, now)
        if chosen is None:
            return items
        if passage.begins:
            return [*items, self._begin(passage, chosen, now)]
        return [*items, self._call(passage, chosen, now)]

    def _call(self, passage: _Passage, relay: NodeId, now: float) -> Out:
        passage.call_at, self._due = now + passage.call_s, -math.inf
        passage.call_s = min(2 * passage.call_s, CALL_S_MAX)
        return Out(relay, _head(TO, CALL, passage.contact.node))

    @staticmethod
    def _wants(passage: _Passage, now: float) -> bool:
        """Whether a session is to be begun, or asked for, now."""
        if not passage.begins:
            return passage.session is None and now >= passage.call_at
        due = passage.session is None or now >= passage.since + REKEY_S
        return due and passage.opening is None and now >= passage.began_at + BEGIN_S

    def _choose(self, passage: _Passage, now: float) -> NodeId | None:
        """The first relay that is linked and has not just failed."""
        fresh = (r for r in passage.via if r in self._linked and passage.avoided.get(r, 0.0) <= now)
        return next(fresh, None)

    def next_wake(self) -> float | None:
        """Return when `step` may have something to do. What is heard and sent meanwhile only puts it off."""
        if self._due == -math.inf:
            self._due = min((self._next(passage) for passage in self._passages.values()), default=math.inf)
        return None if self._due == math.inf else self._due

    def _next(self, passage: _Passage) -> float:
        if passage.opening is not None:
            return passage.opening.at + ANSWER_S
        wake = math.inf
        if passage.session is not None:
            wake = min(passage.heard_at + SILENCE_S, passage.sent_at + PULSE_S)
            due = passage.since + REKEY_S if passage.begins else math.inf
        else:
            due = passage.began_at + BEGIN_S if passage.begins else passage.call_at
        linked = [relay for relay in passage.via if relay in self._linked]
        if due < math.inf and linked:
            free = min(passage.avoided.get(relay, 0.0) for relay in linked)
            wake = min(wake, max(due, free))
        return wake

    # --- for others -------------------------------------------------------------------------------------------------

    def _forward(self, sender: NodeId, to: NodeId, what: int, frame: bytes, payload: Buffer | None) -> list[Item]:
        if what > CHUNK or sender == to or sender not in self._carried or to not in self._carried:
            return [Out(sender, _head(FROM, REFUSED, to))] if what <= CHUNK else []
        if to not in self._linked:
            return [Out(sender, _head(FROM, AWAY, to))]
        out = Out(to, _head(FROM, what, sender) + frame[_HEAD.size :], payload)
        lane = self._lanes.setdefault(to, {}).setdefault(sender, _Lane())
        size = _size(out)
        if (
            lane.size + size > CARRY_BYTES_MAX
            or len(lane.control) + len(lane.bulk) >= CARRY_FRAMES_MAX
            or self._held_of.get(sender, 0) + size > CARRY_SENDER_MAX
            or self._held + size > CARRY_TOTAL_MAX
        ):
            return []
        (lane.control if payload is None else lane.bulk).append(out)
        self._hold(lane, sender, size)
        return []

    def carry(self, backlog: Callable[[NodeId], int]) -> list[Out]:
        """Return what is to be forwarded now. `backlog` tells the bytes that wait for a peer already.

        Members take turns by message, so that one with much to send holds up nobody with little.
        """
        outs: list[Out] = []
        for to, lanes in self._lanes.items():
            room = CARRY_BACKLOG_MAX - backlog(to)
            while lanes and room > 0:
                sender, lane = next(iter(lanes.items()))
                out = (lane.control or lane.bulk).popleft()
                size = _size(out)
                self._hold(lane, sender, -size)
                self.forwarded_bytes += size
                room -= size
                outs.append(out)
                del lanes[sender]
                if lane:
                    lanes[sender] = lane  # To the end of the row.
        self._lanes = {to: lanes for to, lanes in self._lanes.items() if lanes}
        return outs

    @property
    def carries(self) -> bool:
        """Whether something waits to be forwarded."""
        return bool(self._lanes)

    def _drop_lanes(self, to: NodeId) -> None:
        for sender, lane in self._lanes.pop(to, {}).items():
            self._hold(lane, sender, -lane.size)

    def _hold(self, lane: _Lane, sender: NodeId, size: int) -> None:
        """Count what is held, or is so no more."""
        lane.size += size
        self._held += size
        of_sender = self._held_of.pop(sender, 0) + size
        if of_sender:
            self._held_of[sender] = of_sender

    # --- parts ------------------------------------------------------------------------------------------------------

    @staticmethod
    def _complain(passage: _Passage, event: str, text: str, now: float) -> list[Item]:
        if now < passage.told_at.get(event, -math.inf) + COMPLAINT_S:
            return []
        passage.told_at[event] = now
        return [Report(event, text, {"peer": passage.contact.name}, level="warning")]


def _head(way: int, what: int, other: NodeId) -> bytes:
    return _HEAD.pack(WIRE_VERSION, CARRIED, way, what, other)


def _label(what: int) -> bytes:
    """What is not sealed and yet cannot be changed: a control frame is no chunk. Who and whither are in the keys."""
    return bytes((WIRE_VERSION, what))


def _sealed(what: int, body: bytes, payload: Buffer | None) -> bytes:
    if what == CHUNK:
        assert payload is not None, "looked at before"
        return bytes(payload) if not isinstance(payload, bytes) else payload
    return body[_NUMBER.size :]


def _size(out: Out) -> int:
    return len(out.frame) + (0 if out.payload is None else memoryview(out.payload).nbytes)
