"""What a schedule means for a member: partners, and a row that keeps the weighted mean."""

from __future__ import annotations

import random
from collections.abc import Collection

import numpy as np
import pytest
from msgspec.structs import replace
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.machine import NodeId
from swarm.terms import Terms, founding
from tests.builders import make_swarm
from topologies.plan import LINKS, SchedulePlan, check_codec, open_schedule

Wide = NDArray[np.float64]
LEDGER = bytes(range(32))


def setup(n: int, schedule: str) -> tuple[SchedulePlan, Terms, list[NodeId]]:
    swarm = make_swarm(n)
    return SchedulePlan(schedule, LEDGER), founding(swarm.charter), [who.node for who in swarm.identities]


def matrix(
    plan: SchedulePlan,
    terms: Terms,
    nodes: list[NodeId],
    round_: int,
    weights: list[int],
    skipped: Collection[tuple[int, int]] = (),
) -> Wide:
    n = len(nodes)
    shares = np.zeros((n, n))
    by_node = dict(zip(nodes, weights, strict=True))
    for i, node in enumerate(nodes):
        met = [
            other
            for other in plan.partners(terms, round_, node)
            if (min(i, nodes.index(other)), max(i, nodes.index(other))) not in skipped
        ]
        for other, share in plan.shares(terms, round_, node, by_node, met):
            shares[i, nodes.index(other)] = share
    return shares


