"""From what holders reveal to the masks that are left on a sum: public arithmetic, which anybody can repeat.

On the sum of the masked updates of a close there are still two kinds of mask. Each member in it has put its own on,
which goes with its self seed; and each has masks in common with members that are not in it, which go with the mask keys
of those. Holders reveal shares of exactly these. A share that is not what its dealer committed itself to is thrown
away, and its holder named. A secret whose dealt shares do not make up the key or the commitment that the dealer has
posted is a lie of the dealer's, who is named too: then there is no sum.

A member that was not on the roster unmasks like everybody else; so does an auditor that has the masked updates.
"""

from __future__ import annotations

from collections.abc import Mapping

from swarm.errors import Reject
from swarm.machine import NodeId
from swarm.masking import shamir
from swarm.masking.keys import mask_pair, pair_seed, self_commitment, self_seed
from swarm.masking.masks import Mask
from swarm.masking.statements import MASK, SELF, Close, Deal, Reveal, Roster, committed


class Unmasking:
    """What has been revealed so far of one close.

    Args:
        roster: Of the attempt.
        close: The final one. It has been checked.
        deals: Of everybody on the roster, by place. Shares of a dealer whose deal is missing cannot be held against
            anything, and are passed over; what is revealed can be taken again when it has come.
    """

    def __init__(self, roster: Roster, close: Close, deals: Mapping[int, Deal]) -> None:
        close.check(roster)
        self._roster, self._close, self._deals = roster, close, deals
        self._included = frozenset(close.included)
        places = range(len(roster.seats))
        self._inside = tuple(place for place in places if roster.nodes[place] in self._included)
        # The mask key of one that dropped out is needed only if a mask of its is on the sum.
        inside = {*self._inside}
        outside = (place for place in places if place not in inside)
        self._outside = tuple(place for place in outside if not inside.isdisjoint(roster.neighbours(place)))
        self._shares: dict[int, dict[int, int]] = {place: {} for place in places}
        self._residues: dict[int, int] = {}
        self._liars: set[int] = set()

    def kind(self, dealer: int) -> str:
        """Return which of a dealer's secrets the close asks for: `SELF` or `MASK`, and never both."""
        return SELF if self._roster.nodes[dealer] in self._included else MASK

    def asked(self, holder: int) -> tuple[int, ...]:
        """Return the places of the dealers, ascending, of whom the holder at a place is to reveal its share."""
        return tuple(place for place in sorted(self._needed) if holder in self._roster.holders(place))

    def take(self, holder: NodeId, reveal: Reveal) -> tuple[NodeId, ...]:
        """Take what a holder reveals; what is right in it counts, whatever else it says.

        Returns:
            The dealers of whose secrets it has told false shares, or shares that it does not hold.

        Raises:
            Reject: it is of another close, or its author is not on the roster.
        """
        roster, close = self._roster, self._close
        place = roster.index(holder)
        if place is None or (reveal.round, reveal.attempt, reveal.close) != (roster.round, roster.attempt, close.index):
            raise Reject("couldn't take revealed shares: they are of another close, or by nobody on its roster")
        false = []
        for dealer, share in reveal.shares:
            if dealer < len(roster.nodes) and dealer not in self._deals:
                continue
            if self._holds(place, dealer, share):
                self._shares[dealer][place + 1] = shamir.from_bytes(share)
            else:
                false.append(roster.nodes[dealer] if dealer < len(roster.nodes) else holder)
        self._put_together()
        return tuple(false)

    def masks(self) -> tuple[Mask, ...] | None:
        """Return what takes all masks off the sum of the words of the close, or None while secrets are missing."""
        if any(place not in self._residues for place in self._needed):
            return None
        roster, occasion = self._roster, self._roster.occasion
        found = [
            Mask(self_seed(occasion, roster.nodes[place], self._residues[place]), added=False) for place in self._inside
        ]
        for gone in self._outside:
            key = mask_pair(occasion, roster.nodes[gone], self._residues[gone])
            for place in roster.neighbours(gone):
                seat = roster.seats[place]
                if seat.node in self._included:
                    seed = pair_seed(occasion, roster.nodes[gone], key, seat.node, seat.mask_key)
                    found.append(Mask(seed, added=place < gone).opposite())
        return tuple(found)

    @property
    def liars(self) -> tuple[NodeId, ...]:
        """The dealers that have dealt shares of something else than they posted, as far as it has shown."""
        return tuple(self._roster.nodes[place] for place in sorted(self._liars))

    def lacking(self) -> str:
        """Say in words why there are no masks yet; empty when there are."""
        threshold = self._roster.shape.threshold
        missing = [place for place in self._needed if place not in self._residues]
        if not missing:
            return ""
        if self._liars:
            return f"shares dealt by {_named(self.liars)} are of something else than was posted"
        worst = min(missing, key=lambda place: (len(self._shares[place]), place))
        what = "self seed" if self.kind(worst) == SELF else "mask key"
        return (
            f"{len(missing)} of {len(self._needed)} secrets are missing: of the {what} of"
            f" {_named([self._roster.nodes[worst]])} there are {len(self._shares[worst])} shares, it takes {threshold}"
        )

    @property
    def _needed(self) -> tuple[int, ...]:
        return (*self._inside, *self._outside)

    def _holds(self, holder: int, dealer: int, share: bytes) -> bool:
        """Whether this is the holder's share of what the close asks for of a dealer."""
        deal = self._deals.get(dealer)
        if deal is None or holder not in self._roster.holders(dealer):
            return False
        try:
            return committed(self._roster, deal, self.kind(dealer), dealer, holder, share)
        except Reject:
            return False

    def _put_together(self) -> None:
        threshold = self._roster.shape.threshold
        for place in self._needed:
            shares = self._shares[place]
            if place in self._residues or place in self._liars or len(shares) < threshold:
                continue
            residue = shamir.reconstruct({point: shares[point] for point in sorted(shares)[:threshold]}, threshold)
            if self._proves(place, residue):
                self._residues[place] = residue
            else:
                self._liars.add(place)

    def _proves(self, place: int, residue: int) -> bool:
        """Whether a secret is the one that its dealer has posted. An honest one's is, whichever shares made it up."""
        roster, node = self._roster, self._roster.nodes[place]
        if self.kind(place) == SELF:
            return self_commitment(roster.occasion, node, residue) == self._deals[place].self_commitment
        return mask_pair(roster.occasion, node, residue).public_key().public_bytes_raw() == roster.seats[place].mask_key


def _named(nodes: tuple[NodeId, ...] | list[NodeId]) -> str:
    return ", ".join(node.hex()[:8] for node in nodes)
