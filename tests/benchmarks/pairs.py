"""Two real peers on loopback, with models of a chosen size, and the raw figures to hold them against."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import nacl.bindings
import numpy as np
import zmq

from node.local import free_ports
from node.site import Site
from node.storage import write_file_durably
from swarm import charter as terms
from swarm.vector import blob_digest, leaf_hashes
from tests.benchmarks.peer import layout

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class PairResult:
    """What two peers did: events in order per peer."""

    events: tuple[list[dict[str, float | str]], list[dict[str, float | str]]]

    def of(self, peer: int, event: str) -> list[dict[str, float | str]]:
        return [line for line in self.events[peer] if line["event"] == event]


def found_pair(folder: Path, *, elements: int, rounds: int) -> list[Site]:
    """Make two sites and the charter they both signed, for a model of zeros."""
    sites, cards = [], []
    for number, port in enumerate(free_ports(2)):
        site = Site(folder / f"peer-{number}")
        endpoint = f"tcp://127.0.0.1:{port}"
        card = site.create(name=f"peer-{number}", listen=endpoint, advertise=endpoint, task="task.py", data="data")
        cards.append(card)
        sites.append(site)
    zeros = np.zeros(elements, "<f4")
    task = terms.Task(
        "bench", bytes(32), layout(elements).digest(), elements, blob_digest(zeros.nbytes, leaf_hashes(zeros)), 0
    )
    draft = terms.Charter(
        version=1,
        name="bench",
        created_ms=int(time.time() * 1000),
        members=tuple(cards),
        task=task,
        round=terms.RoundPolicy(rounds, "exact", "none", 2, 3_600_000, 120_000, 1_000_000, 1_000_000),
        ledger=terms.LedgerPolicy(600_000, 3_000, False, "record"),
        metrics=("loss",),
        edges=(),
        predecessor=(),
        options=(),
    )
    signed = terms.SignedCharter(draft, {})
    for site in sites:
        signed = signed.sign(site.load_identity())
    for site in sites:
        write_file_durably(site.folder / "charter.toml", terms.to_toml(signed).encode())
    return sites


def run_pair(folder: Path, *, elements: int, rounds: int, delay_s: float = 0.0, timeout_s: float = 300.0) -> PairResult:
    """Run two peers; peer 1 begins without the initial model and fetches it from peer 0, and trains `delay_s` long."""
    sites = found_pair(folder, elements=elements, rounds=rounds)
    commands = [
        [sys.executable, "-m", "tests.benchmarks.peer", str(site.folder), "--elements", str(elements)] for site in sites
    ]
    commands[1] += ["--empty", "--delay", str(delay_s)]
    processes = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for command in commands]
    try:
        outputs = [process.communicate(timeout=timeout_s)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert all(process.returncode == 0 for process in processes), outputs
    lines = [[json.loads(line) for line in output.splitlines()] for output in outputs]
    return PairResult((lines[0], lines[1]))


def raw_curve(total: int, *, message: int = MIB) -> float:
    """Return bytes per second of plain pyzmq CURVE from one process to another, DEALER to ROUTER, without copies."""
    public, secret = zmq.curve_keypair()
    (port,) = free_ports(1)
    arguments = [str(port), public.decode(), secret.decode(), str(total), str(message)]
    processes = [
        subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=subprocess.PIPE, text=True)
        for code in (_RECEIVER, _SENDER)
    ]
    try:
        return (total - message) / float(processes[0].communicate(timeout=120)[0])
    finally:
        for process in processes:
            process.kill()
            process.wait()


_RECEIVER = """
import os, sys, threading, time, zmq
port, public, secret, total, size = sys.argv[1], *(a.encode() for a in sys.argv[2:4]), *map(int, sys.argv[4:])
context = zmq.Context()
handler = context.socket(zmq.REP)
handler.bind("inproc://zeromq.zap.01")

def allow():
    while True:
        request = handler.recv_multipart()
        handler.send_multipart([request[0], request[1], b"200", b"OK", b"anyone", b""])

threading.Thread(target=allow, daemon=True).start()
receiver = context.socket(zmq.ROUTER)
receiver.curve_server, receiver.curve_publickey, receiver.curve_secretkey = True, public, secret
receiver.rcvhwm = 16
receiver.bind(f"tcp://127.0.0.1:{port}")
received, begun = 0, 0.0
while received < total:
    frames = receiver.recv_multipart(copy=False)
    begun = begun or time.perf_counter()
    received += len(frames[-1].buffer)
print(time.perf_counter() - begun, flush=True)
os._exit(0)
"""

_SENDER = """
import sys, time, zmq
port, server, total, size = sys.argv[1], sys.argv[2].encode(), int(sys.argv[4]), int(sys.argv[5])
context = zmq.Context()
sender = context.socket(zmq.DEALER)
sender.curve_publickey, sender.curve_secretkey = zmq.curve_keypair()
sender.curve_serverkey = server
sender.sndhwm = 16
sender.connect(f"tcp://127.0.0.1:{port}")
data = bytes(size)
for _ in range(total // size):
    sender.send(data, copy=False)
time.sleep(120)
"""


def ed25519_rate(seconds: float = 1.0) -> float:
    """Return bare libsodium verifications per second on this core."""
    public, secret = nacl.bindings.crypto_sign_seed_keypair(bytes(32))
    signed = nacl.bindings.crypto_sign(b"x" * 300, secret)
    count, begun = 0, time.perf_counter()
    while time.perf_counter() - begun < seconds:
        for _ in range(100):
            nacl.bindings.crypto_sign_open(signed, public)
        count += 100
    return count / (time.perf_counter() - begun)
