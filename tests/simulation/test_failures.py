"""The failures that real swarms met, one test for each of the first rows of the table in the architecture.

Eight European hospitals lost weeks to them, on other software. Times are those of the stories, as far as they matter.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest

from swarm import codec
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock
from swarm.ledger.participation import Participation
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.stories import told
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_late import counted
from tests.simulation.test_pace import paced
from tests.simulation.test_routes import blocks
from topologies.world.faults import Crash, Fault, isolate
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

N = 4


def ran(
    rounds: int,
    times: Callable[[int, int], float] = lambda *_: 1.0,
    *,
    n: int = N,
    samples: Sequence[int] = (),
    patience_s: int = 12,
    faults: Sequence[Fault] = (),
) -> World:
    """Return a world that has come to its end, on the terms that `swarm charter new` drafts; times are twos of seconds."""
    swarm = make_swarm(
        n,
        rounds=rounds,
        deadline_ms=3_600_000,
        patience_ms=1000 * patience_s,
        min_contributions=n // 2 + 1,
        staleness=16,
        pace=4,
    )
    task = QuadraticTask(seed=1, samples=tuple(samples) or (100,) * n, bound=100.0, steps=4, rate=0.05)
    world = gossiping(swarm, paced(task, times), faults=faults)  # type: ignore[arg-type]
    assert world.run(all_done, end_s=20_000.0), [head(world, member).status(world.now) for member in range(n)]
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(n))
    return world


def took_part(world: World) -> Participation:
    found = Participation()
    for payload in blocks(world):
        found.read(codec.decode(payload, FinalBlock, limit=1 << 22))
    return found


def works(world: World, member: int) -> list[tuple[int, int]]:
    """Return (round of the mean, round of the work) of all of a member's work that was averaged."""
    return [(number, begun) for number, author, begun, _ in counted(world) if author == member]


def test_row_1_an_outage_of_six_minutes_at_round_10_of_20_costs_nothing() -> None:
    """Rounds of forty seconds. The site goes on training while it is cut off, and what it has learnt counts."""
    cut = isolate(3, at_s=380.0, duration_s=360.0)
    world = ran(20, lambda *_: 20.0, patience_s=60, faults=[cut])
    without = [text for text in told(world, 0, "round_closed") if "without site-3" in text]
    assert without, "rounds closed without it"
    assert world.now < 20 * 41 + 60, "and nobody waited for it, but once for a quarter of the patience"
    late = [(number, begun) for number, begun in works(world, 3) if begun < number]
    assert len(late) == 1
    assert late[0][0] - late[0][1] > 6, "what it did in the round of the outage counts in the first one after it"
    assert works(world, 3)[-1] == (20, 20), "it has caught up"
    assert took_part(world).gaps() == {}, "so that its work is in the model, for all rounds"


def test_row_2_the_slowest_site_which_is_the_largest_is_in_every_round() -> None:
    """Data spread 94-fold on equal machines: it needs many times the median, and the others wait."""
    samples = [round(100 * 94 ** (member / 5)) for member in range(6)]
    world = ran(4, lambda member, _: samples[member] / samples[3], n=6, samples=samples)
    assert {number for number, _ in works(world, 5)} == {1, 2, 3, 4}
    found = took_part(world)
    assert found.gaps() == {}
    assert len(found.contributors()) == 6, "success names them"


@pytest.mark.parametrize("seed", shortened(2, range(1, 5)))
def test_row_3_any_site_may_be_killed_at_any_point(seed: int) -> None:
    """Twice each, by SIGKILL or by a power cut, in any gap between two effects; a restart goes on from what is durable."""
    rng = random.Random(seed)
    crashes = [
        Crash(
            at_s=4.0 * number + rng.uniform(0.0, 3.0),
            slot=number % N,
            down_s=rng.uniform(0.1, 2.0),
            after_effects=rng.randrange(13),
            power=rng.random() < 0.5,
        )
        for number in range(2 * N)
    ]
    world = ran(12, faults=crashes)
    assert world.stats.crashes == 2 * N
    (*_, last) = audit(blocks(world), head(world, 0).replica.head.signed)
    assert last.failure is None
    assert last.state.committed.round == 12


def test_row_4_a_site_that_is_left_out_is_announced_and_nobody_waits_for_it() -> None:
    """It dies in round 3, for a minute, its update on record and nowhere else. All hear of it from the ledger, itself too once it is back."""
    world = ran(30, faults=[Crash(at_s=7.0, slot=2, down_s=60.0)])
    for member in range(N):
        said = [text for text in told(world, member, "round_closed") if "without site-2" in text]
        assert len(said) > 20, said
    assert world.now < 30 * 2.5 + 5.0, "nobody waits for it, but once"
    taken = {number for number, _ in works(world, 2)}
    missed = [number for number in range(1, 31) if number not in taken]
    assert took_part(world).gaps() == {world.ids[2]: missed}, "and the run is on record as one without it"
