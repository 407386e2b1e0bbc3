"""`swarm ledger export | import`: a ledger goes somewhere else and is the same ledger there."""

from __future__ import annotations

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from node import bundle
from swarm.identity import SigningKey
from swarm.ledger import note, tiles
from swarm.ledger.merkle import leaf_hash, root
from swarm.ledger.tlog import Checkpoint
from tests.node.test_cli_ledger import (
    SEGMENT,
    calm,
    contents,
    data,
    flip,
    leaves,
    places,
    refused,
    said,
    swarm,
    written,
)


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


@pytest.fixture
def packed(site: Path, tmp_path: Path) -> Path:
    said("ledger", "export", site, "--bundle", tmp_path / "a.bundle")
    return tmp_path / "a.bundle"


def test_a_bundle_goes_around_and_comes_back_byte_for_byte(site: Path, packed: Path, tmp_path: Path) -> None:
    before = contents(site)
    said("ledger", "import", packed, tmp_path / "there")
    said("ledger", "export", tmp_path / "there", "--bundle", tmp_path / "b.bundle")
    said("ledger", "export", packed, "--bundle", tmp_path / "c.bundle")
    assert packed.read_bytes() == (tmp_path / "b.bundle").read_bytes() == (tmp_path / "c.bundle").read_bytes()
    assert contents(site) == before
    found = data("ledger", "export", site, "--bundle", tmp_path / "d.bundle")
    assert (found["bytes"], found["blocks"]) == (packed.stat().st_size, len(calm()[1]))


VIEWS = (
    *(["status"], ["log"], ["show", "3"], ["show", "b2"], ["show", "r1"], ["rounds"], ["round", "1"], ["peers"]),
    *(["peer", "site-0"], ["members"], ["evidence"], ["blocks"], ["block", "2"], ["certs", "2"]),
)
SEEN = re.compile(r"(?<=seen here on ).*")
"""When the ledger was looked at last: a view looks, so the next one may be told of another second."""


@pytest.mark.parametrize("view", VIEWS, ids=" ".join)
def test_every_view_of_a_bundle_says_what_the_folder_says(site: Path, packed: Path, view: list[str]) -> None:
    before, digest = contents(site), packed.read_bytes()
    said("ledger", "verify", site)
    assert SEEN.sub("", said("ledger", *view, packed)) == SEEN.sub("", said("ledger", *view, site))
    assert (contents(site), packed.read_bytes()) == (before, digest)


def test_a_bundle_is_verified_as_a_folder_is(site: Path, packed: Path) -> None:
    ours, theirs = data("ledger", "verify", site), data("ledger", "verify", packed)
    for changing in ("seconds", "trust"):
        del ours[changing], theirs[changing]
    assert ours == theirs
    assert data("ledger", "diff", site, packed)["relation"] == "equal"


def test_a_damaged_ledger_is_repaired_from_a_bundle(site: Path, packed: Path) -> None:
    flip(site / SEGMENT, places(site)[2].offset + 60)
    refused("ledger", "verify", site, code=3)
    said("ledger", "repair", site, "--from", packed)
    assert "VALID" in said("ledger", "verify", site)


def test_a_bundle_cut_short_or_changed_ends_with_3_and_says_at_which_byte(packed: Path) -> None:
    size = packed.stat().st_size
    whole = packed.read_bytes()
    packed.write_bytes(whole[: size // 2])
    message, hint = refused("ledger", "verify", packed, code=3)
    assert message.startswith(f"{packed} at byte {size // 2}, block ")
    assert "it ends in the middle of block" in message
    assert message.endswith("it was damaged on its way, this is not a signed change")
    assert hint == bundle.AGAIN
    refused("ledger", "import", packed, "--check", code=3)
    packed.write_bytes(whole[:100])
    message, _ = refused("ledger", "status", packed, code=3)
    assert message.startswith(f"{packed} at byte 100: it ends in the middle of the charter")
    packed.write_bytes(b"")
    refused("ledger", "status", packed, code=3)
    packed.write_bytes(b"not a bundle " * 100)
    refused("ledger", "status", packed, code=2)


def test_a_damaged_ledger_is_not_exported_and_leaves_no_file(site: Path, tmp_path: Path) -> None:
    flip(site / SEGMENT, places(site)[2].offset + 60)
    refused("ledger", "export", site, "--bundle", tmp_path / "x.bundle", code=3)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]


def test_an_import_makes_a_folder_whole_or_not_at_all(packed: Path, tmp_path: Path) -> None:
    target = tmp_path / "there"
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-1])
    refused("ledger", "import", packed, target, code=3)
    packed.write_bytes(whole)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.bundle", "site"]
    said("ledger", "import", packed, target)
    before = contents(target)
    message, _ = refused("ledger", "import", packed, target, code=2)
    assert message.endswith("it is there already")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    refused("ledger", "import", packed, tmp_path / "link", code=2)
    assert contents(target) == before
    assert not (tmp_path / "nowhere").exists()


def test_import_wants_a_folder_or_check_and_a_bundle(site: Path, packed: Path, tmp_path: Path) -> None:
    refused("ledger", "import", packed, code=2)
    refused("ledger", "import", packed, tmp_path / "x", "--check", code=2)
    refused("ledger", "import", site, tmp_path / "x", code=2)
    before = contents(tmp_path)
    assert data("ledger", "import", packed, "--check")["folder"] is None
    assert contents(tmp_path) == before


def test_export_wants_one_way_to_write_and_does_not_write_over_its_source(packed: Path, site: Path) -> None:
    refused("ledger", "export", site, code=2)
    refused("ledger", "export", site, "--jsonl", "--bundle", "x", code=2)
    before = packed.read_bytes()
    refused("ledger", "export", packed, "--bundle", packed, code=2)
    assert packed.read_bytes() == before


