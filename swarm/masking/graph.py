"""Who masks with whom: everybody with everybody up to 30, beyond that with as many as it takes.

In a complete graph a member makes a mask and a share for each of the others, which grows with the square of the swarm.
Bell et al. ("Secure single-server aggregation with (poly)logarithmic overhead", 2020, section 3) show that neighbours
in a sparse random graph do, if three things hold for all members but with a negligible probability:

1. *One answer*: with `threshold` shares of either kind, two sets would take more answers than a member's neighbours and
   itself have, though all that collude among them answer for both. So those also have fewer shares than it takes.
2. *Recovery*: at least `threshold` of the neighbours of one that dropped out are still there.
3. *One sum*: the honest members that did not drop out are connected by masks among themselves, whoever it is that
   dropped out. (Else those who collude learn the sum of each component, not only that of all.)

The graph is theirs (Harary's on a random order, section 3.3): members stand in a circle and each is joined with the
degree / 2 next ones on either side. For a random order, colluders or the dropped among a member's neighbours are
hypergeometric. The circle falls apart only where degree / 2 in a row are gone in two places; as everybody knows the
order once there is a roster, whoever cuts members off is taken to choose them well. `shape` takes the least degree for
which union bounds over all members keep each of these below 2**-40, 2**-30 and 2**-40, in whole numbers, so that all
members get the same. How many may collude is what the ledger bears anyway, (n-1)//3 of the *swarm*, be the roster as
small as it may; how many drop out, a tenth, and a close of fewer is none.

The order is by SHA-256 of each member's id and a beacon, which is what the round before ended with: nobody could aim at
a place in it (but founders before the first round, when that is the model that all begin with). It is known from then
on, so honest members that are not on the roster are taken to have been kept from it by choice, too: those who collude
are counted in stretches of the whole swarm's circle that are longer by as many as are absent.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from swarm.errors import UsageError
from swarm.ledger.block import MEMBERS_MAX, faults

COMPLETE_MAX = 30
"""Members up to which all mask with all: in the time of two sums of their updates."""

SECRECY_BITS = 40
RECOVERY_BITS = 30

DROPPING_PERMILLE = 100
"""The share of a roster that may drop out of a sparse graph. A complete one bears n - threshold, whatever that is."""

FEWEST = 3
"""Members that a sum is of at least: of two, each would know the other's update."""

_ORDER_DOMAIN = b"swarm-masking/order/v1\0"


@dataclass(frozen=True, slots=True)
class Shape:
    """How many neighbours each of `members` has, and how many shares of theirs and its own give a secret back.

    A sum may be without `dropping` of them.
    """

    members: int
    degree: int
    threshold: int
    dropping: int

    @property
    def complete(self) -> bool:
        """Whether all mask with all."""
        return self.degree == self.members - 1

    @property
    def included_min(self) -> int:
        """The fewest of the roster that a sum may be of."""
        return self.members - self.dropping


@cache
def shape(
    members: int, swarm: int | None = None, *, colluding: int | None = None, dropping: int | None = None
) -> Shape:
    """Return the shape for a roster of so many members of a swarm, of which so many collude and drop out at most.

    Without these, all are on the roster, as many collude as the ledger bears and a tenth drops out. In a complete graph
    of all the threshold is the ledger's quorum, which is the same thought for the same reason; so many may drop out as
    are left.

    Raises:
        UsageError: a roster is too small or too large to mask.
    """
    everybody = members if swarm is None else swarm
    bad = faults(everybody) if colluding is None else colluding
    if not max(FEWEST, bad + 2) <= members <= MEMBERS_MAX:
        raise UsageError(
            f"couldn't mask a round of {members}: where {bad} may collude a sum says something of each when it is of"
            f" fewer than {max(FEWEST, bad + 2)}, and there are at most {MEMBERS_MAX} members",
            hint="let rounds wait for more sites",
        )
    if members > COMPLETE_MAX:
        gone = members * DROPPING_PERMILLE // 1000 if dropping is None else dropping
        absent = everybody - members
        for degree in range(_degree_floor(everybody, bad, gone, absent), members - 1, 2):
            threshold = (degree + 1 + _colluding_neighbours(everybody, degree, bad, absent)) // 2 + 1
            if threshold <= degree and _recovers(members, degree, threshold, gone):
                return Shape(members, degree, threshold, gone)
    threshold = (members + bad) // 2 + 1
    return Shape(members, members - 1, threshold, members - max(FEWEST, threshold))


def _degree_floor(swarm: int, colluding: int, dropping: int, absent: int) -> int:
    """Return the least even degree with which the honest rest stays connected: condition 3.

    Two stretches of degree / 2 places on the roster must be gone. What of them does not collude has to drop out, so
    colluders stand in all but `dropping` of these places. On the circle of the whole swarm `absent` more may lie
    between them, in either stretch; there are less than n * n / 2 pairs of stretches.
    """
    half = 1
    while 2 * half + absent < swarm:
        places = 2 * half + absent
        tail = sum(
            math.comb(colluding, count) * math.comb(swarm - colluding, places - count)
            for count in range(max(0, 2 * half - dropping), min(colluding, places) + 1)
        )
        if swarm * swarm * (absent + 1) * tail << SECRECY_BITS <= 2 * math.comb(swarm, places):
            break
        half += 1
    return 2 * half


def _colluding_neighbours(swarm: int, degree: int, colluding: int, absent: int) -> int:
    """Return how many of a member's neighbours collude at most, for any honest member: condition 1.

    They lie within degree + absent places around it, of which more or fewer may be on either side.
    """
    places = min(degree + absent, swarm - 1)
    ways = math.comb(swarm - 1, places)
    tail = 0
    for count in range(min(places, colluding), 0, -1):
        tail += math.comb(colluding, count) * math.comb(swarm - 1 - colluding, places - count)
        if swarm * (absent + 1) * tail << SECRECY_BITS > ways:
            return min(count, degree)
    return 0


def _recovers(members: int, degree: int, threshold: int, dropping: int) -> bool:
    """Whether `threshold` of the neighbours of one that dropped out are there, for any of them: condition 2."""
    ways = math.comb(members - 1, degree)
    others = max(0, dropping - 1)
    tail = sum(
        math.comb(others, gone) * math.comb(members - 1 - others, degree - gone)
        for gone in range(degree - threshold + 1, min(degree, others) + 1)
    )
    return members * tail << RECOVERY_BITS <= ways


def order(beacon: bytes, nodes: Sequence[bytes]) -> tuple[int, ...]:
    """Return the indices of members as they stand in the circle."""
    rank = [hashlib.sha256(_ORDER_DOMAIN + beacon + node).digest() for node in nodes]
    return tuple(sorted(range(len(nodes)), key=rank.__getitem__))


def neighbours(found: Shape, circle: Sequence[int], index: int) -> tuple[int, ...]:
    """Return the members, ascending, that the one at `index` of the roster masks with; `circle` is their `order`."""
    n = found.members
    if found.complete:
        return tuple(other for other in range(n) if other != index)
    place, half = circle.index(index), found.degree // 2
    steps = (*range(-half, 0), *range(1, half + 1))
    return tuple(sorted(circle[(place + step) % n] for step in steps))
