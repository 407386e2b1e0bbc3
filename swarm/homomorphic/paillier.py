"""Paillier's scheme: numbers that can be added, and multiplied by known ones, without being read.

Paillier 1999, in the form of Damgård, Jurik & Nielsen 2010 (DJN) for s = 1. With n = p q and h = -x**2 modulo n for a
random x, a number m below n is encrypted as

    c = (1 + m n) * (h**n)**r  modulo n**2,      r random,

and whoever knows p and q reads it. The product of two ciphertexts encrypts the sum of what is in them, the k-th power
the k-fold; both modulo n, so whoever adds knows that there is room (`swarm.homomorphic.packing` does).

*What it rests on.* That nobody can tell n-th powers modulo n**2 from other residues (DCRA; so nobody can factor n), and
on how long r is. That is a choice which has to be made out loud, since a shorter r is more than twice as fast:

- `HALF`: half as many bits as n. Powers of h with such exponents look like those with full ones if moduli of this kind
  cannot be factored (Goldreich & Rosen 2003, whom DJN follow here). Nothing new is assumed. The default.
- `SHORT`: four times the strength of the key, 448 bits for n of 2,048 and 512 for 3,072. No proof comes with it, only
  that the best known ways to find such a discrete logarithm take 2**224 steps and more. It is an assumption of its own.

*Keys.* 2,048 bits of n are worth 112 bits of strength, 3,072 are worth 128 (NIST SP 800-57, table 2). Both primes are
safe ones, see `swarm.homomorphic.primes`, so every key can be shared by threshold. Who makes a key can read everything
under it, and could make it so that others can as well (an h of small order hides nothing): take keys only from those
who may read. Paillier's scheme falls to a quantum computer, today's ciphertexts with it.

*From outside.* A number is taken for a ciphertext only if it is one: from 1 to n**2 - 1, and coprime to n. Anybody can
make another from it, of the same or any related number; who must not be able to has to ask for a proof
(`swarm.homomorphic.knowledge`). What is sent back to somebody who knows what went in is re-randomised first, or it can
be confirmed by trying.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.homomorphic import integers
from swarm.homomorphic.integers import Draw, FixedBase, inverse, natural, power
from swarm.homomorphic.primes import safe_prime

STRENGTHS = {2048: 112, 3072: 128}
"""Of keys, in bits, by the bits of n."""

TEST_BITS_MIN = 64
"""Of keys that hide nothing, for tests: primes of 32 bits."""

KEY_VERSION = 1
KEY_BYTES_MAX = 1_024
"""Largest public key: two numbers of 384 bytes."""


class Exponents(enum.Enum):
    """How long the random exponents are: see above for what each choice assumes."""

    HALF = "half"
    SHORT = "short"


class _KeyBytes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A public key as it travels: both numbers in as many bytes as n has."""

    version: int
    n: bytes
    h: bytes


