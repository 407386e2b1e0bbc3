"""The journal: append-only segment files are the truth; everything else can be rebuilt from them.

Three logs, each a folder of numbered segments: `blocks` holds the ledger itself, `wal` what this node voted for and
said of it, `feed` its own entries before they are ordered. One `append` is one *batch* and one sync a log, and is
durable when it returns.

A segment is preallocated and begins with a header (magic, version, log, ledger, number, CRC). Records follow, aligned
to 8 bytes: `length u32 | type u8 | height u64 | batch u32 | payload | crc32`, big-endian. A full segment ends with a
footer (count of records, SHA-256 of all before it). Batches never span segments.

What a crash leaves is told apart from what a disk corrupts: an unreadable record in the *last* batch of a log was never
acknowledged, so it is a torn tail and is cut off; one that any later batch follows, or in a sealed segment, is
corruption and is never cut, only reported. A flipped bit in the last batch looks like a torn tail, and forgetting a
vote that was sent is how forks start: so every vote is written twice, 4 KiB apart, and one readable copy counts.
Remembering a vote that was never sent harms nobody.

Whoever starts from a snapshot opens the block log from a height on: of the sealed segments before it the headers are
read and nothing else, so that opening a long ledger takes no longer than opening a short one. They are checked when
they are read, block by block, and from end to end by `scan`.
"""

from __future__ import annotations

import bisect
import hashlib
import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from swarm.errors import LedgerError, Reject, StoreError
from swarm.ledger.disk import Disk, DiskFull
from swarm.ledger.index import Index
from swarm.machine import (
    RECORD_BLOCK,
    RECORD_BODY,
    RECORD_CERTIFICATE,
    RECORD_ENTRY,
    RECORD_VOTE,
    Buffer,
    Record,
)

BLOCKS, WAL, FEED = "blocks", "wal", "feed"
LOGS = (BLOCKS, WAL, FEED)
_LOG_OF = {
    RECORD_BLOCK: BLOCKS,
    RECORD_BODY: WAL,
    RECORD_VOTE: WAL,
    RECORD_CERTIFICATE: WAL,
    RECORD_ENTRY: FEED,
}

SEGMENT_BYTES = {BLOCKS: 16 << 20, WAL: 4 << 20, FEED: 1 << 20}
"""A preallocated segment: writing within it needs no metadata, so a sync costs one flush (2.5 times as fast).

The two logs that are read whole at every start and dropped segment by segment have smaller ones.
"""

RECORD_BYTES_MAX = 8 << 20
VOTE_COPIES_APART = 4096
"""Distance of the two copies of a vote: two sectors, so that one damaged sector cannot take both."""

_MAGIC = b"SWARMSEG"
_VERSION = 1
_HEADER = struct.Struct(">8sH6s32sQ")
_HEADER_BYTES = 64
_RECORD = struct.Struct(">IBQI")
_CRC = struct.Struct(">I")
_LENGTH = struct.Struct(">I")
_FOOTER_TYPE, _PAD_TYPE = 255, 254
_FOOTER = struct.Struct(">Q32s")
_ALIGN = 8
_WINDOW_BYTES = 1 << 18
"""Read at a time where a segment is gone through without being taken apart."""

CUT_LOOKS = 3
"""Times `cut` looks again at a segment whose end cannot be read, to see whether it is being written."""

_RECORD_BYTES_MIN = 24
"""The smallest record as it lies on disk: 17 + 4 bytes without a payload, aligned."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Something unreadable, and what it must be. `height` is that of the record before it.

    `offset` is in bytes; `length`, of a torn tail, in bytes up to the last that was written.
    """

    log: str
    path: str
    offset: int
    height: int
    verdict: str
    text: str
    length: int = 0


@dataclass(frozen=True, slots=True)
class Opened:
    """What was durable, log by log. `votes_trustworthy` is False when a vote may have been forgotten."""

    records: tuple[Record, ...]
    findings: tuple[Finding, ...]
    votes_trustworthy: bool


@dataclass(slots=True)
class _Segment:
    """A segment being read or written. `end` is where the next record goes. Unless `begun`, it holds nothing yet."""

    path: str
    number: int
    size: int
    end: int = _HEADER_BYTES
    count: int = 0
    batch: int = 0
    height_max: int = 0
    sealed: bool = False
    begun: bool = True


