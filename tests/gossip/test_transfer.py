"""Blobs on their way: who is asked for what, who is blamed, and that everything arrives.

The wire of these tests is a heap of deliveries: each directed link has a rate and a latency and keeps its order, as TCP
does. Stores are byte strings in the test. Time is simulated seconds.
"""

import heapq
import itertools
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import pytest

from gossip import messages as m
from gossip import wire
from gossip.transfer import COPIES_TOLD_MAX, HOLDERS_TOLD_MAX, REQUEST_S, SEARCH_S, Transfer, TransferLimits
from swarm.errors import Reject
from swarm.machine import (
    Buffer,
    Check,
    Checked,
    Digest,
    Effect,
    Forget,
    Keep,
    NodeId,
    Seal,
    Send,
    SendChunk,
    Stored,
)
from swarm.vector import LEAF_BYTES, blob_digest, leaf_hashes

KIB = 1024
MIB = 1 << 20
CHUNK = 256 * KIB
A, B, C = (NodeId(bytes((i,)) * 32) for i in range(3))


class Unshuffled(random.Random):
    """Leaves in their order, so that requests can be written down by hand."""

    def shuffle(self, x: object) -> None:
        """Leave it as it is."""


def blob_of(size: int, seed: int = 0) -> tuple[bytes, Stored]:
    data = random.Random(f"{seed}/{size}").randbytes(size)
    leaves = leaf_hashes(data)
    return data, Stored(blob_digest(size, leaves), size, leaves)


def transfer(me: NodeId = B, *, limits: TransferLimits | None = None) -> Transfer:
    return Transfer(me=me, rng=Unshuffled(0), limits=limits)


def said(effects: Sequence[Effect]) -> list[tuple[NodeId, m.Message]]:
    return [(effect.to, wire.decode(effect.frame)) for effect in effects if isinstance(effect, Send)]


def wants(effects: Sequence[Effect]) -> list[tuple[NodeId, int, int]]:
    """The ranges asked for: (of whom, offset, length). Requests for one range after the other count as one."""
    ranges: list[tuple[NodeId, int, int]] = []
    for to, want in said(effects):
        if not isinstance(want, m.Want):
            continue
        if ranges and (to, want.offset) == (ranges[-1][0], ranges[-1][1] + ranges[-1][2]):
            ranges[-1] = (to, ranges[-1][1], ranges[-1][2] + want.length)
        else:
            ranges.append((to, want.offset, want.length))
    return ranges


def fetching(blob: Stored, *holders: NodeId, now: float = 0.0) -> tuple[Transfer, list[Effect]]:
    """Return a transfer that has the leaf hashes of a blob which `holders` offer, and its first requests."""
    here = transfer()
    for holder in holders:
        here.link(holder, True, now)
        here.on_message(holder, m.Have(blob.digest, blob.size, b""), None, now)
    asked = here.want(blob.digest, blob.size, now)
    assert said(asked) == [(holders[0], m.GetLeaves(blob.digest))]
    return here, here.on_message(holders[0], m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, now)


def give(here: Transfer, sender: NodeId, blob: Stored, data: bytes, offset: int, now: float = 0.0) -> list[Effect]:
    return here.on_message(sender, m.ChunkHeader(blob.digest, offset), data[offset : offset + CHUNK], now)


# --- a wire ---------------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A transfer and the store its shell would keep."""

    transfer: Transfer
    store: dict[Digest, bytearray] = field(default_factory=dict)
    sealed: dict[Digest, bytes] = field(default_factory=dict)
    kept_bytes: int = 0
    faults: list[tuple[NodeId, str]] = field(default_factory=list)
    corrupts: bool = False
    dead: bool = False


