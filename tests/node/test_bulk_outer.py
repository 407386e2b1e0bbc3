"""Outcomes on real files: the model and what is remembered of it, in one blob, whichever way the mean was reached."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.bulk import MIX_BLOCK_ELEMENTS, BulkWorker
from node.storage import BlobStore
from swarm.machine import AddUp, Digest, Divide, Join, Mix, Mixed, MixSlice, Parted
from swarm.mixing.average import weighted_mean_into
from swarm.mixing.outer import Outer, parse, rows_of
from swarm.routes import cuts
from swarm.vector import Vector, blob_digest, leaf_hashes
from tests.node.test_bulk import Bench, FullAfterNaming
from topologies.world.blobs import BlobStore as Simulated

ELEMENTS = MIX_BLOCK_ELEMENTS + 12_345
"""More than is worked on at a time, and no whole number of leaves: rows begin in the middle of one."""

BUFFERS = ((7, 30), (MIX_BLOCK_ELEMENTS - 3, MIX_BLOCK_ELEMENTS + 3))
WEIGHTS = (3, 1, 5)


class Yard(Bench):
    """A worker with an outer optimiser."""

    def __init__(self, store: BlobStore, outer: Outer, *, elements: int = ELEMENTS, slices: int = 0) -> None:
        super().__init__(store, elements=elements)
        self.worker.close()
        self.cuts = cuts(elements, slices) if slices else ()
        self.worker = BulkWorker(store, elements=elements, bound=1e6, wake=self._wake, outer=outer, cuts=self.cuts)

    def model(self, effect: Mix | Join | Divide) -> Mixed:
        submit = {Mix: self.worker.submit_mix, Join: self.worker.submit_join, Divide: self.worker.submit_divide}
        submit[type(effect)](effect)  # type: ignore[operator]
        event = self.outcome()[-1]
        assert isinstance(event, Mixed)
        return event

    def part(self, effect: AddUp | MixSlice) -> Digest:
        submit = self.worker.submit_slice if isinstance(effect, MixSlice) else self.worker.submit_sum
        submit(effect)  # type: ignore[arg-type]
        event = self.outcome()[-1]
        assert isinstance(event, Parted)
        assert event.part is not None
        return event.part


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


def drawn(outer: Outer, elements: int) -> tuple[Vector, list[Vector]]:
    """Return an outcome to start from, its moments not negative, and updates."""
    rng = np.random.default_rng(elements)
    before = np.abs(rng.standard_normal(elements * (1 + outer.slots))).astype(np.float32)
    return before, [rng.standard_normal(elements).astype(np.float32) for _ in WEIGHTS]


def expected(outer: Outer, before: Vector, updates: list[Vector], rest: int = 0) -> Digest:
    mean, after = np.zeros_like(updates[0]), np.empty_like(before)
    weighted_mean_into(mean, mean, updates, WEIGHTS, rest=rest)
    outer.step(rows_of(after, mean.size), rows_of(before, mean.size), mean)
    return blob_digest(after.nbytes, leaf_hashes(after.data))


@pytest.mark.parametrize("name", ["nesterov", "fedyogi"])
@pytest.mark.parametrize("elements", [1, 5, ELEMENTS])
def test_an_outcome_made_in_blocks_is_that_of_whole_vectors(store: BlobStore, name: str, elements: int) -> None:
    outer = parse(name, BUFFERS if elements == ELEMENTS else ())
    before, updates = drawn(outer, elements)
    yard = Yard(store, outer, elements=elements)
    terms = tuple((yard.blob(update), weight) for update, weight in zip(updates, WEIGHTS, strict=True))
    mixed = yard.model(Mix(1, yard.blob(before), terms, rest=4))
    assert mixed.size == before.nbytes
    assert mixed.model == expected(outer, before, updates, rest=4)
    assert mixed.model is not None
    assert store.hash_file(store.path(mixed.model)).digest == mixed.model
    yard.worker.close()


def test_every_route_ends_with_the_same_outcome(store: BlobStore) -> None:
    outer = parse("fedadam", BUFFERS)
    before, updates = drawn(outer, ELEMENTS)
    yard = Yard(store, outer, slices=3)
    base, (a, b, c) = yard.blob(before), [yard.blob(update) for update in updates]
    total = yard.part(AddUp(1, 8, 1, ((a, 3), (b, 1), (c, 5)), ()))
    parts = []
    for number, (start, end) in enumerate(yard.cuts):
        terms = tuple((yard.blob(u[start:end]), weight) for u, weight in zip(updates, WEIGHTS, strict=True))
        parts.append(yard.part(MixSlice(1, 8, number, end - start, terms)))
    made = {
        yard.model(Mix(1, base, ((a, 3), (b, 1), (c, 5)))).model,
        yard.model(Divide(1, base, total, sum(WEIGHTS))).model,
        yard.model(Join(1, base, tuple(parts))).model,
    }
    assert made == {expected(outer, before, updates)}
    yard.worker.close()


def test_the_simulated_store_ends_with_the_same_bytes(store: BlobStore) -> None:
    outer = parse("fedyogi", ((1, 4),))
    before, updates = drawn(outer, 100)
    yard = Yard(store, outer, elements=100)
    terms = tuple((yard.blob(update), weight) for update, weight in zip(updates, WEIGHTS, strict=True))
    effect = Mix(1, yard.blob(before), terms)
    world = Simulated([before.tobytes(), *(update.tobytes() for update in updates)], outer=outer, elements=100)
    event = world.mix(effect)()[-1]
    assert isinstance(event, Mixed)
    assert event == yard.model(effect)
    yard.worker.close()


def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path: Path) -> None:
    store, outer = FullAfterNaming(tmp_path / "blobs"), parse("nesterov")
    before, updates = drawn(outer, 4)
    digests = []
    for number, vector in enumerate((before, *updates)):
        path = tmp_path / str(number)
        vector.tofile(path)
        digests.append(store.add_file(path).digest)
    yard = Yard(store, outer, elements=4)
    mixed = yard.model(Mix(1, digests[0], tuple(zip(digests[1:], WEIGHTS, strict=True))))
    assert mixed.model is None
    assert "No space left" in mixed.error
    assert not list((tmp_path / "blobs").glob("new-*")), "what could not be written is not left behind"
    yard.worker.close()
    store.close()


def test_a_base_without_what_is_remembered_is_a_sentence(store: BlobStore) -> None:
    outer = parse("fedadam")
    before, updates = drawn(outer, 8)
    yard = Yard(store, outer, elements=8)
    terms = tuple((yard.blob(update), weight) for update, weight in zip(updates, WEIGHTS, strict=True))
    mixed = yard.model(Mix(1, yard.blob(before[:8]), terms))
    assert mixed.model is None
    assert mixed.error
    yard.worker.close()
