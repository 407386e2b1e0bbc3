"""Salted rounds end with the bytes of plain ones, whoever is killed; and who leaves the salt out is left out by name."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
from typing_extensions import override

from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.machine import AddUp, Effect, Event, Mix, Stored, Trained
from swarm.routes import FOLD
from swarm.salt import SALT_BYTES
from swarm.terms import add, remove
from swarm.vector import Vector
from tests.builders import make_swarm
from tests.simulation.test_gossip import all_done, gossiping, merged
from tests.simulation.test_late import troubles
from tests.simulation.test_membership import card, changing, committed, finished, in_epoch, propose
from tests.simulation.test_routes import ELEMENTS, HARSH, CrashAt, blocks, head, said, task
from topologies.world.checkers import Checker
from topologies.world.faults import Crash
from topologies.world.world import World

SEEDS = (1, 2, 3)
END_S = 400.0
CONTRIBUTIONS = e.CONTRIBUTION, e.Contribution
MODES: dict[str, dict[str, Any]] = {
    "spread": {},
    "fold": {"route": "fold"},
    "int8": {"codec": "int8"},
    "sign": {"codec": "sign"},
    "folded int8": {"codec": "int8", "route": "fold"},
    "rule": {"rule": "trimmed:1", "min_contributions": 3},
    "fedadam": {"outer": "fedadam:0.1,0.5"},
}


def world_of(
    salt: str = "32",
    *,
    checkers: Sequence[Checker] = (),
    seed: int = 1,
    faults: Any = (),
    network: Any = None,
    **terms: Any,
) -> World:
    chosen = {"rounds": 2, "min_contributions": 5, "patience_ms": 3_000} | terms
    swarm = make_swarm(5, elements=ELEMENTS, clip_norm_milli=200_000, salt=salt, **chosen)
    return gossiping(swarm, task(5), checkers=checkers, seed=seed, faults=faults, network=network)


def ran(salt: str = "32", **more: Any) -> World:
    world = world_of(salt, **more)
    assert world.run(all_done, end_s=900.0), [head(world, member).status(world.now) for member in range(5)]
    world.end()
    return world


class CrashOnceTrained(Checker):
    """Ends a member's process when its update is in the store, and nothing that names it is durable or said."""

    def __init__(self, member: int) -> None:
        self._member = member
        self.lost = b""

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        update = isinstance(event, Stored) and event.size == 4 * ELEMENTS + SALT_BYTES
        if not self.lost and node == self._member and update:
            assert isinstance(event, Stored)
            self.lost = event.digest
            place = world.place(node)
            place.fuse, place.crash = 0, Crash(at_s=world.now, slot=node, down_s=1.0)


def names(world: World) -> dict[tuple[bytes, int, int], list[bytes]]:
    """Return by what names the updates on record go: by author, round and attempt."""
    found: dict[tuple[bytes, int, int], list[bytes]] = {}
    for payload in blocks(world):
        for leaf in codec.decode(payload, FinalBlock, limit=1 << 22).block.leaves:
            entry = e.decode_entry(leaf)
            if entry.kind == e.CONTRIBUTION:
                body = codec.decode(entry.body, e.Contribution, limit=1 << 20)
                found.setdefault((entry.author, body.round, body.attempt), []).append(body.update_digest)
    return found


@cache
def plain_model(route: str) -> Vector:
    """Return what all end with where nobody salts and nobody is killed."""
    return merged(ran("", route=route), 0)


@pytest.mark.parametrize("mode", MODES)
def test_the_mean_is_what_it_is_without_a_salt_bit_for_bit(mode: str) -> None:
    plain, salted = (ran(salt, **MODES[mode]) for salt in ("", "32"))
    assert np.abs(merged(plain, 0)).max() > 0.01
    assert all(np.array_equal(merged(salted, member), merged(plain, 0)) for member in range(5))
    sizes = [{body.update_bytes for body in said(world, *CONTRIBUTIONS)} for world in (plain, salted)]
    assert sizes[1] == {size + 32 for size in sizes[0]}


