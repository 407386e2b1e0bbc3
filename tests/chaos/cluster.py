"""SHELL. A scenario's sites as real processes, each in a namespace of its own, and what can be done to them.

Every site is founded as its people would found it: its own keys, its own card, one charter that all have signed. A site
with a stale charter has one that all had signed the day before.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

from node.cli.ledger.reading import verify_quietly
from node.clock import Clock
from node.local import LocalPeer, fork_server, stop_all
from node.simulation import protocol
from node.site import Site
from node.storage import write_file_durably
from swarm import charter as terms
from swarm.ledger.audit import Audit
from tests.chaos.namespaces import Network
from tests.chaos.peer import CLOCK, PROTOCOL
from tests.chaos.plan import Act, Step
from tests.chaos.stage import Stage
from topologies.world.learner import POISON_FACTOR, Behaviour

HERE = Path(__file__).parent


class Cluster:
    """The processes of a scenario, in the scenario's order."""

    def __init__(self, stage: Stage, folder: Path, network: Network, forkserver: Path) -> None:
        self._stage, self._network = stage, network
        self._down: set[int] = set()
        self._frozen: set[int] = set()
        self.peers = tuple(self._site(slot, folder, forkserver) for slot in range(stage.scenario.n))
        self._found()

    # --- what happens to them -----------------------------------------------------------------------------------

    def start_all(self) -> None:
        """Narrow the lines, and start every peer."""
        for slot, site in enumerate(self._stage.scenario.sites):
            self._network.line(slot, site.uplink_bytes_s, site.downlink_bytes_s)
        for (a, b), (bytes_s, _) in self._stage.scenario.slow.items():
            self._network.slow(a, b, bytes_s)
        for slot in range(len(self.peers)):
            self._start(slot)

    def do(self, step: Step) -> None:
        """Do what a timetable says. What makes no sense now, as to kill who is down, is left out."""
        match step.act:
            case Act.KILL:
                self._kill(step.slots[0])
            case Act.RENEW:
                self._renew(step.slots[0])
            case Act.START:
                self._start(step.slots[0])
            case Act.STOP:
                self._signal(step.slots[0], signal.SIGSTOP)
            case Act.GO_ON:
                self._signal(step.slots[0], signal.SIGCONT)
            case Act.CLOCK:
                self._step_clock(step.slots[0], step.amount)
            case Act.CUT:
                self._network.cut(step.name, step.pairs)
            case Act.MEND:
                self._network.mend(step.name)
            case Act.SLOW:
                self._network.slow(*step.slots, step.amount)
            case Act.QUICKEN:
                self._network.quicken(*step.slots)

    def poll(self) -> None:
        """Ask everybody who can answer how things stand.

        Raises:
            AssertionError: A process has ended that nobody had killed.
        """
        for slot, peer in enumerate(self.peers):
            if slot not in self._down | self._frozen:
                assert peer.up, f"{peer.name} ended by itself:\n{peer.log_tail(20)}"
                peer.poll()

    def starting(self) -> tuple[int, ...]:
        """Return who runs and has not answered since it was started."""
        return tuple(slot for slot, peer in enumerate(self.peers) if slot not in self._down and not peer.status)

    def done(self) -> bool:
        """Whether everybody is up and has the whole run."""
        return not self._down | self._frozen and all(peer.done for peer in self.peers)

    def where(self) -> str:
        """Return how far everybody is, for a sentence."""
        return ", ".join(
            f"{peer.name}: round {peer.committed}, {'down' if slot in self._down else peer.status.get('phase')}"
            for slot, peer in enumerate(self.peers)
        )

    def stop(self) -> None:
        """Stop every process, whatever state it is in."""
        for slot in sorted(self._frozen):
            self._signal(slot, signal.SIGCONT)
        stop_all([peer for peer in self.peers if peer.process is not None])

    # --- what is left of them -----------------------------------------------------------------------------------

    def audits(self) -> list[Audit]:
        """Verify every ledger, from its files, every signature. Raises `Failure` where one does not hold."""
        return [verify_quietly(peer.site.folder) for peer in self.peers]

    def said(self) -> dict[str, tuple[str, ...]]:
        """Return what every peer has printed, line by line."""
        return {
            peer.name: tuple((peer.site.folder / "log.txt").read_text(errors="replace").splitlines())
            for peer in self.peers
        }

    # --- parts --------------------------------------------------------------------------------------------------

    def _site(self, slot: int, folder: Path, forkserver: Path) -> LocalPeer:
        stage = self._stage
        machine, data = stage.scenario.sites[slot], stage.sites[slot]
        site = Site(folder / machine.name)
        dialled = "" if machine.outbound_only else self._network.endpoint(slot)
        site.create(name=machine.name, listen=dialled, advertise=dialled, task="task.py", data=str(data.folder))
        shutil.copyfile(stage.task, site.folder / "task.py")
        shutil.copyfile(HERE / "loader.py", site.folder / "loader.py")
        learning = stage.scenario.learning
        temper = {
            "pace_s": machine.pace_s,
            "steps": learning.local_epochs * -(-data.rows // learning.batch),
            "factor": POISON_FACTOR if machine.behaviour == Behaviour.POISONER.value else 1.0,
        }
        (data.folder / "temper.json").write_text(json.dumps(temper))
        clock = site.folder / "clock"
        clock.write_text("0")
        return LocalPeer(
            site,
            data,
            forkserver,
            program=(*self._network.inside(slot), sys.executable, "-m", "tests.chaos.peer"),
            environment={CLOCK: str(clock), PROTOCOL: machine.protocol},
        )

    def _found(self) -> None:
        """Draft the charter from the scenario, have it signed by all, and leave it, or the one before, at each."""
        stage, scenario = self._stage, self._stage.scenario
        cards = [terms.card_from_toml(peer.site.card_path.read_text()) for peer in self.peers]
        text = protocol.draft(
            scenario,
            stage.learner.model,
            stage.task,
            cards,
            schedule="",
            links=scenario.links,
            seed=stage.seed,
            created_ms=int(Clock().now() * 1000),
        )
        keys = [peer.site.load_identity() for peer in self.peers]
        today, before = (terms.to_toml(protocol.sign(one, keys)).encode() for one in (text, protocol.outdated(text)))
        self._today = today
        for peer, site in zip(self.peers, scenario.sites, strict=True):
            write_file_durably(peer.site.folder / "charter.toml", before if site.stale_charter_s else today, mode=0o644)

    def _start(self, slot: int) -> None:
        if not self.peers[slot].up:
            self.peers[slot].start("task.loader=loader.py")
            self._down.discard(slot)

    def _kill(self, slot: int) -> None:
        self._down.add(slot)
        self._frozen.discard(slot)
        self.peers[slot].kill()

    def _renew(self, slot: int) -> None:
        """Do what the people of a site with a stale charter do: put in the new one, lay the ledger of the old aside."""
        assert slot in self._down, "nobody changes the charter under a running peer"
        folder = self.peers[slot].site.folder
        write_file_durably(folder / "charter.toml", self._today, mode=0o644)
        if (folder / "ledger").exists():
            (folder / "ledger").rename(folder / "ledger-of-the-stale-charter")

    def _signal(self, slot: int, which: signal.Signals) -> None:
        process = self.peers[slot].process
        if slot in self._down or process is None:
            return
        os.kill(process.pid, which)
        (self._frozen.add if which == signal.SIGSTOP else self._frozen.discard)(slot)

    def _step_clock(self, slot: int, forward_s: float) -> None:
        file = self.peers[slot].site.folder / "clock"
        write_file_durably(file, str(float(file.read_text()) + forward_s).encode(), mode=0o644)


@contextlib.contextmanager
def running(stage: Stage, folder: Path) -> Iterator[Cluster]:
    """Found a scenario's swarm in a network of its own; end every process and the network, however that goes."""
    with fork_server() as forkserver, Network(stage.scenario.n) as network:
        cluster = Cluster(stage, folder, network, forkserver)
        try:
            yield cluster
        finally:
            cluster.stop()
