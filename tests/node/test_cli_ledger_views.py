"""`swarm ledger` beyond status and verify: entries, members, evidence, blocks, and two ledgers side by side."""

from __future__ import annotations

import functools
import json
import socket
import threading
from pathlib import Path

import pytest

from node.storage import RealDisk
from swarm import codec
from swarm.charter import SignedCharter
from swarm.ledger import entry as e
from swarm.ledger.block import FinalBlock
from swarm.ledger.journal import Journal
from swarm.machine import RECORD_BLOCK, Record
from tests.benchmarks.ledgers import make_ledger
from tests.node.test_cli_ledger import NAMES, SEGMENT, calm, data, flip, leaves, places, refused, said, swarm, written
from tests.simulation import campaign


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


@functools.cache
def with_a_liar() -> tuple[SignedCharter, tuple[bytes, ...]]:
    """Return the ledger of an honest site of four, of which site-3 was caught."""
    place = campaign.caught().place(0)
    assert place.machine is not None
    assert place.journal is not None
    blocks = [record.payload for record in place.journal.open().records if record.kind == RECORD_BLOCK]
    return place.machine.replica.head.signed, tuple(blocks)


@pytest.fixture
def caught(tmp_path: Path) -> Path:
    signed, payloads = with_a_liar()
    return written(tmp_path / "caught", payloads, signed=signed, segment_bytes=1 << 20)


# --- entries ------------------------------------------------------------------------------------------------------


def test_every_entry_can_be_shown_by_its_place_and_by_the_beginning_of_its_id(site: Path) -> None:
    total = data("ledger", "status", site)["entries"]
    assert isinstance(total, int)
    for index in range(total):
        by_place = data("ledger", "show", index, site)
        assert by_place["index"] == index
        assert data("ledger", "show", str(by_place["id"])[:12], site) == by_place


def test_an_entry_is_shown_with_its_author_its_block_and_what_it_says(site: Path) -> None:
    log = data("ledger", "log", site)["entries"]
    assert isinstance(log, list)
    row = next(row for row in log if row["kind"] == "contribution")
    text = said("ledger", "show", row["index"], site)
    shown = data("ledger", "show", row["index"], site)
    body = shown["body"]
    assert isinstance(body, dict)
    assert (body["round"], body["samples"]) == (1, 100)
    assert f"author     {row['author']}, entry 0 of its feed" in text
    assert f"in         block {shown['block']}" in text
    assert f"signature  by {row['author']}" in text
    assert said("ledger", "show", 0, site).count("signed by every founder") == 1


def test_an_entry_that_is_not_there_is_said_to_be_missing(site: Path) -> None:
    for which in ("99999", "abcdef", "abc", "-"):
        message, _ = refused("ledger", "show", which, site, code=7)
        assert message == f"there is no entry {which!r} in this ledger"


def test_stats_count_what_the_log_lists(site: Path) -> None:
    log, stats = data("ledger", "log", site)["entries"], data("ledger", "stats", site)
    assert isinstance(log, list)
    kinds = [row["kind"] for row in log]
    assert stats["kinds"] == {kind: kinds.count(kind) for kind in set(kinds)}
    assert stats["entries"] == len(log)
    assert stats["entry_bytes"] == len(calm()[0].genesis().encode()) + sum(
        len(leaf) for payload in calm()[1] for leaf in leaves(payload)
    )
    assert "contribution     6" in said("ledger", "stats", site)


# --- rounds and members -------------------------------------------------------------------------------------------


def test_rounds_are_listed_with_their_samples_and_models(site: Path) -> None:
    found = data("ledger", "rounds", site)["rounds"]
    assert isinstance(found, list)
    assert [(row["round"], row["sites"], row["samples"], row["without"]) for row in found] == [
        (1, 3, 300, []),
        (2, 3, 300, []),
    ]
    assert found[1]["model"] == data("ledger", "status", site)["model"]
    assert len(said("ledger", "rounds", site).splitlines()) == 3


