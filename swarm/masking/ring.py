"""Updates as words: residues modulo 2**bits, in which masks cancel to the last bit.

A weighted update becomes one word for each element: w * rint(u * 2**fraction), modulo 2**bits. Adding words of all
who are in a round and reading the result as a signed number gives sum_i w_i rint(u_i 2**fraction), and that, in steps
of 2**-32, is the very sum that `swarm.mixing.average` divides: the mean of masked updates has the bytes of the plain
one.

Three widths. In 64 bits a step is 2**-32 as in the plain mean, so nothing at all is lost, and a word is twice a
float32. In 36 and 32 bits (1.125 and 1 times a float32) the step is coarser: as fine as the charter's norm bound and
its weights leave room for. Then an update is put on that grid first (`on_grid`), like by any codec that rounds, with
what is left out kept for the next round; the mean of masked updates has the bytes of the plain mean of those.

*Headroom.* With W the most that all weights of a roster sum to, an element takes at most `steps_max` =
floor((2**(bits-1) - 1) / W) steps either way, or is refused before it is masked. So for any members of any number,
|sum_i w_i q_i| <= steps_max * sum_i w_i <= steps_max * W <= 2**(bits-1) - 1, and reading the sum as signed is exact.
Where sums carry noise (`swarm.masking.noise`) so many words as that may take, `room`, are left out of this to begin
with. Nobody can see whether another keeps to that. What comes out of a sum is therefore held against the bound of its
own weight, and then against the norm bound of the mean (`swarm.mixing.average.sums_problem`).

Words wrap by design; only integer and correctly rounded element-wise operations are used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias, cast

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.machine import Buffer
from swarm.mixing.average import BLOCK_ELEMENTS, FRACTION_BITS, VALUE_LIMIT, WEIGHT_TOTAL_MAX, Sums
from swarm.privacy.clipping import NORM_SLACK
from swarm.vector import ELEMENTS_MAX, Vector

Words: TypeAlias = NDArray[np.uint32] | NDArray[np.uint64]
"""Residues, shape (elements,): of 32 bits as uint32, else as uint64, of which only the low `bits` mean anything."""

WIDTHS = (32, 36, 64)
"""In bits. 36 is what stays below 1.2 times a float32 and is made of whole half-bytes."""

NARROW_WEIGHT = 64
"""What weights sum to, for each member, in a ring with no room to spare: shares are right to a percent or so."""

PAIRWISE = "pairwise"
"""What a charter's option for masks begins with: each two members have a mask between them."""

_BITS = {PAIRWISE: 36, f"{PAIRWISE}:64": 64, f"{PAIRWISE}:32": 32}

_ENCRYPTIONS = ("paillier", "ckks", "bfv", "bgv", "elgamal", "homomorphic")
"""What somebody may ask for who means to sum under encryption: an answer of its own, see `docs/decisions/0050`."""

SLACK_PPM = round(NORM_SLACK * 1_000_000)


def parse(text: str) -> int:
    """Return the width in bits that a charter's option names: "pairwise" is 36. Raises `UsageError` for another."""
    if text.partition(":")[0].lower() in _ENCRYPTIONS:
        raise UsageError(
            f"couldn't accept the charter: masks = {text!r}, but rounds are summed under masks and not under"
            " homomorphic encryption, which takes a thousand times the work and more, twice the bytes and a dealer of"
            " keys for the same sum",
            hint="take --masks pairwise; docs/guides/privacy.md says where encryption earns its place",
        )
    if text not in _BITS:
        raise UsageError(f"couldn't accept the charter: masks = {text!r}", hint=f"known are {', '.join(_BITS)}")
    return _BITS[text]


def weight_total(bits: int, members: int) -> int:
    """Return the most that the weights of so many members should sum to: `integer_weights` has a limit for it.

    In 64 bits sample counts stay what they are. In fewer each bit of weight is a bit of the update's precision, so
    weights are rounded: 64 a member, as if there were 64 members at least.
    """
    return WEIGHT_TOTAL_MAX if bits == 64 else min(WEIGHT_TOTAL_MAX, NARROW_WEIGHT * max(NARROW_WEIGHT, members))


