"""Parts of a mean on real files: whoever takes which route ends with the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.bulk import MIX_BLOCK_ELEMENTS, BulkWorker
from node.storage import BlobStore
from swarm.machine import AddUp, Digest, Divide, Inspect, Inspected, Join, Mix, Mixed, MixSlice, Parted, Stored, Trained
from swarm.mixing.compress.forms import decode, encoded_bytes, parse
from swarm.routes import cuts, slices_digest
from swarm.vector import Vector, blob_digest, leaf_hashes
from tests.node.test_bulk import Bench, FullAfterNaming

ELEMENTS = MIX_BLOCK_ELEMENTS + 12_345
"""More than is worked on at a time."""

SLICES = cuts(ELEMENTS, 3)
WEIGHTS = (3, 1, 5)
BOUND = 1e6


class Yard(Bench):
    """A worker that cuts updates."""

    def __init__(self, store: BlobStore, *, codec: str = "", averages: str = "", sliced: bool = True) -> None:
        super().__init__(store, elements=ELEMENTS, bound=BOUND)
        self.worker.close()
        self.worker = BulkWorker(
            store,
            elements=ELEMENTS,
            bound=BOUND,
            wake=self._wake,
            codec=parse(codec) if codec else None,
            cuts=SLICES if sliced else (),
            averages=parse(averages) if averages else None,
        )

    def trained(self, update: Vector) -> Trained:
        self.worker.submit_update(Trained(1, None, samples=5), self.file(update))
        *stored, event = self.outcome()
        assert isinstance(event, Trained)
        assert [(blob.digest, blob.size) for blob in stored if isinstance(blob, Stored)] == [*event.slices]
        return event

    def parted(self, effect: MixSlice | AddUp) -> Parted:
        submit = self.worker.submit_slice if isinstance(effect, MixSlice) else self.worker.submit_sum
        submit(effect)  # type: ignore[arg-type]
        event = self.outcome()[-1]
        assert isinstance(event, Parted)
        assert (event.round, event.close, event.number) == (effect.round, effect.close, effect.number)
        return event

    def model(self, effect: Mix | Join | Divide) -> Digest:
        submit = {Mix: self.worker.submit_mix, Join: self.worker.submit_join, Divide: self.worker.submit_divide}
        submit[type(effect)](effect)  # type: ignore[operator]
        event = self.outcome()[-1]
        assert isinstance(event, Mixed)
        assert event.model is not None, event.error
        return event.model


def updates() -> list[Vector]:
    rng = np.random.default_rng(4)
    return [rng.standard_normal(ELEMENTS).astype(np.float32) for _ in WEIGHTS]


@pytest.fixture(scope="module")
def base() -> Vector:
    return np.random.default_rng(5).standard_normal(ELEMENTS).astype(np.float32)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


def spread(store: BlobStore, base: Vector) -> Digest:
    yard = Yard(store, sliced=False)
    terms = tuple((yard.blob(update), weight) for update, weight in zip(updates(), WEIGHTS, strict=True))
    made = yard.model(Mix(1, yard.blob(base), terms))
    yard.worker.close()
    return made


def test_an_update_goes_into_the_store_slice_by_slice(store: BlobStore) -> None:
    yard, update = Yard(store), updates()[0]
    event = yard.trained(update)
    assert event.update == slices_digest(event.slices)
    assert event.size == 4 * ELEMENTS
    for (digest, size), (start, end) in zip(event.slices, SLICES, strict=True):
        data = update[start:end].tobytes()
        assert (digest, size) == (blob_digest(len(data), leaf_hashes(data)), len(data))
    assert len(store.listing()[0]) == 3, "and nothing else is left"
    yard.worker.submit_inspect(Inspect(event.slices[1][0], event.slices[1][1], elements=SLICES[1][1] - SLICES[1][0]))
    (inspected,) = yard.outcome()
    assert isinstance(inspected, Inspected)
    assert inspected.problem == ""
    assert inspected.norm == pytest.approx(float(np.linalg.norm(update[slice(*SLICES[1])])), rel=1e-4)
    yard.worker.close()


def test_averaged_slices_joined_are_the_mean(store: BlobStore, base: Vector) -> None:
    yard, model = Yard(store), None
    sent = [yard.trained(update) for update in updates()]
    model = yard.blob(base)
    parts = []
    for number, (start, end) in enumerate(SLICES):
        terms = tuple((one.slices[number][0], weight) for one, weight in zip(sent, WEIGHTS, strict=True))
        made = yard.parted(MixSlice(1, 8, number, end - start, terms))
        assert made.size == 4 * (end - start)
        assert made.part is not None
        parts.append(made.part)
    assert yard.model(Join(1, model, tuple(parts))) == spread(store, base)
    yard.worker.close()


def test_sums_divided_are_the_mean(store: BlobStore, base: Vector) -> None:
    yard = Yard(store, sliced=False)
    a, b, c = (yard.blob(update) for update in updates())
    low = yard.parted(AddUp(1, 8, 1, ((a, 3), (b, 1)), ()))
    high = yard.parted(AddUp(1, 8, 1, ((c, 5),), ()))
    assert low.size == high.size == 8 * ELEMENTS
    assert low.part is not None
    assert high.part is not None
    total = yard.parted(AddUp(1, 8, 2, (), ((low.part, 4), (high.part, 5))))
    assert total.part is not None
    assert yard.model(Divide(1, yard.blob(base), total.part, 9)) == spread(store, base)
    yard.worker.close()


def test_a_sum_that_no_updates_could_make_is_refused(store: BlobStore) -> None:
    yard = Yard(store, sliced=False)
    path = store.new_file()
    np.full(ELEMENTS, 2**61, np.int64).tofile(path)
    made = yard.parted(AddUp(1, 8, 2, (), ((store.add_file(path).digest, 4),)))
    assert made.part is None
    assert "larger than" in made.error
    yard.worker.close()


def test_compressed_slices_say_what_they_say_alone_and_the_rest_is_owed(store: BlobStore, base: Vector) -> None:
    yard, update = Yard(store, codec="int8"), updates()[0]
    first = yard.trained(update)
    assert first.size < 1.01 * ELEMENTS + 100
    model = yard.blob(base)
    parts = []
    for number, (start, end) in enumerate(SLICES):
        made = yard.parted(MixSlice(1, 8, number, end - start, ((first.slices[number][0], 5),)))
        assert made.part is not None
        parts.append(made.part)
    after = np.array(store.open_vector(yard.model(Join(1, model, tuple(parts)))))
    left_out = update - (after - base)
    assert 0 < np.abs(left_out).max() < 0.03
    yard.worker.submit_counted(first.update)  # type: ignore[arg-type]
    yard.wait()
    second = yard.trained(np.zeros(ELEMENTS, np.float32))
    third = yard.trained(np.zeros(ELEMENTS, np.float32))
    assert second.update == third.update, "owed until that has counted too"
    made = yard.parted(MixSlice(2, 9, 0, SLICES[0][1], ((second.slices[0][0], 5),)))
    assert made.part is not None
    owed = np.array(store.open_vector(made.part))
    assert np.abs(owed - left_out[slice(*SLICES[0])]).max() < 0.01 * np.abs(left_out).max() + 1e-6
    yard.worker.close()


def test_averages_may_be_compressed_too(store: BlobStore, base: Vector) -> None:
    yard = Yard(store, codec="int8", averages="int8")
    sent = [yard.trained(update) for update in updates()]
    parts, said = [], np.empty(ELEMENTS, np.float32)
    for number, (start, end) in enumerate(SLICES):
        terms = tuple((one.slices[number][0], weight) for one, weight in zip(sent, WEIGHTS, strict=True))
        made = yard.parted(MixSlice(1, 8, number, end - start, terms))
        assert made.size == encoded_bytes(parse("int8"), end - start)
        assert made.part is not None
        parts.append(made.part)
        decode(store.path(made.part).read_bytes(), end - start, out=said[start:end])
    model = yard.model(Join(1, yard.blob(base), tuple(parts)))
    assert np.array_equal(store.open_vector(model), base + said)
    exact = np.average(updates(), axis=0, weights=WEIGHTS)
    assert np.abs(said - exact).max() < 0.05
    yard.worker.close()


def test_a_disk_that_is_full_fails_the_part_and_not_the_node(tmp_path: Path, base: Vector) -> None:
    full = FullAfterNaming(tmp_path / "blobs")
    yard = Yard(full, sliced=False)
    path = tmp_path / "update"
    base.tofile(path)
    digest = full.add_file(path).digest
    made = yard.parted(AddUp(1, 8, 1, ((digest, 3),), ()))
    assert made.part is None
    assert "no space" in made.error.lower() or "full" in made.error.lower()
    yard.worker.close()
    full.close()
