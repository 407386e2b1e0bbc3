"""How runs end, with the real node: failed, recovered after all, done by a subset."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from node.core import Node
from swarm.machine import Finished
from tests.builders import make_swarm
from tests.simulation.altered import Altered
from tests.simulation.stories import told
from tests.simulation.test_failures import took_part
from tests.simulation.test_gossip import gossiping, head
from topologies.world.clock import EPOCH_S
from topologies.world.learner import Lesson, QuadraticTask
from topologies.world.world import World

N = 4


def failing(task: QuadraticTask, fails: Callable[[int, int], bool]) -> Altered:
    """A task whose training throws for some members in some rounds."""

    def alter(member: int, number: int, lesson: Lesson) -> Lesson:
        return replace(lesson, update=None, error="the scanner is offline") if fails(member, number) else lesson

    return Altered(task, alter)


def world_of(fails: Callable[[int, int], bool], *, rounds: int, least: int = 2) -> World:
    swarm = make_swarm(
        N, rounds=rounds, min_contributions=least, deadline_ms=40_000, patience_ms=8_000, staleness=16, pace=4
    )
    task = QuadraticTask(seed=1, samples=(100,) * N, bound=100.0)
    return gossiping(swarm, failing(task, fails))  # type: ignore[arg-type]


def outcomes(world: World) -> list[str]:
    machines = [world.place(member).machine for member in range(N)]
    return [str(m.status(EPOCH_S + world.now)["outcome"]) if isinstance(m, Node) else "" for m in machines]


def test_a_site_whose_training_fails_for_three_rounds_says_so_and_is_done_after_all_once_it_works_again() -> None:
    world = world_of(lambda member, number: member == 3 and number <= 4, rounds=8)
    assert world.run(lambda w: outcomes(w)[3] == "FAILED", end_s=500.0)
    reason = "training failed in 3 rounds in a row: the scanner is offline"
    assert head(world, 3).ended == Finished("FAILED", reason)
    assert outcomes(world) == ["RUNNING", "RUNNING", "RUNNING", "FAILED"], "it fails alone"
    assert world.run(lambda w: outcomes(w) == ["DONE"] * N, end_s=500.0)
    assert told(world, 3, "recovered")
    ((node, missing),) = took_part(world).gaps().items()
    assert (node, missing[:4]) == (world.ids[3], [1, 2, 3, 4])
    assert missing[4:] in ([], [5]), "it may have begun again too late for the next round"


def test_a_round_for_which_nobody_can_train_fails_everywhere_at_its_deadline() -> None:
    """Before, it stood still for ever and nobody said a word."""
    world = world_of(lambda _, number: number == 3, rounds=5)
    assert world.run(lambda w: outcomes(w) == ["FAILED"] * N, end_s=500.0)
    assert all("round 3, which is past its deadline" in str(head(world, m).ended) for m in range(N))
    assert head(world, 0).replica.head.committed.round == 2


def test_a_round_that_needs_the_one_site_that_fails_is_the_end_for_that_one() -> None:
    world = world_of(lambda member, number: member == 1 and number == 2, rounds=4, least=N)
    assert world.run(lambda w: outcomes(w)[1] == "FAILED", end_s=500.0)
    assert outcomes(world) == ["RUNNING", "FAILED", "RUNNING", "RUNNING"]
