"""Bytes that are nearly right: what somebody else wrote, changed as a broken disk, a broken program or a liar would.

Pure: the same random source gives the same bytes, so a failing draw of Hypothesis is one number, and a campaign under
coverage guidance uses the very same changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import msgpack

GROWTH_BYTES_MAX = 1 << 16
"""No change makes a file longer than this: what a parser does with much is asked by repetition, not by size alone."""

NUMBERS = (
    0,
    1,
    -1,
    63,
    127,
    128,
    255,
    256,
    2**16,
    2**31 - 1,
    2**31,
    2**32,
    2**53,
    2**63 - 1,
    2**63,
    2**64 - 1,
    -(2**63),
)

WORDS = (
    "", "\0", "\r", "\n\n", "\t", '"', "'''", "[", "{", "=", "<", "&", "]]>", "0", "-1", "007", "1e999", "nan", "inf",
    "9" * 400, "9" * 5_000, "1979-05-27T07:32:00Z", "2026-99-99", "true", "null", "x" * 9_000, "\u202e", "e\u0301",
    "[" * 3_000, "{a=" * 3_000, "a" + ".a" * 3_000 + "=1\n", '{"a":' * 3_000, "<a>" * 3_000, "<!DOCTYPE a>", "../../x",
)  # fmt: skip


def mutated(data: bytes, rng: random.Random, others: Sequence[bytes], shape: str, skip: int = 0) -> bytes:
    """Return `data` after one to four changes. `shape` is "msgpack", "text" or "bytes"; `skip` bytes precede the body.

    `others` are further examples of the same format, of which parts are taken.
    """
    for _ in range(rng.randint(1, 4)):
        changes: list[Callable[[bytes, random.Random, Sequence[bytes]], bytes]] = [_bytes]
        if shape == "msgpack":
            changes += [_tree, _tree, _head]
        elif shape == "text":
            changes += [_words, _words, _lines]
        change = rng.choice(changes)
        if change is _tree or change is _head:
            data = data[:skip] + change(data[skip:], rng, others)
        else:
            data = change(data, rng, others)
    return data[: max(GROWTH_BYTES_MAX, len(data) // 2)]


def _bytes(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    start = rng.randint(0, len(data))
    end = min(len(data), start + rng.choice((0, 1, 2, 4, 8, 32, 128)))
    match rng.randrange(9):
        case 0:
            return data[:start]
        case 1:
            return data[:start] + data[end:]
        case 2:
            return data[:end] + data[start:end] * rng.choice((1, 2, 300)) + data[end:]
        case 3:
            return data[:start] + rng.randbytes(end - start) + data[end:]
        case 4:
            other = rng.choice(others)
            at = rng.randint(0, len(other))
            return data[:start] + other[at : at + rng.choice((1, 8, 64, 4096))] + data[end:]
        case 5:
            width = rng.choice((1, 2, 4, 8))
            number = (rng.choice(NUMBERS) % (1 << 8 * width)).to_bytes(width, "big")
            return data[:start] + number + data[start + width :]
        case 6:
            return data + data[start:end]
        case 7 if data:
            place = rng.randrange(len(data))
            return data[:place] + bytes((data[place] ^ 1 << rng.randrange(8),)) + data[place + 1 :]
        case _:
            return data[:start] + bytes((rng.choice((0, 0x7F, 0x80, 0xFF)),)) * (end - start) + data[end:]


def _head(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """A length that nothing backs, a nest of them, or a form outside the profile."""
    del others
    start = rng.randint(0, len(data))
    claims = (
        b"\xdd\xff\xff\xff\xff", b"\xdc\xff\xff", b"\xc6\xff\xff\xff\xff", b"\xdb\xff\xff\xff\xff", b"\xdf\xff\xff\xff\xff",
        b"\xc0", b"\xcb" + bytes(8), b"\xd4\x01\x00", b"\xca" + bytes(4), b"\xcd\x00\x01", b"\x91" * 4_000,
        b"\xdc\x00\x04" * 2_000, b"\xdd\x00\x00\x10\x00" * 500, b"\xc9\xff\xff\xff\xff\x01", b"\xa2\xed\xa0",
    )  # fmt: skip
    return data[:start] + rng.choice(claims) + data[start + rng.randint(0, 3) :]


def _tree(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Change one value of what the bytes hold, and write it down again as it has to be written."""
    try:
        tree = msgpack.unpackb(data, strict_map_key=False)
        return bytes(msgpack.packb(_changed(tree, rng, 0)))
    except Exception:  # noqa: BLE001 - whatever is no tree any more is changed as bytes
        return _bytes(data, rng, others)


def _changed(value: Any, rng: random.Random, depth: int) -> Any:
    if isinstance(value, list) and value and rng.random() < 0.8:
        place = rng.randrange(len(value))
        match rng.randrange(12):
            case 0:
                return value[:place] + value[place + 1 :]
            case 1:
                return [*value, value[place]]
            case 2:
                return value[:place] + [value[place]] * rng.choice((2, 65, 1_000)) + value[place:]
            case 3:
                other = rng.randrange(len(value))
                return [value[place] if i == other else item for i, item in enumerate(value)]
            case 4:
                return value[::-1]
            case _:
                return [_changed(item, rng, depth + 1) if i == place else item for i, item in enumerate(value)]
    if isinstance(value, bytes) and len(value) > 2 and rng.random() < 0.5:
        try:
            inner = msgpack.unpackb(value, strict_map_key=False)
            if isinstance(inner, list):
                return msgpack.packb(_changed(inner, rng, depth + 1))
        except Exception:  # noqa: BLE001 - most bytes are no message of their own
            pass
    if isinstance(value, int) and rng.random() < 0.7:
        return rng.choice((value + 1, value - 1, -value, *NUMBERS))
    if isinstance(value, bytes) and rng.random() < 0.7:
        place = rng.randint(0, len(value))
        return rng.choice((b"", value[:place], value + b"\0", bytes(len(value)), value * 2, rng.randbytes(len(value))))
    if isinstance(value, str) and rng.random() < 0.7:
        return rng.choice((*WORDS, value + "\u0301", value * 2, value.upper()))
    nest: Any = 0
    for _ in range(rng.choice((1, 6, 9, 200))):
        nest = [nest]
    return rng.choice((0, b"", "", [], True, False, nest, [value], [value, value], None, 1.5, {}))


def _words(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    """Put a word that parsers stumble over in the place of one, or between two."""
    del others
    text = data.decode("utf-8", "replace")
    breaks = [i for i, character in enumerate(text) if character in " \n\t\"'=,[]<>:|+/"] or [0]
    start = rng.choice(breaks) + 1
    end = next((place for place in breaks if place >= start), len(text)) if rng.random() < 0.7 else start
    return (text[:start] + rng.choice(WORDS) + text[end:]).encode("utf-8", "replace")


def _lines(data: bytes, rng: random.Random, others: Sequence[bytes]) -> bytes:
    lines = data.split(b"\n")
    place, other = rng.randrange(len(lines)), rng.choice(rng.choice(others).split(b"\n"))
    match rng.randrange(5):
        case 0:
            return b"\n".join(lines[:place] + lines[place + 1 :])
        case 1:
            return b"\n".join(
                [*lines[:place], *lines[place : place + 1] * rng.choice((2, 3, 200)), *lines[place + 1 :]]
            )
        case 2:
            return b"\n".join([*lines[:place], other, *lines[place:]])
        case 3:
            return b"\n".join(lines).replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n")))
        case _:
            rng.shuffle(lines)
            return b"\n".join(lines)
