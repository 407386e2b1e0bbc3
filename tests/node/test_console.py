"""What a running node shows: the same facts as lines, as JSON, or under a live tree; nothing decides, nothing waits."""

from __future__ import annotations

import contextlib
import io
import json
import re
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
from rich.console import Console as Terminal

from node.cli.status import render
from node.console import (
    PHASES,
    RECENT_FACTS,
    REFRESH_S,
    Console,
    bar,
    draw,
    duration_words,
    member_state,
    size_words,
)
from swarm.machine import Report, Resting
from swarm.round import Phase
from tests.builders import make_swarm
from topologies.world.clock import EPOCH_S

MEMBER: dict[str, object] = {"name": "rural", "linked": True, "phase": "waiting", "round": 3}


class Screen(io.StringIO):
    """A terminal that remembers what was written to it."""

    def isatty(self) -> bool:
        return True


def status(**changes: object) -> dict[str, object]:
    """Return what a real node says of itself when it has just been made, with some fields changed."""
    return {**make_swarm(3).node(0).status(EPOCH_S), **changes}


def shown(*reports: Report, mode: str = "plain") -> list[str]:
    """Return the lines that reports become."""
    stream = io.StringIO()
    console = Console(mode, name="rural", stream=stream)
    for report in reports:
        console.report(report, EPOCH_S)
    console.close()
    return stream.getvalue().splitlines()


def drawn(shot: dict[str, object], *recent: tuple[float, Report]) -> str:
    """Return the live view as text."""
    stream = io.StringIO()
    Terminal(file=stream, width=100).print(draw(shot, recent))
    return stream.getvalue()


# --- parts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("done", "total", "filled"),
    [(0, 20, 0), (1, 20, 1), (10, 20, 10), (20, 20, 20), (1, 3, 6), (2, 3, 13), (0, 0, 0), (999_999, 1_000_000, 19)],
)
def test_a_bar_is_full_only_when_all_is_done(done: int, total: int, filled: int) -> None:
    assert bar(done, total) == "█" * filled + "░" * (20 - filled)


def test_a_bar_is_as_wide_as_asked() -> None:
    assert bar(1, 2, 4) == "██░░"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, ("●", "waiting", "green")),
        ({"phase": "training", "step": 0}, ("●", "training", "green")),
        ({"phase": "training", "step": 7}, ("●", "training, step 7", "green")),
        ({"phase": "mixing", "step": 7}, ("●", "averaging", "green")),
        ({"phase": "a later word"}, ("●", "a later word", "green")),
        ({"linked": False}, ("…", "no link", "yellow")),
        ({"linked": False, "absent": True}, ("✗", "away: not heard of for a while", "red")),
        ({"absent": True, "refused": "another charter"}, ("✗", "another charter", "red")),
    ],
)
def test_the_worst_that_is_known_of_a_member_is_what_is_said(
    changes: dict[str, object], expected: tuple[str, str, str]
) -> None:
    assert member_state({**MEMBER, **changes}) == expected


def test_every_phase_of_a_round_has_words() -> None:
    assert {phase.name.lower() for phase in Phase} == set(PHASES)


# --- lines --------------------------------------------------------------------------------------------------------


def test_a_fact_is_a_line_with_the_time_and_the_site() -> None:
    stamp = datetime.fromtimestamp(EPOCH_S, tz=UTC).astimezone().strftime("%H:%M:%S")
    assert shown(Report("started", "ledger at block 0")) == [f"{stamp} rural  ledger at block 0"]


def test_warnings_and_errors_are_called_that_and_what_is_for_debugging_is_left_out() -> None:
    lines = shown(
        Report("torn", "a torn tail", level="warning"),
        Report("disk_full", "no space", level="error"),
        Report("model_built", "31 parameters", level="debug"),
    )
    assert [line[8:] for line in lines] == [" rural  warning: a torn tail", " rural  error: no space"]


def test_a_full_disk_under_the_lines_silences_the_console_no_longer_than_it_lasts(
    mount: Callable[..., Path], tmp_path: Path
) -> None:
    place = mount(tmp_path / "small", "64k")
    filler = place / "filler"
    with (place / "lines").open("w", buffering=1) as stream:
        console = Console("plain", name="rural", stream=stream)
        with contextlib.suppress(OSError):
            filler.write_bytes(bytes(1 << 20))
        for number in range(100):  # More than what is left of the last page.
            console.report(Report("round", f"unheard {number} {'.' * 100}"), EPOCH_S)
        filler.unlink()
        console.report(Report("round", "heard again"), EPOCH_S)
        console.close()
    assert "heard again" in (place / "lines").read_text()


def test_json_lines_hold_everything_also_what_is_for_debugging() -> None:
    lines = shown(
        Report("round_closed", "round 1 closed with 3 sites", {"round": 1, "sites": 3}),
        Report("model_built", "31 parameters", level="debug"),
        mode="json",
    )
    common = {"time": round(EPOCH_S, 3), "node": "rural"}
    assert [json.loads(line) for line in lines] == [
        {
            **common,
            "level": "info",
            "event": "round_closed",
            "text": "round 1 closed with 3 sites",
            "round": 1,
            "sites": 3,
        },
        {**common, "level": "debug", "event": "model_built", "text": "31 parameters"},
    ]


def test_values_never_displace_the_fields_of_the_line() -> None:
    values: dict[str, str | int | float | bool] = {
        "time": 0,
        "node": "forged",
        "level": "x",
        "event": "x",
        "text": "x",
        "peer": "county",
    }
    (line,) = shown(Report("refused", "county was refused", values, level="warning"), mode="json")
    found = json.loads(line)
    assert (found["node"], found["event"], found["level"]) == ("rural", "refused", "warning")
    assert (found["text"], found["peer"]) == ("county was refused", "county")


