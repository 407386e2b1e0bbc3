"""The example scripts learn on real data as two real sites, with the real libraries, founded as the guide has it.

The data are those of docs/guides/from-your-script.md, made by the page's own scripts, of which a small cut is used.
"""

from __future__ import annotations

import importlib.util
import os
import re
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.cli.main import cli
from node.local import free_ports

EXAMPLES = Path(node.examples.__file__).parent
ROOT = EXAMPLES.parents[1]
GUIDE = ROOT / "docs" / "guides" / "from-your-script.md"

pytestmark = [pytest.mark.real, pytest.mark.timeout(500), pytest.mark.filterwarnings("ignore")]


def swarm(*arguments: object) -> None:
    result = CliRunner().invoke(cli, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output


def data(folder: Path, script: str, name: str, rows: int) -> list[Path]:
    """Run the page's script that makes the data of two sites, and return a cut of each: its last `rows`."""
    (text,) = re.findall(rf"```python title={re.escape(script)}\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    (folder / script).write_text(text)
    runpy.run_path(str(folder / script))
    files = [folder / f"{name}-{site}.npz" for site in "ab"]
    for file in files:
        with np.load(file) as whole:
            cut = {key: whole[key][-rows:] for key in ("x", "y")}
        np.savez(file, **cut)
    return files


@pytest.mark.parametrize(
    ("example", "needs", "made_by", "file", "rows", "rounds", "least"),
    [
        ("lightning_breast_cancer.py", "lightning", "patients.py", "hospital", 200, 3, 0.9),
        ("huggingface_digits.py", "transformers", "digits.py", "digits", 420, 3, 0.3),  # one guess in ten is right
        ("xgboost_breast_cancer.py", "xgboost", "patients.py", "hospital", 200, 2, 0.9),
    ],
)
def test_two_real_sites_learn_by_an_example(
    example: str,
    needs: str,
    made_by: str,
    file: str,
    rows: int,
    rounds: int,
    least: float,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They end with the same model, and it is better than an untrained one: an AUC of 0.5, a tenth of the digits."""
    if importlib.util.find_spec(needs) is None:
        pytest.skip(f"needs {needs}: make test-integrations")
    monkeypatch.chdir(tmp_path)
    shutil.copy(EXAMPLES / example, "train.py")
    for site, path, port in zip("ab", data(tmp_path, made_by, file, rows), free_ports(2), strict=True):
        swarm("init", site, "--name", f"site-{site}", "--advertise", f"tcp://127.0.0.1:{port}",
              "--task", "../train.py", "--data", f"../{path.name}")  # fmt: skip
    cards = ("--card", "a/card.toml", "--card", "b/card.toml")
    swarm("charter", "new", "--name", "pair", "--task", "train.py", "--rounds", rounds, *cards)
    for site in "ab":
        swarm("charter", "sign", "charter.toml", "--folder", site)
    for site in "ab":
        shutil.copy("charter.toml", site)
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
    running = [
        subprocess.Popen(
            [sys.executable, "train.py", site],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for site in "ab"
    ]
    try:
        printed = [process.communicate(timeout=400)[0] for process in running]
    finally:
        for process in running:
            process.kill()
    assert [process.returncode for process in running] == [0, 0], "\n".join(printed)
    for text in printed:
        score = re.search(r"^(?:AUC|accuracy) (\S+)", text, re.MULTILINE)
        assert score is not None, text
        assert float(score[1]) > least
    models = [Path(site, "models", f"round-{rounds:04d}.safetensors").read_bytes() for site in "ab"]
    assert models[0] == models[1]
    assert verify_quietly(tmp_path / "a").state.committed.round == rounds
    for site in "ab":
        said = Path(site, "run", "node.log").read_text()
        assert "error:" not in said, said
