"""A real swarm whose operators do what operators do: pause a site, restart it, lose one and restore an old backup."""

from __future__ import annotations

import json
import os
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from node.cli.ledger.reading import verify_quietly
from node.cli.main import cli
from node.clock import Clock, sleep
from node.local import LocalPeer, found, stop_all
from tests.node.test_local import TASK, hospitals

ROUNDS = 8

ENOUGH_S = 150.0
"""For any step of the story; a round takes half a second, noticing that one is gone a quarter of a minute."""


GATE = """\
    import time
    while int((run.gate).read_text()) < run.round:
        time.sleep(0.05)
    loss.backward()"""
"""Training ends only in rounds up to the one that the story has come to, so that no step of it comes too late."""


@pytest.fixture
def peers(tmp_path: Path, forkserver: Path) -> Iterator[list[LocalPeer]]:
    open_up_to(tmp_path, 2)
    task = tmp_path / "point.py"
    gate = GATE.replace("(run.gate)", f"__import__('pathlib').Path({str(tmp_path / 'gate')!r})")
    task.write_text(TASK.replace("    loss.backward()", gate))
    data = hospitals(tmp_path, a=11, b=3, c=5, d=1)
    made = found(tmp_path, data, task, rounds=ROUNDS, metrics=("loss",), seed=7, patience_s=60.0, forkserver=forkserver)
    yield made
    stop_all(made)


def open_up_to(folder: Path, round_: int) -> None:
    (folder / "new-gate").write_text(str(round_))
    (folder / "new-gate").rename(folder / "gate")


def swarm(*arguments: object) -> dict[str, object]:
    ran = CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, [*(str(one) for one in arguments), "--json"])
    assert ran.exit_code == 0, (ran.output, ran.exception)
    data: dict[str, object] = json.loads(ran.stdout)["data"]
    return data


def until(condition: Callable[[], bool], peers: list[LocalPeer]) -> None:
    """Ask the peers for their status until a condition holds."""
    clock = Clock()
    begun = clock.now()
    while not condition():
        where = [(peer.name, peer.up, peer.committed, peer.status.get("phase"), peer.log_tail()) for peer in peers]
        assert clock.now() - begun < ENOUGH_S, where
        sleep(0.1)
        for peer in peers:
            peer.poll()


def phase(peer: LocalPeer, of: LocalPeer) -> object:
    rows = peer.status.get("members", [])
    assert isinstance(rows, list)
    return next((row["phase"] for row in rows if row["name"] == of.name), None)


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_pause_a_restart_and_an_old_backup_cost_the_run_nothing(peers: list[LocalPeer], tmp_path: Path) -> None:
    a, b, c, d = peers
    secret = tmp_path / "passphrase"
    secret.touch(mode=0o600)
    secret.write_text("correct horse battery staple\n")
    # It is said before its first start too, and holds from then on.
    assert swarm("pause", d.site.folder) == {
        "folder": str(d.site.folder), "paused": True, "changed": True, "running": False
    }  # fmt: skip
    for peer in peers:
        peer.start("run.log_level=debug")
    until(lambda: a.committed >= 2, peers)
    # Patience is a minute: had the others waited for it, they would still be in the first round.
    until(lambda: phase(a, d) == "paused", peers)  # A neighbour is told with the next heartbeat.
    kept = swarm("backup", "create", a.site.folder, "-o", tmp_path / "a.backup", "--passphrase-file", secret)
    assert swarm("backup", "verify", tmp_path / "a.backup", "--passphrase-file", secret)["valid"]
    assert not swarm("pause", d.site.folder)["changed"]
    d.kill()
    d.start()
    until(lambda: d.status.get("phase") == "paused", peers)
    assert str(d.status["resting"]).startswith("it was paused by its people")
    assert kept["round"] == 2
    open_up_to(tmp_path, 5)
    until(lambda: a.committed == 5, peers)
    # The machine of a is lost with all that it has said since; its people have the backup.
    a.kill()
    a.site.folder.rename(tmp_path / "lost")
    swarm("backup", "restore", tmp_path / "a.backup", a.site.folder, "--passphrase-file", secret)
    a.start()
    assert swarm("resume", d.site.folder)["changed"]
    until(lambda: a.committed == 5 and d.status.get("phase") == "training", peers)
    open_up_to(tmp_path, ROUNDS)
    until(lambda: all(peer.done for peer in peers), peers)
    assert not a.site.restored_path.exists()
    stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert all(audit.state.complete and not audit.state.accused for audit in audits)
    assert len({audit.state.committed.model for audit in audits}) == 1
    rounds = audits[0].rounds
    missing = {n: view.closed.body.missing for n, view in rounds.items() if view.closed}
    assert all(d.site.node() in missing[n] for n in range(1, 6))
    assert d.site.node() not in missing[ROUNDS], "once resumed it takes part"
    assert a.site.node() not in missing[ROUNDS], "and so does the one that was restored"
    log = (b.site.run / "log.jsonl").read_text().splitlines()
    events = {json.loads(line)["event"] for line in log}
    assert {"started", "link_up", "round_committed", "done"} <= events
    assert not c.up


