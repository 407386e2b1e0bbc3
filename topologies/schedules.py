"""Every schedule by name, and those that are a matrix or a few repeated for ever.

Where to look: `topologies.mixing` says what a schedule is, `topologies.finite` holds those that end in the exact mean,
`topologies.epidemic` those drawn anew each round. This file adds the static ones, Moshpit's grid and one's own, and is
the place to import any of them from.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from topologies import chance, families, weights
from topologies.epidemic import el_local, el_oracle, od_equidyn, ou_equidyn, random_matching
from topologies.finite import base, ceca, fold, hyper_hypercube, one_peer_exponential, one_peer_hypercube
from topologies.graph import NODES_MAX, Edge, Topology
from topologies.mixing import TOLERANCE, Mixing, Promise, RatioRow, Row, Schedule, joined, log2_ceil

__all__ = [
    "SCHEDULES",
    "Mixing",
    "Promise",
    "RatioRow",
    "Row",
    "Schedule",
    "base",
    "build",
    "ceca",
    "d_equistatic",
    "directed",
    "el_local",
    "el_oracle",
    "fold",
    "hyper_hypercube",
    "moshpit",
    "names",
    "od_equidyn",
    "one_peer_exponential",
    "one_peer_hypercube",
    "ou_equidyn",
    "periodic",
    "random_matching",
    "static",
    "static_exponential",
    "u_equistatic",
]

EQUISTATIC_ATTEMPTS_MAX = 1000
"""Draws of shifts until they connect everybody; with prime n every draw does, and else most."""


def static(topology: Topology, w_NN: NDArray[np.float64] | None = None, *, name: str = "static") -> Schedule:  # noqa: N803 - shape suffix
    """The same symmetric mixing over the same links every round.

    Args:
        topology: The links.
        w_NN: Shape (n, n), symmetric, rows summing to 1; None for Metropolis-Hastings. Negative weights are allowed
            (`weights.best_constant` has them), as they keep the mean too.
        name: What to call it.

    Raises:
        UsageError: If the matrix is of another size, is not as said, or weighs a pair that is not linked.
    """
    matrix = weights.metropolis_hastings(topology) if w_NN is None else w_NN
    if matrix.shape != (topology.n, topology.n):
        raise UsageError(f"couldn't mix {topology.n} members: the matrix has shape {matrix.shape}")
    mixing = Mixing.from_dense(matrix)
    # Asked of the matrix itself: of a complete graph of thousands the mixing would have to sort millions of entries.
    if not np.allclose(matrix, matrix.T, rtol=0, atol=TOLERANCE) or not np.allclose(
        mixing.row_sums, 1, rtol=0, atol=TOLERANCE
    ):
        raise UsageError(
            f"couldn't make the schedule {name}: its matrix is not symmetric with rows that sum to 1",
            hint="Use weights.metropolis_hastings; weights.uniform keeps the mean on regular graphs only.",
        )
    strange = np.triu(matrix != 0, 1)
    strange[topology.ends[:, 0], topology.ends[:, 1]] = False
    if strange.any():
        low, high = divmod(int(strange.argmax()), topology.n)
        raise UsageError(f"couldn't make the schedule {name}: {low} and {high} have a weight but no link")
    positive = bool((mixing.weights >= 0).all())
    return Schedule(
        name=name,
        n=topology.n,
        reference="Xiao & Boyd, Fast linear iterations for distributed averaging, Systems & Control Letters 53, 2004",
        period=1,
        promise=Promise.DOUBLY if positive else Promise.MEAN,
        symmetric=True,
        exact_after=0 if topology.n == 1 else None,
        rule=lambda _, node: mixing.row(node),
        union=lambda: topology,
        whole=lambda _: mixing,
    )


def periodic(mixings: Sequence[Mixing], *, name: str = "periodic", reference: str = "the caller") -> Schedule:
    """One's own rounds, repeated for ever. What they promise is read off them, not believed.

    Raises:
        UsageError: If there is none, their sizes differ, a column does not sum to 1 or a weight is negative, or all of
            them together do not connect everybody.
    """
    rounds = tuple(mixings)
    if not rounds or any((one.n, one.slots) != (rounds[0].n, rounds[0].n) for one in rounds):
        raise UsageError(
            f"couldn't make the schedule {name}: it needs at least one round, and all of the same members",
            hint="Give every round one row for every member.",
        )
    for t, one in enumerate(rounds):
        if not one.is_column_stochastic:
            raise UsageError(
                f"couldn't make the schedule {name}: the columns of round {t} do not sum to 1, which loses the mean",
                hint="Let every member give away exactly all of itself, what it keeps included.",
            )
    links = joined(rounds[0].n, rounds)
    return Schedule(
        name=name,
        n=rounds[0].n,
        reference=reference,
        period=len(rounds),
        promise=Promise.DOUBLY if all(one.is_row_stochastic for one in rounds) else Promise.COLUMN,
        symmetric=all(one.is_symmetric for one in rounds),
        exact_after=None,
        rule=lambda t, node: rounds[t].row(node),
        union=lambda: links,
        whole=lambda t: rounds[t],
    )


def directed(n: int, arcs: Iterable[Edge], *, name: str = "directed") -> Schedule:
    """Links of one direction, the same every round, each sender in equal parts: for push-sum.

    See `weights.column_stochastic` for the source.

    Raises:
        UsageError: If an arc is out of range, or somebody cannot be reached along the arcs.
    """
    mixing = weights.column_stochastic(n, arcs)
    return periodic([mixing], name=name, reference="Kempe, Dobra & Gehrke, Gossip-based computation, FOCS 2003")


def static_exponential(n: int) -> Schedule:
    """Member i sends to i + 2^k (mod n) for all 2^k < n, every round, weights 1 / (1 + ceil(log2 n)).

    Ying et al., "Exponential Graph is Provably Efficient for Decentralized Deep Training" (NeurIPS 2021).
    Directed, doubly stochastic. Its gap is 2 / (1 + ceil(log2 n)) for even n and more for odd n.
    """
    _size(n, 1, "static exponential schedule")
    hops = [1 << bit for bit in range(log2_ceil(n))]
    return _circulant(
        n,
        hops,
        {0: Fraction(1, 1 + len(hops)), **dict.fromkeys(hops, Fraction(1, 1 + len(hops)))},
        name="static_exponential",
        reference="Ying et al., Exponential Graph is Provably Efficient, NeurIPS 2021, arXiv 2110.13363",
    )


def d_equistatic(n: int, degree: int | None = None, seed: int = 0) -> Schedule:
    """D-EquiStatic: `degree` random shifts u, every member sending to i + u (mod n) for each; a rate that ignores n.

    Song et al., "Communication-Efficient Topologies for Decentralized Learning with O(1) Consensus Rate" (NeurIPS
    2022): W is the mean of M matrices A_u with (n-1)/n on the shift u and 1/n on the diagonal, u drawn with
    replacement. M of order ln n suffices; the default is ceil(ln n) + 1. Directed, doubly stochastic.

    Raises:
        UsageError: If n < 2, or degree < 1.
    """
    return _equistatic(n, degree, seed, both=False)


def u_equistatic(n: int, degree: int | None = None, seed: int = 0) -> Schedule:
    """U-EquiStatic: (W + W^T) / 2 of a D-EquiStatic W with `degree` shifts, so up to 2 * degree links; symmetric.

    Song et al. (2022).

    Raises:
        UsageError: If n < 2, or degree < 1.
    """
    return _equistatic(n, degree, seed, both=True)


def _equistatic(n: int, degree: int | None, seed: int, *, both: bool) -> Schedule:
    _size(n, 2, "EquiStatic schedule")
    count = math.ceil(math.log(n)) + 1 if degree is None else degree
    if count < 1:
        raise UsageError(
            f"couldn't make an EquiStatic schedule with {count} shifts: it needs at least 1",
            hint=f"Choose {math.ceil(math.log(n)) + 1}, or leave the choice to it.",
        )
    shifts = _shifts(n, count, seed)
    shares: dict[int, Fraction] = {0: Fraction(1, n)}
    for shift in shifts:
        for hop in (shift, n - shift) if both else (shift, shift):
            shares[hop] = shares.get(hop, Fraction(0)) + Fraction(n - 1, 2 * count * n)
    return _circulant(
        n,
        [hop for hop in sorted(shares) if hop],
        shares,
        name="u_equistatic" if both else "d_equistatic",
        reference="Song et al., Communication-Efficient Topologies, NeurIPS 2022, arXiv 2210.07881",
    )


def _shifts(n: int, count: int, seed: int) -> list[int]:
    """Shifts that connect everybody: their greatest common divisor with n is 1."""
    for attempt in range(EQUISTATIC_ATTEMPTS_MAX):
        draw = chance.Draw(chance.key("equistatic", seed, attempt))
        shifts = [1 + draw.below(n - 1) for _ in range(count)]
        if math.gcd(n, *shifts) == 1:
            return shifts
    raise UsageError(
        f"couldn't find {count} shifts that connect {n} members in {EQUISTATIC_ATTEMPTS_MAX} draws", hint="Choose more."
    )


def _circulant(n: int, hops: Sequence[int], shares: Mapping[int, Fraction], *, name: str, reference: str) -> Schedule:
    """The static schedule in which everybody sends the share of each hop to the member so far ahead."""

    def rule(_: int, node: int) -> RatioRow:
        return tuple(sorted(((node - hop) % n, share) for hop, share in shares.items()))

    return Schedule(
        name=name,
        n=n,
        reference=reference,
        period=1,
        promise=Promise.DOUBLY,
        symmetric=all(shares.get((n - hop) % n) == share for hop, share in shares.items()),
        exact_after=0 if n == 1 else None,
        rule=rule,
        union=lambda: Topology.from_edges(n, ((i, (i + hop) % n) for i in range(n) for hop in hops)),
        sent=lambda _, node: tuple((node + hop) % n for hop in hops),
    )


def moshpit(n: int, side: int | None = None, dimensions: int = 2) -> Schedule:
    """Members in a grid of `dimensions` axes, `side` long; round t averages those whose places differ on axis t only.

    The grid of Ryabinin, Gorbunov, Plokhotnyuk & Pekhimenko, "Moshpit SGD" (NeurIPS 2021, arXiv 2103.03239), with fixed
    places, filled in order. Exact after `dimensions` rounds when n = side^dimensions; otherwise groups are of unequal
    size, and averaging in them keeps the mean and converges. By default the side is the smallest that holds everybody.

    Raises:
        UsageError: If the grid has no room for n members, or leaves somebody unreachable.
    """
    _size(n, 1, "Moshpit grid")
    if dimensions < 1:
        raise UsageError(f"couldn't make a Moshpit grid of {dimensions} dimensions", hint="Choose 2 or more.")
    if side is None:
        side = next(length for length in range(1, n + 1) if length**dimensions >= n)
    if side < 1 or side**dimensions < n:
        raise UsageError(
            f"couldn't place {n} members in a Moshpit grid of {side}^{dimensions}",
            hint=f"Choose a side of at least {next(length for length in range(1, n + 1) if length**dimensions >= n)}.",
        )
    length = side

    def group(t: int, node: int) -> tuple[int, ...]:
        stride = length**t
        first = node - node // stride % length * stride
        return tuple(place for place in range(first, min(n, first + length * stride), stride))

    def rule(t: int, node: int) -> RatioRow:
        members = group(t, node)
        return tuple((member, Fraction(1, len(members))) for member in members)

    return Schedule(
        name="moshpit",
        n=n,
        reference="Ryabinin, Gorbunov, Plokhotnyuk & Pekhimenko, Moshpit SGD, NeurIPS 2021, arXiv 2103.03239",
        period=dimensions,
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=0 if n == 1 else dimensions if n == length**dimensions else None,
        rule=rule,
        union=lambda: Topology.from_edges(
            n, ((i, j) for t in range(dimensions) for i in range(n) for j in group(t, i) if i < j)
        ),
    )


SCHEDULES: Mapping[str, Callable[[int, int, int], Schedule]] = MappingProxyType(
    {
        "static_exponential": lambda n, _degree, _seed: static_exponential(n),
        "one_peer_exponential": lambda n, _degree, _seed: one_peer_exponential(n),
        "one_peer_hypercube": lambda n, _degree, _seed: one_peer_hypercube(n),
        "ceca": lambda n, _degree, _seed: ceca(n),
        "fold": lambda n, _degree, _seed: fold(n),
        "moshpit": lambda n, _degree, _seed: moshpit(n),
        "d_equistatic": lambda n, _degree, seed: d_equistatic(n, seed=seed),
        "u_equistatic": lambda n, _degree, seed: u_equistatic(n, seed=seed),
        "od_equidyn": lambda n, _degree, seed: od_equidyn(n, seed=seed),
        "ou_equidyn": lambda n, _degree, seed: ou_equidyn(n, seed=seed),
        "el_oracle": el_oracle,
        "el_local": el_local,
        "random_matching": lambda n, _degree, seed: random_matching(n, seed),
    }
)
"""The schedules that are not one topology for ever: (n, degree, seed) -> schedule. And `base2`, `base3`, ..."""

_BASE = re.compile(r"base([1-9][0-9]{0,3})")


def names() -> tuple[str, ...]:
    """Every name that `build` knows, ascending; `base3` and above follow the pattern of `base2`."""
    return tuple(sorted(["base2", "base3", "base4", "base5", *SCHEDULES, *families.FAMILIES, *families.SEEDED]))


def known(name: str) -> bool:
    """Whether `build` knows a name; for some numbers of members it may still have no schedule."""
    return name in SCHEDULES or name in families.FAMILIES or name in families.SEEDED or _base_of(name) is not None


def _base_of(name: str) -> int | None:
    """Return k + 1 of a Base-(k+1) schedule's name, or None."""
    found = _BASE.fullmatch(name)
    return int(found[1]) if found is not None and int(found[1]) >= 2 else None


def build(name: str, n: int, *, degree: int = 3, seed: int = 0, rule: str = "metropolis_hastings") -> Schedule:
    """Make the schedule that a charter, a scenario or a command line names.

    A family of `topologies.families` becomes a static schedule with the weights of `rule` (see `weights.RULES`).
    `degree` matters to random_regular, watts_strogatz, el_oracle and el_local; `seed` to everything drawn.

    Raises:
        UsageError: If there is nothing of that name, or not of that size.
    """
    if name in SCHEDULES:
        return SCHEDULES[name](n, degree, seed)
    if (found := _base_of(name)) is not None:
        return base(n, found - 1)
    if not known(name):
        raise UsageError(
            f"couldn't make the schedule: there is none named {name!r}", hint=f"Use one of {', '.join(names())}."
        )
    topology = families.build(name, n, degree=degree, seed=seed)
    return static(topology, weights.weigh(topology, rule), name=name)


def _size(n: int, least: int, what: str) -> None:
    if not least <= n <= NODES_MAX:
        raise UsageError(
            f"couldn't make a {what} of {n} members: it must have {least} to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )
