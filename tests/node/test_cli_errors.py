"""What goes wrong at the command line: a sentence, what to do about it, the exit code, and nothing destroyed.

Also the commands that talk to a running node, and what the outermost line does with errors of every kind.
"""

from __future__ import annotations

import contextlib
import io
import json
import re
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

from node.cli.control import ANSWER_BYTES_MAX
from node.cli.demo import _scores
from node.cli.main import COMMANDS, main
from node.cli.output import EXIT_CODES, Failure, code_of
from node.cli.start import _make_room
from node.cli.status import render
from node.console import Console
from node.data import SiteData
from node.local import LocalPeer
from node.runtime import ControlSocket
from node.site import Site
from node.storage import DirectoryLock, RealDisk
from swarm import charter as c
from swarm.errors import LedgerError, PeerError, StoreError, SwarmError, UsageError
from swarm.identifiers import IDENTIFIERS
from swarm.ledger.audit import Audit, RoundView
from swarm.ledger.entry import METRIC_SCALE, Evaluation
from swarm.ledger.journal import BLOCKS, WAL, Finding, Journal, scan
from swarm.ledger.state import genesis
from swarm.machine import RECORD_BLOCK, RECORD_VOTE, Answer, Record
from tests.builders import bracketed, digest, make_swarm
from topologies.world.clock import EPOCH_S

TASK = "x = 1  # never imported: every error here is found before that\n"

GROUPS = {
    "backup": ["create", "verify", "restore"],
    "charter": ["new", "sign", "merge", "check", "show"],
    "ledger": [
        *("status", "log", "show", "rounds", "round", "peers", "peer", "contributions", "members", "epochs"),
        *("evidence", "forks", "verify", "blocks", "block", "certs", "diff", "stats", "lineage", "card"),
        *("report", "export", "import", "repair"),
        *("checkpoint", "policy", "vkeys", "prove", "check-proof", "consistency"),
    ],
    "key": ["encrypt", "decrypt", "passphrase"],
    "ledger trust": ["show", "reset"],
    "egress": ["policy", "log"],
    "privacy": ["plan", "spent", "audit"],
}


def swarm(*arguments: object) -> Result:
    """Run the command line in this process, from its outermost line: errors have become words and an exit code."""
    signals = {number: signal.getsignal(number) for number in (signal.SIGPIPE, signal.SIGTERM, signal.SIGINT)}
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", ["swarm", *(str(argument) for argument in arguments)])
            return CliRunner().invoke(click.Command("swarm", callback=main), [])
    finally:
        for number, handler in signals.items():
            signal.signal(number, handler)


def refused(*arguments: object, code: int = 2) -> tuple[str, str]:
    """Return (sentence, hint) of a command that fails, having checked that people and programs are told the same.

    What is started logs, and where nobody sits at it a log is lines of JSON, of which its error is the last.
    """
    logs = arguments[0] == "start"
    plain = swarm(*arguments, *(["--log-format", "text"] if logs else []))
    machine = swarm(*arguments, "--json")
    assert (plain.exit_code, plain.stdout) == (code, "")
    assert machine.exit_code == code
    body = json.loads(machine.stdout)
    assert (set(body), body["schema"], body["status"]) == ({"schema", "status", "error"}, "swarm/cli/v1", "error")
    assert set(body["error"]) == {"message", "hint", "code", "id"}
    assert body["error"]["id"] in IDENTIFIERS
    own = bracketed(str(body["error"]["id"]))
    assert body["error"]["code"] == code
    message, hint = str(body["error"]["message"]), str(body["error"]["hint"])
    assert plain.stderr == f"error: {message}{own}\n" + (f"hint: {hint}\n" if hint else "")
    if logs and machine.stderr.startswith("{"):  # What click finds wrong is wrong before anything logs.
        last = json.loads(machine.stderr.splitlines()[-1])
        assert (last["event"], last["text"], last["hint"], last["code"]) == ("ended", message, hint, code)
        assert last["id"] == body["error"]["id"]
    else:
        assert machine.stderr == plain.stderr
    assert "\n" not in message + hint
    assert "unexpected" not in message
    return message, hint


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    """A site that could start: keys, settings, task file, and a charter that it alone has to sign."""
    monkeypatch.chdir(tmp_path)
    made = Site(Path("rural"))
    card = made.create(name="rural", listen="", advertise="tcp://127.0.0.1:7400", task="task.py", data="data")
    (made.folder / "task.py").write_text(TASK)
    charter = c.Charter(
        version=c.CHARTER_VERSION,
        name="oncology",
        created_ms=1_750_000_000_000,
        members=(card,),
        task=c.Task("task", digest(TASK), digest("layout"), 31, digest("initial"), 7),
        round=c.RoundPolicy(20, "exact", "none", 1, 60_000, 12_000, 100_000, 1_000_000),
        ledger=c.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=("loss",),
        edges=(),
        predecessor=(),
        options=(),
    )
    signed = c.SignedCharter(charter, {}).sign(made.load_identity())
    (made.folder / "charter.toml").write_text(c.to_toml(signed))
    return made


