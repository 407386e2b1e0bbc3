"""Push-sum over links that go one way, lose messages, repeat them and deliver them late.

Push-sum (Kempe, Dobra & Gehrke 2003; with gradient steps: SGP, Assran et al. 2019): each member holds a *mass*, the
numbers w_i x_i and the number w_i. It keeps an equal share of it and pushes one to every out-neighbour; what arrives is
added. The sum over the swarm never changes, so numerator / weight tends to sum_i w_i x_i / sum_i w_i on any strongly
connected graph, undirected or not. But a lost message is lost mass, and the limit is then wrong for good.

*Running sums* make loss harmless (Hadjicostis, Vaidya & Domínguez-García 2016, "Robust Distributed Average Consensus
via Exchange of Running Sums"; ratio consensus): a member sends the total it has *ever* pushed over the link, sigma, and
the receiver adds how much that exceeds the total it knew, rho. A later message makes up for every earlier one that was
lost; a repeated or overtaken one is recognised by its number and ignored. What has not arrived is not lost but on
its way, and the sum of masses and of sigma - rho over all links is constant.

Here that is so to the last bit. Masses are int64 in fixed point (`FRACTION_BITS` binary places, as in
`swarm.mixing.average`): a share is a floor division whose remainder stays with the sender, and totals wrap around
at 2**64, which their differences do not notice, so a link may run for ever without losing precision. In float32 the
total of a link that has run for a thousand rounds would carry rounding errors a thousand times a model's.

A state is a value: functions return a new one and change nothing. What push-sum cannot survive is a neighbour that
leaves with mass in its hands, or one that lies about its total: it has no room for either to be noticed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import Reject, UsageError
from swarm.mixing.average import BLOCK_ELEMENTS, FRACTION_BITS, VALUE_LIMIT
from swarm.vector import Vector

Mass: TypeAlias = NDArray[np.int64]
"""Shape (elements + 1,): the numerators w x and, last, the weight w, in units of 2**-32."""

UNIT = 2.0**FRACTION_BITS

WEIGHT_MAX = 2**20
"""Largest weight of one member. All weights sum to the number of members when divided by their mean, so |w x| summed
over a swarm is at most 2**20 * VALUE_LIMIT = 2**30, below the 2**31 that int64 holds, wherever the mass gathers."""


@dataclass(frozen=True, slots=True, eq=False)
class Running:
    """The total ever pushed over one link, as of its `number`-th push. This is the message; its arrays are shared."""

    number: int
    total: Mass


@dataclass(frozen=True, slots=True, eq=False)
class PushSum:
    """One member: its mass, what it has sent to each out-neighbour and what it has had from each in-neighbour.

    Out-neighbours that were always served together share one array: a fixed topology costs one, whatever its degree.
    """

    mass: Mass
    sent: Mapping[int, Running]
    received: Mapping[int, Running]

    @property
    def elements(self) -> int:
        """Number of parameters."""
        return int(self.mass.size - 1)

    @property
    def weight(self) -> float:
        """The weight w held now; the swarm's weights, with those on their way, sum to a constant."""
        return float(self.mass[-1]) / UNIT


def init(model: Vector, weight: float = 1.0) -> PushSum:
    """Return the state that holds weight * model, shape (elements,). The weight is samples / mean samples of the swarm.

    Raises:
        UsageError: the weight is not within [0, `WEIGHT_MAX`], or |x| > `VALUE_LIMIT` or not finite somewhere.
    """
    if not 0.0 <= weight <= WEIGHT_MAX:
        raise UsageError(f"couldn't start push-sum: the weight {weight} is not within 0..{WEIGHT_MAX}")
    mass = np.zeros(model.size + 1, np.int64)
    mass[-1] = round(weight * UNIT)
    _add_fixed(mass, model, weight)
    none: Mapping[int, Running] = MappingProxyType({})
    return PushSum(mass, none, none)


