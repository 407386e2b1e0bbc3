"""What the page is told: a site as it stands, and its rounds one by one, as plain values for JSON.

Everything about rounds comes from the ledger, so that it is the same at every site and can be checked there. Sites are
named by their place in `sites`, in the order in which they came; times are Unix milliseconds, sizes bytes, shares
0 to 1.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TypeAlias

from node.console import PHASES, member_state
from node.contributions import Account, accounts
from node.exchanges import exchanges_of
from node.watch.alerts import alerts, members
from node.watch.look import Look
from node.watch.server import unready
from swarm.ledger.audit import Audit, RoundView, member_names, weights
from swarm.ledger.entry import KIND_NAMES, METRIC_SCALE, REASONS
from swarm.ledger.participation import of_audit
from swarm.ledger.state import best_of, noise_words, outcome
from swarm.machine import NodeId

Document: TypeAlias = dict[str, object]

SETTLING = 2
"""Rounds before the last committed one that may still change: sites evaluate a model after it is agreed on."""

_TOLD = (
    "phase",
    "round",
    "eta_s",
    "resting",
    "paused",
    "halted",
    "refused",
    "waiting",
    "outcome",
    "reason",
    "protocol",
    "software",
)
"""What a node says of itself and the page shows."""

_LINK = (
    "linked",
    "via",
    "absent",
    "refused",
    "trouble",
    "protocol",
    "software",
    "rate_bytes_s",
    "round",
    "phase",
    "step",
    "steps",
    "received_bytes",
    "sent_bytes",
    "moved_s",
    "clock_offset_ms",
    "round_trip_s",
    "round_trip_variation_s",
)
"""What a node says of each member and the page shows."""


@dataclass(frozen=True, slots=True)
class Sums:
    """What all rounds so far come to, by site: the rounds that no work of it covers, and what it contributed."""

    gaps: Mapping[NodeId, Sequence[int]]
    accounts: Mapping[NodeId, Account]


def sums(audit: Audit) -> Sums:
    """Add up all rounds: who asks every second does so again only when there are more blocks."""
    return Sums(of_audit(audit).gaps(), {account.node: account for account in accounts(audit)})


def state(look: Look, whole: Sums | None = None) -> Document:
    """Return how a site stands, without its rounds; `whole` is `sums` of its audit, if somebody has it already."""
    audit, charter = look.audit, look.audit.state.signed.charter
    best = best_of(audit.state)
    why = unready(look)
    return {
        "site": look.name,
        "swarm": charter.name,
        "ledger_id": audit.state.ledger_id.hex(),
        "root": audit.state.frontier.root().hex(),
        "blocks": audit.blocks,
        "entries": audit.entries,
        "holds": not look.trouble,
        "trouble": look.trouble,
        "alerts": [asdict(one) for one in alerts(look)],
        "ready": not why,
        "why": why,
        "quorum": audit.state.terms.quorum,
        "tolerance": audit.state.terms.fault_tolerance(),
        "epoch": audit.state.terms.epoch,
        "committed": audit.state.committed.round,
        "planned": audit.state.last,
        "complete": audit.state.complete,
        "outcome": outcome(audit.state) if audit.state.complete else "",
        "best": None if best is None else best.round,
        "mixing": charter.round.mixing,
        "asynchronous": charter.asynchronous,
        "masks": charter.masks,
        "metrics": list(charter.metrics),
        "kinds": list(KIND_NAMES.values()),
        "opened_ms": charter.created_ms,
        "disk_free": look.disk_free,
        "ledger_size": look.ledger_size,
        "epsilon": look.epsilon,
        "budget": look.budget,
        "site_noise": noise_words(audit.state),
        "node": None if look.status is None else _node(look.status),
        "silence": look.silence,
        "sites": _sites(look, sums(look.audit) if whole is None else whole),
    }


def _node(status: Mapping[str, object]) -> Document:
    phase = str(status.get("phase"))
    return {"doing": PHASES.get(phase, phase), **{name: status.get(name) for name in _TOLD}}


def _sites(look: Look, whole: Sums) -> list[Document]:
    audit = look.audit
    told = {str(one["node"]): one for one in members(look)}
    seats = {seat.node: seat for seat in audit.state.terms.members}
    found = []
    for node, name in member_names(audit.epochs).items():
        link, account = told.get(node.hex()), whole.accounts[node]
        seat = seats.get(node)
        mark, words = ("", "") if link is None else member_state(link)[:2]
        found.append(
            {
                "name": name,
                "node": node.hex(),
                "id_key": None if seat is None else seat.id_key.hex(),
                "endpoint": "" if seat is None else seat.endpoint,
                "member": seat is not None,
                "me": bool(link.get("me")) if link else name == look.name,
                "link": None if link is None else {field: link.get(field) for field in _LINK},
                "mark": mark,
                "words": words,
                "update": None if link is None else link.get("update"),
                "gaps": list(whole.gaps.get(node, ())),
                "rounds": account.rounds,
                "samples": account.samples,
                "share": None if account.share_ppm is None else account.share_ppm / 1e6,
                "score": None if account.score is None else account.score / 1e6,
                "error": account.error / 1e6,
            }
        )
    return found


def rounds(audit: Audit, since: int = 0) -> list[Document]:
    """Return the rounds from `since` on, less those that cannot have changed since it was committed."""
    places = {node: place for place, node in enumerate(member_names(audit.epochs))}
    numbers = sorted(audit.rounds)
    return [
        _round(audit, audit.rounds[number], audit.rounds.get(number - 1), places)
        for number in numbers
        if number >= since - SETTLING
    ]


def _round(audit: Audit, view: RoundView, before: RoundView | None, places: Mapping[NodeId, int]) -> Document:
    shares, commit = weights(view), view.commit
    authors = {placed.index: node for node, placed in view.contributions.items()}
    close = None if view.closed is None else view.closed.body
    began = audit.state.signed.charter.created_ms if view.number == 1 else 0 if before is None else before.committed_ms
    updates = {placed.author: placed.body for placed in (view.closed.terms if view.closed is not None else ())}
    updates = {node: placed.body for node, placed in view.contributions.items()} | updates
    return {
        "round": view.number,
        "began_ms": began,
        "closed_ms": view.closed_ms,
        "committed_ms": view.committed_ms,
        "height": view.height,
        "offered": _by_place(view.offered_ms, places),
        "attested": _by_place(view.attested_ms, places),
        "weights": _by_place(shares, places),
        "samples": {places[node]: body.samples for node, body in updates.items() if node in places},
        "bytes": {places[node]: body.update_bytes for node, body in updates.items() if node in places},
        "late": [places[node] for node, body in updates.items() if node in shares and body.round < view.number],
        "pairs": _pairs(audit, view, places),
        "missing": [] if close is None else [places[NodeId(node)] for node in close.missing if NodeId(node) in places],
        "rejected": [] if close is None else _rejected(close.rejected, authors, places),
        "local": _metrics({node: body.metrics for node, body in updates.items()}, places),
        "swarm": _metrics({node: body.metrics for node, body in view.evaluations.items()}, places),
        "held_out": {places[node]: body.samples for node, body in view.evaluations.items() if node in places},
        "epsilon": {
            places[node]: body.privacy[0] / 1000 for node, body in updates.items() if node in places and body.privacy[0]
        },
        "model_bytes": 0 if commit is None else commit.model_bytes,
        "model": "" if commit is None or not commit.model_bytes else commit.model_digest.hex(),
        "distance_max": None if commit is None or commit.model_bytes else commit.distance_max_ppm / 1e6,
        "distance_mean": None if commit is None or commit.model_bytes else commit.distance_mean_ppm / 1e6,
    }


def _pairs(audit: Audit, view: RoundView, places: Mapping[NodeId, int]) -> list[tuple[int, int]]:
    """Return who exchanged models with whom in a round of gossip; nothing where all have the mean of all."""
    met = exchanges_of(audit.state.signed, view)
    return [] if met is None else [(places[a], places[b]) for a, b in met.pairs if a in places and b in places]


def _by_place(values: Mapping[NodeId, float], places: Mapping[NodeId, int]) -> dict[int, float]:
    return {places[node]: value for node, value in values.items() if node in places}


def _rejected(
    pairs: Sequence[tuple[int, int]], authors: Mapping[int, NodeId], places: Mapping[NodeId, int]
) -> list[tuple[int, str]]:
    return [
        (places[authors[index]], REASONS.get(reason, str(reason)))
        for index, reason in pairs
        if authors.get(index) in places
    ]


def _metrics(
    told: Mapping[NodeId, Sequence[tuple[int, int]]], places: Mapping[NodeId, int]
) -> dict[int, dict[int, float]]:
    """Return by site, and within by the charter's number of the metric, its value."""
    return {
        places[node]: {index: value / METRIC_SCALE for index, value in pairs}
        for node, pairs in told.items()
        if node in places and pairs
    }
