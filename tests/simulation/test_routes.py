"""Rounds that reach their mean in parts, with the real node in the simulated world."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pytest
from typing_extensions import override

from node.core.node import Node
from swarm import codec, terms
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import Journal
from swarm.ledger.state import Closed
from swarm.machine import RECORD_BLOCK, AddUp, Divide, Effect, Event, Forget, Join, MixSlice, Parted, SendChunk, Stored
from tests.builders import identity, make_swarm
from tests.cases import shortened
from tests.simulation.test_gossip import all_done, gossiping, head, merged
from tests.simulation.test_membership import card, changing, committed, finished, in_epoch, propose
from topologies.world.blobs import BlobStore
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, Fault, FaultOptions, FaultPlan, Partition, generate
from topologies.world.learner import Behaviour, Lesson, QuadraticTask, Vector
from topologies.world.network import NetworkProfile
from topologies.world.world import World

T = TypeVar("T")

ELEMENTS = 2048
COUNTS = (100, 300, 50, 100, 500, 70, 210)
ROUNDS = 4
HARSH = NetworkProfile(loss=0.05, duplication=0.02)


class Sent(Checker):
    """Bytes of models, and of what they are made of, that were sent."""

    def __init__(self) -> None:
        self.bytes = 0

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        self.bytes += sum(effect.length for effect in effects if isinstance(effect, SendChunk))


class CrashAt(Checker):
    """Ends a member's process at the first effect of a kind, for good or for some time."""

    def __init__(self, member: int, kind: type[Effect], down_s: float) -> None:
        self._member, self._kind, self._down_s = member, kind, down_s
        self.at_s: float | None = None

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if self.at_s is None and node == self._member and any(isinstance(effect, self._kind) for effect in effects):
            self.at_s = world.now
            place = world.place(node)
            place.fuse, place.crash = len(effects), Crash(at_s=world.now, slot=node, down_s=self._down_s)


def task(n: int, **more: object) -> QuadraticTask:
    return QuadraticTask(seed=5, samples=COUNTS[:n], elements=ELEMENTS, bound=200.0, steps=2, rate=0.2, **more)  # type: ignore[arg-type]


def ran(
    route: str,
    n: int = 5,
    *,
    rounds: int = ROUNDS,
    compressed: str = "",
    faults: Sequence[Fault] = (),
    checkers: Sequence[Checker] = (),
    network: NetworkProfile | None = None,
    seed: int = 1,
    learner: QuadraticTask | None = None,
    prepare: Callable[[World], None] = lambda _: None,
) -> World:
    """Return a world in which everybody who is not behind a `Behaviour` has come to the end."""
    swarm = make_swarm(
        n, rounds=rounds, elements=ELEMENTS, clip_norm_milli=200_000, codec=compressed, route=route, patience_ms=3_000
    )
    world = gossiping(swarm, learner or task(n), seed=seed, faults=faults, checkers=checkers, network=network)
    prepare(world)
    assert world.run(all_done), [head(world, member).status(world.now) for member in range(n)]
    return world


def blocks(world: World) -> list[bytes]:
    """Return the blocks in the ledger of member 0."""
    journal = Journal(world.place(0).disk, ledger_id=head(world, 0).replica.head.ledger_id)
    return [record.payload for record in journal.open().records if record.kind == RECORD_BLOCK]


def ledger_of(route: str, **more: Any) -> tuple[SignedCharter, list[bytes]]:
    """Return the charter and the blocks of a run."""
    world = ran(route, **more)
    return head(world, 0).replica.head.signed, blocks(world)


def said(world: World, kind: int, type_: type[T]) -> list[T]:
    """Return the bodies of one kind in the ledger of member 0."""
    finals = [codec.decode(payload, FinalBlock, limit=1 << 22) for payload in blocks(world)]
    found = [e.decode_entry(leaf) for final in finals for leaf in final.block.leaves]
    return [codec.decode(entry.body, type_, limit=1 << 20) for entry in found if entry.kind == kind]


