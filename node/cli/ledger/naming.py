"""What people type to name a thing, and the one thing they mean by it.

An entry is named by its place in the log (`17`) or by its id, a block by its height (`12`, or `b12` where a number
alone would be an entry) or by its hash, a round by its number (`3`, `r3`), a member by its name or its id. Of ids and
hashes six or more hexadecimal digits are enough. What fits two things, or is shorter, is answered as `git` does: with
the things that it could be.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Generic, TypeVar

import click
from typing_extensions import override

from node.cli.output import NOT_FOUND, Failure, count

T = TypeVar("T")

DIGITS_MIN = 6
"""Fewest hexadecimal digits that name a thing: one in sixteen million, and quickly typed."""

CANDIDATES_MAX = 5
"""Things named when what was asked for could be several."""

_TOO_SHORT = f"give {count(DIGITS_MIN, 'digit')} or more, or say one of these"


@dataclass(frozen=True, slots=True)
class Kind:
    """How things of a kind are named: `place` by a number, `digits` by an id. Each pattern has one group."""

    place: re.Pattern[str] | None
    digits: re.Pattern[str] | None

    def number(self, which: str) -> int | None:
        """Return the place that is named, if one is."""
        found = None if self.place is None else self.place.fullmatch(which)
        return None if found is None else int(found[1])

    def prefix(self, which: str) -> str | None:
        """Return the beginning of the id that is named, if one is. A short number is a place where there are places."""
        found = None if self.digits is None else self.digits.fullmatch(which.lower())
        if found is None or (self.place is not None and which.isdecimal() and len(which) < DIGITS_MIN):
            return None
        return found[1]


ENTRY = Kind(re.compile(r"(?:entry:)?([0-9]{1,18})"), re.compile(r"(?:id:)?([0-9a-f]{1,64})"))
BLOCK = Kind(re.compile(r"(?:block:|b)?([0-9]{1,18})"), re.compile(r"(?:hash:)?([0-9a-f]{1,64})"))
MARKED_BLOCK = Kind(re.compile(r"(?:block:|b)([0-9]{1,18})"), BLOCK.digits)
"""A block, where a number alone is an entry."""
ROUND = Kind(re.compile(r"(?:round:|r)?([0-9]{1,18})"), None)
MARKED_ROUND = Kind(re.compile(r"(?:round:|r)([0-9]{1,18})"), None)
LEDGER = Kind(None, re.compile(r"([0-9a-f]{1,64})"))
MEMBER = Kind(None, re.compile(r"(?:id:)?([0-9a-f]{1,64})"))


@dataclass(slots=True)
class Search(Generic[T]):
    """Looks for what `which` means while a ledger is read: everything is offered, `found` returns the one."""

    which: str
    matches: list[tuple[str, T]] = field(default_factory=list)
    near: list[str] = field(default_factory=list)

    def offer(self, kind: Kind, place: int | None, id_: str, label: str, value: T) -> None:
        """Offer a thing of a kind, with its place, its id in hexadecimal digits, and what to call it."""
        number, prefix = kind.number(self.which), kind.prefix(self.which)
        begins = prefix is not None and id_.startswith(prefix)
        if (number is not None and number == place) or (begins and prefix is not None and len(prefix) >= DIGITS_MIN):
            self.matches.append((label, value))
        elif begins and number is None:
            self.near.append(label)

    def found(self, missing: str, hint: str) -> T:
        """Return what is meant. Raises `Failure`, that of `missing` and `hint` when nothing is like it."""
        if len(self.matches) == 1:
            return self.matches[0][1]
        if self.matches:
            text = f"{self.which!r} could be {_listed([label for label, _ in self.matches])}"
            raise Failure(text, code=NOT_FOUND, hint="say one of these, or give more digits")
        if self.near:
            text = f"{self.which!r} is too short for an id: it could be {_listed(self.near)}"
            raise Failure(text, code=NOT_FOUND, hint=_TOO_SHORT)
        raise Failure(missing, code=NOT_FOUND, hint=hint)


class Height(click.ParamType[int]):
    """A height on the command line: `12`, `b12` or `block:12`; 1 or more, or what else is the least."""

    name = "height"

    def __init__(self, least: int = 1) -> None:
        self._least = least

    @override
    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> int:
        number = value if isinstance(value, int) else BLOCK.number(str(value))
        if number is None or number < self._least:
            self.fail(f"{value!r} is no height: say a number from {self._least} on, as 12 or b12", param, ctx)
        return number


def entry_label(index: int, id_: str) -> str:
    """Return what an entry is called among others: a name that leaves no doubt, and the digits to tell it by."""
    return f"entry:{index} (id {id_[:12]})"


def block_label(height: int, hash_: str) -> str:
    """Return what a block is called among others."""
    return f"block:{height} (hash {hash_[:12]})"


def _listed(labels: list[str]) -> str:
    return ", ".join(labels[:CANDIDATES_MAX]) + (", ..." if len(labels) > CANDIDATES_MAX else "")
