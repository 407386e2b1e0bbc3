"""A fact is the same line of JSON for every machine that reads it, and names no patient."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from node.console import Console
from node.logfile import LogFile
from node.telemetry.lines import PRIVATE, line
from node.telemetry.traces import Names
from swarm.machine import NodeId, Report

NAMES = Names(bytes(32), NodeId(bytes(31) + b"\1"))
FACT = Report("trained", "trained round 2 on 9 samples", {"round": 2, "loss": 0.5})


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown(mode: str, *reports: Report, stream: io.StringIO | None = None, told: bool = False) -> list[str]:
    to = stream or io.StringIO()
    console = Console(mode, name="a", stream=to, names=NAMES, told=told)
    for report in reports:
        console.report(report, 1.5)
    console.close()
    return to.getvalue().splitlines()


def test_where_nobody_sits_facts_are_json_unless_text_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    [told] = shown("auto", FACT)
    assert json.loads(told)["event"] == "trained"
    for mode in ("text", "plain"):
        [told] = shown(mode, FACT)
        assert told.endswith("a  trained round 2 on 9 samples")
    monkeypatch.setenv("TERM", "dumb")
    [told] = shown("auto", FACT, stream=Terminal())
    assert told.endswith("a  trained round 2 on 9 samples"), "a terminal that cannot be drawn on is one all the same"


def test_the_log_file_and_stderr_say_the_same(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", node="a", bytes_max=1 << 20, count=2, level="info", names=NAMES)
    log.report(FACT, 1.5)
    log.close()
    [told] = shown("auto", FACT)
    assert (tmp_path / "log").read_text().splitlines() == [told] == [line(FACT, 1.5, node="a", names=NAMES)]
    assert json.loads(told) == {
        "time": 1.5,
        "node": "a",
        "level": "info",
        "event": "trained",
        "text": "trained round 2 on 9 samples",
        **NAMES.of(FACT),
        "round": 2,
        "loss": 0.5,
    }


@pytest.mark.parametrize("event", [*PRIVATE])
def test_what_the_users_code_says_leaves_only_by_a_terminal_or_when_asked_for(event: str) -> None:
    fact = Report(event, "KeyError: 'patient-4711'", {"round": 3, "id": "patient-4711"}, level="error")
    for mode in ("auto", "json", "text"):
        assert "4711" not in "".join(shown(mode, fact))
        assert "4711" in "".join(shown(mode, fact, told=True))
    assert "4711" in "".join(shown("text", fact, stream=Terminal()))
    [told] = shown("auto", fact)
    found = json.loads(told)
    assert found["round"] == 3
    assert found["text"].endswith(" (why is shown on a terminal, or with run.log_task = true in swarm.toml)")


def test_values_displace_neither_the_lines_own_fields_nor_its_ids() -> None:
    values = {"round": 1, "event": "no", "text": "no", "time": 0, "node": "no", "level": "no", "trace_id": "no"}
    told = json.loads(line(Report("trained", "yes", values), 1.0, node="a", names=NAMES))
    assert (told["event"], told["text"], told["time"], told["node"], told["level"]) == (
        "trained",
        "yes",
        1.0,
        "a",
        "info",
    )
    assert told["trace_id"] == NAMES.of(Report("trained", "", {"round": 1}))["trace_id"]


def test_the_file_says_when_things_began_though_that_is_debug(tmp_path: Path) -> None:
    began = Report("training", "training for round 2", {"round": 2}, level="debug")
    for level, count in (("info", 1), ("warning", 0), ("debug", 2)):
        log = LogFile(tmp_path / level, node="a", bytes_max=1 << 20, count=2, level=level)
        log.report(began, 1.0)
        log.report(Report("block_final", "block 7 is final", {"height": 7}, level="debug"), 1.0)
        log.close()
        path = tmp_path / level
        assert len(path.read_text().splitlines() if path.exists() else []) == count