@pytest.mark.real
@pytest.mark.timeout(300)
def test_the_service_manager_hears_that_the_loop_turns_until_it_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = tmp_path / "point.py"
    task.write_text(TASK)
    (peer,) = found(tmp_path, hospitals(tmp_path, a=11), task, rounds=1, metrics=("loss",), seed=7)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(ENOUGH_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "6000000")
        peer.start()
        try:
            first = manager.recv(4096).decode().split("\n")
            assert first[0] == "READY=1"
            assert first[1].endswith("rounds committed, block 0")
            assert first[2] == "WATCHDOG=1"
            while b"1 of 1 rounds committed" not in manager.recv(4096):
                pass
            assert peer.process is not None
            peer.process.send_signal(signal.SIGSTOP)
            os.waitpid(peer.process.pid, os.WUNTRACED)
            manager.settimeout(0.0)
            with pytest.raises(BlockingIOError):
                while True:
                    manager.recv(4096)
            manager.settimeout(6.0)  # what the manager allows
            with pytest.raises(TimeoutError):
                manager.recv(4096)
            peer.process.send_signal(signal.SIGCONT)
            manager.settimeout(ENOUGH_S)
            assert b"WATCHDOG=1" in manager.recv(4096)
            peer.process.send_signal(signal.SIGTERM)
            while manager.recv(4096) != b"STOPPING=1":
                pass
            assert peer.process.wait() == 0
        finally:
            stop_all([peer])


BALLAST_MB = 24


@pytest.fixture
def small_disk(tmp_path: Path, mount: Callable[..., Path]) -> Path:
    """The folder of site c, a file system of its own with room for its ledger, its ballast, and twice that."""
    return mount(tmp_path / "c", "128m", busy=True)


@pytest.mark.real
@pytest.mark.timeout(300)
def test_a_full_disk_stops_training_first_and_the_ledger_last(
    tmp_path: Path, small_disk: Path, forkserver: Path
) -> None:
    task = tmp_path / "point.py"
    task.write_text(TASK.replace("    loss.backward()", "    import time\n    time.sleep(0.3)\n    loss.backward()"))
    data = hospitals(tmp_path, a=11, b=3, c=5)
    peers = found(
        tmp_path, data, task, rounds=10_000, metrics=("loss",), seed=7, patience_s=60.0, forkserver=forkserver
    )
    c = peers[2]
    try:
        for peer in peers:
            peer.start("storage.ballast_mb=" + str(BALLAST_MB if peer is c else 0), "storage.keep_models=2")
        until(lambda: c.committed >= 2, peers)
        filler = small_disk / "filler"
        with filler.open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(small_disk).f_bavail * 4096 - (4 << 20))
        until(lambda: bool(c.status.get("resting")), peers)
        assert str(c.status["resting"]).startswith("its disk is full")
        assert (small_disk / "ledger" / "ballast").stat().st_size == BALLAST_MB << 20
        with (small_disk / "rest").open("wb") as file:
            os.posix_fallocate(file.fileno(), 0, os.statvfs(small_disk).f_bavail * 4096)
        assert os.statvfs(small_disk).f_bavail == 0
        height = int(str(c.status["height"]))
        until(lambda: int(str(c.status.get("height", 0))) >= height + 20, peers)
        assert phase(peers[0], c) == "paused"
        filler.unlink()
        (small_disk / "rest").unlink()
        until(lambda: not c.status.get("resting"), peers)
        rounds = c.committed
        until(lambda: c.committed >= rounds + 3, peers)
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert not any(audit.state.accused for audit in audits)
    views = audits[0].rounds
    by_c = [n for n, view in views.items() if view.closed and c.site.node() not in view.closed.body.missing]
    assert max(by_c) > rounds, "it takes part again"
    assert len(by_c) < len(views), "and was missing meanwhile"
    kept = sorted(path.name for path in (peers[0].site.models / "checkpoints").glob("*.safetensors"))
    assert len(kept) == 2
