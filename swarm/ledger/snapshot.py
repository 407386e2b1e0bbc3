"""The state written down: canonical bytes of the whole state after a block, and the way back.

The bytes follow from the fields of the type alone: nobody lists what belongs to the state, so nobody can forget to list
what was added to it. Whoever holds the header of a final block can tell whether a snapshot is the right one: the
header's state hash is the hash of exactly these bytes. A snapshot therefore needs no signature and no checksum.

How a value is written, in MessagePack's canonical profile (`swarm.codec`): a structure as the array of its fields in
their order, a mapping as the array of its items (key and value, a key of several parts spread out) in ascending order
of keys, an optional value as an array of none or one, the charter, which every reader has, as an empty array. Optional
fields at the end of a structure are left out altogether from the last on, as far as there are none: so a field can be
added for charters of a new kind, and states under all others keep their bytes. This module knows no state: it writes
any frozen value whose type is made of these. `docs/decisions/0011`.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import types
import typing
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeAlias, TypeVar, cast

import msgspec

from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import Reject
from swarm.terms import Terms

T = TypeVar("T")

SNAPSHOT_BYTES_MAX = 64 << 20
"""Largest snapshot that is read: 1,000 members with all their contributions of two rounds and their terms of five
epochs take 5 MB; the rest is room for motions."""

CONTEXT_BLOCKS = 64
"""Blocks before a snapshot's that a start reads as well: a member's second entry for a place they take is still
noticed, and what this site has said lately is not said again."""

_DOMAIN = b"swarm-ledger/state/v6\0"

_ENCODER = msgspec.msgpack.Encoder()

Plain: TypeAlias = Any
"""Nested tuples of int, bytes, bool and text, and structures that MessagePack writes as arrays by themselves."""


@dataclasses.dataclass(frozen=True, slots=True)
class Form:
    """How values of one type are written and read. `write` is None where they are written as they are."""

    write: Callable[[Any], Plain] | None
    read: Callable[[Plain, SignedCharter], Any]


def encode(value: object) -> bytes:
    """Return the canonical bytes of a frozen structure, following the types of its fields.

    Raises:
        TypeError: the structure has a field of a type that has no canonical form.
    """
    # Within the profile msgspec writes the same bytes as `codec.encode`, and is many times as fast: this is done for
    # every block. All text in a state came in through `codec.decode`, which has seen to its form.
    return _ENCODER.encode(_written(form(cast("Hashable", type(value))), value))


def decode(data: bytes, type_: type[T], signed: SignedCharter) -> T:
    """Return the value that `encode` wrote, with the charter put back. Raises `Reject` for what it cannot have written.

    What the value says is true only if its hash is that of a final header: see `digest`.
    """
    plain = codec.decode(data, tuple, limit=SNAPSHOT_BYTES_MAX)
    try:
        value: T = form(cast("Hashable", type_)).read(plain, signed)
    except (msgspec.ValidationError, TypeError, ValueError, OverflowError) as error:
        raise Reject(f"couldn't read a snapshot: {error}") from None
    if encode(value) != data:
        raise Reject("couldn't read a snapshot: it is not in canonical form")
    return value


def digest(encoded: bytes) -> bytes:
    """Return the state hash of an encoded state: SHA-256 over all of it, behind a domain of its own."""
    return hashlib.sha256(_DOMAIN + encoded).digest()


@functools.cache
def form(type_: Any) -> Form:
    """Return how values of a type are written. Raises `TypeError` where no canonical form follows from the type."""
    origin, arguments = typing.get_origin(type_), typing.get_args(type_)
    if type_ in (int, bytes, bool, str):
        return Form(None, functools.partial(_read_plain, type_))
    if isinstance(type_, typing.NewType):
        return form(type_.__supertype__)
    if type_ is SignedCharter:
        return Form(lambda _: (), _read_charter)
    if type_ is Terms:
        # The same terms stand in thousands of states: they keep their bytes.
        return Form(lambda terms: msgspec.Raw(terms.encoded), functools.partial(_read_struct, Terms))
    if origin in (types.UnionType, typing.Union):
        return _optional(arguments)
    if origin is tuple:
        return _row(form(arguments[0])) if arguments[1:] == (...,) else _record(tuple, [form(a) for a in arguments])
    if origin is not None and issubclass(origin, Mapping):
        return _table(*arguments)
    if isinstance(type_, type) and issubclass(type_, msgspec.Struct):
        return _struct(type_)
    if dataclasses.is_dataclass(type_) and isinstance(type_, type):
        return _fields(type_, tuple(field.name for field in dataclasses.fields(type_)))
    raise TypeError(f"{type_} has no canonical form")


def _struct(type_: type[msgspec.Struct]) -> Form:
    """A structure of msgspec's. One that is an array, of nothing but what is written as it is, is written as it is."""
    hints = typing.get_type_hints(type_)
    if type_.__struct_config__.array_like and all(form(hints[name]).write is None for name in type_.__struct_fields__):
        return Form(None, functools.partial(_read_struct, type_))
    return _fields(type_, type_.__struct_fields__)


