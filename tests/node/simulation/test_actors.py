"""The same simulation on a Ray cluster: two actors on this machine, and nobody can tell."""

from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from torch import nn

from node.simulation import actors
from node.simulation.learning import LocalTraining
from node.simulation.run import Exact, Experiment, Gossip, Round, Simulation
from node.task import load_task
from swarm.errors import UsageError
from tests.node.simulation.learners import noise, perceptron, unequal
from topologies.schedules import build

needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="Ray is not installed: pip install 'swarm-node[ray]'"
)
pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

N = 24
SIZES = tuple(5 + 7 * peer % 40 for peer in range(N))


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """One cluster for all: starting it takes longer than any of these."""
    yield actors.LOCAL
    if "ray" in sys.modules:
        sys.modules["ray"].shutdown()


def experiment(exchange: Gossip | Exact, **changes: object) -> Experiment:
    standard = Experiment(
        build=perceptron,
        train=noise(),
        test=noise(1200),
        shares=unequal(SIZES),
        local=LocalTraining(learning_rate=0.1, batch=10, momentum=0.5),
        exchange=exchange,
        rounds=3,
        seed=4,
        tested=5,
        workers=2,
    )
    return dataclasses.replace(standard, **changes)  # type: ignore[arg-type]


def told(e: Experiment) -> tuple[list[Round], list[bytes], bytes]:
    """All that is known after every round, every model and their mean."""
    with Simulation(e) as simulation:
        rounds = [dataclasses.replace(simulation.next_round(), seconds=0, seconds_learning=0) for _ in range(e.rounds)]
        models = [simulation.model(peer).tobytes() for peer in range(len(e.shares))]
        return rounds, models, simulation.average_model().tobytes()


@needs_ray
@pytest.mark.filterwarnings("default")  # Ray's own are not ours to mend
@pytest.mark.parametrize(
    "changes",
    [
        {"exchange": Gossip(mixing=build("ring", N).mixing)},
        {"exchange": Gossip(mixing=build("base2", N).mixing, exchanges=2, by_samples=True)},
        {"exchange": Gossip(mixing=build("complete", N).mixing)},
        {"exchange": Exact(fraction=0.5)},
        {
            "exchange": Gossip(mixing=build("ring", N).mixing),
            "local": LocalTraining(learning_rate=0.1, batch=None, momentum=0.9, keep_momentum=True),
        },
        {"exchange": Gossip(mixing=build("ring", N).mixing), "form": "loop"},
        {"exchange": Gossip(mixing=build("ring", N).mixing), "form": "vmap", "workers": 1},
    ],
    ids=["ring", "base2, twice, by samples", "complete", "exact", "kept momentum", "loop", "vmap, one actor"],
)
def test_actors_give_what_processes_give_bit_for_bit(cluster: str, changes: dict[str, object]) -> None:
    e = experiment(**changes)  # type: ignore[arg-type]
    assert told(dataclasses.replace(e, cluster=cluster)) == told(e)


@needs_ray
@pytest.mark.filterwarnings("default")
def test_columns_that_travel_in_strips_come_to_the_same(cluster: str, monkeypatch: pytest.MonkeyPatch) -> None:
    wide = dataclasses.replace(
        experiment(Gossip(mixing=build("ring", N).mixing)),
        build=lambda: nn.Sequential(nn.Linear(12, 2000), nn.ReLU(), nn.Linear(2000, 4)),
        rounds=2,
    )
    monkeypatch.setattr(actors, "STRIP_BYTES", 1)  # a block at a time
    monkeypatch.setattr("node.simulation.mixing.BLOCK_BYTES", 1 << 16)
    assert told(dataclasses.replace(wide, cluster=cluster)) == told(wide)


TASK = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(12, 4)

    def forward(self, x):
        if FAILS and not self.training:
            raise ValueError("no such feature")
        return self.last(x).tanh()

def build_model(): return Net()
def load_data(site): ...
def train(model, data, run): ...
def evaluate(model, data, run): ...
"""


@needs_ray
@pytest.mark.filterwarnings("default")
@pytest.mark.parametrize("fails", [False, True])
def test_a_model_out_of_a_task_file_travels_with_its_code(cluster: str, tmp_path: Path, fails: bool) -> None:
    path = tmp_path / "net.py"
    path.write_text(TASK.replace("FAILS", str(fails)))
    e = experiment(Gossip(mixing=build("ring", N).mixing), build=load_task(path).build_model, form="loop", rounds=1)
    on_ray = dataclasses.replace(e, cluster=cluster)
    if fails:
        with pytest.raises(UsageError, match=r"couldn't go on with the simulation: ValueError: no such feature"):
            told(on_ray)
    else:
        assert told(on_ray) == told(e)


@needs_ray
@pytest.mark.filterwarnings("default")
def test_more_actors_than_processors_are_refused(cluster: str) -> None:
    told(experiment(Exact(), cluster=cluster, rounds=1))
    with pytest.raises(UsageError, match="couldn't start 500 actors: the Ray cluster has") as refused:
        told(experiment(Exact(), cluster=cluster, workers=500))
    assert "take at most" in refused.value.hint


@needs_ray
@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:ten", "127.0.0.1:70000"])
def test_a_cluster_that_nobody_answers_for_is_refused_at_once(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import ray

    monkeypatch.setattr(ray, "is_initialized", lambda: False)
    with pytest.raises(UsageError, match=f"couldn't reach the Ray cluster {address}: ") as refused:
        told(experiment(Exact(), cluster=address))
    assert "`ray start --head`" in refused.value.hint


def test_without_ray_it_is_refused_in_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(actors, "available", lambda: False)
    with pytest.raises(UsageError, match="Ray is not installed") as refused:
        told(experiment(Exact(), cluster=actors.LOCAL))
    assert refused.value.hint == "pip install 'swarm-node[ray]'"


def test_nothing_imports_ray_that_was_not_asked_to() -> None:
    code = "import sys, node.simulation.compare; print('ray' in sys.modules, 'pyarrow' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=Path.cwd())
    assert found.stdout.split() == ["False", "False"]


@pytest.mark.parametrize("parts", [1, 2, 3, 7])
def test_rows_are_dealt_between_stacks_by_their_examples(parts: int) -> None:
    stacks = [slice(4 * i, 4 * i + 4) for i in range(7)]
    examples: NDArray[np.int64] = np.array([100] * 8 + [1] * 20)
    dealt = actors._dealt(stacks, examples.tolist(), parts)
    assert [span.start for span in dealt] == [0, *(span.stop for span in dealt[:-1])]
    assert dealt[-1].stop == 28
    assert all(span.start % 4 == 0 and span.stop > span.start for span in dealt)
    if parts == 2:
        assert dealt[0] == slice(0, 8) or sum(examples[dealt[0]]) <= 800
