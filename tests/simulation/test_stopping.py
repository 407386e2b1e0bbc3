"""Runs that end when they have learnt what they can, with the real node: everybody stops at the same round."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence

import msgspec
import numpy as np
import pytest
from typing_extensions import override

from swarm import terms
from swarm.charter import SignedCharter
from swarm.ledger.audit import audit
from swarm.ledger.state import best_of
from swarm.machine import Digest, Finished, NodeId
from tests.builders import Swarm, make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_membership import card, changing, finished, in_epoch, propose
from tests.simulation.test_outer import Emptied
from tests.simulation.test_routes import HARSH, blocks
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, generate
from topologies.world.learner import QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

N, ROUNDS = 4, 20
ALL = range(N)


@dataclasses.dataclass(frozen=True, slots=True)
class Overfits(QuadraticTask):
    """Held-out losses that fall until the model has come some way and rise from there, as a network's do.

    A member's loss is what its distance from the swarm's optimum is short of, or beyond, a tenth of where it began.
    `tells` replaces what a member says.
    """

    tells: Mapping[int, float | None] = dataclasses.field(default_factory=dict)

    @override
    def evaluate(self, member: int, model: Vector) -> tuple[int, Mapping[str, float]]:
        told = self.tells.get(member, 0.0)
        if member in self.tells:
            return 10**9, {} if told is None else {"loss": float(told or 0.0) * float(np.abs(model).sum())}
        optimum = self.optimum()
        left = float(np.linalg.norm(model - optimum) / np.linalg.norm(optimum))
        return 10, {"loss": abs(left - 0.1) + member}


def task(**more: object) -> Overfits:
    usual: dict[str, object] = {"seed": 5, "samples": (100, 120, 80, 100), "spread": 0.2, "bound": 200.0, "steps": 2}
    return Overfits(**{**usual, "rate": 0.25, **more})  # type: ignore[arg-type]


def a_swarm(stop: str = "loss:lower:3", **more: object) -> Swarm:
    usual: dict[str, object] = {"rounds": ROUNDS, "clip_norm_milli": 200_000, "patience_ms": 3_000}
    return make_swarm(N, stop=stop, **{**usual, **more})  # type: ignore[arg-type]


def ran(
    swarm: Swarm,
    *,
    learner: QuadraticTask | None = None,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
) -> World:
    world = gossiping(swarm, learner or task(), seed=seed, faults=faults, network=network, checkers=checkers)
    assert world.run(all_done), [head(world, member).status(world.now) for member in ALL]
    return world


def ended(world: World) -> Finished:
    """How the run has ended, which every member says in the same words."""
    found = {head(world, member).ended for member in ALL}
    assert len(found) == 1, found
    only = found.pop()
    assert only is not None
    return only


def losses(world: World) -> dict[int, dict[NodeId, int]]:
    """What members told of each round, in millionths."""
    *_, result = audit(blocks(world), head(world, 0).replica.head.signed)
    assert result.failure is None, result.failure
    rounds = {number: view.evaluations for number, view in sorted(result.rounds.items())}
    return {
        number: {node: dict(said.metrics)[0] for node, said in words.items() if said.metrics}
        for number, words in rounds.items()
    }


@functools.cache
def usual() -> World:
    """The run in which nothing special happens."""
    return ran(a_swarm())


def test_a_run_stops_at_one_round_for_everybody_and_says_why() -> None:
    world = usual()
    state = head(world, 0).replica.head
    assert state.stopped
    assert state.committed.round < ROUNDS
    best = best_of(state)
    assert best is not None
    last = state.committed.round
    assert ended(world) == Finished(
        "DONE", f"stopped after round {last}: no improvement of loss for 3 rounds, best round {best.round}"
    )
    assert 3 <= last - best.round <= 5, "the decision is known a round or two after the third"
    optimum = task().optimum()
    left = [float(np.linalg.norm(x - optimum)) for x in (merged(world, member) for member in ALL)]
    assert len({*left}) == 1
    for member in ALL:
        assert world.place(member).blobs.read(Digest(best.model), 0, 4) is not None, "and everybody has the best model"


def by_hand(told: Mapping[int, Mapping[NodeId, int]], patience: int = 3) -> tuple[int, int]:
    """The best round by what all say of each, and the round with which patience is at its end."""
    best, idle = 1, 0
    for number in range(2, len(told) + 1):
        low, high = sorted(told[best][node] - told[number][node] for node in told[best])[1:3]
        if (low + high) // 2 > 0:
            best, idle = number, 0
        elif (idle := idle + 1) == patience:
            return best, number
    raise AssertionError("it never stops")


def test_it_is_the_round_that_the_rule_says_when_done_by_hand() -> None:
    world = usual()
    told, best = losses(world), best_of(head(world, 0).replica.head)
    found, third = by_hand(told)
    assert all(len(told[number]) == N for number in range(1, third + 1)), "nobody is late here"
    assert best is not None
    assert best.round == found
    assert third <= head(world, 0).replica.head.committed.round <= third + 2


def test_without_the_option_all_rounds_are_learned() -> None:
    state = head(ran(a_swarm(stop="", rounds=6)), 0).replica.head
    assert (state.committed.round, state.stopping, best_of(state)) == (6, None, None)


@pytest.mark.parametrize("lie", [1e5, -1e5], ids=["it falls", "it rises"])
def test_one_liar_neither_stops_the_others_nor_keeps_them_going(lie: float) -> None:
    honest, world = usual(), ran(a_swarm(), learner=task(tells={2: lie}))
    found, lied = (best_of(head(one, 0).replica.head) for one in (honest, world))
    assert found is not None
    assert lied is not None
    assert abs(found.round - lied.round) <= 1
    ends = [head(one, 0).replica.head.committed.round for one in (honest, world)]
    assert abs(ends[0] - ends[1]) <= 1
    assert any(abs(one) > 2**40 for one in losses(world)[2].values()), "or it was no lie"


def test_where_too_few_tell_their_scores_all_rounds_are_learned() -> None:
    world = ran(a_swarm(rounds=6), learner=task(tells={1: None, 2: None}))
    assert ended(world).reason == "all 6 rounds are committed"
    assert best_of(head(world, 0).replica.head) is None, "two of four tell: one of them may lie"


def test_a_site_that_is_gone_delays_the_end_by_two_rounds_at_most() -> None:
    whole = head(usual(), 0).replica.head
    away = Crash(at_s=4.0, slot=3, down_s=4000.0)
    world = gossiping(a_swarm(), task(), faults=[away])
    assert world.run(lambda w: all(w.place(member).finished for member in range(3)))
    state = head(world, 0).replica.head
    assert state.stopped
    assert state.committed.round <= whole.committed.round + 3, "another site less is another model"


def test_who_was_away_learns_that_it_is_over_and_has_both_models() -> None:
    world = ran(a_swarm(), faults=[Crash(at_s=6.0, slot=3, down_s=300.0)], checkers=[Emptied()])
    state = head(world, 3).replica.head
    best = best_of(state)
    assert state.stopped
    assert best is not None
    for model in (best.model, state.committed.model):
        assert world.place(3).blobs.read(Digest(model), 0, 4) is not None


@pytest.mark.parametrize(("schedule", "seed"), [("", 1), ("ring", 3)])
def test_crashes_partitions_and_loss(schedule: str, seed: int) -> None:
    faults = generate(seed, members=N, options=FaultOptions(heal_s=20.0)).faults
    world = ran(a_swarm(schedule=schedule), seed=seed, faults=faults, network=HARSH)
    ended(world)
    assert len({merged(world, member).tobytes() for member in ALL}) == 1
    assert [*audit(blocks(world), head(world, 0).replica.head.signed)][-1].failure is None


@pytest.mark.parametrize("codec", ["", "int8"])
def test_gossip_ends_with_one_more_round_that_makes_all_models_one(codec: str) -> None:
    world = ran(a_swarm(schedule="ring", codec=codec), learner=task(rate=0.15))
    state = head(world, 0).replica.head
    assert state.stopped
    assert state.committed.model_bytes, "a common model"
    assert len({merged(world, member).tobytes() for member in ALL}) == 1
    best = best_of(state)
    assert best is not None
    assert best.model_bytes == 0, "of that round each site had its own"


def test_by_a_route_too() -> None:
    assert ended(ran(a_swarm(route="sharded"))) == ended(usual())


@functools.cache
def resumed_world() -> tuple[World, int]:
    """A run that was stopped, and went on by a vote; and the round that it had stopped with."""
    world = changing(N, newcomers=1, rounds=ROUNDS, stop="loss:lower:3", learner=task(samples=(100, 120, 80, 100, 90)))
    assert world.run(finished(0, 1, 2, 3), end_s=400.0)
    state = head(world, 0).replica.head
    assert state.stopped
    propose(world, 0, terms.repolicy(msgspec.structs.replace(state.terms.round, rounds=ROUNDS + 1)))
    propose(world, 0, terms.add(card(4)))
    assert world.run(lambda w: in_epoch(2, 0, 1, 2, 3, 4)(w) and head(w, 4).replica.head.complete, end_s=800.0)
    world.run(world.now + 10.0)
    return world, state.committed.round


def test_who_votes_for_more_rounds_gets_them_until_patience_is_at_its_end_again() -> None:
    world, stopped = resumed_world()
    state = head(world, 0).replica.head
    assert state.complete
    assert stopped + 3 <= state.committed.round
    assert {head(world, member).replica.head.digest() for member in range(5)} == {state.digest()}


@functools.cache
def troubled(schedule: str = "") -> tuple[SignedCharter, Sequence[bytes]]:
    """A ledger of a run that was stopped: messages were lost, one was away and another kept its scores back."""
    swarm = a_swarm("loss:lower:2:0.0005", schedule=schedule)
    world = ran(
        swarm,
        faults=[Crash(at_s=5.0, slot=1, down_s=9.0)],
        network=NetworkProfile(loss=0.05, duplication=0.02),
        learner=task(rate=0.15 if schedule else 0.25, tells={3: None}),
    )
    assert head(world, 0).replica.head.stopped
    return swarm.signed, blocks(world)


def resumed() -> tuple[SignedCharter, Sequence[bytes]]:
    world, _ = resumed_world()
    return head(world, 0).replica.head.signed, blocks(world)