# --- starting -----------------------------------------------------------------------------------------------------


def no_settings(site: Site) -> None:
    site.settings_path.unlink()


def a_typo_in_the_settings(site: Site) -> None:
    site.settings_path.write_text(site.settings_path.read_text().replace("listen =", "listn ="))


def no_charter(site: Site) -> None:
    (site.folder / "charter.toml").unlink()


def a_charter_nobody_signed(site: Site) -> None:
    (site.folder / "charter.toml").write_text(c.to_toml(c.SignedCharter(site.load_charter().charter, {})))


def a_charter_changed_after_signing(site: Site) -> None:
    path = site.folder / "charter.toml"
    path.write_text(path.read_text().replace("rounds = 20", "rounds = 21"))


def no_key(site: Site) -> None:
    (site.keys / "identity.seed").unlink()


def a_key_others_can_read(site: Site) -> None:
    (site.keys / "curve.seed").chmod(0o644)


def half_a_key(site: Site) -> None:
    path = site.keys / "curve.seed"
    path.write_text(path.read_text()[:32])


def somebody_elses_charter(site: Site) -> None:
    (site.folder / "charter.toml").write_text(c.to_toml(make_swarm(3).signed))


def no_task(site: Site) -> None:
    (site.folder / "task.py").unlink()


def another_task(site: Site) -> None:
    (site.folder / "task.py").write_text(TASK + "# improved\n")


@pytest.mark.parametrize(
    ("broken", "words", "advice"),
    [
        (no_settings, "couldn't find {site}/swarm.toml", "make a site with `swarm init`"),
        (a_typo_in_the_settings, "{site}/swarm.toml: unknown key 'site.listn'", "did you mean site.listen?"),
        (no_charter, "couldn't find {site}/charter.toml", "put the signed charter there"),
        (a_charter_nobody_signed, "couldn't use the charter: not signed yet by rural", "`swarm charter sign`"),
        (a_charter_changed_after_signing, "the signature of 'rural' does not match its terms", "signed original"),
        (no_key, "couldn't find {site}/keys/identity.seed", "keys"),
        (a_key_others_can_read, "others on this machine can read it (mode 644)", "run chmod 600 {site}/keys/curve."),
        (half_a_key, "couldn't use {site}/keys/curve.seed: it does not hold a key", "restore it from your backup"),
        (
            somebody_elses_charter,
            "couldn't start 'rural': it is not a member of 'test-swarm'",
            "begins with `swarm join`",
        ),
        (no_task, "couldn't find the task file {site}/task.py", "put it there, or name another"),
        (another_task, "{site}/task.py is not the task file the charter was made with", "SHA-256 begins {task}"),
    ],
)
def test_a_site_that_cannot_start_says_why_and_is_left_as_it_was(
    site: Site, broken: Callable[[Site], None], words: str, advice: str
) -> None:
    broken(site)
    before = contents(site.folder)
    codes = {a_charter_changed_after_signing: 3, another_task: 6}
    message, hint = refused("start", site.folder, code=codes.get(broken, 2))
    known = {"site": site.folder.resolve(), "task": digest(TASK).hex()[:16]}
    assert words.format(**known) in message
    assert advice.format(**known) in hint
    assert contents(site.folder) == before


def test_there_is_nothing_to_start_where_no_site_is(site: Site) -> None:
    message, hint = refused("start", "nowhere")
    assert message.startswith("couldn't find ")
    assert "swarm init" in hint
    assert not Path("nowhere").exists()


