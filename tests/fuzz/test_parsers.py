"""Bytes from somebody else: whatever they are, they are read or refused in words, at a price that follows from their length.

A failure prints the number it was drawn from. `make fuzz TIME=seconds` looks for more of them, guided by coverage; what
that has found is kept in `corpus/` and read again here.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, given, note, settings
from hypothesis import strategies as st

from tests.fuzz.guard import Excess, read, row, watched
from tests.fuzz.mutate import mutated
from tests.fuzz.parsers import PARSERS, Parser

CORPUS = Path(__file__).parent / "corpus"
CORPUS_BYTES_MAX = 1 << 20
EXAMPLES = 12
"""Of each sort and for each row: the suite stays short, and every run draws others."""

rows = pytest.mark.parametrize("name", PARSERS)
few = settings(
    max_examples=EXAMPLES,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


@rows
def test_what_is_valid_is_read(name: str) -> None:
    parser = row(name)
    seeds = parser.seeds()
    assert seeds, "a change needs something to change"
    assert "" in [watched(parser, seed) for seed in seeds], "an example of something valid is not refused"


@rows
@few
@given(data=st.binary(max_size=600))
def test_any_bytes_are_read_or_refused(name: str, data: bytes) -> None:
    parser = row(name)
    watched(parser, data)
    watched(parser, parser.seeds()[0][: parser.skip] + data)


@rows
@few
@given(number=st.integers(0, 2**64 - 1))
def test_what_is_nearly_right_is_read_or_refused(name: str, number: int) -> None:
    parser, rng = row(name), random.Random(number)
    seeds = parser.seeds()
    data = mutated(rng.choice(seeds), rng, seeds, parser.shape, parser.skip)
    note(f"{data[:2_000]!r}")
    watched(parser, data)


@rows
def test_every_cut_is_read_or_refused(name: str) -> None:
    parser = row(name)
    for seed in parser.seeds()[:1]:
        for end in range(0, len(seed), max(1, len(seed) // 30)):
            read(parser, seed[:end])


@pytest.mark.parametrize("path", sorted(CORPUS.glob("*/*")), ids=lambda path: f"{path.parent.name}/{path.name[:12]}")
def test_what_a_campaign_has_kept_is_read_or_refused(path: Path) -> None:
    watched(row(path.parent.name), path.read_bytes())


def test_the_corpus_is_small_and_of_rows_that_there_are() -> None:
    kept = list(CORPUS.glob("*/*"))
    assert {path.parent.name for path in kept} <= {*PARSERS}
    assert sum(path.stat().st_size for path in kept) <= CORPUS_BYTES_MAX


def test_the_guard_sees_what_it_is_there_for() -> None:
    def greedy(data: bytes) -> None:
        bytes(64 << 20)

    def busy(data: bytes) -> None:
        while True:
            len(data)

    def wrong(data: bytes) -> None:
        raise KeyError

    for reader in (greedy, busy):
        with pytest.raises(Excess):
            watched(Parser(reader, lambda: [b""], ()), b"")
    with pytest.raises(KeyError):
        watched(Parser(wrong, lambda: [b""], (ValueError,)), b"")
