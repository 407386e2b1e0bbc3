"""The weighted mean, in integers, so that every peer gets the same bytes.

FedAvg (McMahan et al. 2017, algorithm 1): next = base + sum_i w_i u_i / sum_i w_i, with u_i a site's update and w_i its
sample count. Floating-point sums depend on order and processor; integer sums do not. Each element is turned into fixed
point with `FRACTION_BITS` binary places (a product with a power of two, which is exact, then rounded to the nearest
integer), weighted and added as int64, and divided once at the end. Masks of secure aggregation, which live in the same
ring, cancel exactly.

The bound that keeps int64 from overflowing: |u| <= 2**10, 2**32 fixed-point steps per unit and a total weight of at
most 2**20 give |sum| <= 2**62.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.vector import Vector

FRACTION_BITS = 32
VALUE_LIMIT = 1024.0
WEIGHT_TOTAL_MAX = 2**20
BLOCK_ELEMENTS = 1 << 15
"""Elements worked on at a time: the scratch of one block (about 700 KiB) stays in the second-level cache."""

EXACT_IN_FLOAT64 = 2.0**53

SUM_SLACK = 2e-4
"""Sums may be over the bound by so much: each update by half of it, and rounding."""

PPM = 1_000_000

Sums: TypeAlias = NDArray[np.int64]
"""Sums of weighted updates in fixed point, shape (elements,)."""


def integer_weights(
    samples: Sequence[int], *, cap_ppm: int = PPM, total_max: int = WEIGHT_TOTAL_MAX
) -> tuple[int, ...]:
    """Return integer weights proportional to sample counts, no site's share above `cap_ppm` millionths.

    The excess of capped sites is spread over the others in proportion (water-filling). Weights sum to at most
    `total_max`, above the number of sites; a site with samples keeps at least 1. A cap too low to share everything
    means equal weights.

    Raises:
        UsageError: a negative count, or no samples at all.
    """
    if any(count < 0 for count in samples) or sum(samples) <= 0:
        raise UsageError(f"couldn't weight the sites: their sample counts are {list(samples)}")
    present = [i for i, count in enumerate(samples) if count > 0]
    total = sum(samples)
    if cap_ppm * len(present) <= PPM:
        return tuple(1 if count > 0 else 0 for count in samples)
    capped = _capped(samples, present, cap_ppm)
    if not capped and total <= total_max:
        return tuple(samples)
    scale = total_max - len(samples)  # leaves room for the sites that are rounded up to 1
    cap = scale * cap_ppm // PPM
    rest = sum(samples[i] for i in present if i not in capped)
    room = scale - cap * len(capped)
    weights = []
    for i, count in enumerate(samples):
        share = cap if i in capped else count * room // rest if rest else 0
        weights.append(max(1, share) if count > 0 else 0)
    return tuple(weights)


def _capped(samples: Sequence[int], present: Sequence[int], cap_ppm: int) -> tuple[int, ...]:
    """Return the sites whose share exceeds the cap, once the excess of the larger ones has been spread."""
    order = sorted(present, key=lambda i: (-samples[i], i))
    rest = sum(samples[i] for i in present)
    capped: list[int] = []
    for i in order:
        room_ppm = PPM - cap_ppm * len(capped)
        if samples[i] * room_ppm <= cap_ppm * rest:
            break
        capped.append(i)
        rest -= samples[i]
    return tuple(capped)


def weighted_mean_into(
    out: Vector,
    base: Vector,
    updates: Sequence[Vector],
    weights: Sequence[int],
    *,
    rest: int = 0,
) -> None:
    """Set out = base + sum_i w_i u_i / (sum_i w_i + rest), shapes (elements,). Updates may come in any order.

    On a base of zeros that is the mean, by which an outer optimiser takes its step (`swarm.mixing.outer`). `rest` is
    the weight of those that are not there and count as if their updates were zero. Every |u| must be at most
    `VALUE_LIMIT` and the weights must sum to 1..`WEIGHT_TOTAL_MAX`: `integer_weights` and
    `swarm.privacy.clipping.inspect` see to it. `out` may be `base`, not an update.
    """
    total = sum(weights) + rest
    assert 0 < total - rest <= WEIGHT_TOTAL_MAX, "weights come from integer_weights"
    assert len(updates) == len(weights), "one weight an update"
    scratch = _Scratch(min(BLOCK_ELEMENTS, out.size))
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, min(start + BLOCK_ELEMENTS, out.size))
        mean = _mean_block([update[span] for update in updates], weights, total, scratch)
        np.add(base[span], mean, out=out[span])


def coalition_model(base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> Vector:
    """Return what the mean of these updates alone makes of `base`, as the round's mean would: base itself for none."""
    made = base.copy()
    if updates:
        weighted_mean_into(made, base, updates, weights)
    return made


