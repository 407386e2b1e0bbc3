"""Every file of a site's ledger but the blocks: what it should hold, and where it does not.

`verify` follows the blocks, and hands on what it comes by; the rest is looked at here. Three kinds of file lie beside
the blocks. Logs of this site's own, its votes and its feed, exist once: damage there ends with 3. Proofs of a fork are
evidence: damaged, they end with 3, whole, with 4. What the node makes again by itself, checkpoint and snapshot, is told
and costs nothing, unless a quorum has really signed another history.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from node.cli.ledger.published import claimed_size, compare, first_bad, open_head
from node.cli.ledger.sources import Files, Source
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, OK, Failure, count
from node.storage import RealDisk
from swarm import codec, identity
from swarm.charter import to_toml
from swarm.errors import Reject
from swarm.ledger import snapshot, tlog
from swarm.ledger.audit import Audit
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock, Header, propose_message
from swarm.ledger.forks import find_fork
from swarm.ledger.journal import BLOCKS, FEED, WAL, Finding, scan
from swarm.ledger.merkle import Frontier
from swarm.ledger.state import State
from swarm.ledger.tiles import CHECKPOINT
from swarm.terms import Terms

PROOF_BYTES_MAX = 256 << 20
"""Longest proof of a fork that is read."""

SNAPSHOT, QUARANTINE, PROOFS, BALLAST = "snapshot", "quarantine", "fork-*", "ballast"

_LOG_WORDS = {WAL: "votes", FEED: "own entries"}
_LOG_UNIT = {WAL: "view", FEED: "entry"}
_LOG_COST = {
    WAL: "what this site voted may be forgotten, and voting without it could fork the ledger",
    FEED: "entries of this site that are in no block yet may be lost; those in blocks are safe",
}
_LOG_MENDING = {
    WAL: "stop the node; restore the ledger folder from a backup, or rejoin with new keys",
    FEED: "stop the node; restore the ledger folder from a backup, and check the disk",
}
_PROOF_AGAIN = "keep it, and ask another member for its copy: the proof is the same there"


@dataclass(frozen=True, slots=True)
class Remark:
    """What is to be said of a file. `code` is 0 unless it makes `verify` fail; then `hint` says how to mend it.

    `path` is relative to the site's folder, `offset` in bytes, `height` a block's, `record` counts from 1; None where
    there is no such thing.
    """

    mark: str
    what: str
    text: str
    path: str = ""
    offset: int | None = None
    record: int | None = None
    height: int | None = None
    code: int = OK
    hint: str = ""

    @property
    def place(self) -> str:
        """Where it is, in words."""
        parts = [self.path + (f" at byte {self.offset}" if self.offset is not None else "")]
        parts += [f"record {self.record}"] if self.record is not None else []
        parts += [f"block {self.height}"] if self.height is not None else []
        return ", ".join(part for part in parts if part)

    @property
    def line(self) -> str:
        """The line for people."""
        return f"{self.mark} {self.what:<13} {self.place}{': ' if self.place else ''}{self.text}"

    @property
    def failure(self) -> Failure:
        """The error by which `verify` ends for it."""
        return Failure(f"{self.place}: {self.text}", code=self.code, hint=self.hint)

    def plain(self) -> dict[str, object]:
        """Return the same for programs."""
        return {
            "path": self.path,
            "offset": self.offset,
            "record": self.record,
            "height": self.height,
            "text": self.text,
        }


class Beside:
    """What lies beside the blocks of a ledger: read before them, judged after them.

    A node that runs writes blocks first and then what follows from them, so that whatever is here already is
    in the blocks that are read afterwards.
    """

    def __init__(self, files: Source) -> None:
        self._files = files
        self._ledger = files.site.ledger if isinstance(files, Files) else None
        self._checkpoint = files.checkpoint()
        self.cosigned: tlog.Checkpoint | None = None  # what a quorum has cosigned, once it was found to be the ledger's
        self._size = claimed_size(self._checkpoint)
        self._root: bytes | None = None
        self._snapshot = _bytes_of(None if self._ledger is None else self._ledger / SNAPSHOT)
        self._state, self._state_wrong = self._opened(self._snapshot)
        self._differs: int | None = None
        self._proofs = [_Proof.read(path) for path in sorted(self._ledger.glob(PROOFS))] if self._ledger else []
        wanted = {height for proof in self._proofs for height in proof.heights}
        if self._snapshot is not None:
            wanted |= {_height(self._snapshot), self._state.height if self._state else 0}
        files.wanted = frozenset(wanted)

    def see(self, frontier: Frontier) -> None:
        """Take in the tree as it is after a block."""
        if frontier.size == self._size:
            self._root = frontier.root()

    def see_audit(self, audit: Audit) -> None:
        """Take in an audit as it is after a block."""
        if audit.failure is None:
            self.see(audit.state.frontier)
            if self._snapshot is not None and audit.state.height == _height(self._snapshot):
                self._differs = _first_difference(self._snapshot[8:], audit.state.encode())

    def remarks(self, epochs: Sequence[Terms], entries: int) -> list[Remark]:
        """Return what there is to say, once the blocks were followed: `epochs` newest first, `entries` their number."""
        found: list[Remark] = []
        if isinstance(self._files, Files):
            found += _charter(self._files)
            for log in (WAL, FEED):
                found += _log(self._files, log)
        if self._checkpoint is not None:
            found.append(self._judge_checkpoint(self._checkpoint, epochs, entries))
        if self._snapshot is not None:
            found.append(self._judge_snapshot(self._snapshot))
        terms = {each.epoch: each for each in epochs}
        found += [proof.judge(self._files, terms) for proof in self._proofs]
        return found + (list(_others(self._files)) if isinstance(self._files, Files) else [])

    def _judge_checkpoint(self, data: bytes, epochs: Sequence[Terms], entries: int) -> Remark:
        signed = self._files.signed
        name = tlog.origin(signed.charter.name, signed.ledger_id)
        path = _relative(self._files, self._files.checkpoint_at)
        inside = self._ledger is not None
        bad = first_bad(data, name, epochs)
        try:
            head = open_head(path, data, name, epochs)
            compare(head, entries, self._root)
        except Failure as failure:
            if failure.code == INVALID:
                return _derived("checkpoint", path, bad, failure.message.removeprefix(f"{path}: "), again=inside)
            told = failure.code == INCOMPLETE and self._files.torn is not None  # That is why, and it is told already.
            mark = "✘" if failure.code == CONTRADICTION else "!"
            code = OK if told else failure.code
            return Remark(mark, "checkpoint", failure.message, path, code=code, hint=failure.hint)
        if bad is not None:
            return _derived("checkpoint", path, bad, "this signature is no member's", again=inside)
        self.cosigned = head.checkpoint
        of = f"{len(head.cosigners)} of {len(epochs[0].members)}"
        return Remark("✔", "checkpoint", f"of {count(head.checkpoint.size, 'entry')}, cosigned by {of} members")

    def _judge_snapshot(self, data: bytes) -> Remark:
        path, height, kept = f"ledger/{SNAPSHOT}", _height(data), self._files.kept
        digest = snapshot.digest(data[8:])
        if _state_hash(kept.get(height)) == digest:
            return Remark("✔", "snapshot", f"the state after block {height}")
        inner = self._state.height if self._state is not None else 0
        if _state_hash(kept.get(inner)) == digest:
            text = f"it says that it follows block {height}, and is the state after block {inner}"
            return _derived("snapshot", path, 0, text, again=True)
        at = 0 if height not in kept else 8 + (self._differs or 0)
        why = self._state_wrong or ("there is no such block" if height not in kept else "it is not the state there")
        return _derived("snapshot", path, at, f"made after block {height}: {why}", again=True)

    def _opened(self, data: bytes | None) -> tuple[State | None, str]:
        """Return the state in a snapshot, or what is wrong with it."""
        if data is None or not data:
            return None, "" if data is None else "it is empty"
        try:
            return snapshot.decode(data[8:], State, self._files.signed), ""
        except Reject as reason:
            return None, reason.message


def _derived(what: str, path: str, offset: int | None, text: str, *, again: bool) -> Remark:
    """A file that follows from the ledger. In a bundle or a directory of tiles nobody makes it again."""
    if again:
        return Remark("!", what, f"{text}; it is made again by the node, and nothing is lost", path, offset)
    hint = "have it made and sent again"
    return Remark("✘", what, text, path, offset, code=INVALID, hint=hint)


# --- the logs of this site ----------------------------------------------------------------------------------------


def _log(files: Files, log: str) -> Iterator[Remark]:
    """Read a log of this site's own, from end to end."""
    disk = RealDisk(files.site.ledger)
    records, whole = 0, True
    within: dict[str, int] = {}
    try:
        for part in scan(disk, log, files.signed.ledger_id):
            if isinstance(part, Finding):
                whole = False
                yield _finding(part, within.get(part.path, 0) + 1 if part.offset else None)
            else:
                records += 1
                within[part.path] = within.get(part.path, 0) + 1
    finally:
        disk.close()
    if whole and records:
        yield Remark("✔", _LOG_WORDS[log], f"{count(records, 'record')} of this site's own, all whole")


