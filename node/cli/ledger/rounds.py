"""`swarm ledger rounds | round`: who took part, with what weight and what result."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.reading import WHERE, date, names_of, read, round_view, sites_in
from node.cli.output import count, emit
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, weights


@click.command()
@WHERE
@JSON
def rounds(folder: Path, *, as_json: bool) -> None:
    """List the rounds: who was missing, how many samples, which model."""
    _, result = read(folder)
    names = names_of(result)
    rows, lines = [], [f"{'round':>5}  {'committed':<23}  {'sites':>7}  {'samples':>9}  {'model':<12}  without"]
    for view in result.rounds.values():
        shares = weights(view)
        members = sites_in(result, view)
        missing = [names[node] for node in members if node not in shares] if view.closed else []
        samples = sum(placed.body.samples for placed in view.closed.terms) if view.closed else 0
        model = view.commit.model_digest.hex() if view.commit else ""
        when = date(view.committed_ms) if view.commit else "closed" if view.closed else "open"
        rows.append(
            {
                "round": view.number,
                "committed_ms": view.committed_ms if view.commit else None,
                "sites": len(shares),
                "samples": samples,
                "model": model or None,
                "without": missing,
            }
        )
        lines.append(
            f"{view.number:>5}  {when:<23}  {len(shares):>3} of {len(members):<2} {samples:>9}  {model[:12]:<12}  "
            f"{', '.join(missing) or '-'}"
        )
    emit({"rounds": rows}, as_json=as_json, text="\n".join(line.rstrip() for line in lines))


@click.command("round")
@click.argument("number", type=int)
@WHERE
@JSON
def round_(number: int, folder: Path, *, as_json: bool) -> None:
    """Show who took part in round NUMBER, with what weight and what result."""
    _, result = read(folder)
    data, text = show_round(result, round_view(result, number))
    emit(data, as_json=as_json, text=text)


def show_round(result: Audit, view: RoundView) -> tuple[dict[str, object], str]:
    """Return a round for programs, and in words."""
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
            }
        )
        words = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
        weight = f"{shares[node]:7.2%}" if node in shares else "      -"
        lines.append(f"  {names[node]:<16} {samples or '-':>8} {weight}  {update or '-':<12}  {state:<10} {words}")
    commit = view.commit
    head = f"round {view.number}  " + (
        f"COMMITTED {date(view.committed_ms)} in block {view.height}"
        if commit
        else "OPEN"
        if not view.closed
        else "CLOSED"
    )
    model = f"model {commit.model_digest.hex()}, held by {count(commit.attests, 'site')}" if commit else "no model yet"
    table = f"  {'peer':<16} {'samples':>8}  weight  {'update':<12}  {'state':<10} on its held-out data"
    data: dict[str, object] = {
        "round": view.number,
        "committed": commit is not None,
        "model": commit.model_digest.hex() if commit else None,
        "peers": rows,
    }
    return data, "\n".join((head, model, table, *lines))
