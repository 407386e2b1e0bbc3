"""Swarms that mix by gossip while members come and go, with the real node in the simulated world."""

from __future__ import annotations

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from swarm import terms as t
from swarm.machine import Digest
from tests.builders import identity
from tests.cases import shortened
from tests.simulation.test_membership import card, changing, committed, finished, head, in_epoch, propose
from topologies.world.faults import Crash, FaultPlan
from topologies.world.world import World

END_S = 400.0


def merged(world: World, member: int) -> NDArray[np.float32]:
    model = world.place(member).blobs.vector(Digest(head(world, member).committed.model))
    assert model is not None
    return model


def holds(world: World, member: int) -> bool:
    return world.place(member).blobs.vector(Digest(head(world, member).committed.model)) is not None


def contributed(world: World, member: int) -> bool:
    state = head(world, 0)
    node = world.ids[member]
    return state.exchange is not None and node in state.exchange.models


@pytest.mark.parametrize(
    ("schedule", "codec"), shortened(2, [("base2", ""), ("ring", "int4"), ("ring", ""), ("one_peer_hypercube", "")])
)
def test_a_newcomer_takes_part_and_ends_with_the_same_model(schedule: str, codec: str) -> None:
    """A hypercube of five does not exist: the links take its place. Under a codec a newcomer has no public copy yet."""
    world = changing(4, newcomers=1, rounds=12, schedule=schedule, codec_=codec)
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    assert world.run(lambda w: contributed(w, 4), end_s=END_S), "it has made a model of its own"
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, 5))


def test_a_member_leaves_and_is_forgotten() -> None:
    world = changing(5, rounds=12, schedule="base2")
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 4, t.remove(identity(4).node))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    assert not contributed(world, 4)
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, 4))


@pytest.mark.parametrize("codec", ["", "int8"])
def test_a_vote_for_fewer_rounds_merges_earlier_and_one_for_more_goes_on_from_the_merged_model(codec: str) -> None:
    """Under a codec the last round averages whole models, whenever it turns out to be the last."""
    world = changing(4, rounds=12, schedule="ring", codec_=codec)
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    policy = head(world, 0).terms.round
    propose(world, 0, t.repolicy(replace(policy, rounds=6)))
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert head(world, 0).committed.round == 6
    merged_ = head(world, 0)
    assert merged_.exchange is not None
    assert {*merged_.exchange.copies.values()} == ({merged_.committed.model} if codec else set())
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, 4))
    first = merged(world, 0).copy()
    propose(world, 0, t.repolicy(replace(policy, rounds=9)))
    everybody = range(4)
    assert world.run(lambda w: all(committed(w, m, 9) and holds(w, m) for m in everybody), end_s=END_S)
    assert not np.array_equal(first, merged(world, 0)), "three more rounds"
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, 4))


@pytest.mark.parametrize("after", shortened(2, [3, 9, 0, 6]))
def test_a_crash_while_the_epoch_turns(after: int) -> None:
    plan = FaultPlan(faults=(Crash(at_s=4.0, slot=1, after_effects=after, down_s=5.0),))
    world = changing(4, newcomers=1, rounds=10, schedule="base2", plan=plan)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, 5))
