"""Swarms in which nobody is waited for: rounds close as soon as enough work is in, with the real node."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import pytest

from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.staleness import discounted
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.stories import told
from tests.simulation.test_gossip import all_done, gossiping, head
from tests.simulation.test_late import alike, counted, late, troubles
from tests.simulation.test_routes import COUNTS, ELEMENTS, HARSH, blocks, said, task
from topologies.world.faults import Fault, Partition
from topologies.world.learner import Behaviour
from topologies.world.network import NetworkProfile
from topologies.world.world import World

N, SLOW = 5, 4
ALL = range(N)


def ran(
    *,
    asynchronous: str = "buffered",
    buffer: int = 2,
    rounds: int = 40,
    staleness: int = 200,
    slow: bool = True,
    route: str = "",
    codec: str = "",
    seed: int = 1,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
) -> World:
    """Return a world that has come to its end. A slow site needs 25 s for what takes the others half a second.

    The charter would wait ten minutes for it.
    """
    swarm = make_swarm(
        N,
        rounds=rounds,
        elements=ELEMENTS,
        clip_norm_milli=200_000,
        deadline_ms=600_000,
        patience_ms=60_000,
        min_contributions=buffer,
        staleness=staleness,
        asynchronous=asynchronous,
        route=route,
        codec=codec,
    )
    learner = task(N, behaviours={SLOW: Behaviour.SLOW} if slow else {})
    world = gossiping(swarm, learner, seed=seed, faults=faults, network=network)
    assert world.run(all_done), [head(world, member).status(world.now) for member in ALL]
    return world


def test_nobody_waits_for_the_slow_one_and_its_work_is_in_the_model() -> None:
    world, together = ran(rounds=80), ran(asynchronous="", rounds=4)
    own = [(number, begun, weight) for number, author, begun, weight in counted(world) if author == SLOW]
    assert alike(world)
    assert own, "its work is in the model"
    assert all(weight == discounted(COUNTS[SLOW], number - begun) for number, begun, weight in own)
    assert max(number - begun for number, begun, _ in own) > 10, "and was begun many models ago"
    assert world.now / 80 < together.now / 4 / 10, (world.now, together.now)


def test_a_round_closes_with_enough_and_no_work_counts_twice() -> None:
    world = ran(buffer=3)
    sizes = [len(close.included) for close in said(world, e.ROUND_CLOSE, e.RoundClose)]
    works = [(author, begun) for _, author, begun, _ in counted(world)]
    assert min(sizes) == 3
    assert sum(sizes) / len(sizes) < 4.5, "four are quick, and they do not wait for each other either"
    assert len(works) == len({*works})
    assert not any("without" in text for text in told(world, 0, "round_closed")), "nobody is missed"


def test_with_a_buffer_of_one_each_piece_of_work_makes_a_model() -> None:
    world = ran(buffer=1, rounds=60)
    assert alike(world)
    assert 1 in Counter(len(close.included) for close in said(world, e.ROUND_CLOSE, e.RoundClose))
    assert {author for _, author, _, _ in counted(world)} >= {0, 1, 2, 3}


@pytest.mark.parametrize("route", shortened(1, ["fold", "sharded"]))
def test_by_the_routes_too(route: str) -> None:
    world = ran(route=route, rounds=20)
    assert alike(world)


@pytest.mark.parametrize("codec", shortened(1, ["int8", "topk:100"]))
def test_compressed_too(codec: str) -> None:
    world = ran(codec=codec, rounds=20)
    assert alike(world)
    assert late(world)


@pytest.mark.parametrize("seed", shortened(1, range(1, 5)))
def test_crashes_partitions_and_loss(seed: int) -> None:
    world = ran(seed=seed, faults=troubles(seed), network=HARSH, rounds=20)
    works = [(author, begun) for _, author, begun, _ in counted(world)]
    assert alike(world)
    assert len(works) == len({*works})


def test_too_few_sites_wait_and_go_on_when_the_others_are_back() -> None:
    cut = Partition(at_s=3.0, duration_s=60.0, groups=((0, 1), (2, 3), (4,)))
    world = ran(slow=False, buffer=2, faults=[cut], rounds=60)
    assert alike(world)
    assert world.now > 60, "two of five make no ledger"
    later = {author for number, author, _, _ in counted(world) if number > 50}
    assert later == set(ALL)


def test_an_auditor_finds_nothing_amiss() -> None:
    world = ran(rounds=20)
    (*_, last) = audit(blocks(world), head(world, 0).replica.head.signed)
    assert last.state.committed.round == 20
