"""What a charter's schedule means for a node: its partners in a round, and its row of the round's matrix.

The schedule W is symmetric and doubly stochastic. Sites hold different numbers of samples n_i, and what gossip should
keep is the mean weighted by them. So the round mixes by A_ij = W_ij min(1, n_j / n_i), the rest to oneself: the rule of
Metropolis et al. 1953 (Hastings 1970) for the distribution proportional to n. As n_i A_ij = W_ij min(n_i, n_j) is
symmetric, sum_i n_i x_i is what it was, exactly, after every round and whichever pairs were skipped; with equal n_i, A
is W. Where members exchange public copies of their models (`Charter.follows`), A is taken gamma times and the rest is
for oneself. Nobody needs to know anything but its neighbours' counts, and local steps move that mean as they do in
FedAvg.

What it costs: with unequal counts a finite-time schedule is not exact any more (with equal counts it is), and gossip
between a large and a small site is slower.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from functools import cached_property, lru_cache
from itertools import combinations

from swarm.charter import OWN_LINKS, Charter
from swarm.errors import UsageError
from swarm.machine import NodeId
from swarm.terms import Terms
from topologies import schedules
from topologies.graph import Edge, Topology
from topologies.mixing import Promise
from topologies.schedules import Schedule

OF_A_DEGREE = ("random_regular", "watts_strogatz", "el_oracle", "el_local")
"""Schedules in which one chooses how many others a member exchanges with."""

DEGREE = 3
"""How many, if it is not said."""


CLIP_ROUNDS = 16
"""Rounds of a drawn schedule in which a member with a single partner would show."""

LINKS = OWN_LINKS
"""In place of a schedule's name: the charter's own links every round, with Metropolis-Hastings weights or, where they
go one way, as it lists them. For a graph of one's own, which no family has."""


def open_schedule(text: str, n: int, seed: int, *, directed: bool = False) -> Schedule:
    """Return the schedule that a charter names for n members: "ring", "base3", "random_regular:4".

    Raises:
        UsageError: there is none of that name or size; or it is not symmetric, as pairs that skip together need it,
            unless links go one way; or only all its rounds together make an average.
    """
    name, colon, degree = text.partition(":")
    if colon and (name not in OF_A_DEGREE or not degree.isdecimal()):
        raise UsageError(
            f"couldn't use the schedule {text}: a number follows the name only of {', '.join(OF_A_DEGREE)}",
            hint=f"say {name}, or for instance random_regular:4",
        )
    found = schedules.build(name, n, degree=int(degree) if colon else DEGREE, seed=seed)
    if not found.symmetric and not directed:
        raise UsageError(
            f"couldn't use the schedule {text}: in it members send to others than they hear from",
            hint="choose a symmetric one: base2, ring, torus, random_matching, ...; or give --directed too",
        )
    if found.states > 1 or found.promise is Promise.PRODUCT:
        raise UsageError(
            f"couldn't use the schedule {text}: only all its rounds together make an average",
            hint="choose base2, which ends in the exact mean too",
        )
    return found


def check_codec(charter: Charter) -> None:
    """Raise `UsageError` if a charter's codec needs the same partners every round, and its schedule has others.

    A public copy moves by every message of its owner. Who meets it in one round of many would need all of them, or the
    next copy whole: more bytes than models take that are merely rounded.
    """
    if not charter.follows or charter.schedule == LINKS:
        return
    if charter.schedule and schedules.known(charter.schedule.partition(":")[0]):
        check_steady(open_schedule(charter.schedule, len(charter.members), 0), charter.schedule, str(charter.codec))


def check_steady(schedule: Schedule, name: str, codec: str) -> None:
    """Raise `UsageError` unless a schedule is symmetric and has the same partners every round."""
    if not schedule.symmetric:
        raise UsageError(
            f"couldn't gossip over {name} under {codec}: its links go one way",
            hint="choose ring, torus, exponential, complete or another whose links go both ways; or the codec bf16",
        )
    if schedule.period != 1:
        raise UsageError(
            f"couldn't gossip over {name} under {codec}: partners change from round to round, and each would need"
            " all that the other has said since they last met",
            hint="choose ring, torus, exponential, complete or another graph that stays; or the codec bf16",
        )