def _finding(found: Finding, record: int | None) -> Remark:
    path, log = f"ledger/{found.path}", found.log
    if found.verdict != "corruption":
        text = f"{found.length} bytes cannot be read: {found.text}, and the node cuts it off when it starts"
        return Remark("!", "torn end", text, path, found.offset, record)
    after = f" (after {_LOG_UNIT[log]} {found.height})" if found.height else ""
    text = f"{found.text}{after}; the disk is damaged: {_LOG_COST[log]}"
    return Remark("✘", _LOG_WORDS[log], text, path, found.offset, record, code=INVALID, hint=_LOG_MENDING[log])


# --- proofs of forks ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Proof:
    """A file with another history: its blocks, and what is wrong if they cannot be read."""

    path: Path
    blocks: tuple[FinalBlock, ...]
    wrong: str

    @classmethod
    def read(cls, path: Path) -> _Proof:
        data = _bytes_of(path) or b""
        try:
            return cls(path, codec.decode(data, tuple[FinalBlock, ...], limit=PROOF_BYTES_MAX), "")
        except Reject as reason:
            return cls(path, (), reason.message)

    @property
    def heights(self) -> Iterator[int]:
        """The heights of its blocks, as far as they can be read."""
        for final in self.blocks:
            try:
                yield Header.decode(final.block.header).height
            except Reject:
                return

    def judge(self, files: Source, terms: Mapping[int, Terms]) -> Remark:
        """Check every signature in it, and whether it shows another history than ours."""
        path = f"ledger/{self.path.name}"
        if self.wrong:
            return self._broken(path, 0, None, self.wrong)
        offset = 1 if len(self.blocks) < 16 else 3 if len(self.blocks) < 1 << 16 else 5
        height: int | None = None
        try:
            for final in self.blocks:
                height = None
                header = Header.decode(final.block.header)
                height = header.height
                _check_proposer(final, header, files.signed.ledger_id, terms.get(header.epoch))
                offset += len(codec.encode(final))
            height, offset = None, 0
            headers = {at: Header.decode(_final(payload).block.header) for at, payload in files.kept.items()}
            finals = {at: (header.hash, header.epoch) for at, header in headers.items()}
            fork = find_fork(
                self.blocks, finals.get, ledger_id=files.signed.ledger_id, terms_of=lambda epoch: terms.get(epoch)
            )
        except Reject as reason:
            return self._broken(path, offset, height, reason.message)
        if fork is None or self.path.name != f"fork-{fork.height:08d}":
            return self._broken(path, 0, None, "it proves no fork of this ledger there")
        text = "another history, certified by a quorum too: the ledger has forked"
        hint = "see who signed both: `swarm ledger forks`; found a successor without them"
        return Remark("✘", "fork", text, path, height=fork.height, code=CONTRADICTION, hint=hint)

    def _broken(self, path: str, offset: int, height: int | None, why: str) -> Remark:
        text = f"this proof of a fork is damaged: {why}"
        return Remark("✘", "fork", text, path, offset, height=height, code=INVALID, hint=_PROOF_AGAIN)


