"""Real processes: how `swarm start --exit-when-done` ends, by what became of the run."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner
from safetensors import safe_open

import node.examples
from node.cli.main import cli
from node.cli.output import PAUSED, SUBSET
from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all

pytestmark = [pytest.mark.real, pytest.mark.timeout(300)]

WAIT_S = 120.0
TASK = Path(node.examples.__file__).parent / "breast_cancer.py"
TO_THE_END = ("run.exit_when_done=true", "run.linger_s=30")


def founders(folder: Path, forkserver: Path, rounds: int) -> list[LocalPeer]:
    data = write_breast_cancer(folder / "data", 7)[:4]
    return found(
        folder, data, TASK, rounds=rounds, metrics=("accuracy",), seed=7, patience_s=4.0, forkserver=forkserver
    )


def until(what: str, peers: list[LocalPeer], condition: Callable[[], bool]) -> None:
    end = time.monotonic() + WAIT_S
    while not condition():
        for peer in peers:
            peer.poll()
        assert time.monotonic() < end, f"waited too long for {what}\n{peers[0].log_tail(30)}"
        time.sleep(0.1)


def code(peer: LocalPeer) -> int:
    assert peer.process is not None
    return peer.process.wait(WAIT_S)


def test_a_run_of_a_subset_says_so_in_exit_code_log_model_and_status_and_one_of_all_ends_with_0(
    tmp_path_factory: pytest.TempPathFactory, forkserver: Path
) -> None:
    peers = founders(tmp_path_factory.mktemp("some"), forkserver, rounds=4)
    name = peers[3].name
    try:
        for peer in peers[:3]:
            peer.start(*TO_THE_END)
        until("the first answer", peers[:3], lambda: bool(peers[0].status))
        _attacked_while_it_runs(peers[0])
        until("the end without one", peers[:3], lambda: all(peer.done for peer in peers[:3]))
        assert peers[0].status["outcome"] == "DONE"
        assert peers[0].status["gaps"] == {name: [1, 2, 3, 4]}
        peers[3].start(*TO_THE_END)  # It learns the result from the others, and that it is none of its own.
        assert [code(peer) for peer in peers] == [SUBSET] * 4
    finally:
        stop_all(peers)
    for peer in peers:
        log = peer.log_tail(4)
        assert f"the run is DONE by a subset of its sites: no work of {name} in rounds 1 to 4" in log
    files = {peer.site.models / "round-0004.safetensors" for peer in peers}
    assert len({file.read_bytes() for file in files}) == 1, "the same bytes everywhere"
    with safe_open(files.pop(), framework="numpy") as model:
        origin = json.loads(model.metadata()["origin"])
    assert origin["outcome"] == "DONE by a subset"
    assert origin["missing"] == f"{name} in rounds 1 to 4"
    assert name not in origin["sites"]

    peers = founders(tmp_path_factory.mktemp("all"), forkserver, rounds=2)
    try:
        for peer in peers:
            peer.start(*TO_THE_END)
        assert [code(peer) for peer in peers] == [0] * 4, peers[0].log_tail()
    finally:
        stop_all(peers)


def test_a_peer_that_is_stopped_below_quorum_ends_paused(
    tmp_path_factory: pytest.TempPathFactory, forkserver: Path
) -> None:
    peers = founders(tmp_path_factory.mktemp("below"), forkserver, rounds=3)
    try:
        peers[0].start(*TO_THE_END)
        until("the pause", peers[:1], lambda: peers[0].status.get("outcome") == "PAUSED")
        # Whoever asks is told at once; the log has it with the next heartbeat.
        until("the log", peers[:1], lambda: "the run is PAUSED" in peers[0].log_tail(20))
        peers[0].stop()
        assert code(peers[0]) == PAUSED
    finally:
        stop_all(peers)
    log = peers[0].log_tail(20)
    assert "warning: the run is PAUSED: 1 of 4 sites present, 3 needed. Nothing is lost" in log
    assert "stopped while the run was PAUSED: 1 of 4 sites present, 3 needed" in log


def _attacked_while_it_runs(peer: LocalPeer) -> None:
    """An update is in the store for a moment only: it is waited for, and held while the node lets go of it."""
    command = ["privacy", "audit", str(peer.site.folder), "--offered", "--inversion-steps", "2", "--json"]
    ran = CliRunner(env={"SWARM_TRUST": ""}).invoke(cli, command)
    assert ran.exit_code == 0, (ran.output, ran.exception)
    found = json.loads(ran.stdout)["data"]
    assert (found["kind"], 1 <= found["round"] <= 4) == ("offered", True)
    assert found["membership"]["members"] > 0 < found["membership"]["others"]
    assert [path.name for path in peer.site.audits_path.parent.iterdir()] == ["audits"], "nothing is left of it"
