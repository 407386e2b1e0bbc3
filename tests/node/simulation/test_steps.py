"""The three forms of local training take the steps of a plain loop, and of the node's own trainer process."""

from __future__ import annotations

import re
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import node.ranks
import node.simulation.loop
import node.worker
from node.simulation.choice import choose_steps, why_not_stackable
from node.simulation.flat import FlatModel
from node.simulation.learning import BINARY, CROSS_ENTROPY, Dataset, LocalTraining, Objective
from node.simulation.mlp import recognise
from node.simulation.steps import Trainee, lockstep
from node.task import SiteInfo, round_seed
from swarm.errors import UsageError
from tests.node.simulation.learners import noise, perceptron, plainly_trained, unequal

SIZES = (50, 33, 33, 17, 4, 1)

SETTINGS = {
    "plain": LocalTraining(learning_rate=0.1, batch=16),
    "decay": LocalTraining(learning_rate=0.1, batch=16, weight_decay=0.01),
    "momentum": LocalTraining(learning_rate=0.1, batch=16, momentum=0.9, epochs=3),
    "momentum and decay": LocalTraining(learning_rate=0.05, batch=10, momentum=0.8, weight_decay=0.01, epochs=2),
    "whole share": LocalTraining(learning_rate=0.2, batch=None, momentum=0.5, epochs=4),
    "kept momentum": LocalTraining(learning_rate=0.05, batch=8, momentum=0.9, keep_momentum=True),
}


