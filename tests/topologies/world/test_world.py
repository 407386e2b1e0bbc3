import math
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from swarm.machine import (
    RECORD_ENTRY,
    Asked,
    Digest,
    Effect,
    Evaluate,
    Evaluated,
    Event,
    Finished,
    Forget,
    Inspect,
    Inspected,
    Keep,
    LinkChanged,
    Mix,
    Mixed,
    NodeId,
    Persist,
    Received,
    Record,
    Report,
    Send,
    SendChunk,
    Started,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    WakeAt,
    Woke,
)
from swarm.vector import blob_digest, leaf_hashes
from tests.topologies.world.toys import HARSH, Flood, Script, flooding, harsh_digest, harsh_world, silent
from topologies.families import complete, path, ring
from topologies.world.checkers import Checker, PersistBeforeSend, PersistedIsReadBack, Violation
from topologies.world.clock import EPOCH_S
from topologies.world.faults import (
    ClockJump,
    Crash,
    Fault,
    FaultPlan,
    Freeze,
    FullDisk,
    Heal,
    OneWayCut,
    Partition,
    SlowLink,
    TwinRoute,
    flapping,
    isolate,
)
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.place import Place, member_id
from topologies.world.world import RESTART_S, World

ROOT = Path(__file__).parents[3]
QUICK = NetworkProfile(delay_s_min=0.1, delay_s_mean=0.1, handshake_s=0.1, detection_s=1.0)


def plan(*faults: Fault, heal_s: float = math.inf) -> FaultPlan:
    return FaultPlan(faults=faults, heal_s=heal_s)


def words(place: Place) -> int:
    assert isinstance(place.machine, Flood)
    return len(place.machine.words)


def script_of(world: World, slot: int) -> Script:
    machine = world.places[slot].machine
    assert isinstance(machine, Script)
    return machine


# --- determinism


def test_the_same_seed_gives_the_same_trace_and_another_seed_another() -> None:
    assert harsh_digest(1) == harsh_digest(1)
    assert harsh_digest(1) != harsh_digest(2)


