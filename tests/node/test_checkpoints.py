"""Models of rounds on the way: the last few, and every so many-th, while the store that peers fetch from is not touched."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from node.checkpoints import Checkpoints
from node.storage import BlobStore
from swarm.machine import Digest, Stored
from swarm.vector import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("weight", (2, 2)),))


class Bench:
    """A store, and the keeping of checkpoints, whose work is done at once."""

    def __init__(self, folder: Path, *, last: int, every: int) -> None:
        self.folder = folder / "models" / "checkpoints"
        self.store = BlobStore(folder / "blobs")
        self.layout = folder / "layout"
        self.layout.write_bytes(LAYOUT.encode())
        self.kept = Checkpoints(
            self.folder,
            self.store,
            self.layout,
            last=last,
            every=every,
            origin=lambda round_, model: {"round": str(round_), "model": model.hex()},
            later=lambda work: work(),
        )

    def model(self, round_: int) -> Digest:
        path = self.store.new_file()
        np.full(4, round_, "<f4").tofile(path)
        stored: Stored = self.store.add_file(path)
        return stored.digest

    def commit(self, round_: int) -> Digest:
        model = self.model(round_)
        self.kept.committed(round_, model)
        return model

    def rounds(self) -> list[int]:
        return sorted(int(path.stem.removeprefix("round-")) for path in self.folder.glob("*.safetensors"))


@pytest.mark.parametrize(
    ("last", "every", "left"),
    [
        (0, 0, []),
        (2, 0, [11, 12]),
        (0, 5, [5, 10]),
        (2, 5, [5, 10, 11, 12]),
        (1, 4, [4, 8, 12]),
        (99, 0, [*range(1, 13)]),
    ],
)
def test_the_last_ones_and_every_so_many_th_are_kept(tmp_path: Path, last: int, every: int, left: list[int]) -> None:
    bench = Bench(tmp_path, last=last, every=every)
    for round_ in range(1, 13):
        bench.commit(round_)
    assert bench.rounds() == left
    assert (
        [int(report.values["round"]) for report in bench.kept.reports()][-1:] == [left[-1]][: len(left)]
        if left
        else True
    )
    assert len(list((tmp_path / "blobs").iterdir())) == 24, "of the store nothing is let go, and nothing left in it"


def test_a_file_says_which_round_and_model_it_is(tmp_path: Path) -> None:
    bench = Bench(tmp_path, last=1, every=0)
    model = bench.commit(3)
    with safe_open(bench.folder / "round-0003.safetensors", framework="np") as file:
        assert json.loads(file.metadata()["origin"]) == {"round": "3", "model": model.hex()}
        assert file.get_tensor("weight").tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_what_the_node_did_not_write_is_not_touched(tmp_path: Path) -> None:
    bench = Bench(tmp_path, last=1, every=0)
    bench.folder.mkdir(parents=True)
    for name in ("round-0001.safetensors.bak", "round-1.safetensors", "best.safetensors", "round-00x1.safetensors"):
        (bench.folder / name).touch()
    final = tmp_path / "models" / "round-0001.safetensors"
    final.touch()
    bench.commit(1)
    bench.commit(2)
    assert final.exists()
    assert len(list(bench.folder.iterdir())) == 5


def test_bytes_that_the_store_forgets_before_they_are_written_are_written_all_the_same(tmp_path: Path) -> None:
    bench = Bench(tmp_path, last=1, every=0)
    waiting = []
    bench.kept._later = waiting.append
    model = bench.commit(1)
    bench.store.forget([model])
    waiting[0]()
    assert bench.rounds() == [1]


def test_one_that_cannot_be_written_is_told_and_nothing_else_happens(tmp_path: Path) -> None:
    bench = Bench(tmp_path, last=1, every=0)
    bench.kept.committed(1, Digest(bytes(32)))
    bench.layout.unlink()
    bench.commit(2)
    (tmp_path / "models").write_text("a file")
    bench.layout.write_bytes(LAYOUT.encode())
    bench.commit(3)
    told = bench.kept.reports()
    assert [report.event for report in told] == ["checkpoint_failed"] * 3
    assert not list((tmp_path / "blobs").glob("new-*"))


def test_where_room_is_the_ledgers_none_is_written(tmp_path: Path) -> None:
    bench = Bench(tmp_path, last=1, every=0)
    bench.store.spare = 1
    bench.kept.committed(1, Digest(bytes(32)))
    assert bench.kept.reports() == []
