"""SHELL. The log that a site keeps: JSON lines in a few files of limited size, the newest in the one that is named.

It is made to be handed on, so it never holds what the user's own code said: that may name a patient. Such facts are in
it with their round and without their words; the words go to a terminal, where the site's people read them.
"""

from __future__ import annotations

import logging
import logging.handlers
from pathlib import Path

from typing_extensions import override

from node.config import LEVELS
from node.telemetry.lines import kept_private, line
from node.telemetry.traces import Names
from swarm.machine import Report

TIMES = ("training", "evaluating", "sent", "received")
"""Debug facts that are written with those of level `info`."""


class _Files(logging.handlers.RotatingFileHandler):
    """Whatever the disk says, a log stops nothing and prints nothing."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        del record


class LogFile:
    """`bytes_max` is that of each file, `count` how many there are, 2 or more; `level` the least that is written.

    Facts that say when something began are too small for people and `debug`, but rounds cannot be told as spans without
    them: where facts of level `info` are written, so are they. `names` gives facts of a round its trace.
    """

    def __init__(
        self, path: Path, *, node: str, bytes_max: int, count: int, level: str, names: Names | None = None
    ) -> None:
        self._node, self._least, self._names = node, LEVELS.index(level), names
        assert count > 1, "of one file nothing is left when it is full"
        self._files: _Files | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files = _Files(path, maxBytes=bytes_max, backupCount=count - 1, encoding="utf-8", delay=True)
        except OSError:
            return

    def report(self, report: Report, now: float) -> None:
        """Write a fact, if it is of that level."""
        level = "info" if report.event in TIMES else report.level
        if self._files is None or LEVELS.index(level) < self._least:
            return
        text = line(kept_private(report), now, node=self._node, names=self._names)
        self._files.handle(logging.makeLogRecord({"msg": text, "args": None}))

    def close(self) -> None:
        """Close the file."""
        if self._files is not None:
            self._files.close()


def log_files(path: Path) -> list[Path]:
    """Return the files of a log that are there, the newest first."""
    numbered = sorted(
        (found for found in path.parent.glob(f"{path.name}.*") if found.suffix[1:].isdecimal()),
        key=lambda found: int(found.suffix[1:]),
    )
    return [*([path] if path.is_file() else []), *numbered]
