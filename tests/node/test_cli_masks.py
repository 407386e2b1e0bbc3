"""Masks on the command line: what they hide before anybody signs, what they cannot stand with, and what a ledger says."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from node.cli.charter import _spent_before
from node.cli.ledger.reading import verify_quietly
from node.cli.status import render
from swarm import charter as c
from swarm.charter import SignedCharter
from tests.node.test_cli_charter import data as told
from tests.node.test_cli_charter import four_sites, new, refused, said, swarm
from tests.node.test_cli_ledger import written
from tests.simulation.test_masks import ledger as troubled_ledger
from tests.simulation.test_site_noise import ledger as noised_ledger


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    assert four_sites(tmp_path, monkeypatch) == CARDS
    return tmp_path


CARDS = [f"{name}/card.toml" for name in "abcd"]


def test_a_charter_with_masks_says_what_they_hide_and_from_how_many(home: Path) -> None:
    text = said(*new(*CARDS), "--masks", "pairwise")
    assert "nobody sees an update, only their sum; 3 sites together could see them" in text
    assert "1 site may be lost between the roster and the close; 36 bits an element" in text
    made = c.from_toml((home / "charter.toml").read_text()).charter
    assert made.options == (("masks", "pairwise"), ("min_cell", "5"), ("staleness", "16"))
    assert made.round.min_contributions == 3
    assert made.masked_bytes == 1234 * 36 // 8
    assert c.to_toml(c.from_toml((home / "charter.toml").read_text())) == (home / "charter.toml").read_text()


def test_the_cheapest_route_under_masks_is_spread(home: Path) -> None:
    said(*new(*CARDS), "--masks", "pairwise:64", "--route", "auto")
    assert c.from_toml((home / "charter.toml").read_text()).charter.route is None


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--gossip", "ring"), "sums over neighbourhoods"),
        (("--rule", "trimmed:1"), "compares single updates"),
        (("--contribution", "loo:loss:lower:20", "--metrics", "loss"), "judges single updates"),
        (("--asynchronous",), "without those that a mask needs"),
        (("--codec", "int8"), "do not add up"),
        (("--route", "sharded"), "cannot go yet"),
        (("--min-contributions", "2"), "a sum of two tells each of them"),
        (("--masks", "pairwise:48"), "masks = 'pairwise:48'"),
    ],
)
def test_what_masks_cannot_stand_with_is_said(home: Path, options: tuple[str, ...], words: str) -> None:
    message, hint = refused(*new(*CARDS), "--masks", "pairwise", *options)
    assert words in message
    assert hint


@pytest.mark.parametrize("asked", ["paillier", "Paillier:2048", "ckks"])
def test_who_asks_for_encryption_is_told_why_not_and_what_instead(home: Path, asked: str) -> None:
    message, hint = refused(*new(*CARDS), "--masks", asked)
    assert f"masks = '{asked}', but rounds are summed under masks and not under homomorphic encryption" in message
    assert hint.startswith("take --masks pairwise")


def test_a_charter_with_site_privacy_says_how_much_noise_whom_it_trusts_and_what_it_pays(home: Path) -> None:
    text = said(*new(*CARDS), "--masks", "pairwise", "--site-privacy", "8:1e-5", "--rounds", "20")
    assert (
        "each sum has at least 2.852 times what one site can change, if at most 1 of 4 add none or tell others" in text
    )
    assert "epsilon 8 at delta 1e-05, for any one site as a whole, pays 20 rounds" in text
    length = 2.852 / (2 * 4) ** 0.5 * 1234**0.5
    assert f"is {length:.4g} times the norm bound, of 1,234 parameters: the model will be noise" in text
    path = home / "charter.toml"
    made = c.from_toml(path.read_text()).charter
    assert ("site_noise", "2.852:8:1e-5") in made.options
    assert made.site_noise is not None
    assert made.site_noise.sums == 20
    path.write_text(path.read_text().replace("rounds = 20", "rounds = 30"))
    assert "pays 20 rounds, fewer than there are: the run ends after 20" in said("charter", "show", "charter.toml")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "without masks: everybody would see each update"),
        (("--gossip", "ring"), "with gossip mixing, where neighbours see each site's model and not a sum"),
        (("--masks", "pairwise:64"), "with masks of 64 bits"),
        (("--masks", "pairwise", "--clip-norm", "1024", "--site-privacy", "0.01:1e-9"), "a sum would wrap"),
        (("--masks", "pairwise", "--site-privacy", "3"), "for a privacy budget"),
        (("--masks", "pairwise", "--site-privacy", "0.001:1e-10", "--rounds", "1000000"), "no noise is enough"),
    ],
)
def test_what_site_privacy_cannot_stand_with_is_said(home: Path, options: tuple[str, ...], words: str) -> None:
    message, hint = refused(*new(*CARDS), "--site-privacy", "8:1e-5", *options)
    assert words in message
    assert hint


def test_a_ledger_tells_what_its_sums_have_spent_and_that_the_run_is_over_for_it(tmp_path: Path) -> None:
    signed, payloads = noised_ledger()
    folder = str(written(tmp_path / "site", payloads, signed=signed))
    words = (
        "epsilon 2.485 of 3 spent at delta 1e-05, by 2 of 2 sums, for any one site as a whole, if at most 1 of 5 sites add"
        " no noise or tell others theirs"
    )
    over = "stopped after round 2: another one would cost more than epsilon 3 at delta 1e-05, for any one site"
    text = said("ledger", "status", folder)
    assert f"site noise {words}" in text
    assert over in text
    assert told("ledger", "status", folder)["site_noise"] == {
        "epsilon": 2.485,
        "budget": 3.0,
        "delta": 1e-5,
        "sums": 2,
        "of": 2,
        "silent": 1,
    }
    said("ledger", "card", folder, "-o", str(tmp_path / "card.md"))
    card = (tmp_path / "card.md").read_text()
    assert f"Sums of updates carry noise: {words}." in card
    assert over in card
    assert "No site says that it has trained privately besides" in card
    said("ledger", "report", folder, "-o", str(tmp_path / "report.html"))
    assert "by 2 of 2 sums" in (tmp_path / "report.html").read_text()


def test_a_successor_is_told_that_what_was_spent_before_adds_to_its_own_budget(tmp_path: Path) -> None:
    signed, payloads = noised_ledger()
    folder = written(tmp_path / "site", payloads, signed=signed)
    assert "adds to it: epsilon 2.485 of 3 spent" in _spent_before(verify_quietly(folder).state)
    plain = written(tmp_path / "plain", ledger()[1], signed=ledger()[0])
    assert "no epsilon bounds what its sums tell" in _spent_before(verify_quietly(plain).state)


def test_two_sites_have_no_secret_in_a_sum(home: Path) -> None:
    message, hint = refused(*new(*CARDS[:2]), "--masks", "pairwise")
    assert "masks with 2 members" in message
    assert "find a third" in hint


@functools.cache
def ledger() -> tuple[SignedCharter, list[bytes]]:
    return troubled_ledger()


def test_a_ledger_tells_who_masked_who_kept_others_waiting_and_which_round_is_void(tmp_path: Path) -> None:
    signed, payloads = ledger()
    folder = written(tmp_path / "site", payloads, signed=signed)
    log = said("ledger", "log", folder)
    for words in (
        "round 1, attempt 1, 5 sites mask",
        "round 1, attempt 1 ended, kept waiting by site-2",
        "dealt its secrets in shares",
        "revealed",
        "is void: no mean could be had",
    ):
        assert words in log, words
    assert "VALID" in said("ledger", "verify", folder).upper()
    assert "mask_roster" in str(told("ledger", "log", folder))
    index = next(int(line.split()[0]) for line in log.splitlines() if "mask_reveal" in line)
    assert '"shares"' in swarm("ledger", "show", index, folder, "--json").stdout


def test_a_status_tells_how_far_the_round_has_come_with_its_masks() -> None:
    base = {
        "rounds": 3,
        "committed": 1,
        "swarm": "s",
        "me": "a",
        "height": 1,
        "entries": 1,
        "root": "",
        "model": "m",
        "quorum": 3,
        "tolerance": "",
        "members": [],
    }
    at = {"round": 2, "attempt": 1, "stage": "deals", "done": 3, "of": 4}
    assert "masks      round 2: 3 of 4 have dealt shares of their secrets" in render({**base, "masks": at})
    assert "round 2, attempt 3: 3 of 4" in render({**base, "masks": {**at, "attempt": 3}})
    assert "round 2 is void" in render({**base, "masks": {**at, "stage": "void"}})
    assert "site noise epsilon 1 of 3 spent" in render({**base, "masks": at, "site_noise": "epsilon 1 of 3 spent"})
    assert "masks" not in render({**base, "masks": None}) + render(base)
