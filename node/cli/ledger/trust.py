"""What this user has seen of each ledger, so that one that shrinks, or tells another past, is noticed.

A ledger that holds may still be an old copy of itself, or one branch of a fork. Whoever looks twice can tell: the tree
it showed the last time must be the beginning of the tree it shows now (trust on first use, as SSH does with hosts, and
`rekor-cli` with logs). What is remembered, by ledger id, is the last size whose block a certificate covers, and the
root of the tree there; and the last size that a quorum has cosigned, because a directory of tiles ends there, earlier
than the ledger it is made from. It lies in one small file outside every ledger: `$SWARM_TRUST`, or `swarm/trust.json`
in `$XDG_STATE_HOME`. It only ever grows, until `swarm ledger trust reset`.
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from enum import Enum
from pathlib import Path

import click

from node.cli.forms import listed, shown
from node.cli.ledger.naming import LEDGER, Search
from node.cli.ledger.reading import date
from node.cli.output import ROLLED_BACK, Failure, Form, count, emit, emit_rows
from node.clock import Clock
from node.storage import write_file_durably
from swarm.charter import SignedCharter
from swarm.errors import StoreError, UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.merkle import Frontier

SCHEMA = "swarm-ledger/trust/v1"

FILE_BYTES_MAX = 16 << 20
"""Largest trust file that is read: about fifty thousand ledgers."""

TRUST = click.option(
    "--trust",
    "trust_path",
    type=click.Path(path_type=Path, dir_okay=False),
    envvar="SWARM_TRUST",
    help="Where it is remembered what was seen. [default: $SWARM_TRUST, or your state folder]",
)

_RESET = "if it was replaced on purpose, `swarm ledger trust reset`"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """A ledger as it was seen: `time_ms` is that of its last covered block, `seen_ms` when it was looked at.

    `cosigned_size` is 0 where no checkpoint that holds was seen with it.
    """

    name: str
    height: int
    size: int
    root: str
    time_ms: int
    seen_ms: int
    cosigned_size: int = 0
    cosigned_root: str = ""


class Standing(Enum):
    """How a ledger stands to what was seen of it before."""

    NEW = "new"
    CONSISTENT = "consistent"
    SHRUNK = "shrunk"
    REWRITTEN = "rewritten"


class Watch:
    """Compares a ledger, while it is followed from its beginning, with what was seen of it before."""

    def __init__(self, signed: SignedCharter, memory: Memory, *, published: bool = False) -> None:
        """`published`: it is a directory of tiles, and ends where the members have cosigned."""
        self._published = published
        self._cosigned = (0, "")
        self._reaches_cosigned = False
        self._id, self._name, self._memory = signed.ledger_id.hex(), signed.charter.name, memory
        known = memory.load()
        self.before = known.get(self._id)
        self.namesakes = sorted(id_ for id_, seen in known.items() if seen.name == self._name and id_ != self._id)
        self._equal = False
        self._size = 0
        self._latest: tuple[int, int, Frontier] | None = None

    def see(self, height: int, time_ms: int, frontier: Frontier, *, covered: bool) -> None:
        """Take in the tree as it is after a block, and whether a certificate covers it."""
        self._size = frontier.size
        if self.before is not None and frontier.size == self.before.size:
            self._equal = frontier.root().hex() == self.before.root
        if self.before is not None and frontier.size == self.before.cosigned_size:
            self._reaches_cosigned = frontier.root().hex() == self.before.cosigned_root
        if covered:
            self._latest = height, time_ms, frontier

    def vouch(self, size: int, root: bytes) -> None:
        """Take in that a quorum has cosigned the tree of this size, which is the ledger's."""
        self._cosigned = size, root.hex()

    def see_audit(self, audit: Audit) -> None:
        """Take in an audit as it is after a block."""
        if audit.failure is None:
            state = audit.state
            self.see(state.height, state.time_ms, state.frontier, covered=not audit.uncovered)

    @property
    def size(self) -> int:
        """How many entries the ledger has, as far as it was followed."""
        return self._size

    @property
    def standing(self) -> Standing:
        """How the ledger, as far as it was followed, stands to what was seen."""
        if self.before is None:
            return Standing.NEW
        if self._size < self.before.size:
            ends_as_published = self._published and self._reaches_cosigned
            return Standing.CONSISTENT if ends_as_published else Standing.SHRUNK
        # A size that falls between two blocks is one that this history never had.
        return Standing.CONSISTENT if self._equal else Standing.REWRITTEN

    def remember(self) -> None:
        """Remember what is certified of a ledger that extends what was seen. Says on stderr when that cannot be."""
        if self._latest is None or self.standing not in (Standing.NEW, Standing.CONSISTENT):
            return
        height, time_ms, frontier = self._latest
        root, now_ms = frontier.root().hex(), int(Clock().now() * 1000)
        seen = Seen(
            name=self._name,
            height=height,
            size=frontier.size,
            root=root,
            time_ms=time_ms,
            seen_ms=now_ms,
            cosigned_size=self._cosigned[0],
            cosigned_root=self._cosigned[1],
        )
        try:
            self._memory.remember(self._id, seen)
        except StoreError as error:
            click.echo(f"note: {error.message}, so the next look cannot be compared with this one", err=True)

    def refuse(self) -> None:
        """Raise `Failure` when the ledger went back on what was seen of it."""
        standing, before = self.standing, self.before
        if before is None or standing is Standing.CONSISTENT:
            return
        seen = f"{count(before.size, 'entry')} seen here on {date(before.seen_ms)}"
        if standing is Standing.SHRUNK:
            text = f"this ledger was rolled back: it has {count(self._size, 'entry')}, fewer than the {seen}"
            hint = f"an old copy looks like this: start the node, which catches up, or ask for a newer copy; {_RESET}"
        else:
            text = f"this ledger does not continue the {seen}: its past was replaced by another"
            hint = f"keep this copy, and compare it with another member's by `swarm ledger diff`; {_RESET}"
        raise Failure(text, code=ROLLED_BACK, hint=hint)

    def words(self) -> str:
        """Return in words how the ledger stands to what was seen."""
        before = self.before
        if before is None:
            others = f"; but {count(len(self.namesakes), 'other ledger')} of this name seen" if self.namesakes else ""
            return f"seen here for the first time{others}"
        match self.standing:
            case Standing.CONSISTENT if self._size < before.size:
                ahead = count(before.size - self._size, "entry")
                return f"ends where the members cosigned, {ahead} before what was seen here on {date(before.seen_ms)}"
            case Standing.CONSISTENT:
                return f"continues the {count(before.size, 'entry')} seen here on {date(before.seen_ms)}"
            case Standing.SHRUNK:
                return f"ROLLED BACK: {count(before.size, 'entry')} were seen here on {date(before.seen_ms)}"
            case _:
                return f"REPLACED: not the {count(before.size, 'entry')} seen here on {date(before.seen_ms)}"

    def plain(self) -> dict[str, object]:
        """Return the same for programs."""
        before = None if self.before is None else {"size": self.before.size, "seen_ms": self.before.seen_ms}
        return {"standing": self.standing.value, "before": before, "namesakes": self.namesakes}


