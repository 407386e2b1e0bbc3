"""SHELL. The machine: disk, memory, shared memory, GPU, and how fast it encrypts."""

from __future__ import annotations

import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

from gossip.zeromq import CHUNK_BYTES_MAX, PeerAddress, Transport, self_test
from node.clock import Clock
from node.console import size_words
from node.doctor.case import Case
from node.doctor.finding import Finding, fail, warn, well
from node.processgroup import processors
from swarm.errors import UsageError
from swarm.identity import transport_keys
from swarm.machine import LinkChanged, NodeId, Received
from swarm.mixing.compress.forms import encoded_bytes

DISK_BYTES_MIN = 1 << 30
"""Room for the ledger, logs and exported models beside what a round needs."""

SHARED_BYTES_MIN = 64 << 20
"""What containers have by default, and data loaders with worker processes use up at once."""

TRAINING_COPIES = 6
"""Copies of a model that training and averaging hold at once: parameters, gradients, two of Adam's, update, model."""

PYTHON_BYTES = 1 << 30
"""What Python and PyTorch take before there is a model."""

ENCRYPTED_BYTES_S_MIN = 25e6
"""Below this the processor and not the line is what a model waits for."""

CIPHER_BYTES = 24 << 20
CIPHER_S_MAX = 5.0

GPU_S_MAX = 120.0
"""For an import of PyTorch on a machine that is busy."""

_GPU_QUESTION = (
    "import json, sys, torch; d = torch.device(sys.argv[1]); t = torch.ones(8, device=d).sum().item();"
    "c = d.type == 'cuda'; free, total = torch.cuda.mem_get_info(d) if c else (0, 0);"
    "print(json.dumps([torch.cuda.get_device_name(d) if c else d.type, free, total]))"
)


def update_bytes(case: Case) -> int:
    """Return the size of what a site contributes in a round."""
    charter = case.signed.charter
    if charter.codec is None or charter.follows:
        return charter.model_bytes + charter.salt
    return encoded_bytes(charter.codec, charter.task.parameters) + charter.salt


def disk(case: Case) -> list[Finding]:
    """There is room for what rounds keep: two rounds of everybody's updates, four outcomes, and some to spare."""
    charter = case.signed.charter
    need = 2 * len(case.terms.members) * update_bytes(case) + 4 * charter.outcome_bytes
    free = shutil.disk_usage(case.site.folder).free
    text = f"{size_words(free)} free; models in hand need up to {size_words(need)}"
    remedy = "free some space on this disk, or move the folder to a larger one while the node is stopped"
    if free < need:
        return [fail("disk", text, remedy, identifier="SWARM-DISK-FULL")]
    if free < need + DISK_BYTES_MIN:
        text = f"{text}, and the ledger and exported models come on top"
        return [warn("disk", text, remedy, identifier="SWARM-DISK-FULL")]
    return [well("disk", text, free_bytes=free, need_bytes=need)]


def memory(case: Case) -> list[Finding]:
    """There is memory for training and averaging a model of this size."""
    need = (TRAINING_COPIES * case.signed.charter.model_bytes + PYTHON_BYTES) * case.settings.task.processes
    total, available = _memory()
    if total is None or available is None:
        return []
    text = f"{size_words(available)} of {size_words(total)} available; training a model of this size takes about "
    text += size_words(need)
    if total < need:
        return [fail("memory", text, "use a machine, or a container limit, with more memory")]
    if available < need:
        return [warn("memory", text, "stop other programs, or give this one more memory")]
    return [well("memory", text, available_bytes=available, need_bytes=need)]


