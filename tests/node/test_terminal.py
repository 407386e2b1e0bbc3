"""A terminal is drawn on by one program at a time, and only where it can be; no letter that it lacks ends anything."""

from __future__ import annotations

import io
import os
import re
import select
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import pytest

from node.cli.status import render
from node.console import Console
from node.site import Site
from node.terminal import (
    LINES_WAITING_MAX,
    STAND_INS,
    Aside,
    Claim,
    above,
    can_be_drawn_on,
    fitted,
    in_front,
    spell_out,
)
from swarm.machine import Report
from tests.node.test_cli_errors import answering, site, swarm, the_status_of_a_node
from tests.node.test_cli_ledger import calm, said, written
from tests.node.test_console import status

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


class Screen:
    """A terminal of 80 columns that this process draws on, and what stands on it: as much of one as views use."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ours, theirs = os.openpty()
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setenv("COLUMNS", "80")
        self.stream = os.fdopen(theirs, "w", encoding="utf-8")
        self.name = os.ttyname(theirs)
        self._rows, self._row, self._column = [""], 0, 0

    def close(self) -> None:
        self.stream.close()
        os.close(self._ours)

    def lines(self) -> list[str]:
        """What stands there, and was scrolled out above, without what is empty below."""
        while select.select([self._ours], [], [], 0.05)[0]:
            for sign in re.findall("\x1b\\[[?0-9;]*[A-Za-z]|.|\n|\r", os.read(self._ours, 1 << 16).decode()):
                self._take(sign)
        return [row.rstrip() for row in self._rows]

    def _take(self, sign: str) -> None:
        match sign[0], sign[-1]:
            case "\r", _:
                self._column = 0
            case "\n", _:
                self._row += 1
                self._rows += [""] * (self._row + 1 - len(self._rows))
            case "\x1b", "A":
                self._row -= int(sign[2:-1])
                assert self._row >= 0, "above all that was ever written"
            case "\x1b", "K":
                self._rows[self._row] = ""
            case "\x1b", "J":
                self._rows[self._row] = self._rows[self._row][: self._column]
                del self._rows[self._row + 1 :]
            case "\x1b", _:
                assert sign[-1] in "mhl", sign
            case _:
                row = self._rows[self._row].ljust(self._column)
                self._rows[self._row] = row[: self._column] + sign + row[self._column + 1 :]
                self._column += 1


@pytest.fixture
def screen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Screen]:
    made = Screen(monkeypatch)
    yield made
    made.close()


OTHER = """
import fcntl, os, sys
from node.console import Console
from node.terminal import TURN
from swarm.machine import Report
stream = open(sys.argv[1], "w")
device = os.open(sys.argv[1], os.O_RDWR | os.O_NOCTTY)
peer = Console(sys.argv[2], name="b", stream=stream)
print("ready", flush=True)
for line in sys.stdin:
    match line.split():
        case ["hold"]:
            fcntl.lockf(device, fcntl.LOCK_EX, 1, TURN)
        case ["release"]:
            fcntl.lockf(device, fcntl.LOCK_UN, 1, TURN)
        case words:
            peer.report(Report("e", " ".join(words), level="warning"), 1.0)
    print("ready", flush=True)
"""


class Other:
    """Another peer's process on the same terminal, which does one thing after the other."""

    def __init__(self, screen: Screen, mode: str = "auto") -> None:
        command = [sys.executable, "-c", OTHER, screen.name, mode]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._ready()

    def do(self, what: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{what}\n")
        self._process.stdin.flush()
        self._ready()

    def end(self) -> None:
        self._process.communicate()

    def _ready(self) -> None:
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"


def shown_of(lines: list[str]) -> list[str]:
    """The first word or two of each line, by which it is known."""
    return [" ".join(line.split()[:2]) for line in lines]


VIEW = ["test-swarm round", "● site-0", "… site-1", "… site-2"]


@pytest.mark.parametrize("mode", ["auto", "plain"])
def test_what_another_peer_tells_stands_above_the_view_and_the_view_stands_once(screen: Screen, mode: str) -> None:
    first = Console("auto", name="a", stream=screen.stream)
    first.snapshot(status(), 10.0)
    assert shown_of(screen.lines()) == VIEW
    other = Other(screen, mode)
    first.snapshot(status(), 11.0)
    notice = ["b: another"] if mode == "auto" else []
    assert shown_of(screen.lines()) == [*notice, *VIEW]
    other.do("a first trouble")
    other.do("a second one")
    first.report(Report("e", "of its own"), 12.0)
    first.snapshot(status(), 12.0)
    other.do("a third")
    first.close()
    lines = screen.lines()
    told = [line[9:] for line in lines[len(notice) : -6]]
    assert told == ["b  warning: a first trouble", "b  warning: a second one", "b  warning: a third"]
    assert shown_of(lines[-6:-2]) == VIEW
    assert lines[-2].endswith("of its own")
    assert lines[-1] == ""
    other.do("a last one")
    assert screen.lines()[-2].endswith("b  warning: a last one"), "where nothing is drawn it is a line like any"
    other.end()


def test_who_draws_and_who_tells_wait_for_their_turn_and_hold_nobody_up(screen: Screen) -> None:
    other = Other(screen, "plain")
    view, lines = Console("auto", name="a", stream=screen.stream), Aside(screen.stream)
    other.do("hold")
    view.snapshot(status(), 10.0)
    lines.print("told")
    assert screen.lines() == [""]
    other.do("release")
    lines.flush()
    view.snapshot(status(), 10.1)
    assert shown_of(screen.lines()) == ["told", *VIEW]
    other.do("hold")
    for number in range(LINES_WAITING_MAX + 1):
        lines.print(f"{number}")
    assert screen.lines()[-2] == f"{LINES_WAITING_MAX}", "but not for ever"
    other.end()
    view.close()
    lines.close()


def test_a_line_above_a_view_takes_its_place_and_leaves_room_for_it() -> None:
    assert above("told", 0) == "told"
    assert above("told", 1) == "\r\x1b[Jtold"
    assert above("told", 4) == "\x1b[3A\r\x1b[Jtold\n\n\n"


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
