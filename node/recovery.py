"""SHELL. What a site's node begins with: the state it had, and whatever came after.

A snapshot is right when its hash is the one that the header of its block names; then the blocks before it need not be
read, and starting takes as long at ten million entries as at ten thousand. Without a right one every block is read
once, one segment in memory at a time, and the snapshot is made again. Blocks in the journal were verified before they
were written there, so their signatures are not checked again: `swarm ledger verify` does that.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from node.storage import SnapshotFile
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, Reject, StoreError
from swarm.ledger import snapshot
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header
from swarm.ledger.disk import Disk
from swarm.ledger.journal import BLOCKS, Finding, Journal, Opened, scan
from swarm.ledger.state import Signatures, State, apply_block, genesis
from swarm.machine import RECORD_BLOCK, Snapshot

_LAST = 2**63 - 1
"""Above every height: of the blocks only the segment that is being written is read."""


@dataclass(frozen=True, slots=True)
class Recovered:
    """What a node starts from. `snapshot` is empty when there is no block yet, or when damage was found."""

    opened: Opened
    snapshot: bytes


def recover(journal: Journal, disk: Disk, kept: SnapshotFile, signed: SignedCharter) -> Recovered:
    """Open a site's journal, from its snapshot if that is right, else from the first block.

    Raises:
        LedgerError: the files are of another ledger, or hold blocks that do not follow from each other.
        StoreError: the disk fails.
    """
    known = kept.load()
    if known is not None:
        opened = journal.open(_context(known.height))
        if _names(opened, known):
            return Recovered(opened, known.state)
    opened = journal.open(_LAST)
    state, findings = _follow(disk, signed)
    if state is None or any(finding.verdict == "corruption" for finding in findings):
        return Recovered(_with(opened, findings), b"")
    made = Snapshot(state.height, state.encode())
    with contextlib.suppress(StoreError):  # The node says so when it tries again.
        kept.save(made)
    return Recovered(_with(journal.open(_context(made.height)), [*opened.findings, *findings]), made.state)


def newest(recovered: Recovered, signed: SignedCharter) -> State:
    """Return the state after the last block: the snapshot's, and what the blocks after it make of that.

    Raises:
        LedgerError: a block does not follow.
    """
    if not recovered.snapshot:
        return genesis(signed)
    state, signatures = snapshot.decode(recovered.snapshot, State, signed), Signatures()
    signatures.trusting = True
    try:
        for record in recovered.opened.records:
            if record.kind == RECORD_BLOCK and record.height > state.height:
                final, header = _open(record.payload)
                state = apply_block(state, header, final.block.leaves, signatures)
    except Reject as reason:
        raise LedgerError(f"couldn't follow the ledger past height {state.height}: {reason.message}") from None
    return state


def state_of(ledger: Path, signed: SignedCharter) -> State:
    """Return the state of the ledger in a folder, as its last snapshot says; nothing is opened, and nothing written.

    The node keeps a snapshot every few hundred blocks and when it stops. Without one, the state before the first block.

    Raises:
        LedgerError: the snapshot cannot be read.
    """
    known = SnapshotFile(ledger / "snapshot").load()
    if known is None:
        return genesis(signed)
    try:
        return snapshot.decode(known.state, State, signed)
    except Reject as reason:
        raise LedgerError(f"couldn't read the snapshot in {ledger}: {reason.message}") from None


def _names(opened: Opened, known: Snapshot) -> bool:
    """Whether the block that a snapshot says it follows is there and says so too."""
    for record in opened.records:
        if (record.kind, record.height) == (RECORD_BLOCK, known.height):
            return _open(record.payload)[1].state_hash == snapshot.digest(known.state)
    return False


def _follow(disk: Disk, signed: SignedCharter) -> tuple[State | None, list[Finding]]:
    """Return the state after the last block, None without any, and what could not be read."""
    signatures, state, findings = Signatures(), genesis(signed), list[Finding]()
    signatures.trusting = True
    for payload in _readable(disk, signed.ledger_id, findings):
        try:
            final, header = _open(payload)
            state = apply_block(state, header, final.block.leaves, signatures)
        except Reject as reason:
            raise LedgerError(
                f"couldn't follow the ledger past height {state.height}: {reason.message}",
                hint="run `swarm ledger verify` on this folder; it says whether its disk or somebody did that",
            ) from None
    return (state if state.height else None), findings


def _readable(disk: Disk, ledger_id: bytes, findings: list[Finding]) -> Iterator[bytes]:
    """Yield blocks up to the first damage."""
    for found in scan(disk, BLOCKS, ledger_id):
        if isinstance(found, Finding):
            findings.append(found)
            if found.verdict == "corruption":
                return
        else:
            yield found.record.payload


def _open(payload: bytes) -> tuple[FinalBlock, Header]:
    final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
    return final, Header.decode(final.block.header)


def _context(height: int) -> int:
    return max(1, height - snapshot.CONTEXT_BLOCKS)


def _with(opened: Opened, findings: list[Finding]) -> Opened:
    return dataclasses.replace(opened, findings=tuple(dict.fromkeys([*opened.findings, *findings])))
