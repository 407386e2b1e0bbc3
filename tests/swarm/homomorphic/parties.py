"""Members of an encrypted sum, all of whom hold shares of its key, as their owners would drive them."""

from __future__ import annotations

from collections.abc import Sequence

from swarm.homomorphic.sums import Opening, Part, Proven, Roster, read_offer
from swarm.machine import NodeId
from swarm.masking.keys import Occasion
from swarm.masking.ring import Ring, Words
from swarm.masking.statements import Close
from swarm.vector import Vector
from tests.swarm.homomorphic.keys import draw, encryptor, node, shared, update
from tests.swarm.masking.members import CLOSE, LEDGER


class Encrypted:
    """A roster of `count`, and everybody's part."""

    def __init__(
        self, count: int, threshold: int, *, elements: int = 23, bits: int = 36, weights: list[int] | None = None
    ) -> None:
        self.key, shares = shared(count, threshold)
        self.nodes = [node(number) for number in range(count)]
        ring = Ring.fitting(bits, weight_total=4096, clip_norm_milli=10_000)
        seats = tuple(zip(self.nodes, weights or [3 + 5 * i % 11 for i in range(count)], strict=True))
        self.roster = Roster(Occasion(LEDGER, 3, 1), ring, elements, self.key, seats)
        self.parts = [self.part(number) for number in range(count)]
        self.shares = shares

    def part(self, number: int, answered: bytes = b"") -> Part:
        _, shares = shared(len(self.nodes), self.key.threshold)
        return Part(
            self.roster,
            self.nodes[number],
            encryptor=encryptor(),
            draw=draw(number),
            share=shares[number],
            answered=answered,
        )

    def close(self, who: Sequence[int]) -> Close:
        return Close(CLOSE, tuple(self.nodes[number] for number in who))

    def offers(self, updates: list[Vector], who: Sequence[int]) -> dict[NodeId, Proven]:
        return {self.nodes[n]: read_offer(self.parts[n].offer(updates[n]), self.roster, self.nodes[n]) for n in who}


def story(who: Sequence[int] = (0, 1, 2, 4)) -> tuple[Encrypted, dict[NodeId, Proven], Opening]:
    """The offers of some of five, and what is to be opened of them by three."""
    swarm = Encrypted(5, 3)
    offers = swarm.offers([update(number) for number in range(5)], who)
    return swarm, offers, Opening(swarm.roster, swarm.close(who), offers)


def weighted(swarm: Encrypted, number: int) -> Words:
    """A member's words."""
    words = swarm.roster.ring.words(swarm.roster.elements)
    swarm.roster.ring.encode_into(words, update(number), swarm.roster.weight(swarm.nodes[number]))
    return words
