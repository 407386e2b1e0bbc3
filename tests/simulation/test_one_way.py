"""Swarms whose links go one way, with the real node in the simulated world."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pytest
from numpy.typing import NDArray

from node.core import Node
from swarm.ledger.exchange import Own
from swarm.ledger.pushing import UNIT
from swarm.ledger.state import State
from swarm.machine import Digest, NodeId
from swarm.terms import founding
from tests.builders import Swarm, make_swarm
from tests.cases import shortened
from tests.simulation.test_gossip import Blends, all_done, committed, gossiping, head, merged
from topologies.plan import SchedulePlan
from topologies.world.faults import Crash, FaultOptions, generate
from topologies.world.learner import Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

Wide = NDArray[np.float64]

SAMPLES = (100, 200, 300, 400, 500, 150)


@dataclass(frozen=True, slots=True, kw_only=True)
class OnlyOnce(QuadraticTask):
    """Sites that learn in the first round only, so that afterwards one can see what gossip does alone."""

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        """See `QuadraticTask`."""
        lesson = QuadraticTask.train(self, member, number, model, correction)
        return lesson if number == 1 else replace(lesson, update=np.zeros_like(model))


def swarm_of(n: int, rounds: int, schedule: str = "one_peer_exponential", **fields: object) -> Swarm:
    return make_swarm(n, rounds=rounds, schedule=schedule, links="directed", **fields)  # type: ignore[arg-type]


def state_of(world: World) -> State:
    return head(world, 0).replica.head


def models_and_masses(world: World) -> tuple[Wide, Wide]:
    """Every member's own model and its mass, by the ledger that member 0 has."""
    exchange = state_of(world).exchange
    assert exchange is not None
    models, masses = [], []
    for place in world.places:
        model = place.blobs.vector(Digest(exchange.models[place.id].model))
        assert model is not None
        models.append(model.astype(np.float64))
        masses.append(exchange.masses[place.id].held / UNIT)
    return np.array(models), np.array(masses)


def by_hand(swarm: Swarm, task: QuadraticTask, rounds: int) -> Wide:
    """Push-sum in float64 when nothing is lost; the weighted mean of the last models."""
    n = len(task.samples)
    plan, terms = SchedulePlan.of(swarm.charter, swarm.signed.ledger_id), founding(swarm.charter)
    nodes = [who.node for who in swarm.identities]
    counts = np.array(task.samples, float)
    x, mass = np.zeros((n, task.elements)), counts.copy()
    for number in range(1, rounds + 1):
        updates = np.array([task.train(i, number, x[i].astype(np.float32)).update for i in range(n)])
        half = x + updates * (counts / mass)[:, None]
        if number == rounds:
            return np.asarray(np.average(half, axis=0, weights=counts))
        column = np.eye(n)
        for j, node in enumerate(nodes):
            targets = plan.targets(terms, number, node)
            for target in targets:
                share = min(1.0, counts[nodes.index(target)] / counts[j]) / (len(targets) + 1)
                column[nodes.index(target), j] += share
                column[j, j] -= share
        before, x = mass, column @ (mass[:, None] * half)
        mass = column @ mass
        x = x / mass[:, None]
        assert np.allclose(mass @ x, before @ half, atol=1e-9)
    raise AssertionError("a run has a last round")


@pytest.mark.parametrize(
    "schedule", shortened(3, ["one_peer_exponential", "el_local:2", "own", "static_exponential", "ring"])
)
def test_models_are_what_push_sum_says(schedule: str) -> None:
    arcs = "0>1 0>2 1>2 2>3 3>4 4>0 4>5 5>3"
    swarm = make_swarm(6, rounds=7, schedule="links", links=arcs) if schedule == "own" else swarm_of(6, 7, schedule)
    task = QuadraticTask(seed=3, samples=SAMPLES, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(all_done)
    assert np.allclose(merged(world, 0), by_hand(swarm, task, 7), atol=2e-5)


@pytest.mark.parametrize("seed", shortened(1, [1, 2]))
def test_the_weighted_mean_stays_when_three_messages_in_ten_are_lost_and_sites_go_down(seed: int) -> None:
    """Whatever does not arrive stays where it is, and who missed the end of a round takes its gifts later."""
    swarm = swarm_of(6, 18, patience_ms=3_000, deadline_ms=12_000)
    task = OnlyOnce(seed=seed, samples=SAMPLES, bound=100.0)
    blends = Blends()
    faults = [Crash(at_s=20.0 + 25.0 * k, slot=1 + k % 5, down_s=9.0) for k in range(8)]
    world = gossiping(swarm, task, seed=seed, faults=faults, network=NetworkProfile(loss=0.3), checkers=[blends])
    assert world.run(lambda w: is_settled(w, 1), end_s=600)
    models, masses = models_and_masses(world)
    assert masses.sum() == sum(SAMPLES)
    mean = masses @ models / masses.sum()
    apart = np.abs(models - mean).max()
    seen_due = False
    for number in range(2, 16):
        assert world.run(committed(number), end_s=world.now + 600)
        exchange = state_of(world).exchange
        assert exchange is not None
        seen_due = seen_due or bool(exchange.dues)
        assert sum(mass.held for mass in exchange.masses.values()) == sum(SAMPLES) * UNIT, "to the last unit"
    assert world.run(lambda w: is_settled(w, 15), end_s=world.now + 600)
    models, masses = models_and_masses(world)
    assert np.allclose(masses @ models / masses.sum(), mean, atol=1e-6), "models are float32, rounded every round"
    assert np.abs(models - mean).max() < 0.7 * apart, "and they draw together"
    assert min(len(blend.terms) for blend in blends.seen.values()) == 1, "or nothing was lost"
    assert seen_due, "or nobody was late"


def is_settled(world: World, number: int) -> bool:
    """Whether a round is over and everybody is in, with nothing left to take."""
    machine = world.place(0).machine
    if not isinstance(machine, Node):
        return False
    state = machine.replica.head
    if state.committed.round < number or state.close is not None or state.exchange is None:
        return False
    held = [place.blobs.vector(Digest(own.model)) for place in world.places for own in _own(state, place.id)]
    return len(state.exchange.masses) == len(held) == len(world.places) and not state.exchange.dues


def _own(state: State, node: NodeId) -> list[Own]:
    assert state.exchange is not None
    return [own for who, own in state.exchange.models.items() if who == node]


@pytest.mark.parametrize("seed", shortened(1, range(1, 5)))
def test_misfortunes_neither_stop_it_nor_bend_it(seed: int) -> None:
    plan = generate(seed, members=4, options=FaultOptions(heal_s=40))
    world = gossiping(
        swarm_of(4, 6, patience_ms=3_000),
        QuadraticTask(seed=seed, samples=(100, 200, 300, 400), bound=100.0),
        seed=seed,
        faults=plan.faults,
        network=NetworkProfile(loss=0.02),
    )
    assert world.run(lambda w: all_done(w) and all(place.machine is not None for place in w.places), end_s=900)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(4))


def test_rounding_for_the_way_does_not_move_the_mean() -> None:
    swarm = swarm_of(6, 12, codec="bf16")
    task = OnlyOnce(seed=4, samples=SAMPLES, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(committed(11))
    models, masses = models_and_masses(world)
    first = [task.train(i, 1, np.zeros(task.elements, np.float32)).update for i in range(6)]
    mean = np.average(np.array(first, float), axis=0, weights=SAMPLES)
    assert np.allclose(masses @ models / masses.sum(), mean, atol=2e-6)
