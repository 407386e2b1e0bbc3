"""`swarm start`: run this site's peer until it is stopped or the run is done."""

from __future__ import annotations

import signal
from pathlib import Path

import click

from gossip.zeromq import Transport
from node.auditor import Auditor
from node.bulk import BulkWorker
from node.cli.init import FOLDER
from node.cli.ledger.sources import REPAIR
from node.cli.output import FAILED, UNAVAILABLE, Failure, check_task
from node.clock import Clock
from node.config import Settings
from node.console import Console
from node.core import Node
from node.export import export_model
from node.recovery import recover
from node.runtime import Ports, Runtime, free_bytes, seeded
from node.site import Site
from node.storage import BlobStore, DirectoryLock, RealDisk, SnapshotFile, store_error
from node.task import task_digest
from node.trainer import Trainer, TrainerSettings
from swarm.charter import SignedCharter
from swarm.errors import LedgerError, UsageError
from swarm.ledger.journal import BLOCKS, Journal, Opened
from swarm.machine import Digest, Finished, Report, Started
from swarm.vector import Layout


@click.command()
@FOLDER
@click.option("--set", "overrides", multiple=True, metavar="SECTION.KEY=VALUE", help="Override a setting.")
@click.option("--exit-when-done", is_flag=True, help="Stop when the run is done and everybody has the result.")
@click.option("--json", "as_json", is_flag=True, help="Log JSON lines.")
def start(folder: Path, overrides: tuple[str, ...], *, exit_when_done: bool, as_json: bool) -> None:
    """Run the peer of the site in FOLDER."""
    site = Site(folder.resolve())
    extra = (("run.exit_when_done=true",) if exit_when_done else ()) + (("run.log=json",) if as_json else ())
    settings = site.load_settings(overrides=(*overrides, *extra))
    signed = site.load_charter(settings)
    finished = run_site(site, settings, signed)
    if finished is not None and finished.outcome not in ("DONE", "LEFT"):
        raise Failure(f"the run ended {finished.outcome}: {finished.reason}", code=FAILED)


def run_site(site: Site, settings: Settings, signed: SignedCharter) -> Finished | None:
    """Put a node's parts together and run it. Raises `SwarmError` when it cannot begin or go on."""
    charter, identity, me = signed.charter, site.load_identity(), site.node()
    sponsors = site.load_sponsors()
    if charter.index(me) is None and not sponsors:
        raise UsageError(
            f"couldn't start {settings.site.name!r}: it is not a member of {charter.name!r}",
            hint="its keys are not the ones whose card is in the charter; a new site begins with `swarm join`",
        )
    task = site.folder / settings.task.file
    check_task(task)
    if task_digest(task) != charter.task.digest:
        raise UsageError(
            f"couldn't start: {task} is not the task file the charter was made with",
            hint=f"get the file whose SHA-256 begins {charter.task.digest.hex()[:16]}",
        )
    lock = _lock(site)
    # The worker starts first: importing torch takes seconds, and the rest of the start happens meanwhile.
    trainer = Trainer(trainer_settings(site, settings, charter.task.seed))
    trainer.start()
    console = Console(settings.run.log, name=settings.site.name)
    disk = RealDisk(site.ledger)
    try:
        clock = Clock()
        journal = Journal(disk, ledger_id=signed.ledger_id)
        snapshots = SnapshotFile(site.ledger / "snapshot")
        recovered = recover(journal, disk, snapshots, signed)
        opened = recovered.opened
        _tell_findings(opened, console, clock.now())
        store = BlobStore(site.blobs)
        transport = Transport(
            secret_key=identity.curve_secret,
            public_key=identity.curve_public,
            listen=settings.site.listen or None,
            peers=[],  # The ledger says who the members are; the node reads it first.
            clock=clock.now,
            rng=seeded(me),
        )
        bulk = BulkWorker(
            store,
            elements=charter.task.parameters,
            bound=charter.clip_norm,
            wake=transport.wake,
            outer=charter.round.outer,
            codec=charter.codec,
            cuts=charter.cuts,
            averages=charter.averages,
            momentum=charter.momentum,
            follows=charter.follows,
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
            sponsors=sponsors,
            invites=site.load_invites(clock.now()),
            successor=site.load_successor(),
        )
        auditor = Auditor(site.folder, marker=site.ledger / "unaudited", run=site.run)
        layout_path = site.run / "layout"
        runtime = Runtime(
            node,
            Ports(transport, journal, store, trainer, bulk, clock, snapshots, auditor),
            control=site.control,
            report=console.report,
            snapshot=console.snapshot,
            linger_s=settings.run.linger_s if settings.run.exit_when_done else None,
            layout_digest=charter.task.layout,
            layout_path=layout_path,
            public=site.ledger,
            curve_key=identity.curve_public,
            keys=site,
            finished=lambda: _export(site, signed, node, store, layout_path, console, clock.now()),
        )
        signal.signal(signal.SIGTERM, lambda *_: runtime.stop())
        signal.signal(signal.SIGINT, lambda *_: runtime.stop())
        blobs, partial = store.listing()
        return runtime.run(Started(opened.records, blobs, partial, recovered.snapshot, unaudited=auditor.due))
    finally:
        trainer.close()
        console.close()
        disk.close()
        lock.close()


def _lock(site: Site) -> DirectoryLock:
    try:
        return DirectoryLock(site.run / "lock")
    except UsageError as error:
        raise Failure(error.message, code=UNAVAILABLE, hint=error.hint) from None


def trainer_settings(site: Site, settings: Settings, seed: int) -> TrainerSettings:
    """Return what the site's trainer needs to know."""
    task = settings.task
    return TrainerSettings(
        task=site.folder / task.file,
        data=site.folder / task.data,
        site=settings.site.name,
        seed=seed,
        loader=site.folder / task.loader if task.loader else None,
        device=task.device,
        threads=task.threads,
        stall_s=task.stall_s,
        forkserver=Path(task.forkserver) if task.forkserver else None,
    )


def _export(
    site: Site, signed: SignedCharter, node: Node, store: BlobStore, layout_path: Path, console: Console, now: float
) -> None:
    """Write the committed model for others to use, before anybody is told that it is done."""
    head = node.replica.head
    origin = {
        "swarm": signed.charter.name,
        "ledger": signed.ledger_id.hex(),
        "round": str(head.committed.round),
        "model": head.committed.model.hex(),
    }
    target = site.models / f"round-{head.committed.round:04d}.safetensors"
    try:
        layout = Layout.decode(layout_path.read_bytes())
    except OSError as error:
        raise store_error(f"read {layout_path}", error) from error
    export_model(store.path(Digest(head.committed.model)), layout, target, origin)
    console.report(Report("exported", f"the model is in {target}", {"path": str(target)}), now)


def _tell_findings(opened: Opened, console: Console, now: float) -> None:
    for finding in opened.findings:
        level = "warning" if finding.verdict == "torn tail" else "error"
        text = f"{finding.path} at byte {finding.offset}: {finding.verdict}, {finding.text}"
        console.report(Report("journal", text, level=level), now)
    if any(finding.log == BLOCKS and finding.verdict == "corruption" for finding in opened.findings):
        # The node would take the gap for a lie of the others.
        raise LedgerError("couldn't start: the disk lost a part of the ledger", hint=REPAIR)
    if not opened.votes_trustworthy:
        raise UsageError(
            "couldn't start: the record of this site's votes is damaged, and voting without it could fork the ledger",
            hint="restore the ledger folder from a backup, or rejoin with new keys",
        )