@dataclass(frozen=True)
class PublicKey:
    """What encrypts and adds.

    Args:
        n: The modulus.
        h: Minus a square modulo n: its powers hide.
        test_only: Whether n may have other sizes than `STRENGTHS` has. Such a key hides nothing; only tests say so.

    Raises:
        UsageError: n has another size, or these numbers are no key.
    """

    n: int
    h: int
    test_only: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        sizes = ", ".join(f"{bits:,}" for bits in STRENGTHS)
        if self.bits not in STRENGTHS and not (self.test_only and self.bits >= TEST_BITS_MIN and self.bits % 8 == 0):
            raise UsageError(
                f"couldn't take a Paillier key of {self.bits:,} bits", hint=f"make one of {sizes} bits, and no other"
            )
        if self.n % 2 == 0 or not 1 < self.h < self.n - 1 or _jacobi(self.h, self.n) != 1:
            raise UsageError(
                "couldn't take a Paillier key: its numbers are not those of one", hint="have it made and sent again"
            )
        object.__setattr__(self, "n", natural(self.n))
        object.__setattr__(self, "h", natural(self.h))

    @property
    def bits(self) -> int:
        """Of n."""
        return int(self.n).bit_length()

    @property
    def plaintext_bits(self) -> int:
        """What every number of so many bits is below n."""
        return self.bits - 1

    @property
    def ciphertext_bytes(self) -> int:
        """Of each ciphertext."""
        return 2 * self.bits // 8

    @cached_property
    def n_squared(self) -> int:
        """The modulus of ciphertexts."""
        return self.n * self.n

    def exponent_bits(self, exponents: Exponents) -> int:
        """Return how many bits random exponents have."""
        if exponents is Exponents.HALF:
            return self.bits // 2
        return 4 * STRENGTHS[self.bits] if self.bits in STRENGTHS else self.bits // 4

    # --- computing on what is not read -----------------------------------------------------------------------------

    def add(self, one: int, other: int) -> int:
        """Return a ciphertext of the sum of what two encrypt."""
        return one * other % self.n_squared

    def add_all(self, some: Sequence[int], others: Sequence[int]) -> list[int]:
        """Return ciphertexts of the sums, one by one, of what two lists of the same length encrypt."""
        modulus = self.n_squared
        return [one * other % modulus for one, other in zip(some, others, strict=True)]

    def multiply(self, ciphertext: int, factor: int) -> int:
        """Return a ciphertext of `factor` times what one encrypts; the factor may be negative. Modulo n, as all is."""
        return power(ciphertext, factor, self.n_squared)

    def plain(self, number: int) -> int:
        """Return the ciphertext of a number without any randomness: to be added to others, never to be sent."""
        return (1 + self.n * (natural(number) % self.n)) % self.n_squared

    # --- from outside ----------------------------------------------------------------------------------------------

    def accept(self, ciphertexts: Sequence[int]) -> None:
        """Raise `Reject` unless each number is a ciphertext. One product a number, and one greatest common divisor."""
        above = self.n_squared
        if not all(0 < one < above for one in ciphertexts) or not integers.coprime(ciphertexts, self.n):
            raise Reject("couldn't take ciphertexts: a number among them is none under this key")

    def to_bytes(self) -> bytes:
        """Return the key as it travels."""
        size = self.bits // 8
        return codec.encode(_KeyBytes(KEY_VERSION, integers.to_bytes(self.n, size), integers.to_bytes(self.h, size)))

    @classmethod
    def from_bytes(cls, data: bytes, *, test_only: bool = False) -> PublicKey:
        """Return the key that was written so.

        Raises:
            Reject: it is none, or has a size that only a test would take.
        """
        found = codec.decode(data, _KeyBytes, limit=KEY_BYTES_MAX)
        n, h = integers.from_bytes(found.n), integers.from_bytes(found.h)
        if found.version != KEY_VERSION or len(found.n) != len(found.h) or 8 * len(found.n) != int(n).bit_length():
            raise Reject("couldn't read a Paillier key: its version, or the size of a number in it, is wrong")
        try:
            return cls(n, h, test_only)
        except UsageError as error:
            raise Reject(f"couldn't read a Paillier key: {error.message}") from None


class Encryptor:
    """Encrypts under one key, with a table of powers that pays for itself after some hundred numbers.

    Args:
        key: Of whom is to read.
        exponents: How long the random ones are. There is no default here: whoever makes an encryptor has chosen.
        draw: The source of randomness. Who can guess it reads everything.
        secret: The secret key, of whoever encrypts for itself: then powers are taken modulo each prime's square, which
            is a third quicker.
        window: Of the tables, see `FixedBase`: 10 for hundreds of thousands of numbers.
    """

    def __init__(
        self,
        key: PublicKey,
        exponents: Exponents,
        draw: Draw,
        *,
        secret: PrivateKey | None = None,
        window: int = 8,
    ) -> None:
        assert secret is None or secret.public == key, "the key's own"
        self.key = key
        self._draw, self._bits = draw, key.exponent_bits(exponents)
        base = power(key.h, key.n, key.n_squared)
        self._squares: tuple[int, ...] = (key.n_squared,) if secret is None else (secret.p**2, secret.q**2)
        self._tables = tuple(FixedBase(base % square, square, self._bits, window) for square in self._squares)
        self._inverse = None if secret is None else inverse(secret.p**2, secret.q**2)

    def encrypt(self, numbers: Sequence[int]) -> list[int]:
        """Return a ciphertext of each number. Raises `UsageError` unless they are from 0 to n - 1."""
        return self.encrypt_with(numbers, self.exponents(len(numbers)))

    def encrypt_with(self, numbers: Sequence[int], exponents: Sequence[int]) -> list[int]:
        """Return the ciphertexts of numbers for exponents from `exponents`, that are used once and stay here."""
        if not all(0 <= number < self.key.n for number in numbers):
            raise UsageError(
                "couldn't encrypt a number: it is negative, or not below the key's modulus",
                hint="make it a residue, or use a larger key",
            )
        return self.key.add_all([self.key.plain(number) for number in numbers], self._hiding(exponents))

    def exponents(self, count: int) -> list[int]:
        """Return so many random exponents."""
        return [integers.of_bits(self._bits, self._draw) for _ in range(count)]

    def rerandomise(self, ciphertexts: Sequence[int]) -> list[int]:
        """Return other ciphertexts of the same numbers, that cannot be told from those of any others."""
        return self.key.add_all(ciphertexts, self._hiding(self.exponents(len(ciphertexts))))

    def _hiding(self, exponents: Sequence[int]) -> list[int]:
        """Return (h**n)**exponent modulo n**2 for each: what makes a ciphertext one that cannot be read."""
        first = self._tables[0].powers(exponents)
        if self._inverse is None:
            return first
        of_p, of_q = self._squares
        second, inverse_p = self._tables[1].powers(exponents), self._inverse
        return [a + of_p * ((b - a) * inverse_p % of_q) for a, b in zip(first, second, strict=True)]


