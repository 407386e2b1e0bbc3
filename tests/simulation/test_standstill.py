"""Swarms that stood still: safe, everybody there, and each waiting for a vote that another had no reason to give."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import pytest
from typing_extensions import override

from node.core import Node
from swarm.ledger import entry as e
from swarm.machine import Effect, Event, SendChunk
from tests.builders import make_swarm
from tests.simulation.membership_campaign import HEAL_S, run
from tests.simulation.stories import done, tell
from tests.simulation.test_backups import a_world, all_done
from topologies.families import complete
from topologies.world.checkers import Checker
from topologies.world.faults import FaultOptions, Partition, generate
from topologies.world.network import NetworkProfile
from topologies.world.world import World

END_S = 200.0


class Asking(Checker):
    """Whoever has heard of an update that is next in its author's feed has what it needs of it, or is getting it."""

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        machine = world.place(node, twin).machine
        if not isinstance(machine, Node):
            return  # A crash fell between the effects of this event.
        for author, body in machine.replica.bodies(e.Contribution):
            assert isinstance(body, e.Contribution)
            for digest, _ in machine.round.pieces(author, body, machine.replica.head):
                if author != world.ids[node] and machine.transfer.size(digest) is None:
                    world.fail(f"member {node} has heard of the update of {author.hex()[:4]} and does not ask for it")


@pytest.mark.parametrize("seed", [7, 9, 12])
def test_who_has_heard_of_an_update_asks_for_it_whatever_it_missed_before(seed: int) -> None:
    """An entry may come before those it follows on, and a block be final in between, or close the gap itself."""
    options = FaultOptions(heal_s=30.0, crash_every_s=3.0, crash_s=2.0)
    world = tell(
        4,
        seed=seed,
        rounds=5,
        plan=generate(seed, members=4, options=options),
        network=NetworkProfile(loss=0.1, duplication=0.05),
        checkers=[Asking()],
    )
    assert world.run(done, end_s=END_S)


def test_two_members_that_are_left_close_a_round_of_which_one_heard_out_of_order() -> None:
    """Member 1 came back behind, heard of an update, lost sight of it, and so voted for no block that closed on it."""
    assert run(9044, founders=3, newcomers=2, rounds=3).virtual_s < 2 * HEAL_S


class Withholding(Node):
    """A member whose disk gives nothing back: it offers updates, and no other ever gets one."""

    @override
    def handle(self, event: Event, now: float) -> Sequence[Effect]:
        return [effect for effect in super().handle(event, now) if not isinstance(effect, SendChunk)]


def test_a_close_that_two_members_never_agree_on_waits_for_the_deadline_and_not_for_ever() -> None:
    """An outage lets the patience of both run out before the commit, so both would close in the block that holds it."""
    swarm = make_swarm(2, rounds=3, deadline_ms=60_000)
    world = a_world(swarm, complete(2), liars={1: Withholding})

    def everybody(holds: Callable[[Node], bool]) -> Callable[[World], bool]:
        return lambda world: all(isinstance(p.machine, Node) and holds(p.machine) for p in world.places)

    def offered(node: Node) -> bool:
        """Whether both updates of round 2 are known of, perhaps even ordered."""
        waiting = [body.round for _, body in node.replica.bodies(e.Contribution) if isinstance(body, e.Contribution)]
        ordered = [round_ for round_, _ in node.replica.head.contributions]
        return [*waiting, *ordered].count(2) == 2

    def outage() -> None:
        world.strike(Partition(at_s=world.now, groups=((1,),), duration_s=12.0))

    assert world.run(everybody(lambda node: node.replica.head.close is not None), end_s=END_S)
    outage()
    assert world.run(everybody(offered), end_s=END_S)
    outage()
    assert world.run(all_done(0, 1), end_s=400.0)
