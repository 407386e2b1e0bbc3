"""`swarm ledger`: what a ledger says, whether it holds, and, when it does not, where and whose fault that is."""

from __future__ import annotations

import functools
import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner, Result

from node.cli.ledger.reading import REPAIR, verify_quietly
from node.cli.main import main
from node.cli.output import Failure
from node.storage import RealDisk
from swarm import charter as c
from swarm import codec
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import BLOCKS, Finding, Journal, Placed, scan
from swarm.machine import RECORD_BLOCK, Record
from tests.benchmarks.ledgers import make_ledger
from tests.builders import bracketed, make_swarm

NAMES = ["site-0", "site-1", "site-2"]
SEGMENT = "ledger/blocks/00000000.seg"
SEGMENT_BYTES = 1 << 17
"""Room for the whole ledger, and quicker to copy than the segments of a node."""

COMMANDS = (["status"], ["log"], ["round", "1"], ["verify"])


@functools.cache
def calm() -> tuple[c.SignedCharter, tuple[bytes, ...]]:
    """Return the charter and blocks of three sites that learned two rounds, 100 samples each, 10 held out."""
    signed, payloads, _ = make_ledger(members=3, rounds=2)
    return signed, tuple(payloads)


def leaves(payload: bytes) -> Sequence[bytes]:
    return codec.decode(payload, FinalBlock, limit=1 << 21).block.leaves


def written(
    folder: Path,
    payloads: Sequence[bytes],
    *,
    segment_bytes: int = SEGMENT_BYTES,
    signed: c.SignedCharter | None = None,
) -> Path:
    """Write a site's folder as a node leaves it behind: the charter, and the journal with these blocks."""
    signed = calm()[0] if signed is None else signed
    folder.mkdir()
    (folder / "charter.toml").write_text(c.to_toml(signed))
    disk = RealDisk(folder / "ledger")
    journal = Journal(disk, ledger_id=signed.ledger_id, segment_bytes=segment_bytes)
    journal.open()
    for height, payload in enumerate(payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
    disk.close()
    return folder


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


def places(folder: Path) -> list[Placed]:
    """Return where each block lies."""
    disk = RealDisk(folder / "ledger")
    found = [placed for placed in scan(disk, BLOCKS, calm()[0].ledger_id) if not isinstance(placed, Finding)]
    disk.close()
    return found


def flip(path: Path, offset: int) -> None:
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.write_bytes(data)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def swarm(*arguments: object) -> Result:
    """Run the command line in this process, from its outermost line: errors have become words and an exit code."""
    pipe = signal.getsignal(signal.SIGPIPE)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["swarm", *(str(argument) for argument in arguments)])
            return CliRunner().invoke(click.Command("swarm", callback=main), [])
    finally:
        signal.signal(signal.SIGPIPE, pipe)


