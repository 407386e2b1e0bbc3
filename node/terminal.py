"""SHELL. What a terminal can take: whether it can be drawn on, whose it is, which letters it has, how much fits.

A view that redraws itself assumes more than it is told: that the terminal moves its cursor, that nobody else draws on
it, that this program is the one in front. Where one of these is not so it must fall back on plain lines, or say why
not, and never leave a screen that two have written into one another. And a letter that a terminal does not have is no
reason to end: an alert without its cross is worth more than none.
"""

from __future__ import annotations

import codecs
import contextlib
import fcntl
import io
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TextIO

STAND_INS = {
    "█": "#", "░": ".", "●": "*", "✗": "x", "✓": "v", "…": "~", "↓": "v", "↑": "^", "→": ">", "·": ".",
    **dict(zip("▁▂▃▄▅▆▇", "_..-=+*", strict=True)),
}  # fmt: skip
"""What is written for a sign that a terminal does not have: one for one, so that columns stay where they are."""

ERRORS = "swarm_stand_ins"

ROWS_MAX = 1024
"""A view covers no more rows that are told of: no terminal has as many."""

TURN = 1 << 20
"""The record of a terminal that is locked by who writes."""

LINES_WAITING_MAX = 100
"""Lines wait no longer than until there are so many: whoever has been drawing all the while has been stopped at it."""

DEFAULTS = ("strict", "surrogateescape", "backslashreplace")
"""What Python does of itself about letters that are lacking: on stdout, there in the locale C, and on stderr."""


def can_be_drawn_on(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether a stream is a terminal that moves its cursor, and this program is in front of it.

    A program in the background would write into whatever is in front: another view, an editor, a half-typed line.
    """
    return stream.isatty() and environment.get("TERM", "dumb") != "dumb" and in_front(stream)


def in_front(stream: TextIO) -> bool:
    """Whether this program is what its terminal's keys go to. Where nobody can say so, as in a container, it is."""
    try:
        return os.tcgetpgrp(stream.fileno()) in (0, os.getpgrp())
    except (OSError, ValueError):
        return True


class _Device:
    """A terminal's device, for locks on it: they go with the process that holds them, however that ends.

    A lock on the device as a whole says whose the one view is. Records of it, which are locked apart from that, say
    two more things among processes: that on `TURN` whose turn it is to write, and as many as there are from 0 on how
    many rows the view covers, the cursor being in the last. So whoever has a line to tell can put it above the view.
    """

    def __init__(self, stream: TextIO) -> None:
        self.number = -1
        with contextlib.suppress(OSError, ValueError):
            self.number = os.open(os.ttyname(stream.fileno()), os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)

    @contextmanager
    def turn(self) -> Iterator[bool]:
        """Yield whether nobody else writes meanwhile that asks for its turn. Where there is no device, nobody can."""
        mine = self._lock(TURN)
        try:
            yield mine or self.number < 0
        finally:
            if mine:
                self._unlock(TURN, 1)

    def cover(self, rows: int) -> None:
        """Let others know how many rows the view has."""
        if rows:
            self._lock(0, min(rows, ROWS_MAX))
        self._unlock(rows, ROWS_MAX)

    def covered(self) -> int:
        """Return how many rows a view of another process has."""
        for row in range(ROWS_MAX if self.number >= 0 else 0):
            if self._lock(row):
                self._unlock(row, 1)
                return row
        return 0

    def close(self) -> None:
        """Let go of it, and of every lock."""
        if self.number >= 0:
            with contextlib.suppress(OSError):
                os.close(self.number)
            self.number = -1

    def _lock(self, first: int, count: int = 1) -> bool:
        try:
            fcntl.lockf(self.number, fcntl.LOCK_EX | fcntl.LOCK_NB, count, first)
        except (OSError, ValueError):
            return False
        return True

    def _unlock(self, first: int, count: int) -> None:
        with contextlib.suppress(OSError, ValueError):
            fcntl.lockf(self.number, fcntl.LOCK_UN, count, first)


class Claim:
    """A terminal as the place of one view. Whoever comes second is not `granted` it, until the first has ended.

    Where there is no device to lock, or it may not be opened, nobody can know of another, and it is granted.
    """

    def __init__(self, stream: TextIO) -> None:
        self.granted = True
        self._device = _Device(stream)
        try:
            fcntl.flock(self._device.number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.granted = False
        except (OSError, ValueError):
            return

    @contextmanager
    def drawing(self, rows: int) -> Iterator[bool]:
        """Yield whether the view may be drawn now, of so many rows with the cursor left in the last.

        If not, somebody is putting a line above it, and it is to be drawn the next time.
        """
        with self._device.turn() as mine:
            yield mine
            if mine:
                self._device.cover(rows)

    def close(self) -> None:
        """Let others have it."""
        self._device.close()


class Aside:
    """A terminal that a view of another process may be on, for whoever writes whole lines on it.

    A line goes above the view: what is drawn is cleared from its first row, the line stands there, and the cursor is
    left so far below as the view will reach when it is drawn next, in a quarter of a second. Written where the cursor
    is, it would be drawn over, and the view's own upper rows be left behind.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._device = _Device(stream)
        self._waiting: list[str] = []

    def print(self, line: str) -> None:
        """Write a line, or keep it until it is this process's turn. Raises `OSError` as the stream does."""
        self._waiting.append(line)
        self.flush()

    def flush(self) -> None:
        """Write what waits, if it is this process's turn: a view is drawn in a few milliseconds. Raises `OSError`."""
        if not self._waiting:
            return
        with self._device.turn() as mine:
            if mine or len(self._waiting) > LINES_WAITING_MAX:
                text, self._waiting = "\n".join(self._waiting), []
                print(above(text, self._device.covered()), file=self._stream, flush=True)

    def close(self) -> None:
        """Let go of the terminal. What still waits is written wherever the cursor is. Raises `OSError`."""
        self._device.close()
        self.flush()


def above(text: str, rows: int) -> str:
    """Return what puts lines above a view of so many rows, with the cursor in the last, and leaves room for it."""
    if not rows:
        return text
    up, room = f"\x1b[{rows - 1}A" if rows > 1 else "", "\n" * (rows - 1)
    return f"{up}\r\x1b[J{text}{room}"


def spell_out(stream: TextIO) -> None:
    """Have a stream write stand-ins for signs, and escapes for letters, that its encoding does not have."""
    if not isinstance(stream, io.TextIOWrapper) or stream.errors not in DEFAULTS:
        return  # It is somebody's own, or PYTHONIOENCODING says what to do.
    codecs.register_error(ERRORS, _stand_in)
    stream.reconfigure(errors=ERRORS)


def _stand_in(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    lacking = error.object[error.start : error.end]
    known = (STAND_INS.get(sign) for sign in lacking)
    told = (sign if sign is not None else ascii(one)[1:-1] for one, sign in zip(lacking, known, strict=True))
    return "".join(told), error.end


def fitted(text: str, columns: int, lines: int) -> str:
    """Return as much of a text as fits: no line wraps, and what is left out below is said to be."""
    from rich.cells import cell_len, set_cell_size

    whole = text.splitlines()
    shown = (
        whole if len(whole) <= lines else [*whole[: max(lines - 1, 1)], f"… and {len(whole) - lines + 1} more lines"]
    )
    return "\n".join(
        line if cell_len(line) <= columns else f"{set_cell_size(line, max(columns - 1, 0))}…" for line in shown[:lines]
    )
