"""`python -m node.audit`: one audit, in a process of its own, as user code and PyTorch have to be.

The request is one object of JSON on stdin. What is told on the way are lines of JSON on stdout, `{"say": ...}`; the
last is `{"found": ...}` or `{"error": ..., "hint": ...}`. What user code prints goes to stderr.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from node.audit.inversion import Attacked, invert
from node.audit.membership import CANDIDATES_MAX, RECORDS_MIN, Draw, attack, draw, scored_as
from node.audit.reading import Likeness, Nearness, Reading, nearness, read
from node.audit.records import Pair, Scoring, confidence
from node.audit.training import Release, Setting, Trainee
from node.clock import Clock
from node.task import where_in
from swarm.errors import SwarmError, UsageError
from swarm.mixing.compress.forms import decode
from swarm.privacy.accounting import Budget, epsilon
from swarm.salt import message_of
from swarm.vector import Vector

INVERTED_MAX = 4
"""Updates that are inverted: the first of so many trainings."""

Tell = Callable[[str], None]


def main() -> int:
    """Read the request, do it, and print what was found."""
    out = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # Whatever user code prints is for people.

    def line(**values: object) -> None:
        print(json.dumps(values), file=out, flush=True)

    request = json.loads(sys.stdin.read())
    task = Path(request["setting"]["task"])
    try:
        line(found=done(request, lambda text: line(say=text)))
    except SwarmError as error:
        line(error=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001 - user code may raise anything; all of it becomes a sentence
        line(error=f"couldn't audit this task: {where_in(error, task)}", hint="mend the task file and try again")
    return 0


def done(request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
    """Do what a request asks for.

    Raises:
        SwarmError: it cannot be done; the sentence says why.
        Exception: what user code raises.
    """
    given = dict(request["setting"])
    if request["threads"]:
        torch.set_num_threads(request["threads"])
    budget = given.pop("budget")
    given |= {name: Path(given[name]) for name in ("task", "data", "loader") if given[name]}
    trainee = Trainee(Setting(**given, budget=Budget(*budget) if budget else None))
    try:
        how = scored_as(trainee)
        if request["what"] == "offered":
            return _offered(trainee, how, request, tell)
        return _before(trainee, how, request, tell)
    finally:
        trainee.close()


def _before(trainee: Trainee, how: Scoring, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
    """Train as the charter would have this site train, with records in and out by coins."""
    seed, rounds = int(request["seed"]), int(request["rounds"])
    records = trainee.records.trained
    drawn = draw(records, how, references=request["references"], canaries=request["canaries"], seed=seed)
    trainings, clock = len(drawn.coins), Clock()
    began = clock.now()
    kept: dict[int, Release] = {}

    def after(count: int) -> None:
        passed = clock.now() - began
        ahead = passed * (trainings - count) / count
        if count == 1 and ahead > 60 * request["minutes"]:
            raise UsageError(
                f"couldn't audit within {request['minutes']} minutes: one training took {passed:.0f} s, and"
                f" {trainings - 1} are left",
                hint="allow more with --minutes, or ask for less: --rounds, --references",
            )
        tell(f"training {count} of {trainings}; about {ahead:.0f} s more" if count < trainings else "all are trained")

    def keep(number: int, release: Release) -> None:
        if number < INVERTED_MAX:
            kept[number] = Release(release.bases[:1], release.updates[:1])

    found = attack(trainee, drawn, how, rounds=rounds, delta=request["delta"], tell=after, keep=keep)
    updates = [_coin_of(drawn, records, number, release) for number, release in kept.items()]
    inverted = _inverted(trainee, how, updates, request, tell)
    spent = epsilon(found.spent, request["delta"]) if found.spent else None
    return {
        "records": len(records),
        "membership": _plain(found.reading),
        "canaries": None if found.canaries is None else _plain(found.canaries),
        "epsilon_at_least": found.epsilon,
        "guesses": asdict(found.guesses),
        "epsilon_spent": spent,
        "inversion": inverted,
    }


def _coin_of(drawn: Draw, records: Pair, number: int, release: Release) -> Attacked:
    return Attacked(release.bases[0], release.updates[0], records.at(drawn.candidates), drawn.members(number))


def _offered(trainee: Trainee, how: Scoring, request: Mapping[str, Any], tell: Tell) -> dict[str, object]:
    """Attack an update that this site has offered: its records were trained on, its held-out ones were not."""
    trained, others = trainee.records.trained, trainee.records.held_out
    if others is None or others.x.shape[1:] != trained.x.shape[1:] or min(len(trained), len(others)) < RECORDS_MIN:
        raise UsageError(
            f"couldn't audit what was offered: there are no {RECORDS_MIN} held-out records to tell trained ones from",
            hint="let load_data() return records to train on and records held out",
        )
    elements = trainee.initial().size
    base: Vector = np.fromfile(request["base"], "<f4", count=elements)
    path = Path(request["update"])
    message = message_of(path.read_bytes(), int(request["salt"]))
    update: Vector = decode(message, elements) if request["coded"] else np.frombuffer(message, "<f4").copy()
    if base.size != elements or update.size != elements:
        raise UsageError("couldn't audit what was offered: the update is not of this task's model")
    random = np.random.Generator(np.random.PCG64(int(request["seed"])))
    sides = [side.at(np.sort(random.permutation(len(side))[:CANDIDATES_MAX])) for side in (trained, others)]
    device = trainee.setting.device
    before = [confidence(trainee.show(base), how, side, device) for side in sides]
    after = [confidence(trainee.show(base + update), how, side, device) for side in sides]
    members, left_out = (late - early for late, early in zip(after, before, strict=True))
    if not np.isfinite(np.concatenate([members, left_out])).all():
        raise UsageError("couldn't audit what was offered: the model's output is not finite")
    tell("both kinds of records are scored")
    mixed = sides[0].and_(sides[1])
    attacked = Attacked(base, update, mixed, np.arange(len(mixed)) < len(sides[0]))
    return {
        "records": len(trained),
        "membership": _plain(read(members, left_out)),
        "canaries": None,
        "inversion": _inverted(trainee, how, [attacked], request, tell),
    }


def _inverted(
    trainee: Trainee, how: Scoring, updates: Sequence[Attacked], request: Mapping[str, Any], tell: Tell
) -> dict[str, object] | None:
    """Return what inverting these updates comes to; None where it was not asked for or there is nothing to compare."""
    steps, parts = int(request["inversion_steps"]), list[Likeness]()
    if not steps:
        return None
    if not trainee.records.trained.x.is_floating_point():
        tell("inputs are whole numbers, which have no gradient: nothing is inverted")
        return None
    for number, one in enumerate(updates):
        found = invert(
            trainee.show,
            trainee.names,
            how,
            one,
            steps=steps,
            seed=int(request["seed"]) + number,
            device=trainee.setting.device,
        )
        parts += [found] if found is not None else []
        tell(f"update {number + 1} of {len(updates)} is inverted")
    judged = nearness(parts)
    return None if judged is None else _plain(judged)


def _plain(reading: Reading | Nearness) -> dict[str, object]:
    return {**asdict(reading), "found": reading.found, "words": reading.words}


if __name__ == "__main__":
    sys.exit(main())
