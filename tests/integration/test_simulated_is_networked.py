"""The claim the simulator stands on: at protocol speed its final model is the networked swarm's, bit for bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from node.clock import Clock, sleep
from node.data import SiteData
from node.local import LocalPeer, found, stop_all
from node.simulation import protocol
from node.simulation.learner import TaskLearner
from swarm.vector import blob_digest, leaf_hashes
from tests.cases import shortened
from tests.integration.peers import ENOUGH_S, lay_out, wait
from topologies.scenario import Learning, Scenario, Terms, plain

SEED, PATIENCE_S, KILLS = 7, 120.0, 3


def networked(
    folder: Path,
    sites: list[SiteData],
    task: Path,
    scenario: Scenario,
    gossip: str,
    forkserver: Path,
    holds: Path | None = None,
) -> set[str]:
    """The digests of the final models of as many `swarm start` as there are sites, some of which are killed."""
    if holds is not None:
        holds.mkdir()
        for number in range(1, KILLS + 1):
            (holds / f"{sites[number % len(sites)].name}-{number + 1}").touch()
    peers = found(
        folder,
        sites,
        task,
        rounds=scenario.learning.rounds,
        metrics=("accuracy", "loss"),
        seed=SEED,
        patience_s=PATIENCE_S,
        deadline_s=2 * PATIENCE_S,
        min_contributions=len(sites),
        forkserver=forkserver,
        gossip=gossip,
        route="" if scenario.route is None else scenario.learning.route,
        correction=scenario.learning.correction,
        directed=is_one_way(gossip),
        codec=scenario.learning.codec,
        outer=scenario.learning.outer,
        # The simulated world has none: salts are in no model.
        salt="" if gossip or scenario.learning.route == "sharded" else "32",
    )
    try:
        for peer in peers:
            peer.start()
        if holds is not None:
            kill(peers, holds)
        wait(peers, lambda: all(peer.done for peer in peers))
    finally:
        stop_all(peers)
    return {str(peer.status["model"]) for peer in peers}


HOLDS = """

import time
from pathlib import Path

train_on = train


def train(model, data, run):
    hold = Path({folder!r}) / f"{{run.site.name}}-{{run.round}}"
    while hold.exists():
        hold.with_suffix(".held").touch()
        time.sleep(0.02)
    return train_on(model, data, run)
"""
"""Appended to a task file: a site trains no round for which there is a file to hold it."""


def kill(peers: list[LocalPeer], holds: Path) -> None:
    """Send SIGKILL to one after the other, each in a later round, while it trains, and start it again.

    Killed there all wait for it. Later a round may close without its receipt, which is another history, not a worse one;
    what kills at any other moment do, the simulated world shows (`tests/simulation/test_copies.py`).
    """
    clock = Clock()
    begun = clock.now()
    for number in range(1, KILLS + 1):
        victim = peers[number % len(peers)]
        hold = holds / f"{victim.name}-{number + 1}"
        while not hold.with_suffix(".held").exists():
            assert clock.now() - begun < ENOUGH_S, (victim.name, victim.up, victim.log_tail())
            sleep(0.02)
        victim.kill()
        hold.unlink()
        victim.start()


def simulated(sites: list[SiteData], task: Path, scenario: Scenario, gossip: str) -> str:
    """The digest of what the last round ends with in the simulated world."""
    learner = TaskLearner(
        task, sites, scenario.sites, seed=SEED, bound=scenario.terms.clip_norm, behaviours=scenario.behaviours
    )
    founded = protocol.found(
        scenario,
        learner,
        task,
        schedule=gossip,
        links=scenario.links,
        seed=SEED,
        directed=is_one_way(gossip),
    )
    play = protocol.Play(
        scenario, founded, learner, sites, links=scenario.links, seed=1, score=lambda _: (0.0, 0.0), tested=()
    )
    for _ in range(scenario.learning.rounds):
        told = play.next_round()
        assert told is not None, play.why_not()
        assert told.missing == 0
    outcome = play.final_outcome()
    assert outcome is not None
    data = outcome.tobytes()
    return blob_digest(len(data), leaf_hashes(data)).hex()


def is_one_way(gossip: str) -> bool:
    return gossip == "one_peer_exponential"


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("gossip", "correction", "route", "codec", "outer"),
    shortened(
        4,
        [
            ("ring", "gt", "spread", "", "none"),
            ("ring", "qg", "spread", "int4", "none"),
            ("one_peer_exponential", "qg:500", "spread", "", "none"),
            ("", "", "sharded", "", "fedadam:0.01"),
            ("ring", "", "spread", "", "none"),
            ("ring", "", "spread", "bf16", "none"),
            ("exponential", "", "spread", "topk:100", "none"),
            ("complete", "", "spread", "sign", "none"),
            ("", "", "spread", "", "none"),
            ("", "", "sharded", "", "none"),
            ("", "", "fold", "", "none"),
        ],
    ),
    ids=[
        "tracking",
        "int4",
        "one-way",
        "fedadam",
        "gossip",
        "bf16",
        "topk",
        "sign",
        "exact",
        "sharded",
        "fold",
    ],
)
def test_the_simulated_swarm_ends_with_the_very_bytes_of_the_networked_one(
    tmp_path: Path, forkserver: Path, gossip: str, correction: str, route: str, codec: str, outer: str
) -> None:
    rounds = 5 if correction or codec else 3
    learning = Learning(
        model="mlp:16",
        partition="power:1",
        rounds=rounds,
        local_epochs=2,
        momentum=0.5,
        mixing="gossip" if gossip else "exact",
        correction=correction,
        route=route,
        codec=codec,
        outer=outer,
    )
    terms = Terms(patience_s=PATIENCE_S, deadline_s=2 * PATIENCE_S, min_contributions=4)
    scenario = replace(plain(4), learning=learning, terms=terms)
    sites, task = lay_out(tmp_path, scenario, seed=SEED)
    assert networked(tmp_path, sites, task, scenario, gossip, forkserver) == {simulated(sites, task, scenario, gossip)}


@pytest.mark.real
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "how", shortened(1, [{"codec": "int4"}, {"correction": "gt"}, {"mixing": "exact", "outer": "nesterov:0.9,0.7"}])
)
def test_killed_peers_end_with_the_bytes_of_a_swarm_that_nothing_befell(
    tmp_path: Path, forkserver: Path, how: dict[str, str]
) -> None:
    """What a public copy is follows from the log, and what a site keeps beside it, or has learned, is on its disk.

    What an outer optimiser remembers is a part of the outcome that all have.
    """
    learning = Learning(model="mlp:16", partition="power:1", rounds=5, local_epochs=2, **how)  # type: ignore[arg-type]
    gossip = "" if how.get("mixing") else "ring"
    terms = Terms(patience_s=PATIENCE_S, deadline_s=2 * PATIENCE_S, min_contributions=4)
    scenario = replace(plain(4), learning=learning, terms=terms)
    holds = tmp_path / "holds"
    sites, task = lay_out(tmp_path, scenario, seed=SEED, more=HOLDS.format(folder=str(holds)))
    killed = networked(tmp_path, sites, task, scenario, gossip, forkserver, holds)
    assert killed == {simulated(sites, task, scenario, gossip)}
