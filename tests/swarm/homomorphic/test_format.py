"""The bytes are those of docs/reference/homomorphic.md: read here by what was written from that page, and by nothing else.

No function of the package is used but to make what is read: MessagePack, hashes and `pow`.
"""

from __future__ import annotations

import hashlib
import math

import msgpack
import pytest

from swarm import codec
from tests.swarm.homomorphic.keys import secret, update
from tests.swarm.homomorphic.parties import Encrypted, story, weighted
from tests.swarm.masking.members import CLOSE, LEDGER


def said(*parts: object) -> bytes:
    return hashlib.sha256(msgpack.packb(parts)).digest()


def h(purpose: str, *parts: object) -> bytes:
    return said("swarm-homomorphic/v1", purpose, *parts)


def weights(purpose: str, seed: bytes, count: int) -> list[int]:
    stream = hashlib.shake_256(msgpack.packb(("swarm-homomorphic/v1", purpose, seed))).digest(16 * count)
    return [number(stream[16 * i : 16 * i + 16]) for i in range(count)]


def number(data: bytes) -> int:
    return int.from_bytes(data, "big")


def cut(data: bytes, size: int) -> list[int]:
    return [number(data[i : i + size]) for i in range(0, len(data), size)]


class Key:
    """A key in shares, read off its bytes."""

    def __init__(self, data: bytes) -> None:
        version, self.public, self.threshold, base, holders = msgpack.unpackb(data)
        inner, n, self.h = msgpack.unpackb(self.public)
        assert version == inner == 1
        self.n, self.v, self.digest = number(n), number(base), h("shared key", data)
        self.n2, self.size = self.n**2, 2 * len(n)
        self.nodes, self.proven = [node for node, _ in holders], [number(v) for _, v in holders]
        self.factorial = math.factorial(len(holders))

    def roster(self, swarm: Encrypted) -> bytes:
        occasion = said("swarm-masking/v1", "homomorphic roster", LEDGER, 3, 1, self.digest)
        ring, flat = swarm.roster.ring, [part for seat in swarm.roster.seats for part in seat]
        return h("roster", occasion, swarm.roster.elements, ring.bits, ring.fraction, ring.weight_total, *flat)

    def product(self, bases: list[int], exponents: list[int]) -> int:
        total = 1
        for base, exponent in zip(bases, exponents, strict=True):
            total = total * pow(base, exponent, self.n2) % self.n2
        return total

    def bytes_of(self, value: int) -> bytes:
        return value.to_bytes(self.size, "big")

    def offer(self, data: bytes, roster: bytes, node: bytes) -> list[int]:
        whose, proof, ciphertexts = msgpack.unpackb(data)
        half = self.size // 2
        e, z, y = number(proof[:16]), number(proof[16 : 16 + half]), number(proof[16 + half :])
        assert whose == roster
        assert len(proof) == 16 + 2 * half
        found = cut(ciphertexts, self.size)
        seed = h("knowledge", self.public, h("offer", roster, node), hashlib.sha256(ciphertexts).digest())
        whole = self.product(found, weights("knowledge", seed, len(found)))
        a = (1 + z * self.n) * pow(y, self.n, self.n2) * pow(whole, -e, self.n2) % self.n2
        assert e == number(h("knowledge", seed, self.bytes_of(a))[:16])
        return found

    def answer(self, data: bytes, close: bytes, place: int, total: list[int]) -> list[int]:
        which, proof, shares = msgpack.unpackb(data)
        e, z, found = number(proof[:16]), number(proof[16:]), cut(shares, self.size)
        assert which == close
        assert len(proof) == 16 + (8 * self.size + self.factorial.bit_length() + 256 + 8) // 8
        sums = b"".join(map(self.bytes_of, total))
        hashes = (hashlib.sha256(data).digest() for data in (sums, shares))
        seed = h("decryption share", self.digest, place, close, *hashes)
        chosen = weights("decryption share", seed, len(total))
        c, d = self.product(total, chosen), self.product(found, chosen)
        a = pow(self.v, z, self.n2) * pow(self.proven[place - 1], -e, self.n2) % self.n2
        b = pow(c, 4 * z, self.n2) * pow(d, -2 * e, self.n2) % self.n2
        assert e == number(h("decryption share", seed, self.bytes_of(a), self.bytes_of(b))[:16])
        return found

    def combined(self, shares: dict[int, list[int]]) -> list[int]:
        places, found = sorted(shares)[: self.threshold], []
        for row in zip(*(shares[i] for i in places), strict=True):
            p = 1
            for i, share in zip(places, row, strict=True):
                above = self.factorial * math.prod(j for j in places if j != i)
                p = p * pow(share, 2 * (above // math.prod(j - i for j in places if j != i)), self.n2) % self.n2
            assert p % self.n == 1
            found.append((p - 1) // self.n * pow(4 * self.factorial**2, -1, self.n) % self.n)
        return found


def test_a_round_is_read_and_checked_by_what_the_page_says() -> None:
    swarm, _, opening = story()
    key = Key(swarm.key.to_bytes())
    roster, included = key.roster(swarm), [swarm.nodes[i] for i in (0, 1, 2, 4)]
    assert key.nodes == swarm.nodes
    total = [1] * swarm.roster.count
    offers = {node: swarm.parts[swarm.nodes.index(node)].offer(update(swarm.nodes.index(node))) for node in included}
    for node, data in offers.items():
        total = [a * b % key.n2 for a, b in zip(total, key.offer(data, roster, node), strict=True)]
    with pytest.raises(AssertionError):
        key.offer(offers[included[0]], roster, included[1])

    close = h("close", roster, msgpack.packb((CLOSE, included)))
    shares = {}
    for place in (1, 3, 4):
        data = swarm.parts[place - 1].answer(opening)
        assert data is not None
        shares[place] = key.answer(data, close, place, [int(c) for c in opening.total])
    plaintexts = key.combined(shares)
    assert plaintexts == [int(secret().decrypt(c)) for c in opening.total] == [int(secret().decrypt(c)) for c in total]

    bits = swarm.roster.ring.bits
    slots, modulus = (key.n.bit_length() - 1) // bits, 2**bits
    steps_max = (2 ** (bits - 1) - 1) // swarm.roster.ring.weight_total
    weight = sum(swarm.roster.weight(node) for node in included)
    packed = [p >> bits * i & modulus - 1 for p in plaintexts for i in range(slots)]
    words = [int(word) % modulus for word in sum(weighted(swarm, i) for i in (0, 1, 2, 4))]
    assert [(slot - weight * steps_max) % modulus for slot in packed[: len(words)]] == words
    assert not any(packed[len(words) :])


def test_a_share_of_a_key_is_written_as_the_page_says() -> None:
    swarm, _, _ = story()
    key = Key(swarm.key.to_bytes())
    for place, share in enumerate(swarm.shares, start=1):
        version, digest, where, value = codec.decode(share.to_bytes(), tuple, limit=1_000)
        assert (version, digest, where, len(value)) == (1, key.digest, place, key.size)
        assert pow(key.v, key.factorial * number(value), key.n2) == key.proven[place - 1]