def _memory() -> tuple[int | None, int | None]:
    """Return (total, available) bytes: the machine's, or those of the control group that this process is in."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None, None
    sizes = {name: int(rest.split()[0]) * 1024 for name, _, rest in (line.partition(":") for line in lines)}
    total, available = sizes.get("MemTotal"), sizes.get("MemAvailable")
    try:
        limit = int(Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii"))
        used = int(Path("/sys/fs/cgroup/memory.current").read_text(encoding="ascii"))
    except (OSError, ValueError):  # No limit, or no control groups.
        return total, available
    return min(limit, total or limit), min(max(limit - used, 0), available or limit)


def shared_memory(case: Case) -> list[Finding]:
    """There is shared memory for data loaders that work in processes of their own."""
    del case
    folder = Path("/dev/shm")  # noqa: S108 - not a place for files of ours: looked at, no more
    if not folder.is_dir():
        return []
    size = shutil.disk_usage(folder).free
    text = f"{size_words(size)} free in {folder}"
    if size <= SHARED_BYTES_MIN:
        remedy = "if the task uses a DataLoader with workers, give the container more: --shm-size=1g, or --ipc=host"
        return [warn("shared memory", text, remedy)]
    return [well("shared memory", text, free_bytes=size)]


def gpu(case: Case) -> list[Finding]:
    """The device that the settings ask for is there, and computes. Asked of PyTorch, in a process of its own."""
    device = case.settings.task.device
    if device == "cpu":
        return []
    try:
        answer = subprocess.run(  # noqa: S603 - our own text, the device as one argument
            [sys.executable, "-c", _GPU_QUESTION, device],
            capture_output=True,
            text=True,
            timeout=GPU_S_MAX,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return [fail("gpu", f"{device} did not answer within {GPU_S_MAX:g} s", "look at its driver with nvidia-smi")]
    if answer.returncode:
        why = (answer.stderr.strip().splitlines() or ["no reason given"])[-1][:200]
        remedy = 'write device = "cpu" below [task], or install PyTorch for this device and its driver'
        return [fail("gpu", f"{device} cannot be used: {why}", remedy, identifier="SWARM-TASK-DEVICE")]
    name, free, total = json.loads(answer.stdout.splitlines()[-1])
    room = f", {size_words(free)} of {size_words(total)} free" if total else ""
    return [well("gpu", f"{device} is there: {name}{room}", free_bytes=int(free))]


def threads(case: Case) -> list[Finding]:
    """Training is not to have more threads than there are processors."""
    asked, there = case.settings.task.threads, processors()
    if asked > there:
        text = f"task.threads is {asked}, and this process may use {there} processors"
        return [warn("processors", text, "write threads = 0 below [task], and PyTorch chooses")]
    return [well("processors", f"{there} for this process", processors=there)]


def cipher(case: Case) -> list[Finding]:
    """Links can be encrypted, by libsodium and not by libzmq's own slow cipher: measured over loopback."""
    del case
    words = self_test()
    try:
        rate = _encrypted_bytes_s()
    except UsageError as error:
        return [warn("encryption", f"{words}; how fast was not found out: {error.message}", error.hint)]
    text = f"{words}; {size_words(int(rate))}/s through the cipher"
    if rate < ENCRYPTED_BYTES_S_MIN:
        remedy = "install pyzmq from its official wheel, which brings libsodium; or this machine was very busy just now"
        return [warn("encryption", text, remedy)]
    return [well("encryption", text, bytes_s=round(rate))]


def _encrypted_bytes_s() -> float:
    """Send chunks from one transport to another in this process, over loopback."""
    clock, nodes = Clock(), (NodeId(b"a" * 32), NodeId(b"b" * 32))
    public, secret = zip(*(transport_keys(os.urandom(32)) for _ in nodes), strict=True)

    def transport(me: int, listen: str | None, endpoint: str) -> Transport:
        other = PeerAddress(node=nodes[1 - me], name="itself", curve_key=public[1 - me], endpoint=endpoint)
        return Transport(
            secret_key=secret[me],
            public_key=public[me],
            listen=listen,
            peers=[other],
            clock=clock.now,
            rng=random.Random(me),  # noqa: S311 - jitter
        )

    here = transport(0, "tcp://127.0.0.1:*", "")
    here.open()
    there = transport(1, None, here.bound_endpoint or "")
    chunk, arrived, sent = bytes(CHUNK_BYTES_MAX), 0, 0
    began, up = clock.now(), False
    try:
        there.open()
        while arrived < CIPHER_BYTES:
            if clock.now() - began > CIPHER_S_MAX:
                if not up:
                    raise UsageError("loopback did not connect", hint="look whether a firewall filters 127.0.0.1")
                break
            for item in there.poll(0.0):
                if isinstance(item, LinkChanged) and item.up and not up:
                    up, began = True, clock.now()
            while up and sent < CIPHER_BYTES and there.send(nodes[0], b"", chunk):
                sent += len(chunk)
            for item in here.poll(0.002):
                if isinstance(item, Received) and item.payload is not None:
                    arrived += len(item.payload)
        return arrived / max(clock.now() - began, 1e-3)
    finally:
        there.close()
        here.close()
