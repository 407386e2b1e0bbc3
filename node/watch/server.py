"""SHELL. What monitoring asks a site over HTTP: `/metrics`, `/healthz`, `/readyz`.

Read-only, and on loopback unless told otherwise: nothing here is secret from whoever may look at the site's ledger, but
who was in which round is nobody else's business. A look is at most a second old, however many ask.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from typing_extensions import override

from node.clock import Clock
from node.watch.alerts import ERROR, alerts, members
from node.watch.look import Look, Watch
from node.watch.metrics import families

if TYPE_CHECKING:
    from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

FRESH_S = 1.0
"""How old a look may be that somebody is shown."""

PATIENCE_S = 5.0
"""With somebody who connects and asks nothing: the next one waits."""


class Latest:
    """The latest look, made anew when somebody asks and it is old."""

    def __init__(self, look: Callable[[], Look]) -> None:
        self._make, self._clock = look, Clock()
        self._look: Look | None = None
        self._at = 0.0

    def get(self) -> Look:
        """Return it."""
        now = self._clock.now()
        if self._look is None or now - self._at >= FRESH_S:
            self._look, self._at = self._make(), now
        return self._look


class _Families(Collector):
    def __init__(self, look: Callable[[], Look]) -> None:
        self._look = look

    @override
    def collect(self) -> Iterable[Metric]:
        return families(self._look())


def registry_of(look: Callable[[], Look]) -> CollectorRegistry:
    """Return a look in numbers as Prometheus's library writes them, made anew each time that it does."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(look))
    return registry


def unready(look: Look) -> list[str]:
    """Return why this site could not take part in a round now; empty if it could."""
    found = [one.text for one in alerts(look) if one.level == ERROR or one.name in ("paused", "resting", "disk")]
    if look.status is not None:
        quorum = int(str(look.status["quorum"]))
        linked = sum(bool(one.get("linked")) for one in members(look) if one.get("member"))
        if linked < quorum:
            found.append(f"it is linked to {linked - 1} members, and a quorum is {quorum} with itself")
    return found


class _Quiet(WSGIRequestHandler):
    timeout = PATIENCE_S

    @override
    def log_message(self, format: str, *args: object) -> None:
        pass  # That somebody scrapes every few seconds is no news.


def server(watch: Watch, host: str, port: int) -> WSGIServer:
    """Return a server that is bound, and serves when it is let. Raises `OSError` when it cannot listen there.

    It answers one question at a time, so that no look changes while it is told.
    """
    return make_server(host, port, application(watch.look), handler_class=_Quiet)


def application(look: Callable[[], Look]) -> WSGIApplication:
    """Return what answers."""
    latest = Latest(look)
    registry = registry_of(latest.get)

    def metrics(environment: WSGIEnvironment) -> tuple[str, str, bytes]:
        encode, kind = choose_encoder(str(environment.get("HTTP_ACCEPT", "")))
        return OK, kind, encode(registry)

    def alive(_: WSGIEnvironment) -> tuple[str, str, bytes]:
        status = latest.get().status
        return (OK if status is not None else GONE), JSON, json.dumps({"node": status is not None}).encode()

    def ready(_: WSGIEnvironment) -> tuple[str, str, bytes]:
        why = unready(latest.get())
        return (GONE if why else OK), JSON, json.dumps({"ready": not why, "why": why}).encode()

    pages = {"/metrics": metrics, "/healthz": alive, "/readyz": ready}

    def answer(environment: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        page = pages.get(environment["PATH_INFO"])
        if environment["REQUEST_METHOD"] not in ("GET", "HEAD"):
            status, kind, body = "405 Method Not Allowed", "text/plain", b"only to be read\n"
        elif page is None:
            status, kind, body = "404 Not Found", "text/plain", f"there are {', '.join(pages)}\n".encode()
        else:
            status, kind, body = page(environment)
        start(status, [("Content-Type", kind), ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        return [] if environment["REQUEST_METHOD"] == "HEAD" else [body]

    return answer


OK, GONE, JSON = "200 OK", "503 Service Unavailable", "application/json"
