"""The service manager is told that the node is well when its loop has turned, and only then."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from node.beacon import BEATS, Beacon

HEARD_S = 20.0
"""Longest wait for a datagram of a process that starts."""


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(str(tmp_path / "notify"))
        listening.settimeout(0.0)
        yield listening


def environment(manager: socket.socket, **more: str) -> dict[str, str]:
    return {"NOTIFY_SOCKET": str(manager.getsockname()), **more}


def heard(manager: socket.socket) -> list[str]:
    said = []
    while True:
        try:
            said += manager.recv(4096).decode().split("\n")
        except BlockingIOError:
            return said


def test_it_is_ready_once_and_well_each_third_of_the_time_that_is_allowed(manager: socket.socket) -> None:
    beacon = Beacon(environment(manager, WATCHDOG_USEC="30000000"))
    assert heard(manager) == []
    beacon.turned(100.0, "round 1")
    assert heard(manager) == ["READY=1", "STATUS=round 1", "WATCHDOG=1"]
    beacon.turned(100.0 + 30 / BEATS - 0.1, "round 1")
    assert heard(manager) == []
    beacon.turned(100.0 + 30 / BEATS, "round 2\nREADY=1")
    assert heard(manager) == ["STATUS=round 2 READY=1", "WATCHDOG=1"]
    beacon.stopping()
    assert heard(manager) == ["STOPPING=1"]
    beacon.turned(200.0, "round 3")
    assert heard(manager) == []


def test_it_takes_the_variables_away_so_that_no_child_speaks_in_its_name(manager: socket.socket) -> None:
    variables = environment(manager, WATCHDOG_USEC="1", WATCHDOG_PID=str(os.getpid()), HOME="/")
    Beacon(variables).stopping()
    assert variables == {"HOME": "/"}


@pytest.mark.parametrize(
    "variables", [{"WATCHDOG_PID": "1", "WATCHDOG_USEC": "30000000"}, {"WATCHDOG_USEC": "soon"}, {}]
)
def test_without_a_watchdog_of_its_own_it_says_no_more_than_that_it_is_up(
    manager: socket.socket, variables: dict[str, str]
) -> None:
    beacon = Beacon(environment(manager, **variables))
    beacon.turned(1.0, "")
    beacon.turned(1000.0, "")
    beacon.stopping()
    assert heard(manager) == ["READY=1", "STOPPING=1"]


def test_an_abstract_socket_is_found_by_its_name(tmp_path: Path) -> None:
    name = f"swarm-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(f"\0{name}")
        listening.settimeout(1.0)
        beacon = Beacon({"NOTIFY_SOCKET": f"@{name}"})
        beacon.turned(1.0, "")
        assert listening.recv(100) == b"READY=1"
        beacon.stopping()


def test_where_nobody_listens_nothing_happens(tmp_path: Path) -> None:
    for beacon in (Beacon({}), Beacon(), Beacon({"NOTIFY_SOCKET": str(tmp_path / "nobody"), "WATCHDOG_USEC": "3"})):
        beacon.turned(1.0, "well")
        beacon.stopping()
        beacon.stopping()


LOOP = """
import os, sys
from node.beacon import Beacon
from node.clock import Clock, sleep
clock, beacon = Clock(), Beacon(os.environ)
while True:
    beacon.turned(clock.now(), "turning")
    sleep(0.01)
"""


@pytest.mark.real
def test_a_process_that_is_stopped_falls_silent_and_is_heard_again_when_it_goes_on(manager: socket.socket) -> None:
    root = str(Path(__file__).parents[2])
    told = {**os.environ, "PYTHONPATH": root, **environment(manager, WATCHDOG_USEC="300000")}
    process = subprocess.Popen([sys.executable, "-c", LOOP], env=told)
    manager.settimeout(HEARD_S)
    try:
        while b"WATCHDOG=1" not in manager.recv(4096):
            pass
        process.send_signal(signal.SIGSTOP)
        assert os.WIFSTOPPED(os.waitpid(process.pid, os.WUNTRACED)[1])
        manager.settimeout(0.0)
        heard(manager)  # what was on its way
        manager.settimeout(1.0)  # three times what the manager allows
        with pytest.raises(TimeoutError):
            manager.recv(4096)
        process.send_signal(signal.SIGCONT)
        manager.settimeout(HEARD_S)
        assert b"WATCHDOG=1" in manager.recv(4096)
    finally:
        process.kill()
        process.wait()
