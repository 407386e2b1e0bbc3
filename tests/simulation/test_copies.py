"""Gossip under coarse codecs: public copies, how they move, and what happens when one is lost (decision 0022)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from swarm.machine import Blend, Digest, Effect, Event, Mixed, SendChunk, Stored
from swarm.mixing.compress.choco import Public, propose
from swarm.mixing.compress.forms import encoded_bytes
from swarm.terms import founding
from tests.builders import Swarm, make_swarm
from tests.cases import shortened
from tests.simulation.test_gossip import Blends, all_done, committed, gossiping, head, merged
from topologies.plan import SchedulePlan
from topologies.world.blobs import BlobStore, Slices
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, FaultOptions, generate
from topologies.world.learner import Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

SAMPLES = (100, 300, 50, 100, 500)
CODECS = ["int8", "int4", "topk:100", "sign"]


class Models(Checker):
    """Every member's model after every round, and bytes of blobs sent until the last round began."""

    def __init__(self, last: int) -> None:
        self.after: dict[int, dict[int, Vector]] = {}
        self.sent, self._last = 0, last

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if isinstance(event, Mixed) and event.model is not None:
            model = world.place(node, twin).blobs.vector(event.model)
            assert model is not None
            self.after.setdefault(event.round, {})[node] = model
        if len(self.after.get(self._last - 1, ())) < len(world.ids):
            self.sent += sum(effect.length for effect in effects if isinstance(effect, SendChunk))

    def spread(self, round_: int) -> float:
        """Root mean squared distance of the models from their mean, plain."""
        models = np.array([model for _, model in sorted(self.after[round_].items())], np.float64)
        return float(np.sqrt(np.square(models - models.mean(0)).sum(1).mean()))

    def mean(self, round_: int, weights: Sequence[float]) -> NDArray[np.float64]:
        models = np.array([model for _, model in sorted(self.after[round_].items())], np.float64)
        return np.asarray(np.average(models, axis=0, weights=weights))


@dataclass(frozen=True, slots=True, kw_only=True)
class Once(QuadraticTask):
    """Sites learn in the first round alone: what follows is gossip and nothing else."""

    first: list[Vector] = field(default_factory=list)

    @override
    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        lesson = QuadraticTask.train(self, member, 1, model, correction)
        assert lesson.update is not None
        return lesson if number == 1 else replace(lesson, update=np.zeros_like(lesson.update))


def told(world: World, event: str) -> list[int]:
    """The rounds of which sites have reported this."""
    return [
        int(report.values["round"]) for place in world.places for _, report in place.reports if report.event == event
    ]


def by_hand(swarm: Swarm, task: QuadraticTask, rounds: int) -> NDArray[np.float64]:
    """CHOCO round by round, x <- x + sum_j A_ij (x_hat_j - x_hat_i), and the weighted mean of the last models."""
    n = len(task.samples)
    plan, terms = SchedulePlan.of(swarm.charter, swarm.signed.ledger_id), founding(swarm.charter)
    nodes, spec = [who.node for who in swarm.identities], swarm.charter.codec
    assert spec is not None
    weights = dict(zip(nodes, task.samples, strict=True))
    models = [task.initial() for _ in range(n)]
    copies = [Public(0, task.initial()) for _ in range(n)]
    for number in range(1, rounds + 1):
        for i in range(n):
            update = task.train(i, number, models[i]).update
            assert update is not None
            models[i] = models[i] + update
        if number == rounds:
            break
        copies = [propose(copy, model, spec)[0] for copy, model in zip(copies, models, strict=True)]
        before = np.average(np.array(models, np.float64), axis=0, weights=task.samples)
        moved = []
        for i, node in enumerate(nodes):
            out = models[i].astype(np.float64)
            for other, share in plan.shares(terms, number, node, weights, plan.partners(terms, number, node)):
                out += share * (copies[nodes.index(other)].copy.astype(np.float64) - copies[i].copy)
            moved.append(out.astype(np.float32))
        models = moved
        after = np.average(np.array(models, np.float64), axis=0, weights=task.samples)
        assert np.allclose(after, before, atol=1e-6), "the weighted mean stays"
    return np.asarray(np.average(np.array(models, np.float64), axis=0, weights=task.samples))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("schedule", shortened(1, ["ring", "exponential"]))
def test_models_are_what_the_equation_says(codec: str, schedule: str) -> None:
    swarm = make_swarm(5, rounds=7, elements=300, schedule=schedule, codec=codec)
    task = QuadraticTask(seed=3, samples=SAMPLES, elements=300, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(all_done)
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(5))
    assert np.allclose(merged(world, 0), by_hand(swarm, task, 7), atol=1e-5)
    assert told(world, "copy_whole") == told(world, "model_whole") == [], "nothing was lost, so nothing went whole"


