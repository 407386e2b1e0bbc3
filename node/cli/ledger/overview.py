"""`swarm ledger status | log | show | stats`: what a ledger holds."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec

from node.cli.init import JSON
from node.cli.ledger.reading import (
    Placement,
    date,
    entries_of,
    member_named,
    names_of,
    open_round,
    read,
    round_view,
    row_of,
    rows_of,
    size_words,
    torn_end,
    torn_lines,
)
from node.cli.output import NOT_FOUND, Failure, emit
from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit
from swarm.ledger.evidence import RULES
from swarm.machine import NodeId

WHERE = click.argument("folder", type=click.Path(path_type=Path), default=Path())

PREFIX_DIGITS_MIN = 6
"""Fewest hexadecimal digits that name an entry: shorter ones are taken for its place in the log."""

BODIES: dict[int, type[msgspec.Struct]] = {
    e.CONTRIBUTION: e.Contribution,
    e.ATTEST: e.Attest,
    e.EVALUATION: e.Evaluation,
    e.ROUND_CLOSE: e.RoundClose,
    e.ROUND_COMMIT: e.RoundCommit,
    e.BLOCK_CERT: e.BlockCert,
    e.EVIDENCE: e.Evidence,
}


@click.command()
@WHERE
@JSON
def status(folder: Path, *, as_json: bool) -> None:
    """Show what the ledger holds, without checking signatures."""
    files, result = read(folder)
    signed, state = files.signed, result.state
    names = [card.name for card in signed.charter.members]
    last = result.rounds.get(state.committed.round)
    final = f"round {state.committed.round} of {signed.charter.round.rounds}"
    when = f", {date(last.committed_ms)}" if last is not None else ""
    text = "\n".join(
        (
            f"ledger     {signed.charter.name}  {signed.ledger_id.hex()}",
            f"size       {size_words(result)}, root {state.frontier.root().hex()[:32]}",
            f"members    {len(names)}: {', '.join(names)}",
            f"quorum     {signed.charter.quorum}  ({signed.charter.fault_tolerance()})",
            f"committed  {final}{when}",
            f"model      {state.committed.model.hex()}",
            f"evidence   {_evidence_words(result, names_of(files))}",
            f"open       {open_round(result)}",
            *torn_lines(files, result),
        )
    )
    data = {
        "ledger_id": signed.ledger_id.hex(),
        "name": signed.charter.name,
        "entries": result.entries,
        "blocks": result.blocks,
        "root": state.frontier.root().hex(),
        "committed": state.committed.round,
        "rounds": signed.charter.round.rounds,
        "model": state.committed.model.hex(),
        "members": names,
        "evidence": len(state.accused),
        "torn": torn_end(files, result),
    }
    emit(data, as_json=as_json, text=text)


@click.command()
@WHERE
@JSON
@click.option("--round", "number", type=int, help="Only entries of this round.")
@click.option("--peer", help="Only entries of this member.")
def log(folder: Path, number: int | None, peer: str | None, *, as_json: bool) -> None:
    """List the entries, one a line."""
    files, result = read(folder)
    if number is not None:
        round_view(result, number)
    if peer is not None:
        member_named(files, peer)
    rows = [
        row
        for row in rows_of(files)
        if (number is None or row.round == number) and (peer is None or row.author == peer)
    ]
    lines = [f"{r.index:>6}  {date(r.time_ms)}  {r.author:<16} {r.kind:<13} {r.text}" for r in rows]
    shown = ("index", "time_ms", "author", "kind", "text")
    data = {
        "entries": [{name: getattr(row, name) for name in shown} for row in rows],
        "torn": torn_end(files, result),
    }
    emit(data, as_json=as_json, text="\n".join((*(lines or ["no entry is of both"]), *torn_lines(files, result))))


@click.command()
@click.argument("which")
@WHERE
@JSON
def show(which: str, folder: Path, *, as_json: bool) -> None:
    """Show one entry whole. WHICH is its place in the log, or six or more hexadecimal digits of its id."""
    files, _ = read(folder)
    found = [placed for placed in entries_of(files) if _is(placed, which)]
    if len(found) != 1:
        problem = f"there is no entry {which!r}" if not found else f"{len(found)} entries begin with {which!r}"
        hint = "`swarm ledger log` lists the entries" if not found else "give more digits"
        raise Failure(f"{problem} in this ledger", code=NOT_FOUND, hint=hint)
    (placed,) = found
    entry, row = placed.entry, row_of(placed, files, names_of(files))
    body = _body(entry)
    signed = _signature_words(placed, row.author)
    lines = [
        f"entry {placed.index}  {row.kind}  {row.text}",
        f"id         {entry.id.hex()}",
        f"author     {row.author}" + (f", entry {entry.seq} of its feed" if entry.author != e.NO_AUTHOR else ""),
        f"written    {date(entry.ts_ms)}" + (" by its author's clock" if entry.author != e.NO_AUTHOR else ""),
        f"in         {'the charter' if placed.height == 0 else f'block {placed.height}'}",
        f"signature  {signed}",
        *(f"  {name:<16} {value}" for name, value in body.items()),
    ]
    data = {
        "index": placed.index,
        "id": entry.id.hex(),
        "kind": row.kind,
        "author": row.author,
        "seq": entry.seq,
        "time_ms": entry.ts_ms,
        "block": placed.height,
        "signature": signed,
        "body": body,
    }
    emit(data, as_json=as_json, text="\n".join(lines))


@click.command()
@WHERE
@JSON
def stats(folder: Path, *, as_json: bool) -> None:
    """Count what the ledger holds: entries by kind, bytes, the time it covers."""
    files, result = read(folder)
    kinds: dict[str, int] = {}
    size, first, last = 0, 0, 0
    for placed in entries_of(files):
        name = e.KIND_NAMES[placed.entry.kind]
        kinds[name] = kinds.get(name, 0) + 1
        size += len(placed.leaf)
        first, last = first or placed.entry.ts_ms, max(last, placed.entry.ts_ms)
    on_disk = sum(path.stat().st_size for path in files.site.ledger.rglob("*") if path.is_file())
    lines = [
        f"size       {size_words(result)}, {size} bytes of entries, {on_disk} bytes of files",
        f"time       {date(first)} to {date(last)}",
        *(f"  {name:<16} {number}" for name, number in sorted(kinds.items(), key=lambda pair: -pair[1])),
    ]
    data = {
        "entries": result.entries,
        "blocks": result.blocks,
        "entry_bytes": size,
        "file_bytes": on_disk,
        "first_ms": first,
        "last_ms": last,
        "kinds": kinds,
    }
    emit(data, as_json=as_json, text="\n".join(lines))


def _is(placed: Placement, which: str) -> bool:
    if which.isdecimal() and len(which) < PREFIX_DIGITS_MIN:
        return placed.index == int(which)
    wanted = which.lower()
    return len(wanted) >= PREFIX_DIGITS_MIN and placed.entry.id.hex().startswith(wanted)


def _body(entry: e.Entry) -> dict[str, object]:
    """Return the fields of an entry's body, bytes as hexadecimal digits."""
    kind = BODIES.get(entry.kind)
    if kind is None:
        return {}
    body: msgspec.Struct = codec.decode(entry.body, kind, limit=e.ENTRY_BYTES_MAX)
    return {name: _plain(getattr(body, name)) for name in body.__struct_fields__}


def _plain(value: object) -> object:
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, (tuple, list)):
        return [_plain(item) for item in value]
    return value


def _signature_words(placed: Placement, author: str) -> str:
    if placed.height == 0:
        return "signed by every founder"
    if placed.entry.author == e.NO_AUTHOR:
        return "none: every member derives it from the entries before it"
    return f"by {author}; `swarm ledger verify` checks it"


def _evidence_words(result: Audit, names: dict[NodeId, str]) -> str:
    accused = [f"{names[node]} {RULES[rule]} (entry {index})" for (node, rule), index in result.state.accused.items()]
    return "; ".join(accused) or "none: no member is known to have contradicted itself"
