"""Noise that only the sum carries: who of a roster adds how much, on which words, and from which random numbers.

The sum of a masked round is to carry noise of deviation z times the most that one site can change it
(`swarm.privacy.site_noise`). Nobody can be trusted to add all of it, nor to add any: so each adds a share, before its
masks, and the shares of those that can be counted on are enough. Integers throughout: a share follows from the roster
alone, to the last bit, for everybody who looks.

*Who can be counted on.* A close is of `included_min` of the roster at least, whoever drops out and takes its noise
along. Of those, f may add none; or tell one another theirs, which comes to the same, and whoever looks at a sum knows
its own. So f is the number of liars that the ledger bears, and never below one: it is a promise against each single
member too. h = included_min - f are left, each of whom adds noise of variance (z D)^2 / h.

*What one site can change.* An update is clipped to the charter's norm C by the site itself. In steps of 2^-fraction,
each element rounded to the nearest, its norm is at most C 2^fraction + sqrt(d) / 2: the rounding errors are a vector
of d elements of half a step (deterministic rounding; Kairouz, Liu & Steinke 2021, section 4, have less for rounding
by chance). In the sum it weighs w, and D is the largest weight on the roster times that bound, the same for all: a
site of few samples is protected more. What is masked is held to the bound in whole numbers, so it is no estimate.

*Room.* A share is sub-Gaussian as a normal number of its deviation is (Canonne, Kamath & Steinke 2020), so an element
of the noise of m sites is beyond k sqrt(m) s with chance 2 exp(-k^2 / 2), and k is such that among all elements there
is one with less than 2^-40. So much room is kept besides that of the updates: a sum that wraps does not happen. The
steps are the finest for which that leaves enough.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import inf, isqrt

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from swarm.errors import UsageError
from swarm.ledger.block import faults
from swarm.machine import NoiseForm
from swarm.masking.ring import SLACK_PPM, WIDTHS, Ring, Words
from swarm.mixing.average import BLOCK_ELEMENTS, FRACTION_BITS, Sums, sums_problem
from swarm.privacy.discrete_gaussian import DEVIATION_MAX, DiscreteGaussian
from swarm.privacy.site_noise import SHARE_MIN
from swarm.vector import Vector

COUNTED_ON_MIN = 2
"""Fewest that noise is shared among: a site alone would be the only one that cannot know it."""

WRAPS_LOG2 = 40
"""A sum wraps, or is refused for its size, with a chance of at most 2^-40."""

SEED_BYTES = 32

_LOG2_PERMILLE = 1387
"""2 log 2, in thousandths, rounded up."""

_NORM_DEVIATIONS = 8
"""By how many deviations of one element the norm of noise may exceed sqrt(d) of them: more has chance 2^-46 (Hsu,
Kakade & Zhang, "A tail inequality for quadratic forms of subgaussian random vectors", 2012)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """What each on a roster adds, in words of `ring`.

    Args:
        ring: The words, with room for the noise.
        deviation: Of one site's noise on each element.
        norm_max: The largest norm of an update, before it is weighted, in steps.
        elements: Of the model.
        members: On the roster.
        counted_on: How many of a sum add noise that nobody knows.
    """

    ring: Ring
    deviation: int
    norm_max: int
    elements: int
    members: int
    counted_on: int

    @property
    def added(self) -> float:
        """The deviation of one site's noise, in units of the model: of its weighted update."""
        return self.deviation * 2.0**-self.ring.fraction

    def sum_norm_max(self, weight: int) -> int:
        """Return the largest norm, in words, of a sum of updates of so much weight, with everybody's noise on it."""
        return weight * self.norm_max + _spread(self.deviation, self.members) * (
            isqrt(self.elements) + 1 + _NORM_DEVIATIONS
        )


def silent(swarm: int) -> int:
    """Return how many of a swarm of so many may add no noise, or tell others theirs: f, one at least."""
    return max(1, faults(swarm))


def counted_on(included_min: int, swarm: int) -> int:
    """Return how many of a sum can be counted on for noise; 0 or less where nobody can."""
    return included_min - silent(swarm)