def said(*arguments: object) -> str:
    """Return what a command that succeeds prints."""
    result = swarm(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def data(*arguments: object) -> dict[str, object]:
    """Return the data of a command that succeeds and is asked for JSON."""
    body = json.loads(said(*arguments, "--json"))
    assert set(body) == {"schema", "status", "data"}
    assert (body["schema"], body["status"]) == ("swarm/cli/v1", "ok")
    found: dict[str, object] = body["data"]
    return found


def refused(*arguments: object, code: int) -> tuple[str, str]:
    """Return (sentence, hint) of a command that fails, having checked that people and programs are told the same."""
    plain, machine = swarm(*arguments), swarm(*arguments, "--json")
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert machine.exit_code == code
    body = json.loads(machine.stdout)
    assert (set(body), body["status"], body["error"]["code"]) == ({"schema", "status", "error"}, "error", code)
    message, hint = str(body["error"]["message"]), str(body["error"]["hint"])
    assert hint, "it says what to do"
    own = bracketed(str(body["error"]["id"]))
    assert plain.stderr == machine.stderr == f"error: {message}{own}\nhint: {hint}\n"
    assert "\n" not in message + hint
    assert "unexpected" not in message
    return message, hint


# --- looking ------------------------------------------------------------------------------------------------------


def test_status_says_where_a_ledger_stands(site: Path) -> None:
    signed, payloads = calm()
    entries = 1 + sum(len(leaves(payload)) for payload in payloads)
    lines = said("ledger", "status", site).splitlines()
    assert lines[0] == f"ledger     test-swarm  {signed.ledger_id.hex()}"
    assert lines[1].startswith(f"size       {entries} entries in {len(payloads)} blocks, root ")
    assert "members    3: site-0, site-1, site-2" in lines
    assert "quorum     2  (3 members: goes on with 1 site silent, tolerates no liars)" in lines
    assert any(line.startswith("committed  round 2 of 2, 2025-06-15 ") and line.endswith(" UTC") for line in lines)
    assert lines[-2] == "open       nothing: every round that was agreed on is committed"
    assert lines[-1] == "trust      seen here for the first time"


def test_status_tells_programs_the_same(site: Path) -> None:
    signed, payloads = calm()
    found = data("ledger", "status", site)
    keys = {"ledger_id", "name", "entries", "blocks", "root", "committed", "rounds", "model", "members", "torn"}
    keys |= {"evidence", "epoch", "final", "final_ms", "outer", "trust", "node"}
    assert set(found) == keys
    assert (found["torn"], found["node"], found["final"]) == (None, None, len(payloads))
    assert (found["ledger_id"], found["name"], found["members"]) == (signed.ledger_id.hex(), "test-swarm", NAMES)
    assert (found["blocks"], found["committed"], found["rounds"]) == (len(payloads), 2, 2)
    text = said("ledger", "status", site)
    assert f"model      {found['model']}\n" in text
    assert f"root {str(found['root'])[:32]}\n" in text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (None, "round 1, 0 of 3 sites contributed"),
        (e.ROUND_CLOSE, "round 1, closed, 0 of 3 sites attested"),
        (e.ROUND_COMMIT, "round 2, 0 of 3 sites contributed"),
    ],
)
def test_status_of_a_ledger_in_the_middle_of_a_round_says_how_far_it_is(
    tmp_path: Path, kind: int | None, words: str
) -> None:
    count = 0
    if kind is not None:
        kinds = [{e.decode_entry(leaf).kind for leaf in leaves(payload)} for payload in calm()[1]]
        count = next(i for i, found in enumerate(kinds, 1) if kind in found)
    text = said("ledger", "status", written(tmp_path / "site", calm()[1][:count]))
    assert text.splitlines()[-2] == f"open       {words}"
    assert f"committed  round {int(kind == e.ROUND_COMMIT)} of 2" in text


def test_log_lists_every_entry_once_in_order(site: Path) -> None:
    entries = data("ledger", "log", site)["entries"]
    assert isinstance(entries, list)
    count = 1 + sum(len(leaves(payload)) for payload in calm()[1])
    assert [row["index"] for row in entries] == list(range(count))
    assert all(set(row) == {"index", "time_ms", "author", "kind", "text"} for row in entries)
    assert [(row["author"], row["kind"], row["text"]) for row in entries[:1]] == [("everyone", "charter", "test-swarm")]
    contributed = [(row["author"], row["text"].rpartition(",")[0]) for row in entries if row["kind"] == "contribution"]
    assert sorted(contributed) == [(name, f"round {r}, 100 samples") for name in NAMES for r in (1, 2)]
    closed = [row["text"] for row in entries if row["kind"] == "round_close"]
    assert closed == ["round 1, 3 sites in", "round 2, 3 sites in"]
    assert {row["author"] for row in entries if row["kind"].startswith(("round_", "block_"))} == {"(derived)"}


def test_what_there_is_one_of_is_told_in_the_singular(tmp_path: Path) -> None:
    signed, payloads, _ = make_ledger(members=1, rounds=1)
    site = written(tmp_path / "one", list(payloads), signed=signed)
    text = said("ledger", "log", site) + said("ledger", "round", "1", site) + said("ledger", "status", site)
    assert "round 1, 1 site in" in text
    assert "held by 1 site\n" in text
    assert "1 member: goes on with no sites silent" in text
    assert not re.search(r"\b1 (sites|members|entries|blocks)\b", text)
    said("ledger", "trust", "reset", "--all")  # What follows has fewer entries than were just seen.
    begun = said("ledger", "status", written(tmp_path / "begun", (), signed=signed))
    assert "size       1 entry in 0 blocks, " in begun


def test_log_prints_the_same_entries_one_a_line(site: Path) -> None:
    entries = data("ledger", "log", site)["entries"]
    assert isinstance(entries, list)
    lines = said("ledger", "log", site).splitlines()
    assert len(lines) == len(entries)
    for line, row in zip(lines, entries, strict=True):
        words = line.split()
        assert (int(words[0]), words[3], words[4:6]) == (row["index"], "UTC", [row["author"], row["kind"]])
        assert line.rstrip().endswith(row["text"])


