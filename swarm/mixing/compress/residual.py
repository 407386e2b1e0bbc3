"""Error feedback for updates: what a codec left out this round goes on top of the next one.

v = u + e;  q = C(v);  e <- v - q  (Seide et al. 2014, "1-Bit Stochastic Gradient Descent"; Stich et al. 2018;
Karimireddy et al. 2019, algorithm 2: EF-SGD). u is the update, the difference to the last common model, and q is what
travels and what exact mixing averages, bit for bit, in fixed point. Nothing is ever lost, only late: the sum of all q
is the sum of all u, less the one residual still held.

This form, where a message stands for itself, is chosen over EF21 (Richtárik et al. 2021), where it moves a copy that
every receiver keeps: here sites come and go, a round may close without one, and no receiver should need its history.

Two things for whoever uses it:

- A residual follows from a message that *counted*. If the round closed without it, go on from the state before `apply`:
  its bytes were never mixed.
- The charter bounds the norm of what is mixed, so clip v, not u: pass the clipping in as `bound`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from swarm.mixing.compress.forms import Spec, decode, encode
from swarm.privacy.clipping import clip_in_place, inspect
from swarm.vector import Vector

ROUNDED_UP = 0.999
"""Part of the way to the bound that is tried when a codec has rounded a norm up over it."""


@dataclass(frozen=True, slots=True, eq=False)
class Residual:
    """`error` is e, shape (elements,): what has not been sent yet."""

    error: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Sent:
    """`message` travels; `update`, shape (elements,), is what it decodes to, here as at every peer."""

    message: bytes
    update: Vector


def init(elements: int) -> Residual:
    """Return the state before the first round: nothing owed."""
    return Residual(np.zeros(elements, np.float32))


def apply(
    state: Residual, update: Vector, spec: Spec, *, key: bytes | None = None, bound: float = 0.0
) -> tuple[Residual, Sent]:
    """Return the next state and what to send for an update, shape (elements,).

    With `bound` > 0, u + e is clipped to that L2 norm first, and what clipping cuts off is forgotten, as it is without
    compression: a residual that kept it would only grow. What is sent is within the bound too, although a codec may
    round a norm up.

    Raises:
        UsageError: an element is not finite or too large.
    """
    rest, (message,), sent = apply_cut(state, update, spec, [(0, update.size)], key=key, bound=bound)
    return rest, Sent(message, sent)


def apply_cut(
    state: Residual,
    update: Vector,
    spec: Spec,
    cuts: Sequence[tuple[int, int]],
    *,
    key: bytes | None = None,
    bound: float = 0.0,
) -> tuple[Residual, tuple[bytes, ...], Vector]:
    """Do as `apply` for an update that travels in slices [start, end): a message for each, and all that they decode to.

    Raises:
        UsageError: an element is not finite or too large.
    """
    owed = np.add(update, state.error, dtype=np.float32)
    if bound > 0:
        clip_in_place(owed, bound)
    sent = np.empty_like(owed)
    while True:
        messages = tuple(encode(owed[start:end], spec, key=key) for start, end in cuts)
        for message, (start, end) in zip(messages, cuts, strict=True):
            decode(message, end - start, spec=spec, out=sent[start:end])
        norm = inspect(sent, elements=sent.size, bound=0.0)[1] if bound > 0 else 0.0
        if norm <= bound:
            break
        # The codec has rounded it up, over what the others accept.
        np.multiply(owed, np.float32(ROUNDED_UP * bound / norm), out=owed)
    np.subtract(owed, sent, out=owed)
    return Residual(owed), messages, sent