@dataclass(frozen=True, slots=True, kw_only=True)
class Ring:
    """Which residues words are, and what they stand for.

    Args:
        bits: The modulus is 2**bits, see `WIDTHS`.
        fraction: Binary places of an element: a step is 2**-fraction.
        weight_total: The most that the integer weights of a roster sum to.
        room: Words that are kept for the noise of a sum, either way.
    """

    bits: int
    fraction: int
    weight_total: int
    room: int = 0

    def __post_init__(self) -> None:
        assert self.bits in WIDTHS, "a width that there is"
        assert 1 <= self.weight_total <= WEIGHT_TOTAL_MAX, "weights come from integer_weights"
        # The lower end keeps a sum, in steps of 2**-32, within 64 bits whatever liars made of it.
        assert max(0, self.bits - 32) <= self.fraction <= FRACTION_BITS, "a fraction that `fitting` has found"
        assert 0 <= self.room < 1 << (self.bits - 1), "less than there is"

    @classmethod
    def fitting(cls, bits: int, *, weight_total: int, clip_norm_milli: int) -> Ring:
        """Return the ring of this width with the finest steps that hold every update within the charter's norm bound.

        `clip_norm_milli` is the bound in thousandths, `weight_total` the most that weights sum to. No element is
        larger than the norm, nor than `VALUE_LIMIT`.

        Raises:
            UsageError: there is no such width.
        """
        if bits not in WIDTHS:
            raise UsageError(f"couldn't make a ring of {bits} bits", hint=f"take one of {', '.join(map(str, WIDTHS))}")
        largest_milli = min(-(-clip_norm_milli * (1_000_000 + SLACK_PPM) // 1_000_000), int(VALUE_LIMIT) * 1_000)
        steps_max = ((1 << (bits - 1)) - 1) // weight_total
        # There always is one: 2**20 of weight leave 2,047 steps in 32 bits, and values are 1,024 at most.
        fraction = next(
            fraction
            for fraction in range(FRACTION_BITS, -1, -1)
            if -(-(largest_milli << fraction) // 1_000) <= steps_max
        )
        return cls(bits=bits, fraction=fraction, weight_total=weight_total)

    @property
    def dtype(self) -> np.dtype[np.uint32] | np.dtype[np.uint64]:
        """Of words in memory, little endian everywhere: masks are bytes first."""
        return np.dtype("<u4") if self.bits == 32 else np.dtype("<u8")

    @property
    def steps_max(self) -> int:
        """The most steps that an element may take either way: see headroom, above."""
        return ((1 << (self.bits - 1)) - 1 - self.room) // self.weight_total

    def size(self, elements: int) -> int:
        """Return the bytes of so many packed words."""
        return self.bits * elements // 8 + (self.bits * elements % 8 > 0)

    def words(self, elements: int) -> Words:
        """Return so many words of 0."""
        return np.zeros(elements, self.dtype)

    # --- in -----------------------------------------------------------------------------------------------------

    def on_grid(self, update: Vector) -> Vector:
        """Return the update, shape (elements,), in whole steps: what a site's masked update stands for.

        Each value is a float32: either it has fewer than 24 binary digits in steps, or it was whole already.
        """
        steps = self.steps(update)
        np.multiply(steps, np.float32(2.0**-self.fraction), out=steps)
        return steps

    def encode_into(self, words: Words, update: Vector, weight: int) -> None:
        """Set words = weight * update, both of shape (elements,).

        Raises:
            UsageError: an element is not finite, or takes more steps than there is room for.
        """
        if not 0 < weight <= self.weight_total:
            raise UsageError(
                f"couldn't mask an update with the weight {weight}", hint=f"weights are 1 to {self.weight_total}"
            )
        whole = np.empty(min(BLOCK_ELEMENTS, update.size), np.int64)
        for start in range(0, update.size, BLOCK_ELEMENTS):
            block = self.steps(update[start : start + BLOCK_ELEMENTS])
            part = whole[: block.size]
            largest = max(float(block.max()), -float(block.min()))
            if not largest <= self.steps_max:  # So that a value that is no number is refused as well.
                raise UsageError(
                    f"couldn't mask the update: an element of {largest * 2.0**-self.fraction:.4g} has no room in"
                    f" {self.bits} bits",
                    hint="clip the update to the charter's norm bound first",
                )
            np.copyto(part, block, casting="unsafe")
            np.multiply(part, weight, out=part)
            words[start : start + block.size] = part.astype(self.dtype)  # Integers wrap: residues of negative numbers.

    def steps(self, update: Vector) -> Vector:
        """Return rint(u * 2**fraction), as float32: the product is exact, and rounded once to a whole number."""
        with np.errstate(over="ignore", invalid="ignore"):
            steps = np.multiply(update, np.float32(2.0**self.fraction))
        return np.rint(steps, out=steps)

    # --- out ----------------------------------------------------------------------------------------------------

    def sums(self, total: Words, weight: int) -> Sums:
        """Return what unmasked words of so much weight together stand for, as `mean_of_sums_into` takes it.

        Raises:
            Reject: an element is larger than anything that updates of this weight can sum to: somebody lied.
        """
        sums, bound = np.empty(total.size, np.int64), weight * self.steps_max + self.room
        spare, coarser = 64 - self.bits, FRACTION_BITS - self.fraction
        for start in range(0, total.size, BLOCK_ELEMENTS):
            signed = sums[start : start + BLOCK_ELEMENTS]
            np.copyto(signed, total[start : start + signed.size], casting="unsafe")
            np.left_shift(signed, spare, out=signed)
            np.right_shift(signed, spare, out=signed)  # arithmetic, so that the sign is carried down
            if not (-bound <= int(signed.min()) and int(signed.max()) <= bound):
                raise Reject(
                    f"couldn't take a sum of masked updates: a value in it is too large for a weight of {weight}"
                )
            np.left_shift(signed, coarser, out=signed)
        return sums

    # --- on the wire --------------------------------------------------------------------------------------------

    def pack(self, words: Words) -> bytes:
        """Return words as they travel: the low 32 bits of all, then what is above those, two to a byte; or as 64 bits.

        Cutting a word down to the low bits is what arithmetic modulo 2**bits does anyway.
        """
        if self.bits != 36:
            return words.tobytes()
        packed = np.empty(self.size(words.size), np.uint8)
        low, high = packed[: 4 * words.size].view("<u4"), packed[4 * words.size :]
        for start in range(0, words.size, BLOCK_ELEMENTS):
            halves = words[start : start + BLOCK_ELEMENTS].view("<u4").reshape(-1, 2)
            low[start : start + len(halves)] = halves[:, 0]
            upper = halves[:, 1].astype(np.uint8) & 15
            pairs = high[start // 2 : (start + len(halves) + 1) // 2]
            pairs[:] = upper[0::2]
            pairs[: upper.size // 2] |= upper[1::2] << 4
        return packed.tobytes()

    def spans(self, start: int, count: int, elements: int) -> tuple[tuple[int, int, int], ...]:
        """Return where packed words of a stretch lie among those of all elements: (offset here, offset there, bytes).

        `count` words from `start` on, which is even; where `count` is odd, the last word is the last of all.
        """
        if self.bits != 36:
            each = self.dtype.itemsize
            return ((0, each * start, each * count),)
        return (0, 4 * start, 4 * count), (4 * count, 4 * elements + start // 2, (count + 1) // 2)

    def unpack(self, data: Buffer, elements: int) -> Words:
        """Return the words that were packed, of which there are `elements`. Any residues are words: they look random.

        Raises:
            Reject: there are more or fewer bytes, or bits beyond the last word.
        """
        size = len(memoryview(data).cast("B"))
        if not 0 <= elements <= ELEMENTS_MAX or size != self.size(elements):
            raise Reject(f"couldn't read a masked update of {elements} elements: it has {size} bytes")
        if self.bits != 36:
            return cast("Words", np.frombuffer(data, self.dtype, elements))
        pairs = np.frombuffer(data, np.uint8, offset=4 * elements)
        if elements % 2 and pairs[-1] >> 4:
            raise Reject("couldn't read a masked update: there are bits beyond its last element")
        words = np.empty(elements, self.dtype)
        halves = words.view("<u4").reshape(-1, 2)
        halves[:, 0] = np.frombuffer(data, "<u4", elements)
        halves[0::2, 1] = pairs & 15
        halves[1::2, 1] = (pairs >> 4)[: elements // 2]
        return words