class Wire:
    """Sites on links that keep their order, with a rate in bytes a second."""

    def __init__(
        self, n: int, edges: Sequence[tuple[int, int]] = (), *, rate: float = 50e6, latency_s: float = 0.01
    ) -> None:
        self.now = self._step_at = 0.0
        self.ids = [NodeId(bytes((i,)) * 32) for i in range(n)]
        self.sites = [self.fresh(i) for i in range(n)]
        self.rate, self.latency_s = rate, latency_s
        self.sent_bytes: dict[tuple[int, int], int] = {}
        self.chunks_flying: dict[tuple[int, int], int] = {}
        self.asked_bytes: dict[tuple[int, int], int] = {}
        self.lost: Callable[[int, int, m.Message], bool] = lambda a, b, message: False
        self._free_at: dict[tuple[int, int], float] = {}
        self._heap: list[tuple[float, int, int, int, bytes, bytes | None]] = []
        self._order = itertools.count()
        self._links = {*(edges or itertools.combinations(range(n), 2))}

    def fresh(self, i: int) -> Site:
        return Site(Transfer(me=self.ids[i], rng=random.Random(i)))

    def connect(self) -> None:
        for a, b in sorted(self._links):
            self.link(a, b)

    def link(self, a: int, b: int) -> None:
        self.obey(a, self.sites[a].transfer.link(self.ids[b], True, self.now))
        self.obey(b, self.sites[b].transfer.link(self.ids[a], True, self.now))

    def unlink(self, a: int, b: int) -> None:
        self._heap = [item for item in self._heap if {item[2], item[3]} != {a, b}]
        heapq.heapify(self._heap)
        self.obey(a, self.sites[a].transfer.link(self.ids[b], False, self.now))
        self.obey(b, self.sites[b].transfer.link(self.ids[a], False, self.now))

    def hold(self, i: int, data: bytes, blob: Stored) -> None:
        self.sites[i].store[blob.digest] = bytearray(data)
        self.obey(i, self.sites[i].transfer.stored(blob))

    def want(self, blob: Stored, *indices: int, hints: Sequence[int] = ()) -> None:
        for i in indices:
            named = [self.ids[hint] for hint in hints]
            self.obey(i, self.sites[i].transfer.want(blob.digest, blob.size, self.now, named))

    def obey(self, i: int, effects: Sequence[Effect]) -> None:
        site = self.sites[i]
        for effect in effects:
            match effect:
                case Send(to, frame):
                    self._post(i, to, frame, None)
                case SendChunk(to, frame, digest, offset, length):
                    payload = bytes(site.store[digest][offset : offset + length])
                    assert len(payload) == length
                    self._post(i, to, frame, payload[:-1] + bytes((payload[-1] ^ 1,)) if site.corrupts else payload)
                case Keep(digest, size, offset, payload):
                    if digest not in site.store:
                        site.store[digest] = bytearray(size)
                    site.store[digest][offset : offset + len(payload)] = payload
                    site.kept_bytes += len(payload)
                case Seal(digest, size, leaves):
                    assert blob_digest(size, leaf_hashes(site.store[digest])) == digest, "sealed bytes are wrong"
                    assert leaf_hashes(site.store[digest]) == leaves
                    site.sealed[digest] = bytes(site.store[digest])
                case Check(digest, _, leaves):
                    right = leaf_hashes(site.store[digest])
                    same = tuple(j for j, leaf in enumerate(leaves) if leaf == right[j])
                    self.obey(i, site.transfer.on_checked(Checked(digest, same), self.now))
                case Forget(digests):
                    for digest in digests:
                        site.store.pop(digest, None)
                case _:
                    raise AssertionError(f"{effect} is no effect of a transfer")
        site.faults += site.transfer.take_faults()

    def run(self, seconds: float, done: Callable[[], bool] = lambda: False) -> bool:
        """Deliver and step for so long. Return whether `done` came true."""
        end = self.now + seconds
        while not done():
            delivery_at = self._heap[0][0] if self._heap else self._step_at
            if min(delivery_at, self._step_at) > end:
                self.now = end
                return False
            if delivery_at < self._step_at:
                self.now, _, a, b, frame, payload = heapq.heappop(self._heap)
                self._deliver(a, b, frame, payload)
                continue
            self.now, self._step_at = self._step_at, self._step_at + 0.5
            for i, site in enumerate(self.sites):
                if not site.dead:
                    self.obey(i, site.transfer.step(self.now))
        return True

    def complete(self, blob: Stored) -> bool:
        return all(site.dead or site.transfer.has(blob.digest) for site in self.sites)

    def flying(self, a: int, b: int) -> int:
        """Bytes that b has asked of a and not received."""
        return self.asked_bytes.get((b, a), 0) - self.sent_bytes.get((a, b), 0) + self.chunks_flying.get((a, b), 0)

    def _post(self, a: int, to: NodeId, frame: bytes, payload: bytes | None) -> None:
        b = self.ids.index(to)
        message = wire.decode(frame)
        if self.sites[a].dead or self.lost(a, b, message):
            return
        if isinstance(message, m.Want):
            self.asked_bytes[a, b] = self.asked_bytes.get((a, b), 0) + message.length
        size = len(frame) + len(payload or b"")
        if payload is not None:
            self.sent_bytes[a, b] = self.sent_bytes.get((a, b), 0) + len(payload)
            self.chunks_flying[a, b] = self.chunks_flying.get((a, b), 0) + len(payload)
        start = max(self.now, self._free_at.get((a, b), 0.0))
        self._free_at[a, b] = start + size / self.rate
        heapq.heappush(self._heap, (self._free_at[a, b] + self.latency_s, next(self._order), a, b, frame, payload))

    def _deliver(self, a: int, b: int, frame: bytes, payload: bytes | None) -> None:
        if payload is not None:
            self.chunks_flying[a, b] -= len(payload)
        if not self.sites[b].dead:
            self.obey(b, self.sites[b].transfer.on_message(self.ids[a], wire.decode(frame), payload, self.now))


# --- by hand --------------------------------------------------------------------------------------------------------


def test_a_blob_of_two_leaves_by_hand() -> None:
    data, blob = blob_of(MIB + 300 * KIB)
    here, first = fetching(blob, A)
    # The window is 512 KiB at first.
    assert wants(first) == [(A, 0, 512 * KIB)]
    steps = [give(here, A, blob, data, offset) for offset in range(0, MIB + 300 * KIB, CHUNK)]
    # A chunk makes room for the next; when the whole window has arrived at once it doubles, and the second leaf starts.
    assert wants(steps[0]) == [(A, 512 * KIB, CHUNK)]
    assert wants(steps[1]) == [(A, 768 * KIB, CHUNK + 300 * KIB)]
    assert [wants(step) for step in steps[2:]] == [[]] * 4
    assert [step[0] for step in steps] == [
        Keep(blob.digest, blob.size, offset, data[offset : offset + CHUNK]) for offset in range(0, blob.size, CHUNK)
    ]
    assert steps[-1][1:] == [Seal(blob.digest, blob.size, blob.leaves)]
    assert (here.take_completed(), here.take_completed()) == ([blob.digest], [])
    assert here.has(blob.digest)
    assert here.take_faults() == []
    assert here.traffic(A) == (blob.size, 0)


def test_progress_counts_bytes_and_moving_looks_back_five_seconds() -> None:
    data, blob = blob_of(2 * MIB)
    here, _ = fetching(blob, A)
    assert here.progress(blob.digest) == (0, 2 * MIB)
    assert not here.moving(blob.digest, 0.0)
    give(here, A, blob, data, 0, now=1.0)
    assert here.progress(blob.digest) == (CHUNK, 2 * MIB)
    assert here.moving(blob.digest, 5.9)
    assert not here.moving(blob.digest, 6.0)
    assert here.progress(Digest(b"x")) is None


