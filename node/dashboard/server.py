"""SHELL. The page over HTTP: read-only, on loopback or behind a token and TLS, and nothing from anywhere else.

What is shown is no secret of those who may read the site's ledger, but it is nobody else's. So a browser is told to
take nothing from elsewhere and to tell nobody (the policy below), a page that another site made cannot read this one's
answers (no CORS), and a name that was made to point here is not answered (DNS rebinding: the host is checked).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import json
import re
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, RedirectResponse, Response
from starlette.responses import StreamingResponse as Streaming
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from node.cli.ledger.entries import Wanted
from node.dashboard import explorer, page
from node.dashboard.feed import Feed
from node.watch.look import Watch
from node.watch.server import registry_of, unready
from swarm.errors import SwarmError

T = TypeVar("T")

Verify: TypeAlias = Callable[[], Coroutine[None, None, Mapping[str, object]]]
"""Checks a ledger whole, and says what came of it."""

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' data:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

HEADERS = {
    "Content-Security-Policy": POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cache-Control": "no-store",
}

LOCAL_NAMES = ("127.0.0.1", "localhost", "[::1]")
STREAMS_MAX = 32
"""Pages that are told news as it comes; further ones ask for it."""

COOKIE = "swarm_page"

_HOST = re.compile(r"(\[[0-9a-f:]*\]|[^:]*)(?::[0-9]+)?")
"""A name or an address, and perhaps a port."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who is answered. Without a `token` only who asks for this machine by one of its own names."""

    token: str = ""


