"""SHELL. Public copies of models under a coarse codec of gossip: what a site says of its own, and what it keeps.

`swarm.mixing.compress.choco` says what they are. A public copy is a blob like any other: everybody can tell from the
log which one a member has, check by its digest that it followed rightly, and fetch it whole if it is not here. Beside
the blobs lies what nobody else has: the model itself that each of this site's last messages was made of, under the
digest of the copy that the message leads to. It is synced before the message is heard of, since the round's outcome is
made of it: if it were lost, so would be what the codec has left out, for good.

On the disk that is two models for the site itself and one for each partner, and twice that while a round goes on.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from node.storage import BlobStore, sync_folder
from swarm.machine import Digest, Stored
from swarm.mixing.compress.choco import Public, follow, propose
from swarm.mixing.compress.forms import Spec
from swarm.privacy.clipping import inspect
from swarm.vector import LEAF_BYTES, Vector

KEPT = 2
"""Models of this site: training runs ahead, and the round before may be blended yet."""


@dataclass(frozen=True, slots=True)
class Moved:
    """New files, the message and the public copy that it leads to, and what they are as blobs."""

    message: tuple[Path, Stored]
    copy: tuple[Path, Stored]

    @property
    def files(self) -> tuple[tuple[Path, Stored], ...]:
        """Both."""
        return self.message, self.copy


class Copies:
    """The codec at work, in the folder of a blob store. A model has so many `elements`."""

    def __init__(self, store: BlobStore, spec: Spec, *, elements: int) -> None:
        self._store, self._spec, self._elements = store, spec, elements
        self._folder = store.beside("copies")

    def move(self, path: Path, before: Digest) -> Moved | None:
        """Make the message from a public copy to the model in the file `path`, and keep that file as the site's own.

        None if there is no such message, as the copy would be none that others accept: then the model goes whole.

        Raises:
            SwarmError, OSError: the disk is full or fails.
        """
        model: Vector = np.memmap(path, dtype="<f4", mode="r")
        known = Public(0, self._store.open_vector(before))
        if known.copy.size != model.size:
            return None
        after, message = propose(known, model, self._spec)
        if inspect(after.copy, elements=self._elements, bound=0.0)[0]:
            return None
        beside = self._store.new_file()
        beside.write_bytes(message)
        moved = Moved((beside, self._store.hash_file(beside)), self._written(after.copy))
        self._keep(path, moved.copy[1].digest)
        return moved

    def follow(self, before: Digest, message: Digest, after: Digest) -> tuple[Path, Stored] | None:
        """Write the public copy that a message leads to; None if that is not what its author says.

        Raises:
            Reject: the message does not decode.
            SwarmError, OSError: a blob is not here, or the disk is full or fails.
        """
        data = self._store.read(message, 0, self._store.path(message).stat().st_size)
        made = follow(Public(0, self._store.open_vector(before)), 1, data, self._spec)
        path, stored = self._written(made.copy)
        if stored.digest != after:
            path.unlink()
            return None
        return path, stored

    def own(self, copy: Digest) -> Vector | None:
        """Return the model that this site's message to this public copy was made of, if it is here."""
        path = self._folder / copy.hex()
        if not path.is_file() or path.stat().st_size != 4 * self._elements:
            return None
        return np.memmap(path, dtype="<f4", mode="r")

    def _written(self, vector: Vector) -> tuple[Path, Stored]:
        path = self._store.new_file()
        step = LEAF_BYTES // 4
        blocks = (vector[at : at + step].data for at in range(0, vector.size, step))
        return path, self._store.write_file(path, vector.nbytes, blocks)

    def _keep(self, path: Path, digest: Digest) -> None:
        others = (own for own in self._folder.iterdir() if own.name != digest.hex())
        kept = sorted(others, key=lambda own: own.stat().st_mtime)
        for own in kept[: max(0, len(kept) - KEPT + 1)]:
            own.unlink()
        with path.open("rb") as file:
            os.fsync(file.fileno())
        path.replace(self._folder / digest.hex())
        sync_folder(self._folder)
