"""Sites with label sets of different sizes share a backbone: build_model(site) gives each the head that fits its own.

Two sites, eight-by-eight handwritten digits (UCI, in scikit-learn), few of them labelled: one site tells two kinds, the
other three. What is claimed is that the swarm has the same bytes of what is shared and what each learns beside training alone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import load_file
from sklearn.datasets import load_digits

from node.cli.main import cli
from node.task import load_task
from swarm.errors import UsageError
from tests.node.test_task import GOOD, written
from tests.node.workers import Bench, benches

SEEDS = (1, 2, 3)
ROUNDS = 30
LABELLED = 100

TASK = """\
import numpy as np
import torch
from torch import nn

private = ["head.*"]


def build_model(site=None):
    classes = 2 if site is None else len(np.unique(np.load(site.folder / "data.npz")["y"]))
    model = nn.Sequential()
    # The head is drawn first: what is shared must begin alike all the same.
    head = nn.Linear(32, classes)
    model.add_module("body", nn.Linear(64, WIDTH))
    model.add_module("relu", nn.ReLU())
    model.add_module("head", head)
    return model


def load_data(site):
    with np.load(site.folder / "data.npz") as file:
        return [torch.from_numpy(file[name]) for name in ("x", "y", "test_x", "test_y")]


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    x, y = data[:2]
    for batch in torch.randperm(len(x)).split(10):
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(x[batch]), y[batch])
        loss.backward()
        optimizer.step()
    return {"samples": len(x), "loss": loss.item()}


def evaluate(model, data, run):
    return {"labels": data[3], "scores": torch.softmax(model(data[2]), 1)}
"""

WHOLE = TASK.replace("WIDTH", "32")


def site(folder: Path, classes: int, seed: int) -> Path:
    """Write a site's few labelled digits and 400 others: 0 to 2, 3 to 6, 7 to 9; to the site of two the last are one."""
    folder.mkdir(parents=True)
    x, digit = load_digits(return_X_y=True)
    order = np.random.default_rng([seed, classes]).permutation(len(digit))
    x, y = (x[order] / 16).astype(np.float32), np.minimum(np.digitize(digit[order], (3, 7)), classes - 1)
    own, test = slice(0, LABELLED), slice(LABELLED, LABELLED + 400)
    np.savez(folder / "data.npz", x=x[own], y=y[own], test_x=x[test], test_y=y[test])
    return folder


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def learnt(made: list[Bench], folders: list[Path]) -> list[float]:
    """Let the sites in these folders learn together and return the accuracy of each on its own held-out cases."""
    sites = [Bench(folder, WHOLE, site=folder.name) for folder in folders]
    made += sites
    layouts = [one.describe() for one in sites]
    assert all([spec.name for spec in layout.tensors] == ["body.bias", "body.weight"] for layout in layouts)
    model = sites[0].vector()
    for round_ in range(1, ROUNDS + 1):
        for one in sites:
            one.put(model)
        model = model + np.mean([one.train(round_) for one in sites], axis=0, dtype=np.float32)
    for one in sites:
        one.put(model)
    return [one.evaluate(ROUNDS)["accuracy"] for one in sites]


@pytest.mark.parametrize("seed", SEEDS)
def test_heads_of_two_and_three_classes_learn_over_one_backbone(made: list[Bench], tmp_path: Path, seed: int) -> None:
    two, three = site(tmp_path / "two", 2, seed), site(tmp_path / "three", 3, seed)
    together = learnt(made, [two, three])
    alone = [*learnt(made, [two]), *learnt(made, [three])]
    print(seed, together, alone)
    assert np.mean(together) > np.mean(alone)
    assert min(together) > 0.8


def test_what_is_shared_begins_alike_at_each_site_and_for_the_charter(made: list[Bench], tmp_path: Path) -> None:
    made += [
        Bench(site(tmp_path / "two", 2, 1), WHOLE, site="two"),
        Bench(site(tmp_path / "three", 3, 1), WHOLE, site="three"),
        Bench(tmp_path / "charter", WHOLE, site=""),
    ]
    digests = [one.describe().digest() for one in made]
    assert len({*digests}) == 1
    assert len({one.vector().tobytes() for one in made}) == 1, "though the head, of another size, is drawn before it"
    assert made[1].worker._built().own()["head.weight"].shape == (3, 32)