def test_a_want_is_served_by_one_message_of_just_that() -> None:
    _, blob = blob_of(MIB + 10)
    there = transfer(A)
    there.link(B, True, 0.0)
    assert said(there.stored(blob)) == [(B, m.Have(blob.digest, blob.size, b""))]
    assert there.stored(blob) == []
    served = there.on_message(B, m.Want(blob.digest, CHUNK, CHUNK + 5), None, 0.0)
    assert served == [
        SendChunk(B, wire.encode(m.ChunkHeader(blob.digest, CHUNK)), blob.digest, CHUNK, CHUNK + 5),
    ]
    assert there.traffic(B) == (0, CHUNK + 5)
    answer = there.on_message(B, m.GetLeaves(blob.digest), None, 0.0)
    assert said(answer) == [
        (B, m.Leaves(blob.digest, blob.size, b"".join(blob.leaves))),
        (B, m.Have(blob.digest, blob.size, b"")),
    ]


def test_what_is_not_held_is_said_to_be_missing() -> None:
    there = transfer(A)
    there.link(B, True, 0.0)
    digest = Digest(b"\x01" * 32)
    for message in (m.Want(digest, 0, 10), m.GetLeaves(digest)):
        assert said(there.on_message(B, message, None, 0.0)) == [(B, m.Missing(digest))]


def test_wanting_twice_or_what_is_held_costs_nothing() -> None:
    _, blob = blob_of(10)
    here, _ = fetching(blob, A)
    assert here.want(blob.digest, blob.size, 0.0) == []
    held = transfer()
    held.stored(blob)
    assert held.want(blob.digest, blob.size, 0.0) == []


def test_a_blob_whose_hashes_would_not_fit_a_frame_is_not_wanted() -> None:
    here = transfer()
    here.link(A, True, 0.0)
    assert here.want(Digest(bytes(32)), 30_001 * MIB, 0.0) == []
    assert here.known() == []


def test_a_new_link_is_told_what_is_held() -> None:
    _, blob = blob_of(10)
    here = transfer()
    here.stored(blob)
    assert said(here.link(A, True, 0.0)) == [(A, m.Have(blob.digest, 10, b""))]


@pytest.mark.parametrize(("size", "told"), [(2 * KIB, COPIES_TOLD_MAX), (MIB + 1, 19)])
def test_a_copy_of_a_small_blob_is_offered_to_a_few_and_of_a_large_one_to_all(size: int, told: int) -> None:
    # Of 21 peers the author has it, and one says that it has; a blob this node made itself all have to hear of.
    data, blob = blob_of(size)
    here = transfer()
    peers = [NodeId(bytes((100 + i,)) * 32) for i in range(21)]
    for peer in peers:
        here.link(peer, True, 0.0)
    here.want(blob.digest, blob.size, 0.0)
    for peer in peers[:2]:
        here.on_message(peer, m.Have(blob.digest, blob.size, b""), None, 0.0)
    effects = here.on_message(peers[0], m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, 0.0)
    offered: list[NodeId] = []
    for _ in range(40):
        asked, effects = wants(effects), []
        for holder, offset, length in asked:
            effects += here.on_message(holder, m.ChunkHeader(blob.digest, offset), data[offset : offset + length], 0.1)
        offered += [node for node, message in said(effects) if isinstance(message, m.Have) and not message.leaves]
    assert here.has(blob.digest)
    assert len(offered) == len({*offered}) == told
    assert not {*offered} & {*peers[:2]}
    _, own = blob_of(size, seed=1)
    assert len(said(here.stored(own))) == 21


def test_forgetting_drops_a_blob_in_every_state_and_nothing_unknown() -> None:
    data, blob = blob_of(2 * MIB)
    here, _ = fetching(blob, A)
    give(here, A, blob, data, 0)
    assert here.forget([blob.digest, Digest(b"?")]) == [Forget((blob.digest,))]
    assert here.forget([blob.digest]) == []
    # What was already on its way is nobody's fault.
    assert give(here, A, blob, data, CHUNK) == []
    assert here.take_faults() == []
    here.restore([blob], {Digest(b"part"): 7})
    assert here.known() == [blob.digest, Digest(b"part")]
    assert here.forget(here.known()) == [Forget((blob.digest, Digest(b"part")))]
    assert here.known() == []


def test_a_blob_this_node_made_itself_frees_the_requests_for_it() -> None:
    # The mean is computed by everyone and fetched by those that cannot: sometimes both at once.
    _, blob = blob_of(4 * MIB)
    _, other = blob_of(4 * MIB, seed=1)
    here, first = fetching(blob, A)
    assert sum(length for _, _, length in wants(first)) == 512 * KIB
    here.stored(blob)
    here.on_message(A, m.Have(other.digest, other.size, b""), None, 0.0)
    here.want(other.digest, other.size, 0.0)
    asked = here.on_message(A, m.Leaves(other.digest, other.size, b"".join(other.leaves)), None, 0.0)
    assert wants(asked) == [(A, 0, 512 * KIB)]


def test_a_message_that_is_no_transfer_is_refused() -> None:
    here = transfer()
    here.link(A, True, 0.0)
    with pytest.raises(Reject, match="has no meaning here"):
        here.on_message(A, m.GetBlocks(1), None, 0.0)


def test_a_peer_without_a_link_is_not_listened_to() -> None:
    _, blob = blob_of(10)
    here = transfer()
    here.stored(blob)
    assert here.on_message(A, m.Want(blob.digest, 0, 10), None, 0.0) == []


def test_outstanding_bytes_of_a_node_are_bounded_over_all_peers() -> None:
    _, blob = blob_of(8 * MIB)
    here = transfer(limits=TransferLimits(node_max=MIB))
    holders = [NodeId(bytes((i,)) * 32) for i in range(10, 20)]
    for holder in holders:
        here.link(holder, True, 0.0)
        here.on_message(holder, m.Have(blob.digest, blob.size, b""), None, 0.0)
    here.want(blob.digest, blob.size, 0.0)
    asked = wants(here.on_message(holders[0], m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, 0.0))
    assert sum(length for _, _, length in asked) == MIB


