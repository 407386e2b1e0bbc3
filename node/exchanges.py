"""Rounds of gossip as readers see them: who was to exchange with whom, who did, why others did not, and the matrix.

All of it is recomputed from the ledger. The pairs that have exchanged follow from the receipts before the close
(`swarm.ledger.exchange`), those that should have from the charter's schedule and the members of the round's epoch, and
both together with the numbers of samples give the matrix by which the round was mixed (`topologies.plan`). Where links
go one way a pair is a gift, of the first to the second, and the masses in the ledger give the matrix
(`swarm.ledger.pushing`).
"""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from swarm.charter import Charter, SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView
from swarm.ledger.exchange import partners
from swarm.ledger.pushing import Settled
from swarm.machine import NodeId
from swarm.terms import Terms
from topologies.plan import SchedulePlan

PPM = 1_000_000

SUM_TOLERANCE = 1e-12
"""By how much a row of a matrix may miss 1: it is a sum of a few float64 shares."""

MATRIX_MEMBERS_MAX = 200
"""Members up to which a whole matrix is made for people and programs: 40,000 numbers."""


@dataclass(frozen=True, slots=True)
class Skip:
    """Two members whom the schedule had exchange in a round, and why they did not, in words that name them by id.

    Where links go one way `one` was to give its model to `other`.
    """

    one: NodeId
    other: NodeId
    who: NodeId
    why: str


@dataclass(frozen=True, slots=True)
class Exchanges:
    """A closed round of gossip: the pairs that exchanged models, in member order, and those that were to and did not.

    `weights` has what the close gives each member that is in the round; `terms` are those it was closed by; `settled`
    what the round did to masses where links go one way, and then pairs are (giver, taker). Where messages say how
    public copies move, `whole` are those who offered their models whole instead.
    """

    number: int
    terms: Terms
    weights: Mapping[NodeId, int]
    pairs: tuple[tuple[NodeId, NodeId], ...]
    skipped: tuple[Skip, ...]
    plan: SchedulePlan
    settled: Settled | None = None
    whole: tuple[NodeId, ...] = ()

    @property
    def joint(self) -> str:
        """The word between the two of a pair."""
        return "with" if self.settled is None else "to"

    @property
    def scheduled(self) -> int:
        """How many pairs the schedule has in this round."""
        return len(self.pairs) + len(self.skipped)

    def planned(self, node: NodeId) -> tuple[NodeId, ...]:
        """Return with whom a member was to exchange, or whose models it was to take, in member order."""
        return self.plan.partners(self.terms, self.number, node)

    def partners(self, node: NodeId) -> list[NodeId]:
        """Return with whom a member exchanged, or whose models it took, in member order."""
        if self.settled is not None:
            return [giver for giver, taker in self.pairs if node == taker]
        return [b if node == a else a for a, b in self.pairs if node in (a, b)]

    def skips(self, node: NodeId) -> list[Skip]:
        """Return the exchanges of a member that did not take place."""
        return [skip for skip in self.skipped if node in (skip.one, skip.other)]

    def row(self, node: NodeId) -> Mapping[NodeId, float]:
        """Return a member's row of the round's matrix, its own share included; who is not in the round keeps all."""
        if node not in self.weights:
            return {node: 1.0}
        if self.settled is not None:
            return self.settled.row(node)
        return dict(self.plan.shares(self.terms, self.number, node, self.weights, self.partners(node)))

    def check(self) -> bool:
        """Whether the matrix is one of shares and leaves the weighted mean of all models where it was.

        Its rows sum to 1, no share is negative, and w_i A_ij = w_j A_ji for the members' weights w; or, where links go
        one way, what all have is what all had, and nobody has nothing.
        """
        if self.settled is not None:
            before, after = ([mass.held for mass in had.values()] for had in (self.settled.before, self.settled.after))
            return sum(before) == sum(after) and min(after, default=1) > 0
        rows = {node: self.row(node) for node in self.weights}
        return all(
            min(row.values()) >= -SUM_TOLERANCE
            and math.isclose(math.fsum(row.values()), 1.0, abs_tol=SUM_TOLERANCE)
            and all(
                math.isclose(self.weights[node] * share, self.weights[other] * rows[other].get(node, -1.0))
                for other, share in row.items()
            )
            for node, row in rows.items()
        )


@functools.lru_cache(maxsize=8)
def _plan(charter: Charter, ledger_id: bytes) -> SchedulePlan:
    return SchedulePlan.of(charter, ledger_id)


