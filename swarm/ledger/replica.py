"""One member's copy of the ledger: the final state, the blocks being agreed on, and the entries not ordered yet.

This is the application that `swarm.ledger.consensus` asks to build and to judge blocks. What the log alone decides is
in `swarm.ledger.state`. What depends on who asks is asked of a `Witness`: do I hold these bytes, has that site gone
silent? Such soft answers delay a vote, they never make a block invalid for ever: two honest members may answer
differently for a while.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace

from swarm import codec, identity
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, Reject
from swarm.identity import Verify
from swarm.ledger import entry as e
from swarm.ledger.block import (
    BLOCK_BYTES_MAX,
    BLOCK_LEAVES_MAX,
    Block,
    Certificate,
    FinalBlock,
    Header,
    Root,
    entries_hash,
    justify_hash,
)
from swarm.ledger.consensus import Invalid, Overtaken, Valid, Verdict, Wait
from swarm.ledger.masked_waits import MaskedWaits
from swarm.ledger.outlook import Outlook
from swarm.ledger.state import (
    Authored,
    Placed,
    Signatures,
    State,
    activate,
    apply_authored,
    apply_block,
    apply_derived,
    before_close,
    begin_block,
    derived_leaf,
    due_commit,
    due_epoch,
    fits,
    genesis,
    make_close,
    make_void,
    open_authored,
)
from swarm.machine import Digest, NodeId

RECENT_PER_AUTHOR = 64
"""Final entries of each author remembered, so that a late second entry for the same place is noticed."""

PENDING_PER_AUTHOR_MAX = 64
"""Entries of one author that may wait to be ordered. A peer writes three a round and may be a few rounds ahead."""

GATHER_S = 1.0
"""How long a leader lets entries that complete nothing collect before it spends a block on them."""

ATTEST_GATHER_S = 0.1
"""How long a leader that already has a quorum of attests waits for the rest, so that they are on record too."""

RESERVED_BYTES = 96 * 1024
"""Room left in a block for derived entries and certificates."""


class Witness(Protocol):
    """What this member knows and the log does not say."""

    def absent(self, node: NodeId, now: float) -> bool:
        """Whether nobody has heard of the member lately."""
        ...

    def usable(self, digest: Digest) -> bool | None:
        """Whether the update is held and fit to be averaged; None while it is not known."""
        ...

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of it are arriving."""
        ...

    def arrived(self, author: NodeId, body: e.Contribution) -> bool:
        """Whether as much of an update is held as this member needs on the charter's route."""
        ...

    def stuck(self) -> bool:
        """Whether the charter's route does not seem to lead the closed round to a mean any more."""
        ...

    def dealt(self, node: NodeId, digest: Digest) -> bool | None:
        """Whether a deal for the roster at hand has been read and is one; None while it has not been read."""
        ...

    def silent(self, node: NodeId, now: float) -> bool:
        """Whether the member has made no progress for the charter's patience."""
        ...

    def outpaced(self, node: NodeId, round_: int, now: float) -> bool:
        """Whether a round goes on without a member that moves, as the others' pace has it (`swarm.pace`)."""
        ...


@dataclass(frozen=True, slots=True)
class Pending:
    """An entry that is not final yet, and since when it has waited."""

    authored: Authored
    since: float

    @property
    def entry(self) -> e.Entry:
        """The envelope."""
        return self.authored.entry

    @property
    def leaf(self) -> bytes:
        """The envelope's bytes."""
        return self.authored.leaf

    @property
    def body(self) -> msgspec.Struct:
        """What it says."""
        return self.authored.body


