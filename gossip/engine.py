"""Who is told what: greetings, heartbeats, spreading of signed messages, repair of what was lost.

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
from gossip.peers import HEARTBEAT_S, Peers
from swarm.machine import Contact, Effect, NodeId, Report, Send
from swarm.terms import Terms

PROTOCOL = (1, 0)

FEED_SYNC_S = 2.0
"""Between comparisons of feed heads with one random neighbour: lost entries reach everyone within a few of these."""

SEEN_MAX = 20_000
"""Frames remembered so that each is passed on once. At 50 members and a round a second this is a minute's worth."""


class Engine:
    """Spreads messages over the links there are. Decides nothing about their content."""

    def __init__(
        self,
        terms: Terms,
        me: NodeId,
        hello: Hello,
        peers: Peers,
        rng: random.Random,
        contacts: Sequence[Contact] = (),
    ) -> None:
        self._me = me
        self._hello = hello
        self._peers = peers
        self._rng = rng
        self._sponsors = tuple(contacts)
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
        else:
            links = terms.neighbours(index)
            seats = [(terms.members[i], terms.dials(index, i)) for i in links]
            self.contacts = tuple(Contact(s.node, s.name, s.curve_key, s.endpoint if d else "") for s, d in seats)
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

    def link(self, node: NodeId, up: bool, why: str) -> list[Effect]:
        """Introduce this node on a new link; forget the greeting of a lost one."""
        member = self._peers.members[node]
        changed, member.linked = member.linked != up, up
        if not up:
            member.welcome = False
            if not changed:
                return []
            return [Report("link_down", f"link to {member.name} lost: {why}", {"peer": member.name}, level="warning")]
        return [Send(node, wire.encode(self._hello)), *self._note_up(changed, member.name)]

    def on_hello(self, sender: NodeId, hello: Hello) -> tuple[bool, list[Effect]]:
        """Compare terms. Return whether the sender is welcome now and was not before, and what to say."""
        member = self._peers.members[sender]
        problem = self.mismatch(hello, sender)
        if problem:
            member.welcome = False
            said, member.refused = member.refused == problem, problem
            effects: list[Effect] = [Send(sender, wire.encode(Refuse(problem)))]
            if not said:
                text = f"{member.name} cannot take part: {problem}"
                effects.append(Report("peer_refused", text, {"peer": member.name}, level="warning"))
            return False, effects
        member.refused = member.refuses = ""
        fresh, member.welcome = not member.welcome, True
        answer = msgspec.structs.replace(self._hello, answer=False)
        return fresh, [Send(sender, wire.encode(answer))] if hello.answer else []

    def on_refuse(self, sender: NodeId, refuse: Refuse) -> list[Effect]:
        """Say in words why a peer will not work with this node."""
        member = self._peers.members[sender]
        if member.refuses == refuse.reason:
            return []
        member.refuses = refuse.reason
        text = f"{member.name} refuses to work with this node: {refuse.reason}"
        return [Report("refused_by_peer", text, {"peer": member.name}, level="error")]

    def mismatch(self, hello: Hello, sender: NodeId) -> str:
        """Return why the two ends cannot work together, or nothing."""
        mine, name = self._hello, self._peers.members[sender].name
        if hello.node != sender:
            return f"{name} introduced itself with another member's identity"
        if hello.protocol[0] != mine.protocol[0]:
            return (
                f"{name} speaks protocol {hello.protocol[0]}.{hello.protocol[1]} ({hello.software}), "
                f"this node {mine.protocol[0]}.{mine.protocol[1]} ({mine.software}): update the older one"
            )
        for what, theirs, ours in (
            ("charter", hello.charter, mine.charter),
            ("task file", hello.task, mine.task),
            ("parameter layout", hello.layout, mine.layout),
        ):
            if theirs != ours:
                return (
                    f"{name} has another {what} ({theirs.hex()[:12]}) than this node ({ours.hex()[:12]}): "
                    f"compare with `swarm charter show`"
                )
        return ""

    # --- spreading ----------------------------------------------------------------------------------------------

    def broadcast(self, message: Message) -> list[Effect]:
        """Send a message of this node's own to every neighbour."""
        frame = wire.encode(message)
        self._first_sight(frame)
        return [Send(node, frame) for node in self.welcome()]

    def relay(self, frame: bytes, origin: NodeId, sender: NodeId) -> list[Effect]:
        """Pass on a verified message of member `origin` to those it has no link to."""
        onward = self._further.get(origin, frozenset())
        if not onward or not self._first_sight(frame):
            return []
        return [Send(node, frame) for node in self.welcome() if node in onward and node != sender]

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
            mute = [n for n in self.neighbours if self._peers.members[n].linked and not self._peers.members[n].welcome]
            effects += [Send(node, hello) for node in mute]
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

    def _note_up(self, changed: bool, name: str) -> list[Effect]:
        return [Report("link_up", f"linked to {name}", {"peer": name})] if changed else []

    def _onward(self, terms: Terms, me: int | None) -> dict[NodeId, frozenset[NodeId]]:
        """Per origin, the neighbours of mine that cannot have heard it from the origin itself."""
        if me is None:
            return {}
        mine = terms.neighbours(me)
        onward = {}
        for origin, seat in enumerate(terms.members):
            told = {*terms.neighbours(origin), origin, me}
            onward[seat.node] = frozenset(terms.members[i].node for i in mine if i not in told)
        return onward

    def _first_sight(self, frame: bytes) -> bool:
        name = hashlib.sha256(frame).digest()
        if name in self._seen:
            return False
        if len(self._seen) >= SEEN_MAX:
            del self._seen[next(iter(self._seen))]
        self._seen[name] = None
        return True
