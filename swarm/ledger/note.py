"""Signed notes (c2sp.org/signed-note), the envelope in which transparency logs hand out what they sign.

A note is a text and lines that say who signed it. A verifier that knows some of the keys checks those lines and skips
the rest, so one note can carry the signatures of many, and new kinds of them. Two kinds are written here: Ed25519 over
the text, and cosignature/v1 (c2sp.org/tlog-cosignature), Ed25519 over the time and the text. Both are verified strictly
(`swarm.identity`). Other kinds are carried along and never counted.

A site uses its cosigning key for both kinds. The specification allows it where no message of one kind can be one of
the other: a cosignature signs a text that begins with "cosignature/v1", and no checkpoint of a ledger does, because its
first line has a "/" and sixteen digits of the ledger's id at the end. The ids of the two keys differ, as they must.

The parser takes one spelling of everything: base64 with its padding and without stray bits, numbers without leading
zeroes. What it takes, it writes back byte for byte.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from swarm import identity
from swarm.errors import LedgerError, Reject

ED25519 = 0x01
COSIGNATURE = 0x04
"""Types of signature: the byte that tells a key's id, and is its first when it is written."""

NOTE_BYTES_MAX = 1_000_000
"""Longest note, as in the Go checksum database, whose verifier is the most widespread."""

SIGNATURES_MAX = 100
"""Most signature lines of a note: the same verifier refuses more, and every verifier must take sixteen."""

TIME_S_MAX = 2**63 - 1

_DASH = "\N{EM DASH} "
_ID_BYTES = 4
_TIME_BYTES = 8
_AGAIN = "get it again from where it was published"


@dataclass(frozen=True, slots=True)
class Key:
    """A verifier key, "vkey": who signs, how, and the public key. `id` is the four bytes that signature lines repeat.

    `material` is the public key: 32 bytes of Ed25519 for the two types that are verified here, anything for others.
    """

    name: str
    id: bytes
    type: int
    material: bytes

    @classmethod
    def of(cls, name: str, type_: int, public: bytes) -> Key:
        """Return the key with the id that the specification derives from the rest. Raises `Reject` for a bad name."""
        _check_name(name)
        return cls(name, key_id(name, type_, public), type_, public)

    @property
    def supported(self) -> bool:
        """Whether its signatures are verified here. Others are never counted."""
        return self.type in (ED25519, COSIGNATURE)

    def encode(self) -> str:
        """Return `<name>+<id in hex>+<base64 of type and public key>`."""
        return f"{self.name}+{self.id.hex()}+{to_base64(bytes((self.type,)) + self.material)}"

    @classmethod
    def decode(cls, text: str) -> Key:
        """Return the key that `encode` wrote.

        Raises:
            Reject: it is not written so, its id does not belong to it, or it is no point of the prime-order group.
        """
        parts = text.split("+", 2)  # "+" is a letter of base64 as well
        if len(parts) != 3:
            raise _unreadable("a verifier key", "it is not <name>+<id>+<key>")
        name, id_text, key_text = parts
        _check_name(name)
        data = from_base64(key_text, "a verifier key")
        if len(id_text) != 2 * _ID_BYTES or id_text.strip("0123456789abcdef") or len(data) < 2:
            raise _unreadable(
                "a verifier key", "its id is not eight lower-case hexadecimal digits, or its key is empty"
            )
        key = cls(name, bytes.fromhex(id_text), data[0], data[1:])
        if key.supported and key.id != key_id(name, key.type, key.material):
            raise _unreadable(f"the verifier key of {name}", "its id belongs to another key")
        if key.supported and not identity.admissible(key.material):
            raise _unreadable(f"the verifier key of {name}", "it is not a valid Ed25519 key")
        return key


@dataclass(frozen=True, slots=True)
class Line:
    """One signature line: the signer's name, its key's id, and the signature. It says nothing until it is checked."""

    name: str
    id: bytes
    signature: bytes

    def encode(self) -> str:
        """Return the line, its newline included."""
        return f"{_DASH}{self.name} {to_base64(self.id + self.signature)}\n"

    @property
    def time_s(self) -> int:
        """When a cosignature says it was made, in seconds of Unix time. Only of a line that `verify` has passed."""
        return int.from_bytes(self.signature[:_TIME_BYTES], "big")


@dataclass(frozen=True, slots=True)
class Note:
    """A text that ends with a newline, and the lines under it."""

    text: str
    lines: tuple[Line, ...]

    def encode(self) -> bytes:
        """Return the note's bytes."""
        return "".join((self.text, "\n", *(line.encode() for line in self.lines))).encode()

    def signed_by(self, keys: Iterable[Key]) -> dict[Key, Line]:
        """Return which of these keys signed, each with its first line, in the order of the lines.

        Lines of other keys are skipped, even where the name or the id is a known one.

        Raises:
            LedgerError: a line of one of these keys does not verify. That voids the whole note.
        """
        known: Mapping[tuple[str, bytes], Key] = {(key.name, key.id): key for key in keys if key.supported}
        found: dict[Key, Line] = {}
        for line in self.lines:
            key = known.get((line.name, line.id))
            if key is None:
                continue
            if not verify(key, self.text, line.signature):
                raise LedgerError(
                    f"couldn't accept the note: the signature of {line.name} does not verify", hint=_AGAIN
                )
            found.setdefault(key, line)
        return found


