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

This file knows no network and no clock: messages and times come in, outputs come out in the order in which they must
happen. What a block contains is its application's business.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol, TypeAlias

import msgspec

from swarm import codec, identity
from swarm.errors import LedgerError, Reject
from swarm.ledger.block import (
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
    Vote,
    decode_block,
    propose_message,
    quorum,
    vote_message,
)
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_CERTIFICATE, RECORD_VOTE, Record

VIEWS_AHEAD_MAX = 50
"""Votes for views further ahead are not kept: without a quorum no view is cleared, so an honest node is never there."""

BODIES_PER_VIEW_MAX = 2
"""Block bodies kept per view. One is honest, two prove equivocation, more prove nothing further."""

WAIT_EXTENSION_MAX = 10
"""A view whose block waits for bytes in flight is given up after this many timeouts: progress, but not for ever."""

EVIDENCE_MAX = 256
"""Contradictory pairs kept in memory."""

STATUS_REPLY_BYTES_PER_MINUTE = 4 << 20
"""What one peer may draw from us by asking for what it lacks. Closes TON's open "death spiral" of rebroadcasts."""

RECORD_BYTES_MAX = 1 << 20

PREFIX_BYTES = 8
"""Of a block's hash in a status: enough that two blocks of one view are not taken for each other by accident."""


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


Verdict: TypeAlias = Valid | Invalid | Wait


class Application(Protocol):
    """Builds and judges blocks."""

    def wants_block(self, parent: bytes, now: float) -> bool:
        """Whether there is work for a block on top of the block with this hash."""
        ...

    def build(
        self, parent: Header | None, parent_hash: bytes, view: int, justify: tuple[Certificate, ...], now: float
    ) -> tuple[Header, tuple[bytes, ...]] | None:
        """Return the block to propose, or None when there is nothing to propose yet."""
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds. T(v) = min(t0 * growth ** (v - v_final - 1), t_max)."""

    t0_s: float = 3.0
    growth: float = 1.5
    t_max_s: float = 300.0
    standstill_s: float = 5.0
    standstill_max_s: float = 60.0


class Status(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Where a member stands: its final block, its view, and what it holds of the views since.

    `held` has one row per view with anything in it: (view, notarize signers, skip signers, finalize signers, blocks
    held). Signers are bit masks, the least significant bit of the first byte for the first member; blocks are the first
    `PREFIX_BYTES` of each hash, concatenated.
    """

    epoch: int
    height: int
    final_view: int
    view: int
    held: tuple[tuple[int, bytes, bytes, bytes, bytes], ...]


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
class Contradiction:
    """Two signed messages of one member that no honest member signs both of: canonical bytes of votes or blocks."""

    rule: str
    culprit: int
    view: int
    first: bytes
    second: bytes


@dataclass(slots=True)
class _Body:
    block: Block
    header: Header
    invalid: str = ""


@dataclass(slots=True)
class _View:
    """What is known about one view."""

    bodies: dict[bytes, _Body] = field(default_factory=dict)
    votes: dict[int, dict[int, Vote]] = field(default_factory=lambda: {kind: {} for kind in VOTE_KINDS})
    certificates: dict[int, Certificate] = field(default_factory=dict)
    mine: dict[int, bytes] = field(default_factory=dict)
    armed_at: float | None = None
    waited: int = 0
    proposed: bool = False

    @property
    def cleared(self) -> bool:
        return NOTARIZE in self.certificates or SKIP in self.certificates