def test_the_trace_does_not_depend_on_the_hash_seed() -> None:
    program = "from tests.topologies.world.toys import harsh_digest; print(harsh_digest(3))"
    digests = [
        subprocess.run(
            [sys.executable, "-c", program],
            cwd=ROOT,
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2", "3")
    ]
    assert digests == [harsh_digest(3) + "\n"] * 3


def test_a_recorded_trace_is_readable_and_has_the_same_digest() -> None:
    world = harsh_world(4, record_trace=True)
    world.run(30.0)
    lines = world.trace.lines()
    assert world.trace_digest() == harsh_digest(4)
    assert any(" started records=0 blobs=0 partial=0 > persist 4@1:" in line for line in lines)
    assert any(" crash " in line for line in lines)
    assert any(" n4b " in line for line in lines)


def test_flooding_reaches_everybody_once_the_faults_are_over() -> None:
    for seed in range(8):
        world = harsh_world(seed)
        world.run(60.0)
        assert [words(place) for place in world.places] == [5] * 6


# --- links


def test_a_partition_holds_words_back_until_it_is_healed() -> None:
    topology = complete(4)
    faults = plan(Partition(at_s=0.0, groups=((0, 1),)), Heal(at_s=10.0))
    world = World(seed=1, make=flooding(topology, 1), topology=topology, plan=faults, network=QUICK)
    world.run(9.9)
    assert [words(place) for place in world.places] == [2, 2, 2, 2]
    world.run(12.0)
    assert [words(place) for place in world.places] == [4, 4, 4, 4]


def test_a_one_way_cut_leaves_the_way_back_open() -> None:
    topology = path(2)
    faults = plan(OneWayCut(at_s=0.0, sources=(0,), targets=(1,)))
    world = World(seed=1, make=flooding(topology, 1), topology=topology, plan=faults, network=QUICK)
    world.run(10.0)
    assert [words(place) for place in world.places] == [2, 1]


def links_seen(*faults: Fault, fifo: bool = False) -> list[tuple[float, bool]]:
    """What member 0 hears about its link to member 1, with times."""
    profile = NetworkProfile(delay_s_min=0.1, delay_s_mean=0.1, handshake_s=0.1, detection_s=1.0, fifo=fifo)
    world = World(
        seed=1, make=lambda member, incarnation: Script(silent), topology=path(2), plan=plan(*faults), network=profile
    )
    world.run(30.0)
    seen = script_of(world, 0).seen
    return [(now - EPOCH_S, event.up) for now, event in seen if isinstance(event, LinkChanged)]


def test_links_come_up_after_the_start_and_a_cut_is_noticed_after_a_while() -> None:
    seen = links_seen(isolate(1, at_s=10.0, duration_s=5.0))
    assert [up for _, up in seen] == [True, False, True]
    assert seen[0][0] < 1.0
    assert 10.5 <= seen[1][0] <= 11.5
    assert 15.05 <= seen[2][0] <= 15.15


def test_flapping_faster_than_detection_goes_unnoticed() -> None:
    flaps = flapping(((1,),), at_s=10.0, duration_s=4.0, period_s=0.4)
    assert [up for _, up in links_seen(*flaps)] == [True]


def test_a_one_way_cut_takes_a_fifo_link_down_at_both_ends() -> None:
    cut = OneWayCut(at_s=10.0, sources=(0,), targets=(1,))
    assert [up for _, up in links_seen(cut, fifo=True)] == [True, False]
    assert [up for _, up in links_seen(cut)] == [True]  # as datagrams, member 0 still hears member 1


def test_a_peer_that_restarts_quickly_is_seen_to_go_and_to_return() -> None:
    seen = links_seen(Crash(at_s=10.0, slot=1, down_s=0.1))
    assert [up for _, up in seen] == [True, False, True]


def test_fifo_links_keep_order_and_reset_on_loss() -> None:
    sent = 0

    def count(event: Event, now: float) -> Sequence[Effect]:
        if isinstance(event, Started):
            return (WakeAt(now + 1.0),)
        if isinstance(event, Woke):
            nonlocal sent
            sent += 1
            return (Send(member_id(1), b"%06d" % sent), WakeAt(now + 0.01))
        return ()

    profile = NetworkProfile(delay_s_mean=0.1, loss=0.01, fifo=True)
    world = World(
        seed=3,
        make=lambda member, incarnation: Script(silent if member else count),
        topology=path(2),
        network=profile,
    )
    world.run(60.0)
    receiver = script_of(world, 1)
    numbers = [int(event.frame) for event in receiver.of(Received) if isinstance(event, Received)]
    downs = [event for event in receiver.of(LinkChanged) if isinstance(event, LinkChanged) and not event.up]
    assert numbers == sorted(set(numbers))
    assert len(numbers) < sent
    assert len(downs) > 10


def test_bytes_take_their_time_on_the_link() -> None:
    def send(event: Event, now: float) -> Sequence[Effect]:
        if isinstance(event, Started):
            return (WakeAt(EPOCH_S + 5.0),)
        return (Send(member_id(1), bytes(500)), Send(member_id(1), bytes(250))) if isinstance(event, Woke) else ()

    profile = NetworkProfile(delay_s_min=0.1, delay_s_mean=0.1, bandwidth_bytes_s=1000)
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(silent if member else send),
        topology=path(2),
        network=profile,
        plan=plan(SlowLink(at_s=20.0, a=0, b=1, bandwidth_bytes_s=10.0)),
    )
    world.run(10.0)
    times = [now - EPOCH_S for now, event in script_of(world, 1).seen if isinstance(event, Received)]
    assert times == pytest.approx([5.6, 5.85], abs=1e-6)
    assert (world.stats.frames, world.stats.frame_bytes, world.stats.delivered) == (2, 750, 2)


