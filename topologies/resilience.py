"""What if somebody goes away? Single points of failure, and what losing any one or two members or a link would cost.

A loss is judged by what is left: how many surviving members can no longer be reached by the largest group of survivors,
and, while all still can, by how much slower gossip agrees (the spectral gap under Metropolis-Hastings weights, which
the survivors work out anew from their new degrees). Members fail for a while, so nothing here changes a `Topology`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.graph import Edge, Topology

Key = TypeVar("Key")

PAIRS_NODES_MAX = 128
"""Most members of which all pairs are tried: 8,128 pairs, each an eigenvalue problem, take some ten seconds."""

SINGLES_NODES_MAX = 512
"""Most members that are tried one by one with their gap; 512 eigenvalue problems of that size take a minute."""

LINKS_WORK_MAX = SINGLES_NODES_MAX**4
"""Most work on links, as their number times members cubed (what an eigenvalue problem costs): that same minute."""

BATCH_ELEMENTS = 1 << 21
"""Matrix elements handed to LAPACK at a time: 16 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What is left after some members or a link are gone.

    Attributes:
        members: Who is gone, ascending; empty for a link.
        link: The link that is gone, or None.
        parts: Into how many groups the survivors fall; 1 is whole.
        cut_off: Survivors outside the largest group (of equals, the one with the lowest member), ascending.
        gap: Spectral gap of what is left; 0 if it is not whole, 1 for a single survivor.
    """

    members: tuple[int, ...]
    link: Edge | None
    parts: int
    cut_off: tuple[int, ...]
    gap: float

    @property
    def is_disconnected(self) -> bool:
        """Whether the survivors can no longer all reach each other."""
        return self.parts > 1

    @property
    def severity(self) -> tuple[int, float]:
        """What a ranking sorts by, worst first: how many are cut off, then how small the gap is."""
        return (-len(self.cut_off), self.gap)


@dataclass(frozen=True, slots=True, kw_only=True)
class Resilience:
    """The losses of a topology, each list worst first.

    Attributes:
        gap: Before any loss.
        articulation: Members whose loss alone cuts somebody off.
        bridges: Links whose loss alone does.
        one: The loss of each member.
        two: The loss of each pair of members; empty above `PAIRS_NODES_MAX` members.
        links: The loss of each link; of the bridges only where `LINKS_WORK_MAX` is too little for all.
    """

    gap: float
    articulation: tuple[int, ...]
    bridges: tuple[Edge, ...]
    one: tuple[Loss, ...]
    two: tuple[Loss, ...]
    links: tuple[Loss, ...]

    @property
    def survives_any_one(self) -> bool:
        """No single member's loss cuts anybody off."""
        return not self.articulation

    @property
    def survives_any_two(self) -> bool | None:
        """No two members' loss cuts anybody off; None where pairs were too many to try."""
        return None if not self.two else not self.two[0].is_disconnected


def examine(topology: Topology) -> Resilience:
    """All of it, ranked.

    Raises:
        UsageError: If the topology has more than `SINGLES_NODES_MAX` members.
    """
    bridges = find_bridges(topology)
    affordable = len(topology.edges) * topology.n**3 <= LINKS_WORK_MAX
    few = topology.n <= PAIRS_NODES_MAX and topology.n > 2
    return Resilience(
        gap=_gaps([_adjacency(topology)])[0],
        articulation=find_articulation(topology),
        bridges=bridges,
        one=losing_one(topology),
        two=losing_two(topology) if few else (),
        links=losing_link(topology, None if affordable else bridges),
    )


def losing_one(topology: Topology) -> tuple[Loss, ...]:
    """The loss of each member, worst first; none for a swarm of one.

    Raises:
        UsageError: If there are more than `SINGLES_NODES_MAX` members.
    """
    if topology.n > SINGLES_NODES_MAX:
        raise UsageError(
            f"couldn't try the loss of each of {topology.n} members: it is offered up to {SINGLES_NODES_MAX}",
            hint="Ask for articulation members and bridges, which are found at any size.",
        )
    return _ranked(_members(topology, ((node,) for node in range(topology.n))) if topology.n > 1 else ())


def losing_two(topology: Topology) -> tuple[Loss, ...]:
    """The loss of each pair of members, worst first.

    Raises:
        UsageError: If there are more than `PAIRS_NODES_MAX` members, or fewer than 3.
    """
    if not 3 <= topology.n <= PAIRS_NODES_MAX:
        raise UsageError(
            f"couldn't try the loss of all pairs of {topology.n} members: it is offered from 3 to {PAIRS_NODES_MAX}",
            hint="Ask for the loss of single members.",
        )
    return _ranked(_members(topology, itertools.combinations(range(topology.n), 2)))


def losing_link(topology: Topology, links: Sequence[Edge] | None = None) -> tuple[Loss, ...]:
    """The loss of each link, or of those given as (low, high), worst first."""
    whole = _adjacency(topology)

    def without() -> Iterator[tuple[Edge, NDArray[np.bool_]]]:
        for low, high in topology.edges if links is None else links:
            left = whole.copy()
            left[low, high] = left[high, low] = False
            yield (low, high), left

    return _ranked(
        Loss(members=(), link=link, parts=len(groups), cut_off=_outside(groups), gap=gap)
        for link, groups, gap in _judged(without())
    )


