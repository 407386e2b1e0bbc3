"""Schedules drawn anew every round from a seed that all members share: random matchings, epidemic learning, EquiDyn.

They have no period and no exact end, but mix at a rate that does not depend on the number of members, for one or a few
copies a round: the choice for swarms of thousands. Every member computes the round's graph by itself, from a hash of
(seed, round, membership), see `topologies.chance`; a change of membership deals new cards to everybody at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

from swarm.errors import UsageError
from topologies import chance
from topologies.families import complete
from topologies.graph import NODES_MAX
from topologies.mixing import Promise, Row, Schedule

ROUNDS_KEPT = 16
"""Drawn rounds that are remembered: a simulation asks for every row of a round before it goes to the next."""

GRAPH_ATTEMPTS_MAX = 1000
"""Tries at one round's random regular graph; a try fails only when the last link ends fit nowhere, which is rare."""

_MATCHING = "Boyd, Ghosh, Prabhakar & Shah, Randomized Gossip Algorithms, IEEE Trans. Inf. Theory 52(6), 2006"
_EPIDEMIC = (
    "de Vos, Farhadkhani, Guerraoui, Kermarrec, Pires & Sharma, Epidemic Learning, NeurIPS 2023, arXiv 2310.01972"
)
_EQUITOPO = "Song, Li, Jin, Shi, Yan, Yin & Yuan, Communication-Efficient Topologies, NeurIPS 2022, arXiv 2210.07881"


def random_matching(n: int, seed: int = 0, membership: bytes = b"") -> Schedule:
    """Every round pairs all members at random, weights 1/2 and 1/2; with n odd one sits out.

    Randomized gossip (Boyd, Ghosh, Prabhakar & Shah, 2006) with all pairs at once. Symmetric, so a pair that fails
    skips and the mean survives. The expected squared distance from the mean shrinks by (n - 2) / (2 (n - 1)) a round
    for even n, since W is then a projection with E[W] = I/2 + (J - I) / (2 (n - 1)), J all ones.
    """
    _size(n, 1, "random matching")

    def rule(t: int, node: int) -> Row:
        partner = _matching(n, chance.key("matching", seed, t, membership))[node]
        return ((node, 1.0),) if partner == node else _shares((node, partner), 0.5)

    return Schedule(
        name="random_matching",
        n=n,
        reference=_MATCHING,
        period=None,
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=n - 1 if n <= 2 else None,
        rule=rule,
        union=lambda: complete(n),
    )


def el_oracle(n: int, degree: int, seed: int = 0, membership: bytes = b"") -> Schedule:
    """EL-Oracle: a new random regular graph every round, weights 1 / (degree + 1).

    De Vos et al., "Epidemic Learning: Boosting Decentralized Learning with Randomized Communication" (NeurIPS 2023),
    with the oracle as sampler; the shared seed takes the place of the oracle. Symmetric, doubly stochastic.

    Raises:
        UsageError: If no graph of that degree exists: n * degree odd, or degree outside 1..n-1.
    """
    _size(n, 2, "epidemic schedule")
    _degree(n, degree)
    if n * degree % 2:
        raise UsageError(
            f"couldn't make an epidemic schedule: {n} members with {degree} links each leave one link end over",
            hint=f"Choose {degree + 1 if degree < n - 1 else degree - 1} links, or el_local, where senders decide.",
        )

    def rule(t: int, node: int) -> Row:
        return _shares((node, *_regular(n, degree, chance.key("oracle", seed, t, membership))[node]), 1 / (degree + 1))

    return Schedule(
        name="el_oracle",
        n=n,
        reference=_EPIDEMIC,
        period=None,
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=None,
        rule=rule,
        union=lambda: complete(n),
    )