def test_a_frame_to_a_stranger_or_a_member_without_a_link_goes_nowhere() -> None:
    def send(event: Event, now: float) -> Sequence[Effect]:
        return (Send(member_id(2), b"x"), Send(NodeId(bytes(32)), b"x")) if isinstance(event, Started) else ()

    world = World(seed=1, make=lambda member, incarnation: Script(silent if member else send), topology=path(3))
    world.run(10.0)
    assert (world.stats.unroutable, world.stats.delivered) == (2, 0)


# --- time


def test_only_the_last_alarm_rings_and_never_early() -> None:
    def alarms(event: Event, now: float) -> Sequence[Effect]:
        if isinstance(event, Started):
            return (WakeAt(now + 1.0), WakeAt(now + 5.0), WakeAt(EPOCH_S + 3.123456))
        return ()

    world = World(seed=1, make=lambda member, incarnation: Script(alarms), topology=path(1))
    world.run(20.0)
    assert [now for now, event in script_of(world, 0).seen if isinstance(event, Woke)] == [EPOCH_S + 3.123456]


@pytest.mark.parametrize(("offset_s", "rings_at_s"), [(-3600.0, 3610.0), (5.0, 5.0), (100.0, 4.0)])
def test_the_clock_may_be_set_but_never_runs_backwards(offset_s: float, rings_at_s: float) -> None:
    def alarm(event: Event, now: float) -> Sequence[Effect]:
        match event:
            case Started():
                return (WakeAt(EPOCH_S + 10.0),)
            case Woke():
                return (Report("toy", "rang"),)
            case _:
                return ()

    world = World(
        seed=1,
        make=lambda member, incarnation: Script(alarm),
        topology=path(1),
        plan=plan(ClockJump(at_s=4.0, slot=0, offset_s=offset_s)),
    )
    for at_s in (1.0, 3.0, 5.0, 7.0):
        world.run(at_s)
        world.ask(0, "time")
    world.run(9999.0)
    times = [now for now, _ in script_of(world, 0).seen]
    assert times == sorted(times)
    assert [at_s for at_s, _ in world.place(0).reports] == [rings_at_s]


def test_a_question_is_answered_under_its_ticket() -> None:
    topology = ring(3)
    world = World(seed=1, make=flooding(topology, 1), topology=topology)
    world.run(5.0)
    ticket = world.ask(1, "status")
    world.run(6.0)
    assert [(answer.ticket, answer.reply) for answer in world.place(1).answers] == [(ticket, {"words": 3})]


def test_run_says_whether_it_came_to_what_was_asked() -> None:
    topology = ring(3)
    world = World(seed=1, make=flooding(topology, 1), topology=topology)
    assert world.run(lambda world: all(p.machine and words(p) == 3 for p in world.places), end_s=10.0)
    assert not world.run(lambda world: False, end_s=20.0)
    assert world.now == 20.0
    assert not world.run(1e9, max_events=100)
    assert world.now < 1e9


# --- crashes


def counting(event: Event, now: float) -> Sequence[Effect]:
    """Every second: persist the number of the second, then send it, then report it."""
    match event:
        case Started():
            return (WakeAt(math.floor(now) + 1.0),)
        case Woke():
            number = int(now - EPOCH_S)
            record = Record(RECORD_ENTRY, number, b"%d" % number)
            return (
                Persist((record,)),
                Send(member_id(1), record.payload),
                Report("toy", f"{number}"),
                WakeAt(now + 1.0),
            )
        case _:
            return ()


def crash_world(*faults: Fault, sync_s: float = 0.0, seed: int = 1) -> World:
    return World(
        seed=seed,
        make=lambda member, incarnation: Script(silent if member else counting),
        topology=path(2),
        plan=plan(*faults),
        network=QUICK,
        sync_s=sync_s,
        checkers=(PersistBeforeSend(), PersistedIsReadBack()),
    )


