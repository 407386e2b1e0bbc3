"""A whole swarm on one machine: founded in one call, every peer a process that can be asked, killed and started again."""

from __future__ import annotations

import json
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.ledger.reading import verify_quietly
from node.cli.main import cli
from node.clock import Clock, sleep
from node.data import SiteData
from node.local import FIRST_PORT, PROGRAM, LocalPeer, found, free_ports, stop_all
from node.site import Site

pytestmark = pytest.mark.real

# A model of two numbers that starts at (3, 3) and goes half the way to the site's own value in each round.
TASK = """\
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
    return {"samples": 2, "loss": (model.at - data).abs().max().item()}
"""

ENOUGH_S = 30.0
"""A run of two rounds takes a few seconds."""


def hospitals(folder: Path, **values: float) -> list[SiteData]:
    """Write each hospital's data: one number."""
    made = []
    for name, value in values.items():
        (folder / "data" / name).mkdir(parents=True)
        (folder / "data" / name / "value.txt").write_text(str(value))
        made.append(SiteData(name, folder / "data" / name, rows=5, positives=0, held_out=2))
    return made


@pytest.fixture(scope="module")
def peers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[LocalPeer]]:
    """Two peers whose values, 11 and 3, have the mean 7. The folder's name is short: so must a socket's path be."""
    folder = tmp_path_factory.mktemp("local")
    task = folder / "point.py"
    task.write_text(TASK)
    made = found(folder, hospitals(folder, a=11, b=3), task, rounds=2, metrics=("loss",), seed=7, patience_s=8.0)
    yield made
    stop_all(made)


def until(condition: Callable[[], bool], peers: list[LocalPeer]) -> None:
    """Ask the peers for their status until a condition holds."""
    clock = Clock()
    begun = clock.now()
    while not condition():
        assert clock.now() - begun < ENOUGH_S, [(peer.name, peer.up, peer.log_tail()) for peer in peers]
        sleep(0.05)
        for peer in peers:
            peer.poll()


def test_ports_that_somebody_listens_on_are_not_handed_out() -> None:
    ports = free_ports(3)
    assert ports == sorted({*ports})
    assert all(FIRST_PORT < port < 32768 for port in ports)
    with socket.socket() as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(("127.0.0.1", ports[1]))
        other.listen()
        again = free_ports(3)
    assert ports[1] not in again
    assert again[0] == ports[0]


def test_founding_makes_complete_sites_that_all_hold_the_same_signed_charter(peers: list[LocalPeer]) -> None:
    assert [peer.name for peer in peers] == ["a", "b"]
    assert len({(peer.site.folder / "charter.toml").read_bytes() for peer in peers}) == 1
    signed = peers[0].site.load_charter()
    charter = signed.charter
    assert signed.missing() == ()
    assert [card.name for card in charter.members] == ["a", "b"]
    assert (charter.round.rounds, charter.round.min_contributions) == (2, 2)
    assert (charter.round.patience_ms, charter.round.deadline_ms) == (8_000, 60_000)
    assert (charter.task.parameters, charter.task.seed, charter.metrics) == (2, 7, ("loss",))
    assert len({card.endpoint for card in charter.members}) == 2
    for peer, card in zip(peers, charter.members, strict=True):
        settings = peer.site.load_settings({})
        assert peer.site.load_identity().node == card.node
        assert settings.site.listen == card.endpoint
        assert card.endpoint.startswith("tcp://127.0.0.1:")
        assert settings.task.data == str(peer.data.folder)
        assert (peer.site.folder / settings.task.file).read_text() == TASK
        assert stat.S_IMODE((peer.site.keys / "identity.seed").stat().st_mode) == 0o600


def test_a_peer_that_was_never_started_can_be_asked_and_stopped_all_the_same(tmp_path: Path) -> None:
    peer = LocalPeer(Site(tmp_path), SiteData("a", tmp_path, rows=1, positives=0, held_out=1))
    for action in (peer.poll, peer.kill, peer.stop):
        action()
        assert (peer.up, peer.done, peer.committed, peer.status) == (False, False, 0, {})
    stop_all([peer])


def test_two_peers_learn_are_asked_one_is_killed_and_both_hold_the_same_bytes(peers: list[LocalPeer]) -> None:
    first, second = peers
    for peer in peers:
        assert (peer.up, peer.done, peer.committed) == (False, False, 0)
        peer.start()
        assert peer.up
    until(lambda: all(peer.done for peer in peers), peers)
    assert [peer.committed for peer in peers] == [2, 2]
    check_what_people_see(first)
    second.kill()
    assert (second.up, second.status) == (False, {})
    second.poll()
    assert second.status == {}, "nobody answers any more"
    stop_all(peers)
    assert [peer.process.returncode for peer in peers if peer.process] == [0, -signal.SIGKILL]
    assert not first.site.control.exists(), "a node that stops removes its socket"
    check_what_is_left(peers)


def test_a_crash_below_python_leaves_its_last_words_too(peers: list[LocalPeer]) -> None:
    crashed = peers[1]
    crashed.start()
    until(lambda: bool(crashed.status), [crashed])
    assert crashed.process is not None
    crashed.process.send_signal(signal.SIGBUS)
    assert crashed.process.wait(ENOUGH_S) == -signal.SIGBUS
    words = (crashed.site.folder / "log.txt").read_text()
    assert "Fatal Python error: Bus error" in words
    assert "runtime.py" in words, "where it was is what matters"


