"""A node begins where it stopped: from its snapshot if that is right, else from the first block, and to the same end."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest

from node.recovery import Recovered, recover
from node.storage import RealDisk, SnapshotFile
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import LedgerError
from swarm.ledger.block import FinalBlock, Header
from swarm.ledger.journal import BLOCKS, Finding, Journal, Placed, scan
from swarm.ledger.snapshot import CONTEXT_BLOCKS
from swarm.machine import RECORD_BLOCK, RECORD_ENTRY, RECORD_VOTE, Record, Report, Snapshot, Started
from tests.benchmarks.ledgers import make_ledger
from tests.builders import Swarm, make_swarm
from topologies.world.clock import EPOCH_S

ROUNDS = 28
SEGMENT_BYTES = 1 << 15


@functools.cache
def run() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """The blocks of a run that is longer than what a start reads."""
    signed, payloads, _ = make_ledger(members=3, rounds=ROUNDS)
    assert len(payloads) > CONTEXT_BLOCKS + 10
    return signed, tuple(payloads)


class Site:
    """A site's ledger folder, opened anew each time as a new process would."""

    def __init__(self, folder: Path) -> None:
        self.disk = RealDisk(folder)
        self.file = folder / "snapshot"
        self.signed = run()[0]

    def journal(self) -> Journal:
        return Journal(self.disk, ledger_id=self.signed.ledger_id, segment_bytes=SEGMENT_BYTES)

    def write(self, payloads: tuple[bytes, ...], *, first: int = 1) -> None:
        journal = self.journal()
        journal.open()
        for height, payload in enumerate(payloads, first):
            journal.append([Record(RECORD_BLOCK, height, payload)])

    def recover(self) -> tuple[Recovered, Journal]:
        journal = self.journal()
        return recover(journal, self.disk, SnapshotFile(self.file), self.signed), journal

    def heights(self, recovered: Recovered) -> list[int]:
        return [record.height for record in recovered.opened.records if record.kind == RECORD_BLOCK]


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path)
    made.write(run()[1])
    return made


def header(payload: bytes) -> Header:
    return Header.decode(codec.decode(payload, FinalBlock, limit=1 << 21).block.header)


def swarm_of_run() -> Swarm:
    return make_swarm(3, rounds=ROUNDS)


def test_without_a_snapshot_every_block_is_followed_and_one_is_made(site: Site) -> None:
    top = len(run()[1])
    recovered, _ = site.recover()
    assert site.heights(recovered) == list(range(top - CONTEXT_BLOCKS, top + 1))
    assert site.file.read_bytes() == top.to_bytes(8, "big") + recovered.snapshot


def test_with_one_only_the_blocks_around_and_after_it_are_read(site: Site) -> None:
    payloads, top = run()[1], len(run()[1])
    first, _ = site.recover()
    again, _ = site.recover()
    assert again == first
    site.write((b"not a block, and not read as one",), first=top + 1)
    third, _ = site.recover()
    assert third.snapshot == first.snapshot
    assert site.heights(third) == list(range(top - CONTEXT_BLOCKS, top + 2))
    assert header(payloads[-1]).height == top


def test_a_node_that_starts_from_a_snapshot_is_the_one_that_followed_every_block(site: Site) -> None:
    signed, payloads = run()
    swarm = swarm_of_run()
    assert swarm.signed.ledger_id == signed.ledger_id
    whole, short = swarm.node(0), swarm.node(0)
    whole.handle(Started(tuple(Record(RECORD_BLOCK, h, p) for h, p in enumerate(payloads, 1))), EPOCH_S)
    recovered, _ = site.recover()
    effects = short.handle(Started(recovered.opened.records, snapshot=recovered.snapshot), EPOCH_S)
    assert short.replica.head == whole.replica.head
    assert short.snapshot() == whole.snapshot()
    assert short.consensus.status() == whole.consensus.status()
    (told,) = [effect.text for effect in effects if isinstance(effect, Report) and effect.event == "started"]
    assert told == f"ledger at block {len(payloads)}, all {ROUNDS} rounds committed"
    assert whole.round.advance(whole.replica.head, [], lambda _: True, EPOCH_S) == short.round.advance(
        short.replica.head, [], lambda _: True, EPOCH_S
    ), "what this site has said already is not said again"


