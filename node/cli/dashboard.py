"""`swarm dashboard`: the live page of a site, or the same page as one file."""

from __future__ import annotations

import asyncio
import ipaddress
import os
import secrets
import socket
import ssl
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.init import FOLDER, JSON
from node.cli.metrics import host_and_port
from node.cli.output import FAILED, Failure, emit
from swarm.errors import UsageError

if TYPE_CHECKING:
    from node.watch.look import Watch

LISTEN = "127.0.0.1:9460"

BLOCKS_MAX = 16 << 20
"""Bytes of blocks that go into a file: it is to be mailed."""


@click.command(epilog="Example: swarm dashboard hospital-a --listen 127.0.0.1:9460")
@FOLDER
@click.option("--listen", metavar="HOST:PORT", default=LISTEN, show_default=True, help="Serve the page there.")
@click.option("--cert", type=click.Path(path_type=Path), help="Certificate of that host (PEM), for TLS.")
@click.option("--key", type=click.Path(path_type=Path), help="Its private key (PEM).")
@click.option(
    "--token-file", type=click.Path(path_type=Path), help="What a browser must know; made if it is not there."
)
@click.option(
    "--export", type=click.Path(path_type=Path), help="Write the page as one file that needs nothing, and end."
)
@click.option("--until-eof", is_flag=True, help="End when standard input does: for what starts it as a part of itself.")
@JSON
def dashboard(
    folder: Path,
    listen: str,
    cert: Path | None,
    key: Path | None,
    token_file: Path | None,
    export: Path | None,
    *,
    until_eof: bool,
    as_json: bool,
) -> None:
    """Show the site in FOLDER in a browser: rounds, links, scores, contributions, and the ledger.

    It only shows, and runs beside the node: nothing can be changed there, and it delays no round. On another address
    than this machine's own it takes a certificate and a token.
    """
    from node.watch.look import Watch

    if export is not None:
        watch = Watch(folder)
        try:
            emit(_export(watch, export), as_json=as_json, text=f"wrote {export}")
        finally:
            watch.close()
        return
    host, port, token, tls = allowed(listen, cert, key, token_file)
    watch = Watch(folder)
    watch.look()  # Whatever is wrong with the ledger is better said here than in a browser.
    try:
        bound = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        text = f"couldn't listen on {listen}: {os.strerror(error.errno or 0)}"
        raise Failure(text, code=FAILED, hint="choose another port: something else may use this one") from error
    scheme = "https" if tls else "http"
    shown = f"[{host}]" if ":" in host else host
    address = f"{scheme}://{shown}:{port}/" + (f"?token={token}" if token else "")
    emit({"address": address}, as_json=as_json, text=f"the page is at {address}; interrupt to end")
    asyncio.run(_serve(watch, folder, bound, token, tls, until_eof=until_eof))


def allowed(
    listen: str, cert: Path | None, key: Path | None, token_file: Path | None
) -> tuple[str, int, str, tuple[str, str] | None]:
    """Return (host, port, token or empty, certificate and key if there are) by which the page may be served.

    Raises:
        UsageError: on another address than loopback without TLS and a token; an address or a file that is of no use.
    """
    host, port = _address(listen)
    local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    if not local and not (cert and key and token_file):
        raise UsageError(
            f"couldn't serve the page on {host}: others would read it on the way, and whoever reaches it would see it",
            hint="give --cert, --key and --token-file, or use 127.0.0.1 and a tunnel: ssh -L 9460:127.0.0.1:9460",
        )
    return host, port, "" if token_file is None else _token(token_file), _tls(cert, key)


def _export(watch: Watch, path: Path) -> dict[str, object]:
    from node.cli.ledger.entries import EVERY
    from node.dashboard import documents, explorer, page

    look = watch.look()
    data = {
        "at_s": look.at_s,
        "state": documents.state(look),
        "rounds": documents.rounds(look.audit),
        "roots": explorer.roots(watch.following.result, watch.files),
        "entries": explorer.entries(watch.following, watch.files, EVERY, sys.maxsize, 200),
    }
    records = list(explorer.blocks(watch.following, 1, limit=BLOCKS_MAX))
    complete = len(records) == look.audit.blocks
    text = page.standalone(f"{look.audit.state.signed.charter.name}: {look.name}", data, records if complete else None)
    try:
        path.write_text(text, "utf-8")
    except OSError as error:
        reason = error.strerror or str(error)
        raise Failure(f"couldn't write {path}: {reason}", code=FAILED, hint="choose another place") from error
    return {"path": str(path), "bytes": len(text.encode()), "blocks": look.audit.blocks if complete else 0}


def _address(text: str) -> tuple[str, int]:
    """Return (host, port). Raises `UsageError` for what is none: a name could mean any address but this machine's."""
    host, port = host_and_port(text)
    try:
        if host != "localhost":
            ipaddress.ip_address(host)
    except ValueError:
        raise UsageError(
            f"couldn't use --listen {text}", hint="write an address and a port, as 127.0.0.1:9460"
        ) from None
    return host, port


def _token(path: Path) -> str:
    """Return what is in a file that nobody else can read; make it if it is not there."""
    try:
        if not path.exists():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w") as file:
                file.write(secrets.token_urlsafe(24) + "\n")
        if path.stat().st_mode & 0o077:
            raise UsageError(f"couldn't use {path}: others can read it", hint=f"chmod 600 {path}")
        token = path.read_text("utf-8").strip()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"couldn't use {path}: {reason}", hint="choose another --token-file") from error
    if len(token) < 16 or not token.isascii() or not token.isprintable() or " " in token:
        raise UsageError(f"couldn't use the token in {path}: it is too short or not plain text", hint="remove the file")
    return token


def _tls(cert: Path | None, key: Path | None) -> tuple[str, str] | None:
    """Return a certificate and its key that fit. Raises `UsageError` when they do not."""
    if cert is None and key is None:
        return None
    if cert is None or key is None:
        raise UsageError("couldn't use TLS: it takes --cert and --key", hint="give both, or neither")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key)
    except (OSError, ssl.SSLError) as error:
        raise UsageError(
            f"couldn't use {cert} and {key}: {error}", hint="give a certificate and its own key"
        ) from error
    return str(cert), str(key)


async def _serve(
    watch: Watch, folder: Path, bound: socket.socket, token: str, tls: tuple[str, str] | None, *, until_eof: bool
) -> None:
    import uvicorn

    from node.dashboard.server import Access, application, verified

    command = (sys.executable, "-m", "node.cli.main", "ledger", "verify", str(folder), "--json")
    app = application(watch, Access(token=token), verify=lambda: verified(command))
    config = uvicorn.Config(
        app,
        log_level="critical",
        access_log=False,
        lifespan="on",
        server_header=False,
        date_header=False,
        timeout_graceful_shutdown=1,
        ssl_certfile=tls[0] if tls else None,
        ssl_keyfile=tls[1] if tls else None,
    )
    server = uvicorn.Server(config)

    def await_eof() -> None:
        sys.stdin.buffer.read()
        server.should_exit = True

    if until_eof:
        threading.Thread(target=await_eof, name="eof", daemon=True).start()
    with bound:
        await server.serve(sockets=[bound])
