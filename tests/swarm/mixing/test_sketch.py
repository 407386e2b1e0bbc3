"""Distances told by sketches."""

from __future__ import annotations

import math

import numpy as np
import pytest

from swarm.errors import Reject, UsageError
from swarm.mixing.sketch import BUCKETS, FRACTION_BITS, ROWS, SKETCH_BYTES, sketch, unpack

SEED = 11


def norm(sums: tuple[int, ...]) -> float:
    return math.sqrt(sum(value * value for value in sums)) / 2**FRACTION_BITS


def test_a_short_model_is_its_own_sketch_up_to_signs() -> None:
    model = np.array([1.0, -2.5, 0.125], np.float32)
    sums = unpack(sketch(model, SEED))
    assert [abs(value) / 2**FRACTION_BITS for value in sums] == [1.0, 2.5, 0.125] + [0.0] * (BUCKETS - 3)


def test_the_signs_are_what_they_always_were() -> None:
    """Every member must draw the same: a change of these bytes splits a swarm."""
    sums = unpack(sketch(np.ones(8, np.float32), SEED))
    assert [value >> FRACTION_BITS for value in sums[:8]] == [-1, -1, -1, 1, -1, 1, 1, 1]


def test_half_of_the_signs_are_negative() -> None:
    blocks = 40
    sums = unpack(sketch(np.ones(blocks * BUCKETS, np.float32), SEED))
    total = sum(sums) / 2**FRACTION_BITS
    assert abs(total) < 5 * math.sqrt(blocks * BUCKETS)


def test_it_is_linear() -> None:
    rng = np.random.default_rng(1)
    # Multiples of 2^-10 with few digits: every sum is exact.
    a, b = (np.round(rng.uniform(-4, 4, 3 * ROWS * BUCKETS + 17) * 1024).astype(np.float32) / 1024 for _ in range(2))
    apart = [x - y for x, y in zip(unpack(sketch(a, SEED)), unpack(sketch(b, SEED)), strict=True)]
    assert tuple(apart) == unpack(sketch(a - b, SEED))


@pytest.mark.parametrize("elements", [1_000, 100_000])
def test_the_norm_is_told_within_its_error(elements: int) -> None:
    rng = np.random.default_rng(elements)
    model = rng.standard_normal(elements).astype(np.float32)
    told = [norm(unpack(sketch(model, seed))) / float(np.linalg.norm(model)) for seed in range(30)]
    assert abs(sum(told) / len(told) - 1) < 0.04
    assert np.std(told) < 0.1, "sqrt(2 / 128) / 2 = 0.063 in theory"


def test_another_seed_is_another_sketch() -> None:
    model = np.arange(1, 9, dtype=np.float32)
    assert sketch(model, 1) != sketch(model, 2)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_has_none(value: float) -> None:
    with pytest.raises(UsageError, match="not finite"):
        sketch(np.array([1.0, value], np.float32), SEED)


def test_values_at_the_limit_fit() -> None:
    sums = unpack(sketch(np.full(ROWS * BUCKETS, 1024.0, np.float32), SEED))
    assert max(map(abs, sums)) < 2**63


def test_other_sizes_are_no_sketch() -> None:
    with pytest.raises(Reject, match="bytes"):
        unpack(bytes(SKETCH_BYTES - 8))
