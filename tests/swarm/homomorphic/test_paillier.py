"""Paillier's scheme does what the textbook's does; keys and ciphertexts that are none are refused."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.homomorphic.paillier import (
    KEY_BYTES_MAX,
    Encryptor,
    Exponents,
    PrivateKey,
    PublicKey,
    generate,
)
from tests.swarm.homomorphic.keys import BITS, Textbook, draw, encryptor, same_key, secret, textbook

N = int(secret().public.n)
numbers = st.integers(0, N - 1)


def test_a_key_of_toy_primes_gives_the_numbers_of_a_calculator() -> None:
    """p = 7, q = 11 and g = 78: 42 with r = 23 is 3235 * 606, that is (1 + 42 * 77) * 23**77 modulo 5929."""
    assert Textbook(7, 11).encrypt(42, 23) == (1 + 42 * 77) * pow(23, 77, 5929) % 5929 == 3235 * 606 % 5929 == 3840
    assert Textbook(7, 11).decrypt(3840) == 42


@settings(max_examples=30)
@given(numbers)
def test_what_is_encrypted_here_the_textbook_reads(number: int) -> None:
    assert textbook(secret()).decrypt(encryptor().encrypt([number])[0]) == number


@settings(max_examples=30)
@given(numbers, st.integers(1, N - 1))
def test_what_the_textbook_encrypts_is_read_here(number: int, r: int) -> None:
    assert secret().decrypt(textbook(secret()).encrypt(number, r)) == number


@settings(max_examples=10)
@given(numbers, st.integers(0, 2**64))
def test_a_ciphertext_is_the_formula(number: int, exponent: int) -> None:
    """(1 + m n) (h**n)**r, worked with `pow`; the same modulo each prime's square and put together."""
    public, n2 = secret().public, N * N
    expected = (1 + number * N) * pow(pow(int(public.h), N, n2), exponent, n2) % n2
    assert encryptor().encrypt_with([number], [exponent]) == [expected]
    own = Encryptor(public, Exponents.HALF, draw(1), secret=secret())
    assert own.encrypt_with([number], [exponent]) == [expected]


@settings(max_examples=30)
@given(numbers, numbers, st.integers(-(2**64), 2**64))
def test_ciphertexts_add_and_multiply(one: int, other: int, factor: int) -> None:
    key, public = secret(), secret().public
    a, b = encryptor().encrypt([one, other])
    assert key.decrypt(public.add(a, b)) == (one + other) % N
    assert public.add_all([a, b], [b, b]) == [public.add(a, b), public.add(b, b)]
    assert key.decrypt(public.multiply(a, factor)) == one * factor % N
    assert key.decrypt(public.add(a, public.plain(other))) == (one + other) % N
    assert key.decrypt(public.add(a, public.plain(-other))) == (one - other) % N


def test_rerandomised_it_is_another_ciphertext_of_the_same_number() -> None:
    (one,) = encryptor().encrypt([5])
    again = {int(c) for c in encryptor().rerandomise([one] * 20)}
    assert len(again | {int(one)}) == 21
    assert {int(secret().decrypt(c)) for c in again} == {5}
    assert len({*map(int, encryptor().encrypt([5] * 20))}) == 20, "and no two encryptions are alike"


