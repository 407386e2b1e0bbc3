"""Moving models between peers: content-addressed, pulled, from many sources at once.

The receiver drives. A `Want` asks for a range within one 1 MiB leaf and is at the same time the credit to send exactly
that much; what is still outstanding to a peer is bounded by a window that follows its measured rate, so that on a slow
link little stands between a heartbeat and its receiver, and a fast one never idles. Nobody sends bulk unasked. That a
chunk was sent means nothing; that it arrived is shown by the next Want.

A leaf comes from one peer, in order, and is hashed as it arrives: a wrong one is thrown away and has exactly one
culprit. Whoever holds a verified leaf serves it, so the author's uplink is not the only source.

The module is pure: it decides who is asked for what; the shell moves the bytes (`Keep`, `SendChunk`).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from gossip import messages as m
from gossip import wire
from swarm.errors import Reject
from swarm.machine import Buffer, Check, Checked, Digest, Effect, Forget, Keep, NodeId, Seal, Send, SendChunk, Stored
from swarm.vector import LeafHasher, blob_digest, leaf_count, leaf_span

LEAVES_MAX = 30_000
"""Leaves of the largest blob (about 30 GiB): their hashes must fit one control frame of 1 MiB."""

HOLDERS_TOLD_MAX = 4096
"""Blobs remembered as offered by one peer; the oldest are forgotten."""

REQUEST_S = 10.0
"""A peer that sends nothing of what it was asked for this long is not waited for any longer."""

SEARCH_S = 2.0
"""Between questions after a blob of which nothing is on its way."""

MOVING_S = 5.0
"""Bytes that arrived within this time count as progress."""

ANNOUNCE_LEAVES = 8
"""A peer that is not complete tells the others of every so many new leaves."""

RATE_WINDOW_S = 1.0
"""A window is about what a link moves in this time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TransferLimits:
    """All in bytes."""

    chunk: int = 256 * 1024
    """One message. At 0.5 MB/s it takes half a second, well within a heartbeat's patience."""
    window_first: int = 512 * 1024
    window_min: int = 256 * 1024
    window_max: int = 8 << 20
    """No more than the transport queues for one peer."""
    node_max: int = 64 << 20
    """Outstanding over all peers."""
    request_max: int = 1 << 20


@dataclass(slots=True)
class _Leaf:
    """A leaf on its way: who sends it, how far it has come."""

    holder: NodeId
    length: int
    asked: int = 0
    arrived: int = 0
    hasher: LeafHasher = field(default_factory=LeafHasher)


@dataclass(slots=True)
class _Fetch:
    """A blob that is wanted."""

    size: int
    hints: tuple[NodeId, ...]
    hashes: tuple[bytes, ...] = ()
    partial: bool = False
    checking: bool = False
    asked_leaves: dict[NodeId, float] = field(default_factory=dict)
    missing: dict[int, None] = field(default_factory=dict)
    active: dict[int, _Leaf] = field(default_factory=dict)
    verified: set[int] = field(default_factory=set)
    banned: set[NodeId] = field(default_factory=set)
    announced: int = 0
    search_at: float = 0.0
    searched: int = 0
    moved_at: float = -1e9


