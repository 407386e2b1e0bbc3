"""SHELL. What has left this site: a file that is only ever added to, and is written first.

A line stands in it, synced, before the bytes or the words that it is about can be had by anybody else. So after a crash
at any moment it may name what never left, and never lacks what did. There are two kinds of lines about leaving:
`update`, `part` and `model` when a blob of this site's own making goes where others can fetch it, and `contribution`,
`mask_keys`, `evaluation`, `score`, `partial` and `sketch` when this site says something on the ledger that its data
went into: with keys for masks it is the number of samples. What is said has the id of its entry, so that the ledger can
be held against it: `compare`. The rest is what people decided.

`to` are the members of the day. Whoever is a member may fetch an update from any other that has it, so "who fetched it
here" would say less than the truth.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from node.chained import Chained
from swarm import codec
from swarm.errors import StoreError
from swarm.ledger import entry as e
from swarm.masking.statements import Keys

UPDATE, PART, MODEL = "update", "part", "model"
CONTRIBUTION, EVALUATION, SCORE, PARTIAL, SKETCH = "contribution", "evaluation", "score", "partial", "sketch"
MASK_KEYS = "mask_keys"
WAITING, APPROVED, REJECTED, LAPSED, REFUSED, EXPORT = "waiting", "approved", "rejected", "lapsed", "refused", "export"

BLOBS = (UPDATE, PART, MODEL)
SAID = (CONTRIBUTION, EVALUATION, SCORE, PARTIAL, SKETCH, MASK_KEYS)
DECIDED = (WAITING, APPROVED, REJECTED, LAPSED, REFUSED)
KINDS = (*BLOBS, *SAID, *DECIDED, EXPORT)

DAMAGED = "SWARM-EGRESS-RECORD"


Body: TypeAlias = e.Contribution | e.Evaluation | e.Score | e.Partial | e.Attest | Keys

_TOLD: Mapping[int, tuple[str, type[Body]]] = {
    e.CONTRIBUTION: (CONTRIBUTION, e.Contribution),
    e.EVALUATION: (EVALUATION, e.Evaluation),
    e.SCORE: (SCORE, e.Score),
    e.PARTIAL: (PARTIAL, e.Partial),
    e.ATTEST: (SKETCH, e.Attest),
    e.MASK_KEYS: (MASK_KEYS, Keys),
}


def told_by(entry: e.Entry) -> tuple[str, Body] | None:
    """Return what an entry is called here, and its body, if its author's data went into it.

    An attest has a sketch of the author's own model in gossip; in exact mixing it names what everybody has.
    """
    if entry.kind not in _TOLD:
        return None
    word, kind = _TOLD[entry.kind]
    body = codec.decode(entry.body, kind, limit=e.ENTRY_BYTES_MAX)
    return None if isinstance(body, e.Attest) and not body.sketch else (word, body)


@dataclass(frozen=True, slots=True)
class Line:
    """One line. `ledger` is the first 16 hexadecimal digits of the swarm's id, `rest` what belongs to its kind."""

    what: str
    time_ms: int
    ledger: str
    round: int
    rest: Mapping[str, object]

    def plain(self) -> dict[str, object]:
        """Return it as it is written."""
        head: dict[str, object] = {"what": self.what, "time_ms": self.time_ms, "ledger": self.ledger}
        return {**head, "round": self.round, **self.rest}


class Record:
    """The file of one site."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = Chained(path, _line, _damaged, noun="line of this record", long=True)

    def lines(self) -> Sequence[Line]:
        """Return all there are, in order. Raises `StoreError` if they cannot be read, or are not what was written."""
        return self._file.read()

    def each(self) -> Iterator[Line]:
        """Yield them one by one. Raises as `lines` does."""
        return self._file.each()

    def add(self, what: str, *, time_ms: int, ledger: str, round_: int, **rest: object) -> Line:
        """Write a line, durably. Raises `StoreError`: then nothing may leave."""
        line = Line(what, time_ms, ledger, round_, rest)
        self._file.append(line.plain())
        return line


def rounds_out(lines: Iterable[Line]) -> set[tuple[str, int]]:
    """Return the rounds, as (ledger, round), of which an update has left."""
    return {(line.ledger, line.round) for line in lines if line.what == UPDATE}


def rounds_elsewhere(lines: Iterable[Line], ledger: str) -> int:
    """Return of how many rounds of other swarms updates have left."""
    return len({out for out in rounds_out(lines) if out[0] != ledger})


@dataclass(frozen=True, slots=True)
class Said:
    """An entry of this site's own that its data went into, as it stands on the ledger."""

    seq: int
    id: str
    what: str
    round: int
    digest: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The record held against the ledger.

    Attributes:
        agreed: how many entries are in both.
        before: how many the ledger has from before the record begins.
        unrecorded: entries of the ledger that the record lacks.
        unseen: contributions whose bytes the record does not know to have left.
        unordered: how many lines of the record the ledger does not have: not final yet, or never said after a crash.
    """

    agreed: int
    before: int
    unrecorded: tuple[Said, ...]
    unseen: tuple[Said, ...]
    unordered: int

    @property
    def holds(self) -> bool:
        """Whether nothing is on the ledger that the record does not know of."""
        return not self.unrecorded and not self.unseen


def compare(lines: Sequence[Line], ledger: str, said: Sequence[Said]) -> Comparison:
    """Hold what a record has of one ledger against what this site has said there, in the order of its feed."""
    own = [line for line in lines if line.ledger == ledger]
    known = {str(line.rest["entry"]): line for line in own if line.what in SAID}
    offered = {str(line.rest["digest"]) for line in own if line.what == UPDATE}
    begins = min((_seq(line) for line in known.values()), default=None)
    late = [one for one in said if begins is not None and one.seq >= begins]
    unrecorded = tuple(one for one in late if one.id not in known)
    unseen = tuple(one for one in late if one.id in known and one.what == CONTRIBUTION and one.digest not in offered)
    agreed = sum(one.id in known for one in late)
    return Comparison(agreed, len(said) - len(late), unrecorded, unseen, len(known) - agreed)


def _seq(line: Line) -> int:
    seq = line.rest["seq"]
    assert isinstance(seq, int), "looked at when it was read"
    return seq


def _line(values: object) -> Line:
    if not isinstance(values, dict):
        raise TypeError
    rest = dict(values)
    line = Line(rest.pop("what"), rest.pop("time_ms"), rest.pop("ledger"), rest.pop("round"), rest)
    numbers = (line.time_ms, line.round, *([rest["seq"]] if line.what in SAID else ()))
    texts = (line.ledger, *([rest["entry"]] if line.what in SAID else ()))
    texts += (rest["digest"],) if line.what in BLOBS else ()
    if line.what not in KINDS or any(type(one) is not int for one in numbers):
        raise TypeError
    if any(type(one) is not str for one in texts):
        raise TypeError
    return line


def _damaged(where: str, why: str) -> StoreError:
    return StoreError(
        f"couldn't tell what has left this site: {where}: {why}",
        hint="restore the file, or move it away for others to look at; nothing leaves this site without it",
        identifier=DAMAGED,
    )
