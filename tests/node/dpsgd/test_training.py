"""Private training as a task writes it, in the worker itself: what leaves, what it costs, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from node.dpsgd import randomness
from node.dpsgd.allowance import SPENT, Allowance
from node.dpsgd.session import Guard, Private
from node.spending import Spending, stretches
from swarm.errors import UsageError
from swarm.identifiers import IDENTIFIERS
from swarm.privacy.accounting import Budget, epsilon, fits
from tests.node.workers import Bench, benches

TASK = """\
import torch
from torch import nn

private = [PRIVATE]


def build_model():
    return nn.Sequential(nn.Linear(2, 4), nn.Tanh(), nn.Linear(4, 1))


def load_data(site):
    x = torch.randn(80, 2, generator=torch.Generator().manual_seed(1))
    return x, x.sum(1)


def train(model, data, run):
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    MORE
    loss = 0.0
    private = run.private(model, optimizer, len(x), batch=8 ARGUMENTS)
    for rows in private:
        loss = private.step((model(x[rows]).squeeze(1) - y[rows]).square())
        INSIDE
    AFTER
    return {"samples": 7, "loss": loss}


def evaluate(model, data, run):
    return {"samples": 1, "loss": 0.0}
"""

THREE = Budget(3.0, 1e-5)

PLAIN = TASK[: TASK.index("    MORE")] + '    return {"samples": len(x)}\n' + TASK[TASK.index("\n\ndef evaluate") :]


def task(more: str = "pass", arguments: str = "", inside: str = "pass", after: str = "pass", private: str = "") -> str:
    made = TASK.replace("MORE", more).replace("ARGUMENTS", arguments).replace("INSIDE", inside)
    return made.replace("AFTER", after).replace("PRIVATE", private)


@pytest.fixture
def made() -> Iterator[list[Bench]]:
    with benches() as found:
        yield found


def bench(made: list[Bench], folder: Path, text: str, budget: Budget | None = THREE, rounds: int = 4) -> Bench:
    allowance = Allowance(budget, Spending(folder / "spent"), "ab" * 8)
    made.append(Bench(folder, text, private=folder / "own", rounds=rounds, allowance=allowance))
    made[-1].ask(do="describe", path=str(made[-1].model), round=0)
    return made[-1]


def train(site: Bench, round_: int, do: str = "train", **more: int) -> dict[str, object]:
    asked = {"do": do, "round": round_, "model": str(site.model), "update": str(site.update), **more}
    return dict(site.ask(**asked))


# --- what a round does ------------------------------------------------------------------------------------------------


def test_a_run_of_the_planned_rounds_costs_just_less_than_the_budget_and_then_training_is_refused(
    made: list[Bench], tmp_path: Path
) -> None:
    site, spending = bench(made, tmp_path, task()), Spending(tmp_path / "spent")
    told = [train(site, round_) for round_ in (1, 2, 3, 4)]
    assert all("error" not in one for one in told), told
    assert [charge.steps for charge in spending.charges()] == [10] * 4
    assert len({charge.noise for charge in spending.charges()}) == 1  # the first round has planned for all
    spent = epsilon(stretches(spending.charges()), 1e-5)
    assert 2.98 < spent <= 3.0
    costs = [one["privacy"][0] for one in told]  # type: ignore[index]
    assert costs == sorted(costs)
    assert spent * 1000 <= costs[-1] <= 3000
    assert told[0]["privacy"][1] == 5  # type: ignore[index]
    refused = train(site, 5)
    assert refused["refused"] is True
    assert "this site's privacy budget (epsilon 3 at delta 1e-05) does not allow round 5: epsilon is at 2.99" in str(
        refused["error"]
    )
    assert len(spending.charges()) == 4
    assert "error" not in site.ask(do="evaluate", round=4, model=str(site.model))


def test_the_records_there_are_go_out_and_neither_the_batch_nor_the_loss_does(
    made: list[Bench], tmp_path: Path
) -> None:
    told = train(bench(made, tmp_path, task()), 1)
    assert (told["samples"], told["metrics"]) == (80, {})
    assert any("for this site alone, as they are not private: loss" in str(one) for one in told["remarks"])  # type: ignore[attr-defined]


def test_two_trainings_from_the_same_seed_and_data_differ(made: list[Bench], tmp_path: Path) -> None:
    """Whoever has the charter knows the seed: noise that follows from it would protect nobody."""
    site = bench(made, tmp_path, task())
    updates = []
    for _ in range(2):
        assert "error" not in train(site, 1)
        updates.append(np.fromfile(site.update, "<f4"))
    assert not np.any(updates[0] == updates[1])
    assert len(Spending(tmp_path / "spent").charges()) == 2  # Both could have left.


def test_a_private_head_is_trained_with_noise_too(made: list[Bench], tmp_path: Path) -> None:
    """A learning rate of zero for the body, and still the head moves by noise: it is not trained beside the account."""
    site = bench(made, tmp_path, task(private="'2.*'"))
    told = train(site, 1)
    assert "error" not in told, told
    assert np.fromfile(site.update, "<f4").size == 12  # the body's
    head = site.worker._parts.private["2.weight"].detach()  # type: ignore[union-attr]
    assert float(head.abs().sum()) > 0


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "why"),
    [
        (
            PLAIN.replace("PRIVATE", ""),
            "this site's updates must be private (epsilon 3 at delta 1e-05), and it did not",
        ),
        (task(more="model[0].bias.data += 1"), "0.bias was changed other than by private.step()"),
        (task(inside="model[0].bias.data += 1"), "0.bias was changed other than by private.step()"),
        (task(after="model[0].weight.data.mul_(0.5)"), "0.weight was changed other than by private.step()"),
        (task(arguments=", noise=0.01"), "less than 0.1 protects nobody"),
        (task(arguments=", noise=0.5"), "does not allow round 1"),
        (task(arguments=", steps=-1"), "-1 steps"),
        (task(arguments=", clip=0"), "clip=0"),
        (task(more="x = x[:4]"), "records=4, batch=8"),
        (task(after="list(private)"), "these steps were taken already"),
        (task(after="run.private(model, optimizer, 80, batch=8)"), "twice in one call of train()"),
        (task(more="optimizer.add_param_group({'params': [torch.zeros(1)]})"), "a parameter that is not the model's"),
    ],
)
def test_a_task_that_would_void_the_guarantee_gets_a_sentence_and_no_update(
    made: list[Bench], tmp_path: Path, text: str, why: str
) -> None:
    site = bench(made, tmp_path, text)
    site.update.unlink(missing_ok=True)
    told = train(site, 1)
    assert why in str(told.get("error")), told
    assert not site.update.exists()


def test_without_a_budget_nothing_private_is_sent_and_a_plain_task_goes_on_as_ever(
    made: list[Bench], tmp_path: Path
) -> None:
    assert "this site has no privacy budget" in str(train(bench(made, tmp_path / "a", task(), budget=None), 1)["error"])
    plain = train(bench(made, tmp_path / "b", PLAIN.replace("PRIVATE", ""), budget=None), 1)
    assert (plain["samples"], "privacy" in plain, "error" in plain) == (80, False, False)


def test_a_trial_is_not_counted_and_neither_is_what_has_no_swarm(made: list[Bench], tmp_path: Path) -> None:
    site = bench(made, tmp_path / "a", task())
    assert "error" not in train(site, 0, do="try", ms=60_000)
    assert Spending(tmp_path / "a" / "spent").charges() == []
    made.append(Bench(tmp_path / "b", task()))
    made[-1].ask(do="describe", path=str(made[-1].model), round=0)
    told = train(made[-1], 1)
    assert any("no noise was added" in str(one) for one in told["remarks"])  # type: ignore[attr-defined]


def test_what_another_run_of_this_site_has_spent_counts(made: list[Bench], tmp_path: Path) -> None:
    for round_ in (1, 2, 3):
        assert "error" not in train(bench(made, tmp_path, task(), rounds=3), round_)
    other = Allowance(Budget(3.0, 1e-5), Spending(tmp_path / "spent"), "cd" * 8)
    made.append(Bench(tmp_path / "next", task(), rounds=3, allowance=other))
    made[-1].ask(do="describe", path=str(made[-1].model), round=0)
    assert train(made[-1], 1)["refused"] is True
    assert SPENT in IDENTIFIERS


def test_a_training_that_ends_in_the_middle_is_counted_whole(made: list[Bench], tmp_path: Path) -> None:
    """Killed there it would be the same: the charge is durable before the first step."""
    site = bench(made, tmp_path, task(inside="raise KeyError('stop')"))
    assert "error" in train(site, 1)
    assert [one.steps for one in Spending(tmp_path / "spent").charges()] == [10]


def test_a_spending_file_that_was_tampered_with_stops_training(made: list[Bench], tmp_path: Path) -> None:
    site = bench(made, tmp_path, task())
    assert "error" not in train(site, 1)
    path = tmp_path / "spent"
    path.write_text(path.read_text().replace('"steps": 10', '"steps": 1'))
    assert "line 1: it does not match its digest" in str(train(site, 2)["error"])


# --- the mechanism ----------------------------------------------------------------------------------------------------


def session(
    noise: float, clip: float, *, rate: float, records: int, steps: int, lr: float = 1.0
) -> tuple[nn.Linear, Private]:
    model = nn.Linear(400, 1, bias=False)
    nn.init.zeros_(model.weight)
    guard = Guard(lambda: dict(model.named_parameters()))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    return model, Private(
        model, optimizer, guard=guard, records=records, rate=rate, steps=steps, clip=clip, noise=noise
    )


def test_noise_has_the_deviation_that_is_accounted_for() -> None:
    """No gradient at all: each of 400 weights moves by a normal of deviation noise * clip / expected records."""
    model, private = session(2.0, 0.5, rate=0.1, records=100, steps=25)
    for rows in private:
        private.step((model(torch.zeros(len(rows), 400)) * 0.0).squeeze(1))
    # 25 steps of deviation 2 * 0.5 / 10 = 0.1 each: 0.5 in all. Of 400 values the deviation is known to 3.5 %.
    assert float(model.weight.detach().std()) == pytest.approx(0.5, rel=0.15)


def test_without_noise_it_is_the_clipped_sum_over_the_records_expected() -> None:
    model, private = session(0.0, 0.5, rate=1.0, records=4, steps=1)
    x = torch.zeros(4, 400)
    x[:, 0] = torch.tensor([0.1, 0.3, 2.0, 50.0])  # norms of records' gradients; 0.5 is the bound
    for rows in private:
        private.step(model(x[rows]).squeeze(1))
    moved = -model.weight.detach()[0, 0].item()
    assert moved == pytest.approx((0.1 + 0.3 + 2 * 0.5 * (1 - 1e-4)) / 4, rel=1e-6)


def test_a_batch_of_nobody_is_a_step_of_noise_alone() -> None:
    model, private = session(1.0, 1.0, rate=1e-9, records=10**6, steps=3)
    assert [*private] == []
    assert int((model.weight != 0).sum()) == 400


def test_each_record_is_in_a_batch_with_its_chance_by_itself() -> None:
    counts = np.zeros(50)
    sizes = []
    for _ in range(2000):
        rows = randomness.drawn(50, 0.2)
        counts[rows] += 1
        sizes.append(rows.size)
    # 2000 * 0.2 = 400 with a deviation of 18; sizes have the binomial's variance, 50 * 0.2 * 0.8 = 8.
    assert np.all(np.abs(counts - 400) < 100)
    assert 6.5 < float(np.var(sizes)) < 9.7


def test_normals_are_normal_and_uniforms_reach_one_and_not_zero() -> None:
    drawn = randomness.normals(200_001)
    assert drawn.size == 200_001
    below = [float(np.mean(drawn < at)) for at in (-3.0, -1.0, 0.0, 1.0, 3.0)]
    assert below == pytest.approx([0.00135, 0.158655, 0.5, 0.841345, 0.99865], abs=0.006)
    assert float(np.mean(drawn[:-1] * drawn[1:])) == pytest.approx(0.0, abs=0.015)
    uniform = randomness.uniforms(10_000)
    assert 0.0 < uniform.min() <= uniform.max() <= 1.0


def test_what_is_released_lies_on_a_grid_whatever_it_was_made_of() -> None:
    """Low bits of a sum of floats tell of what was added (Mironov 2012): here there are none."""
    noisy = randomness.noisy(np.array([1.0, 1 / 3, 1e-9, 123.456]), 0.5)
    steps = noisy / (0.5 * randomness.GRID)
    assert np.array_equal(steps, np.rint(steps))


def test_a_batch_passed_over_a_second_step_and_a_loss_for_all_are_refused() -> None:
    model, private = session(1.0, 1.0, rate=1.0, records=3, steps=2)
    with pytest.raises(UsageError, match="a batch was passed over"):
        list(private)
    model, private = session(1.0, 1.0, rate=1.0, records=3, steps=2)
    with pytest.raises(UsageError, match="no batch for this step"):
        for rows in private:
            losses = model(torch.ones(len(rows), 400)).squeeze(1)
            private.step(losses)
            private.step(losses)
    model, private = session(1.0, 1.0, rate=1.0, records=3, steps=2)
    with pytest.raises(UsageError, match=r"losses have the shape \(\)"):
        for rows in private:
            private.step(model(torch.ones(len(rows), 400)).mean())


def test_the_budget_holds_for_whatever_noise_is_chosen(tmp_path: Path) -> None:
    spending = Spending(tmp_path / "spent")
    model = nn.Linear(2, 1)
    allowance = Allowance(Budget(1.0, 1e-4), spending, "ab" * 8)
    for round_, rounds in ((1, 2), (2, 2), (3, 3), (4, 9)):  # The members prolong the run, twice.
        allowance.begin(lambda: dict(model.named_parameters()), round_=round_, calls=rounds - round_ + 1, leaves=True)
        try:
            allowance.open(model, torch.optim.SGD(model.parameters(), lr=0.1), 500, batch=25)
        except UsageError as refused:
            assert refused.identifier == SPENT
    assert spending.charges()
    assert fits(stretches(spending.charges()), Budget(1.0, 1e-4))
