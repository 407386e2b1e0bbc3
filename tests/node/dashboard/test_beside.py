"""The page beside a node: there with it, started again when it dies, gone with it, and never in its way."""

from __future__ import annotations

import itertools
import json
import os
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from node.cli.start import page_of
from node.clock import Clock, sleep
from node.config import load
from node.dashboard.beside import AGAIN_S_MAX, LOOK_S, WELL_S, Beside
from node.local import free_ports
from node.site import Site
from swarm.errors import UsageError
from swarm.machine import Report
from tests.node.test_cli_ledger import calm, written

ENOUGH_S = 60.0


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return written(tmp_path / "a", calm()[1])


def until(condition: Callable[[], bool]) -> None:
    clock = Clock()
    begun = clock.now()
    while not condition():
        assert clock.now() - begun < ENOUGH_S
        sleep(0.05)


def started(folder: Path, *options: str) -> Beside:
    return Beside(folder, options, said=folder / "page.log", environment=os.environ)


class Life:
    """A page that is tended to as a node's loop does, on a clock that is turned by hand."""

    def __init__(self, page: Beside) -> None:
        self.page, self.now = page, 1000.0
        self.said: list[Report] = []

    def turn(self) -> bool:
        self.now += LOOK_S
        self.said += self.page.tend(self.now)
        return bool(self.said)


@pytest.fixture
def life(folder: Path) -> Iterator[Life]:
    made = Life(started(folder, "--listen", f"127.0.0.1:{free_ports(1)[0]}"))
    yield made
    made.page.close()


def answers(address: str) -> bool:
    """Whether something listens there."""
    host, _, port = address.removeprefix("http://").rstrip("/").rpartition(":")
    with socket.socket() as asking:
        return asking.connect_ex((host, int(port))) == 0


@pytest.mark.real
def test_it_is_served_started_again_when_it_dies_and_ends_when_it_is_closed(life: Life) -> None:
    until(life.turn)
    [told] = life.said
    address = str(told.values["address"])
    assert (told.event, told.level, told.text) == ("page", "info", f"the page is at {address}")
    with urllib.request.urlopen(address) as page:
        assert page.status == 200

    first = life.page._process
    assert first is not None
    first.kill()
    first.wait()
    life.said.clear()
    life.turn()
    [told] = life.said
    assert (told.event, told.level) == ("page_down", "warning")
    assert told.text == "the page is not served: it ended with -9 (it is started again in 1 s; rounds go on without it)"
    life.said.clear()
    until(life.turn)
    assert [told.event for told in life.said] == ["page"]
    assert life.page._process is not None
    assert life.page._process.pid != first.pid
    assert answers(address)
    life.page.close()
    assert not answers(address)
    life.page.close()


@pytest.mark.real
def test_it_ends_with_whoever_started_it_even_by_a_power_cut(folder: Path) -> None:
    port = free_ports(1)[0]
    program = (
        "import os, sys, pathlib\n"
        "from node.dashboard.beside import Beside\n"
        "from node.clock import Clock, sleep\n"
        "folder = pathlib.Path(sys.argv[1])\n"
        "page = Beside(folder, ['--listen', sys.argv[2]], said=folder / 'page.log', environment=os.environ)\n"
        "while not page.tend(Clock().now()): sleep(0.05)\n"
        "print('served', flush=True)\n"
        "sleep(600)\n"
    )
    command = [sys.executable, "-c", program, str(folder), f"127.0.0.1:{port}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"served\n"
        assert answers(f"http://127.0.0.1:{port}/")
        owner.kill()
    until(lambda: not answers(f"http://127.0.0.1:{port}/"))


@pytest.mark.real
def test_a_page_that_cannot_be_served_is_a_warning_that_says_why_and_comes_ever_more_seldom(folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        life = Life(started(folder, "--listen", f"127.0.0.1:{other.getsockname()[1]}"))
        until(life.turn)
        life.page.close()
    [told] = life.said
    assert told.text.startswith("the page is not served: couldn't listen on 127.0.0.1:")
    assert told.text.endswith(" (it is started again in 1 s; rounds go on without it)")


def test_it_waits_twice_as_long_each_time_up_to_five_minutes_and_begins_anew_after_it_was_well(folder: Path) -> None:
    page = Beside(folder, (), said=folder / "no" / "such" / "page.log", environment={})
    life = Life(page)
    begun: list[float] = []
    for _ in range(3000):
        before = len(life.said)
        life.turn()
        begun += [life.now] * (len(life.said) - before)
    gaps = [later - earlier for earlier, later in itertools.pairwise(begun)]
    assert gaps[:9] == [1, 2, 4, 8, 16, 32, 64, 128, 256]
    assert {*gaps[9:]} == {AGAIN_S_MAX}
    assert "No such file" in life.said[0].text
    assert WELL_S > LOOK_S


def settings(folder: Path, **values: str) -> Site:
    lines = "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())
    (folder / "swarm.toml").write_text(f'[site]\nname = "a"\n[page]\n{lines}')
    return Site(folder)


def test_where_it_may_not_be_served_the_peer_does_not_start_in_the_words_of_the_command(tmp_path: Path) -> None:
    site = settings(tmp_path, listen="0.0.0.0:9460")
    with pytest.raises(UsageError, match="couldn't serve the page on 0.0.0.0: others would read it on the way"):
        page_of(site, site.load_settings())
    site = settings(tmp_path, listen="hospital:9460")
    with pytest.raises(UsageError, match="couldn't use --listen hospital:9460"):
        page_of(site, site.load_settings())
    site = settings(tmp_path, listen="127.0.0.1:9460", cert="page.pem")
    with pytest.raises(UsageError, match="couldn't use TLS: it takes --cert and --key"):
        page_of(site, site.load_settings())


def test_nothing_is_served_unless_it_is_asked_for_and_a_token_is_made_in_the_sites_folder(tmp_path: Path) -> None:
    assert page_of(Site(tmp_path), load("", where="")) is None
    site = settings(tmp_path, listen="127.0.0.1:9460", token_file="page.token")
    page = page_of(site, site.load_settings())
    assert page is not None
    assert (tmp_path / "page.token").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "page.token").read_text().strip() not in " ".join(page._command)