@dataclass(frozen=True, slots=True)
class _Batch:
    """Records of one append and one log, as bytes."""

    log: str
    number: int
    data: bytes
    count: int
    height_max: int


@dataclass(slots=True)
class _Log:
    """One log's segments, oldest first."""

    segments: list[_Segment] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Placed:
    """A record and where it lies."""

    record: Record
    path: str
    offset: int


class Journal:
    """The three logs of one ledger on one disk. After a failed write it refuses everything until opened anew."""

    def __init__(self, disk: Disk, *, ledger_id: bytes, segment_bytes: int | None = None) -> None:
        self._disk, self._ledger_id = disk, ledger_id
        self._segment_bytes = SEGMENT_BYTES if segment_bytes is None else dict.fromkeys(LOGS, segment_bytes)
        self._logs: dict[str, _Log] = {}
        self._removed: set[str] = set()  # logs of which a segment was removed and that may come back in a crash
        self._index = Index(self._walk)
        self._failed = ""

    def open(self, blocks_from: int = 0) -> Opened:
        """Read everything back, of the blocks those from a height on; cut torn tails off, so that appending is sound.

        Raises:
            LedgerError: the files belong to another ledger.
            StoreError: the disk fails, or a newer version wrote the files.
        """
        findings: list[Finding] = []
        for name in LOGS:
            self._disk.make_folder(name)
            log = self._logs[name] = _Log()
            first = blocks_from if name == BLOCKS else 0
            for segment, placed, finding in _read_log(self._disk, name, self._ledger_id, first):
                if segment.begun and (not log.segments or log.segments[-1] is not segment):
                    log.segments.append(segment)
                if placed is not None and placed.record.height >= first:
                    log.records.append(placed.record)
                if finding is not None:
                    findings.append(finding)
                    if finding.verdict == "torn tail" and segment.begun:
                        self._mend(name, segment)
        records = [record for name in LOGS for record in _without_copies(self._logs[name].records)]
        for log in self._logs.values():
            log.records.clear()
        self._index = Index(self._walk)
        for segment in self._logs[BLOCKS].segments:
            height = _first_height(self._disk, segment.path)
            if height is not None:
                self._index.begin(segment.path, height)
        lost_vote = any(f.log == WAL and f.verdict == "corruption" for f in findings)
        return Opened(tuple(records), tuple(findings), not lost_vote)

    def append(self, records: Sequence[Record]) -> None:
        """Make records durable, in order, with one sync for each log they belong to.

        Raises:
            DiskFull: there is no room; nothing was written that matters, and appending may be tried again.
            StoreError: the disk failed; what is durable is unknown and nothing more is written.
        """
        if self._failed:
            raise StoreError(f"couldn't write to the ledger: {self._failed}", hint="start the node again")
        by_log = {name: [record for record in records if _LOG_OF[record.kind] == name] for name in LOGS}
        batches = [self._encode(name, wanted) for name, wanted in by_log.items() if wanted]
        try:
            # Space is reserved in every log before anything is written in one: a full disk changes nothing.
            placed = [(self._room(batch.log, self._logs[batch.log], len(batch.data)), batch) for batch in batches]
            for segment, batch in placed:
                self._write(segment, segment.end, batch.data)
                if batch.log == BLOCKS:
                    self._note(segment, by_log[BLOCKS])
                segment.end += len(batch.data)
                segment.count += batch.count
                segment.batch = batch.number
                segment.height_max = max(segment.height_max, batch.height_max)
        except DiskFull:
            raise
        except StoreError as error:
            self._failed = f"an earlier write failed ({error.message})"
            raise

    def blocks(self, first: int, last: int, bytes_max: int) -> tuple[bytes, ...]:
        """Return the payloads of consecutive blocks from height `first` to at most `last`: at least one if it is there.

        More than one only as far as they stay within `bytes_max` together. Empty when there is no such block.

        Raises:
            StoreError: the first of them cannot be read any more.
        """
        found: list[bytes] = []
        size = 0
        for height in range(first, last + 1):
            place = self._index.find(height)
            payload = None if place is None else self._read(*place, height)
            if payload is None:
                if place is not None and not found:
                    raise StoreError(
                        f"couldn't read block {height}: {place[0]} is damaged at byte {place[1]}",
                        hint="stop the node and run `swarm ledger verify`, then `swarm ledger repair`",
                    )
                break
            size += len(payload)
            if found and size > bytes_max:
                break
            found.append(payload)
        return tuple(found)

    def drop_wal_below(self, view: int) -> None:
        """Remove whole sealed segments of the write-ahead log that only concern earlier views.

        Raises:
            StoreError: one could not be removed. It is still there, as are all after it; a later call goes on with it.
        """
        self._drop(WAL, view)

    def drop_feed_below(self, seq: int) -> None:
        """Remove whole sealed segments of the feed that only hold entries before this one, which are in the blocks.

        Raises as `drop_wal_below` does.
        """
        self._drop(FEED, seq)

    def _drop(self, name: str, height: int) -> None:
        segments = self._logs[name].segments
        while len(segments) > 1 and segments[0].sealed and segments[0].height_max < height:
            # One at a time, and none before the last one is gone for good, whatever failed then: a crash between two
            # removals must not leave a gap that looks like a lost segment.
            if name in self._removed:
                self._disk.sync_folder(name)
            self._disk.remove(segments[0].path)
            del segments[0]
            self._removed.add(name)
            self._disk.sync_folder(name)
            self._removed.discard(name)

    # --- finding blocks -----------------------------------------------------------------------------------------

    def _note(self, segment: _Segment, records: Sequence[Record]) -> None:
        """Let the index know of blocks that were written at the end of a segment."""
        first, offsets, offset = records[0].height, [], segment.end
        for record in records:
            offsets.append(offset)
            offset += _record_bytes(len(record.payload))
        if segment.end == _HEADER_BYTES:
            self._index.begin(segment.path, first)
        self._index.extend(segment.path, first, offsets)

    def _walk(self, path: str, height: int) -> Iterator[int]:
        """Yield the offsets of consecutive blocks in a segment, from its first one, which has this height."""
        size = self._disk.size(path)
        offset, start, window = _HEADER_BYTES, 0, b""
        while offset + _RECORD.size <= size:
            if not start <= offset <= start + len(window) - _RECORD.size:
                start, window = offset, self._disk.read(path, offset, _WINDOW_BYTES)
            length, kind, found, _ = _RECORD.unpack_from(window, offset - start)
            if kind == RECORD_BLOCK and found == height:
                yield offset
                height += 1
            elif kind != _PAD_TYPE:
                return
            offset += _record_bytes(length)

    def _read(self, path: str, offset: int, height: int) -> bytes | None:
        """Return a block's payload if it stands there, whole."""
        record = _block_record(self._disk, path, offset)
        return record.payload if record is not None and record.height == height else None

    # --- writing ------------------------------------------------------------------------------------------------

    def _encode(self, name: str, batch: Sequence[Record]) -> _Batch:
        segments = self._logs[name].segments
        number = segments[-1].batch + 1 if segments else 1
        data, count = _encode_batch(batch, number)
        return _Batch(name, number, data, count, max(record.height for record in batch))

    def _write(self, segment: _Segment, offset: int, data: bytes) -> None:
        """Write and sync. Within a reserved segment a full disk cannot be the reason of a failure: any is fatal."""
        try:
            self._disk.write(segment.path, offset, data)
            self._disk.sync(segment.path)
        except DiskFull as error:
            raise StoreError(error.message, hint=error.hint) from error

    def _room(self, name: str, log: _Log, length: int) -> _Segment:
        """Return a segment with room for a batch, beginning a new one if need be."""
        needed = length + _footer_bytes()
        last = log.segments[-1] if log.segments else None
        if last is not None and not last.sealed and last.end + needed <= last.size:
            return last
        fresh = _Segment(
            path=f"{name}/{(last.number + 1 if last else 0):08d}.seg",
            number=last.number + 1 if last else 0,
            size=max(self._segment_bytes[name], _HEADER_BYTES + needed),
            batch=last.batch if last else 0,
        )
        # The new segment is reserved before the old one is sealed: when the disk is full nothing has changed.
        # A crash may have left one that was reserved and never begun.
        left = fresh.path.rpartition("/")[2] in self._disk.names(name)
        if left and self._disk.size(fresh.path) != fresh.size:
            self._disk.remove(fresh.path)
            left = False
        if not left:
            self._disk.create(fresh.path, fresh.size)
        if last is not None and not last.sealed:
            self._seal(last)
        self._begin(name, fresh)
        log.segments.append(fresh)
        return fresh

    def _begin(self, name: str, segment: _Segment) -> None:
        self._write(segment, 0, _encode_header(name, self._ledger_id, segment.number))
        self._disk.sync_folder(name)

    def _seal(self, segment: _Segment) -> None:
        """Close a segment with a footer over everything in it.

        Read by windows: a piece of memory of a whole segment, once freed, teaches the C library's allocator to keep as
        much, and it would do so for as long as the node runs.
        """
        content = hashlib.sha256()
        for start in range(0, segment.end, _WINDOW_BYTES):
            content.update(self._disk.read(segment.path, start, min(_WINDOW_BYTES, segment.end - start)))
        footer = _FOOTER.pack(segment.count, content.digest())
        footer = _encode_record(_FOOTER_TYPE, segment.height_max, segment.batch, footer)
        self._write(segment, segment.end, footer)
        segment.end += len(footer)
        segment.sealed = True

    def _mend(self, name: str, segment: _Segment) -> None:
        """Overwrite a torn tail, so that it cannot be mistaken for anything later, around the votes that are whole.

        A vote stays where it is while all around it is covered with padding: a crash in here, or the next start, must
        still find it, for the batch may have been damaged after it was acknowledged and its votes were sent.
        """
        place = segment.end
        data = self._disk.read(segment.path, 0, segment.size)
        for offset, record, batch in list(_search(data, place)):
            gap = offset - place
            if record.kind != RECORD_VOTE or 0 < gap < _RECORD_BYTES_MIN:
                continue
            if gap:
                self._write(segment, place, _padding(gap, record.height, batch))
            place = offset + len(_encode_record(record.kind, record.height, batch, record.payload))
        dirty = len(data[place:].rstrip(b"\0"))
        if dirty:
            self._write(segment, place, bytes(dirty))
        segment.end, segment.count = _HEADER_BYTES, 0
        for _ in _read_segment(self._disk.read(segment.path, 0, segment.size), segment, name, last=True):
            pass  # only the segment's counters are wanted


