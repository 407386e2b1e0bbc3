"""`swarm ledger log | show`: the entries themselves, one a line or one in full."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.chain import block_view
from node.cli.ledger.checking import follow_along
from node.cli.ledger.reading import (
    UNKNOWN,
    WHERE,
    Placement,
    Row,
    Words,
    body_of,
    date,
    entries_of,
    followed,
    judge,
    member_named,
    round_view,
    row_of,
    rows_of,
    torn_end,
    torn_lines,
    words_of,
)
from node.cli.ledger.rounds import show_round
from node.cli.ledger.sources import Source, TilesFolder, open_ledger
from node.cli.output import NOT_FOUND, SCHEMA, Failure, count, emit
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit

PREFIX_DIGITS_MIN = 6
"""Fewest hexadecimal digits that name an entry."""

MATCHES_LISTED_MAX = 5
"""Entries named when what was asked for is ambiguous."""

VALUE_CHARACTERS_MAX = 400
"""Characters of a field shown to people: evidence holds whole messages."""

_PLACE = re.compile(r"(?:entry:)?([0-9]{1,18})")
_BLOCK = re.compile(r"(?:block:|b)([0-9]{1,18})")
_ROUND = re.compile(r"(?:round:|r)([0-9]{1,18})")
_DIGITS = re.compile(r"(?:id:)?([0-9a-fA-F]{6,64})")
_SHOWN = ("index", "time_ms", "author", "kind", "text")


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which entries to list: rounds from `first` to `last`, of one author, of one kind. None is no limit."""

    first: int | None
    last: int | None
    peer: str | None
    kind: str | None

    def wants(self, row: Row) -> bool:
        """Whether an entry is to be listed."""
        if self.first is not None and (row.round is None or not self.first <= row.round <= (self.last or row.round)):
            return False
        return self.peer in (None, row.author) and self.kind in (None, row.kind)


@click.command()
@WHERE
@click.option("--round", "numbers", metavar="A[..B]", help="Only entries of this round, or of these.")
@click.option("--peer", help="Only entries of this member.")
@click.option("--kind", type=click.Choice(sorted(e.KIND_NAMES.values())), help="Only entries of this kind.")
@click.option("--follow", "following", is_flag=True, help="Go on, and print what is added, until interrupted.")
@JSON
def log(
    folder: Path, numbers: str | None, peer: str | None, kind: str | None, *, following: bool, as_json: bool
) -> None:
    """List the entries, one a line. Times are by their authors' clocks."""
    first, last = _range(numbers)
    wanted = Wanted(first, last, peer, kind)
    if following:
        _follow(open_ledger(folder), wanted, as_json=as_json)
        return
    files = open_ledger(folder)
    result = None if isinstance(files, TilesFolder) else followed(files)
    if first is not None and result is not None:
        for number in {first, last or first}:
            round_view(result, number)
    if peer is not None:
        member_named(words_of(files, result).names, peer)
    rows = [row for row in rows_of(files, result) if wanted.wants(row)]
    blocks = 0 if result is None else result.blocks
    data = {"entries": [_plain(row) for row in rows], "torn": torn_end(files, blocks)}
    lines = [_line(row) for row in rows] or ["no entry is of all that was asked for"]
    emit(data, as_json=as_json, text="\n".join((*lines, *torn_lines(files, blocks))))


def _follow(files: Source, wanted: Wanted, *, as_json: bool) -> None:
    """Print entries as their blocks become final here, each checked against what is before it."""
    words = words_of(files, None)
    if wanted.peer is not None:
        member_named(words.names, wanted.peer)

    def told(placed: Placement) -> None:
        row = row_of(placed, files, words)
        if wanted.wants(row):
            click.echo(json.dumps({"schema": SCHEMA, "status": "ok", "data": _plain(row)}) if as_json else _line(row))

    genesis = files.signed.genesis()
    told(Placement(0, 0, genesis.encode(), genesis))
    index = 1
    try:
        for result, leaves in follow_along(files):
            judge(files, result)
            for leaf in leaves:
                told(Placement(index, result.blocks, leaf, e.decode_entry(leaf)))
                index += 1
    except KeyboardInterrupt:  # The way to end it.
        return


