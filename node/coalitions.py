"""SHELL. The model that some of a round's sites would have made, put together in the trainer's memory.

The node hands over paths of blobs that it holds, with their weights, as one text among the plain values of a request.
What comes of them is the round's own mean, over fewer updates, and is written nowhere: a model of a coalition is asked
for once and never again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from swarm.mixing.average import coalition_model
from swarm.mixing.compress.forms import decode
from swarm.salt import message_of
from swarm.vector import Vector


def terms_text(terms: Sequence[tuple[Path, int]]) -> str:
    """Return update files and their weights as `coalition_from` reads them."""
    return json.dumps([[str(path), weight] for path, weight in terms])


def coalition_from(model: Path, terms: str, *, elements: int, coded: bool, salt: int = 0) -> Vector:
    """Return the model of a coalition, shape (elements,).

    What an outer optimiser remembers follows the model in its file, and plays no part: of each coalition the same is
    asked, what plain averaging would have made of its work. `coded` says that updates are messages of a codec, and
    `salt` how many bytes lie behind each. They have been read through before the round closed on them.

    Raises:
        OSError: A file is not there.
        Reject: A message is none for a model of this size.
    """
    base: Vector = np.fromfile(model, "<f4", count=elements)
    files = [(Path(path), int(weight)) for path, weight in json.loads(terms)]
    updates: list[Vector] = [
        decode(message_of(path.read_bytes(), salt), base.size)
        if coded
        else np.memmap(path, dtype="<f4", mode="r", shape=((path.stat().st_size - salt) // 4,))
        for path, _ in files
    ]
    return coalition_model(base, updates, [weight for _, weight in files])
