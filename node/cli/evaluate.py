"""`swarm evaluate`: what the swarm's model is worth at this site, with intervals, and whether it beats its own."""

from __future__ import annotations

import json
import select
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np

from node.alone import Kept, by_itself, kept, train_alone
from node.cli.init import FOLDER, JSON
from node.cli.ledger.reading import read
from node.cli.output import INCOMPLETE, NOT_FOUND, WORSE, Failure, check_task, count, emit
from node.cli.start import baseline_of, trainer_settings
from node.clock import Clock
from node.evaluation import load_cases
from node.export import name_of
from node.scoring.cases import Cases
from node.scoring.comparison import NAMES, Comparison, Outcome, compare, deciding
from node.scoring.measures import score
from node.scoring.words import Column, plain, supports_words, table
from node.site import Site
from node.task import check_same
from node.trainer import Described, EvaluateDone, Failed, LogLine, Trainer, TrainerEvent
from swarm import disclosure
from swarm.charter import Charter
from swarm.errors import SwarmError
from swarm.ledger.audit import Audit
from swarm.machine import NodeId
from swarm.vector import Layout, flatten

SWARM, ALONE, PERSONAL = "swarm", "alone", "personal"

_EXITS = {Outcome.BETTER: 0, Outcome.UNDECIDED: 0, Outcome.WORSE: WORSE, Outcome.NONE: INCOMPLETE}


@dataclass(frozen=True, slots=True)
class Looked:
    """One model as the task scored it: bare numbers, and the cases if the task tells them."""

    done: EvaluateDone
    cases: Cases | None


@click.command()
@FOLDER
@click.option("--round", "round_", type=click.IntRange(1), help="The model of this round.  [default: the last]")
@click.option("--alone", is_flag=True, help="First train this site's baseline, as far as it is not there yet.")
@click.option("--metric", type=click.Choice(NAMES), help="What decides.  [default: the charter's first that can]")
@JSON
def evaluate(folder: Path, round_: int | None, metric: str | None, *, alone: bool, as_json: bool) -> None:
    """Score the swarm's model on the held-out data of the site in FOLDER, and compare it with the site alone.

    Ends with 0 if the swarm's model is better, or if the cases show no difference; with 11 if it is worse; with 6 if
    there is nothing to compare.
    """
    site = Site(folder.resolve())
    settings = site.load_settings()
    signed = site.load_charter(settings)
    charter = signed.charter
    task = site.folder / settings.task.file
    check_task(task)
    check_same(task, charter.task.digest, "couldn't evaluate")
    _, audit = read(site.folder)
    number = audit.state.committed.round if round_ is None else round_
    if not number:
        raise Failure("couldn't evaluate: no round is committed yet", code=NOT_FOUND, hint="wait for the first")

    said: dict[str, None] = {}
    trainer = trainer_settings(site, settings, signed)
    baseline = baseline_of(site, audit.state)
    if alone:
        train_alone(site.alone, trainer, baseline, lambda line: click.echo(line, err=True))
    with tempfile.TemporaryDirectory(prefix="swarm-evaluate-") as scratch:
        bench = Bench(Trainer(trainer), Path(scratch), said)
        try:
            layout = bench.describe()
            model = _model_of(site, audit, site.node(), number, layout, Path(scratch))
            looked = {SWARM: bench.score(number, model)}
            looked |= bench.personal(number, model)
            no_personal = bench.no_personal
        finally:
            bench.close()
        own = kept(site.alone, baseline.owner)
        if own is not None and own.round:
            bench = Bench(Trainer(by_itself(trainer, site.alone, baseline.owner)), Path(scratch), said)
            try:
                looked[ALONE] = bench.score(own.round, own.model)
            finally:
                bench.close()
    least = max(charter.min_cell, settings.task.min_cell)
    shown = Shown(settings.site.name, number, charter, looked, own, metric, least, no_personal)
    for line in said:
        if as_json or line not in shown.remarks:  # What is on the screen anyway is not said twice.
            click.echo(line, err=True)
    emit(shown.plain(), as_json=as_json, text="\n".join(shown.lines()))
    code = _EXITS[shown.verdict.outcome]
    if code:
        raise SystemExit(code)


