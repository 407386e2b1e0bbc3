"""What the pages claim of others has a source and a date, and what they claim of rules is never more than support."""

from __future__ import annotations

import re

import pytest

from tests.docs.pages import DOCS

COMPARISON = (DOCS / "comparison.md").read_text()
REGULATION = (DOCS / "regulation.md").read_text()

PEERS = ("NVIDIA FLARE", "Flower", "HPE Swarm Learning", "p2pfl", "hivemind", "OpenFL", "Fed-BioMed")
OURS = re.compile(r"we found none|Not gone into")


def rows(text: str) -> list[list[str]]:
    """Return the cells of every row of every table but the first two rows, which name columns and draw a line."""
    found: list[list[str]] = []
    inside = 0
    for line in text.splitlines():
        inside = inside + 1 if line.startswith("|") else 0
        if inside > 2:
            found.append([cell.strip() for cell in line.strip().strip("|").split("|")])
    return found


def test_every_row_about_another_tool_has_its_source() -> None:
    told = [row for row in rows(COMPARISON) if any(peer in row[0] for peer in PEERS)]
    assert {peer for peer in PEERS if any(peer in row[0] for row in told)} == {*PEERS}
    for name, words in told:
        assert "[^" in words or OURS.search(words), f"{name}: {words}"


def test_every_source_is_used_and_says_which_version_or_when() -> None:
    body, _, _ = COMPARISON.partition("\n[^nvflare-readme]:")
    sources = dict(re.findall(r"^\[\^([\w-]+)\]: (.+)$", COMPARISON, re.MULTILINE))
    assert {*re.findall(r"\[\^([\w-]+)\]", body)} == {*sources}
    for name, source in sources.items():
        assert re.search(r"20\d\d|commit [0-9a-f]{8}|\d\.\d+\.\d+", source), name


def test_what_others_do_better_is_said_first() -> None:
    assert re.findall(r"^## (.+)$", COMPARISON, re.MULTILINE)[0] == "What they do better"


@pytest.mark.parametrize("word", ["compliant", "complies", "certified for", "fulfils", "guarantees"])
def test_no_page_about_rules_claims_more_than_support(word: str) -> None:
    assert word not in REGULATION.lower()


def test_every_row_about_a_rule_names_what_there_is_today_or_says_that_there_is_nothing() -> None:
    assert len(rows(REGULATION)) >= 25
    for asked, support, *_ in rows(REGULATION):
        assert "](" in support or "`swarm " in support or support.startswith("Nothing"), asked
