"""A script that torchrun starts in two processes is one site of a swarm: the guide's own, with a site of one beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_breast_cancer

from node.cli.ledger.reading import verify_quietly
from node.data import SiteData
from node.local import LocalPeer, found
from node.loop import together
from node.loop.peer import _TORCHRUN

ROOT = Path(__file__).parents[3]
GUIDE = ROOT / "docs" / "guides" / "several-gpus.md"
ROUNDS = 3


def start(peer: LocalPeer, *launcher: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, *launcher, "task.py", "."],
        cwd=peer.site.folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.mark.long
@pytest.mark.real
@pytest.mark.timeout(300)
def test_two_processes_of_a_script_are_one_site(tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(re.findall(r"```python title=train.py\n(.*?)```", GUIDE.read_text(), re.DOTALL)[0])
    x, y = load_breast_cancer(return_X_y=True)
    x = ((x - x.mean(0)) / x.std(0)).astype(np.float32)
    data = []
    for number, name in enumerate(["a", "b"]):
        np.savez(tmp_path / f"{name}.npz", x=x[number::2], y=y[number::2].astype(np.float32))
        data.append(SiteData(name, tmp_path / f"{name}.npz", 0, 0, 50))
    peers = found(tmp_path, data, script, rounds=ROUNDS, metrics=("accuracy",), seed=1, patience_s=60)
    launched = "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"
    running = [start(peers[0], *launched), start(peers[1])]
    printed = [process.communicate(timeout=240)[0] for process in running]
    assert [process.returncode for process in running] == [0, 0], "\n".join(printed)
    told = {process: re.findall(rf"process {process}: accuracy (\S+)", printed[0]) for process in (0, 1)}
    assert told[0] == told[1], "the swarm's last model is in both"
    assert float(told[0][0]) > 0.85
    audit = verify_quietly(peers[0].site.folder)
    assert audit.state.committed.round == ROUNDS
    samples = [view.commit.samples for view in audit.rounds.values() if view.commit is not None]
    assert samples == [2 * 112 + 112] * ROUNDS, "the examples of both processes count for their site"


def test_what_torchrun_says_is_read_and_is_not_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    assert together.place() == (0, 1)
    for rank, size, found_ in (("1", "2", (1, 2)), ("2", "2", (0, 1)), ("x", "2", (0, 1))):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.setenv("WORLD_SIZE", size)
        assert together.place() == found_
    said = ["RANK", "LOCAL_RANK", "ROLE_WORLD_SIZE", "MASTER_PORT", "TORCHELASTIC_RUN_ID", "GROUP_RANK", "ROLE_NAME"]
    assert all(_TORCHRUN.match(name) for name in said)
    assert not any(_TORCHRUN.match(name) for name in ("PATH", "OMP_NUM_THREADS", "RANKING", "MASTER"))
