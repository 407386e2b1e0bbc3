"""SHELL. Work on whole models, off the node's loop: read through, clip, average.

A model may be hundreds of megabytes. Everything here goes through it in blocks, so that the node's memory does not grow
with it, and runs on one worker thread, so that no heartbeat waits. numpy and BLAKE3 release the interpreter lock while
they work. Results come back as the events the machine waits for.
"""

from __future__ import annotations

import functools
import math
import secrets
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from node.copies import Copies, Moved
from node.corrections import Corrections
from node.masked import Masks
from node.messages import Messages
from node.momentum import Momentum
from node.storage import HOLD_RETRY_S, BlobStore, Exhausted
from swarm.errors import Reject, SwarmError, UsageError
from swarm.ledger.disk import DiskFull
from swarm.machine import (
    AddUp,
    Blend,
    Buffer,
    Check,
    Checked,
    Digest,
    Divide,
    Event,
    Follow,
    Inspect,
    Inspected,
    Join,
    MaskUpdate,
    Mix,
    Mixed,
    MixSlice,
    Parted,
    Stored,
    StoreFailed,
    Trained,
    Unmask,
)
from swarm.mixing.average import Sums, add_weighted, mean_of_sums_into, sums_problem, weighted_mean_into
from swarm.mixing.compress.forms import Spec, encode, encoded_bytes
from swarm.mixing.diffusion import carry_into
from swarm.mixing.gossip import mix_into, scale_into, step_into
from swarm.mixing.momentum import Stretches
from swarm.mixing.outer import NONE, Outer
from swarm.mixing.rounds import RoundMean
from swarm.mixing.rules import Rule
from swarm.mixing.selfcentred import clipped, distances, in_millionths
from swarm.mixing.sketch import sketch
from swarm.privacy.clipping import clip_in_place, inspect
from swarm.routes import slices_digest
from swarm.vector import Vector, blob_digest, leaf_hashes

MIX_BLOCK_ELEMENTS = 1 << 20
"""Elements averaged at a time, whole leaves: 4 MiB of each input, of which the page cache holds all but the mean."""


_Stretch: TypeAlias = "np.ndarray[tuple[int], np.dtype[Any]]"

_Read: TypeAlias = Callable[[int, int], Vector]

Outlet: TypeAlias = "Callable[[tuple[tuple[Path, Stored], ...], Event, float], Sequence[Event] | None]"
"""Looks at new files before they become blobs that others can fetch, the event that names them, and an update's norm.
Returns None if they may, else what is said instead, having taken the files over. Raises `SwarmError` if they must not.
"""

_Combine: TypeAlias = Callable[[_Stretch, int], None]
"""(out, start): make the stretch of a vector that begins at element `start` and is as long as `out`."""


@dataclass(frozen=True, slots=True)
class Measured:
    """How long this site's own update of a round was, and to which length it was cut (0: to none)."""

    round: int
    norm: float
    bound: float
    beyond: int | None = None
    """In gossip the first number of the model that had to be cut to what may be averaged, None if none had."""

    @property
    def left(self) -> float:
        """What is left of the update, as a factor in (0, 1]."""
        return self.bound / self.norm if 0 < self.bound < self.norm else 1.0

    def told(self, longest: tuple[str, float] = ("", 0.0), verb: str = "was") -> str:
        """Return a sentence about a cut, or about an update of nothing; "" where there is nothing to be said.

        `verb` is "would be" where no charter has cut anything yet.
        """
        if not self.norm:
            return (
                f"training for round {self.round} changed nothing in the model: right where nothing is left to learn,"
                " else see whether train() steps its optimizer; the update is all zeros and counts as its samples do"
            )
        if self.left == 1.0:
            return ""
        name, share = longest
        most = f"; {name} makes {100 * share:.0f} % of its square" if name else ""
        return (
            f"this site's update of round {self.round} {verb} cut to {100 * self.left:.2g} %: its norm was"
            f" {self.norm:.3g}, and the bound is {self.bound:g}{most}"
        )


