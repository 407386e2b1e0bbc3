"""The sites' training in the simulated world does what a trainer process does."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from node.data import SiteData
from node.simulation import datasets
from node.simulation.learner import TaskLearner, task_source, tensors
from node.simulation.learner import score as score_of
from node.task import load_task, round_seed
from swarm.errors import UsageError
from topologies.scenario import Learning, Site, plain
from topologies.world.learner import Behaviour

COUNTING = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.ones(2))
        self.register_buffer("calls", torch.zeros((), dtype=torch.int64))

def build_model():
    return Net()

def load_data(site):
    return site.name

def train(model, data, run):
    model.calls += 1
    if data == "b" and run.round == 2:
        raise ValueError("no such patient")
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        (model.w * torch.rand(2)).sum().backward()
        optimizer.step()
    return {"samples": 5, "calls": int(model.calls)}

def evaluate(model, data, run):
    return {"samples": 2, "loss": float(model.w.sum())}
"""


@pytest.fixture
def learner(tmp_path: Path) -> TaskLearner:
    task = tmp_path / "counting.py"
    task.write_text(COUNTING)
    return made(task, tmp_path)


def made(task: Path, folder: Path, bound: float = 0.0, **behaviours: Behaviour) -> TaskLearner:
    sites = [SiteData(name, folder, 5, 0, 2) for name in ("a", "b", "c")]
    machines = [Site(name=name, step_s=step_s) for name, step_s in (("a", 0.5), ("b", 1.0), ("c", 2.0))]
    who = {"abc".index(name): behaviour for name, behaviour in behaviours.items()}
    return TaskLearner(task, sites, machines, seed=3, bound=bound, behaviours=who)


def test_seconds_are_the_steps_that_user_code_made_on_the_sites_own_machine(learner: TaskLearner) -> None:
    start = np.ones(2, np.float32)
    assert [learner.train(member, 1, start).duration_s for member in range(3)] == [1.5, 3.0, 6.0]
    assert learner.train(0, 1, start).steps == 3


def test_a_round_is_seeded_as_the_trainer_process_seeds_it_and_leaves_the_callers_chance_alone(
    learner: TaskLearner,
) -> None:
    torch.manual_seed(1)
    before = torch.get_rng_state()
    lesson = learner.train(0, 4, np.ones(2, np.float32))
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(round_seed(3, "a", 4))
    gradients = torch.rand(2) + 0, torch.rand(2) + 0, torch.rand(2) + 0
    expected = torch.ones(2)
    for gradient in gradients:
        expected -= 0.5 * gradient
    assert lesson.update is not None
    assert np.array_equal(lesson.update, (expected - 1).numpy())


def test_counters_stay_at_the_site_and_weights_come_with_the_model(learner: TaskLearner) -> None:
    start = np.full(2, 5, np.float32)
    assert [learner.train(0, number, start).metrics["calls"] for number in (1, 2, 3)] == [1, 2, 3]
    assert learner.train(2, 1, start).metrics["calls"] == 1
    assert learner.evaluate(1, np.array([1, 2], np.float32)) == (2, {"loss": 3.0})


def test_what_user_code_throws_is_a_sentence_and_the_next_round_goes_on(learner: TaskLearner) -> None:
    start = np.ones(2, np.float32)
    failed = learner.train(1, 2, start)
    assert failed.update is None
    assert "ValueError: no such patient (counting.py, line" in failed.error
    assert learner.train(1, 3, start).error == ""


def test_members_misbehave_as_the_scenario_says(tmp_path: Path) -> None:
    task = tmp_path / "counting.py"
    task.write_text(COUNTING)
    liars = made(task, tmp_path, 0.1, a=Behaviour.NAN, b=Behaviour.OVERSIZE, c=Behaviour.HANG)
    start = np.ones(2, np.float32)
    nan, oversize, hang = (liars.train(member, 1, start) for member in range(3))
    assert nan.update is not None
    assert np.isnan(nan.update[0])
    assert oversize.update is not None
    assert np.linalg.norm(oversize.update) == pytest.approx(1.0)
    assert hang.duration_s == math.inf
    honest = made(task, tmp_path, 0.1).train(0, 1, start).update
    assert honest is not None
    assert np.linalg.norm(honest) == pytest.approx(0.1)


@pytest.mark.parametrize(("name", "elements"), [("linear", 650), ("mlp:7", 64 * 7 + 7 + 70 + 10), ("mlp", 8_970)])
def test_models_by_name_are_task_files_that_load(tmp_path: Path, name: str, elements: int) -> None:
    examples = datasets.load("digits")
    task = tmp_path / f"{elements}.py"
    task.write_text(task_source(Learning(model=name), examples))
    scenario = plain(3)
    shares, x = datasets.divide(examples, scenario, 1)
    sites = datasets.write_sites(tmp_path, examples, shares, x, scenario.names)
    learner = TaskLearner(task, sites, scenario.sites, seed=1, bound=100.0, behaviours={})
    assert learner.elements == elements
    start = learner.model.initial.numpy()
    lesson = learner.train(0, 1, start)
    assert lesson.samples == len(shares[0])
    assert lesson.update is not None
    test = tensors(examples, x)[1]
    trained = start + lesson.update
    accuracy, loss = score_of(learner.model, trained, test)
    assert loss < score_of(learner.model, start, test)[1]
    samples, metrics = learner.evaluate(1, trained)
    assert (samples, metrics["accuracy"]) == (359, pytest.approx(accuracy))
    assert load_task(task)


@pytest.mark.parametrize("name", ["cnn", "mlp:", "mlp:a", "mlp:0", "linear:3", "mlp:1,1,1,1,1,1,1,1,1,1,1"])
def test_a_model_that_is_none_is_refused_with_what_there_is(name: str) -> None:
    with pytest.raises(UsageError) as refused:
        task_source(Learning(model=name), datasets.load("digits"))
    assert "mlp" in refused.value.hint


@pytest.mark.parametrize(
    "text", ["private = ['w']\n", "normalisation = 'local'\n", "def build_optimizer(model): pass\n"]
)
def test_a_task_that_keeps_something_is_refused_rather_than_played_without(tmp_path: Path, text: str) -> None:
    task = tmp_path / "keeping.py"
    task.write_text(COUNTING + text)
    with pytest.raises(UsageError, match="what it keeps private, frozen or from round to round is not simulated"):
        made(task, tmp_path)
