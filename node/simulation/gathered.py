"""An exact round in which every update is looked at: attackers change theirs, a rule averages all.

The plain learning speed adds models up as they come and keeps none of them. Where somebody lies, or where a rule has to
compare updates, all have to be there at once: one matrix, a row a peer. What is done with them is what nodes do: each
update is clipped to the charter's norm, and `swarm.mixing.rounds` averages them, in fixed point and in member order.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from swarm.mixing.products import STRETCH
from swarm.mixing.rounds import RoundMean
from swarm.mixing.rules import Rule
from swarm.privacy.clipping import clip_in_place
from swarm.vector import Vector
from topologies.world.attacks import FORGERY, Attack, changed, forged


class Gathering:
    """What becomes of the updates of each round.

    Args:
        weights: Of each peer without a rule.
        rule: By which to average; None for the mean by weights.
        bound: The charter's, on the norm of an update; 0 for none.
        attack: What attackers do to their updates; None for nothing.
        attackers: Which peers they are.
        seed: Of what attackers draw.
    """

    def __init__(
        self,
        weights: Sequence[int],
        *,
        rule: Rule | None = None,
        bound: float = 0.0,
        attack: Attack | None = None,
        attackers: Sequence[int] = (),
        seed: int = 0,
    ) -> None:
        self._weights, self._rule, self._bound = tuple(weights), rule, bound
        self._attack, self._attackers, self._seed = attack, tuple(attackers), seed
        self._last: Vector | None = None
        self.told: tuple[int, ...] = ()

    def next_model(self, base: Vector, updates: Sequence[Vector], number: int) -> NDArray[np.float32]:
        """Return the model after round `number`, from what each peer has learnt, in member order; that is changed."""
        self._spoil(updates, number)
        for update in updates:
            clip_in_place(update, self._bound)
        readers = [functools.partial(_stretch, update) for update in updates]
        mean = RoundMean(readers, base.size, self._weights, rule=self._rule)
        out = np.empty_like(base)
        for start in range(0, base.size, STRETCH):
            span = slice(start, start + STRETCH)
            mean.into(out[span], base[span], [update[span] for update in updates])
        self.told = mean.weights
        self._last = out - base
        return out

    def _spoil(self, updates: Sequence[Vector], number: int) -> None:
        if self._attack is None or self._attack.on_data:
            return
        if self._attack.name in FORGERY:
            honest = [update for peer, update in enumerate(updates) if peer not in self._attackers]
            lie = forged(self._attack, honest, len(self._attackers))
            for peer in self._attackers:
                updates[peer][:] = lie
            return
        for peer in self._attackers:
            rng = np.random.default_rng((self._seed, number, peer))
            updates[peer][:] = changed(self._attack, updates[peer], self._last, rng)


def _stretch(vector: Vector, start: int, count: int) -> Vector:
    return vector[start : start + count]
