"""Gossip that no neighbour can pull far, with the real node in the simulated world."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

import numpy as np
import pytest

from swarm.charter import SignedCharter
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from tests.builders import make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_routes import alike, blocks, said
from topologies.plan import check_clip
from topologies.world.faults import FaultOptions, generate
from topologies.world.learner import Behaviour, Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

SAMPLES = (100, 120, 90, 100, 110)
ELEMENTS = 64


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Runaway(QuadraticTask):
    """One member hands over a model far away from everybody's, every round."""

    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        lesson = QuadraticTask.train(self, member, number, model, correction)
        if self.behaviours.get(member) is not Behaviour.POISONER:
            return lesson
        away = np.full(self.elements, 3.0, np.float32)
        return dataclasses.replace(lesson, update=away)


def ran(
    clip: str, *, liar: int | None = 4, seed: int = 1, rounds: int = 4, harsh: bool = False, codec: str = ""
) -> World:
    behaviours: Mapping[int, Behaviour] = {} if liar is None else {liar: Behaviour.POISONER}
    task = Runaway(seed=seed, samples=SAMPLES, elements=ELEMENTS, bound=50.0, spread=0.2, behaviours=behaviours)
    swarm = make_swarm(
        5,
        rounds=rounds,
        elements=ELEMENTS,
        schedule="complete",
        clip=clip,
        codec=codec,
        min_contributions=3,
        clip_norm_milli=50_000,
        patience_ms=3_000,
    )
    faults = generate(seed, members=5, options=FaultOptions(heal_s=30.0)).faults if harsh else ()
    network = NetworkProfile(loss=0.05, duplication=0.02) if harsh else None
    world = gossiping(swarm, task, seed=seed, faults=faults, network=network)
    assert world.run(all_done), [head(world, member).status(world.now) for member in range(5)]
    return world


def away(world: World, seed: int) -> float:
    task = QuadraticTask(seed=seed, samples=SAMPLES, elements=ELEMENTS, spread=0.2)
    return float(np.linalg.norm(merged(world, 0) - task.optimum(range(4))))


def ledger() -> tuple[SignedCharter, list[bytes]]:
    world = ran("200")
    return head(world, 0).replica.head.signed, blocks(world)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_one_of_five_pulls_plain_gossip_away_and_clipped_gossip_hardly(seed: int) -> None:
    assert away(ran("200", seed=seed), seed) < away(ran("", seed=seed), seed) / 3


def test_without_liars_it_ends_near_the_best_model() -> None:
    assert away(ran("200", liar=None), 1) < 2 * away(ran("", liar=None), 1) + 0.2


@pytest.mark.parametrize("codec", ["", "bf16"])
def test_it_goes_on_through_trouble_and_all_end_with_one_model(codec: str) -> None:
    world = ran("200", harsh=True, seed=3, codec=codec)
    assert alike(world)
    *_, result = audit(blocks(world), head(world, 0).replica.head.signed)
    assert result.failure is None


def test_the_last_round_is_a_geometric_median_whose_weights_are_on_the_ledger() -> None:
    world = ran("200")
    used = [body.used for body in said(world, e.ATTEST, e.Attest) if body.used]
    assert used
    assert len({*used}) == 1
    assert used[0][4][2] < min(weight for *_, weight in used[0][:4]) / 2, "the liar's"
    told = [report.text for _, report in world.place(0).reports if report.event == "mixed"]
    assert any("taking less of models that were far away: site-4" in text for text in told)


@pytest.mark.parametrize(
    ("terms", "words"),
    [
        ({"clip": "100"}, "with exact mixing"),
        ({"clip": "100", "schedule": "static_exponential", "links": "directed"}, "links go one way"),
        ({"clip": "100", "schedule": "ring", "codec": "int8"}, "where public copies meet"),
        ({"clip": "100", "schedule": "ring", "min_contributions": 2}, "which takes 3"),
        ({"clip": "600", "schedule": "ring"}, "for the weight of liars"),
    ],
)
def test_what_clipping_cannot_stand_with_is_refused_in_words(terms: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as caught:
        make_swarm.__wrapped__(**({"n": 5, "min_contributions": 3} | terms)).charter.check()
    assert words in caught.value.message
    assert caught.value.hint


@pytest.mark.parametrize(("schedule", "fine"), [("ring", True), ("complete", True), ("base2", False), ("path", False)])
def test_who_would_have_one_partner_cannot_clip(schedule: str, fine: bool) -> None:
    charter = make_swarm(5, schedule=schedule, clip="100", min_contributions=3).charter
    if fine:
        check_clip(charter)
        return
    with pytest.raises(UsageError, match="would meet one partner"):
        check_clip(charter)
