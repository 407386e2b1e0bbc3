"""SHELL. The task on this site's data: a trial in the trainer process, and how long a round will take.

What is shown of the data, shapes and counts of labels, is printed here and goes nowhere else.
"""

from __future__ import annotations

import dataclasses
import select
import tempfile
from pathlib import Path

import numpy as np

from node.changes import longest_of
from node.cli.start import trainer_settings
from node.console import duration_words, size_words
from node.doctor.case import Case
from node.doctor.finding import Finding, Level, fail, warn, well
from node.doctor.machine import update_bytes
from node.loop.form import is_script
from node.trainer import Described, Failed, LogLine, Trainer, Tried
from swarm.vector import Layout
from topologies.traffic import Network, choose_exact_route

TRIAL_S = 10.0
"""Of training after the first step: enough to see whether it works, and how fast."""

STALL_S = 120.0
"""A task that makes no step for this long is not waited for; reading the data is part of it."""

ASSUMED_BYTES_S = 12.5e6
"""100 Mbit/s, until a real transfer has shown better."""


def trial(case: Case) -> list[Finding]:
    """The task builds the charter's model, reads this site's data and trains on them."""
    charter = case.signed.charter
    settings = trainer_settings(case.site, case.settings, case.signed)
    settings = dataclasses.replace(settings, stall_s=min(settings.stall_s, STALL_S))
    with tempfile.TemporaryDirectory(prefix="swarm-doctor-") as folder:
        model, update = Path(folder) / "model", Path(folder) / "update"
        trainer = Trainer(settings)
        try:
            trainer.start()
            trainer.describe(model)
            described = _answer(case, trainer, settings.stall_s)
            if not isinstance(described, Described):
                return [_failed(described, "the task cannot build its model")]
            layout = Layout.decode(described.layout)
            if layout.digest() != charter.task.layout:
                text = f"the task's model has {layout.elements} parameters, the charter's {charter.task.parameters}"
                if layout.elements == charter.task.parameters:
                    text = (
                        "the task's model has as many parameters as the charter's, under other names or in other shapes"
                    )
                remedy = "get the charter's task file, and the version of PyTorch that the others have"
                return [fail("trial", text, remedy, identifier="SWARM-TASK-MODEL")]
            if is_script(settings.task):
                text = f"the script {settings.task.name} builds the charter's model; it trains when its people run it"
                return [well("trial", text)]
            trainer.try_out(model, update, TRIAL_S)
            tried = _answer(case, trainer, settings.stall_s)
        finally:
            trainer.close()
        if not isinstance(tried, Tried):
            return [_failed(tried, "the task fails on this site's data")]
        case.tried = tried
        parts = [Finding("task", Level.PASS, text, details=described.notes[1:]) for text in described.notes[:1]]
        undecided = [warn("task", text, "decide it, in the next charter's task file") for text in described.warnings]
        return [_shown(tried), *parts, *undecided, *_judged(case, tried, update, layout)]


def _answer(case: Case, trainer: Trainer, stall_s: float) -> Described | Tried | Failed:
    """Wait for an answer. The trainer itself ends a task that makes no step; this is for one that starts no process."""
    end = case.clock.now() + 3 * stall_s
    while case.clock.now() < end:
        select.select([trainer.fileno()], [], [], 0.5)
        for event in trainer.poll(case.clock.now()):
            if isinstance(event, (Described, Tried, Failed)):
                return event
            if isinstance(event, LogLine):
                case.printed.append(event.text)
    return Failed("try", 0, f"the trainer gave no answer within {3 * stall_s:g} s")


def _failed(event: object, what: str) -> Finding:
    text = event.text if isinstance(event, Failed) else "the trainer gave another answer"
    return fail(
        "trial", f"{what}: {text}", "mend the task file, the loader or the data", identifier="SWARM-TASK-FAILED"
    )


