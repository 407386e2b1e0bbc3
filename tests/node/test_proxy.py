"""What the settings say of a proxy, and what is said of settings that cannot be used."""

import gc
import socket
import warnings
from pathlib import Path

import pytest

from node.config import NetworkSettings
from node.proxy import Door, Proxy, read_proxy
from swarm.errors import UsageError


def settings(proxy: str, password_file: str = "") -> NetworkSettings:
    return NetworkSettings(proxy=proxy, proxy_password_file=password_file)


def test_no_proxy_is_none(tmp_path: Path) -> None:
    assert read_proxy(settings(""), tmp_path) is None


def test_a_proxy_with_a_user_has_its_password_from_the_first_line_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pass word\r\nnot this\n", encoding="utf-8")
    found = read_proxy(settings("http://site-a@proxy.example:3128", "secret"), tmp_path)
    assert found is not None
    assert (found.kind, found.address, found.username, found.password) == (
        "http",
        "proxy.example:3128",
        "site-a",
        "pass word",
    )
    assert "pass word" not in repr(found)


@pytest.mark.parametrize(
    ("text", "address"), [("socks5://10.0.0.1:1080", "10.0.0.1:1080"), ("http://[fd00::1]:80/", "[fd00::1]:80")]
)
def test_addresses_of_every_kind(tmp_path: Path, text: str, address: str) -> None:
    found = read_proxy(settings(text), tmp_path)
    assert found is not None
    assert found.address == address


@pytest.mark.parametrize(
    "text",
    [
        "proxy:80",
        "http://proxy",
        "http://proxy:0",
        "http://proxy:99999",
        "https://proxy:443",
        "socks4://p:1",
        "http://a b:1",
    ],
)
def test_what_is_no_proxy_is_refused_with_an_example(tmp_path: Path, text: str) -> None:
    with pytest.raises(UsageError, match="no proxy that can be used here") as refused:
        read_proxy(settings(text), tmp_path)
    assert "socks5://" in refused.value.hint


def test_a_password_in_the_address_is_refused_and_not_repeated(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a password stands in it") as refused:
        read_proxy(settings("http://user:hunter2@proxy:80"), tmp_path)
    assert "hunter2" not in refused.value.message
    assert "network.proxy_password_file" in refused.value.hint
    with pytest.raises(UsageError) as refused:
        read_proxy(settings("ftp://user:hunter2@proxy:80"), tmp_path)
    assert "hunter2" not in refused.value.message


def test_a_password_file_that_is_not_there_or_no_text_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"couldn't read the proxy's password in .*nowhere"):
        read_proxy(settings("http://u@proxy:80", "nowhere"), tmp_path)
    (tmp_path / "noise").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="it is not text"):
        read_proxy(settings("http://u@proxy:80", "noise"), tmp_path)


@pytest.mark.real
def test_who_knocks_while_the_door_is_being_closed_leaves_nothing_open() -> None:
    """Fifty times, as the moments in which a connection is half taken in are short."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always", ResourceWarning)
        for _ in range(50):
            door = Door(Proxy("http", "127.0.0.1:9"))
            door.open()
            way = door.way("tcp://far.example:1").removeprefix("ipc://")
            with socket.socket(socket.AF_UNIX) as knocking:
                knocking.connect(way)
                door.close()
        gc.collect()
    assert not [str(one.message) for one in told if "unclosed" in str(one.message)]
