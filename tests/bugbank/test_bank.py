"""Each seeded bug is noticed by its test, which passes as soon as the bug is gone."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import pytest

from tests.bugbank.bank import BANK
from tests.bugbank.seeding import Bug, notices, run, seeded
from tests.swarm import test_routed_round as routed
from topologies.world.disk import SimulatedDisk


@pytest.fixture
def fixture(request: pytest.FixtureRequest) -> Callable[[str], Any]:
    """Return what a killer asks for by name: a fixture of everybody's, or the disk of the journal's tests."""

    def named(name: str) -> Any:
        if name == "reopened":  # the same disk whenever it is opened, another one for each case
            return functools.partial(lambda disk: disk, SimulatedDisk())
        if name in ("sharded", "fold"):
            return routed.contributed(routed.SHARDED if name == "sharded" else routed.FOLD)
        return request.getfixturevalue(name)

    return named


@pytest.mark.parametrize("bug", BANK, ids=lambda bug: bug.name)
def test_a_bug_is_noticed(bug: Bug, fixture: Callable[[str], Any]) -> None:
    with seeded(bug.edits):
        assert notices(bug.killer, fixture), f"{bug.killer.__name__} does not notice that {bug.name}"


@pytest.mark.parametrize("killer", dict.fromkeys(bug.killer for bug in BANK), ids=lambda killer: killer.__name__)
def test_without_a_bug_there_is_nothing_to_notice(killer: Callable[..., None], fixture: Callable[[str], Any]) -> None:
    run(killer, fixture)


def test_no_two_bugs_are_the_same() -> None:
    assert len({bug.name for bug in BANK}) == len({bug.edits for bug in BANK}) == len(BANK)