def check_clip(charter: Charter) -> None:
    """Raise `UsageError` if a charter clips, and somebody would have one partner in a round: it could not compare it.

    Rounds of drawn schedules are looked at as far as `CLIP_ROUNDS`, as the ledger's id, which draws them, is not known.
    """
    if not charter.clip or not charter.schedule:
        return
    members, n = charter.members, len(charter.members)
    if charter.schedule == LINKS:
        edges = charter.edges or tuple(combinations(range(n), 2))
        degrees = [[sum(member in edge for edge in edges) for member in range(n)]]
    else:
        schedule = open_schedule(charter.schedule, n, 0)
        rounds = (schedule.mixing(t).rows for t in range(schedule.period or CLIP_ROUNDS))
        degrees = [[sum(j != i and w > 0 for j, w in row) for i, row in enumerate(rows)] for rows in rounds]
    alone = next((i for row in degrees for i, degree in enumerate(row) if degree == 1), None)
    if alone is not None:
        raise UsageError(
            f"couldn't clip in gossip over {charter.schedule}: {members[alone].name} would meet one partner in a round,"
            " and could not tell whether that one is far away",
            hint="choose ring, torus, exponential, complete or another with two partners; or leave the clip out",
        )


class SchedulePlan:
    """The schedule of a swarm in each of its epochs (`swarm.gossip_round.Plan`).

    Members that join or leave change n. Where the family has no member of the new size (a hypercube of five), the links
    of the charter with Metropolis-Hastings weights take its place, so that a vote can never stop the learning. So they
    do for links of one way that a charter lists, which are those of its founders.
    """

    def __init__(
        self,
        text: str,
        ledger_id: bytes,
        *,
        directed: bool = False,
        arcs: Sequence[Edge] = (),
        founders: Sequence[NodeId] = (),
        gamma: float = 1.0,
    ) -> None:
        """Follow a charter.

        Raises:
            UsageError: this software knows no schedule of that name, so it cannot do what the others do.
        """
        if text != LINKS and not schedules.known(text.partition(":")[0]):
            raise UsageError(
                f"couldn't follow the charter: it mixes by gossip over {text!r}, which this software does not know",
                hint="update this software: the charter was made with a newer version",
            )
        self._text, self._seed, self._gamma = text, int.from_bytes(ledger_id[:4], "big"), gamma
        self._directed, self._arcs, self._founders = directed, tuple(arcs), tuple(founders)
        self._of = lru_cache(maxsize=4)(self._make)

    @classmethod
    def of(cls, charter: Charter, ledger_id: bytes) -> SchedulePlan:
        """Follow a charter. Raises `UsageError` if its schedule is unknown to this software, or not for its codec."""
        check_codec(charter)
        founders = [card.node for card in charter.members]
        return cls(
            charter.schedule,
            ledger_id,
            directed=charter.directed,
            arcs=charter.arcs,
            founders=founders,
            gamma=charter.gamma,
        )

    def partners(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        """Return whose models a member takes in a round, in member order: with whom it exchanges."""
        index = terms.index(node)
        if index is None:
            return ()
        row = self._schedule(terms).row(round_ - 1, index)
        return tuple(terms.members[source].node for source, weight in row if source != index and weight)

    def targets(self, terms: Terms, round_: int, node: NodeId) -> tuple[NodeId, ...]:
        """Return who takes a member's model in a round, in member order."""
        index = terms.index(node)
        if index is None:
            return ()
        return tuple(terms.members[other].node for other in self._schedule(terms).targets(round_ - 1, index))

    def shares(
        self, terms: Terms, round_: int, node: NodeId, weights: Mapping[NodeId, int], exchanged: Collection[NodeId]
    ) -> tuple[tuple[NodeId, float], ...]:
        """Return a member's row of the round's matrix; what it did not exchange stays with itself."""
        index = terms.index(node)
        assert index is not None, "only members take part"
        found: dict[int, float] = {}
        for source, weight in self._schedule(terms).row(round_ - 1, index):
            other = terms.members[source].node
            if source != index and other in exchanged:
                found[source] = self._gamma * weight * min(1.0, weights[other] / weights[node])
        found[index] = 1.0 - math.fsum(found.values())
        return tuple((terms.members[source].node, share) for source, share in sorted(found.items()))

    def _schedule(self, terms: Terms) -> Schedule:
        if self._arcs and tuple(seat.node for seat in terms.members) == self._founders:
            return self._own
        return self._of(len(terms.members), terms.edges)  # Asked on every step: the links are not spelled out here.

    @cached_property
    def _own(self) -> Schedule:
        return schedules.directed(len(self._founders), self._arcs)

    def _make(self, n: int, edges: tuple[tuple[int, int], ...]) -> Schedule:
        if self._text != LINKS:
            with suppress(UsageError):
                return open_schedule(self._text, n, self._seed, directed=self._directed)
        return schedules.static(Topology.from_edges(n, edges or tuple(combinations(range(n), 2))))
