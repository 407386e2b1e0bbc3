"""A model's card, filled from the ledger: who made it, by which terms, how it scored where, and what nobody knows.

Model cards (Mitchell et al., "Model cards for model reporting", 2019) are what people who did not train a model read
before they use it. What a ledger has on record is filled in; what only people can say stands there as a question, so
that an empty answer is seen. The text is Markdown under a block of metadata as model hubs read it, and a function of
the ledger alone: every site that holds the same entries writes the same bytes. But for one part, which a site that has
attacked its own updates adds in its own name.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

from node.audits import OFFERED, Audited, leaks
from node.lineage import holding, withdrawals, withdrawn
from node.svg import date
from swarm.charter import Charter, SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, mean_scores, member_names, weights
from swarm.ledger.participation import gaps_words, of_audit, ranges, rounds_words
from swarm.ledger.state import best_of, noise_words, outcome
from swarm.machine import NodeId

QUESTIONS = (
    ("Intended use", "For whom and for what is this model meant? For what is it not?"),
    ("Data", "What were the data at each site, from when, of whom, and by which right were they used?"),
    ("Ethics and approvals", "Which boards have approved this, under which numbers?"),
    ("Known risks", "For which people or machines does it do worse? Who was asked?"),
    ("Contact", "Who answers for this model?"),
)

Gaps: TypeAlias = Mapping[NodeId, Sequence[int]]
"""The rounds that no work of a site covers."""

UNSAID = "*To be answered by the members: the ledger does not say.*"


def card(signed: SignedCharter, result: Audit, audits: Sequence[Audited] = ()) -> str:
    """Return the card of the last committed model, as Markdown.

    Args:
        signed: the charter.
        result: an audit that holds.
        audits: this site's attacks on its own updates, all of this ledger.
    """
    charter, state = signed.charter, result.state
    names = member_names(result.epochs)
    done = state.committed
    view = result.rounds.get(done.round)
    gaps = of_audit(result).gaps()
    parts = [
        _metadata(charter, view),
        f"# {charter.name}, round {done.round}\n",
        _summary(charter, result, gaps),
        "## How it was made\n",
        _terms(charter, result),
        "## Who made it\n",
        _members(result, names, gaps),
        "## How it scores\n",
        _scores(charter, view, names),
        "## Privacy\n",
        _privacy(result),
        *_audited(audits),
        "## Work that was taken back\n",
        _withdrawn(signed, result, names),
        *(f"## {title}\n\n{question} {UNSAID}\n" for title, question in QUESTIONS),
        "## What the ledger does not prove\n",
        (
            "Numbers of samples and scores are each site's own word: the ledger proves who signed it, and that it was"
            " not changed since. It does not prove that the data were what they should be, nor that the model is fit"
            " for any use.\n"
        ),
        "## How to check this card\n",
        _checking(signed, result),
    ]
    return "\n".join(parts)


def _metadata(charter: Charter, view: RoundView | None) -> str:
    """What model hubs read. Names are letters, digits, - and _ alone, so that nothing needs quoting."""
    lines = ["---", "library_name: pytorch", "tags:", "- swarm-learning", "- federated-learning"]
    means = {} if view is None else mean_scores(view, charter.metrics)
    if means:
        lines += [
            "model-index:",
            f"- name: {charter.name}",
            "  results:",
            "  - task:",
            f"      name: {charter.task.name}",
        ]
        lines += ["    dataset:", "      name: held-out data of the sites", "      type: private", "    metrics:"]
        for name, value in means.items():
            lines += [f"    - type: {name}", f"      value: {value:.6g}"]
    return "\n".join([*lines, "---", ""])


def _summary(charter: Charter, result: Audit, gaps: Gaps) -> str:
    state = result.state
    done = state.committed
    what = f"A model of {charter.task.parameters:,} parameters, trained by {len(state.terms.members)} sites"
    rounds = f"round {done.round} of {state.terms.round.rounds}"
    ended = "every round that was agreed on is committed" if state.complete else "the run is not over"
    ended = f"the run was {outcome(state)}" if state.stopped else ended
    whose = "Every site's work is in it" if not gaps else "Some site's work is missing for some rounds (below)"
    return f"{what} that share no data, with nobody in the middle: {rounds}; {ended}. {whose}.\n"


def _terms(charter: Charter, result: Audit) -> str:
    policy = result.state.terms.round
    done = result.state.committed
    model = done.model.hex() if done.model_bytes else "each site's own: the last round was one of gossip"
    begun = "" if charter.predecessor else f", drawn from the charter's seed {charter.task.seed}"
    rows = [
        ("Model", f"`{model}`"),
        ("Started from", f"`{charter.task.initial_model.hex()}`{begun}"),
        ("Code of the task", f"`{charter.task.digest.hex()}` ({charter.task.name})"),
        ("Layout of the parameters", f"`{charter.task.layout.hex()}`"),
        ("Mixing", policy.mixing + (f", outer optimiser {policy.outer}" if policy.outer != "none" else "")),
        ("Norm of an update", f"clipped to {policy.clip_norm_milli / 1000:g}"),
        ("Share of one site", f"at most {policy.weight_cap_ppm / 10_000:g} %"),
        *((name, f"`{value}`") for name, value in charter.options),
        ("Began", date(charter.created_ms)),
    ]
    view = result.rounds.get(done.round)
    if view is not None:
        rows.append(("Committed", date(view.committed_ms)))
    best = best_of(result.state)
    if best is not None and charter.stop is not None:
        which = f", model `{best.model.hex()}`" if best.model_bytes else ", when each site had a model of its own"
        rows.append((f"Best round by {charter.stop.metric}", f"{best.round}{which}"))
    if charter.predecessor:
        ledger, size, _ = charter.predecessor[0]
        rows.append(("Continues", f"ledger `{ledger.hex()}` of {size} entries"))
    return _table(("", ""), rows)


def _members(result: Audit, names: Mapping[NodeId, str], gaps: Gaps) -> str:
    rounds: dict[NodeId, list[int]] = {}
    shares: dict[NodeId, float] = {}
    samples: dict[NodeId, int] = {}
    closed = [view for _, view in sorted(result.rounds.items()) if view.commit is not None and view.closed is not None]
    for view in closed:
        assert view.closed is not None, "only closed rounds are looked at"
        for node, share in weights(view).items():
            shares[node] = shares.get(node, 0.0) + share
        for placed in view.closed.terms:
            rounds.setdefault(placed.author, []).append(view.number)
            samples[placed.author] = placed.body.samples
    today = {seat.node for seat in result.state.terms.members}
    rows = [
        (
            name if node in today else f"{name} (left)",
            f"{samples[node]:,}" if node in samples else "-",
            f"{shares.get(node, 0.0) / max(len(closed), 1):.1%}",
            ranges(rounds.get(node, [])) or "none",
            ranges(gaps.get(node, [])) or "none",
        )
        for node, name in names.items()
    ]
    head = ("Site", "Samples (its word)", "Mean share", "In the rounds", "Rounds without its work")
    words = gaps_words(gaps, names)
    return _table(head, rows) + (f"\nNo work of {words}.\n" if words else "")


def _scores(charter: Charter, view: RoundView | None, names: Mapping[NodeId, str]) -> str:
    if view is None or not view.evaluations or not charter.metrics:
        return "No site has put a score of this model on record.\n"
    rows = []
    for node, name in names.items():
        body = view.evaluations.get(node)
        if body is None:
            continue
        values = dict(body.metrics)
        cells = (f"{values[i] / e.METRIC_SCALE:.4g}" if i in values else "-" for i in range(len(charter.metrics)))
        rows.append((name, f"{body.samples:,}", *cells))
    means = mean_scores(view, charter.metrics)
    mean = (f"{means[name]:.4g}" if name in means else "-" for name in charter.metrics)
    total = sum(body.samples for body in view.evaluations.values())
    rows.append(("mean, by held-out samples", f"{total:,}", *mean))
    text = "Each site on its own held-out data, which nobody else has seen.\n\n"
    return text + _table(("Site", "Held-out samples", *charter.metrics), rows)


def _privacy(result: Audit) -> str:
    """What sums with noise have told of any one site, and the largest budget that any site says to have spent."""
    swarm = noise_words(result.state)
    sites = _sites_privacy(result, noised=bool(swarm))
    if not swarm:
        return sites
    return (
        f"Sums of updates carry noise: {swarm}. Sample counts, and scores that sites tell on held-out data, are outside"
        f" of this; that an update is within the norm bound is its site's own word, and protects it.\n\n{sites}"
    )


def _sites_privacy(result: Audit, *, noised: bool) -> str:
    """The largest budget that any site says to have spent on its records, by its last contribution."""
    spent = [placed.body.privacy for view in result.rounds.values() for placed in view.contributions.values()]
    epsilons = [(epsilon, delta) for epsilon, delta, _ in spent if epsilon]
    if not epsilons and noised:
        return "No site says that it has trained privately besides, which bounds what an update tells of one record.\n"
    if not epsilons:
        return (
            "No site says that it has added noise for differential privacy. Updates were clipped, which bounds what one"
            " site can do to the model and promises nothing about a person in its data.\n"
        )
    epsilon, delta = max(epsilons)
    return f"Sites say to have spent up to epsilon {epsilon / 1000:g} at delta 1e-{delta}.\n"


def _audited(audits: Sequence[Audited]) -> list[str]:
    """Every audit there is, those that found nothing beside those that found something."""
    if not audits:
        return []
    text = (
        "One site has attacked its own updates, and says this of all its attempts. An attack that finds nothing proves"
        " nothing about the next one.\n\n"
    )
    rows = [
        (
            date(one["time_ms"]),
            f"round {one['round']}, as offered" if one["kind"] == OFFERED else "trained to be attacked",
            f"{one['membership']['advantage']:.3f} ({span['low']:.3f} to {span['high']:.3f})",
            ", ".join(leaks(one)) or "none by these attacks",
        )
        for one in audits
        for span in (one["membership"]["span"],)
    ]
    head = ("When", "What", "Membership advantage (95 %)", "Leaks found")
    return ["## Attacks on one site's updates\n", text + _table(head, rows)]


def _withdrawn(signed: SignedCharter, result: Audit, names: Mapping[NodeId, str]) -> str:
    notes = withdrawals(result)
    if not notes:
        return "None.\n"
    found = holding(signed, result, withdrawn(result))
    lines = [
        f"- {names[one.author]} took back its work of {rounds_words(one.body.first, one.body.last)}"
        f" on {date(one.time_ms)} (entry {one.index})"
        for one in notes
    ]
    holds = result.state.committed.round in found.rounds
    verdict = (
        f"**This model holds work that was taken back.** The last that holds none is that of round {found.clean}."
        if holds
        else "This model holds none of it."
    )
    return "\n".join([*lines, "", verdict, ""])


def _checking(signed: SignedCharter, result: Audit) -> str:
    state = result.state
    rows = [
        ("Ledger", f"`{signed.ledger_id.hex()}`"),
        ("Entries", str(state.size)),
        ("Root of the tree", f"`{state.frontier.root().hex()}`"),
        ("Rounds committed", str(state.committed.round)),
        ("Contradictions on record", str(len(state.accused))),
    ]
    text = (
        "\nWhoever has the ledger writes this card anew with `swarm ledger card`, checks every signature with `swarm"
        " ledger verify`, and sees what the model was made of with `swarm ledger lineage`.\n"
    )
    return _table(("", ""), rows) + text


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    lines = [_row(head), "|" + "---|" * len(head), *(_row(row) for row in rows)]
    return "\n".join(lines) + "\n"


def _row(cells: Sequence[str]) -> str:
    """Names come from strangers: what would end a cell, or begin a link or a tag, is escaped."""
    return "| " + " | ".join(cell.replace("|", "\\|").replace("<", "&lt;") for cell in cells) + " |"