def exchanges_of(signed: SignedCharter, view: RoundView) -> Exchanges | None:
    """Return what a closed round of gossip did; None for any other round."""
    closed, terms = view.closed, view.terms
    if closed is None or terms is None or not closed.exchange:
        return None
    plan = _plan(signed.charter, signed.ledger_id)
    included = {placed.author: placed.index for placed in closed.terms}
    weights = {placed.author: weight for placed, (_, weight) in zip(closed.terms, closed.body.included, strict=True)}
    pairs: list[tuple[NodeId, NodeId]] = []
    skipped: list[Skip] = []
    if view.settled is not None:
        for seat in terms.members:
            for target in plan.targets(terms, view.number, seat.node):
                if seat.node in view.settled.gifts.get(target, ()):
                    pairs.append((seat.node, target))
                else:
                    skipped.append(_kept(view, included, seat.node, target))
        return Exchanges(view.number, terms, weights, tuple(pairs), tuple(skipped), plan, view.settled)
    for index, seat in enumerate(terms.members):
        met = partners(seat.node, included, view.receipts)
        for other in plan.partners(terms, view.number, seat.node):
            if (terms.index(other) or 0) < index:
                continue
            if other in met:
                pairs.append((seat.node, other))
            else:
                skipped.append(_skip(view, included, seat.node, other))
    follows = signed.charter.follows
    whole = tuple(placed.author for placed in closed.terms if follows and not placed.body.slices)
    return Exchanges(view.number, terms, weights, tuple(pairs), tuple(skipped), plan, whole=whole)


def every_exchange(signed: SignedCharter, result: Audit) -> Iterator[Exchanges]:
    """Yield what each closed round of gossip did, in order."""
    for _, view in sorted(result.rounds.items()):
        found = exchanges_of(signed, view)
        if found is not None:
            yield found


def _absent(view: RoundView, included: Mapping[NodeId, int], one: NodeId, other: NodeId) -> Skip | None:
    """Return which of two is not in a round, and why."""
    rejected = dict(view.closed.body.rejected) if view.closed is not None else {}
    for node in (one, other):
        if node not in included:
            placed = view.contributions.get(node)
            reason = None if placed is None else rejected.get(placed.index)
            return Skip(one, other, node, "offered no model in time" if reason is None else _REJECTED[reason])
    return None


def _kept(view: RoundView, included: Mapping[NodeId, int], giver: NodeId, taker: NodeId) -> Skip:
    """Return why a gift was not made: the first reason that is enough."""
    absent = _absent(view, included, giver, taker)
    if absent is not None:
        return absent
    if giver not in view.targets:
        return Skip(giver, taker, giver, "did not say before the close to whom it gives")
    if taker not in view.receipts:
        return Skip(giver, taker, taker, "did not say before the close what it holds")
    if taker not in view.targets[giver]:
        return Skip(giver, taker, giver, "gave it nothing")
    return Skip(giver, taker, taker, "did not have the other's model, or found it unusable")


def _skip(view: RoundView, included: Mapping[NodeId, int], one: NodeId, other: NodeId) -> Skip:
    """Return why a scheduled pair did not exchange: the first reason that is enough."""
    absent = _absent(view, included, one, other)
    if absent is not None:
        return absent
    for node in (one, other):
        if node not in view.receipts:
            return Skip(one, other, node, "did not say before the close what it holds")
    lacks = one if included[other] not in view.receipts[one] else other
    return Skip(one, other, lacks, "did not have the other's model, or found it unusable")


_REJECTED = {
    e.UNUSABLE: "offered a model that is unusable",
    e.UNAVAILABLE: "offered a model that could not be had",
    e.OTHER_BASE: "offered a model that does not start from its own",
}


def apart_words(commit: e.RoundCommit) -> str:
    """Return in plain words how far the models of a round of gossip are from each other, by their sketches."""
    if commit.attests < 2:
        return "with no other to compare it to"
    most, mean = (percent(ppm) for ppm in (commit.distance_max_ppm, commit.distance_mean_ppm))
    return f"up to {most} of a model's length apart, {mean} on average"


def percent(ppm: int) -> str:
    """Return millionths as a percentage of two digits: sketches tell no more."""
    if 0 < ppm < 100:
        return "less than 0.01 %"
    return f"{float(f'{ppm / 10_000:.2g}'):g} %"