# --- among several --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [4, MIB - 1, MIB, MIB + 1, 5 * MIB + 12])
def test_sizes_around_a_leaf_arrive_whole(size: int) -> None:
    data, blob = blob_of(size)
    net = Wire(2)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.complete(blob))
    assert net.sites[1].sealed[blob.digest] == data
    # Between two nothing is sent twice and nobody is blamed.
    assert net.sent_bytes == {(0, 1): size}
    assert [site.faults for site in net.sites] == [[], []]


def test_a_restart_fetches_only_what_is_missing() -> None:
    data, blob = blob_of(6 * MIB)
    net = Wire(2)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= 3 * MIB + CHUNK)
    net.unlink(0, 1)
    before = net.sites[1]
    right = sum(a == b for a, b in zip(leaf_hashes(before.store[blob.digest]), blob.leaves, strict=True))
    assert 1 <= right <= 4
    # One leaf of the rest rots on the disk while the node is down.
    store = before.store[blob.digest]
    whole = next(i for i, leaf in enumerate(leaf_hashes(store)) if leaf == blob.leaves[i])
    store[whole * LEAF_BYTES] ^= 1
    net.sites[1] = net.fresh(1)
    net.sites[1].store = {blob.digest: store}
    net.sites[1].transfer.restore([], {blob.digest: blob.size})
    net.link(0, 1)
    net.want(blob, 1)
    assert net.run(20, lambda: net.complete(blob))
    assert net.sites[1].sealed[blob.digest] == data
    assert net.sites[1].kept_bytes == (6 - right + 1) * MIB


def test_a_restart_that_lacks_nothing_fetches_nothing() -> None:
    data, blob = blob_of(2 * MIB)
    net = Wire(2)
    net.sites[1].store[blob.digest] = bytearray(data)
    net.sites[1].transfer.restore([], {blob.digest: blob.size})
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(5, lambda: net.complete(blob))
    assert net.sent_bytes == {}


def test_a_corrupting_peer_is_blamed_and_the_blob_completes_from_another() -> None:
    data, blob = blob_of(6 * MIB)
    net = Wire(3)
    net.connect()
    net.hold(0, data, blob)
    net.hold(2, data, blob)
    net.sites[0].corrupts = True
    net.want(blob, 1, hints=(0,))
    assert net.run(20, lambda: net.complete(blob))
    assert net.sites[1].sealed[blob.digest] == data
    # Blamed are exactly the wrong leaves, and at once: nobody waits for more of the same from it.
    assert net.sites[1].faults
    assert all(who == A and "wrong bytes for leaf" in why for who, why in net.sites[1].faults)
    assert net.now < 2


def test_a_corrupting_peer_that_is_the_only_one_does_not_stop_the_search_for_ever() -> None:
    data, blob = blob_of(2 * MIB)
    net = Wire(2)
    net.connect()
    net.hold(0, data, blob)
    net.sites[0].corrupts = True
    net.want(blob, 1)
    assert not net.run(10, lambda: net.complete(blob))
    net.sites[0].corrupts = False  # Its memory was bad; it was mended.
    assert net.run(40, lambda: net.complete(blob))


def test_a_ring_of_five_forwards() -> None:
    data, blob = blob_of(6 * MIB)
    net = Wire(5, [(0, 1), (0, 4), (1, 2), (2, 3), (3, 4)])
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1, 2, 3, 4)
    assert net.run(60, lambda: net.complete(blob))
    assert all(site.sealed[blob.digest] == data for site in net.sites[1:])
    # Four copies have to be made, and no more are.
    assert sum(net.sent_bytes.values()) == 4 * blob.size
    assert all(not site.faults for site in net.sites)


def test_pieces_are_forwarded_before_the_whole_is_there() -> None:
    data, blob = blob_of(24 * MIB)
    net = Wire(3, [(0, 1), (1, 2)], rate=10e6)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1, 2)
    assert net.run(60, lambda: net.sites[1].transfer.has(blob.digest))
    assert net.sites[2].kept_bytes > 8 * MIB
    assert net.run(60, lambda: net.complete(blob))


def test_five_peers_that_start_together_share_the_authors_upload() -> None:
    data, blob = blob_of(32 * MIB)
    net = Wire(5, rate=5e6)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1, 2, 3, 4)
    assert net.run(120, lambda: net.complete(blob))
    upload = sum(count for (a, _), count in net.sent_bytes.items() if a == 0)
    print(f"author's upload: {upload / blob.size:.2f} x the blob")
    assert upload < 3 * blob.size
    # A leaf taken over from a slower source may be sent twice.
    assert sum(net.sent_bytes.values()) <= 1.05 * 4 * blob.size


def test_a_source_that_dies_in_silence_is_replaced_after_ten_seconds() -> None:
    data, blob = blob_of(12 * MIB)
    net = Wire(3, rate=5e6)
    net.connect()
    net.hold(0, data, blob)
    net.hold(2, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= 4 * MIB)
    net.sites[0].dead, died_at = True, net.now
    assert net.run(60, lambda: net.sites[1].transfer.has(blob.digest))
    assert net.sites[1].sealed[blob.digest] == data
    assert net.now - died_at < REQUEST_S + 5
    assert net.sites[1].faults == []


def test_a_lost_message_about_a_small_blob_is_made_up_for_within_three_seconds() -> None:
    # By hand: the answer about the leaves is lost, then the chunk; each time the next holder is asked soon.
    data, blob = blob_of(2 * KIB)
    here = transfer()
    for peer in (A, C):
        here.link(peer, True, 0.0)
        here.on_message(peer, m.Have(blob.digest, blob.size, b""), None, 0.0)
    first = said(here.want(blob.digest, blob.size, 0.0))
    assert first == [(A, m.GetLeaves(blob.digest))]
    assert said(here.step(1.9)) == []
    assert (C, m.GetLeaves(blob.digest)) in said(here.step(2.5))
    leaves = m.Leaves(blob.digest, blob.size, b"".join(blob.leaves))
    assert wants(here.on_message(C, leaves, None, 2.6)) == [(A, 0, 2 * KIB)]
    asked = next(asked for at in (4.0, 5.0, 5.6) if (asked := wants(here.step(at))))
    assert asked == [(C, 0, 2 * KIB)]
    here.on_message(C, m.ChunkHeader(blob.digest, 0), data, 5.7)
    assert here.has(blob.digest)


