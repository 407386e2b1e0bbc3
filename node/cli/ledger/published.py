"""The checkpoint that lies beside a ledger: read, and compared with its members and its tree.

A node publishes it, and makes it again whenever a quorum has cosigned a newer one. So a damaged one costs nothing; but
one that members have really signed and that does not fit is the strongest thing an auditor can find.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, Failure, count
from swarm.errors import LedgerError, Reject, UsageError
from swarm.ledger import note as n
from swarm.ledger import tlog
from swarm.terms import Terms

_MOVE = "move it away; a running node writes a new one"

CATCH_UP = "start the node: it fetches what is missing from the others"


@dataclass(frozen=True, slots=True)
class Head:
    """A checkpoint as published: its bytes, and what they say. `cosigners` are names of members, `needed` how many."""

    data: bytes
    note: n.Note
    checkpoint: tlog.Checkpoint
    cosigners: tuple[str, ...]
    needed: int


class Uncosigned(Failure):
    """A checkpoint that reads well, is of the right log, and has no quorum behind it."""


def members_policy(name: str, terms: Terms) -> tlog.Policy:
    """Return the policy of one epoch's members for the log of this name."""
    return tlog.members_policy(name, [(seat.name, seat.cosign_key) for seat in terms.members], terms.quorum)


def keys_of(name: str, epochs: Sequence[Terms]) -> list[n.Key]:
    """Return all keys by which members of these epochs sign and cosign checkpoints, each once."""
    found: dict[tuple[str, bytes], n.Key] = {}
    for terms in epochs:
        policy = members_policy(name, terms)
        found.update({(key.name, key.id): key for key in (*policy.logs, *policy.witnesses.values())})
    return list(found.values())


def open_head(where: str, data: bytes, name: str, epochs: Sequence[Terms]) -> Head:
    """Return a checkpoint that a quorum of one of these epochs has cosigned.

    Args:
        where: the file it is from, for what is said of it.
        data: its bytes.
        name: the name of the log.
        epochs: whose word counts, the newest first; it may have been cosigned shortly before the members changed.

    Raises:
        Failure: `INVALID`. It cannot be read, or is of another log.
        Uncosigned: no quorum has cosigned it; `INVALID` too.
    """
    with judged(where):
        note = n.parse(data)
        found = tlog.Checkpoint.decode(note.text)
        if found.origin != name:
            text = f"couldn't use {where}: it is of another log, {found.origin!r}"
            raise Failure(text, code=INVALID, hint=_MOVE)
        for terms in epochs:
            signed = note.signed_by(members_policy(name, terms).witnesses.values())
            needed = min(terms.quorum, n.SIGNATURES_MAX - 1)
            if len(signed) >= needed:
                return Head(data, note, found, tuple(key.name.removeprefix(f"{name}/") for key in signed), needed)
    text = f"couldn't use {where}: no quorum of the members has cosigned it"
    raise Uncosigned(text, code=INVALID, hint=_MOVE)


def compare(head: Head, size: int, root: bytes | None) -> None:
    """Compare a checkpoint with a ledger of `size` entries whose tree had this root at the checkpoint's size.

    `root` is None where the ledger ends before, or never stood at that size.

    Raises:
        Failure: `INCOMPLETE` when the ledger ends before it, `CONTRADICTION` when it is of another history.
    """
    if head.checkpoint.size > size:
        raise Failure(
            f"the members have cosigned {count(head.checkpoint.size, 'entry')}, and this ledger ends after {size}",
            code=INCOMPLETE,
            hint=CATCH_UP,
        )
    if root != head.checkpoint.root:
        raise Failure(
            f"the members have cosigned another log: the root of the first {count(head.checkpoint.size, 'entry')} "
            "differs",
            code=CONTRADICTION,
            hint="keep this copy as evidence, and compare it with another member's: `swarm ledger diff`",
        )


def first_bad(data: bytes, name: str, epochs: Sequence[Terms]) -> int | None:
    """Return the byte at which a published checkpoint first is not what members wrote, or None when all of it is.

    Nodes publish their own members' lines only: a line of somebody else, which any verifier passes over, was one of
    theirs once. Where no line holds, what they sign is at fault, and that is byte 0.
    """
    try:
        note = n.parse(data)
    except Reject:
        return 0
    known = {(key.name, key.id): key for key in keys_of(name, epochs)}
    offset, bad = len(note.text.encode()) + 1, list[int]()
    for line in note.lines:
        key = known.get((line.name, line.id))
        if key is None or not n.verify(key, note.text, line.signature):
            bad.append(offset)
        offset += len(line.encode().encode())
    if len(bad) == len(note.lines):
        return 0
    return bad[0] if bad else None


def claimed_size(data: bytes | None) -> int | None:
    """Return the size that a checkpoint claims, before anything in it is checked: which tree to remember for it."""
    lines = (data or b"").split(b"\n", 2)
    return int(lines[1][:19]) if len(lines) > 1 and lines[1][:19].isdigit() else None


@contextmanager
def judged(where: object = None) -> Iterator[None]:
    """Turn what is wrong with a text into a failure that names the file."""
    try:
        yield
    except (Reject, LedgerError) as error:
        prefix = "" if where is None else f"{where}: "
        raise Failure(f"{prefix}{error.message}", code=INVALID, hint=error.hint) from None


def contents(path: Path) -> bytes:
    """Return a file's bytes. Raises `UsageError` when it cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(n.NOTE_BYTES_MAX + 1)
    except OSError as error:
        raise UsageError(f"couldn't read {path}: {error.strerror}", hint="name a file that is there") from None