class Guard:
    """Answers nobody who may not look, and tells browsers what this page may do."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or refuse."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        refusal = self._refusal(request)

        async def told(message: Mapping[str, object]) -> None:
            if message["type"] == "http.response.start":
                fields = [(name.lower().encode(), value.encode()) for name, value in HEADERS.items()]
                headers = message.get("headers", ())
                assert isinstance(headers, (list, tuple)), "as the interface has it"
                message = {**message, "headers": [*headers, *fields]}
            await send(dict(message))

        await (refusal or self._app)(scope, receive, told)

    def _refusal(self, request: Request) -> ASGIApp | None:
        if request.method not in ("GET", "HEAD"):
            return PlainTextResponse("only to be read\n", 405)
        if not self._access.token:
            host = _HOST.fullmatch(request.headers.get("host", ""))
            local = host is not None and host[1] in LOCAL_NAMES
            return None if local else PlainTextResponse("ask for 127.0.0.1\n", 421)
        given = request.query_params.get("token")
        if given is not None and self._fits(given):
            answer = RedirectResponse("." if request.url.path == "/" else request.url.path, 303)
            answer.set_cookie(COOKIE, given, httponly=True, secure=True, samesite="strict")
            return answer
        scheme, _, bearer = request.headers.get("authorization", "").partition(" ")
        if self._fits(request.cookies.get(COOKIE, "")) or (scheme.lower() == "bearer" and self._fits(bearer)):
            return None
        return PlainTextResponse("open the address that `swarm dashboard` printed, with its token\n", 401)

    def _fits(self, given: str) -> bool:
        return hmac.compare_digest(given.encode(), self._access.token.encode())


def application(watch: Watch, access: Access, *, verify: Verify) -> Starlette:
    """Return what answers. `verify` checks the ledger whole, signatures and all, and says what came of it."""
    feed = Feed(watch)
    verdicts = _Verdicts(verify)
    streams = 0

    async def index(_: Request) -> Response:
        return HTMLResponse(page.live())

    async def static(request: Request) -> Response:
        name = str(request.path_params["name"])
        if name == "page.css":
            return Response(page.style(), media_type="text/css")
        if name not in (*page.MODULES, page.LIBRARY):
            return PlainTextResponse("there is no such file\n", 404)
        return Response(page.text_of(name), media_type="text/javascript")

    async def state(request: Request) -> Response:
        return Response(await feed.update(_number(request, "since", 0)), media_type="application/json")

    async def events(request: Request) -> Response:
        nonlocal streams
        if streams >= STREAMS_MAX:
            return PlainTextResponse("too many pages are open: ask for api/v1/state now and then\n", 503)

        async def told() -> AsyncIterator[str]:
            nonlocal streams
            streams += 1
            try:
                async for update in feed.stream(_number(request, "since", 0)):
                    yield f"data: {update}\n\n" if update else ": still here\n\n"
            finally:
                streams -= 1

        headers = {"X-Accel-Buffering": "no"}
        return Streaming(told(), media_type="text/event-stream", headers=headers)

    async def entries(request: Request) -> Response:
        query = request.query_params
        number = _number(request, "round", None)
        wanted = Wanted(number, number, query.get("author") or None, query.get("kind") or None)
        before, count = _number(request, "before", sys.maxsize), _number(request, "count", 50)
        return JSONResponse(
            await feed.ledger(lambda seen: explorer.entries(seen.following, seen.files, wanted, before, count))
        )

    async def blocks(request: Request) -> Response:
        first = _number(request, "from", 1)
        found = await feed.ledger(lambda seen: b"".join(explorer.blocks(seen.following, first)))
        return Response(found, media_type="application/octet-stream")

    async def roots(_: Request) -> Response:
        return JSONResponse(await feed.ledger(lambda seen: explorer.roots(seen.following.result, seen.files)))

    async def verdict(_: Request) -> Response:
        return JSONResponse(await verdicts.get())

    async def metrics(request: Request) -> Response:
        look = await feed.look()
        encode, kind = choose_encoder(request.headers.get("accept", ""))
        return Response(await feed.within(lambda _: encode(registry_of(lambda: look))), headers={"Content-Type": kind})

    async def healthz(_: Request) -> Response:
        up = (await feed.look()).status is not None
        return JSONResponse({"node": up}, 200 if up else 503)

    async def readyz(_: Request) -> Response:
        why = unready(await feed.look())
        return JSONResponse({"ready": not why, "why": why}, 503 if why else 200)

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        verdicts.cancel()
        feed.close()

    routes = {
        "/": index,
        "/static/{name:path}": static,
        "/events": events,
        "/api/v1/state": state,
        "/api/v1/entries": entries,
        "/api/v1/blocks": blocks,
        "/api/v1/roots": roots,
        "/api/v1/verdict": verdict,
        "/metrics": metrics,
        "/healthz": healthz,
        "/readyz": readyz,
    }
    app = Starlette(
        routes=[Route(path, answer) for path, answer in routes.items()],
        lifespan=lifespan,
        exception_handlers={SwarmError: _said, _Unfit: _unfit},
    )
    app.add_middleware(Guard, access=access)
    return app


class _Unfit(Exception):
    """A question that cannot be answered as it was asked."""


def _number(request: Request, name: str, default: T) -> int | T:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isascii() or not text.isdecimal() or len(text) > len(str(sys.maxsize)):
        raise _Unfit(f"{name} is a number, not {text[:40]!r}")
    return int(text)


async def _unfit(_: Request, error: Exception) -> Response:
    return PlainTextResponse(f"{error}\n", 400)


async def _said(_: Request, error: Exception) -> Response:
    assert isinstance(error, SwarmError), "it is asked for those"
    return JSONResponse({"error": error.message, "hint": error.hint}, 503)


class _Verdicts:
    """A whole check of the ledger, one at a time, whoever asks; what came of the last one is kept until asked anew."""

    def __init__(self, verify: Verify) -> None:
        self._verify = verify
        self._running: asyncio.Task[Mapping[str, object]] | None = None

    async def get(self) -> Mapping[str, object]:
        """Begin a check if none runs, and wait for its end."""
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._verify())
        return await asyncio.shield(self._running)

    def cancel(self) -> None:
        """Let go of a check that runs."""
        if self._running is not None:
            self._running.cancel()


async def verified(command: tuple[str, ...]) -> Mapping[str, object]:
    """Return what `swarm ledger verify --json` says, in a process of its own: it is much work, and may be ended."""
    process = await asyncio.create_subprocess_exec(
        *command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        told, _ = await process.communicate()
    except asyncio.CancelledError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        raise
    try:
        found: Mapping[str, object] = json.loads(told)
    except ValueError:
        return {"holds": False, "text": f"the check itself failed, with exit code {process.returncode}"}
    return {"holds": process.returncode == 0, "code": process.returncode, "told": found}
