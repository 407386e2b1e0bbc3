"""What every command prints, and how it ends.

Data goes to stdout, words about it to stderr. With `--json`, stdout is one object
`{"schema": "swarm/cli/v1", "status": "ok" | "error", ...}`, whatever happens. An error is a sentence that says what was
attempted and what is wrong, and a hint that says what to do; the exit code says which kind it is.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NoReturn

import click

from swarm.errors import LedgerError, SwarmError, UsageError

SCHEMA = "swarm/cli/v1"

OK = 0
FAILED = 1
USAGE = 2
INVALID = 3
UNREACHABLE = 4
DENIED = 5
INCOMPLETE = 6
NOT_FOUND = 7
UNAVAILABLE = 8

EXIT_CODES = {
    OK: "all is well",
    FAILED: "the operation failed",
    USAGE: "the command or the configuration is wrong",
    INVALID: "a ledger or a signature does not verify",
    UNREACHABLE: "no node is running there, or it does not answer",
    DENIED: "somebody refused",
    INCOMPLETE: "something is missing: signatures, blocks, or a version",
    NOT_FOUND: "there is no such round or entry",
    UNAVAILABLE: "the files are in use or cannot be read",
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