@pytest.mark.parametrize("schedule", ["ring", "base2", "base3", "random_matching", "complete", "random_regular:4"])
@pytest.mark.parametrize("n", [5, 8])
def test_the_weighted_mean_stays_whatever_is_skipped(schedule: str, n: int) -> None:
    plan, terms, nodes = setup(n, schedule)
    rng = random.Random(f"{schedule}/{n}")
    weights = [rng.randint(1, 10_000) for _ in range(n)]
    for round_ in range(1, 6):
        skipped = {(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < 0.3}
        shares = matrix(plan, terms, nodes, round_, weights, skipped)
        assert np.allclose(shares.sum(axis=1), 1.0)
        assert (shares >= -1e-12).all()
        assert np.allclose(np.array(weights) @ shares, weights, rtol=1e-12), "sum n_i x_i is kept"


def test_a_ring_of_three_by_hand() -> None:
    plan, terms, nodes = setup(3, "ring")
    # Metropolis-Hastings on a triangle: 1/3 each; to the smaller site the larger one gives min(1, 100/200) of that.
    shares = matrix(plan, terms, nodes, 1, [100, 200, 100])
    assert np.allclose(shares, [[1 / 3, 1 / 3, 1 / 3], [1 / 6, 2 / 3, 1 / 6], [1 / 3, 1 / 3, 1 / 3]])


def test_partners_are_partners_of_each_other() -> None:
    plan, terms, nodes = setup(9, "random_matching")
    for round_ in range(1, 20):
        for node in nodes:
            for other in plan.partners(terms, round_, node):
                assert node in plan.partners(terms, round_, other)


def test_everybody_draws_the_same_and_another_swarm_another() -> None:
    _, terms, nodes = setup(9, "random_matching")
    one, same, other = (SchedulePlan("random_matching", ledger) for ledger in (LEDGER, LEDGER, bytes(32)))
    drawn = [[plan.partners(terms, r, nodes[0]) for r in range(1, 30)] for plan in (one, same, other)]
    assert drawn[0] == drawn[1]
    assert drawn[0] != drawn[2]


def test_where_the_family_has_no_such_size_the_links_are_used() -> None:
    plan, terms, nodes = setup(5, "one_peer_hypercube")
    assert set(plan.partners(terms, 1, nodes[0])) == set(nodes[1:])


def test_who_is_no_member_has_no_partners() -> None:
    plan, terms, _ = setup(4, "ring")
    assert plan.partners(terms, 1, NodeId(bytes(32))) == ()


def test_where_links_go_one_way_whom_one_gives_to_takes_it_from_one() -> None:
    for schedule in ("one_peer_exponential", "static_exponential", "el_local:2", "ring"):
        swarm = make_swarm(6)
        plan, terms = SchedulePlan(schedule, LEDGER, directed=True), founding(swarm.charter)
        nodes = [who.node for who in swarm.identities]
        for round_ in range(1, 5):
            given = {(a, b) for a in nodes for b in plan.targets(terms, round_, a)}
            taken = {(a, b) for b in nodes for a in plan.partners(terms, round_, b)}
            assert given == taken
    assert plan.targets(terms, 1, NodeId(bytes(32))) == ()


def test_links_that_the_charter_lists_are_its_founders() -> None:
    swarm = make_swarm(4, schedule=LINKS, links="0>1 0>3 1>2 2>3 3>0")
    plan, terms = SchedulePlan.of(swarm.charter, LEDGER), founding(swarm.charter)
    nodes = [who.node for who in swarm.identities]
    assert [[nodes.index(b) for b in plan.targets(terms, 5, a)] for a in nodes] == [[1, 3], [2], [3], [0]]
    assert [[nodes.index(b) for b in plan.partners(terms, 5, a)] for a in nodes] == [[3], [0], [1], [0, 2]]
    left = replace(terms, members=terms.members[:3])
    assert [[nodes.index(b) for b in plan.targets(left, 5, a)] for a in nodes[:3]] == [[1, 2], [0, 2], [0, 1]]


def test_rounds_that_average_only_together_are_refused_one_way_too() -> None:
    with pytest.raises(UsageError, match="only all its rounds together"):
        open_schedule("ceca", 6, 1, directed=True)


@pytest.mark.parametrize("schedule", ["one_peer_exponential", "el_local", "ceca"])
def test_schedules_that_are_not_symmetric_are_refused(schedule: str) -> None:
    with pytest.raises(UsageError, match="hear from"):
        open_schedule(schedule, 8, 1)


def test_an_unknown_schedule_is_named() -> None:
    with pytest.raises(UsageError, match="'nonsense'"):
        open_schedule("nonsense", 8, 1)


@pytest.mark.parametrize("text", ["ring:3", "random_regular:x", "random_regular:", "base2:2"])
def test_a_number_stands_where_it_means_something(text: str) -> None:
    with pytest.raises(UsageError, match="a number follows"):
        open_schedule(text, 8, 1)


def test_a_degree_is_what_it_says() -> None:
    assert len(open_schedule("random_regular:5", 8, 1).targets(0, 0)) == 5


def test_a_schedule_of_a_newer_version_is_refused_and_not_replaced() -> None:
    with pytest.raises(UsageError, match="'spiral', which this software does not know"):
        SchedulePlan("spiral", LEDGER)


def test_links_are_the_charters_own_with_metropolis_weights() -> None:
    edges = ((0, 1), (1, 2), (2, 3))
    swarm = make_swarm(4, schedule=LINKS, edges=edges)
    terms = founding(swarm.charter)
    plan = SchedulePlan(LINKS, swarm.signed.ledger_id)
    nodes = [who.node for who in swarm.identities]
    assert plan.partners(terms, 1, nodes[0]) == (nodes[1],)
    shares = dict(plan.shares(terms, 5, nodes[1], dict.fromkeys(nodes, 10), [nodes[0], nodes[2]]))
    assert shares == pytest.approx(dict.fromkeys(nodes[:3], 1 / 3))


@pytest.mark.parametrize("gamma", ["", "0.3"])
def test_public_copies_are_taken_gamma_times(gamma: str) -> None:
    """A third of each neighbour on a ring, times the step; what that leaves is for oneself, and the mean stays."""
    swarm = make_swarm(4, schedule="ring", codec="int4", gamma=gamma)
    plan, terms = SchedulePlan.of(swarm.charter, LEDGER), founding(swarm.charter)
    nodes, step = [who.node for who in swarm.identities], float(gamma or 0.9)
    shares = matrix(plan, terms, nodes, 1, [10, 20, 10, 10])
    assert shares[0] == pytest.approx([1 - 2 * step / 3, step / 3, 0.0, step / 3])
    assert shares[1] == pytest.approx([step / 6, 1 - step / 3, step / 6, 0.0])
    assert np.array([10, 20, 10, 10]) @ shares == pytest.approx([10, 20, 10, 10])


@pytest.mark.parametrize("schedule", ["base2", "random_matching", "one_peer_hypercube"])
def test_a_coarse_codec_needs_partners_that_stay(schedule: str) -> None:
    charter = make_swarm(8, schedule=schedule, codec="int8").charter
    with pytest.raises(UsageError, match="partners change from round to round") as refused:
        SchedulePlan.of(charter, LEDGER)
    assert "ring, torus, exponential" in refused.value.hint
    check_codec(make_swarm(8, schedule=schedule, codec="bf16").charter)


@pytest.mark.parametrize(
    "schedule", ["ring", "torus", "hypercube", "exponential", "complete", "random_regular:4", LINKS]
)
def test_a_graph_that_stays_suits_every_codec(schedule: str) -> None:
    check_codec(make_swarm(16, schedule=schedule, codec="topk:10").charter)
