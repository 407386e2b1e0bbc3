"""What else can go wrong in the simulated world: weather, mutes, damage, replays, bad disks, drifting clocks, backups."""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence

import pytest

from swarm.errors import StoreError
from swarm.ledger.disk import DiskFull
from swarm.ledger.journal import Journal
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_ENTRY,
    Effect,
    Event,
    LinkChanged,
    Persist,
    Received,
    Record,
    Send,
    Started,
    WakeAt,
    Woke,
)
from tests.topologies.world.toys import Script, silent
from topologies.families import complete, path
from topologies.world.clock import EPOCH_S, Clock
from topologies.world.disk import SLOW_SYNC_S, SimulatedDisk
from topologies.world.faults import (
    Backup,
    BadDisk,
    ClockDrift,
    Crash,
    DiskFault,
    Fault,
    FaultPlan,
    FlipBit,
    Garble,
    Mute,
    Replay,
    Weather,
)
from topologies.world.network import NetworkProfile
from topologies.world.place import member_id
from topologies.world.world import SURPLUS_BYTES, World

STEADY = NetworkProfile(delay_s_min=0.01, delay_s_mean=0.01)
FRAME = bytes(range(200))


def sender() -> Callable[[Event, float], Sequence[Effect]]:
    """A machine that sends the same frame to member 1 ten times a second."""

    def answer(event: Event, now: float) -> Sequence[Effect]:
        match event:
            case Started():
                return (WakeAt(now + 0.1),)
            case Woke():
                return (Send(member_id(1), FRAME), WakeAt(now + 0.1))
            case _:
                return ()

    return answer


def keeper(kind: int = RECORD_ENTRY) -> Callable[[Event, float], Sequence[Effect]]:
    """A machine that makes one record durable every second."""
    kept = 0

    def answer(event: Event, now: float) -> Sequence[Effect]:
        nonlocal kept
        match event:
            case Started(records=records):
                kept = len(records)
                return (WakeAt(now + 1.0),)
            case Woke():
                kept += 1
                return (Persist((Record(kind, kept, b"%d" % kept),)), WakeAt(now + 1.0))
            case _:
                return ()

    return answer


def played(*faults: Fault, until_s: float, answer: Callable[[], Callable[[Event, float], Sequence[Effect]]]) -> World:
    """Two members, of which the first does something, and what happens to them."""
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(silent if member else answer()),
        topology=complete(2),
        plan=FaultPlan(faults=faults),
        network=STEADY,
    )
    world.run(until_s)
    return world


def received(world: World, *, after_s: float, before_s: float) -> list[bytes]:
    """Return the frames that member 1 has got in a stretch of time."""
    machine = world.place(1).machine
    assert isinstance(machine, Script)
    seen = [(now - EPOCH_S, event) for now, event in machine.seen if isinstance(event, Received)]
    return [event.frame for at_s, event in seen if after_s < at_s < before_s]


def records(world: World) -> int:
    disk = world.place(0).disk.copy()
    return len(Journal(disk, ledger_id=bytes(32)).open().records)


# --- links


def test_weather_is_bad_while_it_lasts_and_the_worst_of_two_counts() -> None:
    world = played(
        Weather(at_s=10.0, duration_s=20.0, loss=0.6),
        Weather(at_s=15.0, duration_s=5.0, loss=0.1, duplication=1.0),
        until_s=40.0,
        answer=sender,
    )
    assert 20 <= len(received(world, after_s=10.0, before_s=15.0)) <= 32
    assert 26 <= len(received(world, after_s=15.1, before_s=20.0)) <= 56, "each of those that are not lost comes twice"
    assert len(received(world, after_s=31.0, before_s=39.0)) in (79, 80, 81)


