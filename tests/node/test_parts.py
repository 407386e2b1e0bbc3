"""What of a model travels, what stays, what stands still: through the worker's own requests."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from safetensors.torch import save_file

from node.solo import wait
from node.task import Budget
from node.trainer import Described, EvaluateDone, Trainer, TrainerSettings, Tried
from tests.node.workers import Bench, benches

TASK = """\
import numpy as np
import torch
from torch import nn


def build_model():
    model = nn.Sequential()
    model.add_module("body", nn.Linear(3, 4))
    model.add_module("norm", nn.BatchNorm1d(4))
    model.add_module("head", nn.Linear(4, 2))
    return model


def load_data(site):
    rng = np.random.default_rng(site.name.encode()[0])
    return torch.from_numpy(rng.normal(size=(24, 3)).astype(np.float32)) + 5, torch.arange(24) % 2


SEEN = []


def train(model, data, run):
    optimizer = run.optimizer or torch.optim.SGD(model.parameters(), lr=0.1)
    SEEN.append((run.round, run.rounds, run.phase, [n for n, p in model.named_parameters() if p.requires_grad]))
    for batch in torch.arange(24).split(8):
        if run.enough():
            break
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(model(data[0][batch]), data[1][batch])
        loss.backward()
        optimizer.step()
    return {"samples": 24, "loss": loss.item(), "calls": len(SEEN)}


def evaluate(model, data, run):
    state = model.state_dict()
    return {
        "samples": 24,
        "body": state["body.weight"].square().sum().item(),
        "head": state["head.weight"].square().sum().item(),
        "mean": state["norm.running_mean"].sum().item(),
        "count": state["norm.num_batches_tracked"].item(),
        "loss": nn.functional.cross_entropy(model(data[0]), data[1]).item(),
    }
"""

KEEP = """
optimizer_state = "keep"


def build_optimizer(model):
    return torch.optim.Adam(model.parameters(), lr=0.01)
