"""Extras come into an environment without touching its torch, and CI runs what needs them."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bootstrap() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bootstrap", ROOT / "scripts" / "bootstrap.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_extras_are_held_to_the_pinned_torch_and_bring_no_cuda(bootstrap: ModuleType) -> None:
    told = bootstrap.extras_arguments(["integrations", "onnx"], "cpu")
    assert told[:2] == ["-c", str(ROOT / "requirements" / "cpu.txt")]
    assert re.search(r"^torch==\d+\.\d+\.\d+$", (ROOT / "requirements" / "cpu.txt").read_text(), re.MULTILINE)
    packages = [re.split("[<>=!]", one)[0] for one in told[2:]]
    assert packages == ["accelerate", "lightning", "onnx", "onnxscript", "transformers", "xgboost-cpu"]
    assert "xgboost>=2.1" in bootstrap.extras_arguments(["integrations"], "cuda")


def test_what_cannot_be_added_is_refused_in_words(
    bootstrap: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    python = tmp_path / "python"
    assert bootstrap.add_extras(python, [], ["onnx"], "cpu") == 1
    python.touch()
    assert bootstrap.add_extras(python, [], ["onyx"], "cpu") == 1
    said = capsys.readouterr().err
    assert "there is no" in said.splitlines()[0]
    assert "'onyx': there is no such extra" in said


def test_ci_runs_what_needs_an_extra() -> None:
    """But Ray and Parquet, whose size is a reason."""
    makefile = (ROOT / "Makefile").read_text()
    targets = dict(re.findall(r"^(test-(?!long:)[a-z]+):.*\n((?:\t.*\n)+)", makefile, re.MULTILINE))
    extras = ("containers", "homomorphic", "integrations", "onnx", "package", "page", "ray", "telemetry", "trackers")
    assert {*targets} == {f"test-{extra}" for extra in extras}
    assert all("scripts/bootstrap.py --venv $(VENV) --extras " in body for body in targets.values())
    run = (ROOT / ".ci" / "run").read_text()
    assert all(name in run for name in (*targets, "test-long") if name != "test-ray")
    assert re.search(r"^docs: .*\n\t.*--extras docs\n\t.*mkdocs build --strict --clean$", makefile, re.MULTILINE)
    assert re.search(r"^make .*\bdocs\b", run, re.MULTILINE)
