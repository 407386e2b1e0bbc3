"""What every command prints, and how it ends.

Data goes to stdout, words about it to stderr. With `--json`, stdout is one object
`{"schema": "swarm/cli/v1", "status": "ok" | "error", ...}`, whatever happens. With `--format jsonl` it is one such
object for each thing in a list, as soon as it is read; an error, if one comes, is the last of them. An error is a
sentence that says what was attempted and what is wrong, and a hint that says what to do; the exit code says which kind
it is, and an identifier in brackets what `docs/reference/errors.md` has it under.
"""

from __future__ import annotations

import itertools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import NoReturn

import click

from node.clock import Clock
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
SUBSET = 9
PAUSED = 10
WORSE = 11
INTERRUPTED = 130

EXIT_CODES = {
    OK: "all is well",
    FAILED: "the operation failed, or nothing is decided yet",
    USAGE: "the command or the configuration is wrong, or a node refuses it",
    INVALID: "a ledger, a charter or a signature does not hold",
    CONTRADICTION: "proof that a member contradicted itself, or a fork",
    ROLLED_BACK: "a ledger went back on what was seen of it before",
    INCOMPLETE: "something is missing, or this site and the others do not fit together",
    NOT_FOUND: "what was asked for is not there, or could be more than one thing",
    UNAVAILABLE: "no node answers, or another process uses the folder",
    SUBSET: "the run is done, and some site's work is missing for some rounds",
    PAUSED: "stopped while the run was paused: too few sites were there to go on",
    WORSE: "the swarm's model is worse at this site than the one that it trains alone",
    INTERRUPTED: "interrupted, or stopped before the run was done",
}

MISFITS = ("SWARM-TASK-FILE", "SWARM-TASK-MODEL", "SWARM-EGRESS-CHARTER", "SWARM-PRIVACY-RECORD")
"""Errors that say that this site and the others do not fit together, wherever they are noticed."""


class Form(Enum):
    """How a command prints what it found: for people, as one object, as one object a line, or as bare bytes."""

    TABLE = "table"
    JSON = "json"
    JSONL = "jsonl"
    RAW = "raw"


class Failure(SwarmError):
    """An error with an exit code of its own."""

    def __init__(self, message: str, *, code: int, hint: str = "", identifier: str = "") -> None:
        super().__init__(message, hint=hint, identifier=identifier)
        self.code = code


class Told(Failure):
    """An error that whoever reads stderr has been told of, as the last line of a log in JSON."""


def emit(data: Mapping[str, object], *, as_json: bool, text: str) -> None:
    """Print a command's result: the envelope, or its text."""
    click.echo(_envelope(data) if as_json else text)


def tell(event: str, text: str) -> None:
    """Say what a command that goes on and on is at: on a terminal in words, and where nobody sits as a log's line."""
    if sys.stderr.isatty():
        click.echo(text, err=True)
    else:
        line = {"time": round(Clock().now(), 3), "level": "info", "event": event, "text": text}
        click.echo(json.dumps(line), err=True)


def emit_rows(
    name: str,
    rows: Iterable[tuple[Mapping[str, object], str]],
    *,
    form: Form,
    head: Sequence[str] = (),
    none: str = "",
    foot: Sequence[str] = (),
    rest: Mapping[str, object] | None = None,
) -> int:
    """Print a list, and return how long it was. As lines of JSON, each row is printed before the next is asked for.

    Args:
        name: the key of the list in the one object.
        rows: each for programs, and in words.
        form: not `RAW`.
        head: lines for people before the list.
        none: the line for people when there is nothing in it, in place of head and list.
        foot: lines for people after it; what they say concerns who reads lines of JSON too, and goes to stderr there.
        rest: what the one object holds beside the list.
    """
    number = 0
    if form is Form.JSONL:
        for plain, _ in rows:
            click.echo(_envelope(plain))
            number += 1
        for line in foot:
            click.echo(line, err=True)
        return number
    listed = list(rows)
    if form is Form.JSON:
        click.echo(_envelope({name: [plain for plain, _ in listed], **(rest or {})}))
    else:
        lines = [*head, *(line for _, line in listed)] if listed or not none else [none]
        click.echo("\n".join((*lines, *foot)))
    return len(listed)


def emit_bytes(parts: Iterable[bytes]) -> None:
    """Print bytes as they are. Raises `UsageError` where they would go to a terminal, which takes them for commands."""
    if sys.stdout.isatty():
        raise UsageError("couldn't print raw bytes on a terminal", hint="send them to a file (`> FILE`) or a pipe")
    for part in parts:
        click.echo(part, nl=False)


def wants_json(arguments: Sequence[str]) -> bool:
    """Whether what was typed asks for JSON, so that an error is told in JSON too, even one in what was typed."""
    values = (Form.JSON.value, Form.JSONL.value)
    apart = any(pair[0] == "--format" and pair[1] in values for pair in itertools.pairwise(arguments))
    return "--json" in arguments or apart or any(f"--format={value}" in arguments for value in values)


def wants_color(environment: Mapping[str, str]) -> bool:
    """Whether a terminal may be written to in colour (https://no-color.org); where there is no terminal, nothing is."""
    return not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


def _envelope(data: Mapping[str, object]) -> str:
    return json.dumps({"schema": SCHEMA, "status": "ok", "data": data})


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
        case UsageError(identifier=name) if name in MISFITS:
            return INCOMPLETE
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
        body = {"message": error.message, "hint": error.hint, "code": code, "id": error.identifier}
        click.echo(json.dumps({"schema": SCHEMA, "status": "error", "error": body}))
    if isinstance(error, Told):
        raise SystemExit(code)
    color = None if wants_color(os.environ) else False
    click.secho("error: ", nl=False, err=True, fg="red", bold=True, color=color)
    own = "" if error.identifier == error.kind_identifier else f" [{error.identifier}]"
    click.echo(f"{error.message}{own}", err=True)
    if error.hint:
        click.secho("hint: ", nl=False, err=True, fg="cyan", color=color)
        click.echo(error.hint, err=True)
    raise SystemExit(code)
