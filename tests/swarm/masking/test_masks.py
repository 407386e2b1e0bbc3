"""Masks are AES in counter mode, cancel, can be entered anywhere, and hide what is under them."""

import hashlib

import numpy as np
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes

from swarm.masking.masks import Mask, Stream, apply, masked, scratch_for
from swarm.masking.ring import Ring
from swarm.mixing.average import BLOCK_ELEMENTS
from tests.swarm.masking.members import EXACT, total_of, update

NARROW = Ring(bits=32, fraction=20, weight_total=2**8)


def seed(number: int) -> bytes:
    return hashlib.sha256(b"seed %d" % number).digest()


def test_a_mask_is_the_key_stream_that_the_standard_publishes() -> None:
    """NIST SP 800-38A, F.5.5, CTR-AES256: its input blocks are another counter, so the cipher itself is held to them."""
    key = bytes.fromhex("603deb1015ca71be2b73aef0857d77811f352c073b6108d72d9810a30914dff4")
    output = bytes.fromhex("0bdf7df1591716335e9a8b15c860c502")
    counter = bytes.fromhex("f0f1f2f3f4f5f6f7f8f9fafbfcfdfeff")
    assert Cipher(algorithms.AES256(key), modes.CTR(counter)).encryptor().update(bytes(16)) == output
    whole = Cipher(algorithms.AES256(key), modes.CTR(bytes(16))).encryptor().update(bytes(80))
    for ring, dtype in ((EXACT, "<u8"), (NARROW, "<u4")):
        expected = np.frombuffer(whole, dtype)[:9]
        assert np.array_equal(Stream(key, ring).next(scratch_for(ring), 9), expected)


@pytest.mark.parametrize("ring", [EXACT, NARROW])
@pytest.mark.parametrize("start", [0, 1, 3, 4, BLOCK_ELEMENTS - 1, BLOCK_ELEMENTS + 5])
def test_a_slice_of_a_mask_is_the_mask_of_the_slice(ring: Ring, start: int) -> None:
    elements = 2 * BLOCK_ELEMENTS + 11
    whole = ring.words(elements)
    apply(whole, ring, [Mask(seed(1), added=True), Mask(seed(2), added=False)])
    part = ring.words(elements - start)
    apply(part, ring, [Mask(seed(1), added=True), Mask(seed(2), added=False)], start)
    assert np.array_equal(part, whole[start:])


@pytest.mark.parametrize("ring", [EXACT, NARROW])
def test_what_one_adds_and_the_other_subtracts_is_gone_from_the_sum(ring: Ring) -> None:
    updates = [update(1), update(2)]
    pair, own = Mask(seed(1), added=True), Mask(seed(2), added=True)
    words = [masked(updates[0], ring, 2, [pair, own]), masked(updates[1], ring, 5, [pair.opposite()])]
    total = total_of(ring, words)
    apply(total, ring, [own.opposite()])
    plain = total_of(ring, [masked(one, ring, weight, []) for one, weight in zip(updates, (2, 5), strict=True)])
    assert np.array_equal(total, plain)


@pytest.mark.parametrize("ring", [EXACT, NARROW])
def test_for_any_two_updates_there_are_masks_that_give_the_same_words(ring: Ring) -> None:
    """One word says nothing: whatever is under it, exactly one mask fits. Independence, for masks that are uniform."""
    rng = np.random.default_rng(3)
    for number in range(50):
        one, other = (masked(update(2 * number + side, 5), ring, 3, []) for side in (0, 1))
        word = rng.integers(0, 2**ring.bits - 1, 5, ring.dtype.newbyteorder("="), endpoint=True)
        masks = word - one, word - other
        assert np.array_equal(one + masks[0], other + masks[1])
        assert not np.array_equal(*masks)


def chi_square(counts: np.ndarray) -> float:
    expected = counts.sum() / counts.size
    return float(((counts - expected) ** 2).sum() / expected)


# Of the chi-square distribution, by Wilson and Hilferty: what 255 and 65,025 degrees of freedom exceed once in a
# thousand times. Seeds are fixed, so a failure is a change of the product and no accident.
LIMIT_255, LIMIT_65025 = 330.5, 66_147.0


@pytest.mark.parametrize("ring", [EXACT, NARROW])
@pytest.mark.parametrize("first", [0, 1000, 2000])
def test_bytes_of_masked_updates_are_uniform_at_a_level_of_a_thousandth(ring: Ring, first: int) -> None:
    """The plain update is as far from uniform as can be: the same small value everywhere."""
    plain = np.full(4_000, 0.001, np.float32)
    drawn = [masked(plain, ring, 3, [Mask(seed(first + n), added=n % 2 == 0)]) for n in range(10)]
    rows = np.concatenate(drawn).view(np.uint8).reshape(-1, ring.dtype.itemsize)
    for place in range(ring.dtype.itemsize):
        assert chi_square(np.bincount(rows[:, place], minlength=256)) < LIMIT_255
    unmasked = masked(plain, ring, 3, []).view(np.uint8).reshape(-1, ring.dtype.itemsize)
    assert chi_square(np.bincount(unmasked[:, 0], minlength=256)) > LIMIT_255, "the test sees what is not uniform"


@pytest.mark.parametrize("first", [0, 1000, 2000])
def test_masked_and_plain_words_are_independent_at_a_level_of_a_thousandth(first: int) -> None:
    """Low bytes of the plain word against low bytes of the masked one, as a table of 256 by 256, over seeds."""
    table = np.zeros((256, 256))
    for number in range(20):
        plain = update(first + number, 40_000)
        words = masked(plain, NARROW, 3, [])
        under = masked(plain, NARROW, 3, [Mask(seed(first + number), added=True)])
        np.add.at(table, (words.astype(np.uint8), under.astype(np.uint8)), 1)
    rows, columns = table.sum(1, keepdims=True), table.sum(0, keepdims=True)
    expected = rows * columns / table.sum()
    assert ((table - expected) ** 2 / expected).sum() < LIMIT_65025


def test_a_mask_does_not_show_its_seed() -> None:
    assert seed(1).hex() not in repr(Mask(seed(1), added=True))
