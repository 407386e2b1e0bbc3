"""`swarm ledger contributions`, the report's section and the charter's option, as people see them."""

from __future__ import annotations

import csv
import functools
import html
import json
import re
from pathlib import Path

import pytest

from node.contributions import GAMED, accounts, verdicts
from node.report import Verdict, report
from swarm.charter import SignedCharter
from swarm.ledger.audit import audit
from tests.integration.test_ledger_format import judged
from tests.node.test_cli_ledger import calm, data, refused, said, written
from tests.simulation.test_contributions import N, free_rider, ran, swarm_of
from tests.simulation.test_routes import blocks

MADE_MS = 1_800_000_000_000


@functools.cache
def ridden() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """A ledger of five members of whom the third does nothing."""
    swarm = swarm_of(rounds=3)
    return swarm.signed, tuple(blocks(ran(swarm, free_rider(2))))


@pytest.fixture
def site(tmp_path: Path) -> Path:
    signed, payloads = ridden()
    return written(tmp_path / "site", payloads, signed=signed, segment_bytes=1 << 20)


def test_each_site_is_listed_with_claims_score_error_and_share(site: Path) -> None:
    rows = data("ledger", "contributions", site)["contributions"]
    assert isinstance(rows, list)
    assert [row["peer"] for row in rows] == [f"site-{i}" for i in range(N)]
    assert sum(row["share"] for row in rows) == pytest.approx(1.0)
    assert sum(row["size_share"] for row in rows) == pytest.approx(1.0)
    assert [row["samples"] for row in rows] == [300, 360, 240, 300, 330]
    assert min(rows, key=lambda row: row["share"])["peer"] == "site-2"
    assert all(row["error"] > 0 and row["scored"] == 3 and not row["gaps"] for row in rows)
    assert all(90 <= row["evaluations"] <= 96 and row["judged"] == 3 for row in rows)


def test_the_table_says_by_what_measure_and_what_it_is_worth(site: Path) -> None:
    text = said("ledger", "contributions", site)
    assert text.startswith("Shapley values by loss, of which less is better; at most 20 % of a round's training time")
    assert GAMED in " ".join(text.split())
    assert re.search(r"site-1 +3 +360 +\d+\.\d% +23\.5% +\+\d\.\d{4} \+- 0\.\d{4} +\d+\.\d% +9\d models", text)


def test_a_round_shows_who_says_what_and_whose_word_does_not_count(site: Path) -> None:
    rows = data("ledger", "contributions", site, "--round", "2")["contributions"]
    assert isinstance(rows, list)
    for row in rows:
        others = sorted(one["score"] for one in row["said"] if one["by"] != row["peer"])
        middle = others[(len(others) - 1) // 2 : len(others) // 2 + 1]
        assert row["scorers"] == len(others)
        assert row["score"] == pytest.approx(sum(middle) / len(middle), abs=1e-6)
    text = said("ledger", "contributions", site, "--round", "r2")
    assert text.startswith("round 2, ")
    assert "(of itself: does not count)" in text


def test_the_sites_are_written_as_a_table_for_other_programs(site: Path, tmp_path: Path) -> None:
    path = tmp_path / "shares.csv"
    said("ledger", "contributions", site, "--csv", path)
    rows = list(csv.DictReader(path.read_text().splitlines()))
    assert [row["site"] for row in rows] == [f"site-{i}" for i in range(N)]
    assert sum(float(row["share"]) for row in rows) == pytest.approx(1.0, abs=1e-5)
    message, _ = refused("ledger", "contributions", site, "--csv", path, "--round", "1", code=2)
    assert "couldn't write one round as CSV" in message


def test_a_ledger_that_asks_for_nothing_has_shares_of_samples_and_no_more(tmp_path: Path) -> None:
    plain = written(tmp_path / "plain", calm()[1])
    rows = data("ledger", "contributions", plain)["contributions"]
    assert isinstance(rows, list)
    assert {(row["score"], row["share"]) for row in rows} == {(None, None)}
    assert sum(row["size_share"] for row in rows) == pytest.approx(1.0)
    assert "the charter asks for no scores" in said("ledger", "contributions", plain)
    assert "nobody judges it" in said("ledger", "contributions", plain, "--round", "1")


def test_by_size_shares_are_those_of_samples() -> None:
    swarm = swarm_of("size", rounds=2)
    *_, result = audit(blocks(ran(swarm)), swarm.signed)
    found = accounts(result)
    assert [one.share_ppm for one in found] == [one.size_ppm for one in found]
    assert found[0].size_ppm == pytest.approx(1e6 * 100 / 510, abs=1)
    assert {one.score for one in found} == {None}


def test_rounds_that_nobody_agrees_on_are_named(tmp_path: Path) -> None:
    signed, payloads = judged()
    away = written(tmp_path / "away", payloads, signed=signed, segment_bytes=1 << 20)
    text = said("ledger", "contributions", away)
    assert "No agreed score, too few said anything in time: " in text
    *_, result = audit(payloads, signed)
    gap = next(number for one in accounts(result) for number in one.gaps)
    assert "a gap" in said("ledger", "contributions", away, "--round", gap)
    assert any(one.score is None for one in verdicts(result.scores.rounds[gap]))


@pytest.mark.parametrize(("number", "code"), [("seven", 2), ("99", 7)])
def test_a_round_that_is_none_is_refused(site: Path, number: str, code: int) -> None:
    message, _ = refused("ledger", "contributions", site, "--round", number, code=code)
    assert "round" in message


def test_a_score_is_shown_in_the_log_in_words(site: Path) -> None:
    log = data("ledger", "log", site)["entries"]
    assert isinstance(log, list)
    row = next(row for row in log if row["kind"] == "score")
    assert re.fullmatch(r"round 1, finds what 5 contributions added, from \d\d models", str(row["text"]))
    shown = data("ledger", "show", row["index"], site)
    body = shown["body"]
    assert isinstance(body, dict)
    assert (body["round"], body["method"], len(body["scores"])) == (1, 2, N)
    assert len(json.dumps(shown)) < 4000


def test_the_report_has_the_scores_and_what_they_can_be_gamed_by() -> None:
    signed, payloads = ridden()
    *_, result = audit(payloads, signed)
    page = report(result, signed, verdict=Verdict(valid=True), made_ms=MADE_MS)
    assert "What each site" in page
    assert html.escape(GAMED) in page
    assert re.search(r"\+1\.\d{4} ± 0\.\d{4}", page)
    plain, blocks_ = calm()[0], calm()[1]
    *_, other = audit(blocks_, plain)
    assert "Indicative" not in report(other, plain, verdict=Verdict(valid=True), made_ms=MADE_MS)
