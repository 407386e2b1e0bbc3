"""Who this site talks to besides its neighbours: guests that want to join, and members that were let go."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import msgspec

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from node import governance
from node.core.myself import Myself
from swarm.errors import Reject
from swarm.identity import node_id
from swarm.invite import Invite
from swarm.ledger.replica import Replica
from swarm.machine import Contact, Effect, Finished, NodeId, Reach, Report, Send
from swarm.round import Say

FAREWELL_S = 60.0
"""How long a link is kept with a member that was let go, or to the old key of one that has a new one."""

GIVE_UP_S = 60.0
"""How long a site that has left, when it is started again, waits for anybody to talk to it."""

KNOCK_S = 0.5
"""A guest that knocks more often is not heard: each time costs three signatures."""


class Reception:
    """Guests by the invitations this site has given, and links kept for a farewell."""

    def __init__(self, who: Myself, replica: Replica, engine: Engine, invites: Sequence[Invite]) -> None:
        self._who, self._replica, self._engine = who, replica, engine
        self._guests = {node_id(invite.guest): invite for invite in invites}
        self._knocked: dict[NodeId, float] = {}
        self._farewells: tuple[Contact, ...] = ()
        self._farewell_until = 0.0
        self._was_member = False
        self._give_up_at = 0.0

    def open(self, now: float) -> Reach:
        """Begin. A site that is started after it has left waits only so long to be let in again."""
        self._was_member = self._who.index is not None
        if not self._was_member and self._who.node in self._replica.head.heads:
            self._give_up_at = now + GIVE_UP_S
        return self.reach()

    def reach(self) -> Reach:
        """Return whom to keep links with, and under which key of this site."""
        seat = self._who.seat
        key = self._who.identity.curve_public if seat is None else seat.curve_key
        guests = [Contact(node, f"guest {i.name}", i.guest, "") for node, i in self._guests.items()]
        return Reach((*self._engine.contacts, *self._farewells, *guests), key, self._engine.carried)

    # --- guests -------------------------------------------------------------------------------------------------

    def expect(self, invite: Invite) -> Reach:
        """Let whom this site has invited connect."""
        self._guests[node_id(invite.guest)] = invite
        return self.reach()

    def is_guest(self, node: NodeId) -> bool:
        """Whether messages of this node are to be answered by `on_guest`."""
        return node in self._guests

    def on_guest(
        self, sender: NodeId, frame: bytes, mine: Sequence[msgspec.Struct], now: float
    ) -> tuple[list[Effect], Say | None]:
        """Return an answer, and what to say to move that a guest join. Whatever else a guest says is not heard."""
        if now < self._knocked.get(sender, 0.0) + KNOCK_S:
            return [], None
        self._knocked[sender] = now
        try:
            message = wire.decode(frame)
        except Reject:
            return [], None
        if not isinstance(message, m.Knock):
            return [], None
        head, found = self._replica.head, self._guests[sender]
        try:
            state, text, say = governance.welcome(head, self._who.node, found, message.card, mine, int(now * 1000))
        except Reject as reason:
            state, text, say = "refused", reason.message, None
        effects: list[Effect] = [Send(sender, wire.encode(m.KnockAnswer(state, text)))]
        if say is not None:
            effects.append(Report("guest", f"{found.name} knocked: proposed to the members that it join"))
        return effects, say

    # --- farewells ----------------------------------------------------------------------------------------------

    def is_former(self, node: NodeId) -> bool:
        """Whether a link is kept with this node only to let it read how it was let go."""
        return not self._engine.knows(node) and any(contact.node == node for contact in self._farewells)

    def on_former(
        self,
        sender: NodeId,
        frame: bytes,
        serve: Callable[[NodeId, m.GetBlocks], list[Effect]],
        beat: Callable[[int], m.Heartbeat],
    ) -> list[Effect]:
        """Let a member that was let go read how that came about, and nothing later than that.

        `serve` answers a question for blocks, `beat` makes the heartbeat of a height.
        """
        try:
            message = wire.decode(frame)
        except Reject:
            return []
        last = self._replica.head.root.height
        if isinstance(message, m.GetBlocks) and message.height <= last:
            return serve(sender, m.GetBlocks(message.height, min(message.last, last)))
        if isinstance(message, m.Heartbeat) and message.final_height < last:
            return [Send(sender, wire.encode(beat(last)))]
        return []

    def see_off(self, before: Mapping[NodeId, Contact], now: float) -> tuple[Sequence[Contact], Sequence[NodeId]]:
        """Keep the links of those that have to hear over them that the terms have changed.

        Returns those that are neighbours no more or by another key, and those that are back before their link went.
        """
        after = {contact.node: contact for contact in self._engine.contacts}
        changed = [c for node, c in before.items() if node not in after or after[node].curve_key != c.curve_key]
        kept = {contact.node: contact for contact in self._farewells if contact.node not in after}
        kept |= {c.node: dataclasses.replace(c, endpoint="") if c.node in after else c for c in changed}
        back = [contact.node for contact in self._farewells if contact.node in after and contact.node not in before]
        self._farewells, self._farewell_until = tuple(kept.values()), now + FAREWELL_S
        return changed, back

    def leave(self) -> list[Effect]:
        """In a new epoch: end the run of a site that was a member and is not any more."""
        effects: list[Effect] = []
        if self._who.index is None and self._was_member:
            why = f"this site is not a member since epoch {self._who.terms.epoch}"
            effects += [Report("left", f"{why}: it follows the others no further"), Finished("LEFT", why)]
        self._was_member = self._who.index is not None
        return effects

    def close(self, now: float) -> list[Effect]:
        """End the links that were kept for a farewell, and a site that has left and that nobody talks to."""
        effects: list[Effect] = []
        if self._farewells and now >= self._farewell_until:
            self._farewells = ()
            effects.append(self.reach())
        if self._give_up_at and now >= self._give_up_at:
            self._give_up_at = 0.0
            if self._who.index is None and not self._engine.welcome():
                why = f"this site was not a member any more in epoch {self._who.terms.epoch}, and nobody talks to it"
                effects += [Report("left", f"{why}: ask to be invited again", level="warning"), Finished("LEFT", why)]
        return effects

    def next_wake(self) -> float | None:
        """Return when something is to be ended."""
        wakes = [self._farewell_until if self._farewells else None, self._give_up_at or None]
        return min((wake for wake in wakes if wake is not None), default=None)
