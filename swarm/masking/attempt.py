"""One member's part in one attempt at a masked round, as a value that cannot be talked into anything.

Like a protocol without I/O: its owner tells it what final blocks say and what others have said, and it returns what to
say. It reads no clock and draws nothing: 32 random bytes come in when it is made, and everything follows from them.

Four rules are kept here, whatever the owner is told by whom:

1. *One update under one set of masks.* The difference of two would be the difference of two updates. The digest of the
   masked update is noted before it is named, and no other is let through (`offer`).
2. *One kind of share for one member.* With both, a masked update lies open. What is revealed follows from the first
   close that this member was shown, and is the same every time; of another close it knows nothing (`close`).
3. *The ledger alone says who is in.* A roster and a close are taken from final blocks, once. A second one that differs
   means that the ledger is forked: then nothing more is said at all.
4. *Nothing is said before it is durable.* Whatever a method returns to be said may be said once `to_bytes` of the state
   after it is on the disk. A member that lost its record has lost its keys: it says nothing more in this attempt.

Deals and reveals of others are not in the record. They are on the ledger or in the store, and are taken again.
"""

from __future__ import annotations

import msgspec

from swarm import codec
from swarm.errors import LedgerError, Reject, UsageError
from swarm.machine import Digest, NodeId
from swarm.masking.keys import ROOT_BYTES, Occasion, Secrets, self_seed
from swarm.masking.masks import Mask
from swarm.masking.shamir import SHARE_BYTES
from swarm.masking.statements import (
    HASH_BYTES,
    MASK,
    SELF,
    Close,
    Deal,
    Reveal,
    Roster,
    box_for,
    committed,
    deal,
    own_shares,
    read_deal,
)
from swarm.masking.unmasking import Unmasking

RECORD_VERSION = 1
RECORD_BYTES_MAX = 1_024
"""Largest record: six hashes and some numbers."""

_FORKED = (
    "members have signed two histories: compare ledgers with the others (swarm ledger diff), and go on with a new one"
)


