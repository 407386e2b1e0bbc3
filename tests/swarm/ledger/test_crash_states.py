"""A journal after every crash, and after a crash while it recovers from one, and again: see `crash_states`."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from tests.cases import shortened
from tests.swarm.ledger.crash_states import (
    OWNER,
    RUNS,
    VOTING,
    Append,
    Cut,
    Known,
    RecordingDisk,
    State,
    always,
    body,
    check,
    entry,
    explore,
    image_of,
    live,
    vote,
)

BUDGETS = {
    "a day of voting, small segments": ((120, 60), 2500),
    "a day of voting, large segments": ((40, 30), 900),
    "catching up": ((70, 60), 1500),
    "a real member": ((40, 20), 700),
}
"""States of a depth that the next one starts from, and how many must be seen in all; `make crash-states` has more."""


@pytest.mark.parametrize("name", shortened(2, RUNS))
def test_three_crashes_in_a_row_lose_nothing_and_pass_for_nothing_else(name: str) -> None:
    programs, segment_bytes = RUNS[name]
    budgets, fewest = BUDGETS[name]
    counts = explore(programs, segment_bytes, budgets)
    print(f"{name}: {counts}")
    assert len(counts) == 3
    assert sum(counts) >= fewest


def test_a_crash_in_a_short_life_and_one_while_it_is_mended_lose_nothing() -> None:
    first, second, _ = RUNS["a day of voting, small segments"][0]
    assert sum(explore((first, second), 1024, [20])) > 300


def test_every_operation_is_one_that_a_crash_may_follow() -> None:
    """The enumeration sees what it is for: torn writes, lost names, names that come back, sizes that are not there."""
    states = [*live(State((), Known()), always(VOTING), 1024)]
    files = [{path: (size, data) for path, size, data in state.image} for state in states]
    whole = dict(files[-1])
    assert any(size == 0 for held in files for size, _ in held.values())
    assert any("wal/00000000.seg" in held and "wal/00000002.seg" in held for held in files), "removed and back"
    assert "wal/00000000.seg" not in whole, "removed"
    assert any(not state.known.must and state.known.may for state in states), "a first write that was not completed"
    assert len({state.image for state in states}) < len(states), "many crashes leave the same disk"


def test_unsynced_writes_survive_in_any_combination_and_torn_in_any_sector() -> None:
    cut = Cut()
    for operation in [
        ("create", "wal/a", 4096, b""),
        ("sync", "wal/a", 0, b""),
        ("sync_folder", "wal", 0, b""),
        ("write", "wal/a", 0, b"1" * 1536),
        ("write", "wal/a", 2048, b"2" * 1024),
    ]:
        cut.do(operation)
    left = {data.ljust(4096, b"\0") for ((_, _, data),) in cut.states()}
    sectors = {tuple(data[at : at + 1] for at in (0, 512, 1024, 2048, 2560)) for data in left}
    nothing, one, two = b"\0", b"1", b"2"
    for first in [(one,) * 3, (nothing,) * 3, (one, one, nothing)]:
        for second in [(two,) * 2, (nothing,) * 2, (two, nothing), (nothing, two)]:
            assert (*first, *second) in sectors


@pytest.mark.parametrize(
    ("known", "why"),
    [
        (Known(frozenset({vote(1), entry(0), body(1)}), frozenset({vote(1), entry(0), body(1)})), "gone"),
        (Known(frozenset({vote(1)}), frozenset({vote(1)})), "nobody wrote"),
    ],
)
def test_a_state_that_is_not_as_it_must_be_is_noticed(known: Known, why: str) -> None:
    (*_, state) = live(State((), Known()), always([Append((vote(1), entry(0)))]), 1024)
    check(state, 1024)
    with pytest.raises(AssertionError, match=why):
        check(State(state.image, known), 1024)


def test_damage_that_is_no_crash_is_noticed() -> None:
    steps: Sequence[Append] = [Append((vote(number), entry(number))) for number in range(3)]
    (*_, state) = live(State((), Known()), always(steps), 1 << 15)
    bent = []
    for path, size, data in state.image:
        place = data.find(b"vote of view 1")
        bent.append((path, size, data[:place] + b"V" + data[place + 1 :] if place > 0 else data))
    with pytest.raises(AssertionError):
        check(State(image_of(bent), state.known), 1 << 15)
    assert RecordingDisk(state.image).image() == state.image
    assert len(OWNER) == 32
