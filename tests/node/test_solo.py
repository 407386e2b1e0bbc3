"""One site alone, through the same worker as the swarm."""

from pathlib import Path

import numpy as np
import pytest

from node import solo
from node.trainer import TrainerSettings
from swarm.errors import SwarmError

pytestmark = pytest.mark.real

# A model of two numbers that starts at (3, 3) and halves its distance to the site's own value each round. It never
# clears its gradients, as it takes one step only: none may be left from the round before.
TASK = """\
import torch
from torch import nn


class Point(nn.Module):
    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.full((2,), 3.0))


def build_model():
    return Point()


def load_data(site):
    return float((site.folder / "value.txt").read_text())


def train(model, data, run):
    if run.round == 4:
        raise ValueError("no fourth round")
    print(f"training round {run.round} at {site_name(run)}")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    loss = (model.at - data).square().sum()
    loss.backward()
    optimizer.step()
    return {"samples": 5, "loss": loss.item()}


def site_name(run):
    return run.site.name


def evaluate(model, data, run):
    return {"samples": 2, "distance": (model.at - data).abs().max().item()}
"""


def settings(folder: Path, forkserver: Path | None = None) -> TrainerSettings:
    (folder / "task.py").write_text(TASK)
    (folder / "value.txt").write_text("11")
    return TrainerSettings(task=folder / "task.py", data=folder, site="rural", seed=1, threads=1, forkserver=forkserver)


def test_a_site_alone_trains_round_after_round(tmp_path: Path) -> None:
    said: list[str] = []
    result = solo.run_solo(settings(tmp_path), rounds=3, folder=tmp_path / "out", tell=said.append)
    # From 3 towards 11: 7, 9, 10. The loss is reported before each step: 2 * 8**2, 2 * 4**2, 2 * 2**2.
    assert (result.samples, result.held_out) == (5, 2)
    assert result.metrics == {"distance": pytest.approx(1.0)}
    np.testing.assert_allclose(np.fromfile(tmp_path / "out" / "model.f32", "<f4"), [10.0, 10.0])
    assert [(tensor.name, tensor.shape) for tensor in result.layout.tensors] == [("at", (2,))]
    assert [line for line in said if line.startswith("round")] == [
        "round 1 of 3: 5 samples, loss 128.0000",
        "round 2 of 3: 5 samples, loss 32.0000",
        "round 3 of 3: 5 samples, loss 8.0000",
    ]
    assert "training round 2 at rural" in said
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.f32"]


def test_a_failure_of_user_code_is_one_sentence_and_leaves_no_half_update(tmp_path: Path, forkserver: Path) -> None:
    with pytest.raises(
        SwarmError, match=r"couldn't train: ValueError: no fourth round \(task\.py, line 21\)"
    ) as caught:
        solo.run_solo(settings(tmp_path, forkserver), rounds=4, folder=tmp_path / "out", tell=lambda _: None)
    assert caught.value.hint
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model.f32"]


def test_describing_builds_the_model_once_and_writes_where_it_starts(tmp_path: Path, forkserver: Path) -> None:
    layout, _ = solo.describe(settings(tmp_path, forkserver), tmp_path / "initial.f32")
    assert layout.elements == 2
    np.testing.assert_array_equal(np.fromfile(tmp_path / "initial.f32", "<f4"), [3.0, 3.0])


def test_what_a_site_alone_exports_is_whole(tmp_path: Path, forkserver: Path) -> None:
    from safetensors.numpy import load_file

    (tmp_path / "value.txt").write_text("11")
    text = TASK.replace("self.at =", "self.own = self.also = nn.Parameter(torch.ones(1))\n        self.at =")
    (tmp_path / "task.py").write_text("private = ['own']\n" + text)
    told = TrainerSettings(
        task=tmp_path / "task.py",
        data=tmp_path,
        site="rural",
        seed=1,
        threads=1,
        forkserver=forkserver,
        local="fedprox:0.5",
    )
    out = tmp_path / "model.safetensors"
    result = solo.run_solo(told, rounds=2, folder=tmp_path / "out", tell=lambda _: None, output=out)
    assert [tensor.name for tensor in result.layout.tensors] == ["at"]
    assert {*load_file(out)} == {"own", "at"}
    np.testing.assert_allclose(load_file(out)["at"], [9.0, 9.0])
