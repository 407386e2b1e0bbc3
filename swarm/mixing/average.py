"""The weighted mean, in integers, so that every peer gets the same bytes.

FedAvg (McMahan et al. 2017, algorithm 1): next = base + sum_i w_i u_i / sum_i w_i, with u_i a site's update and w_i its
sample count. Floating-point sums depend on order and processor; integer sums do not. Each element is turned into fixed
point with `FRACTION_BITS` binary places (a product with a power of two, exact in float64, then rounded to the nearest
integer), weighted and added in int64, and divided once at the end. Masks of secure aggregation, which live in the same
ring, cancel exactly.

The bound that keeps int64 from overflowing: |u| <= 2**10, 2**32 fixed-point steps per unit and a total weight of at
most 2**20 give |sum| <= 2**62.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.vector import Vector

FRACTION_BITS = 32
VALUE_LIMIT = 1024.0
WEIGHT_TOTAL_MAX = 2**20
BLOCK_ELEMENTS = 1 << 15
"""Elements worked on at a time: the scratch of one block (640 KiB) stays in the second-level cache."""

PPM = 1_000_000


def integer_weights(samples: Sequence[int], *, cap_ppm: int = PPM) -> tuple[int, ...]:
    """Return integer weights proportional to sample counts, no site's share above `cap_ppm` millionths.

    The excess of capped sites is spread over the others in proportion (water-filling). Weights sum to at most
    `WEIGHT_TOTAL_MAX`; a site with samples keeps at least 1. A cap too low to share everything means equal weights.

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
    if not capped and total <= WEIGHT_TOTAL_MAX:
        return tuple(samples)
    scale = WEIGHT_TOTAL_MAX - len(samples)  # leaves room for the sites that are rounded up to 1
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


def weighted_mean_into(out: Vector, base: Vector, updates: Sequence[Vector], weights: Sequence[int]) -> None:
    """Set out = base + sum_i w_i u_i / sum_i w_i, all of shape (elements,). The order of the updates does not matter.

    Every |u| must be at most `VALUE_LIMIT` and the weights must sum to 1..`WEIGHT_TOTAL_MAX`: `integer_weights` and
    `swarm.privacy.clipping.inspect` see to it. `out` may be `base`, not an update.
    """
    total = sum(weights)
    assert 0 < total <= WEIGHT_TOTAL_MAX, "weights come from integer_weights"
    assert len(updates) == len(weights), "one weight an update"
    real = np.empty(BLOCK_ELEMENTS, np.float64)
    fixed = np.empty(BLOCK_ELEMENTS, np.int64)
    sums = np.empty(BLOCK_ELEMENTS, np.int64)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, min(start + BLOCK_ELEMENTS, out.size))
        n = span.stop - start
        _sum_block(sums[:n], [update[span] for update in updates], weights, real[:n], fixed[:n])
        # One division of integers converted to float64, one rounding to float32, one float32 addition: each is
        # correctly rounded by IEEE 754, so the bytes are the same on every processor.
        np.divide(sums[:n], float(total * 2**FRACTION_BITS), out=real[:n])
        np.add(base[span], real[:n].astype(np.float32), out=out[span])


def _sum_block(
    sums: NDArray[np.int64],
    updates: Sequence[Vector],
    weights: Sequence[int],
    real: NDArray[np.float64],
    fixed: NDArray[np.int64],
) -> None:
    sums.fill(0)
    for update, weight in zip(updates, weights, strict=True):
        np.multiply(update, 2.0**FRACTION_BITS, out=real, dtype=np.float64)
        np.rint(real, out=real)
        np.copyto(fixed, real, casting="unsafe")
        np.multiply(fixed, weight, out=fixed)
        np.add(sums, fixed, out=sums)
