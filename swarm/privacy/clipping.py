"""Bounding what one site can do: clip an update's norm before it leaves, check it after it arrives.

L2 clipping as in Abadi et al. 2016 and McMahan et al. 2018: u <- u * min(1, C / ||u||). The sender clips; receivers do
not clip again but refuse, so that every peer averages the very bytes the contribution names.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import VALUE_LIMIT
from swarm.vector import Vector

USUAL_BOUND = 100.0
"""The bound of a charter whose founders name none."""

BLOCK_ELEMENTS = 1 << 18
ROW_ELEMENTS = 1 << 12

NORM_SLACK = 1e-4
"""Receivers allow this much over the bound: sums of squares round differently on different processors."""


def clip_in_place(update: Vector, bound: float) -> float:
    """Scale `update`, shape (elements,), to an L2 norm of at most `bound` (<= 0: no bound). Return the norm before.

    Raises:
        UsageError: an element is not finite.
    """
    norm, problem = _norm(update)
    if problem:
        raise UsageError(f"couldn't clip the update: {problem}", hint="lower the learning rate, or clip gradients")
    largest = _largest(update, norm)
    factor = 1.0
    if bound > 0 and norm > bound:
        factor = bound / norm
    if largest * factor > VALUE_LIMIT:
        factor = VALUE_LIMIT / largest
    if factor < 1.0:
        for block in _blocks(update):
            # In float64: a small factor would be a rough float32.
            np.multiply(block, np.float64(factor), out=block, casting="unsafe")
            np.clip(block, -VALUE_LIMIT, VALUE_LIMIT, out=block)
    return norm


def length_of(update: Vector) -> float:
    """Return the L2 norm of an update, 0 for one that is not finite."""
    return _norm(update)[0]


def inspect(update: Vector, *, elements: int, bound: float) -> tuple[str, float]:
    """Return why a received update may not be averaged ("" if it may), and its norm."""
    if update.size != elements:
        return f"it has {update.size} elements, the charter's model has {elements}", 0.0
    norm, problem = _norm(update)
    if problem:
        return problem, 0.0
    if _largest(update, norm) > VALUE_LIMIT:
        return f"a value in it is larger than {VALUE_LIMIT:g}", norm
    if bound > 0 and norm > bound * (1 + NORM_SLACK):
        return f"its norm {norm:.4g} is over the charter's bound {bound:g}", norm
    return "", norm


def _blocks(update: Vector) -> Iterator[Vector]:
    for start in range(0, update.size, BLOCK_ELEMENTS):
        yield update[start : start + BLOCK_ELEMENTS]


def _norm(update: Vector) -> tuple[float, str]:
    """Return the L2 norm, or 0 and which element is not finite."""
    total = 0.0
    with np.errstate(over="ignore", invalid="ignore"):
        for block in _blocks(update):
            total += _sum_of_squares(block)
    if np.isfinite(total):
        return float(np.sqrt(total)), ""
    # Something is not finite, or so large that its square is not. Both are rare, so this pass may be slow.
    total = 0.0
    for number, block in enumerate(_blocks(update)):
        finite = np.isfinite(block)
        if not finite.all():
            return 0.0, f"element {number * BLOCK_ELEMENTS + int(np.argmin(finite))} is not a finite number"
        wide = block.astype(np.float64)
        total += float(np.einsum("i,i->", wide, wide))
    return float(np.sqrt(total)), ""


def _sum_of_squares(block: Vector) -> float:
    """Add rows in float32, at most 4096 elements each, and the rows in float64: an error below one part in 10**5.

    Not `np.dot`: BLAS would wake threads that spin for the processors the links need.
    """
    whole = block.size // ROW_ELEMENTS * ROW_ELEMENTS
    rows, rest = block[:whole].reshape(-1, ROW_ELEMENTS), block[whole:]
    total = np.einsum("ij,ij->i", rows, rows).sum(dtype=np.float64) if whole else 0.0
    return float(total) + float(np.einsum("i,i->", rest, rest))


def _largest(update: Vector, norm: float) -> float:
    """Return the largest magnitude, or the norm, which none exceeds, where that says enough already."""
    if norm <= VALUE_LIMIT / 2:
        return norm
    return max(max(float(block.max()), -float(block.min())) for block in _blocks(update))
