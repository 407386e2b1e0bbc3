"""`swarm demo`: five hospitals, five operating-system processes, real patients, one of them killed half-way.

What runs here is what runs at a hospital: each peer is `swarm start` on a folder of its own, with its own keys, talking
CURVE over loopback. The demo only makes the folders, watches the status sockets, kills one peer with SIGKILL, starts it
again, and at the end puts the results side by side.
"""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import click

import node.examples
from node.cli.charter import describe_task
from node.cli.ledger import verify_quietly
from node.cli.output import FAILED, Failure
from node.cli.status import ask
from node.clock import Clock, sleep
from node.console import bar, member_state
from node.data import SiteData, write_breast_cancer, write_heart_disease
from node.site import Site
from node.solo import run_solo
from node.storage import write_file_durably
from node.trainer import TrainerSettings
from swarm import charter as terms
from swarm.errors import UsageError
from swarm.ledger.audit import Audit, weights
from swarm.ledger.entry import METRIC_SCALE

ROUNDS = 10
SEED = 7
PATIENCE_S = 12.0
"""A silent hospital is left out after a quarter of this, a stuck one after all of it."""

DEADLINE_S = 60.0
GIVE_UP_S = 180.0
"""The whole run takes a third of this on two cores; something is wrong when it is not done by then."""

VICTIM = 3
"""The hospital that is killed: the county hospital, neither the largest nor the smallest."""


@dataclass(slots=True)
class Peer:
    """One hospital's process."""

    site: Site
    data: SiteData
    process: subprocess.Popen[bytes] | None = None
    status: Mapping[str, object] = field(default_factory=dict)
    down: bool = False


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("swarm-demo"), show_default=True)
@click.option("--rounds", type=click.IntRange(4), default=ROUNDS, show_default=True)
@click.option("--heart-disease", type=click.Path(path_type=Path), help="Use the four hospitals in this folder instead.")
@click.option("--keep-running", is_flag=True, help="Leave the peers running at the end.")
def demo(folder: Path, rounds: int, heart_disease: Path | None, *, keep_running: bool) -> None:
    """Five hospitals learn together on this machine."""
    say = Say()
    begun = say.clock.now()
    folder = _fresh(folder)
    data, task, metrics = _data(folder, heart_disease)
    say(
        f"Five hospitals, one model, nobody in the middle. Everything is in {folder}" if len(data) == 5 else str(folder)
    )
    for part in data:
        say(f"  {part.name:<16} {part.rows:>4} patients, {part.positives / part.rows:4.0%} of them positive")
    peers = _found(folder, data, task, rounds, metrics)
    say(f"A charter signed by all {len(peers)}: {terms_of(peers).fault_tolerance()}")
    with ThreadPoolExecutor(1) as pool:
        try:
            for peer in peers:
                _start(peer)
            first_s = _watch(peers, rounds, say, begun=say.clock.now())
            alone = pool.submit(_baselines, folder, data, task, rounds)
            say("Training each hospital alone, and all data pooled, for comparison ...")
            baselines = alone.result()
        finally:
            if not keep_running:
                _stop(peers)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    _table(peers, audits[0], baselines, metrics, say)
    _proof(peers, audits, rounds, say)
    say(f"The first round was committed {first_s:.1f} s after the peers were started.")
    say(f"Everything took {say.clock.now() - begun:.0f} s.")


class Say:
    """Prints lines, and a block of lines in place when the output is a terminal."""

    def __init__(self) -> None:
        """Begin with nothing drawn."""
        self.clock = Clock()
        self._drawn = 0
        self._tty = sys.stdout.isatty()

    def __call__(self, line: str) -> None:
        """Print a line below whatever was drawn."""
        self._drawn = 0
        click.echo(line)

    def draw(self, lines: Sequence[str]) -> None:
        """Redraw a block; nothing where the output is not a terminal."""
        if not self._tty:
            return
        if self._drawn:
            click.echo(f"\x1b[{self._drawn}A\x1b[J", nl=False)
        for line in lines:
            click.echo(line)
        self._drawn = len(lines)


# --- setting up ---------------------------------------------------------------------------------------------------


def _fresh(folder: Path) -> Path:
    """Return an empty folder; one that an earlier demo made is replaced, any other is refused."""
    marker = folder / ".swarm-demo"
    if folder.exists():
        if not marker.exists():
            raise UsageError(f"couldn't use {folder}: it exists and no demo made it", hint="choose another --folder")
        shutil.rmtree(folder)
    folder.mkdir(parents=True)
    marker.touch()
    return folder.resolve()


def _data(folder: Path, heart_disease: Path | None) -> tuple[list[SiteData], Path, tuple[str, ...]]:
    examples = Path(node.examples.__file__).parent
    if heart_disease is None:
        data = write_breast_cancer(folder / "data", SEED)
        return data, examples / "breast_cancer.py", ("accuracy", "auc", "loss")
    return write_heart_disease(heart_disease, folder / "data"), examples / "heart_disease.py", ("accuracy",)