@pytest.mark.parametrize(
    ("override", "words", "advice"),
    [
        ("task.threads", "couldn't read --set 'task.threads'", "write it as --set section.key=value"),
        ("task.thread=1", "couldn't use --set task.thread: unknown key 'task.thread'", "did you mean task.threads?"),
        ("=", "couldn't use --set : unknown key ''", "known keys are site.name, "),
        ("task.threads=two", "couldn't use --set task.threads: 'two' is not of type int", "write a whole number, as 2"),
        ("task.stall_s=soon", "'soon' is not of type float", "write a number, as 2.5"),
        ("run.exit_when_done=1", "'1' is neither true nor false", "write true or false"),
        ("site.listen=junk", "couldn't use site.listen, from --set: 'junk' is no address", "tcp://host:port"),
        ("site.listen=tcp://0.0.0.0:99999", "'tcp://0.0.0.0:99999' is no address", "a port from 1 to 65535"),
    ],
)
def test_a_bad_override_starts_nothing(site: Site, override: str, words: str, advice: str) -> None:
    before = contents(site.folder)
    message, hint = refused("start", site.folder, "--set", override)
    assert words in message
    assert advice in hint
    assert contents(site.folder) == before


def test_a_way_to_log_that_there_is_not_starts_nothing(site: Site) -> None:
    result = swarm("start", site.folder, "--set", "run.log=foo")
    assert result.exit_code == 2
    told = json.loads(result.stderr)
    assert told["text"] == "couldn't use run.log = 'foo', from --set"
    assert told["hint"] == "choose one of auto, text, json, plain"


def test_an_unknown_variable_of_the_environment_starts_nothing(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SWARM_TASK__THREAD", "1")
    message, hint = refused("start", site.folder)
    assert message == "couldn't use the variable SWARM_TASK__THREAD: unknown key 'task.thread'"
    assert hint == "did you mean task.threads?"


def test_a_second_node_in_the_same_folder_is_refused(site: Site) -> None:
    lock = DirectoryLock(site.run / "lock")
    before = contents(site.folder)
    try:
        message, hint = refused("start", site.folder, code=8)
    finally:
        lock.close()
    assert message.startswith(f"couldn't start in {site.folder.resolve()}: a node is running there (process ")
    assert hint == "stop it first, or use another folder"
    assert contents(site.folder) == before


@pytest.mark.real
def test_a_port_that_is_taken_is_named_and_can_be_changed_with_set(site: Site) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        endpoint = f"tcp://127.0.0.1:{other.getsockname()[1]}"
        result = swarm("start", site.folder, "--json", "--set", f"site.listen={endpoint}")
    error = json.loads(result.stdout)["error"]
    assert (result.exit_code, error["code"]) == (2, 2)
    assert error["message"].startswith(f"couldn't listen on {endpoint}: Address already in use")
    assert "choose another port in `listen`" in error["hint"]
    DirectoryLock(site.run / "lock").close()  # Whoever could not start holds nothing.


@pytest.mark.real
def test_an_address_that_is_not_here_is_named(site: Site) -> None:
    result = swarm("start", site.folder, "--json", "--set", "site.listen=tcp://192.0.2.1:7400")
    error = json.loads(result.stdout)["error"]
    assert result.exit_code == 2
    assert error["message"].startswith("couldn't listen on tcp://192.0.2.1:7400: ")
    assert "an address of this machine" in error["hint"]


@pytest.mark.real
def test_the_ledger_of_another_swarm_is_neither_continued_nor_touched(site: Site) -> None:
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=digest("another ledger"), segment_bytes=1 << 16)
    journal.open()
    journal.append([Record(RECORD_BLOCK, 1, b"a block")])
    disk.close()
    before = contents(site.ledger)
    message, hint = refused("start", site.folder, code=3)
    assert f"its files are of {digest('another ledger').hex()[:12]}" in message
    assert hint == "each swarm needs a folder of its own"
    assert contents(site.ledger) == before


