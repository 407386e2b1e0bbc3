import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from topologies import families
from topologies.families import (
    barbell,
    build,
    clusters,
    complete,
    erdos_renyi,
    exponential,
    grid,
    hypercube,
    path,
    random_regular,
    ring,
    star,
    torus,
    tree,
    watts_strogatz,
)


def test_small_shapes_by_hand() -> None:
    assert path(3).edges == ((0, 1), (1, 2))
    assert ring(4).edges == ((0, 1), (0, 3), (1, 2), (2, 3))
    assert star(4).edges == ((0, 1), (0, 2), (0, 3))
    assert complete(3).edges == ((0, 1), (0, 2), (1, 2))
    assert path(1).edges == complete(1).edges == ()


def test_exponential_links_to_powers_of_two() -> None:
    assert exponential(8).neighbours(0) == (1, 2, 4, 6, 7)  # +1, +2, +4 and -1, -2 (-4 is +4)
    assert exponential(5).neighbours(0) == (1, 2, 3, 4)
    assert exponential(2).edges == ((0, 1),)


@settings(max_examples=40, deadline=None)
@given(n=st.integers(3, 40), degree=st.integers(2, 8), seed=st.integers(0, 100))
def test_random_regular_is_regular_and_repeatable(n: int, degree: int, seed: int) -> None:
    assume(degree < n and n * degree % 2 == 0)
    topology = random_regular(n, degree, seed)
    assert all(topology.degree(node) == degree for node in range(n))
    assert random_regular(n, degree, seed) == topology
    assert nx.is_connected(topology.to_networkx())


def test_random_regular_depends_on_the_seed() -> None:
    assert len({random_regular(12, 3, seed) for seed in range(10)}) > 5


def test_random_regular_of_full_degree_is_complete() -> None:
    assert random_regular(6, 5, 0) == complete(6)
    assert random_regular(2, 1, 0) == complete(2)


