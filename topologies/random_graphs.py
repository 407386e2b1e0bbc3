"""Random graphs as topologies: regular, Erdos-Renyi, small world. The same seed gives the same graph.

A draw is thrown again until everybody is connected, up to a limit, so that a parameter at which that hardly ever
happens is refused with a sentence instead of trying for ever. These graphs are drawn once, when a charter is written,
and the charter names their links; what members draw by themselves every round is in `topologies.epidemic`.
"""

from __future__ import annotations

import math
import random

from swarm.errors import UsageError
from topologies.graph import NODES_MAX, Edge, Topology, reached

ATTEMPTS_MAX = 10_000
"""Tries at a random regular graph. Degree 3 and more succeed within a few; degree 2 (one Hamiltonian cycle by luck)
needs about sqrt(n) of them, so this suffices up to `NODES_MAX` with room to spare."""

CONNECTED_ATTEMPTS_MAX = 200
"""Draws of a random graph before we say that it will not be connected: at the default link probability one draw in n
falls apart, so two in a row are rare; a graph that fails this often is too sparse to ask for."""


def erdos_renyi(n: int, p: float | None = None, seed: int = 0) -> Topology:
    """G(n, p): every link exists with probability p, drawn again until everybody is reached; seeded.

    Erdos & Renyi, "On random graphs I" (1959); ln n / n is where they begin to be connected (Erdos & Renyi, 1960), and
    the default is twice that, at which one draw in n or so is not.

    Raises:
        UsageError: If n < 2, p is not within (0, 1], or `CONNECTED_ATTEMPTS_MAX` draws fall apart.
    """
    at_least(n, 2, "random graph", "Add a member.")
    chance = min(1.0, 2 * math.log(n) / n) if p is None else p
    if not 0 < chance <= 1:
        raise UsageError(
            f"couldn't make a random graph: a link probability of {chance} is impossible",
            hint=f"Choose one above 0 and up to 1; {min(1.0, 2 * math.log(n) / n):.3f} suits {n} members.",
        )
    rng = random.Random(f"erdos-renyi/{n}/{chance}/{seed}")  # noqa: S311 - a draw to be repeated, not a secret
    for _ in range(CONNECTED_ATTEMPTS_MAX):
        edges = [(i, j) for i in range(n) for j in range(i + 1, n) if rng.random() < chance]
        if (topology := _connected(n, edges)) is not None:
            return topology
    raise UsageError(
        f"couldn't find a connected graph of {n} members with link probability {chance:g} in "
        f"{CONNECTED_ATTEMPTS_MAX} draws",
        hint=f"Choose {min(1.0, 2 * math.log(n) / n):.3f} or more.",
    )


def watts_strogatz(n: int, degree: int = 4, rewire: float = 0.1, seed: int = 0) -> Topology:
    """A small world: everybody linked to the `degree` nearest on a ring, each link moved with probability `rewire`.

    A moved link keeps one end and finds another at random. Watts & Strogatz, "Collective dynamics of small-world
    networks" (Nature 393, 1998); drawn again until everybody is reached. The number of links stays n * degree / 2.

    Raises:
        UsageError: If degree is odd or not within 2..n-1, rewire is not within [0, 1], or draws keep falling apart.
    """
    at_least(n, 3, "small world", "Use path for two members.")
    if degree % 2 or not 2 <= degree <= n - 1:
        largest = (n - 1) // 2 * 2
        raise UsageError(
            f"couldn't make a small world of {n} members: {degree} links a member is impossible",
            hint=f"Choose an even degree from 2 to {largest}." if largest > 2 else "Choose degree 2.",
        )
    if not 0 <= rewire <= 1:
        raise UsageError(
            f"couldn't make a small world: a rewiring probability of {rewire} is impossible",
            hint="Choose one from 0 (a ring lattice) to 1 (random).",
        )
    rng = random.Random(f"watts-strogatz/{n}/{degree}/{rewire}/{seed}")  # noqa: S311 - a draw to be repeated, not a secret
    for _ in range(CONNECTED_ATTEMPTS_MAX):
        if (topology := _connected(n, _rewired(n, degree, rewire, rng))) is not None:
            return topology
    raise UsageError(
        f"couldn't find a connected small world of {n} members with {degree} links each in "
        f"{CONNECTED_ATTEMPTS_MAX} draws",
        hint="Choose a larger degree or less rewiring.",
    )