def train_rounds(
    form: str, model: FlatModel, data: Dataset, training: LocalTraining, objective: Objective = CROSS_ENTROPY
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what two rounds of training make of six peers, by this form and by the plain loop."""
    steps = choose_steps(model, objective, data, training, form)  # type: ignore[arg-type]
    assert form in ("auto", steps.name)
    shares = unequal(SIZES, len(data))
    rows = model.initial.repeat(len(shares), 1)
    velocities = torch.zeros_like(rows) if training.keep_momentum else None
    for round_ in (1, 2):
        peers = [Trainee(torch.from_numpy(share), round_seed(7, "site-0", round_)) for share in shares]
        steps.train(rows, velocities, peers)
    expected = torch.stack(
        [
            plainly_trained(model, model.initial, data, share, training, objective, seed=7, rounds=(1, 2))
            for share in shares
        ]
    )
    return rows, expected


@pytest.mark.parametrize("form", ["batched", "vmap", "loop"])
@pytest.mark.parametrize("setting", SETTINGS)
def test_each_form_takes_the_steps_of_a_plain_loop(form: str, setting: str) -> None:
    model = FlatModel(perceptron, 1)
    got, expected = train_rounds(form, model, noise(), SETTINGS[setting])
    assert (expected - model.initial).abs().max() > 0.01
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("form", ["batched", "vmap", "loop"])
def test_pixels_count_from_nought_to_one(form: str) -> None:
    got, expected = train_rounds(form, FlatModel(perceptron, 1), noise(pixels=True), SETTINGS["momentum"])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


@pytest.mark.parametrize("form", ["batched", "vmap"])
def test_a_bare_linear_layer_is_a_perceptron_too(form: str) -> None:
    got, expected = train_rounds(form, FlatModel(lambda: nn.Linear(12, 4, bias=False), 1), noise(), SETTINGS["plain"])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_yes_or_no_is_learned_by_stacking() -> None:
    data = noise()
    data = Dataset(data.x, (data.y > 1).float().unsqueeze(1))
    got, expected = train_rounds("vmap", FlatModel(lambda: nn.Linear(12, 1), 1), data, SETTINGS["momentum"], BINARY)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


class Wild(nn.Module):
    """Dropout draws while it trains, batch normalisation keeps averages and counts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.norm, self.last = nn.Linear(12, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(nn.functional.dropout(self.norm(self.first(x)), 0.3, self.training))


def test_what_cannot_be_stacked_is_looped_with_the_chance_a_plain_loop_has() -> None:
    model, data = FlatModel(Wild, 1), noise()
    training = LocalTraining(learning_rate=0.1, batch=16, momentum=0.9)
    steps = choose_steps(model, CROSS_ENTROPY, data, training)
    assert steps.name == "loop"
    share = np.arange(48)
    row = model.initial.clone().unsqueeze(0)
    torch.manual_seed(99)
    before = torch.get_rng_state()
    steps.train(row, None, [Trainee(torch.from_numpy(share), round_seed(7, "site-0", 1))])
    assert torch.equal(torch.get_rng_state(), before)
    expected = plainly_trained(model, model.initial, data, share, training, CROSS_ENTROPY, seed=7, rounds=[1])
    assert torch.equal(row[0], expected)


def test_a_peer_leaves_no_trace_in_the_next_one() -> None:
    # Batch normalisation without momentum averages over all batches ever counted: a shared counter would leak.
    def build() -> nn.Module:
        return nn.Sequential(nn.Linear(12, 8), nn.BatchNorm1d(8, momentum=None), nn.Linear(8, 4))

    model, data = FlatModel(build, 1), noise()
    steps = choose_steps(model, CROSS_ENTROPY, data, SETTINGS["plain"])
    peers = [Trainee(torch.arange(32), 5), Trainee(torch.arange(32), 5)]
    rows = model.initial.repeat(2, 1)
    steps.train(rows, None, peers)
    assert torch.equal(rows[0], rows[1])


def frozen() -> nn.Module:
    module = perceptron()
    assert isinstance(module, nn.Sequential)
    module[0].weight.requires_grad_(False)
    return module


class Own(nn.Linear):
    """A layer that looks like Linear and is not."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


def shared() -> nn.Module:
    square = nn.Linear(12, 12)
    return nn.Sequential(square, nn.ReLU(), square, nn.ReLU(), nn.Linear(12, 4))


def hooked() -> nn.Module:
    module = perceptron()
    module.register_forward_hook(lambda *_: None)
    return module


@pytest.mark.parametrize(
    ("build", "layers"),
    [
        (perceptron, 3),
        (lambda: nn.Linear(12, 4), 1),
        (lambda: nn.Sequential(nn.Flatten(), nn.Sequential(nn.Linear(12, 5), nn.ReLU()), nn.Linear(5, 4)), 2),
        (lambda: nn.Sequential(nn.Linear(12, 5), nn.Tanh(), nn.Linear(5, 4)), None),
        (lambda: nn.Sequential(nn.Linear(12, 5), nn.Linear(5, 4)), None),
        (lambda: nn.Sequential(nn.Linear(12, 4), nn.ReLU()), None),
        (lambda: nn.Sequential(nn.Linear(12, 5), nn.ReLU(), Own(5, 4)), None),
        (lambda: perceptron().double(), None),
        (frozen, None),
        (shared, None),
        (hooked, None),
    ],
)
def test_only_plain_perceptrons_are_recognised(build: Callable[[], nn.Module], layers: int | None) -> None:
    found = recognise(FlatModel(build, 1))
    assert (None if found is None else len(found)) == layers


@pytest.mark.parametrize("build", [frozen, shared, lambda: perceptron().double(), hooked])
def test_odd_models_still_learn_what_they_learn_alone(build: Callable[[], nn.Module]) -> None:
    data = noise()
    if build().state_dict()["0.weight"].dtype == torch.float64:
        data = Dataset(data.x, data.y)
        model = FlatModel(lambda: nn.Sequential(ToDouble(), build()), 1)
    else:
        model = FlatModel(build, 1)
    got, expected = train_rounds("auto", model, data, SETTINGS["momentum"])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


class ToDouble(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.double()


def test_a_form_that_does_not_fit_is_refused_in_words() -> None:
    data, training = noise(), SETTINGS["plain"]
    with pytest.raises(UsageError, match="couldn't batch that model"):
        choose_steps(FlatModel(Wild, 1), CROSS_ENTROPY, data, training, "batched")
    with pytest.raises(UsageError, match="couldn't stack that model"):
        choose_steps(FlatModel(Wild, 1), CROSS_ENTROPY, data, training, "vmap")
    with pytest.raises(UsageError, match="it takes 5 features, an example has 12"):
        choose_steps(FlatModel(lambda: nn.Linear(5, 4), 1), CROSS_ENTROPY, data, training)
    assert "not trained" in why_not_stackable(FlatModel(frozen, 1), CROSS_ENTROPY, data, training)


class Moody(nn.Linear):
    """Gives another answer each time it is asked."""

    asked = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.asked += 1
        return super().forward(x) * self.asked


@pytest.mark.parametrize(
    ("build", "words"),
    [
        (lambda: nn.Sequential(nn.Linear(12, 9), nn.Dropout(0.5), nn.Linear(9, 4)), "vmap says .*random"),
        (shared, "under two names"),
        (lambda: nn.Sequential(nn.Linear(12, 9), nn.BatchNorm1d(9), nn.Linear(9, 4)), "not trained|counters"),
        (lambda: nn.Sequential(Moody(12, 9), Moody(9, 4)), "does not learn what it learns alone"),
    ],
)
def test_what_vmap_would_get_wrong_is_found_by_trying(build: Callable[[], nn.Module], words: str) -> None:
    training = LocalTraining(learning_rate=1.0, batch=2)
    assert re.search(words, why_not_stackable(FlatModel(build, 1), CROSS_ENTROPY, noise(), training))


def test_a_model_that_does_not_fit_the_data_is_refused_in_words() -> None:
    odd = FlatModel(lambda: nn.Sequential(nn.Linear(5, 4), nn.Tanh()), 1)
    with pytest.raises(UsageError, match=r"couldn't train that model on this data: RuntimeError: mat1 and mat2"):
        choose_steps(odd, CROSS_ENTROPY, noise(), SETTINGS["plain"])


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(UsageError, match="returned str, not a torch.nn.Module"):
        FlatModel(lambda: "model", 1)
    with pytest.raises(UsageError, match="no parameter to train"):
        FlatModel(nn.ReLU, 1)


def test_a_large_share_is_copied_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(node.simulation.loop, "COPY_BYTES_MAX", 100)
    got, expected = train_rounds("loop", FlatModel(perceptron, 1), noise(pixels=True), SETTINGS["momentum"])
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=2e-6)


def test_peers_with_fewer_examples_drop_out_of_step() -> None:
    assert lockstep([5, 4, 1], 2) == [(0, [2, 2, 1]), (2, [2, 2]), (4, [1])]
    assert lockstep([3], 8) == [(0, [3])]


@pytest.mark.parametrize(
    "setting",
    [{"learning_rate": 0}, {"batch": 0}, {"epochs": 0}, {"momentum": 1.0}, {"weight_decay": -1.0}],
    ids=lambda setting: next(iter(setting)),
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="couldn't set up local training"):
        LocalTraining(**{"learning_rate": 0.1, **setting})  # type: ignore[arg-type]


def test_data_that_does_not_fit_together_is_refused() -> None:
    with pytest.raises(UsageError, match="3 examples and 2 labels"):
        Dataset(torch.zeros(3, 2), torch.zeros(2))
    with pytest.raises(UsageError, match="its features are torch.int64"):
        Dataset(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3))
    with pytest.raises(UsageError, match="not contiguous"):
        Dataset(torch.zeros(2, 3).t(), torch.zeros(3))


TASK = """
import torch
from torch import nn

def build_model():
    return nn.Sequential(nn.Linear(12, 9), nn.ReLU(), nn.Linear(9, 7), nn.ReLU(), nn.Linear(7, 4))

def load_data(site):
    source = torch.Generator().manual_seed(5)
    y = torch.randint(0, 4, (120,), generator=source)
    x = torch.randn(120, 12, generator=source)
    share = torch.arange(site.seed, 120, 3)
    return x[share], y[share]

def train(model, data, run):
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    for _ in range(2):
        for batch in torch.randperm(len(x)).split(10):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    return {"samples": len(x)}

def evaluate(model, data, run):
    return {"samples": 1}
"""


def test_a_simulated_peer_trains_as_the_nodes_own_trainer_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Layout, first model, shuffles and steps: the update file of a real worker, against a row of the simulator."""
    # The hook outlives a worker, which in production is a process of its own.
    monkeypatch.setattr(node.worker, "register_optimizer_step_post_hook", lambda _hook: None)
    seed, rounds = 2, (1, 2, 3)
    (tmp_path / "task.py").write_text(TASK)
    near, far = socket.socketpair()
    with near, far:
        worker = node.worker.Worker(
            far, task=tmp_path / "task.py", loader=None, site=SiteInfo("site-0", tmp_path, seed, "cpu")
        )
        node.ranks.send(near, {"do": "describe", "path": str(tmp_path / "model")})
        node.ranks.send(
            near, {"do": "train", "round": 3, "model": str(tmp_path / "model"), "update": str(tmp_path / "u")}
        )
        near.shutdown(socket.SHUT_WR)
        worker.serve()
    first = np.fromfile(tmp_path / "model", dtype="<f4")
    update = np.fromfile(tmp_path / "u", dtype="<f4")

    model, data = FlatModel(perceptron, seed), noise()
    assert np.array_equal(first, model.initial.numpy())
    training = LocalTraining(learning_rate=0.1, batch=10, momentum=0.9, epochs=2)
    for form in ("batched", "vmap", "loop"):
        row = model.initial.clone().unsqueeze(0)
        steps = choose_steps(model, CROSS_ENTROPY, data, training, form)  # type: ignore[arg-type]
        steps.train(row, None, [Trainee(torch.arange(seed, 120, 3), round_seed(seed, "site-0", rounds[-1]))])
        np.testing.assert_allclose(row[0].numpy() - first, update, atol=2e-6)
    assert np.abs(update).max() > 0.01
