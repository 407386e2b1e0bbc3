from collections import Counter

import numpy as np
import pytest

from swarm.errors import UsageError
from topologies.families import complete, path, ring, star
from topologies.finite import base, fold
from topologies.schedules import build, one_peer_exponential, static
from topologies.traffic import (
    Network,
    RouteChoice,
    choose_base,
    choose_exact_route,
    gossip_cost,
    load,
    megabytes,
)

MODEL = 700e6  # the three-dimensional network of a hospital consortium
LINE = Network(latency_s=0.5, bandwidth_bytes_s=100.0, barrier_s=1.5)


def cost(choice: RouteChoice, name: str):  # noqa: ANN201
    return next(row for row in choice.table if row.name == name)


def test_the_load_of_a_star_by_hand() -> None:
    found = load(static(star(4)))
    assert (found.rounds, found.sent.tolist(), found.received.tolist()) == (1, [3, 1, 1, 1], [3, 1, 1, 1])
    assert (found.serial, found.mean, found.worst, found.total) == (3, 1.5, 3, 6)
    assert found.links == {(0, 1): 2, (0, 2): 2, (0, 3): 2}
    assert found.bytes_per_round(10) == 15
    assert found.link_bytes_per_round(10) == {(0, 1): 20, (0, 2): 20, (0, 3): 20}
    assert found.seconds(LINE, 100) == 1 * 2.0 + 3.0


def test_the_clock_waits_for_the_busiest_member_of_every_round() -> None:
    found = load(fold(5))
    assert (found.rounds, found.mean, found.worst) == (4, 2.0, 3)
    assert found.serial == 4, "somebody is busy in each of the four rounds"
    assert found.sent.tolist() == [3, 2, 2, 2, 1]
    assert found.links[(0, 4)] == 2


def test_loads_are_counted_over_a_period_or_as_long_as_asked() -> None:
    schedule = one_peer_exponential(10)
    assert (load(schedule).rounds, load(schedule).mean) == (4, 4.0)
    assert load(schedule, 9).mean == 9.0
    assert load(build("random_matching", 7)).mean == pytest.approx(64 * 6 / 7)
    assert load(base(1)).bytes_per_round(5) == 0.0


@pytest.mark.parametrize("name", ["ring", "base3", "fold", "ceca", "el_local", "static_exponential"])
def test_what_is_sent_is_received_and_crosses_a_link(name: str) -> None:
    found = load(build(name, 13, degree=2))
    assert found.sent.sum() == found.received.sum() == sum(found.links.values()) == found.total


def test_gossip_costs_rounds_times_copies() -> None:
    found = gossip_cost(static(ring(10)), 1e-6, 1000.0, LINE)
    assert found.rounds == 102
    assert (found.copies, found.bytes) == (204, 204_000)
    assert found.seconds == pytest.approx(102 * 2.0 + 204_000 / 100)
    exact = gossip_cost(base(10, 4), 1e-6, 1000.0, LINE)
    assert (exact.rounds, exact.copies) == (2, 5.0)
    assert gossip_cost(static(complete(1)), 1e-6, 1.0, LINE).seconds == 0.0


@pytest.mark.parametrize(
    ("n", "copies"), [(3, 1.33), (5, 1.60), (7, 1.71), (10, 1.80), (16, 1.88), (25, 1.92), (50, 1.96), (300, 1.99)]
)
def test_sharded_copies_are_those_of_the_published_table(n: int, copies: float) -> None:
    row = cost(choose_exact_route(n, 1000.0, LINE, shard_owners=1), "sharded")
    assert (row.rounds, round(row.bytes_mean / 1000, 2)) == (2, copies)
    assert row.seconds == pytest.approx(2 * 2.0 + row.bytes_max / 100)


def test_ten_hospitals_and_a_large_network() -> None:
    # One owner a slice is the published 1.26 GB. Two get every slice, and send its average to eight.
    choice = choose_exact_route(10, MODEL)
    assert cost(choose_exact_route(10, MODEL, shard_owners=1), "sharded").bytes_max == pytest.approx(1.26e9)
    assert cost(choice, "sharded").bytes_max == pytest.approx((2 * 0.9 + 0.8) * MODEL)
    # Eight pair up: an update to the partner, two sums of twice the size, a quarter of those for the two left over.
    assert cost(choice, "fold").bytes_max == pytest.approx((1 + 2 * 2 + 2 * 0.25) * MODEL)
    assert cost(choice, "spread").bytes_max == pytest.approx(6.3e9)
    assert choice.route == "sharded"


def test_small_models_are_spread_in_one_round_and_large_ones_sharded() -> None:
    assert choose_exact_route(5, 1e4).route == "spread"
    assert choose_exact_route(20, 100e6).route == "sharded"
    # Encoded updates travel smaller; what is made of them does not.
    assert choose_exact_route(5, 3e6).route == "sharded"
    assert choose_exact_route(5, 3e6, codec_ratio=0.1).route == "spread"


