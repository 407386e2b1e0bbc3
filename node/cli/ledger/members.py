"""`swarm ledger members | epochs | peers | peer | evidence`: who is in the swarm, since when, and how each behaved."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import click

from node.cli.init import JSON, fingerprint
from node.cli.ledger.reading import (
    WHERE,
    Source,
    date,
    entries_of,
    member_named,
    names_of,
    read,
    seats_of,
    sites_in,
    terms_at,
)
from node.cli.output import CONTRADICTION, NOT_FOUND, Failure, count, emit
from swarm import codec
from swarm.errors import Reject
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit, weights
from swarm.ledger.evidence import RULES, judge
from swarm.machine import NodeId
from swarm.terms import describe


@dataclass(slots=True)
class Record:
    """What the ledger tells of one member. Rounds are counted when they are closed."""

    name: str
    rounds_in: int = 0
    rounds_missed: int = 0
    rejected: int = 0
    samples: int = 0
    entries: int = 0
    last_ms: int = 0
    evidence: int = 0
    member: bool = True


@click.command()
@WHERE
@JSON
@click.option(
    "--at", "height", type=click.IntRange(0), help="Those who were members for this block. [default: the last]"
)
def members(folder: Path, height: int | None, *, as_json: bool) -> None:
    """List the members with their keys and addresses."""
    _, result = read(folder)
    if height is not None and height > result.blocks:
        hint = f"it has {count(result.blocks, 'block')}"
        raise Failure(f"there is no block {height} in this ledger", code=NOT_FOUND, hint=hint)
    terms = result.state.terms if height is None else terms_at(result, height)
    rows, lines = [], []
    for seat in terms.members:
        card = seat.card
        rows.append(
            {
                "name": card.name,
                "node": seat.node.hex(),
                "id_key": card.id_key.hex(),
                "vote_key": card.vote_key.hex(),
                "cosign_key": card.cosign_key.hex(),
                "endpoint": card.endpoint,
                "roles": list(card.roles),
            }
        )
        lines.append(f"  {card.name:<16} {fingerprint(card)}  {card.endpoint or 'dials out only'}")
    since = next(view for view in result.epochs if view.terms.epoch == terms.epoch)
    whence = "all are founders" if since.change is None else f"since block {since.height}, {date(since.time_ms)}"
    head = f"epoch {terms.epoch}, {whence}; {terms.fault_tolerance()}"
    data = {"epoch": terms.epoch, "quorum": terms.quorum, "members": rows}
    emit(data, as_json=as_json, text="\n".join((head, *lines)))


@click.command()
@WHERE
@JSON
def epochs(folder: Path, *, as_json: bool) -> None:
    """List the epochs: what the members have changed by vote, who said yes and no, and who was a member then."""
    _, result = read(folder)
    names = names_of(result)
    rows, lines = [], []
    for i, view in enumerate(result.epochs):
        terms, entry, change = view.terms, view.entry, view.change
        yes, no = ([names[NodeId(n)] for n in said] for said in ((entry.yes, entry.no) if entry else ((), ())))
        what = "the charter" if change is None else describe(change, result.epochs[i - 1].terms)
        rows.append(
            {
                "epoch": terms.epoch,
                "height": view.height,
                "time_ms": view.time_ms,
                "change": what,
                "yes": yes,
                "no": no,
                "members": [seat.name for seat in terms.members],
                "quorum": terms.quorum,
            }
        )
        against = f", no: {', '.join(no)}" if no else ""
        votes = f"; yes: {', '.join(yes)}{against}" if entry else ", signed by every founder"
        size = f"{count(len(terms.members), 'member')}, quorum {terms.quorum}"
        lines.append(f"{terms.epoch:>5}  {date(view.time_ms)}  {view.height:>6}  {size:<22}  {what}{votes}")
    head = f"{'epoch':>5}  {'agreed':<23}  {'block':>6}  {'from then on':<22}  what changed, and who voted"
    emit({"epochs": rows}, as_json=as_json, text="\n".join((head, *lines)))


@click.command()
@WHERE
@JSON
def peers(folder: Path, *, as_json: bool) -> None:
    """List how each member took part."""
    files, result = read(folder)
    records = _records(files, result).values()
    head = f"  {'peer':<16} {'in':>5} {'missed':>7} {'rejected':>9} {'samples':>10}  {'last entry':<23}  evidence"
    lines = [
        f"  {r.name:<16} {r.rounds_in:>5} {r.rounds_missed:>7} {r.rejected:>9} {r.samples:>10}  "
        f"{date(r.last_ms) if r.last_ms else 'none':<23}  {r.evidence or '-'}"
        f"{'' if r.member else '   not a member any more'}"
        for r in records
    ]
    emit({"peers": [asdict(record) for record in records]}, as_json=as_json, text="\n".join((head, *lines)))


@click.command()
@click.argument("name")
@WHERE
@JSON
def peer(name: str, folder: Path, *, as_json: bool) -> None:
    """Show how the member NAME took part, round by round."""
    files, result = read(folder)
    node = member_named(names_of(result), name)
    card, record = seats_of(result)[node].card, _records(files, result)[node]
    rows, lines = [], []
    for view in result.rounds.values():
        share, placed = weights(view).get(node), view.contributions.get(node)
        if node not in sites_in(result, view):
            continue
        state = "in" if share is not None else "missed" if view.closed else "open"
        samples = placed.body.samples if placed else 0
        rows.append({"round": view.number, "state": state, "samples": samples, "weight": round(share or 0.0, 6)})
        weight = f"{share:7.2%}" if share is not None else "      -"
        lines.append(f"  round {view.number:<6} {state:<7} {samples or '-':>8} samples  {weight}")
    closed = record.rounds_in + record.rounds_missed
    head = [
        f"{name}  {fingerprint(card)}",
        f"in {record.rounds_in} of {count(closed, 'closed round')}, {count(record.entries, 'entry')}",
        f"evidence against it: {record.evidence or 'none'}",
    ]
    emit({**asdict(record), "rounds": rows}, as_json=as_json, text="\n".join((*head, *lines)))


@click.command()
@WHERE
@JSON
@click.option("--entry", "which", type=click.IntRange(1), help="Only this entry, by its place, and its messages.")
def evidence(folder: Path, *, which: int | None, as_json: bool) -> None:
    """List the evidence on record, each judged again from the charter alone.

    Exit 4 when there is any.
    """
    files, result = read(folder)
    names = names_of(result)
    rows, lines = [], []
    for placed in entries_of(files):
        if placed.entry.kind != e.EVIDENCE or which not in (None, placed.index):
            continue
        body = codec.decode(placed.entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
        try:
            judge(body, files.signed.ledger_id, [view.terms for view in reversed(result.epochs)])
        except Reject as reason:
            verdict = reason.message
        else:
            verdict = "proved: both messages carry its signature"
        culprit = names.get(NodeId(body.culprit), body.culprit.hex())
        rows.append(
            {
                "index": placed.index,
                "culprit": culprit,
                "rule": RULES.get(body.rule, str(body.rule)),
                "noticed_by": names[NodeId(placed.entry.author)],
                "verdict": verdict,
                "first": body.first.hex(),
                "second": body.second.hex(),
            }
        )
        lines.append(f"  entry {placed.index:<6} {culprit} {rows[-1]['rule']}; noticed by {rows[-1]['noticed_by']}")
        lines.append(f"                {verdict}")
        if which is not None:
            lines += [f"  first   {body.first.hex()}", f"  second  {body.second.hex()}"]
    if which is not None and not rows:
        raise Failure(f"entry {which} of this ledger is no evidence", code=NOT_FOUND, hint="`swarm ledger evidence`")
    emit(
        {"evidence": rows},
        as_json=as_json,
        text="\n".join(lines) or "none: no member is known to have contradicted itself",
    )
    if rows:
        raise SystemExit(CONTRADICTION)


def _records(files: Source, result: Audit) -> dict[NodeId, Record]:
    """Return what the ledger tells of each who is or was a member, in the order in which they came."""
    records = {node: Record(name) for node, name in names_of(result).items()}
    today = {seat.node for seat in result.epochs[-1].terms.members}
    for node, record in records.items():
        record.member = node in today
    for view in result.rounds.values():
        if view.closed is None:
            continue
        shares, rejected = weights(view), dict(view.closed.body.rejected)
        for node in sites_in(result, view):
            record, placed = records[node], view.contributions.get(node)
            record.rounds_in += node in shares
            record.rounds_missed += node not in shares
            record.rejected += placed is not None and placed.index in rejected
            record.samples += placed.body.samples if placed is not None and node in shares else 0
    for placed_entry in entries_of(files):
        author = records.get(NodeId(placed_entry.entry.author))
        if author is not None:
            author.entries += 1
            author.last_ms = max(author.last_ms, placed_entry.entry.ts_ms)
    for node, _ in result.state.accused:
        records[node].evidence += 1
    return records
