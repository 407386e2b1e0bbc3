"""What a site makes of its training where updates are salted: another name each time, and the mean that was there before."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from node.bulk import BulkWorker
from node.coalitions import coalition_from, terms_text
from node.messages import Messages
from node.storage import BlobStore
from swarm.machine import AddUp, Inspect, Inspected, Mix, Mixed, Parted, Stored, Trained
from swarm.mixing.compress.forms import encoded_bytes, parse
from swarm.salt import SALT_BYTES
from swarm.vector import LEAF_BYTES, Vector, blob_digest, leaf_hashes
from tests.node.test_bulk import Bench, digest_of

ELEMENTS = 9
UPDATE: Vector = np.arange(ELEMENTS, dtype="<f4") / 7


class Press(Bench):
    """A worker of a swarm with a salt, or without."""

    def __init__(self, folder: Path, *, codec: str = "", salt: int = SALT_BYTES, elements: int = ELEMENTS) -> None:
        super().__init__(BlobStore(folder), elements=elements, bound=1000.0)
        self.worker.close()
        self.worker = BulkWorker(
            self.store,
            elements=elements,
            bound=1000.0,
            wake=self._wake,
            codec=parse(codec) if codec else None,
            salt=salt,
        )

    def trained(self, update: Vector) -> Stored:
        self.worker.submit_update(Trained(1, None, samples=5), self.file(update))
        stored, event = self.outcome()
        assert isinstance(stored, Stored)
        assert isinstance(event, Trained)
        assert (event.update, event.size) == (stored.digest, stored.size)
        return stored

    def mean(self, updates: list[Stored]) -> bytes:
        base = self.blob(np.ones(ELEMENTS, "<f4"))
        self.worker.submit_mix(Mix(1, base, tuple((one.digest, 3 + i) for i, one in enumerate(updates))))
        *_, event = self.outcome()
        assert isinstance(event, Mixed)
        assert event.model is not None, event.error
        return self.store.path(event.model).read_bytes()

    def close(self) -> None:
        self.worker.close()
        self.store.close()


@pytest.mark.parametrize("codec", ["", "int8"])
def test_two_equal_updates_have_two_names_and_neither_is_that_of_the_update_alone(tmp_path: Path, codec: str) -> None:
    press, plain = Press(tmp_path / "salted", codec=codec), Press(tmp_path / "plain", codec=codec, salt=0)
    first, second = (press.trained(UPDATE) for _ in range(2))
    (bare,) = (plain.trained(UPDATE),)
    assert len({first.digest, second.digest, bare.digest, digest_of(UPDATE)}) == (4 if codec else 3)
    assert first.size == second.size == bare.size + 32
    data = press.store.path(first.digest).read_bytes()
    assert first.digest == blob_digest(len(data), leaf_hashes(data))
    assert data[:-32] == plain.store.path(bare.digest).read_bytes()
    press.close()
    plain.close()


def test_the_salt_of_an_update_may_lie_in_two_leaves(tmp_path: Path) -> None:
    update = np.zeros(LEAF_BYTES // 4 - 4, "<f4")
    press = Press(tmp_path, elements=update.size)
    stored = press.trained(update)
    assert len(stored.leaves) == 2
    press.worker.submit_inspect(Inspect(stored.digest, stored.size))
    assert press.outcome() == [Inspected(stored.digest)]
    press.close()


@pytest.mark.parametrize("codec", ["", "bf16", "int8", "sign"])
@settings(max_examples=8, deadline=None)
@given(values=st.lists(st.lists(st.floats(-9, 9, width=32), min_size=9, max_size=9), min_size=2, max_size=3))
def test_the_mean_of_salted_updates_is_that_of_plain_ones(
    tmp_path_factory: pytest.TempPathFactory, codec: str, values: list[list[float]]
) -> None:
    folder = tmp_path_factory.mktemp("means")
    means = set()
    for salt in (0, SALT_BYTES):
        press = Press(folder / str(salt), codec=codec, salt=salt)
        means.add(press.mean([press.trained(np.array(one, "<f4")) for one in values]))
        press.close()
    assert len(means) == 1


def test_a_sum_of_salted_updates_is_that_of_plain_ones(tmp_path: Path) -> None:
    parts = set()
    for salt in (0, SALT_BYTES):
        press = Press(tmp_path / str(salt), salt=salt)
        updates = tuple((press.trained(UPDATE * (i + 1)).digest, 2) for i in range(2))
        press.worker.submit_sum(AddUp(1, 1, 1, updates, ()))
        *_, event = press.outcome()
        assert isinstance(event, Parted)
        parts.add(event.part)
        press.close()
    assert len(parts) == 1
    assert None not in parts


@pytest.mark.parametrize("codec", ["", "int8"])
@pytest.mark.parametrize("size", [0, 31, 32, 33, 4 * ELEMENTS, 4 * ELEMENTS + 31, 4 * ELEMENTS + 36])
def test_a_blob_of_another_size_is_no_update_and_is_said_to_be_none(tmp_path: Path, codec: str, size: int) -> None:
    press = Press(tmp_path, codec=codec)
    path = press.store.new_file()
    path.write_bytes(bytes(size))
    stored = press.store.add_file(path)
    press.worker.submit_inspect(Inspect(stored.digest, stored.size))
    (event,) = press.outcome()
    assert isinstance(event, Inspected)
    assert event.problem
    press.close()


@pytest.mark.parametrize("codec", ["", "int8"])
def test_a_coalition_of_salted_updates_is_that_of_plain_ones(tmp_path: Path, codec: str) -> None:
    made = []
    (tmp_path / "model").write_bytes(np.ones(ELEMENTS, "<f4").tobytes())
    for salt in (0, SALT_BYTES):
        press = Press(tmp_path / str(salt), codec=codec, salt=salt)
        updates = [(press.store.path(press.trained(UPDATE).digest), 4)]
        terms = terms_text(updates)
        model = coalition_from(tmp_path / "model", terms, elements=ELEMENTS, coded=bool(codec), salt=salt)
        made.append(model.tobytes())
        press.close()
    assert made[0] == made[1]


def test_what_a_codec_leaves_out_is_kept_under_the_salted_name(tmp_path: Path) -> None:
    store = BlobStore(tmp_path)
    messages = Messages(store, parse("sign"), elements=ELEMENTS, bound=1000.0, salt=SALT_BYTES)
    path = store.new_file()
    stored = messages.write_update(UPDATE, path)
    assert stored.size == encoded_bytes(parse("sign"), ELEMENTS) + 32
    messages.counted(stored.digest)
    assert (tmp_path / "owed" / "owed").is_file()
    store.close()


def test_a_disk_without_room_for_the_salt_fails_the_training_in_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    press = Press(tmp_path)
    press.store.spare = 1 << 62
    press.worker.submit_update(Trained(1, None, samples=5), press.file(UPDATE))
    (event,) = press.outcome()
    assert isinstance(event, Trained)
    assert event.update is None
    assert "could not be stored" in event.error
    assert not [*tmp_path.glob("new-*")]
    press.close()
