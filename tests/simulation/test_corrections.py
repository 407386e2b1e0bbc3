"""Gradient tracking by real nodes: it ends at the optimum of the whole, and nothing that a site has learned is lost.

What must hold is one sum: of all members' corrections, each times its weight, zero. So a crash may cost none of it, and
what takes something out of it, a member that leaves or a disk that is lost, has all begin again, by the ledger.
"""

from __future__ import annotations

import numpy as np
import pytest

from swarm import gossip_round
from swarm import terms as t
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.state import Signatures, State, apply_authored, genesis, open_authored
from swarm.terms import founding
from tests.builders import Feeds, Swarm, identity, make_swarm
from tests.simulation.test_gossip import Wide, all_done, committed, gossiping, head, merged
from tests.simulation.test_membership import card, changing, in_epoch, propose
from tests.simulation.test_membership import committed as reached
from topologies.plan import SchedulePlan
from topologies.world.faults import Crash, Partition
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.world import World

SAMPLES = (100, 300, 200, 400)
ALL = range(4)


def unlike(seed: int = 5, samples: tuple[int, ...] = SAMPLES) -> QuadraticTask:
    return QuadraticTask(seed=seed, samples=samples, bound=100.0, spread=2.0)


def by_hand(swarm: Swarm, task: QuadraticTask, rounds: int) -> Wide:
    """Exact diffusion in float64 with the matrix of every round; the weighted mean of the last models."""
    n = len(task.samples)
    plan, terms = SchedulePlan(swarm.charter.schedule, swarm.signed.ledger_id), founding(swarm.charter)
    nodes = [who.node for who in swarm.identities]
    weights = dict(zip(nodes, task.samples, strict=True))
    x, learned = np.zeros((n, task.elements)), np.zeros((n, task.elements))
    for number in range(1, rounds + 1):
        given = [row.astype(np.float32) if swarm.charter.tracks and number > 1 else None for row in learned]
        updates = [task.train(i, number, x[i].astype(np.float32), given[i]).update for i in range(n)]
        y = x + np.array(updates)
        if number == rounds:
            break
        matrix = np.zeros((n, n))
        for i, node in enumerate(nodes):
            for other, share in plan.shares(terms, number, node, weights, plan.partners(terms, number, node)):
                matrix[i, nodes.index(other)] = share
        x = matrix @ y
        learned += swarm.charter.correction.gain * (x - y)
    return np.asarray(np.average(y, axis=0, weights=task.samples))


def corrections(world: World, member: int) -> dict[int, tuple[int, Wide]]:
    """By round the weight and the correction that a site has kept."""
    kept = world.place(member).blobs._corrections
    return {round_: (weight, vector.astype(np.float64)) for (round_, _), (weight, vector) in kept.items()}


def sum_of_all(world: World, members: tuple[int, ...] = tuple(ALL)) -> float:
    """The largest element of the weighted mean of all corrections, of the last round that all have learned from."""
    kept = [corrections(world, member) for member in members]
    last = min(max(one) for one in kept)
    found = [one[last] for one in kept]
    assert max(float(np.abs(vector).max()) for _, vector in found) > 0.1, "or nothing was learned"
    total = sum(weight for weight, _ in found)
    return float(np.abs(sum((weight / total) * vector for weight, vector in found)).max())


def anew(world: World) -> int:
    exchange = head(world, 0).replica.head.exchange
    assert exchange is not None
    assert exchange.anew is not None
    return exchange.anew


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_it_is_what_the_equation_says_and_leads_to_the_optimum_of_the_whole(seed: int) -> None:
    task, rounds, many = unlike(seed), 8, 300
    swarm = make_swarm(4, rounds=rounds, schedule="base2", correction="gt")
    world = gossiping(swarm, task)
    assert world.run(all_done)
    assert np.allclose(merged(world, 0), by_hand(swarm, task, rounds), atol=1e-5)
    assert np.allclose(by_hand(swarm, task, many), task.optimum(), atol=1e-5)
    plain = by_hand(make_swarm(4, rounds=rounds, schedule="base2"), task, many)
    assert float(np.abs(plain - task.optimum()).max()) > 0.1


def test_the_weighted_sum_of_all_corrections_is_zero_whatever_was_lost_on_the_way() -> None:
    alone = Partition(at_s=5.0, duration_s=1.5, groups=((1,), (0, 2, 3)))
    swarm = make_swarm(4, rounds=10, schedule="ring", correction="gt", patience_ms=3_000)
    world = gossiping(swarm, unlike(), faults=[alone], network=NetworkProfile(loss=0.05))
    assert world.run(committed(9))
    assert sum_of_all(world) < 1e-6
    assert [max(corrections(world, member).items())[1][0] for member in ALL] == list(SAMPLES)
    assert anew(world) == 1


def test_with_rounded_models_it_sums_to_zero_as_well() -> None:
    world = gossiping(make_swarm(4, rounds=6, schedule="ring", correction="gt", codec="bf16"), unlike())
    assert world.run(all_done)
    assert sum_of_all(world) < 1e-6


