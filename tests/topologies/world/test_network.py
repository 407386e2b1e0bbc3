import math
import random
from itertools import pairwise

import pytest

from topologies.world.network import TAIL_S_MAX, NetworkModel, NetworkProfile

FIXED = NetworkProfile(delay_s_min=0.1, delay_s_mean=0.1)


def model(profile: NetworkProfile, slots: int = 3) -> NetworkModel:
    return NetworkModel(profile, slots, random.Random(1))


def test_a_fixed_delay_is_exact() -> None:
    assert model(FIXED).route(0, 1, 100, 5.0) == (5.1,)


def test_bytes_are_serialised_per_direction() -> None:
    network = model(NetworkProfile(delay_s_min=0.1, delay_s_mean=0.1, bandwidth_bytes_s=1000))
    arrivals = [network.route(0, 1, 500, 0.0)[0], network.route(0, 1, 250, 0.0)[0]]
    assert arrivals == pytest.approx([0.6, 0.85])  # the second waits 0.5 s for the first
    assert network.route(1, 0, 500, 0.0) == pytest.approx((0.6,))  # the other direction is free
    assert network.route(0, 2, 500, 0.0) == pytest.approx((0.6,))  # so is another link
    assert network.route(0, 1, 500, 10.0) == pytest.approx((10.6,))  # the queue has drained


def test_a_full_queue_drops() -> None:
    network = model(NetworkProfile(bandwidth_bytes_s=100, queue_bytes_max=250))
    assert [len(network.route(0, 1, 100, 0.0)) for _ in range(4)] == [1, 1, 0, 0]
    assert len(network.route(0, 1, 100, 0.5)) == 1  # 50 bytes have left


def test_loss_and_duplication_have_the_rates_asked_for() -> None:
    network = model(NetworkProfile(loss=0.2, duplication=0.1))
    counts = [len(network.route(0, 1, 10, 0.0)) for _ in range(20_000)]
    assert counts.count(0) / 20_000 == pytest.approx(0.2, abs=0.01)  # 3.5 standard deviations
    assert counts.count(2) / 20_000 == pytest.approx(0.08, abs=0.01)


def test_delay_has_the_mean_and_minimum_asked_for() -> None:
    network = model(NetworkProfile(delay_s_min=0.01, delay_s_mean=0.05))
    delays = [network.route(0, 1, 10, 0.0)[0] for _ in range(20_000)]
    assert min(delays) >= 0.01
    assert sum(delays) / 20_000 == pytest.approx(0.05, rel=0.05)


def test_the_tail_is_heavy_but_bounded() -> None:
    network = model(NetworkProfile(delay_s_min=0.0, delay_s_mean=0.0, tail=1.0, tail_s_mean=1.0))
    delays = sorted(network.route(0, 1, 10, 0.0)[0] for _ in range(20_000))
    # P(X > x) = (1 + x)^-2 for a Lomax of shape 2 and scale 1: median sqrt(2) - 1, 1 % above 9.
    assert delays[10_000] == pytest.approx(math.sqrt(2) - 1, rel=0.05)
    assert delays[19_800] == pytest.approx(9.0, rel=0.2)
    assert delays[-1] <= TAIL_S_MAX


def test_datagrams_overtake_and_fifo_links_do_not() -> None:
    def overtaken(fifo: bool) -> int:
        network = model(NetworkProfile(delay_s_min=0.0, delay_s_mean=0.02, fifo=fifo))
        arrivals = [network.route(0, 1, 10, 0.001 * k)[0] for k in range(1000)]
        return sum(first > second for first, second in pairwise(arrivals))

    assert overtaken(fifo=False) > 300
    assert overtaken(fifo=True) == 0


def test_a_loss_on_a_fifo_link_is_a_new_connection() -> None:
    network = model(NetworkProfile(loss=1.0, fifo=True))
    assert network.route(0, 1, 10, 0.0) == ()
    assert network.epoch(0, 1) == network.epoch(1, 0) == 1
    assert network.epoch(0, 2) == 0


def test_cuts_are_directed_and_add_up() -> None:
    network = model(FIXED)
    network.cut("a", [(0, 1)])
    network.cut("b", [(0, 1), (1, 2)])
    assert network.route(0, 1, 1, 0.0) == ()
    assert network.route(1, 0, 1, 0.0) == (0.1,)
    network.mend("a")
    assert not network.is_open(0, 1)
    network.mend("b")
    network.mend("b")  # lifting twice lifts once
    assert network.is_open(0, 1)
    assert network.is_open(1, 2)


def test_a_slow_link_is_slow_one_way_until_it_is_undone() -> None:
    network = model(FIXED)
    network.slow(0, 1, bandwidth_bytes_s=10, delay_s=1.0)
    assert network.route(0, 1, 20, 0.0) == pytest.approx((3.1,))
    assert network.route(1, 0, 20, 0.0) == (0.1,)
    network.quicken(0, 1)
    assert network.route(0, 1, 20, 4.0) == (4.1,)


def test_calm_links_keep_their_delay_and_lose_nothing() -> None:
    calm = NetworkProfile(loss=0.5, duplication=0.5, tail=0.5, delay_s_mean=0.3).calm()
    assert (calm.loss, calm.duplication, calm.tail, calm.delay_s_mean) == (0.0, 0.0, 0.0, 0.3)
