"""Canonical bytes: the one way to write a value down, so that a signature can cover it.

MessagePack is not canonical by itself, so this module allows a profile of it: arrays, integers, byte strings, text
and booleans, in their shortest forms; no maps, floats, extensions or nil (`docs/decisions/0003`). Received bytes are
accepted only if encoding what they decode to gives the same bytes again, and it is the received bytes that are hashed
and stored. Typed validation is msgspec's; the bytes are the msgpack package's.
"""

from __future__ import annotations

import functools
import unicodedata
from typing import TypeVar

import msgpack
import msgspec
from msgspec import inspect

from swarm.errors import Reject

T = TypeVar("T")

DEPTH_MAX = 8
"""Deepest nesting of arrays. The deepest message of the protocol uses 5."""

TEXT_CHARACTERS_MAX = 4096
"""Longest text anywhere: names, sentences, endpoints. Nothing of the protocol is prose."""

_PLAIN = frozenset((int, bytes, bool))

_SKIM = msgspec.msgpack.Decoder(msgspec.Raw)
_AGAIN = msgspec.msgpack.Encoder(order="deterministic")


def encode(value: object) -> bytes:
    """Return the canonical bytes of nested sequences of int, bytes, str and bool, or of an array-like Struct.

    Raises:
        TypeError: the value holds something outside the profile (a float, None, a map, an integer of more than 64
            bits, half a surrogate pair). This is the caller's mistake.
    """
    # msgspec makes a list of a set; "deterministic" sorts it, so that even this mistake has one encoding.
    plain = msgspec.to_builtins(value, builtin_types=(bytes, bytearray, memoryview), order="deterministic")
    _check(plain, 0)
    try:
        return _AGAIN.encode(plain)
    except (OverflowError, ValueError) as error:
        raise TypeError(f"outside the canonical profile: {_brief(error)}") from None


def again(value: object) -> bytes:
    """Return the canonical bytes of what `decode` has returned, or of parts of it, in a quarter of the time.

    Within the profile msgspec writes the same bytes as `encode`. Nothing looks at whether the value is within it.
    """
    return _AGAIN.encode(value)


@functools.cache
def plain(type_: type) -> bool:
    """Whether a type alone keeps its values in the profile, so that `again` may write those of its own making."""
    return _within(inspect.type_info(type_), 0)


def decode(data: bytes, type_: type[T], *, limit: int) -> T:
    """Decode `data` of at most `limit` bytes as `type_`, accepting only its canonical form.

    Raises:
        Reject: too long, malformed, outside the profile, not canonical, or not of the shape of `type_`.
    """
    if len(data) > limit:
        raise Reject(f"couldn't decode {type_.__name__}: {len(data)} bytes, at most {limit} are allowed")
    try:
        # A pass that builds nothing. After it every claimed length is backed by bytes, so what unpacking allocates is
        # proportional to them: a nest of arrays that each claim to be as long as the limit is refused here.
        _SKIM.decode(data)
        decoder = _decoder(type_)  # type: ignore[arg-type]  # a class is hashable
        value = _convert(data, type_, limit) if decoder is None else decoder.decode(data)
        # Of the value, not of what was unpacked: an array that leaves out a field with a default makes the same value.
        canonical = _AGAIN.encode(value) == data
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        # msgpack raises ValueError subclasses for malformed input, msgspec.ValidationError is one too; nothing else
        # may escape, whatever the bytes (invariant I5).
        raise Reject(f"couldn't decode {type_.__name__}: {_brief(error)}") from None
    if not canonical:
        raise Reject(f"couldn't decode {type_.__name__}: the bytes are not in canonical form")
    return value


