"""Where a block lies: found by arithmetic over the segments of the block log, and never written down.

Heights follow each other without a gap and segments begin where the one before ends, so the height of the first record
of each segment is all there is to know about segments; within one, the lengths of the records lead from each to the
next. A segment is walked when somebody first asks for a block in it, and the places of the few that were asked for last
are remembered: peers that catch up ask for one block after the other. What does not exist cannot be old, damaged or in
disagreement with the ledger; `docs/decisions/0012` has the reasons and the alternative.
"""

from __future__ import annotations

import bisect
from array import array
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

TABLES_MAX = 4
"""Segments whose places are remembered: 8 bytes a block, and a segment of 16 MiB holds some thousands."""


@dataclass(frozen=True, slots=True)
class Span:
    """A segment and the height of its first block."""

    first: int
    path: str


Walk = Callable[[str, int], Iterator[int]]
"""(path, height) -> the offsets of the records for this height, the next and so on, as far as they follow."""


class Index:
    """Places of blocks in the segments of one log, oldest first."""

    def __init__(self, walk: Walk) -> None:
        self._walk = walk
        self._spans: list[Span] = []
        self._tables: OrderedDict[str, array[int]] = OrderedDict()

    @property
    def spans(self) -> Sequence[Span]:
        """The segments that hold a block."""
        return self._spans

    def begin(self, path: str, first: int) -> None:
        """Take note of a segment whose first block has this height. One that is out of order is never looked into."""
        if not self._spans or first > self._spans[-1].first:
            self._spans.append(Span(first, path))

    def extend(self, path: str, first: int, offsets: Sequence[int]) -> None:
        """Take note of blocks that were written, of height `first` and on."""
        table = self._tables.get(path)
        if table is not None and self._spans[-1].path == path and first == self._spans[-1].first + len(table):
            table.extend(offsets)
        else:
            self._tables.pop(path, None)

    def find(self, height: int) -> tuple[str, int] | None:
        """Return (path, offset) of the record of a block, or None if it cannot be reached."""
        at = bisect.bisect_right(self._spans, height, key=lambda span: span.first) - 1
        if at < 0:
            return None
        span = self._spans[at]
        table = self._tables.get(span.path)
        if table is None:
            table = array("Q", self._walk(span.path, span.first))
            if len(self._tables) >= TABLES_MAX:
                self._tables.popitem(last=False)
            self._tables[span.path] = table
        self._tables.move_to_end(span.path)
        place = height - span.first
        return (span.path, table[place]) if place < len(table) else None
