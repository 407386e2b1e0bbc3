"""A topology: which members keep a direct link to which.

It is a value, checked when it is made, so nothing downstream meets a loop, a double edge or a member that nobody
can reach. It knows indices only: names, keys and addresses belong to the charter, weights to `topologies.weights`, and
links that fail for a while to the network, because a broken cable does not change who was meant to talk to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from swarm.errors import UsageError

if TYPE_CHECKING:
    import networkx as nx

NODES_MAX = 4096
"""Most members of a topology. A dense float64 mixing matrix of this size takes 128 MiB; charters are far smaller."""

Edge = tuple[int, int]


@dataclass(frozen=True, slots=True, kw_only=True)
class Topology:
    """A connected simple undirected graph over members 0..n-1.

    `edges` holds every edge once as (low, high), ascending. Use `from_edges` where they may come in another order.

    Raises:
        UsageError: If the edges are not such a graph; the message names the first one that is not.
    """

    n: int
    edges: tuple[Edge, ...]
    _adjacent: tuple[tuple[int, ...], ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        _check_size(self.n)
        _check_edges(self.n, self.edges)
        adjacent: list[list[int]] = [[] for _ in range(self.n)]
        for low, high in self.edges:
            adjacent[low].append(high)
            adjacent[high].append(low)
        object.__setattr__(self, "_adjacent", tuple(tuple(sorted(row)) for row in adjacent))
        _check_connected(self._adjacent)

    @classmethod
    def from_edges(cls, n: int, edges: Iterable[Edge]) -> Topology:
        """Make a topology of `n` members from edges in any order and direction; a repeated edge counts once.

        Raises:
            UsageError: If the result is not a connected simple graph.
        """
        _check_size(n)  # before the edges are drawn from their iterator: too many members may mean far too many of them
        return cls(n=n, edges=tuple(sorted({(min(a, b), max(a, b)) for a, b in edges})))

    @classmethod
    def from_networkx(cls, graph: nx.Graph[int]) -> Topology:
        """Take over an undirected networkx graph whose nodes are 0..n-1; attributes are dropped.

        Raises:
            UsageError: If it is directed, its nodes are named otherwise, or it is not connected and simple.
        """
        if graph.is_directed():
            raise UsageError("couldn't read the graph: it is directed", hint="Pass graph.to_undirected().")
        n = graph.number_of_nodes()
        if sorted(map(repr, graph.nodes)) != sorted(map(repr, range(n))):
            raise UsageError(
                f"couldn't read the graph: its {n} nodes are not the integers 0 to {n - 1}",
                hint="Rename them with networkx.convert_node_labels_to_integers.",
            )
        return cls.from_edges(n, graph.edges())

    def to_networkx(self) -> nx.Graph[int]:
        """The same graph for networkx, with nodes and edges in ascending order."""
        import networkx as nx  # plotting and statistics only: a running node never pays for this import

        graph: nx.Graph[int] = nx.Graph()
        graph.add_nodes_from(range(self.n))
        graph.add_edges_from(self.edges)
        return graph

    def neighbours(self, node: int) -> tuple[int, ...]:
        """The members linked to `node`, ascending."""
        return self._adjacent[node]

    def degree(self, node: int) -> int:
        """The number of links of `node`."""
        return len(self._adjacent[node])


def _check_size(n: int) -> None:
    if not 1 <= n <= NODES_MAX:
        raise UsageError(
            f"couldn't make a topology of {n} members: it must have 1 to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )


def _check_edges(n: int, edges: tuple[Edge, ...]) -> None:
    before: Edge = (-1, -1)
    for edge in edges:
        low, high = edge
        if low == high:
            raise UsageError(f"couldn't make the topology: member {low} is linked to itself", hint="Remove that edge.")
        if min(edge) < 0 or max(edge) >= n:
            raise UsageError(
                f"couldn't make the topology: edge {low}-{high} names a member outside 0 to {n - 1}",
                hint="Count members from 0.",
            )
        if low > high or edge <= before:
            raise UsageError(
                f"couldn't make the topology: edge {low}-{high} is out of order or repeated",
                hint="Use Topology.from_edges, which sorts them.",
            )
        before = edge


def _check_connected(adjacent: tuple[tuple[int, ...], ...]) -> None:
    seen = reached(adjacent)
    if not all(seen):
        raise UsageError(
            f"couldn't make the topology: member {seen.index(False)} cannot be reached from member 0",
            hint="Add an edge that joins the separate parts.",
        )


def reached(adjacent: Sequence[Sequence[int]]) -> list[bool]:
    """Which members a walk from member 0 can come to; `adjacent` says where it can go from each. One at least."""
    seen = [False] * len(adjacent)
    seen[0] = True
    frontier = [0]
    while frontier:
        for neighbour in adjacent[frontier.pop()]:
            if not seen[neighbour]:
                seen[neighbour] = True
                frontier.append(neighbour)
    return seen


def nearest_sizes(n: int, fits: Callable[[int], bool]) -> str:
    """The sizes nearest to n, below and above, of which a shape exists, for a hint: "8 or 16"."""
    below = next((m for m in range(min(n, NODES_MAX + 1) - 1, 0, -1) if fits(m)), None)
    above = next((m for m in range(max(n, 0) + 1, NODES_MAX + 1) if fits(m)), None)
    return " or ".join(str(size) for size in (below, above) if size is not None)
