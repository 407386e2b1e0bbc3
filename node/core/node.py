"""The node: gossip, ledger and round joined into one pure machine.

This is the whole logic of a peer. The runtime feeds it from sockets, disk and trainer; the simulator from a seeded
world; both run exactly this. It routes events to their owner, turns what owners want into effects in the right order
(durable first), and asks everyone again what should happen next. It holds no policy of its own.
"""

from __future__ import annotations

import contextlib
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import msgspec

from gossip import messages as m
from gossip import wire
from gossip.catchup import FULL
from gossip.engine import Engine
from gossip.peers import Peers
from gossip.protocol import CAPABILITIES, PROTOCOL, version_text
from gossip.transfer import Transfer
from node import governance
from node.core.agreement import AGREEMENT, Agreement
from node.core.appraisal import Appraisal
from node.core.charges import Charges
from node.core.forkwatch import ForkWatch
from node.core.myself import Myself
from node.core.pacing import Pacing
from node.core.pursuit import Pursuit
from node.core.reception import Reception
from node.core.telling import Telling, blame
from node.core.updates import Updates
from node.core.voice import Voice
from node.core.vouching import Vouching
from swarm import codec
from swarm.charter import Charter, SignedCharter
from swarm.errors import LedgerError, Reject
from swarm.gossip_round import GossipRound
from swarm.identity import Identity, Verify, verify
from swarm.invite import INVITE_BYTES_MAX, Invite
from swarm.ledger import entry as e
from swarm.ledger import snapshot
from swarm.ledger.block import BLOCK_BYTES_MAX, Block, FinalBlock, Header
from swarm.ledger.consensus import Consensus, Timing
from swarm.ledger.cosign import Cosigners
from swarm.ledger.replica import Replica
from swarm.ledger.state import State, best_of, decode_body, noise_words, outcome
from swarm.ledger.tlog import origin
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Answer,
    Appraised,
    Asked,
    Audited,
    BlobRead,
    Buffer,
    Checked,
    Contact,
    Digest,
    Effect,
    Evaluated,
    Event,
    Finished,
    Inspected,
    LinkChanged,
    Masked,
    Mixed,
    NodeId,
    Parted,
    Prune,
    Received,
    Report,
    Resting,
    Send,
    Snapshot,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    WakeAt,
    Woke,
)
from swarm.masked_round import MaskedRound
from swarm.masking.statements import Keys, Reveal
from swarm.round import Action, Fetch, Phase, Round, Say
from swarm.routed_round import FoldRound, ShardedRound
from swarm.terms import Change
from topologies.plan import SchedulePlan

SOFTWARE = "swarm-node/0.1"

BULK = (m.Have, m.Want, m.GetLeaves, m.Leaves, m.Missing)
"""Messages about moving blobs. One that completes none, and shows nobody at fault, changes nothing else."""

SNAPSHOT_BLOCKS = 256
"""Between snapshots: so many blocks a start after a crash reads again, in a tenth of a second."""