class Record(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What must outlive the process. `roster`, `offered` and `close` are digests, or empty while there is none."""

    version: int
    ledger_id: bytes
    round: int
    attempt: int
    me: bytes
    root: bytes
    roster: bytes
    offered: bytes
    close: bytes


class Attempt:
    """A member's part in an attempt.

    Args:
        occasion: Which attempt at which round of which ledger.
        me: This member.
        root: 32 bytes from the system's source of randomness, drawn for this attempt and used for nothing else.
    """

    def __init__(self, occasion: Occasion, me: NodeId, root: bytes) -> None:
        self._record = Record(
            RECORD_VERSION, occasion.ledger_id, occasion.round, occasion.attempt, me, root, b"", b"", b""
        )
        self._me = me
        self._secrets = Secrets(occasion, me, root)
        self._roster: Roster | None = None
        self._deals: dict[int, Deal] = {}
        self._held: dict[int, tuple[bytes, bytes]] = {}
        self._unmasking: Unmasking | None = None
        self._silent = False

    # --- across restarts ----------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return what must be durable before anything is said that a method has just returned. It holds secrets."""
        return codec.encode(self._record)

    @classmethod
    def from_bytes(cls, data: bytes) -> Attempt:
        """Return the part as it was written down; roster, deals and close are to be told again.

        Raises:
            Reject: this is no such record.
        """
        record = codec.decode(data, Record, limit=RECORD_BYTES_MAX)
        hashes = (record.ledger_id, record.me, record.root)
        later = (record.roster, record.offered, record.close)
        if record.version != RECORD_VERSION or any(len(one) != HASH_BYTES for one in hashes):
            raise Reject("couldn't read the record of a masked round: its version or a hash in it is wrong")
        if any(len(one) not in (0, HASH_BYTES) for one in later) or not record.round > 0 or not record.attempt > 0:
            raise Reject("couldn't read the record of a masked round: a field is out of range")
        if (record.offered or record.close) and not record.roster:
            raise Reject("couldn't read the record of a masked round: it tells of a masked update and of no roster")
        assert len(record.root) == ROOT_BYTES, "a root is as long as a hash"
        found = cls(Occasion(record.ledger_id, record.round, record.attempt), NodeId(record.me), record.root)
        found._record = record
        return found

    # --- keys ---------------------------------------------------------------------------------------------------

    @property
    def keys(self) -> tuple[bytes, bytes]:
        """The public mask key and seal key, to be posted."""
        return self._secrets.mask_key, self._secrets.seal_key

    # --- roster and deals ---------------------------------------------------------------------------------------

    def enrol(self, roster: Roster) -> Deal | None:
        """Take the roster that a final block has, and return this member's deal, to be offered as a blob.

        None if this member is not on it: then there is nothing more for it to say.

        Raises:
            Reject: nobody could mask on this roster.
            UsageError: this member is on it with keys that are not these. It says nothing more.
            LedgerError: it has taken another one. It says nothing more.
        """
        if self._silent:
            return None
        roster.check()
        assert roster.occasion == self.occasion, "of this attempt"
        if self._record.roster and self._record.roster != roster.digest:
            self._silent = True
            raise LedgerError(f"couldn't mask round {roster.round}: the ledger has two rosters for it", hint=_FORKED)
        place = roster.index(self._me)
        if place is None:
            return None
        seat = roster.seats[place]
        if (seat.mask_key, seat.seal_key) != self.keys:
            self._silent = True
            raise UsageError(
                f"couldn't mask round {roster.round}: the ledger has keys of this site that it does not hold",
                hint="it sits this round out; stop any other copy of the site that may be running",
            )
        self._roster = roster
        self._record = msgspec.structs.replace(self._record, roster=roster.digest)
        mine = deal(self._secrets, roster, place)
        self._deals[place] = mine
        self._held[place] = own_shares(self._secrets, roster, place)[place]
        return mine

    def take_deal(self, dealer: NodeId, data: bytes) -> None:
        """Take the deal that an entry of a member of the roster names. The first one counts.

        Raises:
            Reject: it is no deal for this roster, or the share for this member is not what the dealer committed itself
                to. In the latter case the deal counts, as others may hold theirs; this member will have none to reveal.
        """
        roster, me = self._enrolled
        place = roster.index(dealer)
        if place is None:
            raise Reject("couldn't take a deal of shares: its author is not on the roster")
        if place in self._deals:
            return
        found = read_deal(data, roster, place)
        self._deals[place] = found
        if me not in roster.holders(place):
            return
        text = self._secrets.open(
            dealer, roster.seats[place].seal_key, box_for(roster, found, place, me), roster.digest
        )
        shares = text[:SHARE_BYTES], text[SHARE_BYTES:]
        for kind, share in zip((SELF, MASK), shares, strict=True):
            if not committed(roster, found, kind, place, me, share):
                raise Reject("couldn't take a deal of shares: a share in it is not what its dealer committed itself to")
        self._held[place] = shares

    def missing(self) -> tuple[NodeId, ...]:
        """Return who has yet to deal before this member may mask: if one of those went, nobody could make up for it."""
        roster, _ = self._enrolled
        return tuple(node for place, node in enumerate(roster.nodes) if place not in self._deals)

    # --- the masked update --------------------------------------------------------------------------------------

    def masks(self) -> tuple[Mask, ...]:
        """Return what this member puts on its weighted update: its own mask, and one for each of its neighbours.

        Everybody's deal must be in, and the round not closed.
        """
        roster, me = self._enrolled
        assert not self.missing(), "after the deals"
        assert not self._record.close, "before the close"
        found = [Mask(self_seed(roster.occasion, self._me, self._secrets.self_residue), added=True)]
        for place in roster.neighbours(me):
            seat = roster.seats[place]
            found.append(Mask(self._secrets.pair_seed(seat.node, seat.mask_key), added=me < place))
        return tuple(found)

    @property
    def noise_seed(self) -> bytes:
        """The seed of the noise that goes under those masks: as long as this attempt lasts, always the same."""
        return self._secrets.noise_seed

    @property
    def weight(self) -> int:
        """By what this member multiplies its update before it masks it."""
        roster, me = self._enrolled
        return roster.seats[me].weight

    def offer(self, digest: Digest) -> bool:
        """Whether a masked update of this digest may be named, or given to anybody: the first one, and no other."""
        roster, _ = self._enrolled
        assert len(digest) == HASH_BYTES, "a digest"
        if self._silent or self._record.close or self.missing() or self._record.roster != roster.digest:
            return False
        if self._record.offered:
            return self._record.offered == digest
        self._record = msgspec.structs.replace(self._record, offered=digest)
        return True

    # --- close and reveal ---------------------------------------------------------------------------------------

    def close(self, close: Close) -> Reveal | None:
        """Take the close that a final block has, and return what to reveal for it.

        However often it is told, it is the same, or more of the same if deals have come in between. None if this
        member has said its last word in this attempt.

        Raises:
            Reject: the close is of too few, or not of this roster. Nothing is revealed for it.
            LedgerError: it has taken another one, or the close has an update of this member that it never offered. It
                says nothing more.
        """
        if self._silent:
            return None
        roster, me = self._enrolled
        close.check(roster)
        digest = roster.occasion.commit("close", codec.encode(close))
        if self._record.close and self._record.close != digest:
            self._silent = True
            raise LedgerError(
                f"couldn't unmask round {roster.round}: the ledger has closed it twice",
                hint=_FORKED,
            )
        if self._me in close.included and not self._record.offered:
            self._silent = True
            raise LedgerError(
                f"couldn't unmask round {roster.round}: its close has a masked update of this site, which it never"
                " offered",
                hint="stop any other copy of the site that may be running, or was restored from a backup",
            )
        self._record = msgspec.structs.replace(self._record, close=digest)
        if self._unmasking is None:
            self._unmasking = Unmasking(roster, close, self._deals)
        unmasking = self._unmasking
        shares = tuple(
            (place, self._held[place][0 if unmasking.kind(place) == SELF else 1])
            for place in unmasking.asked(me)
            if place in self._held
        )
        return Reveal(roster.round, roster.attempt, close.index, shares)

    @property
    def offered(self) -> Digest | None:
        """The digest of the masked update that this member has offered."""
        return Digest(self._record.offered) if self._record.offered else None

    @property
    def occasion(self) -> Occasion:
        """Which attempt at which round this is a part in."""
        return Occasion(self._record.ledger_id, self._record.round, self._record.attempt)

    @property
    def enrolled(self) -> bool:
        """Whether it has taken a roster that this member is on, in this life, and has anything more to say."""
        return self._roster is not None and not self._silent

    @property
    def closed(self) -> bool:
        """Whether it has taken a close: it masks nothing any more."""
        return bool(self._record.close)

    @property
    def _enrolled(self) -> tuple[Roster, int]:
        assert self._roster is not None, "a roster was taken, and this member is on it"
        place = self._roster.index(self._me)
        assert place is not None, "it is only kept if this member is on it"
        return self._roster, place

    def __repr__(self) -> str:
        return f"Attempt({self._me.hex()[:8]}…, round {self._record.round}, attempt {self._record.attempt})"
