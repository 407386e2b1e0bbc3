"""What was acknowledged is there after any crash; what a disk corrupts is said, never silently cut.

One suite over both disks: the simulated one can lose power anywhere, the real one shows that the same calls mean the
same thing to an operating system.
"""

from __future__ import annotations

import contextlib
import functools
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typing_extensions import override

from node.storage import RealDisk
from swarm.errors import LedgerError, Reject, StoreError
from swarm.ledger.disk import Disk, DiskFull
from swarm.ledger.journal import (
    BLOCKS,
    FEED,
    LOGS,
    RECORD_BYTES_MAX,
    VOTE_COPIES_APART,
    WAL,
    Finding,
    Journal,
    Opened,
    Placed,
    Tail,
    joined,
    parted,
    scan,
)
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_CERTIFICATE, RECORD_ENTRY, RECORD_VOTE, Record
from topologies.world.disk import SimulatedDisk

OWNER, STRANGER = b"o" * 32, b"s" * 32
HEADER = 64
SMALL = 16_384
"""Segments small enough to fill: three batches with a vote in each."""


def vote(view: int, payload: bytes = b"") -> Record:
    return Record(RECORD_VOTE, view, payload or b"vote of view %d" % view)


def body(view: int) -> Record:
    return Record(RECORD_BODY, view, b"body of view %d" % view)


def entry(seq: int, size: int = 20) -> Record:
    return Record(RECORD_ENTRY, seq, b"entry %d " % seq + bytes(size))


def block(height: int, size: int = 20) -> Record:
    return Record(RECORD_BLOCK, height, b"block %d " % height + b"x" * size)


def journal_on(disk: Disk, *, segment_bytes: int = SMALL, owner: bytes = OWNER) -> tuple[Journal, Opened]:
    journal = Journal(disk, ledger_id=owner, segment_bytes=segment_bytes)
    return journal, journal.open()


def records_on(disk: Disk) -> tuple[Record, ...]:
    return journal_on(disk)[1].records


def content(disk: Disk, path: str) -> bytes:
    return disk.read(path, 0, disk.size(path))


def overwrite(disk: Disk, path: str, offset: int, data: bytes) -> None:
    disk.write(path, offset, data)
    disk.sync(path)


def damage(disk: Disk, path: str, offset: int) -> None:
    overwrite(disk, path, offset, bytes([disk.read(path, offset, 1)[0] ^ 1]))


def disk_with(files: dict[str, bytes]) -> SimulatedDisk:
    """Return a disk that durably holds these files."""
    disk = SimulatedDisk()
    for path, data in files.items():
        disk.create(path, len(data))
        overwrite(disk, path, 0, data)
        disk.sync_folder(path.partition("/")[0])
    return disk


@pytest.fixture(params=["simulated", "real"])
def reopened(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Disk]]:
    """Return the same disk again each time it is called, as a new process would find it."""
    made: list[RealDisk] = []
    simulated = SimulatedDisk()

    def again() -> Disk:
        if request.param == "simulated":
            return simulated
        made.append(RealDisk(tmp_path))
        return made[-1]

    yield again
    for disk in made:
        disk.close()


# --- reading back what was written --------------------------------------------------------------------------------


def test_a_new_journal_is_empty_and_trustworthy(reopened: Callable[[], Disk]) -> None:
    assert journal_on(reopened())[1] == Opened((), (), votes_trustworthy=True)


def test_records_come_back_log_by_log_in_the_order_they_were_written(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened())
    journal.append([entry(0), vote(1), block(1)])
    journal.append([body(2), vote(2), Record(RECORD_CERTIFICATE, 2, b"certificate")])
    expected = (block(1), vote(1), body(2), vote(2), Record(RECORD_CERTIFICATE, 2, b"certificate"), entry(0))
    assert journal_on(reopened())[1] == Opened(expected, (), votes_trustworthy=True)


def test_appending_goes_on_after_every_opening(reopened: Callable[[], Disk]) -> None:
    for seq in range(5):
        journal, opened = journal_on(reopened())
        assert opened.records == tuple(entry(i) for i in range(seq))
        journal.append([entry(seq)])


def test_an_empty_payload_and_the_largest_one_are_records_too(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened())
    odd = (Record(RECORD_ENTRY, 0, b""), Record(RECORD_ENTRY, 2**64 - 1, bytes(RECORD_BYTES_MAX)))
    journal.append(odd)
    assert records_on(reopened()) == odd


def test_an_oversized_record_is_refused_and_nothing_else_happens(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened())
    with pytest.raises(StoreError, match="8388609 bytes"):
        journal.append([entry(0), Record(RECORD_ENTRY, 1, bytes(RECORD_BYTES_MAX + 1))])
    assert records_on(reopened()) == ()
    journal.append([entry(0)])
    assert records_on(reopened()) == (entry(0),)