def find_articulation(topology: Topology) -> tuple[int, ...]:
    """The members whose loss alone cuts somebody off, ascending: the articulation points (Hopcroft & Tarjan, 1973)."""
    order, low, parent = _depth_first(topology)
    root, children = 0, sum(1 for node in range(1, topology.n) if parent[node] == 0)
    cut = {parent[node] for node in range(topology.n) if parent[node] > root and low[node] >= order[parent[node]]}
    return tuple(sorted(cut | ({root} if children > 1 else set())))


def find_bridges(topology: Topology) -> tuple[Edge, ...]:
    """The links whose loss alone cuts somebody off, as (low, high), ascending (Tarjan, 1974)."""
    order, low, parent = _depth_first(topology)
    found = [(parent[node], node) for node in range(1, topology.n) if low[node] > order[parent[node]]]
    return tuple(sorted((min(link), max(link)) for link in found))


def _depth_first(topology: Topology) -> tuple[list[int], list[int], list[int]]:
    """Discovery order, low-link (the earliest member reachable by one link back) and parent, by a search from member 0.

    With an explicit stack: a path of thousands is deeper than Python's own.
    """
    order, low, parent = [-1] * topology.n, [0] * topology.n, [-1] * topology.n
    order[0] = 0
    seen = 1
    stack = [(0, iter(topology.neighbours(0)))]
    while stack:
        node, others = stack[-1]
        for other in others:
            if order[other] < 0:
                parent[other], order[other], low[other] = node, seen, seen
                seen += 1
                stack.append((other, iter(topology.neighbours(other))))
                break
            if other != parent[node]:
                low[node] = min(low[node], order[other])
        else:
            stack.pop()
            if stack:
                above = stack[-1][0]
                low[above] = min(low[above], low[node])
    return order, low, parent


def _members(topology: Topology, losses: Iterable[tuple[int, ...]]) -> Iterator[Loss]:
    whole = _adjacency(topology)

    def without() -> Iterator[tuple[tuple[int, ...], NDArray[np.bool_]]]:
        for lost in losses:
            kept = np.delete(np.arange(topology.n), lost)
            yield lost, whole[np.ix_(kept, kept)]

    for lost, groups, gap in _judged(without()):
        kept = [node for node in range(topology.n) if node not in lost]
        cut_off = tuple(kept[place] for place in _outside(groups))
        yield Loss(members=lost, link=None, parts=len(groups), cut_off=cut_off, gap=gap)


def _judged(
    losses: Iterable[tuple[Key, NDArray[np.bool_]]],
) -> Iterator[tuple[Key, list[list[int]], float]]:
    """Each loss with the groups that are left and their gap; eigenvalues are found in batches."""
    batch: list[tuple[Key, NDArray[np.bool_], list[list[int]]]] = []
    for key, left in losses:
        batch.append((key, left, _groups(left)))
        if len(batch) * left.size >= BATCH_ELEMENTS:
            yield from _with_gaps(batch)
            batch = []
    yield from _with_gaps(batch)


def _with_gaps(
    batch: Sequence[tuple[Key, NDArray[np.bool_], list[list[int]]]],
) -> Iterator[tuple[Key, list[list[int]], float]]:
    whole = iter(_gaps([left for _, left, groups in batch if len(groups) == 1]))
    for key, _, groups in batch:
        yield key, groups, next(whole) if len(groups) == 1 else 0.0


def _gaps(graphs: Sequence[NDArray[np.bool_]]) -> list[float]:
    """The spectral gaps of connected graphs of one size under Metropolis-Hastings weights, in one call of LAPACK."""
    if not graphs or len(graphs[0]) == 1:
        return [1.0] * len(graphs)
    linked = np.stack(graphs)
    degree = linked.sum(axis=2)
    w_BNN = linked / (1.0 + np.maximum(degree[:, :, None], degree[:, None, :]))  # noqa: N806 - shape suffix
    diagonal = np.arange(linked.shape[1])
    w_BNN[:, diagonal, diagonal] = 1.0 - w_BNN.sum(axis=2)
    eigenvalues = np.linalg.eigvalsh(w_BNN)
    modulus = np.maximum(np.abs(eigenvalues[:, 0]), np.abs(eigenvalues[:, -2]))
    return [float(gap) for gap in 1.0 - modulus]


def _adjacency(topology: Topology) -> NDArray[np.bool_]:
    linked = np.zeros((topology.n, topology.n), dtype=np.bool_)
    for low, high in topology.edges:
        linked[low, high] = linked[high, low] = True
    return linked


def _groups(linked: NDArray[np.bool_]) -> list[list[int]]:
    """The connected groups, each ascending, in order of their lowest member."""
    free = np.ones(len(linked), dtype=np.bool_)
    groups: list[list[int]] = []
    while free.any():
        group = np.zeros(len(linked), dtype=np.bool_)
        frontier = np.zeros(len(linked), dtype=np.bool_)
        frontier[np.argmax(free)] = True
        while frontier.any():
            group |= frontier
            frontier = linked[frontier].any(axis=0) & ~group
        free &= ~group
        groups.append(np.flatnonzero(group).tolist())
    return groups


def _outside(groups: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Everybody outside the largest group; of equals the first stays inside."""
    largest = max(groups, key=len)
    return tuple(sorted(node for group in groups if group is not largest for node in group))


def _ranked(losses: Iterable[Loss]) -> tuple[Loss, ...]:
    return tuple(sorted(losses, key=lambda loss: (*loss.severity, loss.members, loss.link or (0, 0))))
