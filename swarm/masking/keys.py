"""What a member keeps to itself in one attempt at a masked round, and what two members have between them.

All of a member's secrets follow from one root of 32 random bytes that its owner draws for this attempt and no other:
whoever has the root can say again what it said before, and nothing else. So a restart needs little, and repeats itself.

- The *mask key*, an X25519 pair. With another member's public key it gives the seed of the mask that the two have in
  common. If the member drops out, the others put this secret together from its shares, to take its masks off.
- The *self seed*, of the mask that only this member has. If it does not drop out, the others put that together.
- The *seal key*, an X25519 pair of its own, under which shares travel. Nobody ever puts it together.
- The seed of its noise, where sums carry some. Nobody ever puts that together either.

What is shared in shares are residues (`swarm.masking.shamir`) from which mask key and self seed are derived. Each
derivation is HKDF-SHA-256 (RFC 5869) with the ledger's id as salt and, as info, a domain and all that the value is for:
round, attempt, and whose it is or between whom, public keys included. No two uses can meet in one seed.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarm import codec
from swarm.errors import Reject
from swarm.machine import NodeId
from swarm.masking.shamir import COEFFICIENT_BYTES, PRIME, coefficients, to_bytes

ROOT_BYTES = 32
KEY_BYTES = 32
TAG_BYTES = 16

_DOMAIN = "swarm-masking/v1"

_ANYBODY = X25519PrivateKey.from_private_bytes(bytes(range(32)))
"""A secret that is none: to look whether a public key agrees on anything but zeros."""

_NONCE = bytes(12)
"""Each key of a box seals one message."""


@dataclass(frozen=True, slots=True)
class Occasion:
    """What secrets are for: one attempt at one round of one ledger."""

    ledger_id: bytes
    round: int
    attempt: int

    def derive(self, secret: bytes, purpose: str, *whom: bytes, length: int = 32) -> bytes:
        """Return bytes that follow from a secret for one purpose. At most 255 * 32 of them."""
        info = codec.encode((_DOMAIN, purpose, self.round, self.attempt, *whom))
        return HKDF(SHA256(), length, self.ledger_id, info).derive(secret)

    def commit(self, purpose: str, *said: bytes | int) -> bytes:
        """Return the SHA-256 that binds whoever signs it to what is said, here and nowhere else."""
        text = codec.encode((_DOMAIN, purpose, self.ledger_id, self.round, self.attempt, *said))
        return hashlib.sha256(text).digest()


class Secrets:
    """A member's secrets in an attempt. Nothing of them shows in its representation."""

    def __init__(self, occasion: Occasion, me: NodeId, root: bytes) -> None:
        assert len(root) == ROOT_BYTES, "a root is 32 bytes"
        self._occasion, self._me, self._root = occasion, me, root
        self.mask_residue = self._residue("mask key")
        self.self_residue = self._residue("self seed")
        self._mask_key = mask_pair(occasion, me, self.mask_residue)
        self._seal_key = X25519PrivateKey.from_private_bytes(occasion.derive(root, "seal key", me))

    @property
    def mask_key(self) -> bytes:
        """The public mask key."""
        return self._mask_key.public_key().public_bytes_raw()

    @property
    def seal_key(self) -> bytes:
        """The public seal key."""
        return self._seal_key.public_key().public_bytes_raw()

    @property
    def noise_seed(self) -> bytes:
        """The seed of this member's noise. It is in no share, so that nobody else can ever make that noise again."""
        return self._occasion.derive(self._root, "noise", self._me)

    def coefficients(self, purpose: str, count: int) -> tuple[int, ...]:
        """Return so many random coefficients for the sharing of what `purpose` names."""
        # One residue an expansion: RFC 5869 allows 255 blocks of output, which a threshold of 170 would use up.
        drawn = (self._draw(f"share {purpose}", number.to_bytes(2, "big")) for number in range(count))
        return coefficients(b"".join(drawn))

    def pair_seed(self, other: NodeId, mask_key: bytes) -> bytes:
        """Return the seed of the mask between this member and another. Raises `Reject` if its key is none."""
        return pair_seed(self._occasion, self._me, self._mask_key, other, mask_key)

    def seal(self, holder: NodeId, seal_key: bytes, text: bytes, label: bytes) -> bytes:
        """Return `text` so that only the holder can read it, and knows from whom. Raises `Reject` for no key."""
        return ChaCha20Poly1305(self._box(self._me, holder, seal_key)).encrypt(_NONCE, text, label)

    def open(self, dealer: NodeId, seal_key: bytes, sealed: bytes, label: bytes) -> bytes:
        """Return what a dealer has sealed for this member. Raises `Reject` if it did not, or not under this label."""
        try:
            return ChaCha20Poly1305(self._box(dealer, self._me, seal_key)).decrypt(_NONCE, sealed, label)
        except InvalidTag:
            raise Reject("couldn't open a sealed share: it is not as its dealer would have sealed it") from None

    def _box(self, dealer: NodeId, holder: NodeId, seal_key: bytes) -> bytes:
        """The key of what a dealer seals for a holder: another one the other way."""
        agreed = _agree(self._seal_key, seal_key)
        theirs, mine = seal_key, self.seal_key
        ends = (mine, theirs) if dealer == self._me else (theirs, mine)
        return self._occasion.derive(agreed, "box", dealer, holder, *ends)

    def _residue(self, purpose: str) -> int:
        return coefficients(self._draw(purpose))[0]

    def _draw(self, purpose: str, *further: bytes) -> bytes:
        return self._occasion.derive(self._root, purpose, self._me, *further, length=COEFFICIENT_BYTES)

    def __repr__(self) -> str:
        return f"Secrets({self._me.hex()[:8]}…)"


