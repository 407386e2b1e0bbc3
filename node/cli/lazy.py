"""A group of commands that are imported when they are used: nobody waits for what he did not ask for."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

import click
from click.shell_completion import CompletionItem
from typing_extensions import override

from node.cli.output import EXIT_CODES


class LazyGroup(click.Group):
    """`table` has, by name, where a command is ("package.module:function") and what it does in one line.

    With `exit_codes` the help ends with what they mean.
    """

    def __init__(self, table: Mapping[str, tuple[str, str]], *, exit_codes: bool = False, **attributes: object) -> None:
        super().__init__(**attributes)  # type: ignore[arg-type]  # click's own, passed through
        self._table, self._exit_codes = table, exit_codes

    @override
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(self._table)

    @override
    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self._table:
            return None
        module, _, name = self._table[cmd_name][0].partition(":")
        command = getattr(importlib.import_module(module), name)
        assert isinstance(command, click.Command), "the table names commands"
        return command

    def summary(self, name: str) -> str:
        """Return what a command does in one line."""
        return self._table[name][1]

    @override
    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Return what may follow, commands without importing them: somebody waits with a finger on a key."""
        named = [
            CompletionItem(name, help=text) for name, (_, text) in self._table.items() if name.startswith(incomplete)
        ]
        return [*named, *click.Command.shell_complete(self, ctx, incomplete)]

    @override
    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._table.items()])
        if self._exit_codes:
            with formatter.section("Exit codes"):
                formatter.write_dl([(str(code), text) for code, text in EXIT_CODES.items()])
