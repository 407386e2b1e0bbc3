import pytest

from topologies.world.faults import (
    ClockJump,
    Crash,
    FaultOptions,
    FaultPlan,
    Heal,
    OneWayCut,
    Partition,
    TwinRoute,
    flapping,
    generate,
    isolate,
)


def test_the_same_seed_draws_the_same_plan() -> None:
    options = FaultOptions(heal_s=100)
    assert generate(5, members=4, options=options) == generate(5, members=4, options=options)
    assert generate(5, members=4, options=options) != generate(6, members=4, options=options)


def test_drawn_faults_begin_before_the_heal_and_cuts_end_by_then() -> None:
    for seed in range(50):
        plan = generate(seed, members=5, twins=(4,), options=FaultOptions(heal_s=40, full_every_s=20))
        assert plan.heal_s == 40
        assert all(0 <= fault.at_s < 40 for fault in plan.faults)
        assert [fault.at_s for fault in plan.faults] == sorted(fault.at_s for fault in plan.faults)
        for fault in plan.faults:
            if isinstance(fault, Partition | OneWayCut):
                assert fault.at_s + fault.duration_s <= 40 + 1e-9


def test_every_kind_of_trouble_is_drawn_sooner_or_later() -> None:
    seen = [
        fault
        for seed in range(30)
        for fault in generate(seed, members=4, twins=(3,), options=FaultOptions(full_every_s=20)).faults
    ]
    kinds = {type(fault).__name__ for fault in seen}
    assert kinds == {"Partition", "OneWayCut", "Crash", "SlowLink", "FullDisk", "TwinRoute"}
    crashes = [fault for fault in seen if isinstance(fault, Crash)]
    assert any(crash.power for crash in crashes)
    assert any(crash.after_effects for crash in crashes)
    assert any(not crash.after_effects for crash in crashes)
    assert any(crash.recovery_crashes for crash in crashes)


def test_only_as_many_are_down_at_once_as_allowed() -> None:
    for seed in range(30):
        options = FaultOptions(heal_s=200, crash_every_s=1.0, crash_s=5.0, down_max=2)
        crashes = [f for f in generate(seed, members=7, options=options).faults if isinstance(f, Crash)]
        for crash in crashes:
            down = [c for c in crashes if c.at_s <= crash.at_s < c.at_s + c.down_s]
            assert len(down) <= 2
            assert len({c.slot for c in down}) == len(down)


def test_twin_routes_leave_nobody_out() -> None:
    plan = generate(1, members=4, twins=(2,), options=FaultOptions())
    routes = [fault for fault in plan.faults if isinstance(fault, TwinRoute)]
    assert routes
    for route in routes:
        assert sorted({*route.first, *route.second}) == [0, 1, 3]  # neither half of the twin (slots 2 and 4)


def test_written_plans_read_as_a_story() -> None:
    assert isolate(2, at_s=1.0, duration_s=3.0) == Partition(at_s=1.0, groups=((2,),), duration_s=3.0)
    flaps = flapping(((0, 1),), at_s=10.0, duration_s=3.0, period_s=1.0)
    assert [(flap.at_s, flap.duration_s) for flap in flaps] == [(10.0, 0.5), (11.0, 0.5), (12.0, 0.5)]


def test_a_fault_before_the_run_is_a_mistake() -> None:
    with pytest.raises(AssertionError, match="before the run"):
        FaultPlan(faults=(Heal(at_s=1.0), ClockJump(at_s=-1.0, slot=0, offset_s=1.0)))
