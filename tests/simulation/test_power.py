"""Power fails everywhere at once: nobody is left to fetch a model from."""

from __future__ import annotations

import pytest

from tests.builders import make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from topologies.world.faults import Crash
from topologies.world.learner import QuadraticTask


@pytest.mark.parametrize("members", [1, 4])
@pytest.mark.parametrize("schedule", ["", "complete"])
@pytest.mark.parametrize("at_s", [2.6, 3.4, 5.0, 6.2])
def test_a_swarm_that_loses_power_everywhere_goes_on(members: int, schedule: str, at_s: float) -> None:
    swarm = make_swarm(members, rounds=6, schedule=schedule, patience_ms=3_000)
    task = QuadraticTask(seed=3, samples=(100,) * members, bound=100.0)
    for seed in (1, 2):
        faults = [Crash(at_s=at_s, slot=slot, down_s=2.0, power=True) for slot in range(members)]
        world = gossiping(swarm, task, seed=seed, faults=faults)
        assert world.run(all_done, end_s=300.0), f"seed {seed}: stuck at {world.now:.0f} s"
        assert head(world, 0).replica.head.committed.round == 6
        assert merged(world, 0).size == task.elements