def test_a_site_that_is_killed_neither_forgets_nor_doubles_its_correction() -> None:
    """Its machine dies while it trains, while it waits and while it blends: all end with the bytes of a calm run."""
    swarm = make_swarm(4, rounds=7, schedule="ring", correction="gt", patience_ms=60_000)
    calm = gossiping(swarm, unlike())
    assert calm.run(all_done)
    for power in (False, True):
        times = (2.0, 3.1, 4.3, 5.5, 7.1, 8.2)
        world = gossiping(swarm, unlike(), faults=[Crash(at_s=at, slot=1, down_s=0.5, power=power) for at in times])
        assert world.run(committed(6))
        assert world.places[1].incarnation >= 5
        assert anew(world) == 1, "nobody had anything to make good"
        assert world.run(all_done)
        assert np.array_equal(merged(world, 0), merged(calm, 0))


def test_a_site_that_was_away_for_rounds_goes_on_with_what_it_knew() -> None:
    swarm = make_swarm(4, rounds=18, schedule="ring", correction="gt", patience_ms=3_000)
    world = gossiping(swarm, unlike(), faults=[Crash(at_s=6.0, slot=2, down_s=7.0)])
    assert world.run(committed(17), end_s=600)
    assert anew(world) == 1
    assert sum_of_all(world) < 1e-6


def test_a_site_that_lost_its_correction_says_so_and_all_begin_anew() -> None:
    world = gossiping(make_swarm(4, rounds=11, schedule="ring", correction="gt"), unlike())
    assert world.run(committed(6))
    lost_at = head(world, 0).replica.head.round
    world.place(2).blobs.forget_corrections()
    assert world.run(committed(10))
    assert lost_at <= anew(world) <= lost_at + 2
    notes = [report.text for place in world.places for _, report in place.reports if report.event == "begun_anew"]
    assert notes == ["site-2 lost its correction, so that all begin anew"] * 4
    told = [report for _, report in world.place(2).reports if report.event == "correction_lost"]
    assert len(told) == 1, "once is enough"
    assert sum_of_all(world) < 1e-6


def test_were_it_to_take_zero_for_what_it_lost_and_say_nothing_the_sum_would_stay_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The mutant of the test above."""
    world = gossiping(make_swarm(4, rounds=12, schedule="ring", correction="gt"), unlike())
    assert world.run(committed(6))
    world.place(2).blobs.forget_corrections()
    learned, learns = gossip_round.GossipRound._learned, gossip_round.GossipRound._learns
    lost, since = identity(2).node, head(world, 0).replica.head.round

    def forgetful(self: gossip_round.GossipRound, *given: object) -> int:
        found = learned(self, *given)  # type: ignore[arg-type]
        return 0 if self._me == lost and found <= since else found

    def at_zero(self: gossip_round.GossipRound, state: State, weight: int) -> gossip_round.Learn | None:
        found = learns(self, state, weight)
        return (
            gossip_round.Learn(None, 0, weight, found.gain)
            if self._me == lost and found and found.since <= since
            else found
        )

    monkeypatch.setattr(gossip_round.GossipRound, "_learned", forgetful)
    monkeypatch.setattr(gossip_round.GossipRound, "_learns", at_zero)
    assert world.run(committed(11))
    assert anew(world) == 1
    assert sum_of_all(world) > 0.01


def test_when_a_member_leaves_all_begin_anew() -> None:
    world = changing(5, rounds=16, schedule="ring", correction="gt", learner=unlike(samples=(100, 200, 300, 400, 500)))
    assert world.run(lambda w: reached(w, 0, 5), end_s=300)
    assert anew(world) == 1
    propose(world, 0, t.remove(identity(1).node))
    stay = (0, 2, 3, 4)
    assert world.run(in_epoch(1, *stay), end_s=300)
    assert 5 < anew(world) <= head(world, 0).replica.head.round + 1
    assert world.run(lambda w: reached(w, 0, 11), end_s=300)
    assert sum_of_all(world, stay) < 1e-6


def test_whoever_joins_brings_zero_so_that_nobody_has_to_begin_again() -> None:
    task = unlike(samples=(100, 200, 300, 400, 500))
    world = changing(4, newcomers=1, rounds=16, schedule="ring", correction="gt", learner=task)
    assert world.run(lambda w: reached(w, 0, 4), end_s=300)
    propose(world, 0, t.add(card(4)))
    everybody = (0, 1, 2, 3, 4)
    assert world.run(in_epoch(1, *everybody), end_s=300)
    assert world.run(lambda w: reached(w, 0, 11), end_s=300)
    assert anew(world) == 1
    assert sum_of_all(world, everybody) < 1e-6


@pytest.mark.parametrize("correction", ["qg", "gt"])
def test_an_entry_that_begins_corrections_anew_is_refused_where_there_are_none(correction: str) -> None:
    swarm = make_swarm(3, schedule="ring", correction=correction)
    leaf = Feeds(swarm).write(1, e.Annotation(e.ANEW, 1, 1))
    state, entry = genesis(swarm.signed), e.decode_entry(leaf)
    if correction == "qg":
        with pytest.raises(Reject, match="its code is unknown where no steps are corrected"):
            open_authored(state, entry, leaf, Signatures())
        return
    after = apply_authored(state, open_authored(state, entry, leaf, Signatures()))
    assert after.exchange is not None
    assert after.exchange.anew == 1, "the round that is open is the first one that anybody learns from"
