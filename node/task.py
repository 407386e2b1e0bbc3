"""A user's task: one Python file with a model, a training step and an evaluation, loaded and checked in words.

The file holds plain functions; nothing of this project needs to be imported in it::

    def build_model() -> torch.nn.Module      # build_model(site=None): private parts may have other shapes at each site
    def load_data(site) -> anything           # site.folder, site.name, site.seed, site.device
    def train(model, data, run) -> dict       # {"samples": how many examples it trained on, other numbers: metrics}
    def evaluate(model, data, run) -> dict    # {"samples": how many held-out examples, "accuracy": ..., "loss": ...}
                                              # or those examples: {"labels": ..., "scores": ...} (node.scoring.cases)

It may have two more, and declarations of what is private or frozen in the model (`node.declared`)::

    def build_optimizer(model) -> torch.optim.Optimizer    # train() then has it as run.optimizer
    def personalise(model, data, run) -> dict              # makes this site's own model of the swarm's last one

It never travels: only its digest does. How a site loads its own data may be replaced by a file of its own, outside the
digest. This module does not import torch; only the trainer process that runs a task does.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from node.declared import Declared, check_imported, declared
from swarm.errors import UsageError

MODULE_PREFIX = "swarm_task_"
"""Task files are loaded as modules whose names begin so."""

SAMPLES_MAX = (1 << 40) - 1
"""Most examples that a ledger's entry can say."""

METRICS_MAX = 32
METRIC_NAME = re.compile(r"[a-z][a-z0-9_]{0,31}")

PARAMETERS = {"build_model": 0, "load_data": 1, "train": 3, "evaluate": 3}
"""The functions of a task file and how many arguments each is called with."""

OPTIONAL = {"build_optimizer": 1, "personalise": 3}
"""Those that it may have."""

ALL, HEAD, BODY, PERSONAL, RECALIBRATE = "all", "head", "body", "personal", "recalibrate"
"""What a call of train() is for: the whole model; by FedRep the private parts, then the shared ones; a personal model;
statistics of batch normalisation, while the parameters stand still."""


NO_SITE = ""
"""The site's name where a model is built for a charter, which knows no site."""


@dataclass(frozen=True, slots=True)
class SiteInfo:
    """What a task may know about the site it runs at. `folder` is the site's own data folder or file."""

    name: str
    folder: Path
    seed: int
    device: str


def _never() -> bool:
    return False


def _never_private(*_: object, **__: object) -> object:
    raise UsageError("couldn't train privately here: only a site's trainer can", hint="call it in train()")


@dataclass(frozen=True, slots=True)
class RunInfo:
    """What a task may know about the call at hand. Rounds count from 1.

    `enough()` is whether this site's budget for a round is spent, never before the first step: a training loop that
    asks it before each batch, and stops, lets a slow site give less and be in time. Without a budget it is never so.

    `private(model, optimizer, records, batch=...)` is for training whose updates are differentially private with
    respect to this site's records: see docs/guides/privacy.md.

    `rounds` is how many the swarm means to learn, by its policy of today, 0 if that is not known; a learning rate may
    follow a schedule by it. `processes` is how many this site trains in, together, and `rank` which of them this one
    is, from 0: where there are several, `torch.distributed` is ready to be used. `phase` is what the call is for,
    `optimizer` what the task's build_optimizer() made, None where it has none.
    """

    round: int
    seed: int
    device: str
    site: SiteInfo
    enough: Callable[[], bool] = _never
    rounds: int = 0
    phase: str = ALL
    optimizer: object = None
    rank: int = 0
    processes: int = 1
    private: Callable[..., Any] = _never_private


@dataclass(frozen=True, slots=True)
class Budget:
    """How much a round may take at this site: optimizer steps and seconds, 0 for no limit."""

    steps: int = 0
    seconds: float = 0.0

    def spent(self, steps: int, seconds: float) -> bool:
        """Whether so much is as much as there is, or more."""
        return 0 < self.steps <= steps or 0.0 < self.seconds <= seconds

    def ignored(self, steps: int) -> str:
        """Say that a task did not ask."""
        limits = [f"round_steps = {self.steps}"] if self.steps else []
        limits += [f"round_seconds = {self.seconds:g}"] if self.seconds else []
        return (
            f"this site's {' and '.join(limits)} had no effect: train() made {steps} steps and never asked run.enough()"
        )


