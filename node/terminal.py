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
from collections.abc import Mapping
from typing import TextIO

STAND_INS = {
    "█": "#", "░": ".", "●": "*", "✗": "x", "✓": "v", "…": "~", "↓": "v", "↑": "^", "→": ">", "·": ".",
    **dict(zip("▁▂▃▄▅▆▇", "_..-=+*", strict=True)),
}  # fmt: skip
"""What is written for a sign that a terminal does not have: one for one, so that columns stay where they are."""

ERRORS = "swarm_stand_ins"

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


class Claim:
    """A terminal as the place of one view. Whoever comes second is not `granted` it, until the first has ended.

    It is a lock on the device, which goes with the process that holds it, however that ends. Where there is no such
    device, or it may not be opened, nobody can know of another, and it is granted.
    """

    def __init__(self, stream: TextIO) -> None:
        self.granted = True
        self._device = -1
        try:
            self._device = os.open(os.ttyname(stream.fileno()), os.O_RDONLY | os.O_NOCTTY | os.O_CLOEXEC)
        except (OSError, ValueError):
            return
        try:
            fcntl.flock(self._device, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.granted = False
        except OSError:
            return

    def close(self) -> None:
        """Let others have it."""
        if self._device >= 0:
            with contextlib.suppress(OSError):
                os.close(self._device)
            self._device = -1


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
