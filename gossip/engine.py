"""Who is told what: greetings, heartbeats, round trips, spreading of signed messages, repair of what was lost.

A signed message is sent by its author to all its neighbours. A receiver passes it on, once, to those of its own
neighbours that the author has no link to: along a complete graph nothing is ever sent twice, along a ring everything
gets round. What is lost on the way is repaired by comparing notes: feed heads for entries, standings for votes and
blocks.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

import msgspec

from gossip import wire
from gossip.messages import FeedHeads, Heartbeat, Hello, Message, Refuse
from gossip.peers import HEARTBEAT_S, Member, Peers
from gossip.protocol import REFUSED, Mismatch, mismatch, printable, version_text
from swarm.machine import Contact, Effect, NodeId, Report, Send
from swarm.terms import Terms

FEED_SYNC_S = 2.0
"""Between comparisons of feed heads with one random neighbour: lost entries reach everyone within a few of these."""

GREET_AGAIN_S = 5.0
"""Between greetings of a neighbour whose greeting does not fit ours. Whoever mends that starts again, and greets."""

TOLD_S = 10.0
"""Between two reports about greetings of one neighbour, whatever it says: it may say something else every time."""

REMIND_S = 3600.0
"""Between reports that two sites still do not fit together: somebody who reads the last lines of a log must see it."""

SEEN_MAX = 20_000
"""Frames remembered so that each is passed on once. At 50 members and a round a second this is a minute's worth."""