class Consensus:
    """One member's part in the agreement; `me` is None for an observer, who never votes."""

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
        verify: Callable[[bytes, bytes, bytes], bool] = identity.verify,
    ) -> None:
        self._ledger_id, self._epoch, self._keys, self._me = ledger_id, epoch, tuple(vote_keys), me
        self._sign, self._verify, self._app, self._rng = sign, verify, application, rng
        self._timing = timing or Timing()
        self._seed = seed
        self._n = len(vote_keys)
        self._q = quorum(self._n)
        self._views: dict[int, _View] = {}
        self._headers: dict[bytes, Header] = {}
        self._final: Header | None = None
        self._view = 1
        self._unsaved: list[Record] = []
        self._out: list[Output] = []
        self._stall_at: float | None = None
        self._stall_s = self._timing.standstill_s
        self._budgets: dict[int, tuple[float, int]] = {}
        self.evidence: list[Contradiction] = []
        self.stalled_since: float | None = None

    # --- what others may look at --------------------------------------------------------------------------------

    @property
    def final_height(self) -> int:
        """Height of the last final block; 0 before the first."""
        return self._final.height if self._final else 0

    @property
    def final_view(self) -> int:
        """View of the last final block."""
        return self._final.view if self._final else 0

    @property
    def final_hash(self) -> bytes:
        """Hash of the last final block; the ledger's id before the first."""
        return self._final.hash if self._final else self._ledger_id

    @property
    def current_view(self) -> int:
        """The lowest view that is not cleared."""
        return self._view

    def leader(self, view: int) -> int:
        """Index of the member that may propose in a view."""
        return (view + self._seed) % self._n

    def status(self) -> Status:
        """Return what to tell others, so that they can send what is missing here."""
        rows = []
        for view in sorted(self._views):
            state = self._views[view]
            notarize, skip, finalize = (_mask(_signers(state, kind), self._n) for kind in VOTE_KINDS)
            if any(notarize) or any(skip) or any(finalize) or state.bodies:
                rows.append((view, notarize, skip, finalize, b"".join(h[:PREFIX_BYTES] for h in state.bodies)))
        held = tuple(rows[:VIEWS_AHEAD_MAX])
        return Status(self._epoch, self.final_height, self.final_view, self._view, held)

    # --- inputs -------------------------------------------------------------------------------------------------

    def restore(self, records: Iterable[Record]) -> list[Output]:
        """Take back what was durable: the last final block, and the votes, bodies and certificates since.

        Own votes and proposals of live views are sent again; nothing that contradicts one will ever be signed.
        """
        kept: dict[int, list[bytes]] = {RECORD_BLOCK: [], RECORD_BODY: [], RECORD_VOTE: [], RECORD_CERTIFICATE: []}
        for record in records:
            kept.get(record.kind, []).append(record.payload)
        for payload in kept[RECORD_BLOCK][-1:]:
            final = codec.decode(payload, FinalBlock, limit=RECORD_BYTES_MAX)
            self._final = final.block.opened()
            self._headers[self._final.hash] = self._final
            for certificate in final.certificate:
                self._views.setdefault(certificate.view, _View()).certificates[certificate.kind] = certificate
        for payload in kept[RECORD_BODY]:
            block = decode_block(payload)
            self._keep_body(block, block.opened())
        for payload in kept[RECORD_VOTE]:
            self._restore_vote(codec.decode(payload, Vote, limit=RECORD_BYTES_MAX))
        for payload in kept[RECORD_CERTIFICATE]:
            certificate = codec.decode(payload, Certificate, limit=RECORD_BYTES_MAX)
            if certificate.view >= self.final_view:
                self._views.setdefault(certificate.view, _View()).certificates[certificate.kind] = certificate
        self._advance()
        for view in sorted(self._views):
            state = self._views[view]
            mine = [body.block for body in state.bodies.values() if body.block.proposer == self._me]
            self._out += [ToAll(block) for block in mine]
            self._out += [ToAll(v) for kind in VOTE_KINDS for v in state.votes[kind].values() if v.signer == self._me]
        return self._flush()

    def on_proposal(self, block: Block, sender: int, now: float) -> list[Output]:
        """Take in a proposed block. Raises `Reject` if it is malformed, unsigned, or not its leader's to propose."""
        header = Header.decode(block.header)
        if header.epoch != self._epoch or not self._live(header.view):
            return []
        state = self._views.setdefault(header.view, _View())
        if header.hash in state.bodies:
            return []
        if block.proposer != self.leader(header.view):
            raise Reject(f"couldn't accept a block: view {header.view} is not its proposer's to lead")
        block.opened()
        message = propose_message(self._ledger_id, block.header)
        if not self._verify(self._keys[block.proposer], message, block.signature):
            raise Reject(f"couldn't accept a block of view {header.view}: its leader's signature does not verify")
        self._check_justification(block, header)
        if state.bodies:
            other = next(iter(state.bodies.values()))
            self._accuse("two proposals", codec.encode(other.block), codec.encode(block), block.proposer, header.view)
        certified = state.certificates.get(NOTARIZE)
        wanted = certified is not None and certified.block == header.hash
        if len(state.bodies) >= BODIES_PER_VIEW_MAX and not wanted:
            return self._flush()
        self._keep_body(block, header)
        del sender
        return self.step(now)

    def on_vote(self, vote: Vote, sender: int, now: float) -> list[Output]:
        """Take in a vote. Raises `Reject` if it is malformed or its signature does not verify."""
        vote.check()
        del sender
        if vote.epoch != self._epoch or not self._live(vote.view) or vote.signer >= self._n:
            return []
        state = self._views.setdefault(vote.view, _View())
        known = state.votes[vote.kind].get(vote.signer)
        if known is not None and known.block == vote.block:
            return []
        message = vote_message(self._ledger_id, vote.epoch, vote.view, vote.kind, vote.block)
        if not self._verify(self._keys[vote.signer], message, vote.signature):
            raise Reject(f"couldn't accept a vote for view {vote.view}: its signature does not verify")
        self._look_for_contradiction(state, vote)
        if known is not None:
            return self._flush()
        state.votes[vote.kind][vote.signer] = vote
        self._certify(vote.view, state, vote.kind, vote.block)
        return self.step(now)

    def on_certificate(self, certificate: Certificate, sender: int, now: float) -> list[Output]:
        """Take in a certificate. Raises `Reject` unless a quorum of the epoch signed it."""
        del sender
        if certificate.epoch != self._epoch or not self._live(certificate.view):
            return []
        state = self._views.setdefault(certificate.view, _View())
        if certificate.kind in state.certificates:
            return []
        self._check_certificate(certificate)
        self._adopt_certificate(certificate)
        return self.step(now)

    def on_status(self, status: Status, sender: int, now: float) -> list[Output]:
        """Send a member what it lacks of the live views, within its budget."""
        if status.epoch != self._epoch:
            return []
        rows = {row[0]: row for row in status.held}
        for view in sorted(self._views):
            if view <= status.final_view:
                continue
            state = self._views[view]
            row = rows.get(view)
            masks = row[1:4] if row else (b"", b"", b"")
            for kind, theirs in zip(VOTE_KINDS, masks, strict=True):
                self._answer_kind(sender, state, kind, theirs, now)
            known = row[4] if row else b""
            theirs_bodies = {known[i : i + PREFIX_BYTES] for i in range(0, len(known), PREFIX_BYTES)}
            for block_hash, body in state.bodies.items():
                if block_hash[:PREFIX_BYTES] not in theirs_bodies:
                    self._reply(sender, body.block, now)
        return self._flush()

    def adopt_final(self, blocks: Sequence[FinalBlock], now: float) -> list[Output]:
        """Take in consecutive final blocks from a peer. Raises `Reject` unless they extend ours and are certified.

        A block without its own certificate is covered by a later one in the same sequence; what nothing covers is
        left out.
        """
        chain: list[tuple[FinalBlock, Header]] = []
        parent, height = self.final_hash, self.final_height
        for final in blocks:
            header = final.block.opened()
            if header.height <= self.final_height:
                continue
            if header.height != height + 1 or header.parent_hash != parent or header.epoch != self._epoch:
                raise Reject(f"couldn't follow block {header.height}: it does not extend block {height}")
            chain.append((final, header))
            parent, height = header.hash, header.height
            for certificate in final.certificate:
                if certificate.kind != FINALIZE or certificate.block != header.hash:
                    raise Reject(f"couldn't follow block {header.height}: its certificate is for something else")
                self._check_certificate(certificate)
        while chain and not chain[-1][0].certificate:
            chain.pop()
        for final, header in chain:
            self._commit(final, header, now)
        return self.step(now)

    def step(self, now: float) -> list[Output]:
        """Look at everything again: votes to cast, blocks to propose, views to give up."""
        while self._once(now):
            pass
        self._watch_standstill(now)
        return self._flush()

    def next_wake(self, now: float) -> float | None:
        """Return when `step` has something to look at even if nothing arrives."""
        times = [] if self._stall_at is None else [self._stall_at]
        state = self._views.get(self._view)
        if state is not None and state.armed_at is not None:
            times += [state.armed_at + self._timeout(self._view), state.armed_at + self._empty_s()]
        return min((t for t in times if t > now), default=None)

    # --- one look -----------------------------------------------------------------------------------------------

    def _once(self, now: float) -> bool:
        """Make one move if there is one. Return whether anything changed."""
        before = (self._view, self.final_height)
        self._finalize_known(now)
        self._advance()
        voted = self._vote_finalize() or self._vote_notarize(now)
        proposed = self._propose(now)
        skipped = self._give_up(now)
        return voted or proposed or skipped or before != (self._view, self.final_height)

    def _advance(self) -> None:
        """Move to the lowest view that is not cleared."""
        finalized = max((v for v, state in self._views.items() if FINALIZE in state.certificates), default=0)
        view = max(self._view, self.final_view + 1, finalized + 1)
        while view in self._views and self._views[view].cleared:
            view += 1
        if view != self._view:
            self._view = view
            self._progress()

    def _vote_notarize(self, now: float) -> bool:
        """Rule 4: once per view, if the justification holds (checked on arrival) and the block is valid."""
        state = self._views.get(self._view)
        if self._me is None or state is None or NOTARIZE in state.mine or SKIP in state.mine:
            return False
        for block_hash in list(state.bodies):
            body = state.bodies[block_hash]
            if body.invalid or not self._observe(body.header.parent_hash):
                continue
            verdict = self._app.judge(body.block, body.header, now)
            match verdict:
                case Valid():
                    self._cast(self._view, NOTARIZE, block_hash, body.block)
                    return True
                case Invalid():
                    body.invalid = verdict.reason
                    text = f"not voting for block {body.header.height} of view {self._view}: {verdict.reason}"
                    self._out.append(Note("block_refused", text, "warning"))
                case Wait():
                    overdue = state.armed_at is not None and now >= state.armed_at + self._timeout(self._view)
                    if verdict.progressing and overdue and state.waited < WAIT_EXTENSION_MAX:
                        state.waited += 1
                        state.armed_at = now
        return False

    def _vote_finalize(self) -> bool:
        """Rule 5: for any live view, late ones too, as finality of v needs nothing from later views."""
        if self._me is None:
            return False
        for view in sorted(self._views):
            state = self._views[view]
            certificate = state.certificates.get(NOTARIZE)
            if certificate is None or FINALIZE in state.mine or SKIP in state.mine:
                continue
            if state.mine.get(NOTARIZE) == certificate.block:
                self._cast(view, FINALIZE, certificate.block, None)
                return True
        return False

    def _propose(self, now: float) -> bool:
        """Rule 3: extend the newest notarized block, with skip certificates for every view jumped over."""
        if self._me is None or self.leader(self._view) != self._me:
            return False
        state = self._views.setdefault(self._view, _View())
        if state.proposed or state.bodies or state.mine:
            return False
        base = self._base()
        if base is None:
            return False
        parent, parent_hash, justify = base
        if not self._observe(parent_hash):
            return False
        if not self._app.wants_block(parent_hash, now):
            # An empty block only serves to finalise its ancestors, when their own votes did not.
            overdue = state.armed_at is not None and now >= state.armed_at + self._empty_s()
            if parent_hash == self.final_hash or not overdue:
                return False
        built = self._app.build(parent, parent_hash, self._view, justify, now)
        if built is None:
            return False
        header, leaves = built
        assert header.epoch == self._epoch, "the application builds for the epoch at hand"
        signature = self._sign(propose_message(self._ledger_id, header.encode()))
        block = Block(header.encode(), leaves, justify, self._me, signature)
        state.proposed = True
        self._keep_body(block, header)
        # The leader's own vote makes the body durable before the proposal is sent: a leader that forgot its proposal
        # would propose another one and frame itself.
        match self._app.judge(block, header, now):
            case Valid():
                self._cast(self._view, NOTARIZE, header.hash, block, announce=block)
            case _:
                self._save(RECORD_BODY, self._view, codec.encode(block))
                self._write()
                self._out.append(ToAll(block))
        return True

    def _give_up(self, now: float) -> bool:
        """Rule 6: skip a view that took too long, unless its block has my finalize vote."""
        view = self._view
        state = self._views.setdefault(view, _View())
        if not self._work(now):
            state.armed_at = None
            return False
        if state.armed_at is None:
            state.armed_at = now
        if self._me is None or SKIP in state.mine or FINALIZE in state.mine:
            return False
        leader_left = self.leader(view) in state.votes[SKIP]
        refused = bool(state.bodies) and all(body.invalid for body in state.bodies.values())
        gone = not state.bodies and self._app.suspects(self.leader(view), now)
        if leader_left or refused or gone or now >= state.armed_at + self._timeout(view):
            self._cast(view, SKIP, NO_HASH, None)
            return True
        return False

    def _work(self, now: float) -> bool:
        """Rule 2: timers run only while there is something to agree on."""
        state = self._views.get(self._view)
        if state is not None and (state.bodies or any(state.votes.values())):
            return True
        open_views = (self._views[view] for view in self._views if view > self.final_view)
        if any(NOTARIZE in known.certificates or FINALIZE in known.certificates for known in open_views):
            return True
        return self._app.wants_block(self.final_hash, now)

    def _base(self) -> tuple[Header | None, bytes, tuple[Certificate, ...]] | None:
        """Return the newest block that may be extended in the current view, and why; None if it is not known here."""
        skips: list[Certificate] = []
        for view in range(self._view - 1, self.final_view, -1):
            state = self._views.get(view)
            notarized = _extendable(state)
            if notarized is not None:
                header = self._headers.get(notarized.block)
                return None if header is None else (header, notarized.block, (notarized, *reversed(skips)))
            skipped = state.certificates.get(SKIP) if state else None
            if skipped is None:
                return None
            skips.append(skipped)
        if self._final is None:
            return None, self._ledger_id, tuple(reversed(skips))
        certificate = _extendable(self._views.get(self._final.view))
        return None if certificate is None else (self._final, self._final.hash, (certificate, *reversed(skips)))

    # --- certificates and finality ------------------------------------------------------------------------------

    def _certify(self, view: int, state: _View, kind: int, block: bytes) -> None:
        """Form a certificate when a quorum has said the same."""
        if kind in state.certificates:
            return
        votes = [vote for _, vote in sorted(state.votes[kind].items()) if vote.block == block]
        if len(votes) >= self._q:
            signers = tuple(vote.signer for vote in votes)
            signatures = tuple(vote.signature for vote in votes)
            self._adopt_certificate(Certificate(self._epoch, view, kind, block, signers, signatures))

    def _adopt_certificate(self, certificate: Certificate) -> None:
        self._views.setdefault(certificate.view, _View()).certificates[certificate.kind] = certificate
        # A later justification may need it; it becomes durable with whatever is written next.
        self._unsaved.append(Record(RECORD_CERTIFICATE, certificate.view, codec.encode(certificate)))

    def _finalize_known(self, now: float) -> None:
        """Finalize the highest block that has a finalize certificate and whose ancestors are all here."""
        for view in sorted((v for v in self._views if v > self.final_view), reverse=True):
            certificate = self._views[view].certificates.get(FINALIZE)
            chain = None if certificate is None else self._chain(certificate.block)
            if certificate is not None and chain is not None:
                for body in chain:
                    last = body.header.hash == certificate.block
                    self._commit(FinalBlock(body.block, (certificate,) if last else ()), body.header, now)
                return

    def _chain(self, block_hash: bytes) -> list[_Body] | None:
        """Return the bodies from just above the last final block up to this one, or None if one is missing."""
        chain: list[_Body] = []
        while block_hash != self.final_hash:
            header = self._headers.get(block_hash)
            body = None if header is None else self._views.get(header.view, _View()).bodies.get(block_hash)
            if body is None or body.header.height <= self.final_height:
                return None
            chain.append(body)
            block_hash = body.header.parent_hash
        return chain[::-1]

    def _commit(self, final: FinalBlock, header: Header, now: float) -> None:
        if header.parent_hash != self.final_hash:
            raise LedgerError(
                f"two final blocks at height {header.height} do not follow one another",
                hint="more members have lied than the swarm tolerates; keep this ledger and its evidence",
            )
        self._app.finalized(final, header, now)
        self._save(RECORD_BLOCK, header.height, codec.encode(final))
        self._final = header
        self._headers[header.hash] = header
        for certificate in final.certificate:
            self._views.setdefault(header.view, _View()).certificates.setdefault(FINALIZE, certificate)
        self._views = {view: state for view, state in self._views.items() if view >= header.view}
        live = {h for state in self._views.values() for h in state.bodies}
        self._headers = {h: known for h, known in self._headers.items() if h in live or h == header.hash}
        self._progress()

    def _check_certificate(self, certificate: Certificate) -> None:
        if certificate.epoch != self._epoch:
            raise Reject("couldn't accept a certificate: it is of another epoch")
        certificate.check(self._ledger_id, self._keys, self._q, self._verify)

    def _check_justification(self, block: Block, header: Header) -> None:
        """Raise `Reject` unless the block may extend what it extends: rule 3, seen from the other side."""
        named = f"couldn't accept a block of view {header.view}"
        rest = list(block.justify)
        if header.parent_hash == self._ledger_id:
            if header.parent_view != 0 or header.height != 1:
                raise Reject(f"{named}: it does not begin the ledger as it claims")
        else:
            first = rest.pop(0) if rest else None
            if first is None or first.kind not in (NOTARIZE, FINALIZE):
                raise Reject(f"{named}: nothing says that its parent may be extended")
            if (first.view, first.block) != (header.parent_view, header.parent_hash):
                raise Reject(f"{named}: its parent's certificate is for another block")
            self._accept_justification(first)
        if [skip.view for skip in rest] != list(range(header.parent_view + 1, header.view)):
            raise Reject(f"{named}: it jumps over views that were not skipped")
        for skip in rest:
            if skip.kind != SKIP:
                raise Reject(f"{named}: a view it jumps over has no skip certificate")
            self._accept_justification(skip)

    def _accept_justification(self, certificate: Certificate) -> None:
        """Check a certificate, once, and learn it."""
        state = self._views.get(certificate.view)
        known = state.certificates.get(certificate.kind) if state else None
        if known is not None and known.block == certificate.block:
            return
        self._check_certificate(certificate)
        if known is None and self._live(certificate.view):
            self._adopt_certificate(certificate)

    # --- votes --------------------------------------------------------------------------------------------------

    def _cast(self, view: int, kind: int, block: bytes, body: Block | None, announce: Block | None = None) -> None:
        """Sign a statement; make it, and the block it is for, durable; only then let it out."""
        assert self._me is not None, "observers do not vote"
        state = self._views.setdefault(view, _View())
        assert kind not in state.mine, "one statement of a kind per view"
        assert not (kind == FINALIZE and SKIP in state.mine), "finalize after skip"
        assert not (kind == SKIP and FINALIZE in state.mine), "skip after finalize"
        assert kind != FINALIZE or state.mine.get(NOTARIZE) == block, "finalize without own notarize"
        signature = self._sign(vote_message(self._ledger_id, self._epoch, view, kind, block))
        vote = Vote(self._epoch, view, kind, block, self._me, signature)
        if body is not None:
            self._save(RECORD_BODY, view, codec.encode(body))
        self._save(RECORD_VOTE, view, codec.encode(vote))
        state.mine[kind] = block
        state.votes[kind][self._me] = vote
        self._write()
        if announce is not None:
            self._out.append(ToAll(announce))
        self._out.append(ToAll(vote))
        self._certify(view, state, kind, block)

    def _restore_vote(self, vote: Vote) -> None:
        if vote.view <= self.final_view or vote.signer != self._me:
            return
        state = self._views.setdefault(vote.view, _View())
        state.mine[vote.kind] = vote.block
        state.votes[vote.kind][vote.signer] = vote
        state.proposed = True

    def _look_for_contradiction(self, state: _View, vote: Vote) -> None:
        """Two signed statements that no honest member makes (ledger.md 1.5)."""
        for kind in VOTE_KINDS:
            other = state.votes[kind].get(vote.signer)
            if other is None:
                continue
            same_kind = kind == vote.kind and other.block != vote.block
            skip_final = {kind, vote.kind} == {SKIP, FINALIZE}
            split = {kind, vote.kind} == {NOTARIZE, FINALIZE} and other.block != vote.block
            if same_kind or skip_final or split:
                rule = f"{VOTE_NAMES[kind]}+{VOTE_NAMES[vote.kind]}"
                self._accuse(rule, codec.encode(other), codec.encode(vote), vote.signer, vote.view)

    def _accuse(self, rule: str, first: bytes, second: bytes, culprit: int, view: int) -> None:
        found = Contradiction(rule, culprit, view, first, second)
        if len(self.evidence) < EVIDENCE_MAX and found not in self.evidence:
            self.evidence.append(found)
            text = f"member {culprit} contradicted itself in view {view}: {rule}"
            self._out.append(Note("equivocation", text, "error"))

    # --- standing still -----------------------------------------------------------------------------------------

    def _watch_standstill(self, now: float) -> None:
        """Rule 8: no finality although there is work: tell others where we stand, ever more seldom."""
        if not self._work(now):
            self._progress()
        elif self._stall_at is None:
            self.stalled_since = now
            self._stall_at = now + self._stall_s * self._rng.uniform(0.8, 1.2)
        elif now >= self._stall_at:
            self._out.append(ToAll(self.status()))
            self._stall_s = min(2 * self._stall_s, self._timing.standstill_max_s)
            self._stall_at = now + self._stall_s * self._rng.uniform(0.8, 1.2)

    def _progress(self) -> None:
        """Something was cleared or finalised: standing still begins anew."""
        self._stall_at = self.stalled_since = None
        self._stall_s = self._timing.standstill_s

    def _answer_kind(self, to: int, state: _View, kind: int, theirs: bytes, now: float) -> None:
        certificate = state.certificates.get(kind)
        if certificate is not None:
            if _bits(theirs) < self._q:
                self._reply(to, certificate, now)
            return
        for signer, vote in sorted(state.votes[kind].items()):
            if not _has(theirs, signer):
                self._reply(to, vote, now)

    def _reply(self, to: int, message: Block | Vote | Certificate, now: float) -> None:
        """Answer within the peer's budget."""
        since, spent = self._budgets.get(to, (now, 0))
        if now - since >= 60:
            since, spent = now, 0
        spent += len(codec.encode(message))
        if spent <= STATUS_REPLY_BYTES_PER_MINUTE:
            self._budgets[to] = (since, spent)
            self._out.append(ToOne(to, message))

    # --- small parts --------------------------------------------------------------------------------------------

    def _live(self, view: int) -> bool:
        return self.final_view < view <= self._view + VIEWS_AHEAD_MAX

    def _observe(self, block_hash: bytes) -> bool:
        """Show the application the blocks above the final one up to this one. Return whether all of them are here."""
        chain = self._chain(block_hash)
        if chain is None:
            return False
        for body in chain:
            self._app.observe(body.block, body.header)
        return True

    def _timeout(self, view: int) -> float:
        timing = self._timing
        exponent = min(max(0, view - self.final_view - 1), 64)
        return min(timing.t0_s * timing.growth**exponent, timing.t_max_s)

    def _empty_s(self) -> float:
        """How long a leader leaves a notarized block to be finalised by its own votes."""
        return self._timing.t0_s / 2

    def _keep_body(self, block: Block, header: Header) -> None:
        if header.view > self.final_view:
            self._views.setdefault(header.view, _View()).bodies[header.hash] = _Body(block, header)
            self._headers[header.hash] = header

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


def _extendable(state: _View | None) -> Certificate | None:
    """Return what says that the block of a view may be extended: a quorum notarized it, or even finalized it."""
    return None if state is None else state.certificates.get(NOTARIZE) or state.certificates.get(FINALIZE)


def _signers(state: _View, kind: int) -> Iterable[int]:
    certificate = state.certificates.get(kind)
    return [*state.votes[kind], *(certificate.signers if certificate else ())]


def _mask(signers: Iterable[int], n: int) -> bytes:
    """Return signers as a bit mask, least significant bit of the first byte first."""
    mask = bytearray((n + 7) // 8)
    for signer in signers:
        mask[signer // 8] |= 1 << signer % 8
    return bytes(mask)


def _has(mask: bytes, signer: int) -> bool:
    return signer // 8 < len(mask) and bool(mask[signer // 8] >> signer % 8 & 1)


def _bits(mask: bytes) -> int:
    return int.from_bytes(mask, "little").bit_count()