@dataclass(frozen=True)
class PrivateKey:
    """What reads: the primes. Nothing of them shows in its representation.

    Raises:
        UsageError: these are not two primes of one size that make up the public key's modulus.
    """

    public: PublicKey
    p: int = field(repr=False)
    q: int = field(repr=False)

    def __post_init__(self) -> None:
        if self.p * self.q != self.public.n or self.p == self.q or not self.p.bit_length() == self.q.bit_length():
            raise UsageError("couldn't take a secret key: its primes are not those of the public key")
        object.__setattr__(self, "p", natural(self.p))
        object.__setattr__(self, "q", natural(self.q))

    def decrypt(self, ciphertext: int) -> int:
        """Return the number that is encrypted, modulo each prime first and then put together (Paillier 1999, sect. 7).

        Raises:
            Reject: this is no ciphertext under the key.
        """
        self.public.accept((ciphertext,))
        return self.decrypt_accepted(ciphertext)

    def decrypt_accepted(self, ciphertext: int) -> int:
        """Return the number in a ciphertext that `PublicKey.accept` has let through already."""
        p, q = self.p, self.q
        p_squared, q_squared, modulo_p, modulo_q, p_inverse = self._constants
        at_p = (power(ciphertext % p_squared, p - 1, p_squared) - 1) // p * modulo_p % p
        at_q = (power(ciphertext % q_squared, q - 1, q_squared) - 1) // q * modulo_q % q
        return at_p + p * ((at_q - at_p) * p_inverse % q)

    @cached_property
    def _constants(self) -> tuple[int, int, int, int, int]:
        """Both squares; what L((1 + n)**(p - 1)) is the inverse of, modulo p; the same for q; and 1 / p modulo q."""
        p, q, n = self.p, self.q, self.public.n
        at_p = inverse((power(1 + n, p - 1, p * p) - 1) // p % p, p)
        at_q = inverse((power(1 + n, q - 1, q * q) - 1) // q % q, q)
        return p * p, q * q, at_p, at_q, inverse(p, q)


def generate(bits: int, draw: Draw, *, test_only: bool = False) -> PrivateKey:
    """Return a new key of so many bits: seconds for 2,048, the double or triple for 3,072.

    `draw` is the system's source of randomness. Keys of other sizes than `STRENGTHS` has are made for tests alone.

    Raises:
        UsageError: there are no keys of this size.
    """
    if bits not in STRENGTHS and not (test_only and bits >= TEST_BITS_MIN and bits % 16 == 0):
        known = " or ".join(f"{size:,}" for size in STRENGTHS)
        raise UsageError(f"couldn't make a Paillier key of {bits:,} bits", hint=f"make one of {known}")
    p = safe_prime(bits // 2, draw)
    q = p
    while q == p or (
        bits in STRENGTHS and int(abs(p - q)).bit_length() < bits // 2 - 100
    ):  # Fermat's method finds those
        q = safe_prime(bits // 2, draw)
    n = p * q
    assert int(n).bit_length() == bits, "the two highest bits of both primes are set"
    while True:
        x = integers.below(n, draw)
        h = -x * x % n
        if math.gcd(int(x), int(n)) == 1 and 1 < h < n - 1:
            return PrivateKey(PublicKey(n, h, test_only), p, q)


def _jacobi(value: int, modulus: int) -> int:
    """Return the Jacobi symbol of a value over an odd modulus: 1 for every h that was made as it should be."""
    value, modulus, sign = int(value) % int(modulus), int(modulus), 1
    while value:
        while value % 2 == 0:
            value //= 2
            if modulus % 8 in (3, 5):
                sign = -sign
        value, modulus = modulus, value
        if value % 4 == modulus % 4 == 3:
            sign = -sign
        value %= modulus
    return sign if modulus == 1 else 0
