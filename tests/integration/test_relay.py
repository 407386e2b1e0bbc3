"""Real processes: two sites that only dial out learn with two that listen, through those, and survive one of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

import node.examples
from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all
from tests.integration.peers import swarm as command

pytestmark = pytest.mark.real

ROUNDS = 3000
WAIT_S = 90.0
TASK = Path(node.examples.__file__).parent / "breast_cancer.py"


class Swarm:
    """Four sites, of which the last two only dial out."""

    def __init__(self, peers: list[LocalPeer]) -> None:
        self.peers = peers

    def until(self, what: str, condition: Callable[[], bool]) -> None:
        end = time.monotonic() + WAIT_S
        while not condition():
            for peer in self.peers:
                peer.poll()
            assert time.monotonic() < end, f"waited too long for {what}\n" + "\n\n".join(
                peer.log_tail(12) for peer in self.peers
            )
            time.sleep(0.1)

    def row(self, peer: LocalPeer, other: LocalPeer) -> Mapping[str, object]:
        rows = peer.status.get("members", [])
        assert isinstance(rows, list)
        return next((row for row in rows if row["name"] == other.name), {})

    def via(self) -> set[object]:
        """Return through whom each of the last two sees the other; "" while there is no link."""
        a, b = self.peers[2:]
        rows = self.row(a, b), self.row(b, a)
        return {row.get("via", "") if row.get("linked") else "" for row in rows}

    def linked_through(self, *relays: LocalPeer) -> bool:
        return len(self.via()) == 1 and self.via() <= {relay.name for relay in relays}

    def sites_in_last_round(self) -> int:
        """Return how many sites the last committed round has in it."""
        folder = str(self.peers[2].site.folder)
        ran = command("ledger", "rounds", folder, "--json")
        assert ran.returncode == 0, ran.stderr
        rows = [row for row in json.loads(ran.stdout)["data"]["rounds"] if row["committed_ms"]]
        return int(rows[-1]["sites"]) if rows else 0


@pytest.fixture(scope="module")
def swarm(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Iterator[Swarm]:
    folder = tmp_path_factory.mktemp("relay")
    data = write_breast_cancer(folder / "data", 7)[:4]
    names = [part.name for part in data]
    peers = found(
        folder,
        data,
        TASK,
        rounds=ROUNDS,
        metrics=("accuracy",),
        seed=7,
        forkserver=forkserver,
        hidden=names[2:],
        relay=True,
        route="sharded",
    )
    try:
        for peer in peers:
            peer.start()
        yield Swarm(peers)
    finally:
        stop_all(peers)


def test_sites_that_only_dial_out_learn_together_through_a_relay(swarm: Swarm) -> None:
    assert [bool(peer.site.load_settings().site.listen) for peer in swarm.peers] == [True, True, False, False]
    swarm.until("rounds", lambda: all(peer.committed >= 3 for peer in swarm.peers))
    swarm.until("a link through a relay", lambda: swarm.linked_through(*swarm.peers[:2]))
    swarm.until("a round with all four", lambda: swarm.sites_in_last_round() == 4)
    log = (swarm.peers[2].site.folder / "log.txt").read_text()
    assert "which cannot read along" in log
    assert "will not" not in log


def test_when_the_relay_is_killed_the_other_one_takes_over_and_rounds_go_on(swarm: Swarm) -> None:
    (name,) = swarm.via()
    used = next(peer for peer in swarm.peers if peer.name == name)
    other = next(peer for peer in swarm.peers[:2] if peer is not used)
    used.kill()
    swarm.until("the other relay", lambda: swarm.linked_through(other))
    begun = max(peer.committed for peer in swarm.peers)
    rest = [peer for peer in swarm.peers if peer is not used]
    swarm.until("rounds without it", lambda: all(peer.committed > begun + 2 for peer in rest))
    used.start()
    swarm.until("it to be back", lambda: swarm.sites_in_last_round() == 4 and used.committed > begun)


def test_a_site_that_only_dials_out_comes_back_after_a_kill(swarm: Swarm) -> None:
    peer = swarm.peers[3]
    peer.kill()
    peer.start()
    swarm.until("its link", lambda: swarm.linked_through(*swarm.peers[:2]))
    begun = max(p.committed for p in swarm.peers)
    swarm.until("its rounds", lambda: peer.committed > begun + 2)


def test_a_new_transport_key_is_taken_through_the_relay_as_well(swarm: Swarm) -> None:
    peer = swarm.peers[3]
    before = peer.site.load_identity().curve_public
    ran = command("rotate", str(peer.site.folder))
    assert ran.returncode == 0, ran.stderr
    swarm.until("the new key", lambda: peer.site.load_identity().curve_public != before)
    swarm.until("its link", lambda: swarm.linked_through(*swarm.peers[:2]))
    begun = max(p.committed for p in swarm.peers)
    swarm.until("rounds", lambda: peer.committed > begun + 2 and swarm.linked_through(*swarm.peers[:2]))
