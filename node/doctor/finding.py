"""What an examination finds: a level, a sentence, what to do, and where it looked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

from swarm.errors import SwarmError


class Level(Enum):
    """How bad it is. A site runs with warnings, though perhaps not well; with a failure it will not take part."""

    PASS = "PASS"  # noqa: S105 - a word on a screen
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of an examination.

    Attributes:
        check: What was looked at, a stable word: "dns".
        level: How it stands.
        text: One sentence.
        remedy: What to do about it; empty for what is well.
        subject: Whose: another member's name, or empty for this site.
        identifier: What the trouble is called in `docs/reference/errors.md`, if it has a name there.
        details: Lines below it, for this site's people alone.
        values: Figures for programs.
    """

    check: str
    level: Level
    text: str
    remedy: str = ""
    subject: str = ""
    identifier: str = ""
    details: tuple[str, ...] = ()
    values: Mapping[str, str | int | float | bool] = field(default_factory=dict)


def well(check: str, text: str, *, subject: str = "", **values: str | float | bool) -> Finding:
    """Return that something is as it should be."""
    return Finding(check, Level.PASS, text, subject=subject, values=values)


def warn(check: str, text: str, remedy: str, *, subject: str = "", identifier: str = "") -> Finding:
    """Return that something is not as it should be, though the site runs."""
    return Finding(check, Level.WARN, text, remedy, subject, identifier)


def fail(check: str, text: str, remedy: str, *, subject: str = "", identifier: str = "") -> Finding:
    """Return that the site cannot take part as it is."""
    return Finding(check, Level.FAIL, text, remedy, subject, identifier)


def failure(check: str, error: SwarmError) -> Finding:
    """Return an error as what a check has found."""
    own = "" if error.identifier == error.kind_identifier else error.identifier
    return fail(check, error.message, error.hint, identifier=own)