def test_a_mute_process_has_its_links_and_says_nothing() -> None:
    world = played(Mute(at_s=10.0, slot=0, duration_s=10.0), until_s=30.0, answer=sender)
    assert received(world, after_s=10.1, before_s=20.0) == []
    assert len(received(world, after_s=20.1, before_s=29.0)) > 80
    machine = world.place(1).machine
    assert isinstance(machine, Script)
    assert [event.up for event in machine.of(LinkChanged) if isinstance(event, LinkChanged)] == [True]


def test_a_garbled_frame_has_a_bit_flipped_lacks_its_end_or_is_too_long() -> None:
    world = played(Garble(at_s=10.0, slot=0, duration_s=10.0, share=1.0), until_s=30.0, answer=sender)
    damaged = received(world, after_s=10.1, before_s=20.0)
    assert FRAME not in damaged
    lengths = {len(frame) for frame in damaged}
    assert {200, 200 + SURPLUS_BYTES} < lengths, "flipped, too long, and some that are short"
    assert min(lengths) < 200
    assert set(received(world, after_s=20.1, before_s=29.0)) == {FRAME}


def test_old_frames_are_sent_again_in_their_order() -> None:
    world = played(Replay(at_s=10.05, slot=0, frames=1000), until_s=10.08, answer=sender)
    assert len(received(world, after_s=10.05, before_s=10.08)) == 1000


# --- disks


def test_a_disk_that_fails_once_stops_its_process_and_loses_nothing_acknowledged() -> None:
    world = played(BadDisk(at_s=5.7, slot=0, fault=DiskFault.ERROR_ONCE), until_s=30.0, answer=keeper)
    assert world.stats.crashes == 1
    assert records(world) >= 25


@pytest.mark.parametrize("fault", [DiskFault.ERROR, DiskFault.READ_ONLY])
def test_while_a_disk_does_not_work_nothing_is_written_and_then_it_goes_on(fault: DiskFault) -> None:
    world = played(BadDisk(at_s=5.7, slot=0, fault=fault, duration_s=10.0), until_s=15.0, answer=keeper)
    before = records(world)
    world.run(40.0)
    assert before in (5, 6)
    assert records(world) > before + 15


def test_a_slow_disk_takes_its_time_for_a_sync() -> None:
    world = played(BadDisk(at_s=0.0, slot=0, fault=DiskFault.SLOW, duration_s=60.0), until_s=60.0, answer=keeper)
    assert 60.0 / (SLOW_SYNC_S + 1.0) - 2 <= records(world) <= 60.0 / SLOW_SYNC_S


def test_what_a_lying_disk_has_acknowledged_a_crash_may_take_and_an_honest_sync_makes_true() -> None:
    left = set()
    for seed in range(20):
        for honest in (False, True):
            disk = SimulatedDisk()
            disk.create("a/log", 4096)
            disk.sync_folder("a")
            disk.lies = True
            disk.write("a/log", 0, b"promised")
            disk.sync("a/log")
            assert not disk.pending, "it has said that all is well"
            if honest:
                disk.lies = False
                disk.sync("a/log")
            disk.crash(random.Random(seed))
            if honest:
                assert disk.read("a/log", 0, 8) == b"promised"
            else:
                left.add(disk.read("a/log", 0, 8))
    assert left > {b"promised", bytes(8)}


def test_a_read_only_disk_says_so_and_can_be_read() -> None:
    disk = SimulatedDisk()
    disk.create("a/log", 4096)
    disk.write("a/log", 0, b"words")
    disk.read_only = True
    with pytest.raises(DiskFull):
        disk.create("a/other", 1)
    with pytest.raises(StoreError, match="read-only"):
        disk.write("a/log", 0, b"more")
    assert disk.read("a/log", 0, 5) == b"words"


def test_every_bit_that_is_durable_can_be_flipped_and_an_empty_disk_has_none() -> None:
    SimulatedDisk().flip_at(0.5)
    for spot, before, after in ((0.0, b"\0", b"\1"), (0.999, b"\0", b"\x80")):
        disk = SimulatedDisk()
        disk.create("a/log", 4096)
        disk.write("a/log", 0, bytes(64))
        disk.sync("a/log")
        disk.flip_at(spot)
        at = 0 if spot == 0.0 else 63
        assert disk.read("a/log", at, 1) == after != before


