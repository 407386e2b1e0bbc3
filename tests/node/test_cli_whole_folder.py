"""`swarm ledger verify` looks at every file of a ledger: one flipped bit is told with its place, or lies in padding."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import cli
from node.cli.output import CONTRADICTION, INCOMPLETE, INVALID, OK, Failure
from node.storage import RealDisk, SnapshotFile
from swarm import charter as c
from swarm import codec
from swarm.ledger.audit import audit
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import FEED, WAL, Finding, Journal, Placed, scan
from swarm.ledger.note import parse
from swarm.ledger.tlog import Checkpoint
from swarm.machine import RECORD_BLOCK, Record, Snapshot
from tests import sites
from tests.builders import make_swarm
from tests.integration.test_flipped_bits import flipped
from tests.node.test_cli_exports import forged
from tests.simulation.test_forks import END_S, forked
from tests.swarm.ledger.crash_states import Append, of_a_real_member

SEGMENT_BYTES = 1 << 15
TRIES = 12
"""Bits that are tried of each file through the whole command: each reads all of the ledger."""


def verify(site: Path, *options: str) -> tuple[int, str]:
    """Return the exit status of `swarm ledger verify`, and all that it says."""
    ran = invoke(site, *options)
    error = ran.exception
    code = error.code if isinstance(error, (Failure, SystemExit)) else 0 if error is None else -1
    hint = error.hint if isinstance(error, Failure) else ""
    return int(code or 0), f"{ran.output}{error or ''}\n{hint}"


def invoke(site: Path, *options: str) -> Result:
    return CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, ["ledger", "verify", str(site), *options])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a member that learned a round: blocks, votes, own entries, checkpoint, snapshot, charter."""
    left = sites.calm_run(members=3, rounds=1)
    folder = tmp_path_factory.mktemp("whole") / "site"
    sites.write_site(folder, left, checkpoint=left.checkpoints[-1])
    disk = RealDisk(folder / "ledger")
    journal = Journal(disk, ledger_id=left.swarm.signed.ledger_id, segment_bytes=SEGMENT_BYTES)
    journal.open()
    for step in of_a_real_member():
        if isinstance(step, Append) and (own := [r for r in step.records if r.kind != RECORD_BLOCK]):
            journal.append(own)
    disk.close()
    *_, result = audit(left.payloads[:-1], left.swarm.signed)
    SnapshotFile(folder / "ledger" / "snapshot").save(Snapshot(result.state.height, result.state.encode()))
    return folder


