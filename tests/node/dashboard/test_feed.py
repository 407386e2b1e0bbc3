"""What adds up all rounds does so seldom while a run is quick, and is never behind once it pauses."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from node.dashboard import feed
from node.dashboard.documents import sums
from node.dashboard.feed import Totals
from node.watch.look import Look
from swarm.ledger.audit import audit
from tests.node.test_cli_ledger import calm
from tests.node.watch.test_watch import look


def growing(every_s: float) -> Iterator[Look]:
    """Yield looks at a ledger into which another block has come each time."""
    signed, payloads = calm()
    for number, found in enumerate(audit(payloads, signed, trusting=True)):
        yield dataclasses.replace(look(), audit=found, at_s=number * every_s)


def test_totals_are_those_of_the_ledger_once_nothing_new_has_come() -> None:
    totals = Totals()
    for found in growing(0.001):
        totals.of(found)
    assert totals.of(found) == sums(found.audit)


def test_rounds_are_added_up_at_intervals_that_grow_with_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(feed, "APART_S", 10.0)
    made = []
    totals = Totals()
    for found in growing(1.0):
        if not made or totals.of(found) is not made[-1]:
            made.append(totals.of(found))
    assert len(made) == 1, "ten seconds for a round, and all blocks came within five"
    later = dataclasses.replace(found, at_s=found.at_s + 20.0)
    assert totals.of(later) == sums(found.audit)


def test_what_costs_little_is_there_at_once() -> None:
    totals = Totals()
    for found in growing(1.0):
        assert totals.of(found) == sums(found.audit), "two rounds are added up in no time"


def test_a_ledger_that_is_read_anew_and_a_clock_that_went_back_wait_for_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(feed, "APART_S", 1e6)
    totals = Totals()
    first, second, *_ = growing(1.0)
    *_, other = growing(1.0)
    totals.of(first)
    assert totals.of(other) == sums(other.audit), "another audit"
    *_, whole = growing(-1.0)
    totals.of(second)
    assert totals.of(whole) == sums(whole.audit)
