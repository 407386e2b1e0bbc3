"""What members find each other's work to be worth, read from the log, and what follows from all they say.

A score is one member's word on the contributions that a round's close names. The log holds many such words and nobody
writes down what follows from them: everybody who reads the same entries comes to the same result, so there is nothing
to be agreed on, and an audit that reads them has checked it.

A member's first score for a round *counts* if it stands between the round's commit and the settling of the round, its
author was a member when the round closed, and the contributions that it names are ones the close includes. Others have
no effect. They are not refused: what counted when it was written may come too late when it is ordered, and its author
could never write anything again.

A round is *settled* with the score by which every included contribution has been scored by a quorum of members other
than its author (by all others if they are fewer), or else by the commit of the next round but one. What its agreed
scores are then follows from the scores that count: of each contribution the median of what all but its author say
(`swarm.contribution.agreement`), or nothing, a gap, where those are too few to outvote as many liars as the swarm
bears.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from swarm import codec
from swarm.contribution.agreement import Agreed, agree
from swarm.contribution.shares import settle
from swarm.ledger import entry as e
from swarm.ledger.block import faults, quorum
from swarm.machine import NodeId

MEDIAN_ERROR = 1.4826 * 1.2533
"""What a median's standard error is, times the root of the number of values, for one unit of their median distance from
it: the first factor makes that a standard deviation and the second is sqrt(pi / 2), both if they are normal."""

WORKS_MAX = 10_000
"""Contributions remembered before those that no close can name any more are forgotten."""

Work: TypeAlias = tuple[NodeId, e.Contribution]


@dataclass(frozen=True, slots=True)
class Closing:
    """What the mean of a round was made of.

    `terms` has, in the order of the close, a contribution's leaf index, its author, its body and its weight; `members`
    are all who were one when it closed; `base` is the digest of the model it was added to, empty if that is not known.
    """

    round: int
    terms: tuple[tuple[int, NodeId, e.Contribution, int], ...]
    members: frozenset[NodeId]
    base: bytes

    @property
    def liars(self) -> int:
        """How many liars so many members bear."""
        return faults(len(self.members))

    @property
    def enough(self) -> int:
        """Of how many others a contribution needs the word so that no more are waited for."""
        return min(quorum(len(self.members)), len(self.members) - 1)


@dataclass(slots=True)
class Judged:
    """One round: what it was made of, and who says what of it. `settled` says that nothing counts any more."""

    closing: Closing
    committed: bool = False
    settled: bool = False
    scores: dict[NodeId, e.Score] = field(default_factory=dict)
    late: dict[NodeId, e.Score] = field(default_factory=dict)

    def values(self, index: int, author: NodeId) -> list[int]:
        """Return what others than its author say of a contribution, in the order in which they said it."""
        return [
            value
            for scorer, score in self.scores.items()
            for named, value, _ in score.scores
            if named == index and scorer != author
        ]

    def agreed(self) -> dict[NodeId, Agreed | None]:
        """Return by author, in the order of the close, what follows; None for a gap. Before it is settled, so far."""
        liars = self.closing.liars
        return {author: agree(self.values(index, author), liars) for index, author, _, _ in self.closing.terms}

    def take(self, author: NodeId, score: e.Score) -> bool:
        """Take in a score; return whether it counts."""
        indices = {index for index, _, _, _ in self.closing.terms}
        known = author in self.closing.members and all(index in indices for index, _, _ in score.scores)
        if not known or not self.committed or author in self.scores:
            return False
        if self.settled:
            self.late.setdefault(author, score)
            return False
        self.scores[author] = score
        enough = self.closing.enough
        self.settled = all(len(self.values(index, by)) >= enough for index, by, _, _ in self.closing.terms)
        return True


@dataclass(frozen=True, slots=True)
class Standing:
    """What is settled of one site: the sum of its agreed scores, in how many rounds, how uncertain, and its share.

    `error` is the standard error of the sum, from how far apart scorers are in each round; `share_ppm` is None where no
    site has anything positive. `gaps` are rounds with its work and no agreed score.
    """

    score: int
    rounds: int
    gaps: tuple[int, ...]
    error: float
    share_ppm: int | None


class Scores:
    """Rounds by number, as far as they have been read, in order. `initial` is the digest of the charter's model."""

    def __init__(self, initial: bytes = b"") -> None:
        self._last = 0, initial  # the last round that was committed, and its model
        self.rounds: dict[int, Judged] = {}
        self._works: dict[int, Work] = {}
        self._kept = 0  # rounds before this have been forgotten

    def note(self, first: int, entries: Sequence[e.Entry]) -> None:
        """Take in the entries of the next final block, of which the first has this index in the log."""
        for index, entry in enumerate(entries, first):
            match entry.kind:
                case e.CONTRIBUTION:
                    work = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
                    self._works[index] = NodeId(entry.author), work
                case e.ROUND_CLOSE:
                    self._close(codec.decode(entry.body, e.RoundClose, limit=e.ENTRY_BYTES_MAX))
                case e.ROUND_COMMIT:
                    self._commit(codec.decode(entry.body, e.RoundCommit, limit=e.ENTRY_BYTES_MAX))
                case e.SCORE:
                    score = codec.decode(entry.body, e.Score, limit=e.ENTRY_BYTES_MAX)
                    judged = self.rounds.get(score.round)
                    if judged is not None:
                        judged.take(NodeId(entry.author), score)
                case _:
                    pass

    def forget(self, before: int) -> None:
        """Let go of earlier rounds than this, for who only wants to know the last ones."""
        self._kept = max(self._kept, before)
        self.rounds = {number: judged for number, judged in self.rounds.items() if number >= before}

    def _close(self, close: e.RoundClose) -> None:
        named = [index for index, _ in (*close.included, *close.rejected)]
        if close.round < self._kept or any(index not in self._works for index in named):
            return  # Its beginning was before what has been read.
        terms = tuple((index, *self._works[index], weight) for index, weight in close.included)
        authors = {self._works[index][0] for index in named}
        members = frozenset({*authors, *(NodeId(node) for node in close.missing)})
        base = self._last[1] if self._last[0] == close.round - 1 else b""
        self.rounds[close.round] = Judged(Closing(close.round, terms, members, base))

    def _commit(self, commit: e.RoundCommit) -> None:
        self._last = commit.round, commit.model_digest
        if commit.round in self.rounds:
            self.rounds[commit.round].committed = True
        for number, judged in self.rounds.items():
            judged.settled = judged.settled or number <= commit.round - e.SETTLED_AFTER
        if len(self._works) > WORKS_MAX:
            self._works = dict([*self._works.items()][-WORKS_MAX // 2 :])


def standings(rounds: Mapping[int, Judged]) -> dict[NodeId, Standing]:
    """Return what comes of some rounds, for every site with work in any, in the order of their ids."""
    totals: dict[NodeId, int] = {}
    counted: dict[NodeId, int] = {}
    gaps: dict[NodeId, list[int]] = {}
    squares: dict[NodeId, float] = {}
    for number, judged in sorted(rounds.items()):
        for author, agreed in judged.agreed().items():
            totals.setdefault(author, 0)
            gaps.setdefault(author, [])
            if agreed is None:
                gaps[author].append(number)
                continue
            totals[author] += agreed.score
            counted[author] = counted.get(author, 0) + 1
            squares[author] = squares.get(author, 0.0) + (MEDIAN_ERROR * agreed.spread) ** 2 / agreed.scorers
    nodes = sorted(totals)
    shares = settle([totals[node] for node in nodes])
    return {
        node: Standing(
            totals[node],
            counted.get(node, 0),
            tuple(gaps[node]),
            math.sqrt(squares.get(node, 0.0)),
            None if shares is None else shares[place],
        )
        for place, node in enumerate(nodes)
    }
