"""`swarm demo`: five hospitals, five operating-system processes, real patients, one of them killed on the way.

What runs here is what runs at a hospital: each peer is `swarm start` on a folder of its own, with its own keys, talking
CURVE over loopback. The demo only makes the folders, watches the status sockets, kills one peer with SIGKILL, starts it
again, and at the end puts the results side by side.
"""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypedDict

import click

import node.examples
from node.cli.init import JSON
from node.cli.ledger.reading import verify_quietly
from node.cli.output import FAILED, Failure, emit
from node.clock import Clock, sleep
from node.console import bar, member_state
from node.data import SiteData, write_breast_cancer, write_heart_disease
from node.export import name_of
from node.local import LocalPeer, fork_server, found, stop_all
from node.solo import run_solo
from node.terminal import can_be_drawn_on
from node.trainer import TrainerSettings
from swarm.errors import UsageError
from swarm.ledger.audit import Audit
from swarm.ledger.entry import METRIC_SCALE
from swarm.ledger.participation import gaps_words, of_audit

ROUNDS = 30
SEED = 7
PATIENCE_S = 12.0
"""A hospital nobody hears of is left out after a quarter of this, one that is stuck after all of it."""

GIVE_UP_S = 180.0
"""The run takes a fraction of this on two cores; something is wrong when it is not done by then."""


class Score(TypedDict):
    """One hospital's metrics by name, all on its own held-out patients."""

    name: str
    alone: Mapping[str, float]
    swarm: Mapping[str, float]


@click.command()
@click.option("--folder", type=click.Path(path_type=Path), default=Path("swarm-demo"), show_default=True, help="Where.")
@click.option("--rounds", type=click.IntRange(4), default=ROUNDS, show_default=True, help="How many rounds.")
@click.option("--heart-disease", type=click.Path(path_type=Path), help="Use the four real hospitals in this folder.")
@click.option("--gossip", metavar="SCHEDULE", default="", help="Mix by gossip, as in base2, instead of exactly.")
@click.option("--route", default="", help="Get to the mean in parts: sharded or fold.")
@JSON
def demo(folder: Path, rounds: int, heart_disease: Path | None, gossip: str, route: str, *, as_json: bool) -> None:
    """Five hospitals learn together on this machine."""
    say = Say(err=as_json)
    begun = say.clock.now()
    if heart_disease is not None:
        with tempfile.TemporaryDirectory() as trial:  # Data that cannot be used replace no earlier demo.
            write_heart_disease(heart_disease, Path(trial))
    folder = _fresh(folder)
    with fork_server() as forkserver:
        results = _run(folder, rounds, heart_disease, (gossip, route), forkserver, say)
    spent = say.clock.now() - begun
    text = f"Everything took {spent:.0f} s."
    emit({"folder": str(folder), **results, "seconds": round(spent, 3)}, as_json=as_json, text=text)


def _run(
    folder: Path, rounds: int, heart_disease: Path | None, mixing: tuple[str, str], forkserver: Path, say: Say
) -> Mapping[str, object]:
    """Run the demo with this schedule of gossip or this route; say how it goes; return its results for programs."""
    data, task, metrics = _data(folder, heart_disease)
    say(f"{len(data)} hospitals, one model, nobody in the middle. Everything is in {folder}")
    for part in data:
        say(f"  {part.name:<16} {part.rows:>4} patients, {part.positives / part.rows:4.0%} of them positive")
    peers = found(
        folder,
        data,
        task,
        rounds=rounds,
        metrics=metrics,
        seed=SEED,
        patience_s=PATIENCE_S,
        forkserver=forkserver,
        gossip=mixing[0],
        route=mixing[1],
    )
    charter = peers[0].site.load_charter().charter
    say(f"A charter signed by all of them. {charter.fault_tolerance()}.")
    try:
        for peer in peers:
            peer.start()
        first_s = _watch(peers, rounds, say)
    finally:
        stop_all(peers)
    say("Training each hospital alone, and all data pooled, for comparison ...")
    baselines = _baselines(folder, data, task, rounds, forkserver)
    audits = [verify_quietly(peer.site.folder) for peer in peers]
    shown = [name for name in metrics if name != "loss"]
    scores = _scores(peers, audits[0], baselines, metrics)
    _table(peers, scores, baselines["pooled"], shown, say)
    _proof(peers, audits, rounds, say)
    say(f"The first round was committed {first_s:.1f} s after the peers were started.")
    state = audits[0].state
    return {
        "rounds": rounds,
        "sites": scores,
        "pooled": dict(baselines["pooled"]),
        "ledger_id": state.ledger_id.hex(),
        "model_digest": state.committed.model.hex(),
        "root": state.frontier.root().hex(),
        "model": str(_model(peers[0], rounds)),
        "ledger": str(peers[0].site.ledger),
        "first_round_seconds": round(first_s, 3),
    }


