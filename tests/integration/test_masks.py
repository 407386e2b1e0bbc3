"""Real peers that mask what they offer; one is killed between its offer and what it reveals, and is back in time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.ledger.reading import verify_quietly
from node.local import LocalPeer, found, stop_all
from swarm.errors import Reject
from swarm.masked_round import read_kept
from tests.integration.peers import lay_out, wait
from topologies.scenario import Learning, plain

ROUNDS = 6
"""Each is a chance to kill a site between its offer and the close, some hundredths of a second apart."""


def offered(peer: LocalPeer) -> bool:
    """Whether a site's record says that it has offered, and no more than that."""
    try:
        attempt, _, _ = read_kept(peer.site.load_masks())
    except Reject:
        return False
    return attempt is not None and attempt.offered is not None and not attempt.closed


@pytest.mark.real
@pytest.mark.timeout(300)
def test_real_peers_end_with_the_sum_of_what_none_of_them_has_seen(tmp_path: Path, forkserver: Path) -> None:
    learning = Learning(model="mlp:16", partition="iid", rounds=ROUNDS, local_epochs=1, mixing="exact")
    sites, task = lay_out(tmp_path, replace(plain(4), learning=learning))
    peers = found(
        tmp_path,
        sites,
        task,
        rounds=ROUNDS,
        metrics=("accuracy", "loss"),
        seed=1,
        patience_s=60.0,
        deadline_s=120.0,
        min_contributions=3,
        forkserver=forkserver,
        masks="pairwise",
    )
    assert peers[0].site.load_masks() == b""
    killed = False
    modes = set()

    def look() -> bool:
        nonlocal killed
        if not killed and offered(peers[1]):
            modes.add(peers[1].site.masks_path.stat().st_mode & 0o777)
            peers[1].kill()
            killed = offered(peers[1])  # or it has revealed something meanwhile: the next round is another chance
            peers[1].start()
        return all(peer.done for peer in peers)

    try:
        for peer in peers:
            peer.start()
        wait(peers, look, every_s=0.005)
    finally:
        stop_all(peers)
    told = "\n".join(peer.log_tail(200) for peer in peers)
    assert killed, told
    assert modes == {0o600}
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert len({audit.state.committed.model for audit in audits}) == 1
    closes = [view.closed.body for view in audits[0].rounds.values() if view.closed]
    assert [(len(body.included), body.attempt) for body in closes] == [(4, 1)] * ROUNDS, told
    for peer in peers:
        assert not peer.site.masks_path.exists(), "the secrets are gone with the round"
        assert [*(peer.site.blobs / "aside").iterdir()] == [], "and so is what was trained"
    scores = [view.evaluations for view in audits[0].rounds.values()]
    first, last = (
        sum(dict(one.metrics)[0] for one in found.values()) / len(found) for found in (scores[1], scores[-1])
    )
    assert last > first, "accuracy, in millionths: it learns"