def el_local(
    n: int, degree: int, seed: int = 0, membership: bytes = b"", weights: Literal["column", "row"] = "column"
) -> Schedule:
    """EL-Local: every member sends to `degree` others of its own choice; how many it hears from is chance.

    De Vos et al. (2023), with local sampling. The paper's receivers take 1 / (received + 1) of each
    (`weights="row"`): members then agree, but on a value that is off by a few per cent of their initial spread. So the
    default is `"column"`: every sender splits itself into degree + 1 equal parts, and push-sum reaches the mean.

    Raises:
        UsageError: If degree is outside 1..n-1.
    """
    _size(n, 2, "epidemic schedule")
    _degree(n, degree)

    def rule(t: int, node: int) -> Row:
        heard = _heard(n, degree, chance.key("local", seed, t, membership))[node]
        return _shares((node, *heard), 1 / (degree + 1 if weights == "column" else len(heard) + 1))

    return Schedule(
        name="el_local" if weights == "column" else "el_local_row",
        n=n,
        reference=_EPIDEMIC,
        period=None,
        promise=Promise.COLUMN if weights == "column" else Promise.ROW,
        symmetric=False,
        exact_after=None,
        rule=rule,
        union=lambda: complete(n),
        sent=lambda t, node: _told(n, degree, chance.key("local", seed, t, membership), node),
    )


def od_equidyn(
    n: int, eta: float = 0.5, seed: int = 0, membership: bytes = b"", shifts: Sequence[int] | None = None
) -> Schedule:
    """OD-EquiDyn: everybody sends to i + u (mod n) with one u a round, drawn from all shifts or from the given ones.

    Song et al., "Communication-Efficient Topologies for Decentralized Learning with O(1) Consensus Rate" (NeurIPS
    2022): W = (1 - eta) I + eta A_u with A_u = (n-1)/n on the shift and 1/n on the diagonal. Directed, doubly
    stochastic; the rate in expectation does not depend on n.

    Args:
        n: Members.
        eta: Share that is exchanged, above 0 and below 1.
        seed: Shared by all members.
        membership: A digest of who they are.
        shifts: Basis to draw from, such as the shifts of a `d_equistatic`; None for 1 to n - 1.

    Raises:
        UsageError: If eta or a shift is out of range.
    """
    _size(n, 2, "EquiDyn schedule")
    basis = _basis(n, eta, shifts)

    def shift(t: int) -> int:
        return basis[chance.Draw(chance.key("od-equidyn", seed, t, membership)).below(len(basis))]

    def rule(t: int, node: int) -> Row:
        moved = eta * (n - 1) / n
        return tuple(sorted([(node, 1 - moved), ((node - shift(t)) % n, moved)]))

    return Schedule(
        name="od_equidyn",
        n=n,
        reference=_EQUITOPO,
        period=None,
        promise=Promise.DOUBLY,
        symmetric=n == 2,
        exact_after=None,
        rule=rule,
        union=lambda: complete(n),
        sent=lambda t, node: ((node + shift(t)) % n,),
    )


def ou_equidyn(
    n: int, eta: float = 0.5, seed: int = 0, membership: bytes = b"", shifts: Sequence[int] | None = None
) -> Schedule:
    """OU-EquiDyn: one partner each. From a random start on, i pairs with i + u (mod n) where both are still free.

    Song et al. (2022); weights as in `od_equidyn`, and 1 for a member that stays alone. Symmetric.

    Raises:
        UsageError: If eta or a shift is out of range.
    """
    _size(n, 2, "EquiDyn schedule")
    basis = _basis(n, eta, shifts)

    def rule(t: int, node: int) -> Row:
        partner = _shifted(n, basis, chance.key("ou-equidyn", seed, t, membership))[node]
        moved = eta * (n - 1) / n
        return ((node, 1.0),) if partner == node else tuple(sorted([(node, 1 - moved), (partner, moved)]))

    return Schedule(
        name="ou_equidyn",
        n=n,
        reference=_EQUITOPO,
        period=None,
        promise=Promise.DOUBLY,
        symmetric=True,
        exact_after=None,
        rule=rule,
        union=lambda: complete(n),
    )


@lru_cache(maxsize=ROUNDS_KEPT)
def _matching(n: int, draw_key: bytes) -> tuple[int, ...]:
    """Everybody's partner; a member without one is its own."""
    order = chance.Draw(draw_key).shuffled(range(n))
    partner = list(range(n))
    for a, b in zip(order[::2], order[1::2], strict=False):  # an odd member is left at the end
        partner[a], partner[b] = b, a
    return tuple(partner)


