"""What tests with real peers have in common: the folders of a scenario's sites, commands, waiting for what peers do.

Commands run in this process: a program of its own takes a second of processor time for its imports, which the peers that
are asked would have needed, and says the same. Peers themselves are always processes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from click.testing import CliRunner

from node.cli.main import cli
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


@dataclass(frozen=True, slots=True)
class Ran:
    """What a command has come to: its exit status, and what it wrote."""

    returncode: int
    stdout: str
    stderr: str


def swarm(*words: object) -> Ran:
    """Run a command of the command line."""
    result = CliRunner().invoke(cli, [str(word) for word in words])
    error = result.exception
    code = result.exit_code if error is None or isinstance(error, SystemExit) else int(getattr(error, "code", 1))
    told = "" if error is None or isinstance(error, SystemExit) else str(error)
    return Ran(code, result.stdout, result.stderr + told)


def wait(peers: Sequence[LocalPeer], reached: Callable[[], bool], *, every_s: float = 0.1) -> None:
    """Return once something is so; look at the peers meanwhile. Raises `AssertionError` with their last words."""
    clock = Clock()
    begun = clock.now()
    while not reached():
        assert clock.now() - begun < ENOUGH_S, [(peer.name, peer.up, peer.log_tail()) for peer in peers]
        sleep(every_s)
        for peer in peers:
            peer.poll()