def test_the_ledger_of_a_wrong_charter_in_which_nothing_was_agreed_makes_room_and_comes_back(site: Site) -> None:
    right, wrong = site.load_charter(), make_swarm(1).signed
    journal = Journal(disk := RealDisk(site.ledger), ledger_id=wrong.ledger_id, segment_bytes=1 << 16)
    journal.open()
    journal.append([Record(RECORD_VOTE, 1, b"a vote")])
    disk.close()
    before = contents(site.ledger)
    stream = io.StringIO()
    console = Console("plain", name="rural", stream=stream)
    kept = site.folder / f"ledger-{wrong.ledger_id.hex()[:12]}"
    for _ in range(2):
        _make_room(site, right, console.report, EPOCH_S)
        assert contents(kept) == before
    assert not contents(site.ledger)
    [line] = stream.getvalue().splitlines()
    assert line.endswith(f"nothing was agreed under that: its files are in {kept.name} now")
    # The other way round as well: nothing is lost, should it have been the right one after all.
    journal = Journal(disk := RealDisk(site.ledger), ledger_id=right.ledger_id, segment_bytes=1 << 16)
    journal.open()
    journal.append([Record(RECORD_VOTE, 1, b"another vote")])
    disk.close()
    _make_room(site, wrong, console.report, EPOCH_S)
    assert contents(site.ledger) == before
    assert not kept.exists()


@pytest.mark.real
def test_a_site_whose_blocks_are_damaged_blames_its_disk_and_nobody_else(site: Site) -> None:
    ledger_id = site.load_charter().ledger_id
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=ledger_id, segment_bytes=1 << 16)
    journal.open()
    for height in (1, 2):
        journal.append([Record(RECORD_BLOCK, height, b"block %d" % height * 10)])
    places = [found.offset for found in scan(disk, BLOCKS, ledger_id) if not isinstance(found, Finding)]
    disk.close()
    path = site.ledger / "blocks" / "00000000.seg"
    data = bytearray(path.read_bytes())
    data[places[0] + 20] ^= 1
    path.write_bytes(data)
    before = contents(site.ledger)
    result = swarm("start", site.folder, "--log-format", "text")
    assert result.exit_code == 3
    assert f"blocks/00000000.seg at byte {places[0]}: corruption" in result.stderr
    told = (
        "error: couldn't start: the disk lost a part of the ledger [SWARM-LEDGER-DAMAGED]\nhint: stop the node, then "
    )
    assert told in result.stderr
    assert "lied" not in result.stderr
    assert contents(site.ledger) == before


@pytest.mark.real
def test_a_site_whose_votes_are_damaged_does_not_vote_again(site: Site) -> None:
    ledger_id = site.load_charter().ledger_id
    disk = RealDisk(site.ledger)
    journal = Journal(disk, ledger_id=ledger_id, segment_bytes=1 << 16)
    journal.open()
    for view in (1, 2):
        journal.append([Record(RECORD_VOTE, view, b"vote %d" % view * 10)])
    places = [found.offset for found in scan(disk, WAL, ledger_id) if not isinstance(found, Finding)]
    disk.close()
    path = site.ledger / "wal" / "00000000.seg"
    data = bytearray(path.read_bytes())
    data[places[0] + 20] ^= 1
    path.write_bytes(data)
    before = contents(site.ledger)
    result = swarm("start", site.folder, "--log-format", "text")
    assert result.exit_code == 2
    assert "wal/00000000.seg at byte " in result.stderr
    assert "error: couldn't start: the record of this site's votes is damaged" in result.stderr
    assert "hint: restore the ledger folder from a backup, or rejoin with new keys\n" in result.stderr
    assert "Traceback" not in result.stderr
    assert contents(site.ledger) == before


# --- asking a running node ----------------------------------------------------------------------------------------


def the_status_of_a_node(members: int = 3) -> dict[str, object]:
    """Return what a real node that has just been made says of itself."""
    return make_swarm(members).node(0).status(EPOCH_S)


@contextmanager
def answering(site: Site, reply: dict[str, object]) -> Iterator[None]:
    """Answer questions on the site's control socket, as the loop of a node does."""
    control, done = ControlSocket(site.control), threading.Event()

    def serve() -> None:
        while not done.is_set():
            select.select([control.fileno()], [], [], 0.05)
            for asked in control.questions():
                control.answer(Answer(asked.ticket, reply))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        control.close()


