"""What a script is bound by: what it declares of its model's parts, and which terms of a charter no script can keep.

A script may declare parts of its model as a file of functions does (`node.declared`), and what can be done around a
loop that belongs to somebody else is done: private parts stay, frozen ones stand still, statistics of batch
normalisation are averaged or the site's own. What would need the node to call the training itself, or to step the
optimizer, cannot be. It is refused by name, before anything is sent: whoever wrote `private` and was not heard has
lost what it was for.

The same holds for a charter. `local` adds to steps that are the script's, scores of contributions need somebody who
judges a model on demand, and a privacy budget somebody who watches each step.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace

from node.declared import MISSPELT, NAMES, Declared, check_imported, declared, written_in
from swarm.charter import Charter
from swarm.contribution.policy import Policy
from swarm.errors import UsageError
from swarm.privacy.accounting import Budget

FORM = "write the task as a file of four functions (docs/guides/your-own-training.md), which has it"

_NEEDS = {
    "optimizer_state": "its optimizer is its own",
    "fedrep": "its loop would have to be run once for each part",
    "fine_tune": "nobody else can run its loop once more",
    "evaluate_ranks": "only its first process evaluates",
}
"""Declarations of which no value but the one below can be kept, and why."""

_AS_IT_IS: Mapping[str, object] = {"fedrep": 0, "fine_tune": 0, "evaluate_ranks": "first"}
"""Values that say what a script does anyway. Of an optimizer's state none does: it neither ends nor outlives it."""


def declared_by(script: Path, names: Mapping[str, object]) -> Declared:
    """Return what a script declares; `names` are what its top level has bound when it joins.

    Raises:
        UsageError: a declaration has a value that it cannot have, is no literal, or cannot be kept by a script.
    """
    said = declared(script)
    # A script is free to call its own functions and layers what it likes; declarations are words and numbers.
    plain = {name: names[name] for name in (*NAMES, *MISSPELT) if isinstance(names.get(name), _LITERALS)}
    check_imported(script, said, SimpleNamespace(**plain))
    written = written_in(script)
    for name, why in _NEEDS.items():
        if name in written and (name not in _AS_IT_IS or getattr(said, name) != _AS_IT_IS[name]):
            raise _refused(script, f"{name} = {getattr(said, name)!r}", why)
    if said.normalisation == "recalibrate":
        raise _refused(script, "normalisation = 'recalibrate'", "its loop would have to be run to measure them")
    return said


_LITERALS = (str, int, list, tuple, set, frozenset)


def running() -> tuple[Path | None, Mapping[str, object]]:
    """Return the file of the script that runs, None in an interactive session, and what its top level has bound."""
    main = sys.modules.get("__main__")
    path = getattr(main, "__file__", None)
    return None if path is None else Path(path), {} if main is None else vars(main)


def check_terms(charter: Charter, refused: str, budget: Budget | None = None) -> None:
    """Raise `UsageError`, whose sentence begins as `refused` does, if a charter asks for what no script can do.

    `budget` is what this site may spend of privacy, where that is known: by its own settings, or as the charter has it.
    """
    check_asked(charter.local, charter.contribution, refused)
    private = budget or charter.privacy
    if private is not None:
        raise UsageError(
            f"{refused}: updates must be private here ({private}), and the task is a script, whose training"
            " nobody watches",
            hint="write the task as a file with train(model, data, run), which can use run.private()",
        )


def check_asked(local: str, contribution: Policy | None, refused: str) -> None:
    """Raise as `check_terms` does, for what a charter adds to training and how it tells what work is worth."""
    if local:
        raise UsageError(
            f"{refused}: --local {local} adds to each site's steps, and the task is a script, whose steps are its own",
            hint=f"found the swarm without --local, or {FORM}",
        )
    if contribution is not None and contribution.judged:
        raise UsageError(
            f"{refused}: --contribution {contribution.method} lets every member judge models of the others' updates,"
            " and the task is a script, which judges none",
            hint=f"found the swarm with --contribution size, or {FORM}",
        )


def _refused(script: Path, what: str, why: str) -> UsageError:
    return UsageError(
        f"couldn't use {script}: it declares {what}, and is a script: {why}", hint=f"leave it out, or {FORM}"
    )
