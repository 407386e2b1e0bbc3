"""Real peers that judge each other's work in their trainers, from compressed updates; one is killed on the way."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.ledger.reading import verify_quietly
from node.contributions import accounts
from node.local import found, stop_all
from tests.integration.peers import lay_out, wait
from topologies.scenario import Learning, plain

ROUNDS = 3

SLOWNESS = """

import time

_train = train


def train(model, data, run):
    time.sleep(3.0)
    return _train(model, data, run)
"""
"""Half of that is room for all sixteen models of four sites, whatever else the machine does."""


@pytest.mark.real
@pytest.mark.timeout(300)
def test_real_peers_score_each_other_and_end_with_shares(tmp_path: Path, forkserver: Path) -> None:
    learning = Learning(model="mlp:16", partition="iid", rounds=ROUNDS, local_epochs=1, mixing="exact")
    sites, task = lay_out(tmp_path, replace(plain(4), learning=learning), more=SLOWNESS)
    peers = found(
        tmp_path,
        sites,
        task,
        rounds=ROUNDS,
        metrics=("accuracy", "loss"),
        seed=1,
        patience_s=60.0,
        deadline_s=120.0,
        min_contributions=4,
        codec="int8",
        forkserver=forkserver,
        contribution="shapley:loss:lower:50",
        salt="32",
    )
    try:
        for peer in peers:
            peer.start()
        wait(peers, lambda: peers[0].committed >= 1)
        peers[1].kill()
        peers[1].start()
        wait(peers, lambda: all(peer.done for peer in peers))
        told = "\n".join(peer.log_tail(200) for peer in peers)
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    rounds = max((audit.scores.rounds for audit in audits), key=len)
    assert [*rounds] == [1, 2, 3], told
    assert len(rounds[1].scores) >= 3, f"whoever starts again may come too late, nobody else: {told}"
    assert sum(len(judged.scores) for judged in rounds.values()) >= 8, told
    assert "judging the contributions" not in told
    assert all(1 <= score.evaluations <= 16 for judged in rounds.values() for score in judged.scores.values())
    gained = accounts(audits[0])
    assert all(one.score is not None and one.score > 0 for one in gained), "all four have digits of the same kind"
    assert sum(one.share_ppm or 0 for one in gained) == 1_000_000
