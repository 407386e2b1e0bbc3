"""The page from-your-script.md does what it says: its files are written, and its commands run, as they stand.

And the first code of use-the-model.md, which goes on with what they leave.

Commands of `swarm` run in this process, as any test's, and so do scripts that need no process of their own: each import
of PyTorch takes seconds.
"""

from __future__ import annotations

import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file

from node.cli.main import cli
from node.local import free_ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(300), pytest.mark.filterwarnings("ignore::ResourceWarning")]

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guides" / "from-your-script.md"
AFTERWARDS = ROOT / "docs" / "guides" / "use-the-model.md"

BLOCK = re.compile(r"```python title=(\S+)\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the page's files in it, to be in."""
    for name, text in [*BLOCK.findall(GUIDE.read_text()), *BLOCK.findall(AFTERWARDS.read_text())[:1]]:
        (tmp_path / name).write_text(text)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def script(name: str, *arguments: str) -> None:
    """Run a script in this process."""
    argv, sys.argv = sys.argv, [name, *arguments]
    try:
        runpy.run_path(name, run_name="__main__")
    finally:
        sys.argv = argv


def commands() -> list[list[str]]:
    """The page's commands, with ports that are free."""
    lines = "".join(COMMANDS.findall(GUIDE.read_text()))
    for port, free in zip(("7401", "7402"), free_ports(2), strict=True):
        lines = lines.replace(port, str(free))
    return [shlex.split(line.removeprefix("$ ")) for line in lines.splitlines()]


def test_two_sites_learn_as_the_page_says(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed, running = [], []
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    for words in commands():
        match words:
            case ["swarm", *arguments]:
                result = CliRunner().invoke(cli, arguments)
                assert result.exit_code == 0, result.output
                printed.append(result.output)
            case ["python", name, *arguments, "&"]:
                running.append(
                    subprocess.Popen(
                        [sys.executable, name, *arguments], env=environment, stdout=subprocess.PIPE, text=True
                    )
                )
            case ["python", name, *arguments]:
                script(name, *arguments)
            case ["wait"]:
                printed += [process.communicate(timeout=240)[0] for process in running]
                assert [process.returncode for process in running] == [0, 0]
            case ["cp", source, target]:
                shutil.copy(source, target)
            case _:
                raise AssertionError(f"a command that this test does not know: {words}")
    accuracies = [float(number) for number in re.findall(r"accuracy (\S+) after 5 rounds", "".join(printed))]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.9
    assert "VALID" in printed[-1]
    models = [(folder / site / "models" / "round-0005.safetensors").read_bytes() for site in "ab"]
    assert models[0] == models[1]
    tensors = load_file(folder / "a" / "models" / "round-0005.safetensors")
    assert {*tensors} == {"weight", "bias"}
    capsys.readouterr()
    script("elsewhere.py")
    patients = np.load("hospital-a.npz")["x"][:3].astype(np.float64)
    benign = patients @ tensors["weight"][0].astype(np.float64) + tensors["bias"][0]
    assert capsys.readouterr().out == f"malignant? {(benign < 0).tolist()}\n"


def test_the_script_alone_and_the_notebook_run(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    script("patients.py")
    script("alone.py", "hospital-a.npz")
    assert re.search(r"accuracy [01]\.\d+", capsys.readouterr().out)
    script("notebook.py")
    losses = [float(line.split()[1]) for line in capsys.readouterr().out.splitlines() if re.fullmatch(r"\d \S+", line)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
