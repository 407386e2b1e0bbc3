"""What a site is told of its own update: that it was cut, that it is of nothing, which tensor spoils it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from node import solo
from node.bulk import Measured
from node.cli.status import render
from node.trainer import Trainer, TrainerSettings
from swarm.errors import SwarmError
from swarm.privacy.clipping import length_of

TASK = """\
import torch
from torch import nn


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        self.small = nn.Parameter(torch.zeros(2))
        self.large = nn.Parameter(torch.zeros(3))
        self.register_buffer("mask", torch.tensor([0.0, float("-inf")]))


def build_model():
    return Two()


def load_data(site):
    return None


def train(model, data, run):
    with torch.no_grad():
        CHANGE
    return {"samples": 5}


def evaluate(model, data, run):
    return {"samples": 5, "mask": float(model.mask[1] == float("-inf"))}
"""


def settings(folder: Path, change: str, forkserver: Path | None) -> TrainerSettings:
    (folder / "task.py").write_text(TASK.replace("CHANGE", change))
    return TrainerSettings(task=folder / "task.py", data=folder, site="rural", seed=1, threads=1, forkserver=forkserver)


def test_a_cut_is_told_with_norm_bound_and_rest() -> None:
    # A tenth of a norm of 1000 is left, and 0.99 of the sum of squares is of one tensor.
    told = Measured(7, 1000.0, 100.0).told(("norm.running_var", 0.99))
    assert "round 7 was cut to 10 %: its norm was 1e+03, and the bound is 100" in told
    assert "norm.running_var makes 99 % of its square" in told
    assert Measured(7, 55_000.0, 100.0).left == pytest.approx(1 / 550)


def test_an_update_within_the_bound_is_not_spoken_of_and_one_of_nothing_is() -> None:
    assert (Measured(1, 100.0, 100.0).told(), Measured(1, 3.0, 0.0).told()) == ("", "")
    assert "changed nothing in the model" in Measured(1, 0.0, 100.0).told()


def test_the_status_says_that_the_last_update_was_cut() -> None:
    answer: dict[str, object] = dict.fromkeys(("swarm", "me", "height", "entries", "root", "quorum", "tolerance"), "-")
    answer |= {"rounds": 3, "committed": 1, "model": "00", "members": [], "own_update": {"told": "it was cut"}}
    assert "THIS SITE  it was cut" in render(answer)
    assert "cut" not in render({**answer, "own_update": {"told": ""}})


def test_length_is_the_l2_norm() -> None:
    assert length_of(np.array([3.0, 4.0], "<f4")) == 5.0


@pytest.mark.real
def test_solo_names_the_tensor_that_a_swarm_would_have_cut_and_a_mask_of_infinities_is_no_obstacle(
    tmp_path: Path, forkserver: Path
) -> None:
    said: list[str] = []
    chosen = settings(tmp_path, "model.large += 1000.0", forkserver)
    result = solo.run_solo(chosen, rounds=2, folder=tmp_path / "out", tell=said.append)
    assert result.metrics == {"mask": 1.0}
    (warning,) = [line for line in said if line.startswith("warning")]
    # The norm is 1000 * sqrt(3), all of it in one tensor; 100 is 5.8 % of that.
    assert "with --clip-norm 100" in warning
    assert "cut to 5.8 %: its norm was 1.73e+03, and the bound is 100; large makes 100 % of its square" in warning


@pytest.mark.real
def test_solo_says_that_training_changed_nothing(tmp_path: Path, forkserver: Path) -> None:
    said: list[str] = []
    solo.run_solo(settings(tmp_path, "pass", forkserver), rounds=1, folder=tmp_path / "out", tell=said.append)
    assert any("changed nothing in the model" in line for line in said)


@pytest.mark.real
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("model.large[1] = float('nan')", "large is not finite after training (1 of its 3 numbers, the first is nan)"),
        ("model.mask[0] = float('inf')", "mask is not finite after training (1 of its 2 numbers, the first is inf)"),
        ("model.large = nn.Parameter(torch.zeros(4))", "large has shape (4,), and was built with (3,)"),
        ("del model.small", "small is gone"),
    ],
)
def test_what_spoils_an_update_is_named(tmp_path: Path, forkserver: Path, change: str, words: str) -> None:
    with pytest.raises(SwarmError) as raised:
        solo.run_solo(settings(tmp_path, change, forkserver), rounds=1, folder=tmp_path / "out", tell=lambda _: None)
    assert words in raised.value.message


@pytest.fixture
def trainer(tmp_path: Path, forkserver: Path) -> Iterator[Trainer]:
    change = "model.large = nn.Parameter(torch.zeros(4 if run.round == 1 else 3))"
    made = Trainer(settings(tmp_path, change, forkserver))
    yield made
    made.close()


@pytest.mark.real
def test_a_round_after_one_that_replaced_a_layer_begins_with_the_model_as_it_is_built(
    trainer: Trainer, tmp_path: Path
) -> None:
    trainer.describe(tmp_path / "model")
    solo.wait(trainer, solo.Described, lambda _: None)
    trainer.train(1, tmp_path / "model", tmp_path / "update")
    with pytest.raises(SwarmError, match="was built with"):
        solo.wait(trainer, solo.TrainDone, lambda _: None)
    trainer.train(2, tmp_path / "model", tmp_path / "update")
    assert solo.wait(trainer, solo.TrainDone, lambda _: None).samples == 5


@pytest.mark.real
def test_a_lazy_layer_is_refused_by_name(tmp_path: Path, forkserver: Path) -> None:
    chosen = settings(tmp_path, "pass", forkserver)
    chosen.task.write_text(chosen.task.read_text().replace("return Two()", "return nn.LazyLinear(3)"))
    with pytest.raises(SwarmError, match="weight gets its shape only with the first batch"):
        solo.run_solo(chosen, rounds=1, folder=tmp_path / "out", tell=lambda _: None)
