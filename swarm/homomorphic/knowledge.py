"""A proof that whoever offers ciphertexts knows what is in them.

Without it a sum of Paillier ciphertexts keeps no secret from a member. Ciphertexts can be computed with, so the last
one to offer takes the product of all others' offers but one to the power of -1 and calls that its own: in the sum they
are gone, and the one update that is left is read by everybody. Or it copies another's, to see it twice. Neither knows
what is in what it offers. Masks need no such proof, as masked words are of no use to anybody else.

For a list of ciphertexts c_j = (1 + n)**m_j * (h**r_j)**n there is one proof. All are weighted into one by numbers w_j
that follow from a hash of the list, C = prod c_j**w_j, which encrypts M = sum w_j m_j with R = h**(sum w_j r_j); then
(Cramer, Damgård & Nielsen 2001; by hash):

    a = (1 + n)**x * u**n          x below n and u random; only its hash is sent
    e = hash(context, list, a)
    z = x + e M modulo n,   y = u R**e modulo n
    checked: (1 + n)**z * y**n * C**-e hashes to e as a does

From answers to two challenges m and r of C follow, as e - e' is coprime to n; from lists of weights that differ in one
place those of each c_j. *Context* is everything that the offer is for, and by whom: a proof is of no use elsewhere.

That somebody knows a number says nothing about its size. Proofs of ranges cost far more, and there are none here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from swarm.errors import Reject
from swarm.homomorphic import fiat_shamir, integers
from swarm.homomorphic.fiat_shamir import CHALLENGE_BYTES
from swarm.homomorphic.integers import Draw, power, product_of_powers
from swarm.homomorphic.paillier import Encryptor, PublicKey

_PURPOSE = "knowledge"


def proof_bytes(key: PublicKey) -> int:
    """Return the size of a proof, however many ciphertexts it is of: 528 bytes for keys of 2,048 bits."""
    return CHALLENGE_BYTES + 2 * key.bits // 8


def prove(
    encryptor: Encryptor,
    context: bytes,
    data: bytes,
    ciphertexts: Sequence[int],
    numbers: Sequence[int],
    exponents: Sequence[int],
    draw: Draw,
) -> bytes:
    """Return the proof of knowing `numbers`, encrypted with `exponents` as `ciphertexts`, whose bytes are `data`."""
    key = encryptor.key
    n, squared = key.n, key.n_squared
    seed = _seed(key, context, data)
    weights = fiat_shamir.weights(_PURPOSE, seed, len(ciphertexts))
    number = sum((w * m for w, m in zip(weights, numbers, strict=True)), 0) % n
    hidden = power(key.h, sum((w * r for w, r in zip(weights, exponents, strict=True)), 0), n)
    x, u = integers.below(n, draw), _unit(key, draw)
    committed = key.plain(x) * power(u, n, squared) % squared
    e = _challenge(key, seed, committed)
    z, y = (x + e * number) % n, u * power(hidden, e, n) % n
    size = key.bits // 8
    return e.to_bytes(CHALLENGE_BYTES, "big") + integers.to_bytes(z, size) + integers.to_bytes(y, size)


def check(key: PublicKey, context: bytes, data: bytes, ciphertexts: Sequence[int], proof: bytes) -> None:
    """Raise `Reject` unless this proves that who made it knows what is in the ciphertexts, which `data` are.

    `PublicKey.accept` has let the ciphertexts through.
    """
    size = key.bits // 8
    e, z = int.from_bytes(proof[:CHALLENGE_BYTES], "big"), integers.from_bytes(proof[CHALLENGE_BYTES:-size])
    y = integers.from_bytes(proof[-size:])
    right = len(proof) == proof_bytes(key) and z < key.n and 0 < y < key.n and integers.coprime((y,), key.n)
    if right:
        squared, seed = key.n_squared, _seed(key, context, data)
        weights = fiat_shamir.weights(_PURPOSE, seed, len(ciphertexts))
        weighted = product_of_powers(ciphertexts, weights, squared)
        committed = key.plain(z) * power(y, key.n, squared) * power(weighted, -e, squared) % squared
        right = e == _challenge(key, seed, committed)
    if not right:
        raise Reject("couldn't take ciphertexts: there is no proof that who offers them knows what is in them")


def _seed(key: PublicKey, context: bytes, data: bytes) -> bytes:
    return fiat_shamir.digest(_PURPOSE, key.to_bytes(), context, hashlib.sha256(data).digest())


def _challenge(key: PublicKey, seed: bytes, committed: int) -> int:
    return fiat_shamir.challenge(_PURPOSE, seed, integers.to_bytes(committed, key.ciphertext_bytes))


def _unit(key: PublicKey, draw: Draw) -> int:
    """Return a random number with an inverse modulo n: nearly every one has."""
    while True:
        found = integers.below(key.n, draw)
        if found and integers.coprime((found,), key.n):
            return found