def decode_open(data: bytes, type_: type[T], *, limit: int) -> tuple[T, int]:
    """Decode `data` as `decode` does, though its writer may know fields of `type_` that come after those known here.

    Returns:
        The value, and how many fields more there were: canonical, within the profile, and not looked at further.

    Raises:
        Reject: as `decode`; a field that is known here may not be missing.
    """
    if len(data) > limit:
        raise Reject(f"couldn't decode {type_.__name__}: {len(data)} bytes, at most {limit} are allowed")
    try:
        _SKIM.decode(data)
        plain = _unpack(data, limit)
        value = msgspec.convert(plain, type_, strict=True, builtin_types=(bytes,))
        canonical = _AGAIN.encode(plain) == data
    except (ValueError, TypeError, RecursionError, msgpack.exceptions.UnpackException) as error:
        raise Reject(f"couldn't decode {type_.__name__}: {_brief(error)}") from None
    if not canonical:
        raise Reject(f"couldn't decode {type_.__name__}: the bytes are not in canonical form")
    assert isinstance(plain, tuple), "an array-like type comes from an array"
    return value, len(plain) - len(msgspec.structs.fields(type_))  # type: ignore[arg-type]  # an array-like Struct


@functools.cache
def _decoder(type_: type[T]) -> msgspec.msgpack.Decoder[T] | None:
    """Return the decoder of a type that has no value outside the profile, None for any other type.

    What such a decoder returns needs no check of its own: it writes itself in the profile, and only the bytes that it
    writes are accepted, whatever spelling the decoder was willing to read.
    """
    return msgspec.msgpack.Decoder(type_) if _within(inspect.type_info(type_), 0) else None


def _within(info: inspect.Type, depth: int) -> bool:
    """Whether the type alone keeps its values in the profile. Not so for text, which has a length and a normal form."""
    match info:
        case inspect.IntType() | inspect.BoolType() | inspect.BytesType():
            return True
        case inspect.StructType(array_like=True, tag=None, fields=fields):
            return depth < DEPTH_MAX and all(_within(field.type, depth + 1) for field in fields)
        case inspect.VarTupleType(item_type=item):
            return depth < DEPTH_MAX and _within(item, depth + 1)
        case inspect.TupleType(item_types=items):
            return depth < DEPTH_MAX and all(_within(item, depth + 1) for item in items)
        case _:
            return False


def _convert(data: bytes, type_: type[T], limit: int) -> T:
    """Unpack, check each value against the profile, then give it its shape."""
    return msgspec.convert(_unpack(data, limit), type_, strict=True, builtin_types=(bytes,))


def _unpack(data: bytes, limit: int) -> object:
    """Unpack, and check each value against the profile."""
    plain: object = msgpack.unpackb(
        data,
        use_list=False,
        raw=False,
        strict_map_key=True,
        max_array_len=limit,
        max_map_len=0,
        max_ext_len=0,
        max_bin_len=limit,
        max_str_len=limit,
    )
    _check(plain, 0)
    return plain


def _check(value: object, depth: int) -> None:
    """Refuse everything outside the profile, on the way out as on the way in."""
    kind = type(value)
    if kind is tuple or kind is list:
        if depth >= DEPTH_MAX:
            raise TypeError(f"nested deeper than {DEPTH_MAX} arrays")
        # Most values are of these kinds, and a call for each costs more than one question about all.
        if not _PLAIN.issuperset(map(type, value)):  # type: ignore[call-overload]
            for item in value:  # type: ignore[attr-defined]
                _check(item, depth + 1)
    elif isinstance(value, str):
        if len(value) > TEXT_CHARACTERS_MAX:
            raise TypeError(f"text of {len(value)} characters, at most {TEXT_CHARACTERS_MAX}")
        # Two spellings of one name would be two identities to a machine and one to a person.
        if not (value.isascii() or unicodedata.is_normalized("NFC", value)):
            raise TypeError("text is not in Unicode normal form C")
    elif not isinstance(value, (int, bytes, bytearray, memoryview)):
        raise TypeError(f"{kind.__name__} is outside the canonical profile")


def _brief(error: Exception) -> str:
    text = str(error) or type(error).__name__
    return text if len(text) <= 200 else text[:200] + "…"