def joined(payloads: Sequence[bytes]) -> bytes:
    """Return records' payloads as one, each behind its length in four bytes."""
    return b"".join(part for payload in payloads for part in (_LENGTH.pack(len(payload)), payload))


def parted(data: Buffer) -> tuple[bytes, ...]:
    """Return the payloads that were `joined`. Raises `Reject` unless the lengths account for all of it."""
    view, found = memoryview(data), []
    while view:
        length = _LENGTH.unpack(view[: _LENGTH.size])[0] if len(view) >= _LENGTH.size else len(view)
        if len(view) < _LENGTH.size + length:
            raise Reject(f"couldn't read joined records: {len(view)} bytes at the end are not a whole one")
        found.append(bytes(view[_LENGTH.size : _LENGTH.size + length]))
        view = view[_LENGTH.size + length :]
    return tuple(found)


def scan(disk: Disk, log: str, ledger_id: bytes) -> Iterator[Placed | Finding]:
    """Read a log without changing anything: every record and everything unreadable, with its place.

    What is unreadable is said before anything that lies behind it.

    Raises:
        LedgerError: the files belong to another ledger.
    """
    seen: tuple[int, bytes] | None = None
    for _, placed, finding in _read_log(disk, log, ledger_id):
        if placed is not None:
            copy = (placed.record.kind, placed.record.payload)
            if placed.record.kind == RECORD_VOTE and copy == seen:
                continue
            seen = copy
            yield placed
        if finding is not None:
            yield finding