def share(
    *,
    bits: int,
    heaviest: int,
    total: int,
    members: int,
    clip_norm_milli: int,
    elements: int,
    multiplier_milli: int,
    counted_on: int,
) -> Share:
    """Return what each of a roster adds so that the sum has enough, and the words in which there is room for it.

    Args:
        bits: Of a word.
        heaviest: The largest weight on the roster.
        total: What the weights on it sum to.
        members: On the roster.
        clip_norm_milli: The norm bound of updates, in thousandths.
        elements: Of the model.
        multiplier_milli: z, in thousandths.
        counted_on: Of how many the noise must be enough, `COUNTED_ON_MIN` at least.

    Raises:
        UsageError: words of so many bits have no room for it.
    """
    assert counted_on >= COUNTED_ON_MIN, "a roster that noise can be shared on"
    tails = isqrt((1 + WRAPS_LOG2 + elements.bit_length()) * _LOG2_PERMILLE // 1000 + 1) + 1
    bound_milli = -(-clip_norm_milli * (1_000_000 + SLACK_PPM) // 1_000_000)
    for fraction in range(FRACTION_BITS, max(0, bits - 32) - 1, -1):
        norm = -(-(bound_milli << fraction) // 1000) + isqrt(elements) // 2 + 1
        changed = multiplier_milli * heaviest * norm
        deviation = max(SHARE_MIN, _root_up(-(-changed * changed // (1_000_000 * counted_on))))
        room = tails * _spread(deviation, members)
        if total * norm + room < 1 << (bits - 1) and deviation <= DEVIATION_MAX:
            return Share(
                ring=Ring(bits=bits, fraction=fraction, weight_total=total, room=room),
                deviation=deviation,
                norm_max=norm,
                elements=elements,
                members=members,
                counted_on=counted_on,
            )
    raise UsageError(
        f"couldn't find room in words of {bits} bits for noise of {multiplier_milli / 1000:g} times a norm of"
        f" {clip_norm_milli / 1000:g}: a sum would wrap",
        hint=("take masks of 36 bits (pairwise), or " if bits == min(WIDTHS) else "take ")
        + "a smaller --clip-norm, a larger epsilon or fewer rounds",
    )


def check_norm(update: Vector, ring: Ring, norm_max: int) -> None:
    """Hold the norm of an update's steps, shape (elements,), to a bound, in whole numbers.

    Raises:
        UsageError: it is over the bound.
    """
    total = 0
    for start in range(0, update.size, BLOCK_ELEMENTS):
        steps = ring.steps(update[start : start + BLOCK_ELEMENTS])
        if not float(np.abs(steps).max(initial=0.0)) <= norm_max:  # So that a value that is no number is refused too.
            total = norm_max * norm_max + 1
            break
        whole = np.abs(steps.astype(np.int64))
        high, low = whole >> 18, whole & ((1 << 18) - 1)  # Of 36 bits: sums of 2^18 squares stay below 2^55.
        total += (int((high * high).sum()) << 36) + (int((high * low).sum()) << 19) + int((low * low).sum())
    if total > norm_max * norm_max:
        raise UsageError(
            "couldn't add noise to the update: its norm is over the charter's bound, which all noise is measured by",
            hint="clip the update to the charter's norm bound first",
        )


class Noise:
    """One site's noise, element after element, from a seed that nobody else has and nothing else uses.

    The key stream of AES-256 in counter mode is its source of random numbers, as it is that of masks: whoever starts
    again with the same seed makes the same noise, and so the same masked update.
    """

    def __init__(self, seed: bytes, deviation: int) -> None:
        assert len(seed) == SEED_BYTES, "a seed is 32 bytes"
        cipher = Cipher(algorithms.AES256(seed), modes.CTR(bytes(16))).encryptor()
        self._source = DiscreteGaussian(deviation, lambda size: cipher.update(bytes(size)))

    def add_to(self, words: Words) -> None:
        """Set words += noise, modulo 2**bits, shape (elements,)."""
        for start in range(0, words.size, BLOCK_ELEMENTS):
            block = words[start : start + BLOCK_ELEMENTS]
            np.add(block, self._source.take(block.size).astype(block.dtype), out=block)


def measured(form: NoiseForm | None, update: Vector, ring: Ring) -> Noise | None:
    """Return the noise for an update, shape (elements,), once that is known to be no longer than the noise is made for.

    Raises:
        UsageError: it is longer.
    """
    if form is None:
        return None
    seed, deviation, norm_max = form
    check_norm(update, ring, norm_max)
    return Noise(seed, deviation)


def sum_problem(sums: Sums, weight: int, ring: Ring, norm_max: int, bound: float) -> str:
    """Return why these, in steps of 2^-32, are no sums of updates of so much weight; "" if they may be.

    `norm_max` is what noise lets them have, in words of the ring; where it is 0 there is none, and each update's norm
    is at most `bound`. How large one element may be, with its noise, the ring has seen to.
    """
    if not norm_max:
        return sums_problem(sums, weight, bound)
    return sums_problem(sums, weight, norm_max * 2.0**-ring.fraction / weight, largest=inf)


def _spread(deviation: int, members: int) -> int:
    """Return the deviation of so many sites' noise together, rounded up."""
    return _root_up(deviation * deviation * members)


def _root_up(square: int) -> int:
    root = isqrt(square)
    return root if root * root == square else root + 1
