"""Files on a real disk: the complete is known, the half written is not believed, failures say what to do."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from node import storage
from node.storage import Ballast, BlobStore, DirectoryLock, RealDisk, write_file_durably
from swarm.errors import StoreError, UsageError
from swarm.ledger.disk import DiskFull
from swarm.machine import Digest, Keep, Stored
from swarm.vector import LEAF_BYTES, blob_digest, leaf_hashes

DATA = bytes(range(250)) * 10
LEAVES = leaf_hashes(DATA)
DIGEST = blob_digest(len(DATA), LEAVES)

LARGE = bytes(range(256)) * (LEAF_BYTES // 256) + b"the second leaf"
LARGE_LEAVES = leaf_hashes(LARGE)
LARGE_DIGEST = blob_digest(len(LARGE), LARGE_LEAVES)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


def failing(number: int) -> Callable[..., object]:
    """Return a system call that fails."""

    def call(*arguments: object, **named: object) -> object:
        raise OSError(number, os.strerror(number))

    return call


def received(store: BlobStore, data: bytes = DATA, digest: Digest = DIGEST) -> None:
    """Take in a blob in two pieces, the second one first."""
    half = len(data) // 2
    store.keep(Keep(digest, len(data), half, memoryview(data)[half:]))
    store.keep(Keep(digest, len(data), 0, bytearray(data[:half])))


# --- blobs --------------------------------------------------------------------------------------------------------


def test_a_blob_is_kept_in_pieces_sealed_and_found_again(store: BlobStore, tmp_path: Path) -> None:
    store.keep(Keep(DIGEST, len(DATA), 1000, DATA[1000:]))
    assert store.listing() == ([], {DIGEST: len(DATA)})
    assert store.read(DIGEST, 1000, 5) == DATA[1000:1005], "an unfinished blob is served from what it has"
    store.keep(Keep(DIGEST, len(DATA), 0, DATA[:1000]))
    store.seal(DIGEST, len(DATA), LEAVES)
    assert store.listing() == ([Stored(DIGEST, len(DATA), LEAVES)], {})
    assert store.read(DIGEST, 2490, 100) == DATA[2490:]
    assert store.path(DIGEST).read_bytes() == DATA
    again = BlobStore(tmp_path / "blobs")
    assert again.listing() == ([Stored(DIGEST, len(DATA), LEAVES)], {})
    assert again.read(DIGEST, 0, len(DATA)) == DATA
    again.close()


def test_check_names_the_leaves_that_are_right(store: BlobStore) -> None:
    assert store.check(LARGE_DIGEST, len(LARGE), LARGE_LEAVES) == ()
    store.keep(Keep(LARGE_DIGEST, len(LARGE), LEAF_BYTES, LARGE[LEAF_BYTES:]))
    assert store.check(LARGE_DIGEST, len(LARGE), LARGE_LEAVES) == (1,)
    store.keep(Keep(LARGE_DIGEST, len(LARGE), 0, LARGE[: LEAF_BYTES - 1]))
    assert store.check(LARGE_DIGEST, len(LARGE), LARGE_LEAVES) == (1,), "one byte of the first leaf is missing"
    store.keep(Keep(LARGE_DIGEST, len(LARGE), LEAF_BYTES - 1, LARGE[LEAF_BYTES - 1 : LEAF_BYTES]))
    assert store.check(LARGE_DIGEST, len(LARGE), LARGE_LEAVES) == (0, 1)


def test_a_file_taken_in_is_named_by_what_it_holds(store: BlobStore) -> None:
    path = store.new_file()
    path.write_bytes(LARGE)
    assert store.new_file() != path
    assert store.add_file(path) == Stored(LARGE_DIGEST, len(LARGE), LARGE_LEAVES)
    assert not path.exists()
    assert store.read(LARGE_DIGEST, LEAF_BYTES, 100) == b"the second leaf"


def test_files_that_were_never_taken_in_are_swept_away(store: BlobStore, tmp_path: Path) -> None:
    left = store.new_file()
    left.write_bytes(b"half a model")
    again = BlobStore(tmp_path / "blobs")
    assert not left.exists()
    assert again.listing() == ([], {})


def test_a_model_is_mapped_and_cannot_be_written(store: BlobStore) -> None:
    vector = np.arange(5, dtype="<f4")
    path = store.new_file()
    path.write_bytes(vector.tobytes())
    stored = store.add_file(path)
    mapped = store.open_vector(stored.digest)
    assert np.array_equal(mapped, vector)
    with pytest.raises(ValueError, match="read-only"):
        mapped[0] = 1.0
    with pytest.raises(StoreError, match="couldn't open blob"):
        store.open_vector(DIGEST)


@pytest.mark.parametrize("broken", ["shorter", "longer", "gone", "sidecar cut", "leaves missing"])
def test_a_blob_that_a_crash_left_incomplete_does_not_count(broken: str, store: BlobStore) -> None:
    received(store)
    store.seal(DIGEST, len(DATA), LEAVES)
    store.close()
    whole, sidecar = store.path(DIGEST), store.path(DIGEST).with_suffix(".leaves")
    match broken:
        case "shorter":
            os.truncate(whole, len(DATA) - 1)
        case "longer":
            os.truncate(whole, len(DATA) + 1)
        case "gone":
            whole.unlink()
        case "sidecar cut":
            os.truncate(sidecar, 5)
        case _:
            os.truncate(sidecar, 8)
    assert store.listing() == ([], {})
    assert not whole.exists()
    assert not sidecar.exists()


def test_a_crash_while_sealing_leaves_an_unfinished_blob(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    received(store)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", failing(errno.EIO))
        with pytest.raises(StoreError, match="store a received model"):
            store.seal(DIGEST, len(DATA), LEAVES)
    assert store.listing() == ([], {DIGEST: len(DATA)})
    assert store.check(DIGEST, len(DATA), LEAVES) == (0,)
    store.seal(DIGEST, len(DATA), LEAVES)
    assert store.listing() == ([Stored(DIGEST, len(DATA), LEAVES)], {})


def test_forgetting_leaves_no_file_and_no_descriptor(store: BlobStore, tmp_path: Path) -> None:
    received(store)
    store.seal(DIGEST, len(DATA), LEAVES)
    store.read(DIGEST, 0, 1)
    received(store, LARGE, LARGE_DIGEST)
    store.forget([DIGEST, LARGE_DIGEST, Digest(b"?" * 32)])
    assert list((tmp_path / "blobs").iterdir()) == []
    assert store.listing() == ([], {})
    with pytest.raises(StoreError, match="couldn't read blob"):
        store.read(DIGEST, 0, 1)
    received(store)
    assert store.read(DIGEST, 0, len(DATA)) == DATA, "a forgotten blob can be fetched again"


def test_more_blobs_than_open_files_are_served_all_the_same(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(storage, "OPEN_FILES_MAX", 3)
    blobs = {}
    for number in range(8):
        data = bytes([number]) * 10
        leaves = leaf_hashes(data)
        blobs[Digest(blob_digest(10, leaves))] = (data, leaves)
    for part in range(2):
        for digest, (data, _) in blobs.items():
            store.keep(Keep(digest, 10, 5 * part, data[5 * part : 5 * part + 5]))
            assert len(store._open) <= 3
    for digest, (data, leaves) in blobs.items():
        store.seal(digest, 10, leaves)
        assert store.read(digest, 0, 10) == data


def test_a_range_stays_readable_after_its_blob_is_forgotten(store: BlobStore) -> None:
    received(store, LARGE, LARGE_DIGEST)
    held = store.read(LARGE_DIGEST, 5, 100)
    store.forget([LARGE_DIGEST])
    assert held == LARGE[5:105]
    assert held.readonly


def test_a_written_file_is_hashed_on_the_way(store: BlobStore) -> None:
    path = store.new_file()
    stored = store.write_file(path, len(LARGE), [LARGE[:LEAF_BYTES], LARGE[LEAF_BYTES:]])
    assert stored == Stored(LARGE_DIGEST, len(LARGE), LARGE_LEAVES)
    assert path.read_bytes() == LARGE


@pytest.mark.parametrize(
    ("call", "number", "expected"),
    [
        ("posix_fallocate", errno.ENOSPC, DiskFull),
        ("posix_fallocate", errno.EDQUOT, DiskFull),
        ("pwrite", errno.ENOSPC, DiskFull),
        ("open", errno.EROFS, DiskFull),
        ("pwrite", errno.EIO, StoreError),
    ],
)
def test_a_blob_that_does_not_fit_is_said_and_can_be_received_later(
    call: str, number: int, expected: type[StoreError], store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(number))
        with pytest.raises(StoreError, match="couldn't store a received model") as caught:
            received(store)
        assert type(caught.value) is expected
        assert caught.value.hint
    received(store)
    store.seal(DIGEST, len(DATA), LEAVES)
    assert store.listing()[0] == [Stored(DIGEST, len(DATA), LEAVES)]


def test_a_blob_that_could_not_be_reserved_leaves_no_file(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "posix_fallocate", failing(errno.ENOSPC))
    with pytest.raises(DiskFull):
        received(store)
    assert list((tmp_path / "blobs").iterdir()) == []


def test_a_write_that_the_kernel_takes_in_pieces_is_written_whole(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    pwrite = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda fd, data, offset: pwrite(fd, bytes(data)[:7], offset))
    received(store)
    assert store.read(DIGEST, 0, len(DATA)) == DATA


# --- the disk under the journal -----------------------------------------------------------------------------------


def test_a_reserved_file_has_its_space_and_only_its_owner_may_read_it(tmp_path: Path) -> None:
    disk = RealDisk(tmp_path)
    disk.make_folder("wal")
    disk.create("wal/a", 1 << 20)
    status = (tmp_path / "wal" / "a").stat()
    assert status.st_size == 1 << 20
    assert status.st_blocks * 512 >= 1 << 20, "not sparse: writing within it cannot run out of space"
    assert stat.S_IMODE(status.st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "wal").stat().st_mode) == 0o700
    disk.close()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS])
def test_a_file_that_cannot_be_reserved_whole_is_not_there(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.make_folder("wal")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", failing(number))
        with pytest.raises(DiskFull, match="couldn't reserve 4096 bytes for wal/a") as caught:
            disk.create("wal/a", 4096)
    assert caught.value.hint == "free some space on this disk"
    assert disk.names("wal") == []
    disk.create("wal/a", 4096)
    assert disk.size("wal/a") == 4096
    disk.close()


def test_a_failed_sync_is_never_taken_for_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = RealDisk(tmp_path)
    disk.make_folder("wal")
    disk.create("wal/a", 4096)
    for number in (errno.EIO, errno.ENOSPC):
        monkeypatch.setattr(os, "fdatasync", failing(number))
        with pytest.raises(StoreError, match="couldn't make wal/a durable") as caught:
            disk.sync("wal/a")
        assert type(caught.value) is StoreError, "what is durable is unknown, so trying again is no way out"
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(StoreError, match=r"names in .*wal durable"):
        disk.sync_folder("wal")
    disk.close()


@pytest.mark.parametrize("call", ["pread", "pwrite"])
def test_an_input_output_error_says_what_was_attempted(
    call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(tmp_path)
    disk.make_folder("wal")
    disk.create("wal/a", 4096)
    monkeypatch.setattr(os, call, failing(errno.EIO))
    attempts: dict[str, Callable[[], object]] = {
        "pread": lambda: disk.read("wal/a", 0, 1),
        "pwrite": lambda: disk.write("wal/a", 0, b"x"),
    }
    with pytest.raises(StoreError, match=r"couldn't (read|write) wal/a: Input/output error") as caught:
        attempts[call]()
    assert "starting the node again" in caught.value.hint
    disk.close()


def test_a_ledger_that_may_only_be_read_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = RealDisk(tmp_path)
    writer.make_folder("wal")
    writer.create("wal/a", 16)
    writer.write("wal/a", 0, b"on record")
    writer.close()
    opened = os.open

    def read_only(path: Path, flags: int, mode: int = 0o777) -> int:
        if flags & os.O_RDWR:
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    reader = RealDisk(tmp_path)
    assert reader.read("wal/a", 0, 9) == b"on record"
    reader.close()


# --- the lock -----------------------------------------------------------------------------------------------------

HOLD = """
import pathlib, sys
from node.storage import DirectoryLock
from swarm.errors import UsageError
try:
    DirectoryLock(pathlib.Path(sys.argv[1]))
