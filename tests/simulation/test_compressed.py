"""Swarms whose contributions are compressed, with the real node in the simulated world."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from typing_extensions import override

from swarm.machine import Effect, Event, SendChunk
from swarm.mixing.compress.forms import encoded_bytes
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from topologies.world import world as simulated
from topologies.world.blobs import BlobStore
from topologies.world.checkers import Checker
from topologies.world.faults import Crash
from topologies.world.learner import Behaviour, QuadraticTask
from topologies.world.world import World

ELEMENTS = 2048
SAMPLES = (100, 300, 50, 100, 500)
ROUNDS = 12


class Sent(Checker):
    """Bytes of models and contributions that were sent."""

    def __init__(self) -> None:
        self.bytes = 0

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        self.bytes += sum(effect.length for effect in effects if isinstance(effect, SendChunk))


def task(**more: object) -> QuadraticTask:
    return QuadraticTask(seed=5, samples=SAMPLES, elements=ELEMENTS, bound=200.0, steps=2, rate=0.2, **more)  # type: ignore[arg-type]


def ran(codec: str, *, schedule: str = "", rounds: int = ROUNDS, faults: Sequence[Crash] = ()) -> tuple[World, int]:
    swarm = make_swarm(
        5, rounds=rounds, elements=ELEMENTS, clip_norm_milli=200_000, codec=codec, schedule=schedule, patience_ms=3_000
    )
    sent = Sent()
    world = gossiping(swarm, task(), faults=faults, checkers=[sent])
    assert world.run(all_done)
    return world, sent.bytes


def error(world: World) -> float:
    """How far the swarm's model is from the best one, in parts of where it began."""
    best = task().optimum()
    return float(np.linalg.norm(merged(world, 0) - best) / np.linalg.norm(best))


@pytest.fixture(scope="module")
def plain() -> tuple[World, int]:
    return ran("")


@pytest.mark.parametrize(
    ("codec", "worse"), shortened(2, [("int4", 1.5), ("topk:250", 9.0), ("bf16", 1.01), ("int8", 1.01)])
)
def test_what_is_left_out_comes_later(plain: tuple[World, int], codec: str, worse: float) -> None:
    world, sent = ran(codec)
    models = [merged(world, member) for member in range(5)]
    assert all(np.array_equal(models[0], model) for model in models), "the same bytes everywhere, as ever"
    assert error(world) < worse * error(plain[0])
    # The initial model is there from the start; what travels are contributions.
    ratio = encoded_bytes(head(world, 0).replica.head.signed.charter.codec, ELEMENTS) / (4 * ELEMENTS)  # type: ignore[arg-type]
    assert sent <= 1.01 * ratio * plain[1]


class Forgetful(BlobStore):
    """Owes nothing, whatever it has left out."""

    @property
    def _owed(self) -> None:
        return None

    @_owed.setter
    def _owed(self, value: object) -> None:
        pass


@pytest.mark.parametrize("codec", shortened(1, ["topk:250", "int4", "sign"]))
def test_the_memory_halves_what_is_lost(codec: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with_memory, _ = ran(codec, rounds=20)
    monkeypatch.setattr(simulated, "BlobStore", Forgetful)
    without, _ = ran(codec, rounds=20)
    assert error(with_memory) < 0.65 * error(without)


def test_a_crash_loses_nothing_of_it() -> None:
    world, _ = ran("int8", faults=[Crash(at_s=7.0, slot=1, down_s=6.0)])
    models = [merged(world, member) for member in range(5)]
    assert all(np.array_equal(models[0], model) for model in models)
    assert error(world) < 1.1


def test_gossip_in_half_the_bytes_ends_where_it_did() -> None:
    plain_, bytes_plain = ran("", schedule="ring")
    world, sent = ran("bf16", schedule="ring")
    assert np.allclose(merged(world, 0), merged(plain_, 0), atol=0.02)
    assert abs(error(world) - error(plain_)) < 0.01
    assert sent < 0.52 * bytes_plain


def test_a_contribution_that_is_no_message_is_left_out() -> None:
    swarm = make_swarm(5, rounds=3, elements=ELEMENTS, clip_norm_milli=200_000, codec="int8", patience_ms=3_000)
    world = gossiping(swarm, task(behaviours={2: Behaviour.OVERSIZE}))
    assert world.run(lambda w: all(p.finished for p in w.places))
    assert np.isfinite(merged(world, 0)).all()