def test_peers_are_listed_with_how_they_took_part_and_each_can_be_followed(site: Path) -> None:
    found = data("ledger", "peers", site)["peers"]
    assert isinstance(found, list)
    assert [(r["name"], r["rounds_in"], r["rounds_missed"], r["samples"]) for r in found] == [
        (name, 2, 0, 200) for name in NAMES
    ]
    one = data("ledger", "peer", "site-1", site)
    rounds = one["rounds"]
    assert isinstance(rounds, list)
    assert [(row["round"], row["state"], row["weight"]) for row in rounds] == [(1, "in", 0.333333), (2, "in", 0.333333)]
    assert "in 2 of 2 closed rounds" in said("ledger", "peer", "site-1", site)
    refused("ledger", "peer", "nobody", site, code=7)


def test_members_are_listed_with_the_keys_to_compare(site: Path) -> None:
    found = data("ledger", "members", site)["members"]
    assert isinstance(found, list)
    assert [row["id_key"] for row in found] == [card.id_key.hex() for card in calm()[0].charter.members]
    assert "3 members: goes on with 1 site silent" in said("ledger", "members", site)


# --- evidence -----------------------------------------------------------------------------------------------------


def test_a_ledger_without_liars_has_no_evidence(site: Path) -> None:
    assert data("ledger", "evidence", site) == {"evidence": []}
    assert "none: no member is known to have contradicted itself" in said("ledger", "evidence", site)


def test_evidence_names_who_did_what_and_ends_with_4(caught: Path) -> None:
    result = swarm("ledger", "evidence", caught)
    assert result.exit_code == 4
    assert "site-3 " in result.stdout
    assert "proved: both messages carry its signature" in result.stdout
    found = json.loads(swarm("ledger", "evidence", caught, "--json").stdout)["data"]["evidence"]
    assert {row["culprit"] for row in found} == {"site-3"}
    assert all(row["verdict"].startswith("proved") for row in found)
    one = swarm("ledger", "evidence", caught, "--id", found[0]["index"])
    assert found[0]["first"] in one.stdout
    assert found[0]["second"] in one.stdout
    refused("ledger", "evidence", caught, "--id", 1, code=7)


def test_a_ledger_with_evidence_is_valid_and_says_so_of_both(caught: Path) -> None:
    result = swarm("ledger", "verify", caught)
    assert result.exit_code == 4
    assert "! evidence " in result.stdout
    assert result.stdout.splitlines()[-1].startswith("VALID ")
    machine = swarm("ledger", "verify", caught, "--json")
    assert machine.exit_code == 4
    body = json.loads(machine.stdout)
    assert body["data"]["valid"] is True
    assert body["data"]["evidence"] > 0
    assert "evidence   site-3 " in said("ledger", "status", caught)
    peers = data("ledger", "peers", caught)["peers"]
    assert isinstance(peers, list)
    assert [bool(row["evidence"]) for row in peers] == [False, False, False, True]


# --- blocks -------------------------------------------------------------------------------------------------------


def test_blocks_are_listed_with_who_proposed_and_who_finalized_them(site: Path) -> None:
    found = data("ledger", "blocks", site)["blocks"]
    assert isinstance(found, list)
    assert [row["height"] for row in found] == list(range(1, len(calm()[1]) + 1))
    assert found[-1]["root"] == data("ledger", "status", site)["root"]
    assert all(len(row["signers"]) in (0, 2, 3) for row in found)
    few = data("ledger", "blocks", site, "--from", 2, "--to", 3)["blocks"]
    assert isinstance(few, list)
    assert [row["height"] for row in few] == [2, 3]


def test_a_blocks_certificates_name_their_signers(site: Path) -> None:
    final = codec.decode(calm()[1][1], FinalBlock, limit=1 << 21)
    found = data("ledger", "certs", 2, site)["certificates"]
    assert isinstance(found, list)
    assert [tuple(row["signers"]) for row in found] == [
        tuple(NAMES[i] for i in c.signers) for c in (*final.block.justify, *final.certificate)
    ]
    assert "notarize" in said("ledger", "certs", 2, site)
    message, hint = refused("ledger", "certs", 999, site, code=7)
    assert "there is no block 999" in message
    assert f"{len(calm()[1])} blocks" in hint


# --- two ledgers --------------------------------------------------------------------------------------------------


