"""`swarm ledger export | import`: a ledger taken elsewhere, and brought in from there, whole and checked."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import click

from node import bundle
from node.cli.forms import shown
from node.cli.ledger.published import claimed_size, compare, open_head
from node.cli.ledger.reading import (
    UNKNOWN,
    WHERE,
    Placement,
    body_of,
    entries_of,
    judge,
    row_of,
    size_words,
    words_of,
)
from node.cli.ledger.sources import BundleFile, Source, TilesFolder, open_ledger
from node.cli.output import INCOMPLETE, Failure, check_target, count, emit
from node.storage import RealDisk, store_error, sync_folder, write_file_durably
from swarm import codec
from swarm.charter import to_toml
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger import tlog
from swarm.ledger.audit import Audit, audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header
from swarm.ledger.journal import Journal
from swarm.ledger.merkle import leaf_hash
from swarm.ledger.state import Signatures
from swarm.ledger.tiles import CHECKPOINT
from swarm.machine import RECORD_BLOCK, Record

LINES_SCHEMA = "swarm-ledger/cli/v1"
"""The schema of `export --jsonl`: names are only ever added."""

BATCH_BYTES = 1 << 20
"""Records of an import written with one sync; well below a segment, which a batch never spans."""


@click.command(epilog="Example: swarm ledger export --bundle oncology.bundle")
@WHERE
@click.option("--bundle", "bundle_", type=click.Path(path_type=Path, dir_okay=False), help="Write one file: all of it.")
@click.option("--jsonl", is_flag=True, help="Print every block and entry as a line of JSON.")
@click.option("--tiles", type=click.Path(path_type=Path, file_okay=False), help="Write a tlog-tiles directory.")
@shown
def export(folder: Path, bundle_: Path | None, tiles: Path | None, *, jsonl: bool, as_json: bool) -> None:
    """Take the ledger elsewhere: as one file, as lines of JSON, or as tiles for tools of transparency logs."""
    if (bundle_ is not None) + (tiles is not None) + jsonl != 1:
        raise UsageError("couldn't export the ledger: say one of --bundle, --jsonl and --tiles", hint="see `--help`")
    if tiles is not None:
        from node.cli.ledger.exports import export_tiles

        export_tiles(folder, tiles, as_json=as_json)
    elif bundle_ is not None:
        _export_bundle(folder, bundle_, as_json=as_json)
    else:
        _export_lines(folder)


def _export_bundle(folder: Path, target: Path, *, as_json: bool) -> None:
    """Write a bundle of what holds: a copy that cannot be verified is not worth sending."""
    check_target(target)
    files = open_ledger(folder)
    if isinstance(files, BundleFile) and target.exists() and target.samefile(files.where):
        raise UsageError(f"couldn't write {target}: that is the bundle it would be made from", hint="name another file")
    checkpoint, followed = files.checkpoint(), _Followed(files)  # In this order: a node writes blocks first.
    size = bundle.write(target, bundle.encode(files.signed, followed.payloads(checkpoint), checkpoint))
    result = followed.result
    data = {"path": str(target), "bytes": size, "entries": result.entries, "blocks": result.blocks}
    data |= {"ledger_id": files.signed.ledger_id.hex(), "root": result.state.frontier.root().hex()}
    data |= {"checkpoint": checkpoint is not None}
    under = ", with the checkpoint" if checkpoint is not None else ""
    text = f"{size_words(result)}{under}, {size} bytes in {target}. Whoever has it: `swarm ledger verify {target}`"
    emit(data, as_json=as_json, text=text)


def _export_lines(folder: Path) -> None:
    """Print the charter, then block by block its header and its entries, one JSON object a line.

    A directory of tiles has entries only: their `block` is null, and so is the number of blocks at the end.
    """
    files = open_ledger(folder)
    words = words_of(files, None)

    def line(type_: str, **values: object) -> None:
        click.echo(json.dumps({"schema": LINES_SCHEMA, "type": type_, **values}, separators=(",", ":")))

    def told(placed: Placement) -> None:
        entry, row = placed.entry, row_of(placed, files, words)
        line(
            "entry",
            index=placed.index,
            block=placed.height if placed.height != UNKNOWN else None,
            id=entry.id.hex(),
            leaf_hash=leaf_hash(placed.leaf).hex(),
            kind=row.kind,
            author=row.author if entry.author != e.NO_AUTHOR else None,
            seq=entry.seq,
            time_ms=entry.ts_ms,
            round=row.round,
            text=row.text,
            body=body_of(entry),
            signature=entry.signature.hex(),
            leaf=placed.leaf.hex(),
        )

    charter = files.signed.charter
    line("ledger", ledger_id=files.signed.ledger_id.hex(), name=charter.name, members=[c.name for c in charter.members])
    if isinstance(files, TilesFolder):
        for placed in entries_of(files):
            told(placed)
        line("end", entries=files.head.size, blocks=None, root=files.head.root.hex())
        return
    followed = _Followed(files)
    genesis = files.signed.genesis()
    told(Placement(0, 0, genesis.encode(), genesis))
    index = 1
    for height, payload in enumerate(followed.payloads(), 1):
        final = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)
        header = Header.decode(final.block.header)
        line(
            "block",
            height=height,
            hash=header.hash.hex(),
            parent=header.parent_hash.hex(),
            epoch=header.epoch,
            view=header.view,
            time_ms=header.time_ms,
            entries=header.count,
            size=header.size,
            root=header.root.hex(),
            proposer=final.block.proposer,
            signers=[list(certificate.signers) for certificate in final.certificate],
        )
        for leaf in final.block.leaves:
            told(Placement(index, height, leaf, e.decode_entry(leaf)))
            index += 1
    result = followed.result
    line("end", entries=result.entries, blocks=result.blocks, root=result.state.frontier.root().hex())


class _Followed:
    """The records of a ledger, passed on one by one after each has been followed; what does not hold ends it."""

    def __init__(self, files: Source, signatures: Signatures | None = None) -> None:
        self._files, self._signatures = files, signatures
        self.result: Audit

    def payloads(self, checkpoint: bytes | None = None) -> Iterator[bytes]:
        """Yield the records. Raises `Failure` where the ledger first fails, or for a checkpoint that is not its own."""
        kept: list[bytes] = []
        size, root = claimed_size(checkpoint), None

        def passing() -> Iterator[bytes]:
            for payload in self._files.payloads():
                kept.append(payload)
                yield payload

        trusting = self._signatures is None
        for result in audit(passing(), self._files.signed, trusting=trusting, signatures=self._signatures):
            self.result = result
            if result.failure is not None or self._files.corrupt is not None:
                break
            if result.state.frontier.size == size:
                root = result.state.frontier.root()
            yield from kept
            kept.clear()
        judge(self._files, self.result)
        if checkpoint is not None:
            state, charter = self.result.state, self._files.signed.charter
            name = tlog.origin(charter.name, state.ledger_id)
            head = open_head(self._files.checkpoint_at, checkpoint, name, (state.terms, *state.past))
            compare(head, state.frontier.size, root)


@click.command("import", epilog="Example: swarm ledger import oncology.bundle --check")
@click.argument("source", metavar="BUNDLE", type=click.Path(path_type=Path, dir_okay=False))
@click.argument("target", metavar="[FOLDER]", type=click.Path(path_type=Path), required=False)
@click.option("--check", is_flag=True, help="Only check the bundle; write nothing.")
@shown
def import_(source: Path, target: Path | None, *, check: bool, as_json: bool) -> None:
    """Bring a bundle in: check all of it, signatures included, and make a folder of it that every command reads.

    The folder is made whole or not at all, and never over something that is there. It has no keys: no node can run in
    it. Exit 3 when the bundle does not hold, 6 when its last blocks are not certified.
    """
    if check == (target is not None):
        raise UsageError("couldn't import: name a folder to make, or say --check", hint="see `--help`")
    files = open_ledger(source)
    if not isinstance(files, BundleFile):
        raise UsageError(f"couldn't import {source}: it is a folder, not a bundle", hint="name a bundle's file")
    if target is not None and (target.is_symlink() or target.exists()):
        raise UsageError(f"couldn't import into {target}: it is there already", hint="name a folder that is not there")
    followed = _Followed(files, Signatures())
    if target is None:
        for _ in followed.payloads(files.head):
            pass
    else:
        _write_folder(target, files, followed.payloads(files.head))
    result = followed.result
    data = {
        "ledger_id": files.signed.ledger_id.hex(),
        "entries": result.entries,
        "blocks": result.blocks,
        "uncovered": result.uncovered,
        "root": result.state.frontier.root().hex(),
        "folder": None if target is None else str(target),
    }
    if result.uncovered:
        done = "nothing was written" if target is None else f"it is in {target}"
        raise Failure(
            f"the last {count(result.uncovered, 'block')} of {source} not certified yet; the rest holds, {done}",
            code=INCOMPLETE,
            hint="have the bundle made again when its site has caught up",
        )
    done = "holds" if target is None else f"holds and is in {target}"
    emit(
        data, as_json=as_json, text=f"{source} {done}: {files.signed.charter.name}, {size_words(result)}, all verified"
    )


def _write_folder(target: Path, files: BundleFile, payloads: Iterator[bytes]) -> None:
    """Make a folder beside, as a node would leave it, and give it its name when it is whole."""
    beside = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        try:
            beside.mkdir(parents=True, mode=0o700)
        except OSError as error:
            raise store_error(f"make {target}", error) from error
        disk = RealDisk(beside / "ledger")
        try:
            journal = Journal(disk, ledger_id=files.signed.ledger_id)
            journal.open()
            height = 0
            for batch in _batches(payloads):
                records = [Record(RECORD_BLOCK, height + i, payload) for i, payload in enumerate(batch, 1)]
                journal.append(records)
                height += len(batch)
        finally:
            disk.close()
        write_file_durably(beside / "charter.toml", to_toml(files.signed).encode(), mode=0o644)
        if files.head is not None:
            write_file_durably(beside / "ledger" / CHECKPOINT, files.head, mode=0o644)
        try:
            beside.rename(target)
        except OSError as error:
            raise store_error(f"make {target}", error) from error
        sync_folder(target.absolute().parent)
    except BaseException:
        shutil.rmtree(beside, ignore_errors=True)
        raise


def _batches(payloads: Iterator[bytes]) -> Iterator[list[bytes]]:
    """Gather records, so that not each costs a sync: nothing of this folder counts before all of it is there."""
    batch: list[bytes] = []
    size = 0
    for payload in payloads:
        batch.append(payload)
        size += len(payload)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