@dataclass(frozen=True, slots=True)
class _Made:
    """New files that are to become blobs, and the event that names them."""

    files: tuple[tuple[Path, Stored], ...]
    event: Trained | Mixed | Parted | Inspected
    norm: float = 0.0

    @property
    def durable(self) -> bool:
        """A model that this site attests must be there whatever happens: all others may lose theirs as well."""
        return isinstance(self.event, Mixed)


def _stretch(vector: Vector, start: int, count: int) -> Vector:
    return vector[start : start + count]


def _failed(event: Trained | Mixed | Parted | Inspected, why: str) -> Event:
    if isinstance(event, Inspected):
        return Inspected(event.digest, why)
    if isinstance(event, Mixed):
        return Mixed(event.round, None, error=why)
    if isinstance(event, Parted):
        return Parted(event.round, event.close, event.number, None, error=why)
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
        outer: Outer = NONE,
        codec: Spec | None = None,
        cuts: Sequence[tuple[int, int]] = (),
        averages: Spec | None = None,
        momentum: float = 0.0,
        follows: bool = False,
        rule: Rule | None = None,
        own_bound: float | None = None,
        tracks: bool = False,
        masked: bool = False,
        salt: int = 0,
        draw: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """`own_bound` is the norm that this site's own updates are clipped to, where it is stricter than `bound`.

        `salt` is how many bytes that `draw` gives lie behind an update (`swarm.salt`).
        """
        self.outlet: Outlet | None = None
        self._store = store
        self._salt, self._draw = salt, draw
        self._masks = Masks(store, elements=elements, bound=bound) if masked else None
        self._rule = rule
        self._own_bound = bound if own_bound is None else own_bound
        self._cuts, self._averages = cuts, averages
        self._elements = elements
        self._bound = bound
        self._outer = outer
        messages = codec is not None and not follows
        self._messages = (
            Messages(store, codec, elements=elements, bound=self._own_bound, salt=salt, draw=draw)
            if codec and messages
            else None
        )
        self._copies = Copies(store, codec, elements=elements) if codec and follows else None
        self._momentum = Momentum(store, elements=elements, beta=momentum) if momentum else None
        self._corrections = Corrections(store, elements=elements) if tracks else None
        self._wake = wake
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="bulk")
        self._done: deque[Event | _Made | Measured] = deque()
        self.measured: Measured | None = None  # Of the last round that was trained here; the loop's thread writes it.
        self._defect: BaseException | None = None
        self._closing = threading.Event()

    def submit_inspect(self, effect: Inspect) -> None:
        """Read an update through."""
        self._submit(self._inspect, effect)

    def submit_follow(self, effect: Follow) -> None:
        """Make a public copy of the one before it, and read it through."""
        self._submit(self._follow, effect)

    def submit_check(self, effect: Check) -> None:
        """Compare an interrupted transfer with its leaf hashes."""
        self._submit(self._check, effect)

    def submit_mix(self, effect: Mix) -> None:
        """Average a round."""
        self._submit(self._mix, effect)

    def submit_slice(self, effect: MixSlice) -> None:
        """Average a slice of a round."""
        self._submit(self._mix_slice, effect)

    def submit_join(self, effect: Join) -> None:
        """Put averaged slices together."""
        self._submit(self._join, effect)

    def submit_sum(self, effect: AddUp) -> None:
        """Add weighted updates, or sums."""
        self._submit(self._add_up, effect)

    def submit_divide(self, effect: Divide) -> None:
        """Make a sum the mean."""
        self._submit(self._divide, effect)

    def submit_mask(self, effect: MaskUpdate) -> None:
        """Mask this site's own update."""
        self._submit(self._mask, effect)

    def submit_unmask(self, effect: Unmask) -> None:
        """Take the masks off a sum, and make it the mean."""
        self._submit(self._unmask, effect)

    def release(self, digest: Digest) -> Stored | None:
        """Let a masked update into the store; None if there is none of this digest. For the loop's thread."""
        assert self._masks is not None, "where nothing is masked nothing is released"
        return self._masks.release(digest)

    def drop(self, digests: Sequence[Digest]) -> None:
        """Let go of updates that were kept aside. For the loop's thread."""
        if self._masks is not None:
            self._masks.drop(digests)

    def submit_blend(self, effect: Blend) -> None:
        """Make one step of gossip."""
        self._submit(self._blend, effect)

    def submit(self, work: Callable[[], None]) -> None:
        """Do something that takes long and has no result. It raises nothing."""

        def run() -> Sequence[Event]:
            work()
            return ()

        self._submit(run)

    def submit_counted(self, update: Digest) -> None:
        """Note that an update of this site is in the model that it goes on from."""
        self._submit(self._counted, update)

    def submit_update(
        self,
        trained: Trained,
        path: Path,
        base: Digest | None = None,
        parameters: Stretches | None = None,
        step: float = 1.0,
        copy: Digest | None = None,
        correction: Path | None = None,
    ) -> None:
        """Clip what the trainer wrote, move it into the store, and only then say that training is done.

        With `base` the model that `step` times the update makes of it goes there instead, its `parameters` carried on
        by the site's momentum if the charter wants one, or by a `correction` that the trainer could not take in its
        steps; with `copy` how that public copy moves towards it.
        """
        self._submit(self._update, trained, path, base, parameters, step, copy, correction)

    def correction(self, round_: int, model: Digest) -> Path | None:
        """Return where the correction lies that a round taught this site beside a model. For any thread."""
        return None if self._corrections is None else self._corrections.path(round_, model)

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
            if isinstance(result, Measured):
                self.measured = result
            elif isinstance(result, _Made):
                taken += self._adopt(result)
            elif isinstance(result, Trained) and result.update is not None:
                # Its bytes are kept elsewhere; the outlet has its say all the same.
                taken += self._adopt(_Made((), result))
            else:
                taken.append(result)
        return taken

    def let_out(self, files: tuple[tuple[Path, Stored], ...], trained: Trained) -> list[Event]:
        """Make blobs of an update that the outlet had taken over. For the loop's thread, as `take`."""
        return self._store_all(_Made(files, trained))

    def _adopt(self, made: _Made) -> list[Event]:
        try:
            instead = None if self.outlet is None else self.outlet(made.files, made.event, made.norm)
        except SwarmError as error:
            for path, _ in made.files:
                path.unlink(missing_ok=True)
            return [_failed(made.event, error.message)]
        return self._store_all(made) if instead is None else [*instead]

    def _store_all(self, made: _Made) -> list[Event]:
        taken: list[Event] = []
        try:
            for path, stored in made.files:
                self._store.adopt(path, stored, durable=made.durable)
                taken.append(stored)
        except SwarmError as error:
            for path, _ in made.files:
                path.unlink(missing_ok=True)
            return [*taken, _failed(made.event, error.message)]
        return [*taken, made.event]

    def close(self) -> None:
        """Wait for the work in hand and stop."""
        self._closing.set()
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
        elements = effect.elements or self._elements
        try:
            update = self._opened_in_time(effect.digest, elements)
        except (SwarmError, OSError, ValueError) as error:
            return [Inspected(effect.digest, str(error))]
        if update is None:
            return []
        problem, norm = inspect(update, elements=elements, bound=0.0 if effect.whole else self._bound)
        return [Inspected(effect.digest, problem, norm)]

    def _opened_in_time(self, digest: Digest, elements: int) -> Vector | None:
        """Wait for room on the disk and for memory: without, an update is not to blame. None if all is to end."""
        told = False
        while True:
            try:
                return self._opened(digest, elements)
            except (DiskFull, Exhausted) as error:
                if not told:
                    why = f"{error.message}; it is read through as soon as that goes"
                    self._done.append(StoreFailed(digest, why))
                    self._wake()
                    told = True
            if self._closing.wait(HOLD_RETRY_S):
                return None

    def _check(self, effect: Check) -> Sequence[Event]:
        try:
            good = self._store.check(effect.digest, effect.size, effect.leaves)
        except OSError:
            good = ()  # What cannot be read is fetched again.
        return [Checked(effect.digest, good)]

    def _counted(self, update: Digest) -> Sequence[Event]:
        if self._messages is not None:
            self._messages.counted(update)
        return ()

    def _update(
        self,
        trained: Trained,
        path: Path,
        base: Digest | None,
        parameters: Stretches | None,
        step: float,
        copy: Digest | None,
        correction: Path | None,
    ) -> Sequence[Event | _Made]:
        try:
            update = np.memmap(path, dtype="<f4", mode="r+")
            if update.size != self._elements:
                raise UsageError(f"it has {update.size} elements, the charter's model has {self._elements}")
            length = clip_in_place(update, self._own_bound)
            beyond: int | None = None
            norm = min(length, self._own_bound or math.inf)
            if base is not None:
                scale_into(update, step)
                if self._momentum is not None:
                    self._momentum.carry(update, trained.round, base, parameters)
                if correction is not None:
                    learned: Vector = np.memmap(correction, dtype="<f4", mode="r")
                    for start, end in ((0, self._elements),) if parameters is None else parameters:
                        carry_into(update[start:end], learned[start:end])
                beyond = self._add(update, base)
            self._done.append(Measured(trained.round, length, max(self._own_bound, 0.0), beyond))
            if self._masks is not None:
                update.flush()
                kept = self._masks.set_aside(path)
                return [_Made((), replace(trained, update=kept.digest, size=kept.size), norm)]
            if self._cuts:
                return [replace(self._sliced(trained, update, path), norm=norm)]
            if self._copies is not None and copy is not None:
                update.flush()
                moved = self._copies.move(path, copy)
                if moved is not None:
                    return [replace(self._moved(trained, copy, moved), norm=norm)]
            if self._messages is not None:
                stored = self._compressed(self._messages, update, path, whole=base is not None)
            elif self._salt:
                update.flush()
                stored = self._store.salt_file(path, self._draw(self._salt))
            else:
                leaves = leaf_hashes(update.data)
                stored = Stored(blob_digest(update.nbytes, leaves), update.nbytes, leaves)
        except (SwarmError, OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return [_failed(trained, str(error))]
        done = replace(trained, update=stored.digest, size=stored.size)
        return [_Made(((path, stored),), done, norm)]

    def _moved(self, trained: Trained, before: Digest, moved: Moved) -> _Made:
        message, after = (stored for _, stored in moved.files)
        slices = ((message.digest, message.size), (before, after.size), (after.digest, after.size))
        size = sum(size for _, size in slices)
        name = slices_digest(slices)
        done = replace(trained, update=name, size=size, slices=slices)
        return _Made(moved.files, done)

    def _follow(self, effect: Follow) -> Sequence[Event | _Made]:
        assert self._copies is not None, "a charter without public copies asks for none"
        try:
            made = self._copies.follow(effect.before, effect.message, effect.after)
            if made is None:
                return [Inspected(effect.after, "its message does not lead to the public copy that its author names")]
            copy: Vector = np.memmap(made[0], dtype="<f4", mode="r")
        except (SwarmError, OSError, ValueError) as error:
            return [Inspected(effect.after, str(error))]
        problem, norm = inspect(copy, elements=self._elements, bound=0.0)
        return [_Made((made,), Inspected(effect.after, problem, norm))]

    def _sliced(self, trained: Trained, update: Vector, path: Path) -> _Made:
        """Write the slices in which an update travels, in place of what the trainer wrote."""
        files = []
        try:
            if self._messages is not None:
                files = self._messages.write_slices(update, self._cuts)
            else:
                for start, end in self._cuts:
                    beside = self._store.new_file()
                    part = update[start:end]
                    blocks = (part[at : at + MIX_BLOCK_ELEMENTS].data for at in range(0, part.size, MIX_BLOCK_ELEMENTS))
                    files.append((beside, self._store.write_file(beside, part.nbytes, blocks)))
        except (SwarmError, OSError, ValueError):
            for beside, _ in files:
                beside.unlink(missing_ok=True)
            raise
        path.unlink()
        slices = tuple((stored.digest, stored.size) for _, stored in files)
        size = sum(size for _, size in slices)
        name = slices_digest(slices)
        done = replace(trained, update=name, size=size, slices=slices)
        return _Made(tuple(files), done)

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

    def _opened(self, digest: Digest, elements: int) -> Vector:
        """Return the vector that a contribution or a slice of one is, compressed or not."""
        if self._messages is not None:
            return self._messages.opened(digest, elements)
        return self._store.open_vector(digest, beyond=self._salt)

    def _add(self, update: Vector, base: Digest) -> int | None:
        """Set update = base + update. Return the place of the first number that had to be cut; None if none had."""
        first: int | None = None
        for start in range(0, self._elements, MIX_BLOCK_ELEMENTS):
            part = update[start : start + MIX_BLOCK_ELEMENTS]
            found = step_into(part, self._slice(base, start, part.size))
            if first is None and found is not None:
                first = start + found
        return first

    def _blend(self, effect: Blend) -> Sequence[Event | _Made]:
        scales: list[float] = []

        def done(path: Path, stored: Stored) -> Mixed:
            made: Vector = np.memmap(path, dtype="<f4", mode="r")
            told = sketch(made, effect.seed)
            if self._corrections is not None and effect.learn is not None:
                self._corrections.learn(effect.learn, effect.round, stored.digest, self._offered(effect), made)
            return Mixed(effect.round, stored.digest, stored.size, sketch=told, weights=in_millionths(scales))

        def combine() -> _Combine:
            return self._blended(effect, scales)

        return self._outcome(self._elements, "<f4", combine, done, Mixed(effect.round, None), durable=True)

    def _offered(self, effect: Blend) -> _Read:
        """Return what reads the model that this site offered, as it is where that is known, and not as it travelled."""
        digest = effect.terms[effect.own][0]
        own = None if self._messages is None else self._messages.own(digest)
        if own is not None:
            return functools.partial(_stretch, own)
        return self._readers([digest], self._elements)[0]

    def _mix(self, effect: Mix) -> Sequence[Event | _Made]:
        """Average. Without a model to add to, what is averaged are whole models: their likeness says nothing."""
        made: list[RoundMean] = []

        def average() -> _Combine:
            updates = self._readers([digest for digest, _ in effect.terms], self._elements)
            weights = [weight for _, weight in effect.terms]
            made.append(RoundMean(updates, self._elements, weights, rest=effect.rest, rule=self._rule))
            return self._average(updates, made[0])

        def done(stored: Stored) -> Mixed:
            (mean,) = made
            likeness = mean.likeness if effect.model is not None else ()
            return Mixed(effect.round, stored.digest, stored.size, weights=mean.weights, likeness=likeness)

        return self._ending(effect.round, effect.model, average, done)

    def _join(self, effect: Join) -> Sequence[Event | _Made]:
        return self._ending(effect.round, effect.model, lambda: self._joined(effect))

    def _mask(self, effect: MaskUpdate) -> Sequence[Event]:
        assert self._masks is not None, "asked where updates are masked"
        return [self._masks.mask(effect)]

    def _unmask(self, effect: Unmask) -> Sequence[Event | _Made]:
        assert self._masks is not None, "asked where updates are masked"
        try:
            sums = self._masks.unmask(effect)
        except Reject as reason:
            return [Mixed(effect.round, None, error=reason.message, void=True)]
        except (SwarmError, OSError, ValueError) as error:
            return [Mixed(effect.round, None, error=str(error))]

        def combine(out: Vector, start: int) -> None:
            mean_of_sums_into(out, np.zeros_like(out), sums[start : start + out.size], effect.weight)

        return self._ending(effect.round, effect.model, lambda: combine)

    def _divide(self, effect: Divide) -> Sequence[Event | _Made]:
        return self._ending(effect.round, effect.model, lambda: self._divided(effect))

    def _ending(
        self,
        round_: int,
        base: Digest | None,
        average: Callable[[], _Combine],
        done: Callable[[Stored], Mixed] | None = None,
    ) -> Sequence[Event | _Made]:
        """Write what a round ends with: the outer optimiser's step from `base` by a mean. Without a base, the mean."""
        failed = Mixed(round_, None)

        def told(stored: Stored) -> Mixed:
            return Mixed(round_, stored.digest, stored.size) if done is None else done(stored)

        def combine() -> _Combine:
            return average() if base is None else self._stepped(base, average())

        if base is None or not self._outer.slots:
            return self._outcome(self._elements, "<f4", combine, lambda _, stored: told(stored), failed, durable=True)
        path = self._store.new_file()
        try:
            blocks = self._outcomes(base, average())
            stored = self._store.write_rows(path, 1 + self._outer.slots, 4 * self._elements, blocks, durable=True)
            event = told(stored)
        except (SwarmError, OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return [_failed(failed, str(error))]
        return [_Made(((path, stored),), event)]

    def _stepped(self, base: Digest, average: _Combine) -> _Combine:
        """The model alone, where that is all there is: stretch by stretch, in the order of the file."""

        def combine(out: Vector, start: int) -> None:
            average(out, start)
            self._outer.step((out,), (self._slice(base, start, out.size),), out, start)

        return combine

    def _outcomes(self, base: Digest, average: _Combine) -> Iterator[Sequence[Buffer]]:
        """Yield stretches of the model and of what is remembered of it, made in the same memory."""
        rows = range(1 + self._outer.slots)
        length = min(MIX_BLOCK_ELEMENTS, self._elements)
        mean, scratch = np.empty(length, "<f4"), [np.empty(length, "<f4") for _ in rows]
        for start in range(0, self._elements, MIX_BLOCK_ELEMENTS):
            count = min(MIX_BLOCK_ELEMENTS, self._elements - start)
            average(mean[:count], start)
            out = [row[:count] for row in scratch]
            before = [self._slice(base, row * self._elements + start, count) for row in rows]
            self._outer.step(out, before, mean[:count], start)
            yield [row.data for row in out]

    def _mix_slice(self, effect: MixSlice) -> Sequence[Event | _Made]:
        if self._averages is None:
            return self._part(effect, effect.elements, "<f4", lambda: self._average_slice(effect))
        return self._part(effect, encoded_bytes(self._averages, effect.elements), "u1", lambda: self._encoded(effect))

    def _add_up(self, effect: AddUp) -> Sequence[Event | _Made]:
        return self._part(effect, self._elements, "<i8", lambda: self._summed(effect))

    def _part(
        self, effect: MixSlice | AddUp, elements: int, dtype: str, combine: Callable[[], _Combine]
    ) -> Sequence[Event | _Made]:
        """Write what others take as a part of the mean. It can be made again, so it need not be durable."""

        def done(_: Path, stored: Stored) -> Parted:
            return Parted(effect.round, effect.close, effect.number, stored.digest, stored.size)

        failed = Parted(effect.round, effect.close, effect.number, None)
        return self._outcome(elements, dtype, combine, done, failed, durable=False)

    def _outcome(
        self,
        elements: int,
        dtype: str,
        combine: Callable[[], _Combine],
        done: Callable[[Path, Stored], Mixed | Parted],
        failed: Mixed | Parted,
        *,
        durable: bool,
    ) -> Sequence[Event | _Made]:
        """Write a vector, stretch by stretch."""
        path = self._store.new_file()
        try:
            blocks = _stretches(elements, dtype, combine())
            stored = self._store.write_file(path, np.dtype(dtype).itemsize * elements, blocks, durable=durable)
            event = done(path, stored)
        except (SwarmError, OSError, ValueError) as error:
            path.unlink(missing_ok=True)
            return [_failed(failed, str(error))]
        return [_Made(((path, stored),), event)]

    def _blended(self, effect: Blend, scales: list[float]) -> _Combine:
        weights = [weight for _, weight in effect.terms]
        models = self._readers([digest for digest, _ in effect.terms], self._elements)
        if effect.clip:
            apart = distances(models, effect.own, self._elements)
            taken, factors = clipped(weights, effect.own, apart, effect.clip)
            weights = [*taken]
            scales += factors
        for read, (digest, _) in zip(tuple(models), effect.terms, strict=True):
            keeper = self._messages or self._copies
            own = None if keeper is None else keeper.own(digest)
            if own is not None:
                # What the others have is rounded, and rounded it is given away: what that took stays, and so the mean.
                models += [functools.partial(_stretch, own), read]
                weights += [effect.rest, -effect.rest]
        return lambda out, start: mix_into(out, [read(start, out.size) for read in models], weights)

    def _average(self, updates: Sequence[_Read], mean: RoundMean) -> _Combine:

        def combine(out: Vector, start: int) -> None:
            mean.into(out, np.zeros_like(out), [read(start, out.size) for read in updates])

        return combine

    def _average_slice(self, effect: MixSlice) -> _Combine:
        weights = [weight for _, weight in effect.terms]
        updates = self._readers([digest for digest, _ in effect.terms], effect.elements)

        def combine(out: Vector, start: int) -> None:
            weighted_mean_into(
                out, np.zeros_like(out), [read(start, out.size) for read in updates], weights, rest=effect.rest
            )

        return combine

    def _encoded(self, effect: MixSlice) -> _Combine:
        """An averaged slice as it travels, compressed: made whole, for its form follows from all of it."""
        assert self._averages is not None, "somebody has looked"
        average = np.empty(effect.elements, np.float32)
        self._average_slice(effect)(average, 0)
        message = np.frombuffer(encode(average, self._averages), np.uint8)

        def combine(out: _Stretch, start: int) -> None:
            out[:] = message[start : start + out.size]

        return combine

    def _joined(self, effect: Join) -> _Combine:
        """The mean, from slices side by side; a stretch may take in parts of several."""
        readers: list[Callable[[int, int], Vector]] = []
        for digest, (begin, end) in zip(effect.slices, self._cuts, strict=True):
            if self._averages is None:
                readers.append(functools.partial(self._slice, digest))
            else:
                assert self._messages is not None, "averages are compressed where updates are"
                readers.append(functools.partial(_stretch, self._messages.opened(digest, end - begin)))

        def combine(out: Vector, start: int) -> None:
            for read, (begin, end) in zip(readers, self._cuts, strict=True):
                low, high = max(begin, start), min(end, start + out.size)
                if low < high:
                    out[low - start : high - start] = read(low - begin, high - low)

        return combine

    def _summed(self, effect: AddUp) -> _Combine:
        weights = [weight for _, weight in effect.updates]
        updates = self._readers([digest for digest, _ in effect.updates], self._elements)
        for digest, weight in effect.sums:
            problem = sums_problem(self._sums(digest, 0, self._elements), weight, self._bound)
            if problem:
                raise Reject(f"couldn't add up round {effect.round}: {problem}")

        def combine(out: Sums, start: int) -> None:
            out.fill(0)
            for read, weight in zip(updates, weights, strict=True):
                add_weighted(out, read(start, out.size), weight)
            for digest, _ in effect.sums:
                np.add(out, self._sums(digest, start, out.size), out=out)

        return combine

    def _divided(self, effect: Divide) -> _Combine:
        def combine(out: Vector, start: int) -> None:
            mean_of_sums_into(out, np.zeros_like(out), self._sums(effect.total, start, out.size), effect.weight)

        return combine

    def _readers(self, digests: Sequence[Digest], elements: int) -> list[Callable[[int, int], Vector]]:
        """Return, per contribution or slice of one, what gives a stretch of it."""
        messages = self._messages
        if messages is None:
            return [functools.partial(self._slice, digest) for digest in digests]
        opened = [messages.opened(digest, elements) for digest in digests]
        return [functools.partial(_stretch, vector) for vector in opened]

    def _slice(self, digest: Digest, start: int, count: int) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
        return np.frombuffer(self._store.read(digest, 4 * start, 4 * count), dtype="<f4")

    def _sums(self, digest: Digest, start: int, count: int) -> Sums:
        return np.frombuffer(self._store.read(digest, 8 * start, 8 * count), dtype="<i8")


def _stretches(elements: int, dtype: str, combine: _Combine) -> Iterator[Buffer]:
    """Yield the blocks of a vector, each made in the same memory."""
    out = np.empty(min(MIX_BLOCK_ELEMENTS, elements), dtype=dtype)
    for start in range(0, elements, MIX_BLOCK_ELEMENTS):
        count = min(MIX_BLOCK_ELEMENTS, elements - start)
        combine(out[:count], start)
        yield out[:count].data
