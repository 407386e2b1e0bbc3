"""What each site adds is enough for those that can be counted on, has room, and is measured by what a site can change."""

import math
from typing import Any

import numpy as np
import pytest

from swarm.errors import UsageError
from swarm.machine import NodeId
from swarm.masking.attempt import Attempt
from swarm.masking.keys import Occasion
from swarm.masking.masks import Mask, masked
from swarm.masking.noise import COUNTED_ON_MIN, Noise, counted_on, measured, share, silent, sum_problem
from swarm.masking.ring import Ring
from swarm.mixing.average import PPM

TEN: dict[str, Any] = {
    "bits": 36,
    "heaviest": 700,
    "total": 4000,
    "members": 10,
    "clip_norm_milli": 10_000,
    "elements": 10_000,
    "multiplier_milli": 3_000,
    "counted_on": 4,
}


def test_those_who_can_be_counted_on_have_three_times_what_one_site_can_change() -> None:
    found = share(**TEN)
    steps = 10 * 1.0001 * 2**found.ring.fraction + math.sqrt(10_000) / 2
    assert steps <= found.norm_max <= steps + 3
    least = 3 * 700 * found.norm_max
    assert least**2 <= 4 * found.deviation**2 <= (least + 4) ** 2
    assert found.ring.room >= 9 * found.deviation * math.sqrt(10)
    assert 4000 * found.norm_max + found.ring.room < 2**35
    assert found.ring.steps_max >= found.norm_max
    finer = share(**TEN | {"bits": 36, "heaviest": 1, "total": 10})
    assert finer.ring.fraction > found.ring.fraction, "steps are as fine as there is room for"


def test_rounding_never_makes_an_update_longer_than_is_counted_with() -> None:
    """Coarse steps and a million elements, each a little over a half above a whole one: rounded up, all of them."""
    found = share(**TEN | {"bits": 32, "elements": 1_000_000})
    bound = 10 * 2.0**found.ring.fraction  # In steps.
    whole = math.floor(bound / 1000)
    above = whole + 0.501
    if above > bound / 1000:
        above -= 1
    update = np.full(1_000_000, above * 2.0**-found.ring.fraction, np.float32)
    assert float(np.linalg.norm(update.astype(np.float64))) <= 10.0, "a site would not clip it"
    rounded = math.ceil(above) * 1000
    assert found.norm_max >= max(rounded, bound + 500)
    assert found.norm_max < bound * 1.0001 + 503
    assert measured((bytes(32), found.deviation, found.norm_max), update, found.ring) is not None


@pytest.mark.parametrize(("members", "f"), [(3, 1), (4, 1), (6, 1), (7, 2), (10, 3), (50, 16)])
def test_a_member_knows_its_own_noise_so_one_is_silent_at_least(members: int, f: int) -> None:
    assert silent(members) == f
    assert counted_on(members, members) == members - f


def test_a_ring_without_room_is_refused_in_words() -> None:
    with pytest.raises(UsageError, match="a sum would wrap"):
        share(**TEN | {"bits": 32, "multiplier_milli": 9_000_000})
    with pytest.raises(UsageError, match="a sum would wrap"):
        share(**TEN | {"multiplier_milli": 900_000, "clip_norm_milli": 1_024_000, "total": 2**20, "heaviest": 2**20})


def test_noise_is_added_to_the_very_words_and_is_the_same_for_one_seed() -> None:
    found = share(**TEN)
    update = np.random.default_rng(1).normal(0, 0.01, 10_000).astype(np.float32)
    plain = masked(update, found.ring, 7, [])
    one, again, other = (
        masked(update, found.ring, 7, [], noise=Noise(bytes([seed]) * 32, found.deviation)) for seed in (1, 1, 2)
    )
    assert np.array_equal(one, again)
    assert not np.array_equal(one, other)
    added = (one - plain).view(np.int64) / found.deviation
    assert abs(added.mean()) < 5 / 100
    assert abs(added.var() - 1) < 5 * math.sqrt(2 / 10_000)
    stretches = Noise(bytes([1]) * 32, found.deviation)
    halves = [
        masked(update[a:b], found.ring, 7, [Mask(bytes(32), True)], a, stretches)
        for a, b in ((0, 5000), (5000, 10_000))
    ]
    whole = masked(update, found.ring, 7, [Mask(bytes(32), True)], noise=Noise(bytes([1]) * 32, found.deviation))
    spread = (np.concatenate(halves) - whole).view(np.int64)  # Surplus numbers are dropped at each call.
    assert np.abs(spread).max() < 20 * found.deviation, "masks cancel, noise differs"


def test_an_update_over_the_bound_gets_no_noise_and_is_not_masked() -> None:
    found = share(**TEN)
    form = (bytes(32), found.deviation, found.norm_max)
    right = np.zeros(10_000, np.float32)
    right[:4] = 5.0
    assert measured(form, right, found.ring) is not None
    assert measured(None, right * 9, found.ring) is None, "where there is no noise nothing is measured by it"
    for wrong in (np.float32(5.01), np.float32("nan"), np.float32("inf"), np.float32(-1e30)):
        bad = right.copy()
        bad[3] = wrong
        with pytest.raises(UsageError, match="over the charter's bound"):
            measured(form, bad, found.ring)


def test_squares_are_added_exactly() -> None:
    """One step more than the bound allows is noticed among numbers whose squares have 60 digits of two."""
    ring = Ring(bits=36, fraction=32, weight_total=1)
    update = np.array([2**29, 2**29 + 64], np.float32) * np.float32(2.0**-32)
    norm = math.isqrt(2**58 + (2**29 + 64) ** 2)
    assert measured((bytes(32), 16, norm + 1), update, ring) is not None
    with pytest.raises(UsageError):
        measured((bytes(32), 16, norm), update, ring)


def test_a_sum_may_be_as_long_as_its_noise_makes_it_and_no_longer() -> None:
    found = share(**TEN)
    noise = sum((Noise(bytes([seed]) * 32, found.deviation)._source.take(10_000) for seed in range(10)), np.int64(0))
    sums = noise << (32 - found.ring.fraction)
    limit = found.sum_norm_max(4000)
    assert sum_problem(sums, 4000, found.ring, limit, 10.0) == ""
    assert "over the charter's bound" in sum_problem(sums, 4000, found.ring, 0, 10.0)
    assert "over the charter's bound" in sum_problem(sums * 2, 4000, found.ring, limit, 10.0)


def test_noise_follows_from_the_root_of_an_attempt_and_from_nothing_that_is_told() -> None:
    me = NodeId(bytes(32))
    first = Attempt(Occasion(bytes(32), 1, 1), me, bytes([7]) * 32)
    assert first.noise_seed == Attempt.from_bytes(first.to_bytes()).noise_seed, "as it was, after a restart"
    others = [Attempt(Occasion(bytes(32), *at), me, bytes([7]) * 32) for at in ((1, 2), (2, 1))]
    seeds = {first.noise_seed, *(other.noise_seed for other in others)}
    assert len(seeds) == 3
    assert not seeds & {*first.keys}


def test_hardly_any_weight_is_hardly_any_change_but_the_heaviest_counts() -> None:
    """Noise is for the site that can change most, so capped weights need less of it."""
    free, capped = share(**TEN | {"heaviest": 3_000}), share(**TEN | {"heaviest": 4000 * 150_000 // PPM})
    assert free.added * 2.0 > capped.added * 2.0 * 4.9
    assert COUNTED_ON_MIN == 2
