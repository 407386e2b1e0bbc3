"""One flipped bit anywhere in a site's folder: it is said where, or nothing that anybody reads has changed.

The folder is that of a member of a real swarm: charter, blocks, own votes, own feed. Its keys are not looked at: a
changed key is another identity, which the charter does not know.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from unittest import mock

import pytest
from click.testing import CliRunner

from node.cli.main import cli
from node.storage import RealDisk
from swarm.charter import from_toml
from swarm.errors import SwarmError
from swarm.ledger.journal import LOGS, Finding, Journal, Placed, scan
from swarm.machine import RECORD_BLOCK, Record
from tests import sites
from tests.swarm.ledger.crash_states import Append, RecordingDisk, image_of, of_a_real_member

SEGMENT_BYTES = 1 << 13
MEMBERS, ROUNDS = 3, 1
STRIDE = 7
"""Bytes of the charter from one that is tried to the next: reading it checks a dozen signatures."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a site's folder with everything a member has written while it learned a round."""
    left = sites.calm_run(members=MEMBERS, rounds=ROUNDS)
    site = tmp_path_factory.mktemp("flipped") / "site"
    site.mkdir()
    sites.write_site(site / "elsewhere", left, checkpoint=left.checkpoints[-1])
    (site / "elsewhere" / "charter.toml").rename(site / "charter.toml")
    disk = RealDisk(site / "ledger")
    (site / "ledger").mkdir()
    (site / "elsewhere" / "ledger" / "checkpoint").rename(site / "ledger" / "checkpoint")
    journal = Journal(disk, ledger_id=left.swarm.signed.ledger_id, segment_bytes=SEGMENT_BYTES)
    journal.open()
    own = [step.records for step in of_a_real_member() if isinstance(step, Append)]
    blocks = [Record(RECORD_BLOCK, height, payload) for height, payload in enumerate(left.payloads, 1)]
    for records in own:
        journal.append([record for record in records if record.kind != RECORD_BLOCK] or [blocks.pop(0)])
    for block in blocks:
        journal.append([block])
    disk.close()
    return site


@contextlib.contextmanager
def flipped(path: Path, offset: int) -> Iterator[None]:
    """Let one bit of a file be another one for a while."""
    data = path.read_bytes()
    path.write_bytes(data[:offset] + bytes([data[offset] ^ 1 << offset % 8]) + data[offset + 1 :])
    try:
        yield
    finally:
        path.write_bytes(data)


def verified(site: Path) -> tuple[int, str]:
    """Return the exit status of `swarm ledger verify`, and what it says."""
    trust = site / "trust.json"
    trust.unlink(missing_ok=True)
    with mock.patch.dict(os.environ, {"SWARM_TRUST": str(trust)}):
        result = CliRunner().invoke(cli, ["ledger", "verify", str(site)])
    error = result.exception
    return (0 if error is None else int(getattr(error, "code", 2) or 0)), f"{result.output}{error or ''}"


@pytest.mark.parametrize("log", LOGS)
def test_a_flipped_bit_of_a_segment_is_reported_with_its_file_or_changes_nothing(log: str, folder: Path) -> None:
    owner = from_toml((folder / "charter.toml").read_text()).ledger_id
    files = {f"{log}/{path.name}": path.read_bytes() for path in sorted((folder / "ledger" / log).iterdir())}
    disk = RecordingDisk(image_of((path, len(data), data) for path, data in files.items()))
    before = [part for part in scan(disk, log, owner) if isinstance(part, Placed)]
    assert before
    # The log of votes is mostly the distance between two copies: of that not every byte is tried.
    step = sum(len(data.rstrip(b"\0")) for data in files.values()) // 2500 | 1
    reported = silent = 0
    for path, data in files.items():
        used = len(data.rstrip(b"\0"))
        content = disk.contents[path]
        content.extend(bytes(len(data) - len(content)))
        for offset in (*range(0, used, step), *range(used, len(data), 97)):
            content[offset] ^= 1 << offset % 8
            after = list(scan(disk, log, owner))
            content[offset] ^= 1 << offset % 8
            findings = [part for part in after if isinstance(part, Finding)]
            if findings:
                # It is said to be at the record that is damaged; what no checksum covers the seal does.
                assert [f.path for f in findings] == [path], (offset, findings)
                assert findings[0].offset <= offset or "footer" in findings[0].text
                reported += 1
            else:
                assert after == before, f"byte {offset} of {path} changed what is read, and nothing said so"
                silent += 1
    # Not covered by a checksum: the end of each header, and up to seven bytes behind each record.
    records = sum(2 + (part.record.kind != RECORD_BLOCK) for part in before) + 2 * len(files)
    assert silent <= 7 * records
    assert reported > 10 * silent


def test_a_flipped_bit_of_the_charter_is_refused_or_changes_nothing_it_says(folder: Path) -> None:
    text = (folder / "charter.toml").read_bytes()
    signed = from_toml(text.decode())
    refused = 0
    for offset in range(0, len(text), STRIDE):
        bent = text[:offset] + bytes([text[offset] ^ 1 << offset // STRIDE % 8]) + text[offset + 1 :]
        try:
            again = from_toml(bent.decode())
            again.check()
        except (SwarmError, UnicodeDecodeError):
            refused += 1
        else:
            assert again == signed, f"byte {offset} changed the charter, and nobody noticed"
    assert refused > len(text) / STRIDE * 0.9


def test_verify_says_which_block_is_damaged(folder: Path) -> None:
    assert verified(folder)[0] == 0
    for path in sorted((folder / "ledger" / "blocks").iterdir()):
        used = len(path.read_bytes().rstrip(b"\0"))
        for offset in range(0, used, max(1, used // 8)):
            with flipped(path, offset):
                code, said = verified(folder)
            assert code in (0, 3), said
            assert f"blocks/{path.name}" in said, f"byte {offset}: {said}"
            assert code == 3 or "torn end" in said