def round_seed(seed: int, site: str, round_: int) -> int:
    """Return the seed of a site's round, 0 to 2^31 - 1; rounds count from 1.

    From the charter's seed, which all sites share: with their names in it, sites of the same size do not go through
    their data in the same order.
    """
    drawn = hashlib.sha256(f"swarm/round/{seed}/{site}/{round_}".encode()).digest()
    return int.from_bytes(drawn[:4], "big") >> 1


@dataclass(frozen=True, slots=True)
class Task:
    """The functions of a checked task file, and what it declares.

    `by_site` is whether build_model() takes the site it is called at. It is called without one, too: what all sites
    share is what it builds then.
    """

    build_model: Callable[..., object]
    load_data: Callable[[SiteInfo], object]
    train: Callable[[object, object, RunInfo], object]
    evaluate: Callable[[object, object, RunInfo], object]
    build_optimizer: Callable[[object], object] | None = None
    personalise: Callable[[object, object, RunInfo], object] | None = None
    declared: Declared = field(default_factory=Declared)
    by_site: bool = False


def task_digest(path: Path) -> bytes:
    """Return SHA-256 of the file, which the charter names. Raises `UsageError` when it cannot be read."""
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise UsageError(f"couldn't read the task file {path}: {error.strerror}") from None


def check_same(path: Path, digest: bytes, refused: str, *, hint: str = "get the file whose SHA-256 begins {}") -> None:
    """Raise `UsageError`, whose sentence begins as `refused` does, unless a file is the task that a charter names."""
    if task_digest(path) != digest:
        raise UsageError(
            f"{refused}: {path} is not the task file the charter was made with",
            hint=hint.format(digest.hex()[:16]),
            identifier="SWARM-TASK-FILE",
        )


def load_task(path: Path, loader: Path | None = None, *, by_name: bool = False) -> Task:
    """Import a task file, and the site's own loader if it has one.

    `by_name` makes it the module that `import` would find, if it does: what processes started anew need to unpickle
    something of it, as the workers of a DataLoader under spawn or forkserver.

    Raises:
        UsageError: the file fails to import, a function is missing or takes other arguments, or a declaration is wrong.
    """
    module = _module(path, by_name=by_name)
    functions = {name: _function(module, name, path) for name in PARAMETERS}
    functions |= {name: _function(module, name, path) for name in OPTIONAL if hasattr(module, name)}
    if loader is not None:
        functions["load_data"] = _function(_module(loader, by_name=by_name), "load_data", loader)
    said = declared(path)
    check_imported(path, said, module)
    if said.optimizer_state == "keep" and "build_optimizer" not in functions:
        raise UsageError(
            f'couldn\'t use {path}: optimizer_state = "keep", and it has no function build_optimizer()',
            hint="make the optimizer in build_optimizer(model), and use run.optimizer in train()",
        )
    return Task(**functions, declared=said, by_site=_takes_site(functions["build_model"]))


