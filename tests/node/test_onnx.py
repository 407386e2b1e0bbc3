"""A model as ONNX says what PyTorch says, of any number of cases, and holds nothing of a patient or a machine."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.export import NEEDS, check_available
from node.onnx import export_onnx
from swarm.errors import UsageError
from tests.node.workers import Bench, benches

TASK = """\
import torch
from torch import nn

fine_tune = 1


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4))

    def forward(self, image, age):
        return self.body(image) + age


def build_model():
    return Net()


def load_data(site):
    drawn = torch.Generator().manual_seed(site.seed)
    return torch.randn(20, 1, 6, 6, generator=drawn), torch.full((20, 1), 54.321)


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(*data).square().mean().backward()
    optimizer.step()
    return {"samples": 20}


def evaluate(model, data, run):
    return {"samples": 20, "loss": model(*data).square().mean()}
"""


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def available() -> bool:
    return all(importlib.util.find_spec(name) for name in NEEDS)


needs_onnx = pytest.mark.skipif(not available(), reason="needs onnx and onnxscript: make test-onnx")


def exported(bench: Bench, which: str = "swarm") -> tuple[Path, list[str]]:
    target = bench.folder / "model.onnx"
    asked = {"do": "export", "round": 1, "model": str(bench.model), "which": which, "form": "onnx"}
    answer = bench.told(**asked, target=str(target), origin='{"swarm": "one"}')  # type: ignore[arg-type]
    return target, list(answer["remarks"])  # type: ignore[call-overload]


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_it_says_what_pytorch_says_of_any_number_of_cases(made: list[Bench], tmp_path: Path) -> None:
    import onnx
    from onnx.reference import ReferenceEvaluator

    bench = Bench(tmp_path, TASK)
    made.append(bench)
    bench.describe()
    bench.put(bench.vector() + bench.train(1))
    target, remarks = exported(bench)
    assert len(remarks) == 1
    assert "was tried on held-out cases" in remarks[0]
    assert float(remarks[0].split("at most ")[1].split()[0]) < 1e-5
    proto = onnx.load(target)
    onnx.checker.check_model(proto)
    assert [value.name for value in proto.graph.input] == ["image", "age"]
    session = ReferenceEvaluator(proto)
    model = bench.worker._built().model.eval()
    for cases in (1, 3, 7):
        image, age = torch.randn(cases, 1, 6, 6), torch.rand(cases, 1)
        with torch.no_grad():
            expected = model(image, age).numpy()
        (found,) = session.run(None, {"image": image.numpy(), "age": age.numpy()})
        np.testing.assert_allclose(found, expected, atol=1e-5)


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_no_value_of_a_patient_and_no_path_of_this_machine_is_in_it(made: list[Bench], tmp_path: Path) -> None:
    import onnx

    bench = Bench(tmp_path, TASK)
    made.append(bench)
    bench.describe()
    target, _ = exported(bench)
    data = target.read_bytes()
    image, age = bench.worker._get_data()  # type: ignore[misc]
    assert age.numpy()[:1].tobytes() not in data
    assert not any(value.tobytes() in data for value in image.numpy().reshape(-1))
    assert b".py" not in data, "neither the task's path nor that of the library"
    assert tmp_path.name.encode() not in data
    props = {one.key: json.loads(one.value) for one in onnx.load(target).metadata_props}
    assert props == {"origin": {"swarm": "one"}}
    kept = {one.name for one in onnx.load(target).graph.initializer}
    assert {"body.0.weight", "body.4.weight"} <= kept & {*bench.worker._built().every}


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_a_personal_model_is_for_this_site_alone(made: list[Bench], tmp_path: Path) -> None:
    bench = Bench(tmp_path, TASK)
    made.append(bench)
    bench.describe()
    common, _ = exported(bench)
    assert common.stat().st_mode & 0o044 == 0o044 & ~_umask()
    shared = common.read_bytes()
    personal, _ = exported(bench, "personal")
    assert personal.stat().st_mode & 0o777 == 0o600
    assert personal.read_bytes() != shared


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_a_model_without_a_graph_is_refused_in_a_sentence(tmp_path: Path) -> None:
    class Deciding(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) if float(x.sum()) > 0 else x

    model, x = Deciding(3, 3), torch.ones(4, 3)
    target = tmp_path / "model.onnx"
    with pytest.raises(UsageError, match="couldn't export as ONNX: the model cannot be traced: ") as caught:
        export_onnx(model, lambda: model(x), target, {})
    assert len(str(caught.value)) < 600
    assert "\n" not in caught.value.message
    assert not target.exists()


@needs_onnx
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("calls", "words"), [("nothing", "evaluate() does not call the model"), ("named", "something else")]
)
def test_what_goes_in_has_to_be_seen(tmp_path: Path, calls: str, words: str) -> None:
    model, x = nn.Linear(3, 1), torch.ones(4, 3)
    with pytest.raises(UsageError) as caught:
        export_onnx(model, lambda: model(input=x) if calls == "named" else None, tmp_path / "model.onnx", {})
    assert words in caught.value.message


@needs_onnx
@pytest.mark.filterwarnings("ignore")
def test_a_model_of_one_size_of_batch_says_so(tmp_path: Path) -> None:
    class Fixed(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.reshape(2, 3))

    model = Fixed(3, 1).eval()
    written = export_onnx(model, lambda: model(torch.ones(2, 3)), tmp_path / "model.onnx", {})
    assert written.fixed
    assert "it takes batches of one size only" in written.sentence


def test_without_the_extra_it_says_which(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(UsageError, match="couldn't export as ONNX: onnxscript is not installed") as caught:
        check_available()
    assert caught.value.hint == "pip install 'swarm-node[onnx]'"


def _umask() -> int:
    import os

    now = os.umask(0)
    os.umask(now)
    return now
