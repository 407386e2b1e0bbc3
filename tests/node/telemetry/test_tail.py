"""Every line of a log is read once, whatever becomes of its files meanwhile."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from node.logfile import LogFile
from node.telemetry.tail import Tail
from swarm.machine import Report


def read(tail: Tail) -> list[str]:
    return [line.decode().rstrip("\n") for line in tail.lines()]


def test_lines_come_as_they_are_written_and_only_whole(tmp_path: Path) -> None:
    path = tmp_path / "log"
    tail = Tail(path)
    assert read(tail) == []
    path.write_text("one\ntwo\nthr")
    assert read(tail) == ["one", "two"]
    with path.open("a") as file:
        file.write("ee\nfour\n")
    assert read(tail) == ["three", "four"]
    assert read(tail) == []


def test_a_log_that_was_written_before_is_read_from_its_oldest_file(tmp_path: Path) -> None:
    for name, text in (("log.10", "a\n"), ("log.2", "b\n"), ("log.1", "c\n"), ("log", "d\n"), ("log.old", "no\n")):
        (tmp_path / name).write_text(text)
    assert read(Tail(tmp_path / "log")) == ["a", "b", "c", "d"]


@pytest.mark.parametrize("seed", range(5))
def test_rotation_loses_nothing_that_is_still_there_and_repeats_nothing(tmp_path: Path, seed: int) -> None:
    rng = random.Random(seed)
    log = LogFile(tmp_path / "log", node="a", bytes_max=500, count=30, level="info")
    tail, seen = Tail(tmp_path / "log"), list[str]()
    for number in range(150):
        log.report(Report("told", f"fact {number}"), float(number))
        if rng.random() < 0.1:
            seen += read(tail)
    seen += read(tail)
    log.close()
    assert [f"fact {number}" for number in range(150)] == [line.partition('"text": "')[2][:-2] for line in seen]


def test_who_reads_too_seldom_misses_what_was_let_go_and_nothing_else(tmp_path: Path) -> None:
    log = LogFile(tmp_path / "log", node="a", bytes_max=500, count=3, level="info")
    tail = Tail(tmp_path / "log")
    log.report(Report("told", "fact 0"), 0.0)
    seen = read(tail)
    for number in range(1, 100):
        log.report(Report("told", f"fact {number}"), float(number))
    seen += read(tail)
    log.close()
    told = [int(line.partition("fact ")[2].partition('"')[0]) for line in seen]
    assert told[0] == 0
    assert told[1:] == [*range(told[1], 100)]