def read_back(world: World) -> list[int]:
    opened = world.place(0).opened
    assert opened is not None
    return [int(record.payload) for record in opened.records]


def heard(world: World) -> list[int]:
    return [int(event.frame) for event in script_of(world, 1).of(Received) if isinstance(event, Received)]


@pytest.mark.parametrize(
    ("effects", "persisted", "sent", "reported"),
    [(1, [1, 2], [1], ["1"]), (2, [1, 2], [1, 2], ["1"]), (3, [1, 2], [1, 2], ["1", "2"])],
)
def test_a_crash_falls_between_exactly_the_effects_it_names(
    effects: int, persisted: list[int], sent: list[int], reported: list[str]
) -> None:
    world = crash_world(Crash(at_s=1.5, slot=0, down_s=10.0, after_effects=effects))
    world.run(11.99)
    assert heard(world) == sent
    assert [report.text for _, report in world.place(0).reports] == reported
    world.run(12.5)
    assert read_back(world) == persisted


def test_a_crash_in_the_middle_of_a_sync_persists_nothing_or_all_and_sends_nothing() -> None:
    outcomes = set()
    for seed in range(20):
        world = crash_world(Crash(at_s=2.2, slot=0, down_s=1.0), sync_s=0.8, seed=seed)
        world.run(3.3)
        assert 2 not in heard(world)
        assert read_back(world) in ([1], [1, 2])
        outcomes.add(tuple(read_back(world)))
    assert outcomes == {(1,), (1, 2)}


def test_events_wait_for_the_sync_before_them() -> None:
    world = crash_world(sync_s=0.4)
    world.run(0.9)
    world.run(1.1)  # within the sync that began at 1 s
    assert world.place(0).syncing
    world.ask(0, "how are you?")
    world.run(1.15)
    assert not script_of(world, 0).of(Asked)
    world.run(1.9)
    assert len(script_of(world, 0).of(Asked)) == 1


def test_a_frozen_process_handles_what_waited_when_it_goes_on_and_at_that_hour() -> None:
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(silent),
        topology=complete(2),
        plan=plan(Freeze(at_s=2.0, slot=0, duration_s=5.0)),
    )
    world.run(3.0)
    world.ask(0, "how are you?")
    world.run(6.9)
    assert not script_of(world, 0).of(Asked)
    world.run(7.1)
    ((asked_at, _),) = [seen for seen in script_of(world, 0).seen if isinstance(seen[1], Asked)]
    assert asked_at - EPOCH_S == pytest.approx(7.0)


def test_a_sync_that_ends_while_its_process_is_frozen_is_noticed_when_it_goes_on() -> None:
    world = crash_world(Freeze(at_s=1.2, slot=0, duration_s=3.0), sync_s=0.8)
    world.run(4.1)
    assert heard(world) == []
    world.run(4.5)
    assert heard(world) == [1]


def test_a_long_freeze_is_seen_by_the_others_as_a_lost_link_and_a_short_one_not() -> None:
    for duration_s, seen in ((0.2, [True]), (8.0, [True, False, True])):
        world = World(
            seed=1,
            make=lambda member, incarnation: Script(silent),
            topology=complete(2),
            plan=plan(Freeze(at_s=3.0, slot=0, duration_s=duration_s)),
            network=QUICK,
        )
        world.run(20.0)
        changes = [event.up for event in script_of(world, 1).of(LinkChanged) if isinstance(event, LinkChanged)]
        assert changes == seen


def test_who_is_killed_while_frozen_starts_anew_and_is_not_frozen() -> None:
    world = crash_world(Freeze(at_s=1.5, slot=0, duration_s=2.0), Crash(at_s=2.5, slot=0, down_s=0.5))
    world.run(2.9)
    assert world.place(0).machine is None
    world.run(3.2)
    assert world.place(0).machine is not None
    assert not world.place(0).frozen


