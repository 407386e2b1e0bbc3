"""Ed25519 in plain integers, as RFC 8032 section 5.1 defines it: slow, open about every step, for tests only.

It shares nothing with libsodium, so that what both say of a vector is said twice.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P

Point: TypeAlias = tuple[int, int]

NEUTRAL: Point = (0, 1)


def add(a: Point, b: Point) -> Point:
    """Affine addition on -x² + y² = 1 + d x² y²; complete, so it doubles too."""
    (x1, y1), (x2, y2) = a, b
    product = D * x1 * x2 * y1 * y2 % P
    inverse = pow((1 + product) * (1 - product), -1, P)
    x = (x1 * y2 + x2 * y1) * inverse * (1 - product) % P
    y = (y1 * y2 + x1 * x2) * inverse * (1 + product) % P
    return x, y


def times(scalar: int, point: Point) -> Point:
    """Return `scalar` times `point`, bit by bit."""
    total = NEUTRAL
    while scalar:
        if scalar & 1:
            total = add(total, point)
        point = add(point, point)
        scalar >>= 1
    return total


def negative(point: Point) -> Point:
    """Return the inverse of a point."""
    return -point[0] % P, point[1]


def compressed(point: Point) -> bytes:
    """Return the one canonical encoding of a point."""
    x, y = point
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decompressed(data: bytes) -> Point | None:
    """Return the point that 32 bytes stand for, or None; leniently: y may exceed p, and zero may be negative."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, number % 2**255 % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - square) % P:
        return None
    return (-x % P if x & 1 != sign else x), y


_base = decompressed((4 * pow(5, -1, P) % P).to_bytes(32, "little"))
assert _base is not None
BASE: Point = _base
"""The generator: y = 4/5, x even."""


def challenge(r: bytes, key: bytes, message: bytes) -> int:
    """Return k = SHA-512(R ‖ A ‖ M) mod L."""
    return int.from_bytes(hashlib.sha512(r + key + message).digest(), "little") % L


def expanded(seed: bytes) -> tuple[int, bytes]:
    """Return the clamped secret scalar of a seed, and the prefix that makes its nonces."""
    digest = hashlib.sha512(seed).digest()
    low = bytearray(digest[:32])
    low[0] &= 248
    low[31] = low[31] & 127 | 64
    return int.from_bytes(low, "little"), digest[32:]


def public_key(seed: bytes) -> bytes:
    """Return the public key of a seed."""
    return compressed(times(expanded(seed)[0], BASE))


def sign(seed: bytes, message: bytes) -> bytes:
    """Return the signature of `message` (RFC 8032 section 5.1.6)."""
    secret, prefix = expanded(seed)
    key = compressed(times(secret, BASE))
    nonce = int.from_bytes(hashlib.sha512(prefix + message).digest(), "little") % L
    r = compressed(times(nonce, BASE))
    return r + ((nonce + challenge(r, key, message) * secret) % L).to_bytes(32, "little")


def holds(key: bytes, message: bytes, signature: bytes, *, cofactored: bool) -> bool:
    """Whether S·B = R + k·A, or the same times 8; nothing else is asked."""
    a, r, s = decompressed(key), decompressed(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None:
        return False
    rest = add(times(s, BASE), negative(add(r, times(challenge(signature[:32], key, message), a))))
    return (times(8, rest) if cofactored else rest) == NEUTRAL