def _shown(tried: Tried) -> Finding:
    steps = f"{tried.steps} steps" if tried.steps else "no optimizer step that could be counted"
    if tried.finished:
        text = f"a round's training took {span(tried.train_s)}: {tried.samples} samples, {steps}"
    else:
        text = f"it trains: {steps} in {span(tried.train_s)}, and a round is longer"
    text += f"; reading the data took {span(tried.load_s)}"
    return Finding("trial", Level.PASS, text, details=tried.data)


def _judged(case: Case, tried: Tried, path: Path, layout: Layout) -> list[Finding]:
    """Look at the update as the others would: finite, and within the charter's norm."""
    if not tried.finished:
        return []
    update, bound = np.fromfile(path, "<f4"), case.signed.charter.clip_norm
    norm = float(np.linalg.norm(update.astype(np.float64)))
    if not np.isfinite(norm):
        text = "the update of a round's training holds numbers that are not finite: every other site would refuse it"
        return [fail("update", text, "lower the learning rate, or look for empty batches and divisions by zero")]
    if not norm:
        text = "a round's training changed nothing in the model"
        return [warn("update", text, "see whether train() steps its optimizer, and on the model that it is given")]
    if norm > bound:
        longest, share = longest_of(update, layout)
        part = f"{longest} makes {100 * share:.0f} % of its square"
        text = f"the update's norm is {norm:.3g}, and the charter cuts it to {bound:g}; {part}"
        return [warn("update", text, "train less in a round, or agree on a charter with a larger clipping norm")]
    return [well("update", f"its norm is {norm:.3g}, within the charter's {bound:g}", norm=round(norm, 6))]


def pace(case: Case) -> list[Finding]:
    """How long a round will take, by this site's training and by its line."""
    charter, n = case.signed.charter, len(case.terms.members)
    rates = [rate for seat, _ in case.neighbours if (rate := int(str(case.told(seat.node).get("rate_bytes_s", 0))))]
    slowest = float(min(rates)) if rates else ASSUMED_BYTES_S
    line = f"{size_words(round(slowest))}/s" + ("" if rates else ", which is assumed")
    moved = _exchange_s(case, n, slowest)
    what = f"moving updates of {size_words(update_bytes(case))} among {n} sites about {span(moved)} at {line}"
    if case.tried is None:
        return [well("round time", f"{what}; training comes on top", exchange_s=round(moved, 1))]
    trained = case.tried.train_s
    if not case.tried.finished:
        text = f"training takes more than {span(trained)} a round, {what}"
        return [well("round time", text, exchange_s=round(moved, 1))]
    total = trained + moved
    text = f"about {span(total)}: training {span(trained)}, {what}"
    if trained > charter.round.deadline_ms / 1000:
        text = f"training takes {span(trained)}, and rounds close after {charter.round.deadline_ms / 1000:g} s"
        return [warn("round time", text, "agree on a longer deadline (`swarm policy`), or train less in a round")]
    return [well("round time", text, train_s=round(trained, 1), exchange_s=round(moved, 1))]


def span(seconds: float) -> str:
    """Return a duration as people say it, tenths of short ones too."""
    return f"{seconds:.1f} s" if seconds < 10 else duration_words(seconds)


def _exchange_s(case: Case, n: int, bytes_s: float) -> float:
    """Return the seconds in which a round's updates move, by the cost model of `swarm charter new --route auto`."""
    charter = case.signed.charter
    network = Network(bandwidth_bytes_s=bytes_s)
    if charter.schedule or charter.directed:
        return network.seconds(1, update_bytes(case) * max(len(case.neighbours), 1))
    if n == 1:
        return 0.0
    route = "spread" if charter.route is None else charter.route.name
    ratio = update_bytes(case) / charter.model_bytes
    choice = choose_exact_route(
        n,
        charter.model_bytes,
        network,
        codec_ratio=ratio,
        average_ratio=ratio if charter.averages else 1.0,
        offered=(route,),
    )
    return next(cost.seconds for cost in choice.table if cost.name == route)
