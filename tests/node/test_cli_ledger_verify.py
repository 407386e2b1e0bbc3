"""`swarm ledger verify`, its ways of going about it, and the processes that check signatures for it."""

from __future__ import annotations

import functools
import os
import signal
import tracemalloc
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from node.cli.ledger import checking
from node.cli.ledger.checking import Check, Deferred, follow, walk, workers
from node.cli.ledger.sources import open_ledger
from swarm import codec, identity
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.block import Block, FinalBlock, entries_hash
from tests.benchmarks.ledgers import make_ledger
from tests.node.test_cli_ledger import SEGMENT, calm, changed, data, flip, places, refused, said, swarm, written
from tests.node.test_cli_ledger_views import with_a_liar


@functools.cache
def longer() -> tuple[SignedCharter, tuple[bytes, ...], int]:
    """Return a ledger with more signatures than one process checks alone, and their number."""
    signed, payloads, signatures = make_ledger(members=7, rounds=30)
    assert signatures > 2 * checking.ALONE_MAX
    return signed, tuple(payloads), signatures


def unsigned(payload: bytes) -> tuple[bytes, int]:
    """Return a block in which one entry is not what its author signed, all hashes made to fit, and its place in it."""
    final = codec.decode(payload, FinalBlock, limit=1 << 21)
    leaves = list(final.block.leaves)
    place = next(i for i, leaf in enumerate(leaves) if e.decode_entry(leaf).author != e.NO_AUTHOR)
    entry = e.decode_entry(leaves[place])
    leaves[place] = msgspec.structs.replace(entry, signature=bytes(64)).encode()
    old = final.block
    header = bytearray(old.header)
    at = header.index(entries_hash(old.leaves))
    header[at : at + 32] = entries_hash(leaves)
    block = Block(bytes(header), tuple(leaves), old.justify, old.proposer, old.signature)
    return codec.encode(msgspec.structs.replace(final, block=block)), place


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


@pytest.fixture
def long(tmp_path: Path) -> Path:
    signed, payloads, _ = longer()
    return written(tmp_path / "long", payloads, signed=signed, segment_bytes=1 << 21)


def test_fast_finds_the_root_that_full_finds_and_says_what_it_did_not_check(site: Path) -> None:
    full, fast = data("ledger", "verify", site, "--full"), data("ledger", "verify", site, "--fast")
    for name in ("blocks", "entries", "root", "uncovered", "torn"):
        assert fast[name] == full[name]
    assert (full["mode"], fast["mode"]) == ("full", "fast")
    text = said("ledger", "verify", site, "--fast")
    assert "- not checked   who signed which entry" in text
    assert text.splitlines()[-1].endswith("hashes only")


def test_only_one_way_can_be_asked_for(site: Path) -> None:
    refused("ledger", "verify", site, "--fast", "--full", code=2)
    refused("ledger", "verify", site, "--fast", "--from", "2", code=2)


@pytest.mark.parametrize("extra", [[], ["--fast"], ["--from", "4"]])
def test_damage_is_located_whatever_the_way(site: Path, extra: list[str]) -> None:
    place = places(site)[2].offset
    flip(site / SEGMENT, place + 60)
    message, hint = refused("ledger", "verify", site, *extra, code=3)
    assert message.startswith(f"blocks/00000000.seg at byte {place}, block 3 (entry ")
    assert message.endswith("the disk is damaged, this is not a signed change")
    assert "repair" in hint


@pytest.mark.parametrize("extra", [[], ["--fast"], ["--from", "9"]])
def test_a_block_out_of_order_is_found_whatever_the_way(tmp_path: Path, extra: list[str]) -> None:
    payloads = list(calm()[1])
    payloads[1], payloads[2] = payloads[2], payloads[1]
    message, _ = refused("ledger", "verify", written(tmp_path / "s", payloads), *extra, code=3)
    assert ", block 2: " in message
    assert message.endswith("the file reads well, so it was changed")


def test_an_entry_that_its_author_did_not_sign_is_named(tmp_path: Path) -> None:
    payloads = list(calm()[1])
    payloads[2], place = unsigned(payloads[2])
    first = 1 + sum(len(codec.decode(p, FinalBlock, limit=1 << 21).block.leaves) for p in payloads[:2])
    message, hint = refused("ledger", "verify", written(tmp_path / "s", payloads), code=3)
    assert f", block 3, entry {first + place}: " in message
    assert "diff" in hint