def test_a_lost_link_is_replaced_at_once() -> None:
    data, blob = blob_of(12 * MIB)
    net = Wire(3, rate=5e6)
    net.connect()
    net.hold(0, data, blob)
    net.hold(2, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= 4 * MIB)
    net.unlink(0, 1)
    started = net.now
    assert net.run(60, lambda: net.sites[1].transfer.has(blob.digest))
    assert net.now - started < 8 * MIB / 5e6 + 1
    assert net.sites[1].faults == []


def test_a_source_that_is_lost_and_comes_back_finishes_its_work() -> None:
    data, blob = blob_of(6 * MIB)
    net = Wire(2, rate=5e6)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= 2 * MIB)
    net.unlink(0, 1)
    assert not net.run(5, lambda: net.complete(blob))
    net.link(0, 1)
    assert net.run(20, lambda: net.complete(blob))
    assert net.sites[1].sealed[blob.digest] == data
    assert net.sites[1].faults == []


def test_a_lost_offer_is_searched_for() -> None:
    data, blob = blob_of(2 * MIB)
    net = Wire(4)
    net.lost = lambda a, b, message: isinstance(message, m.Have) and net.now == 0.0
    net.connect()
    net.hold(3, data, blob)
    net.want(blob, 1)
    # One of three peers is asked every two seconds; each says it has nothing, until the last.
    assert net.run(20, lambda: net.sites[1].transfer.has(blob.digest))
    assert net.now < 4 * SEARCH_S


def test_a_holder_that_has_dropped_a_blob_is_replaced() -> None:
    data, blob = blob_of(4 * MIB)
    net = Wire(3, rate=5e6)
    net.connect()
    net.hold(0, data, blob)
    net.hold(2, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= MIB)
    net.sites[0].transfer.forget([blob.digest])  # Its chunks on the way are still sent.
    assert net.run(20, lambda: net.sites[1].transfer.has(blob.digest))
    assert net.now < 5
    assert net.sites[1].faults == []


def test_links_that_come_and_go_lose_nothing() -> None:
    data, blob = blob_of(8 * MIB)
    for seed in range(5):
        rng = random.Random(seed)
        net = Wire(4, rate=4e6)
        net.connect()
        net.hold(0, data, blob)
        net.want(blob, 1, 2, 3)
        down: list[tuple[int, int]] = []
        for _ in range(12):
            net.run(rng.uniform(0.05, 0.6))
            if down and rng.random() < 0.6:
                net.link(*down.pop())
            else:
                pair = rng.choice([p for p in itertools.combinations(range(4), 2) if p not in down])
                net.unlink(*pair)
                down.append(pair)
        for pair in down:
            net.link(*pair)
        assert net.run(60, lambda net=net: net.complete(blob)), seed  # type: ignore[misc]
        assert all(site.sealed[blob.digest] == data for site in net.sites[1:])
        assert all(site.faults == [] for site in net.sites), seed


# --- pace -----------------------------------------------------------------------------------------------------------


def test_on_a_slow_link_about_a_second_is_outstanding_and_the_link_never_idles() -> None:
    data, blob = blob_of(8 * MIB)
    rate = 0.5e6
    net = Wire(2, rate=rate, latency_s=0.05)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    most = 0
    while net.run(0.1, lambda: net.complete(blob)) is False:
        if net.now > 3:
            most = max(most, net.flying(0, 1))
    assert most <= rate + 2 * CHUNK
    assert net.now < 1.15 * blob.size / rate


def test_on_a_fast_link_the_window_opens() -> None:
    data, blob = blob_of(32 * MIB)
    rate = 100e6
    net = Wire(2, rate=rate, latency_s=0.02)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.complete(blob))
    # Half a megabyte a round trip of 40 ms would take 2.6 s.
    assert net.now < 0.9


def test_a_link_that_becomes_slow_narrows_the_window() -> None:
    data, blob = blob_of(40 * MIB)
    net = Wire(2, rate=50e6)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.sites[1].kept_bytes >= 8 * MIB)
    net.rate = 1e6
    # What was asked for at the fast rate has to drain first: at most 8 MiB.
    net.run(10)
    assert not net.complete(blob)
    assert net.flying(0, 1) <= 1e6 + 2 * CHUNK


# --- the hostile and the unlucky ------------------------------------------------------------------------------------


@pytest.mark.parametrize("payload", [None, b"", bytes(MIB + 1)])
def test_a_chunk_without_bytes_or_with_too_many_is_a_fault(payload: Buffer | None) -> None:
    _, blob = blob_of(4 * MIB)
    here, _ = fetching(blob, A)
    assert here.on_message(A, m.ChunkHeader(blob.digest, 0), payload, 0.0) == []
    assert here.take_faults() == [(A, "a chunk without bytes, or with too many")]


@pytest.mark.parametrize(
    ("offset", "size"),
    [
        (CHUNK, CHUNK),  # Ahead of what has arrived.
        (1, CHUNK),
        (0, 512 * KIB + 1),  # More than was asked for.
        (-1, 10),
        (-MIB, 10),
        (8 * MIB, 10),  # Beyond the end.
        (2**63, 10),
    ],
)
def test_a_chunk_that_was_not_asked_for_is_a_fault_and_is_not_kept(offset: int, size: int) -> None:
    data, blob = blob_of(4 * MIB)
    here, _ = fetching(blob, A)
    assert here.on_message(A, m.ChunkHeader(blob.digest, offset), bytes(size), 0.0) == []
    assert here.take_faults() == [(A, f"a chunk at {offset} that was not asked for")]
    # It does no harm to what was asked for.
    assert isinstance(give(here, A, blob, data, 0)[0], Keep)


