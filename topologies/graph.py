"""A topology: which members keep a direct link to which.

It is a value, checked when it is made, so nothing downstream meets a loop, a double edge or a member that nobody
can reach. It knows indices only: names, keys and addresses belong to the charter, weights to `topologies.weights`, and
links that fail for a while to the network, because a broken cable does not change who was meant to talk to whom.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from typing_extensions import override

from swarm.errors import UsageError

if TYPE_CHECKING:
    import networkx as nx

NODES_MAX = 4096
"""Most members of a topology. A dense float64 mixing matrix of this size takes 128 MiB; charters are far smaller."""

Edge = tuple[int, int]


@dataclass(frozen=True, init=False, eq=False, repr=False)
class Topology:
    """A connected simple undirected graph over members 0..n-1.

    Everybody linked to everybody is eight million links among 4,096, so links are kept as an array; as tuples they are
    made for whoever asks.

    Attributes:
        n: Members.
        ends: Shape (links, 2), int64: every link once as (low, high), ascending. Not to be written to.

    Raises:
        UsageError: If the edges, each given once as (low, high) in ascending order, are not such a graph; the message
            names the first one that is not. Use `from_edges` where they may come in another order.
    """

    n: int
    ends: NDArray[np.int64]
    _starts: NDArray[np.int64] = field(repr=False)
    _others: NDArray[np.int32] = field(repr=False)

    def __init__(self, *, n: int, edges: Iterable[Edge] | NDArray[np.int64]) -> None:
        """Check the edges and take them over."""
        check_size(n)
        ends = _array(edges)
        _check_edges(n, ends)
        ends.flags.writeable = False
        # Rows of the adjacency matrix one behind the other: those of member i are others[starts[i]:starts[i + 1]].
        # Links of thousands are hundreds of megabytes: what is sorted is half as wide, and sorted where it lies.
        low, high = ends.astype(np.int32).T
        others = np.concatenate([low * np.int32(n) + high, high * np.int32(n) + low])
        others.sort()
        others %= np.int32(n)
        degrees = np.bincount(low, minlength=n) + np.bincount(high, minlength=n)
        starts = np.concatenate([[0], np.cumsum(degrees)]).astype(np.int64)
        for name, value in (("n", n), ("ends", ends), ("_starts", starts), ("_others", others)):
            object.__setattr__(self, name, value)
        _check_connected(starts, others)

    @classmethod
    def from_edges(cls, n: int, edges: Iterable[Edge] | NDArray[np.int64]) -> Topology:
        """Make a topology of `n` members from edges in any order and direction; a repeated edge counts once.

        Edges may also come as an integer array of shape (links, 2).

        Raises:
            UsageError: If the result is not a connected simple graph.
        """
        check_size(n)  # before the edges are drawn from their iterator: too many members may mean far too many of them
        ends = np.sort(_array(edges), axis=1)
        further, same = np.diff(ends, axis=0).T > 0, np.diff(ends[:, 0]) == 0
        if not (further[0] | (same & further[1])).all():
            ends = ends[np.lexsort((ends[:, 1], ends[:, 0]))]
            fresh = np.ones(len(ends), dtype=bool)
            fresh[1:] = (np.diff(ends, axis=0) != 0).any(axis=1)
            ends = ends[fresh]
        return cls(n=n, edges=ends)

    @cached_property
    def edges(self) -> tuple[Edge, ...]:
        """Every link once as (low, high), ascending."""
        return tuple(zip(self.ends[:, 0].tolist(), self.ends[:, 1].tolist(), strict=True))

    @override
    def __eq__(self, other: object) -> bool:
        """Equal when the same members have the same links."""
        return isinstance(other, Topology) and self.n == other.n and np.array_equal(self.ends, other.ends)

    @override
    def __hash__(self) -> int:
        return hash((self.n, self.ends.tobytes()))

    @override
    def __repr__(self) -> str:
        return f"Topology(n={self.n}, edges={self.edges})"

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
        node = range(self.n)[node]
        return tuple(self._others[self._starts[node] : self._starts[node + 1]].tolist())

    def degree(self, node: int) -> int:
        """The number of links of `node`."""
        return int(self.degrees[node])

    @cached_property
    def degrees(self) -> NDArray[np.int64]:
        """The number of links of every member, shape (n,)."""
        return np.diff(self._starts)


def _array(edges: Iterable[Edge] | NDArray[np.int64]) -> NDArray[np.int64]:
    """Return a copy of the edges, shape (links, 2)."""
    if isinstance(edges, np.ndarray):
        return np.array(edges, dtype=np.int64).reshape(-1, 2)
    return np.fromiter(chain.from_iterable(edges), dtype=np.int64).reshape(-1, 2)


def check_size(n: int) -> None:
    """Raise `UsageError` unless a topology may have so many members."""
    if not 1 <= n <= NODES_MAX:
        raise UsageError(
            f"couldn't make a topology of {n} members: it must have 1 to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )


def _check_edges(n: int, ends: NDArray[np.int64]) -> None:
    low, high = ends[:, 0], ends[:, 1]
    loop = low == high
    outside = (ends.min(axis=1, initial=0) < 0) | (ends.max(axis=1, initial=0) >= n)
    before = np.concatenate([[-1], (low * n + high)[:-1]])
    disorder = (low > high) | (low * n + high <= before)
    wrong = loop | outside | disorder
    if not wrong.any():
        return
    first = int(wrong.argmax())
    a, b = (int(end) for end in ends[first])
    if loop[first]:
        raise UsageError(f"couldn't make the topology: member {a} is linked to itself", hint="Remove that edge.")
    if outside[first]:
        raise UsageError(
            f"couldn't make the topology: edge {a}-{b} names a member outside 0 to {n - 1}",
            hint="Count members from 0.",
        )
    raise UsageError(
        f"couldn't make the topology: edge {a}-{b} is out of order or repeated",
        hint="Use Topology.from_edges, which sorts them.",
    )


def _check_connected(starts: NDArray[np.int64], others: NDArray[np.int32]) -> None:
    seen = np.zeros(len(starts) - 1, dtype=bool)
    seen[0], frontier = True, [0]
    while frontier and not seen.all():
        near = np.concatenate([others[starts[node] : starts[node + 1]] for node in frontier])
        fresh = np.unique(near[~seen[near]])
        seen[fresh] = True
        frontier = fresh.tolist()
    if not seen.all():
        raise UsageError(
            f"couldn't make the topology: member {int(seen.argmin())} cannot be reached from member 0",
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
