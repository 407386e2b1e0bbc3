"""A site's ledger, read while its node appends to it: whatever is new, and nothing twice."""

from __future__ import annotations

import bisect
from array import array
from collections import deque
from collections.abc import Iterator, Sequence

from node.cli.ledger.reading import judge
from node.cli.ledger.sources import Files
from node.storage import RealDisk
from swarm import codec
from swarm.ledger.audit import Auditing
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.journal import Tail, block_at

POLL_S = 0.5
"""Between looks: soon enough for a person, nothing for a disk."""


class Following:
    """Signatures are believed, as whoever reads a log in passing does. `result` is the audit so far.

    Where each block lies is kept, 24 bytes a block, so that any of them can be read again at once.
    """

    def __init__(self, files: Files) -> None:
        self._files, self._disk = files, RealDisk(files.site.ledger)
        self._segments, self._offsets, self._ends = array("Q"), array("Q"), array("Q")
        self._tail = Tail(self._disk, files.signed.ledger_id)
        self._auditing = Auditing(files.signed, trusting=True)
        self._searched = False
        self.result = self._auditing.result

    def fresh(self) -> Iterator[Sequence[bytes]]:
        """Yield the leaves of each block that has come since the last call.

        Raises:
            Failure: The ledger does not hold, or a part of it cannot be read.
        """
        for payload in self._tail.read():
            self._auditing.take(payload)
            judge(self._files, self.result)
            segment, offset = self._tail.place
            self._segments.append(segment)
            self._offsets.append(offset)
            self._ends.append(self.result.entries)
            yield codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves
        if not self._searched:  # Once: the tail takes damage for what is being written, and would wait for ever.
            self._searched = True
            deque(self._files.payloads(), maxlen=0)
            judge(self._files, self.result)

    def catch_up(self) -> None:
        """Take in whatever is new. Raises `Failure` as `fresh` does."""
        deque(self.fresh(), maxlen=0)

    def block(self, height: int) -> bytes:
        """Return the record of a block at a height from 1 to `result.blocks`. Raises `LedgerError`, `StoreError`."""
        return block_at(self._disk, (self._segments[height - 1], self._offsets[height - 1]))

    def height_of(self, index: int) -> int:
        """Return in which block the entry at a place in the log is, from 1 to `result.entries` - 1."""
        return bisect.bisect_right(self._ends, index) + 1

    def first_of(self, height: int) -> int:
        """Return the place in the log of a block's first entry."""
        return self._ends[height - 2] if height > 1 else 1

    def close(self) -> None:
        """Let go of the files."""
        self._disk.close()
