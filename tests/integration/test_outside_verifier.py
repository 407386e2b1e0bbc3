"""What is exported holds for a verifier that was written by others: Go's checksum database (`scripts/tlog_verify`)."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.ledger import ledger
from swarm.ledger import note as n
from swarm.ledger import tiles, tlog
from swarm.ledger.merkle import leaf_hash, root
from tests.builders import identity
from tests.sites import calm_run, write_site

SOURCE = Path(__file__).parents[2] / "scripts" / "tlog_verify"
GOPATH = Path("/usr/share/gocode")
"""Where Debian's golang-golang-x-mod-dev puts its source."""

pytestmark = pytest.mark.real


@functools.cache
def verifier() -> Path:
    """Build the verifier, once. Skips where there is no Go, or not the package."""
    if shutil.which("go") is None:
        pytest.skip("there is no Go here: apt-get install golang-go golang-golang-x-mod-dev")
    if not (GOPATH / "src/golang.org/x/mod/sumdb/tlog").is_dir():
        pytest.skip("Go has no golang.org/x/mod here: apt-get install golang-golang-x-mod-dev")
    made = Path(tempfile.mkdtemp(prefix="tlog-verify-"))
    environment = {**os.environ, "GO111MODULE": "off", "GOPATH": str(GOPATH), "GOCACHE": str(made / "cache")}
    binary = made / "tlog_verify"
    subprocess.run(["go", "build", "-o", str(binary), "."], cwd=SOURCE, env=environment, check=True, timeout=110)
    return binary


def verify(vkeys: Path, quorum: int, folder: Path, *proofs: Path) -> tuple[int, str]:
    command = [str(verifier()), str(vkeys), str(quorum), str(folder), *map(str, proofs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)
    assert done.stderr == "", "the verifier says what is wrong, it does not fall over it"
    return done.returncode, done.stdout


def swarm(*arguments: object) -> str:
    result = CliRunner().invoke(ledger, [str(argument) for argument in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout


def exported(tmp_path: Path) -> tuple[Path, Path, list[Path]]:
    """Return what the command line makes of a site: vkeys, tiles, and a proof of every entry."""
    left = calm_run(members=4, rounds=3)
    site = write_site(tmp_path / "site", left, checkpoint=left.checkpoints[-1])
    vkeys, folder = tmp_path / "vkeys", tmp_path / "tiles"
    vkeys.write_text(swarm("vkeys", site))
    swarm("export", site, "--tiles", folder)
    proofs = []
    for index in (0, 1, 7, 20):
        proofs.append(tmp_path / f"{index}.tlog-proof")
        swarm("prove", index, site, "-o", proofs[-1])
    return vkeys, folder, proofs


def test_a_verifier_written_by_others_takes_every_entry_every_size_and_every_proof(tmp_path: Path) -> None:
    vkeys, folder, proofs = exported(tmp_path)
    code, said = verify(vkeys, 3, folder, *proofs)
    size = tlog.Checkpoint.decode(n.parse((folder / "checkpoint").read_bytes()).text).size
    assert (code, said) == (0, f"verified: 8 keys, {size} entries, {size} sizes, 4 proofs\n")


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)


def test_it_refuses_what_was_changed_and_a_quorum_that_is_not_there(tmp_path: Path) -> None:
    vkeys, folder, proofs = exported(tmp_path)
    assert verify(vkeys, 5, folder) == (1, "quorum: 1 logs, 4 cosigners: does not hold\n")
    (level0,) = (path for path in (folder / "tile" / "0").rglob("*") if path.is_file())
    (entries,) = (path for path in (folder / "tile" / "entries").rglob("*") if path.is_file())
    for path, at in ((level0, 40), (entries, 100), (folder / "checkpoint", 30), (proofs[1], 60), (proofs[2], -30)):
        flip(path, at)
        code, said = verify(vkeys, 3, folder, *proofs)
        assert code == 1, f"{path} changed: {said}"
        flip(path, at)
    assert verify(vkeys, 3, folder, *proofs)[0] == 0


def test_it_reads_full_tiles_of_three_levels_and_a_note_of_a_hundred_lines(tmp_path: Path) -> None:
    members = [(f"site-{i}", identity(i).cosign_key.public) for i in range(99)]
    log, leaves = "big/0123456789abcdef", [b"entry %d" % i for i in range(700)]
    text = tlog.Checkpoint(log, len(leaves), root([leaf_hash(leaf) for leaf in leaves])).encode()
    lines = [n.sign(tlog.log_key(log, members[0][1]), text, identity(0).cosign_key.sign)]
    for i, (name, key) in enumerate(members):
        lines.append(n.cosign(tlog.cosigner_key(log, name, key), text, 1_700_000_000 + i, identity(i).cosign_key.sign))
    write_tiles(tmp_path, leaves)
    (tmp_path / "checkpoint").write_bytes(n.Note(text, tuple(lines)).encode())
    vkeys = [key.encode() for key in (tlog.log_key(log, members[0][1]),)]
    vkeys += [tlog.cosigner_key(log, name, key).encode() for name, key in members]
    (tmp_path / "vkeys").write_text("\n".join(vkeys))
    said = "verified: 100 keys, 700 entries, 700 sizes, 0 proofs\n"
    assert verify(tmp_path / "vkeys", 99, tmp_path) == (0, said)


def write_tiles(folder: Path, leaves: Sequence[bytes]) -> None:
    for name, data in tiles.write(leaves):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