def test_who_begins_anew_finds_an_empty_disk_even_if_it_was_down_already() -> None:
    anew = Crash(at_s=3.5, slot=0, down_s=1.0, anew=True)
    down = Crash(at_s=3.2, slot=0, down_s=2.0)
    for faults, left in (((anew,), []), ((down, anew), []), ((down,), [1, 2, 3])):
        world = World(
            seed=1,
            make=lambda member, incarnation: Script(silent if member else counting),
            topology=path(2),
            plan=plan(*faults),
            sync_s=0.0,
        )
        world.run(5.9)
        assert read_back(world) == left


def test_a_crash_during_recovery_loses_nothing() -> None:
    for seed in range(10):
        world = crash_world(Crash(at_s=3.5, slot=0, down_s=1.0, recovery_crashes=3), seed=seed)
        world.run(4.5 + 3 * RESTART_S + 0.1)
        assert read_back(world) == [1, 2, 3]


def test_incarnations_count_the_starts_of_a_member() -> None:
    started: list[tuple[int, int]] = []

    def make(member: int, incarnation: int) -> Script:
        started.append((member, incarnation))
        return Script(silent)

    faults = plan(Crash(at_s=5.0, slot=0, down_s=1.0), Crash(at_s=5.5, slot=0, down_s=1.0))
    world = World(seed=1, make=make, topology=path(2), twins={1}, plan=faults)
    world.run(10.0)
    assert sorted(started) == [(0, 0), (0, 1), (1, 0), (1, 1)]
    assert world.stats.crashes == 1  # who is down cannot crash


def test_a_full_disk_holds_a_process_still_until_there_is_room() -> None:
    world = crash_world(FullDisk(at_s=0.0, slot=0, duration_s=4.9))
    world.run(4.0)
    assert world.place(0).holding
    world.ask(0, "still there?")
    world.run(4.8)
    assert not script_of(world, 0).of(Asked)
    world.run(10.5)
    # Number 1 found no room for the journal's first segment until the attempt at 5 s; its overdue alarm rang at once.
    assert heard(world) == [1, *range(5, 11)]
    assert len(script_of(world, 0).of(Asked)) == 1
    assert world.stats.crashes == 0


def test_a_held_process_may_crash_and_what_peers_send_it_is_lost() -> None:
    topology = path(2)
    faults = plan(FullDisk(at_s=0.0, slot=0, duration_s=9.0), Crash(at_s=5.0, slot=0, down_s=1.0))
    world = World(seed=1, make=flooding(topology, 1), topology=topology, plan=faults, network=QUICK)
    world.run(8.9)
    assert world.stats.lost > 3
    world.run(20.0)
    assert [words(place) for place in world.places] == [2, 2]


def test_a_full_disk_does_not_stop_what_was_reserved_before() -> None:
    world = crash_world(FullDisk(at_s=2.5, slot=0, duration_s=3.0))
    world.run(6.5)
    assert heard(world) == [1, 2, 3, 4, 5, 6]


def test_healing_disarms_crashes_and_mends_everything() -> None:
    faults = plan(
        isolate(1, at_s=2.5),
        Crash(at_s=4.5, slot=0, down_s=9.0, after_effects=9),
        SlowLink(at_s=2.5, a=0, b=1, delay_s=50.0),
        heal_s=5.2,
    )
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(silent if member else counting),
        topology=path(2),
        plan=faults,
        network=QUICK,
    )
    world.run(10.5)
    assert world.stats.crashes == 0
    assert heard(world) == [1, 2, 6, 7, 8, 9, 10]


# --- twins


def telling(event: Event, now: float) -> Sequence[Effect]:
    """Every second, say so to everybody."""
    match event:
        case Started():
            return (WakeAt(now + 1.0),)
        case Woke():
            return (*(Send(member_id(other), b"hello") for other in range(4)), WakeAt(now + 1.0))
        case _:
            return ()


