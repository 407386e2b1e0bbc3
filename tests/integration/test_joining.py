"""Real processes: a site joins a running swarm with an invitation, one takes new keys, one leaves."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import node.examples
from node.cli.control import ask
from node.data import write_breast_cancer
from node.local import LocalPeer, found, free_ports, stop_all
from node.site import Site
from tests.integration.peers import swarm

pytestmark = pytest.mark.real

ROUNDS = 3000
WAIT_S = 90.0
TASK = Path(node.examples.__file__).parent / "breast_cancer.py"


@dataclass(slots=True)
class Yard:
    """Four founders at work, and the data of a fifth site."""

    peers: list[LocalPeer]
    newcomer: LocalPeer
    folder: Path

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            for peer in (*self.peers, self.newcomer):
                peer.poll()
                assert peer.process is None or peer.process.poll() in (None, 0, 1), peer.log_tail(20)
            assert time.monotonic() < end, f"waited too long for {what}\n{self.peers[0].log_tail(30)}"
            time.sleep(0.1)

    def member_names(self, peer: LocalPeer) -> list[str]:
        rows = peer.status.get("members", [])
        assert isinstance(rows, list)
        return [row["name"] for row in rows if row["member"]]


@pytest.fixture(scope="module")
def yard(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Iterator[Yard]:
    folder = tmp_path_factory.mktemp("joining")
    data = write_breast_cancer(folder / "data", 7)
    peers = found(folder, data[:4], TASK, rounds=ROUNDS, metrics=("accuracy",), seed=7, forkserver=forkserver)
    place = Yard(peers, LocalPeer(Site(folder / "newcomer"), data[4], forkserver), folder)
    try:
        for peer in peers:
            peer.start()
        place.until("the second round", lambda: all(peer.committed >= 2 for peer in peers))
        yield place
    finally:
        stop_all([*peers, place.newcomer])


def good(*words: str) -> str:
    ran = swarm(*words)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_site_joins_with_an_invitation_and_takes_part(yard: Yard) -> None:
    host, newcomer = yard.peers[0], yard.newcomer
    ticket = yard.folder / "newcomer.invite"
    good("invite", "newcomer", "--folder", str(host.site.folder), "-o", str(ticket))
    newcomer.site.folder.mkdir()
    (newcomer.site.folder / "task.py").write_bytes(TASK.read_bytes())
    endpoint = f"tcp://127.0.0.1:{free_ports(1)[0]}"
    words = ["join", str(ticket), str(newcomer.site.folder), "--advertise", endpoint, "--listen", endpoint]
    words += ["--data", str(newcomer.data.folder), "--wait", "60", "--json"]
    with subprocess.Popen(
        [sys.executable, "-m", "node.cli.main", *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as joining:
        yard.until(
            "the proposal", lambda: bool(host.status.get("motions")) and bool(yard.peers[2].status.get("motions"))
        )
        (motion,) = host.status["motions"]  # type: ignore[misc]
        assert motion["text"] == "newcomer joins"
        assert motion["invited"]
        for peer in yard.peers[1:3]:
            good("vote", motion["id"][:8], "yes", "--folder", str(peer.site.folder))
        out, err = joining.communicate(timeout=WAIT_S)
    assert joining.returncode == 0, err
    assert json.loads(out)["data"]["name"] == "newcomer"
    # What it has not heard of the swarm yet its doctor does not know; whether it gets there it does.
    seen = json.loads(swarm("doctor", str(newcomer.site.folder), "--no-task", "--json").stdout)["data"]
    told = {one["check"]: one for one in seen["findings"] if one["subject"] == host.name}
    assert {check: told[check]["level"] for check in ("dns", "tcp", "link")} == {
        "dns": "PASS",
        "tcp": "PASS",
        "link": "PASS",
    }, told
    assert told["link"]["text"].startswith("it knows our key, holds its own, and has our terms")
    newcomer.start()
    begun = host.committed
    yard.until("the newcomer to take part", lambda: newcomer.committed > begun + 3)
    yard.until("all to know it", lambda: all("newcomer" in yard.member_names(peer) for peer in yard.peers))

    def all_are_in() -> bool:
        rounds = json.loads(good("ledger", "rounds", str(host.site.folder), "--json"))["data"]["rounds"]
        return bool([row["sites"] for row in rounds if row["committed_ms"]][-1] == 5)

    yard.until("a round with all five", all_are_in)  # Under load the newest may have closed without one.


def test_a_transport_key_is_replaced_without_anybodys_attention(yard: Yard) -> None:
    peer = yard.peers[1]
    before = peer.site.load_identity()
    good("rotate", str(peer.site.folder))
    yard.until("the new key", lambda: peer.site.load_identity().curve_public != before.curve_public)
    assert peer.site.load_identity().node == before.node
    begun = max(p.committed for p in yard.peers)
    yard.until("rounds with all five", lambda: linked(peer) == 4 and peer.committed > begun + 3)


def test_every_key_of_a_site_is_replaced_and_it_comes_back_with_them_after_a_kill(yard: Yard) -> None:
    peer = yard.peers[2]
    node = peer.site.node()
    good("rotate", str(peer.site.folder), "--identity")
    others = [*yard.peers[:2], yard.peers[3]]
    yard.until("the proposal", lambda: all(p.status.get("motions") for p in others))
    (motion,) = others[0].status["motions"]  # type: ignore[misc]
    for other in others:
        swarm("vote", motion["id"][:8], "yes", "--folder", str(other.site.folder))
    yard.until("the new identity", lambda: not (peer.site.next_keys / "curve.seed").exists())
    assert peer.site.load_identity().node != node
    assert peer.site.node() == node
    peer.kill()
    peer.start()
    begun = max(p.committed for p in yard.peers)
    yard.until("its rounds", lambda: peer.committed > begun + 3 and linked(peer) == 4)


def test_a_site_leaves_and_its_process_ends_with_a_sentence(yard: Yard) -> None:
    peer = yard.newcomer
    good("leave", str(peer.site.folder))
    yard.until("its going", lambda: all("newcomer" not in yard.member_names(p) for p in yard.peers))
    begun = max(p.committed for p in yard.peers)
    yard.until("rounds of four", lambda: min(p.committed for p in yard.peers) > begun + 3)
    assert peer.process is not None
    assert peer.process.wait(WAIT_S) == 0
    assert "not a member since epoch" in (peer.site.folder / "log.txt").read_text()
    for one in yard.peers:
        ran = swarm("ledger", "verify", str(one.site.folder))
        assert ran.returncode == 0, ran.stdout + ran.stderr


def linked(peer: LocalPeer) -> int:
    rows: Sequence[dict[str, object]] = ask(peer.site.control)["members"]  # type: ignore[assignment]
    return sum(bool(row["linked"]) for row in rows if not row["me"])
