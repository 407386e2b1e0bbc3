"""Every state that a crash can leave a journal's disk in, and what must be true of each.

A `RecordingDisk` notes what was done to it. From a prefix of that, `crash_states` makes the disks that a power cut
there may leave: of the last writes that were not synced any subset, the last one torn at sectors or at a byte, new
names lost, removed names back, a new file's size not there yet. A `Life` is what a process does to a disk: it opens the
journal and appends. Crashes happen in a life, in the next one that recovers, and in the one that recovers from that.

What is asked of every state (`ledger.md` 3.1): what was acknowledged is there (I14), what is there is what somebody
wrote and does not come and go (I15), and what is missing is told as a torn tail, which it is (I17).
"""

from __future__ import annotations

import argparse
import functools
import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias
from unittest import mock

from swarm.errors import StoreError
from swarm.ledger.journal import FEED, LOGS, WAL, Finding, Journal, Opened, Placed, scan
from swarm.machine import RECORD_BLOCK, RECORD_BODY, RECORD_CERTIFICATE, RECORD_ENTRY, RECORD_VOTE, Record
from tests.builders import digest

OWNER = digest("ledger")
SECTOR_BYTES = 512
WRITES_FREE = 3
"""Of the last writes that were not synced any may have happened; older ones all or none."""
TEARS_MAX = 12
"""Places where a write is torn in each of three ways."""

Image: TypeAlias = tuple[tuple[str, int, bytes], ...]
"""What is on a disk: (path, size, content without the zeros at its end), by path."""

Operation: TypeAlias = tuple[str, str, int, bytes]
"""(what, path, offset or size, data)."""


class RecordingDisk:
    """A disk that holds an image, and remembers each operation that changes it."""

    def __init__(self, image: Image) -> None:
        self.sizes = {path: size for path, size, _ in image}
        self.contents = {path: bytearray(data) for path, _, data in image}
        self.operations: list[Operation] = []

    def make_folder(self, path: str) -> None:
        del path  # folders are made once, before there is anything to lose

    def names(self, folder: str) -> list[str]:
        return sorted(path.rpartition("/")[2] for path in self.sizes if path.startswith(folder + "/"))

    def size(self, path: str) -> int:
        return self.sizes[path]

    def create(self, path: str, size: int) -> None:
        if path in self.sizes:
            raise StoreError(f"couldn't make {path}: it exists")
        self.operations.append(("create", path, size, b""))
        self.sizes[path], self.contents[path] = size, bytearray()

    def read(self, path: str, offset: int, length: int) -> bytes:
        end = min(offset + length, self.sizes[path])
        return bytes(self.contents[path][offset:end]).ljust(max(0, end - offset), b"\0")

    def write(self, path: str, offset: int, data: bytes) -> None:
        assert offset + len(data) <= self.sizes[path], "beyond the end of the file"
        self.operations.append(("write", path, offset, data))
        put(self.contents[path], offset, data)

    def sync(self, path: str) -> None:
        self.operations.append(("sync", path, 0, b""))

    def remove(self, path: str) -> None:
        self.operations.append(("remove", path, 0, b""))
        del self.sizes[path], self.contents[path]

    def sync_folder(self, folder: str) -> None:
        self.operations.append(("sync_folder", folder, 0, b""))

    def image(self) -> Image:
        return image_of((path, size, self.contents[path]) for path, size in self.sizes.items())


def put(content: bytearray, offset: int, data: bytes) -> None:
    content.extend(bytes(max(0, offset - len(content))))
    content[offset : offset + len(data)] = data


def image_of(files: Iterable[tuple[str, int, bytes | bytearray]]) -> Image:
    return tuple(sorted((path, size, bytes(data).rstrip(b"\0")) for path, size, data in files))


# --- crashes ------------------------------------------------------------------------------------------------------


@dataclass(slots=True)
class File:
    """A file as far as it is durable. `named` and `sized` are False while a crash may take its name, or its size."""

    size: int
    content: bytearray
    named: bool = False
    sized: bool = False