class Bench:
    """One worker, asked for one score after another."""

    def __init__(self, trainer: Trainer, scratch: Path, said: dict[str, None]) -> None:
        """Begin with nothing; what user code prints is kept in `said`, each line once."""
        self._trainer, self._scratch, self._said = trainer, scratch, said
        self.no_personal = ""

    def describe(self) -> Layout:
        """Let the task build its model. Raises `SwarmError` if it cannot."""
        self._trainer.start()
        self._trainer.describe(self._scratch / "initial.f32")
        described = self._wait()
        assert isinstance(described, Described), "that was asked for"
        return Layout.decode(described.layout)

    def score(self, round_: int, model: Path, which: str = SWARM) -> Looked:
        """Return a model's scores. Raises `SwarmError` with what user code said when it failed."""
        path = self._scratch / f"{which}-{round_}.npz"
        self._trainer.evaluate(round_, model, which=which, cases=path)
        done = self._wait()
        assert isinstance(done, EvaluateDone), "that was asked for"
        cases = load_cases(path) if done.cases else None
        path.unlink(missing_ok=True)
        return Looked(done, cases)

    def personal(self, round_: int, model: Path) -> dict[str, Looked]:
        """Return the scores of this site's personal model, if it makes one: most sites do not, `no_personal` says."""
        try:
            return {PERSONAL: self.score(round_, model, PERSONAL)}
        except SwarmError as error:
            self.no_personal = error.message.rpartition(": ")[2]
            return {}

    def close(self) -> None:
        """End the worker."""
        self._trainer.close()

    def _wait(self) -> TrainerEvent:
        clock = Clock()
        while True:
            select.select([self._trainer.fileno()], [], [], 0.5)
            for event in self._trainer.poll(clock.now()):
                match event:
                    case Failed():
                        hint = event.hint or "mend the task file, or what it reads"
                        text = f"couldn't {event.kind} the model: {event.text}"
                        raise SwarmError(text, hint=hint, identifier=event.identifier)
                    case LogLine():
                        self._said[event.text] = None
                    case Described() | EvaluateDone():
                        return event
                    case _:
                        pass


