"""Words add up to the sum that the plain mean divides, to the last bit, whatever the width; what has no room is refused."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from swarm.errors import Reject, UsageError
from swarm.masking.masks import add
from swarm.masking.ring import WIDTHS, Ring, weight_total
from swarm.mixing.average import VALUE_LIMIT, integer_weights
from tests.swarm.masking.members import EXACT, mean, plain_mean, total_of

TINY = Ring(bits=32, fraction=4, weight_total=16)


def vectors(count: int, elements: int, largest: float) -> st.SearchStrategy[list[np.ndarray]]:
    one = hnp.arrays(np.float32, elements, elements=st.floats(-largest, largest, width=32))
    return st.lists(one, min_size=count, max_size=count)


def words_of(ring: Ring, update: np.ndarray, weight: int) -> np.ndarray:
    found = ring.words(update.size)
    ring.encode_into(found, update, weight)
    return found


def test_words_of_small_numbers_are_those_of_a_calculator() -> None:
    update = np.array([0.5, -0.25, 0.0, 1.03125], np.float32)  # 8, -4, 0 and 16.5 sixteenths; a half goes to even
    assert [*words_of(TINY, update, 3)] == [24, 2**32 - 12, 0, 48]
    assert TINY.steps_max == (2**31 - 1) // 16
    assert [*TINY.on_grid(update)] == [0.5, -0.25, 0.0, 1.0]
    total = total_of(TINY, [words_of(TINY, update, 3), words_of(TINY, -update, 4)])
    assert [*TINY.sums(total, 7)] == [-(8 << 28), 4 << 28, 0, -(16 << 28)]


@settings(max_examples=20)
@given(vectors(4, 9, VALUE_LIMIT), st.lists(st.integers(1, 2**18), min_size=4, max_size=4))
def test_in_64_bits_any_updates_have_the_bytes_of_the_plain_mean(updates: list[np.ndarray], weights: list[int]) -> None:
    base = updates[0] / np.float32(7)
    total = total_of(EXACT, [words_of(EXACT, one, weight) for one, weight in zip(updates, weights, strict=True)])
    assert mean(EXACT, total, base, sum(weights)) == plain_mean(updates, base, weights)


@pytest.mark.parametrize("bits", [32, 36])
@settings(max_examples=20)
@given(vectors(4, 9, 10.0), st.lists(st.integers(1, 2**10), min_size=4, max_size=4))
def test_in_fewer_bits_they_have_the_bytes_of_the_plain_mean_of_what_is_on_the_grid(
    bits: int, updates: list[np.ndarray], weights: list[int]
) -> None:
    ring = Ring.fitting(bits, weight_total=2**12, clip_norm_milli=10_000)
    base = updates[0] / np.float32(7)
    total = total_of(ring, [words_of(ring, one, weight) for one, weight in zip(updates, weights, strict=True)])
    on_grid = [ring.on_grid(one) for one in updates]
    assert mean(ring, total, base, sum(weights)) == plain_mean(on_grid, base, weights)
    for one, rounded in zip(updates, on_grid, strict=True):
        assert np.abs(one.astype(np.float64) - rounded).max() <= 2.0 ** -(ring.fraction + 1)
        assert np.array_equal(ring.on_grid(rounded), rounded), "what is on the grid stays"


@pytest.mark.parametrize("bits", WIDTHS)
def test_the_largest_that_a_ring_takes_from_everybody_still_fits(bits: int) -> None:
    for total in (3, 1000, 2**12):
        ring = Ring.fitting(bits, weight_total=total, clip_norm_milli=10_000)
        # The largest float32 of no more steps, and the norm bound, which is to fit in any case.
        largest = np.float32(min(ring.steps_max, 2**41) * 2.0**-ring.fraction)
        if float(largest) * 2.0**ring.fraction > ring.steps_max:
            largest = np.nextafter(largest, np.float32(0))
        assert largest >= 10.0
        weights = [1, total - 2, 1]
        for sign in (1, -1):
            update = np.array([sign * largest], np.float32)
            words = total_of(ring, [words_of(ring, update, weight) for weight in weights])
            assert ring.sums(words, total)[0] == sign * int(float(largest) * 2.0**ring.fraction) * total << (
                32 - ring.fraction
            )


def test_steps_are_as_fine_as_norm_and_weights_leave_room_for() -> None:
    def fraction(bits: int, weights: int, norm_milli: int) -> int:
        return Ring.fitting(bits, weight_total=weights, clip_norm_milli=norm_milli).fraction

    assert fraction(64, 2**20, 1_024_000) == 32, "as the plain mean, for all that it takes"
    assert [fraction(36, 2**10, norm) for norm in (1_000, 10_000)] == [24, 21]
    assert [fraction(32, 2**10, norm) for norm in (1_000, 10_000)] == [20, 17]
    assert [fraction(bits, 2**20, 1_024_000) for bits in (36, 32)] == [4, 0], "and never none at all"
    with pytest.raises(UsageError, match="40 bits"):
        Ring.fitting(40, weight_total=1, clip_norm_milli=1)


def test_where_bits_are_few_weights_are_rounded_and_shares_stay_what_they_are() -> None:
    assert [weight_total(64, 3), weight_total(36, 3), weight_total(32, 64)] == [2**20, 2**12, 2**12]
    assert weight_total(36, 1000) == 64_000
    samples = [104, 89, 16, 45, 94 * 16]
    assert integer_weights(samples, total_max=weight_total(36, 5)) == tuple(samples), "they have room as they are"
    for factor, cap in ((1_000, 1_000_000), (1_000, 400_000), (10**9, 1_000_000)):
        large = [factor * count for count in samples]
        few = integer_weights(large, cap_ppm=cap, total_max=2**12)
        many = integer_weights(large, cap_ppm=cap)
        assert sum(few) <= 2**12
        for one, other in zip(few, many, strict=True):
            assert abs(one / sum(few) - other / sum(many)) < 1 / 2**11
    assert sum(integer_weights([1] * 999 + [10**12], total_max=weight_total(36, 1000))) <= 64_000


def test_what_has_no_room_or_is_no_number_is_refused_before_it_is_masked() -> None:
    for value in (np.inf, -np.inf, np.nan, float(TINY.steps_max + 1000) / 16):
        with pytest.raises(UsageError, match="no room in 32 bits"):
            words_of(TINY, np.array([0.0, value], np.float32), 1)
    for weight in (0, -1, 17):
        with pytest.raises(UsageError, match="weights are 1 to 16|with the weight"):
            words_of(TINY, np.zeros(1, np.float32), weight)


def test_a_sum_that_no_updates_of_its_weight_make_is_refused() -> None:
    ring = Ring(bits=36, fraction=8, weight_total=2**8)
    for steps in (5 * ring.steps_max + 1, -5 * ring.steps_max - 1):
        total = np.array([0, steps], np.int64).view(np.uint64)
        with pytest.raises(Reject, match="too large for a weight of 5"):
            ring.sums(total, 5)
        assert ring.sums(total, 6)[1] == steps << 24


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("elements", [0, 1, 2, 7, 8])
def test_words_come_back_as_they_were_packed_in_as_many_bytes_as_they_take(bits: int, elements: int) -> None:
    ring = Ring(bits=bits, fraction=32, weight_total=2**10)
    words = np.random.default_rng(elements).integers(0, 2**64 - 1, elements, np.uint64)
    words = words.astype(np.uint32) if bits == 32 else words & np.uint64(2**bits - 1)
    packed = ring.pack(words)
    assert len(packed) == ring.size(elements) == -(-bits * elements // 8)
    assert np.array_equal(ring.unpack(packed, elements), words)
    for wrong in (packed + b"\0", packed[:-1]):
        if wrong != packed:
            with pytest.raises(Reject, match="bytes"):
                ring.unpack(wrong, elements)


def test_bits_beyond_the_last_word_are_refused() -> None:
    ring = Ring(bits=36, fraction=32, weight_total=1)
    packed = bytearray(ring.pack(ring.words(3)))
    packed[-1] |= 0x10
    with pytest.raises(Reject, match="beyond"):
        ring.unpack(packed, 3)


def test_cutting_words_down_commutes_with_adding_them() -> None:
    """Masks are made in 64 bits and travel in 36: what is cut off does not matter, in whatever order."""
    ring = Ring(bits=36, fraction=20, weight_total=2**8)
    rng = np.random.default_rng(1)
    a, b = (rng.integers(0, 2**64 - 1, 50, np.uint64) for _ in range(2))
    apart = ring.unpack(ring.pack(a), 50)
    add(apart, ring.unpack(ring.pack(b), 50))
    assert ring.pack(apart) == ring.pack(a + b)


def test_a_packed_word_of_36_bits_costs_no_more_than_a_fifth_above_a_float32() -> None:
    ring = Ring.fitting(36, weight_total=2**12, clip_norm_milli=10_000)
    assert ring.size(1_000_000) / 4_000_000 == 1.125


def test_room_for_noise_is_taken_from_what_an_element_may_be_and_given_to_what_a_sum_may_be() -> None:
    roomy = Ring(bits=32, fraction=4, weight_total=16, room=1_000)
    assert roomy.steps_max == (2**31 - 1 - 1_000) // 16
    most = 3 * roomy.steps_max + 1_000
    for value in (most, -most):
        assert [*roomy.sums(np.array([value], np.int64).astype(np.uint32), 3)] == [value << 28]
    for value in (most + 1, -most - 1):
        with pytest.raises(Reject, match="too large for a weight of 3"):
            roomy.sums(np.array([value], np.int64).astype(np.uint32), 3)
