"""Real peers that wait for nobody: one is slow and one is killed, and work of all of them is in the model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.cli.ledger.reading import verify_quietly
from node.local import found, stop_all
from tests.integration.peers import lay_out, wait
from topologies.scenario import Learning, plain

ROUNDS, SLOW = 24, "site-3"

SLOWNESS = """

import pathlib, time

_train, _begun = train, pathlib.Path("{begun}")


def _wait(enough):
    until = time.monotonic() + 60.0
    while not enough() and time.monotonic() < until:
        time.sleep(0.05)


def train(model, data, run):
    others = len(list(_begun.glob("other-*")))
    if run.site.name == "{slow}":
        first = not (_begun / "slow").exists()
        (_begun / "slow").touch()
        _wait(lambda: not first or len(list(_begun.glob("other-*"))) >= others + {more})
    else:
        (_begun / f"other-{{time.monotonic_ns()}}-{{run.site.name}}").touch()
        _wait((_begun / "slow").exists)
        time.sleep(0.2)
    return _train(model, data, run)
"""
"""The slow site's first model takes it as long as the others need to begin a dozen, and nobody goes on before it has
begun: who is slow is then no question of how busy the machine is."""

MORE = 12


@pytest.mark.real
@pytest.mark.timeout(300)
def test_rounds_go_on_without_a_slow_site_and_its_work_is_in_a_later_one(tmp_path: Path, forkserver: Path) -> None:
    learning = Learning(model="mlp:16", partition="iid", rounds=ROUNDS, local_epochs=1, mixing="exact")
    scenario = replace(plain(4), learning=learning)
    begun = tmp_path / "begun"
    begun.mkdir()
    sites, task = lay_out(tmp_path, scenario, more=SLOWNESS.format(begun=begun, slow=SLOW, more=MORE))
    assert sites[-1].name == SLOW
    peers = found(
        tmp_path,
        sites,
        task,
        rounds=ROUNDS,
        metrics=("accuracy", "loss"),
        seed=1,
        patience_s=120.0,
        deadline_s=240.0,
        min_contributions=1,
        forkserver=forkserver,
        asynchronous=True,
    )
    try:
        for peer in peers:
            peer.start()
        wait(peers, lambda: peers[0].committed >= 4)
        peers[1].kill()
        peers[1].start()
        wait(peers, lambda: all(peer.done for peer in peers))
    finally:
        stop_all(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    assert len({audit.state.committed.model for audit in audits}) == 1
    cards = audits[0].state.terms
    works = [
        (cards.index(placed.author), placed.body.round, number - placed.body.round)
        for number, view in audits[0].rounds.items()
        for placed in (view.closed.terms if view.closed else ())
    ]
    assert {author for author, _, _ in works} == {0, 1, 2, 3}, "work of all four is in the model"
    assert max(late for author, _, late in works if author == 3) > 1, "the slow site's was begun some models before"
    assert len({(author, begun) for author, begun, _ in works}) == len(works), "and nobody's counts twice"
