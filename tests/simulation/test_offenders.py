"""Whatever one member does wrong costs that member, is said in words, and the others go on."""

from __future__ import annotations

import pytest

from gossip import messages as m
from gossip import wire
from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock
from swarm.machine import RECORD_BLOCK, LinkChanged, NodeId, Received, Record, Report
from tests.builders import make_swarm
from tests.simulation.stories import done, tell, told
from topologies.families import ring
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, FaultPlan, FullDisk
from topologies.world.learner import Behaviour
from topologies.world.world import World

END_S = 300.0


class Closes(Checker):
    """Remembers every close that became final at member 0."""

    def __init__(self) -> None:
        self.closes: list[e.RoundClose] = []

    def on_persist(self, world: World, node: int, twin: int, records: object) -> None:
        assert isinstance(records, tuple)
        for record in records:
            if node == 0 and isinstance(record, Record) and record.kind == RECORD_BLOCK:
                for leaf in codec.decode(record.payload, FinalBlock, limit=1 << 21).block.leaves:
                    entry = e.decode_entry(leaf)
                    if entry.kind == e.ROUND_CLOSE:
                        self.closes.append(codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX))


@pytest.mark.parametrize(
    ("behaviour", "words"),
    [(Behaviour.NAN, "not a finite number"), (Behaviour.OVERSIZE, "over the charter's bound")],
)
def test_an_update_that_may_not_be_averaged_is_left_out_with_the_reason(behaviour: Behaviour, words: str) -> None:
    closes = Closes()
    world = tell(4, behaviours={2: behaviour}, checkers=[closes])
    assert world.run(lambda w: done(w, 0, 1, 3), end_s=END_S)
    assert [len(close.included) for close in closes.closes] == [3, 3, 3]
    assert all([reason for _, reason in close.rejected] == [e.UNUSABLE] for close in closes.closes)
    assert any(words in text for text in told(world, 0, "update_unusable"))


def test_a_wrong_shaped_update_is_never_fetched_and_the_round_goes_on_without_it() -> None:
    closes = Closes()
    world = tell(4, behaviours={2: Behaviour.WRONG_SHAPE}, checkers=[closes])
    assert world.run(lambda w: done(w, 0, 1, 3), end_s=END_S)
    assert [len(close.included) for close in closes.closes] == [3, 3, 3]


def test_training_that_raises_is_said_in_words_and_the_round_goes_on_without_the_site() -> None:
    closes = Closes()
    world = tell(4, behaviours={1: Behaviour.RAISES}, checkers=[closes])
    assert world.run(lambda w: done(w, 0, 2, 3), end_s=END_S)
    assert all(list(close.missing) == [world.ids[1]] for close in closes.closes)
    assert any("out of memory" in text for text in told(world, 1, "training_failed"))


def test_training_that_hangs_is_left_behind_after_the_patience_and_the_node_still_follows_the_rounds() -> None:
    world = tell(4, behaviours={3: Behaviour.HANG})
    assert world.run(lambda w: done(w, 0, 1, 2), end_s=END_S)
    assert world.run(lambda w: w.place(3).machine.replica.head.complete, end_s=END_S)  # type: ignore[union-attr]


def test_a_slow_site_that_makes_progress_is_waited_for() -> None:
    closes = Closes()
    patient = make_swarm(4, rounds=2, patience_ms=20_000)
    world = tell(4, behaviours={3: Behaviour.SLOW}, checkers=[closes], swarm=patient)
    assert world.run(done, end_s=END_S)
    assert all(not close.missing for close in closes.closes)
    assert world.now > 90, "each of its rounds takes fifty seconds"


def test_a_peer_with_another_charter_is_told_so_at_both_ends_and_the_others_go_on() -> None:
    ours, theirs = make_swarm(4, rounds=3), make_swarm(4, rounds=5)
    world = tell(4, swarm=ours, strangers={3: theirs})
    assert world.run(lambda w: done(w, 0, 1, 2), end_s=END_S)
    assert any("site-3 has another charter" in text for text in told(world, 0, "peer_refused"))
    assert any("another charter" in text for text in told(world, 3, "refused_by_peer"))


