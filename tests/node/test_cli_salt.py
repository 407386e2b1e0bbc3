"""`swarm charter new --salt`: it says what a salt hides and from whom, and refuses what it would be of no use with."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.egress.policy import Policy, largest_update, objections
from swarm import charter as c
from tests.node.test_cli_charter import four_sites, new, refused, said

CARDS = [f"{name}/card.toml" for name in "abcd"]


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert four_sites(tmp_path, monkeypatch) == CARDS
    return tmp_path


def test_a_charter_with_a_salt_says_from_whom_it_hides_what(home: Path) -> None:
    text = said(*new(*CARDS), "--salt")
    assert "who has nothing but the ledger can confirm no guess of one site's update; members see updates" in text
    made = c.from_toml((home / "charter.toml").read_text())
    assert made.charter.options == (("min_cell", "5"), ("salt", "32"), ("staleness", "16"))
    assert largest_update(made.charter) == 4 * 1234 + 32
    assert c.to_toml(made) == (home / "charter.toml").read_text()


def test_who_asks_for_none_gets_none(home: Path) -> None:
    text = said(*new(*CARDS))
    assert "salt" not in text
    assert c.from_toml((home / "charter.toml").read_text()).charter.salt == 0


def test_few_sites_that_wait_for_nobody_wait_for_one_more_all_the_same(home: Path) -> None:
    said(*new(*CARDS), "--salt", "--asynchronous")
    assert c.from_toml((home / "charter.toml").read_text()).charter.round.min_contributions == 2


def test_the_cheapest_route_with_a_salt_is_none_on_which_norms_are_told(home: Path) -> None:
    said(*new(*CARDS), "--salt", "--route", "auto", "--uplink", "1")
    route = c.from_toml((home / "charter.toml").read_text()).charter.route
    assert route is None or route.name == "fold"


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gossip", "ring"), "the sketch of each model"),
        (("--masks", "pairwise"), "has no name on the ledger"),
        (("--route", "sharded"), "how much of the norm bound each slice takes"),
        (("--codec", "topk:50"), "sizes are on the ledger"),
        (("--min-contributions", "1"), "close with 1 contribution"),
    ],
)
def test_what_a_salt_is_of_no_use_with_is_said(home: Path, options: tuple[str, ...], words: str) -> None:
    message, hint = refused(*new(*CARDS), "--salt", *options)
    assert words in message
    assert hint


def test_a_site_may_take_part_in_no_swarm_without_a_salt(home: Path) -> None:
    wanted = Policy(require=("salt",))
    for option, found in (((), ["it lacks salt, without which nothing leaves this site"]), (("--salt",), [])):
        said(*new(*CARDS), *option, "--force")
        charter = c.from_toml((home / "charter.toml").read_text()).charter
        assert objections(wanted, charter, charter.members[0].node, elsewhere=0, budget=None) == found


def test_one_site_has_nobody_to_hide_its_update_among(home: Path) -> None:
    message, hint = refused(*new(*CARDS[:1]), "--salt")
    assert "the model that it ends with, whose name has no salt, is what that one update makes" in message
    assert "leave the salt out" in hint
