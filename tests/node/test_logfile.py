"""The log that a site keeps: in few files of limited size, without what the user's code says, and in nobody's way."""

from __future__ import annotations

import json
import stat
from pathlib import Path

from node.logfile import LogFile, log_files
from swarm.machine import Report

MB = 1 << 20


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_facts_are_lines_of_json_from_the_level_on_that_was_asked_for(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "run" / "log.jsonl", node="a", bytes_max=MB, count=2, level="info")
    log.report(Report("block_final", "block 7 is final", {"height": 7}, level="debug"), 1.0)
    log.report(Report("round_committed", "round 1 committed: 100 %s", {"round": 1, "event": "no"}), 2.5)
    log.close()
    assert lines(tmp_path / "run" / "log.jsonl") == [
        {
            "time": 2.5,
            "node": "a",
            "level": "info",
            "event": "round_committed",
            "text": "round 1 committed: 100 %s",
            "round": 1,
        }
    ]


def test_what_the_users_code_says_is_never_in_it(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", node="a", bytes_max=MB, count=2, level="debug")
    for event in ("task_output", "training_failed", "evaluation_failed"):
        log.report(Report(event, "KeyError: 'patient-4711'", {"round": 3, "id": "patient-4711"}, level="error"), 1.0)
    log.close()
    assert "4711" not in (tmp_path / "log").read_text()
    assert [line["round"] for line in lines(tmp_path / "log")] == [3, 3, 3]


def test_files_are_rotated_at_their_size_and_the_oldest_is_let_go(tmp_path: Path) -> None:
    path = tmp_path / "log"
    log = LogFile(path, node="a", bytes_max=400, count=3, level="info")
    for number in range(40):
        log.report(Report("told", f"fact {number}"), float(number))
    log.close()
    found = log_files(path)
    assert [one.name for one in found] == ["log", "log.1", "log.2"]
    assert {*tmp_path.iterdir()} == {*found}
    assert all(one.stat().st_size <= 400 for one in found)
    told = [line["text"] for one in reversed(found) for line in lines(one)]
    assert told == [f"fact {number}" for number in range(40 - len(told), 40)]


def test_a_log_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in (tmp_path / "file" / "log", tmp_path):
        log = LogFile(path, node="a", bytes_max=MB, count=2, level="info")
        log.report(Report("told", "fact"), 1.0)
        log.close()


def test_nobody_else_reads_the_folder_it_makes(tmp_path: Path) -> None:
    LogFile(tmp_path / "run" / "log", node="a", bytes_max=MB, count=2, level="info").close()
    assert stat.S_IMODE((tmp_path / "run").stat().st_mode) == 0o700
