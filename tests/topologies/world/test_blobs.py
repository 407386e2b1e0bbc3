import random

import numpy as np
import pytest

from swarm.ledger.disk import DiskFull
from swarm.machine import (
    Check,
    Checked,
    Digest,
    Forget,
    Inspect,
    Inspected,
    Keep,
    Mix,
    Mixed,
    Seal,
    Stored,
)
from swarm.vector import LEAF_BYTES, blob_digest, leaf_hashes
from topologies.world.blobs import BlobStore
from topologies.world.learner import QuadraticTask

DATA = bytes(range(200))
LEAVES = leaf_hashes(DATA)
DIGEST = blob_digest(len(DATA), LEAVES)
TASK = QuadraticTask(seed=1, samples=(1,), elements=2, bound=10.0)


def vector(*values: float) -> bytes:
    return np.array(values, "<f4").tobytes()


def test_a_transfer_is_kept_in_pieces_sealed_and_read_back() -> None:
    store = BlobStore()
    assert store.keep(Keep(DIGEST, 200, 100, DATA[100:])) is None
    assert store.listing() == ((), {DIGEST: 200})
    assert store.read(DIGEST, 100, 10) == DATA[100:110]
    assert store.keep(Keep(DIGEST, 200, 0, DATA[:100])) is None
    store.seal(Seal(DIGEST, 200, LEAVES))
    assert store.listing() == ((Stored(DIGEST, 200, LEAVES),), {})
    assert store.read(DIGEST, 0, 200) == DATA
    assert store.read(DIGEST, 1, 200) is None
    assert store.read(Digest(bytes(32)), 0, 1) is None


def test_keeping_and_sealing_what_is_complete_changes_nothing() -> None:
    store = BlobStore([DATA])
    assert store.keep(Keep(DIGEST, 200, 0, b"x")) is None
    store.seal(Seal(DIGEST, 200, LEAVES))
    assert store.read(DIGEST, 0, 200) == DATA


def test_sealing_bytes_that_do_not_match_is_caught() -> None:
    store = BlobStore()
    store.keep(Keep(DIGEST, 200, 0, DATA[:199]))
    with pytest.raises(AssertionError, match="do not match"):
        store.seal(Seal(DIGEST, 200, LEAVES))
    store.keep(Keep(DIGEST, 200, 0, DATA))
    with pytest.raises(AssertionError, match="leaf hashes of another"):
        store.seal(Seal(DIGEST, 200, (bytes(32),)))


def test_a_check_names_the_leaves_that_are_right() -> None:
    data = bytes(LEAF_BYTES) + b"a" * LEAF_BYTES + b"tail"
    leaves = leaf_hashes(data)
    digest = blob_digest(len(data), leaves)
    store = BlobStore()
    store.keep(Keep(digest, len(data), 2 * LEAF_BYTES, b"tail"))
    assert store.check(Check(digest, len(data), leaves))() == (Checked(digest, (0, 2)),)
    assert store.check(Check(DIGEST, 200, LEAVES))() == (Checked(DIGEST, ()),)


def test_the_mean_is_added_to_the_model() -> None:
    store = BlobStore()
    base, one, two = (store.put(vector(*values)).digest for values in ((1.0, 2.0), (4.0, 0.0), (0.0, 8.0)))
    work = store.mix(Mix(3, base, ((one, 3), (two, 1))))
    store.forget(Forget((one, two)))
    stored, mixed = work()
    assert isinstance(stored, Stored)
    assert mixed == Mixed(3, stored.digest, 8, likeness=((4.0, 0.0), (8.0, 0.0)))
    assert store.read(stored.digest, 0, 8) == vector(4.0, 4.0)
    (failed,) = store.mix(Mix(4, base, ((one, 3),)))()
    assert isinstance(failed, Mixed)
    assert failed.model is None
    assert "not in the store" in failed.error


@pytest.mark.parametrize(
    ("blob", "fine"),
    [
        (vector(3.0, 4.0), True),
        (vector(3.0), False),
        (vector(float("nan"), 0.0), False),
        (vector(30.0, 40.0), False),
        (b"odd", False),
    ],
)
def test_updates_are_inspected(blob: bytes, fine: bool) -> None:
    store = BlobStore()
    digest = store.put(blob).digest
    (inspected,) = store.inspect(Inspect(digest, len(blob)), TASK)()
    assert isinstance(inspected, Inspected)
    assert (inspected.problem == "") is fine
    if fine:
        assert inspected.norm == pytest.approx(5.0)


def test_a_full_store_refuses_new_blobs_and_keeps_the_old() -> None:
    store = BlobStore([DATA])
    partial = Digest(b"p" * 32)
    store.keep(Keep(partial, 8, 0, b"1234"))
    store.full = True
    with pytest.raises(DiskFull):
        store.put(b"more")
    failed = store.keep(Keep(Digest(b"q" * 32), 8, 0, b"1234"))
    assert failed is not None
    assert "full" in failed.why
    assert store.keep(Keep(partial, 8, 4, b"5678")) is None  # its room was taken before
    assert store.read(DIGEST, 0, 200) == DATA


def test_a_power_cut_keeps_tears_or_loses_each_blob() -> None:
    fates = set()
    for seed in range(40):
        store = BlobStore([DATA])
        store.lose_power(random.Random(seed))
        complete, partial = store.listing()
        fates.add((len(complete), partial.get(DIGEST)))
        if complete:
            assert store.read(DIGEST, 0, 200) == DATA
    assert fates == {(1, None), (0, None), (0, 200)}
