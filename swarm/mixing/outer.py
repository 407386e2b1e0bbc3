"""The outer optimiser: what a round does with the mean of its updates.

To the model before a round the mean is a step, and a step may be taken in more than one way (Reddi et al. 2021,
"Adaptive Federated Optimization", algorithms 1 and 2: "server optimizer"). FedAvg adds it (McMahan et al. 2017). The
others remember: where the swarm was heading (a momentum m), and how large its steps have been at each element (a second
moment v). With d the mean, x the model and eta the rate, element by element:

    none        x <- x + d
    fedavgm     m <- beta m + d                               x <- x + eta m
    nesterov    m <- beta m + d                               x <- x + eta (d + beta m)
    fedadagrad  m <- beta1 m + (1 - beta1) d   v <- v + d^2   x <- x + eta m / (sqrt(v) + tau)
    fedadam     m as above        v <- beta2 v + (1 - beta2) d^2                    x as above
    fedyogi     m as above        v <- v - (1 - beta2) d^2 sign(v - d^2)            x as above

fedavgm is Hsu, Qi & Brown 2019 ("Measuring the effects of non-identical data distribution", section 4) with a rate of
its own; nesterov is the outer step of DiLoCo (Douillard et al. 2023), as PyTorch's SGD takes it; the other three are
algorithm 2 of Reddi et al., m and v zero at the start and, as there, without Adam's correction of that.

*There is no server here.* Every peer takes the same step on the same bytes, so a step is made of float32 additions,
products, quotients and square roots, one after another and element by element: IEEE 754 rounds each in one way only,
and the outcome is the same everywhere. What it leaves open is what becomes of subnormal numbers in a process in which
some library has switched them off; so whatever of the memory is below `LEAST` becomes zero, and nothing gets there.

*The memory is a part of a round's outcome.* The blob that a round ends with is the model followed by m and v, and the
one that the first round starts from is followed by zeros: one digest covers all of it, and who joins, was away or comes
back from a backup has it with the model. A model alone is the first so many elements.

Only trained parameters are stepped that way. Buffers that travel too, such as the running variance of a batch
normalisation, are measured and not learned; the charter says where in the vector they lie, and they are averaged.
"""

from __future__ import annotations

import bisect
import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np

from swarm.errors import UsageError
from swarm.mixing.average import BLOCK_ELEMENTS
from swarm.mixing.momentum import Stretches
from swarm.vector import Vector

LEAST = np.float32(2.0**-64)
"""Smaller values of m and v become zero, and no step that is left is subnormal: rates are at least 10**-6, and the root
of v is at most 2**20 after a million rounds of the largest means there are."""

ONE: Vector = np.array(1.0, np.float32)

RATE_MAX = 100.0
"""Largest rate. The mean is a step that sites have really taken: a hundred times as far is a slip of the pen."""

BUFFERS_MAX = 4096
"""Stretches of buffers: a batch normalisation needs one, and the deepest models have some hundreds."""

_NUMBER = r"(?:0|[1-9][0-9]{0,2})(?:\.[0-9]{0,5}[1-9])?"  # Not \d, which has the digits of other scripts too.
_FORM = re.compile(rf"([a-z]+)(?::({_NUMBER}(?:,{_NUMBER})*))?")
_BUFFERS = re.compile(r"(?:0|[1-9][0-9]{0,10})-[1-9][0-9]{0,10}(?: [1-9][0-9]{0,10}-[1-9][0-9]{0,10})*")

Rows: TypeAlias = tuple[Vector, ...]
"""The same stretch of a model and of what is remembered of it: (x,), (x, m) or (x, m, v), each of shape (elements,)."""


@dataclass(frozen=True, slots=True)
class Outer:
    """An outer optimiser with its numbers; those that its rule does not know are 0. `buffers` are averaged only."""

    name: str
    rate: float = 0.0
    beta1: float = 0.0
    beta2: float = 0.0
    tau: float = 0.0
    buffers: Stretches = ()

    @property
    def slots(self) -> int:
        """How many vectors as long as the model it remembers: 0 to 2."""
        return _RULES[self.name].slots

    def step(self, out: Sequence[Vector], before: Sequence[Vector], mean: Vector, start: int = 0) -> None:
        """Set `out` to the rows that the mean makes of those `before`, a stretch that begins at element `start`.

        One row for the model and one for each slot, all of the mean's shape; `out` may be `before`.
        """
        assert len(out) == len(before) == 1 + self.slots, "a row for the model and for each slot"
        for at in range(0, mean.size, BLOCK_ELEMENTS):
            span = slice(at, min(at + BLOCK_ELEMENTS, mean.size))
            self._step([row[span] for row in out], tuple(row[span] for row in before), mean[span], start + at)

    def _step(self, out: Sequence[Vector], before: Rows, mean: Vector, start: int) -> None:
        averaged = before[0] + mean if self.buffers else mean
        after = _RULES[self.name].apply(self, before, mean)
        out[0][:] = after[0]
        for row, remembered in zip(out[1:], after[1:], strict=True):
            row[:] = np.where(np.abs(remembered) < LEAST, np.float32(0.0), remembered)
        low = bisect.bisect_right(self.buffers, start, key=lambda stretch: stretch[1])
        high = bisect.bisect_left(self.buffers, start + mean.size, key=lambda stretch: stretch[0])
        for first, end in self.buffers[low:high]:
            span = slice(max(first - start, 0), end - start)
            out[0][span] = averaged[span]
            for row in out[1:]:
                row[span] = 0.0

    def describe(self) -> str:
        """Say in words what it does."""
        rule = _RULES[self.name]
        numbers = ", ".join(f"{name} {getattr(self, field):g}" for name, field in rule.numbers)
        return f"{self.name}: {rule.words}" + (f"; {numbers}" if numbers else "")


