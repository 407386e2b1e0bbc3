"""`swarm metrics`: what a site's ledger and node say, in numbers, for Prometheus and whatever watches services."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import click

from node.cli.init import FOLDER, JSON
from node.cli.output import FAILED, Failure, emit, tell
from swarm.errors import UsageError

LOOPBACK = ("127.0.0.1", "::1", "localhost")


@click.command(epilog="Example: swarm metrics --listen 127.0.0.1:9464")
@FOLDER
@click.option("--listen", metavar="HOST:PORT", help="Serve /metrics, /healthz and /readyz there until interrupted.")
@click.option("--anywhere", is_flag=True, help="Let HOST be another address than loopback: nothing there is encrypted.")
@JSON
def metrics(folder: Path, listen: str | None, *, anywhere: bool, as_json: bool) -> None:
    """Print how the site in FOLDER stands, as numbers in Prometheus's format, or serve them.

    They come from its ledger and, while its node runs, from the node. Signatures are not checked here.
    """
    from prometheus_client import generate_latest

    from node.watch.alerts import alerts
    from node.watch.look import Watch
    from node.watch.metrics import families
    from node.watch.server import registry_of, server, unready

    address = None if listen is None else _address(listen, anywhere=anywhere)
    watch = Watch(folder)
    try:
        if address is None:
            look = watch.look()
            told = [
                {"name": sample.name, "labels": sample.labels, "value": sample.value}
                for family in families(look)
                for sample in family.samples
            ]
            why = unready(look)
            data = {"samples": told, "alerts": [asdict(one) for one in alerts(look)], "ready": not why, "why": why}
            emit(data, as_json=as_json, text=generate_latest(registry_of(lambda: look)).decode().rstrip())
            return
        host, port = address
        try:
            serving = server(watch, host, port)
        except OSError as error:
            text = f"couldn't listen on {listen}: {error.strerror or error}"
            raise Failure(text, code=FAILED, hint="choose another port: something else may use this one") from error
        with serving:
            tell("serving", f"serving http://{listen}/metrics, /healthz and /readyz; interrupt to end")
            try:
                serving.serve_forever()
            except KeyboardInterrupt:  # The way to end it.
                return
    finally:
        watch.close()


def _address(text: str, *, anywhere: bool) -> tuple[str, int]:
    """Return (host, port). Raises `UsageError` for what is none, or is seen by others without that being asked for."""
    host, port = host_and_port(text)
    if host not in LOOPBACK and not anywhere:
        raise UsageError(
            f"couldn't listen on {host}: whoever reaches it sees who was in which round, unencrypted",
            hint="use 127.0.0.1, or give --anywhere where a firewall or a proxy with TLS stands before it",
        )
    return host, port


def host_and_port(text: str) -> tuple[str, int]:
    """Return what `--listen` names: (host, port). Raises `UsageError` for what is no such pair."""
    host, _, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not host or not (port.isascii() and port.isdecimal()) or not 0 < int(port) < 65_536:
        raise UsageError(f"couldn't use --listen {text}", hint="write an address and a port, as 127.0.0.1:9464")
    return host, int(port)
