"""The members' cosignatures on the head of their log: gathered until a quorum vouches for one, then published.

A finalize certificate convinces whoever knows this ledger; a cosigned checkpoint convinces every verifier of
transparency logs. So each member signs, with a key of its own for this, the size and root of blocks that are final and
durable here, and tells the others. It says what cosignature/v1 says: this is the largest tree that I know.

All members must pick the same blocks, or no quorum comes together. They sign the block that commits a round, at most
one in each stretch of *block time*, which is the same for all; and whatever the log's head is once it has not grown for
a while. A checkpoint of a busy log may therefore be a few seconds old, and that of a quiet one is its end.

Two roots for one size, signed by one member or by a member and this one's own final block, cannot both be of this log.
They are reported and never published.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from swarm import identity
from swarm.errors import Reject
from swarm.ledger import note as n
from swarm.ledger.merkle import HASH_BYTES, SIZE_MAX
from swarm.ledger.tlog import Checkpoint, cosigner_key, log_key

STRETCH_MS = 5_000
"""Of the blocks dated within this time that commit a round, the first is cosigned."""

IDLE_S = 3.0
"""A log that has not grown for this long is cosigned at its head."""

GAP_S = 1.0
"""Least time between two cosignatures of one member, however block time goes."""

REMIND_S = 5.0
REMIND_S_MAX = 320.0
"""While cosignatures of the head are missing, a neighbour is told those that are here: first after, and at most."""

SIZES_KEPT = 4
"""Sizes of which a member's cosignatures are kept, the newest ones: a liar fills its own places only."""

ROOTS_KEPT = 256
"""Final blocks whose roots are remembered: a cosignature about an older one comes too late to be published."""

LINES_MAX = n.SIGNATURES_MAX - 1
"""Most cosignatures in a published checkpoint; one more line is the log's."""


