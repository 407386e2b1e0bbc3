"""Models for others: named tensors any library reads, with their origin inside, the same bytes at every site."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.numpy import load_file
from safetensors.torch import load_model
from torch import nn

from node.export import export_model
from node.parts import Parts
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


# --- elsewhere: what docs/guides/use-the-model.md says of these files -------------------------------------------------

PAGE = Path(__file__).parents[2] / "docs" / "guides" / "use-the-model.md"
BLOCKS = dict(re.findall(r"```python title=(\S+)\n(.*?)```", PAGE.read_text(), re.DOTALL))


def written(model: nn.Module, folder: Path) -> Path:
    """Return the file that a node writes of a model."""
    parts = Parts(model)
    parts.read().tofile(folder / "vector")
    export_model(folder / "vector", parts.layout, folder / "model.safetensors", ORIGIN)
    return folder / "model.safetensors"


def odd(dtype: torch.dtype = torch.float32) -> nn.Module:
    """A model with all that a strict load stumbles over: a tied weight, batch normalisation, a flag."""
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Linear(2, 2)).to(dtype)
    model[2].weight = model[0].weight
    model.register_buffer("flag", torch.tensor(True))
    return model


def states_equal(one: nn.Module, other: nn.Module) -> bool:
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_model_loads_elsewhere_in_its_own_type_and_lacks_buffers_of_no_numbers_alone(
    tmp_path: Path, dtype: torch.dtype
) -> None:
    learned, elsewhere = odd(dtype), odd(dtype)
    with torch.no_grad():
        for tensor in learned.parameters():
            tensor.fill_(0.75)  # which all three types have
    missing, unexpected = load_model(elsewhere, written(learned, tmp_path), strict=False)
    assert ({*missing}, {*unexpected}) == ({"flag"}, set())
    assert states_equal(learned, elsewhere)
    assert {tensor.dtype for tensor in elsewhere.parameters()} == {dtype}
    with pytest.raises(RuntimeError, match='Missing key.*"flag", "2.weight"'):
        elsewhere.load_state_dict(
            {name: torch.from_numpy(one) for name, one in load_file(tmp_path / "model.safetensors").items()}
        )


def test_names_of_a_compiled_model_are_mended_as_the_page_says(tmp_path: Path) -> None:
    learned, elsewhere = odd(), odd()
    compiled: Any = torch.compile(learned, backend="eager")
    seen: dict[str, Any] = {"path": written(compiled, tmp_path), "model": elsewhere}
    assert all(name.startswith("_orig_mod.") for name in load_file(seen["path"]))
    exec(compile(BLOCKS["compiled.py"], str(PAGE), "exec"), seen)
    assert sorted(seen["missing"]) == ["2.weight", "flag"]
    assert seen["unexpected"] == []
    assert states_equal(learned, elsewhere)


def test_where_a_file_comes_from_is_read_as_the_page_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(BLOCKS["origin.py"], str(PAGE), "exec"), {"path": written(odd(), tmp_path)})
    assert capsys.readouterr().out == f"{dict(sorted(ORIGIN.items()))}\n"


def test_a_model_of_hugging_face_becomes_a_folder_as_the_page_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    transformers = pytest.importorskip("transformers", reason="needs the extra integrations")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    shape = {"image_size": 4, "patch_size": 2, "num_channels": 1, "num_labels": 3}
    size = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.ViTConfig(**shape, **size)
    learned = transformers.ViTForImageClassification(config)
    seen: dict[str, Any] = {"path": written(learned, tmp_path), "config": config}
    exec(compile(BLOCKS["pretrained.py"], str(PAGE), "exec"), seen)
    assert states_equal(learned, seen["again"])
