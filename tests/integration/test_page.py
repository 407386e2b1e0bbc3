"""The live page in a browser, against real peers: what it shows is what the ledger says, and it shows it in time.

Needs Chromium and the extra `page`: `make test-page` installs what pip can, and says what else is missing.
"""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from typing import TYPE_CHECKING, Any

import pytest

import node.examples
from gossip.peers import ABSENCE_S_MIN, ABSENCE_SHARE
from node.cli.ledger.reading import verify_quietly
from node.data import write_breast_cancer
from node.local import LocalPeer, found, stop_all
from swarm import codec
from swarm.ledger.audit import mean_scores
from swarm.ledger.entry import METRIC_SCALE
from tests.integration.peers import wait
from tests.node.test_cli_ledger import calm, data, written

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

playwright = pytest.importorskip("playwright.sync_api", reason="the extra `page` is not installed: make test-page")
CHROMIUM = which("chromium") or which("chromium-browser") or which("google-chrome")

pytestmark = [
    pytest.mark.real,
    pytest.mark.timeout(300),
    pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here: apt-get install chromium"),
]

TASK = Path(node.examples.__file__).parent / "breast_cancer.py"
PATIENCE_S = 8.0
LOOK_S = 2.0
"""From a change to the page: a look a second, and a moment to draw it."""


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with playwright.sync_playwright() as driver:
        opened = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@contextmanager