class Node:
    """One peer's machine. `disk_free` tells the free bytes, for heartbeats.

    A site that is not a member yet, or not any more, follows the ledger and says nothing; `sponsors` are whom it hears
    it from besides the members of the charter. `successor` are the keys this site has asked the members to accept in
    place of `identity`; from the epoch on in which they stand, it signs with them. With `relays` it forwards, where the
    charter allows relays, what members that only dial out have sealed for one another. `decode` and `verify` are what
    they are unless many nodes share a process: what follows from bytes alone need not be found again by each of them.
    `draw` returns 32 bytes that nobody could guess, for masks: without it there is no node where the charter asks for
    those. `data_digest` is what contributions say of the site's data: the shipped node says zeros, for the reason that
    is told at `swarm.ledger.entry.Contribution`; simulations tell their own.
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
        relays: bool = True,
        min_cell: int = 0,
        decode: Callable[[bytes], m.Message] = wire.decode,
        verify: Verify = verify,
        draw: Callable[[], bytes] | None = None,
    ) -> None:
        charter, ledger_id = signed.charter, signed.ledger_id
        self._signed, self._charter, self._ledger_id = signed, charter, ledger_id
        self._approve = approve
        self._disk_free, self._decode = disk_free, decode
        me = identity.node if me is None else me
        hello = m.Hello(
            protocol=PROTOCOL,
            software=SOFTWARE,
            capabilities=CAPABILITIES,
            node=me,
            charter=ledger_id,
            task=code_digest,
            layout=layout_digest,
            answer=True,
        )
        self.replica = replica = Replica(signed, self, verify)
        terms = replica.head.terms
        self.peers = peers = Peers(terms, me, now, sponsors)
        self.engine = engine = Engine(
            terms, me, hello, peers, rng, sponsors, needs(charter), relayed=charter.relayed, relays=relays
        )
        self.transfer = Transfer(me=me, rng=rng)
        if charter.round.mixing == "gossip":
            plan = SchedulePlan.of(charter, ledger_id)
            self.round: Round = GossipRound(
                charter, me, code_digest=code_digest, data_digest=data_digest, plan=plan, witness=self
            )
        elif charter.route is not None:
            kind = ShardedRound if charter.cuts else FoldRound
            self.round = kind(charter, me, code_digest=code_digest, data_digest=data_digest, workshop=self)
        elif charter.masks:
            assert draw is not None, "masks are made of what nobody could guess"
            self.round = MaskedRound(
                charter, me, code_digest=code_digest, data_digest=data_digest, workshop=self, draw=draw
            )
        else:
            self.round = Round(charter, me, code_digest=code_digest, data_digest=data_digest)
        self.round.withhold_below(min_cell)
        self.cosigners = Cosigners(log=origin(charter.name, ledger_id), key=identity.cosign_key, verify=verify)
        self._who = who = Myself(me, identity, successor, replica)
        timing = Timing(t0_s=charter.ledger.t0_ms / 1000)
        self._agreement = Agreement(who, replica, engine, peers, rng, ledger_id=ledger_id, timing=timing, verify=verify)
        self._voice = Voice(who, replica, engine, peers, self._agreement, ledger_id)
        self._watch = ForkWatch(replica, self._agreement, ledger_id)
        self._charges = Charges(who, replica, self._agreement)
        self._reception = Reception(who, replica, engine, invites)
        self._pursuit = Pursuit(
            replica, engine, peers, rng, mode=catch_up, now=now, adopt=self._adopt, resigned=lambda: self._watch.alarm
        )
        self._pacing = Pacing(charter, replica, peers)
        self._updates = Updates(replica, engine, peers, self.transfer, charter)
        self._appraisal = Appraisal(charter, me, ledger_id, min_cell)
        self._vouching = Vouching(who, engine, self.cosigners, rng)
        self._telling = Telling(who, replica, peers, self.transfer)
        self._snapshot_blocks, self._snapshot_height = snapshot_blocks, 0
        self._step = (0, 0)
        self._stepped_last, self._steps_usual = (0, 0), 0  # (round, step); how many steps the last training made
        self._resting = ""
        self._started = False
        self._advanced: _Advanced | None = None
        self._ended: Finished | None = None
        self._paused = ""
        self._gaps: Mapping[str, Sequence[int]] | None = None
        self._restless = True  # something was done when everyone was asked last, so there may be more to do
        self._woken_at = 0.0  # the shell has been asked to wake this node then
        self._admitted = 0, 0  # entries and forks, as of the last time everyone was asked

    @property
    def consensus(self) -> Consensus:
        """The consensus of the epoch at hand."""
        return self._agreement.consensus

    @property
    def _resigned(self) -> str:
        """Why this node takes part no more, if so. After an alarm it does not even follow what others agree on."""
        return self._voice.halted or self._watch.alarm

    # --- the seam -----------------------------------------------------------------------------------------------

    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        """Advance by one event. What a peer sent can cost that peer; it never raises here."""
        if not self._started and isinstance(event, Resting):
            self._rest(event)
        if not self._started and not isinstance(event, Started):
            return []
        effects: list[Effect] = []
        if not isinstance(event, (Received, Woke)):
            self._advanced = None
        if isinstance(event, (Trained, Mixed, Parted, Inspected)):
            self._updates.named()
        match event:
            case Started():
                effects += self._start(event, now)
            case Received():
                effects += self._receive(event, now)
            case LinkChanged():
                effects += self._link(event, now)
            case Stepped():
                self._stepped(event)
            case Trained():
                effects += self._trained(event, now)
            case Evaluated():
                effects += self._do(self.round.evaluated(event), now)
            case Appraised():
                effects += self._do(self._appraisal.appraised(event, now), now)
            case Mixed():
                effects += self._telling.mixed(event)
                effects += self._do(self.round.mixed(event, self.replica.head, now), now)
            case Parted():
                effects += self._do(self.round.parted(event, self.replica.head), now)
            case Masked():
                effects += self._do(self.round.masked(event, self.replica.head, now), now)
            case BlobRead():
                effects += self._do(self.round.blob_read(event, now), now)
            case Inspected():
                effects += self._updates.inspected(event)
            case Checked():
                effects += self.transfer.on_checked(event, now)
            case Stored():
                effects += self._updates.made(event)
            case StoreFailed():
                text = f"couldn't store a blob: {event.why}"
                effects.append(Report("store_failed", text, {"digest": event.digest.hex()}, level="error"))
                effects += self.transfer.forget([event.digest]) if event.lost else []
            case Resting():
                self._rest(event)
            case Audited():
                effects += self._pursuit.audited(event)
                effects += self._watch.sound(event.problem) if event.problem else ()
            case Woke():
                pass
            case Asked(question="status"):
                return [Answer(event.ticket, self.status(now))]
            case Asked():
                effects += self._asked(event, now)
        if isinstance(event, Received) and self._uneventful(event, effects, now):
            self.peers.heard(self._who.node, now)
        else:
            effects += self._settle(now)
        return effects

    def _uneventful(self, event: Received, effects: Sequence[Effect], now: float) -> bool:
        """Whether what a peer has sent changes no decision, as most does: whoever waits for the time is woken anyway.

        A vote is one of many until it makes a quorum, an offer is only for `Transfer`, a heartbeat puts off the time at
        which somebody counts as silent. In a swarm of hundreds that is nearly all there is to hear.
        """
        kind = wire.kind(event.frame)
        if kind is m.ChunkHeader:
            return self.transfer.quiet()
        if self._restless or now >= self._woken_at or self.transfer.due(now):
            return False
        if kind in BULK:
            return self.transfer.quiet()
        if effects:
            return False
        if kind is m.CastVote:
            wake = None if self._watch.alarm else self.consensus.next_wake(now)
            return not self.consensus.ended and (wake is None or wake >= self._woken_at)
        if kind is m.EntryMessage:
            return (self.replica.admitted, len(self.replica.forks)) == self._admitted
        return kind is m.Heartbeat

    def _rest(self, event: Resting) -> None:
        """Train nothing while there is a reason for it, and let the others know: they need not wait for this site."""
        self._resting, self._updates.frugal = event.why, event.frugal
        self.round.rest(bool(event.why))
        self._appraisal.rest(bool(event.why))
        self.engine.hurry()

    @property
    def _phase(self) -> Phase:
        """What this site is doing, as others are told."""
        return Phase.PAUSED if self._resting and self.round.phase != Phase.DONE else self.round.phase

    def snapshot(self) -> Snapshot:
        """Return the state as it is now, for the shell to start the next process from."""
        settled = self.replica.settled
        self._snapshot_height = settled.height
        return Snapshot(settled.height, settled.encode())

    @property
    def forked(self) -> bool:
        """Whether the ledger is forked, as far as this node knows, or somebody else speaks for this site."""
        return bool(self._resigned)

    def round_of(self, digest: Digest) -> int:
        """Return the round that a blob is an update for, or the model of, as far as is known; else the open one."""
        head = self.replica.head
        if digest == head.committed.model:
            return head.committed.round
        offered = [(number, placed.body) for (number, _), placed in head.contributions.items()]
        for _, body in self.replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            offered.append((body.round, body))
        for number, body in offered:
            if digest == body.update_digest or any(digest == piece for piece, _ in body.slices):
                return number
        return head.round

    @property
    def ended(self) -> Finished | None:
        """How the run has ended for this site, unless it goes on."""
        return self._ended

    def paused(self, now: float) -> str:
        """Say why the run cannot go on for now, if so: too few sites are there."""
        return "" if self.replica.head.complete else self._telling.paused(now)

    def account(self, gaps: Mapping[str, Sequence[int]]) -> None:
        """Learn, once the run is done, whose work is missing for which rounds: only the whole ledger says that."""
        self._gaps = gaps

    def everyone_has_finished(self) -> bool:
        """Whether, as far as this node has heard, every member is done: nobody needs it any more."""
        return all(member.phase == Phase.DONE for member in self.peers.members.values())

    def status(self, now: float) -> dict[str, object]:
        """Return what people ask: where the ledger, the round and each member stand."""
        head = self.replica.head
        own = None if head.exchange is None else head.exchange.models.get(self._who.node)
        best = best_of(head)
        return {
            "swarm": self._charter.name,
            "me": self._telling.name(self._who.node),
            "ledger_id": self._ledger_id.hex(),
            "height": head.height,
            "entries": head.size,
            "root": head.frontier.root().hex(),
            "epoch": head.terms.epoch,
            "member": self._who.index is not None,
            "rounds": head.last,
            "round": head.round,
            "committed": head.committed.round,
            "model": head.committed.model.hex() if head.committed.model_bytes else None,
            "best": None if best is None else best.round,
            "own_model": None if own is None else own.model.hex(),
            "eta_s": self._telling.eta_s(),
            "motions": governance.motions(head),
            "policy": {name: getattr(head.terms.round, name) for name in head.terms.round.__struct_fields__},
            "closed": self._telling.closed(),
            "likeness": self._telling.likeness(),
            "masks": self._telling.masks(),
            "site_noise": noise_words(head),
            "phase": self._phase.name.lower(),
            "resting": self._resting,
            "protocol": version_text(PROTOCOL),
            "software": SOFTWARE,
            "refused": self._telling.refused(),
            "appraisal": self._appraisal.status(),
            "outcome": self._outcome(now)[0],
            "reason": self._outcome(now)[1],
            "gaps": None if self._gaps is None else {name: list(rounds) for name, rounds in self._gaps.items()},
            "paused": self.paused(now),
            "halted": self._resigned,
            "quorum": head.terms.quorum,
            "tolerance": head.terms.fault_tolerance(),
            "members": [self._telling.member(node, now) for node in self.peers.members],
        }

    # --- what the replica asks (swarm.ledger.replica.Witness) --------------------------------------------------

    def holds(self, digest: Digest) -> bool:
        """Whether a blob is here, complete."""
        return self.transfer.has(digest)

    def usable(self, digest: Digest) -> bool | None:
        """Whether an update is held and fit to be averaged; None while it is not known."""
        return self._updates.usable(digest)

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of an update are arriving, or it has arrived and is being read through."""
        return self._updates.moving(digest, now)

    def arrived(self, author: NodeId, body: e.Contribution) -> bool:
        """Whether as much of an update is held as this member needs on the charter's route."""
        return all(self.transfer.has(digest) for digest, _ in self.round.pieces(author, body, self.replica.head))

    def norm(self, digest: Digest) -> float:
        """Return the L2 norm of what was found usable."""
        return self._updates.norm(digest)

    def partials(self) -> Iterator[tuple[NodeId, e.Partial]]:
        """Yield what members have said to have computed, and the log does not have yet."""
        for author, body in self.replica.bodies(e.Partial):
            assert isinstance(body, e.Partial)
            yield author, body

    def deals(self) -> Iterator[tuple[NodeId, e.MaskDeal]]:
        """Yield the deals of shares that members have named, and the log does not have yet."""
        for author, body in self.replica.bodies(e.MaskDeal):
            assert isinstance(body, e.MaskDeal)
            yield author, body

    def reveals(self) -> Iterator[tuple[NodeId, Reveal]]:
        """Yield what members have revealed, and the log does not have yet."""
        for author, body in self.replica.bodies(Reveal):
            assert isinstance(body, Reveal)
            yield author, body

    def quorate(self, now: float) -> bool:
        """Whether enough members are there for anything to become final."""
        terms = self._who.terms
        return sum(not self.peers.absent(seat.node, now) for seat in terms.members) >= terms.quorum

    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        """Whether a deal for the roster at hand has been read and is one; None while it has not been read."""
        return self.round.dealt(node, digest)

    def stuck(self) -> bool:
        """Whether the charter's route does not seem to lead the closed round to a mean any more."""
        return self.round.stuck()

    def absent(self, node: NodeId, now: float) -> bool:
        """Whether nobody has heard of a member lately."""
        return self.peers.absent(node, now)

    def silent(self, node: NodeId, now: float) -> bool:
        """Whether a member is gone or stuck, or rests: this site, too, votes to go on without itself then."""
        rests = bool(self._resting) or self.round.phase == Phase.PAUSED
        return self.peers.silent(node, now) or (node == self._who.node and rests)

    def outpaced(self, node: NodeId, round_: int, now: float) -> bool:
        """Whether a round goes on without a member that is far behind the others."""
        return self._pacing.outpaced(node, round_, now)

    # --- starting -----------------------------------------------------------------------------------------------

    def _start(self, event: Started, now: float) -> list[Effect]:
        """Rebuild everything from what was durable. A peer killed anywhere continues from here."""
        self._started = True
        view = self._restore_blocks(event)
        for header, block in self.replica.take_final():
            self._telling.read(header, self._note_final(header, block, now))
        self._agreement.convene()
        self._voice.begin_epoch()
        self._follow_terms(now)
        effects: list[Effect] = [self._reception.open(now)]
        for record in event.records:
            if record.kind == RECORD_ENTRY:
                effects += self._voice.readmit(record.payload, now)
        self.transfer.restore(event.blobs, event.partial)
        self._pursuit.unaudited = event.unaudited
        # What was said before the last final block need not even be decoded.
        live = [
            record for record in event.records if record.kind in (RECORD_BLOCK, RECORD_ENTRY) or record.height >= view
        ]
        effects += self._agreement.obey(self.consensus.restore(live))
        effects += self._do(self.round.resume(event.guarded), now)
        head = self.replica.head
        where = f"all {head.last} rounds committed" if head.complete else f"round {head.round} of {head.last}"
        text = f"ledger at block {head.height}, {outcome(head) if head.stopped else where}"
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

    # --- epochs -------------------------------------------------------------------------------------------------

    def _follow_terms(self, now: float) -> None:
        """Let everybody who asks who the members are know the terms of the epoch at hand."""
        self._telling.learn_names()
        self.peers.update(self._who.terms, now)
        self.engine.update(self._who.terms)
        self._vouching.follow_terms()

    def _turn_epochs(self, now: float) -> list[Effect]:
        """Follow the ledger into the epoch it has reached. Nothing may be said before: it would be in the old keys."""
        effects: list[Effect] = []
        while self.consensus.ended:
            effects += self._turn_epoch(now)
            effects += self._agreement.obey(self.consensus.step(now))
        return effects

    def _turn_epoch(self, now: float) -> list[Effect]:
        """The terms have changed for good: agree with the new members, talk to the new neighbours."""
        self._charges.notice(now)
        before = {contact.node: contact for contact in self.engine.contacts}
        self._agreement.convene()
        self._voice.begin_epoch()
        self._charges.begin_epoch()
        self._follow_terms(now)
        changed, back = self._reception.see_off(before, now)
        effects: list[Effect] = [self._reception.reach()]
        for node in back:
            effects += self.engine.link(node, True, "")  # It never went down.
        neighbours = {contact.node for contact in self.engine.contacts}
        for contact in changed:
            if contact.node not in neighbours:
                # Whoever is let go has to hear of it over the link that it has.
                effects += self.transfer.link(contact.node, False, now)
                effects.append(Send(contact.node, wire.encode(self._heartbeat(now))))
        effects += self._voice.readmit_orphans(now)
        terms = self._who.terms
        names = ", ".join(seat.name for seat in terms.members)
        values: dict[str, str | int | float | bool] = {"epoch": terms.epoch, "members": len(terms.members)}
        effects.append(Report("epoch", f"epoch {terms.epoch} began: {names}", values))
        return effects + self._reception.leave()

    def _adopt(self, blocks: Sequence[FinalBlock], linked: bool, now: float) -> list[Effect]:
        """Follow consecutive blocks that somebody sent, across the ends of epochs. Raises `Reject`, `LedgerError`."""
        effects = self._watch.examine(blocks)
        if self._watch.alarm:
            return effects
        effects += self._agreement.obey(self.consensus.adopt_final(blocks, now, linked=linked))
        while self.consensus.ended:
            effects += self._turn_epoch(now)
            # What has become final so far is to be written whatever comes after it.
            with contextlib.suppress(Reject):
                effects += self._agreement.obey(self.consensus.adopt_final(blocks, now, linked=linked))
        return effects

    # --- events -------------------------------------------------------------------------------------------------

    def _link(self, event: LinkChanged, now: float) -> list[Effect]:
        if not self.engine.knows(event.peer):
            return []
        effects = self.engine.link(event.peer, event.up, event.why, event.via)
        if not event.up:
            effects += self.transfer.link(event.peer, False, now)
            self._pursuit.plan.lost(event.peer)
        return effects

    def _receive(self, event: Received, now: float) -> list[Effect]:
        """Decode, dispatch, and charge the sender for whatever is wrong with it."""
        sender = event.sender
        if self._reception.is_guest(sender):
            effects, say = self._reception.on_guest(sender, event.frame, self._voice.mine(), now)
            return effects if say is None else [*effects, *self._voice.say(say, now)]
        if self._reception.is_former(sender):
            return self._reception.on_former(
                sender,
                event.frame,
                lambda node, asked: self._pursuit.serve(node, asked, now),
                lambda height: self._heartbeat(now, height),
            )
        if not self.engine.knows(sender) or self.peers.ignored(sender, now):
            return []
        if self.engine.beyond(sender, event.frame):
            return []
        try:
            message = self._decode(event.frame)
            return self._dispatch(sender, message, event.frame, event.payload, now)
        except Reject as reason:
            return [blame(self.peers, sender, reason.message, now)]
        except LedgerError as error:
            asked = self._watch.inquire(sender, self.replica.head.height, now)
            return [*asked, *self._watch.sound(error.message)]

    def _dispatch(
        self, sender: NodeId, message: m.Message, frame: bytes, payload: Buffer | None, now: float
    ) -> list[Effect]:
        member = self.peers.members[sender]
        if isinstance(message, m.Hello):
            fresh, effects = self.engine.on_hello(sender, message, now)
            if member.welcome:
                self.peers.heard(sender, now)
            return effects + (self._introduce(sender, now) if fresh else [])
        if isinstance(message, m.Refuse):
            return self.engine.on_refuse(sender, message, now)
        self.engine.on_other(sender)
        if not member.refused:
            self.peers.heard(sender, now)  # Whoever cannot take part does not count as there: nobody waits for it.
        if not member.welcome or self._idle_to(message):
            return []
        if isinstance(message, (*AGREEMENT, m.Remind, m.Reminder)) and self._who.terms.index(sender) is None:
            return []  # A newcomer's sponsor may be a member of an epoch that is not reached here yet.
        match message:
            case m.Heartbeat():
                self.peers.on_heartbeat(sender, message, now)
                return self._watch.compare(sender, message, now) + self._pursuit.ask(now)
            case m.EntryMessage():
                return self._on_entry(sender, message, frame, now)
            case m.FeedHeads():
                return self._on_feed_heads(sender, message)
            case m.Propose() | m.CastVote() | m.Certify() | m.Standing():
                return self._agreement.hear(sender, message, frame, now)
            case m.Remind():
                return self._voice.remind(sender, message)
            case m.Reminder():
                return self._voice.on_reminder(sender, message, now)
            case m.GetBlocks():
                return self._pursuit.serve(sender, message, now)
            case m.Blocks():
                return self._pursuit.on_blocks(message.blocks, now)
            case m.BlockRange():
                return self._pursuit.on_range(sender, message, payload or b"", now)
            case m.Cosign():
                return self._vouching.hear(sender, message, frame)
            case _:
                return self.transfer.on_message(sender, message, payload, now)

    def _idle_to(self, message: m.Message) -> bool:
        """Whether a message could only make this node follow something, and it follows nothing more."""
        if isinstance(message, m.BlockRange):
            return self._watch.proved  # Until then it may hold the proof.
        return bool(self._watch.alarm) and isinstance(message, (*AGREEMENT, m.Blocks))

    def _introduce(self, sender: NodeId, now: float) -> list[Effect]:
        """Compare notes with a peer that has just become welcome."""
        said: list[m.Message] = [
            *self._voice.question(),
            self._heartbeat(now),
            m.FeedHeads(self.replica.feed_heads()),
            m.Standing(self.consensus.status()),
            *(m.Cosign(held) for held in self.cosigners.held()),
        ]
        return [Send(sender, wire.encode(message)) for message in said] + self.transfer.link(sender, True, now)

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
        self._updates.note(pending)
        self.peers.moved(author, now)
        if isinstance(pending.body, e.Contribution):
            self._pacing.offered(author, pending.body, now)
        elif isinstance(pending.body, Keys):
            self._pacing.posted(author, pending.body, now)
        effects = self.engine.relay(frame, author, sender)
        # Later entries may have come before this one. Nothing was kept of what they offer while this one was missing.
        for one in self.replica.own(author):
            hints = (author, sender) if one is pending else (author,)
            effects += self._updates.gather(self.round, author, one.body, hints, now)
        return effects

    def _on_feed_heads(self, sender: NodeId, message: m.FeedHeads) -> list[Effect]:
        """Send the entries the other side lacks."""
        effects: list[Effect] = []
        for author, seq in message.heads:
            leaves = self.replica.entries_from(NodeId(author), seq)
            effects += [Send(sender, wire.encode(m.EntryMessage(leaf))) for leaf in leaves]
        return effects

    def _stepped(self, event: Stepped) -> None:
        """Note how far user code is. Where it does not say of how many steps, it makes about as many as last time."""
        if event.step:
            self._stepped_last = event.round, event.step
        self._step = (event.step, event.steps or (self._steps_usual if event.step <= self._steps_usual else 0))

    def _trained(self, event: Trained, now: float) -> list[Effect]:
        if event.update is not None and self._charter.route is None:
            self._updates.trust(event.slices[-1][0] if event.slices else event.update)
        if event.update is not None and self._stepped_last[0] == event.round:
            self._steps_usual = self._stepped_last[1]
        self._appraisal.trained(now, well=event.update is not None)
        effects = self._do(self.round.trained(event, self.replica.head, self._voice.mine(), now), now)
        if event.update is not None and self._ended is not None and self._ended.outcome == "FAILED" and not self.forked:
            self._ended = None
            effects.append(Report("recovered", "training works again: this site's run has not failed after all"))
        return effects

    def _asked(self, event: Asked, now: float) -> list[Effect]:
        """Answer a local question; some ask this site to say something to the others."""
        word, *rest = event.question.split()
        try:
            match word, rest:
                case "propose", [change, invite, days]:
                    opened = codec.decode(bytes.fromhex(change), Change, limit=e.ENTRY_BYTES_MAX)
                    invited = bytes.fromhex(invite.strip("-"))
                    say = governance.propose(
                        self.replica.head, self._who.node, opened, invited, int(days), int(now * 1000)
                    )
                case "invite", [data]:
                    found = codec.decode(bytes.fromhex(data), Invite, limit=INVITE_BYTES_MAX)
                    return [self._reception.expect(found), Answer(event.ticket, {"said": "invite"})]
                case "vote", [prefix, answer]:
                    say = governance.vote(self.replica.head, prefix, answer == "yes")
                case "withdraw", [first, last]:
                    say = governance.withdraw(self.replica.head, int(first), int(last))
                case _:
                    return [Answer(event.ticket, {"error": f"couldn't answer {event.question[:40]!r}: unknown"})]
        except (Reject, ValueError) as error:
            return [Answer(event.ticket, {"error": str(error)})]
        if not self._voice.able:
            return [Answer(event.ticket, {"error": f"couldn't say that to the others: {self._voice.why_not}"})]
        return [*self._voice.say(say, now), Answer(event.ticket, {"said": say.body.__class__.__name__})]

    # --- settling: after every event, ask everyone what should happen next ---------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        effects = self._turn_epochs(now)
        effects += self._voice.speak_up(now)
        effects += self._voice.ask_again(now)
        effects += self._reception.close(now)
        effects += self._updates.step(now)
        effects += self._keep_up(now)
        effects += self._pursuit.audit(now)
        if not self._voice.halted:
            effects += self._advance(now)
            effects += self._appraise(now)
            effects += self._govern(now)
            for say in self._charges.press(self._voice.mine(), now):
                effects += self._voice.say(say, now)
        if not self._watch.alarm:
            try:
                effects += self._agreement.obey(self.consensus.step(now))
                effects += self._turn_epochs(now)
            except LedgerError as error:
                effects += self._watch.sound(error.message)
        effects += self._absorb(now)
        if not self._resigned:
            effects += self._vouching.step(now)
        effects += self._give_up()
        effects += self._beat(now)
        self._restless, self._woken_at = bool(effects), self._next_wake(now)
        self._admitted = self.replica.admitted, len(self.replica.forks)
        effects.append(WakeAt(self._woken_at))
        return effects

    def _keep_up(self, now: float) -> list[Effect]:
        try:
            return self._pursuit.keep_up(now)
        except LedgerError as error:
            return self._watch.sound(error.message)

    def _advance(self, now: float) -> list[Effect]:
        if not self._voice.able:
            return []
        head, mine = self.replica.head, self._voice.mine()
        if self._ended is not None and self._ended.outcome == "DONE" and not head.complete:
            self._ended = None  # The members have agreed on more rounds since.
        self.round.judging = head.complete and self._owes_score(mine, now)
        version = self.transfer.version, self._heard(), self.round.stuck(), self.round.judging
        if self._advanced is not None and self._advanced.still(head, mine, version, now):
            return self._do(self.round.watch(head, mine, self.transfer.has, now), now)
        actions = self.round.advance(head, mine, self.transfer.has, now)
        self._advanced = _Advanced(head, mine, version, self.round.next_wake(now))
        return self._do(actions, now)

    def _appraise(self, now: float) -> list[Effect]:
        """Judge what others have contributed, while the trainer has nothing better to do."""
        if not self._voice.able:
            return []
        complete, mine, holds = self.replica.head.complete, self._voice.mine(), self.transfer.has
        heard = not complete or self.quorate(now)
        actions: list[Action] = []
        if heard:
            actions += self._appraisal.step(mine, holds, free=self.round.free(complete=complete), now=now)
        if complete and self._ended is not None and self._ended.outcome == "DONE":
            actions += self._appraisal.missed(mine, holds, heard=heard)
        return self._do(actions, now)

    def _owes_score(self, mine: Sequence[msgspec.Struct], now: float) -> bool:
        """Whether a run that is over waits for a score of this site: not where nobody is left who would order it."""
        said = any(isinstance(body, e.Score) for body in mine)
        return (said or self._appraisal.due(mine, self.transfer.has)) and self.quorate(now)

    def _heard(self) -> int:
        """Return how many entries have been taken in, where words count that are not in the log yet."""
        return self.replica.admitted if self._charter.route is not None or self._charter.masks else 0

    def _govern(self, now: float) -> list[Effect]:
        """Say to open changes of terms what this site's standing rule says."""
        head = self.replica.head
        if not head.motions or not self._who.speaks:
            return []
        return self._do(governance.standing_votes(head, self._who.node, self._voice.mine(), self._approve), now)

    def _absorb(self, now: float) -> list[Effect]:
        """Follow what has become final: tell people, drop what nobody will ask for again."""
        effects: list[Effect] = []
        for header, block in self.replica.take_final():
            entries = self._note_final(header, block, now)
            effects += self._telling.tell(header, entries, now)
            if any(entry.kind == e.ROUND_COMMIT for entry in entries):
                self._pacing.committed(now)
        if effects:
            self._pursuit.grew(now)
            effects += self._advance(now)
            effects += self._updates.tidy(self.round, self._voice.mine(), self._appraisal.keep())
            for author, body in self.replica.bodies(e.Contribution):
                effects += self._updates.gather(self.round, author, body, (author,), now)
            head, me = self.replica.head, self._who.node
            effects.append(Prune(self.consensus.final_view, head.heads[me].seq if me in head.heads else 0))
            if head.height >= self._snapshot_height + self._snapshot_blocks:
                effects.append(self.snapshot())
        return effects

    def _note_final(self, header: Header, block: Block, now: float) -> list[e.Entry]:
        """Let those who follow final blocks know of one; return its entries. What is written after it is durable."""
        entries = [e.decode_entry(leaf) for leaf in block.leaves]
        self._watch.note(header)
        self._appraisal.note(header.first_index, entries)
        for entry in entries:
            if entry.author == self._who.node:
                self.round.said(decode_body(entry))
        commits = any(entry.kind == e.ROUND_COMMIT for entry in entries)
        self.cosigners.final(header.size, header.root, time_ms=header.time_ms, commits=commits, now=now)
        return entries

    def _heartbeat(self, now: float, height: int | None = None) -> m.Heartbeat:
        final = self.replica.head.height if height is None else height
        known = self._watch.hash_at(final)
        return self.peers.heartbeat(
            now, final_height=final, final_hash=known, disk_free=self._disk_free(), links=len(self.engine.neighbours)
        )

    def _outcome(self, now: float) -> tuple[str, str]:
        """Return how the run stands, in one word and why: RUNNING, PAUSED, DONE or FAILED."""
        if self._ended is not None:
            return self._ended.outcome, self._ended.reason
        paused = self.paused(now)
        return ("PAUSED", paused) if paused else ("RUNNING", "")

    def _give_up(self) -> list[Effect]:
        """Who takes part no more has not done its part, whatever becomes of the run."""
        if not self._resigned or self._ended is not None:
            return []
        self._ended = Finished("FAILED", self._resigned)
        return [self._ended]

    def _tell_pause(self, now: float) -> list[Effect]:
        """Say when the run cannot go on for want of sites, and when it can again."""
        paused, before = self.paused(now), self._paused
        self._paused = paused
        if paused and not before:
            text = f"the run is PAUSED: {paused}. Nothing is lost; it goes on by itself when they are back"
            return [Report("paused", text, level="warning")]
        if before and not paused:
            return [Report("resumed", "enough sites are there again: the run goes on")]
        return []

    def _beat(self, now: float) -> list[Effect]:
        step, steps = self._step
        self.peers.note_self(round_=self.round.round, phase=self._phase, step=step, steps=steps, now=now)
        if not self.engine.beat_due(now):
            return []
        told = self._tell_pause(now)
        return told + self.engine.tick(now, self._heartbeat(now), m.FeedHeads(self.replica.feed_heads()))

    def _next_wake(self, now: float) -> float:
        wakes = [
            self.engine.next_wake(),
            self._voice.next_wake(now),
            self._charges.next_wake(now),
            self._reception.next_wake(),
            self.transfer.next_wake(now),
            self.replica.next_wake(now),
            self.round.next_wake(now),
            self.peers.next_silence(now),
        ]
        if not self._watch.alarm:
            wakes += [self.consensus.next_wake(now), self._pursuit.plan.next_wake()]
        if not self._resigned:
            wakes.append(self.cosigners.next_wake())
        return max(now, min(wake for wake in wakes if wake is not None))

    def _do(self, actions: Sequence[Action], now: float) -> list[Effect]:
        """Turn what the round and the site's rules want into effects."""
        effects: list[Effect] = []
        for action in actions:
            match action:
                case Say():
                    effects += self._voice.say(action, now)
                    if isinstance(action.body, e.Contribution):
                        self._pacing.offered(self._who.node, action.body, now)
                    elif isinstance(action.body, Keys):
                        self._pacing.posted(self._who.node, action.body, now)
                case Fetch():
                    effects += self._updates.fetch(action.digest, action.size, action.hints, now)
                case _:
                    if isinstance(action, Train):
                        self._step = (0, self._steps_usual)
                        self._appraisal.training(now)
                    if isinstance(action, Finished):
                        # Whoever waits for this node to be done, to leave itself, should not wait for the next beat.
                        self.engine.hurry()
                        self._ended = action
                    effects.append(action)
        return effects


def needs(charter: Charter) -> tuple[str, ...]:
    """Return the capabilities that a charter asks of every member."""
    route = () if charter.route is None else (charter.route.name,)
    further = [name for name, asked in (("masks", charter.masks), ("relay", charter.relayed)) if asked]
    return (charter.round.mixing, *route, *further)


@dataclass(frozen=True, slots=True)
class _Advanced:
    """On what the round was last advanced. Until any of it changes, or its own time comes, it would do the same again.

    Not so what only others' silence brings about: see `Round.watch`.
    """

    head: State
    mine: Sequence[msgspec.Struct]
    version: tuple[int, int, bool, bool]
    until: float | None

    def still(
        self, head: State, mine: Sequence[msgspec.Struct], version: tuple[int, int, bool, bool], now: float
    ) -> bool:
        """Whether nothing has changed."""
        return (
            head is self.head
            and version == self.version
            and (self.until is None or now < self.until)
            and len(mine) == len(self.mine)
            and all(one is other for one, other in zip(mine, self.mine, strict=True))
        )