def bereft(route: str, number: int = 2) -> World:
    """Return a world in which the disks of all who hold it lose an update, whole or in slices, of a round at its close.

    All of its four members are needed for a mean, so the round is over without one. None is left after all rounds.
    """
    swarm = make_swarm(
        4,
        rounds=ROUNDS,
        elements=ELEMENTS,
        clip_norm_milli=200_000,
        route=route,
        patience_ms=3_000,
        deadline_ms=30_000,
        min_contributions=4,
    )
    world = gossiping(swarm, task(4))

    named: list[Closed] = []

    def closed(world: World) -> bool:
        machines = [place.machine for place in world.places]
        states = [machine.replica.head for machine in machines if isinstance(machine, Node)]
        named.extend(state.close for state in states if state.close is not None and state.round == number)
        return bool(named)

    assert world.run(closed)
    lost = tuple(digest for digest, _ in named[0].terms[1].body.blobs)
    for place in world.places:
        place.blobs.forget(Forget(lost))
    # By then all know of the close, so that nobody trains for that round again; after a start they see what is lost.
    world.run(world.now + 1.0)
    for place in world.places:
        world.strike(Crash(at_s=world.now, slot=place.slot, down_s=0.5))
    assert world.run(all_done, end_s=600.0), [head(world, member).status(world.now) for member in range(4)]
    return world


def void_ledger() -> tuple[SignedCharter, list[bytes]]:
    """Return the charter and the blocks of a run with a round that was closed on its route, and ended with nothing."""
    world = bereft("fold")
    return head(world, 0).replica.head.signed, blocks(world)


def closes(world: World) -> list[tuple[int, int]]:
    return [(body.round, body.attempt) for body in said(world, e.ROUND_CLOSE, e.RoundClose)]


def distance(world: World) -> float:
    return float(np.linalg.norm(merged(world, 0) - task(5).optimum()))


def alike(world: World, n: int = 5) -> bool:
    return all(np.array_equal(merged(world, 0), merged(world, member)) for member in range(1, n))


@pytest.fixture(scope="module")
def plain() -> dict[int, World]:
    return {n: ran("", n) for n in (1, 2, 3, 4, 5, 7)}


@pytest.mark.parametrize(
    ("route", "n"),
    shortened(
        6,
        [
            *((route, n) for n in (1, 3, 5, 2, 4, 7) for route in ("sharded", "fold")),
            ("sharded:16", 3),
            ("sharded:2", 5),
        ],
    ),
)
def test_every_route_ends_with_the_same_bytes(route: str, n: int, plain: dict[int, World]) -> None:
    world = ran(route, n)
    for member in range(n):
        assert np.array_equal(merged(world, member), merged(plain[n], 0))
    assert closes(world) == [(number, 1) for number in range(1, ROUNDS + 1)], "it led to the mean every time"


@pytest.mark.parametrize(("route", "copies"), [("", 6), ("sharded", 3), ("fold", 4)])
def test_a_member_gets_as_many_copies_as_it_should(route: str, copies: float) -> None:
    # Of seven. Sharded: of each slice what two owners get, and the mean, less what one has oneself. Fold: of the four
    # that pair up, three have two further updates or three to read and one sum, which is twice as long; the other
    # three get the last sum.
    sent = Sent()
    ran(route, 7, checkers=[sent])
    assert sent.bytes <= 1.02 * copies * 7 * 4 * ELEMENTS * ROUNDS


@pytest.mark.parametrize("compressed", shortened(1, ["int8", "bf16", "topk:250"]))
@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_what_travels_may_be_compressed(route: str, compressed: str) -> None:
    world, spread = ran(route, compressed=compressed), ran("", compressed=compressed)
    assert alike(world)
    if route == "fold":
        assert np.array_equal(merged(world, 0), merged(spread, 0))
    else:  # A codec sees each slice by itself: what it leaves out is elsewhere, and as much.
        assert distance(world) < 1.2 * distance(spread)
    assert max(attempt for _, attempt in closes(world)) == 1