@pytest.mark.parametrize(
    ("codec", "rounds", "factor"),
    shortened(2, [("int4", 12, 0.5), ("topk:250", 16, 0.85), ("int8", 10, 0.4), ("sign", 20, 0.95)]),
)
def test_agreement_is_linear_and_the_mean_does_not_move(codec: str, rounds: int, factor: float) -> None:
    """Koloskova, Stich & Jaggi 2019, theorem 2, by the node: distances fall by a factor a round, the mean stays.

    Uncompressed the factor of this ring is a third.
    """
    samples = (100,) * 4
    swarm = make_swarm(4, rounds=rounds, elements=256, schedule="ring", codec=codec)
    models = Models(rounds)
    world = gossiping(swarm, Once(seed=4, samples=samples, elements=256, bound=100.0), checkers=[models])
    assert world.run(all_done)
    spreads = [models.spread(number) for number in range(1, rounds)]
    half = len(spreads) // 2
    assert spreads[half] < spreads[0] * factor**half
    assert spreads[-1] < spreads[half] * factor ** (len(spreads) - 1 - half), "not slower towards the end"
    drift = models.mean(rounds - 1, samples) - models.mean(1, samples)
    assert float(np.abs(drift).max()) < 1e-6


@pytest.mark.parametrize(
    ("codec", "share"), shortened(2, [("int4", 0.15), ("topk:50", 0.08), ("int8", 0.27), ("sign", 0.06)])
)
def test_messages_travel_and_copies_do_not(codec: str, share: float) -> None:
    elements, rounds = 20_000, 4
    task = QuadraticTask(seed=3, samples=(100,) * 5, elements=elements, bound=300.0)
    sent = {}
    for name in ("", codec):
        swarm = make_swarm(5, rounds=rounds, elements=elements, schedule="ring", codec=name, clip_norm_milli=300_000)
        models = Models(rounds)
        world = gossiping(swarm, task, checkers=[models])
        assert world.run(all_done)
        sent[name] = models.sent
    spec = swarm.charter.codec
    assert spec is not None
    assert sent[""] >= 2 * 5 * (rounds - 1) * 4 * elements
    assert encoded_bytes(spec, elements) <= share * 4 * elements
    assert sent[codec] < share * sent[""]


@pytest.mark.parametrize("codec", shortened(1, ["int4", "topk:100"]))
def test_a_site_that_is_killed_ends_with_the_bytes_of_a_calm_run(codec: str) -> None:
    """While it trains, while it follows others, and while it waits: what the log and the blobs say is enough."""
    swarm = make_swarm(4, rounds=6, elements=200, schedule="ring", codec=codec, patience_ms=60_000)
    task = QuadraticTask(seed=5, samples=(100, 200, 300, 400), elements=200, bound=100.0)
    calm = gossiping(swarm, task)
    killed = gossiping(swarm, task, faults=[Crash(at_s=t, slot=1, down_s=0.5) for t in (2.0, 4.3, 7.1, 9.9)])
    assert calm.run(all_done)
    assert killed.run(all_done)
    assert killed.places[1].incarnation >= 4
    assert np.array_equal(merged(killed, 0), merged(calm, 0))
    assert told(killed, "copy_whole") == told(killed, "model_whole") == []


@pytest.mark.parametrize("after", shortened(3, [5, 15, 30, 0, 10, 20, 25, 35]))
def test_killed_between_any_two_effects_it_ends_with_the_same_bytes(after: int) -> None:
    swarm = make_swarm(4, rounds=4, elements=64, schedule="ring", codec="int4", patience_ms=60_000)
    task = QuadraticTask(seed=5, samples=(100, 200, 300, 400), elements=64, bound=100.0)
    calm = gossiping(swarm, task)
    killed = gossiping(swarm, task, faults=[Crash(at_s=3.0, slot=2, after_effects=after, down_s=0.5)])
    assert calm.run(all_done)
    assert killed.run(all_done)
    assert np.array_equal(merged(killed, 0), merged(calm, 0))