def served(folder: Path) -> Iterator[str]:
    """A site's page, served by a process of its own, as people run it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [
        sys.executable,
        "-m",
        "node.cli.main",
        "dashboard",
        str(folder),
        "--listen",
        f"127.0.0.1:{port}",
        "--json",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            told = json.loads(process.stdout.readline())
            address = str(told["data"]["address"])
            _until(lambda: _answers(address))
            yield address
        finally:
            process.terminate()


def _answers(address: str) -> bool:
    try:
        with urllib.request.urlopen(f"{address}healthz", timeout=5):
            return True
    except urllib.error.HTTPError:
        return True
    except OSError:
        return False


def _until(condition: Callable[[], bool], wait_s: float = 30.0) -> None:
    end = time.monotonic() + wait_s
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@contextmanager
def opened(browser: Browser, address: str, **options: Any) -> Iterator[Page]:
    """A page on which nothing is fetched from elsewhere and nothing goes wrong."""
    context = browser.new_context(**options)
    shown = context.new_page()
    wrong: list[str] = []
    shown.on("console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None)
    shown.on("pageerror", lambda error: wrong.append(str(error)))
    shown.on("request", lambda asked: None if asked.url.startswith((address, "data:")) else wrong.append(asked.url))
    shown.goto(address)
    shown.wait_for_selector("#entries table")
    yield shown
    context.close()
    assert wrong == []


@pytest.fixture(scope="module")
def swarm_of_four(tmp_path_factory: pytest.TempPathFactory, forkserver: Path) -> Iterator[list[LocalPeer]]:
    """Real peers that learn for longer than any of these tests takes."""
    folder = tmp_path_factory.mktemp("page")
    parts = write_breast_cancer(folder / "data", 7)[:4]
    metrics = ("accuracy", "loss")
    peers = found(
        folder, parts, TASK, rounds=500, metrics=metrics, seed=7, patience_s=PATIENCE_S, forkserver=forkserver
    )
    for peer in peers:
        peer.start()
    try:
        wait(peers, lambda: all(peer.committed >= 2 for peer in peers))
        yield peers
    finally:
        stop_all(peers)


def numbers(shown: Page) -> Mapping[str, str]:
    """The facts of the strip, by name."""
    return {
        pair.query_selector("dt").inner_text(): pair.query_selector("dd").inner_text()  # type: ignore[union-attr]
        for pair in shown.query_selector_all("#strip dl > div")
    }


def test_a_run_is_shown_as_it_goes_and_a_killed_peer_turns_red_within_its_heartbeat_limit(
    browser: Browser, swarm_of_four: list[LocalPeer]
) -> None:
    victim = swarm_of_four[3]
    with served(swarm_of_four[0].site.folder) as address, opened(browser, address) as shown:
        before = int(numbers(shown)["rounds committed"].split()[0])
        shown.wait_for_function(
            f"() => parseInt(document.querySelector('#strip dd').textContent) > {before}", timeout=30_000
        )
        assert shown.locator("#network-drawing .node.up").count() == 4
        victim.kill()
        killed = time.monotonic()
        shown.wait_for_selector(f".node.away[data-name='{victim.name}']", timeout=60_000)
        limit_s = max(ABSENCE_S_MIN, ABSENCE_SHARE * PATIENCE_S)
        assert time.monotonic() - killed < limit_s + LOOK_S
        assert f"{victim.name} is away" in shown.inner_text("#alerts-list")
        victim.start()
        shown.wait_for_selector(f".node.up[data-name='{victim.name}']", timeout=60_000)


def test_a_stream_that_is_cut_is_replaced_by_questions(browser: Browser, swarm_of_four: list[LocalPeer]) -> None:
    """Proxies that hold back or cut event streams are common in hospitals."""
    with served(swarm_of_four[0].site.folder) as address:
        context = browser.new_context()
        shown = context.new_page()
        shown.route("**/events*", lambda route: route.abort())
        shown.goto(address)
        shown.wait_for_selector("#entries table")
        before = int(numbers(shown)["rounds committed"].split()[0])
        shown.wait_for_function(
            f"() => parseInt(document.querySelector('#strip dd').textContent) > {before}", timeout=30_000
        )
        context.close()


@pytest.fixture
def finished(tmp_path: Path) -> Path:
    return written(tmp_path / "site", calm()[1])


def test_what_is_shown_equals_the_ledger(browser: Browser, finished: Path) -> None:
    result = verify_quietly(finished)
    last = result.rounds[max(result.rounds)]
    with served(finished) as address, opened(browser, address) as shown:
        facts = numbers(shown)
        assert facts["rounds committed"] == f"{result.state.committed.round} of {result.state.last}"
        assert facts["ledger"] == f"holds, {result.entries} entries"
        assert shown.inner_text("#ledger-head code >> nth=1") == result.state.frontier.root().hex()
        [metric, *_] = result.state.signed.charter.metrics
        words = shown.inner_text("#scores-words")
        assert f"{mean_scores(last, [metric])[metric]:.4f} in round {last.number}" in words
        rows = shown.locator("#scores-table tbody tr").all_inner_texts()
        told = sorted(body.metrics[0][1] / METRIC_SCALE for body in last.evaluations.values())
        assert sorted(float(re.split(r"\s+", row)[2]) for row in rows) == pytest.approx(told, abs=5e-5)
        samples = [placed.body.samples for placed in last.contributions.values()]
        cells = shown.locator("#contributions-table tbody tr td:nth-child(4)").all_inner_texts()
        assert sorted(int(cell.replace(",", "")) for cell in cells) == sorted(samples)


def test_both_checks_hold_for_a_ledger_that_does(browser: Browser, finished: Path) -> None:
    root = verify_quietly(finished).state.frontier.root().hex()
    with served(finished) as address, opened(browser, address) as shown:
        for button in ("#verify-here", "#verify-there"):
            shown.click(button)
            shown.wait_for_selector("#verdict .verdict")
            text = shown.inner_text("#verdict .verdict")
            assert text.startswith("Holds.")
            assert root in text


def _forged(payloads: tuple[bytes, ...], change: Callable[[list[Any]], None], which: int) -> list[bytes]:
    """Return the blocks with one changed, and written down as neatly as before."""
    import msgpack

    record = msgpack.unpackb(payloads[which], use_list=True)
    change(record)
    return [codec.encode(record) if i == which else payload for i, payload in enumerate(payloads)]


def _leaf(record: list[Any]) -> None:
    record[0][1][0] = bytearray(record[0][1][0])
    record[0][1][0][-1] ^= 1
    record[0][1][0] = bytes(record[0][1][0])


def _vote(record: list[Any]) -> None:
    signature = bytearray(record[1][0][5][0])
    signature[3] ^= 1
    record[1][0][5][0] = bytes(signature)


def _few(record: list[Any]) -> None:
    del record[1][0][4][1:], record[1][0][5][1:]


@pytest.mark.parametrize(
    ("change", "words"),
    [(_leaf, "its entries are not those"), (_vote, "a vote for it does not verify"), (_few, "not a quorum's")],
)
def test_a_tampered_ledger_fails_in_the_browser_whatever_its_server_says(
    browser: Browser, finished: Path, change: Callable[[list[Any]], None], words: str
) -> None:
    """Who holds the page's server could show anything: the blocks that it gives are changed on their way."""
    which = next(i for i, payload in enumerate(calm()[1]) if i and codec_certified(payload))
    records = _forged(calm()[1], change, which)
    body = b"".join(len(record).to_bytes(4, "big") + record for record in records)
    with served(finished) as address, opened(browser, address) as shown:
        shown.route("**/api/v1/blocks?from=1", lambda route: route.fulfill(body=body))
        shown.click("#verify-here")
        shown.wait_for_selector("#verdict .verdict")
        text = shown.inner_text("#verdict .verdict")
        assert text.startswith(f"Does not hold. block {which + 1}: ")
        assert words in text


def codec_certified(payload: bytes) -> bool:
    """Whether a block has a certificate of its own, and an entry."""
    import msgpack

    record = msgpack.unpackb(payload)
    return bool(record[1]) and bool(record[0][1])