@dataclass(slots=True)
class _Peer:
    """What is known about a linked peer."""

    offers: dict[Digest, bytes] = field(default_factory=dict)
    window: int = 0
    outstanding: int = 0
    arrived: int = 0
    since: float = 0.0
    last_at: float = 0.0
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
        # Bytes asked of a member and given up since: they may still come, and are then no fault.
        self._late: dict[NodeId, int] = {}
        self._completed: list[Digest] = []
        self._faults: list[tuple[NodeId, str]] = []

    # --- what is held -------------------------------------------------------------------------------------------

    def restore(self, blobs: Sequence[Stored], partial: Mapping[Digest, int]) -> None:
        """Take note of what the store holds at start."""
        self._held = {blob.digest: blob for blob in blobs}
        self._partial = dict(partial)

    def has(self, digest: Digest) -> bool:
        """Whether a blob is complete."""
        return digest in self._held

    def known(self) -> list[Digest]:
        """Return the blobs that are held, complete or in part, and those being fetched."""
        return list({**self._held, **self._partial, **self._fetches})

    def progress(self, digest: Digest) -> tuple[int, int] | None:
        """Return (bytes verified, size) of a blob that is being fetched."""
        fetch = self._fetches.get(digest)
        if fetch is None:
            return None
        done = sum(leaf_span(fetch.size, index)[1] for index in fetch.verified)
        return done + sum(leaf.arrived for leaf in fetch.active.values()), fetch.size

    def moving(self, digest: Digest, now: float) -> bool:
        """Whether bytes of it have arrived of late."""
        fetch = self._fetches.get(digest)
        return fetch is not None and now - fetch.moved_at < MOVING_S

    def traffic(self, peer: NodeId) -> tuple[int, int]:
        """Return (bytes received from, bytes sent to) a peer since it was linked."""
        state = self._peers.get(peer)
        return (0, 0) if state is None else (state.received_bytes, state.sent_bytes)

    def stored(self, blob: Stored) -> list[Effect]:
        """A blob of this node's own is in the store: offer it."""
        self._abandon(blob.digest)
        known, self._held[blob.digest] = blob.digest in self._held, blob
        return [] if known else self._offer(blob.digest)

    def want(self, digest: Digest, size: int, now: float, hints: Sequence[NodeId] = ()) -> list[Effect]:
        """Start fetching a blob of `size` bytes, from `hints` first. Repeating it costs nothing."""
        if digest in self._held:
            return []
        fetch = self._fetches.get(digest)
        if fetch is None:
            if leaf_count(size) > LEAVES_MAX:
                return []
            fetch = self._fetches[digest] = _Fetch(size, tuple(hints), partial=self._partial.get(digest) == size)
            fetch.search_at = now + SEARCH_S
        elif hints and not set(hints) <= set(fetch.hints):
            fetch.hints = (*fetch.hints, *(node for node in hints if node not in fetch.hints))
        else:
            return []
        return self._pursue(digest, fetch, now)

    def forget(self, digests: Sequence[Digest]) -> list[Effect]:
        """Drop blobs, complete or on their way."""
        known = [d for d in digests if d in self._held or d in self._fetches or d in self._partial]
        for digest in known:
            self._held.pop(digest, None)
            self._partial.pop(digest, None)
            self._abandon(digest)
        return [Forget(tuple(known))] if known else []

    def _abandon(self, digest: Digest) -> None:
        """Stop fetching a blob; what is still asked for of it no longer fills anybody's window."""
        fetch = self._fetches.pop(digest, None)
        for leaf in fetch.active.values() if fetch else ():
            self._release(leaf)

    def take_completed(self) -> list[Digest]:
        """Return the blobs completed since the last call."""
        completed, self._completed = self._completed, []
        return completed

    def take_faults(self) -> list[tuple[NodeId, str]]:
        """Return who sent what it should not have since the last call."""
        faults, self._faults = self._faults, []
        return faults

    # --- links and messages -------------------------------------------------------------------------------------

    def link(self, peer: NodeId, up: bool, now: float) -> list[Effect]:
        """A link came or went. What was asked of a lost peer is asked of others."""
        effects: list[Effect] = []
        if not up:
            self._peers.pop(peer, None)
            for digest, fetch in list(self._fetches.items()):
                self._leave(fetch, peer)
                effects += self._pursue(digest, fetch, now)
            return effects
        self._peers[peer] = _Peer(window=self._limits.window_first, since=now, last_at=now)
        for digest, blob in self._held.items():
            effects.append(Send(peer, wire.encode(m.Have(digest, blob.size, b""))))
        for digest, fetch in self._fetches.items():
            effects += self._pursue(digest, fetch, now)
        return effects

    def on_message(self, sender: NodeId, message: m.Message, payload: Buffer | None, now: float) -> list[Effect]:
        """Take in a transfer message of a linked peer."""
        if sender not in self._peers:
            return []
        match message:
            case m.ChunkHeader():
                return self._on_chunk(sender, Digest(message.digest), message.offset, payload, now)
            case m.Want():
                return self._on_want(sender, message)
            case m.Have():
                return self._on_have(sender, message, now)
            case m.GetLeaves():
                return self._on_get_leaves(sender, Digest(message.digest))
            case m.Leaves():
                return self._on_leaves(sender, message, now)
            case m.Missing():
                return self._on_missing(sender, Digest(message.digest), now)
            case _:
                raise Reject("couldn't accept a message: it has no meaning here")

    def on_checked(self, checked: Checked, now: float) -> list[Effect]:
        """The shell has compared an interrupted transfer with its leaf hashes."""
        fetch = self._fetches.get(checked.digest)
        if fetch is None or not fetch.checking:
            return []
        fetch.checking = fetch.partial = False
        for index in checked.leaves:
            if index in fetch.missing:
                del fetch.missing[index]
                fetch.verified.add(index)
        return self._after_leaf(checked.digest, fetch) + self._pursue(checked.digest, fetch, now)

    def step(self, now: float) -> list[Effect]:
        """Stop waiting for peers that do not deliver, and look for holders of what nobody offers."""
        effects: list[Effect] = []
        for digest, fetch in list(self._fetches.items()):
            late = [i for i, leaf in fetch.active.items() if self._overdue(leaf, now)]
            for holder in {fetch.active[i].holder: None for i in late}:
                # Otherwise the same peer, first among its equals, would be asked again for ever.
                self._leave(fetch, holder)
                if holder in self._peers:
                    self._peers[holder].offers.pop(digest, None)
            asked = [node for node, at in fetch.asked_leaves.items() if now - at > REQUEST_S]
            for node in asked:
                del fetch.asked_leaves[node]
            if late or asked:
                effects += self._pursue(digest, fetch, now)
            if not fetch.active and not fetch.checking and now >= fetch.search_at:
                effects += self._search(digest, fetch, now)
        return effects

    def next_wake(self, now: float) -> float | None:
        """Return when `step` may have something to do."""
        return now + SEARCH_S / 2 if self._fetches else None

    def _search(self, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """An offer may have been lost: ask any linked peer, one after the other, whether it has the blob."""
        fetch.search_at = now + SEARCH_S
        hinted = [node for node in fetch.hints if node in self._peers]
        candidates = [node for node in dict.fromkeys((*hinted, *self._peers)) if node not in fetch.banned]
        if not candidates:
            # Everybody has sent wrong bytes at some time; better to try again than to wait for ever.
            fetch.banned.clear()
            return []
        chosen = candidates[fetch.searched % len(candidates)]
        fetch.searched += 1
        return [Send(chosen, wire.encode(m.GetLeaves(digest)))]

    # --- receiving ----------------------------------------------------------------------------------------------

    def _on_chunk(
        self, sender: NodeId, digest: Digest, offset: int, payload: Buffer | None, now: float
    ) -> list[Effect]:
        """The hot path: no work here grows with the size of the blob."""
        peer = self._peers[sender]
        fetch = self._fetches.get(digest)
        size = 0 if payload is None else len(payload)
        if payload is None or size == 0 or size > self._limits.request_max:
            self._faults.append((sender, "a chunk without bytes, or with too many"))
            return []
        peer.received_bytes += size
        if fetch is None:
            self._comes_late(sender, size)
            return []  # What was forgotten in the meantime is no fault of the sender's.
        index, within = divmod(offset, 1 << 20)
        leaf = fetch.active.get(index)
        if leaf is None or leaf.holder != sender or within != leaf.arrived or within + size > leaf.asked:
            known = index in fetch.verified or index in fetch.missing or (leaf is not None and leaf.holder != sender)
            if not self._comes_late(sender, size) and not known:
                self._faults.append((sender, f"a chunk at {offset} that was not asked for"))
            return []
        self._measure(peer, size, now)
        fetch.moved_at = now
        leaf.arrived += size
        leaf.hasher.update(payload)
        effects: list[Effect] = [Keep(digest, fetch.size, offset, payload)]
        if leaf.arrived == leaf.length:
            effects += self._finish_leaf(sender, digest, index, leaf, now)
        return effects + self._pull(sender, peer, now)

    def _finish_leaf(self, sender: NodeId, digest: Digest, index: int, leaf: _Leaf, now: float) -> list[Effect]:
        fetch = self._fetches[digest]
        del fetch.active[index]
        if leaf.hasher.digest() != fetch.hashes[index]:
            fetch.missing[index] = None
            self._faults.append((sender, f"wrong bytes for leaf {index} of {digest.hex()[:12]}"))
            return self._ban(sender, digest, fetch, now)
        fetch.verified.add(index)
        return self._after_leaf(digest, fetch)

    def _after_leaf(self, digest: Digest, fetch: _Fetch) -> list[Effect]:
        """Complete the blob, or tell others what can be had here already."""
        if len(fetch.verified) == len(fetch.hashes):
            blob = Stored(digest, fetch.size, fetch.hashes)
            del self._fetches[digest]
            self._partial.pop(digest, None)
            self._held[digest] = blob
            self._completed.append(digest)
            return [Seal(digest, fetch.size, fetch.hashes), *self._offer(digest)]
        if len(fetch.verified) - fetch.announced >= ANNOUNCE_LEAVES:
            fetch.announced = len(fetch.verified)
            return self._offer(digest)
        return []

    def _offer(self, digest: Digest) -> list[Effect]:
        """Tell the peers that are not known to hold a blob what can be had here."""
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        if blob is not None:
            frame = wire.encode(m.Have(digest, blob.size, b""))
        else:
            assert fetch is not None, "only what is held or fetched is offered"
            frame = wire.encode(m.Have(digest, fetch.size, _bitmap(fetch.verified, len(fetch.hashes))))
        return [Send(node, frame) for node, peer in self._peers.items() if peer.offers.get(digest) != b""]

    def _on_have(self, sender: NodeId, message: m.Have, now: float) -> list[Effect]:
        peer, digest = self._peers[sender], Digest(message.digest)
        peer.offers.pop(digest, None)
        if len(peer.offers) >= HOLDERS_TOLD_MAX:
            del peer.offers[next(iter(peer.offers))]
        peer.offers[digest] = message.leaves
        fetch = self._fetches.get(digest)
        return [] if fetch is None else self._pursue(digest, fetch, now)

    def _on_leaves(self, sender: NodeId, message: m.Leaves, now: float) -> list[Effect]:
        digest = Digest(message.digest)
        fetch = self._fetches.get(digest)
        if fetch is None or fetch.hashes:
            return []
        hashes = tuple(message.hashes[i : i + 32] for i in range(0, len(message.hashes), 32))
        fits = message.size == fetch.size and len(hashes) == leaf_count(fetch.size) and len(message.hashes) % 32 == 0
        if not fits or blob_digest(fetch.size, hashes) != digest:
            self._faults.append((sender, f"leaf hashes that do not belong to {digest.hex()[:12]}"))
            return self._ban(sender, digest, fetch, now)
        fetch.hashes = hashes
        order = list(range(len(hashes)))
        # Each peer starts elsewhere, so that the leaves one has are the ones its neighbours lack.
        self._rng.shuffle(order)
        fetch.missing = dict.fromkeys(order)
        if fetch.partial:
            fetch.checking = True
            return [Check(digest, fetch.size, hashes)]
        return self._pursue(digest, fetch, now)

    def _on_missing(self, sender: NodeId, digest: Digest, now: float) -> list[Effect]:
        """The peer no longer has it."""
        self._peers[sender].offers.pop(digest, None)
        fetch = self._fetches.get(digest)
        if fetch is None:
            return []
        fetch.hints = tuple(node for node in fetch.hints if node != sender)
        self._leave(fetch, sender)
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
        for node in self._holders(digest, fetch):
            if node not in fetch.asked_leaves:
                if fetch.asked_leaves:
                    return []  # One is being waited for; `step` moves on when it does not answer.
                fetch.asked_leaves[node] = now
                return [Send(node, wire.encode(m.GetLeaves(digest)))]
        return []

    def _holders(self, digest: Digest, fetch: _Fetch) -> list[NodeId]:
        """Return the linked peers that offer the blob, those it was hinted at first."""
        hinted = [node for node in fetch.hints if node in self._peers and node not in fetch.banned]
        offering = [node for node, peer in self._peers.items() if digest in peer.offers and node not in fetch.banned]
        return [node for node in hinted if node in offering] + [node for node in offering if node not in hinted]

    def _pull(self, node: NodeId, peer: _Peer, now: float) -> list[Effect]:
        """Fill a peer's window with requests, oldest blob first."""
        effects: list[Effect] = []
        for digest, fetch in self._fetches.items():
            offer = peer.offers.get(digest)
            if offer is None or not fetch.hashes or fetch.checking or node in fetch.banned:
                continue
            for index, leaf in fetch.active.items():
                if leaf.holder == node and leaf.asked < leaf.length:
                    effects += self._request(node, peer, digest, index, leaf)
            while self._room(peer) > 0:
                chosen = next((i for i in fetch.missing if not offer or _bit(offer, i)), None)
                if chosen is None:
                    break
                del fetch.missing[chosen]
                leaf = fetch.active[chosen] = _Leaf(node, leaf_span(fetch.size, chosen)[1])
                peer.last_at = max(peer.last_at, now) if peer.outstanding else now
                effects += self._request(node, peer, digest, chosen, leaf)
            if self._room(peer) <= 0:
                break
        return effects

    def _request(self, node: NodeId, peer: _Peer, digest: Digest, index: int, leaf: _Leaf) -> list[Effect]:
        """Ask for as much more of a leaf as the window allows, in whole chunks."""
        rest, room, chunk = leaf.length - leaf.asked, self._room(peer), self._limits.chunk
        if room <= 0:
            return []
        length = min(rest, max(chunk, room // chunk * chunk), self._limits.request_max)
        want = m.Want(digest, index * (1 << 20) + leaf.asked, length)
        leaf.asked += length
        peer.outstanding += length
        return [Send(node, wire.encode(want))]

    def _room(self, peer: _Peer) -> int:
        total = sum(other.outstanding for other in self._peers.values())
        return min(peer.window - peer.outstanding, self._limits.node_max - total)

    def _ban(self, node: NodeId, digest: Digest, fetch: _Fetch, now: float) -> list[Effect]:
        """Ask a peer for nothing more of this blob, and others at once for what it was asked for."""
        fetch.banned.add(node)
        self._leave(fetch, node)
        return self._pursue(digest, fetch, now)

    def _leave(self, fetch: _Fetch, node: NodeId) -> None:
        """Give back what a peer was asked for: others may be asked for it."""
        fetch.asked_leaves.pop(node, None)
        for index in [i for i, leaf in fetch.active.items() if leaf.holder == node]:
            self._release(fetch.active.pop(index))
            fetch.missing[index] = None

    def _release(self, leaf: _Leaf) -> None:
        rest = leaf.asked - leaf.arrived
        self._late[leaf.holder] = self._late.get(leaf.holder, 0) + rest
        peer = self._peers.get(leaf.holder)
        if peer is not None:
            peer.outstanding = max(0, peer.outstanding - rest)

    def _comes_late(self, sender: NodeId, size: int) -> bool:
        """Whether a chunk may be one that was asked for and given up; each is forgiven once."""
        owed = self._late.get(sender, 0)
        if owed < size:
            return False
        self._late[sender] = owed - size
        return True

    def _overdue(self, leaf: _Leaf, now: float) -> bool:
        peer = self._peers.get(leaf.holder)
        return peer is None or now - peer.last_at > REQUEST_S

    def _measure(self, peer: _Peer, size: int, now: float) -> None:
        """Let the window follow the rate: about one second's worth, growing at most twofold at a time."""
        peer.outstanding = max(0, peer.outstanding - size)
        peer.arrived += size
        peer.last_at = now
        elapsed = now - peer.since
        if peer.arrived >= peer.window or elapsed >= RATE_WINDOW_S:
            rate = peer.arrived / max(elapsed, 1e-3)
            target = int(min(rate * RATE_WINDOW_S, 2 * peer.window))
            peer.window = max(self._limits.window_min, min(target, self._limits.window_max))
            peer.arrived, peer.since = 0, now

    # --- serving ------------------------------------------------------------------------------------------------

    def _on_want(self, sender: NodeId, want: m.Want) -> list[Effect]:
        digest = Digest(want.digest)
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        size = blob.size if blob else fetch.size if fetch else 0
        if size == 0:
            return [Send(sender, wire.encode(m.Missing(digest)))]
        index = want.offset >> 20
        within = 0 < want.length <= self._limits.request_max and want.offset >= 0 and want.offset + want.length <= size
        if not within or (want.offset + want.length - 1) >> 20 != index:
            self._faults.append((sender, "a request beyond the end of a blob or of a leaf"))
            return []
        if blob is None and (fetch is None or index not in fetch.verified):
            return [Send(sender, wire.encode(m.Missing(digest)))]
        effects: list[Effect] = []
        for offset in range(want.offset, want.offset + want.length, self._limits.chunk):
            length = min(self._limits.chunk, want.offset + want.length - offset)
            header = wire.encode(m.ChunkHeader(digest, offset))
            effects.append(SendChunk(sender, header, digest, offset, length))
        self._peers[sender].sent_bytes += want.length
        return effects

    def _on_get_leaves(self, sender: NodeId, digest: Digest) -> list[Effect]:
        blob, fetch = self._held.get(digest), self._fetches.get(digest)
        if blob is not None:
            size, hashes, have = blob.size, blob.leaves, b""
        elif fetch is not None and fetch.hashes:
            size, hashes, have = fetch.size, fetch.hashes, _bitmap(fetch.verified, len(fetch.hashes))
        else:
            return [Send(sender, wire.encode(m.Missing(digest)))]
        # Who asks has perhaps missed the offer, so it is repeated.
        answer = (m.Leaves(digest, size, b"".join(hashes)), m.Have(digest, size, have))
        return [Send(sender, wire.encode(message)) for message in answer]


def _bitmap(leaves: set[int], count: int) -> bytes:
    bits = bytearray((count + 7) // 8)
    for index in sorted(leaves):
        bits[index // 8] |= 1 << index % 8
    return bytes(bits)


def _bit(bits: bytes, index: int) -> bool:
    return index // 8 < len(bits) and bool(bits[index // 8] >> index % 8 & 1)
