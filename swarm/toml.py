"""TOML of any origin, read at a price that follows from its length.

The standard library's reader keeps a table for every part of a dotted key and walks all of them for each, so a key of
n parts costs n² (37 MB for one of 6 kB); and what it makes of nests, `repr` and others cannot go through. Nothing that
this software reads has either, so a key of many parts is refused before it is read, and a deep nest before it is used.
"""

from __future__ import annotations

import re
import tomllib
from typing import Any

CHARACTERS_MAX = 1 << 24
"""Longest text: a charter of `MEMBERS_MAX` members with all their links takes a fraction of it."""

PARTS_MAX = 32
"""Most parts of a key, and deepest nest of tables and arrays. The files of this software use 3."""

# Nothing is tried twice: from the beginning of a word only, and no repetition gives back what it has taken.
_PART = r"""(?:[A-Za-z0-9_-]++|"[^"\n]*+"|'[^'\n]*+')"""
_MANY_PARTS = re.compile(rf"(?<![A-Za-z0-9_-])(?:{_PART}[ \t]*+\.[ \t]*+){{{PARTS_MAX}}}")


def loads(text: str) -> dict[str, Any]:
    """Return what TOML text holds (toml.io, version 1.0.0).

    Raises:
        ValueError: it is none, has a number without end, or is too long or nested too deeply for one of our files.
    """
    if len(text) > CHARACTERS_MAX:
        raise ValueError(f"it has {len(text)} characters, at most {CHARACTERS_MAX} are read")
    if found := _MANY_PARTS.search(text):
        line = text.count("\n", 0, found.start()) + 1
        raise ValueError(f"more than {PARTS_MAX} words are joined by dots (at line {line})")
    try:
        data = tomllib.loads(text)
    except RecursionError:
        raise ValueError(_DEEP) from None
    level: list[object] = [data]
    for _ in range(PARTS_MAX):
        level = [item for value in level if isinstance(value, (dict, list)) for item in _items(value)]
        if not level:
            return data
    raise ValueError(_DEEP)


_DEEP = f"it is nested deeper than {PARTS_MAX} tables and arrays"


def _items(value: dict[str, object] | list[object]) -> list[object]:
    return [*value.values()] if isinstance(value, dict) else value