class Tail:
    """The blocks of a ledger, read from the first on while its node appends more. Nothing is ever written or cut.

    What cannot be read is taken for what is being written, and is looked at again; if it is damage, nothing comes any
    more, and `scan` says what is wrong. `place` is where the block that was yielded last lies, for `block_at`.
    """

    def __init__(self, disk: Disk, ledger_id: bytes) -> None:
        self._disk, self._ledger_id = disk, ledger_id
        self._number, self._offset = 0, 0
        self.place = 0, 0

    def read(self) -> Iterator[bytes]:
        """Yield the payloads of the blocks that were appended since the last call.

        Raises:
            LedgerError: the files belong to another ledger.
            StoreError: the disk fails, or a newer version wrote the files.
        """
        while (name := f"{self._number:08d}.seg") in self._disk.names(BLOCKS):
            path = f"{BLOCKS}/{name}"
            if not self._offset:
                if _check_header(self._disk.read(path, 0, _HEADER_BYTES), BLOCKS, self._ledger_id, self._number):
                    return
                self._offset = _HEADER_BYTES
            yield from self._records(path)
            if self._offset:
                return

    def _records(self, path: str) -> Iterator[bytes]:
        """Yield from a segment what is whole. Behind a footer there is nothing: then the next segment's turn comes."""
        start, window = self._offset, b""
        while True:
            parsed = _parse(window, self._offset - start)
            if parsed is None:
                start, window = self._offset, self._disk.read(path, self._offset, _WINDOW_BYTES)
                if len(window) >= _RECORD.size and (length := _record_bytes(_RECORD.unpack_from(window)[0])) > len(
                    window
                ):
                    window = self._disk.read(path, start, min(length, _record_bytes(RECORD_BYTES_MAX)))
                parsed = _parse(window, 0)
            if parsed is None:
                return
            record, _, length = parsed
            if record.kind == _FOOTER_TYPE:
                self._number, self._offset = self._number + 1, 0
                return
            self.place = self._number, self._offset
            self._offset += length
            if record.kind == RECORD_BLOCK:
                yield record.payload


