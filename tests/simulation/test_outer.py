"""Swarms with an outer optimiser, the real node in the simulated world: everybody remembers the same, always."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from swarm import terms
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.machine import Effect, Event, Forget, Mixed
from tests.builders import Swarm, make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_late import late
from tests.simulation.test_membership import card, changing, committed, finished, in_epoch, propose
from tests.simulation.test_routes import COUNTS, blocks, said
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, generate
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.world import World

Wide = NDArray[np.float64]

N, ELEMENTS, ROUNDS = 4, 64, 4
ALL = range(N)
STATEFUL = ("fedavgm:0.7,0.5", "nesterov:0.7,0.5", "fedadam:0.1,0.5", "fedyogi:0.1,0.5", "fedadagrad:0.3,0.5")


class Outcomes(Checker):
    """What every member's own averaging ended with: (member, round) -> digest."""

    def __init__(self) -> None:
        self.of: dict[tuple[int, int], bytes] = {}

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if isinstance(event, Mixed) and event.model is not None:
            self.of[node, event.round] = event.model


class Emptied(Checker):
    """Whoever stops comes back without any blob: its ledger is there, and perhaps from a backup, and models are not."""

    @override
    def on_crash(self, world: World, node: int, twin: int) -> None:
        blobs = world.place(node).blobs
        complete, partial = blobs.listing()
        blobs.forget(Forget((*(stored.digest for stored in complete), *partial)))


def task(**more: object) -> QuadraticTask:
    return QuadraticTask(seed=5, samples=COUNTS[:N], elements=ELEMENTS, bound=200.0, steps=2, rate=0.2, **more)  # type: ignore[arg-type]


def a_swarm(outer: str, **more: object) -> Swarm:
    usual: dict[str, object] = {"rounds": ROUNDS, "clip_norm_milli": 200_000, "patience_ms": 3_000}
    return make_swarm(N, elements=ELEMENTS, outer=outer, **{**usual, **more})  # type: ignore[arg-type]


def ran(
    outer: str,
    *,
    faults: Sequence[Fault] = (),
    checkers: Sequence[Checker] = (),
    network: NetworkProfile | None = None,
    seed: int = 1,
    learner: QuadraticTask | None = None,
    **more: object,
) -> World:
    """Return a world in which everybody has come to the end."""
    world = gossiping(
        a_swarm(outer, **more), learner or task(), seed=seed, faults=faults, checkers=checkers, network=network
    )
    assert world.run(all_done), [head(world, member).status(world.now) for member in ALL]
    return world


def commits(world: World) -> dict[int, bytes]:
    """Return the digest of each round's outcome, as the ledger has it."""
    return {body.round: body.model_digest for body in said(world, e.ROUND_COMMIT, e.RoundCommit)}


def alike(world: World, members: Sequence[int] = ALL) -> bool:
    return all(np.array_equal(merged(world, members[0]), merged(world, member)) for member in members)


def by_hand(outer: str, rounds: int) -> list[Wide]:
    """The swarm's learning in float64, with equations written anew: rows of the outcome after so many rounds."""
    name, _, numbers = outer.partition(":")
    given = [float(part) for part in numbers.split(",")]
    learner = task()
    x, m, v = (np.zeros(ELEMENTS) for _ in range(3))
    for number in range(1, rounds + 1):
        lessons = [learner.train(member, number, x.astype(np.float32)) for member in ALL]
        updates = [np.asarray(lesson.update, np.float64) for lesson in lessons]
        d = sum(n * u for n, u in zip(COUNTS, updates, strict=False)) / sum(COUNTS[:N])
        if name in ("fedavgm", "nesterov"):
            beta, rate = given
            m = beta * m + d
            x = x + rate * (m if name == "fedavgm" else d + beta * m)
            continue
        rate, beta = given
        m = beta * m + (1 - beta) * d
        if name == "fedadagrad":
            v = v + d**2
        elif name == "fedadam":
            v = 0.99 * v + 0.01 * d**2
        else:
            v = np.where(v > d**2, v - 0.01 * d**2, v + 0.01 * d**2)
        x = x + rate * m / (v**0.5 + 0.001)
    return [x, m] if name in ("fedavgm", "nesterov") else [x, m, v]


