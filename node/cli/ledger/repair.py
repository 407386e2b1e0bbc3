"""`swarm ledger repair`: damaged blocks replaced by another member's, which are the same. The only writer here."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path

import click

from node.cli.forms import shown
from node.cli.ledger.reading import Files, Source, judge, open_folder, open_ledger
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, UNAVAILABLE, Failure, count, emit
from node.storage import DirectoryLock, RealDisk, sync_folder
from swarm import codec
from swarm.errors import UsageError
from swarm.ledger.audit import audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.journal import BLOCKS, Journal
from swarm.machine import RECORD_BLOCK, Record

WHERE = click.argument("folder", type=click.Path(path_type=Path), default=Path())


@click.command(epilog="Example: swarm ledger repair --from their.bundle")
@WHERE
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path),
    required=True,
    help="Folder or bundle of a member whose ledger is whole.",
)
@shown
def repair(folder: Path, source: Path, *, as_json: bool) -> None:
    """Replace this site's blocks by another member's, once those are verified. The node must be stopped.

    Final blocks are the same bytes everywhere, so nothing of this site's own is lost; what it voted and wrote itself is
    kept as it is. The old files are put aside in ledger/quarantine.
    """
    ours, theirs = open_folder(folder), open_ledger(source)
    if ours.signed.ledger_id != theirs.signed.ledger_id:
        raise Failure(
            f"couldn't repair {folder} from {source}: that is another swarm's ledger ({theirs.signed.charter.name!r})",
            code=INVALID,
            hint="name the folder of another member of the same swarm",
        )
    try:
        lock = DirectoryLock(ours.site.run / "lock")
    except UsageError as error:
        raise Failure(error.message, code=UNAVAILABLE, hint="stop the node, then repair") from None
    try:
        readable, whole = _readable(ours), _verified(theirs)
        _compare(folder, source, readable, whole)
        aside = _replace(ours, whole)
    finally:
        lock.close()
    data = {"blocks": len(whole), "readable": len(readable), "quarantine": str(aside)}
    text = (
        f"{folder} holds {count(len(whole), 'block')} again, all verified; {len(readable)} could be read before.\n"
        f"The old files are in {aside}. Start the node: it fetches what is newer from the others."
    )
    emit(data, as_json=as_json, text=text)


def _readable(files: Files) -> list[bytes]:
    """Return the blocks that can be read, up to the first damage."""
    found = []
    for payload in files.payloads():
        if files.corrupt is not None:
            break
        found.append(payload)
    return found


def _verified(files: Source) -> list[bytes]:
    """Return another member's certified blocks. Raises `Failure` when its ledger does not hold."""
    payloads: list[bytes] = []

    def read() -> Sequence[bytes]:
        payloads.extend(files.payloads())
        return payloads

    *_, result = audit(read(), files.signed)
    judge(files, result)
    return payloads[: result.covered]


def _compare(folder: Path, source: Path, readable: Sequence[bytes], whole: Sequence[bytes]) -> None:
    """Refuse what would lose a block, or replace one history by another."""
    for height, (mine, other) in enumerate(zip(readable, whole, strict=False), 1):
        # A certificate may have been gathered from other signers; the block is the same.
        blocks = [codec.decode(data, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.header for data in (mine, other)]
        if blocks[0] != blocks[1]:
            raise Failure(
                f"couldn't repair {folder} from {source}: block {height} differs though both can be read",
                code=CONTRADICTION,
                hint="run `swarm ledger diff` on the two; keep both copies",
            )
    if len(whole) < len(readable):
        raise Failure(
            f"couldn't repair {folder} from {source}: that ledger ends {len(readable) - len(whole)} blocks earlier",
            code=INCOMPLETE,
            hint="name a member that is further ahead",
        )


def _replace(files: Files, payloads: Sequence[bytes]) -> Path:
    """Write the blocks beside, then change places; return where the old ones are."""
    ledger = files.site.ledger
    beside, quarantine = ledger / "repair", ledger / "quarantine"
    shutil.rmtree(beside, ignore_errors=True)
    disk = RealDisk(beside)
    journal = Journal(disk, ledger_id=files.signed.ledger_id)
    journal.open()
    for height, payload in enumerate(payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    disk.close()
    quarantine.mkdir(exist_ok=True)
    number = sum(1 for _ in quarantine.iterdir())
    aside = quarantine / f"{BLOCKS}-{number}"
    if (ledger / BLOCKS).exists():
        (ledger / BLOCKS).rename(aside)
    (beside / BLOCKS).rename(ledger / BLOCKS)
    sync_folder(quarantine)
    sync_folder(ledger)
    shutil.rmtree(beside)
    return aside
