"""Keys in shares: any `threshold` of the holders read a ciphertext together, fewer learn nothing of it.

Damgård, Jurik & Nielsen 2010, for s = 1, on Shoup's way of sharing an exponent (2000). With n = p q of safe
primes, m = p' q', l holders and D = l!:

    d = 0 modulo m and 1 modulo n; the shares s_i = f(i) of a random polynomial f modulo n m with f(0) = d
    v a random square modulo n**2, and for each holder v_i = v**(D s_i): public
    a share of a decryption is c_i = c**(2 D s_i)
    of t of them: prod c_i**(2 lambda_i) = c**(4 D**2 d) = (1 + n)**(4 D**2 number), lambda_i = D prod_j j / (j - i)

lambda_i are integers, so nobody needs the order m to put shares together.

*A false share is found, and its holder named.* With its shares for a list of ciphertexts a holder gives one proof
that all were made with the exponent in its v_i. They are weighted into one (`fiat_shamir.weights`), for which Shoup's
proof of equal discrete logarithms is given: log of C_i**2 to the base C**4 is that of v_i to the base v. In squares
modulo n**2, whose order n p' q' has no small factor, weighing many into one is sound.

*Whom to trust.* The key is made and dealt by a dealer who is trusted once: it sees p and q, and could keep them and
read everything under the key for ever, without a trace. Dealing wrongly gains it nothing: holders check their shares
against the public v_i, and a decryption that does not come out is noticed. Let it be a machine without a network, with
witnesses, that is wiped; or somebody who never sees a ciphertext. Making such a key without a dealer is a protocol of
its own (Nishide & Sakurai 2010; Hazay et al. 2019), with biprimality tests on shared primes; no well-kept library has
one, and here is none. Who joins needs a new dealing; who leaves keeps its share, which counts until there is a new key.
And the key is there for long: what was offered under it years ago is read by whoever gathers enough shares one day,
where the secrets of masks are gone with their round.

*A consortium key* is threshold 1: each holder has the whole of d. It protects what is encrypted from everybody who is
no holder: relays, stores, outsiders. From holders it protects nothing, so a member that meets a single update of
another reads it. NVFlare's CKKS is this: one secret key in the start-up kit of every client, and a server that adds.

*Holders are oracles.* Whatever ciphertext they answer for is read. So a holder answers only for sums that it has made
itself from offers that are proven, of enough members, once an occasion: see `swarm.homomorphic.sums`.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from swarm import codec
from swarm.errors import Reject, UsageError
from swarm.homomorphic import fiat_shamir, integers
from swarm.homomorphic.fiat_shamir import CHALLENGE_BYTES
from swarm.homomorphic.integers import Draw, inverse, inverses, natural, power, product_of_powers
from swarm.homomorphic.paillier import KEY_BYTES_MAX, PrivateKey, PublicKey
from swarm.machine import NodeId

HOLDERS_MAX = 100
"""Of a key. Exponents grow with l!, 525 bits for 100."""

SHARED_KEY_BYTES_MAX = KEY_BYTES_MAX + (HOLDERS_MAX + 1) * 1_024
"""Largest public part: for each holder 32 bytes of name and a number of at most 768."""

KEY_SHARE_BYTES_MAX = 2_048
"""Largest share: a number of at most 768 bytes."""

VERSION = 1
NODE_BYTES = 32

_BLINDING_BITS = 2 * 8 * CHALLENGE_BYTES
"""By how much the random exponent of a proof is longer than what it hides: the challenge's bits, and as many again."""

HEDGE_BYTES = 32
"""Of fresh randomness in each proof."""

_PURPOSE = "decryption share"


class _SharedKeyBytes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    public: bytes
    threshold: int
    base: bytes
    holders: tuple[tuple[bytes, bytes], ...]