@pytest.mark.real
def test_status_asks_the_running_node(site: Site) -> None:
    reply = the_status_of_a_node()
    with answering(site, reply):
        plain, machine = swarm("status", site.folder), swarm("status", site.folder, "--json")
        assert swarm("status", site.folder, "--format=json").stdout == machine.stdout
        assert swarm("status", site.folder, "--format=table").stdout == plain.stdout
        lines = swarm("status", site.folder, "--format", "jsonl")
        assert json.loads(lines.stdout)["error"]["hint"] == "--format json prints it as one object"
        both = swarm("status", site.folder, "--json", "--format", "table")
        assert "--json and --format table contradict each other" in json.loads(both.stdout)["error"]["message"]
    assert (plain.exit_code, plain.stderr) == (0, "")
    assert plain.stdout == render(reply) + "\n"
    body = json.loads(machine.stdout)
    assert (machine.exit_code, body["status"], body["data"]) == (0, "ok", reply)
    keys = {"swarm", "me", "ledger_id", "height", "entries", "root", "rounds", "round", "committed", "model"}
    assert keys | {"phase", "paused", "halted", "quorum", "tolerance", "members"} <= set(body["data"])
    assert [member["name"] for member in body["data"]["members"]] == ["site-0", "site-1", "site-2"]


