"""The page from-your-script.md does what it says: its files are written, and its commands run, as they stand."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from node.local import free_ports

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]  # PyTorch is imported five times, on a busy machine

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guides" / "from-your-script.md"

BLOCK = re.compile(r"```python title=(\S+)\n(.*?)```", re.DOTALL)
COMMANDS = re.compile(r"```console\n(.*?)```", re.DOTALL)


def files(folder: Path) -> None:
    for name, text in BLOCK.findall(GUIDE.read_text()):
        (folder / name).write_text(text)


def run(folder: Path, script: str) -> str:
    """Run lines of a shell in which `swarm` and `python` are those under test."""
    (folder / "bin").mkdir(exist_ok=True)
    for name, command in (("python", sys.executable), ("swarm", f"{sys.executable} -m node.cli.main")):
        program = folder / "bin" / name
        program.write_text(f'#!/bin/sh\nexec {command} "$@"\n')
        program.chmod(0o755)
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "PATH": f"{folder / 'bin'}:{os.environ['PATH']}",
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        ["bash", "-ec", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_two_sites_learn_as_the_page_says(tmp_path: Path) -> None:
    files(tmp_path)
    lines = "".join(COMMANDS.findall(GUIDE.read_text()))
    for port, free in zip(("7401", "7402"), free_ports(2), strict=True):
        lines = lines.replace(port, str(free))
    commands = "\n".join(line.removeprefix("$ ") for line in lines.splitlines())
    printed = run(tmp_path, commands)
    accuracies = [float(number) for number in re.findall(r"accuracy (\S+) after 5 rounds", printed)]
    assert len(accuracies) == 2
    assert min(accuracies) > 0.9
    assert "VALID" in printed
    models = [(tmp_path / site / "models" / "round-0005.safetensors").read_bytes() for site in "ab"]
    assert models[0] == models[1]
    assert {*load_file(tmp_path / "a" / "models" / "round-0005.safetensors")} == {"weight", "bias"}


def test_the_script_alone_and_the_notebook_run(tmp_path: Path) -> None:
    files(tmp_path)
    printed = run(tmp_path, "python patients.py; python alone.py hospital-a.npz; python notebook.py")
    assert re.search(r"accuracy 0\.\d+", printed)
    losses = [float(line.split()[1]) for line in printed.splitlines() if re.fullmatch(r"\d \S+", line)]
    assert len(losses) == 3
    assert losses[-1] < losses[0]
