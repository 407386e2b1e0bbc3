"""SHELL. Where a passphrase comes from: a file that only its owner reads, a descriptor, the service manager, a person.

Never an argument of a command and never the value of a variable: those are for everybody on the machine to read. A *key
file* is a passphrase file that nobody had to think of: 256 random bits on one line.
"""

from __future__ import annotations

import base64
import getpass
import os
import secrets
import sys
from collections.abc import Mapping
from pathlib import Path

from node.storage import write_file_durably
from swarm.errors import UsageError

CHARACTERS_MIN = 8
BYTES_MAX = 4096

FILE, DESCRIPTOR = "SWARM_PASSPHRASE_FILE", "SWARM_PASSPHRASE_FD"
CREDENTIALS, CREDENTIAL = "CREDENTIALS_DIRECTORY", "keys-passphrase"

PRIVATE = (FILE, DESCRIPTOR, CREDENTIALS)
"""Variables that are nobody else's: what this process starts does not get them."""

LOCKED = "SWARM-SITE-LOCKED"


def read_passphrase(path: Path) -> str:
    """Return the first line of a file that only its owner can read. Raises `UsageError`."""
    try:
        mode, text = path.stat().st_mode & 0o777, path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = "it is not text" if isinstance(error, UnicodeDecodeError) else error.strerror
        raise UsageError(f"couldn't read the passphrase in {path}: {why}", hint="write it there, on one line") from None
    # A credential of systemd is shown as its group's, because an access list names the service; nobody else gets there.
    credential = path.parent == Path(os.environ.get(CREDENTIALS, ""))
    if mode & (0o037 if credential else 0o077):
        raise UsageError(
            f"couldn't use the passphrase in {path}: others on this machine can read it (mode {mode:o})",
            hint=f"run chmod 600 {path}, and think of another passphrase if it may have been read",
        )
    return _checked(text, f"in {path}")


def given(what: str) -> str:
    """Return the passphrase that opens something, from the first of those that have it. Raises `UsageError`."""
    environment = os.environ
    if environment.get(DESCRIPTOR):
        return _from_descriptor(environment[DESCRIPTOR])
    if environment.get(FILE):
        return read_passphrase(Path(environment[FILE]))
    folder = environment.get(CREDENTIALS)
    if folder and (Path(folder) / CREDENTIAL).exists():
        return read_passphrase(Path(folder) / CREDENTIAL)
    if sys.stdin.isatty() and sys.stderr.isatty():
        return getpass.getpass(f"Passphrase of {what}: ", stream=sys.stderr)
    raise UsageError(
        f"couldn't open {what}: they are encrypted, and nobody gave the passphrase",
        hint=f"set {FILE} to a file that holds it and that only this user can read, or {DESCRIPTOR}",
        identifier=LOCKED,
    )


def asked_for(what: str) -> str:
    """Have a person at a terminal choose a passphrase. Raises `UsageError` where there is none, or the two differ."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        raise UsageError(
            f"couldn't ask for a passphrase for {what}: there is no terminal",
            hint="give --passphrase-file FILE, or --new-key-file FILE to have one written",
        )
    first = _checked(getpass.getpass(f"New passphrase of {what}: ", stream=sys.stderr), "that was typed")
    if getpass.getpass("Once more: ", stream=sys.stderr).strip() != first:
        raise UsageError("couldn't take the passphrase: it was typed in two ways", hint="run the same command again")
    return first


def write_key_file(path: Path) -> str:
    """Write a new key file and return what it holds. Raises `UsageError` rather than overwrite, and `StoreError`."""
    if path.exists() or path.is_symlink():
        raise UsageError(f"couldn't write {path}: it is there already", hint="name another file; none is overwritten")
    text = base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()
    write_file_durably(path, text.encode() + b"\n")
    return text


def without_secrets(environment: Mapping[str, str]) -> dict[str, str]:
    """Return an environment for whatever this process starts: user code is to find no way to the passphrase in it."""
    return {name: value for name, value in environment.items() if name not in PRIVATE}


def _from_descriptor(text: str) -> str:
    try:
        number = int(text)
        if number < 0 or number in (1, 2):  # What is written to is nothing to read from.
            raise ValueError
        with os.fdopen(number, "rb") as file:
            data = file.read(BYTES_MAX)
        return _checked(data.decode(), f"from descriptor {number}")
    except (ValueError, OSError):
        raise UsageError(
            f"couldn't read a passphrase from descriptor {text[:20]!r} ({DESCRIPTOR})",
            hint=f"open it for reading, as in `{DESCRIPTOR}=3 swarm start 3< FILE`",
            identifier=LOCKED,
        ) from None


def _checked(text: str, where: str) -> str:
    line = text.partition("\n")[0].strip()
    if len(line) < CHARACTERS_MIN:
        raise UsageError(
            f"couldn't use the passphrase {where}: it has fewer than {CHARACTERS_MIN} characters",
            hint="write several words on its first line",
        )
    return line
