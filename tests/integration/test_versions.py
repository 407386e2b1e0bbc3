"""Real processes that do not fit together: one of the previous version takes part, one with a stale charter waits.

The stale one is a row of the table of failures: such a site elsewhere looped for three weeks, healthy to every check.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all
from node.storage import write_file_durably
from swarm import charter as terms
from swarm.charter import SignedCharter
from tests import previous
from tests.integration.peers import swarm

TASK = Path(__file__).parents[2] / "node" / "examples" / "breast_cancer.py"
ROUNDS = 4
WITHIN_S = 150.0


def wait(condition: Callable[[], bool], peers: list[LocalPeer]) -> None:
    end = time.monotonic() + WITHIN_S
    while not condition():
        assert time.monotonic() < end, "\n".join(f"{peer.name}:\n{peer.log_tail(12)}" for peer in peers)
        time.sleep(0.3)
        for peer in peers:
            peer.poll()


def stale(peer: LocalPeer, right: SignedCharter, everybody: list[LocalPeer]) -> None:
    """Put into a peer's folder an older draft of the charter, which all have signed as well."""
    draft = msgspec.structs.replace(right.charter, created_ms=right.charter.created_ms - 86_400_000)
    signed = SignedCharter(draft, {})
    for one in everybody:
        signed = signed.sign(one.site.load_identity())
    signed.check()
    write_file_durably(peer.site.folder / "charter.toml", terms.to_toml(signed).encode(), mode=0o644)


@pytest.mark.long
@pytest.mark.real
@pytest.mark.timeout(600)
def test_the_previous_version_takes_part_and_a_stale_charter_waits_until_it_is_mended(
    tmp_path_factory: pytest.TempPathFactory, forkserver: Path
) -> None:
    tmp_path = tmp_path_factory.mktemp("v")  # A short name: sockets' paths may have about a hundred characters.
    data = write_breast_cancer(tmp_path / "data", 7)[:4]
    peers = found(tmp_path / "sites", data, TASK, rounds=ROUNDS, metrics=("accuracy",), seed=7, forkserver=forkserver)
    *fine, odd = peers
    old = fine[1]
    path = odd.site.folder / "charter.toml"
    text, right = path.read_bytes(), odd.site.load_charter()
    stale(odd, right, peers)
    try:
        for peer in fine:
            previous.start(peer) if peer is old else peer.start()
        odd.start()
        wait(lambda: bool(odd.status.get("refused")) and fine[0].committed >= 2, peers)
        # The stale one says so first, in words, and nothing asks it and hears that it is well.
        told = swarm("status", odd.site.folder)
        assert told.returncode == 6
        assert f"REFUSED    this site does not fit together with {fine[0].name}" in told.stdout
        assert f"has another charter ({right.ledger_id.hex()[:12]}) than this node (" in told.stdout
        examined = swarm("doctor", odd.site.folder, "--no-task", "--json")
        assert examined.returncode == 1
        failed = [one for one in json.loads(examined.stdout)["data"]["findings"] if one["level"] == "FAIL"]
        assert {(one["check"], one["id"]) for one in failed} == {("link", "SWARM-HELLO-CHARTER")}
        # Its neighbours say so too, those of either version, and go on without it.
        for peer in fine:
            told = swarm("status", peer.site.folder)
            assert "[SWARM-HELLO-CHARTER]" in told.stdout
            assert told.returncode == 0
        log = (odd.site.folder / "log.txt").read_text()
        assert log.count("cannot take part") == len(fine), "told once of each, not once a second"
        assert odd.up
        # Mended: the right charter in its folder, and a start. Nobody else does anything.
        odd.stop()
        path.write_bytes(text)
        odd.start()
        wait(lambda: all(peer.done for peer in peers), peers)
        assert swarm("status", odd.site.folder).returncode == 0
        assert all(peer.status["refused"] == "" for peer in peers)
        member = next(one for one in fine[0].status["members"] if one["name"] == old.name)  # type: ignore[attr-defined]
        assert member["protocol"] == "1.0"
        log = (old.site.folder / "log.txt").read_text()
        assert "something unacceptable" not in log, "nobody said anything to it that 1.0 did not know"
    finally:
        stop_all(peers)
    for peer in peers:
        verified = swarm("ledger", "verify", peer.site.folder)
        assert verified.returncode == 0, verified.stdout + verified.stderr
