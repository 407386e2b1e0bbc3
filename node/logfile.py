"""SHELL. The log that a site keeps: JSON lines in a few files of limited size, the newest in the one that is named.

It is made to be handed on, so it never holds what the user's own code said: that may name a patient. Such facts are in
it with their round and without their words; the words go to stderr, where the site's people read them.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
from pathlib import Path

from typing_extensions import override

from node.config import LEVELS
from swarm.machine import Report

PRIVATE = {
    "task_output": "the task printed a line",
    "training_failed": "training failed",
    "evaluation_failed": "evaluation failed",
}
"""Events that quote the user's code, and what is said in place of it."""


class _Files(logging.handlers.RotatingFileHandler):
    """Whatever the disk says, a log stops nothing and prints nothing."""

    @override
    def handleError(self, record: logging.LogRecord) -> None:
        del record


class LogFile:
    """`bytes_max` is that of each file, `count` how many there are, 2 or more; `level` the least that is written."""

    def __init__(self, path: Path, *, node: str, bytes_max: int, count: int, level: str) -> None:
        self._node, self._least = node, LEVELS.index(level)
        assert count > 1, "of one file nothing is left when it is full"
        self._files: _Files | None = None
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            self._files = _Files(path, maxBytes=bytes_max, backupCount=count - 1, encoding="utf-8", delay=True)
        except OSError:
            return

    def report(self, report: Report, now: float) -> None:
        """Write a fact, if it is of that level."""
        if self._files is None or LEVELS.index(report.level) < self._least:
            return
        words = PRIVATE.get(report.event)
        values = dict(report.values) if words is None else {k: v for k, v in report.values.items() if k == "round"}
        line = {"time": round(now, 3), "node": self._node, "level": report.level, "event": report.event}
        line |= {"text": report.text if words is None else words}
        text = json.dumps({**{key: value for key, value in values.items() if key not in line}, **line})
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
