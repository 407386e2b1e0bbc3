"""SHELL. The momentum of a site that gossips: how its model has moved from round to round, kept beside the blobs.

`swarm.mixing.momentum` says what it is. It belongs to the model that a round begins with, and is filed under the round
and that model: training again after a crash finds the same, and a round without this site changes nothing. The model
itself stays here too, as a second name of its blob, until the next one has come, however soon the node forgets it.

Nothing here is synced: whatever a power failure takes costs the momentum, which then begins anew, and nothing else.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from node.storage import BlobStore, hold, reserve, store_error
from swarm.machine import Digest
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.mixing.momentum import Stretches, carry_into, follow_into
from swarm.vector import Vector

KEPT = 2
"""Rounds whose momentum is kept: training for one may be done again while the next is under way already."""

_MODEL = ".model"


class Momentum:
    """The momentum of one site, in the folder of a blob store. `beta` is above 0 and below 1."""

    def __init__(self, store: BlobStore, *, elements: int, beta: float) -> None:
        self._store, self._elements, self._beta = store, elements, beta
        self._folder = store.beside("momentum")

    def carry(self, update: Vector, round_: int, base: Digest, parameters: Stretches | None) -> None:
        """Add to an update of `base`, shape (elements,), the momentum that the model has in this round.

        Raises:
            StoreError: the disk fails; `DiskFull` if it has no room.
        """
        found = next(self._folder.glob(f"*-{base.hex()}"), None)
        path = self._make(round_, base) if found is None or not self._is_whole(found) else found
        carry_into(update, self._opened(path), self._beta, parameters)

    def _make(self, round_: int, base: Digest) -> Path:
        """File the momentum of a model: from the model before and its momentum, or none if they are not here."""
        path, scratch = self._folder / f"{round_:010}-{base.hex()}", self._folder / "scratch"
        try:
            self._hold(base, path)
            self._write(scratch, round_, path)
            scratch.replace(path)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise store_error("keep the momentum of this site", error) from error
        for name in self._names()[:-KEPT]:
            (self._folder / name).unlink()
        for model in self._folder.glob(f"*{_MODEL}"):
            if not model.with_suffix("").exists():
                model.unlink()
        return path

    def _write(self, scratch: Path, round_: int, path: Path) -> None:
        """Write the momentum that is to be filed under `path`. Raises `OSError`."""
        earlier = [name for name in self._names() if name < f"{round_:010}"]
        before = self._folder / max(earlier, default="")
        with scratch.open("wb") as file:
            if earlier and self._is_whole(before) and self._is_whole(_model_of(before)):
                momentum, was, now = (self._opened(p) for p in (before, _model_of(before), _model_of(path)))
                block = np.empty(min(BLOCK_ELEMENTS, self._elements), np.float32)
                for start in range(0, self._elements, BLOCK_ELEMENTS):
                    span = slice(start, start + BLOCK_ELEMENTS)
                    out = block[: was[span].size]
                    follow_into(out, momentum[span], was[span], now[span], self._beta)
                    file.write(out.data)
            else:
                # No hole: where memory is the disk, as in tmpfs, reading one through a map takes a page, or ends us.
                reserve(file.fileno(), 4 * self._elements)

    def _hold(self, base: Digest, path: Path) -> None:
        """Give the blob of a model a second name."""
        model = _model_of(path)
        model.unlink(missing_ok=True)
        hold(self._store.path(base), model)

    def _names(self) -> list[str]:
        return sorted(path.name for path in self._folder.iterdir() if path.name[:1].isdigit() and not path.suffix)

    def _is_whole(self, path: Path) -> bool:
        return path.is_file() and path.stat().st_size == 4 * self._elements

    def _opened(self, path: Path) -> Vector:
        opened: Vector = np.memmap(path, dtype="<f4", mode="r")
        return opened


def _model_of(path: Path) -> Path:
    return path.with_name(path.name + _MODEL)