def conversations(world: World) -> list[tuple[int, ...]]:
    """From which members each slot heard."""
    index = {member_id(member): member for member in range(4)}
    return [
        tuple(sorted({index[event.sender] for event in script.of(Received) if isinstance(event, Received)}))
        for script in (script_of(world, place.slot) for place in world.places)
    ]


def twin_world(*faults: Fault, split: bool = True) -> World:
    return World(
        seed=1,
        make=lambda member, incarnation: Script(telling),
        topology=complete(4),
        twins={3},
        twin_split=split,
        plan=plan(*faults),
        network=QUICK,
    )


def test_both_twins_hear_everything_unless_split() -> None:
    world = twin_world(split=False)
    world.run(5.0)
    others = [(1, 2, 3), (0, 2, 3), (0, 1, 3)]
    assert conversations(world) == [*others, (0, 1, 2), (0, 1, 2)]  # never each other


def test_split_twins_share_the_others_between_them() -> None:
    world = twin_world()
    world.run(5.0)
    *others, first, second = conversations(world)
    assert others == [(1, 2, 3), (0, 2, 3), (0, 1, 3)]  # everybody hears one of them
    assert sorted(first + second) == [0, 1, 2]
    assert {len(first), len(second)} == {1, 2}


def test_twins_are_routed_as_the_plan_says() -> None:
    world = twin_world(TwinRoute(at_s=0.0, member=3, first=(0,), second=(0, 1)), Heal(at_s=2.0))
    world.run(5.0)
    assert conversations(world) == [(1, 2, 3), (0, 2, 3), (0, 1), (0,), (0, 1)]
    assert world.place(3, 1).name == "n3b"
    assert world.place(3).id == world.place(3, 1).id
    assert world.place(3).disk is not world.place(3, 1).disk


# --- blobs and learning

TASK = QuadraticTask(seed=7, samples=(10, 30), elements=8, bound=5.0, steps=4, step_s=1.0)
MODEL = np.full(8, 0.5, np.float32).tobytes()
MODEL_DIGEST = blob_digest(len(MODEL), leaf_hashes(MODEL))


def learner_world(
    script: Script, *faults: Fault, task: QuadraticTask = TASK, blobs: Sequence[bytes] = (MODEL,), seed: int = 1
) -> World:
    return World(
        seed=seed,
        make=lambda member, incarnation: script,
        topology=path(1),
        learner=task,
        blobs=blobs,
        plan=plan(*faults),
    )


def rounds(event: Event, now: float) -> Sequence[Effect]:
    """Train, inspect, mix and evaluate one round alone."""
    match event:
        case Started():
            return (Train(1, MODEL_DIGEST),)
        case Trained(update=bytes() as update, size=size):
            return (Inspect(Digest(update), size),)
        case Inspected(digest=digest, problem=""):
            return (Mix(1, MODEL_DIGEST, ((digest, 10),)), Forget((digest,)))
        case Mixed(model=bytes() as model):
            return (Evaluate(1, Digest(model)),)
        case Evaluated():
            return (Finished("done", "all rounds"),)
        case _:
            return ()


def test_a_round_answers_in_the_promised_order() -> None:
    script = Script(rounds)
    world = learner_world(script)
    assert world.run(lambda world: world.place(0).finished is not None, end_s=60.0)
    kinds = [type(event) for _, event in script.seen]
    expected = [Started, Stepped, Stepped, Stepped, Stored, Trained, Inspected, Stored, Mixed, Evaluated]
    assert kinds == expected
    trained, mixed = script.seen[5][1], script.seen[8][1]
    assert isinstance(trained, Trained)
    assert isinstance(mixed, Mixed)
    assert (trained.samples, trained.size) == (10, 32)
    assert script.seen[5][0] - script.seen[0][0] == pytest.approx(4.0)  # four steps of a second
    base = np.full(8, 0.5, np.float32)
    lesson = TASK.train(0, 1, base)
    mean = world.place(0).blobs.vector(Digest(mixed.model or b""))
    assert mean is not None
    assert lesson.update is not None
    np.testing.assert_array_equal(mean, base + lesson.update)
    assert world.place(0).blobs.vector(Digest(trained.update or b"")) is None  # forgotten after the mix began


