"""Putting on record who contradicted itself, once, by whoever's turn it is."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from node.core.agreement import Agreement
from node.core.myself import Myself
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.evidence import from_contradiction, from_entries, judge
from swarm.ledger.replica import Replica
from swarm.ledger.state import State
from swarm.machine import NodeId
from swarm.round import Say

EVIDENCE_TURN_S = 0.5
"""Between the turns of members to put the same evidence on record."""


class Charges:
    """What this site has noticed and has not seen on record yet, by culprit and rule."""

    def __init__(self, who: Myself, replica: Replica, agreement: Agreement) -> None:
        self._who, self._replica, self._agreement = who, replica, agreement
        self._charges: dict[tuple[NodeId, int], tuple[float, e.Evidence]] = {}
        self._read = 0

    def begin_epoch(self) -> None:
        """The agreement has begun anew, and so has what it noticed."""
        self._read = 0

    def notice(self, now: float) -> None:
        """Remember who contradicted itself, and when it is this site's turn to put that on record."""
        head, consensus = self._replica.head, self._agreement.consensus
        found = [from_contradiction(one, self._agreement.terms) for one in consensus.evidence[self._read :]]
        self._read = len(consensus.evidence)
        found += [from_entries(author, *pair) for author, pair in self._replica.forks.items()]
        for body in found:
            charge = None if body is None else (NodeId(body.culprit), body.rule)
            if body is None or charge is None or charge[0] == self._who.node or charge in self._charges:
                continue
            if charge not in head.accused and _provable(body, head):
                # Everybody notices at about the same time. One after the other has the chance to say so.
                turn = ((self._who.index or 0) - (head.terms.index(charge[0]) or 0) - 1) % len(head.terms.members)
                self._charges[charge] = (now + EVIDENCE_TURN_S * turn, body)

    def press(self, mine: Iterable[msgspec.Struct], now: float) -> list[Say]:
        """Return what to say now: nothing that is on record, or that somebody else is about to say."""
        self.notice(now)
        if not self._charges:
            return []
        head = self._replica.head
        waiting = [*(body for _, body in self._replica.bodies(e.Evidence)), *mine]
        pending = [(body.culprit, body.rule) for body in waiting if isinstance(body, e.Evidence)]
        said: list[Say] = []
        for charge, (due, body) in sorted(self._charges.items()):
            if charge in head.accused:
                del self._charges[charge]
            elif now >= due and charge not in pending:
                # Judged when it is to be said, not with every event until then: it costs two signatures.
                if _provable(body, head):
                    said.append(Say(e.EVIDENCE, body))
                else:
                    del self._charges[charge]
        return said

    def next_wake(self, now: float) -> float | None:
        """Return when the next turn comes."""
        return min((due for due, _ in self._charges.values() if due > now), default=None)


def _provable(body: e.Evidence, head: State) -> bool:
    """Whether the ledger would take an accusation: not when its epoch is long past."""
    try:
        judge(body, head.ledger_id, (head.terms, *head.past))
    except Reject:
        return False
    return True
