"""The simulated disk breaks every promise a real disk does not make, and keeps each one it does."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from node.storage import RealDisk
from swarm.errors import StoreError
from swarm.ledger.disk import Disk, DiskFull
from topologies.world.disk import SECTOR_BYTES, SUBSET_WRITES_MAX, SimulatedDisk


def disk_with(path: str, size: int) -> SimulatedDisk:
    """Return a disk with one durable file of zeros."""
    disk = SimulatedDisk()
    disk.create(path, size)
    disk.sync_folder(path.partition("/")[0])
    return disk


@pytest.mark.parametrize("kind", ["simulated", "real"])
def test_both_disks_answer_alike(kind: str, tmp_path: Path) -> None:
    disk: Disk = SimulatedDisk() if kind == "simulated" else RealDisk(tmp_path)
    disk.make_folder("a")
    disk.make_folder("a")
    assert disk.names("a") == []
    assert disk.names("nowhere") == []
    disk.create("a/two", 100)
    disk.create("a/one", 50)
    assert disk.names("a") == ["one", "two"]
    assert disk.size("a/two") == 100
    assert disk.read("a/two", 90, 20) == bytes(10), "reserved space reads as zeros and ends at the size"
    disk.write("a/two", 95, b"12345")
    disk.write("a/two", 96, b"x")
    assert disk.read("a/two", 94, 100) == b"\x001x345"
    assert disk.read("a/two", 200, 5) == b""
    disk.sync("a/two")
    disk.sync_folder("a")
    with pytest.raises(StoreError):
        disk.create("a/two", 7)
    assert disk.read("a/two", 95, 5) == b"1x345"
    disk.remove("a/two")
    assert disk.names("a") == ["one"]
    calls: list[Callable[[], object]] = [
        lambda: disk.read("a/two", 0, 1),
        lambda: disk.size("a/two"),
        lambda: disk.write("a/two", 0, b"x"),
    ]
    for call in calls:
        with pytest.raises(StoreError, match="a/two"):
            call()
    if isinstance(disk, RealDisk):
        disk.close()


def test_what_was_synced_survives_every_crash() -> None:
    disk = disk_with("a/f", 4096)
    disk.write("a/f", 0, b"kept")
    disk.sync("a/f")
    assert not disk.pending
    disk.write("a/f", 100, b"maybe")
    assert disk.pending
    for state in disk.crash_states():
        assert state.read("a/f", 0, 4) == b"kept"
        assert not state.pending
    for seed in range(20):
        disk = disk_with("a/f", 64)
        disk.write("a/f", 0, b"kept")
        disk.sync("a/f")
        disk.crash(random.Random(seed))
        assert disk.read("a/f", 0, 4) == b"kept"


def test_a_write_that_was_not_synced_may_be_lost_kept_or_torn() -> None:
    disk = disk_with("a/f", 4096)
    disk.write("a/f", 0, b"\xff" * 2048)
    found = {len(state.read("a/f", 0, 4096).rstrip(b"\0")) for state in disk.crash_states()}
    assert found == {0, SECTOR_BYTES, 2048}, "30% of 2048 is 614 bytes: one whole sector"
    lengths = set()
    for seed in range(200):
        disk = disk_with("a/f", 4096)
        disk.write("a/f", 0, b"\xff" * 2048)
        disk.crash(random.Random(seed))
        lengths.add(len(disk.read("a/f", 0, 4096).rstrip(b"\0")))
    assert {0, 512, 1024, 1536, 2048} <= lengths
    assert all(length < SECTOR_BYTES for length in lengths - {0, 512, 1024, 1536, 2048}), "at a sector or a byte"


def test_small_writes_tear_at_any_byte() -> None:
    lengths = set()
    for seed in range(400):
        disk = disk_with("a/f", 64)
        disk.write("a/f", 0, b"\xff" * 10)
        disk.crash(random.Random(seed))
        lengths.add(len(disk.read("a/f", 0, 64).rstrip(b"\0")))
    assert lengths == set(range(11))


def test_unsynced_writes_survive_in_any_combination() -> None:
    disk = disk_with("a/f", 64)
    for place in range(3):
        disk.write("a/f", place, b"x")
    kept = {state.read("a/f", 0, 3) for state in disk.crash_states()}
    assert kept == {a + b + c for a in (b"\0", b"x") for b in (b"\0", b"x") for c in (b"\0", b"x")}


def test_writes_older_than_those_enumerated_are_kept_or_lost_together() -> None:
    disk = disk_with("a/f", 64)
    for place in range(SUBSET_WRITES_MAX + 2):
        disk.write("a/f", place, b"x")
    kept = {state.read("a/f", 0, 2) for state in disk.crash_states()}
    assert kept == {b"\0\0", b"xx"}
    assert len(list(disk.crash_states(limit=7))) == 7


def test_a_new_name_may_vanish_until_its_folder_is_synced() -> None:
    disk = SimulatedDisk()
    disk.create("a/f", 64)
    disk.write("a/f", 0, b"x")
    disk.sync("a/f")
    assert {tuple(state.names("a")) for state in disk.crash_states()} == {(), ("f",)}
    disk.sync_folder("b")
    assert {tuple(state.names("a")) for state in disk.crash_states()} == {(), ("f",)}, (
        "another folder's sync is no help"
    )
    disk.sync_folder("a")
    assert {tuple(state.names("a")) for state in disk.crash_states()} == {("f",)}


def test_a_removed_name_may_come_back_until_its_folder_is_synced() -> None:
    def after_crash(seed: int, *, synced: bool) -> bool:
        disk = disk_with("a/f", 64)
        disk.write("a/f", 0, b"x")
        disk.sync("a/f")
        disk.remove("a/f")
        assert disk.names("a") == []
        if synced:
            disk.sync_folder("a")
        disk.crash(random.Random(seed))
        return disk.names("a") == ["f"] and disk.read("a/f", 0, 1) == b"x"

    assert {after_crash(seed, synced=False) for seed in range(20)} == {False, True}
    assert {after_crash(seed, synced=True) for seed in range(20)} == {False}


def test_the_states_after_a_crash_are_disks_of_their_own() -> None:
    disk = disk_with("a/f", 64)
    disk.write("a/f", 0, b"old")
    for state in disk.crash_states():
        state.write("a/f", 0, b"new")
        state.sync("a/f")
    assert disk.pending
    assert disk.read("a/f", 0, 3) == b"old"


def test_a_full_disk_has_no_room_for_new_files_and_keeps_the_reserved_room_of_old_ones() -> None:
    disk = disk_with("a/f", 64)
    disk.full = True
    with pytest.raises(DiskFull, match="no space left"):
        disk.create("a/g", 1)
    assert disk.names("a") == ["f"]
    disk.write("a/f", 60, b"1234")
    disk.full = False
    disk.create("a/g", 1)


def test_nothing_can_be_written_behind_the_end_of_a_file() -> None:
    disk = disk_with("a/f", 64)
    with pytest.raises(StoreError, match="beyond its end"):
        disk.write("a/f", 61, b"1234")
    assert disk.read("a/f", 0, 64) == bytes(64)


def test_a_stopped_process_does_so_many_operations_and_no_more_until_the_crash() -> None:
    disk = disk_with("a/f", 64)
    disk.stop_after(1)
    disk.write("a/f", 0, b"x")
    for _ in range(2):
        with pytest.raises(StoreError, match="stopped"):
            disk.sync("a/f")
    disk.crash(random.Random(0))
    disk.sync("a/f")


def test_a_failure_hits_the_operation_it_was_set_for_once() -> None:
    disk = disk_with("a/f", 64)
    disk.fail_at(1)
    disk.write("a/f", 0, b"x")
    with pytest.raises(StoreError, match="input/output error"):
        disk.sync("a/f")
    assert disk.pending, "what failed did not happen"
    disk.sync("a/f")
    assert not disk.pending


def test_a_disk_that_fails_cannot_be_read_either_until_it_works_again() -> None:
    disk = disk_with("a/f", 64)
    disk.write("a/f", 0, b"x")
    disk.failing = True
    for act in (lambda: disk.read("a/f", 0, 1), lambda: disk.sync("a/f")):
        with pytest.raises(StoreError, match="input/output error"):
            act()
    disk.failing = False
    assert disk.read("a/f", 0, 1) == b"x"


def test_a_flipped_bit_is_durable_and_flips_back() -> None:
    disk = disk_with("a/f", 64)
    disk.write("a/f", 0, b"abc")
    disk.sync("a/f")
    disk.flip("a/f", 1, 0)
    disk.crash(random.Random(0))
    assert disk.read("a/f", 0, 3) == b"acc"
    disk.flip("a/f", 1, 0)
    assert disk.read("a/f", 0, 3) == b"abc"


def test_the_same_seed_crashes_alike() -> None:
    def crashed(seed: int) -> bytes:
        disk = disk_with("a/f", 4096)
        for place in range(0, 4000, 100):
            disk.write("a/f", place, bytes([place % 255 + 1]) * 90)
        disk.crash(random.Random(seed))
        return disk.read("a/f", 0, 4096)

    assert crashed(1) == crashed(1)
    assert crashed(1) != crashed(2)