@dataclass(frozen=True, slots=True)
class _Rule:
    """One way to take a step: (optimiser, rows before, mean) -> rows after. `numbers` are (name, field), as written."""

    slots: int
    apply: Callable[[Outer, Rows, Vector], Rows]
    usual: Outer
    numbers: tuple[tuple[str, str], ...]
    words: str


def _add(_: Outer, before: Rows, mean: Vector) -> Rows:
    """FedAvg. One addition an element."""
    return (before[0] + mean,)


def _heavy_ball(outer: Outer, before: Rows, mean: Vector) -> Rows:
    """FedAvgM: a constant mean comes to eta / (1 - beta) times itself a round."""
    x, m = before
    m = m * _scalar(outer.beta1) + mean
    return x + m * _scalar(outer.rate), m


def _nesterov(outer: Outer, before: Rows, mean: Vector) -> Rows:
    """As FedAvgM, looking one step ahead: of the new mean it takes 1 + beta, at once."""
    x, m = before
    beta = _scalar(outer.beta1)
    m = m * beta + mean
    ahead: Vector = (mean + m * beta) * _scalar(outer.rate)
    return x + ahead, m


def _adaptive(second: Callable[[Outer, Vector, Vector], Vector]) -> Callable[[Outer, Rows, Vector], Rows]:
    """Algorithm 2 of Reddi et al. with one of its second moments: (optimiser, v, d^2) -> v."""

    def apply(outer: Outer, before: Rows, mean: Vector) -> Rows:
        x, m, v = before
        beta = _scalar(outer.beta1)
        m = m * beta + mean * (ONE - beta)
        v = second(outer, v, mean * mean)
        size: Vector = np.sqrt(v)
        step: Vector = m * _scalar(outer.rate) / (size + _scalar(outer.tau))
        return x + step, m, v

    return apply


def _adagrad(_: Outer, v: Vector, square: Vector) -> Vector:
    return v + square


def _adam(outer: Outer, v: Vector, square: Vector) -> Vector:
    beta = _scalar(outer.beta2)
    return v * beta + square * (ONE - beta)


def _yogi(outer: Outer, v: Vector, square: Vector) -> Vector:
    """Of v it never takes more than a share of 1 - beta2 < 1, so v stays above zero."""
    change: Vector = square * (ONE - _scalar(outer.beta2)) * np.sign(v - square)
    return v - change


def _scalar(value: float) -> Vector:
    """Round a number of the charter to float32, shape (): with an array it makes float32 again."""
    return np.array(value, np.float32)


_BALL = (("beta", "beta1"), ("rate", "rate"))
_MOMENTS = (("rate", "rate"), ("beta1", "beta1"), ("beta2", "beta2"), ("tau", "tau"))
_NO_DECAY = (("rate", "rate"), ("beta1", "beta1"), ("tau", "tau"))

_RULES: Mapping[str, _Rule] = {
    "none": _Rule(0, _add, Outer("none"), (), "the mean of the updates is added to the model"),
    "fedavgm": _Rule(1, _heavy_ball, Outer("fedavgm", 1.0, 0.9), _BALL, "the mean is carried on by a momentum"),
    "nesterov": _Rule(
        1, _nesterov, Outer("nesterov", 0.7, 0.9), _BALL, "the mean is carried on by Nesterov's momentum"
    ),
    "fedadam": _Rule(
        2,
        _adaptive(_adam),
        Outer("fedadam", 0.03, 0.9, 0.99, 0.001),
        _MOMENTS,
        "the mean is carried on by a momentum and divided by how large it has lately been, element by element",
    ),
    "fedyogi": _Rule(
        2,
        _adaptive(_yogi),
        Outer("fedyogi", 0.03, 0.9, 0.99, 0.001),
        _MOMENTS,
        "as fedadam, and a sudden small mean does not make the next steps large",
    ),
    "fedadagrad": _Rule(
        2,
        _adaptive(_adagrad),
        Outer("fedadagrad", 0.3, 0.9, 0.0, 0.001),
        _NO_DECAY,
        "the mean is divided by how large all means have been together, element by element, so that steps shrink",
    ),
}
"""By the name the charter gives, with what holds where it gives no numbers. Both are in ledgers for ever: add, never
change.

The numbers of fedavgm are those of Hsu et al., of nesterov those of DiLoCo, betas and tau of the others those of Reddi
et al. (section 5; fedadagrad has a momentum too, which helped it below). Rates of the adaptive ones are lengths of a
step at each element and have to suit the model: that of fedadagrad did best on digits among sixteen sites, shards:2 and
dirichlet:0.1 (`scripts/outer_optimizers.py`), those of the other two are a third of what did best there, because three
times that is far worse than a third of it.
"""