def test_lines_of_json_hold_every_block_and_every_entry_whole(site: Path, packed: Path) -> None:
    lines = [json.loads(line) for line in said("ledger", "export", site, "--jsonl").splitlines()]
    assert all(line["schema"] == "swarm-ledger/cli/v1" for line in lines)
    assert [lines[0]["type"], lines[-1]["type"]] == ["ledger", "end"]
    entries = [line for line in lines if line["type"] == "entry"]
    expected = [calm()[0].genesis().encode(), *(leaf for payload in calm()[1] for leaf in leaves(payload))]
    assert [bytes.fromhex(line["leaf"]) for line in entries] == expected
    assert [line["index"] for line in entries] == list(range(len(expected)))
    blocks = [line for line in lines if line["type"] == "block"]
    assert [block["height"] for block in blocks] == list(range(1, len(calm()[1]) + 1))
    assert blocks[-1]["root"] == lines[-1]["root"] == data("ledger", "status", site)["root"]
    assert said("ledger", "export", packed, "--jsonl") == said("ledger", "export", site, "--jsonl")


def test_an_import_reads_what_a_node_would_have_written(site: Path, packed: Path, tmp_path: Path) -> None:
    said("ledger", "import", packed, tmp_path / "there")
    for folder in (site, tmp_path / "there"):
        assert [placed.record.payload for placed in places(folder)] == list(calm()[1])
    assert not (tmp_path / "there" / "keys").exists()


@pytest.mark.real
def test_a_disk_that_fills_up_leaves_no_half_bundle(site: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    target = tmp_path / "out" / "x.bundle"
    target.parent.mkdir()

    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    script = "import signal,sys; signal.signal(signal.SIGXFSZ, signal.SIG_IGN); from node.cli.main import main; main()"
    command = [sys.executable, "-c", script, "ledger", "export", str(site), "--bundle", str(target)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, preexec_fn=limit, env=dict(os.environ))
    assert ended.returncode == 1, ended.stderr
    assert ended.stderr.startswith(f"error: couldn't write {target}: File too large")
    assert not list(target.parent.iterdir())


@pytest.mark.parametrize("garbage", ["empty", "text", "segments", "directory", "loop", "fifo"])
def test_folders_of_garbage_are_refused_in_a_sentence(tmp_path: Path, garbage: str) -> None:
    folder = tmp_path / "g"
    folder.mkdir()
    if garbage == "text":
        (folder / "ledger").write_text("hello")
    if garbage in ("segments", "directory"):
        written(tmp_path / "real", calm()[1])
        (folder / "charter.toml").write_text((tmp_path / "real" / "charter.toml").read_text())
        (folder / "ledger" / "blocks").mkdir(parents=True)
        if garbage == "segments":
            (folder / "ledger" / "blocks" / "00000000.seg").write_bytes(os.urandom(5000))
        else:
            (folder / "ledger" / "blocks" / "00000000.seg").mkdir()
    if garbage == "loop":
        (folder / "ledger").symlink_to(folder / "ledger")
    if garbage == "fifo":
        os.mkfifo(folder / "pipe")
        folder = folder / "pipe"
    for command in (["status"], ["log"], ["verify"], ["verify", "--fast"], ["export", "--jsonl"]):
        result = swarm("ledger", *command, folder)
        assert result.exit_code in (1, 2, 3), (garbage, command, result.output)
        assert "unexpected" not in result.stderr
        assert result.stderr.startswith("error: ")


# --- tiles --------------------------------------------------------------------------------------------------------


@pytest.fixture
def tiled(tmp_path: Path) -> Path:
    """The entries as tiles, under a checkpoint of somebody's: whose word counts is for `check-proof` to ask."""
    target = tmp_path / "tiled"
    all_leaves = [calm()[0].genesis().encode(), *(leaf for payload in calm()[1] for leaf in leaves(payload))]
    for name, content in tiles.write(all_leaves):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes(content)
    text = Checkpoint("somewhere", len(all_leaves), root(map(leaf_hash, all_leaves))).encode()
    key = SigningKey.from_seed(bytes(32))
    line = note.sign(note.Key.of("somewhere", 1, key.public), text, key.sign)
    (target / "checkpoint").write_bytes(note.Note(text, (line,)).encode())
    return target


def test_tiles_say_what_the_folder_says_of_entries_and_end_with_6_for_the_rest(site: Path, tiled: Path) -> None:
    assert said("ledger", "log", tiled) == said("ledger", "log", site)
    ours, theirs = data("ledger", "show", "5", site), data("ledger", "show", "5", tiled)
    assert theirs.pop("block") is None
    assert ours.pop("block") is not None
    assert ours == theirs
    for command in (
        ["status"],
        ["rounds"],
        ["blocks"],
        ["show", "b1"],
        ["show", "r1"],
    ):
        message, hint = refused("ledger", *command, tiled, code=6)
        assert "tiles have entries only" in message
        assert "bundle" in hint


def test_a_tile_that_was_changed_is_noticed_before_anything_is_printed(tiled: Path) -> None:
    (bundle_,) = (path for path in (tiled / "tile" / "entries").rglob("*") if path.is_file())
    flip(bundle_, bundle_.stat().st_size - 1)
    refused("ledger", "log", tiled, code=3)
    bundle_.unlink()
    refused("ledger", "log", tiled, code=3)
    (tiled / "checkpoint").write_bytes(b"nonsense")
    refused("ledger", "log", tiled, code=3)


def test_a_bundle_is_not_waited_on(packed: Path) -> None:
    message, hint = refused("ledger", "log", packed, "--follow", code=2)
    assert message == f"couldn't follow {packed}: nothing is ever added to a bundle or to tiles"
    assert "--follow" in hint
