"""The node: gossip, ledger and round joined into one pure machine.

This is the whole logic of a peer. The runtime feeds it from sockets, disk and trainer; the simulator from a seeded
world; both run exactly this. It routes events to their owner, turns what owners want into effects in the right order
(durable first), and asks everyone again what should happen next. It holds no policy of its own.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence

import msgspec

from gossip import messages as m
from gossip import wire
from gossip.engine import Engine
from gossip.peers import Peers
from gossip.transfer import Transfer
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, Reject
from swarm.identity import Identity
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, Block, Certificate, FinalBlock, Header, Vote
from swarm.ledger.consensus import Consensus, Durable, Note, Output, Status, Timing, ToAll, ToOne
from swarm.ledger.evidence import describe, from_contradiction, from_entries
from swarm.ledger.replica import Replica
from swarm.ledger.state import decode_body
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Answer,
    Asked,
    Buffer,
    Checked,
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
    Received,
    Record,
    Report,
    Send,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Trained,
    WakeAt,
    Woke,
)
from swarm.round import Action, Fetch, Phase, Round, Say, phase_name

SOFTWARE = "swarm-node/0.1"

BLOCKS_REPLY_BYTES_MAX = 512 * 1024
"""Final blocks sent in one answer. Half a control frame, so that certificates and headers fit beside them."""

CATCH_UP_TIMEOUT_S = 5.0
"""How long one peer may take to answer a request for blocks before another is asked."""

EVIDENCE_TURN_S = 0.5
"""Between the turns of members to put the same evidence on record."""

PACE_ROUNDS = 5
"""Rounds whose pace says how long the rest will take."""

CLOSED_SHOWN = 8
"""Closed rounds a status remembers: rounds may pass faster than people ask."""

CATCH_UP_AFTER_S = 1.0
"""A ledger that grew within this time is not behind, whatever a heartbeat says."""


class Node:
    """One peer's machine. `disk_free` tells the free bytes, for heartbeats."""

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
    ) -> None:
        charter = signed.charter
        index = charter.index(identity.node)
        assert index is not None, "the identity must be a member: the shells check it and say so"
        self._signed, self._charter, self._identity = signed, charter, identity
        self._ledger_id = signed.ledger_id
        self._index = index
        self._rng = rng
        self._disk_free = disk_free
        hello = m.Hello(
            protocol=(1, 0),
            software=SOFTWARE,
            capabilities=("exact", "spread"),
            node=identity.node,
            charter=self._ledger_id,
            task=code_digest,
            layout=layout_digest,
            answer=True,
        )
        self.peers = Peers(charter, identity.node, now)
        self.engine = Engine(charter, identity.node, hello, self.peers, rng)
        self.transfer = Transfer(me=identity.node, rng=rng)
        self.replica = Replica(signed, self)
        self.round = Round(charter, identity.node, code_digest=code_digest, data_digest=data_digest)
        self.consensus = Consensus(
            ledger_id=self._ledger_id,
            epoch=0,
            vote_keys=[card.vote_key for card in charter.members],
            me=index,
            sign=identity.vote_key.sign,
            application=self.replica,
            rng=rng,
            timing=Timing(t0_s=charter.ledger.t0_ms / 1000),
            seed=int.from_bytes(self._ledger_id[:4], "big"),
        )
        self._blocks: list[bytes] = []
        self._verdicts: dict[Digest, str] = {}
        self._inspecting: set[Digest] = set()
        self._asked_blocks: tuple[NodeId, float] | None = None
        self._grew_at = now
        self._step = (0, 0)
        self._halted = ""
        self._committed_at: deque[float] = deque(maxlen=PACE_ROUNDS + 1)
        self._charges: dict[tuple[NodeId, int], tuple[float, e.Evidence]] = {}
        self._evidence_read = 0
        self._closed: dict[int, list[str]] = {}
        self._started = False

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
            case Asked():
                return [Answer(event.ticket, self.status(now))]
        # A chunk that completes nothing changes no decision, and there may be tens of thousands of them.
        if not (isinstance(event, Received) and event.payload is not None and self.transfer.quiet()):
            effects += self._settle(now)
        return effects

    def everyone_has_finished(self) -> bool:
        """Whether, as far as this node has heard, every member is done: nobody needs it any more."""
        return all(member.phase == Phase.DONE for member in self.peers.members.values())

    def status(self, now: float) -> dict[str, object]:
        """Return what people ask: where the ledger, the round and each member stand."""
        head = self.replica.head
        return {
            "swarm": self._charter.name,
            "me": self._charter.members[self._index].name,
            "ledger_id": self._ledger_id.hex(),
            "height": head.height,
            "entries": head.size,
            "root": head.frontier.root().hex(),
            "rounds": self._charter.round.rounds,
            "round": head.round,
            "committed": head.committed.round,
            "model": head.committed.model.hex(),
            "eta_s": self._eta_s(),
            "closed": [{"round": r, "without": missing} for r, missing in self._closed.items()],
            "phase": self.round.phase.name.lower(),
            "paused": self._paused(now),
            "halted": self._halted,
            "quorum": self._charter.quorum,
            "tolerance": self._charter.fault_tolerance(),
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
        self._blocks = [record.payload for record in event.records if record.kind == RECORD_BLOCK]
        for payload in self._blocks:
            final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
            self.replica.restore(final, Header.decode(final.block.header))
        self._recall()
        for record in event.records:
            if record.kind == RECORD_ENTRY:
                self.replica.admit(record.payload, now)
        self.transfer.restore(event.blobs, event.partial)
        effects = self._obey(self.consensus.restore(event.records))
        head = self.replica.head
        rounds = self._charter.round.rounds
        where = f"all {rounds} rounds committed" if head.complete else f"round {head.round} of {rounds}"
        text = f"ledger at block {head.height}, {where}"
        effects.append(Report("started", text, {"height": head.height, "round": head.round}))
        return effects

    def _link(self, event: LinkChanged, now: float) -> list[Effect]:
        if event.peer not in self.engine.neighbours:
            return []
        effects = self.engine.link(event.peer, event.up, event.why)
        if not event.up:
            effects += self.transfer.link(event.peer, False, now)
        return effects

    def _receive(self, event: Received, now: float) -> list[Effect]:
        """Decode, dispatch, and charge the sender for whatever is wrong with it."""
        sender = event.sender
        if sender not in self.engine.neighbours or self.peers.ignored(sender, now):
            return []
        try:
            message = wire.decode(event.frame)
            self.peers.heard(sender, now)
            return self._dispatch(sender, message, event.frame, event.payload, now)
        except Reject as reason:
            return self._blame(sender, reason.message, now)
        except LedgerError as error:
            self._halted = error.message
            return [Report("ledger_halted", f"{error.message} ({error.hint})", level="error")]

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
        if self._halted and isinstance(message, (m.Propose, m.CastVote, m.Certify, m.Standing, m.Blocks)):
            return []  # Whatever came of it would have to be said.
        match message:
            case m.Heartbeat():
                self.peers.on_heartbeat(sender, message, now)
                return self._catch_up(now)
            case m.EntryMessage():
                return self._on_entry(sender, message, frame, now)
            case m.FeedHeads():
                return self._on_feed_heads(sender, message)
            case m.Propose():
                outputs = self.consensus.on_proposal(message.block, self._member(sender), now)
                return self._obey(outputs) + self._pass_on(frame, message.block.proposer, sender)
            case m.CastVote():
                outputs = self.consensus.on_vote(message.vote, self._member(sender), now)
                return self._obey(outputs) + self._pass_on(frame, message.vote.signer, sender)
            case m.Certify():
                return self._obey(self.consensus.on_certificate(message.certificate, self._member(sender), now))
            case m.Standing():
                return self._on_standing(sender, message.status, now)
            case m.GetBlocks():
                return self._on_get_blocks(sender, message)
            case m.Blocks():
                return self._on_blocks(message, now)
            case _:
                return self.transfer.on_message(sender, message, payload, now)

    def _pass_on(self, frame: bytes, origin: int, sender: NodeId) -> list[Effect]:
        """Pass on what the consensus has just verified, and nothing else: not even whose it is is known before."""
        return self.engine.relay(frame, origin, sender) if self.consensus.fresh else []

    def _introduce(self, sender: NodeId, now: float) -> list[Effect]:
        """Compare notes with a peer that has just become welcome."""
        heads = m.FeedHeads(self.replica.feed_heads())
        standing = m.Standing(self.consensus.status())
        beat = self.peers.heartbeat(now, final_height=self.replica.head.height, disk_free=self._disk_free())
        greeting: list[Effect] = [Send(sender, wire.encode(message)) for message in (beat, heads, standing)]
        return greeting + self.transfer.link(sender, True, now)

    def _on_entry(self, sender: NodeId, message: m.EntryMessage, frame: bytes, now: float) -> list[Effect]:
        pending = self.replica.admit(message.leaf, now)
        if pending is None:
            return []
        author = NodeId(pending.entry.author)
        self.peers.moved(author, now)
        origin = self._charter.index(author)
        assert origin is not None, "the replica admits members only"
        effects = self.engine.relay(frame, origin, sender)
        if isinstance(pending.body, e.Contribution) and pending.body.round >= self.replica.head.round:
            effects += self._fetch(Digest(pending.body.update_digest), pending.body.update_bytes, (author, sender), now)
        return effects

    def _on_feed_heads(self, sender: NodeId, message: m.FeedHeads) -> list[Effect]:
        """Send the entries the other side lacks."""
        effects: list[Effect] = []
        for author, seq in message.heads:
            leaves = self.replica.entries_from(NodeId(author), seq)
            effects += [Send(sender, wire.encode(m.EntryMessage(leaf))) for leaf in leaves]
        return effects

    def _on_standing(self, sender: NodeId, status: Status, now: float) -> list[Effect]:
        return self._obey(self.consensus.on_status(status, self._member(sender), now))

    def _on_get_blocks(self, sender: NodeId, message: m.GetBlocks) -> list[Effect]:
        """Send consecutive final blocks, ending with one that carries its certificate."""
        if not 1 <= message.height <= len(self._blocks):
            return []
        chosen: list[FinalBlock] = []
        size = 0
        for payload in self._blocks[message.height - 1 :]:
            size += len(payload)
            if chosen and size > BLOCKS_REPLY_BYTES_MAX and chosen[-1].certificate:
                break
            chosen.append(codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX))
        return [Send(sender, wire.encode(m.Blocks(tuple(chosen))))]

    def _on_blocks(self, message: m.Blocks, now: float) -> list[Effect]:
        """Follow blocks a neighbour sent, and ask for more at once while there are more."""
        before = self.replica.head.height
        effects = self._obey(self.consensus.adopt_final(message.blocks, now))
        self._asked_blocks = None
        self._grew_at = min(self._grew_at, now - CATCH_UP_AFTER_S)
        return effects + (self._catch_up(now) if self.replica.head.height > before else [])

    def _inspected(self, event: Inspected) -> list[Effect]:
        self._inspecting.discard(event.digest)
        self._verdicts[event.digest] = event.problem
        if not event.problem:
            return []
        text = f"an update may not be averaged: {event.problem}"
        return [Report("update_unusable", text, {"digest": event.digest.hex()}, level="warning")]

    # --- settling: after every event, ask everyone what should happen next ---------------------------------------

    def _settle(self, now: float) -> list[Effect]:
        effects: list[Effect] = []
        effects += self.transfer.step(now)
        effects += self._read_arrivals(now)
        if not self._halted:
            effects += self._advance(now)
            effects += self._press_charges(now)
            try:
                effects += self._obey(self.consensus.step(now))
            except LedgerError as error:
                self._halted = error.message
                effects.append(Report("ledger_halted", f"{error.message} ({error.hint})", level="error"))
        effects += self._absorb(now)
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
        if effects:
            self._grew_at = now
            effects += self._advance(now)
            effects += self._tidy()
            effects.append(Prune(self.consensus.final_view))
        return effects

    def _press_charges(self, now: float) -> list[Effect]:
        """Put on record that a member contradicted itself, unless somebody else has or is about to."""
        found = [from_contradiction(one, self._signed) for one in self.consensus.evidence[self._evidence_read :]]
        self._evidence_read = len(self.consensus.evidence)
        found += [from_entries(author, *pair) for author, pair in self.replica.forks.items()]
        for body in found:
            if body is not None and body.culprit != self._identity.node:
                charge = (NodeId(body.culprit), body.rule)
                culprit = self._charter.index(charge[0])
                assert culprit is not None, "evidence is about members"
                # Everybody notices at about the same time. One after the other has the chance to say so.
                turn = (self._index - culprit - 1) % len(self._charter.members)
                if charge not in self._charges and charge not in self.replica.head.accused:
                    self._charges[charge] = (now + EVIDENCE_TURN_S * turn, body)
        effects: list[Effect] = []
        said = [body for _, body in self.replica.bodies(e.Evidence)]
        pending = [(body.culprit, body.rule) for body in said if isinstance(body, e.Evidence)]
        for charge, (due, body) in sorted(self._charges.items()):
            if charge in self.replica.head.accused:
                del self._charges[charge]
            elif now >= due and charge not in pending:
                effects += self._say(Say(e.EVIDENCE, body), now)
        return effects

    def _advance(self, now: float) -> list[Effect]:
        return self._do(self.round.advance(self.replica.head, self._mine(), self.transfer.has, now), now)

    def _recall(self) -> None:
        """Let the round know which evaluations are on record already."""
        for _, block in self.replica.take_final():
            for leaf in block.leaves:
                self._remember(e.decode_entry(leaf))

    def _remember(self, entry: e.Entry) -> None:
        if entry.author == self._identity.node:
            self.round.said(decode_body(entry))

    def _tell(self, header: Header, block: Block, now: float) -> list[Effect]:
        """Put what a new final block means into words."""
        effects: list[Effect] = []
        for leaf in block.leaves:
            entry = e.decode_entry(leaf)
            self._remember(entry)
            if entry.kind == e.ROUND_CLOSE:
                close = codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX)
                missing = [self.peers.members[NodeId(node)].name for node in close.missing]
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
        return self.peers.members[node].name

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
        beat = self.peers.heartbeat(now, final_height=self.replica.head.height, disk_free=self._disk_free())
        return self.engine.tick(now, beat, m.FeedHeads(self.replica.feed_heads()))

    def _next_wake(self, now: float) -> float:
        wakes = [
            self.engine.next_wake(),
            self.consensus.next_wake(now),
            self.transfer.next_wake(now),
            self.replica.next_wake(now),
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
        if self._halted:
            return []
        place = self.replica.next_entry(self._identity.node)
        entry = e.sign_entry(
            self._identity.id_key,
            ledger_id=self._ledger_id,
            author=self._identity.node,
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
        record = Record(RECORD_ENTRY, self.replica.head.height, leaf)
        return [Persist((record,)), *self.engine.broadcast(m.EntryMessage(leaf))]

    def _obey(self, outputs: Sequence[Output]) -> list[Effect]:
        effects: list[Effect] = []
        for output in outputs:
            match output:
                case Durable():
                    effects.append(Persist(output.records))
                    self._blocks += [r.payload for r in output.records if r.kind == RECORD_BLOCK]
                case ToAll():
                    effects += self.engine.broadcast(_message(output.message))
                case ToOne():
                    node = self._charter.members[output.to].node
                    if self.peers.members[node].welcome:
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
        """Ask the neighbour that is furthest ahead for the blocks this one lacks, one request at a time."""
        if self._asked_blocks is not None and now - self._asked_blocks[1] < CATCH_UP_TIMEOUT_S:
            return []
        height = self.replica.head.height
        ahead = [n for n in self.engine.welcome() if self.peers.members[n].final_height > height]
        # One block behind for a moment is what every member is while votes travel.
        if not ahead or now - self._grew_at < CATCH_UP_AFTER_S:
            return []
        node = self._rng.choice(ahead)
        self._asked_blocks = (node, now)
        return [Send(node, wire.encode(m.GetBlocks(height + 1)))]

    def _blame(self, sender: NodeId, text: str, now: float) -> list[Effect]:
        self.peers.fault(sender, now)
        name = self.peers.members[sender].name
        return [Report("peer_fault", f"{name} sent something unacceptable: {text}", {"peer": name}, level="warning")]

    def _mine(self) -> list[msgspec.Struct]:
        me = self._identity.node
        return [p.body for p in self.replica.pending(self.replica.head) if p.entry.author == me]

    def _member(self, node: NodeId) -> int:
        index = self._charter.index(node)
        assert index is not None, "only members are linked"
        return index

    def _paused(self, now: float) -> str:
        """Say why nothing can become final, if so."""
        present = sum(not self.peers.absent(node, now) for node in self.peers.members)
        if present >= self._charter.quorum:
            return ""
        return f"{present} of {len(self.peers.members)} sites present, {self._charter.quorum} needed"

    def _member_status(self, node: NodeId, now: float) -> dict[str, object]:
        member, head = self.peers.members[node], self.replica.head
        placed = head.contributions.get((head.round, node))
        received, sent = self.transfer.traffic(node)
        return {
            "name": member.name,
            "node": node.hex(),
            "me": node == self._identity.node,
            "linked": member.welcome or node == self._identity.node,
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
        return round(pace * (self._charter.round.rounds - head.committed.round), 1)


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
