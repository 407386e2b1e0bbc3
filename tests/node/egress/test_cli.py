"""`swarm egress` and `swarm approve`: what they show, what a word of a person does, and what they refuse."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from node.cli.approve import plain, shown
from node.cli.main import cli
from node.cli.output import INCOMPLETE, INVALID, NOT_FOUND, Failure, code_of
from node.cli.start import run_site
from node.doctor.case import Case
from node.doctor.finding import Level
from node.doctor.folder import egress as doctor
from node.egress import record as r
from node.egress.folder import record_at, waiting_at
from node.egress.policy import MISFIT
from node.egress.waiting import Offer
from node.site import Site
from node.storage import BlobStore, RealDisk
from node.task import task_digest
from swarm import charter as c
from swarm import codec
from swarm.charter import card_from_toml
from swarm.errors import UsageError
from swarm.ledger import entry as e
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.journal import Journal
from swarm.machine import RECORD_BLOCK, Record
from tests.builders import make_swarm
from tests.sites import calm_run


@pytest.fixture
def site(tmp_path: Path) -> Site:
    made = Site(tmp_path / "a")
    made.create(name="a", listen="", advertise="", task="task.py", data="data")
    return made


def swarm(*arguments: object) -> Result:
    ran = CliRunner().invoke(cli, [str(one) for one in arguments])
    if isinstance(ran.exception, Exception):
        raise ran.exception
    return ran


def offered(site: Site, *, round_: int = 3) -> Offer:
    """Have an update wait, as a gate leaves it."""
    store = BlobStore(site.blobs)
    path = store.new_file()
    path.write_bytes(bytes(64))
    stored = store.hash_file(path)
    offer = Offer(
        ledger="ab" * 8,
        round=round_,
        model="00" * 32,
        whole=False,
        step=1.0,
        copy="",  # type: ignore[arg-type]
        update=stored.digest.hex(),
        size=64,
        samples=120,
        metrics={"loss": 0.5, "secret": 1.0},
        slices=(),
        privacy=(1234, 5),
        pieces=(),
        norm=2.5,
        told={"loss": 0.5},
        to=("b", "c"),
        made_ms=1_750_000_000_000,
    )
    waiting_at(site).keep(offer, ((path, stored),))
    return offer


def test_what_would_leave_is_shown_and_nothing_is_decided_by_looking(site: Site) -> None:
    offer = offered(site)
    text = swarm("approve", site.folder).stdout
    for words in ("round       3", "64 B", "2.5", "loss 0.5 (of 120 samples)", "epsilon 1.234", "b, c", offer.update):
        assert words in text
    assert "secret" not in text
    assert waiting_at(site).decision() is None
    data = json.loads(swarm("approve", site.folder, "--json").stdout)["data"]
    assert data == {**plain(offer), "state": "waiting"}


@pytest.mark.parametrize("by", ["round", "digest"])
def test_a_person_lets_it_out_by_round_or_digest(site: Site, by: str) -> None:
    offer = offered(site)
    which = ["--round", "3"] if by == "round" else ["--digest", offer.update[:12].upper()]
    assert "let out" in swarm("approve", site.folder, *which).stdout
    said = waiting_at(site).decision()
    assert said is not None
    assert (said.update, said.yes, said.reason) == (offer.update, True, "")
    assert said.by
    with pytest.raises(UsageError, match="has said already that it is let out"):
        swarm("approve", site.folder, "--reject", "no, wait")


def test_a_person_says_no_and_why(site: Site) -> None:
    offered(site)
    said = json.loads(swarm("approve", site.folder, "--reject", "too large", "--json").stdout)["data"]
    assert said["state"] == "rejected"
    decision = waiting_at(site).decision()
    assert decision is not None
    assert (decision.yes, decision.reason) == (False, "too large")


@pytest.mark.parametrize(("typed", "yes", "reason"), [("y\n", True, ""), ("n\ntoo large\n", False, "too large")])
def test_on_a_terminal_a_person_is_asked_after_having_seen_it(
    site: Site, monkeypatch: pytest.MonkeyPatch, typed: str, yes: bool, reason: str
) -> None:
    monkeypatch.setattr("node.cli.approve._somebody_is_there", lambda: True)
    offer = offered(site)
    result = CliRunner().invoke(cli, ["approve", str(site.folder)], input=typed)
    assert result.exit_code == 0
    assert result.stdout.index(offer.update) < result.stdout.index("Let it out?")
    said = waiting_at(site).decision()
    assert said is not None
    assert (said.yes, said.reason) == (yes, reason)


def test_what_came_in_the_meantime_is_not_what_was_looked_at(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    def look_away() -> bool:
        waiting_at(site).clear()
        return True

    monkeypatch.setattr("node.cli.approve._somebody_is_there", look_away)
    offered(site)
    result = CliRunner().invoke(cli, ["approve", str(site.folder)], input="y\n")
    assert isinstance(result.exception, UsageError)
    assert "it does not wait any more" in result.exception.message


@pytest.mark.parametrize("which", [["--round", "4"], ["--digest", "0123456789"]])
def test_a_word_on_something_else_is_none(site: Site, which: list[str]) -> None:
    offered(site)
    with pytest.raises(Failure, match="what waits is of round 3") as caught:
        swarm("approve", site.folder, *which)
    assert caught.value.code == NOT_FOUND
    assert waiting_at(site).decision() is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--digest", "abc"], "couldn't use 'abc' as the digest"),
        (["--digest", "zzzzzzzzzz"], "as the digest"),
        (["--reject", " "], "without a reason"),
        (["--reject", "x" * 301], "so long a one"),
    ],
)
def test_what_is_no_digest_or_no_reason_is_refused(site: Site, arguments: list[str], words: str) -> None:
    offered(site)
    with pytest.raises(UsageError, match=words):
        swarm("approve", site.folder, *arguments)


def test_where_nothing_waits_there_is_nothing_to_decide(site: Site, tmp_path: Path) -> None:
    with pytest.raises(Failure, match="couldn't find an update that waits") as caught:
        swarm("approve", site.folder)
    assert caught.value.code == NOT_FOUND
    with pytest.raises(UsageError, match="couldn't find a site"):
        swarm("approve", tmp_path / "nowhere")


def test_a_whole_model_is_called_one(site: Site) -> None:
    assert "the model it leads to" in shown(
        Offer(**{name: getattr(offered(site), name) for name in Offer.__struct_fields__} | {"whole": True})
    )


# --- rules and charter ------------------------------------------------------------------------------------------------


def with_rules(site: Site, rules: str) -> None:
    text = site.settings_path.read_text()
    site.settings_path.write_text(text.replace("[egress]\n", f"[egress]\n{rules}\n"))


def test_the_rules_are_shown_without_a_charter(site: Site) -> None:
    with_rules(site, 'rounds = 9\napprove = "first"')
    data = json.loads(swarm("egress", "policy", site.folder, "--json").stdout)["data"]
    assert (data["policy"]["rounds"], data["policy"]["approve"], data["charter"]) == (9, "first", None)
    assert "first" in swarm("egress", "policy", site.folder).stdout


def test_a_charter_that_asks_for_more_is_named_with_every_reason_and_not_signed(site: Site) -> None:
    signed = c.SignedCharter(make_swarm(3, rounds=5).signed.charter, {})
    path = site.folder / "charter.toml"
    path.write_text(c.to_toml(make_swarm(3, rounds=5).signed))
    with_rules(site, 'rounds = 2\nmetrics = ""')
    result = swarm("egress", "policy", site.folder)
    assert result.exit_code == INCOMPLETE
    assert "it has 5 rounds" in result.stdout
    assert "it has loss told" in result.stdout
    found = json.loads(swarm("egress", "policy", site.folder, "--json").stdout)["data"]["objections"]
    assert len(found) == 2
    path.write_text(c.to_toml(signed))
    with pytest.raises(UsageError, match="it has 5 rounds, .*; it has loss told") as caught:
        swarm("charter", "sign", path, "--folder", site.folder)
    assert caught.value.identifier == MISFIT


def test_doctor_says_what_does_not_fit_what_has_left_and_what_waits(site: Site) -> None:
    (site.folder / "charter.toml").write_text(c.to_toml(make_swarm(3, rounds=5).signed))
    (found,) = doctor(Case(site))
    assert (found.level, found.text[:25]) == (Level.PASS, "updates of 0 rounds have ")
    offered(site)
    assert [one.level for one in doctor(Case(site))] == [Level.PASS, Level.WARN]
    with_rules(site, "rounds = 2")
    (found,) = doctor(Case(site))
    assert (found.level, found.identifier) == (Level.FAIL, MISFIT)


# --- the record -------------------------------------------------------------------------------------------------------


def left_behind(site: Site) -> list[r.Said]:
    """Give a site the ledger of a calm run, as its first member; return what that member said in it."""
    left = calm_run()
    me = left.swarm.identities[0].node
    (site.folder / "charter.toml").write_text(c.to_toml(left.swarm.signed))
    (site.keys / "node").write_text(me.hex())
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=left.swarm.signed.ledger_id, segment_bytes=1 << 17)
    journal.open()
    found = []
    for height, payload in enumerate(left.payloads, 1):
        journal.append([Record(RECORD_BLOCK, height, payload)])
        for leaf in codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX).block.leaves:
            entry = e.decode_entry(leaf)
            told = r.told_by(entry) if entry.author == me else None
            if told is not None:
                digest = told[1].update_digest.hex() if isinstance(told[1], e.Contribution) else ""
                found.append(r.Said(entry.seq, entry.id.hex(), told[0], told[1].round, digest))
    disk.close()
    return found


def write(site: Site, said: list[r.Said], *, updates: bool = True) -> None:
    ledger = calm_run().swarm.signed.ledger_id.hex()[:16]
    for one in said:
        if one.what == r.CONTRIBUTION and updates:
            record_at(site).add(r.UPDATE, time_ms=1, ledger=ledger, round_=one.round, digest=one.digest, bytes=1)
        told: dict[str, object] = {"seq": one.seq, "entry": one.id, "digest": one.digest}
        record_at(site).add(one.what, time_ms=1, ledger=ledger, round_=one.round, **told)


def checked(site: Site) -> tuple[int, dict[str, object]]:
    result = swarm("egress", "log", site.folder, "--check", "--json")
    return result.exit_code, json.loads(result.stdout)["data"]["check"]


def test_the_record_agrees_with_a_ledger_that_has_no_more(site: Site) -> None:
    said = left_behind(site)
    assert len(said) >= 6
    write(site, said)
    code, told = checked(site)
    assert (code, told["holds"], told["agreed"], told["unordered"]) == (0, True, len(said), 0)
    assert (
        f"{len(said)} entries on the ledger, and this record has each"
        in swarm("egress", "log", site.folder, "--check").stdout
    )


def test_what_the_ledger_has_and_the_record_has_not_is_found(site: Site) -> None:
    said = left_behind(site)
    write(site, [*said[:2], *said[3:]])
    code, told = checked(site)
    assert (code, told["unrecorded"]) == (INVALID, [said[2].id])
    assert "NOT IN THIS RECORD" in swarm("egress", "log", site.folder, "--check").stdout


def test_a_contribution_whose_bytes_never_left_by_the_record_is_found(site: Site) -> None:
    write(site, left_behind(site), updates=False)
    assert checked(site)[0] == INVALID


def test_what_was_said_before_the_record_began_is_counted_and_no_finding(site: Site) -> None:
    said = left_behind(site)
    write(site, said[2:])
    code, told = checked(site)
    assert (code, told["before"]) == (0, 2)


def test_a_line_the_ledger_does_not_have_may_never_have_been_said(site: Site) -> None:
    said = left_behind(site)
    write(site, said)
    ledger = calm_run().swarm.signed.ledger_id.hex()[:16]
    record_at(site).add(r.EVALUATION, time_ms=1, ledger=ledger, round_=9, seq=99, entry="cd" * 32)
    code, told = checked(site)
    assert (code, told["unordered"]) == (0, 1)


def test_an_empty_record_says_so_and_lines_are_told_as_they_are(site: Site) -> None:
    assert swarm("egress", "log", site.folder).stdout == "Nothing has left this site.\n"
    record_at(site).add(
        r.UPDATE, time_ms=0, ledger="ab" * 8, round_=4, digest="ef" * 32, bytes=2048, norm=1.5, to=["b"]
    )
    assert swarm("egress", "log", site.folder).stdout == (
        "1970-01-01 00:00:00  abababab  round 4    update        2.05 kB  efefefefefef  norm 1.5  to b\n"
    )
    assert swarm("egress", "log", site.folder, "--round", 5).stdout == "Nothing has left this site.\n"
    (line,) = swarm("egress", "log", site.folder, "--format", "jsonl").stdout.splitlines()
    assert json.loads(line)["data"]["to"] == ["b"]


def test_of_a_large_record_a_line_costs_no_reading_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record = r.Record(tmp_path / "log")
    record.add(r.EXPORT, time_ms=0, ledger="", round_=1)
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("it was read again"))
    for _ in range(3):
        record.add(r.EXPORT, time_ms=0, ledger="", round_=1)
    monkeypatch.undo()
    assert len(r.Record(tmp_path / "log").lines()) == 4
    other = r.Record(tmp_path / "log")  # Another process, between two lines of the first.
    other.add(r.EXPORT, time_ms=0, ledger="", round_=2)
    record.add(r.EXPORT, time_ms=0, ledger="", round_=3)
    assert [line.round for line in other.lines()] == [1, 1, 1, 1, 2, 3]


# --- a start ----------------------------------------------------------------------------------------------------------


def test_a_start_is_refused_with_every_reason_before_anything_is_made(site: Site) -> None:
    card = card_from_toml(site.card_path.read_text())
    task = site.folder / "task.py"
    task.write_text("x = 1\n")
    charter = make_swarm(1, rounds=5).signed.charter
    mine = msgspec.structs.replace(charter.task, digest=task_digest(task))
    charter = msgspec.structs.replace(charter, members=(card,), task=mine)
    signed = c.SignedCharter(charter, {}).sign(site.load_identity())
    (site.folder / "charter.toml").write_text(c.to_toml(signed))
    with_rules(site, 'rounds = 2\nrequire = "privacy"')
    before = sorted(path.name for path in site.folder.rglob("*"))
    with pytest.raises(UsageError, match="it has 5 rounds, .*; it lacks privacy") as caught:
        run_site(site, site.load_settings(), signed)
    assert caught.value.identifier == MISFIT
    assert code_of(caught.value) == INCOMPLETE
    assert sorted(path.name for path in site.folder.rglob("*")) == before