def test_log_can_be_narrowed_to_a_round_and_a_peer(site: Path) -> None:
    rows = data("ledger", "log", site, "--round", "2", "--peer", "site-1")["entries"]
    assert isinstance(rows, list)
    assert sorted(row["kind"] for row in rows) == ["attest", "contribution", "evaluation"]
    assert all(row["author"] == "site-1" and row["text"].startswith("round 2, ") for row in rows)


def test_log_of_nobody_or_of_no_round_ends_with_7_and_says_who_and_which_there_are(site: Path) -> None:
    assert refused("ledger", "log", site, "--peer", "nobody", code=7) == (
        "there is no member 'nobody' in this swarm",
        "it has site-0, site-1, site-2",
    )
    assert refused("ledger", "log", site, "--round", "77", code=7) == (
        "there is no round 77 in this ledger",
        "committed: rounds 1 to 2",
    )


def test_round_shows_who_took_part_with_what_weight_and_result(site: Path) -> None:
    lines = said("ledger", "round", "1", site).splitlines()
    assert lines[0].startswith("round 1  COMMITTED 2025-06-15 ")
    assert lines[1].startswith("model ")
    assert lines[2].split()[:4] == ["peer", "samples", "weight", "update"]
    assert [line.split()[:3] for line in lines[3:]] == [[name, "100", "33.33%"] for name in NAMES]
    assert all(line.split()[4:6] == ["in", "loss"] for line in lines[3:])


def test_round_tells_programs_the_same(site: Path) -> None:
    found = data("ledger", "round", "2", site)
    exchanged = {"distance_max_ppm", "distance_mean_ppm", "pairs", "skipped", "whole"}
    assert set(found) == {"round", "committed", "model", "peers", "rule"} | exchanged
    assert found["rule"] is None
    assert [found[key] for key in sorted(exchanged)] == [None] * 5, "all hold one model"
    assert (found["round"], found["committed"]) == (2, True)
    assert found["model"] == data("ledger", "status", site)["model"]
    peers = found["peers"]
    assert isinstance(peers, list)
    assert [peer["peer"] for peer in peers] == NAMES
    for peer in peers:
        told = {"peer", "state", "samples", "weight", "update", "ended_with", "held_out", "metrics", "late"}
        assert set(peer) == told | {"intervals", "withheld", "why"}
        assert (peer["intervals"], peer["withheld"], peer["why"]) == ({}, False, None)
        assert (peer["state"], peer["samples"], peer["weight"], peer["held_out"]) == ("in", 100, 0.333333, 10)
        assert set(peer["metrics"]) == {"loss"}
        assert peer["late"] is None


def test_a_round_that_is_not_committed_says_so(tmp_path: Path) -> None:
    kinds = [{e.decode_entry(leaf).kind for leaf in leaves(payload)} for payload in calm()[1]]
    closing = next(i for i, found in enumerate(kinds, 1) if e.ROUND_CLOSE in found)
    folder = written(tmp_path / "site", calm()[1][:closing])
    text = said("ledger", "round", "1", folder)
    assert text.splitlines()[:2] == ["round 1  CLOSED", "no model yet"]
    found = data("ledger", "round", "1", folder)
    assert (found["committed"], found["model"]) == (False, None)


@pytest.mark.parametrize("number", [0, 3, 99])
def test_a_round_that_is_not_there_ends_with_7_and_says_which_are(site: Path, number: int) -> None:
    message, hint = refused("ledger", "round", number, site, code=7)
    assert message == f"there is no round {number} in this ledger"
    assert hint == "committed: rounds 1 to 2"


def test_a_ledger_with_no_round_says_that_none_is_committed(tmp_path: Path) -> None:
    _, hint = refused("ledger", "round", "1", written(tmp_path / "site", ()), code=7)
    assert hint == "committed: none yet"


def test_the_settings_may_name_another_charter_file(site: Path) -> None:
    (site / "charter.toml").rename(site / "terms.toml")
    (site / "swarm.toml").write_text('[site]\ncharter = "terms.toml"\n')
    assert data("ledger", "verify", site)["valid"] is True


# --- verifying ----------------------------------------------------------------------------------------------------