def mask_pair(occasion: Occasion, node: NodeId, residue: int) -> X25519PrivateKey:
    """Return the mask key of a member from what is shared of it."""
    return X25519PrivateKey.from_private_bytes(occasion.derive(_residue_bytes(residue), "mask secret", node))


def self_seed(occasion: Occasion, node: NodeId, residue: int) -> bytes:
    """Return the seed of a member's own mask from what is shared of it."""
    return occasion.derive(_residue_bytes(residue), "self mask", node)


def self_commitment(occasion: Occasion, node: NodeId, residue: int) -> bytes:
    """Return what a member posts of its self seed, by which others know that they put the right one together."""
    return occasion.commit("self", node, _residue_bytes(residue))


def pair_seed(occasion: Occasion, one: NodeId, key: X25519PrivateKey, other: NodeId, mask_key: bytes) -> bytes:
    """Return the seed of the mask between two members, from the secret key of one and the public key of the other.

    Raises:
        Reject: the other's key is none.
    """
    agreed = _agree(key, mask_key)
    ends = sorted(((one, key.public_key().public_bytes_raw()), (other, mask_key)))
    return occasion.derive(agreed, "pair mask", *(part for end in ends for part in end))


def admissible(public: bytes) -> bool:
    """Whether a public key may stand in a roster: 32 bytes that are no point of small order.

    With those everybody would have zeros in common. A secret is a multiple of 8, which takes any such point to the
    neutral one, so that one secret, known to all, tells for all others (RFC 7748, section 6.1).
    """
    try:
        _agree(_ANYBODY, public)
    except Reject:
        return False
    return True


def _agree(mine: X25519PrivateKey, public: bytes) -> bytes:
    try:
        return mine.exchange(X25519PublicKey.from_public_bytes(public))
    except ValueError:  # Not 32 bytes, or a point of small order.
        raise Reject("couldn't agree on a seed: the other's public key is none") from None


def _residue_bytes(residue: int) -> bytes:
    assert 0 <= residue < PRIME, "a residue"
    return to_bytes(residue)