@pytest.mark.real
def test_watching_is_ended_by_an_interrupt_and_writes_one_object_each_time(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    naps: list[float] = []

    def sleep(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr("node.cli.status.sleep", sleep)
    with answering(site, the_status_of_a_node()):
        result = swarm("status", site.folder, "--watch", "--json")
    assert (result.exit_code, result.stderr, naps) == (0, "", [1.0, 1.0])
    assert [json.loads(line)["status"] for line in result.stdout.splitlines()] == ["ok", "ok"]


def test_a_status_in_words_names_the_swarm_this_site_and_all_others() -> None:
    lines = render(the_status_of_a_node()).splitlines()
    assert lines[0] == "test-swarm   site-0"
    assert lines[1] == "rounds     0 of 3 committed  " + "░" * 20
    assert lines[4] == "quorum     2  (3 members: goes on with 1 site silent, tolerates no liars)"
    assert [line.split()[:2] for line in lines[5:]] == [["●", "site-0"], ["…", "site-1"], ["…", "site-2"]]


@pytest.mark.parametrize("what", ["refused", "paused", "halted"])
def test_a_status_says_loudly_that_the_node_does_not_go_on(what: str) -> None:
    assert what.upper() not in render(the_status_of_a_node())
    lines = render({**the_status_of_a_node(), what: "the disk is nearly full"}).splitlines()
    assert f"{what.upper():<10} the disk is nearly full" in lines


def test_the_status_of_a_site_that_is_refused_ends_with_6(site: Site) -> None:
    why = "this site does not fit together with site-1, site-2: site-1 has another charter"
    with answering(site, {**the_status_of_a_node(), "refused": why}):
        plain, machine = swarm("status", site.folder), swarm("status", site.folder, "--json")
    assert (plain.exit_code, machine.exit_code) == (6, 6)
    assert f"REFUSED    {why}" in plain.stdout.splitlines()
    assert json.loads(machine.stdout)["data"]["refused"] == why


@pytest.mark.parametrize("what", ["no folder", "not started", "a stale socket", "a plain file"])
def test_a_node_that_does_not_run_ends_with_8_and_a_way_on(site: Site, what: str) -> None:
    folder = Path("nowhere") if what == "no folder" else site.folder
    if what == "a stale socket":
        site.run.mkdir()
        with socket.socket(socket.AF_UNIX) as left:
            left.bind(str(site.control))
    if what == "a plain file":
        site.run.mkdir()
        site.control.touch()
    message, hint = refused("status", folder, code=8)
    assert message == f"no node answers in {folder}"
    assert "`swarm start`" in hint
    assert "`swarm ledger status`" in hint


def test_status_says_that_a_path_is_too_long_for_a_socket(site: Site) -> None:
    folder = Path("x" * 120)
    message, hint = refused("status", folder, code=8)
    assert message == f"couldn't ask a node in {folder}: the path of its socket is too long"
    assert "a shorter one" in hint


@pytest.mark.real
@pytest.mark.parametrize(
    "reply",
    [b"", b"not json\n", b"[]\n", b"7\n", b"[" * 100_000, b'"' + b" " * (ANSWER_BYTES_MAX + 1) + b'"'],
    ids=["nothing", "no json", "a list", "a number", "deep", "endless"],
)
def test_something_else_on_the_socket_is_not_taken_for_a_node(site: Site, reply: bytes) -> None:
    site.run.mkdir()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(site.control))
        listener.listen()

        def serve() -> None:
            for _ in range(2):
                caller, _ = listener.accept()
                with caller:
                    caller.recv(100)
                    with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # It has heard enough.
                        caller.sendall(reply)

        thread = threading.Thread(target=serve)
        thread.start()
        message, _ = refused("status", site.folder, code=8)
        thread.join()
    assert message == f"no node answers in {site.folder}"


# --- solo and demo ------------------------------------------------------------------------------------------------

POINT = """\
import torch


class Point(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.at = torch.nn.Parameter(torch.full((2,), 3.0))


def build_model():
    return Point()


def load_data(site):
    return float((site.folder / "value.txt").read_text())


def train(model, data, run):
    optimizer = torch.optim.SGD(model.parameters(), lr=0.25)
    loss = (model.at - data).square().sum()
    loss.backward()
    optimizer.step()
    return {"samples": 5, "loss": loss.item()}


def evaluate(model, data, run):
    return {"samples": 2, "distance": (model.at - data).abs().max().item()}
"""


@pytest.mark.real
def test_solo_trains_tells_both_people_and_programs_and_writes_the_model(site: Site) -> None:
    Path("point.py").write_text(POINT)
    Path("value.txt").write_text("11")
    result = swarm("solo", "point.py", "--data", ".", "--rounds", "2", "-o", "out/model.safetensors", "--json")
    # From 3 towards 11 by halves: 7, then 9. The loss is taken before each step: 2 * 8**2, then 2 * 4**2.
    assert result.exit_code == 0
    assert result.stderr.splitlines() == [
        "round 1 of 2: 5 samples, loss 128.0000",
        "round 2 of 2: 5 samples, loss 32.0000",
    ]
    assert json.loads(result.stdout) == {
        "schema": "swarm/cli/v1",
        "status": "ok",
        "data": {"samples": 5, "held_out": 2, "metrics": {"distance": 2.0}},
    }
    from safetensors.numpy import load_file

    assert {name: values.tolist() for name, values in load_file("out/model.safetensors").items()} == {"at": [9.0, 9.0]}


@pytest.mark.real
def test_a_device_that_is_not_there_is_no_fault_of_the_task(site: Site) -> None:
    Path("point.py").write_text(POINT)
    result = swarm("solo", "point.py", "--data", ".", "--rounds", "1", "--device", "nonsense", "--json")
    told = json.loads(result.stdout)["error"]
    assert told["message"].startswith("couldn't describe: nonsense cannot be used: ")
    assert told["hint"] == 'write device = "cpu" below [task], or install PyTorch for this device and its driver'
    assert told["id"] == "SWARM-TASK-DEVICE"


@pytest.mark.real
def test_a_failure_of_the_task_is_told_with_file_and_line(site: Site) -> None:
    Path("point.py").write_text(POINT)
    result = swarm("solo", "point.py", "--data", ".", "--rounds", "1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.startswith("error: couldn't train: FileNotFoundError: ")
    assert result.stderr.endswith("(point.py, line 15)\nhint: mend the task file and try again\n")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--data", ".", "-o", "point.py/x"], "couldn't write point.py/x: "),
        (["--data", ".", "-o", "rural"], "couldn't write rural: it is a folder"),
        (["--data", "nodata"], "Path 'nodata' does not exist"),
    ],
)
def test_solo_refuses_what_it_can_know_before_it_trains(
    site: Site, monkeypatch: pytest.MonkeyPatch, options: list[str], words: str
) -> None:
    def train(*_: object, **__: object) -> None:
        raise AssertionError("it trains")

    monkeypatch.setattr("node.cli.solo.run_solo", train)
    Path("point.py").write_text(POINT)
    message, hint = refused("solo", "point.py", *options)
    assert words in message
    assert "task" not in hint


def test_solo_of_a_charter_says_that_it_is_no_task(site: Site) -> None:
    message, hint = refused("solo", site.folder / "charter.toml", "--data", ".")
    assert message == "couldn't use rural/charter.toml as a task: its name does not end in .py"
    assert hint == "name a Python file"


