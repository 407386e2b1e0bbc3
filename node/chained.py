"""SHELL. A file of lines that is only ever added to, each with a digest of all lines up to it.

A last line without an end was never acknowledged, and is passed over: a kill or a power cut in the middle of writing
leaves it. Any other line that does not match its digest is damage, whoever has done it. What cannot be seen from inside
is a file that was put back as it was before: for that somebody else must remember.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from node.storage import store_error, sync_folder
from swarm.errors import StoreError

_DIGEST_CHARACTERS = 32


class Chained:
    """One such file.

    Args:
        path: where it is; its folder is made when it is first needed.
        bytes_max: a longer file is taken to be damaged.
        damaged: makes the error that says so, from the number of a line, 0 for none, and why.
    """

    def __init__(self, path: Path, *, bytes_max: int, damaged: Callable[[int, str], StoreError]) -> None:
        self._path, self._bytes_max, self._damaged = path, bytes_max, damaged

    def lines(self) -> list[str]:
        """Return all there are, in order, without their digests; none if there is no file.

        Raises:
            StoreError: it cannot be read, or is not what was written.
        """
        return self._read()[0]

    def append(self, body: str, check: Callable[[list[str]], object] = lambda _: None) -> None:
        """Add a line, durably: it survives whatever happens once this returns.

        Args:
            body: the line, without an end of line in it.
            check: is given the lines before it, while nobody else can add one; what it raises ends this.

        Raises:
            StoreError: it could not be written, or what is there is damaged.
        """
        assert "\n" not in body, "one line"
        fresh = not self._path.exists()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(f"open {self._path}", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            before, digest, whole = self._read()
            check(before)
            line = f"{body} {_chained(digest, body)}\n".encode()
            os.ftruncate(descriptor, whole)  # Half a line that a crash has left.
            if os.pwrite(descriptor, line, whole) != len(line):
                raise StoreError(f"couldn't write to {self._path}: the disk took half a line", hint="free some space")
            os.fsync(descriptor)
        except OSError as error:
            raise store_error(f"write to {self._path}", error) from error
        finally:
            os.close(descriptor)
        if fresh:
            sync_folder(self._path.parent)

    def _read(self) -> tuple[list[str], str, int]:
        """Return the lines, the digest of the last, and how many bytes are whole lines."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return [], "", 0
        except OSError as error:
            raise store_error(f"read {self._path}", error) from error
        if len(data) > self._bytes_max:
            raise self._damaged(0, "it is too long")
        whole = data.rfind(b"\n") + 1
        found: list[str] = []
        digest = ""
        for number, line in enumerate(data[:whole].splitlines(), 1):
            body, _, told = line.decode(errors="replace").rpartition(" ")
            digest = _chained(digest, body)
            if told != digest:
                raise self._damaged(number, "it does not match its digest")
            found.append(body)
        return found, digest, whole


def _chained(before: str, body: str) -> str:
    return hashlib.sha256(f"{before} {body}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
