"""`swarm ledger members | epochs | peers | peer | evidence`: who is in the swarm, since when, and how each behaved."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import click

from node.cli.forms import listed, shown
from node.cli.init import fingerprint
from node.cli.ledger.naming import ENTRY, Height, Search, entry_label
from node.cli.ledger.reading import (
    WHERE,
    Placement,
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
from node.cli.output import CONTRADICTION, NOT_FOUND, Failure, Form, count, emit, emit_rows
from node.exchanges import exchanges_of
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


@click.command(epilog="Example: swarm ledger members --at 40")
@WHERE
@listed()
@click.option("--at", "height", type=Height(0), help="Those who were members for this block. [default: the last]")
def members(folder: Path, height: int | None, *, form: Form) -> None:
    """List the members with their keys and addresses."""
    _, result = read(folder)
    if height is not None and height > result.blocks:
        hint = f"it has {count(result.blocks, 'block')}"
        raise Failure(f"there is no block {height} in this ledger", code=NOT_FOUND, hint=hint)
    terms = result.state.terms if height is None else terms_at(result, height)
    rows: list[tuple[dict[str, object], str]] = []
    for seat in terms.members:
        card = seat.card
        plain: dict[str, object] = {
            "name": card.name,
            "node": seat.node.hex(),
            "id_key": card.id_key.hex(),
            "vote_key": card.vote_key.hex(),
            "cosign_key": card.cosign_key.hex(),
            "endpoint": card.endpoint,
            "roles": list(card.roles),
        }
        rows.append((plain, f"  {card.name:<16} {fingerprint(card)}  {card.endpoint or 'dials out only'}"))
    since = next(view for view in result.epochs if view.terms.epoch == terms.epoch)
    whence = "all are founders" if since.change is None else f"since block {since.height}, {date(since.time_ms)}"
    head = f"epoch {terms.epoch}, {whence}; {terms.fault_tolerance()}"
    emit_rows("members", rows, form=form, head=[head], rest={"epoch": terms.epoch, "quorum": terms.quorum})


@click.command(epilog="Example: swarm ledger epochs")
@WHERE
@listed()
def epochs(folder: Path, *, form: Form) -> None:
    """List the epochs: what the members have changed by vote, who said yes and no, and who was a member then."""
    _, result = read(folder)
    names = names_of(result)
    rows: list[tuple[dict[str, object], str]] = []
    for i, view in enumerate(result.epochs):
        terms, entry, change = view.terms, view.entry, view.change
        yes, no = ([names[NodeId(n)] for n in said] for said in ((entry.yes, entry.no) if entry else ((), ())))
        what = "the charter" if change is None else describe(change, result.epochs[i - 1].terms)
        plain: dict[str, object] = {
            "epoch": terms.epoch,
            "height": view.height,
            "time_ms": view.time_ms,
            "change": what,
            "yes": yes,
            "no": no,
            "members": [seat.name for seat in terms.members],
            "quorum": terms.quorum,
        }
        against = f", no: {', '.join(no)}" if no else ""
        votes = f"; yes: {', '.join(yes)}{against}" if entry else ", signed by every founder"
        size = f"{count(len(terms.members), 'member')}, quorum {terms.quorum}"
        line = f"{terms.epoch:>5}  {date(view.time_ms)}  {view.height:>6}  {size:<22}  {what}{votes}"
        rows.append((plain, line))
    head = f"{'epoch':>5}  {'agreed':<23}  {'block':>6}  {'from then on':<22}  what changed, and who voted"
    emit_rows("epochs", rows, form=form, head=[head])


@click.command(epilog="Example: swarm ledger peers oncology.bundle")
@WHERE
@listed()
def peers(folder: Path, *, form: Form) -> None:
    """List how each member took part."""
    files, result = read(folder)
    records = _records(files, result).values()
    head = f"  {'peer':<16} {'in':>5} {'missed':>7} {'rejected':>9} {'samples':>10}  {'last entry':<23}  evidence"
    rows = ((asdict(record), _peer_line(record)) for record in records)
    emit_rows("peers", rows, form=form, head=[head])


def _peer_line(r: Record) -> str:
    last = date(r.last_ms) if r.last_ms else "none"
    gone = "" if r.member else "   not a member any more"
    counts = f"{r.rounds_in:>5} {r.rounds_missed:>7} {r.rejected:>9} {r.samples:>10}"
    return f"  {r.name:<16} {counts}  {last:<23}  {r.evidence or '-'}{gone}"


@click.command(epilog="Example: swarm ledger peer charite")
@click.argument("name")
@WHERE
@shown
def peer(name: str, folder: Path, *, as_json: bool) -> None:
    """Show how the member NAME took part, round by round. Six or more digits of its fingerprint name it too."""
    files, result = read(folder)
    node = member_named(names_of(result), name)
    name = names_of(result)[node]
    card, record = seats_of(result)[node].card, _records(files, result)[node]
    rows, lines = [], []
    for view in result.rounds.values():
        share, placed = weights(view).get(node), view.contributions.get(node)
        if node not in sites_in(result, view):
            continue
        state = "in" if share is not None else "missed" if view.closed else "open"
        samples = placed.body.samples if placed else 0
        met = exchanges_of(files.signed, view)
        others = None if met is None else [names_of(result)[other] for other in met.partners(node)]
        rows.append(
            {
                "round": view.number,
                "state": state,
                "samples": samples,
                "weight": round(share or 0.0, 6),
                "exchanged_with": others,
            }
        )
        weight = f"{share:7.2%}" if share is not None else "      -"
        with_ = "" if others is None else f"  exchanged with {', '.join(others) or 'nobody'}"
        lines.append(f"  round {view.number:<6} {state:<7} {samples or '-':>8} samples  {weight}{with_}")
    closed = record.rounds_in + record.rounds_missed
    head = [
        f"{name}  {fingerprint(card)}",
        f"in {record.rounds_in} of {count(closed, 'closed round')}, {count(record.entries, 'entry')}",
        f"evidence against it: {record.evidence or 'none'}",
    ]
    emit({**asdict(record), "rounds": rows}, as_json=as_json, text="\n".join((*head, *lines)))


@click.command(epilog="Example: swarm ledger evidence --id 1204")
@WHERE
@listed()
@click.option(
    "--id",
    "which",
    metavar="ENTRY",
    help="Only this entry, by its place or six or more digits of its id; its messages too.",
)
def evidence(folder: Path, *, which: str | None, form: Form) -> None:
    """List the evidence on record, each judged again from the charter alone.

    Exit 4 when there is any.
    """
    files, result = read(folder)
    wanted = None if which is None else _evidence_at(files, which)
    number = emit_rows(
        "evidence",
        _charges(files, result, wanted),
        form=form,
        none="none: no member is known to have contradicted itself",
    )
    if number:
        raise SystemExit(CONTRADICTION)


def _evidence_at(files: Source, which: str) -> int:
    """Return the place of the evidence that is meant."""
    search = Search[Placement](which)
    for placed in entries_of(files):
        id_ = placed.entry.id.hex()
        search.offer(ENTRY, placed.index, id_, entry_label(placed.index, id_), placed)
    hint = "`swarm ledger evidence` lists them"
    found = search.found(f"there is no entry {which!r} in this ledger", hint)
    if found.entry.kind != e.EVIDENCE:
        raise Failure(f"entry {found.index} of this ledger is no evidence", code=NOT_FOUND, hint=hint)
    return found.index


def _charges(files: Source, result: Audit, wanted: int | None) -> Iterator[tuple[dict[str, object], str]]:
    names = names_of(result)
    for placed in entries_of(files):
        if placed.entry.kind != e.EVIDENCE or wanted not in (None, placed.index):
            continue
        body = codec.decode(placed.entry.body, e.Evidence, limit=e.ENTRY_BYTES_MAX)
        try:
            judge(body, files.signed.ledger_id, [view.terms for view in reversed(result.epochs)])
        except Reject as reason:
            verdict = reason.message
        else:
            verdict = "proved: both messages carry its signature"
        culprit = names.get(NodeId(body.culprit), body.culprit.hex())
        plain: dict[str, object] = {
            "index": placed.index,
            "culprit": culprit,
            "rule": RULES.get(body.rule, str(body.rule)),
            "noticed_by": names[NodeId(placed.entry.author)],
            "verdict": verdict,
            "first": body.first.hex(),
            "second": body.second.hex(),
        }
        lines = [f"  entry {placed.index:<6} {culprit} {plain['rule']}; noticed by {plain['noticed_by']}"]
        lines.append(f"                {verdict}")
        if wanted is not None:
            lines += [f"  first   {body.first.hex()}", f"  second  {body.second.hex()}"]
        yield plain, "\n".join(lines)


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