class Say:
    """Prints lines, and a block of lines in place when the output is a terminal; with `err` on stderr."""

    def __init__(self, *, err: bool) -> None:
        """Begin with nothing drawn."""
        self.clock = Clock()
        self._drawn = 0
        self._err = err
        self._tty = can_be_drawn_on(sys.stderr if err else sys.stdout, os.environ)

    def __call__(self, line: str) -> None:
        """Print a line in place of whatever was drawn, which comes back below it with the next `draw`."""
        self._erase()
        click.echo(line, err=self._err)

    def draw(self, lines: Sequence[str]) -> None:
        """Redraw a block; nothing where the output is no terminal that can be drawn on."""
        if not self._tty:
            return
        self._erase()
        for line in lines:
            click.echo(line, err=self._err)
        self._drawn = len(lines)

    def _erase(self) -> None:
        if self._drawn:
            click.echo(f"\x1b[{self._drawn}A\x1b[J", nl=False, err=self._err)
        self._drawn = 0


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


# --- running ------------------------------------------------------------------------------------------------------


def _watch(peers: Sequence[LocalPeer], rounds: int, say: Say) -> float:
    """Show progress until every peer is done; kill one early on, bring it back. Return when round 1 was committed."""
    begun = say.clock.now()
    victim = peers[-2]  # Neither the largest nor the smallest.
    told, killed_at, revived_at, first_s = 0, -1, -1, 0.0
    while True:
        for peer in peers:
            peer.poll()
        committed = max(peer.committed for peer in peers)
        first_s = first_s or (say.clock.now() - begun if committed else 0.0)
        for number in range(told + 1, committed + 1):
            say(f"  round {number:>2} committed {bar(number, rounds)} {_who(peers, number)}")
        told = max(told, committed)
        # At a third, so that on a busy machine too it is back long before the end, and can be seen at work.
        if killed_at < 0 and committed >= rounds // 3:
            victim.kill()
            killed_at = committed
            say(f"  ✗ {victim.name} is killed (SIGKILL). The others go on without it.")
        if killed_at >= 0 and revived_at < 0 and committed >= min(killed_at + 2, rounds):
            victim.start()
            revived_at = committed
            say(f"  ● {victim.name} is started again. It reads its ledger and catches up.")
        say.draw(_live(peers, rounds))
        if revived_at >= 0 and all(peer.done for peer in peers):
            say(f"All {len(peers)} hold the result of {rounds} rounds.")
            return first_s
        _check_alive(peers, victim if revived_at < 0 <= killed_at else None, say.clock.now() - begun)
        sleep(0.1)


def _check_alive(peers: Sequence[LocalPeer], killed: LocalPeer | None, spent: float) -> None:
    for peer in peers:
        if not peer.up and peer is not killed:
            click.echo(peer.log_tail(), err=True)
            raise Failure(f"{peer.name} ended by itself", code=FAILED, hint=f"read {peer.site.folder / 'log.txt'}")
    if spent > GIVE_UP_S:
        raise Failure(f"the demo was not done after {GIVE_UP_S:.0f} s", code=FAILED, hint="look at the log.txt files")


def _live(peers: Sequence[LocalPeer], rounds: int) -> list[str]:
    lines = []
    for peer in peers:
        members = peer.status.get("members", [])
        assert isinstance(members, list), "a status lists members"
        mine = next((member for member in members if member["me"]), None)
        words = "down" if not peer.up else "starting" if mine is None else member_state(mine)[1]
        mark = "●" if peer.up else "✗"
        lines.append(f"    {mark} {peer.name:<16} {bar(peer.committed, rounds)} {words}")
    return lines


def _who(peers: Sequence[LocalPeer], round_: int) -> str:
    """Return who took part in a round, as the last peers to ask remember it; nothing when it is past."""
    for peer in peers:
        rounds = peer.status.get("closed", [])
        assert isinstance(rounds, list), "a status lists the rounds closed last"
        for closed in rounds:
            if closed["round"] == round_:
                missing = closed["without"]
                without = f", without {', '.join(missing)}" if missing else ""
                return f"by {len(peers) - len(missing)} hospitals{without}"
    return ""


