"""Keys as values: derive, sign, verify, and bind a member's keys together.

Ed25519 (RFC 8032) through libsodium, strict. Implementations disagree about signatures that involve small-order points,
so two rules close the gap (`ledger.md` 1.3): a key is *admitted* only if it is a point of the prime-order group, and a
signature whose R is the identity is refused. There is no batch verification: it is cofactored and would let two honest
peers disagree. This module reads no file and draws no randomness: a seed comes in as bytes.

Every signature is over a prefix that names its purpose, so that no signature can be replayed as another.
"""

from __future__ import annotations

import functools
import hashlib
import hmac
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from nacl import bindings
from nacl.exceptions import BadSignatureError

from swarm.errors import Reject
from swarm.machine import NodeId

SEED_BYTES = 32
PUBLIC_KEY_BYTES = 32
SIGNATURE_BYTES = 64

DOMAIN_CARD = b"swarm-ledger/card/v1\0"
DOMAIN_CHARTER = b"swarm-ledger/charter/v1\0"
DOMAIN_ENTRY = b"swarm-ledger/entry/v1\0"
DOMAIN_VOTE = b"swarm-ledger/vote/v1\0"
DOMAIN_PROPOSE = b"swarm-ledger/propose/v1\0"
DOMAIN_INVITE = b"swarm-ledger/invite/v1\0"
DOMAIN_NODE = b"swarm-ledger/node/v1\0"

# R = identity encodes as 1 followed by zeros. Accepting it is the last disagreement between libsodium and OpenSSL on
# the 914 CCTV edge-case vectors once keys are admitted by `admissible`.
_IDENTITY_POINT = b"\x01" + bytes(31)


@dataclass(frozen=True, slots=True, repr=False)
class SigningKey:
    """An Ed25519 key pair. Its representation never shows the secret."""

    public: bytes
    _secret: bytes

    @classmethod
    def from_seed(cls, seed: bytes) -> SigningKey:
        """Return the key pair of a 32-byte seed (RFC 8032 section 5.1.5)."""
        public, secret = bindings.crypto_sign_seed_keypair(seed)
        return cls(public, secret)

    def sign(self, message: bytes) -> bytes:
        """Return the 64-byte signature of `message`, which must begin with a domain prefix."""
        return bindings.crypto_sign(message, self._secret)[:SIGNATURE_BYTES]

    def __repr__(self) -> str:
        return f"SigningKey({self.public.hex()[:12]}…)"


@dataclass(frozen=True, slots=True, repr=False)
class Identity:
    """A member's secrets: the identity, vote and cosigning keys, and the CURVE (X25519) transport key pair."""

    id_key: SigningKey
    vote_key: SigningKey
    cosign_key: SigningKey
    curve_public: bytes
    curve_secret: bytes

    @classmethod
    def from_seed(cls, seed: bytes, curve_seed: bytes) -> Identity:
        """Derive the three signing keys from one 32-byte seed by HKDF (RFC 5869), the transport key from another.

        The transport key has a seed of its own because it rotates without the identity changing.
        """
        if len(seed) != SEED_BYTES or len(curve_seed) != SEED_BYTES:
            raise ValueError(f"an identity needs two seeds of {SEED_BYTES} bytes")
        curve_public, curve_secret = transport_keys(curve_seed)
        return cls(
            SigningKey.from_seed(derive(seed, b"swarm/id/v1")),
            SigningKey.from_seed(derive(seed, b"swarm/vote/v1")),
            SigningKey.from_seed(derive(seed, b"swarm/cosign/v1")),
            curve_public,
            curve_secret,
        )

    @property
    def node(self) -> NodeId:
        """The name of this identity on the wire and in the ledger."""
        return node_id(self.id_key.public)

    def __repr__(self) -> str:
        return f"Identity({self.node.hex()[:12]}…)"


def transport_keys(seed: bytes) -> tuple[bytes, bytes]:
    """Return the public and the secret CURVE (X25519) key of a 32-byte seed."""
    secret = derive(seed, b"swarm/curve/v1")
    return bindings.crypto_scalarmult_base(secret), secret


@functools.lru_cache(maxsize=4096)
def node_id(founding_id_key: bytes) -> NodeId:
    """Return the 32-byte id of the member that first appeared with this identity key."""
    return NodeId(hashlib.sha256(DOMAIN_NODE + founding_id_key).digest())


def derive(seed: bytes, info: bytes) -> bytes:
    """Return 32 bytes from `seed` by HKDF-SHA-256 (RFC 5869) with an empty salt."""
    pseudorandom_key = hmac.digest(bytes(32), seed, "sha256")
    return hmac.digest(pseudorandom_key, info + b"\x01", "sha256")


def admissible(public_key: bytes) -> bool:
    """Whether a key may enter a charter: 32 bytes that encode a point of the prime-order group, canonically."""
    return len(public_key) == PUBLIC_KEY_BYTES and bool(bindings.crypto_core_ed25519_is_valid_point(public_key))


def verify(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Whether `signature` is an acceptable Ed25519 signature of `message` by an admitted key."""
    # The binding does not look at the key's length: it would read past a short one and ignore the end of a long one.
    if len(public_key) != PUBLIC_KEY_BYTES or len(signature) != SIGNATURE_BYTES or signature[:32] == _IDENTITY_POINT:
        return False
    try:
        bindings.crypto_sign_open(signature + message, public_key)
    except (BadSignatureError, ValueError, TypeError):
        return False
    return True


Verify: TypeAlias = Callable[[bytes, bytes, bytes], bool]
"""(public key, message, signature) -> whether it holds: `verify`, or what remembers what that has said."""


def believe(public_key: bytes, message: bytes, signature: bytes) -> bool:
    """Take a signature for good: in place of `verify`, for looking rather than checking, or for checking it later."""
    del public_key, message, signature
    return True


def require(public_key: bytes, message: bytes, signature: bytes, what: str, verify: Verify = verify) -> None:
    """Raise `Reject` naming `what` unless the signature holds."""
    if not verify(public_key, message, signature):
        raise Reject(f"couldn't accept {what}: its signature does not verify")