@lru_cache(maxsize=ROUNDS_KEPT)
def _shifted(n: int, basis: tuple[int, ...], draw_key: bytes) -> tuple[int, ...]:
    """Everybody's partner in a round of OU-EquiDyn."""
    draw = chance.Draw(draw_key)
    shift, start = basis[draw.below(len(basis))], draw.below(n)
    partner = list(range(n))
    for step in range(n):
        i = (start + step) % n
        j = (i + shift) % n
        if partner[i] == i and partner[j] == j:
            partner[i], partner[j] = j, i
    return tuple(partner)


@lru_cache(maxsize=ROUNDS_KEPT)
def _regular(n: int, degree: int, draw_key: bytes) -> tuple[tuple[int, ...], ...]:
    """Everybody's neighbours in a random regular graph (Steger & Wormald, 1999); it may be in several pieces."""
    draw = chance.Draw(draw_key)
    for _ in range(GRAPH_ATTEMPTS_MAX):
        linked = _pairing(n, degree, draw)
        if linked is not None:
            return tuple(tuple(sorted(row)) for row in linked)
    raise UsageError(
        f"couldn't find a graph of {n} members with {degree} links each in {GRAPH_ATTEMPTS_MAX} tries",
        hint="Choose another degree.",
    )


def _pairing(n: int, degree: int, draw: chance.Draw) -> list[list[int]] | None:
    linked: list[list[int]] = [[] for _ in range(n)]
    ends = [node for node in range(n) for _ in range(degree)]
    while ends:
        order = draw.shuffled(ends)
        left: list[int] = []
        for a, b in zip(order[::2], order[1::2], strict=True):
            if a == b or b in linked[a]:
                left += (a, b)
            else:
                linked[a].append(b)
                linked[b].append(a)
        free = sorted(set(left))
        if len(left) == len(ends) and all(b in linked[a] for i, a in enumerate(free) for b in free[i + 1 :]):
            return None
        ends = left
    return linked


@lru_cache(maxsize=NODES_MAX)
def _told(n: int, degree: int, draw_key: bytes, node: int) -> tuple[int, ...]:
    """The targets of one member: it needs nobody else's draw."""
    draw = chance.Draw(chance.key("member", node, 0, draw_key))
    return tuple(other + (other >= node) for other in draw.sample(n - 1, degree))


@lru_cache(maxsize=ROUNDS_KEPT)
def _heard(n: int, degree: int, draw_key: bytes) -> tuple[tuple[int, ...], ...]:
    """Everybody's sources, ascending."""
    heard: list[list[int]] = [[] for _ in range(n)]
    for node in range(n):
        for target in _told(n, degree, draw_key, node):
            heard[target].append(node)
    return tuple(map(tuple, heard))


def _shares(nodes: Sequence[int], share: float) -> Row:
    return tuple((node, share) for node in sorted(nodes))


def _basis(n: int, eta: float, shifts: Sequence[int] | None) -> tuple[int, ...]:
    if not 0 < eta < 1:
        raise UsageError(
            f"couldn't make an EquiDyn schedule: a step of eta = {eta} is impossible", hint="Choose it between 0 and 1."
        )
    basis = tuple(range(1, n) if shifts is None else shifts)
    if not basis or not all(1 <= shift < n for shift in basis):
        raise UsageError(
            f"couldn't make an EquiDyn schedule of {n} members: a shift is out of range, or there is none",
            hint=f"Choose shifts from 1 to {n - 1}.",
        )
    return basis


def _size(n: int, least: int, what: str) -> None:
    if not least <= n <= NODES_MAX:
        raise UsageError(
            f"couldn't make a {what} of {n} members: it must have {least} to {NODES_MAX}",
            hint="Choose the number of members in that range.",
        )


def _degree(n: int, degree: int) -> None:
    if not 1 <= degree <= n - 1:
        raise UsageError(
            f"couldn't make an epidemic schedule: {degree} links a round are impossible with {n} members",
            hint=f"Choose 1 to {n - 1}.",
        )
