"""The trainer survives whatever user code does, and says in one sentence what it was.

Every test here drives a real worker process. Starting one takes seconds, so one task file misbehaves by the number of
the round and most tests share one worker; it is started again by itself after the tests that kill it. Those that need
another one have it forked.
"""

import errno
import select
import signal
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
from numpy.typing import NDArray

from node.storage import store_error
from node.trainer import (
    LINE_CHARACTERS_MAX,
    Described,
    EvaluateDone,
    Failed,
    LogLine,
    Progress,
    TrainDone,
    Trainer,
    TrainerEvent,
    TrainerSettings,
)
from node.worker import Worker
from swarm.vector import Layout

pytestmark = pytest.mark.real

T = TypeVar("T", bound=TrainerEvent)

START_S = 90.0
"""Importing torch on a busy machine."""

TASK = '''\
import os
import random
import sys
import numpy as np
import torch
from torch import nn

LOADED = []


class Net(nn.Module):
    """A normalised layer, whose batch counter is an integer, and two layers that share their weights."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.second = nn.Linear(4, 4)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.second(torch.relu(self.norm(self.first(x))))


def build_model():
    return Net()


def load_data(site):
    LOADED.append(site.name)
    rng = np.random.default_rng(site.seed)
    return torch.from_numpy(rng.normal(size=(32, 4)).astype(np.float32))


def train(model, data, run):
    if run.round == 2:
        raise RuntimeError("the scanner is offline")
    if run.round == 3:
        os._exit(3)
    if run.round == 4:
        while True:
            pass
    if run.round == 5:
        print("epoch 1 of 1")
        print("x" * 2000)
        print("to stderr", file=sys.stderr)
        print("no newline at the end", end="")
        sys.stdout.flush()
        print()
    if run.round == 6:
        return {"loss": 1.0}
    if run.round == 7:
        return {"samples": 32, "loss": float("nan"), "accuracy": 0.5}
    if run.round == 8:
        drawn = {"torch": torch.rand(1), "numpy": np.random.rand(), "python": random.random()}
        return {"samples": 1, **{name: float(value) for name, value in drawn.items()}}
    if run.round == 9:
        os.kill(os.getpid(), 11)
    if run.round == 10:
        sys.exit(5)
    assert model.training
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    used = 0
    for x in data.split(8):
        if run.round >= 20 and run.enough():
            break
        used += len(x)
        optimizer.zero_grad()
        loss = (model(x) - 1).square().mean()
        loss.backward()
        optimizer.step()
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    np.savez(run.site.folder / "trained.npz", **state)
    return {"samples": used, "loss": loss.item()}


def evaluate(model, data, run):
    assert not model.training
    assert not torch.is_grad_enabled()
    if run.round == 2:
        return {"samples": 3, "loss": data["no such column"]}
    with np.load(run.site.folder / "trained.npz") as trained:
        mine = model.state_dict()
        same = all(torch.equal(mine[n], torch.from_numpy(trained[n])) for n in trained.files if "num" not in n)
    return {"samples": 8, "same": same, "loads": len(LOADED)}
'''


