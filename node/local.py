"""SHELL. A whole swarm on one machine: folders, keys, charter, one process a peer.

For demonstrations, benchmarks and tests. Every peer is `swarm start` on a folder of its own, exactly as at a hospital;
only the founding, which people do by sending cards and signatures to each other, happens in one place here.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from node.cli.charter import described_task
from node.cli.control import ask
from node.cli.output import Failure
from node.clock import Clock
from node.data import SiteData
from node.declared import companions
from node.forkserver import ForkServer
from node.site import Site
from node.storage import write_file_durably
from swarm import charter as terms
from swarm.mixing.outer import parse as parse_outer
from swarm.privacy.clipping import USUAL_BOUND
from swarm.staleness import STALENESS_ASYNCHRONOUS, STALENESS_DEFAULT

FIRST_PORT = 17400
"""Below 32768: the system does not hand such ports out by itself, and libzmq may connect to itself above."""

PORTS = 10_000
"""Where to begin to look above that depends on the process."""

STRIDE = 7_919
"""Between where processes of successive numbers begin: prime to `PORTS`."""

PROGRAM = (sys.executable, "-m", "node.cli.main")
"""`swarm`, as this interpreter has it."""

STOP_S = 10.0
"""How long a peer may take to stop before it is killed."""


@dataclass(slots=True)
class LocalPeer:
    """One site's folder and process. `status` is what it last answered.

    `program` is what is run as `swarm`, and `environment` what it finds in its environment beside this process's own.
    """

    site: Site
    data: SiteData
    forkserver: Path | None = None
    program: tuple[str, ...] = PROGRAM
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    status: Mapping[str, object] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The site's name."""
        return self.data.name

    @property
    def up(self) -> bool:
        """Whether the process runs."""
        return self.process is not None and self.process.poll() is None

    @property
    def ended(self) -> bool:
        """Whether the process was started and runs no more."""
        return self.process is not None and self.process.poll() is not None

    @property
    def done(self) -> bool:
        """Whether the peer says that the run is complete."""
        return self.status.get("phase") == "done"

    @property
    def committed(self) -> int:
        """The last round it knows to be committed."""
        return int(str(self.status.get("committed", 0)))

    def start(self, *overrides: str) -> None:
        """Start the peer; what it prints goes to `log.txt` in its folder."""
        command = [*self.program, "start", str(self.site.folder)]
        # One thread each: the trainers share this machine, as they would not in as many hospitals.
        shared = () if self.forkserver is None else (f"task.forkserver={self.forkserver}",)
        # They share its disk too, and what one may keep for its ledger, fifty may not.
        alike = ("run.log=text", "run.log_task=true", "task.threads=1", "storage.ballast_mb=0")
        for setting in (*alike, *shared, *overrides):
            command += ["--set", setting]
        with (self.site.folder / "log.txt").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env={**os.environ, **self.environment}
            )

    def kill(self) -> None:
        """SIGKILL, as a power cut to the process would."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self.status = {}

    def stop(self) -> None:
        """Ask it to stop; kill it if it does not."""
        if self.process is None:
            return
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def poll(self) -> None:
        """Ask for the status; keep the last one while it does not answer."""
        if self.up:
            try:
                self.status = ask(self.site.control)
            except Failure:
                return

    def log_tail(self, lines: int = 5) -> str:
        """Return the last lines it printed."""
        return "\n".join((self.site.folder / "log.txt").read_text(errors="replace").splitlines()[-lines:])


def found(
    folder: Path,
    data: Sequence[SiteData],
    task: Path,
    *,
    rounds: int,
    metrics: tuple[str, ...],
    seed: int,
    patience_s: float = 12.0,
    deadline_s: float = 60.0,
    min_contributions: int | None = None,
    forkserver: Path | None = None,
    gossip: str = "",
    route: str = "",
    correction: str = "",
    local: str = "",
    directed: bool = False,
    codec: str = "",
    asynchronous: bool = False,
    hidden: Sequence[str] = (),
    relay: bool = False,
    min_cell: int = 0,
    contribution: str = "",
    masks: str = "",
    salt: str = "",
    site_noise: str = "",
    outer: str = "none",
) -> list[LocalPeer]:
    """Make a site for each part of the data, a charter for all of them, and every signature.

    With the socket of a fork server their trainers are forked from it, with a `gossip` schedule they mix by gossip,
    over links of one way if they are `directed`, with a charter's `correction`; `local` is what the charter adds to
    training. With a `route` they get to the mean in parts, with a `codec` they compress what they contribute. If
    `asynchronous` they wait for nobody. Those named in `hidden` only dial out; with `relay` others link them to one
    another. `outer` is the step that a round takes. Scores of fewer than `min_cell` stay. What work is worth sites tell
    by the charter's `contribution`. With `masks` nobody sees an update, and with `site_noise` sums carry noise.
    With a `salt` the ledger confirms no guess of an update.
    """
    late = STALENESS_ASYNCHRONOUS if asynchronous else STALENESS_DEFAULT
    learned, buffers = described_task(task, seed, forkserver, parse_outer(outer).slots)
    peers, cards = [], []
    for part, port in zip(data, free_ports(len(data)), strict=True):
        site, endpoint = Site(folder / part.name), f"tcp://127.0.0.1:{port}"
        address = "" if part.name in hidden else endpoint
        card = site.create(name=part.name, listen=address, advertise=address, task="task.py", data=str(part.folder))
        cards.append(card)
        shutil.copyfile(task, site.folder / "task.py")
        for beside in companions(task):
            shutil.copyfile(beside, site.folder / beside.name)
        peers.append(LocalPeer(site, part, forkserver))
    draft = terms.Charter(
        version=terms.CHARTER_VERSION,
        name="local",
        created_ms=int(Clock().now() * 1000),
        members=tuple(cards),
        task=learned,
        round=terms.RoundPolicy(
            rounds=rounds,
            mixing="gossip" if gossip else "exact",
            outer=outer,
            min_contributions=len(data) // 2 + 1 if min_contributions is None else min_contributions,
            deadline_ms=round(deadline_s * 1000),
            patience_ms=round(patience_s * 1000),
            clip_norm_milli=round(USUAL_BOUND * 1000),
            weight_cap_ppm=1_000_000,
        ),
        ledger=terms.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=metrics,
        edges=(),
        predecessor=(),
        options=terms.options_of(
            asynchronous=terms.BUFFERED if asynchronous else "",
            buffers=buffers,
            codec=codec,
            contribution=contribution,
            correction=correction,
            links="directed" if directed else "",
            min_cell=str(min_cell) if min_cell else "",
            local=local,
            masks=masks,
            relay=terms.RELAYS[0] if relay else "",
            route=route,
            salt=salt,
            schedule=gossip,
            site_noise=site_noise,
            staleness="" if gossip else str(late),
        ),
    )
    signed = terms.SignedCharter(draft, {})
    for peer in peers:
        signed = signed.sign(peer.site.load_identity())
    signed.check()
    for peer in peers:
        write_file_durably(peer.site.folder / "charter.toml", terms.to_toml(signed).encode(), mode=0o644)
    return peers


@contextlib.contextmanager
def fork_server() -> Iterator[Path]:
    """Start a fork server; yield its socket; end it, and every trainer it forked."""
    # Not in the swarm's folder: the path of a socket may have no more than about a hundred characters.
    with tempfile.TemporaryDirectory(prefix="swarm-") as folder:
        server = ForkServer(Path(folder) / "trainers")
        try:
            yield server.path
        finally:
            server.close()


def stop_all(peers: Sequence[LocalPeer]) -> None:
    """Stop every peer, all at once."""
    for peer in peers:
        if peer.up and peer.process is not None:
            peer.process.send_signal(signal.SIGTERM)
    for peer in peers:
        peer.stop()


def free_ports(count: int) -> list[int]:
    """Return TCP ports of loopback on which nobody listens now."""
    free: list[int] = []
    # Two swarms that are founded at the same moment should not choose the same, though their processes be neighbours.
    port = FIRST_PORT + os.getpid() * STRIDE % PORTS
    while len(free) < count:
        port += 1
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                free.append(port)
    return free
