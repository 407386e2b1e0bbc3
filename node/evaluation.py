"""SHELL. What a task's evaluate() returned: numbers for the node, and the cases themselves for a file of the site.

A task may return numbers, as ever, or cases (`node.scoring.cases`), or both. From cases the numbers are computed here,
in the trainer process, where they are; the node gets numbers and how many cases there are in each group, and never a
case. Cases are written only for `swarm evaluate`, into a file beside it that it deletes when it has compared them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from node.scoring.cases import CASE_KEYS, Cases, Classified, Predicted, Survived, holds_cases, read_cases
from node.scoring.measures import score
from node.task import checked_result
from swarm.errors import UsageError


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Metrics on `samples` held-out cases. `groups` is how many there are of each kind; empty if that is not known.

    `cases` is None where a task returns bare numbers, or cases that cannot be used, as a remark then says.
    """

    samples: int
    metrics: Mapping[str, float]
    remarks: tuple[str, ...]
    groups: tuple[int, ...]
    cases: Cases | None = None


def read_result(result: object) -> Evaluation:
    """Return what evaluate() returned, its cases scored without intervals, which nobody sees round by round.

    Raises:
        UsageError: it is not a mapping, or says neither how many samples there are nor gives cases that can be used.
    """
    if not isinstance(result, Mapping) or not holds_cases(result):
        samples, metrics, remarks = checked_result(result, "evaluate")
        return Evaluation(samples, metrics, tuple(remarks), (samples,))
    rest = {name: value for name, value in result.items() if name not in CASE_KEYS}
    try:
        cases = read_cases(result)
    except UsageError as error:
        if "samples" not in rest:
            raise
        samples, metrics, remarks = checked_result(rest, "evaluate")
        return Evaluation(samples, metrics, (error.message, *remarks), ())
    given = rest.get("samples", cases.n)
    _, metrics, remarks = checked_result({**rest, "samples": cases.n}, "evaluate")
    scores = score(cases, intervals=False)
    if given != cases.n:
        remarks.append(f'"samples" is {given!r}, and there are {cases.n} cases: the cases count')
    remarks += [f"metric {name!r} is computed from the cases" for name in metrics if scores.find(name) is not None]
    # Where a computed metric does not exist here, the task's own number under its name is no substitute.
    own = {name: value for name, value in metrics.items() if scores.find(name) is None}
    return Evaluation(cases.n, {**own, **scores.values()}, (*remarks, *scores.remarks), _groups(cases), cases)


def _groups(cases: Cases) -> tuple[int, ...]:
    match cases:
        case Classified():
            return cases.supports
        case Predicted():
            return (cases.n,)
        case Survived():
            events = int(cases.events.sum())
            return cases.n - events, events


def save_cases(cases: Cases, path: Path) -> None:
    """Write cases to a file that only this user can read."""
    path.touch(mode=0o600)
    with path.open("wb") as file:
        np.savez(file, allow_pickle=False, **_arrays(cases))


def _arrays(cases: Cases) -> dict[str, np.ndarray]:
    match cases:
        case Classified(own=own):
            ours = {} if own is None else {"threshold_labels": own.labels, "threshold_scores": own.scores}
            return {"labels": cases.labels, "scores": cases.scores, **ours}
        case Predicted():
            return {"targets": cases.targets, "predictions": cases.predictions}
        case Survived():
            return {"times": cases.times, "events": cases.events, "risks": cases.risks}


def load_cases(path: Path) -> Cases:
    """Return the cases in a file that `save_cases` wrote. Raises `UsageError` when they are none."""
    with np.load(path, allow_pickle=False) as arrays:
        return read_cases(dict(arrays))
