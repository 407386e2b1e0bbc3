"""Families of topologies: the shapes a consortium chooses from, each by one function and with its source.

The choice trades links per site (what firewalls and uplinks must carry) against the spectral gap (how fast gossip
agrees, see `topologies.weights`). Nothing here knows weights, rounds or addresses. A shape that does not exist for the
requested number of members is refused with a sentence, never rounded to one that does.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from types import MappingProxyType

from swarm.errors import UsageError
from topologies.graph import Edge, Topology

ATTEMPTS_MAX = 10_000
"""Tries at a random regular graph. Degree 3 and more succeed within a few; degree 2 (one Hamiltonian cycle by luck)
needs about sqrt(n) of them, so this suffices up to `NODES_MAX` with room to spare."""


def path(n: int) -> Topology:
    """A line: member i is linked to i+1. The worst case of gossip, gap of order 1/n^2 (Boyd et al., 2006)."""
    return Topology.from_edges(n, ((i, i + 1) for i in range(n - 1)))


def ring(n: int) -> Topology:
    """A cycle: two links a member, gap of order 1/n^2 (Boyd et al., Randomized Gossip Algorithms, 2006).

    Raises:
        UsageError: If n < 3, where a cycle would need a loop or a double edge.
    """
    _at_least(n, 3, "ring", "Use path for two members.")
    return Topology.from_edges(n, ((i, (i + 1) % n) for i in range(n)))


def star(n: int) -> Topology:
    """Member 0 in the middle, linked to all others: the shape of federated learning (McMahan et al., 2017).

    It is here to be compared with: member 0 carries every link and its loss stops everybody.

    Raises:
        UsageError: If n < 2.
    """
    _at_least(n, 2, "star", "Add a member.")
    return Topology.from_edges(n, ((0, i) for i in range(1, n)))


def complete(n: int) -> Topology:
    """Everybody linked to everybody: gap 1, n-1 links a member. The default for consortia up to a dozen sites."""
    return Topology.from_edges(n, ((i, j) for i in range(n) for j in range(i + 1, n)))


def exponential(n: int) -> Topology:
    """Member i is linked to i + 2^k (mod n) for every 2^k < n: about 2 log2(n) links, gap of order 1/log n.

    The static exponential graph of Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep
    Training" (NeurIPS 2021), made undirected because our links carry both ways.

    Raises:
        UsageError: If n < 2.
    """
    _at_least(n, 2, "exponential", "Add a member.")
    hops = [1 << k for k in range((n - 1).bit_length())]
    return Topology.from_edges(n, ((i, (i + hop) % n) for i in range(n) for hop in hops if hop < n))


def random_regular(n: int, degree: int, seed: int) -> Topology:
    """A random connected graph in which every member has `degree` links; the same seed gives the same graph.

    Steger & Wormald, "Generating random regular graphs quickly" (1999): pair up free link ends at random, refusing
    loops and double edges, and begin again when only refused pairs are left. Nearly every such graph of degree 3 or
    more is an expander (Friedman, 2008): a gap that does not shrink with n for a constant number of links.

    Raises:
        UsageError: If no such graph exists: n * degree odd, degree outside 1..n-1, or degree 1 with n > 2.
    """
    _at_least(n, 2, "random regular graph", "Add a member.")
    if not 1 <= degree <= n - 1:
        raise UsageError(
            f"couldn't make a random regular graph: degree {degree} is impossible with {n} members",
            hint=f"Choose a degree from 1 to {n - 1}.",
        )
    if n * degree % 2:
        raise UsageError(
            f"couldn't make a random regular graph: {n} members with {degree} links each leave one link end over",
            hint="Choose an even degree or an even number of members.",
        )
    if degree == 1 and n > 2:
        raise UsageError(
            f"couldn't make a random regular graph: with 1 link each, {n} members fall into separate pairs",
            hint="Choose degree 2 or more.",
        )
    rng = random.Random(f"random-regular/{n}/{degree}/{seed}")  # noqa: S311 - a draw to be repeated, not a secret
    for _ in range(ATTEMPTS_MAX):
        edges = _pairing(n, degree, rng)
        if edges is None:
            continue
        try:
            return Topology.from_edges(n, edges)
        except UsageError:  # regular but in several pieces: draw again
            continue
    raise UsageError(
        f"couldn't find a connected graph of {n} members with {degree} links each in {ATTEMPTS_MAX} tries",
        hint="Choose a larger degree.",
    )


def _pairing(n: int, degree: int, rng: random.Random) -> list[Edge] | None:
    """One try of Steger & Wormald: the edges, or None when the free ends that are left fit nowhere."""
    taken: set[Edge] = set()  # asked for membership only; the list keeps the order
    edges: list[Edge] = []
    ends = [node for node in range(n) for _ in range(degree)]
    while ends:
        rng.shuffle(ends)
        left: list[int] = []
        for a, b in zip(ends[::2], ends[1::2], strict=True):
            edge = (min(a, b), max(a, b))
            if a == b or edge in taken:
                left += (a, b)
            else:
                taken.add(edge)
                edges.append(edge)
        if len(left) == len(ends) and not _fits(sorted(set(left)), taken):
            return None
        ends = left
    return edges


def _fits(nodes: list[int], taken: set[Edge]) -> bool:
    """Whether any two different members with free ends are not linked yet."""
    return any((a, b) not in taken for i, a in enumerate(nodes) for b in nodes[i + 1 :])


def _at_least(n: int, least: int, what: str, hint: str) -> None:
    if n < least:
        raise UsageError(f"couldn't make a {what} of {n} members: it needs at least {least}", hint=hint)


Family = Callable[[int], Topology]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {"ring": ring, "path": path, "star": star, "complete": complete, "exponential": exponential}
)
"""The families that need nothing but the number of members; `random_regular` also takes a degree and a seed."""


def build(name: str, n: int, *, degree: int = 3, seed: int = 0) -> Topology:
    """Make the topology that a charter or a command line names; `degree` and `seed` matter to random_regular only.

    Raises:
        UsageError: If there is no such family, or it has no member of that size.
    """
    if name == "random_regular":
        return random_regular(n, degree, seed)
    if name not in FAMILIES:
        names = ", ".join(sorted([*FAMILIES, "random_regular"]))
        raise UsageError(f"couldn't make the topology: there is no family named {name!r}", hint=f"Use one of {names}.")
    return FAMILIES[name](n)