@pytest.mark.parametrize("what", ["folder", "file"])
def test_the_demo_does_not_replace_what_no_demo_made(site: Site, what: str) -> None:
    folder = site.folder if what == "folder" else site.card_path
    before = contents(site.folder)
    result = swarm("demo", "--folder", folder)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        f"error: couldn't use {folder}: it exists and no demo made it\nhint: choose another --folder\n"
    )
    assert contents(site.folder) == before


def test_data_the_demo_cannot_use_cost_nothing(site: Site) -> None:
    message, hint = refused("demo", "--folder", "demo", "--heart-disease", "rural")
    assert message == "couldn't find rural/processed.cleveland.data"
    assert hint
    assert not Path("demo").exists()


def test_the_demo_has_its_scores_from_the_ledger_and_from_training_alone(site: Site) -> None:
    swarm = make_swarm(1)
    audit = Audit(genesis(swarm.signed))
    node = swarm.charter.members[0].node
    audit.rounds[0] = RoundView(0, evaluations={node: Evaluation(0, bytes(32), 10, ((0, 750_000),))})
    peer = LocalPeer(site, SiteData("site-0", site.folder, rows=5, positives=0, held_out=2))
    assert _scores([peer], audit, {"site-0": {"loss": 0.5}}, ["loss"]) == [
        {"name": "site-0", "alone": {"loss": 0.5}, "swarm": {"loss": 750_000 / METRIC_SCALE}}
    ]


# --- the outermost line -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "couldn't run swarm: no such command 'nonsense'"),
        (["start", "--bogus"], "couldn't run swarm start: no such option"),
        (["init", "a"], "couldn't run swarm init: missing option '--name'"),
        (["charter", "new"], "missing option"),
        (["charter", "merge", "a.toml"], "missing option"),
        (["ledger", "round", "first"], "couldn't read 'first' as a round"),
        (["solo", "nowhere.py", "--data", "."], "couldn't find the task file nowhere.py"),
        (["demo", "--rounds", "3"], "3 is not in the range x>=4"),
        (["charter", "new", "--topology", "moebius"], "'moebius' is not one of"),
    ],
)
def test_a_command_that_is_not_written_well_ends_with_2_and_names_the_word(
    site: Site, arguments: list[str], words: str
) -> None:
    before = contents(site.folder)
    message, hint = refused(*arguments)
    assert words in message
    assert hint
    assert contents(site.folder) == before


