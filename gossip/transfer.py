"""Moving models between peers: content-addressed, pulled, from many sources at once.

The receiver drives. A `Want` asks for a range within one 1 MiB leaf and is at the same time the credit to send exactly
that much; what is still outstanding to a peer is bounded by a window that follows its measured rate, so that on a slow
link little stands between a heartbeat and its receiver, and a fast one never idles. Nobody sends bulk unasked. That a
chunk was sent means nothing; that it arrived is shown by the next Want.

A leaf comes from one peer, in order, and is hashed as it arrives: a wrong one is thrown away and has exactly one
culprit. Whoever holds a verified leaf serves it, so the author's uplink is not the only source: neighbours that lack
the same blob begin with different shares of it, and take first what no other neighbour is known to hold (rarest first,
as in Cohen, "Incentives build robustness in BitTorrent", 2003).

The module is pure: it decides who is asked for what; the shell moves the bytes (`Keep`, `SendChunk`). It knows nothing
of rounds or models, and believes nothing a peer offers until the bytes have proved themselves. Sets of leaves are
integers, bit i for leaf i, so that choosing among thirty thousand leaves is a handful of machine operations, and
nothing done for a chunk grows with the size of the blob.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gossip import messages as m
from gossip import wire
from swarm.errors import Reject
from swarm.machine import Buffer, Check, Checked, Digest, Effect, Forget, Keep, NodeId, Seal, Send, SendChunk, Stored
from swarm.vector import LEAF_BYTES, LeafHasher, blob_digest, leaf_count, leaf_span

LEAVES_MAX = 30_000
"""Leaves of the largest blob (about 30 GiB): their hashes must fit one control frame of 1 MiB."""

FETCHES_MAX = 256
"""Blobs on their way at once: every update of two rounds of the largest swarm."""

HOLDERS_TOLD_MAX = 1024
"""Blobs remembered as offered by one peer; the oldest are forgotten. A bitmap has up to 8 KiB, so 8 MiB in all."""

OFFERS_ON_LINK_MAX = 1024
"""Offers sent over a new link, the newest: the other side would not remember more."""

COPIES_TOLD_MAX = 8
"""Peers that a copy of a blob of a single leaf is offered to. Its author has offered it to all its neighbours; copies
are for when it is slow. If everybody told everybody, a round of n members all linked would take n^3 offers."""

SERVED_FACTOR_MAX = 4
"""Times a peer may have a whole blob over one link: lost links and wrong disks need two, a flood of requests more."""

SERVED_SPARE_BYTES = 16 << 20
"""Served beyond that, so that a small blob, which is quickly repeated, is not refused."""

REQUEST_S = 10.0
"""A peer that sends nothing of what it was asked for this long, and twice what it should take, is not waited for."""

REQUEST_S_MIN = 2.0
REQUEST_BYTES_S = 32 * 1024
"""Little is not waited for so long: for a few bytes two seconds, for each 32 KiB one more. A full request of 256 KiB
has `REQUEST_S`; a small model of which one message was lost does not hold up a round for it."""

PATIENCE_MAX = 8
"""A link slower than was thought is given more time at each try, up to so many times `REQUEST_S`."""

SEARCH_S = 2.0
"""Between questions after a blob of which nothing is on its way."""

TICK_S = 0.5
"""Between two looks at what is late or idle."""

BAN_S = 30.0
"""When all holders have sent wrong bytes, one is tried again after this long: its memory may have been mended."""

MOVING_S = 5.0
"""Bytes that arrived within this time count as progress."""

ANNOUNCE_LEAVES = 8
"""A peer that is not complete tells the others of every so many new leaves,"""

ANNOUNCE_S = 0.5
"""or of fewer after this long, so that on slow links others need not wait for eight."""

RATE_WINDOW_S = 1.0
"""A window is about what a link moves in this time."""

SLOW_FACTOR = 4
"""When no leaf is left to ask for, one is taken from a holder so many times slower than an idle one,"""

RESCUE_S = 1.0
"""if that saves at least this long: what the slow one still sends of it is wasted."""

COMPLETE = -1
"""The set of all leaves: every bit of -1 is set."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """All in bytes."""

    chunk: int = 256 * 1024
    """The least that is asked for at a time. A request is answered by one message, so at 0.5 MB/s a heartbeat waits
    half a second behind it."""
    window_first: int = 512 * 1024
    window_min: int = 256 * 1024
    window_max: int = 8 << 20
    """No more than the transport queues for one peer."""
    node_max: int = 64 << 20
    """Outstanding over all peers."""
    request_max: int = LEAF_BYTES
    """The most: on fast links fewer, larger messages halve the receiver's work (`docs/reference/measurements.md`)."""

    def __post_init__(self) -> None:
        """A chunk fits a request, a request a leaf, and a window holds at least one chunk."""
        assert 0 < self.chunk <= self.request_max <= LEAF_BYTES, "a request is within one leaf"
        assert self.chunk <= self.window_max, "a window that holds no chunk moves nothing"


