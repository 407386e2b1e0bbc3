"""The example scripts for tables learn on real credits: each at one bank in this process, one in a swarm of real nodes."""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import node.examples
import swarm
from node.cli.ledger.reading import verify_quietly
from node.data import SiteData
from node.local import found
from node.loop.form import is_script

EXAMPLES = Path(node.examples.__file__).parent
ROOT = EXAMPLES.parents[1]
CREDIT = ROOT.parent / "shared" / "data" / "default_credit" / "default_credit_homo.npz"

pytestmark = pytest.mark.skipif(not CREDIT.is_file(), reason=f"needs {CREDIT.name} in ../shared/data/default_credit")


def bank(name: str, file: Path, rows: int = 1000) -> Path:
    """Write a site's data as the examples read them: so many of a bank's customers, and 2,000 others to test on."""
    data = np.load(CREDIT)
    test = {key: data[key][:2000] for key in ("x_test", "y_test")}
    np.savez(file, x=data[f"x_{name}"][:rows], y=data[f"y_{name}"][:rows], **test)
    return file


class Alone:
    """A swarm of one: what is sent is the next round's model."""

    def __init__(self, model: object, data: Path, rounds: int) -> None:
        self._model, self._left, self.data, self.index, self.sites = model, rounds, data, 0, 1

    @property
    def running(self) -> bool:
        return self._left > 0

    def receive(self) -> object:
        self._left -= 1
        return self._model

    def send(self, *_: object, **results: object) -> bool:
        assert results["samples"] == 1000
        return True

    def evaluate(self, function: object) -> object:
        return function


@pytest.mark.parametrize(
    ("name", "rounds", "least", "most"),
    [
        ("credit_trees.py", 1 + 3 * 5, 0.72, 1.0),
        ("credit_linear.py", 3, 0.65, 1.0),
        ("credit_forest.py", 1, 0.72, 1.0),
        ("credit_groups.py", 4, 0.0, 1.5),
    ],
)
def test_an_example_learns(
    name: str,
    rounds: int,
    least: float,
    most: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data = bank("guest", tmp_path / "data.npz")
    monkeypatch.setattr(swarm, "join", lambda _, model: Alone(model, data, rounds), raising=False)
    monkeypatch.setattr(sys, "argv", [name, str(tmp_path)])
    assert is_script(EXAMPLES / name)
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert least < float(capsys.readouterr().out.split()[-1]) < most


@pytest.mark.real
@pytest.mark.timeout(300)
def test_two_banks_grow_the_same_trees_in_a_real_swarm(tmp_path: Path) -> None:
    """Four trees of fifty: both banks hold the same ones, so they print the same score for the same customers."""
    data = [
        SiteData(name.replace("_", "-"), bank(name, tmp_path / f"{name}.npz"), 1000, 0, 2000)
        for name in ("guest", "host_1")
    ]
    rounds = 1 + 3 * 4
    peers = found(tmp_path, data, EXAMPLES / "credit_trees.py", rounds=rounds, metrics=("auc",), seed=1, patience_s=60)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "task.py", "."],
            cwd=peer.site.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for peer in peers
    ]
    printed = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(printed)
    scores = [float(re.findall(r"^AUC (\S+)$", text, re.MULTILINE)[0]) for text in printed]
    assert scores[0] == scores[1] > 0.74
    audit = verify_quietly(peers[0].site.folder)
    assert audit.state.committed.round == rounds
