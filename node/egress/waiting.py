"""SHELL. The one update that waits for this site's people, and what they have said to it.

Three things on the disk: the update's files, what is known of it (`waiting.json`, written after them), and a person's
word (`decision.json`, written by `swarm approve`). The word names the update by its digest, so it can be about no other
one. A peer that starts finds all of it again: nothing has to be trained anew because people sleep at night, and what
they have said while it did not run holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import msgspec

from node.storage import BlobStore, hold, store_error, write_file_durably
from swarm.errors import StoreError, UsageError
from swarm.machine import Digest, Stored, Train, Trained

T = TypeVar("T")

REASON_CHARACTERS_MAX = 300
FILE_BYTES_MAX = 1 << 28
"""Far more than the leaf hashes of the largest update take."""


class Piece(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of an update: digest, size and leaf hashes, in hexadecimal."""

    digest: str
    size: int
    leaves: tuple[str, ...]


class Offer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What would leave. Ids and digests are hexadecimal.

    `ledger` is the first 16 digits of the swarm's id. `model` to `copy` are of the question that it answers, so that
    the same question after a restart has the same answer; `update` to `privacy` are the answer, as
    `swarm.machine.Trained` has it. `told` are the metrics that would be told with it, by name, `to` the members that
    could fetch it, `norm` its L2 norm before compression.
    """

    ledger: str
    round: int
    model: str
    whole: bool
    step: float
    copy: str
    update: str
    size: int
    samples: int
    metrics: dict[str, float]
    slices: tuple[tuple[str, int], ...]
    privacy: tuple[int, int]
    pieces: tuple[Piece, ...]
    norm: float
    told: dict[str, float]
    to: tuple[str, ...]
    made_ms: int

    def answers(self, asked: Train, ledger: str) -> bool:
        """Whether it is what this training would give, as far as that can be told beforehand."""
        question = (
            asked.round,
            asked.model.hex(),
            asked.whole,
            asked.step,
            "" if asked.copy is None else asked.copy.hex(),
        )
        return ledger == self.ledger and question == (self.round, self.model, self.whole, self.step, self.copy)

    def trained(self) -> Trained:
        """Return the event that the machine waits for."""
        return Trained(
            self.round,
            Digest(bytes.fromhex(self.update)),
            size=self.size,
            samples=self.samples,
            metrics=self.metrics,
            slices=tuple((Digest(bytes.fromhex(digest)), size) for digest, size in self.slices),
            privacy=self.privacy,
        )


class Decision(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A person's word on the update of this digest."""

    update: str
    yes: bool
    reason: str
    by: str
    time_ms: int


@dataclass(frozen=True, slots=True)
class Waiting:
    """Where both lie: `folder` for words, `files` for bytes, on the disk of the blob store."""

    folder: Path
    files: Path

    @property
    def _offer(self) -> Path:
        return self.folder / "waiting.json"

    @property
    def _decision(self) -> Path:
        return self.folder / "decision.json"

    def offer(self) -> Offer | None:
        """Return what waits; None if nothing does, or it cannot be read and so will be made anew."""
        return _read(self._offer, Offer)

    def decision(self) -> Decision | None:
        """Return what people have said to what waits; None if nothing yet."""
        found = _read(self._decision, Decision)
        offer = None if found is None else self.offer()
        return found if found is not None and offer is not None and found.update == offer.update else None

    def decide(self, decision: Decision) -> None:
        """Write down a person's word. Raises `StoreError`, or `UsageError` if that one does not wait any more."""
        offer = self.offer()
        if offer is None or offer.update != decision.update:
            raise UsageError(
                f"couldn't decide on update {decision.update[:16]}: it does not wait any more",
                hint="`swarm approve` without a digest shows what waits now",
            )
        write_file_durably(self._decision, msgspec.json.encode(decision) + b"\n")

    def keep(self, offer: Offer, files: Sequence[tuple[Path, Stored]]) -> None:
        """Take over an update's files, and remember it. Raises `StoreError`; then it is as if it had not come."""
        self.clear()
        try:
            self.files.mkdir(exist_ok=True, mode=0o700)
            for path, stored in files:
                path.replace(self.files / stored.digest.hex())
            write_file_durably(self._offer, msgspec.json.encode(offer) + b"\n")
        except OSError as error:
            raise store_error("keep an update that waits for this site's people", error) from error

    def whole(self, offer: Offer, store: BlobStore) -> bool:
        """Whether every byte of what waits is still what it was: a crash may have taken some."""
        try:
            found = [store.hash_file(self.files / piece.digest) for piece in offer.pieces]
        except StoreError:
            return False
        return found == [_stored(piece) for piece in offer.pieces]

    def copies(self, offer: Offer, store: BlobStore) -> tuple[tuple[Path, Stored], ...]:
        """Return its files once more, for the store to take in; those here stay until the ledger has its name.

        Raises:
            StoreError: the disk fails, or is full.
        """
        made = []
        for piece in offer.pieces:
            target = store.new_file()
            try:
                hold(self.files / piece.digest, target)
            except OSError as error:
                raise store_error("let out an update", error) from error
            made.append((target, _stored(piece)))
        return tuple(made)

    def clear(self) -> None:
        """Forget what waits, and what was said to it. Raises `StoreError`."""
        try:
            for path in (self._offer, self._decision):
                path.unlink(missing_ok=True)
            if self.files.is_dir():
                for path in self.files.iterdir():
                    path.unlink()
        except OSError as error:
            raise store_error(f"clear {self.files}", error) from error


def _stored(piece: Piece) -> Stored:
    leaves = tuple(bytes.fromhex(leaf) for leaf in piece.leaves)
    return Stored(Digest(bytes.fromhex(piece.digest)), piece.size, leaves)


def _read(path: Path, kind: type[T]) -> T | None:
    with contextlib.suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= FILE_BYTES_MAX:
            return msgspec.json.decode(path.read_bytes(), type=kind)
    return None
