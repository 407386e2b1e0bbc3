"""`swarm key`: a site's keys on its disk, encrypted or not. New keys are `swarm rotate`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from node.cli.init import FOLDER, JSON
from node.cli.lazy import LazyGroup
from node.cli.output import UNAVAILABLE, Failure, emit
from node.passphrase import asked_for, given, read_passphrase, write_key_file
from node.site import Site
from node.storage import DirectoryLock
from node.vault import is_sealed
from swarm.errors import UsageError

TABLE = {
    "encrypt": ("node.cli.key:encrypt", "Encrypt a site's keys with a passphrase or a key file."),
    "decrypt": ("node.cli.key:decrypt", "Write them in plain again."),
    "passphrase": ("node.cli.key:passphrase", "Let another passphrase open them."),
}

FILE = click.Path(path_type=Path, dir_okay=False)

NEEDED = "Whoever starts the peer needs the passphrase: SWARM_PASSPHRASE_FILE, or a terminal. Lost, nobody opens them."
BEFORE = (
    "What lay there in plain may still be found on the disk, and in old backups. If that matters, take new keys now: "
    "`swarm rotate --identity`."
)


@click.group(cls=LazyGroup, table=TABLE)
def key() -> None:
    """Keys at rest: see docs/guides/keys.md. To take new ones: `swarm rotate`."""


def _opened_by(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "A file, readable by you alone, whose first line opens the keys."
    return click.option("--passphrase-file", type=FILE, help=text)(command)


def _new_key_file(command: Callable[..., Any]) -> Callable[..., Any]:
    text = "Draw a passphrase of 256 bits and write it to this new file. Keep it off this disk."
    return click.option("--new-key-file", type=FILE, help=text)(command)


@click.command(epilog="Example: swarm key encrypt hospital --passphrase-file ~/passphrase")
@FOLDER
@click.option("--passphrase-file", type=FILE, help="A file, readable by you alone, whose first line encrypts them.")
@_new_key_file
@JSON
def encrypt(folder: Path, passphrase_file: Path | None, new_key_file: Path | None, *, as_json: bool) -> None:
    """Encrypt the keys of the site in FOLDER, whose peer must not run. Asks where no file is named.

    Interrupted, it may be run again with the same passphrase.
    """
    site = Site(folder)
    site.check_keys()
    with _stopped(site, "encrypt its keys"):
        sealed = [is_sealed(path.read_text(encoding="ascii", errors="replace")) for path in site.key_files()]
        if all(sealed):
            hint = "`swarm key passphrase` has another passphrase open them"
            raise UsageError(f"couldn't encrypt the keys in {site.keys}: they are encrypted", hint=hint)
        if any(sealed) and new_key_file is not None:
            raise UsageError(
                f"couldn't encrypt the keys in {site.keys}: an earlier attempt did not come to its end",
                hint="finish it with the passphrase that it was begun with: --passphrase-file FILE",
            )
        done = site.encrypt_keys(_chosen(site, passphrase_file, new_key_file))
    text = f"encrypted in {site.keys}: {', '.join(done)}\n{NEEDED}\n{BEFORE}"
    emit({"folder": str(folder), "encrypted": True, "files": done}, as_json=as_json, text=text)


@click.command(epilog="Example: swarm key decrypt hospital --passphrase-file ~/passphrase")
@FOLDER
@_opened_by
@JSON
def decrypt(folder: Path, passphrase_file: Path | None, *, as_json: bool) -> None:
    """Write the keys of the site in FOLDER in plain again. Its peer must not run."""
    site = Site(folder)
    site.check_keys()
    with _stopped(site, "decrypt its keys"):
        if not site.vault.locked:
            hint = "`swarm key encrypt` encrypts them"
            raise UsageError(f"couldn't decrypt the keys in {site.keys}: they are not encrypted", hint=hint)
        done = site.vault.decrypt(_opening(site, passphrase_file))
    text = f"in plain in {site.keys}: {', '.join(done)}"
    emit({"folder": str(folder), "encrypted": False, "files": done}, as_json=as_json, text=text)


@click.command(epilog="Example: swarm key passphrase hospital --passphrase-file old --new-passphrase-file new")
@FOLDER
@_opened_by
@click.option("--new-passphrase-file", type=FILE, help="A file whose first line is to open them from now on.")
@_new_key_file
@JSON
def passphrase(
    folder: Path,
    passphrase_file: Path | None,
    new_passphrase_file: Path | None,
    new_key_file: Path | None,
    *,
    as_json: bool,
) -> None:
    """Let another passphrase open the keys of the site in FOLDER. Its peer may run. Asks where no file is named.

    The keys stay the same, and an old copy of them opens with the old passphrase: after a leak, `swarm rotate`.
    """
    site = Site(folder)
    site.check_keys()
    old = _opening(site, passphrase_file)
    site.vault.check(old)
    site.vault.change(old, _chosen(site, new_passphrase_file, new_key_file))
    text = f"another passphrase opens the keys in {site.keys} from now on; old copies still open with the old one"
    emit({"folder": str(folder), "encrypted": True}, as_json=as_json, text=text)


def _opening(site: Site, file: Path | None) -> str:
    return given(f"the keys in {site.keys}") if file is None else read_passphrase(file)


def _chosen(site: Site, file: Path | None, new_key_file: Path | None) -> str:
    if file is not None and new_key_file is not None:
        raise UsageError("couldn't choose a passphrase: two were named", hint="give one of the two files")
    if new_key_file is not None:
        return write_key_file(new_key_file)
    return asked_for(f"the keys in {site.keys}") if file is None else read_passphrase(file)


@contextmanager
def _stopped(site: Site, what: str) -> Iterator[None]:
    """Hold the folder meanwhile, so that no peer takes new keys or starts. Raises `Failure` if one runs."""
    if not site.run.exists():  # Keys of a site to be.
        yield
        return
    try:
        lock = DirectoryLock(site.run / "lock")
    except UsageError as error:
        why = error.message.partition(": ")[2]
        raise Failure(
            f"couldn't {what} in {site.folder}: {why}",
            code=UNAVAILABLE,
            hint="stop it first; it reads its keys while it runs",
            identifier="SWARM-SITE-IN-USE",
        ) from None
    try:
        yield
    finally:
        lock.close()
