"""`swarm ledger` on a ledger whose members have changed: every number is of the members of its time."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.builders import identity
from tests.epochs import FRESH, changing_ledger
from tests.node.test_cli_ledger import data, refused, said, swarm, written

ALL = [f"site-{i}" for i in range(5)]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    signed, payloads = changing_ledger()
    return written(tmp_path_factory.mktemp("epochs") / "site", payloads, signed=signed, segment_bytes=1 << 20)


def rows(site: Path, command: str, key: str) -> list[dict[str, object]]:
    found = data("ledger", command, site)[key]
    assert isinstance(found, list)
    return found


def test_epochs_tell_what_changed_and_who_said_yes_and_no(site: Path) -> None:
    found = rows(site, "epochs", "epochs")
    assert [(row["change"], row["no"], len(row["members"]), row["quorum"]) for row in found] == [  # type: ignore[arg-type]
        ("the charter", [], 4, 3),
        ("site-4 joins", ["site-2"], 5, 4),
        ("site-2 takes new keys", [], 5, 4),
        ("site-1 leaves", ["site-1"], 4, 3),
    ]
    lines = said("ledger", "epochs", site).splitlines()
    assert len(lines) == 5
    assert lines[2].endswith("5 members, quorum 4     site-4 joins; yes: site-0, site-1, site-3, no: site-2")


def test_members_are_those_of_a_block(site: Path) -> None:
    last = rows(site, "epochs", "epochs")[1]["height"]
    assert isinstance(last, int)
    for height, names in ((0, ALL[:4]), (last, ALL[:4]), (last + 1, ALL)):
        found = data("ledger", "members", site, "--at", height)["members"]
        assert isinstance(found, list)
        assert [row["name"] for row in found] == names
    today = rows(site, "members", "members")
    assert [row["name"] for row in today] == ["site-0", "site-2", "site-3", "site-4"]
    assert today[1]["id_key"] == identity(FRESH).id_key.public.hex()
    assert today[1]["node"] == identity(2).node.hex()
    message, _ = refused("ledger", "members", site, "--at", 999, code=7)
    assert message == "there is no block 999 in this ledger"


def test_status_is_of_the_epoch_at_hand(site: Path) -> None:
    found = data("ledger", "status", site)
    assert (found["epoch"], found["members"]) == (3, ["site-0", "site-2", "site-3", "site-4"])
    assert "epoch 3: see `swarm ledger epochs`" in said("ledger", "status", site)


def test_a_round_lacks_only_those_who_were_members_then(site: Path) -> None:
    assert all(row["without"] == [] for row in rows(site, "rounds", "rounds"))
    last = data("ledger", "round", 10, site)["peers"]
    assert isinstance(last, list)
    assert [row["peer"] for row in last] == ["site-0", "site-2", "site-3", "site-4"]


def test_a_former_member_is_still_named_and_missed_no_round_after_it_left(site: Path) -> None:
    found = {row["name"]: row for row in rows(site, "peers", "peers")}
    assert [name for name, row in found.items() if not row["member"]] == ["site-1"]
    assert found["site-1"]["rounds_missed"] == found["site-4"]["rounds_missed"] == 0
    one = data("ledger", "peer", "site-1", site)["rounds"]
    assert isinstance(one, list)
    assert len(one) == found["site-1"]["rounds_in"] < 10
    assert "not a member any more" in said("ledger", "peers", site)
    message, hint = refused("ledger", "peer", "site-5", site, code=7)
    assert "site-5" in message
    assert all(name in hint for name in ALL)


def test_proposals_votes_and_epochs_are_entries_with_words(site: Path) -> None:
    log = rows(site, "log", "entries")
    by_kind = {kind: [row["text"] for row in log if row["kind"] == kind] for kind in ("member_vote", "epoch")}
    place = next(row["index"] for row in log if row["kind"] == "member_proposal")
    assert by_kind["member_vote"][0] == f"no to entry {place}, site-4 joins"
    assert by_kind["epoch"][0] == (
        f"epoch 1 follows: entry {place}, site-4 joins; yes: site-0, site-1, site-3; no: site-2"
    )
    votes = said("ledger", "log", site, "--kind", "member_vote", "--peer", "site-4")
    assert len(votes.splitlines()) == 1
    assert "yes to entry" in votes
    shown = next(row["index"] for row in log if row["kind"] == "epoch")
    assert f"epoch 1 follows: entry {place}, site-4 joins" in said("ledger", "show", shown, site)


def test_signers_are_named_by_the_members_of_the_blocks_epoch(site: Path) -> None:
    first, last = (data("ledger", "block", height, site) for height in (1, len(changing_ledger()[1])))
    assert {*first["signers"], first["proposer"]} <= {*ALL[:4]}  # type: ignore[misc]
    assert "site-1" not in {*last["signers"], last["proposer"]}  # type: ignore[misc]


def test_it_verifies_in_every_way_and_goes_into_the_report(site: Path, tmp_path: Path) -> None:
    for way in ((), ("--fast",), ("--from", "9")):
        assert swarm("ledger", "verify", site, *way).exit_code == 0
    page = tmp_path / "page.html"
    said("ledger", "report", site, "-o", page)
    text = page.read_text()
    assert "Members that came and went" in text
    assert "site-2 takes new keys" in text
    assert "not a member any more" in text
    assert "joined later" in text
