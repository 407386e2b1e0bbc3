"""Rounds whose sum carries noise, with the real node in the simulated world: how much there is, and when it ends.

Seeds are fixed, so each test passes always or never. Bounds on variances are six deviations of a variance that is estimated
from 4,000 elements: had the seed been unlucky, that would be one false alarm in 500 million.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from typing_extensions import override

from swarm.charter import SignedCharter
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.masking import noise_share
from swarm.ledger.state import outcome
from swarm.machine import (
    Adopt,
    Deposit,
    Digest,
    Effect,
    Event,
    MaskUpdate,
    Train,
    Unmask,
)
from swarm.masking.noise import Share
from tests.builders import Swarm, make_swarm
from tests.simulation.test_gossip import all_done, gossiping, head
from tests.simulation.test_masks import SAMPLES, CrashBefore, Heard, closes, rosters
from tests.simulation.test_routes import CrashAt, blocks, said
from topologies.world.checkers import Checker
from topologies.world.learner import QuadraticTask
from topologies.world.world import World

ELEMENTS = 4_000
NOISE = "0.5:500:1e-5"
SIX_DEVIATIONS = 6 * math.sqrt(2 / ELEMENTS)

Wide = NDArray[np.float64]


def swarm_of(n: int, noise: str, rounds: int, masks: str = "pairwise", **more: Any) -> Swarm:
    usual: dict[str, Any] = {"min_contributions": 3, "clip_norm_milli": 200_000, "patience_ms": 3_000}
    return make_swarm(n, rounds=rounds, elements=ELEMENTS, masks=masks, site_noise=noise, **usual | more)


def ran(
    noise: str = NOISE, n: int = 5, *, rounds: int = 1, checkers: Sequence[Checker] = (), seed: int = 1, **more: Any
) -> World:
    """Return a world in which everybody has come to the end, with the same model."""
    swarm = swarm_of(n, noise, rounds, **more)
    learner = QuadraticTask(seed=5, samples=SAMPLES[:n], elements=ELEMENTS, bound=200.0, steps=2, rate=0.2)
    world = gossiping(swarm, learner, seed=seed, checkers=[Heard(), *checkers])
    assert world.run(all_done, end_s=600.0)
    world.end()
    assert len({head(world, member).replica.head.committed.model for member in range(n)}) == 1
    assert not any(place.guarded for place in world.places), "roots, from which noise follows, are gone with the run"
    return world


def model(world: World, number: int = 1) -> Wide:
    digest = said(world, e.ROUND_COMMIT, e.RoundCommit)[number - 1].model_digest
    found = world.place(0).blobs.vector(Digest(digest))
    assert found is not None
    return found.astype(np.float64)


class Shares(Checker):
    """What each site was to add, by round and attempt; and which rounds anybody trained for."""

    def __init__(self) -> None:
        self.seen: dict[tuple[int, int], set[Share]] = {}
        self.seeds: dict[tuple[int, int, int], set[bytes]] = {}
        self.trained: set[int] = set()

    @override
    def on_event(self, world: World, node: int, twin: int, event: Event, effects: Sequence[Effect]) -> None:
        for effect in effects:
            if isinstance(effect, Train):
                self.trained.add(effect.round)
            if isinstance(effect, MaskUpdate):
                share = head(world, node).replica.head.share
                assert share is not None
                assert effect.noise is not None
                assert effect.noise[1:] == (share.deviation, share.norm_max)
                self.seen.setdefault((effect.round, effect.attempt), set()).add(share)
                self.seeds.setdefault((node, effect.round, effect.attempt), set()).add(effect.noise[0])


class Silent(Checker):
    """Members that add no noise, and keep to everything else."""

    def __init__(self, *members: int) -> None:
        self._members = members

    @override
    def on_start(self, world: World, node: int, twin: int, records: object) -> None:
        if node not in self._members:
            return
        store = world.place(node).blobs
        mask = store.mask

        def bare(effect: MaskUpdate) -> Callable[[], Sequence[Event]]:
            return mask(dataclasses.replace(effect, noise=None))

        store.mask = bare  # type: ignore[method-assign]


@functools.cache
def exact() -> World:
    return ran("")


@functools.cache
def noised() -> tuple[World, Shares]:
    shares = Shares()
    return ran(checkers=[shares]), shares


def measured(world: World, shares: Shares, plain: World) -> tuple[Wide, Share, int]:
    """Return the noise on the sum of round 1 in deviations of one share, the share, and of how many the sum is.

    Rounding to steps, up to half of one a site and weight, is far below the noise and stays in.
    """
    (share,) = shares.seen[1, 1]
    close = said(world, e.ROUND_CLOSE, e.RoundClose)[0]
    weight = sum(weight for _, weight in close.included)
    apart = (model(world) - model(plain)) * weight / share.added
    return apart, share, len(close.included)


# --- how much noise there is --------------------------------------------------------------------------------------------


def test_the_sum_less_the_plain_sum_has_the_variance_of_everybodys_shares() -> None:
    apart, share, sites = measured(*noised(), exact())
    assert (sites, share.counted_on, share.members) == (5, 3, 5)
    assert abs(apart.mean()) < 6 * math.sqrt(sites / ELEMENTS)
    assert abs(apart.var() / sites - 1) < SIX_DEVIATIONS
    assert abs((apart**4).mean() / apart.var() ** 2 - 3) < 6 * math.sqrt(24 / ELEMENTS)


def test_what_those_have_that_can_be_counted_on_is_what_the_charter_says() -> None:
    """z times the most that one site can change the sum: norm 200, and the largest of the weights."""
    _, share, _ = measured(*noised(), exact())
    heaviest = max(weight for _, weight in said(noised()[0], e.MASK_ROSTER, e.MaskRoster)[0].included)
    assert math.isclose(share.added * math.sqrt(share.counted_on), 0.5 * 200 * heaviest, rel_tol=1e-3)
    assert share.added * math.sqrt(share.counted_on) > 0.5 * 200 * heaviest


def test_a_site_that_adds_none_is_missing_from_the_variance_and_the_rest_is_enough() -> None:
    shares = Shares()
    world = ran(checkers=[Silent(3), shares])
    apart, share, sites = measured(world, shares, exact())
    assert sites == 5
    assert abs(apart.var() / 4 - 1) < SIX_DEVIATIONS
    assert apart.var() > share.counted_on


def test_who_drops_out_takes_its_noise_along_and_with_one_silent_the_rest_is_just_enough() -> None:
    """Of five, one drops out once it has dealt, and another one adds nothing: three shares are on the sum."""
    shares = Shares()
    world = ran(checkers=[CrashAt(2, MaskUpdate, down_s=30.0), Silent(3), shares])
    plain = ran("", checkers=[CrashAt(2, MaskUpdate, down_s=30.0)])
    apart, share, sites = measured(world, shares, plain)
    assert (sites, share.counted_on) == (4, 3)
    assert abs(apart.var() / 3 - 1) < SIX_DEVIATIONS


def test_a_round_that_waits_for_more_needs_less_from_each() -> None:
    shares = Shares()
    ran(checkers=[shares], min_contributions=5)
    (all_five,), (usual,) = shares.seen[1, 1], noised()[1].seen[1, 1]
    assert (all_five.counted_on, usual.counted_on) == (4, 3)
    assert all_five.added < usual.added * 0.87


def test_no_site_tells_its_training_loss_beside_the_noise() -> None:
    told, untold = (said(world, e.CONTRIBUTION, e.Contribution) for world in (exact(), noised()[0]))
    assert all(body.metrics for body in told)
    assert len(untold) == 5
    assert not any(body.metrics for body in untold)


# --- restarts, and attempts that come to nothing --------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Deposit, MaskUpdate, Adopt, Unmask])
def test_who_starts_again_makes_the_same_noise_so_that_no_two_forms_of_an_update_can_be_compared(
    kind: type[Effect],
) -> None:
    shares = Shares()
    world = ran(checkers=[CrashAt(2, kind, down_s=1.0), shares])
    assert np.array_equal(model(world), model(noised()[0]))
    assert all(len(seeds) == 1 for seeds in shares.seeds.values())


@pytest.mark.parametrize("kind", [e.MASK_DEAL, e.CONTRIBUTION, e.MASK_REVEAL])
def test_a_word_that_is_said_again_after_a_crash_is_for_the_same_noise(kind: int) -> None:
    shares = Shares()
    world = ran(checkers=[CrashBefore([1, 3], kind, down_s=1.0), shares])
    assert np.array_equal(model(world), model(noised()[0]))
    assert all(len(seeds) == 1 for seeds in shares.seeds.values())


def test_every_attempt_has_noise_of_its_own_and_only_the_one_that_was_summed_is_paid_for() -> None:
    shares = Shares()
    world = ran(checkers=[CrashAt(2, Deposit, down_s=12.0), shares])
    assert [attempt for _, attempt, count in rosters(world) if count] == [1, 2]
    assert closes(world) == [(1, 1)]
    found = [seed for seeds in shares.seeds.values() for seed in seeds]
    assert len({*found}) == len(found)
    assert head(world, 0).replica.head.sums == 1


# --- the budget -----------------------------------------------------------------------------------------------------------


def test_the_run_ends_before_a_round_would_cross_the_budget_and_nobody_trains_for_it() -> None:
    shares = Shares()
    world = ran("2.5:3:1e-5", rounds=9, checkers=[shares])
    state = head(world, 0).replica.head
    assert state.signed.charter.site_noise is not None
    assert (state.committed.round, state.signed.charter.site_noise.sums) == (2, 2)
    assert (state.complete, state.stopped, state.sums) == (True, True, 2)
    assert shares.trained == {1, 2}
    assert outcome(state) == (
        "stopped after round 2: another one would cost more than epsilon 3 at delta 1e-05, for any one site"
    )


def test_a_sum_that_may_be_known_is_paid_for_though_its_round_is_void() -> None:
    class Loses(CrashBefore):
        @override
        def on_crash(self, world: World, node: int, twin: int) -> None:
            world.place(node).guarded = b""

    world = ran("2.5:3:1e-5", rounds=9, checkers=[Loses([1, 3], e.MASK_REVEAL, down_s=1.0)])
    assert closes(world) == [(1, 1), (1, 2), (2, 1)], "the void round is one of the two that are paid for"
    assert head(world, 0).replica.head.sums == 2


def ledger() -> tuple[SignedCharter, list[bytes]]:
    """Return the charter and the blocks of a run with a dropout that its budget ends."""
    world = ran("2.5:3:1e-5", rounds=9, checkers=[CrashAt(2, MaskUpdate, down_s=30.0)])
    return head(world, 0).replica.head.signed, blocks(world)


# --- votes ------------------------------------------------------------------------------------------------------------------


def test_no_vote_takes_back_what_noise_was_shared_for_nor_pays_for_more_rounds() -> None:
    """Shares were made for sums of four of five; by a vote three would do, and by another there would be 99 rounds."""

    def masking(world: World) -> bool:
        if world.place(0).machine is None:
            return False
        found = head(world, 0).replica.head.masking
        return found is not None and found.roster is not None

    swarm = swarm_of(5, "2.5:3:1e-5", 9, min_contributions=5)
    world = gossiping(swarm, QuadraticTask(seed=5, samples=SAMPLES[:5], elements=ELEMENTS, bound=200.0))
    assert world.run(masking, end_s=100.0)
    state = head(world, 0).replica.head
    voted = msgspec.structs.replace(state.terms.round, min_contributions=3, rounds=99)
    after = msgspec.structs.replace(state, terms=msgspec.structs.replace(state.terms, round=voted))
    assert state.masking is not None
    assert state.masking.roster is not None
    assert state.included_min(state.masking.roster) == after.included_min(state.masking.roster) == 5
    assert (after.share, after.last) == (state.share, state.last)
    assert state.last == 2
    assert state.share is not None
    assert state.share.counted_on == 4


def test_a_roster_with_whose_weights_sums_would_wrap_is_none() -> None:
    """Founders are refused such a charter; a swarm that has grown by votes waits."""
    charter = swarm_of(5, NOISE, 1).charter
    body = e.MaskRoster(1, 1, tuple((index, 2**17) for index in range(5)), (), ())
    assert noise_share(charter, body, 5) is not None
    louder = msgspec.structs.replace(charter, options=(("masks", "pairwise"), ("site_noise", "9000:500:1e-5")))
    assert noise_share(louder, body, 5) is None
    with pytest.raises(UsageError, match="a sum would wrap"):
        msgspec.structs.replace(louder, round=msgspec.structs.replace(louder.round, clip_norm_milli=900_000)).check()