def block_at(disk: Disk, place: tuple[int, int]) -> bytes:
    """Return the payload of the block that lies at a place that `Tail` told: (segment, byte).

    Raises:
        LedgerError: there is no block any more, or it cannot be read.
    """
    number, offset = place
    path = f"{BLOCKS}/{number:08d}.seg"
    record = _block_record(disk, path, offset)
    if record is None:
        raise LedgerError(f"couldn't read the block at byte {offset} of {path}", hint="run `swarm ledger verify`")
    return record.payload


def _block_record(disk: Disk, path: str, offset: int) -> Record | None:
    """Return the record of a block if one stands there, whole. Its length is bounded before it is believed."""
    head = disk.read(path, offset, _RECORD.size)
    if len(head) < _RECORD.size or (length := _RECORD.unpack(head)[0]) > RECORD_BYTES_MAX:
        return None
    parsed = _parse(disk.read(path, offset, _record_bytes(length)), 0)
    return parsed[0] if parsed is not None and parsed[0].kind == RECORD_BLOCK else None


def foreign(disk: Disk, ledger_id: bytes) -> bytes | None:
    """Return the ledger that files on a disk belong to if it is another one and they hold no block of it, else None.

    What they hold then, votes and a site's own entries, was of use to nobody, and binds this site in that ledger alone.
    """
    for log in LOGS:
        paths = [f"{log}/{name}" for name in disk.names(log) if name.endswith(".seg")]
        if log == BLOCKS and any(_first_height(disk, path) is not None for path in paths):
            return None
        for path in paths:
            data = disk.read(path, 0, _HEADER_BYTES)
            if len(data) == _HEADER_BYTES and data.startswith(_MAGIC):
                owner: bytes = _HEADER.unpack(data[: _HEADER.size])[3]
                if owner != ledger_id and _CRC.unpack_from(data, _HEADER.size)[0] == zlib.crc32(data[: _HEADER.size]):
                    return owner
    return None


def cut(disk: Disk, log: str) -> Iterator[tuple[str, int, bytes]]:
    """Yield the path, size and content, as far as it is whole, of each segment of a log that its node may be writing.

    Only the last segment is ever written to, and only behind what it holds. So what can be read of it from the front is
    what was there at one moment, whatever is being written behind that meanwhile. What stays unreadable while nothing
    is written is given as it is, for whoever opens the copy to judge as it would judge the log itself. Logs are to be
    copied in the order WAL, FEED, BLOCKS: the first two are dropped from the front when the blocks have come so far.

    Raises:
        StoreError: the disk fails, or a segment was dropped meanwhile: then copy the log again.
    """
    paths = [f"{log}/{name}" for name in disk.names(log) if name.endswith(".seg") and name[:-4].isdecimal()]
    for path in paths:
        size = disk.size(path)
        data = disk.read(path, 0, size)
        for _ in range(CUT_LOOKS if path == paths[-1] else 0):
            end = _readable_end(data)
            if not any(data[end:]):
                break
            again = disk.read(path, 0, size)
            if _readable_end(again) > end:
                data = again[: _readable_end(again)]
                break
            data = again
        yield path, size, data.rstrip(b"\0")