def test_replayed_messages_change_nothing() -> None:
    """Every frame of a finished run, sent again to everybody: no entry, no block, no complaint against the honest."""

    class Recorder(Checker):
        def __init__(self) -> None:
            self.sent: list[tuple[NodeId, NodeId, bytes]] = []

        def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
            if wire.kind(frame) is not m.ChunkHeader:
                self.sent.append((world.ids[node], to, frame))

    recorder = Recorder()
    world = tell(4, checkers=[recorder])
    assert world.run(done, end_s=END_S)
    machines = {place.id: place.machine for place in world.places}
    before = {node: machine.replica.head for node, machine in machines.items() if machine}
    for sender, to, frame in recorder.sent[:4000]:
        machine = machines[to]
        assert machine is not None
        machine.handle(Received(sender, frame), 2e9)
    for node, head in before.items():
        machine = machines[node]
        assert machine is not None
        assert machine.replica.head is head
        assert not machine.consensus.evidence


def test_garbage_is_charged_to_its_sender_who_is_ignored_after_a_while() -> None:
    swarm = make_swarm(4)
    node, sender = swarm.node(0, now=1e9), swarm.identities[1].node
    world = tell(4)
    assert world.run(lambda w: w.place(0).machine is not None, end_s=10)
    node = world.place(0).machine  # type: ignore[assignment]
    now = 2e9
    node.handle(LinkChanged(sender, True), now)
    complaints = 0
    for number in range(40):
        effects = node.handle(Received(sender, b"\x01\x07" + bytes([number])), now)
        complaints += sum(getattr(effect, "event", "") == "peer_fault" for effect in effects)
    assert 20 <= complaints <= 22
    with pytest.raises(Reject):
        wire.decode(b"\x01\x07garbage")


def test_a_member_without_a_link_in_the_charter_is_not_listened_to() -> None:
    edges = tuple(sorted(ring(5).edges))
    swarm = make_swarm(5, edges=edges)
    world = tell(5, swarm=swarm, topology=ring(5))
    assert world.run(done, end_s=END_S), "a ring of five goes round"
    node, model = world.place(0).machine, swarm.charter.task.initial_model
    assert node is not None
    said = [wire.encode(word) for word in (m.Have(model, 128, b""), m.Want(model, 0, 64), m.GetLeaves(model))]
    for other, heard in ((2, False), (1, True)):
        sender = swarm.identities[other].node
        answers = [*node.handle(LinkChanged(sender, True), 2e9)]
        answers += [
            effect for frame in [*said, b"\x01\x07garbage"] for effect in node.handle(Received(sender, frame), 2e9)
        ]
        told = [effect for effect in answers if getattr(effect, "to", None) == sender or isinstance(effect, Report)]
        assert bool(told) is heard


def test_a_full_disk_holds_one_site_still_and_loses_nothing() -> None:
    plan = FaultPlan(faults=(FullDisk(at_s=0.0, slot=2, duration_s=40.0),), heal_s=60.0)
    world = tell(4, plan=plan)
    assert world.run(done, end_s=END_S)
    heads = {place.machine.replica.head.committed.model for place in world.places if place.machine}
    assert len(heads) == 1


def test_a_site_that_was_down_for_two_rounds_catches_up_and_its_ledger_verifies() -> None:
    plan = FaultPlan(faults=(Crash(at_s=1.0, slot=1, down_s=30.0, power=True),), heal_s=60.0)
    swarm = make_swarm(4, rounds=3)
    world = tell(4, plan=plan, swarm=swarm)
    assert world.run(done, end_s=END_S)
    journal = world.place(1).journal
    assert journal is not None
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    *_, result = audit(payloads, swarm.signed)
    assert result.failure is None
    assert result.state.complete
    assert not result.uncovered
