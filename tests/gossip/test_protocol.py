"""Versions: today's node is held to what 1.0 was recorded to say, and 1.0's reader to what today's node says."""

from __future__ import annotations

from typing import get_args

import msgspec
import pytest

from gossip import messages as m
from gossip import wire
from gossip.protocol import CAPABILITIES, PROTOCOL
from node.core import Node
from swarm import codec
from swarm.machine import LinkChanged, Received, Report, Send, Started
from tests.builders import make_swarm
from tests.gossip.test_wire import EXAMPLES
from tests.previous import PREVIOUS, PreviousNode, Unknown, read, recording
from topologies.families import complete
from topologies.world.clock import EPOCH_S
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

KINDS = recording()["kinds"]
MEETING = {way: [bytes.fromhex(frame) for frame in frames] for way, frames in recording()["meeting"].items()}


# --- the recording --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", KINDS, ids=lambda number: KINDS[number]["name"])
def test_a_frame_recorded_of_1_0_is_read_and_written_as_it_was(number: str) -> None:
    frame = bytes.fromhex(KINDS[number]["example"])
    message = wire.decode(frame)
    assert (frame[1], type(message).__name__) == (int(number), KINDS[number]["name"])
    assert wire.encode(message) == frame


@pytest.mark.parametrize("way", MEETING)
def test_what_two_sites_of_1_0_said_to_each_other_is_read_and_written_as_it_was(way: str) -> None:
    assert len(MEETING[way]) == 60
    for frame in MEETING[way]:
        assert wire.encode(wire.decode(frame)) == frame


@pytest.mark.parametrize("message", EXAMPLES, ids=lambda message: type(message).__name__)
def test_what_we_say_of_a_kind_of_1_0_its_reader_reads(message: m.Message) -> None:
    if str(wire.encode(message)[1]) in KINDS:
        assert read(wire.encode(message))[0] == type(message).__name__


def test_every_kind_since_1_0_needs_a_capability() -> None:
    names = {kind["name"] for kind in KINDS.values()}
    later = {type_ for type_ in get_args(m.Message) if type_.__name__ not in names}
    assert set(wire.NEEDS) == later
    assert set(wire.NEEDS.values()) <= set(CAPABILITIES)


def test_the_recorded_reader_refuses_what_1_0_refused() -> None:
    hello = bytes.fromhex(KINDS["1"]["example"])
    longer = hello.replace(b"\x98", b"\x99", 1) + b"\x00"
    for frame in (b"", b"\x02\x01\x90", b"\x01\x18\x91\x00", b"\x01\x0a\x91\x03", longer, hello + b"\x00"):
        with pytest.raises(Unknown):
            read(frame)


# --- one node meets another version ---------------------------------------------------------------------------------


def met(node: Node, frames: list[bytes], sender: bytes) -> tuple[list[bytes], list[Report]]:
    """Start a node, link it to a peer that says this; return what it says to that peer, and what it reports."""
    events = [Started((), (), {}), LinkChanged(sender, True, ""), *(Received(sender, frame) for frame in frames)]
    effects = [effect for event in events for effect in node.handle(event, EPOCH_S)]
    said = [effect.frame for effect in effects if isinstance(effect, Send) and effect.to == sender]
    return said, [effect for effect in effects if isinstance(effect, Report)]


def test_a_recorded_handshake_of_1_0_is_answered_in_words_that_1_0_reads() -> None:
    swarm = make_swarm(4)
    other = swarm.identities[1].node
    # Chunks of models were recorded without the bytes that go with them.
    frames = [frame for frame in MEETING["site-1 to site-0"] if wire.kind(frame) is not m.ChunkHeader]
    said, reports = met(swarm.node(0), frames, other)
    names = [read(frame)[0] for frame in said]
    assert names[0] == "Hello"
    assert {"Heartbeat", "FeedHeads", "Standing", "Remind"} <= {*names}
    assert not [report.text for report in reports if report.event in ("peer_refused", "peer_fault")]
    assert "site-1 speaks protocol 1.0 (swarm-node/0.1), this node 1.1" in next(
        report.text for report in reports if report.event == "peer_version"
    )


