"""A fork on screen: two histories, who signed both, and what to do; and the successor that goes on without them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from node.cli.main import cli
from node.cli.output import CONTRADICTION, INVALID, Failure
from node.storage import RealDisk
from swarm import charter as c
from swarm import codec
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import Journal
from swarm.machine import RECORD_BLOCK, Record
from tests.builders import make_swarm
from tests.simulation.test_forks import END_S, forked


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["ledger", *(str(argument) for argument in arguments)])


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The folders of two honest members on either side of a fork."""
    world, files = forked()
    world.run(lambda w: w.now > 60.0, end_s=END_S)
    made = []
    for member in (0, 1):
        folder = tmp_path_factory.mktemp(f"side-{member}")
        write(folder, files.blocks[member])
        for name, data in files.published[member].items():
            if name.startswith("fork-"):
                (folder / "ledger" / name).write_bytes(data)
        made.append(folder)
    return made[0], made[1]


def write(folder: Path, blocks: Sequence[FinalBlock]) -> None:
    signed = make_swarm(4, rounds=8, patience_ms=4_000).signed
    (folder / "charter.toml").write_text(c.to_toml(signed))
    disk = RealDisk(folder / "ledger")
    journal = Journal(disk, ledger_id=signed.ledger_id, segment_bytes=1 << 17)
    journal.open()
    for height, final in enumerate(blocks, 1):
        journal.append([Record(RECORD_BLOCK, height, codec.encode(final))])
    disk.close()


def test_both_sides_name_the_same_liars_and_nobody_else(sites: tuple[Path, Path]) -> None:
    for folder in sites:
        ran = run("forks", folder)
        assert ran.exit_code == CONTRADICTION
        assert "site-2: " in ran.output
        assert "site-3: " in ran.output
        assert "site-0: " not in ran.output
        assert "site-1: " not in ran.output
        assert "charter new --after" in ran.output


def test_the_names_come_as_json_too(sites: tuple[Path, Path]) -> None:
    ran = run("forks", sites[0], "--json")
    (fork,) = json.loads(ran.output)["data"]["forks"]
    assert sorted(fork["liars"]) == ["site-2", "site-3"]
    assert fork["liars_at_least"] == 2
    assert fork["tolerated"] == 1


def test_a_ledger_with_one_history_has_no_fork(tmp_path: Path, sites: tuple[Path, Path]) -> None:
    signed = sites[0] / "charter.toml"
    (tmp_path / "charter.toml").write_bytes(signed.read_bytes())
    disk = RealDisk(tmp_path / "ledger")
    disk.close()
    for name in ("blocks", "wal", "feed"):
        (tmp_path / "ledger" / name).mkdir(parents=True, exist_ok=True)
    for segment in (sites[0] / "ledger" / "blocks").iterdir():
        (tmp_path / "ledger" / "blocks" / segment.name).write_bytes(segment.read_bytes())
    ran = run("forks", tmp_path)
    assert (ran.exit_code, ran.output.strip()) == (0, "none: this site knows one history only")


def test_a_proof_that_somebody_changed_proves_nothing_and_is_said_so(tmp_path: Path, sites: tuple[Path, Path]) -> None:
    (proof,) = (sites[0] / "ledger").glob("fork-*")
    good = proof.read_bytes()
    try:
        for at in range(10, len(good), max(1, len(good) // 40)):
            proof.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
            ran = run("forks", sites[0])
            refused = isinstance(ran.exception, Failure) and ran.exception.code == INVALID
            assert refused or ran.exit_code == CONTRADICTION
            if ran.exit_code == CONTRADICTION:
                assert "site-0: " not in ran.output
                assert "site-1: " not in ran.output
    finally:
        proof.write_bytes(good)
