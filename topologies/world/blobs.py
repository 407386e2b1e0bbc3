"""The blob store of one simulated process: models and updates by digest, in memory, with what the real one forgets.

It plays the part of the real store and of the workers that read it (inspection, mixing, training). Like the real one
it syncs nothing, because every blob can be fetched again by its digest: a process crash leaves all of it in place, a
power cut may take or tear anything. Unlike the real one it recomputes every digest at `seal`, so a machine that seals
unverified bytes is caught at once.
"""

from __future__ import annotations

import functools
import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.ledger.disk import DiskFull
from swarm.machine import (
    AddUp,
    Adopt,
    Appraise,
    Appraised,
    Blend,
    BlobRead,
    Buffer,
    Check,
    Checked,
    Digest,
    Divide,
    Evaluate,
    Evaluated,
    Event,
    Follow,
    Forget,
    Inspect,
    Inspected,
    Join,
    Keep,
    Learn,
    Masked,
    MaskUpdate,
    Mix,
    Mixed,
    MixSlice,
    Parted,
    ReadBlob,
    RingForm,
    Seal,
    Stepped,
    Stored,
    StoreFailed,
    Train,
    Trained,
    Unmask,
)
from swarm.masking import masks as masking
from swarm.masking.masks import Mask
from swarm.masking.noise import measured, sum_problem
from swarm.masking.ring import Ring
from swarm.mixing.average import (
    Sums,
    add_weighted,
    coalition_model,
    mean_of_sums_into,
    sums_problem,
    weighted_mean_into,
)
from swarm.mixing.compress.choco import Public, follow, propose
from swarm.mixing.compress.forms import Spec, decode, encode
from swarm.mixing.compress.residual import Residual, apply, apply_cut
from swarm.mixing.diffusion import learn_into, rescale
from swarm.mixing.gossip import mix_into, scale_into, step_into
from swarm.mixing.momentum import carry_into, follow_into
from swarm.mixing.outer import NONE, Outer, rows_of
from swarm.mixing.products import STRETCH
from swarm.mixing.rounds import RoundMean
from swarm.mixing.rules import Rule
from swarm.mixing.selfcentred import clipped, distances, in_millionths
from swarm.mixing.sketch import sketch
from swarm.privacy.clipping import inspect
from swarm.routes import slices_digest
from swarm.salt import message_of
from swarm.vector import blob_digest, leaf_hashes
from topologies.world.learner import Learner, Lesson, Vector

STEPPED_MAX = 4
"""Progress events of one training: enough to notice that they stop, few enough to leave the trace readable."""

BLOB_S = 0.001
"""Virtual time of one piece of work on a blob. Models are tiny here; that it takes time at all is what matters."""

HANG_S = 4.0
"""A training that hangs shows half its progress at the pace of one that would take this long."""

Bytes: TypeAlias = NDArray[np.uint8]

Work = Callable[[], Sequence[Event]]
"""What a worker does when its virtual time is over: the events to hand to the machine, in order."""


Slices: TypeAlias = tuple[tuple[Digest, int], ...]
"""Digest and size of each blob that a contribution consists of."""

OWN_KEPT = 2
"""As `node.copies.KEPT`."""

MOMENTA_KEPT = 2
"""As `node.momentum.KEPT`."""


@dataclass(frozen=True, slots=True, eq=False)
class _Momentum:
    """A model that a round begins with, and how it has moved until then."""

    round: int
    model: Vector
    momentum: Vector


