"""What is said in a masked round, and what of it can be checked by anybody.

In the order in which it is said (`docs/decisions/0039`):

- `Keys`, by each member that has trained: with these it takes part, and so many samples are in its update.
- the `Roster`, which follows from the log: who masks with whom, with what weight. Nobody's word but the ledger's.
- `Deal`, by each on the roster: its secrets in shares, each sealed for its holder, and a commitment to each share, so
  that a false one is found out later by everybody.
- the masked updates, of which nothing can be checked but their size.
- the `Close`, which follows from the log: whose masked updates are summed.
- `Reveal`, by each on the roster: one share for each dealer, of its self seed if it is in the close and of its mask key
  if it is not. Which of the two is not said, but follows from the close: there is no way to write down both.

Shares are known by their holder's place on the roster. What is refused here is refused by everybody alike.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import msgspec

from swarm import codec
from swarm.errors import Reject
from swarm.ledger.block import MEMBERS_MAX, faults
from swarm.machine import NodeId
from swarm.masking import graph, shamir
from swarm.masking.keys import TAG_BYTES, Occasion, Secrets, admissible, self_commitment
from swarm.mixing.average import WEIGHT_TOTAL_MAX

DEAL_BYTES_MAX = 1 << 18
"""Largest deal: 1,000 holders of a box and two commitments each take 170 KB, and there are never so many."""

REVEAL_BYTES_MAX = 1 << 16
"""Largest reveal, an entry of the ledger: 1,000 dealers take 38 KB."""

HASH_BYTES = 32
BOX_BYTES = 2 * shamir.SHARE_BYTES + TAG_BYTES

SELF = "self"
MASK = "mask"
"""The two kinds of share: of a member's self seed, and of its mask key. Nobody ever tells both of one dealer."""


