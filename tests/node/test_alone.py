"""A site alone: the same as a run without a swarm, round by round, killed and gone on with, and begun anew for another."""

from __future__ import annotations

import json
import select
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from node.alone import Alone, Baseline, kept, owner_of, result_of, train_alone
from node.clock import Clock
from node.solo import describe, run_solo
from node.trainer import TrainerSettings
from swarm.errors import SwarmError
from swarm.machine import Report
from swarm.mixing.outer import lengthened
from swarm.vector import blob_digest, leaf_hashes

pytestmark = pytest.mark.real

# Half the way to the site's own value a round, and a little by chance: a round that is done again must draw the same.
TASK = """\
import torch


class Point(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.full((2,), 3.0))


def build_model():
    return Point()


def load_data(site):
    return float((site.folder / "value.txt").read_text())


def train(model, data, run):
    if data == 666:
        raise ValueError("no such value")
    with torch.no_grad():
        model.at.add_(0.5 * (data - model.at) + 0.01 * torch.randn(2))
    return {"samples": 5, "loss": 1.0}


def evaluate(model, data, run):
    return {"samples": 9, "distance": (model.at - data).abs().max().item()}
"""


@pytest.fixture
def settings(tmp_path: Path, forkserver: Path) -> TrainerSettings:
    (tmp_path / "task.py").write_text(TASK)
    (tmp_path / "value.txt").write_text("11")
    return TrainerSettings(
        task=tmp_path / "task.py", data=tmp_path, site="rural", seed=3, threads=1, forkserver=forkserver
    )


@pytest.fixture
def baseline(settings: TrainerSettings, tmp_path: Path) -> Baseline:
    describe(settings, tmp_path / "initial.f32")
    model = np.fromfile(tmp_path / "initial.f32", "<f4")
    digest = blob_digest(model.nbytes, leaf_hashes(model.data))
    return Baseline(owner=owner_of(b"l" * 32, b"t" * 32), rounds=4, initial=digest, blobs=tmp_path / "blobs")


def quiet(_: str) -> None:
    pass


def drive(alone: Alone, until: Callable[[Report], bool]) -> list[Report]:
    clock, said = Clock(), list[Report]()
    while alone.busy:
        select.select([alone.fileno()], [], [], 1.0)
        said += alone.poll(clock.now())
        if any(until(report) for report in said):
            break
    return said


def test_alone_is_what_a_run_without_a_swarm_reaches(
    settings: TrainerSettings, baseline: Baseline, tmp_path: Path
) -> None:
    solo = run_solo(settings, rounds=4, folder=tmp_path / "solo", tell=quiet)
    train_alone(tmp_path / "alone", settings, baseline, quiet)
    found = kept(tmp_path / "alone", baseline.owner)
    assert found is not None
    assert (found.round, found.samples, found.model.name) == (4, 5, "round-0004.f32")
    assert found.model.read_bytes() == (tmp_path / "solo" / "model.f32").read_bytes()
    assert result_of(tmp_path / "alone") == {"round": 4, "samples": 9, "metrics": solo.metrics}
    assert sorted(path.name for path in (tmp_path / "alone").iterdir()) == [
        "lock",
        "result.json",
        "round-0004.f32",
        "state.json",
    ]


@pytest.mark.parametrize("held", [False, True], ids=["built", "held"])
def test_alone_begins_with_the_model_and_not_with_what_an_outer_optimiser_would_remember(
    settings: TrainerSettings, baseline: Baseline, tmp_path: Path, held: bool
) -> None:
    train_alone(tmp_path / "plain", settings, baseline, quiet)
    whole = lengthened((tmp_path / "initial.f32").read_bytes(), 2)
    digest = blob_digest(len(whole), leaf_hashes(whole))
    if held:
        (tmp_path / "blobs").mkdir()
        (tmp_path / "blobs" / digest.hex()).write_bytes(whole)
    train_alone(tmp_path / "alone", settings, replace(baseline, initial=digest, slots=2), quiet)
    name = "round-0004.f32"
    assert (tmp_path / "alone" / name).read_bytes() == (tmp_path / "plain" / name).read_bytes()


def test_whoever_is_stopped_in_the_middle_ends_with_the_same_model(
    settings: TrainerSettings, baseline: Baseline, tmp_path: Path
) -> None:
    train_alone(tmp_path / "straight", settings, baseline, quiet)
    folder = tmp_path / "alone"
    alone = Alone(folder, settings)
    began = alone.begin(baseline)
    assert [report.text for report in began] == ["training alone, for comparison: 0 of 4 rounds are done"]
    drive(alone, lambda report: report.values.get("round") == 2)
    alone.stop()
    assert not alone.busy
    (folder / "update.f32").write_bytes(b"half a round")
    assert "2 of 4 rounds are done" in alone.begin(baseline)[0].text
    drive(alone, lambda _: False)
    assert (folder / "round-0004.f32").read_bytes() == (tmp_path / "straight" / "round-0004.f32").read_bytes()
    assert alone.begin(baseline) == [], "what is done is not done again"
    assert "4 of 6 rounds are done" in alone.begin(replace(baseline, rounds=6))[0].text
    alone.stop()


@pytest.mark.parametrize("damage", ["model", "state", "owner"])
def test_what_is_not_whole_or_of_another_swarm_is_begun_anew(
    settings: TrainerSettings, baseline: Baseline, tmp_path: Path, damage: str
) -> None:
    folder = tmp_path / "alone"
    train_alone(folder, settings, replace(baseline, rounds=1), quiet)
    if damage == "model":
        (folder / "round-0001.f32").write_bytes(bytes(8))
    elif damage == "state":
        (folder / "state.json").write_text("{")
    else:
        state = json.loads((folder / "state.json").read_text())
        (folder / "state.json").write_text(json.dumps({**state, "owner": "x"}))
    assert kept(folder, baseline.owner) is None
    alone = Alone(folder, settings)
    assert "0 of 4 rounds" in alone.begin(baseline)[0].text
    alone.stop()


def test_a_state_that_names_a_file_elsewhere_is_not_followed(baseline: Baseline, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(bytes(8))
    (tmp_path / "alone").mkdir()
    state = {"owner": baseline.owner, "round": 1, "model": "../secret", "sha256": "", "samples": 1}
    (tmp_path / "alone" / "state.json").write_text(json.dumps(state))
    assert kept(tmp_path / "alone", baseline.owner) is None


def test_two_do_not_train_in_one_folder(settings: TrainerSettings, baseline: Baseline, tmp_path: Path) -> None:
    first, second = (Alone(tmp_path / "alone", settings) for _ in range(2))
    first.begin(baseline)
    assert [report.event for report in second.begin(baseline)] == ["alone_failed"]
    assert not second.busy
    first.stop()


def test_a_task_that_fails_is_told_in_a_sentence(settings: TrainerSettings, baseline: Baseline, tmp_path: Path) -> None:
    (tmp_path / "value.txt").write_text("666")
    with pytest.raises(SwarmError, match="training alone failed: ValueError: no such value"):
        train_alone(tmp_path / "alone", settings, baseline, quiet)
    other = replace(baseline, initial=bytes(32))
    with pytest.raises(SwarmError, match="has not the model that the swarm started from"):
        train_alone(tmp_path / "alone2", settings, other, quiet)
