"""Sites that are slow, or cut off for a while: what they have learnt counts in a later round, with the real node."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from swarm import codec as swarm_codec
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.ledger.state import decode_body
from swarm.machine import NodeId
from swarm.staleness import discounted
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.stories import told
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_routes import COUNTS, ELEMENTS, HARSH, blocks, said, task
from topologies.world.faults import Fault, FaultOptions, Partition, generate
from topologies.world.learner import Behaviour
from topologies.world.network import NetworkProfile
from topologies.world.world import World

N, SLOW = 5, 4
ALL = range(N)


def ran(
    *,
    staleness: int = 16,
    rounds: int = 10,
    route: str = "",
    codec: str = "",
    slow: bool = True,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
) -> World:
    """Return a world that has come to its end. A slow site needs 25 s for what takes the others half a second."""
    swarm = make_swarm(
        N,
        rounds=rounds,
        elements=ELEMENTS,
        clip_norm_milli=200_000,
        deadline_ms=6_000,
        patience_ms=4_000,
        min_contributions=3,
        staleness=staleness,
        route=route,
        codec=codec,
    )
    learner = task(N, behaviours={SLOW: Behaviour.SLOW} if slow else {})
    world = gossiping(swarm, learner, seed=seed, faults=faults, network=network)
    assert world.run(all_done), [head(world, member).status(world.now) for member in ALL]
    return world


def troubles(seed: int) -> Sequence[Fault]:
    return generate(seed, members=N, options=FaultOptions(heal_s=40.0)).faults


def counted(world: World) -> list[tuple[int, int, int, int]]:
    """Return (round of the mean, author, round of the work, weight) of all that was averaged."""
    state = head(world, 0).replica.head
    finals = [swarm_codec.decode(payload, FinalBlock, limit=1 << 22) for payload in blocks(world)]
    entries = [e.decode_entry(leaf) for final in finals for leaf in final.block.leaves]
    first = 1  # The charter is entry 0 and in no block. Of the last one the disk may still be writing.
    closes = {close.round: close for close in said(world, e.ROUND_CLOSE, e.RoundClose)}  # A second one takes its place.
    found = []
    for close in closes.values():
        for index, weight in close.included:
            leaf = entries[index - first]
            work, author = decode_body(leaf), state.terms.index(NodeId(leaf.author))
            assert isinstance(work, e.Contribution)
            assert author is not None
            found.append((close.round, author, work.round, weight))
    return found


def late(world: World) -> list[tuple[int, int, int, int]]:
    return [one for one in counted(world) if one[2] < one[0]]


def alike(world: World) -> bool:
    return all(np.array_equal(merged(world, 0), merged(world, member)) for member in ALL)


def test_what_a_slow_site_has_learnt_is_in_the_model() -> None:
    world, without = ran(rounds=16), ran(rounds=16, staleness=0)
    found = [one for one in late(world) if one[1] == SLOW]
    assert alike(world)
    assert len(found) > 1, "its work counts"
    assert all(weight == discounted(COUNTS[SLOW], number - begun) for number, _, begun, weight in found)
    assert not late(without)
    assert SLOW not in {author for _, author, _, _ in counted(without)}
    optimum = task(N).optimum()
    near, far = (float(np.linalg.norm(merged(w, 0) - optimum)) for w in (world, without))
    assert near < far, (near, far)
    assert any("late work counts, of site-4 for round" in text for text in told(world, 0, "round_closed"))


def test_no_work_counts_twice_and_no_round_waits_longer_for_it() -> None:
    world, without = ran(), ran(staleness=0)
    works = [(author, begun) for _, author, begun, _ in counted(world)]
    assert len(works) == len({*works})
    assert world.now < 1.1 * without.now


@pytest.mark.parametrize("codec", shortened(1, ["", "int8", "topk:100"]))
@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_by_the_routes_too(route: str, codec: str) -> None:
    world = ran(route=route, codec=codec)
    assert alike(world)
    assert late(world)
    if not codec:
        assert all(body.attempt == 1 for body in said(world, e.ROUND_CLOSE, e.RoundClose))


def test_who_was_cut_off_comes_back_with_what_it_did() -> None:
    cut = Partition(at_s=3.0, duration_s=9.0, groups=((0, 1, 2, 3), (4,)))
    world = ran(slow=False, faults=[cut], rounds=30)
    own = [(number, begun) for number, author, begun, _ in counted(world) if author == SLOW]
    assert alike(world)
    assert any(number - begun > 2 for number, begun in own), "what it did while it was cut off"
    assert own[-1] == (30, 30), "and it takes part again"


@pytest.mark.parametrize("seed", shortened(1, range(1, 4)))
@pytest.mark.parametrize("route", ["", "sharded"])
def test_crashes_partitions_and_loss(route: str, seed: int) -> None:
    world = ran(seed=seed, faults=troubles(seed), network=HARSH, route=route, rounds=8)
    assert alike(world)
    works = [(author, begun) for _, author, begun, _ in counted(world)]
    assert len(works) == len({*works})