class Keys(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The author's public keys for one attempt at a round, made for it alone, and what its update is made of.

    `base_digest` is the model that it started from, `base_height` the last final block that it knew; a contribution
    says the same once it is offered. Both keys are X25519, 32 bytes.
    """

    round: int
    attempt: int
    base_height: int
    base_digest: bytes
    samples: int
    mask_key: bytes
    seal_key: bytes

    def check(self) -> None:
        """Raise `Reject` unless every field is in range and the keys are two."""
        if self.round < 1 or self.attempt < 1 or self.base_height < 0 or len(self.base_digest) != HASH_BYTES:
            raise Reject("couldn't accept keys for masks: a field is out of range")
        if not 0 < self.samples < 2**40:
            raise Reject("couldn't accept keys for masks: they are for an update of no samples")
        if self.mask_key == self.seal_key or not (admissible(self.mask_key) and admissible(self.seal_key)):
            raise Reject("couldn't accept keys for masks: one is no key to agree with, or both are the same")


class Seat(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A place on a roster: whose it is, what its update weighs, and its public keys."""

    node: NodeId
    weight: int
    mask_key: bytes
    seal_key: bytes


class Roster(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True, dict=True):
    """Who masks in an attempt at a round, in member order, as the log has it.

    `beacon` decides who is next to whom. `swarm` is how many members the ledger has: all liars that it bears may be on
    this roster.
    """

    ledger_id: bytes
    round: int
    attempt: int
    beacon: bytes
    swarm: int
    seats: tuple[Seat, ...]

    def check(self) -> None:
        """Raise `Reject` unless this is a roster that members could mask on."""
        named = f"couldn't mask round {self.round}"
        if self.round < 1 or self.attempt < 1 or not len(self.ledger_id) == len(self.beacon) == HASH_BYTES:
            raise Reject(f"{named}: a field of its roster is out of range")
        if not len(self.seats) <= self.swarm <= MEMBERS_MAX:
            raise Reject(f"{named}: {len(self.seats)} are on its roster, of {self.swarm} members")
        fewest = max(graph.FEWEST, faults(self.swarm) + 2)
        if len(self.seats) < fewest:
            raise Reject(f"{named}: {len(self.seats)} have posted keys, it takes {fewest}")
        if not all(seat.weight > 0 for seat in self.seats) or self.weight > WEIGHT_TOTAL_MAX:
            raise Reject(f"{named}: a weight is out of range")
        keys = [key for seat in self.seats for key in (seat.mask_key, seat.seal_key)]
        nodes = [seat.node for seat in self.seats]
        if any(len(node) != HASH_BYTES for node in nodes) or len({*nodes}) != len(nodes) or len({*keys}) != len(keys):
            raise Reject(f"{named}: a member or a key is on its roster twice")
        if not all(admissible(key) for key in keys):
            raise Reject(f"{named}: a key on its roster is none to agree with")

    @cached_property
    def occasion(self) -> Occasion:
        """What the secrets of this attempt are for."""
        return Occasion(self.ledger_id, self.round, self.attempt)

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it: what a deal is for, and what a restarted member compares."""
        return self.occasion.commit("roster", codec.encode(self))

    @property
    def weight(self) -> int:
        """Of all together."""
        return sum(seat.weight for seat in self.seats)

    @cached_property
    def shape(self) -> graph.Shape:
        """How many neighbours and shares there are."""
        return graph.shape(len(self.seats), self.swarm)

    @cached_property
    def nodes(self) -> tuple[NodeId, ...]:
        """Whose the seats are."""
        return tuple(seat.node for seat in self.seats)

    def index(self, node: NodeId) -> int | None:
        """Return a member's place, or None."""
        return self._indices.get(node)

    def neighbours(self, index: int) -> tuple[int, ...]:
        """Return the places of those that a member masks with, ascending."""
        return self._neighbours[index]

    def holders(self, index: int) -> tuple[int, ...]:
        """Return the places of those that have shares of a member's secrets, ascending: its neighbours and itself."""
        return tuple(sorted((*self._neighbours[index], index)))

    @cached_property
    def _indices(self) -> dict[NodeId, int]:
        return {node: index for index, node in enumerate(self.nodes)}

    @cached_property
    def _neighbours(self) -> tuple[tuple[int, ...], ...]:
        circle = graph.order(self.beacon, self.nodes)
        return tuple(graph.neighbours(self.shape, circle, index) for index in range(len(self.seats)))


def beacon(occasion: Occasion, model: bytes) -> bytes:
    """Return what decides who is next to whom, from the digest of the model that the round before ended with.

    Masked sums of others go into it, so nobody could aim at it before; now it can be changed by nobody.
    """
    return occasion.commit("beacon", model)


class Close(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """Whose masked updates are summed: the leaf index of a final close, and the members in it, in member order."""

    index: int
    included: tuple[NodeId, ...]

    def check(self, roster: Roster) -> None:
        """Raise `Reject` unless so many of the roster are in it that the sum says nothing of any of them."""
        places = [roster.index(node) for node in self.included]
        known = [place for place in places if place is not None]
        named = f"couldn't unmask round {roster.round}"
        if len(known) != len(places) or sorted({*known}) != known or self.index < 0:
            raise Reject(f"{named}: its close names members that are not on its roster, or not in order")
        fewest = roster.shape.included_min
        if len(known) < fewest:
            raise Reject(f"{named}: its close is of {len(known)} of {len(roster.seats)}, a sum must be of {fewest}")


class Deal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """One member's secrets in shares, for the roster of this digest.

    `commitments` has, for each holder in order, those to its share of the self seed and of the mask key; `boxes` both
    shares, sealed, for each holder but the dealer, which needs none. `self_commitment` is to the self seed itself; to
    the mask key its public key is one.
    """

    roster: bytes
    self_commitment: bytes
    commitments: tuple[tuple[bytes, bytes], ...]
    boxes: tuple[bytes, ...]


class Reveal(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The author's shares after a close, by leaf index: (place of the dealer on the roster, share), ascending.

    Of whoever is in the close the share is of its self seed, of the others it is of their mask keys.
    """

    round: int
    attempt: int
    close: int
    shares: tuple[tuple[int, bytes], ...]


def deal(secrets: Secrets, roster: Roster, me: int) -> Deal:
    """Return the secrets of the member at place `me` in shares. The same bytes every time."""
    shares = own_shares(secrets, roster, me)
    commitments, boxes = [], []
    for holder, (self_share, mask_share) in shares.items():
        commitments.append(
            (commitment(roster, SELF, me, holder, self_share), commitment(roster, MASK, me, holder, mask_share))
        )
        if holder != me:
            seat = roster.seats[holder]
            boxes.append(secrets.seal(seat.node, seat.seal_key, self_share + mask_share, roster.digest))
    bound = self_commitment(roster.occasion, roster.nodes[me], secrets.self_residue)
    return Deal(roster.digest, bound, tuple(commitments), tuple(boxes))


def own_shares(secrets: Secrets, roster: Roster, me: int) -> dict[int, tuple[bytes, bytes]]:
    """Return, by holder, its shares of the self seed and of the mask key."""
    others = roster.shape.threshold - 1
    points = [holder + 1 for holder in roster.holders(me)]
    self_shares = shamir.deal(secrets.self_residue, points, secrets.coefficients(SELF, others))
    mask_shares = shamir.deal(secrets.mask_residue, points, secrets.coefficients(MASK, others))
    return {p - 1: (shamir.to_bytes(self_shares[p]), shamir.to_bytes(mask_shares[p])) for p in points}


def read_deal(data: bytes, roster: Roster, dealer: int) -> Deal:
    """Return a member's deal, of the right shape. Raises `Reject`. Whether shares are right only their holders see."""
    found = codec.decode(data, Deal, limit=DEAL_BYTES_MAX)
    holders = len(roster.holders(dealer))
    if found.roster != roster.digest:
        raise Reject("couldn't take a deal of shares: it is for another roster")
    if len(found.commitments) != holders or len(found.boxes) != holders - 1:
        raise Reject(f"couldn't take a deal of shares: it is not for {holders} holders")
    hashes = (found.self_commitment, *(one for pair in found.commitments for one in pair))
    if any(len(one) != HASH_BYTES for one in hashes) or any(len(box) != BOX_BYTES for box in found.boxes):
        raise Reject("couldn't take a deal of shares: a commitment or a box in it has another size than those have")
    return found


def read_reveal(data: bytes) -> Reveal:
    """Return a member's reveal, its dealers in order. Raises `Reject`."""
    found = codec.decode(data, Reveal, limit=REVEAL_BYTES_MAX)
    dealers = [dealer for dealer, _ in found.shares]
    if found.round < 1 or found.attempt < 1 or found.close < 0 or sorted({*dealers}) != dealers:
        raise Reject("couldn't take revealed shares: a field is out of range or order")
    if dealers and not 0 <= dealers[0] <= dealers[-1] < MEMBERS_MAX:
        raise Reject("couldn't take revealed shares: one is of nobody's")
    return found


def commitment(roster: Roster, kind: str, dealer: int, holder: int, share: bytes) -> bytes:
    """Return what binds a dealer to the share of this kind that it has dealt a holder.

    A share is as random as the secret, so its hash gives nothing away.
    """
    return roster.occasion.commit("share", kind.encode(), roster.nodes[dealer], roster.nodes[holder], share)


def committed(roster: Roster, found: Deal, kind: str, dealer: int, holder: int, share: bytes) -> bool:
    """Whether a share of this kind is the one that was dealt to a holder. Raises `Reject` for what is no residue."""
    shamir.from_bytes(share)
    pair = found.commitments[roster.holders(dealer).index(holder)]
    return commitment(roster, kind, dealer, holder, share) == pair[0 if kind == SELF else 1]


def box_for(roster: Roster, found: Deal, dealer: int, holder: int) -> bytes:
    """Return what a dealer has sealed for a holder that is not itself."""
    others: Sequence[int] = [place for place in roster.holders(dealer) if place != dealer]
    return found.boxes[others.index(holder)]
