"""Who this site is to the others: its id, the keys it holds, and its place among the members of the epoch."""

from __future__ import annotations

from swarm.identity import Identity
from swarm.ledger.replica import Replica
from swarm.machine import NodeId
from swarm.terms import Seat, Terms


class Myself:
    """One site. `successor` are the keys it has asked the members to accept in place of `identity`."""

    def __init__(self, node: NodeId, identity: Identity, successor: Identity | None, replica: Replica) -> None:
        self.node = node
        self.identity = identity
        self._successor = successor
        self._replica = replica

    @property
    def terms(self) -> Terms:
        """The terms of the epoch that the ledger has reached."""
        return self._replica.head.terms

    @property
    def index(self) -> int | None:
        """This site's place among the members, if it has one."""
        return self.terms.index(self.node)

    @property
    def seat(self) -> Seat | None:
        """What the members know of this site, if it is one of them."""
        return None if self.index is None else self.terms.members[self.index]

    @property
    def speaks(self) -> bool:
        """Whether it is a member and holds the keys the members know it by. If not, it follows and says nothing."""
        seat, held = self.seat, self.identity
        return seat is not None and (seat.id_key, seat.vote_key) == (held.id_key.public, held.vote_key.public)

    def take_keys(self) -> None:
        """Take the new keys, if they are those the members know this site by from now on."""
        seat = self.seat
        if seat is not None and self._successor is not None and seat.id_key == self._successor.id_key.public:
            self.identity, self._successor = self._successor, None
