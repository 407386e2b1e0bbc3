"""The check of the whole ledger in the background, by a real process."""

from __future__ import annotations

import time
from pathlib import Path

import msgspec
import pytest

from node.auditor import Auditor
from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.machine import Audited, Report
from tests.sites import Left, calm_run, write_site

pytestmark = pytest.mark.real


def outcome(folder: Path) -> tuple[Auditor, Audited | Report | None]:
    auditor = Auditor(folder, marker=folder / "ledger" / "unaudited", run=folder / "run")
    (folder / "run").mkdir(exist_ok=True)
    auditor.announce()
    assert auditor.due
    auditor.start()
    for _ in range(600):
        found = auditor.poll()
        if found is not None:
            return auditor, found
        time.sleep(0.1)
    return auditor, None


def test_a_ledger_that_holds_is_not_due_any_more(tmp_path: Path) -> None:
    left = calm_run()
    folder = write_site(tmp_path / "site", left, checkpoint=left.checkpoints[-1])
    auditor, found = outcome(folder)
    assert found == Audited("")
    assert not auditor.due


def test_an_entry_that_nobody_signed_is_found_and_stays_due(tmp_path: Path) -> None:
    left = calm_run()
    payloads = list(left.payloads)
    final = codec.decode(payloads[1], FinalBlock, limit=1 << 20)
    leaves = list(final.block.leaves)
    at, entry = next((i, x) for i, x in enumerate(map(e.decode_entry, leaves)) if x.signature)
    leaves[at] = msgspec.structs.replace(entry, signature=bytes(64)).encode()
    payloads[1] = codec.encode(
        msgspec.structs.replace(final, block=msgspec.structs.replace(final.block, leaves=tuple(leaves)))
    )
    folder = write_site(tmp_path / "site", Left(left.swarm, tuple(payloads), left.checkpoints))
    auditor, found = outcome(folder)
    assert isinstance(found, Audited)
    assert "does not hold" in found.problem
    assert "block 2" in found.problem
    assert auditor.due


def test_a_check_that_cannot_be_made_says_why_and_is_made_at_the_next_start(tmp_path: Path) -> None:
    (tmp_path / "site" / "ledger").mkdir(parents=True)
    auditor, found = outcome(tmp_path / "site")
    assert isinstance(found, Report)
    assert found.event == "audit_failed"
    assert "charter" in found.text
    assert auditor.due


def test_a_node_that_stops_ends_the_check_and_remembers_it(tmp_path: Path) -> None:
    left = calm_run()
    folder = write_site(tmp_path / "site", left)
    (folder / "run").mkdir()
    auditor = Auditor(folder, marker=folder / "ledger" / "unaudited", run=folder / "run")
    auditor.announce()
    auditor.start()
    auditor.close()
    assert auditor.poll() is None
    assert Auditor(folder, marker=folder / "ledger" / "unaudited", run=folder / "run").due