class Bench:
    """A trainer, its files, and everything it said."""

    def __init__(
        self,
        folder: Path,
        *,
        task: str = TASK,
        stall_s: float = 600.0,
        round_steps: int = 0,
        round_seconds: float = 0.0,
        loader: str = "",
        forkserver: Path | None = None,
        threads: int = 1,
        processes: int = 1,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.model, self.update = folder / "model.f32", folder / "update.f32"
        (folder / "task.py").write_text(task)
        if loader:
            (folder / "my_loader.py").write_text(loader)
        self.trainer = Trainer(
            TrainerSettings(
                task=folder / "task.py",
                data=folder,
                site="rural",
                seed=5,
                loader=folder / "my_loader.py" if loader else None,
                threads=threads,
                processes=processes,
                stall_s=stall_s,
                round_steps=round_steps,
                round_seconds=round_seconds,
                forkserver=forkserver,
            )
        )
        self.events: list[TrainerEvent] = []

    def until(self, done: Callable[[], bool], seconds: float = START_S) -> None:
        """Poll as the node does until `done`; an event the poller does not announce is found too late."""
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end, f"nothing of the kind in {seconds} s: {self.events}"
            select.select([self.trainer.fileno()], [], [], 0.2)
            self.events += self.trainer.poll(time.monotonic())

    def next(self, kind: type[T], seconds: float = START_S) -> T:
        """Wait for an event of a kind; a failure that was not asked for ends the wait."""
        found: list[T] = []

        def done() -> bool:
            found.extend(event for event in self.events if isinstance(event, kind))
            if not found and kind is not Failed:
                assert not any(isinstance(event, Failed) for event in self.events), self.events
            return bool(found)

        self.until(done, seconds)
        self.events = self.events[self.events.index(found[0]) + 1 :]
        return found[0]

    def start(self) -> None:
        self.trainer.start()
        self.until(lambda: self.trainer._ready)

    def describe(self) -> Layout:
        self.trainer.describe(self.model)
        return Layout.decode(self.next(Described).layout)

    def train(self, round_: int) -> TrainDone:
        self.update.unlink(missing_ok=True)
        self.trainer.train(round_, self.model, self.update)
        done = self.next(TrainDone)
        assert done.round == round_
        return done

    def refuse(self, round_: int) -> str:
        """Return how training fails."""
        self.trainer.train(round_, self.model, self.update)
        failed = self.next(Failed)
        assert (failed.kind, failed.round) == ("train", round_)
        return failed.text

    def printed(self) -> list[str]:
        return [event.text for event in self.events if isinstance(event, LogLine)]

    def works(self) -> None:
        """A round goes well."""
        assert self.train(1).samples == 32


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    made = Bench(tmp_path_factory.mktemp("trainer"))
    made.trainer.start()
    made.trainer.describe(made.model)
    made.next(Described)
    yield made
    made.trainer.close()


@pytest.fixture(autouse=True)
def _forget_earlier_events(request: pytest.FixtureRequest) -> None:
    if "bench" in request.fixturenames:
        request.getfixturevalue("bench").events.clear()


def vector(path: Path) -> NDArray[np.float32]:
    return np.fromfile(path, "<f4")


def layout_of(bench: Bench) -> Layout:
    bench.trainer.describe(bench.folder / "again.f32")
    return Layout.decode(bench.next(Described).layout)


# --- what travels ---------------------------------------------------------------------------------------------------


def test_counters_stay_and_tied_weights_travel_once(bench: Bench) -> None:
    layout = layout_of(bench)
    assert [(tensor.name, tensor.shape) for tensor in layout.tensors] == [
        ("first.bias", (4,)),
        ("first.weight", (4, 4)),
        ("norm.bias", (4,)),
        ("norm.running_mean", (4,)),
        ("norm.running_var", (4,)),
        ("norm.weight", (4,)),
        ("second.bias", (4,)),
    ]
    assert layout.elements == 40


def test_the_model_to_start_from_follows_from_the_seed(bench: Bench) -> None:
    layout_of(bench)
    assert (bench.folder / "again.f32").read_bytes() == bench.model.read_bytes()
    assert bench.model.stat().st_size == 4 * 40


def test_base_plus_update_is_what_was_trained(bench: Bench) -> None:
    layout = layout_of(bench)
    bench.works()
    update = vector(bench.update)
    assert update.size == layout.elements
    result = vector(bench.model) + update
    with np.load(bench.folder / "trained.npz") as trained:
        for name, (start, end) in layout.offsets().items():
            np.testing.assert_allclose(result[start:end], trained[name].reshape(-1), atol=1e-6, err_msg=name)
            # Normalising takes out any shift by the bias before it; everything else learns.
            assert (np.abs(update[start:end]).max() > 0) == (name != "first.bias"), name
        np.testing.assert_array_equal(trained["first.weight"], trained["second.weight"])
        assert trained["norm.num_batches_tracked"].dtype == np.int64


def test_only_what_is_trained_is_told_to_be_parameters(bench: Bench) -> None:
    """Running statistics travel, and a momentum that carried a variance on could make it negative."""
    done = bench.train(1)
    assert done.parameters == ((0, 24), (32, 40)), "all but the running mean and variance"


def test_a_model_is_overwritten_by_the_one_of_the_round(bench: Bench) -> None:
    # Train, mix, evaluate: the worker scores exactly what the file holds, whatever it trained before.
    bench.works()
    mixed = bench.folder / "mixed.f32"
    (vector(bench.model) + vector(bench.update)).tofile(mixed)
    with np.load(bench.folder / "trained.npz") as trained:
        exact = {name: trained[name] for name in trained.files}
    layout = layout_of(bench)
    for name, (start, end) in layout.offsets().items():
        exact[name] = vector(mixed)[start:end].reshape(exact[name].shape)
    exact["second.weight"] = exact["first.weight"]
    np.savez(bench.folder / "trained.npz", **exact)
    bench.trainer.evaluate(1, mixed)
    done = bench.next(EvaluateDone)
    assert (done.round, done.samples, done.metrics["same"]) == (1, 8, 1.0)


def test_a_repeated_round_repeats(bench: Bench) -> None:
    first = bench.train(8).metrics
    assert bench.train(8).metrics == first
    bench.works()
    one = vector(bench.update)
    bench.works()
    np.testing.assert_array_equal(vector(bench.update), one)


def test_training_does_not_touch_the_base(bench: Bench) -> None:
    before = bench.model.read_bytes()
    bench.works()
    assert bench.model.read_bytes() == before


def test_a_model_of_another_size_fails_in_words(bench: Bench) -> None:
    other = bench.folder / "other.f32"
    np.zeros(39, "<f4").tofile(other)
    bench.trainer.train(1, other, bench.update)
    assert "couldn't unfold a vector of 39 elements: the layout has 40" in bench.next(Failed).text


# --- requests -------------------------------------------------------------------------------------------------------


def test_requests_are_done_one_after_the_other(bench: Bench) -> None:
    bench.trainer.train(1, bench.model, bench.update)
    bench.trainer.evaluate(11, bench.model)
    bench.trainer.train(7, bench.model, bench.update)
    assert bench.next(TrainDone).round == 1
    assert bench.next(EvaluateDone).round == 11
    assert bench.next(TrainDone).round == 7


def test_data_is_loaded_once(bench: Bench) -> None:
    bench.works()
    for round_ in (11, 12):
        bench.trainer.evaluate(round_, bench.model)
        assert bench.next(EvaluateDone).metrics["loads"] == 1


def test_optimizer_steps_are_progress(bench: Bench) -> None:
    bench.trainer.train(1, bench.model, bench.update)
    steps: list[Progress] = []
    bench.until(lambda: any(isinstance(event, TrainDone) for event in bench.events))
    steps = [event for event in bench.events if isinstance(event, Progress)]
    assert steps
    assert all(event.round == 1 and 0 <= event.step <= 4 for event in steps)


# --- what user code says and returns --------------------------------------------------------------------------------


def test_what_user_code_prints_becomes_log_lines_and_long_ones_are_cut(bench: Bench) -> None:
    bench.trainer.train(5, bench.model, bench.update)
    bench.until(lambda: "no newline at the end" in bench.printed())
    assert bench.printed()[:4] == ["epoch 1 of 1", "x" * LINE_CHARACTERS_MAX, "to stderr", "no newline at the end"]
    bench.until(lambda: any(isinstance(event, TrainDone) for event in bench.events))


def test_missing_samples_fail_in_words(bench: Bench) -> None:
    assert '"samples" is None, not a positive whole number' in bench.refuse(6)
    bench.works()


def test_a_metric_that_is_not_a_number_is_left_out_and_said(bench: Bench) -> None:
    bench.trainer.train(7, bench.model, bench.update)
    assert bench.next(LogLine).text == "metric 'loss' was left out: nan is not a finite number"
    done = bench.next(TrainDone)
    assert (done.samples, dict(done.metrics)) == (32, {"accuracy": 0.5})


def test_an_exception_names_file_and_line_and_the_worker_goes_on(bench: Bench) -> None:
    process = bench.trainer._process
    line = TASK.splitlines().index('        raise RuntimeError("the scanner is offline")') + 1
    assert bench.refuse(2) == f"RuntimeError: the scanner is offline (task.py, line {line})"
    bench.trainer.evaluate(2, bench.model)
    failed = bench.next(Failed)
    line = next(i for i, text in enumerate(TASK.splitlines(), 1) if "no such column" in text)
    assert (failed.kind, failed.round) == ("evaluate", 2)
    assert failed.text.endswith(f"(task.py, line {line})")
    bench.works()
    assert bench.trainer._process is process


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (MemoryError("Unable to allocate 3.00 GiB"), "MemoryError: Unable to allocate 3.00 GiB"),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), "OSError: [Errno 12] Cannot allocate memory"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "RuntimeError: DefaultCPUAllocator: can't"),
        (
            store_error("map model.f32", OSError(errno.ENOMEM, "Cannot allocate memory")),
            "couldn't map model.f32: Cannot",
        ),
    ],
    ids=["numpy", "system", "torch", "ours"],
)
def test_that_memory_was_missing_is_said_first_whoever_asked_for_it(error: Exception, text: str) -> None:
    worker = Worker.__new__(Worker)
    worker._path, worker._loader = Path("task.py"), None
    assert worker._sentence(error).startswith(f"there is not enough memory for it: {text}")
    assert worker._sentence(OSError(errno.ENOENT, "No such file")) == "FileNotFoundError: [Errno 2] No such file"
    assert worker._sentence(RuntimeError("no")) == "RuntimeError: no"


