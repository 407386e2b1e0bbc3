"""`swarm start`: run this site's peer until it is stopped or the run is done."""

from __future__ import annotations

import faulthandler
import os
import secrets
import signal
import sys
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import click

from gossip.noise import KeyPair
from gossip.relay import Passages
from gossip.zeromq import Transport
from node.alone import Alone, Baseline, owner_of
from node.auditor import Auditor
from node.backup import refuse_beside
from node.beacon import Beacon
from node.bulk import BulkWorker
from node.checkpoints import Checkpoints
from node.cli.init import FOLDER
from node.cli.ledger.sources import REPAIR
from node.cli.output import (
    CONTRADICTION,
    FAILED,
    INTERRUPTED,
    PAUSED,
    SUBSET,
    UNAVAILABLE,
    Failure,
    Told,
    check_task,
    code_of,
)
from node.clock import Clock
from node.config import Settings
from node.console import Console
from node.console import as_json as lines_of_json
from node.core import Node
from node.dashboard.beside import Beside
from node.disclosed import Disclosed
from node.egress.folder import check_at, record_at, waiting_at
from node.egress.gate import Gate
from node.egress.policy import policy_of
from node.export import export_model, name_of
from node.links import Links
from node.logfile import LogFile
from node.loop.trainer import trainer_for
from node.names import Names
from node.passphrase import without_secrets
from node.proxy import dialling, read_proxy
from node.recovery import recover
from node.runtime import Ports, Runtime, free_bytes, seeded
from node.site import Site
from node.spending import RECORD, Rounds, Spending, budget_of, lacking, lacking_words
from node.storage import Ballast, BlobStore, DirectoryLock, RealDisk, SnapshotFile, store_error
from node.task import check_same
from node.telemetry.lines import PRIVATE, line
from node.telemetry.traces import Names as TraceNames
from node.trainer import TrainerSettings
from swarm import codec
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, SwarmError, UsageError
from swarm.ledger import snapshot
from swarm.ledger.block import BLOCK_BYTES_MAX, FinalBlock
from swarm.ledger.journal import BLOCKS, Journal, Opened, foreign
from swarm.ledger.participation import Participation, gaps_words
from swarm.ledger.state import State, best_of, genesis
from swarm.machine import Digest, Finished, Report, Started
from swarm.terms import founding
from swarm.vector import Layout

BLOCKS_READ_BYTES = 1 << 24
"""Of blocks that are read at once at the end of a run, to see who took part."""


@click.command()
@FOLDER
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting.")
@click.option("--exit-when-done", is_flag=True, help="Stop when the run is done and everybody has the result.")
@click.option(
    "--log-format",
    type=click.Choice(["auto", "text", "json"]),
    help="Log text, or JSON lines. auto, the default, is JSON wherever stderr is no terminal.",
)
@click.option("--json", "as_json", is_flag=True, help="Short for --log-format json; an error is told on stdout too.")
def start(
    folder: Path, overrides: tuple[str, ...], *, exit_when_done: bool, log_format: str | None, as_json: bool
) -> None:
    """Run the peer of the site in FOLDER."""
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # A crash below Python leaves its last words, too.
    site, asked = Site(folder.resolve()), "json" if as_json else log_format
    extra = (("run.exit_when_done=true",) if exit_when_done else ()) + ((f"run.log={asked}",) if asked else ())
    mode, name, told = asked or "auto", folder.resolve().name, False
    try:
        settings = site.load_settings(overrides=(*overrides, *extra))
        mode, name, told = settings.run.log, settings.site.name, settings.run.log_task
        signed = site.load_charter(settings)
        ending = run_site(site, settings, signed)
        failure = failure_of(ending, waited=settings.run.exit_when_done)
        if failure is not None:
            raise failure
    except SwarmError as error:
        if not (told or sys.stderr.isatty()):
            error = _without_task(error)
        if lines_of_json(mode, sys.stderr):
            error = _last_line(error, name)
        raise error


class TrainingFailure(Failure):
    """The end of a run in which training went wrong at this site, in the words of the user's code."""


def _without_task(error: SwarmError) -> SwarmError:
    """Return an error without what the user's code said: it may name a patient, and stderr may be kept anywhere."""
    built = error.identifier == "SWARM-TASK-FAILED"
    if not built and not isinstance(error, TrainingFailure):
        return error
    said = "couldn't build the task's model" if built else PRIVATE["failed"]
    hint = f"{error.hint}; its own words are shown on a terminal, or with run.log_task = true in swarm.toml"
    return Failure(said, code=code_of(error), hint=hint, identifier=error.identifier)


