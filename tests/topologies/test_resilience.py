import itertools

import networkx as nx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from topologies.families import barbell, clusters, complete, erdos_renyi, path, ring, star, tree
from topologies.graph import Topology
from topologies.resilience import examine, find_articulation, find_bridges, losing_link, losing_one, losing_two
from topologies.weights import metropolis_hastings, spectral_gap


def test_a_star_hangs_on_its_middle() -> None:
    found = examine(star(6))
    assert found.articulation == (0,)
    assert len(found.bridges) == 5
    assert not found.survives_any_one
    worst = found.one[0]
    assert (worst.members, worst.parts, worst.cut_off, worst.gap) == ((0,), 5, (2, 3, 4, 5), 0.0)
    assert worst.is_disconnected
    assert not found.one[1].is_disconnected


def test_a_ring_survives_one_and_not_two() -> None:
    found = examine(ring(8))
    assert (found.articulation, found.bridges, found.survives_any_one, found.survives_any_two) == ((), (), True, False)
    # Two opposite members leave two arcs of three.
    assert found.two[0].members == (0, 4)
    assert found.two[0].cut_off == (5, 6, 7)
    assert sum(loss.is_disconnected for loss in found.two) == 8 * 5 // 2  # all pairs but neighbours
    assert all(loss.gap == pytest.approx(spectral_gap(metropolis_hastings(path(7)))) for loss in found.one)
    assert all(loss.gap == pytest.approx(spectral_gap(metropolis_hastings(path(8)))) for loss in found.links)


def test_clusters_with_two_gateways_survive_the_loss_of_one() -> None:
    assert examine(clusters(12, 3, gateways=1)).articulation == (0, 4, 8)
    better = examine(clusters(12, 3, gateways=2))
    assert better.survives_any_one
    assert better.two[0].members == (0, 1)
    assert better.two[0].cut_off == (2, 3)


def test_a_complete_graph_loses_nothing() -> None:
    found = examine(complete(6))
    assert found.gap == pytest.approx(1)
    assert found.survives_any_two
    assert all(loss.gap == pytest.approx(1) for loss in (*found.one, *found.two))


def test_the_smallest_swarms() -> None:
    assert examine(path(1)).one == examine(path(1)).two == examine(path(1)).links == ()
    two = examine(path(2))
    assert two.survives_any_two is None
    assert two.bridges == ((0, 1),)
    assert [loss.gap for loss in two.one] == [1.0, 1.0]
    assert two.links[0].cut_off == (1,)


@settings(max_examples=60, deadline=None)
@given(n=st.integers(2, 14), p=st.floats(0.15, 0.6), seed=st.integers(0, 1000))
def test_single_points_of_failure_are_those_of_networkx(n: int, p: float, seed: int) -> None:
    try:
        topology = erdos_renyi(n, p, seed)
    except UsageError:
        topology = tree(n)
    graph = topology.to_networkx()
    assert find_articulation(topology) == tuple(sorted(nx.articulation_points(graph)))
    assert find_bridges(topology) == tuple(sorted(tuple(sorted(link)) for link in nx.bridges(graph)))


@settings(max_examples=25, deadline=None)
@given(n=st.integers(3, 10), seed=st.integers(0, 1000))
def test_every_loss_is_what_taking_it_away_says(n: int, seed: int) -> None:
    topology = erdos_renyi(n, None, seed)
    lost_links = losing_link(topology)
    losses = (*losing_one(topology), *losing_two(topology), *lost_links)
    assert len(losses) == n + n * (n - 1) // 2 + len(topology.edges)
    for loss in losses:
        graph = topology.to_networkx()
        graph.remove_nodes_from(loss.members)
        if loss.link:
            graph.remove_edge(*loss.link)
        parts = sorted(nx.connected_components(graph), key=lambda part: (-len(part), min(part)))
        assert loss.parts == len(parts)
        assert loss.cut_off == tuple(sorted(node for part in parts[1:] for node in part))
        if len(parts) > 1:
            assert loss.gap == 0
        else:
            rest = Topology.from_networkx(nx.convert_node_labels_to_integers(graph, ordering="sorted"))
            assert loss.gap == pytest.approx(spectral_gap(metropolis_hastings(rest)), abs=1e-9)
    for ranked in (losses[:n], lost_links):
        assert list(ranked) == sorted(ranked, key=lambda loss: loss.severity)
    assert {loss.members for loss in losing_two(topology)} == set(itertools.combinations(range(n), 2))


def test_fifty_members_and_all_their_pairs() -> None:
    topology = barbell(50)
    found = examine(topology)
    assert found.articulation == (24, 25)
    assert found.bridges == ((24, 25),)
    assert len(found.two) == 1225
    assert found.two[0].members[0] in (24, 25) or found.two[0].members[1] in (24, 25)
    assert len(found.links) == len(topology.edges)
    assert found.links[0].link == (24, 25)
    assert np.isclose(found.gap, spectral_gap(metropolis_hastings(topology)))


def test_more_than_can_be_tried_is_refused_with_what_can() -> None:
    with pytest.raises(UsageError, match="all pairs of 129 members") as caught:
        losing_two(ring(129))
    assert "single members" in caught.value.hint
    with pytest.raises(UsageError, match="each of 513 members") as caught:
        losing_one(ring(513))
    assert "found at any size" in caught.value.hint
    assert find_articulation(path(4096)) == tuple(range(1, 4095))
