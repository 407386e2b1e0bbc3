"""What a script declares holds, or the script is refused by name; and so is a charter that asks for what no script does."""

from __future__ import annotations

import hashlib
from pathlib import Path

import msgspec
import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import save_file
from torch import nn

from node.cli.main import cli
from node.loop.declarations import check_terms, declared_by
from node.loop.describing import describe
from node.loop.parameters import parameters_of
from node.site import Site
from swarm.charter import SignedCharter, from_toml
from swarm.errors import UsageError

NET = "nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))"


def script(folder: Path, declared: str, model: str = NET) -> Path:
    path = folder / "script.py"
    path.write_text(f"import sys\nimport swarm\nfrom torch import nn\n{declared}\nswarm.join(sys.argv[1], {model})\n")
    return path


def names(folder: Path, declared: str) -> list[str]:
    return [spec.name for spec in describe(script(folder, declared), folder, 1).layout.tensors]


def test_what_is_private_is_not_in_the_layout(tmp_path: Path) -> None:
    running = ["1.running_mean", "1.running_var"]
    every = ["0.bias", "0.weight", "1.bias", *running, "1.weight", "2.bias", "2.weight"]
    assert names(tmp_path, "") == every
    assert names(tmp_path, "private = ['2.*']") == every[:6]
    assert names(tmp_path, "normalisation = 'local'") == [name for name in every if name not in running]
    assert names(tmp_path, "normalisation = 'local_all'") == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert names(tmp_path, "normalisation = 'average'") == every


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("normalisation = 'recalibrate'", "it declares normalisation = 'recalibrate', and is a script"),
        ("optimizer_state = 'keep'", "it declares optimizer_state = 'keep', and is a script"),
        ("optimizer_state = 'fresh'", "it declares optimizer_state = 'fresh', and is a script"),
        ("private = ['2.*']\nfedrep = 1", "it declares fedrep = 1, and is a script"),
        ("fine_tune = 2", "it declares fine_tune = 2, and is a script"),
        ("evaluate_ranks = 'all'", "it declares evaluate_ranks = 'all', and is a script"),
        ("private = ['head.*']", "no tensor of the model is called so"),
        ("private = [name for name in ('2.weight',)]", "private is not written down as a literal"),
        ("if True:\n    private = ['2.*']", "private is not written down as a literal"),
        ("private = ['2.*']\nprivate += ['1.*']", "private is not written down as a literal"),
        ("normalization = 'local'", "it declares normalization"),
        ("private = True", "private = 'True'"),
    ],
)
def test_what_cannot_be_kept_is_refused_by_name(declared: str, words: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=words) as caught:
        names(tmp_path, declared)
    assert caught.value.hint


def test_a_script_may_call_its_own_things_what_it_likes(tmp_path: Path) -> None:
    free = "def personalise(): pass\nnormalization = nn.GroupNorm(1, 3)\ninitial = dict(a=1)\nfine_tune = 0\n"
    assert len(names(tmp_path, free)) == 8


def test_an_array_that_is_to_stay_is_left_out_of_the_dict(tmp_path: Path) -> None:
    path = script(tmp_path, "private = ['a']\nimport numpy as np", "{'a': np.zeros(2), 'b': np.zeros(2)}")
    with pytest.raises(UsageError, match="couldn't use private: the model is a dict of arrays"):
        describe(path, tmp_path, 1)


def test_private_parts_are_put_back_and_frozen_ones_stand_still(tmp_path: Path) -> None:
    path = script(tmp_path, "private = ['2.*']")
    torch.manual_seed(1)
    model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3), nn.Linear(3, 1))
    parameters = parameters_of(model, declared_by(path, {}), tmp_path)
    own = parameters.own()
    assert sorted(own) == ["2.bias", "2.weight"]
    shared = parameters.read()
    with torch.no_grad():
        model[2].bias.fill_(7.0)
        model[0].bias.fill_(7.0)
    parameters.write(shared, {"2.bias": own["2.bias"] + 1})
    assert model[2].bias.item() == pytest.approx(float(own["2.bias"][0]) + 1)
    assert parameters.read().tolist() == shared.tolist()


