"""A disk that keeps only what it was asked to keep.

Writes are visible at once and durable after `sync`; names after `sync_folder`. A crash decides, for everything that was
not synced, what happened: each pending write may be lost, kept, or torn at a sector or a byte, in any combination; a
new file may have vanished with its name. What was synced always survives. Files are sparse until written, because
segments are preallocated and thousands of worlds are made.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from swarm.errors import StoreError
from swarm.ledger.disk import DiskFull

SECTOR_BYTES = 512

SLOW_SYNC_S = 5.0
"""How much longer a slow disk takes for a sync."""

SUBSET_WRITES_MAX = 4
"""Pending writes whose every combination is enumerated; older ones are kept or lost together."""


@dataclass(slots=True)
class _File:
    """`durable` and `data` are contents up to the last byte written; the rest of `size` reads as zeros.

    `lied` are writes whose sync was acknowledged and never made, older than those in `pending`.
    """

    size: int
    durable: bytearray = field(default_factory=bytearray)
    data: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)
    named: bool = False
    lied: list[tuple[int, bytes]] = field(default_factory=list)


class SimulatedDisk:
    """A folder tree in memory; see `swarm.ledger.disk.Disk` for what each method promises.

    `full` makes every reservation fail. `stop_after` lets so many more operations happen and then fails them all, as
    for a process killed there. `fail_at` makes one operation, counted from now, fail with an input/output error;
    `failing` all of them, `read_only` those that change something. With `slow` a sync takes `SLOW_SYNC_S` longer, which
    is the world's to obey, and if it `lies` a sync of content is acknowledged and not made.
    """

    def __init__(self) -> None:
        self.full = self.failing = self.read_only = self.slow = self.lies = False
        self.operations = 0
        self._files: dict[str, _File] = {}
        self._removed: dict[str, _File] = {}
        self._stop_at: int | None = None
        self._fail_at: int | None = None

    # --- faults -------------------------------------------------------------------------------------------------

    @property
    def pending(self) -> bool:
        """Whether a power cut would lose anything."""
        return any(file.pending for file in self._files.values())

    def stop_after(self, operations: int) -> None:
        """Let `operations` more operations happen, then none."""
        self._stop_at = self.operations + operations

    def fail_at(self, operation: int) -> None:
        """Make the operation after so many others fail once."""
        self._fail_at = self.operations + operation

    def crash(self, rng: random.Random) -> None:
        """Lose power: decide what became of everything that was not synced."""
        choices = {}
        for file in self._files.values():
            file.pending[:0], file.lied = file.lied, []
        for path, file in self._files.items():
            choices[path] = [rng.choice((0.0, 1.0, rng.random())) for _ in file.pending]
        gone = {path for path, file in self._files.items() if not file.named and rng.random() < 0.5}
        back = {path for path in self._removed if rng.random() < 0.5}
        self._settle(choices, gone, back)

    def crash_states(self, limit: int = 1000) -> Iterator[SimulatedDisk]:
        """Yield disks as a crash now might leave them: every subset of the last writes, each torn in several places."""
        places = [(path, i) for path, file in self._files.items() for i in range(len(file.pending))]
        free = places[-SUBSET_WRITES_MAX:]
        unnamed = [path for path, file in self._files.items() if not file.named]
        made = 0
        for kept in product((0.0, 0.3, 1.0), repeat=len(free)):
            for vanish in (False, True) if unnamed else (False,):
                for older in (1.0, 0.0) if len(places) > len(free) else (1.0,):
                    if made >= limit:
                        return
                    made += 1
                    choice = dict(zip(free, kept, strict=True))
                    choices = {
                        path: [choice.get((path, i), older) for i in range(len(file.pending))]
                        for path, file in self._files.items()
                    }
                    disk = self.copy()
                    disk._settle(  # noqa: SLF001 - a copy of itself
                        choices, set(unnamed) if vanish else set(), set()
                    )
                    yield disk

    def flip(self, path: str, offset: int, bit: int) -> None:
        """Corrupt one bit, durably."""
        file = self._file(path)
        for content in (file.data, file.durable):
            if offset < len(content):
                content[offset] ^= 1 << bit

    def flip_at(self, spot: float) -> None:
        """Corrupt the bit that lies at `spot`, in [0, 1), of all that is durable; on an empty disk there is none."""
        at = int(spot * 8 * sum(len(file.durable) for file in self._files.values()))
        for path, file in sorted(self._files.items()):
            if at < 8 * len(file.durable):
                self.flip(path, *divmod(at, 8))
                return
            at -= 8 * len(file.durable)

    # --- the disk -----------------------------------------------------------------------------------------------

    def make_folder(self, path: str) -> None:
        """Folders exist by themselves here."""
        del path
        self._operate()

    def names(self, folder: str) -> list[str]:
        """See `Disk.names`."""
        prefix = folder + "/"
        return sorted(path[len(prefix) :] for path in self._files if path.startswith(prefix))

    def size(self, path: str) -> int:
        """See `Disk.size`."""
        return self._file(path).size

    def create(self, path: str, size: int) -> None:
        """See `Disk.create`."""
        self._operate()
        if self.full or self.read_only:
            raise DiskFull(f"couldn't make {path}: no space left on the disk", hint="free some space")
        if path in self._files:
            raise StoreError(f"couldn't make {path}: it exists")
        self._files[path] = _File(size)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """See `Disk.read`."""
        if self.failing:
            raise StoreError("couldn't read from the disk: input/output error")
        file = self._file(path)
        end = min(offset + length, file.size)
        return bytes(file.data[offset:end]).ljust(max(0, end - offset), b"\0")

    def write(self, path: str, offset: int, data: bytes) -> None:
        """See `Disk.write`."""
        self._operate(change=True)
        file = self._file(path)
        if offset + len(data) > file.size:
            raise StoreError(f"couldn't write to {path}: beyond its end")
        _put(file.data, offset, data)
        file.pending.append((offset, data))

    def sync(self, path: str) -> None:
        """See `Disk.sync`."""
        self._operate()
        file = self._file(path)
        if self.lies:
            file.lied += file.pending
        else:
            for offset, data in (*file.lied, *file.pending):
                _put(file.durable, offset, data)
            file.lied.clear()
        file.pending.clear()

    def remove(self, path: str) -> None:
        """See `Disk.remove`."""
        self._operate(change=True)
        self._removed[path] = self._files.pop(path)

    def sync_folder(self, folder: str) -> None:
        """See `Disk.sync_folder`."""
        self._operate()
        for path, file in self._files.items():
            if path.startswith(folder + "/"):
                file.named = True
        self._removed = {path: file for path, file in self._removed.items() if not path.startswith(folder + "/")}

    # --- parts --------------------------------------------------------------------------------------------------

    def _operate(self, *, change: bool = False) -> None:
        if self._stop_at is not None and self.operations >= self._stop_at:
            raise StoreError("couldn't reach the disk: the process was stopped")
        self.operations += 1
        if self.failing:
            raise StoreError("couldn't use the disk: input/output error")
        if change and self.read_only:
            raise StoreError("couldn't write to the disk: it is read-only")
        if self._fail_at is not None and self.operations > self._fail_at:
            self._fail_at = None
            raise StoreError("couldn't use the disk: input/output error")

    def _file(self, path: str) -> _File:
        if path not in self._files:
            raise StoreError(f"couldn't find {path}")
        return self._files[path]

    def _settle(self, kept: dict[str, list[float]], gone: set[str], back: set[str]) -> None:
        for path, file in self._files.items():
            for share, (offset, data) in zip(kept[path], file.pending, strict=True):
                length = len(data) if share >= 1.0 else int(share * len(data))
                if 0.0 < share < 1.0 and length > SECTOR_BYTES:
                    length -= length % SECTOR_BYTES
                _put(file.durable, offset, data[:length])
            file.pending.clear()
            file.data = bytearray(file.durable)
            file.named = True
        for path in sorted(gone):
            del self._files[path]
        for path in sorted(back):
            self._files.setdefault(path, self._removed[path])
        self._removed = {}
        self._stop_at = self._fail_at = None

    def copy(self) -> SimulatedDisk:
        """Return a sound disk with the same content, synced or not."""
        twin = SimulatedDisk()
        for path, file in self._files.items():
            twin._files[path] = _File(
                file.size,
                bytearray(file.durable),
                bytearray(file.data),
                list(file.pending),
                file.named,
                list(file.lied),
            )
        twin._removed = dict(self._removed)
        return twin


def _put(content: bytearray, offset: int, data: bytes) -> None:
    if len(content) < offset:
        content.extend(bytes(offset - len(content)))
    content[offset : offset + len(data)] = data
