"""What every command prints, and how it ends.

Data goes to stdout, words about it to stderr. With `--json`, stdout is one object
`{"schema": "swarm/cli/v1", "status": "ok" | "error", ...}`, whatever happens. An error is a sentence that says what was
attempted and what is wrong, and a hint that says what to do; the exit code says which kind it is.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

import click

from swarm.errors import LedgerError, SwarmError, UsageError

SCHEMA = "swarm/cli/v1"

OK = 0
FAILED = 1
USAGE = 2
INVALID = 3
CONTRADICTION = 4
ROLLED_BACK = 5
INCOMPLETE = 6
NOT_FOUND = 7
UNAVAILABLE = 8
INTERRUPTED = 130

EXIT_CODES = {
    OK: "all is well",
    FAILED: "the operation failed, or nothing is decided yet",
    USAGE: "the command or the configuration is wrong, or a node refuses it",
    INVALID: "a ledger, a charter or a signature does not hold",
    CONTRADICTION: "proof that a member contradicted itself, or a fork",
    ROLLED_BACK: "a ledger went back on what was seen of it before",
    INCOMPLETE: "something is missing: a signature, a certificate, a checkpoint, or blocks",
    NOT_FOUND: "what was asked for is not there, or could be more than one thing",
    UNAVAILABLE: "no node answers, or another process uses the folder",
    INTERRUPTED: "interrupted",
}


class Failure(SwarmError):
    """An error with an exit code of its own."""

    def __init__(self, message: str, *, code: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.code = code


def emit(data: Mapping[str, object], *, as_json: bool, text: str) -> None:
    """Print a command's result: the envelope, or its text."""
    if as_json:
        click.echo(json.dumps({"schema": SCHEMA, "status": "ok", "data": data}))
    else:
        click.echo(text)


def count(n: int, noun: str) -> str:
    """Return a number and its noun: "1 site", "3 sites", "2 entries"."""
    plural = f"{noun[:-1]}ies" if noun.endswith("y") and not noun.endswith("day") else f"{noun}s"
    return f"{n} {noun if n == 1 else plural}"


def check_target(path: Path) -> None:
    """Raise `UsageError` where no file can be written, before there is anything to lose."""
    try:
        folder = next(parent for parent in path.absolute().parents if parent.exists())
        usable = folder.is_dir() and os.access(folder, os.W_OK)
        wrong = "it is a folder" if path.is_dir() else "" if usable else f"{folder} is no folder to write to"
    except OSError as error:
        wrong = str(error.strerror)
    if wrong:
        raise UsageError(f"couldn't write {path}: {wrong}", hint="name a file in a folder that you can write to")


def check_task(path: Path) -> None:
    """Raise `UsageError` unless a Python file is there."""
    if not path.is_file():
        raise UsageError(f"couldn't find the task file {path}", hint="put it there, or name another")
    if path.suffix != ".py":
        raise UsageError(f"couldn't use {path} as a task: its name does not end in .py", hint="name a Python file")


def code_of(error: SwarmError) -> int:
    """Return the exit code of an error."""
    match error:
        case Failure():
            return error.code
        case UsageError():
            return USAGE
        case LedgerError():
            return INVALID
        case _:
            return FAILED


def fail(error: SwarmError, *, as_json: bool) -> NoReturn:
    """Print an error and end."""
    code = code_of(error)
    if as_json:
        body = {"message": error.message, "hint": error.hint, "code": code}
        click.echo(json.dumps({"schema": SCHEMA, "status": "error", "error": body}))
    click.secho("error: ", nl=False, err=True, fg="red", bold=True)
    click.echo(error.message, err=True)
    if error.hint:
        click.secho("hint: ", nl=False, err=True, fg="cyan")
        click.echo(error.hint, err=True)
    raise SystemExit(code)
