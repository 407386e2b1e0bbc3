"""Words go into plaintexts and come out of their sum; nothing carries from one to the next while weights have room."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Reject, UsageError
from swarm.homomorphic.packing import Packing
from swarm.masking.ring import WIDTHS, Ring
from tests.swarm.masking.members import total_of

TINY = Ring(bits=32, fraction=4, weight_total=16)


def rings() -> list[Ring]:
    return [Ring.fitting(bits, weight_total=200, clip_norm_milli=10_000) for bits in WIDTHS]


def words_of(ring: Ring, update: np.ndarray, weight: int) -> np.ndarray:
    found = ring.words(update.size)
    ring.encode_into(found, update, weight)
    return found


def test_three_words_in_a_plaintext_are_those_of_a_calculator() -> None:
    packing = Packing(TINY, 100)
    update = np.array([0.5, -0.25, 0.0, 1.0], np.float32)  # 8, -4, 0 and 16 sixteenths
    offset = 3 * TINY.steps_max
    first, second = packing.plaintexts(words_of(TINY, update, 3), 3)
    assert packing.slots == 3
    assert first == (offset + 24) + (offset - 12 << 32) + (offset << 64)
    assert second == offset + 48, "the other slots are empty"
    assert [*packing.words([first, second], 4, 3)] == [24, 2**32 - 12, 0, 48]


@pytest.mark.parametrize("ring", rings(), ids=str)
@settings(max_examples=15)
@given(
    st.integers(1, 70), st.lists(st.integers(1, 50), min_size=1, max_size=4), st.integers(37, 2047), st.integers(0, 99)
)
def test_sums_of_plaintexts_are_the_sums_of_words(
    ring: Ring, elements: int, weights: list[int], bits: int, seed: int
) -> None:
    packing = Packing(ring, max(bits, ring.bits))
    rng = np.random.default_rng(seed)
    words = [words_of(ring, rng.uniform(-10, 10, elements).astype(np.float32), weight) for weight in weights]
    packed = [[*packing.plaintexts(one, weight)] for one, weight in zip(words, weights, strict=True)]
    assert {len(one) for one in packed} == {packing.count(elements)}
    total = [sum(row) for row in zip(*packed, strict=True)]
    assert all(int(one).bit_length() <= packing.plaintext_bits for one in total)
    found = packing.words(total, elements, sum(weights))
    assert np.array_equal(ring.sums(found, sum(weights)), ring.sums(total_of(ring, words), sum(weights)))
    assert ring.pack(found) == ring.pack(total_of(ring, words)), "the very words"


@pytest.mark.parametrize("bits", WIDTHS)
@pytest.mark.parametrize("sign", [1, -1])
def test_the_largest_sum_that_weights_have_room_for_stays_in_its_slots(bits: int, sign: int) -> None:
    ring = Ring(bits=bits, fraction=max(4, bits - 32), weight_total=100)
    steps = np.array([sign * ring.steps_max], np.int64)
    words = {weight: (steps * weight).astype(ring.dtype) for weight in (1, 99)}
    packing = Packing(ring, 5 * bits)
    packed = [[*packing.plaintexts(np.repeat(one, 5), weight)] for weight, one in words.items()]
    (total,) = (sum(row) for row in zip(*packed, strict=True))
    assert total < 1 << 5 * bits
    assert [*ring.sums(packing.words([total], 5, 100), 100) >> (32 - ring.fraction)] == 5 * [
        sign * 100 * ring.steps_max
    ]


def test_weights_that_might_overflow_are_refused_before_anything_is_added() -> None:
    packing = Packing(TINY, 100)
    for weight in (0, -1, 17):
        with pytest.raises(UsageError, match=f"weigh {weight}: slots have room for 16"):
            [*packing.plaintexts(TINY.words(3), weight)]
        with pytest.raises(UsageError, match="slots have room"):
            packing.words([0], 3, weight)
    with pytest.raises(UsageError, match="couldn't pack words of 32 bits into 31"):
        Packing(TINY, 31)


def test_a_sum_of_another_shape_is_refused() -> None:
    packing = Packing(TINY, 100)
    fine = [1 << 40, 5]
    packing.words(fine, 4, 3)
    with pytest.raises(Reject, match="larger than its words"):
        packing.words([1 << 96, 5], 4, 3)
    with pytest.raises(Reject, match="empty slots"):
        packing.words([0, 1 << 32], 4, 3)
    with pytest.raises(Reject, match="too large for a weight of 3"):  # by the ring, as with masks
        TINY.sums(packing.words([2**32 - 1, 0], 4, 3), 3)


def test_many_blocks_are_packed_like_one() -> None:
    ring = rings()[1]
    packing = Packing(ring, 80)
    words = words_of(ring, np.random.default_rng(1).uniform(-9, 9, 5_001).astype(np.float32), 7)
    packed = [*packing.plaintexts(words, 7)]
    assert len(packed) == 2_501, "two to a plaintext, more than two blocks of 1,024"
    assert ring.pack(packing.words(packed, 5_001, 7)) == ring.pack(words)
    assert packed[:1_024] == [*packing.plaintexts(words[:2_048], 7)]
