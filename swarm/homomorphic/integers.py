"""Integers of thousands of bits: GMP's where it is installed, Python's own where not, the same numbers either way.

The one file that knows gmpy2 (extra `homomorphic`). Everything above it is written once, for `int`; gmpy2's integers
are used like it, and `natural` is where a number becomes one. Without gmpy2 all of it works and takes six to eight
times as long: `GMP` says which it is, so that whoever measures can say so.

*Nothing here takes constant time.* GMP, and Python more so, spends less time on some numbers than on others, tables are
read at places that follow from secrets. Who can measure single operations at a
site closely enough, from the same machine above all, may learn of its keys and random exponents. So operations on
secrets belong where nobody else's code runs, and their answers leave in batches: a time that can be seen from outside
is then that of thousands of operations. Keys that must withstand a neighbour on the same processor belong in hardware.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TypeAlias, cast

import numpy as np

Draw: TypeAlias = Callable[[int], bytes]
"""So many random bytes: from the system's source in production, from a seed in tests."""

try:
    import gmpy2
except ImportError:
    GMP = False
    """Whether GMP does the arithmetic."""

    natural: Callable[[int], int] = int
    """Make a number one that is quick to compute with."""

    power: Callable[[int, int, int], int] = pow
    """Return base ** exponent modulo an odd modulus; a negative exponent takes a base that has an inverse."""

    _divisor: Callable[[int, int], int] = math.gcd
else:
    GMP = True
    natural = cast("Callable[[int], int]", gmpy2.mpz)
    power = cast("Callable[[int, int, int], int]", gmpy2.powmod)
    _divisor = cast("Callable[[int, int], int]", gmpy2.gcd)

_BLOCK = 256
"""Powers taken together."""

_SPARE_BYTES = 16
"""More than a bound takes: no residue is likelier than another by more than 2**-128."""


def inverse(value: int, modulus: int) -> int:
    """Return 1 / value modulo `modulus`. The caller knows that there is one; `ValueError` or its kin says otherwise."""
    return power(value, -1, modulus)


def coprime(values: Sequence[int], modulus: int) -> bool:
    """Whether each value has an inverse: their product has one then, and only then."""
    product = natural(1)
    for value in values:
        product = product * value % modulus
    return _divisor(product, modulus) == 1


def inverses(values: Sequence[int], modulus: int) -> list[int]:
    """Return 1 / value for each value, from one inversion and three products a value (Montgomery 1987)."""
    before, product = [], natural(1)
    for value in values:
        before.append(product)
        product = product * value % modulus
    left, found = inverse(product, modulus), []
    for value, prefix in zip(reversed(values), reversed(before), strict=True):
        found.append(left * prefix % modulus)
        left = left * value % modulus
    return found[::-1]


def product_of_powers(bases: Sequence[int], exponents: Sequence[int], modulus: int) -> int:
    """Return the product of base ** exponent over all, exponents 0 or more, by bucket (Pippenger 1976).

    For each stretch of binary digits, bases with the same digit are multiplied first: some 128 / log2(bases) products
    a base for exponents of 128 bits, where a power at a time takes 190.
    """
    window = max(1, min(16, len(bases).bit_length() - 2))
    longest = max((int(exponent).bit_length() for exponent in exponents), default=0)
    mask, total = (1 << window) - 1, natural(1)
    for shift in range(-(-longest // window) * window - window, -1, -window):
        for _ in range(window):
            total = total * total % modulus
        buckets: list[int] = [natural(1)] * (mask + 1)
        for base, exponent in zip(bases, exponents, strict=True):
            digit = exponent >> shift & mask
            if digit:
                buckets[digit] = buckets[digit] * base % modulus
        running = product = natural(1)
        for bucket in reversed(buckets[1:]):  # bucket d is taken d times: once in each running product from d down
            running = running * bucket % modulus
            product = product * running % modulus
        total = total * product % modulus
    return total


class FixedBase:
    """Powers of one number, looked up: a table of base ** (digit * 2 ** (window * place)), and a product a digit.

    Brickell, Gordon, McCurley & Wilson 1992. The table has 2 ** window numbers for each `window` bits of the longest
    exponent. For 1,024 bits of it, modulo 4,096 bits:

    | window | numbers | MB | products a power |
    |---|---|---|---|
    | 8 | 32,768 | 18 | 128 |
    | 10 | 105,472 | 58 | 103 |
    """

    def __init__(self, base: int, modulus: int, bits: int, window: int = 8) -> None:
        assert 1 <= window <= 12, "a table that has room"
        self._modulus, self._window = modulus, window
        self._rows: list[list[int]] = []
        step = natural(base)
        for _ in range(-(-bits // window)):
            row = [natural(1)]
            for _ in range((1 << window) - 1):
                row.append(row[-1] * step % modulus)
            self._rows.append(row)
            step = row[-1] * step % modulus

    def powers(self, exponents: Sequence[int]) -> list[int]:
        """Return base ** exponent for each, of no more bits than the table has."""
        found: list[int] = []
        for start in range(0, len(exponents), _BLOCK):
            some = exponents[start : start + _BLOCK]
            modulus, totals = self._modulus, [natural(1)] * len(some)
            # A row for all of a block, then the next: a row has its place in the processor's cache, the table has not.
            for row, digits in zip(self._rows, self._digits(some), strict=True):
                totals = [total * row[digit] % modulus for total, digit in zip(totals, digits, strict=True)]
            found += totals
        return found

    def _digits(self, exponents: Sequence[int]) -> list[list[int]]:
        """Return, for each place from the lowest, the digits of all exponents there."""
        rows, window = len(self._rows), self._window
        assert max(int(exponent).bit_length() for exponent in exponents) <= rows * window, "as long as the table"
        size = -(-rows * window // 8)
        data = b"".join([int(exponent).to_bytes(size, "little") for exponent in exponents])
        table = np.frombuffer(data, np.uint8).reshape(len(exponents), size)
        bits = np.unpackbits(table, axis=1, count=rows * window, bitorder="little")
        digits: list[list[int]] = (bits.reshape(-1, rows, window) @ (1 << np.arange(window))).T.tolist()
        return digits


def below(bound: int, draw: Draw) -> int:
    """Return a random number from 0 to bound - 1."""
    size = (int(bound).bit_length() + 7) // 8 + _SPARE_BYTES
    return natural(int.from_bytes(draw(size), "big") % int(bound))


def of_bits(bits: int, draw: Draw) -> int:
    """Return a random number of at most so many bits."""
    return natural(int.from_bytes(draw((bits + 7) // 8), "big") >> -bits % 8)


def to_bytes(value: int, size: int) -> bytes:
    """Return a number of at most `size` bytes as it travels, the highest first."""
    return int(value).to_bytes(size, "big")


def from_bytes(data: bytes) -> int:
    """Return the number that was written so."""
    return natural(int.from_bytes(data, "big"))


def many_to_bytes(values: Sequence[int], size: int) -> bytes:
    """Return numbers one after the other, each in `size` bytes."""
    return b"".join([int(value).to_bytes(size, "big") for value in values])


def many_from_bytes(data: bytes, size: int) -> tuple[int, ...]:
    """Return the numbers that were written so."""
    assert len(data) % size == 0, "whole numbers"
    return tuple(from_bytes(data[start : start + size]) for start in range(0, len(data), size))