except UsageError as error:
    sys.exit(error.message + " | " + error.hint)
"""


def second_process(path: Path) -> subprocess.CompletedProcess[str]:
    root = str(Path(storage.__file__).parent.parent)
    command = [sys.executable, "-c", HOLD, str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=root, env={"PYTHONPATH": root})


def test_a_second_process_in_the_same_folder_is_refused_in_words(tmp_path: Path) -> None:
    path = tmp_path / "site" / "state" / "lock"
    lock = DirectoryLock(path)
    refused = second_process(path)
    assert refused.returncode == 1
    site = tmp_path / "site"
    assert refused.stderr.strip() == (
        f"couldn't start in {site}: a node is running there (process {os.getpid()})"
        " | stop it first, or use another folder"
    )
    with pytest.raises(UsageError, match="a node is running there"):
        DirectoryLock(path)
    lock.close()
    assert second_process(path).returncode == 0
    DirectoryLock(path).close()  # the one above ended without letting go


@pytest.mark.parametrize("call", ["open", "ftruncate", "pwrite"])
def test_a_lock_on_a_full_disk_is_refused_in_words_and_lets_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    path = tmp_path / "site" / "run" / "lock"

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, full)
        with pytest.raises(DiskFull, match=f"couldn't lock {tmp_path / 'site'}: No space left") as caught:
            DirectoryLock(path)
    assert caught.value.hint == "free some space on this disk"
    DirectoryLock(path).close()  # the one that failed holds nothing


# --- single files -------------------------------------------------------------------------------------------------


def test_a_file_is_replaced_whole_and_private(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "er" / "key"
    write_file_durably(path, b"first, and longer")
    write_file_durably(path, b"second")
    assert path.read_bytes() == b"second"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_file_durably(path, b"third", mode=0o644)
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize(("call", "expected"), [("pwrite", DiskFull), ("fsync", StoreError)])
def test_a_file_that_cannot_be_replaced_stays_as_it_was(
    call: str, expected: type[StoreError], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key"
    write_file_durably(path, b"first")
    with monkeypatch.context() as patch:
        patch.setattr(os, call, failing(errno.ENOSPC if call == "pwrite" else errno.EIO))
        with pytest.raises(expected, match="couldn't write"):
            write_file_durably(path, b"second")
    assert path.read_bytes() == b"first"
    assert [left.name for left in tmp_path.iterdir()] == ["key"], "nothing half written is left beside it"


def test_a_close_that_fails_after_everything_was_synced_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel frees the descriptor whatever it answers: whoever stops has lost nothing and has nothing to do."""
    closing = os.close

    def fails(descriptor: int) -> None:
        closing(descriptor)
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    (tmp_path / "ledger").mkdir()
    disk, lock = RealDisk(tmp_path / "ledger"), DirectoryLock(tmp_path / "site" / "run" / "lock")
    blobs = BlobStore(tmp_path / "blobs")
    for name in ("a", "b"):
        disk.create(name, 8)
        disk.write(name, 0, b"durable!")
        disk.sync(name)
    blobs.keep(Keep(Digest(bytes(32)), 4, 0, memoryview(b"part")))
    blobs.keep(Keep(Digest(bytes([1] * 32)), 4, 0, memoryview(b"part")))
    with monkeypatch.context() as patch:
        patch.setattr(os, "close", fails)
        disk.remove("b")
        disk.close()
        blobs.forget([Digest(bytes(32))])
        blobs.close()
        lock.close()
    assert (tmp_path / "ledger" / "a").read_bytes() == b"durable!"
    assert not (tmp_path / "ledger" / "b").exists()
    DirectoryLock(tmp_path / "site" / "run" / "lock").close()


