"""The cost model of unequal sites: hand-checkable numbers, and agreement with the one for equal sites."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from swarm.ledger.replica import GATHER_S
from swarm.routes import Route
from topologies import schedules, traffic
from topologies.pace import AGREEMENT_HOPS, AGREEMENT_S, Pace
from topologies.scenario import Line, Scenario, Site, plain

MEGABYTE = 1e6


def sites(n: int, **fields: float) -> tuple[Site, ...]:
    usual = {"step_s": 1e-3, "uplink_bytes_s": MEGABYTE, "downlink_bytes_s": MEGABYTE, "latency_s": 0.0}
    return tuple(Site(name=f"s{i}", **(usual | fields)) for i in range(n))  # type: ignore[arg-type]


def test_the_slowest_pair_of_a_matching_counts_and_not_the_mean() -> None:
    slow = replace(sites(1)[0], name="slow", uplink_bytes_s=MEGABYTE / 10)
    scenario = Scenario(name="x", sites=(*sites(3), slow))
    pace = Pace(scenario, [1] * 4, copy_bytes=MEGABYTE)
    fast_pair, slow_pair = [(0, 1), (1, 0)], [(2, 3), (3, 2)]
    assert pace.exchange(fast_pair).seconds == pytest.approx(0.001 + 1)
    assert pace.exchange([*fast_pair, *slow_pair]).seconds == pytest.approx(0.001 + 10)


def test_what_a_member_sends_at_a_time_shares_its_uplink_and_what_it_receives_its_downlink() -> None:
    pace = Pace(Scenario(name="x", sites=sites(4)), [1] * 4, copy_bytes=MEGABYTE)
    assert pace.exchange([(0, 1), (0, 2), (0, 3)]).seconds == pytest.approx(0.001 + 3)
    assert pace.exchange([(1, 0), (2, 0)]).seconds == pytest.approx(0.001 + 2)


def test_a_model_leaves_when_its_maker_has_trained_and_pays_both_latencies_and_the_line() -> None:
    a, b = sites(2, latency_s=0.1)
    scenario = Scenario(name="x", sites=(replace(a, step_s=2.0), b), latency_s=0.05)
    pace = Pace(scenario, [3, 1], copy_bytes=MEGABYTE)
    assert pace.exchange([(0, 1), (1, 0)]).seconds == pytest.approx(3 * 2.0 + 1.0 + 0.25)
    worse = replace(scenario, lines=(Line(between=("s0", "s1"), bandwidth_bytes_s=MEGABYTE / 4, latency_s=1.0),))
    assert Pace(worse, [3, 1], copy_bytes=MEGABYTE).exchange([(0, 1)]).seconds == pytest.approx(6.0 + 4.0 + 1.25)
    assert Pace(worse, [3, 1], copy_bytes=MEGABYTE).latency(1, 0) == pytest.approx(1.25)


def test_a_round_without_an_exchange_takes_as_long_as_training() -> None:
    pace = Pace(Scenario(name="x", sites=sites(3)), [5, 9, 2], copy_bytes=MEGABYTE)
    assert pace.exchange([]).seconds == pytest.approx(0.009)


@pytest.mark.parametrize("name", ["ring", "complete", "base2", "random_matching"])
def test_among_equals_it_is_the_model_of_traffic(name: str) -> None:
    schedule = schedules.build(name, 8, seed=1)
    pace = Pace(plain(8), [1] * 8, copy_bytes=MEGABYTE)
    network = traffic.Network(latency_s=0.02, bandwidth_bytes_s=12.5e6, barrier_s=0.0)
    rounds = schedule.period or 5
    reckoned = [pace.exchange(mixing.edges) for mixing in schedule.mixings(rounds)]
    load = traffic.load(schedule, rounds)
    assert sum(one.seconds - 0.01 for one in reckoned) == pytest.approx(load.seconds(network, MEGABYTE))
    assert np.array_equal(sum(one.sent for one in reckoned), load.sent)


def test_on_the_sharded_route_two_slices_a_member_go_out_and_all_others_come_back() -> None:
    pace = Pace(Scenario(name="x", sites=sites(4)), [1] * 4, copy_bytes=MEGABYTE)
    done = pace.routed(Route("sharded", 4), MEGABYTE / 2)
    # Of each update two quarters to either of three others; of the mean two quarters, of half the size, to everybody.
    assert done.sent == pytest.approx([1.5 + 0.25] * 4)
    assert done.seconds == pytest.approx(0.001 + 1.5 + 0.25 + pace.agreement_s)


def test_the_slowest_line_counts_in_each_step_of_a_route_and_later_steps_are_asked_for() -> None:
    a, *others = sites(4, latency_s=0.1)
    scenario = Scenario(name="x", sites=(replace(a, uplink_bytes_s=MEGABYTE / 10), *others))
    pace = Pace(scenario, [1] * 4, copy_bytes=MEGABYTE)
    done = pace.routed(Route("sharded", 4), MEGABYTE / 2)
    assert done.seconds == pytest.approx(0.001 + 15 + 0.2 + 2.5 + 3 * 0.2 + pace.agreement_s)


@pytest.mark.parametrize("n", [2, 3, 4, 5, 8, 13])
def test_among_equals_routes_cost_the_bytes_of_traffic(n: int) -> None:
    pace = Pace(plain(n), [1] * n, copy_bytes=MEGABYTE)
    costs = {cost.name: cost for cost in traffic.choose_exact_route(n, MEGABYTE).table}
    sharded, fold = pace.routed(Route("sharded", n), MEGABYTE), pace.routed(Route("fold"), 2 * MEGABYTE)
    assert sharded.sent.mean() * MEGABYTE == pytest.approx(costs["sharded"].bytes_mean)
    assert fold.sent.mean() * MEGABYTE == pytest.approx(costs["fold"].bytes_mean)
    assert fold.sent.max() * MEGABYTE == pytest.approx(costs["fold"].bytes_max)


def test_agreement_costs_latencies_of_a_quorum() -> None:
    far = replace(sites(1)[0], name="far", latency_s=10.0)
    scenario = Scenario(name="x", sites=(*sites(6, latency_s=0.01), far))
    pace = Pace(scenario, [1] * 7, copy_bytes=1.0)
    assert pace.agreement_s == pytest.approx(AGREEMENT_S + AGREEMENT_HOPS * 0.02), "one of seven is not waited for"


def test_contributions_are_gathered_into_blocks_before_anybody_fetches_them() -> None:
    pace = Pace(Scenario(name="x", sites=sites(4)), [1] * 4, copy_bytes=0.0)
    mixing = schedules.build("ring", 4).mixing(0)
    rest = pace.agreement_s
    for training_s, gathered_s in [
        ((0.1, 0.2, 0.3, 0.9), 0.9),  # all in one block, with the last of them
        ((0.1, 0.2, 0.3, 1.5), 1.5),  # the others are in a block by then
        ((3.0, 3.1, 3.2, 3.3), 3.3),
    ]:
        pace.training_s = np.array(training_s)
        assert pace.round(mixing).seconds == pytest.approx(gathered_s + rest)


def test_who_waits_for_nobody_in_particular_waits_for_company() -> None:
    pace = Pace(Scenario(name="x", sites=sites(4)), [1] * 4, copy_bytes=0.0)
    pace.training_s = np.array((0.1, 1.2, 1.3, 9.0))
    gathered = pace._gathered()
    assert gathered.tolist() == pytest.approx([GATHER_S, 1.2 + GATHER_S, 1.2 + GATHER_S, 9.0])


def test_spreading_sends_every_update_everywhere_whatever_the_links() -> None:
    pace = Pace(Scenario(name="x", sites=sites(6)), [1] * 6, copy_bytes=MEGABYTE)
    ring, complete = (schedules.build(name, 6).links.edges for name in ("ring", "complete"))
    for links in (ring, complete):
        assert pace.spread(links).sent.sum() == pytest.approx(6 * 5)
    star = pace.spread(schedules.build("star", 6).links.edges)
    assert star.sent[0] == pytest.approx(15), "half of all copies pass through the middle"
    assert star.seconds > pace.spread(complete).seconds