def test_verify_gives_a_plain_verdict_on_a_ledger_that_holds(site: Path) -> None:
    payloads = calm()[1]
    entries = 1 + sum(len(leaves(payload)) for payload in payloads)
    lines = said("ledger", "verify", site).splitlines()
    assert lines[0] == "✔ charter       3 of 3 founders signed"
    assert lines[1].startswith(f"✔ blocks        {len(payloads)}: ")
    assert lines[2].startswith(f"✔ entries       {entries}: ")
    assert lines[3].startswith("✔ rounds        2 recomputed")
    assert lines[-1].startswith(f"VALID           {entries} entries in ")
    found = data("ledger", "verify", site)
    keys = {"valid", "blocks", "entries", "certificates", "rounds", "root", "evidence", "seconds", "torn"}
    assert set(found) == keys | {"mode", "from", "uncovered", "trust", "files", "pairs", "scheduled"}
    assert found["files"] == []
    assert (found["valid"], found["blocks"], found["entries"], found["rounds"]) == (True, len(payloads), entries, 2)
    assert found["root"] == data("ledger", "status", site)["root"]


def test_a_ledger_over_many_segments_reads_the_same(site: Path, tmp_path: Path) -> None:
    many = written(tmp_path / "many", calm()[1], segment_bytes=4096)
    assert len(list((many / "ledger" / "blocks").iterdir())) > 2
    assert data("ledger", "verify", many)["root"] == data("ledger", "verify", site)["root"]
    assert said("ledger", "log", many) == said("ledger", "log", site)


def test_a_ledger_that_has_just_begun_holds_the_charter_only(tmp_path: Path) -> None:
    found = data("ledger", "verify", written(tmp_path / "site", ()))
    assert (found["valid"], found["blocks"], found["entries"], found["rounds"]) == (True, 0, 1, 0)


def test_no_ledger_command_writes_anything(site: Path) -> None:
    before = contents(site)
    for command in COMMANDS:
        said("ledger", *command, site)
    assert contents(site) == before


def test_a_ledger_on_a_disk_that_cannot_be_written_is_read_all_the_same(site: Path) -> None:
    for path in sorted(site.rglob("*")):
        path.chmod(0o500 if path.is_dir() else 0o400)
    try:
        assert data("ledger", "verify", site)["valid"] is True
    finally:
        for path in (site / "ledger", *(site / "ledger").iterdir()):
            path.chmod(0o700)


def test_the_last_write_cut_short_is_no_fault_of_the_ledger(site: Path) -> None:
    last = places(site)[-1]
    path = site / SEGMENT
    whole = path.read_bytes()
    path.write_bytes(whole[: last.offset + 100].ljust(len(whole), b"\0"))
    before = contents(site)
    found = data("ledger", "verify", site)
    assert (found["valid"], found["blocks"]) == (True, len(calm()[1]) - 1)
    assert contents(site) == before, "cutting off what is torn is for the node"


def test_a_last_block_that_cannot_be_read_is_told_in_every_view(site: Path) -> None:
    last = places(site)[-1]
    flip(site / SEGMENT, last.offset + 60)
    count = len(calm()[1])
    size = len((site / SEGMENT).read_bytes().rstrip(b"\0")) - last.offset
    line = f"! torn end      {size} bytes at byte {last.offset} of blocks/00000000.seg cannot be read; "
    for command in (["status"], ["log"], ["verify"]):
        assert line + f"block {count} would be next\n" in said("ledger", *command, site)
        torn = data("ledger", *command, site)["torn"]
        assert torn == {
            "path": "blocks/00000000.seg",
            "offset": last.offset,
            "bytes": size,
            "next_block": count,
        }


@pytest.mark.parametrize("block", [0, 1, 2])
def test_a_flipped_byte_ends_with_3_is_blamed_on_the_disk_and_left_as_it_is(site: Path, block: int) -> None:
    place = places(site)[block].offset
    flip(site / SEGMENT, place + 60)
    before = contents(site)
    for command in COMMANDS:
        message, hint = refused("ledger", *command, site, code=3)
        assert message.startswith(f"blocks/00000000.seg at byte {place}, block {block + 1} (entry ")
        assert message.endswith("the disk is damaged, this is not a signed change")
        assert "other member" in hint
    with pytest.raises(Failure) as caught:
        verify_quietly(site)
    assert caught.value.code == 3
    assert contents(site) == before


