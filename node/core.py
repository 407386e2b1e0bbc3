"""The node: gossip, ledger and round joined into one pure machine.

This is the whole logic of a peer. The runtime feeds it from sockets, disk and trainer; the simulator from a seeded
world; both run exactly this. It routes events to their owner, turns what owners want into effects in the right order
(durable first), and asks everyone again what should happen next. It holds no policy of its own.
"""

from __future__ import annotations

import contextlib
import dataclasses
import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from gossip import messages as m
from gossip import wire
from gossip.catchup import FAST, FULL, CatchUp
from gossip.engine import Engine
from gossip.peers import Peers
from gossip.transfer import Transfer
from node import governance
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, Reject
from swarm.identity import Identity, node_id
from swarm.invite import INVITE_BYTES_MAX, Invite
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.block import BLOCK_BYTES_MAX, Block, Certificate, FinalBlock, Header, Vote, faults
from swarm.ledger.consensus import Consensus, Durable, Note, Output, Status, Timing, ToAll, ToOne
from swarm.ledger.cosign import Cosigners
from swarm.ledger.evidence import describe, from_contradiction, from_entries, judge, signed_by_any
from swarm.ledger.forks import Fork, find_fork
from swarm.ledger.journal import parted
from swarm.ledger.replica import PENDING_PER_AUTHOR_MAX, Replica
from swarm.ledger.state import State, decode_body
from swarm.ledger.tiles import CHECKPOINT
from swarm.ledger.tlog import origin
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Answer,
    Asked,
    Buffer,
    Checked,
    Contact,
    Digest,
    Effect,
    Evaluated,
    Event,
    Finished,
    Inspect,
    Inspected,
    LinkChanged,
    Mixed,
    NodeId,
    Persist,
    Prune,
    Publish,
    Reach,
    Received,
    Record,
    Report,
    Send,
    SendBlocks,
    Snapshot,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Trained,
    WakeAt,
    Woke,
)
from swarm.round import Action, Fetch, Phase, Round, Say, phase_name
from swarm.terms import Change, Seat, Terms

SOFTWARE = "swarm-node/0.1"

BLOCKS_REPLY_BYTES_MAX = 512 * 1024
"""Final blocks sent in one answer: large enough that the way there and back does not matter."""

FAST_CHECKED_BLOCKS = 256
"""Blocks at the end whose every signature is checked, however fast a site catches up."""

SNAPSHOT_BLOCKS = 256
"""Between snapshots: so many blocks a start after a crash reads again, in a tenth of a second."""

CATCH_UP_TIMEOUT_S = 5.0
"""How long one peer may take to answer a request for blocks before another is asked."""

HASHES_KEPT = 4096
"""Final blocks whose hashes are at hand, to notice that a neighbour has another history: 128 KiB."""

FORK_BLOCKS = 64
"""Blocks asked of a neighbour whose history is another: enough to reach back to where they part, as a rule."""

FAREWELL_S = 60.0
"""How long a link is kept with a member that was let go, or to the old key of one that has a new one."""

GIVE_UP_S = 60.0
"""How long a site that has left, when it is started again, waits for anybody to talk to it."""

REMIND_S = 1.0
"""Between questions of a site that has just started to those that have not said yet what they remember of it."""

KNOCK_S = 0.5
"""A guest that knocks more often is not heard: each time costs three signatures."""

EVIDENCE_TURN_S = 0.5
"""Between the turns of members to put the same evidence on record."""

PACE_ROUNDS = 5
"""Rounds whose pace says how long the rest will take."""

CLOSED_SHOWN = 8
"""Closed rounds a status remembers: rounds may pass faster than people ask."""

_AGREEMENT = (m.Propose, m.CastVote, m.Certify, m.Standing)
_AGREEING = (*_AGREEMENT, m.Blocks, m.BlockRange)

CATCH_UP_AFTER_S = 1.0
"""A ledger that grew within this time is not behind, whatever a heartbeat says."""


