"""Cosignatures of the log's head: who signs what when, what a quorum vouches for, and who contradicts himself."""

from __future__ import annotations

import random
from collections.abc import Sequence

import msgspec
import pytest
from typing_extensions import override

from gossip import wire
from gossip.messages import Cosign, Hello
from gossip.protocol import CAPABILITIES
from node.core import SOFTWARE, Node
from swarm import codec
from swarm.errors import Reject
from swarm.ledger import note as n
from swarm.ledger import tlog
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header
from swarm.ledger.cosign import GAP_S, IDLE_S, REMIND_S, REMIND_S_MAX, SIZES_KEPT, STRETCH_MS, Cosignature, Cosigners
from swarm.ledger.tiles import CHECKPOINT
from swarm.machine import (
    RECORD_BLOCK,
    Effect,
    Event,
    LinkChanged,
    NodeId,
    Received,
    Record,
    Report,
    Send,
    Started,
    WakeAt,
    Woke,
)
from tests.builders import CODE, LAYOUT, Swarm, identity, make_swarm
from tests.sites import calm_run
from topologies.families import complete, ring
from topologies.graph import Topology
from topologies.world.checkers import Checker
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, FaultPlan
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

LOG = "oncology/7f3a9c0d1e2b4a5f"
MEMBERS = [(f"site-{i}", identity(i).cosign_key.public) for i in range(4)]
QUORUM = 3
POLICY = tlog.members_policy(LOG, MEMBERS, QUORUM)


def site(index: int = 0) -> Cosigners:
    made = Cosigners(log=LOG, key=identity(index).cosign_key)
    made.update(identity(index).cosign_key, MEMBERS, QUORUM)
    return made


def root(size: int, branch: int = 0) -> bytes:
    return bytes((branch,)) + size.to_bytes(31, "big")


def cosigned(member: int, size: int, *, branch: int = 0, time_s: int = 1000) -> Cosignature:
    key = identity(member).cosign_key
    text = tlog.Checkpoint(LOG, size, root(size, branch)).encode()
    return Cosignature(size, root(size, branch), time_s, key.public, key.sign(n.cosigned(text, time_s)))


def finalize(who: Cosigners, size: int, now: float, *, commits: bool = True) -> None:
    who.final(size, root(size), time_ms=int(now * 1000), commits=commits, now=now)


def sizes(who: Cosigners) -> list[int]:
    return [c.size for c in who.held()]


def test_the_block_that_commits_a_round_is_signed_at_once_and_only_once() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    made = me.sign(1000.0)
    assert made is not None
    assert (made.size, made.root, made.time_s, made.key) == (10, root(10), 1000, MEMBERS[0][1])
    assert me.sign(1000.0 + IDLE_S) is None
    assert site(1).admit(made)


def test_another_block_is_signed_when_the_log_has_not_grown_for_a_while() -> None:
    me = site()
    finalize(me, 10, 1000.0, commits=False)
    assert me.next_wake() == 1000.0 + IDLE_S
    assert me.sign(1000.0 + IDLE_S - 0.01) is None
    finalize(me, 12, 1001.0, commits=False)
    assert me.sign(1000.0 + IDLE_S) is None
    made = me.sign(1001.0 + IDLE_S)
    assert made is not None
    assert made.size == 12


