"""`swarm top`: a site on one screen of a terminal, as it goes."""

from __future__ import annotations

import os
import sys
from dataclasses import asdict
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.output import emit
from node.clock import sleep
from node.terminal import Claim, can_be_drawn_on
from swarm.errors import UsageError

LOOK_S = 1.0


@click.command(epilog="Example: ssh hospital-a swarm top /srv/swarm")
@FOLDER
@click.option("--once", is_flag=True, help="Show it once, and end: so it is where this is no terminal, too.")
@JSON
def top(folder: Path, *, once: bool, as_json: bool) -> None:
    """Watch the site in FOLDER on a terminal: alerts, links, and how the last rounds went. Ends with Ctrl-C.

    For where there is no browser; `swarm dashboard` shows more. What cannot be drawn on is shown it once.
    """
    from rich.console import Console
    from rich.live import Live

    from node.dashboard import documents
    from node.watch.alerts import alerts
    from node.watch.look import Watch
    from node.watch.screen import screen

    watch, terminal = Watch(folder), Console(highlight=False)
    drawn = not (as_json or once) and can_be_drawn_on(sys.stdout, os.environ)
    claim = Claim(sys.stdout) if drawn else None
    try:
        if claim is not None and not claim.granted:
            raise UsageError(
                f"couldn't watch {folder} here: another live view draws on this terminal",
                hint="watch it in a terminal of its own, or look once: swarm top --once",
            )
        look = watch.look()
        if not drawn:
            with terminal.capture() as told:
                terminal.print(screen(look, width=terminal.width, height=max(terminal.height, 40)))
            data = {"state": documents.state(look), "alerts": [asdict(one) for one in alerts(look)]}
            emit(data, as_json=as_json, text=told.get().rstrip())
            return
        with Live(console=terminal, screen=True, auto_refresh=False) as live:
            while True:
                live.update(screen(look, width=terminal.width, height=terminal.height), refresh=True)
                sleep(LOOK_S)
                look = watch.look()
    except KeyboardInterrupt:  # The way to end it.
        return
    finally:
        watch.close()
        if claim is not None:
            claim.close()