@pytest.mark.parametrize(
    ("behaviour", "word"),
    [(Behaviour.NAN, ""), (Behaviour.WRONG_SHAPE, ""), (Behaviour.OVERSIZE, "norm")],
)
def test_misbehaving_updates_are_found_by_inspection(behaviour: Behaviour, word: str) -> None:
    task = QuadraticTask(seed=7, samples=(10,), elements=8, bound=5.0, behaviours={0: behaviour})
    script = Script(rounds)
    learner_world(script, task=task).run(60.0)
    (inspected,) = script.of(Inspected)
    assert isinstance(inspected, Inspected)
    assert inspected.problem
    assert word in inspected.problem


def test_training_that_raises_says_so_and_training_that_hangs_says_nothing() -> None:
    raising, hanging = Script(rounds), Script(rounds)
    learner_world(raising, task=QuadraticTask(seed=7, samples=(9,), elements=8, behaviours={0: Behaviour.RAISES})).run(
        99.0
    )
    learner_world(hanging, task=QuadraticTask(seed=7, samples=(9,), elements=8, behaviours={0: Behaviour.HANG})).run(
        999.0
    )
    (trained,) = raising.of(Trained)
    assert isinstance(trained, Trained)
    assert trained.update is None
    assert "out of memory" in trained.error
    assert not hanging.of(Trained)
    assert len(hanging.of(Stepped)) == 2


def test_a_crash_ends_the_training_and_a_later_one_replaces_it() -> None:
    script = Script(rounds)
    learner_world(script, Crash(at_s=3.0, slot=0, down_s=1.0)).run(60.0)
    assert len(script.of(Started)) == 2
    assert len(script.of(Trained)) == 1
    twice = Script(
        lambda event, now: (Train(1, MODEL_DIGEST), Train(2, MODEL_DIGEST)) if isinstance(event, Started) else ()
    )
    learner_world(twice).run(60.0)
    assert [event.round for event in twice.of(Trained) if isinstance(event, Trained)] == [2]


def test_training_from_a_model_that_is_not_there_is_an_error() -> None:
    script = Script(rounds)
    learner_world(script, blobs=()).run(10.0)
    (trained,) = script.of(Trained)
    assert isinstance(trained, Trained)
    assert "not in the store" in trained.error


def test_chunks_travel_with_their_bytes_or_not_at_all() -> None:
    def serve(event: Event, now: float) -> Sequence[Effect]:
        if isinstance(event, LinkChanged):
            return (
                SendChunk(member_id(1), b"head", MODEL_DIGEST, 4, 8),
                SendChunk(member_id(1), b"head", MODEL_DIGEST, 28, 8),
            )
        return ()

    blob = bytes(range(32))
    digest = blob_digest(32, leaf_hashes(blob))

    def chunk(event: Event, now: float) -> Sequence[Effect]:
        return [
            SendChunk(effect.to, effect.frame, digest, effect.offset, effect.length)
            for effect in serve(event, now)
            if isinstance(effect, SendChunk)
        ]

    world = World(
        seed=1, make=lambda member, incarnation: Script(silent if member else chunk), topology=path(2), blobs=(blob,)
    )
    world.run(10.0)
    (received,) = script_of(world, 1).of(Received)
    assert isinstance(received, Received)
    assert received.frame == b"head"
    assert received.payload is not None
    assert bytes(received.payload) == bytes(range(4, 12))
    assert world.stats.frame_bytes == 12
    (failed,) = script_of(world, 0).of(StoreFailed)  # bytes 28 to 36 of 32 do not exist
    assert isinstance(failed, StoreFailed)