def _last_line(error: SwarmError, name: str) -> Told:
    """Let an error be the last line of a log of JSON lines, and return it as one that has been told."""
    code = code_of(error)
    fact = Report("ended", error.message, {"hint": error.hint, "id": error.identifier, "code": code}, level="error")
    click.echo(line(fact, Clock().now(), node=name), err=True)
    return Told(error.message, code=code, hint=error.hint, identifier=error.identifier)


@dataclass(frozen=True, slots=True)
class Ending:
    """How a peer's process ended. `finished` is None if it was stopped while the run went on.

    `forked` is whether the ledger is, as far as it knows. `gaps` has in words whose work is missing from a
    model that is done, and for which rounds; empty if nobody's.
    """

    finished: Finished | None
    forked: bool = False
    gaps: str = ""


def failure_of(ending: Ending, *, waited: bool) -> Failure | None:
    """Return how `swarm start` ends if not with 0; `waited` is whether it was to wait until the run is done."""
    finished = ending.finished
    if finished is None:
        hint = "start it again: it continues where it was"
        return Failure("stopped before the run was done", code=INTERRUPTED, hint=hint) if waited else None
    match finished.outcome:
        case "LEFT":
            return None
        case "DONE":
            text = f"the run is DONE by a subset of its sites: no work of {ending.gaps}"
            hint = "the exported model says so too; `swarm ledger rounds` shows who was in which"
            return Failure(text, code=SUBSET, hint=hint) if waited and ending.gaps else None
        case "PAUSED":
            hint = "start it again: it continues where it was, once enough sites are there"
            return Failure(f"stopped while the run was PAUSED: {finished.reason}", code=PAUSED, hint=hint)
        case outcome:
            code = CONTRADICTION if ending.forked else FAILED
            kind = Failure if ending.forked else TrainingFailure
            return kind(f"the run ended {outcome}: {finished.reason}", code=code, hint=_FAILED_HINTS[ending.forked])


_FAILED_HINTS = {
    False: "mend what the log names and start again: the site takes part from the open round on",
    True: "`swarm ledger forks` shows what is proved; nothing is to be trusted that came after",
}


