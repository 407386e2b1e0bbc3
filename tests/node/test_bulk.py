"""Whole models off the loop: clipped, hashed, averaged bit for bit; a failing disk is a sentence, never a silence."""

from __future__ import annotations

import errno
import os
import queue
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest

from node import bulk
from node.bulk import MIX_BLOCK_ELEMENTS, BulkWorker
from node.storage import BlobStore
from swarm.machine import (
    Blend,
    Check,
    Checked,
    Digest,
    Event,
    Inspect,
    Inspected,
    Keep,
    Learn,
    Mix,
    Mixed,
    Stored,
    StoreFailed,
    Trained,
)
from swarm.mixing.average import weighted_mean_into
from swarm.mixing.compress.forms import Spec
from swarm.mixing.gossip import mix_into
from swarm.mixing.sketch import sketch
from swarm.vector import LEAF_BYTES, Vector, blob_digest, leaf_hashes

WAIT_S = 20.0
"""No test comes near it: a worker that never wakes the loop must fail a test and not hang it."""

NOWHERE = Digest(b"\x07" * 32)


class Bench:
    """A store, a worker, and the loop's side of both. `woken_by` are the threads that called `wake`."""

    def __init__(self, store: BlobStore, *, elements: int = 4, bound: float = 0.0) -> None:
        self.store = store
        self.woken_by: list[int] = []
        self._bell: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.worker = BulkWorker(store, elements=elements, bound=bound, wake=self._wake)

    def _wake(self) -> None:
        self.woken_by.append(threading.get_ident())
        self._bell.put(None)

    def wait(self) -> None:
        """Return once the worker says that there is something to take."""
        self._bell.get(timeout=WAIT_S)

    def outcome(self, works: int = 1) -> list[Event]:
        """Return what the next pieces of work gave."""
        for _ in range(works):
            self.wait()
        return self.worker.take()

    def file(self, values: Sequence[float] | Vector) -> Path:
        """Return a new file of float32 values, as a trainer writes it."""
        path = self.store.new_file()
        np.asarray(values, "<f4").tofile(path)
        return path

    def blob(self, values: Sequence[float] | Vector) -> Digest:
        """Put a vector into the store."""
        return self.store.add_file(self.file(values)).digest

    def values(self, digest: Digest) -> list[float]:
        """Return what the store holds under a digest."""
        return [float(value) for value in self.store.open_vector(digest)]


class FullAfterNaming(BlobStore):
    """A real store on a disk that is full: every new file is the device that has no room."""

    def new_file(self) -> Path:
        """See `BlobStore.new_file`."""
        path = super().new_file()
        path.symlink_to("/dev/full")
        return path


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


@pytest.fixture
def bench(store: BlobStore) -> Iterator[Bench]:
    made = Bench(store)
    yield made
    made.worker.close()


def digest_of(values: Sequence[float] | Vector) -> Digest:
    data = np.asarray(values, "<f4").tobytes()
    return blob_digest(len(data), leaf_hashes(data))


# --- what is spent ---


