"""A fact as one line of JSON: the same in a site's log file and on a stderr that machines read.

Either is made to be handed on, to a journal, a collector, somebody who helps. So it does not hold what the user's own
code said, which may name a patient, unless a site has decided that its stderr may.
"""

from __future__ import annotations

import json
from collections.abc import Mapping

from node.telemetry.traces import Names
from swarm.machine import Report

PRIVATE = {
    "task_output": "the task printed a line",
    "training_failed": "training failed",
    "evaluation_failed": "evaluation failed",
    "score_failed": "judging contributions failed",
    "alone_failed": "training alone failed",
    "failed": "this site's run has failed: training goes wrong at this site",
}
"""Events that quote the user's code, and what is said in place of it."""


def kept_private(report: Report, *, where: str = "") -> Report:
    """Return a fact without what the user's code said: of such a one its event, its round and no words.

    `where` says of an error where they are to be had.
    """
    words = PRIVATE.get(report.event)
    if words is None:
        return report
    words += f" ({where})" if where and report.level == "error" else ""
    return Report(report.event, words, {k: v for k, v in report.values.items() if k == "round"}, report.level)


def line(report: Report, now: float, *, node: str, names: Names | None = None) -> str:
    """Return a fact as a line, without its end: `time`, `node`, `level`, `event`, `text`, its ids and its values.

    Values never displace the line's own fields: their names come from charters and tasks that others wrote.
    """
    own: Mapping[str, object] = {
        "time": round(now, 3),
        "node": node,
        "level": report.level,
        "event": report.event,
        "text": report.text,
        **({} if names is None else names.of(report)),
    }
    return json.dumps({**own, **{key: value for key, value in report.values.items() if key not in own}})