def _found(folder: Path, data: Sequence[SiteData], task: Path, rounds: int, metrics: tuple[str, ...]) -> list[Peer]:
    """Make a site for each hospital, a charter for all, and every signature."""
    peers, cards = [], []
    for part, port in zip(data, _free_ports(len(data)), strict=True):
        site = Site(folder / part.name)
        endpoint = f"tcp://127.0.0.1:{port}"
        cards.append(
            site.create(name=part.name, listen=endpoint, advertise=endpoint, task="task.py", data=str(part.folder))
        )
        shutil.copyfile(task, site.folder / "task.py")
        peers.append(Peer(site, part))
    draft = terms.Charter(
        version=terms.CHARTER_VERSION,
        name="demo",
        created_ms=int(Clock().now() * 1000),
        members=tuple(cards),
        task=describe_task(task, SEED),
        round=terms.RoundPolicy(
            rounds=rounds,
            mixing="exact",
            outer="none",
            min_contributions=3,
            deadline_ms=round(DEADLINE_S * 1000),
            patience_ms=round(PATIENCE_S * 1000),
            clip_norm_milli=100_000,
            weight_cap_ppm=1_000_000,
        ),
        ledger=terms.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=metrics,
        edges=(),
        predecessor=(),
        options=(),
    )
    signed = terms.SignedCharter(draft, {})
    for peer in peers:
        signed = signed.sign(peer.site.load_identity())
    signed.check()
    for peer in peers:
        write_file_durably(peer.site.folder / "charter.toml", terms.to_toml(signed).encode(), mode=0o644)
    return peers


def _free_ports(count: int) -> list[int]:
    """Return ports that are free now, below 32768 where the system does not hand them out by itself."""
    found: list[int] = []
    port = 17400
    while len(found) < count:
        port += 1
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) != 0:
                found.append(port)
    return found


def terms_of(peers: Sequence[Peer]) -> terms.Charter:
    """Return the charter the peers signed."""
    return peers[0].site.load_charter().charter


# --- running ------------------------------------------------------------------------------------------------------


def _start(peer: Peer) -> None:
    log = (peer.site.folder / "log.txt").open("ab")
    command = [sys.executable, "-m", "node.cli.main", "start", str(peer.site.folder), "--set", "run.log=plain"]
    # One thread each: five trainers share this machine, as they would not in five hospitals.
    peer.process = subprocess.Popen(  # noqa: S603 - our own module, arguments as a list
        [*command, "--set", "task.threads=1"], stdout=log, stderr=log, stdin=subprocess.DEVNULL
    )
    peer.down = False
    log.close()


def _stop(peers: Sequence[Peer]) -> None:
    for peer in peers:
        if peer.process is not None and peer.process.poll() is None:
            peer.process.send_signal(signal.SIGTERM)
    for peer in peers:
        if peer.process is not None:
            try:
                peer.process.wait(10)
            except subprocess.TimeoutExpired:
                peer.process.kill()


def _watch(peers: Sequence[Peer], rounds: int, say: Say, *, begun: float) -> float:
    """Show progress until every peer is done; kill one half-way and bring it back. Return when round 1 was finished."""
    victim, told = peers[VICTIM], 0
    killed_at = revived_at = -1
    first_s = 0.0
    while True:
        _poll(peers)
        committed = max(_number(peer, "committed") for peer in peers)
        first_s = first_s or (say.clock.now() - begun if committed >= 1 else 0.0)
        for number in range(told + 1, committed + 1):
            say(f"  round {number:>2} committed {bar(number, rounds)} {_who(peers)}")
        told = max(told, committed)
        if killed_at < 0 and committed >= rounds // 2 - 1 and victim.process is not None:
            victim.process.kill()
            victim.process.wait()
            victim.down, killed_at = True, committed
            say(f"  ✗ {victim.data.name} is killed (SIGKILL). The others go on without it.")
        if killed_at >= 0 and revived_at < 0 and committed >= min(killed_at + 2, rounds):
            _start(victim)
            revived_at = committed
            say(f"  ● {victim.data.name} is started again. It reads its ledger and catches up.")
        say.draw(_live(peers, rounds))
        if revived_at >= 0 and all(peer.status.get("phase") == "done" for peer in peers):
            say(f"All {len(peers)} hold the result of {rounds} rounds.")
            return first_s
        _check_alive(peers, say.clock.now() - begun)
        sleep(0.1)


def _poll(peers: Sequence[Peer]) -> None:
    for peer in peers:
        if not peer.down:
            try:
                peer.status = ask(peer.site.control)
            except Failure:
                continue  # Not listening yet.


def _check_alive(peers: Sequence[Peer], spent: float) -> None:
    for peer in peers:
        if not peer.down and peer.process is not None and peer.process.poll() is not None:
            tail = "\n".join((peer.site.folder / "log.txt").read_text(errors="replace").splitlines()[-5:])
            raise Failure(f"{peer.data.name} ended by itself:\n{tail}", code=FAILED)
    if spent > GIVE_UP_S:
        raise Failure(f"the demo was not done after {GIVE_UP_S:.0f} s", code=FAILED, hint="look at the log.txt files")


