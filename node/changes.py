"""What a round's training has changed in a model, tensor by tensor: an update, or a sentence why there is none."""

from __future__ import annotations

import numpy as np

from swarm.errors import UsageError
from swarm.privacy.clipping import length_of
from swarm.vector import Layout, Vector

DIVERGED = "lower the learning rate, or look for empty batches and divisions by zero"


def change_into(out: Vector, now: Vector, base: Vector, name: str, hint: str = DIVERGED) -> None:
    """Set out = now - base, the change of tensor `name`, all of shape (elements,) and float32.

    A mask of attention holds -inf, and -inf less -inf is no number: what has not changed has not changed.

    Raises:
        UsageError: it has become what no number can be added to others' for; its hint is `hint`.
    """
    with np.errstate(invalid="ignore", over="ignore"):
        np.subtract(now, base, out=out)
    if np.isfinite(out).all():
        return
    out[now == base] = 0.0
    finite = np.isfinite(out)
    if not finite.all():
        first = float(now[int(np.argmin(finite))])
        of = f"{out.size - int(finite.sum())} of its {out.size} numbers" if out.size > 1 else "its one number"
        raise UsageError(
            f"couldn't send what was learnt: {name} is not finite after training ({of}, the first is {first})",
            hint=hint,
        )


def changes_into(out: Vector, now: Vector, base: Vector, layout: Layout) -> None:
    """Set out = now - base as `change_into` does, for a whole model; raise as it does, by the first such tensor."""
    for name, (start, end) in layout.offsets().items():
        change_into(out[start:end], now[start:end], base[start:end], name)


def longest_of(update: Vector, layout: Layout) -> tuple[str, float]:
    """Return the tensor that makes most of an update's norm, and which share of the squared norm that is, 0 to 1."""
    squares = {name: length_of(update[start:end]) ** 2 for name, (start, end) in layout.offsets().items()}
    longest = max(squares, key=squares.__getitem__)
    return longest, squares[longest] / (sum(squares.values()) or 1.0)