@click.command()
@click.argument("which")
@WHERE
@JSON
def show(which: str, folder: Path, *, as_json: bool) -> None:
    """Show one thing whole: an entry, a block, or a round.

    WHICH is an entry's place in the log (`17`), the first six or more hexadecimal digits of its id, a block (`b12`) or
    a round (`r3`). Where that could be two things, `entry:`, `id:`, `block:` and `round:` before it say which.
    """
    files = open_ledger(folder)
    if isinstance(files, TilesFolder) and not (_ROUND.fullmatch(which) or _BLOCK.fullmatch(which)):
        entries = _entries(files, which)
        if len(entries) == 1:
            data, text = _entry_view(files, entries[0], words_of(files, None))
            emit(data, as_json=as_json, text=text)
            return
    result = followed(files)
    if found := _ROUND.fullmatch(which):
        data, text = show_round(result, round_view(result, int(found[1])))
        emit(data, as_json=as_json, text=text)
        return
    entries = _entries(files, which)
    height = _BLOCK.fullmatch(which)
    there = height is not None and 1 <= int(height[1]) <= result.blocks
    if len(entries) + there > 1:
        names = [*([f"block:{height[1]}"] if height is not None and there else []), *map(_name, entries)]
        listed = ", ".join(names[:MATCHES_LISTED_MAX]) + (", ..." if len(names) > MATCHES_LISTED_MAX else "")
        raise Failure(f"{which!r} could be {listed}", code=NOT_FOUND, hint="say one of these, or give more digits")
    if there and height is not None:
        data, text = block_view(files, result, int(height[1]))
        emit(data, as_json=as_json, text=text)
        return
    if not entries:
        what = "block" if height is not None else "entry"
        hint = f"it has {_extent(result)}; `swarm ledger log` lists the entries"
        raise Failure(f"there is no {what} {which!r} in this ledger", code=NOT_FOUND, hint=hint)
    data, text = _entry_view(files, entries[0], words_of(files, result))
    emit(data, as_json=as_json, text=text)


def _entry_view(files: Source, placed: Placement, words: Words) -> tuple[dict[str, object], str]:
    entry, row = placed.entry, row_of(placed, files, words)
    body, signed = body_of(entry), _signature_words(placed, row.author)
    authored = entry.author != e.NO_AUTHOR
    lines = [
        f"entry {placed.index}  {row.kind}  {row.text}",
        f"id         {entry.id.hex()}",
        f"author     {row.author}" + (f", entry {entry.seq} of its feed" if authored else ""),
        f"written    {date(entry.ts_ms)}" + (" by its author's clock" if authored else ""),
        f"in         {_block_words(placed)}",
        f"signature  {signed}",
        *(f"  {name:<16} {_brief(value)}" for name, value in body.items()),
    ]
    data: dict[str, object] = {
        "index": placed.index,
        "id": entry.id.hex(),
        "kind": row.kind,
        "author": row.author,
        "seq": entry.seq,
        "time_ms": entry.ts_ms,
        "block": placed.height if placed.height != UNKNOWN else None,
        "signature": signed,
        "body": body,
    }
    return data, "\n".join(lines)


def _entries(files: Source, which: str) -> list[Placement]:
    """Return the entries that could be meant: by place, and by the beginning of their id."""
    place, digits = _PLACE.fullmatch(which), _DIGITS.fullmatch(which)
    prefix = digits[1].lower() if digits is not None else None
    found = []
    for placed in entries_of(files):
        by_place = place is not None and placed.index == int(place[1])
        if by_place or (prefix is not None and placed.entry.id.hex().startswith(prefix)):
            found.append(placed)
    return found


def _name(placed: Placement) -> str:
    return f"entry:{placed.index} (id {placed.entry.id.hex()[:12]})"


def _range(numbers: str | None) -> tuple[int | None, int | None]:
    """Return the first and last round of `A` or `A..B`."""
    if numbers is None:
        return None, None
    found = re.fullmatch(r"([0-9]{1,9})(?:\.\.([0-9]{1,9}))?", numbers)
    if found is None:
        raise UsageError(f"couldn't read {numbers!r} as rounds", hint="say one number, or two as in 3..7")
    first, last = int(found[1]), int(found[2] or found[1])
    if first > last:
        raise UsageError(f"couldn't list rounds {numbers}: the first comes after the last", hint=f"say {last}..{first}")
    return first, last


def _line(row: Row) -> str:
    return f"{row.index:>6}  {date(row.time_ms)}  {row.author:<16} {row.kind:<15} {row.text}".rstrip()


def _plain(row: Row) -> dict[str, object]:
    return {name: getattr(row, name) for name in _SHOWN}


def _extent(result: Audit) -> str:
    last = f"entries 0 to {result.entries - 1}" if result.entries > 1 else "entry 0 only"
    return f"{last} in {count(result.blocks, 'block')}"


def _brief(value: object) -> object:
    """Return what a screen has room for; programs get all of it."""
    text = str(value)
    return text if len(text) <= VALUE_CHARACTERS_MAX else f"{text[:VALUE_CHARACTERS_MAX]}... ({len(text)} characters)"


def _block_words(placed: Placement) -> str:
    if placed.height == UNKNOWN:
        return "a block that tiles do not tell"
    return "the charter" if placed.height == 0 else f"block {placed.height}"


def _signature_words(placed: Placement, author: str) -> str:
    if placed.height == 0:
        return "signed by every founder"
    if placed.entry.author == e.NO_AUTHOR:
        return "none: every member derives it from the entries before it"
    return f"by {author}; `swarm ledger verify` checks it"