def test_a_full_segment_is_sealed_and_the_next_one_goes_on(reopened: Callable[[], Disk]) -> None:
    disk = reopened()
    journal, _ = journal_on(disk, segment_bytes=1024)
    written = [block(height, 300) for height in range(1, 8)]
    for record in written:
        journal.append([record])
    # 64 + 2 * 336 + 64 for the footer fit into 1024 bytes, a third record does not.
    assert disk.names(BLOCKS) == [f"{number:08d}.seg" for number in range(4)]
    assert journal_on(reopened())[1] == Opened(tuple(written), (), votes_trustworthy=True)


def test_a_batch_larger_than_a_segment_gets_a_segment_of_its_size(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened(), segment_bytes=1024)
    written = [block(1, 10), block(2, 5000), block(3, 10)]
    for record in written:
        journal.append([record])
    assert records_on(reopened()) == tuple(written)


def test_a_journal_of_another_ledger_is_refused_in_words(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened())
    journal.append([entry(0)])
    with pytest.raises(LedgerError, match=r"files are of 6f6f6f6f6f6f, the charter founds 737373737373") as caught:
        journal_on(reopened(), owner=STRANGER)
    assert caught.value.hint == "each swarm needs a folder of its own"
    with pytest.raises(LedgerError, match="files are of"):
        list(scan(reopened(), FEED, STRANGER))


def test_scan_names_the_place_of_every_record_and_changes_nothing(reopened: Callable[[], Disk]) -> None:
    disk = reopened()
    journal, _ = journal_on(disk)
    journal.append([entry(0), entry(1)])
    before = content(disk, "feed/00000000.seg")
    size = len(entry(0).payload) + 21  # a record adds 17 bytes before its payload and 4 behind it
    second = HEADER + size + -size % 8
    path = "feed/00000000.seg"
    assert list(scan(disk, FEED, OWNER)) == [Placed(entry(0), path, HEADER), Placed(entry(1), path, second)]
    assert content(disk, "feed/00000000.seg") == before


def test_sealed_segments_of_past_views_are_dropped_and_no_others(reopened: Callable[[], Disk]) -> None:
    disk = reopened()
    journal, _ = journal_on(disk)
    for view in range(1, 11):
        journal.append([vote(view)])
    names = disk.names(WAL)
    assert len(names) == 4, "three votes a segment, two places 4 KiB apart each"
    journal.drop_wal_below(7)
    assert disk.names(WAL) == names[2:]
    assert records_on(reopened()) == tuple(vote(view) for view in range(7, 11))
    journal.drop_wal_below(1000)
    assert disk.names(WAL) == names[3:], "the segment being written stays"