# --- somebody is lost on the way --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("route", "kind"), [("sharded", MixSlice), ("sharded", Join), ("fold", AddUp), ("fold", Divide)]
)
def test_who_goes_and_comes_back_is_waited_for(route: str, kind: type[Effect], plain: dict[int, World]) -> None:
    world = ran(route, checkers=[CrashAt(2, kind, down_s=1.0)])
    assert all(np.array_equal(merged(world, member), merged(plain[5], 0)) for member in range(5))


@pytest.mark.parametrize(("route", "kind"), [("sharded", MixSlice), ("fold", AddUp)])
def test_a_round_goes_by_spread_when_somebody_stays_away(route: str, kind: type[Effect]) -> None:
    world = ran(route, checkers=[CrashAt(2, kind, down_s=40.0)], rounds=6)
    assert alike(world)
    found = closes(world)
    assert (1, 2) in found, "closed a second time"
    assert found[-1] == (6, 1), "and later rounds take the route again"
    told = [report.event for place in world.places for _, report in place.reports]
    assert "route_stuck" in told


@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_who_is_away_from_the_start_is_not_in_it(route: str) -> None:
    world = ran(route, faults=[Crash(at_s=0.75, slot=3, down_s=60.0)], rounds=3)
    assert alike(world)
    first = said(world, e.ROUND_CLOSE, e.RoundClose)[0]
    assert (len(first.included), first.attempt) == (4, 1)


@pytest.mark.parametrize("route", ["sharded", "fold"])
@pytest.mark.parametrize("behaviour", shortened(1, [Behaviour.HANG, Behaviour.RAISES, Behaviour.SLOW]))
def test_who_never_offers_anything_computes_nothing_and_costs_no_round_its_route(
    route: str, behaviour: Behaviour
) -> None:
    """Parts are for those in the close to compute: with an offer they have shown in this round that they are there."""
    world = ran(route, learner=task(5, behaviours={1: behaviour}))
    rounds = said(world, e.ROUND_CLOSE, e.RoundClose)
    assert [(close.attempt, len(close.included)) for close in rounds] == [(1, 4)] * ROUNDS


@pytest.mark.parametrize("seed", shortened(1, range(1, 3)))
@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_crashes_partitions_and_loss(route: str, seed: int) -> None:
    faults = generate(seed, members=5, options=FaultOptions(heal_s=40.0)).faults
    world = ran(route, rounds=6, seed=seed, faults=faults, network=HARSH)
    assert alike(world)


def test_a_partition_in_the_middle() -> None:
    cut = Partition(at_s=2.0, duration_s=15.0, groups=((0, 1), (2, 3, 4)))
    for route in ("sharded", "fold"):
        assert alike(ran(route, rounds=6, faults=[cut]))


# --- members come and go ------------------------------------------------------------------------------------------------

END_S = 400.0


@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_a_newcomer_computes_its_parts_too(route: str) -> None:
    world = changing(4, newcomers=1, rounds=10, route=route)
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 0, terms.add(card(4)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    assert alike(world)
    found = said(world, e.ROUND_CLOSE, e.RoundClose)
    assert len(found[-1].included) == 5
    assert found[-1].attempt == 1


@pytest.mark.parametrize("after", shortened(1, [6, 0, 3, 9]))
@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_a_member_leaves_and_another_crashes_in_the_middle_of_a_round(route: str, after: int) -> None:
    plan = FaultPlan(faults=(Crash(at_s=4.0, slot=1, after_effects=after, down_s=5.0),))
    world = changing(5, rounds=8, route=route, plan=plan)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 4, terms.remove(identity(4).node))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert alike(world, 4)
    assert said(world, e.ROUND_CLOSE, e.RoundClose)[-1].attempt == 1, "the route leads to the mean again"


# --- somebody lies ----------------------------------------------------------------------------------------------------


