"""What others learn without breaking anything: from the ledger for ever, and as a member that asks for what it may ask for.

These are claims of docs/concepts/threat-model.md, and some of them are about what is *not* kept secret. Whoever changes that
makes a test here fail, and then has a sentence there to change.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from gossip.transfer import Transfer
from swarm.ledger import entry as e
from swarm.machine import Digest, Guard, NodeId, Send, SendChunk
from swarm.masking.statements import Keys
from swarm.mixing.average import add_weighted
from swarm.mixing.sketch import BUCKETS, FRACTION_BITS, unpack
from swarm.round import Phase
from swarm.terms import founding
from swarm.vector import blob_digest, leaf_hashes
from tests.builders import Swarm, make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_routes import CrashAt, blocks, said
from topologies.plan import SchedulePlan
from topologies.world.checkers import Checker
from topologies.world.learner import Lesson, QuadraticTask, Vector
from topologies.world.world import World

SAMPLES = (100, 300, 50, 100, 500)
ELEMENTS = 301
CONTRIBUTIONS = e.CONTRIBUTION, e.Contribution
EXACT: dict[str, Any] = {"min_contributions": 3, "clip_norm_milli": 200_000}


class Remembering(QuadraticTask):
    """Keeps every update that a site has trained: by member and round, and the model that it started from."""

    made: dict[tuple[int, int], tuple[Vector, Vector]] = {}  # noqa: RUF012 - cleared by each run

    @override
    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        lesson = super().train(member, number, model, correction)
        assert lesson.update is not None
        self.made[member, number] = lesson.update.copy(), model.copy()
        return lesson


class Announced(Checker):
    """Every blob that a node tells others it has, or sends."""

    def __init__(self) -> None:
        self.names: set[bytes] = set()

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if wire.kind(frame) in (m.Have, m.Leaves, m.ChunkHeader):
            message = wire.decode(frame)
            assert isinstance(message, m.Have | m.Leaves | m.ChunkHeader)
            self.names.add(bytes(message.digest))


def learner(elements: int = ELEMENTS, seed: int = 3) -> Remembering:
    Remembering.made.clear()
    return Remembering(seed=seed, samples=SAMPLES, elements=elements, bound=200.0, steps=2, rate=0.2)


def ran(swarm: Swarm, task: QuadraticTask, checkers: Sequence[Checker] = ()) -> World:
    world = gossiping(swarm, task, checkers=checkers)
    assert world.run(all_done, end_s=600.0)
    world.end()
    return world


def name(vector: Vector) -> bytes:
    data = vector.tobytes()
    return blob_digest(len(data), leaf_hashes(data))


def pairs(vector: Vector) -> Iterator[bytes]:
    """Yield the bytes of each two numbers that stand beside each other: 64 bits, which nothing repeats by chance."""
    data = vector.tobytes()
    yield from (data[start : start + 8] for start in range(0, len(data) - 7, 4))


# --- the ledger, for ever ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("masks", ["", "pairwise"])
def test_a_ledger_of_exact_rounds_holds_no_number_of_an_update_or_a_model(masks: str) -> None:
    world = ran(make_swarm(5, rounds=2, elements=ELEMENTS, masks=masks, **EXACT), learner())
    ledger = b"".join(blocks(world))
    assert len(ledger) > 5_000
    assert len(Remembering.made) == 10
    final = merged(world, 0).astype(np.float32)
    for vector in (final, *(one for both in Remembering.made.values() for one in both if one.any())):
        assert not any(pair in ledger for pair in pairs(vector))


def guessed(world: World) -> list[bool]:
    """Say of two ideas of site 1's data, of which the first is right, whether an auditor can confirm them in the ledger.

    It has the models, and knows how site 1 trains. So it is with one record: whoever knows all the others, and trains
    as the site did, has two candidates, one with it and one without. It looks for what each leads to in every byte.
    """
    ledger, model = b"".join(blocks(world)), np.zeros(ELEMENTS, np.float32)
    right, wrong = (
        QuadraticTask(seed=seed, samples=SAMPLES, elements=ELEMENTS, bound=200.0, steps=2, rate=0.2) for seed in (3, 4)
    )
    lessons = [task.train(1, 1, model) for task in (right, wrong)]
    told = {metric for body in said(world, *CONTRIBUTIONS) for metric in body.metrics}
    return [
        name(lesson.update) in ledger or (0, round(lesson.metrics["loss"] * 10**6)) in told
        for lesson in lessons
        if lesson.update is not None
    ]


def test_who_can_compute_an_update_can_confirm_it_by_its_digest_where_digests_are_not_salted() -> None:
    world = ran(make_swarm(5, rounds=2, elements=ELEMENTS, **EXACT), learner())
    assert guessed(world) == [True, False]
    base, found = name(np.zeros(ELEMENTS, np.float32)), Remembering.made[1, 1][0]
    told = {(bytes(body.base_digest), body.samples): body.update_digest for body in said(world, *CONTRIBUTIONS)}
    assert told[base, SAMPLES[1]] == name(found)


@pytest.mark.parametrize("route", ["", "fold"])
def test_with_a_salt_who_can_compute_an_update_can_confirm_nothing_in_the_ledger(route: str) -> None:
    """Nor by what training measured, which follows from the same records and is not told there."""
    swarm = make_swarm(5, rounds=2, elements=ELEMENTS, salt="32", route=route, **EXACT)
    world = ran(swarm, learner())
    assert guessed(world) == [False, False]
    assert len(Remembering.made) == 10
    assert not any(name(update) in b"".join(blocks(world)) for update, _ in Remembering.made.values())


def test_with_a_salt_who_can_compute_all_updates_of_a_round_or_of_a_pair_confirms_them_together() -> None:
    """Models and sums have no salt: all who compute one have to come to the same bytes of it."""
    swarm = make_swarm(5, rounds=2, elements=ELEMENTS, salt="32", route="fold", **EXACT)
    world = ran(swarm, learner())
    ledger = b"".join(blocks(world))
    assert name(Remembering.made[0, 2][1]) in ledger, "the mean of all five"
    close = said(world, e.ROUND_CLOSE, e.RoundClose)[0]
    assert len(close.included) == 5
    found = []
    for pair in itertools.combinations(range(5), 2):
        total = np.zeros(ELEMENTS, np.int64)
        for member in pair:
            add_weighted(total, Remembering.made[member, 1][0], SAMPLES[member])
        data = total.tobytes()
        found.append(blob_digest(len(data), leaf_hashes(data)) in ledger)
    assert found.count(True) == 1, "the one pair that nobody is folded into; the other sum is of three"


def test_two_runs_with_equal_updates_and_other_salts_name_no_update_alike() -> None:
    """Whoever has both ledgers, and the updates of one, cannot tell that those of the other are the same."""
    swarm = make_swarm(5, rounds=2, elements=ELEMENTS, salt="32", **EXACT)
    runs = []
    for seed in (1, 2):
        world = gossiping(swarm, learner(), seed=seed)
        assert world.run(all_done, end_s=600.0)
        runs.append((merged(world, 0), {body.update_digest for body in said(world, *CONTRIBUTIONS)}))
    (model, first), (same, second) = runs
    assert np.array_equal(model, same)
    assert len(first) == len(second) == 10
    assert not first & second


def test_under_masks_the_digest_of_what_was_trained_is_told_to_nobody() -> None:
    """It is in no entry, and no node says of such a blob that it has it, so no guess of an update can be confirmed."""
    announced = Announced()
    world = ran(make_swarm(5, rounds=2, elements=ELEMENTS, masks="pairwise", **EXACT), learner(), [announced])
    ledger = b"".join(blocks(world))
    names = {name(update) for update, _ in Remembering.made.values()}
    assert len(names) == 10
    assert not any(one in ledger for one in names)
    assert not names & announced.names
    offered = {body.update_digest for body in said(world, *CONTRIBUTIONS)}
    assert len(offered & announced.names) == 10, "while the masked ones are there for everybody"


class Steady(Remembering):
    """Sites whose updates hardly change from round to round, as near the end of a run: here, not at all."""

    @override
    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        lesson = QuadraticTask.train(self, member, 1, np.zeros(self.elements, np.float32))
        assert lesson.update is not None
        self.made[member, number] = lesson.update.copy(), model.copy()
        return lesson


def test_two_sums_that_differ_by_one_site_give_its_update_away() -> None:
    """Masks hide an update in a round's sum, and say nothing of what two rounds tell together. Site 2 misses some."""
    Remembering.made.clear()
    swarm = make_swarm(5, rounds=8, elements=ELEMENTS, masks="pairwise:64", patience_ms=3_000, **EXACT)
    task = Steady(seed=3, samples=SAMPLES, elements=ELEMENTS, bound=200.0, steps=2, rate=0.2)
    world = ran(swarm, task, [CrashAt(2, Guard, down_s=6.0)])
    sums: dict[int, tuple[int, np.ndarray]] = {}  # by how many sites are in it: their weight, and what they made
    for close in said(world, e.ROUND_CLOSE, e.RoundClose)[:-1]:
        before, after = (Remembering.made[0, number][1].astype(float) for number in (close.round, close.round + 1))
        weight = sum(share for _, share in close.included)
        sums.setdefault(len(close.included), (weight, (after - before) * weight))
    assert {*sums} == {4, 5}
    (some, without), (whole, withal) = sums[4], sums[5]
    assert np.allclose((withal - without) / (whole - some), Remembering.made[2, 1][0], atol=1e-4)


