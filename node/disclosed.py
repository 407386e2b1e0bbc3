"""SHELL. Of how many cases this site has told scores before, remembered across starts.

Scores of 45 cases and later of 46 would tell the one that came, so the difference is a group like any other
(`swarm.disclosure`). The file holds the counts of the last scores that were told, and is written before they are.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from node.storage import write_file_durably
from swarm import disclosure


class Disclosed:
    """The memory of one site. `least` is the smallest cell by charter and site, 0 if there is none to heed."""

    def __init__(self, path: Path, *, least: int) -> None:
        self._path, self._least = path, least

    def cell(self, groups: Sequence[int]) -> int:
        """Return the fewest cases that a score of these groups would tell apart; remember them if it may be told.

        Raises:
            StoreError: the disk refused to remember it.
        """
        before = self._before()
        found = disclosure.smallest(groups, before)
        if self._least and found >= self._least and [*groups] != before:
            write_file_durably(self._path, json.dumps([*groups]).encode() + b"\n")
        return found

    def _before(self) -> list[int]:
        try:
            counts = json.loads(self._path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        fair = isinstance(counts, list) and all(isinstance(n, int) and n >= 0 for n in counts)
        return counts if fair else []
