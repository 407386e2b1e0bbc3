"""SHELL. A process that runs a user's script as far as its `join`, to learn what model it has, and trains nothing.

A charter names the layout of the model and the digest of the one to start from. A script makes its model somewhere on
the way to `join`, so that is how far it has to go: this process seeds the generators as the charter says, runs the
script as `python script.py FOLDER` would, and `node.loop.peer.join` finds it here, hands over the model and ends the
script by `SystemExit`, before any data need be there and before any training. Every site's node does the same when it
starts, so a script that does not seed itself begins with the same model everywhere, too.

It speaks the worker's protocol (`node.trainer`), of which it knows one request.
"""

from __future__ import annotations

import argparse
import random
import runpy
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from node import overview
from node.framing import receive
from node.loop import protocol
from node.loop.declarations import FORM, declared_by, running
from node.loop.parameters import Parameters, parameters_of, told_of
from node.task import where_in
from swarm.errors import SwarmError, UsageError


class Found(SystemExit):
    """Ends a script at its `join`."""


class _Describing:
    """Whether this process runs a script only to see its model, and what was seen."""

    active = False
    found: Parameters | None = None


STATE = _Describing()


def capture(model: object) -> None:
    """Take the model of the script that runs here and end it. Nothing if scripts are run in earnest."""
    if STATE.active:
        script, names = running()
        assert script is not None, "it is run from its file"
        STATE.found = parameters_of(model, declared_by(script, names), script.parent)
        raise Found(0)


def describe(script: Path, folder: Path, seed: int) -> Parameters:
    """Run a script as far as its `join`, with `folder` as its one argument, and return its model's state.

    Raises:
        UsageError: it fails before, or never joins.
    """
    _seed(seed)
    STATE.active, STATE.found = True, None
    argv, path = sys.argv, list(sys.path)
    sys.argv = [str(script), str(folder)]
    sys.path.insert(0, str(script.parent))
    ended = ""
    try:
        runpy.run_path(str(script), run_name="__main__")
    except UsageError:
        raise
    except SystemExit as error:
        ended = "" if isinstance(error, Found) else f" (it ended with {error.code!r})"
    except Exception as error:
        raise UsageError(f"couldn't run {script.name} as far as join(): {where_in(error, script)}") from error
    finally:
        sys.argv, sys.path[:] = argv, path
        STATE.active = False
    if STATE.found is None:
        raise UsageError(
            f"couldn't describe the model of {script.name}: it never called join(){ended}",
            hint="build the model and call swarm.join(folder, model) before anything that needs this site's data",
        )
    return STATE.found


def _seed(seed: int) -> None:
    random.seed(seed)  # noqa: TID251 - the user's script may draw from the global generators
    np.random.seed(seed % (1 << 32))  # noqa: NPY002, TID251
    try:
        import torch
    except ImportError:
        return  # Then the script has no use for it either.
    torch.manual_seed(seed)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as `python -m node.loop.describing`; started by `node.trainer` where the task file is a script."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--fd", type=int, required=True)
    options.add_argument("--task", type=Path, required=True)
    options.add_argument("--data", type=Path, required=True)
    options.add_argument("--seed", type=int, required=True)
    chosen, _ = options.parse_known_args(arguments)
    link = socket.socket(fileno=chosen.fd)
    protocol.send(link, {"did": "load"})
    try:
        while (request := receive(link)) is not None:
            protocol.send(link, {"did": request["do"], "round": request.get("round", 0), **_answer(request, chosen)})
    except BrokenPipeError:
        return 0  # The node is gone.
    return 0


def _answer(request: dict[str, object], chosen: argparse.Namespace) -> dict[str, object]:
    if request["do"] != "describe":
        return {
            "error": f"{chosen.task.name} is a script, and nobody else can run its loop or its scores",
            "hint": f"do that in the script, as with evaluate= in join(), or {FORM}",
        }
    try:
        found = describe(chosen.task, chosen.data, chosen.seed)
        found.read().tofile(str(request["path"]))
    except SwarmError as error:
        return {"error": error.sentence}
    bounds = [bound for stretch in found.trained() for bound in stretch]
    warnings, notes = told_of(found)
    told = {"warnings": [*warnings, *overview.slips(chosen.task)], "notes": [*notes]}
    return {"layout": found.layout.encode(), "parameters": bounds, **told}


if __name__ == "__main__":
    # As `__main__` this file would be another module than the one `join` imports, with a state of its own.
    from node.loop.describing import main as imported

    sys.exit(imported())
