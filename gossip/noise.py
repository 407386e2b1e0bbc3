"""A sealed channel between two members whose transport keys the terms name: the Noise pattern KK.

Noise_KK_25519_ChaChaPoly_SHA256, as "The Noise Protocol Framework", revision 34, writes it (section numbers below are
its own). Both ends know each other's long-lived key beforehand, so two messages are enough: after them each knows that
the other holds its key, and keys made afresh for this session alone seal what follows. Whoever takes a long-lived key
later cannot open what was said earlier.

Functions of bytes: no clock, no randomness (the ephemeral secret comes in as 32 bytes), no idea who carries the
messages. What is received may be lost, repeated, reordered and altered; it is opened once and only as it was sealed.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey, X25519PublicKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from swarm.errors import Reject

PROTOCOL = b"Noise_KK_25519_ChaChaPoly_SHA256"
"""32 bytes, so it is the first handshake hash as it stands (5.2)."""

KEY_BYTES = 32
TAG_BYTES = 16
SESSION_BYTES = 8
"""Names a session, so that a message finds its keys: the beginning of the handshake hash, which is unique (11.2)."""

WINDOW = 4096
"""How far a message may be behind the newest one and still be opened. Control frames overtake chunks in every queue on
the way, and a full queue holds so many of them; what is further behind is lost, as on any link."""

COUNTER_MAX = 2**48
"""Messages under one key. Sessions are replaced hourly; this only says that a nonce never comes twice."""

_NONCE = struct.Struct("<4xQ")  # 12.3: 32 zero bits, then the counter


@dataclass(frozen=True, slots=True, repr=False)
class KeyPair:
    """An X25519 key pair, 32 raw bytes each. Its representation never shows the secret."""

    public: bytes
    secret: bytes

    @classmethod
    def of(cls, secret: bytes) -> KeyPair:
        """Return the pair of a secret."""
        return cls(X25519PrivateKey.from_private_bytes(secret).public_key().public_bytes_raw(), secret)

    def agree(self, other: bytes) -> bytes:
        """Return what this secret and the other's public key have in common (RFC 7748, 6.1). Raises `Reject`."""
        try:
            mine = X25519PrivateKey.from_private_bytes(self.secret)
            return mine.exchange(X25519PublicKey.from_public_bytes(other))
        except ValueError:  # Not 32 bytes, or a point of small order, with which everybody would have zeros in common.
            raise Reject("couldn't agree on a key: the other's public key is none") from None

    def __repr__(self) -> str:
        return f"KeyPair({self.public.hex()[:12]}…)"


class Session:
    """Two keys, one for each way, and what has come in so far. `id` is `SESSION_BYTES` long."""

    def __init__(self, id_: bytes, outgoing: bytes, incoming: bytes) -> None:
        self.id = id_
        self._outgoing, self._incoming = ChaCha20Poly1305(outgoing), ChaCha20Poly1305(incoming)
        self.sent = 0
        self._newest = -1
        self._seen = 0  # bit i: the message `_newest - i` has been opened

    def seal(self, text: bytes, label: bytes) -> tuple[int, bytes]:
        """Return the number of the next message and its sealed text; `label` is not sealed and cannot be changed."""
        assert self.sent < COUNTER_MAX, "a session is replaced long before"
        counter, self.sent = self.sent, self.sent + 1
        return counter, self._outgoing.encrypt(_NONCE.pack(counter), text, label)

    def open(self, counter: int, sealed: bytes, label: bytes) -> bytes:
        """Return the text of a message, once.

        Raises:
            Reject: it was opened before, is too far behind to know, or is not as the other end sealed it.
        """
        behind = self._newest - counter
        if counter >= COUNTER_MAX or behind >= WINDOW or (behind >= 0 and self._seen >> behind & 1):
            raise Reject("couldn't open a sealed message: it has come before, or far too late")
        try:
            text = self._incoming.decrypt(_NONCE.pack(counter), sealed, label)
        except InvalidTag:
            raise Reject("couldn't open a sealed message: it is not as it was sealed") from None
        # Only now: a forged number must not move the window (RFC 6479 has the same order).
        if behind < 0:
            self._seen = (self._seen << min(-behind, WINDOW) | 1) & ((1 << WINDOW) - 1)
            self._newest = counter
        else:
            self._seen |= 1 << behind
        return text


