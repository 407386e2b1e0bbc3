"""What never leaves a site is there after whatever may happen between two bytes, and nobody else can read it."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pytest

from node.private import KEPT, Own, PrivateFolder, check_folder
from swarm.errors import StoreError


def own(round_: int, value: float = 0.0) -> Own:
    arrays = {
        "private/head.weight": np.full((2, 3), value or float(round_), np.float32),
        "private/norm.num_batches_tracked": np.array(7 * round_),
        "optimizer/0/exp_avg": np.zeros((0, 4), np.float64),
    }
    return Own(round_, arrays, {"optimizer/0/step": round_, "steps/head.weight": 3, "of": "x", "rate": 0.5, "no": None})


def same(one: Own, other: Own) -> bool:
    return (
        (one.round, dict(one.words)) == (other.round, dict(other.words))
        and one.arrays.keys() == other.arrays.keys()
        and all(
            array.dtype == other.arrays[name].dtype
            and array.shape == other.arrays[name].shape
            and array.tobytes() == other.arrays[name].tobytes()
            for name, array in one.arrays.items()
        )
    )


@pytest.fixture(params=["disk", "memory"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> PrivateFolder:
    return PrivateFolder(tmp_path / "private" / "a1b2" if request.param == "disk" else None)


def test_nothing_was_kept_before_the_first_round(folder: PrivateFolder) -> None:
    found = folder.before(1)
    assert (found.round, dict(found.arrays), dict(found.words)) == (0, {}, {})


def test_what_was_kept_comes_back_as_it_was(folder: PrivateFolder) -> None:
    folder.keep(own(1))
    assert same(folder.before(2), own(1))
    assert folder.before(2).under("private").keys() == {"head.weight", "norm.num_batches_tracked"}


def test_a_round_begins_with_what_an_earlier_one_ended_with(folder: PrivateFolder) -> None:
    for number in (1, 2, 3):
        folder.keep(own(number))
    folder.keep(own(3, 30.0))  # trained again
    assert [folder.before(number).round for number in (1, 2, 3, 4, 9)] == [0, 1, 2, 3, 3]
    assert same(folder.before(4), own(3, 30.0))


def test_the_last_few_are_kept(folder: PrivateFolder) -> None:
    for number in range(1, 9):
        folder.keep(own(number))
    assert folder.before(9 - KEPT).round == 0
    assert folder.before(10 - KEPT).round == 9 - KEPT


def test_a_personal_model_is_of_one_model_and_replaced_by_the_next(folder: PrivateFolder) -> None:
    assert folder.personal("m") is None
    folder.keep_personal(Own(3, own(3).arrays, {"of": "m"}))
    assert folder.personal("other") is None
    found = folder.personal("m")
    assert found is not None
    assert same(found, Own(3, own(3).arrays, {"of": "m"}))
    folder.keep_personal(Own(4, {}, {"of": "n"}))
    assert folder.personal("m") is None


def test_only_this_user_can_read_it(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        PrivateFolder(tmp_path / "private" / "x").keep(own(1))
    finally:
        os.umask(before)
    place = tmp_path / "private"
    modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (place, *place.rglob("*"))}
    assert modes == {"private": 0o700, "x": 0o700, "round-0000000001.safetensors": 0o600}


def test_a_folder_that_others_can_look_into_is_refused(tmp_path: Path) -> None:
    check_folder(tmp_path / "absent")
    (tmp_path / "x").mkdir(mode=0o700)
    check_folder(tmp_path / "x")
    (tmp_path / "x").chmod(0o750)
    with pytest.raises(StoreError, match=r"others on this machine can look into it \(mode 750\)") as caught:
        check_folder(tmp_path / "x")
    assert "chmod 700" in caught.value.hint


# --- kill -9 between any two steps of writing ---------------------------------------------------------------------


def test_whatever_is_half_written_does_not_exist(tmp_path: Path) -> None:
    """`write_file_durably` writes beside, syncs, renames: a kill leaves any beginning of the file beside, or nothing."""
    place = tmp_path / "private" / "x"
    PrivateFolder(place).keep(own(1))
    whole = (place / "round-0000000001.safetensors").read_bytes()
    gone = 2**22 + 1  # above every process id
    for length in (0, 1, 8, 100, len(whole) - 1, len(whole)):
        half = place / f".round-0000000002.safetensors.{gone}"
        half.write_bytes(whole[:length])
        folder = PrivateFolder(place)
        assert same(folder.before(3), own(1))
        assert folder.remarks == []
    folder.keep(own(2))
    assert sorted(path.name for path in place.iterdir()) == [f"round-{n:010}.safetensors" for n in (1, 2)]
    mine = place / f".round-0000000003.safetensors.{os.getpid()}"
    mine.touch()
    folder.keep(own(2))
    assert mine.exists()  # Another process of this site may be writing it.


@pytest.mark.parametrize("harm", ["cut", "flipped", "emptied", "garbage", "other"])
def test_a_damaged_file_is_passed_over_for_the_one_before_and_said(tmp_path: Path, harm: str) -> None:
    folder = PrivateFolder(tmp_path / "x" / "y")
    folder.keep(own(1))
    folder.keep(own(2))
    path = tmp_path / "x" / "y" / "round-0000000002.safetensors"
    data = bytearray(path.read_bytes())
    match harm:
        case "cut":
            path.write_bytes(data[:-3])
        case "flipped":
            data[-1] ^= 1
            path.write_bytes(data)
        case "emptied":
            path.write_bytes(b"")
        case "garbage":
            path.write_bytes(b"\xff" * 200)
        case "other":
            from safetensors.numpy import save

            path.write_bytes(save({"a": np.zeros(3)}, metadata={"kept": '{"words": []}'}))
    found = folder.before(3)
    assert same(found, own(1))
    assert len(folder.remarks) == 1
    assert "round-0000000002.safetensors is damaged" in folder.remarks[0]
    assert len({*folder.remarks, *(folder.before(3) and folder.remarks)}) == 1  # said once


def test_a_restored_copy_goes_on_from_its_own_past(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path / "x" / "y")
    folder.keep(own(1))
    shutil.copytree(tmp_path / "x", tmp_path / "backup")
    for number in (2, 3, 4):
        folder.keep(own(number))
    restored = PrivateFolder(tmp_path / "backup" / "y")
    assert same(restored.before(5), own(1))
    restored.keep(own(5))
    assert restored.before(6).round == 5


def test_files_of_other_names_are_nobodys(tmp_path: Path) -> None:
    folder = PrivateFolder(tmp_path / "x" / "y")
    folder.keep(own(1))
    for name in ("round-1.safetensors", "round-0000000009.part", "notes.txt"):
        (tmp_path / "x" / "y" / name).write_text("mine")
    assert folder.before(10).round == 1
