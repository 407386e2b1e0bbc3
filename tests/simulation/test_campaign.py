"""A time-boxed part of the campaign, and the promise that a run is its seed."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tests.cases import shortened
from tests.simulation.campaign import run
from tests.simulation.stories import done, tell


@pytest.mark.parametrize("seed", shortened(4, range(1, 13)))
def test_four_members_with_one_twin_stay_safe_and_live(seed: int) -> None:
    story = run(seed, members=4, twins=1)
    assert story.height > 0
    assert set(story.accused) <= {3}


@pytest.mark.parametrize("seed", shortened(1, range(1, 4)))
def test_seven_members_with_two_twins_stay_safe_and_live(seed: int) -> None:
    assert set(run(seed, members=7, twins=2).accused) <= {5, 6}


@pytest.mark.parametrize("members", [1, 2, 3, 5])
def test_small_swarms_without_liars_survive_crashes_and_partitions(members: int) -> None:
    assert run(members, members=members, twins=0).accused == ()


def test_the_same_seed_gives_the_same_trace_under_any_hash_seed() -> None:
    code = "from tests.simulation.campaign import run; print(run(5, members=4, twins=1).digest)"
    digests = set()
    for hash_seed in ("1", "2", "3"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed}
        done_ = subprocess.run(
            [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=100
        )
        digests.add(done_.stdout.strip())
    assert len(digests) == 1


def test_every_member_ends_with_the_weighted_mean_bit_for_bit() -> None:
    world = tell(5, rounds=2)
    assert world.run(done, end_s=100)
    models = {place.machine.replica.head.committed.model for place in world.places if place.machine}
    assert len(models) == 1