def checked_result(result: object, what: str) -> tuple[int, dict[str, float], list[str]]:
    """Return (samples, metrics, remarks) of what user code returned.

    Raises:
        UsageError: it is not a mapping, or "samples" is missing or not a count.
    """
    if not isinstance(result, Mapping):
        raise UsageError(
            f"couldn't use what {what}() returned: it is {type(result).__name__}, not a dict",
            hint='return something like {"samples": len(data), "loss": loss}',
        )
    samples = whole(result.get("samples"))
    if samples is None or not 1 <= samples <= SAMPLES_MAX:
        huge = samples is not None and samples > SAMPLES_MAX  # It may be too long to be printed at all.
        given = f"more than {SAMPLES_MAX}" if huge else " ".join(repr(result.get("samples")).split())[:60]
        raise UsageError(
            f'couldn\'t use what {what}() returned: "samples" is {given}, not a positive whole number',
            hint=f"say how many examples {what}() used: the swarm weights sites by it",
        )
    metrics: dict[str, float] = {}
    remarks: list[str] = []
    for name, value in result.items():
        if name == "samples":
            continue
        number = _number(value)
        if not isinstance(name, str) or not METRIC_NAME.fullmatch(name):
            remarks.append(f"metric {name!r} was left out: a name is lower-case letters, digits and _")
        elif number is None or not math.isfinite(number):
            remarks.append(f"metric {name!r} was left out: {value!r} is not a finite number")
        elif len(metrics) >= METRICS_MAX:
            remarks.append(f"metric {name!r} was left out: {METRICS_MAX} are enough")
        else:
            metrics[name] = number
    return samples, metrics, remarks


def whole(value: object) -> int | None:
    """Return a whole number, whoever counted it: Python, NumPy or a tensor, 90.0 too; None if it is none, as True."""
    item = getattr(value, "item", None)
    if callable(item):
        try:
            value = item()  # A scalar of NumPy's, or whatever has one element.
        except (TypeError, ValueError, RuntimeError):
            return None
    if isinstance(value, bool):
        return None
    if isinstance(value, float):
        return int(value) if value.is_integer() else None
    return value if isinstance(value, int) else None


def _number(value: object) -> float | None:
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError, RuntimeError):
        # PyTorch raises the last for a tensor of several elements. A metric must not cost a round of training.
        return None


def _module(path: Path, *, by_name: bool) -> object:
    name = f"{MODULE_PREFIX}{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:12]}"
    if by_name and _found_as(path.stem) == path.resolve():
        name = path.stem
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None or not path.is_file():
        raise UsageError(f"couldn't load {path}: there is no such Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException as error:
        del sys.modules[name]
        if isinstance(error, KeyboardInterrupt):
            raise
        raise UsageError(f"couldn't load {path}: {where_in(error, path)}") from error
    return module


def _found_as(name: str) -> Path | None:
    """Return the file that `import name` would run, or has run; None if there is none."""
    try:
        spec = importlib.util.find_spec(name) if name.isidentifier() else None
    except (ImportError, ValueError):  # It stands among the modules without a specification, as `__main__` may.
        return None
    return Path(spec.origin).resolve() if spec is not None and spec.origin is not None else None


def _function(module: object, name: str, path: Path) -> Callable[..., object]:
    function: Callable[..., object] | None = getattr(module, name, None)
    if function is None or not callable(function):
        raise UsageError(
            f"couldn't use {path}: it has no function {name}()",
            hint="a task file has build_model(), load_data(site), train(model, data, run), evaluate(model, data, run)",
        )
    count = {**PARAMETERS, **OPTIONAL}[name]
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        hint = "to know the site write build_model(site=None): founding a swarm calls it without one"
        raise UsageError(
            f"couldn't use {path}: {name}() must take {count} arguments", hint="" if count else hint
        ) from None
    except ValueError:
        pass  # A builtin without a signature: calling it will tell.
    return function


def _takes_site(function: Callable[..., object]) -> bool:
    """Whether a function has a parameter called `site`, other parameters being its own affair."""
    try:
        return "site" in inspect.signature(function).parameters
    except ValueError:
        return False


def where_in(error: BaseException, path: Path) -> str:
    """Return "Type: message (file, line n)" with the innermost line of the user's own file."""
    line, trace = 0, error.__traceback__
    while trace is not None:
        if Path(trace.tb_frame.f_code.co_filename) == path or trace.tb_frame.f_code.co_filename == str(path.resolve()):
            line = trace.tb_lineno
        trace = trace.tb_next
    if isinstance(error, SyntaxError) and error.lineno:
        line = error.lineno
    text = f"{type(error).__name__}: {error}"
    return f"{text} ({path.name}, line {line})" if line else text
