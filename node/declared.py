"""What a task file declares about its model's parts: which are private, which are frozen, how a site treats them.

A declaration is a plain literal at the top level of the file, so that it is covered by the file's digest, and can be
read without running anything::

    private = ["head.*"]                  # never leave the site; names as in state_dict(), patterns as in a shell
    frozen = ["backbone.*"]               # never trained and never sent; they come from `initial`, or
    frozen_sha256 = "2c26b46b..."         # are what build_model() gives, which is this at every site
    initial = "backbone.safetensors"      # a file beside this one, with values to begin with
    initial_sha256 = "9f86d081..."        # of that file: all sites must begin alike
    fresh = ["head.*"]                    # not taken from that file: a head for other classes, say
    normalisation = "local"               # of batch normalisation: average, local, recalibrate or local_all
    optimizer_state = "keep"              # or fresh; keep needs a function build_optimizer(model)
    fedrep = 1                            # passes over the private parts before the shared ones are trained
    fine_tune = 2                         # further calls of train() that make a personal model of the last one
    evaluate_ranks = "all"                # evaluate() is called in every process of a site, not in the first alone

This module reads text; it neither imports the file nor knows what a tensor is. `node.worker` compares what it finds
when it has imported the file, so that nothing that is meant to stay private is sent because it was declared in a way
that cannot be read here.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from fnmatch import fnmatchcase
from pathlib import Path, PurePath

from swarm.errors import UsageError

GUIDE = "docs/guides/your-own-training.md"
"""Where all of it is explained."""

NORMALISATIONS = ("average", "local", "recalibrate", "local_all")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")
"""What a layer of batch normalisation measures: tensors of it end so."""

OPTIMIZER_STATES = ("fresh", "keep")
EVALUATE_RANKS = ("first", "all")

PASSES_MAX = 100
"""Most passes of FedRep or of fine-tuning: more than that is a mistake."""

PATTERNS_MAX = 1000

MISSPELT = {
    "normalization": "normalisation",
    "optimiser_state": "optimizer_state",
    "build_optimiser": "build_optimizer",
    "personalize": "personalise",
}
"""What people also write, and which would silently mean nothing."""

MEANT = {
    "shared": "private, which names what is not",
    "freeze": "frozen",
    "fixed": "frozen",
    "personal": "private",
    "batch_norm": "normalisation",
    "batchnorm": "normalisation",
    "finetune": "fine_tune",
    "pretrained": "initial",
}
"""What people write who know other tools. A file may have such names for things of its own: it is told, not refused."""

NEAR = 0.88
"""How alike a name has to be, 0 to 1 (`difflib`): "privat" and "frozn" are, "initial_lr" is not."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Declared:
    """What a task file says; the defaults are what a file says that says nothing. `normalisation` is "" there."""

    private: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    frozen_sha256: str = ""
    initial: str = ""
    initial_sha256: str = ""
    fresh: tuple[str, ...] = ()
    normalisation: str = ""
    optimizer_state: str = "fresh"
    fedrep: int = 0
    fine_tune: int = 0
    evaluate_ranks: str = "first"


NAMES = tuple(one.name for one in fields(Declared))


def declared(path: Path) -> Declared:
    """Return what a task file declares; nothing where it cannot be read, which is for whoever imports it to say.

    Raises:
        UsageError: a declaration has a value that it cannot have.
    """
    found = _literals(path)
    for wrong, right in MISSPELT.items():
        if wrong in found:
            raise UsageError(f"couldn't use {path}: it declares {wrong}", hint=f"write {right}")
    made = Declared(
        private=_patterns(path, "private", found),
        frozen=_patterns(path, "frozen", found),
        frozen_sha256=_text(path, "frozen_sha256", found),
        initial=_text(path, "initial", found),
        initial_sha256=_text(path, "initial_sha256", found),
        fresh=_patterns(path, "fresh", found),
        normalisation=_choice(path, "normalisation", found, NORMALISATIONS, ""),
        optimizer_state=_choice(path, "optimizer_state", found, OPTIMIZER_STATES, "fresh"),
        fedrep=_passes(path, "fedrep", found),
        fine_tune=_passes(path, "fine_tune", found),
        evaluate_ranks=_choice(path, "evaluate_ranks", found, EVALUATE_RANKS, "first"),
    )
    _check(path, made)
    return made


def written_in(path: Path) -> frozenset[str]:
    """Return the names of declarations that a file makes as literals, whatever it says there."""
    return frozenset(_literals(path)) & frozenset(NAMES)


def nearly_declared(path: Path) -> tuple[tuple[str, str], ...]:
    """Return the names a file assigns at its top level that declare nothing and look as if they should: with which."""
    found = []
    for name in dict.fromkeys(name for name, _ in _assignments(path)):
        low = name.lower()
        if name in NAMES or name in MISSPELT:
            continue
        meant = low if low in NAMES else MEANT.get(low, "")
        meant = meant or next(iter(difflib.get_close_matches(low, NAMES, n=1, cutoff=NEAR)), "")
        if meant:
            found.append((name, meant))
    return tuple(found)


def companions(path: Path) -> tuple[Path, ...]:
    """Return the files that have to lie beside a task file; none where it cannot be read."""
    try:
        initial = declared(path).initial
    except UsageError:
        return ()
    return (path.parent / initial,) if initial else ()


