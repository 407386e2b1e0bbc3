"""Which parts of a round's mean a member has to compute, by the charter's route and the round's close.

What a member says beyond that has no effect, in the log as before it is ordered.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.charter import Charter
from swarm.ledger.entry import Partial
from swarm.machine import NodeId
from swarm.routes import Fold, owners

SUM_BYTES = 8
"""Of one element of a sum: int64."""


def counts(charter: Charter, nodes: Sequence[NodeId], author: NodeId, body: Partial) -> bool:
    """Whether this is a part that its author computes when `nodes`, in member order, are in the round."""
    if charter.cuts:
        if not 0 <= body.number < len(charter.cuts):
            return False
        theirs = author in owners(body.number, len(charter.cuts), nodes)
        return theirs and body.size == charter.average_bytes(body.number) and len(body.norms) == len(nodes)
    fold = Fold(len(nodes))
    theirs = author in nodes[: fold.folded] and 1 <= body.number <= fold.steps
    return theirs and body.size == SUM_BYTES * charter.task.parameters and not body.norms