def add(state: PushSum, update: Vector, weight: float = 1.0) -> PushSum:
    """Return the state after a local step: mass + weight * update, shape (elements,).

    `weight` is the one given to `init`, *not* the weight held now: then the mean that the swarm tends to moves by
    sum_i w_i u_i / sum_i w_i, FedAvg's step (SGP takes its step on the numerator in the same way).

    Raises:
        UsageError: |u| > `VALUE_LIMIT` or not finite somewhere.
    """
    mass = state.mass.copy()
    _add_fixed(mass, update, weight)
    return PushSum(mass, state.sent, state.received)


def push(state: PushSum, destinations: Collection[int]) -> tuple[PushSum, Mapping[int, Running]]:
    """Return the state after pushing one equal share to each destination, and the message for each.

    With d destinations the shares are 1 / (d + 1), the column-stochastic weights of SGP. A message may be lost, late,
    repeated or out of order, and may be sent again as it is.
    """
    targets = sorted({*destinations})
    if not targets:
        return state, MappingProxyType({})
    share = np.floor_divide(state.mass, len(targets) + 1)
    mass = state.mass - share * len(targets)
    # Totals that were one array stay one array: add the share to each distinct one only once.
    grown: dict[int, Mass] = {}
    messages = {}
    for target in targets:
        old = state.sent.get(target)
        key = 0 if old is None else id(old.total)
        if key not in grown:
            grown[key] = share if old is None else old.total + share
        messages[target] = Running(1 if old is None else old.number + 1, grown[key])
    return PushSum(mass, MappingProxyType({**state.sent, **messages}), state.received), MappingProxyType(messages)


def receive(state: PushSum, source: int, message: Running) -> PushSum:
    """Return the state after a message from an in-neighbour: mass + (sigma - rho). An old or repeated one is ignored.

    Raises:
        Reject: the total is of another length or type.
    """
    if message.total.shape != state.mass.shape or message.total.dtype != np.int64:
        raise Reject(f"couldn't add a running sum: it has {message.total.size - 1} elements, not {state.elements}")
    known = state.received.get(source)
    if message.number <= (known.number if known else 0):
        return state
    mass = state.mass + message.total if known is None else message.total - known.total
    if known is not None:
        np.add(mass, state.mass, out=mass)
    return PushSum(mass, state.sent, MappingProxyType({**state.received, source: message}))


def settled(state: PushSum) -> Vector:
    """Return the member's present estimate of the weighted mean: numerator / weight, float32 of shape (elements,).

    Raises:
        UsageError: the weight is 0: nothing has come yet from a member that has samples.
    """
    weight = state.mass[-1]
    if weight <= 0:
        raise UsageError("couldn't divide by a weight of 0", hint="wait for a member that has samples")
    out = np.empty(state.elements, np.float32)
    wide = np.empty(min(BLOCK_ELEMENTS, out.size), np.float64)
    for start in range(0, out.size, BLOCK_ELEMENTS):
        block = out[start : start + BLOCK_ELEMENTS]
        np.copyto(wide[: block.size], state.mass[start : start + block.size])
        np.divide(wide[: block.size], float(weight), out=block, casting="same_kind")
    return out


def _add_fixed(mass: Mass, values: Vector, weight: float) -> None:
    """Add weight * values in fixed point, each product rounded to the nearest step."""
    wide = np.empty(min(BLOCK_ELEMENTS, values.size), np.float64)
    steps = np.empty(wide.size, np.int64)
    for start in range(0, values.size, BLOCK_ELEMENTS):
        block = values[start : start + BLOCK_ELEMENTS]
        n = block.size
        largest = max(float(block.max()), -float(block.min()))
        if not largest <= VALUE_LIMIT:
            raise UsageError(
                f"couldn't turn a model into mass: a value near element {start} is not finite or over {VALUE_LIMIT:g}",
                hint="lower the learning rate, or clip gradients",
            )
        np.multiply(block, weight * UNIT, out=wide[:n], dtype=np.float64)
        np.rint(wide[:n], out=wide[:n])
        np.copyto(steps[:n], wide[:n], casting="unsafe")
        np.add(mass[start : start + n], steps[:n], out=mass[start : start + n])
