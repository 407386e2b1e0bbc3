"""A rule on the command line: its price before anybody signs, and who was left out, with the reason, afterwards."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.cli.status import render
from swarm import charter as c
from tests.node.test_cli_charter import data as told
from tests.node.test_cli_charter import four_sites, new, refused, said
from tests.node.test_cli_ledger import written
from tests.simulation.test_rules import ledger_of


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert four_sites(tmp_path, monkeypatch) == CARDS
    return tmp_path


CARDS = [f"{name}/card.toml" for name in "abcd"]


def test_a_charter_with_a_rule_says_what_it_costs_and_how_many_it_bears(home: Path) -> None:
    text = said(*new(*CARDS), "--rule", "trimmed:1")
    assert "costs something while nobody lies" in text
    assert "0.023" in text
    assert "0.466 (trimmed mean)" in text
    assert "made for at most 1 of 4, 1 of 3 where no more are in" in text
    assert "late work" not in text.partition("swarm  ")[2]
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert made.options == (("min_cell", "5"), ("rule", "trimmed:1"))
    assert made.round.min_contributions == 3


def test_rounds_wait_for_as_many_as_the_rule_takes(home: Path) -> None:
    said(*new(*CARDS), "--rule", "nnm:1+geomedian")
    assert c.from_toml((home / "charter.toml").read_text()).charter.round.min_contributions == 3
    message, _ = refused(*new(*CARDS), "--force", "--rule", "multikrum:1")
    assert "the rule multikrum:1 takes 5" in message
    message, _ = refused(*new(*CARDS), "--force", "--rule", "trimmed:1", "--min-contributions", "2")
    assert "takes 3" in message


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--pace", "4"), "late work is to count"),
        (("--staleness", "3"), "late work is to count"),
        (("--asynchronous",), "late work is to count"),
        (("--gossip", "ring"), "with gossip mixing"),
        (("--route", "sharded"), "with a route"),
        (("--codec", "sign"), "under the codec sign"),
        (("--weight-cap", "0.5"), "with a weight cap"),
    ],
)
def test_what_a_rule_cannot_stand_with_is_said(home: Path, options: tuple[str, ...], words: str) -> None:
    message, hint = refused(*new(*CARDS), "--rule", "trimmed:1", *options)
    assert words in message
    assert hint


def test_the_cheapest_route_under_a_rule_is_spread(home: Path) -> None:
    text = said(*new(*CARDS), "--rule", "median", "--route", "auto")
    assert "by the rule" in text or "rule          median" in text
    assert c.from_toml((home / "charter.toml").read_text()).charter.route is None


def test_gossip_that_clips_says_how_and_asks_for_two_partners(home: Path) -> None:
    text = said(*new(*CARDS), "--gossip", "ring", "--clip", "100", "--topology", "complete")
    assert "gossip over ring; the last round averages all models into one by geomedian" in text
    assert "clipping      no partner pulls a site further than its nearest do" in text
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert (made.clip, made.round.min_contributions) == (100, 3)
    message, hint = refused(*new(*CARDS), "--force", "--gossip", "base2", "--clip", "100")
    assert "would meet one partner in a round" in message
    assert "ring" in hint
    message, _ = refused(*new(*CARDS), "--force", "--clip", "100")
    assert "with exact mixing" in message


@pytest.mark.parametrize(("parameters", "whole"), [(128, True), (129, False)])
def test_gossip_with_a_small_model_says_that_the_ledger_has_all_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, parameters: int, whole: bool
) -> None:
    monkeypatch.chdir(tmp_path)
    assert four_sites(tmp_path, monkeypatch, parameters=parameters) == CARDS
    words = "each site's whole model, in every round and for good: a sketch of 128 sums hides nothing of 128 parameters"
    assert (words in said(*new(*CARDS), "--gossip", "ring")) is whole
    assert "on record" not in said(*new(*CARDS), "--force")


def test_a_status_names_who_is_unlike_the_others() -> None:
    site = {"name": "rome", "norm": 9.0, "cosine": 0.2, "share": None, "unlike": "its norm is 9, 8 times the median"}
    alike = {"name": "oslo", "norm": 1.0, "cosine": 0.2, "share": None, "unlike": ""}
    answer = {
        **dict.fromkeys(("swarm", "me", "height", "entries", "root", "quorum", "tolerance"), 1),
        "rounds": 3,
        "committed": 2,
        "model": None,
        "own_model": None,
        "members": [],
    }
    text = render({**answer, "likeness": {"round": 2, "sites": [alike, site]}})
    assert "LOOK AT    rome, round 2: its norm is 9, 8 times the median" in text
    assert "oslo" not in text
    assert "LOOK AT" not in render({**answer, "likeness": None}) + render(answer)


def test_a_round_shows_who_was_left_out_and_why(tmp_path: Path) -> None:
    signed, payloads = ledger_of("multikrum:1")
    site = written(tmp_path / "site", payloads, signed=signed, segment_bytes=1 << 20)
    text = said("ledger", "round", "1", site)
    assert "by the rule multikrum:1, every update counting as one" in text
    row = next(line for line in text.splitlines() if line.strip().startswith("site-4"))
    assert row.split()[4:6] == ["left", "out"]
    assert "site-4 left out: it lies far from the others" in text
    assert " 0.00%" in row
    honest = next(line for line in text.splitlines() if line.strip().startswith("site-1"))
    assert "25.00%" in honest, "of 900 samples out of 1,650, one of four"
    shown = told("ledger", "round", "1", site)
    assert shown["rule"] == "multikrum:1"
    peers = shown["peers"]
    assert isinstance(peers, list)
    assert [peer["weight"] for peer in peers] == [0.25, 0.25, 0.25, 0.25, 0.0]
    assert [peer["why"] for peer in peers][3:] == [None, "left out: it lies far from the others"]