"""


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def bench(
    made: list[Bench],
    folder: Path,
    declares: str = "",
    *,
    site: str = "rural",
    kept: bool = True,
    local: str = "",
    budget: Budget | None = None,
    task: str = TASK,
) -> Bench:
    private = folder / "private" / "x" if kept else None
    found = Bench(folder, task + declares, site=site, private=private, local=local, budget=budget)
    made.append(found)
    return found


# --- what travels -------------------------------------------------------------------------------------------------

LINEAR = ["body.bias", "body.weight", "head.bias", "head.weight"]
NORM = ["norm.bias", "norm.running_mean", "norm.running_var", "norm.weight"]


@pytest.mark.parametrize(
    ("declares", "travels"),
    [
        ("", sorted(LINEAR + NORM)),
        ("private = ['head.*']\n", sorted(LINEAR[:2] + NORM)),
        ("private = ['head.*', '*.bias']\n", ["body.weight", *NORM[1:]]),
        ("normalisation = 'average'\n", sorted(LINEAR + NORM)),
        ("normalisation = 'local'\n", sorted([*LINEAR, "norm.bias", "norm.weight"])),
        ("normalisation = 'recalibrate'\n", sorted([*LINEAR, "norm.bias", "norm.weight"])),
        ("normalisation = 'local_all'\n", LINEAR),
        ("normalisation = 'local_all'\nprivate = ['head.*']\n", LINEAR[:2]),
    ],
)
def test_what_is_declared_decides_what_travels(
    made: list[Bench], tmp_path: Path, declares: str, travels: list[str]
) -> None:
    layout = bench(made, tmp_path, declares).describe()
    assert [tensor.name for tensor in layout.tensors] == travels


@pytest.mark.parametrize(
    ("declares", "words"),
    [
        ("private = ['hed.*']\n", "no tensor of the model is called so (there are body.weight"),
        ("private = ['*']\n", "nothing of it is shared"),
        ("private = ['norm.running*']\nfedrep = 1\n", "no private part of the model is trained"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(made: list[Bench], tmp_path: Path, declares: str, words: str) -> None:
    found = bench(made, tmp_path, declares)
    assert words in found.refused(do="describe", path=str(found.model))


def test_a_policy_for_layers_that_are_not_there_is_refused(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("nn.BatchNorm1d(4)", "nn.GroupNorm(2, 4)") + "normalisation = 'local'\n"
    found = bench(made, tmp_path, task=text)
    assert "no layer of batch normalisation" in found.refused(do="describe", path=str(found.model))


def test_a_task_that_is_silent_about_its_batch_normalisation_is_warned(made: list[Bench], tmp_path: Path) -> None:
    silent, *decided = (
        bench(made, tmp_path / str(number), text)
        for number, text in enumerate(("", "normalisation = 'average'\n", "private = ['norm.*']\n"))
    )
    silent.describe()
    assert len(silent.warnings) == 1
    assert silent.warnings[0].startswith("the model has 1 layer of batch normalisation, and the task does not say")
    for found in decided:
        found.describe()
        assert found.warnings == []


def test_a_tied_tensor_that_is_private_under_one_name_is_private(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace(
        "nn.Linear(4, 2))\n", "nn.Linear(4, 2))\n    model.head.bias = model.tied = nn.Parameter(torch.zeros(2))\n"
    )
    found = bench(made, tmp_path, "private = ['head.bias']\n", task=text)
    assert "tied" not in {tensor.name for tensor in found.describe().tensors}


# --- what stays ---------------------------------------------------------------------------------------------------


def test_private_parts_go_on_from_round_to_round_and_shared_ones_from_the_swarms(
    made: list[Bench], tmp_path: Path
) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\n")
    found.describe()
    first = found.evaluate(0)
    found.train(1)
    after = found.evaluate(1)
    assert after["head"] != first["head"]
    assert after["body"] == first["body"]  # The model of the swarm has not moved.
    found.train(2)
    assert found.evaluate(2)["head"] not in (after["head"], first["head"])
    assert found.evaluate(1)["head"] == after["head"]
    assert found.evaluate(0)["head"] == first["head"]


def test_a_round_that_is_trained_again_gives_the_same(made: list[Bench], tmp_path: Path) -> None:
    """By the same worker, by one that was started after a kill at any moment, and whatever the kill left behind."""
    declares = "private = ['head.*']\nnormalisation = 'local'\n" + KEEP
    found = bench(made, tmp_path, declares, local="scaffold")
    found.describe()
    found.train(1)
    update = found.train(2)
    kept = (tmp_path / "private" / "x" / "round-0000000002.safetensors").read_bytes()
    for harm in ("none", "restarted", "before the file", "in the middle of the file"):
        path = tmp_path / "private" / "x" / "round-0000000002.safetensors"
        if harm != "none":
            found = bench(made, tmp_path, declares, local="scaffold")
        if harm.startswith(("before", "in")):
            path.unlink()
        if harm.startswith("in"):
            path.with_name(f".{path.name}.4194305").write_bytes(kept[: len(kept) // 2])
        assert np.array_equal(found.train(2), update), harm
        assert path.read_bytes() == kept, harm
    assert len(list((tmp_path / "private" / "x").iterdir())) == 2


def test_a_site_without_a_place_for_it_keeps_it_while_the_worker_lives(made: list[Bench], tmp_path: Path) -> None:
    on_disk, in_memory = (
        bench(made, tmp_path / str(kept), "private = ['head.*']\n", kept=kept) for kept in (True, False)
    )
    for found in (on_disk, in_memory):
        found.describe()
        found.train(1)
    assert np.array_equal(on_disk.train(2), in_memory.train(2))


def test_an_old_task_keeps_nothing(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path)
    found.describe()
    found.train(1)
    assert not (tmp_path / "private").exists()


def test_nothing_private_is_in_what_leaves_the_worker(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\n" + KEEP)
    found.describe()
    answer = found.told(**found.training(1))
    own = load_file(tmp_path / "private" / "x" / "round-0000000001.safetensors")
    said = repr(answer).encode() + found.update.read_bytes() + found.model.read_bytes()
    assert {"private/head.weight", "private/head.bias", "optimizer/0/exp_avg"} <= {*own}
    for name, array in own.items():
        if name.startswith("private/"):
            assert all(value.tobytes() not in said for value in array.reshape(-1)), name
    assert found.update.stat().st_size == found.model.stat().st_size == 4 * (4 * 4 + 4 * 4)


def test_another_sites_damage_is_said_and_gone_on_from(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\n")
    found.describe()
    found.train(1)
    found.train(2)
    (tmp_path / "private" / "x" / "round-0000000002.safetensors").write_bytes(b"garbage")
    answer = found.told(**found.training(3))
    assert "round-0000000002.safetensors is damaged" in str(answer["remarks"])
    assert "remarks" in found.told(**found.training(3))


# --- what stands still --------------------------------------------------------------------------------------------


def initial(folder: Path, values: dict[str, torch.Tensor]) -> str:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(values, folder / "start.safetensors")
    digest = hashlib.sha256((folder / "start.safetensors").read_bytes()).hexdigest()
    return f'initial = "start.safetensors"\ninitial_sha256 = "{digest}"\n'


BODY = {"body.weight": torch.full((4, 3), 0.25), "body.bias": torch.full((4,), 0.5)}


def test_frozen_parts_are_those_of_the_file_and_neither_trained_nor_sent(made: list[Bench], tmp_path: Path) -> None:
    head = {"head.bias": torch.tensor([7.0, 8.0])}
    found = bench(made, tmp_path, initial(tmp_path, BODY | head) + "frozen = ['body.*']\nnormalisation = 'average'\n")
    layout = found.describe()
    assert [tensor.name for tensor in layout.tensors] == sorted(LINEAR[2:] + NORM)
    assert found.named(found.vector(), layout)["head.bias"].tolist() == [7.0, 8.0]  # Others begin with it too.
    update = found.train(1)
    assert np.abs(found.named(update, layout)["head.weight"]).max() > 0
    assert found.evaluate(1)["body"] == 12 * 0.25**2


def test_a_head_for_other_classes_begins_anew_over_a_backbone_from_a_file(made: list[Bench], tmp_path: Path) -> None:
    """The file is of a model with three classes and an auxiliary head; this one has two, and none."""
    trained = BODY | {"head.weight": torch.ones(3, 4), "head.bias": torch.ones(3), "aux.bias": torch.ones(9)}
    plain = bench(made, tmp_path / "plain", "")
    names = plain.describe()
    begun = plain.named(plain.vector(), names)
    found = bench(made, tmp_path / "fresh", initial(tmp_path / "fresh", trained) + "fresh = ['head.*', 'aux.*']\n")
    layout = found.describe()
    named = found.named(found.vector(), layout)
    assert [tensor.name for tensor in layout.tensors] == sorted(LINEAR + NORM), "what is fresh travels"
    assert named["body.bias"].tolist() == [0.5] * 4
    for name in ("head.weight", "head.bias"):
        assert np.array_equal(named[name], begun[name]), "as build_model() makes it under the charter's seed"
    assert np.abs(found.named(found.train(1), layout)["head.weight"]).max() > 0


def test_frozen_parts_that_the_task_makes_itself_are_the_same_everywhere_or_refused(
    made: list[Bench], tmp_path: Path
) -> None:
    freezes = "frozen = ['body.*']\nnormalisation = 'average'\n"
    asked = bench(made, tmp_path / "first", freezes)
    words = asked.refused(do="describe", path=str(asked.model))
    digest = words.split('frozen_sha256 = "')[1][:64]
    assert words.startswith(
        "couldn't use frozen: frozen parts never travel, and nothing says that all sites have the same"
    )
    one, other = (
        bench(made, tmp_path / name, freezes + f"frozen_sha256 = {digest!r}\n", task=task)
        for name, task in (("same", TASK), ("other", TASK.replace('    model.add_module("norm"', OTHER_BASE)))
    )
    assert [tensor.name for tensor in one.describe().tensors] == sorted(LINEAR[2:] + NORM)
    before = one.evaluate(1)["body"]
    one.train(1)
    assert one.evaluate(1)["body"] == before
    refused = other.refused(do="describe", path=str(other.model))
    assert "its frozen tensors are others than the task file names, SHA-256 " in refused
    assert f"and not {digest[:16]}..." in refused


OTHER_BASE = """    model.body.weight.data[0, 0] += 1
    model.add_module("norm\""""


def test_frozen_layers_of_batch_normalisation_stay_as_they_are(made: list[Bench], tmp_path: Path) -> None:
    values = {"norm.weight": torch.ones(4), "norm.bias": torch.zeros(4), "norm.running_mean": torch.full((4,), 2.0)}
    values |= {"norm.running_var": torch.ones(4), "norm.num_batches_tracked": torch.tensor(9)}
    found = bench(made, tmp_path, initial(tmp_path, values) + "frozen = ['norm.*']\n")
    found.describe()
    assert found.warnings == []
    found.train(1)
    told = found.evaluate(1)
    assert (told["mean"], told["count"]) == (8.0, 9.0)


def test_training_what_is_frozen_is_refused(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("    SEEN.append", "    model.body.weight.requires_grad_(True)\n    SEEN.append")
    found = bench(made, tmp_path, initial(tmp_path, BODY) + "frozen = ['body.*']\n", task=text)
    found.describe()
    assert "the frozen tensor body.weight was changed" in found.refused(**found.training(1))


@pytest.mark.parametrize(
    ("values", "declares", "words"),
    [
        (BODY, "frozen = ['body.*', 'head.bias']\n", "it lacks head.bias, which is frozen"),
        (BODY | {"tail": torch.ones(1)}, "", "the model has no tensor 'tail'"),
        ({"body.bias": torch.ones(5)}, "", "body.bias has shape (5,), not (4,)"),
        (BODY, "frozen = ['body.*']\nprivate = ['*.bias']\n", "body.bias is private and frozen"),
        (BODY, "frozen = ['body.*']\nfresh = ['*.bias']\n", "body.bias is frozen and fresh"),
        (BODY, "fresh = ['haed.*']\n", "fresh = ['haed.*']: no tensor of the model is called so"),
        ({"head.bias": torch.ones(5)}, "fresh = ['*.weight']\n", 'let it begin anew: fresh = ["head.*"]'),
    ],
)
def test_a_file_that_does_not_fit_is_refused(
    made: list[Bench], tmp_path: Path, values: dict[str, torch.Tensor], declares: str, words: str
) -> None:
    found = bench(made, tmp_path, initial(tmp_path, values) + declares)
    assert words in found.refused(do="describe", path=str(found.model))


def test_another_file_than_the_task_names_is_refused(made: list[Bench], tmp_path: Path) -> None:
    declares = initial(tmp_path, BODY)
    initial(tmp_path, {"body.bias": torch.ones(4)})
    found = bench(made, tmp_path, declares)
    assert "its SHA-256 begins" in found.refused(do="describe", path=str(found.model))
    (tmp_path / "start.safetensors").unlink()
    assert "put it beside the task file" in found.refused(do="describe", path=str(found.model))


def test_a_pickle_is_not_read(made: list[Bench], tmp_path: Path) -> None:
    torch.save(BODY, tmp_path / "start.safetensors")
    digest = hashlib.sha256((tmp_path / "start.safetensors").read_bytes()).hexdigest()
    found = bench(made, tmp_path, f'initial = "start.safetensors"\ninitial_sha256 = "{digest}"\n')
    assert "write it with safetensors" in found.refused(do="describe", path=str(found.model))


# --- phases -------------------------------------------------------------------------------------------------------


def seen(found: Bench) -> list[tuple[int, int, str, list[str]]]:
    return found.worker._task.train.__globals__["SEEN"]  # type: ignore[attr-defined, no-any-return]


def test_by_fedrep_the_head_is_trained_while_the_body_stands_still_and_then_the_body(
    made: list[Bench], tmp_path: Path
) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\nfedrep = 2\n")
    layout = found.describe()
    found.train(1, rounds=9)
    head, body = ["head.weight", "head.bias"], ["body.weight", "body.bias", "norm.weight", "norm.bias"]
    assert seen(found) == [(1, 9, "head", head), (1, 9, "head", head), (1, 9, "body", body)]
    found.train(2)
    assert seen(found)[-1][2:] == ("body", body)  # What stood still is trained again in the next round.
    assert {tensor.name for tensor in layout.tensors} == {*body, *NORM[1:3]}


def test_each_pass_has_the_sites_budget(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\nfedrep = 1\n", budget=Budget(steps=2))
    found.describe()
    assert found.told(**found.training(1))["remarks"] == []
    assert found.worker._step == 4


def test_a_personal_model_is_the_swarms_trained_on_once(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\nfine_tune = 2\n")
    found.describe()
    found.train(1)
    calls = len(seen(found))
    swarm, personal = found.evaluate(1), found.evaluate(1, "personal")
    assert personal["body"] != swarm["body"]
    assert personal["loss"] < swarm["loss"]
    assert [phase for _, _, phase, _ in seen(found)[calls:]] == ["personal", "personal"]
    assert found.evaluate(1, "personal") == personal
    calls = len(seen(found))
    again = bench(made, tmp_path, "private = ['head.*']\nfine_tune = 2\n")
    assert again.evaluate(1, "personal") == personal | {"count": 0}  # A counter that is nobody's ends with a worker.
    assert len(seen(found)) == calls
    assert found.evaluate(1) == swarm


def test_a_task_may_make_its_personal_model_itself(made: list[Bench], tmp_path: Path) -> None:
    own = "\ndef personalise(model, data, run):\n    model.body.bias.data.fill_(3.0)\n"
    found = bench(made, tmp_path, own)
    found.describe()
    found.train(1)
    assert found.evaluate(1, "personal")["loss"] != found.evaluate(1)["loss"]
    assert seen(found)[1:] == []


def test_without_anything_personal_the_personal_model_is_the_swarms(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\n")
    found.describe()
    found.train(1)
    assert found.evaluate(1, "personal") == found.evaluate(1)
    assert "couldn't look at the model 'third'" in found.refused(
        do="evaluate", round=1, model=str(found.model), which="third"
    )


def test_an_export_holds_every_tensor_and_is_for_this_user_alone(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "private = ['head.*']\nnormalisation = 'local'\n")
    layout = found.describe()
    found.train(1)
    target = tmp_path / "out" / "mine.safetensors"
    origin = '{"swarm": "s"}'
    found.told(do="export", round=1, model=str(found.model), target=str(target), origin=origin, which="personal")
    tensors = load_file(target)
    assert {*tensors} == {*LINEAR, *NORM, "norm.num_batches_tracked"}
    assert target.stat().st_mode & 0o777 == 0o600
    kept = load_file(tmp_path / "private" / "x" / "round-0000000001.safetensors")
    assert np.array_equal(tensors["head.weight"], kept["private/head.weight"])
    assert np.array_equal(tensors["body.weight"], found.named(found.vector(), layout)["body.weight"])
    assert tensors["norm.num_batches_tracked"].item() == 3


# --- batch normalisation ------------------------------------------------------------------------------------------


def test_local_statistics_are_the_sites_own(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "normalisation = 'local'\n")
    found.describe()
    assert (found.evaluate(0)["mean"], found.evaluate(0)["count"]) == (0.0, 0.0)
    found.train(1)
    first = found.evaluate(1)
    assert first["mean"] != 0.0
    assert first["count"] == 3.0
    again = bench(made, tmp_path, "normalisation = 'local'\n")
    assert again.evaluate(1) == first


def test_recalibrated_statistics_are_the_plain_mean_over_the_sites_batches(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "normalisation = 'recalibrate'\n")
    layout = found.describe()
    found.train(1)
    model = found.named(found.vector(), layout)
    data = found.worker._data[0].numpy()  # type: ignore[index]
    seen_by_norm = data @ model["body.weight"].T + model["body.bias"]
    told = found.evaluate(1)
    assert told["mean"] == pytest.approx(float(seen_by_norm.mean(axis=0).sum()), rel=1e-4)
    assert told["count"] == 3.0
    assert told["body"] == pytest.approx(float(np.square(model["body.weight"]).sum()), rel=1e-5)  # Nothing was trained.
    assert np.array_equal(found.train(2), found.train(2))


def test_counters_are_never_sent_under_any_policy(made: list[Bench], tmp_path: Path) -> None:
    for policy in ("average", "local", "recalibrate", "local_all"):
        layout = bench(made, tmp_path / policy, f"normalisation = '{policy}'\n").describe()
        assert not [tensor.name for tensor in layout.tensors if "num_batches" in tensor.name]


# --- optimizers ---------------------------------------------------------------------------------------------------


def test_a_kept_optimizer_goes_on_and_a_fresh_one_begins_anew(made: list[Bench], tmp_path: Path) -> None:
    keep, fresh = (
        bench(made, tmp_path / text, KEEP.replace('"keep"', f'"{text}"') + "normalisation = 'average'\n")
        for text in ("keep", "fresh")
    )
    for found in (keep, fresh):
        found.describe()
    assert np.array_equal(keep.train(1), fresh.train(1))
    assert not np.array_equal(keep.train(2), fresh.train(2))
    own = load_file(tmp_path / "keep" / "private" / "x" / "round-0000000002.safetensors")
    assert own["optimizer/0/step"].item() == 6.0
    assert not (tmp_path / "fresh" / "private").exists()


def test_what_keep_does_is_what_one_long_training_does(made: list[Bench], tmp_path: Path) -> None:
    """Where the swarm is one site, rounds with a kept state are one training with one optimizer."""
    found = bench(made, tmp_path, KEEP + "normalisation = 'average'\n")
    layout = found.describe()
    start = found.vector()
    for number in (1, 2):
        found.put(found.vector() + found.train(number))
    model = torch.nn.Sequential()
    for name, layer in (
        ("body", torch.nn.Linear(3, 4)),
        ("norm", torch.nn.BatchNorm1d(4)),
        ("head", torch.nn.Linear(4, 2)),
    ):
        model.add_module(name, layer)
    for name, array in found.named(start, layout).items():
        model.state_dict()[name].copy_(torch.from_numpy(array))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    x, y = found.worker._data  # type: ignore[misc]
    for _ in range(2):
        for batch in torch.arange(24).split(8):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
            optimizer.step()
    for name, array in found.named(found.vector(), layout).items():
        np.testing.assert_allclose(model.state_dict()[name].numpy(), array, atol=1e-6)


def test_a_state_that_is_no_tensors_and_numbers_is_refused(made: list[Bench], tmp_path: Path) -> None:
    text = KEEP.replace("torch.optim.Adam(model.parameters(), lr=0.01)", "Odd(model.parameters(), lr=0.01)")
    text += "\n\nclass Odd(torch.optim.SGD):\n    def step(self, *a):\n        super().step(*a)\n"
    text += "        self.state[self.param_groups[0]['params'][0]]['notes'] = ['text']\n"
    found = bench(made, tmp_path, text)
    found.describe()
    assert "couldn't keep the state of Odd: its notes is list" in found.refused(**found.training(1))
    told = found.refused(do="try", model=str(found.model), update=str(found.update), ms=1000)
    assert "its notes is list" in told


def test_what_is_no_optimizer_is_refused(made: list[Bench], tmp_path: Path) -> None:
    found = bench(made, tmp_path, "\ndef build_optimizer(model):\n    return 3\n")
    found.describe()
    assert "build_optimizer() returned int, not a torch.optim.Optimizer" in found.refused(**found.training(1))


def test_how_many_rounds_there_are_is_known_whatever_is_asked_first(tmp_path: Path, forkserver: Path) -> None:
    """A rate that follows the rounds must not divide by zero in a trial, or in a personal model's training."""
    (tmp_path / "task.py").write_text(
        TASK.replace("    SEEN.append", "    1 / run.rounds\n    SEEN.append") + "fine_tune = 1\n"
    )
    settings = TrainerSettings(
        task=tmp_path / "task.py", data=tmp_path, site="rural", seed=5, threads=1, forkserver=forkserver, rounds=7
    )
    trainer = Trainer(settings)
    try:
        trainer.describe(tmp_path / "model")
        wait(trainer, Described, str)
        trainer.try_out(tmp_path / "model", tmp_path / "update", 5.0)
        assert wait(trainer, Tried, str).finished
        trainer.evaluate(7, tmp_path / "model", which="personal")
        assert wait(trainer, EvaluateDone, str).samples == 24
    finally:
        trainer.close()