class Replica:
    """See the module. `head` is the final state; `forks` holds, per author, two signed entries that contradict.

    Up to `trusted_height` the entries of final blocks are believed to be signed by their authors, as a quorum has said
    by signing the blocks. `admitted` counts the entries taken in. `settled` is the state whose hash is in the header of
    the last final block: `head`, unless an epoch began with that.
    """

    def __init__(self, signed: SignedCharter, witness: Witness, verify: Verify = identity.verify) -> None:
        self.head = self.settled = genesis(signed)
        self._charter = signed.charter
        self._witness = witness
        self._signatures = Signatures(verify)
        self._verify = verify
        self._states: dict[bytes, State] = {self.head.ledger_id: self.head}
        self._pool: dict[NodeId, dict[int, Pending]] = {seat.node: {} for seat in self.head.terms.members}
        self._certificate: tuple[Header, Certificate] | None = None
        self._fresh: list[tuple[Header, Block]] = []
        self._ahead_of: dict[bytes, Outlook] = {}
        self._heads_told: tuple[State, int, tuple[tuple[bytes, int], ...]] | None = None
        self._waiting_since: tuple[float | None] | None = None  # of the oldest entry that waits, when that is known
        self._recent: dict[NodeId, dict[int, bytes]] = {}
        self._orphans: list[tuple[NodeId, bytes]] = []
        self._masks = MaskedWaits(witness, self._given_up)
        self._seen_open: dict[int, float] = {}  # rounds, and when this member first asked whether they can be closed
        self._seen_stuck: dict[int, float] = {}  # and when it first had too little of one to close it a second time
        self.forks: dict[NodeId, tuple[bytes, bytes]] = {}
        self.admitted = 0
        self.trusted_height = 0

    def restore(self, final: FinalBlock, header: Header) -> None:
        """Take back a final block this node had made durable: its signatures were checked before that."""
        self._signatures.trusting = True
        self.finalized(final, header, 0.0)
        self._signatures.trusting = False

    def resume(self, state: State, header: Header) -> None:
        """Begin at the state after the final block with this header. Raises `LedgerError` unless that is its state."""
        if state.ledger_id != self.head.ledger_id or state.digest() != header.state_hash:
            raise LedgerError(
                f"couldn't start from the snapshot of block {header.height}: it is not the state that block names",
                hint="remove the file ledger/snapshot; it is made again from the blocks",
            )
        self._pool = {seat.node: {} for seat in state.terms.members}
        self._move(state, header, 0.0)

    def recall(self, final: FinalBlock, header: Header) -> None:
        """Remember a final block that the state holds already."""
        for leaf in final.block.leaves:
            self._settle(leaf)
        if final.certificate and not final.cover:
            self._certificate = (header, final.certificate[0])
        self._fresh.append((header, final.block))

    # --- entries ------------------------------------------------------------------------------------------------

    def admit(self, leaf: bytes, now: float) -> Pending | None:
        """Take in a signed entry. Return it when it is new and within bounds, else None.

        Raises:
            Reject: it is malformed or not signed by a member.
        """
        entry = e.decode_entry(leaf)
        author = NodeId(entry.author)
        feed = self._pool.get(author)
        if feed is None:
            raise Reject(f"couldn't accept an entry: its author {author.hex()[:8]} is not a member")
        known = feed.get(entry.seq)
        if known is not None and known.leaf == leaf:
            return None
        head = self.head.heads[author]
        final = self._recent.get(author, {}).get(entry.seq)
        if final == leaf or not (final or head.seq <= entry.seq < head.seq + PENDING_PER_AUTHOR_MAX):
            return None
        authored = open_authored(self.head, entry, leaf, self._signatures)
        first = final or (known.leaf if known is not None else None)
        if first is not None:
            # Two signed entries in one place of a feed: the author's doing, not that of whoever passed them on.
            if e.decode_entry(first).id != authored.id:
                self.forks.setdefault(author, (first, leaf))
            return None
        self._watch_attempts(author, authored, feed)
        pending = feed[entry.seq] = Pending(authored, now)
        self.admitted += 1
        if self._waiting_since == (None,) or entry.seq + 1 in feed:
            self._waiting_since = None  # Otherwise something older waits, and this does not change since when.
        self._ahead_of = {block: seen for block, seen in self._ahead_of.items() if seen.grow(author, feed)}
        return pending

    def _watch_attempts(self, author: NodeId, authored: Authored, feed: Mapping[int, Pending]) -> None:
        """Notice two contributions that claim to be the same attempt at a round."""
        body = authored.body
        if isinstance(body, e.Contribution):
            for other in feed.values():
                claim = other.body
                if isinstance(claim, e.Contribution) and (claim.round, claim.attempt) == (body.round, body.attempt):
                    self.forks.setdefault(author, (other.leaf, authored.leaf))

    def pending(self, state: State) -> Iterator[Pending]:
        """Yield, in member order, the entries that continue the feeds of `state`."""
        for seat in self.head.terms.members:
            feed, head = self._pool[seat.node], state.heads[seat.node]
            seq, prev = head.seq, head.prev
            while (found := feed.get(seq)) is not None and found.entry.prev == prev:
                yield found
                seq, prev = seq + 1, found.authored.id

    def feed_heads(self) -> tuple[tuple[bytes, int], ...]:
        """Return, per member, the next sequence number this replica lacks, final and pending entries together."""
        as_of = self.head, self.admitted
        if self._heads_told is None or self._heads_told[0] is not as_of[0] or self._heads_told[1] != as_of[1]:
            heads = tuple((bytes(seat.node), self.next_entry(seat.node).seq) for seat in self.head.terms.members)
            self._heads_told = (*as_of, heads)
        return self._heads_told[2]

    def entries_from(self, author: NodeId, seq: int) -> list[bytes]:
        """Return the pending leaves of an author from `seq` on, while they continue."""
        found: list[bytes] = []
        feed = self._pool.get(author)
        if not feed:
            return found
        while (pending := feed.get(seq)) is not None:
            found.append(pending.leaf)
            seq += 1
        return found

    def next_entry(self, author: NodeId) -> _Next:
        """Return the sequence number and previous id that the author's next entry must have."""
        head, feed = self.head.heads[author], self._pool[author]
        seq, prev = head.seq, head.prev
        while (found := feed.get(seq)) is not None and found.entry.prev == prev:
            seq, prev = seq + 1, found.authored.id
        return _Next(seq, prev)

    def parted(self, author: NodeId) -> bool:
        """Whether what a member would say next stands here already, following on something else that it has said."""
        return self.next_entry(author).seq in self._pool[author]

    def own(self, author: NodeId) -> list[Pending]:
        """Return the entries of one member that wait to be ordered, in order."""
        feed, found = self._pool.get(author, {}), []
        head = self.head.heads.get(author)
        seq, prev = (0, b"") if head is None else (head.seq, head.prev)
        while (pending := feed.get(seq)) is not None and pending.entry.prev == prev:
            found.append(pending)
            seq, prev = seq + 1, pending.authored.id
        return found

    def last_of(self, author: NodeId) -> bytes:
        """Return the last leaf of a member's feed that is known here, final or not; empty when there is none."""
        feed, recent = self._pool.get(author, {}), self._recent.get(author, {})
        known = {**recent, **{seq: pending.leaf for seq, pending in feed.items()}}
        return known[max(known)] if known else b""

    def take_orphans(self, author: NodeId) -> list[bytes]:
        """Return the leaves of a member that a change of terms has made void since the last call; forget the rest."""
        orphans, self._orphans = self._orphans, []
        return [leaf for who, leaf in orphans if who == author]

    def bodies(self, kind: type[msgspec.Struct]) -> Iterator[tuple[NodeId, msgspec.Struct]]:
        """Yield the pending bodies of one type, in member order."""
        for pending in self.pending(self.head):
            if isinstance(pending.body, kind):
                yield NodeId(pending.entry.author), pending.body

    def take_final(self) -> list[tuple[Header, Block]]:
        """Return the blocks finalised since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh

    # --- what consensus asks ------------------------------------------------------------------------------------

    def wants_block(self, parent: bytes, now: float) -> bool:
        """Whether there is enough to say on top of `parent` to spend a block on it now."""
        before = self._states.get(parent)
        if before is None or before.coming is not None:
            return False  # An epoch's last block needs its own votes, or an empty one on top, and nothing else.
        outlook = self._ahead(parent, before)
        if outlook.overdue:
            return True  # Fewer members make a quorum since the last block: nobody needs to say anything more.
        state, oldest = outlook.state, outlook.oldest
        if self._offers_are_in(outlook, now) or self._may_close(outlook, now) or due_epoch(state) is not None:
            return True
        if oldest is None:
            return False
        if state.close is not None and len(state.attests) >= state.terms.quorum:
            return now >= oldest + ATTEST_GATHER_S or self._attests_are_in(outlook, now)  # the sum `next_wake` names
        return now >= oldest + GATHER_S

    def next_wake(self, now: float) -> float | None:
        """Return when a gathering period ends."""
        if self._waiting_since is None:
            self._waiting_since = (min((pending.since for pending in self.pending(self.head)), default=None),)
        oldest = self._waiting_since[0]
        if oldest is None:
            return None
        return next((end for end in (oldest + ATTEST_GATHER_S, oldest + GATHER_S) if end > now), None)

    def build(
        self, parent: bytes, parent_view: int, view: int, justify: tuple[Certificate, ...], now: float
    ) -> tuple[Header, tuple[bytes, ...]] | None:
        """Return the next block on top of `parent`, or None when the parent's state is not known."""
        before = self._states.get(parent)
        if before is None:
            return None
        time_ms = max(int(now * 1000), before.time_ms + 1)
        epoch = self.head.terms.epoch
        leaves: list[bytes] = []
        if before.coming is not None:
            # The epoch's last block is not final yet: an empty one on top of it helps it there.
            state = replace(before, time_ms=time_ms)
        else:
            root = Root(parent, parent_view, before.height)
            state = self._fill(begin_block(before, epoch, time_ms, root), leaves, now)
        state = replace(state, height=before.height + 1)
        header = Header(
            epoch=epoch,
            view=view,
            height=state.height,
            parent_hash=parent,
            parent_view=parent_view,
            time_ms=time_ms,
            first_index=before.size,
            count=len(leaves),
            size=state.size,
            root=state.frontier.root(),
            entries_hash=entries_hash(leaves),
            state_hash=state.digest(),
            justify_hash=justify_hash(justify),
        )
        self._states[header.hash] = state
        return header, tuple(leaves)

    def suspects(self, member: int, now: float) -> bool:
        """Whether to expect no proposal of a member."""
        return self._witness.absent(self.head.terms.members[member].node, now)

    def ends_epoch(self, block: bytes) -> bool:
        """Whether a block holds the entry of the next epoch."""
        state = self._states.get(block)
        return state is not None and (state.coming is not None or block == state.root.hash)

    def observe(self, block: Block, header: Header) -> None:
        """Learn the state after a block that others may extend. A block that breaks the rules has none."""
        with contextlib.suppress(Reject):
            self._follow(block, header)

    def judge(self, block: Block, header: Header, now: float) -> Verdict:
        """Say whether to vote for a block: by the log, then by what this member knows."""
        if header.time_ms > now * 1000 + self._charter.ledger.max_skew_ms:
            return Wait("it is dated in the future", progressing=False)
        try:
            state = self._follow(block, header)
        except Reject as reason:
            return Invalid(reason.message)
        before = self._states[header.parent_hash]
        if self._charter.masks:
            step = before_close(before, header, block.leaves, self._signatures)
            return Valid() if step is None else self._masks.judge(*step, now)
        if state.close is not None and (before.close is None or before.close.index != state.close.index):
            return self._judge_close(state, now)
        return Valid()

    def finalized(self, final: FinalBlock, header: Header, now: float) -> None:
        """Move the final state forward. Raises `LedgerError` if a certified block breaks the rules."""
        state = self._states.get(header.hash)
        if state is None:
            believed = self._signatures.trusting
            self._signatures.trusting = believed or header.height <= self.trusted_height
            try:
                state = apply_block(self.head, header, final.block.leaves, self._signatures)
            except Reject as reason:
                raise LedgerError(
                    f"couldn't follow the ledger past height {self.head.height}: {reason.message}",
                    hint="too many members have lied, or this software differs from theirs; keep the evidence",
                ) from None
            finally:
                self._signatures.trusting = believed
        self._move(state, header, now)
        self.recall(final, header)

    # --- parts --------------------------------------------------------------------------------------------------

    def _move(self, state: State, header: Header, now: float) -> None:
        """Make the state after a final block the final state, and begin an epoch if it ends one."""
        self.head = self.settled = state
        self._states = {h: s for h, s in self._states.items() if s.height > state.height}
        if state.coming is not None:
            self._begin_epoch(activate(state, Root(header.hash, header.view, header.height)), now)
        self._states[header.hash] = self.head
        self._ahead_of.clear()
        self._waiting_since = None

    def _begin_epoch(self, state: State, now: float) -> None:
        """Let the new terms take effect, and keep of what waits to be ordered only what stands under them."""
        self.head = state
        self._states = {}
        waiting, self._pool = self._pool, {seat.node: {} for seat in state.terms.members}
        for author, feed in waiting.items():
            for _, pending in sorted(feed.items()):
                try:
                    self.admit(pending.leaf, now)
                except Reject:
                    self._orphans.append((author, pending.leaf))

    def _fill(self, state: State, leaves: list[bytes], now: float) -> State:
        """Append to a block what there is to say, in its order, and return the state after it."""
        time_ms = state.time_ms
        state = self._record_certificate(state, time_ms, leaves)
        state = self._order_entries(state, leaves)
        commit = due_commit(state)
        if commit is not None:
            leaves.append(derived_leaf(state, e.ROUND_COMMIT, commit, time_ms))
            state = apply_derived(state, e.ROUND_COMMIT, commit, time_ms)
        step = self._masks.due(state, now, time_ms) if self._charter.masks else self._ready(state, now, time_ms)
        if step is not None:
            kind = e.ROUND_CLOSE if isinstance(step, e.RoundClose) else e.MASK_ROSTER
            leaves.append(derived_leaf(state, kind, step, time_ms))
            state = apply_derived(state, kind, step, time_ms)
        due = due_epoch(state)
        if due is not None:
            leaves.append(derived_leaf(state, e.EPOCH, due[0], time_ms))
            state = apply_derived(state, e.EPOCH, due[0], time_ms)
        return state

    def _settle(self, leaf: bytes) -> None:
        """An entry is final: it no longer waits, and whatever else its author signed for its place is a fork."""
        entry = e.decode_entry(leaf)
        if entry.author == e.NO_AUTHOR:
            return
        author = NodeId(entry.author)
        self._waiting_since = None
        waiting = self._pool.get(author, {}).pop(entry.seq, None)
        if waiting is not None and waiting.authored.id != entry.id:
            self.forks.setdefault(author, (waiting.leaf, leaf))
        recent = self._recent.setdefault(author, {})
        recent[entry.seq] = leaf
        recent.pop(entry.seq - RECENT_PER_AUTHOR, None)

    def _follow(self, block: Block, header: Header) -> State:
        """Return the state after a block. Raises `Reject` when it breaks the rules, or extends one that does."""
        state = self._states.get(header.hash)
        if state is None:
            before = self._states.get(header.parent_hash)
            if before is None:
                raise Reject(f"couldn't accept block {header.height}: the block it extends is not acceptable")
            state = apply_block(before, header, block.leaves, self._signatures)
            self._check_recorded(block, before)
            self._states[header.hash] = state
        return state

    def _ahead(self, block: bytes, state: State) -> Outlook:
        """Return what would be so after a block if all that waits were ordered. It is kept until a block is final."""
        known = self._ahead_of.get(block)
        if known is None:
            known = self._ahead_of[block] = Outlook.of(state, self.pending(state))
        return known

    def _record_certificate(self, state: State, time_ms: int, leaves: list[bytes]) -> State:
        """Put the newest finalize certificate on record when the log does not have it yet."""
        if self._certificate is None or self._certificate[0].height <= state.certified:
            return state
        header, certificate = self._certificate
        body = e.BlockCert(header.encode(), codec.encode(certificate))
        leaves.append(derived_leaf(state, e.BLOCK_CERT, body, time_ms))
        return apply_derived(state, e.BLOCK_CERT, body, time_ms)

    def _order_entries(self, state: State, leaves: list[bytes]) -> State:
        """Append what is pending, as much as fits."""
        room = BLOCK_BYTES_MAX - RESERVED_BYTES - sum(map(len, leaves))
        for pending in self.pending(state):
            room -= len(pending.leaf)
            if room < 0 or len(leaves) >= BLOCK_LEAVES_MAX - 2:
                break
            state = apply_authored(state, pending.authored)
            leaves.append(pending.leaf)
        return state

    def _ready(self, state: State, now: float, time_ms: int) -> e.RoundClose | None:
        """Return the close of the open round if, as far as this member knows, it should be closed now.

        Nobody is left out while they make progress, until the charter's deadline (architecture section 4.3); where the
        charter is asynchronous, it closes with those that are in as soon as they are enough.
        """
        commit = due_commit(state)
        if commit is not None:
            state = apply_derived(state, e.ROUND_COMMIT, commit, time_ms)
        if state.complete or self._is_closed(state):
            return None
        spread = self._goes_by_spread(state)
        included: list[Placed] = []
        rejected: dict[int, int] = {}
        for card in state.terms.members:
            stand = self._stand(state, card.node, now, time_ms, spread=spread)
            if stand is None:
                return None
            if stand.placed is not None and stand.reason == 0:
                included.append(stand.placed)
            elif stand.placed is not None:
                rejected[stand.placed.index] = stand.reason
        if len(included) >= state.terms.round.min_contributions:
            return make_close(state, included, rejected)
        return make_void(state) if self._is_lost(state, now) else None

    def _may_close(self, outlook: Outlook, now: float) -> bool:
        """Whether `_ready` would close the open round with all that waits; who stood in the way is asked first."""
        time_ms = int(now * 1000)
        if outlook.due and not outlook.next_complete:
            return False  # What waits ends a round: in the block that opens the next one nobody is given up.
        state = outlook.reopened(time_ms)
        if self._charter.masks:
            return self._masks.due(state, now, time_ms) is not None
        if outlook.sure or state.complete or self._is_closed(state):
            return outlook.sure
        spread = self._goes_by_spread(state)
        if outlook.awaited is not None and self._stand(state, outlook.awaited, now, time_ms, spread=spread) is None:
            return False
        included, sure = 0, True
        for card in state.terms.members:
            stand = self._stand(state, card.node, now, time_ms, spread=spread)
            if stand is None:
                outlook.awaited = card.node
                return False
            included += stand.placed is not None and stand.reason == 0
            sure = sure and stand.sure
        enough = included >= state.terms.round.min_contributions
        outlook.sure = sure and enough
        return enough or self._is_lost(state, now)

    def _stand(self, state: State, node: NodeId, now: float, time_ms: int, *, spread: bool) -> _Stand | None:
        """Return what a close of the open round would say of a member; None if it has to wait for it."""
        placed = state.contributions.get((state.round, node))
        verdict = None if placed is None else self._weigh(state, placed, spread=spread)
        if verdict == 0:
            if self._expects_receipt(state, node, time_ms, now):
                return None
            receipts = state.exchange.receipts if state.exchanging and state.exchange is not None else None
            return _Stand(placed, 0, receipts is None or node in receipts)
        if verdict is not None:
            return _Stand(placed, verdict, True)
        if not self._passed_over(state, node, placed, now, time_ms):
            return None
        return _Stand(placed, e.UNAVAILABLE, self._charter.asynchronous)

    def _is_closed(self, state: State) -> bool:
        """Whether the open round is closed, for all that this member knows for good."""
        return state.close is not None and not (state.on_route and self._witness.stuck())

    def _goes_by_spread(self, state: State) -> bool:
        """Whether the next close of the open round sends it by spread."""
        return state.close is not None or self._charter.route is None

    def _weigh(self, state: State, placed: Placed, *, spread: bool) -> int | None:
        """Return 0 to include a contribution, a reason to reject it, None while its bytes are not known.

        Where they `spread`, those are all its bytes; else as many as this member needs.
        """
        if not state.starts_well(placed.author, placed.body):
            return e.OTHER_BASE
        if not self._charter.carries(placed.body):
            return e.UNUSABLE
        if not fits(state, placed.body):
            return None  # A vote has made this round the last one; its author trains again, for a whole model.
        if state.exchanging:
            return 0  # Whoever holds it says so in a receipt, and nobody else needs it.
        usable = self._held(placed.author, placed.body, spread=spread)
        return None if usable is None else (0 if usable else e.UNUSABLE)

    def _held(self, author: NodeId, body: e.Contribution, *, spread: bool) -> bool | None:
        """Whether an update may be averaged; None while that is not known.

        On the charter's route nobody has seen all of it, so nobody could show the others that it may not be. Whoever
        finds it so stops the round there, and all of them look when it is closed again.
        """
        if spread:
            return self._witness.usable(Digest(body.update_digest))
        return self._witness.arrived(author, body) or None

    def _offers_are_in(self, outlook: Outlook, now: float) -> bool:
        """Whether what waits to be ordered completes the offers to a round of gossip: nobody fetches before that."""
        state = outlook.state
        if not state.exchanging or state.close is not None or not outlook.fresh:
            return False

        def lacks(node: NodeId) -> bool:
            return (state.round, node) not in state.contributions and not self._witness.silent(node, now)

        if outlook.unoffered is None or not lacks(outlook.unoffered):
            outlook.unoffered = next((seat.node for seat in state.terms.members if lacks(seat.node)), None)
        return outlook.unoffered is None

    def _attests_are_in(self, outlook: Outlook, now: float) -> bool:
        """Whether all have attested who can be expected to."""
        state = outlook.state

        def lacks(node: NodeId) -> bool:
            return node not in state.attests and not self._witness.silent(node, now)

        if outlook.unattested is None or not lacks(outlook.unattested):
            outlook.unattested = next((seat.node for seat in state.terms.members if lacks(seat.node)), None)
        return outlook.unattested is None

    def _expects_receipt(self, state: State, node: NodeId, time_ms: int, now: float) -> bool:
        """Whether a round of gossip waits for a member to say what it holds. All that run say so in bounded time."""
        if not state.exchanging or state.exchange is None or node in state.exchange.receipts:
            return False
        if time_ms > state.opened_ms and self._overdue(state, now):
            return False
        return not self._witness.absent(node, now)

    def _overdue(self, state: State, now: float) -> bool:
        """Whether the open round has lasted as long as the charter lets it: by this site's clock, since it saw it open.

        Not by the times of blocks. Those are of whoever proposed, whose clock may be fast by all that the charter
        allows: it would end rounds before anybody slow is done, or put deadlines off for as long. Nor is the charter's
        own time when the first round opened, which it may be weeks older than. A site that starts anew waits once more.
        """
        return self._outlasted(self._seen_open, state, now)

    def _is_lost(self, state: State, now: float) -> bool:
        """Whether too few updates of a closed round can be had for it to be closed again: as few, for a whole deadline.

        An update that went by a route is for a while where it was made, or with the one member that adds it up, and
        nowhere else. A disk that loses it then has lost it for everybody. Who was cut off has not looked.
        """
        if state.close is None:
            return False
        there = [seat.node for seat in state.terms.members if not self._witness.absent(seat.node, now)]
        if len(there) < state.terms.quorum:
            self._seen_stuck.pop(state.round, None)
            return False
        return self._outlasted(self._seen_stuck, state, now)

    def _outlasted(self, seen: dict[int, float], state: State, now: float) -> bool:
        """Whether it is the charter's deadline since the open round was first asked about. Times seen are kept."""
        if state.round not in seen:
            seen[state.round] = now
            for old in [number for number in seen if number < self.head.round]:
                del seen[old]
        return now - seen[state.round] >= state.terms.round.deadline_ms / 1000

    def _given_up(self, state: State, node: NodeId, placed: Placed | None, now: float, time_ms: int) -> bool:
        """Whether a round may close without this member."""
        if time_ms == state.opened_ms:
            # The block that commits the round before. Who is left out may not vote for it: then that round is never
            # committed, and the deadline of this one never begins.
            return False
        if self._overdue(state, now):
            return True
        if placed is not None and self._witness.moving(Digest(placed.body.update_digest), now):
            return False
        return self._witness.silent(node, now) or self._witness.outpaced(node, state.round, now)

    def _passed_over(self, state: State, node: NodeId, placed: Placed | None, now: float, time_ms: int) -> bool:
        """Whether a round may close without this member, whose work can be in a later one if it counts there.

        Where the charter lets nobody wait, it may at any time but in the block that opens the round.
        """
        if self._charter.asynchronous and time_ms != state.opened_ms:
            return True
        return self._given_up(state, node, placed, now, time_ms)

    def _judge_close(self, state: State, now: float) -> Verdict:
        """Vote for a close only holding every update it names: a final close proves that the data is available.

        On the charter's route, only holding what this member needs; there the close may turn out to lead nowhere.
        """
        assert state.close is not None
        spread = not state.on_route
        if spread and self._charter.route is not None and not self._witness.stuck():
            return Wait("the charter's route may still lead to the mean", progressing=False)
        if state.void:
            return self._judge_void(state, now)
        included: Mapping[int, int] = dict(state.close.body.included)
        rejected: Mapping[int, int] = dict(state.close.body.rejected)
        opened = replace(state, close=None)
        for card in state.terms.members:
            placed = state.contributions.get((state.round, card.node))
            reason = None if placed is None else rejected.get(placed.index)
            if placed is not None and placed.index in included:
                verdict = self._weigh(opened, placed, spread=spread)
                if verdict is None:
                    moving = self._witness.moving(Digest(placed.body.update_digest), now)
                    return Wait(f"the update of {card.name} has not arrived", progressing=moving)
                if verdict:
                    return Invalid(f"the update of {card.name} is {e.REASONS[verdict]}")
                if self._expects_receipt(opened, card.node, state.time_ms, now):
                    if any(isinstance(p.body, e.Receipt | e.Push) for p in self._pool[card.node].values()):
                        return Overtaken(f"what {card.name} holds is known after all")
                    return Wait(f"{card.name} has not said what it holds", progressing=False)
            elif placed is not None and reason == e.UNUSABLE:
                verdict = self._weigh(opened, placed, spread=spread)
                if verdict == 0:
                    return Invalid(f"the update of {card.name} is called unusable and is not")
                # Taken at its word, a leader could leave out whom it likes while the others' bytes are on their way.
                if verdict is None and not self._given_up(opened, card.node, placed, now, state.time_ms):
                    moving = self._witness.moving(Digest(placed.body.update_digest), now)
                    return Wait(f"the update of {card.name} has not arrived", progressing=moving)
            elif reason != e.OTHER_BASE and not self._passed_over(opened, card.node, placed, now, state.time_ms):
                if self._offers(state, card.node, spread=spread):
                    # It was gone when the leader looked, and is back. This block can never take it in.
                    return Overtaken(f"the update of {card.name} is here after all")
                return Wait(f"{card.name} is still making progress", progressing=False)
        return Valid()

    def _judge_void(self, state: State, now: float) -> Verdict:
        """A round that was closed and comes to nothing is void when a quorum has looked for its updates in vain."""
        standing = [placed for (r, _), placed in state.contributions.items() if r == state.round]
        usable = sum(1 for placed in standing if self._weigh(state, placed, spread=True) == 0)
        if usable >= state.terms.round.min_contributions:
            return Overtaken("enough updates are here after all")
        return Valid() if self._is_lost(state, now) else Wait("updates may still come", progressing=False)

    def _offers(self, state: State, node: NodeId, *, spread: bool) -> bool:
        """Whether a member has an update for the round at hand that could be averaged if it were not left out."""
        placed = state.contributions.get((state.round, node))
        bodies = [p.body for p in self._pool[node].values()] if placed is None else [placed.body]
        return any(
            isinstance(body, e.Contribution)
            and (body.round == state.round or placed is not None)
            and state.starts_well(node, body)
            and (state.exchanging or self._held(node, body, spread=spread) is True)
            for body in bodies
        )

    def _check_recorded(self, block: Block, before: State) -> None:
        """Check the signatures of a certificate that a block puts on record."""
        for leaf in block.leaves[:1]:
            entry = e.decode_entry(leaf)
            if entry.kind == e.BLOCK_CERT:
                body = codec.decode(entry.body, e.BlockCert, limit=e.ENTRY_BYTES_MAX)
                certificate = body.proof
                terms = before.terms_of(certificate.epoch)
                if terms is None:
                    raise Reject("couldn't accept a certificate on record: its epoch is long past")
                certificate.check(self.head.ledger_id, terms.vote_keys, terms.quorum, self._verify)


@dataclass(frozen=True, slots=True)
class _Stand:
    """What a close would say of a member.

    Its contribution, if any; why that is left out, 0 if it is not; whether this can only change with the log.
    """

    placed: Placed | None
    reason: int
    sure: bool


@dataclass(frozen=True, slots=True)
class _Next:
    seq: int
    prev: bytes
