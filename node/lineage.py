"""Which models descend from whose work: what must be made again when a site takes back what it gave.

Models cannot be unlearned by subtracting an update: every later update was trained on a model that held it. So the
answer to a withdrawal (say, consent that was taken back, which Art. 7(3) and 17 of the GDPR give people the right to)
is which models hold the work, and which is the last that does not; from that one a successor can be founded
(`swarm charter new --after --at-round`). All of it follows from the log. Nothing is judged: whether a model that holds
withdrawn work may still be used is for people to say.

In exact mixing there is one line: the model of round r is made from that of round r - 1 and the contributions in its
close, and holds whatever either holds. In gossip each site has a line of its own. There work passes from a site to
those it exchanged models with, and from them on (`node.exchanges`); where the log does not show whose model a newcomer
began from, it is taken to hold what any site then held.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from node.exchanges import exchanges_of
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Annotated, Audit, RoundView, weights
from swarm.ledger.state import Placed
from swarm.machine import NodeId


@dataclass(frozen=True, slots=True)
class Work:
    """What a site learnt in one round."""

    author: NodeId
    round: int


@dataclass(frozen=True, slots=True)
class Share:
    """A contribution in the mean of a round: where it stands in the log, and its share, 0 to 1."""

    placed: Placed
    share: float

    @property
    def work(self) -> Work:
        """Whose it is, and of which round: late work is of an earlier one than the mean it is in."""
        return Work(self.placed.author, self.placed.body.round)


@dataclass(frozen=True, slots=True)
class Step:
    """How the model of a committed round was made: from the one before, `base`, and shares of what sites learnt.

    In a round of gossip, where each site ends with a model of its own, base and model are None.
    """

    number: int
    base: bytes | None
    model: bytes | None
    shares: tuple[Share, ...]


@dataclass(frozen=True, slots=True)
class Holding:
    """Which models hold given work: those of these rounds, ascending; in gossip, by round, the sites whose own do.

    `clean` is the last committed round that no model of holds any of it; 0 is the initial model.
    """

    rounds: tuple[int, ...]
    sites: Mapping[int, tuple[NodeId, ...]]
    clean: int


def steps(result: Audit) -> list[Step]:
    """Return how each committed round's model was made, in order."""
    found: list[Step] = []
    base: bytes | None = result.state.signed.charter.task.initial_model
    for view in _committed(result):
        assert view.commit is not None, "only committed rounds are looked at"
        model = view.commit.model_digest if view.commit.model_bytes else None
        found.append(Step(view.number, None if model is None else base, model, _shares(view)))
        base = model
    return found


def works_of(result: Audit, author: NodeId, first: int, last: int) -> frozenset[Work]:
    """Return the work of a site of these rounds that is on record, in a mean or not."""
    authored = (view.contributions.get(author) for view in result.rounds.values())
    return frozenset(
        Work(author, placed.body.round) for placed in authored if placed and first <= placed.body.round <= last
    )


def withdrawals(result: Audit) -> Sequence[Annotated]:
    """Return what sites have taken back, in the order of the log."""
    return [one for one in result.annotations if one.body.code == e.WITHDRAWAL]


def withdrawn(result: Audit) -> frozenset[Work]:
    """Return the work that has been taken back."""
    taken = (works_of(result, one.author, one.body.first, one.body.last) for one in withdrawals(result))
    return frozenset().union(*taken)


def holding(signed: SignedCharter, result: Audit, works: Collection[Work]) -> Holding:
    """Return which models hold any of the work."""
    exact, sites = False, dict[int, tuple[NodeId, ...]]()
    holders: set[NodeId] = set()
    seen: set[NodeId] = set()
    rounds: list[int] = []
    first, clean = signed.charter.task.initial_model, 0
    for view in _committed(result):
        met = exchanges_of(signed, view)
        included = {share.work for share in _shares(view)}
        if met is None and signed.charter.round.mixing == "exact":
            exact = exact or not included.isdisjoint(works)
        elif met is None:  # The last round of a gossip swarm: every site's model, its last training in it, into one.
            given = {work.author for work in included}
            exact = exact or not included.isdisjoint(works) or not given.isdisjoint(holders)
        else:
            begun = {node: placed for node, placed in view.contributions.items() if node not in seen}
            if holders:  # Who joins late begins from some other site's model.
                holders |= {node for node, placed in begun.items() if placed.body.base_digest != first}
            seen |= begun.keys()
            # A site goes on from what it has learnt, whether or not the round was closed with it.
            holders |= {node for node in view.contributions if Work(node, view.number) in works}
            holders |= {taker for giver, taker in _given(met.pairs, both=met.settled is None) if giver in holders}
            if holders:
                sites[view.number] = tuple(sorted(holders))
        if exact or (met is not None and holders):
            rounds.append(view.number)
        elif not rounds:
            clean = view.number
    return Holding(tuple(rounds), sites, clean)


def _given(pairs: Sequence[tuple[NodeId, NodeId]], *, both: bool) -> list[tuple[NodeId, NodeId]]:
    return [*pairs, *((b, a) for a, b in pairs)] if both else [*pairs]


def _committed(result: Audit) -> Iterator[RoundView]:
    """Yield committed rounds in order."""
    return (view for _, view in sorted(result.rounds.items()) if view.commit is not None)


def _shares(view: RoundView) -> tuple[Share, ...]:
    share = weights(view)
    terms = view.closed.terms if view.closed is not None else ()
    return tuple(Share(placed, share[placed.author]) for placed in terms)