@dataclass(slots=True)
class Cut:
    """What is durable after some operations and what is not: writes in order, and removed files that may come back."""

    files: dict[str, File] = field(default_factory=dict)
    writes: list[tuple[str, int, bytes]] = field(default_factory=list)
    removed: dict[str, File] = field(default_factory=dict)

    def do(self, operation: Operation) -> None:
        what, path, number, data = operation
        match what:
            case "create":
                self.files[path] = File(number, bytearray())
            case "write":
                self.writes.append((path, number, data))
            case "sync":
                for other, offset, written in self.writes:
                    if other == path:
                        put(self.files[path].content, offset, written)
                self.writes = [write for write in self.writes if write[0] != path]
                self.files[path].sized = True
            case "remove":
                gone = self.files.pop(path)
                self.writes = [write for write in self.writes if write[0] != path]
                if gone.named:
                    self.removed[path] = gone
            case "sync_folder":
                for other, file in self.files.items():
                    file.named |= other.startswith(path + "/")
                self.removed = {p: file for p, file in self.removed.items() if not p.startswith(path + "/")}

    def states(self) -> Iterator[Image]:
        """Yield every disk that a power cut now may leave."""
        free = self.writes[-WRITES_FREE:]
        older = self.writes[: len(self.writes) - len(free)]
        parts = [list(pieces(*write, fine=write is free[-1])) for write in free]
        names = [path for path, file in self.files.items() if not file.named]
        for kept in itertools.product(*parts):
            for before in (older, []) if older else ([],):
                writes = [*before, *(piece for written in kept for piece in written)]
                for lost in subsets(names):
                    for back in subsets(list(self.removed)):
                        yield from self._image(writes, lost, back)

    def _image(self, writes: list[tuple[str, int, bytes]], lost: set[str], back: set[str]) -> Iterator[Image]:
        files = {path: (file.size, bytearray(file.content)) for path, file in self.files.items() if path not in lost}
        for path, offset, data in writes:
            if path in files:
                put(files[path][1], offset, data)
        for path in back - files.keys():
            files[path] = (self.removed[path].size, self.removed[path].content)
        yield image_of((path, size, content) for path, (size, content) in files.items())
        unsized = [path for path in files if path in self.files and not self.files[path].sized]
        if unsized:
            for path in unsized:
                files[path] = (0, bytearray())
            yield image_of((path, size, content) for path, (size, content) in files.items())


def subsets(names: Sequence[str]) -> Iterator[set[str]]:
    for keep in itertools.product((False, True), repeat=len(names)):
        yield {name for name, kept in zip(names, keep, strict=True) if kept}


