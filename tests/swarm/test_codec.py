"""One value, one encoding: what is written reads back, and nothing else is read at all."""

from __future__ import annotations

import random
import struct
import tracemalloc
import unicodedata
from typing import TypeAlias

import msgpack
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swarm import codec
from swarm.errors import Reject
from swarm.ledger.block import Block, Certificate, FinalBlock, Vote
from swarm.ledger.entry import Attest, Contribution, Entry, RoundClose, RoundCommit

LIMIT = 65_535

BODIES = (Contribution, Attest, RoundClose, RoundCommit)

Value: TypeAlias = "int | bytes | str | bool | tuple[Value, ...]"


class Pair(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """The smallest wire struct."""

    number: int
    data: bytes


class Defaulted(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A struct whose last field may be left out by a careless decoder."""

    number: int
    unit: str = "ms"


SHAPES: tuple[type[object], ...] = (
    object,
    int,
    bytes,
    str,
    bool,
    tuple,
    Pair,
    Defaulted,
    Entry,
    Vote,
    Certificate,
    Block,
    FinalBlock,
    *BODIES,
)

leaves: st.SearchStrategy[Value] = (
    st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=300)
    | st.text(max_size=40).map(lambda text: unicodedata.normalize("NFC", text))
    | st.booleans()
)


def arrays(depth: int) -> st.SearchStrategy[Value]:
    """Values nested at most `depth` arrays deep."""
    if depth == 0:
        return leaves
    return leaves | st.lists(arrays(depth - 1), max_size=5).map(tuple)


values = arrays(4)


def raw(value: object) -> bytes:
    """What any MessagePack writer would write, outside the profile included."""
    packed: bytes = msgpack.packb(value, use_bin_type=True)
    return packed


def decode(data: bytes, limit: int = LIMIT) -> object:
    return codec.decode(data, object, limit=limit)


def same(a: object, b: object) -> bool:
    """Equality that tells True from 1."""
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a, b, strict=True))
    return type(a) is type(b) and a == b


def accepts_only_canonical(data: bytes, shape: type[object]) -> None:
    """Decode; the only way out but a value that writes itself back as `data` is `Reject`."""
    try:
        value = codec.decode(data, shape, limit=LIMIT)
    except Reject:
        return
    assert codec.encode(value) == data


# What is canonical.


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (0, "00"),
        (127, "7f"),
        (128, "cc80"),
        (255, "ccff"),
        (256, "cd0100"),
        (65_536, "ce00010000"),
        (2**32, "cf0000000100000000"),
        (2**64 - 1, "cfffffffffffffffff"),
        (-1, "ff"),
        (-32, "e0"),
        (-33, "d0df"),
        (-129, "d1ff7f"),
        (-(2**63), "d38000000000000000"),
        (True, "c3"),
        (False, "c2"),
        (b"", "c400"),
        (b"\x01\x02", "c4020102"),
        ("", "a0"),
        ("é", "a2c3a9"),
        ("x" * 32, "d920" + "78" * 32),
        ((), "90"),
        ((1, (b"", "a")), "920192c400a161"),
        (tuple(range(16)), "dc0010000102030405060708090a0b0c0d0e0f"),
        (Pair(7, b"\xff"), "9207c401ff"),
    ],
)
def test_every_kind_of_value_has_the_encoding_of_the_profile(value: object, expected: str) -> None:
    assert codec.encode(value).hex() == expected


@settings(max_examples=200, deadline=None)
@given(values)
def test_what_is_encoded_decodes_to_the_same_value(value: Value) -> None:
    data = codec.encode(value)
    assert data == raw(value)
    assert same(decode(data), value)


@settings(max_examples=150, deadline=None)
@given(st.lists(values, min_size=2, max_size=2))
def test_two_values_never_share_an_encoding(pair: list[Value]) -> None:
    assert (codec.encode(pair[0]) == codec.encode(pair[1])) == same(pair[0], pair[1])


def test_lists_and_tuples_are_one_array_and_read_back_as_tuples() -> None:
    assert codec.encode([1, [2]]) == codec.encode((1, (2,)))
    assert decode(codec.encode([1, [2]])) == (1, (2,))


# What the caller may not write.


@pytest.mark.parametrize(
    "value",
    [1.5, None, {}, {"a": 1}, (1, None), (1, (2.0,)), 2**64, -(2**63) - 1, "\ud800", "e\u0301", "x" * 4097],
    ids=repr,
)
def test_a_value_outside_the_profile_is_the_callers_mistake(value: object) -> None:
    with pytest.raises(TypeError):
        codec.encode(value)


def test_nesting_goes_eight_arrays_deep_and_no_deeper() -> None:
    value: Value = 1
    for _ in range(codec.DEPTH_MAX):
        value = (value,)
    assert same(decode(codec.encode(value)), value)
    with pytest.raises(TypeError, match="deeper than 8"):
        codec.encode((value,))
    with pytest.raises(Reject, match="deeper than 8"):
        decode(raw((value,)))


def test_text_may_have_4096_characters_and_no_more() -> None:
    assert decode(codec.encode("x" * codec.TEXT_CHARACTERS_MAX)) == "x" * 4096
    with pytest.raises(Reject, match="text of 4097 characters"):
        decode(raw("x" * 4097))


def test_even_a_set_has_one_encoding() -> None:
    names = [b"%d" % i for i in range(40)]
    assert codec.encode(set(names)) == codec.encode(frozenset(reversed(names))) == codec.encode(sorted(names))


# What is not canonical and so not accepted.

NOT_CANONICAL = {
    "0 in uint8": "cc00",
    "127 in uint8": "cc7f",
    "1 in uint16": "cd0001",
    "255 in uint16": "cd00ff",
    "1 in uint32": "ce00000001",
    "65535 in uint32": "ce0000ffff",
    "1 in uint64": "cf0000000000000001",
    "2**32-1 in uint64": "cf00000000ffffffff",
    "1 in int8": "d001",
    "-1 in int8": "d0ff",
    "-32 in int8": "d0e0",
    "-33 in int16": "d1ffdf",
    "-128 in int16": "d1ff80",
    "1 in int16": "d10001",
    "200 in int16": "d100c8",
    "-1 in int32": "d2ffffffff",
    "1 in int64": "d30000000000000001",
    "-129 in int64": "d3ffffffffffffff7f",
    "2**32 in int64": "d30000000100000000",
    "empty str in str8": "d900",
    "31 characters in str8": "d91f" + "61" * 31,
    "str in str16": "da000161",
    "str in str32": "db0000000161",
    "bin in bin16": "c5000101",
    "bin in bin32": "c60000000101",
    "empty bin in bin32": "c600000000",
    "array in array16": "dc000101",
    "empty array in array16": "dc0000",
    "array in array32": "dd0000000101",
    "long int inside an array": "9201cc01",
    "long header three arrays deep": "919191dc0000",
}

OUTSIDE = {
    "float32": "ca3f800000",
    "float64": "cb3ff0000000000000",
    "NaN": "cb7ff8000000000000",
    "float in an array": "91cb3ff0000000000000",
    "nil": "c0",
    "nil in an array": "91c0",
    "empty map": "80",
    "map": "8100c3",
    "map16": "de00010001",
    "map32": "df000000010001",
    "fixext1": "d40100",
    "fixext2": "d5010000",
    "fixext4": "d60100000000",
    "fixext8": "d7010000000000000000",
    "fixext16": "d801" + "00" * 16,
    "ext8": "c7010100",
    "empty ext8": "c70001",
    "ext16": "c800010100",
    "ext32": "c9000000010100",
    "timestamp": "d6ff00000000",
    "the byte that is never used": "c1",
}

MALFORMED = {
    "nothing": "",
    "two values": "0101",
    "trailing zero": "9100" + "00",
    "array cut short": "9201",
    "array without items": "93",
    "uint16 cut short": "cd01",
    "bin cut short": "c40301",
    "bin without length": "c4",
    "str cut short": "a361",
    "str8 without length": "d9",
    "overlong UTF-8": "a2c080",
    "UTF-8 surrogate": "a3eda080",
    "UTF-8 cut short": "a1c3",
    "UTF-8 beyond U+10FFFF": "a4f4908080",
    "Latin-1": "a1e9",
    "decomposed e acute": "a365cc81",
    "Angstrom sign": "a3e284ab",
    "decomposed Hangul": "a6e18480e185a1",
}


@pytest.mark.parametrize("data", NOT_CANONICAL.values(), ids=NOT_CANONICAL.keys())
def test_a_longer_form_of_a_good_value_is_refused(data: str) -> None:
    assert codec.encode(msgpack.unpackb(bytes.fromhex(data), use_list=False)) != bytes.fromhex(data)
    with pytest.raises(Reject, match="not in canonical form"):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize("data", [*OUTSIDE.values(), *MALFORMED.values()], ids=[*OUTSIDE.keys(), *MALFORMED.keys()])
def test_what_is_outside_the_profile_or_malformed_is_refused(data: str) -> None:
    with pytest.raises(Reject, match="couldn't decode object"):
        decode(bytes.fromhex(data))


@pytest.mark.parametrize(
    ("data", "shape"),
    [
        ("a161", bytes),
        ("c40161", str),
        ("c3", int),
        ("01", bool),
        ("00", bool),
        ("a131", int),
        ("01", str),
        ("90", Pair),
        ("9107", Pair),
        ("9307c40101", Pair),
        ("9307c4010101", Pair),
        ("9207a101", Pair),
        ("92c3c40101", Pair),
        ("92c40101" + "07", Pair),
        ("9207" + "9101", Pair),
        ("92cb401c000000000000" + "c40101", Pair),
        ("07", Pair),
    ],
)
def test_a_value_of_another_shape_is_refused(data: str, shape: type[object]) -> None:
    with pytest.raises(Reject, match=f"couldn't decode {shape.__name__}"):
        codec.decode(bytes.fromhex(data), shape, limit=LIMIT)


def test_a_field_with_a_default_may_not_be_left_out() -> None:
    whole = codec.encode(Defaulted(5))
    assert codec.decode(whole, Defaulted, limit=LIMIT) == Defaulted(5, "ms")
    with pytest.raises(Reject, match="not in canonical form"):
        codec.decode(bytes.fromhex("9105"), Defaulted, limit=LIMIT)


def test_the_limit_is_in_bytes_and_inclusive() -> None:
    data = codec.encode(b"x" * 100)
    assert decode(data, limit=len(data)) == b"x" * 100
    with pytest.raises(Reject, match="102 bytes, at most 101 are allowed"):
        decode(data, limit=101)


# Hostile bytes.


@pytest.mark.parametrize("head", ["dd", "df", "c6", "db", "c9"])
def test_a_claimed_length_is_not_believed(head: str) -> None:
    for prefix in (b"", b"\x92\x01", b"\x91" * 7):
        for claim in (b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x00\x00\xff\xff"):
            with pytest.raises(Reject):
                decode(prefix + bytes.fromhex(head) + claim + bytes(100))


@pytest.mark.parametrize("depth", [9, 100, 500, 1000, 10_000])
def test_a_nest_of_arrays_that_each_claim_the_limit_allocates_next_to_nothing(depth: int) -> None:
    # Unpackers make room for what an array claims, at each of a thousand levels: up to half a gigabyte for 64 KiB.
    data = ((b"\xdd" + struct.pack(">I", max(1, LIMIT - 5 * depth - 1))) * depth)[:LIMIT].ljust(LIMIT, b"\0")
    tracemalloc.start()
    try:
        with pytest.raises(Reject):
            decode(data)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 4 * LIMIT


@pytest.mark.parametrize("depth", [9, 100, 511, 513, 1023, 1025, 20_000, 65_000])
def test_deep_nesting_is_refused_not_followed(depth: int) -> None:
    for inner in (b"\x01", b"\x90", b""):
        with pytest.raises(Reject):
            decode(b"\x91" * depth + inner)


@settings(max_examples=300, deadline=None)
@given(data=st.binary(max_size=200), shape=st.sampled_from(SHAPES))
def test_random_bytes_are_rejected_or_canonical(data: bytes, shape: type[object]) -> None:
    accepts_only_canonical(data, shape)


@settings(max_examples=200, deadline=None)
@given(value=values, data=st.data())
def test_changed_bytes_are_rejected_or_canonical(value: Value, data: st.DataObject) -> None:
    good = bytearray(codec.encode(value))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(good)))
        match data.draw(st.sampled_from(("change", "insert", "cut"))):
            case "change" if at < len(good):
                good[at] = data.draw(st.integers(0, 255))
            case "insert":
                good[at:at] = data.draw(st.binary(min_size=1, max_size=4))
            case _:
                del good[at : at + data.draw(st.integers(1, 4))]
    accepts_only_canonical(bytes(good), object)


def test_no_single_byte_of_a_struct_can_change_into_another_spelling_of_it() -> None:
    vote = Vote(0, 300, 1, bytes(range(32)), 2, bytes(64))
    good = codec.encode(vote)
    for at in range(len(good)):
        for byte in range(256):
            changed = good[:at] + bytes([byte]) + good[at + 1 :]
            try:
                other = codec.decode(changed, Vote, limit=LIMIT)
            except Reject:
                continue
            assert (other == vote) == (changed == good)
            assert codec.encode(other) == changed


def outcome(data: bytes, shape: type[object]) -> object:
    try:
        return codec.decode(data, shape, limit=LIMIT)
    except Reject:
        return None


def test_types_without_text_are_decoded_directly_and_all_others_item_by_item() -> None:
    direct = {shape for shape in SHAPES if codec._decoder(shape) is not None}
    assert direct == {int, bytes, bool, Pair, Entry, Vote, Certificate, Block, FinalBlock, *BODIES}


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_the_direct_way_accepts_and_refuses_what_the_long_way_does(data: st.DataObject) -> None:
    # Random items in the places of an array-like struct, in every spelling: the widened forms, floats, nil and text.
    shape = data.draw(st.sampled_from((int, bytes, bool, Pair, Vote, Entry, *BODIES)))
    spellings = st.one_of(
        values.map(codec.encode),
        st.sampled_from([bytes.fromhex(h) for h in (*NOT_CANONICAL.values(), *OUTSIDE.values())]),
    )
    width = data.draw(st.integers(0, 12))
    made = b"".join(data.draw(spellings) for _ in range(width))
    sent = made if shape in (int, bytes, bool) else bytes([0x90 + width]) + made
    with pytest.MonkeyPatch.context() as patch:
        direct = outcome(sent, shape)
        patch.setattr(codec, "_decoder", lambda type_: None)
        assert same_struct(direct, outcome(sent, shape))


def same_struct(a: object, b: object) -> bool:
    return type(a) is type(b) and a == b


def test_headers_followed_by_noise_are_rejected_or_canonical() -> None:
    rng = random.Random(7)
    for first in range(256):
        for _ in range(40):
            data = bytes([rng.choice((0x91, 0x92, 0x99)), first]) + rng.randbytes(rng.randrange(40))
            accepts_only_canonical(data, object)
            accepts_only_canonical(data[1:], object)


def test_a_refusal_is_short_whatever_was_sent() -> None:
    for data in (raw({"k" * 60_000: 1}), raw("e\u0301" * 2000), raw("k" * 60_000), b"\xc1" * LIMIT):
        with pytest.raises(Reject) as caught:
            codec.decode(data, Pair, limit=LIMIT)
        assert len(str(caught.value)) < 300
    assert codec._brief(ValueError("x" * 1000)) == "x" * 200 + "…"
    assert codec._brief(RecursionError()) == "RecursionError"
