"""What is known of a topology before anybody trains on it: how it is drawn, how fast it agrees, what its losses cost.

A simulation's report shows this beside what the runs measured. All of it follows from the schedule and the size of what
a member sends; nothing here knows models, data or results.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import networkx as nx
import numpy as np
from numpy.typing import NDArray

from node.simulation.diagrams import DRAWN_MAX, Network
from node.simulation.layout import positions
from topologies import resilience, spectrum, traffic
from topologies.graph import Edge
from topologies.mixing import Promise, Schedule
from topologies.resilience import Loss, Resilience

EIGEN_NODES_MAX = 512
"""Most members whose eigenvalues are drawn: beyond, the disk is one blot, and LAPACK takes seconds."""

DRAWN_ROUNDS = 64
"""Rounds whose mean stands for a schedule that is drawn anew each round."""

PAIRS_NODES_MAX = 64
"""Most members of which every pair is taken away: 2,016 eigenvalue problems, some seconds for each topology."""

GATEWAY_FACTOR = 2.0
"""A gateway lies on at least so many times as many shortest paths between others as the mean member does."""

DECAY_ROUNDS = 60
"""Rounds over which agreement by gossip alone is drawn."""

NEAR = 1e-3
"""The relative consensus distance to which rounds are counted: models that near act alike."""

NEAR_ROUNDS = 2_500
"""Exchanges for which it is waited: a ring of 64 needs 2,144 by theory, and fewer."""

DECAY_FLOOR = 1e-9
"""Relative distance below which members agree for all purposes, and the drawing ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Structure:
    """A schedule, looked at.

    Attributes:
        schedule: Itself.
        links: Different links used over its rounds.
        degree: Least and most links of a member.
        hops: Diameter and mean distance in links, of all links together.
        network: How it is drawn; None above `DRAWN_MAX` members.
        eigen: Eigenvalues and rates; None where it has none to speak of.
        decay: Relative consensus distance of random vectors before the first round and after each.
        near: Rounds until theirs is at most `NEAR`; None where that takes more than `NEAR_ROUNDS`, or is not measured.
        losses: What losing members or links would cost; None where nobody knows.
        copies: Copies a round that a member sends: in the mean, and the busiest one.
    """

    schedule: Schedule
    links: int
    degree: tuple[int, int]
    hops: spectrum.Hops
    network: Network | None
    eigen: Spectrum | None
    decay: tuple[float, ...]
    near: int | None
    losses: Resilience | None
    copies: tuple[float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Spectrum:
    """The eigenvalues of a round, of a period's product or of the mean round, and the rates they predict.

    Attributes:
        eigenvalues: As complex numbers, the trivial 1 among them.
        of: What matrix they belong to, in words.
        second: The second largest modulus among them (SLEM).
        predicted: What a round leaves of the consensus distance in the long run, by the spectrum.
        measured: The same, measured on random vectors.
    """

    eigenvalues: tuple[complex, ...]
    of: str
    second: float
    predicted: float
    measured: float


def structure(
    schedule: Schedule,
    names: tuple[str, ...],
    *,
    copy_bytes: float,
    carried: Mapping[Edge, float] = MappingProxyType({}),
    known: Resilience | None = None,
) -> Structure:
    """Look at a schedule.

    Args:
        schedule: Which.
        names: Of the members.
        copy_bytes: What a member sends to one other in an exchange.
        carried: Mean bytes a round over links where it was measured; elsewhere it follows from the schedule.
        known: The losses of a swarm so large that they are not worked out here again.
    """
    assert len(names) == schedule.n, "one name for each member"
    links = schedule.links
    load = traffic.load(schedule, schedule.period or traffic.SAMPLED_ROUNDS)
    degrees = [links.degree(node) for node in range(links.n)]
    eigen = _spectrum(schedule)
    decay, near = _decay(schedule, eigen)
    return Structure(
        schedule=schedule,
        links=len(links.edges),
        degree=(min(degrees), max(degrees)),
        hops=spectrum.hops(links),
        network=_network(schedule, names, load, copy_bytes, carried) if links.n <= DRAWN_MAX else None,
        eigen=eigen,
        decay=decay,
        near=near,
        losses=resilience.examine(links) if links.n <= PAIRS_NODES_MAX else known,
        copies=(load.mean / load.rounds, load.worst / load.rounds),
    )


def _network(
    schedule: Schedule, names: tuple[str, ...], load: traffic.Load, copy_bytes: float, carried: Mapping[Edge, float]
) -> Network:
    links = schedule.links
    reckoned = load.link_bytes_per_round(copy_bytes)
    used: dict[tuple[int, int], int] = {}
    for mixing in schedule.mixings(load.rounds):
        for pair in mixing.pairs:
            used[pair] = used.get(pair, 0) + 1
    return Network(
        names=names,
        places=positions(links),
        load={link: carried.get(link, reckoned.get(link, 0.0)) for link in links.edges},
        often={link: used.get(link, 0) / load.rounds for link in links.edges},
        gateways=_gateways(schedule),
        alone=frozenset(resilience.find_articulation(links)),
        bridges=frozenset(resilience.find_bridges(links)),
    )


def _gateways(schedule: Schedule) -> frozenset[int]:
    """Members on many of the shortest paths between others: betweenness (Freeman, 1977) well above the mean."""
    between: dict[int, float] = nx.betweenness_centrality(schedule.links.to_networkx())
    mean = sum(between.values()) / len(between)
    return frozenset(node for node, share in between.items() if share > 0 and share >= GATEWAY_FACTOR * mean)


def _spectrum(schedule: Schedule) -> Spectrum | None:
    if schedule.n == 1 or schedule.n > EIGEN_NODES_MAX or schedule.states > 1:
        return None
    matrix, of = _matrix(schedule)
    symmetric = np.allclose(matrix, matrix.T, rtol=0, atol=1e-12)
    values = np.linalg.eigvalsh(matrix) if symmetric else np.linalg.eigvals(matrix)
    eigenvalues = [complex(value) for value in values]
    trivial = int(np.argmin([abs(value - 1) for value in eigenvalues]))
    second = max(abs(value) for i, value in enumerate(eigenvalues) if i != trivial)
    return Spectrum(
        eigenvalues=tuple(eigenvalues),
        of=of,
        second=second,
        predicted=spectrum.rate(schedule).asymptotic,
        measured=spectrum.measured_rate(schedule),
    )


def _matrix(schedule: Schedule) -> tuple[NDArray[np.float64], str]:
    if schedule.period == 1:
        return schedule.mixing(0).dense(), "of one round"
    if schedule.period is None:
        mean = sum((mixing.dense() for mixing in schedule.mixings(DRAWN_ROUNDS)), np.zeros((schedule.n, schedule.n)))
        return mean / DRAWN_ROUNDS, f"of the mean of {DRAWN_ROUNDS} drawn rounds"
    product = np.eye(schedule.n)
    for mixing in schedule.mixings(schedule.period):
        product = mixing.apply(product)
    return product, f"of all {schedule.period} rounds of a period together"


def _decay(schedule: Schedule, eigen: Spectrum | None) -> tuple[tuple[float, ...], int | None]:
    """Return what is left of the distance of random vectors, as far as it is drawn, and after how many rounds `NEAR`.

    It goes on beyond the drawing where theory says that it leads there in `NEAR_ROUNDS`.
    """
    if schedule.states > 1 or schedule.promise is Promise.PRODUCT:
        return (), None  # half-way states are no averages: there is no distance to speak of
    awaited = eigen is not None and eigen.predicted**NEAR_ROUNDS <= NEAR
    x_ND = np.random.default_rng(0).standard_normal((schedule.n, spectrum.MEASURED_COLUMNS))  # noqa: N806 - shape suffix
    found: list[float] = []
    near: int | None = None
    for t, left in enumerate(spectrum.distances(schedule.mixings(NEAR_ROUNDS), x_ND)):
        near = t if near is None and left <= NEAR else near
        if t <= DECAY_ROUNDS and (not found or found[-1] > DECAY_FLOOR):
            found.append(max(left, DECAY_FLOOR))
        if t >= DECAY_ROUNDS and (near is not None or not awaited):
            break
        if left <= DECAY_FLOOR:
            break
    return tuple(found), near


def loss_words(loss: Loss, before: float, names: tuple[str, ...], *, named: bool = True) -> str:
    """Return in words what is left after a loss, given the spectral gap before it; with or without who is cut off."""
    left = f"{len(names)} sites" if loss.link is not None else f"{len(names) - len(loss.members)} others"
    if loss.is_disconnected:
        cut = [names[node] for node in loss.cut_off]
        who = ", ".join(cut[:3]) + (f" and {len(cut) - 3} more" if len(cut) > 3 else "")
        return f"cuts off {len(cut)} of the {left}{f': {who}' if named else ''}"
    if before <= 0 or loss.gap <= 0:
        return "all others still reach each other"
    slower = before / loss.gap
    if slower < 1.05:
        return "all others still reach each other, and agree as fast"
    return f"all others still reach each other, but need about {slower:.1f} times as many rounds to agree"
