"""`swarm privacy`: what is planned can be worked out, what is spent is what was written, and status says it."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.cli.status import spent_of
from node.config import load
from node.site import Site
from node.spending import Spending, budget_of, charge
from swarm.charter import options_of
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget, Stretch, epsilon
from tests.builders import changed, make_swarm

PLAN = ["--records", "600", "--batch", "60", "--rounds", "12", "--delta", "0.0001"]


def said(*arguments: str) -> str:
    result = CliRunner().invoke(cli, ["privacy", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def test_a_plan_ends_just_below_the_epsilon_that_was_asked_for() -> None:
    data = json.loads(said("plan", *PLAN, "--epsilon", "2", "--json"))["data"]
    assert (data["rate"], data["steps"]) == (0.1, 10)
    assert list(data["epsilon"]) == ["1", "2", "5", "10", "12"]
    values = list(data["epsilon"].values())
    assert values == sorted(values)
    assert 1.99 < values[-1] <= 2.0 < data["epsilon_renyi"]
    again = json.loads(said("plan", *PLAN, "--noise", str(data["noise"]), "--json"))["data"]
    assert again["epsilon"] == data["epsilon"]


def test_a_plan_says_what_is_promised_on_what_and_what_is_not() -> None:
    text = said("plan", *PLAN, "--epsilon", "2")
    for words in ("What is promised", "It rests on", "It does not cover", "with all other sites", "held-out cases"):
        assert words in text
    assert "NOT below one in 600" in said("plan", *PLAN[:-2], "--delta", "0.01", "--epsilon", "2")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "one of --epsilon and --noise"),
        (["--epsilon", "2", "--noise", "1"], "one of --epsilon and --noise"),
        (["--epsilon", "0"], "0.0 for epsilon"),
        (["--epsilon", "nan"], "nan for epsilon"),
        (["--noise", "0"], "a noise of 0"),
        (["--epsilon", "1", "--batch", "601"], "a batch of 601 of 600 records"),
        (["--epsilon", "1", "--epochs", "nan"], "nan passes"),
        (["--epsilon", "1", "--delta", "2"], "2.0 for delta"),
    ],
)
def test_a_plan_that_cannot_be_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(cli, ["privacy", "plan", *PLAN, *arguments], catch_exceptions=False, standalone_mode=False)


SUMS = ["--sites", "10", "--rounds", "20", "--delta", "0.00001"]


def test_a_plan_for_sums_says_who_adds_how_much_and_how_long_it_is_beside_an_update() -> None:
    data = json.loads(said("plan", *SUMS, "--epsilon", "3", "--parameters", "650", "--json"))["data"]
    assert (data["noise"], data["silent"], data["counted_on"]) == (6.678, 3, 4)
    assert data["mean_deviation"] == pytest.approx(6.678 / 40**0.5)
    assert data["mean_norm"] == pytest.approx(6.678 * (650 / 40) ** 0.5)
    assert data["epsilon"]["20"] == 3.0
    all_ten = json.loads(said("plan", *SUMS, "--noise", "6.678", "--min-contributions", "10", "--json"))["data"]
    assert (all_ten["counted_on"], all_ten["mean_norm"], all_ten["epsilon"]) == (7, None, data["epsilon"])
    text = said("plan", *SUMS, "--epsilon", "3", "--parameters", "650")
    for words in ("What is promised", "up to 3 of 10 sites", "endangers nobody else", "the model will be noise"):
        assert words in text


def test_a_delta_that_is_no_power_of_ten_is_read_as_the_next_smaller_one() -> None:
    data = json.loads(said("plan", *SUMS[:4], "--delta", "0.00002", "--epsilon", "3", "--json"))["data"]
    assert (data["delta"], data["noise"]) == (1e-5, 6.678)


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([*SUMS, "--epsilon", "1", "--records", "5"], "records and batches change nothing"),
        ([*SUMS, "--epsilon", "1", "--min-contributions", "11"], "wait for 11 of 10"),
        ([*SUMS, "--noise", "0"], "a noise multiplier"),
        ([*SUMS, "--noise", "nan"], "a noise multiplier"),
        ([*SUMS, "--epsilon", "0.001", "--rounds", "900000"], "no noise is enough"),
        (["--sites", "100", "--rounds", "1", "--delta", "0.1"], "one of --epsilon and --noise"),
        ([*PLAN[2:], "--epsilon", "1"], "was not said"),
        ([*PLAN, "--epsilon", "1", "--parameters", "4"], "go with --sites"),
    ],
)
def test_a_plan_for_sums_that_cannot_be_is_refused(arguments: list[str], why: str) -> None:
    with pytest.raises(UsageError, match=why):
        CliRunner().invoke(cli, ["privacy", "plan", *arguments], catch_exceptions=False)


def test_what_is_spent_is_told_by_swarm_and_all_together(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert CliRunner().invoke(cli, ["init", str(folder), "--name", "a"]).exit_code == 0
    site = Site(folder)
    assert spent_of(site) == {}
    assert "epsilon 0.000 spent, no budget is set" in said("spent", str(folder))
    written = site.settings_path.read_text()
    site.settings_path.write_text(written.replace("[privacy]\n", "[privacy]\nepsilon = 3.0\ndelta = 0.0001\n"))
    for ledger, round_ in (("ab" * 8, 1), ("ab" * 8, 2), ("ab" * 8, 2), ("cd" * 8, 1)):
        one = charge(ledger=ledger, round_=round_, records=600, rate=0.1, noise=2.0, steps=10)
        Spending(site.spending_path).append(one)
    text = said("spent", str(folder))
    assert "of 3, at delta 0.0001" in text
    assert f"swarm {'ab' * 8}   3 trainings, 1 of them again, rounds 1 to 2" in text
    data = json.loads(said("spent", str(folder), "--json"))["data"]
    assert data["epsilon"] == pytest.approx(epsilon([Stretch(rate=0.1, noise=2.0, steps=40)], 1e-4))
    assert (data["budget"], len(data["charges"])) == (3.0, 4)
    assert spent_of(site)["privacy"].startswith("epsilon 1.")
    site.spending_path.write_text("nonsense\n")
    assert "couldn't tell what is spent" in spent_of(site)["privacy"]


def test_a_site_may_be_stricter_than_its_charter_and_never_laxer() -> None:
    settings = load("[privacy]\nepsilon = 2.0\ndelta = 0.001\n", where="x")
    swarm = make_swarm(4)
    agreed = changed(swarm, options=options_of(privacy="3:1e-5"))
    assert agreed.privacy == Budget(3.0, 1e-5)

    class Signed:
        charter = agreed

    assert budget_of(settings, Signed()) == Budget(2.0, 1e-5)  # type: ignore[arg-type]
    assert budget_of(load("", where="x"), Signed()) == Budget(3.0, 1e-5)  # type: ignore[arg-type]


@pytest.mark.parametrize("text", ["3", "3:1e-5 ", "0:1e-5", "3:0.1", "3:1e-11", "-1:1e-5", "nan:1e-5", "3:1e-0"])
def test_a_charter_refuses_what_is_no_budget(text: str) -> None:
    with pytest.raises(UsageError):
        changed(make_swarm(4), options=options_of(privacy=text)).check()


@pytest.mark.parametrize(
    "text", ["epsilon = 3.0", "delta = 0.1", "epsilon = nan\ndelta = 0.1", "epsilon = 3.0\ndelta = 0.5"]
)
def test_half_a_budget_in_the_settings_is_none_and_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match=r"privacy\.epsilon, from x, and privacy\.delta|privacy.epsilon"):
        load(f"[privacy]\n{text}\n", where="x")


def test_a_record_of_spending_that_is_older_than_the_ledger_is_said_loudly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger says that rounds 1 to 3 were trained privately here; the record that was put back ends with 1."""
    folder = tmp_path / "a"
    assert CliRunner().invoke(cli, ["init", str(folder), "--name", "a"]).exit_code == 0
    site = Site(folder)
    site.ledger.mkdir()
    Spending(site.spending_path).append(charge(ledger="ab" * 8, round_=1, records=600, rate=0.1, noise=2.0, steps=10))

    def view(spent: int) -> SimpleNamespace:
        return SimpleNamespace(
            contributions={site.node(): SimpleNamespace(body=SimpleNamespace(privacy=(spent, 5, 0)))}
        )

    rounds = {1: view(900), 2: view(1100), 3: view(1300), 4: view(0)}
    files = SimpleNamespace(signed=SimpleNamespace(ledger_id=bytes.fromhex("ab" * 32)))
    monkeypatch.setattr("node.cli.privacy.read", lambda _: (files, SimpleNamespace(rounds=rounds)))
    result = CliRunner().invoke(cli, ["privacy", "spent", str(folder)], catch_exceptions=False)
    assert result.exit_code == 6
    assert "NOT ALL IS HERE: the ledger has rounds 2 to 3 as trained privately" in result.stdout
    again = CliRunner().invoke(cli, ["privacy", "spent", str(folder), "--json"], catch_exceptions=False)
    assert json.loads(again.stdout)["data"]["missing"] == [2, 3]


def test_what_is_spent_is_told_though_there_is_no_ledger_to_compare_it_with(tmp_path: Path) -> None:
    folder = tmp_path / "a"
    assert CliRunner().invoke(cli, ["init", str(folder), "--name", "a"]).exit_code == 0
    Site(folder).ledger.mkdir()
    text = said("spent", str(folder))
    assert "epsilon 0.000 spent" in text
    assert "Not compared with the ledger: couldn't" in text