def test_a_ledger_is_compared_with_itself_and_with_one_that_is_behind(site: Path, tmp_path: Path) -> None:
    assert data("ledger", "diff", site, site)["relation"] == "equal"
    assert said("ledger", "diff", site, site) == f"equal: {len(calm()[1])} blocks\n"
    behind = written(tmp_path / "behind", calm()[1][:-2])
    assert data("ledger", "diff", site, behind) == {
        "relation": "lag",
        "common_height": len(calm()[1]) - 2,
        "heights": [len(calm()[1]), len(calm()[1]) - 2],
        "behind": str(behind),
    }
    has = len(calm()[1]) - 2
    text = said("ledger", "diff", behind, site)
    assert text == f"lag: {behind} is 2 blocks behind; the {has} it has are the same\n"


def test_two_final_histories_are_a_fork_and_end_with_4(site: Path, tmp_path: Path) -> None:
    payloads = list(calm()[1])
    final = codec.decode(payloads[-1], FinalBlock, limit=1 << 21)
    header = bytearray(final.block.header)
    header[-1] ^= 1
    block = type(final.block)(bytes(header), *(getattr(final.block, n) for n in final.block.__struct_fields__[1:]))
    payloads[-1] = codec.encode(FinalBlock(block, final.certificate))
    result = swarm("ledger", "diff", site, written(tmp_path / "other", payloads), "--json")
    assert result.exit_code == 4
    found = json.loads(result.stdout)["data"]
    assert (found["relation"], found["common_height"]) == ("fork", len(payloads) - 1)
    assert found["signed_both"] == [NAMES[i] for c in final.certificate for i in c.signers]


def test_ledgers_of_different_swarms_are_unrelated_and_end_with_3(site: Path, tmp_path: Path) -> None:
    signed, payloads, _ = make_ledger(members=4, rounds=1)
    other = written(tmp_path / "other", payloads, signed=signed)
    plain, machine = swarm("ledger", "diff", site, other), swarm("ledger", "diff", site, other, "--json")
    assert (plain.exit_code, machine.exit_code, plain.stderr) == (3, 3, "")
    ids = [calm()[0].ledger_id.hex(), signed.ledger_id.hex()]
    assert json.loads(machine.stdout)["data"] == {"relation": "unrelated", "ledger_ids": ids}
    assert plain.stdout.startswith("unrelated: ledgers of different swarms")
    assert all(id_ in plain.stdout for id_ in ids)


def test_entries_of_every_kind_have_fields_to_show() -> None:
    from node.cli.ledger.reading import BODIES

    never_written = {e.SNAPSHOT, e.ANCHOR}
    assert set(BODIES) == set(e.KIND_NAMES) - never_written - {e.CHARTER}


# --- the report ---------------------------------------------------------------------------------------------------


def test_the_report_of_a_ledger_that_holds_says_so_first(site: Path, tmp_path: Path) -> None:
    target = tmp_path / "report.html"
    assert data("ledger", "report", site, "-o", target) == {"path": str(target), "valid": True}
    text = target.read_text()
    assert text.index("VALID") < text.index("site-1")
    assert calm()[0].ledger_id.hex()[:8] in text.replace(" ", "")


def test_the_report_of_a_damaged_ledger_is_written_too_and_ends_with_3(site: Path, tmp_path: Path) -> None:
    flip(site / SEGMENT, places(site)[2].offset + 60)
    target = tmp_path / "report.html"
    message, _ = refused("ledger", "report", site, "-o", target, code=3)
    assert "the disk is damaged" in message
    assert "INVALID" in target.read_text()


# --- what a name may mean -----------------------------------------------------------------------------------------