class BlobStore:
    """Complete blobs and interrupted transfers. While `full` is set nothing can be added."""

    def __init__(
        self,
        blobs: Sequence[Buffer] = (),
        *,
        codec: Spec | None = None,
        elements: int = 0,
        bound: float = 0.0,
        cuts: Sequence[tuple[int, int]] = (),
        averages: Spec | None = None,
        momentum: float = 0.0,
        follows: bool = False,
        outer: Outer = NONE,
        rule: Rule | None = None,
        masks: bool = False,
        salt: int = 0,
        draw: Callable[[int], bytes] | None = None,
    ) -> None:
        """`salt` is how many bytes that `draw` gives lie behind an update (`swarm.salt`)."""
        self.full = False
        self._salt, self._draw = salt, draw or random.Random("salt").randbytes  # noqa: S311 - to be repeated
        self._masks = masks
        self._aside: dict[Digest, Vector] = {}
        self._masked: dict[Digest, Buffer] = {}
        self._outer = outer
        self._rule = rule
        self._cuts, self._averages = cuts, averages
        self._codec, self._elements, self._bound = codec, elements, bound
        self._follows = follows
        self._owed: Vector | None = None
        self._rests: dict[Digest, Vector] = {}
        self._beta = momentum
        self._momenta: dict[Digest, _Momentum] = {}
        self._corrections: dict[
            tuple[int, Digest], tuple[int, Vector]
        ] = {}  # As `node.corrections`: weight and vector.
        self._complete: dict[Digest, tuple[Stored, Buffer]] = {}
        self._synced: dict[Digest, None] = {}
        self._partial: dict[Digest, bytearray] = {}
        for blob in blobs:
            self.put(blob)

    def put(self, data: Buffer, *, synced: bool = False) -> Stored:
        """Add a complete blob; the store keeps `data` itself, so the caller must not change it afterwards.

        What is `synced`, a power failure spares.

        Raises:
            DiskFull: If nothing fits.
        """
        if self.full:
            raise DiskFull("couldn't write a blob: the disk is full")
        leaves = leaf_hashes(data)
        stored = Stored(blob_digest(len(data), leaves), len(data), leaves)
        self._complete[stored.digest] = (stored, data)
        if synced:
            self._synced[stored.digest] = None
        return stored

    def listing(self) -> tuple[tuple[Stored, ...], dict[Digest, int]]:
        """(complete blobs, sizes of partial ones), both in order of digest, as `Started` carries them."""
        complete = tuple(self._complete[digest][0] for digest in sorted(self._complete))
        return complete, {digest: len(self._partial[digest]) for digest in sorted(self._partial)}

    def read(self, digest: Digest, offset: int, length: int) -> Buffer | None:
        """The bytes [offset, offset+length) of a complete or partial blob, or None if they are not here."""
        found = self._complete.get(digest)
        if found is not None:
            # Complete blobs never change, so a view is safe and free.
            return memoryview(found[1])[offset : offset + length] if offset + length <= len(found[1]) else None
        partial = self._partial.get(digest)
        if partial is None or offset + length > len(partial):
            return None
        return bytes(partial[offset : offset + length])

    def vector(self, digest: Digest) -> Vector | None:
        """A complete blob as a flat float32 array (not to be written to), or None if it is not here."""
        found = self._complete.get(digest)
        return None if found is None or len(found[1]) % 4 else np.frombuffer(found[1], "<f4")

    def sums(self, digest: Digest) -> Sums | None:
        """A complete blob as sums in fixed point, or None if it is not here."""
        found = self._complete.get(digest)
        return None if found is None or len(found[1]) % 8 else np.frombuffer(found[1], "<i8")

    def contribution(self, digest: Digest, elements: int = 0) -> Vector | None:
        """What a contribution says, or a slice so long, compressed or not; None if it is not here or says nothing."""
        found = self._complete.get(digest)
        try:
            message = None if found is None else message_of(found[1], self._salt)
            if message is None or self._codec is None or self._follows:
                return None if message is None or len(message) % 4 else np.frombuffer(message, "<f4")
            return decode(message, elements or self._elements, spec=self._codec)
        except Reject:
            return None

    def keep(self, effect: Keep) -> StoreFailed | None:
        """Write a piece of a partial blob, making room for it first."""
        assert 0 <= effect.offset <= effect.offset + len(effect.payload) <= effect.size, "a piece beyond its blob"
        if effect.digest in self._complete:
            return None
        partial = self._partial.get(effect.digest)
        if partial is None:
            if self.full:
                return StoreFailed(effect.digest, "couldn't begin a transfer: the disk is full")
            partial = self._partial[effect.digest] = bytearray(effect.size)
        assert len(partial) == effect.size, "one blob, two sizes"
        partial[effect.offset : effect.offset + len(effect.payload)] = effect.payload
        return None

    def seal(self, effect: Seal) -> None:
        """Make a partial blob complete; its content must be what its digest says."""
        if effect.digest in self._complete:
            return
        data = bytes(self._partial.pop(effect.digest, b""))
        leaves = leaf_hashes(data)
        stored = Stored(blob_digest(len(data), leaves), len(data), leaves)
        assert stored.digest == effect.digest, "sealed a blob whose bytes do not match its digest"
        assert leaves == effect.leaves, "sealed a blob with the leaf hashes of another"
        self._complete[effect.digest] = (stored, data)

    def forget(self, effect: Forget) -> None:
        """Drop blobs, complete or partial; unknown digests are nothing to drop."""
        for digest in effect.digests:
            self._complete.pop(digest, None)
            self._partial.pop(digest, None)
            self._synced.pop(digest, None)
            self._aside.pop(digest, None)

    def check(self, effect: Check) -> Work:
        """Compare a partial blob with its leaf hashes."""

        def work() -> Sequence[Event]:
            partial = self._partial.get(effect.digest)
            if partial is None or len(partial) != effect.size:
                return (Checked(effect.digest, ()),)
            pairs = zip(leaf_hashes(partial), effect.leaves, strict=True)
            return (Checked(effect.digest, tuple(i for i, (mine, right) in enumerate(pairs) if mine == right)),)

        return work

    def inspect(self, effect: Inspect, learner: Learner) -> Work:
        """Read an update through against the learner's model length and norm bound."""
        update = self.contribution(effect.digest, effect.elements)

        def work() -> Sequence[Event]:
            if update is None:
                return (Inspected(effect.digest, "it is not in the store, or is not what a contribution is"),)
            bound = 0.0 if effect.whole else learner.bound
            problem, norm = inspect(update, elements=effect.elements or learner.elements, bound=bound)
            return (Inspected(effect.digest, problem, norm),)

        return work

    def follow(self, effect: Follow) -> Work:
        """Make a public copy of the one before it; the inputs are read now."""
        before, message = self.vector(effect.before), self._complete.get(effect.message)
        assert self._codec is not None, "a charter without public copies asks for none"
        spec = self._codec

        def work() -> Sequence[Event]:
            if before is None or message is None:
                return (Inspected(effect.after, "couldn't follow a public copy: a blob is not in the store"),)
            try:
                made = follow(Public(0, before), 1, message[1], spec).copy
                if blob_digest(made.nbytes, leaf_hashes(made.tobytes())) != effect.after:
                    return (Inspected(effect.after, "its message does not lead to the copy that its author names"),)
                stored = self.put(made.tobytes())
            except (DiskFull, Reject) as error:
                return (Inspected(effect.after, str(error)),)
            return (stored, Inspected(effect.after, *inspect(made, elements=self._elements, bound=0.0)))

        return work

    def deposit(self, data: bytes) -> Sequence[Event]:
        """Add a small blob of the machine's own."""
        try:
            return (self.put(data),)
        except DiskFull as full:
            return (StoreFailed(Digest(blob_digest(len(data), leaf_hashes(data))), full.message),)

    def adopt(self, effect: Adopt) -> Sequence[Event]:
        """Let a masked update into the store. One that a crash has taken is masked again."""
        data = self._masked.pop(effect.digest, None)
        return () if data is None else self.deposit(bytes(data))

    def read_blob(self, effect: ReadBlob) -> Work:
        """Read a small blob."""
        data = self.read(effect.digest, 0, effect.size)
        return lambda: (BlobRead(effect.digest, b"" if data is None else bytes(data)),)

    def mask(self, effect: MaskUpdate) -> Work:
        """Weight an update that was kept aside, and put masks on it."""
        update = self._aside.get(effect.update)
        said = functools.partial(Masked, effect.round, effect.attempt, effect.update)

        def work() -> Sequence[Event]:
            if update is None:
                return (said(None, error="it is not there any more", lost=True),)
            ring = _ring(effect.ring)
            try:
                noise = measured(effect.noise, update, ring)
                worn = [Mask(*one) for one in effect.masks]
                words = masking.masked(update, ring, effect.weight, worn, noise=noise)
            except UsageError as error:
                return (said(None, error=error.message, lost=True),)
            data = ring.pack(words)
            digest = blob_digest(len(data), leaf_hashes(data))
            self._masked = {digest: data}
            return (said(digest, len(data)),)

        return work

    def unmask(self, effect: Unmask) -> Work:
        """Add masked updates, take the masks off, and average; the inputs are read now."""
        base, ring = self.vector(effect.model), _ring(effect.ring)
        found = [self._complete.get(digest) for digest in effect.terms]

        def work() -> Sequence[Event]:
            present = [one[1] for one in found if one is not None]
            if base is None or len(present) < len(found):
                return (Mixed(effect.round, None, error="couldn't unmask: a blob that it names is not in the store"),)
            total = ring.words(self._elements)
            try:
                for data in present:
                    masking.add(total, ring.unpack(data, self._elements))
                masking.apply(total, ring, [Mask(*one) for one in effect.masks])
                sums = ring.sums(total, effect.weight)
            except Reject as reason:
                return (Mixed(effect.round, None, error=reason.message, void=True),)
            if problem := sum_problem(sums, effect.weight, ring, effect.norm_max, self._bound):
                return (Mixed(effect.round, None, error=problem, void=True),)
            mean = np.zeros(self._elements, np.float32)
            mean_of_sums_into(mean, mean, sums, effect.weight)
            try:
                stored = self.put(self._stepped(base, mean).tobytes(), synced=True)
            except DiskFull as full:
                return (Mixed(effect.round, None, error=full.message),)
            return (stored, Mixed(effect.round, stored.digest, stored.size))

        return work

    def mix(self, effect: Mix) -> Work:
        """Average; the inputs are read now, so forgetting them in a later effect does no harm."""
        base = None if effect.model is None else self.vector(effect.model)
        updates = [self.contribution(digest) for digest, _ in effect.terms]

        def work() -> Sequence[Event]:
            present = [update for update in updates if update is not None]
            if (base is None and effect.model is not None) or len(present) < len(updates):
                return (Mixed(effect.round, None, error="couldn't mix: a blob that it names is not in the store"),)
            try:
                mean, average = self._average(present, effect)
                out = average if base is None else self._stepped(base, average)
                stored = self.put(out.tobytes(), synced=True)
            except (DiskFull, UsageError) as error:
                return (Mixed(effect.round, None, error=error.message),)
            likeness = mean.likeness if base is not None else ()
            return (
                stored,
                Mixed(effect.round, stored.digest, stored.size, weights=mean.weights, likeness=likeness),
            )

        return work

    def _average(self, updates: Sequence[Vector], effect: Mix) -> tuple[RoundMean, Vector]:
        """Average as `node.bulk` does, in stretches of whole tiles. Return what was learnt of it, and the average."""
        out = np.zeros_like(updates[0])
        readers = [functools.partial(_stretch, update) for update in updates]
        weights = [weight for _, weight in effect.terms]
        mean = RoundMean(readers, out.size, weights, rest=effect.rest, rule=self._rule)
        for start in range(0, out.size, STRETCH):
            span = slice(start, min(start + STRETCH, out.size))
            mean.into(out[span], out[span], [update[span] for update in updates])
        return mean, out

    def mix_slice(self, effect: MixSlice) -> Work:
        """Average a slice."""
        updates = [self.contribution(digest, effect.elements) for digest, _ in effect.terms]

        def made() -> Vector | Bytes | str:
            present = [update for update in updates if update is not None]
            if len(present) < len(updates):
                return "couldn't average a slice: a blob that it names is not in the store"
            out = np.zeros(effect.elements, np.float32)
            weighted_mean_into(out, out, present, [weight for _, weight in effect.terms], rest=effect.rest)
            return out if self._averages is None else np.frombuffer(encode(out, self._averages), np.uint8)

        return self._part(effect, made)

    def add_up(self, effect: AddUp) -> Work:
        """Add weighted updates, or sums."""
        updates = [self.contribution(digest) for digest, _ in effect.updates]
        sums = [self.sums(digest) for digest, _ in effect.sums]

        def made() -> Sums | str:
            out = np.zeros(self._elements, np.int64)
            for update, (_, weight) in zip(updates, effect.updates, strict=True):
                if update is None:
                    return "couldn't add up: a blob that it names is not in the store"
                add_weighted(out, update, weight)
            for found, (_, weight) in zip(sums, effect.sums, strict=True):
                problem = "it is not in the store" if found is None else sums_problem(found, weight, self._bound)
                if found is None or problem:
                    return f"couldn't add up: {problem}"
                out += found
            return out

        return self._part(effect, made)

    def join(self, effect: Join) -> Work:
        """Put averaged slices together."""
        base = self.vector(effect.model)
        lengths = [end - start for start, end in self._cuts]
        read = self.vector if self._averages is None else None
        slices = [
            read(digest) if read is not None else self.contribution(digest, length)
            for digest, length in zip(effect.slices, lengths, strict=True)
        ]

        def made() -> Vector | str:
            present = [part for part in slices if part is not None]
            if base is None or len(present) < len(slices):
                return "couldn't join slices: a blob that it names is not in the store"
            return self._stepped(base, np.concatenate(present))

        return self._ending(effect.round, made)

    def divide(self, effect: Divide) -> Work:
        """Make a sum the mean."""
        base, total = self.vector(effect.model), self.sums(effect.total)

        def made() -> Vector | str:
            if base is None or total is None:
                return "couldn't divide a sum: a blob that it names is not in the store"
            mean = np.zeros(total.size, np.float32)
            mean_of_sums_into(mean, mean, total, effect.weight)
            return self._stepped(base, mean)

        return self._ending(effect.round, made)

    def _stepped(self, base: Vector, mean: Vector) -> Vector:
        """The outcome to which a mean leads from that of the round before."""
        out = np.empty_like(base)
        self._outer.step(rows_of(out, mean.size), rows_of(base, mean.size), mean)
        return out

    def _ending(self, number: int, made: Callable[[], Vector | str]) -> Work:
        """Work that stores what a round ends with."""

        def work() -> Sequence[Event]:
            out = made()
            try:
                stored = None if isinstance(out, str) else self.put(out.tobytes(), synced=True)
            except DiskFull as error:
                stored, out = None, error.message
            if stored is None:
                return (Mixed(number, None, error=str(out)),)
            return (stored, Mixed(number, stored.digest, stored.size))

        return work

    def _part(self, effect: MixSlice | AddUp, made: Callable[[], Vector | Sums | Bytes | str]) -> Work:
        """Work that stores a part of a mean."""

        def work() -> Sequence[Event]:
            out = made()
            try:
                stored = None if isinstance(out, str) else self.put(out.tobytes())
            except DiskFull as error:
                stored, out = None, error.message
            if stored is None:
                return (Parted(effect.round, effect.close, effect.number, None, error=str(out)),)
            return (stored, Parted(effect.round, effect.close, effect.number, stored.digest, stored.size))

        return work

    def blend(self, effect: Blend) -> Work:
        """One step of gossip; the inputs are read now."""
        models = [self.contribution(digest) for digest, _ in effect.terms]
        weights = [weight for _, weight in effect.terms]
        offered = self._rests.get(effect.terms[effect.own][0], models[effect.own])
        for digest, _ in effect.terms:
            if digest in self._rests:
                models += [self._rests[digest], self.contribution(digest)]
                weights += [effect.rest, -effect.rest]

        def work() -> Sequence[Event]:
            present = [model for model in models if model is not None]
            if len(present) < len(models):
                return (Mixed(effect.round, None, error="couldn't blend: a blob that it names is not in the store"),)
            out, taken = np.empty_like(present[0]), weights
            scales: tuple[float, ...] = ()
            try:
                if effect.clip:
                    readers = [functools.partial(_stretch, model) for model in present[: len(effect.terms)]]
                    apart = distances(readers, effect.own, out.size)
                    row, scales = clipped(weights[: len(effect.terms)], effect.own, apart, effect.clip)
                    taken = [*row, *weights[len(effect.terms) :]]
                mix_into(out, present, taken)
                told = sketch(out, effect.seed)
                stored = self.put(out.tobytes(), synced=True)
                if effect.learn is not None and offered is not None:
                    self._learn(effect.learn, effect.round, stored.digest, offered, out)
            except (DiskFull, UsageError) as error:
                return (Mixed(effect.round, None, error=error.message),)
            return (
                stored,
                Mixed(effect.round, stored.digest, stored.size, sketch=told, weights=in_millionths(scales)),
            )

        return work

    def _learn(self, learn: Learn, number: int, model: Digest, offered: Vector, mixed: Vector) -> None:
        """File what a round has taught, as `node.corrections` does: nothing without what it should go on from."""
        before = self._corrections.get((learn.since, learn.base)) if learn.base is not None else None
        if learn.since and before is None:
            return
        weight, correction = (0, np.zeros_like(mixed)) if before is None else (before[0], before[1].copy())
        now = learn.weight or weight or 1
        if before is not None:
            rescale(correction, weight, now)
        learn_into(correction, offered, mixed, learn.gain)
        kept = {} if before is None or learn.base is None else {(learn.since, learn.base): before}
        self._corrections = kept | {(number, model): (now, correction)}

    def forget_corrections(self) -> None:
        """Lose what a backup does not hold."""
        self._corrections.clear()

    def train(self, effect: Train, learner: Learner | None, member: int) -> list[tuple[float, Work]]:
        """Train now, show it later: (delay in seconds, work) for progress and for the result, if there will be one."""
        model = self._model(effect.model, learner)
        if effect.counted in self._rests:
            self._owed, self._rests = self._rests[effect.counted], {}
        if learner is None or model is None:
            error = "couldn't train: the model is not in the store or does not fit the task"
            return [(BLOB_S, lambda: (Trained(effect.round, None, error=error),))]
        correction = None
        if effect.learned:
            known = self._corrections.get((effect.learned, effect.model))
            if known is None:
                error = "its correction is gone"
                return [(BLOB_S, lambda: (Trained(effect.round, None, error=error, forgot=True),))]
            correction = known[1]
        lesson = learner.train(member, effect.round, model, correction)
        hangs = lesson.duration_s == math.inf
        step_s = (HANG_S if hangs else lesson.duration_s) / STEPPED_MAX
        works: list[tuple[float, Work]] = []
        for part in range(1, STEPPED_MAX // 2 + 1 if hangs else STEPPED_MAX):
            stepped = Stepped(effect.round, lesson.steps * part // STEPPED_MAX, lesson.steps)
            works.append((step_s * part, functools.partial(tuple, (stepped,))))
        if not hangs:
            works.append(
                (
                    lesson.duration_s,
                    functools.partial(self._hand_in, effect, lesson, model if effect.whole else None),
                )
            )
        return works

    def _hand_in(self, effect: Train, lesson: Lesson, base: Vector | None) -> Sequence[Event]:
        """The end of a training: the update, or what it makes of `base`, is stored, then the machine hears of it."""
        number = effect.round
        if lesson.update is None:
            return (Trained(number, None, metrics=lesson.metrics, error=lesson.error),)
        try:
            if base is not None and base.size == lesson.update.size:
                scale_into(lesson.update, effect.step)
                if self._beta:
                    carry_into(lesson.update, self._momentum(effect, base), self._beta, lesson.parameters)
                step_into(lesson.update, base)
            if self._masks:
                return (self._set_aside(number, lesson, lesson.update),)
            if self._cuts:
                return self._hand_in_slices(number, lesson, lesson.update)
            if self._follows and effect.copy is not None and (moved := self._moved(lesson.update, effect.copy)):
                return (*moved[1], _as_slices(number, lesson, moved[0]))
            stored = self._put_contribution(lesson.update, whole=base is not None)
        except DiskFull as error:
            return (Trained(number, None, error=error.message),)
        return (stored, Trained(number, stored.digest, stored.size, lesson.samples, lesson.metrics))

    def _set_aside(self, number: int, lesson: Lesson, update: Vector) -> Trained:
        """Keep what nobody may ask for."""
        data = update.tobytes()
        digest = blob_digest(len(data), leaf_hashes(data))
        self._aside[digest] = update
        return Trained(number, digest, len(data), lesson.samples, lesson.metrics)

    def _hand_in_slices(self, number: int, lesson: Lesson, update: Vector) -> Sequence[Event]:
        messages = tuple(update[start:end].tobytes() for start, end in self._cuts)
        rest: Vector | None = None
        if self._codec is not None:
            owed = np.zeros_like(update) if self._owed is None else self._owed
            after, messages, _ = apply_cut(Residual(owed), update, self._codec, self._cuts, bound=self._bound)
            rest = after.error
        parts = [self.put(message) for message in messages]
        slices = tuple((stored.digest, stored.size) for stored in parts)
        if rest is not None:
            self._rests[slices_digest(slices)] = rest
        return (*parts, _as_slices(number, lesson, slices))

    def _moved(self, model: Vector, copy: Digest) -> tuple[Slices, tuple[Stored, ...]] | None:
        """Store how a public copy moves towards a model, as `node.copies` does; None if the model goes whole."""
        before = self.vector(copy)
        assert self._codec is not None, "public copies have a codec"
        if before is None or before.size != model.size:
            return None
        try:
            after, message = propose(Public(0, before), model, self._codec)
        except UsageError:
            return None
        if inspect(after.copy, elements=self._elements, bound=0.0)[0]:
            return None
        parts = self.put(message), self.put(after.copy.tobytes())
        self._rests = dict([*self._rests.items(), (parts[1].digest, model)][-OWN_KEPT:])
        size = parts[1].size
        return ((parts[0].digest, parts[0].size), (copy, size), (parts[1].digest, size)), parts

    def _momentum(self, effect: Train, base: Vector) -> Vector:
        """The momentum of the model that a round begins with, as `node.momentum` files it."""
        known = self._momenta.get(effect.model)
        if known is None:
            known = _Momentum(effect.round, base, np.zeros_like(base))
            earlier = [one for one in self._momenta.values() if one.round < effect.round]
            if earlier:
                last = max(earlier, key=lambda one: one.round)
                follow_into(known.momentum, last.momentum, last.model, base, self._beta)
            kept = sorted([*self._momenta.items(), (effect.model, known)], key=lambda item: item[1].round)
            self._momenta = dict(kept[-MOMENTA_KEPT:])
        return known.momentum

    def _put_contribution(self, vector: Vector, *, whole: bool) -> Stored:
        """Store an update, or a whole model, as it travels, and keep what its codec leaves out."""
        if self._codec is None or self._follows:
            return self.put(vector.tobytes() + self._draw(self._salt))
        if whole:
            stored = self.put(encode(vector, self._codec))
            self._rests[stored.digest] = vector
            return stored
        owed = np.zeros_like(vector) if self._owed is None else self._owed
        rest, sent = apply(Residual(owed), vector, self._codec, bound=self._bound)
        stored = self.put(sent.message + self._draw(self._salt))
        self._rests[stored.digest] = rest.error
        return stored

    def evaluate(self, effect: Evaluate, learner: Learner | None, member: int) -> Work:
        """Evaluate a model at one member."""
        model = self._model(effect.model, learner)
        if learner is None or model is None:
            error = "couldn't evaluate: the model is not in the store or does not fit the task"
            return lambda: (Evaluated(effect.round, effect.model, 0, {}, error),)
        samples, metrics = learner.evaluate(member, model)
        return lambda: (Evaluated(effect.round, effect.model, samples, metrics),)

    def appraise(self, effect: Appraise, learner: Learner | None, member: int) -> Work:
        """Evaluate, at one member, a model made of some updates; the inputs are read now."""
        model = self._model(effect.model, learner)
        updates = [self.contribution(digest) for digest, _ in effect.terms]
        present = [update for update in updates if update is not None]
        if learner is None or model is None or len(present) < len(updates):
            error = "couldn't appraise: a blob that it names is not in the store or does not fit the task"
            return lambda: (Appraised(effect.round, effect.number, 0, {}, error),)
        made = coalition_model(model, present, [weight for _, weight in effect.terms])
        samples, metrics = learner.evaluate(member, made)
        return lambda: (Appraised(effect.round, effect.number, samples, metrics),)

    def _model(self, digest: Digest, learner: Learner | None) -> Vector | None:
        """The model of an outcome that fits the learner's task, or None."""
        found = self.vector(digest)
        if learner is None or found is None or found.size != learner.elements * (1 + self._outer.slots):
            return None
        return found[: learner.elements]

    def lose_power(self, rng: random.Random) -> None:
        """What is not synced was still in the page cache: each is kept, torn into a partial one, or gone, by chance."""
        for digest, (_, data) in list(self._complete.items()):
            if digest in self._synced:
                continue
            fate = rng.randrange(3)
            if fate:
                del self._complete[digest]
            if fate == 1 and len(data):
                self._partial[digest] = _torn(data, rng)
        if self._momenta and rng.randrange(2):
            self._momenta.clear()
        self._masked.clear()
        for digest in list(self._aside):
            if rng.randrange(2):
                del self._aside[digest]
        for digest, partial in list(self._partial.items()):
            if rng.randrange(3) == 0:
                del self._partial[digest]
            elif partial:
                self._partial[digest] = _torn(partial, rng)


def _ring(form: RingForm) -> Ring:
    bits, fraction, weight_total, room = form
    return Ring(bits=bits, fraction=fraction, weight_total=weight_total, room=room)


def _stretch(vector: Vector, start: int, count: int) -> Vector:
    return vector[start : start + count]


def _as_slices(number: int, lesson: Lesson, slices: Slices) -> Trained:
    size = sum(size for _, size in slices)
    return Trained(number, slices_digest(slices), size, lesson.samples, lesson.metrics, slices=slices)


def _torn(data: Buffer, rng: random.Random) -> bytearray:
    """The same size with one stretch never written."""
    torn = bytearray(data)
    begin, end = sorted((rng.randrange(len(torn) + 1), rng.randrange(len(torn) + 1)))
    torn[begin:end] = bytes(end - begin)
    return torn
