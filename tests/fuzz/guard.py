"""One reading of bytes, watched: what escapes, how many functions are called, how much memory is held."""

from __future__ import annotations

import functools
import sys
import tracemalloc
from types import FrameType
from typing import Any

from tests.fuzz.parsers import PARSERS, Parser


class Excess(AssertionError):
    """More work or memory than so many bytes are worth."""


@functools.cache
def row(name: str) -> Parser:
    """Return a row of the table, its examples read once: what is imported or made at first must not count later."""
    parser = PARSERS[name]
    for seed in parser.seeds():
        read(parser, seed)
    return parser


def read(parser: Parser, data: bytes) -> str:
    """Read `data` and return the name of the error that refused it, or nothing. Whatever else escapes, escapes."""
    try:
        parser.read(data)
    except parser.allowed as error:
        return type(error).__name__
    return ""


def watched(parser: Parser, data: bytes) -> str:
    """The same within bounds. Raises `Excess`.

    Work is counted in calls, not seconds: the same on every machine. A call that would be one too many is the last one,
    so that what would never end ends here.
    """
    calls, most = 0, parser.calls + parser.calls_byte * len(data)

    def count(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal calls
        calls += event in ("call", "c_call")
        if calls > most:
            raise Excess(f"more than {most} calls for {len(data)} bytes")

    before = sys.getprofile()
    tracemalloc.start(1)
    try:
        held = tracemalloc.get_traced_memory()[0]
        sys.setprofile(count)
        try:
            name = read(parser, data)
        finally:
            sys.setprofile(before)
        peak = tracemalloc.get_traced_memory()[1] - held
    finally:
        tracemalloc.stop()
    if peak > parser.memory + parser.memory_byte * len(data):
        raise Excess(f"{peak} bytes of memory for {len(data)} bytes")
    return name