def test_what_the_charter_asks_for_rules_routes_out() -> None:
    robust = choose_exact_route(20, 100e6, needs_every_update=True)
    assert robust.route == "spread"
    assert "hides single updates" in cost(robust, "sharded").refusal
    assert "the only route that does what is asked" in robust.reason
    offered = ("spread", "sharded", "fold", "base2", "base3", "base4", "base5")
    assert "fractional weights" in cost(choose_exact_route(20, 100e6, offered=offered), "base2").refusal
    loose = choose_exact_route(20, 100e6, needs_same_bytes=False, offered=offered[3:])
    assert loose.route.startswith("base")
    assert "only compared" in cost(loose, "sharded").refusal
    with pytest.raises(UsageError, match="none of fold does what is asked"):
        choose_exact_route(5, 1e6, needs_every_update=True, offered=["fold"])


def test_links_that_are_not_there_rule_routes_out() -> None:
    choice = choose_exact_route(8, 100e6, topology=ring(8))
    assert choice.route == "spread"
    assert cost(choice, "sharded").refusal == "needs the link 0-2 and 19 others, which the topology lacks"
    # On a hypercube eight could fold. But when one of them is away, others pair up.
    assert choose_exact_route(8, 100e6, topology=build("hypercube", 8).links).route == "spread"
    with pytest.raises(UsageError, match="8 members on links of 7"):
        choose_exact_route(8, 1.0, topology=ring(7))


def test_spreading_over_sparse_links_relays() -> None:
    # A path of three: the middle passes each end's update on, beside its own two copies.
    row = cost(choose_exact_route(3, 100.0, LINE, topology=path(3)), "spread")
    assert (row.rounds, row.bytes_max, row.bytes_mean) == (2, 400.0, 200.0)
    assert row.seconds == 2 * 2.0 + 400 / 100
    # On a ring of four either neighbour could pass an update to the far side: they take turns.
    assert cost(choose_exact_route(4, 100.0, LINE, topology=ring(4)), "spread").bytes_max == 300.0
    full = cost(choose_exact_route(6, 100.0, LINE, topology=complete(6)), "spread")
    assert full == cost(choose_exact_route(6, 100.0, LINE), "spread")


def test_the_cost_model_can_be_printed() -> None:
    choice = choose_exact_route(10, MODEL)
    lines = choice.lines()
    assert lines[0].split() == ["route", "rounds", "sent,", "mean", "sent,", "max", "seconds", "remark"]
    assert lines[1].split()[0] == choice.route == "sharded"
    assert lines[1].endswith("chosen")
    assert lines[-1] == choice.reason
    assert choice.reason.startswith("sharded: 145.86 s against")
    assert "2 rounds and 1.82 GB" in choice.reason
    assert len(lines) == 2 + len(choice.table)
    assert "as quick as" in choose_exact_route(1, 1.0).reason


def test_the_fewest_round_base_graphs_are_those_of_the_published_count() -> None:
    best = {n: min((base(n, k).exact_after or 0) for k in range(1, min(4, n - 1) + 1)) for n in range(3, 51)}
    assert Counter(best.values()) == {1: 3, 2: 9, 3: 11, 4: 10, 5: 15}
    assert best[37] == best[41] == 5
    assert round(load(base(37, 4)).mean, 1) == round(load(base(41, 4)).mean, 1) == 16.1


def test_base_follows_the_network() -> None:
    slow_start = Network(latency_s=5.0, bandwidth_bytes_s=1e9, barrier_s=0.0)
    thin = Network(latency_s=0.0, bandwidth_bytes_s=1e3, barrier_s=0.0)
    assert choose_base(25, 1e6, slow_start)[0].name == "base5"  # 2 rounds
    assert choose_base(25, 1e6, thin)[0].name == "base5"  # 8 copies, as few as any
    assert choose_base(27, 1e6, thin)[0].name == "base3"
    schedule, costs = choose_base(33, 1e6, thin)
    assert schedule.name == "base3", "as quick as base2, at fewer bytes"
    assert min(row.seconds for row in costs) == costs[0].seconds == costs[1].seconds
    assert [row.name for row in costs] == ["base2", "base3", "base4", "base5"]
    assert choose_base(1, 1.0)[0].n == 1
    assert len(choose_base(3, 1.0)[1]) == 2


@pytest.mark.parametrize(
    "words", [{"latency_s": -1.0}, {"bandwidth_bytes_s": 0.0}, {"barrier_s": float("nan")}, {"latency_s": float("inf")}]
)
def test_a_network_that_cannot_be_is_refused(words: dict[str, float]) -> None:
    with pytest.raises(UsageError, match="couldn't cost a network"):
        Network(**words)


def test_sizes_that_cannot_be_are_refused() -> None:
    for words in ({"model_bytes": 0.0}, {"model_bytes": 1.0, "codec_ratio": 0.0}, {"model_bytes": float("inf")}):
        with pytest.raises(UsageError, match="couldn't cost the routes"):
            choose_exact_route(3, **words)
    with pytest.raises(UsageError, match="4 owners of 3"):
        choose_exact_route(3, 1.0, shard_owners=4)


def test_bytes_for_people() -> None:
    sizes = (0, 812, 3210, 999_600, 86.7e6, 1.26e9, 5e15)
    assert [megabytes(size) for size in sizes] == ["0 B", "812 B", "3.21 kB", "1 MB", "86.7 MB", "1.26 GB", "5000 TB"]
    assert np.isfinite(float(megabytes(1e3).split()[0]))