# --- what kills a worker --------------------------------------------------------------------------------------------


def test_a_worker_that_exits_is_replaced_and_what_is_queued_is_done(bench: Bench) -> None:
    bench.trainer.train(3, bench.model, bench.update)
    bench.trainer.train(1, bench.model, bench.update)
    failed = bench.next(Failed)
    assert (failed.kind, failed.round) == ("train", 3)
    assert failed.text.startswith("the training process ended with exit code 3; it will be started again")
    assert bench.next(TrainDone).round == 1


@pytest.mark.parametrize(("round_", "words"), [(9, "was killed by SIGSEGV"), (10, "ended with exit code 5")])
def test_a_crash_is_named(bench: Bench, round_: int, words: str) -> None:
    assert f"the training process {words}; " in bench.refuse(round_)


def test_a_worker_killed_from_outside_is_named(bench: Bench) -> None:
    bench.works()
    assert bench.trainer._process is not None
    bench.trainer.train(4, bench.model, bench.update)
    bench.trainer._process.send_signal(signal.SIGTERM)
    assert "was killed by SIGTERM" in bench.next(Failed).text


def test_a_worker_that_dies_idle_is_replaced_without_a_word(bench: Bench) -> None:
    bench.works()
    process = bench.trainer._process
    assert process is not None
    process.kill()
    bench.until(lambda: bench.trainer._process is None, 20)
    assert not any(isinstance(event, Failed) for event in bench.events)
    bench.works()


