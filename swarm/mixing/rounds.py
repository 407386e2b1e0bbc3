"""The mean of one exact round, by what the charter says, and what can be told about the updates on the way.

Without a rule it is the mean weighted by samples, of `swarm.mixing.average`; with one, that of `swarm.mixing.robust`.
Either goes through the updates once, stretch by stretch; how alike they are is measured in passing, for people to look
at (`swarm.mixing.outliers`). It changes no mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from swarm.mixing.average import weighted_mean_into
from swarm.mixing.products import Likeness, Read
from swarm.mixing.robust import RobustMean
from swarm.mixing.rules import Rule
from swarm.vector import Vector


class RoundMean:
    """Averages the updates that `readers` read, with integer `weights` or by a rule.

    Args:
        readers: Of each update, in member order.
        elements: Of an update.
        weights: What each counts without a rule.
        rest: The weight of what is not there and counts as zero.
        rule: Of the charter, if it has one.

    Raises:
        UsageError: see `RobustMean`.
    """

    def __init__(
        self, readers: Sequence[Read], elements: int, weights: Sequence[int], *, rest: int = 0, rule: Rule | None = None
    ) -> None:
        assert rule is None or rest == 0, "under a rule nothing that is not there counts"
        self._weights, self._rest = weights, rest
        self._robust = None if rule is None else RobustMean(rule, readers, elements)
        self._likeness = Likeness(len(readers))

    def into(self, out: Vector, base: Vector, updates: Sequence[Vector]) -> None:
        """Set out = base + mean for the next stretch, all of shape (count,). Stretches hold whole tiles."""
        self._likeness.take(updates)
        if self._robust is None:
            weighted_mean_into(out, base, updates, self._weights, rest=self._rest)
        else:
            self._robust.into(out, base, updates)

    @property
    def weights(self) -> tuple[int, ...]:
        """By which weights a rule has averaged, once every stretch is made; empty without a rule."""
        return () if self._robust is None else self._robust.weights

    @property
    def likeness(self) -> tuple[tuple[float, float], ...]:
        """The norm of each update, and its cosine to the sum of the others, once every stretch is made."""
        return self._likeness.told()
