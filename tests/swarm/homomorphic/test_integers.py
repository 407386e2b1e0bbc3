"""Products of powers, tables and inverses are what `pow` says; a modulus of two safe primes is one."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm.homomorphic import integers
from swarm.homomorphic.primes import is_prime, safe_prime
from tests.swarm.homomorphic.keys import draw

MODULUS = 2**127 - 1  # a prime, so that all but 0 have inverses
residues = st.integers(1, MODULUS - 1)
exponents = st.integers(0, 2**128 - 1)


@settings(max_examples=50)
@given(st.lists(st.tuples(residues, exponents), max_size=40))
def test_a_product_of_powers_is_the_product_of_the_powers(pairs: list[tuple[int, int]]) -> None:
    expected = 1
    for base, exponent in pairs:
        expected = expected * pow(base, exponent, MODULUS) % MODULUS
    found = integers.product_of_powers([b for b, _ in pairs], [e for _, e in pairs], MODULUS)
    assert found == expected


@settings(max_examples=30)
@given(residues, st.integers(0, 2**61 - 1), st.integers(1, 9))
def test_a_table_looks_powers_up(base: int, exponent: int, window: int) -> None:
    assert integers.FixedBase(base, MODULUS, 61, window).powers([exponent, 0, 1]) == [
        pow(base, exponent, MODULUS),
        1,
        base,
    ]


@given(st.lists(residues, min_size=1, max_size=20))
def test_inverses_of_many_are_those_of_each(values: list[int]) -> None:
    found = integers.inverses(values, MODULUS)
    assert found == [pow(value, -1, MODULUS) for value in values]
    assert integers.coprime(values, MODULUS)
    assert not integers.coprime([*values, 0], MODULUS)
    assert not integers.coprime([*values, 15], 35), "one that shares a factor is enough"


@given(st.integers(1, 2**300), st.integers(0, 2**32))
def test_random_numbers_are_below_their_bound(bound: int, seed: int) -> None:
    assert 0 <= integers.below(bound, draw(seed)) < bound
    assert integers.of_bits(bound.bit_length(), draw(seed)).bit_length() <= bound.bit_length()


def test_random_residues_are_the_numbers_that_were_drawn() -> None:
    assert integers.below(1_000, lambda size: (12_345).to_bytes(size, "big")) == 345
    assert integers.of_bits(12, lambda size: b"\xab\xcd") == 0xABC


def test_primes_are_told_from_what_looks_like_them() -> None:
    """Carmichael numbers, strong pseudoprimes to the bases 2 to 7 (Jaeschke 1993), squares of primes."""
    for composite in (0, 1, 4, 9, 25, 341, 561, 1105, 3_215_031_751, 3_825_123_056_546_413_051, (2**61 - 1) ** 2):
        assert not is_prime(composite, draw(1)), composite
    for prime in (2, 3, 5, 7, 11, 65_537, 2**61 - 1, 2**127 - 1, 2**255 - 19):
        assert is_prime(prime, draw(1)), prime


@pytest.mark.parametrize("bits", [16, 17, 24, 48, 128])
def test_a_safe_prime_is_twice_a_prime_and_one_more(bits: int) -> None:
    found = safe_prime(bits, draw(bits))
    assert found.bit_length() == bits
    assert found >> (bits - 2) == 3, "so that two of them make a modulus of twice the bits"
    assert is_prime(found, draw(2))
    assert is_prime((found - 1) // 2, draw(3))
    assert found % 4 == 3
    if bits <= 24:
        assert all((found - 1) // 2 % factor for factor in range(2, 1 << 12))


SCRIPT = """
import sys
if sys.argv[1] == "without": sys.modules["gmpy2"] = None
from swarm.homomorphic import integers
from tests.swarm.homomorphic.keys import draw, encryptor, secret, shared
assert integers.GMP == (sys.argv[1] == "with")
one = encryptor()
ciphertexts = one.encrypt((0, 1, 2**200))
key, shares = shared(3, 2)
made = [share.decrypt(b"context", ciphertexts, draw(5)) for share in shares]
print(secret().public.to_bytes().hex(), [int(c) for c in ciphertexts], key.digest.hex(), [m[1].hex() for m in made])
print([int(x) for x in key.combine({n: made[n - 1][0] for n in (1, 3)})])
"""


@pytest.mark.real
def test_with_and_without_gmp_the_bytes_are_the_same() -> None:
    """The same seeds, keys, ciphertexts, proofs and numbers, by GMP and by Python's own integers."""
    if not integers.GMP:
        pytest.skip("needs gmpy2: make test-homomorphic")
    root = Path(__file__).parents[3]
    said = [
        subprocess.run(
            [sys.executable, "-c", SCRIPT, which],
            cwd=root,
            env={**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for which in ("with", "without")
    ]
    assert said[0] == said[1]
    assert said[0].splitlines()[1] == str([0, 1, 2**200])