def test_a_script_begins_with_a_file_but_for_what_is_fresh(tmp_path: Path) -> None:
    values = {"0.weight": torch.full((3, 2), 0.5), "0.bias": torch.ones(3), "2.bias": torch.ones(5)}
    save_file(values, tmp_path / "base.safetensors")
    digest = hashlib.sha256((tmp_path / "base.safetensors").read_bytes()).hexdigest()
    path = script(tmp_path, f"initial = 'base.safetensors'\ninitial_sha256 = '{digest}'\nfresh = ['2.*']")
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    head = model[2].bias.item()
    parameters = parameters_of(model, declared_by(path, {"fresh": ["2.*"]}), tmp_path)
    assert (model[0].bias.tolist(), model[2].bias.item()) == ([1.0, 1.0, 1.0], head)
    assert [spec.name for spec in parameters.layout.tensors] == ["0.bias", "0.weight", "2.bias", "2.weight"]


def founded(folder: Path, text: str, *more: str) -> str:
    """Draft a charter of two sites around a script; return what was printed."""
    (folder / "script.py").write_text(text)
    cards = []
    for index in range(2):
        site = Site(folder / f"site-{index}")
        address = f"tcp://127.0.0.1:{7401 + index}"
        site.create(name=f"site-{index}", listen=address, advertise=address, task="task.py", data="data")
        cards += ["--card", str(site.folder / "card.toml")]
    arguments = ["--name", "pair", "--task", str(folder / "script.py"), "--rounds", "2", *cards, *more]
    result = CliRunner().invoke(cli, ["charter", "new", *arguments, "-o", str(folder / "charter.toml")])
    return f"{result.exit_code} {result.exception or result.output}"


JOINS = "import sys\nimport numpy as np\nimport swarm\nswarm.join(sys.argv[1], {'at': np.zeros(2)})\n"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--local", "fedprox:0.01", "--local fedprox:0.01 adds to each site's steps"),
        ("--local", "ditto:0.1", "--local ditto:0.1 adds to each site's steps"),
        ("--contribution", "shapley:accuracy:higher:20", "--contribution shapley lets every member judge models"),
        ("--contribution", "loo:accuracy:higher:20", "--contribution loo lets every member judge models"),
        ("--privacy", "3:1e-5", "updates must be private here"),
    ],
)
def test_a_charter_that_no_script_can_keep_is_not_drafted(option: str, value: str, words: str, tmp_path: Path) -> None:
    printed = founded(tmp_path, JOINS, option, value)
    assert printed.startswith(f"1 couldn't draft the charter: {words}")
    assert not (tmp_path / "charter.toml").exists()


def test_one_that_was_drafted_before_is_refused_too_and_size_is_not(tmp_path: Path) -> None:
    """`size` judges nothing. What an older draft asks for is the same draft with an option more."""
    assert founded(tmp_path, JOINS, "--contribution", "size").startswith("0 ")
    text = (tmp_path / "charter.toml").read_text()
    charter = from_toml(text).charter
    check_terms(charter, "couldn't join")
    old = msgspec.structs.replace(charter, options=tuple(sorted([*charter.options, ("local", "scaffold")])))
    with pytest.raises(UsageError, match=r"couldn't join: --local scaffold adds to each site's steps"):
        check_terms(SignedCharter(old, {}).charter, "couldn't join")


def test_batch_normalisation_that_nobody_decided_on_is_told_at_founding(tmp_path: Path) -> None:
    text = f"import sys\nimport swarm\nfrom torch import nn\nswarm.join(sys.argv[1], {NET})\n"
    printed = founded(tmp_path, text)
    assert "warning: the model has 1 layer of batch normalisation" in printed