class Opening:
    """The end that begins, between its message and the answer.

    Args:
        mine: its long-lived pair.
        other: the other end's long-lived public key.
        prologue: what both ends must agree on besides; not sent.
        ephemeral: a pair made for this session alone.
        text: goes along sealed. It can be repeated by whoever carries it, so nothing may follow from it alone.
    """

    def __init__(self, mine: KeyPair, other: bytes, prologue: bytes, ephemeral: KeyPair, text: bytes = b"") -> None:
        self._mine, self._ephemeral = mine, ephemeral
        self._state = _Symmetric(prologue, mine.public, other)
        self._state.mix_hash(ephemeral.public)  # e
        self._state.mix_key(ephemeral.agree(other))  # es
        self._state.mix_key(mine.agree(other))  # ss
        self.message = ephemeral.public + self._state.seal(text)

    def finish(self, answer: bytes) -> tuple[Session, bytes]:
        """Return the session, and the text that came with the answer; may be tried again if it raises.

        Raises:
            Reject: it is not the other end's answer to this very message.
        """
        if len(answer) < KEY_BYTES + TAG_BYTES:
            raise Reject("couldn't open the answer to a handshake: it is too short")
        state, theirs = self._state.copy(), answer[:KEY_BYTES]
        state.mix_hash(theirs)  # e
        state.mix_key(self._ephemeral.agree(theirs))  # ee
        state.mix_key(self._mine.agree(theirs))  # se
        text = state.open(answer[KEY_BYTES:])
        first, second = state.split()
        return Session(state.hash[:SESSION_BYTES], first, second), text


def read_opening(mine: KeyPair, other: bytes, prologue: bytes, message: bytes) -> Reply:
    """Return what to answer with, and the text that came along.

    Raises:
        Reject: it is not a message by `other` to the holder of `mine`, under this prologue.
    """
    if len(message) < KEY_BYTES + TAG_BYTES:
        raise Reject("couldn't open a handshake: it is too short")
    state, theirs = _Symmetric(prologue, other, mine.public), message[:KEY_BYTES]
    state.mix_hash(theirs)  # e
    state.mix_key(mine.agree(theirs))  # es
    state.mix_key(mine.agree(other))  # ss
    return Reply(state, other, theirs, state.open(message[KEY_BYTES:]))


class Reply:
    """The end that answers. `text` came with the opening, and may be an old one that somebody sends again."""

    def __init__(self, state: _Symmetric, other: bytes, theirs: bytes, text: bytes) -> None:
        self._state, self._other, self._theirs = state, other, theirs
        self.text = text

    def answer(self, ephemeral: KeyPair, text: bytes = b"") -> tuple[bytes, Session]:
        """Return the answer, and the session. Only its first message proves that the opening was no old one."""
        state = self._state
        state.mix_hash(ephemeral.public)  # e
        state.mix_key(ephemeral.agree(self._theirs))  # ee
        state.mix_key(ephemeral.agree(self._other))  # se
        message = ephemeral.public + state.seal(text)
        first, second = state.split()
        return message, Session(state.hash[:SESSION_BYTES], second, first)


class _Symmetric:
    """The running hash and keys of a handshake (5.2). `first` is the static key of the end that begins."""

    def __init__(self, prologue: bytes, first: bytes, second: bytes) -> None:
        self.hash = self._chain = PROTOCOL
        self._key = b""
        self._count = 0
        for part in (prologue, first, second):
            self.mix_hash(part)

    def copy(self) -> _Symmetric:
        """Return another one that goes on from here."""
        other = object.__new__(_Symmetric)
        other.hash, other._chain, other._key, other._count = self.hash, self._chain, self._key, self._count
        return other

    def mix_hash(self, data: bytes) -> None:
        self.hash = hashlib.sha256(self.hash + data).digest()

    def mix_key(self, secret: bytes) -> None:
        self._chain, self._key = _derive(self._chain, secret)
        self._count = 0

    def seal(self, text: bytes) -> bytes:
        sealed = ChaCha20Poly1305(self._key).encrypt(_NONCE.pack(self._count), text, self.hash)
        self._count += 1
        self.mix_hash(sealed)
        return sealed

    def open(self, sealed: bytes) -> bytes:
        try:
            text = ChaCha20Poly1305(self._key).decrypt(_NONCE.pack(self._count), sealed, self.hash)
        except InvalidTag:
            raise Reject("couldn't open a handshake: it was made with other keys, or altered") from None
        self._count += 1
        self.mix_hash(sealed)
        return text

    def split(self) -> tuple[bytes, bytes]:
        """Return the key of what the end that begins sends, and of what the other sends."""
        return _derive(self._chain, b"")


def _derive(chain: bytes, secret: bytes) -> tuple[bytes, bytes]:
    """Noise's HKDF with two outputs (4.3), which is RFC 5869's with the chaining key for a salt and no info."""
    both = HKDF(algorithm=SHA256(), length=64, salt=chain, info=b"").derive(secret)
    return both[:32], both[32:]