def _check_proposer(final: FinalBlock, header: Header, ledger_id: bytes, terms: Terms | None) -> None:
    """Raise `Reject` unless a block of a proof is whole, is its proposer's, and its certificate holds."""
    final.block.opened()
    if terms is None:
        raise Reject(f"it is of epoch {header.epoch}, which this ledger does not know")
    final.check(header, ledger_id, terms.vote_keys, terms.quorum)
    block, keys = final.block, terms.vote_keys
    signer = keys[block.proposer] if 0 <= block.proposer < len(keys) else None
    if signer is None or not identity.verify(signer, propose_message(ledger_id, block.header), block.signature):
        raise Reject("its proposer's signature does not verify")


# --- charter, and what else is there ------------------------------------------------------------------------------


def _charter(files: Files) -> Iterator[Remark]:
    """The charter holds, or there would be no ledger; but a file may say the same in other bytes."""
    at = _first_difference(files.charter.read_bytes(), to_toml(files.signed).encode())
    if at is not None:
        text = "not as this program writes it, though what it says is signed by all"
        yield Remark("-", "charter", text, files.charter.name, at)


def _others(files: Files) -> Iterator[Remark]:
    """Name what lies in the folder of the ledger and belongs to none."""
    ledger = files.site.ledger
    known = {BLOCKS, WAL, FEED, CHECKPOINT, SNAPSHOT, QUARANTINE, BALLAST, *(path.name for path in ledger.glob(PROOFS))}
    strange = [path for path in ledger.iterdir() if path.name not in known]
    strange += [path for log in (BLOCKS, WAL, FEED) for path in (ledger / log).glob("*") if path.suffix != ".seg"]
    for path in sorted(strange):
        yield Remark("-", "not looked at", "no file of a ledger", f"ledger/{path.relative_to(ledger)}")


def _relative(files: Source, path: str) -> str:
    return f"ledger/{Path(path).name}" if isinstance(files, Files) else path


def _bytes_of(path: Path | None) -> bytes | None:
    """Return a file's bytes, as far as they may reach; None where there is no file. Raises `OSError`."""
    if path is None or not path.is_file():
        return None
    with path.open("rb") as file:
        # Python makes room for as many bytes as are asked for, before it looks at how many there are.
        return file.read(min(path.stat().st_size, PROOF_BYTES_MAX) + 1)


def _height(data: bytes) -> int:
    return int.from_bytes(data[:8], "big")


def _final(payload: bytes) -> FinalBlock:
    return codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX)


def _state_hash(payload: bytes | None) -> bytes | None:
    return None if payload is None else Header.decode(_final(payload).block.header).state_hash


def _first_difference(one: bytes, other: bytes) -> int | None:
    if one == other:
        return None
    pairs = zip(one, other, strict=False)
    return next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
