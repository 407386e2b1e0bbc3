"""SHELL. What people are told of a task's model before anybody signs: what travels, what stays, what looks like a slip.

`swarm charter new` prints it, and `swarm doctor` at each site. Nothing here decides anything: a model that cannot be
used is refused by `node.parts`, whose view of it this puts into words.
"""

from __future__ import annotations

import os
import sys
import sysconfig
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from node.console import size_words
from node.declared import GUIDE, STATISTICS, nearly_declared

if TYPE_CHECKING:
    import torch

    from node.parts import Parts

IDLE_SHARE = 0.1
"""From this part of what travels on, what no gradient reaches is worth a word."""

NAMES_SHOWN = 4


def notes(parts: Parts) -> tuple[str, ...]:
    """Return sentences about what becomes of each part of a model: first what travels, then what does not, and why."""
    every = parts.every
    whole = sum(tensor.numel() for tensor in every.values())
    travels = parts.layout.elements
    part = f"all {travels:,}" if travels == whole else f"{travels:,} of the {whole:,}"
    found = [f"{part} numbers of the model travel, {size_words(4 * travels)} as they are"]
    statistics = [name for name in parts.private if _measured(name)]
    kept = {name: tensor for name, tensor in parts.private.items() if name not in statistics}
    if kept:
        found.append(f"private, of each site its own: {_listed(kept)}")
    if statistics:
        measured = ", measured anew before the model is used" if parts.recalibrates else ""
        found.append(f"statistics of batch normalisation, of each site its own{measured}: {_listed_names(statistics)}")
    if parts.frozen:
        found.append(f"frozen, the same everywhere and never sent: {_listed(parts.frozen)}")
    if rest := {name: tensor for name, tensor in parts.rest.items() if not _measured(name)}:
        found.append(f"neither sent nor averaged, being no real numbers: {_listed(rest)}")
    return tuple(found)


def warnings(parts: Parts) -> tuple[str, ...]:
    """Return sentences about what the task leaves undecided, or sends for nothing."""
    idle = parts.idle
    numbers = sum(tensor.numel() for tensor in idle.values())
    found = [parts.warning] if parts.warning else []
    if numbers >= IDLE_SHARE * parts.layout.elements:
        patterns = _patterns(idle, parts.every)
        some = ", ".join(f'"{one}"' for one in patterns[:NAMES_SHOWN]) + (
            ", ..." if len(patterns) > NAMES_SHOWN else ""
        )
        found.append(
            f"{numbers:,} of the {parts.layout.elements:,} numbers that travel need no gradient, and are sent in every"
            f" round all the same; if no site trains them, write frozen = [{some}] in the task file ({GUIDE})"
        )
    return tuple(found)


def slips(path: Path, loader: Path | None = None) -> tuple[str, ...]:
    """Return sentences about a task file that has been imported: names that mean nothing, and files it has beside it.

    A charter names the digest of one file. What that imports from its own folder may be another at each site.
    """
    found = [
        f"{path.name} says {name} = ..., which means nothing; if it is meant to be {meant}, write that"
        for name, meant in nearly_declared(path)
    ]
    helpers = _helpers(path, {path.resolve(), *([loader.resolve()] if loader is not None else [])})
    if helpers:
        are = "is" if len(helpers) == 1 else "are"
        found.append(
            f"{path.name} imports {_listed_names(helpers)}, which {are} not in the charter: its digest is that of"
            f" {path.name} alone; give all sites the same, or write it all in one file"
        )
    return tuple(found)


def _helpers(path: Path, known: Collection[Path]) -> list[str]:
    """Return the names of files in a task's own folder that have been imported: no installed packages, though below."""
    folder, found = path.resolve().parent, set[str]()
    starts = (
        f"{folder}{os.sep}",
        f"{path.absolute().parent}{os.sep}",
    )  # As on the path for imports: of tasks, scripts.
    installed = {Path(sysconfig.get_path(kind)).resolve() for kind in ("purelib", "platlib", "stdlib")}
    for module in list(sys.modules.values()):
        file = getattr(module, "__file__", None)
        # Two thousand modules are loaded, and to resolve the path of each would take a sixth of a second at each start.
        if not isinstance(file, str) or not file.startswith(starts):
            continue
        own = Path(file).resolve()
        beside = own.is_relative_to(folder) and own not in known
        if beside and not any(own.is_relative_to(place) for place in installed | {_PRODUCT}):
            found.add(str(own.relative_to(folder)))
    return sorted(found)


_PRODUCT = Path(__file__).resolve().parent.parent
"""Where `swarm`, `node` and `gossip` lie: a task may be tried in a checkout of this very project."""


def _patterns(chosen: Mapping[str, object], every: Iterable[str]) -> list[str]:
    """Return patterns that fit these names and no other of the model, as few as whole modules allow."""
    others = [name for name in every if name not in chosen]
    found: list[str] = []
    for name in chosen:
        if any(name.startswith(one[:-1]) for one in found if one.endswith(".*")):
            continue
        parts = name.split(".")
        prefixes = (".".join(parts[:depth]) + "." for depth in range(1, len(parts)))
        whole = next((prefix for prefix in prefixes if not any(one.startswith(prefix) for one in others)), "")
        found.append(f"{whole}*" if whole else name)
    return found


def _listed(tensors: Mapping[str, torch.Tensor]) -> str:
    numbers = sum(tensor.numel() for tensor in tensors.values())
    return f"{_listed_names([*tensors])} ({numbers:,} number{'' if numbers == 1 else 's'})"


def _listed_names(names: list[str]) -> str:
    shown = ", ".join(names[:NAMES_SHOWN])
    return shown + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _measured(name: str) -> bool:
    """Whether a tensor has the name of one that a layer of batch normalisation measures."""
    return name.rpartition(".")[2] in STATISTICS