def test_only_the_first_commit_of_a_stretch_of_block_time_is_signed_before_the_log_is_idle() -> None:
    me = site()
    signed = []
    for step in range(100):
        now = 1000.0 + step / 5
        finalize(me, 10 + step, now)
        made = me.sign(now)
        if made is not None:
            signed.append(made.size)
    assert signed == [10 + 5 * STRETCH_MS // 1000 * k for k in range(4)]


def test_all_sites_choose_the_same_blocks_however_their_clocks_and_links_are() -> None:
    rng = random.Random(1)
    blocks = [(10 + i, 1_000_000 + i * 400) for i in range(60)]
    chosen = []
    for index in range(4):
        me, signed = site(index), set()
        for size, time_ms in blocks:
            now = time_ms / 1000 + 0.1 * rng.random()
            me.final(size, root(size), time_ms=time_ms, commits=size % 2 == 0, now=now)
            made = me.sign(now)
            if made is not None:
                signed.add(made.size)
        chosen.append(signed)
    assert chosen[0] == chosen[1] == chosen[2] == chosen[3] != set()


def test_nobody_signs_more_than_once_a_second_however_block_time_runs() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    assert me.sign(1000.0) is not None
    me.final(11, root(11), time_ms=9_000_000, commits=True, now=1000.1)
    assert me.sign(1000.2) is None
    assert me.next_wake() == 1000.0 + GAP_S
    assert me.sign(1000.0 + GAP_S) is not None


def test_whoever_is_no_member_or_has_another_key_now_does_not_sign() -> None:
    me = site()
    me.update(identity(0).cosign_key, MEMBERS[1:], 2)
    finalize(me, 10, 1000.0)
    assert me.sign(2000.0) is None
    me.update(identity(9).cosign_key, MEMBERS, QUORUM)
    assert me.sign(2000.0) is None
    me.update(identity(0).cosign_key, MEMBERS, QUORUM)
    assert me.sign(2000.0) is not None


def gathered(me: Cosigners, size: int, members: Sequence[int]) -> None:
    for member in members:
        me.admit(cosigned(member, size))


def test_a_checkpoint_is_published_once_a_quorum_has_cosigned_it_and_once_more_when_all_have() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    me.sign(1000.0)
    gathered(me, 10, [1])
    assert (me.published(), me.publish()) == (None, None)
    gathered(me, 10, [2])
    first = me.publish()
    assert first is not None
    good = POLICY.check(n.parse(first))
    assert (good.checkpoint, len(good.cosigners)) == (tlog.Checkpoint(LOG, 10, root(10)), 3)
    assert me.publish() is None
    gathered(me, 10, [3])
    second = me.publish()
    assert second is not None
    assert len(POLICY.check(n.parse(second)).cosigners) == 4
    assert (me.publish(), me.published()) == (None, second)


def test_the_newest_quorum_counts_and_an_older_one_never_replaces_it() -> None:
    me = site()
    for size in (10, 20, 30):
        finalize(me, size, 1000.0 + size)
    gathered(me, 20, [1, 2, 3])
    newest = me.publish()
    assert newest is not None
    gathered(me, 10, [1, 2, 3])
    gathered(me, 30, [1, 2])
    assert me.publish() is None
    assert me.published() == newest


def test_what_is_not_final_here_is_not_published_whoever_cosigned_it() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    gathered(me, 20, [1, 2, 3])
    assert me.published() is None
    finalize(me, 20, 1001.0)
    assert me.published() is not None


def test_only_members_of_today_vouch() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    gathered(me, 10, [1, 2, 3])
    assert me.published() is not None
    me.update(identity(0).cosign_key, MEMBERS[:2], 2)
    assert me.published() is None
    assert not me.admit(cosigned(2, 10)), "a former member's is no fault of whoever passes it on"


def test_a_cosignature_is_news_once() -> None:
    me = site()
    assert me.admit(cosigned(1, 10))
    assert not me.admit(cosigned(1, 10))
    assert not me.admit(cosigned(1, 10, time_s=2000))


@pytest.mark.parametrize(
    "change",
    [
        {"size": 0},
        {"size": 11},
        {"size": 2**63},
        {"root": root(11)},
        {"root": root(10)[:-1]},
        {"time_s": 999},
        {"time_s": -1},
        {"time_s": 2**63},
        {"signature": bytes(64)},
        {"signature": b""},
        {"key": MEMBERS[2][1]},
    ],
)
def test_a_changed_cosignature_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(Reject, match="couldn't accept a cosignature"):
        site().admit(msgspec.structs.replace(cosigned(1, 10), **change))


def test_a_member_that_cosigns_two_roots_of_one_size_is_told_of_once_and_passed_on_once() -> None:
    me = site()
    assert me.admit(cosigned(1, 10))
    assert me.admit(cosigned(1, 10, branch=1)), "the others are to see both"
    assert not me.admit(cosigned(1, 10, branch=2))
    (found,) = me.contradictions()
    assert (found.member, found.size, found.root, found.other, found.itself) == (
        "site-1",
        10,
        root(10, 1),
        root(10),
        True,
    )
    assert "site-1 cosigned root 01000000" in found.text
    assert me.contradictions() == []


@pytest.mark.parametrize("first", ["cosignature", "block"])
def test_a_member_that_cosigns_another_root_than_this_ledgers_is_told_of_and_never_published(first: str) -> None:
    me = site()
    if first == "block":
        finalize(me, 10, 1000.0)
    gathered(me, 10, [2, 3])
    me.admit(cosigned(1, 10, branch=1))
    if first == "cosignature":
        assert me.contradictions() == []
        finalize(me, 10, 1000.0)
    (found,) = me.contradictions()
    assert (found.member, found.root, found.other, found.itself) == ("site-1", root(10, 1), root(10), False)
    assert me.published() is None


def test_a_liar_fills_its_own_places_only_and_those_are_few() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    for size in range(2**40, 2**40 + 500):
        me.admit(cosigned(1, size))
    assert len(me._held[MEMBERS[1][1]]) == SIZES_KEPT
    gathered(me, 10, [2, 3])
    me.sign(1000.0)
    assert me.published() is not None


def test_an_old_cosignature_of_a_member_with_newer_ones_costs_no_verification() -> None:
    me = site()
    gathered(me, 100, [1])
    for size in range(101, 101 + SIZES_KEPT):
        me.admit(cosigned(1, size))
    assert not me.admit(msgspec.structs.replace(cosigned(1, 10), signature=bytes(64)))


def test_a_neighbour_is_reminded_of_what_is_missing_less_and_less_often() -> None:
    me = site()
    finalize(me, 10, 1000.0)
    me.sign(1000.0)
    now, gaps = 1000.0, []
    for _ in range(9):
        due = me.next_wake()
        assert due is not None
        assert me.remind(due - 0.01) == []
        assert [c.key for c in me.remind(due)] == [MEMBERS[0][1]]
        gaps.append(due - now)
        now = due
    assert gaps[:3] == [REMIND_S, 2 * REMIND_S, 4 * REMIND_S]
    assert gaps[-1] == REMIND_S_MAX
    gathered(me, 10, [1, 2, 3])
    assert (me.next_wake(), me.remind(now + 1e6)) == (None, [])


def test_no_note_has_more_lines_than_verifiers_read() -> None:
    many = [(f"site-{i}", identity(i).cosign_key.public) for i in range(120)]
    me = Cosigners(log=LOG, key=identity(0).cosign_key)
    me.update(identity(0).cosign_key, many, 81)
    finalize(me, 10, 1000.0)
    gathered(me, 10, range(120))
    note = me.published()
    assert note is not None
    assert len(n.parse(note).lines) == n.SIGNATURES_MAX
    assert len(tlog.members_policy(LOG, many, 81).check(n.parse(note)).cosigners) == 99


# --- whole nodes ------------------------------------------------------------------------------------------------


def world_of(topology: Topology, *, rounds: int, plan: FaultPlan | None = None, seed: int = 1) -> World:
    swarm = make_swarm(topology.n, rounds=rounds, edges=edges_of(topology))
    world = World(
        seed=seed,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=incarnation),
        topology=topology,
        plan=plan,
        learner=QuadraticTask(seed=1, samples=(100,) * topology.n, bound=100.0),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def edges_of(topology: Topology) -> tuple[tuple[int, int], ...]:
    n_ = topology.n
    found = sorted((i, j) for i in range(n_) for j in topology.neighbours(i) if i < j)
    return () if len(found) == n_ * (n_ - 1) // 2 else tuple(found)


def agreed(world: World) -> set[bytes]:
    """Return the checkpoint texts that are published, one where all agree."""
    return {
        n.parse(place.published[CHECKPOINT]).text.encode() for place in world.places if CHECKPOINT in place.published
    }


@pytest.mark.parametrize("topology", [complete(3), complete(4), ring(5)], ids=["three", "four", "ring of five"])
def test_every_node_ends_with_the_whole_log_cosigned_by_all(topology: Topology) -> None:
    world = world_of(topology, rounds=3)
    assert world.run(lambda w: all(place.finished for place in w.places), end_s=600)
    world.run(world.now + 60)
    (text,) = agreed(world)
    machine = world.place(0).machine
    assert machine is not None
    head = machine.replica.head
    assert tlog.Checkpoint.decode(text.decode()).size == head.size
    assert tlog.Checkpoint.decode(text.decode()).root == head.frontier.root()
    for place in world.places:
        assert len(n.parse(place.published[CHECKPOINT]).lines) == 1 + topology.n


def test_a_member_that_was_down_cosigns_when_it_is_back_and_nobody_signs_backwards() -> None:
    world = world_of(complete(4), rounds=3, plan=FaultPlan(faults=(Crash(at_s=2.0, slot=3, down_s=40.0),)))
    shown: dict[int, list[int]] = {}

    def look(w: World) -> bool:
        for place in w.places:
            note = place.published.get(CHECKPOINT)
            if note is not None:
                size = tlog.Checkpoint.decode(n.parse(note).text).size
                mine = shown.setdefault(place.slot, [])
                if not mine or mine[-1] != size:
                    mine.append(size)
        return w.now > 150

    world.run(look, end_s=200)
    assert all(place.finished for place in world.places)
    assert len(agreed(world)) == 1
    assert all(found == sorted(found) for found in shown.values())
    assert all(len(n.parse(place.published[CHECKPOINT]).lines) == 5 for place in world.places)


class DurableFirst(Checker):
    """Whoever cosigns or publishes a head has its block on the disk."""

    def __init__(self) -> None:
        self.durable: dict[int, set[int]] = {}
        self.told = self.published = 0

    @override
    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        for record in records:
            if record.kind == RECORD_BLOCK:
                final = codec.decode(record.payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
                self.durable.setdefault(node, set()).add(Header.decode(final.block.header).size)

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if wire.kind(frame) is Cosign:
            message = wire.decode(frame)
            assert isinstance(message, Cosign)
            if message.cosignature.key == identity(node).cosign_key.public:
                self.told += 1
                assert message.cosignature.size in self.durable[node], "it was cosigned before it was on the disk"

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        note = world.place(node).published.get(CHECKPOINT)
        if note is not None:
            self.published += 1
            assert tlog.Checkpoint.decode(n.parse(note).text).size in self.durable[node]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_cosigned_or_published_is_durable_first(seed: int) -> None:
    crashes = tuple(Crash(at_s=2.0 + k, slot=k % 4, down_s=3.0, power=True) for k in range(6))
    world = world_of(complete(4), rounds=4, plan=FaultPlan(faults=crashes), seed=seed)
    checker = DurableFirst()
    world._hook([checker])
    assert world.run(lambda w: all(place.finished for place in w.places), end_s=600)
    world.run(world.now + 30)
    assert checker.told
    assert checker.published
    assert len(agreed(world)) == 1


def linked_node() -> tuple[Node, Swarm]:
    """Return member 0 of three that has heard of members 1 and 2, its ledger at its beginning."""
    swarm = make_swarm(3)
    node = swarm.node(0)
    node.handle(Started(), EPOCH_S)
    for who in swarm.identities[1:]:
        hello = Hello((1, 0), SOFTWARE, CAPABILITIES, who.node, swarm.signed.ledger_id, CODE, LAYOUT, answer=False)
        node.handle(LinkChanged(who.node, True), EPOCH_S)
        node.handle(Received(who.node, wire.encode(hello)), EPOCH_S)
    return node, swarm


def spoken(swarm: Swarm, member: int, size: int, root_: bytes) -> Cosignature:
    secret = swarm.identities[member].cosign_key
    text = tlog.Checkpoint(tlog.origin(swarm.charter.name, swarm.signed.ledger_id), size, root_).encode()
    return Cosignature(size, root_, 5, secret.public, secret.sign(n.cosigned(text, 5)))


def test_whoever_sends_a_forged_cosignature_pays_for_it_and_a_contradiction_is_told_of() -> None:
    node, swarm = linked_node()
    one, two = (spoken(swarm, 1, 7, bytes((k,)) * 32) for k in (1, 2))
    events = []
    for sender, said in ((2, one), (2, two), (2, msgspec.structs.replace(one, size=8))):
        effects = node.handle(Received(swarm.identities[sender].node, wire.encode(Cosign(said))), EPOCH_S + 1)
        events.append([effect.event for effect in effects if isinstance(effect, Report)])
    assert events == [[], ["cosignatures_contradict"], ["peer_fault"]]


def test_a_ledger_that_has_stopped_cosigns_nothing_and_does_not_wake_for_it() -> None:
    node, _ = linked_node()
    node.cosigners.final(7, bytes(32), time_ms=0, commits=False, now=EPOCH_S)
    node._voice.halted = "it contradicts itself"
    effects = node.handle(Woke(), EPOCH_S + 60)
    assert not [e for e in effects if isinstance(e, Send) and wire.kind(e.frame) is Cosign]
    assert [e.time > EPOCH_S + 60 for e in effects if isinstance(e, WakeAt)] == [True]


def test_a_newcomer_is_told_of_the_cosignatures_that_are_here() -> None:
    left = calm_run(members=4, rounds=3)
    node = left.swarm.node(0)
    node.handle(Started([Record(RECORD_BLOCK, h, p) for h, p in enumerate(left.payloads, 1)]), EPOCH_S + 100)
    node.handle(Woke(), EPOCH_S + 100 + IDLE_S)
    who = left.swarm.identities[1]
    hello = Hello((1, 0), SOFTWARE, CAPABILITIES, who.node, left.swarm.signed.ledger_id, CODE, LAYOUT, answer=False)
    node.handle(LinkChanged(who.node, True), EPOCH_S + 110)
    effects = node.handle(Received(who.node, wire.encode(hello)), EPOCH_S + 110)
    told = [wire.decode(e.frame) for e in effects if isinstance(e, Send) and wire.kind(e.frame) is Cosign]
    (message,) = told
    assert isinstance(message, Cosign)
    assert message.cosignature.size == node.replica.head.size


def test_a_calm_run_publishes_a_checkpoint_as_it_goes_and_one_of_its_end() -> None:
    left = calm_run(members=4, rounds=3)
    found = [tlog.Checkpoint.decode(n.parse(note).text).size for note in left.checkpoints]
    assert found == sorted(found)
    assert len(set(found)) >= 2
