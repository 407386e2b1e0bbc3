"""SHELL. Models for others to use: safetensors, with where they come from written inside."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from node.storage import store_error
from swarm.errors import UsageError
from swarm.vector import Layout, unflatten

SAFETENSORS, ONNX = FORMATS = ("safetensors", "onnx")
"""What a model may be written as: its tensors by name, or its graph with them (`node.onnx`)."""

NEEDS = ("onnxscript", "onnx")
"""Packages that the latter takes: the extra `onnx`."""

_OF_A_ROUND = re.compile(r"round-(\d{4,})\.safetensors")


def name_of(round_: int) -> str:
    """Return what the file with a round's model is called, wherever it lies."""
    return f"round-{round_:04d}.safetensors"


def round_of(path: Path) -> int | None:
    """Return the round whose model a file holds, by its name; None where it has another."""
    found = _OF_A_ROUND.fullmatch(path.name)
    return int(found[1]) if found else None


def check_available() -> None:
    """Raise `UsageError` unless what ONNX takes is installed."""
    if lacking := [name for name in NEEDS if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"couldn't export as ONNX: {' and '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} not installed",
            hint="pip install 'swarm-node[onnx]'",
        )


def export_model(vector: Path, layout: Layout, target: Path, origin: Mapping[str, str]) -> None:
    """Write the model that a flat float32 file begins with as named tensors. `origin` goes into the file's metadata.

    As one JSON object: the library writes several metadata entries in random order, and every peer's file should be the
    same.

    Raises:
        StoreError: the disk refused, in reading or in writing.
    """
    try:
        found = np.fromfile(vector, "<f4")
    except OSError as error:
        raise store_error(f"read the model in {vector}", error) from error
    # What an outer optimiser remembers follows the model, each part as long as that is.
    model = found if found.size % layout.elements else found[: layout.elements]
    export_tensors(unflatten(model, layout), target, origin)


def export_tensors(
    tensors: Mapping[str, NDArray[Any]], target: Path, origin: Mapping[str, str], *, mode: int | None = None
) -> None:
    """Write tensors by name, as `export_model` does; nobody without a right by `mode` can read them meanwhile either.

    Raises:
        StoreError: the disk refused.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    beside = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        if mode is not None:
            beside.unlink(missing_ok=True)
            beside.touch(mode=mode)
        save_file(dict(tensors), beside, metadata={"origin": json.dumps(dict(origin), sort_keys=True)})
        if mode is not None:
            beside.chmod(mode)
        beside.rename(target)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        failed = error if isinstance(error, OSError) else OSError(None, str(error))
        raise store_error(f"write {target}", failed) from error
