"""Keys that hide nothing: of 256 bits, made once, from a seed. And Paillier's scheme as a textbook has it."""

from __future__ import annotations

import functools
import hashlib
import math
import random

import numpy as np

from swarm.homomorphic.integers import Draw
from swarm.homomorphic.paillier import Encryptor, Exponents, PrivateKey, PublicKey, generate
from swarm.homomorphic.threshold import KeyShare, SharedKey, deal
from swarm.machine import NodeId
from swarm.vector import Vector

BITS = 256


def draw(seed: int) -> Draw:
    return random.Random(seed).randbytes


def node(number: int) -> NodeId:
    return NodeId(hashlib.sha256(b"holder %d" % number).digest())


def update(number: int, elements: int = 23) -> Vector:
    return np.random.default_rng(number).standard_normal(elements).astype(np.float32)


@functools.cache
def secret(number: int = 1) -> PrivateKey:
    return generate(BITS, draw(number), test_only=True)


@functools.cache
def encryptor(number: int = 1) -> Encryptor:
    return Encryptor(secret(number).public, Exponents.HALF, draw(100 + number))


@functools.cache
def shared(holders: int, threshold: int) -> tuple[SharedKey, tuple[KeyShare, ...]]:
    return deal(secret(), [node(number) for number in range(holders)], threshold, draw(7))


class Textbook:
    """Paillier 1999, scheme 1, with g = 1 + n: nothing but `pow`, and lambda in place of the Chinese remainders."""

    def __init__(self, p: int, q: int) -> None:
        self.n = p * q
        self.carmichael = math.lcm(p - 1, q - 1)

    def encrypt(self, m: int, r: int) -> int:
        return pow(1 + self.n, m, self.n**2) * pow(r, self.n, self.n**2) % self.n**2

    def decrypt(self, c: int) -> int:
        def log(u: int) -> int:
            return (u - 1) // self.n

        above = log(pow(int(c), self.carmichael, self.n**2))
        below = log(pow(1 + self.n, self.carmichael, self.n**2))
        return above * pow(below, -1, self.n) % self.n


def textbook(key: PrivateKey) -> Textbook:
    return Textbook(int(key.p), int(key.q))


def same_key(one: PublicKey, other: PublicKey) -> bool:
    return one == other and one.to_bytes() == other.to_bytes()