def _live(peers: Sequence[Peer], rounds: int) -> list[str]:
    lines = []
    for peer in peers:
        if peer.down:
            lines.append(f"    ✗ {peer.data.name:<16} down")
            continue
        members = peer.status.get("members", [])
        assert isinstance(members, list), "a status lists members"
        mine = next((member for member in members if member["me"]), None)
        words = "starting" if mine is None else member_state(mine)[1]
        lines.append(f"    ● {peer.data.name:<16} {bar(_number(peer, 'committed'), rounds)} {words}")
    return lines


def _who(peers: Sequence[Peer]) -> str:
    up = [peer.data.name for peer in peers if not peer.down]
    return f"by {len(up)} hospitals" if len(up) == len(peers) else f"by {', '.join(up)}"


def _number(peer: Peer, key: str) -> int:
    return int(str(peer.status.get(key, 0)))


# --- results ------------------------------------------------------------------------------------------------------


def _baselines(folder: Path, data: Sequence[SiteData], task: Path, rounds: int) -> dict[str, Mapping[str, float]]:
    """Train each hospital alone, and all data pooled, with the same file for as many rounds, two at a time."""

    def alone(name: str) -> Mapping[str, float]:
        settings = TrainerSettings(task=task, data=folder / "data" / name, site=name, seed=SEED, threads=1)
        return run_solo(settings, rounds=rounds, folder=folder / "alone" / name, tell=_quiet).metrics

    names = [*(part.name for part in data), "pooled"]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(alone, names), strict=True))


def _quiet(_: str) -> None:
    """User output of the comparison runs is nobody's interest here."""


def _table(
    peers: Sequence[Peer], audit: Audit, baselines: Mapping[str, Mapping[str, float]], metrics: Sequence[str], say: Say
) -> None:
    """Alone, swarm and pooled, on the held-out patients of each hospital. The swarm's figures are the ledger's."""
    last = audit.rounds[audit.state.committed.round]
    shown = [name for name in metrics if name != "loss"]
    say("")
    say(
        f"  {'':<16} {'patients':>8} {'held out':>8}   " + "   ".join(f"{name + ' alone':>14}  swarm" for name in shown)
    )
    means = dict.fromkeys(shown, (0.0, 0.0))
    for peer in peers:
        card = next(c for c in audit.state.signed.charter.members if c.name == peer.data.name)
        scored = last.evaluations.get(card.node)
        swarm = {metrics[i]: value / METRIC_SCALE for i, value in scored.metrics} if scored else {}
        cells = []
        for name in shown:
            own, ours = baselines[peer.data.name].get(name, 0.0), swarm.get(name, 0.0)
            means[name] = (means[name][0] + own / len(peers), means[name][1] + ours / len(peers))
            cells.append(f"{own:>14.3f}  {ours:.3f}")
        say(f"  {peer.data.name:<16} {peer.data.rows:>8} {peer.data.held_out:>8}   " + "   ".join(cells))
    say(f"  {'mean of sites':<34}   " + "   ".join(f"{means[n][0]:>14.3f}  {means[n][1]:.3f}" for n in shown))
    pooled = baselines["pooled"]
    say(f"  {'all data pooled':<34}   " + "   ".join(f"{'':>14}  {pooled.get(n, 0.0):.3f}" for n in shown))


def _proof(peers: Sequence[Peer], audits: Sequence[Audit], rounds: int, say: Say) -> None:
    """Show that every ledger verifies, that all hold the same model, and where everything is."""
    say("")
    charter = audits[0].state.signed.charter
    gaps = []
    for view in audits[0].rounds.values():
        missing = [card.name for card in charter.members if card.node not in weights(view)]
        if missing and view.closed is not None:
            gaps.append(f"round {view.number} without {', '.join(missing)}")
    for peer, audit in zip(peers, audits, strict=True):
        say(
            f"  ✔ {peer.data.name:<16} ledger verified: {audit.entries} entries in {audit.blocks} blocks,"
            f" model {audit.state.committed.model.hex()[:16]}"
        )
    models = {audit.state.committed.model for audit in audits}
    files = {(peer.site.models / f"round-{rounds:04d}.safetensors").read_bytes() for peer in peers}
    if len(models) != 1 or len(files) != 1:
        raise Failure("the hospitals do not hold the same model", code=FAILED)
    say(f"  All {len(peers)} hold the same bytes. Gaps on record: {'; '.join(gaps) or 'none'}.")
    say("")
    say(f"  model    {peers[0].site.models / f'round-{rounds:04d}.safetensors'}")
    say(f"  ledger   {peers[0].site.ledger}")
    say(f"  look     swarm ledger round {rounds} {peers[0].site.folder}")
