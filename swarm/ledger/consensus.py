"""Agreement on the next block: Simplex consensus, without I/O.

Rules as in TON's specification of Simplex (Chan and Pass, "Simplex Consensus", TCC 2023; window L = 1), made
work-driven as in Avalanche's. Members make three kinds of signed statements about numbered views:

- *Notarize(v, b)*: b is a valid block for view v and I have it. At most once per view.
- *Skip(v)*: view v took too long. Never together with Finalize(v).
- *Finalize(v, b)*: I notarized b, saw a quorum do so, and have not skipped v. Never together with Skip(v).

A quorum's statements form a certificate. A view is *cleared* by a notarize or skip certificate for it, or a finalize
certificate for it or any later view; the current view is the lowest one that is not cleared. A leader extends the
newest notarized block such that every view jumped over has a skip certificate. A finalized block finalizes its
ancestors.

Why it is safe: any two quorums share at least f + 1 members, so an honest one would have had to sign both
Notarize(v, b) and Notarize(v, b'), or both Skip(v) and Finalize(v, b). Why it is accountable: any fork therefore leaves
two contradictory signed messages of each of at least 2q - n members. What keeps it so is that a vote, and the block it
is for, are durable before the vote is sent: a node that forgets a vote forks the chain and frames itself.

One instance agrees on the blocks of one epoch, with its members' keys. It begins on top of the last block of the epoch
before, its *root*, and has ended when it has made the last block of its own final; views go on counting. Whoever owns
it then makes the next.

This file knows no network and no clock: messages and times come in, outputs come out in the order in which they must
happen. What a block contains is its application's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from swarm import codec, identity
from swarm.errors import LedgerError, Reject
from swarm.ledger.block import (
    BLOCK_BYTES_MAX,
    FINALIZE,
    NO_HASH,
    NOTARIZE,
    SKIP,
    VOTE_KINDS,
    VOTE_NAMES,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Root,
    Vote,
    decode_block,
    faults,
    propose_message,
    quorum,
    vote_message,
)
from swarm.ledger.views import (
    STATUS_ROWS_MAX,
    VIEWS_AHEAD_MAX,
    Body,
    View,
)
from swarm.ledger.views import Contradiction as Contradiction
from swarm.ledger.views import Status as Status
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_CERTIFICATE, RECORD_VOTE, Record

WAIT_EXTENSIONS_MAX = 10
"""A view whose block waits for bytes in flight is given up after this many timeouts: progress, but not for ever."""

EVIDENCE_MAX = 256
"""Contradictory pairs kept in memory: one for every view and culprit of a long night, in the smallest swarms."""

STATUS_REPLY_BYTES_PER_MINUTE = 4 << 20
"""What one peer may draw from us by asking for what it lacks. Closes TON's open "death spiral" of rebroadcasts."""

STATUS_COST_BYTES = 4096
"""What a status itself costs of that budget, so that asking a thousand times a minute gets no answer either."""

MOVES_PER_STEP_MAX = 64
"""Moves of one step. Only a swarm of one, whose every vote is a quorum, could otherwise go on and never return."""

RECORD_BYTES_MAX = 1 << 20
"""Largest record read back: a block and its certificate, see `BLOCK_BYTES_MAX` and `MEMBERS_MAX`."""


@dataclass(frozen=True, slots=True)
class Valid:
    """Vote for it."""


@dataclass(frozen=True, slots=True)
class Invalid:
    """Never vote for it."""

    reason: str


@dataclass(frozen=True, slots=True)
class Wait:
    """Ask again. `progressing` when what is missing is on its way."""

    reason: str
    progressing: bool = False


@dataclass(frozen=True, slots=True)
class Overtaken:
    """Give the view up: what has become known since the block was made would go into a better one."""

    reason: str


Verdict: TypeAlias = Valid | Invalid | Wait | Overtaken


class Application(Protocol):
    """Builds and judges blocks."""

    def wants_block(self, parent: bytes, now: float) -> bool:
        """Whether there is work for a block on top of the block with this hash; the ledger's id before the first."""
        ...

    def build(
        self, parent: bytes, parent_view: int, view: int, justify: tuple[Certificate, ...], now: float
    ) -> tuple[Header, tuple[bytes, ...]] | None:
        """Return the block to propose on the one with this hash, or None when there is nothing to propose yet.

        It may be empty, and is asked to be when only an empty block can finalize its ancestors.
        """
        ...

    def observe(self, block: Block, header: Header) -> None:
        """Take note of a block that others may extend, whether or not this member would vote for it."""
        ...

    def judge(self, block: Block, header: Header, now: float) -> Verdict:
        """Say whether to vote for a block whose justification is in order and whose ancestors were observed."""
        ...

    def suspects(self, member: int, now: float) -> bool:
        """Whether a member is probably down: waiting for it to lead is pointless. Being wrong only costs time."""
        ...

    def finalized(self, final: FinalBlock, header: Header, now: float) -> None:
        """Take note of a final block: called once per height, in order."""
        ...

    def ends_epoch(self, block: bytes) -> bool:
        """Whether the block with this hash, observed or final, is the last of its epoch."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. T(v) = min(t0 * growth ** (v - v_final - 1), t_max)."""

    t0_s: float = 3.0
    growth: float = 1.5
    t_max_s: float = 300.0
    standstill_s: float = 2.0
    standstill_max_s: float = 60.0


