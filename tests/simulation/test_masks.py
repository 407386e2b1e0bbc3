"""Rounds in which updates travel masked, with the real node in the simulated world."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from gossip import messages as m
from gossip import wire
from swarm import codec
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.audit import audit
from swarm.machine import (
    Adopt,
    Deposit,
    Effect,
    Event,
    Guard,
    MaskUpdate,
    NodeId,
    Persist,
    Unmask,
)
from swarm.masking.ring import Ring
from swarm.masking.statements import Keys, Reveal
from tests.builders import make_swarm
from tests.cases import shortened
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_routes import COUNTS, HARSH, CrashAt, blocks, closes, said
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, Partition, generate
from topologies.world.learner import Behaviour, Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

ELEMENTS = 301
SAMPLES = (*COUNTS, 40, 60, 90)
ROUNDS = 2


def task(n: int, kind: type[QuadraticTask] = QuadraticTask, **more: Any) -> QuadraticTask:
    samples = tuple(itertools.islice(itertools.cycle(SAMPLES), n))
    return kind(seed=5, samples=samples, elements=ELEMENTS, bound=200.0, steps=2, rate=0.2, **more)


class Heard(Checker):
    """Everything that members have said of masks, whoever heard it and whatever became of it."""

    def __init__(self) -> None:
        self.reveals: dict[tuple[NodeId, int], set[bytes]] = {}
        self.offers: dict[tuple[NodeId, int, int], set[bytes]] = {}

    @override
    def on_send(self, world: World, node: int, twin: int, to: NodeId, frame: bytes) -> None:
        if wire.kind(frame) is not m.EntryMessage:
            return
        message = wire.decode(frame)
        assert isinstance(message, m.EntryMessage)
        entry = e.decode_entry(message.leaf)
        author = NodeId(entry.author)
        if entry.kind == e.MASK_REVEAL:
            reveal = codec.decode(entry.body, Reveal, limit=1 << 20)
            self.reveals.setdefault((author, reveal.round), set()).add(entry.body)
        elif entry.kind == e.CONTRIBUTION:
            body = codec.decode(entry.body, e.Contribution, limit=1 << 20)
            self.offers.setdefault((author, body.round, body.attempt), set()).add(body.update_digest)

    @override
    def at_end(self, world: World) -> None:
        assert self.reveals, "somebody has revealed something"
        assert all(len(found) == 1 for found in self.reveals.values()), "one answer a round, and so one kind of share"
        assert all(len(found) == 1 for found in self.offers.values()), "one update under one set of masks"


def ran(
    n: int = 5,
    masks: str = "pairwise:64",
    *,
    rounds: int = ROUNDS,
    faults: Sequence[Fault] = (),
    checkers: Sequence[Checker] = (),
    network: NetworkProfile | None = None,
    seed: int = 1,
    learner: QuadraticTask | None = None,
    **terms_: Any,
) -> World:
    """Return a world in which everybody has come to the end."""
    usual: dict[str, Any] = {"min_contributions": 3, "clip_norm_milli": 200_000, "patience_ms": 3_000}
    swarm = make_swarm(n, rounds=rounds, elements=ELEMENTS, masks=masks, **usual | terms_)
    heard = [Heard()] if masks else []
    world = gossiping(
        swarm, learner or task(n), seed=seed, faults=faults, checkers=[*heard, *checkers], network=network
    )
    assert world.run(all_done, end_s=600.0), [told(world, member) for member in range(n)]
    world.end()
    assert all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, n))
    assert not any(place.guarded for place in world.places), "the secrets are gone with the run"
    return world


def told(world: World, member: int) -> list[str]:
    return [
        f"{at:.1f} {report.event}: {report.text}"
        for at, report in world.place(member).reports
        if report.level != "debug"
    ]


def events(world: World) -> set[str]:
    return {report.event for place in world.places for _, report in place.reports}


def rosters(world: World) -> list[tuple[int, int, int]]:
    """(round, attempt, how many are on it) of every roster."""
    return [(b.round, b.attempt, len(b.included)) for b in said(world, e.MASK_ROSTER, e.MaskRoster)]


def models(world: World) -> list[bytes]:
    return [body.model_digest for body in said(world, e.ROUND_COMMIT, e.RoundCommit)]


@functools.cache
def plain(n: int) -> World:
    return ran(n, "")


@functools.cache
def calm(n: int = 5) -> list[bytes]:
    return models(plain(n))


# --- everybody is there ---------------------------------------------------------------------------------------------


# Thirty-one are the fewest who mask with some of the others and not with all.
@pytest.mark.parametrize(("n", "rounds"), shortened(3, [(3, 2), (5, 2), (10, 1), (4, 2), (31, 1)]))
def test_in_64_bits_masked_rounds_end_with_the_bytes_of_plain_ones(n: int, rounds: int) -> None:
    world = ran(n, rounds=rounds)
    assert models(world) == models(ran(n, "", rounds=rounds))
    assert rosters(world) == [(number, 1, n) for number in range(1, rounds + 1)]
    assert closes(world) == [(number, 1) for number in range(1, rounds + 1)]


def on_grid(ring: Ring) -> type[QuadraticTask]:
    """Sites whose updates are in whole steps of a ring."""

    class Rounded(QuadraticTask):
        @override
        def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
            lesson = super().train(member, number, model, correction)
            assert lesson.update is not None
            lesson.update[:] = ring.on_grid(lesson.update)
            return lesson

    return Rounded


@pytest.mark.parametrize(("masks", "bits", "n"), [("pairwise", 36, 5), ("pairwise:32", 32, 3)])
def test_in_fewer_bits_they_end_with_the_bytes_of_plain_rounds_of_what_was_rounded(
    masks: str, bits: int, n: int
) -> None:
    ring = make_swarm(n, masks=masks, clip_norm_milli=200_000, min_contributions=3).charter.ring(n)
    assert ring.bits == bits
    assert models(ran(n, masks)) == models(ran(n, "", learner=task(n, on_grid(ring))))


def test_outer_optimisers_and_weight_caps_see_no_difference() -> None:
    how: dict[str, Any] = {"outer": "fedadam:0.1,0.5", "weight_cap_ppm": 300_000}
    assert models(ran(4, **how)) == models(ran(4, "", **how))


# --- somebody is lost on the way ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Deposit, MaskUpdate, Adopt, Unmask])
def test_who_goes_and_comes_back_at_once_is_waited_for(kind: type[Effect]) -> None:
    world = ran(checkers=[CrashAt(2, kind, down_s=1.0)])
    assert models(world) == calm()
    assert rosters(world) == [(number, 1, 5) for number in range(1, ROUNDS + 1)]


@pytest.mark.parametrize(
    ("kind", "attempts"),
    [
        (Guard, [(1, 1, 4)]),  # Before its keys are posted: it is on no roster.
        (Deposit, [(1, 1, 5), (1, 1, 0), (1, 2, 4)]),  # Before it has dealt: all others begin anew, without it.
        (MaskUpdate, [(1, 1, 5)]),  # Before it has offered: its masks are taken off the sum of the others.
        (Unmask, [(1, 1, 5)]),  # Once it has revealed.
    ],
)
def test_a_round_goes_on_without_who_stays_away(kind: type[Effect], attempts: list[tuple[int, int, int]]) -> None:
    world = ran(checkers=[CrashAt(2, kind, down_s=20.0)])
    assert [one for one in rosters(world) if one[0] == 1] == attempts
    first = said(world, e.ROUND_CLOSE, e.RoundClose)[0]
    assert (len(first.included), first.attempt) == (5 if kind is Unmask else 4, 1)
    assert calm()[0] == models(world)[0] if kind is Unmask else calm()[0] != models(world)[0]


class CrashBefore(Checker):
    """Ends processes when they are about to write down that they say something of a kind, before they have."""

    def __init__(self, members: Sequence[int], kind: int, **how: Any) -> None:
        self._members, self._kind, self._how = [*members], kind, how

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        # The first record syncs, so that nothing after it is obeyed yet.
        says = any(
            e.decode_entry(record.payload).kind == self._kind
            for effect in effects
            if isinstance(effect, Persist)
            for record in effect.records
            if record.kind == 4
        )
        if node in self._members and says:
            self._members.remove(node)
            place = world.place(node)
            place.fuse, place.crash = 0, Crash(at_s=world.now, slot=node, **self._how)


@pytest.mark.parametrize("kind", [e.MASK_KEYS, e.MASK_DEAL, e.MASK_REVEAL])
def test_every_word_is_said_again_alike_after_a_crash(kind: int) -> None:
    world = ran(checkers=[CrashBefore([1, 3], kind, down_s=1.0)])
    assert models(world) == calm()


def test_a_sum_that_nobody_can_have_any_more_leaves_the_model_as_it_was() -> None:
    """Two of five lose their secrets before they reveal: of the four shares that it takes there are three."""

    class Loses(CrashBefore):
        @override
        def on_crash(self, world: World, node: int, twin: int) -> None:
            world.place(node).guarded = b""

    world = ran(checkers=[Loses([1, 3], e.MASK_REVEAL, down_s=1.0)])
    assert closes(world)[:2] == [(1, 1), (1, 2)]
    void = said(world, e.ROUND_CLOSE, e.RoundClose)[1]
    assert (void.included, {reason for _, reason in void.rejected}) == ((), {e.VOID})
    first = said(world, e.ROUND_COMMIT, e.RoundCommit)[0]
    assert first.model_digest == make_swarm(5, elements=ELEMENTS).charter.task.initial_model
    assert (first.samples, len(void.rejected)) == (0, 5)
    assert closes(world)[2:] == [(2, 1)], "and the next round begins"


def test_who_has_lost_its_record_says_nothing_more_in_the_attempt_and_is_in_the_next_round() -> None:
    class LosesAt(CrashAt):
        @override
        def on_crash(self, world: World, node: int, twin: int) -> None:
            world.place(node).guarded = b""

    world = ran(checkers=[LosesAt(1, MaskUpdate, down_s=1.0)])
    included = [len(body.included) for body in said(world, e.ROUND_CLOSE, e.RoundClose)]
    assert included == [4, 5]


def test_three_wait_for_a_third() -> None:
    again = ran(3, checkers=[CrashAt(1, Deposit, down_s=30.0)])
    assert models(again) == calm(3), "nobody may go between roster and close, so all begin anew, with it"
    assert (1, 1, 0) in rosters(again)


@pytest.mark.parametrize("seed", shortened(1, range(1, 3)))
def test_crashes_partitions_and_loss(seed: int) -> None:
    faults = generate(seed, members=5, options=FaultOptions(heal_s=40.0)).faults
    ran(seed=seed, faults=faults, network=HARSH, staleness=16 * (seed % 2))


def test_a_partition_in_the_middle() -> None:
    ran(faults=[Partition(at_s=1.6, duration_s=15.0, groups=((0, 1), (2, 3, 4)))])


# --- somebody is slow -----------------------------------------------------------------------------------------------


def works(world: World) -> list[tuple[int, int, int]]:
    """(round, member, round of the work) of all that was averaged."""
    found = audit(blocks(world), head(world, 0).replica.head.signed)
    *_, last = found
    members = [seat.node for seat in last.state.terms.members]
    return [
        (number, members.index(placed.author), placed.body.round)
        for number, view in last.rounds.items()
        for placed in (view.closed.terms if view.closed else ())
    ]


def test_what_a_slow_site_has_learnt_counts_in_a_later_round_and_once() -> None:
    slow = task(4, behaviours={3: Behaviour.SLOW})
    world = ran(4, rounds=9, learner=slow, staleness=16, deadline_ms=6_000)
    found = works(world)
    assert len({one[1:] for one in found}) == len(found), "nothing counts twice"
    late = [number - work for number, member, work in found if member == 3]
    assert late
    assert max(late) > 1


def ledger() -> tuple[SignedCharter, list[bytes]]:
    """Return the charter and the blocks of a run with an attempt that ended, a round that is void, and a dropout."""

    class Loses(CrashBefore):
        @override
        def on_crash(self, world: World, node: int, twin: int) -> None:
            world.place(node).guarded = b""

    troubles = [CrashAt(2, Deposit, down_s=12.0), Loses([1, 3], e.MASK_REVEAL, down_s=1.0)]
    world = ran(rounds=4, masks="pairwise", checkers=troubles, staleness=8)
    assert any(attempt == 2 for _, attempt in closes(world))
    assert any(not count for *_, count in rosters(world))
    return head(world, 0).replica.head.signed, blocks(world)


def test_keys_are_made_anew_for_every_attempt() -> None:
    world = ran(checkers=[CrashAt(2, Deposit, down_s=12.0)])
    keys = [key for body in said(world, e.MASK_KEYS, Keys) for key in (body.mask_key, body.seal_key)]
    assert len({*keys}) == len(keys)
