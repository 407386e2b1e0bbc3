"""Sites with lines of their own, in the simulated network: what a line carries is shared, and counted."""

from __future__ import annotations

import math
import random

import pytest

from topologies.world.network import Access, NetworkModel, NetworkProfile

QUIET = NetworkProfile(delay_s_min=0.0, delay_s_mean=0.0)


def network(*access: Access, slow: dict[tuple[int, int], tuple[float, float]] | None = None) -> NetworkModel:
    return NetworkModel(QUIET, len(access), random.Random(1), access, slow)


def test_messages_to_different_sites_wait_for_each_other_on_one_uplink() -> None:
    net = network(Access(uplink_bytes_s=100.0), Access(), Access())
    assert net.route(0, 1, 50, 0.0) == (0.5,)
    assert net.route(0, 2, 50, 0.0) == (1.0,)
    assert net.route(1, 2, 50, 0.0) == (0.0,), "the others' lines are free"


def test_messages_from_different_sites_wait_for_each_other_on_one_downlink() -> None:
    net = network(Access(), Access(), Access(downlink_bytes_s=100.0))
    assert net.route(0, 2, 50, 0.0) == (0.5,)
    assert net.route(1, 2, 50, 0.0) == (1.0,)
    assert net.route(1, 2, 50, 9.0) == (9.5,), "an idle line owes nothing"


def test_of_two_lines_the_narrower_counts_and_both_latencies() -> None:
    net = network(Access(uplink_bytes_s=100.0, delay_s=1.0), Access(downlink_bytes_s=50.0, delay_s=2.0))
    assert net.route(0, 1, 100, 0.0) == (5.0,)


def test_what_does_not_fit_before_a_line_is_dropped() -> None:
    full = NetworkModel(
        NetworkProfile(delay_s_min=0.0, delay_s_mean=0.0, queue_bytes_max=100),
        2,
        random.Random(1),
        [Access(uplink_bytes_s=10.0), Access()],
    )
    assert full.route(0, 1, 60, 0.0) == (6.0,)
    assert full.route(0, 1, 60, 0.0) == ()


def test_a_process_that_died_leaves_an_empty_uplink() -> None:
    net = network(Access(uplink_bytes_s=10.0), Access())
    net.route(0, 1, 100, 0.0)
    net.restarted(0)
    assert net.route(0, 1, 10, 1.0) == (2.0,)


def test_a_line_that_is_slow_from_the_beginning_outlasts_a_fault_that_was_worse() -> None:
    net = network(Access(), Access(), slow={(0, 1): (10.0, 1.0), (1, 0): (10.0, 1.0)})
    assert net.route(0, 1, 10, 0.0) == (2.0,)
    net.slow(0, 1, bandwidth_bytes_s=1.0, delay_s=0.0)
    assert net.route(0, 1, 10, 10.0) == (20.0,)
    net.quicken(0, 1)
    assert net.route(0, 1, 10, 30.0) == (32.0,)
    net.quicken_all()
    assert net.route(0, 1, 10, 40.0) == (42.0,)


def test_every_direction_counts_what_it_was_given_lost_or_not() -> None:
    net = NetworkModel(NetworkProfile(loss=1.0), 2, random.Random(1))
    assert net.route(0, 1, 7, 0.0) == ()
    net.route(0, 1, 5, 0.0)
    net.cut("x", [(1, 0)])
    net.route(1, 0, 9, 0.0)
    assert net.carried == [0, 12, 0, 0], "what a cut forbids never left"


def test_a_line_that_carries_nothing_is_refused() -> None:
    for wrong in ({"uplink_bytes_s": 0.0}, {"downlink_bytes_s": -1.0}, {"delay_s": -1.0}):
        with pytest.raises(AssertionError):
            Access(**wrong)
    assert Access().uplink_bytes_s == math.inf
