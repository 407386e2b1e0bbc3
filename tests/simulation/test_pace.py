"""How long rounds wait for slow sites, with the real node: a straggler, all slow at once, a site that changes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest

from swarm.ledger import entry as e
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.altered import Altered
from tests.simulation.test_gossip import all_done, gossiping, head
from tests.simulation.test_late import alike, counted
from tests.simulation.test_routes import HARSH, said
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, generate
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.world import World

N, SLOW = 6, 5
USUAL_S = 2.0
"""What a usual site trains for: of the order of the three seconds for which the round waits for who is gone."""


def paced(task: QuadraticTask, times: Callable[[int, int], float]) -> Altered:
    """A task whose training takes a member so many times as long, by member and round."""
    return Altered(task, lambda member, number, lesson: replace(lesson, duration_s=USUAL_S * times(member, number)))


def straggler(member: int, number: int) -> float:
    return 20.0 if member == SLOW else 1.0 + member / 50


def ran(
    times: Callable[[int, int], float] = straggler,
    *,
    pace: int = 4,
    staleness: int = 16,
    rounds: int = 20,
    seed: int = 1,
    samples: Sequence[int] = (100,) * N,
    deadline_ms: int = 600_000,
    faults: Sequence[Fault] = (),
    network: NetworkProfile | None = None,
    checkers: Sequence[Checker] = (),
) -> World:
    """Return a world in which all have come to the end."""
    swarm = make_swarm(
        len(samples),
        rounds=rounds,
        deadline_ms=deadline_ms,
        patience_ms=12_000,
        min_contributions=3,
        staleness=staleness,
        pace=pace,
    )
    task = QuadraticTask(seed=seed, samples=tuple(samples), bound=100.0, steps=4, rate=0.05)
    world = gossiping(swarm, paced(task, times), seed=seed, faults=faults, network=network, checkers=checkers)  # type: ignore[arg-type]
    assert world.run(all_done, end_s=50_000.0), [head(world, member).status(world.now) for member in range(N)]
    return world


def missed(world: World) -> list[tuple[int, int]]:
    """Return (round, member) of all whose work was in no close of a round."""
    found = counted(world)
    taken = {(number, author) for number, author, _, _ in found}
    rounds = {number for number, _ in taken}
    return sorted((number, member) for number in rounds for member in range(N) if (number, member) not in taken)


def test_a_site_twenty_times_slower_holds_nobody_for_long_and_its_work_is_in_the_model() -> None:
    world, without = ran(rounds=13), ran(rounds=3, pace=0)
    assert alike(world)
    first = USUAL_S * 20
    each = (world.now - first) / 12
    assert (without.now - first) / 2 > first, "without a pace every round is as long as its"
    assert each < 3 * USUAL_S, each
    own = [(number, begun) for number, author, begun, _ in counted(world) if author == SLOW]
    assert own[0] == (1, 1), "the first round has no history"
    assert any(number > begun for number, begun in own), "what it does later counts late"
    assert {member for _, member in missed(world)} == {SLOW}


def test_work_that_would_come_too_late_even_to_count_late_is_waited_for() -> None:
    """Ten rounds of the others go by while it trains, and late work counts for four."""
    world = ran(rounds=12, staleness=4)
    own = [(number, begun) for number, author, begun, _ in counted(world) if author == SLOW]
    assert len(own) >= 3, own
    assert any(number - begun == 4 for number, begun in own)


def test_nobody_is_given_up_while_all_are_slow_and_when_all_become_slow() -> None:
    assert not missed(ran(lambda *_: 20.0, rounds=4))
    world = ran(lambda _, number: 20.0 if 3 <= number <= 5 else 1.0, rounds=7)
    assert not missed(world)


def test_a_site_that_changes_its_speed_is_left_out_while_it_is_slow() -> None:
    world = ran(lambda member, number: 20.0 if member == SLOW and number in {5, 6, 7} else 1.0, rounds=20)
    gone = [number for number, member in missed(world) if member == SLOW]
    assert {member for _, member in missed(world)} == {SLOW}
    assert min(gone) == 5
    own = [(number, begun) for number, author, begun, _ in counted(world) if author == SLOW]
    assert any(number > begun for number, begun in own)
    assert own[-1] == (20, 20), "and it takes part again"


def test_members_that_disagree_on_who_is_slow_delay_a_round_and_no_more() -> None:
    """Two of six start anew in round 2 and have no history: the four others are no quorum, and yet the round takes no
    longer than its slow site, nobody forks, and in the next all agree again."""
    first = 20 * USUAL_S
    crashes = [Crash(at_s=first + 3.0 + member / 2, slot=member, down_s=0.5) for member in (0, 1)]
    world = ran(rounds=9, faults=crashes)
    assert alike(world)
    assert world.stats.crashes == 2
    assert world.now < 2 * first + 7 * 3 * USUAL_S, world.now


@pytest.mark.parametrize("seed", shortened(1, range(1, 3)))
def test_crashes_partitions_and_loss_with_a_straggler(seed: int) -> None:
    plan = generate(seed, members=N, options=FaultOptions(heal_s=60.0)).faults
    world = ran(seed=seed, faults=plan, network=HARSH, rounds=6)
    assert alike(world)
    works = [(author, begun) for _, author, begun, _ in counted(world)]
    assert len(works) == len({*works}), "no work counts twice"
    assert len({close.round for close in said(world, e.ROUND_CLOSE, e.RoundClose)}) == 6