def add_weighted(sums: Sums, update: Vector, weight: int) -> None:
    """Set sums += weight u, in fixed point; both of shape (elements,). The same bounds hold as for the mean."""
    steps, whole = np.empty(BLOCK_ELEMENTS, np.float32), np.empty(BLOCK_ELEMENTS, np.int64)
    for start in range(0, sums.size, BLOCK_ELEMENTS):
        block = sums[start : start + BLOCK_ELEMENTS]
        n = block.size
        _fixed_point(update[start : start + n], steps[:n])
        np.copyto(whole[:n], steps[:n], casting="unsafe")
        np.multiply(whole[:n], weight, out=whole[:n])
        np.add(block, whole[:n], out=block)


def sums_problem(sums: Sums, weight: int, bound: float, *, largest: float = VALUE_LIMIT) -> str:
    """Return why these are not the sums of updates within a norm bound, of so much weight together; "" if they may be.

    The norm of a sum is at most the sum of the norms. Values are those of a sum of nothing but allowed ones, of which
    none is beyond `largest`.
    """
    total = 0.0
    for start in range(0, sums.size, BLOCK_ELEMENTS):
        wide = sums[start : start + BLOCK_ELEMENTS].astype(np.float64)
        np.multiply(wide, 2.0**-FRACTION_BITS, out=wide)
        if float(np.abs(wide).max()) > weight * largest:
            return f"a value in a sum of weight {weight} is larger than {weight * largest:g}"
        total += float(np.einsum("i,i->", wide, wide))
    norm = float(np.sqrt(total))
    if norm > weight * bound * (1 + SUM_SLACK):
        return f"the norm {norm:.4g} of a sum of weight {weight} is over the charter's bound {weight * bound:g}"
    return ""


def mean_of_sums_into(out: Vector, base: Vector, sums: Sums, total: int) -> None:
    """Set out = base + sums / total, to the same bytes as `weighted_mean_into` of what was added up."""
    real = np.empty(BLOCK_ELEMENTS, np.float64)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, min(start + BLOCK_ELEMENTS, out.size))
        wide = real[: span.stop - span.start]
        np.copyto(wide, sums[span])
        mean = np.empty(wide.size, np.float32)
        _divide(wide, total, mean)
        np.add(base[span], mean, out=out[span])


class _Scratch:
    """What one block needs besides its inputs."""

    def __init__(self, elements: int) -> None:
        self.steps = np.empty(elements, np.float32)
        self.real = np.empty(elements, np.float64)
        self.whole = np.empty(elements, np.int64)
        self.real_sums = np.empty(elements, np.float64)
        self.whole_sums = np.empty(elements, np.int64)


def _mean_block(updates: Sequence[Vector], weights: Sequence[int], total: int, scratch: _Scratch) -> Vector:
    """Return sum_i w_i u_i / total of one block, rounded to float32; valid until the next call.

    Sums of integers below 2**53 are exact in float64, which processors add twice as fast as int64, so that is where
    they are added unless the values are unusually large. Both ways give the same bytes.
    """
    n = updates[0].size
    steps, real, real_sums = scratch.steps[:n], scratch.real[:n], scratch.real_sums[:n]
    largest = 0.0
    for number, (update, weight) in enumerate(zip(updates, weights, strict=True)):
        _fixed_point(update, steps)
        largest += weight * max(float(steps.max()), -float(steps.min()))
        np.multiply(steps, weight, out=real if number else real_sums, dtype=np.float64)
        if number:
            np.add(real_sums, real, out=real_sums)
    if largest >= EXACT_IN_FLOAT64:
        whole, whole_sums = scratch.whole[:n], scratch.whole_sums[:n]
        whole_sums.fill(0)
        for update, weight in zip(updates, weights, strict=True):
            _fixed_point(update, steps)
            np.copyto(whole, steps, casting="unsafe")
            np.multiply(whole, weight, out=whole)
            np.add(whole_sums, whole, out=whole_sums)
        np.copyto(real_sums, whole_sums)
    _divide(real_sums, total, steps)
    return steps


def _divide(sums: NDArray[np.float64], total: int, mean: Vector) -> None:
    """Set mean = sums / total, out of fixed point; `sums` is used up.

    One conversion of an integer to float64, one division, one rounding to float32, and the caller's float32 addition:
    each is correctly rounded by IEEE 754, so the bytes are the same on every processor.
    """
    np.divide(sums, float(total * 2**FRACTION_BITS), out=sums)
    np.copyto(mean, sums, casting="same_kind")
    # Integers have one zero. A sum of nothing but minus zeros would otherwise keep its sign on one way only.
    np.add(mean, np.float32(0.0), out=mean)


def _fixed_point(update: Vector, steps: Vector) -> None:
    """Set steps = u * 2**32, rounded to whole numbers, both exact: float32 has 24 binary digits, wherever they are."""
    np.multiply(update, np.float32(2**FRACTION_BITS), out=steps)
    np.rint(steps, out=steps)
