"""The network of namespaces does what it says, to sockets: asked of real TCP connections and of nothing else."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from node.clock import Clock
from tests.chaos.namespaces import PORT, Network, sweep, why_not

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(bool(why_not()), reason=why_not() or "it can be done here"),
]

ECHO = f"""
import socket, sys
listener = socket.create_server((sys.argv[1], {PORT}))
print("listens", flush=True)
while True:
    link, _ = listener.accept()
    while link.recv(1 << 16):
        pass
    try:
        link.sendall(b"x")
    except OSError:
        pass  # whoever asked has given up
    link.close()
"""

ASK = f"""
import socket, sys
target, size, wait_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
try:
    with socket.create_connection((target, {PORT}), wait_s) as link:
        link.settimeout(wait_s)
        link.sendall(bytes(size))
        link.shutdown(socket.SHUT_WR)
        got = len(link.recv(1))
except OSError:
    got = 0
print("heard" if got else "nothing")
"""


@contextlib.contextmanager
def listening(network: Network, *sites: int) -> Iterator[None]:
    servers = []
    for site in sites:
        command = [*network.inside(site), sys.executable, "-c", ECHO, network.address(site)]
        servers.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    try:
        for server in servers:
            assert server.stdout is not None
            assert server.stdout.readline() == "listens\n"
        yield
    finally:
        for server in servers:
            server.kill()
            server.wait()
            assert server.stdout is not None
            server.stdout.close()


def hears(network: Network, asker: int, target: int, *, size: int = 1, wait_s: float = 1.0) -> bool:
    """Whether a site gets an answer from another within a while."""
    command = [*network.inside(asker), sys.executable, "-c", ASK, network.address(target), str(size), str(wait_s)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "heard\n"


def test_sites_reach_each_other_and_nothing_else() -> None:
    with Network(3) as network, listening(network, 1, 2):
        assert hears(network, 0, 1)
        assert hears(network, 1, 2)
        with socket.create_server(("127.0.0.1", 0)) as outside:
            port = outside.getsockname()[1]
            dial = f"import socket; socket.create_connection(('127.0.0.1', {port}), 1)"
            command = [*network.inside(0), sys.executable, "-c", dial]
            assert subprocess.run(command, capture_output=True, check=False).returncode != 0


def test_what_is_cut_hears_nothing_until_it_is_mended() -> None:
    with Network(3) as network, listening(network, 1, 2):
        network.cut("a", [(0, 1), (1, 0)])
        network.cut("b", [(0, 1)])
        assert not hears(network, 0, 1)
        assert hears(network, 0, 2)
        network.mend("a")
        assert not hears(network, 0, 1), "the other cut still severs it"
        network.mend("b")
        assert hears(network, 0, 1)


@pytest.mark.parametrize("lost", [(0, 1), (1, 0)])
def test_a_cut_of_one_way_is_enough_to_silence_a_connection(lost: tuple[int, int]) -> None:
    with Network(2) as network, listening(network, 1):
        network.cut("a", [lost])
        assert not hears(network, 0, 1)


def test_a_slow_link_concerns_two_sites_alone_and_a_narrow_line_all_that_pass_it() -> None:
    clock = Clock()
    with Network(3) as network, listening(network, 1, 2):

        def took(asker: int, target: int) -> float:
            """Seconds until a megabyte has got through: lower bounds hold however busy this machine is."""
            begun = clock.now()
            assert hears(network, asker, target, size=1_000_000, wait_s=60.0)
            return clock.now() - begun

        network.slow(0, 1, 2.5e5)
        slow_s = took(0, 1)
        assert slow_s > 3.0
        assert took(2, 1) < slow_s
        network.quicken(0, 1)
        assert took(0, 1) < slow_s
        network.line(2, 2.5e5, 2.5e5)
        assert took(2, 1) > 3.0
        assert took(0, 2) > 3.0


def test_nothing_is_left_even_of_what_runs_in_it() -> None:
    with Network(1) as network:
        command = [*network.inside(0), "sh", "-c", "echo inside; exec sleep 600"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        name = network.inside(0)[3]
        assert process.stdout is not None
        assert process.stdout.readline() == "inside\n", "before that it runs in no namespace, and nobody ends it"
        assert name in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
    assert process.wait(60) != 0
    process.stdout.close()
    assert name not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout


def test_what_a_dead_run_left_is_swept_and_what_a_living_one_has_is_not() -> None:
    dead = subprocess.Popen(["true"])
    dead.wait()
    left = f"swarm-{dead.pid}-0"
    subprocess.run(["ip", "netns", "add", left], check=True)
    with Network(1) as network:
        assert left not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        assert sweep() == []
        assert (
            network.inside(0)[3] in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        )
