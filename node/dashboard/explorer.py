"""SHELL. Parts of a ledger for the page: entries in words, backwards from the end, and blocks as they lie on disk."""

from __future__ import annotations

import struct
from collections.abc import Iterator

from node.cli.ledger.entries import Wanted
from node.cli.ledger.following import Following
from node.cli.ledger.reading import Placement, Row, Words, body_of, names_of, row_of
from node.cli.ledger.sources import Files
from node.dashboard.documents import Document
from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock

PAGE_ENTRIES_MAX = 200
"""Entries of one answer: more than a screen, little to draw."""

SEARCHED_BLOCKS_MAX = 2_000
"""Blocks that are read for one answer: a search for what is rare goes on with the next."""

ANSWER_BYTES_MAX = 2 << 20
"""Blocks of one answer, in all; a single one may be larger."""

_LENGTH = struct.Struct(">I")


def entries(following: Following, files: Files, wanted: Wanted, before: int, count: int) -> Document:
    """Return up to `count` entries before the place `before` in the log, latest first.

    `next` is from where a further search goes on, None once the first entry was looked at.

    Raises:
        LedgerError, StoreError: a block cannot be read.
    """
    result = following.result
    before, count = min(before, result.entries), min(count, PAGE_ENTRIES_MAX)
    words, found = Words(names_of(result)), list[Document]()
    height = following.height_of(before - 1) if before > 1 else 0
    lowest = max(height - SEARCHED_BLOCKS_MAX, 0)
    while height > lowest and len(found) < count:
        placed = [one for one in _of_block(following, height) if one.index < before]
        rows = [row_of(one, files, words) for one in placed]
        pairs = reversed(list(zip(placed, rows, strict=True)))
        for one, row in pairs:
            before = one.index
            if wanted.wants(row):
                found.append(_told(one, row))
                if len(found) == count:
                    return {"entries": found, "next": before}
        height -= 1
        before = min(before, following.first_of(height + 1))
    if height > 0:
        return {"entries": found, "next": before}
    genesis = files.signed.genesis()
    first = Placement(0, 0, genesis.encode(), genesis)
    row = row_of(first, files, words)
    if before > 0 and len(found) < count and wanted.wants(row):
        found.append(_told(first, row))
    return {"entries": found, "next": None}


def _of_block(following: Following, height: int) -> list[Placement]:
    final = codec.decode(following.block(height), FinalBlock, limit=2 * BLOCK_BYTES_MAX)
    first = following.first_of(height)
    return [Placement(first + i, height, leaf, e.decode_entry(leaf)) for i, leaf in enumerate(final.block.leaves)]


def _told(placed: Placement, row: Row) -> Document:
    return {
        "index": row.index,
        "height": placed.height,
        "time_ms": row.time_ms,
        "author": row.author,
        "kind": row.kind,
        "round": row.round,
        "text": row.text,
        "id": placed.entry.id.hex(),
        "body": body_of(placed.entry) if row.index else {},
    }


def blocks(following: Following, first: int, *, limit: int = ANSWER_BYTES_MAX) -> Iterator[bytes]:
    """Yield the records of the blocks from a height on, each after its length (4 bytes, big-endian), `limit` bytes.

    Raises:
        LedgerError, StoreError: a block cannot be read.
    """
    told = 0
    for height in range(max(first, 1), following.result.blocks + 1):
        record = following.block(height)
        if told and told + len(record) > limit:
            return
        told += len(record)
        yield _LENGTH.pack(len(record)) + record


def roots(result: Audit, files: Files) -> Document:
    """Return what somebody needs who checks blocks himself: the charter's entry, and of each epoch who may sign.

    Whoever has the ledger's id from elsewhere can hold the charter against it. The first epoch's keys stand in the
    charter; those of later ones are this site's word for what the ledger says.
    """
    return {
        "ledger_id": result.state.ledger_id.hex(),
        "charter": files.signed.genesis().encode().hex(),
        "epochs": [
            {
                "epoch": view.terms.epoch,
                "quorum": view.terms.quorum,
                "vote_keys": [seat.vote_key.hex() for seat in view.terms.members],
                "authors": {seat.node.hex(): seat.id_key.hex() for seat in view.terms.members},
            }
            for view in result.epochs
        ],
    }
