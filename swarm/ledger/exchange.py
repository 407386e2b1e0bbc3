"""Rounds of gossip in the log: who exchanged models with whom, where everybody ended, and how far apart they are.

In gossip mixing a contribution names the author's *model* after its local steps. Each member fetches those of its
partners in the round's schedule and says in a `receipt` which it holds. When the round closes, a pair has exchanged
exactly if both its members said so in the log before. So both sides of a pair, and everybody who reads the ledger
later, know the same: the matrix of a round is symmetric whatever was lost on the way, and anybody can recompute it.

Afterwards each member attests the model it ended with, with a *sketch* of it: a linear random projection
(`swarm.mixing.sketch`) from which the distances between all models follow. A round commits when a quorum, or all that
were in it if those are fewer, have attested. Its commit names no model, as there is no common one, but how far apart
the models are. The last round of a run is not an exchange: all models are averaged into one, as in exact mixing.

Under a coarse codec a contribution names, instead of a model, the public copy of the author's model that its message
leads to, and the one that it starts from (`swarm.mixing.compress.choco`). A member's copy is the one that its last
contribution in a closed round has led to: so everybody knows from the log which copies there are, however a site was
killed, and who lacks one that a message starts from fetches the next one whole, by its digest.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import combinations

import msgspec
import numpy as np

from swarm.machine import NodeId
from swarm.mixing.sketch import unpack

PPM = 1_000_000

DIGIT_BITS = 21
DIGIT_MAX = (1 << DIGIT_BITS) - 1
PRODUCTS_MAX = 1 << (53 - 2 * DIGIT_BITS)
"""Products of two digits that a float64 can add up without rounding."""


class Own(msgspec.Struct, frozen=True, array_like=True):
    """The model a member last attested: the outcome of `round` at that member."""

    round: int
    model: bytes
    model_bytes: int


class Mass(msgspec.Struct, frozen=True, array_like=True):
    """How much a member's model counts where links go one way (`swarm.ledger.pushing`).

    `weight` is what it came with, as its first close has it; `held` what it has now, in units of 2**-20 of that.
    """

    weight: int
    held: int


class Part(msgspec.Struct, frozen=True, array_like=True):
    """The model that `giver` offered, this blob, and what it counts.

    Where links go one way that is so much of the member's mass, in units of 2**-20; else the giver's weight in the
    close.
    """

    giver: NodeId
    digest: bytes
    size: int
    amount: int


class Due(msgspec.Struct, frozen=True, array_like=True):
    """What a member has yet to make of a round that is over: its next model, of these parts.

    `close` is the index of the round's close, in `epoch`; `before` the member's mass before it, 0 where links go both
    ways.
    """

    round: int
    close: int
    epoch: int
    before: int
    parts: tuple[Part, ...]


class Exchange(msgspec.Struct, frozen=True):
    """What gossip adds to the state. `receipts`, `sketches` and `targets` are those of the open round.

    `dues` are of earlier rounds. `targets` and `masses` are there where links go one way only; `copies`, the digests
    of the members' public copies, under a coarse codec only. `anew` is there under gradient tracking only: the first
    round whose close teaches a correction that counts. What earlier ones have taught is void, at every member, because
    somebody who had a part in it has left, or has said that it lost its own (`swarm.mixing.diffusion`).
    """

    receipts: Mapping[NodeId, tuple[int, ...]] = {}
    models: Mapping[NodeId, Own] = {}
    sketches: Mapping[NodeId, bytes] = {}
    targets: Mapping[NodeId, tuple[bytes, ...]] = {}
    masses: Mapping[NodeId, Mass] = {}
    dues: Mapping[NodeId, Due] = {}
    copies: Mapping[NodeId, bytes] = {}
    anew: int | None = None

    def without(self, gone: Iterable[NodeId], *, closed: bool = False) -> Exchange:
        """Forget members that have left. What they said of a round that is `closed` stands: others blend by it."""
        left = {*gone}
        masses, dues = dict(self.masses), dict[NodeId, Due]()
        for node, due in self.dues.items():
            lost = sum(part.amount for part in due.parts if part.giver in left)
            if node in masses:
                masses[node] = Mass(masses[node].weight, masses[node].held - lost)  # It leaves with its giver.
            parts = tuple(part for part in due.parts if part.giver not in left)
            dues[node] = Due(due.round, due.close, due.epoch, due.before, parts)
        return Exchange(
            {node: held for node, held in self.receipts.items() if closed or node not in left},
            {node: own for node, own in self.models.items() if node not in left},
            {node: sketch for node, sketch in self.sketches.items() if node not in left},
            {node: to for node, to in self.targets.items() if closed or node not in left},
            {node: mass for node, mass in masses.items() if closed or node not in left},
            {node: due for node, due in dues.items() if node not in left},
            {node: copy for node, copy in self.copies.items() if node not in left},
            self.anew,
        )

    def begun_anew(self, round_: int) -> Exchange:
        """Let all corrections begin again at zero, with the close of this round; where there are any."""
        return self if self.anew is None else msgspec.structs.replace(self, anew=max(self.anew, round_))


def partners(node: NodeId, included: Mapping[NodeId, int], receipts: Mapping[NodeId, Sequence[int]]) -> set[NodeId]:
    """Return with whom a member has exchanged: each of the two has said that it holds what the other contributed.

    `included` has the leaf index of each contribution that the close names.
    """
    if node not in included:
        return set()
    own, held = included[node], frozenset(receipts.get(node, ()))
    return {
        other for other, index in included.items() if index in held and other != node and own in receipts.get(other, ())
    }


def distances_ppm(sketches: Mapping[NodeId, bytes]) -> tuple[int, int]:
    """Return (largest, mean) distance between two members' models, in millionths of the largest model's norm.

    Integers throughout, rounded down, so that everybody computes the same. 0 for fewer than two members.
    """
    vectors = [unpack(sketch) for _, sketch in sorted(sketches.items())]
    products = inner_products(vectors)
    squares = [products[i][i] for i in range(len(vectors))]
    largest = max(squares, default=0)
    if len(vectors) < 2 or not largest:
        return 0, 0
    # |a - b|^2 = |a|^2 - 2 ab + |b|^2, in integers, so that nothing cancels.
    apart = [
        math.isqrt((squares[i] - 2 * products[i][j] + squares[j]) * PPM * PPM // largest)
        for i, j in combinations(range(len(vectors)), 2)
    ]
    return max(apart), sum(apart) // len(apart)


def inner_products(vectors: Sequence[Sequence[int]]) -> list[list[int]]:
    """Return the exact inner products of all pairs of equally long vectors of integers below 2^63 in size.

    Each number is written with three digits to the base 2^21. Products of digits, and the sum of a few hundred of them,
    are below 2^53: float64 holds them exactly, in whatever order a processor adds them.
    """
    if not vectors:
        return []
    whole = np.array(vectors, np.int64)
    assert whole.shape[1] <= PRODUCTS_MAX, "sums of more products might be rounded"
    low, rest = whole & DIGIT_MAX, whole >> DIGIT_BITS
    digits = [part.astype(np.float64) for part in (low, rest & DIGIT_MAX, rest >> DIGIT_BITS)]
    n = len(vectors)
    found = [[0] * n for _ in range(n)]
    for place, (a, b) in ((i + j, (i, j)) for i in range(3) for j in range(3)):
        if not (digits[a].any() and digits[b].any()):
            continue
        for row, part in zip(found, (digits[a] @ digits[b].T).astype(np.int64).tolist(), strict=True):
            for column, value in enumerate(part):
                row[column] += value << DIGIT_BITS * place
    return found
