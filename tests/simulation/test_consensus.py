"""Seeds of the consensus core's own world: enough here to notice, thousands by `consensus_world` as a program."""

from __future__ import annotations

import pytest

from swarm.ledger.block import quorum
from tests.simulation.consensus_world import CALM, Faults, Violation, World, run


@pytest.mark.parametrize("first", range(0, 60, 20))
def test_four_members_agree_and_finish_with_one_twin_among_them(first: int) -> None:
    for seed in range(first, first + 20):
        run(seed, 4, 1)


def test_seven_members_agree_and_finish_with_two_twins_among_them() -> None:
    for seed in range(10):
        run(seed, 7, 2)


def test_three_members_agree_and_finish_through_crashes() -> None:
    for seed in range(30):
        run(seed, 3, 0)


@pytest.mark.parametrize("n", [1, 2])
def test_swarms_without_tolerance_agree_and_finish_when_everybody_is_back(n: int) -> None:
    for seed in range(10):
        run(seed, n, 0)


def test_the_same_seed_gives_the_same_bytes() -> None:
    assert run(5, 4, 1) == run(5, 4, 1)
    assert run(5, 4, 1).digest != run(6, 4, 1).digest


def test_in_a_calm_world_nobody_is_skipped_and_nobody_asks() -> None:
    story = run(1, 4, 0, CALM, work=3)
    assert story.views == story.height + 1
    assert story.accused == ()


def test_a_settled_world_falls_silent() -> None:
    world = World(3, 4, 1, Faults())
    world.run(60.0)
    world.run(400.0, world.settled)
    world.run(world.now + 120.0)
    said = world.messages
    world.run(world.now + 120.0)
    assert world.messages == said
    assert [p.node.stalled_since for p in world.places if p.node and not p.twin] == [None] * 3


def test_past_the_threshold_every_fork_names_its_culprits() -> None:
    forked = 0
    for seed in range(40):
        story = run(seed, 4, 2, fork_allowed=True)
        assert set(story.accused) <= {2, 3}
        if story.forked:
            forked += 1
            assert len(story.accused) >= 2 * quorum(4) - 4
    assert forked


def test_members_that_forget_their_votes_frame_themselves() -> None:
    """The rule that bodies and votes are durable first is what this suite would notice the loss of."""
    framed = 0
    for seed in range(20):
        try:
            story = run(seed, 4, 1, Faults(forgetful=True, crash_every_s=2.0), fork_allowed=True)
        except Violation:
            framed += 1
        else:
            framed += any(signer != 3 for signer in story.accused)
    assert framed
