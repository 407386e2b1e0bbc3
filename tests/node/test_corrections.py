"""The correction of a site, on a real disk: learned once however often, never taken for zero, and never half there."""

from __future__ import annotations

import errno
import functools
import os
from pathlib import Path

import numpy as np
import pytest

from node.corrections import Corrections
from node.storage import BlobStore
from swarm.ledger.disk import DiskFull
from swarm.machine import Digest, Learn
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector

A, B, C = (Digest(bytes([number]) * 32) for number in (1, 2, 3))


def f(*values: float) -> Vector:
    return np.array(values, np.float32)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "blobs")


def _read(vector: Vector, start: int, count: int) -> Vector:
    return vector[start : start + count]


def taught(kept: Corrections, learn: Learn, round_: int, model: Digest, offered: Vector, mixed: Vector) -> list[float]:
    """What a site knows after a round, empty if that is nothing."""
    kept.learn(learn, round_, model, functools.partial(_read, offered), mixed)
    return known(kept, round_, model)


def known(kept: Corrections, round_: int, model: Digest) -> list[float]:
    path = kept.path(round_, model)
    return [] if path is None else [float(value) for value in np.fromfile(path, "<f4")]


def test_it_adds_up_half_of_what_the_others_pull_a_model_back_by(store: BlobStore) -> None:
    kept = Corrections(store, elements=2)
    assert taught(kept, Learn(None, 0, 10, 0.5), 1, A, f(4, 0), f(2, 2)) == [-1, 1]
    assert taught(kept, Learn(A, 1, 10, 0.5), 2, B, f(0, 0), f(8, -4)) == [3, -1]


def test_a_blend_that_is_made_again_teaches_the_same_once(store: BlobStore) -> None:
    taught(Corrections(store, elements=2), Learn(None, 0, 10, 0.5), 1, A, f(4, 0), f(2, 2))
    for _ in range(3):  # each in a process of its own
        assert taught(Corrections(store, elements=2), Learn(A, 1, 10, 0.5), 2, B, f(0, 0), f(8, -4)) == [3, -1]
    # Nor if it comes out as another model: the first was attested by nobody.
    assert taught(Corrections(store, elements=2), Learn(A, 1, 10, 0.5), 2, C, f(0, 0), f(2, 2)) == [0, 2]


def test_a_model_that_comes_back_has_a_correction_for_each_round(store: BlobStore) -> None:
    kept = Corrections(store, elements=1)
    taught(kept, Learn(None, 0, 10, 0.5), 1, A, f(4), f(2))
    assert taught(kept, Learn(A, 1, 10, 0.5), 2, A, f(0), f(2)) == [0]
    assert known(kept, 1, A) == [-1]


def test_what_it_should_go_on_from_and_lacks_is_not_taken_for_zero(store: BlobStore) -> None:
    kept = Corrections(store, elements=2)
    assert taught(kept, Learn(A, 1, 10, 0.5), 2, B, f(0, 0), f(8, -4)) == []
    path = store.beside("correction") / f"{1:010}-{A.hex()}-10"
    path.write_bytes(b"\0" * 7)
    assert known(kept, 1, A) == [], "nor is half a file"
    assert taught(kept, Learn(None, 0, 10, 0.5), 2, B, f(0, 0), f(8, -4)) == [4, -2], "all begin anew"


def test_what_counts_is_weight_times_correction(store: BlobStore) -> None:
    kept = Corrections(store, elements=1)
    taught(kept, Learn(None, 0, 10, 0.5), 1, A, f(0), f(8))
    assert taught(kept, Learn(A, 1, 40, 0.5), 2, B, f(1), f(1)) == [1]
    # Without samples it has no part in the sum: what it learns of then counts from there, on what it knew.
    assert taught(kept, Learn(B, 2, 0, 0.5), 3, C, f(1), f(1)) == [1]
    assert taught(kept, Learn(C, 3, 20, 0.5), 4, A, f(1), f(1)) == [2]


def test_two_files_are_left_that_of_the_model_a_round_began_with_and_that_of_its_end(store: BlobStore) -> None:
    kept = Corrections(store, elements=1)
    taught(kept, Learn(None, 0, 10, 0.5), 1, A, f(0), f(8))
    for round_, (base, model) in enumerate(((A, B), (B, C), (C, A)), 2):
        taught(kept, Learn(base, round_ - 1, 10, 0.5), round_, model, f(0), f(2))
    assert sorted(path.name[:10] for path in store.beside("correction").iterdir()) == ["0000000003", "0000000004"]


def test_a_full_disk_leaves_what_there_was(store: BlobStore, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Corrections(store, elements=1)
    taught(kept, Learn(None, 0, 10, 0.5), 1, A, f(0), f(8))

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(DiskFull, match="couldn't keep the correction of this site"):
            taught(kept, Learn(A, 1, 10, 0.5), 2, B, f(0), f(8))
    assert [path.name[:10] for path in store.beside("correction").iterdir()] == ["0000000001"]
    assert taught(kept, Learn(A, 1, 10, 0.5), 2, B, f(0), f(8)) == [8]


def test_long_models_are_learned_from_to_the_last_element(store: BlobStore) -> None:
    n = BLOCK_ELEMENTS + 3
    kept, ramp = Corrections(store, elements=n), np.arange(n, dtype=np.float32)
    taught(kept, Learn(None, 0, 1, 0.5), 1, A, np.zeros(n, np.float32), ramp)
    assert np.array_equal(taught(kept, Learn(A, 1, 1, 0.5), 2, B, np.zeros(n, np.float32), ramp), ramp)