def check_imported(path: Path, made: Declared, module: object) -> None:
    """Raise `UsageError` if the file, once imported, means something that was not declared as a literal.

    A file of before there were declarations may have names like these for other things: functions, models, numbers.
    """
    for name in NAMES:
        value, said = getattr(module, name, None), getattr(made, name)
        if isinstance(value, list | tuple | set | frozenset):
            other = name in ("private", "frozen", "fresh") and {*map(str, value)} != {*said}
        else:
            other = isinstance(value, str) and value not in (said, *(said if isinstance(said, tuple) else ()))
            other = other or (isinstance(value, int) and not isinstance(value, bool) and value != said)
        if other:
            raise UsageError(
                f"couldn't use {path}: {name} is not written down as a literal, so that its digest could cover it",
                hint=f"write it once, at the top level, as in {name} = {_EXAMPLES.get(name, '...')}",
            )
    for wrong, right in MISSPELT.items():
        if hasattr(module, wrong):
            raise UsageError(f"couldn't use {path}: it has {wrong}", hint=f"write {right}")


def matching(names: Mapping[str, object], patterns: tuple[str, ...], what: str) -> set[str]:
    """Return the names that one of the patterns fits.

    Raises:
        UsageError: a pattern fits none of them: it is misspelt, and what it means would be sent, or trained.
    """
    found: set[str] = set()
    for pattern in patterns:
        fitting = {name for name in names if fnmatchcase(name, pattern)}
        if not fitting:
            some = ", ".join(list(names)[:6]) + (", ..." if len(names) > 6 else "")
            raise UsageError(
                f"couldn't use {what} = [{pattern!r}]: no tensor of the model is called so", hint=f"there are {some}"
            )
        found |= fitting
    return found


_EXAMPLES = {
    "private": '["head.*"]',
    "frozen": '["backbone.*"]',
    "frozen_sha256": '"2c26b46b..."',
    "initial": '"backbone.safetensors"',
    "initial_sha256": '"9f86d081..."',
    "fresh": '["head.*"]',
    "normalisation": '"local"',
    "optimizer_state": '"keep"',
    "fedrep": "1",
    "fine_tune": "1",
    "evaluate_ranks": '"all"',
}


def _check(path: Path, made: Declared) -> None:
    name = made.initial
    if name and (PurePath(name).name != name or not name.endswith(".safetensors")):
        raise UsageError(
            f"couldn't use {path}: initial = {name!r}, which is not the name of a .safetensors file",
            hint="put the file beside the task file and write its name alone",
        )
    if bool(name) != bool(made.initial_sha256) or (name and not _SHA256.fullmatch(made.initial_sha256)):
        raise UsageError(
            f"couldn't use {path}: initial and initial_sha256 belong together, and all sites have to begin alike",
            hint=f"write what `sha256sum {name or 'FILE'}` prints, 64 lower-case digits, as initial_sha256",
        )
    if made.frozen_sha256 and not (made.frozen and _SHA256.fullmatch(made.frozen_sha256)):
        raise UsageError(
            f"couldn't use {path}: frozen_sha256 is of what frozen names, 64 lower-case digits",
            hint="leave it out, and the sentence that refuses the task says what to write",
        )
    if made.fresh and not name:
        raise UsageError(
            f"couldn't use {path}: fresh says what is not taken from a file, and there is no file",
            hint="name the file, initial and initial_sha256, or leave fresh out",
        )
    if made.fedrep and not made.private:
        raise UsageError(
            f"couldn't use {path}: fedrep trains private parts before the shared ones, and no part is private",
            hint='say which are, as in private = ["head.*"], or leave fedrep out',
        )


def _literals(path: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for name, value in _assignments(path):
        if name in (*NAMES, *MISSPELT):
            found.pop(name, None)
            # What is no literal is seen by `check_imported`.
            with contextlib.suppress(ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
                found[name] = ast.literal_eval(value)
    return found


def _assignments(path: Path) -> Iterator[tuple[str, ast.expr]]:
    """Yield what a file gives a name to at its top level, in order; nothing where it cannot be read."""
    try:
        body = ast.parse(path.read_bytes()).body
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
        return
    for statement in body:
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
            target, value = statement.targets[0], statement.value
        elif isinstance(statement, ast.AnnAssign) and statement.value is not None:
            target, value = statement.target, statement.value
        else:
            continue
        if isinstance(target, ast.Name):
            yield target.id, value


def _patterns(path: Path, name: str, found: Mapping[str, object]) -> tuple[str, ...]:
    value = found.get(name, ())
    if isinstance(value, str):
        value = (value,)
    if (
        not isinstance(value, list | tuple)
        or len(value) > PATTERNS_MAX
        or not all(isinstance(one, str) and one for one in value)
    ):
        raise _wrong(path, name, value)
    return tuple(value)


def _text(path: Path, name: str, found: Mapping[str, object]) -> str:
    value = found.get(name, "")
    if not isinstance(value, str):
        raise _wrong(path, name, value)
    return value


def _choice(path: Path, name: str, found: Mapping[str, object], known: tuple[str, ...], usual: str) -> str:
    value = found.get(name, usual)
    if value != usual and value not in known:
        raise UsageError(f"couldn't use {path}: {name} = {str(value)[:40]!r}", hint=f"choose one of {', '.join(known)}")
    return str(value)


def _passes(path: Path, name: str, found: Mapping[str, object]) -> int:
    value = found.get(name, 0)
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PASSES_MAX:
        raise UsageError(
            f"couldn't use {path}: {name} = {str(value)[:40]!r}", hint=f"write a whole number from 0 to {PASSES_MAX}"
        )
    return value


def _wrong(path: Path, name: str, value: object) -> UsageError:
    return UsageError(
        f"couldn't use {path}: {name} = {str(value)[:40]!r}", hint=f"write it as in {name} = {_EXAMPLES[name]}"
    )
