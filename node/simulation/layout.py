"""Where to draw each member of a topology, so that the drawing shows its shape and not the algorithm's luck.

Three ways, tried in this order. A graph that looks the same from every member, or has links beyond drawing apart, goes
on a circle in member order: rings, exponential graphs, the union of a one-peer schedule. A tree grows outward from its
middle. Anything else is laid out so that distances on paper are distances in links: stress majorization (Gansner, Koren
& North, "Graph drawing by stress majorization", 2004) from the start that classical scaling gives (Torgerson, 1952).
The same topology is drawn the same way each time; nothing here is random.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from topologies.graph import Topology

DENSE = 0.4
"""Share of all pairs from which links cover each other wherever members stand: then a circle is the honest picture."""

ITERATIONS_MAX = 200
SETTLED = 1e-5
"""Relative change of the stress at which it is done."""


def positions(topology: Topology) -> NDArray[np.float64]:
    """Return a place for each member, shape (n, 2), within -1 to 1, y downwards as in a picture."""
    n = topology.n
    if n == 1:
        return np.zeros((1, 2))
    pairs = n * (n - 1) / 2
    if _is_circulant(topology) or len(topology.edges) > DENSE * pairs:
        return _circle(n)
    place_N2 = _radial(topology) if len(topology.edges) == n - 1 else _by_stress(topology)  # noqa: N806 - shape suffix
    return _fitted(place_N2)


def _is_circulant(topology: Topology) -> bool:
    """Whether moving everybody one place on leaves the links as they are."""
    edges = set(topology.edges)
    moved = (((a + 1) % topology.n, (b + 1) % topology.n) for a, b in topology.edges)
    return topology.n > 2 and all((min(edge), max(edge)) in edges for edge in moved)


def _circle(n: int) -> NDArray[np.float64]:
    """Member 0 at the top, then clockwise."""
    angle = 2 * math.pi * np.arange(n) / n
    return np.column_stack([np.sin(angle), -np.cos(angle)])


def _radial(tree: Topology) -> NDArray[np.float64]:
    """Root in the middle, each level on a circle of its own, and to each subtree an angle as large as its leaves."""
    hops = _hops(tree)
    root = int(hops.max(axis=1).argmin())
    depth = hops[root]
    children = [[other for other in tree.neighbours(node) if depth[other] > depth[node]] for node in range(tree.n)]
    leaves = np.ones(tree.n)
    for node in sorted(range(tree.n), key=lambda node: -depth[node]):
        if children[node]:
            leaves[node] = sum(leaves[child] for child in children[node])
    place_N2 = np.zeros((tree.n, 2))  # noqa: N806 - shape suffix
    wedges = [(root, 0.0, 2 * math.pi)]
    while wedges:
        node, start, width = wedges.pop()
        middle = start + width / 2
        place_N2[node] = depth[node] * math.sin(middle), -depth[node] * math.cos(middle)
        for child in children[node]:
            part = width * leaves[child] / leaves[node]
            wedges.append((child, start, part))
            start += part
    return place_N2


def _by_stress(topology: Topology) -> NDArray[np.float64]:
    """Minimise the sum of (distance on paper - links between)^2 / links^2 over pairs, by majorization."""
    goal = _hops(topology).astype(np.float64)
    n = topology.n
    away = ~np.eye(n, dtype=bool)
    weight = np.zeros_like(goal)
    weight[away] = goal[away] ** -2
    inverse = np.linalg.pinv(np.diag(weight.sum(axis=1)) - weight)
    place_N2 = _scaled_classically(goal)  # noqa: N806 - shape suffix
    before = math.inf
    for _ in range(ITERATIONS_MAX):
        apart = np.linalg.norm(place_N2[:, None] - place_N2[None], axis=2)
        stress = float((weight * (apart - goal) ** 2).sum())
        if before - stress <= SETTLED * stress:
            break
        before = stress
        pull = np.where(apart > 1e-9, weight * goal / np.maximum(apart, 1e-9), 0.0)
        place_N2 = inverse @ ((np.diag(pull.sum(axis=1)) - pull) @ place_N2)  # noqa: N806 - shape suffix
    return place_N2


def _scaled_classically(goal: NDArray[np.float64]) -> NDArray[np.float64]:
    squared = goal**2
    centred = squared - squared.mean(axis=0) - squared.mean(axis=1, keepdims=True) + squared.mean()
    values, vectors = np.linalg.eigh(-0.5 * centred)
    start: NDArray[np.float64] = vectors[:, -2:][:, ::-1] * np.sqrt(np.maximum(values[-2:][::-1], 1e-3))
    # Members with the same links would start on one spot and never part: a golden spiral keeps them apart.
    turn = np.arange(len(goal)) * math.pi * (3 - math.sqrt(5))
    return start + 0.05 * np.column_stack([np.cos(turn), np.sin(turn)])


def _fitted(place_N2: NDArray[np.float64]) -> NDArray[np.float64]:  # noqa: N803 - shape suffix
    """Turned so that the longest way lies across, and as large as fits, its shape unchanged."""
    centred = place_N2 - place_N2.mean(axis=0)
    _, _, axes = np.linalg.svd(centred, full_matrices=False)
    turned = centred @ axes.T
    # An eigenvector's sign is chance: the first member that is not in the middle stands on the upper left.
    for axis in range(2):
        off = turned[np.abs(turned[:, axis]) > 1e-6 * np.abs(turned).max(), axis]
        if len(off) and off[0] > 0:
            turned[:, axis] *= -1
    turned -= (turned.max(axis=0) + turned.min(axis=0)) / 2
    fitted: NDArray[np.float64] = turned / np.abs(turned).max()
    return fitted


def _hops(topology: Topology) -> NDArray[np.int64]:
    """Links between each two members, shape (n, n), by a breadth-first search from all at once."""
    linked = np.eye(topology.n, dtype=bool)
    for low, high in topology.edges:
        linked[low, high] = linked[high, low] = True
    far = np.zeros((topology.n, topology.n), dtype=np.int64)
    reached = np.eye(topology.n, dtype=bool)
    while not reached.all():
        far += ~reached
        reached = (reached.astype(np.float32) @ linked) > 0
    return far