@pytest.mark.parametrize("refused", ["remove", "sync_folder"])
def test_what_could_not_be_dropped_is_dropped_later_and_never_out_of_order(
    refused: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A segment that stays behind one that is gone would look like a loss of the one between."""
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    for view in range(1, 11):
        journal.append([vote(view)])
    names, real, calls = disk.names(WAL), {one: getattr(disk, one) for one in ("remove", "sync_folder")}, list[str]()

    def call(what: str, path: str) -> None:
        calls.append(what)
        if what == refused and len(calls) < 3:
            raise StoreError(f"couldn't {what} {path}: Input/output error")
        real[what](path)

    for one in real:
        monkeypatch.setattr(disk, one, functools.partial(call, one))
    with pytest.raises(StoreError):
        journal.drop_wal_below(7)
    assert disk.names(WAL) == (names if refused == "remove" else names[1:])
    calls.append("again")
    journal.drop_wal_below(7)
    assert disk.names(WAL) == names[2:]
    if refused == "sync_folder":
        assert calls == ["remove", "sync_folder", "again", "sync_folder", "remove", "sync_folder"]
    journal.append([vote(11)])
    assert [record.height for record in records_on(disk)] == [7, 8, 9, 10, 11]


# --- votes are written twice --------------------------------------------------------------------------------------


def test_a_vote_lies_in_two_places_at_least_4_kib_apart_and_is_one_record(reopened: Callable[[], Disk]) -> None:
    disk = reopened()
    journal, _ = journal_on(disk)
    journal.append([body(1), vote(1), vote(2)])
    data = content(disk, "wal/00000000.seg")
    for record in (vote(1), vote(2)):
        first, second = data.find(record.payload), data.rfind(record.payload)
        assert second - first >= VOTE_COPIES_APART
    assert data.count(body(1).payload) == 1
    assert records_on(reopened()) == (body(1), vote(1), vote(2))
    assert [found for found in scan(reopened(), WAL, OWNER) if isinstance(found, Finding)] == []


@pytest.mark.parametrize("copy", ["first", "second"])
def test_a_vote_in_the_last_batch_survives_the_loss_of_either_copy_for_good(copy: str) -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([vote(1)])
    journal.append([body(2), vote(2)])
    data = content(disk, "wal/00000000.seg")
    payload = vote(2).payload
    damage(disk, "wal/00000000.seg", data.find(payload) if copy == "first" else data.rfind(payload))
    opened = journal_on(disk)[1]
    assert opened.votes_trustworthy
    assert [finding.verdict for finding in opened.findings] == ["torn tail"]
    journal, opened = journal_on(disk)
    assert vote(2) in opened.records, "what the first opening mended is whole"
    assert opened.findings == ()
    journal.append([vote(3)])
    assert [record for record in records_on(disk) if record.kind == RECORD_VOTE] == [vote(1), vote(2), vote(3)]


def test_a_vote_behind_a_damaged_body_is_still_known_after_two_restarts() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([body(1), vote(1)])
    damage(disk, "wal/00000000.seg", content(disk, "wal/00000000.seg").find(body(1).payload))
    for _ in range(3):
        assert records_on(disk) == (vote(1),)


# --- torn tails ---------------------------------------------------------------------------------------------------


def test_a_last_write_torn_at_any_byte_is_cut_and_appending_is_sound() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    journal.append([entry(0)])
    start = len(content(disk, "feed/00000000.seg").rstrip(b"\0"))
    start += -start % 8
    journal.append([entry(1), entry(2, 3)])
    whole = content(disk, "feed/00000000.seg")
    end = len(whole.rstrip(b"\0"))
    for cut in range(start, end):
        torn = disk_with({"feed/00000000.seg": whole[:cut].ljust(len(whole), b"\0")})
        journal, opened = journal_on(torn, segment_bytes=1024)
        assert opened.records in ((entry(0),), (entry(0), entry(1)))
        assert all(finding.verdict == "torn tail" for finding in opened.findings)
        journal.append([entry(7)])
        assert journal_on(torn, segment_bytes=1024)[1] == Opened((*opened.records, entry(7)), (), True)


def test_a_last_write_with_a_hole_in_it_is_cut_behind_the_hole() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([entry(0)])
    journal.append([entry(1, 600), entry(2, 600), entry(3, 600)])
    overwrite(disk, "feed/00000000.seg", 512, bytes(512))  # one sector of the last write was never written
    journal, opened = journal_on(disk)
    assert opened.records == (entry(0),)
    journal.append([entry(9)])
    assert journal_on(disk)[1] == Opened((entry(0), entry(9)), (), votes_trustworthy=True)


# --- corruption ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("log", "trustworthy"), [(BLOCKS, True), (WAL, False), (FEED, True)])
def test_damage_that_later_writes_follow_is_reported_and_never_cut(
    log: str, trustworthy: bool, reopened: Callable[[], Disk]
) -> None:
    disk = reopened()
    journal, _ = journal_on(disk)
    makers: dict[str, Callable[[int], Record]] = {BLOCKS: block, WAL: body, FEED: entry}
    make = makers[log]
    for number in (1, 2, 3):
        journal.append([make(number)])
    path = f"{log}/00000000.seg"
    damage(disk, path, content(disk, path).find(make(2).payload))
    damaged = content(disk, path)
    for _ in range(2):
        journal, opened = journal_on(reopened())
        (finding,) = opened.findings
        assert (finding.log, finding.path, finding.verdict) == (log, path, "corruption")
        assert finding.height == 1, "of the record before it"
        assert opened.records == (make(1), make(3))
        assert opened.votes_trustworthy is trustworthy
        assert content(reopened(), path) == damaged
    journal.append([make(4)])
    assert content(reopened(), path) == damaged, "nothing is written behind damage"
    assert records_on(reopened()) == (make(1), make(3), make(4))


def test_damage_is_said_before_what_lies_behind_it() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    for height in (1, 2, 3):
        journal.append([block(height)])
    damage(disk, "blocks/00000000.seg", content(disk, "blocks/00000000.seg").find(block(2).payload))
    found = [None if isinstance(part, Finding) else part.record for part in scan(disk, BLOCKS, OWNER)]
    assert found == [block(1), None, block(3)]


def test_a_torn_tail_says_how_much_cannot_be_read() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([block(1)])
    journal.append([block(2)])
    path = "blocks/00000000.seg"
    place = next(
        part.offset for part in scan(disk, BLOCKS, OWNER) if isinstance(part, Placed) and part.record.height == 2
    )
    damage(disk, path, place + 20)
    (finding,) = (part for part in scan(disk, BLOCKS, OWNER) if isinstance(part, Finding))
    assert (finding.verdict, finding.offset) == ("torn tail", place)
    assert finding.length == len(content(disk, path).rstrip(b"\0")) - place


def test_damage_in_a_sealed_segment_is_corruption_even_in_its_last_record() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    for height in range(1, 5):
        journal.append([block(height, 300)])
    damage(disk, "blocks/00000000.seg", content(disk, "blocks/00000000.seg").find(block(2, 300).payload))
    opened = journal_on(disk, segment_bytes=1024)[1]
    assert [finding.verdict for finding in opened.findings] == ["corruption"]
    assert opened.records == (block(1, 300), block(3, 300), block(4, 300))


def test_a_damaged_header_is_corruption_and_what_is_behind_it_is_never_overwritten() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([vote(1)])
    path = "wal/00000000.seg"
    damage(disk, path, 20)
    damaged = content(disk, path)
    journal, opened = journal_on(disk)
    assert [finding.verdict for finding in opened.findings] == ["corruption"]
    assert not opened.votes_trustworthy
    journal.append([vote(2)])
    assert content(disk, path) == damaged
    assert records_on(disk) == (vote(1), vote(2)), "what is behind it is still read"


def test_segments_that_changed_places_are_corruption() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    for height in range(1, 5):
        journal.append([block(height, 300)])
    first, second = content(disk, "blocks/00000000.seg"), content(disk, "blocks/00000001.seg")
    swapped = disk_with({"blocks/00000000.seg": second, "blocks/00000001.seg": first})
    findings = journal_on(swapped, segment_bytes=1024)[1].findings
    assert [finding.text for finding in findings] == ["the segment is not in its place"] * 2


def test_a_removed_segment_in_the_middle_is_reported() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    for height in range(1, 7):
        journal.append([block(height, 300)])
    disk.remove("blocks/00000001.seg")
    opened = journal_on(disk, segment_bytes=1024)[1]
    assert [finding.verdict for finding in opened.findings] == ["corruption"]
    assert [finding.text for finding in opened.findings] == ["a segment before this one is missing"]


def test_a_crash_while_old_segments_are_dropped_does_not_look_like_a_lost_one() -> None:
    for stop in range(8):
        for seed in range(16):
            disk = SimulatedDisk()
            journal, _ = journal_on(disk)
            for view in range(1, 11):
                journal.append([vote(view)])
            disk.stop_after(stop)
            with contextlib.suppress(StoreError):
                journal.drop_wal_below(10)
            disk.crash(random.Random(seed))
            opened = journal_on(disk)[1]
            assert opened.findings == ()
            assert vote(10) in opened.records


def test_a_newer_format_is_refused_in_words(monkeypatch: pytest.MonkeyPatch) -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([entry(0)])
    monkeypatch.setattr("swarm.ledger.journal._VERSION", 2)
    with pytest.raises(StoreError, match="not of format 2"):
        journal_on(disk)


def test_every_flipped_bit_is_reported_or_lies_where_nothing_is_written() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=512)
    for seq in range(12):
        journal.append([entry(seq, seq)])
    names = disk.names(FEED)
    assert len(names) >= 2, "one segment is sealed, one is not"
    before = list(scan(disk, FEED, OWNER))
    assert not [found for found in before if isinstance(found, Finding)]
    silent = 0
    for name in names:
        path = f"{FEED}/{name}"
        used = len(content(disk, path).rstrip(b"\0"))
        for offset in range(used):
            disk.flip(path, offset, offset % 8)
            after = list(scan(disk, FEED, OWNER))
            if not any(isinstance(found, Finding) for found in after):
                assert after == before, f"byte {offset} of {path} changed what is read, and nothing said so"
                silent += 1
            disk.flip(path, offset, offset % 8)
    # Unprotected are four bytes of each header and up to seven behind each record.
    assert silent <= 4 * len(names) + 7 * (len(before) + 1)


# --- crashes ------------------------------------------------------------------------------------------------------

Batches = list[list[Record]]

SEQUENCE: Batches = [
    [entry(0)],
    [body(1), vote(1), entry(1)],
    [block(1), body(2), vote(2)],
    [vote(3), entry(2, 700)],
    [block(2), vote(4)],
    [body(5), vote(5), vote(6), entry(3)],
    [block(3, 900), entry(4, 600)],
]


def written_until(disk: Disk, batches: Batches, segment_bytes: int) -> list[Record]:
    """Append until the disk stops; return what was acknowledged."""
    acknowledged: list[Record] = []
    with contextlib.suppress(StoreError):
        journal, _ = journal_on(disk, segment_bytes=segment_bytes)
        for batch in batches:
            journal.append(batch)
            acknowledged += batch
    return acknowledged


def check_after_crash(disk: SimulatedDisk, acknowledged: list[Record], segment_bytes: int) -> None:
    everything = [record for batch in SEQUENCE for record in batch]
    journal, opened = journal_on(disk, segment_bytes=segment_bytes)
    assert opened.votes_trustworthy
    assert all(finding.verdict == "torn tail" for finding in opened.findings), opened.findings
    assert all(record in opened.records for record in acknowledged), "acknowledged and gone"
    assert all(record in everything for record in opened.records), "nobody wrote this"
    assert len(set(opened.records)) == len(opened.records)
    extra = [vote(99), block(99), entry(99)]
    journal.append(extra)
    again = journal_on(disk, segment_bytes=segment_bytes)[1]
    assert again.findings == ()
    assert sorted(again.records, key=repr) == sorted([*opened.records, *extra], key=repr)


def operations(segment_bytes: int) -> int:
    disk = SimulatedDisk()
    assert len(written_until(disk, SEQUENCE, segment_bytes)) == sum(map(len, SEQUENCE))
    return disk.operations


@pytest.mark.parametrize("segment_bytes", [1024, 10_000])
def test_whatever_was_acknowledged_survives_a_power_cut_at_every_operation(segment_bytes: int) -> None:
    total = operations(segment_bytes)
    assert total > 40
    for stop in range(total + 1):
        disk = SimulatedDisk()
        disk.stop_after(stop)
        acknowledged = written_until(disk, SEQUENCE, segment_bytes)
        for state in disk.crash_states():
            check_after_crash(state, acknowledged, segment_bytes)
        for seed in range(2):
            copy = SimulatedDisk()
            copy.stop_after(stop)
            written_until(copy, SEQUENCE, segment_bytes)
            copy.crash(random.Random(seed))
            check_after_crash(copy, acknowledged, segment_bytes)


def test_mending_around_a_vote_survives_a_power_cut_at_every_operation() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([vote(1)])
    journal.append([body(2), body(3), vote(3), entry(0)])
    whole = content(disk, "wal/00000000.seg")
    place = whole.find(body(2).payload)
    hurt = whole[:place] + b"?" + whole[place + 1 :]
    for stop in range(20):
        for seed in range(10):
            state = disk_with({"wal/00000000.seg": hurt})
            state.stop_after(stop)
            written_until(state, [], SMALL)
            state.crash(random.Random(seed))
            opened = journal_on(state)[1]
            assert opened.records == (vote(1), vote(3))
            assert opened.votes_trustworthy
            assert journal_on(state)[1] == Opened((vote(1), vote(3)), (), votes_trustworthy=True)


def test_a_second_power_cut_while_the_journal_is_opened_loses_nothing() -> None:
    mended = 0
    for stop in range(operations(1024) + 1):
        disk = SimulatedDisk()
        disk.stop_after(stop)
        acknowledged = written_until(disk, SEQUENCE, 1024)
        for state in disk.crash_states():
            (trial,) = state.crash_states(limit=1)
            written_until(trial, [], 1024)
            for second in range(len(LOGS), trial.operations):  # opening makes a folder for each log, then may mend
                mended += 1
                (copy,) = state.crash_states(limit=1)
                copy.stop_after(second)
                written_until(copy, [], 1024)
                for nested in copy.crash_states():
                    check_after_crash(nested, acknowledged, 1024)
    assert mended > 10


def test_random_power_cuts_one_after_the_other_lose_nothing_acknowledged() -> None:
    for seed in range(60):
        rng = random.Random(seed)
        disk = SimulatedDisk()
        known: list[Record] = []
        for life in range(6):
            disk.stop_after(rng.randrange(30))
            batches = [[vote(100 * life + i), entry(100 * life + i, rng.randrange(900))] for i in range(1, 6)]
            known += written_until(disk, batches, 2048)
            disk.crash(rng)
            opened = journal_on(disk, segment_bytes=2048)[1]
            assert all(record in opened.records for record in known), f"seed {seed}, life {life}"
            assert opened.votes_trustworthy


def test_a_vote_whose_last_batch_lost_any_one_sector_is_not_forgotten() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([vote(1)])
    journal.append([body(2), vote(2)])
    path = "wal/00000000.seg"
    whole = content(disk, path)
    for sector in range(0, len(whole.rstrip(b"\0")), 512):
        if sector < whole.rfind(vote(1).payload) + 64:
            continue  # damage to what a later batch follows is corruption, tested above
        hurt = disk_with({path: whole[:sector] + bytes(512) + whole[sector + 512 :]})
        for _ in range(2):
            assert vote(2) in records_on(hurt), f"sector at {sector}"


# --- failing disks ------------------------------------------------------------------------------------------------


def test_a_full_disk_is_said_loses_nothing_and_is_over_when_there_is_room() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    journal.append([block(1, 300)])
    disk.full = True
    journal.append([block(2, 300)])  # the segment's room was reserved while there was some
    for _ in range(3):
        with pytest.raises(DiskFull, match="no space"):
            journal.append([block(3, 300), vote(3), entry(3)])
    disk.crash(random.Random(0))
    assert records_on(disk) == (block(1, 300), block(2, 300))
    journal, _ = journal_on(disk, segment_bytes=1024)
    disk.full = True
    with pytest.raises(DiskFull):
        journal.append([block(3, 300)])
    disk.full = False
    journal.append([block(3, 300)])
    assert journal_on(disk)[1] == Opened((block(1, 300), block(2, 300), block(3, 300)), (), votes_trustworthy=True)


def test_a_disk_that_is_full_for_one_log_leaves_the_others_unwritten() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([entry(0)])
    disk.full = True
    with pytest.raises(DiskFull):
        journal.append([entry(1), vote(1)])
    disk.full = False
    assert records_on(disk) == (entry(0),)
    journal.append([entry(1), vote(1)])
    assert records_on(disk) == (vote(1), entry(0), entry(1))


def test_after_any_failure_of_the_disk_nothing_more_is_written_until_opened_anew() -> None:
    total = operations(1024)
    opening = SimulatedDisk()
    journal_on(opening)
    for failing in range(total - opening.operations):
        disk = SimulatedDisk()
        journal, _ = journal_on(disk, segment_bytes=1024)
        disk.fail_at(failing)
        acknowledged: list[Record] = []
        with contextlib.suppress(StoreError):
            for batch in SEQUENCE:
                journal.append(batch)
                acknowledged += batch
        done = disk.operations
        with pytest.raises(StoreError, match="an earlier write failed") as caught:
            journal.append([entry(50)])
        assert caught.value.hint == "start the node again"
        assert disk.operations == done, "a failed sync is never tried again"
        disk.crash(random.Random(failing))
        check_after_crash(disk, acknowledged, 1024)


def test_logs_have_the_names_that_are_on_disk() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([block(1), vote(1), entry(0)])
    assert [disk.names(log) for log in LOGS] == [["00000000.seg"]] * 3


# --- a log of any length ------------------------------------------------------------------------------------------


class Counting(SimulatedDisk):
    """Counts the bytes that are read of each file, and the most that are read at once."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes_read: dict[str, int] = {}
        self.largest = 0

    @override
    def read(self, path: str, offset: int, length: int) -> bytes:
        data = super().read(path, offset, length)
        self.bytes_read[path] = self.bytes_read.get(path, 0) + len(data)
        self.largest = max(self.largest, len(data))
        return data


def long_log(disk: Disk, heights: int = 40, *, first: int = 1) -> Journal:
    """Two blocks a segment, and a segment for each two."""
    journal, _ = journal_on(disk, segment_bytes=1024)
    for height in range(first, first + heights):
        journal.append([block(height, 300)])
    return journal


def opened_from(disk: Disk, height: int) -> tuple[Journal, Opened]:
    journal = Journal(disk, ledger_id=OWNER, segment_bytes=1024)
    return journal, journal.open(height)


def test_opening_from_a_height_gives_the_blocks_from_there_on(reopened: Callable[[], Disk]) -> None:
    long_log(reopened())
    for height in range(43):
        opened = opened_from(reopened(), height)[1]
        assert opened == Opened(tuple(block(h, 300) for h in range(max(1, height), 41)), (), True)


def test_opening_near_the_end_reads_the_headers_of_sealed_segments_and_nothing_else() -> None:
    for heights in (40, 400):
        disk = Counting()
        long_log(disk, heights)
        disk.bytes_read.clear()
        opened_from(disk, heights)
        sealed = disk.names(BLOCKS)[:-1]
        assert max(disk.bytes_read[f"blocks/{name}"] for name in sealed[:-1]) < 200


def test_sealing_a_segment_never_holds_all_of_it_in_memory() -> None:
    disk = Counting()
    journal, _ = journal_on(disk, segment_bytes=1 << 21)
    written = [block(height, 100_000) for height in range(1, 31)]
    for record in written:
        journal.append([record])
    assert len(disk.names(BLOCKS)) == 2
    assert disk.bytes_read["blocks/00000000.seg"] > 7 * disk.largest > 0
    assert records_on(disk) == tuple(written)


def test_appending_after_such_an_opening_is_as_sound_as_ever(reopened: Callable[[], Disk]) -> None:
    long_log(reopened(), 9)
    for height in range(10, 20):
        journal, opened = opened_from(reopened(), height - 1)
        assert opened.records == (block(height - 1, 300),)
        journal.append([block(height, 300)])
    assert journal_on(reopened(), segment_bytes=1024)[1] == Opened(
        tuple(block(h, 300) for h in range(1, 20)), (), votes_trustworthy=True
    )


def test_a_torn_tail_is_judged_the_same_whatever_was_passed_over() -> None:
    disk = SimulatedDisk()
    long_log(disk, 6)
    files = {f"blocks/{name}": content(disk, f"blocks/{name}") for name in disk.names(BLOCKS)}
    last = max(files)
    end = len(files[last].rstrip(b"\0"))
    for cut in range(0, end, 7):
        torn = {**files, last: files[last][:cut].ljust(len(files[last]), b"\0")}
        whole = journal_on(disk_with(torn), segment_bytes=1024)[1]
        journal, part = opened_from(disk_with(torn), 5)
        assert part.findings == whole.findings
        assert part.records == tuple(record for record in whole.records if record.height >= 5)
        journal.append([block(99, 300)])


def test_damage_in_what_is_read_is_still_corruption_and_what_is_passed_over_is_found_when_asked_for() -> None:
    disk = SimulatedDisk()
    long_log(disk, 10)
    places = {p.record.height: p for p in scan(disk, BLOCKS, OWNER) if isinstance(p, Placed)}
    damage(disk, places[3].path, places[3].offset + 40)
    damage(disk, places[8].path, places[8].offset + 40)
    journal, opened = opened_from(disk, 7)
    assert [finding.verdict for finding in opened.findings] == ["corruption"]
    assert opened.findings[0].path == places[8].path
    with pytest.raises(StoreError, match=rf"block 3: {places[3].path} is damaged at byte {places[3].offset}") as caught:
        journal.blocks(3, 9, 1 << 20)
    assert "repair" in caught.value.hint
    assert journal.blocks(1, 9, 1 << 20) == (block(1, 300).payload, block(2, 300).payload), "as far as they are whole"
    assert [f.path for f in scan(disk, BLOCKS, OWNER) if isinstance(f, Finding)] == [places[3].path, places[8].path]


def test_an_odd_beginning_of_a_segment_makes_everything_be_read() -> None:
    disk = SimulatedDisk()
    long_log(disk, 8)
    path = "blocks/00000001.seg"
    damage(disk, path, HEADER + 6)  # the height of its first record
    opened = opened_from(disk, 8)[1]
    assert [(f.path, f.verdict) for f in opened.findings] == [(path, "corruption")]


def test_a_passed_over_segment_that_is_not_in_its_place_is_corruption() -> None:
    disk = SimulatedDisk()
    long_log(disk, 12)
    damage(disk, "blocks/00000001.seg", 20)
    opened = opened_from(disk, 12)[1]
    assert [f.text for f in opened.findings] == ["the segment's header is not readable"]


def test_blocks_are_served_from_the_disk(reopened: Callable[[], Disk]) -> None:
    journal = long_log(reopened(), 9)
    size = len(block(1, 300).payload)

    def check(journal: Journal) -> None:
        for first, last in ((1, 9), (4, 6), (9, 9), (3, 100)):
            wanted = tuple(block(h, 300).payload for h in range(first, min(last, 9) + 1))
            assert journal.blocks(first, last, 1 << 20) == wanted
        assert journal.blocks(2, 9, 3 * size + 10) == tuple(block(h, 300).payload for h in (2, 3, 4))
        assert journal.blocks(2, 9, 1) == (block(2, 300).payload,), "one at least"
        for first, last in ((10, 20), (0, 5), (-3, 2), (5, 4)):
            assert journal.blocks(first, last, 1 << 20) == ()

    check(journal)
    check(opened_from(reopened(), 9)[0])
    check(journal_on(reopened(), segment_bytes=1024)[0])


def test_a_block_is_served_as_soon_as_it_is_written() -> None:
    journal, _ = journal_on(SimulatedDisk(), segment_bytes=2048)
    for height in range(1, 30):
        assert journal.blocks(height, height, 1) == ()
        journal.append([entry(height), block(height, 100), vote(height)])
        assert journal.blocks(height, height, 1) == (block(height, 100).payload,)
    assert len(journal.blocks(1, 29, 1 << 20)) == 29


def test_a_log_that_begins_at_a_later_block_serves_from_there_on() -> None:
    disk = SimulatedDisk()
    journal = long_log(disk, 5, first=1000)
    assert journal.blocks(999, 1001, 1 << 20) == ()
    assert journal.blocks(1003, 2000, 1 << 20) == (block(1003, 300).payload, block(1004, 300).payload)
    assert opened_from(disk, 1004)[1].records == (block(1004, 300),)


def test_sealed_segments_of_entries_that_are_in_the_blocks_are_dropped() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk, segment_bytes=1024)
    for seq in range(20):
        journal.append([entry(seq, 280)])
    names = disk.names(FEED)
    assert len(names) == 10, "two entries a segment"
    journal.drop_feed_below(7)
    assert records_on(disk) == tuple(entry(seq, 280) for seq in range(6, 20))
    journal.drop_feed_below(1000)
    assert disk.names(FEED) == names[-1:], "the segment being written stays"
    journal, opened = journal_on(disk, segment_bytes=1024)
    assert opened == Opened((entry(18, 280), entry(19, 280)), (), votes_trustworthy=True)
    journal.append([entry(20, 280)])
    assert records_on(disk)[-1] == entry(20, 280)


