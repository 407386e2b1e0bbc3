from collections.abc import Sequence

import pytest

from swarm.machine import RECORD_ENTRY, RECORD_VOTE, Effect, Event, NodeId, Persist, Record, Send, Started
from tests.topologies.world.toys import Script
from topologies.families import path
from topologies.world.checkers import Checker, PersistBeforeSend, PersistedIsReadBack, Violation
from topologies.world.place import member_id
from topologies.world.world import World

ENTRY = Record(RECORD_ENTRY, 1, b"entry")
VOTE = Record(RECORD_VOTE, 1, b"vote")


def world() -> World:
    return World(seed=9, make=lambda member, incarnation: Script(lambda event, now: ()), topology=path(2))


def test_the_base_objects_to_nothing() -> None:
    checker = Checker()
    checker.on_start(world(), 0, 0, ())
    checker.on_event(world(), 0, 0, Started(), ())
    checker.on_persist(world(), 0, 0, (ENTRY,))
    checker.on_send(world(), 0, 0, member_id(1), b"")
    checker.on_crash(world(), 0, 0)
    checker.at_end(world())


def test_records_may_follow_but_not_go_missing_or_change() -> None:
    checker = PersistedIsReadBack()
    checker.on_persist(world(), 0, 0, (ENTRY, VOTE))
    checker.on_start(world(), 0, 0, (VOTE, ENTRY, Record(RECORD_ENTRY, 2, b"in flight")))
    with pytest.raises(Violation, match=r"member 0 persisted 2 records of kind 4 and read back 1 \(seed 9"):
        checker.on_start(world(), 0, 0, (VOTE, ENTRY))  # what was read back once is durable for ever
    checker.on_start(world(), 1, 0, ())
    checker.on_start(world(), 0, 1, ())  # the twin has a disk of its own


def test_a_frame_sent_before_its_record_is_synced_is_caught() -> None:
    class Careless(Checker):
        """Writes behind the journal's back, as a shell that forgot the sync would."""

        def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
            disk = world.place(node, twin).disk
            disk.create("forgotten", 8)
            disk.write("forgotten", 0, b"x")

    def speak(event: Event, now: float) -> Sequence[Effect]:
        return (Persist((ENTRY,)), Send(NodeId(bytes(32)), b"hello")) if isinstance(event, Started) else ()

    careless = World(
        seed=1,
        make=lambda member, incarnation: Script(speak),
        topology=path(1),
        checkers=(Careless(), PersistBeforeSend()),
    )
    with pytest.raises(Violation, match="member 0 sent a frame while its disk had unsynced writes"):
        careless.run(5.0)
