"""`swarm ledger stats`: how much there is of what, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from node.cli.init import JSON
from node.cli.ledger.checking import follow_leaves
from node.cli.ledger.reading import WHERE, date, judge
from node.cli.ledger.sources import TilesFolder, open_ledger
from node.cli.ledger.tiled import follow_tiles
from node.cli.output import count, emit
from swarm.ledger import entry as e
from swarm.ledger.audit import Audit


@dataclass(slots=True)
class Count:
    """What was counted so far. Times are milliseconds of Unix time by the authors' clocks, 0 before the first entry."""

    kinds: Counter[str] = field(default_factory=Counter)
    size_bytes: int = 0
    first_ms: int = 0
    last_ms: int = 0

    def take(self, leaf: bytes) -> None:
        """Count an entry."""
        entry = e.decode_entry(leaf)
        self.kinds[e.KIND_NAMES[entry.kind]] += 1
        self.size_bytes += len(leaf)
        self.first_ms, self.last_ms = self.first_ms or entry.ts_ms, max(self.last_ms, entry.ts_ms)


@click.command()
@WHERE
@JSON
def stats(folder: Path, *, as_json: bool) -> None:
    """Count what the ledger holds: entries by kind, bytes, the time it covers."""
    files, counted = open_ledger(folder), Count()

    def take_block(result: Audit, leaves: Sequence[bytes]) -> None:
        del result
        for leaf in leaves:
            counted.take(leaf)

    if isinstance(files, TilesFolder):
        follow_tiles(files, trusting=True, see=lambda _index, leaf, _tiled: counted.take(leaf))
        blocks = None
    else:
        result = follow_leaves(files, take_block)
        judge(files, result)
        blocks = result.blocks
    entries, on_disk = counted.kinds.total(), files.size_bytes()
    within = "" if blocks is None else f" in {count(blocks, 'block')}"
    room = f"{counted.size_bytes} bytes of entries, {on_disk} bytes of files"
    lines = [
        f"size       {count(entries, 'entry')}{within}, {room}",
        f"time       {date(counted.first_ms)} to {date(counted.last_ms)}",
        *(f"  {name:<16} {number}" for name, number in counted.kinds.most_common()),
    ]
    data = {
        "entries": entries,
        "blocks": blocks,
        "entry_bytes": counted.size_bytes,
        "file_bytes": on_disk,
        "first_ms": counted.first_ms,
        "last_ms": counted.last_ms,
        "kinds": dict(sorted(counted.kinds.items())),
    }
    emit(data, as_json=as_json, text="\n".join(lines))
