"""SHELL. What a site keeps of its model and never sends: private parts, statistics, optimizer state, personal models.

Each round that a site trains ends with one file, `round-NNNNNNNNNN.safetensors`, of everything that the next one goes
on from. It is written beside, synced and renamed before the round's update is handed to the node, so that what others
hold of a round never lacks what belongs to it here. A round that is trained again, after a crash or from a backup,
begins with the newest file of an *earlier* round, and so with what it began with the first time. The last few are kept;
older ones are removed when a newer one is durable.

The files lie in a folder that only this user can read (mode 0700, files 0600), named after the ledger, because rounds
of another swarm are other rounds. They are in a site's backups, and in nothing else that leaves a site. They hold
tensors and numbers (safetensors, with one JSON object as metadata): nothing that would be executed when it is read. A
file whose content is not what its digest says is passed over for the one before, and that is said.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from node.storage import store_error, write_file_durably
from swarm.errors import StoreError

KEPT = 3
"""Rounds whose files are kept: training for one may be done again while the next is under way already."""

Arrays: TypeAlias = Mapping[str, NDArray[np.generic]]
Words: TypeAlias = Mapping[str, str | int | float | bool | None]

_ROUND = re.compile(r"round-(\d{10})\.safetensors")
_BESIDE = re.compile(r"\.(?:round-\d{10}|personal)\.safetensors\.(\d+)")
_PERSONAL = "personal.safetensors"


@dataclass(frozen=True, slots=True)
class Own:
    """What was kept after a round: tensors by name, and numbers. Nothing at all before the first, which is round 0."""

    round: int = 0
    arrays: Arrays = field(default_factory=dict)
    words: Words = field(default_factory=dict)

    def under(self, part: str) -> dict[str, NDArray[np.generic]]:
        """Return the tensors of one part, as in "private", by their names within it."""
        return {name.removeprefix(f"{part}/"): array for name, array in self.arrays.items() if _in(name, part)}


class PrivateFolder:
    """The files of one site in one swarm. Without a folder everything is kept in memory, for as long as this lives."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._remembered: dict[int, Own] = {}
        self._personal: Own | None = None
        self.remarks: list[str] = []
        """What was found on the way that a person should hear of; whoever tells it clears it."""

    def before(self, round_: int) -> Own:
        """Return what was kept after the last round below this one."""
        for number in sorted(self._rounds(), reverse=True):
            if number < round_ and (found := self._load(number)) is not None:
                return found
        return Own()

    def keep(self, own: Own) -> None:
        """Keep what a round ends with, durably, and let go of old rounds.

        Raises:
            StoreError: the disk fails; `DiskFull` if it has no room. What was kept before is still there then.
        """
        if self._folder is None:
            self._remembered[own.round] = own
        else:
            self._write(self._path(own.round), own)
        for number in sorted(self._rounds())[:-KEPT]:
            self._remembered.pop(number, None)
            if self._folder is not None:
                with contextlib.suppress(OSError):
                    self._path(number).unlink()

    def personal(self, model: str) -> Own | None:
        """Return the personal model that was made of a model of the swarm, by that one's digest, if it is the last."""
        found = self._personal if self._folder is None else self._read(self._folder / _PERSONAL)
        return found if found is not None and found.words.get("of") == model else None

    def keep_personal(self, own: Own) -> None:
        """Keep a personal model in place of the one before; `own.words["of"]` says of what. Raises as `keep` does."""
        self._personal = own
        if self._folder is not None:
            self._write(self._folder / _PERSONAL, own)

    def _rounds(self) -> list[int]:
        if self._folder is None:
            return [*self._remembered]
        try:
            names = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise store_error(f"list {self._folder}", error) from error
        return [int(found[1]) for name in names if (found := _ROUND.fullmatch(name))]

    def _path(self, round_: int) -> Path:
        assert self._folder is not None, "only a folder has paths"
        return self._folder / f"round-{round_:010}.safetensors"

    def _load(self, round_: int) -> Own | None:
        return self._remembered[round_] if self._folder is None else self._read(self._path(round_))

    def _write(self, path: Path, own: Own) -> None:
        try:
            for folder in (path.parent.parent, path.parent):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise store_error(f"make {path.parent}", error) from error
        kept = {"round": own.round, "sha256": _digest(own.arrays, own.words), "words": dict(own.words)}
        arrays = {name: np.array(array, order="C") for name, array in own.arrays.items()}
        write_file_durably(path, save(arrays, metadata={"kept": json.dumps(kept, sort_keys=True)}))
        _clear(path.parent)

    def _read(self, path: Path) -> Own | None:
        """Return what a file holds; None, and a remark, where it does not hold what was written there."""
        try:
            with safe_open(path, framework="numpy") as file:
                kept = json.loads(file.metadata()["kept"])
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
            own = Own(int(kept["round"]), arrays, dict(kept["words"]))
            if kept["sha256"] == _digest(own.arrays, own.words):
                return own
            why = "its content is not what was written"
        except FileNotFoundError:
            return None
        except (SafetensorError, KeyError, TypeError, ValueError, OverflowError, AttributeError, RecursionError):
            why = "it cannot be read"
        except OSError as error:
            raise store_error(f"read {path}", error) from error
        remark = f"the private file {path.name} is damaged ({why}): this site goes on from the one before"
        if remark not in self.remarks:
            self.remarks.append(remark)
        return None


def check_folder(folder: Path) -> None:
    """Raise `StoreError` if others on this machine can look into a site's private folder."""
    try:
        mode = folder.stat().st_mode & 0o777
    except FileNotFoundError:
        return
    except OSError as error:
        raise store_error(f"look at {folder}", error) from error
    if mode & 0o077:
        raise StoreError(
            f"couldn't use {folder}: others on this machine can look into it (mode {mode:o})",
            hint=f"run chmod 700 {folder}",
        )


def _in(name: str, part: str) -> bool:
    return name.startswith(f"{part}/")


def _digest(arrays: Arrays, words: Words) -> str:
    """Return the SHA-256, in hexadecimal, of names, types, shapes and bytes, and of the numbers."""
    digest = hashlib.sha256(json.dumps(dict(words), sort_keys=True).encode())
    for name in sorted(arrays):
        array = arrays[name]
        digest.update(json.dumps([name, str(array.dtype), list(array.shape)]).encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _clear(folder: Path) -> None:
    """Remove what a process that was killed in the middle of writing has left."""
    for path in folder.glob(".*.safetensors.*"):
        found = _BESIDE.fullmatch(path.name)
        if found is not None and not _runs(int(found[1])):
            with contextlib.suppress(OSError):
                path.unlink()


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True
