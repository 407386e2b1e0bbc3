"""SHELL. The audits that a site has made of its own updates: a file that is only ever added to, for people to show.

One line is one audit: what was attacked, how, and what came of it, as JSON, in a file as `node.chained` keeps it. It is
the site's own word, like its numbers of samples, and stays in its folder; the model card tells it where it is asked for
there. An audit that found nothing can be repeated until one finds nothing: so all of them are kept, and counted.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

from node.chained import Chained
from swarm.errors import StoreError

VERSION = 1

BEFORE, OFFERED = "before", "offered"
"""Of trainings that were made to be attacked, and of an update that others have."""

Audited: TypeAlias = Mapping[str, Any]
"""One audit as it is written: see docs/reference/cli.md, `swarm privacy audit`."""


class Audits:
    """The file of one site."""

    def __init__(self, path: Path) -> None:
        self._file = Chained(path, _audited, _damaged, noun="audit")

    def all(self) -> Sequence[Audited]:
        """Return all there are, in order. Raises `StoreError` where the file is not what was written."""
        return self._file.read()

    def append(self, one: Audited) -> None:
        """Add an audit, durably. Raises `StoreError`."""
        self._file.append({"version": VERSION, **one})


def _audited(values: object) -> Audited:
    if not isinstance(values, dict) or values["kind"] not in (BEFORE, OFFERED):
        raise TypeError
    lines(values)
    return values


def _damaged(where: str, why: str) -> StoreError:
    return StoreError(
        f"couldn't read this site's audits: {where}: {why}", hint="restore the file, or move it away to begin another"
    )


def lines(one: Audited) -> list[str]:
    """Return an audit in words, a line each."""
    reading = one["membership"]
    found = [
        f"membership   advantage {reading['advantage']:.3f} ({_span(reading['span'])})",
        f"             area under the curve {reading['area']:.3f} ({_span(reading['area_span'])}); a guess has 0.5",
        f"             {reading['members']} records that were trained on, {reading['others']} that were not",
        *(f"             {_hits(hits, reading['others'])}" for hits in reading["hits"]),
        f"             {reading['words']}",
    ]
    if canaries := one.get("canaries"):
        found += [
            f"canaries     advantage {canaries['advantage']:.3f} ({_span(canaries['span'])})",
            f"             {canaries['members']} with wrong labels were put in, {canaries['others']} were left out",
            f"             {canaries['words']}",
        ]
    if (bound := one.get("epsilon_at_least")) is not None:
        guesses = one["guesses"]
        found.append(
            f"epsilon      at least {bound:.2f} at delta {one['delta']:g}, with 95 % confidence:"
            f" {guesses['right']} of {guesses['made']} guesses were right"
        )
        spent = one.get("epsilon_spent")
        found.append("             " + _against(bound, spent))
    if inverted := one.get("inversion"):
        chance = _span(inverted["chance"], 2)
        found += [
            f"inversion    {inverted['lead_db']:+.2f} dB nearer to trained records; by chance {chance}",
            f"             in the median of {inverted['made']} {inverted['trained_db']:.1f} dB like a trained record,",
            f"             and {inverted['others_db']:.1f} dB like one of its label that was not: the nearest of each",
            f"             {inverted['words']}",
        ]
    else:
        found.append("inversion    not tried, or nothing could be compared")
    return found


def broken(one: Audited) -> bool:
    """Whether an audit proves that more was spent than the account says."""
    bound, spent = one.get("epsilon_at_least"), one.get("epsilon_spent")
    return bound is not None and spent is not None and bound > spent


def leaks(one: Audited) -> list[str]:
    """Return which attacks have found a leak."""
    parts = ("membership", "canaries", "inversion")
    return [name for name in parts if one.get(name) and one[name]["found"]]


def _against(bound: float, spent: float | None) -> str:
    if spent is None:
        return "no promise was made: this training adds no noise" if bound else "no promise was made either"
    if bound > spent:
        return f"THE ACCOUNT SAYS {spent:.3f}: the promise is broken; do not train before people have looked"
    return f"the account says {spent:.3f} at most: they do not contradict each other, which proves neither"


def _hits(hits: Mapping[str, Any], others: int) -> str:
    rate = f"at {hits['rate']:.1%} false alarms"
    if hits["share"] is None:
        return f"{rate} nothing can be told: that takes {round(1 / hits['rate'])} records that were not trained on"
    return f"{rate} {hits['share']:.1%} are found ({_span(hits['interval'])}; threshold set on the {others} others)"


def _span(span: Mapping[str, Any], digits: int = 3) -> str:
    return f"{span['low']:.{digits}f} to {span['high']:.{digits}f}"