def run_site(site: Site, settings: Settings, signed: SignedCharter) -> Ending:
    """Put a node's parts together and run it. Raises `SwarmError` when it cannot begin or go on."""
    charter, identity, me = signed.charter, site.load_identity(), site.node()
    sponsors = site.load_sponsors()
    if charter.index(me) is None and not sponsors:
        raise UsageError(
            f"couldn't start {settings.site.name!r}: it is not a member of {charter.name!r}",
            hint="its keys are not the ones whose card is in the charter; a new site begins with `swarm join`",
            identifier="SWARM-SITE-MEMBER",
        )
    check_own_task(site, settings, signed)
    check_at(site, settings, signed, me, "couldn't start")
    proxy = read_proxy(settings.network, site.folder)
    beacon = Beacon(os.environ)  # Before anything is started that could speak in this process's name.
    page = page_of(site, settings)
    lock = _lock(site)
    # The worker starts first: importing torch takes seconds, and the rest of the start happens meanwhile.
    trainer = trainer_for(site, trainer_settings(site, settings, signed), signed.charter)
    trainer.start()
    traces = TraceNames(signed.ledger_id, me)
    console = Console(settings.run.log, name=settings.site.name, names=traces, told=settings.run.log_task)
    clock = Clock()
    log = _log(site, settings, traces)

    def report(fact: Report, now: float) -> None:
        console.report(fact, now)
        if log is not None:
            log.report(fact, now)

    _make_room(site, signed, report, clock.now())
    disk = RealDisk(site.ledger)
    endings: list[str] = []
    ways = ExitStack()
    try:
        door = ways.enter_context(dialling(proxy))
        journal = Journal(disk, ledger_id=signed.ledger_id)
        snapshots = SnapshotFile(site.ledger / "snapshot")
        recovered = recover(journal, disk, snapshots, signed)
        opened = recovered.opened
        _tell_findings(opened, report, clock.now())
        private = Rounds(journal.blocks, me)
        check_spent(site, settings, signed, private)
        store = BlobStore(site.blobs)
        transport = Transport(
            secret_key=identity.curve_secret,
            public_key=identity.curve_public,
            listen=settings.site.listen or None,
            peers=[],  # The ledger says who the members are; the node reads it first.
            clock=clock.now,
            rng=seeded(me),
            ipv6=settings.network.ipv6,
            names=Names(ipv6=settings.network.ipv6),
            through=None if door is None else door.way,
        )
        passages = Passages(
            me=me,
            keys=KeyPair(identity.curve_public, identity.curve_secret),
            ledger_id=signed.ledger_id,
            draw=lambda: secrets.token_bytes(32),
        )
        links = Links(transport, passages, clock.now, door.incidents if door is not None else tuple)
        bulk = BulkWorker(
            store,
            elements=charter.task.parameters,
            bound=charter.clip_norm,
            wake=transport.wake,
            outer=charter.outer,
            codec=charter.codec,
            cuts=charter.cuts,
            averages=charter.averages,
            momentum=charter.momentum,
            follows=charter.follows,
            rule=charter.rule_of(exchanging=False),
            own_bound=policy_of(settings.egress).bound(charter),
            tracks=charter.tracks,
            masked=charter.masks > 0,
            salt=charter.salt,
        )
        node = Node(
            signed=signed,
            identity=identity,
            rng=seeded(me + b"node"),
            now=clock.now(),
            code_digest=charter.task.digest,
            layout_digest=charter.task.layout,
            disk_free=free_bytes(site.folder),
            me=me,
            approve=settings.site.approve,
            catch_up=settings.ledger.catch_up,
            relays=settings.network.relay,
            min_cell=settings.task.min_cell,
            sponsors=sponsors,
            invites=site.load_invites(clock.now()),
            successor=site.load_successor(),
            draw=lambda: secrets.token_bytes(32),
        )
        if site.restored_path.exists():
            state = snapshot.decode(recovered.snapshot, State, signed) if recovered.snapshot else genesis(signed)
            hint = f"stop that one for good; if it is surely another's, delete {site.restored_path} and start again"
            refuse_beside(settings.site.name, me, state.terms, hint=hint)
            site.restored_path.unlink()
        auditor = Auditor(site.folder, marker=site.ledger / "unaudited", run=site.run)
        layout_path = site.run / "layout"
        runtime = Runtime(
            node,
            Ports(
                links,
                journal,
                store,
                trainer,
                bulk,
                clock,
                snapshots,
                auditor,
                ballast=Ballast(site.ledger / "ballast", settings.storage.ballast_mb << 20),
                beacon=beacon,
                alone=Alone(site.alone, trainer.settings) if settings.task.alone else None,
                page=page,
                gate=Gate(
                    policy_of(settings.egress),
                    record_at(site),
                    waiting_at(site),
                    store,
                    signed,
                    me,
                    clock=clock,
                    state=lambda: node.replica.head,
                    tell=lambda fact: report(fact, clock.now()),
                    budget=budget_of(settings, signed),
                    spending=Spending(site.spending_path),
                    private=private,
                    min_cell=settings.task.min_cell,
                ),
                disclosed=Disclosed(site.disclosed_path, least=max(charter.min_cell, settings.task.min_cell)),
                checkpoints=Checkpoints(
                    site.models / "checkpoints",
                    store,
                    layout_path,
                    last=settings.storage.keep_models,
                    every=settings.storage.keep_every,
                    origin=lambda round_, model: origin_of(signed, round_, model),
                    later=bulk.submit,
                ),
            ),
            control=site.control,
            report=report,
            snapshot=console.snapshot,
            linger_s=settings.run.linger_s if settings.run.exit_when_done else None,
            layout_digest=charter.task.layout,
            layout_path=layout_path,
            public=site.ledger,
            curve_key=identity.curve_public,
            keys=site,
            paused=site.paused_path,
            baseline=lambda: baseline_of(site, node.replica.head),
            slots=charter.outer.slots,
            guarded=site.masks_path,
            finished=lambda: endings.append(
                _export(site, signed, node, journal, store, layout_path, report, clock.now())
            ),
        )
        signal.signal(signal.SIGTERM, lambda *_: runtime.stop())
        signal.signal(signal.SIGINT, lambda *_: runtime.stop())
        blobs, partial = store.listing()
        finished = runtime.run(
            Started(
                opened.records,
                blobs,
                partial,
                recovered.snapshot,
                unaudited=auditor.due,
                guarded=site.load_masks(),
            )
        )
        return Ending(finished, node.forked, endings[-1] if endings else "")
    finally:
        trainer.close()
        ways.close()
        console.close()
        if log is not None:
            log.close()
        disk.close()
        lock.close()


