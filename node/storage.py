"""SHELL. Files: the real disk under the journal, the blob store, the lock on a site's folder.

Ledger records go through `RealDisk` and are synced. Blobs (models and updates) are written and never synced: killing
the process loses nothing that reached the page cache, and what a power cut takes can be fetched or trained again. A
blob's size is checked against its sidecar when the store is listed, and a wrong one is taken for an unfinished
transfer.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import mmap
import os
import shutil
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from swarm.errors import StoreError, UsageError
from swarm.ledger.disk import DiskFull
from swarm.machine import Buffer, Digest, Keep, Snapshot, Stored
from swarm.vector import LEAF_BYTES, LeafHasher, Vector, blob_digest, leaf_count, leaf_hashes, leaf_span

_MAP_FLAGS = mmap.MAP_SHARED | getattr(mmap, "MAP_POPULATE", 0)
"""Populated at once: a wait for the disk is then here and not in the thread that serves every link."""

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)
_SPENT = (errno.ENOMEM, errno.EMFILE, errno.ENFILE)

SEGMENTS_OPEN_MAX = 4
"""Files of the ledger kept open: the ends of its three logs, and one that is read from."""

HOLD_RETRY_S = 1.0
"""Between tries of what a full disk refused."""

OPEN_FILES_MAX = 64
"""Unfinished blobs kept open: 50 updates of a round may arrive side by side."""


class Exhausted(StoreError):
    """This process has no memory or no descriptor left: nothing is wrong with the file it asked for."""


def store_error(what: str, error: OSError) -> StoreError:
    """Return the error to raise for a failed system call."""
    if error.errno in _SPENT:
        return Exhausted(
            f"couldn't {what}: {error.strerror}", hint="give this process more memory, and see `ulimit -a`"
        )
    if error.errno in _NO_ROOM:
        return DiskFull(f"couldn't {what}: {error.strerror}", hint="free some space on this disk")
    return StoreError(
        f"couldn't {what}: {error.strerror}", hint="check the disk; starting the node again is safe once it is well"
    )


class RealDisk:
    """`swarm.ledger.disk.Disk` on a folder of this machine."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: OrderedDict[str, int] = OrderedDict()

    def make_folder(self, path: str) -> None:
        """See `Disk.make_folder`."""
        try:
            (self._folder / path).mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise store_error(f"make {path}", error) from error

    def names(self, folder: str) -> list[str]:
        """See `Disk.names`."""
        try:
            return sorted(path.name for path in (self._folder / folder).iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(f"list {folder}", error) from error

    def size(self, path: str) -> int:
        """See `Disk.size`."""
        try:
            return (self._folder / path).stat().st_size
        except OSError as error:
            raise store_error(f"look at {path}", error) from error

    def create(self, path: str, size: int) -> None:
        """See `Disk.create`. A file that could not be reserved whole is removed again."""
        target = self._folder / path
        try:
            descriptor = os.open(target, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(f"make {path}", error) from error
        try:
            reserve(descriptor, size)
        except OSError as error:
            _let_go(descriptor)
            target.unlink(missing_ok=True)
            raise store_error(f"reserve {size} bytes for {path}", error) from error
        self._take(path, descriptor)

    def read(self, path: str, offset: int, length: int) -> bytes:
        """See `Disk.read`."""
        try:
            return os.pread(self._open(path), length, offset)
        except OSError as error:
            raise store_error(f"read {path}", error) from error

    def write(self, path: str, offset: int, data: bytes) -> None:
        """See `Disk.write`."""
        try:
            _write_all(self._open(path), data, offset)
        except OSError as error:
            raise store_error(f"write {path}", error) from error

    def sync(self, path: str) -> None:
        """See `Disk.sync`."""
        try:
            os.fdatasync(self._open(path))
        except OSError as error:
            # The kernel may drop the dirty pages and report success next time: never try again (fsyncgate).
            raise StoreError(
                f"couldn't make {path} durable: {error.strerror}", hint="check the disk, then start the node again"
            ) from error

    def remove(self, path: str) -> None:
        """See `Disk.remove`."""
        descriptor = self._files.pop(path, None)
        if descriptor is not None:
            _let_go(descriptor)
        try:
            (self._folder / path).unlink()
        except OSError as error:
            raise store_error(f"remove {path}", error) from error

    def sync_folder(self, folder: str) -> None:
        """See `Disk.sync_folder`."""
        sync_folder(self._folder / folder)

    def close(self) -> None:
        """Close what is open."""
        for descriptor in self._files.values():
            _let_go(descriptor)
        self._files.clear()

    def _open(self, path: str) -> int:
        if path not in self._files:
            target = self._folder / path
            try:
                descriptor = os.open(target, os.O_RDWR | os.O_CLOEXEC)
            except PermissionError:
                descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                if error.errno != errno.EROFS:
                    raise
                descriptor = os.open(target, os.O_RDONLY | os.O_CLOEXEC)
            self._take(path, descriptor)
        self._files.move_to_end(path)
        return self._files[path]

    def _take(self, path: str, descriptor: int) -> None:
        """Keep a file open. What is written is synced before another file is touched, so an old one may be closed."""
        self._files[path] = descriptor
        if len(self._files) > SEGMENTS_OPEN_MAX:
            _let_go(self._files.popitem(last=False)[1])


class SnapshotFile:
    """The newest snapshot of a ledger's state: the block's height in 8 bytes, then the state.

    It is replaced whole and never synced. What a power cut makes of it is found out by its hash, and it is made again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def save(self, snapshot: Snapshot) -> None:
        """Put a snapshot in place of the one before. Raises `StoreError`; the one before is still there then."""
        beside = self._path.with_name(f".{self._path.name}")
        try:
            beside.unlink(missing_ok=True)
            beside.touch(mode=0o600)  # What the ledger says is for this user alone, here as in its blocks.
            beside.write_bytes(snapshot.height.to_bytes(8, "big") + snapshot.state)
            beside.replace(self._path)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise store_error("keep a snapshot", error) from error

    def load(self) -> Snapshot | None:
        """Return what is there, true or not. Whoever cannot read it has none."""
        try:
            data = self._path.read_bytes()
        except OSError:
            return None
        return Snapshot(int.from_bytes(data[:8], "big"), data[8:]) if len(data) > 8 else None


class DirectoryLock:
    """One process per site folder. Held until `close` or the end of the process, however it ends."""

    def __init__(self, path: Path) -> None:
        site = path.parent.parent
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(f"lock {site}", error) from error
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = self._holder()
            self.close()
            raise UsageError(
                f"couldn't start in {site}: a node is running there (process {holder or 'unknown'})",
                hint="stop it first, or use another folder",
            ) from None
        except OSError as error:
            self.close()
            raise store_error(f"lock {site}", error) from error
        try:
            os.ftruncate(self._descriptor, 0)
            os.pwrite(self._descriptor, str(os.getpid()).encode(), 0)
        except OSError as error:
            self.close()
            raise store_error(f"lock {site}", error) from error

    def _holder(self) -> str:
        try:
            return os.pread(self._descriptor, 32, 0).decode(errors="replace").strip()
        except OSError:  # Who it is matters less than that there is somebody.
            return ""

    def close(self) -> None:
        """Let go."""
        _let_go(self._descriptor)


class Ballast:
    """Room on the ledger's disk that nobody else can take: a file to be removed when the disk is full.

    Without it a full disk is full for the ledger too, and the node can do no more than wait. With it training stops
    first, which needs most room, and what the ledger has to write still finds some. `size` is in bytes; 0 is none.
    """

    def __init__(self, path: Path, size: int) -> None:
        self._path, self.size = path, size

    @property
    def held(self) -> bool:
        """Whether the room is reserved."""
        try:
            return self._path.stat().st_size == self.size > 0
        except OSError:
            return False

    def take(self) -> bool:
        """Reserve the room, unless that would leave less than as much again to others. Return whether it is held."""
        if self.held or not self.size:
            return True
        if self.free() < 2 * self.size:
            self.release()
            return False
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                reserve(descriptor, self.size)
            finally:
                os.close(descriptor)
        except OSError:
            self.release()
        return self.held

    def release(self) -> bool:
        """Give the room up. Return whether there was any."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def free(self) -> int:
        """Return how many bytes others could write on this disk; many if it does not say."""
        try:
            return shutil.disk_usage(self._path.parent).free
        except OSError:
            return 2**63


class BlobStore:
    """Blobs as files named by digest: `<hex>`, its leaf hashes in `<hex>.leaves`, an unfinished one as `<hex>.part`.

    `spare` bytes of the disk are left to the ledger: what would take of them fails as on a full disk.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.spare = 0
        self._open: OrderedDict[Path, int] = OrderedDict()
        self._made = 0
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for left in folder.glob("new-*"):
            left.unlink()

    def listing(self) -> tuple[Sequence[Stored], Mapping[Digest, int]]:
        """Return the complete blobs, and the full sizes of unfinished ones."""
        complete: list[Stored] = []
        partial: dict[Digest, int] = {}
        for path in sorted(self._folder.iterdir()):
            if path.suffix == ".part":
                partial[Digest(bytes.fromhex(path.stem))] = path.stat().st_size
            elif path.suffix == ".leaves":
                digest, data = Digest(bytes.fromhex(path.stem)), path.read_bytes()
                size = int.from_bytes(data[:8], "big")
                leaves = tuple(data[i : i + 32] for i in range(8, len(data), 32))
                whole = self.path(digest)
                if whole.exists() and whole.stat().st_size == size and len(leaves) == leaf_count(size):
                    complete.append(Stored(digest, size, leaves))
                else:
                    whole.unlink(missing_ok=True)
                    path.unlink()
        return complete, partial

    def path(self, digest: Digest) -> Path:
        """Return where a complete blob lies."""
        return self._folder / digest.hex()

    def beside(self, name: str) -> Path:
        """Return a folder in the store's for what belongs to blobs and is none."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True, mode=0o700)
        return folder

    def new_file(self) -> Path:
        """Return the name of a new file in the store's folder, for `add_file` to take in."""
        self._made += 1
        return self._folder / f"new-{os.getpid()}-{self._made}"

    def add_file(self, path: Path) -> Stored:
        """Hash a file leaf by leaf and move it into the store."""
        stored = self.hash_file(path)
        self.adopt(path, stored)
        return stored

    def salt_file(self, path: Path, salt: bytes) -> Stored:
        """Put an update's salt behind what is in a file, and hash both. Touches nothing else; any thread may do it."""
        try:
            self._check_room(len(salt))
            with path.open("ab") as file:
                file.write(salt)
        except OSError as error:
            raise store_error(f"write {path.name}", error) from error
        return self.hash_file(path)

    def hash_file(self, path: Path) -> Stored:
        """Hash a file leaf by leaf. Touches nothing else, so any thread may do it."""
        try:
            with path.open("rb", buffering=0) as file:
                size = os.fstat(file.fileno()).st_size
                leaves = tuple(_leaf_hash(file.read(leaf_span(size, i)[1])) for i in range(leaf_count(size)))
        except OSError as error:
            raise store_error(f"read {path.name}", error) from error
        return Stored(blob_digest(size, leaves), size, leaves)

    def write_file(self, path: Path, size: int, blocks: Iterable[Buffer], *, durable: bool = False) -> Stored:
        """Write a new file of `size` bytes and hash it on the way. All blocks but the last are whole leaves.

        Touches nothing else, so any thread may do it. Reserving the space first makes writing a third cheaper.
        """
        leaves: list[bytes] = []
        end = 0
        try:
            self._check_room(size)
            with path.open("wb", buffering=0) as file:
                with contextlib.suppress(OSError):  # What is wrong here shows when it is written.
                    reserve(file.fileno(), size)
                for block in blocks:
                    assert end % LEAF_BYTES == 0, "only the last block may end within a leaf"
                    leaves += leaf_hashes(block)
                    _write_all(file.fileno(), block, end)
                    end += memoryview(block).nbytes
                assert end == size, "the blocks make up the file"
                if durable:
                    os.fdatasync(file.fileno())
        except OSError as error:
            raise store_error(f"write {path.name}", error) from error
        return Stored(blob_digest(size, leaves), size, tuple(leaves))

    def write_rows(
        self, path: Path, rows: int, row_bytes: int, blocks: Iterable[Sequence[Buffer]], *, durable: bool = False
    ) -> Stored:
        """Write a new file of vectors one behind the other that are made side by side, and hash it.

        Each block is the next stretch of every row. Touches nothing else, so any thread may do it.
        """
        end = 0
        try:
            self._check_room(rows * row_bytes)
            with path.open("wb", buffering=0) as file:
                with contextlib.suppress(OSError):  # What is wrong here shows when it is written.
                    reserve(file.fileno(), rows * row_bytes)
                for block in blocks:
                    for row, part in enumerate(block):
                        _write_all(file.fileno(), part, row * row_bytes + end)
                    end += memoryview(block[0]).nbytes
                assert end == row_bytes, "the blocks make up the rows"
                if durable:
                    os.fdatasync(file.fileno())
        except OSError as error:
            raise store_error(f"write {path.name}", error) from error
        return self.hash_file(path)

    def adopt(self, path: Path, stored: Stored, *, durable: bool = False) -> None:
        """Move a hashed file into the store. For the thread that also forgets: the two must not overtake each other.

        A `durable` one, whose bytes are synced already, is there after a power failure too.
        """
        try:
            self._complete(path, stored.digest, stored.size, stored.leaves, durable=durable)
        except OSError as error:
            raise store_error(f"take {path.name} into the store", error) from error

    def keep(self, effect: Keep) -> None:
        """Write a received range into the unfinished blob."""
        try:
            _write_all(self._descriptor(self._part(effect.digest), effect.size), effect.payload, effect.offset)
        except OSError as error:
            raise store_error("store a received model", error) from error

    def seal(self, digest: Digest, size: int, leaves: Sequence[bytes]) -> None:
        """Make an unfinished blob, all of whose leaves are verified, a complete one."""
        part = self._part(digest)
        try:
            self._forget_descriptor(part)
            self._complete(part, digest, size, leaves)
        except OSError as error:
            raise store_error("store a received model", error) from error

    def check(self, digest: Digest, size: int, leaves: Sequence[bytes]) -> tuple[int, ...]:
        """Return which leaves of an unfinished blob are right already."""
        part = self._part(digest)
        if not part.exists():
            return ()
        good = []
        with part.open("rb", buffering=0) as file:
            for index, expected in enumerate(leaves):
                if _leaf_hash(file.read(leaf_span(size, index)[1])) == expected:
                    good.append(index)
        return tuple(good)

    def read(self, digest: Digest, offset: int, length: int) -> memoryview:
        """Return a range of a blob, complete or not, as far as it reaches; valid even when the blob is forgotten.

        It is a view of the page cache: copying into fresh memory costs five times as much, most of it page faults.
        Nothing is shared with other calls, so any thread may read.
        """
        start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
        what = f"read blob {digest.hex()[:12]}"
        try:
            descriptor = self._open_for_reading(digest)
            try:
                end = min(offset + length, os.fstat(descriptor).st_size)
                if end <= offset:
                    return memoryview(b"")
                mapped = mmap.mmap(descriptor, end - start, flags=_MAP_FLAGS, prot=mmap.PROT_READ, offset=start)
            finally:
                os.close(descriptor)
        except OSError as error:
            raise store_error(what, error) from error
        return memoryview(mapped)[offset - start :]

    def _open_for_reading(self, digest: Digest) -> int:
        try:
            return os.open(self.path(digest), os.O_RDONLY | os.O_CLOEXEC)
        except FileNotFoundError:
            return os.open(self._part(digest), os.O_RDONLY | os.O_CLOEXEC)

    def open_vector(self, digest: Digest, beyond: int = 0) -> Vector:
        """Return a complete blob as a read-only mapped float32 array, but for the bytes `beyond` the numbers."""
        try:
            path = self.path(digest)
            if not beyond:
                return np.memmap(path, dtype="<f4", mode="r")
            count, odd = divmod(path.stat().st_size - beyond, 4)
            if count <= 0 or odd:
                raise ValueError(f"it is no float32 vector with {beyond} bytes behind it")
            return np.memmap(path, dtype="<f4", mode="r", shape=(count,))
        except OSError as error:
            raise store_error(f"open blob {digest.hex()[:12]}", error) from error
        except ValueError as error:
            raise StoreError(f"couldn't open blob {digest.hex()[:12]}: {error}") from None

    def forget(self, digests: Sequence[Digest]) -> None:
        """Remove blobs, complete and unfinished."""
        for digest in digests:
            for path in (self.path(digest), self._part(digest)):
                with contextlib.suppress(OSError):  # What was written there matters to nobody any more.
                    self._forget_descriptor(path)
                path.unlink(missing_ok=True)
            self._sidecar(digest).unlink(missing_ok=True)

    def close(self) -> None:
        """Close what is open."""
        for descriptor in self._open.values():
            _let_go(descriptor)
        self._open.clear()

    def _complete(
        self, path: Path, digest: Digest, size: int, leaves: Sequence[bytes], *, durable: bool = False
    ) -> None:
        """The sidecar is written first: a blob without one does not exist, one of another size is incomplete."""
        with self._sidecar(digest).open("wb", buffering=0) as sidecar:
            _write_all(sidecar.fileno(), size.to_bytes(8, "big") + b"".join(leaves), 0)
            if durable:
                os.fdatasync(sidecar.fileno())
        path.rename(self.path(digest))
        if durable:
            sync_folder(self._folder)

    def _part(self, digest: Digest) -> Path:
        return self._folder / f"{digest.hex()}.part"

    def _sidecar(self, digest: Digest) -> Path:
        return self._folder / f"{digest.hex()}.leaves"

    def _descriptor(self, path: Path, size: int) -> int:
        """Return an open descriptor of an unfinished blob, which is made, its space reserved, if it is not there."""
        known = self._open.get(path)
        if known is not None:
            self._open.move_to_end(path)
            return known
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_CREAT, 0o600)
        try:
            if os.fstat(descriptor).st_size != size:
                self._check_room(size)
                reserve(descriptor, size)
        except OSError:
            os.close(descriptor)
            path.unlink(missing_ok=True)
            raise
        if len(self._open) >= OPEN_FILES_MAX:
            os.close(self._open.popitem(last=False)[1])
        self._open[path] = descriptor
        return descriptor

    def _check_room(self, size: int) -> None:
        """Raise `OSError` if so many bytes more would take of what is spared."""
        if self.spare and shutil.disk_usage(self._folder).free < size + self.spare:
            raise OSError(errno.ENOSPC, "what room is left is the ledger's")

    def _forget_descriptor(self, path: Path) -> None:
        descriptor = self._open.pop(path, None)
        if descriptor is not None:
            os.close(descriptor)


def write_file_durably(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Replace a file whole or not at all: write beside it, sync, rename, sync the folder."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, mode)
        try:
            _write_all(descriptor, data, 0)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        beside.rename(path)
        sync_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise store_error(f"write {path}", error) from error


def _let_go(descriptor: int) -> None:
    """Close a file that was synced when it had to be, or that no longer matters.

    Linux frees a descriptor whatever `close` answers (close(2)), so an error leaves nothing to do, and what it could
    tell of bytes that were not written, a sync has told before.
    """
    with contextlib.suppress(OSError):
        os.close(descriptor)


def hold(source: Path, target: Path) -> None:
    """Give a file that is never written to again a second name, or a copy where a file system has no hard links.

    Raises:
        OSError: a `FileNotFoundError` where the file is not there any more, which no copy could mend.
    """
    try:
        os.link(source, target)
    except FileNotFoundError:
        raise
    except OSError:
        shutil.copyfile(source, target)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise StoreError(f"couldn't make the names in {folder} durable: {error.strerror}") from error


def _leaf_hash(data: bytes) -> bytes:
    hasher = LeafHasher()
    hasher.update(data)
    return hasher.digest()


def mapped_anew(path: Path, elements: int, *, what: str) -> Vector:
    """Return a new file of float32, shape (elements,), mapped for writing, its space reserved. `what` it is for.

    A page that is written through a map and finds no room on the disk raises nothing: the process ends, by SIGBUS
    (mmap(2)). So there has to be room for all of them before.

    Raises:
        DiskFull: there is not.
        StoreError: the disk fails.
    """
    try:
        with path.open("wb", buffering=0) as file:
            reserve(file.fileno(), 4 * elements)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise store_error(what, error) from error
    mapped: Vector = np.memmap(path, dtype="<f4", mode="r+", shape=(elements,))
    return mapped


def lengthen(path: Path, size: int) -> None:
    """Let zeros follow what is in a file, up to so many bytes. Raises `StoreError`."""
    try:
        with path.open("r+b", buffering=0) as file:
            reserve(file.fileno(), size)
    except OSError as error:
        raise store_error(f"make room in {path.name}", error) from error


def reserve(descriptor: int, size: int) -> None:
    """Make a file so many bytes long, and have room for them on the disk. Raises `OSError`."""
    if hasattr(os, "posix_fallocate") and size:
        os.posix_fallocate(descriptor, 0, size)
    else:
        os.ftruncate(descriptor, size)


def _write_all(descriptor: int, data: Buffer, offset: int) -> None:
    view = memoryview(data).cast("B")
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
