"""SHELL. What of a site's privacy budget is spent: a file that is only ever added to, and is written first.

Before a private training takes its first step, what all its steps will cost is appended here and synced. So whatever
becomes of them - an update that travels, a crash, a `kill -9` at any moment - nothing can have left this site that is
not in here. The price is that a round which is trained again, after a crash, is paid for again.

One line is one charge: whole numbers in JSON, then a digest of all lines up to it. A last line without an end was never
acknowledged, and nothing was trained on it: it is passed over. Any other line that does not match its digest stops
private training until people have looked, because a budget that is not known is not one. What cannot be seen from
inside is a file that was put back as it was before, from a backup or by hand: this site's contributions on the ledger
say what each brought it to, for people to compare.

It counts all swarms that this folder has been in: the records are the same, and what they have told adds up.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from node.storage import store_error, sync_folder
from swarm.errors import StoreError, UsageError
from swarm.privacy.accounting import Stretch

RATE_SCALE = 10**9
NOISE_SCALE = 10**6

_DIGEST_CHARACTERS = 32
BYTES_MAX = 1 << 26
"""A file of half a million charges."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Charge:
    """What one private training may cost. Whole numbers: the rate in 1e-9, rounded up, the noise in 1e-6, down.

    `ledger` is the first 16 hexadecimal digits of the swarm's id.
    """

    ledger: str
    round: int
    records: int
    rate: int
    noise: int
    steps: int

    @property
    def stretch(self) -> Stretch:
        """The steps, for the accountant."""
        return Stretch(rate=min(1.0, self.rate / RATE_SCALE), noise=self.noise / NOISE_SCALE, steps=self.steps)


def charge(*, ledger: str, round_: int, records: int, rate: float, noise: float, steps: int) -> Charge:
    """Return the charge of a training, in whole numbers that say no less."""
    return Charge(
        ledger=ledger,
        round=round_,
        records=records,
        rate=min(RATE_SCALE, math.ceil(rate * RATE_SCALE)),
        noise=math.floor(noise * NOISE_SCALE),
        steps=steps,
    )


def stretches(charges: Iterable[Charge]) -> list[Stretch]:
    """Return all steps, for the accountant."""
    return [one.stretch for one in charges]


class Spending:
    """The file of one site."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def charges(self) -> Sequence[Charge]:
        """Return all there are, in order; none if there is no file.

        Raises:
            StoreError: it cannot be read, or is not what was written.
        """
        return self._read()[0]

    def append(self, one: Charge) -> None:
        """Add a charge, durably: it survives whatever happens once this returns.

        Raises:
            StoreError: it could not be written; nothing may be trained on it.
        """
        fresh = not self._path.exists()
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise store_error(f"open {self._path}", error) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            _, digest, whole = self._read()
            body = json.dumps(asdict(one), sort_keys=True)
            line = f"{body} {_chained(digest, body)}\n".encode()
            os.ftruncate(descriptor, whole)  # Half a line that a crash has left.
            if os.pwrite(descriptor, line, whole) != len(line):
                raise StoreError(f"couldn't write to {self._path}: the disk took half a line", hint="free some space")
            os.fsync(descriptor)
        except OSError as error:
            raise store_error(f"write to {self._path}", error) from error
        finally:
            os.close(descriptor)
        if fresh:
            sync_folder(self._path.parent)

    def _read(self) -> tuple[list[Charge], str, int]:
        """Return the charges, the digest of the last, and how many bytes are whole lines."""
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return [], "", 0
        except OSError as error:
            raise store_error(f"read {self._path}", error) from error
        if len(data) > BYTES_MAX:
            raise self._damaged(0, "it is too long")
        whole = data.rfind(b"\n") + 1
        found: list[Charge] = []
        digest = ""
        for number, line in enumerate(data[:whole].splitlines(), 1):
            body, _, told = line.decode(errors="replace").rpartition(" ")
            digest = _chained(digest, body)
            if told != digest:
                raise self._damaged(number, "it does not match its digest")
            try:
                found.append(_charge(json.loads(body)))
            except (ValueError, TypeError, RecursionError, UsageError):
                raise self._damaged(number, "it is no charge") from None
        return found, digest, whole

    def _damaged(self, line: int, why: str) -> StoreError:
        return StoreError(
            f"couldn't tell what is spent of this site's privacy budget: {self._path}, line {line}: {why}",
            hint="restore the file; this site trains nothing privately without it",
        )


def _charge(values: object) -> Charge:
    if not isinstance(values, dict):
        raise TypeError
    made = Charge(**values)
    numbers = (made.round, made.records, made.rate, made.noise, made.steps)
    if type(values["ledger"]) is not str or any(type(one) is not int or one < 0 for one in numbers):
        raise TypeError
    _ = made.stretch  # Refuses what no steps can be.
    return made


def _chained(before: str, body: str) -> str:
    return hashlib.sha256(f"{before} {body}".encode()).hexdigest()[:_DIGEST_CHARACTERS]
