"""SHELL. A file that is only ever added to: one JSON object a line, and after it a digest of all lines up to there.

For what must not be forgotten and must not be changed unnoticed: what of a privacy budget is spent, what has left a
site. A line is durable when `append` returns. A last line without an end was never acknowledged: it is passed over, and
the next takes its place. Any other line that does not match its digest is an error, for people to look at; what cannot
be seen from inside is a file that was put back as it was before, or made anew by somebody who can write it.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Generic, TypeVar

from node.storage import store_error, sync_folder
from swarm.errors import StoreError, UsageError

T = TypeVar("T")

_DIGEST_CHARACTERS = 32
BYTES_MAX = 1 << 26
"""Of a file that is not meant to grow long; about half a million lines."""

LINE_BYTES_MAX = 1 << 20
"""What is longer is no line: not even that much of a damaged file is held at once."""


class Chained(Generic[T]):
    """One such file.

    Args:
        path: where it is; it need not be there.
        parse: makes of a line's JSON what it means. Raises ValueError, TypeError or `UsageError` for what it cannot be.
        damaged: makes an error of where (the file and perhaps the line) and what is wrong there.
        noun: what a line is.
        long: whether it may grow without end, so that appending should not read all of it again. What somebody else
            changes meanwhile without changing its length is then noticed when it is read, and not before.
    """

    def __init__(
        self,
        path: Path,
        parse: Callable[[object], T],
        damaged: Callable[[str, str], StoreError],
        *,
        noun: str,
        long: bool = False,
    ) -> None:
        self._path, self._parse, self._damaged = path, parse, damaged
        self._noun, self._long = noun, long
        self._end: tuple[int, str] | None = None  # Of its whole lines when last read or written, and the digest there.
        self._torn = False

    def read(self) -> list[T]:
        """Return all lines, in order; none if there is no file.

        Raises:
            StoreError: it cannot be read, or is not what was written.
        """
        return list(self.each())

    def each(self) -> Iterator[T]:
        """Yield them one by one, none of them held here. Raises as `read` does."""
        digest, whole, size = "", 0, 0
        try:
            with self._path.open("rb") as file:
                if not self._long and os.fstat(file.fileno()).st_size > BYTES_MAX:
                    raise self._damaged(f"{self._path}", "it is too long")
                for number, line in enumerate(iter(lambda: file.readline(LINE_BYTES_MAX), b""), 1):
                    size += len(line)
                    if not line.endswith(b"\n"):
                        if len(line) == LINE_BYTES_MAX:
                            raise self._damaged(f"{self._path}, line {number}", "it is too long")
                        break
                    whole = size
                    where = f"{self._path}, line {number}"
                    body, _, told = line[:-1].decode(errors="replace").rpartition(" ")
                    digest = _chained(digest, body)
                    if told != digest:
                        raise self._damaged(where, "it does not match its digest")
                    try:
                        value = self._parse(json.loads(body))
                    except (ValueError, TypeError, KeyError, AttributeError, RecursionError, UsageError):
                        raise self._damaged(where, f"it is no {self._noun}") from None
                    yield value
        except FileNotFoundError:
            return
        except OSError as error:
            raise store_error(f"read {self._path}", error) from error
        self._end = whole, digest
        self._torn = whole != size

    def append(self, values: Mapping[str, object]) -> None:
        """Add a line, durably: it survives whatever happens once this returns.

        Raises:
            StoreError: it could not be written, so nothing may be done that rests on it.
        """
        fresh = not self._path.exists()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(f"open {self._path}", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            whole, digest = self._ending(descriptor)
            body = json.dumps(dict(values), sort_keys=True, allow_nan=False)
            line = f"{body} {_chained(digest, body)}\n".encode()
            os.ftruncate(descriptor, whole)  # Half a line that a crash has left.
            if os.pwrite(descriptor, line, whole) != len(line):
                raise StoreError(f"couldn't write to {self._path}: the disk took half a line", hint="free some space")
            os.fsync(descriptor)
            self._end, self._torn = (whole + len(line), _chained(digest, body)), False
        except OSError as error:
            raise store_error(f"write to {self._path}", error) from error
        finally:
            os.close(descriptor)
        if fresh:
            sync_folder(self._path.parent)

    def _ending(self, descriptor: int) -> tuple[int, str]:
        """Return where the whole lines end, and the digest there."""
        known = self._end is not None and not self._torn and os.fstat(descriptor).st_size == self._end[0]
        if not (self._long and known):
            self._end = 0, ""
            deque(self.each(), maxlen=0)
        assert self._end is not None, "it was just read"
        return self._end


def _chained(before: str, body: str) -> str:
    return hashlib.sha256(f"{before} {body}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
