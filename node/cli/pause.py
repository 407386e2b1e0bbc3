"""`swarm pause` and `swarm resume`: whether this site trains. Its peer votes and serves the others all the same."""

from __future__ import annotations

from pathlib import Path

import click

from node.cli.control import ask
from node.cli.init import FOLDER, JSON
from node.cli.output import UNAVAILABLE, Failure, emit
from node.runtime import set_paused
from node.site import Site
from node.storage import DirectoryLock
from swarm.errors import UsageError

PAUSED = "the others close rounds without it and do not wait; it votes, and serves the ledger and models as before"


@click.command()
@FOLDER
@JSON
def pause(folder: Path, *, as_json: bool) -> None:
    """Let the site in FOLDER train nothing from now on, across restarts. What it is training is given up.

    Asks its running peer; if none runs, its next start begins paused.
    """
    changed, runs = _say(Site(folder), "pause")
    before = "" if changed else "it was paused already; "
    now = (
        f"paused: {before}{PAUSED}" if runs else f"paused: {before}no node runs here, and its next start trains nothing"
    )
    _tell(folder, now, "go on with `swarm resume`", paused=True, changed=changed, runs=runs, as_json=as_json)


@click.command()
@FOLDER
@JSON
def resume(folder: Path, *, as_json: bool) -> None:
    """Let the site in FOLDER train again."""
    changed, runs = _say(Site(folder), "resume")
    now = (
        "it was not paused"
        if not changed
        else "resumed"
        if runs
        else "resumed: no node runs here, its next start trains"
    )
    _tell(folder, now, "", paused=False, changed=changed, runs=runs, as_json=as_json)


def _tell(folder: Path, now: str, then: str, *, paused: bool, changed: bool, runs: bool, as_json: bool) -> None:
    data = {"folder": str(folder), "paused": paused, "changed": changed, "running": runs}
    emit(data, as_json=as_json, text=f"{now}; {then}" if then else now)


def _say(site: Site, question: str) -> tuple[bool, bool]:
    """Return whether that has changed anything, and whether a node was there to hear it.

    Raises:
        UsageError: there is no site.
        Failure: a node is running and does not answer.
    """
    if not site.settings_path.exists():
        raise UsageError(f"couldn't find a site in {site.folder}", hint="name the folder of a site")
    try:
        return bool(ask(site.control, question)["changed"]), True
    except Failure as silent:
        try:
            lock = DirectoryLock(site.run / "lock")
        except UsageError:
            raise Failure(
                f"couldn't {question} {site.folder}: its node is running and does not answer",
                code=UNAVAILABLE,
                hint="it may be starting: try again in a moment",
            ) from silent
    wanted = question == "pause"
    try:
        changed = site.paused_path.exists() != wanted
        set_paused(site.paused_path, paused=wanted)
    finally:
        lock.close()
    return changed, False
