"""Contributions under a codec, on a real disk."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node import bulk
from node.bulk import BulkWorker
from node.messages import Messages
from node.storage import BlobStore
from swarm.errors import Reject
from swarm.ledger.disk import DiskFull
from swarm.machine import Blend, Digest, Inspect, Inspected, Mix, Mixed, Stored, StoreFailed, Trained
from swarm.mixing.compress.forms import decode, encode, parse
from swarm.mixing.compress.residual import Residual, apply
from swarm.vector import Vector
from tests.node.test_bulk import Bench

ELEMENTS = 5000
INT4 = parse("int4")
RNG = np.random.default_rng(3)
FIRST, SECOND, THIRD = (RNG.standard_normal(ELEMENTS).astype(np.float32) for _ in range(3))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


def messages(store: BlobStore, codec: str = "int4") -> Messages:
    return Messages(store, parse(codec), elements=ELEMENTS, bound=1000.0)


def write(made: Messages, store: BlobStore, update: Vector) -> Stored:
    path = store.new_file()
    stored = made.write_update(update.copy(), path)
    store.adopt(path, stored)
    return stored


def test_a_message_is_what_the_codec_makes_and_opens_again(store: BlobStore) -> None:
    made = messages(store)
    stored = write(made, store, FIRST)
    data = store.path(stored.digest).read_bytes()
    assert data == encode(FIRST, INT4)
    assert np.array_equal(made.opened(stored.digest, ELEMENTS), decode(data, ELEMENTS))


def test_what_counted_is_owed_and_nothing_else(store: BlobStore) -> None:
    made = messages(store)
    rest, _ = apply(Residual(np.zeros(ELEMENTS, np.float32)), FIRST, INT4, bound=1000.0)
    first = write(made, store, FIRST)
    void = write(made, store, SECOND)  # another attempt at the same round, which does not count
    made.counted(first.digest)
    third = write(made, store, THIRD)
    _, sent = apply(rest, THIRD, INT4, bound=1000.0)
    assert store.path(third.digest).read_bytes() == sent.message
    made.counted(void.digest)
    fourth = write(made, store, THIRD)
    assert fourth.digest == third.digest, "what did not count left nothing"


def test_a_restart_owes_the_same(store: BlobStore) -> None:
    made = messages(store)
    made.counted(write(made, store, FIRST).digest)
    second = write(made, store, SECOND)
    again = messages(store)
    again.counted(Digest(bytes(32)))
    assert write(again, store, SECOND).digest == second.digest
    again.counted(second.digest)
    assert write(again, store, SECOND).digest != second.digest


def test_a_memory_of_another_model_or_a_torn_one_is_no_memory(store: BlobStore, tmp_path: Path) -> None:
    made = messages(store)
    (tmp_path / "blobs" / "owed" / "owed").write_bytes(b"torn")
    assert store.path(write(made, store, FIRST).digest).read_bytes() == encode(FIRST, INT4)


def test_few_files_are_kept(store: BlobStore, tmp_path: Path) -> None:
    made = messages(store)
    for scale in range(1, 8):
        write(made, store, FIRST * np.float32(scale))
    assert len(list((tmp_path / "blobs" / "owed").iterdir())) <= 2


def test_the_store_takes_the_memory_for_no_blob(store: BlobStore) -> None:
    made = messages(store)
    stored = write(made, store, FIRST)
    complete, partial = store.listing()
    assert [one.digest for one in complete] == [stored.digest]
    assert not partial


def test_what_is_no_message_is_refused(store: BlobStore) -> None:
    path = store.new_file()
    path.write_bytes(b"x" * 540)
    stored = store.add_file(path)
    with pytest.raises(Reject):
        messages(store).opened(stored.digest, ELEMENTS)


# --- the worker -----------------------------------------------------------------------------------------------------


class Press(Bench):
    """A worker with a codec."""

    def __init__(self, store: BlobStore, codec: str) -> None:
        super().__init__(store, elements=ELEMENTS, bound=1000.0)
        self.worker.close()
        self.worker = BulkWorker(store, elements=ELEMENTS, bound=1000.0, wake=self._wake, codec=parse(codec))

    def trained(self, update: Vector, base: Digest | None = None) -> Stored:
        self.worker.submit_update(Trained(1, None, samples=5), self.file(update), base)
        (stored, event) = self.outcome()
        assert isinstance(stored, Stored)
        assert isinstance(event, Trained)
        assert (event.update, event.size) == (stored.digest, stored.size)
        return stored

    def mixed(self, effect: Mix | Blend) -> Vector:
        submit = self.worker.submit_mix if isinstance(effect, Mix) else self.worker.submit_blend
        submit(effect)  # type: ignore[arg-type]
        (_, event) = self.outcome()
        assert isinstance(event, Mixed)
        assert event.model is not None
        return np.array(self.store.open_vector(event.model))


def test_a_mean_is_of_what_the_messages_say(store: BlobStore) -> None:
    press = Press(store, "int8")
    one, two = press.trained(FIRST), press.trained(SECOND)
    base = press.blob(THIRD)
    said = [decode(store.path(s.digest).read_bytes(), ELEMENTS).astype(np.float64) for s in (one, two)]
    made = press.mixed(Mix(1, base, ((one.digest, 3), (two.digest, 1))))
    assert np.allclose(made, THIRD + (3 * said[0] + said[1]) / 4, atol=1e-6)
    press.worker.close()


def test_an_update_is_inspected_as_what_it_says(store: BlobStore) -> None:
    press = Press(store, "int8")
    good = press.trained(FIRST)
    press.worker.submit_inspect(Inspect(good.digest, good.size))
    press.worker.submit_inspect(Inspect(press.blob(FIRST), 4 * ELEMENTS))
    first, second = press.outcome(2)
    assert isinstance(first, Inspected)
    assert first.problem == ""
    assert first.norm == pytest.approx(float(np.linalg.norm(FIRST)), rel=0.01)
    assert isinstance(second, Inspected)
    assert second.problem, "a vector as it is, is no message"
    press.worker.close()


def test_in_gossip_a_site_goes_on_from_its_unrounded_model(store: BlobStore) -> None:
    press = Press(store, "bf16")
    base = press.blob(THIRD)
    mine = press.trained(FIRST, base)
    own = THIRD + FIRST
    rounded = decode(store.path(mine.digest).read_bytes(), ELEMENTS)
    assert not np.array_equal(own, rounded)
    path = store.new_file()
    path.write_bytes(encode(SECOND, parse("bf16")))
    theirs = store.add_file(path)
    given = decode(store.path(theirs.digest).read_bytes(), ELEMENTS)
    made = press.mixed(Blend(1, ((mine.digest, 0.75), (theirs.digest, 0.25)), 7))
    assert np.allclose(made, own + 0.25 * (given - rounded), atol=1e-6)
    alone = press.mixed(Blend(1, ((mine.digest, 1.0),), 7))
    assert np.allclose(alone, own, atol=1e-7), "with nobody to exchange with, nothing is lost"
    press.worker.close()


# --- a disk without room ------------------------------------------------------------------------------------------

TINY_DISK = """
import sys
from pathlib import Path
from node.storage import mapped_anew
from swarm.ledger.disk import DiskFull
folder = Path(sys.argv[1])
mapped_anew(folder / "small", 4096, what="make room")[:] = 1.0
try:
    mapped_anew(folder / "large", 1 << 20, what="make room")[:] = 1.0
