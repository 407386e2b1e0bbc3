"""Every way to write a value in MessagePack, and the at most one that a ledger reads.

The facts are of kawanet/msgpack-test-suite: 85 values, each with all its encodings. A value of the profile has exactly
one accepted encoding, a value outside it none, so no two byte strings of the ledger mean the same.
"""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest

from swarm import codec
from swarm.errors import Reject
from tests.conformance.profile import shortest

SUITE = json.loads((Path(__file__).parents[1] / "vectors" / "msgpack-suite.json").read_text())["values"]

OUTSIDE = {"nil", "map", "timestamp", "ext"}


def accepted(data: bytes) -> bool:
    try:
        codec.decode(data, object, limit=1000)
    except Reject:
        return False
    return True


def meant(kind: str, value: object) -> object:
    """The value of a row: JSON has no bytes and no large integers."""
    if kind == "binary":
        assert isinstance(value, str)
        return bytes.fromhex(value.replace("-", ""))
    return int(value) if kind == "number" and isinstance(value, str) else value


def inside(kind: str, value: object) -> bool:
    """Whether the profile has this value at all."""
    if kind in OUTSIDE or isinstance(value, float | dict):
        return False
    return not isinstance(value, list) or all(inside("", item) for item in value)


def test_the_table_is_whole() -> None:
    assert len(SUITE) == 85
    counted = Counter(kind for kind, _, _ in SUITE)
    assert counted == {
        "nil": 1, "bool": 2, "binary": 3, "number": 30, "string": 11, "array": 7, "map": 5, "timestamp": 19, "ext": 7,
    }  # fmt: skip
    assert sum(len(encodings) for _, _, encodings in SUITE) == 233


@pytest.mark.parametrize(
    ("kind", "value", "encodings"), SUITE, ids=[f"{number} {row[0]}" for number, row in enumerate(SUITE)]
)
def test_a_value_of_the_profile_has_exactly_one_accepted_encoding(
    kind: str, value: object, encodings: list[str]
) -> None:
    survivors = [data for data in map(bytes.fromhex, encodings) if accepted(data)]
    if not inside(kind, value):
        assert survivors == []
        return
    plain = meant(kind, value)
    assert survivors == [shortest(plain)] == [codec.encode(plain)]


def test_no_timestamp_and_no_extension_is_read() -> None:
    refused = [bytes.fromhex(data) for kind, _, all_ in SUITE if kind in {"timestamp", "ext"} for data in all_]
    assert len(refused) == 30
    assert not any(accepted(data) for data in refused)


def test_what_outlives_reencoding_alone_is_stopped_by_the_ban_on_types() -> None:
    # A float64 read and written again is the same bytes, so a shortest-form rule alone would let a number be two things.
    floats = [data for kind, _, all_ in SUITE if kind == "number" for data in all_ if data[:2] in {"ca", "cb"}]
    assert len(floats) == 23
    assert not any(accepted(bytes.fromhex(data)) for data in floats)


@pytest.mark.parametrize("first", range(256), ids=lambda byte: f"{byte:02x}")
def test_each_first_byte_alone_means_one_thing_or_nothing(first: int) -> None:
    single = {
        *range(0x80),
        *range(0xE0, 0x100),
        0x90,
        0xA0,
        0xC2,
        0xC3,
    }  # small integers, empty array and text, booleans
    assert accepted(bytes([first])) == (first in single)


def test_bytes_after_a_value_are_never_ignored() -> None:
    for kind, value, encodings in SUITE:
        if inside(kind, value):
            good = next(data for data in map(bytes.fromhex, encodings) if accepted(data))
            assert not any(accepted(good + bytes([extra])) for extra in range(256))
            assert not any(accepted(good[:cut]) for cut in range(len(good)))
