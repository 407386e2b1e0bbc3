"""Safe primes: p = 2p' + 1 with p' prime as well, found by a sieve and proven by what finds them.

A modulus of two safe primes is what threshold decryption asks for (Shoup 2000): the squares modulo n**2 are one cyclic
group whose order n p' q' has no small factor, so that a random square generates it and a proof about one of its
elements cannot be cheated by one of small order. It costs seconds once, and makes every key fit for being shared.
Nothing else here needs it: strong primes do not make n harder to factor by the methods that are known today.
"""

from __future__ import annotations

import functools

import numpy as np

from swarm.homomorphic.integers import Draw, below, natural, of_bits, power

SIEVE_MAX = 1 << 17
"""Small primes up to here strike candidates out: of 1,024 bits six in a thousand are left, one in 500 of them good."""

WINDOW = 1 << 18
"""Candidates looked at from one random start, before another is drawn. Of 1,024 bits one in some 95,000 is good."""

ROUNDS = 40
"""Of Miller and Rabin's test: a number that is no prime passes with less than 4**-40."""


def safe_prime(bits: int, draw: Draw) -> int:
    """Return a random safe prime of exactly so many bits, at least 16, the two highest set: two make a full modulus."""
    assert bits >= 16, "room for a sieve"
    while True:
        start = of_bits(bits - 1, draw) | 3 << (bits - 3) | 1
        for offset in _survivors(int(start), bits):
            half = start + 2 * offset
            if half.bit_length() != bits - 1:
                break
            whole = 2 * half + 1
            # Fermat's test to the base 2 first: nearly everything that is no prime ends here.
            if power(2, half - 1, half) == 1 == power(2, whole - 1, whole) and is_prime(half, draw):
                # p' is a prime larger than sqrt(p) that divides p - 1, 2**(p - 1) is 1, and 2**2 - 1 = 3 is coprime to
                # p: so p is a prime, by Pocklington's criterion.
                return whole


def is_prime(value: int, draw: Draw) -> bool:
    """Whether a number is a prime, but for a chance of 4**-40 (Miller 1976, Rabin 1980)."""
    if value < 2 or value % 2 == 0:
        return value == 2
    if value < 9:
        return True
    odd, twos = value - 1, 0
    while odd % 2 == 0:
        odd, twos = odd // 2, twos + 1
    for _ in range(ROUNDS):
        base = 2 + below(value - 3, draw)
        x = power(base, odd, value)
        if x in (1, value - 1):
            continue
        for _ in range(twos - 1):
            x = x * x % value
            if x == value - 1:
                break
        else:
            return False
    return True


def _survivors(start: int, bits: int) -> list[int]:
    """Return the offsets at which neither start + 2 offset nor twice that plus 1 has a small prime factor."""
    alive, big = np.ones(WINDOW, np.bool_), natural(start)
    for prime in _small_primes():
        if int(prime).bit_length() >= bits - 1:
            break  # A candidate this small could be the prime itself.
        rest, half = int(big % prime), (prime + 1) // 2
        alive[-rest * half % prime :: prime] = False  # start + 2 o = 0, so o = -start / 2
        alive[((prime - 1) // 2 - rest) * half % prime :: prime] = False  # 2 (start + 2 o) + 1 = 0
    return [int(offset) for offset in np.flatnonzero(alive)]


@functools.cache
def _small_primes() -> tuple[int, ...]:
    """Return the odd primes below `SIEVE_MAX` (Eratosthenes)."""
    alive = np.ones(SIEVE_MAX, np.bool_)
    alive[:3] = alive[4::2] = False
    for value in range(3, int(SIEVE_MAX**0.5) + 1, 2):
        if alive[value]:
            alive[value * value :: value] = False
    return tuple(int(value) for value in np.flatnonzero(alive))
