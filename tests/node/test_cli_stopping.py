"""What people are told of a run that ended early: by every view of its ledger, in the same words."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.card import card
from node.cli.export import _best
from node.cli.ledger.reading import stop_words
from node.cli.output import Failure
from swarm import charter as c
from swarm.errors import UsageError
from swarm.ledger.audit import audit
from swarm.ledger.state import genesis
from tests.builders import digest, make_swarm
from tests.node.test_cli_charter import CODE, LAYOUT, TASK, new, sites
from tests.node.test_cli_charter import said as said_here
from tests.node.test_cli_ledger import data, said, written
from tests.node.test_report import page
from tests.simulation.test_stopping import troubled

WHY = "stopped after round 6: no improvement of loss for 2 rounds, best round 4"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    signed, payloads = troubled()
    return written(tmp_path_factory.mktemp("stopped") / "site", payloads, signed=signed)


def test_every_view_says_that_it_was_stopped_when_and_why(site: Path) -> None:
    assert f"stopping   {WHY}" in said("ledger", "status", site)
    assert f"open       nothing: {WHY}" in said("ledger", "status", site)
    assert f"✔ stopping      {WHY}" in said("ledger", "verify", site)
    assert said("ledger", "rounds", site).endswith(f"{WHY[:1].upper()}{WHY[1:]}.\n")
    for command in ("status", "verify", "rounds"):
        assert data("ledger", command, site)["stopping"] == WHY
    told = data("ledger", "status", site)
    assert (told["committed"], told["rounds"], told["best"]) == (6, 20, 4)


def test_the_card_and_the_report_name_the_best_round(site: Path) -> None:
    signed, payloads = troubled()
    *_, result = audit(payloads, signed)
    told = page(result, signed).text
    assert "no improvement of loss for 2 rounds, best round 4" in told
    text = card(signed, result)
    assert f"round 6 of 20; the run was {WHY}" in text
    commit = result.rounds[4].commit
    assert commit is not None
    assert f"4, model `{commit.model_digest.hex()}`" in text


def test_the_best_model_is_named_by_the_ledger_and_refused_where_nothing_says_which_that_is() -> None:
    signed, payloads = troubled()
    *_, result = audit(payloads, signed)
    commit = result.rounds[4].commit
    assert commit is not None
    assert _best(result.state) == (4, commit.model_digest)
    with pytest.raises(Failure, match="nothing is agreed on by which one round is better than another"):
        _best(genesis(make_swarm(2).signed))
    with pytest.raises(Failure, match="couldn't export the best model by loss: no round has counted yet"):
        _best(genesis(make_swarm(2, stop="loss:lower:3").signed))


def test_a_charter_says_when_the_run_ends_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        "node.cli.charter.described_task", lambda *_: (c.Task("t", CODE, LAYOUT, 1234, digest("m"), 7), "")
    )
    sites(tmp_path)
    (tmp_path / "task.py").write_text(TASK)
    text = said_here(*new("a/card.toml", "b/card.toml"), "--stop", "accuracy:higher:5:0.001")
    words = "stops         after 5 rounds in which accuracy has not become higher by more than 0.001 at the median site"
    assert words in text
    assert (
        dict(c.from_toml((tmp_path / "charter.toml").read_text()).charter.options)["stop"] == "accuracy:higher:5:0.001"
    )


def test_without_waiting_rounds_cannot_be_compared() -> None:
    with pytest.raises(UsageError, match="stop by loss and asynchronous") as refused_:
        make_swarm(4, stop="loss:lower:3", asynchronous="buffered", staleness=8)
    assert "wait for everybody" in refused_.value.hint


def test_a_run_on_its_way_says_how_far_it_is_from_its_end() -> None:
    signed, payloads = troubled()
    found = [stop_words(result.state) for result in audit(payloads, signed)]
    assert found[0] == "no round has been told enough of to compare others with it, by loss"
    assert "best round 4 by loss; 1 of 2 rounds without improvement since" in found
    assert found[-1] == WHY
