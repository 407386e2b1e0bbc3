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
from swarm.charter import SignedCharter, from_toml, open_genesis
from swarm.errors import LedgerError, Reject, SwarmError, UsageError
from swarm.ledger import note, tiles
from swarm.ledger.entry import ENTRY_BYTES_MAX
from swarm.ledger.journal import BLOCKS, Finding, scan
from swarm.ledger.merkle import EMPTY_ROOT
from swarm.ledger.tlog import Checkpoint

TILE_BYTES_MAX = 256 * (2 + ENTRY_BYTES_MAX)
"""Largest file of a directory of tiles: a bundle of 256 of the largest entries."""

_TILES_AGAIN = "have them made and sent again: `swarm ledger export --tiles`"

_CHARTER_AGAIN = "put another member's charter.toml there: it is the same file for all"

REPAIR = "stop the node, then `swarm ledger repair` from a copy of another member's folder: blocks are the same there"


class Place(NamedTuple):
    """Where a block lies: a file, and the byte at which its record begins."""

    path: str
    offset: int


@dataclass(slots=True)
class Source(ABC):
    """A ledger somewhere. What could not be read of it is kept in `findings`, where each block lies in `places`.

    Of the blocks at the heights `wanted` the records are kept, in `kept`, when they are read.
    """

    where: Path
    signed: SignedCharter
    findings: list[Finding] = field(default_factory=list)
    places: dict[int, Place] = field(default_factory=dict)
    wanted: frozenset[int] = frozenset()
    kept: dict[int, bytes] = field(default_factory=dict)

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

    def checkpoint(self) -> bytes | None:
        """Return the checkpoint that lies beside the ledger, unread. None when there is none. Raises `OSError`."""
        return None

    @property
    def checkpoint_at(self) -> str:
        """The file that the checkpoint is from."""
        return str(self.where)

    def _passing(self, height: int, payload: bytes) -> bytes:
        if height in self.wanted:
            self.kept[height] = payload
        return payload

    @abstractmethod
    def size_bytes(self) -> int:
        """Return how much room the ledger takes."""

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
    """The ledger in a site's folder. `charter` is the file that founds it."""

    charter: Path = Path("charter.toml")

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
                    yield self._passing(height, found.record.payload)
        finally:
            disk.close()

    @override
    def checkpoint(self) -> bytes | None:
        return _read_up_to(self.site.ledger / tiles.CHECKPOINT, note.NOTE_BYTES_MAX)

    @property
    @override
    def checkpoint_at(self) -> str:
        return str(self.site.ledger / tiles.CHECKPOINT)

    @override
    def size_bytes(self) -> int:
        return sum(path.stat().st_size for path in self.site.ledger.rglob("*") if path.is_file())

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

    head: bytes | None = None

    @override
    def checkpoint(self) -> bytes | None:
        return self.head

    @override
    def payloads(self) -> Iterator[bytes]:
        self.findings.clear()
        height = 0
        with self.where.open("rb") as file:
            try:
                for piece in bundle.Reader(file, self.where).blocks():
                    height += 1
                    self.places[height] = Place(str(self.where), piece.offset)
                    yield self._passing(height, piece.payload)
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

    def check(self) -> int:
        """Compare every tile and bundle with what the entries make it; return how many. Raises `LedgerError`."""
        return tiles.check(self.head, _reader(self.where))

    @override
    def checkpoint(self) -> bytes | None:
        return _read_up_to(self.where / tiles.CHECKPOINT, note.NOTE_BYTES_MAX)

    @property
    @override
    def checkpoint_at(self) -> str:
        return str(self.where / tiles.CHECKPOINT)

    @override
    def payloads(self) -> Iterator[bytes]:
        raise Failure(
            f"couldn't find blocks in {self.where}: tiles have entries only, without what makes them final",
            code=INCOMPLETE,
            hint="use `log`, `show`, `stats`, `verify` or `prove`, or ask for a bundle: `swarm ledger export --bundle`",
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
        why = "" if folder.exists() else ": there is no such file or folder"
        hint = "name the folder of a site that has been started, a bundle, or a directory of tiles"
        raise UsageError(f"couldn't find a ledger in {folder}{why}", hint=hint)
    settings = site.load_settings() if site.settings_path.exists() else None
    path = folder / ("charter.toml" if settings is None else settings.site.charter)
    signed = _charter(path) if path.is_file() else site.load_charter(settings)
    return Files(folder, signed, charter=path)


def _charter(path: Path) -> SignedCharter:
    """Return a folder's charter.

    Raises:
        Failure: `INVALID`, and it names the file. It cannot be read, or a signature does not match the terms.
        UsageError: it reads well and waits for signatures: whoever asks for its ledger is early.
    """
    try:
        signed = from_toml(path.read_bytes().decode())
        signed.check()
    except UnicodeDecodeError as error:
        text = f"couldn't read {path} at byte {error.start}: it is not text"
        raise Failure(text, code=INVALID, hint=_CHARTER_AGAIN) from None
    except LedgerError as error:
        raise Failure(f"{path}: {error.message}", code=INVALID, hint=_CHARTER_AGAIN) from None
    except UsageError as error:
        if _unsigned(path):
            raise
        raise Failure(f"{path}: {error.message}", code=INVALID, hint=_CHARTER_AGAIN) from None
    return signed


def _unsigned(path: Path) -> bool:
    """Whether all that is wrong with a charter is that signatures are missing."""
    try:
        signed = from_toml(path.read_bytes().decode())
    except SwarmError:
        return False
    return bool(signed.missing()) and not signed.void()


def _open_bundle(path: Path) -> BundleFile:
    with path.open("rb") as file:
        try:
            reader = bundle.Reader(file, path)
            return BundleFile(path, reader.signed, head=reader.checkpoint)
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
    return lambda name: _read_up_to(folder / name, TILE_BYTES_MAX)


def _read_up_to(path: Path, bytes_max: int) -> bytes | None:
    """Return a file's bytes, of one that is too long one more than it may have, or None when there is no such file."""
    try:
        with path.open("rb") as file:
            return file.read(bytes_max + 1)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