def parse(data: bytes) -> Note:
    """Return a note as it came. Raises `Reject` unless it is written exactly as the specification says."""
    text = _text(data, "the note")
    body, found, tail = text.rpartition("\n\n")
    if not (found and tail.endswith("\n")):
        raise _unreadable("the note", "no signature lines follow an empty line")
    rows = tail[:-1].split("\n")
    if len(rows) > SIGNATURES_MAX:
        raise _unreadable("the note", f"it has {len(rows)} signature lines, {SIGNATURES_MAX} are possible")
    return Note(body + "\n", tuple(_line(row) for row in rows))


def _line(row: str) -> Line:
    name, found, value = row.removeprefix(_DASH).partition(" ")
    if not (row.startswith(_DASH) and found):
        raise _unreadable("the note", "a signature line is not written as one")
    _check_name(name)
    data = from_base64(value, "a signature")
    if len(data) <= _ID_BYTES:
        raise _unreadable("the note", "a signature is too short to be one")
    return Line(name, data[:_ID_BYTES], data[_ID_BYTES:])


def verify(key: Key, text: str, signature: bytes) -> bool:
    """Whether `signature`, as in a line after the key's id, is one of `text` by `key`. False for types not known."""
    if key.type == ED25519:
        return identity.verify(key.material, text.encode(), signature)
    if key.type == COSIGNATURE:
        time_s = int.from_bytes(signature[:_TIME_BYTES], "big")
        message = cosigned(text, time_s)
        return time_s <= TIME_S_MAX and identity.verify(key.material, message, signature[_TIME_BYTES:])
    return False


def sign(key: Key, text: str, secret: Callable[[bytes], bytes]) -> Line:
    """Return an Ed25519 line under `text`. `secret` signs with the key's secret part."""
    assert key.type == ED25519, "a key signs as what it is"
    return Line(key.name, key.id, secret(text.encode()))


def cosign(key: Key, text: str, time_s: int, secret: Callable[[bytes], bytes]) -> Line:
    """Return a cosignature of `text` at `time_s`, seconds of Unix time. `secret` signs with the key's secret part."""
    assert key.type == COSIGNATURE, "a key signs as what it is"
    return cosignature_line(key, time_s, secret(cosigned(text, time_s)))


def cosignature_line(key: Key, time_s: int, signature: bytes) -> Line:
    """Return the line of a cosignature whose 64 signature bytes are there already."""
    return Line(key.name, key.id, time_s.to_bytes(_TIME_BYTES, "big") + signature)


def cosigned(text: str, time_s: int) -> bytes:
    """Return what a cosignature signs."""
    return f"cosignature/v1\ntime {time_s}\n{text}".encode()


def key_id(name: str, type_: int, public: bytes) -> bytes:
    """Return the first four bytes of SHA-256(name ‖ newline ‖ type ‖ public key)."""
    return hashlib.sha256(name.encode(errors="surrogateescape") + b"\n" + bytes((type_,)) + public).digest()[:_ID_BYTES]


def to_base64(data: bytes) -> str:
    """Return the standard base64 of RFC 4648 section 4, padded."""
    return base64.b64encode(data).decode("ascii")


def from_base64(text: str, what: str) -> bytes:
    """Return the bytes that `to_base64` writes as `text`. Raises `Reject`, naming `what`, for any other spelling."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if not text or to_base64(data) != text:
        raise _unreadable(what, "it is not written in canonical base64")
    return data


def from_decimal(text: str, what: str, last: int) -> int:
    """Return a number from 0 to `last` written without sign or leading zeroes. Raises `Reject`, naming `what`."""
    # The length is looked at first: reading a number of a million digits takes Python minutes, or an error of its own.
    plain = text.isascii() and text.isdecimal() and len(text) <= len(str(last))
    if not plain or str(int(text)) != text or int(text) > last:
        raise _unreadable(what, f"{text[:24]!r} is not a plain decimal number in range")
    return int(text)


def split_lines(data: bytes, what: str) -> Sequence[str]:
    """Return the lines of a text whose every line ends with a newline. Raises `Reject`, naming `what`."""
    text = _text(data, what)
    if not text.endswith("\n"):
        raise _unreadable(what, "its last line has no end")
    return text[:-1].split("\n")


def _text(data: bytes, what: str) -> str:
    if len(data) > NOTE_BYTES_MAX:
        raise _unreadable(what, f"it has {len(data)} bytes, {NOTE_BYTES_MAX} are possible")
    try:
        text = data.decode()
    except UnicodeDecodeError:
        raise _unreadable(what, "it is not UTF-8") from None
    if any(byte < 0x20 and byte != 0x0A for byte in data):
        raise _unreadable(what, "it holds control characters")
    return text


def _check_name(name: str) -> None:
    if not name or "+" in name or any(character.isspace() or character < " " for character in name):
        raise _unreadable("a key's name", f"{name[:60]!r} is empty, or holds a space or a plus")


def _unreadable(what: str, why: str) -> Reject:
    return Reject(f"couldn't read {what}: {why}", hint=_AGAIN)
