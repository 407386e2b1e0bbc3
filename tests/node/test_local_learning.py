"""What local parts and policies are worth on real data: eight-by-eight handwritten digits (UCI, in scikit-learn).

Small sizes, three seeds each, the whole swarm by hand: workers as in production, their updates averaged as the charter's
default does. Claims are about order, with room, not about records.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from tests.cases import shortened
from tests.node.workers import Bench, benches

SITES, ROUNDS, EXAMPLES = 4, 10, 1000
SEEDS = (1, 2, 3)

TASK = """\
import numpy as np
import torch
from torch import nn


def build_model():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(64, 32))
    NORM
    model.add_module("relu", nn.ReLU())
    model.add_module("head", nn.Linear(32, 10))
    return model


def load_data(site):
    with np.load(site.folder / "data.npz") as file:
        return [torch.from_numpy(file[name]) for name in ("x", "y", "test_x", "test_y")]


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE)
    x, y = data[:2]
    for batch in [batch for _ in range(EPOCHS) for batch in torch.randperm(len(x)).split(BATCH)]:
        if len(batch) < 2:
            continue
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    return {"samples": len(x), "loss": loss.item()}


def evaluate(model, data, run):
    return {"samples": len(data[3]), "accuracy": (model(data[2]).argmax(1) == data[3]).float().mean().item()}
"""


def digits(seed: int, count: int | None = EXAMPLES) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    x, y = load_digits(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))[:count]
    return (x[order] / 16).astype(np.float32), y[order].astype(np.int64)


def by_label(seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Each site has three digits, which it calls 0, 1 and 2: other labels under the same names."""
    x, y = digits(seed, None)
    found = []
    for site in range(SITES):
        own = np.random.default_rng([seed, site]).permutation(10)[:3]
        mine = np.isin(y, own)
        label = np.argmax(y[mine, None] == own[None, :], axis=1)
        found.append((x[mine][site::SITES], label[site::SITES]))
    return found


def by_scanner(seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """Each site has all digits, and a scanner with a gain and an offset for each pixel of its own."""
    x, y = digits(seed)
    found = []
    for site in range(SITES):
        drawn = np.random.default_rng([seed, site, 1])
        gain, offset = np.exp(drawn.normal(0, 0.7, 64)), drawn.normal(0, 1.5, 64)
        found.append(((x[site::SITES] * gain + offset).astype(np.float32), y[site::SITES]))
    return found


def by_class(seed: int) -> list[tuple[NDArray[np.float32], NDArray[np.int64]]]:
    """All but a twentieth of a site's digits are of two or three classes; all sites together have all of them."""
    x, y = digits(seed)
    drawn = np.random.default_rng([seed, 2])
    owner = np.array([digit % SITES for digit in y])
    stray = drawn.random(len(y)) < 0.05
    owner[stray] = drawn.integers(0, SITES, stray.sum())
    return [(x[owner == site], y[owner == site]) for site in range(SITES)]


def learnt(
    made: list[Bench],
    folder: Path,
    parts: Sequence[tuple[NDArray[np.float32], NDArray[np.int64]]],
    declares: str = "",
    *,
    norm: str = "",
    rate: float = 0.2,
    batch: int = 16,
    epochs: int = 1,
    local: str = "",
    common: bool = False,
) -> float:
    """Let the sites learn, and return their mean accuracy on their own held-out third; on everybody's if `common`."""
    text = TASK.replace("NORM", norm or "pass").replace("RATE", str(rate)).replace("BATCH", str(batch))
    text = text.replace("EPOCHS", str(epochs)) + declares
    thirds = [(x[: len(y) // 3], y[: len(y) // 3]) for x, y in parts]
    sites = []
    for number, (x, y) in enumerate(parts):
        place = folder / f"site-{number}"
        place.mkdir(parents=True)
        cut = len(y) // 3
        test_x, test_y = thirds[number] if not common else map(np.concatenate, zip(*thirds, strict=True))
        np.savez(place / "data.npz", x=x[cut:], y=y[cut:], test_x=test_x, test_y=test_y)
        sites.append(Bench(place, text, site=f"site-{number}", local=local))
        made.append(sites[-1])
        sites[-1].describe()
    model = sites[0].vector()
    weights = np.array([len(y) - len(y) // 3 for _, y in parts], np.float64)
    for round_ in range(1, ROUNDS + 1):
        updates = []
        for site in sites:
            site.put(model)
            updates.append(site.train(round_))
        model = model + np.average(updates, axis=0, weights=weights).astype(np.float32)
    for site in sites:
        site.put(model)
    return float(np.mean([site.evaluate(ROUNDS)["accuracy"] for site in sites]))


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


PRIVATE = 'private = ["head.*"]\n'


@pytest.mark.parametrize("seed", shortened(1, SEEDS))
def test_sites_with_other_label_sets_learn_together_by_private_heads(
    made: list[Bench], tmp_path: Path, seed: int
) -> None:
    parts = by_label(seed)
    averaged = learnt(made, tmp_path / "all", parts)
    per = learnt(made, tmp_path / "per", parts, PRIVATE)
    rep = learnt(made, tmp_path / "rep", parts, PRIVATE + "fedrep = 1\n")
    # Seen: 0.60 to 0.62, 0.93 to 0.99, 0.96 to 0.99.
    assert averaged < 0.75
    assert min(per, rep) > 0.88


NORM = 'model.add_module("norm", nn.BatchNorm1d(32))'


@pytest.mark.parametrize("seed", shortened(1, SEEDS))
def test_no_policy_of_batch_normalisation_is_right_for_all(made: list[Bench], tmp_path: Path, seed: int) -> None:
    policies = ("average", "local", "recalibrate", "local_all")
    scanner, label = (
        {
            policy: learnt(
                made,
                tmp_path / kind / policy,
                parts,
                f"normalisation = '{policy}'\n",
                norm=NORM,
                rate=0.1,
                batch=32,
                common=kind == "label",
            )
            for policy in policies
            if (kind, policy) != ("label", "recalibrate")
        }
        for kind, parts in (("scanner", by_scanner(seed)), ("label", by_class(seed)))
    )
    print(seed, scanner, label)
    assert scanner["average"] < 0.6
    assert min(scanner[policy] for policy in policies[1:]) > 0.75
    assert label["average"] == max(label.values())


@pytest.mark.parametrize("seed", shortened(1, SEEDS))
def test_many_steps_a_round_on_unlike_data_learn_more_without_their_drift(
    made: list[Bench], tmp_path: Path, seed: int
) -> None:
    averaged, corrected = (
        learnt(made, tmp_path / (local or "none"), by_class(seed), rate=0.1, epochs=3, local=local, common=True)
        for local in ("", "scaffold")
    )
    print(seed, averaged, corrected)
    assert corrected > averaged + 0.02
