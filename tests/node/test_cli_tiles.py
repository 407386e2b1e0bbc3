"""A directory of tiles and a bundle as sources of what outsiders ask for: proofs, counts, and a verdict."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from node import bundle
from swarm.identity import SigningKey
from swarm.ledger import entry as e
from swarm.ledger import note as n
from swarm.ledger import tiles, tlog
from swarm.ledger.disk import Disk
from swarm.ledger.journal import Finding, Placed, scan
from swarm.ledger.merkle import leaf_hash, root
from tests.builders import identity
from tests.epochs import FRESH, changing_ledger
from tests.node.test_cli_exports import contents, data, failed, forged, left, run, said, written
from tests.node.test_cli_ledger import leaves
from tests.node.test_cli_ledger import written as write_blocks
from tests.sites import write_site


@pytest.fixture(autouse=True)
def _nothing_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_TRUST", "")


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return write_site(tmp_path / "site", left(), checkpoint=left().checkpoints[-1])


@pytest.fixture
def tiled(site: Path, tmp_path: Path) -> Path:
    said("export", site, "--tiles", tmp_path / "tiles")
    return tmp_path / "tiles"


@pytest.fixture
def packed(site: Path, tmp_path: Path) -> Path:
    said("export", site, "--bundle", tmp_path / "a.bundle")
    return tmp_path / "a.bundle"


@pytest.mark.parametrize(
    "words", [["checkpoint"], ["policy"], ["vkeys"], ["prove", "5"], ["consistency", "3", "9"]], ids=" ".join
)
def test_tiles_and_bundles_say_to_outsiders_what_the_folder_says(
    site: Path, tiled: Path, packed: Path, words: list[str]
) -> None:
    expected = said(*words, site)
    assert said(*words, tiled) == said(*words, packed) == expected


def test_a_proof_from_tiles_holds(site: Path, tiled: Path, tmp_path: Path) -> None:
    policy = written(tmp_path / "policy", said("policy", tiled))
    said("prove", "7", tiled, "-o", tmp_path / "proof")
    assert said("check-proof", tmp_path / "proof", "--policy", policy).endswith("HOLDS\n")
    assert policy.read_text() == said("policy", site)


def test_tiles_count_what_the_folder_counts(site: Path, tiled: Path) -> None:
    ours, theirs = data("stats", site), data("stats", tiled)
    assert (theirs.pop("blocks"), ours.pop("blocks")) == (None, len(left().payloads))
    assert ours.pop("file_bytes") != theirs.pop("file_bytes")
    assert min(ours.pop("read_per_s"), theirs.pop("read_per_s")) > 0
    assert ours == theirs


def test_lines_of_json_of_tiles_have_every_entry_and_no_block(site: Path, tiled: Path) -> None:
    ours, theirs = (
        [json.loads(line) for line in said("export", where, "--jsonl").splitlines()] for where in (site, tiled)
    )
    ours = [line for line in ours if line["type"] != "block"]
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        for name in ("block", "blocks"):
            height = one.pop(name, None)
            assert other.pop(name, None) == (0 if height == 0 else None)
    assert ours == theirs


def test_verify_of_tiles_names_who_vouches_for_them(site: Path, tiled: Path) -> None:
    text = said("verify", tiled)
    assert "✔ checkpoint    cosigned by site-0, site-1, site-2, site-3: 4, 3 are needed" in text
    assert "- not checked   whether rounds follow" in text
    found = data("verify", tiled)
    assert (found["entries"], found["root"]) == (data("stats", site)["entries"], data("verify", site)["root"])
    assert failed(2, "verify", tiled, "--from", "2").hint


def test_every_flipped_bit_of_a_directory_of_tiles_is_noticed(tiled: Path) -> None:
    for path in sorted(path for path in tiled.rglob("*") if path.is_file()):
        good = path.read_bytes()
        for offset in range(0, len(good), max(1, len(good) // 9)):
            path.write_bytes(good[:offset] + bytes([good[offset] ^ 1 << offset % 8]) + good[offset + 1 :])
            result = None
            try:
                result = run("verify", tiled)
            except Exception as error:  # noqa: BLE001 - any refusal, and nothing else
                assert getattr(error, "hint", ""), (path, offset, error)
            # A line of the checkpoint that is no member's does not count; three others are enough.
            assert result is None or f"{path} at byte " in result.stdout, (path, offset)
        path.write_bytes(good)


def test_tiles_that_too_few_have_cosigned_end_with_6_and_those_of_another_log_with_3(tiled: Path) -> None:
    path = tiled / "checkpoint"
    head = tlog.Checkpoint.decode(n.parse(path.read_bytes()).text)
    path.write_bytes(forged(head, (0, 1)))
    assert "no quorum of the members has cosigned it" in failed(6, "verify", tiled).message
    failed(6, "prove", "3", tiled)
    path.write_bytes(forged(tlog.Checkpoint("other/0123456789abcdef", head.size, head.root), (0, 1, 2)))
    assert "another log" in failed(3, "verify", tiled).message


# --- members that change ------------------------------------------------------------------------------------------


@functools.cache
def long_leaves() -> tuple[bytes, ...]:
    signed, payloads = changing_ledger()
    return (signed.genesis().encode(), *(leaf for payload in payloads for leaf in leaves(payload)))


def as_tiles(folder: Path, all_leaves: tuple[bytes, ...]) -> Path:
    """Write tiles under a checkpoint that the members of the last epoch have cosigned: sites 0, 2, 3 and 4."""
    for name, content in tiles.write(all_leaves):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    signed = changing_ledger()[0]
    name = tlog.origin(signed.charter.name, signed.ledger_id)
    text = tlog.Checkpoint(name, len(all_leaves), root(map(leaf_hash, all_leaves))).encode()
    keys: list[tuple[str, SigningKey]] = [
        (f"site-{i}", identity(FRESH if i == 2 else i).cosign_key) for i in (0, 2, 3, 4)
    ]
    lines = [n.sign(tlog.log_key(name, keys[0][1].public), text, keys[0][1].sign)]
    lines += [n.cosign(tlog.cosigner_key(name, who, key.public), text, 1, key.sign) for who, key in keys]
    (folder / "checkpoint").write_bytes(n.Note(text, tuple(lines)).encode())
    return folder


def test_epochs_are_followed_by_the_votes_in_the_log(tmp_path: Path) -> None:
    signed, payloads = changing_ledger()
    folder = write_blocks(tmp_path / "site", payloads, signed=signed, segment_bytes=1 << 20)
    tiled = as_tiles(tmp_path / "tiles", long_leaves())
    assert said("policy", tiled) == said("policy", folder)
    text = said("verify", tiled)
    assert "✔ epochs        3, each by the votes of a quorum" in text
    assert "cosigned by site-0, site-2, site-3, site-4: 4, 3 are needed" in text


def test_an_epoch_without_its_votes_is_refused(tmp_path: Path) -> None:
    kept = list(long_leaves())
    at = next(i for i, leaf in enumerate(kept) if e.decode_entry(leaf).kind == e.EPOCH)
    vote = next(i for i, leaf in enumerate(kept[:at]) if e.decode_entry(leaf).kind == e.MEMBER_VOTE)
    del kept[vote]
    error = failed(3, "verify", as_tiles(tmp_path / "tiles", tuple(kept)))
    assert f"entry {vote}" in error.message or "feed stands at" in error.message


# --- checkpoints from elsewhere, and in bundles -------------------------------------------------------------------


def test_an_entry_is_proved_under_a_checkpoint_from_elsewhere(tmp_path: Path) -> None:
    bare = write_site(tmp_path / "bare", left())
    failed(6, "prove", "3", bare)
    early, late = (written(tmp_path / name, left().checkpoints[i]) for i, name in ((0, "early"), (-1, "late")))
    sized = [tlog.Checkpoint.decode(n.parse(path.read_bytes()).text).size for path in (early, late)]
    for path, size in zip((early, late), sized, strict=True):
        assert data("prove", "3", bare, "--checkpoint", path)["size"] == size
    assert f"covers {sized[0]} entries" in failed(6, "prove", sized[0], bare, "--checkpoint", early).message
    head = tlog.Checkpoint.decode(n.parse(late.read_bytes()).text)
    fork = written(tmp_path / "fork", forged(tlog.Checkpoint(head.origin, head.size, bytes(32)), (0, 1, 2)))
    failed(4, "prove", "3", bare, "--checkpoint", fork)
    few = written(tmp_path / "few", forged(head, (0, 1)))
    failed(3, "prove", "3", bare, "--checkpoint", few)


def test_a_bundle_carries_the_checkpoint_there_and_back(site: Path, packed: Path, tmp_path: Path) -> None:
    said("import", packed, tmp_path / "there")
    assert (tmp_path / "there" / "ledger" / "checkpoint").read_bytes() == left().checkpoints[-1]
    for source in (tmp_path / "there", packed, site):
        said("export", source, "--bundle", tmp_path / "again.bundle")
        assert (tmp_path / "again.bundle").read_bytes() == packed.read_bytes()
    assert "✔ checkpoint    of " in said("verify", packed)


def test_a_checkpoint_that_does_not_hold_is_not_sent(site: Path, tmp_path: Path) -> None:
    (site / "ledger" / "checkpoint").write_bytes(left().checkpoints[-1].replace(b"\n\n", b"\nx\n\n"))
    before = contents(tmp_path)
    failed(3, "export", site, "--bundle", tmp_path / "b.bundle")
    assert contents(tmp_path) == before


def test_a_bundle_with_another_history_s_checkpoint_is_neither_verified_nor_imported(tmp_path: Path) -> None:
    head = tlog.Checkpoint.decode(n.parse(left().checkpoints[-1]).text)
    fork = forged(tlog.Checkpoint(head.origin, head.size, bytes(32)), (0, 1, 2))
    path = tmp_path / "a.bundle"
    bundle.write(path, bundle.encode(left().swarm.signed, left().payloads, fork))
    failed(4, "verify", path)
    failed(4, "import", path, tmp_path / "there")
    bundle.write(path, bundle.encode(left().swarm.signed, left().payloads, b"nonsense"))
    failed(3, "verify", path)
    failed(3, "import", path, "--check")
    assert not (tmp_path / "there").exists()


def test_a_proof_reads_the_ledger_once(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[str] = []

    def counted(disk: Disk, log: str, ledger_id: bytes) -> Iterator[Placed | Finding]:
        reads.append(log)
        return scan(disk, log, ledger_id)

    monkeypatch.setattr("node.cli.ledger.sources.scan", counted)
    for words in (("prove", "5"), ("consistency", "3", "9"), ("stats",)):
        reads.clear()
        said(*words, site)
        assert reads == ["blocks"], words


def test_tiles_and_blocks_are_compared_entry_by_entry(site: Path, tiled: Path, tmp_path: Path) -> None:
    size = data("stats", tiled)["entries"]
    assert data("diff", tiled, tiled) == {"relation": "equal", "common_size": size, "sizes": [size, size]}
    newer = data("stats", site)["entries"]
    found = data("diff", site, tiled)
    assert (found["common_size"], found["sizes"]) == (size, [newer, size])
    assert found["relation"] == ("equal" if newer == size else "lag")
    signed, payloads = changing_ledger()
    other = write_blocks(tmp_path / "other", payloads, signed=signed, segment_bytes=1 << 22)
    result = run("diff", tiled, other)
    assert (result.exit_code, result.stdout.partition(":")[0]) == (3, "unrelated")


def test_the_raw_entry_is_what_a_proof_is_about(site: Path, tiled: Path, tmp_path: Path) -> None:
    said("prove", "5", site, "--entry", tmp_path / "aside", "-o", tmp_path / "proof")
    (tmp_path / "policy").write_text(said("policy", site))
    for where in (site, tiled):
        raw = run("show", "5", where, "--format", "raw").stdout_bytes
        assert raw == (tmp_path / "aside").read_bytes()
        (tmp_path / "raw").write_bytes(raw)
        assert said("check-proof", tmp_path / "proof", "--policy", tmp_path / "policy", "--entry", tmp_path / "raw")


def test_tiles_end_where_the_members_cosigned_and_are_not_called_rolled_back_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SWARM_TRUST", str(tmp_path / "trust.json"))
    older, newer = left().checkpoints[0], left().checkpoints[-1]
    before = write_site(tmp_path / "before", left(), checkpoint=older)
    after = write_site(tmp_path / "after", left(), checkpoint=newer)
    said("export", before, "--tiles", tmp_path / "tiles")
    assert "seen here for the first time" in said("verify", before)
    assert "ends where the members cosigned, " in said("verify", tmp_path / "tiles")
    found = data("trust", "show")["ledgers"]
    said("verify", tmp_path / "tiles")
    assert data("trust", "show")["ledgers"] == found, "what was seen never shrinks"
    said("verify", after)
    assert "rolled back" in failed(5, "verify", tmp_path / "tiles").message, "a newer end was seen since"
    said("verify", before)
    failed(5, "verify", tmp_path / "tiles")
