"""The examination: each check finds what was broken for it, says what to do, and breaks nothing itself."""

from __future__ import annotations

import json
import shutil
import socket
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
import pytest
from click.testing import CliRunner

from gossip.zeromq import Incident
from node.cli.doctor import render
from node.cli.main import cli
from node.data import SiteData
from node.doctor import machine, network, training
from node.doctor.case import Case
from node.doctor.examination import CHECKS, PEERS, TASK, examine
from node.doctor.finding import Finding, Level, fail, well
from node.local import LocalPeer, found
from node.storage import DirectoryLock
from node.trainer import Tried
from swarm.identifiers import IDENTIFIERS
from swarm.machine import Contact
from swarm.terms import Seat

TASK_TEXT = """\
import torch


def build_model():
    return torch.nn.Linear(2, 1)


def load_data(site):
    return torch.ones(8, 2), torch.tensor([0.0, 1.0] * 4)


def train(model, data, run):
    x, y = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        (model(x)[:, 0] - y).square().mean().backward()
        optimizer.step()
    return {"samples": len(x), "loss": 0.5}


def evaluate(model, data, run):
    return {"samples": 8, "loss": 0.5}
"""


@pytest.fixture(scope="module")
def founded(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Path:
    """Three sites on loopback, none of which runs."""
    folder = tmp_path_factory.mktemp("founded")
    (folder / "task.py").write_text(TASK_TEXT)
    data = []
    for name in ("a", "b", "c"):
        (folder / f"data-{name}").mkdir()
        data.append(SiteData(name, folder / f"data-{name}", rows=8, positives=4, held_out=8))
    found(folder / "swarm", data, folder / "task.py", rounds=2, metrics=("loss",), seed=7, forkserver=forkserver)
    return folder / "swarm"


@pytest.fixture
def case(founded: Path, tmp_path: Path) -> Case:
    """Site c, in a copy that may be broken. It dials both others."""
    shutil.copytree(founded / "c", tmp_path / "c")
    return fresh(tmp_path / "c")


def fresh(folder: Path, *overrides: str) -> Case:
    from node.site import Site

    return Case(Site(folder), overrides)


def levels(findings: Sequence[Finding]) -> dict[str, Level]:
    """Return the worst level of each check."""
    order = [Level.PASS, Level.WARN, Level.FAIL]
    worst: dict[str, Level] = {}
    for one in findings:
        worst[one.check] = max(worst.get(one.check, Level.PASS), one.level, key=order.index)
    return worst


def quick(case: Case) -> list[Finding]:
    """Examine all but neighbours and task."""
    return [*examine(case, without=(PEERS, TASK))]


def test_a_site_that_is_well_passes_everything_it_can(case: Case) -> None:
    found_ = quick(case)
    bad = {check for check, level in levels(found_).items() if level is Level.FAIL}
    assert not bad, [render(one) for one in found_]
    assert {"settings", "keys", "charter", "member", "task", "disk", "listen", "round time"} <= set(levels(found_))
    assert all(one.remedy for one in found_ if one.level is not Level.PASS)


def test_nothing_in_the_folder_is_changed(case: Case) -> None:
    def contents() -> dict[str, bytes]:
        folder = case.site.folder
        return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = contents()
    quick(case)
    assert contents() == before


def broken(case: Case, how: str) -> Case:
    """Break a site in one way."""
    site, settings = case.site, case.site.settings_path
    match how:
        case "no settings":
            settings.unlink()
        case "a typo in the settings":
            settings.write_text(settings.read_text().replace("listen =", "lisen ="))
        case "keys that others can read":
            (site.keys / "identity.seed").chmod(0o644)
        case "no key":
            (site.keys / "curve.seed").unlink()
        case "no charter":
            (site.folder / "charter.toml").unlink()
        case "a changed charter":
            path = site.folder / "charter.toml"
            path.write_text(path.read_text().replace("rounds = 2", "rounds = 3"))
        case "another task":
            (site.folder / "task.py").write_text("# another\n" + TASK_TEXT)
        case "no task":
            (site.folder / "task.py").unlink()
        case "no data":
            settings.write_text(settings.read_text().replace("data = ", 'data = "nowhere" # '))
        case "another transport key":
            (site.keys / "curve.seed").write_text("ab" * 32)
        case "no listen":
            settings.write_text(settings.read_text().replace("listen = ", 'listen = "" # '))
    return fresh(site.folder)


@pytest.mark.parametrize(
    ("how", "check", "identifier"),
    [
        ("no settings", "settings", "SWARM-SITE-SETTINGS"),
        ("a typo in the settings", "settings", ""),
        ("keys that others can read", "keys", "SWARM-SITE-KEYS"),
        ("no key", "keys", "SWARM-SITE-KEYS"),
        ("no charter", "charter", "SWARM-CHARTER-MISSING"),
        ("a changed charter", "charter", "SWARM-CHARTER-SIGNATURE"),
        ("another task", "task", "SWARM-TASK-FILE"),
        ("no task", "task", "SWARM-TASK-FILE"),
        ("no data", "data", ""),
        ("another transport key", "member", "SWARM-SITE-KEYS"),
        ("no listen", "member", ""),
    ],
)
def test_what_is_broken_fails_with_a_remedy_and_what_hangs_on_it_is_named(
    case: Case, how: str, check: str, identifier: str
) -> None:
    found_ = quick(broken(case, how))
    failed = [one for one in found_ if one.level is Level.FAIL]
    assert [(one.check, one.identifier) for one in failed] == [(check, identifier)], [render(one) for one in found_]
    assert failed[0].remedy
    if check in ("settings", "keys", "charter", "member"):
        assert found_[-1].text.startswith("not looked at: ")


GARBAGE = {
    "nothing": b"",
    "noise": bytes(range(256)) * 4,
    "half": None,
    "long": b"[site]\n" + b"a" * 100_000,
    "zeros": bytes(4096),
}


@pytest.mark.parametrize(
    "name", ["swarm.toml", "charter.toml", "card.toml", "keys/identity.seed", "keys/node", "task.py"]
)
@pytest.mark.parametrize("garbage", [*GARBAGE, "a folder", "a loop", "unreadable"])
def test_whatever_lies_in_the_folder_an_examination_comes_to_its_end(
    case: Case, monkeypatch: pytest.MonkeyPatch, name: str, garbage: str
) -> None:
    monkeypatch.setattr(machine, "self_test", lambda: "libzmq")
    monkeypatch.setattr(machine, "_encrypted_bytes_s", lambda: 1e9)
    path = case.site.folder / name
    before = path.read_bytes() if path.exists() else b"x"
    path.unlink(missing_ok=True)
    if garbage == "a folder":
        path.mkdir()
    elif garbage == "a loop":
        path.symlink_to(path)
    else:
        path.write_bytes(before if garbage == "unreadable" else GARBAGE[garbage] or before[: len(before) // 2])
        path.chmod(0o000 if garbage == "unreadable" else 0o600)
    for one in [*examine(fresh(case.site.folder), without=(PEERS, TASK))]:
        assert one.remedy or one.level is Level.PASS, one
        assert "\n" not in one.text


@pytest.mark.parametrize("state", [b"", b"x" * 7, bytes(8) + b"\x93\x01", bytes(range(256)) * 9])
def test_a_snapshot_that_is_garbage_is_passed_over(case: Case, state: bytes) -> None:
    case.site.ledger.mkdir(exist_ok=True)
    (case.site.ledger / "snapshot").write_bytes(state)
    assert fresh(case.site.folder).terms.epoch == 0


def test_a_port_that_is_taken_fails_and_a_running_node_has_it_by_right(case: Case) -> None:
    host, port = case.settings.site.listen.removeprefix("tcp://").split(":")
    with socket.socket() as taken:
        taken.bind((host, int(port)))
        taken.listen()
        [finding] = network.listening(case)
        assert (finding.level, finding.identifier) == (Level.FAIL, "SWARM-NET-LISTEN")
        case.__dict__["status"] = {"members": []}
        assert network.listening(case)[0].level is Level.PASS


def test_a_disk_that_is_too_small_fails_and_a_small_one_warns(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    need = 2 * 3 * 12 + 4 * 12  # Two rounds of three updates and four models, three parameters each.
    for free, level in ((need - 1, Level.FAIL), (need, Level.WARN), (need + machine.DISK_BYTES_MIN, Level.PASS)):
        usage = shutil._ntuple_diskusage(1 << 40, 0, free)
        monkeypatch.setattr("node.doctor.machine.shutil.disk_usage", lambda _, usage=usage: usage)
        [finding] = machine.disk(case)
        assert finding.level is level


@pytest.mark.parametrize(
    ("total", "available", "level"),
    [(1 << 20, 1 << 19, "FAIL"), (1 << 34, 1 << 20, "WARN"), (1 << 34, 1 << 33, "PASS")],
)
def test_memory_is_judged_by_the_model(
    case: Case, monkeypatch: pytest.MonkeyPatch, total: int, available: int, level: str
) -> None:
    monkeypatch.setattr(machine, "_memory", lambda: (total, available))
    assert machine.memory(case)[0].level.value == level


@pytest.mark.real
def test_the_cipher_is_measured(case: Case) -> None:
    [finding] = machine.cipher(case)
    assert "CURVE" in finding.text
    assert finding.level is Level.WARN or int(finding.values["bytes_s"]) >= machine.ENCRYPTED_BYTES_S_MIN


@pytest.mark.real
def test_neighbours_that_do_not_run_are_warned_of(case: Case) -> None:
    found_ = [*network.names(case), *network.ports(case)]
    assert levels(found_) == {"dns": Level.PASS, "tcp": Level.WARN}
    assert {one.identifier for one in found_} == {"", "SWARM-NET-UNREACHABLE"}
    assert {one.subject for one in found_} == {"a", "b"}


@pytest.mark.real
def test_behind_a_proxy_it_is_the_proxy_that_is_looked_at(case: Case) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        proxied = fresh(case.site.folder, f"network.proxy=http://127.0.0.1:{taken.getsockname()[1]}")
        assert [one.text for one in network.names(proxied)] == ["names are looked up by the proxy"]
        (gone,) = network.ports(proxied)
        taken.listen()
        (there,) = network.ports(proxied)
    assert (gone.level, gone.subject, there.level) == (Level.FAIL, "proxy", Level.PASS)
    assert "network.proxy" in gone.remedy


def test_a_name_that_leads_nowhere_fails(case: Case) -> None:
    seat, _ = case.neighbours[0]
    assert isinstance(seat, Seat)
    lost = msgspec.structs.replace(seat, card=msgspec.structs.replace(seat.card, endpoint="tcp://nowhere.invalid:7400"))
    finding = network._name(lost)
    assert (finding.level, finding.identifier) == (Level.FAIL, "SWARM-NET-DNS")


@pytest.fixture
def invited(case: Case) -> Case:
    """A site that a invited, and that has not been started since."""
    from node.admission import contact_to_toml

    site, (a, _) = case.site, case.neighbours[0]
    site.keys.rename(site.keys.with_name("others-keys"))
    site.card_path.unlink()
    site.make_keys(name="d", endpoint="")
    site.sponsors_path.write_text(contact_to_toml(Contact(a.node, a.name, a.curve_key, a.endpoint)))
    return fresh(site.folder)


@pytest.mark.real
def test_a_site_that_joined_and_was_never_started_looks_at_who_invited_it(invited: Case) -> None:
    found_ = [*examine(invited, without=(TASK,))]
    assert [one.subject for one in found_ if one.check in ("dns", "tcp")] == ["a", "a"]
    assert levels(found_)["member"] is Level.WARN
    assert "as far as its own ledger tells" in next(one.text for one in found_ if one.check == "member")


def test_where_the_members_have_not_agreed_yet_its_key_is_on_no_list_and_nothing_is_wrong(invited: Case) -> None:
    (sponsor, dials) = invited.neighbours[0]
    silent = network.Meeting(trouble=Incident(event="handshake_timeout", text="a said nothing", peer=sponsor.node))
    finding = network._as_met(invited, sponsor, silent, dials)
    assert (finding.level, finding.subject) == (Level.WARN, "a")
    assert "the members have to agree first" in finding.text
    assert "swarm join" in finding.remedy


def test_a_damaged_word_of_who_invited_is_one_failure_and_the_rest_is_not_looked_at(invited: Case) -> None:
    text = invited.site.sponsors_path.read_text()
    for damaged in ("junk", text.replace("tcp://", "")):
        invited.site.sponsors_path.write_text(damaged)
        found_ = [*examine(fresh(invited.site.folder), without=(TASK,))]
        (failed,) = [one for one in found_ if one.level is Level.FAIL]
        assert (failed.check, "[sponsor]" in failed.text or "sponsors.toml" in failed.text) == ("member", True)
        assert "dns, tcp, link, clock" in found_[-1].text


def test_a_folder_that_another_process_uses_is_not_dialled_from(case: Case) -> None:
    lock = DirectoryLock(case.site.run / "lock")
    try:
        [finding] = network.links(case)
    finally:
        lock.close()
    assert finding.level is Level.WARN
    assert "another process" in finding.text


def told(**fields: object) -> dict[str, object]:
    base = {"linked": True, "refused": "", "trouble": "", "protocol": "1.1", "clock_offset_ms": 3, "rate_bytes_s": 0}
    return {**base, **fields}


def test_the_running_node_is_asked_what_it_knows(case: Case) -> None:
    (a, _), (b, _) = case.neighbours
    case.__dict__["status"] = {
        "members": [
            {
                "node": a.node.hex(),
                **told(refused="a has another charter", refused_id="SWARM-HELLO-CHARTER", linked=False),
            },
            {"node": b.node.hex(), **told(clock_offset_ms=20_000, rate_bytes_s=5_000_000)},
        ]
    }
    first, second = network.links(case)
    assert (first.level, first.identifier, first.subject) == (Level.FAIL, "SWARM-HELLO-CHARTER", "a")
    assert second.level is Level.PASS
    [clock] = network.clocks(case)
    assert (clock.level, "20.0 s ahead" in clock.text) == (Level.WARN, True)
    [line] = network.bandwidth(case)
    assert line.text == "models came at 5 MB/s"
    assert "5 MB/s" in training.pace(case)[0].text


def test_a_clock_that_the_charter_does_not_allow_fails(case: Case) -> None:
    (a, _), _ = case.neighbours
    case.__dict__["status"] = {"members": [{"node": a.node.hex(), **told(clock_offset_ms=-601_000)}]}
    assert network.clocks(case)[0].level is Level.FAIL


@pytest.mark.real
def test_a_trial_shows_the_data_trains_and_judges_the_update(case: Case, forkserver: Path) -> None:
    case = fresh(case.site.folder, f"task.forkserver={forkserver}")
    trial, parts, update = training.trial(case)
    assert {one.level for one in (trial, parts, update)} == {Level.PASS}, (trial, parts, update)
    assert parts.text.startswith("all 3 numbers of the model travel")
    assert "8 samples, 3 steps" in trial.text
    assert trial.details == ("data[0]: float32 8x2", "data[1]: float32 8; 0 4 times, 1 4 times")
    assert case.tried is not None
    assert case.tried.finished
    [pace] = training.pace(case)
    assert pace.text.startswith("about ")


@pytest.mark.real
@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            "return torch.ones(8, 2), torch",
            "return open('no scans'), torch",
            "the task fails on this site's data: FileNotFoundError",
        ),
        ('"samples": len(x)', '"samples": 0', '"samples" is 0'),
        ("lr=0.1", "lr=float('inf')", "not finite"),
        ("lr=0.1", "lr=0.0", "changed nothing"),
        ("lr=0.1", "lr=1e4", "the charter cuts it to 100"),
        ("for _ in range(3)", "import time\n    for _ in range(10**9)", "a round is longer"),
        ("Linear(2, 1)", "Linear(2, 2)", "the charter's 3"),
    ],
)
def test_a_trial_says_what_is_wrong_with_the_task(
    case: Case, forkserver: Path, monkeypatch: pytest.MonkeyPatch, old: str, new: str, words: str
) -> None:
    monkeypatch.setattr(training, "TRIAL_S", 0.3)
    case = fresh(case.site.folder, f"task.forkserver={forkserver}")
    path = case.site.folder / "task.py"
    path.write_text(path.read_text().replace(old, new))
    assert words in " ".join(one.text for one in training.trial(case))


def test_a_round_that_cannot_be_trained_in_time_is_warned_of(case: Case) -> None:
    case.tried = Tried(True, 8, {}, 3, 0.1, 61.0, ())  # The charter's deadline is a minute.
    [finding] = training.pace(case)
    assert (finding.level, "rounds close after 60 s" in finding.text) == (Level.WARN, True)


def test_a_check_that_is_needed_stands_before_what_needs_it() -> None:
    seen: set[str] = set()
    for check in CHECKS:
        assert seen.issuperset(check.needs), check.name
        seen.add(check.name)


def test_the_command_ends_with_1_on_a_failure_and_0_without(case: Case) -> None:
    arguments = [str(case.site.folder), "--no-peers", "--no-task"]
    good = CliRunner().invoke(cli, ["doctor", *arguments])
    assert good.exit_code == 0, good.output
    assert good.output.splitlines()[-1].endswith("this site can take part, and something is to be looked at") or (
        good.output.splitlines()[-1].endswith("this site can take part")
    )
    (case.site.folder / "task.py").unlink()
    plain = CliRunner().invoke(cli, ["doctor", *arguments])
    data = json.loads(CliRunner().invoke(cli, ["doctor", *arguments, "--json"]).output)["data"]
    assert plain.exit_code == 1
    assert "FAIL  task " in plain.output
    assert data["fail"] == 1
    [one] = [finding for finding in data["findings"] if finding["level"] == "FAIL"]
    assert (one["check"], one["id"]) == ("task", "SWARM-TASK-FILE")
    assert {finding["id"] for finding in data["findings"]} <= {"", *IDENTIFIERS}


def test_what_is_shown_of_the_data_is_not_in_the_json() -> None:
    from node.cli.doctor import plain

    finding = Finding("trial", Level.PASS, "it trains", details=("data: 3 of one label",))
    assert "label" in render(finding)
    assert "label" not in json.dumps(plain(finding))


def test_a_line_reads_well() -> None:
    assert render(well("dns", "a.example.org is 192.0.2.1", subject="a")).endswith(
        "  dns, a                 a.example.org is 192.0.2.1"
    )
    lines = render(fail("tcp", "no answer", "ask", subject="b", identifier="SWARM-NET-TIMEOUT")).splitlines()
    assert lines[0].endswith("no answer [SWARM-NET-TIMEOUT]")
    assert lines[1].strip().endswith("ask")


def test_a_sentence_is_broken_as_the_terminal_is_wide_and_loses_no_word() -> None:
    finding = fail("tcp", "word " * 40, "do this " * 20, subject="b")
    for width in (60, 80, 200):
        lines = click.unstyle(render(finding, width)).splitlines()
        assert max(map(len, lines)) <= width
        assert " ".join(" ".join(lines).split()).count("word") == 40
    assert len(render(finding).splitlines()) == len(render(finding, 40).splitlines()) == 2


@pytest.mark.parametrize(
    "endpoint", ["tcp://", "tcp://host", "tcp://host:", "tcp://:7400", "tcp://h:0", "tcp://h:99999"]
)
def test_an_endpoint_that_is_no_address_costs_its_own_line_only(case: Case, endpoint: str) -> None:
    (a, dials), other = case.neighbours
    lost = msgspec.structs.replace(a, card=msgspec.structs.replace(a.card, endpoint=endpoint))
    case.__dict__["neighbours"] = ((lost, dials), other)
    first, second = network.names(case)
    assert (first.level, first.identifier, second.level) == (Level.FAIL, "SWARM-NET-ADDRESS", Level.PASS)


# --- real neighbours ------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_real_neighbours_greet_the_doctor_or_say_why_not(founded: Path, tmp_path: Path) -> None:
    folder = tmp_path / "swarm"
    shutil.copytree(founded, folder)
    from node.site import Site

    peers = [
        LocalPeer(Site(folder / name), SiteData(name, founded.parent / f"data-{name}", rows=8, positives=4, held_out=8))
        for name in ("a", "b", "c")
    ]
    try:
        for peer in peers[:2]:
            peer.start()
        wait_for(lambda: all(asked(peer) for peer in peers[:2]))
        # c's node does not run: its keys are used by the doctor.
        found_ = network.links(case := fresh(folder / "c"))
        assert [(one.subject, one.level) for one in found_] == [("a", Level.PASS), ("b", Level.PASS)], found_
        assert "has our terms (protocol 1.1" in found_[0].text
        assert network.clocks(case)[0].level is Level.PASS
        # b dials c, and c may shake hands with whoever dials it.
        met = network.links(fresh(folder / "c"))
        assert all(one.level is Level.PASS for one in met)
        # With another transport key nobody answers the handshake, and the sentence says so.
        (folder / "c" / "keys" / "curve.seed").write_text("cd" * 32)
        unknown = {(Level.FAIL, f"SWARM-NET-{word}") for word in ("UNFINISHED", "SERVER-KEY")}
        strangers = network.links(fresh(folder / "c"))
        assert {(one.level, one.identifier) for one in strangers} <= unknown, strangers
    finally:
        for peer in peers:
            peer.stop()


def asked(peer: LocalPeer) -> bool:
    peer.poll()
    return bool(peer.status)


def wait_for(condition: object, seconds: float = 90.0) -> None:
    import time

    end = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < end, "it did not come about in time"
        time.sleep(0.2)