# --- room that is kept for the ledger -----------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path: Path, mount: Callable[..., Path]) -> Path:
    """A file system of 8 MiB."""
    return mount(tmp_path / "small", "8m")


def test_ballast_is_room_that_nobody_else_has(small_disk: Path) -> None:
    ballast = Ballast(small_disk / "ballast", 2 << 20)
    free = ballast.free()
    assert ballast.take()
    assert ballast.held
    assert free - ballast.free() >= 2 << 20
    assert ballast.take(), "it is held already"
    assert ballast.release()
    assert not ballast.release()
    assert ballast.free() == free


def test_ballast_is_not_taken_from_a_disk_that_has_hardly_more(small_disk: Path) -> None:
    ballast = Ballast(small_disk / "ballast", 5 << 20)
    assert not ballast.take()
    assert [*small_disk.iterdir()] == []
    assert Ballast(small_disk / "none", 0).take()
    assert not Ballast(small_disk / "none", 0).held
    assert Ballast(small_disk / "nowhere" / "ballast", 1).free() == 2**63
    assert not Ballast(small_disk / "nowhere" / "ballast", 1).take()


def test_blobs_leave_what_is_spared_to_the_ledger(small_disk: Path) -> None:
    store = BlobStore(small_disk / "blobs")
    store.spare = 6 << 20
    piece = Keep(DIGEST, 3 << 20, 0, bytes(100))
    with pytest.raises(DiskFull, match="the ledger's"):
        store.keep(piece)
    with pytest.raises(DiskFull, match="the ledger's"):
        store.write_file(store.new_file(), 3 << 20, [bytes(3 << 20)])
    assert [*(small_disk / "blobs").iterdir()] == []
    store.spare = 0
    store.keep(piece)
    store.spare = 6 << 20
    store.keep(piece)  # what it has begun has its room
    store.close()
