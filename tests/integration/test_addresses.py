"""Where a site is said to be and where it is: mapped ports, IPv6, names whose address changes."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.integration import proxies
from tests.integration.ends import End, address, pair, talk, until

pytestmark = pytest.mark.real

ROOT = Path(__file__).parents[2]

MOVING = """
import sys, time
from pathlib import Path
from node.local import free_ports
from tests.integration.ends import End, address, talk, until

hosts = Path("/etc/hosts")
port = free_ports(1)[0]

def at(place):
    # Only where this process, in a namespace of its own, has mounted another file over it.
    hosts.write_text(f"{place} moving.test\\n")
    listener = End("listener", address("dialler"), listen=f"tcp://{place}:{port}")
    listener.transport.open()
    return listener

listener = at("127.0.0.2")
dialler = End("dialler", address("listener", f"tcp://moving.test:{port}"), listen=None)
dialler.transport.open()
talk(listener, dialler)
listener.transport.close()
listener = at("127.0.0.3")
until(lambda: dialler.ups() == 2, listener, dialler)
talk(listener, dialler)
dialler.transport.close()
listener.transport.close()
print("moved")
"""


def test_a_name_is_resolved_anew_at_every_dial(tmp_path: Path) -> None:
    hosts, script = tmp_path / "hosts", tmp_path / "moving.py"
    hosts.write_text("")
    script.write_text(MOVING)
    apart = ["unshare", "--user", "--map-root-user", "--mount"]
    try:
        subprocess.run(
            [*apart, "mount", "--bind", str(hosts), "/etc/hosts"], check=True, capture_output=True, timeout=20
        )
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a namespace with a hosts file of its own cannot be made here")
    mounted = f'mount --bind "{hosts}" /etc/hosts && exec "{sys.executable}" "{script}"'
    ran = subprocess.run(
        [*apart, "sh", "-c", mounted],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "moved\n"), ran.stderr


SILENT = """
import socket, time
from gossip.zeromq import PeerAddress
from tests.integration.ends import End, address, keys, node, talk, until

server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("127.0.0.9", 53))  # Takes questions and answers none.
listener = End("listener", address("dialler"), listen="tcp://127.0.0.1:*")
listener.transport.open()
there = address("listener", listener.transport.bound_endpoint)
dialler = End("dialler", there, listen=None)
dialler.transport.open()
talk(listener, dialler)
lost = [address(f"lost-{i}", f"tcp://lost-{i}.test:7400") for i in range(3)]
dialler.transport.allow([there, *lost])
worst, end = 0.0, time.monotonic() + 12
while time.monotonic() < end:
    begun, heard = time.monotonic(), len(listener.frames())
    assert dialler.transport.send(node("listener"), b"still here")
    until(lambda: len(listener.frames()) > heard, listener, dialler)
    worst = max(worst, time.monotonic() - begun)
    time.sleep(0.05)
assert "no address is found for the name lost-0.test" in dialler.told(), dialler.told()
assert worst < 2.0, worst
dialler.transport.close()
listener.transport.close()
print("moved")
"""


def test_a_name_server_that_is_silent_holds_up_no_other_link(tmp_path: Path) -> None:
    """Left to libzmq, whose one thread looks names up, the other link stood still for ten seconds at a time."""
    resolv, script = tmp_path / "resolv.conf", tmp_path / "silent.py"
    resolv.write_text("nameserver 127.0.0.9\n")
    script.write_text(SILENT)
    apart = ["unshare", "--user", "--map-root-user", "--mount", "--net"]
    alone = f'ip link set lo up && mount --bind "{resolv}" /etc/resolv.conf'
    try:
        subprocess.run([*apart, "sh", "-c", alone], check=True, capture_output=True, timeout=20)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("a namespace with a name server of its own cannot be made here")
    ran = subprocess.run(
        [*apart, "sh", "-c", f'{alone} && exec "{sys.executable}" "{script}"'],
        capture_output=True,
        text=True,
        timeout=50,
        cwd=ROOT,
        env={"PYTHONPATH": str(ROOT), "PATH": os.environ["PATH"]},
        check=False,
    )
    assert (ran.returncode, ran.stdout) == (0, "moved\n"), ran.stderr


class Told:
    """Names whose addresses a test says."""

    def __init__(self) -> None:
        self.numbers: tuple[str, ...] = ()
        self._asked: list[str] = []

    def ask(self, host: str) -> None:
        self._asked.append(host)

    def take(self) -> list[tuple[str, tuple[str, ...]]]:
        asked, self._asked = self._asked, []
        return [(host, self.numbers) for host in asked]


def test_a_name_with_several_addresses_is_tried_at_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gossip.zeromq.LOOKUP_S", 0.2)
    names = Told()
    listener = End("listener", address("dialler"), listen="tcp://127.0.0.1:*")
    listener.transport.open()
    port = str(listener.transport.bound_endpoint).rpartition(":")[2]
    dialler = End("dialler", address("listener", f"tcp://peer.test:{port}"), listen=None, names=names)
    dialler.transport.open()
    until(lambda: "no address is found for the name peer.test" in dialler.told(), listener, dialler)
    names.numbers = ("127.0.0.8", "127.0.0.9", "127.0.0.1")
    talk(listener, dialler)
    dialler.transport.close()
    listener.transport.close()


def test_a_mapped_port_is_dialled_where_it_is_advertised_and_heard_where_it_is_bound() -> None:
    """As behind a NAT: outside is another port than inside, and the connection comes from the router."""
    listener = End("listener", address("dialler"), listen="tcp://127.0.0.1:*")
    listener.transport.open()
    inside = int(str(listener.transport.bound_endpoint).rpartition(":")[2])
    ways: list[threading.Thread] = []
    with socket.create_server(("127.0.0.1", 0)) as router:

        def forward() -> None:
            while True:
                try:
                    near, _ = router.accept()
                except OSError:
                    return
                ways.append(threading.Thread(target=map_port, args=(near, inside), daemon=True))
                ways[-1].start()

        thread = threading.Thread(target=forward, daemon=True)
        thread.start()
        outside = f"tcp://localhost:{router.getsockname()[1]}"
        dialler = End("dialler", address("listener", outside), listen=None)
        dialler.transport.open()
        try:
            talk(listener, dialler)
        finally:
            dialler.transport.close()
            listener.transport.close()
            router.shutdown(socket.SHUT_RDWR)
            for one in (thread, *ways):
                one.join()


@pytest.mark.parametrize("host", ["[::1]", "127.0.0.1"])
def test_one_dual_stack_address_hears_both_kinds(host: str) -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    with pair(None, host=host, listen="tcp://[::]:*") as (listener, dialler):
        talk(listener, dialler)


def test_a_link_over_ipv6_comes_back_after_a_break() -> None:
    if not has_ipv6():
        pytest.skip("this machine has no IPv6 loopback")
    listener = End("listener", address("dialler"), listen="tcp://[::1]:*")
    listener.transport.open()
    endpoint = str(listener.transport.bound_endpoint)
    dialler = End("dialler", address("listener", endpoint), listen=None)
    dialler.transport.open()
    talk(listener, dialler)
    listener.transport.close()
    listener = End("listener", address("dialler"), listen=endpoint)
    listener.transport.open()
    until(lambda: dialler.ups() == 2, listener, dialler)
    talk(listener, dialler)
    dialler.transport.close()
    listener.transport.close()


def map_port(near: socket.socket, inside: int) -> None:
    with near, socket.create_connection(("127.0.0.1", inside)) as far:
        proxies.splice(near, far)


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True
