"""What people are told of a task's model before anybody signs, through the worker's own answer."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.charter import described_task
from node.solo import wait
from node.trainer import Described, TrainDone, Trainer, TrainerSettings
from swarm.errors import UsageError
from tests.node.test_parts import TASK
from tests.node.workers import Bench, benches


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


MEASURED = "norm.running_mean, norm.running_var, norm.num_batches_tracked"


def told(made: list[Bench], folder: Path, task: str) -> tuple[list[str], list[str]]:
    """Return the warnings and the notes about a task."""
    bench = Bench(folder, task)
    made.append(bench)
    answer = bench.told(do="describe", path=str(bench.model))
    return list(answer["warnings"]), list(answer["notes"])  # type: ignore[call-overload]


def test_it_says_what_travels_and_what_becomes_of_the_rest(made: list[Bench], tmp_path: Path) -> None:
    """Body 16, norm 16 and its counter, head 10: without head and statistics 24 of 43."""
    warnings, notes = told(made, tmp_path, TASK + "private = ['head.*']\nnormalisation = 'recalibrate'\n")
    assert warnings == []
    assert notes == [
        "24 of the 43 numbers of the model travel, 96 B as they are",
        "private, of each site its own: head.weight, head.bias (10 numbers)",
        f"statistics of batch normalisation, of each site its own, measured anew before the model is used: {MEASURED}",
    ]


def test_what_is_no_real_number_and_trained_is_refused_by_name_and_else_told(made: list[Bench], tmp_path: Path) -> None:
    waves = "    model.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))\n    return model"
    task = TASK.replace("    return model", waves) + "normalisation = 'average'\n"
    bench = Bench(tmp_path / "trained", task)
    made.append(bench)
    refused = bench.refused(do="describe", path=str(bench.model))
    assert "waves is complex, and what travels are real numbers" in refused
    assert 'private = ["waves"]' in refused
    still = task.replace("complex64))", "complex64), requires_grad=False)")
    _, notes = told(made, tmp_path / "still", still)
    assert notes[1:] == ["neither sent nor averaged, being no real numbers: waves (2 numbers)"]


def test_a_private_complex_parameter_is_kept_from_round_to_round(made: list[Bench], tmp_path: Path) -> None:
    waves = "    model.waves = nn.Parameter(torch.ones(2, dtype=torch.complex64))\n    return model"
    task = TASK.replace("    return model", waves) + "normalisation = 'average'\nprivate = ['waves']\n"
    task = task.replace("    for batch in", "    model.waves.data *= 1j\n    for batch in")
    task = task.replace(
        '        "samples": 24,\n        "body"',
        '        "samples": 24,\n        "turned": model.waves.imag[0].item(),\n        "body"',
    )
    bench = Bench(tmp_path, task, private=tmp_path / "kept")
    made.append(bench)
    bench.describe()
    bench.train(1)
    assert bench.evaluate(1)["turned"] == 1.0


def test_what_needs_no_gradient_and_travels_is_told_with_the_line_that_ends_it(
    made: list[Bench], tmp_path: Path
) -> None:
    idle = "    model.body.requires_grad_(False)\n    return model"
    task = TASK.replace("    return model", idle) + "normalisation = 'average'\n"
    [warning], _ = told(made, tmp_path / "a", task)
    assert warning.startswith("16 of the 42 numbers that travel need no gradient")
    assert 'write frozen = ["body.*"] in the task file' in warning
    few = "    model.head.bias.requires_grad_(False)\n    return model"
    assert told(made, tmp_path / "b", TASK.replace("    return model", few) + "normalisation = 'average'\n")[0] == []


@pytest.mark.parametrize(
    ("line", "meant"),
    [("Private = ['head.*']", "private"), ("freeze = ['body.*']", "frozen"), ("privat = ['head.*']", "private")],
)
def test_a_name_that_means_nothing_and_looks_as_if_it_should_is_told(
    made: list[Bench], tmp_path: Path, line: str, meant: str
) -> None:
    warnings, _ = told(made, tmp_path, TASK + f"normalisation = 'average'\n{line}\ninitial_lr = 0.1\n")
    [warning] = warnings
    assert (
        warning
        == f"task.py says {line.split()[0]} = ..., which means nothing; if it is meant to be {meant}, write that"
    )


MASKED = """\
import torch


def build_model():
    model = torch.nn.Linear(2, 1)
    model.register_buffer("mask", torch.tensor([0.0, float("-inf")]))
    return model


def load_data(site):
    return None


def train(model, data, run):
    return {"samples": 1}


def evaluate(model, data, run):
    return {"samples": 1}
"""


@pytest.mark.real
def test_a_model_that_gossip_would_cut_is_refused_by_name_where_it_would_be_exchanged(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(MASKED)
    described_task(tmp_path / "task.py", 1)
    with pytest.raises(UsageError, match="between -1024 and 1024, and mask begins with others") as caught:
        described_task(tmp_path / "task.py", 1, whole=True)
    assert 'private = ["mask"]' in caught.value.hint


HELPED = """\
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from its_network import network


class Rows(Dataset):
    def __len__(self):
        return 12

    def __getitem__(self, place):
        return torch.full((3,), float(place)), place % 2


def build_model():
    return network()


def load_data(site):
    return Rows()


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for x, y in DataLoader(data, batch_size=6, num_workers=1, multiprocessing_context="spawn"):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x), y).backward()
        optimizer.step()
    return {"samples": len(data)}


def evaluate(model, data, run):
    return {"samples": 1}
"""


@pytest.mark.real
def test_a_task_imports_what_lies_beside_it_and_workers_that_are_spawned_find_its_classes(tmp_path: Path) -> None:
    (tmp_path / "its_network.py").write_text("import torch\n\n\ndef network():\n    return torch.nn.Linear(3, 2)\n")
    (tmp_path / "my_rows.py").write_text(HELPED)
    trainer = Trainer(TrainerSettings(task=tmp_path / "my_rows.py", data=tmp_path, site="a", seed=1))
    lines: list[str] = []
    try:
        trainer.start()
        trainer.describe(tmp_path / "model")
        described = wait(trainer, Described, lines.append)
        trainer.train(1, tmp_path / "model", tmp_path / "update")
        assert wait(trainer, TrainDone, lines.append).samples == 12, lines
    finally:
        trainer.close()
    [warning] = described.warnings
    assert warning.startswith("my_rows.py imports its_network.py, which is not in the charter")
    assert "its_network" not in sys.modules, "it was imported in another process"
