"""Ring words in plaintexts: dozens of elements in each number that is encrypted, so that one addition adds them all.

A word of `swarm.masking.ring.Ring` is w q modulo 2**bits with |w q| <= w * steps_max. Here w * steps_max is added to
it, so that it is from 0 to 2 w steps_max, and words lie side by side in slots of exactly `bits` binary places. Whatever
members are summed, a slot holds at most

    2 * steps_max * (sum of their weights) <= 2 * steps_max * weight_total <= 2**bits - 2,

so no slot ever carries into the next one: the room that the ring keeps for its own sign is the room for the sum, and
no summand costs another bit. Head-room is counted in weight, then, not in summands: any number of members will do
whose weights sum to the ring's `weight_total`, and a sum of more is refused before it is made.

What comes out, less the total weight times steps_max, are the very words that the sum of masked updates has once its
masks are off: `Ring.sums` takes them, holds them against what updates of that weight can sum to, and the mean has the
bytes of the plain one wherever it has them with masks. A liar can put any number into a plaintext, and so carry from
its slots into the next: into the sum it could put anything anyway.

The last plaintext is filled up with empty slots, which stay empty in every sum.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from swarm.errors import Reject, UsageError
from swarm.homomorphic.integers import natural
from swarm.masking.ring import Ring, Words

_PLAINTEXTS = 1 << 10
"""Worked on at a time: the scratch of a block is some 4 MB."""


@dataclass(frozen=True, slots=True)
class Packing:
    """How words of a ring lie in plaintexts.

    Args:
        ring: Of the words.
        plaintext_bits: Of each plaintext, `PublicKey.plaintext_bits`.

    Raises:
        UsageError: not one word has room.
    """

    ring: Ring
    plaintext_bits: int

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise UsageError(
                f"couldn't pack words of {self.ring.bits} bits into {self.plaintext_bits}", hint="use a larger key"
            )

    @property
    def slots(self) -> int:
        """Words in a plaintext: of 2,048 bits 56 with a ring of 36, 31 with one of 64."""
        return self.plaintext_bits // self.ring.bits

    def count(self, elements: int) -> int:
        """Return how many plaintexts so many words take."""
        return -(-elements // self.slots)

    def check_weight(self, weight: int) -> None:
        """Raise `UsageError` if summands that weigh so much together might not stay in their slots."""
        if not 0 < weight <= self.ring.weight_total:
            raise UsageError(
                f"couldn't add up encrypted updates that weigh {weight}: slots have room for {self.ring.weight_total}",
                hint="make the ring for the weight of everybody who may be in the sum",
            )

    def plaintexts(self, words: Words, weight: int) -> Iterator[int]:
        """Yield the numbers to encrypt, of words, shape (elements,), of an update with this weight.

        Raises:
            UsageError: there is no room for such a weight.
        """
        self.check_weight(weight)
        slots, bits = self.slots, self.ring.bits
        offset = np.uint64(weight * self.ring.steps_max)
        for start in range(0, words.size, _PLAINTEXTS * slots):
            part = words[start : start + _PLAINTEXTS * slots]
            rows = self.count(part.size)
            table = np.zeros(rows * slots, "<u8")
            np.add(part, offset, out=table[: part.size], casting="unsafe")  # wraps, as residues do
            digits = np.unpackbits(table.view(np.uint8).reshape(-1, 8), axis=1, bitorder="little")[:, :bits]
            packed = np.packbits(digits.reshape(rows, slots * bits), axis=1, bitorder="little")
            for row in packed:
                yield natural(int.from_bytes(row.tobytes(), "little"))

    def words(self, plaintexts: Sequence[int], elements: int, weight: int) -> Words:
        """Return the words, shape (elements,), of the sum of updates of so much weight, from its plaintexts.

        Raises:
            Reject: the sum is of another shape: somebody has encrypted what no update packs to.
            UsageError: slots had no room for so much weight.
        """
        self.check_weight(weight)
        slots, bits = self.slots, self.ring.bits
        assert len(plaintexts) == self.count(elements), "as many as words take"
        size, found = -(-slots * bits // 8), np.empty(len(plaintexts) * slots, self.ring.dtype)
        offset = np.uint64(weight * self.ring.steps_max)
        for start in range(0, len(plaintexts), _PLAINTEXTS):
            part = plaintexts[start : start + _PLAINTEXTS]
            if any(int(one).bit_length() > slots * bits for one in part):
                raise Reject("couldn't read a sum of encrypted updates: a plaintext is larger than its words")
            data = b"".join([int(one).to_bytes(size, "little") for one in part])
            packed = np.frombuffer(data, np.uint8).reshape(len(part), size)
            digits = np.unpackbits(packed, axis=1, count=slots * bits, bitorder="little")
            wide = np.zeros((len(part) * slots, 64), np.uint8)
            wide[:, :bits] = digits.reshape(-1, bits)
            values = np.packbits(wide, axis=1, bitorder="little").view("<u8").reshape(-1)
            span = slice(start * slots, start * slots + values.size)
            used = min(values.size, elements - span.start)
            if values[used:].any():
                raise Reject("couldn't read a sum of encrypted updates: there is something in its empty slots")
            np.subtract(values, offset, out=values)
            found[span] = values.astype(self.ring.dtype)
        if bits == 36:
            np.bitwise_and(found, found.dtype.type(2**36 - 1), out=found)
        return found[:elements]
