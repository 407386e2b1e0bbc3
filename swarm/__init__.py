"""What a swarm agrees on and records: identities, values, the ledger and the learning round.

Everything here is pure. No module of this package reads a clock, a file, a socket or a random source.

`swarm.join` and `swarm.Swarm` are for the scripts of users, who know one name, and are no part of it: the first use of
either imports `node.loop`, and nothing in this package does (docs/decisions/0037).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from swarm.errors import UsageError

if TYPE_CHECKING:
    from node.loop.local import Swarm
    from node.loop.peer import Peer, join

__all__ = ["Peer", "Swarm", "join"]

_DOORS = {"Peer": "node.loop.peer", "Swarm": "node.loop.local", "join": "node.loop.peer"}

_LEARNING = ("safetensors", "torch")
"""What an installation that only inspects ledgers lacks."""


def __getattr__(name: str) -> object:
    if name not in _DOORS:
        raise AttributeError(f"module 'swarm' has no attribute {name!r}")
    try:
        return getattr(importlib.import_module(_DOORS[name]), name)
    except ModuleNotFoundError as error:
        if error.name not in _LEARNING:
            raise
        hint = "pip install 'swarm-node[torch]'"
        lacking = UsageError(f"couldn't use swarm.{name}: {error.name} is not installed", hint=hint)
        lacking.add_note(f"hint: {hint}")  # A traceback shows notes.
        raise lacking from None
