"""`--format`, and `--json` as its short form: how commands that show something print what they found.

Where `--json` came first and `--format` later (`status`, `members`, `charter show`), the short form still works and is
not spoken of any more.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from node.cli.output import Form
from swarm.errors import UsageError

_WORDS = {
    Form.TABLE: "for people",
    Form.JSON: "as one JSON object",
    Form.JSONL: "as one object a line",
    Form.RAW: "as the ledger's own bytes",
}
_WHY_NOT = {
    Form.JSONL: ("it has one thing to tell and nothing to list", "--format json prints it as one object"),
    Form.RAW: ("it works out what it prints", "`swarm ledger show`, `block` and `blocks` print the ledger's own bytes"),
}


def listed(*, raw: bool = False, short: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command that lists things print them in any form. It takes `form`; `short` is whether help has `--json`."""
    return _offering((Form.TABLE, Form.JSON, Form.JSONL, *((Form.RAW,) if raw else ())), short=short)


def told(*, raw: bool = False, short: bool = True) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Let a command that has one thing to tell print it in any form but lines. It takes `form`; `short` as above."""
    return _offering((Form.TABLE, Form.JSON, *((Form.RAW,) if raw else ())), short=short)


def shown(command: Callable[..., None]) -> Callable[..., None]:
    """As `told`, for a command that takes `as_json`."""

    @functools.wraps(command)
    def run(*arguments: Any, form: Form, **options: Any) -> None:
        command(*arguments, as_json=form is Form.JSON, **options)

    return told()(run)


def _offering(forms: tuple[Form, ...], *, short: bool) -> Callable[[Callable[..., None]], Callable[..., None]]:
    words = [_WORDS[form] for form in forms]
    text = f"How to print it: {', '.join(words[:-1])}, or {words[-1]}. [default: table]"

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def run(*arguments: Any, named: str | None, as_json: bool, **options: Any) -> None:
            command(*arguments, form=_chosen(named, forms, as_json=as_json), **options)

        every = click.Choice([form.value for form in Form])
        meta = "|".join(form.value for form in forms)
        brief = click.option("--json", "as_json", is_flag=True, hidden=not short, help="Short for --format json.")
        run = brief(run)
        return click.option("--format", "named", type=every, metavar=meta, help=text)(run)

    return decorate


def _chosen(named: str | None, forms: tuple[Form, ...], *, as_json: bool) -> Form:
    """Return the form that was asked for. Raises `UsageError` when the command has no such form."""
    path = click.get_current_context().command_path
    if as_json and named not in (None, Form.JSON.value):
        raise UsageError(f"couldn't run {path}: --json and --format {named} contradict each other", hint="say one")
    form = Form.JSON if as_json else Form(named or Form.TABLE.value)
    if form not in forms:
        why, hint = _WHY_NOT[form]
        if form is Form.JSONL and path.endswith(" export"):
            hint = "--jsonl prints every block and entry as a line"
        raise UsageError(f"couldn't print {path} as {form.value}: {why}", hint=hint)
    return form