def test_a_chunk_from_a_peer_that_was_not_asked_is_not_kept() -> None:
    data, blob = blob_of(MIB)
    here, _ = fetching(blob, A, C)
    assert give(here, C, blob, data, 0) == []
    assert isinstance(give(here, A, blob, data, 0)[0], Keep)


def test_a_chunk_of_an_unknown_blob_is_not_kept() -> None:
    here = transfer()
    here.link(A, True, 0.0)
    assert here.on_message(A, m.ChunkHeader(bytes(32), 0), bytes(CHUNK), 0.0) == []
    assert here.known() == []


@pytest.mark.parametrize(
    ("offset", "length"),
    [
        (0, MIB + 1),  # Over the largest request.
        (0, 0),
        (0, -1),
        (-1, 10),
        (MIB - 1, 2),  # Across a leaf.
        (2 * MIB - 1, 2),  # Beyond the end.
        (2 * MIB, 1),
        (2**63, 1),
        (0, 2**63),
    ],
)
def test_a_want_outside_one_leaf_is_a_fault_and_is_not_served(offset: int, length: int) -> None:
    _, blob = blob_of(2 * MIB)
    there = transfer(A)
    there.link(B, True, 0.0)
    there.stored(blob)
    assert there.on_message(B, m.Want(blob.digest, offset, length), None, 0.0) == []
    assert there.take_faults() == [(B, "a request beyond the end of a blob or of a leaf")]
    assert there.traffic(B) == (0, 0)


def test_a_want_of_a_leaf_that_is_not_there_yet_is_answered_missing() -> None:
    data, blob = blob_of(2 * MIB)
    here, _ = fetching(blob, A)
    here.link(C, True, 0.0)
    assert said(here.on_message(C, m.Want(blob.digest, 0, 10), None, 0.0)) == [(C, m.Missing(blob.digest))]
    for offset in range(0, MIB, CHUNK):
        give(here, A, blob, data, offset)
    [chunk] = here.on_message(C, m.Want(blob.digest, 0, 10), None, 0.0)
    assert isinstance(chunk, SendChunk)
    assert here.take_faults() == []


@pytest.mark.parametrize("lie", ["size", "count", "ragged", "hash", "empty"])
def test_leaf_hashes_that_lie_are_a_fault_and_another_is_asked_at_once(lie: str) -> None:
    _, blob = blob_of(2 * MIB)
    true = b"".join(blob.leaves)
    size = blob.size + 1 if lie == "size" else blob.size
    hashes = {"count": true + bytes(32), "ragged": true[:-1], "hash": true[:-1] + b"\x00", "empty": b""}.get(lie, true)
    here = transfer()
    for holder in (A, C):
        here.link(holder, True, 0.0)
        here.on_message(holder, m.Have(blob.digest, blob.size, b""), None, 0.0)
    here.want(blob.digest, blob.size, 0.0)
    effects = here.on_message(A, m.Leaves(blob.digest, size, hashes), None, 0.0)
    assert [(who, why.split(" to ")[0]) for who, why in here.take_faults()] == [(A, "leaf hashes that do not belong")]
    assert said(effects) == [(C, m.GetLeaves(blob.digest))]
    asked = here.on_message(C, m.Leaves(blob.digest, blob.size, true), None, 0.0)
    assert {who for who, _, _ in wants(asked)} == {C}


def test_ten_thousand_offers_are_forgotten_but_the_newest() -> None:
    data, blob = blob_of(10)
    here = transfer()
    here.link(A, True, 0.0)
    for i in range(10_000):
        here.on_message(A, m.Have(i.to_bytes(32, "big"), 1, b""), None, 0.0)
    assert len(here._peers[A].offers) == HOLDERS_TOLD_MAX
    here.on_message(A, m.Have(blob.digest, blob.size, b""), None, 0.0)
    here.want(blob.digest, blob.size, 0.0)
    here.on_message(A, m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, 0.0)
    assert isinstance(give(here, A, blob, data, 0)[-1], Seal)


def test_a_partial_offer_is_asked_for_its_leaves_only_however_short_its_bitmap() -> None:
    _, blob = blob_of(12 * MIB)
    here = transfer()
    here.link(A, True, 0.0)
    here.on_message(A, m.Have(blob.digest, blob.size, b"\x04"), None, 0.0)
    here.want(blob.digest, blob.size, 0.0)
    asked = here.on_message(A, m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, 0.0)
    assert wants(asked) == [(A, 2 * MIB, 512 * KIB)]


@pytest.mark.parametrize("size", [MIB, 8 * MIB])
def test_chunks_that_were_queued_when_a_link_broke_are_nobodys_fault(size: int) -> None:
    data, blob = blob_of(size)
    here, first = fetching(blob, A)
    owed = list(wants(first))
    here.link(A, False, 1.0)
    here.link(A, True, 2.0)
    owed += wants(here.on_message(A, m.Have(blob.digest, blob.size, b""), None, 2.0))
    while owed:
        _, start, length = owed.pop(0)
        for offset in range(start, start + length, CHUNK):
            effects = here.on_message(A, m.ChunkHeader(blob.digest, offset), data[offset : offset + CHUNK], 2.5)
            owed += wants(effects)
    assert here.take_faults() == []
    assert here.has(blob.digest)