class _KeyShareBytes(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    version: int
    key: bytes
    place: int
    secret: bytes


@dataclass(frozen=True)
class SharedKey:
    """The public part of a key in shares.

    Args:
        public: What encrypts.
        threshold: How many holders it takes.
        base: v.
        holders: Who has a share, in order: the first is at place 1.
        proven: v_i of each holder, in the same order.

    Raises:
        UsageError: these are no such numbers.
    """

    public: PublicKey
    threshold: int
    base: int
    holders: tuple[NodeId, ...]
    proven: tuple[int, ...]

    def __post_init__(self) -> None:
        _check_holders(self.holders, self.threshold)
        numbers = (self.base, *self.proven)
        if len(self.proven) != len(self.holders) or self.base == 1:
            raise UsageError("couldn't take a key in shares: it has not one number for each holder")
        try:
            self.public.accept(numbers)
        except Reject:
            raise UsageError("couldn't take a key in shares: what proves shares is out of range") from None

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of all of it."""
        return fiat_shamir.digest("shared key", self.to_bytes())

    @cached_property
    def factorial(self) -> int:
        """l!, with which fractions between places become whole."""
        return math.factorial(len(self.holders))

    def place(self, node: NodeId) -> int | None:
        """Return the place of a holder, from 1, or None."""
        return self.holders.index(node) + 1 if node in self.holders else None

    @property
    def proof_bytes(self) -> int:
        """Of the proof that comes with the shares of a list of ciphertexts, however long."""
        return CHALLENGE_BYTES + self.answer_bytes

    @property
    def secret_bits(self) -> int:
        """Of D s_i, at most."""
        return 2 * self.public.bits + int(self.factorial).bit_length()

    @property
    def answer_bytes(self) -> int:
        """Of r + e D s_i: one bit more than r, which is longer than the product."""
        return (self.secret_bits + _BLINDING_BITS + 1 + 7) // 8

    # --- shares of a decryption --------------------------------------------------------------------------------------

    def check_share(
        self, place: int, context: bytes, ciphertexts: Sequence[int], shares: Sequence[int], proof: bytes
    ) -> None:
        """Raise `Reject` unless these are shares of the decryption of these ciphertexts by the holder at a place."""
        named = f"couldn't take decryption shares of {self.holders[place - 1].hex()[:8]}"
        if len(shares) != len(ciphertexts) or len(proof) != self.proof_bytes:
            raise Reject(f"{named}: they are of another number of ciphertexts")
        self.public.accept(shares)
        squared = self.public.n_squared
        e, z = int.from_bytes(proof[:CHALLENGE_BYTES], "big"), integers.from_bytes(proof[CHALLENGE_BYTES:])
        seed = self.seed(place, context, ciphertexts, shares)
        weighted, answered = _weighed(seed, ciphertexts, shares, squared)
        at_base = power(self.base, z, squared) * power(self.proven[place - 1], -e, squared) % squared
        at_sum = power(weighted, 4 * z, squared) * power(answered, -2 * e, squared) % squared
        if e != _challenge(seed, at_base, at_sum, self.public.ciphertext_bytes):
            raise Reject(
                f"{named}: their proof does not hold, so they are not what its share of the key makes of these"
            )

    def combine(self, shares: Mapping[int, Sequence[int]]) -> tuple[int, ...]:
        """Return the numbers that were encrypted, from checked shares by place. Those at the first places are taken.

        Raises:
            Reject: there are fewer than the threshold.
        """
        if len(shares) < self.threshold:
            raise Reject(f"couldn't decrypt a sum: {len(shares)} holders have answered, it takes {self.threshold}")
        places = sorted(shares)[: self.threshold]
        n, squared = self.public.n, self.public.n_squared
        above, below = [], []
        for row in zip(*(shares[place] for place in places), strict=True):
            over = under = natural(1)
            for place, share in zip(places, row, strict=True):
                factor = 2 * self._lagrange(place, places)
                part = power(share, abs(factor), squared)
                over, under = (over * part % squared, under) if factor > 0 else (over, under * part % squared)
            above.append(over)
            below.append(under)
        scale = inverse(4 * natural(self.factorial) ** 2 % n, n)
        found = []
        for over, under in zip(above, inverses(below, squared), strict=True):
            whole = over * under % squared
            if whole % n != 1:
                raise Reject("couldn't decrypt a sum: its shares do not belong together")
            found.append((whole - 1) // n * scale % n)
        return tuple(found)

    def _lagrange(self, place: int, places: Sequence[int]) -> int:
        """Return D times the weight of the value at a place in that at 0: a whole number."""
        above, below = self.factorial, 1
        for other in places:
            if other != place:
                above, below = above * other, below * (other - place)
        assert above % below == 0, "D makes it whole"
        return above // below

    def seed(self, place: int, context: bytes, ciphertexts: Sequence[int], shares: Sequence[int]) -> bytes:
        """Return the digest of what a proof is about: the key, whose shares, for what, and all numbers."""
        size = self.public.ciphertext_bytes
        said = (hashlib.sha256(integers.many_to_bytes(many, size)).digest() for many in (ciphertexts, shares))
        return fiat_shamir.digest(_PURPOSE, self.digest, place, context, *said)

    # --- bytes -------------------------------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        """Return the public part as it travels."""
        size = self.public.ciphertext_bytes
        proven = tuple(
            (bytes(node), integers.to_bytes(one, size)) for node, one in zip(self.holders, self.proven, strict=True)
        )
        base = integers.to_bytes(self.base, size)
        return codec.encode(_SharedKeyBytes(VERSION, self.public.to_bytes(), self.threshold, base, proven))

    @classmethod
    def from_bytes(cls, data: bytes, *, test_only: bool = False) -> SharedKey:
        """Return the public part that was written so.

        Raises:
            Reject: it is none, or its modulus has a size that only a test would take.
        """
        found = codec.decode(data, _SharedKeyBytes, limit=SHARED_KEY_BYTES_MAX)
        public = PublicKey.from_bytes(found.public, test_only=test_only)
        numbers = (found.base, *(one for _, one in found.holders))
        if found.version != VERSION or any(len(one) != public.ciphertext_bytes for one in numbers):
            raise Reject("couldn't read a key in shares: its version, or the size of a number in it, is wrong")
        holders = tuple(NodeId(node) for node, _ in found.holders)
        try:
            base, *proven = (integers.from_bytes(one) for one in numbers)
            return cls(public, found.threshold, base, holders, tuple(proven))
        except UsageError as error:
            raise Reject(f"couldn't read a key in shares: {error.message}") from None


@dataclass(frozen=True)
class KeyShare:
    """A holder's share, secret.

    Args:
        key: Of which it is a share.
        place: Of the holder, from 1.
        secret: s_i.

    Raises:
        UsageError: it is not the share that the key's public part has for this place. The dealer dealt falsely, or
            the share was damaged.
    """

    key: SharedKey
    place: int
    secret: int = field(repr=False)

    def __post_init__(self) -> None:
        key = self.key
        squared = key.public.n_squared
        if not (1 <= self.place <= len(key.holders) and 0 <= self.secret < squared) or (
            power(key.base, natural(key.factorial) * self.secret, squared) != key.proven[self.place - 1]
        ):
            raise UsageError(
                "couldn't take a share of a key: it is not the one that the key has for this holder",
                hint="ask the dealer for it again, and if it is the same, for a new key",
            )

    def decrypt(self, context: bytes, ciphertexts: Sequence[int], draw: Draw) -> tuple[tuple[int, ...], bytes]:
        """Return this holder's shares of the decryption of each ciphertext, and the proof that they are.

        `context` is everything that this is done for. `PublicKey.accept` has let the ciphertexts through, and the
        caller knows what they are sums of.
        """
        key = self.key
        size, squared = key.public.ciphertext_bytes, key.public.n_squared
        exponent = natural(key.factorial) * self.secret
        shares = tuple(power(one, 2 * exponent, squared) for one in ciphertexts)
        seed = key.seed(self.place, context, ciphertexts, shares)
        weighted, _ = _weighed(seed, ciphertexts, (), squared)
        # Two proofs with one r tell the share. So r is made of the share and of what is proven as well: a source that
        # repeats itself, as in a machine that was put back to an earlier state, repeats the same proof and no other.
        mixed = codec.encode((self.to_bytes(), seed, draw(HEDGE_BYTES)))
        r = integers.of_bits(key.secret_bits + _BLINDING_BITS, lambda size: hashlib.shake_256(mixed).digest(size))
        e = _challenge(seed, power(key.base, r, squared), power(weighted, 4 * r, squared), size)
        return shares, e.to_bytes(CHALLENGE_BYTES, "big") + integers.to_bytes(r + e * exponent, key.answer_bytes)

    def to_bytes(self) -> bytes:
        """Return the share, secret as it is, for its holder to keep or a dealer to seal."""
        secret = integers.to_bytes(self.secret, self.key.public.ciphertext_bytes)
        return codec.encode(_KeyShareBytes(VERSION, self.key.digest, self.place, secret))

    @classmethod
    def from_bytes(cls, data: bytes, key: SharedKey) -> KeyShare:
        """Return the share of a key that was written so.

        Raises:
            Reject: it is none, of another key, or false.
        """
        found = codec.decode(data, _KeyShareBytes, limit=KEY_SHARE_BYTES_MAX)
        if found.version != VERSION or len(found.secret) != key.public.ciphertext_bytes:
            raise Reject("couldn't read a share of a key: its version, or its size, is wrong")
        if found.key != key.digest:
            raise Reject("couldn't read a share of a key: it is of another key")
        try:
            return cls(key, found.place, integers.from_bytes(found.secret))
        except UsageError as error:
            raise Reject(f"couldn't read a share of a key: {error.message}") from None


def deal(
    secret: PrivateKey, holders: Sequence[NodeId], threshold: int, draw: Draw
) -> tuple[SharedKey, tuple[KeyShare, ...]]:
    """Return a key in shares: its public part, and a share for each holder in order. The dealer forgets the rest.

    Raises:
        UsageError: there are no such holders, or no such threshold among them.
    """
    _check_holders(tuple(holders), threshold)
    p, q, n = secret.p, secret.q, secret.public.n
    m = (p - 1) // 2 * ((q - 1) // 2)
    d = m * inverse(m % n, n)  # 0 modulo m, 1 modulo n
    polynomial = [d, *(integers.below(n * m, draw) for _ in range(threshold - 1))]
    squared = secret.public.n_squared
    while True:
        x = integers.below(squared, draw)
        if integers.coprime((x,), n) and x * x % squared != 1:
            break
    base, factorial = x * x % squared, natural(math.factorial(len(holders)))
    secrets = []
    for place in range(1, len(holders) + 1):
        value = natural(0)
        for coefficient in reversed(polynomial):
            value = (value * place + coefficient) % (n * m)
        secrets.append(value)
    proven = tuple(power(base, factorial * one, squared) for one in secrets)
    key = SharedKey(secret.public, threshold, base, tuple(holders), proven)
    return key, tuple(KeyShare(key, place, one) for place, one in enumerate(secrets, start=1))


def _weighed(seed: bytes, ciphertexts: Sequence[int], shares: Sequence[int], squared: int) -> tuple[int, int]:
    """Return ciphertexts weighted into one, and shares with the same weights."""
    weights = fiat_shamir.weights(_PURPOSE, seed, len(ciphertexts))
    one = product_of_powers(ciphertexts, weights, squared)
    return one, product_of_powers(shares, weights, squared) if shares else natural(1)


def _challenge(seed: bytes, at_base: int, at_sum: int, size: int) -> int:
    return fiat_shamir.challenge(_PURPOSE, seed, integers.to_bytes(at_base, size), integers.to_bytes(at_sum, size))


def _check_holders(holders: tuple[NodeId, ...], threshold: int) -> None:
    if not 1 <= threshold <= len(holders) <= HOLDERS_MAX:
        raise UsageError(
            f"couldn't share a key: {threshold} of {len(holders)} holders",
            hint=f"name up to {HOLDERS_MAX} holders, and a threshold from 1 to as many as they are",
        )
    if len({*holders}) != len(holders) or any(len(node) != NODE_BYTES for node in holders):
        raise UsageError("couldn't share a key: a holder is named twice, or is no node", hint="name each site once")
