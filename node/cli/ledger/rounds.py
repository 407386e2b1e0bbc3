"""`swarm ledger rounds | round`: who took part, with what weight and what result."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import click

from node.cli.forms import listed, shown
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
    stop_words,
)
from node.cli.output import NOT_FOUND, Failure, Form, count, emit, emit_rows
from node.exchanges import MATRIX_MEMBERS_MAX, Exchanges, exchanges_of
from node.scoring.words import told_interval, told_words
from swarm import codec
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, RoundView, weights
from swarm.ledger.block import NO_HASH
from swarm.ledger.participation import gaps_words, of_audit
from swarm.machine import NodeId
from swarm.mixing import rules
from swarm.mixing.rules import standings


@click.command(epilog="Example: swarm ledger rounds --format jsonl")
@WHERE
@listed()
def rounds(folder: Path, *, form: Form) -> None:
    """List the rounds: who was missing, how many samples, which model."""
    _, result = read(folder)
    ended = "model/pairs" if result.state.signed.charter.schedule else "model"
    head = f"{'round':>5}  {'committed':<23}  {'sites':>7}  {'samples':>9}  {ended:<12}  without"
    names, gaps = names_of(result), of_audit(result).gaps()
    rest: dict[str, object] = {"subset": bool(gaps), "gaps": {names[node]: numbers for node, numbers in gaps.items()}}
    foot = (
        [f"A SUBSET so far: no work of {gaps_words(gaps, names)}, and none that came late and counts."] if gaps else []
    )
    if told := stop_words(result.state):
        foot.append(f"{told[:1].upper()}{told[1:]}.")
        rest |= {"stopping": told}
    none = "none yet: no site has contributed to any"
    emit_rows("rounds", _rows(result), form=form, head=[head], none=none, foot=foot, rest=rest)


def _rows(result: Audit) -> Iterator[tuple[dict[str, object], str]]:
    names = names_of(result)
    for view in result.rounds.values():
        shares = weights(view)
        members = sites_in(result, view)
        missing = [names[node] for node in members if node not in shares] if view.closed else []
        samples = sum(placed.body.samples for placed in view.closed.terms) if view.closed else 0
        model = _model(view.commit)
        met = exchanges_of(result.state.signed, view)
        ended = model[:12] if model else "" if met is None else f"{len(met.pairs)} of {met.scheduled} pairs"
        when = date(view.committed_ms) if view.commit else "closed" if view.closed else "open"
        plain: dict[str, object] = {
            "round": view.number,
            "committed_ms": view.committed_ms if view.commit else None,
            "sites": len(shares),
            "samples": samples,
            "model": model,
            "pairs": None if met is None else len(met.pairs),
            "scheduled": None if met is None else met.scheduled,
            "without": missing,
        }
        line = f"{view.number:>5}  {when:<23}  {len(shares):>3} of {len(members):<2} {samples:>9}  {ended:<12}  "
        yield plain, line + (", ".join(missing) or "-")


@click.command("round", epilog="Example: swarm ledger round 12")
@click.argument("number", metavar="ROUND")
@WHERE
@click.option(
    "--matrix", is_flag=True, help="In gossip, the round's matrix too: by what share each took in the others."
)
@shown
def round_(number: str, folder: Path, *, matrix: bool, as_json: bool) -> None:
    """Show who took part in a round, with what weight and what result. ROUND is its number, as 3 or r3.

    Of a round of gossip, who exchanged models with whom, and who was to and did not.
    """
    wanted = ROUND.number(number)
    if wanted is None:
        raise UsageError(f"couldn't read {number!r} as a round", hint="say its number, as 3 or r3")
    files, result = read(folder)
    view = round_view(result, wanted)
    data, text = show_round(files, result, view)
    if matrix:
        shares, table = _matrix(result, view)
        data, text = data | {"matrix": shares}, f"{text}\n{table}"
    emit(data, as_json=as_json, text=text)


def show_round(files: Source, result: Audit, view: RoundView) -> tuple[dict[str, object], str]:
    """Return a round for programs, and in words."""
    came_late, met = _late(files, view), exchanges_of(result.state.signed, view)
    names, metric_names = names_of(result), result.state.signed.charter.metrics
    sites = sites_in(result, view)
    gone = [node for node in names if node in view.contributions and node not in sites]
    shares = weights(view)
    rejected = dict(view.closed.body.rejected) if view.closed else {}
    rule, stands = _rule(result, view), _standings(result, view)
    rows, lines = [], []
    for node in (*sites, *gone):
        placed, scored = view.contributions.get(node), view.evaluations.get(node)
        told = scored.metrics if scored else ()
        metrics = {metric_names[i]: v / e.METRIC_SCALE for i, v in told if i < len(metric_names)}
        held_out = scored.samples if scored else 0
        withheld = scored is not None and not held_out
        spans = {name: told_interval(name, v, held_out, metrics) for name, v in metrics.items()}
        if placed is None:
            state = "MISSING" if view.closed else "not yet"
            state += f" (late: entry {came_late[node]})" if node in came_late else ""
        elif node in gone:
            state = "LEFT before it closed"
        elif placed.index in rejected:
            state = f"REJECTED ({e.REASONS[rejected[placed.index]]})"
        else:
            state = (stands.get(node, "").partition(":")[0] or "in") if node in shares else "contributed"
        samples = placed.body.samples if placed else 0
        offered_ = placed.body.offered[0] if placed and met else placed.body.update_digest if placed else b""
        update = offered_.hex()[:12]
        rows.append(
            {
                "peer": names[node],
                "state": state,
                "samples": samples,
                "weight": round(shares.get(node, 0.0), 6),
                "update": update,
                "ended_with": view.models[node].hex() if node in view.models else None,
                "held_out": held_out,
                "metrics": metrics,
                "intervals": {name: [span.low, span.high] for name, span in spans.items() if span is not None},
                "withheld": withheld,
                "late": came_late.get(node),
                "why": stands.get(node) or None,
            }
        )
        words = "  ".join(f"{name} {told_words(name, v, held_out, metrics)}" for name, v in metrics.items())
        words = "withheld: too few cases" if withheld else words
        weight = f"{shares[node]:7.2%}" if node in shares else "      -"
        ended = f"{view.models[node].hex()[:12] if node in view.models else '-':<12}  " if met else ""
        line = f"  {names[node]:<16} {samples or '-':>8} {weight}  {update or '-':<12}  {ended}{state:<10} {words}"
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
    offered, ended = ("offered", f"{'ended with':<12}  ") if met else ("update", "")
    reasons = [f"{names[node]} {words}" for node, words in stands.items() if words]
    by = [] if rule is None else [f"by the rule {rule}, every update counting as one: {rule.words}"]
    table = f"  {'peer':<16} {'samples':>8}  weight  {offered:<12}  {ended}{'state':<10} on its held-out data"
    data: dict[str, object] = {
        "round": view.number,
        "committed": commit is not None,
        "model": _model(commit),
        "rule": None if rule is None else str(rule),
        "distance_max_ppm": commit.distance_max_ppm if commit and not _model(commit) else None,
        "distance_mean_ppm": commit.distance_mean_ppm if commit and not _model(commit) else None,
        **_exchanged(met, names),
        "peers": rows,
    }
    return data, "\n".join((head, model, *by, table, *lines, *reasons, *_exchange_lines(met, names)))


def _rule(result: Audit, view: RoundView) -> rules.Rule | None:
    """Return the rule by which a round was or will be averaged, if by any."""
    state = result.state
    exchanging = view.closed.exchange if view.closed is not None else state.exchanging
    return state.signed.charter.rule_of(exchanging=exchanging)


def _standings(result: Audit, view: RoundView) -> dict[NodeId, str]:
    """Say of each member in a round under a rule that it was left out or counted for less, and why; "" if neither."""
    rule = _rule(result, view)
    if rule is None or not view.mixed:
        return {}
    return dict(zip(view.mixed, standings(rule, [*view.mixed.values()]), strict=True))


def _exchanged(met: Exchanges | None, names: Mapping[NodeId, str]) -> dict[str, object]:
    """Return for programs who exchanged with whom; None in a round that is not one of gossip, or not closed."""
    if met is None:
        return {"pairs": None, "skipped": None, "whole": None}
    skipped = [{"pair": [names[s.one], names[s.other]], "peer": names[s.who], "why": s.why} for s in met.skipped]
    pairs = [[names[one], names[other]] for one, other in met.pairs]
    return {"pairs": pairs, "skipped": skipped, "whole": [names[node] for node in met.whole]}


def _exchange_lines(met: Exchanges | None, names: Mapping[NodeId, str]) -> list[str]:
    if met is None:
        return []
    lines = [f"exchanged  {len(met.pairs)} of {count(met.scheduled, 'pair')}, each said by both before the close"]
    lines += [f"  {names[one]} {met.joint} {names[other]}" for one, other in met.pairs]
    lines += [f"  not {names[s.one]} {met.joint} {names[s.other]}: {names[s.who]} {s.why}" for s in met.skipped]
    lines += [f"  {names[node]} offered its model whole: it had no public copy to move on from" for node in met.whole]
    return lines


def _matrix(result: Audit, view: RoundView) -> tuple[dict[str, object], str]:
    """Return the matrix of a round of gossip: row by row, by what shares a member took in the models offered."""
    met, names = exchanges_of(result.state.signed, view), names_of(result)
    if met is None:
        why = "it is not closed yet" if view.closed is None else "all its models were averaged into one"
        raise Failure(
            f"couldn't print the matrix of round {view.number}: {why}",
            code=NOT_FOUND,
            hint="name a closed round of a swarm that mixes by gossip, other than its last",
        )
    nodes = [seat.node for seat in met.terms.members]
    if len(nodes) > MATRIX_MEMBERS_MAX:
        raise UsageError(
            f"couldn't print the matrix of round {view.number}: it has {len(nodes)} rows, at most"
            f" {MATRIX_MEMBERS_MAX} are printed",
            hint="leave --matrix out: the pairs tell the same",
        )
    rows = [[row.get(node, 0.0) for node in nodes] for row in map(met.row, nodes)]
    wide = max(5, *(len(names[node]) for node in nodes))
    head = " " * (wide + 2) + "  ".join(f"{names[node]:>{wide}}" for node in nodes)
    lines = [
        f"  {names[node]:<{wide}}"
        + "".join(f"  {share or '-':>{wide}}" if not share else f"  {share:>{wide}.3f}" for share in row)
        for node, row in zip(nodes, rows, strict=True)
    ]
    plain: dict[str, object] = {"peers": [names[node] for node in nodes], "rows": rows}
    return plain, "\n".join(
        ("matrix     each row: the shares of the models from which one site made its own", head, *lines)
    )


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
