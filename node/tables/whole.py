"""States that are right as a whole or not at all: an update of one is never shortened in silence.

Of a network's update a part is a step of the right direction, so a charter may bound its norm and sites clip what is
over. Of sums that everybody adds up a part is a wrong number: least squares from moments that one site had to shorten
is some other plane, and nothing in it looks wrong. So such a state says what it is by its type, and what hands in a
site's work (`node.loop.peer`) asks `check_whole` first.

Whoever copies a `Whole` into an ordinary dict loses that word. Therefore the states can be told to be damaged by
themselves too: each has a number that any mean of whole updates leaves at 1, see `check_share`.
"""

from __future__ import annotations

import math
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from swarm.charter import CLIP_NORM_MILLI_MAX
from swarm.errors import UsageError
from swarm.mixing.average import VALUE_LIMIT

SHARE_SLACK = 1e-4
"""How far from 1 a mean of ones may be: float32 and the fixed-point mean come a thousand times closer."""

Array = TypeVar("Array", bound=NDArray[np.floating])


class Whole(dict[str, Array]):
    """Arrays by name, to be averaged as they are. `remedy` is what to do where they are too large to be."""

    remedy = "divide columns by constants that all sites agree on"

    def with_remedy(self, remedy: str) -> Whole[Array]:
        """Say what to do about numbers that are too large for a charter's bound; return this state."""
        self.remedy = remedy
        return self


def check_whole(model: object, trained: NDArray[np.float32], base: NDArray[np.float32], bound: float) -> None:
    """Raise `UsageError` if a whole state's update, trained minus base, would be clipped to `bound` or by its values.

    Anything but a `Whole` passes, whatever its size; so does a bound of 0, which is none.
    """
    if not isinstance(model, Whole):
        return
    update = trained.astype(np.float64) - base
    norm = float(np.sqrt(np.square(update).sum()))
    limit = min(bound, VALUE_LIMIT) if bound > 0 else VALUE_LIMIT
    if norm <= limit:
        return
    most = CLIP_NORM_MILLI_MAX / 1000
    found = f", or found the swarm with a --clip-norm of at least {math.ceil(norm)}" if norm <= most else ""
    raise UsageError(
        f"couldn't send: the update's norm is {norm:,.5g} and may be {limit:,.5g} here, and shortened it would make the"
        " swarm's result wrong",
        hint=f"{model.remedy}{found} (a charter's largest is {most:g})",
    )


def check_share(share: float, what: str) -> None:
    """Raise `UsageError` unless the mean of a 1 from everybody is 1: else an update was shortened, or none came."""
    if abs(share - 1.0) <= SHARE_SLACK:
        return
    if share == 0.0:
        raise UsageError(f"couldn't read {what}: no round's work is in them yet", hint="wait for the first round")
    raise UsageError(
        f"couldn't read {what}: their mean of ones is {share:.4g}, so that not all that sites have added up is in it",
        hint="an update was clipped: divide columns by constants that all sites agree on, or found the swarm with a"
        " larger --clip-norm; and with exact mixing, no --codec, no outer optimiser and --staleness 0",
    )
