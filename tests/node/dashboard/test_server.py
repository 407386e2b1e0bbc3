"""The page answers those who may look, tells browsers to trust nothing else, and changes nothing."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import pytest
from starlette.applications import Starlette

from node.dashboard import page
from node.dashboard.server import STREAMS_MAX, Access, application, verified
from node.watch.look import Watch
from tests.node.test_cli_ledger import calm, written

TOKEN = "a-token-of-twenty-letters"


class Answer:
    """What came back: status, headers by name in small letters, body so far."""

    def __init__(self) -> None:
        self.status, self.headers, self.body = 0, dict[str, str](), b""


async def ask(
    app: Starlette, path: str, *, host: str = "127.0.0.1:9460", method: str = "GET", enough: int = 1 << 30, **extra: str
) -> Answer:
    """Ask the application as a server would. Of a stream, leave once `enough` bytes have come."""
    path, _, query = path.partition("?")
    headers = [(b"host", host.encode()), *((name.encode(), value.encode()) for name, value in extra.items())]
    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http",
        "path": path, "raw_path": path.encode(), "query_string": query.encode(), "headers": headers, "root_path": "",
    }  # fmt: skip
    answer, left = Answer(), asyncio.Event()

    async def receive() -> Mapping[str, object]:
        if left.is_set():
            return {"type": "http.disconnect"}
        await asyncio.sleep(0)
        if not answer.status:
            return {"type": "http.request", "body": b"", "more_body": False}
        await left.wait()
        return {"type": "http.disconnect"}

    async def send(message: Mapping[str, object]) -> None:
        if message["type"] == "http.response.start":
            answer.status = int(str(message["status"]))
            fields = message["headers"]
            assert isinstance(fields, list)
            answer.headers = {name.decode(): value.decode() for name, value in fields}
        else:
            body = message.get("body", b"")
            assert isinstance(body, bytes)
            answer.body += body
            if len(answer.body) >= enough:
                left.set()

    await app(scope, receive, send)  # type: ignore[arg-type]
    return answer


@pytest.fixture
def site(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


def asked(site: Path, ask_all: Callable[[Starlette], Awaitable[None]], *, token: str = "") -> None:
    """Run questions against a page, and let it end."""

    async def verify() -> Mapping[str, object]:
        return {"holds": True}

    async def main() -> None:
        app = application(Watch(site), Access(token=token), verify=verify)
        async with app.router.lifespan_context(app):
            await ask_all(app)

    asyncio.run(main())


def test_the_page_and_all_that_it_needs_are_here_and_may_do_nothing_else(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        index = await ask(app, "/")
        assert index.status == 200
        policy = index.headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        for name in ("page.css", page.LIBRARY, *page.MODULES):
            assert (await ask(app, f"/static/{name}")).status == 200
        for name in ("../server.py", "page.html", "vendor/VENDOR.json", ""):
            assert (await ask(app, f"/static/{name}")).status == 404

    asked(site, questions)


def test_a_name_that_was_made_to_point_here_is_not_answered(site: Path) -> None:
    """DNS rebinding: a page elsewhere has its own name point to 127.0.0.1, and asks as if it were this one's."""

    async def questions(app: Starlette) -> None:
        for host in ("127.0.0.1:9460", "localhost:1", "[::1]:9460", "[::1]", "localhost"):
            assert (await ask(app, "/api/v1/state", host=host)).status == 200, host
        for host in ("evil.example:9460", "evil.example", "127.0.0.1.evil.example:1", "[::1].evil.example", ""):
            assert (await ask(app, "/api/v1/state", host=host)).status == 421, host

    asked(site, questions)


