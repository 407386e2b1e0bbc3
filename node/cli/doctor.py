"""`swarm doctor`: whether this site can take part, and what to do if not."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click

from node.cli.forms import told
from node.cli.init import FOLDER
from node.cli.output import FAILED, Form, count, emit, wants_color
from node.doctor.case import Case
from node.doctor.examination import PEERS, TASK, examine
from node.doctor.finding import Finding, Level
from node.site import Site

INDENT = 29
"""Where sentences begin."""

ROOM_MIN = 20
"""A terminal that leaves less for a sentence breaks it as it likes."""

COLORS = {Level.PASS: "green", Level.WARN: "yellow", Level.FAIL: "red"}


@click.command()
@FOLDER
@told(short=True)
@click.option("--no-peers", is_flag=True, help="Look at nobody else: no names, ports, handshakes or clocks.")
@click.option("--no-task", is_flag=True, help="Do not try the task on this site's data.")
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting.")
def doctor(folder: Path, overrides: tuple[str, ...], *, form: Form, no_peers: bool, no_task: bool) -> None:
    """Look whether the site in FOLDER can take part: 0 with nothing but PASS and WARN, 1 with any FAIL."""
    case = Case(Site(folder.resolve()), overrides)
    without = [group for group, left in ((PEERS, no_peers), (TASK, no_task)) if left]
    # On a terminal sentences are broken as it is wide; in a file each stays on its line, to be searched for.
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    found: list[Finding] = []
    for finding in examine(case, without=without):
        found.append(finding)
        if form is Form.TABLE:
            click.echo(render(finding, width), color=None if wants_color(os.environ) else False)
    if form is Form.TABLE:
        click.echo(summary(found))
    else:
        emit({"findings": [plain(one) for one in found], **counted(found)}, as_json=True, text="")
    if any(one.level is Level.FAIL for one in found):
        raise SystemExit(FAILED)


def render(finding: Finding, width: int = 0) -> str:
    """Return a finding as people read it: the level, what was looked at, a sentence, and what to do below it.

    Lines are broken at `width` characters, at none if it is 0.
    """
    what = f"{finding.check}, {finding.subject}" if finding.subject else finding.check
    identifier = f" [{finding.identifier}]" if finding.identifier else ""
    level = click.style(finding.level.value, fg=COLORS[finding.level], bold=True)
    lines = [f"{level}  {what:<22} {_broken(finding.text + identifier, width, INDENT)}"]
    lines += [f"{'':<{INDENT}}{line}" for line in finding.details]
    if finding.remedy:
        do = click.style("do:", fg="cyan")
        lines.append(f"{'':<{INDENT}}{do} {_broken(finding.remedy, width, INDENT + 4)}")
    return "\n".join(lines)


def _broken(text: str, width: int, indent: int) -> str:
    """Return a text whose lines after the first are indented, so that none is longer than `width`."""
    room = width - indent
    if room < ROOM_MIN:
        return text
    lines = textwrap.wrap(text, room, break_long_words=False, break_on_hyphens=False)
    return f"\n{'':<{indent}}".join(lines)


def summary(found: Sequence[Finding]) -> str:
    """Return the last line: how many of each."""
    numbers = Counter(one.level for one in found)
    if numbers[Level.FAIL]:
        end = "this site cannot take part as it is"
    else:
        end = "this site can take part" + (", and something is to be looked at" if numbers[Level.WARN] else "")
    told = f"{count(numbers[Level.FAIL], 'failure')}, {count(numbers[Level.WARN], 'warning')}"
    return f"\n{told}, {numbers[Level.PASS]} well: {end}"


def counted(found: Sequence[Finding]) -> dict[str, object]:
    """Return how many of each level there are, for programs."""
    numbers = Counter(one.level for one in found)
    return {level.value.lower(): numbers[level] for level in Level}


def plain(finding: Finding) -> dict[str, object]:
    """Return a finding for programs. What is shown of the data is for this site's people, and stays on their screen."""
    return {
        "check": finding.check,
        "subject": finding.subject,
        "level": finding.level.value,
        "text": finding.text,
        "remedy": finding.remedy,
        "id": finding.identifier,
        "values": dict(finding.values),
    }
