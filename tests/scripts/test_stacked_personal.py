"""What is stacked for a hundred sites is what a site's trainer process does: both learn the same from the same digits."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import nn

from node.simulation.learning import Dataset, LocalTraining
from node.simulation.run import Exact
from scripts import stacked_personal as stacked
from scripts.many_sites import Sites
from tests.node.workers import Bench, benches

SITES, EXAMPLES, ROUNDS, RATE, BATCH, SEED = 3, 40, 3, 0.2, 16, 5
"""Sixteen does not divide forty: the last step of a pass is a smaller one."""

NAMES = [f"site-{place}" for place in range(SITES)]

TASK = f"""\
import numpy as np
import torch
from torch import nn


def build_model():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(64, 12))
    model.add_module("relu", nn.ReLU())
    model.add_module("head", nn.Linear(12, 10))
    return model


def load_data(site):
    with np.load(site.folder / "data.npz") as file:
        return torch.from_numpy(file["x"]), torch.from_numpy(file["y"])


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr={RATE})
    x, y = data
    for batch in torch.randperm(len(x)).split({BATCH}):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    return {{"samples": len(x)}}


def evaluate(model, data, run):
    loss = nn.functional.cross_entropy(model(data[0]), data[1])
    return {{"samples": len(data[1]), "loss": loss.item()}}
"""
PRIVATE = '\n\nprivate = ["head.*"]\n'
SAID = {
    stacked.FEDAVG: ("", "", "swarm"),
    stacked.FEDPER: (PRIVATE, "", "swarm"),
    stacked.FEDREP: (PRIVATE + "fedrep = 1\n", "", "swarm"),
    stacked.DITTO: ("", "ditto:0.5", "personal"),
}
"""What a task file declares, what the charter adds, and which model is the site's."""


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


@pytest.fixture(scope="module")
def digits() -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """The sites' shares, one behind the other: by label, so that sites differ."""
    x, y = load_digits(return_X_y=True)
    order = np.argsort(y, kind="stable")[:: len(y) // (SITES * EXAMPLES)][: SITES * EXAMPLES]
    return (x[order] / 16).astype(np.float32), y[order].astype(np.int64)


def shares() -> NDArray[np.int64]:
    return np.arange(SITES * EXAMPLES).reshape(SITES, EXAMPLES)


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))


def swarm(method: str, digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> stacked.Swarm:
    torch.manual_seed(SEED)
    x, y = map(torch.from_numpy, digits)
    layers = stacked.layers_of(perceptron())
    of_all = torch.from_numpy(shares())
    return stacked.Swarm(method, layers, x, y, of_all, rate=RATE, batch=BATCH, seed=SEED, names=NAMES, strength=0.5)


def losses(found: stacked.Swarm) -> list[float]:
    return [
        float(nn.functional.cross_entropy(stacked.outputs_of(found.own(site), found.x[share]), found.y[share]))
        for site, share in enumerate(found.shares)
    ]


@pytest.mark.parametrize("method", SAID)
def test_sites_learn_what_their_trainer_processes_do(
    made: list[Bench], tmp_path: Path, digits: tuple[NDArray[np.float32], NDArray[np.int64]], method: str
) -> None:
    declares, local, which = SAID[method]
    for name, share in zip(NAMES, shares(), strict=True):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "data.npz", x=digits[0][share], y=digits[1][share])
        made.append(Bench(tmp_path / name, TASK + declares, site=name, local=local, seed=SEED))
        made[-1].describe()
    model, ours = made[0].vector(), swarm(method, digits)
    for round_ in range(1, ROUNDS + 1):
        updates = []
        for site in made:
            site.put(model)
            updates.append(site.train(round_))
        model = model + np.mean(updates, axis=0)
        ours.next_round(range(SITES))
    for site in made:
        site.put(model)
    theirs = [site.evaluate(ROUNDS, which)["loss"] for site in made]
    assert losses(ours) == pytest.approx(theirs, abs=1e-4)


def test_without_anything_of_ones_own_it_is_the_simulators_exact_mean(
    digits: tuple[NDArray[np.float32], NDArray[np.int64]],
) -> None:
    x, y = map(torch.from_numpy, digits)
    local = LocalTraining(learning_rate=RATE, batch=BATCH)
    sites = Sites(build=perceptron, train=Dataset(x, y), shares=[*shares()], local=local, seed=SEED, workers=1)
    [model] = sites.together(Exact(), ROUNDS)
    ours = swarm(stacked.FEDAVG, digits)
    for _ in range(ROUNDS):
        ours.next_round(range(SITES))
    flat = sites.model()
    assert torch.cat([one.flatten() for one in ours.layers]).tolist() == pytest.approx(
        np.concatenate([flat.view(torch.from_numpy(model))[name].flatten() for name in NAMED]), abs=1e-5
    )


NAMED = ("0.weight", "0.bias", "2.weight", "2.bias")


def test_who_did_not_train_keeps_what_is_its_own(digits: tuple[NDArray[np.float32], NDArray[np.int64]]) -> None:
    for method in (stacked.FEDPER, stacked.FEDREP, stacked.DITTO):
        ours = swarm(method, digits)
        before = [one[2].clone() for one in ours.personal]
        ours.next_round([0, 1])
        assert all(torch.equal(one[2], was) for one, was in zip(ours.personal, before, strict=True))
        assert not torch.equal(ours.personal[-1][0], before[-1])
