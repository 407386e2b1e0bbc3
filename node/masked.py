"""SHELL. Updates under masks: this site's own, before and after, and the sum of what others offer.

What was trained lies in a folder of its own beside the blobs, from which nobody is served. Its masked form is a file
that nothing names until the node lets it into the store: by then the record says that this one was offered, and no
other may be. Everything goes through in stretches, for a model may be larger than memory.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from node.storage import BlobStore, store_error
from swarm.errors import Reject, StoreError, SwarmError
from swarm.machine import Digest, Masked, MaskUpdate, RingForm, Stored, Unmask, Worn
from swarm.masking import masks
from swarm.masking.masks import Mask
from swarm.masking.noise import measured, sum_problem
from swarm.masking.ring import Ring
from swarm.mixing.average import Sums

STRETCH_ELEMENTS = 1 << 20
"""Elements at a time, an even number: words of 36 bits are packed in pairs."""

ASIDE = "aside"
"""The folder of what was trained and is not masked yet."""

KEPT_MAX = 3
"""Updates that are kept aside: one that is masked, one trained meanwhile, and one that a crash may have left."""


class Masks:
    """Masks at work, in the folder of a blob store. A crash takes what had been masked: it is masked again, alike."""

    def __init__(self, store: BlobStore, *, elements: int, bound: float) -> None:
        self._store, self._elements, self._bound = store, elements, bound
        self._folder = store.beside(ASIDE)
        for left in self._folder.glob("scratch-*"):
            left.unlink()
        self._masked: dict[Digest, tuple[Path, Stored]] = {}

    def set_aside(self, path: Path) -> Stored:
        """Keep what was trained where nobody is served from; return its name."""
        stored = self._store.hash_file(path)
        path.replace(self._aside(stored.digest))
        # What a crash kept the node from noting is never asked for, nor dropped.
        known = sorted(self._folder.glob("[0-9a-f]*"), key=lambda one: one.stat().st_mtime)
        for old in known[:-KEPT_MAX]:
            old.unlink(missing_ok=True)
        return stored

    def drop(self, digests: Sequence[Digest]) -> None:
        """Let go of what was kept."""
        for digest in digests:
            self._aside(digest).unlink(missing_ok=True)

    def mask(self, effect: MaskUpdate) -> Masked:
        """Put masks on what was kept, and have that ready to be released."""
        said = (effect.round, effect.attempt, effect.update)
        for left, _ in self._masked.values():  # of an attempt that ended before it was let in
            left.unlink(missing_ok=True)
        self._masked.clear()
        path = self._folder / f"scratch-{effect.round}-{effect.attempt}"
        try:
            update = np.memmap(self._aside(effect.update), dtype="<f4", mode="r")
        except (OSError, ValueError) as error:
            return Masked(*said, None, error=f"what was trained can't be read: {error}", lost=True)
        ring, worn = ring_of(effect.ring), _worn(effect.masks)
        try:
            noise = measured(effect.noise, update, ring)
            with path.open("wb", buffering=0) as file:
                for start in range(0, self._elements, STRETCH_ELEMENTS):
                    part = update[start : start + STRETCH_ELEMENTS]
                    data = ring.pack(masks.masked(part, ring, effect.weight, worn, start, noise))
                    for here, there, size in ring.spans(start, part.size, self._elements):
                        file.seek(there)
                        file.write(data[here : here + size])
            stored = self._store.hash_file(path)
        except (SwarmError, OSError) as error:
            path.unlink(missing_ok=True)
            return Masked(*said, None, error=str(error))
        self._masked[stored.digest] = path, stored
        return Masked(*said, stored.digest, stored.size)

    def release(self, digest: Digest) -> Stored | None:
        """Let what was masked into the store, from which others are served."""
        path, stored = self._masked.pop(digest, (None, None))
        if path is None or stored is None:
            return None
        self._store.adopt(path, stored)
        return stored

    def unmask(self, effect: Unmask) -> Sums:
        """Return the sums of the updates of all that are named, in fixed point, shape (elements,).

        Raises:
            Reject: there are no updates within the charter's bound of which they could be the sums.
            SwarmError: a blob cannot be read, or there is no room.
        """
        ring, worn = ring_of(effect.ring), _worn(effect.masks)
        path = self._folder / f"scratch-sum-{effect.round}"
        try:
            with path.open("wb", buffering=0) as file:
                for start in range(0, self._elements, STRETCH_ELEMENTS):
                    total = ring.words(min(STRETCH_ELEMENTS, self._elements - start))
                    for digest in effect.terms:
                        spans = ring.spans(start, total.size, self._elements)
                        data = b"".join(self._store.read(digest, there, size) for _, there, size in spans)
                        masks.add(total, ring.unpack(data, total.size))
                    masks.apply(total, ring, worn, start)
                    file.write(ring.sums(total, effect.weight).data)
            sums: Sums = np.memmap(path, dtype="<i8", mode="r")
        except OSError as error:
            raise store_error(f"add up round {effect.round}", error) from error
        finally:
            path.unlink(missing_ok=True)  # What is mapped is there until nobody looks at it any more.
        problem = sum_problem(sums, effect.weight, ring, effect.norm_max, self._bound)
        if problem:
            raise Reject(f"couldn't take the sum of round {effect.round}: {problem}")
        return sums

    def _aside(self, digest: Digest) -> Path:
        return self._folder / digest.hex()


def is_kept(store: BlobStore, digest: Digest) -> bool:
    """Whether what was trained is here to be masked, every byte of it."""
    try:
        return store.hash_file(store.beside(ASIDE) / digest.hex()).digest == digest
    except StoreError:
        return False


def ring_of(form: RingForm) -> Ring:
    """Return the ring that an effect names."""
    bits, fraction, weight_total, room = form
    return Ring(bits=bits, fraction=fraction, weight_total=weight_total, room=room)


def _worn(worn: Worn) -> list[Mask]:
    return [Mask(seed, added) for seed, added in worn]
