"""The example scripts for tables learn on real credits, in swarms of real nodes."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.data import SiteData
from node.local import found

EXAMPLES = Path(node.examples.__file__).parent
ROOT = EXAMPLES.parents[1]
CREDIT = ROOT.parent / "shared" / "data" / "default_credit" / "default_credit_homo.npz"

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.skipif(not CREDIT.is_file(), reason=f"needs {CREDIT.name} in ../shared/data/default_credit"),
]


@pytest.fixture
def learned(tmp_path: Path) -> Callable[[str, int], list[float]]:
    """A function that runs an example at three banks for so many rounds and returns the number each prints."""

    def run(name: str, rounds: int) -> list[float]:
        customers, data = np.load(CREDIT), []
        for bank in ("guest", "host_1"):
            part = tmp_path / f"{bank}.npz"
            test = {key: customers[key][:2000] for key in ("x_test", "y_test")}
            np.savez(part, x=customers[f"x_{bank}"][:1000], y=customers[f"y_{bank}"][:1000], **test)
            data.append(SiteData(bank.replace("_", "-"), part, 1000, 0, 2000))
        peers = found(tmp_path, data, EXAMPLES / name, rounds=rounds, metrics=("auc", "loss"), seed=1, patience_s=60)
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
        assert [process.returncode for process in running] == [0] * len(peers), "\n".join(printed)
        audit = verify_quietly(peers[0].site.folder)
        assert audit.state.committed.round == rounds
        return [float(re.findall(r"^(?:AUC|distance) (\S+)$", text, re.MULTILINE)[0]) for text in printed]

    return run


def test_trees_on_the_way_are_better_than_a_line(learned: Callable[[str, int], list[float]]) -> None:
    """Four trees of fifty: all banks hold the same trees, so the same score on the same customers."""
    scores = learned("credit_trees.py", 1 + 3 * 4)
    assert len({*scores}) == 1
    assert scores[0] > 0.74


def test_a_linear_classifier_of_scikit_learn_learns(learned: Callable[[str, int], list[float]]) -> None:
    scores = learned("credit_linear.py", 3)
    assert len({*scores}) == 1
    assert scores[0] > 0.68


def test_groups_are_found(learned: Callable[[str, int], list[float]]) -> None:
    assert max(learned("credit_groups.py", 4)) < 1.5
