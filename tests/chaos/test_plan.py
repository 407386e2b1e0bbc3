"""One plan of faults, two players: what it asks of processes, and whom it excuses."""

from __future__ import annotations

import math

import pytest

from tests.chaos.plan import Act, Step, Trouble, gone_throughout, timetable, touched, troubles
from tests.chaos.stage import ACCEPTANCE, scenario_of
from topologies.scenario import Scenario, parse
from topologies.world.faults import (
    ClockJump,
    Crash,
    FaultPlan,
    Freeze,
    FullDisk,
    OneWayCut,
    Partition,
    SlowLink,
    isolate,
)


def five(text: str = "") -> Scenario:
    return parse(f'name = "x"\nnodes = 5\n[learning]\nmixing = "exact"\n{text}', "a test")


def test_a_timetable_undoes_what_it_does_in_order_of_time() -> None:
    plan = FaultPlan(
        faults=(
            Crash(at_s=5.0, slot=1, down_s=2.0),
            Freeze(at_s=1.0, slot=2, duration_s=10.0),
            SlowLink(at_s=4.0, a=0, b=3, bandwidth_bytes_s=1e5, duration_s=1.0),
            ClockJump(at_s=6.0, slot=4, offset_s=-30.0),
        )
    )
    assert [(step.at_s, step.act, step.slots) for step in timetable(plan, 5)] == [
        (1.0, Act.STOP, (2,)),
        (4.0, Act.SLOW, (0, 3)),
        (5.0, Act.KILL, (1,)),
        (5.0, Act.QUICKEN, (0, 3)),
        (6.0, Act.CLOCK, (4,)),
        (7.0, Act.START, (1,)),
        (11.0, Act.GO_ON, (2,)),
    ]


def test_a_cut_names_every_way_between_its_groups_and_a_one_way_cut_one() -> None:
    plan = FaultPlan(faults=(isolate(2, at_s=0.0, duration_s=1.0), OneWayCut(at_s=2.0, sources=(0,), targets=(1, 2))))
    both, mended, one_way = timetable(plan, 3)
    assert {*both.pairs} == {(2, 0), (0, 2), (2, 1), (1, 2)}
    assert (mended.act, mended.name) == (Act.MEND, both.name)
    assert one_way == Step(at_s=2.0, act=Act.CUT, name="cut-1", pairs=((0, 1), (0, 2)))


def test_a_charter_is_renewed_while_its_site_is_down() -> None:
    plan = FaultPlan(faults=(Crash(at_s=3.0, slot=0, down_s=1.0, anew=True),))
    assert [step.act for step in timetable(plan, 2)] == [Act.KILL, Act.RENEW, Act.START]


def test_what_only_the_simulated_world_can_do_is_refused() -> None:
    with pytest.raises(ValueError, match="for the simulated world"):
        timetable(FaultPlan(faults=(FullDisk(at_s=0.0, slot=0, duration_s=1.0),)), 2)


def test_whoever_is_cut_off_from_a_quorum_is_gone_and_the_quorum_is_not() -> None:
    plan = FaultPlan(faults=(isolate(3, at_s=2.0, duration_s=5.0),))
    assert troubles(five(), plan) == (Trouble(slot=3, from_s=2.0, until_s=7.0, gone=True),)


def test_where_nobody_has_a_quorum_all_stand_still_and_none_is_gone() -> None:
    plan = FaultPlan(faults=(Partition(at_s=1.0, groups=((0, 1),), duration_s=2.0),))
    found = troubles(five(), plan)
    assert {one.slot for one in found} == {0, 1, 2, 3, 4}
    assert not any(one.gone for one in found)


def test_two_that_are_gone_at_once_excuse_everybody_for_as_long() -> None:
    plan = FaultPlan(faults=(isolate(3, at_s=2.0, duration_s=5.0), Crash(at_s=4.0, slot=0, down_s=10.0)))
    idle = [one for one in troubles(five(), plan) if not one.gone]
    assert {(one.slot, one.from_s, one.until_s) for one in idle} == {(slot, 4.0, 7.0) for slot in range(5)}


def test_a_stale_charter_keeps_a_site_out_from_the_start() -> None:
    (one,) = troubles(five('[[site]]\nname = "a"\nstale_charter_s = 9\n[[site]]\nname = "b"\ncount = 4'), FaultPlan())
    assert (one.slot, one.from_s, one.until_s, one.gone) == (0, -math.inf, 10.0, True)


def test_touched_has_grace_and_gone_has_none() -> None:
    found = [Trouble(slot=1, from_s=10.0, until_s=20.0, gone=True)]
    assert touched(found, 1, 24.0, 30.0, grace_s=5.0)
    assert not touched(found, 1, 26.0, 30.0, grace_s=5.0)
    assert not touched(found, 1, 0.0, 9.0, grace_s=5.0)
    assert not touched(found, 0, 12.0, 13.0, grace_s=5.0)
    assert gone_throughout(found, 1, 10.0, 20.0)
    assert not gone_throughout(found, 1, 9.0, 12.0)


def test_the_acceptance_scenario_is_what_the_acceptance_run_asks_for() -> None:
    scenario = scenario_of(ACCEPTANCE)
    samples = [site.samples for site in scenario.sites]
    poisoner = next(site for site in scenario.sites if site.behaviour == "poisoner")
    killed = {fault.slot for fault in scenario.plan(1).faults if isinstance(fault, Crash)}
    lasting = [fault.duration_s for fault in scenario.plan(1).faults if isinstance(fault, Partition)]
    assert (scenario.n, scenario.learning.rounds) == (8, 20)
    assert max(samples) / min(samples) == 94
    assert round(poisoner.samples / sum(samples), 3) == 0.006
    assert [site.slowdown for site in scenario.sites].count(20.0) == 1
    assert killed == {*range(8)}
    assert max(lasting) >= 5 * 4.0
    assert sum(bool(site.stale_charter_s) for site in scenario.sites) == 1
    assert sum(bool(site.protocol) for site in scenario.sites) == 1
    assert timetable(scenario.plan(1), scenario.n)
