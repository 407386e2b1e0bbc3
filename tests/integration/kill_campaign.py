"""Kill peers of a real swarm, again and again, at random moments, and see that nothing is lost.

As a program: `python -m tests.integration.kill_campaign --kills 50`. Five peers as processes; any one of them is
killed with SIGKILL at a random moment and started again a random moment later, until so many kills have been made. Then
the run must complete, every ledger verify, and all five hold the same bytes.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

import node.examples
from node.cli.ledger.reading import verify_quietly
from node.data import write_breast_cancer
from node.local import LocalPeer, fork_server, found, stop_all

ROUNDS_PER_KILL = 8
"""Rounds a run gets for each kill, so that kills hit every phase of a round and recovery from one overlaps the next."""

SETTLE_S = 180.0
"""After the last kill the swarm must be done within this."""


def run(folder: Path, *, kills: int, seed: int, rounds: int = 0, say: bool = True) -> str:
    """Run one campaign. Returns a summary; raises AssertionError when something was lost."""
    with fork_server() as server:
        return _run(folder, server, kills, seed, rounds or max(12, ROUNDS_PER_KILL * kills), say)


def _run(folder: Path, server: Path, kills: int, seed: int, rounds: int, say: bool) -> str:
    rng = random.Random(seed)
    task = Path(node.examples.__file__).parent / "breast_cancer.py"
    data = write_breast_cancer(folder / "data", seed)
    terms = {"metrics": ("accuracy",), "patience_s": 12.0, "forkserver": server}
    peers = found(folder, data, task, rounds=rounds, seed=seed, **terms)  # type: ignore[arg-type]
    begun = time.monotonic()
    made = 0
    try:
        for peer in peers:
            peer.start()
        while made < kills:
            victim = peers[rng.randrange(len(peers))]
            time.sleep(rng.uniform(0.0, 2.0))
            victim.poll()
            phase = victim.status.get("phase", "starting")
            assert not all(peer.done for peer in peers), "the run was over before the last kill: give it more rounds"
            victim.kill()
            made += 1
            time.sleep(rng.choice((0.0, rng.uniform(0.0, 4.0))))
            victim.start()
            if say:
                print(f"{time.monotonic() - begun:6.1f} s  kill {made:>3}: {victim.name}, {phase}", flush=True)
        committed = _settle(peers)
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    models = {audit.state.committed.model for audit in audits}
    assert all(audit.state.complete for audit in audits), "a ledger does not hold every round"
    assert len(models) == 1, "the peers hold different models"
    files = {(peer.site.models / f"round-{rounds:04d}.safetensors").read_bytes() for peer in peers}
    assert len(files) == 1, "the exported models differ"
    gaps = sum(len(view.closed.body.missing) for view in audits[0].rounds.values() if view.closed)
    spent = time.monotonic() - begun
    return (
        f"{made} kills, {committed} rounds, {audits[0].entries} entries in {spent:.0f} s: every run completed, "
        f"{len(audits)} ledgers verify, all models equal, {gaps} absences on record"
    )


def _settle(peers: list[LocalPeer]) -> int:
    deadline = time.monotonic() + SETTLE_S
    while time.monotonic() < deadline:
        for peer in peers:
            peer.poll()
            assert peer.up, f"{peer.name} ended by itself:\n{peer.log_tail(20)}"
        if all(peer.done for peer in peers):
            return peers[0].committed
        time.sleep(0.3)
    where = ", ".join(f"{peer.name}: round {peer.committed}, {peer.status.get('phase')}" for peer in peers)
    raise AssertionError(f"not done {SETTLE_S:.0f} s after the last kill: {where}")


def main() -> int:
    """Run a campaign from the command line."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--kills", type=int, default=50)
    options.add_argument("--seed", type=int, default=1)
    options.add_argument("--rounds", type=int, default=0)
    options.add_argument("--folder", type=Path)
    chosen = options.parse_args()
    folder = chosen.folder or Path(tempfile.mkdtemp(prefix="swarm-kill-"))
    print(run(folder, kills=chosen.kills, seed=chosen.seed, rounds=chosen.rounds))
    return 0


if __name__ == "__main__":
    sys.exit(main())
