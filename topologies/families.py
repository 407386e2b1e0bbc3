"""Families of topologies: the shapes a consortium chooses from, each by one function and with its source.

The choice trades links per site (what firewalls and uplinks must carry) against the spectral gap (how fast gossip
agrees, see `topologies.spectrum`). Nothing here knows weights, rounds or addresses. A shape that does not exist for the
requested number of members is refused with a sentence that names the nearest sizes that do, never rounded to one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies.graph import Topology, check_size, nearest_sizes
from topologies.random_graphs import at_least, erdos_renyi, random_regular, watts_strogatz


def path(n: int) -> Topology:
    """A line: member i is linked to i+1. The worst case of gossip, gap of order 1/n^2 (Boyd et al., 2006)."""
    return Topology.from_edges(n, ((i, i + 1) for i in range(n - 1)))


def ring(n: int) -> Topology:
    """A cycle: two links a member, gap of order 1/n^2 (Boyd et al., Randomized Gossip Algorithms, 2006).

    Raises:
        UsageError: If n < 3, where a cycle would need a loop or a double edge.
    """
    at_least(n, 3, "ring", "Use path for two members.")
    return Topology.from_edges(n, ((i, (i + 1) % n) for i in range(n)))


def star(n: int) -> Topology:
    """Member 0 in the middle, linked to all others: the shape of federated learning (McMahan et al., 2017).

    It is here to be compared with: member 0 carries every link and its loss stops everybody.

    Raises:
        UsageError: If n < 2.
    """
    at_least(n, 2, "star", "Add a member.")
    return Topology.from_edges(n, ((0, i) for i in range(1, n)))


def complete(n: int) -> Topology:
    """Everybody linked to everybody: gap 1, n-1 links a member. The default for consortia up to a dozen sites."""
    check_size(n)
    return Topology(n=n, edges=_pairs(0, n))


def exponential(n: int) -> Topology:
    """Member i is linked to i + 2^k (mod n) for every 2^k < n: about 2 log2(n) links, gap of order 1/log n.

    The static exponential graph of Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep
    Training" (NeurIPS 2021), made undirected because our links carry both ways.

    Raises:
        UsageError: If n < 2.
    """
    at_least(n, 2, "exponential", "Add a member.")
    hops = [1 << k for k in range((n - 1).bit_length())]
    return Topology.from_edges(n, ((i, (i + hop) % n) for i in range(n) for hop in hops if hop < n))


def grid(n: int) -> Topology:
    """Rows and columns as nearly square as n divides, linked to the next in each: gap of order 1/n (Boyd et al., 2006).

    Raises:
        UsageError: If n < 4 or n is prime, where only a single line would do.
    """
    rows, columns = _sides(n)
    if rows < 2:
        raise UsageError(
            f"couldn't make a grid of {n} members: they fill no rectangle of at least 2 by 2",
            hint=f"Use {nearest_sizes(n, lambda m: _sides(m)[0] >= 2)} members, or path.",
        )
    down = [(i, i + columns) for i in range(n - columns)]
    return Topology.from_edges(n, down + [(i, i + 1) for i in range(n) if (i + 1) % columns])


def torus(n: int) -> Topology:
    """A grid whose opposite sides are joined: four links a member, gap of order 1/n (Boyd et al., 2006).

    Raises:
        UsageError: If n is not a product of two sides of at least 3, where links would coincide.
    """
    rows, columns = _sides(n)
    if rows < 3:
        raise UsageError(
            f"couldn't make a torus of {n} members: they fill no rectangle of at least 3 by 3",
            hint=f"Use {nearest_sizes(n, lambda m: _sides(m)[0] >= 3)} members, or ring.",
        )
    down = [(i, (i + columns) % n) for i in range(n)]
    return Topology.from_edges(n, down + [(i, i + 1 if (i + 1) % columns else i + 1 - columns) for i in range(n)])


def hypercube(n: int) -> Topology:
    """Members whose indices differ in one bit are linked: log2 n links, gap 2 / (1 + log2 n) under Metropolis weights.

    Saad & Schultz, "Topological properties of hypercubes" (IEEE Transactions on Computers 37(7), 1988).

    Raises:
        UsageError: If n is not a power of two.
    """
    if n < 2 or n & (n - 1):
        raise UsageError(
            f"couldn't make a hypercube of {n} members: it needs a power of two",
            hint=f"Use {nearest_sizes(n, lambda m: m >= 2 and m & (m - 1) == 0)} members, or exponential.",
        )
    return Topology.from_edges(n, ((i, i ^ (1 << bit)) for i in range(n) for bit in range(n.bit_length() - 1)))


def tree(n: int, branching: int = 2) -> Topology:
    """A balanced tree: member i hangs below (i - 1) // branching, so levels fill up from the left; n - 1 links.

    The fewest links that connect everybody and no redundancy: every inner member is a single point of failure.

    Raises:
        UsageError: If n < 2 or branching < 1.
    """
    at_least(n, 2, "tree", "Add a member.")
    if branching < 1:
        raise UsageError(f"couldn't make a tree with {branching} branches", hint="Choose 1 or more; 2 is usual.")
    return Topology.from_edges(n, (((i - 1) // branching, i) for i in range(1, n)))


def clusters(n: int, regions: int | None = None, gateways: int = 1) -> Topology:
    """Two levels: regions in which everybody is linked, joined by gateways.

    Members are dealt out in order to regions of nearly equal size; the first `gateways` of each region are linked to
    their counterparts in every other region. With one gateway a region depends on it; with two it survives a loss.
    The hierarchy of Hier-Local-QSGD (Liu et al., "Client-Edge-Cloud Hierarchical Federated Learning", ICC 2020) without
    the cloud. By default about sqrt(n) regions, which balances links inside against links between.

    Raises:
        UsageError: If there are fewer than two regions, or the smallest has fewer members than gateways.
    """
    at_least(n, 2, "swarm of clusters", "Add a member.")
    count = max(2, math.isqrt(n)) if regions is None else regions
    if not 2 <= count <= n:
        raise UsageError(
            f"couldn't make {count} clusters of {n} members: there must be at least 2 and at most one a member",
            hint=f"Choose 2 to {n} regions.",
        )
    if not 1 <= gateways <= n // count:
        raise UsageError(
            f"couldn't make {count} clusters of {n} members: {gateways} gateways each is impossible, "
            f"as the smallest has {n // count} members",
            hint=f"Choose 1 to {n // count} gateways, or fewer regions.",
        )
    starts = [r * (n // count) + min(r, n % count) for r in range(count + 1)]
    inside = [
        (i, j) for r in range(count) for i in range(starts[r], starts[r + 1]) for j in range(i + 1, starts[r + 1])
    ]
    between = [
        (starts[r] + g, starts[s] + g) for g in range(gateways) for r in range(count) for s in range(r + 1, count)
    ]
    return Topology.from_edges(n, inside + between)


def barbell(n: int) -> Topology:
    """Two complete halves joined by one link: a stress test, gap of order 1/n^2 for all its many links.

    Boyd, Diaconis & Xiao, "Fastest Mixing Markov Chain on a Graph" (SIAM Review 46(4), 2004), where local weights
    do worst.

    Raises:
        UsageError: If n < 4, where the halves are no more than points.
    """
    at_least(n, 4, "barbell", "Use path.")
    half = n // 2
    return Topology.from_edges(n, np.concatenate([_pairs(0, half), _pairs(half, n), [(half - 1, half)]]))


def _pairs(first: int, end: int) -> NDArray[np.int64]:
    """All pairs (low, high) of members from `first` to before `end`, shape (pairs, 2), ascending."""
    size = end - first
    return first + np.argwhere(np.triu(np.ones((size, size), dtype=bool), 1)).astype(np.int64)


def _sides(n: int) -> tuple[int, int]:
    """The most nearly square rows x columns with n places; (1, n) for a prime."""
    rows = next((side for side in range(math.isqrt(max(n, 0)), 0, -1) if n % side == 0), 0)
    return rows, n // rows if rows else 0


Family = Callable[[int], Topology]

FAMILIES: Mapping[str, Family] = MappingProxyType(
    {
        "ring": ring,
        "path": path,
        "star": star,
        "complete": complete,
        "exponential": exponential,
        "grid": grid,
        "torus": torus,
        "hypercube": hypercube,
        "tree": tree,
        "clusters": clusters,
        "barbell": barbell,
    }
)
"""The families that need nothing but the number of members."""

SEEDED: Mapping[str, Callable[[int, int, int], Topology]] = MappingProxyType(
    {
        "random_regular": random_regular,
        "erdos_renyi": lambda n, _degree, seed: erdos_renyi(n, seed=seed),
        "watts_strogatz": lambda n, degree, seed: watts_strogatz(n, degree + degree % 2, seed=seed),
    }
)
"""The families that are drawn: (n, degree, seed) -> topology. A small world takes the next even degree."""


def build(name: str, n: int, *, degree: int = 3, seed: int = 0) -> Topology:
    """Make the topology that a charter or a command line names; `degree` and `seed` matter to the `SEEDED` ones only.

    Raises:
        UsageError: If there is no such family, or it has no member of that size.
    """
    if name in SEEDED:
        return SEEDED[name](n, degree, seed)
    if name not in FAMILIES:
        names = ", ".join(sorted([*FAMILIES, *SEEDED]))
        raise UsageError(f"couldn't make the topology: there is no family named {name!r}", hint=f"Use one of {names}.")
    return FAMILIES[name](n)