def test_what_is_abandoned_is_not_answered_and_its_worker_ends(bench: Bench) -> None:
    bench.works()
    process = bench.trainer._process
    assert process is not None
    bench.trainer.train(4, bench.model, bench.update)
    bench.trainer.evaluate(1, bench.model)
    bench.trainer.describe(bench.model)
    bench.trainer.abandon()
    assert process.poll() is not None
    bench.next(Described)  # what the node itself needs is done all the same
    assert not any(isinstance(event, Failed | TrainDone | EvaluateDone) for event in bench.events)
    bench.trainer.abandon()
    assert bench.trainer._process is None, "an idle worker holds memory, too"
    bench.works()


def test_a_worker_ends_when_the_nodes_end_closes(bench: Bench) -> None:
    bench.works()
    process, link = bench.trainer._process, bench.trainer._link
    assert process is not None
    assert link is not None
    link.shutdown(socket.SHUT_RDWR)
    assert process.wait(timeout=20) == 0
    bench.until(lambda: bench.trainer._process is None, 20)


def test_a_worker_that_hangs_is_stopped_and_replaced(tmp_path: Path, forkserver: Path) -> None:
    made = Bench(tmp_path, forkserver=forkserver, stall_s=2.0)
    try:
        made.start()  # Importing torch would count as a hang, too.
        made.trainer.describe(made.model)
        made.next(Described)
        process, began = made.trainer._process, time.monotonic()
        assert "the task made no optimizer step for 2 s and was stopped; raise task.stall_s" in made.refuse(4)
        assert 2 <= time.monotonic() - began < 12
        assert process is not None
        assert process.returncode == -signal.SIGKILL
    finally:
        made.trainer.close()


@pytest.mark.parametrize(("steps", "seconds", "used"), [(3, 1e9, 24), (0, 1e-9, 8)])
def test_a_site_with_a_budget_stops_there_and_says_what_it_used(
    tmp_path: Path, forkserver: Path, steps: int, seconds: float, used: int
) -> None:
    made = Bench(tmp_path, round_steps=steps, round_seconds=seconds, forkserver=forkserver)
    try:
        made.trainer.describe(made.model)
        made.next(Described)
        assert made.train(20).samples == used
        assert not made.printed(), "it has asked"
        made.update.unlink()
        made.trainer.train(1, made.model, made.update)
        made.until(lambda: any(isinstance(event, TrainDone) for event in made.events))
        assert max(event.step for event in made.events if isinstance(event, Progress)) == 4, "its last step is told"
        said = [text for text in made.printed() if "had no effect" in text]
        assert len(said) == 1, "a task that does not ask trains on, and the log says so"
    finally:
        made.trainer.close()


def test_a_file_that_cannot_be_loaded_fails_each_request_in_words(tmp_path: Path, forkserver: Path) -> None:
    made = Bench(tmp_path, forkserver=forkserver, task="import torch\n\n1 / 0\n")
    try:
        assert made.refuse(1).endswith("ZeroDivisionError: division by zero (task.py, line 3)")
        (tmp_path / "task.py").write_text(TASK)
        made.trainer.describe(made.model)  # The file was mended.
        made.next(Described)
    finally:
        made.trainer.close()


def test_a_sites_own_loader_replaces_the_tasks(tmp_path: Path, forkserver: Path) -> None:
    made = Bench(tmp_path, forkserver=forkserver, loader="def load_data(site):\n    return site.no_such_thing\n")
    try:
        made.trainer.describe(made.model)
        made.next(Described)
        text = made.refuse(1)
        assert text.startswith("AttributeError: 'SiteInfo' object has no attribute 'no_such_thing'")
        assert text.endswith("(my_loader.py, line 2)")
    finally:
        made.trainer.close()


def test_closing_ends_the_worker(tmp_path: Path, forkserver: Path) -> None:
    made = Bench(tmp_path, forkserver=forkserver)
    made.trainer.start()
    process = made.trainer._process
    made.trainer.close()
    assert process is not None
    assert process.poll() is not None
