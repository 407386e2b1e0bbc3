"""For whom a round waits that is not over, as the ledger tells it at this site.

The log says what this site did itself and when, and nothing of others until a round is closed. The ledger has each
contribution and each attest once it is in a block: who is not there is whom the others wait for. This site has done its
part when it waits, whether a block has it yet or not. What it is at alone, training and averaging, waits for itself.
"""

from __future__ import annotations

from collections.abc import Sequence

from node.telemetry.traces import ATTEST, MIX, TRAIN, WAIT
from swarm.ledger.audit import Audit, member_names
from swarm.machine import NodeId


def awaited(audit: Audit, me: NodeId, round_: int, phase: str) -> Sequence[str]:
    """Return the names of whom a phase of a round waits for, in member order; nothing where the ledger does not say."""
    names, view = member_names(audit.epochs), audit.rounds.get(round_)
    match phase:
        case _ if phase in (TRAIN, MIX):
            there = {node for node in names if node != me}
        case _ if phase == WAIT and (view is None or view.closed is None):
            there = {me} | (set() if view is None else {*view.contributions})
        case _ if phase == ATTEST and view is not None and view.commit is None:
            there = {me, *view.attested_ms}
        case _:
            return ()  # The ledger is further than the log.
    return [names[seat.node] for seat in audit.state.terms.members if seat.node not in there]