def test_json_is_one_line_whatever_the_text() -> None:
    assert len(shown(Report("task_output", 'two\nlines and a "quote"'), mode="json")) == 1


@pytest.mark.parametrize(("mode", "term"), [("plain", "xterm"), ("json", "xterm"), ("auto", "dumb")])
def test_a_terminal_is_drawn_on_only_when_it_can_and_may_be(
    mode: str, term: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", term)
    screen = Screen()
    console = Console(mode, name="rural", stream=screen)
    console.snapshot(status(), EPOCH_S)
    assert screen.getvalue() == ""
    console.report(Report("started", "ledger at block 0"), EPOCH_S)
    assert "\x1b" not in screen.getvalue()
    assert screen.getvalue().count("\n") == 1
    console.close()


def test_snapshots_are_nothing_where_there_is_no_terminal() -> None:
    stream = io.StringIO()
    console = Console("auto", name="rural", stream=stream)
    console.snapshot(status(), EPOCH_S)
    console.close()
    assert stream.getvalue() == ""


# --- the live view ------------------------------------------------------------------------------------------------


def test_the_live_view_names_the_swarm_the_round_and_every_site() -> None:
    lines = drawn(status(committed=1)).splitlines()
    assert lines[0].rstrip() == "test-swarm  round 2 of 3  ██████░░░░░░░░░░░░░░  block 0  quorum 2"
    rows = [re.split(r" {2,}", line.strip()) for line in lines[1:4]]
    assert [row[:3] for row in rows] == [
        ["●", "site-0 (this site)", "round 0"],
        ["…", "site-1", "round 0"],
        ["…", "site-2", "round 0"],
    ]
    assert [row[3] for row in rows[1:]] == ["no link", "no link"]


def test_after_the_last_round_the_live_view_does_not_count_on() -> None:
    assert "round 3 of 3  " + "█" * 20 in drawn(status(committed=3))


@pytest.mark.parametrize("what", ["paused", "halted"])
def test_the_live_view_says_why_a_node_does_not_go_on(what: str) -> None:
    assert "the disk is nearly full" in drawn(status(**{what: "the disk is nearly full"}))


def test_facts_are_shown_under_the_tree_and_are_never_taken_for_markup() -> None:
    text = drawn(status(), (EPOCH_S, Report("task_output", "[bold]not markup[/bold] :smile:")))
    assert "[bold]not markup[/bold] :smile:" in text.splitlines()[-1]


def live(monkeypatch: pytest.MonkeyPatch) -> tuple[Screen, Console]:
    monkeypatch.setenv("TERM", "xterm-256color")
    screen = Screen()
    return screen, Console("auto", name="rural", stream=screen)


def test_a_terminal_is_redrawn_at_most_every_quarter_of_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, console = live(monkeypatch)
    lengths = []
    for after_s in (0.0, REFRESH_S / 2, REFRESH_S):
        console.snapshot(status(), EPOCH_S + after_s)
        lengths.append(len(screen.getvalue()))
    console.close()
    assert "site-2" in screen.getvalue()
    assert lengths[0] == lengths[1] < lengths[2]


def test_on_a_terminal_the_last_facts_stay_under_the_tree(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, console = live(monkeypatch)
    for number in range(RECENT_FACTS + 1):
        console.report(Report("fact", f"fact number {number}."), EPOCH_S)
    assert "fact number" not in screen.getvalue(), "drawn with the next snapshot"
    console.snapshot(status(), EPOCH_S)
    console.close()
    assert re.findall(r"fact number (\d)\.", screen.getvalue())[:RECENT_FACTS] == list("12345678")


def test_the_cursor_that_was_hidden_is_shown_again(monkeypatch: pytest.MonkeyPatch) -> None:
    screen, console = live(monkeypatch)
    console.snapshot(status(), EPOCH_S)
    console.close()
    text = screen.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")


@pytest.mark.parametrize(
    ("size", "words"),
    [(0, "0 B"), (999, "999 B"), (1000, "1 kB"), (40_000_000, "40 MB"), (999_999, "1 MB"), (1_234_567_890, "1.23 GB")],
)
def test_sizes_are_said_in_powers_of_ten(size: int, words: str) -> None:
    assert size_words(size) == words


@pytest.mark.parametrize(("seconds", "words"), [(0.4, "0 s"), (59.4, "59 s"), (200, "3 min 20 s"), (7500, "2 h 5 min")])
def test_durations_are_said_as_people_do(seconds: float, words: str) -> None:
    assert duration_words(seconds) == words


def test_the_live_view_shows_how_far_updates_have_come_and_when_it_will_be_over() -> None:
    shot = status(eta_s=200.0)
    members = [
        {**MEMBER, "update": (10_000_000, 40_000_000), "received_bytes": 10_000_000, "sent_bytes": 40_000_000},
        {**MEMBER, "name": "city", "update": (40_000_000, 40_000_000)},
    ]
    lines = drawn({**shot, "members": members}).splitlines()
    assert lines[0].rstrip().endswith("about 3 min 20 s to go")
    assert "update 25%" in lines[1]
    assert "↓ 10 MB  ↑ 40 MB" in lines[1]
    assert "update 40 MB" in lines[2]


def test_why_this_site_trains_nothing_is_said_on_every_screen() -> None:
    swarm = make_swarm(3)
    node = swarm.node(0)
    node.handle(Resting("its disk is full"), EPOCH_S)
    said = node.status(EPOCH_S)
    assert "THIS SITE  trains nothing: its disk is full" in render(said)
    terminal = Terminal(width=120, record=True, file=io.StringIO())
    terminal.print(draw(said, []))
    assert "this site trains nothing: its disk is full" in terminal.export_text()
