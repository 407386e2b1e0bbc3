"""The ledger in the words of transparency logs, so that tools that know nothing of it can check it.

Four texts of c2sp.org, each a value here that is read strictly and written in one way: the *checkpoint* says the size
and root of the tree; a *tlog-proof* shows that an entry is in it, a *consistency proof* (the body of tlog-witness's
add-checkpoint) that it extends an earlier one; a *tlog-policy* names whose signatures a checkpoint needs. A swarm's
policy asks for cosignatures of the quorum by which the members agree on blocks, so an ordinary verifier enforces what
the members enforce, without a notion of blocks or votes.

The log's name is `<swarm>/<first sixteen hex digits of the ledger's id>`: a URL without a scheme, as recommended, whose
end nobody can take without finding a collision of the hash. A member signs as `<log>/<member>`.

This module knows what these texts mean and nothing about how the ledger comes about; the tiles that hold the tree
itself are in `swarm.ledger.tiles`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from swarm.errors import LedgerError, Reject
from swarm.ledger import note as n
from swarm.ledger.merkle import HASH_BYTES, SIZE_MAX, inclusion_ranges, node_hash, verify_consistency, verify_inclusion

ORIGIN_DIGITS = 16

PATH_MAX = 63
"""Most hashes of a proof: there are no trees of more than 2**63 leaves."""

EXTRA_BYTES_MAX = 45_000
"""Most bytes written beside a proof: readers made with Go's line scanner stop at lines of 64 KiB."""

COSIGNED_MEMBERS_MAX = 148
"""Largest swarm whose quorum of 99 and a log's line make up the 100 lines that every verifier reads."""

POLICY_BYTES_MAX = 1_000_000

_PROOF_HEADER = "c2sp.org/tlog-proof@v1"
_NONE = "none"
_QUORUM = "members"


def origin(swarm: str, ledger_id: bytes) -> str:
    """Return the log's name, the first line of its checkpoints."""
    return f"{swarm}/{ledger_id.hex()[:ORIGIN_DIGITS]}"


def log_key(log: str, cosign_key: bytes) -> n.Key:
    """Return the key under which a member signs for the log: the log's name, and the member's key."""
    return n.Key.of(log, n.ED25519, cosign_key)


def cosigner_key(log: str, member: str, cosign_key: bytes) -> n.Key:
    """Return the key under which a member cosigns."""
    return n.Key.of(f"{log}/{member}", n.COSIGNATURE, cosign_key)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """The head of a log: its name, its number of leaves, and their 32-byte root (c2sp.org/tlog-checkpoint)."""

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    def encode(self) -> str:
        """Return the text that is signed."""
        lines = (self.origin, str(self.size), n.to_base64(self.root), *self.extensions)
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def decode(cls, text: str) -> Checkpoint:
        """Return the checkpoint that a note's text is. Raises `Reject` when it is none."""
        lines = text.split("\n")
        if len(lines) < 4 or lines.pop() or not all(lines):
            raise _unreadable("a checkpoint", "it is not three or more lines, none of them empty")
        size = n.from_decimal(lines[1], "a checkpoint's size", SIZE_MAX)
        return cls(lines[0], size, _hash(lines[2], "a checkpoint's root"), tuple(lines[3:]))


