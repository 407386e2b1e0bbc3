"""`swarm backup create`, `verify` and `restore`: a site as one file, made while its node runs."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click

from node import backup as b
from node.cli.init import FOLDER, JSON
from node.cli.lazy import LazyGroup
from node.cli.ledger.sources import open_folder
from node.cli.ledger.trust import Watch, memory_at
from node.cli.ledger.verifying import Found, Progress, examine
from node.cli.output import INVALID, UNAVAILABLE, Failure, check_target, count, emit
from node.clock import Clock
from node.config import load
from node.console import size_words
from node.core.node import SOFTWARE
from node.passphrase import read_passphrase
from node.site import Site
from node.storage import BlobStore, RealDisk, write_file_durably
from swarm import codec, identity
from swarm.charter import SignedCharter, card_from_toml
from swarm.errors import LedgerError, Reject, UsageError
from swarm.ledger import entry as e
from swarm.ledger.block import Vote, vote_message
from swarm.ledger.evidence import signed_by_any
from swarm.ledger.journal import FEED, RECORD_BYTES_MAX, WAL, Placed, scan
from swarm.machine import RECORD_VOTE, NodeId
from swarm.terms import Terms

COMMANDS = {
    "create": ("node.cli.backup:create", "Write a site's backup, while its node runs or not."),
    "verify": ("node.cli.backup:verify", "Check every signature and digest of a backup."),
    "restore": ("node.cli.backup:restore", "Make a site's folder of a backup."),
}

PATH = click.argument("path", metavar="FILE", type=click.Path(path_type=Path, exists=True, dir_okay=False))


def _with_passphrase(help_text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    return click.option("--passphrase-file", type=click.Path(path_type=Path), help=help_text)


@click.group(cls=LazyGroup, table=COMMANDS)
def backup() -> None:
    """Keep a site as one file, and make a site of it again."""


@click.command(epilog="Example: swarm backup create hospital --passphrase-file ~/passphrase -o hospital.backup")
@FOLDER
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Where to write. Default: NAME-DATE.backup here.")
@_with_passphrase("A file, readable by you alone, whose first line encrypts the keys, and what is private.")
@click.option("--no-keys", is_flag=True, help="Leave the keys out: keep them elsewhere.")
@click.option("--plain-private", is_flag=True, help="Do not encrypt what the site keeps of its model to itself.")
@JSON
def create(
    folder: Path,
    output: Path | None,
    passphrase_file: Path | None,
    *,
    no_keys: bool,
    plain_private: bool,
    as_json: bool,
) -> None:
    """Write a backup of the site in FOLDER. Its node may be running. Data and exported models are not in it.

    With a passphrase what the site keeps of its model to itself (private/) is encrypted as its keys are, with --no-keys
    too.
    """
    if not no_keys and passphrase_file is None:
        raise UsageError(
            "couldn't make a backup: say either --passphrase-file FILE, to have the keys in it, or --no-keys",
            hint="without its keys nobody is this site again, so they must be kept somewhere",
        )
    site = Site(folder)
    settings = site.load_settings()
    signed = site.load_charter(settings)
    made_ms = int(Clock().now() * 1000)
    stamp = datetime.fromtimestamp(made_ms / 1000, UTC).strftime("%Y%m%dT%H%M%SZ")
    target = Path(f"{settings.site.name or 'site'}-{stamp}.backup") if output is None else output
    check_target(target)
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    made = b.create(
        site,
        settings,
        signed,
        target,
        passphrase=passphrase,
        made_ms=made_ms,
        software=SOFTWARE,
        keys=not no_keys,
        plain=plain_private,
    )
    kept = made.manifest
    lines = [
        f"{made.path}: {size_words(made.size)}, {kept.name} of {kept.swarm} at block {kept.height}, round {kept.round}",
        f"keys: {'inside, encrypted' if kept.keys else 'left out'}",
        *([f"private: {_private_words(kept)}"] if kept.private else []),
        *(f"left out: {text}" for text in made.left_out),
        f"Check it where you keep it: swarm backup verify {made.path}",
    ]
    emit(
        {**_plain(kept), "path": str(made.path), "bytes": made.size, "left_out": list(made.left_out)},
        as_json=as_json,
        text="\n".join(lines),
    )


@click.command(epilog="Example: swarm backup verify hospital.backup")
@PATH
@_with_passphrase("Open the keys too, with the first line of this file.")
@JSON
def verify(path: Path, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Check the backup in FILE without restoring it: every digest and signature, the whole ledger, the models.

    Exit 0 if it holds, 3 if anything does not.
    """
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    with tempfile.TemporaryDirectory(prefix="swarm-backup-") as temporary:
        folder = Path(temporary)
        manifest = b.unpack(path, folder)
        lines, _ = _check(path, folder, manifest)
        if passphrase is not None:
            _opened(path, folder, manifest, passphrase)
        lines.append(_keys_line(manifest, opened=passphrase is not None))
        if manifest.private:
            opened = manifest.sealed and passphrase is not None
            words = "opened" if opened else _private_words(manifest)
            lines.append(f"{'✔' if opened else '-'} private       {count(len(manifest.private), 'file')}, {words}")
    made = datetime.fromtimestamp(manifest.made_ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")
    text = [*lines, f"VALID           {manifest.name} of {manifest.swarm}, made {made}"]
    emit({**_plain(manifest), "valid": True}, as_json=as_json, text="\n".join(text))


@click.command(epilog="Example: swarm backup restore hospital.backup hospital --passphrase-file ~/passphrase")
@PATH
@click.argument("folder", type=click.Path(path_type=Path))
@_with_passphrase("The file whose first line opens the keys.")
@click.option("--original-is-gone", is_flag=True, help="Do not look for the original: it can never run again.")
@JSON
def restore(path: Path, folder: Path, passphrase_file: Path | None, *, original_is_gone: bool, as_json: bool) -> None:
    """Make a site of the backup in FILE, in a FOLDER that is not there yet. All of it is checked first.

    Two nodes with one site's keys contradict each other, and that stays on record: so it is refused while the original
    is on this machine, or answers at its address.
    """
    passphrase = None if passphrase_file is None else read_passphrase(passphrase_file)
    with b.beside(folder) as staging:
        manifest = b.unpack(path, staging)
        lines, epochs = _check(path, staging, manifest)
        if (manifest.keys or manifest.sealed) and passphrase is None:
            what = "its keys are" if manifest.keys else "what is private is"
            raise UsageError(f"couldn't restore {path}: {what} encrypted", hint="give --passphrase-file FILE")
        keys = None if passphrase is None else _opened(path, staging, manifest, passphrase)
        if not original_is_gone:
            _refuse_beside_original(manifest, epochs)
        b.put_keys(staging, keys)
        write_file_durably(staging / "restored", b"the first start asks whether the original is running\n")
    lines.append(f"{folder} is {manifest.name} of {manifest.swarm} as of block {manifest.height}.")
    if not manifest.keys:
        lines.append(f"Its keys are not in this backup: put yours into {folder / 'keys'}, readable by you alone.")
    lines.append("Its data are in no backup: they have to be where task.data in its swarm.toml says.")
    lines.append(f"Next: swarm start {folder}; it asks the others what it has said since, and goes on.")
    emit({**_plain(manifest), "folder": str(folder)}, as_json=as_json, text="\n".join(lines))


def _opened(path: Path, folder: Path, manifest: b.Manifest, passphrase: str) -> dict[str, str] | None:
    """Open whatever a passphrase encrypts in an unpacked backup; return the keys, if they are inside.

    Raises:
        UsageError: the passphrase is another, or there is nothing that it could open.
    """
    keys = b.check_keys(path, folder, manifest, passphrase) if manifest.keys or not manifest.sealed else None
    b.open_private(path, folder, manifest, passphrase)
    return keys


def _private_words(manifest: b.Manifest) -> str:
    if manifest.sealed:
        return "encrypted"
    return "NOT encrypted: keep this backup like the data that it was learnt from"


def _refuse_beside_original(manifest: b.Manifest, epochs: tuple[Terms, ...]) -> None:
    why = b.original_at(manifest)
    if why:
        raise Failure(
            f"couldn't restore {manifest.name}: the original is in {manifest.folder}, and {why}",
            code=UNAVAILABLE,
            hint="stop it for good and move its folder away, or go on with it and restore nothing",
        )
    hint = "stop that one for good; only if it is surely another's, say --original-is-gone"
    b.refuse_beside(manifest.name, NodeId(bytes.fromhex(manifest.node)), epochs[0], hint=hint)


# --- checking -----------------------------------------------------------------------------------------------------


def _check(path: Path, folder: Path, manifest: b.Manifest) -> tuple[list[str], tuple[Terms, ...]]:
    """Check all that was unpacked. Return what to say of it, and the terms of each epoch, newest first.

    Raises:
        LedgerError: something does not hold, or is not what the manifest says.
        Failure: the same of the ledger, with its place.
    """
    site = Site(folder)
    load((folder / "swarm.toml").read_text(encoding="utf-8"), where=f"swarm.toml in {path}")
    files = open_folder(folder)
    signed = files.signed
    if signed.ledger_id.hex() != manifest.ledger_id or signed.charter.name != manifest.swarm:
        raise LedgerError(f"couldn't use {path}: its charter founds another swarm", hint=b.AGAIN)
    if site.card_path.exists():
        card_from_toml(site.card_path.read_text(encoding="utf-8"))
    progress = Progress()
    found = examine(files, Watch(signed, memory_at(Path())), progress)
    progress.clear()
    for failure in found.ending(INVALID):
        raise failure
    if found.data["blocks"] != manifest.height:
        raise LedgerError(f"couldn't use {path}: its ledger does not end where it says", hint=b.AGAIN)
    b.check_key(path, manifest, found.epochs)
    said = _check_said(path, folder, signed, NodeId(bytes.fromhex(manifest.node)), found)
    models = _check_models(path, folder)
    lines = [
        f"✔ files         {count(len(manifest.files), 'file')}, each with the digest that {manifest.name} signed",
        *found.lines,
        *(remark.line for remark in found.remarks),
        f"✔ own words     {said}: every signature holds",
        f"✔ models        {count(models, 'model')}, every digest holds",
    ]
    return lines, found.epochs


def _check_said(path: Path, folder: Path, signed: SignedCharter, me: NodeId, found: Found) -> str:
    """Check the signatures of the site's own entries and votes. Return how many there are, in words."""
    terms = {each.epoch: each for each in found.epochs}
    disk, entries, votes = RealDisk(folder / "ledger"), 0, 0
    try:
        for part in scan(disk, FEED, signed.ledger_id):
            if isinstance(part, Placed):
                entry = e.decode_entry(part.record.payload)
                if entry.author != me or not signed_by_any(entry, me, found.epochs, signed.ledger_id):
                    raise Reject("an entry of its feed is not signed by it")
                entries += 1
        for part in scan(disk, WAL, signed.ledger_id):
            if isinstance(part, Placed) and part.record.kind == RECORD_VOTE:
                vote = codec.decode(part.record.payload, Vote, limit=RECORD_BYTES_MAX)
                vote.check()
                epoch = terms.get(vote.epoch)
                if epoch is not None and (epoch.index(me) != vote.signer or not _holds(vote, epoch, signed.ledger_id)):
                    raise Reject("a vote in it is not signed by it")
                votes += 1
    except Reject as reason:
        raise LedgerError(f"couldn't use {path}: {reason.message}", hint=b.AGAIN) from None
    finally:
        disk.close()
    return f"{count(entries, 'entry')} and {count(votes, 'vote')}"


def _holds(vote: Vote, terms: Terms, ledger_id: bytes) -> bool:
    message = vote_message(ledger_id, vote.epoch, vote.view, vote.kind, vote.block)
    return identity.verify(terms.vote_keys[vote.signer], message, vote.signature)


def _check_models(path: Path, folder: Path) -> int:
    """Hash every model again. Return how many there are. Raises `LedgerError`."""
    if not (folder / "blobs").is_dir():
        return 0
    store = BlobStore(folder / "blobs")
    complete, partial = store.listing()
    for stored in complete:
        if store.hash_file(store.path(stored.digest)) != stored:
            raise LedgerError(f"couldn't use {path}: model {stored.digest.hex()[:12]} is another one", hint=b.AGAIN)
    if partial or len(list((folder / "blobs").iterdir())) != 2 * len(complete):
        raise LedgerError(f"couldn't use {path}: a model in it is not whole", hint=b.AGAIN)
    return len(complete)


def _keys_line(manifest: b.Manifest, *, opened: bool) -> str:
    if not manifest.keys:
        return "- keys          left out when it was made"
    how = "opened, and those that signed it" if opened else "encrypted; --passphrase-file has them opened too"
    return f"{'✔' if opened else '-'} keys          {how}"


def _plain(manifest: b.Manifest) -> dict[str, object]:
    return {
        "swarm": manifest.swarm,
        "name": manifest.name,
        "node": manifest.node,
        "ledger_id": manifest.ledger_id,
        "made_ms": manifest.made_ms,
        "height": manifest.height,
        "round": manifest.round,
        "model": manifest.model or None,
        "keys": manifest.keys,
        "private": ("encrypted" if manifest.sealed else "plain") if manifest.private else None,
        "files": len(manifest.files),
    }
