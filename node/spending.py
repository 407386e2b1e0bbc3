"""SHELL. What of a site's privacy budget is spent: a file that is only ever added to, and is written first.

Before a private training takes its first step, what all its steps will cost is appended here and synced. So whatever
becomes of them - an update that travels, a crash, a `kill -9` at any moment - nothing can have left this site that is
not in here. The price is that a round which is trained again, after a crash, is paid for again.

One line is one charge, in whole numbers (`node.chained`). A line that does not match its digest stops private training
until people have looked, because a budget that is not known is not one. What cannot be seen from inside is a file that
was put back as it was before, from a backup or by hand: this site's contributions on the ledger say which rounds it has
trained privately (`Rounds`), and `lacking` compares. Where rounds are lacking nothing is trained, which is asked at the
start and before each training, because a ledger that came from the same backup only hears of them from the others.

The record is not made again from the ledger, which does not hold enough: a contribution says what its site had come to,
epsilon at one delta, and not by how many steps with how much noise. Of two trainings that come to the same there, one
may come to more than the other with the next round on top.

It counts all swarms that this folder has been in: the records are the same, and what they have told adds up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from node.chained import Chained
from node.config import Settings
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import StoreError
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.participation import ranges
from swarm.machine import NodeId
from swarm.privacy.accounting import Budget, Stretch

RATE_SCALE = 10**9
NOISE_SCALE = 10**6

BLOCKS_READ_BYTES = 1 << 24
"""Of blocks that are read at once, to see which rounds the ledger has."""

HEIGHT_MAX = 1 << 62
"""No ledger is as high."""

RECORD = "SWARM-PRIVACY-RECORD"
"""What it is called that the record lacks rounds."""


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


def lacking(charges: Iterable[Charge], ledger: str, told: Iterable[int]) -> list[int]:
    """Return the rounds that a ledger has as privately trained by this site and that no charge is of, in order.

    There are none while the file is what was written: a charge comes before its training, and that before its
    contribution. So one round is enough to know that charges are missing, this one's and perhaps others.

    Args:
        charges: all that the file has.
        ledger: the swarm's id, 16 hexadecimal digits.
        told: rounds for which this site's contributions say that privacy was spent.
    """
    paid = {one.round for one in charges if one.ledger == ledger}
    return sorted({*told} - paid)


class Rounds:
    """The rounds that a ledger has as privately trained by one site, read as the ledger grows and each block once.

    Args:
        blocks: gives the payloads of final blocks from one height to another, within so many bytes: at least one where
            there is one (`swarm.ledger.journal.Journal.blocks`).
        me: the site, as a member.
    """

    def __init__(self, blocks: Callable[[int, int, int], Sequence[bytes]], me: NodeId) -> None:
        self._blocks, self._me = blocks, me
        self._height = 0
        self._found: set[int] = set()

    def until(self, height: int = HEIGHT_MAX) -> list[int]:
        """Return those up to a block, or of all blocks there are, ascending.

        Raises:
            StoreError: a block cannot be read.
        """
        while self._height < height:
            payloads = self._blocks(self._height + 1, height, BLOCKS_READ_BYTES)
            if not payloads:
                break
            for payload in payloads:
                self._read(codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX))
            self._height += len(payloads)
        return sorted(self._found)

    def _read(self, final: FinalBlock) -> None:
        for leaf in final.block.leaves:
            entry = e.decode_entry(leaf)
            if entry.kind == e.CONTRIBUTION and entry.author == self._me:
                body = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
                if body.privacy[0]:
                    self._found.add(body.round)


def lacking_words(missing: Sequence[int]) -> str:
    """Say what is wrong with a record that lacks these rounds, ascending."""
    many = len(missing) > 1
    return (
        f"the ledger has round{'s' * many} {ranges(missing)} as trained privately here, and privacy/spent does not:"
        f" what {'they' if many else 'it'} cost would be spent twice"
    )


class Spending:
    """The file of one site."""

    def __init__(self, path: Path) -> None:
        self._file = Chained(path, _charge, _damaged, noun="charge")

    def charges(self) -> Sequence[Charge]:
        """Return all there are, in order; none if there is no file.

        Raises:
            StoreError: it cannot be read, or is not what was written.
        """
        return self._file.read()

    def append(self, one: Charge) -> None:
        """Add a charge, durably: it survives whatever happens once this returns.

        Raises:
            StoreError: it could not be written; nothing may be trained on it.
        """
        self._file.append(asdict(one))


def budget_of(settings: Settings, signed: SignedCharter) -> Budget | None:
    """Return what of privacy this site may spend: what it says, and no more than the charter; None for neither."""
    own = Budget(settings.privacy.epsilon, settings.privacy.delta) if settings.privacy.epsilon else None
    return signed.charter.privacy if own is None else own.stricter(signed.charter.privacy)


def _damaged(where: str, why: str) -> StoreError:
    return StoreError(
        f"couldn't tell what is spent of this site's privacy budget: {where}: {why}",
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
