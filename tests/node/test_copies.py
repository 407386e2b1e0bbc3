"""Public copies on a real disk: how a site's own moves, how it follows another's, and what is left after a kill."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node.bulk import BulkWorker
from node.copies import Copies
from node.storage import BlobStore
from swarm.errors import Reject
from swarm.machine import Blend, Digest, Follow, Inspected, Mixed, Stored, Trained
from swarm.mixing.compress.choco import Public, propose
from swarm.mixing.compress.forms import encode, parse
from swarm.routes import slices_digest
from swarm.vector import Vector
from tests.node.test_bulk import Bench

ELEMENTS = 300_000
"""More than a leaf of a blob has room for: copies are written leaf by leaf."""

RNG = np.random.default_rng(3)
FIRST, SECOND, THIRD, STEP = (RNG.standard_normal(ELEMENTS).astype(np.float32) for _ in range(4))
INT4 = parse("int4")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[BlobStore]:
    made = BlobStore(tmp_path / "blobs")
    yield made
    made.close()


def put(store: BlobStore, vector: Vector | bytes) -> Digest:
    path = store.new_file()
    path.write_bytes(vector if isinstance(vector, bytes) else vector.tobytes())
    return store.add_file(path).digest


def moved(copies: Copies, store: BlobStore, model: Vector, before: Digest) -> tuple[Stored, Stored]:
    path = store.new_file()
    path.write_bytes(model.tobytes())
    found = copies.move(path, before)
    assert found is not None
    for file, stored in found.files:
        store.adopt(file, stored)
    return found.message[1], found.copy[1]


def test_a_message_leads_from_one_copy_to_the_next_at_both_ends(store: BlobStore, tmp_path: Path) -> None:
    copies = Copies(store, INT4, elements=ELEMENTS)
    before = put(store, FIRST)
    message, after = moved(copies, store, SECOND, before)
    expected, said = propose(Public(0, FIRST), SECOND, INT4)
    assert store.path(message.digest).read_bytes() == said
    assert np.array_equal(store.open_vector(after.digest), expected.copy)
    there = BlobStore(tmp_path / "there")
    followed = Copies(there, INT4, elements=ELEMENTS).follow(put(there, FIRST), put(there, said), after.digest)
    assert followed is not None
    assert np.array_equal(np.fromfile(followed[0], "<f4"), expected.copy), "the same bytes"
    there.close()


def test_a_copy_that_a_message_does_not_lead_to_leaves_nothing(store: BlobStore) -> None:
    copies = Copies(store, INT4, elements=ELEMENTS)
    before, message = put(store, FIRST), put(store, propose(Public(0, FIRST), SECOND, INT4)[1])
    files = {*store.path(before).parent.glob("new-*")}
    assert copies.follow(before, message, before) is None
    assert {*store.path(before).parent.glob("new-*")} == files
    with pytest.raises(Reject, match="it came as int8, agreed was int4"):
        copies.follow(before, put(store, encode(SECOND, parse("int8"))), before)


def test_its_own_models_outlive_the_process(store: BlobStore) -> None:
    copies = Copies(store, INT4, elements=ELEMENTS)
    _, one = moved(copies, store, SECOND, put(store, FIRST))
    _, two = moved(copies, store, THIRD, one.digest)
    again = Copies(store, INT4, elements=ELEMENTS)
    for copy, model in ((one, SECOND), (two, THIRD)):
        own = again.own(copy.digest)
        assert own is not None
        assert np.array_equal(own, model)
    moved(again, store, THIRD, one.digest)  # the same once more, as after a crash: it takes no other's place
    assert again.own(one.digest) is not None
    moved(again, store, FIRST, two.digest)
    assert again.own(one.digest) is None, "two are kept"
    assert again.own(two.digest) is not None


def test_its_own_model_is_synced_before_its_message_is_heard_of(
    store: BlobStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (synced.append(Path(f"/proc/self/fd/{fd}").readlink().name), real(fd)))
    copies = Copies(store, INT4, elements=ELEMENTS)
    moved(copies, store, SECOND, put(store, FIRST))
    assert synced[-2].startswith("new-"), "the file"
    assert synced[-1] == "copies", "then its name"


def test_a_copy_of_another_length_is_no_copy(store: BlobStore) -> None:
    path = store.new_file()
    path.write_bytes(SECOND.tobytes())
    assert Copies(store, INT4, elements=ELEMENTS).move(path, put(store, FIRST[:-1])) is None
    assert path.exists(), "the model goes whole"


# --- the worker -----------------------------------------------------------------------------------------------------


class Press(Bench):
    """A worker that follows copies."""

    def __init__(self, store: BlobStore) -> None:
        super().__init__(store, elements=ELEMENTS, bound=1000.0)
        self.worker.close()
        self.worker = BulkWorker(store, elements=ELEMENTS, bound=1000.0, wake=self._wake, codec=INT4, follows=True)

    def trained(self, base: Digest, copy: Digest | None) -> Trained:
        self.worker.submit_update(Trained(2, None, samples=5), self.file(STEP), base, copy=copy)
        *_, event = self.outcome()
        assert isinstance(event, Trained)
        return event

    def followed(self, before: Digest, message: Digest, after: Digest) -> tuple[bool, str]:
        """Whether the copy is in the store, and the problem."""
        self.worker.submit_follow(Follow(before, message, after))
        events = self.outcome()
        event = events[-1]
        assert isinstance(event, Inspected)
        assert event.digest == after
        return isinstance(events[0], Stored), event.problem


@pytest.fixture
def press(store: BlobStore) -> Iterator[Press]:
    made = Press(store)
    yield made
    made.worker.close()


def test_training_is_answered_by_how_the_copy_moves(press: Press) -> None:
    base, copy = press.blob(FIRST), press.blob(SECOND)
    event = press.trained(base, copy)
    message, before, after = event.slices
    assert before == (copy, 4 * ELEMENTS)
    assert (event.update, event.size) == (slices_digest(event.slices), message[1] + 8 * ELEMENTS)
    expected, said = propose(Public(0, SECOND), FIRST + STEP, INT4)
    assert press.store.path(Digest(message[0])).read_bytes() == said
    assert np.array_equal(press.store.open_vector(Digest(after[0])), expected.copy)
    assert press.trained(base, copy) == event, "and again, as after a crash"


def test_without_a_copy_the_model_goes_whole(press: Press) -> None:
    event = press.trained(press.blob(FIRST), None)
    assert event.slices == ()
    assert event.update is not None
    assert np.array_equal(press.store.open_vector(event.update), FIRST + STEP)


def test_following_is_answered_by_whether_the_copy_may_be_blended(press: Press) -> None:
    before = press.blob(FIRST)
    expected, said = propose(Public(0, FIRST), SECOND, INT4)
    message = put(press.store, said)
    after = put(press.store, expected.copy)
    press.store.forget([after])
    assert press.followed(before, message, after) == (True, "")
    stored, problem = press.followed(before, message, before)
    assert not stored
    assert problem == "its message does not lead to the public copy that its author names"
    assert not press.followed(before, after, before)[0], "what is no message is refused in words"
    assert press.followed(Digest(bytes(32)), message, after)[1].startswith("couldn't open blob 0000")


def test_a_blend_goes_on_from_the_model_itself(press: Press) -> None:
    """x + a (x_hat_j - x_hat_i): the own share in the terms is for the copy, and what rounding took stays."""
    event = press.trained(press.blob(FIRST), press.blob(SECOND))
    mine, theirs = Digest(event.slices[-1][0]), press.blob(THIRD)
    press.worker.submit_blend(Blend(2, ((mine, 0.7), (theirs, 0.3)), 7))
    *_, mixed = press.outcome()
    assert isinstance(mixed, Mixed)
    assert mixed.model is not None
    copy = np.array(press.store.open_vector(mine))
    expected = (FIRST + STEP) + 0.3 * (THIRD - copy)
    assert np.allclose(press.store.open_vector(mixed.model), expected, atol=1e-5)
