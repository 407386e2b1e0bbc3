"""`swarm ledger log | show`: the entries themselves, one a line or one in full."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import click

from node.cli.forms import listed, told
from node.cli.ledger.chain import hashes_of, show_block
from node.cli.ledger.following import POLL_S, Following
from node.cli.ledger.naming import ENTRY, MARKED_BLOCK, MARKED_ROUND, Search, block_label, entry_label
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
    member_named,
    round_view,
    row_of,
    rows_of,
    torn_end,
    torn_lines,
    words_of,
)
from node.cli.ledger.rounds import show_round
from node.cli.ledger.sources import Files, Source, TilesFolder, open_ledger
from node.cli.output import SCHEMA, Form, count, emit, emit_bytes, emit_rows
from node.clock import sleep
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit
from swarm.machine import NodeId

VALUE_CHARACTERS_MAX = 400
"""Characters of a field shown to people: evidence holds whole messages."""

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
        if self.first is not None and (
            row.round is None or not self.first <= row.round <= (row.round if self.last is None else self.last)
        ):
            return False
        return self.peer in (None, row.author) and self.kind in (None, row.kind)

    def by_one_of(self, names: Mapping[NodeId, str]) -> Wanted:
        """Return the same, its author by the name that its entries carry. Raises `Failure` when there is none such."""
        return self if self.peer is None else replace(self, peer=names[member_named(names, self.peer)])


EVERY = Wanted(None, None, None, None)


@click.command(epilog="Example: swarm ledger log --round 3..7 --peer charite")
@WHERE
@click.option("--round", "numbers", metavar="A[..B]", help="Only entries of this round, or of these.")
@click.option("--peer", help="Only entries of this member.")
@click.option("--kind", type=click.Choice(sorted(e.KIND_NAMES.values())), help="Only entries of this kind.")
@click.option("--follow", "following", is_flag=True, help="Go on, and print what is added, until interrupted.")
@listed()
def log(folder: Path, numbers: str | None, peer: str | None, kind: str | None, *, following: bool, form: Form) -> None:
    """List the entries, one a line. Times are by their authors' clocks."""
    first, last = _range(numbers)
    wanted = Wanted(first, last, peer, kind)
    if following:
        _follow(open_ledger(folder), wanted, as_json=form is not Form.TABLE)
        return
    files = open_ledger(folder)
    result = None if isinstance(files, TilesFolder) else followed(files)
    if first is not None and result is not None:
        for number in {first, last or first}:
            round_view(result, number)
    if peer is not None:
        wanted = wanted.by_one_of(words_of(files, result).names)
    blocks = 0 if result is None else result.blocks
    emit_rows(
        "entries",
        ((_plain(row), _line(row)) for row in rows_of(files, result) if wanted.wants(row)),
        form=form,
        none="no entry is of all that was asked for",
        foot=torn_lines(files, blocks),
        rest={"torn": torn_end(files, blocks)},
    )


def _follow(files: Source, wanted: Wanted, *, as_json: bool) -> None:
    """Print entries as their blocks become final here, each checked against what is before it."""
    if not isinstance(files, Files):
        text = f"couldn't follow {files.where}: nothing is ever added to a bundle or to tiles"
        raise UsageError(text, hint="leave --follow out, or name a site's folder")
    words = words_of(files, None)
    if wanted.peer is not None:
        wanted = wanted.by_one_of(words.names)

    def tell(placed: Placement) -> None:
        row = row_of(placed, files, words)
        if wanted.wants(row):
            click.echo(json.dumps({"schema": SCHEMA, "status": "ok", "data": _plain(row)}) if as_json else _line(row))

    genesis = files.signed.genesis()
    tell(Placement(0, 0, genesis.encode(), genesis))
    index, following = 1, Following(files)
    try:
        while True:
            for leaves in following.fresh():
                for leaf in leaves:
                    tell(Placement(index, following.result.blocks, leaf, e.decode_entry(leaf)))
                    index += 1
            sleep(POLL_S)
    except KeyboardInterrupt:  # The way to end it.
        return
    finally:
        following.close()


@click.command(epilog="Example: swarm ledger show 8f3a12")
@click.argument("which")
@WHERE
@told(raw=True)
def show(which: str, folder: Path, *, form: Form) -> None:
    """Show one thing whole: an entry, a block, or a round.

    WHICH is an entry's place in the log (`17`), the first six or more hexadecimal digits of its id or of a block's
    hash, a block (`b12`) or a round (`r3`). Where that could be two things, `entry:`, `id:`, `block:`, `hash:` and
    `round:` before it say which. Raw, an entry is its signed bytes, and a block its record.
    """
    files = open_ledger(folder)
    round_ = MARKED_ROUND.number(which)
    if isinstance(files, TilesFolder) and round_ is None and MARKED_BLOCK.number(which) is None:
        _show_entry(files, _found(files, None, which), words_of(files, None), form)
        return
    result = followed(files)
    if round_ is not None:
        if form is Form.RAW:
            text = f"couldn't print round {round_} as raw: it has no bytes of its own"
            raise UsageError(text, hint="print its entries: `swarm ledger log --round` lists them")
        data, text = show_round(files, result, round_view(result, round_))
        emit(data, as_json=form is Form.JSON, text=text)
        return
    found = _found(files, result, which)
    if isinstance(found, int):
        show_block(files, result, found, form)
    else:
        _show_entry(files, found, words_of(files, result), form)


def _found(files: Source, result: Audit | None, which: str) -> Placement | int:
    """Return the entry that is meant, or the height of the block. Raises `Failure` when it is not one thing."""
    search = Search[Placement | int](which)
    for placed in entries_of(files):
        id_ = placed.entry.id.hex()
        search.offer(ENTRY, placed.index, id_, entry_label(placed.index, id_), placed)
    if result is not None:
        for height, hash_ in hashes_of(files):
            search.offer(MARKED_BLOCK, height, hash_, block_label(height, hash_), height)
    what = "entry" if MARKED_BLOCK.number(which) is None else "block"
    extent = "" if result is None else f"it has {_extent(result)}; "
    return search.found(f"there is no {what} {which!r} in this ledger", f"{extent}`swarm ledger log` lists the entries")


def _show_entry(files: Source, placed: Placement | int, words: Words, form: Form) -> None:
    assert isinstance(placed, Placement), "a block is shown by `show_block`"
    if form is Form.RAW:
        emit_bytes([placed.leaf])
        return
    data, text = _entry_view(files, placed, words)
    emit(data, as_json=form is Form.JSON, text=text)


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


def _range(numbers: str | None) -> tuple[int | None, int | None]:
    """Return the first and last round of `A` or `A..B`."""
    if numbers is None:
        return None, None
    found = re.fullmatch(r"r?([0-9]{1,9})(?:\.\.r?([0-9]{1,9}))?", numbers)
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
