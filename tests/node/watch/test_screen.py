"""One screen of a terminal says what there is to look at first, and fits."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest
from rich.console import Console

from node.watch.look import Look
from node.watch.screen import screen
from tests.node.test_cli_ledger import calm, data, said, written
from tests.node.watch.test_watch import look, status, unfinished

SITES_IN_ORDER = ["site", "round", "does", "in", "out", "idle", "trip", "clock"]


def drawn(found: Look, width: int = 110, height: int = 40) -> list[str]:
    terminal = Console(width=width, height=height, force_terminal=False)
    with terminal.capture() as told:
        terminal.print(screen(found, width=width, height=height))
    return told.get().splitlines()


def linked(count: int, *away: int) -> list[dict[str, object]]:
    """Return what a node says of so many members."""
    return [
        {"name": f"hospital-{i}", "node": f"{i:02x}", "me": not i, "member": True, "linked": i not in away, "round": 2,
         "absent": i in away, "phase": "training", "step": 3, "received_bytes": 10**6, "sent_bytes": 5, "moved_s": 1.0,
         "clock_offset_ms": -3}
        for i in range(count)
    ]  # fmt: skip


def test_the_rounds_are_those_of_the_ledger() -> None:
    lines = drawn(look(status(members=linked(3))))
    rounds = {int(words[0]): words for words in map(str.split, lines) if words and words[0].isdecimal()}
    assert [*rounds] == [1, 2]
    assert all(words[-1].startswith("site-") for words in rounds.values()), "who offered last"


def test_what_needs_somebody_comes_first_and_says_what_to_do() -> None:
    found = dataclasses.replace(unfinished(), status=status(members=linked(3, 2)))
    lines = drawn(found)
    assert lines[2].startswith("! hospital-2 is away  (ask its people")
    sites = [line for line in lines if "hospital-" in line][1:]
    assert [line.split()[1] for line in sites] == ["hospital-0", "hospital-2", "hospital-1"], (
        "this site, then the worst"
    )


@pytest.mark.parametrize("height", [16, 24, 60])
def test_it_fits_however_many_sites_and_troubles_there_are(height: int) -> None:
    found = dataclasses.replace(unfinished(), status=status(members=linked(40, *range(5, 30))))
    lines = drawn(found, 100, height)
    assert len(lines) <= height
    assert any(line.strip().startswith("and ") and "more" in line for line in lines), "what is left out is said to be"


@pytest.mark.parametrize("width", [20, 30, 45, 60, 80, 200])
def test_a_narrow_terminal_has_fewer_columns_and_those_whole(width: int) -> None:
    lines = drawn(look(status(members=linked(3, 2))), width, 40)
    [sites] = [line.split() for line in lines if line.split()[:1] == ["site"]]
    assert [name for name in SITES_IN_ORDER if name in sites] == sites
    assert not any("…" in word for word in sites), "a column that is there is there whole"
    assert all(len(line) <= width for line in lines)
    assert any(line.split()[:2] == ["✗", "hospital-2"] for line in lines), "however narrow it is"
    assert "round 2 of 2" in lines[0]
    assert sites == SITES_IN_ORDER or width < 100


def test_on_twenty_columns_and_five_lines_there_is_the_round_and_what_is_wrong() -> None:
    lines = drawn(dataclasses.replace(unfinished(), status=status(members=linked(3, 2))), 20, 5)[:5]
    assert lines[0].startswith("round 1 of 2") or lines[0].startswith("round 2 of 2")
    assert lines[2].startswith("! hospital-2 is aw")


def test_sites_that_there_is_no_room_for_are_not_said_to_be_linked_when_they_are_not() -> None:
    text = "\n".join(drawn(look(status(members=linked(40, *range(5, 30)))), 100, 24))
    assert re.search(r"and \d+ more +[0-9]+ of them not linked", text)
    text = "\n".join(drawn(look(status(members=linked(40))), 100, 24))
    assert re.search(r"and \d+ more +all linked", text)


def test_without_a_node_the_ledger_is_shown_and_the_silence_told() -> None:
    lines = drawn(dataclasses.replace(unfinished(), status=None, silence="no node answers"))
    assert any("this site's node does not run: no node answers" in line for line in lines)
    assert any("between site-0, site-1, site-2" in line for line in lines)


def test_names_that_strangers_wrote_move_no_cursor() -> None:
    members = linked(2)
    members[1]["name"] = "evil\x1b[2J\u202e"
    text = "\n".join(drawn(look(status(members=members))))
    assert "\x1b" not in text
    assert "\u202e" not in text


def test_where_there_is_no_terminal_it_is_printed_once(tmp_path: Path) -> None:
    site = written(tmp_path / "site", calm()[1])
    assert "round 2 of 2" in said("top", site)
    assert data("top", site)["state"]["committed"] == 2  # type: ignore[index]