def pieces(path: str, offset: int, data: bytes, *, fine: bool) -> Iterator[list[tuple[str, int, bytes]]]:
    """Yield what may be left of a write: nothing, all, and, if `fine`, parts of it: first sectors, all but one, one."""

    def part(start: int, end: int) -> tuple[str, int, bytes]:
        return path, offset + start, data[start:end]

    yield []
    yield [part(0, len(data))]
    first = SECTOR_BYTES - offset % SECTOR_BYTES
    cuts = [0, *range(first, len(data), SECTOR_BYTES), len(data)]
    if not fine:
        yield [part(0, cuts[len(cuts) // 2])]
        return
    yield [part(0, len(data) // 3)]
    yield [part(0, len(data) - 1)]
    sectors = list(itertools.pairwise(cuts))
    for start, end in sectors[:: -(-len(sectors) // TEARS_MAX)] if len(sectors) > 1 else ():
        yield [part(0, end)]
        yield [part(0, start), part(end, len(data))]
        yield [part(start, end)]


# --- lives --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Known:
    """What a journal must hold, and what it may hold besides."""

    must: frozenset[Record] = frozenset()
    may: frozenset[Record] = frozenset()


@dataclass(frozen=True, slots=True)
class Append:
    """A batch, durable when it returns."""

    records: tuple[Record, ...]


@dataclass(frozen=True, slots=True)
class Drop:
    """Permission to forget the records of a log below a height."""

    log: str
    below: int


Step: TypeAlias = Append | Drop
Program: TypeAlias = Callable[[Opened], Sequence[Step]]
_WAL_KINDS = (RECORD_BODY, RECORD_VOTE, RECORD_CERTIFICATE)


@dataclass(frozen=True, slots=True)
class State:
    """A disk after a crash, and what is known of it."""

    image: Image
    known: Known


def live(state: State, program: Program, segment_bytes: int) -> Iterator[State]:
    """Let a process open the journal and do its work; yield each state that a crash on the way may leave."""
    disk = RecordingDisk(state.image)
    journal = Journal(disk, ledger_id=OWNER, segment_bytes=segment_bytes)
    opened = journal.open()
    known = [(len(disk.operations), state.known)]  # (what is known up to this operation)
    holds = frozenset(opened.records)
    after = Known(holds, holds)
    for step in program(opened):
        during, after = meanwhile(after, step)
        match step:
            case Append():
                journal.append(step.records)
            case Drop():
                (journal.drop_wal_below if step.log == WAL else journal.drop_feed_below)(step.below)
        known.append((len(disk.operations), during))
    cut = Cut({path: File(size, bytearray(data), named=True, sized=True) for path, size, data in state.image})
    done = 0
    for until, during in known:
        while done < until:
            cut.do(disk.operations[done])
            done += 1
            for image in cut.states():
                yield State(image, during)
    yield State(disk.image(), after)


def meanwhile(before: Known, step: Step) -> tuple[Known, Known]:
    """Return what is known while a step happens, and when it has."""
    if isinstance(step, Append):
        fresh = frozenset(step.records)
        return replace(before, may=before.may | fresh), Known(before.must | fresh, before.may | fresh)
    kinds = _WAL_KINDS if step.log == WAL else (RECORD_ENTRY,)
    kept = frozenset(r for r in before.must if r.kind not in kinds or r.height >= step.below)
    return replace(before, must=kept), replace(before, must=kept)


def explore(
    programs: Sequence[Program], segment_bytes: int, budgets: Sequence[int], seconds: float = 1e9
) -> tuple[int, ...]:
    """Crash in the first life, then in the one that recovers, and so on; check every state.

    `budgets` say how many states of a depth the next one starts from, chosen evenly. Returns the number of different
    states at each depth.
    """
    started = time.monotonic()
    counts = []
    found = [State((), Known())]
    for depth, program in enumerate(programs):
        seen: dict[State, None] = {}
        for state in found:
            for after in live(state, program, segment_bytes):
                if after not in seen:
                    seen[after] = None
                    check(after, segment_bytes)
            if time.monotonic() - started > seconds:
                break
        counts.append(len(seen))
        found = list(seen)[:: max(1, len(seen) // budgets[depth])] if depth < len(budgets) else []
    return tuple(counts)


# --- what must be true --------------------------------------------------------------------------------------------


def check(state: State, segment_bytes: int) -> None:
    """Assert I14, I15 and I17 of one state, and that the journal goes on from it."""
    disk = RecordingDisk(state.image)
    told = [part for log in LOGS for part in scan(disk, log, OWNER)]
    assert not disk.operations, "looking changes nothing"
    journal = Journal(disk, ledger_id=OWNER, segment_bytes=segment_bytes)
    opened = journal.open()
    there = frozenset(opened.records)
    assert len(there) == len(opened.records), "a record is there twice"
    assert state.known.must <= there, ("acknowledged and gone", sorted(state.known.must - there, key=repr))
    assert there <= state.known.may, ("nobody wrote this", sorted(there - state.known.may, key=repr))
    assert opened.votes_trustworthy, "a crash is not a lost vote"
    assert {finding.verdict for finding in opened.findings} <= {"torn tail"}, opened.findings
    assert {part for part in told if isinstance(part, Finding)} == {*opened.findings}
    assert {part.record for part in told if isinstance(part, Placed)} == there, "an auditor sees what the node sees"
    blocks = [record for record in opened.records if record.kind == RECORD_BLOCK]
    assert [record.height for record in blocks] == list(range(1, len(blocks) + 1)), "the ledger has a gap"
    assert journal.blocks(1, len(blocks) + 1, 1 << 30) == tuple(record.payload for record in blocks)
    extra = (
        Record(RECORD_VOTE, 999, b"a last vote"),
        Record(RECORD_ENTRY, 999, b"a last entry"),
        Record(RECORD_BLOCK, len(blocks) + 1, b"a last block"),
    )
    journal.append(extra)
    middle = len(blocks) // 2 + 1
    again = Journal(disk, ledger_id=OWNER, segment_bytes=segment_bytes).open()
    assert again.findings == (), "what was torn is mended"
    assert frozenset(again.records) == there | {*extra}
    late = Journal(disk, ledger_id=OWNER, segment_bytes=segment_bytes).open(blocks_from=middle)
    assert late.findings == ()
    assert late.records == tuple(r for r in again.records if r.kind != RECORD_BLOCK or r.height >= middle)


# --- what processes do --------------------------------------------------------------------------------------------


def vote(view: int, size: int = 0) -> Record:
    return Record(RECORD_VOTE, view, b"vote of view %d" % view + bytes(size))


def body(view: int, size: int = 30) -> Record:
    return Record(RECORD_BODY, view, b"body of view %d " % view + b"b" * size)


def entry(seq: int, size: int = 20) -> Record:
    return Record(RECORD_ENTRY, seq, b"entry %d " % seq + bytes(size))


def block(height: int, size: int = 20) -> Record:
    return Record(RECORD_BLOCK, height, b"block %d " % height + b"x" * size)


VOTING: Sequence[Step] = (
    Append((entry(0),)),
    Append((body(1), vote(1), entry(1))),
    Append((block(1), body(2, 900), vote(2))),
    Append((vote(3), entry(2, 700))),
    Append((block(2), vote(4))),
    Drop(WAL, 3),
    Append((body(5), vote(5), vote(6), entry(3))),
    Append((block(3, 900), entry(4, 600))),
    Drop(FEED, 3),
    Drop(WAL, 6),
    Append((vote(7), block(4))),
)
"""A member's day: proposals, votes, blocks, and what it may forget of them."""

CATCHING_UP: Sequence[Step] = (
    Append((block(1, 300), block(2, 1500), block(3))),
    Append(tuple(block(height, 100) for height in range(4, 9))),
    Append((entry(0, 2000), entry(1))),
    Append((block(9, 700), vote(9))),
)
"""A laggard's: many blocks at once."""


def always(steps: Sequence[Step]) -> Program:
    return lambda opened: steps


def going_on(life: int) -> Program:
    """Return what a process does that has just recovered: it votes, and writes the next block."""

    def steps(opened: Opened) -> Sequence[Step]:
        height = sum(record.kind == RECORD_BLOCK for record in opened.records) + 1
        named = b" in life %d " % life
        return (
            Append((Record(RECORD_BODY, 50, b"body" + named + bytes(300)), Record(RECORD_VOTE, 50, b"vote" + named))),
            Append((Record(RECORD_BLOCK, height, b"block" + named), Record(RECORD_ENTRY, 50, b"entry" + named))),
        )

    return steps


@functools.cache
def of_a_real_member() -> Sequence[Step]:
    """Return what member 0 of a real swarm of three asks of its journal while it learns one round."""
    from tests import sites  # it brings the node with it

    steps: dict[int, list[Step]] = {}
    append, drop = Journal.append, Journal.drop_wal_below

    def watched(journal: Journal, records: Sequence[Record]) -> None:
        steps.setdefault(id(journal), []).append(Append(tuple(records)))
        append(journal, records)

    def dropped(journal: Journal, view: int) -> None:
        steps.setdefault(id(journal), []).append(Drop(WAL, view))
        drop(journal, view)

    with mock.patch.object(Journal, "append", watched), mock.patch.object(Journal, "drop_wal_below", dropped):
        sites.calm_run.__wrapped__(members=3, rounds=1)
    return max(steps.values(), key=len)


RUNS: dict[str, tuple[Sequence[Program], int]] = {
    "a day of voting, small segments": ((always(VOTING), going_on(2), going_on(3)), 1024),
    "a day of voting, large segments": ((always(VOTING), going_on(2), going_on(3)), 12_000),
    "catching up": ((always(CATCHING_UP), going_on(2), going_on(3)), 1024),
    "a real member": ((lambda opened: of_a_real_member(), going_on(2), going_on(3)), 1 << 13),
}
"""Programs for each life, and the size of segments in bytes."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--time", type=float, default=600.0, help="seconds, in all")
    parser.add_argument("--states", type=int, default=2000, help="states of each depth that the next one starts from")
    chosen = parser.parse_args()
    total = 0
    for name, (programs, segment_bytes) in RUNS.items():
        counts = explore(programs, segment_bytes, [chosen.states] * 2, chosen.time / len(RUNS))
        total += sum(counts)
        print(f"{name}: {' + '.join(map(str, counts))} states, each as it must be", flush=True)
    print(f"{total} states in all")


if __name__ == "__main__":
    main()
