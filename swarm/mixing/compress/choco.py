"""CHOCO: gossip that agrees exactly through messages that say little.

Compressing models makes gossip stop at the codec's error. CHOCO compresses *differences* that shrink to nothing. Each
member has a public copy x_hat, which it and its neighbours keep alike, and tells them only how it moves (Koloskova,
Stich & Jaggi 2019, arXiv 1902.00340, algorithm 1; for deep learning: Koloskova, Lin, Stich & Jaggi 2020, arXiv
1907.09356, whose algorithm 2 is the form with less memory):

    q_i      = C(x_i - x_hat_i)                                travels
    x_hat_j <- x_hat_j + q_j                                   for itself and each neighbour
    x_i     <- x_i + gamma sum_j W_ij (x_hat_j - x_hat_i)

The copies follow the models, the differences shrink, and so does what C leaves out, at a linear rate for any C with a
contraction delta > 0, if gamma is small enough. The mean of the models does not move, whatever C does: the sum of
W_ij (x_hat_j - x_hat_i) over all members is zero as W is symmetric. Begin a round's exchange after its local steps.

Two states, by what the graph does:

- `Copies` holds each neighbour's public copy: any row, another one each time, pair-skip included.
- `Summed` holds one running sum s = sum_j W_ij x_hat_j instead: two vectors whatever the degree, for a row that never
  changes.

A copy is right only if every q arrived, in order; unlike a model, a q cannot be skipped. Messages are numbered from
1: a repeated one is ignored, one from the future is refused, and the protocol then asks for the missing ones. In
`Copies` a pair whose copies are not both up to date must be dropped on *both* sides (`swarm.mixing.gossip.without`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from swarm.errors import Reject
from swarm.machine import Buffer
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.mixing.compress.forms import Spec, decode, encode
from swarm.mixing.gossip import Row, mix_into
from swarm.vector import Vector

_GAMMA: Mapping[str, float] = MappingProxyType({"f32": 1.0, "bf16": 1.0, "int8": 1.0, "int4": 0.9, "sign": 0.1})


@dataclass(frozen=True, slots=True, eq=False)
class Public:
    """A public copy, shape (elements,), after `number` messages."""

    number: int
    copy: Vector


@dataclass(frozen=True, slots=True, eq=False)
class Copies:
    """Its own public copy and each neighbour's."""

    own: Public
    others: Mapping[int, Public]


@dataclass(frozen=True, slots=True, eq=False)
class Summed:
    """Its own public copy, s = sum_j W_ij x_hat_j of shape (elements,), and how many messages of each are in it."""

    own: Public
    total: Vector
    numbers: Mapping[int, int]
    row: Row


def init(elements: int, neighbours: tuple[int, ...]) -> Copies:
    """Return the state before the first exchange. Copies begin at zero, alike everywhere without a message.

    Where all members begin from one model, exchange differences to that model and zero is where they are.
    """
    zero = Public(0, np.zeros(elements, np.float32))
    return Copies(zero, MappingProxyType(dict.fromkeys(sorted(neighbours), zero)))


def init_summed(elements: int, row: Row) -> Summed:
    """Return the state before the first exchange, for a row that never changes."""
    zero = np.zeros(elements, np.float32)
    return Summed(Public(0, zero), zero, MappingProxyType({source: 0 for source, _ in row}), row)


def propose(own: Public, model: Vector, spec: Spec, *, key: bytes | None = None) -> tuple[Public, bytes]:
    """Return the next public copy of a model, shape (elements,), and the message (q) that takes neighbours to it.

    Raises:
        UsageError: an element of the difference is not finite or too large.
    """
    difference = np.subtract(model, own.copy, dtype=np.float32)
    message = encode(difference, spec, key=key)
    return follow(own, own.number + 1, message, spec, scratch=difference), message