def test_a_crash_while_the_feed_is_dropped_leaves_a_whole_log() -> None:
    made = SimulatedDisk()
    journal, _ = journal_on(made, segment_bytes=1024)
    for seq in range(8):
        journal.append([entry(seq, 280)])
    files = {f"feed/{name}": content(made, f"feed/{name}") for name in made.names(FEED)}
    for seed in range(40):
        disk = disk_with(files)
        journal, _ = journal_on(disk, segment_bytes=1024)
        disk.stop_after(seed % 6)
        with contextlib.suppress(StoreError):
            journal.drop_feed_below(100)
        disk.crash(random.Random(seed))
        opened = journal_on(disk, segment_bytes=1024)[1]
        assert opened.findings == ()
        assert opened.records[-2:] == (entry(6, 280), entry(7, 280))


def test_joined_records_come_apart_again_and_nothing_else_does() -> None:
    parts = (b"", b"one", bytes(70_000))
    data = joined(parts)
    assert parted(data) == parts
    assert parted(b"") == ()
    for bad in (data[:-1], data + b"\0", b"\0\0\0", b"\xff\xff\xff\xff"):
        with pytest.raises(Reject, match="joined records"):
            parted(bad)


# --- reading along ------------------------------------------------------------------------------------------------


def test_whoever_reads_along_gets_every_block_once_in_order_across_segments(reopened: Callable[[], Disk]) -> None:
    journal, _ = journal_on(reopened(), segment_bytes=1024)
    tail, found = Tail(reopened(), OWNER), list[bytes]()
    assert list(tail.read()) == []
    written = [block(height, 10 if height % 3 else 900) for height in range(1, 12)]
    for place, record in enumerate(written):
        journal.append([record, vote(record.height)])
        if place % 4 == 0:  # Now and then it looks, and finds some.
            found += tail.read()
            assert found == [one.payload for one in written[: place + 1]]
    found += tail.read()
    assert found == [one.payload for one in written]
    assert list(tail.read()) == []


