"""`swarm ledger stats`: how much there is of what, in one pass."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.checking import follow_leaves
from node.cli.ledger.reading import WHERE, date, judge
from node.cli.ledger.sources import TilesFolder, open_ledger
from node.cli.ledger.tiled import follow_tiles
from node.cli.output import count, emit
from node.clock import Clock
from node.exchanges import every_exchange
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


_INSTANT_S = 1e-6
"""No reading counts as faster, whatever the clock says."""


@click.command(epilog="Example: swarm ledger stats")
@WHERE
@shown
def stats(folder: Path, *, as_json: bool) -> None:
    """Count what the ledger holds: entries by kind, bytes, the time it covers."""
    files, counted, clock = open_ledger(folder), Count(), Clock()
    begun = clock.now()

    def take_block(result: Audit, leaves: Sequence[bytes]) -> None:
        del result
        for leaf in leaves:
            counted.take(leaf)

    if isinstance(files, TilesFolder):
        follow_tiles(files, trusting=True, see=lambda _index, leaf, _tiled: counted.take(leaf))
        blocks, met = None, None
    else:
        result = follow_leaves(files, take_block)
        judge(files, result)
        blocks, met = result.blocks, _exchanged(result)
    spent_s = max(clock.now() - begun, _INSTANT_S)
    span_s = (counted.last_ms - counted.first_ms) / 1000
    entries, on_disk = counted.kinds.total(), files.size_bytes()
    within = "" if blocks is None else f" in {count(blocks, 'block')}"
    room = f"{counted.size_bytes} bytes of entries, {on_disk} bytes of files"
    lines = [
        f"size       {count(entries, 'entry')}{within}, {room}",
        f"time       {date(counted.first_ms)} to {date(counted.last_ms)}",
        f"rate       {_rate(entries, span_s)}, {counted.size_bytes // max(entries, 1)} bytes an entry",
        f"reading    {entries / spent_s:,.0f} entries a second here, signatures believed",
        *([f"exchanged  {met[0]} of {count(met[1], 'pair')} in {count(met[2], 'round')} of gossip"] if met else []),
        *(f"  {name:<16} {number}" for name, number in counted.kinds.most_common()),
    ]
    data = {
        "entries": entries,
        "blocks": blocks,
        "entry_bytes": counted.size_bytes,
        "file_bytes": on_disk,
        "first_ms": counted.first_ms,
        "last_ms": counted.last_ms,
        "entries_per_s": round(entries / span_s, 6) if span_s else None,
        "read_per_s": round(entries / spent_s, 1),
        "pairs": met[0] if met else None,
        "scheduled": met[1] if met else None,
        "kinds": dict(sorted(counted.kinds.items())),
    }
    emit(data, as_json=as_json, text="\n".join(lines))


def _exchanged(result: Audit) -> tuple[int, int, int] | None:
    """Return how many pairs exchanged models, of how many, in how many rounds; None where nobody gossips."""
    if result.state.exchange is None:
        return None
    met = [*every_exchange(result.state.signed, result)]
    return sum(len(one.pairs) for one in met), sum(one.scheduled for one in met), len(met)


def _rate(entries: int, span_s: float) -> str:
    """Return how fast a ledger grew, in the unit that gives a number to remember."""
    if span_s <= 0:
        return "all at once"
    for unit, seconds in (("second", 1), ("minute", 60), ("hour", 3600)):
        if entries * seconds >= span_s:
            return f"{entries * seconds / span_s:,.1f} entries a {unit}"
    return f"{entries * 86_400 / span_s:,.1f} entries a day"