@dataclass(frozen=True)
class Shown:
    """What was found, for people and for programs. `least` is the smallest number of cases whose scores are told."""

    name: str
    round: int
    charter: Charter
    looked: Mapping[str, Looked]
    own: Kept | None
    metric: str | None
    least: int
    no_personal: str

    @cached_property
    def columns(self) -> list[Column]:
        """Return the models side by side."""
        alone = "none yet: `swarm evaluate --alone`, or task.alone = true in swarm.toml, trains it"
        if self.own is not None and ALONE in self.looked:
            behind = "; --alone trains on" if self.own.round < self.round else ""
            alone = f"this site alone, {count(self.own.round, 'round')}{behind}"
        notes = {
            ALONE: alone,
            SWARM: f"the swarm's model of round {self.round}",
            PERSONAL: "what this site makes of it" if PERSONAL in self.looked else f"none: {self.no_personal}",
        }
        columns = []
        for name, note in notes.items():
            found = self.looked.get(name)
            if found is None:
                columns.append(Column(name=name, note=note))
            elif found.cases is None:
                numbers, samples = found.done.metrics, found.done.samples
                columns.append(Column(name=name, note=note, numbers=numbers, samples=samples))
            else:
                scores = score(found.cases)
                own = {one: value for one, value in found.done.metrics.items() if scores.find(one) is None}
                columns.append(Column(name=name, note=note, scores=scores, numbers=own, samples=found.cases.n))
        return columns

    @property
    def remarks(self) -> list[str]:
        """Return what was left out and why, each once."""
        there = (score(found.cases, intervals=False) for found in self.looked.values() if found.cases is not None)
        return list(dict.fromkeys(remark for scores in there for remark in scores.remarks))

    @cached_property
    def verdict(self) -> Comparison:
        """What decides: the swarm's model against this site alone."""
        ours, own = self.looked[SWARM].cases, self.looked.get(ALONE)
        metric = self.metric or next((name for name in self.charter.metrics if name in NAMES), "accuracy")
        n = self.looked[SWARM].done.samples
        if own is None:
            why = "this site has trained no model alone yet (--alone does)"
        elif ours is None or own.cases is None:
            why = "the task's evaluate() returns numbers and no cases, which could be compared one by one"
        else:
            return compare(ours, own.cases, self.metric or deciding(ours, self.charter.metrics))
        return Comparison(metric=metric, cases=n, outcome=Outcome.NONE, why=why)

    def lines(self) -> list[str]:
        """Return the screen."""
        there = [column for column in self.columns if column.scores is not None or column.numbers is not None]
        scored = next((c.scores for c in there if c.name == SWARM), None)
        cases = count(self.looked[SWARM].done.samples, "held-out case")
        classes = "" if scored is None or not scored.supports else f": {supports_words(scored.supports)}"
        lines = [f"{self.name}, {cases}{classes}", ""]
        lines += [f"{column.name:<9} {column.note}" for column in self.columns]
        lines += ["", *table(there, self.charter.metrics), "", "In brackets: 95 % intervals."]
        lines += self.remarks
        if scored is not None and scored.threshold is not None:
            lines.append(f"_recalibrated: at this site's own threshold ({scored.threshold:.3f} for the swarm's model).")
        lines.append(self._told())
        return [*lines, "", f"verdict   {self.verdict.sentence(_OURS, _THEIRS)}"]

    def _told(self) -> str:
        withheld = self._withheld()
        if withheld:
            return f"Not on the ledger: {withheld}."
        told = [name for name in self.charter.metrics if name in self.looked[SWARM].done.metrics]
        return f"On the ledger: {', '.join(told) or 'nothing of this'}, as the charter says, and how many cases."

    def _withheld(self) -> str:
        done = self.looked[SWARM].done
        return disclosure.withheld(disclosure.smallest(done.groups), self.least)

    def plain(self) -> dict[str, object]:
        """Return all of it for programs."""
        models: dict[str, object] = {}
        for column in self.columns:
            metrics: dict[str, object] | None = None
            if column.scores is not None or column.numbers is not None:
                scored = () if column.scores is None else column.scores.estimates
                bare = (column.numbers or {}).items()
                metrics = {one.name: plain(one) for one in scored}
                metrics |= {name: {"value": value, "support": column.samples} for name, value in bare}
            models[column.name] = {"note": column.note, "cases": column.samples, "metrics": metrics}
        found = self.verdict
        span = found.interval
        verdict = {
            "metric": found.metric,
            "outcome": found.outcome.value,
            "difference": found.difference if found.outcome is not Outcome.NONE else None,
            "low": None if span is None else span.low,
            "high": None if span is None else span.high,
            "p": found.p,
            "sentence": found.sentence(_OURS, _THEIRS),
        }
        told = {"site": self.name, "round": self.round, "cases": self.looked[SWARM].done.samples}
        return {**told, "models": models, "withheld": self._withheld() or None, "verdict": verdict}


_OURS, _THEIRS = "the swarm's model", "this site's own"


def _model_of(site: Site, audit: Audit, me: NodeId, number: int, layout: Layout, scratch: Path) -> Path:
    """Return a file with the model that a round ended with at this site. Raises `Failure` if it is not kept."""
    view = audit.rounds.get(number)
    digests: Sequence[bytes] = ()
    if number == audit.state.committed.round and audit.state.committed.model_bytes:
        digests = (audit.state.committed.model,)
    elif view is not None:
        common = () if view.commit is None or not view.commit.model_bytes else (view.commit.model_digest,)
        digests = (*common, *([view.models[me]] if me in view.models else []))
    for digest in digests:
        if (site.blobs / digest.hex()).is_file():
            return site.blobs / digest.hex()
    for folder in (site.models / "checkpoints", site.models):
        path = folder / name_of(number)
        if path.is_file() and (found := _unpacked(path, layout, {one.hex() for one in digests}, scratch)):
            return found
    last = audit.state.committed.round
    raise Failure(
        f"couldn't evaluate round {number}: its model is not at this site",
        code=NOT_FOUND,
        hint=f"the last is of round {last}; set storage.keep_models or storage.keep_every to keep more from now on",
    )


def _unpacked(path: Path, layout: Layout, digests: set[str], scratch: Path) -> Path | None:
    """Return an exported model as the flat file that a task is given; None if it is not the one that is looked for."""
    from safetensors import safe_open

    with safe_open(path, framework="numpy") as file:
        origin = json.loads((file.metadata() or {}).get("origin", "{}"))
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - it is no mapping
    if origin.get("model") not in digests:
        return None
    target = scratch / f"{path.stem}.f32"
    flatten({name: np.asarray(array, np.float32) for name, array in arrays.items()}, layout).tofile(target)
    return target
