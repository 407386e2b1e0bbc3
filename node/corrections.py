"""SHELL. What a site's rounds of gossip have taught it about its data, kept beside the blobs: its correction.

`swarm.mixing.diffusion` says what it is. It belongs to the model that a round ended with here, and is filed under that
round, that model and the weight that the site had. It is made from the one before and from two models, never from
itself, so a blend that is made again after a crash makes the same file again; and it is synced before anybody hears of
the model. Of all files two are left: that of the model that the round began with, which a repeated blend goes on from,
and that of the one it ended with.

No other site has it. A site whose file is gone cannot make it again, and has to say so (`swarm.gossip_round`): nothing
here takes zero for what is missing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from node.storage import BlobStore, reserve, store_error, sync_folder
from swarm.machine import Digest, Learn
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.mixing.diffusion import learn_into, rescale
from swarm.vector import Vector


class Corrections:
    """The corrections of one site, in the folder of a blob store."""

    def __init__(self, store: BlobStore, *, elements: int) -> None:
        self._folder, self._elements = store.beside("correction"), elements

    def path(self, round_: int, model: Digest) -> Path | None:
        """Return the file of the correction that a round left beside a model, float32; None if it is not here."""
        found = self._folder.glob(f"{_stem(round_, model)}-*")
        return next((path for path in sorted(found) if path.stat().st_size == 4 * self._elements), None)

    def learn(
        self, effect: Learn, round_: int, model: Digest, offered: Callable[[int, int], Vector], mixed: Vector
    ) -> None:
        """File what a round has taught: `mixed` is the model it ended with, `offered` reads the one others blended.

        Without the correction that it should go on from, nothing is filed.

        Raises:
            StoreError: the disk fails; `DiskFull` if it has no room.
        """
        before = None
        if effect.since and effect.base is not None:
            before = self.path(effect.since, effect.base)
            if before is None:
                return
        # A site without samples has no part in the sum: it keeps what it has, and the weight that it had then.
        weight = effect.weight or (1 if before is None else _weight(before))
        path, scratch = self._folder / f"{_stem(round_, model)}-{weight}", self._folder / "scratch"
        try:
            with scratch.open("wb") as file:
                reserve(file.fileno(), 4 * self._elements)
                for start in range(0, self._elements, BLOCK_ELEMENTS):
                    block = self._block(before, weight, start)
                    span = slice(start, start + block.size)
                    learn_into(block, offered(start, block.size), mixed[span], effect.gain)
                    file.write(block.data)
                file.flush()
                os.fsync(file.fileno())
            scratch.replace(path)
            sync_folder(self._folder)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise store_error("keep the correction of this site", error) from error
        for other in self._folder.iterdir():
            if other not in (path, before):
                other.unlink()

    def _block(self, before: Path | None, weight: int, start: int) -> Vector:
        """Return a stretch of what is known, as it counts at this weight."""
        count = min(BLOCK_ELEMENTS, self._elements - start)
        block = np.zeros(count, np.float32)
        if before is not None:
            block[:] = np.fromfile(before, "<f4", count, offset=4 * start)
            rescale(block, _weight(before), weight)
        return block


def _stem(round_: int, model: Digest) -> str:
    return f"{round_:010}-{model.hex()}"


def _weight(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
