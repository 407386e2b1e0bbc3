"""A script's side of its rounds: what stays at the site, what is scored, and which model the loop ends with.

The node's side is a real trainer in a thread, with requests that the test makes; nothing is started and nobody mixes.
"""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from node.clock import Clock
from node.data import SiteData
from node.export import export_tensors
from node.local import found
from node.loop import protocol
from node.loop.declarations import declared_by
from node.loop.parameters import parameters_of
from node.loop.peer import Peer
from node.loop.trainer import ScriptTrainer
from node.site import Site
from node.trainer import EvaluateDone, TrainDone, TrainerEvent, TrainerSettings
from swarm.errors import SwarmError, UsageError

SCRIPT = """\
import sys
import swarm
from torch import nn

private = ["1.*"]
model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
swarm.join(sys.argv[1], model)
"""

WAIT_S = 20.0


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """One of two sites with a signed charter. Of its model, weight and bias of layer 0 travel."""
    folder = tmp_path_factory.mktemp("r")
    (folder / "script.py").write_text(SCRIPT)
    data = [SiteData(f"site-{index}", folder / f"data-{index}", 5, 0, 2) for index in range(2)]
    return found(folder, data, folder / "script.py", rounds=12, metrics=("loss",), seed=1)[0].site


class Node:
    """The node's side: what the test asks for, and what comes of it."""

    def __init__(self, site: Site) -> None:
        settings = TrainerSettings(task=site.folder / "task.py", data=site.folder, site="site-0", seed=1)
        self.trainer = ScriptTrainer(settings, protocol.socket_path(site.run), folder=site.folder)
        self.said: SimpleQueue[TrainerEvent] = SimpleQueue()
        self.ends, self._lock = threading.Event(), threading.Lock()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        clock = Clock()
        while not self.ends.is_set():
            select.select([self.trainer.fileno()], [], [], 0.02)
            with self._lock:
                for event in self.trainer.poll(clock.now()):
                    self.said.put(event)

    def train(self, round_: int, folder: Path, values: tuple[float, float]) -> Path:
        model, update = folder / f"model-{round_}", folder / f"update-{round_}"
        np.array(values, "<f4").tofile(model)
        with self._lock:
            self.trainer.train(round_, model, update)
        return update

    def evaluate(self, round_: int, folder: Path) -> None:
        model = folder / f"common-{round_}"
        np.array([1.0, 2.0], "<f4").tofile(model)
        with self._lock:
            self.trainer.evaluate(round_, model)

    def next(self, kind: type[TrainerEvent]) -> TrainerEvent:  # type: ignore[valid-type]
        while not isinstance(event := self.said.get(timeout=WAIT_S), kind):
            pass
        return event

    def close(self) -> None:
        self.ends.set()
        self._thread.join()
        self.trainer.close()


@pytest.fixture
def node(site: Site) -> Iterator[Node]:
    made = Node(site)
    yield made
    made.close()


class Run:
    """One run of the script: a model as it is built, and the peer around it."""

    def __init__(self, site: Site, *, connect: bool = True) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        said = declared_by(site.folder / "task.py", {})
        self.printed: list[str] = []
        signed, parameters = site.load_charter(), parameters_of(self.model, said, site.folder)
        self.peer = Peer(site, signed, parameters, self.model, said=self.printed.append, declared=said)
        assert not connect or self.peer._connect()

    def head(self) -> float:
        return float(self.model[1].bias.item())  # type: ignore[union-attr, operator]

    def add(self, to_head: float, to_body: float) -> None:
        with torch.no_grad():
            self.model[1].bias.add_(to_head)  # type: ignore[union-attr, operator]
            self.model[0].bias.add_(to_body)  # type: ignore[union-attr, operator]


def exported(site: Site, round_: int, bias: float, ledger: str = "") -> Path:
    """What a node leaves at the end of a run: the tensors that travel."""
    path = site.models / f"round-{round_:04d}.safetensors"
    arrays = {"0.bias": np.array([bias], np.float32), "0.weight": np.array([[1.0]], np.float32)}
    export_tensors(arrays, path, {"ledger": ledger or site.load_charter().ledger_id.hex()})
    return path


def ends_after(monkeypatch: pytest.MonkeyPatch, round_: int, *, complete: bool = True) -> None:
    """Let the ledger be one whose last committed round is this."""
    state = SimpleNamespace(complete=complete, committed=SimpleNamespace(round=round_))
    monkeypatch.setattr("node.cli.ledger.reading.read", lambda _: (None, SimpleNamespace(state=state)))


