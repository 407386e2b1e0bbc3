"""What this site says: each entry durable before anybody hears it, and nothing that it has said otherwise before.

The disk may be a copy, or an old one. So a process that starts is muted: it asks its neighbours what they have heard of
it, takes that back into its feed, and speaks once a quorum has answered and all of it is here (ledger.md 1.6).
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from gossip.peers import Peers
from node.core.agreement import Agreement
from node.core.myself import Myself
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.block import faults
from swarm.ledger.evidence import signed_by_any
from swarm.ledger.replica import PENDING_PER_AUTHOR_MAX, Replica
from swarm.machine import RECORD_ENTRY, Effect, NodeId, Persist, Record, Report, Send
from swarm.round import Say

REMIND_S = 1.0
"""Between questions of a site that has just started to those that have not said yet what they remember of it."""


class Voice:
    """One site's feed. `halted` says why it says nothing more, for good."""

    def __init__(
        self, who: Myself, replica: Replica, engine: Engine, peers: Peers, agreement: Agreement, ledger_id: bytes
    ) -> None:
        self._who, self._replica, self._engine, self._peers = who, replica, engine, peers
        self._agreement, self._ledger_id = agreement, ledger_id
        self.halted = ""
        self._unsaid: list[Say] = []
        self._orphans: list[bytes] = []
        self._recalled = False
        self._feed_end = 0
        self.begin_epoch()

    def begin_epoch(self) -> None:
        """In every epoch that it is a member of, a process asks anew until it has once been told what it said."""
        alone = self._who.terms.quorum == 1
        self._agreement.consensus.muted = bool(self.halted) or (self._who.speaks and not alone and not self._recalled)
        self._reminded: dict[NodeId, int] = {}
        self._ask_at = 0.0

    @property
    def muted(self) -> bool:
        """Whether it still waits to be told what it said before."""
        return self._agreement.consensus.muted and not self.halted

    @property
    def able(self) -> bool:
        """Whether what it wants to say now can be said, at once or when it is no longer muted."""
        return not self.halted and self._who.speaks and not self._orphans

    @property
    def why_not(self) -> str:
        """Why it cannot speak, in words; empty if it can."""
        if self.halted or self.able:
            return self.halted
        if self._who.index is None:
            return "this site is not a member"
        if not self._who.speaks:
            return "this site does not hold the keys the members know it by today"
        return "what it wrote last is not acceptable any more"

    def mine(self) -> list[msgspec.Struct]:
        """Return what this site has said, or will, that is not final."""
        return [*(p.body for p in self._replica.own(self._who.node)), *(say.body for say in self._unsaid)]

    # --- speaking -----------------------------------------------------------------------------------------------

    def say(self, say: Say, now: float) -> list[Effect]:
        """Append to my own feed: durable before anybody hears it, or a crash could make me say something else."""
        if not self.able:
            return []
        if self.muted:
            self._unsaid.append(say)  # What it says next must follow on what it said before, wherever that is.
            return []
        me = self._who.node
        place = self._replica.next_entry(me)
        if place.seq >= self._replica.head.heads[me].seq + PENDING_PER_AUTHOR_MAX:
            return []  # Nobody would take it in before some of those that wait are ordered.
        entry = e.sign_entry(
            self._who.identity.id_key,
            ledger_id=self._ledger_id,
            author=me,
            kind=say.kind,
            seq=place.seq,
            prev=place.prev,
            ts_ms=int(now * 1000),
            body=say.body,
        )
        leaf = entry.encode()
        if self._replica.admit(leaf, now) is None:
            return self._stop()
        return self._tell_all(entry.seq, leaf)

    def _stop(self) -> list[Effect]:
        """Say nothing more, for good: another has spoken with this identity, from a cloned disk or one put back.

        Whatever it said could only contradict that. What the others agree on it goes on to follow.
        """
        self.halted = "this node's identity has been used elsewhere"
        self._agreement.consensus.muted = True
        return [Report("identity_conflict", f"{self.halted}: this node stops speaking", level="error")]

    def readmit(self, leaf: bytes, now: float) -> list[Effect]:
        """Take an own entry back into the feed; signed again if this site has taken new keys since."""
        try:
            self._replica.admit(leaf, now)
            return []
        except Reject:
            if not self._who.speaks:
                self._orphans.append(leaf)
                return []
        entry = e.decode_entry(leaf)
        again = e.resign(entry, self._who.identity.id_key, self._ledger_id).encode()
        try:
            if self._replica.admit(again, now) is None:
                return []
        except Reject as reason:
            # A charge of long ago, say. Its place in the feed is taken: what followed it would contradict it.
            self._orphans.append(leaf)
            text = f"this site can write no more: what it wrote last is not acceptable any more ({reason.message})"
            return [Report("feed_blocked", text, level="error")]
        return self._tell_all(entry.seq, again)

    def readmit_orphans(self, now: float) -> list[Effect]:
        """What it has signed once it must never say otherwise, so what was void in one epoch is kept for the next."""
        waiting, self._orphans = [*self._orphans, *self._replica.take_orphans(self._who.node)], []
        effects: list[Effect] = []
        for leaf in waiting:
            effects += self.readmit(leaf, now)
        return effects

    def _tell_all(self, seq: int, leaf: bytes) -> list[Effect]:
        return [Persist((Record(RECORD_ENTRY, seq, leaf),)), *self._engine.broadcast(m.EntryMessage(leaf))]

    # --- asking before speaking ---------------------------------------------------------------------------------

    def question(self) -> Sequence[m.Message]:
        """Return what to ask whoever has just become a neighbour, if anything."""
        return [m.Remind(self._replica.next_entry(self._who.node).seq)] if self.muted else []

    def ask_again(self, now: float) -> list[Effect]:
        """Ask those that have not answered yet what this site has said."""
        if not self.muted or now < self._ask_at:
            return []
        self._ask_at = now + REMIND_S
        frames = [wire.encode(message) for message in self.question()]
        return [Send(node, f) for node in self._engine.welcome() if node not in self._reminded for f in frames]

    def next_wake(self, now: float) -> float | None:
        """Return when those that have not answered are to be asked again."""
        return self._ask_at if self.muted and self._ask_at > now else None

    def remind(self, sender: NodeId, message: m.Remind) -> list[Effect]:
        """Tell a member that has just started what it is known to have said."""
        votes, certificates = self._agreement.consensus.said_by(self._agreement.member(sender))
        last = self._replica.last_of(sender)
        fresh = last and e.decode_entry(last).seq >= message.seq
        seq = self._replica.head.heads[sender].seq
        reminder = m.Reminder(self._agreement.terms.epoch, votes, certificates, last if fresh else b"", seq)
        return [Send(sender, wire.encode(reminder))]

    def on_reminder(self, sender: NodeId, message: m.Reminder, now: float) -> list[Effect]:
        """Learn what this site has said, as others remember it. Raises `Reject`."""
        if not self.muted or self._who.index is None or message.epoch != self._agreement.terms.epoch:
            return []  # Of another epoch it says nothing about this one, which is asked about again when it is reached.
        me, end = self._who.node, 0
        if message.last:
            entry = e.decode_entry(message.last)
            if entry.author != me:
                raise Reject("couldn't accept a reminder: it holds an entry of somebody else")
            known = (self._who.terms, *self._replica.head.past)
            end = entry.seq + 1 if signed_by_any(entry, me, known, self._ledger_id) else 0
        # Nothing is believed of a reminder that is wrong anywhere, nor forgotten of what its votes have brought about.
        outputs = self._agreement.consensus.on_reminder(message.votes, message.certificates, now)
        self._feed_end = max(self._feed_end, end)
        self._reminded[sender] = message.seq
        return self._agreement.obey(outputs)

    def speak_up(self, now: float) -> list[Effect]:
        """Begin to speak once a quorum, this site included, has said what it remembers and all of that is here."""
        if not self.muted or self._who.index is None or not self._all_reminded(now):
            return []
        # Of f + 1 who claim that this site has come so far, one is honest: that much of its feed has to be here first.
        claims = sorted(self._reminded.values(), reverse=True)
        end = max(self._feed_end, claims[min(faults(len(self._who.terms.members)), len(claims) - 1)])
        me = self._who.node
        if self._replica.next_entry(me).seq < end:
            # What is missing never comes where what others remember, or this disk, follows on something else.
            return self._stop() if self._replica.parted(me) else []
        self._recalled = True
        effects = self._agreement.obey(self._agreement.consensus.unmute(now))
        unsaid, self._unsaid = self._unsaid, []
        for say in unsaid:
            effects += self.say(say, now)
        return effects

    def _all_reminded(self, now: float) -> bool:
        """Whether a quorum has answered, this site included; with fewer neighbours than that, all that are there.

        Whatever this site said went through its neighbours.
        """
        neighbours, needed = self._engine.neighbours, self._who.terms.quorum - 1
        if len(neighbours) >= needed:
            return len(self._reminded) >= needed
        return bool(self._reminded) and all(n in self._reminded or self._peers.absent(n, now) for n in neighbours)
