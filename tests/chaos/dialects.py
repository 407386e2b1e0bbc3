"""Nodes of older versions of the protocol, for the sites of a scenario that have not updated; the same in both worlds."""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Mapping

from node.core import Node

FIRST = "1.0"
"""The first version there was. Where no later one is known, today's node speaks it."""


def older() -> Mapping[str, type[Node]]:
    """Return what plays a site that speaks a version, by version: nodes held to what was recorded of that version."""
    if importlib.util.find_spec("tests.previous") is None:
        return {FIRST: Node}
    previous = importlib.import_module("tests.previous")
    return {".".join(map(str, previous.PREVIOUS)): previous.PreviousNode}
