"""A key of a size that production takes: what small keys claim holds for it, and nobody had to say that it is a test's.

Its primes are published here, so it hides nothing.
"""

from __future__ import annotations

import numpy as np
import pytest

from swarm.homomorphic import integers
from swarm.homomorphic.packing import Packing
from swarm.homomorphic.paillier import Encryptor, Exponents, PrivateKey, PublicKey
from swarm.homomorphic.primes import is_prime
from swarm.homomorphic.sums import Opening, Part, Roster, offer_bytes, read_offer
from swarm.homomorphic.threshold import SharedKey, deal
from swarm.masking.keys import Occasion
from swarm.masking.ring import Ring
from swarm.masking.statements import Close
from tests.swarm.homomorphic.keys import draw, node, textbook, update

P = (
    "f675f049e9e7df7fbc17e78434cac66169d553bc453b4a84829675af9fa036a27041aad73b94745b14ae9cbefece4f3ec81f"
    "3a540cd045d334f339ea22cd46f0d4ecc200f7e385cd018493e0e9a0d11c3929ec9d8f27a9dd436d150ae9064f21c610ad16"
    "920636a6e3ed56b25da575352ea833e15d372ed0983e4cd99fb74e9f"
)
Q = (
    "d78c3474c1bf775ed1b9701c20ec0aaa4e21a30a37a7cefb688354d16098a0b3631eda0479223c0436acb0f377fd79ac7220"
    "28d20e4359ba35c0af282f9609f2e5f2359b85c66c3f57f2fb3f464999ef55f86650133fb14cf2cc802bc9fcfcf1b1044cd6"
    "fca64c080acb01825b5228a907fd9b58f367be6fa71c9119bb07a883"
)


def key() -> PrivateKey:
    p, q = int(P, 16), int(Q, 16)
    x = int.from_bytes(draw(1)(200), "big")
    return PrivateKey(PublicKey(p * q, -x * x % (p * q)), p, q)


def test_both_primes_are_safe() -> None:
    for prime in (int(P, 16), int(Q, 16)):
        assert prime.bit_length() == 1024
        assert is_prime(prime, draw(1))
        assert is_prime((prime - 1) // 2, draw(2))


def test_a_key_of_2048_bits_has_the_sizes_that_the_reference_names() -> None:
    public = key().public
    assert (public.ciphertext_bytes, public.plaintext_bits) == (512, 2047)
    rings = {bits: Ring.fitting(bits, weight_total=4096, clip_norm_milli=10_000) for bits in (32, 36, 64)}
    assert {bits: Packing(ring, 2047).slots for bits, ring in rings.items()} == {32: 63, 36: 56, 64: 31}
    assert {bits: Packing(ring, 3071).slots for bits, ring in rings.items()} == {32: 95, 36: 85, 64: 47}
    assert PublicKey.from_bytes(public.to_bytes()) == public


@pytest.mark.skipif(not integers.GMP, reason="half a minute without gmpy2: make test-homomorphic")
def test_a_sum_of_three_is_encrypted_and_opened_by_two_of_three() -> None:
    secret = key()
    nodes = [node(number) for number in range(3)]
    shared, shares = deal(secret, nodes, 2, draw(2))
    assert SharedKey.from_bytes(shared.to_bytes()).digest == shared.digest
    ring = Ring.fitting(36, weight_total=4096, clip_norm_milli=10_000)
    roster = Roster(Occasion(bytes(32), 1, 1), ring, 70, shared, tuple(zip(nodes, (1, 2, 3), strict=True)))
    encryptor = Encryptor(secret.public, Exponents.SHORT, draw(3))
    parts = [Part(roster, one, encryptor=encryptor, draw=draw(4), share=shares[at]) for at, one in enumerate(nodes)]
    updates = [ring.on_grid(update(number, 70)) for number in range(3)]
    offered = [part.offer(one) for part, one in zip(parts, updates, strict=True)]
    assert len(offered[0]) - offer_bytes(roster) in range(64)
    assert offer_bytes(roster) == 2 * 512 + 528
    offers = {one: read_offer(data, roster, one) for one, data in zip(nodes, offered, strict=True)}
    opening = Opening(roster, Close(1, tuple(nodes)), offers)
    for number in (2, 0):
        assert opening.take(nodes[number], parts[number].answer(opening) or b"") == ()
    sums = opening.sums()
    expected = sum(weight * one.astype(np.float64) for weight, one in zip((1, 2, 3), updates, strict=True))
    assert sums is not None
    assert np.array_equal(sums * 2.0**-32, expected)
    first = textbook(secret).decrypt(opening.total[0])
    assert first == secret.decrypt(opening.total[0])
    assert first % 2**36 == (int(sums[0]) >> (32 - ring.fraction)) + 6 * ring.steps_max
