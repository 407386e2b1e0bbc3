"""Any part of a ledger can be read from any place, and what is read is what was written."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.cli.ledger.entries import EVERY, Wanted
from node.dashboard import explorer
from node.watch.look import Watch
from swarm import codec
from swarm.errors import LedgerError
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from tests.node.test_cli_ledger import calm, written


@pytest.fixture
def watch(tmp_path: Path) -> Iterator[Watch]:
    found = Watch(written(tmp_path / "site", calm()[1]))
    found.look()
    yield found
    found.close()


def indices(told: object) -> list[int]:
    assert isinstance(told, dict)
    return [one["index"] for one in told["entries"]]


def test_entries_are_read_backwards_to_the_charter_without_a_gap(watch: Watch) -> None:
    entries = watch.look().audit.entries
    for count in (1, 3, 7, 200):
        seen: list[int] = []
        before: int | None = entries
        while before is not None:
            told = explorer.entries(watch.following, watch.files, EVERY, before, count)
            seen += indices(told)
            before = told["next"]  # type: ignore[assignment]
        assert seen == list(range(entries - 1, -1, -1))


def test_a_filter_finds_what_it_asks_for_and_nothing_else(watch: Watch) -> None:
    wanted = Wanted(2, 2, "site-1", "contribution")
    told = explorer.entries(watch.following, watch.files, wanted, 10**9, 50)
    [found] = told["entries"]  # type: ignore[misc]
    assert (found["round"], found["author"], found["kind"]) == (2, "site-1", "contribution")
    assert (found["body"]["round"], found["height"]) == (2, watch.following.height_of(found["index"]))


def test_a_rare_entry_is_searched_for_in_stretches(watch: Watch, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(explorer, "SEARCHED_BLOCKS_MAX", 2)
    before: int | None = 10**9
    answers, seen = 0, list[int]()
    while before is not None:
        told = explorer.entries(watch.following, watch.files, Wanted(None, None, None, "charter"), before, 50)
        answers, before = answers + 1, told["next"]  # type: ignore[assignment]
        seen += indices(told)
    assert (seen, answers >= len(calm()[1]) // 2) == ([0], True)


def test_blocks_are_given_as_they_were_written_and_no_more_than_asked_for(watch: Watch) -> None:
    payloads = calm()[1]
    records = list(explorer.blocks(watch.following, 1))
    assert [record[4:] for record in records] == list(payloads)
    assert all(struct.unpack(">I", record[:4])[0] == len(record) - 4 for record in records)
    assert [record[4:] for record in explorer.blocks(watch.following, 3, limit=1)] == [payloads[2]]
    assert list(explorer.blocks(watch.following, len(payloads) + 1)) == []


def test_each_entry_is_found_in_its_block(watch: Watch) -> None:
    for height, payload in enumerate(calm()[1], 1):
        header = codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.opened()
        assert watch.following.first_of(height) == header.first_index
        for index in range(header.first_index, header.first_index + header.count):
            assert watch.following.height_of(index) == height


def test_a_block_that_was_damaged_since_is_said_to_be(watch: Watch, tmp_path: Path) -> None:
    [segment] = (tmp_path / "site" / "ledger" / "blocks").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    with pytest.raises(LedgerError, match="couldn't read the block at byte"):
        list(explorer.blocks(watch.following, 1))
