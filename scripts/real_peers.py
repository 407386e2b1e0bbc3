"""A task at unequal sites, learned by real peers: what each site has of it, as the product itself says.

Not a program: `published_*.py` and `*_sites.py` use it. Every site is a `swarm start` with its own folder, keys and
ledger; trainers are forked from one process. When the run is over each node trains its baseline (`task.alone`), and
`swarm evaluate --json` at the site says what the models are worth on its own held-out cases:

=============  =====================================================================================================
`alone`        the same task, from the same model, for as many rounds, on this site's data only
`swarm`        the common model of the last round
`personal`     what the site makes of that for itself, if the task says how
`pooled`       the same task for as many rounds on the data of all sites in one place, scored at each of them
=============  =====================================================================================================

The last is what a swarm is there to do without. It goes through the same trainer process as the others.
"""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import TypeAlias

from node.alone import result_of
from node.cli.evaluate import Bench
from node.cli.main import cli
from node.data import SiteData
from node.local import LocalPeer, fork_server, found, stop_all
from node.solo import run_solo
from node.trainer import Trainer, TrainerSettings
from scripts.side_by_side import Score
from swarm.errors import SwarmError

ALONE, SWARM, PERSONALISED, POOLED = "alone", "swarm", "personalised", "pooled"
COLUMNS = (ALONE, SWARM, PERSONALISED, POOLED)

_AS_EVALUATE_SAYS = {"alone": ALONE, "swarm": SWARM, "personal": PERSONALISED}

PATIENCE_S = 60.0
"""The most a charter allows: what keeps a peer waiting here is the others' processes on the same cores."""

POLL_S = 0.5

STALLED_S = 900.0
"""Without a round anywhere, in the swarm or alone, after which a run has failed. Rounds here are of seconds."""

FORKSERVER = "SWARM_TASK__FORKSERVER"
"""The setting task.forkserver, as the environment has it (`node.config`)."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A metric of one model at one site. `value` None: it has none there, and `why` says so."""

    value: float | None
    why: str = ""


Found: TypeAlias = Mapping[tuple[str, str], Mapping[str, Measured]]
"""By column and site, then by metric. A column that there is not, as where nobody personalises, is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What is learned. `pooled` has the data of all sites; `terms` go to the charter as `node.local.found` takes them.

    Nothing is withheld here, however small a site is: all of these data are public.
    """

    task: Path
    sites: Sequence[SiteData]
    pooled: SiteData | None
    rounds: int
    metrics: tuple[str, ...]
    terms: Mapping[str, object] = field(default_factory=dict)


def run(trial: Trial, *, seed: int, folder: Path) -> Found:
    """Learn once, in an empty folder, and return what `swarm evaluate` says at every site, and pooled training.

    Trainers are forked from the process that the environment names (`FORKSERVER`), or from one of this run's own.
    """
    given = os.environ.get(FORKSERVER)
    with contextlib.nullcontext(Path(given)) if given else fork_server() as server, _settings(server, folder):
        found_: dict[tuple[str, str], Mapping[str, Measured]] = {}
        for peer in _learned(trial, seed, folder / "swarm", server):
            for column, metrics in _evaluated(peer.site.folder).items():
                found_[column, peer.name] = metrics
        if trial.pooled is not None:
            found_ |= _pooled(trial, trial.pooled, seed, folder / "pooled", server)
    return found_


def over_seeds(seeds: Sequence[int], prepare: Callable[[int, Path], Trial]) -> Iterator[tuple[int, Found]]:
    """Learn once with each seed what `prepare` writes into an empty folder; what it leaves goes with the next."""
    for seed in dict.fromkeys(seeds):
        with tempfile.TemporaryDirectory(prefix="swarm-peers-") as name:
            trial = prepare(seed, Path(name) / "data")
            yield seed, run(trial, seed=seed, folder=Path(name) / "run")
        print(f"seed {seed} is done", file=sys.stderr, flush=True)


def in_words(main: Callable[[], None]) -> None:
    """Run a script; what it cannot do is a sentence and a hint."""
    try:
        main()
    except SwarmError as error:
        sys.exit(f"error: {error.message}\nhint: {error.hint}")


def site_scores(found_: Found, *, seed: int, metric: str) -> list[Score]:
    """Return a metric at every site as rows of the table."""
    return [
        Score(seed, column, site, one.value, one.why)
        for (column, site), metrics in found_.items()
        for one in [metrics.get(metric, Measured(None))]
    ]


