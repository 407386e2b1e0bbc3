"""What would be so if all that waits were ordered now, kept up to date entry by entry.

Every step of agreement asks whether there is enough to say for a block. Working that out anew for each of the hundreds
of messages that a block takes would make a node's work grow with the square of the members, so the answer is kept: what
arrives is applied to it, and who was waited for last is asked about first.

Entries are applied here as they come and in a block in member order. For what is asked of an outlook that is the same:
contributions, attests, receipts, parts, words on masks and evaluations of different authors do not touch each other.
Motions, votes on them and evidence do; when one comes the outlook is made anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Protocol

import msgspec
from msgspec.structs import replace

from swarm.ledger import entry as e
from swarm.ledger.state import Authored, State, apply_authored, apply_derived, due_commit
from swarm.machine import NodeId
from swarm.masking.statements import Keys, Reveal


class Waiting(Protocol):
    """An entry that is not final yet, and since when it has waited."""

    @property
    def authored(self) -> Authored:
        """The entry, authenticated."""
        ...

    @property
    def since(self) -> float:
        """In seconds."""
        ...


@dataclass(slots=True)
class Outlook:
    """The state after one block with everything applied that waits.

    `oldest` is since when the first of it has waited, None if nothing does. `fresh` says whether it holds an offer to
    the round that the block's own state lacks. `awaited`, `unoffered` and `unattested` are the members for whom a
    close, an order of the offers and a commit were put off when that was last asked: hints, which save looking at
    everybody. `sure` says that the round can be closed, whatever members do from now on.
    """

    before: State
    state: State
    oldest: float | None = None
    fresh: bool = False
    awaited: NodeId | None = None
    unoffered: NodeId | None = None
    unattested: NodeId | None = None
    sure: bool = False
    _overdue: bool | None = None
    _due: bool | None = None
    _reopened: State | None = None

    @classmethod
    def of(cls, before: State, waiting: Iterable[Waiting]) -> Outlook:
        """Return the outlook from the state after a block; `waiting` is what continues its feeds, in member order."""
        found = cls(before, before)
        for one in waiting:
            found._apply(one)
        return found

    def grow(self, author: NodeId, feed: Mapping[int, Waiting]) -> bool:
        """Apply what a member's feed holds more of now. Return False if the outlook has to be made anew."""
        seq, prev = self.state.heads[author].seq, self.state.heads[author].prev
        while (one := feed.get(seq)) is not None and one.authored.entry.prev == prev:
            if not _apart(one.authored.body):
                return False
            self._apply(one)
            seq, prev = seq + 1, one.authored.id
        return True

    @property
    def overdue(self) -> bool:
        """Whether the block's own state demands a commit: fewer members make a quorum since."""
        if self._overdue is None:
            self._overdue = due_commit(self.before, measured=False) is not None
        return self._overdue

    @property
    def due(self) -> bool:
        """Whether the open round's commit is due once all is ordered."""
        if self._due is None:
            self._due = due_commit(self.state, measured=False) is not None
        return self._due

    @property
    def next_complete(self) -> bool:
        """Whether everybody has contributed to the round after the open one."""
        coming = self.state.round + 1
        return all((coming, seat.node) in self.state.contributions for seat in self.state.terms.members)

    def reopened(self, time_ms: int) -> State:
        """Return the state with the commit that is due in a block of this time, if one is."""
        if not self.due:
            return self.state
        if self._reopened is None:
            commit = due_commit(self.state, measured=False)
            assert commit is not None, "it is due"
            self._reopened = apply_derived(self.state, e.ROUND_COMMIT, commit, time_ms)
        return replace(self._reopened, opened_ms=time_ms)

    def _apply(self, one: Waiting) -> None:
        author, body = NodeId(one.authored.entry.author), one.authored.body
        self.state = apply_authored(self.state, one.authored)
        self.oldest = one.since if self.oldest is None else min(self.oldest, one.since)
        if isinstance(body, e.Contribution):
            place = (self.state.round, author)
            self.fresh |= place in self.state.contributions and place not in self.before.contributions
        self.sure, self._due, self._reopened = False, None, None


def _apart(body: msgspec.Struct) -> bool:
    """Whether entries of this type mean the same in whatever order those of different authors are applied."""
    means_the_same = (e.Contribution, e.Attest, e.Receipt, e.Push, e.Partial, e.Evaluation, e.Annotation, e.Score)
    return isinstance(body, (*means_the_same, Keys, e.MaskDeal, Reveal))