# --- results ------------------------------------------------------------------------------------------------------


def _baselines(
    folder: Path, data: Sequence[SiteData], task: Path, rounds: int, forkserver: Path
) -> dict[str, Mapping[str, float]]:
    """Train each hospital alone, and all data pooled, with the same file for as many rounds, two at a time."""

    def alone(name: str) -> Mapping[str, float]:
        settings = TrainerSettings(
            task=task, data=folder / "data" / name, site=name, seed=SEED, threads=1, forkserver=forkserver
        )
        return run_solo(settings, rounds=rounds, folder=folder / "alone" / name, tell=_quiet).metrics

    names = [*(part.name for part in data), "pooled"]
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(names, pool.map(alone, names), strict=True))


def _quiet(_: str) -> None:
    """User output of the comparison runs is nobody's interest here."""


def _scores(
    peers: Sequence[LocalPeer],
    audit: Audit,
    baselines: Mapping[str, Mapping[str, float]],
    metrics: Sequence[str],
) -> list[Score]:
    """Return what each hospital reached alone and in the swarm. The swarm's figures are the ledger's."""
    last = audit.rounds[audit.state.committed.round]
    scores = []
    for peer in peers:
        card = next(c for c in audit.state.signed.charter.members if c.name == peer.name)
        scored = last.evaluations.get(card.node)
        swarm = {metrics[i]: value / METRIC_SCALE for i, value in scored.metrics} if scored else {}
        scores.append(Score(name=peer.name, alone=dict(baselines[peer.name]), swarm=swarm))
    return scores


def _table(
    peers: Sequence[LocalPeer], scores: Sequence[Score], pooled: Mapping[str, float], shown: Sequence[str], say: Say
) -> None:
    """Alone, swarm and pooled, on the held-out patients of each hospital."""
    say("")
    say(
        f"  {'':<16} {'patients':>8} {'held out':>8}   " + "   ".join(f"{name + ' alone':>14}  swarm" for name in shown)
    )
    means = dict.fromkeys(shown, (0.0, 0.0))
    for peer, score in zip(peers, scores, strict=True):
        cells = []
        for name in shown:
            own, ours = score["alone"].get(name, 0.0), score["swarm"].get(name, 0.0)
            means[name] = (means[name][0] + own / len(peers), means[name][1] + ours / len(peers))
            cells.append(f"{own:>14.3f}  {ours:.3f}")
        say(f"  {peer.name:<16} {peer.data.rows:>8} {peer.data.held_out:>8}   " + "   ".join(cells))
    say(f"  {'mean of sites':<34}   " + "   ".join(f"{means[n][0]:>14.3f}  {means[n][1]:.3f}" for n in shown))
    say(f"  {'all data pooled':<34}   " + "   ".join(f"{'':>14}  {pooled.get(n, 0.0):.3f}" for n in shown))


def _proof(peers: Sequence[LocalPeer], audits: Sequence[Audit], rounds: int, say: Say) -> None:
    """Show that every ledger verifies, that all hold the same model, and where everything is."""
    say("")
    charter = audits[0].state.signed.charter
    gaps = of_audit(audits[0]).gaps()
    for peer, audit in zip(peers, audits, strict=True):
        say(
            f"  ✔ {peer.name:<16} ledger verified: {audit.entries} entries in {audit.blocks} blocks,"
            f" model {audit.state.committed.model.hex()[:16]}"
        )
    models = {audit.state.committed.model for audit in audits}
    files = {_model(peer, rounds).read_bytes() for peer in peers}
    if len(models) != 1 or len(files) != 1:
        raise Failure("the hospitals do not hold the same model", code=FAILED)
    say(f"  All {len(peers)} hold the same bytes.")
    missing = gaps_words(gaps, {card.node: card.name for card in charter.members})
    whole = "Every hospital's work is in the model, for every round."
    say(f"  {f'By a subset of the hospitals: no work of {missing}; the ledger says so.' if gaps else whole}")
    say("")
    say(f"  model    {_model(peers[0], rounds)}")
    say(f"  ledger   {peers[0].site.ledger}")
    program = "swarm" if shutil.which("swarm") else sys.argv[0]
    say(f"  look     {program} ledger round {rounds} {peers[0].site.folder}")
    say(f"  page     {program} dashboard {peers[0].site.folder}")


def _model(peer: LocalPeer, rounds: int) -> Path:
    return peer.site.models / name_of(rounds)
