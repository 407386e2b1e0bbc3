"""Outer optimisers from the command line: drafted, shown, continued; and what reads an outcome as a model."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from safetensors.numpy import load_file

from node.cli.charter import _taken_over, described_task
from node.export import export_model
from node.site import Site
from swarm import charter as c
from swarm.errors import UsageError
from swarm.ledger.state import State, genesis
from swarm.mixing.outer import lengthened
from swarm.vector import Layout, TensorSpec, blob_digest, leaf_hashes
from tests.builders import digest, make_swarm
from tests.node.test_cli_charter import CODE, LAYOUT, TASK, data, new, said, sites

NORMED = """
import torch


def build_model():
    return torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2))


def load_data(site):
    return None


def train(model, data, run):
    return {}


def evaluate(model, data, run):
    return {}
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands are typed."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_a_charter_says_which_step_a_round_takes(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "node.cli.charter.described_task",
        lambda *_: (c.Task("t", CODE, LAYOUT, 1234, digest("m"), 7), "100-140 150-151"),
    )
    sites(home)
    (home / "task.py").write_text(TASK)
    text = said(*new("a/card.toml", "b/card.toml"), "--outer", "fedadam:0.01,0.5")
    line = next(line for line in text.splitlines() if line.startswith("outer"))
    assert line.startswith("outer         fedadam: the mean is carried on by a momentum and divided by ")
    assert line.endswith("; rate 0.01, beta1 0.5, beta2 0.99, tau 0.001")
    assert "buffers       41 of the parameters are measured and not learned: those are averaged" in text
    charter = c.from_toml((home / "charter.toml").read_text()).charter
    charter.check()
    assert charter.round.outer == "fedadam:0.01,0.5"
    assert charter.outcome_bytes == 3 * charter.model_bytes
    assert data("charter", "show", "charter.toml")["outer"] == "fedadam:0.01,0.5"
    assert said("charter", "show", "charter.toml").count("outer ") == 1


def test_without_one_nothing_is_said_of_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "node.cli.charter.described_task", lambda *_: (c.Task("t", CODE, LAYOUT, 1234, digest("m"), 7), "")
    )
    sites(home)
    (home / "task.py").write_text(TASK)
    assert "outer" not in said(*new("a/card.toml", "b/card.toml"))
    assert data("charter", "show", "charter.toml")["outer"] == "none"


def test_the_outcome_to_start_from_remembers_nothing_and_buffers_are_found(tmp_path: Path) -> None:
    path = tmp_path / "normed.py"
    path.write_text(NORMED)
    plain, none = described_task(path, 7)
    task, buffers = described_task(path, 7, None, 2)
    assert none == ""
    # 0.bias 2, 0.weight 6, 1.bias 2, 1.running_mean 2, 1.running_var 2, 1.weight 2.
    assert (task.parameters, buffers) == (16, "10-14")
    assert msgspec.structs.replace(task, initial_model=plain.initial_model) == plain
    assert task.initial_model != plain.initial_model


# --- a successor ------------------------------------------------------------------------------------------------------


class Succession:
    """A folder of a swarm under `outer`, whose last outcome is drawn; and drafts that go on from it."""

    def __init__(self, folder: Path, outer: str) -> None:
        swarm = make_swarm(2, outer=outer)
        self.folder, self.charter = folder, swarm.charter
        rng = np.random.default_rng(1)
        self.outcome = rng.standard_normal(self.charter.outcome_bytes // 4).astype(np.float32).tobytes()
        self.digest = blob_digest(len(self.outcome), leaf_hashes(self.outcome))
        state = genesis(swarm.signed)
        done = msgspec.structs.replace(state.committed, round=3, model=self.digest)
        self.state: State = msgspec.structs.replace(state, committed=done)
        self.site = Site(folder / "site")
        self.site.blobs.mkdir(parents=True)
        (self.site.blobs / self.digest.hex()).write_bytes(self.outcome)

    def draft(self, outer: str) -> tuple[c.Charter, Path]:
        task = msgspec.structs.replace(self.charter.task, initial_model=self.digest)
        policy = msgspec.structs.replace(self.charter.round, outer=outer)
        draft = msgspec.structs.replace(self.charter, task=task, round=policy)
        return _taken_over(draft, self.state, self.site.folder, self.folder)


@pytest.mark.parametrize(("before", "after"), [("none", "none"), ("fedadam", "fedadam:0.01"), ("nesterov", "nesterov")])
def test_a_successor_with_the_same_optimiser_goes_on_with_what_it_remembers(
    tmp_path: Path, before: str, after: str
) -> None:
    was = Succession(tmp_path, before)
    draft, path = was.draft(after)
    assert draft.task.initial_model == was.digest
    assert path == was.site.blobs / was.digest.hex()


@pytest.mark.parametrize(
    ("before", "after"), [("none", "fedadam"), ("fedadam", "none"), ("fedavgm", "nesterov"), ("fedadam", "fedyogi")]
)
def test_a_successor_with_another_begins_with_the_model_and_nothing_remembered(
    tmp_path: Path, before: str, after: str
) -> None:
    was = Succession(tmp_path, before)
    draft, path = was.draft(after)
    outcome = lengthened(was.outcome[: was.charter.model_bytes], draft.outer.slots)
    assert path.read_bytes() == outcome
    assert draft.task.initial_model == blob_digest(len(outcome), leaf_hashes(outcome))
    assert path.name == draft.task.initial_model.hex()


def test_a_successor_whose_model_is_not_there_is_refused_in_words(tmp_path: Path) -> None:
    was = Succession(tmp_path, "none")
    (was.site.blobs / was.digest.hex()).unlink()
    with pytest.raises(UsageError, match="the model to start from, .* cannot be read: No such file") as caught:
        was.draft("fedadam")
    assert caught.value.hint
    (was.site.blobs / was.digest.hex()).write_bytes(b"1234")
    with pytest.raises(UsageError, match="is too short for a model of 32 parameters"):
        was.draft("fedadam")


# --- readers ----------------------------------------------------------------------------------------------------------


def test_an_exported_model_is_the_beginning_of_an_outcome(tmp_path: Path) -> None:
    layout = Layout((TensorSpec("a", (2,), "float32"), TensorSpec("b", (1, 3), "float32")))
    np.arange(15, dtype="<f4").tofile(tmp_path / "outcome")
    export_model(tmp_path / "outcome", layout, tmp_path / "model.safetensors", {})
    tensors = load_file(tmp_path / "model.safetensors")
    assert {name: tensor.tolist() for name, tensor in tensors.items()} == {"a": [0.0, 1.0], "b": [[2.0, 3.0, 4.0]]}


def test_members_fetch_outcomes_and_no_update_may_be_as_long(tmp_path: Path) -> None:
    charter = make_swarm(4, elements=10, outer="fedadam").charter
    assert [size for size in range(1, 200) if charter.moves(size)] == [40, 120]
    sliced = make_swarm(4, elements=10, outer="nesterov", route="sharded").charter
    assert [size for size in range(1, 200) if sliced.moves(size)] == [8, 12, 40, 80]


@pytest.mark.parametrize(
    ("outer", "buffers", "words"),
    [
        ("none", "0-3", "it says where the model's buffers lie, and its outer optimiser is none"),
        ("fedadam", "0-33", "couldn't take '0-33' for the buffers of a model of 32 parameters"),
        ("fedadam", "3", "couldn't take '3' for the buffers"),
    ],
)
def test_buffers_that_mean_nothing_are_refused(outer: str, buffers: str, words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_swarm(2, outer=outer, buffers=buffers)
    assert words in caught.value.message
    assert caught.value.hint