class Engine:
    """Spreads messages over the links there are. Decides nothing about their content.

    With `relayed` the charter lets links go through other members where neither end can be dialled; with `relays` this
    site forwards for such.
    `needs` are the capabilities without which a peer cannot take part.
    """

    def __init__(
        self,
        terms: Terms,
        me: NodeId,
        hello: Hello,
        peers: Peers,
        rng: random.Random,
        contacts: Sequence[Contact] = (),
        needs: Sequence[str] = (),
        *,
        relayed: bool = False,
        relays: bool = False,
    ) -> None:
        self._me = me
        self._needs = tuple(needs)
        self._hello = hello
        self._peers = peers
        self._rng = rng
        self._sponsors = tuple(contacts)
        self._relayed, self._relays = relayed, relays
        self._seen: dict[bytes, None] = {}
        self._beat_at = 0.0
        self._sync_at = 0.0
        self.update(terms)

    def update(self, terms: Terms) -> None:
        """Follow a change of terms. Whoever is not a member yet talks to its sponsors and to all who can be dialled."""
        index = terms.index(self._me)
        if index is None:
            known = {contact.node: contact for contact in self._sponsors}
            for seat in terms.members:
                if seat.endpoint and seat.node not in known:
                    known[seat.node] = Contact(seat.node, seat.name, seat.curve_key, seat.endpoint)
            self.contacts = tuple(known.values())
            self.carried: tuple[NodeId, ...] = ()
        else:
            links = terms.neighbours(index)
            seats = [(terms.members[i], terms.dials(index, i)) for i in links]
            direct = (Contact(s.node, s.name, s.curve_key, s.endpoint if d else "") for s, d in seats)
            self.contacts = (*direct, *self._through_relays(terms, index))
            self.carried = tuple(s.node for s, _ in seats if self._relayed and self._relays and not s.endpoint)
        self.neighbours = tuple(contact.node for contact in self.contacts)
        self._linked = frozenset(self.neighbours)
        self._further = self._onward(terms, index)

    def knows(self, node: NodeId) -> bool:
        """Whether a node is a neighbour: asked of every message."""
        return node in self._linked

    def welcome(self) -> Sequence[NodeId]:
        """Return the neighbours that are linked and have introduced themselves, in member order."""
        return [node for node in self.neighbours if self._peers.members[node].welcome]

    # --- links --------------------------------------------------------------------------------------------------

    def link(self, node: NodeId, up: bool, why: str, via: NodeId | None = None) -> list[Effect]:
        """Introduce this node on a new link, which may go `via` another member; forget the greeting of a lost one."""
        member = self._peers.members[node]
        relay = None if via is None else self._peers.members.get(via)
        member.via = "" if relay is None else relay.name
        changed, member.linked = member.linked != up, up
        if changed:
            member.echo.linked()
        if not up:
            member.welcome, member.refuses = False, ""
            if not changed:
                return []
            return [Report("link_down", f"link to {member.name} lost: {why}", {"peer": member.name}, level="warning")]
        member.echo.greeted()
        return [Send(node, wire.encode(self._hello)), *self._note_up(changed, member.name, member.via)]

    def on_hello(self, sender: NodeId, hello: Hello, now: float) -> tuple[bool, list[Effect]]:
        """Compare terms. Return whether the sender is welcome now and was not before, and what to say."""
        member = self._peers.members[sender]
        problem = mismatch(self._hello, hello, sender, member.name, self._needs)
        member.protocol, member.software = hello.protocol, printable(hello.software, 64)
        if problem is not None:
            member.welcome = False
            member.refused, member.identifier = problem.text, problem.identifier
            told = self._tell(member, "peer_refused", f"{member.name} cannot take part: {problem.text}", problem, now)
            return False, [Send(sender, wire.encode(Refuse(problem.text))), *told]
        effects: list[Effect] = []
        if not hello.answer:
            member.echo.answered(now)
        else:
            effects.append(Send(sender, wire.encode(msgspec.structs.replace(self._hello, answer=False))))
        member.capabilities = frozenset(hello.capabilities)
        if member.refused:
            member.refused = member.identifier = ""
            effects += self._tell_mended(member)
        if member.refuses:
            # It fits this node's terms, but not the other way round. Until it says otherwise it is told nothing.
            return False, effects
        fresh, member.welcome = not member.welcome, True
        if fresh:
            member.echo.welcomed(now)
        if fresh and hello.protocol != self._hello.protocol:
            text = f"{member.name} speaks protocol {version_text(hello.protocol)} ({member.software}), this node "
            text += f"{version_text(self._hello.protocol)}: they work together as the older of the two does"
            effects.append(Report("peer_version", text, {"peer": member.name}, level="debug"))
        return fresh, effects

    def on_refuse(self, sender: NodeId, refuse: Refuse, now: float) -> list[Effect]:
        """Say in words why a peer will not work with this node, and bother it no more."""
        member = self._peers.members[sender]
        member.welcome, member.refuses = False, printable(refuse.reason)
        text = f"{member.name} refuses to work with this node: {member.refuses}"
        return self._tell(member, "refused_by_peer", text, Mismatch(REFUSED, text), now, level="error")

    def on_other(self, sender: NodeId) -> None:
        """Notice that a peer speaks to this node of the swarm's work: it does not refuse it any more."""
        self._peers.members[sender].refuses = ""

    def can(self, node: NodeId, capability: str) -> bool:
        """Whether a welcome peer has said that it can do something, or hear of it."""
        member = self._peers.members[node]
        return member.welcome and capability in member.capabilities

    def beyond(self, sender: NodeId, frame: bytes) -> bool:
        """Whether a frame is of a kind that a later minor version has added, and that its sender may well say."""
        theirs = self._peers.members[sender].protocol
        later = theirs[0] == self._hello.protocol[0] and theirs[1] > self._hello.protocol[1]
        return later and len(frame) > 1 and frame[0] == wire.WIRE_VERSION and wire.kind(frame) is None

    # --- spreading ----------------------------------------------------------------------------------------------

    def broadcast(self, message: Message) -> list[Effect]:
        """Send a message of this node's own to every neighbour."""
        frame = wire.encode(message)
        self._first_sight(frame)
        return [Send(node, frame) for node in self._hearers(type(message))]

    def relay(self, frame: bytes, origin: NodeId, sender: NodeId) -> list[Effect]:
        """Pass on a verified message of member `origin` to those it has no link to."""
        onward = self._further.get(origin, frozenset())
        if not onward or not self._first_sight(frame):
            return []
        return [Send(node, frame) for node in self._hearers(wire.kind(frame)) if node in onward and node != sender]

    def tick(self, now: float, beat: Heartbeat, heads: FeedHeads) -> list[Effect]:
        """Send what is due: heartbeats to all, feed heads to one."""
        effects: list[Effect] = []
        welcome = self.welcome()
        if now >= self._beat_at:
            self._beat_at = now + HEARTBEAT_S
            frame = wire.encode(beat)
            effects += [Send(node, frame) for node in welcome]
            # A greeting can be lost like anything else; without it the link stays mute.
            hello = wire.encode(self._hello)
            effects += [Send(node, hello) for node in self.neighbours if self._to_greet(node, now)]
            effects += [Send(node, hello) for node in self._to_measure(welcome, now)]
        if now >= self._sync_at:
            self._sync_at = now + FEED_SYNC_S
            if welcome:
                effects.append(Send(self._rng.choice(welcome), wire.encode(heads)))
        return effects

    def hurry(self) -> None:
        """Make the next heartbeat due now: there is news that others wait for."""
        self._beat_at = 0.0

    def beat_due(self, now: float) -> bool:
        """Whether `tick` has anything to send."""
        return now >= min(self._beat_at, self._sync_at)

    def next_wake(self) -> float:
        """Return when `tick` is due."""
        return min(self._beat_at, self._sync_at)

    # --- parts --------------------------------------------------------------------------------------------------

    def _hearers(self, kind: type[Message] | None) -> Sequence[NodeId]:
        """Return the welcome neighbours that understand a kind of message."""
        need = None if kind is None else wire.NEEDS.get(kind)
        return [node for node in self.welcome() if need is None or self.can(node, need)]

    def _to_greet(self, node: NodeId, now: float) -> bool:
        """Whether a linked neighbour is mute and due to be greeted again."""
        member = self._peers.members[node]
        if not member.linked or member.welcome:
            return False
        if (member.refused or member.refuses) and now < member.greeted_at + GREET_AGAIN_S:
            return False
        member.greeted_at = now
        member.echo.greeted()
        return True

    def _to_measure(self, welcome: Sequence[NodeId], now: float) -> Sequence[NodeId]:
        """Return the neighbour whose round trip was not measured for longest, if it is time: one a heartbeat."""
        due = [(self._peers.members[node].echo.due_at(), place) for place, node in enumerate(welcome)]
        if not due or min(due)[0] > now:
            return ()
        node = welcome[min(due)[1]]
        self._peers.members[node].echo.probed(now)
        return (node,)

    def _tell(
        self, member: Member, event: str, text: str, problem: Mismatch, now: float, *, level: str = "warning"
    ) -> list[Effect]:
        """Report that a neighbour and this node do not fit together: once, and again while it lasts, but not often."""
        before, at = member.told.get(event, ("", -REMIND_S))
        if now < at + (REMIND_S if text == before else TOLD_S):
            return []
        member.told[event] = text, now
        return [Report(event, text, {"peer": member.name, "id": problem.identifier}, level=level)]

    def _tell_mended(self, member: Member) -> list[Effect]:
        text, at = member.told.get("peer_refused", ("", 0.0))
        member.told["peer_refused"] = "", at
        if not text:
            return []  # Nobody was told that they did not.
        return [Report("peer_fits", f"{member.name} and this node fit together again", {"peer": member.name})]

    def _note_up(self, changed: bool, name: str, via: str) -> list[Effect]:
        through = f" through {via}, which cannot read along" if via else ""
        return [Report("link_up", f"linked to {name}{through}", {"peer": name})] if changed else []

    def _onward(self, terms: Terms, me: int | None) -> dict[NodeId, frozenset[NodeId]]:
        """Per origin, the neighbours of mine that cannot have heard it from the origin itself."""
        if me is None:
            return {}
        linked = [[*terms.neighbours(i), *self._further_off(terms, i)] for i in range(len(terms.members))]
        mine = linked[me]
        onward = {}
        for origin, seat in enumerate(terms.members):
            told = {*linked[origin], origin, me}
            onward[seat.node] = frozenset(terms.members[i].node for i in mine if i not in told)
        return onward

    def _further_off(self, terms: Terms, index: int) -> list[int]:
        """Whom a member has a link to through others."""
        return list(terms.further(index)) if self._relayed else []

    def _through_relays(self, terms: Terms, me: int) -> list[Contact]:
        """Whom this node has a link to through others, in member order."""
        found = []
        for other, relays in terms.relayed(me) if self._relayed else ():
            seat = terms.members[other]
            via = tuple(terms.members[relay].node for relay in relays)
            found.append(Contact(seat.node, seat.name, seat.curve_key, "", via))
        return found

    def _first_sight(self, frame: bytes) -> bool:
        name = hashlib.sha256(frame).digest()
        if name in self._seen:
            return False
        if len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[name] = None
        return True