def test_whoever_reads_along_waits_for_a_record_that_is_being_written() -> None:
    disk = SimulatedDisk()
    journal, _ = journal_on(disk)
    journal.append([block(1), block(2, 3000)])
    path = f"{BLOCKS}/00000000.seg"
    whole = content(disk, path)
    end = len(whole.rstrip(b"\0"))
    for cut in range(HEADER, end, 97):
        torn = disk_with({path: whole[:cut] + bytes(len(whole) - cut)})
        tail = Tail(torn, OWNER)
        first = list(tail.read())
        overwrite(torn, path, 0, whole)
        assert first + list(tail.read()) == [block(1).payload, block(2, 3000).payload], cut


def test_whoever_reads_along_reads_little_where_little_was_written() -> None:
    disk = Counting()
    journal, _ = journal_on(disk, segment_bytes=1 << 22)
    tail = Tail(disk, OWNER)
    for height in range(1, 101):
        journal.append([block(height, 10_000)])
    assert len(list(tail.read())) == 100
    disk.bytes_read.clear()
    journal.append([block(101, 10_000)])
    assert len(list(tail.read())) == 1
    assert disk.bytes_read[f"{BLOCKS}/00000000.seg"] < 3 * (1 << 18)


def test_whoever_reads_along_in_another_ledger_is_told_so() -> None:
    disk = SimulatedDisk()
    journal_on(disk)[0].append([block(1)])
    with pytest.raises(LedgerError, match="its files are of"):
        list(Tail(disk, STRANGER).read())


def test_a_file_with_a_strange_name_among_the_segments_is_left_alone() -> None:
    disk = SimulatedDisk()
    journal = Journal(disk, ledger_id=bytes(32))
    journal.open()
    journal.append([Record(RECORD_BLOCK, 1, b"one")])
    disk.create("blocks/copy-of.seg", 4096)
    again = Journal(disk, ledger_id=bytes(32)).open()
    assert [record.payload for record in again.records] == [b"one"]
    assert not again.findings
