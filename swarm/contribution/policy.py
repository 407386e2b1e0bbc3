"""What a charter says of contributions: by which measure they are told, and how dear that may be.

`size` asks nothing of anybody: a site's share is that of its samples, as it claims them. `loo` and `shapley` make every
member judge, on held-out data of its own, models made of some of a round's updates; the charter then also names the
metric it judges by, which way is better, and how much of the time of a round's training it may take.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from swarm.errors import UsageError

SIZE, LOO, SHAPLEY = "size", "loo", "shapley"
METHODS = (SIZE, LOO, SHAPLEY)

METHOD_CODES = {LOO: 1, SHAPLEY: 2}
"""As entries have them. Numbers are in ledgers for ever: add, never renumber."""

PERCENT_DEFAULT = 20
"""Of a round's training time, for what helps nobody to learn."""

_SENSES = ("higher", "lower")
_LOSSES = ("loss", "error", "perplexity")
_PERCENT = re.compile(r"[1-9]\d?|100")


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """How contributions are told. `metric` is a name of the charter's list, of which less is better if it is `lower`.

    `percent` of the time that a site's own training of a round takes may go into judging one, 1 to 100.
    """

    method: str
    metric: str = ""
    lower: bool = False
    percent: int = 0

    @property
    def judged(self) -> bool:
        """Whether members judge models for it."""
        return self.method != SIZE

    @property
    def code(self) -> int:
        """The number of the method in entries, 0 if there are none."""
        return METHOD_CODES.get(self.method, 0)

    @property
    def text(self) -> str:
        """The charter's option, which `parse` reads back."""
        if not self.judged:
            return self.method
        return f"{self.method}:{self.metric}:{_SENSES[self.lower]}:{self.percent}"

    def gain(self, value: float) -> float:
        """Return a value of the metric as one of which more is better."""
        return -value if self.lower else value


def parse(text: str, metrics: Sequence[str]) -> Policy:
    """Read the charter's option: "size", or method, metric, sense and percent, as "shapley:accuracy:higher:20".

    Raises:
        UsageError: It is neither, or the metric is none of the charter's.
    """
    if text == SIZE:
        return Policy(method=SIZE)
    method, *rest = text.split(":")
    if method not in METHOD_CODES or len(rest) != 3 or rest[1] not in _SENSES or not _PERCENT.fullmatch(rest[2]):
        raise UsageError(
            f"couldn't read contribution = {text[:80]!r}",
            hint="write size, or loo or shapley with a metric, higher or lower, and 1 to 100 percent of the training"
            f" time: shapley:accuracy:higher:{PERCENT_DEFAULT}",
        )
    metric, sense, percent = rest
    if metric not in metrics:
        known = ", ".join(metrics) or "there are none"
        raise UsageError(
            f"couldn't judge contributions by {metric[:60]!r}: it is none of the charter's metrics ({known})",
            hint="name one that the task's evaluate() returns, and list it with --metrics",
        )
    return Policy(method=method, metric=metric, lower=sense == "lower", percent=int(percent))


def complete(text: str, metrics: Sequence[str]) -> str:
    """Return the option in full for what a person has written of it: "shapley", "loo:loss", "shapley:auc:higher".

    What is left out is the charter's first metric, the sense that its name suggests, and `PERCENT_DEFAULT`. Raises
    `UsageError` as `parse` does.
    """
    method, *rest = text.split(":")
    if method in METHOD_CODES and len(rest) < 3:
        if not rest and not metrics:
            raise UsageError(
                f"couldn't judge contributions by {method}: the charter has no metric to judge models by",
                hint="list one that the task's evaluate() returns, with --metrics, or let shares follow from size",
            )
        metric = rest[0] if rest else metrics[0]
        lower = any(word in metric.lower() for word in _LOSSES)
        rest = [metric, *rest[1:], *[_SENSES[lower]] * (len(rest) < 2), str(PERCENT_DEFAULT)]
    return parse(":".join((method, *rest)), metrics).text