def hello_of(index: int, protocol: tuple[int, int], *more: object) -> bytes:
    swarm = make_swarm(4)
    charter = swarm.charter
    said = m.Hello(
        protocol,
        "swarm-node/9",
        (*CAPABILITIES, "telepathy"),
        swarm.identities[index].node,
        swarm.signed.ledger_id,
        charter.task.digest,
        charter.task.layout,
        True,
    )
    return b"\x01\x01" + codec.encode((*msgspec.structs.astuple(said), *more))


def test_what_a_later_minor_has_added_is_passed_over() -> None:
    swarm = make_swarm(4)
    other = swarm.identities[1].node
    node = swarm.node(0)
    greeting = hello_of(1, (PROTOCOL[0], PROTOCOL[1] + 1), ("what this is", 7))
    strange = [bytes((1, 200)) + codec.encode(("news", i)) for i in range(100)]
    said, reports = met(node, [greeting, *strange], other)
    assert "Heartbeat" in [read(frame)[0] for frame in said]
    assert not [report.text for report in reports if report.event in ("peer_refused", "peer_fault")]
    assert not node.peers.ignored(other, EPOCH_S)


def test_a_kind_that_its_sender_cannot_know_is_its_fault() -> None:
    swarm = make_swarm(4)
    other = swarm.identities[1].node
    for protocol in (PREVIOUS, PROTOCOL):
        _, reports = met(swarm.node(0), [hello_of(1, protocol), b"\x01\xc8\x90"], other)
        assert [report.event for report in reports if report.level == "warning"] == ["peer_fault"]


def test_another_major_is_refused_in_words_whatever_else_its_greeting_holds() -> None:
    swarm = make_swarm(4)
    other = swarm.identities[1].node
    node = swarm.node(0)
    said, _ = met(node, [hello_of(1, (2, 0), 1, b"x", ("y",))], other)
    assert read(said[-1]) == (
        "Refuse",
        ("site-1 speaks protocol 2.0 (swarm-node/9), this node 1.1 (swarm-node/0.1): update the older one",),
    )
    member = next(row for row in node.status(EPOCH_S)["members"] if row["name"] == "site-1")
    assert (member["refused_id"], member["protocol"]) == ("SWARM-HELLO-VERSION", "2.0")


# --- whole runs -----------------------------------------------------------------------------------------------------


def mixed_world(previous: set[int], members: int = 4, **terms: object) -> tuple[World, dict[int, list[PreviousNode]]]:
    """Return a calm world in which some members speak the previous minor, and their machines as they come."""
    swarm = make_swarm(members, **terms)
    machines: dict[int, list[PreviousNode]] = {member: [] for member in previous}

    def make(member: int, incarnation: int) -> Node:
        if member not in previous:
            return swarm.node(member, now=EPOCH_S + world.now, seed=incarnation)
        machines[member].append(swarm.node(member, now=EPOCH_S + world.now, seed=incarnation, kind=PreviousNode))
        return machines[member][-1]

    world = World(
        seed=1,
        make=make,
        topology=complete(members),
        learner=QuadraticTask(seed=1, samples=(100,) * members, bound=100.0),
        cuts=swarm.charter.cuts,
        averages=swarm.charter.averages,
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        ledger_id=swarm.signed.ledger_id,
    )
    return world, machines


@pytest.mark.parametrize("previous", [{1}, {0, 2}, {0, 1, 2, 3}], ids=str)
@pytest.mark.parametrize("terms", [{}, {"schedule": "ring"}, {"route": "sharded"}], ids=["exact", "gossip", "sharded"])
def test_members_of_the_previous_minor_take_part_in_whole_runs(previous: set[int], terms: dict[str, str]) -> None:
    world, machines = mixed_world(previous, rounds=3, **terms)
    assert world.run(lambda w: all(place.finished for place in w.places), end_s=200.0)
    assert {place.finished.outcome for place in world.places} == {"DONE"}
    models = {place.machine.replica.head.committed.model for place in world.places}
    assert len(models) == 1
    for place in world.places:
        # Everybody's work is in it, the old ones' too, and nobody is said to have misbehaved.
        assert len(place.machine.replica.head.heads) == len(world.places)
        assert not [text for _, text in place.reports if text.event in ("peer_fault", "peer_refused")]
    for member in previous:
        for machine in machines[member]:
            assert (machine.refused, machine.kept) == ([], [])
