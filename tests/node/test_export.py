"""Models for others: named tensors any library reads, with their origin inside, the same bytes at every site."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file

from node.export import export_model
from swarm.errors import StoreError, UsageError
from swarm.vector import Layout, TensorSpec

LAYOUT = Layout((TensorSpec("bias", (2,)), TensorSpec("scale", (1,)), TensorSpec("weight", (2, 3))))
ORIGIN = {"swarm": "oncology", "round": "20", "ledger": "ab" * 32}


@pytest.fixture
def vector(tmp_path: Path) -> Path:
    """Nine numbers, 0 to 8, as a model lies in the store."""
    path = tmp_path / "blob"
    np.arange(9, dtype="<f4").tofile(path)
    return path


def exported(vector: Path, target: Path, origin: dict[str, str] | None = None) -> Path:
    export_model(vector, LAYOUT, target, ORIGIN if origin is None else origin)
    return target


def test_the_parameters_come_out_under_their_names_in_their_shapes(vector: Path, tmp_path: Path) -> None:
    tensors = load_file(exported(vector, tmp_path / "model.safetensors"))
    assert {name: values.tolist() for name, values in tensors.items()} == {
        "bias": [0.0, 1.0],
        "scale": [2.0],
        "weight": [[3.0, 4.0, 5.0], [6.0, 7.0, 8.0]],
    }
    assert {str(values.dtype) for values in tensors.values()} == {"float32"}


def test_a_single_number_stays_one_and_does_not_become_a_list(vector: Path, tmp_path: Path) -> None:
    layout = Layout((TensorSpec("scale", ()), TensorSpec("weight", (2, 4))))
    export_model(vector, layout, tmp_path / "model.safetensors", ORIGIN)
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: values.shape for name, values in tensors.items()} == {"scale": (), "weight": (2, 4)}
    assert float(tensors["scale"]) == 0.0


def test_where_the_model_comes_from_is_written_inside(vector: Path, tmp_path: Path) -> None:
    with safe_open(exported(vector, tmp_path / "model.safetensors"), "np") as file:
        assert json.loads(file.metadata()["origin"]) == ORIGIN
        assert set(file.metadata()) == {"origin"}


def test_every_site_writes_the_same_bytes(vector: Path, tmp_path: Path) -> None:
    files = [
        exported(vector, tmp_path / f"{index}.safetensors", origin).read_bytes()
        for index, origin in enumerate((ORIGIN, dict(reversed(ORIGIN.items()))))
    ]
    assert files[0] == files[1]
    assert exported(vector, tmp_path / "0.safetensors", {**ORIGIN, "round": "19"}).read_bytes() != files[0]


def test_the_folder_is_made_and_an_older_model_replaced_leaving_nothing_beside(vector: Path, tmp_path: Path) -> None:
    target = tmp_path / "models" / "round-0020.safetensors"
    for _ in range(2):
        exported(vector, target)
    assert [path.name for path in target.parent.iterdir()] == [target.name]
    target.write_bytes(b"an older model")
    assert load_file(exported(vector, target))["scale"].tolist() == [2.0]


def test_a_model_of_another_size_is_not_exported(vector: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.write_bytes(b"the model of yesterday")
    with vector.open("ab") as file:
        file.write(b"\0\0\0\0")
    with pytest.raises(UsageError, match="couldn't unfold a vector of 10 elements: the layout has 9"):
        exported(vector, target)
    assert target.read_bytes() == b"the model of yesterday"


def test_a_target_that_cannot_be_written_is_refused_in_words(vector: Path, tmp_path: Path) -> None:
    target = tmp_path / "model.safetensors"
    target.mkdir()
    with pytest.raises(StoreError, match=r"couldn't write .*model\.safetensors: Is a directory"):
        exported(vector, target)
    assert target.is_dir()
    assert {path.name for path in tmp_path.iterdir()} == {"blob", target.name}, "nothing is left beside"


@pytest.mark.parametrize("target", ["blob/model.safetensors", "x" * 300])
def test_a_folder_that_cannot_be_made_is_refused_in_words(vector: Path, tmp_path: Path, target: str) -> None:
    with pytest.raises(StoreError, match="couldn't write "):
        exported(vector, tmp_path / target)


def test_a_model_that_cannot_be_read_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"couldn't read the model in .*nowhere: No such file"):
        exported(tmp_path / "nowhere", tmp_path / "model.safetensors")
    assert not (tmp_path / "model.safetensors").exists()
