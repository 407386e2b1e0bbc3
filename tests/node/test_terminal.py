"""A terminal is drawn on by one program at a time, and only where it can be; no letter that it lacks ends anything."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from node.cli.status import render
from node.console import Console
from node.site import Site
from node.terminal import STAND_INS, Claim, can_be_drawn_on, fitted, in_front, spell_out
from swarm.machine import Report
from tests.node.test_cli_errors import answering, site, swarm, the_status_of_a_node
from tests.node.test_cli_ledger import calm, said, written

assert site  # A fixture, used by its name.


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Iterator[TextIO]:
    """A real one, that moves its cursor; what is written on it is read by nobody."""
    ours, theirs = os.openpty()
    monkeypatch.setenv("TERM", "xterm")
    with os.fdopen(theirs, "w", encoding="utf-8") as stream:
        yield stream
    os.close(ours)


def written_as(encoding: str, text: str, *, errors: str = "strict") -> str:
    told = io.BytesIO()
    stream = io.TextIOWrapper(told, encoding=encoding, errors=errors)
    spell_out(stream)
    stream.write(text)
    stream.flush()
    return told.getvalue().decode(encoding)


@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "backslashreplace"])
@pytest.mark.parametrize("encoding", ["latin-1", "ascii", "cp437"])
def test_signs_that_a_terminal_lacks_are_spelled_out_one_for_one(encoding: str, errors: str) -> None:
    text = render(the_status_of_a_node())
    told = written_as(encoding, text, errors=errors)
    assert [len(line) for line in told.splitlines()] == [len(line) for line in text.splitlines()]
    assert "* site-0" in told or encoding == "cp437"
    assert written_as("utf-8", text, errors=errors) == text


def test_letters_of_names_are_not_lost() -> None:
    assert written_as("ascii", "Krak\u00f3w \u4e2d") == "Krak\\xf3w \\u4e2d"
    assert written_as("latin-1", "Krak\u00f3w \u4e2d") == "Krak\u00f3w \\u4e2d"
    assert written_as("ascii", "\u00f3", errors="ignore") == "", "somebody has said what to do"


def test_every_stand_in_is_one_letter_that_all_terminals_have() -> None:
    assert all(len(sign) == len(other) == 1 and other.isascii() for sign, other in STAND_INS.items())


def test_a_text_is_fitted_to_its_screen() -> None:
    assert fitted("one\ntwo\nthree", 4, 9) == "one\ntwo\nthr…"
    assert fitted("1\n2\n3\n4", 20, 3) == "1\n2\n… and 2 more lines"
    assert fitted("1\n2\n3", 20, 3) == "1\n2\n3"
    assert fitted("\u4e2d\u4e2d\u4e2d", 5, 1) == "\u4e2d\u4e2d…", "letters may take two columns"
    assert fitted("1\n2", 20, 1) == "1"


def test_a_terminal_is_one_views_until_that_ends(terminal: TextIO) -> None:
    first, second = Claim(terminal), Claim(terminal)
    assert (first.granted, second.granted) == (True, False)
    second.close()
    first.close()
    first.close()
    assert Claim(terminal).granted


def test_where_there_is_no_device_everybody_may() -> None:
    claims = [Claim(io.StringIO()) for _ in range(2)]
    assert all(claim.granted for claim in claims)


def test_what_cannot_be_drawn_on_is_not(terminal: TextIO) -> None:
    assert can_be_drawn_on(terminal, {"TERM": "xterm"})
    assert not can_be_drawn_on(terminal, {"TERM": "dumb"})
    assert not can_be_drawn_on(terminal, {})
    assert not can_be_drawn_on(io.StringIO(), {"TERM": "xterm"})


def test_in_the_background_nothing_is_drawn(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_front(terminal), "nobody can say"
    monkeypatch.setattr(os, "tcgetpgrp", lambda _: os.getpgrp() + 1)
    assert not can_be_drawn_on(terminal, {"TERM": "xterm"})


def test_of_two_peers_on_one_terminal_the_second_tells_only_what_goes_wrong(
    terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Console("auto", name="a", stream=terminal)
    second = Console("auto", name="b", stream=terminal)
    assert (first._live is None, second._live is None) == (False, True)
    lines: list[str] = []
    monkeypatch.setattr(second, "_print", lines.append)
    second.report(Report("e", "something"), 1.0)
    second.report(Report("e", "something else", level="warning"), 1.0)
    [line] = lines
    assert line.endswith("b  warning: something else")
    first.close()
    third = Console("auto", name="c", stream=terminal)
    assert third._live is not None
    third.close()
    second.close()


def test_a_second_view_on_a_terminal_says_why_it_is_not_shown(
    tmp_path: Path, terminal: TextIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = written(tmp_path / "site", calm()[1])
    held = Claim(terminal)
    for command, module in ((("top", folder), "top"), (("status", folder, "--watch"), "status")):
        monkeypatch.setattr(f"node.cli.{module}.can_be_drawn_on", lambda *_: True)
        monkeypatch.setattr(f"node.cli.{module}.Claim", lambda _: Claim(terminal))
        result = swarm(*command)
        assert (result.exit_code, result.stdout) == (2, "")
        assert "another live view draws on this terminal" in result.stderr
    held.close()


@pytest.mark.real
def test_who_watches_a_node_is_told_that_it_is_away_and_that_it_is_back(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = answering(site, the_status_of_a_node())
    again = answering(site, the_status_of_a_node())
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        match len(naps):
            case 1:
                there.__exit__(None, None, None)
            case 2:
                again.__enter__()
            case _:
                raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.status.sleep", sleep)
    there.__enter__()
    result = swarm("status", site.folder, "--watch")
    again.__exit__(None, None, None)
    assert result.exit_code == 0
    assert result.stdout.count("test-swarm   site-0") == 2
    assert result.stdout.count("no node answers") == 1


def test_who_begins_to_watch_where_no_node_runs_is_told_at_once(site: Site) -> None:
    result = swarm("status", site.folder, "--watch")
    assert result.exit_code != 0
    assert "no node answers" in result.stderr


def test_a_view_that_is_piped_is_text(tmp_path: Path) -> None:
    assert "\x1b" not in said("top", written(tmp_path / "site", calm()[1]))
