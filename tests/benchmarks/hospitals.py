"""The demo's five peers as real processes, timed by what they log."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from pathlib import Path

import node.examples
from node.data import write_breast_cancer
from node.local import LocalPeer, fork_server, found, stop_all

METRICS = ("accuracy", "auc", "loss")


@dataclass(frozen=True, slots=True)
class HospitalRun:
    """Seconds. Per round: the slowest site's training, and from its end to the last site holding the mean."""

    first_round_s: float
    training_s: list[float]
    overhead_s: list[float]


def run_hospitals(folder: Path, *, rounds: int, timeout_s: float = 120.0) -> HospitalRun:
    """Let five hospitals learn and return how long what took."""
    task = Path(node.examples.__file__).parent / "breast_cancer.py"
    with fork_server() as server:
        data = write_breast_cancer(folder / "data", 7)
        peers = found(folder, data, task, rounds=rounds, metrics=METRICS, seed=7, forkserver=server)
        begun, first = time.monotonic(), 0.0
        try:
            for peer in peers:
                peer.start("run.log=json")
            while not all(peer.done for peer in peers):
                for peer in peers:
                    peer.poll()
                    assert peer.up, peer.log_tail()
                if not first and any(peer.committed for peer in peers):
                    first = time.monotonic() - begun
                assert time.monotonic() - begun < timeout_s, "the peers do not finish"
                time.sleep(0.05)
        finally:
            stop_all(peers)
    trained, averaged = (_last(peers, event) for event in ("trained", "mixed"))
    # The first round also holds the start of the processes.
    numbers = range(2, rounds + 1)
    return HospitalRun(
        first,
        [trained[n] - averaged[n - 1] for n in numbers],
        [averaged[n] - trained[n] for n in numbers],
    )


def _last(peers: list[LocalPeer], event: str) -> dict[int, float]:
    """Return per round when the last site logged an event."""
    times: dict[int, float] = {}
    for peer in peers:
        for text in (peer.site.folder / "log.txt").read_text().splitlines():
            line = json.loads(text)
            if line["event"] == event:
                times[line["round"]] = max(times.get(line["round"], 0.0), line["time"])
    return times
