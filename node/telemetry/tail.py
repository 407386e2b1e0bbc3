"""SHELL. The lines of a site's log as they come, through its rotation, from the oldest file that is still there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

from node.logfile import log_files

TRIES = 3
"""At files that belong together: a rotation in between renames them all."""


class Tail:
    """Reads the log at `path`. A file that was let go before it was read through is lost, and nothing else.

    A file is known by its inode and its first line: the next one may well get the inode of one that was let go.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._at: tuple[int, bytes] | None = None
        self._offset = 0

    def lines(self) -> Iterator[bytes]:
        """Yield the whole lines that are new. One that is not ended yet comes when it is."""
        with ExitStack() as stack:
            files = self._files(stack)
            which = [(os.fstat(file.fileno()).st_ino, file.readline()) for file in files]
            begin = which.index(self._at) if self._at in which else 0
            for file, this in list(zip(files, which, strict=True))[begin:]:
                if not this[1].endswith(b"\n"):
                    return
                if this != self._at:
                    self._at, self._offset = this, 0
                file.seek(self._offset)
                for line in file:
                    if not line.endswith(b"\n"):
                        break
                    self._offset += len(line)
                    yield line

    def _files(self, stack: ExitStack) -> list[BinaryIO]:
        """Open the files of one moment, the oldest first."""
        for _ in range(TRIES):
            opened: list[BinaryIO] = []
            for path in reversed(log_files(self._path)):
                try:
                    opened.append(stack.enter_context(path.open("rb")))
                except FileNotFoundError:
                    break
            now = [path.stat().st_ino for path in reversed(log_files(self._path)) if path.exists()]
            if now == [os.fstat(file.fileno()).st_ino for file in opened]:
                return opened
        return []  # It rotates as fast as it is looked at: next time.