def offsets(path: Path, tries: int = TRIES) -> Iterator[int]:
    """Yield bytes of a file from end to end of what was written there."""
    used = len(path.read_bytes().rstrip(b"\0"))
    yield from range(0, used, max(1, used // tries))


def scanned(site: Path, log: str) -> list[Placed | Finding]:
    disk = RealDisk(site / "ledger")
    try:
        return list(scan(disk, log, c.from_toml((site / "charter.toml").read_text()).ledger_id))
    finally:
        disk.close()


def test_a_folder_that_is_whole_is_said_to_be_file_by_file(site: Path) -> None:
    for options in ((), ("--fast",)):
        code, said = verify(site, *options)
        assert code == OK, said
        for line in (
            "✔ votes         ",
            "✔ own entries   ",
            "✔ checkpoint    of ",
            "✔ snapshot      the state after block ",
        ):
            assert line in said
        assert "!" not in said
    assert json.loads(invoke(site, "--json").stdout)["data"]["files"] == []


@pytest.mark.parametrize("log", [WAL, FEED])
def test_a_flipped_bit_of_a_log_of_this_site_is_named_or_changes_nothing_that_is_read(site: Path, log: str) -> None:
    path = site / "ledger" / log / "00000000.seg"
    before, codes = scanned(site, log), set()
    for offset in offsets(path):
        with flipped(path, offset):
            code, said = verify(site, "--fast")
            after = scanned(site, log)
        if after == before:
            assert code == OK
            continue
        codes.add(code)
        assert f"ledger/{log}/00000000.seg at byte " in said, (offset, said)
        assert code == INVALID or "torn end" in said
        if code == INVALID:
            assert "NOT WHOLE" in said
            assert "restore the ledger folder from a backup" in said
    assert INVALID in codes


def test_a_torn_write_of_votes_is_told_and_costs_nothing(site: Path) -> None:
    path = site / "ledger" / WAL / "00000000.seg"
    data = path.read_bytes()
    used = len(data.rstrip(b"\0"))
    torn = used + -used % 8 + 16
    try:
        path.write_bytes(data[:torn] + b"begun" + data[torn + 5 :])
        code, said = verify(site)
    finally:
        path.write_bytes(data)
    assert code == OK
    assert "! torn end      ledger/wal/00000000.seg at byte " in said


@pytest.mark.parametrize("options", [(), ("--fast",)], ids=["full", "fast"])
@pytest.mark.parametrize("name", ["checkpoint", "snapshot"])
def test_a_flipped_bit_of_what_is_made_again_is_named_and_ends_with_0(
    site: Path, name: str, options: tuple[str, ...]
) -> None:
    path = site / "ledger" / name
    for offset in offsets(path):
        with flipped(path, offset):
            code, said = verify(site, *options)
        assert code == OK, (offset, said)
        assert f"! {name:<13} ledger/{name} at byte " in said, (offset, said)
        assert "is made again by the node" in said


def test_the_byte_of_a_damaged_snapshot_is_the_one_that_was_flipped(site: Path) -> None:
    path = site / "ledger" / "snapshot"
    for offset in offsets(path, 6):
        with flipped(path, offset):
            said = verify(site)[1]
        assert f"ledger/snapshot at byte {offset if offset >= 8 else 0}: " in said, (offset, said)


def test_every_bit_of_a_signature_line_counts_though_a_quorum_would_be_left(site: Path) -> None:
    path = site / "ledger" / "checkpoint"
    data = path.read_bytes()
    line = data.rindex("— ".encode())
    for offset in range(line, len(data)):
        with flipped(path, offset):
            code, said = verify(site, "--fast")
        assert (code, "! checkpoint    ledger/checkpoint at byte " in said) == (OK, True), (offset, said)


def test_a_flipped_bit_of_the_charter_names_the_file(site: Path) -> None:
    path = site / "charter.toml"
    for offset in offsets(path, 2 * TRIES):
        with flipped(path, offset):
            code, said = verify(site, "--fast")
        assert "charter.toml" in said, (offset, code, said)
        assert code == INVALID or (code == OK and f"charter.toml at byte {offset}: not as" in said), said


def test_a_checkpoint_that_members_signed_of_another_history_outweighs_what_is_missing(site: Path) -> None:
    path = site / "ledger" / "checkpoint"
    good = path.read_bytes()
    head = Checkpoint.decode(parse(good).text)
    try:
        path.write_bytes(forged(Checkpoint(head.origin, head.size, bytes(32)), (0, 1, 2)))
        code, said = verify(site)
        assert (code, "the members have cosigned another log" in said) == (CONTRADICTION, True)
        path.write_bytes(forged(Checkpoint(head.origin, head.size + 1, bytes(32)), (0, 1, 2)))
        code, said = verify(site)
        assert (code, "and this ledger ends after" in said) == (INCOMPLETE, True)
    finally:
        path.write_bytes(good)


def test_what_is_no_file_of_a_ledger_is_named(site: Path) -> None:
    stray = site / "ledger" / "notes.txt"
    stray.write_text("hello")
    try:
        code, said = verify(site, "--fast")
    finally:
        stray.unlink()
    assert (code, "- not looked at ledger/notes.txt: no file of a ledger" in said) == (OK, True)


# --- proofs of forks ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def side(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of an honest member on one side of a fork."""
    world, files = forked()
    world.run(lambda w: w.now > 60.0, end_s=END_S)
    folder = tmp_path_factory.mktemp("side")
    signed = make_swarm(4, rounds=8, patience_ms=4_000).signed
    (folder / "charter.toml").write_text(c.to_toml(signed))
    disk = RealDisk(folder / "ledger")
    journal = Journal(disk, ledger_id=signed.ledger_id, segment_bytes=1 << 17)
    journal.open()
    for height, final in enumerate(files.blocks[0], 1):
        journal.append([Record(RECORD_BLOCK, height, codec.encode(final))])
    disk.close()
    for name, data in files.published[0].items():
        if name.startswith("fork-"):
            (folder / "ledger" / name).write_bytes(data)
    return folder


def test_a_proof_of_a_fork_ends_with_4_and_a_flipped_bit_of_it_with_3(side: Path) -> None:
    (proof,) = (side / "ledger").glob("fork-*")
    code, said = verify(side, "--fast")
    assert (code, f"✘ fork          ledger/{proof.name}, block " in said) == (CONTRADICTION, True)
    for offset in offsets(proof, 2 * TRIES):
        with flipped(proof, offset):
            code, said = verify(side, "--fast")
        assert (code, f"ledger/{proof.name} at byte " in said) == (INVALID, True), (offset, said)
        assert "ask another member for its copy" in said


def test_the_damaged_block_of_a_proof_is_the_one_that_is_named(side: Path) -> None:
    (proof,) = (side / "ledger").glob("fork-*")
    blocks = codec.decode(proof.read_bytes(), tuple[FinalBlock, ...], limit=1 << 24)
    begin = len(proof.read_bytes()) - len(codec.encode(blocks[-1]))
    signature = begin + codec.encode(blocks[-1]).index(blocks[-1].block.signature)
    with flipped(proof, signature + 5):
        said = verify(side, "--fast")[1]
    assert f"ledger/{proof.name} at byte {begin}, block " in said
    assert "its proposer's signature does not verify" in said
