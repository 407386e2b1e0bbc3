"""Real links through real proxies: SOCKS5 by libzmq itself, HTTP CONNECT by the door of this process."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from socketserver import BaseRequestHandler

import pytest

import node.examples
from node.data import write_breast_cancer
from node.local import found, stop_all
from node.proxy import Door, Proxy, dialling
from tests.integration import proxies
from tests.integration.ends import pair, talk, until
from tests.integration.proxies import Connect, Socks5

pytestmark = pytest.mark.real

TASK = Path(node.examples.__file__).parent / "breast_cancer.py"


class Through:
    """A listener, and a dialler that gets to it through a proxy."""

    def __init__(
        self, stack: ExitStack, proxy: proxies.Proxy, user: str = "", password: str = "", host: str = "127.0.0.1"
    ) -> None:
        kind = "socks5" if proxy.RequestHandlerClass is Socks5 else "http"
        self.door = Door(Proxy(kind, proxy.address, user, password), 1.0)
        stack.callback(self.door.close)
        self.door.open()
        self.ends = stack.enter_context(pair(self.door.way, host=host))

    def hears(self, words: str) -> None:
        heard: list[str] = []

        def told() -> bool:
            heard.extend(incident.text for incident in self.door.incidents())
            return any(words in text for text in heard)

        try:
            until(told, *self.ends)
        except AssertionError:
            raise AssertionError(heard) from None


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as held:
        yield held


@pytest.mark.parametrize("handler", [Connect, Socks5])
@pytest.mark.parametrize("user", ["", "site-a"])
def test_links_go_through_a_proxy_with_and_without_a_password_and_come_back(
    stack: ExitStack, handler: type[BaseRequestHandler], user: str
) -> None:
    proxy = stack.enter_context(proxies.running(handler, user=user, password="sécret"))
    way = Through(stack, proxy, user, "sécret")
    talk(*way.ends)
    assert proxy.asked[0].startswith("127.0.0.1:")
    proxy.drop()
    until(lambda: way.ends[1].ups() == 2, *way.ends)
    talk(*way.ends)


@pytest.mark.parametrize("handler", [Connect, Socks5])
def test_names_are_the_proxys_to_resolve(stack: ExitStack, handler: type[BaseRequestHandler]) -> None:
    proxy = stack.enter_context(proxies.running(handler))
    proxy.names = {"peer.hospital.invalid": "127.0.0.1"}
    way = Through(stack, proxy, host="peer.hospital.invalid")
    talk(*way.ends)
    assert proxy.asked[0].startswith("peer.hospital.invalid:")


@pytest.mark.parametrize(
    ("handler", "answer", "words"),
    [
        (Connect, b"HTTP/1.1 403 Forbidden\r\n\r\n", "forbids it (403 Forbidden): ask for CONNECT to this host"),
        (Connect, b"HTTP/1.0 503 Busy\r\n\r\n", "gets no answer from there (503 Busy)"),
        (Connect, b"HTTP/1.1 418\r\n\r\n", "answers 418"),
        (Connect, b"SSH-2.0-OpenSSH\r\n\r\n", "did not answer as an HTTP proxy would"),
        (Connect, b"x" * 100_000, "did not answer as such a proxy would"),
        (Connect, b"HTTP/1.1 20", "hung up"),
        (Socks5, b"\x05\x02\x00\x01" + bytes(6), "forbids it: ask for this host and port to be allowed"),
        (Socks5, b"\x05\x05\x00\x03\x01x\x00\x00", "nothing listens"),
        (Socks5, b"\x05", "hung up"),
    ],
)
def test_what_a_proxy_refuses_with_is_put_into_words(
    stack: ExitStack, handler: type[BaseRequestHandler], answer: bytes, words: str
) -> None:
    proxy = stack.enter_context(proxies.running(handler))
    proxy.answer = answer
    way = Through(stack, proxy)
    way.hears(words)
    proxy.answer = b""
    talk(*way.ends)


@pytest.mark.parametrize(
    ("handler", "missing"),
    [
        (Connect, "asks for a user (407 Proxy Authentication Required): set network.proxy"),
        (Socks5, "asks for a user: set"),
    ],
)
def test_a_proxy_that_asks_for_a_password_says_which_setting_is_missing_or_wrong(
    stack: ExitStack, handler: type[BaseRequestHandler], missing: str
) -> None:
    proxy = stack.enter_context(proxies.running(handler, user="site-a", password="right"))
    Through(stack, proxy).hears(missing)
    Through(stack, proxy, "site-a", "wrong").hears("does not accept the user site-a with the password it was given")


@pytest.mark.parametrize("handler", [Connect, Socks5])
def test_a_proxy_that_says_nothing_is_given_up_and_asked_again(
    stack: ExitStack, handler: type[BaseRequestHandler]
) -> None:
    proxy = stack.enter_context(proxies.running(handler))
    proxy.silent = True
    way = Through(stack, proxy)
    way.hears("did not answer within 1 s")
    proxy.silent = False
    talk(*way.ends)


def test_a_proxy_that_is_not_there_is_named(stack: ExitStack) -> None:
    with proxies.running(Connect) as gone:
        pass
    Through(stack, gone).hears("cannot be reached itself (")


def test_nobody_else_on_this_machine_comes_in_by_the_door() -> None:
    with dialling(Proxy("http", "127.0.0.1:1")) as door:
        assert door is not None
        path = Path(door.way("tcp://127.0.0.1:2").removeprefix("ipc://"))
        assert path.is_socket()
        assert path.parent.stat().st_mode & 0o777 == 0o700
        assert door.way("tcp://127.0.0.1:2") == f"ipc://{path}"
    assert not path.parent.exists()


def test_a_site_behind_a_proxy_learns_with_the_others(stack: ExitStack, tmp_path: Path, forkserver: Path) -> None:
    """Real processes: the third site only dials out, and only through a proxy that asks for its password."""
    proxy = stack.enter_context(proxies.running(Connect, user="site-c", password="s3cret"))
    data = write_breast_cancer(tmp_path / "data", 7)[:3]
    peers = found(
        tmp_path, data, TASK, rounds=3000, metrics=("accuracy",), seed=7, forkserver=forkserver, hidden=[data[2].name]
    )
    stack.callback(stop_all, peers)
    (peers[2].site.folder / "secret").write_text("wrong\n")
    settings = (f"network.proxy=http://site-c@{proxy.address}", "network.proxy_password_file=secret")
    for peer in peers:
        peer.start(*(settings if peer is peers[2] else ()))
    log = peers[2].site.folder / "log.txt"
    until(lambda: log.exists() and "does not accept the user site-c" in log.read_text(), wait_s=60)
    assert "s3cret" not in log.read_text()
    (peers[2].site.folder / "secret").write_text("s3cret\n")
    peers[2].stop()
    peers[2].start(*settings)

    def learns() -> bool:
        peers[2].poll()
        return peers[2].committed >= 3

    until(learns, wait_s=90)
    assert len({*proxy.asked}) == 2