NAMES = tuple(_RULES)
NONE = _RULES["none"].usual


def parse(text: str, buffers: Stretches = ()) -> Outer:
    """Return an outer optimiser as charters name it; numbers that are left out at the end are the usual ones.

    "fedavgm" and "nesterov" take beta and rate: "nesterov:0.9,0.7". "fedadam" and "fedyogi" take rate, beta1, beta2 and
    tau: "fedadam:0.01,0.9,0.99,0.001"; "fedadagrad" rate, beta1 and tau. Rates are above 0 to 100, betas 0 to below 1,
    tau above 0 to 1, in at most six decimals and written in one way only: 0.9, not .9 or 0.90.

    Raises:
        UsageError: there is no such optimiser, or a number of it is out of range.
    """
    found = _FORM.fullmatch(text)
    rule = None if found is None else _RULES.get(found[1])
    named = "couldn't choose an outer optimiser"
    if found is None or rule is None:
        raise UsageError(
            f"{named}: {text[:60]!r} is not one, known are {', '.join(NAMES)}",
            hint="write its name, or its name and numbers as in nesterov:0.9,0.7, with a digit before the point and no"
            " zero at the end",
        )
    given = [float(part) for part in found[2].split(",")] if found[2] else []
    if len(given) > len(rule.numbers):
        takes = ", ".join(name for name, _ in rule.numbers) or "no numbers"
        raise UsageError(f"{named}: {text[:60]!r} has {len(given)} numbers", hint=f"{found[1]} takes {takes}")
    for (name, field), value in zip(rule.numbers, given, strict=False):
        highest = {"rate": RATE_MAX, "tau": 1.0}.get(field)
        within = 0 <= value < 1 if highest is None else 0 < value <= highest
        if not within:
            bounds = "at least 0 and below 1" if highest is None else f"above 0 and at most {highest:g}"
            raise UsageError(f"{named}: the {name} of {text[:60]!r} is {value:g}", hint=f"it must be {bounds}")
    chosen = rule.usual
    for (_, field), value in zip(rule.numbers, given, strict=False):
        chosen = replace(chosen, **{field: value})  # type: ignore[arg-type]  # the fields of `numbers` are floats
    return replace(chosen, buffers=buffers)


def parse_buffers(text: str, elements: int) -> Stretches:
    """Return the stretches [start, end) of a vector of so many elements that a charter lists, as in "120-160 400-408".

    Raises:
        UsageError: they are not written like that, not ascending and apart, too many, or beyond the vector.
    """
    found = (
        tuple((int(first), int(end)) for first, end in (part.split("-") for part in text.split(" ")) if text)
        if _BUFFERS.fullmatch(text)
        else ()
    )
    bounds = [bound for stretch in found for bound in stretch]
    ascending = all(low < high for low, high in itertools.pairwise(bounds))
    if not found or not ascending or bounds[-1] > elements or len(found) > BUFFERS_MAX:
        raise UsageError(
            f"couldn't take {text[:60]!r} for the buffers of a model of {elements} parameters",
            hint="let `swarm charter new` write them: first element and end of each, ascending and apart",
        )
    return found


def buffers_text(buffers: Stretches) -> str:
    """Return stretches as `parse_buffers` reads them; "" if there are none."""
    return " ".join(f"{first}-{end}" for first, end in buffers)


def untrained(trained: Stretches, elements: int) -> Stretches:
    """Return what is left of a vector of so many elements between these stretches, which are ascending and apart."""
    edges = [0, *(bound for stretch in trained for bound in stretch), elements]
    gaps = zip(edges[::2], edges[1::2], strict=True)
    return tuple((first, end) for first, end in gaps if first < end)


def lengthened(model: bytes, slots: int) -> bytes:
    """Return the outcome to start from: a model, and nothing remembered yet."""
    return model + bytes(len(model) * slots)


def rows_of(outcome: Vector, elements: int) -> Rows:
    """Return an outcome's rows, the model first, as views of shape (elements,)."""
    assert outcome.size % elements == 0, "an outcome is a whole number of rows"
    return tuple(outcome[start : start + elements] for start in range(0, outcome.size, elements))
