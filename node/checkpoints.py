"""SHELL. Models of rounds on the way, for people: which are written, and which are let go again.

They are copies, beside the store that peers fetch from: nothing here decides what a swarm holds. What a run ends with
lies in `models/` and is never touched; these lie in `models/checkpoints/`, where nothing else has a name like theirs.
"""

from __future__ import annotations

import contextlib
import os
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path

from node.export import export_model, name_of, round_of
from node.storage import BlobStore, store_error
from swarm.errors import SwarmError
from swarm.machine import Digest, Report
from swarm.vector import Layout


class Checkpoints:
    """The models of the last `last` rounds, and of every round that `every` divides; 0 is none of either.

    `origin` tells, of a round and a model, what is written into the file. `later` has work done off the loop.
    """

    def __init__(
        self,
        folder: Path,
        store: BlobStore,
        layout: Path,
        *,
        last: int,
        every: int,
        origin: Callable[[int, Digest], Mapping[str, str]],
        later: Callable[[Callable[[], None]], None],
    ) -> None:
        self._folder, self._store, self._layout = folder, store, layout
        self._last, self._every = last, every
        self._origin, self._later = origin, later
        self._said: deque[Report] = deque()

    def committed(self, round_: int, model: Digest) -> None:
        """The model of a round is known, and in the store at this moment: write it if it is to be kept."""
        if not self._last and not (self._every and round_ % self._every == 0):
            return
        if self._store.spare or self._path(round_).exists():
            return
        held = self._store.new_file()
        try:
            os.link(self._store.path(model), held)  # Whatever the store forgets meanwhile, these bytes stay.
        except OSError as error:
            self._fail(round_, store_error(f"keep the model of round {round_}", error))
            return
        self._later(lambda: self._write(round_, model, held))

    def reports(self) -> list[Report]:
        """Return what has been done since the last call."""
        return [self._said.popleft() for _ in range(len(self._said))]

    def _write(self, round_: int, model: Digest, held: Path) -> None:
        try:
            layout = Layout.decode(self._layout.read_bytes())
            export_model(held, layout, self._path(round_), self._origin(round_, model))
            self._prune(round_)
            text = f"the model of round {round_} is in {self._path(round_)}"
            self._said.append(Report("checkpoint", text, {"round": round_}))
        except SwarmError as error:
            self._fail(round_, error)
        except OSError as error:
            self._fail(round_, store_error(f"keep the model of round {round_}", error))
        finally:
            held.unlink(missing_ok=True)

    def _prune(self, newest: int) -> None:
        for path in self._folder.glob("round-*.safetensors"):
            if (round_ := round_of(path)) is None:
                continue
            kept = round_ > newest - self._last or (self._every and round_ % self._every == 0)
            if not kept:
                with contextlib.suppress(OSError):
                    path.unlink()

    def _path(self, round_: int) -> Path:
        return self._folder / name_of(round_)

    def _fail(self, round_: int, error: SwarmError) -> None:
        text = f"round {round_} has no checkpoint: {error.message}"
        self._said.append(Report("checkpoint_failed", text, {"round": round_}, level="warning"))