# --- the format -------------------------------------------------------------------------------------------------


def _readable_end(data: bytes) -> int:
    """Return where the records of a segment end that can be read one after the other from its beginning."""
    offset = _HEADER_BYTES
    while (parsed := _parse(data, offset)) is not None:
        offset += parsed[2]
    return min(offset, len(data))


def _encode_header(log: str, ledger_id: bytes, number: int) -> bytes:
    head = _HEADER.pack(_MAGIC, _VERSION, log.encode().ljust(6, b"\0"), ledger_id, number)
    return (head + _CRC.pack(zlib.crc32(head))).ljust(_HEADER_BYTES, b"\0")


def _encode_record(kind: int, height: int, batch: int, payload: bytes) -> bytes:
    body = _RECORD.pack(len(payload), kind, height, batch) + payload
    return _aligned(body + _CRC.pack(zlib.crc32(body)))


def _encode_batch(records: Sequence[Record], batch: int) -> tuple[bytes, int]:
    """Return a batch's bytes and its number of records; votes come twice, the second time at a distance."""
    parts: list[bytes] = []
    votes: list[tuple[int, bytes]] = []
    length = 0
    for record in records:
        if len(record.payload) > RECORD_BYTES_MAX:
            raise StoreError(f"couldn't write a record of {len(record.payload)} bytes: at most {RECORD_BYTES_MAX}")
        encoded = _encode_record(record.kind, record.height, batch, record.payload)
        if record.kind == RECORD_VOTE:
            votes.append((length, encoded))
        parts.append(encoded)
        length += len(encoded)
    count = len(parts)
    if votes:
        gap = votes[-1][0] + VOTE_COPIES_APART - length
        if gap > 0:
            overhead = _RECORD.size + _CRC.size
            parts.append(_encode_record(_PAD_TYPE, records[-1].height, batch, bytes(max(0, gap - overhead))))
            count += 1
        parts += [encoded for _, encoded in votes]
        count += len(votes)
    return b"".join(parts), count


def _padding(length: int, height: int, batch: int) -> bytes:
    """Return records without meaning that fill `length` bytes: aligned, and at least `_RECORD_BYTES_MIN`."""
    parts: list[bytes] = []
    while length:
        # What is left over after a half is never too small for a record.
        piece = length if length <= RECORD_BYTES_MAX else RECORD_BYTES_MAX // 2
        parts.append(_encode_record(_PAD_TYPE, height, batch, bytes(piece - _RECORD.size - _CRC.size)))
        length -= piece
    return b"".join(parts)


def _record_bytes(length: int) -> int:
    """Return how much room a record with a payload of so many bytes takes."""
    total = _RECORD.size + length + _CRC.size
    return total + -total % _ALIGN


def _aligned(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGN)


def _footer_bytes() -> int:
    return len(_encode_record(_FOOTER_TYPE, 0, 0, bytes(_FOOTER.size)))


