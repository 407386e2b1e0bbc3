"""What every test is kept from: the files of the person who runs them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


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
