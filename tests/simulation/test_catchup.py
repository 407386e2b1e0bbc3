"""A member that was away fetches the ledger from several others: one lies, one is slow, one dies."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from msgspec.structs import replace
from typing_extensions import override

from gossip import catchup, wire
from gossip import messages as m
from gossip.catchup import FAST, FULL
from node.core import Node, pursuit
from swarm import codec
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import joined
from swarm.machine import (
    RECORD_BLOCK,
    Digest,
    Effect,
    Event,
    Keep,
    NodeId,
    Persist,
    Received,
    Seal,
    SendBlocks,
    SendChunk,
)
from swarm.vector import blob_digest, leaf_hashes
from tests.builders import CODE, LAYOUT, Swarm, make_swarm
from tests.cases import shortened
from topologies.families import complete
from topologies.world.checkers import Checker, PersistBeforeSend
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, Fault, FaultPlan
from topologies.world.learner import QuadraticTask
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

MEMBERS, ROUNDS = 5, 8
AWAY, LIAR, SLOW, DYING = 4, 0, 1, 2
BACK_S = 60.0
"""The others have finished long before."""


class Liar(Node):
    """Keeps the rules but for one: what it sends of final blocks is not what they are."""

    lie = ""

    @override
    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        found: list[Effect] = []
        for effect in super().handle(event, now):
            if isinstance(effect, Persist):
                self.blocks: dict[int, bytes] = getattr(self, "blocks", {})
                self.blocks |= {r.height: r.payload for r in effect.records if r.kind == RECORD_BLOCK}
            found += self._bent(effect) if isinstance(effect, SendBlocks) else [effect]
        return found

    def _bent(self, effect: SendBlocks) -> list[Effect]:
        true = [self.blocks[height] for height in range(effect.first, effect.last + 1)]
        finals = [codec.decode(payload, FinalBlock, limit=1 << 20) for payload in true]
        match self.lie:
            case "silence":
                return []
            case "other blocks":
                false = [self.blocks[1]] * len(true)
            case "no certificates":
                false = [codec.encode(replace(final, certificate=(), cover=())) for final in finals]
            case "bent entries":
                blocks = [replace(final.block, leaves=(*final.block.leaves, b"more")) for final in finals]
                false = [codec.encode(replace(f, block=b)) for f, b in zip(finals, blocks, strict=True)]
            case "bent signatures":
                false = [
                    codec.encode(
                        replace(
                            final,
                            certificate=tuple(
                                replace(one, signatures=(bytes(64), *one.signatures[1:])) for one in final.certificate
                            ),
                        )
                    )
                    for final in finals
                ]
            case _:
                false = [b"\xc1 nothing of the kind"] * len(true)
        data = joined(false)
        leaves = leaf_hashes(data)
        digest = Digest(blob_digest(len(data), leaves))
        put = [Keep(digest, len(data), 0, data), Seal(digest, len(data), tuple(leaves))]
        return [*put, SendChunk(effect.to, effect.frame, digest, 0, len(data))]


class Slow(Node):
    """Answers what it is asked for in its own time."""

    @override
    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        self.late: list[tuple[float, Effect]] = getattr(self, "late", [])
        effects = list(super().handle(event, now))
        self.late += [(now + 2 * catchup.TIMEOUT_S, x) for x in effects if isinstance(x, SendBlocks)]
        due = [effect for at, effect in self.late if now >= at]
        self.late = [(at, effect) for at, effect in self.late if now < at]
        return [*due, *(effect for effect in effects if not isinstance(effect, SendBlocks))]


class Arrivals(Checker):
    """What came to the member that was away in answer to its questions, in bytes, by who sent it."""

    def __init__(self) -> None:
        self.bytes: dict[NodeId, int] = {}

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        if node == AWAY and isinstance(event, Received) and wire.kind(event.frame) is m.BlockRange:
            self.bytes[event.sender] = self.bytes.get(event.sender, 0) + len(event.payload or b"")


def make(swarm: Swarm, kind: type[Node], member: int, now: float, seed: int, mode: str) -> Node:
    return kind(
        signed=swarm.signed,
        identity=swarm.identities[member],
        rng=random.Random(f"{seed}/{member}"),
        now=now,
        code_digest=CODE,
        layout_digest=LAYOUT,
        snapshot_blocks=8,
        catch_up=mode,
    )


def away(
    seed: int = 1,
    *,
    lie: str = "",
    slow: bool = False,
    dying: bool = False,
    mode: str = FULL,
    problem: str = "",
    more: Sequence[Fault] = (),
) -> tuple[World, Arrivals]:
    """Return a world in which member 4 was away for the whole run, which is over, and comes back.

    An audit of its disk finds `problem`.
    """
    swarm = make_swarm(MEMBERS, rounds=ROUNDS, patience_ms=4_000)
    kinds: dict[int, type[Node]] = {}
    if lie:
        kinds[LIAR] = type("Liar", (Liar,), {"lie": lie})
    if slow:
        kinds[SLOW] = Slow
    faults: list[Fault] = [Crash(at_s=1.0, slot=AWAY, down_s=BACK_S - 1.0), *more]
    if dying:
        faults.append(Crash(at_s=BACK_S + 1.6, slot=DYING, down_s=1_000.0))
    arrivals = Arrivals()
    world = World(
        seed=seed,
        make=lambda member, incarnation: make(
            swarm, kinds.get(member, Node), member, EPOCH_S + world.now, seed * 100 + incarnation, mode
        ),
        topology=complete(MEMBERS),
        plan=FaultPlan(faults=tuple(faults)),
        learner=QuadraticTask(seed=seed, samples=(100,) * MEMBERS, bound=swarm.charter.clip_norm),
        ids=[who.node for who in swarm.identities],
        blobs=[swarm.initial],
        checkers=[Agreement(), HonestOnTheWire(), PersistBeforeSend(), arrivals],
        audit=lambda _: problem,
        ledger_id=swarm.signed.ledger_id,
    )
    assert world.run(lambda w: all(place.finished for place in w.places if place.member != AWAY), end_s=BACK_S)
    return world, arrivals


def head(world: World, member: int) -> Node:
    machine = world.place(member).machine
    assert isinstance(machine, Node)
    return machine


def caught_up(world: World) -> bool:
    machine = world.place(AWAY).machine
    if not isinstance(machine, Node) or machine.replica.head.height < 3 * ROUNDS // 2:
        return False
    return machine.replica.head.height >= head(world, 3).replica.head.height


@pytest.fixture(autouse=True)
def short_ranges(monkeypatch: pytest.MonkeyPatch) -> None:
    """A ledger of some dozens of blocks then takes some dozens of answers, and several windows."""
    monkeypatch.setattr(catchup, "RANGE_BLOCKS", 3)
    monkeypatch.setattr(catchup, "WINDOW_BLOCKS", 16)
    monkeypatch.setattr(pursuit, "FAST_CHECKED_BLOCKS", 4)


def ledger_bytes(world: World, member: int) -> int:
    journal = world.place(member).journal
    assert journal is not None
    return sum(map(len, journal.blocks(1, 10_000, 1 << 30)))


@pytest.mark.parametrize("mode", [FULL, FAST])
def test_several_members_send_the_ledger_and_hardly_a_byte_twice(mode: str) -> None:
    world, arrivals = away(mode=mode)
    assert world.run(caught_up, end_s=BACK_S + 60)
    assert head(world, AWAY).replica.head.digest() == head(world, 3).replica.head.digest()
    assert len(arrivals.bytes) >= 4, "the work was shared"
    assert sum(arrivals.bytes.values()) <= 1.05 * ledger_bytes(world, 3)


LIES = ["silence", "other blocks", "no certificates", "bent entries", "bent signatures", "garbage"]


@pytest.mark.parametrize("lie", LIES)
@pytest.mark.parametrize("mode", [FULL, FAST])
def test_a_liar_costs_itself_and_not_the_one_who_was_away(lie: str, mode: str) -> None:
    world, _ = away(lie=lie, mode=mode)
    assert world.run(caught_up, end_s=BACK_S + 60)
    joined_, other = head(world, AWAY), head(world, 3)
    assert joined_.replica.head.digest() == other.replica.head.digest()
    faults = {member: len(joined_.peers.members[world.ids[member]].faults) for member in range(MEMBERS - 1)}
    assert all(count == 0 for member, count in faults.items() if member != LIAR), "nobody else is charged"
    if lie == "silence":
        assert faults[LIAR] == 0


@pytest.mark.parametrize("seed", shortened(1, range(1, 5)))
def test_one_lies_one_is_slow_and_one_dies(seed: int) -> None:
    lie = LIES[seed % len(LIES)]
    world, _ = away(seed, lie=lie, slow=True, dying=True, mode=FAST if seed % 2 else FULL)
    assert world.run(caught_up, end_s=BACK_S + 120)
    assert head(world, AWAY).replica.head.digest() == head(world, 3).replica.head.digest()
    assert world.run(lambda w: w.place(AWAY).finished is not None, end_s=BACK_S + 300), "and it takes part again"


def reports(world: World, event: str) -> list[str]:
    return [report.text for _, report in world.place(AWAY).reports if report.event == event]


def test_what_was_believed_is_checked_once_there_is_time() -> None:
    world, _ = away(mode=FAST)
    assert world.run(lambda _: bool(reports(world, "audited")), end_s=BACK_S + 60)
    assert caught_up(world), "not before it has caught up"
    assert not world.place(AWAY).unaudited
    world.run(lambda _: False, end_s=world.now + 30)
    assert len(reports(world, "audited")) == 1, "once"


def test_nothing_is_believed_and_so_nothing_checked_again_in_full_mode() -> None:
    world, _ = away(mode=FULL)
    world.run(lambda _: False, end_s=BACK_S + 60)
    assert caught_up(world)
    assert reports(world, "audited") == []


def test_a_ledger_that_does_not_hold_sounds_the_alarm() -> None:
    world, _ = away(mode=FAST, problem="entry 17 is not signed by its author")
    assert world.run(lambda _: bool(reports(world, "fork")), end_s=BACK_S + 60)
    assert reports(world, "fork")[0].startswith("entry 17 is not signed by its author")
    assert head(world, AWAY).status(world.now)["halted"]
    assert world.place(AWAY).unaudited, "the next start says so again"


def test_a_check_that_a_crash_ended_is_made_by_the_next_process() -> None:
    again = Crash(at_s=BACK_S + 8.0, slot=AWAY, down_s=2.0)
    world, _ = away(mode=FAST, more=[again])
    believed = world.run(lambda w: w.place(AWAY).unaudited, end_s=BACK_S + 8.0)
    assert believed, "it has begun to believe before the crash"
    assert world.run(lambda _: bool(reports(world, "audited")), end_s=BACK_S + 60)