def test_a_damaged_ledger_is_not_started_from_until_it_is_emptied() -> None:
    flips = [FlipBit(at_s=5.5, slot=0, spot=0.02 * k) for k in range(1, 40)]
    crash = Crash(at_s=5.5, slot=0, down_s=1.0)
    world = played(*flips, crash, until_s=30.0, answer=lambda: keeper(RECORD_BLOCK))
    assert world.place(0).machine is None
    world.strike(Crash(at_s=30.0, slot=0, down_s=1.0, anew=True))
    world.run(40.0)
    assert world.place(0).machine is not None
    assert records(world) < 12


def test_a_backup_is_put_back_as_it_was() -> None:
    back = Crash(at_s=20.5, slot=0, down_s=1.0, restored=True)
    world = played(Backup(at_s=5.9, slot=0), back, until_s=21.0, answer=keeper)
    assert records(world) in (5, 6)
    world = played(back, until_s=21.0, answer=keeper)
    assert records(world) == 0, "there is none"


# --- clocks


@pytest.mark.parametrize("rate", [-0.05, 0.05])
def test_a_clock_drifts_from_a_moment_on_and_wakes_nobody_early(rate: float) -> None:
    clock = Clock()
    clock.jump(7.0)
    clock.drift(rate, 100.0)
    assert clock.read(100.0) == EPOCH_S + 107.0
    assert clock.read(200.0) == pytest.approx(EPOCH_S + 207.0 + 100.0 * rate, abs=1e-5)
    for unix_s in (EPOCH_S + 300.0, EPOCH_S + 300.123456, EPOCH_S + 1e6 / 7):
        at_s = clock.when(unix_s)
        assert clock.read(at_s) >= unix_s
        assert clock.read(at_s) == pytest.approx(unix_s, abs=1e-5)
    clock.drift(0.0, 1e6)
    assert clock.read(1e6 + 10.0) == pytest.approx(clock.read(1e6) + 10.0)


def test_a_machine_with_a_drifting_clock_is_woken_by_it() -> None:
    times: list[float] = []

    def alarm(event: Event, now: float) -> Sequence[Effect]:
        if isinstance(event, Woke):
            times.append(world.now)
        return (WakeAt(now + 10.0),) if isinstance(event, Started | Woke) else ()

    world = World(
        seed=1,
        make=lambda member, incarnation: Script(alarm),
        topology=path(1),
        plan=FaultPlan(faults=(ClockDrift(at_s=0.9, slot=0, rate=0.05),)),
    )
    world.run(100.0)
    assert [b - a for a, b in itertools.pairwise(times)] == [pytest.approx(10.0 / 1.05, abs=1e-4)] * 9


def test_healing_ends_weather_mutes_damage_and_what_is_wrong_with_disks() -> None:
    faults: tuple[Fault, ...] = (
        Weather(at_s=1.0, duration_s=1e6, loss=1.0, duplication=1.0, tail=1.0),
        Mute(at_s=1.0, slot=0, duration_s=1e6),
        Garble(at_s=1.0, slot=0, duration_s=1e6, share=1.0),
        *(BadDisk(at_s=1.0, slot=0, fault=fault, duration_s=1e6) for fault in DiskFault),
    )
    world = World(
        seed=1,
        make=lambda member, incarnation: Script(silent if member else sender()),
        topology=complete(2),
        plan=FaultPlan(faults=faults, heal_s=10.0),
        network=STEADY,
    )
    world.run(30.0)
    assert set(received(world, after_s=10.1, before_s=29.0)) == {FRAME}
    assert len(received(world, after_s=10.1, before_s=29.0)) in range(185, 195)
    disk = world.place(0).disk
    assert not any((disk.full, disk.failing, disk.read_only, disk.slow, disk.lies))
