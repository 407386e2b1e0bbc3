"""SHELL. A site's rules held against a charter, with what the site's folder knows: for whoever is about to agree."""

from __future__ import annotations

from node.config import Settings
from node.egress.policy import check, objections, policy_of
from node.egress.record import Record, rounds_elsewhere
from node.egress.waiting import Waiting
from node.site import Site
from node.spending import budget_of
from swarm.charter import SignedCharter
from swarm.machine import NodeId


def record_at(site: Site) -> Record:
    """Return the record of what has left a site."""
    return Record(site.egress / "log")


def waiting_at(site: Site) -> Waiting:
    """Return what waits for a site's people."""
    return Waiting(site.egress, site.blobs / "waiting")


def objections_at(site: Site, settings: Settings, signed: SignedCharter, me: NodeId) -> list[str]:
    """Return everything in which a charter, signed by all or not, asks for more than a site lets out.

    Raises:
        StoreError: the record of what has left cannot be read.
    """
    elsewhere = rounds_elsewhere(record_at(site).each(), signed.ledger_id.hex()[:16])
    budget = budget_of(settings, signed)
    return objections(policy_of(settings.egress), signed.charter, me, elsewhere=elsewhere, budget=budget)


def check_at(site: Site, settings: Settings, signed: SignedCharter, me: NodeId, what: str) -> None:
    """Raise `UsageError` with all the reasons if there are any, and `StoreError` as above. `what` was attempted."""
    check(objections_at(site, settings, signed, me), signed.charter.name, what)