class Node:
    """One peer's machine. `disk_free` tells the free bytes, for heartbeats.

    A site that is not a member yet, or not any more, follows the ledger and says nothing; `sponsors` are whom it hears
    it from besides the members of the charter. `successor` are the keys this site has asked the members to accept in
    place of `identity`; from the epoch on in which they stand, it signs with them.
    """

    def __init__(
        self,
        *,
        signed: SignedCharter,
        identity: Identity,
        rng: random.Random,
        now: float,
        code_digest: bytes,
        layout_digest: bytes,
        data_digest: bytes = bytes(32),
        disk_free: Callable[[], int] = lambda: 0,
        me: NodeId | None = None,
        approve: str = governance.ASK,
        sponsors: Sequence[Contact] = (),
        invites: Sequence[Invite] = (),
        successor: Identity | None = None,
        snapshot_blocks: int = SNAPSHOT_BLOCKS,
        catch_up: str = FULL,
    ) -> None:
        charter = signed.charter
        self._charter, self._identity, self._successor = charter, identity, successor
        self._me = identity.node if me is None else me
        self._approve = approve
        self._guests = {node_id(invite.guest): invite for invite in invites}
        self._knocked: dict[NodeId, float] = {}
        self._signed, self._ledger_id = signed, signed.ledger_id
        self._rng = rng
        self._disk_free = disk_free
        hello = m.Hello(
            protocol=(1, 0),
            software=SOFTWARE,
            capabilities=("exact", "spread"),
            node=self._me,
            charter=self._ledger_id,
            task=code_digest,
            layout=layout_digest,
            answer=True,
        )
        self.replica = Replica(signed, self)
        terms = self.replica.head.terms
        self.peers = Peers(terms, self._me, now, sponsors)
        self.engine = Engine(terms, self._me, hello, self.peers, rng, sponsors)
        self.transfer = Transfer(me=self._me, rng=rng)
        self.round = Round(charter, self._me, code_digest=code_digest, data_digest=data_digest)
        self.cosigners = Cosigners(log=origin(charter.name, self._ledger_id), key=identity.cosign_key)
        self._recalled = False
        self.consensus = self._convene()
        self._names = {seat.node: seat.name for seat in terms.members}
        self._snapshot_blocks, self._snapshot_height = snapshot_blocks, 0
        self._verdicts: dict[Digest, str] = {}
        self._inspecting: set[Digest] = set()
        self.catchup = CatchUp(rng)
        self._catch_up_mode = catch_up
        self._grew_at = now
        self._step = (0, 0)
        self._halted = ""
        self._committed_at: deque[float] = deque(maxlen=PACE_ROUNDS + 1)
        self._charges: dict[tuple[NodeId, int], tuple[float, e.Evidence]] = {}
        self._evidence_read = 0
        self._closed: dict[int, list[str]] = {}
        self._orphans: list[bytes] = []
        self._finals: dict[int, tuple[bytes, int]] = {}
        self._fork = ""
        self._proved = False
        self._inquired_at = 0.0
        self._feed_end = 0
        self._unsaid: list[Say] = []
        self._farewells: tuple[Contact, ...] = ()
        self._farewell_until = 0.0
        self._was_member = False
        self._give_up_at = 0.0
        self._started = False

    @property
    def _terms(self) -> Terms:
        return self.replica.head.terms

    @property
    def _index(self) -> int | None:
        """This node's place among the members of the epoch, if it has one."""
        return self._terms.index(self._me)

    @property
    def _speaks(self) -> bool:
        """Whether this node is a member and holds the keys the members know it by. If not, it follows."""
        if self._index is None:
            return False
        seat, held = self._terms.members[self._index], self._identity
        return (seat.id_key, seat.vote_key) == (held.id_key.public, held.vote_key.public)

    def _convene(self) -> Consensus:
        """Return this node's part in the agreement of the epoch at hand."""
        head = self.replica.head
        self._convened = head.terms
        mine = None if self._index is None else head.terms.members[self._index]
        if mine is not None and self._successor is not None and mine.id_key == self._successor.id_key.public:
            self._identity, self._successor = self._successor, None
        me = self._index if self._speaks else None
        made = Consensus(
            ledger_id=self._ledger_id,
            epoch=head.terms.epoch,
            vote_keys=head.terms.vote_keys,
            me=me,
            sign=self._identity.vote_key.sign,
            application=self.replica,
            rng=self._rng,
            timing=Timing(t0_s=self._charter.ledger.t0_ms / 1000),
            seed=int.from_bytes(self._ledger_id[:4], "big"),
            root=head.root,
        )
        # In every epoch that it is a member of, a process asks anew until it has once been told what it said before.
        made.muted = self._speaks and head.terms.quorum > 1 and not self._recalled
        self._reminded: dict[NodeId, int] = {}
        self._ask_at = 0.0
        return made

    # --- the seam -----------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Advance by one event. What a peer sent can cost that peer; it never raises here."""
        if not self._started and not isinstance(event, Started):
            return []
        effects: list[Effect] = []
        match event:
            case Started():
                effects += self._start(event, now)
            case Received():
                effects += self._receive(event, now)
            case LinkChanged():
                effects += self._link(event, now)
            case Stepped():
                self._step = (event.step, event.steps)
            case Trained():
                if event.update is not None:
                    self._verdicts[event.update] = ""  # The shell has clipped it: it need not be read through again.
                effects += self._do(self.round.trained(event, self.replica.head, self._mine(), now), now)
            case Evaluated():
                effects += self._do(self.round.evaluated(event), now)
            case Mixed():
                effects += self._do(self.round.mixed(event, self.replica.head, now), now)
            case Inspected():
                effects += self._inspected(event)
            case Checked():
                effects += self.transfer.on_checked(event, now)
            case Stored():
                effects += self.transfer.stored(event)
            case StoreFailed():
                text = f"couldn't store a blob: {event.why}"
                effects.append(Report("store_failed", text, {"digest": event.digest.hex()}, level="error"))
            case Woke():
                pass
            case Asked(question="status"):
                return [Answer(event.ticket, self.status(now))]
            case Asked():
                effects += self._asked(event, now)
        # A chunk that completes nothing changes no decision, and there may be tens of thousands of them.
        if not (isinstance(event, Received) and wire.kind(event.frame) is m.ChunkHeader and self.transfer.quiet()):
            effects += self._settle(now)
        return effects

    def snapshot(self) -> Snapshot:
        """Return the state as it is now, for the shell to start the next process from."""
        settled = self.replica.settled
        self._snapshot_height = settled.height
        return Snapshot(settled.height, settled.encode())

    def everyone_has_finished(self) -> bool:
        """Whether, as far as this node has heard, every member is done: nobody needs it any more."""
        return all(member.phase == Phase.DONE for member in self.peers.members.values())

    def status(self, now: float) -> dict[str, object]:
        """Return what people ask: where the ledger, the round and each member stand."""
        head = self.replica.head
        return {
            "swarm": self._charter.name,
            "me": self._name(self._me),
            "ledger_id": self._ledger_id.hex(),
            "height": head.height,
            "entries": head.size,
            "root": head.frontier.root().hex(),
            "epoch": head.terms.epoch,
            "member": self._index is not None,
            "rounds": head.terms.round.rounds,
            "round": head.round,
            "committed": head.committed.round,
            "model": head.committed.model.hex(),
            "eta_s": self._eta_s(),
            "motions": governance.motions(head),
            "policy": {name: getattr(head.terms.round, name) for name in head.terms.round.__struct_fields__},
            "closed": [{"round": r, "without": missing} for r, missing in self._closed.items()],
            "phase": self.round.phase.name.lower(),
            "paused": self._paused(now),
            "halted": self._halted or self._fork,
            "quorum": head.terms.quorum,
            "tolerance": head.terms.fault_tolerance(),
            "members": [self._member_status(node, now) for node in self.peers.members],
        }

    # --- what the replica asks (swarm.ledger.replica.Witness) --------------------------------------------------

    def usable(self, digest: Digest) -> bool | None:
        """Whether an update is held and fit to be averaged; None while it is not known."""
        problem = self._verdicts.get(digest)
        return None if problem is None else not problem

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of an update are arriving, or it has arrived and is being read through."""
        return self.transfer.has(digest) or self.transfer.moving(digest, now)

    def absent(self, node: NodeId, now: float) -> bool:
        """Whether nobody has heard of a member lately."""
        return self.peers.absent(node, now)

    def silent(self, node: NodeId, now: float) -> bool:
        """Whether a member is gone or stuck."""
        return self.peers.silent(node, now)

    # --- events -------------------------------------------------------------------------------------------------

    def _start(self, event: Started, now: float) -> list[Effect]:
        """Rebuild everything from what was durable. A peer killed anywhere continues from here."""
        self._started = True
        view = self._restore_blocks(event)
        self._recall(now)
        self.consensus = self._convene()
        self._follow_terms(now)
        self._was_member = self._index is not None
        if not self._was_member and self._me in self.replica.head.heads:
            self._give_up_at = now + GIVE_UP_S
        effects: list[Effect] = [self._reach()]
        for record in event.records:
            if record.kind == RECORD_ENTRY:
                effects += self._readmit(record.payload, now)
        self.transfer.restore(event.blobs, event.partial)
        # What was said before the last final block need not even be decoded.
        live = [
            record for record in event.records if record.kind in (RECORD_BLOCK, RECORD_ENTRY) or record.height >= view
        ]
        effects += self._obey(self.consensus.restore(live))
        head = self.replica.head
        rounds = head.terms.round.rounds
        where = f"all {rounds} rounds committed" if head.complete else f"round {head.round} of {rounds}"
        text = f"ledger at block {head.height}, {where}"
        effects.append(Report("started", text, {"height": head.height, "round": head.round}))
        return effects

    def _restore_blocks(self, event: Started) -> int:
        """Follow the durable blocks from the snapshot on, or from the first. Return the view of the last."""
        payloads = [record.payload for record in event.records if record.kind == RECORD_BLOCK]
        finals = [codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX) for payload in payloads]
        blocks = [(final, Header.decode(final.block.header)) for final in finals]
        if event.snapshot:
            state = snapshot.decode(event.snapshot, State, self._signed)
            self._snapshot_height = state.height
            for _, header in blocks:
                if header.height == state.height:
                    self.replica.resume(state, header)
        for final, header in blocks:
            if header.height <= self.replica.head.height:
                self.replica.recall(final, header)
            else:
                self.replica.restore(final, header)
        return blocks[-1][1].view if blocks else 0

    def _follow_terms(self, now: float) -> None:
        """Let everybody who asks who the members are know the terms of the epoch at hand."""
        terms = self._terms
        self._names |= {seat.node: seat.name for seat in terms.members}
        self.peers.update(terms, now)
        self.engine.update(terms)
        cosigners = [(seat.name, seat.cosign_key) for seat in terms.members]
        self.cosigners.update(self._identity.cosign_key, cosigners, terms.quorum)

    def _reach(self) -> Reach:
        mine = None if self._index is None else self._terms.members[self._index]
        key = self._identity.curve_public if mine is None else mine.curve_key
        guests = [Contact(node, f"guest {i.name}", i.guest, "") for node, i in self._guests.items()]
        return Reach((*self.engine.contacts, *self._farewells, *guests), key)

    def _turn_epochs(self, now: float) -> list[Effect]:
        """Follow the ledger into the epoch it has reached. Nothing may be said before: it would be in the old keys."""
        effects: list[Effect] = []
        while self.consensus.ended:
            effects += self._turn_epoch(now)
            effects += self._obey(self.consensus.step(now))
        return effects

    def _turn_epoch(self, now: float) -> list[Effect]:
        """The terms have changed for good: agree with the new members, talk to the new neighbours."""
        terms = self._terms
        self._notice(now)
        self.consensus = self._convene()
        self._evidence_read = 0
        before = {contact.node: contact for contact in self.engine.contacts}
        self._follow_terms(now)
        after = {contact.node: contact for contact in self.engine.contacts}
        # Whoever is let go, or known by another key from now on, has to hear of it over the link that it has.
        changed = [c for node, c in before.items() if node not in after or after[node].curve_key != c.curve_key]
        kept = {contact.node: contact for contact in self._farewells if contact.node not in after}
        kept |= {c.node: dataclasses.replace(c, endpoint="") if c.node in after else c for c in changed}
        back = [contact.node for contact in self._farewells if contact.node in after and contact.node not in before]
        self._farewells, self._farewell_until = tuple(kept.values()), now + FAREWELL_S
        effects: list[Effect] = [self._reach()]
        for node in back:
            effects += self.engine.link(node, True, "")  # It never went down.
        for contact in changed:
            if contact.node not in after:
                effects += self.transfer.link(contact.node, False, now)
                effects.append(Send(contact.node, wire.encode(self._heartbeat(now))))
        # What this site has signed once it must never say otherwise, so what is void today is kept for another day.
        waiting, self._orphans = [*self._orphans, *self.replica.take_orphans(self._me)], []
        for leaf in waiting:
            effects += self._readmit(leaf, now)
        names = ", ".join(seat.name for seat in terms.members)
        text = f"epoch {terms.epoch} began: {names}"
        values: dict[str, str | int | float | bool] = {"epoch": terms.epoch, "members": len(terms.members)}
        effects.append(Report("epoch", text, values))
        if self._index is None and self._was_member:
            why = f"this site is not a member since epoch {terms.epoch}"
            effects += [Report("left", f"{why}: it follows the others no further"), Finished("LEFT", why)]
        self._was_member = self._index is not None
        return effects

    def _readmit(self, leaf: bytes, now: float) -> list[Effect]:
        """Take an own entry back into the feed; signed again if this site has taken new keys since."""
        try:
            self.replica.admit(leaf, now)
            return []
        except Reject:
            if not self._speaks:
                self._orphans.append(leaf)
                return []
        entry = e.decode_entry(leaf)
        again = e.resign(entry, self._identity.id_key, self._ledger_id).encode()
        try:
            if self.replica.admit(again, now) is None:
                return []
        except Reject as reason:
            # A charge of long ago, say. Its place in the feed is taken: what followed it would contradict it.
            self._orphans.append(leaf)
            text = f"this site can write no more: what it wrote last is not acceptable any more ({reason.message})"
            return [Report("feed_blocked", text, level="error")]
        record = Record(RECORD_ENTRY, entry.seq, again)
        return [Persist((record,)), *self.engine.broadcast(m.EntryMessage(again))]

    def _link(self, event: LinkChanged, now: float) -> list[Effect]:
        if event.peer not in self.engine.neighbours:
            return []
        effects = self.engine.link(event.peer, event.up, event.why)
        if not event.up:
            effects += self.transfer.link(event.peer, False, now)
            self.catchup.lost(event.peer)
        return effects

    def _receive(self, event: Received, now: float) -> list[Effect]:
        """Decode, dispatch, and charge the sender for whatever is wrong with it."""
        sender = event.sender
        if sender in self._guests:
            return self._on_guest(sender, event.frame, now)
        if sender not in self.engine.neighbours and any(contact.node == sender for contact in self._farewells):
            return self._on_former(sender, event.frame, now)
        if sender not in self.engine.neighbours or self.peers.ignored(sender, now):
            return []
        try:
            message = wire.decode(event.frame)
            self.peers.heard(sender, now)
            return self._dispatch(sender, message, event.frame, event.payload, now)
        except Reject as reason:
            return self._blame(sender, reason.message, now)
        except LedgerError as error:
            asked = self._inquire(sender, self.replica.head.height, now)
            return [*asked, *self._raise_alarm(error.message, None)]

    def _dispatch(
        self, sender: NodeId, message: m.Message, frame: bytes, payload: Buffer | None, now: float
    ) -> list[Effect]:
        if isinstance(message, m.Hello):
            fresh, effects = self.engine.on_hello(sender, message)
            return effects + (self._introduce(sender, now) if fresh else [])
        if isinstance(message, m.Refuse):
            return self.engine.on_refuse(sender, message)
        if not self.peers.members[sender].welcome:
            return []
        settled = self._halted or (self._fork and (self._proved or not isinstance(message, m.BlockRange)))
        if settled and isinstance(message, _AGREEING):
            return []  # Whatever came of it would have to be said.
        seats = self._convened.members
        if isinstance(message, (*_AGREEMENT, m.Remind, m.Reminder)) and self._terms.index(sender) is None:
            return []  # A newcomer's sponsor may be a member of an epoch that is not reached here yet.
        match message:
            case m.Heartbeat():
                self.peers.on_heartbeat(sender, message, now)
                return self._compare(sender, message, now) + self._catch_up(now)
            case m.EntryMessage():
                return self._on_entry(sender, message, frame, now)
            case m.FeedHeads():
                return self._on_feed_heads(sender, message)
            case m.Propose():
                outputs = self.consensus.on_proposal(message.block, self._member(sender), now)
                return self._obey(outputs) + self._pass_on(frame, seats, message.block.proposer, sender)
            case m.CastVote():
                outputs = self.consensus.on_vote(message.vote, self._member(sender), now)
                return self._obey(outputs) + self._pass_on(frame, seats, message.vote.signer, sender)
            case m.Certify():
                return self._obey(self.consensus.on_certificate(message.certificate, self._member(sender), now))
            case m.Remind():
                return self._remind(sender, message)
            case m.Reminder():
                return self._on_reminder(sender, message, now)
            case m.Standing():
                return self._on_standing(sender, message.status, now)
            case m.GetBlocks():
                return self._on_get_blocks(sender, message)
            case m.Blocks():
                return self._on_blocks(message.blocks, now) + self._catch_up(now)
            case m.BlockRange():
                return self._on_range(sender, message, payload or b"", now)
            case m.Cosign():
                return self._on_cosign(sender, message, frame)
            case _:
                return self.transfer.on_message(sender, message, payload, now)

    def _pass_on(self, frame: bytes, seats: Sequence[Seat], origin: int, sender: NodeId) -> list[Effect]:
        """Pass on what the consensus has just verified, and nothing else: not even whose it is is known before."""
        return self.engine.relay(frame, seats[origin].node, sender) if self.consensus.fresh else []

    def _introduce(self, sender: NodeId, now: float) -> list[Effect]:
        """Compare notes with a peer that has just become welcome."""
        heads = m.FeedHeads(self.replica.feed_heads())
        standing = m.Standing(self.consensus.status())
        beat = self._heartbeat(now)
        said: list[m.Message] = [beat, heads, standing]
        if self.consensus.muted:
            said.insert(0, m.Remind(self.replica.next_entry(self._me).seq))
        greeting: list[Effect] = [Send(sender, wire.encode(message)) for message in said]
        greeting += [Send(sender, wire.encode(m.Cosign(held))) for held in self.cosigners.held()]
        return greeting + self.transfer.link(sender, True, now)

    def _on_entry(self, sender: NodeId, message: m.EntryMessage, frame: bytes, now: float) -> list[Effect]:
        try:
            pending = self.replica.admit(message.leaf, now)
        except Reject:
            if self.peers.members[sender].final_height > self.replica.head.height:
                return []  # By a key, perhaps, or of a member that the sender's ledger knows and ours does not yet.
            raise
        if pending is None:
            return []
        author = NodeId(pending.entry.author)
        self.peers.moved(author, now)
        effects = self.engine.relay(frame, author, sender)
        if isinstance(pending.body, e.Contribution) and pending.body.round >= self.replica.head.round:
            effects += self._fetch(Digest(pending.body.update_digest), pending.body.update_bytes, (author, sender), now)
        return effects

    def _on_former(self, sender: NodeId, frame: bytes, now: float) -> list[Effect]:
        """Let a member that was let go read how that came about, and nothing later than that it asks for."""
        try:
            message = wire.decode(frame)
        except Reject:
            return []
        last = self.replica.head.root.height
        if isinstance(message, m.GetBlocks) and message.height <= last:
            return self._on_get_blocks(sender, m.GetBlocks(message.height, min(message.last, last)))
        if isinstance(message, m.Heartbeat) and message.final_height < last:
            return [Send(sender, wire.encode(self._heartbeat(now, last)))]
        return []

    def _give_up(self, now: float) -> list[Effect]:
        """End a site that has left, and that nobody talks to: it has not been let in again."""
        if not self._give_up_at or now < self._give_up_at:
            return []
        self._give_up_at = 0.0
        if self._index is not None or self.engine.welcome():
            return []
        why = f"this site was not a member any more in epoch {self._terms.epoch}, and nobody talks to it"
        return [Report("left", f"{why}: ask to be invited again", level="warning"), Finished("LEFT", why)]

    def _part(self, now: float) -> list[Effect]:
        """End the links that were kept for a farewell."""
        if not self._farewells or now < self._farewell_until:
            return []
        self._farewells = ()
        return [self._reach()]

    def _heartbeat(self, now: float, height: int | None = None) -> m.Heartbeat:
        final = self.replica.head.height if height is None else height
        known, _ = self._finals.get(final, (b"", 0))
        return self.peers.heartbeat(now, final_height=final, final_hash=known, disk_free=self._disk_free())

    def _on_guest(self, sender: NodeId, frame: bytes, now: float) -> list[Effect]:
        """Move that a guest join, once, and tell it how that stands. Whatever else a guest says is not heard."""
        if now < self._knocked.get(sender, 0.0) + KNOCK_S:
            return []
        self._knocked[sender] = now
        try:
            message = wire.decode(frame)
        except Reject:
            return []
        if not isinstance(message, m.Knock):
            return []
        head, found = self.replica.head, self._guests[sender]
        try:
            state, text, say = governance.welcome(head, self._me, found, message.card, self._mine(), int(now * 1000))
        except Reject as reason:
            state, text, say = "refused", reason.message, None
        effects: list[Effect] = [Send(sender, wire.encode(m.KnockAnswer(state, text)))]
        if say is not None:
            effects += self._say(say, now)
            effects.append(Report("guest", f"{found.name} knocked: proposed to the members that it join"))
        return effects

    def _on_feed_heads(self, sender: NodeId, message: m.FeedHeads) -> list[Effect]:
        """Send the entries the other side lacks."""
        effects: list[Effect] = []
        for author, seq in message.heads:
            leaves = self.replica.entries_from(NodeId(author), seq)
            effects += [Send(sender, wire.encode(m.EntryMessage(leaf))) for leaf in leaves]
        return effects

    def _remind(self, sender: NodeId, message: m.Remind) -> list[Effect]:
        """Tell a member that has just started what it is known to have said."""
        votes, certificates = self.consensus.said_by(self._member(sender))
        last = self.replica.last_of(sender)
        fresh = last and e.decode_entry(last).seq >= message.seq
        epoch = self._convened.epoch
        seq = self.replica.head.heads[sender].seq
        return [Send(sender, wire.encode(m.Reminder(epoch, votes, certificates, last if fresh else b"", seq)))]

    def _on_reminder(self, sender: NodeId, message: m.Reminder, now: float) -> list[Effect]:
        """Learn what this site has said, as others remember it: its disk may be a copy, or an old one."""
        if not self.consensus.muted or self._index is None or message.epoch != self._convened.epoch:
            return []  # Of another epoch it says nothing about this one, which is asked about again when it is reached.
        end = 0
        if message.last:
            entry = e.decode_entry(message.last)
            if entry.author != self._me:
                raise Reject("couldn't accept a reminder: it holds an entry of somebody else")
            known = (self._terms, *self.replica.head.past)
            end = entry.seq + 1 if signed_by_any(entry, self._me, known, self._ledger_id) else 0
        # Nothing is believed of a reminder that is wrong anywhere, nor forgotten of what its votes have brought about.
        effects = self._obey(self.consensus.on_reminder(message.votes, message.certificates, now))
        self._feed_end = max(self._feed_end, end)
        self._reminded[sender] = message.seq
        return effects

    def _speak_up(self, now: float) -> list[Effect]:
        """Begin to speak once a quorum, this site included, has said what it remembers and all of that is here."""
        consensus = self.consensus
        if not consensus.muted or self._index is None:
            return []
        if not self._all_reminded(now):
            return []
        # Of f + 1 who claim that this site has come so far, one is honest: that much of its feed has to be here first.
        claims = sorted(self._reminded.values(), reverse=True)
        end = max(self._feed_end, claims[min(faults(len(self._terms.members)), len(claims) - 1)])
        if self.replica.next_entry(self._me).seq < end:
            return []
        self._recalled = True
        effects = self._obey(consensus.unmute(now))
        unsaid, self._unsaid = self._unsaid, []
        for say in unsaid:
            effects += self._say(say, now)
        return effects

    def _all_reminded(self, now: float) -> bool:
        """Whether a quorum has answered, this site included; with fewer neighbours than that, all that are there.

        Whatever this site said went through its neighbours.
        """
        neighbours, needed = self.engine.neighbours, self._terms.quorum - 1
        if len(neighbours) >= needed:
            return len(self._reminded) >= needed
        return bool(self._reminded) and all(n in self._reminded or self.peers.absent(n, now) for n in neighbours)

    def _ask_again(self, now: float) -> list[Effect]:
        """Ask those that have not answered yet what this site has said."""
        if not self.consensus.muted or now < self._ask_at:
            return []
        self._ask_at = now + REMIND_S
        frame = wire.encode(m.Remind(self.replica.next_entry(self._me).seq))
        return [Send(node, frame) for node in self.engine.welcome() if node not in self._reminded]

    def _on_standing(self, sender: NodeId, status: Status, now: float) -> list[Effect]:
        return self._obey(self.consensus.on_status(status, self._member(sender), now))

    def _on_get_blocks(self, sender: NodeId, message: m.GetBlocks) -> list[Effect]:
        """Have consecutive final blocks sent from the disk."""
        first, last = message.height, min(message.last, self.replica.head.height)
        if not 1 <= first <= last:
            return []
        frame = wire.encode(m.BlockRange(first))
        return [SendBlocks(sender, frame, first, last, BLOCKS_REPLY_BYTES_MAX)]

    def _compare(self, sender: NodeId, beat: m.Heartbeat, now: float) -> list[Effect]:
        """Ask a neighbour with another final block than ours for its blocks: they prove a fork, or it lies."""
        ours = self._finals.get(beat.final_height)
        if ours is None or not beat.final_hash or ours[0] == beat.final_hash:
            return []
        return self._inquire(sender, beat.final_height, now)

    def _inquire(self, sender: NodeId, height: int, now: float) -> list[Effect]:
        if now < self._inquired_at + CATCH_UP_TIMEOUT_S or self._proved:
            return []
        self._inquired_at = now
        return [Send(sender, wire.encode(m.GetBlocks(max(1, height - FORK_BLOCKS), height)))]

    def _examine(self, blocks: Sequence[FinalBlock]) -> list[Effect]:
        """Look whether blocks prove that the ledger has forked. Then this site agrees to nothing more."""
        head = self.replica.head
        overlapping = any(Header.decode(final.block.header).height <= head.height for final in blocks)
        if self._proved or not overlapping:
            return []
        fork = find_fork(blocks, self._finals.get, ledger_id=self._ledger_id, terms_of=head.terms_of)
        if fork is None:
            return []
        return self._raise_alarm(f"the ledger has forked: a quorum finalized two blocks at height {fork.height}", fork)

    def _raise_alarm(self, what: str, fork: Fork | None) -> list[Effect]:
        """Stop agreeing for good, keep training, keep the proof (ledger.md 1.6)."""
        self._fork = self.consensus.halted = what
        self._proved = fork is not None
        hint = "more members have lied than the swarm tolerates; `swarm ledger forks` names them; found a successor"
        effects: list[Effect] = [Report("fork", f"{what} ({hint})", level="error")]
        if fork is not None:
            effects.append(Publish(f"fork-{fork.height:08d}", codec.encode(fork.theirs)))
        return effects

    def _on_range(self, sender: NodeId, message: m.BlockRange, payload: Buffer, now: float) -> list[Effect]:
        """Take in blocks that were asked for, and follow them as far as they follow on what is here."""
        blocks = parted(payload)
        if self.catchup.arrived(sender, message.height, blocks, now):
            return self._follow(now) + self._catch_up(now)
        if message.height > self.replica.head.height + 1:
            return []
        # Too late, or of a height that is final here: it may help, or show that another block is final elsewhere.
        return self._on_blocks(
            [self._open_final(height, data) for height, data in enumerate(blocks, message.height)], now
        )

    def _follow(self, now: float) -> list[Effect]:
        """Follow what has arrived. Blocks that no certificate covers wait for those above them, whoever sends these."""
        effects: list[Effect] = []
        if self._halted or self._fork:
            return effects
        waiting: list[tuple[NodeId, int, FinalBlock]] = []
        for piece in self.catchup.pieces(self.replica.head.height):
            try:
                for height, data in enumerate(piece.blocks, piece.first):
                    waiting.append((piece.node, height, self._open_final(height, data)))
                effects += self._on_blocks([final for _, _, final in waiting], now)
            except Reject as reason:
                return effects + self._doubt([*(node for node, _, _ in waiting), piece.node], reason.message, now)
            waiting = [one for one in waiting if one[1] > self.replica.head.height]
        if self.catchup.stuck(self.replica.head.height, now):
            effects += self._doubt([node for node, _, _ in waiting], "blocks that nothing certifies", now)
        return effects

    def _open_final(self, height: int, data: bytes) -> FinalBlock:
        final = codec.decode(data, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
        if Header.decode(final.block.header).height != height:
            raise Reject(f"couldn't follow block {height}: another was sent in its place")
        return final

    def _doubt(self, nodes: Sequence[NodeId], text: str, now: float) -> list[Effect]:
        """Blocks do not hold: throw them away, and charge who sent them if it is known who that was."""
        liar = self.catchup.failed(self.replica.head.height, nodes, now)
        if liar is None:
            said = f"blocks from several members do not hold: asking one at a time ({text})"
            return [Report("catch_up_doubt", said, level="warning")]
        return self._blame(liar, text, now)

    def _on_blocks(self, blocks: Sequence[FinalBlock], now: float) -> list[Effect]:
        """Follow consecutive blocks that somebody sent, across the ends of epochs."""
        top = Header.decode(blocks[-1].block.header).height if blocks else 0
        linked = 0 < top <= self.replica.trusted_height
        effects = self._examine(blocks)
        if self._fork:
            return effects
        effects += self._obey(self.consensus.adopt_final(blocks, now, linked=linked))
        while self.consensus.ended:
            effects += self._turn_epoch(now)
            # What has become final so far is to be written whatever comes after it.
            with contextlib.suppress(Reject):
                effects += self._obey(self.consensus.adopt_final(blocks, now, linked=linked))
        self._grew_at = min(self._grew_at, now - CATCH_UP_AFTER_S)
        return effects

    def _inspected(self, event: Inspected) -> list[Effect]:
        self._inspecting.discard(event.digest)
        self._verdicts[event.digest] = event.problem
        if not event.problem:
            return []
        text = f"an update may not be averaged: {event.problem}"
        return [Report("update_unusable", text, {"digest": event.digest.hex()}, level="warning")]

    # --- settling: after every event, ask everyone what should happen next ---------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        effects = self._turn_epochs(now)
        effects += self._speak_up(now)
        effects += self._ask_again(now)
        effects += self._part(now)
        effects += self._give_up(now)
        effects += self.transfer.step(now)
        effects += self._read_arrivals(now)
        effects += self._keep_up(now)
        if not self._halted:
            effects += self._advance(now)
            effects += self._govern(now)
            effects += self._press_charges(now)
        if not self._halted and not self._fork:
            try:
                effects += self._obey(self.consensus.step(now))
                effects += self._turn_epochs(now)
            except LedgerError as error:
                effects += self._raise_alarm(error.message, None)
        effects += self._absorb(now)
        effects += self._cosign(now)
        effects += self._beat(now)
        effects.append(WakeAt(self._next_wake(now)))
        return effects

    def _read_arrivals(self, now: float) -> list[Effect]:
        """Have every update that is now complete read through before it counts as available."""
        effects: list[Effect] = []
        for sender, fault in self.transfer.take_faults():
            effects += self._blame(sender, fault, now)
        self.transfer.take_completed()
        head = self.replica.head
        wanted = [Digest(p.body.update_digest) for (r, _), p in sorted(head.contributions.items()) if r >= head.round]
        for _, body in self.replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            if body.round >= head.round:
                wanted.append(Digest(body.update_digest))
        for digest in wanted:
            if self.transfer.has(digest) and digest not in self._verdicts and digest not in self._inspecting:
                self._inspecting.add(digest)
                effects.append(Inspect(digest, self._charter.model_bytes))
        return effects

    def _absorb(self, now: float) -> list[Effect]:
        """Follow what has become final: tell people, drop what nobody will ask for again."""
        effects: list[Effect] = []
        for header, block in self.replica.take_final():
            effects += self._tell(header, block, now)
            self._take_head(header, block, now)
        if effects:
            self._grew_at = now
            effects += self._advance(now)
            effects += self._tidy()
            head = self.replica.head
            effects.append(Prune(self.consensus.final_view, head.heads[self._me].seq if self._me in head.heads else 0))
            if head.height >= self._snapshot_height + self._snapshot_blocks:
                effects.append(self.snapshot())
        return effects

    def _notice(self, now: float) -> None:
        """Remember who contradicted itself, and when it is this site's turn to put that on record."""
        head = self.replica.head
        found = [from_contradiction(one, self._convened) for one in self.consensus.evidence[self._evidence_read :]]
        self._evidence_read = len(self.consensus.evidence)
        found += [from_entries(author, *pair) for author, pair in self.replica.forks.items()]
        for body in found:
            charge = None if body is None else (NodeId(body.culprit), body.rule)
            if body is None or charge is None or charge[0] == self._me or charge in self._charges:
                continue
            if charge not in head.accused and _provable(body, head):
                # Everybody notices at about the same time. One after the other has the chance to say so.
                turn = ((self._index or 0) - (head.terms.index(charge[0]) or 0) - 1) % len(head.terms.members)
                self._charges[charge] = (now + EVIDENCE_TURN_S * turn, body)

    def _press_charges(self, now: float) -> list[Effect]:
        """Put on record that a member contradicted itself, unless somebody else has or is about to."""
        self._notice(now)
        effects: list[Effect] = []
        head = self.replica.head
        said = [*(body for _, body in self.replica.bodies(e.Evidence)), *(say.body for say in self._unsaid)]
        pending = [(body.culprit, body.rule) for body in said if isinstance(body, e.Evidence)]
        for charge, (due, body) in sorted(self._charges.items()):
            if charge in head.accused:
                del self._charges[charge]
            elif now >= due and charge not in pending:
                # Judged when it is to be said, not with every event until then: it costs two signatures.
                if _provable(body, head):
                    effects += self._say(Say(e.EVIDENCE, body), now)
                else:
                    del self._charges[charge]
        return effects

    def _advance(self, now: float) -> list[Effect]:
        if not self._speaks or self._orphans:
            return []
        return self._do(self.round.advance(self.replica.head, self._mine(), self.transfer.has, now), now)

    def _asked(self, event: Asked, now: float) -> list[Effect]:
        """Answer a local question; some ask this site to say something to the others."""
        word, *rest = event.question.split()
        try:
            match word, rest:
                case "propose", [change, invite, days]:
                    opened = codec.decode(bytes.fromhex(change), Change, limit=e.ENTRY_BYTES_MAX)
                    invited = bytes.fromhex(invite.strip("-"))
                    say = governance.propose(self.replica.head, self._me, opened, invited, int(days), int(now * 1000))
                case "invite", [data]:
                    found = codec.decode(bytes.fromhex(data), Invite, limit=INVITE_BYTES_MAX)
                    self._guests[node_id(found.guest)] = found
                    return [self._reach(), Answer(event.ticket, {"said": "invite"})]
                case "vote", [prefix, answer]:
                    say = governance.vote(self.replica.head, prefix, answer == "yes")
                case _:
                    return [Answer(event.ticket, {"error": f"couldn't answer {event.question[:40]!r}: unknown"})]
        except (Reject, ValueError) as error:
            return [Answer(event.ticket, {"error": str(error)})]
        if not self._speaks or self._halted:
            why = "this site is not a member" if self._index is None else "it does not hold its keys of today"
            why = self._halted or why
            return [Answer(event.ticket, {"error": f"couldn't say that to the others: {why}"})]
        return [*self._say(say, now), Answer(event.ticket, {"said": say.body.__class__.__name__})]

    def _govern(self, now: float) -> list[Effect]:
        """Say to open changes of terms what this site's standing rule says."""
        head = self.replica.head
        if not head.motions or not self._speaks:
            return []
        return self._do(governance.standing_votes(head, self._me, self._mine(), self._approve), now)

    def _take_head(self, header: Header, block: Block, now: float) -> None:
        """Remember a final block, and let the cosigners know of it: what is written after it is durable."""
        self._finals[header.height] = header.hash, header.epoch
        self._finals.pop(header.height - HASHES_KEPT, None)
        commits = any(e.decode_entry(leaf).kind == e.ROUND_COMMIT for leaf in block.leaves)
        self.cosigners.final(header.size, header.root, time_ms=header.time_ms, commits=commits, now=now)

    def _cosign(self, now: float) -> list[Effect]:
        """Vouch for the log's head before the world outside, and publish what a quorum vouches for."""
        if self._halted or self._fork:
            return []
        effects: list[Effect] = []
        made = self.cosigners.sign(now)
        if made is not None:
            effects += self.engine.broadcast(m.Cosign(made))
        reminder, welcome = self.cosigners.remind(now), self.engine.welcome()
        if reminder and welcome:
            to = self._rng.choice(welcome)
            effects += [Send(to, wire.encode(m.Cosign(held))) for held in reminder]
        note = self.cosigners.publish()
        if note is not None:
            effects.append(Publish(CHECKPOINT, note))
        for found in self.cosigners.contradictions():
            text = f"two heads of one log: {found.text}"
            effects.append(Report("cosignatures_contradict", text, {"peer": found.member}, level="error"))
        return effects

    def _on_cosign(self, sender: NodeId, message: m.Cosign, frame: bytes) -> list[Effect]:
        """Take in a cosignature and pass it on."""
        if not self.cosigners.admit(message.cosignature):
            return []
        signer = message.cosignature.key
        origin_ = next((seat.node for seat in self._terms.members if seat.cosign_key == signer), sender)
        return self.engine.relay(frame, origin_, sender)

    def _recall(self, now: float) -> None:
        """Let the round know which evaluations are on record already, and the cosigners which blocks are."""
        for header, block in self.replica.take_final():
            self._take_head(header, block, now)
            for leaf in block.leaves:
                self._remember(e.decode_entry(leaf))

    def _remember(self, entry: e.Entry) -> None:
        if entry.author == self._me:
            self.round.said(decode_body(entry))

    def _tell(self, header: Header, block: Block, now: float) -> list[Effect]:
        """Put what a new final block means into words."""
        effects: list[Effect] = []
        for leaf in block.leaves:
            entry = e.decode_entry(leaf)
            self._remember(entry)
            if entry.kind == e.ROUND_CLOSE:
                close = codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX)
                missing = [self._name(NodeId(node)) for node in close.missing]
                self._closed = {r: self._closed[r] for r in list(self._closed)[1 - CLOSED_SHOWN :]} | {
                    close.round: missing
                }
                without = f", without {', '.join(missing)}" if missing else ""
                text = f"round {close.round} closed with {_sites(len(close.included))}{without}"
                effects.append(Report("round_closed", text, {"round": close.round, "missing": ",".join(missing)}))
            elif entry.kind == e.EVIDENCE:
                evidence = codec.decode(entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
                text = f"on record, with proof: {describe(evidence, self._name)}"
                effects.append(Report("evidence", text, {"culprit": evidence.culprit.hex()}, level="error"))
            elif entry.kind == e.ROUND_COMMIT:
                commit = codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX)
                text = f"round {commit.round} committed: {_sites(commit.attests)} with {commit.model_digest.hex()[:12]}"
                values: dict[str, str | int | float | bool] = {
                    "round": commit.round,
                    "model": commit.model_digest.hex(),
                    "height": header.height,
                }
                effects.append(Report("round_committed", text, values))
                self._committed_at.append(now)
        final = Report("block_final", f"block {header.height} is final", {"height": header.height}, level="debug")
        return [final, *effects]

    def _name(self, node: NodeId) -> str:
        return self._names.get(node) or ("this site" if node == self._me else node.hex()[:8])

    def _tidy(self) -> list[Effect]:
        """Forget blobs that belong to no round anybody may still need."""
        keep = self.round.keep(self.replica.head)
        for _, body in self.replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            keep.add(Digest(body.update_digest))
        gone = [digest for digest in self.transfer.known() if digest not in keep]
        self._verdicts = {digest: problem for digest, problem in self._verdicts.items() if digest not in gone}
        return self.transfer.forget(gone) if gone else []

    def _beat(self, now: float) -> list[Effect]:
        step, steps = self._step
        self.peers.note_self(round_=self.round.round, phase=self.round.phase, step=step, steps=steps, now=now)
        if not self.engine.beat_due(now):
            return []
        beat = self._heartbeat(now)
        return self.engine.tick(now, beat, m.FeedHeads(self.replica.feed_heads()))

    def _next_wake(self, now: float) -> float:
        wakes = [
            self.engine.next_wake(),
            None if self._halted or self._fork else self.cosigners.next_wake(),
            None if self._halted or self._fork else self.consensus.next_wake(now),
            self.transfer.next_wake(now),
            self.replica.next_wake(now),
            None if self._halted or self._fork else self.catchup.next_wake(),
            self._ask_at if self.consensus.muted and self._ask_at > now else None,
            self._farewell_until if self._farewells else None,
            self._give_up_at or None,
            self.round.next_wake(now),
            self.peers.next_silence(now),
            min((due for due, _ in self._charges.values() if due > now), default=None),
        ]
        return max(now, min(wake for wake in wakes if wake is not None))

    # --- turning wishes into effects ----------------------------------------------------------------------------

    def _do(self, actions: Sequence[Action], now: float) -> list[Effect]:
        effects: list[Effect] = []
        for action in actions:
            match action:
                case Say():
                    effects += self._say(action, now)
                case Fetch():
                    effects += self._fetch(action.digest, action.size, action.hints, now)
                case _:
                    if isinstance(action, Finished):
                        # Whoever waits for this node to be done, to leave itself, should not wait for the next beat.
                        self.engine.hurry()
                    effects.append(action)
        return effects

    def _say(self, say: Say, now: float) -> list[Effect]:
        """Append to my own feed: durable before anybody hears it, or a crash could make me say something else."""
        if self._halted or not self._speaks or self._orphans:
            return []
        if self.consensus.muted:
            self._unsaid.append(say)  # What it says next must follow on what it said before, wherever that is.
            return []
        place = self.replica.next_entry(self._me)
        if place.seq >= self.replica.head.heads[self._me].seq + PENDING_PER_AUTHOR_MAX:
            return []  # Nobody would take it in before some of those that wait are ordered.
        entry = e.sign_entry(
            self._identity.id_key,
            ledger_id=self._ledger_id,
            author=self._me,
            kind=say.kind,
            seq=place.seq,
            prev=place.prev,
            ts_ms=int(now * 1000),
            body=say.body,
        )
        leaf = entry.encode()
        if self.replica.admit(leaf, now) is None:
            # Somebody else speaks with this identity: a cloned disk, or a folder restored from an old backup. Saying
            # anything more could only make this site contradict itself.
            self._halted = "this node's identity has been used elsewhere"
            return [Report("identity_conflict", f"{self._halted}: this node stops speaking", level="error")]
        record = Record(RECORD_ENTRY, entry.seq, leaf)
        return [Persist((record,)), *self.engine.broadcast(m.EntryMessage(leaf))]

    def _obey(self, outputs: Sequence[Output]) -> list[Effect]:
        effects: list[Effect] = []
        for output in outputs:
            match output:
                case Durable():
                    effects.append(Persist(output.records))
                case ToAll():
                    effects += self.engine.broadcast(_message(output.message))
                case ToOne():
                    node = self._convened.members[output.to].node
                    if node in self.engine.neighbours and self.peers.members[node].welcome:
                        effects.append(Send(node, wire.encode(_message(output.message))))
                case Note():
                    effects.append(Report(output.event, output.text, level=output.level))
        return effects

    def _fetch(self, digest: Digest, size: int, hints: tuple[NodeId, ...], now: float) -> list[Effect]:
        """Only what the charter's model can be is ever fetched: a lie about the size costs nothing."""
        if size != self._charter.model_bytes or self.transfer.has(digest):
            return []
        return self.transfer.want(digest, size, now, [node for node in hints if node in self.engine.neighbours])

    def _catch_up(self, now: float) -> list[Effect]:
        """Ask neighbours that are ahead for the blocks this one lacks."""
        height = self.replica.head.height
        tips = {node: self.peers.members[node].final_height for node in self.engine.welcome()}
        if self._halted or self._fork:
            return []
        # One block behind for a moment is what every member is while votes travel.
        behind = max(tips.values(), default=0) > height and now - self._grew_at >= CATCH_UP_AFTER_S
        if not behind and not self.catchup.busy:
            return []
        if self._catch_up_mode == FAST and tips:
            # What most of them say: a few that claim to be far ahead cannot make this site believe more.
            middle = sorted(tips.values())[(len(tips) - 1) // 2]
            self.replica.trusted_height = max(self.replica.trusted_height, middle - FAST_CHECKED_BLOCKS)
        asks = self.catchup.asks(height, tips, now)
        return [Send(ask.node, wire.encode(m.GetBlocks(ask.first, ask.last))) for ask in asks]

    def _keep_up(self, now: float) -> list[Effect]:
        """See to what is overdue while this site catches up."""
        due = self.catchup.next_wake()
        if due is None or now < due:
            return []
        try:
            return self._follow(now) + self._catch_up(now)
        except LedgerError as error:
            return self._raise_alarm(error.message, None)

    def _blame(self, sender: NodeId, text: str, now: float) -> list[Effect]:
        self.peers.fault(sender, now)
        name = self.peers.members[sender].name
        return [Report("peer_fault", f"{name} sent something unacceptable: {text}", {"peer": name}, level="warning")]

    def _mine(self) -> list[msgspec.Struct]:
        return [*(p.body for p in self.replica.own(self._me)), *(say.body for say in self._unsaid)]

    def _member(self, node: NodeId) -> int:
        index = self._terms.index(node)
        assert index is not None, "only members are asked about agreement"
        return index

    def _paused(self, now: float) -> str:
        """Say why nothing can become final, if so."""
        terms = self._terms
        present = sum(not self.peers.absent(seat.node, now) for seat in terms.members)
        if present >= terms.quorum:
            return ""
        return f"{present} of {len(terms.members)} sites present, {terms.quorum} needed"

    def _member_status(self, node: NodeId, now: float) -> dict[str, object]:
        member, head = self.peers.members[node], self.replica.head
        placed = head.contributions.get((head.round, node))
        received, sent = self.transfer.traffic(node)
        index = head.terms.index(node)
        return {
            "member": index is not None,
            "endpoint": "" if index is None else head.terms.members[index].endpoint,
            "name": member.name,
            "node": node.hex(),
            "me": node == self._me,
            "linked": member.welcome or node == self._me,
            "absent": self.peers.absent(node, now),
            "refused": member.refused or member.refuses,
            "round": member.round,
            "phase": phase_name(member.phase),
            "step": member.step,
            "steps": member.steps,
            "contributed": placed is not None,
            "update": None if placed is None else self._update_progress(placed.body),
            "received_bytes": received,
            "sent_bytes": sent,
            "moved_s": round(now - member.moved_at, 1),
            "clock_offset_ms": member.clock_offset_ms,
        }

    def _update_progress(self, body: e.Contribution) -> tuple[int, int]:
        """Return (bytes held, size) of an update."""
        digest = Digest(body.update_digest)
        if self.transfer.has(digest):
            return body.update_bytes, body.update_bytes
        return self.transfer.progress(digest) or (0, body.update_bytes)

    def _eta_s(self) -> float | None:
        """Return the seconds that the remaining rounds will take at the pace of the last ones, if there is one."""
        head = self.replica.head
        if len(self._committed_at) < 2 or head.complete:
            return None
        pace = (self._committed_at[-1] - self._committed_at[0]) / (len(self._committed_at) - 1)
        return round(pace * (head.terms.round.rounds - head.committed.round), 1)


def _provable(body: e.Evidence, head: State) -> bool:
    """Whether the ledger would take an accusation: not when its epoch is long past."""
    try:
        judge(body, head.ledger_id, (head.terms, *head.past))
    except Reject:
        return False
    return True


def _sites(count: int) -> str:
    return f"{count} site{'' if count == 1 else 's'}"


def _message(said: Block | Vote | Certificate | Status | FinalBlock) -> m.Message:
    """Wrap what consensus says as a message."""
    match said:
        case Block():
            return m.Propose(said)
        case Vote():
            return m.CastVote(said)
        case Certificate():
            return m.Certify(said)
        case Status():
            return m.Standing(said)
        case FinalBlock():
            return m.Blocks((said,))