class Memory:
    """The file. Several commands may use it at once: who writes holds a lock, reads again, and replaces it whole."""

    def __init__(self, path: Path | None) -> None:
        self.path = path

    def load(self) -> dict[str, Seen]:
        """Return what is remembered, by ledger id in hexadecimal digits. Raises `UsageError` when it cannot be read."""
        if self.path is None:
            return {}
        try:
            with self.path.open("rb") as file:
                data = file.read(FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return {}
        except OSError as error:
            raise self._unreadable(str(error.strerror)) from None
        return self._parsed(data)

    def remember(self, ledger_id: str, seen: Seen) -> None:
        """Remember a ledger, unless more of it is remembered already. Raises `StoreError`."""

        def grow(known: dict[str, Seen]) -> bool:
            before = known.get(ledger_id)
            if before is not None and (
                before.size > seen.size or (before.size == seen.size and before.root != seen.root)
            ):
                return False
            if before is not None and before.cosigned_size > seen.cosigned_size:
                cosigned = before.cosigned_size, before.cosigned_root
                known[ledger_id] = replace(seen, cosigned_size=cosigned[0], cosigned_root=cosigned[1])
            else:
                known[ledger_id] = seen
            return True

        self._change(grow)

    def forget(self, ledger_ids: list[str]) -> None:
        """Forget ledgers. Raises `StoreError`."""

        def shrink(known: dict[str, Seen]) -> bool:
            for ledger_id in ledger_ids:
                known.pop(ledger_id, None)
            return True

        self._change(shrink)

    def _change(self, change: Callable[[dict[str, Seen]], bool]) -> None:
        if self.path is None:
            return
        with self._locked(self.path):
            known = self.load()
            if change(known):
                ledgers = {ledger_id: asdict(seen) for ledger_id, seen in sorted(known.items())}
                text = json.dumps({"schema": SCHEMA, "ledgers": ledgers}, indent=1)
                write_file_durably(self.path, text.encode() + b"\n")

    @contextmanager
    def _locked(self, path: Path) -> Iterator[None]:
        """Hold the lock, on a file of its own: the one it protects is replaced each time."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            descriptor = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"couldn't write {path}: {error.strerror}") from None
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _parsed(self, data: bytes) -> dict[str, Seen]:
        try:
            if len(data) > FILE_BYTES_MAX:
                raise ValueError("it is too large")
            plain = json.loads(data)
            if plain["schema"] != SCHEMA:
                raise ValueError(f"it is not of schema {SCHEMA}")
            return {str(ledger_id): _seen(row) for ledger_id, row in plain["ledgers"].items()}
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise self._unreadable("it is not what this program writes") from None

    def _unreadable(self, why: str) -> UsageError:
        return UsageError(
            f"couldn't read what was seen of ledgers in {self.path}: {why}",
            hint="restore the file, or move it away and look at every ledger as if for the first time",
        )


def _seen(row: Mapping[str, object]) -> Seen:
    numbers = {name: row[name] for name in ("height", "size", "time_ms", "seen_ms")}
    numbers["cosigned_size"] = row.get("cosigned_size", 0)  # Files written before there was one are still true.
    if not all(isinstance(value, int) and 0 <= value < 2**53 for value in numbers.values()):
        raise ValueError("a number is out of range")
    words = {"name": str(row["name"]), "root": str(row["root"]), "cosigned_root": str(row.get("cosigned_root", ""))}
    return Seen(**words, **{name: int(str(v)) for name, v in numbers.items()})  # type: ignore[arg-type]  # by name


def memory_at(path: Path | None, environment: Mapping[str, str] | None = None) -> Memory:
    """Return what is remembered in a file, by default the user's own. Of an empty name, nothing is ever remembered."""
    environment = os.environ if environment is None else environment
    if path is not None:
        return Memory(path if str(path) != "." else None)
    if environment.get("SWARM_TRUST") == "":
        return Memory(None)
    state = environment.get("XDG_STATE_HOME", "")
    try:
        folder = Path(state) if Path(state).is_absolute() else Path.home() / ".local" / "state"
    except RuntimeError:  # There is no home.
        return Memory(None)
    return Memory(folder / "swarm" / "trust.json")


# --- commands -----------------------------------------------------------------------------------------------------


@click.group()
def trust() -> None:
    """Show, or forget, what was seen of ledgers before: `status` and `verify` compare with it."""


@trust.command("show", epilog="Example: swarm ledger trust show")
@TRUST
@listed()
def show_(trust_path: Path | None, *, form: Form) -> None:
    """List the ledgers that were seen, and how far each went."""
    memory = memory_at(trust_path)
    known = memory.load()
    rows = (({"ledger_id": id_, **asdict(seen)}, _line(id_, seen)) for id_, seen in known.items())
    emit_rows(
        "ledgers",
        rows,
        form=form,
        head=[f"remembered in {memory.path}"],
        none="nothing is remembered: no ledger was verified here yet",
        rest={"path": None if memory.path is None else str(memory.path)},
    )


def _line(id_: str, seen: Seen) -> str:
    size = count(seen.size, "entry")
    return f"  {id_[:16]}  {seen.name:<20} {size:>14}, block {seen.height:<6} {date(seen.seen_ms)}"


@trust.command(epilog="Example: swarm ledger trust reset oncology-net")
@click.argument("which", required=False)
@click.option("--all", "everything", is_flag=True, help="Forget every ledger.")
@TRUST
@shown
def reset(which: str | None, trust_path: Path | None, *, everything: bool, as_json: bool) -> None:
    """Forget a ledger: WHICH is its name, or six or more hexadecimal digits of its id."""
    if (which is None) != everything:
        raise UsageError("couldn't reset: name one ledger, or say --all", hint="`swarm ledger trust show` lists them")
    memory = memory_at(trust_path)
    known = memory.load()
    found = [*known] if which is None else [_meant(known, which)]
    memory.forget(found)
    text = f"forgot {count(len(found), 'ledger')}: next time each counts as new"
    emit({"forgotten": found}, as_json=as_json, text=text)


def _meant(known: Mapping[str, Seen], which: str) -> str:
    """Return the id of the ledger that is meant, by its name or its id. Two ledgers may have one name."""
    search = Search[str](which)
    for id_, seen in known.items():
        label = f"{id_[:12]} ({seen.name})"
        if seen.name == which:
            search.matches.append((label, id_))
        else:
            search.offer(LEDGER, None, id_, label, id_)
    missing = f"couldn't forget {which!r}: no ledger is remembered as that"
    return search.found(missing, "`swarm ledger trust show` lists them")
