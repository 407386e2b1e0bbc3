"""Inner products of updates, to the same bytes on every processor: all that distances between them follow from.

Of n updates of d elements the n x n matrix of their inner products tells every norm, distance and angle among them and
among their means, so whatever is decided by those needs to read the updates once, and then works on n^2 numbers. It has
to be agreed on to the last bit, because a mean that everybody attests hangs on it. A product of two float32 numbers is
exact in float64. What is left is the order of additions, and it is fixed here: *tiles* of 8,192 elements, counted from
the beginning of a model and filled up with zeros at its end, are added half to half until one number is left, and the
tiles' sums one after the other. No BLAS, no `np.dot`, no `np.sum`: those add in the order that suits a processor.

Nor does memory grow with the model: a stretch of each update at a time is looked at.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError
from swarm.vector import Vector

TILE = 1 << 13
"""Elements of a tile: 64 KiB as float64, so that two updates' and their product lie in a second-level cache. It is part
of what is agreed on: another number gives other last bits."""

STRETCH = 32 * TILE
"""Elements of each update that are read at a time: 1 MiB. Any multiple of a tile gives the same result."""

LIKENESS_ELEMENTS = 4 * TILE
"""Elements whose likeness is measured at a time: as those that are averaged, so that they are still in the cache."""

ROW_ELEMENTS = 1 << 12

Read: TypeAlias = Callable[[int, int], Vector]
"""(start, count): that stretch of an update, shape (count,)."""

Gram: TypeAlias = tuple[tuple[float, ...], ...]
"""Entry (i, j) is the inner product of updates i and j."""


def gram(readers: Sequence[Read], elements: int, *, stretch: int = STRETCH) -> Gram:
    """Return the inner products of all pairs of updates of so many elements.

    Raises:
        UsageError: a value is not finite, or so large that its square is not.
    """
    assert stretch % TILE == 0, "tiles are counted from the beginning, so stretches hold whole ones"
    n = len(readers)
    sums = np.zeros((n, n))
    wide, room = np.empty((n, TILE)), np.empty((n, TILE))
    with np.errstate(over="ignore", invalid="ignore"):
        for start in range(0, elements, stretch):
            parts = [read(start, min(stretch, elements - start)) for read in readers]
            for at in range(0, parts[0].size, TILE):
                _widen(wide, parts, at)
                for i in range(n):
                    np.multiply(wide[i:], wide[i], out=room[i:])
                    np.add(sums[i, i:], _halved(room[i:]), out=sums[i, i:])
    if not np.isfinite(sums).all():
        raise UsageError("couldn't compare updates: a value in one of them is not finite, or too large to be squared")
    return tuple(tuple(float(sums[min(i, j), max(i, j)]) for j in range(n)) for i in range(n))


class Likeness:
    """How each update compares with the others: its norm, and the cosine to the sum of the others.

    Evidence for people, so nobody has to agree on its last digits, and it must not cost what the mean costs: rows of
    4,096 elements are multiplied and added in float32, in whatever order suits the processor, and only rows in float64
    (an error below one part in 10^5). One pass, in which each update is multiplied with itself and with the sum of all.
    """

    def __init__(self, updates: int) -> None:
        self._own, self._shared, self._all = [0.0] * updates, [0.0] * updates, 0.0
        self._total = np.empty(LIKENESS_ELEMENTS, np.float32)

    def take(self, parts: Sequence[Vector]) -> None:
        """Take in the next stretch of every update, each of shape (count,), of whole tiles but for the last."""
        with np.errstate(over="ignore", invalid="ignore"):
            for at in range(0, parts[0].size, LIKENESS_ELEMENTS):
                blocks = [part[at : at + LIKENESS_ELEMENTS] for part in parts]
                total = self._total[: blocks[0].size]
                np.copyto(total, blocks[0])
                for block in blocks[1:]:
                    np.add(total, block, out=total)
                for i, block in enumerate(blocks):
                    self._own[i] += _roughly(block, block)
                    self._shared[i] += _roughly(block, total)
                self._all += _roughly(total, total)

    def told(self) -> tuple[tuple[float, float], ...]:
        """Return (norm, cosine to the sum of the others) of each update; a cosine of 0 where one of the two is 0."""
        found = []
        for own, shared in zip(self._own, self._shared, strict=True):
            others = max(0.0, self._all - 2 * shared + own)
            length = math.sqrt(own * others) if math.isfinite(own * others) else 0.0
            cosine = (shared - own) / length if length > 0 else 0.0
            found.append((math.sqrt(own), max(-1.0, min(1.0, cosine))))
        return tuple(found)


def squares(one: Vector, other: Vector, before: float) -> float:
    """Return `before` plus the squared distance of two stretches, shape (count,), of whole tiles but for the last."""
    room = np.empty((1, TILE))
    with np.errstate(over="ignore", invalid="ignore"):
        for at in range(0, one.size, TILE):
            a, b = one[at : at + TILE], other[at : at + TILE]
            np.subtract(a, b, out=room[0, : a.size], dtype=np.float64)
            room[0, a.size :] = 0.0
            np.multiply(room, room, out=room)
            before += float(_halved(room)[0])
    return before


def _roughly(one: Vector, other: Vector) -> float:
    """Return the inner product, as `swarm.privacy.clipping` does: not `np.dot`, whose threads spin."""
    whole = one.size // ROW_ELEMENTS * ROW_ELEMENTS
    shape = (-1, ROW_ELEMENTS)
    rows = np.einsum("ij,ij->i", one[:whole].reshape(shape), other[:whole].reshape(shape)) if whole else np.zeros(0)
    return float(rows.sum(dtype=np.float64)) + float(np.einsum("i,i->", one[whole:], other[whole:]))


def _widen(wide: NDArray[np.float64], parts: Sequence[Vector], at: int) -> None:
    """Set the rows of `wide`, shape (n, TILE), to a tile of each part, zeros behind its end."""
    for row, part in zip(wide, parts, strict=True):
        tile = part[at : at + TILE]
        row[: tile.size] = tile
        row[tile.size :] = 0.0


def _halved(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the sum of each row of shape (k, TILE), added half to half; the rows are used up."""
    width = rows.shape[1]
    while width > 1:
        width //= 2
        np.add(rows[:, :width], rows[:, width : 2 * width], out=rows[:, :width])
    return rows[:, 0]
