"""What a machine holds on to does not grow with the rounds it has seen, however the swarm learns together.

Caches are bounded by numbers that take thousands of rounds to fill. Here they are small, and training is slow to
converge: once a model stands still its updates have the digest of those before, and whoever forgets to forget them does
not show.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import pytest

import gossip.engine
import gossip.transfer
import node.core.forkwatch
import swarm.ledger.cosign
import swarm.ledger.participation
import swarm.ledger.replica
import swarm.ledger.scores
from swarm.ledger.state import Signatures
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.fault_campaign import reachable
from tests.simulation.test_gossip import gossiping
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

N = 3
WARM, LONG, LOOKS = 12, 42, 4
"""Rounds after which is looked, and in how many in a row: in the middle of a round a machine holds more than between."""

SWARMS = {
    "spread": lambda: make_swarm(N, rounds=10_000),
    "sharded": lambda: make_swarm(N, rounds=10_000, route="sharded"),
    "copies": lambda: make_swarm(N, rounds=10_000, schedule="complete", codec="int8"),
    "asynchronous": lambda: make_swarm(N, rounds=10_000, asynchronous="buffered", min_contributions=2, staleness=20),
    "scored": lambda: make_swarm(N, rounds=10_000, contribution="loo:loss:lower:20"),
}


@pytest.fixture(autouse=True)
def _small_caches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gossip.engine, "SEEN_MAX", 20)
    monkeypatch.setattr(gossip.transfer, "HOLDERS_TOLD_MAX", 8)
    monkeypatch.setattr(node.core.forkwatch, "HASHES_KEPT", 8)
    monkeypatch.setattr(swarm.ledger.cosign, "ROOTS_KEPT", 4)
    monkeypatch.setattr(swarm.ledger.participation, "WORKS_MAX", 8)
    monkeypatch.setattr(swarm.ledger.replica, "RECENT_PER_AUTHOR", 8)
    monkeypatch.setattr(swarm.ledger.scores, "WORKS_MAX", 8)
    monkeypatch.setattr(Signatures, "REMEMBERED_MAX", 20)


def committed(round_: int) -> Callable[[World], bool]:
    def reached(world: World) -> bool:
        machine = world.place(0).machine
        return machine is not None and machine.replica.head.round >= round_

    return reached


def held(machine: object) -> int:
    """Return how much all that a machine can add to holds in all: the lengths of its dicts, lists, sets and queues.

    Not how many objects there are: small numbers are the same object wherever they stand, larger ones are not.
    """
    return sum(len(one) for one in reachable(machine) if isinstance(one, dict | list | set | deque))


def least(world: World, from_: int) -> int:
    """Return the least that any machine holds, over some rounds from this one on."""
    found = []
    for round_ in range(from_, from_ + LOOKS):
        assert world.run(committed(round_))
        found += [held(place.machine) for place in world.places]
    return min(found)


@pytest.mark.parametrize("how", shortened(2, SWARMS))
def test_thirty_rounds_leave_nothing_behind(how: str) -> None:
    world = gossiping(SWARMS[how](), QuadraticTask(seed=1, samples=(100, 200, 300), rate=1e-4, bound=100.0))
    before, after = least(world, WARM), least(world, LONG)
    assert after - before < LONG - WARM, (before, after)
