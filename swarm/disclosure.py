"""What of a site's scores may be told to the others: all that the charter names, or nothing.

A score computed on few patients says something about each of them, and a score on the ledger is there for good. So a
charter may name a smallest *cell*: where any group of a site's held-out cases that its scores tell apart has fewer,
none of its scores leaves it, nor how many cases there are. A group is a class of the labels, or those with an event and
those without; for a task that returns bare numbers it is all of its cases, as nothing else is known of them.

It is all or nothing, because less leaks. An accuracy in millionths on 45 cases is a fraction whose denominator is found
by trying; so is a sensitivity, and its denominator taken from 45 is the number of healthy patients that was to be kept
back. An empty group is not a small one: that a hospital has no such patients is no secret of any of them.

The cases that are new since the site last told a score are such a group too: two scores, before and after one patient
came, would tell that patient's. The site remembers, and tells nothing until there are enough (`node.disclosed`).

How many of its cases a model gets wrong is not a group in this sense. Else the better a model, the less could be said.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from swarm.errors import UsageError

MIN_CELL_DEFAULT = 5
"""What a new charter says unless it is asked for something else: the smallest count that most statistical offices and
registries of patients let out (those that are stricter ask for 10 or 11)."""

MIN_CELL_MAX = 100_000

_NUMBER = re.compile(r"[1-9]\d{0,5}")


def parse(text: str) -> int:
    """Return the smallest cell, 1 to `MIN_CELL_MAX`, as a charter has it. Raises `UsageError`."""
    if not _NUMBER.fullmatch(text) or int(text) > MIN_CELL_MAX:
        raise UsageError(
            f"couldn't take {text[:20]!r} for the smallest number of cases that scores may be told of:"
            f" it must be 1 to {MIN_CELL_MAX}",
            hint="To tell scores of any number of cases, leave it out, or say --min-cell 0 to `swarm charter new`.",
        )
    return int(text)


def smallest(groups: Sequence[int], before: Sequence[int] = ()) -> int:
    """Return the fewest cases of any group that there is, or that has come or gone since `before`; 0 if there is none.

    Of groups that were divided otherwise before, only all together are compared.
    """
    if not groups:
        return 0
    cells = [count for count in groups if count > 0]
    if before and len(before) != len(groups):
        before, groups = [sum(before)], [sum(groups)]
    moved = [abs(now - then) for now, then in zip(groups, before, strict=False) if now != then]
    return min([*cells, *moved], default=0)


def withheld(cell: int, least: int) -> str:
    """Say why a site's scores stay there; empty if they may be told. `least` of 0 lets everything out."""
    if cell >= least:
        return ""
    return f"nothing of it leaves this site: its smallest group has {cell}, at least {least} are agreed"