def test_a_backbone_that_differs_from_site_to_site_is_refused(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("32, classes", "32 if site is None else 16, classes").replace(
        "WIDTH", "32 if site is None else 16"
    )
    made.append(Bench(site(tmp_path / "two", 2, 1), text, site="two"))
    said = made[0].refused(do="describe", path=str(made[0].model))
    assert "body.bias is shared, and build_model(site) gives it shape (16,) and type float32 at this site" in said
    assert "where build_model() gives it shape (32,)" in said
    assert 'private = ["body.*"]' in said
    missing = TASK.replace('model.add_module("body"', 'model.add_module("body" if site is None else "torso"')
    made.append(Bench(site(tmp_path / "three", 3, 1), missing.replace("WIDTH", "32"), site="three"))
    assert "body.bias is shared, and build_model(site) gives it no tensor" in made[1].refused(do="describe", path="x")


def test_a_site_keeps_a_head_of_its_own_shape_and_makes_a_personal_model_of_it(
    made: list[Bench], tmp_path: Path
) -> None:
    folder, private = site(tmp_path / "three", 3, 1), tmp_path / "private" / "x"
    made.append(Bench(folder, WHOLE, site="three", private=private))
    layout = made[0].describe()
    assert layout.elements == 32 * 64 + 32
    made[0].put(made[0].vector() + made[0].train(1))
    own = load_file(private / "round-0000000001.safetensors")["private/head.weight"]
    made.append(Bench(folder, WHOLE, site="three", private=private))  # Its process has been killed and is another.
    target = tmp_path / "own.safetensors"
    export = {"do": "export", "model": str(made[0].model), "target": str(target), "origin": json.dumps({})}
    made[1].told(**export, round=1, which="personal")
    assert np.array_equal(load_file(target)["head.weight"], own)
    assert made[1].evaluate(1, "personal") == made[1].evaluate(1)


def test_a_head_that_was_kept_for_fewer_classes_begins_anew_and_that_is_said_once(
    made: list[Bench], tmp_path: Path
) -> None:
    folder, private = site(tmp_path / "two", 2, 1), tmp_path / "private" / "x"
    made.append(Bench(folder, WHOLE, site="two", private=private))
    made[0].describe()
    made[0].train(1)
    made[0].train(2)
    made.append(Bench(site(tmp_path / "other", 3, 1), WHOLE, site="two", private=private))
    made[1].describe()
    said = [made[1].told(**made[1].training(round_))["remarks"] for round_ in (2, 3)]
    words = "head.weight was kept with shape (2, 32), and is built with (3, 32) now: it begins anew"
    assert [words in str(remarks) for remarks in said] == [True, False]


@pytest.mark.real
def test_alone_a_task_that_builds_by_the_site_has_the_sites_head(tmp_path: Path) -> None:
    (tmp_path / "task.py").write_text(WHOLE)
    folder = site(tmp_path / "three", 3, 1)
    output = tmp_path / "model.safetensors"
    arguments = ["solo", str(tmp_path / "task.py"), "--data", str(folder), "--rounds", "1", "-o", str(output)]
    result = CliRunner().invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    assert load_file(output)["head.bias"].shape == (3,)


@pytest.mark.parametrize(
    ("first", "by_site", "words"),
    [
        ("def build_model():", False, ""),
        ("def build_model(site=None):", True, ""),
        ("def build_model(*, site=None):", True, ""),
        ("def build_model(width=8):", False, ""),
        ("def build_model(site):", True, "must take 0 arguments"),
    ],
)
def test_a_site_is_given_to_who_has_a_parameter_of_that_name(
    tmp_path: Path, first: str, by_site: bool, words: str
) -> None:
    path = written(tmp_path, GOOD.replace("def build_model():", first))
    if not words:
        assert load_task(path).by_site == by_site
        return
    with pytest.raises(UsageError, match=words) as told:
        load_task(path)
    assert "build_model(site=None)" in told.value.hint
