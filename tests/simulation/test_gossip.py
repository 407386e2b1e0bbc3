"""Swarms that mix by gossip, with the real node in the simulated world."""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from node.core import Node
from swarm.ledger.audit import audit
from swarm.machine import RECORD_BLOCK, Blend, Digest, Effect, Event
from swarm.terms import founding
from tests.builders import Swarm, make_swarm
from tests.cases import shortened
from topologies.families import complete
from topologies.plan import SchedulePlan, open_schedule
from topologies.world.checkers import Checker, PersistBeforeSend
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, Fault, FaultOptions, FaultPlan, Partition, generate
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

Wide = NDArray[np.float64]


class Blends(Checker):
    """Every blend of every member: its round and its terms."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], Blend] = {}

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Blend):
                known = self.seen.setdefault((node, effect.round), effect)
                assert known == effect, "a round is blended in one way, however often"


def gossiping(
    swarm: Swarm,
    task: QuadraticTask,
    *,
    seed: int = 1,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
) -> World:
    members = len(swarm.identities)
    world = World(
        seed=seed,
        make=lambda member, incarnation: swarm.node(member, now=EPOCH_S + world.now, seed=seed * 100 + incarnation),
        topology=complete(members),
        plan=FaultPlan(faults=tuple(faults)),
        network=network,
        learner=task,
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        checkers=[Agreement(), HonestOnTheWire(), PersistBeforeSend(), *checkers],
        codec=swarm.charter.codec,
        cuts=swarm.charter.cuts,
        averages=swarm.charter.averages,
        momentum=swarm.charter.momentum,
        follows=swarm.charter.follows,
        outer=swarm.charter.outer,
        rule=swarm.charter.rule_of(exchanging=False),
        masks=swarm.charter.masks > 0,
        salt=swarm.charter.salt,
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def head(world: World, member: int) -> Node:
    machine = world.place(member).machine
    assert isinstance(machine, Node)
    return machine


def all_done(world: World) -> bool:
    return all(place.finished for place in world.places)


def committed(round_: int) -> Callable[[World], bool]:
    def reached(world: World) -> bool:
        machine = world.place(0).machine
        return isinstance(machine, Node) and machine.replica.head.committed.round >= round_

    return reached


def merged(world: World, member: int) -> Wide:
    model = world.place(member).blobs.vector(Digest(head(world, member).replica.head.committed.model))
    assert model is not None
    return model.astype(np.float64)


def by_hand(swarm: Swarm, task: QuadraticTask, rounds: int) -> Wide:
    """D-PSGD in float64 with the matrix A of every round; the weighted mean of the last models."""
    n = len(task.samples)
    plan, terms = SchedulePlan(swarm.charter.schedule, swarm.signed.ledger_id), founding(swarm.charter)
    nodes = [who.node for who in swarm.identities]
    weights = dict(zip(nodes, task.samples, strict=True))
    x, moved, beta = np.zeros((n, task.elements)), np.zeros((n, task.elements)), swarm.charter.momentum
    for number in range(1, rounds + 1):
        half = np.array([x[i] + task.train(i, number, x[i].astype(np.float32)).update for i in range(n)])  # type: ignore[operator]
        half += beta * moved
        if number == rounds:
            return np.asarray(np.average(half, axis=0, weights=task.samples))
        matrix = np.zeros((n, n))
        for i, node in enumerate(nodes):
            for other, share in plan.shares(terms, number, node, weights, plan.partners(terms, number, node)):
                matrix[i, nodes.index(other)] = share
        before = np.average(half, axis=0, weights=task.samples)
        moved = beta * moved + (1 - beta) * (matrix @ half - x)
        x = matrix @ half
        assert np.allclose(np.average(x, axis=0, weights=task.samples), before, atol=1e-12), "the weighted mean stays"
    raise AssertionError("a run has a last round")


@pytest.mark.parametrize("schedule", shortened(2, ["ring", "base2", "random_matching", "complete"]))
def test_models_are_what_the_equation_says(schedule: str) -> None:
    rounds, samples = 6, (100, 300, 50, 100, 500)
    swarm = make_swarm(5, rounds=rounds, schedule=schedule)
    task = QuadraticTask(seed=3, samples=samples, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(all_done)
    models = [merged(world, member) for member in range(5)]
    assert all(np.array_equal(models[0], model) for model in models), "the last round ends with one model"
    assert np.allclose(models[0], by_hand(swarm, task, rounds), atol=1e-5)


@pytest.mark.parametrize("schedule", ["ring", "base2"])
@pytest.mark.parametrize("codec", ["", "bf16"])
def test_a_momentum_is_what_the_equation_says(schedule: str, codec: str) -> None:
    rounds = 8
    swarm = make_swarm(5, rounds=rounds, schedule=schedule, correction="qg:800", codec=codec)
    task = QuadraticTask(seed=3, samples=(50, 100, 150, 200, 400), bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(all_done)
    expected = by_hand(swarm, task, rounds)
    assert np.allclose(merged(world, 0), expected, atol=0.01 if codec else 1e-5)
    without = by_hand(make_swarm(5, rounds=rounds, schedule=schedule), task, rounds)
    assert not np.allclose(expected, without, atol=0.02), "or there was nothing to see"


def test_a_site_that_is_killed_keeps_its_momentum() -> None:
    """Its machine dies while it trains, and while it waits for the others: all end with the bytes of a calm run."""
    swarm = make_swarm(4, rounds=6, schedule="ring", correction="qg", patience_ms=60_000)
    task = QuadraticTask(seed=5, samples=(100, 200, 300, 400), bound=100.0)
    calm = gossiping(swarm, task)
    killed = gossiping(swarm, task, faults=[Crash(at_s=t, slot=1, down_s=0.5) for t in (2.0, 4.3, 7.1, 9.9)])
    assert calm.run(all_done)
    assert killed.run(all_done)
    assert killed.places[1].incarnation >= 4
    assert np.array_equal(merged(killed, 0), merged(calm, 0))


def test_losing_the_momentum_costs_the_momentum() -> None:
    swarm = make_swarm(4, rounds=6, schedule="ring", correction="qg", patience_ms=60_000)
    task = QuadraticTask(seed=5, samples=(100, 200, 300, 400), bound=100.0)
    world = gossiping(swarm, task, seed=2, faults=[Crash(at_s=t, slot=1, down_s=0.5, power=True) for t in (4.3, 7.1)])
    assert world.run(all_done)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(4))


def test_gossip_over_everybody_with_equal_weights_is_fedavg() -> None:
    rounds = 4
    task = QuadraticTask(seed=3, samples=(100,) * 4, bound=100.0)
    exact = gossiping(make_swarm(4, rounds=rounds), task)
    gossip = gossiping(make_swarm(4, rounds=rounds, schedule="complete"), task)
    assert exact.run(all_done)
    assert gossip.run(all_done)
    assert np.allclose(merged(exact, 0), merged(gossip, 0), atol=1e-6)


def test_only_partners_send_each_other_models() -> None:
    swarm = make_swarm(6, rounds=4, schedule="ring", elements=4096)
    task = QuadraticTask(seed=3, samples=(100,) * 6, elements=4096, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(committed(3))
    fetched = [sum(head(world, 0).transfer.traffic(node)[0] for node in world.ids[2:5])]
    assert fetched == [0], "from those that are no neighbours on the ring nothing came"
    assert world.run(all_done)


def test_the_log_says_how_far_models_are_apart() -> None:
    swarm = make_swarm(5, rounds=5, schedule="ring")
    task = QuadraticTask(seed=3, samples=(100,) * 5, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(all_done)
    journal = world.place(0).journal
    assert journal is not None
    payloads = [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]
    (*_, last) = audit(payloads, swarm.signed)
    assert last.failure is None
    commits = [view.commit for _, view in sorted(last.rounds.items())]
    assert all(commit is not None for commit in commits)
    apart = [(c.distance_max_ppm, c.distance_mean_ppm) for c in commits if c is not None]
    assert all(0 < mean <= largest < 2_000_000 for largest, mean in apart[:-1])
    assert apart[-1] == (0, 0), "the last round has one model"
    assert [c.model_bytes for c in commits if c is not None][:-1] == [0] * 4


def test_a_lost_partner_is_skipped_by_both_and_the_others_go_on() -> None:
    rounds = 8
    swarm = make_swarm(5, rounds=rounds, schedule="ring", patience_ms=3_000)
    task = QuadraticTask(seed=3, samples=(100, 200, 300, 400, 500), bound=100.0)
    blends = Blends()
    world = gossiping(swarm, task, faults=[Crash(at_s=6.0, slot=2, down_s=40.0)], checkers=[blends])
    assert world.run(all_done)
    sums = {round_: 0.0 for _, round_ in blends.seen}
    for (_, round_), blend in blends.seen.items():
        assert math.isclose(sum(share for _, share in blend.terms), 1.0, abs_tol=1e-12)
        sums[round_] += 1
    assert 4.0 in sums.values(), "rounds went on without it"
    assert np.array_equal(merged(world, 2), merged(world, 0)), "and it is back at the end"


def test_a_model_that_is_not_finite_is_taken_by_nobody() -> None:
    swarm = make_swarm(5, rounds=4, schedule="ring", patience_ms=3_000)
    task = QuadraticTask(seed=3, samples=(100,) * 5, bound=100.0, behaviours={1: Behaviour.NAN})
    blends = Blends()
    world = gossiping(swarm, task, checkers=[blends])
    assert world.run(lambda w: all(p.finished for p in w.places if p.member != 1))
    assert np.isfinite(merged(world, 0)).all()
    assert len(blends.seen[0, 1].terms) == 2, "itself and its other neighbour"


@pytest.mark.parametrize("seed", shortened(2, range(1, 9)))
def test_misfortunes_neither_stop_it_nor_bend_it(seed: int) -> None:
    rng = random.Random(f"gossip/{seed}")
    schedule = rng.choice(["ring", "base2", "random_matching", "exponential"])
    swarm = make_swarm(5, rounds=5, schedule=schedule, patience_ms=3_000)
    task = QuadraticTask(seed=seed, samples=(100, 10, 300, 1000, 50), bound=100.0)
    blends = Blends()
    world = gossiping(
        swarm,
        task,
        seed=seed,
        faults=generate(seed, members=5, options=FaultOptions(heal_s=40.0)).faults,
        network=NetworkProfile(loss=0.05),
        checkers=[blends],
    )
    assert world.run(all_done), f"{schedule}: not finished at {world.now:.0f} s"
    final = [head(world, member).replica.head for member in range(5)]
    assert len({state.digest() for state in final if state.height == max(s.height for s in final)}) == 1
    models = [merged(world, member) for member in range(5)]
    assert all(np.array_equal(models[0], model) for model in models)
    assert np.isfinite(models[0]).all()


def test_a_partition_delays_and_does_not_lose() -> None:
    swarm = make_swarm(5, rounds=6, schedule="base2", patience_ms=3_000)
    task = QuadraticTask(seed=3, samples=(100,) * 5, bound=100.0)
    cut = Partition(at_s=5.0, duration_s=15.0, groups=((0, 1), (2, 3, 4)))
    world = gossiping(swarm, task, faults=[cut])
    assert world.run(all_done)


def test_a_schedule_that_is_not_symmetric_is_refused() -> None:
    with pytest.raises(Exception, match="hear from"):
        open_schedule("el_local", 8, 1)
