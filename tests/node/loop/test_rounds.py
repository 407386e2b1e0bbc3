"""A script's side of its rounds: what stays at the site, what is scored, and which model the loop ends with.

The node's side is a real trainer in a thread, with requests that the test makes; nothing is started and nobody mixes.
"""

from __future__ import annotations

import select
import threading
from collections.abc import Iterator
from pathlib import Path
from queue import SimpleQueue

import numpy as np
import pytest
import torch
from torch import nn

from node.clock import Clock
from node.data import SiteData
from node.local import found
from node.loop import protocol
from node.loop.declarations import declared_by
from node.loop.parameters import parameters_of
from node.loop.peer import Peer
from node.loop.trainer import ScriptTrainer
from node.site import Site
from node.trainer import TrainDone, TrainerEvent, TrainerSettings

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

    def __init__(self, site: Site) -> None:
        torch.manual_seed(1)
        self.model = nn.Sequential(nn.Linear(1, 1), nn.Linear(1, 1))
        said = declared_by(site.folder / "task.py", {})
        self.printed: list[str] = []
        signed, parameters = site.load_charter(), parameters_of(self.model, said, site.folder)
        self.peer = Peer(site, signed, parameters, self.model, said=self.printed.append, declared=said)
        assert self.peer._connect()

    def head(self) -> float:
        return float(self.model[1].bias.item())  # type: ignore[union-attr, operator]

    def add(self, to_head: float, to_body: float) -> None:
        with torch.no_grad():
            self.model[1].bias.add_(to_head)  # type: ignore[union-attr, operator]
            self.model[0].bias.add_(to_body)  # type: ignore[union-attr, operator]


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
