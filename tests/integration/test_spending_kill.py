"""A literal `kill -9` of the process that trains, between the charge and the update: what was paid for stays paid.

The task says which process it is and where it stands through a pipe, and stops there; so nothing here waits for time.
"""

from __future__ import annotations

import os
import select
import signal
from pathlib import Path

import pytest

from node.clock import Clock
from node.solo import wait
from node.spending import Spending, stretches
from node.trainer import Described, Failed, Progress, TrainDone, Trainer, TrainerSettings
from swarm.privacy.accounting import Budget, epsilon, fits

TASK = """\
import os
import torch
from torch import nn


def stop_at(place):
    if (FOLDER / place).exists():
        (FOLDER / place).unlink()  # Once: the round that is trained again goes through.
        with open(FOLDER / "pipe", "w") as pipe:
            pipe.write(str(os.getpid()))
        while True:
            torch.zeros(1)


def build_model():
    return nn.Linear(2, 1)


def load_data(site):
    global FOLDER
    FOLDER = site.folder
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(1))
    return x, x.sum(1)


def train(model, data, run):
    x, y = data
    private = run.private(model, torch.optim.SGD(model.parameters(), lr=0.1), len(x), batch=8)
    stop_at("charged")
    for rows in private:
        private.step((model(x[rows]).squeeze(1) - y[rows]).square())
        stop_at("stepped")
    stop_at("trained")
    return {"samples": len(x)}


def evaluate(model, data, run):
    return {"samples": 1, "loss": 0.0}
"""

BUDGET, ROUNDS = Budget(3.0, 1e-5), 4


def trainer(folder: Path, forkserver: Path) -> Trainer:
    (folder / "task.py").write_text(TASK)
    settings = TrainerSettings(
        task=folder / "task.py",
        data=folder,
        site="a",
        seed=1,
        threads=1,
        rounds=ROUNDS,
        budget=BUDGET,
        spending=folder / "spent",
        ledger="ab" * 8,
        forkserver=forkserver,
    )
    made = Trainer(settings)
    made.start()
    made.describe(folder / "model.f32")
    wait(made, Described, print)
    return made


def killed_at_its_place(running: Trainer, folder: Path) -> None:
    """Ask for round 1, and kill -9 the worker where it stops."""
    pipe = os.open(folder / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    running.train(1, folder / "model.f32", folder / "update.f32")
    events = running.poll(Clock().now())
    assert all(isinstance(one, Progress) for one in events), "it may have begun, and has not ended"
    select.select([pipe], [], [], 60.0)
    os.kill(int(os.read(pipe, 20)), signal.SIGKILL)
    os.close(pipe)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("place", ["charged", "stepped", "trained"])
def test_a_kill_9_between_charge_and_update_forgets_no_charge_and_the_round_is_paid_for_again(
    tmp_path: Path, forkserver: Path, place: str
) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / place).touch()
    running, spending = trainer(tmp_path, forkserver), Spending(tmp_path / "spent")
    try:
        killed_at_its_place(running, tmp_path)
        died = None
        while died is None:
            select.select([running.fileno()], [], [], 0.5)
            died = next((one for one in running.poll(Clock().now()) if isinstance(one, Failed)), None)
        assert not (tmp_path / "update.f32").exists()
        (charged,) = spending.charges()  # The training that never ended, whole.
        assert (charged.round, charged.steps, charged.records) == (1, 10, 80)
        running.train(1, tmp_path / "model.f32", tmp_path / "update.f32")
        done = wait(running, TrainDone, print)
        assert (tmp_path / "update.f32").stat().st_size == 12
    finally:
        running.close()
    both = spending.charges()
    assert [one.round for one in both] == [1, 1]
    assert fits(stretches(both), BUDGET)
    told = done.privacy
    assert told is not None
    assert told[0] >= 1000 * epsilon(stretches(both), 1e-5) > 1000 * epsilon(stretches(both[:1]), 1e-5)