@pytest.mark.parametrize("harm", ["bit", "cut", "empty", "height", "older state", "of nothing"])
def test_a_wrong_snapshot_is_not_believed_and_made_again(site: Site, harm: str) -> None:
    right, _ = site.recover()
    data = site.file.read_bytes()
    top = int.from_bytes(data[:8], "big")
    site.file.write_bytes(
        {
            "bit": data[:100] + bytes([data[100] ^ 1]) + data[101:],
            "cut": data[:-1],
            "empty": b"",
            "height": (top - 1).to_bytes(8, "big") + data[8:],
            "older state": (top + 5).to_bytes(8, "big") + data[8:],
            "of nothing": bytes(8) + data[8:],
        }[harm]
    )
    assert site.recover()[0] == right
    assert site.file.read_bytes() == data


def test_a_snapshot_that_cannot_be_kept_does_not_keep_the_node_from_starting(site: Site) -> None:
    site.file.mkdir()
    recovered, _ = site.recover()
    assert recovered.snapshot
    assert site.heights(recovered)[-1] == len(run()[1])


def test_a_new_site_starts_from_nothing(tmp_path: Path) -> None:
    site = Site(tmp_path)
    recovered, journal = site.recover()
    assert (recovered.opened.records, recovered.snapshot) == ((), b"")
    assert not site.file.exists()
    journal.append([Record(RECORD_BLOCK, 1, run()[1][0])])
    assert site.heights(site.recover()[0]) == [1]


def test_votes_and_own_entries_come_along(site: Site) -> None:
    said = (Record(RECORD_VOTE, 5, b"a vote"), Record(RECORD_ENTRY, 2, b"an entry"))
    journal = site.journal()
    journal.open()
    journal.append(said)
    for _ in range(2):
        records = site.recover()[0].opened.records
        assert tuple(record for record in records if record.kind != RECORD_BLOCK) == said


def test_damage_is_said_when_everything_is_read_and_nothing_is_made_of_it(site: Site) -> None:
    places = [part for part in scan(site.disk, BLOCKS, site.signed.ledger_id) if isinstance(part, Placed)]
    path = site.file.parent / places[2].path
    data = bytearray(path.read_bytes())
    data[places[2].offset + 30] ^= 1
    path.write_bytes(data)
    recovered, _ = site.recover()
    assert recovered.snapshot == b""
    assert [(f.verdict, f.path) for f in recovered.opened.findings] == [("corruption", places[2].path)]


def test_damage_before_a_right_snapshot_is_for_verify_to_find(site: Site) -> None:
    right, _ = site.recover()
    places = [part for part in scan(site.disk, BLOCKS, site.signed.ledger_id) if isinstance(part, Placed)]
    path = site.file.parent / places[2].path
    data = bytearray(path.read_bytes())
    data[places[2].offset + 30] ^= 1
    path.write_bytes(data)
    assert site.recover()[0] == right
    found = [part for part in scan(site.disk, BLOCKS, site.signed.ledger_id) if isinstance(part, Finding)]
    assert [finding.verdict for finding in found] == ["corruption"]


def test_blocks_that_do_not_follow_are_refused_in_words(tmp_path: Path) -> None:
    site = Site(tmp_path)
    payloads = run()[1]
    site.write((*payloads[:5], payloads[7]))
    with pytest.raises(LedgerError, match="past height 5") as caught:
        site.recover()
    assert "verify" in caught.value.hint


def test_a_node_refuses_a_snapshot_that_its_block_does_not_name(site: Site) -> None:
    """The shell looks first; whoever drives a node otherwise is told as well."""
    recovered, _ = site.recover()
    node = swarm_of_run().node(0)
    other = swarm_of_run().node(0)
    other.handle(Started(tuple(Record(RECORD_BLOCK, h, p) for h, p in enumerate(run()[1][:70], 1))), EPOCH_S)
    lower = [record for record in recovered.opened.records if record.height <= 70]
    stale = other.snapshot()
    assert stale == Snapshot(70, stale.state)
    node.handle(Started(tuple(lower), snapshot=stale.state), EPOCH_S)
    assert node.replica.head.height == 70
    bent = stale.state.replace(other.replica.head.committed.model, bytes(32))
    with pytest.raises(LedgerError, match="not the state that block names"):
        swarm_of_run().node(0).handle(Started(tuple(lower), snapshot=bent), EPOCH_S)