def keeping(event: Event, now: float) -> Sequence[Effect]:
    return (Keep(Digest(b"d" * 32), 64, 0, b"x" * 64),) if isinstance(event, Started) else ()


@pytest.mark.parametrize("power", [False, True])
def test_blobs_survive_a_process_crash_but_not_always_a_power_cut(power: bool) -> None:
    kept = 0
    for seed in range(20):
        script = Script(keeping)
        learner_world(script, Crash(at_s=2.0, slot=0, down_s=1.0, power=power), seed=seed).run(10.0)
        started = script.of(Started)[1]
        assert isinstance(started, Started)
        kept += {Digest(b"d" * 32): 64} == started.partial and [stored.digest for stored in started.blobs] == [
            MODEL_DIGEST
        ]
    assert kept < 15 if power else kept == 20


def test_a_full_disk_holds_the_process_still_until_a_received_piece_has_room() -> None:
    def keep_late(event: Event, now: float) -> Sequence[Effect]:
        match event:
            case Started():
                return (WakeAt(EPOCH_S + 5.0),)
            case Woke():
                return (Keep(Digest(b"d" * 32), 64, 0, b"x" * 64), Report("kept", "after the piece"))
            case _:
                return ()

    script = Script(keep_late)
    world = learner_world(script, FullDisk(at_s=2.0, slot=0, duration_s=9.0))
    world.run(10.0)
    assert not world.place(0).reports, "nothing may happen before the piece is kept"
    world.run(14.0)
    assert [report.event for _, report in world.place(0).reports] == ["kept"]


# --- checkers


class Recorder(Checker):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def on_start(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        self.calls.append(f"start {node} {len(records)}")

    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        self.calls.append(f"event {node} {type(event).__name__} {len(effects)}")

    def on_persist(self, world: World, node: int, twin: int, records: Sequence[Record]) -> None:
        self.calls.append(f"persist {node} {len(records)}")

    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        self.calls.append(f"send {node} {frame.decode()}")

    def on_crash(self, world: World, node: int, twin: int) -> None:
        self.calls.append(f"crash {node}")

    def at_end(self, world: World) -> None:
        self.calls.append("end")


def test_checkers_see_everything_in_order() -> None:
    recorder = Recorder()
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(counting),
        topology=path(1),
        plan=plan(Crash(at_s=1.5, slot=0, down_s=0.1)),
        checkers=(recorder,),
        sync_s=0.0,
    )
    world.run(1.7)
    world.end()
    assert recorder.calls == [
        "start 0 0",
        "event 0 Started 1",
        "persist 0 1",
        "send 0 1",
        "event 0 Woke 4",
        "crash 0",
        "start 0 1",
        "event 0 Started 1",
        "end",
    ]


def test_an_objection_names_the_seed_and_shows_the_trace() -> None:
    class Objector(Checker):
        def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
            world.fail("nobody may speak")

    topology = path(2)
    world = World(seed=42, make=flooding(topology, 1), topology=topology, network=HARSH, checkers=(Objector(),))
    with pytest.raises(Violation, match=r"nobody may speak \(seed 42, at 0\.\d+ s\)\n.*n\d started"):
        world.run(10.0)


def test_storage_promises_hold_in_harsh_worlds() -> None:
    crashes = 0
    for seed in range(10):
        world = harsh_world(seed, checkers=(PersistBeforeSend(), PersistedIsReadBack()))
        world.run(30.0)
        crashes += world.stats.crashes
    assert crashes > 20


def test_a_lost_record_is_noticed() -> None:
    world = crash_world(Crash(at_s=3.5, slot=0, down_s=1.0))
    world.run(4.0)
    for name in world.place(0).disk.names("feed"):
        world.place(0).disk.remove(f"feed/{name}")
    with pytest.raises(Violation, match="persisted 3 records of kind 4 and read back 0"):
        world.run(10.0)
