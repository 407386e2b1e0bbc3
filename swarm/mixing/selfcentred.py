"""Gossip that no neighbour can pull far: self-centred clipping.

A member goes towards each neighbour as before, but no further than tau away from where it is (He, Karimireddy & Jaggi,
"Byzantine-robust decentralized learning via ClippedGossip", 2022, algorithm 2):

    x_i' = x_i + sum_j W_ij clip(x_j - x_i, tau_i),    clip(z, tau) = min(1, tau / |z|) z.

Their tau (equation 5) is sqrt(1 / delta sum over honest j of W_ij |x_i - x_j|^2), with delta the weight that liars may
have among the neighbours. Nobody knows the honest ones, so in their place stand, as in their practice, the nearest: as
many as fit, with the member itself, into a weight of 1 - delta. Whoever has one partner has nobody to compare it with:
tau is 0, and the member stays where it is for that round.

Clipping multiplies a neighbour's weight and gives the rest to the member itself, so what is left to do is a weighted
sum like any other. Two ends of a link may clip differently: the mean over the members moves a little with each
exchange, which plain gossip's does not. That is the price, with nobody lying, and it grows with how much sites differ.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.products import STRETCH, Read, squares

CLIP_MAX = 500
"""Largest weight of liars, in thousandths: beyond one half they are the neighbourhood."""

_NUMBER = re.compile(r"[1-9]\d{0,2}")


def parse(text: str) -> int:
    """Return the weight that liars may have among a member's neighbours, in thousandths. Raises `UsageError`."""
    if not _NUMBER.fullmatch(text) or int(text) > CLIP_MAX:
        raise UsageError(
            f"couldn't take {text[:20]!r} for the weight of liars: it is in thousandths, 1 to {CLIP_MAX}",
            hint="write 100 for a tenth, or leave the clipping out",
        )
    return int(text)


def distances(readers: Sequence[Read], own: int, elements: int) -> tuple[float, ...]:
    """Return the squared distance of each model from that of number `own`, to the same bytes on every processor.

    Raises:
        UsageError: a value is not finite.
    """
    totals = np.zeros(len(readers))
    for start in range(0, elements, STRETCH):
        count = min(STRETCH, elements - start)
        mine = readers[own](start, count)
        for j, read in enumerate(readers):
            if j != own:
                totals[j] = squares(read(start, count), mine, float(totals[j]))
    if not np.isfinite(totals).all():
        raise UsageError("couldn't compare models: a value in one of them is not finite")
    return tuple(float(total) for total in totals)


def clipped(
    weights: Sequence[float], own: int, apart: Sequence[float], permille: int
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the weights under clipping, which sum to 1 as before, and by what each neighbour was multiplied.

    `apart` has the squared distances, of `weights` that of number `own` is the member's own.
    """
    delta = permille / 1000
    order = sorted((j for j in range(len(weights)) if j != own and weights[j] > 0.0), key=lambda j: (apart[j], j))
    near: list[int] = []
    for j in order:
        if math.fsum([weights[own], weights[j], *(weights[k] for k in near)]) > 1.0 - delta:
            break
        near.append(j)
    tau_squared = math.fsum(weights[j] * apart[j] for j in near) / delta
    scales = [1.0] * len(weights)
    for j in order:
        if apart[j] > tau_squared:
            scales[j] = math.sqrt(tau_squared / apart[j])
    taken = [weight * scale for weight, scale in zip(weights, scales, strict=True)]
    taken[own] = 0.0
    taken[own] = 1.0 - math.fsum(taken)
    return tuple(taken), tuple(scales)


def in_millionths(scales: Sequence[float]) -> tuple[int, ...]:
    """Return what models were multiplied by as whole numbers, for whoever tells people."""
    return tuple(round(1_000_000 * scale) for scale in scales)