@pytest.mark.parametrize("number", [errno.ENOMEM, errno.EMFILE])
def test_a_process_without_memory_says_nothing_about_an_update_which_is_read_through_once_there_is_some(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def spent(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    update = bench.blob([1.0, 2.0, 3.0, 4.0])
    monkeypatch.setattr(bulk, "HOLD_RETRY_S", 0.001)
    with monkeypatch.context() as patch:
        patch.setattr(np, "memmap", spent)
        bench.worker.submit_inspect(Inspect(update, 16))
        (told,) = bench.outcome()
        assert isinstance(told, StoreFailed)
        assert os.strerror(number) in told.why
    (inspected,) = bench.outcome()
    assert isinstance(inspected, Inspected)
    assert inspected.problem == ""


# --- an update ----------------------------------------------------------------------------------------------------


def test_an_update_is_clipped_hashed_and_stored_before_the_event_that_names_it(store: BlobStore) -> None:
    bench = Bench(store, elements=2, bound=2.5)
    path = bench.file([3.0, 4.0])  # norm 5: halved
    bench.worker.submit_update(Trained(7, None, samples=30, metrics={"loss": 0.5}), path)
    stored, trained = bench.outcome()
    assert isinstance(stored, Stored)
    assert (stored.digest, stored.size) == (digest_of([1.5, 2.0]), 8)
    assert trained == Trained(7, stored.digest, 8, 30, {"loss": 0.5})
    assert bench.values(stored.digest) == [1.5, 2.0]
    assert store.listing() == ([stored], {})
    assert not path.exists()
    bench.worker.close()


def test_an_update_within_the_bound_keeps_its_bytes(store: BlobStore) -> None:
    bench = Bench(store, elements=2, bound=5.0)
    bench.worker.submit_update(Trained(1, None, samples=1), bench.file([3.0, 4.0]))
    stored, _ = bench.outcome()
    assert isinstance(stored, Stored)
    assert stored.digest == digest_of([3.0, 4.0])
    bench.worker.close()


def test_an_update_of_several_leaves_is_named_as_any_other_blob_of_its_bytes(store: BlobStore) -> None:
    values = np.arange(LEAF_BYTES // 4 + 3, dtype="<f4") % 11
    bench = Bench(store, elements=values.size)
    bench.worker.submit_update(Trained(1, None, samples=1), bench.file(values))
    stored, _ = bench.outcome()
    assert isinstance(stored, Stored)
    assert stored.leaves == leaf_hashes(values.tobytes())
    assert len(stored.leaves) == 2
    assert store.listing() == ([stored], {})
    bench.worker.close()


def test_a_result_becomes_a_blob_only_when_it_is_taken(bench: Bench) -> None:
    """Else a blob could appear behind the back of the loop, which may just be forgetting those very bytes."""
    digest = digest_of([1.0, 2.0, 3.0, 4.0])
    bench.worker.submit_update(Trained(1, None, samples=1), bench.file([1.0, 2.0, 3.0, 4.0]))
    bench.wait()
    assert not bench.store.path(digest).exists()
    assert bench.store.listing()[0] == []
    bench.store.forget([digest])
    assert [type(event) for event in bench.worker.take()] == [Stored, Trained]
    assert bench.values(digest) == [1.0, 2.0, 3.0, 4.0]
    assert bench.worker.take() == []


@pytest.mark.parametrize("odd", [float("nan"), float("inf")])
def test_an_update_that_is_not_finite_becomes_words_and_leaves_no_file(bench: Bench, odd: float) -> None:
    path = bench.file([0.0, 0.0, odd, 0.0])
    bench.worker.submit_update(Trained(3, None, samples=9), path)
    (trained,) = bench.outcome()
    assert isinstance(trained, Trained)
    assert (trained.round, trained.update) == (3, None)
    assert "element 2 is not a finite number" in trained.error
    assert not path.exists()


def test_an_update_that_the_trainer_did_not_write_becomes_words(bench: Bench) -> None:
    bench.worker.submit_update(Trained(3, None, samples=9), bench.store.new_file())
    (trained,) = bench.outcome()
    assert isinstance(trained, Trained)
    assert (trained.round, trained.update) == (3, None)
    assert trained.error


def test_an_update_that_the_disk_has_no_place_for_becomes_words_when_it_is_taken(bench: Bench) -> None:
    path = bench.file([1.0, 2.0, 3.0, 4.0])
    bench.worker.submit_update(Trained(5, None, samples=1), path)
    bench.wait()
    shutil.rmtree(path.parent)
    (trained,) = bench.worker.take()
    assert isinstance(trained, Trained)
    assert (trained.round, trained.update) == (5, None)
    assert "could not be stored" in trained.error


# --- a mean -------------------------------------------------------------------------------------------------------


def test_a_mean_by_hand(bench: Bench) -> None:
    base, first, second = bench.blob([10.0, 20.0, 30.0, 40.0]), bench.blob([4.0, 0.0, -4.0, 1.0]), bench.blob([0.0] * 4)
    bench.worker.submit_mix(Mix(2, base, ((first, 3), (second, 1))))
    stored, mixed = bench.outcome()
    assert isinstance(stored, Stored)
    assert mixed == Mixed(2, stored.digest, 16, likeness=((33.0**0.5, 0.0), (0.0, 0.0)))
    assert bench.values(stored.digest) == [13.0, 20.0, 27.0, 40.75]
    assert stored in bench.store.listing()[0]


@pytest.mark.parametrize(
    "elements",
    [1, 3, MIX_BLOCK_ELEMENTS - 1, MIX_BLOCK_ELEMENTS, MIX_BLOCK_ELEMENTS + 1, 2 * MIX_BLOCK_ELEMENTS + 12345],
)
def test_a_mean_in_blocks_is_bit_for_bit_that_of_whole_vectors(store: BlobStore, elements: int) -> None:
    random = np.random.default_rng(elements)
    base, *updates = (random.normal(size=elements, scale=3.0).astype("<f4") for _ in range(4))
    updates[1][:] = 0.0  # the same bytes as nothing: a site that learned nothing still counts
    weights = (5, 1_000, 77)
    expected = np.empty(elements, "<f4")
    weighted_mean_into(expected, base, updates, weights)
    bench = Bench(store, elements=elements)
    terms = tuple((bench.blob(update), weight) for update, weight in zip(updates, weights, strict=True))
    bench.worker.submit_mix(Mix(1, bench.blob(base), terms))
    stored, mixed = bench.outcome()
    assert isinstance(stored, Stored)
    assert isinstance(mixed, Mixed)
    assert mixed.model == stored.digest == digest_of(expected)
    assert store.path(stored.digest).read_bytes() == expected.tobytes()
    bench.worker.close()


def test_the_order_of_the_updates_does_not_change_a_byte(bench: Bench) -> None:
    base = bench.blob([0.0] * 4)
    terms = tuple((bench.blob([1e3, 1e-7, -0.1, k / 3]), k) for k in (1, 2, 3))
    bench.worker.submit_mix(Mix(1, base, terms))
    bench.worker.submit_mix(Mix(1, base, terms[::-1]))
    first, second = bench.outcome(2)[1::2]
    assert isinstance(first, Mixed)
    assert isinstance(second, Mixed)
    assert first.model == second.model
    assert first.model is not None


def test_the_same_mean_made_twice_is_one_blob(bench: Bench) -> None:
    base, update = bench.blob([1.0] * 4), bench.blob([2.0] * 4)
    made = []
    for _ in range(2):
        bench.worker.submit_mix(Mix(1, base, ((update, 1),)))
        made += bench.outcome()
    assert made[:2] == made[2:]
    assert len(bench.store.listing()[0]) == 3


def test_without_a_base_whole_models_are_averaged(bench: Bench) -> None:
    first, second = bench.blob([1.0, 2.0, 0.0, 4.0]), bench.blob([5.0, 2.0, 8.0, -4.0])
    bench.worker.submit_mix(Mix(9, None, ((first, 3), (second, 1))))
    (_, mixed) = bench.outcome()
    assert isinstance(mixed, Mixed)
    assert mixed.model is not None
    assert bench.values(mixed.model) == [2.0, 2.0, 2.0, 2.0]


@pytest.mark.parametrize("elements", [3, MIX_BLOCK_ELEMENTS + 5])
def test_a_blend_in_blocks_is_bit_for_bit_that_of_whole_vectors(store: BlobStore, elements: int) -> None:
    bench = Bench(store, elements=elements)
    rng = np.random.default_rng(elements)
    models = [rng.standard_normal(elements).astype(np.float32) for _ in range(3)]
    shares = (0.5, 1 / 3, 1 / 6)
    terms = tuple((bench.blob(model), share) for model, share in zip(models, shares, strict=True))
    bench.worker.submit_blend(Blend(4, terms, seed=5))
    (stored, mixed) = bench.outcome()
    whole = np.empty(elements, np.float32)
    mix_into(whole, models, shares)
    assert isinstance(stored, Stored)
    assert stored.digest == digest_of(whole)
    assert mixed == Mixed(4, stored.digest, stored.size, sketch=sketch(whole, 5))
    bench.worker.close()


@pytest.mark.parametrize("codec", [None, Spec("bf16")])
def test_a_blend_teaches_by_the_model_as_it_was_offered_and_not_as_it_travelled(
    store: BlobStore, codec: Spec | None
) -> None:
    """1.001 does not fit into bf16: what rounding takes off it stays at this site, in its model and out of the sum."""
    bench = Bench(store)
    bench.worker.close()
    bench.worker = BulkWorker(store, elements=4, bound=0.0, wake=bench._wake, codec=codec, tracks=True)
    base = bench.blob([0.0, 0.0, 0.0, 0.0])
    bench.worker.submit_update(Trained(1, None, samples=5), bench.file([1.001, 2.0, 4.0, 8.0]), base)
    *_, trained = bench.outcome()
    assert isinstance(trained, Trained)
    assert trained.update is not None
    half = bench.blob([1.0, 2.0, 4.0, 8.0])
    terms = ((trained.update, 0.5), (half, 0.5)) if codec is None else ((trained.update, 1.0),)
    bench.worker.submit_blend(Blend(1, terms, seed=5, own=0, learn=Learn(None, 0, 5, 0.5)))
    *_, mixed = bench.outcome()
    assert isinstance(mixed, Mixed)
    assert mixed.model is not None
    path = bench.worker.correction(1, mixed.model)
    assert path is not None
    offered = np.float32([1.001, 2.0, 4.0, 8.0])
    expected = (np.float32(bench.values(mixed.model)) - offered) * np.float32(0.5)
    assert np.array_equal(np.fromfile(path, "<f4"), expected)
    assert (expected[0] == 0.0) == (codec is not None), "of itself alone, rounded, it has nothing to learn"
    assert bench.worker.correction(2, mixed.model) is None
    bench.worker.close()


def test_what_steps_could_not_take_of_a_correction_is_in_the_offer_all_the_same(store: BlobStore) -> None:
    bench = Bench(store, bound=5.0)
    base, learned = bench.blob([1.0, 1.0, 1.0, 1.0]), bench.file([10.0, 20.0, 30.0, 40.0])
    update = bench.file([6.0, 8.0, 0.0, 0.0])  # twice the bound, which is for what is learned and not for this
    bench.worker.submit_update(Trained(2, None), update, base, parameters=((0, 2), (3, 4)), correction=learned)
    (stored, _) = bench.outcome()
    assert isinstance(stored, Stored)
    assert bench.values(stored.digest) == [14.0, 25.0, 1.0, 41.0]
    bench.worker.close()


def test_a_blend_of_a_model_that_is_not_here_becomes_words_and_leaves_no_file(bench: Bench, tmp_path: Path) -> None:
    bench.worker.submit_blend(Blend(4, ((NOWHERE, 1.0),), seed=5))
    (mixed,) = bench.outcome()
    assert isinstance(mixed, Mixed)
    assert mixed.model is None
    assert mixed.error
    assert not [path for path in (tmp_path / "blobs").iterdir() if path.is_file()]


def test_a_model_that_had_to_be_cut_for_gossip_says_where(bench: Bench) -> None:
    base = bench.blob([1.0, 1000.0, 1020.0, -1020.0])
    bench.worker.submit_update(Trained(1, None, samples=1), bench.file([1.0, 1.0, 5.0, -5.0]), base)
    stored, _ = bench.outcome()
    assert isinstance(stored, Stored)
    assert bench.values(stored.digest) == [2.0, 1001.0, 1024.0, -1024.0]
    assert bench.worker.measured is not None
    assert bench.worker.measured.beyond == 2


def test_a_trained_model_is_its_base_plus_the_clipped_update(store: BlobStore) -> None:
    bench = Bench(store, bound=5.0)
    base = bench.blob([1.0, 1.0, 1023.5, -1.0])
    bench.worker.submit_update(Trained(2, None, samples=7), bench.file([6.0, 8.0, 0.0, 0.0]), base)
    (stored, trained) = bench.outcome()
    assert isinstance(stored, Stored)
    assert bench.values(stored.digest) == [4.0, 5.0, 1023.5, -1.0]
    assert isinstance(trained, Trained)
    assert trained.update == stored.digest
    bench.worker.close()


def test_a_model_is_synced_before_it_is_named_and_an_update_is_not(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[int] = []
    monkeypatch.setattr("node.storage.os.fdatasync", lambda descriptor: synced.append(descriptor))
    monkeypatch.setattr("node.storage.sync_folder", lambda folder: synced.append(-1))
    bench.worker.submit_update(Trained(1, None, samples=1), bench.file([1.0, 2.0, 3.0, 4.0]))
    bench.outcome()
    assert synced == []
    one = bench.blob([1.0, 2.0, 3.0, 4.0])
    bench.worker.submit_mix(Mix(1, one, ((one, 1),)))
    bench.wait()
    assert len(synced) == 1, "its bytes, on the worker's thread"
    bench.worker.take()
    assert len(synced) == 3, "its leaf hashes, and its name"
    assert synced[-1] == -1


def test_a_whole_model_has_no_bound_on_its_norm(store: BlobStore) -> None:
    bench = Bench(store, bound=1.0)
    large = bench.blob([100.0, 0.0, 0.0, 0.0])
    bench.worker.submit_inspect(Inspect(large, 16))
    bench.worker.submit_inspect(Inspect(large, 16, whole=True))
    problems = [event.problem for event in bench.outcome(2) if isinstance(event, Inspected)]
    assert problems[0]
    assert problems[1] == ""
    bench.worker.close()


def test_a_mean_of_an_update_that_is_not_here_becomes_words_and_leaves_no_file(bench: Bench, tmp_path: Path) -> None:
    base = bench.blob([1.0] * 4)
    before = sorted(tmp_path.rglob("*"))
    bench.worker.submit_mix(Mix(6, base, ((NOWHERE, 1),)))
    (mixed,) = bench.outcome()
    assert isinstance(mixed, Mixed)
    assert (mixed.round, mixed.model) == (6, None)
    assert NOWHERE.hex()[:12] in mixed.error
    assert sorted(tmp_path.rglob("*")) == before


def test_a_mean_of_an_update_that_is_too_short_becomes_words(bench: Bench) -> None:
    base, short = bench.blob([1.0] * 4), bench.blob([1.0] * 3)
    bench.worker.submit_mix(Mix(6, base, ((short, 1),)))
    (mixed,) = bench.outcome()
    assert isinstance(mixed, Mixed)
    assert mixed.model is None
    assert mixed.error


def test_a_mean_on_a_full_disk_becomes_words_and_the_worker_goes_on(tmp_path: Path) -> None:
    whole = BlobStore(tmp_path / "blobs")
    base, update = Bench(whole).blob([1.0] * 4), Bench(whole).blob([2.0] * 4)
    full = Bench(FullAfterNaming(tmp_path / "blobs"))
    full.worker.submit_mix(Mix(6, base, ((update, 1),)))
    full.worker.submit_inspect(Inspect(update, 16))
    mixed, inspected = full.outcome(2)
    assert isinstance(mixed, Mixed)
    assert (mixed.round, mixed.model) == (6, None)
    assert "No space left" in mixed.error
    assert inspected == Inspected(update, "", 4.0)
    assert not list((tmp_path / "blobs").glob("new-*")), "what could not be written is not left behind"
    full.worker.close()


def test_a_mean_that_cannot_be_adopted_becomes_words_when_it_is_taken(bench: Bench) -> None:
    base, update = bench.blob([1.0] * 4), bench.blob([2.0] * 4)
    bench.worker.submit_mix(Mix(6, base, ((update, 1),)))
    bench.wait()
    shutil.rmtree(bench.store.path(base).parent)
    (mixed,) = bench.worker.take()
    assert isinstance(mixed, Mixed)
    assert (mixed.round, mixed.model) == (6, None)
    assert "couldn't take" in mixed.error


# --- reading through, checking, the thread --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ([3.0, 4.0, 0.0, 0.0], ""),
        ([3.0, 4.0, 0.1, 0.0], "over the charter's bound 5"),
        ([0.0, float("nan"), 0.0, 0.0], "element 1 is not a finite number"),
        ([1.0, 1.0], "it has 2 elements, the charter's model has 4"),
    ],
)
def test_an_update_is_read_through(store: BlobStore, values: list[float], problem: str) -> None:
    bench = Bench(store, elements=4, bound=5.0)
    digest = bench.blob(values)
    bench.worker.submit_inspect(Inspect(digest, 16))
    (inspected,) = bench.outcome()
    assert isinstance(inspected, Inspected)
    assert inspected.digest == digest
    assert problem in inspected.problem
    assert bool(inspected.problem) == bool(problem)
    bench.worker.close()


def test_an_update_that_is_not_here_cannot_be_read_through(bench: Bench) -> None:
    bench.worker.submit_inspect(Inspect(NOWHERE, 16))
    (inspected,) = bench.outcome()
    assert isinstance(inspected, Inspected)
    assert inspected.problem


def test_an_interrupted_transfer_is_compared_with_its_leaves(bench: Bench) -> None:
    data = bytes(LEAF_BYTES) + b"\x01" * LEAF_BYTES + b"\x02" * 100
    leaves = leaf_hashes(data)
    digest = blob_digest(len(data), leaves)
    bench.store.keep(Keep(digest, len(data), 2 * LEAF_BYTES, data[2 * LEAF_BYTES :]))
    bench.worker.submit_check(Check(digest, len(data), leaves))
    assert bench.outcome() == [Checked(digest, (0, 2))], "the zeros of a reserved file are the first leaf's own"
    bench.worker.submit_check(Check(NOWHERE, len(data), leaves))
    assert bench.outcome() == [Checked(NOWHERE, ())]


def test_work_is_done_first_come_first_served_each_with_a_wake_from_one_other_thread(bench: Bench) -> None:
    digests = [bench.blob([float(k)] * 4) for k in range(8)]
    for digest in digests:
        bench.worker.submit_inspect(Inspect(digest, 16))
    found = bench.outcome(len(digests))
    assert [event.digest for event in found if isinstance(event, Inspected)] == digests
    assert len(bench.woken_by) == len(digests)
    assert len(set(bench.woken_by)) == 1
    assert threading.get_ident() not in bench.woken_by


def test_closing_waits_for_the_work_in_hand(bench: Bench) -> None:
    digest = bench.blob([1.0] * 4)
    bench.worker.submit_inspect(Inspect(digest, 16))
    bench.wait()
    bench.worker.close()
    bench.worker.close()
    assert bench.worker.take() == [Inspected(digest, "", 2.0)]


def test_an_interrupted_transfer_that_cannot_be_read_is_fetched_anew(bench: Bench) -> None:
    (bench.store.path(NOWHERE).with_suffix(".part")).mkdir()
    bench.worker.submit_check(Check(NOWHERE, 16, (bytes(32),)))
    assert bench.outcome() == [Checked(NOWHERE, ())]


def test_an_update_of_another_size_than_the_models_is_said_to_be(bench: Bench) -> None:
    path = bench.store.new_file()
    np.zeros(5, "<f4").tofile(path)
    bench.worker.submit_update(Trained(3, None, samples=1, metrics={}), path)
    (trained,) = bench.outcome()
    assert isinstance(trained, Trained)
    assert trained.update is None
    assert "it has 5 elements, the charter's model has 4" in trained.error


def test_a_defect_on_the_thread_ends_the_loop_and_not_in_silence(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(bench.store, "check", broken)
    bench.worker.submit_check(Check(NOWHERE, 16, (bytes(32),)))
    with pytest.raises(ZeroDivisionError):
        bench.outcome()
