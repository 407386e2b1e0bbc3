"""`swarm top`: a site on one screen of a terminal, as it goes."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.output import emit
from node.clock import sleep

LOOK_S = 1.0


@click.command(epilog="Example: ssh hospital-a swarm top /srv/swarm")
@FOLDER
@click.option("--once", is_flag=True, help="Show it once, and end: so it is where this is no terminal, too.")
@JSON
def top(folder: Path, *, once: bool, as_json: bool) -> None:
    """Watch the site in FOLDER on a terminal: alerts, links, and how the last rounds went. Ends with Ctrl-C.

    For where there is no browser; `swarm dashboard` shows more.
    """
    from rich.console import Console
    from rich.live import Live

    from node.dashboard import documents
    from node.watch.alerts import alerts
    from node.watch.look import Watch
    from node.watch.screen import screen

    watch, terminal = Watch(folder), Console(highlight=False)
    try:
        look = watch.look()
        if as_json or once or not terminal.is_terminal:
            with terminal.capture() as drawn:
                terminal.print(screen(look, width=terminal.width, height=max(terminal.height, 40)))
            data = {"state": documents.state(look), "alerts": [asdict(one) for one in alerts(look)]}
            emit(data, as_json=as_json, text=drawn.get().rstrip())
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
