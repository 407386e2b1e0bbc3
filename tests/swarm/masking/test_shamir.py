"""Any threshold of shares give the secret back, fewer say nothing, and one too many gives a liar away."""

import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.errors import Reject
from swarm.masking import shamir
from swarm.masking.shamir import PRIME, deal, reconstruct

residues = st.integers(0, PRIME - 1)


def solved(shares: dict[int, int]) -> list[int]:
    """Coefficients of the polynomial through these points, by elimination: another way to the same end."""
    rows = [[pow(x, power, PRIME) for power in range(len(shares))] + [y] for x, y in shares.items()]
    for column in range(len(rows)):
        pivot = next(row for row in rows[column:] if row[column])
        rows[rows.index(pivot)], rows[column] = rows[column], pivot
        inverse = pow(pivot[column], PRIME - 2, PRIME)
        rows[column] = [value * inverse % PRIME for value in rows[column]]
        for number, row in enumerate(rows):
            if number != column:
                rows[number] = [(a - row[column] * b) % PRIME for a, b in zip(row, rows[column], strict=True)]
    return [row[-1] for row in rows]


def test_shares_of_a_small_polynomial_are_those_of_a_calculator() -> None:
    assert deal(5, [1, 2, 3, 4], [3, 2]) == {1: 10, 2: 19, 3: 32, 4: 49}  # 5 + 3x + 2x²
    for three in itertools.combinations({1: 10, 2: 19, 3: 32, 4: 49}.items(), 3):
        assert reconstruct(dict(three), 3) == 5


def test_the_modulus_is_the_prime_it_should_be() -> None:
    assert PRIME == 2**255 - 19
    assert all(pow(base, PRIME - 1, PRIME) == 1 for base in (2, 3, 5, 7, 11))


@settings(max_examples=40)
@given(residues, st.lists(residues, min_size=1, max_size=7), st.integers(0, 4), st.randoms(use_true_random=False))
def test_any_threshold_of_shares_give_the_secret_back(
    secret: int, others: list[int], spare: int, rng: random.Random
) -> None:
    threshold = len(others) + 1
    shares = deal(secret, rng.sample(range(1, 1001), threshold + spare), others)
    chosen = dict(rng.sample(sorted(shares.items()), threshold))
    assert reconstruct(chosen, threshold) == secret == reconstruct(shares, threshold)
    assert solved(chosen) == [secret, *others], "by elimination too"


@settings(max_examples=40)
@given(residues, residues, st.lists(residues, min_size=3, max_size=3))
def test_one_share_too_few_fits_any_secret(secret: int, other: int, others: list[int]) -> None:
    """For whatever secret there is a polynomial through the same three points of four: they say nothing of it."""
    shares = deal(secret, [1, 2, 3], others)
    explained = solved({0: other, **shares})
    assert explained[0] == other
    assert deal(other, [1, 2, 3], explained[1:]) == shares


@settings(max_examples=40)
@given(residues, st.lists(residues, min_size=2, max_size=2), st.integers(1, 5), st.integers(1, PRIME - 1))
def test_a_false_share_among_more_than_it_takes_is_noticed(secret: int, others: list[int], who: int, by: int) -> None:
    shares = deal(secret, range(1, 6), others)
    shares[who] = (shares[who] + by) % PRIME
    with pytest.raises(Reject, match="contradict"):
        reconstruct(shares, 3)


def test_too_few_shares_and_shares_out_of_range_are_refused() -> None:
    with pytest.raises(Reject, match="2 shares, it takes 3"):
        reconstruct({1: 10, 2: 19}, 3)
    for wrong in ({0: 5, 1: 10, 2: 19}, {1: 10, 2: 19, 3: PRIME}, {1: 10, 2: 19, 3: -1}):
        with pytest.raises(Reject, match="out of range"):
            reconstruct(wrong, 3)


def test_a_share_has_one_spelling() -> None:
    assert shamir.from_bytes(shamir.to_bytes(PRIME - 1)) == PRIME - 1
    for wrong in (b"", bytes(31), bytes(33), PRIME.to_bytes(32, "big"), b"\xff" * 32):
        with pytest.raises(Reject, match="not a residue"):
            shamir.from_bytes(wrong)


def test_coefficients_use_all_the_randomness_that_there_is() -> None:
    assert shamir.coefficients(bytes(47) + b"\1" + b"\xff" * 48) == (1, (2**384 - 1) % PRIME)