@dataclass(slots=True)
class _Leaf:
    """A leaf on its way: who sends it, how far it has come. `asked` and `arrived` count from its start."""

    digest: Digest
    index: int
    holder: NodeId
    length: int
    moved_at: float
    asked: int = 0
    arrived: int = 0
    gapped: bool = False
    hasher: LeafHasher = field(default_factory=LeafHasher)

    @property
    def outstanding(self) -> int:
        return self.asked - self.arrived


@dataclass(slots=True)
class _Fetch:
    """A blob that is wanted. Once the hashes are known, each leaf is missing, active or verified (or being checked)."""

    size: int
    hints: tuple[NodeId, ...]
    search_at: float
    hashes: tuple[bytes, ...] = ()
    order: list[int] = field(default_factory=list)
    picks: int = 0
    share: int = COMPLETE
    checking: bool = False
    asked_for_leaves: tuple[NodeId, float] | None = None
    silent: dict[NodeId, None] = field(default_factory=dict)
    missing: int = 0
    active: dict[int, _Leaf] = field(default_factory=dict)
    verified: int = 0
    sources: dict[int, NodeId] = field(default_factory=dict)
    verified_bytes: int = 0
    banned: dict[NodeId, float] = field(default_factory=dict)
    announced: int = 0
    announced_at: float = -1e9
    searched: int = 0
    moved_at: float = -1e9


@dataclass(slots=True)
class _Peer:
    """What is known about a linked peer. `leaves` are in the order in which it was asked for them."""

    window: int
    since: float
    last_at: float
    offers: dict[Digest, int] = field(default_factory=dict)
    leaves: dict[tuple[Digest, int], _Leaf] = field(default_factory=dict)
    asked: dict[Digest, None] = field(default_factory=dict)
    served: dict[Digest, int] = field(default_factory=dict)
    open: _Leaf | None = None
    outstanding: int = 0
    arrived: int = 0
    rate: float = 0.0
    front_at: float = 0.0
    rest_until: float = 0.0
    patience: int = 1
    received_bytes: int = 0
    sent_bytes: int = 0