@pytest.mark.parametrize("outer", STATEFUL)
def test_the_outcome_is_what_the_equations_say_at_every_peer(outer: str) -> None:
    world = ran(outer)
    expected = np.concatenate(by_hand(outer, ROUNDS))
    assert alike(world)
    np.testing.assert_allclose(merged(world, 0), expected, rtol=2e-3, atol=2e-5)
    assert {len(bytes(world.place(0).blobs.read(done, 0, 8) or b"")) for done in [commits(world)[ROUNDS]]} == {8}
    assert {body.model_bytes for body in said(world, e.ROUND_COMMIT, e.RoundCommit)} == {4 * expected.size}
    assert not [step for step in audit(blocks(world), head(world, 0).replica.head.signed) if step.failure]


def test_every_route_ends_with_the_same_outcome() -> None:
    plain, *others = (ran("fedadam:0.1,0.5", route=route) for route in ("", "sharded", "fold"))
    for world in others:
        assert np.array_equal(merged(world, 0), merged(plain, 0))
        assert alike(world)
        assert all(close.attempt == 1 for close in said(world, e.ROUND_CLOSE, e.RoundClose)), "it led to the mean"


def test_compressed_slices_too() -> None:
    assert alike(ran("fedadam:0.1,0.5", route="sharded", codec="int8"))


@pytest.mark.parametrize(("outer", "emptied"), [("fedavgm:0.7,0.5", False), ("fedadam:0.1,0.5", True)])
def test_who_was_away_for_three_rounds_goes_on_with_what_the_others_remember(outer: str, *, emptied: bool) -> None:
    seen = Outcomes()
    world = ran(outer, rounds=16, checkers=[seen, *[Emptied()] * emptied], faults=[Crash(at_s=2.5, slot=3, down_s=7.0)])
    ledger = commits(world)
    own = sorted(number for member, number in seen.of if member == 3)
    away = [number for number in range(own[0], own[-1]) if number not in own]
    assert len(away) >= 3, own
    assert own[-1] > away[-1], "and it averaged with the others again"
    assert all(seen.of[3, number] == ledger[number] for number in own)
    assert alike(world)


@pytest.mark.parametrize(("outer", "seed"), [("nesterov:0.7,0.5", 1), ("fedyogi:0.1,0.5", 2), ("fedadam:0.1,0.5", 3)])
def test_crashes_partitions_and_loss(outer: str, seed: int) -> None:
    faults = generate(seed, members=N, options=FaultOptions(heal_s=20.0)).faults
    world = ran(
        outer,
        seed=seed,
        faults=faults,
        network=NetworkProfile(loss=0.05, duplication=0.02),
        staleness=8,
    )
    assert alike(world)


def test_late_work_is_in_the_mean_that_a_step_is_taken_by() -> None:
    world = ran(
        "nesterov:0.7,0.5",
        rounds=12,
        staleness=16,
        deadline_ms=6_000,
        min_contributions=2,
        learner=task(behaviours={3: Behaviour.SLOW}),
    )
    assert late(world), "or there was nothing to see"
    assert alike(world)


def test_asynchronous_rounds_take_steps_too() -> None:
    world = ran(
        "nesterov:0.5,0.5",
        asynchronous="buffered",
        staleness=100,
        min_contributions=2,
        rounds=12,
        learner=task(behaviours={3: Behaviour.SLOW}),
    )
    assert alike(world)
    assert {len(close.included) for close in said(world, e.ROUND_CLOSE, e.RoundClose)} <= {2, 3, 4}


def test_a_newcomer_by_vote_goes_on_with_what_the_others_remember() -> None:
    seen = Outcomes()
    world = changing(4, newcomers=1, rounds=8, outer="fedadam:0.1,0.5", checkers=[seen])
    assert world.run(lambda w: committed(w, 0, 3), end_s=400.0)
    propose(world, 0, terms.add(card(4)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=400.0)
    assert world.run(finished(0, 1, 2, 3, 4), end_s=400.0)
    assert alike(world, range(5))
    own = sorted(number for member, number in seen.of if member == 4)
    ledger = commits(world)
    assert own
    assert all(seen.of[4, number] == ledger[number] for number in own)
    assert len(said(world, e.ROUND_CLOSE, e.RoundClose)[-1].included) == 5


def test_a_vote_does_not_change_the_step_under_way() -> None:
    world = changing(4, rounds=4, outer="fedavgm:0.7,0.5")
    assert world.run(lambda w: committed(w, 0, 1), end_s=400.0)
    policy = msgspec.structs.replace(head(world, 0).replica.head.terms.round, outer="fedadam")
    propose(world, 0, terms.repolicy(policy))
    assert world.run(finished(0, 1, 2, 3), end_s=400.0)
    assert head(world, 0).replica.head.terms.round.outer == "fedavgm:0.7,0.5"