def lies(member: int) -> Callable[[World], None]:
    """Have a member compute something else than it should, and stand by it."""

    def prepare(world: World) -> None:
        store = world.place(member).blobs
        assert isinstance(store, BlobStore)

        def wrong(effect: MixSlice | AddUp, honest: Callable[[], Sequence[Event]]) -> Callable[[], Sequence[Event]]:
            def work() -> Sequence[Event]:
                stored, parted = honest()
                assert isinstance(stored, Stored)
                assert isinstance(parted, Parted)
                data = store.read(stored.digest, 0, stored.size)
                assert data is not None
                forged = bytearray(data)
                forged[0] ^= 1
                other = store.put(bytes(forged))
                return (other, Parted(effect.round, effect.close, effect.number, other.digest, other.size))

            return work

        slice_, sum_ = store.mix_slice, store.add_up
        store.mix_slice = lambda effect: wrong(effect, slice_(effect))  # type: ignore[method-assign]
        store.add_up = lambda effect: wrong(effect, sum_(effect))  # type: ignore[method-assign]

    return prepare


@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_a_wrong_part_is_noticed_and_the_round_goes_by_spread(route: str) -> None:
    world, plain = ran(route, rounds=2, prepare=lies(1)), ran("", rounds=2)
    assert closes(world)[:2] == [(1, 1), (1, 2)]
    first = next(b for b in said(world, e.ROUND_COMMIT, e.RoundCommit) if b.round == 1)
    honest = next(b for b in said(plain, e.ROUND_COMMIT, e.RoundCommit) if b.round == 1)
    assert first.model_digest == honest.model_digest


class Spread(QuadraticTask):
    """A site whose update is within the bound in each slice, and over it as a whole."""

    @override
    def train(self, member: int, number: int, model: Vector, correction: Vector | None = None) -> Lesson:
        lesson = super().train(member, number, model, correction)
        if member == 3 and lesson.update is not None:
            lesson.update[:] = 0.8 * self.bound * np.sqrt(5 / ELEMENTS)
        return lesson


@pytest.mark.parametrize("route", ["sharded", "fold"])
def test_a_round_of_which_too_little_is_left_is_void_and_the_run_goes_on(route: str) -> None:
    world = bereft(route)
    found = said(world, e.ROUND_CLOSE, e.RoundClose)
    again = next(body for body in found if (body.round, body.attempt) == (2, 2))
    assert again.included == ()
    assert {body.round for body in found if body.included} == {1, 2, 3, 4}, "and the others have a mean"
    assert [reason for _, reason in again.rejected] == [e.VOID] * 4
    models = [commit.model_digest for commit in said(world, e.ROUND_COMMIT, e.RoundCommit)]
    assert models[1] == models[0], "it ends with the model before"
    assert len({*models}) == ROUNDS - 1, "and the next round with another"
    assert alike(world, 4)


def test_slices_that_are_over_the_bound_together_are_noticed() -> None:
    learner = Spread(seed=5, samples=COUNTS[:5], elements=ELEMENTS, bound=200.0, steps=2, rate=0.2)
    world = ran("sharded", learner=learner)
    assert alike(world)
    last = said(world, e.ROUND_CLOSE, e.RoundClose)[-1]
    assert (last.attempt, len(last.included), [reason for _, reason in last.rejected]) == (2, 4, [e.UNUSABLE])


@pytest.mark.parametrize("route", ["sharded", "fold"])
@pytest.mark.parametrize("behaviour", shortened(1, [Behaviour.NAN, Behaviour.OVERSIZE]))
def test_an_update_that_may_not_be_averaged_is_left_out(route: str, behaviour: Behaviour) -> None:
    world = ran(route, learner=task(5, behaviours={3: behaviour}))
    assert alike(world)
    assert np.abs(merged(world, 0)).max() < 10
    last = said(world, e.ROUND_CLOSE, e.RoundClose)[-1]
    assert [reason for _, reason in last.rejected] == [e.UNUSABLE]
