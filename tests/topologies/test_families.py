import networkx as nx
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from swarm.errors import UsageError
from topologies import families
from topologies.families import build, complete, exponential, path, random_regular, ring, star


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


def test_build_knows_every_family_by_name() -> None:
    assert build("ring", 5) == ring(5)
    assert build("random_regular", 8, degree=4, seed=3) == random_regular(8, 4, 3)
    assert sorted(families.FAMILIES) == ["complete", "exponential", "path", "ring", "star"]
    with pytest.raises(UsageError, match="no family named 'torus'") as caught:
        build("torus", 9)
    assert "random_regular" in caught.value.hint