def test_random_messages_of_a_hostile_peer_never_raise_and_never_seal_wrong_bytes() -> None:
    data, blob = blob_of(3 * MIB)
    for seed in range(20):
        rng = random.Random(seed)
        here, _ = fetching(blob, A, C)
        for _ in range(300):
            offset = rng.choice((0, CHUNK, MIB, 2 * MIB, 3 * MIB, -5, rng.randrange(3 * MIB)))
            size = rng.choice((1, 100, CHUNK))
            message: m.Message = rng.choice(
                (
                    m.ChunkHeader(blob.digest, offset),
                    m.Want(blob.digest, offset, size),
                    m.Have(blob.digest, rng.randrange(9), rng.randbytes(rng.randrange(4))),
                    m.GetLeaves(blob.digest),
                    m.Leaves(blob.digest, blob.size, rng.randbytes(32 * rng.randrange(5))),
                    m.Missing(blob.digest),
                )
            )
            payload = rng.randbytes(size) if isinstance(message, m.ChunkHeader) else None
            for effect in here.on_message(A, message, payload, rng.random()):
                assert not isinstance(effect, Seal)
            here.take_faults()
        assert here.progress(blob.digest) is not None
        assert data


# --- many at once ---------------------------------------------------------------------------------------------------


class SharedUplink(dict[tuple[int, int], float]):
    """One queue for all a site sends: its uplink is what is scarce, not each of its links."""

    def get(self, key: tuple[int, int], default: float = 0.0) -> float:  # type: ignore[override]
        return super().get((key[0], key[0]), default)

    def __setitem__(self, key: tuple[int, int], value: float) -> None:
        super().__setitem__((key[0], key[0]), value)

    def __getitem__(self, key: tuple[int, int]) -> float:
        return super().__getitem__((key[0], key[0]))


def author_uploads(mebibytes: int, rate: float, *, shared: bool) -> float:
    """Return how many times the author sends its blob until four others have it."""
    data, blob = blob_of(mebibytes * MIB)
    net = Wire(5, rate=rate)
    if shared:
        net._free_at = SharedUplink()
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1, 2, 3, 4)
    assert net.run(200, lambda: net.complete(blob))
    assert all(site.sealed[blob.digest] == data for site in net.sites[1:])
    assert all(not site.faults for site in net.sites)
    return sum(count for (a, _), count in net.sent_bytes.items() if a == 0) / blob.size


def test_four_peers_behind_one_uplink_share_what_the_author_sends_once() -> None:
    assert author_uploads(32, 5e6, shared=True) <= 1.6


def test_a_holder_that_serves_slowly_does_not_delay_the_end() -> None:
    data, blob = blob_of(8 * MIB)
    net = Wire(3, rate=10e6)
    net._free_at = SlowFrom(0, 40.0)
    net.connect()
    net.hold(0, data, blob)
    net.hold(2, data, blob)
    net.want(blob, 1)
    assert net.run(60, lambda: net.complete(blob))
    # A leaf at a fortieth of the pace takes 4.2 s.
    assert net.now < 4
    assert net.sites[1].faults == []


class SlowFrom(dict[tuple[int, int], float]):
    """Whatever one site sends takes longer by a factor."""

    def __init__(self, site: int, factor: float):
        super().__init__()
        self.site, self.factor = site, factor

    def __setitem__(self, key: tuple[int, int], value: float) -> None:
        before = self.get(key, 0.0)
        super().__setitem__(key, before + (value - before) * self.factor if key[0] == self.site else value)


def test_a_link_slower_than_any_timeout_still_delivers() -> None:
    """At 10 kB/s a chunk takes 26 s, longer than a request may go unanswered on a link of usual pace."""
    data, blob = blob_of(MIB)
    net = Wire(2, rate=10e3)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(600, lambda: net.complete(blob))
    assert net.now < 2.5 * blob.size / 10e3
    assert net.sites[1].faults == []


def test_an_idle_link_keeps_its_window() -> None:
    data, blob = blob_of(16 * MIB)
    later_data, later = blob_of(16 * MIB, seed=1)
    net = Wire(2, rate=50e6, latency_s=0.02)
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.complete(blob))
    first_s = net.now
    net.run(60)
    started = net.now
    net.hold(0, later_data, later)
    net.want(later, 1)
    assert net.run(20, lambda: net.complete(later))
    assert net.now - started <= first_s


def test_a_silent_holder_is_not_asked_for_the_hashes_again_while_another_is_there() -> None:
    _, blob = blob_of(MIB)
    here = transfer()
    for holder in (A, C):
        here.link(holder, True, 0.0)
        here.on_message(holder, m.Have(blob.digest, blob.size, b""), None, 0.0)
    assert said(here.want(blob.digest, blob.size, 0.0)) == [(A, m.GetLeaves(blob.digest))]
    asked = [to for tenth in range(1, 130) for to, _ in said(here.step(tenth / 10))]
    assert C in asked


def test_a_leaf_with_a_hole_is_blamed_once_and_asked_for_anew() -> None:
    data, blob = blob_of(MIB)
    here, first = fetching(blob, A)
    assert wants(first) == [(A, 0, 512 * KIB)]
    assert give(here, A, blob, data, CHUNK) == []  # The transport had no room for the first.
    assert len(here.take_faults()) == 1
    owed = wants(here.step(1.0))
    assert owed[0] == (A, 0, 512 * KIB)
    while owed:
        _, start, length = owed.pop(0)
        for offset in range(start, start + length, CHUNK):
            owed += wants(give(here, A, blob, data, offset, now=1.5))
    assert here.has(blob.digest)
    assert here.take_faults() == []


def test_a_chunk_of_a_blob_never_wanted_is_a_fault() -> None:
    here = transfer()
    here.link(A, True, 0.0)
    here.on_message(A, m.ChunkHeader(bytes(32), 0), bytes(CHUNK), 0.0)
    assert here.take_faults() == [(A, "a chunk at 0 that was not asked for")]


def test_a_chunk_of_an_active_leaf_from_a_peer_that_was_not_asked_is_a_fault() -> None:
    data, blob = blob_of(MIB)
    here, _ = fetching(blob, A, C)
    give(here, C, blob, data, 0)
    assert here.take_faults() == [(C, "a chunk at 0 that was not asked for")]


def test_a_chunk_that_comes_twice_is_no_fault() -> None:
    data, blob = blob_of(MIB)
    here, _ = fetching(blob, A)
    for offset in range(0, MIB, CHUNK):
        give(here, A, blob, data, offset)
        assert give(here, A, blob, data, offset) == []
    assert here.has(blob.digest)
    assert here.take_faults() == []


