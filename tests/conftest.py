"""What every test is kept from: the files of the person who runs them. What many share: PyTorch, imported once."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from node.local import fork_server

# How long an example takes is not a claim: beside other work a machine may take any time.
settings.register_profile("suite", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("suite")


@pytest.fixture(autouse=True)
def trust_file(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Let `swarm ledger` remember what it saw in a file of each test's own."""
    path = tmp_path_factory.mktemp("trust") / "trust.json"
    before = os.environ.get("SWARM_TRUST")
    os.environ["SWARM_TRUST"] = str(path)
    yield path
    if before is None:
        del os.environ["SWARM_TRUST"]
    else:
        os.environ["SWARM_TRUST"] = before


@pytest.fixture
def mount() -> Iterator[Callable[..., Path]]:
    """A function that makes a folder a file system of its own, of a size such as 8m. Only root can.

    Unless it is `busy`, nobody may hold a file open there at the end of the test.
    """
    mounted: list[tuple[Path, list[str]]] = []

    def small(place: Path, size: str, *, busy: bool = False) -> Path:
        place.mkdir()
        command = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place)]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip("only root can mount a small disk")
        mounted.append((place, ["-l"] if busy else []))
        return place

    yield small
    for place, options in mounted:
        subprocess.run(["umount", *options, str(place)], check=True)


@pytest.fixture(scope="session")
def forkserver() -> Iterator[Path]:
    """The socket of a process that forks trainers: starting one takes as long as a few rounds of learning."""
    with fork_server() as path:
        yield path
