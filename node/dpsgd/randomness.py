"""Secret randomness for privacy: who is in a batch, and the noise. Nobody may predict it, this site's seed included.

A guarantee that rests on noise ends where the noise can be guessed. So none of it comes from PyTorch's generator, which
on a processor is a Mersenne twister seeded with 32 bits, nor from a run's reproducible seed. Each draw takes a fresh
256-bit key from the operating system and runs AES in counter mode with it: what one draw used says nothing of another.
Normals are Box and Muller's of 53-bit uniforms, in float64; the largest is 8.6 standard deviations, beyond which a
normal has a chance of 1e-17.

**The floating-point attack** (Mironov 2012, "On significance of the least significant bits"). A sum of a value and
noise, both in floating point, can be a number that only some values could have led to. Here the sum is made in float64
and rounded, once, to a grid of 2^-20 of the noise's deviation: the low bits that attack reads are not in what leaves.
That is a defence in practice and no proof; a proof takes noise that is drawn as integers (Canonne, Kamath & Steinke
2020).
"""

from __future__ import annotations

import math
import os

import numpy as np
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES
from cryptography.hazmat.primitives.ciphers.modes import CTR
from numpy.typing import NDArray

BLOCK = 1 << 16
"""Values drawn at once, so that they stay in the processor's cache."""

GRID = 2.0**-20
"""Spacing of what is released, in standard deviations of the noise."""


def uniforms(count: int) -> NDArray[np.float64]:
    """Return so many uniform numbers, multiples of 2^-53 above 0 and up to 1."""
    cipher = Cipher(AES(os.urandom(32)), CTR(bytes(16))).encryptor()
    words = np.frombuffer(cipher.update(bytes(8 * count)), dtype="<u8")
    return ((words >> np.uint64(11)) + np.uint64(1)).astype(np.float64) * 2.0**-53


def drawn(records: int, rate: float) -> NDArray[np.int64]:
    """Return which of so many records are in a batch, each by itself with chance `rate`. There may be none."""
    return np.flatnonzero(uniforms(records) <= rate)


def normals(count: int) -> NDArray[np.float64]:
    """Return so many independent standard normal numbers."""
    found = np.empty(count + count % 2)
    for start in range(0, found.size, BLOCK):
        part = found[start : start + BLOCK]
        half = part.size // 2
        draws = uniforms(part.size)
        radius = np.sqrt(-2.0 * np.log(draws[:half]))
        angle = (2.0 * math.pi) * draws[half:]
        np.multiply(radius, np.cos(angle), out=part[:half])
        np.multiply(radius, np.sin(angle), out=part[half:])
    return found[:count]


def noisy(values: NDArray[np.float64], deviation: float) -> NDArray[np.float64]:
    """Return values with normal noise of this deviation, on the grid. `deviation` 0 adds nothing and rounds nothing."""
    if deviation == 0.0:
        return values
    spacing = deviation * GRID
    return np.rint((values + deviation * normals(values.size).reshape(values.shape)) / spacing) * spacing