def test_a_ledger_of_gossip_holds_a_small_model_whole_and_what_each_site_made_of_it() -> None:
    """A sketch has 128 sums: of a model with fewer parameters that is the model. And what each brought can be solved for.

    With more parameters it is 128 signed sums of them, which single out no number and confirm a guess of all.
    """
    elements, rounds = 32, 3
    swarm = make_swarm(5, rounds=rounds, elements=elements, schedule="ring")
    world = ran(swarm, learner(elements))
    bits = np.random.Philox(key=int.from_bytes(swarm.signed.ledger_id[:8], "big")).random_raw(2)
    signs = 1 - 2 * np.unpackbits(bits.astype("<u8").view(np.uint8), bitorder="little").astype(int)
    assert elements <= BUCKETS
    sketches = [body.sketch for body in said(world, e.ATTEST, e.Attest) if body.round == 1 and body.sketch]
    assert len(sketches) == 5
    read = np.array([signs[:elements] * np.array(unpack(one)[:elements]) * 0.5**FRACTION_BITS for one in sketches])
    # What the sites in truth ended round 1 with is what they began round 2 from.
    begun = [Remembering.made[member, 2][1] for member in range(5)]
    assert all(np.abs(read - model).max(axis=1).min() <= 0.5**FRACTION_BITS for model in begun)
    plan, nodes = SchedulePlan(swarm.charter.schedule, swarm.signed.ledger_id), [who.node for who in swarm.identities]
    terms, weights = founding(swarm.charter), dict(zip(nodes, SAMPLES, strict=True))
    matrix = np.zeros((5, 5))
    for i, node in enumerate(nodes):
        for other, share in plan.shares(terms, 1, node, weights, plan.partners(terms, 1, node)):
            matrix[i, nodes.index(other)] = share
    brought = np.linalg.solve(matrix, np.array(begun, float))
    for member in range(5):
        update, base = Remembering.made[member, 1]
        assert np.allclose(brought[member], base + update, atol=1e-4)