class Transfer:
    """One node's blobs: held, wanted, offered."""

    def __init__(self, *, me: NodeId, rng: random.Random, limits: TransferLimits | None = None) -> None:
        self._me, self._rng = me, rng
        self._limits = limits or TransferLimits()
        self._held: dict[Digest, Stored] = {}
        self._partial: dict[Digest, int] = {}
        self._fetches: dict[Digest, _Fetch] = {}
        self._peers: dict[NodeId, _Peer] = {}
        self._outstanding = 0  # always the sum over the linked peers
        # Bytes each peer was asked for and then no longer: they may still come, and are nobody's fault. Kept when a
        # link breaks, since a queue may outlive it. One number for each member ever linked.
        self._stray: dict[NodeId, int] = {}
        self._tick_at = 0.0
        self.version = 0
        """Counts how often what `has` says, or how many blobs are being fetched, may have changed."""
        self._completed: list[Digest] = []
        self._faults: list[tuple[NodeId, str]] = []

    # --- what is held -------------------------------------------------------------------------------------------

    def restore(self, blobs: Sequence[Stored], partial: Mapping[Digest, int]) -> None:
        """Take note of what the store holds at start: complete blobs, and sizes of interrupted ones."""
        self.version += 1
        self._held = {blob.digest: blob for blob in blobs}
        self._partial = dict(partial)

    def has(self, digest: Digest) -> bool:
        """Whether a blob is complete."""
        return digest in self._held

    def size(self, digest: Digest) -> int | None:
        """Return the size in bytes of a blob that is held or being fetched."""
        known = self._held.get(digest) or self._fetches.get(digest)
        return None if known is None else known.size

    def known(self) -> list[Digest]:
        """Return the blobs that are held, complete or in part, and those being fetched."""
        return list({**self._held, **self._partial, **self._fetches})

    def progress(self, digest: Digest) -> tuple[int, int] | None:
        """Return (bytes arrived, size) of a blob that is being fetched."""
        fetch = self._fetches.get(digest)
        if fetch is None:
            return None
        return fetch.verified_bytes + sum(leaf.arrived for leaf in fetch.active.values()), fetch.size

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of it have arrived within the last `MOVING_S` seconds."""
        fetch = self._fetches.get(digest)
        return fetch is not None and now - fetch.moved_at < MOVING_S

    def traffic(self, peer: NodeId) -> tuple[int, int]:
        """Return (bytes received from, bytes sent to) a peer since it was linked."""
        state = self._peers.get(peer)
        return (0, 0) if state is None else (state.received_bytes, state.sent_bytes)

    def rate(self, peer: NodeId) -> float:
        """Return the bytes a second that came from a peer when so many were last asked of it that it was busy, or 0."""
        state = self._peers.get(peer)
        return 0.0 if state is None else state.rate

    def stored(self, blob: Stored) -> list[Effect]:
        """A blob of this node's own is in the store: offer it, and stop fetching it if it was being fetched."""
        self.version += 1
        self._abandon(blob.digest)
        self._partial.pop(blob.digest, None)
        known, self._held[blob.digest] = blob.digest in self._held, blob
        return [] if known else self._offer(blob.digest)

    def want(self, digest: Digest, size: int, now: float, hints: Sequence[NodeId] = ()) -> list[Effect]:
        """Start fetching a blob of `size` bytes, from `hints` first. Repeating it costs nothing.

        A blob that is empty or has more than `LEAVES_MAX` leaves is not fetched, nor more than `FETCHES_MAX` at once.
        """
        if digest in self._held:
            return []
        fetch = self._fetches.get(digest)
        if fetch is None:
            if size <= 0 or leaf_count(size) > LEAVES_MAX or len(self._fetches) >= FETCHES_MAX:
                return []
            fetch = self._fetches[digest] = _Fetch(size, tuple(hints), now + SEARCH_S)
        else:
            fresh = tuple(node for node in hints if node not in fetch.hints)
            if not fresh:
                return []
            fetch.hints += fresh
        return self._pursue(digest, fetch, now)

    def cancel(self, digests: Sequence[Digest]) -> None:
        """Stop fetching blobs. What has arrived stays in the store and is not fetched again should they be wanted."""
        for digest in digests:
            fetch = self._fetches.get(digest)
            if fetch is not None and (fetch.sources or fetch.active):
                self._partial[digest] = fetch.size
            self._abandon(digest)

    def forget(self, digests: Sequence[Digest]) -> list[Effect]:
        """Drop blobs, complete or on their way."""
        self.version += 1
        known = [d for d in digests if d in self._held or d in self._fetches or d in self._partial]
        for digest in known:
            self._abandon(digest)
            self._held.pop(digest, None)
            self._partial.pop(digest, None)
            for peer in self._peers.values():
                peer.served.pop(digest, None)
        return [Forget(tuple(known))] if known else []

    def take_completed(self) -> list[Digest]:
        """Return the blobs completed since the last call."""
        completed, self._completed = self._completed, []
        return completed

    def take_faults(self) -> list[tuple[NodeId, str]]:
        """Return who sent what it should not have since the last call."""
        faults, self._faults = self._faults, []
        return faults

    def quiet(self) -> bool:
        """Whether nothing was completed, and nobody found at fault, since that was last taken."""
        return not self._completed and not self._faults

    # --- links and messages -------------------------------------------------------------------------------------

    def link(self, peer: NodeId, up: bool, now: float) -> list[Effect]:
        """A link came or went. What was asked of a lost peer is asked of others at once."""
        # A peer that greets anew without having been missed has restarted: what it was asked for is lost as well.
        effects = self._unlink(peer, now)
        if not up:
            return effects
        window = max(self._limits.window_first, self._limits.chunk)
        self._peers[peer] = _Peer(window=window, since=now, last_at=now, front_at=now)
        for blob in list(self._held.values())[-OFFERS_ON_LINK_MAX:]:
            effects.append(Send(peer, wire.encode(m.Have(blob.digest, blob.size, b""))))
        for digest, fetch in self._fetches.items():
            if fetch.verified:
                effects.append(Send(peer, wire.encode(m.Have(digest, fetch.size, _bitmap(fetch)))))
            self._divide(digest, fetch)
        return effects

    def on_message(self, sender: NodeId, message: m.Message, payload: Buffer | None, now: float) -> list[Effect]:
        """Take in a transfer message of a linked peer.

        Raises:
            Reject: the message is of another kind, or names a blob by what is no digest.
        """
        peer = self._peers.get(sender)
        if peer is None:
            return []
        match message:
            case m.ChunkHeader():
                return self._on_chunk(sender, peer, Digest(message.digest), message.offset, payload, now)
            case m.Want():
                return self._on_want(sender, peer, message)
            case m.Have():
                return self._on_have(sender, peer, message, now)
            case m.GetLeaves():
                return self._on_get_leaves(sender, Digest(message.digest))
            case m.Leaves():
                return self._on_leaves(sender, message, now)
            case m.Missing():
                return self._on_missing(sender, peer, Digest(message.digest), now)
            case _:
                raise Reject("couldn't accept a message: it has no meaning here")

    def on_checked(self, checked: Checked, now: float) -> list[Effect]:
        """The shell has compared an interrupted transfer with its leaf hashes: fetch the rest."""
        digest, fetch = checked.digest, self._fetches.get(checked.digest)
        if fetch is None or not fetch.checking:
            return []
        fetch.checking = False
        fetch.missing = (1 << len(fetch.hashes)) - 1
        for index in checked.leaves:
            if fetch.missing >> index & 1:
                self._verify(fetch, index, self._me)
        return self._after_leaf(digest, fetch, now) + self._pursue(digest, fetch, now)

    def step(self, now: float) -> list[Effect]:
        """Stop waiting for peers that do not deliver, use idle ones, look for holders of what nobody offers."""
        if now < self._tick_at:
            return []
        self._tick_at = now + TICK_S
        self._give_up_late(now)
        effects: list[Effect] = []
        for digest, fetch in self._fetches.items():
            effects += self._pursue(digest, fetch, now)
            if not fetch.active and not fetch.checking and now >= fetch.search_at:
                effects += self._search(digest, fetch, now)
        return effects

    def due(self, now: float) -> bool:
        """Whether `step` would look at what is late or idle."""
        return now >= self._tick_at

    def next_wake(self, now: float) -> float | None:
        """Return when `step` may have something to do."""
        return max(now, self._tick_at) if self._fetches else None

    # --- receiving ----------------------------------------------------------------------------------------------

    def _on_chunk(
        self, sender: NodeId, peer: _Peer, digest: Digest, offset: int, payload: Buffer | None, now: float
    ) -> list[Effect]:
        """The hot path: no work here grows with the size of the blob."""
        size = 0 if payload is None else len(payload)
        if payload is None or size == 0 or size > LEAF_BYTES:
            self._faults.append((sender, "a chunk without bytes, or with too many"))
            return []
        peer.received_bytes += size
        index, within = divmod(offset, LEAF_BYTES)
        fetch = self._fetches.get(digest)
        leaf = None if fetch is None else fetch.active.get(index)
        if leaf is None or leaf.holder != sender or within != leaf.arrived or within + size > leaf.asked:
            self._on_misfit(sender, peer, digest, offset, size, now)
            return []
        assert fetch is not None, "a leaf is active within a fetch"
        self._credit(peer, -size)
        self._measure(peer, size, now)
        fetch.moved_at = leaf.moved_at = now
        peer.patience = 1
        leaf.arrived += size
        leaf.hasher.update(payload)
        effects: list[Effect] = [Keep(digest, fetch.size, offset, payload)]
        if leaf.arrived == leaf.length:
            effects += self._finish_leaf(fetch, leaf, peer, now)
        effects += self._pull(sender, peer, now)
        return effects

    def _on_misfit(self, sender: NodeId, peer: _Peer, digest: Digest, offset: int, size: int, now: float) -> None:
        """A chunk nobody waits for. What was asked for once may come late or twice; what never was is a fault."""
        stray = self._stray.get(sender, 0)
        if stray >= size:
            self._stray[sender] = stray - size
            # Links keep their order: what was asked of this peer since comes behind the strays, and is not late yet.
            peer.front_at = now
            self._measure(peer, size, now)
            return
        index, within = divmod(offset, LEAF_BYTES)
        fetch = self._fetches.get(digest)
        leaf = None if fetch is None else fetch.active.get(index)
        # An earlier life of this node may have asked for what belongs to an interrupted transfer.
        excused = digest in self._partial
        if fetch is None:
            excused = excused or digest in peer.asked
        elif leaf is None or leaf.holder != sender:
            excused = excused or fetch.sources.get(index) == sender
        elif within + size <= leaf.asked:
            ahead = within > leaf.arrived
            excused = excused or not ahead or leaf.gapped
            # Bytes between were left out. Said once; `step` asks for the leaf anew.
            leaf.gapped = leaf.gapped or ahead
        if not excused:
            self._faults.append((sender, f"a chunk at {offset} that was not asked for"))

    def _finish_leaf(self, fetch: _Fetch, leaf: _Leaf, peer: _Peer, now: float) -> list[Effect]:
        if leaf.hasher.digest() == fetch.hashes[leaf.index]:
            del fetch.active[leaf.index], peer.leaves[leaf.digest, leaf.index]
            peer.front_at = now
            self._verify(fetch, leaf.index, leaf.holder)
            return self._after_leaf(leaf.digest, fetch, now)
        self._faults.append((leaf.holder, f"wrong bytes for leaf {leaf.index} of {leaf.digest.hex()[:12]}"))
        fetch.banned[leaf.holder] = now
        for other in [other for other in peer.leaves.values() if other.digest == leaf.digest]:
            self._take_back(other)
        return self._pursue(leaf.digest, fetch, now)

    def _verify(self, fetch: _Fetch, index: int, source: NodeId) -> None:
        fetch.missing &= ~(1 << index)
        fetch.verified |= 1 << index
        fetch.sources[index] = source
        fetch.verified_bytes += leaf_span(fetch.size, index)[1]

    def _after_leaf(self, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """Complete the blob, or tell others what can be had here already."""
        count = len(fetch.sources)
        if count == len(fetch.hashes):
            self.version += 1
            del self._fetches[digest]
            self._partial.pop(digest, None)
            self._held[digest] = Stored(digest, fetch.size, fetch.hashes)
            self._completed.append(digest)
            told = COPIES_TOLD_MAX if count == 1 else len(self._peers)
            return [Seal(digest, fetch.size, fetch.hashes), *self._offer(digest, told)]
        fresh = count - fetch.announced
        if fresh >= ANNOUNCE_LEAVES or (fresh and now - fetch.announced_at >= ANNOUNCE_S):
            fetch.announced, fetch.announced_at = count, now
            return self._offer(digest)
        return []

    def _offer(self, digest: Digest, most: int | None = None) -> list[Effect]:
        """Tell peers that are not known to hold a blob what can be had here, `most` of them if there are more.

        Between two peers, that is nobody.
        """
        lacking = [node for node, peer in self._peers.items() if peer.offers.get(digest) != COMPLETE]
        if not lacking:
            return []
        if most is not None and len(lacking) > most:
            lacking = self._rng.sample(lacking, most)
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        if blob is not None:
            frame = wire.encode(m.Have(digest, blob.size, b""))
        else:
            assert fetch is not None, "only what is held or fetched is offered"
            frame = wire.encode(m.Have(digest, fetch.size, _bitmap(fetch)))
        return [Send(node, frame) for node in lacking]

    def _on_have(self, sender: NodeId, peer: _Peer, message: m.Have, now: float) -> list[Effect]:
        digest = _digest(message.digest)
        fetch = self._fetches.get(digest)
        if message.size <= 0 or (fetch is not None and message.size != fetch.size):
            return []  # Not what is wanted here, and nothing shows yet which of the two sizes is the lie.
        peer.offers.pop(digest, None)
        if len(peer.offers) >= HOLDERS_TOLD_MAX:
            del peer.offers[next(iter(peer.offers))]
        peer.offers[digest] = int.from_bytes(message.leaves, "little") if message.leaves else COMPLETE
        if fetch is None or fetch.checking:
            return []
        return self._pull(sender, peer, now) if fetch.hashes else self._ask_leaves(digest, fetch, now)

    def _on_leaves(self, sender: NodeId, message: m.Leaves, now: float) -> list[Effect]:
        digest = Digest(message.digest)
        fetch = self._fetches.get(digest)
        if fetch is None or fetch.hashes:
            return []
        hashes = tuple(message.hashes[i : i + 32] for i in range(0, len(message.hashes), 32))
        fits = message.size == fetch.size and len(hashes) == leaf_count(fetch.size) and len(message.hashes) % 32 == 0
        if not fits or blob_digest(fetch.size, hashes) != digest:
            fetch.banned[sender] = now
            self._faults.append((sender, f"leaf hashes that do not belong to {digest.hex()[:12]}"))
            if fetch.asked_for_leaves is not None and fetch.asked_for_leaves[0] == sender:
                fetch.asked_for_leaves = None
            return self._pursue(digest, fetch, now)
        fetch.hashes, fetch.asked_for_leaves = hashes, None
        fetch.order = list(range(len(hashes)))
        self._rng.shuffle(fetch.order)
        self._divide(digest, fetch)
        if digest in self._partial:
            fetch.checking = True
            return [Check(digest, fetch.size, hashes)]
        fetch.missing = (1 << len(hashes)) - 1
        return self._pursue(digest, fetch, now)

    def _on_missing(self, sender: NodeId, peer: _Peer, digest: Digest, now: float) -> list[Effect]:
        """The peer no longer has it."""
        peer.offers.pop(digest, None)
        fetch = self._fetches.get(digest)
        if fetch is None:
            return []
        if fetch.asked_for_leaves is not None and fetch.asked_for_leaves[0] == sender:
            fetch.asked_for_leaves = None
        for leaf in [leaf for leaf in peer.leaves.values() if leaf.digest == digest]:
            self._take_back(leaf)
        return self._pursue(digest, fetch, now)

    # --- asking -------------------------------------------------------------------------------------------------

    def _pursue(self, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """Ask for what can be asked for: the leaf hashes, then bytes from every holder with room in its window."""
        if fetch.checking:
            return []
        if not fetch.hashes:
            return self._ask_leaves(digest, fetch, now)
        effects: list[Effect] = []
        for node in self._holders(digest, fetch):
            effects += self._pull(node, self._peers[node], now)
        return effects

    def _ask_leaves(self, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """Ask one holder for the hashes, and the next when it does not answer."""
        if fetch.asked_for_leaves is not None:
            asked, at = fetch.asked_for_leaves
            if asked in self._peers and now - at < _patience_s(32 * leaf_count(fetch.size)):
                return []
            fetch.silent[asked] = None
            fetch.asked_for_leaves = None
        holders = self._holders(digest, fetch)
        if not holders:
            return []
        untried = [node for node in holders if node not in fetch.silent]
        if not untried:
            fetch.silent.clear()
        chosen = (untried or holders)[0]
        fetch.asked_for_leaves = (chosen, now)
        return [Send(chosen, wire.encode(m.GetLeaves(digest)))]

    def _holders(self, digest: Digest, fetch: _Fetch) -> list[NodeId]:
        """Return the linked peers that offer the blob, those it was hinted at first."""
        ordered = dict.fromkeys((*fetch.hints, *self._peers))
        known = [(node, self._peers[node]) for node in ordered if node in self._peers and node not in fetch.banned]
        return [node for node, peer in known if peer.offers.get(digest)]

    def _search(self, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """An offer may have been lost: ask any linked peer, one after the other, whether it has the blob."""
        fetch.search_at = now + SEARCH_S
        candidates = [node for node in self._peers if node not in fetch.banned]
        if not candidates:
            # Everybody has sent wrong bytes at some time; better to try again later than to wait for ever.
            fetch.banned = {node: at for node, at in fetch.banned.items() if now - at < BAN_S}
            return []
        chosen = candidates[fetch.searched % len(candidates)]
        fetch.searched += 1
        return [Send(chosen, wire.encode(m.GetLeaves(digest)))]

    def _pull(self, node: NodeId, peer: _Peer, now: float) -> list[Effect]:
        """Fill a peer's window with requests, oldest blob first."""
        effects: list[Effect] = []
        if now < peer.rest_until:
            return effects
        # Half a window at a time keeps the pipe full with few messages.
        chunk = self._limits.chunk
        size = max(chunk, min(self._limits.request_max, peer.window // 2) // chunk * chunk)
        while True:
            room = min(peer.window - peer.outstanding, self._limits.node_max - self._outstanding)
            if room < (size if peer.open is None else min(size, peer.open.length - peer.open.asked)):
                return effects
            leaf = peer.open or self._next_leaf(node, peer, now)
            if leaf is None:
                return effects
            effects.append(self._request(peer, leaf, size, now))

    def _request(self, peer: _Peer, leaf: _Leaf, size: int, now: float) -> Effect:
        """Ask for the next `size` bytes of a leaf, or what is left of it."""
        length = min(leaf.length - leaf.asked, size)
        if peer.outstanding == 0:
            # The link was idle: that time says nothing about its rate.
            peer.since, peer.arrived = now, 0
        want = m.Want(leaf.digest, leaf.index * LEAF_BYTES + leaf.asked, length)
        leaf.asked += length
        self._credit(peer, length)
        peer.open = leaf if leaf.asked < leaf.length else None
        return Send(leaf.holder, wire.encode(want))

    def _next_leaf(self, node: NodeId, peer: _Peer, now: float) -> _Leaf | None:
        """Give a peer a leaf to send: a missing one, or one that a much slower peer does not get done."""
        for digest, fetch in self._fetches.items():
            candidates = fetch.missing & peer.offers.get(digest, 0)
            if candidates and node not in fetch.banned:
                return self._begin(node, peer, digest, fetch, self._choose(node, digest, fetch, candidates), now)
        if peer.rate:
            for digest, fetch in self._fetches.items():
                if fetch.active and not fetch.missing and node not in fetch.banned:
                    slow = self._slow_leaf(node, peer, digest, fetch, now)
                    if slow is not None:
                        self._take_back(slow)
                        return self._begin(node, peer, digest, fetch, slow.index, now)
        return None

    def _begin(self, node: NodeId, peer: _Peer, digest: Digest, fetch: _Fetch, index: int, now: float) -> _Leaf:
        leaf = _Leaf(digest, index, node, leaf_span(fetch.size, index)[1], now)
        fetch.missing &= ~(1 << index)
        fetch.active[index] = peer.leaves[digest, index] = leaf
        if digest not in peer.asked and len(peer.asked) >= HOLDERS_TOLD_MAX:
            del peer.asked[next(iter(peer.asked))]
        peer.asked[digest] = None
        return leaf

    def _choose(self, node: NodeId, digest: Digest, fetch: _Fetch, candidates: int) -> int:
        """Return a leaf: one that no other incomplete neighbour has, of this node's own share if there is one."""
        elsewhere = 0
        for other, peer in self._peers.items():
            offer = peer.offers.get(digest, 0)
            if other != node and offer != COMPLETE:
                elsewhere |= offer
        rare = candidates & ~elsewhere
        chosen = rare & fetch.share or rare or candidates
        # Walking through a shuffled order draws without looking at every leaf, and each node draws otherwise.
        start = fetch.order[fetch.picks % len(fetch.order)]
        fetch.picks += 1
        ahead = chosen >> start
        if ahead == 0:
            start, ahead = 0, chosen
        return start + (ahead & -ahead).bit_length() - 1

    def _divide(self, digest: Digest, fetch: _Fetch) -> None:
        """Mark this node's share: with n neighbours lacking the blob, itself included, every nth leaf."""
        lacking = sorted([self._me, *(n for n, peer in self._peers.items() if peer.offers.get(digest) != COMPLETE)])
        if len(lacking) == 1 or not fetch.hashes:
            fetch.share = COMPLETE
            return
        n, count = len(lacking), len(fetch.hashes)
        # The sum of 2^(n i) for all i < ceil(count / n) has exactly every nth bit set.
        fetch.share = ((1 << n * -(-count // n)) - 1) // ((1 << n) - 1) << lacking.index(self._me)

    def _slow_leaf(self, node: NodeId, peer: _Peer, digest: Digest, fetch: _Fetch, now: float) -> _Leaf | None:
        """Return the last leaf that a holder `SLOW_FACTOR` times slower than this peer was asked for, if any."""
        offer = peer.offers.get(digest, 0)
        for leaf in reversed(fetch.active.values()):
            holder = self._peers[leaf.holder]
            waited = now - max(leaf.moved_at, holder.front_at, holder.last_at)
            # A holder that has fallen silent is as slow as the one chunk that has not come yet.
            rate = min(holder.rate or peer.rate, self._limits.chunk / max(waited, 1e-3))
            saved_s = leaf.outstanding / rate - leaf.length / peer.rate
            if leaf.holder == node or not offer >> leaf.index & 1:
                continue
            if rate * SLOW_FACTOR < peer.rate and saved_s > RESCUE_S:
                return leaf
        return None

    # --- giving up ----------------------------------------------------------------------------------------------

    def _give_up_late(self, now: float) -> None:
        """Take back what peers do not send. Requests are served in order, so only a peer's first can be late."""
        for peer in self._peers.values():
            for leaf in [leaf for leaf in peer.leaves.values() if leaf.gapped]:
                self._take_back(leaf)
            late = False
            while peer.leaves:
                first = next(iter(peer.leaves.values()))
                expected_s = first.outstanding / (peer.rate or self._limits.window_first / RATE_WINDOW_S)
                waits_s = _patience_s(first.outstanding) * peer.patience + 2 * expected_s
                if now - max(first.moved_at, peer.front_at) <= waits_s:
                    break
                self._take_back(first)
                others = [other for other in self._peers.values() if other is not peer]
                if any(other.offers.get(first.digest) for other in others):
                    peer.rest_until = now + REQUEST_S
                late = True
            if late:
                peer.patience = min(2 * peer.patience, PATIENCE_MAX)

    def _take_back(self, leaf: _Leaf) -> None:
        """No longer wait for a leaf from its holder. What it still sends of it is stray."""
        peer, fetch = self._peers[leaf.holder], self._fetches[leaf.digest]
        del peer.leaves[leaf.digest, leaf.index], fetch.active[leaf.index]
        fetch.missing |= 1 << leaf.index
        if peer.open is leaf:
            peer.open = None
        peer.front_at = max(peer.front_at, peer.last_at)
        self._credit(peer, -leaf.outstanding)
        self._stray[leaf.holder] = self._stray.get(leaf.holder, 0) + leaf.outstanding

    def _abandon(self, digest: Digest) -> None:
        """Stop fetching a blob."""
        fetch = self._fetches.get(digest)
        if fetch is not None:
            for leaf in list(fetch.active.values()):
                self._take_back(leaf)
            self.version += 1
            del self._fetches[digest]

    def _unlink(self, node: NodeId, now: float) -> list[Effect]:
        """Forget a peer and ask others for what it was to send."""
        peer = self._peers.get(node)
        if peer is None:
            return []
        for leaf in list(peer.leaves.values()):
            self._take_back(leaf)
        del self._peers[node]
        effects: list[Effect] = []
        for digest, fetch in self._fetches.items():
            self._divide(digest, fetch)
            effects += self._pursue(digest, fetch, now)
        return effects

    def _credit(self, peer: _Peer, size: int) -> None:
        peer.outstanding += size
        self._outstanding += size
        assert peer.outstanding >= 0, "what arrives or is taken back was asked for"

    def _measure(self, peer: _Peer, size: int, now: float) -> None:
        """Let the window follow the rate: about one second's worth, growing at most twofold at a time."""
        peer.arrived += size
        peer.last_at = now
        elapsed = now - peer.since
        if peer.arrived < peer.window and elapsed < RATE_WINDOW_S:
            return
        limits = self._limits
        peer.rate = peer.arrived / max(elapsed, 1e-3)
        # In whole chunks: a window of nearly two would otherwise hold one, and idle for every round trip.
        chunks = -(-int(peer.rate * RATE_WINDOW_S) // limits.chunk)
        target = min(chunks * limits.chunk, 2 * peer.window, limits.window_max)
        peer.window = max(limits.window_min, limits.chunk, target)
        peer.arrived, peer.since = 0, now

    # --- serving ------------------------------------------------------------------------------------------------

    def _on_want(self, sender: NodeId, peer: _Peer, want: m.Want) -> list[Effect]:
        """Send what is asked for and here. The receiver's window bounds what is queued; a flood is a fault."""
        digest, end = Digest(want.digest), want.offset + want.length
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        size = blob.size if blob else fetch.size if fetch else 0
        if size == 0:
            return [Send(sender, wire.encode(m.Missing(digest)))]
        index = want.offset // LEAF_BYTES
        if want.offset < 0 or want.length <= 0 or end > size or (end - 1) // LEAF_BYTES != index:
            self._faults.append((sender, "a request beyond the end of a blob or of a leaf"))
            return []
        if blob is None and (fetch is None or not fetch.verified >> index & 1):
            return [Send(sender, wire.encode(m.Missing(digest)))]
        served = peer.served.get(digest, 0) + want.length
        if served > SERVED_FACTOR_MAX * size + SERVED_SPARE_BYTES:
            self._faults.append((sender, f"requests for many times all of {digest.hex()[:12]}"))
            return []
        peer.served[digest] = served
        peer.sent_bytes += want.length
        header = wire.encode(m.ChunkHeader(digest, want.offset))
        return [SendChunk(sender, header, digest, want.offset, want.length)]

    def _on_get_leaves(self, sender: NodeId, digest: Digest) -> list[Effect]:
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        if blob is not None:
            size, hashes, have = blob.size, blob.leaves, b""
        elif fetch is not None and fetch.hashes:
            size, hashes, have = fetch.size, fetch.hashes, _bitmap(fetch)
        else:
            return [Send(sender, wire.encode(m.Missing(digest)))]
        # Who asks has perhaps missed the offer, so it is repeated.
        answer = (m.Leaves(digest, size, b"".join(hashes)), m.Have(digest, size, have))
        return [Send(sender, wire.encode(message)) for message in answer]


def _patience_s(size: int) -> float:
    """How long a peer is waited for of which `size` bytes were asked."""
    return min(REQUEST_S, REQUEST_S_MIN + size / REQUEST_BYTES_S)


def _digest(name: bytes) -> Digest:
    """Return a digest that is to be remembered. Raises `Reject` unless it has 32 bytes: memory is bounded by count."""
    if len(name) != 32:
        raise Reject(f"couldn't accept an offer: a digest has 32 bytes, not {len(name)}")
    return Digest(name)


def _bitmap(fetch: _Fetch) -> bytes:
    """Return the verified leaves as `messages.Have` carries them."""
    return fetch.verified.to_bytes((len(fetch.hashes) + 7) // 8, "little")
