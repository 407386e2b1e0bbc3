"""What tests with real peers have in common: the folders of a scenario's sites, and waiting for what peers do."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from node.clock import Clock, sleep
from node.data import SiteData
from node.local import LocalPeer
from node.simulation import datasets
from node.simulation.learner import task_source
from topologies.scenario import Scenario

ENOUGH_S = 240.0


def lay_out(folder: Path, scenario: Scenario, *, seed: int = 1, more: str = "") -> tuple[list[SiteData], Path]:
    """Write each site's data and the task that simulations train, with `more` code at its end; return both."""
    examples = datasets.load(scenario.learning.data)
    shares, x = datasets.divide(examples, scenario, seed)
    sites = datasets.write_sites(folder / "data", examples, shares, x, scenario.names)
    task = folder / "task.py"
    task.write_text(task_source(scenario.learning, examples) + more)
    return sites, task


def wait(peers: Sequence[LocalPeer], reached: Callable[[], bool]) -> None:
    """Return once something is so; look at the peers meanwhile. Raises `AssertionError` with their last words."""
    clock = Clock()
    begun = clock.now()
    while not reached():
        assert clock.now() - begun < ENOUGH_S, [(peer.name, peer.up, peer.log_tail()) for peer in peers]
        sleep(0.1)
        for peer in peers:
            peer.poll()