def test_a_ledger_that_was_damaged_on_disk_is_an_error_on_the_page_and_fails_at_the_site(
    browser: Browser, finished: Path
) -> None:
    [segment] = (finished / "ledger" / "blocks").glob("*.seg")
    damaged = bytearray(segment.read_bytes())
    damaged[len(bytes(damaged).rstrip(b"\0")) // 2] ^= 1
    segment.write_bytes(damaged)
    with served(finished) as address, opened(browser, address) as shown:
        assert numbers(shown)["ledger"] == "does not hold"
        assert "the disk is damaged" in shown.inner_text("#alerts-list")
        shown.click("#verify-there")
        shown.wait_for_selector("#verdict .verdict.bad")
        assert shown.inner_text("#verdict").startswith("Does not hold.")


def test_the_file_shows_the_same_and_can_be_checked_without_any_server(
    browser: Browser, finished: Path, tmp_path: Path
) -> None:
    path = tmp_path / "report.html"
    data("dashboard", finished, "--export", path)
    with served(finished) as address, opened(browser, address) as live, opened(browser, path.as_uri()) as filed:
        for part in ("#contributions-table", "#scores-table", "#matrix-words", "#entries"):
            assert filed.inner_text(part) == live.inner_text(part)
        filed.click("#verify-here")
        filed.wait_for_selector("#verdict .verdict.good")


def test_a_run_can_be_replayed_round_by_round(browser: Browser, finished: Path) -> None:
    with served(finished) as address, opened(browser, address) as shown:
        shown.click("#play")
        shown.wait_for_function("() => document.getElementById('round-shown').textContent.startsWith('1 of')")
        shown.wait_for_function(
            "() => document.getElementById('matrix-words').textContent.startsWith('1 closed round')"
        )
        shown.wait_for_function("() => document.getElementById('play').textContent === 'Replay'", timeout=10_000)
        shown.focus("#round")
        shown.keyboard.press("ArrowLeft")
        assert shown.inner_text("#round-shown") == "1 of 2", "by the keyboard as well"


def test_names_that_strangers_wrote_are_text(browser: Browser, finished: Path) -> None:
    with served(finished) as address:
        context = browser.new_context()
        shown = context.new_page()

        def evil(route: Any) -> None:
            told = route.fetch().json()
            told["state"]["swarm"] = "<img src=x onerror=document.title='owned'>"
            told["state"]["sites"][0]["name"] = "a\u202eb<script>document.title='owned'</script>"
            route.fulfill(json=told)

        shown.route("**/events*", lambda route: route.abort())
        shown.route("**/api/v1/state*", evil)
        shown.goto(address)
        shown.wait_for_selector("#contributions-table table")
        assert shown.locator("h1 img, td script, th script").count() == 0
        assert "owned" not in shown.title().replace("document.title='owned'", "")
        assert "\u202e" not in shown.inner_text("#contributions-table")
        context.close()


@pytest.mark.parametrize(
    "options",
    [
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "light"},
        {"viewport": {"width": 1280, "height": 900}, "color_scheme": "dark"},
        {"viewport": {"width": 390, "height": 844}, "color_scheme": "light"},
    ],
    ids=["light", "dark", "phone"],
)
def test_people_with_other_eyes_and_hands_can_use_it(
    browser: Browser, finished: Path, options: Mapping[str, Any]
) -> None:
    """What axe can find, of WCAG 2.1 A and AA; and no page is wider than its screen."""
    axe = pytest.importorskip("axe_playwright_python.sync_playwright", reason="the extra `page` is not installed")
    with served(finished) as address:
        # The checker is a script of its own, which the page's policy would rightly refuse.
        context = browser.new_context(bypass_csp=True, **options)
        shown = context.new_page()
        shown.goto(address)
        shown.wait_for_selector("#entries table")
        shown.click("#verify-here")
        shown.wait_for_selector("#verdict .verdict")
        found = axe.Axe().run(shown, options={"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]})
        assert found.violations_count == 0, found.generate_report()
        assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth")
        context.close()


def test_many_can_look_at_once_and_those_who_leave_are_forgotten(finished: Path) -> None:
    with served(finished) as address:
        place = ("127.0.0.1", int(address.rstrip("/").rpartition(":")[2]))
        for _ in range(5):
            crowd = [socket.create_connection(place, timeout=30) for _ in range(10)]
            for one in crowd:
                one.sendall(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            told = [one.makefile("rb") for one in crowd]
            assert [file.readline() for file in told] == [b"HTTP/1.1 200 OK\r\n"] * 10
            for file in told:
                while not file.readline().startswith(b"data: "):
                    pass
            for opened_ in (*told, *crowd):
                opened_.close()