class Cosignature(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member's cosignature of a checkpoint. `key` is its public cosigning key, `time_s` seconds of Unix time."""

    size: int
    root: bytes
    time_s: int
    key: bytes
    signature: bytes


@dataclass(frozen=True, slots=True)
class Contradiction:
    """A member has cosigned `root` for a size that has another root: by its own word, or in this site's ledger."""

    member: str
    size: int
    root: bytes
    other: bytes
    itself: bool

    @property
    def text(self) -> str:
        """What happened, in a sentence."""
        whose = "it cosigned another" if self.itself else "this site's ledger has another"
        return f"{self.member} cosigned root {self.root.hex()[:12]} for {self.size} entries, and {whose}"


class Cosigners:
    """The cosignatures that this site knows of. Pure: times come in, what to say and to publish is asked for.

    `log` is the log's name (`swarm.ledger.tlog.origin`). Before the first `update` there are no members.
    """

    def __init__(self, *, log: str, key: identity.SigningKey, verify: identity.Verify = identity.verify) -> None:
        self._log, self._verify = log, verify
        self._held: dict[bytes, dict[int, Cosignature]] = {}
        self._roots: dict[int, bytes] = {}  # of final blocks, oldest first
        self._head = self._signed = self._chosen = 0  # sizes
        self._stretch = -1
        self._grew_at = self._signed_at = 0.0
        self._remind_s, self._remind_at = REMIND_S, 0.0
        self._published = (0, 0)  # size, and number of cosignatures
        self._changed = True  # since `publish` was asked last
        self._complete: bool | None = None  # whether all have signed what this site has, if that is known
        self._contradictions: list[Contradiction] = []
        self._accused: set[str] = set()
        self._members: dict[bytes, str] = {}
        self.update(key, (), 1)

    def update(self, key: identity.SigningKey, members: Sequence[tuple[str, bytes]], quorum: int) -> None:
        """Follow a change of members: only those of today vouch for a checkpoint.

        `key` is this site's own cosigning key; `members` are pairs of name and public cosigning key, in member order;
        `quorum` of them vouch.
        """
        self._key, self._quorum = key, quorum
        self._members = {public: name for name, public in members}
        self._held = {public: self._held.get(public, {}) for public in self._members}
        self._touch()

    # --- this site's own ----------------------------------------------------------------------------------------

    def final(self, size: int, root: bytes, *, time_ms: int, commits: bool, now: float) -> None:
        """Take note that the block which makes the log `size` entries long is final here, and durable.

        `time_ms` is the block's time; `commits` says whether it commits a round.
        """
        self._touch()
        self._roots[size] = root
        if len(self._roots) > ROOTS_KEPT:
            del self._roots[next(iter(self._roots))]
        grown, self._head, self._grew_at = size > self._head, size, now
        if grown:
            self._remind_s, self._remind_at = REMIND_S, now + REMIND_S
        if commits and time_ms // STRETCH_MS > self._stretch:
            self._stretch, self._chosen = time_ms // STRETCH_MS, size
        for held in self._held.values():
            if size in held:
                self._compare(held[size])

    def sign(self, now: float) -> Cosignature | None:
        """Return this site's cosignature of the log's head, if it is time for one. It is to be told to everybody."""
        due = self._due()
        if due is None or now < due:
            return None
        self._signed, self._signed_at = self._head, now
        time_s, root = int(now), self._roots[self._head]
        message = n.cosigned(self._text(self._head), time_s)
        made = Cosignature(self._head, root, time_s, self._key.public, self._key.sign(message))
        self._keep(made)
        return made

    def next_wake(self) -> float | None:
        """Return when `sign` or `remind` may have something to say; None while only others can change that."""
        times = [time for time in (self._due(), self._reminder()) if time is not None]
        return min(times, default=None)

    def _due(self) -> float | None:
        """Return when the head is to be signed."""
        if self._head <= self._signed or self._key.public not in self._members:
            return None
        return max(self._signed_at + GAP_S, 0.0 if self._chosen == self._head else self._grew_at + IDLE_S)

    # --- everybody's --------------------------------------------------------------------------------------------

    def admit(self, cosignature: Cosignature) -> bool:
        """Take in what a member has signed. Return whether it is new and worth passing on.

        Raises:
            Reject: it is out of range, or the signature is not the member's.
        """
        c = cosignature
        if not (0 < c.size <= SIZE_MAX and 0 <= c.time_s <= n.TIME_S_MAX and len(c.root) == HASH_BYTES):
            raise Reject("couldn't accept a cosignature: its size, root or time is out of range")
        held = self._held.get(c.key)
        if held is None:
            return False  # Of somebody who is no member any more, or not one yet.
        known = held.get(c.size)
        if (known is not None and known.root == c.root) or (known is None and not self._timely(held, c.size)):
            return False
        text = Checkpoint(self._log, c.size, c.root).encode()
        identity.require(c.key, n.cosigned(text, c.time_s), c.signature, "a cosignature", self._verify)
        if known is not None:
            return self._contradict(c, known.root, itself=True)  # The others are to see both, once.
        self._keep(c)
        self._compare(c)
        return True

    def held(self) -> list[Cosignature]:
        """Return the cosignatures of the newest size that this site has signed, in member order."""
        return self._of(self._signed)

    def remind(self, now: float) -> list[Cosignature]:
        """Return, now and then while the head's are not complete, those to tell one neighbour again."""
        due = self._reminder()
        if due is None or now < due:
            return []
        self._remind_s = min(2 * self._remind_s, REMIND_S_MAX)
        self._remind_at = now + self._remind_s
        return self.held()

    def _reminder(self) -> float | None:
        if self._complete is None:
            self._complete = len(self._of(self._signed)) == len(self._members)
        return None if self._signed == 0 or self._complete else self._remind_at

    def contradictions(self) -> list[Contradiction]:
        """Return what has been found since the last call, at most one a member."""
        found, self._contradictions = self._contradictions, []
        return found

    def published(self) -> bytes | None:
        """Return the newest checkpoint that a quorum has cosigned, as a note, or None while there is none.

        It carries this site's line for the log, and the cosignatures in member order.
        """
        size, cosignatures = self._newest()
        return self._note(size, cosignatures) if cosignatures else None

    def publish(self) -> bytes | None:
        """Return `published` if it should be written now: it is of a newer size, or has become complete."""
        if not self._changed:
            return None
        self._changed = False
        last, count = self._published
        size, cosignatures = self._newest(last)
        if size > last or (size == last and count < len(cosignatures) == len(self._members)):
            self._published = (size, len(cosignatures))
            return self._note(size, cosignatures)
        return None

    def _newest(self, least: int = 0) -> tuple[int, list[Cosignature]]:
        for size in reversed(self._roots):
            if size < least:
                break
            found = self._of(size)
            if len(found) >= self._quorum:
                return size, found
        return 0, []

    def _note(self, size: int, cosignatures: Sequence[Cosignature]) -> bytes:
        text = self._text(size)
        lines = [n.sign(log_key(self._log, self._key.public), text, self._key.sign)]
        for c in cosignatures[:LINES_MAX]:
            key = cosigner_key(self._log, self._members[c.key], c.key)
            lines.append(n.cosignature_line(key, c.time_s, c.signature))
        return n.Note(text, tuple(lines)).encode()

    def _text(self, size: int) -> str:
        return Checkpoint(self._log, size, self._roots[size]).encode()

    def _of(self, size: int) -> list[Cosignature]:
        """Return the cosignatures of the final block of this size, in member order."""
        root = self._roots.get(size)
        found = (held.get(size) for held in self._held.values())
        return [c for c in found if c is not None and c.root == root]

    def _timely(self, held: dict[int, Cosignature], size: int) -> bool:
        return len(held) < SIZES_KEPT or size > min(held)

    def _touch(self) -> None:
        """What is known of cosignatures is about to change: what followed from it is to be worked out again."""
        self._changed, self._complete = True, None

    def _keep(self, cosignature: Cosignature) -> None:
        self._touch()
        held = self._held[cosignature.key]
        held[cosignature.size] = cosignature
        if len(held) > SIZES_KEPT:
            del held[min(held)]

    def _compare(self, cosignature: Cosignature) -> None:
        """Compare with this site's own ledger, as far as it reaches and is remembered."""
        root = self._roots.get(cosignature.size)
        if root is not None and root != cosignature.root:
            self._contradict(cosignature, root, itself=False)

    def _contradict(self, cosignature: Cosignature, other: bytes, *, itself: bool) -> bool:
        """Put it down, unless the member is known for it already. Return whether it is news."""
        member = self._members[cosignature.key]
        if member in self._accused:
            return False
        self._accused.add(member)
        self._contradictions.append(Contradiction(member, cosignature.size, cosignature.root, other, itself))
        return True