def test_a_segment_whose_head_is_unreadable_is_called_a_damaged_disk_and_no_lie(site: Path) -> None:
    flip(site / SEGMENT, 20)
    message, hint = refused("ledger", "verify", site, code=3)
    assert message.startswith("blocks/00000000.seg at byte 0, block 1 (entry 1 and on): ")
    assert message.endswith("the disk is damaged, this is not a signed change")
    assert hint == REPAIR


def test_a_missing_segment_is_called_a_damaged_disk_and_no_lie(tmp_path: Path) -> None:
    many = written(tmp_path / "many", calm()[1], segment_bytes=4096)
    (many / "ledger" / "blocks" / "00000001.seg").unlink()
    message, _ = refused("ledger", "verify", many, code=3)
    assert re.search(
        r"/00000002\.seg at byte 0, block \d+ \(entry \d+ and on\): a segment before this one is missing", message
    )
    assert "the disk is damaged" in message


def changed(payload: bytes, **fields: object) -> bytes:
    """Return a block's record with other fields, written as well as the original."""
    return codec.encode(msgspec.structs.replace(codec.decode(payload, FinalBlock, limit=1 << 21), **fields))


def with_another_leaf(payload: bytes) -> bytes:
    """Change the number of samples that the first contribution of a block states."""
    final = codec.decode(payload, FinalBlock, limit=1 << 21)
    entry = e.decode_entry(final.block.leaves[0])
    body = codec.decode(entry.body, e.Contribution, limit=e.ENTRY_BYTES_MAX)
    forged = msgspec.structs.replace(entry, body=codec.encode(msgspec.structs.replace(body, samples=1_000_000)))
    block = msgspec.structs.replace(final.block, leaves=(forged.encode(), *final.block.leaves[1:]))
    return changed(payload, block=block)


@pytest.mark.parametrize("how", ["a leaf", "an order", "a gap"])
def test_a_ledger_that_somebody_rewrote_ends_with_3_and_says_in_which_block(tmp_path: Path, how: str) -> None:
    payloads = list(calm()[1])
    if how == "a leaf":
        payloads[0] = with_another_leaf(payloads[0])
    if how == "an order":
        payloads[1], payloads[2] = payloads[2], payloads[1]
    if how == "a gap":
        del payloads[1]
    site = written(tmp_path / "site", payloads)
    before = contents(site)
    message, hint = refused("ledger", "verify", site, code=3)
    assert (", block 1, entry 1: " if how == "a leaf" else ", block 2: ") in message
    assert message.endswith("the file reads well, so it was changed")
    assert hint == "keep this copy as evidence, and compare it with another member's: `swarm ledger diff`"
    assert refused("ledger", "log", site, code=3)[0].endswith("the file reads well, so it was changed")
    assert contents(site) == before


def test_a_forged_certificate_is_found_by_verify_which_alone_checks_signatures(tmp_path: Path) -> None:
    payloads = list(calm()[1])
    final = codec.decode(payloads[1], FinalBlock, limit=1 << 21)
    certificate = final.certificate[0]
    forged = msgspec.structs.replace(certificate, signatures=certificate.signatures[::-1])
    payloads[1] = changed(payloads[1], certificate=(forged,))
    site = written(tmp_path / "site", payloads)
    assert data("ledger", "status", site)["committed"] == 2
    message, _ = refused("ledger", "verify", site, code=3)
    assert ", block 2: " in message
    with pytest.raises(Failure, match=", block 2: "):
        verify_quietly(site)


def test_an_end_that_nobody_certified_yet_ends_with_6(tmp_path: Path) -> None:
    payloads = list(calm()[1])
    payloads[-1] = changed(payloads[-1], certificate=())
    site = written(tmp_path / "site", payloads)
    result = swarm("ledger", "verify", site)
    assert result.exit_code == 6
    assert f"! blocks        {len(payloads)}, the last 1 not covered by a certificate yet" in result.stdout
    told = "the last block of this ledger: not certified yet"
    assert result.stderr == f"error: {told}\nhint: start the node to catch up\n"
    (line,) = swarm("ledger", "verify", site, "--json").stdout.splitlines()
    assert json.loads(line)["error"] == {
        "message": told,
        "hint": "start the node to catch up",
        "code": 6,
        "id": "SWARM-ERROR",
    }


