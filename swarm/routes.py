"""Routes to the exact mean that move less than everything to everybody.

On the *spread* route every member gets every update. Where the charter says so, a round takes another, on which members
compute parts of the mean for one another and say in the log what they computed (`partial` entries):

- *sharded*: an update travels as slices. Two owners of each slice average it, and everybody fetches the averaged
  slices: reduce-scatter and all-gather by direct exchange (Thakur, Rabenseifner & Gropp 2005, "Optimization of
  collective communication operations in MPICH", section 4), each slice done twice over.
- *fold*: sums of weighted updates double from step to step (recursive doubling, ibid.), the members beyond the largest
  power of two adding theirs at the first step and taking the sum at the end.

All sums are those of `swarm.mixing.average`, in integers, so that all three routes end with the same bytes. Nobody
believes a part on one member's word: a slice needs both owners to name the same digest, a sum every member of the
group whose sum it is. A lie therefore takes all who computed a part, a group that could have contributed the same lie.
Where words differ, or somebody falls silent on the way, the round is closed again and goes by spread.

Everything here is a pure function of who is in the round.
"""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from swarm import codec
from swarm.errors import UsageError
from swarm.machine import Digest
from swarm.privacy.clipping import NORM_SLACK

T = TypeVar("T")

SPREAD = "spread"
SHARDED = "sharded"
FOLD = "fold"
ROUTES = (SPREAD, SHARDED, FOLD)

OWNERS = 2
"""Members that average each slice: neither is believed alone."""

SLICES_MAX = 256
"""Most slices of an update: with 36 bytes each they leave a contribution room for its metrics."""

NORM_UNITS = 1 << 20
"""The square of the charter's norm bound, in the units in which owners say how much of it a slice takes."""

_ROUTE = re.compile(r"(sharded)(?::([1-9][0-9]{0,2}))?|(fold)")

_SLICES_DOMAIN = b"swarm-update/slices/v1\0"


@dataclass(frozen=True, slots=True)
class Route:
    """How a round gets to its mean; `slices` is how many an update is cut into, 0 where it stays whole."""

    name: str
    slices: int = 0


def parse(text: str, members: int) -> Route:
    """Return the route that a charter's option names: "fold", "sharded" (a slice for each founder) or "sharded:16".

    Raises:
        UsageError: there is no such route.
    """
    found = _ROUTE.fullmatch(text)
    slices = int(found[2] or members) if found and found[1] else 0
    if not found or slices > SLICES_MAX:
        raise UsageError(
            f"couldn't accept the charter: route = {text!r}",
            hint=f"known are fold, sharded and sharded:<slices>, at most {SLICES_MAX}; none means spread",
        )
    return Route(found[1] or found[3], slices)


# --- sharded --------------------------------------------------------------------------------------------------------


def cuts(elements: int, slices: int) -> tuple[tuple[int, int], ...]:
    """Return the ranges [start, end) of a vector's slices, which differ in length by one at most."""
    edges = [number * elements // slices for number in range(slices + 1)]
    return tuple(itertools.pairwise(edges))


def slices_digest(slices: Sequence[tuple[bytes, int]]) -> Digest:
    """Return the name of an update that travels as these blobs (digest, size): SHA-256 over their canonical bytes."""
    return Digest(hashlib.sha256(_SLICES_DOMAIN + codec.encode(tuple(slices))).digest())


def owners(number: int, slices: int, nodes: Sequence[T]) -> tuple[T, ...]:
    """Return who averages a slice, of those in the round in member order; all of them get the same work to do."""
    first = number * len(nodes) // slices if slices < len(nodes) else number % len(nodes)
    return tuple(nodes[(first + further) % len(nodes)] for further in range(min(OWNERS, len(nodes))))


def norm_units(norm: float, bound: float) -> int:
    """Return how much of the bound's square a slice's norm takes, in `NORM_UNITS`, rounded up."""
    return math.ceil((norm / bound) ** 2 * NORM_UNITS)


def within_bound(units: Sequence[int]) -> bool:
    """Whether slices that take so much of the bound's square are an update within the bound."""
    return sum(units) <= NORM_UNITS * (1 + NORM_SLACK) ** 2 + len(units)


# --- fold -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fold:
    """The groups of a round of so many `members`, by their index in it.

    The first `folded` of them, the largest power of two, pair up. Sum number k, 1 to `steps`, of one of these is that
    of its group of 2**k and of the further members that are folded into them; all of the group have the same.
    """

    members: int

    @property
    def folded(self) -> int:
        """How many pair up."""
        return 1 << (self.members.bit_length() - 1)

    @property
    def steps(self) -> int:
        """How many times they do."""
        return self.members.bit_length() - 1

    def group(self, index: int, number: int) -> range:
        """Return who has the same sum of this number as a member that pairs up."""
        start = index >> number << number
        return range(start, start + (1 << number))

    def other(self, index: int, number: int) -> range:
        """Return the group whose sum of the number before is added to this member's to make this one."""
        return self.group(index ^ (1 << (number - 1)), number - 1)

    def covered(self, group: range) -> tuple[int, ...]:
        """Return whose updates are in a group's sum, ascending."""
        further = (index + self.folded for index in group)
        return (*group, *(index for index in further if index < self.members))