@pytest.fixture
def models(site: Site) -> Iterator[Site]:
    site.models.mkdir(exist_ok=True)
    yield site
    for path in site.models.iterdir():
        path.unlink()


@pytest.mark.parametrize("last", [3, 12, 15])
def test_a_script_that_comes_late_ends_with_the_model_of_the_last_round_there_was(
    last: int, models: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The charter has 12 rounds. A run may stop after 3, and members may add 3."""
    exported(models, last, 5.0)
    exported(models, 99, 6.0, ledger="of another swarm")
    (models.models / "round-0098.safetensors").write_bytes(b"garbage")
    ends_after(monkeypatch, last)
    run = Run(models, connect=False)
    run.peer.begin()
    assert not run.peer.running
    assert run.model[0].bias.item() == 5.0
    assert any(f"round-{last:04d}.safetensors" in line for line in run.printed)


def test_a_run_that_has_got_more_rounds_since_it_ended_is_not_over(
    models: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported(models, 12, 5.0)
    run = Run(models, connect=False)
    ends_after(monkeypatch, 13, complete=False)
    assert not run.peer._complete()


def test_a_run_that_is_done_and_has_no_model_is_told_so_and_not_passed_for_one(models: Site) -> None:
    run = Run(models, connect=False)
    with pytest.raises(SwarmError, match="couldn't take the model of a run that is done") as caught:
        run.peer._finish("DONE", "the run is complete")
    assert "--exit-when-done" in caught.value.hint
    (models.models / "round-0012.safetensors").write_bytes(b"cut short")
    with pytest.raises(SwarmError, match="couldn't take the model of a run that is done"):
        run.peer._finish("DONE", "the run is complete")


def test_a_private_part_stays_from_round_to_round_and_through_a_restart(site: Site, node: Node, tmp_path: Path) -> None:
    update = node.train(1, tmp_path, (1.0, 2.0))
    run = Run(site)
    first = run.head()
    run.peer.receive()
    assert (run.model[0].bias.item(), run.model[0].weight.item()) == (1.0, 2.0)
    run.add(to_head=10.0, to_body=0.5)
    assert run.peer.send(samples=5)
    assert isinstance(node.next(TrainDone), TrainDone)
    # What leaves is two numbers, of what travels.
    assert np.fromfile(update, "<f4").tolist() == [0.5, 0.0]

    node.train(2, tmp_path, (1.5, 2.0))
    run.peer.receive()
    assert run.head() == pytest.approx(first + 10)
    run.add(to_head=100.0, to_body=0.0)
    run.peer.close()  # In the middle of round 2: what it had done of that is lost.

    again = Run(site)
    again.peer.receive()
    assert (again.peer.round, again.head()) == (2, pytest.approx(first + 10))
    again.add(to_head=1.0, to_body=0.0)
    assert again.peer.send(samples=5)
    node.next(TrainDone)
    # A round that is asked for once more begins with what it began with.
    node.train(2, tmp_path, (1.5, 2.0))
    again.peer.receive()
    assert again.head() == pytest.approx(first + 10)
    again.add(to_head=1.0, to_body=0.0)
    again.peer.send(samples=5)
    node.next(TrainDone)
    again.peer.close()

    kept = site.private / site.load_charter().ledger_id.hex()[:16]
    assert sorted(path.name for path in kept.iterdir()) == [
        "round-0000000001.safetensors",
        "round-0000000002.safetensors",
    ]
    assert kept.stat().st_mode & 0o077 == 0
    (kept / "round-0000000002.safetensors").write_bytes(b"garbage")
    node.train(3, tmp_path, (1.5, 2.0))
    damaged = Run(site)
    damaged.peer.receive()
    assert damaged.head() == pytest.approx(first + 10)
    assert any("is damaged" in line for line in damaged.printed)
    damaged.peer.close()


def node_of(run: Run) -> subprocess.Popen[bytes]:
    """A process in the place of the node that a script has started."""
    run.peer._child = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"], start_new_session=True)
    run.peer._catch_signals()
    return run.peer._child


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_that_ends_a_script_ends_the_node_that_it_started(site: Site, number: signal.Signals) -> None:
    before = signal.signal(number, signal.SIG_DFL)  # Whoever runs this under nohup has it ignored.
    try:
        run = Run(site, connect=False)
        child = node_of(run)
        with pytest.raises(SystemExit) as ended:
            signal.raise_signal(number)
        assert ended.value.code == 128 + number
        run.peer._leave()
        assert child.returncode == -signal.SIGTERM
        assert signal.getsignal(number) is signal.SIG_DFL
    finally:
        signal.signal(number, before)


def test_a_signal_while_others_are_given_the_result_ends_the_node_too(site: Site) -> None:
    run = Run(site, connect=False)
    child = node_of(run)
    run.peer._over = "the run is DONE"
    run.peer._say = lambda _: signal.raise_signal(signal.SIGTERM)
    with pytest.raises(SystemExit):
        run.peer.close()
    assert child.returncode == -signal.SIGTERM


def test_a_script_that_handles_a_signal_itself_goes_on_doing_so(site: Site) -> None:
    def own(*_: object) -> None:
        """Go on. (To ignore the signal would be handed down to the node, which then waits to be killed.)"""

    was = signal.signal(signal.SIGTERM, own)
    try:
        run = Run(site, connect=False)
        node_of(run)
        signal.raise_signal(signal.SIGTERM)
        run.peer.close()
        assert signal.getsignal(signal.SIGTERM) is own
    finally:
        signal.signal(signal.SIGTERM, was)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_in_a_wrapper_is_the_model(site: Site) -> None:
    """Nothing compiles: the wrapper does that when it is first called."""
    run = Run(site, connect=False)
    wrapped = [torch.compile(run.model), nn.DataParallel(run.model), torch.compile(nn.DataParallel(run.model))]
    for one in wrapped:
        assert run.peer.parameters_of(one) is run.peer._parameters
    twin = Run(site, connect=False).model
    with torch.no_grad():
        twin[0].bias.fill_(9.0)  # type: ignore[union-attr, operator]
    found = run.peer.parameters_of(torch.compile(twin))
    assert [spec.name for spec in found.layout.tensors] == ["0.bias", "0.weight"]
    assert found.read()[0] == 9.0
    with pytest.raises(UsageError, match="the model is not the one received: tensor"):
        run.peer.parameters_of(nn.Sequential(nn.Linear(2, 1), nn.Linear(1, 1)))


def test_a_script_without_a_function_hears_once_that_nothing_is_scored(site: Site, node: Node, tmp_path: Path) -> None:
    run = Run(site)
    for round_ in (1, 2):
        node.train(round_, tmp_path, (1.0, 2.0))
        run.peer.receive()
        run.peer.send(samples=1)
        node.next(TrainDone)
    assert [line for line in run.printed if "peer.evaluate()" in line] == run.printed[-1:]
    run.peer.close()


def test_that_others_see_none_of_the_metrics_is_said_once(site: Site, node: Node, tmp_path: Path) -> None:
    run = Run(site)
    assert "mse" not in site.load_charter().charter.metrics
    run.peer.evaluate(lambda _: {"samples": 9, "mse": 0.5})
    for round_ in (3, 4):
        node.evaluate(round_, tmp_path)
    node.train(5, tmp_path, (1.0, 2.0))
    run.peer.receive()
    assert [line.partition(":")[0] for line in run.printed if "mse" in line] == ["other sites will see none of mse"]
    run.peer.close()


def test_cases_are_scored_as_in_a_task_file_and_counted_by_kind(site: Site, node: Node, tmp_path: Path) -> None:
    """Three cases of class 0 and two of class 1; at 0.5 one of class 0 is taken for the other: four of five."""
    run = Run(site)
    labels, scores = torch.tensor([0, 0, 0, 1, 1]), torch.tensor([0.1, 0.2, 0.6, 0.5, 0.9], requires_grad=True)
    run.peer.evaluate(lambda _: {"labels": labels, "scores": scores})
    node.evaluate(3, tmp_path)
    node.train(4, tmp_path, (1.0, 2.0))
    run.peer.receive()
    done = node.next(EvaluateDone)
    assert isinstance(done, EvaluateDone)
    assert (done.samples, done.groups) == (5, (3, 2))
    assert done.metrics["accuracy"] == pytest.approx(0.8)
    assert not any("failed" in line for line in run.printed)

    run.peer.evaluate(lambda _: (0.5, 0.9))  # type: ignore[arg-type, return-value]
    run.peer.send(samples=1)
    for round_ in (4, 5):
        node.evaluate(round_, tmp_path)
    node.train(6, tmp_path, (1.0, 2.0))
    run.peer.receive()
    [line] = [line for line in run.printed if "not a dict" in line]
    assert line.startswith("evaluating the model of round 4 failed: couldn't use what evaluate() returned: it is tuple")
    run.peer.close()