def _read_log(
    disk: Disk, log: str, ledger_id: bytes, first: int = 0
) -> Iterator[tuple[_Segment, Placed | None, Finding | None]]:
    """Walk a log. Yields each segment at least once, each record, and each finding.

    Of sealed segments that only hold blocks below height `first` no more than the header is read.
    """
    names = [name for name in disk.names(log) if name.endswith(".seg") and name[:-4].isdecimal()]
    segments = [
        _Segment(path=f"{log}/{name}", number=int(name[:-4]), size=disk.size(f"{log}/{name}")) for name in names
    ]
    if segments and (fresh := _unbegun(disk, segments[-1], log, ledger_id)) is not None:
        # The one before it may not have been sealed yet, so is judged as the last one.
        yield segments.pop(), None, fresh if fresh.text else None
    batch = 0
    expected = segments[0].number if segments and log != BLOCKS else 0
    passed = _passed(disk, segments, first) if first else 0
    for place, segment in enumerate(segments):
        segment.batch = batch
        if segment.number != expected:
            yield segment, None, Finding(log, segment.path, 0, 0, "corruption", "a segment before this one is missing")
        data = disk.read(segment.path, 0, _HEADER_BYTES if place < passed else segment.size)
        problem = _check_header(data, log, ledger_id, segment.number)
        yield segment, None, Finding(log, segment.path, 0, 0, "corruption", problem) if problem else None
        if place < passed:
            segment.sealed = True
        elif problem:
            yield from _salvage(data, segment)
        else:
            yield from _read_segment(data, segment, log, segment is segments[-1])
        batch, expected = segment.batch, segment.number + 1


def _passed(disk: Disk, segments: Sequence[_Segment], first: int) -> int:
    """Return how many segments at the beginning hold nothing but blocks below height `first`.

    The one behind them begins with a whole record, which shows that they were sealed, and says with which batch. When
    anything about their heights is odd, none is passed over.
    """
    heights = [_first_height(disk, segment.path) for segment in segments]
    known = [height for height in heights if height is not None]
    if len(known) < len(heights) - 1 or heights[: len(known)] != known or sorted({*known}) != known:
        return 0
    passed = max(bisect.bisect_right(known, first) - 1, 0)
    if not passed:
        return 0
    path = segments[passed].path
    length = _RECORD.unpack(disk.read(path, _HEADER_BYTES, _RECORD.size))[0]
    return passed if _parse(disk.read(path, _HEADER_BYTES, _record_bytes(length)), 0) is not None else 0


def _first_height(disk: Disk, path: str) -> int | None:
    """Return the height that the first record of a segment of blocks claims, if it is a block."""
    head = disk.read(path, _HEADER_BYTES, _RECORD.size)
    if len(head) < _RECORD.size:
        return None
    length, kind, height, _ = _RECORD.unpack(head)
    return height if kind == RECORD_BLOCK and length <= RECORD_BYTES_MAX else None


def _unbegun(disk: Disk, segment: _Segment, log: str, ledger_id: bytes) -> Finding | None:
    """Return a finding, its text empty if not even a header was begun, when a segment was reserved and never used."""
    problem = _check_header(disk.read(segment.path, 0, _HEADER_BYTES), log, ledger_id, segment.number)
    if not problem:
        return None
    data = disk.read(segment.path, 0, segment.size)
    if any(data[_HEADER_BYTES:]):
        return None
    segment.begun = False
    return Finding(log, segment.path, 0, 0, "torn tail", problem if any(data) else "")


def _salvage(data: bytes, segment: _Segment) -> Iterator[tuple[_Segment, Placed | None, Finding | None]]:
    """Yield what is readable of a segment whose header is not, and let nothing be written to it."""
    segment.sealed = True
    for offset, record, batch in _search(data, _HEADER_BYTES - _ALIGN):
        segment.batch = max(segment.batch, batch)
        segment.height_max = max(segment.height_max, record.height)
        if record.kind not in (_PAD_TYPE, _FOOTER_TYPE):
            yield segment, Placed(record, segment.path, offset), None


def _check_header(data: bytes, log: str, ledger_id: bytes, number: int) -> str:
    head = data[: _HEADER.size]
    if len(data) < _HEADER_BYTES or _CRC.unpack_from(data, _HEADER.size)[0] != zlib.crc32(head):
        return "the segment's header is not readable"
    magic, version, name, owner, found = _HEADER.unpack(head)
    if magic != _MAGIC or version != _VERSION:
        raise StoreError(
            f"couldn't read {log} segment {number}: it is not of format {_VERSION}",
            hint="a newer version of this software may have written it",
        )
    if owner != ledger_id:
        raise LedgerError(
            f"couldn't open the ledger: its files are of {owner.hex()[:12]}, the charter founds {ledger_id.hex()[:12]}",
            hint="each swarm needs a folder of its own",
            identifier="SWARM-LEDGER-FOREIGN",
        )
    if name.rstrip(b"\0") != log.encode() or found != number:
        return "the segment is not in its place"
    return ""