def test_a_flood_of_requests_is_refused_before_it_reads_the_disk_for_ever() -> None:
    _, blob = blob_of(MIB)
    there = transfer(A)
    there.link(B, True, 0.0)
    there.stored(blob)
    served = sum(bool(there.on_message(B, m.Want(blob.digest, 0, MIB), None, 0.0)) for _ in range(10_000))
    assert served == 4 + 16
    assert len(there.take_faults()) == 10_000 - served


def test_an_offer_of_what_is_no_digest_is_rejected() -> None:
    here = transfer()
    here.link(A, True, 0.0)
    with pytest.raises(Reject, match="32 bytes"):
        here.on_message(A, m.Have(bytes(4000), 10, b""), None, 0.0)


def test_a_peer_that_links_late_hears_of_blobs_that_are_half_there() -> None:
    data, blob = blob_of(2 * MIB)
    here, _ = fetching(blob, A)
    for offset in range(0, MIB, CHUNK):
        give(here, A, blob, data, offset)
    assert said(here.link(C, True, 0.0)) == [(C, m.Have(blob.digest, blob.size, b"\x01"))]


def test_a_peer_that_greets_anew_without_having_been_missed_is_asked_again() -> None:
    _, blob = blob_of(MIB)
    here, first = fetching(blob, A)
    assert wants(first) == [(A, 0, 512 * KIB)]
    here.link(A, True, 1.0)
    assert wants(here.on_message(A, m.Have(blob.digest, blob.size, b""), None, 1.0)) == [(A, 0, 512 * KIB)]


def test_what_was_cancelled_is_not_fetched_twice() -> None:
    data, blob = blob_of(2 * MIB)
    here, _ = fetching(blob, A)
    for offset in range(0, MIB, CHUNK):
        give(here, A, blob, data, offset)
    here.cancel([blob.digest])
    assert (here.size(blob.digest), here.progress(blob.digest)) == (None, None)
    assert said(here.want(blob.digest, blob.size, 1.0)) == [(A, m.GetLeaves(blob.digest))]
    leaves = m.Leaves(blob.digest, blob.size, b"".join(blob.leaves))
    assert here.on_message(A, leaves, None, 1.0) == [Check(blob.digest, blob.size, blob.leaves)]
    asked = here.on_checked(Checked(blob.digest, (0,)), 1.0)
    assert {offset // MIB for _, offset, _ in wants(asked)} == {1}
    assert here.progress(blob.digest) == (MIB, 2 * MIB)


def test_shares_of_a_complete_swarm_are_disjoint_and_cover_everything() -> None:
    _, blob = blob_of(10 * MIB)
    ids = [NodeId(bytes((i,)) * 32) for i in range(4)]
    shares = []
    for me in ids[1:]:
        here = transfer(me)
        for other in ids:
            if other != me:
                here.link(other, True, 0.0)
        here.on_message(ids[0], m.Have(blob.digest, blob.size, b""), None, 0.0)
        here.want(blob.digest, blob.size, 0.0)
        here.on_message(ids[0], m.Leaves(blob.digest, blob.size, b"".join(blob.leaves)), None, 0.0)
        shares.append({i for i in range(10) if here._fetches[blob.digest].share >> i & 1})
    assert shares == [{0, 3, 6, 9}, {1, 4, 7}, {2, 5, 8}]


def test_between_two_peers_nothing_is_announced_and_requests_are_few() -> None:
    data, blob = blob_of(40 * MIB)
    net = Wire(2, rate=100e6)
    sent: list[m.Message] = []

    def overhear(a: int, b: int, message: m.Message) -> bool:
        sent.append(message)
        return False

    net.lost = overhear
    net.connect()
    net.hold(0, data, blob)
    net.want(blob, 1)
    assert net.run(20, lambda: net.complete(blob))
    # One when it was made, one with the hashes.
    assert sum(isinstance(message, m.Have) for message in sent) == 2
    assert sum(isinstance(message, m.Want) for message in sent) <= 60


def test_no_work_for_a_chunk_grows_with_the_blob() -> None:
    """Line events are counted, not time: the same for 16 leaves and for 1024."""
    counts = []
    for leaves in (16, 1024):
        size = leaves * MIB
        stored = Stored(blob_digest(size, [bytes(32)] * leaves), size, (bytes(32),) * leaves)
        here, first = fetching(stored, A)
        _, offset, _ = wants(first)[0]
        lines = 0

        def trace(frame: object, event: str, argument: object) -> object:
            nonlocal lines
            lines += event == "line"
            return trace

        chunk = m.ChunkHeader(stored.digest, offset)
        before = sys.gettrace()
        sys.settrace(trace)  # type: ignore[arg-type]
        try:
            here.on_message(A, chunk, bytes(CHUNK), 0.0)
        finally:
            sys.settrace(before)
        counts.append(lines)
    assert counts[0] == counts[1]


@pytest.mark.parametrize("size", [MIB, 8 * MIB])
def test_a_stalled_only_holder_is_asked_again_and_what_comes_late_is_nobodys_fault(size: int) -> None:
    data, blob = blob_of(size)
    here, first = fetching(blob, A)
    owed = wants(first)
    # 512 KiB at the assumed half a megabyte a second should take one second: late after 10 + 2 x 1.
    assert wants(here.step(11.9)) == []
    again = wants(here.step(REQUEST_S + 2.5))
    assert [to for to, _, _ in again] == [A]
    owed += again
    while owed:
        _, start, length = owed.pop(0)
        for offset in range(start, start + length, CHUNK):
            owed += wants(give(here, A, blob, data, offset, now=13.0))
        if not owed and not here.has(blob.digest):
            owed += wants(here.step(60.0))
    assert here.take_faults() == []
    assert here.has(blob.digest)
