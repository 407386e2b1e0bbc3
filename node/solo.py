"""SHELL. The same task file with no swarm: one site trains by itself, round after round.

It goes through the same trainer process and the same files as the node, so a task that runs here runs there, and what
it reaches here is the honest "alone" to hold the swarm's result against.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeVar

import numpy as np

from node.bulk import Measured
from node.clock import Clock
from node.declared import Declared, declared
from node.export import export_model
from node.trainer import (
    Described,
    EvaluateDone,
    Exported,
    Failed,
    LogLine,
    TrainDone,
    Trainer,
    TrainerEvent,
    TrainerSettings,
)
from swarm.errors import SwarmError
from swarm.mixing.momentum import Stretches
from swarm.privacy.clipping import USUAL_BOUND, length_of
from swarm.vector import Layout

T = TypeVar("T", bound=TrainerEvent)


@dataclass(frozen=True, slots=True)
class SoloResult:
    """What a site reached alone."""

    samples: int
    held_out: int
    metrics: Mapping[str, float]
    layout: Layout


def run_solo(
    settings: TrainerSettings,
    *,
    rounds: int,
    folder: Path,
    tell: Callable[[str], None],
    output: Path | None = None,
) -> SoloResult:
    """Train `rounds` rounds and evaluate. `folder` receives the model (model.f32), `output` all of its tensors.

    Raises:
        SwarmError: user code failed; the sentence says where.
    """
    folder.mkdir(parents=True, exist_ok=True)
    model, update = folder / "model.f32", folder / "update.f32"
    trainer = Trainer(replace(settings, rounds=rounds))
    try:
        trainer.start()
        trainer.describe(model)
        described = wait(trainer, Described, tell)
        for text in described.warnings:
            tell(f"warning: {text}")
        samples, longest = 0, Measured(0, 0.0, USUAL_BOUND)
        made_of = ("", 0.0)
        for number in range(1, rounds + 1):
            update.unlink(missing_ok=True)
            trainer.train(number, model, update)
            done = wait(trainer, TrainDone, tell)
            samples = done.samples
            change = np.fromfile(update, "<f4")
            measured = Measured(number, length_of(change), USUAL_BOUND)
            if measured.norm > longest.norm:
                longest, made_of = measured, done.longest
            elif not measured.norm:
                tell(f"warning: {measured.told()}")
            (np.fromfile(model, "<f4") + change).astype("<f4").tofile(model)
            words = ", ".join(f"{name} {value:.4f}" for name, value in done.metrics.items())
            tell(f"round {number} of {rounds}: {done.samples} samples, {words}")
        if longest.left < 1.0:
            would = longest.told(made_of, "would be")
            tell(f"warning: in a swarm with --clip-norm {USUAL_BOUND:g}, the default, {would}")
        trainer.evaluate(rounds, model)
        scored = wait(trainer, EvaluateDone, tell)
        layout = Layout.decode(described.layout)
        origin = {"rounds": str(rounds), "sites": "1"}
        if output is not None and declared(settings.task) == Declared():
            export_model(model, layout, output, origin)
        elif output is not None:
            trainer.export(rounds, model, output.resolve(), origin, which="swarm")
            wait(trainer, Exported, tell)
    finally:
        trainer.close()
        update.unlink(missing_ok=True)
    return SoloResult(samples, scored.samples, dict(scored.metrics), layout)


def describe(
    settings: TrainerSettings,
    model: Path,
    warn: Callable[[str], None] = lambda _: None,
    note: Callable[[str], None] = lambda _: None,
) -> tuple[Layout, Stretches]:
    """Build the task's model once, write its parameters to `model`; return their layout and which are trained.

    What the task leaves undecided is told by `warn`, what becomes of each part of the model by `note`.

    Raises:
        SwarmError: user code failed; the sentence says where.
    """
    trainer = Trainer(settings)
    try:
        trainer.start()
        trainer.describe(model)
        told = wait(trainer, Described, lambda _: None)
        for text in told.warnings:
            warn(text)
        for text in told.notes:
            note(text)
        layout = Layout.decode(told.layout)
        return layout, ((0, layout.elements),) if told.trained is None else told.trained
    finally:
        trainer.close()


def wait(trainer: Trainer, kind: type[T], tell: Callable[[str], None]) -> T:
    """Wait for one kind of answer; pass on what user code prints. Raises `SwarmError` where it failed."""
    clock = Clock()
    while True:
        select.select([trainer.fileno()], [], [], 0.5)
        for event in trainer.poll(clock.now()):
            if isinstance(event, Failed):
                raise SwarmError(
                    f"couldn't {event.kind}: {event.text}",
                    hint=event.hint or "mend the task file and try again",
                    identifier=event.identifier,
                )
            if isinstance(event, LogLine):
                tell(event.text)
            if isinstance(event, kind):
                return event