def common_scores(found_: Found, *, seed: int, metric: str, row: str) -> list[Score]:
    """Return the mean over sites of what their models come to on a test that is the same for all."""
    by_column: dict[str, list[float]] = {}
    for (column, _), metrics in found_.items():
        if metric in metrics and (value := metrics[metric].value) is not None:
            by_column.setdefault(column, []).append(value)
    return [Score(seed, column, row, sum(values) / len(values)) for column, values in by_column.items()]


def loaded(path: Path) -> ModuleType:
    """Return a task file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None, "it is beside this file"
    assert spec.loader is not None, "it is a Python file"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# --- parts ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def _settings(server: Path, folder: Path) -> Iterator[None]:
    """Let commands of `swarm` in this process fork their trainers too, and leave this user's own files alone."""
    folder.mkdir(parents=True, exist_ok=True)
    ours = {FORKSERVER: str(server), "SWARM_TASK__THREADS": "1", "SWARM_TRUST": str(folder / "trust")}
    before = {name: os.environ.get(name) for name in ours}
    os.environ |= ours
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _learned(trial: Trial, seed: int, folder: Path, server: Path) -> list[LocalPeer]:
    """Run the swarm until every node has its baseline, and return the peers, stopped."""
    terms = {"patience_s": PATIENCE_S, "min_contributions": len(trial.sites), **trial.terms}
    peers = found(
        folder,
        trial.sites,
        trial.task,
        rounds=trial.rounds,
        metrics=trial.metrics,
        seed=seed,
        forkserver=server,
        **terms,  # type: ignore[arg-type]
    )
    try:
        for peer in peers:
            peer.start("task.alone=true")
        reached, since = _reached(peers), time.monotonic()
        while not all(result_of(peer.site.alone) for peer in peers):
            time.sleep(POLL_S)
            for peer in peers:
                if not peer.up:
                    sys.exit(f"error: {peer.name} has ended:\n{peer.log_tail(20)}")
            if (now := _reached(peers)) != reached:
                reached, since = now, time.monotonic()
            elif time.monotonic() - since > STALLED_S:
                tails = "\n".join(f"{peer.name}: {peer.log_tail(3)}" for peer in peers)
                sys.exit(f"error: nothing has moved for {STALLED_S:.0f} s:\n{tails}")
    finally:
        stop_all(peers)
    return peers


def _reached(peers: Sequence[LocalPeer]) -> list[tuple[int, str]]:
    """Return how far every site is, in the swarm and alone: what does not change has got stuck."""
    for peer in peers:
        peer.poll()
    states = [peer.site.alone / "state.json" for peer in peers]
    alone = [state.read_text(encoding="utf-8") if state.is_file() else "" for state in states]
    return list(zip((peer.committed for peer in peers), alone, strict=True))


def _evaluated(folder: Path) -> dict[str, Mapping[str, Measured]]:
    """Return what `swarm evaluate` says at a site, by column."""
    printed = io.StringIO()
    quiet = contextlib.redirect_stderr(io.StringIO())
    with contextlib.redirect_stdout(printed), quiet, contextlib.suppress(SystemExit):  # It says which model is better.
        cli.main(args=["evaluate", str(folder), "--json"], standalone_mode=False)
    models = json.loads(printed.getvalue())["data"]["models"]
    return {
        column: {
            metric: Measured(one["value"], one.get("why") or "") for metric, one in models[name]["metrics"].items()
        }
        for name, column in _AS_EVALUATE_SAYS.items()
        if models[name]["metrics"] is not None
    }


def _pooled(
    trial: Trial, pooled: SiteData, seed: int, folder: Path, server: Path
) -> dict[tuple[str, str], Mapping[str, Measured]]:
    """Train on the data of all sites; score that model at each."""
    settings = TrainerSettings(
        task=trial.task, data=pooled.folder, site=pooled.name, seed=seed, threads=1, forkserver=server
    )
    run_solo(settings, rounds=trial.rounds, folder=folder, tell=lambda _: None)
    scored: dict[tuple[str, str], Mapping[str, Measured]] = {}
    for site in trial.sites:
        there = TrainerSettings(
            task=trial.task, data=site.folder, site=site.name, seed=seed, threads=1, forkserver=server
        )
        with tempfile.TemporaryDirectory(prefix="swarm-pooled-") as scratch:
            bench = Bench(Trainer(there), Path(scratch), {})
            try:
                bench.describe()
                metrics = bench.score(trial.rounds, folder / "model.f32").done.metrics
            finally:
                bench.close()
        scored[POOLED, site.name] = {name: Measured(value) for name, value in metrics.items()}
    return scored
