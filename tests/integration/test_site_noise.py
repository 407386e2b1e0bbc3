"""Real peers whose sums carry noise: their run ends with the last round that the budget pays, all with one model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.ledger.reading import verify_quietly
from node.local import found, stop_all
from swarm.ledger.state import noise_words, outcome
from tests.integration.peers import lay_out, wait
from topologies.scenario import Learning, plain


@pytest.mark.real
@pytest.mark.timeout(300)
def test_real_peers_end_with_one_model_after_the_rounds_that_are_paid(tmp_path: Path, forkserver: Path) -> None:
    learning = Learning(model="mlp:16", partition="iid", rounds=5, local_epochs=1, mixing="exact")
    sites, task = lay_out(tmp_path, replace(plain(3), learning=learning))
    peers = found(
        tmp_path,
        sites,
        task,
        rounds=5,
        metrics=("accuracy", "loss"),
        seed=1,
        patience_s=60.0,
        deadline_s=120.0,
        min_contributions=3,
        forkserver=forkserver,
        masks="pairwise",
        site_noise="0.04:1000:1e-5",
    )
    try:
        for peer in peers:
            peer.start()
        wait(peers, lambda: all(peer.done for peer in peers))
    finally:
        stop_all(peers)
    told = "\n".join(peer.log_tail(200) for peer in peers)
    states = [verify_quietly(peer.site.folder).state for peer in peers]
    assert len({state.committed.model for state in states}) == 1, told
    noise = states[0].signed.charter.site_noise
    assert noise is not None
    assert {state.committed.round for state in states} == {noise.sums}, told
    assert noise.sums == 2
    assert f"stopped after round {noise.sums}: another one would cost more" in outcome(states[0])
    assert f"by {noise.sums} of {noise.sums} sums" in noise_words(states[0])
    assert states[0].committed.model != states[0].signed.charter.task.initial_model
    for peer in peers:
        assert not peer.site.masks_path.exists(), "the root that noise follows from is gone with the round"