def test_nothing_can_be_changed(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        for method in ("POST", "PUT", "DELETE", "OPTIONS"):
            assert (await ask(app, "/api/v1/state", method=method)).status == 405

    asked(site, questions)


def test_with_a_token_nobody_is_answered_without_it(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        for path in ("/", "/api/v1/state", "/events", "/metrics", "/static/main.js"):
            assert (await ask(app, path, host="site.example")).status == 401
            assert (await ask(app, f"{path}?token=wrong", host="site.example")).status == 401
        given = await ask(app, f"/?token={TOKEN}", host="site.example")
        assert given.status == 303
        assert TOKEN not in given.headers["location"], "it does not stay in the address"
        cookie = given.headers["set-cookie"]
        assert all(word in cookie for word in ("HttpOnly", "Secure", "SameSite=strict"))
        assert (await ask(app, "/", host="site.example", cookie=cookie.partition(";")[0])).status == 200
        assert (await ask(app, "/metrics", host="site.example", authorization=f"Bearer {TOKEN}")).status == 200
        assert (await ask(app, "/metrics", host="site.example", authorization=TOKEN)).status == 401

    asked(site, questions, token=TOKEN)


def test_what_cannot_be_answered_is_said_in_words(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        for path in ("/api/v1/state?since=-1", "/api/v1/entries?before=x", "/api/v1/blocks?from=" + "9" * 40):
            answer = await ask(app, path)
            assert (answer.status, b"is a number, not" in answer.body) == (400, True)

    asked(site, questions)


def test_the_ledger_is_given_in_parts(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        entries = json.loads((await ask(app, "/api/v1/entries?kind=round_commit")).body)
        assert [one["round"] for one in entries["entries"]] == [2, 1]
        blocks = (await ask(app, "/api/v1/blocks?from=1")).body
        assert sum(4 + len(payload) for payload in calm()[1]) == len(blocks)
        roots = json.loads((await ask(app, "/api/v1/roots")).body)
        assert roots["ledger_id"] == calm()[0].ledger_id.hex()
        assert json.loads((await ask(app, "/api/v1/verdict")).body) == {"holds": True}

    asked(site, questions)


def test_a_stream_begins_with_how_things_stand_and_ends_with_its_reader(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        for _ in range(STREAMS_MAX + 1):  # Were one not let go of when its reader leaves, the last would be refused.
            answer = await ask(app, "/events?since=1", enough=1)
            assert answer.status == 200
        told = json.loads(answer.body.decode().removeprefix("data: "))
        assert told["state"]["committed"] == 2
        assert answer.headers["content-type"].startswith("text/event-stream")

    asked(site, questions)


def test_numbers_and_health_are_those_of_the_metrics_command(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        assert f"swarm_ledger_blocks {len(calm()[1])}.0".encode() in (await ask(app, "/metrics")).body
        assert (await ask(app, "/healthz")).status == 503
        assert (await ask(app, "/readyz")).status == 200

    asked(site, questions)


def test_a_ledger_that_was_damaged_is_an_answer_and_not_the_end(site: Path) -> None:
    async def questions(app: Starlette) -> None:
        assert (await ask(app, "/api/v1/state")).status == 200
        [segment] = (site / "ledger" / "blocks").glob("*.seg")
        segment.write_bytes(bytes(segment.stat().st_size))
        answer = await ask(app, "/api/v1/blocks?from=1")
        assert (answer.status, "error" in json.loads(answer.body)) == (503, True)

    asked(site, questions)


@pytest.mark.real
def test_the_sites_own_check_says_what_is_wrong(site: Path) -> None:
    command = (sys.executable, "-m", "node.cli.main", "ledger", "verify", str(site), "--json")
    assert asyncio.run(verified(command))["holds"] is True
    [segment] = (site / "ledger" / "blocks").glob("*.seg")
    data = bytearray(segment.read_bytes())
    data[len(bytes(data).rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(data)
    found = asyncio.run(verified(command))
    assert (found["holds"], "damaged" in str(found["told"])) == (False, True)


def test_a_check_that_cannot_run_is_no_ledger_that_holds() -> None:
    found = asyncio.run(verified(("false",)))
    assert found == {"holds": False, "text": "the check itself failed, with exit code 1"}
