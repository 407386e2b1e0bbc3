"""`swarm ledger rounds | round`: who took part, with what weight and what result."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import click

from node.cli.ledger.forms import listed, shown
from node.cli.ledger.naming import ROUND
from node.cli.ledger.reading import (
    WHERE,
    Source,
    committed_words,
    date,
    entries_of,
    names_of,
    read,
    round_view,
    sites_in,
)
from node.cli.output import Form, count, emit, emit_rows
from swarm import codec
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, weights
from swarm.ledger.block import NO_HASH
from swarm.machine import NodeId


@click.command(epilog="Example: swarm ledger rounds --format jsonl")
@WHERE
@listed()
def rounds(folder: Path, *, form: Form) -> None:
    """List the rounds: who was missing, how many samples, which model."""
    _, result = read(folder)
    head = f"{'round':>5}  {'committed':<23}  {'sites':>7}  {'samples':>9}  {'model':<12}  without"
    emit_rows("rounds", _rows(result), form=form, head=[head], none="none yet: no site has contributed to any")


def _rows(result: Audit) -> Iterator[tuple[dict[str, object], str]]:
    names = names_of(result)
    for view in result.rounds.values():
        shares = weights(view)
        members = sites_in(result, view)
        missing = [names[node] for node in members if node not in shares] if view.closed else []
        samples = sum(placed.body.samples for placed in view.closed.terms) if view.closed else 0
        model = _model(view.commit)
        shown_model = model[:12] if model else "several" if view.commit else ""
        when = date(view.committed_ms) if view.commit else "closed" if view.closed else "open"
        plain: dict[str, object] = {
            "round": view.number,
            "committed_ms": view.committed_ms if view.commit else None,
            "sites": len(shares),
            "samples": samples,
            "model": model,
            "without": missing,
        }
        line = f"{view.number:>5}  {when:<23}  {len(shares):>3} of {len(members):<2} {samples:>9}  {shown_model:<12}  "
        yield plain, line + (", ".join(missing) or "-")


@click.command("round", epilog="Example: swarm ledger round 12")
@click.argument("number", metavar="ROUND")
@WHERE
@shown
def round_(number: str, folder: Path, *, as_json: bool) -> None:
    """Show who took part in a round, with what weight and what result. ROUND is its number, as 3 or r3."""
    wanted = ROUND.number(number)
    if wanted is None:
        raise UsageError(f"couldn't read {number!r} as a round", hint="say its number, as 3 or r3")
    files, result = read(folder)
    data, text = show_round(files, result, round_view(result, wanted))
    emit(data, as_json=as_json, text=text)


def show_round(files: Source, result: Audit, view: RoundView) -> tuple[dict[str, object], str]:
    """Return a round for programs, and in words."""
    came_late = _late(files, view)
    names, metric_names = names_of(result), result.state.signed.charter.metrics
    sites = sites_in(result, view)
    gone = [node for node in names if node in view.contributions and node not in sites]
    shares = weights(view)
    rejected = dict(view.closed.body.rejected) if view.closed else {}
    rows, lines = [], []
    for node in (*sites, *gone):
        placed, scored = view.contributions.get(node), view.evaluations.get(node)
        told = scored.metrics if scored else ()
        metrics = {metric_names[i]: v / e.METRIC_SCALE for i, v in told if i < len(metric_names)}
        if placed is None:
            state = "MISSING" if view.closed else "not yet"
            state += f" (late: entry {came_late[node]})" if node in came_late else ""
        elif node in gone:
            state = "LEFT before it closed"
        elif placed.index in rejected:
            state = f"REJECTED ({e.REASONS[rejected[placed.index]]})"
        else:
            state = "in" if node in shares else "contributed"
        samples = placed.body.samples if placed else 0
        update = placed.body.update_digest.hex()[:12] if placed else ""
        rows.append(
            {
                "peer": names[node],
                "state": state,
                "samples": samples,
                "weight": round(shares.get(node, 0.0), 6),
                "update": update,
                "held_out": scored.samples if scored else 0,
                "metrics": metrics,
                "late": came_late.get(node),
            }
        )
        words = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        weight = f"{shares[node]:7.2%}" if node in shares else "      -"
        line = f"  {names[node]:<16} {samples or '-':>8} {weight}  {update or '-':<12}  {state:<10} {words}"
        lines.append(line.rstrip())
    commit = view.commit
    head = f"round {view.number}  " + (
        f"COMMITTED {date(view.committed_ms)} in block {view.height}"
        if commit
        else "OPEN"
        if not view.closed
        else "CLOSED"
    )
    model = "no model yet"
    if commit is not None:
        agreed = f"model {commit.model_digest.hex()}, held by {count(commit.attests, 'site')}"
        model = agreed if commit.model_digest != NO_HASH else committed_words(commit)
    table = f"  {'peer':<16} {'samples':>8}  weight  {'update':<12}  {'state':<10} on its held-out data"
    data: dict[str, object] = {
        "round": view.number,
        "committed": commit is not None,
        "model": _model(commit),
        "distance_max_ppm": commit.distance_max_ppm if commit and not _model(commit) else None,
        "distance_mean_ppm": commit.distance_mean_ppm if commit and not _model(commit) else None,
        "peers": rows,
    }
    return data, "\n".join((head, model, table, *lines))


def _model(commit: e.RoundCommit | None) -> str | None:
    """Return the digest of the one model of a round; in gossip, as long as models differ, there is none."""
    return None if commit is None or commit.model_digest == NO_HASH else commit.model_digest.hex()


def _late(files: Source, view: RoundView) -> dict[NodeId, int]:
    """Return by author the place of the first contribution that came when the round had closed: on record, not in."""
    if view.closed is None:
        return {}
    found: dict[NodeId, int] = {}
    for placed in entries_of(files):
        if placed.entry.kind == e.CONTRIBUTION and placed.index > view.closed.index:
            body = codec.decode(placed.entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
            if body.round == view.number:
                found.setdefault(NodeId(placed.entry.author), placed.index)
    return found
