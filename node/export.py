"""SHELL. Models for others to use: safetensors, with where they come from written inside."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from node.storage import store_error
from swarm.vector import Layout, unflatten


def export_model(vector: Path, layout: Layout, target: Path, origin: Mapping[str, str]) -> None:
    """Write the model that a flat float32 file begins with as named tensors. `origin` goes into the file's metadata.

    As one JSON object: the library writes several metadata entries in random order, and every peer's file should be the
    same.

    Raises:
        StoreError: the disk refused, in reading or in writing.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import save_file

    try:
        tensors = unflatten(np.fromfile(vector, "<f4", count=layout.elements), layout)
    except OSError as error:
        raise store_error(f"read the model in {vector}", error) from error
    beside = target.with_name(f".{target.name}.part")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        save_file(tensors, beside, metadata={"origin": json.dumps(dict(origin), sort_keys=True)})
        beside.rename(target)
    except (OSError, SafetensorError) as error:
        with contextlib.suppress(OSError):
            beside.unlink()
        failed = error if isinstance(error, OSError) else OSError(None, str(error))
        raise store_error(f"write {target}", failed) from error
