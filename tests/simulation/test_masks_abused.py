"""Masked rounds with members that lie, and members that come and go, with the real node in the simulated world."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from typing_extensions import override

from swarm import codec, terms
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.machine import Event, Masked, MaskUpdate
from swarm.masked_round import MaskedRound
from swarm.masking.statements import Deal, Reveal
from tests.builders import identity, make_swarm
from tests.simulation.test_gossip import head
from tests.simulation.test_masks import ELEMENTS, calm, events, models, ran, rosters, told
from tests.simulation.test_membership import card, changing, committed, finished, in_epoch, propose
from tests.simulation.test_routes import blocks, closes, said
from topologies.world.checkers import Checker
from topologies.world.faults import Crash, FaultPlan
from topologies.world.world import World

# --- somebody lies ----------------------------------------------------------------------------------------------------


class Bent(Checker):
    """Has a member do something else than its machine would, from its start."""

    def __init__(self, member: int, bend: Callable[[World, MaskedRound], None]) -> None:
        self._member, self._bend = member, bend

    @override
    def on_start(self, world: World, node: int, twin: int, records: object) -> None:
        if node == self._member:
            found = head(world, node).round
            assert isinstance(found, MaskedRound)
            self._bend(world, found)


def dealing(change: Callable[[Deal], bytes]) -> Callable[[World, MaskedRound], None]:
    def bend(world: World, found: MaskedRound) -> None:
        enrol = found._enrol

        def bent(roster: Any) -> Any:
            fresh = not found._own_deal
            yield from enrol(roster)
            if fresh and found._own_deal:
                found._own_deal = change(codec.decode(found._own_deal, Deal, limit=1 << 20))

        found._enrol = bent  # type: ignore[method-assign]

    return bend


def test_a_deal_that_is_none_costs_an_attempt_and_its_dealer_the_round() -> None:
    world = ran(checkers=[Bent(2, dealing(lambda _: b"no deal"))])
    assert rosters(world) == [(1, 1, 5), (1, 1, 0), (1, 2, 4), (2, 1, 5), (2, 1, 0), (2, 2, 4)]
    ending = said(world, e.MASK_ROSTER, e.MaskRoster)[1]
    assert [reason for _, reason in ending.rejected] == [e.UNUSABLE]
    assert "deal_unusable" in events(world)


def test_a_secret_dealt_falsely_costs_the_round_and_names_the_dealer() -> None:
    lie = dealing(lambda found: codec.encode(msgspec.structs.replace(found, self_commitment=bytes(32))))
    world = ran(checkers=[Bent(2, lie)])
    assert closes(world) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    stuck = [line for line in told(world, 0) if "unmask_stuck" in line]
    assert stuck
    assert all(identity(2).node.hex()[:8] in line for line in stuck)


def test_a_false_share_is_thrown_away() -> None:
    def bend(world: World, found: MaskedRound) -> None:
        reveal = found._reveal

        def bent(*asked: Any) -> Any:
            for action in reveal(*asked):
                body = getattr(action, "body", None)
                if isinstance(body, Reveal):
                    shares = tuple((place, bytes(len(share))) for place, share in body.shares)
                    action = type(action)(action.kind, msgspec.structs.replace(body, shares=shares))
                yield action

        found._reveal = bent  # type: ignore[method-assign]

    world = ran(checkers=[Bent(2, bend)])
    assert models(world) == calm()
    assert "reveal_false" in events(world)


def test_noise_in_place_of_a_masked_update_makes_a_round_void_or_is_within_the_bound() -> None:
    def bend(world: World, found: MaskedRound) -> None:
        store = world.place(2).blobs
        mask = store.mask

        def bent(effect: MaskUpdate) -> Callable[[], Sequence[Event]]:
            honest = mask(effect)

            def work() -> Sequence[Event]:
                (one,) = honest()
                assert isinstance(one, Masked)
                noise = np.random.default_rng(effect.round).bytes(one.size)
                digest = store.put(noise).digest
                store._complete.pop(digest)
                store._masked = {digest: noise}
                return (Masked(one.round, one.attempt, one.update, digest, one.size),)

            return work

        store.mask = bent  # type: ignore[method-assign]

    world = ran(checkers=[Bent(2, bend)])
    assert closes(world) == [(1, 1), (1, 2), (2, 1), (2, 2)]
    assert {*models(world)} == {make_swarm(5, elements=ELEMENTS).charter.task.initial_model}


# --- members come and go ------------------------------------------------------------------------------------------------

END_S = 400.0


def test_a_newcomer_masks_too() -> None:
    world = changing(4, newcomers=1, rounds=5, masks="pairwise", min_contributions=3)
    assert world.run(lambda w: committed(w, 0, 2), end_s=END_S)
    propose(world, 0, terms.add(card(4)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3, 4), end_s=END_S)
    assert len(said(world, e.ROUND_CLOSE, e.RoundClose)[-1].included) == 5


@functools.cache
def left(after: int) -> World:
    plan = FaultPlan(faults=(Crash(at_s=4.0, slot=1, after_effects=after, down_s=5.0),))
    world = changing(5, rounds=6, masks="pairwise", min_contributions=3, plan=plan)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 4, terms.remove(identity(4).node))
    assert world.run(in_epoch(1, 0, 1, 2, 3), end_s=END_S)
    assert world.run(finished(0, 1, 2, 3), end_s=END_S)
    return world


def changing_ledger() -> tuple[SignedCharter, list[bytes]]:
    world = left(4)
    return head(world, 0).replica.head.signed, blocks(world)


def test_a_member_leaves_and_another_crashes_in_the_middle_of_a_round() -> None:
    world = left(4)
    assert len(said(world, e.ROUND_CLOSE, e.RoundClose)[-1].included) == 4