@pytest.mark.parametrize(("route", "seed"), [*(("", seed) for seed in SEEDS), ("fold", 1)])
def test_who_is_killed_between_its_update_and_the_entry_draws_another_salt_and_offers_once(
    route: str, seed: int
) -> None:
    crash = CrashOnceTrained(2)
    world = ran(route=route, seed=seed, checkers=[crash])
    assert crash.lost
    ledger = b"".join(blocks(world))
    assert crash.lost not in ledger
    offers = [body for body in said(world, *CONTRIBUTIONS) if body.round == 1]
    assert [body.attempt for body in offers] == [1] * 5, "what nobody heard of is no attempt"
    assert np.array_equal(merged(world, 0), plain_model(route))


@pytest.mark.parametrize(("route", "kind"), [("", Mix), ("fold", AddUp)])
def test_who_is_killed_while_it_averages_goes_on_with_the_names_that_are_on_record(
    route: str, kind: type[Effect]
) -> None:
    world = ran(route=route, checkers=[CrashAt(2, kind, down_s=1.0)])
    assert np.array_equal(merged(world, 4), plain_model(route))


@pytest.mark.parametrize("seed", SEEDS)
def test_salted_rounds_that_wait_for_nobody_end_alike_in_a_faulty_world(seed: int) -> None:
    world = ran(
        rounds=6,
        asynchronous="buffered",
        staleness=16,
        min_contributions=2,
        seed=seed,
        faults=troubles(seed),
        network=HARSH,
    )
    assert all(np.array_equal(merged(world, member), merged(world, 0)) for member in range(5))
    found = names(world)
    assert len(found) > 10
    assert all(len(one) == 1 for one in found.values()), "no attempt has two names"
    assert len({one[0] for one in found.values()}) == len(found), "and no two have one"


@pytest.mark.parametrize(("mode", "seed"), [("spread", 1), ("fold", 2), ("folded int8", 3), ("rule", 4)])
def test_salted_rounds_end_alike_in_a_faulty_world(mode: str, seed: int) -> None:
    terms = {"rounds": 3, "min_contributions": 3} | MODES[mode]
    world = ran(seed=seed, faults=troubles(seed), network=HARSH, **terms)
    assert all(np.array_equal(merged(world, member), merged(world, 0)) for member in range(5))
    assert all(len(one) == 1 for one in names(world).values()), "no attempt has two names"


def test_who_joins_salts_too_and_who_leaves_takes_no_salt_along_that_others_need() -> None:
    world = changing(4, newcomers=1, rounds=6, salt="32", min_contributions=2)
    assert world.run(lambda w: committed(w, 0, 1), end_s=END_S)
    propose(world, 0, add(card(4)))
    assert world.run(in_epoch(1, 0, 1, 2, 3, 4), end_s=END_S)
    propose(world, 0, remove(world.ids[1]))
    assert world.run(in_epoch(2, 0, 2, 3, 4), end_s=END_S)
    assert world.run(finished(0, 2, 3, 4), end_s=END_S)
    assert all(np.array_equal(merged(world, member), merged(world, 0)) for member in (2, 3, 4))
    assert {author for author, _, _ in names(world)} == {*map(bytes, world.ids)}
    assert {body.update_bytes for body in said(world, *CONTRIBUTIONS)} == {4 * 32 + 32}


@cache
def without_one() -> World:
    """Return a world in which site 3 puts no salt behind its updates, and all rounds close without it."""
    world = world_of(route=FOLD, min_contributions=3)
    world.place(3).blobs._draw = lambda _: b""
    assert world.run(all_done, end_s=900.0)
    return world


def test_an_update_without_a_salt_is_left_out_by_name() -> None:
    world = without_one()
    closes = said(world, e.ROUND_CLOSE, e.RoundClose)
    assert [[index for index, _ in close.included] for close in closes]
    sizes = {body.update_bytes for body in said(world, *CONTRIBUTIONS)}
    assert sizes == {4 * ELEMENTS, 4 * ELEMENTS + 32}
    for close in closes:
        assert len(close.included) == 4
        assert [reason for _, reason in close.rejected] == [e.UNUSABLE]


def test_an_update_is_in_the_store_before_the_event_that_names_it() -> None:
    seen: list[bytes] = []

    class Order(Checker):
        @override
        def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
            if isinstance(event, Stored):
                seen.append(event.digest)
            if isinstance(event, Trained) and event.update:
                assert event.update in seen

    ran(rounds=2, checkers=[Order()])
    assert seen