# --- a member that asks -----------------------------------------------------------------------------------------------


def answered(world: World, member: int, asker: int, digest: Digest, size: int) -> bool:
    """Whether a node sends a blob, or part of it, to another member that asks for it by name."""
    transfer = head(world, member).transfer
    assert isinstance(transfer, Transfer)
    effects = transfer.on_message(world.ids[asker], m.Want(digest, 0, min(size, 64)), None, world.now)
    refused = [one for one in effects if isinstance(one, Send) and wire.kind(one.frame) is m.Missing]
    return any(isinstance(one, SendChunk) for one in effects) and not refused


def test_in_gossip_any_member_that_asks_gets_the_model_of_any_other_it_is_linked_to() -> None:
    """Partners alone fetch a model where everybody is honest. A curious member reads its name in the ledger, and asks."""
    swarm = make_swarm(6, rounds=4, schedule="ring")
    world = gossiping(swarm, QuadraticTask(seed=3, samples=(100,) * 6, bound=100.0))
    far = world.ids[3]

    def named(world: World) -> list[e.Contribution]:
        found = head(world, 0).replica.head.contributions.items() if world.place(0).machine else ()
        return [placed.body for (round_, node), placed in found if node == far and round_ == 2]

    assert world.run(lambda world: bool(named(world)))
    offered, size = named(world)[0].offered
    assert head(world, 0).transfer.size(offered) is None, "no neighbour on the ring, so it has no copy"
    assert answered(world, 3, 0, offered, size)


def test_heartbeats_tell_members_how_many_steps_a_training_has() -> None:
    """Which is more than the ledger says: steps are batches times epochs."""
    heard: list[m.Heartbeat] = []

    class Beats(Checker):
        @override
        def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
            if wire.kind(frame) is m.Heartbeat:
                message = wire.decode(frame)
                assert isinstance(message, m.Heartbeat)
                heard.append(message)

    task = QuadraticTask(seed=3, samples=SAMPLES, bound=100.0, steps=7)
    ran(make_swarm(5, rounds=2), task, [Beats()])
    training = {one.steps for beat in heard for one in beat.progress if one.phase == Phase.TRAINING}
    assert 7 in training


def test_keys_for_masks_tell_the_number_of_samples_to_everybody() -> None:
    world = ran(make_swarm(5, rounds=1, elements=ELEMENTS, masks="pairwise", **EXACT), learner())
    assert sorted(body.samples for body in said(world, e.MASK_KEYS, Keys)) == sorted(SAMPLES)
