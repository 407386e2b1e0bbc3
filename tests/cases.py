"""Which cases of a claim go with every run of the suite, and which with `make test-long`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest


def shortened(kept: int, cases: Iterable[object]) -> list[Any]:
    """Return a test's cases, of which the first `kept` stay in the suite and the others are marked `long`.

    For what goes through the same code in other surroundings: further seeds of a story, further codecs under a route.
    Several arguments are a tuple, as in `parametrize`.
    """
    found = []
    for number, case in enumerate(cases):
        values = case if isinstance(case, tuple) else (case,)
        found.append(pytest.param(*values, marks=[pytest.mark.long] if number >= kept else []))
    return found