def _rewired(n: int, degree: int, rewire: float, rng: random.Random) -> list[Edge]:
    """One draw of Watts & Strogatz: lap by lap round the ring, nearest neighbours first, as they describe it."""
    linked: list[dict[int, None]] = [{} for _ in range(n)]  # dictionaries as sets that keep their order
    for hop in range(1, degree // 2 + 1):
        for i in range(n):
            j = (i + hop) % n
            linked[i][j] = linked[j][i] = None
    for hop in range(1, degree // 2 + 1):
        for i in range(n):
            j = (i + hop) % n
            if rng.random() >= rewire or len(linked[i]) == n - 1:
                continue  # kept, or i is linked to everybody and there is nowhere to move to
            free = [other for other in range(n) if other != i and other not in linked[i]]
            del linked[i][j], linked[j][i]
            to = free[int(rng.random() * len(free))]
            linked[i][to] = linked[to][i] = None
    return [(i, j) for i in range(n) for j in linked[i] if i < j]


def random_regular(n: int, degree: int, seed: int) -> Topology:
    """A random connected graph in which every member has `degree` links; the same seed gives the same graph.

    Steger & Wormald, "Generating random regular graphs quickly" (1999): pair up free link ends at random, refusing
    loops and double edges, and begin again when only refused pairs are left. Nearly every such graph of degree 3 or
    more is an expander (Friedman, 2008): a gap that does not shrink with n for a constant number of links.

    Raises:
        UsageError: If no such graph exists: n * degree odd, degree outside 1..n-1, or degree 1 with n > 2.
    """
    at_least(n, 2, "random regular graph", "Add a member.")
    if not 1 <= degree <= n - 1:
        raise UsageError(
            f"couldn't make a random regular graph: degree {degree} is impossible with {n} members",
            hint=f"Choose a degree from {min(2, n - 1)} to {n - 1}.",
        )
    if n * degree % 2:
        raise UsageError(
            f"couldn't make a random regular graph: {n} members with {degree} links each leave one link end over",
            hint=f"Choose {_even_degrees(n, degree)} links, or {n - 1} or {n + 1} members.",
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
        if (topology := _connected(n, edges)) is not None:
            return topology
    raise UsageError(
        f"couldn't find a connected graph of {n} members with {degree} links each in {ATTEMPTS_MAX} tries",
        hint="Choose a larger degree.",
    )


def _even_degrees(n: int, degree: int) -> str:
    """The nearest degrees that an odd number of members can all have: "2 or 4"."""
    return " or ".join(str(other) for other in (degree - 1, degree + 1) if 2 <= other <= n - 1)


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


def _connected(n: int, edges: list[Edge]) -> Topology | None:
    """The topology, or None if the draw fell into pieces."""
    linked: list[list[int]] = [[] for _ in range(n)]
    for a, b in edges:
        linked[a].append(b)
        linked[b].append(a)
    return Topology.from_edges(n, edges) if all(reached(linked)) else None


def at_least(n: int, least: int, what: str, hint: str) -> None:
    """Refuse a family of fewer than `least` members or more than `NODES_MAX`, before anything is drawn.

    Raises:
        UsageError: Saying so, with the hint.
    """
    if n > NODES_MAX:
        raise UsageError(
            f"couldn't make a {what} of {n} members: it must have {least} to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )
    if n < least:
        raise UsageError(f"couldn't make a {what} of {n} members: it needs at least {least}", hint=hint)
