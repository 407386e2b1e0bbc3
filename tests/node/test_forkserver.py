"""Trainers forked from one process: they work like others, die with whoever asked for them, and never outlive it."""

from __future__ import annotations

import os
import select
import signal
import socket
import time
from pathlib import Path

import pytest

from node.forkserver import ANSWER, ForkServer
from node.trainer import Described, EvaluateDone, Failed, LogLine, TrainDone, Trainer, TrainerEvent, TrainerSettings
from swarm.errors import UsageError

pytestmark = pytest.mark.real

TASK = """
import os
import torch

def build_model():
    return torch.nn.Linear(2, 1)

def load_data(site):
    return site

def train(model, data, run):
    print("training at", data.name, flush=True)
    if run.round == 2:
        os._exit(7)
    torch.optim.SGD(model.parameters(), lr=0.1).step()
    return {"samples": 5}

def evaluate(model, data, run):
    return {"samples": os.getppid()}
"""


def trainer(server: Path, folder: Path, site: str = "rural") -> Trainer:
    (folder / "task.py").write_text(TASK)
    made = Trainer(
        TrainerSettings(task=folder / "task.py", data=folder, site=site, seed=1, threads=1, forkserver=server)
    )
    made.start()
    return made


def wait(made: Trainer, *kinds: type[TrainerEvent], patience_s: float = 60.0) -> list[TrainerEvent]:
    """Everything up to the first event of one of these kinds."""
    seen: list[TrainerEvent] = []
    until = time.monotonic() + patience_s
    while not any(isinstance(event, kinds) for event in seen):
        assert time.monotonic() < until, seen
        select.select([made.fileno()], [], [], 0.2)
        seen += made.poll(time.monotonic())
    return seen


def test_forked_trainers_work_side_by_side_for_nodes_that_are_not_their_parents(
    forkserver: Path, tmp_path: Path
) -> None:
    made = {}
    for name in ("rural", "city"):
        (tmp_path / name).mkdir()
        made[name] = trainer(forkserver, tmp_path / name, name)
    parents = set()
    for name, one in made.items():
        model = tmp_path / name / "model"
        one.describe(model)
        wait(one, Described)
        one.train(1, model, tmp_path / name / "update")
        seen = wait(one, TrainDone)
        assert LogLine(f"training at {name}") in seen, "what user code prints goes to its own node"
        one.evaluate(1, model)
        done = wait(one, EvaluateDone)[-1]
        assert isinstance(done, EvaluateDone)
        parents.add(done.samples)
        one.close()
    assert len(parents) == 1, "one server forked both"
    assert os.getpid() not in parents


def test_a_forked_trainer_that_ends_is_reported_and_replaced(forkserver: Path, tmp_path: Path) -> None:
    made = trainer(forkserver, tmp_path)
    made.describe(tmp_path / "model")
    wait(made, Described)
    made.train(2, tmp_path / "model", tmp_path / "update")
    failed = wait(made, Failed)[-1]
    assert isinstance(failed, Failed)
    assert "ended with exit code 7" in failed.text
    made.train(3, tmp_path / "model", tmp_path / "update")
    wait(made, TrainDone)
    made.close()


def test_a_forked_trainer_ends_with_its_node(forkserver: Path, tmp_path: Path) -> None:
    made = trainer(forkserver, tmp_path)
    assert made._process is not None
    pid = made._process.pid
    made.close()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_that_dies_costs_a_sentence_and_no_round(tmp_path: Path) -> None:
    server = ForkServer(tmp_path / "s")
    made = trainer(server.path, tmp_path)
    made.describe(tmp_path / "model")
    wait(made, Described)
    server._process.send_signal(signal.SIGKILL)
    server._process.wait()
    made.train(1, tmp_path / "model", tmp_path / "update")
    # The trainer ends with the server, or has done its work before it notices; either way the next request is served.
    wait(made, TrainDone, Failed)
    made.train(3, tmp_path / "model", tmp_path / "update")
    wait(made, TrainDone)
    made.close()
    server.close()


def test_one_that_is_killed_while_it_asks_costs_the_others_nothing(tmp_path: Path) -> None:
    """The server imports PyTorch first, so whoever asks at once and goes has gone when it answers."""
    server = ForkServer(tmp_path / "s")
    answers = []
    for stays in (False, True):
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as asking, (tmp_path / "link").open("wb") as link:
            asking.connect(str(server.path))
            socket.send_fds(asking, [b"[]"], [link.fileno(), link.fileno()])
            answers += [asking.recv(ANSWER.size)] if stays else []
    assert len(answers[0]) == ANSWER.size, "the second has the number of its trainer's process"
    assert server._process.poll() is None
    server.close()


def test_without_a_server_the_trainer_is_a_process_of_its_own(tmp_path: Path) -> None:
    made = trainer(tmp_path / "nobody", tmp_path)
    made.describe(tmp_path / "model")
    seen = wait(made, Described)
    remarks = [event.text for event in seen if isinstance(event, LogLine)]
    assert any("couldn't get a trainer from the fork server" in text for text in remarks)
    made.close()


def test_a_path_too_long_for_a_socket_is_said(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="couldn't make the socket"):
        ForkServer(tmp_path / ("x" * 120))