# --- the wrong place ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_without_a_ledger_is_refused(tmp_path: Path, command: list[str]) -> None:
    message, hint = refused("ledger", *command, tmp_path / "nowhere", code=2)
    assert message == f"couldn't find a ledger in {tmp_path / 'nowhere'}: there is no such file or folder"
    assert hint == "name the folder of a site that has been started, a bundle, or a directory of tiles"
    assert contents(tmp_path) == {}


@pytest.mark.parametrize("command", COMMANDS)
def test_a_ledger_without_its_charter_is_not_believed(site: Path, command: list[str]) -> None:
    (site / "charter.toml").unlink()
    message, hint = refused("ledger", *command, site, code=2)
    assert message == f"couldn't find {site / 'charter.toml'}"
    assert "put the signed charter there" in hint


@pytest.mark.parametrize("command", COMMANDS)
def test_a_ledger_is_not_read_under_a_charter_that_was_changed_or_not_signed(site: Path, command: list[str]) -> None:
    signed, path = calm()[0], site / "charter.toml"
    path.write_text(c.to_toml(c.SignedCharter(signed.charter, {0: signed.signatures[0]})))
    message, _ = refused("ledger", *command, site, code=2)
    assert message == "couldn't use the charter: not signed yet by site-1, site-2"
    path.write_text(c.to_toml(signed).replace("rounds = 2\n", "rounds = 9\n"))
    message, _ = refused("ledger", *command, site, code=3)
    assert message == f"{path}: couldn't accept the charter: the signature of 'site-0' does not match its terms"


@pytest.mark.parametrize("command", COMMANDS)
def test_the_ledger_of_another_swarm_is_named_as_such(site: Path, command: list[str]) -> None:
    ours, theirs = calm()[0], make_swarm(3, rounds=5).signed
    (site / "charter.toml").write_text(c.to_toml(theirs))
    before = contents(site)
    message, hint = refused("ledger", *command, site, code=3)
    assert f"its files are of {ours.ledger_id.hex()[:12]}" in message
    assert f"the charter founds {theirs.ledger_id.hex()[:12]}" in message
    assert hint == "each swarm needs a folder of its own"
    assert contents(site) == before


def test_a_typo_in_the_settings_is_not_passed_over_by_the_ledger_commands(site: Path) -> None:
    (site / "swarm.toml").write_text('[site]\nchater = "terms.toml"\n')
    message, hint = refused("ledger", "verify", site, code=2)
    assert message == f"couldn't use {site / 'swarm.toml'}: unknown key 'site.chater'"
    assert hint == "did you mean site.charter?"


# --- in a process of its own --------------------------------------------------------------------------------------

ALL_COMMANDS = """\
import sys
from node.cli.main import main

def run(*arguments):
    sys.argv = ["swarm", *arguments]
    try:
        main()
    except SystemExit as end:
        assert not end.code, (arguments, end.code)

def loaded():
    slow = {"torch", "zmq", "rich", "numpy", "importlib.metadata", "node.core", "node.cli.ledger"}
    return sorted((slow | {"node.cli.ledger.reading"}) & set(sys.modules))

folder = sys.argv[1]
run("--help")
print(loaded(), file=sys.stderr)
run("ledger", "--help")
print(loaded(), file=sys.stderr)
for words in (["status"], ["log"], ["round", "1"], ["verify"], ["verify", "--fast"], ["export", "--jsonl"], ["stats"], ["show", "1"]):
    run("ledger", *words, folder)
    run("ledger", *words, "--help")
print(loaded(), file=sys.stderr)
"""


@pytest.mark.real
def test_help_loads_no_command_and_the_ledger_commands_load_neither_torch_nor_the_node(site: Path) -> None:
    ended = subprocess.run([sys.executable, "-c", ALL_COMMANDS, site], capture_output=True, text=True, timeout=60)
    first, then, last = ended.stderr.splitlines()
    assert (first, then) == ("[]", "['node.cli.ledger']"), "help waits for nothing"
    assert last == "['node.cli.ledger', 'node.cli.ledger.reading', 'numpy']", "an array is all that reading waits for"
    assert ended.returncode == 0
    assert "VALID " in ended.stdout


@pytest.mark.real
def test_a_reader_that_goes_away_is_no_error(site: Path) -> None:
    command = [sys.executable, "-m", "node.cli.main", "ledger", "log", str(site)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.close()
    assert process.stderr is not None
    with process.stderr as errors:
        assert errors.read() == b""
    assert process.wait(60) == -signal.SIGPIPE
