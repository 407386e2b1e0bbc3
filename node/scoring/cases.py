"""Held-out cases: what was true and what a model said, case by case, as a task's evaluate() may return them.

Three kinds, told by their keys::

    {"labels": (n,), "scores": (n,) or (n, classes)}          classification; scores are probabilities
    {"targets": (n,), "predictions": (n,)}                    regression
    {"times": (n,), "events": (n,), "risks": (n,)}            survival; a higher risk means an earlier event

Labels are 0, 1, ...; with scores of shape (n,) the score is that of class 1. Two classes may come with
`threshold_labels` and `threshold_scores`: cases of the site's own training or validation data, on which it chooses a
threshold of its own. Arrays are whatever numpy can read, or tensors. They are checked here once, so that the formulas
need not: finite, of one length, at least one case.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from swarm.errors import UsageError

Floats: TypeAlias = NDArray[np.float64]
Integers: TypeAlias = NDArray[np.int64]

CASES_MAX = 10_000_000
"""Largest held-out set: its arrays are in memory several times over while they are scored."""

CLASSES_MAX = 1_000

SUM_TOLERANCE = 1e-3
"""How far from 1 the probabilities of a case may sum up: a softmax in half precision is that coarse."""

KEYS = (
    ("labels", "scores"),
    ("targets", "predictions"),
    ("times", "events", "risks"),
)
"""The keys of each kind; the first of them tells the kinds apart."""

THRESHOLD_KEYS = ("threshold_labels", "threshold_scores")

CASE_KEYS = frozenset(key for kind in (*KEYS, THRESHOLD_KEYS) for key in kind)
"""Names in a result that hold cases, and so are no metrics."""


@dataclass(frozen=True, slots=True, eq=False)
class Classified:
    """`labels` (n,) in 0 to classes - 1; `scores` (n,) of class 1 of two, or (n, classes).

    `probable` is whether scores are probabilities. If not, only their order means anything.
    """

    labels: Integers
    scores: Floats
    classes: int
    probable: bool
    own: Classified | None = None
    """Cases of the site's own training or validation data, to choose a threshold on; two classes only."""

    @property
    def n(self) -> int:
        """How many cases."""
        return len(self.labels)

    @property
    def supports(self) -> tuple[int, ...]:
        """How many cases of each class."""
        return tuple(int(count) for count in np.bincount(self.labels, minlength=self.classes))

    @property
    def cell(self) -> int:
        """The smallest group that there is: the fewest cases of any class that has some."""
        return min(count for count in self.supports if count)

    def score_of(self, class_: int) -> Floats:
        """Return what orders the cases by how likely they are of a class, shape (n,)."""
        if self.scores.ndim == 2:
            mine = self.scores[:, class_]
            return mine - self.scores[:, 1 - class_] if self.classes == 2 else mine
        return self.scores if class_ == 1 else -self.scores

    def predicted(self, threshold: float = 0.5) -> Integers:
        """Return the class that each case is put in, shape (n,): of two by `threshold`, of more the most likely."""
        if self.scores.ndim == 1:
            return (self.scores >= threshold).astype(np.int64)
        likeliest: Integers = np.argmax(self.scores, axis=1).astype(np.int64)
        return likeliest

    def take(self, chosen: Integers) -> Classified:
        """Return these cases, in this order; a case may be there more than once."""
        return Classified(self.labels[chosen], self.scores[chosen], self.classes, self.probable)


@dataclass(frozen=True, slots=True, eq=False)
class Predicted:
    """`targets` and `predictions`, shape (n,), in the same unit."""

    targets: Floats
    predictions: Floats

    @property
    def n(self) -> int:
        """How many cases."""
        return len(self.targets)

    @property
    def cell(self) -> int:
        """The smallest group that there is: all of them."""
        return self.n

    def take(self, chosen: Integers) -> Predicted:
        """Return these cases, in this order."""
        return Predicted(self.targets[chosen], self.predictions[chosen])


@dataclass(frozen=True, slots=True, eq=False)
class Survived:
    """`times` (n,) until an event or the end of observation, `events` (n,) whether it was one, `risks` (n,)."""

    times: Floats
    events: NDArray[np.bool_]
    risks: Floats

    @property
    def n(self) -> int:
        """How many cases."""
        return len(self.times)

    @property
    def cell(self) -> int:
        """The smallest group that there is: those with an event, or those without."""
        events = int(self.events.sum())
        return min(count for count in (events, self.n - events) if count)

    def take(self, chosen: Integers) -> Survived:
        """Return these cases, in this order."""
        return Survived(self.times[chosen], self.events[chosen], self.risks[chosen])


Cases: TypeAlias = Classified | Predicted | Survived


def holds_cases(result: Mapping[object, object]) -> bool:
    """Whether a result has cases in it, or means to."""
    return any(key in CASE_KEYS for key in result)