@pytest.mark.parametrize("exponents", Exponents)
def test_both_lengths_of_exponents_read_alike(exponents: Exponents) -> None:
    key = secret()
    one = Encryptor(key.public, exponents, draw(3))
    bits = key.public.exponent_bits(exponents)
    assert key.decrypt(one.encrypt([7])[0]) == 7
    assert max(int(r).bit_length() for r in one.exponents(64)) == bits
    assert bits == {Exponents.HALF: BITS // 2, Exponents.SHORT: BITS // 4}[exponents]


def test_exponents_of_real_keys_are_as_long_as_their_strength_asks_for() -> None:
    for bits, half, short in ((2048, 1024, 448), (3072, 1536, 512)):
        n = (1 << bits) - 1  # no modulus, but of its size
        key = PublicKey(n, next(h for h in range(2, 99) if jacobi_one(h, n)))
        assert (key.exponent_bits(Exponents.HALF), key.exponent_bits(Exponents.SHORT)) == (half, short)
        assert key.ciphertext_bytes == 2 * bits // 8


def jacobi_one(h: int, n: int) -> bool:
    try:
        PublicKey(n, h)
    except UsageError:
        return False
    return True


def test_a_number_that_is_no_residue_is_not_encrypted() -> None:
    for wrong in (-1, N, N + 5):
        with pytest.raises(UsageError, match="negative, or not below"):
            encryptor().encrypt([1, wrong])
    assert secret().decrypt(encryptor().encrypt([N - 1])[0]) == N - 1


def test_no_number_is_taken_for_a_ciphertext_that_is_none() -> None:
    key, (good,) = secret(), encryptor().encrypt([1])
    for wrong in (0, -1, N * N, N * N + int(good), N, 5 * N, int(key.p), int(key.q) ** 2):
        with pytest.raises(Reject, match="none under this key"):
            key.decrypt(wrong)
        with pytest.raises(Reject, match="none under this key"):
            key.public.accept([good, good, wrong, good])
    key.public.accept([])
    key.public.accept([1, good, N * N - 1])


def test_production_makes_and_takes_no_small_key() -> None:
    small = secret().public
    for bits in (256, 1024, 2047, 2056, 4096):
        with pytest.raises(UsageError, match=f"key of {bits:,} bits"):
            generate(bits, draw(1))
    with pytest.raises(UsageError, match="256 bits"):
        PublicKey(small.n, small.h)
    with pytest.raises(Reject, match="256 bits"):
        PublicKey.from_bytes(small.to_bytes())
    with pytest.raises(UsageError, match="32 bits"):
        generate(32, draw(1), test_only=True)


def test_a_key_travels_in_bytes_of_one_spelling() -> None:
    public = secret().public
    data = public.to_bytes()
    assert same_key(PublicKey.from_bytes(data, test_only=True), public)
    version, n, h = codec.decode(data, tuple, limit=KEY_BYTES_MAX)
    assert (version, int.from_bytes(n, "big"), int.from_bytes(h, "big")) == (1, public.n, public.h)
    zeros = bytes(len(n) - 1)
    odd_one_out = next(number for number in range(2, 99) if not jacobi(number))
    for wrong in (
        (2, n, h),  # another version
        (1, n, h[1:]),
        (1, b"\0" + n, b"\0" + h),  # another spelling
        (1, n[:-1] + bytes([n[-1] ^ 1]), h),  # even
        (1, n, zeros + b"\1"),  # hides nothing
        (1, n, zeros + b"\0"),
        (1, n, (N - 1).to_bytes(len(n), "big")),
        (1, n, n),
        (1, n, odd_one_out.to_bytes(len(n), "big")),  # no power of -x**2 is like this
        (1, n),
        (1, n, h, h),
    ):
        with pytest.raises(Reject):
            PublicKey.from_bytes(codec.encode(wrong), test_only=True)
    for garbage in (b"", b"\x93", data[:-1], data + b"\0", bytes(KEY_BYTES_MAX + 1)):
        with pytest.raises(Reject):
            PublicKey.from_bytes(garbage, test_only=True)


def jacobi(h: int) -> bool:
    """Whether the symbol over n is 1, by Euler's criterion at both primes."""
    return all_signs(h, int(secret().p)) * all_signs(h, int(secret().q)) == 1


def all_signs(h: int, p: int) -> int:
    return 1 if pow(h, (p - 1) // 2, p) == 1 else -1


def test_a_made_key_is_what_it_says() -> None:
    for number in (1, 2, 3):
        key = secret(number)
        p, q, n, h = int(key.p), int(key.q), int(key.public.n), int(key.public.h)
        assert n == p * q
        assert n.bit_length() == BITS
        assert math.gcd(n, (p - 1) * (q - 1)) == 1
        assert math.gcd(p - 1, q - 1) == 2
        for prime in (p, q):  # -h is a square at both primes
            assert all_signs(-h, prime) == 1
            assert pow(h, prime - 1, prime) == 1 != pow(h, 2, prime)
    assert secret(1).public != secret(2).public


def test_nothing_of_a_secret_key_shows() -> None:
    text = repr(secret())
    assert str(int(secret().p)) not in text
    assert str(int(secret().q)) not in text
    with pytest.raises(UsageError, match="primes are not those"):
        PrivateKey(secret(1).public, secret(2).p, secret(2).q)
