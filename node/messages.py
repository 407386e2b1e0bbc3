"""SHELL. Contributions as they travel under a charter's codec, and what this site still owes the others.

A message is made from an update, with what the codec left out of the last one that counted; the rest is kept in a file
beside the blobs, under the message's digest. The one that counted is known when training goes on: its rest becomes
what is owed, and all others are void. If the files are lost with the disk's cache, so is the rest of one update.

In gossip a message is the site's whole model, rounded. The site itself goes on from the unrounded one, kept here.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from node.storage import BlobStore, mapped_anew
from swarm.errors import StoreError
from swarm.machine import Digest, Stored
from swarm.mixing.compress.forms import Spec, decode, encode_into, encoded_bytes
from swarm.mixing.compress.residual import Residual, apply, apply_cut
from swarm.routes import slices_digest
from swarm.salt import message_of
from swarm.vector import Vector


class Messages:
    """The codec at work, in the folder of a blob store."""

    def __init__(
        self,
        store: BlobStore,
        spec: Spec,
        *,
        elements: int,
        bound: float,
        salt: int = 0,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`salt` is how many bytes that `draw` gives lie behind the message for an update (`swarm.salt`)."""
        self._store, self._spec = store, spec
        self._salt, self._draw = salt, draw
        self._elements, self._bound = elements, bound
        self._folder = store.beside("owed")
        for left in self._folder.glob("scratch-*"):
            left.unlink()
        self._made = 0

    def write_update(self, update: Vector, path: Path) -> Stored:
        """Write the message for a clipped update to `path`, keep what it leaves out, and return its name."""
        rest, sent = apply(Residual(self._owed()), update, self._spec, bound=self._bound)
        path.write_bytes(sent.message)
        stored = self._store.salt_file(path, self._draw(self._salt)) if self._salt else self._store.hash_file(path)
        self._keep(rest.error, stored.digest)
        return stored

    def write_slices(self, update: Vector, cuts: Sequence[tuple[int, int]]) -> list[tuple[Path, Stored]]:
        """Write the messages for the slices of a clipped update, keep what they leave out, and return their names."""
        rest, messages, _ = apply_cut(Residual(self._owed()), update, self._spec, cuts, bound=self._bound)
        paths = [self._store.new_file() for _ in messages]
        try:
            for path, message in zip(paths, messages, strict=True):
                path.write_bytes(message)
            files = [(path, self._store.hash_file(path)) for path in paths]
            self._keep(rest.error, slices_digest([(stored.digest, stored.size) for _, stored in files]))
        except (OSError, StoreError):
            for path in paths:
                path.unlink(missing_ok=True)
            raise
        return files

    def write_model(self, model: Vector, path: Path) -> Stored:
        """Write the message for a whole model to `path`, keep the model itself, and return the message's name."""
        message = np.empty(encoded_bytes(self._spec, model.size), np.uint8)
        path.write_bytes(message[: encode_into(message, model, self._spec)].data)
        stored = self._store.hash_file(path)
        self._keep(model, stored.digest)
        return stored

    def opened(self, digest: Digest, elements: int) -> Vector:
        """Return what a message says, shape (elements,), in memory that the page cache backs.

        Raises:
            Reject: it says nothing that this codec does.
            DiskFull: there is no room for so much memory.
            StoreError: it is not here, or the disk fails.
        """
        self._made += 1
        scratch = self._folder / f"scratch-{self._made}"
        try:
            out = mapped_anew(scratch, elements, what=f"make room to open update {digest.hex()[:12]}")
        finally:
            scratch.unlink(missing_ok=True)
        data = self._store.read(digest, 0, self._store.path(digest).stat().st_size)
        return decode(message_of(data, self._salt), elements, spec=self._spec, out=out)

    def own(self, digest: Digest) -> Vector | None:
        """Return the model that a message of this site was made from, if it is here."""
        path = self._folder / digest.hex()
        if not path.is_file() or path.stat().st_size != 4 * self._elements:
            return None
        return np.memmap(path, dtype="<f4", mode="r")

    def counted(self, digest: Digest) -> None:
        """The model this site goes on from has this update in it: what was left out of that is what it owes now."""
        path = self._folder / digest.hex()
        if path.is_file():
            path.replace(self._folder / "owed")
            self._forget_but("owed")

    def _owed(self) -> Vector:
        path = self._folder / "owed"
        if path.is_file() and path.stat().st_size == 4 * self._elements:
            return np.fromfile(path, dtype="<f4")
        return np.zeros(self._elements, np.float32)

    def _keep(self, vector: Vector, digest: Digest) -> None:
        """Two are kept: training runs ahead, and the round before may be averaged yet."""
        kept = sorted((path for path in self._folder.iterdir() if path.name != "owed"), key=lambda p: p.stat().st_mtime)
        for path in kept[:-1]:
            path.unlink()
        beside = self._folder / f"scratch-{digest.hex()}"
        try:
            vector.tofile(beside)
            beside.replace(self._folder / digest.hex())
        except OSError:
            beside.unlink(missing_ok=True)  # What there was no room for takes up none.
            raise

    def _forget_but(self, name: str) -> None:
        for path in self._folder.iterdir():
            if path.name != name:
                path.unlink()
