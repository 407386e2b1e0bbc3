"""SHELL. Work on whole models, off the node's loop: read through, clip, average.

A model may be hundreds of megabytes. Everything here goes through it in blocks, so that the node's memory does not grow
with it, and runs on one worker thread, so that no heartbeat waits. numpy and BLAKE3 release the interpreter lock while
they work. Results come back as the events the machine waits for.
"""

from __future__ import annotations

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from node.messages import Messages
from node.momentum import Momentum
from node.storage import BlobStore
from swarm.errors import SwarmError, UsageError
from swarm.machine import Blend, Buffer, Check, Checked, Digest, Event, Inspect, Inspected, Mix, Mixed, Stored, Trained
from swarm.mixing.average import weighted_mean_into
from swarm.mixing.compress.forms import Spec
from swarm.mixing.gossip import mix_into, scale_into, step_into
from swarm.mixing.momentum import Stretches
from swarm.mixing.outer import OUTER_STEPS
from swarm.mixing.sketch import sketch
from swarm.privacy.clipping import clip_in_place, inspect
from swarm.vector import Vector, blob_digest, leaf_hashes

MIX_BLOCK_ELEMENTS = 1 << 20
"""Elements averaged at a time, whole leaves: 4 MiB of each input, of which the page cache holds all but the mean."""


_Combine: TypeAlias = Callable[[Vector, int], None]
"""(out, start): make the stretch of a model that begins at element `start` and is as long as `out`."""


@dataclass(frozen=True, slots=True)
class _Made:
    """A new file that is to become a blob, and the event that names it."""

    path: Path
    stored: Stored
    event: Trained | Mixed

    @property
    def durable(self) -> bool:
        """A model that this site attests must be there whatever happens: all others may lose theirs as well."""
        return isinstance(self.event, Mixed)


def _stretch(vector: Vector, start: int, count: int) -> Vector:
    return vector[start : start + count]


def _failed(event: Trained | Mixed, why: str) -> Event:
    if isinstance(event, Mixed):
        return Mixed(event.round, None, error=why)
    return Trained(event.round, None, error=f"the update could not be stored: {why}")