Message: TypeAlias = Block | Vote | Certificate | Status | FinalBlock


@dataclass(frozen=True, slots=True)
class Durable:
    """These records must be durable before anything after them is sent."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class ToAll:
    """For every member."""

    message: Message


@dataclass(frozen=True, slots=True)
class ToOne:
    """For one member, by index."""

    to: int
    message: Message


@dataclass(frozen=True, slots=True)
class Note:
    """For people."""

    event: str
    text: str
    level: str = "info"


Output: TypeAlias = Durable | ToAll | ToOne | Note


@dataclass(frozen=True, slots=True)
class _Base:
    """A block that may be extended in the current view, and the certificates that say so."""

    view: int
    hash: bytes
    justify: tuple[Certificate, ...]


class Consensus:
    """One member's part in the agreement; `me` is None for an observer, who never votes.

    Every `on_...` raises `Reject` for what its sender should not have sent, and `LedgerError` when certificates prove
    that more members lied than the swarm tolerates. From then on this member says nothing more: see `halted`.
    """

    def __init__(
        self,
        *,
        ledger_id: bytes,
        epoch: int,
        vote_keys: Sequence[bytes],
        me: int | None,
        sign: Callable[[bytes], bytes],
        application: Application,
        rng: random.Random,
        timing: Timing | None = None,
        seed: int = 0,
        root: Root | None = None,
        verify: Callable[[bytes, bytes, bytes], bool] = identity.verify,
    ) -> None:
        self._ledger_id, self._epoch, self._keys, self._me = ledger_id, epoch, tuple(vote_keys), me
        self._sign, self._verify, self._app, self._rng = sign, verify, application, rng
        self._timing = timing or Timing()
        self._seed = seed
        self._n, self._q = len(vote_keys), quorum(len(vote_keys))
        self._root = root or Root(ledger_id, 0, 0)
        self._views: dict[int, View] = {}
        self._headers: dict[bytes, Header] = {}  # of every body kept, by hash
        self._final: Header | None = None
        self._view = self._root.view + 1
        self._unsaved: list[Record] = []
        self._out: list[Output] = []
        self._hurried = False
        self._busy = False
        self._stall_at: float | None = None
        self._stall_s = self._timing.standstill_s
        self._budgets: dict[int, tuple[float, int]] = {}
        self._asked: dict[int, float] = {}
        self.evidence: list[Contradiction] = []
        self.halted = ""
        self.muted = False
        self._forgotten = 0
        self._floor = 0
        self.ended = False
        self.fresh = False
        self.stalled_since: float | None = None

    # --- what others may look at --------------------------------------------------------------------------------

    @property
    def final_height(self) -> int:
        """Height of the last final block; 0 before the first."""
        return self._final.height if self._final else self._root.height

    @property
    def final_view(self) -> int:
        """View of the last final block; 0 before the first."""
        return self._final.view if self._final else self._root.view

    @property
    def final_hash(self) -> bytes:
        """Hash of the last final block; the ledger's id before the first."""
        return self._final.hash if self._final else self._root.hash

    @property
    def current_view(self) -> int:
        """The lowest view that is not cleared."""
        return self._view

    def leader(self, view: int) -> int:
        """Index of the member that may propose in a view."""
        return (view + self._seed) % self._n

    def status(self) -> Status:
        """Return what to tell others, so that they can send what is missing here."""
        views = [v for v in sorted(self._views) if v >= self._view or (v > self.final_view and self._open(v))]
        rows = [self._views[view].row(view, self._n) for view in views[-STATUS_ROWS_MAX:]]
        told = tuple(row for row in rows if any(row[1:]))
        return Status(self._epoch, self.final_height, self.final_view, self._view, told)

    # --- inputs -------------------------------------------------------------------------------------------------

    def restore(self, records: Iterable[Record]) -> list[Output]:
        """Take back what was durable: the last final block, and the votes, bodies and certificates since.

        Own votes and proposals of live views are sent again; nothing that contradicts one will ever be signed. Raises
        `Reject` if a record is not what this class wrote.
        """
        kept: dict[int, list[bytes]] = {RECORD_BLOCK: [], RECORD_BODY: [], RECORD_VOTE: [], RECORD_CERTIFICATE: []}
        for record in records:
            kept.get(record.kind, []).append(record.payload)
        for payload in kept[RECORD_BLOCK][-1:]:
            final = codec.decode(payload, FinalBlock, limit=RECORD_BYTES_MAX)
            header = final.block.opened()
            if header.epoch == self._epoch:
                self._final = header
                self._settle(final, header)
        for payload in kept[RECORD_BODY]:
            block = decode_block(payload)
            self._restore_body(block, block.opened())
        for payload in kept[RECORD_VOTE]:
            self._restore_vote(codec.decode(payload, Vote, limit=RECORD_BYTES_MAX))
        for payload in kept[RECORD_CERTIFICATE]:
            self._restore_certificate(codec.decode(payload, Certificate, limit=RECORD_BYTES_MAX))
        self._view = self._lowest_uncleared()
        for view in sorted(v for v in self._views if v > self.final_view):
            state = self._views[view]
            self._out += [ToAll(body.block) for body in state.bodies.values() if body.block.proposer == self._me]
            self._out += [ToAll(v) for kind in VOTE_KINDS for v in state.votes[kind].values() if v.signer == self._me]
        return self._flush()

    def on_proposal(self, block: Block, sender: int, now: float) -> list[Output]:
        """Take in a proposed block. Raises `Reject` if it is malformed, unsigned, or not its leader's to propose."""
        del sender
        self.fresh = False
        header = Header.decode(block.header)
        if header.epoch != self._epoch or not self._live(header.view):
            return []
        state = self._views.get(header.view, View())
        if header.hash in state.bodies or not state.room_for(header.hash):
            return []
        self._check_proposal(block, header)
        self._check_justification(block, header)
        for other in list(state.bodies.values())[:1]:
            self._accuse("two proposals", block.proposer, header.view, other.block, block)
        self._keep_body(block, header)
        self.fresh = True
        return self.step(now)

    def on_vote(self, vote: Vote, sender: int, now: float) -> list[Output]:
        """Take in a vote. Raises `Reject` if it is malformed or its signature does not verify."""
        del sender
        self.fresh = False
        vote.check()
        if vote.epoch != self._epoch or not self._live(vote.view) or vote.signer >= self._n:
            return []
        state = self._views.get(vote.view) or View()
        known = state.votes[vote.kind].get(vote.signer)
        if known is not None and (known.block == vote.block or vote.signer in state.caught):
            return []
        message = vote_message(self._ledger_id, vote.epoch, vote.view, vote.kind, vote.block)
        if not self._verify(self._keys[vote.signer], message, vote.signature):
            raise Reject(f"couldn't accept a vote for view {vote.view}: its signature does not verify")
        self.fresh = True
        state = self._views.setdefault(vote.view, state)
        for rule, other in state.contradictions(vote):
            state.caught[vote.signer] = rule
            self._accuse(rule, vote.signer, vote.view, other, vote)
        if known is None:
            state.votes[vote.kind][vote.signer] = vote
            self._remember_mine(vote)
            self._certify(vote.view, vote.kind, vote.block)
        return self.step(now)

    def on_certificate(self, certificate: Certificate, sender: int, now: float) -> list[Output]:
        """Take in a certificate. Raises `Reject` unless a quorum of the epoch signed it."""
        del sender
        if certificate.epoch != self._epoch or not self._live(certificate.view):
            return []
        self._accept(certificate)
        return self.step(now)

    def on_status(self, status: Status, sender: int, now: float) -> list[Output]:
        """Send a member what it lacks of the live views, within its budget, and ask it for what it has more."""
        if status.epoch != self._epoch:
            return []
        status.check(self._n)
        if not self._afford(sender, STATUS_COST_BYTES, now):
            return []
        rows = {row[0]: row for row in status.held}
        for view in sorted(v for v in self._views if v > status.final_view):
            for message in self._views[view].lacking(rows.get(view), cleared=view < status.view):
                if self._afford(sender, len(codec.encode(message)), now):
                    self._out.append(ToOne(sender, message))
        if self._behind(status) and now - self._asked.get(sender, -float("inf")) >= self._timing.standstill_s:
            self._asked[sender] = now
            self._out.append(ToOne(sender, self.status()))
        return self._flush()

    def adopt_final(self, blocks: Sequence[FinalBlock], now: float, *, linked: bool = False) -> list[Output]:
        """Take in consecutive final blocks from a peer. Raises `Reject` unless they extend ours and are certified.

        Of `linked` blocks one certificate is checked, the last, and the hashes that lead to it from ours: a quorum
        signed that, and so all of them; the other signatures are not looked at.

        A block without its own certificate is covered by a later one in the same sequence; what nothing covers is
        left out, as is what comes after the last block of the epoch. Raises `LedgerError` if they are certified and
        contradict what is final here.
        """
        chain = self._followed(blocks, linked)
        if chain and chain[0][1].height > self.final_height + 1:
            raise Reject(f"couldn't follow block {chain[0][1].height}: block {self.final_height + 1} comes first")
        if chain and chain[0][1].parent_hash != self.final_hash:
            self._halt(f"a quorum finalized another block than ours at height {self.final_height}")
        for final, header in chain:
            self._commit(final, header, now)
            if self.ended:
                break
        self._write()
        return self.step(now)

    def said_by(self, member: int) -> tuple[tuple[Vote, ...], tuple[Certificate, ...]]:
        """Return what is known here of a member's votes in live views, and what clears the last view that is cleared.

        For a member that has just started, and would not contradict what it may have forgotten (ledger.md 1.6).
        """
        live = [self._views[view] for view in sorted(self._views) if view > self.final_view]
        votes = [state.votes[kind][member] for state in live for kind in VOTE_KINDS if member in state.votes[kind]]
        for state in live:
            for kind, certificate in state.certificates.items():
                if member in certificate.signers and member not in state.votes[kind]:
                    votes.append(_vote_in(certificate, member))
        cleared = self._views.get(self._view - 1)
        return tuple(votes), tuple(cleared.certificates.values())[:1] if cleared is not None else ()

    def on_reminder(self, votes: Sequence[Vote], certificates: Sequence[Certificate], now: float) -> list[Output]:
        """Take in what another has answered with `said_by`. Raises `Reject` for what this member has not signed."""
        for certificate in certificates:
            if certificate.epoch == self._epoch and self._live(certificate.view):
                self._accept(certificate)
        for vote in votes:
            if vote.signer != self._me:
                raise Reject("couldn't accept a reminder: it holds a vote of somebody else")
            # What comes of one vote is not lost when the next is a lie.
            self._out = [*self.on_vote(vote, vote.signer, now), *self._out]
        return self._flush()

    def unmute(self, now: float) -> list[Output]:
        """Begin to vote. If others have shown a vote that was forgotten, there may be more that nobody showed.

        Then this member keeps out of every view that it may have voted in: those up to the one it has learned of.
        """
        self.muted = False
        if self._forgotten:
            self._floor = max(self._forgotten, self._lowest_uncleared())
            text = f"votes of this member were forgotten: it says nothing in the views up to {self._floor}"
            self._out.append(Note("votes_forgotten", text, "error"))
        return self.step(now)

    def step(self, now: float) -> list[Output]:
        """Look at everything again: votes to cast, blocks to propose, views to give up."""
        moves = 0
        while not self.ended and moves < MOVES_PER_STEP_MAX and self._move(now):
            moves += 1
        if self.ended:
            return self._flush()
        self._hurried = moves == MOVES_PER_STEP_MAX
        if not self._hurried:
            self._watch_standstill(now)
        return self._flush()

    def next_wake(self, now: float) -> float | None:
        """Return when `step` has something to look at even if nothing arrives."""
        if self._hurried:
            return now
        times = [] if self._stall_at is None else [self._stall_at]
        state = self._views.get(self._view)
        if state is not None and state.armed_at is not None:
            times += [state.armed_at + self._timeout(self._view), state.armed_at + self._empty_s()]
        return min((t for t in times if t > now), default=None)

    # --- one look -----------------------------------------------------------------------------------------------

    @property
    def _voter(self) -> int | None:
        """Who to sign as; None for an observer, after a fork, and while others are asked what this member has said."""
        return None if self.halted or self.muted else self._me

    def _move(self, now: float) -> bool:
        """Make one move if there is one. Return whether anything changed."""
        before = (self._view, self.final_height)
        self._finalize_known(now)
        if self.ended:
            return False
        self._advance(now)
        moved = self._vote_finalize() or self._vote_notarize(now) or self._propose(now) or self._give_up(now)
        return moved or before != (self._view, self.final_height)

    def _advance(self, now: float) -> None:
        """Rule 1: move to the lowest view that is not cleared."""
        view = self._lowest_uncleared()
        if view == self._view:
            return
        self._view = view
        # Something happened, so whoever stands still asks sooner again; only finality ends the standstill itself.
        self._stall_s = self._timing.standstill_s
        if self._stall_at is not None:
            self._stall_at = min(self._stall_at, now + self._stall_s)

    def _lowest_uncleared(self) -> int:
        finalized = max((v for v, state in self._views.items() if FINALIZE in state.certificates), default=0)
        view = max(self._view, self.final_view + 1, finalized + 1)
        while view in self._views and self._views[view].cleared:
            view += 1
        return view

    def _vote_finalize(self) -> bool:
        """Rule 5: for any live view, late ones too, as finality of v needs nothing from later views."""
        if self._voter is None:
            return False
        for view in sorted(v for v in self._views if v > max(self.final_view, self._floor)):
            state = self._views[view]
            certificate = state.certificates.get(NOTARIZE)
            if certificate is None or FINALIZE in state.mine or SKIP in state.mine:
                continue
            if state.mine.get(NOTARIZE) == certificate.block:
                self._cast(view, FINALIZE, certificate.block)
                return True
        return False

    def _vote_notarize(self, now: float) -> bool:
        """Rule 4: once per view, if the justification holds (checked on arrival) and the block is valid.

        In the current view any valid block will do. In an earlier one that this member has not skipped, a late vote
        for the block that a quorum notarized still helps it to become final, and no later view has to.
        """
        if self._voter is None:
            return False
        for view in sorted(v for v in self._views if max(self.final_view, self._floor) < v <= self._view):
            state = self._views[view]
            if NOTARIZE in state.mine or SKIP in state.mine:
                continue
            current = view == self._view
            bodies = list(state.bodies.values()) if current else [state.certified]
            for body in bodies:
                if body is not None and self._judge(state, body, now):
                    self._cast(view, NOTARIZE, body.header.hash, body=body.block)
                    return True
        return False

    def _judge(self, state: View, body: Body, now: float) -> bool:
        """Whether the application says to vote for a block. While it waits for bytes in flight, so does the view."""
        if body.refused or not self._observe(body.header.parent_hash):
            return False
        verdict = self._app.judge(body.block, body.header, now)
        match verdict:
            case Valid():
                return True
            case Invalid():
                body.refused = verdict.reason or "invalid"
                text = f"not voting for block {body.header.height} of view {body.header.view}: {verdict.reason}"
                self._out.append(Note("block_refused", text, "warning"))
            case Overtaken():
                body.refused = verdict.reason
                text = f"view {body.header.view} is given up: {verdict.reason}"
                self._out.append(Note("block_overtaken", text, "debug"))
            case Wait():
                overdue = state.armed_at is not None and now >= state.armed_at + self._timeout(body.header.view)
                if verdict.progressing and overdue and state.extensions < WAIT_EXTENSIONS_MAX:
                    state.extensions += 1
                    state.armed_at = now
        return False

    def _propose(self, now: float) -> bool:
        """Rule 3: extend the newest notarized block, with skip certificates for every view jumped over."""
        me = self._voter
        if me is None or self.leader(self._view) != me or self._view <= self._floor:
            return False
        state = self._views.setdefault(self._view, View())
        base = self._base()
        if state.proposed or state.bodies or state.mine or base is None or not self._observe(base.hash):
            return False
        if not self._app.wants_block(base.hash, now):
            # An empty block only serves to finalize its ancestors, when their own votes did not.
            overdue = state.armed_at is not None and now >= state.armed_at + self._empty_s()
            if base.hash == self.final_hash or not overdue:
                return False
        built = self._app.build(base.hash, base.view, self._view, base.justify, now)
        if built is None:
            return False
        header, leaves = built
        assert header.epoch == self._epoch, "the application builds for the epoch at hand"
        signature = self._sign(propose_message(self._ledger_id, header.encode()))
        block = Block(header.encode(), leaves, base.justify, me, signature)
        state.proposed = True
        self._announce(state, block, header, now)
        return True

    def _announce(self, state: View, block: Block, header: Header, now: float) -> None:
        """Send an own proposal, durable first: a leader that forgot it would make another one and frame itself."""
        encoded = codec.encode(block)
        if len(encoded) > BLOCK_BYTES_MAX:
            text = f"couldn't propose block {header.height}: {len(encoded)} bytes, at most {BLOCK_BYTES_MAX} fit"
            self._out.append(Note("proposal_too_large", text, "error"))
            return
        body = Body(block, header)
        valid = self._judge(state, body, now)
        if body.refused:
            return  # what this member would not vote for itself never leaves it, so need not be remembered either
        self._keep_body(block, header)
        if valid:
            self._cast(self._view, NOTARIZE, header.hash, body=block, proposal=block)
        else:
            self._save(RECORD_BODY, self._view, encoded)
            self._write()
            self._out.append(ToAll(block))

    def _give_up(self, now: float) -> bool:
        """Rule 6: skip a view that took too long, unless its block has my finalize vote."""
        state = self._views.setdefault(self._view, View())
        self._busy = self._work(now)
        if not self._busy:
            state.armed_at = None
            return False
        if state.armed_at is None:
            state.armed_at = now
        if self._voter is None or SKIP in state.mine or FINALIZE in state.mine or self._view <= self._floor:
            return False
        # A leader that skips its view without a block has left; one that sent a block may only be less patient.
        leader = self.leader(self._view)
        gone = not state.bodies and (leader in state.votes[SKIP] or self._app.suspects(leader, now))
        refused = bool(state.bodies) and all(body.refused for body in state.bodies.values())
        if gone or refused or now >= state.armed_at + self._timeout(self._view):
            self._cast(self._view, SKIP, NO_HASH)
            return True
        return False

    def _work(self, now: float) -> bool:
        """Rule 2: timers run only while there is something to agree on.

        One member's votes alone are no such thing, nor are those of any f: they could keep an idle swarm turning views.
        """
        state = self._views.get(self._view)
        if state is not None and (state.bodies or state.voters() > faults(self._n)):
            return True
        base = self._base()
        return base is None or base.hash != self.final_hash or self._app.wants_block(base.hash, now)

    def _base(self) -> _Base | None:
        """Return the newest block that may be extended in the current view; None if something is missing here."""
        skips: list[Certificate] = []
        lowest = self._root.view + 1 if self._final is None else self.final_view
        for view in range(self._view - 1, lowest - 1, -1):
            state = self._views.get(view)
            if state is None:
                return None
            certificate, body = state.extendable, state.certified
            if certificate is not None and body is not None:
                return _Base(body.header.view, certificate.block, (certificate, *reversed(skips)))
            # A notarized block that is missing here may be jumped over where a quorum has also skipped its view.
            if SKIP not in state.certificates:
                return None
            skips.append(state.certificates[SKIP])
        return _Base(self._root.view, self._root.hash, tuple(reversed(skips))) if self._final is None else None

    def _open(self, view: int) -> bool:
        """Whether a view has a block that a quorum notarized or finalized."""
        return self._views[view].extendable is not None

    # --- certificates and finality ------------------------------------------------------------------------------

    def _certify(self, view: int, kind: int, block: bytes) -> None:
        """Form a certificate when a quorum has said the same."""
        certificate = self._views[view].gather(kind, block, self._q)
        if certificate is not None:
            self._learn(certificate)

    def _accept(self, certificate: Certificate) -> None:
        """Check a certificate that is not known yet, and learn it. Raises `Reject` unless a quorum signed it."""
        known = self._views.get(certificate.view, View()).certificates.get(certificate.kind)
        if known is not None and known.block == certificate.block:
            return
        if certificate.epoch != self._epoch:
            raise Reject("couldn't accept a certificate: it is of another epoch")
        certificate.check(self._ledger_id, self._keys, self._q, self._verify)
        if certificate.view in self._views or self._live(certificate.view):
            self._learn(certificate)

    def _learn(self, certificate: Certificate) -> None:
        """Keep a certificate that holds, and what it says about this member's own past."""
        state = self._views.setdefault(certificate.view, View())
        rival = state.rival(certificate)
        if rival is not None:
            self._blame_quorums(rival, certificate)
        state.certificates.setdefault(certificate.kind, certificate)
        if certificate.kind != FINALIZE:
            # A later justification may need it; it becomes durable with whatever is written next.
            self._save(RECORD_CERTIFICATE, certificate.view, codec.encode(certificate))
        if self._me in certificate.signers:
            self._remember_mine(_vote_in(certificate, self._me))

    def _blame_quorums(self, first: Certificate, second: Certificate) -> None:
        """Put every member on record that signed both of two certificates of which only one can be true."""
        for signer in first.signers:
            if signer in second.signers:
                rule = f"{VOTE_NAMES[first.kind]}+{VOTE_NAMES[second.kind]}"
                self._accuse(rule, signer, first.view, _vote_in(first, signer), _vote_in(second, signer))
        self._halt(f"two quorums contradict each other in view {first.view}")

    def _halt(self, what: str) -> None:
        """Stop voting for good (ledger.md 1.6: fork alarm)."""
        self.halted = what
        raise LedgerError(
            f"couldn't go on agreeing: {what}",
            hint="more members have lied than the swarm tolerates; keep this ledger and its evidence",
        )

    def _finalize_known(self, now: float) -> None:
        """Finalize the highest block that has a finalize certificate and whose ancestors are all here."""
        for view in sorted((v for v in self._views if v > self.final_view), reverse=True):
            certificate = self._views[view].certificates.get(FINALIZE)
            chain = None if certificate is None else self._chain(certificate.block)
            if certificate is not None and chain is not None:
                for i, body in enumerate(chain):
                    last = body.header.hash == certificate.block
                    cover: tuple[bytes, ...] = ()
                    if not last and self._observe(body.header.hash) and self._app.ends_epoch(body.header.hash):
                        last, cover = True, tuple(above.block.header for above in chain[i + 1 :])
                    final = FinalBlock(body.block, (certificate,) if last else (), cover)
                    self._commit(final, body.header, now)
                    if self.ended:
                        break
                self._write()
                return

    def _chain(self, block_hash: bytes) -> list[Body] | None:
        """Return the bodies from just above the last final block up to this one, or None if one is missing.

        A chain that does not lead to the last final block is missing, too: nothing may be built on it.
        """
        chain: list[Body] = []
        while block_hash != self.final_hash:
            header = self._headers.get(block_hash)
            if header is None or header.height <= self.final_height:
                return None
            chain.append(self._views[header.view].bodies[block_hash])
            block_hash = header.parent_hash
        return chain[::-1]

    def _observe(self, block_hash: bytes) -> bool:
        """Show the application the blocks above the final one up to this one. Return whether all of them are here."""
        chain = self._chain(block_hash)
        for body in chain or ():
            if not body.observed:
                self._app.observe(body.block, body.header)
                body.observed = True
        return chain is not None

    def _commit(self, final: FinalBlock, header: Header, now: float) -> None:
        self._app.finalized(final, header, now)
        self._save(RECORD_BLOCK, header.height, codec.encode(final))
        self._final = header
        self._settle(final, header)
        self.ended = self._app.ends_epoch(header.hash)
        self._stall_at = self.stalled_since = None
        self._stall_s = self._timing.standstill_s

    def _settle(self, final: FinalBlock, header: Header) -> None:
        """Forget what the final block has decided. Its view stays: the next one builds on it, laggards ask for it."""
        self._views = {view: state for view, state in self._views.items() if view >= header.view}
        state = self._views.setdefault(header.view, View())
        state.bodies = {header.hash: Body(final.block, header, observed=True)}
        for certificate in final.certificate:
            if certificate.block == header.hash:
                state.certificates.setdefault(FINALIZE, certificate)
        self._headers = {h: body.header for known in self._views.values() for h, body in known.bodies.items()}

    def _followed(self, blocks: Sequence[FinalBlock], linked: bool) -> list[tuple[FinalBlock, Header]]:
        """Return the new blocks that a certificate covers, each checked and a child of the one before."""
        chain: list[tuple[FinalBlock, Header]] = []
        covered = 0
        for final in blocks:
            header = final.block.opened()
            if header.height <= self.final_height:
                continue
            if header.epoch != self._epoch and chain:
                break  # The epoch ends before it; who owns this asks again with the next.
            named = f"couldn't follow block {header.height}"
            if chain and (header.height, header.parent_hash) != (chain[-1][1].height + 1, chain[-1][1].hash):
                raise Reject(f"{named}: it does not extend the one before it")
            if header.epoch != self._epoch:
                raise Reject(f"{named}: it is of another epoch")
            if not linked:
                self._check_proposal(final.block, header)
            chain.append((final, header))
            if final.check(header, self._ledger_id, self._keys, self._q, identity.believe if linked else self._verify):
                covered = len(chain)
        if linked and covered:
            final, header = chain[covered - 1]
            final.check(header, self._ledger_id, self._keys, self._q, self._verify)
            # The last one covers them all; what is not checked is not kept, nor shown to others as if it had been.
            bare = [(FinalBlock(passed.block, ()), below) for passed, below in chain[: covered - 1]]
            return [*bare, (final, header)]
        return chain[:covered]

    # --- proposals ----------------------------------------------------------------------------------------------

    def _check_proposal(self, block: Block, header: Header) -> None:
        """Raise `Reject` unless the view's leader signed the header, and the header covers the rest."""
        if block.proposer != self.leader(header.view):
            raise Reject(f"couldn't accept a block: view {header.view} is not its proposer's to lead")
        block.opened()
        message = propose_message(self._ledger_id, block.header)
        if not self._verify(self._keys[block.proposer], message, block.signature):
            raise Reject(f"couldn't accept a block of view {header.view}: its leader's signature does not verify")

    def _check_justification(self, block: Block, header: Header) -> None:
        """Raise `Reject` unless the block may extend what it extends: rule 3, seen from the other side.

        It needs its parent's notarize or finalize certificate, or to be the first block, and then a skip certificate
        of every view in between. What is in order here is learned, so a laggard moves on with the others.
        """
        named = f"couldn't accept a block of view {header.view}"
        rest = list(block.justify)
        if header.parent_hash == self._root.hash:
            if (header.parent_view, header.height) != (self._root.view, self._root.height + 1):
                raise Reject(f"{named}: it does not begin the epoch as it claims")
        else:
            first = rest.pop(0) if rest else None
            if first is None or first.kind == SKIP:
                raise Reject(f"{named}: nothing says that its parent may be extended")
            if (first.view, first.block) != (header.parent_view, header.parent_hash):
                raise Reject(f"{named}: its parent's certificate is for another block")
            parent = self._headers.get(header.parent_hash)
            if parent is not None and parent.height + 1 != header.height:
                raise Reject(f"{named}: its height is not one more than its parent's")
        if [skip.view for skip in rest] != list(range(header.parent_view + 1, header.view)):
            raise Reject(f"{named}: it jumps over views that were not skipped")
        if any(skip.kind != SKIP for skip in rest):
            raise Reject(f"{named}: a view it jumps over has no skip certificate")
        for certificate in block.justify:
            self._accept(certificate)

    def _keep_body(self, block: Block, header: Header) -> Body:
        body = Body(block, header)
        self._views.setdefault(header.view, View()).bodies[header.hash] = body
        self._headers[header.hash] = header
        return body

    # --- votes --------------------------------------------------------------------------------------------------

    def _cast(
        self, view: int, kind: int, block: bytes, *, body: Block | None = None, proposal: Block | None = None
    ) -> None:
        """Sign a statement; make it, and the block it is for, durable; only then let it out."""
        me, state = self._voter, self._views.setdefault(view, View())
        assert me is not None, "observers do not vote"
        assert kind not in state.mine, "one statement of a kind per view"
        assert not (kind == FINALIZE and SKIP in state.mine), "finalize after skip"
        assert not (kind == SKIP and FINALIZE in state.mine), "skip after finalize"
        assert kind != FINALIZE or state.mine.get(NOTARIZE) == block, "finalize without own notarize"
        assert (kind == NOTARIZE) == (body is not None), "a notarize vote is written with its block"
        signature = self._sign(vote_message(self._ledger_id, self._epoch, view, kind, block))
        vote = Vote(self._epoch, view, kind, block, me, signature)
        if body is not None:
            self._save(RECORD_BODY, view, codec.encode(body))
        self._save(RECORD_VOTE, view, codec.encode(vote))
        state.mine[kind] = block
        state.votes[kind][me] = vote
        self._write()
        if proposal is not None:
            self._out.append(ToAll(proposal))
        self._out.append(ToAll(vote))
        self._certify(view, kind, block)

    def _remember_mine(self, vote: Vote) -> None:
        """Believe others about a vote of this member's that it has forgotten, so as never to contradict it.

        Only a lost vote log, a restored backup or a second machine with the same key can bring this about.
        """
        state = self._views[vote.view]
        if vote.signer != self._me or vote.kind in state.mine:
            return
        self._forgotten = max(self._forgotten, vote.view)
        state.mine[vote.kind] = vote.block
        state.proposed = True
        self._save(RECORD_VOTE, vote.view, codec.encode(vote))
        text = (
            f"others hold a {VOTE_NAMES[vote.kind]} vote of this member for view {vote.view} that it has no record of"
        )
        self._out.append(Note("vote_forgotten", text, "error"))

    def _restore_body(self, block: Block, header: Header) -> None:
        if header.view <= self.final_view or header.epoch != self._epoch:
            return
        self._keep_body(block, header)
        for certificate in block.justify:
            self._restore_certificate(certificate)

    def _restore_vote(self, vote: Vote) -> None:
        if vote.view <= self.final_view or (vote.epoch, vote.signer) != (self._epoch, self._me):
            return
        state = self._views.setdefault(vote.view, View())
        state.mine.setdefault(vote.kind, vote.block)
        state.votes[vote.kind].setdefault(vote.signer, vote)
        state.proposed = True

    def _restore_certificate(self, certificate: Certificate) -> None:
        if certificate.epoch == self._epoch and certificate.view >= max(self.final_view, 1):
            self._views.setdefault(certificate.view, View()).certificates.setdefault(certificate.kind, certificate)

    def _accuse(self, rule: str, culprit: int, view: int, first: Vote | Block, second: Vote | Block) -> None:
        found = Contradiction(rule, culprit, view, codec.encode(first), codec.encode(second))
        if len(self.evidence) < EVIDENCE_MAX and found not in self.evidence:
            self.evidence.append(found)
            text = f"member {culprit} contradicted itself in view {view}: {rule}"
            self._out.append(Note("equivocation", text, "error"))

    # --- standing still -----------------------------------------------------------------------------------------

    def _watch_standstill(self, now: float) -> None:
        """Rule 8: no finality although there is work: tell others where we stand, ever more seldom.

        A step ends with a move that changed nothing, so what rule 6 has just found of the work is still true.
        """
        if not self._busy:
            self._stall_at = self.stalled_since = None
            self._stall_s = self._timing.standstill_s
        elif self._stall_at is None:
            self.stalled_since = now
            self._stall_at = now + self._stall_s * self._rng.uniform(0.8, 1.2)
        elif now >= self._stall_at:
            self._out.append(ToAll(self.status()))
            self._stall_s = min(2 * self._stall_s, self._timing.standstill_max_s)
            self._stall_at = now + self._stall_s * self._rng.uniform(0.8, 1.2)

    def _behind(self, status: Status) -> bool:
        """Whether a peer holds something that is missing here. One that stands still may be the only one to know."""
        if status.final_view > self.final_view or status.view > self._view:
            return True
        for view, held, *_ in status.held:
            known = self._views.get(view, View()).certificates
            if view > self.final_view and any(held >> kind & 1 and kind not in known for kind in (NOTARIZE, FINALIZE)):
                return True
        return False

    def _afford(self, to: int, size: int, now: float) -> bool:
        """Charge a peer's budget. Return False, and charge nothing, when it is spent for this minute."""
        since, spent = self._budgets.get(to, (now, 0))
        if now - since >= 60:
            since, spent = now, 0
        if spent + size > STATUS_REPLY_BYTES_PER_MINUTE:
            return False
        self._budgets[to] = (since, spent + size)
        return True

    # --- small parts --------------------------------------------------------------------------------------------

    def _live(self, view: int) -> bool:
        return self.final_view < view <= self._view + VIEWS_AHEAD_MAX

    def _timeout(self, view: int) -> float:
        timing = self._timing
        exponent = min(max(0, view - self.final_view - 1), 64)
        return min(timing.t0_s * timing.growth**exponent, timing.t_max_s)

    def _empty_s(self) -> float:
        """How long a leader leaves a notarized block to be finalized by its own votes."""
        return self._timing.t0_s / 2

    def _save(self, kind: int, height: int, payload: bytes) -> None:
        self._unsaved.append(Record(kind, height, payload))

    def _write(self) -> None:
        """Emit everything unsaved as one durable write, ahead of what is sent next."""
        if self._unsaved:
            self._out.append(Durable(tuple(self._unsaved)))
            self._unsaved = []

    def _flush(self) -> list[Output]:
        """Return what to do. Certificates alone are not worth a sync; they wait for the next write."""
        if any(record.kind != RECORD_CERTIFICATE for record in self._unsaved):
            self._write()
        out, self._out = self._out, []
        return out


def _vote_in(certificate: Certificate, signer: int) -> Vote:
    """Return one signer's vote out of a certificate that holds it."""
    signature = certificate.signatures[certificate.signers.index(signer)]
    return Vote(certificate.epoch, certificate.view, certificate.kind, certificate.block, signer, signature)
