"""Bounding what one site can do: clip an update's norm before it leaves, check it after it arrives.

L2 clipping as in Abadi et al. 2016 and McMahan et al. 2018: u <- u * min(1, C / ||u||). The sender clips; receivers do
not clip again but refuse, so that every peer averages the very bytes the contribution names.
"""

from __future__ import annotations

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import VALUE_LIMIT
from swarm.vector import Vector

BLOCK_ELEMENTS = 1 << 16

NORM_SLACK = 1e-4
"""Receivers allow this much over the bound: sums of squares round differently on different processors."""


def clip_in_place(update: Vector, bound: float) -> float:
    """Scale `update`, shape (elements,), to an L2 norm of at most `bound` (<= 0: no bound). Return the norm before.

    Raises:
        UsageError: an element is not finite.
    """
    problem = _not_finite(update)
    if problem:
        raise UsageError(f"couldn't clip the update: {problem}", hint="lower the learning rate, or clip gradients")
    norm = _norm(update)
    largest = _largest(update)
    factor = 1.0
    if bound > 0 and norm > bound:
        factor = bound / norm
    if largest * factor > VALUE_LIMIT:
        factor = VALUE_LIMIT / largest
    if factor < 1.0:
        for start in range(0, update.size, BLOCK_ELEMENTS):
            block = update[start : start + BLOCK_ELEMENTS]
            np.multiply(block, factor, out=block, casting="unsafe")
            np.clip(block, -VALUE_LIMIT, VALUE_LIMIT, out=block)
    return norm


def inspect(update: Vector, *, elements: int, bound: float) -> tuple[str, float]:
    """Return why a received update may not be averaged ("" if it may), and its norm."""
    if update.size != elements:
        return f"it has {update.size} elements, the charter's model has {elements}", 0.0
    problem = _not_finite(update)
    if problem:
        return problem, 0.0
    norm = _norm(update)
    if _largest(update) > VALUE_LIMIT:
        return f"a value in it is larger than {VALUE_LIMIT:g}", norm
    if bound > 0 and norm > bound * (1 + NORM_SLACK):
        return f"its norm {norm:.4g} is over the charter's bound {bound:g}", norm
    return "", norm


def _not_finite(update: Vector) -> str:
    for start in range(0, update.size, BLOCK_ELEMENTS):
        finite = np.isfinite(update[start : start + BLOCK_ELEMENTS])
        if not finite.all():
            return f"element {start + int(np.argmin(finite))} is not a finite number"
    return ""


def _norm(update: Vector) -> float:
    total = 0.0
    for start in range(0, update.size, BLOCK_ELEMENTS):
        block = update[start : start + BLOCK_ELEMENTS].astype(np.float64)
        # Not np.dot: BLAS would wake threads that spin for processors the links need.
        total += float(np.einsum("i,i->", block, block))
    return float(np.sqrt(total))


def _largest(update: Vector) -> float:
    largest = 0.0
    for start in range(0, update.size, BLOCK_ELEMENTS):
        block = update[start : start + BLOCK_ELEMENTS]
        largest = max(largest, float(block.max(initial=0.0)), -float(block.min(initial=0.0)))
    return largest
