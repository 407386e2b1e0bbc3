"""Members come, go, come back and take new keys while the others learn on; every ledger tells the same story of it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import msgspec
import pytest

from node import governance
from swarm import codec
from swarm import terms as t
from swarm.charter import make_card
from swarm.identity import Identity
from swarm.ledger.audit import Audit, audit
from swarm.ledger.state import State
from swarm.machine import RECORD_BLOCK, NodeId
from tests.builders import Swarm, identity, make_swarm
from tests.cases import shortened
from topologies.families import complete
from topologies.world.checkers import Checker, PersistBeforeSend
from topologies.world.clock import EPOCH_S
from topologies.world.faults import Crash, FaultOptions, FaultPlan, Partition, generate
from topologies.world.learner import QuadraticTask
from topologies.world.network import NetworkProfile
from topologies.world.truths import Agreement, HonestOnTheWire
from topologies.world.world import World

END_S = 300.0


def changing(
    founders: int,
    *,
    newcomers: int = 0,
    seed: int = 1,
    rounds: int = 8,
    approve: str = governance.ALL,
    plan: FaultPlan | None = None,
    network: NetworkProfile | None = None,
    successors: dict[int, Identity] | None = None,
    min_contributions: int = 1,
    edges: tuple[tuple[int, int], ...] = (),
    checkers: Sequence[Checker] = (),
    schedule: str = "",
    links: str = "",
    route: str = "",
    codec_: str = "",
    outer: str = "none",
    stop: str = "",
    correction: str = "",
    masks: str = "",
    salt: str = "",
    learner: QuadraticTask | None = None,
) -> World:
    """Return a world in which some sites are not members yet: they know the charter and follow the ledger."""
    swarm = make_swarm(
        founders,
        rounds=rounds,
        min_contributions=min_contributions,
        edges=edges,
        schedule=schedule,
        links=links,
        route=route,
        codec=codec_,
        outer=outer,
        stop=stop,
        correction=correction,
        masks=masks,
        salt=salt,
    )
    everybody = founders + newcomers
    later = successors or {}

    def make(member: int, incarnation: int) -> object:
        return swarm.node(
            member,
            now=EPOCH_S + world.now,
            seed=seed * 1000 + incarnation,
            approve=approve,
            successor=later.get(member),
        )

    world = World(
        seed=seed,
        make=make,  # type: ignore[arg-type]
        topology=complete(everybody),
        plan=plan,
        network=network,
        learner=learner
        or QuadraticTask(seed=seed, samples=tuple(100 * (i + 1) for i in range(everybody)), bound=100.0),
        ids=[identity(i).node for i in range(everybody)],
        blobs=[swarm.initial],
        cuts=swarm.charter.cuts,
        codec=swarm.charter.codec,
        follows=swarm.charter.follows,
        outer=swarm.charter.outer,
        masks=swarm.charter.masks > 0,
        salt=swarm.charter.salt,
        checkers=[Agreement(), HonestOnTheWire(), PersistBeforeSend(), *checkers],
        ledger_id=swarm.signed.ledger_id,
    )
    return world


def head(world: World, member: int) -> State:
    machine = world.place(member).machine
    assert machine is not None
    return machine.replica.head  # type: ignore[attr-defined, no-any-return]


def card(number: int, who: Identity | None = None, name: str = "") -> t.Card:
    return make_card(
        who or identity(number), name=name or f"site-{number}", endpoint=f"tcp://127.0.0.1:{17000 + number}"
    )


def propose(world: World, member: int, change: t.Change) -> None:
    world.ask(member, f"propose {codec.encode(change).hex()} - 30")


def committed(world: World, member: int, rounds: int) -> bool:
    return world.place(member).machine is not None and head(world, member).committed.round >= rounds


def in_epoch(epoch: int, *members: int) -> Callable[[World], bool]:
    return lambda world: all(world.place(m).machine and head(world, m).terms.epoch >= epoch for m in members)


def outcome_of(world: World, member: int) -> str:
    """Why the run has ended for a member, as its node says it; nothing while it goes on."""
    ended = getattr(world.place(member).machine, "ended", None)
    return "" if ended is None else str(ended.reason)


def finished(*members: int) -> Callable[[World], bool]:
    return lambda world: all(world.place(m).finished is not None for m in members)


class Blocks(Checker):
    """The ledger of every process, as it became durable."""

    def __init__(self) -> None:
        self.of: dict[int, list[bytes]] = {}

    def on_persist(self, world: World, node: int, twin: int, records: object) -> None:
        assert isinstance(records, tuple)
        self.of.setdefault(node, []).extend(r.payload for r in records if r.kind == RECORD_BLOCK)


def audited(blocks: Blocks, member: int, swarm: Swarm) -> Audit:
    *_, last = audit(blocks.of[member], swarm.signed)
    assert last.failure is None, last.failure
    return last


def names(state: State) -> list[str]:
    return [seat.name for seat in state.terms.members]


def test_a_site_joins_while_the_others_learn_and_its_data_counts_from_then_on() -> None:
    blocks = Blocks()
    world = changing(4, newcomers=1, checkers=[blocks])
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    last = audited(blocks, 4, make_swarm(4, rounds=8))
    assert names(last.state) == [f"site-{i}" for i in range(5)]
    assert last.state.terms.quorum == 4
    took_part = [r for r, view in last.rounds.items() if NodeId(identity(4).node) in view.contributions]
    assert took_part[-1] == 8
    assert took_part[0] > 2
    assert {head(world, m).digest() for m in range(5)} == {last.state.digest()}
    assert [view.change for view in last.epochs] == [None, t.add(card(4))]


def test_nothing_changes_without_a_quorum_and_a_no_is_on_record() -> None:
    world = changing(4, newcomers=1, rounds=6, approve=governance.ASK)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(lambda w: bool(head(w, 1).motions and head(w, 2).motions), end_s=END_S)
    motion = head(world, 1).motions[0]
    world.ask(1, f"vote {motion.id.hex()[:8]} yes")
    world.ask(2, f"vote {motion.id.hex()[:8]} no")
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    motion = head(world, 0).motions[0]
    assert motion.votes == {identity(0).node: True, identity(1).node: True, identity(2).node: False}
    assert names(head(world, 0)) == [f"site-{i}" for i in range(4)]


def test_a_change_of_mind_counts_and_the_vote_that_makes_the_quorum_changes_the_terms() -> None:
    world = changing(4, newcomers=1, rounds=12, approve=governance.ASK)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(lambda w: bool(head(w, 1).motions and head(w, 2).motions), end_s=END_S)
    name = head(world, 1).motions[0].id.hex()
    world.ask(1, f"vote {name} no")
    world.ask(2, f"vote {name} yes")
    assert world.run(lambda w: len(head(w, 0).motions[0].votes) == 3, end_s=END_S)
    world.ask(1, f"vote {name} yes")
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)


def test_a_member_that_leaves_is_let_go_and_told_so() -> None:
    blocks = Blocks()
    world = changing(5, approve=governance.ASK, checkers=[blocks])
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 4, t.remove(identity(4).node))
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    gone = world.place(4).finished
    assert gone is not None
    assert gone.outcome == "LEFT"
    last = audited(blocks, 0, make_swarm(5, rounds=8))
    assert names(last.state) == [f"site-{i}" for i in range(4)]
    assert identity(4).node not in last.rounds[8].contributions


def test_a_dead_member_is_voted_out_and_the_quorum_shrinks_with_it() -> None:
    world = changing(5, plan=FaultPlan(faults=(Crash(at_s=3.0, slot=4, down_s=1e9),)), rounds=6)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.remove(identity(4).node))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    assert head(world, 0).terms.quorum == 3
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)


def test_a_member_takes_new_keys_and_stays_who_it_was() -> None:
    fresh = identity(77)
    blocks = Blocks()
    world = changing(4, successors={2: fresh}, checkers=[blocks])
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 2, t.rotate(identity(2).node, card(2, fresh)))
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    last = audited(blocks, 1, make_swarm(4, rounds=8))
    assert last.state.terms.members[2].id_key == fresh.id_key.public
    assert identity(2).node in last.rounds[8].contributions
    assert not last.state.accused


def test_a_new_transport_key_needs_nobodys_attention() -> None:
    moved = Identity.from_seed(b"\1" * 32, b"\2" * 32)
    same = dataclasses.replace(identity(2), curve_public=moved.curve_public, curve_secret=moved.curve_secret)
    world = changing(4, approve=governance.ASK)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 2, t.rotate(identity(2).node, card(2, same)))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    assert head(world, 0).terms.members[2].curve_key == moved.curve_public
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)


def test_only_a_member_itself_can_take_new_keys() -> None:
    world = changing(4)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.rotate(identity(2).node, card(2, identity(77))))
    assert world.run(lambda w: bool(w.place(0).answers), end_s=END_S)
    assert "only its own" in str(world.place(0).answers[0].reply["error"])


def test_a_site_that_left_comes_back_as_the_same_member() -> None:
    blocks = Blocks()
    world = changing(5, rounds=14, checkers=[blocks])
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 4, t.remove(identity(4).node))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    later = head(world, 0).round + 1
    assert world.run(lambda w: committed(w, 0, later), end_s=END_S)
    propose(world, 0, t.add(card(4)))
    assert world.run(in_epoch(2, 0, 1, 2, 3, 4), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert world.run(lambda w: head(w, 4).complete, end_s=END_S)
    last = audited(blocks, 4, make_swarm(5, rounds=14))
    assert identity(4).node in last.rounds[14].contributions
    assert not last.state.accused, "what it signed before it left is said again, not contradicted"


def test_the_members_agree_on_more_rounds() -> None:
    world = changing(4, rounds=4)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    policy = head(world, 0).terms.round
    propose(world, 1, t.repolicy(msgspec.structs.replace(policy, rounds=6)))
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert {head(world, m).committed.round for m in range(4)} == {6}


def test_a_run_that_was_done_ends_once_more_after_the_rounds_that_its_members_add() -> None:
    world = changing(3, rounds=2)
    assert world.run(lambda w: all(outcome_of(w, m) == "all 2 rounds are committed" for m in range(3)), end_s=END_S)
    policy = head(world, 0).terms.round
    propose(world, 0, t.repolicy(msgspec.structs.replace(policy, rounds=4)))
    assert world.run(lambda w: all(committed(w, m, 3) for m in range(3)), end_s=END_S)
    assert world.run(lambda w: all(outcome_of(w, m) == "all 4 rounds are committed" for m in range(3)), end_s=END_S)


@pytest.mark.parametrize("seed", shortened(2, range(1, 7)))
def test_joining_and_leaving_through_loss_partitions_and_crashes_leave_all_ledgers_equal(seed: int) -> None:
    options = FaultOptions(heal_s=40.0, partition_every_s=8.0, crash_every_s=8.0)
    plan = generate(seed, members=6, options=options)
    blocks = Blocks()
    world = changing(
        5,
        newcomers=1,
        seed=seed,
        rounds=10,
        plan=plan,
        network=NetworkProfile(loss=0.05, duplication=0.05),
        checkers=[blocks],
    )
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, t.add(card(5)))
    assert world.run(lambda w: committed(w, 1, 3), end_s=END_S)
    propose(world, 1, t.remove(identity(2).node))
    stay = (0, 1, 3, 4)
    assert world.run(finished(*stay), end_s=600.0)
    # Who is done may be a block behind the one that was done last.
    assert world.run(lambda w: len({head(w, m).digest() for m in stay}) == 1, end_s=600.0)
    world.end()
    assert not any(head(world, m).accused for m in stay)


def test_a_partition_cannot_split_a_swarm_that_is_changing() -> None:
    """Two sites of five are cut off while the third of them leaves: the terms never change on both sides."""
    plan = FaultPlan(faults=(Partition(at_s=2.0, duration_s=28.0, groups=((0, 1, 2), (3, 4))),))
    world = changing(5, rounds=6, plan=plan)
    assert world.run(lambda w: w.now > 3.0, end_s=END_S)
    propose(world, 0, t.remove(identity(4).node))
    assert world.run(lambda w: w.now > 28.0, end_s=END_S)
    assert head(world, 0).terms.epoch == 0, "three of five are no quorum"
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    assert head(world, 0).terms.epoch == 1


def test_every_member_that_leaves_hears_that_it_has_left() -> None:
    """Others may finish the block that lets it go first: the link stays for a farewell."""
    for seed in range(2, 8):
        world = changing(5, rounds=6, seed=seed, network=NetworkProfile(loss=0.05))
        assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
        propose(world, 4, t.remove(identity(4).node))
        assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
        left = world.place(4).finished
        assert left is not None
        assert left.outcome == "LEFT"


def test_a_site_that_has_left_and_is_started_again_ends_when_nobody_talks_to_it() -> None:
    world = changing(5, rounds=6, approve=governance.ASK)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 4, t.remove(identity(4).node))
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    world.run(lambda w: w.now > 200.0, end_s=END_S)
    world.place(4).finished = None
    world.strike(Crash(at_s=world.now, slot=4, down_s=1.0))
    assert world.run(finished(4), end_s=world.now + 120.0)
    left = world.place(4).finished
    assert left is not None
    assert "nobody talks to it" in left.reason
