"""The manual says what `--help` says, of every command, in markup that its readers accept."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import click
import pytest

from node.cli.main import COMMANDS, cli
from node.cli.output import EXIT_CODES
from tests.packaging.scripts import ROOT, script

MAN = script("man_pages")
DAY = "2026-11-22"


@pytest.fixture(scope="module")
def pages() -> dict[str, str]:
    made: dict[str, str] = MAN.pages(DAY, "0.1.0")
    return made


def plain(text: str) -> str:
    """Return what a reader sees of markup, words one space apart."""
    for mark, seen in ((r"\(rs", "\\"), (r"\-", "-"), (r"\(aq", "'"), (r"\(ga", "`"), (r"\(ha", "^"), (r"\(ti", "~")):
        text = text.replace(mark, seen)
    text = re.sub(r"\\\[u([0-9A-F]{4,6})\]", lambda found: chr(int(found[1], 16)), text)
    for mark in (r"\fB", r"\fP", r"\&", r"\:", "`"):
        text = text.replace(mark, "")
    return " ".join(text.replace(r"\(dq", '"').split())


def walked(
    command: click.Command, words: tuple[str, ...], parent: click.Context | None
) -> list[tuple[str, click.Context]]:
    context = click.Context(command, info_name=words[-1], parent=parent)
    found = [("-".join(words), context)]
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found += walked(below, (*words, name), context)
    return found


def test_every_command_has_a_page_with_every_option_as_its_help_has_it(pages: dict[str, str]) -> None:
    every = walked(cli, ("swarm",), None)
    assert {*pages} == {f"{name}.1" for name, _ in every}
    assert {f"swarm-{name}.1" for name in COMMANDS} < {*pages}
    for name, context in every:
        seen = plain(pages[f"{name}.1"])
        for one in context.command.params:
            record = one.get_help_record(context) if isinstance(one, click.Option) else None
            for told in record or ():
                assert plain(told) in seen, (name, told)
        first = (context.command.help or "").split("\n\n")[0]
        assert plain(first) in seen, name


def test_the_first_page_has_the_exit_codes_and_the_variables_that_the_program_reads(pages: dict[str, str]) -> None:
    seen = plain(pages["swarm.1"])
    assert all(f".TP {code} {text}" in seen for code, text in EXIT_CODES.items())
    source = "".join(path.read_text("utf-8") for path in sorted((ROOT / "node").rglob("*.py")))
    for variable in (
        "SWARM_PASSPHRASE_FILE",
        "SWARM_PASSPHRASE_FD",
        "CREDENTIALS_DIRECTORY",
        "SWARM_TRUST",
        "NO_COLOR",
    ):
        assert variable in seen
        assert f'"{variable}"' in source
    named = re.findall(r"FOLDER/([a-z.]+)", seen)
    operations = (ROOT / "node" / "site.py").read_text("utf-8")
    assert len(named) == 9
    assert all(f'"{one}"' in operations for one in named)


def test_what_troff_would_take_for_its_own_is_text() -> None:
    assert MAN._line(".TH is a word") == r"\&.TH is a word"
    assert MAN._line("'tis `--json`, a\\b") == r"\&\(aqtis \fB\-\-json\fP, a\(rsb"
    assert MAN._line("ε") == r"\[u03B5]"


def test_a_page_is_of_the_day_that_is_asked_for(pages: dict[str, str]) -> None:
    assert MAN.day_of({"SOURCE_DATE_EPOCH": "1700000000"}) == "2023-11-14"
    assert all(page.startswith(".TH ") and DAY in page.splitlines()[0] for page in pages.values())


@pytest.mark.real
@pytest.mark.parametrize(
    ("tool", "words"), [("mandoc", ("-T", "lint", "-W", "warning")), ("groff", ("-ww", "-man", "-z", "-Tutf8"))]
)
def test_readers_of_manuals_find_nothing_wrong(
    pages: dict[str, str], tmp_path: Path, tool: str, words: tuple[str, ...]
) -> None:
    if shutil.which(tool) is None:
        pytest.skip(f"{tool} is not installed")
    for name, page in pages.items():
        (tmp_path / name).write_text(page, encoding="ascii")
    each = (
        [[str(tmp_path / name) for name in pages]] if tool == "mandoc" else [[str(tmp_path / name)] for name in pages]
    )
    for files in each:
        ran = subprocess.run([tool, *words, *files], capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
        assert (ran.returncode, ran.stdout + ran.stderr) == (0, "")