@dataclass(frozen=True, slots=True)
class Proof:
    """That an entry is leaf `index` of the tree under a checkpoint (c2sp.org/tlog-proof, version 1).

    `path` runs from the leaf's sibling to the root's child; `note` is the checkpoint as published; `extra` is not
    covered by any signature: a ledger puts the entry there, which the proof itself then shows to be the right one.
    """

    index: int
    path: tuple[bytes, ...]
    note: bytes
    extra: bytes = b""

    def encode(self) -> bytes:
        """Return the proof's text."""
        extra = (f"extra {n.to_base64(self.extra)}",) if self.extra else ()
        lines = (_PROOF_HEADER, *extra, f"index {self.index}", *map(n.to_base64, self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.note

    @classmethod
    def decode(cls, data: bytes) -> Proof:
        """Return the proof in a text. Raises `Reject` unless it is written exactly as the specification says."""
        what = "the proof"
        head, note = _split(data, what)
        if not head or head.pop(0) != _PROOF_HEADER:
            raise _unreadable(what, f"it does not begin with {_PROOF_HEADER}")
        extra = n.from_base64(head.pop(0)[6:], what) if head and head[0].startswith("extra ") else b""
        if not head or not head[0].startswith("index "):
            raise _unreadable(what, "it does not say which entry it is about")
        index = n.from_decimal(head.pop(0)[6:], "the proof's index", SIZE_MAX)
        return cls(index, _path(head, what), note, extra)

    def verify(self, leaf: bytes, checkpoint: Checkpoint) -> None:
        """Check that the leaf with hash `leaf` is where the proof says. Raises `LedgerError` when it is not."""
        verify_inclusion(leaf, self.index, checkpoint.size, self.path, checkpoint.root)


@dataclass(frozen=True, slots=True)
class Consistency:
    """That the tree of `old` leaves is a prefix of the one under a checkpoint (the body of tlog-witness's requests)."""

    old: int
    path: tuple[bytes, ...]
    note: bytes

    def encode(self) -> bytes:
        """Return the proof's text."""
        lines = (f"old {self.old}", *map(n.to_base64, self.path), "")
        return "".join(f"{line}\n" for line in lines).encode() + self.note

    @classmethod
    def decode(cls, data: bytes) -> Consistency:
        """Return the proof in a text. Raises `Reject` unless it is written exactly as the specification says."""
        what = "the consistency proof"
        head, note = _split(data, what)
        if not head or not head[0].startswith("old "):
            raise _unreadable(what, "it does not say which size it begins at")
        old = n.from_decimal(head.pop(0)[4:], "the old size", SIZE_MAX)
        return cls(old, _path(head, what), note)

    def verify(self, old_root: bytes, checkpoint: Checkpoint) -> None:
        """Check that the log has only grown. Raises `LedgerError` when the proof does not show it."""
        verify_consistency(self.old, checkpoint.size, old_root, checkpoint.root, self.path)


@dataclass(frozen=True, slots=True)
class Step:
    """One hash of an audit path: the neighbour, on which side it stands, and what comes out."""

    side: str
    sibling: bytes
    result: bytes


def steps(leaf: bytes, index: int, size: int, path: Sequence[bytes]) -> list[Step]:
    """Return how a path that `verify_inclusion` has passed leads from a leaf's hash to the root."""
    computed, found = leaf, []
    for (start, _), sibling in zip(inclusion_ranges(index, size), path, strict=True):
        left = start <= index
        computed = node_hash(sibling, computed) if left else node_hash(computed, sibling)
        found.append(Step("L" if left else "R", sibling, computed))
    return found


# --- policies ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Group:
    """Cosigners, or groups of them, of which `threshold` are enough."""

    threshold: int
    members: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Endorsed:
    """A checkpoint that a policy accepts: which log's key signed, and who cosigned when, in seconds of Unix time."""

    checkpoint: Checkpoint
    log: n.Key
    cosigners: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Policy:
    """Whose signatures make a checkpoint good (c2sp.org/tlog-policy).

    Names belong to the policy alone. `groups` are in an order in which each names only what comes before it. `quorum`
    names a witness, a group, or "none".
    """

    logs: tuple[n.Key, ...] = ()
    witnesses: Mapping[str, n.Key] = field(default_factory=dict)
    groups: Mapping[str, Group] = field(default_factory=dict)
    quorum: str = _NONE

    def encode(self) -> str:
        """Return the policy as text, logs first."""
        lines = [f"log {key.encode()}" for key in self.logs]
        lines += [f"witness {name} {key.encode()}" for name, key in self.witnesses.items()]
        lines += [f"group {name} {group.threshold} {' '.join(group.members)}" for name, group in self.groups.items()]
        return "".join(f"{line}\n" for line in (*lines, f"quorum {self.quorum}"))

    @classmethod
    def decode(cls, data: bytes) -> Policy:
        """Return the policy in a file. Raises `Reject` naming the line that cannot stand."""
        if len(data) > POLICY_BYTES_MAX:
            raise _unreadable("the policy", f"it has {len(data)} bytes, {POLICY_BYTES_MAX} are possible")
        reader = _PolicyReader()
        # Bytes above 127 are opaque: names are compared as they are written.
        for number, line in enumerate(data.decode(errors="surrogateescape").split("\n"), 1):
            if any((character < " " and character != "\t") or character == "\x7f" for character in line):
                raise _unreadable("the policy", f"line {number} holds control characters")
            words = re.split("[ \t]+", line.strip(" \t"))
            if words[0] and not words[0].startswith("#"):
                try:
                    reader.take(words)
                except Reject as reason:
                    raise _unreadable("the policy", f"line {number}: {reason.message}") from None
        return reader.policy()

    def check(self, note: n.Note) -> Endorsed:
        """Return the checkpoint in a note, with who vouches for it.

        Raises:
            Reject: the note is no checkpoint.
            LedgerError: it is not signed by a log of the policy, a signature is bad, or the quorum is not met.
        """
        checkpoint = Checkpoint.decode(note.text)
        logs = note.signed_by(key for key in self.logs if key.name == checkpoint.origin)
        if not logs:
            raise LedgerError(
                f"couldn't accept the checkpoint of {checkpoint.origin!r}: no log of the policy has signed it",
                hint="use the policy of this ledger: `swarm ledger policy` writes it",
            )
        lines = note.signed_by(self.witnesses.values())
        cosigners = {name: lines[key].time_s for name, key in self.witnesses.items() if key in lines}
        met = set(cosigners)
        for name, group in self.groups.items():
            if sum(member in met for member in group.members) >= group.threshold:
                met.add(name)
        if self.quorum != _NONE and self.quorum not in met:
            group_ = self.groups.get(self.quorum)
            needed = f"{group_.threshold} of {len(group_.members)} needed" if group_ else f"{self.quorum} is needed"
            raise LedgerError(
                f"couldn't accept the checkpoint: {len(cosigners)} of the policy's witnesses cosigned, {needed}",
                hint="get a checkpoint that carries more of the cosignatures",
            )
        return Endorsed(checkpoint, next(iter(logs)), cosigners)


class _PolicyReader:
    """Gathers a policy line by line."""

    def __init__(self) -> None:
        self._logs: list[n.Key] = []
        self._witnesses: dict[str, n.Key] = {}
        self._groups: dict[str, Group] = {}
        self._quorum: str | None = None
        self._grouped: set[str] = set()

    def take(self, words: Sequence[str]) -> None:
        """Take one line. Raises `Reject`."""
        match words:
            case ["log", vkey] | ["log", vkey, _]:
                self._logs.append(self._fresh(n.Key.decode(vkey), self._logs))
            case ["witness", name, vkey] | ["witness", name, vkey, _]:
                self._name(name)
                self._witnesses[name] = self._fresh(n.Key.decode(vkey), self._witnesses.values())
            case ["group", name, threshold, *members] if members:
                self._name(name)
                self._groups[name] = self._group(threshold, tuple(members))
            case ["quorum", name]:
                if self._quorum is not None:
                    raise Reject("a second quorum")
                if name != _NONE and name not in self._witnesses and name not in self._groups:
                    raise Reject(f"no witness or group {name!r} is defined before it")
                self._quorum = name
            case _:
                raise Reject(f"{words[0]!r} is not a line of a policy, or lacks something")

    def policy(self) -> Policy:
        """Return what was gathered. Raises `Reject` when there is no quorum."""
        if self._quorum is None:
            raise _unreadable("the policy", "it has no quorum line")
        return Policy(tuple(self._logs), self._witnesses, self._groups, self._quorum)

    def _name(self, name: str) -> None:
        if name == _NONE or name in self._witnesses or name in self._groups:
            raise Reject(f"the name {name!r} is taken")

    def _group(self, threshold: str, members: tuple[str, ...]) -> Group:
        for member in members:
            if member not in self._witnesses and member not in self._groups:
                raise Reject(f"no witness or group {member!r} is defined before it")
            if member in self._grouped:
                raise Reject(f"{member!r} is in a group already")
            self._grouped.add(member)
        words = {"any": 1, "all": len(members)}
        k = words[threshold] if threshold in words else n.from_decimal(threshold, "a threshold", len(members))
        if not k:
            raise Reject("a group of which nobody is needed")
        return Group(k, members)

    def _fresh(self, key: n.Key, known: Iterable[n.Key]) -> n.Key:
        """Refuse a key that is there already: whoever holds it would count twice, whatever the names say."""
        if any(key.material == other.material for other in known):
            raise Reject("the same key twice")
        return key


def members_policy(log: str, members: Sequence[tuple[str, bytes]], quorum: int) -> Policy:
    """Return the policy of a swarm: every member may sign for the log, and `quorum` of them must have cosigned.

    `members` are pairs of name and cosigning key. Cosigners go by the names on their lines: those hold a "/", so no
    member's name can be "none" or that of the group.
    """
    keys = [cosigner_key(log, name, key) for name, key in members]
    return Policy(
        logs=tuple(log_key(log, key) for _, key in members),
        witnesses={key.name: key for key in keys},
        groups={_QUORUM: Group(quorum, tuple(key.name for key in keys))},
        quorum=_QUORUM,
    )


def _split(data: bytes, what: str) -> tuple[list[str], bytes]:
    """Return the lines before the first empty one, and what follows it."""
    head, found, rest = data.partition(b"\n\n")
    if not found:
        raise _unreadable(what, "no checkpoint follows an empty line")
    return list(n.split_lines(head + b"\n", what)), rest


def _path(lines: Sequence[str], what: str) -> tuple[bytes, ...]:
    if len(lines) > PATH_MAX:
        raise _unreadable(what, f"it has {len(lines)} hashes, {PATH_MAX} are possible")
    return tuple(_hash(line, what) for line in lines)


def _hash(text: str, what: str) -> bytes:
    value = n.from_base64(text, what)
    if len(value) != HASH_BYTES:
        raise _unreadable(what, f"a hash in it is not {HASH_BYTES} bytes long")
    return value


def _unreadable(what: str, why: str) -> Reject:
    return Reject(f"couldn't read {what}: {why}", hint="get it again from where it was published")