@pytest.mark.parametrize("words", [[], ["charter"], ["ledger"]], ids=" ".join)
def test_a_group_alone_explains_itself(words: list[str]) -> None:
    result = swarm(*words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == swarm(*words, "--help").stdout


def every_command() -> list[list[str]]:
    return (
        [[]]
        + [[name] for name in COMMANDS]
        + [[*group.split(), name] for group, names in GROUPS.items() for name in names]
    )


@pytest.mark.parametrize("words", every_command(), ids=" ".join)
def test_every_command_explains_itself(words: list[str]) -> None:
    for option in ("--help", "-h"):
        result = swarm(*words, option)
        assert (result.exit_code, result.stderr) == (0, "")
        assert result.stdout.startswith(f"Usage: {' '.join(['swarm', *words])} ")


def test_help_lists_every_command_and_every_exit_code() -> None:
    text = swarm("--help").stdout
    assert all(f"\n  {code:<3}  {words}" in text for code, words in EXIT_CODES.items())
    assert all(f"\n  {name} " in text for name in COMMANDS)
    for group, names in GROUPS.items():
        text = swarm(*group.split(), "--help").stdout
        assert all(f"\n  {name} " in text for name in names)


@pytest.mark.parametrize(
    "words",
    [words for words in every_command() if words and words not in [[group] for group in GROUPS]],
)
def test_every_command_can_speak_json(words: list[str]) -> None:
    help_text = swarm(*words, "--help").stdout
    assert "--json" in help_text or "--format table|json" in help_text


REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"


def test_the_reference_has_every_command_option_and_exit_code_and_no_other() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    assert dict(re.findall(r"^\| (\d+) \| (.*) \|$", text, re.MULTILINE)) == {
        str(code): words for code, words in EXIT_CODES.items()
    }
    sections = re.findall(
        r"^### `swarm ([a-z -]+?)(?: [A-Z\[][^\n]*)?`\n(.*?)(?=^### |\Z)", text, re.MULTILINE | re.DOTALL
    )
    named = [words.split() for words, _ in sections]
    assert list(dict.fromkeys(words[0] for words in named)) == list(COMMANDS)
    assert sorted(named) == sorted(
        words for words in every_command() if words and words not in [[group] for group in GROUPS]
    )
    for words, section in sections:
        documented = re.findall(r"^\| (?:`-\w`, )?`(--[a-z-]+)` \|", section, re.MULTILINE)
        offered = re.findall(r"^  (?:-\w, )?(--[a-z-]+)", swarm(*words.split(), "--help").stdout, re.MULTILINE)
        assert sorted([*documented, "--help"]) == sorted(offered), words


def test_every_option_explains_itself() -> None:
    for words in every_command():
        for option in re.findall(
            r"^  (?:-\w, )?--[^\n]*(?:\n {10,}[^\n]*)*", swarm(*words, "--help").stdout, re.MULTILINE
        ):
            _, _, help_text = option.replace("\n", " ").strip().partition("  ")
            assert re.sub(r"\[.*?\]", "", help_text).strip(), option


def test_the_version_is_told() -> None:
    result = swarm("--version")
    assert result.exit_code == 0
    assert result.stdout.startswith("swarm, version ")


def command_that(body: str, tmp_path: Path, patch: pytest.MonkeyPatch) -> str:
    """Add a command whose body is the given line; return its name."""
    name = f"command_{tmp_path.name}"
    text = f"import click\n\n\n@click.command()\n@click.option('--json', is_flag=True)\ndef run(json):\n    {body}\n"
    (tmp_path / f"{name}.py").write_text(text)
    patch.syspath_prepend(tmp_path)
    patch.setitem(COMMANDS, "extra", (f"{name}:run", ""))
    return "extra"


def test_what_nobody_foresaw_is_one_sentence_and_a_way_to_report_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    extra = command_that("1 / 0", tmp_path, monkeypatch)
    result = swarm(extra, "--json")
    body = json.loads(result.stdout)
    assert (result.exit_code, body["error"]["code"]) == (1, 1)
    assert body["error"]["message"] == "something unexpected went wrong: ZeroDivisionError: division by zero"
    assert "swarm -v" in body["error"]["hint"]
    assert "Traceback" not in result.stderr
    # The whole trace is for those who ask for it, and changes nothing else.
    for option in ("-v", "--verbose"):
        told = swarm(option, extra, "--json")
        assert (told.exit_code, told.stdout) == (1, result.stdout)
        assert "Traceback" in told.stderr
        assert told.stderr.endswith(result.stderr)


@pytest.mark.parametrize("command", [["init"], ["keygen"], ["start"], ["ledger", "status"]], ids=" ".join)
def test_a_path_no_system_takes_is_refused_in_words(site: Site, command: list[str]) -> None:
    name = ["--name", "a"] if command[0] in ("init", "keygen") else []
    message, hint = refused(*command, "x" * 300, *name)
    assert "File name too long" in message
    assert hint


@pytest.mark.parametrize("body", ["raise KeyboardInterrupt", "raise click.Abort"])
def test_a_command_that_is_interrupted_ends_with_130(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str
) -> None:
    result = swarm(command_that(body, tmp_path, monkeypatch), "--json")
    assert result.exit_code == 130
    assert json.loads(result.stdout)["error"] == {
        "message": "interrupted",
        "hint": "",
        "code": 130,
        "id": "SWARM-ERROR",
    }
    assert result.stderr.strip() == "error: interrupted"


def test_every_error_has_an_exit_code_that_is_explained() -> None:
    assert {kind: code_of(kind("x")) for kind in (UsageError, LedgerError, StoreError, PeerError, SwarmError)} == {
        UsageError: 2,
        LedgerError: 3,
        StoreError: 1,
        PeerError: 1,
        SwarmError: 1,
    }
    assert code_of(Failure("x", code=7)) == 7
    assert sorted(EXIT_CODES) == [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 130]
    assert all(EXIT_CODES.values())