def _read_segment(
    data: bytes, segment: _Segment, log: str, last: bool
) -> Iterator[tuple[_Segment, Placed | None, Finding | None]]:
    """Walk the records of one segment and judge what is unreadable."""
    offset = _HEADER_BYTES
    while True:
        parsed = _parse(data, offset)
        if parsed is None:
            break
        record, batch, length = parsed
        if record.kind == _FOOTER_TYPE:
            count, digest = _FOOTER.unpack(record.payload)
            segment.sealed = True
            if count != segment.count or digest != hashlib.sha256(data[:offset]).digest():
                text = "the segment's footer does not match its content"
                yield segment, None, Finding(log, segment.path, offset, segment.height_max, "corruption", text)
            segment.end = offset + length
            return
        segment.count += 1
        segment.batch = max(segment.batch, batch)
        segment.height_max = max(segment.height_max, record.height)
        offset += length
        segment.end = offset
        if record.kind != _PAD_TYPE:
            yield segment, Placed(record, segment.path, offset - length), None
    if not any(data[offset:]):
        if not last:
            text = "the segment ends without a footer"
            yield segment, None, Finding(log, segment.path, offset, segment.height_max, "corruption", text)
        return
    yield from _judge_rest(data, segment, log, last, offset)


def _judge_rest(
    data: bytes, segment: _Segment, log: str, last: bool, offset: int
) -> Iterator[tuple[_Segment, Placed | None, Finding | None]]:
    """Tell a torn tail from corruption by what follows the first unreadable record."""
    later = list(_search(data, offset))
    batches = {batch for _, _, batch in later}
    torn = last and len(batches) <= 1 and all(batch == segment.batch + 1 for batch in batches)
    torn = torn or (last and not later)
    if not torn and last and batches == {segment.batch}:
        torn = True  # The last batch began well and ends badly: it was never acknowledged, or is damaged after it was.
    verdict = "torn tail" if torn else "corruption"
    text = "the last write was not completed" if torn else "a record is damaged and others follow it"
    if not torn:
        segment.sealed = True  # Nothing is ever written behind damage; a new segment follows.
        segment.batch = max({segment.batch, *batches})
    length = len(data.rstrip(b"\0")) - offset if torn else 0
    # Before the records behind it: whoever judges those must know that something is missing.
    yield segment, None, Finding(log, segment.path, offset, segment.height_max, verdict, text, length)
    for place, record, _ in later:
        if record.kind == RECORD_VOTE or (not torn and record.kind not in (_PAD_TYPE, _FOOTER_TYPE)):
            yield segment, Placed(record, segment.path, place), None


def _search(data: bytes, offset: int) -> Iterator[tuple[int, Record, int]]:
    """Find readable records behind an unreadable one, at any aligned place: (offset, record, batch)."""
    offset += _ALIGN
    end = len(data.rstrip(b"\0"))
    while offset < end:
        parsed = _parse(data, offset)
        if parsed is None:
            offset += _ALIGN
            continue
        record, batch, length = parsed
        yield offset, record, batch
        offset += length


def _parse(data: bytes, offset: int) -> tuple[Record, int, int] | None:
    """Return (record, batch, aligned length) if a whole record stands here."""
    if offset + _RECORD.size + _CRC.size > len(data):
        return None
    length, kind, height, batch = _RECORD.unpack_from(data, offset)
    if kind not in _KINDS or length > RECORD_BYTES_MAX:
        return None
    end = offset + _RECORD.size + length
    if end + _CRC.size > len(data) or _CRC.unpack_from(data, end)[0] != zlib.crc32(data[offset:end]):
        return None
    total = end + _CRC.size - offset
    return Record(kind, height, data[offset + _RECORD.size : end]), batch, total + -total % _ALIGN


_KINDS = frozenset({*_LOG_OF, _FOOTER_TYPE, _PAD_TYPE})


def _without_copies(records: Sequence[Record]) -> Iterator[Record]:
    """Yield records once each; of votes both copies are on disk."""
    seen: set[bytes] = set()
    for record in records:
        if record.kind == RECORD_VOTE:
            if record.payload in seen:
                continue
            seen.add(record.payload)
        yield record