def test_a_lost_copy_is_met_by_a_whole_one_and_the_mean_stays() -> None:
    """The power fails at one site: what it has not synced is gone or torn. All that is synced is enough to go on."""
    rounds, wholes = 8, 0
    for seed in range(1, 5):
        swarm = make_swarm(4, rounds=rounds, elements=64, schedule="ring", codec="int4", patience_ms=60_000)
        task = Once(seed=seed, samples=(100, 200, 300, 400), elements=64, bound=100.0)
        faults = [Crash(at_s=t, slot=1, down_s=0.5, power=True) for t in (4.3, 6.0, 7.1)]
        models = Models(rounds)
        world = gossiping(swarm, task, seed=seed, faults=faults, checkers=[models])
        assert world.run(all_done)
        assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(4))
        wholes += len(told(world, "copy_whole")) + len(told(world, "model_whole"))
        drift = merged(world, 0) - models.mean(1, task.samples)
        assert float(np.abs(drift).max()) < 1e-6
    assert wholes, "or no copy was lost, and nothing was seen"


def test_who_was_away_takes_its_partners_copies_whole_once() -> None:
    rounds = 16
    swarm = make_swarm(5, rounds=rounds, elements=64, schedule="ring", codec="int8", patience_ms=3_000)
    task = Once(seed=3, samples=SAMPLES, elements=64, bound=100.0)
    models = Models(rounds)
    world = gossiping(swarm, task, faults=[Crash(at_s=4.5, slot=2, down_s=8.0)], checkers=[models])
    assert world.run(all_done)
    whole = told(world, "copy_whole")
    assert 1 <= len(whole) <= 4, "its two partners' when it is back, and perhaps its own at theirs"
    assert {*whole} <= {8, 9}, "and messages again from then on"
    drift = merged(world, 2) - models.mean(1, SAMPLES)
    assert float(np.abs(drift).max()) < 1e-6


class Liar(BlobStore):
    """Names another public copy than its messages lead to."""

    @override
    def _moved(self, model: Vector, copy: Digest) -> tuple[Slices, tuple[Stored, ...]] | None:
        made = super()._moved(model, copy)
        if made is None:
            return None
        (message, before, _), (sent, _) = made
        other = self.put((model + np.float32(1.0)).tobytes())
        return (message, before, (other.digest, other.size)), (sent, other)


def test_a_copy_that_a_message_does_not_lead_to_is_taken_by_nobody() -> None:
    swarm = make_swarm(5, rounds=4, elements=64, schedule="ring", codec="int8", patience_ms=3_000)
    task = QuadraticTask(seed=3, samples=(100,) * 5, elements=64, bound=100.0)
    blends = Blends()
    world = gossiping(swarm, task, checkers=[blends])
    world.places[1].blobs.__class__ = Liar
    assert world.run(all_done)
    assert len(blends.seen[0, 1].terms) == 2, "itself and its other neighbour"
    assert any(report.event == "update_unusable" for _, report in world.places[0].reports)
    assert np.isfinite(merged(world, 0)).all()


@pytest.mark.parametrize("seed", shortened(2, range(1, 9)))
def test_misfortunes_neither_stop_it_nor_bend_it(seed: int) -> None:
    rng = random.Random(f"copies/{seed}")
    codec = rng.choice(CODECS)
    swarm = make_swarm(5, rounds=5, elements=128, schedule="ring", codec=codec, patience_ms=3_000)
    task = QuadraticTask(seed=seed, samples=(100, 10, 300, 1000, 50), elements=128, bound=100.0)
    world = gossiping(
        swarm,
        task,
        seed=seed,
        faults=generate(seed, members=5, options=FaultOptions(heal_s=40.0)).faults,
        network=NetworkProfile(loss=0.05),
        checkers=[Blends()],
    )
    assert world.run(all_done), f"{codec}: not finished at {world.now:.0f} s"
    models = [merged(world, member) for member in range(5)]
    assert all(np.array_equal(models[0], model) for model in models)
    assert np.isfinite(models[0]).all()


def test_only_partners_keep_a_copy() -> None:
    swarm = make_swarm(6, rounds=4, elements=4096, schedule="ring", codec="int8")
    task = QuadraticTask(seed=3, samples=(100,) * 6, elements=4096, bound=100.0)
    world = gossiping(swarm, task)
    assert world.run(committed(2))
    state = head(world, 0).replica.head
    assert state.exchange is not None
    held = [world.place(0).blobs.vector(Digest(state.exchange.copies[node])) is not None for node in world.ids]
    assert held == [True, True, False, False, False, True]


def test_blends_weigh_copies_by_gamma() -> None:
    swarm = make_swarm(4, rounds=3, elements=64, schedule="ring", codec="int4", gamma="0.3")
    blends = Blends()
    world = gossiping(swarm, QuadraticTask(seed=3, samples=(100,) * 4, elements=64, bound=100.0), checkers=[blends])
    assert world.run(all_done)
    shares = sorted(share for _, share in blends.seen[0, 1].terms)
    assert shares == pytest.approx([0.1, 0.1, 0.8])
    assert isinstance(blends.seen[0, 2], Blend)