def test_blocks_and_rounds_are_shown_by_their_numbers(site: Path) -> None:
    assert (
        data("ledger", "show", "b2", site)
        == data("ledger", "show", "block:2", site)
        == data("ledger", "block", "2", site)
    )
    assert data("ledger", "show", "r2", site) == data("ledger", "round", "2", site)
    assert data("ledger", "show", "entry:3", site) == data("ledger", "show", "3", site)
    found = data("ledger", "block", "2", site)
    rows, signers = found["entries"], found["signers"]
    assert isinstance(rows, list)
    assert isinstance(signers, list)
    assert len(rows) == len(leaves(calm()[1][1]))
    assert set(signers) <= set(NAMES)
    for which in ("b99", "block:99"):
        message, hint = refused("ledger", "show", which, site, code=7)
        assert message == f"there is no block {which!r} in this ledger"
        assert f"in {len(calm()[1])} blocks" in hint
    refused("ledger", "show", "r99", site, code=7)
    refused("ledger", "block", "99", site, code=7)


def test_what_could_be_two_things_is_said_to_be(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With prefixes of one digit, there are entries that share one, and with blocks and ledgers too."""
    from node.cli.ledger import naming

    ids = [str(data("ledger", "show", f"entry:{i}", site)["id"]) for i in range(20)]
    first = next(digit for digit in "acdef" if sum(id_.startswith(digit) for id_ in ids) > 1)
    place = next(i for i, id_ in enumerate(ids) if id_.startswith(first))
    label = f"entry:{place} (id {ids[place][:12]})"
    for command in ("show", "prove"):
        message, hint = refused("ledger", command, first, site, code=7)
        assert message.startswith(f"{first!r} is too short for an id: it could be entry:")
        assert label in message
        assert hint == "give 6 digits or more, or say one of these"
    monkeypatch.setattr(naming, "DIGITS_MIN", 1)
    for command in ("show", "prove"):
        message, hint = refused("ledger", command, first, site, code=7)
        assert message.startswith(f"{first!r} could be entry:")
        assert label in message
        assert hint == "say one of these, or give more digits"


def test_a_block_is_named_by_its_height_and_by_its_hash(site: Path) -> None:
    found = data("ledger", "block", "2", site)
    digits = str(found["hash"])[:8]
    if digits.isdecimal():
        digits = str(found["hash"])[:20]
    for which in ("b2", "block:2", digits, digits.upper(), f"hash:{digits}", str(found["hash"])):
        assert data("ledger", "block", which, site) == found
    assert data("ledger", "show", digits, site) == found
    assert data("ledger", "certs", f"hash:{digits}", site) == data("ledger", "certs", "2", site)
    message, _ = refused("ledger", "block", f"hash:{digits[:3]}", site, code=7)
    assert f"block:2 (hash {str(found['hash'])[:12]})" in message
    refused("ledger", "block", "hash:0000000000", site, code=7)


def test_a_member_is_named_by_its_name_and_by_its_id(site: Path) -> None:
    node = str(data("ledger", "members", site)["members"][1]["node"])  # type: ignore[index]
    for which in (node, node[:8], f"id:{node[:8].upper()}"):
        assert data("ledger", "peer", which, site) == data("ledger", "peer", NAMES[1], site)
        assert data("ledger", "log", site, "--peer", which) == data("ledger", "log", site, "--peer", NAMES[1])
    message, hint = refused("ledger", "peer", f"id:{node[:4]}", site, code=7)
    assert f"{NAMES[1]} (id {node[:12]})" in message
    assert hint == "give 6 digits or more, or say one of these"


def test_evidence_is_named_by_its_place_and_by_its_id(caught: Path) -> None:
    every = json.loads(swarm("ledger", "evidence", caught, "--json").stdout)["data"]["evidence"]
    place = every[0]["index"]
    id_ = str(data("ledger", "show", f"entry:{place}", caught)["id"])
    for which in (str(place), f"entry:{place}", f"id:{id_[:8]}"):
        result = swarm("ledger", "evidence", caught, "--id", which, "--json")
        assert (result.exit_code, json.loads(result.stdout)["data"]["evidence"]) == (4, [every[0]])


def test_the_log_can_be_narrowed_to_rounds_and_kinds(site: Path) -> None:
    rows = data("ledger", "log", site, "--kind", "contribution", "--round", "1..2")["entries"]
    assert isinstance(rows, list)
    assert len(rows) == 2 * len(NAMES)
    assert {row["kind"] for row in rows} == {"contribution"}
    assert data("ledger", "log", site, "--kind", "contribution", "--round", "r1..r2")["entries"] == rows
    refused("ledger", "log", site, "--round", "2..1", code=2)
    refused("ledger", "log", site, "--round", "x", code=2)
    refused("ledger", "log", site, "--kind", "nonsense", code=2)
    refused("ledger", "log", site, "--round", "1..9", code=7)


@pytest.mark.parametrize("form", [[], ["--json"], ["--format", "jsonl"]], ids=["table", "json", "jsonl"])
def test_a_log_that_is_followed_prints_what_is_added_and_ends_when_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, form: list[str]
) -> None:
    """Each look finds one more block; when all are there, somebody interrupts."""
    from node.cli.ledger import entries

    payloads = calm()[1]
    site = written(tmp_path / "site", payloads[:1])
    disk = RealDisk(site / "ledger")
    journal = Journal(disk, ledger_id=calm()[0].ledger_id, segment_bytes=1 << 17)
    journal.open()
    left = list(enumerate(payloads[1:], 2))

    def wait(_: float) -> None:
        if not left:
            raise KeyboardInterrupt
        height, payload = left.pop(0)
        journal.append([Record(RECORD_BLOCK, height, payload)])

    monkeypatch.setattr(entries, "sleep", wait)
    result = swarm("ledger", "log", site, "--follow", *form)
    disk.close()
    assert (result.exit_code, result.stderr) == (0, "")
    whole = written(tmp_path / "whole", payloads)
    if form:
        rows = [json.loads(line)["data"] for line in result.stdout.splitlines()]
        assert rows == data("ledger", "log", whole)["entries"]
    else:
        assert result.stdout == said("ledger", "log", whole)


def test_a_log_that_is_followed_says_what_the_disk_has_damaged_instead_of_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from node.cli.ledger import entries

    site = written(tmp_path / "site", calm()[1])
    [segment] = (site / "ledger" / "blocks").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[len(data.rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    monkeypatch.setattr(entries, "sleep", lambda _: pytest.fail("it waits"))
    result = swarm("ledger", "log", site, "--follow")
    assert result.exit_code == 3
    assert result.stdout.split()[0] == "0"
    assert "the disk is damaged" in result.stderr


def test_node_asks_the_node_and_says_so_when_there_is_none(site: Path, tmp_path: Path) -> None:
    refused("ledger", "status", site, "--node", code=8)
    said("ledger", "export", site, "--bundle", tmp_path / "a.bundle")
    message, _ = refused("ledger", "status", tmp_path / "a.bundle", "--node", code=8)
    assert message.endswith("it is no site's folder")


@pytest.mark.real
def test_a_running_node_is_asked_for_what_it_knows_more(site: Path) -> None:
    rows = [{"linked": True}, {"linked": False}, {"linked": True}, {"linked": False, "me": True}]
    rows.append({"linked": True, "member": False})  # A guest, who asks to join.
    answer: dict[str, object] = {"members": rows, "height": 9, "round": 2}
    answer |= {"phase": "training", "paused": "", "halted": "nobody answers"}
    (site / "run").mkdir()
    path = site / "run" / "control.sock"
    if len(str(path)) > 100:
        pytest.skip(f"a socket's path may not be as long as {path}")
    server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    server.bind(str(path))
    server.listen()

    def serve() -> None:
        for _ in range(2):
            link, _ = server.accept()
            link.recv(100)
            link.sendall(json.dumps(answer).encode())
            link.close()

    thread = threading.Thread(target=serve)
    thread.start()
    text, found = said("ledger", "status", site), data("ledger", "status", site)
    thread.join()
    server.close()
    assert (
        f"node       runs, at block 9, {9 - len(calm()[1])} newer than what was read, round 2 (training), linked to 2 of 3"
        in text
    )
    assert "HALTED     nobody answers" in text
    assert found["node"] == answer


def test_every_command_of_the_table_is_there_and_is_documented() -> None:
    from node.cli.ledger import COMMANDS

    reference = (Path(__file__).parents[2] / "docs" / "reference" / "cli.md").read_text()
    for name in COMMANDS:
        assert swarm("ledger", name, "--help").exit_code == 0
        assert f"### `swarm ledger {name}" in reference, name
