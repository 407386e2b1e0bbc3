import networkx as nx
import pytest

from swarm.errors import UsageError
from topologies.graph import NODES_MAX, Topology


def test_edges_are_normalised_and_neighbours_are_ascending() -> None:
    topology = Topology.from_edges(4, [(3, 0), (1, 0), (0, 1), (2, 1)])
    assert topology.edges == ((0, 1), (0, 3), (1, 2))
    assert topology.neighbours(0) == (1, 3)
    assert topology.neighbours(1) == (0, 2)
    assert [topology.degree(node) for node in range(4)] == [2, 2, 1, 1]


def test_a_single_member_is_a_topology() -> None:
    assert Topology.from_edges(1, []).neighbours(0) == ()


def test_equal_graphs_are_equal_values() -> None:
    assert Topology.from_edges(3, [(0, 1), (1, 2)]) == Topology(n=3, edges=((0, 1), (1, 2)))
    assert hash(Topology.from_edges(3, [(2, 1), (1, 0)])) == hash(Topology(n=3, edges=((0, 1), (1, 2))))


@pytest.mark.parametrize(
    ("n", "edges", "sentence"),
    [
        (0, [], "it must have 1 to"),
        (NODES_MAX + 1, [], "it must have 1 to"),
        (3, [(0, 1)], "member 2 cannot be reached from member 0"),
        (3, [(0, 1), (1, 1), (1, 2)], "member 1 is linked to itself"),
        (3, [(0, 1), (1, 3)], "edge 1-3 names a member outside 0 to 2"),
        (2, [(-1, 0)], "edge -1-0 names a member outside 0 to 1"),
    ],
)
def test_impossible_graphs_are_refused_with_a_sentence(n: int, edges: list[tuple[int, int]], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        Topology.from_edges(n, edges)
    assert caught.value.hint


@pytest.mark.parametrize("edges", [((1, 0),), ((0, 1), (0, 1)), ((1, 2), (0, 1))])
def test_the_constructor_wants_sorted_edges(edges: tuple[tuple[int, int], ...]) -> None:
    with pytest.raises(UsageError, match="out of order or repeated"):
        Topology(n=3, edges=edges)


def test_networkx_round_trip() -> None:
    topology = Topology.from_edges(5, [(0, 1), (1, 2), (2, 3), (3, 4), (4, 0), (1, 3)])
    assert Topology.from_networkx(topology.to_networkx()) == topology
    assert Topology.from_networkx(nx.petersen_graph()).n == 10


def test_networkx_graphs_that_are_not_ours_are_refused() -> None:
    with pytest.raises(UsageError, match="directed"):
        Topology.from_networkx(nx.DiGraph([(0, 1)]))
    with pytest.raises(UsageError, match="are not the integers 0 to 1"):
        Topology.from_networkx(nx.Graph([("a", "b")]))
