"""Whom a site's processes call, by their system calls: the other sites at the addresses in the charter, and nobody else."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from node.local import PROGRAM, found, stop_all
from tests.integration import strace_campaign as campaign
from tests.integration.peers import wait
from tests.node.test_local import TASK, hospitals

pytestmark = [pytest.mark.long, pytest.mark.real, pytest.mark.timeout(300)]

CALL = re.compile(r"sin6?_port=htons\((\d+)\).*?(?:inet_addr\(\"|inet_pton\(AF_INET6, \")([^\"]+)\"")


@pytest.mark.skipif(bool(campaign.usable()), reason=campaign.usable())
def test_a_peer_and_its_trainer_call_the_members_and_nobody_else(tmp_path: Path) -> None:
    """From its start through two rounds to its end: no name server, no update, no telemetry."""
    task = tmp_path / "point.py"
    task.write_text(TASK)
    peers = found(tmp_path, hospitals(tmp_path, a=11, b=3), task, rounds=2, metrics=("loss",), seed=7, patience_s=60.0)
    for peer in peers:  # -D: it is the peer that is asked to stop, and not who watches it.
        watched = ("strace", "-D", "-f", "-qq", "-s", "0", "-e", "trace=connect,sendto,sendmsg")
        peer.program = (*watched, "-o", str(tmp_path / f"calls-{peer.name}"), *PROGRAM)
    charter = peers[0].site.load_charter().charter
    try:
        for peer in peers:
            peer.start()

        def done() -> bool:
            for peer in peers:
                peer.poll()
            return all(peer.done for peer in peers)

        wait(peers, done)
    finally:
        stop_all(peers)
    calls = [(tmp_path / f"calls-{peer.name}").read_text() for peer in peers]
    called = [f"tcp://{host}:{port}" for text in calls for port, host in CALL.findall(text)]
    assert len({*called}) == 1, "one of two dials the other"
    assert {*called} <= {card.endpoint for card in charter.members}