def follow(known: Public, number: int, message: Buffer, spec: Spec, *, scratch: Vector | None = None) -> Public:
    """Return a public copy after its owner's message: x_hat + q. A message that is in it already changes nothing.

    Raises:
        Reject: the message does not decode, or an earlier one is missing.
    """
    if not _next(known.number, number):
        return known
    moved = decode(message, known.copy.size, spec=spec, out=scratch)
    return Public(number, np.add(known.copy, moved, out=moved))


def mix(state: Copies, member: int, model: Vector, row: Row, gamma: float) -> Vector:
    """Return x + gamma sum_j W_ij (x_hat_j - x_hat_i), shape (elements,), for the row of one exchange."""
    copies = [state.own.copy if source == member else state.others[source].copy for source, _ in row]
    out = np.empty_like(model)
    # W_ii x_hat_i - x_hat_i in one: the row sums to 1, so the terms of j = i leave W_ii - 1 for x_hat_i.
    weights = [gamma * (weight - 1.0 if source == member else weight) for source, weight in row]
    mix_into(out, [model, *copies], [1.0, *weights])
    return out


def absorb(state: Summed, source: int, number: int, message: Buffer, spec: Spec) -> Summed:
    """Return the state after a neighbour's message: s + W_ij q_j.

    Raises:
        Reject: the message does not decode, or an earlier one is missing, or its sender is not in the row.
    """
    weight = dict(state.row).get(source)
    if weight is None:
        raise Reject(f"couldn't follow member {source}: it is not in the row")
    if not _next(state.numbers[source], number):
        return state
    moved = decode(message, state.total.size, spec=spec)
    mix_into(moved, [state.total, moved], [1.0, weight])
    return Summed(state.own, moved, MappingProxyType({**state.numbers, source: number}), state.row)


def mix_summed(state: Summed, model: Vector, gamma: float) -> Vector:
    """Return x + gamma (s - x_hat), shape (elements,), once all messages of the exchange are absorbed, its own too."""
    out = np.empty_like(model)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        span = slice(start, start + BLOCK_ELEMENTS)
        mix_into(out[span], [model[span], state.total[span], state.own.copy[span]], [1.0, gamma, -gamma])
    return out


def default_gamma(spec: Spec) -> float:
    """Return a step that was stable and near the fastest wherever it was tried.

    That was on Gaussian models with Metropolis-Hastings weights: random 4-regular of 25, exponential of 16, complete
    bipartite of 4 + 4 (int4 also on a ring of 16 and a star of 8). For top-k it is 2 k / d, at most 0.9: with 2.5 k / d
    the exponential graph no longer agrees. For random-k, whose messages hold no more than their share, it is k / d.
    """
    if spec.name == "topk":
        return min(0.9, 2 * spec.permille / 1000)
    if spec.name == "randk":
        return spec.permille / 1000
    return _GAMMA[spec.name]


def gamma_words(spec: Spec) -> str:
    """Return where `default_gamma` has its number from, for people."""
    if spec.name == "topk":
        return f"twice the share of {spec.permille / 10:g} % that is kept, at most 0.9"
    if spec.name == "randk":
        return f"the share of {spec.permille / 10:g} % that is kept"
    return f"by measurement for {spec.name}"


def safe_gamma(delta: float, gap: float, beta: float) -> float:
    """Return the step with which any codec of contraction delta provably converges (Koloskova et al. 2019, theorem 2).

    gamma = gap^2 delta / (16 gap + gap^2 + 4 beta^2 + 2 gap beta^2 - 8 gap delta), with `gap` the spectral gap of W and
    `beta` = |I - W|_2 (at most 2). It is tens to hundreds of times below what works; it is the floor to fall back to.
    """
    return gap**2 * delta / (16 * gap + gap**2 + 4 * beta**2 + 2 * gap * beta**2 - 8 * gap * delta)


def _next(known: int, number: int) -> bool:
    """Whether the message is the one that comes after those known; False if it is one of them."""
    if number > known + 1:
        raise Reject(f"couldn't follow a public copy: message {known + 1} is missing before {number}")
    return number == known + 1
