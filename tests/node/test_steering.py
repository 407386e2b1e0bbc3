"""What is added to the steps of user code: numbers that can be worked out by hand, and refusals in words.

The model is one number w, the loss (w - c)^2 / 2 of each site's own c, the optimizer SGD of rate 1/2, so that a step
halves the distance to c.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.node.workers import Bench, benches

TASK = """\
import torch
from torch import nn


class Number(nn.Module):
    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.full((1,), 3.0))


def build_model():
    return Number()


def load_data(site):
    h, c = (site.folder / "value.txt").read_text().split()
    return float(h), float(c)


def train(model, data, run):
    h, c = data
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    for _ in range(STEPS):
        optimizer.zero_grad()
        loss = h * (model.at - c).square().sum() / 2
        loss.backward()
        optimizer.step()
    return {"samples": 5}


def evaluate(model, data, run):
    return {"samples": 1, "at": model.at.item()}
"""


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def site(
    made: list[Bench],
    folder: Path,
    local: str,
    *,
    steps: int = 3,
    lr: float = 0.5,
    value: str = "1 1",
    task: str = TASK,
    private: Path | None = None,
    tracks: bool = False,
) -> Bench:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "value.txt").write_text(value)
    text = task.replace("STEPS", str(steps)).replace("LR", str(lr))
    bench = Bench(folder, text, site=folder.name, local=local, private=private, tracks=tracks)
    made.append(bench)
    bench.describe()
    return bench


def test_without_an_algorithm_nothing_is_added(made: list[Bench], tmp_path: Path) -> None:
    # 3 -> 2 -> 1.5 -> 1.25
    assert site(made, tmp_path, "").train(1).tolist() == [-1.75]


def test_fedprox_pulls_every_gradient_to_the_model_of_the_round(made: list[Bench], tmp_path: Path) -> None:
    # At 3 the gradient is 2 and the pull 0: 2. There they are 1 and 1 (2 - 3) = -1, and it stays.
    assert site(made, tmp_path, "fedprox:1").train(1).tolist() == [-1.0]


def test_half_the_strength_is_half_the_pull(made: list[Bench], tmp_path: Path) -> None:
    # 3 -> 2 -> 2 - (1 - 0.5) / 2 = 1.75 -> 1.75 - (0.75 - 0.625) / 2 = 1.6875
    assert site(made, tmp_path, "fedprox:0.5").train(1).tolist() == [-1.3125]


def test_a_closure_is_followed_by_the_pull(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("        loss.backward()\n        optimizer.step()\n", "        optimizer.step(again)\n")
    text = text.replace(
        "        optimizer.zero_grad()\n        loss = h * (model.at - c).square().sum() / 2\n",
        "        def again():\n            optimizer.zero_grad()\n            loss = h * (model.at - c).square().sum() / 2\n"
        "            loss.backward()\n            return loss\n\n",
    )
    assert "optimizer.step(again)" in text
    assert site(made, tmp_path / "a", "fedprox:1", task=text).train(1).tolist() == [-1.0]
    text = text.replace("optimizer.step(again)", "optimizer.step(closure=again)")
    assert site(made, tmp_path / "b", "fedprox:1", task=text).train(1).tolist() == [-1.0]


def test_ditto_leaves_the_common_model_alone_and_trains_one_beside(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path, "ditto:1")
    assert bench.train(1).tolist() == [-1.75]
    assert bench.evaluate(1) == {"at": 3.0}
    assert bench.evaluate(1, "personal") == {"at": 2.0}
    # From 2, pulled to 0: 2 - (1 + 2) / 2 = 0.5, where -0.5 and 0.5 cancel.
    bench.put(np.zeros(1, np.float32))
    assert bench.train(2).tolist() == [0.875]
    assert bench.evaluate(2, "personal") == {"at": 0.5}
    assert bench.evaluate(1, "personal") == {"at": 2.0}


def test_drift_is_corrected_by_what_swarm_and_site_did_last(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path, "scaffold", steps=2)
    assert bench.train(1).tolist() == [-1.5]  # 3 -> 2 -> 1.5; nothing is known yet
    bench.put(np.array([2.0], np.float32))
    # The swarm moved by -1, this site's steps by -1.5: 0.25 after each of the two. 2 -> 1.5 + 0.25 -> 1.375 + 0.25,
    # of which the site's own steps are -0.5 - 0.375.
    assert bench.train(2).tolist() == [-0.875]


def test_a_correction_is_taken_in_equal_parts_one_with_each_step(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path, "", steps=2, tracks=True)
    assert bench.train(1).tolist() == [-1.5]  # 3 -> 2 -> 1.5
    # 3 -> 2 + 0.25 -> 1.625 + 0.25: all of it stays in the update.
    assert bench.train(2, correction=np.float32([0.5])).tolist() == [-1.125]
    # At rest the steps and the correction cancel: from 2 to 1.5 and up again, twice.
    bench.put(np.array([2.0], np.float32))
    assert bench.train(3, correction=np.float32([1.0])).tolist() == [0.0]


def test_what_steps_could_not_take_is_settled_after_the_last(made: list[Bench], tmp_path: Path) -> None:
    """A worker that does not know yet how many steps there will be; and one whose steps are not as many as they were."""
    fresh = site(made, tmp_path / "a", "", steps=2, tracks=True)
    assert fresh.train(4, correction=np.float32([0.5])).tolist() == [-1.0]  # 3 -> 2 -> 1.5, and 0.5
    text = TASK.replace("range(STEPS)", "range(2 if run.round == 1 else 1)")
    fewer = site(made, tmp_path / "b", "", task=text, tracks=True)
    fewer.train(1)
    assert fewer.train(2, correction=np.float32([0.5])).tolist() == [-0.5]  # 3 -> 2 + 0.25, and the other 0.25
    more = site(made, tmp_path / "c", "", task=text.replace("run.round == 1", "run.round == 2"), tracks=True)
    more.train(1)
    # 3 -> 2 + 0.5 -> 1.75 + 0.5, of which 0.5 is too much.
    assert more.train(2, correction=np.float32([0.5])).tolist() == [-1.25]


def test_how_many_steps_there_are_is_known_to_the_next_worker_too(made: list[Bench], tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    site(made, tmp_path / "a", "", steps=2, tracks=True, private=kept).train(1)
    again = site(made, tmp_path / "a", "", steps=2, tracks=True, private=kept)
    assert again.train(2, correction=np.float32([0.5])).tolist() == [-1.125]


def test_a_task_without_steps_gets_its_correction_all_the_same(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("        optimizer.step()\n", "        model.at.data -= LR * model.at.grad\n")
    bench = site(made, tmp_path, "", steps=2, task=text, tracks=True)
    assert bench.train(1).tolist() == [-1.5]
    assert bench.train(2, correction=np.float32([0.5])).tolist() == [-1.0]


def test_rounds_that_were_missed_count_by_their_mean(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path, "scaffold", steps=2)
    bench.train(1)
    bench.put(np.array([0.0], np.float32))
    # -3 in three rounds is -1 a round, as above: 0 -> 0.5 + 0.25 -> 0.875 + 0.25.
    assert bench.train(4).tolist() == [0.5 + 0.125]


def test_what_was_long_ago_is_not_believed(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path, "scaffold", steps=2)
    bench.train(1)
    bench.put(np.array([2.0], np.float32))
    assert bench.train(10).tolist() == [-0.75]


def test_a_round_that_is_trained_again_is_corrected_as_it_was(made: list[Bench], tmp_path: Path) -> None:
    bench = site(made, tmp_path / "site", "scaffold", steps=2, private=tmp_path / "private" / "x")
    bench.train(1)
    bench.put(np.array([2.0], np.float32))
    again = site(made, tmp_path / "site", "scaffold", steps=2, private=tmp_path / "private" / "x")
    again.put(np.array([2.0], np.float32))
    assert [bench.train(2).tolist(), bench.train(2).tolist(), again.train(2).tolist()] == [[-0.875]] * 3


def settled(made: list[Bench], folder: Path, local: str, away: tuple[int, ...] = ()) -> float:
    """Return where two sites' swarm comes to rest: curvatures 1 and 4, optima 0 and 1, five steps of 0.1 a round.

    The second site misses the rounds `away`.
    """
    sites = [
        site(made, folder / name, local, steps=5, lr=0.1, value=value) for name, value in (("a", "1 0"), ("b", "4 1"))
    ]
    model = sites[0].vector()
    for number in range(1, 41):
        there = sites[:1] if number in away else sites
        for one in there:
            one.put(model)
        model = model + np.mean([one.train(number) for one in there], axis=0)
    return float(model[0])


def test_averaging_rests_where_the_ends_of_free_steps_cancel(made: list[Bench], tmp_path: Path) -> None:
    # A round takes site i from x to a_i x + (1 - a_i) c_i with a_i = (1 - 0.1 h_i)^5.
    free = 1 - np.array([0.9, 0.6]) ** 5
    assert settled(made, tmp_path, "") == pytest.approx(free[1] / free.sum(), abs=1e-5)
    assert free[1] / free.sum() == pytest.approx(0.6925, abs=1e-4)


def test_corrected_sites_rest_at_the_optimum_of_the_sum_of_their_losses(made: list[Bench], tmp_path: Path) -> None:
    # Where 1 (x - 0) + 4 (x - 1) = 0.
    assert settled(made, tmp_path, "scaffold") == pytest.approx(0.8, abs=1e-5)


def test_a_site_that_misses_rounds_leaves_no_lasting_error(made: list[Bench], tmp_path: Path) -> None:
    assert settled(made, tmp_path, "scaffold", away=(9, 13, 14)) == pytest.approx(0.8, abs=1e-5)


@pytest.mark.parametrize("local", ["fedprox:1", "scaffold", "ditto:1"])
def test_a_task_without_steps_is_refused_in_words(made: list[Bench], tmp_path: Path, local: str) -> None:
    text = TASK.replace("        optimizer.step()\n", "        with torch.no_grad(): model.at -= 0.1\n")
    bench = site(made, tmp_path, local, task=text)
    said = bench.refused(**bench.training(1))
    assert said.startswith(f"couldn't train by the charter's local = {local}: it took no step of a PyTorch optimizer")
    assert "model.parameters()" in said


@pytest.mark.parametrize("local", ["fedprox:1", "scaffold", "ditto:1"])
@pytest.mark.parametrize("survives", [False, True])
def test_a_search_along_lines_is_refused_even_if_the_loop_goes_on(
    made: list[Bench], tmp_path: Path, local: str, survives: bool
) -> None:
    text = TASK.replace("torch.optim.SGD(", "torch.optim.LBFGS(").replace("        loss.backward()\n", "")
    step = "        optimizer.step(lambda: 0.0)\n"
    if survives:
        step = "        try:\n            optimizer.step(lambda: 0.0)\n        except Exception:\n            pass\n"
    bench = site(made, tmp_path, local, task=text.replace("        optimizer.step()\n", step))
    assert "LBFGS searches along lines of a loss" in bench.refused(**bench.training(1))


def test_what_a_user_steps_beside_the_model_is_left_alone(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace(
        "    return {",
        "    other = nn.Parameter(torch.ones(1))\n"
        "    aside = torch.optim.SGD([other], lr=1.0)\n"
        "    other.sum().backward()\n"
        "    aside.step()\n"
        "    assert other.item() == 0.0\n"
        "    return {",
    )
    for number, local in enumerate(("fedprox:1", "scaffold", "ditto:1")):
        site(made, tmp_path / str(number), local, task=text).train(1)


def test_two_optimizers_of_one_model_are_each_corrected_by_their_own_steps(made: list[Bench], tmp_path: Path) -> None:
    text = TASK.replace("self.at = ", "self.also = nn.Parameter(torch.full((1,), 3.0))\n        self.at = ")
    text = text.replace(
        "    optimizer = torch.optim.SGD(model.parameters(), lr=LR)\n",
        "    optimizer = torch.optim.SGD([model.at], lr=LR)\n"
        "    once = torch.optim.SGD([model.also], lr=LR)\n"
        "    (model.also - c).square().sum().div(2).backward()\n"
        "    once.step()\n",
    )
    bench = site(made, tmp_path, "scaffold", steps=2, task=text)
    assert bench.train(1).tolist() == [-1.0, -1.5]  # also: 3 -> 2
    bench.put(np.array([2.0, 2.0], np.float32))
    # also: (-1 + 1) / 1 = 0 after its one step, 2 -> 1.5.
    assert bench.train(2).tolist() == [-0.5, -0.875]
