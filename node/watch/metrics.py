"""A look in numbers, as Prometheus reads them: names with units, one family a fact, labels only where sites differ.

What the ledger knows is there whether the node runs or not. Every family is described in `docs/reference/metrics.md`,
which a test holds against this file; dashboards and alert rules in `deploy/` use no other names.
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric

from node.watch.alerts import alerts, members
from node.watch.look import Look
from swarm.ledger.audit import RoundView, mean_scores, member_names, weights
from swarm.ledger.entry import METRIC_SCALE, REASONS
from swarm.ledger.participation import of_audit
from swarm.machine import NodeId
from swarm.round import Phase

PREFIX = "swarm_"


def families(look: Look) -> Iterator[Metric]:
    """Yield all that a look tells."""
    yield _gauge("node_up", "Whether this site's node answers.", float(look.status is not None))
    yield _gauge("disk_free_bytes", "Free on the disk of this site's folder.", look.disk_free)
    yield _gauge("ledger_disk_bytes", "What the ledger takes on it.", look.ledger_size)
    yield _alerting(look)
    yield from _of_ledger(look)
    yield from _of_rounds(look)
    if look.epsilon is not None:
        yield _gauge("privacy_epsilon_spent", "Privacy loss of this site's records so far.", look.epsilon)
    if look.budget is not None:
        yield _gauge("privacy_epsilon_budget", "What it may come to.", look.budget)
    yield from _of_node(look)


def _gauge(name: str, what: str, value: float) -> Metric:
    return GaugeMetricFamily(PREFIX + name, what, value=value)


def _alerting(look: Look) -> Metric:
    family = GaugeMetricFamily(
        PREFIX + "alert", "1 for each thing that people should look at.", labels=["name", "level"]
    )
    for (name, level), count in sorted(Tally((one.name, one.level) for one in alerts(look)).items()):
        family.add_metric([name, level], count)
    return family


def _of_ledger(look: Look) -> Iterator[Metric]:
    audit, state = look.audit, look.audit.state
    info = {"swarm": state.signed.charter.name, "site": look.name, "ledger": state.ledger_id.hex()}
    yield InfoMetricFamily(PREFIX + "ledger", "Which swarm, site and ledger this is.", value=info)
    yield _gauge("ledger_holds", "Whether the ledger holds as far as it was read, signatures aside.", not look.trouble)
    yield _gauge("ledger_blocks", "Final blocks.", audit.blocks)
    yield _gauge("ledger_entries", "Entries in them.", audit.entries)
    yield _gauge(
        "ledger_accused", "Members of whom it is proved that they contradicted themselves.", len(state.accused)
    )
    yield _gauge("members", "Members of the swarm.", len(state.terms.members))
    yield _gauge("quorum", "Members that it takes to agree.", state.terms.quorum)
    yield _gauge("rounds_committed", "Rounds that are committed.", state.committed.round)
    yield _gauge("rounds_planned", "The last round of the run.", state.last)
    yield _gauge("run_complete", "Whether the run is done.", state.complete)
    if (noise := state.signed.charter.site_noise) is not None:
        yield _gauge("site_epsilon_spent", "What all sums so far tell of any one site.", noise.epsilon(state.sums))
        yield _gauge("site_epsilon_budget", "What they may come to.", noise.budget.epsilon)


def _of_rounds(look: Look) -> Iterator[Metric]:
    audit = look.audit
    names, rounds = member_names(audit.epochs), audit.rounds
    metrics = audit.state.signed.charter.metrics
    rejected = CounterMetricFamily(PREFIX + "updates_rejected", "Updates left out of rounds.", labels=["reason"])
    tally = Tally(reason for view in rounds.values() if view.closed for _, reason in view.closed.body.rejected)
    for reason, count in sorted(tally.items()):
        rejected.add_metric([REASONS.get(reason, str(reason))], count)
    yield rejected
    missed = GaugeMetricFamily(
        PREFIX + "rounds_missed", "Closed rounds that no work of a site covers.", labels=["site"]
    )
    gaps = of_audit(audit).gaps()
    for seat in audit.state.terms.members:
        missed.add_metric([seat.name], len(gaps.get(seat.node, ())))
    yield missed
    committed = [view for view in rounds.values() if view.commit is not None]
    if committed:
        yield from _of_last(committed[-1], committed[-2].committed_ms if len(committed) > 1 else 0, names)
    scored = [view for view in committed[-2:] if view.evaluations]  # Those of the very last may still be on their way.
    if scored:
        yield from _scores(scored[-1], names, metrics)


def _of_last(view: RoundView, before_ms: int, names: dict[NodeId, str]) -> Iterator[Metric]:
    """Yield what is told of the last committed round; the one before was committed at Unix time `before_ms`, or 0."""
    shares, commit = weights(view), view.commit
    assert commit is not None, "it was chosen for that"
    yield _gauge("round_committed_timestamp_seconds", "When the last round was committed.", view.committed_ms / 1e3)
    if before_ms:
        yield _gauge("round_duration_seconds", "From the commit before to that.", (view.committed_ms - before_ms) / 1e3)
    yield _gauge("round_sites", "Sites whose work is in it.", len(shares))
    yield _gauge("round_samples", "Samples that they trained on.", commit.samples)
    weight = GaugeMetricFamily(PREFIX + "round_weight_ratio", "Share of a site in its mean.", labels=["site"])
    for node, share in shares.items():
        weight.add_metric([names[node]], share)
    yield weight
    if not commit.model_bytes:
        yield _gauge(
            "distance_max_ratio", "How far models are apart at most, of their norm.", commit.distance_max_ppm / 1e6
        )


def _scores(view: RoundView, names: dict[NodeId, str], metrics: tuple[str, ...]) -> Iterator[Metric]:
    """Yield what sites tell of the model of a round."""
    score = GaugeMetricFamily(
        PREFIX + "score", "What a site says of the model on its held-out data.", labels=["metric", "site"]
    )
    for node, told in view.evaluations.items():
        for index, value in told.metrics:
            if index < len(metrics):
                score.add_metric([metrics[index], names[node]], value / METRIC_SCALE)
    yield score
    mean = GaugeMetricFamily(PREFIX + "score_mean", "The mean of those, weighted by held-out cases.", labels=["metric"])
    for metric, average in mean_scores(view, metrics).items():
        mean.add_metric([metric], average)
    yield mean


def _of_node(look: Look) -> Iterator[Metric]:
    status = look.status
    if status is None:
        return
    told = {"software": str(status["software"]), "protocol": str(status["protocol"])}
    yield InfoMetricFamily(PREFIX + "node", "Versions of this site's node.", value=told)
    yield _gauge("round", "The round that this site is in.", float(str(status["round"])))
    phase = GaugeMetricFamily(PREFIX + "phase", "1 for the phase of that round it is in.", labels=["phase"])
    for one in Phase:
        phase.add_metric([one.name.lower()], float(one.name.lower() == status["phase"]))
    yield phase
    if status.get("eta_s") is not None:
        yield _gauge("run_remaining_seconds", "Until the run is done, at its pace so far.", float(str(status["eta_s"])))
    for name in ("paused", "halted", "resting"):
        yield _gauge(name, _STATES[name], float(bool(status.get(name))))
    others = [member for member in members(look) if not member.get("me")]
    families = {
        name: (GaugeMetricFamily if kind == "gauge" else CounterMetricFamily)(PREFIX + name, what, labels=["peer"])
        for name, (kind, what, _, _) in _LINKS.items()
    }
    for member in others:
        for name, (_, _, field, scale) in _LINKS.items():
            if field in member and member[field] is None:
                continue  # Not known is not nought.
            families[name].add_metric([str(member["name"])], scale * float(member.get(field) or 0))  # type: ignore[arg-type]
    yield from families.values()


_STATES = {
    "paused": "Whether too few sites are there to go on.",
    "halted": "Whether this site has stopped for good, after proof of a fork or a failure.",
    "resting": "Whether this site trains nothing for now.",
}

_LINKS = {
    "link_up": ("gauge", "Whether there is a link.", "linked", 1.0),
    "link_received_bytes": ("counter", "Blobs received, since the link is up.", "received_bytes", 1.0),
    "link_sent_bytes": ("counter", "Blobs sent, since the link is up.", "sent_bytes", 1.0),
    "link_rate_bytes_per_second": ("gauge", "At what rate it brings blobs.", "rate_bytes_s", 1.0),
    "link_round_trip_seconds": ("gauge", "A word to a peer and its answer, smoothed.", "round_trip_s", 1.0),
    "link_round_trip_variation_seconds": ("gauge", "The mean deviation of that.", "round_trip_variation_s", 1.0),
    "peer_round": ("gauge", "The round that a peer says it is in.", "round", 1.0),
    "peer_idle_seconds": ("gauge", "Since a peer made progress, as far as this site has heard.", "moved_s", 1.0),
    "peer_clock_offset_seconds": ("gauge", "By how much its clock is ahead.", "clock_offset_ms", 0.001),
}
