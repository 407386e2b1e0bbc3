"""Sites that bring nothing, or harm, among good ones, on real data: the scores that real nodes agree on tell them.

`scripts/contribution_table.py` has the whole table; here three rounds of it, with room for forty models a round.
"""

from __future__ import annotations

import functools

import pytest

from tests.cases import shortened
from tests.simulation.planted import COPY, EIGHT, IDLE, NOISY, Run, play, ranked

SEEDS = (1, 2, 3)
LASTS = 200.0  # evaluations a training, of which a fifth may be spent


@functools.cache
def run(seed: int, *, copied: bool = True) -> Run:
    kinds = tuple(kind for kind in EIGHT if copied or kind != COPY)
    return play("shapley:loss:lower:20", seed, kinds=kinds, rounds=2, epochs=10, lasts=LASTS)


@pytest.mark.parametrize("seed", shortened(1, SEEDS))
def test_the_noisy_site_and_the_free_rider_come_last(seed: int) -> None:
    found = run(seed)
    assert ranked(found.shares), found
    assert max(found.shares[EIGHT.index(kind)] for kind in (NOISY, IDLE)) < 100 / len(EIGHT) / 2
    assert found.gaps == 0


@pytest.mark.parametrize("seed", shortened(1, SEEDS))
def test_judging_stays_within_its_share(seed: int) -> None:
    assert run(seed).judged <= 0.2 * LASTS * len(EIGHT) * 2


def test_copies_are_given_alike_and_two_are_given_more_than_one() -> None:
    """Replication inflates: what is said in the guide is so, in these runs too."""
    one, other = (sum(run(seed).shares[i] for seed in SEEDS) / len(SEEDS) for i in (0, EIGHT.index(COPY)))
    alone = sum(run(seed, copied=False).shares[0] for seed in SEEDS) / len(SEEDS)
    assert abs(one - other) < 4.0
    assert max(one, other) < alone < one + other
