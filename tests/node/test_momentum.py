"""The momentum of a site, on a real disk: what it follows, what it survives, and what losing it costs."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from node.momentum import Momentum
from node.storage import BlobStore
from swarm.ledger.disk import DiskFull
from swarm.machine import Digest
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector


def f(*values: float) -> Vector:
    return np.array(values, np.float32)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def blob(store: BlobStore, model: Vector) -> Digest:
    path = store.new_file()
    model.tofile(path)
    return store.add_file(path).digest


def opened(store: BlobStore, elements: int = 2) -> Momentum:
    return Momentum(store, elements=elements, beta=0.5)


def carried(momentum: Momentum, round_: int, base: Digest, elements: int = 2) -> list[float]:
    """What is added to an update of zero: beta times the momentum."""
    update = np.zeros(elements, np.float32)
    momentum.carry(update, round_, base, None)
    return [float(value) for value in update]


def test_it_follows_the_model_from_round_to_round(store: BlobStore) -> None:
    a, b, c = (blob(store, f(*values)) for values in ((0, 0), (4, 8), (4, 4)))
    momentum = opened(store)
    assert carried(momentum, 1, a) == [0, 0]
    assert carried(momentum, 2, b) == [1, 2]  # s = (4, 8) / 2
    assert carried(momentum, 3, c) == [0.5, 0]  # s = (2, 4) / 2 + (0, -4) / 2


def test_training_again_finds_the_same_and_a_crash_between_changes_nothing(store: BlobStore) -> None:
    a, b, c = (blob(store, f(*values)) for values in ((0, 0), (4, 8), (4, 4)))
    opened(store).carry(f(0, 0), 1, a, None)
    for _ in range(3):  # each in a process of its own
        assert carried(opened(store), 2, b) == [1, 2]
        assert carried(opened(store), 3, c) == [0.5, 0]
        assert carried(opened(store), 2, b) == [1, 2], "the round before may be trained once more"


def test_a_model_that_the_node_has_forgotten_is_still_followed(store: BlobStore) -> None:
    a, b = blob(store, f(0, 0)), blob(store, f(4, 8))
    opened(store).carry(f(0, 0), 1, a, None)
    store.forget([a])
    assert carried(opened(store), 2, b) == [1, 2]


def test_it_copies_a_model_where_the_file_system_knows_no_second_names(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr("node.storage.os.link", refuse)
    a, b = blob(store, f(0, 0)), blob(store, f(4, 8))
    momentum = opened(store)
    momentum.carry(f(0, 0), 1, a, None)
    store.forget([a])
    assert carried(momentum, 2, b) == [1, 2]


def test_a_round_that_went_on_without_this_site_changes_nothing(store: BlobStore) -> None:
    a, b, c = (blob(store, f(*values)) for values in ((0, 0), (4, 8), (4, 4)))
    momentum = opened(store)
    momentum.carry(f(0, 0), 1, a, None)
    momentum.carry(f(0, 0), 2, b, None)
    assert carried(momentum, 4, b) == [1, 2], "its model is where it was"
    assert carried(momentum, 5, c) == [0.5, 0]


@pytest.mark.parametrize("lost", ["*", "*.model", "[0-9]*[0-9a-f]"])
def test_losing_it_costs_the_momentum_and_nothing_else(store: BlobStore, lost: str) -> None:
    a, b, c = (blob(store, f(*values)) for values in ((0, 0), (4, 8), (4, 4)))
    opened(store).carry(f(0, 0), 1, a, None)
    for path in store.beside("momentum").glob(lost):
        path.unlink()
    assert carried(opened(store), 2, b) == [0, 0]
    assert carried(opened(store), 3, c) == [0, -1]


def test_what_was_cut_short_is_made_again(store: BlobStore) -> None:
    a, b = blob(store, f(0, 0)), blob(store, f(4, 8))
    momentum = opened(store)
    momentum.carry(f(0, 0), 1, a, None)
    momentum.carry(f(0, 0), 2, b, None)
    (store.beside("momentum") / f"{2:010}-{b.hex()}").write_bytes(b"1234")
    assert carried(momentum, 2, b) == [1, 2]


def test_two_rounds_are_kept(store: BlobStore) -> None:
    momentum = opened(store)
    for round_ in range(1, 6):
        momentum.carry(f(0, 0), round_, blob(store, f(round_, 0)), None)
    names = sorted(path.name for path in store.beside("momentum").iterdir())
    assert [(name[:10], name[-6:] == ".model") for name in names] == [
        (f"{4:010}", False), (f"{4:010}", True), (f"{5:010}", False), (f"{5:010}", True)
    ]  # fmt: skip
    assert store.listing()[1] == {}, "and the store does not take them for its own"


def test_long_models_are_followed_to_the_last_element(store: BlobStore) -> None:
    n = 2 * BLOCK_ELEMENTS + 3
    now = np.arange(n, dtype=np.float32) / 1024
    momentum = opened(store, n)
    momentum.carry(np.zeros(n, np.float32), 1, blob(store, np.zeros(n, np.float32)), None)
    update = np.zeros(n, np.float32)
    momentum.carry(update, 2, blob(store, now), None)
    assert np.array_equal(update, now / 4)


def test_momentum_has_its_room_on_the_disk_and_without_it_leaves_nothing(
    store: BlobStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hole that is read through a map takes a page where memory is the disk; without one it would be SIGBUS."""
    elements = 1 << 16
    base = blob(store, np.zeros(elements, np.float32))
    momentum = opened(store, elements)

    def full(descriptor: int, offset: int, length: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", full)
        with pytest.raises(DiskFull, match="couldn't keep the momentum of this site: No space left on device"):
            carried(momentum, 1, base, elements)
    folder = tmp_path / "blobs" / "momentum"
    assert [path.name for path in folder.iterdir() if path.suffix != ".model"] == []
    assert not any(carried(momentum, 1, base, elements))
    (path,) = (path for path in folder.iterdir() if path.suffix != ".model")
    assert path.stat().st_blocks * 512 >= 4 * elements, "not sparse"
