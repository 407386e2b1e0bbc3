"""`swarm ledger repair`: what the disk lost comes back from any honest member, and nothing else changes."""

from __future__ import annotations

from pathlib import Path

import pytest

from node.storage import DirectoryLock
from swarm import codec
from swarm.ledger.block import FinalBlock
from tests.benchmarks.ledgers import make_ledger
from tests.node.test_cli_ledger import SEGMENT, calm, contents, data, flip, places, refused, said, swarm, written


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


@pytest.fixture
def other(tmp_path: Path) -> Path:
    return written(tmp_path / "other", calm()[1])


def test_a_damaged_ledger_is_whole_again_with_the_same_blocks(site: Path, other: Path) -> None:
    before = contents(other)
    flip(site / SEGMENT, places(site)[2].offset + 60)
    refused("ledger", "verify", site, code=3)
    found = data("ledger", "repair", site, "--from", other)
    assert (found["blocks"], found["readable"]) == (len(calm()[1]), 2)
    assert "VALID" in said("ledger", "verify", site)
    assert [placed.record.payload for placed in places(site)] == [placed.record.payload for placed in places(other)]
    assert contents(other) == before
    assert not (site / "ledger" / "repair").exists()


@pytest.mark.parametrize("place", range(64, 6000, 397))
def test_any_flipped_bit_is_reported_or_is_in_padding_and_repair_mends_it(site: Path, other: Path, place: int) -> None:
    flip(site / SEGMENT, place)
    swarm("ledger", "repair", site, "--from", other)
    assert "VALID" in said("ledger", "verify", site)
    assert [placed.record.payload for placed in places(site)] == list(calm()[1])


def test_what_this_site_wrote_itself_and_the_damaged_files_are_kept(site: Path, other: Path) -> None:
    for log in ("wal", "feed"):
        (site / "ledger" / log).mkdir(exist_ok=True)
        (site / "ledger" / log / "mine").write_bytes(b"votes and entries")
    flip(site / SEGMENT, places(site)[2].offset + 60)
    damaged = (site / SEGMENT).read_bytes()
    aside = Path(str(data("ledger", "repair", site, "--from", other)["quarantine"]))
    assert (aside / "00000000.seg").read_bytes() == damaged
    for log in ("wal", "feed"):
        assert (site / "ledger" / log / "mine").read_bytes() == b"votes and entries"


def test_a_ledger_without_its_blocks_folder_can_be_repaired_too(site: Path, other: Path) -> None:
    """As after a crash between the two renames of an earlier repair."""
    (site / "ledger" / "blocks").rename(site / "ledger" / "gone")
    said("ledger", "repair", site, "--from", other)
    assert "VALID" in said("ledger", "verify", site)


def test_nothing_is_replaced_by_less_by_something_damaged_or_by_another_history(site: Path, tmp_path: Path) -> None:
    before = contents(site)
    payloads = list(calm()[1])
    shorter = written(tmp_path / "shorter", payloads[:-2])
    refused("ledger", "repair", site, "--from", shorter, code=6)
    broken = written(tmp_path / "broken", payloads)
    flip(broken / SEGMENT, places(broken)[2].offset + 60)
    refused("ledger", "repair", site, "--from", broken, code=3)
    signed, foreign, _ = make_ledger(members=4, rounds=1)
    message, _ = refused("ledger", "repair", site, "--from", written(tmp_path / "f", foreign, signed=signed), code=3)
    assert "another swarm's ledger" in message
    final = codec.decode(payloads[1], FinalBlock, limit=1 << 21)
    header = bytearray(final.block.header)
    header[-1] ^= 1
    block = type(final.block)(bytes(header), *(getattr(final.block, n) for n in final.block.__struct_fields__[1:]))
    changed = [payloads[0], codec.encode(FinalBlock(block, final.certificate)), *payloads[2:]]
    rewritten = written(tmp_path / "rewritten", changed)
    whole = contents(rewritten)
    refused("ledger", "repair", rewritten, "--from", site, code=4)
    assert {k: v for k, v in contents(site).items() if k != "run/lock"} == before
    assert {k: v for k, v in contents(rewritten).items() if k != "run/lock"} == whole


def test_a_running_node_is_not_repaired_under_its_feet(site: Path, other: Path) -> None:
    lock = DirectoryLock(site / "run" / "lock")
    message, hint = refused("ledger", "repair", site, "--from", other, code=8)
    assert "a node is running there" in message
    assert hint == "stop the node, then repair"
    lock.close()
