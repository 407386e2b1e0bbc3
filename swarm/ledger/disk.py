"""What the journal asks of a disk, and what it may believe.

Ten operations and their guarantees, small enough that a simulated disk can break every promise a real one does not
make. Paths are relative, with forward slashes. Nothing but `sync` and `sync_folder` makes anything durable.
"""

from __future__ import annotations

from typing import Protocol

from swarm.errors import StoreError


class DiskFull(StoreError):
    """There is no space, or the disk is read-only. Raised before anything was promised: nothing is in doubt."""


class Disk(Protocol):
    """A folder tree. Every method raises `StoreError` when the disk fails, `DiskFull` when it has no room."""

    def make_folder(self, path: str) -> None:
        """Make a folder unless it exists."""
        ...

    def names(self, folder: str) -> list[str]:
        """Return the names of the files in a folder, sorted."""
        ...

    def size(self, path: str) -> int:
        """Return a file's size in bytes."""
        ...

    def create(self, path: str, size: int) -> None:
        """Make a file of `size` zero bytes whose space is reserved, so that later writes within it cannot fail for it.

        The name is durable only after `sync_folder`.
        """
        ...

    def read(self, path: str, offset: int, length: int) -> bytes:
        """Return up to `length` bytes."""
        ...

    def write(self, path: str, offset: int, data: bytes) -> None:
        """Write within the file's size. Visible at once, durable only after `sync`; a crash may keep any part of it."""
        ...

    def sync(self, path: str) -> None:
        """Make a file's content durable. After a failure nobody knows what is: never call it again to find out."""
        ...

    def remove(self, path: str) -> None:
        """Remove a file. Durable only after `sync_folder`."""
        ...

    def sync_folder(self, folder: str) -> None:
        """Make the creation and removal of names in a folder durable."""
        ...