def read_cases(result: Mapping[object, object]) -> Cases:
    """Return the cases in what evaluate() returned.

    Raises:
        UsageError: an array is missing, of another shape or length, not finite, or labels are no classes.
    """
    present = [keys for keys in KEYS if any(key in result for key in keys)]
    if len(present) != 1:
        raise _wrong("it has cases of several kinds" if present else "it has a threshold's cases and no others")
    keys = present[0]
    if missing := [key for key in keys if key not in result]:
        raise _wrong(f'"{missing[0]}" is missing beside "{next(key for key in keys if key in result)}"')
    arrays = [_array(key, result[key]) for key in keys]
    lengths = {len(array) for array in arrays}
    if len(lengths) != 1:
        sizes = " and ".join(f'{len(array)} of "{key}"' for key, array in zip(keys, arrays, strict=True))
        raise _wrong(f"there are {sizes}")
    if not 1 <= len(arrays[0]) <= CASES_MAX:
        raise _wrong(f"it has {len(arrays[0])} cases, 1 to {CASES_MAX:,} are possible")
    if keys[0] == "labels":
        return _classified(arrays[0], arrays[1], result)
    for key, array in zip(keys, arrays, strict=True):
        if array.ndim != 1:
            raise _wrong(f'"{key}" has shape {array.shape}, not one number a case')
    if keys[0] == "targets":
        return Predicted(arrays[0], arrays[1])
    times, events, risks = arrays
    if not np.isin(events, (0.0, 1.0)).all():
        raise _wrong('"events" must be 1 where there was an event and 0 where there was none')
    return Survived(times, events == 1.0, risks)


def _classified(labels: Floats, scores: Floats, result: Mapping[object, object]) -> Classified:
    cases = _labelled(labels, scores, "labels")
    there = [key for key in THRESHOLD_KEYS if key in result]
    if not there:
        return cases
    if len(there) != 2 or cases.scores.ndim != 1:
        why = "it is for two classes" if len(there) == 2 else f'"{there[0]}" stands alone'
        raise _wrong(f"a threshold cannot be chosen: {why}")
    own_labels, own_scores = (_array(key, result[key]) for key in THRESHOLD_KEYS)
    if own_labels.shape[:1] != own_scores.shape[:1] or not 1 <= len(own_labels) <= CASES_MAX:
        raise _wrong(f'there are {len(own_labels)} of "threshold_labels" and {len(own_scores)} of "threshold_scores"')
    own = _labelled(own_labels, own_scores, "threshold_labels")
    if own.scores.ndim != 1:
        raise _wrong(f'"threshold_scores" has shape {own_scores.shape}, not one number a case')
    return Classified(cases.labels, cases.scores, cases.classes, cases.probable, own)


def _labelled(labels: Floats, scores: Floats, key: str) -> Classified:
    if labels.ndim != 1:
        raise _wrong(f'"{key}" has shape {labels.shape}, not one class a case')
    if scores.ndim == 2 and scores.shape[1] == 1:
        scores = scores[:, 0]
    if scores.ndim not in (1, 2) or (scores.ndim == 2 and not 2 <= scores.shape[1] <= CLASSES_MAX):
        raise _wrong(f"its scores have shape {scores.shape}, not (n,) or (n, classes)")
    classes = 2 if scores.ndim == 1 else scores.shape[1]
    whole = bool(((labels == np.floor(labels)) & (labels >= 0)).all())
    if scores.ndim == 1 and whole and labels.max(initial=0) > 1:
        chosen = " (they look like the classes that were chosen)" if (scores == np.floor(scores)).all() else ""
        raise _wrong(
            f'its scores are one number a case{chosen}, which is for two classes, and "{key}" go up to'
            f" {labels.max():.15g}",
            hint='return a score for each class, {"labels": y, "scores": torch.softmax(model(x), 1)}',
        )
    if not whole or not (labels < classes).all():
        raise _wrong(f'"{key}" must be whole numbers from 0 to {classes - 1}, one for each class that has a score')
    probable = bool(((scores >= 0.0) & (scores <= 1.0)).all())
    if scores.ndim == 2:
        probable = probable and bool((np.abs(scores.sum(axis=1) - 1.0) <= SUM_TOLERANCE).all())
        if classes == 2 and probable:
            scores = scores[:, 1]
    return Classified(labels.astype(np.int64), scores, classes, probable)


def _array(key: str, value: object) -> Floats:
    """Return an array as float64, without the dimensions of a scalar. Raises `UsageError`."""
    try:
        detach = getattr(value, "detach", None)
        array = np.asarray(value if detach is None else detach().cpu().double().numpy(), dtype=np.float64)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise _wrong(f'"{key}" is {type(value).__name__}, which is no array of numbers') from None
    if array.ndim == 2 and array.shape[1] == 1:
        array = array[:, 0]
    if array.ndim == 0:
        raise _wrong(f'"{key}" is one number, not one a case')
    if not np.isfinite(array).all():
        raise _wrong(f'"{key}" has values that are not finite')
    return array


_EXAMPLE = 'return {"labels": y, "scores": torch.sigmoid(model(x))}, or see docs/guides/honest-results.md'


def _wrong(why: str, hint: str = _EXAMPLE) -> UsageError:
    return UsageError(f"couldn't score the cases that evaluate() returned: {why}", hint=hint)