def test_from_passes_over_signatures_below_it_and_no_other(tmp_path: Path) -> None:
    payloads = list(calm()[1])
    certificate = codec.decode(payloads[3], FinalBlock, limit=1 << 21).certificate[0]
    forged = msgspec.structs.replace(certificate, signatures=certificate.signatures[::-1])
    payloads[3] = changed(payloads[3], certificate=(forged,))
    site = written(tmp_path / "s", payloads)
    refused("ledger", "verify", site, code=3)
    refused("ledger", "verify", site, "--from", "4", code=3)


def test_of_two_findings_the_code_is_the_worse(tmp_path: Path) -> None:
    signed, payloads = with_a_liar()
    shown = list(payloads)
    shown[-1] = changed(shown[-1], certificate=())
    both = written(tmp_path / "both", shown, signed=signed, segment_bytes=1 << 20)
    result = swarm("ledger", "verify", both)
    assert result.exit_code == 4, "a contradiction outweighs an end that is not certified"
    assert "not covered by a certificate yet" in result.stdout
    whole = written(tmp_path / "whole", payloads, signed=signed, segment_bytes=1 << 20)
    assert swarm("ledger", "verify", whole).exit_code == 4
    cut = written(tmp_path / "cut", shown[:6], signed=signed, segment_bytes=1 << 20)
    assert swarm("ledger", "verify", cut).exit_code == 5, "going back on what was seen outweighs a contradiction"


def test_a_length_that_nothing_backs_is_refused_without_room_being_made_for_it(tmp_path: Path) -> None:
    """The record claims 67 million entries, half a gigabyte of pointers to them, and holds thirty thousand empty ones."""
    header = codec.decode(calm()[1][0], FinalBlock, limit=1 << 21).block.header
    crafted = b"\x93\x95" + codec.encode(header) + b"\xdd" + (1 << 26).to_bytes(4, "big") + b"\xc4\x00" * 30_000
    site = written(tmp_path / "s", [crafted])
    files = open_ledger(site)
    tracemalloc.start()
    try:
        found = walk(files, lambda *_: None)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert found.failure is not None
    assert (found.failure.height, "truncated" in found.failure.text) == (1, True)
    assert peak < 1 << 20, peak


# --- many processes -----------------------------------------------------------------------------------------------


@pytest.mark.real
@pytest.mark.parametrize("cores", [1, 2, 3])
def test_any_number_of_cores_finds_the_same(long: Path, cores: int) -> None:
    files = open_ledger(long)
    with workers(cores) as made:
        result = follow(files, Deferred(made))
        assert made.started == (cores if cores > 1 else 0)
    assert result.failure is None
    assert result.blocks == len(longer()[1])


@pytest.mark.real
@pytest.mark.parametrize("where", [0.1, 0.5, 0.99])
def test_the_first_of_several_bad_signatures_is_the_one_that_is_told(tmp_path: Path, where: float) -> None:
    signed, payloads, _ = longer()
    shown = list(payloads)
    at = int(where * len(shown))
    for height in {at, min(at + 3, len(shown) - 1)}:
        certificate = codec.decode(shown[height], FinalBlock, limit=1 << 21).certificate[0]
        forged = msgspec.structs.replace(certificate, signatures=certificate.signatures[::-1])
        shown[height] = changed(shown[height], certificate=(forged,))
    folder = written(tmp_path / "s", shown, signed=signed, segment_bytes=1 << 21)
    with workers(2) as made:
        result = follow(open_ledger(folder), Deferred(made))
    assert result.failure is not None
    assert result.failure.height == at + 1


@pytest.mark.real
def test_a_worker_that_is_killed_costs_time_and_nothing_else(long: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed: list[int] = []

    def dying(checks: Sequence[Check]) -> int | None:
        if os.getpid() != me:
            os.kill(os.getpid(), signal.SIGKILL)
        killed.append(len(checks))
        return next((i for i, check in enumerate(checks) if not identity.verify(*check)), None)

    me = os.getpid()
    monkeypatch.setattr(checking, "_first_bad", dying)
    with workers(2) as made:
        result = follow(open_ledger(long), Deferred(made))
    assert result.failure is None
    assert sum(killed) >= longer()[2] - checking.BATCH


def test_walking_the_hashes_reads_every_entry(long: Path) -> None:
    seen: list[int] = []
    found = walk(open_ledger(long), lambda height, *_: seen.append(height))
    assert found.failure is None
    assert seen == list(range(len(longer()[1]) + 1))
    assert found.entries == data("ledger", "verify", long)["entries"]