def _fields(type_: type, names: tuple[str, ...]) -> Form:
    """A structure: its fields in their order."""
    hints = typing.get_type_hints(type_)
    forms = [form(hints[name]) for name in names]
    writers = tuple((name, one.write) for name, one in zip(names, forms, strict=True))
    fewest = len(names)  # fields that are always written
    while fewest and types.NoneType in typing.get_args(hints[names[fewest - 1]]):
        fewest -= 1

    def write(value: Any) -> Plain:
        there = len(names)
        while there > fewest and getattr(value, names[there - 1]) is None:
            there -= 1
        used = writers[:there]
        return tuple(
            [getattr(value, name) if writer is None else writer(getattr(value, name)) for name, writer in used]
        )

    def read(plain: Plain, signed: SignedCharter) -> Any:
        array = _array(plain)
        absent = ((),) * (len(names) - len(array)) if fewest <= len(array) else ()
        values = _read_record(forms, (*array, *absent), signed)
        return type_(**dict(zip(names, values, strict=True)))

    return Form(write, read)


def _record(make: Callable[[Any], Any], forms: list[Form]) -> Form:
    """A tuple of a fixed number of values, each of its own type."""
    if all(one.write is None for one in forms):
        return Form(None, lambda plain, signed: make(_read_record(forms, plain, signed)))
    return Form(
        lambda value: tuple(_written(one, item) for one, item in zip(forms, value, strict=True)),
        lambda plain, signed: make(_read_record(forms, plain, signed)),
    )


def _row(item: Form) -> Form:
    """A tuple of any number of values of one type."""
    writer = item.write
    return Form(
        None if writer is None else lambda value: tuple([writer(one) for one in value]),
        lambda plain, signed: tuple([item.read(one, signed) for one in _array(plain)]),
    )


def _table(key: Any, value: Any) -> Form:
    """A mapping: its items in ascending order of keys."""
    parts = typing.get_args(key) if typing.get_origin(key) is tuple else None
    one = form(value)
    writer = one.write

    def write(table: Mapping[Any, Any]) -> Plain:
        items = sorted(table.items(), key=_first)
        if parts is None:
            return [(k, v if writer is None else writer(v)) for k, v in items]
        return [(*k, v if writer is None else writer(v)) for k, v in items]

    keys = [form(part) for part in (parts or (key,))]

    def read(plain: Plain, signed: SignedCharter) -> dict[Any, Any]:
        rows = [_read_record([*keys, one], row, signed) for row in _array(plain)]
        return {(row[0] if parts is None else tuple(row[:-1])): row[-1] for row in rows}

    return Form(write, read)


def _optional(arguments: tuple[Any, ...]) -> Form:
    """A value or None: an array of one or none."""
    if len(arguments) != 2 or types.NoneType not in arguments:
        raise TypeError(f"a choice of {arguments} has no canonical form")
    one = form(next(argument for argument in arguments if argument is not types.NoneType))

    def read(plain: Plain, signed: SignedCharter) -> Any:
        array = _array(plain)
        if len(array) > 1:
            raise TypeError("an optional value is there more than once")
        return one.read(array[0], signed) if array else None

    return Form(lambda value: () if value is None else (_written(one, value),), read)


def _written(one: Form, value: Any) -> Plain:
    return value if one.write is None else one.write(value)


def _first(item: tuple[Any, Any]) -> Any:
    return item[0]


def _array(plain: Plain) -> tuple[Plain, ...]:
    if not isinstance(plain, tuple):
        raise TypeError(f"an array is expected, not {type(plain).__name__}")
    return plain


def _read_plain(type_: type, plain: Plain, signed: SignedCharter) -> Plain:
    del signed
    if type(plain) is not type_:
        raise TypeError(f"{type_.__name__} is expected, not {type(plain).__name__}")
    return plain


def _read_struct(type_: type[msgspec.Struct], plain: Plain, signed: SignedCharter) -> msgspec.Struct:
    del signed
    return msgspec.convert(plain, type_, strict=True, builtin_types=(bytes,))


def _read_charter(plain: Plain, signed: SignedCharter) -> SignedCharter:
    if _array(plain):
        raise TypeError("a charter stands where none belongs")
    return signed


def _read_record(forms: list[Form], plain: Plain, signed: SignedCharter) -> list[Any]:
    array = _array(plain)
    if len(array) != len(forms):
        raise TypeError(f"{len(array)} values stand where {len(forms)} belong")
    return [one.read(item, signed) for one, item in zip(forms, array, strict=True)]