except DiskFull as full:
    print(full.message, [path.name for path in folder.iterdir()])
"""


def full(descriptor: int, offset: int, length: int) -> None:
    """Stands for posix_fallocate(3) on a disk that is full."""
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.skipif(shutil.which("unshare") is None, reason="there is no unshare(1) here to mount a tiny disk with")
def test_what_has_no_room_on_the_disk_is_an_error_and_does_not_end_the_process(tmp_path: Path) -> None:
    """On a real file system of 1 MiB. Without room for a page, writing it through a map would be SIGBUS."""
    mount = 'mount -t tmpfs -o size=1m tmpfs $1 && exec $2 -c "$3" $1'
    command = ["unshare", "-rm", "sh", "-c", mount, "sh", str(tmp_path), sys.executable, TINY_DISK]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if "unshare" in done.stderr or "mount" in done.stderr:
        pytest.skip(f"a tiny disk cannot be mounted here: {done.stderr.strip()}")
    assert (done.returncode, done.stdout.strip()) == (0, "couldn't make room: No space left on device ['small']")


def test_an_update_that_there_is_no_room_to_open_leaves_nothing_behind(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = messages(store)
    stored = write(made, store, FIRST)
    before = sorted((tmp_path / "blobs" / "owed").iterdir())
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskFull, match="couldn't make room to open update .*: No space left on device") as caught:
            made.opened(stored.digest, ELEMENTS)
    assert caught.value.hint == "free some space on this disk"
    assert sorted((tmp_path / "blobs" / "owed").iterdir()) == before
    assert made.opened(stored.digest, ELEMENTS).size == ELEMENTS


def test_a_full_disk_says_nothing_about_an_update_which_is_read_through_once_there_is_room(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    stored = write(messages(store), store, FIRST)
    monkeypatch.setattr(bulk, "HOLD_RETRY_S", 0.001)
    press = Press(store, "int4")
    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        press.worker.submit_inspect(Inspect(stored.digest, stored.size))
        (told,) = press.outcome()
        assert isinstance(told, StoreFailed)
        assert told.why.startswith("couldn't make room to open update ")
        assert told.why.endswith(": No space left on device; it is read through as soon as that goes")
    (inspected,) = press.outcome()
    assert isinstance(inspected, Inspected)
    assert inspected.problem == ""
    press.worker.close()


def test_a_worker_that_waits_for_room_can_be_stopped(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = write(messages(store), store, FIRST)
    press = Press(store, "int4")
    monkeypatch.setattr(os, "posix_fallocate", full)
    press.worker.submit_inspect(Inspect(stored.digest, stored.size))
    assert len(press.outcome()) == 1
    press.worker.close()
    assert press.worker.take() == []


def test_slices_that_could_not_be_written_are_not_left_behind(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = messages(store)
    kept = Path.replace

    def refused(path: Path, target: Path) -> Path:
        if target.parent.name == "owed":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return kept(path, target)

    monkeypatch.setattr(Path, "replace", refused)
    with pytest.raises(OSError, match="No space left"):
        made.write_slices(FIRST.copy(), [(0, 2000), (2000, ELEMENTS)])
    assert [path for path in (tmp_path / "blobs").rglob("*") if path.is_file()] == []