def check_own_task(site: Site, settings: Settings, signed: SignedCharter) -> None:
    """Raise `UsageError` unless the site has the task file that the charter was made with."""
    task = site.folder / settings.task.file
    check_task(task)
    check_same(task, signed.charter.task.digest, "couldn't start")


def check_spent(site: Site, settings: Settings, signed: SignedCharter, private: Rounds) -> None:
    """Raise `UsageError` where the record of what is spent lacks rounds that the ledger has as trained privately.

    A site that is paused trains nothing, and may begin all the same.
    """
    if budget_of(settings, signed) is None or site.paused_path.exists():
        return
    told = private.until()
    missing = lacking(Spending(site.spending_path).charges(), signed.ledger_id.hex()[:16], told) if told else []
    if missing:
        raise UsageError(
            f"couldn't start {settings.site.name!r}: {lacking_words(missing)}",
            hint="put the newest privacy/spent back; if it is lost,"
            f" `swarm pause {site.folder}`: it then votes, averages and evaluates, and trains no more",
            identifier=RECORD,
        )


def page_of(site: Site, settings: Settings) -> Beside | None:
    """Return the page that is to be served beside this site's node, not started yet; None if none is.

    Raises:
        UsageError: it may not be served so, as `swarm dashboard` would say.
    """
    page = settings.page
    if not page.listen:
        return None
    from node.cli.dashboard import allowed  # A web server's imports, which a site without a page need not wait for.

    named = {"--cert": page.cert, "--key": page.key, "--token-file": page.token_file}
    files = {option: (site.folder / name) for option, name in named.items() if name}
    allowed(page.listen, files.get("--cert"), files.get("--key"), files.get("--token-file"))
    options = ["--listen", page.listen, *(part for option, path in files.items() for part in (option, str(path)))]
    return Beside(site.folder, options, said=site.run / "page.log", environment=without_secrets(os.environ))


def _lock(site: Site) -> DirectoryLock:
    try:
        return DirectoryLock(site.run / "lock")
    except UsageError as error:
        raise Failure(error.message, code=UNAVAILABLE, hint=error.hint, identifier="SWARM-SITE-IN-USE") from None


def baseline_of(site: Site, state: State) -> Baseline:
    """Return what this site would train alone to have something to hold the swarm's last model against."""
    charter = state.signed.charter
    return Baseline(
        owner=owner_of(state.signed.ledger_id, charter.task.digest),
        rounds=state.committed.round,
        initial=charter.task.initial_model,
        blobs=site.blobs,
        slots=charter.outer.slots,
    )


def trainer_settings(site: Site, settings: Settings, signed: SignedCharter) -> TrainerSettings:
    """Return what the site's trainer needs to know."""
    task = settings.task
    return TrainerSettings(
        task=site.folder / task.file,
        data=site.folder / task.data,
        site=settings.site.name,
        seed=signed.charter.task.seed,
        loader=site.folder / task.loader if task.loader else None,
        device=task.device,
        threads=task.threads,
        processes=task.processes,
        stall_s=task.stall_s,
        round_steps=task.round_steps,
        round_seconds=task.round_seconds,
        coded=signed.charter.codec is not None,
        salt=signed.charter.salt,
        forkserver=Path(task.forkserver) if task.forkserver else None,
        private=site.private / signed.ledger_id.hex()[:16],
        local=signed.charter.local,
        tracks=signed.charter.tracks,
        rounds=signed.charter.round.rounds,
        budget=budget_of(settings, signed),
        spending=site.spending_path,
        ledger=signed.ledger_id.hex()[:16],
    )