class BulkWorker:
    """One thread, first come first served. `wake` is called, from that thread, when there is a result to take."""

    def __init__(
        self,
        store: BlobStore,
        *,
        elements: int,
        bound: float,
        wake: Callable[[], None],
        outer: str = "none",
        codec: Spec | None = None,
        momentum: float = 0.0,
    ) -> None:
        self._store = store
        self._elements = elements
        self._bound = bound
        self._step = OUTER_STEPS[outer]
        self._messages = None if codec is None else Messages(store, codec, elements=elements, bound=bound)
        self._momentum = Momentum(store, elements=elements, beta=momentum) if momentum else None
        self._wake = wake
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bulk")
        self._done: deque[Event | _Made] = deque()
        self._defect: BaseException | None = None

    def submit_inspect(self, effect: Inspect) -> None:
        """Read an update through."""
        self._submit(self._inspect, effect)

    def submit_check(self, effect: Check) -> None:
        """Compare an interrupted transfer with its leaf hashes."""
        self._submit(self._check, effect)

    def submit_mix(self, effect: Mix) -> None:
        """Average a round."""
        self._submit(self._mix, effect)

    def submit_blend(self, effect: Blend) -> None:
        """Make one step of gossip."""
        self._submit(self._blend, effect)

    def submit_update(
        self,
        trained: Trained,
        path: Path,
        base: Digest | None = None,
        parameters: Stretches | None = None,
        step: float = 1.0,
    ) -> None:
        """Clip what the trainer wrote, move it into the store, and only then say that training is done.

        With `base` the model that `step` times the update makes of it goes there instead, its `parameters` carried on
        by the site's momentum if the charter wants one.
        """
        self._submit(self._update, trained, path, base, parameters, step)

    def take(self) -> list[Event]:
        """Return the finished results, in order, new blobs adopted. For the loop's thread.

        Adopting here and not where a file was hashed keeps it in order with what the loop forgets: the same bytes may
        be made twice, and the second must not be removed in the name of the first.
        """
        if self._defect is not None:
            raise self._defect
        taken: list[Event] = []
        while self._done:
            result = self._done.popleft()
            if isinstance(result, _Made):
                taken += self._adopt(result)
            else:
                taken.append(result)
        return taken

    def _adopt(self, made: _Made) -> list[Event]:
        try:
            self._store.adopt(made.path, made.stored, durable=made.durable)
        except SwarmError as error:
            made.path.unlink(missing_ok=True)
            return [_failed(made.event, error.message)]
        return [made.stored, made.event]

    def close(self) -> None:
        """Wait for the work in hand and stop."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def _submit(self, work: Callable[..., Sequence[Event | _Made]], *arguments: object) -> None:
        def run() -> None:
            try:
                self._done.extend(work(*arguments))
            except BaseException as error:  # noqa: BLE001 - raised again by `take`
                # A defect. It must not end in silence here: the loop raises it, and the node ends in words.
                self._defect = error
            self._wake()

        self._pool.submit(run)

    def _inspect(self, effect: Inspect) -> Sequence[Event]:
        try:
            update = self._opened(effect.digest)
        except (SwarmError, OSError, ValueError) as error:
            return [Inspected(effect.digest, str(error))]
        problem, norm = inspect(update, elements=self._elements, bound=0.0 if effect.whole else self._bound)
        return [Inspected(effect.digest, problem, norm)]

    def _check(self, effect: Check) -> Sequence[Event]:
        try:
            good = self._store.check(effect.digest, effect.size, effect.leaves)
        except OSError:
            good = ()  # What cannot be read is fetched again.
        return [Checked(effect.digest, good)]

    def _update(
        self, trained: Trained, path: Path, base: Digest | None, parameters: Stretches | None, step: float
    ) -> Sequence[Event | _Made]:
        try:
            update = np.memmap(path, dtype="<f4", mode="r+")
            if update.size != self._elements:
                raise UsageError(f"it has {update.size} elements, the charter's model has {self._elements}")
            clip_in_place(update, self._bound)
            if base is not None:
                scale_into(update, step)
                if self._momentum is not None:
                    self._momentum.carry(update, trained.round, base, parameters)
                self._add(update, base)
            if self._messages is not None:
                stored = self._compressed(self._messages, update, path, whole=base is not None)
            else:
                leaves = leaf_hashes(update.data)
                stored = Stored(blob_digest(update.nbytes, leaves), update.nbytes, leaves)
        except (SwarmError, OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return [_failed(trained, str(error))]
        done = Trained(trained.round, stored.digest, stored.size, trained.samples, trained.metrics)
        return [_Made(path, stored, done)]

    def _compressed(self, messages: Messages, update: Vector, path: Path, *, whole: bool) -> Stored:
        """Put the message for an update, or for a whole model, in place of what the trainer wrote."""
        beside = self._store.new_file()
        write = messages.write_model if whole else messages.write_update
        try:
            stored = write(update, beside)
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)
        return stored

    def _opened(self, digest: Digest) -> Vector:
        """Return the vector that a contribution is, compressed or not."""
        return self._store.open_vector(digest) if self._messages is None else self._messages.opened(digest)

    def _add(self, update: Vector, base: Digest) -> None:
        """Set update = base + update."""
        for start in range(0, self._elements, MIX_BLOCK_ELEMENTS):
            part = update[start : start + MIX_BLOCK_ELEMENTS]
            step_into(part, self._slice(base, start, part.size))

    def _blend(self, effect: Blend) -> Sequence[Event | _Made]:
        def told(path: Path) -> bytes:
            made: Vector = np.memmap(path, dtype="<f4", mode="r")
            return sketch(made, effect.seed)

        return self._outcome(effect.round, lambda: self._blended(effect), told)

    def _mix(self, effect: Mix) -> Sequence[Event | _Made]:
        return self._outcome(effect.round, lambda: self._average(effect), lambda _: b"")

    def _outcome(
        self, round_: int, combine: Callable[[], _Combine], told: Callable[[Path], bytes]
    ) -> Sequence[Event | _Made]:
        """Write the model that a round ends with, stretch by stretch, and sync it."""
        path = self._store.new_file()
        try:
            stored = self._store.write_file(path, 4 * self._elements, self._stretches(combine()), durable=True)
            done = Mixed(round_, stored.digest, stored.size, sketch=told(path))
        except (SwarmError, OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return [Mixed(round_, None, error=str(error))]
        return [_Made(path, stored, done)]

    def _stretches(self, combine: _Combine) -> Iterator[Buffer]:
        out = np.empty(min(MIX_BLOCK_ELEMENTS, self._elements), dtype="<f4")
        for start in range(0, self._elements, MIX_BLOCK_ELEMENTS):
            count = min(MIX_BLOCK_ELEMENTS, self._elements - start)
            combine(out[:count], start)
            yield out[:count].data

    def _blended(self, effect: Blend) -> _Combine:
        weights = [weight for _, weight in effect.terms]
        models = self._readers([digest for digest, _ in effect.terms])
        for read, (digest, _) in zip(tuple(models), effect.terms, strict=True):
            own = None if self._messages is None else self._messages.own(digest)
            if own is not None:
                # What travelled is rounded, and rounded it is given away: what rounding took stays here, and the mean.
                models += [functools.partial(_stretch, own), read]
                weights += [effect.rest, -effect.rest]
        return lambda out, start: mix_into(out, [read(start, out.size) for read in models], weights)

    def _average(self, effect: Mix) -> _Combine:
        weights = [weight for _, weight in effect.terms]
        updates = self._readers([digest for digest, _ in effect.terms])
        base = effect.model
        if self._messages is not None and base is not None:
            self._messages.counted(digest for digest, _ in effect.terms)

        def combine(out: Vector, start: int) -> None:
            before = np.zeros_like(out) if base is None else self._slice(base, start, out.size)
            weighted_mean_into(out, before, [read(start, out.size) for read in updates], weights, step=self._step)

        return combine

    def _readers(self, digests: Sequence[Digest]) -> list[Callable[[int, int], Vector]]:
        """Return, per contribution, what gives a stretch of it."""
        messages = self._messages
        if messages is None:
            return [functools.partial(self._slice, digest) for digest in digests]
        opened = [messages.opened(digest) for digest in digests]
        return [functools.partial(_stretch, vector) for vector in opened]

    def _slice(self, digest: Digest, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.frombuffer(self._store.read(digest, 4 * start, 4 * count), dtype="<f4")