def test_a_peer_outlives_those_who_read_along_and_those_who_ask_and_do_not_wait(peers: list[LocalPeer]) -> None:
    peer = peers[0]
    peer.status = {}
    page = f"127.0.0.1:{free_ports(1)[0]}"
    command = [*PROGRAM, "start", str(peer.site.folder), "--set", f"page.listen={page}"]
    peer.process = subprocess.Popen(command, stderr=subprocess.PIPE)
    try:
        assert peer.process.stderr is not None
        peer.process.stderr.close()
        until(lambda: bool(peer.status), [peer])
        for question in (b"status", b"pause", b"resume") * 10:
            with socket.socket(socket.AF_UNIX) as asking:
                asking.connect(str(peer.site.control))
                asking.sendall(b'{"question": "' + question + b'"}\n')
        peer.status = {}
        until(lambda: bool(peer.status), [peer])
        until(lambda: listens(page), [peer])
    finally:
        peer.stop()
    assert peer.process.returncode == 0
    assert not listens(page), "the page that was beside it has ended with it"


def listens(address: str) -> bool:
    host, _, port = address.rpartition(":")
    with socket.socket() as asking:
        return asking.connect_ex((host, int(port))) == 0


def check_what_people_see(peer: LocalPeer) -> None:
    """Ask as people and programs do."""
    plain = CliRunner().invoke(cli, ["status", str(peer.site.folder)])
    assert plain.exit_code == 0
    assert "rounds     2 of 2 committed" in plain.stdout
    assert [line.split()[1] for line in plain.stdout.splitlines()[-2:]] == ["a", "b"]
    body = json.loads(CliRunner().invoke(cli, ["status", str(peer.site.folder), "--json"]).stdout)
    assert (body["status"], body["data"]["committed"], body["data"]["phase"]) == ("ok", 2, "done")
    assert "all 2 rounds are committed" in peer.log_tail(20)


def check_what_is_left(peers: list[LocalPeer]) -> None:
    """The ledgers hold, and the exported models are the same bytes with the mean that can be worked out by hand."""
    from safetensors.numpy import load_file

    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert [audit.state.committed.round for audit in audits] == [2, 2]
    assert len({audit.state.committed.model for audit in audits}) == 1
    models = [peer.site.models / "round-0002.safetensors" for peer in peers]
    assert models[0].read_bytes() == models[1].read_bytes()
    check_logs_join(peers)
    # Each round goes half the way from the common model to the mean, 7: from 3 to 5, then to 6.
    assert load_file(models[0])["at"].tolist() == pytest.approx([6.0, 6.0], abs=1e-4)


def check_logs_join(peers: list[LocalPeer]) -> None:
    """Every line of a round names it alike at both sites, and says when its training began."""
    logs = [[json.loads(line) for line in (p.site.folder / "run/log.jsonl").read_text().splitlines()] for p in peers]
    named = [{(line["round"], line["trace_id"]) for line in log if line.get("round")} for log in logs]
    assert named[0] == named[1]
    assert len({trace for _, trace in named[0]}) == len(named[0]) >= 2
    for log in logs:
        spans = {line["event"]: line["span_id"] for line in log if line.get("round") == 2}
        assert spans["training"] == spans["trained"]
        assert len({spans[event] for event in ("trained", "round_closed", "mixed", "round_committed")}) == 4
        assert {line["event"] for line in log if "trace_id" not in line} >= {"link_up"}


def test_a_peer_that_ends_by_itself_leaves_its_last_words(tmp_path: Path) -> None:
    site = Site(tmp_path / "a")
    site.create(name="a", listen="", advertise="", task="task.py", data="data")
    peer = LocalPeer(site, SiteData("a", tmp_path, rows=1, positives=0, held_out=1))
    peer.start()
    assert peer.process is not None
    assert peer.process.wait(ENOUGH_S) == 2
    assert not peer.up
    assert peer.log_tail(2).splitlines() == [
        f"error: couldn't find {site.folder / 'charter.toml'} [SWARM-CHARTER-MISSING]",
        "hint: put the signed charter there; `swarm charter new` drafts one",
    ]
    assert peer.log_tail(1).startswith("hint: ")


def test_where_nobody_sits_its_last_words_are_a_line_of_json(tmp_path: Path) -> None:
    site = Site(tmp_path / "a")
    site.create(name="a", listen="", advertise="", task="task.py", data="data")
    ended = subprocess.run([*PROGRAM, "start", str(site.folder)], capture_output=True, text=True, check=False)
    [line] = [json.loads(line) for line in ended.stderr.splitlines()]
    assert (ended.returncode, ended.stdout) == (2, "")
    assert (line["node"], line["event"], line["level"], line["code"]) == ("a", "ended", "error", 2)
    assert line["text"] == f"couldn't find {site.folder / 'charter.toml'}"
    assert line["hint"].startswith("put the signed charter there")


def test_a_peer_that_does_not_stop_when_asked_is_stopped_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("node.local.STOP_S", 0.2)
    deaf = subprocess.Popen(
        [sys.executable, "-c", "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(); input()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert deaf.stdin is not None
    assert deaf.stdout is not None
    with deaf.stdin, deaf.stdout:
        deaf.stdout.readline()
        peer = LocalPeer(Site(tmp_path), SiteData("a", tmp_path, rows=1, positives=0, held_out=1), process=deaf)
        peer.stop()
    assert deaf.returncode == -signal.SIGKILL