def _export(
    site: Site,
    signed: SignedCharter,
    node: Node,
    journal: Journal,
    store: BlobStore,
    layout_path: Path,
    report: Callable[[Report, float], None],
    now: float,
) -> str:
    """Write the committed model for others to use, before anybody is told that it is done.

    Return whose work is missing in it, in words.
    """
    head = node.replica.head
    # From what is the same everywhere, whoever has joined and left: every peer's file should have the same bytes.
    names = {seat.node: seat.name for seat in (*founding(signed.charter).members, *head.terms.members)}
    took_part = participation(journal, head.height, waits=not signed.charter.asynchronous)
    gaps = took_part.gaps()
    words = gaps_words(gaps, names)
    node.account({names.get(one, one.hex()[:8]): numbers for one, numbers in gaps.items()})
    origin = {
        **origin_of(signed, head.committed.round, Digest(head.committed.model)),
        "outcome": "DONE by a subset" if gaps else "DONE by all",
        "sites": ", ".join(names.get(one, one.hex()[:8]) for one in took_part.contributors()),
        "missing": words,
    }
    target = site.models / name_of(head.committed.round)
    try:
        layout = Layout.decode(layout_path.read_bytes())
    except OSError as error:
        raise store_error(f"read {layout_path}", error) from error
    export_model(store.path(Digest(head.committed.model)), layout, target, origin)
    report(Report("exported", f"the model is in {target}", {"path": str(target)}), now)
    best = best_of(head)
    if best is not None and best.model_bytes and best.round != head.committed.round:
        beside = site.models / f"best-{best.round:04d}.safetensors"
        export_model(store.path(Digest(best.model)), layout, beside, origin_of(signed, best.round, Digest(best.model)))
        text = f"the model of the best round, {best.round}, is in {beside}"
        report(Report("exported_best", text, {"path": str(beside), "round": best.round}), now)
    text = (
        f"this is a run of a subset of its sites: no work of {words}" if gaps else "every site's work is in the model"
    )
    level = "warning" if gaps else "info"
    report(Report("took_part", f"{text}. With {origin['sites']}", {"missing": words}, level=level), now)
    return words


def participation(journal: Journal, height: int, *, waits: bool) -> Participation:
    """Return whose work is in which round, from the blocks on the disk: a node remembers the last of them only."""
    found, first = Participation(waits=waits), 1
    while payloads := journal.blocks(first, height, BLOCKS_READ_BYTES):
        for payload in payloads:
            found.read(codec.decode(payload, FinalBlock, limit=2 * BLOCK_BYTES_MAX))
        first += len(payloads)
    return found


def _make_room(site: Site, signed: SignedCharter, report: Callable[[Report, float], None], now: float) -> None:
    """Put away the ledger of another charter if nothing was ever agreed in it, and take out what was put away of ours.

    That is what a site is left with that began with the wrong charter: all others refused it. With the right one it
    should begin, and not have to be told where its folder's files come from.
    """
    disk = RealDisk(site.ledger)
    try:
        owner = foreign(disk, signed.ledger_id)
    finally:
        disk.close()
    if owner is None:
        return
    kept, ours = (site.folder / f"ledger-{one.hex()[:12]}" for one in (owner, signed.ledger_id))
    if kept.exists():
        return  # Opening the ledger says whose it is.
    site.ledger.rename(kept)
    if ours.exists():
        ours.rename(site.ledger)
    text = (
        f"the charter is another one than before, and nothing was agreed under that: its files are in {kept.name} now"
    )
    report(Report("ledger_put_away", text, {"path": str(kept)}, level="warning"), now)


def origin_of(signed: SignedCharter, round_: int, model: Digest) -> Mapping[str, str]:
    """Return where a model comes from, as it is written into its file."""
    ledger = signed.ledger_id.hex()
    return {"swarm": signed.charter.name, "ledger": ledger, "round": str(round_), "model": model.hex()}


def _log(site: Site, settings: Settings, names: TraceNames) -> LogFile | None:
    run = settings.run
    if not run.log_file:
        return None
    return LogFile(
        site.folder / run.log_file,
        node=settings.site.name,
        bytes_max=run.log_file_mb << 20,
        count=run.log_files,
        level=run.log_level,
        names=names,
    )


def _tell_findings(opened: Opened, report: Callable[[Report, float], None], now: float) -> None:
    for finding in opened.findings:
        level = "warning" if finding.verdict == "torn tail" else "error"
        text = f"{finding.path} at byte {finding.offset}: {finding.verdict}, {finding.text}"
        report(Report("journal", text, level=level), now)
    if any(finding.log == BLOCKS and finding.verdict == "corruption" for finding in opened.findings):
        # The node would take the gap for a lie of the others.
        raise LedgerError(
            "couldn't start: the disk lost a part of the ledger", hint=REPAIR, identifier="SWARM-LEDGER-DAMAGED"
        )
    if not opened.votes_trustworthy:
        raise UsageError(
            "couldn't start: the record of this site's votes is damaged, and voting without it could fork the ledger",
            hint="restore the ledger folder from a backup, or rejoin with new keys",
            identifier="SWARM-LEDGER-VOTES",
        )
