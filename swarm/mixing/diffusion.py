"""Exact diffusion with local steps: gradient tracking that learns from the mixed models alone.

With unlike data, D-PSGD stops at a floor (`swarm.mixing.tracking` says why). Gradient tracking mixes a second vector
beside the model to learn each site's correction, so that a round takes twice the bytes. This form mixes the model and
nothing else. It is Local Exact-Diffusion (Alghunaim 2023, arXiv 2302.00620; for one local step exact diffusion, Yuan,
Ying, Zhao & Sayed 2019, and D2, Tang et al. 2018; on a complete graph Scaffnew, Mishchenko et al. 2022). In round t,
for site i:

    y    = x_i + u_i(x_i; c_i)       K local steps; to what each adds to the model, c_i / K is added
    x_i' = sum_j W_ij y_j            gossip, as ever
    c_i <- c_i + s (x_i' - y)        what the others have pulled it back by

c_i is a displacement of the model, in its own units: neither learning rates nor gradients are known here, nor need they
be reported. In units of a gradient it is -c_i / (K eta), and takes the place of the correction in K-GT.

*Why this needs no second vector.* K-GT learns its correction from the mixed updates, sum_j W_ij (x_j - y_j). Of that a
site knows the mixed y from its neighbours' models, and does not know the mixed x: what a neighbour began the round with
is a mean of models that were sent to that neighbour. With x_i in its place, a site's own beginning, the update is the
equation above. It learns from disagreement, and not from the difference of gradients, as the integral part of a
controller does.

*What holds.* With s the same for all and rows for which sum_i n_i W_ij = n_j, as those of the product's rounds are
(decision 0016), the weighted sum of all c_i stays zero, whatever pairs are skipped. At rest x' = y for all, so models
agree; then each site's steps and its correction cancel, and the sum over sites of what K steps do where each is
corrected is zero: for gradient descent that is the optimum of the whole, whatever K is. A site that can only be
corrected after its training (`carry_into`) rests where the updates sum to zero, as FedAvg does.

*Why s is a half.* For a mode of the graph with eigenvalue l of W, and local training that shrinks an error by r < 1,
the error obeys z^2 - (1 + r l - s (1 - l)) z + r l = 0, which is stable if and only if s (1 - l) < 2 (1 + r l). For
s = 1, as it is published, and small local steps l has to stay above -1/3; for s = 1/2 it is -3/5, which is where a
torus and a hypercube of sixteen have theirs under Metropolis-Hastings weights. A schedule that changes from round to
round has no eigenvalues to hold on to. On seven schedules, with no pair lost and with one in five, a half diverges
nowhere, and 0.6 on four of them, two of which change (decision 0041).

What breaks it: a site that leaves, or forgets its c_i, takes that out of the sum for good, and the others come to rest
beside the optimum by as much. All have to begin again at zero then: the log says from which round on
(`swarm.ledger.exchange.Exchange.anew`). One that joins brings zero, and the sum stays.
"""

from __future__ import annotations

import re

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.vector import Vector

GAIN_MOST = 0.5
"""The largest s that has been found stable on every schedule that was tried, with quadratics of moderate steps."""

GAIN = 0.25
"""s if none is said. Steps that overshoot leave less room than the above has: on digits at sixteen very unequal sites
on a ring, perceptrons at the rate that suits plain gossip diverge with a half and not with this. On an exponential
graph they do with either, as with K-GT: the rate has to come down (decision 0041)."""

NAME = "gt"
"""What charters call it: gradient tracking is the name that users know the family by."""

_FORM = re.compile(r"gt(?::([1-9][0-9]{0,2}))?")


def parse(text: str) -> float:
    """Return s, above 0 and below 1, of a correction as charters name it: "gt" is `GAIN`, "gt:500" is 0.5.

    Raises:
        UsageError: it is none of these.
    """
    found = _FORM.fullmatch(text)
    if found is None:
        raise UsageError(
            f"couldn't choose a correction: {text[:40]!r} is not one",
            hint=f"choose gt (gradient tracking, a gain of {GAIN:g}) or gt:500 (another gain, in thousandths)",
        )
    return int(found[1]) / 1000 if found[1] else GAIN


def init(elements: int) -> Vector:
    """Return the correction before the first round, zeros of shape (elements,)."""
    return np.zeros(elements, np.float32)


def each_step(correction: Vector, steps: int) -> Vector:
    """Return what is added to the model at each of so many local steps, shape (elements,).

    Raises:
        UsageError: there is no step.
    """
    if steps < 1:
        raise UsageError(
            f"couldn't spread a correction over {steps} steps: there must be one or more",
            hint="report how many steps the round's training takes, before it begins",
        )
    return np.divide(correction, np.float32(steps), dtype=np.float32)


def carry_into(update: Vector, correction: Vector) -> None:
    """Set update = update + c, shapes (elements,), where steps cannot be bent. With one step that is the same."""
    np.add(update, correction, out=update)


def rescale(correction: Vector, before: int, now: int) -> None:
    """Set c = c before / now, shape (elements,), where a site's weight in its rounds has changed; both at least 1.

    What sums to zero over the swarm is weight times correction: a site that counts twice as much as it did when it
    learned would else pull twice as far.
    """
    if before != now:
        np.multiply(correction, np.float32(before / now), out=correction)


def learn_into(correction: Vector, offered: Vector, mixed: Vector, gain: float) -> None:
    """Set c = c + gain (mixed - offered), all of shape (elements,).

    `offered` is the model that this site's training ended with and others blended, `mixed` the one that the round made
    of it. A round that was closed without this site's offer teaches it nothing: `learn_into` is not for that.
    Three float32 operations an element, the same bytes everywhere.
    """
    moved = np.empty(min(BLOCK_ELEMENTS, correction.size), np.float32)
    for start in range(0, correction.size, BLOCK_ELEMENTS):
        span = slice(start, start + BLOCK_ELEMENTS)
        block = correction[span]
        n = block.size
        np.subtract(mixed[span], offered[span], out=moved[:n])
        np.multiply(moved[:n], np.float32(gain), out=moved[:n])
        np.add(block, moved[:n], out=block)
