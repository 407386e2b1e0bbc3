import math
import random

from topologies.world.clock import EPOCH_S, Clock, Scheduler


def test_an_alarm_converts_to_virtual_time_and_back_exactly() -> None:
    rng = random.Random(1)
    clock = Clock()
    clock.jump(-1234.56789)
    for _ in range(1000):
        unix_s = EPOCH_S + rng.uniform(0, 1e5)
        assert clock.read(clock.when(unix_s)) >= unix_s
        clock.restart()


def test_a_clock_set_back_stands_still_until_a_restart() -> None:
    clock = Clock()
    assert clock.read(10.0) == EPOCH_S + 10.0
    clock.jump(-5.0)
    assert clock.read(12.0) == EPOCH_S + 10.0
    assert clock.read(16.0) == EPOCH_S + 11.0
    clock.jump(-5.0)
    clock.restart()
    assert clock.read(16.0) == EPOCH_S + 6.0


def test_things_happen_in_order_of_time_and_then_of_asking() -> None:
    scheduler = Scheduler()
    done: list[tuple[str, float]] = []

    def act(name: str) -> None:
        done.append((name, scheduler.now))
        if name == "b":
            scheduler.at(2.0, act, "d")

    for time, name in ((2.0, "b"), (1.0, "a"), (2.0, "c"), (9.0, "z")):
        scheduler.at(time, act, name)
    assert scheduler.run(5.0, 100, None)
    assert done == [("a", 1.0), ("b", 2.0), ("c", 2.0), ("d", 2.0)]
    assert scheduler.now == 5.0


def test_a_run_says_whether_it_came_to_its_end() -> None:
    scheduler = Scheduler()

    def again() -> None:
        scheduler.at(scheduler.now + 1.0, again)

    again()
    assert scheduler.run(math.inf, 10, lambda: scheduler.now == 3.0)
    assert not scheduler.run(math.inf, 10, lambda: False)
    assert not scheduler.run(100.0, 10, None)
    assert scheduler.run(100.0, 1000, None)
    assert not scheduler.run(101.0, 1000, lambda: False)
