"""Members of a masked round, as their owners would drive them: keys, deals, masked updates, a close, what is revealed."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Sequence

import numpy as np

from swarm import codec
from swarm.machine import Digest, NodeId
from swarm.masking import masks
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.ring import Ring, Words
from swarm.masking.statements import Close, Reveal, Roster, Seat, beacon
from swarm.masking.unmasking import Unmasking
from swarm.mixing.average import mean_of_sums_into, weighted_mean_into
from swarm.vector import Vector

LEDGER = bytes(range(32))
EXACT = Ring(bits=64, fraction=32, weight_total=2**20)
CLOSE = 40
"""The leaf index of the close."""


def node(number: int) -> NodeId:
    return NodeId(hashlib.sha256(b"member %d" % number).digest())


def root(number: int, attempt: int = 1) -> bytes:
    return hashlib.sha256(b"root %d %d" % (number, attempt)).digest()


def update(number: int, elements: int = 37, scale: float = 1.0) -> Vector:
    return (np.random.default_rng(number).standard_normal(elements) * scale).astype(np.float32)


class Members:
    """A roster of `count`, up to the deals; nobody has offered."""

    def __init__(
        self,
        count: int,
        *,
        weights: Sequence[int] = (),
        round_: int = 3,
        attempt: int = 1,
        swarm: int | None = None,
    ) -> None:
        self.occasion = Occasion(LEDGER, round_, attempt)
        self.nodes = [node(number) for number in range(count)]
        self.attempts = [Attempt(self.occasion, one, root(number, attempt)) for number, one in enumerate(self.nodes)]
        seats = [
            Seat(one, weight, *attempt.keys)
            for one, weight, attempt in zip(
                self.nodes, weights or [3 + 5 * i % 11 for i in range(count)], self.attempts, strict=True
            )
        ]
        self.roster = Roster(LEDGER, round_, attempt, beacon(self.occasion, bytes(32)), swarm or count, tuple(seats))
        self.deals = [codec.encode(attempt.enrol(self.roster)) for attempt in self.attempts]

    def deal(self) -> Members:
        """Everybody's deal comes to everybody."""
        for one in self.attempts:
            for dealer, data in zip(self.nodes, self.deals, strict=True):
                one.take_deal(dealer, data)
        return self

    def again(self) -> Members:
        """The same members before anybody has masked anything, so that another story can be told of them."""
        found = copy.copy(self)
        found.attempts = [copy.copy(one) for one in self.attempts]
        for one in found.attempts:
            one._deals, one._held = {**one._deals}, {**one._held}
        return found

    def words(self, ring: Ring, updates: Sequence[Vector], who: Sequence[int]) -> dict[int, Words]:
        """Masked updates, each offered."""
        found = {}
        for number in who:
            one = self.attempts[number]
            found[number] = masks.masked(updates[number], ring, one.weight, one.masks())
            assert one.offer(digest(found[number]))
        return found

    def close(self, who: Sequence[int]) -> Close:
        return Close(CLOSE, tuple(self.nodes[number] for number in who))

    def reveals(self, close: Close, who: Sequence[int]) -> dict[int, Reveal]:
        found = {}
        for number in who:
            reveal = self.attempts[number].close(close)
            assert reveal is not None
            found[number] = reveal
        return found

    def unmasking(self, close: Close) -> Unmasking:
        """As a member sees it that is not on the roster."""
        from swarm.masking.statements import read_deal

        read = {place: read_deal(data, self.roster, place) for place, data in enumerate(self.deals)}
        return Unmasking(self.roster, close, read)


def digest(words: Words) -> Digest:
    return Digest(hashlib.sha256(words.tobytes()).digest())


def total_of(ring: Ring, words: Sequence[Words]) -> Words:
    found = ring.words(words[0].size)
    for one in words:
        masks.add(found, one)
    return found


def mean(ring: Ring, total: Words, base: Vector, weight: int) -> bytes:
    """What a round ends with, from unmasked words."""
    out = np.empty_like(base)
    mean_of_sums_into(out, base, ring.sums(total, weight), weight)
    return out.tobytes()


def plain_mean(updates: Sequence[Vector], base: Vector, weights: Sequence[int]) -> bytes:
    """What it ends with where nobody masks: the product's own mean."""
    out = np.empty_like(base)
    weighted_mean_into(out, base, updates, weights)
    return out.tobytes()