@pytest.mark.parametrize(
    ("n", "degree", "sentence"),
    [
        (5, 3, "5 members with 3 links each leave one link end over"),
        (4, 4, "degree 4 is impossible with 4 members"),
        (4, 0, "degree 0 is impossible with 4 members"),
        (4, 1, "fall into separate pairs"),
        (1, 0, "it needs at least 2"),
    ],
)
def test_impossible_regular_graphs_are_refused_with_a_sentence(n: int, degree: int, sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        random_regular(n, degree, 0)
    assert caught.value.hint


@pytest.mark.parametrize(("name", "n"), [("ring", 2), ("star", 1), ("exponential", 1), ("complete", 0)])
def test_impossible_sizes_are_refused(name: str, n: int) -> None:
    with pytest.raises(UsageError, match=f"of {n} members"):
        build(name, n)


def test_more_small_shapes_by_hand() -> None:
    assert grid(6).edges == ((0, 1), (0, 3), (1, 2), (1, 4), (2, 5), (3, 4), (4, 5))  # 2 rows of 3
    assert torus(9).neighbours(0) == (1, 2, 3, 6)
    assert torus(12).degree(5) == 4
    assert hypercube(8).neighbours(5) == (1, 4, 7)
    assert hypercube(2).edges == ((0, 1),)
    assert tree(7).edges == ((0, 1), (0, 2), (1, 3), (1, 4), (2, 5), (2, 6))
    assert tree(5, branching=4) == star(5)
    assert tree(4, branching=1) == path(4)
    assert barbell(6).edges == ((0, 1), (0, 2), (1, 2), (2, 3), (3, 4), (3, 5), (4, 5))
    assert barbell(5).edges == ((0, 1), (1, 2), (2, 3), (2, 4), (3, 4))


def test_clusters_are_complete_inside_and_joined_by_gateways() -> None:
    # Seven in three regions: 0 1 2, 3 4, 5 6.
    assert clusters(7, 3).edges == ((0, 1), (0, 2), (0, 3), (0, 5), (1, 2), (3, 4), (3, 5), (5, 6))
    assert clusters(6, 2, gateways=2).edges == (
        (0, 1),
        (0, 2),
        (0, 3),
        (1, 2),
        (1, 4),
        (3, 4),
        (3, 5),
        (4, 5),
    )
    assert clusters(4, 4) == complete(4)
    assert clusters(2).edges == ((0, 1),)


@pytest.mark.parametrize("n", [2, 5, 16, 50])
def test_networkx_agrees_on_the_classical_shapes(n: int) -> None:
    assert nx.is_isomorphic(tree(n).to_networkx(), nx.full_rary_tree(2, n))
    if n & (n - 1) == 0:
        cube = nx.convert_node_labels_to_integers(nx.hypercube_graph(n.bit_length() - 1))
        assert nx.is_isomorphic(hypercube(n).to_networkx(), cube)
    if n == 50:
        assert nx.is_isomorphic(torus(n).to_networkx(), nx.grid_2d_graph(5, 10, periodic=True))
        assert nx.is_isomorphic(grid(n).to_networkx(), nx.grid_2d_graph(5, 10))
        assert nx.is_isomorphic(barbell(n).to_networkx(), nx.barbell_graph(25, 0))


def test_erdos_renyi_is_connected_repeatable_and_as_dense_as_asked() -> None:
    drawn = [erdos_renyi(60, 0.2, seed) for seed in range(20)]
    assert erdos_renyi(60, 0.2, 3) == drawn[3]
    assert len(set(drawn)) == 20
    # 20 draws of 1770 links at 0.2: mean 354, standard deviation of the mean below 4.
    assert abs(sum(len(topology.edges) for topology in drawn) / 20 - 354) < 16
    assert erdos_renyi(2).edges == ((0, 1),)
    assert erdos_renyi(9, 1.0) == complete(9)
    assert erdos_renyi(100).n == 100


def test_watts_strogatz_keeps_its_links_and_moves_some() -> None:
    lattice = watts_strogatz(20, 4, 0.0)
    assert lattice.neighbours(0) == (1, 2, 18, 19)
    for rewire in (0.1, 0.5, 1.0):
        drawn = watts_strogatz(20, 4, rewire, seed=1)
        assert len(drawn.edges) == 40
        assert watts_strogatz(20, 4, rewire, seed=1) == drawn
    moved = [
        len(set(watts_strogatz(100, 4, 0.1, seed).edges) - set(watts_strogatz(100, 4, 0.0).edges)) for seed in range(20)
    ]
    assert 15 < sum(moved) / 20 < 25  # a tenth of 200 links
    assert watts_strogatz(4, 2, 1.0).n == 4
    assert watts_strogatz(5, 4, 1.0) == complete(5)  # nowhere to move to


@pytest.mark.parametrize(
    ("make", "sentence", "hint"),
    [
        (lambda: grid(7), "grid of 7 members: they fill no rectangle", "Use 6 or 8 members"),
        (lambda: grid(3), "grid of 3 members", "Use 4 members"),
        (lambda: torus(10), "torus of 10 members: they fill no rectangle of at least 3 by 3", "Use 9 or 12 members"),
        (lambda: hypercube(12), "hypercube of 12 members: it needs a power of two", "Use 8 or 16 members"),
        (lambda: hypercube(1), "hypercube of 1 members", "Use 2 members"),
        (lambda: hypercube(5000), "hypercube of 5000 members", "Use 4096 members"),
        (lambda: tree(5, 0), "0 branches", "1 or more"),
        (lambda: clusters(5, 6), "6 clusters of 5 members", "2 to 5 regions"),
        (lambda: clusters(5, 1), "1 clusters of 5 members", "2 to 5 regions"),
        (lambda: clusters(5, 3, gateways=2), "2 gateways each is impossible", "1 to 1 gateways"),
        (lambda: barbell(3), "it needs at least 4", "path"),
        (lambda: erdos_renyi(50, 0.001), "link probability 0.001 in 200 draws", "0.156 or more"),
        (lambda: erdos_renyi(50, 0.0), "a link probability of 0.0 is impossible", "0.156"),
        (lambda: watts_strogatz(10, 3), "3 links a member is impossible", "even degree from 2 to 8"),
        (lambda: watts_strogatz(3, 4), "4 links a member is impossible", "Choose degree 2"),
        (lambda: watts_strogatz(10, 4, 1.5), "rewiring probability of 1.5", "from 0"),
        (lambda: complete(5000), "5000 members: it must have 1 to 4096", "that range"),
    ],
)
def test_what_does_not_exist_is_refused_with_what_would(make: object, sentence: str, hint: str) -> None:
    with pytest.raises(UsageError, match=sentence) as caught:
        make()  # type: ignore[operator]
    assert hint in caught.value.hint


def test_a_degree_that_leaves_a_link_end_over_is_answered_with_its_neighbours() -> None:
    answers = {(5, 3): "Choose 2 or 4 links, or 4 or 6 members.", (3, 1): "Choose 2 links, or 2 or 4 members."}
    for (n, degree), hint in {**answers, (6, 9): "Choose a degree from 2 to 5."}.items():
        with pytest.raises(UsageError) as caught:
            random_regular(n, degree, 0)
        assert caught.value.hint == hint


def test_build_knows_every_family_by_name() -> None:
    assert build("ring", 5) == ring(5)
    assert build("random_regular", 8, degree=4, seed=3) == random_regular(8, 4, 3)
    assert build("erdos_renyi", 8, seed=3) == erdos_renyi(8, seed=3)
    assert build("watts_strogatz", 8, degree=3, seed=3) == watts_strogatz(8, 4, seed=3)
    for name in (*families.FAMILIES, *families.SEEDED):
        assert build(name, 16, degree=4).n == 16
    with pytest.raises(UsageError, match="no family named 'moebius'") as caught:
        build("moebius", 9)
    assert all(name in caught.value.hint for name in (*families.FAMILIES, *families.SEEDED))
