"""Where a ledger may lie, and one way to read it from there.

A site's folder, whether its node runs or not, and a bundle give the charter and the records of the blocks; a tlog-tiles
directory gives the entries alone. Every command reads a `Source` and none knows which it has. Nothing is read before it
is asked for, nothing is held that has been read, and nothing is ever written.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from typing_extensions import override

from node import bundle
from node.cli.output import INCOMPLETE, INVALID, Failure
from node.site import Site
from node.storage import RealDisk
from swarm.charter import SignedCharter, open_genesis
from swarm.errors import LedgerError, Reject, UsageError
from swarm.ledger import note, tiles
from swarm.ledger.entry import ENTRY_BYTES_MAX
from swarm.ledger.journal import BLOCKS, Finding, scan
from swarm.ledger.merkle import EMPTY_ROOT
from swarm.ledger.tlog import Checkpoint

TILE_BYTES_MAX = 256 * (2 + ENTRY_BYTES_MAX)
"""Largest file of a directory of tiles: a bundle of 256 of the largest entries."""

_TILES_AGAIN = "have them made and sent again: `swarm ledger export --tiles`"

REPAIR = "stop the node, then `swarm ledger repair` from a copy of another member's folder: blocks are the same there"


class Place(NamedTuple):
    """Where a block lies: a file, and the byte at which its record begins."""

    path: str
    offset: int


@dataclass(slots=True)
class Source(ABC):
    """A ledger somewhere. What could not be read of it is kept in `findings`, where each block lies in `places`."""

    where: Path
    signed: SignedCharter
    findings: list[Finding] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def corrupt(self) -> Finding | None:
        """The first place where something that had been written whole cannot be read."""
        return next((finding for finding in self.findings if finding.verdict == "corruption"), None)

    @property
    def torn(self) -> Finding | None:
        """A last write that is not whole."""
        return next((finding for finding in self.findings if finding.verdict != "corruption"), None)

    @abstractmethod
    def payloads(self) -> Iterator[bytes]:
        """Yield the blocks' records in order. Raises `Failure` when this kind of source has none."""

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much room the ledger takes."""

    def changed_ns(self) -> int:
        """Return a number that is another one when more can be read: times of last change, in nanoseconds."""
        return 0

    @property
    def blame(self) -> str:
        """What did it when a part cannot be read: its checksum is wrong too."""
        return "it was damaged on its way"

    @property
    def mending(self) -> str:
        """What to do when a part cannot be read."""
        return "have it made and sent again"


@dataclass(slots=True)
class Files(Source):
    """The ledger in a site's folder."""

    @property
    def site(self) -> Site:
        """The folder."""
        return Site(self.where)

    @override
    def payloads(self) -> Iterator[bytes]:
        disk = RealDisk(self.site.ledger)
        self.findings.clear()
        height = 0
        try:
            for found in scan(disk, BLOCKS, self.signed.ledger_id):
                if isinstance(found, Finding):
                    self.findings.append(found)
                else:
                    height += 1
                    self.places[height] = Place(found.path, found.offset)
                    yield found.record.payload
        finally:
            disk.close()

    @override
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.site.ledger.rglob("*") if path.is_file())

    @override
    def changed_ns(self) -> int:
        return max((path.stat().st_mtime_ns for path in (self.site.ledger / BLOCKS).glob("*.seg")), default=0)

    @property
    @override
    def blame(self) -> str:
        return "the disk is damaged"

    @property
    @override
    def mending(self) -> str:
        return REPAIR


@dataclass(slots=True)
class BundleFile(Source):
    """A ledger in one file: see `node.bundle`."""

    @override
    def payloads(self) -> Iterator[bytes]:
        self.findings.clear()
        height = 0
        with self.where.open("rb") as file:
            try:
                for piece in bundle.Reader(file, self.where).blocks():
                    height += 1
                    self.places[height] = Place(str(self.where), piece.offset)
                    yield piece.payload
            except bundle.Damage as damage:
                path = str(self.where)
                self.findings.append(Finding(BLOCKS, path, damage.offset, height, "corruption", damage.message))

    @override
    def size_bytes(self) -> int:
        return self.where.stat().st_size

    @property
    @override
    def mending(self) -> str:
        return bundle.AGAIN


_NO_HEAD = Checkpoint("", 0, EMPTY_ROOT)


@dataclass(slots=True)
class TilesFolder(Source):
    """A tlog-tiles directory (c2sp.org/tlog-tiles): every entry, and neither blocks nor certificates."""

    head: Checkpoint = _NO_HEAD

    def leaves(self) -> Iterator[bytes]:
        """Yield the entries' bytes in order, comparing their tree with the checkpoint at the end."""
        yield from tiles.entries(self.head, _reader(self.where))

    @override
    def payloads(self) -> Iterator[bytes]:
        raise Failure(
            f"couldn't find blocks in {self.where}: tiles have entries only, without what makes them final",
            code=INCOMPLETE,
            hint="`log` and `show` work on tiles; for all else ask for a bundle: `swarm ledger export --bundle`",
        )
        yield b""

    @override
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.where.rglob("*") if path.is_file())


def open_ledger(where: Path) -> Source:
    """Return the ledger in a site's folder, in a bundle, or in a directory of tiles; not yet read.

    Raises:
        UsageError: there is none.
        LedgerError: its charter does not hold.
    """
    if where.is_file():
        return _open_bundle(where)
    if (where / tiles.CHECKPOINT).is_file() and not (where / "ledger").is_dir():
        return _open_tiles(where)
    return open_folder(where)


def open_folder(folder: Path) -> Files:
    """Return the ledger in a site's folder, not yet read. Raises `UsageError` when there is none."""
    site = Site(folder)
    if not site.ledger.is_dir():
        raise UsageError(f"couldn't find a ledger in {folder}", hint="name the folder of a site that has been started")
    settings = site.load_settings() if site.settings_path.exists() else None
    return Files(folder, site.load_charter(settings))


def _open_bundle(path: Path) -> BundleFile:
    with path.open("rb") as file:
        try:
            return BundleFile(path, bundle.Reader(file, path).signed)
        except bundle.Damage as damage:
            text = f"{path} at byte {damage.offset}: {damage.message}; what was written there is not what can be read"
            raise Failure(text, code=INVALID, hint=damage.hint) from None


def _open_tiles(folder: Path) -> TilesFolder:
    """Return a directory of tiles. Its first entry is the charter, which says who must have signed what follows."""
    read = _reader(folder)
    data = read(tiles.CHECKPOINT) or b""
    try:
        head = Checkpoint.decode(note.parse(data).text)
        for leaf in tiles.entries(head, read):
            return TilesFolder(folder, open_genesis(leaf), head=head)
    except Reject as reason:
        raise LedgerError(f"couldn't read the tiles in {folder}: {reason.message}", hint=_TILES_AGAIN) from None
    raise LedgerError(f"couldn't read the tiles in {folder}: they hold no entry", hint=_TILES_AGAIN)


def _reader(folder: Path) -> Callable[[str], bytes | None]:
    def read(name: str) -> bytes | None:
        try:
            with (folder / name).open("rb") as file:
                return file.read(TILE_BYTES_MAX + 1)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return None

    return read
